// Goal: device objects do what docs/API.md promises on one worker: publish and subscribe in any order, the cache with
// several readers, families that don't mix, cancel, time limits, and the death of either end. Method: one real sidecar
// process with simulated devices, limited in speed where something is to happen in the middle; bytes are compared.
#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/clock.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMs20s = 20'000;

class DeviceTest : public ::testing::Test {
 protected:
  explicit DeviceTest(std::vector<std::string> flags = {}) : worker(directory, 1, std::move(flags)) {
    source.Fill(11);
    target.Fill(22);
    from = sender.MustRegister(0, source);
    to = receiver.MustRegister(1, target);
  }
  [[nodiscard]] bool Same(uint64_t bytes) const { return std::memcmp(source.data(), target.data(), bytes) == 0; }
  // Neither holds nor objects are left.
  void ExpectClean() {
    Eventually([&] { return worker.control->Stats().holds == 0; }, "no hold is left");
    const std::lock_guard lock(directory.mutex);
    EXPECT_TRUE(directory.known.empty());
  }

  FakeDirectory directory;
  Worker worker;
  Client sender{worker.process.workerAddress()};
  Client receiver{worker.process.workerAddress()};
  DeviceMemory source{4 << 20};
  DeviceMemory target{4 << 20};
  uint32_t from = 0;
  uint32_t to = 0;
};

TEST_F(DeviceTest, PublishThenSubscribe) {
  const uint64_t publish =
      sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 7, 100'000), Blobs("b", from, 1, 64, 2 << 20)});
  EXPECT_TRUE(sender.WaitAccepted(publish, 0).keys[0].accepted);
  const Events subscribed =
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 7, 100'000)}, {kMs20s, 0, 0, 0}));
  ASSERT_EQ(subscribed.code, StatusCode::kOk) << subscribed.text;
  EXPECT_EQ(subscribed.keys[0].code, StatusCode::kOk) << subscribed.keys[0].text;
  EXPECT_EQ(subscribed.keys[0].bytes, 700'000U);
  EXPECT_TRUE(Same(700'000));
  ASSERT_EQ(subscribed.paths.size(), 1U);
  EXPECT_EQ(subscribed.paths[0].transport, static_cast<uint32_t>(layout::TransportId::kLocal));
  EXPECT_EQ(subscribed.paths[0].bytes, 700'000U);
  EXPECT_EQ(subscribed.paths[0].device, 1U);
  EXPECT_FALSE(directory.Knows("a")) << "it is gone when the receiver is told";
  const Events& sent = sender.WaitEvents(publish, [](const Events& events) { return events.keys[0].ended; });
  EXPECT_EQ(sent.keys[0].code, StatusCode::kOk);
  EXPECT_FALSE(sent.over) << "the other key waits";
  EXPECT_FALSE(sent.keys[1].ended);
  (void)receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("b", to, 1, 64)}, {kMs20s, 0, 0, 0}));
  EXPECT_EQ(sender.WaitEnd(publish).keys[1].code, StatusCode::kOk);
  ExpectClean();
}

TEST_F(DeviceTest, SubscribeFirst) {
  const uint64_t subscribe = receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 2, 4096)}, {kMs20s, 0, 0, 0});
  worker.control->WaitAsked(Op::kLookup, 1);
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 4096)});
  EXPECT_EQ(receiver.WaitEnd(subscribe).keys[0].code, StatusCode::kOk) << receiver.Now(subscribe).keys[0].text;
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);
  EXPECT_TRUE(Same(8192));
  ExpectClean();
}

