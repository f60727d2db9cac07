// MappedMemory: owns a mapping. Below it, memfds that can be shared: made with a fixed size, sealed against resizing,
// so that no peer can shrink them under a reader (which would be SIGBUS).
//
// Thread rule: a MappedMemory belongs to one thread; its bytes to whoever they are given to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh {

class MappedMemory {
 public:
  MappedMemory() = default;
  MappedMemory(MappedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept;
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  ~MappedMemory() { Reset(); }

  // Maps `bytes` of `fd` from `offset` (a multiple of the page size), shared. The descriptor may be closed afterwards.
  // Of huge pages none are set aside for it: BackMemory does that for what is used.
  [[nodiscard]] static Status Map(int fd, uint64_t offset, uint64_t bytes, bool writable, MappedMemory* memory);

  // Makes the kernel back and map every page of the first `bytes` now; contents stay as they are. kOutOfMemory when
  // there isn't enough.
  [[nodiscard]] Status Prefault(uint64_t bytes);
  [[nodiscard]] Status Prefault() { return Prefault(bytes_); }
  void Reset();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::span<std::byte> span() const { return {data_, bytes_}; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

inline constexpr uint64_t kHugePageBytes = 2ULL << 20;

// A memfd of exactly `bytes` zeros, sealed against shrinking, growing and further seals. With huge pages, bytes must be
// a multiple of kHugePageBytes.
[[nodiscard]] Status CreateMemfd(const std::string& name, uint64_t bytes, bool hugePages, Fd* memory);

// Takes pages for a part of such a memfd, from `offset` on. Of huge pages every byte must be backed before it is
// touched: the kernel kills who touches one when none is free. kOutOfMemory, with the remedy: there are too few.
[[nodiscard]] Status BackMemory(int fd, uint64_t offset, uint64_t bytes);

// Checks that memory from elsewhere can't shrink, and tells its size. kDataInconsistency: it could.
[[nodiscard]] Status CheckMemfd(int fd, uint64_t* bytes);

}  // namespace hbmesh
