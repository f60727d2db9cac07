// Goal: whatever a peer sends, only its own connection suffers. Method: raw sockets that say wrong things to a
// listening transport, which afterwards must still serve a well-behaved peer.
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "base/unix_socket.h"
#include "transport/shm_wire.h"
#include "transport/socket_address.h"
#include "transport/tcp_wire.h"
#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

constexpr uint64_t kMemoryBytes = 1 << 20;

class MalformedPeer : public testing::TestWithParam<std::string> {
 protected:
  MalformedPeer() : memory_(kMemoryBytes) {
    options_.handshakeTimeoutMs = 300;
    options_.stallTimeoutMs = 300;
    options_.revokeTimeoutMs = 300;
  }

  void SetUp() override {
    ASSERT_TRUE(CreateTransport(GetParam(), options_, &sink_, &transport_).ok());
    ASSERT_TRUE(transport_->Listen(ListenAddress(GetParam())).ok());
    region_ = memory_.Register(*transport_, true);
    FillPattern(memory_.memory.span(), 1);
  }
  void TearDown() override {
    transport_.reset();  // accepts nobody any more
    sink_.CloseAccepted();
    std::vector<std::byte> before(kMemoryBytes);
    FillPattern(before, 1);
    EXPECT_EQ(std::memcmp(before.data(), memory_.data(), kMemoryBytes), 0) << "a malformed frame wrote to memory";
  }