TEST_F(DeviceTest, PublishAgain) {
  const uint64_t first = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 4096)});
  (void)sender.WaitAccepted(first);
  const uint64_t retry = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 4096)});
  EXPECT_TRUE(sender.WaitAccepted(retry).keys[0].accepted) << "the same map";
  const Events other = sender.WaitEnd(sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 4096, 64)}));
  EXPECT_EQ(other.keys[0].code, StatusCode::kInvalid);
  EXPECT_NE(other.keys[0].text.find("other memory"), std::string::npos) << other.keys[0].text;
  // Another client's; what is good in its call stands.
  const uint64_t foreign = receiver.Submit(Op::kDevPublish, 1, {Blobs("a", to, 2, 4096), Blobs("b", to, 1, 64)});
  (void)receiver.WaitAccepted(foreign, 1);
  EXPECT_EQ(receiver.Now(foreign).keys[0].code, StatusCode::kInvalid);
  EXPECT_NE(receiver.Now(foreign).keys[0].text.find("another client"), std::string::npos);
  EXPECT_TRUE(directory.Knows("b"));
  EXPECT_EQ(receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 2, 4096)}, {kMs20s, 0, 0, 0}))
                .keys[0]
                .code,
            StatusCode::kOk);
  EXPECT_EQ(sender.WaitEnd(first).keys[0].code, StatusCode::kOk);
  EXPECT_EQ(sender.WaitEnd(retry).keys[0].code, StatusCode::kOk);
}

TEST_F(DeviceTest, SameCardAndWrongShapeAreInvalid) {
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 2, 4096)});
  (void)sender.WaitAccepted(publish);
  const uint32_t same = receiver.MustRegister(0, target);
  const Events card =
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 0, {Blobs("a", same, 2, 4096)}, {kMs20s, 0, 0, 0}));
  EXPECT_EQ(card.keys[0].code, StatusCode::kInvalid);
  EXPECT_NE(card.keys[0].text.find("device 0"), std::string::npos) << card.keys[0].text;
  const Events shape =
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 1, 8192)}, {kMs20s, 0, 0, 0}));
  EXPECT_EQ(shape.keys[0].code, StatusCode::kInvalid);
  EXPECT_NE(shape.keys[0].text.find("1 blob of 8192 bytes"), std::string::npos) << shape.keys[0].text;
  EXPECT_NE(shape.keys[0].text.find("2 blobs of 4096, 4096 bytes"), std::string::npos) << shape.keys[0].text;
  // It is still there for the right one.
  EXPECT_EQ(receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 2, 4096)}, {kMs20s, 0, 0, 0}))
                .keys[0]
                .code,
            StatusCode::kOk);
}

TEST_F(DeviceTest, FamiliesDontMix) {
  (void)sender.WaitAccepted(sender.Submit(Op::kDevPublish, 0, {Blobs("published", from, 1, 64)}));
  EXPECT_EQ(sender.Call(Op::kDevMSet, 0, {Blobs("cached", from, 1, 64)}).results[0].code, 0U);
  EXPECT_EQ(sender.Call(Op::kSetD2H, 0, {Blobs("host", from, 1, 64)}).results[0].code, 0U);
  const auto expect = [](const Reply& reply, const char* text) {
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kInvalid)) << text;
    EXPECT_NE(reply.texts[0].find(text), std::string::npos) << reply.texts[0];
  };
  expect(receiver.Call(Op::kGetH2D, 1, {Blobs("published", to, 1, 64)}), "use devSubscribe");
  expect(receiver.Call(Op::kGetH2D, 1, {Blobs("cached", to, 1, 64)}), "use devMGet");
  expect(receiver.Call(Op::kDevMGet, 1, {Blobs("published", to, 1, 64)}), "use devSubscribe");
  expect(receiver.Call(Op::kDevMGet, 1, {Blobs("host", to, 1, 64)}), "use mGetH2D");
  expect(receiver.Call(Op::kDelete, 0, {{"cached", {}}}), "devDelete");
  expect(receiver.Call(Op::kDevDelete, 0, {{"published", {}}}), "use devSubscribe");
  expect(receiver.Call(Op::kSetD2H, 1, {Blobs("cached", to, 1, 64)}), "use devMGet");
  expect(sender.Call(Op::kDevMSet, 0, {Blobs("published", from, 1, 64)}), "use devSubscribe");
  const Events subscribe =
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("host", to, 1, 64)}, {kMs20s, 0, 0, 0}));
  EXPECT_EQ(subscribe.keys[0].code, StatusCode::kInvalid);
  EXPECT_NE(subscribe.keys[0].text.find("use mGetH2D"), std::string::npos) << subscribe.keys[0].text;
}

