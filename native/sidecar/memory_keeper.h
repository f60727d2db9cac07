// MemoryKeeper: a process beside the sidecar that does nothing but hold the memory of its objects, so that it outlives
// sidecar and control process when both are killed at once. The next sidecar of the worker address fetches it.
//
// It is this program under another name (kKeeperName), started with kMemoryFd and kLifeFd. While the sidecar lives it
// waits for the other end of kLifeFd to close; a byte before that says that the sidecar has ended as it should, and the
// keeper ends too. Else it listens on the abstract socket KeeperSocketName(), gives the memory to the first who
// asks and is of the same user (or root), and ends; or when nobody has asked for `graceMs`.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh::sidecar {

inline constexpr const char* kKeeperName = "hbmesh-keeper";

[[nodiscard]] std::string KeeperSocketName(const std::string& workerAddress);

class MemoryKeeper {
 public:
  // Starts it; `memoryFd` is borrowed. Must be destroyed when the sidecar ends as it should.
  [[nodiscard]] static Status Start(const std::string& workerAddress, int memoryFd, uint32_t graceMs,
                                    MemoryKeeper* keeper);
  MemoryKeeper() = default;
  MemoryKeeper(MemoryKeeper&&) = default;
  MemoryKeeper& operator=(MemoryKeeper&&) = default;
  // Tells it that the memory is needed no more, and waits for its end.
  ~MemoryKeeper();

 private:
  Fd life_;
  int pid_ = -1;
};

// The memory that a keeper of this address holds, if there is one; it ends then. Invalid: there is none. `wasKilled`:
// the sidecar has been gone for so short a time that its keeper may not have heard of it yet, and is waited for.
[[nodiscard]] Fd FetchKeptMemory(const std::string& workerAddress, bool wasKilled);

// The keeper process, from its arguments; returns its exit code.
[[nodiscard]] int RunKeeper(int argc, char** argv);

}  // namespace hbmesh::sidecar
