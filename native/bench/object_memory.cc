#include "bench/object_memory.h"

#include <cstring>

#include "bench/capi_check.h"

namespace hbmesh::bench {

namespace {

constexpr uint64_t kOddFactor = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio: neighbours get far apart

const uint64_t* WordsAt(uint64_t pointer) { return reinterpret_cast<const uint64_t*>(pointer); }

}  // namespace

ObjectMemory::ObjectMemory(const MemoryShape& shape) : shape_(shape) {
  const size_t ofThread = size_t{shape.keys} * shape.blobs;
  blobBytes_.assign(ofThread, shape.blobBytes);
  for (uint32_t key = 1; key <= shape.keys; ++key) blobEnds_.push_back(key * shape.blobs);
  for (size_t i = 0; i < ofThread * shape.threads; ++i) {
    uint64_t pointer = 0;
    if (const hbmesh_status status = hbmesh_sim_allocate(shape.device, shape.blobBytes, &pointer);
        status != HBMESH_OK) {
      const std::string why = hbmesh_last_message();
      FreeAll();
      throw Failure(static_cast<StatusCode>(status), "device memory: " + why);
    }
    pointers_.push_back(pointer);
  }
}

ObjectMemory::~ObjectMemory() { FreeAll(); }

void ObjectMemory::FreeAll() {
  for (const uint64_t pointer : pointers_) hbmesh_sim_free(pointer);
  pointers_.clear();
}

hbmesh_batch ObjectMemory::Batch(uint32_t thread, const char* const* keys) const {
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  batch.device_index = shape_.device;
  batch.key_count = shape_.keys;
  batch.blob_count = shape_.keys * shape_.blobs;
  batch.keys = keys;
  batch.blob_ends = blobEnds_.data();
  batch.pointers = pointers_.data() + size_t{thread} * batch.blob_count;
  batch.blob_bytes = blobBytes_.data();
  return batch;
}

hbmesh_batch ObjectMemory::Layer(uint32_t index) const {
  hbmesh_batch batch = Batch(0, nullptr);
  batch.key_count = 1;
  batch.blob_count = shape_.blobs;
  batch.pointers += size_t{index} * shape_.blobs;
  return batch;
}

uint64_t ObjectMemory::WordOf(uint64_t seed, size_t blob, uint64_t word) const {
  return seed == 0 ? 0 : (seed * kOddFactor + blob * 0x100000001B3) * kOddFactor + word;
}

void ObjectMemory::Fill(uint64_t seed) {
  const uint64_t words = shape_.blobBytes / sizeof(uint64_t);
  for (size_t blob = 0; blob < pointers_.size(); ++blob) {
    auto* const target = reinterpret_cast<uint64_t*>(pointers_[blob]);
    for (uint64_t word = 0; word < words; ++word) target[word] = WordOf(seed, blob, word);
    const uint64_t last = WordOf(seed, blob, words);
    std::memcpy(target + words, &last, shape_.blobBytes % sizeof(uint64_t));
  }
}

bool ObjectMemory::Holds(uint64_t seed) const {
  const uint64_t words = shape_.blobBytes / sizeof(uint64_t);
  for (size_t blob = 0; blob < pointers_.size(); ++blob) {
    const uint64_t* const bytes = WordsAt(pointers_[blob]);
    for (uint64_t word = 0; word < words; ++word) {
      if (bytes[word] != WordOf(seed, blob, word)) return false;
    }
    const uint64_t last = WordOf(seed, blob, words);
    if (std::memcmp(bytes + words, &last, shape_.blobBytes % sizeof(uint64_t)) != 0) return false;
  }
  return true;
}

uint64_t ObjectMemory::Sum() const {
  uint64_t sum = 0;
  for (const uint64_t pointer : pointers_) {
    const uint64_t* const bytes = WordsAt(pointer);
    for (uint64_t word = 0; word < shape_.blobBytes / sizeof(uint64_t); ++word) sum += bytes[word];
  }
  return sum;
}

}  // namespace hbmesh::bench
