// Goal: a worker takes objects of another one over for good, with what they are like, and pushes nothing out for them;
// whatever fails leaves nothing behind, and says what it was. One that leaves takes nothing new. Method: two real
// sidecars; what their control processes ask of them (kTake, kDrain) comes from the test.
#include <gtest/gtest.h>

#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kPinHard = 2;

class TakeTest : public ::testing::Test {
 protected:
  TakeTest() {
    for (uint32_t i = 0; i < 2; ++i) {
      workers.push_back(std::make_unique<Worker>(
          directory, i + 1, std::vector<std::string>{"--slice_kb=64", "--arena_mb=2", "--replica_percent=50"}));
    }
    Introduce({workers[0]->control.get(), workers[1]->control.get()}, {AddressOf(0), AddressOf(1)});
    setter = std::make_unique<Client>(AddressOf(0));
    getter = std::make_unique<Client>(AddressOf(1));
    source.Fill(77);
    from = setter->MustRegister(0, source);
    to = getter->MustRegister(1, target);
  }
  [[nodiscard]] const std::string& AddressOf(size_t worker) const { return workers[worker]->process.workerAddress(); }
  FakeControl& taker() { return *workers[1]->control; }

  void Set(const std::string& key, std::array<uint64_t, 4> args = {}) {
    const Reply reply = setter->Call(Op::kSetD2H, 0, {Blobs(key, from, 3, 100'000)}, args);
    ASSERT_EQ(reply.results.at(0).code, 0U) << reply.texts[0];
  }
  // From the reader's own memory (member 0), or another one's.
  void ExpectGet(const std::string& key, uint32_t member) {
    std::memset(target.data(), 0, 300'000);
    const Reply reply = getter->Call(Op::kGetH2D, 1, {Blobs(key, to, 3, 100'000)});
    ASSERT_EQ(reply.results.at(0).code, 0U) << reply.texts[0];
    EXPECT_EQ(std::memcmp(source.data(), target.data(), 300'000), 0);
    ASSERT_EQ(reply.paths.size(), 1U);
    EXPECT_EQ(reply.paths[0].member, member);
  }
  layout::TakeRecord RecordOf(const std::string& key, uint32_t pin = 0) {
    const std::lock_guard lock(directory.mutex);
    const FakeDirectory::Known& known = directory.known.at(key);
    return {known.generation, known.bytes, known.locations.at(0).slot, 1, pin, 0};
  }
  // One object of three blobs of 100,000 bytes. The whole reply.
  Message Ask(const std::string& key, const layout::TakeRecord& record) {
    std::vector<std::byte> payload = KeyBatchOf({key});
    const uint32_t ends[2] = {3, 0};
    const uint64_t sizes[3] = {100'000, 100'000, 100'000};
    const auto append = [&](const void* data, size_t bytes) {
      const auto* begin = static_cast<const std::byte*>(data);
      payload.insert(payload.end(), begin, begin + bytes);
    };
    append(ends, sizeof(ends));
    append(sizes, sizeof(sizes));
    append(&record, sizeof(record));
    return taker().Ask(Op::kTake, 1, payload);
  }
  StatusCode Take(const std::string& key, const layout::TakeRecord& record) {
    const Message reply = Ask(key, record);
    EXPECT_EQ(reply.entry.code, 0U);
    uint32_t code = 0;
    EXPECT_GE(reply.payload.size(), sizeof(code));
    std::memcpy(&code, reply.payload.data(), sizeof(code));
    return static_cast<StatusCode>(code);
  }
  std::string Explain(const std::string& key) {
    const Message reply = taker().Ask(Op::kExplain, 1, KeyBatchOf({key}));
    return {reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size()};
  }
  void ExpectSays(const std::string& key, const std::string& text) {
    EXPECT_NE(Explain(key).find(text), std::string::npos) << text << " in " << Explain(key);
  }

  FakeDirectory directory;
  std::vector<std::unique_ptr<Worker>> workers;
  std::unique_ptr<Client> setter;
  std::unique_ptr<Client> getter;
  DeviceMemory source{1 << 20};
  DeviceMemory target{1 << 20};
  uint32_t from = 0;
  uint32_t to = 0;
};

TEST_F(TakeTest, ComesWithWhatItIsLikeAndIsServedFromHere) {
  Set("a", {0, 600'000, kPinHard | layout::kSetChecksum, 0});
  EXPECT_EQ(Take("a", RecordOf("a", kPinHard)), StatusCode::kOk);
  ExpectSays("a", "\"replica\":false");
  ExpectSays("a", "\"pin\":\"hard\"");
  ExpectSays("a", "\"expiresInMilliseconds\"");
  Eventually([&] { return workers[0]->control->Stats().holds == 0; }, "the source is not held any more");
  ExpectGet("a", 0);
  EXPECT_EQ(Take("a", RecordOf("a", kPinHard)), StatusCode::kOk) << "asked again: it is here";
  EXPECT_EQ(taker().Stats().objects, 1U);
}

TEST_F(TakeTest, AReplicaBecomesAnObjectLikeOthers) {
  Set("a");
  ExpectGet("a", 1);
  Eventually([&] { return Explain("a").find("\"replica\":true") != std::string::npos; }, "the copy is there");
  EXPECT_EQ(Take("a", RecordOf("a")), StatusCode::kOk);
  ExpectSays("a", "\"replica\":false");
  EXPECT_EQ(taker().Stats().objects, 1U);
}

TEST_F(TakeTest, NothingIsPushedOutForIt) {
  uint32_t taken = 0;
  for (; taken < 16; ++taken) {
    const std::string key = "k" + std::to_string(taken);
    const uint64_t room = taker().Stats().roomBytes;
    Set(key);
    const StatusCode code = Take(key, RecordOf(key));
    EXPECT_EQ(code, room > 301'000 ? StatusCode::kOk : StatusCode::kNoSpace) << room;
    if (code != StatusCode::kOk) break;
  }
  EXPECT_EQ(taken, 6U);  // 90 percent of 2 MiB
  EXPECT_EQ(taker().Stats().objects, taken);
}

TEST_F(TakeTest, WhatFailsLeavesNothingBehind) {
  Set("a");
  layout::TakeRecord record = RecordOf("a");
  ++record.generation;
  EXPECT_EQ(Take("a", record), StatusCode::kNotFound) << "another version";
  record = RecordOf("a");
  --record.bytes;
  EXPECT_EQ(Take("a", record), StatusCode::kDataInconsistency) << "another shape";
  record = RecordOf("a");
  record.member = 9;
  EXPECT_EQ(Take("a", record), StatusCode::kRpcPeerDead) << "no such member";
  EXPECT_EQ(taker().Ask(Op::kTake, 2, KeyBatchOf({"a", "b"})).entry.code, CodeOf(StatusCode::kInvalid));
  workers[0]->process.Signal(SIGKILL);
  EXPECT_EQ(workers[0]->process.Wait(), -SIGKILL);
  EXPECT_EQ(Take("a", RecordOf("a")), StatusCode::kRpcPeerDead);
  EXPECT_EQ(taker().Stats().objects, 0U);
  EXPECT_EQ(taker().Stats().arenaUsedBytes, 0U);
}

TEST_F(TakeTest, OneThatLeavesTakesNothingNew) {
  Set("a");
  EXPECT_GT(taker().Stats().roomBytes, 0U);
  const Message leaving = taker().Ask(Op::kDrain, 0, {}, {1, 0, 0, 0});
  EXPECT_EQ(leaving.entry.args[0], 0U) << "no set is under way";
  EXPECT_EQ(taker().Stats().roomBytes, 0U);
  EXPECT_EQ(Take("a", RecordOf("a")), StatusCode::kScaling);
  const Reply refused = getter->Call(Op::kSetD2H, 1, {Blobs("b", to, 3, 100'000)});
  EXPECT_EQ(refused.code, StatusCode::kScaling);
  EXPECT_NE(refused.text.find("nothing was set, use another worker"), std::string::npos) << refused.text;
  ExpectGet("a", 1);
  EXPECT_EQ(taker().Stats().objects, 0U) << "no replica either";
  (void)taker().Ask(Op::kDrain, 0, {}, {0, 0, 0, 0});
  EXPECT_EQ(Take("a", RecordOf("a")), StatusCode::kOk);
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
