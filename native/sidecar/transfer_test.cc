// Goal: sets and gets do what docs/API.md promises, on one worker and between two, over both transports, and what ends
// in the middle leaves nothing half-done. Method: real sidecar processes with simulated devices; a client and a control
// process that speak the real socket and channel; bytes are compared.
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

// A set that replaces reserves its keys first; others reserve and commit at once (at_once_test.cc).
constexpr std::array<uint64_t, 4> kReplacing = {2, 0, 0, 0};

TEST(TransferTest, SetThenGetLocally) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory source(1 << 20);
  DeviceMemory target(1 << 20);
  source.Fill(1);
  const uint32_t from = client.MustRegister(0, source);
  const uint32_t to = client.MustRegister(3, target);
  const Reply set = client.Call(Op::kSetD2H, 0, {Blobs("a", from, 61, 1000), Blobs("b", from, 3, 72 << 10, 61 * 1000)});
  ASSERT_EQ(set.code, StatusCode::kOk) << set.text;
  ASSERT_EQ(set.results.size(), 2U);
  EXPECT_EQ(set.results[0].code, 0U) << set.texts[0];
  EXPECT_EQ(set.results[0].bytes, 61'000U);
  EXPECT_EQ(set.results[1].flags, 0U);
  ASSERT_EQ(set.paths.size(), 1U);
  EXPECT_EQ(set.paths[0].transport, static_cast<uint32_t>(layout::TransportId::kLocal));
  EXPECT_EQ(set.paths[0].bytes, 61'000U + 3 * (72 << 10));
  EXPECT_STREQ(set.paths[0].source, worker.process.workerAddress().c_str());
  const Reply get = client.Call(Op::kGetH2D, 3, {Blobs("b", to, 3, 72 << 10, 61 * 1000), Blobs("a", to, 61, 1000)});
  ASSERT_EQ(get.code, StatusCode::kOk) << get.text;
  EXPECT_EQ(get.results[0].code, 0U);
  EXPECT_EQ(get.results[1].code, 0U);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 61'000 + 3 * (72 << 10)), 0);
  EXPECT_EQ(worker.control->Asked(Op::kLookup), 0) << "a local hit asks nobody";
  // Existence: skip, fail, replace.
  const Reply skip = client.Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 64)});
  EXPECT_EQ(skip.results[0].flags, layout::kExisted);
  EXPECT_EQ(skip.results[0].bytes, 61'000U);
  const Reply fail = client.Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 64)}, {1, 0, 0, 0});
  EXPECT_EQ(fail.results[0].code, CodeOf(StatusCode::kKeyAlreadyExists));
  EXPECT_NE(fail.texts[0].find("delete it first"), std::string::npos);
  const Reply replace = client.Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 64, 512)}, {2, 0, 0, 0});
  EXPECT_EQ(replace.results[0].code, 0U);
  const Reply again = client.Call(Op::kGetH2D, 3, {Blobs("a", to, 1, 64)});
  EXPECT_EQ(again.results[0].code, 0U);
  EXPECT_EQ(std::memcmp(source.data() + 512, target.data(), 64), 0);
  EXPECT_EQ(worker.control->Stats().objects, 2U);
  EXPECT_EQ(worker.control->Stats().holds, 0U);
}

TEST(TransferTest, ShapeMismatchNamesBoth) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  (void)client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 100)});
  const Reply count = client.Call(Op::kGetH2D, 0, {Blobs("a", region, 1, 200)});
  EXPECT_EQ(count.results[0].code, CodeOf(StatusCode::kInvalid));
  EXPECT_NE(count.texts[0].find("1 blob of 200 bytes"), std::string::npos) << count.texts[0];
  EXPECT_NE(count.texts[0].find("2 blobs of 100, 100 bytes"), std::string::npos) << count.texts[0];
}

