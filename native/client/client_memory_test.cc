// Goal: a client names device memory to the sidecar as it is, registers each segment once, and refuses what is no live
// device memory, naming the key. Method: a sidecar of this test's own that counts registrations.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "client/client_fixture.h"

namespace hbmesh {
namespace {

using test::ClientFixture;
using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

TEST(ClientMemory, SetNamesBlobsByRegionAndOffset) {
  test::Inbox<Message> seen;
  FakeBehaviour behaviour;
  behaviour.onMessage = [&seen](FakeSidecar& self, Message& message) {
    self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
    seen.Put(std::move(message));
  };
  ClientFixture fixture(behaviour);
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t first = fixture.Allocate(1, 4096);
  const uint64_t second = fixture.Allocate(1, 4096);
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Set({second, first + 8}, {4096, 100}, &id, 1).ok());
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].id, id);
  EXPECT_TRUE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kOk);

  const Message message = seen.Wait(1).at(0);
  layout::ObjectRequest request{};
  std::memcpy(&request, message.payload.data(), sizeof(request));
  EXPECT_EQ(request.deviceIndex, 1U);
  ASSERT_EQ(request.blobCount, 2U);
  const std::vector<std::byte> batch = test::MakeKeyBatch({"key0", "key1"});
  ASSERT_EQ(request.keyBatchBytes, batch.size());
  EXPECT_EQ(std::memcmp(message.payload.data() + sizeof(request), batch.data(), batch.size()), 0);
  layout::BlobRecord blobs[2];
  std::memcpy(blobs, message.payload.data() + message.payload.size() - sizeof(blobs), sizeof(blobs));
  EXPECT_EQ(blobs[0].region, 101U);
  EXPECT_EQ(blobs[1].region, 101U);
  EXPECT_EQ(blobs[0].bytes, 4096U);
  EXPECT_EQ(blobs[1].bytes, 100U);
  EXPECT_EQ(blobs[0].offset - blobs[1].offset, second - first - 8);
}