TEST_F(DeviceTest, TimeoutAndCancel) {
  const Events late = receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 1, 64)}, {5, 0, 0, 0}));
  EXPECT_EQ(late.keys[0].code, StatusCode::kFutureTimeout);
  EXPECT_NE(late.keys[0].text.find("5 ms"), std::string::npos) << late.keys[0].text;
  const uint64_t subscribe =
      receiver.Submit(Op::kDevSubscribe, 1, {Blobs("x", to, 1, 64), Blobs("y", to, 1, 64, 64)}, {kMs20s, 0, 0, 0});
  worker.control->WaitAsked(Op::kLookup, 2);
  (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {subscribe, 2, 0, 0});
  const Events& one = receiver.WaitEvents(subscribe, [](const Events& events) { return events.keys[1].ended; });
  EXPECT_EQ(one.keys[1].code, StatusCode::kRpcCancelled);
  EXPECT_FALSE(one.keys[0].ended) << "the other key waits on";
  (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {subscribe, 0, 0, 0});
  EXPECT_EQ(receiver.WaitEnd(subscribe).keys[0].code, StatusCode::kRpcCancelled);
  // A publication that is taken back is nowhere.
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 1, 64), Blobs("b", from, 1, 64)});
  (void)sender.WaitAccepted(publish, 1);
  (void)sender.SubmitRaw(Op::kCancel, 0, {}, {publish, 1, 0, 0});
  (void)sender.WaitEvents(publish, [](const Events& events) { return events.keys[0].ended; });
  EXPECT_EQ(sender.Now(publish).keys[0].code, StatusCode::kRpcCancelled);
  Eventually([&] { return !directory.Knows("a"); }, "the owner forgets it");
  EXPECT_TRUE(directory.Knows("b"));
  (void)sender.SubmitRaw(Op::kCancel, 0, {}, {publish, 0, 0, 0});
  (void)sender.WaitEnd(publish);
  Eventually([&] { return !directory.Knows("b"); }, "the owner forgets it");
  ExpectClean();
}