TEST(TransferTest, QueriesAndDelete) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  (void)client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 100)});
  const Reply exist = client.Call(Op::kExist, 0, {{"a", {}}, {"b", {}}});
  EXPECT_EQ(exist.results[0].code, 0U);
  EXPECT_EQ(exist.results[1].code, CodeOf(StatusCode::kNotFound));
  const Reply meta = client.Call(Op::kGetMeta, 0, {{"b", {}}, {"a", {}}});
  ASSERT_EQ(meta.blobSizes.size(), 2U);
  EXPECT_EQ(meta.results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(meta.blobSizes[1], (std::vector<uint64_t>{100, 100}));
  EXPECT_EQ(meta.results[1].bytes, 200U);
  const Reply removed = client.Call(Op::kDelete, 0, {{"a", {}}, {"b", {}}});
  EXPECT_EQ(removed.results[0].flags, layout::kExisted);
  EXPECT_EQ(removed.results[1].flags, 0U);
  // The owner tells the holder; here the test does.
  const layout::HeldObject held{meta.results[1].generation, 0, 0};
  std::vector<std::byte> payload(sizeof(held));
  std::memcpy(payload.data(), &held, sizeof(held));
  const Message listed = worker.control->Ask(Op::kListHeld, 0, {});
  ASSERT_EQ(listed.entry.count, 1U);
  EXPECT_EQ(KeysOf(listed.payload), std::vector<std::string>{"a"});
  layout::CommitRecord record{};
  std::memcpy(&record, listed.payload.data() + listed.payload.size() - sizeof(record), sizeof(record));
  std::memcpy(payload.data() + offsetof(layout::HeldObject, slot), &record.slot, sizeof(record.slot));
  const Message described = worker.control->Ask(Op::kDescribe, 1, payload);
  ASSERT_EQ(described.payload.size(), 8U + 8U + 16U + 4U);
  uint32_t flags = 0;
  std::memcpy(&flags, described.payload.data() + 32, sizeof(flags));
  EXPECT_EQ(flags, layout::kHeldSealed);
  const Message dropped = worker.control->Ask(Op::kDrop, 1, payload);
  ASSERT_EQ(dropped.payload.size(), 4U);
  EXPECT_EQ(worker.control->Stats().objects, 0U);
  const Reply gone = client.Call(Op::kGetH2D, 0, {Blobs("a", region, 2, 100)});
  EXPECT_EQ(gone.results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_NE(gone.texts[0].find("set it first"), std::string::npos);
}

TEST(TransferTest, WaitingGetIsPerKeyAndCanBeCancelled) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  Client setter(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  const uint32_t setRegion = setter.MustRegister(0, memory);
  const uint64_t waiting = client.Submit(
      Op::kGetH2D, 0, {Blobs("late", region, 1, 64, 4096), Blobs("never", region, 1, 64, 8192)}, {60'000, 0, 0, 0});
  worker.control->WaitAsked(Op::kLookup, 1);
  memory.Fill(7);
  std::memset(memory.data() + 4096, 0, 64);
  EXPECT_EQ(setter.Call(Op::kSetD2H, 0, {Blobs("late", setRegion, 1, 64)}).results[0].code, 0U);
  // The key that came is scattered while the other one still waits.
  Eventually([&] { return std::memcmp(memory.data(), memory.data() + 4096, 64) == 0; }, "the late key is scattered");
  Message early;
  EXPECT_FALSE(client.TryReceive(&early, 0));
  (void)client.SubmitRaw(Op::kCancel, 0, {}, {waiting, 0, 0, 0});
  const Reply reply = client.WaitFor(waiting);
  EXPECT_EQ(reply.results[0].code, 0U);
  EXPECT_EQ(reply.results[1].code, CodeOf(StatusCode::kRpcCancelled));
  worker.control->WaitAsked(Op::kCancel, 1);  // the owners stop looking, too
  const Reply timedOut = client.Call(Op::kGetH2D, 0, {Blobs("never", region, 1, 64)}, {5, 0, 0, 0});
  EXPECT_EQ(timedOut.results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_NE(timedOut.texts[0].find("not set within 5 ms"), std::string::npos);
}

class RemoteTest : public ::testing::TestWithParam<std::string> {};

TEST_P(RemoteTest, GetFromAnotherWorker) {
  FakeDirectory directory;
  const std::vector<std::string> flags = {"--transport=" + GetParam(), "--slice_kb=64"};
  Worker first(directory, 1, flags);
  Worker second(directory, 2, flags);
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory source(4 << 20);
  DeviceMemory target(4 << 20);
  source.Fill(3);
  const uint32_t from = setter.MustRegister(0, source);
  const uint32_t to = getter.MustRegister(2, target);
  std::vector<KeyBlobs> set;
  std::vector<KeyBlobs> get;
  for (uint64_t i = 0; i < 8; ++i) {
    set.push_back(Blobs("k" + std::to_string(i), from, 5, 100'000, i * 500'000));
    get.push_back(Blobs("k" + std::to_string(i), to, 5, 100'000, i * 500'000));
  }
  for (const layout::KeyResult& result : setter.Call(Op::kSetD2H, 0, set).results) EXPECT_EQ(result.code, 0U);
  const Reply reply = getter.Call(Op::kGetH2D, 2, get);
  ASSERT_EQ(reply.code, StatusCode::kOk) << reply.text;
  for (size_t i = 0; i < reply.results.size(); ++i) EXPECT_EQ(reply.results[i].code, 0U) << reply.texts[i];
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 4'000'000), 0);
  ASSERT_EQ(reply.paths.size(), 1U);
  const auto id = GetParam() == "tcp" ? layout::TransportId::kTcp : layout::TransportId::kShm;
  EXPECT_EQ(reply.paths[0].transport, static_cast<uint32_t>(id));
  EXPECT_EQ(reply.paths[0].bytes, 4'000'000U);
  EXPECT_EQ(reply.paths[0].member, 1U);
  EXPECT_EQ(reply.paths[0].flags, 0U);
  if (GetParam() == "tcp") {
    EXPECT_GT(reply.paths[0].slices, 8U);
  } else {
    EXPECT_EQ(reply.paths[0].slices, 8U);  // shm cuts each object's read by itself
  }
  EXPECT_STREQ(reply.paths[0].source, first.process.workerAddress().c_str());
  // Shape: fewer blobs, and another size far behind.
  const Reply fewer = getter.Call(Op::kGetH2D, 2, {Blobs("k0", to, 4, 125'000)});
  EXPECT_EQ(fewer.results[0].code, CodeOf(StatusCode::kInvalid));
  EXPECT_NE(fewer.texts[0].find("5 blobs"), std::string::npos) << fewer.texts[0];
  Eventually([&] { return first.control->Stats().holds == 0; }, "the reader closes what it has opened");
}

TEST_P(RemoteTest, DroppedAtTheSourceIsReportedAndTriedAgain) {
  FakeDirectory directory;
  Worker first(directory, 1, {"--transport=" + GetParam()});
  Worker second(directory, 2, {"--transport=" + GetParam()});
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t from = setter.MustRegister(0, memory);
  const uint32_t to = getter.MustRegister(0, memory);
  (void)setter.Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 4096)});
  {
    const std::lock_guard lock(directory.mutex);
    FakeDirectory::Known& known = directory.known["a"];
    known.locations.insert(known.locations.begin(), {1, known.locations[0].slot + 1});  // a slot that is empty
  }
  const Reply reply = getter.Call(Op::kGetH2D, 0, {Blobs("a", to, 1, 4096)});
  EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
  Eventually(
      [&] {
        const std::lock_guard lock(directory.mutex);
        return directory.missing.size() == 1;
      },
      "the empty location is reported");
  {
    const std::lock_guard lock(directory.mutex);
    directory.known["a"].locations.resize(1);
  }
  const Reply gone = getter.Call(Op::kGetH2D, 0, {Blobs("a", to, 1, 4096)});
  EXPECT_EQ(gone.results[0].code, CodeOf(StatusCode::kTryAgain));
  EXPECT_NE(gone.texts[0].find("member 1"), std::string::npos) << gone.texts[0];
}

TEST_P(RemoteTest, SourceKilledInTheMiddleOfAGet) {
  FakeDirectory directory;
  Worker first(directory, 1, {"--transport=" + GetParam()});
  Worker second(directory, 2, {"--transport=" + GetParam()});
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t from = setter.MustRegister(0, memory);
  const uint32_t to = getter.MustRegister(0, memory);
  (void)setter.Call(Op::kSetD2H, 0, {Blobs("a", from, 1, 4096), Blobs("b", from, 1, 4096)});
  EXPECT_EQ(getter.Call(Op::kGetH2D, 0, {Blobs("a", to, 1, 4096)}).results[0].code, 0U);
  first.process.Signal(SIGSTOP);  // the get gets as far as the source, which never answers
  const uint64_t get = getter.Submit(Op::kGetH2D, 0, {Blobs("b", to, 1, 4096)});
  second.control->WaitAsked(Op::kLookup, 2);
  first.process.Signal(SIGKILL);
  const Reply reply = getter.WaitFor(get);
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcPeerDead)) << reply.texts[0];
  EXPECT_NE(reply.texts[0].find(first.process.workerAddress()), std::string::npos) << reply.texts[0];
  // And so does the next one, at once.
  EXPECT_EQ(getter.Call(Op::kGetH2D, 0, {Blobs("b", to, 1, 4096)}).results[0].code, CodeOf(StatusCode::kRpcPeerDead));
}

