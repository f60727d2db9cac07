// Goal: requests whose keys end one by one tell of each key in the sidecar's order, and each key ends exactly once,
// whatever the sidecar does: a reply that repeats itself, names a key that isn't there or comes too late ends the
// session. Method: a sidecar of this test's own that sends what the test says.
#include <gtest/gtest.h>

#include "client/client.h"
#include "client/fake_sidecar.h"
#include "client/key_batch.h"
#include "device/sim_heap.h"

namespace hbmesh {
namespace {

using layout::KeyEvent;
using layout::KeyStage;
using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

constexpr uint32_t kKeys = 3;

KeyEvent Event(uint32_t keyIndex, KeyStage stage, StatusCode code = StatusCode::kOk) {
  return {keyIndex, static_cast<uint32_t>(stage), static_cast<uint32_t>(code), 0, 0, 0, 0};
}

void SendEvents(FakeSidecar& sidecar, const layout::Entry& request, uint16_t flags, StatusCode code,
                const std::vector<KeyEvent>& events) {
  layout::Entry entry = request;
  entry.flags = static_cast<uint16_t>(layout::kFlagReply | flags);
  entry.code = static_cast<uint32_t>(code);
  sidecar.Send(entry, test::MakeDeviceReply(events));
}
void More(FakeSidecar& sidecar, const layout::Entry& request, const std::vector<KeyEvent>& events) {
  SendEvents(sidecar, request, layout::kFlagMore, StatusCode::kOk, events);
}
void Last(FakeSidecar& sidecar, const layout::Entry& request, StatusCode code,
          const std::vector<KeyEvent>& events = {}) {
  SendEvents(sidecar, request, 0, code, events);
}

// What one request led to, in order: "accepted 0", "ended 1 OK", "complete RPC_CANCELLED".
struct Fixture {
  explicit Fixture(std::function<void(FakeSidecar&, Message&)> onMessage) : sidecar(Behaviour(std::move(onMessage))) {
    SimHeapOptions heapOptions;
    heapOptions.segmentBytesMin = 1 << 20;
    EXPECT_TRUE(SimHeap::Create(heapOptions, &heap).ok());
    ClientOptions options;
    options.workerAddress = sidecar.address();
    options.closeGraceMs = 20;  // some of these sidecars never answer
    const auto onEvents = [this](RequestEvents&& events) {
      DeviceReplyView view;
      EXPECT_TRUE(DecodeDeviceReply(kKeys, events.payload, &view).ok());
      Tell(view);
    };
    const auto onComplete = [this](Completion&& completion) {
      DeviceReplyView view;
      const bool decoded = !completion.answered || DecodeDeviceReply(kKeys, completion.payload, &view).ok();
      EXPECT_TRUE(decoded);
      Tell(view);
      lastMessage = completion.message;
      story.Put("complete " + std::string(StatusCodeName(completion.code)));
    };
    const auto onClosed = [this](const Status& reason) { closed.Put(reason); };
    const Status status = Client::Connect(options, heap.get(), {onComplete, onEvents, onClosed}, &client);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }

  static FakeBehaviour Behaviour(std::function<void(FakeSidecar&, Message&)> onMessage) {
    FakeBehaviour behaviour;
    behaviour.onMessage = std::move(onMessage);
    return behaviour;
  }

  void Tell(const DeviceReplyView& view) {
    for (const KeyEvent& event : view.events) {
      const std::string key = std::to_string(event.keyIndex);
      if (event.stage == static_cast<uint32_t>(KeyStage::kAccepted)) {
        story.Put("accepted " + key);
      } else {
        story.Put("ended " + key + " " + std::string(StatusCodeName(static_cast<StatusCode>(event.code))));
      }
    }
  }

  uint64_t Subscribe() {
    const std::vector<std::string_view> keys = {"a", "b", "c"};
    const std::vector<uint32_t> ends = {1, 2, 3};
    std::byte* memory = nullptr;
    EXPECT_TRUE(heap->Allocate(0, 4096, &memory).ok());
    const std::vector<uint64_t> pointers(kKeys, reinterpret_cast<uint64_t>(memory));
    const std::vector<uint64_t> sizes(kKeys, 64);
    std::vector<std::byte> batch;
    EXPECT_TRUE(EncodeKeyBatch(keys, &batch).ok());
    ObjectCall call;
    call.op = layout::Op::kDevSubscribe;
    call.keys = batch;
    call.keyCount = kKeys;
    call.blobEnds = ends;
    call.pointers = pointers;
    call.sizes = sizes;
    uint64_t id = 0;
    EXPECT_TRUE(client->Submit(call, Registration::kAllowed, &id).ok());
    return id;
  }

