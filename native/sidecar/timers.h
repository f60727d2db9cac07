// Timers of the sidecar's loop. The clock is passed in, so that a test can say what time it is.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/clock.h"

namespace hbmesh::sidecar {

inline constexpr uint64_t kNsPerMs = 1'000'000;
inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

// Names a timer, for Cancel. 0 in `id`: none.
struct TimerId {
  uint64_t deadlineNs = 0;
  uint64_t id = 0;
};

class Timers {
 public:
  explicit Timers(Clock& clock) : clock_(clock) {}

  // `run` is called once from RunDue when the deadline has passed, unless cancelled before.
  TimerId Add(uint64_t deadlineNs, std::function<void()> run) {
    const TimerId timer{deadlineNs, ++lastId_};
    timers_.emplace(std::pair(timer.deadlineNs, timer.id), std::move(run));
    return timer;
  }
  void Cancel(TimerId& timer) {
    if (timer.id != 0) timers_.erase(std::pair(timer.deadlineNs, timer.id));
    timer = {};
  }
  // Runs what is due. True if anything was.
  bool RunDue() {
    bool ran = false;
    while (!timers_.empty() && timers_.begin()->first.first <= clock_.NowNs()) {
      std::function<void()> run = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      run();
      ran = true;
    }
    return ran;
  }
  // Nanoseconds until the next timer is due; UINT64_MAX without timers.
  [[nodiscard]] uint64_t NextInNs() const {
    if (timers_.empty()) return UINT64_MAX;
    const uint64_t now = clock_.NowNs();
    const uint64_t deadline = timers_.begin()->first.first;
    return deadline > now ? deadline - now : 0;
  }

 private:
  Clock& clock_;
  uint64_t lastId_ = 0;
  std::map<std::pair<uint64_t, uint64_t>, std::function<void()>> timers_;
};

}  // namespace hbmesh::sidecar
