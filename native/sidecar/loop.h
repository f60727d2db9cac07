// Loop: waits for descriptors, for shared-memory queues, and for time. One thread runs it.
//
// After work it polls the queues for a short time (spin), which is what makes a small request fast; then it tells the
// queues that it sleeps, and waits in epoll. The wake eventfd is shared by all who write to the queues.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "base/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "sidecar/timers.h"

namespace hbmesh::sidecar {

// Waits for a descriptor.
class FdHandler {
 public:
  virtual void OnReady(uint32_t epollEvents) = 0;

 protected:
  ~FdHandler() = default;
};

// What is polled: queues that have no descriptor while the loop is awake.
class LoopWork {
 public:
  // Does what there is to do. False: nothing was there.
  virtual bool Poll() = 0;
  // False: something came; poll first.
  [[nodiscard]] virtual bool PrepareSleep() = 0;
  virtual void EndSleep() = 0;

 protected:
  ~LoopWork() = default;
};

class Loop {
 public:
  Loop(Clock& clock, Timers& timers, uint32_t spinMicros)
      : clock_(clock), timers_(timers), spinNs_(spinMicros * 1000ULL) {}

  [[nodiscard]] Status Open();
  // Eventfd, nonblocking. Valid after Open.
  [[nodiscard]] int wakeFd() const { return wake_.get(); }

  // `handler` is borrowed until Unwatch. Returns the watch's id; 0 when the kernel refuses.
  [[nodiscard]] uint64_t Watch(int fd, FdHandler* handler);
  void Unwatch(uint64_t watch);

  // Runs until Stop.
  void Run(LoopWork& work);
  // From the loop thread.
  void Stop() { stopped_ = true; }

 private:
  // True: something was ready, and is handled or, if it was the wake-up, is to be polled for.
  [[nodiscard]] bool Wait(int timeoutMs);
  void Sleep(LoopWork& work);

  Clock& clock_;
  Timers& timers_;
  const uint64_t spinNs_;
  bool stopped_ = false;
  uint64_t lastWatch_ = 0;
  struct Watched {
    int fd;
    FdHandler* handler;
  };
  std::unordered_map<uint64_t, Watched> watches_;
  Fd epoll_;
  Fd wake_;
};

}  // namespace hbmesh::sidecar
