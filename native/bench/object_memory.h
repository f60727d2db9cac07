// ObjectMemory: device memory of a bench client: for each thread so many keys, each with so many blobs of one size.
// Every blob is an allocation of its own, as layers of a KV cache are. Device memory is simulated.
//
// Thread rule: Batch and Layer from any thread; the rest from one, while no call uses the memory.
#pragma once

#include <cstdint>
#include <vector>

#include "capi/hbmesh.h"

namespace hbmesh::bench {

struct MemoryShape {
  uint32_t device = 0;
  uint32_t threads = 1;
  uint32_t keys = 1;  // of one call
  uint32_t blobs = 1;
  uint64_t blobBytes = 1;
};

class ObjectMemory {
 public:
  // Throws Failure when there is not as much memory; nothing stays allocated then.
  explicit ObjectMemory(const MemoryShape& shape);
  ~ObjectMemory();
  ObjectMemory(const ObjectMemory&) = delete;
  ObjectMemory& operator=(const ObjectMemory&) = delete;

  [[nodiscard]] const MemoryShape& shape() const { return shape_; }
  // The blobs of one thread's calls; `keys` is borrowed, and may be null for layers.
  [[nodiscard]] hbmesh_batch Batch(uint32_t thread, const char* const* keys) const;
  // The blobs of key `index` of thread 0 alone, as a layer to push.
  [[nodiscard]] hbmesh_batch Layer(uint32_t index) const;

  // Every 8 bytes differ from their neighbours, and from those of other threads, keys and blobs. Seed 0: zeros.
  void Fill(uint64_t seed);
  [[nodiscard]] bool Holds(uint64_t seed) const;
  // Reads all of it once; returns a sum, so that nobody leaves the reading out.
  [[nodiscard]] uint64_t Sum() const;

 private:
  [[nodiscard]] uint64_t WordOf(uint64_t seed, size_t blob, uint64_t word) const;
  void FreeAll();

  const MemoryShape shape_;
  std::vector<uint64_t> pointers_;   // of all threads, keys, blobs
  std::vector<uint64_t> blobBytes_;  // of one thread
  std::vector<uint32_t> blobEnds_;   // of one thread
};

}  // namespace hbmesh::bench
