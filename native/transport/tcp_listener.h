// TcpListener: accepts peers, the server's half of the handshake. One thread waits for new connections and for the
// Hellos of those that have not said one yet; it never waits for a single peer, and what a peer may occupy is bounded
// in number and in time.
//
// Thread rule: Start and the destructor from the loop; endpoints are announced from the listener's thread.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/log_limit.h"
#include "base/status.h"
#include "transport/memory_table.h"
#include "transport/socket_address.h"
#include "transport/tcp_wire.h"
#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

class TcpLinks;

class TcpListener {
 public:
  TcpListener(const TransportOptions& options, std::shared_ptr<MemoryTable> memory, std::shared_ptr<TcpLinks> links,
              TransportSink* sink);
  // Closes connections in handshake. Endpoints that were announced live on.
  ~TcpListener();

  // Binds and starts to accept. *bound is the address with the real port.
  [[nodiscard]] Status Start(const SocketAddress& address, std::string* bound);

 private:
  using Clock = std::chrono::steady_clock;

  // A connection whose handshake isn't done, or one whose endpoint still lacks some.
  struct Pending {
    Fd socket;
    SocketAddress peer;
    Clock::time_point deadline;
    tcp::Hello hello{};
    tcp::Challenge challenge{};
    tcp::Proof proof{};
    bool challenged = false;  // hello is whole, and answered
    bool proved = false;
    bool refused = false;  // stays until it has closed, so that the refusal reaches it
    size_t have = 0;       // bytes of hello, then of proof
  };
  using PendingList = std::list<Pending>;

  void Run();
  // False: there is somebody, but no descriptor for him.
  [[nodiscard]] bool AcceptAll();
  // False: the connection is to be dropped.
  [[nodiscard]] bool Receive(Pending& pending);
  [[nodiscard]] bool TakeHello(Pending& pending);
  [[nodiscard]] bool TakeProof(Pending& pending);
  void TryAssemble(const tcp::Hello& hello);
  void Announce(const tcp::Hello& hello, std::vector<PendingList::iterator>& lanes);
  void Refuse(Pending& pending, const Status& status);

  const TransportOptions options_;
  const std::shared_ptr<MemoryTable> memory_;
  const std::shared_ptr<TcpLinks> links_;
  TransportSink* const sink_;
  // Endpoints that live, and their connections; relaxed, they only bound them.
  struct Accepted {
    std::atomic<uint32_t> endpoints{0};
    std::atomic<uint32_t> connections{0};
  };
  std::shared_ptr<Accepted> accepted_ = std::make_shared<Accepted>();
  Fd listener_;
  Fd stop_;              // eventfd
  PendingList pending_;  // the thread's only, oldest first
  LogLimit refusals_;    // the thread's only
  std::thread thread_;
};

}  // namespace hbmesh
