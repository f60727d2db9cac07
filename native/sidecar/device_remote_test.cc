// Goal: device objects between workers, over both transports: bytes go straight from device to device, many to many at
// once, further readers are served by those who share, and the death of either end reaches the other. Method: real
// sidecar processes; a hand-made peer that speaks the protocol of peer_protocol.h holds transfers in the middle.
#include <csignal>
#include <cstring>

#include "sidecar/control_service.h"
#include "sidecar/peer_protocol.h"
#include "sidecar/raw_peer.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMs20s = 20'000;

class DeviceRemoteTest : public ::testing::TestWithParam<std::string> {
 protected:
  explicit DeviceRemoteTest(uint32_t count = 2, const std::string& devices = "4") {
    for (uint32_t i = 0; i < count; ++i) {
      workers.push_back(std::make_unique<Worker>(
          directory, i + 1,
          std::vector<std::string>{"--transport=" + GetParam(), "--slice_kb=64", "--devices=" + devices}));
    }
    std::vector<FakeControl*> controls;
    std::vector<std::string> addresses;
    for (const auto& worker : workers) {
      controls.push_back(worker->control.get());
      addresses.push_back(worker->process.workerAddress());
    }
    Introduce(controls, addresses);
    source.Fill(31);
    target.Fill(32);
  }
  [[nodiscard]] const std::string& AddressOf(size_t worker) const { return workers[worker]->process.workerAddress(); }
  [[nodiscard]] layout::Location LocationOf(const std::string& key, uint64_t* generation) {
    const std::lock_guard lock(directory.mutex);
    *generation = directory.known[key].generation;
    return directory.known[key].locations.at(0);
  }
  size_t LocationCount(const std::string& key) {
    const std::lock_guard lock(directory.mutex);
    const auto found = directory.known.find(key);
    return found == directory.known.end() ? 0 : found->second.locations.size();
  }
  void ExpectNoHolds() {
    for (const auto& worker : workers) {
      Eventually([&] { return worker->control->Stats().holds == 0; }, "no hold is left");
    }
  }

  FakeDirectory directory;
  std::vector<std::unique_ptr<Worker>> workers;
  DeviceMemory source{8 << 20};
  DeviceMemory target{8 << 20};
};

TEST_P(DeviceRemoteTest, PublishSubscribe) {
  Client sender(AddressOf(0));
  Client receiver(AddressOf(1));
  const uint32_t from = sender.MustRegister(0, source);
  const uint32_t to = receiver.MustRegister(0, target);  // the same index on another worker is another card
  const std::vector<KeyBlobs> out = {Blobs("a", from, 5, 1'000'000),
                                     {"b", {{from, 6 << 20, 700}, {from, 7 << 20, 90}}}};
  const std::vector<KeyBlobs> in = {Blobs("a", to, 5, 1'000'000), {"b", {{to, 6 << 20, 700}, {to, 7 << 20, 90}}}};
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, out);
  const Events& received = receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 0, in, {kMs20s, 0, 0, 0}));
  for (const Events::Key& key : received.keys) EXPECT_EQ(key.code, StatusCode::kOk) << key.text;
  for (const Events::Key& key : sender.WaitEnd(publish).keys) EXPECT_EQ(key.code, StatusCode::kOk) << key.text;
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 5'000'000), 0);
  EXPECT_EQ(std::memcmp(source.data() + (6 << 20), target.data() + (6 << 20), 700), 0);
  EXPECT_NE(std::memcmp(source.data() + 5'000'000, target.data() + 5'000'000, 64), 0) << "and nothing else";
  uint64_t bytes = 0;
  const auto id = GetParam() == "tcp" ? layout::TransportId::kTcp : layout::TransportId::kShm;
  for (const layout::PathRecord& path : received.paths) {
    EXPECT_EQ(path.transport, static_cast<uint32_t>(id));
    EXPECT_EQ(path.member, 1U);
    EXPECT_EQ(path.flags, 0U) << "no staging";
    bytes += path.bytes;
  }
  EXPECT_EQ(bytes, 5'000'790U);
  EXPECT_FALSE(directory.Knows("a"));
  ExpectNoHolds();
}

