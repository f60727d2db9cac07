// Goal: what is sent is well formed, and no reply, however broken, leads outside of its bytes.
// Method: named faults for calls; for replies, whole ones that are then damaged at random places, with the seed
// printed.
#include "client/object_codec.h"

#include <gtest/gtest.h>

#include <random>

#include "client/fake_sidecar.h"

namespace hbmesh {
namespace {

using test::Says;

struct SetCall {
  std::vector<std::byte> keys = test::MakeKeyBatch({"a", "bc"});
  std::vector<uint32_t> ends = {1, 3};
  std::vector<uint64_t> pointers = {4096, 8192, 12288};
  std::vector<uint64_t> sizes = {1, 2, 3};

  [[nodiscard]] ObjectCall call() const {
    ObjectCall made;
    made.op = layout::Op::kSetD2H;
    made.keys = keys;
    made.keyCount = 2;
    made.blobEnds = ends;
    made.pointers = pointers;
    made.sizes = sizes;
    return made;
  }
};

TEST(ObjectCall, WellFormed) {
  const SetCall set;
  EXPECT_TRUE(CheckObjectCall(set.call()).ok());
  EXPECT_EQ(DescribeKey(set.call(), 1), "key \"bc\" (number 2)");
  EXPECT_EQ(KeyIndexOfBlob(set.call(), 0), 0U);
  EXPECT_EQ(KeyIndexOfBlob(set.call(), 1), 1U);
  EXPECT_EQ(KeyIndexOfBlob(set.call(), 2), 1U);
}

TEST(ObjectCall, KeysAreEscapedInMessages) {
  SetCall set;
  set.keys = test::MakeKeyBatch({"\"(number 7)", ""});
  EXPECT_EQ(DescribeKey(set.call(), 0), "key \"\\x22(number\\x207)\" (number 1)");
  EXPECT_EQ(DescribeKey(set.call(), 1), "key number 2");
}

TEST(ObjectCall, FaultsAreNamed) {
  const auto expectInvalid = [](const ObjectCall& call, const char* says) {
    const Status status = CheckObjectCall(call);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_TRUE(Says(status.message(), says));
  };
  SetCall set;
  ObjectCall call = set.call();
  call.op = layout::Op::kReserve;
  expectInvalid(call, "not one of a client's");
  call = set.call();
  call.op = layout::Op::kExist;
  expectInvalid(call, "takes no blobs");
  call = set.call();
  call.keyCount = 0;
  expectInvalid(call, "no keys");
  call = set.call();
  call.keyCount = 3;
  expectInvalid(call, "doesn't fit a call with 3 keys");
  call = set.call();
  call.keys = call.keys.first(4);
  expectInvalid(call, "shorter than its header");
  set.ends = {1};
  expectInvalid(set.call(), "2 keys but 1 blob lists");
  set.ends = {0, 3};
  expectInvalid(set.call(), "key \"a\" (number 1) has no blobs");
  set.ends = {2, 2};
  expectInvalid(set.call(), "key \"bc\" (number 2) has no blobs");
  set.ends = {1, 4};
  expectInvalid(set.call(), "has no blobs");
  set.ends = {1, 2};
  expectInvalid(set.call(), "more pointers");
  set.ends = {1, 3};
  set.sizes = {1, 0, 3};
  expectInvalid(set.call(), "blob 0 of key \"bc\" (number 2) has size 0");
  set.sizes = {1, 2};
  expectInvalid(set.call(), "one size for each pointer");
}

// A reply with everything in it: two keys, a path, blob sizes, a message.
std::vector<std::byte> WholeMetaReply() {
  const layout::ObjectReply header{2, 1, 5, 3};
  layout::KeyResult results[2] = {};
  results[1].code = 3;
  results[1].messageBytes = 5;
  const layout::PathRecord path{};
  const uint32_t counts[2] = {1, 2};
  const uint64_t sizes[3] = {10, 20, 30};
  std::vector<std::byte> payload;
  const auto append = [&payload](const void* source, size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(source);
    payload.insert(payload.end(), begin, begin + bytes);
  };
  append(&header, sizeof(header));
  append(results, sizeof(results));
  append(&path, sizeof(path));
  append(counts, sizeof(counts));
  append(sizes, sizeof(sizes));
  append("gone!", 5);
  return payload;
}

TEST(ObjectReply, EveryPartIsFound) {
  const std::vector<std::byte> payload = WholeMetaReply();
  ObjectReplyView view;
  ASSERT_TRUE(DecodeObjectReply(layout::Op::kGetMeta, 0, 2, payload, &view).ok());
  EXPECT_EQ(view.results.size(), 2U);
  EXPECT_EQ(view.results[1].code, 3U);
  EXPECT_EQ(view.paths.size(), 1U);
  EXPECT_EQ(view.blobCounts[1], 2U);
  EXPECT_EQ(view.blobSizes[2], 30U);
  EXPECT_EQ(view.messages, "gone!");
}

TEST(ObjectReply, RefusalOfTheWholeCall) {
  const layout::ObjectReply header{0, 0, 3, 0};
  std::vector<std::byte> payload(sizeof(header) + 3);
  std::memcpy(payload.data(), &header, sizeof(header));
  std::memcpy(payload.data() + sizeof(header), "why", 3);
  ObjectReplyView view;
  ASSERT_TRUE(DecodeObjectReply(layout::Op::kSetD2H, 2, 5, payload, &view).ok());
  EXPECT_EQ(view.messages, "why");
  EXPECT_EQ(DecodeObjectReply(layout::Op::kSetD2H, 0, 5, payload, &view).code(), StatusCode::kDataInconsistency);
  ASSERT_TRUE(DecodeObjectReply(layout::Op::kSetD2H, 2, 5, {}, &view).ok());
  EXPECT_EQ(view.messages, "");
}

TEST(ObjectReply, CutOffAnywhere) {
  const std::vector<std::byte> payload = WholeMetaReply();
  for (size_t bytes = 0; bytes < payload.size(); ++bytes) {
    ObjectReplyView view;
    const Status status = DecodeObjectReply(layout::Op::kGetMeta, 0, 2, std::span(payload).first(bytes), &view);
    EXPECT_EQ(status.code(), StatusCode::kDataInconsistency) << bytes << " bytes";
  }
}

TEST(ObjectReply, DamagedAnywhere) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<std::byte> whole = WholeMetaReply();
  uint64_t sum = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> payload = whole;
    for (uint64_t damage = random() % 4 + 1; damage > 0; --damage) {
      payload[random() % payload.size()] = static_cast<std::byte>(random() % 3 == 0 ? 0xFF : random());
    }
    ObjectReplyView view;
    if (!DecodeObjectReply(layout::Op::kGetMeta, 0, 2, payload, &view).ok()) continue;
    // Whatever was accepted must be readable to its last byte; the sanitizer watches.
    for (const layout::KeyResult& result : view.results) {
      for (const char c : view.messages.substr(result.messageOffset, result.messageBytes))
        sum += static_cast<uint8_t>(c);
    }
    for (const layout::PathRecord& path : view.paths) sum += path.bytes;
    for (const uint64_t size : view.blobSizes) sum += size;
    for (const uint32_t count : view.blobCounts) sum += count;
  }
  EXPECT_NE(sum, 1U);  // keeps the reads
}

