// LogLimit: how many lines of one kind a log gets. What others can cause as often as they like (refusals) must not fill
// a disk: so many lines in each window of time, and the next one says how many were left out.
//
// Thread rule: one thread, or guarded by the owner.
#pragma once

#include <cstdint>
#include <string>

namespace hbmesh {

class LogLimit {
 public:
  static constexpr uint32_t kLinesMax = 10;
  static constexpr uint64_t kWindowNs = 60'000'000'000;

  // True: write the line, with `*leftOut` appended: empty, or how many lines before it were left out.
  [[nodiscard]] bool Allow(uint64_t nowNs, std::string* leftOut) {
    if (lines_ == 0 || nowNs - windowStartNs_ >= kWindowNs) {
      windowStartNs_ = nowNs;
      lines_ = 0;
    }
    if (lines_ == kLinesMax) {
      ++leftOut_;
      return false;
    }
    ++lines_;
    *leftOut = leftOut_ == 0 ? "" : " (" + std::to_string(leftOut_) + " such lines before this one were left out)";
    leftOut_ = 0;
    return true;
  }

 private:
  uint64_t windowStartNs_ = 0;
  uint32_t lines_ = 0;
  uint64_t leftOut_ = 0;
};

}  // namespace hbmesh
