// Goal: a set that is committed while its bytes are copied is never read before they are whole, and what happens to the
// key meanwhile is honoured. Method: real sidecar processes with slow copies; others get, delete, describe and list the
// key as soon as its owner knows it.
#include <cstddef>
#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint32_t kBlobs = 4;
constexpr uint64_t kBlobBytes = 1 << 20;
constexpr uint64_t kBytes = kBlobs * kBlobBytes;

// A worker whose copies take about 0.2 s, and a set of key "a" there that its owner has just confirmed.
struct SlowSet {
  explicit SlowSet(std::vector<std::string> flags = {"--sim_bandwidth_mb_per_s=20"})
      : worker(directory, 1, std::move(flags)), client(worker.process.workerAddress()), memory(2 * kBytes) {
    memory.Fill(3);
    region = client.MustRegister(0, memory);
    set = client.Submit(Op::kSetD2H, 0, {Blobs("a", region, kBlobs, kBlobBytes)});
    Eventually([&] { return directory.Knows("a"); }, "the owner knows the key");
    const std::lock_guard lock(directory.mutex);
    held = {directory.known["a"].generation, directory.known["a"].locations.at(0).slot, 0};
  }
  [[nodiscard]] std::vector<std::byte> Held() const {
    std::vector<std::byte> payload(sizeof(held));
    std::memcpy(payload.data(), &held, sizeof(held));
    return payload;
  }
  FakeDirectory directory;
  Worker worker;
  Client client;
  DeviceMemory memory;
  uint32_t region = 0;
  uint64_t set = 0;
  layout::HeldObject held{};
};

TEST(AtOnceTest, TakesOneQuestionAndTheGenerationOfTheOwner) {
  SlowSet slow;
  const Reply reply = slow.client.WaitFor(slow.set);
  ASSERT_EQ(reply.results.at(0).code, 0U) << reply.texts.at(0);
  EXPECT_EQ(reply.results[0].generation, slow.held.generation);
  EXPECT_EQ(slow.worker.control->Asked(Op::kReserve), 0);
  EXPECT_EQ(slow.worker.control->Asked(Op::kCommit), 1);
  EXPECT_EQ(slow.worker.control->Stats().objects, 1U);
}

TEST(AtOnceTest, ReadersHereAndElsewhereWaitForTheBytes) {
  SlowSet slow;
  Worker other(slow.directory, 2);
  Introduce({slow.worker.control.get(), other.control.get()},
            {slow.worker.process.workerAddress(), other.process.workerAddress()});
  DeviceMemory here(kBytes);
  DeviceMemory there(kBytes);
  Client near(slow.worker.process.workerAddress());
  Client far(other.process.workerAddress());
  // A key of its own that is known only while its bytes are copied.
  const uint64_t second = slow.client.Submit(Op::kSetD2H, 0, {Blobs("b", slow.region, kBlobs, kBlobBytes)});
  Eventually([&] { return slow.directory.Knows("b"); }, "the owner knows the second key");
  EXPECT_LT(slow.worker.control->Stats().objects, 2U) << "its bytes are on their way";
  const uint64_t nearGet = near.Submit(Op::kGetH2D, 1, {Blobs("b", near.MustRegister(1, here), kBlobs, kBlobBytes)});
  const uint64_t farGet = far.Submit(Op::kGetH2D, 1, {Blobs("b", far.MustRegister(1, there), kBlobs, kBlobBytes)});
  const Reply nearReply = near.WaitFor(nearGet);
  const Reply farReply = far.WaitFor(farGet);
  EXPECT_EQ(nearReply.results.at(0).code, 0U) << nearReply.texts.at(0);
  EXPECT_EQ(farReply.results.at(0).code, 0U) << farReply.texts.at(0);
  EXPECT_EQ(std::memcmp(here.data(), slow.memory.data(), kBytes), 0);
  EXPECT_EQ(std::memcmp(there.data(), slow.memory.data(), kBytes), 0);
  EXPECT_EQ(slow.client.WaitFor(second).results.at(0).code, 0U);
}

