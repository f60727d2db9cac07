// MemoryTable: the memory that a transport lets its peers reach, and who uses it at the moment.
//
// Region numbers count up and are never used again: a peer's old number can't lead to other memory.
// Thread rule: any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "transport/transport.h"

namespace hbmesh {

struct RegisteredMemory {
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  bool writable = false;
  Fd fd;  // a duplicate; invalid if the memory has no descriptor
  uint64_t fdOffset = 0;
};

class MemoryTable : public std::enable_shared_from_this<MemoryTable> {
 public:
  // Keeps a region from being unregistered.
  class Use {
   public:
    Use() = default;
    Use(Use&& other) noexcept = default;
    Use& operator=(Use&& other) noexcept;
    ~Use() { Release(); }
    void Release();
    [[nodiscard]] const RegisteredMemory& memory() const { return *memory_; }

   private:
    friend class MemoryTable;
    std::shared_ptr<MemoryTable> table_;
    std::shared_ptr<RegisteredMemory> memory_;
    uint32_t region_ = 0;
    uint64_t user_ = 0;
  };

  // kInvalid: empty, or a range of addresses that overflows.
  [[nodiscard]] Status Add(std::byte* base, uint64_t bytes, int fd, uint64_t fdOffset, bool writable,
                           MemoryRegion* region);
  // Later uses fail. Returns when those under way have ended.
  void Remove(uint32_t region);
  // The two halves of Remove, for who has to end uses first. AwaitUnused: false after `timeoutMs`; true: it is gone.
  void Retire(uint32_t region);
  [[nodiscard]] bool AwaitUnused(uint32_t region, uint32_t timeoutMs);

  // kNotFound: no such region; kNotAuthorized: a write to read-only memory; kOutOfRange: the range leaves it. `user`:
  // the number of the endpoint whose peer uses it.
  [[nodiscard]] Status Acquire(const RemoteRange& range, bool write, uint64_t user, Use* use, std::byte** address);
  // The region as a whole.
  [[nodiscard]] Status AcquireRegion(uint32_t region, uint64_t user, Use* use);
  // Those who use it at the moment.
  [[nodiscard]] std::vector<uint64_t> UsersOf(uint32_t region);

 private:
  struct Entry {
    std::shared_ptr<RegisteredMemory> memory;
    std::vector<uint64_t> users;  // one for each use
    bool removed = false;
  };

  void ReleaseUse(uint32_t region, uint64_t user);

  std::mutex mutex_;
  std::condition_variable unused_;
  std::map<uint32_t, Entry> entries_;  // guarded by mutex_
  uint32_t next_ = 1;                  // guarded by mutex_
};

// The three checks of Acquire on a region's size and rights; shm makes them on the reader's side. Overflow-safe.
[[nodiscard]] Status CheckRange(const RemoteRange& range, uint64_t regionBytes, bool writable, bool write);
[[nodiscard]] Status UnknownRegion(uint32_t region);

}  // namespace hbmesh
