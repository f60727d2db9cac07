#include "bench/link_server.h"

#include <sys/socket.h>

#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "bench/failure.h"
#include "bench/json_line.h"
#include "bench/line_socket.h"
#include "bench/link_memory.h"
#include "bench/order.h"
#include "bench/raw_streams.h"

namespace hbmesh::bench {

namespace {

constexpr uint64_t kMemoryBytesMax = 4ULL << 30;

void Say(const JsonLine& line) {
  std::fputs((line.Finish() + "\n").c_str(), stdout);
  std::fflush(stdout);
}

// Keeps endpoints of peers until the end; what passes is one-sided, so there is nothing to do.
class KeepingSink final : public TransportSink {
 public:
  void OnComplete(uint64_t /*token*/, Status /*status*/) override {}
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override {
    const std::lock_guard lock(mutex_);
    endpoints_.push_back(std::move(endpoint));
  }
  void OnMessage(uint64_t /*endpointId*/, std::span<const std::byte> /*message*/) override {}
  void OnDisconnect(uint64_t /*endpointId*/, Status /*reason*/) override {}
  // Before the transport goes.
  void Clear() {
    const std::lock_guard lock(mutex_);
    endpoints_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;  // guarded by mutex_
};

// Memory behind one transport, as long as the client is there.
class Offer {
 public:
  Offer(const Order& order, const std::string& host)
      : memory_(CheckedBytes(order)), transport_(MakeTransport(order.Text("transport"), 0, &sink_)) {
    const bool sockets = order.Text("transport") != "shm";
    Check(transport_->Listen(sockets ? host + ":0" : ""), "listening for " + order.Text("transport"));
    region_ = memory_.Register(*transport_);
  }
  ~Offer() { sink_.Clear(); }
  [[nodiscard]] std::string Text() const {
    return "ok address=" + transport_->address() + " region=" + std::to_string(region_);
  }
  [[nodiscard]] std::span<std::byte> span() const { return memory_.span(); }

 private:
  [[nodiscard]] static uint64_t CheckedBytes(const Order& order) {
    const uint64_t bytes = order.Number("bytes");
    if (bytes == 0 || bytes > kMemoryBytesMax) {
      throw Failure(StatusCode::kInvalid, "the link may take at most " + std::to_string(kMemoryBytesMax) + " bytes");
    }
    return bytes;
  }

  KeepingSink sink_;
  LinkMemory memory_;
  std::unique_ptr<Transport> transport_;
  uint32_t region_ = 0;
};

// Raw streams come as further connections, until the client's first one ends.
void ServeStreams(const Fd& listener, std::span<std::byte> memory) {
  std::vector<std::jthread> threads;
  for (;;) {
    Fd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!accepted.valid()) return;
    threads.emplace_back([memory, socket = LineSocket(std::move(accepted))]() mutable {
      try {
        std::string line;
        if (socket.ReadLine(&line)) ServeRaw(socket, line, memory);
      } catch (const Failure&) {
        // The client ended in the middle of a stream; its own side says so.
      }
    });
  }
}

void ServeClient(const Fd& listener, LineSocket& control) {
  std::string line;
  if (!control.ReadLine(&line)) return;
  std::unique_ptr<Offer> offer;
  try {
    offer = std::make_unique<Offer>(Order(line), control.LocalHost());
  } catch (const Failure& failure) {
    control.WriteLine(std::string("error ") + failure.what());
    throw;
  }
  control.WriteLine(offer->Text());
  Say(JsonLine().Text("event", "client").Text("asked", line));
  const std::jthread watcher([&] {
    std::string end;
    while (control.ReadLine(&end)) {
    }
    ::shutdown(listener.get(), SHUT_RDWR);
  });
  ServeStreams(listener, offer->span());
}

}  // namespace

void ServeLink(uint16_t port) {
  const Fd listener = ListenOn(port);
  Say(JsonLine().Text("event", "listening").Number("port", PortOf(listener)));
  Fd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!accepted.valid()) throw Failure(StatusCode::kRuntimeError, "accepting a client failed");
  LineSocket control(std::move(accepted));
  ServeClient(listener, control);
}

}  // namespace hbmesh::bench