  // Blocking, gives up after kPatience.
  Fd Dial() {
    Fd socket;
    if (GetParam() == "tcp") {
      SocketAddress address;
      EXPECT_TRUE(ParseSocketAddress(transport_->address(), &address).ok());
      socket = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_EQ(::connect(socket.get(), address.get(), address.bytes), 0);
    } else {
      EXPECT_TRUE(ConnectUnix(transport_->address(), &socket).ok());
    }
    EXPECT_TRUE(SetSocketTimeout(socket.get(), 60'000).ok());
    return socket;
  }
  template <typename Record>
  static void Say(int socket, const Record& record) {
    (void)::send(socket, &record, sizeof record, MSG_NOSIGNAL);
  }
  static void Eventually(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_TRUE(condition());
  }
  // The transport closes the connection (and not the timeout of this test).
  static void ExpectClosed(int socket) {
    std::byte buffer[4096];
    ssize_t got = 0;
    do {
      got = ::recv(socket, buffer, sizeof buffer, 0);
    } while (got > 0);
    EXPECT_TRUE(got == 0 || errno == ECONNRESET || errno == EPIPE) << std::strerror(errno);
  }
  void ExpectStillServes() {
    CollectingSink sink;
    std::unique_ptr<Transport> reader;
    std::unique_ptr<Endpoint> endpoint;
    ASSERT_TRUE(CreateTransport(GetParam(), options_, &sink, &reader).ok());
    ASSERT_TRUE(reader->Connect(transport_->address(), 2, 1, &endpoint).ok());
    ASSERT_EQ(sink.Wait(1).ToString(), Status::Ok().ToString());
    std::vector<std::byte> bytes(1000);
    const LocalPiece piece{bytes.data(), bytes.size()};
    ASSERT_TRUE(endpoint->Read({.region = region_.id, .offset = 5, .bytes = 1000}, {&piece, 1}, 1, 2).ok());
    ASSERT_EQ(sink.Wait(2).ToString(), Status::Ok().ToString());
    EXPECT_EQ(std::memcmp(bytes.data(), memory_.data() + 5, bytes.size()), 0);
  }

  // The connections of an endpoint with one lane, past the handshake.
  struct TcpPeer {
    Fd lane;
    Fd requests;
  };
  TcpPeer DialTcp() {
    TcpPeer peer{Dial(), Dial()};
    tcp::Hello hello{};
    hello.magic = tcp::kMagic;
    hello.version = tcp::kVersion;
    hello.endpoint[0] = ++number_;
    hello.lanes = 1;
    const int sockets[] = {peer.lane.get(), peer.requests.get()};
    for (const int socket : sockets) {
      Say(socket, hello);
      ++hello.lane;
    }
    for (const int socket : sockets) {
      ExpectStep(socket, tcp::Step::kChallenge);
      Say(socket, tcp::Proof{});
    }
    for (const int socket : sockets) ExpectStep(socket, tcp::Step::kAccepted);
    return peer;
  }
  static void ExpectStep(int socket, tcp::Step step) {
    tcp::HelloReply reply{};
    EXPECT_EQ(::recv(socket, &reply, sizeof reply, MSG_WAITALL), static_cast<ssize_t>(sizeof reply));
    EXPECT_EQ(reply.code, 0U);
    EXPECT_EQ(reply.step, static_cast<uint32_t>(step));
  }
  Fd DialShm() {
    Fd socket = Dial();
    Say(socket.get(), shm::Hello{.header = {.type = static_cast<uint32_t>(shm::PacketType::kHello), .region = 0},
                                 .magic = shm::kMagic,
                                 .version = shm::kVersion});
    shm::HelloReply reply{};
    EXPECT_EQ(::recv(socket.get(), &reply, sizeof reply, 0), static_cast<ssize_t>(sizeof reply));
    EXPECT_EQ(reply.code, 0U);
    return socket;
  }
  static tcp::FrameHeader Frame(tcp::FrameType type) {
    tcp::FrameHeader header{};
    header.magic = tcp::kMagic;
    header.type = static_cast<uint16_t>(type);
    return header;
  }

  TransportOptions options_;
  SharedMemory memory_;
  CollectingSink sink_;
  std::unique_ptr<Transport> transport_;
  MemoryRegion region_;
  uint64_t number_ = 0;
};

TEST_P(MalformedPeer, StrangersAndSilentOnesAreClosed) {
  const Fd silent = Dial();
  const Fd stranger = Dial();
  const char request[] = "GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n";
  Say(stranger.get(), request);
  ExpectClosed(stranger.get());
  ExpectStillServes();
  ExpectClosed(silent.get());
}

TEST_P(MalformedPeer, RandomBytesAreClosed) {
  const char* given = std::getenv("HBMESH_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE("HBMESH_SEED=" + std::to_string(seed));
  for (uint64_t round = 0; round < 30; ++round) {
    TcpPeer peer;  // both are closed, whichever has the noise
    Fd socket;
    if (round % 3 == 0) {
      socket = Dial();
    } else if (GetParam() == "shm") {
      socket = DialShm();
    } else {
      peer = DialTcp();
    }
    const int noisy = socket.valid() ? socket.get() : round % 3 == 1 ? peer.lane.get() : peer.requests.get();
    std::vector<std::byte> noise(2000);
    FillPattern(noise, seed + round);
    (void)::send(noisy, noise.data(), noise.size(), MSG_NOSIGNAL);
    ExpectClosed(noisy);
    if (peer.lane.valid()) ExpectClosed(noisy == peer.lane.get() ? peer.requests.get() : peer.lane.get());
  }
  ExpectStillServes();
}

TEST_P(MalformedPeer, AnotherVersionIsToldSo) {
  const Fd socket = Dial();
  if (GetParam() == "tcp") {
    // As long as the first version's was: who speaks another one may have less to say.
    const uint32_t hello[8] = {tcp::kMagic, 99, 1, 0, 1, 0, 0, 1};
    Say(socket.get(), hello);
    tcp::HelloReply reply{};
    ASSERT_EQ(::recv(socket.get(), &reply, sizeof reply, MSG_WAITALL), static_cast<ssize_t>(sizeof reply));
    EXPECT_EQ(reply.code, static_cast<uint32_t>(StatusCode::kNotSupported));
    EXPECT_NE(std::string(reply.text).find("version 99"), std::string::npos);
  } else {
    Say(socket.get(), shm::Hello{.header = {.type = 1, .region = 0}, .magic = shm::kMagic, .version = 99});
    shm::HelloReply reply{};
    ASSERT_EQ(::recv(socket.get(), &reply, sizeof reply, 0), static_cast<ssize_t>(sizeof reply));
    EXPECT_EQ(reply.code, static_cast<uint32_t>(StatusCode::kNotSupported));
    EXPECT_NE(std::string(reply.text).find("version 99"), std::string::npos);
  }
  ExpectClosed(socket.get());
  ExpectStillServes();
}

TEST_P(MalformedPeer, TcpFramesThatBreakTheRulesCloseTheirEndpoint) {
  if (GetParam() != "tcp") GTEST_SKIP() << "frames are those of tcp";
  using tcp::FrameType;
  struct Fault {
    std::string name;
    std::function<void(tcp::FrameHeader&)> spoil;
    bool onLane = true;
  };
  const std::vector<Fault> faults{
      {"magic", [](auto& header) { header.magic = 1; }},
      {"type", [](auto& header) { header.type = 99; }},
      {"payload over the limit",
       [](auto& header) { header = Frame(FrameType::kWrite), header.payloadBytes = UINT32_MAX; }},
      {"read with payload",
       [](auto& header) { header = Frame(FrameType::kRead), header.bytes = 8, header.payloadBytes = 8; }, false},
      {"read of nothing", [](auto& header) { header = Frame(FrameType::kRead); }, false},
      {"read for a lane that there is not",
       [](auto& header) { header = Frame(FrameType::kRead), header.bytes = 8, header.lane = 1; }, false},
      {"read over a lane", [](auto& header) { header = Frame(FrameType::kRead), header.bytes = 8; }},
      {"message over a lane", [](auto& header) { header = Frame(FrameType::kMessage), header.payloadBytes = 8; }},
      {"write over the connection for requests",
       [](auto& header) { header = Frame(FrameType::kWrite), header.bytes = header.payloadBytes = 8; }, false},
      {"magic on the connection for requests", [](auto& header) { header.magic = 1; }, false},
      {"data unasked", [](auto& header) { header = Frame(FrameType::kData), header.payloadBytes = 8; }},
      {"written unasked", [](auto& header) { header = Frame(FrameType::kWritten), header.request = 1ULL << 32; }},
      {"failed unasked", [](auto& header) { header = Frame(FrameType::kFailed), header.code = 3; }},
      {"write of more than announced",
       [](auto& header) { header = Frame(FrameType::kWrite), header.bytes = 4, header.payloadBytes = 8; }},
      {"message over the limit",
       [](auto& header) { header = Frame(FrameType::kMessage), header.payloadBytes = tcp::kMessageBytesMax + 1; },
       false},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    const TcpPeer peer = DialTcp();
    const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
    tcp::FrameHeader header = Frame(FrameType::kMessage);
    fault.spoil(header);
    Say(fault.onLane ? peer.lane.get() : peer.requests.get(), header);
    ExpectClosed(peer.lane.get());
    ExpectClosed(peer.requests.get());
    EXPECT_EQ(sink_.WaitDisconnect(endpoint->id()).code(), StatusCode::kRpcPeerDead);
  }
  ExpectStillServes();
}

TEST_P(MalformedPeer, TcpPeerThatStopsInTheMiddleOfAWriteLosesItsEndpoint) {
  if (GetParam() != "tcp") GTEST_SKIP() << "frames are those of tcp";
  const TcpPeer peer = DialTcp();
  const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
  SharedMemory target(4096);
  const MemoryRegion region = target.Register(*transport_, true);
  tcp::FrameHeader header = Frame(tcp::FrameType::kWrite);
  header.region = region.id;
  header.bytes = header.payloadBytes = 1000;
  Say(peer.lane.get(), header);
  ExpectClosed(peer.lane.get());
  EXPECT_NE(sink_.WaitDisconnect(endpoint->id()).message().find("stall timeout"), std::string::npos);
  transport_->UnregisterMemory(region.id);  // returns: nobody uses it any more
}

// A byte now and then keeps the stall timeout away, and would keep the memory, and who waits for it, for ever.
TEST_P(MalformedPeer, TcpPeerThatDribblesAWriteDoesNotKeepTheMemory) {
  if (GetParam() != "tcp") GTEST_SKIP() << "frames are those of tcp";
  const TcpPeer peer = DialTcp();
  const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
  const TcpPeer other = DialTcp();
  const std::unique_ptr<Endpoint> innocent = sink_.WaitAccepted();
  SharedMemory target(4096);
  const MemoryRegion region = target.Register(*transport_, true);
  tcp::FrameHeader header = Frame(tcp::FrameType::kWrite);
  header.region = region.id;
  header.bytes = header.payloadBytes = 4096;
  Say(peer.lane.get(), header);
  std::atomic<bool> over = false;
  std::thread dribbling([&] {
    pollfd gone{peer.lane.get(), 0, 0};
    while (!over.load() && ::poll(&gone, 1, 20) == 0) Say(peer.lane.get(), std::byte{1});
  });
  // The first byte is there: the write is under way. By the file, since the mapping is the writer's now.
  Eventually([&] {
    std::byte first{};
    return ::pread(target.fd.get(), &first, 1, 0) == 1 && first == std::byte{1};
  });
  transport_->UnregisterMemory(region.id);
  EXPECT_NE(sink_.WaitDisconnect(endpoint->id()).message().find("did not let go of memory region"), std::string::npos);
  over.store(true);
  dribbling.join();
  EXPECT_EQ(sink_.disconnects(innocent->id()), 0);
  ExpectStillServes();
}

// What it asked for is not copied to wait for it: it costs the same few bytes a read, up to the limit.
TEST_P(MalformedPeer, TcpPeerThatTakesNothingMayNotAskForMoreAndMore) {
  if (GetParam() != "tcp") GTEST_SKIP() << "frames are those of tcp";
  options_.stallTimeoutMs = 60'000;
  transport_.reset();
  SetUp();
  const TcpPeer peer = DialTcp();
  const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
  tcp::FrameHeader read = Frame(tcp::FrameType::kRead);
  read.region = region_.id;
  read.bytes = 32 << 10;
  for (; read.request < 4096; ++read.request) Say(peer.requests.get(), read);
  EXPECT_NE(sink_.WaitDisconnect(endpoint->id()).message().find("more requests than are allowed"), std::string::npos);
}

// What is said passes the bytes, however long those wait for a peer that takes none.
TEST_P(MalformedPeer, TcpMessagesDoNotWaitBehindBytes) {
  if (GetParam() != "tcp") GTEST_SKIP() << "lanes with bytes of their own are those of tcp";
  options_.stallTimeoutMs = 60'000;
  transport_.reset();
  SetUp();
  const TcpPeer peer = DialTcp();
  const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
  tcp::FrameHeader read = Frame(tcp::FrameType::kRead);
  read.region = region_.id;
  read.bytes = kMemoryBytes;
  // More than the buffers of a socket hold.
  for (; read.request < 64; ++read.request) Say(peer.requests.get(), read);
  ASSERT_TRUE(endpoint->Send(std::as_bytes(std::span("passed"))).ok());
  tcp::FrameHeader message{};
  char text[sizeof "passed"] = {};
  ASSERT_EQ(::recv(peer.requests.get(), &message, sizeof message, MSG_WAITALL), static_cast<ssize_t>(sizeof message));
  EXPECT_EQ(message.type, static_cast<uint16_t>(tcp::FrameType::kMessage));
  ASSERT_EQ(message.payloadBytes, sizeof text);
  ASSERT_EQ(::recv(peer.requests.get(), text, sizeof text, MSG_WAITALL), static_cast<ssize_t>(sizeof text));
  EXPECT_STREQ(text, "passed");
}

// More connections than are taken are told so; those that are there go on.
TEST_P(MalformedPeer, TcpFloodOfConnectionsEndsAtTheLimit) {
  if (GetParam() != "tcp") GTEST_SKIP() << "connections are those of tcp";
  TransportOptions few = options_;
  few.connectionsMax = 5;
  CollectingSink sink;
  std::unique_ptr<Transport> small;
  ASSERT_TRUE(CreateTransport("tcp", few, &sink, &small).ok());
  ASSERT_TRUE(small->Listen(ListenAddress("tcp")).ok());
  CollectingSink callers;
  std::unique_ptr<Transport> caller;
  ASSERT_TRUE(CreateTransport("tcp", options_, &callers, &caller).ok());
  const auto connect = [&](uint32_t lanes, uint64_t token, std::unique_ptr<Endpoint>* endpoint) {
    EXPECT_TRUE(caller->Connect(small->address(), lanes, token, endpoint).ok());
    return callers.Wait(token);
  };
  std::unique_ptr<Endpoint> first;
  std::unique_ptr<Endpoint> second;
  std::unique_ptr<Endpoint> third;
  EXPECT_EQ(connect(2, 1, &first).ToString(), Status::Ok().ToString());
  const Status refused = connect(2, 2, &second);
  EXPECT_EQ(refused.code(), StatusCode::kTryAgain);
  EXPECT_NE(refused.message().find("with 5 connections"), std::string::npos) << refused.message();
  EXPECT_EQ(connect(1, 3, &third).ToString(), Status::Ok().ToString());
  EXPECT_TRUE(first->Send(std::as_bytes(std::span("still there"))).ok());
  EXPECT_EQ(sink.WaitMessage().bytes.size(), sizeof("still there"));
  first.reset();
  third.reset();
  small.reset();
  sink.CloseAccepted();
}

TEST_P(MalformedPeer, ShmPacketsThatBreakTheRulesCloseTheirEndpoint) {
  if (GetParam() != "shm") GTEST_SKIP() << "packets are those of shm";
  for (const uint32_t type : {0U, 1U, 2U, 4U, 6U, 99U}) {
    SCOPED_TRACE("type " + std::to_string(type));
    const Fd socket = DialShm();
    const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
    Say(socket.get(), shm::PacketHeader{.type = type, .region = 1});
    ExpectClosed(socket.get());
    EXPECT_EQ(sink_.WaitDisconnect(endpoint->id()).code(), StatusCode::kRpcPeerDead);
  }
  ExpectStillServes();
}

// The transport must not map memory that could shrink under it, nor more than there is.
TEST_P(MalformedPeer, ShmMemoryThatIsNotSafeIsRefused) {
  if (GetParam() != "shm") GTEST_SKIP() << "packets are those of shm";
  const Fd socket = DialShm();
  const std::unique_ptr<Endpoint> endpoint = sink_.WaitAccepted();
  const Fd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 8192), 0);
  std::byte local[100];
  const LocalPiece piece{local, sizeof local};
  const auto offer = [&](uint64_t token, int descriptor, uint64_t bytes) {
    EXPECT_TRUE(endpoint->Read({.region = 5, .offset = 0, .bytes = 100}, {&piece, 1}, 0, token).ok());
    shm::PacketHeader question{};
    EXPECT_EQ(::recv(socket.get(), &question, sizeof question, 0), static_cast<ssize_t>(sizeof question));
    EXPECT_EQ(question.type, static_cast<uint32_t>(shm::PacketType::kMapRequest));
    shm::MapReply reply{};
    reply.header = {.type = static_cast<uint32_t>(shm::PacketType::kMapReply), .region = question.region};
    reply.bytes = bytes;
    const std::span<const int> descriptors(&descriptor, descriptor >= 0 ? 1 : 0);
    EXPECT_TRUE(SendPacket(socket.get(), std::as_bytes(std::span(&reply, 1)), descriptors).ok());
    return sink_.Wait(token);
  };
  EXPECT_EQ(offer(1, unsealed.get(), 8192).code(), StatusCode::kDataInconsistency);
  EXPECT_EQ(offer(2, -1, 8192).code(), StatusCode::kDataInconsistency);
  EXPECT_EQ(offer(3, memory_.fd.get(), kMemoryBytes + 1).code(), StatusCode::kDataInconsistency);
  EXPECT_EQ(offer(4, memory_.fd.get(), kMemoryBytes).ToString(), Status::Ok().ToString());
  MemoryRegion region;
  EXPECT_EQ(transport_->RegisterMemory(memory_.data(), 8192, unsealed.get(), 0, false, &region).code(),
            StatusCode::kDataInconsistency);
  EXPECT_EQ(transport_->RegisterMemory(memory_.data(), 8192, -1, 0, false, &region).code(), StatusCode::kNotSupported);
}

INSTANTIATE_TEST_SUITE_P(Transports, MalformedPeer, testing::Values("shm", "tcp"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace hbmesh
