// Clock: time as it is passed in, so that tests can turn it by hand.
#pragma once

#include <chrono>
#include <cstdint>

namespace hbmesh {

// Never goes back. Not the time of day; on one machine it goes on over a restart of the process.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual uint64_t NowNs() const = 0;
  [[nodiscard]] uint64_t NowMs() const { return NowNs() / 1'000'000; }
};

// Thread rule: any thread.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] uint64_t NowNs() const override {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  }
};

// Stands still until it is advanced. Thread rule: one thread.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t startNs = 0) : nowNs_(startNs) {}
  [[nodiscard]] uint64_t NowNs() const override { return nowNs_; }
  void AdvanceNs(uint64_t byNs) { nowNs_ += byNs; }
  void AdvanceMs(uint64_t byMs) { nowNs_ += byMs * 1'000'000; }

 private:
  uint64_t nowNs_;
};

}  // namespace hbmesh
