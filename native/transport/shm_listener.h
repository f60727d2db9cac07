// ShmListener: accepts peers of this host. One thread; it never waits for a single peer, and what peers in handshake
// may occupy is bounded in number and in time.
//
// Thread rule: Start and the destructor from the loop; endpoints are announced from the listener's thread.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "base/fd.h"
#include "base/log_limit.h"
#include "base/status.h"
#include "transport/shm_endpoint.h"

namespace hbmesh {

class ShmListener {
 public:
  // `made` is told of each link before its endpoint is announced.
  ShmListener(std::shared_ptr<ShmShared> shared, std::function<void(const std::shared_ptr<ShmLink>&)> made);
  ~ShmListener();

  [[nodiscard]] Status Start(const std::string& name);

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    Fd socket;
    std::string peer;
    Status admitted;  // why its Hello is to be refused, if it is
    Clock::time_point deadline;
    bool refused = false;  // stays until it has closed, so that the refusal reaches it
  };

  void Run();
  // False: there is somebody, but no descriptor for him.
  [[nodiscard]] bool AcceptAll();
  // False: it said its Hello or broke a rule, and is no longer pending.
  [[nodiscard]] bool StillPending(Pending& pending);
  void Refuse(Pending& pending, const Status& status);

  const std::shared_ptr<ShmShared> shared_;
  const std::function<void(const std::shared_ptr<ShmLink>&)> made_;
  const std::shared_ptr<std::atomic<uint32_t>> accepted_;  // endpoints that live; relaxed, it only bounds them
  Fd listener_;
  Fd stop_;                     // eventfd
  std::list<Pending> pending_;  // the thread's only, oldest first
  LogLimit refusals_;           // the thread's only
  std::thread thread_;
};

}  // namespace hbmesh