INSTANTIATE_TEST_SUITE_P(Transports, RemoteTest, ::testing::Values("tcp", "shm", "auto"));

// 16 MiB at the most, so that a get which is given up ends soon.
TEST(TransferTest, ShmReadsNeighbouringSlicesAsOneUpToALimit) {
  FakeDirectory directory;
  const std::vector<std::string> flags = {"--transport=shm", "--slice_kb=1024", "--arena_mb=96"};
  Worker first(directory, 1, flags);
  Worker second(directory, 2, flags);
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory source(18 << 20);
  DeviceMemory target(18 << 20);
  source.Fill(5);
  const uint32_t from = setter.MustRegister(0, source);
  const uint32_t to = getter.MustRegister(2, target);
  constexpr uint32_t kBlobBytes = 1 << 20;
  const std::pair<uint32_t, uint32_t> cases[] = {{15, 1}, {16, 1}, {17, 2}};
  for (const auto& [blobs, slices] : cases) {
    const std::string key = "of-" + std::to_string(blobs);
    EXPECT_EQ(setter.Call(Op::kSetD2H, 0, {Blobs(key, from, blobs, kBlobBytes)}).results[0].code, 0U);
    target.Fill(0);
    const Reply reply = getter.Call(Op::kGetH2D, 2, {Blobs(key, to, blobs, kBlobBytes)});
    ASSERT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(reply.paths[0].slices, slices) << key;
    EXPECT_EQ(std::memcmp(source.data(), target.data(), uint64_t{blobs} * kBlobBytes), 0) << key;
  }
}

