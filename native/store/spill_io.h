// SpillIo: reads and writes of one thread on the SSD tier's file, several under way at once. Two kinds with one
// interface: io_uring, and plain pread and pwrite where the kernel or the container doesn't permit io_uring.
//
// Thread rule: one thread uses an object. Buffers are the caller's, and untouched by it between Start and Wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"

namespace hbmesh {

enum class SpillOp : uint32_t { kWrite = 0, kRead = 1 };

// Faults for tests: an errno that this piece ends with instead of being carried out, or 0. Any thread.
using SpillFault = std::function<int(SpillOp op, uint64_t offset, uint64_t bytes)>;

class SpillIo {
 public:
  static constexpr uint32_t kDepth = 8;

  virtual ~SpillIo() = default;
  // Begins to move `bytes` at `offset` of the file. REQUIRES: index < kDepth, and its last piece was waited for.
  virtual void Start(uint32_t index, SpillOp op, uint64_t offset, std::byte* data, uint32_t bytes) = 0;
  // Blocks until the piece has ended; its errno, or 0 when all bytes were moved. At once if nothing was started.
  [[nodiscard]] virtual int Wait(uint32_t index) = 0;
};

// kNotSupported: the kernel or the container doesn't permit io_uring. `file` is borrowed.
[[nodiscard]] Status MakeUringSpillIo(int file, SpillFault fault, std::unique_ptr<SpillIo>* io);
[[nodiscard]] std::unique_ptr<SpillIo> MakePlainSpillIo(int file, SpillFault fault);

}  // namespace hbmesh
