// Goal: a set that ends in its middle frees what it took, and one whose owner may have committed it keeps the bytes
// until that is known. Method: a real sidecar process; copies are slowed or fail, commits get no answer, the control
// process dies; the arena's usage and the answers are looked at.
#include <cstddef>
#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kSkip = 0;
constexpr uint64_t kFail = 1;
constexpr uint64_t kReplace = 2;

void ExpectDoubt(const Reply& reply, StatusCode code) {
  ASSERT_EQ(reply.code, StatusCode::kOk) << reply.text;
  ASSERT_EQ(reply.results.size(), 1U);
  EXPECT_EQ(reply.results[0].code, CodeOf(code)) << reply.texts[0];
  EXPECT_NE(reply.texts[0].find("it may become visible"), std::string::npos) << reply.texts[0];
}

class SetEndTest : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Modes, SetEndTest, ::testing::Values(kSkip, kReplace),
                         [](const auto& each) { return each.param == kReplace ? "Replace" : "Skip"; });

// A set that replaces commits when its bytes are there; any other one tells its owner at once, and takes it back.
void ExpectNothingCommitted(Worker& worker, uint64_t mode) {
  if (mode == kReplace) {
    EXPECT_EQ(worker.control->Asked(Op::kCommit), 0) << "nothing of it was committed";
  } else {
    Eventually([&] { return worker.control->Asked(Op::kForgetLocations) > 0; }, "the owner is told");
    EXPECT_EQ(worker.control->Asked(Op::kReserve), 0);
  }
}

TEST_P(SetEndTest, ClientKilledWhileItsBytesAreCopiedLeavesNothing) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--sim_bandwidth_mb_per_s=20"});
  DeviceMemory memory(8 << 20);
  {
    Client client(worker.process.workerAddress());
    (void)client.Submit(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 8, 1 << 20)},
                        {GetParam(), 0, 0, 0});
    worker.control->WaitAsked(GetParam() == kReplace ? Op::kReserve : Op::kCommit, 1);
    // The control process answers one message after the other: the reservation was answered before this.
    EXPECT_GT(worker.control->Stats().arenaUsedBytes, 0U);
    client.Die();
  }
  Eventually([&] { return worker.control->Stats().arenaUsedBytes == 0; },
             "the memory of the dead client's set is free");
  EXPECT_EQ(worker.control->Stats().objects, 0U);
  EXPECT_EQ(worker.control->Stats().sessions, 0U);
  ExpectNothingCommitted(worker, GetParam());
}

TEST_P(SetEndTest, CopyThatFailsFreesTheMemoryAndSaysWhy) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--sim_fail_every_nth=1"});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  const Reply reply =
      client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 4096), Blobs("b", region, 1, 4096)}, {GetParam(), 0, 0, 0});
  ASSERT_EQ(reply.code, StatusCode::kOk) << reply.text;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NE(reply.results[i].code, 0U);
    EXPECT_FALSE(reply.texts[i].empty());
  }
  ExpectNothingCommitted(worker, GetParam());
  EXPECT_EQ(worker.control->Stats().arenaUsedBytes, 0U);
  EXPECT_EQ(worker.control->Stats().objects, 0U);
}

// The caller's memory is its own again with the answer: also where no key needs the bytes any more.
TEST_P(SetEndTest, IsAnsweredWhenItsMemoryIsNotReadAnyMore) {
  FakeDirectory directory;
  directory.Add("a", {99, 8 << 20, {{7, 1}}, 0, 0});
  Worker worker(directory, 1, {"--sim_bandwidth_mb_per_s=20"});
  if (GetParam() == kReplace) worker.control->Refuse(Op::kReserve, StatusCode::kTryAgain, 0);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(8 << 20);
  const Reply reply =
      client.Call(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 8, 1 << 20)}, {GetParam(), 0, 0, 0});
  ASSERT_EQ(reply.results.size(), 1U) << reply.text;
  if (GetParam() == kReplace) {
    EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kTryAgain));
  } else {
    EXPECT_EQ(reply.results[0].flags, layout::kExisted) << reply.texts[0];
  }
  // Its slot is freed when no copy writes to it.
  EXPECT_EQ(worker.control->Stats().arenaUsedBytes, 0U) << "answered while it was copied";
}

