// Goal: a get from another worker may leave a copy, which makes the next get a local one and outlives its source; it is
// bounded, is never found once its version was deleted or replaced, and ends with its time to live. Method: real
// sidecar processes and a directory in memory; the owner's answer to a copy is held back where something is to come
// before it; what is stored is looked at through explain, figures and the directory.
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/crc32c.h"
#include "sidecar/control_service.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kReplace = 2;
constexpr uint64_t kFail = 1;

// Two workers; the second one keeps copies of what it reads from the first.
class ReplicaTest : public ::testing::TestWithParam<std::string> {
 protected:
  explicit ReplicaTest(const std::string& percent = "50") {
    for (uint32_t i = 0; i < 2; ++i) {
      workers.push_back(
          std::make_unique<Worker>(directory, i + 1,
                                   std::vector<std::string>{"--transport=" + GetParam(), "--slice_kb=64",
                                                            "--arena_mb=16", "--replica_percent=" + percent}));
    }
    Introduce({workers[0]->control.get(), workers[1]->control.get()}, {AddressOf(0), AddressOf(1)});
    setter = std::make_unique<Client>(AddressOf(0));
    getter = std::make_unique<Client>(AddressOf(1));
    source.Fill(51);
    from = setter->MustRegister(0, source);
    to = getter->MustRegister(1, target);
  }
  [[nodiscard]] const std::string& AddressOf(size_t worker) const { return workers[worker]->process.workerAddress(); }
  FakeControl& reader() { return *workers[1]->control; }

