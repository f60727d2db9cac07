// Goal: the simulated heap gives out memory that never overlaps, takes it back whole, and names every pointer that is
// not its own. Method: cases at the limits, then random allocations compared with a model; HBMESH_SEED repeats a run.
#include "device/sim_heap.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>

namespace hbmesh {
namespace {

std::unique_ptr<SimHeap> MakeHeap(SimHeapOptions options = {}) {
  std::unique_ptr<SimHeap> heap;
  EXPECT_TRUE(SimHeap::Create(options, &heap).ok());
  return heap;
}

SimHeapOptions Small() {
  SimHeapOptions options;
  options.deviceCount = 2;
  options.segmentBytesMin = 1 << 20;
  options.deviceBytesMax = 4 << 20;
  return options;
}

TEST(SimHeap, AllocatesAlignedMemoryInSealedSegments) {
  const auto heap = MakeHeap();
  std::byte* pointer = nullptr;
  ASSERT_TRUE(heap->Allocate(3, 1000, &pointer).ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pointer) % 512, 0U);
  EXPECT_EQ(heap->usedBytes(3), 1024U);
  SimSegment segment;
  ASSERT_TRUE(heap->FindSegment(pointer + 999, &segment).ok());
  EXPECT_EQ(segment.deviceIndex, 3U);
  EXPECT_EQ(segment.bytes, 64ULL << 20);
  EXPECT_LE(segment.base, pointer);
  EXPECT_EQ(::fcntl(segment.fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
  std::byte* large = nullptr;
  ASSERT_TRUE(heap->Allocate(3, 100ULL << 20, &large).ok());
  SimSegment another;
  ASSERT_TRUE(heap->FindSegment(large, &another).ok());
  EXPECT_EQ(another.bytes, 100ULL << 20);
  EXPECT_NE(another.id, segment.id);
}

TEST(SimHeap, CopiesWithinAnAllocationOnly) {
  const auto heap = MakeHeap(Small());
  std::byte* pointer = nullptr;
  ASSERT_TRUE(heap->Allocate(0, 1024, &pointer).ok());
  std::byte bytes[1025];
  std::memset(bytes, 7, sizeof bytes);
  EXPECT_TRUE(heap->CopyIn(pointer, {bytes, 1024}).ok());
  EXPECT_EQ(heap->CopyIn(pointer, {bytes, 1025}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(heap->CopyIn(pointer + 1, {bytes, 1024}).code(), StatusCode::kOutOfRange);
  std::byte back[1024]{};
  EXPECT_TRUE(heap->CopyOut(back, pointer).ok());
  EXPECT_EQ(std::memcmp(back, bytes, sizeof back), 0);
  EXPECT_EQ(heap->CopyOut({bytes, 1025}, pointer).code(), StatusCode::kOutOfRange);
  const Status status = heap->CopyIn(bytes, {back, 1});
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("0x"), std::string::npos) << status.message();
  ASSERT_TRUE(heap->Free(pointer).ok());
  EXPECT_EQ(heap->CopyIn(pointer, {bytes, 1}).code(), StatusCode::kInvalid);
}

TEST(SimHeap, RefusesWhatIsWrong) {
  const auto heap = MakeHeap(Small());
  std::byte* pointer = nullptr;
  Status status = heap->Allocate(2, 10, &pointer);
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("device 2"), std::string::npos);
  EXPECT_EQ(heap->Allocate(0, 0, &pointer).code(), StatusCode::kInvalid);
  EXPECT_EQ(heap->Allocate(0, UINT64_MAX, &pointer).code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(heap->Allocate(0, (4 << 20) + 1, &pointer).code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(pointer, nullptr);
  ASSERT_TRUE(heap->Allocate(0, 4 << 20, &pointer).ok());
  std::byte* more = nullptr;
  status = heap->Allocate(0, 1, &more);
  EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
  EXPECT_NE(status.message().find(std::to_string(4 << 20)), std::string::npos) << status.message();
  EXPECT_TRUE(heap->Allocate(1, 1, &more).ok()) << "the other device has room";
  EXPECT_EQ(heap->Free(pointer + 512).code(), StatusCode::kInvalid);
  EXPECT_TRUE(heap->Free(pointer).ok());
  EXPECT_EQ(heap->Free(pointer).code(), StatusCode::kInvalid);
  EXPECT_EQ(heap->Free(nullptr).code(), StatusCode::kInvalid);
}

TEST(SimHeap, DescribesTheRegionOfAPointer) {
  const auto heap = MakeHeap(Small());
  std::byte* pointer = nullptr;
  ASSERT_TRUE(heap->Allocate(1, 5000, &pointer).ok());
  ExportedRegion region;
  ASSERT_TRUE(heap->Describe(pointer + 100, 4900, &region).ok());
  EXPECT_EQ(region.deviceIndex, 1U);
  EXPECT_EQ(region.handle.bytes, region.regionBytes);
  EXPECT_GE(region.handle.fd, 0);
  EXPECT_EQ(heap->Describe(pointer, region.regionBytes + 1, &region).code(), StatusCode::kInvalid);
  EXPECT_EQ(heap->Describe(pointer, UINT64_MAX, &region).code(), StatusCode::kInvalid);
  std::byte local{};
  EXPECT_EQ(heap->Describe(&local, 1, &region).code(), StatusCode::kInvalid);
}

TEST(SimHeap, FindsTheLiveAllocationOfAPointer) {
  const auto heap = MakeHeap(Small());
  std::byte* first = nullptr;
  std::byte* second = nullptr;
  ASSERT_TRUE(heap->Allocate(0, 1000, &first).ok());
  ASSERT_TRUE(heap->Allocate(0, 512, &second).ok());
  ASSERT_EQ(second, first + 1024) << "neighbours in one segment";
  DeviceAllocation found;
  ASSERT_TRUE(heap->FindAllocation(first + 999, &found).ok());
  EXPECT_EQ(found.base, first);
  EXPECT_EQ(found.bytes, 1000U);
  ASSERT_TRUE(heap->FindAllocation(second, &found).ok());
  EXPECT_EQ(found.base, second);
  EXPECT_EQ(found.bytes, 512U);
  const auto refused = [&](const std::byte* pointer) {
    const Status status = heap->FindAllocation(pointer, &found);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_NE(status.message().find("0x"), std::string::npos) << status.message();
  };
  refused(first + 1000);  // in the padding
  refused(second + 512);  // never given out
  ASSERT_TRUE(heap->Free(first).ok());
  refused(first);
  std::byte local{};
  refused(&local);
  ASSERT_TRUE(heap->Allocate(0, 1024, &first).ok());  // the padding came back too
  EXPECT_EQ(first + 1024, second);
}

// Every allocation holds its own pattern until it is freed; at the end all free ranges have grown together again.
TEST(SimHeap, RandomAllocationsNeverOverlap) {
  const char* given = std::getenv("HBMESH_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE("HBMESH_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto heap = MakeHeap(Small());
  struct Taken {
    uint64_t bytes;
    int mark;
  };
  std::map<std::byte*, Taken> model;
  for (int step = 0; step < 3000; ++step) {
    if (model.empty() || random() % 5 < 3) {
      const uint64_t bytes = 1 + random() % (random() % 10 == 0 ? 400'000 : 5'000);
      std::byte* pointer = nullptr;
      const Status status = heap->Allocate(static_cast<uint32_t>(random() % 2), bytes, &pointer);
      if (!status.ok()) {
        ASSERT_EQ(status.code(), StatusCode::kOutOfMemory) << status.ToString();
        continue;
      }
      std::memset(pointer, step % 251, bytes);
      ASSERT_TRUE(model.emplace(pointer, Taken{bytes, step % 251}).second);
    } else {
      auto victim = model.begin();
      std::advance(victim, static_cast<ptrdiff_t>(random() % model.size()));
      const auto& [pointer, taken] = *victim;
      for (uint64_t index = 0; index < taken.bytes; ++index)
        ASSERT_EQ(pointer[index], static_cast<std::byte>(taken.mark));
      ASSERT_TRUE(heap->Free(pointer).ok());
      model.erase(victim);
    }
  }
  for (const auto& [pointer, taken] : model) ASSERT_TRUE(heap->Free(pointer).ok());
  EXPECT_EQ(heap->usedBytes(0) + heap->usedBytes(1), 0U);
  std::byte* whole = nullptr;
  for (uint32_t count = 0; count < 4; ++count) {
    EXPECT_TRUE(heap->Allocate(0, 1 << 20, &whole).ok()) << "segment " << count << " has not grown together";
  }
}

}  // namespace
}  // namespace hbmesh