TEST_P(SetEndTest, CancelledWhileItsBytesAreCopied) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--sim_bandwidth_mb_per_s=20"});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(8 << 20);
  const uint64_t set =
      client.Submit(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 8, 1 << 20)}, {GetParam(), 0, 0, 0});
  worker.control->WaitAsked(GetParam() == kReplace ? Op::kReserve : Op::kCommit, 1);
  (void)client.SubmitRaw(Op::kCancel, 0, {}, {set, 0, 0, 0});
  (void)client.SubmitRaw(Op::kCancel, 0, {}, {set, 0, 0, 0});  // asked again, it is the same
  const Reply reply = client.WaitFor(set);
  ASSERT_EQ(reply.results.size(), 1U) << reply.text;
  const layout::SidecarStats stats = worker.control->Stats();
  if (GetParam() == kReplace) {
    EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcCancelled));
    EXPECT_EQ(reply.texts[0], "cancelled by the caller");
    EXPECT_EQ(worker.control->Asked(Op::kCommit), 0);
    EXPECT_EQ(stats.arenaUsedBytes, 0U) << "answered while it was copied";
  } else {  // its owner knew of it
    EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(stats.objects, 1U);
  }
}

TEST_P(SetEndTest, CancelledWhileItsOwnerIsAwaited) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  worker.control->Hold(Op::kCommit);
  const uint64_t set =
      client.Submit(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 2, 4096)}, {GetParam(), 0, 0, 0});
  worker.control->WaitAsked(Op::kCommit, 1);
  (void)client.SubmitRaw(Op::kCancel, 0, {}, {set, 0, 0, 0});
  ExpectDoubt(client.WaitFor(set), StatusCode::kRpcCancelled);
  worker.control->Unhold(Op::kCommit);
  Eventually([&] { return worker.control->Stats().objects == 1; }, "what the owner committed is sealed");
}

TEST(SetDoubtTest, SilentCommitIsToldKeptAskedAgainAndSealed) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  memory.Fill(11);
  const uint32_t region = client.MustRegister(0, memory);
  worker.control->Hold(Op::kCommit);
  ExpectDoubt(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 4096)}, {kReplace, 0, 0, 0}),
              StatusCode::kRpcDeadlineExceeded);
  EXPECT_GT(worker.control->Stats().arenaUsedBytes, 0U) << "the bytes stay";
  EXPECT_EQ(worker.control->Stats().objects, 0U) << "not visible yet";
  worker.control->WaitAsked(Op::kCommit, 2);
  worker.control->Unhold(Op::kCommit);
  Eventually([&] { return worker.control->Stats().objects == 1; }, "the object is sealed");
  const Reply get = client.Call(Op::kGetH2D, 0, {Blobs("a", region, 2, 4096, 512 << 10)});
  EXPECT_EQ(get.results[0].code, 0U) << get.texts[0];
  EXPECT_EQ(std::memcmp(memory.data(), memory.data() + (512 << 10), 8192), 0);
  EXPECT_EQ(worker.control->Asked(Op::kLookup), 0) << "it is sealed here";
}

// A set of key "a" whose caller was told that nobody knows, since its control process died with the question.
struct DoubtfulSet {
  explicit DoubtfulSet(uint64_t existence) {
    memory.Fill(12);
    region = client.MustRegister(0, memory);
    worker.control->Hold(Op::kCommit);
    const uint64_t set = client.Submit(Op::kSetD2H, 0, {Blobs("a", region, 2, 4096)}, {existence, 0, 0, 0});
    worker.control->WaitAsked(Op::kCommit, 1);
    worker.control->Die();
    ExpectDoubt(client.WaitFor(set), StatusCode::kClientWorkerDisconnect);
  }
  void StartControl() {
    worker.control = std::make_unique<FakeControl>(worker.process.workerAddress(), directory, 1);
    Introduce({worker.control.get()}, {worker.process.workerAddress()});
  }
  void ExpectSealed() {
    Eventually([&] { return worker.control->Stats().objects == 1; }, "the object is sealed");
    const Reply get = client.Call(Op::kGetH2D, 0, {Blobs("a", region, 2, 4096, 512 << 10)});
    EXPECT_EQ(get.results[0].code, 0U) << get.texts[0];
    EXPECT_EQ(std::memcmp(memory.data(), memory.data() + (512 << 10), 8192), 0);
  }
  void ExpectGone() {
    Eventually([&] { return worker.control->Stats().arenaUsedBytes == 0; }, "its bytes are freed");
    EXPECT_EQ(worker.control->Stats().objects, 0U);
  }
  FakeDirectory directory;
  Worker worker{directory, 1};
  Client client{worker.process.workerAddress()};
  DeviceMemory memory{1 << 20};
  uint32_t region = 0;
};

TEST(SetDoubtTest, TheNextControlProcessConfirmsAReplacement) {
  DoubtfulSet doubtful(kReplace);
  doubtful.StartControl();
  doubtful.ExpectSealed();
  EXPECT_TRUE(doubtful.directory.Knows("a"));
}

