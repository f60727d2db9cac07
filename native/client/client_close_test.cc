// Goal: once Close has returned, the sidecar no longer touches device memory of the client's requests, or the request's
// completion says that it may. Method: a sidecar of this test's own that answers cancels at once, late, or never. A
// grace that must not be used up is longer than the test runner's patience.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "client/client.h"
#include "client/fake_sidecar.h"
#include "client/key_batch.h"
#include "device/sim_heap.h"

namespace hbmesh {
namespace {

using layout::KeyEvent;
using layout::KeyStage;
using layout::Op;
using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

constexpr uint32_t kNeverMs = 3'600'000;

bool IsCancel(const Message& message) { return message.entry.op == static_cast<uint16_t>(Op::kCancel); }

struct Fixture {
  Fixture(uint32_t closeGraceMs, std::function<void(FakeSidecar&, Message&)> onMessage, ChannelOptions channel = {})
      : Fixture(closeGraceMs, Behaviour(std::move(onMessage), channel)) {}

  Fixture(uint32_t closeGraceMs, FakeBehaviour behaviour, uint64_t floorBytesPerSecond = 100'000'000)
      : sidecar(std::move(behaviour)) {
    SimHeapOptions heapOptions;
    heapOptions.segmentBytesMin = 1 << 20;
    EXPECT_TRUE(SimHeap::Create(heapOptions, &heap).ok());
    std::byte* allocated = nullptr;
    EXPECT_TRUE(heap->Allocate(0, 4096, &allocated).ok());
    memory = reinterpret_cast<uint64_t>(allocated);
    ClientOptions options;
    options.workerAddress = sidecar.address();
    options.closeGraceMs = closeGraceMs;
    options.floorBytesPerSecond = floorBytesPerSecond;
    const Status status = Client::Connect(options, heap.get(),
                                          {[this](Completion&& completion) { completions.Put(std::move(completion)); },
                                           [this](RequestEvents&& some) { events.Put(std::move(some)); },
                                           [this](const Status& reason) { closed.Put(reason); }},
                                          &client);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }

  static FakeBehaviour Behaviour(std::function<void(FakeSidecar&, Message&)> onMessage, ChannelOptions channel) {
    FakeBehaviour behaviour;
    behaviour.onMessage = std::move(onMessage);
    behaviour.channel = channel;
    return behaviour;
  }

  // A request of `keyCount` keys, each with the same blob.
  Status Send(Op op, uint32_t keyCount, uint64_t* id) {
    std::vector<std::string> names;
    std::vector<uint32_t> ends;
    for (uint32_t i = 0; i < keyCount; ++i) {
      names.push_back("key" + std::to_string(i));
      ends.push_back(i + 1);
    }
    const std::vector<std::byte> batch = test::MakeKeyBatch(names);
    const std::vector<uint64_t> pointers(keyCount, memory);
    const std::vector<uint64_t> sizes(keyCount, 64);
    ObjectCall call;
    call.op = op;
    call.keys = batch;
    call.keyCount = keyCount;
    if (CarriesBlobs(op)) {
      call.blobEnds = ends;
      call.pointers = pointers;
      call.sizes = sizes;
    }
    return client->Submit(call, Registration::kAllowed, id);
  }

  FakeSidecar sidecar;
  std::unique_ptr<SimHeap> heap;
  uint64_t memory = 0;
  test::Inbox<Completion> completions;
  test::Inbox<RequestEvents> events;
  test::Inbox<Status> closed;
  std::unique_ptr<Client> client;  // first to go
};

TEST(ClientClose, WaitsForTheSidecarsLastWordOnAGet) {
  layout::Entry get{};
  test::Inbox<uint64_t> cancels;
  Fixture fixture(kNeverMs, [&](FakeSidecar&, Message& message) {
    if (IsCancel(message)) {
      cancels.Put(message.entry.args[0]);
    } else {
      get = message.entry;
    }
  });
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kGetH2D, 1, &id).ok());
  std::atomic<bool> returned{false};
  std::thread closer([&] {
    fixture.client->Close();
    returned = true;
  });
  ASSERT_EQ(cancels.Wait(1), std::vector<uint64_t>{id});
  // The sidecar may still write into the memory here, so the request must not have ended.
  EXPECT_FALSE(returned.load());
  EXPECT_TRUE(fixture.completions.Wait(0).empty());
  uint64_t late = 0;
  EXPECT_EQ(fixture.Send(Op::kGetH2D, 1, &late).code(), StatusCode::kShuttingDown);
  fixture.sidecar.RunSoon([&] { fixture.sidecar.Reply(get, StatusCode::kRpcCancelled, {}); });
  closer.join();
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].id, id);
  EXPECT_FALSE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kShuttingDown);
  EXPECT_EQ(completions[0].message, "the client of worker " + fixture.sidecar.address() + " was closed");
  EXPECT_TRUE(fixture.closed.Wait(0).empty());
}