TEST_P(DeviceRemoteTest, SubscribeFirstThenWrongShape) {
  Client sender(AddressOf(0));
  Client receiver(AddressOf(1));
  const uint32_t from = sender.MustRegister(0, source);
  const uint32_t to = receiver.MustRegister(0, target);
  const uint64_t wrong = receiver.Submit(Op::kDevSubscribe, 0, {Blobs("a", to, 3, 100)}, {kMs20s, 0, 0, 0});
  workers[1]->control->WaitAsked(Op::kLookup, 1);
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 150)});
  const Events::Key ended = receiver.WaitEnd(wrong).keys[0];
  EXPECT_EQ(ended.code, StatusCode::kInvalid);
  EXPECT_NE(ended.text.find("3 blobs of 100, 100, 100"), std::string::npos) << ended.text;
  EXPECT_NE(ended.text.find("2 blobs of 150, 150"), std::string::npos) << ended.text;
  const uint64_t right = receiver.Submit(Op::kDevSubscribe, 0, {Blobs("a", to, 2, 150)}, {kMs20s, 0, 0, 0});
  EXPECT_EQ(receiver.WaitEnd(right).keys[0].code, StatusCode::kOk);
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);
}

TEST_P(DeviceRemoteTest, PublisherKilledWhileItIsRead) {
  auto sender = std::make_unique<Client>(AddressOf(0));
  (void)sender->WaitAccepted(
      sender->Submit(Op::kDevPublish, 0, {Blobs("a", sender->MustRegister(0, source), 2, 100'000)}));
  uint64_t generation = 0;
  const layout::Location location = LocationOf("a", &generation);
  RawPeer reader(GetParam(), workers[0]->control->peer().welcome().transports);
  reader.Send<peer::OpenRecord>(peer::Type::kOpen, {{7, generation, location.slot, 1}});
  EXPECT_EQ(reader.Wait<peer::BlobRecord>(peer::Type::kBlobs).bytes, 100'000U);
  const auto opened = reader.Wait<peer::OpenedRecord>(peer::Type::kOpened);
  EXPECT_EQ(opened.code, 0U);
  EXPECT_EQ(opened.blobCount, 2U);
  // It is taken: a second one is sent away at once.
  reader.Send<peer::OpenRecord>(peer::Type::kOpen, {{8, generation, location.slot, 1}});
  EXPECT_EQ(reader.Wait<peer::OpenedRecord>(peer::Type::kOpened).code, CodeOf(StatusCode::kNotReady));
  sender->Die();
  const auto broken = reader.Wait<peer::HoldRecord>(peer::Type::kBroken);
  EXPECT_EQ(broken.hold, opened.hold);
  EXPECT_EQ(broken.code, CodeOf(StatusCode::kRpcPeerDead));
  Eventually([&] { return !directory.Knows("a"); }, "the owner forgets it");
  EXPECT_EQ(workers[0]->control->Stats().holds, 1U) << "its memory stays until the reader lets go";
  reader.Send<peer::CloseRecord>(peer::Type::kClose, {{opened.hold}});
  ExpectNoHolds();
}

TEST_P(DeviceRemoteTest, SubscribersSidecarKilledFreesTheKey) {
  Client sender(AddressOf(0));
  Client receiver(AddressOf(1));
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", sender.MustRegister(0, source), 2, 100'000)});
  (void)sender.WaitAccepted(publish);
  uint64_t generation = 0;
  const layout::Location location = LocationOf("a", &generation);
  auto reader = std::make_unique<RawPeer>(GetParam(), workers[0]->control->peer().welcome().transports);
  reader->Send<peer::OpenRecord>(peer::Type::kOpen, {{7, generation, location.slot, 1}});
  EXPECT_EQ(reader->Wait<peer::OpenedRecord>(peer::Type::kOpened).code, 0U);
  const uint64_t second = receiver.Submit(
      Op::kDevSubscribe, 0, {Blobs("a", receiver.MustRegister(0, target), 2, 100'000)}, {kMs20s, 0, 0, 0});
  workers[1]->control->WaitAsked(Op::kLookup, 3);  // sent away, looks again
  EXPECT_FALSE(receiver.Now(second).keys[0].ended);
  reader.reset();
  EXPECT_EQ(receiver.WaitEnd(second).keys[0].code, StatusCode::kOk) << receiver.Now(second).keys[0].text;
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 200'000), 0);
}

TEST_P(DeviceRemoteTest, PublishersSidecarKilled) {
  Client sender(AddressOf(0));
  Client receiver(AddressOf(1));
  const uint32_t from = sender.MustRegister(0, source);
  const uint32_t to = receiver.MustRegister(0, target);
  (void)sender.WaitAccepted(sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 1, 4096), Blobs("b", from, 1, 64)}), 1);
  EXPECT_EQ(
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 0, {Blobs("b", to, 1, 64)}, {kMs20s, 0, 0, 0})).keys[0].code,
      StatusCode::kOk);
  workers[0]->process.Signal(SIGSTOP);  // the subscribe gets as far as the source, which never answers
  const uint64_t subscribe = receiver.Submit(Op::kDevSubscribe, 0, {Blobs("a", to, 1, 4096)}, {kMs20s, 0, 0, 0});
  workers[1]->control->WaitAsked(Op::kLookup, 2);
  workers[0]->process.Signal(SIGKILL);
  const Events::Key ended = receiver.WaitEnd(subscribe).keys[0];
  EXPECT_EQ(ended.code, StatusCode::kRpcPeerDead) << ended.text;
  EXPECT_NE(ended.text.find(AddressOf(0)), std::string::npos) << ended.text;
}

TEST_P(DeviceRemoteTest, HostilePeers) {
  Client sender(AddressOf(0));
  (void)sender.WaitAccepted(sender.Submit(Op::kDevPublish, 0, {Blobs("a", sender.MustRegister(0, source), 1, 4096)}));
  uint64_t generation = 0;
  const layout::Location location = LocationOf("a", &generation);
  const std::string transports = workers[0]->control->peer().welcome().transports;
  {
    RawPeer peer(GetParam(), transports);
    // Slots, generations, modes and holds that were never given.
    peer.Send<peer::OpenRecord>(peer::Type::kOpen, {{1, generation, location.slot + 1, 1},
                                                    {2, generation + 1, location.slot, 1},
                                                    {3, generation, location.slot, 0},
                                                    {4, 0, location.slot, 77}});
    for (const StatusCode code :
         {StatusCode::kNotFound, StatusCode::kTryAgain, StatusCode::kNotFound, StatusCode::kNotFound}) {
      EXPECT_EQ(peer.Wait<peer::OpenedRecord>(peer::Type::kOpened).code, CodeOf(code));
    }
    peer.Send<peer::CloseRecord>(peer::Type::kConsumed, {{0}, {1ULL << 63 | 1}, {1ULL << 62 | 1}, {UINT64_MAX}});
    peer.Send<peer::CloseRecord>(peer::Type::kClose, {{0}, {1ULL << 63 | 1}, {1ULL << 62 | 1}, {UINT64_MAX}});
    peer.Send<peer::PushRecord>(peer::Type::kPush, {{5, 1, {1, 2}, 64, {1, 2}, 0, 1}});
    EXPECT_EQ(peer.Wait<peer::OpenedRecord>(peer::Type::kOpened).code, CodeOf(StatusCode::kNotFound));
  }
  {
    // The hold of one connection is none of another's.
    RawPeer owner(GetParam(), transports);
    owner.Send<peer::OpenRecord>(peer::Type::kOpen, {{1, generation, location.slot, 1}});
    const auto opened = owner.Wait<peer::OpenedRecord>(peer::Type::kOpened);
    ASSERT_EQ(opened.code, 0U);
    RawPeer thief(GetParam(), transports);
    thief.Send<peer::CloseRecord>(peer::Type::kConsumed, {{opened.hold}});
    thief.Send<peer::CloseRecord>(peer::Type::kClose, {{opened.hold}});
    thief.Send<peer::OpenRecord>(peer::Type::kOpen, {{1, generation, location.slot, 1}});
    EXPECT_EQ(thief.Wait<peer::OpenedRecord>(peer::Type::kOpened).code, CodeOf(StatusCode::kNotReady));
  }
  for (const peer::Type type : {peer::Type::kBlobs, peer::Type::kBroken, peer::Type::kClosed, peer::Type::kOpened}) {
    RawPeer peer(GetParam(), transports);
    peer.Send<peer::OpenedRecord>(type, {{}});  // what only a holder says, or a wrong size
    EXPECT_TRUE(peer.WaitDisconnect()) << static_cast<int>(type);
  }
  EXPECT_TRUE(directory.Knows("a")) << "nothing of that did any harm";
  ExpectNoHolds();
}

TEST_P(DeviceRemoteTest, AsManyKeysAsOneCallMayHave) {
  Client sender(AddressOf(0));
  Client receiver(AddressOf(1));
  const uint32_t from = sender.MustRegister(0, source);
  const uint32_t to = receiver.MustRegister(0, target);
  std::vector<KeyBlobs> out;
  std::vector<KeyBlobs> in;
  for (uint32_t i = 0; i < layout::kKeysPerCallMax; ++i) {
    out.push_back(Blobs("k" + std::to_string(i), from, 2, 64, i * 128));
    in.push_back(Blobs("k" + std::to_string(i), to, 2, 64, i * 128));
  }
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, out);
  const Events& received = receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 0, in, {60'000, 0, 0, 0}));
  for (const Events::Key& key : received.keys) ASSERT_EQ(key.code, StatusCode::kOk) << key.text;
  for (const Events::Key& key : sender.WaitEnd(publish).keys) ASSERT_EQ(key.code, StatusCode::kOk) << key.text;
  EXPECT_EQ(std::memcmp(source.data(), target.data(), layout::kKeysPerCallMax * 128), 0);
  ExpectNoHolds();
}

INSTANTIATE_TEST_SUITE_P(Transports, DeviceRemoteTest, ::testing::Values("tcp", "shm"));

class ManyReadersTest : public DeviceRemoteTest {
 protected:
  ManyReadersTest() : DeviceRemoteTest(3) {}
};

TEST_P(ManyReadersTest, ReadersThatShareServeTheNextOnes) {
  auto setter = std::make_unique<Client>(AddressOf(0));
  EXPECT_EQ(setter->Call(Op::kDevMSet, 0, {Blobs("a", setter->MustRegister(0, source), 4, 500'000)}).results[0].code,
            0U);
  Client first(AddressOf(1));
  const Reply shared = first.Call(Op::kDevMGet, 1, {Blobs("a", first.MustRegister(1, target), 4, 500'000)},
                                  {0, layout::kShareReplica, 0, 0});
  EXPECT_EQ(shared.results[0].code, 0U) << shared.texts[0];
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 2'000'000), 0);
  EXPECT_EQ(LocationCount("a"), 2U) << "who was answered is a source";
  Client readers(AddressOf(2));
  std::set<uint32_t> sources;
  for (uint32_t device = 0; device < 4; ++device) {
    DeviceMemory memory(2 << 20);
    const uint32_t region = readers.MustRegister(device, memory);
    const Reply reply = readers.Call(Op::kDevMGet, device, {Blobs("a", region, 4, 500'000)});
    ASSERT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(std::memcmp(source.data(), memory.data(), 2'000'000), 0);
    for (const layout::PathRecord& path : reply.paths) sources.insert(path.member);
  }
  EXPECT_EQ(sources, (std::set<uint32_t>{1, 2})) << "both sources were read from";
  setter->Die();
  Eventually(
      [&] {
        const std::lock_guard lock(directory.mutex);
        return directory.known["a"].locations.size() == 1;
      },
      "the setter's location is forgotten");
  DeviceMemory memory(2 << 20);
  const Reply last = readers.Call(Op::kDevMGet, 0, {Blobs("a", readers.MustRegister(0, memory), 4, 500'000)});
  EXPECT_EQ(last.results[0].code, 0U) << last.texts[0];
  ASSERT_EQ(last.paths.size(), 1U);
  EXPECT_EQ(last.paths[0].member, 2U) << "the replica serves on";
  EXPECT_EQ(std::memcmp(source.data(), memory.data(), 2'000'000), 0);
}

TEST_P(ManyReadersTest, AReaderThatSharesIsAnsweredByItsOwnerFirst) {
  Client setter(AddressOf(0));
  (void)setter.Call(Op::kDevMSet, 0, {Blobs("a", setter.MustRegister(0, source), 1, 500'000)});
  Client reader(AddressOf(1));
  const uint32_t to = reader.MustRegister(1, target);
  workers[1]->control->Hold(Op::kAddLocation);
  const uint64_t get = reader.Submit(Op::kDevMGet, 1, {Blobs("a", to, 1, 500'000)}, {0, layout::kShareReplica, 0, 0});
  workers[1]->control->WaitAsked(Op::kAddLocation, 1);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 500'000), 0);
  Message early;
  EXPECT_FALSE(reader.TryReceive(&early, 0)) << "the bytes are there, the owner doesn't know it yet";
  workers[1]->control->Unhold(Op::kAddLocation);
  EXPECT_EQ(reader.WaitFor(get).results[0].code, 0U);
  EXPECT_EQ(LocationCount("a"), 2U);
  // An owner that doesn't want it: the bytes are there all the same.
  workers[2]->control->Refuse(Op::kAddLocation, StatusCode::kNoSpace, 0);
  Client refused(AddressOf(2));
  DeviceMemory memory(1 << 20);
  const Reply reply = refused.Call(Op::kDevMGet, 1, {Blobs("a", refused.MustRegister(1, memory), 1, 500'000)},
                                   {0, layout::kShareReplica, 0, 0});
  EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
  EXPECT_EQ(std::memcmp(source.data(), memory.data(), 500'000), 0);
  EXPECT_EQ(refused.Call(Op::kDevLocalDelete, 0, {{"a", {}}}).results[0].flags, 0U) << "it offers nothing";
}

TEST_P(ManyReadersTest, AReaderThatSharesEndsWithItsControlProcessOrCancel) {
  Client setter(AddressOf(0));
  (void)setter.Call(Op::kDevMSet, 0, {Blobs("a", setter.MustRegister(0, source), 1, 500'000)});
  Client reader(AddressOf(1));
  const std::vector<KeyBlobs> keys = {Blobs("a", reader.MustRegister(1, target), 1, 500'000)};
  FakeControl& control = *workers[1]->control;
  control.Hold(Op::kAddLocation);
  const uint64_t cancelled = reader.Submit(Op::kDevMGet, 1, keys, {0, layout::kShareReplica, 0, 0});
  control.WaitAsked(Op::kAddLocation, 1);
  (void)reader.SubmitRaw(Op::kCancel, 0, {}, {cancelled, 0, 0, 0});
  EXPECT_EQ(reader.WaitFor(cancelled).results[0].code, 0U) << "the bytes are there";
  (void)reader.Call(Op::kDevLocalDelete, 0, {{"a", {}}});
  const uint64_t get = reader.Submit(Op::kDevMGet, 1, keys, {0, layout::kShareReplica, 0, 0});
  control.WaitAsked(Op::kAddLocation, 2);
  control.Die();
  EXPECT_EQ(reader.WaitFor(get).results[0].code, 0U);
  Eventually([&] { return workers[0]->control->Stats().holds == 0; }, "no hold is left");
}

TEST_P(ManyReadersTest, DevicesOfOneWorkerAreSourcesEach) {
  Client setter(AddressOf(0));
  const uint32_t own = setter.MustRegister(0, source);
  (void)setter.Call(Op::kDevMSet, 0, {Blobs("a", own, 1, 500'000)});
  Client near(AddressOf(0));
  DeviceMemory memories[] = {DeviceMemory(1 << 20), DeviceMemory(1 << 20)};
  const auto share = [&](Client& reader, uint32_t device, DeviceMemory& memory) {
    const Reply reply = reader.Call(Op::kDevMGet, device, {Blobs("a", reader.MustRegister(device, memory), 1, 500'000)},
                                    {0, layout::kShareReplica, 0, 0});
    EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(std::memcmp(source.data(), memory.data(), 500'000), 0);
  };
  share(near, 1, memories[0]);
  share(setter, 2, memories[1]);  // the setter itself, on another device
  EXPECT_EQ(LocationCount("a"), 3U);
  // A message of the list names each key once.
  EXPECT_EQ(workers[0]->control->Ask(Op::kListHeld, 0, {}).entry.count, 1U);
  // The same again is the same; both of the setter's go together.
  EXPECT_EQ(setter.Call(Op::kDevMSet, 0, {Blobs("a", own, 1, 500'000)}).results[0].flags, layout::kExisted);
  EXPECT_EQ(setter.Call(Op::kDevLocalDelete, 0, {{"a", {}}}).results[0].flags, layout::kExisted);
  Client far(AddressOf(1));
  const Reply reply = far.Call(Op::kDevMGet, 1, {Blobs("a", far.MustRegister(1, target), 1, 500'000)});
  EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 500'000), 0);
  Eventually([&] { return LocationCount("a") == 1; }, "the setter's locations are forgotten");
}

// The control process must know them apart: a key that was deleted while this worker was away must not come back by a
// reader's memory.
TEST_P(ManyReadersTest, WhatReadersShareIsListedApart) {
  Client setter(AddressOf(0));
  (void)setter.Call(Op::kDevMSet, 0, {Blobs("a", setter.MustRegister(0, source), 1, 500'000)});
  Client reader(AddressOf(1));
  const Reply shared = reader.Call(Op::kDevMGet, 1, {Blobs("a", reader.MustRegister(1, target), 1, 500'000)},
                                   {0, layout::kShareReplica, 0, 0});
  EXPECT_EQ(shared.results[0].code, 0U) << shared.texts[0];
  const uint64_t copies[] = {0, kListedCopies};
  for (const uint32_t worker : {0, 1}) {
    const Message listed = workers[worker]->control->Ask(Op::kListHeld, 0, {});
    EXPECT_EQ(listed.entry.count, 1U) << worker;
    EXPECT_EQ(listed.entry.args[1], static_cast<uint64_t>(layout::Family::kDeviceCache)) << worker;
    EXPECT_EQ(listed.entry.args[2], copies[worker]) << worker;
  }
}

TEST_P(ManyReadersTest, ManyReadersAtOnce) {
  Client setter(AddressOf(0));
  (void)setter.Call(Op::kDevMSet, 0, {Blobs("a", setter.MustRegister(0, source), 4, 500'000)});
  std::vector<std::unique_ptr<Client>> readers;
  std::vector<std::unique_ptr<DeviceMemory>> memories;
  std::vector<uint64_t> gets;
  for (uint32_t i = 0; i < 11; ++i) {
    readers.push_back(std::make_unique<Client>(AddressOf((i + 1) / 4)));
    memories.push_back(std::make_unique<DeviceMemory>(2 << 20));
    const uint32_t device = (i + 1) % 4;  // never the setter's own
    const uint32_t region = readers[i]->MustRegister(device, *memories[i]);
    gets.push_back(readers[i]->Submit(Op::kDevMGet, device, {Blobs("a", region, 4, 500'000)},
                                      {0, i % 2 == 0 ? uint64_t{layout::kShareReplica} : 0, 0, 0}));
  }
  for (size_t i = 0; i < readers.size(); ++i) {
    const Reply reply = readers[i]->WaitFor(gets[i]);
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(std::memcmp(source.data(), memories[i]->data(), 2'000'000), 0);
  }
  ExpectNoHolds();
}

INSTANTIATE_TEST_SUITE_P(Transports, ManyReadersTest, ::testing::Values("tcp", "shm"));

class ManyToManyTest : public DeviceRemoteTest {
 protected:
  ManyToManyTest() : DeviceRemoteTest(2, "8") {}
};

TEST_P(ManyToManyTest, SixteenDevicesEachToEach) {
  constexpr uint32_t kDevices = 16;
  constexpr uint64_t kBytes = 96 << 10;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::unique_ptr<DeviceMemory>> out;
  std::vector<std::unique_ptr<DeviceMemory>> in;
  std::vector<uint64_t> publishes;
  std::vector<uint64_t> subscribes;
  for (uint32_t me = 0; me < kDevices; ++me) {
    clients.push_back(std::make_unique<Client>(AddressOf(me / 8)));
    out.push_back(std::make_unique<DeviceMemory>(kDevices * kBytes));
    in.push_back(std::make_unique<DeviceMemory>(kDevices * kBytes));
    out.back()->Fill(100 + me);
    const uint32_t from = clients[me]->MustRegister(me % 8, *out[me]);
    const uint32_t to = clients[me]->MustRegister(me % 8, *in[me]);
    std::vector<KeyBlobs> sent;
    std::vector<KeyBlobs> received;
    for (uint32_t other = 0; other < kDevices; ++other) {
      if (other == me) continue;
      sent.push_back(Blobs(std::to_string(me) + "-" + std::to_string(other), from, 3, kBytes / 3, other * kBytes));
      received.push_back(Blobs(std::to_string(other) + "-" + std::to_string(me), to, 3, kBytes / 3, other * kBytes));
    }
    subscribes.push_back(clients[me]->Submit(Op::kDevSubscribe, me % 8, received, {60'000, 0, 0, 0}));
    publishes.push_back(clients[me]->Submit(Op::kDevPublish, me % 8, sent));
  }
  for (uint32_t me = 0; me < kDevices; ++me) {
    for (const Events::Key& key : clients[me]->WaitEnd(subscribes[me]).keys) {
      EXPECT_EQ(key.code, StatusCode::kOk) << key.text;
    }
    for (const Events::Key& key : clients[me]->WaitEnd(publishes[me]).keys) {
      EXPECT_EQ(key.code, StatusCode::kOk) << key.text;
    }
    for (uint32_t other = 0; other < kDevices; ++other) {
      if (other == me) continue;
      EXPECT_EQ(std::memcmp(in[me]->data() + other * kBytes, out[other]->data() + me * kBytes, kBytes), 0)
          << other << " to " << me;
    }
  }
  EXPECT_TRUE(directory.IsEmpty());
  ExpectNoHolds();
}

INSTANTIATE_TEST_SUITE_P(Transports, ManyToManyTest, ::testing::Values("tcp", "shm"));

}  // namespace
}  // namespace hbmesh::sidecar::testing
