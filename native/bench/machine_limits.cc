#include "bench/machine_limits.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "base/fd.h"
#include "bench/failure.h"
#include "bench/timed_run.h"

namespace hbmesh::bench {

namespace {

// Two ends that wake each other: Ping asks and waits for the answer, Answer waits for a question and answers it.
class Pair {
 public:
  virtual ~Pair() = default;
  virtual void Ping() = 0;
  virtual void Answer() = 0;
};

void Require(bool holds, const char* doing) {
  if (!holds) throw Failure(StatusCode::kRuntimeError, std::string(doing) + ": " + std::strerror(errno));
}

class EventFds final : public Pair {
 public:
  EventFds() : question_(::eventfd(0, EFD_CLOEXEC)), answer_(::eventfd(0, EFD_CLOEXEC)) {
    Require(question_.valid() && answer_.valid(), "eventfd");
  }
  void Ping() override {
    Raise(question_);
    Await(answer_);
  }
  void Answer() override {
    Await(question_);
    Raise(answer_);
  }

 private:
  static void Raise(const Fd& fd) {
    const uint64_t one = 1;
    Require(::write(fd.get(), &one, sizeof one) == sizeof one, "eventfd");
  }
  static void Await(const Fd& fd) {
    uint64_t count = 0;
    Require(::read(fd.get(), &count, sizeof count) == sizeof count, "eventfd");
  }
  Fd question_;
  Fd answer_;
};

class Loopback final : public Pair {
 public:
  Loopback() {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const where = reinterpret_cast<sockaddr*>(&address);
    Require(::bind(listener.get(), where, length) == 0 && ::listen(listener.get(), 1) == 0 &&
                ::getsockname(listener.get(), where, &length) == 0,
            "listening on loopback");
    asking_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Require(::connect(asking_.get(), where, length) == 0, "connecting over loopback");
    answering_ = Fd(::accept(listener.get(), nullptr, nullptr));
    Require(answering_.valid(), "accepting over loopback");
    const int on = 1;
    for (const Fd* fd : {&asking_, &answering_}) {
      Require(::setsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0, "TCP_NODELAY");
    }
  }
  void Ping() override {
    Send(asking_);
    Receive(asking_);
  }
  void Answer() override {
    Receive(answering_);
    Send(answering_);
  }

 private:
  static void Send(const Fd& fd) {
    const char byte = 1;
    Require(::send(fd.get(), &byte, 1, MSG_NOSIGNAL) == 1, "send");
  }
  static void Receive(const Fd& fd) {
    char byte = 0;
    Require(::recv(fd.get(), &byte, 1, 0) == 1, "recv");
  }
  Fd asking_;
  Fd answering_;
};

class Counter final : public Pair {
 public:
  void Ping() override {
    const uint64_t asked = turn_.load(std::memory_order_relaxed) + 1;
    turn_.store(asked, std::memory_order_release);
    while (turn_.load(std::memory_order_acquire) == asked) __builtin_ia32_pause();
  }
  void Answer() override {
    uint64_t seen = turn_.load(std::memory_order_acquire);
    while (seen % 2 == 0) {
      __builtin_ia32_pause();
      seen = turn_.load(std::memory_order_acquire);
    }
    turn_.store(seen + 1, std::memory_order_release);
  }

 private:
  std::atomic<uint64_t> turn_ = 0;  // odd: asked; release publishes nothing but itself
};

std::unique_ptr<Pair> MakePair(const std::string& kind) {
  if (kind == "eventfd") return std::make_unique<EventFds>();
  if (kind == "tcp") return std::make_unique<Loopback>();
  if (kind == "spin") return std::make_unique<Counter>();
  throw Failure(StatusCode::kInvalid, "there is no round trip \"" + kind + "\"");
}

class PingWork final : public ThreadWork {
 public:
  explicit PingWork(Pair& pair) : pair_(pair) {}
  void Prepare(uint32_t /*iteration*/) override {}
  void Call() override { pair_.Ping(); }

 private:
  Pair& pair_;
};

}  // namespace

std::vector<uint64_t> RoundTrips(const std::string& kind, uint32_t rounds) {
  const std::unique_ptr<Pair> pair = MakePair(kind);
  const std::jthread other([&] {
    for (uint32_t round = 0; round < rounds; ++round) pair->Answer();
  });
  return RunTimed(1, rounds, 0, [&](uint32_t) { return std::make_unique<PingWork>(*pair); }).latenciesNs;
}

}  // namespace hbmesh::bench