std::vector<std::byte> WholeDeviceReply() {
  const layout::DeviceReply header{2, 1, 5, 0};
  const layout::KeyEvent events[2] = {{1, 1, 0, 0, 0, 5, 0}, {0, 2, 3, 0, 2, 3, 64}};
  const layout::PathRecord path{};
  std::vector<std::byte> payload(sizeof(header) + sizeof(events) + sizeof(path) + 5);
  std::memcpy(payload.data(), &header, sizeof(header));
  std::memcpy(payload.data() + sizeof(header), events, sizeof(events));
  std::memcpy(payload.data() + sizeof(header) + sizeof(events), &path, sizeof(path));
  std::memcpy(payload.data() + payload.size() - 5, "gone!", 5);
  return payload;
}

TEST(DeviceReply, EveryPartIsFound) {
  const std::vector<std::byte> payload = WholeDeviceReply();
  DeviceReplyView view;
  ASSERT_TRUE(DecodeDeviceReply(2, payload, &view).ok());
  ASSERT_EQ(view.events.size(), 2U);
  EXPECT_EQ(view.MessageOf(view.events[0]), "gone!");
  EXPECT_EQ(view.MessageOf(view.events[1]), "ne!");
  EXPECT_EQ(view.paths.size(), 1U);
  KeyStages stages(2);
  EXPECT_TRUE(stages.Take(view.events).ok());
  EXPECT_EQ(stages.open(), 1U);
  EXPECT_FALSE(stages.IsOpen(0));
  EXPECT_TRUE(stages.IsOpen(1));
  EXPECT_FALSE(stages.IsOpen(2));
  EXPECT_EQ(stages.Take(view.events).code(), StatusCode::kDataInconsistency);
  ASSERT_TRUE(DecodeDeviceReply(2, {}, &view).ok());
  EXPECT_TRUE(view.events.empty());
}

TEST(DeviceReply, CutOffAnywhere) {
  const std::vector<std::byte> payload = WholeDeviceReply();
  for (size_t bytes = 1; bytes < payload.size(); ++bytes) {
    DeviceReplyView view;
    const Status status = DecodeDeviceReply(2, std::span(payload).first(bytes), &view);
    EXPECT_EQ(status.code(), StatusCode::kDataInconsistency) << bytes << " bytes";
  }
}

TEST(DeviceReply, DamagedAnywhere) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<std::byte> whole = WholeDeviceReply();
  uint64_t sum = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> payload = whole;
    for (uint64_t damage = random() % 4 + 1; damage > 0; --damage) {
      payload[random() % payload.size()] = static_cast<std::byte>(random() % 3 == 0 ? 0xFF : random());
    }
    DeviceReplyView view;
    if (!DecodeDeviceReply(2, payload, &view).ok()) continue;
    KeyStages stages(2);
    const Status taken = stages.Take(view.events);
    EXPECT_LE(stages.open(), 2U);
    EXPECT_TRUE(taken.ok() || taken.code() == StatusCode::kDataInconsistency);
    for (const layout::KeyEvent& event : view.events) {
      for (const char c : view.MessageOf(event)) sum += static_cast<uint8_t>(c);
    }
    for (const layout::PathRecord& path : view.paths) sum += path.bytes;
  }
  EXPECT_NE(sum, 1U);  // keeps the reads
}

}  // namespace
}  // namespace hbmesh