TEST_F(DeviceTest, CacheSetGetDelete) {
  const Reply set = sender.Call(Op::kDevMSet, 0, {Blobs("a", from, 3, 100'000), Blobs("b", from, 1, 64)});
  EXPECT_EQ(set.results[0].code, 0U) << set.texts[0];
  EXPECT_EQ(set.results[0].bytes, 300'000U);
  const Reply again = sender.Call(Op::kDevMSet, 0, {Blobs("a", from, 3, 100'000)});
  EXPECT_EQ(again.results[0].code, 0U);
  EXPECT_EQ(again.results[0].flags, layout::kExisted);
  EXPECT_EQ(sender.Call(Op::kDevMSet, 0, {Blobs("a", from, 3, 90'000)}).results[0].code, CodeOf(StatusCode::kInvalid));
  EXPECT_EQ(receiver.Call(Op::kDevMSet, 1, {Blobs("a", to, 3, 100'000)}).results[0].code, CodeOf(StatusCode::kInvalid));
  const Reply get = receiver.Call(Op::kDevMGet, 1, {Blobs("a", to, 3, 100'000), Blobs("none", to, 1, 64, 1 << 20)});
  EXPECT_EQ(get.results[0].code, 0U) << get.texts[0];
  EXPECT_TRUE(Same(300'000));
  EXPECT_EQ(get.results[1].code, CodeOf(StatusCode::kNotFound));
  ASSERT_EQ(get.paths.size(), 1U);
  EXPECT_EQ(get.paths[0].bytes, 300'000U);
  EXPECT_TRUE(directory.Knows("a")) << "the cache serves many readers";
  // What this worker holds, a family a message.
  const Message listed = worker.control->Ask(Op::kListHeld, 0, {});
  EXPECT_EQ(listed.entry.args[1], static_cast<uint64_t>(layout::Family::kDeviceCache)) << "of several, the last";
  EXPECT_EQ(listed.entry.flags & layout::kFlagMore, 0);
  std::vector<std::string> keys = KeysOf(listed.payload);
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(keys, (std::vector<std::string>{"a", "b"}));
  // Local delete: only by who set it.
  EXPECT_EQ(receiver.Call(Op::kDevLocalDelete, 0, {{"b", {}}}).results[0].flags, 0U);
  EXPECT_TRUE(directory.Knows("b"));
  EXPECT_EQ(sender.Call(Op::kDevLocalDelete, 0, {{"b", {}}}).results[0].flags, layout::kExisted);
  Eventually([&] { return !directory.Knows("b"); }, "the owner forgets it");
  EXPECT_EQ(receiver.Call(Op::kDevDelete, 0, {{"a", {}}}).results[0].flags, layout::kExisted);
  EXPECT_EQ(receiver.Call(Op::kDevMGet, 1, {Blobs("a", to, 3, 100'000)}).results[0].code,
            CodeOf(StatusCode::kNotFound));
}

TEST_F(DeviceTest, TheSettersExitEndsItsKeys) {
  {
    Client third(worker.process.workerAddress());
    const uint32_t region = third.MustRegister(2, source);
    (void)third.Call(Op::kDevMSet, 2, {Blobs("cached", region, 1, 64)});
    (void)third.WaitAccepted(third.Submit(Op::kDevPublish, 2, {Blobs("published", region, 1, 64)}));
    EXPECT_TRUE(directory.Knows("cached"));
    third.Die();
  }
  Eventually([&] { return !directory.Knows("cached") && !directory.Knows("published"); }, "both are forgotten");
  ExpectClean();
}

// 10 MB/s: 3 MiB take about 300 ms, in pieces of 64 KiB.
class SlowDeviceTest : public DeviceTest {
 protected:
  SlowDeviceTest() : DeviceTest({"--sim_bandwidth_mb_per_s=10", "--slice_kb=64"}) {}
  // Starts a transfer and waits until it is in the middle.
  uint64_t SubscribeToTheMiddle(Client& client, uint32_t region, uint32_t device = 1) {
    const uint64_t id = client.Submit(Op::kDevSubscribe, device, {Blobs("a", region, 3, 1 << 20)}, {kMs20s, 0, 0, 0});
    Eventually([&] { return worker.control->Stats().holds == 1; }, "the transfer begins");
    return id;
  }
};

TEST_F(SlowDeviceTest, PublisherKilledInTheMiddle) {
  Client third(worker.process.workerAddress());
  (void)third.WaitAccepted(third.Submit(Op::kDevPublish, 2, {Blobs("a", third.MustRegister(2, source), 3, 1 << 20)}));
  const uint64_t subscribe = SubscribeToTheMiddle(receiver, to);
  third.Die();
  const Events& ended = receiver.WaitEnd(subscribe);
  EXPECT_EQ(ended.keys[0].code, StatusCode::kRpcPeerDead) << ended.keys[0].text;
  EXPECT_FALSE(Same(3 << 20)) << "it did not wait for the bytes";
  ExpectClean();
}

TEST_F(SlowDeviceTest, SubscriberKilledInTheMiddleFreesTheKey) {
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 3, 1 << 20)});
  (void)sender.WaitAccepted(publish);
  {
    Client third(worker.process.workerAddress());
    DeviceMemory memory(4 << 20);
    (void)SubscribeToTheMiddle(third, third.MustRegister(2, memory), 2);
    third.Die();
  }
  EXPECT_FALSE(sender.Now(publish).keys[0].ended);
  const Events second =
      receiver.WaitEnd(receiver.Submit(Op::kDevSubscribe, 1, {Blobs("a", to, 3, 1 << 20)}, {kMs20s, 0, 0, 0}));
  EXPECT_EQ(second.keys[0].code, StatusCode::kOk) << second.keys[0].text;
  EXPECT_TRUE(Same(3 << 20));
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);
  ExpectClean();
}

// The call alone, or its only key: no further bytes are read, and what was offered is there for others.
TEST_F(SlowDeviceTest, CancelledInTheMiddle) {
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 3, 1 << 20)});
  (void)sender.WaitAccepted(publish);
  for (const uint64_t key : {0, 1}) {
    const uint64_t subscribe = SubscribeToTheMiddle(receiver, to);
    (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {subscribe, key, 0, 0});
    const Events& ended = receiver.WaitEnd(subscribe);
    EXPECT_EQ(ended.keys[0].code, StatusCode::kRpcCancelled) << ended.keys[0].text;
    EXPECT_EQ(ended.keys[0].text, "cancelled by the caller");
    EXPECT_EQ(worker.control->Stats().holds, 0U) << "answered while it was moved";
  }
  EXPECT_FALSE(Same(3 << 20));
  EXPECT_FALSE(sender.Now(publish).keys[0].ended);
  EXPECT_EQ(receiver.WaitEnd(SubscribeToTheMiddle(receiver, to)).keys[0].code, StatusCode::kOk);
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);

  EXPECT_EQ(sender.Call(Op::kDevMSet, 0, {Blobs("b", from, 3, 1 << 20)}).results[0].code, 0U);
  const uint64_t get = receiver.Submit(Op::kDevMGet, 1, {Blobs("b", to, 3, 1 << 20)});
  Eventually([&] { return worker.control->Stats().holds == 1; }, "the transfer begins");
  (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {get, 0, 0, 0});
  const Reply reply = receiver.WaitFor(get);
  ASSERT_EQ(reply.results.size(), 1U) << reply.text;
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcCancelled)) << reply.texts[0];
  EXPECT_EQ(worker.control->Stats().holds, 0U) << "answered while it was moved";
}

// A key that two devices have: its cancel is not a reason to read it from the other one.
TEST_F(SlowDeviceTest, ACancelledKeyIsNotReadFromItsOtherSource) {
  ASSERT_EQ(sender.Call(Op::kDevMSet, 0, {Blobs("a", from, 3, 1 << 20)}).results[0].code, 0U);
  Client third(worker.process.workerAddress());
  DeviceMemory memory(4 << 20);
  const Reply shared = third.Call(Op::kDevMGet, 2, {Blobs("a", third.MustRegister(2, memory), 3, 1 << 20)},
                                  {0, layout::kShareReplica, 0, 0});
  ASSERT_EQ(shared.results[0].code, 0U) << shared.texts[0];
  {
    const std::lock_guard lock(directory.mutex);
    ASSERT_EQ(directory.known["a"].locations.size(), 2U);
  }
  Eventually([&] { return worker.control->Stats().holds == 0; }, "nothing is read");
  const uint64_t get = receiver.Submit(Op::kDevMGet, 1, {Blobs("a", to, 3, 1 << 20)});
  Eventually([&] { return worker.control->Stats().holds == 1; }, "the transfer begins");
  (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {get, 1, 0, 0});
  const Reply reply = receiver.WaitFor(get);
  ASSERT_EQ(reply.results.size(), 1U) << reply.text;
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcCancelled)) << reply.texts[0];
  EXPECT_FALSE(Same(3 << 20));
  EXPECT_EQ(worker.control->Stats().holds, 0U) << "answered while it was moved";
}

// A cancel that came while bytes moved counts when they were for nothing.
TEST_F(SlowDeviceTest, PublisherThenSubscriberCancelInTheMiddle) {
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 3, 1 << 20)});
  (void)sender.WaitAccepted(publish);
  const uint64_t subscribe = SubscribeToTheMiddle(receiver, to);
  (void)sender.SubmitRaw(Op::kCancel, 0, {}, {publish, 1, 0, 0});
  // Answered behind the cancel, which is known then.
  EXPECT_EQ(sender.Call(Op::kDevLocalDelete, 0, {{"other", {}}}).code, StatusCode::kOk);
  EXPECT_FALSE(sender.Now(publish).keys[0].ended) << "it is read";
  (void)receiver.SubmitRaw(Op::kCancel, 0, {}, {subscribe, 0, 0, 0});
  EXPECT_EQ(receiver.WaitEnd(subscribe).keys[0].code, StatusCode::kRpcCancelled);
  const Events& ended = sender.WaitEnd(publish);
  EXPECT_EQ(ended.keys[0].code, StatusCode::kRpcCancelled);
  EXPECT_EQ(ended.keys[0].text, "cancelled by the caller");
  ExpectClean();
}

TEST_F(SlowDeviceTest, OneOfTwoSubscribersGetsIt) {
  const uint64_t publish = sender.Submit(Op::kDevPublish, 0, {Blobs("a", from, 3, 1 << 20)});
  (void)sender.WaitAccepted(publish);
  const uint64_t first = SubscribeToTheMiddle(receiver, to);
  Client third(worker.process.workerAddress());
  DeviceMemory memory(4 << 20);
  const uint64_t second =
      third.Submit(Op::kDevSubscribe, 2, {Blobs("a", third.MustRegister(2, memory), 3, 1 << 20)}, {600, 0, 0, 0});
  EXPECT_EQ(receiver.WaitEnd(first).keys[0].code, StatusCode::kOk);
  EXPECT_EQ(third.WaitEnd(second).keys[0].code, StatusCode::kFutureTimeout) << third.Now(second).keys[0].text;
  EXPECT_EQ(sender.WaitEnd(publish).keys[0].code, StatusCode::kOk);
}

TEST_F(SlowDeviceTest, DeleteDuringARead) {
  EXPECT_EQ(sender.Call(Op::kDevMSet, 0, {Blobs("a", from, 3, 1 << 20)}).results[0].code, 0U);
  const uint64_t get = receiver.Submit(Op::kDevMGet, 1, {Blobs("a", to, 3, 1 << 20)});
  Eventually([&] { return worker.control->Stats().holds == 1; }, "the transfer begins");
  layout::HeldObject held{};
  {
    const std::lock_guard lock(directory.mutex);
    held = {directory.known["a"].generation, directory.known["a"].locations[0].slot, 0};
  }
  EXPECT_EQ(sender.Call(Op::kDevDelete, 0, {{"a", {}}}).results[0].flags, layout::kExisted);
  std::vector<std::byte> payload(sizeof(held));
  std::memcpy(payload.data(), &held, sizeof(held));
  const Message dropped = worker.control->Ask(Op::kDrop, 1, payload);  // as the owner does
  ASSERT_EQ(dropped.payload.size(), 4U);
  const Reply reply = receiver.WaitFor(get);
  EXPECT_EQ(reply.results[0].code, 0U) << "who reads goes on: " << reply.texts[0];
  EXPECT_TRUE(Same(3 << 20));
  EXPECT_EQ(receiver.Call(Op::kDevMGet, 1, {Blobs("a", to, 3, 1 << 20)}).results[0].code,
            CodeOf(StatusCode::kNotFound));
  ExpectClean();
}

TEST_F(SlowDeviceTest, SetterKilledDuringARead) {
  {
    Client third(worker.process.workerAddress());
    (void)third.Call(Op::kDevMSet, 2, {Blobs("a", third.MustRegister(2, source), 3, 1 << 20)});
    const uint64_t get = receiver.Submit(Op::kDevMGet, 1, {Blobs("a", to, 3, 1 << 20)});
    Eventually([&] { return worker.control->Stats().holds == 1; }, "the transfer begins");
    third.Die();
    const Reply reply = receiver.WaitFor(get);
    EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcPeerDead)) << reply.texts[0];
  }
  ExpectClean();
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