TEST(ClientClose, EndsACallWhoseMemoryIsBeingRegistered) {
  FakeBehaviour behaviour = Fixture::Behaviour([](FakeSidecar&, Message&) {}, {});
  behaviour.answersRegistrations = false;
  Fixture fixture(kNeverMs, std::move(behaviour));
  Status sent;
  std::thread caller([&] {
    uint64_t id = 0;
    sent = fixture.Send(Op::kGetH2D, 1, &id);
  });
  while (fixture.sidecar.registrations() == 0) std::this_thread::yield();
  fixture.client->Close();
  caller.join();
  EXPECT_EQ(sent.code(), StatusCode::kShuttingDown) << sent.ToString();
}

TEST(ClientClose, SaysSoWhenTheSidecarDoesNotConfirm) {
  Fixture fixture(30, [](FakeSidecar&, Message&) {});
  std::map<uint64_t, bool> carriesBlobs;
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kGetH2D, 1, &id).ok());
  carriesBlobs[id] = true;
  ASSERT_TRUE(fixture.Send(Op::kExist, 1, &id).ok());
  carriesBlobs[id] = false;
  fixture.client->Close();
  const auto completions = fixture.completions.Wait(2);
  ASSERT_EQ(completions.size(), 2U);
  for (const Completion& completion : completions) {
    EXPECT_EQ(completion.code, StatusCode::kShuttingDown);
    EXPECT_TRUE(Says(completion.message, "did not confirm within 30 ms"));
    const bool warns = completion.message.find("device memory may still be read or written") != std::string::npos;
    EXPECT_EQ(warns, carriesBlobs.at(completion.id)) << completion.message;
  }
}

// A sidecar that takes messages lives: bytes that move have the time that they may take, whatever the grace is.
TEST(ClientClose, WaitsForBytesThatMove) {
  layout::Entry kept{};
  std::thread answer;
  FakeBehaviour behaviour = Fixture::Behaviour(
      [&](FakeSidecar& self, Message& message) {
        if (!IsCancel(message)) {
          kept = message.entry;
          return;
        }
        answer = std::thread([&] {
          std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // the copy goes on
          self.RunSoon([&] { self.Reply(kept, StatusCode::kOk, test::MakeReply(1)); });
        });
      },
      {});
  Fixture fixture(1000, std::move(behaviour), 1);  // a blob of 64 bytes at 1 byte a second
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kSetD2H, 1, &id).ok());
  fixture.client->Close();
  answer.join();
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_TRUE(completions[0].answered) << completions[0].message;
  EXPECT_EQ(completions[0].code, StatusCode::kOk);
}

TEST(ClientClose, KeepsAnAnswerThatCameInTime) {
  layout::Entry kept{};
  Fixture fixture(kNeverMs, [&](FakeSidecar& self, Message& message) {
    if (IsCancel(message)) {
      self.Reply(kept, StatusCode::kOk, test::MakeReply(1));
    } else {
      kept = message.entry;
    }
  });
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kSetD2H, 1, &id).ok());
  fixture.client->Close();
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_TRUE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kOk);
}

TEST(ClientClose, AKeyThatTheCloseCancelledEndsTheCall) {
  layout::Entry kept{};
  Fixture fixture(kNeverMs, [&](FakeSidecar& self, Message& message) {
    if (!IsCancel(message)) {
      kept = message.entry;
      return;
    }
    std::vector<std::byte> payload = test::MakeReply(2);
    layout::KeyResult result{};
    result.code = static_cast<uint32_t>(StatusCode::kRpcCancelled);
    std::memcpy(payload.data() + sizeof(layout::ObjectReply) + sizeof(result), &result, sizeof(result));
    self.Reply(kept, StatusCode::kOk, payload);
  });
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kGetH2D, 2, &id).ok());
  fixture.client->Close();
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_FALSE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kShuttingDown);
}