TEST(SetDoubtTest, ARefusalOfTheRepeatedCommitDecidesNothing) {
  DoubtfulSet doubtful(kReplace);
  doubtful.StartControl();
  doubtful.worker.control->Refuse(Op::kCommit, StatusCode::kNotReady, 0);
  doubtful.worker.control->WaitAsked(Op::kCommit, 1);
  doubtful.worker.control->Refuse(Op::kCommit, StatusCode::kTryAgain, 0);
  doubtful.worker.control->WaitAsked(Op::kCommit, 3);
  EXPECT_GT(doubtful.worker.control->Stats().arenaUsedBytes, 0U) << "the only copy";
  doubtful.worker.control->Allow(Op::kCommit);
  doubtful.ExpectSealed();
}

TEST(SetDoubtTest, ASetAtOnceThatItsOwnerKnowsIsSealed) {
  DoubtfulSet doubtful(0);
  doubtful.directory.Add("a", {77, 8192, {{1, 0}}, 0, 0});  // the store's first slot
  doubtful.StartControl();
  doubtful.ExpectSealed();
  EXPECT_EQ(doubtful.worker.control->Asked(Op::kCommit), 0) << "it may have been deleted since: never again";
}

TEST(SetDoubtTest, ASetAtOnceThatItsOwnerDoesNotKnowEnds) {
  DoubtfulSet doubtful(0);
  doubtful.StartControl();
  doubtful.ExpectGone();
  EXPECT_FALSE(doubtful.directory.Knows("a"));
}

TEST(SetDoubtTest, ASetAtOnceThatAnotherOneWonEnds) {
  DoubtfulSet doubtful(1);
  doubtful.directory.Add("a", {99, 8192, {{7, 1}}, 0, 0});
  doubtful.StartControl();
  doubtful.ExpectGone();
}

// A `replace` whose owner knew it and whose answer was lost; then the owner ends the new version.
class LostReplaceTest : public ::testing::Test {
 protected:
  LostReplaceTest() : worker(directory, 1), client(worker.process.workerAddress()) {
    region = client.MustRegister(0, memory);
    EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 4096)}).results[0].code, 0U);
    worker.control->Hold(Op::kCommit);
    set = client.Submit(Op::kSetD2H, 0, {Blobs("a", region, 1, 4096, 4096)}, {kReplace, 0, 0, 0});
    worker.control->WaitAsked(Op::kCommit, 2);
    EXPECT_EQ(Get(), 0U) << "until it is known the old version is served";
    const std::lock_guard lock(directory.mutex);
    generation = directory.lastGeneration;
    directory.known.erase("a");  // committed, then deleted
  }
  uint32_t Get() { return client.Call(Op::kGetH2D, 0, {Blobs("a", region, 1, 4096, 512 << 10)}).results[0].code; }

  FakeDirectory directory;
  Worker worker;
  Client client;
  DeviceMemory memory{1 << 20};
  uint32_t region = 0;
  uint64_t set = 0;
  uint64_t generation = 0;
};

TEST_F(LostReplaceTest, DropOfTheNewVersionTakesTheOldOneAlong) {
  const layout::HeldObject held{generation, 1, 0};  // the store's second slot
  std::vector<std::byte> payload(sizeof(held));
  std::memcpy(payload.data(), &held, sizeof(held));
  EXPECT_EQ(worker.control->Ask(Op::kDrop, 1, payload).payload.size(), 4U);
  EXPECT_EQ(Get(), CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(worker.control->Stats().objects, 0U);
}

TEST_F(LostReplaceTest, RefusalThatKnowsTheNewVersionDropsTheOldOne) {
  worker.control->Refuse(Op::kCommit, StatusCode::kTryAgain, generation);
  worker.control->Unhold(Op::kCommit);
  const Reply reply = client.WaitFor(set);
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kTryAgain));
  EXPECT_EQ(Get(), CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(worker.control->Stats().arenaUsedBytes, 0U);
}

TEST_F(LostReplaceTest, RefusalOfAnOwnerThatKnowsNothingLeavesTheOldOne) {
  worker.control->Refuse(Op::kCommit, StatusCode::kTryAgain, 0);
  worker.control->Unhold(Op::kCommit);
  EXPECT_EQ(client.WaitFor(set).results[0].code, CodeOf(StatusCode::kTryAgain));
  EXPECT_EQ(Get(), 0U);
  EXPECT_EQ(worker.control->Stats().objects, 1U);
}

TEST(SetDoubtTest, ClientKilledAfterCommitTheSetGoesThrough) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  DeviceMemory memory(1 << 20);
  worker.control->Hold(Op::kCommit);
  {
    Client client(worker.process.workerAddress());
    (void)client.Submit(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 2, 4096)});
    worker.control->WaitAsked(Op::kCommit, 1);
    client.Die();
  }
  Eventually([&] { return worker.control->Stats().sessions == 0; }, "the session is closed");
  worker.control->Unhold(Op::kCommit);
  Eventually([&] { return worker.control->Stats().objects == 1; }, "the object is sealed all the same");
}