  void Set(const std::string& key, uint64_t offset = 0, std::array<uint64_t, 4> args = {}) {
    const Reply reply = setter->Call(Op::kSetD2H, 0, {Blobs(key, from, 3, 100'000, offset)}, args);
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    ASSERT_EQ(reply.results[0].code, 0U) << reply.texts[0];
  }
  Reply Get(const std::string& key) {
    std::memset(target.data(), 0, 300'000);
    return getter->Call(Op::kGetH2D, 1, {Blobs(key, to, 3, 100'000)});
  }
  // The bytes of the object that was set from this offset, from the worker with this number (0: the reader's own).
  void ExpectGet(const std::string& key, uint32_t member, uint64_t offset = 0) {
    const Reply reply = Get(key);
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    ASSERT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(std::memcmp(source.data() + offset, target.data(), 300'000), 0);
    ASSERT_EQ(reply.paths.size(), 1U);
    EXPECT_EQ(reply.paths[0].member, member);
    EXPECT_EQ(reply.paths[0].bytes, 300'000U);
  }
  std::string Explain(const std::string& key) {
    const Message reply = reader().Ask(Op::kExplain, 1, KeyBatchOf({key}));
    return {reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size()};
  }
  bool IsReplica(const std::string& key) { return Explain(key).find("\"replica\":true") != std::string::npos; }
  void WaitReplica(const std::string& key) {
    Eventually([&] { return IsReplica(key); }, "the copy of " + key + " is there");
  }
  std::vector<layout::Location> Locations(const std::string& key) {
    const std::lock_guard lock(directory.mutex);
    return directory.known[key].locations;
  }
  // As the owner does when it deletes or replaces a version.
  void Drop(uint32_t slot, uint64_t generation) {
    const layout::HeldObject held{generation, slot, 0};
    std::vector<std::byte> payload(sizeof(held));
    std::memcpy(payload.data(), &held, sizeof(held));
    EXPECT_EQ(reader().Ask(Op::kDrop, 1, payload).payload.size(), 4U);
  }
  uint64_t GenerationOf(const std::string& key) {
    const std::lock_guard lock(directory.mutex);
    return directory.known[key].generation;
  }

  FakeDirectory directory;
  std::vector<std::unique_ptr<Worker>> workers;
  std::unique_ptr<Client> setter;
  std::unique_ptr<Client> getter;
  DeviceMemory source{8 << 20};
  DeviceMemory target{8 << 20};
  uint32_t from = 0;
  uint32_t to = 0;
};

TEST_P(ReplicaTest, TheNextGetIsLocalAndTheSourcesDeathLeavesACopy) {
  Set("a");
  ExpectGet("a", 1);
  WaitReplica("a");
  ASSERT_EQ(Locations("a").size(), 2U);
  EXPECT_EQ(Locations("a")[1].member, 2U);
  ExpectGet("a", 0);
  EXPECT_EQ(reader().Asked(Op::kLookup), 1);
  EXPECT_EQ(reader().Stats().holds, 0U);
  Eventually([&] { return workers[0]->control->Stats().holds == 0; }, "the source is not held any more");
  workers[0]->process.Signal(SIGKILL);
  EXPECT_EQ(workers[0]->process.Wait(), -SIGKILL);
  ExpectGet("a", 0);
  // And another worker finds it there.
  Worker third(directory, 3, {"--transport=" + GetParam()});
  Introduce({third.control.get(), &reader()}, {third.process.workerAddress(), AddressOf(1)});
  Client other(third.process.workerAddress());
  const Reply reply = other.Call(Op::kGetH2D, 0, {Blobs("a", other.MustRegister(0, target), 3, 100'000)});
  EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
  ASSERT_EQ(reply.paths.size(), 1U);
  EXPECT_EQ(reply.paths[0].member, 2U);
}

// The control process must know copies apart: after a time away it offers them anew, and does not announce them.
TEST_P(ReplicaTest, ListedApart) {
  Set("a");
  ExpectGet("a", 1);
  WaitReplica("a");
  const Message ofSetter = workers[0]->control->Ask(Op::kListHeld, 0, {});
  EXPECT_EQ(ofSetter.entry.count, 1U);
  EXPECT_EQ(ofSetter.entry.args[2], 0U);
  const Message ofReader = reader().Ask(Op::kListHeld, 0, {});
  EXPECT_EQ(ofReader.entry.count, 1U);
  EXPECT_EQ(ofReader.entry.args[2], kListedCopies);
}

TEST_P(ReplicaTest, DroppedWhenItsVersionEnds) {
  Set("a");
  ExpectGet("a", 1);
  WaitReplica("a");
  const layout::Location before = Locations("a").at(1);
  Drop(before.slot, GenerationOf("a"));
  EXPECT_EQ(reader().Stats().objects, 0U);
  {
    const std::lock_guard lock(directory.mutex);
    directory.known["a"].locations.resize(1);
  }
  ExpectGet("a", 1);
  WaitReplica("a");
  // What is told late of the first copy must not meet the second one.
  EXPECT_NE(Locations("a").at(1).slot, before.slot);
}

TEST_P(ReplicaTest, ReplacedBeforeItsOwnerKnewIt) {
  Set("a");
  reader().Hold(Op::kAddLocation);
  ExpectGet("a", 1);
  reader().WaitAsked(Op::kAddLocation, 1);
  EXPECT_FALSE(IsReplica("a")) << "not found before its owner knows it";
  Set("a", kMiB, {kReplace, 0, 0, 0});
  reader().Unhold(Op::kAddLocation);
  Eventually([&] { return reader().Stats().arenaUsedBytes == 0; }, "the copy of the old version is dropped");
  ExpectGet("a", 1, kMiB);
}

TEST_P(ReplicaTest, DroppedBeforeTheOwnersAnswerCame) {
  Set("a");
  reader().Hold(Op::kAddLocation);
  ExpectGet("a", 1);
  reader().WaitAsked(Op::kAddLocation, 1);
  Drop(0, GenerationOf("a"));  // the store's first slot
  EXPECT_EQ(reader().Stats().arenaUsedBytes, 0U);
  reader().Unhold(Op::kAddLocation);
  Eventually([&] { return Locations("a").size() == 2; }, "the owner has answered");
  {
    const std::lock_guard lock(directory.mutex);
    directory.known["a"].locations.resize(1);
  }
  ExpectGet("a", 1);
}

TEST_P(ReplicaTest, OwnerWithoutAnAnswerIsToldToForgetIt) {
  Set("a");
  reader().Refuse(Op::kAddLocation, StatusCode::kRpcDeadlineExceeded, 0);
  ExpectGet("a", 1);
  Eventually(
      [&] {
        const std::lock_guard lock(directory.mutex);
        return directory.forgotten == 1;
      },
      "the owner is told");
  EXPECT_EQ(reader().Stats().arenaUsedBytes, 0U);
}

TEST_P(ReplicaTest, TwoGetsAtOnceLeaveOneCopy) {
  Set("a");
  Client second(AddressOf(1));
  const uint32_t region = second.MustRegister(2, target);
  const uint64_t one = getter->Submit(Op::kGetH2D, 1, {Blobs("a", to, 3, 100'000)});
  const uint64_t two = second.Submit(Op::kGetH2D, 2, {Blobs("a", region, 3, 100'000, kMiB)});
  EXPECT_EQ(getter->WaitFor(one).results[0].code, 0U);
  EXPECT_EQ(second.WaitFor(two).results[0].code, 0U);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 300'000), 0);
  EXPECT_EQ(std::memcmp(source.data(), target.data() + kMiB, 300'000), 0);
  WaitReplica("a");
  EXPECT_EQ(reader().Stats().objects, 1U);
  EXPECT_EQ(Locations("a").size(), 2U);
}

TEST_P(ReplicaTest, SetsOverACopyFollowTheirMode) {
  Set("a");
  ExpectGet("a", 1);
  WaitReplica("a");
  target.Fill(52);
  const std::vector<KeyBlobs> mine = {Blobs("a", to, 3, 100'000, 2 * kMiB)};
  const Reply skip = getter->Call(Op::kSetD2H, 1, mine);
  EXPECT_EQ(skip.results[0].code, 0U);
  EXPECT_EQ(skip.results[0].flags, layout::kExisted);
  EXPECT_EQ(getter->Call(Op::kSetD2H, 1, mine, {kFail, 0, 0, 0}).results[0].code,
            CodeOf(StatusCode::kKeyAlreadyExists));
  EXPECT_EQ(getter->Call(Op::kSetD2H, 1, mine, {kReplace, 0, 0, 0}).results[0].code, 0U);
  EXPECT_FALSE(IsReplica("a"));
  EXPECT_EQ(Get("a").results[0].code, 0U);
  EXPECT_EQ(std::memcmp(target.data(), target.data() + 2 * kMiB, 300'000), 0);
  EXPECT_EQ(reader().Stats().objects, 1U);
}

TEST_P(ReplicaTest, EndsWithTheTimeToLiveOfItsObject) {
  Set("stays", 0, {0, 60'000, 0, 0});
  ExpectGet("stays", 1);
  WaitReplica("stays");
  EXPECT_NE(Explain("stays").find("expiresInMilliseconds"), std::string::npos) << Explain("stays");
  Set("ends", kMiB, {0, 300, 0, 0});
  EXPECT_EQ(Get("ends").results[0].code, 0U);
  Eventually([&] { return reader().Stats().objects == 1; }, "the copy has ended, too");
  EXPECT_TRUE(IsReplica("stays"));
}

TEST_P(ReplicaTest, DamageOfACopyIsNoticed) {
  Set("a", 0, {0, 0, layout::kSetChecksum, 0});
  ExpectGet("a", 1);
  WaitReplica("a");
  ExpectGet("a", 0);
  const int storeFd = reader().peer().storeFd();
  const auto size = static_cast<size_t>(::lseek(storeFd, 0, SEEK_END));
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, storeFd, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* found = static_cast<std::byte*>(::memmem(mapped, size, source.data(), 300'000));
  ASSERT_NE(found, nullptr);
  *found ^= std::byte{1};
  ::munmap(mapped, size);
  const Reply damaged = Get("a");
  EXPECT_EQ(damaged.results[0].code, CodeOf(StatusCode::kDataInconsistency)) << damaged.texts[0];
  EXPECT_NE(damaged.texts[0].find(AddressOf(1)), std::string::npos) << damaged.texts[0];
}

TEST_P(ReplicaTest, ManyKeysInOneCall) {
  std::vector<KeyBlobs> set;
  std::vector<KeyBlobs> get;
  for (uint32_t i = 0; i < 1'000; ++i) {
    set.push_back(Blobs("k" + std::to_string(i), from, 2, 1'000, i * 2'000ULL));
    get.push_back(Blobs("k" + std::to_string(i), to, 2, 1'000, i * 2'000ULL));
  }
  for (const layout::KeyResult& result : setter->Call(Op::kSetD2H, 0, set).results) ASSERT_EQ(result.code, 0U);
  for (const layout::KeyResult& result : getter->Call(Op::kGetH2D, 1, get).results) ASSERT_EQ(result.code, 0U);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 2'000'000), 0);
  Eventually([&] { return reader().Stats().objects == 1'000; }, "all copies are there");
  EXPECT_LT(reader().Asked(Op::kAddLocation), 1'000) << "owners are asked for many at once";
  std::memset(target.data(), 0, 2'000'000);
  const Reply again = getter->Call(Op::kGetH2D, 1, get);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 2'000'000), 0);
  ASSERT_EQ(again.paths.size(), 1U);
  EXPECT_EQ(again.paths[0].member, 0U);
}

INSTANTIATE_TEST_SUITE_P(Transports, ReplicaTest, ::testing::Values("tcp", "shm"));

class SmallShareTest : public ReplicaTest {
 protected:
  SmallShareTest() : ReplicaTest("25") {}  // 4 MiB
};

TEST_P(SmallShareTest, CopiesTakeTheirShareAndTheLongestNotUsedGo) {
  const auto get = [&](const std::string& key, uint64_t bytes) {
    return getter->Call(Op::kGetH2D, 1, {Blobs(key, to, 1, bytes)}).results[0].code;
  };
  for (const std::string key : {"a", "b", "c"}) {
    ASSERT_EQ(setter->Call(Op::kSetD2H, 0, {Blobs(key, from, 1, 3 * kMiB / 2)}).results[0].code, 0U);
    EXPECT_EQ(get(key, 3 * kMiB / 2), 0U);
    WaitReplica(key);
  }
  EXPECT_EQ(reader().Stats().objects, 2U);
  EXPECT_FALSE(IsReplica("a"));
  Eventually(
      [&] {
        const std::lock_guard lock(directory.mutex);
        return directory.forgotten == 1;
      },
      "the owner hears of the one that made room");
  // More than the share: read all the same, without a copy.
  ASSERT_EQ(setter->Call(Op::kSetD2H, 0, {Blobs("large", from, 1, 5 * kMiB)}).results[0].code, 0U);
  EXPECT_EQ(get("large", 5 * kMiB), 0U);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 5 * kMiB), 0);
  EXPECT_EQ(reader().Stats().objects, 2U);
  EXPECT_EQ(reader().Asked(Op::kAddLocation), 3);
}

INSTANTIATE_TEST_SUITE_P(Transports, SmallShareTest, ::testing::Values("tcp"));

class NoShareTest : public ReplicaTest {
 protected:
  NoShareTest() : ReplicaTest("0") {}
};

TEST_P(NoShareTest, NothingIsLeft) {
  Set("a");
  ExpectGet("a", 1);
  ExpectGet("a", 1);
  EXPECT_EQ(reader().Asked(Op::kAddLocation), 0);
  EXPECT_EQ(reader().Stats().arenaUsedBytes, 0U);
}

TEST_P(NoShareTest, AChecksumOfZeroIsOneToo) {
  constexpr unsigned char kBytes[] = {0xab, 0x9b, 0xe0, 0x9b};
  ASSERT_EQ(Crc32c(std::as_bytes(std::span(kBytes))), 0U);
  std::memcpy(source.data(), kBytes, sizeof(kBytes));
  const Reply set = setter->Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 4)}, {0, 0, layout::kSetChecksum, 0});
  ASSERT_EQ(set.results[0].code, 0U);
  EXPECT_EQ(getter->Call(Op::kGetH2D, 1, {Blobs("a", to, 1, 4)}).results[0].code, 0U);
  const int storeFd = workers[0]->control->peer().storeFd();
  const auto size = static_cast<size_t>(::lseek(storeFd, 0, SEEK_END));
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, storeFd, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* found = static_cast<std::byte*>(::memmem(mapped, size, kBytes, sizeof(kBytes)));
  ASSERT_NE(found, nullptr);
  *found ^= std::byte{1};
  ::munmap(mapped, size);
  EXPECT_EQ(getter->Call(Op::kGetH2D, 1, {Blobs("a", to, 1, 4)}).results[0].code,
            CodeOf(StatusCode::kDataInconsistency));
}

INSTANTIATE_TEST_SUITE_P(Transports, NoShareTest, ::testing::Values("tcp", "shm"));

}  // namespace
}  // namespace hbmesh::sidecar::testing
