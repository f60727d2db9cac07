#include "bench/timed_run.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <exception>
#include <thread>

namespace hbmesh::bench {

namespace {

using SteadyClock = std::chrono::steady_clock;

struct ThreadTimes {
  uint64_t beginNs = 0;
  uint64_t endNs = 0;
  std::vector<uint64_t> latenciesNs;
  std::exception_ptr failure;
};

void RunThread(ThreadWork& work, uint32_t iterations, ThreadTimes& times) {
  times.beginNs = NowNs();
  try {
    for (uint32_t iteration = 0; iteration < iterations; ++iteration) {
      work.Prepare(iteration);
      const uint64_t begin = NowNs();
      work.Call();
      times.latenciesNs.push_back(NowNs() - begin);
    }
  } catch (...) {
    times.failure = std::current_exception();
  }
  times.endNs = NowNs();
}

}  // namespace

uint64_t NowNs() {
  const auto now = SteadyClock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

TimedRun RunTimed(uint32_t threads, uint32_t iterations, uint64_t atNs,
                  const std::function<std::unique_ptr<ThreadWork>(uint32_t thread)>& make) {
  std::vector<std::unique_ptr<ThreadWork>> works;
  for (uint32_t thread = 0; thread < threads; ++thread) works.push_back(make(thread));
  std::vector<ThreadTimes> times(threads);
  for (ThreadTimes& each : times) each.latenciesNs.reserve(iterations);
  {
    std::barrier start(threads);
    std::vector<std::jthread> running;
    for (uint32_t thread = 0; thread < threads; ++thread) {
      running.emplace_back([&, thread] {
        std::this_thread::sleep_until(SteadyClock::time_point(std::chrono::nanoseconds(atNs)));
        start.arrive_and_wait();
        RunThread(*works[thread], iterations, times[thread]);
      });
    }
  }
  TimedRun run{times[0].beginNs, times[0].endNs, {}};
  for (const ThreadTimes& each : times) {
    if (each.failure) std::rethrow_exception(each.failure);
    run.beginNs = std::min(run.beginNs, each.beginNs);
    run.endNs = std::max(run.endNs, each.endNs);
    run.latenciesNs.insert(run.latenciesNs.end(), each.latenciesNs.begin(), each.latenciesNs.end());
  }
  return run;
}

}  // namespace hbmesh::bench