  FakeSidecar sidecar;
  std::unique_ptr<SimHeap> heap;
  test::Inbox<std::string> story;
  test::Inbox<Status> closed;
  std::string lastMessage;  // read after "complete" was seen
  std::unique_ptr<Client> client;
};

using Story = std::vector<std::string>;

TEST(ClientEvents, ComeInTheSidecarsOrder) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    More(self, message.entry, {Event(2, KeyStage::kAccepted), Event(0, KeyStage::kAccepted)});
    More(self, message.entry, {Event(2, KeyStage::kEnded)});
    More(self, message.entry, {});
    More(self, message.entry, {Event(1, KeyStage::kEnded, StatusCode::kNotFound)});
    Last(self, message.entry, StatusCode::kOk, {Event(0, KeyStage::kEnded)});
  });
  fixture.Subscribe();
  const Story expected = {"accepted 2", "accepted 0", "ended 2 OK", "ended 1 NOT_FOUND", "ended 0 OK", "complete OK"};
  EXPECT_EQ(fixture.story.Wait(6), expected);
}

TEST(ClientEvents, ManyRequestsDontMix) {
  std::vector<layout::Entry> kept;
  Fixture fixture([&kept](FakeSidecar& self, Message& message) {
    kept.push_back(message.entry);
    if (kept.size() < 2) return;
    More(self, kept[1], {Event(0, KeyStage::kEnded)});
    More(self, kept[0], {Event(0, KeyStage::kEnded)});
    for (const layout::Entry& each : kept) Last(self, each, StatusCode::kRpcPeerDead);
  });
  fixture.Subscribe();
  fixture.Subscribe();
  const Story expected = {"ended 0 OK", "ended 0 OK", "complete RPC_PEER_DEAD", "complete RPC_PEER_DEAD"};
  EXPECT_EQ(fixture.story.Wait(4), expected);
}

struct Violation {
  const char* name;
  std::vector<KeyEvent> first;
  std::vector<KeyEvent> second;
  const char* says;
};

TEST(ClientEvents, ViolationsEndTheSessionAndEachKeyOnce) {
  const Violation violations[] = {
      {"a key ends twice", {Event(0, KeyStage::kEnded)}, {Event(0, KeyStage::kEnded)}, "key 0 ended before"},
      {"accepted twice", {Event(1, KeyStage::kAccepted)}, {Event(1, KeyStage::kAccepted)}, "key 1 was accepted before"},
      {"accepted after its end", {Event(1, KeyStage::kEnded)}, {Event(1, KeyStage::kAccepted)}, "key 1 ended before"},
      {"a key that isn't there", {}, {Event(3, KeyStage::kEnded)}, "key 3, where there are 3 keys"},
      {"no such stage", {}, {Event(0, static_cast<KeyStage>(3))}, "stage 3"},
      {"a message outside", {}, {KeyEvent{0, 2, 0, 0, 8, 8, 0}}, "outside of the messages"},
  };
  for (const Violation& violation : violations) {
    SCOPED_TRACE(violation.name);
    Fixture fixture([&violation](FakeSidecar& self, Message& message) {
      if (!violation.first.empty()) More(self, message.entry, violation.first);
      More(self, message.entry, violation.second);
    });
    fixture.Subscribe();
    const size_t before = violation.first.size();
    const Story story = fixture.story.Wait(before + 1);
    ASSERT_EQ(story.size(), before + 1);
    EXPECT_EQ(story.back(), "complete DATA_INCONSISTENCY");
    const auto closed = fixture.closed.Wait(1);
    ASSERT_EQ(closed.size(), 1U);
    EXPECT_TRUE(Says(closed[0].message(), violation.says));
    EXPECT_TRUE(Says(closed[0].message(), "same release"));
  }
}

TEST(ClientEvents, OkWithOpenKeysIsAViolation) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    Last(self, message.entry, StatusCode::kOk, {Event(0, KeyStage::kEnded)});
  });
  fixture.Subscribe();
  EXPECT_EQ(fixture.story.Wait(1), (Story{"complete DATA_INCONSISTENCY"}));
  EXPECT_TRUE(Says(fixture.closed.Wait(1).at(0).message(), "2 of its keys were open"));
}