TEST(AtOnceTest, DeletedBeforeItsBytesAreThereIsNotThereAfterwards) {
  SlowSet slow;
  EXPECT_EQ(slow.worker.control->Ask(Op::kDrop, 1, slow.Held()).entry.code, 0U);
  const Reply reply = slow.client.WaitFor(slow.set);
  EXPECT_EQ(reply.results.at(0).code, 0U) << "it was set, then deleted";
  EXPECT_EQ(slow.worker.control->Stats().objects, 0U);
  EXPECT_EQ(slow.worker.control->Stats().arenaUsedBytes, 0U);
}

TEST(AtOnceTest, ADeleteOfAnotherVersionLeavesIt) {
  SlowSet slow;
  slow.held.generation += 1;
  EXPECT_EQ(slow.worker.control->Ask(Op::kDrop, 1, slow.Held()).entry.code, 0U);
  EXPECT_EQ(slow.client.WaitFor(slow.set).results.at(0).code, 0U);
  EXPECT_EQ(slow.worker.control->Stats().objects, 1U);
}

TEST(AtOnceTest, IsDescribedAndListedBeforeItsBytesAreThere) {
  SlowSet slow;
  const Message described = slow.worker.control->Ask(Op::kDescribe, 1, slow.Held());
  ASSERT_EQ(described.payload.size(), 8U + 8U + kBlobs * 8U + 4U);
  uint32_t code = 1;
  std::memcpy(&code, described.payload.data(), sizeof(code));
  EXPECT_EQ(code, 0U);
  uint32_t flags = layout::kHeldSealed;
  std::memcpy(&flags, described.payload.data() + described.payload.size() - sizeof(flags), sizeof(flags));
  EXPECT_EQ(flags, 0U) << "not whole yet";
  // The answer of the owner may come after the owner knows: then another ring would be told by the set's own question.
  Eventually([&] { return slow.worker.control->Ask(Op::kListHeld, 0, {}).entry.count == 1; }, "it is listed");
  EXPECT_EQ(slow.client.WaitFor(slow.set).results.at(0).code, 0U);
  EXPECT_EQ(slow.worker.control->Ask(Op::kListHeld, 0, {}).entry.count, 1U);
}

TEST(AtOnceTest, AReaderOfACopyThatFailsGetsNothing) {
  SlowSet slow({"--sim_bandwidth_mb_per_s=20", "--sim_fail_every_nth=1"});
  DeviceMemory target(kBytes);
  Client reader(slow.worker.process.workerAddress());
  const Reply got =
      reader.Call(Op::kGetH2D, 1, {Blobs("a", reader.MustRegister(1, target), kBlobs, kBlobBytes)}, {0, 0, 0, 0});
  EXPECT_NE(got.results.at(0).code, 0U);
  EXPECT_NE(slow.client.WaitFor(slow.set).results.at(0).code, 0U);
  slow.worker.control->WaitAsked(Op::kForgetLocations, 1);
  {
    const std::lock_guard lock(slow.directory.mutex);
    EXPECT_EQ(slow.directory.forgottenWhole, 0U) << "older versions elsewhere are not outdated by it";
  }
  EXPECT_EQ(slow.worker.control->Stats().objects, 0U);
  EXPECT_EQ(slow.worker.control->Stats().arenaUsedBytes, 0U);
}

TEST(AtOnceTest, ACancelledSetWhoseClientEndsIsNotKept) {
  SlowSet slow({"--sim_bandwidth_mb_per_s=4"});
  (void)slow.client.SubmitRaw(Op::kCancel, 0, {}, {slow.set, 0, 0, 0});
  // Answered behind the cancel, which is known then.
  EXPECT_EQ(slow.client.Call(Op::kDevLocalDelete, 0, {{"other", {}}}).code, StatusCode::kOk);
  EXPECT_EQ(slow.worker.control->Stats().objects, 0U) << "its bytes are on their way";
  slow.client.Die();
  Eventually([&] { return slow.directory.IsEmpty(); }, "the owner forgets the key");
  Eventually([&] { return slow.worker.control->Stats().arenaUsedBytes == 0; }, "its memory is free");
  EXPECT_EQ(slow.worker.control->Stats().objects, 0U) << "nobody vouches for its bytes";
}

// Another client of that worker sets the same key, whose first set is under way.
struct SecondSet {
  explicit SecondSet(SlowSet& slow) : client(slow.worker.process.workerAddress()) {
    memory.Fill(9);
    set = client.Submit(Op::kSetD2H, 1, {Blobs("a", client.MustRegister(1, memory), kBlobs, kBlobBytes)});
    slow.worker.control->WaitAsked(Op::kCommit, 2);
  }
  Client client;
  DeviceMemory memory{kBytes};
  uint64_t set = 0;
};

