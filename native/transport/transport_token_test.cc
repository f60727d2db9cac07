// Goal: over tcp only members of a cluster talk to each other; who isn't one is told why, learns nothing, and disturbs
// nobody. Method: listeners and callers with the same, another and no token, and raw sockets that lie in the handshake.
// Every refusal is followed by a read of a member.
#include <fmt/core.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/unix_socket.h"
#include "transport/cluster_token.h"
#include "transport/socket_address.h"
#include "transport/tcp_handshake.h"
#include "transport/tcp_wire.h"
#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

constexpr uint64_t kMemoryBytes = 1 << 16;
constexpr const char* kSecret = "a-token-of-24-characters";

std::shared_ptr<const ClusterToken> TokenOf(const std::string& text) {
  std::shared_ptr<const ClusterToken> token;
  if (!text.empty()) {
    EXPECT_EQ(ClusterToken::Parse(text, "test", &token).ToString(), Status::Ok().ToString());
  }
  return token;
}

// A listener with a token, or none for an empty text, and memory to read.
struct Served {
  SharedMemory memory{kMemoryBytes};
  CollectingSink sink;
  std::unique_ptr<Transport> transport;
  MemoryRegion region;

  explicit Served(const std::string& token) {
    TransportOptions options;
    options.handshakeTimeoutMs = 300;
    options.token = TokenOf(token);
    EXPECT_TRUE(CreateTransport("tcp", options, &sink, &transport).ok());
    EXPECT_TRUE(transport->Listen("127.0.0.1:0").ok());
    region = memory.Register(*transport, true);
    FillPattern(memory.memory.span(), 1);
  }
  ~Served() {
    transport.reset();
    sink.CloseAccepted();
  }
};

// Connects, and reads if that went well: how it ended.
Status ConnectAndRead(Served& served, const std::string& token, uint32_t lanes = 4) {
  CollectingSink sink;
  TransportOptions options;
  options.token = TokenOf(token);
  std::unique_ptr<Transport> caller;
  std::unique_ptr<Endpoint> endpoint;
  EXPECT_TRUE(CreateTransport("tcp", options, &sink, &caller).ok());
  if (Status status = caller->Connect(served.transport->address(), lanes, 1, &endpoint); !status.ok()) return status;
  if (Status status = sink.Wait(1); !status.ok()) return status;
  std::vector<std::byte> bytes(1000);
  const LocalPiece piece{bytes.data(), bytes.size()};
  EXPECT_TRUE(endpoint->Read({.region = served.region.id, .offset = 5, .bytes = 1000}, {&piece, 1}, 1, 2).ok());
  if (Status status = sink.Wait(2); !status.ok()) return status;
  EXPECT_EQ(std::memcmp(bytes.data(), served.memory.data() + 5, bytes.size()), 0);
  return Status::Ok();
}

// A caller that does what it is told to.
class RawCaller {
 public:
  explicit RawCaller(Served& served) {
    SocketAddress address;
    EXPECT_TRUE(ParseSocketAddress(served.transport->address(), &address).ok());
    socket_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket_.get(), address.get(), address.bytes), 0);
    EXPECT_TRUE(SetSocketTimeout(socket_.get(), 60'000).ok());
    hello.magic = tcp::kMagic;
    hello.version = tcp::kVersion;
    hello.lanes = 1;
    hello.flags = tcp::kHasToken;
  }
  template <typename Record>
  void Say(const Record& record) {
    (void)::send(socket_.get(), &record, sizeof record, MSG_NOSIGNAL);
  }
  tcp::HelloReply Hear() {
    tcp::HelloReply reply{};
    EXPECT_EQ(::recv(socket_.get(), &reply, sizeof reply, MSG_WAITALL), static_cast<ssize_t>(sizeof reply));
    heard_.append(reinterpret_cast<const char*>(&reply), sizeof reply);
    return reply;
  }
  // Closed by the listener, and what it still said had no token in it.
  void ExpectClosed() {
    char buffer[4096];
    ssize_t got = 0;
    do {
      got = ::recv(socket_.get(), buffer, sizeof buffer, 0);
      if (got > 0) heard_.append(buffer, static_cast<size_t>(got));
    } while (got > 0);
    EXPECT_TRUE(got == 0 || errno == ECONNRESET || errno == EPIPE) << std::strerror(errno);
    EXPECT_EQ(heard_.find(kSecret), std::string::npos);
  }
  static void ExpectRefused(const tcp::HelloReply& reply, const std::string& text) {
    EXPECT_EQ(reply.step, static_cast<uint32_t>(tcp::Step::kRefused));
    EXPECT_EQ(reply.code, static_cast<uint32_t>(StatusCode::kNotAuthorized));
    EXPECT_NE(std::string(reply.text).find(text), std::string::npos) << reply.text;
  }

  tcp::Hello hello{};

 private:
  Fd socket_;
  std::string heard_;
};

