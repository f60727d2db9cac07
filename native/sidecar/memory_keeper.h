// MemoryKeeper: a process beside the sidecar that does nothing but hold the memory of its objects, so that it outlives
// sidecar and control process when both are killed at once. The next sidecar of the worker address fetches it.
//
// It is this program under another name (kKeeperName), started with kMemoryFd and kLifeFd. While the sidecar lives it
// waits for the other end of kLifeFd to close; a byte before that says that the sidecar has ended as it should, and the
// keeper ends too. Else it listens on the abstract socket KeeperSocketName(), and gives the memory to the first who
// asks and is of the same user (or root). It ends when nobody has asked for `graceMs`.
//
// It never lets go of the memory for the next sidecar: it stays that one's keeper, and the connection over which it
// gave the memory takes the place of kLifeFd. So the memory outlives a sidecar that is killed at any moment, also
// before it has adopted anything.
//
//   keeper: 'm' with the memory │ sidecar: 'm' │ keeper: 'k' │ sidecar, when it ends as it should: 'q'
//
// A keeper of an earlier release closes the connection instead of 'k': then the sidecar starts one of its own.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

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
  // One that gave its memory to this sidecar, and stays. `connection` as in KeptMemory.
  static MemoryKeeper Of(Fd connection) {
    MemoryKeeper keeper;
    keeper.life_ = std::move(connection);
    return keeper;
  }
  MemoryKeeper() = default;
  MemoryKeeper(MemoryKeeper&&) = default;
  MemoryKeeper& operator=(MemoryKeeper&&) = default;
  // Tells it that the memory is needed no more, and waits for its end.
  ~MemoryKeeper();

 private:
  Fd life_;
  int pid_ = -1;  // of a child; the keeper of an earlier sidecar is none
};

struct KeptMemory {
  Fd memory;      // invalid: there is none
  Fd connection;  // valid: the keeper stays, for whoever holds this (MemoryKeeper::Of)
};

// The memory that a keeper of this address holds, if there is one. `wasKilled`: the sidecar has been gone for so short
// a time that its keeper may not have heard of it yet, and is waited for.
[[nodiscard]] KeptMemory FetchKeptMemory(const std::string& workerAddress, bool wasKilled);

// Is it the same memory?
[[nodiscard]] bool IsSameMemory(int one, int other);

// The keeper process, from its arguments; returns its exit code.
[[nodiscard]] int RunKeeper(int argc, char** argv);

}  // namespace hbmesh::sidecar