// Keys that end by themselves: what ended well in time is told, what the close cancelled ends with the request.
TEST(ClientClose, TellsOfKeysThatEndedInTime) {
  for (const bool together : {false, true}) {
    SCOPED_TRACE(together ? "all events with the last reply" : "events before the last reply");
    layout::Entry kept{};
    Fixture fixture(kNeverMs, [&](FakeSidecar& self, Message& message) {
      if (!IsCancel(message)) {
        kept = message.entry;
        return;
      }
      const auto cancelled = static_cast<uint32_t>(StatusCode::kRpcCancelled);
      const auto ended = static_cast<uint32_t>(KeyStage::kEnded);
      const std::vector<KeyEvent> all = {{0, ended, cancelled, 0, 0, 3, 0}, {1, ended, 0, 0, 0, 0, 64}};
      const std::vector<std::byte> some = test::MakeDeviceReply(all, "why");
      layout::Entry reply = kept;
      reply.flags = layout::kFlagReply;
      if (!together) {
        reply.flags |= layout::kFlagMore;
        self.Send(reply, some);
        reply.flags = layout::kFlagReply;
      }
      self.Send(reply, together ? some : std::vector<std::byte>());
    });
    uint64_t id = 0;
    ASSERT_TRUE(fixture.Send(Op::kDevSubscribe, 2, &id).ok());
    fixture.client->Close();
    const auto events = fixture.events.Wait(1);
    ASSERT_EQ(events.size(), 1U);
    DeviceReplyView view;
    ASSERT_TRUE(DecodeDeviceReply(2, events[0].payload, &view).ok());
    ASSERT_EQ(view.events.size(), 1U);
    EXPECT_EQ(view.events[0].keyIndex, 1U);
    EXPECT_EQ(view.events[0].bytes, 64U);
    EXPECT_EQ(view.messages, "why");
    const auto completions = fixture.completions.Wait(1);
    ASSERT_EQ(completions.size(), 1U);
    EXPECT_FALSE(completions[0].answered);
    EXPECT_EQ(completions[0].code, StatusCode::kShuttingDown);
    EXPECT_TRUE(completions[0].payload.empty());
  }
}

TEST(ClientClose, DoesNotWaitForASidecarThatIsGone) {
  Fixture fixture(kNeverMs, [](FakeSidecar& self, Message& message) {
    if (IsCancel(message)) self.Die();
  });
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kGetH2D, 1, &id).ok());
  fixture.client->Close();
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].code, StatusCode::kClientWorkerDisconnect);
}

// The ring takes four entries: the others were never sent, so nobody has to be asked about them.
TEST(ClientClose, TakesBackWhatWasNotSent) {
  ChannelOptions channel;
  channel.entryCapacity = 4;
  channel.payloadCapacity = 1 << 16;
  std::vector<layout::Entry> requests;
  std::atomic<size_t> received{0};
  std::atomic<size_t> cancels{0};
  std::atomic<bool> holds{true};
  Fixture fixture(
      kNeverMs,
      [&](FakeSidecar& self, Message& message) {
        while (holds.load()) std::this_thread::yield();
        if (!IsCancel(message)) {
          requests.push_back(message.entry);
          ++received;
          return;
        }
        ++cancels;
        for (layout::Entry& request : requests) {
          if (request.id == message.entry.args[0]) self.Reply(request, StatusCode::kRpcCancelled, {});
        }
      },
      channel);
  constexpr size_t kRequests = 12;
  uint64_t id = 0;
  for (size_t i = 0; i < kRequests; ++i) ASSERT_TRUE(fixture.Send(Op::kExist, 1, &id).ok());
  std::thread closer([&] { fixture.client->Close(); });
  // Those that wait end although the sidecar takes nothing: at most five were sent (one is out of the ring again).
  EXPECT_GE(fixture.completions.Wait(kRequests - 5).size(), kRequests - 5);
  holds = false;
  closer.join();
  const auto completions = fixture.completions.Wait(kRequests);
  ASSERT_EQ(completions.size(), kRequests);
  for (const Completion& completion : completions) EXPECT_EQ(completion.code, StatusCode::kShuttingDown);
  EXPECT_GE(received.load(), 1U);
  EXPECT_LE(received.load(), 5U);
  EXPECT_EQ(cancels.load(), received.load());
}

TEST(ClientClose, SecondCallerWaitsForTheFirst) {
  layout::Entry get{};
  test::Inbox<uint64_t> cancels;
  Fixture fixture(kNeverMs, [&](FakeSidecar&, Message& message) {
    if (IsCancel(message)) {
      cancels.Put(message.entry.args[0]);
    } else {
      get = message.entry;
    }
  });
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Send(Op::kGetH2D, 1, &id).ok());
  std::atomic<int> returned{0};
  std::vector<std::thread> closers;
  for (int i = 0; i < 2; ++i) {
    closers.emplace_back([&] {
      fixture.client->Close();
      EXPECT_EQ(fixture.completions.Wait(0).size(), 1U);
      ++returned;
    });
  }
  ASSERT_EQ(cancels.Wait(1).size(), 1U);
  EXPECT_EQ(returned.load(), 0);
  fixture.sidecar.RunSoon([&] { fixture.sidecar.Reply(get, StatusCode::kRpcCancelled, {}); });
  for (std::thread& closer : closers) closer.join();
  EXPECT_EQ(cancels.Wait(1).size(), 1U);
}

}  // namespace
}  // namespace hbmesh