TEST(TransferTest, ShmThatIsNotOfferedFallsBackAndSaysSo) {
  FakeDirectory directory;
  Worker first(directory, 1, {"--transport=tcp"});
  Worker second(directory, 2, {"--transport=shm"});
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory memory(1 << 20);
  (void)setter.Call(Op::kSetD2H, 0, {Blobs("a", setter.MustRegister(0, memory), 1, 4096)});
  const Reply reply = getter.Call(Op::kGetH2D, 0, {Blobs("a", getter.MustRegister(0, memory), 1, 4096)});
  ASSERT_EQ(reply.paths.size(), 1U) << reply.texts[0];
  EXPECT_EQ(reply.paths[0].transport, static_cast<uint32_t>(layout::TransportId::kTcp));
  EXPECT_EQ(reply.paths[0].flags, layout::kPathFallback);
}

TEST(TransferTest, ClientKilledInTheMiddleOfASetLeavesNothing) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  worker.control->Hold(Op::kReserve);
  DeviceMemory memory(1 << 20);
  {
    Client client(worker.process.workerAddress());
    (void)client.Submit(Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 4, 100'000)}, kReplacing);
    worker.control->WaitAsked(Op::kReserve, 1);
    EXPECT_GT(worker.control->Stats().arenaUsedBytes, 0U);
    client.Die();
  }
  Eventually([&] { return worker.control->Stats().sessions == 0; }, "the session is closed");
  worker.control->Unhold(Op::kReserve);
  Eventually([&] { return worker.control->Stats().arenaUsedBytes == 0; }, "its memory is free again");
  EXPECT_EQ(worker.control->Stats().objects, 0U);
  EXPECT_TRUE(directory.IsEmpty());
}

