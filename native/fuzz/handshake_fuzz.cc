// Who connects to the tcp transport, and who is connected to: TcpListener with and without a token, ConnectLanes.
//
// Must hold: who has not proved the token is no peer; every connection of a stranger is closed; a caller that is
// answered nonsense says so and connects to nobody.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/unix_socket.h"
#include "fuzz/fuzz.h"
#include "transport/cluster_token.h"
#include "transport/socket_address.h"
#include "transport/tcp_connect.h"
#include "transport/tcp_endpoint.h"
#include "transport/tcp_handshake.h"
#include "transport/tcp_listener.h"

namespace hbmesh::fuzz {
namespace {

class Sink final : public TransportSink {
 public:
  void OnComplete(uint64_t, Status) override {}
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override {
    accepted.fetch_add(1);
    endpoint.reset();
  }
  void OnMessage(uint64_t, std::span<const std::byte>) override {}
  void OnDisconnect(uint64_t, Status) override {}
  std::atomic<uint32_t> accepted{0};
};

TransportOptions OptionsOf(bool token) {
  TransportOptions options;
  options.handshakeTimeoutMs = 50;
  options.connectTimeoutMs = 1000;
  if (token) FUZZ_CHECK(ClusterToken::Parse("a-token-of-at-least-so-many-bytes", "fuzz", &options.token).ok());
  return options;
}

struct Server {
  explicit Server(bool token)
      : options(OptionsOf(token)),
        listener(options, std::make_shared<MemoryTable>(), std::make_shared<TcpLinks>(), &sink),
        guarded(token) {
    SocketAddress any;
    std::string bound;
    FUZZ_CHECK(ParseSocketAddress("127.0.0.1:0", &any).ok() && listener.Start(any, &bound).ok());
    FUZZ_CHECK(ParseSocketAddress(bound, &address).ok());
  }
  Sink sink;
  TransportOptions options;
  TcpListener listener;
  SocketAddress address;
  const bool guarded;
};

Fd Dial(const SocketAddress& address) {
  Fd made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  FUZZ_CHECK(made.valid() && ::connect(made.get(), address.get(), address.bytes) == 0);
  FUZZ_CHECK(SetSocketTimeout(made.get(), 20'000).ok());
  // No port is left waiting after its connection: there are thousands a minute.
  const linger none{1, 0};
  (void)::setsockopt(made.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
  return made;
}

tcp::Hello HelloOf(uint32_t lane, uint32_t lanes, uint32_t flags) {
  tcp::Hello hello{};
  hello.magic = tcp::kMagic;
  hello.version = tcp::kVersion;
  hello.endpoint[0] = 5;
  hello.lane = lane;
  hello.lanes = lanes;
  hello.flags = flags;
  return hello;
}

tcp::HelloReply ReplyOf(uint32_t step, uint32_t code) {
  tcp::HelloReply reply{};
  reply.magic = tcp::kMagic;
  reply.version = tcp::kVersion;
  reply.step = step;
  reply.code = code;
  return reply;
}

Bytes BytesOf(const auto& record) {
  const auto* first = reinterpret_cast<const std::byte*>(&record);
  return {first, first + sizeof record};
}

// What comes next: a record with small numbers in its fields, which is where bounds go wrong, or any bytes.
enum class Part : uint8_t { kHello, kProof, kReply, kAny, kParts };

Bytes PartOf(Input& input) {
  switch (static_cast<Part>(input.Byte() % static_cast<uint8_t>(Part::kParts))) {
    case Part::kHello: {
      const uint8_t lane = input.Byte();
      const uint8_t lanes = input.Byte();
      const uint8_t flags = input.Byte();
      return BytesOf(
          HelloOf(lane % (tcp::kLanesMax + 3), lanes % (tcp::kLanesMax + 3), flags < 0xC0 ? flags % 2 : flags));
    }
    case Part::kProof:
      return BytesOf(tcp::Proof{});
    case Part::kReply: {
      const uint8_t step = input.Byte();
      const uint8_t code = input.Byte();
      tcp::HelloReply reply = ReplyOf(step % 5, code < 0x80 ? 0 : code % 32);
      const size_t text = input.Take<uint16_t>() % (2 * sizeof reply.text);
      std::fill_n(reply.text, std::min(text, sizeof reply.text), 'x');  // half of them without an end
      return BytesOf(reply);
    }
    default: {
      const std::span<const std::byte> some = input.Some(input.Byte());
      return {some.begin(), some.end()};
    }
  }
}

void Call(Server& server, Input& input) {
  const uint32_t before = server.sink.accepted.load();
  const size_t count = 1 + input.Byte() % 2;
  std::vector<Fd> callers;
  for (size_t i = 0; i < count; ++i) {
    callers.push_back(Dial(server.address));
    for (int part = 0; part < 3 && !input.empty(); ++part) {
      const Bytes said = PartOf(input);
      (void)::send(callers.back().get(), said.data(), said.size(), MSG_NOSIGNAL);
    }
    ::shutdown(callers.back().get(), SHUT_WR);
  }
  for (const Fd& caller :
       callers) {  // to the end: the listener closes, at the latest when the handshake's time is over
    char bytes[1024];
    ssize_t got = 0;
    // libFuzzer's alarm interrupts.
    while ((got = ::recv(caller.get(), bytes, sizeof bytes, 0)) > 0 || (got < 0 && errno == EINTR)) {
    }
    FUZZ_CHECK(got == 0 || errno == ECONNRESET);
  }
  if (server.guarded) FUZZ_CHECK(server.sink.accepted.load() == before);
}

// Answers each caller with the same bytes.
class Liar {
 public:
  Liar() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    FUZZ_CHECK(ParseSocketAddress("127.0.0.1:0", &address_).ok());
    FUZZ_CHECK(::bind(listener_.get(), address_.get(), address_.bytes) == 0 && ::listen(listener_.get(), 16) == 0);
    FUZZ_CHECK(::getsockname(listener_.get(), address_.get(), &address_.bytes) == 0);
  }
  void Answer(uint32_t lanes, const TransportOptions& options, std::span<const std::byte> said) {
    std::thread answering([&] {
      std::vector<Fd> taken;
      for (uint32_t lane = 0; lane < tcp::ConnectionsOf(lanes); ++lane) {
        taken.emplace_back(TEMP_FAILURE_RETRY(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
        const linger none{1, 0};
        (void)::setsockopt(taken.back().get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
        (void)::send(taken.back().get(), said.data(), said.size(), MSG_NOSIGNAL);
        ::shutdown(taken.back().get(), SHUT_WR);
        char bytes[1024];
        while (::recv(taken.back().get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
        }
      }
    });
    std::vector<Fd> sockets;
    int pipes[2];
    FUZZ_CHECK(::pipe2(pipes, O_CLOEXEC) == 0);
    const Fd readable(pipes[0]);
    const Fd writable(pipes[1]);
    const Status status = ConnectLanes(address_, lanes, options, readable.get(), &sockets);
    if (options.token) FUZZ_CHECK(!status.ok());
    FUZZ_CHECK(status.ok() == (sockets.size() == tcp::ConnectionsOf(lanes)));
    answering.join();
  }

 private:
  Fd listener_;
  SocketAddress address_;
};

}  // namespace

std::vector<Bytes> Seeds() {
  const auto part = [](Part what) { return static_cast<uint8_t>(what); };
  SeedWriter one;
  one.PutByte(0).PutByte(0).PutByte(part(Part::kHello)).PutByte(0).PutByte(1).PutByte(0).PutByte(part(Part::kProof));
  SeedWriter two;  // a whole endpoint: a lane, and the connection for requests
  two.PutByte(0).PutByte(1);
  for (uint8_t lane = 0; lane < 2; ++lane) {
    two.PutByte(part(Part::kHello)).PutByte(lane).PutByte(1).PutByte(0).PutByte(part(Part::kProof));
    two.PutByte(part(Part::kAny)).PutByte(0);
  }
  SeedWriter guarded;
  guarded.PutByte(1).PutByte(0).PutByte(part(Part::kHello)).PutByte(0).PutByte(1).PutByte(tcp::kHasToken);
  guarded.PutByte(part(Part::kProof));
  SeedWriter raw;
  raw.PutByte(0).PutByte(0).PutByte(part(Part::kAny)).PutByte(sizeof(tcp::Hello)).Put(HelloOf(0, 1, 0));
  raw.PutByte(part(Part::kAny)).PutByte(sizeof(tcp::Proof)).Put(tcp::Proof{});
  const auto reply = [&](SeedWriter& to, tcp::Step step, uint8_t code, uint16_t text) {
    to.PutByte(part(Part::kReply)).PutByte(static_cast<uint8_t>(step)).PutByte(code).Put(text);
  };
  SeedWriter lie;
  lie.PutByte(2).PutByte(0);
  reply(lie, tcp::Step::kChallenge, 0, 0);
  reply(lie, tcp::Step::kAccepted, 0, 0);
  SeedWriter refusal;
  refusal.PutByte(3).PutByte(0);
  reply(refusal, tcp::Step::kChallenge, 0x80 + 19, 1);
  return {one.bytes(), two.bytes(), guarded.bytes(), raw.bytes(), lie.bytes(), refusal.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  static Server* const open = new Server(false);
  static Server* const guarded = new Server(true);
  static Liar* const liar = new Liar;
  Input input(data, size);
  const uint8_t how = input.Byte() % 4;
  if (how < 2) {
    Call(how == 0 ? *open : *guarded, input);
  } else {
    const uint32_t lanes = 1 + input.Byte() % 3;
    Bytes said;
    for (int part = 0; part < 4 && !input.empty(); ++part) {
      const Bytes next = PartOf(input);
      said.insert(said.end(), next.begin(), next.end());
    }
    liar->Answer(lanes, how == 2 ? open->options : guarded->options, said);
  }
  return 0;
}
