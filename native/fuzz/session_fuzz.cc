// Who connects to a worker's session socket and what it says there: SessionServer, with descriptors of all kinds.
//
// Must hold: who has not greeted as the protocol says is no session; a session has the regions that it was told of and
// no others; memory that could shrink is refused; when the connection ends, all of it is gone.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "base/clock.h"
#include "base/unix_socket.h"
#include "device/sim_device.h"
#include "fuzz/fuzz.h"
#include "sidecar/session_server.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint64_t kBytes = 8192;

class NoSink final : public CompletionSink {
 public:
  void Complete(uint64_t, Status) override {}
};

// The loop of a sidecar that has nothing but sessions. Runs until the connections that were made are closed.
class Server final : private sidecar::LoopWork, private sidecar::SessionListener {
 public:
  Server() {
    options_.workerAddress = "fuzz/" + std::to_string(::getpid());
    options_.devices = 2;
    options_.token = "secret";
    options_.regionsMax = 4;
    options_.regionBytesMax = 3 * kBytes;
    SimOptions sim;
    sim.deviceCount = options_.devices;
    sim.engineThreads = 1;
    FUZZ_CHECK(CreateSimDevices(sim, &sink_, &devices_).ok());
  }

  // A server of its own for each input: a loop runs once.
  void Run(Input& input) {
    sidecar::Timers timers(clock_);
    sidecar::Loop loop(clock_, timers, 0);
    FUZZ_CHECK(loop.Open().ok());
    sidecar::SessionServer server(options_, loop, timers, clock_, devices_, *this);
    FUZZ_CHECK(server.Listen({"fuzz", "tcp=127.0.0.1:1", store_.get()}).ok());
    loop_ = &loop;
    server_ = &server;
    input_ = &input;
    turns_ = 0;
    Connect();
    loop.Run(*this);
    peers_.clear();
    FUZZ_CHECK(sessions_.size() == server.sessions().size());
  }

 private:
  void Connect() {
    Fd made;
    FUZZ_CHECK(ConnectUnix(session::SocketName(options_.workerAddress), &made).ok());
    (void)SetNonBlocking(made.get(), true);
    peers_.push_back(std::move(made));
  }

  // One step of the peers in each turn; the loop looks at its sockets in between.
  bool Poll() override {
    (void)server_->Sweep();
    CheckSessions();
    if (input_->empty() || ++turns_ > 60) {
      if (closing_++ > 2) {
        closing_ = 0;
        loop_->Stop();
      }
      return false;
    }
    Step();
    return false;
  }
  bool PrepareSleep() override {
    SignalLoop();
    return true;
  }
  void EndSleep() override {}
  void SignalLoop() const {
    const uint64_t one = 1;
    (void)!::write(loop_->wakeFd(), &one, sizeof one);
  }
  void OnSessionOpened(sidecar::Session& session) override { FUZZ_CHECK(sessions_.insert(session.id()).second); }
  void OnSessionClosed(sidecar::Session& session) override { FUZZ_CHECK(sessions_.erase(session.id()) == 1); }

  void CheckSessions() const {
    size_t control = 0;
    for (sidecar::Session* session : server_->sessions()) {
      FUZZ_CHECK(session->regions().size() <= options_.regionsMax);
      if (session->kind() == session::Kind::kControl) ++control;
      uint64_t bytes = 0;
      for (const auto& region : session->regions()) {
        if (region == nullptr) continue;
        bytes += region->bytes();
        FUZZ_CHECK(region->bytes() <= kBytes);
        Touch({region->base(), region->bytes()});
      }
      FUZZ_CHECK(bytes <= options_.regionBytesMax);
    }
    FUZZ_CHECK(control <= 1);
  }

  void Step() {
    Input& input = *input_;
    const uint8_t what = input.Byte();
    if (what < 0x10 && peers_.size() < 4) {
      Connect();
    } else if (what < 0x18 && peers_.size() > 1) {
      peers_.pop_back();
    } else {
      Say(what, peers_[what % peers_.size()].get());
    }
  }

