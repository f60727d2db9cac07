// Batch calls of the bench client: set, get, delete, exist, meta, devmset, devmget, devdelete, devlocaldelete,
// subscribe, each on keys that are numbered by iteration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/object_memory.h"
#include "bench/timed_run.h"
#include "capi/hbmesh.h"

namespace hbmesh::bench {

// Keys of call `iteration` of a thread: prefix, iteration, "_", number in the call, "_", the thread's suffix.
struct KeyNames {
  std::string prefix;
  std::vector<std::string> suffixes;  // one a thread
};

struct CallPlan {
  std::string op;
  hbmesh_client* client = nullptr;
  const ObjectMemory* memory = nullptr;
  KeyNames names;
  uint32_t iterations = 1;
  uint32_t multiplier = 1;  // the same calls so many times over
  uint32_t timeoutMs = 0;   // of gets and subscriptions
  uint32_t shareReplica = 0;
  uint64_t atNs = 0;
};

// What carried the bytes: one for each transport, source and number of lanes.
struct PathSum {
  hbmesh_path path;  // bytes and nanoseconds are sums
  uint64_t calls;
};

// The keys of one call, and pointers to them.
class CallKeys {
 public:
  CallKeys(const KeyNames& names, uint32_t thread, uint32_t count) : names_(names), thread_(thread), texts_(count) {}
  [[nodiscard]] const char* const* Name(uint32_t iteration);

 private:
  const KeyNames& names_;
  const uint32_t thread_;
  std::vector<std::string> texts_;
  std::vector<const char*> pointers_;
};

// Throws Failure for an op that is none, and when a key's status is not OK.
[[nodiscard]] TimedRun RunCalls(const CallPlan& plan, std::vector<PathSum>* paths);

}  // namespace hbmesh::bench