// ----- what the control process asks of objects -----

std::vector<std::byte> HeldPayload(const Message& listed, size_t keyCount, size_t times) {
  layout::CommitRecord record{};
  std::memcpy(&record, listed.payload.data() + listed.payload.size() - keyCount * sizeof(record), sizeof(record));
  const layout::HeldObject held{record.generation, record.slot, 0};
  std::vector<std::byte> payload(times * sizeof(held));
  for (size_t i = 0; i < times; ++i) std::memcpy(payload.data() + i * sizeof(held), &held, sizeof(held));
  return payload;
}

TEST(DescribeTest, AnswerThatDoesNotFitIsRefused) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  ASSERT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 60'000, 16)}).results[0].code, 0U);
  const Message listed = worker.control->Ask(Op::kListHeld, 0, {});
  const Message one = worker.control->Ask(Op::kDescribe, 1, HeldPayload(listed, 1, 1));
  EXPECT_EQ(one.payload.size(), 8U + 8U + 60'000U * 8U + 4U);
  // 100 x 480,000 bytes are more than half of the channel's 64 MiB.
  const Message refused = worker.control->Ask(Op::kDescribe, 100, HeldPayload(listed, 1, 100));
  EXPECT_EQ(refused.entry.code, CodeOf(StatusCode::kOutOfRange));
  const std::string text(reinterpret_cast<const char*>(refused.payload.data()), refused.payload.size());
  EXPECT_NE(text.find("ask for fewer at once"), std::string::npos) << text;
  EXPECT_EQ(worker.control->Ask(Op::kDescribe, 1, HeldPayload(listed, 1, 1)).entry.code, 0U) << "the session goes on";
}

TEST(DescribeTest, DeviceObjectsAreDescribedAndDropped) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  ASSERT_EQ(client.Call(Op::kDevMSet, 0, {Blobs("d", region, 3, 4096)}).results[0].code, 0U);
  layout::HeldObject held{};
  {
    const std::lock_guard lock(directory.mutex);
    held = {directory.known["d"].generation, directory.known["d"].locations.at(0).slot, 0};
  }
  ASSERT_NE(held.slot & layout::kDeviceSlot, 0U);
  std::vector<std::byte> payload(sizeof(held));
  std::memcpy(payload.data(), &held, sizeof(held));
  const Message described = worker.control->Ask(Op::kDescribe, 1, payload);
  ASSERT_EQ(described.payload.size(), 8U + 8U + 3 * 8U + 4U);
  uint32_t code = 1;
  std::memcpy(&code, described.payload.data(), sizeof(code));
  EXPECT_EQ(code, 0U);
  uint64_t size = 0;
  std::memcpy(&size, described.payload.data() + 16, sizeof(size));
  EXPECT_EQ(size, 4096U);
  EXPECT_EQ(worker.control->Ask(Op::kDrop, 1, payload).payload.size(), 4U);
  const Message gone = worker.control->Ask(Op::kDescribe, 1, payload);
  std::memcpy(&code, gone.payload.data(), sizeof(code));
  EXPECT_EQ(code, CodeOf(StatusCode::kTryAgain));
}

// Millions of objects are listed in parts: an answer has those of 16,384 slots, and says with which slot to go on.
TEST(SetListTest, ManyObjectsAreListedInParts) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(4096);
  const uint32_t region = client.MustRegister(0, memory);
  for (int call = 0; call < 4; ++call) {
    std::vector<KeyBlobs> keys;
    for (int i = 0; i < 5'000; ++i) {
      keys.push_back(Blobs("key" + std::to_string(call) + "-" + std::to_string(i), region, 1, 8));
    }
    ASSERT_EQ(client.Call(Op::kSetD2H, 0, keys).results[4'999].code, 0U);
  }
  const Message first = worker.control->Ask(Op::kListHeld, 0, {});
  EXPECT_EQ(first.entry.args[0], 16'384U);
  const Message second = worker.control->Ask(Op::kListHeld, 0, {}, {16'384, 0, 0, 0});
  EXPECT_EQ(second.entry.args[0], 0U) << "there are no more";
  EXPECT_EQ(second.entry.count, 20'000U - 16'384U);
  const Message never = worker.control->Ask(Op::kListHeld, 0, {}, {uint64_t{1} << 32, 0, 0, 0});
  EXPECT_EQ(never.entry.code, CodeOf(StatusCode::kInvalid));
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