TEST(ClusterTokenOverTcp, MembersTalkWithAsManyLanesAsTheyLike) {
  Served served(kSecret);
  for (const uint32_t lanes : {1U, 2U, 16U}) EXPECT_EQ(ConnectAndRead(served, kSecret, lanes).ToString(), "OK");
}

TEST(ClusterTokenOverTcp, WithoutTokensNobodyIsAsked) {
  Served served("");
  EXPECT_EQ(ConnectAndRead(served, "").ToString(), "OK");
}

TEST(ClusterTokenOverTcp, OthersAreToldWhyAndWhatToDo) {
  const struct {
    const char* listener;
    const char* caller;
    const char* text;
  } cases[] = {
      {kSecret, "another-token-of-this-test", "has another cluster token than this worker"},
      {kSecret, "", "this side asks for a cluster token, and the caller has none"},
      {"", kSecret, "has no cluster token, and this worker has one"},
  };
  for (const auto& each : cases) {
    Served served(each.listener);
    const Status status = ConnectAndRead(served, each.caller);
    EXPECT_EQ(status.code(), StatusCode::kNotAuthorized) << status.ToString();
    EXPECT_NE(status.message().find(each.text), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("the same --cluster_token_file"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(served.transport->address()), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find(kSecret), std::string::npos);
    EXPECT_EQ(served.sink.accepted(), 0U);
    EXPECT_EQ(ConnectAndRead(served, each.listener).ToString(), "OK");
  }
}

TEST(ClusterTokenOverTcp, WrongProofsAreRefused) {
  Served served(kSecret);
  const auto token = TokenOf(kSecret);
  tcp::Challenge first{};
  {
    RawCaller zeros(served);
    zeros.Say(zeros.hello);
    first = zeros.Hear().challenge;
    zeros.Say(tcp::Proof{});
    RawCaller::ExpectRefused(zeros.Hear(), "the caller has another cluster token than this side");
    zeros.ExpectClosed();
  }
  {
    // What the listener proved is of no use to a caller.
    RawCaller mirror(served);
    mirror.Say(mirror.hello);
    const tcp::Challenge challenge = mirror.Hear().challenge;
    EXPECT_NE(std::memcmp(challenge.nonce, first.nonce, sizeof first.nonce), 0);
    tcp::Proof proof{};
    std::copy(std::begin(challenge.proof), std::end(challenge.proof), proof.bytes);
    mirror.Say(proof);
    RawCaller::ExpectRefused(mirror.Hear(), "another cluster token");
    mirror.ExpectClosed();
  }
  {
    // A good proof of an earlier connection.
    RawCaller replay(served);
    replay.Say(replay.hello);
    (void)replay.Hear();
    tcp::Proof proof{};
    ASSERT_TRUE(tcp::CheckListener(token.get(), replay.hello, first, &proof).ok());
    replay.Say(proof);
    RawCaller::ExpectRefused(replay.Hear(), "another cluster token");
    replay.ExpectClosed();
  }
  {
    // A proof for another lane than the one that was announced.
    RawCaller other(served);
    other.Say(other.hello);
    const tcp::Challenge challenge = other.Hear().challenge;
    tcp::Hello hello = other.hello;
    hello.lanes = 2;
    tcp::Proof proof{};
    EXPECT_EQ(tcp::CheckListener(token.get(), hello, challenge, &proof).code(), StatusCode::kNotAuthorized);
  }
  EXPECT_EQ(served.sink.accepted(), 0U);
  EXPECT_EQ(ConnectAndRead(served, kSecret).ToString(), "OK");
}

TEST(ClusterTokenOverTcp, FramesBeforeTheProofAndHalfHandshakesAreClosed) {
  Served served(kSecret);
  RawCaller eager(served);
  eager.Say(eager.hello);
  tcp::FrameHeader frame{};
  frame.magic = tcp::kMagic;
  frame.type = static_cast<uint16_t>(tcp::FrameType::kRead);
  frame.region = served.region.id;
  frame.bytes = 100;
  eager.Say(frame);
  (void)eager.Hear();
  RawCaller::ExpectRefused(eager.Hear(), "another cluster token");
  RawCaller silent(served);
  RawCaller half(served);
  half.Say(half.hello);
  (void)half.Hear();
  half.Say(uint64_t{7});
  EXPECT_EQ(ConnectAndRead(served, kSecret).ToString(), "OK");
  silent.ExpectClosed();
  half.ExpectClosed();
  EXPECT_EQ(ConnectAndRead(served, kSecret).ToString(), "OK");
}

TEST(ClusterTokenOverTcp, AFloodOfHalfHandshakesPushesOutItsOwn) {
  Served served(kSecret);
  std::vector<std::unique_ptr<RawCaller>> flood;
  for (int index = 0; index < 300; ++index) {
    flood.push_back(std::make_unique<RawCaller>(served));
    flood.back()->Say(flood.back()->hello);
  }
  EXPECT_EQ(ConnectAndRead(served, kSecret).ToString(), "OK");
  for (const auto& each : flood) each->ExpectClosed();
}

TEST(ClusterToken, ProofsAreTheseBytes) {
  // printf 'hbmesh tcp caller\0<4 x 01><2 x 02>' | openssl dgst -sha256 -hmac a-token-of-24-characters
  const std::byte said[] = {std::byte{1}, std::byte{1}, std::byte{1}, std::byte{1}};
  const std::byte nonce[] = {std::byte{2}, std::byte{2}};
  std::string text;
  for (const std::byte each : TokenOf(kSecret)->Prove("hbmesh tcp caller", said, nonce)) {
    text += fmt::format("{:02x}", static_cast<unsigned>(each));
  }
  EXPECT_EQ(text, "9829cf9c7f3f4312e46d667234782e98eea11893b5578a17c08cc0e356086473");
}

TEST(ClusterToken, FilesHaveOneTokenOfGoodLength) {
  const auto folder = std::filesystem::temp_directory_path() / ("hbmesh-token-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string path = folder / "token";
  const auto load = [&](const std::string& text) {
    std::ofstream(path) << text;
    std::shared_ptr<const ClusterToken> token;
    return ClusterToken::Load(path, &token);
  };
  for (const std::string& good : {std::string("16-characters-ok"), std::string("  16-characters-ok\r\n"),
                                  std::string(512, 'x'), std::string(512, 'x') + "\n"}) {
    EXPECT_EQ(load(good).ToString(), "OK") << good;
  }
  for (const std::string& bad : {std::string(), std::string("short-15-charac"), std::string("two words-of-a-token"),
                                 std::string(513, 'x'), std::string(100'000, 'x'), std::string("16-characters\x01ok"),
                                 std::string("t\xc3\xb6kent\xc3\xb6kent\xc3\xb6ken"),
                                 std::string("first-of-two-tokens\nsecond-of-two-tokens\n")}) {
    const Status status = load(bad);
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << bad;
    EXPECT_EQ(status.message(), "--cluster_token_file " + path +
                                    " must have one token of 16 to 512 characters without blanks, and nothing else; "
                                    "make one: openssl rand -hex 32");
  }
  std::filesystem::remove_all(folder);
  std::shared_ptr<const ClusterToken> token;
  EXPECT_EQ(ClusterToken::Load(path, &token).message(),
            "--cluster_token_file " + path + " can't be read: No such file or directory");
}

}  // namespace
}  // namespace hbmesh
