#include "transport/memory_table.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

namespace hbmesh {

MemoryTable::Use& MemoryTable::Use::operator=(Use&& other) noexcept {
  if (this != &other) {
    Release();
    table_ = std::move(other.table_);
    memory_ = std::move(other.memory_);
    region_ = other.region_;
    user_ = other.user_;
  }
  return *this;
}

void MemoryTable::Use::Release() {
  if (!table_) return;
  const std::shared_ptr<MemoryTable> table = std::move(table_);
  memory_.reset();
  table->ReleaseUse(region_, user_);
}

Status MemoryTable::Add(std::byte* base, uint64_t bytes, int fd, uint64_t fdOffset, bool writable,
                        MemoryRegion* region) {
  if (base == nullptr || bytes == 0) return {StatusCode::kInvalid, "memory to register is empty"};
  if (bytes > std::numeric_limits<uintptr_t>::max() - reinterpret_cast<uintptr_t>(base)) {
    return {StatusCode::kInvalid, "memory to register leaves the address space: " + std::to_string(bytes) + " bytes"};
  }
  auto memory = std::make_shared<RegisteredMemory>();
  memory->base = base;
  memory->bytes = bytes;
  memory->writable = writable;
  memory->fdOffset = fdOffset;
  if (fd >= 0) {
    memory->fd = Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!memory->fd.valid()) return StatusFromErrno(errno, "duplicating the descriptor of memory to register");
  }
  const std::lock_guard lock(mutex_);
  *region = {.id = next_, .base = base, .bytes = bytes};
  entries_.emplace(next_++, Entry{.memory = std::move(memory), .users = {}});
  return Status::Ok();
}

void MemoryTable::Remove(uint32_t region) {
  Retire(region);
  while (!AwaitUnused(region, 1000)) {
  }
}

void MemoryTable::Retire(uint32_t region) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(region); found != entries_.end()) found->second.removed = true;
}

bool MemoryTable::AwaitUnused(uint32_t region, uint32_t timeoutMs) {
  std::unique_lock lock(mutex_);
  const auto found = entries_.find(region);
  if (found == entries_.end()) return true;
  const auto limit = std::chrono::milliseconds(timeoutMs);
  if (!unused_.wait_for(lock, limit, [&] { return found->second.users.empty(); })) return false;
  entries_.erase(found);
  return true;
}

Status MemoryTable::Acquire(const RemoteRange& range, bool write, uint64_t user, Use* use, std::byte** address) {
  Use taken;
  if (Status status = AcquireRegion(range.region, user, &taken); !status.ok()) return status;
  const RegisteredMemory& memory = taken.memory();
  if (Status status = CheckRange(range, memory.bytes, memory.writable, write); !status.ok()) return status;
  *address = memory.base + range.offset;
  *use = std::move(taken);
  return Status::Ok();
}

Status MemoryTable::AcquireRegion(uint32_t region, uint64_t user, Use* use) {
  Use taken;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(region);
    if (found == entries_.end() || found->second.removed) return UnknownRegion(region);
    found->second.users.push_back(user);
    taken.table_ = shared_from_this();
    taken.memory_ = found->second.memory;
    taken.region_ = region;
    taken.user_ = user;
  }
  *use = std::move(taken);
  return Status::Ok();
}

std::vector<uint64_t> MemoryTable::UsersOf(uint32_t region) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(region);
  return found == entries_.end() ? std::vector<uint64_t>() : found->second.users;
}

void MemoryTable::ReleaseUse(uint32_t region, uint64_t user) {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t>& users = entries_.at(region).users;
  users.erase(std::find(users.begin(), users.end(), user));
  if (users.empty()) unused_.notify_all();
}

Status CheckRange(const RemoteRange& range, uint64_t regionBytes, bool writable, bool write) {
  if (range.offset > regionBytes || range.bytes > regionBytes - range.offset) {
    return {StatusCode::kOutOfRange, std::to_string(range.bytes) + " bytes at offset " + std::to_string(range.offset) +
                                         " leave memory region " + std::to_string(range.region) + ", which has " +
                                         std::to_string(regionBytes) + " bytes"};
  }
  if (write && !writable) {
    return {StatusCode::kNotAuthorized, "memory region " + std::to_string(range.region) +
                                            " is registered for reading only; register it as writable"};
  }
  return Status::Ok();
}

Status UnknownRegion(uint32_t region) {
  return {StatusCode::kNotFound, "memory region " + std::to_string(region) +
                                     " is not registered at the peer, or no longer; ask the peer for its number again"};
}

}  // namespace hbmesh