TEST(ClientEvents, AfterTheRequestsEndAreAViolation) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    Last(self, message.entry, StatusCode::kInvalid);
    More(self, message.entry, {Event(0, KeyStage::kEnded)});
  });
  fixture.Subscribe();
  EXPECT_EQ(fixture.story.Wait(1), (Story{"complete INVALID"}));
  EXPECT_TRUE(Says(fixture.closed.Wait(1).at(0).message(), "not outstanding"));
}

TEST(ClientEvents, MoreRepliesToAnOrdinaryRequestAreAViolation) {
  Fixture fixture([](FakeSidecar& self, Message& message) { More(self, message.entry, {}); });
  const std::vector<std::string_view> keys = {"a"};
  std::vector<std::byte> batch;
  ASSERT_TRUE(EncodeKeyBatch(keys, &batch).ok());
  ObjectCall call;
  call.op = layout::Op::kDevDelete;
  call.keys = batch;
  call.keyCount = 1;
  uint64_t id = 0;
  ASSERT_TRUE(fixture.client->Submit(call, Registration::kAllowed, &id).ok());
  EXPECT_EQ(fixture.story.Wait(1), (Story{"complete DATA_INCONSISTENCY"}));
}

TEST(ClientEvents, CancelOfOneKeyNamesIt) {
  layout::Entry request{};
  test::Inbox<std::pair<uint64_t, uint64_t>> cancels;
  Fixture fixture([&](FakeSidecar& self, Message& message) {
    if (message.entry.op != static_cast<uint16_t>(layout::Op::kCancel)) {
      request = message.entry;
      More(self, request, {Event(0, KeyStage::kEnded)});
      return;
    }
    cancels.Put({message.entry.args[0], message.entry.args[1]});
    if (message.entry.args[1] != 0) {
      const auto keyIndex = static_cast<uint32_t>(message.entry.args[1] - 1);
      More(self, request, {Event(keyIndex, KeyStage::kEnded, StatusCode::kRpcCancelled)});
    } else {
      Last(self, request, StatusCode::kRpcCancelled);
    }
  });
  const uint64_t id = fixture.Subscribe();
  ASSERT_EQ(fixture.story.Wait(1).size(), 1U);
  fixture.client->CancelKey(id, 0);  // ended: nothing is sent
  fixture.client->CancelKey(id, 7);  // no such key
  fixture.client->CancelKey(id, 2);
  ASSERT_EQ(fixture.story.Wait(2).at(1), "ended 2 RPC_CANCELLED");
  fixture.client->CancelKey(id, 1);  // the last one that is open: the request
  EXPECT_EQ(fixture.story.Wait(3).at(2), "complete RPC_CANCELLED");
  fixture.client->CancelKey(id, 1);
  fixture.client->Cancel(id);
  const std::vector<std::pair<uint64_t, uint64_t>> expected = {{id, 3}, {id, 0}};
  EXPECT_EQ(cancels.Wait(2), expected);
}

TEST(ClientEvents, DeathOfTheSidecarEndsWhatIsOpen) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    More(self, message.entry, {Event(1, KeyStage::kEnded), Event(0, KeyStage::kAccepted)});
    self.Die();
  });
  fixture.Subscribe();
  const Story expected = {"ended 1 OK", "accepted 0", "complete CLIENT_WORKER_DISCONNECT"};
  EXPECT_EQ(fixture.story.Wait(3), expected);
  EXPECT_TRUE(Says(fixture.lastMessage, "connect again"));
}

TEST(ClientEvents, CloseEndsWhatIsOpen) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    if (message.entry.op == static_cast<uint16_t>(layout::Op::kDevSubscribe)) {
      More(self, message.entry, {Event(1, KeyStage::kEnded)});
    }
  });
  fixture.Subscribe();
  ASSERT_EQ(fixture.story.Wait(1).size(), 1U);
  fixture.client->Close();
  const Story expected = {"ended 1 OK", "complete SHUTTING_DOWN"};
  EXPECT_EQ(fixture.story.Wait(2), expected);
}

TEST(KeyBatch, IsThatOfTheLayout) {
  const std::vector<std::string_view> keys = {"a", "", "bcd"};
  std::vector<std::byte> batch;
  ASSERT_TRUE(EncodeKeyBatch(keys, &batch).ok());
  EXPECT_EQ(batch, test::MakeKeyBatch({"a", "", "bcd"}));
  ASSERT_TRUE(EncodeKeyBatch({}, &batch).ok());
  EXPECT_EQ(batch, test::MakeKeyBatch({}));
}

}  // namespace
}  // namespace hbmesh