  void Say(uint8_t what, int socket) {
    Input& input = *input_;
    Bytes packet;
    const auto add = [&](const auto& record) {
      const auto* first = reinterpret_cast<const std::byte*>(&record);
      packet.assign(first, first + sizeof record - (input.Byte() == 0xFF ? 1 : 0));
    };
    if (what < 0x50) {
      session::Hello hello{static_cast<uint32_t>(session::Type::kHello),
                           session::kMagic,
                           session::kVersion,
                           static_cast<uint32_t>(input.Byte() % 4),
                           1,
                           0,
                           "secret"};
      if (input.Byte() > 0xD0) hello.token[0] = static_cast<char>(input.Byte());
      if (input.Byte() > 0xD0) hello.version = input.Byte();
      add(hello);
    } else if (what < 0xA0) {
      session::RegisterRegion request{};
      request.type = static_cast<uint32_t>(session::Type::kRegisterRegion);
      request.deviceIndex = input.Byte() % 4;
      request.bytes = input.Byte() < 0x80 ? kBytes : input.Number();
      request.keyBytes = static_cast<uint32_t>(input.Number());
      add(request);
    } else if (what < 0xC0) {
      add(session::UnregisterRegion{static_cast<uint32_t>(session::Type::kUnregisterRegion),
                                    static_cast<uint32_t>(input.Number())});
    } else {
      const auto some = input.Some(1 + input.Byte());
      packet.assign(some.begin(), some.end());
    }
    const uint8_t kind = input.Byte();
    const Fd first = Descriptor(kind);
    const Fd second = kind > 0xE0 ? Descriptor(kind / 2) : Fd();
    std::vector<int> numbers;
    for (const Fd* each : {&first, &second}) {
      if (each->valid()) numbers.push_back(each->get());
    }
    if (!packet.empty()) (void)SendPacket(socket, packet, numbers).ok();
  }

  static Fd Descriptor(uint8_t kind) {
    if (kind % 8 == 7) return Fd();
    if (kind % 8 == 6) return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    Fd made(::memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    FUZZ_CHECK(made.valid() && ::ftruncate(made.get(), kBytes) == 0);
    if (kind % 8 == 5) return made;  // could shrink
    FUZZ_CHECK(::fcntl(made.get(), F_ADD_SEALS, F_SEAL_SHRINK | (kind % 8 == 4 ? F_SEAL_FUTURE_WRITE : 0)) == 0);
    return made;
  }

  SteadyClock clock_;
  NoSink sink_;
  Fd store_{::memfd_create("fuzz", MFD_CLOEXEC)};
  sidecar::SidecarOptions options_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<Fd> peers_;
  std::set<uint64_t> sessions_;
  sidecar::Loop* loop_ = nullptr;
  sidecar::SessionServer* server_ = nullptr;
  Input* input_ = nullptr;
  int turns_ = 0;
  int closing_ = 0;
};

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter client;  // greets, registers, unregisters
  client.PutByte(0x20).PutByte(1).PutByte(0).PutByte(0).PutByte(0).PutByte(7);
  for (int i = 0; i < 2; ++i) client.PutByte(0x60).PutByte(0).PutByte(0).PutByte(0).PutByte(0).PutByte(0);
  client.PutByte(0xA0).PutByte(0).PutByte(0).PutByte(7);
  SeedWriter control;
  control.PutByte(0x20).PutByte(2).PutByte(0).PutByte(0).PutByte(0).PutByte(7).PutByte(1).PutByte(0x21).PutByte(2);
  control.PutByte(0).PutByte(0).PutByte(0).PutByte(7).PutByte(0x10);
  SeedWriter stranger;
  stranger.PutByte(0x20).PutByte(1).PutByte(0xFF).PutByte('x').PutByte(0).PutByte(0).PutByte(7);
  SeedWriter junk;
  junk.PutByte(0xC0).PutByte(3).Put(uint32_t{1}).PutByte(6);
  return {client.bytes(), control.bytes(), stranger.bytes(), junk.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const server = new hbmesh::fuzz::Server;
  hbmesh::fuzz::Input input(data, size);
  server->Run(input);
  return 0;
}