TEST(AtOnceTest, ASecondSetIsToldOfTheFirstWhenItsBytesAreThere) {
  SlowSet slow;
  Introduce({slow.worker.control.get()}, {slow.worker.process.workerAddress()});
  SecondSet second(slow);
  const Reply reply = second.client.WaitFor(second.set);
  EXPECT_EQ(slow.worker.control->Stats().objects, 1U) << "sealed before it was said to be there";
  ASSERT_EQ(reply.results.at(0).code, 0U) << reply.texts.at(0);
  EXPECT_EQ(reply.results[0].flags, layout::kExisted);
  EXPECT_EQ(reply.results[0].generation, slow.held.generation);
  EXPECT_EQ(slow.client.WaitFor(slow.set).results.at(0).code, 0U);
  EXPECT_EQ(slow.worker.control->Asked(Op::kCommit), 2);
}

TEST(AtOnceTest, ASecondSetCountsWhenTheFirstFails) {
  SlowSet slow;
  Introduce({slow.worker.control.get()}, {slow.worker.process.workerAddress()});
  SecondSet second(slow);
  slow.client.Die();
  const Reply reply = second.client.WaitFor(second.set);
  ASSERT_EQ(reply.results.at(0).code, 0U) << reply.texts.at(0);
  EXPECT_EQ(reply.results[0].flags, 0U);
  EXPECT_GT(reply.results[0].generation, slow.held.generation);
  DeviceMemory target(kBytes);
  Client reader(slow.worker.process.workerAddress());
  const Reply got = reader.Call(Op::kGetH2D, 1, {Blobs("a", reader.MustRegister(1, target), kBlobs, kBlobBytes)});
  ASSERT_EQ(got.results.at(0).code, 0U) << got.texts.at(0);
  EXPECT_EQ(std::memcmp(target.data(), second.memory.data(), kBytes), 0);
}

TEST(AtOnceTest, AnObjectThatThisWorkerLostIsNotSaidToExist) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Introduce({worker.control.get()}, {worker.process.workerAddress()});
  directory.Add("a", {5, 8192, {{1, 3}}, 0, 0});          // the owner has not heard of its end yet
  directory.Add("b", {6, 8192, {{1, 4}, {2, 0}}, 0, 0});  // another worker has it, too
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  const Reply reply =
      client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 4096), Blobs("b", region, 2, 4096, 512 << 10)});
  EXPECT_EQ(reply.results.at(0).code, CodeOf(StatusCode::kTryAgain));
  EXPECT_NE(reply.texts.at(0).find("this worker just lost"), std::string::npos) << reply.texts[0];
  EXPECT_EQ(reply.results.at(1).code, 0U) << reply.texts.at(1);
  EXPECT_EQ(reply.results[1].flags, layout::kExisted);
  EXPECT_EQ(worker.control->Stats().arenaUsedBytes, 0U);
}

TEST(AtOnceTest, ADeletedOneIsNotListedWhileItsBytesMove) {
  SlowSet slow;
  Eventually([&] { return slow.worker.control->Ask(Op::kListHeld, 0, {}).entry.count == 1; }, "it is listed");
  EXPECT_EQ(slow.worker.control->Ask(Op::kDrop, 1, slow.Held()).entry.code, 0U);
  EXPECT_EQ(slow.worker.control->Ask(Op::kListHeld, 0, {}).entry.count, 0U);
  EXPECT_EQ(slow.client.WaitFor(slow.set).results.at(0).code, 0U);
}

TEST(AtOnceTest, OnlyUpToItsLimit) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--at_once_mb=1"});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(2 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("below", region, 1, (1 << 20) - 1)}).results.at(0).code, 0U);
  EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("at", region, 1, 1 << 20)}).results.at(0).code, 0U);
  EXPECT_EQ(worker.control->Asked(Op::kReserve), 0);
  EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("above", region, 1, (1 << 20) + 1)}).results.at(0).code, 0U);
  EXPECT_EQ(worker.control->Asked(Op::kReserve), 1);
  EXPECT_EQ(worker.control->Stats().objects, 3U);
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