TEST(ClientMemory, RegistersEachSegmentOnce) {
  ClientFixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t small = fixture.Allocate(0, 4096);
  const uint64_t other = fixture.Allocate(0, ClientFixture::kSegmentBytes);
  uint64_t id = 0;
  EXPECT_EQ(fixture.Set({small}, {64}, &id, 0, Registration::kKnownOnly).code(), StatusCode::kNotReady);
  EXPECT_EQ(fixture.sidecar.registrations(), 0);
  ASSERT_TRUE(fixture.Set({small, small + 64}, {64, 64}, &id).ok());
  ASSERT_TRUE(fixture.Set({small}, {4096}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.sidecar.registrations(), 1);
  const std::vector<uint64_t> pointers = {other};
  const std::vector<uint64_t> sizes = {64};
  ASSERT_TRUE(fixture.client->RegisterDeviceMemory(pointers, sizes).ok());
  ASSERT_TRUE(fixture.Set({other}, {64}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.sidecar.registrations(), 2);
  EXPECT_EQ(fixture.completions.Wait(3).size(), 3U);
}

TEST(ClientMemory, ForgetsTheSegmentThatWasUsedLongestAgo) {
  ClientFixture fixture;
  fixture.clientOptions.regionsMax = 2;
  ASSERT_TRUE(fixture.Connect().ok());
  std::vector<uint64_t> segments;
  for (int i = 0; i < 3; ++i) segments.push_back(fixture.Allocate(0, ClientFixture::kSegmentBytes));
  uint64_t id = 0;
  size_t done = 0;
  for (const int used : {0, 1, 0, 2}) {  // 1 is the oldest when 2 comes
    ASSERT_TRUE(fixture.Set({segments[static_cast<size_t>(used)]}, {64}, &id).ok());
    ASSERT_EQ(fixture.completions.Wait(++done).size(), done);
  }
  EXPECT_EQ(fixture.sidecar.registrations(), 3);
  EXPECT_EQ(fixture.sidecar.unregistrations(), 1);
  EXPECT_TRUE(fixture.Set({segments[0]}, {64}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.Set({segments[1]}, {64}, &id, 0, Registration::kKnownOnly).code(), StatusCode::kNotReady);
}

TEST(ClientMemory, NeverForgetsASegmentInUse) {
  FakeBehaviour behaviour;
  behaviour.onMessage = [](FakeSidecar&, Message&) {};  // the first set stays outstanding
  ClientFixture fixture(behaviour);
  fixture.clientOptions.regionsMax = 1;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t used = fixture.Allocate(0, ClientFixture::kSegmentBytes);
  const uint64_t wanted = fixture.Allocate(0, ClientFixture::kSegmentBytes);
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Set({used}, {64}, &id).ok());
  const Status status = fixture.Set({wanted}, {64}, &id);
  EXPECT_EQ(status.code(), StatusCode::kTryAgain);
  EXPECT_TRUE(Says(status.message(), "in use"));
  EXPECT_EQ(fixture.sidecar.unregistrations(), 0);
}

TEST(ClientMemory, RefusesWrongMemoryAndNamesTheKey) {
  ClientFixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t good = fixture.Allocate(0, 4096);
  const uint64_t elsewhere = fixture.Allocate(2, 4096);
  uint64_t onTheStack = 0;
  struct Case {
    const char* name;
    uint64_t pointer;
    uint64_t size;
    const char* says;
  };
  const Case cases[] = {
      {"null", 0, 64, "is not in device memory"},
      {"stack", reinterpret_cast<uint64_t>(&onTheStack), 8, "is not in device memory"},
      {"beyond its segment", good, ClientFixture::kSegmentBytes * 2, "leaves its allocation"},
      {"size that overflows", good, UINT64_MAX, "leaves its allocation"},
      {"pointer near the end of the address space", UINT64_MAX - 8, 64, "is not in device memory"},
      {"size 0", good, 0, "size 0"},
      {"another device", elsewhere, 64, "device 2"},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.name);
    uint64_t id = 0;
    const Status status = fixture.Set({good, bad.pointer}, {64, bad.size}, &id);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_TRUE(Says(status.message(), bad.says));
    EXPECT_TRUE(Says(status.message(), "key \"key1\" (number 2)"));
    EXPECT_EQ(id, 0U);
  }
  uint64_t id = 0;
  const Status noDevice = fixture.Set({good}, {64}, &id, 4);
  EXPECT_EQ(noDevice.code(), StatusCode::kInvalid);
  EXPECT_TRUE(Says(noDevice.message(), "devices are 0 to 3"));
}

// Allocations share a segment, which the sidecar knows as a whole: what it has registered says nothing of what lives.
TEST(ClientMemory, ABlobLiesInOneLiveAllocation) {
  ClientFixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t first = fixture.Allocate(0, 4000);
  const uint64_t second = fixture.Allocate(0, 4096);
  const uint64_t freed = fixture.Allocate(0, 4096);
  ASSERT_EQ(second, first + 4096) << "neighbours in one segment";
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Set({first, second, freed}, {4000, 4096, 4096}, &id).ok());  // now the segment is registered
  ASSERT_EQ(fixture.completions.Wait(1).size(), 1U);
  ASSERT_TRUE(fixture.heap->Free(reinterpret_cast<std::byte*>(freed)).ok());
  struct Case {
    const char* name;
    uint64_t pointer;
    uint64_t size;
    const char* says;  // empty: it is accepted
  };
  const Case cases[] = {
      {"exactly to the end", second, 4096, ""},
      {"inside, to the end", second + 96, 4000, ""},
      {"inside", second + 1, 1, ""},
      {"a byte past the end", second, 4097, "4097 bytes leaves its allocation, which has 4096 bytes"},
      {"inside, a byte past the end", second + 96, 4001, "4001 bytes leaves its allocation, which has 4096 bytes"},
      {"into the neighbour", first, 4097, "4097 bytes leaves its allocation, which has 4000 bytes"},
      {"into the padding", first, 4001, "4001 bytes leaves its allocation, which has 4000 bytes"},
      {"freed", freed, 64, "that is not freed"},
      {"inside of what is freed", freed + 512, 64, "that is not freed"},
      {"never given out", freed + 4096, 64, "is not in device memory"},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    for (const Registration registration : {Registration::kKnownOnly, Registration::kAllowed}) {
      const Status status = fixture.Set({second, each.pointer}, {64, each.size}, &id, 0, registration);
      const std::vector<uint64_t> pointers = {each.pointer};
      const std::vector<uint64_t> sizes = {each.size};
      const Status ahead = fixture.client->RegisterDeviceMemory(pointers, sizes);
      if (*each.says == '\0') {
        EXPECT_TRUE(status.ok()) << status.ToString();
        EXPECT_TRUE(ahead.ok()) << ahead.ToString();
        continue;
      }
      char pointer[32];
      std::snprintf(pointer, sizeof(pointer), "0x%llx", static_cast<unsigned long long>(each.pointer));
      EXPECT_EQ(status.code(), StatusCode::kInvalid);
      EXPECT_TRUE(Says(status.message(), each.says));
      EXPECT_TRUE(Says(status.message(), "key \"key1\" (number 2)"));
      EXPECT_TRUE(Says(status.message(), pointer));
      EXPECT_EQ(ahead.code(), StatusCode::kInvalid);
      EXPECT_TRUE(Says(ahead.message(), pointer));
    }
  }
  EXPECT_EQ(fixture.sidecar.registrations(), 1);
}

}  // namespace
}  // namespace hbmesh