TEST(TransferTest, ControlKilledThenLocalHitsGoOnAndANewOneTakesOver) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  (void)client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 4096)});
  worker.control->Hold(Op::kReserve);
  const uint64_t set = client.Submit(Op::kSetD2H, 0, {Blobs("b", region, 1, 4096)}, kReplacing);
  worker.control->WaitAsked(Op::kReserve, 1);
  worker.control->Die();
  const Reply lost = client.WaitFor(set);
  EXPECT_EQ(lost.results[0].code, CodeOf(StatusCode::kClientWorkerDisconnect));
  EXPECT_NE(lost.texts[0].find("try again"), std::string::npos);
  const Reply refused = client.Call(Op::kGetH2D, 0, {Blobs("b", region, 1, 4096), Blobs("a", region, 1, 4096)});
  EXPECT_EQ(refused.results[0].code, CodeOf(StatusCode::kRpcUnavailable)) << refused.texts[0];
  EXPECT_EQ(refused.results[1].code, 0U) << "local hits go on";
  worker.control = std::make_unique<FakeControl>(worker.process.workerAddress(), directory, 1);
  EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("b", region, 1, 4096)}).results[0].code, 0U);
  EXPECT_EQ(worker.control->Stats().objects, 2U);
}

TEST(TransferTest, ArenaFullIsOutOfMemoryForThatKeyOnly) {
  FakeDirectory directory;
  Worker worker(directory, 1, {});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(128 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  const Reply reply =
      client.Call(Op::kSetD2H, 0, {Blobs("big", region, 1, 100 << 20), Blobs("small", region, 1, 4096)});
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kOutOfMemory));
  EXPECT_FALSE(reply.texts[0].empty());
  EXPECT_EQ(reply.results[1].code, 0U) << reply.texts[1];
}

TEST(TransferTest, AdoptedAfterSigkill) {
  FakeDirectory directory;
  DeviceMemory memory(1 << 20);
  memory.Fill(5);
  Fd store;
  std::string address;
  {
    Worker worker(directory, 1);
    address = worker.process.workerAddress();
    Client client(address);
    const uint32_t region = client.MustRegister(0, memory);
    EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 4096)}).results[0].code, 0U);
    store = Fd(::dup(worker.control->peer().storeFd()));
    worker.control->Hold(Op::kCommit);
    (void)client.Submit(Op::kSetD2H, 0, {Blobs("half", region, 2, 4096)});
    worker.control->WaitAsked(Op::kCommit, 2);
    worker.process.Signal(SIGKILL);
    EXPECT_EQ(worker.process.Wait(), -SIGKILL);
  }
  SidecarProcess next(address, {}, store.get());
  EXPECT_EQ(next.ready(), "ready");
  FakeControl control(address, directory, 1);
  EXPECT_EQ(control.Stats().objects, 1U) << "what was not sealed is gone";
  Client client(address);
  DeviceMemory target(1 << 20);
  const Reply get = client.Call(Op::kGetH2D, 1, {Blobs("a", client.MustRegister(1, target), 2, 4096)});
  EXPECT_EQ(get.results[0].code, 0U);
  EXPECT_EQ(std::memcmp(memory.data(), target.data(), 8192), 0);
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
