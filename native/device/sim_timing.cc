#include "device/sim_timing.h"

#include <algorithm>
#include <utility>

namespace hbmesh {

SimTiming::SimTiming(uint32_t lanes, uint64_t bytesPerSecondMax, std::chrono::microseconds latency)
    : bytesPerSecondMax_(bytesPerSecondMax), latency_(latency), busyUntil_(lanes), thread_([this] { Run(); }) {}

SimTiming::~SimTiming() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

SimTiming::Clock::time_point SimTiming::Reserve(uint32_t lane, uint64_t bytes) {
  const Clock::time_point now = Clock::now();
  if (bytesPerSecondMax_ == 0) return now + latency_;
  const double seconds = static_cast<double>(bytes) / static_cast<double>(bytesPerSecondMax_);
  Clock::time_point& busyUntil = busyUntil_[lane];
  busyUntil =
      std::max(busyUntil, now) + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  return busyUntil + latency_;
}

void SimTiming::Deliver(Clock::time_point due, std::function<void()> deliver) {
  if (due <= Clock::now()) {
    deliver();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    waiting_.emplace(due, std::move(deliver));
  }
  wake_.notify_all();
}

void SimTiming::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (waiting_.empty()) {
      if (stopping_) return;
      wake_.wait(lock);
      continue;
    }
    const auto first = waiting_.begin();
    const Clock::time_point due = first->first;
    if (!stopping_ && Clock::now() < due) {
      wake_.wait_until(lock, due);
      continue;
    }
    const std::function<void()> deliver = std::move(first->second);
    waiting_.erase(first);
    lock.unlock();
    deliver();
    lock.lock();
  }
}

}  // namespace hbmesh
