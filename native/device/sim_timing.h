// SimTiming: when a simulated device of limited speed would have finished a copy, and a thread that delivers
// completions at that time. Only made when a limit or a latency is set.
//
// Thread rule: Reserve from one thread; Deliver from any thread. `deliver` functions are called from the timer's
// thread, or from Deliver if their time has come.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace hbmesh {

class SimTiming {
 public:
  using Clock = std::chrono::steady_clock;

  // `lanes`: devices with a limit of their own, or 1 if all share it. bytesPerSecondMax 0: no limit.
  SimTiming(uint32_t lanes, uint64_t bytesPerSecondMax, std::chrono::microseconds latency);
  // Delivers what is left at once: shutdown waits for no simulated time.
  ~SimTiming();
  SimTiming(const SimTiming&) = delete;
  SimTiming& operator=(const SimTiming&) = delete;

  // Takes the device for as long as the bytes need, after those before; returns when the completion is due.
  [[nodiscard]] Clock::time_point Reserve(uint32_t lane, uint64_t bytes);
  void Deliver(Clock::time_point due, std::function<void()> deliver);

 private:
  void Run();

  const uint64_t bytesPerSecondMax_;
  const std::chrono::microseconds latency_;
  std::vector<Clock::time_point> busyUntil_;  // of each lane; Reserve's thread only
  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<Clock::time_point, std::function<void()>> waiting_;  // guarded by mutex_
  bool stopping_ = false;                                            // guarded by mutex_
  std::thread thread_;                                               // last: it uses everything above
};

}  // namespace hbmesh
