// Goal: a client says clearly why it can't connect, refuses what would be wrong memory, and ends every request exactly
// once, whatever the sidecar does. Method: a sidecar of this test's own that speaks the protocol and misbehaves on
// order.
#include "client/client.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <map>

#include "client/fake_sidecar.h"
#include "device/sim_heap.h"

namespace hbmesh {
namespace {

using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

constexpr uint64_t kSegmentBytes = 1 << 20;

struct Fixture {
  explicit Fixture(FakeBehaviour behaviour = {}) : sidecar(WithReplies(std::move(behaviour))) {
    SimHeapOptions options;
    options.segmentBytesMin = kSegmentBytes;
    EXPECT_TRUE(SimHeap::Create(options, &heap).ok());
    clientOptions.workerAddress = sidecar.address();
    clientOptions.closeGraceMs = 20;  // some of these sidecars never answer
  }

  // Unless the test says otherwise, every request is answered with OK.
  static FakeBehaviour WithReplies(FakeBehaviour behaviour) {
    if (!behaviour.onMessage) {
      behaviour.onMessage = [](FakeSidecar& self, Message& message) {
        self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
      };
    }
    return behaviour;
  }

  [[nodiscard]] Status Connect() {
    return Client::Connect(clientOptions, heap.get(),
                           {[this](Completion&& completion) { completions.Put(std::move(completion)); },
                            {},
                            [this](const Status& reason) { closed.Put(reason); }},
                           &client);
  }

  [[nodiscard]] uint64_t Allocate(uint32_t device, uint64_t bytes) {
    std::byte* pointer = nullptr;
    EXPECT_TRUE(heap->Allocate(device, bytes, &pointer).ok());
    return reinterpret_cast<uint64_t>(pointer);
  }

  // A set of one blob a key.
  [[nodiscard]] Status Set(const std::vector<uint64_t>& pointers, const std::vector<uint64_t>& sizes, uint64_t* id,
                           uint32_t device = 0, Registration registration = Registration::kAllowed) {
    std::vector<std::string> keys;
    std::vector<uint32_t> ends;
    for (size_t i = 0; i < pointers.size(); ++i) {
      keys.push_back("key" + std::to_string(i));
      ends.push_back(static_cast<uint32_t>(i + 1));
    }
    const std::vector<std::byte> batch = test::MakeKeyBatch(keys);
    ObjectCall call;
    call.op = layout::Op::kSetD2H;
    call.deviceIndex = device;
    call.keys = batch;
    call.keyCount = static_cast<uint32_t>(keys.size());
    call.blobEnds = ends;
    call.pointers = pointers;
    call.sizes = sizes;
    return client->Submit(call, registration, id);
  }

  [[nodiscard]] Status Ask(uint64_t* id) {
    const std::vector<std::byte> batch = test::MakeKeyBatch({"a", "b"});
    ObjectCall call;
    call.op = layout::Op::kExist;
    call.keys = batch;
    call.keyCount = 2;
    return client->Submit(call, Registration::kAllowed, id);
  }

  FakeSidecar sidecar;
  std::unique_ptr<SimHeap> heap;
  ClientOptions clientOptions;
  test::Inbox<Completion> completions;
  test::Inbox<Status> closed;
  std::unique_ptr<Client> client;  // first to go
};

TEST(ClientConnect, NobodyThere) {
  ClientOptions options;
  options.workerAddress = "127.0.0.1:9";
  std::unique_ptr<Client> client;
  const Status status = Client::Connect(options, nullptr, {}, &client);
  EXPECT_EQ(status.code(), StatusCode::kNoAvailableWorker);
  EXPECT_TRUE(Says(status.message(), "127.0.0.1:9"));
  EXPECT_TRUE(Says(status.message(), "start one"));
  EXPECT_EQ(client, nullptr);
}

TEST(ClientConnect, RefusedByTheSidecar) {
  FakeBehaviour behaviour;
  behaviour.welcomeCode = StatusCode::kNotAuthorized;
  Fixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kNotAuthorized);
  EXPECT_EQ(status.message(), "refused by the test");
}

TEST(ClientConnect, SidecarOfAnotherRelease) {
  FakeBehaviour behaviour;
  behaviour.version = session::kVersion + 1;
  Fixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kDataInconsistency);
  EXPECT_TRUE(Says(status.message(), "same release"));
}

TEST(ClientConnect, SilentSidecarRunsIntoTheTimeLimit) {
  FakeBehaviour behaviour;
  behaviour.answersHello = false;
  Fixture fixture(behaviour);
  fixture.clientOptions.connectTimeoutMs = 50;
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kRpcDeadlineExceeded);
  EXPECT_TRUE(Says(status.message(), "waited 50 ms"));
  EXPECT_TRUE(Says(status.message(), "answer the greeting"));
}

TEST(ClientConnect, CanBeCancelled) {
  FakeBehaviour behaviour;
  behaviour.answersHello = false;
  Fixture fixture(behaviour);
  Fd cancel;
  ASSERT_TRUE(CreateEventFd(&cancel).ok());
  SignalEvent(cancel.get());
  fixture.clientOptions.cancelFd = cancel.get();
  EXPECT_EQ(fixture.Connect().code(), StatusCode::kRpcCancelled);
}

TEST(ClientConnect, AnotherBackend) {
  FakeBehaviour behaviour;
  behaviour.backend = "ascend";
  Fixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kNotSupported);
  EXPECT_TRUE(Says(status.message(), "ascend"));
}

TEST(Client, SetNamesBlobsByRegionAndOffset) {
  test::Inbox<Message> seen;
  FakeBehaviour behaviour;
  behaviour.onMessage = [&seen](FakeSidecar& self, Message& message) {
    self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
    seen.Put(std::move(message));
  };
  Fixture fixture(behaviour);
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t first = fixture.Allocate(1, 4096);
  const uint64_t second = fixture.Allocate(1, 4096);
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Set({second, first + 8}, {4096, 100}, &id, 1).ok());
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].id, id);
  EXPECT_TRUE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kOk);

  const Message message = seen.Wait(1).at(0);
  layout::ObjectRequest request{};
  std::memcpy(&request, message.payload.data(), sizeof(request));
  EXPECT_EQ(request.deviceIndex, 1U);
  ASSERT_EQ(request.blobCount, 2U);
  const std::vector<std::byte> batch = test::MakeKeyBatch({"key0", "key1"});
  ASSERT_EQ(request.keyBatchBytes, batch.size());
  EXPECT_EQ(std::memcmp(message.payload.data() + sizeof(request), batch.data(), batch.size()), 0);
  layout::BlobRecord blobs[2];
  std::memcpy(blobs, message.payload.data() + message.payload.size() - sizeof(blobs), sizeof(blobs));
  EXPECT_EQ(blobs[0].region, 101U);
  EXPECT_EQ(blobs[1].region, 101U);
  EXPECT_EQ(blobs[0].bytes, 4096U);
  EXPECT_EQ(blobs[1].bytes, 100U);
  EXPECT_EQ(blobs[0].offset - blobs[1].offset, second - first - 8);
}

TEST(Client, RegistersEachSegmentOnce) {
  Fixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t small = fixture.Allocate(0, 4096);
  const uint64_t other = fixture.Allocate(0, kSegmentBytes);
  uint64_t id = 0;
  EXPECT_EQ(fixture.Set({small}, {64}, &id, 0, Registration::kKnownOnly).code(), StatusCode::kNotReady);
  EXPECT_EQ(fixture.sidecar.registrations(), 0);
  ASSERT_TRUE(fixture.Set({small, small + 64}, {64, 64}, &id).ok());
  ASSERT_TRUE(fixture.Set({small}, {4096}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.sidecar.registrations(), 1);
  const std::vector<uint64_t> pointers = {other};
  const std::vector<uint64_t> sizes = {64};
  ASSERT_TRUE(fixture.client->RegisterDeviceMemory(pointers, sizes).ok());
  ASSERT_TRUE(fixture.Set({other}, {64}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.sidecar.registrations(), 2);
  EXPECT_EQ(fixture.completions.Wait(3).size(), 3U);
}

TEST(Client, ForgetsTheSegmentThatWasUsedLongestAgo) {
  Fixture fixture;
  fixture.clientOptions.regionsMax = 2;
  ASSERT_TRUE(fixture.Connect().ok());
  std::vector<uint64_t> segments;
  for (int i = 0; i < 3; ++i) segments.push_back(fixture.Allocate(0, kSegmentBytes));
  uint64_t id = 0;
  size_t done = 0;
  for (const int used : {0, 1, 0, 2}) {  // 1 is the oldest when 2 comes
    ASSERT_TRUE(fixture.Set({segments[static_cast<size_t>(used)]}, {64}, &id).ok());
    ASSERT_EQ(fixture.completions.Wait(++done).size(), done);
  }
  EXPECT_EQ(fixture.sidecar.registrations(), 3);
  EXPECT_EQ(fixture.sidecar.unregistrations(), 1);
  EXPECT_TRUE(fixture.Set({segments[0]}, {64}, &id, 0, Registration::kKnownOnly).ok());
  EXPECT_EQ(fixture.Set({segments[1]}, {64}, &id, 0, Registration::kKnownOnly).code(), StatusCode::kNotReady);
}

TEST(Client, NeverForgetsASegmentInUse) {
  FakeBehaviour behaviour;
  behaviour.onMessage = [](FakeSidecar&, Message&) {};  // the first set stays outstanding
  Fixture fixture(behaviour);
  fixture.clientOptions.regionsMax = 1;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t used = fixture.Allocate(0, kSegmentBytes);
  const uint64_t wanted = fixture.Allocate(0, kSegmentBytes);
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Set({used}, {64}, &id).ok());
  const Status status = fixture.Set({wanted}, {64}, &id);
  EXPECT_EQ(status.code(), StatusCode::kTryAgain);
  EXPECT_TRUE(Says(status.message(), "in use"));
  EXPECT_EQ(fixture.sidecar.unregistrations(), 0);
}

TEST(Client, RefusesWrongMemoryAndNamesTheKey) {
  Fixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t good = fixture.Allocate(0, 4096);
  const uint64_t elsewhere = fixture.Allocate(2, 4096);
  uint64_t onTheStack = 0;
  struct Case {
    const char* name;
    uint64_t pointer;
    uint64_t size;
    const char* says;
  };
  const Case cases[] = {
      {"null", 0, 64, "is not in device memory"},
      {"stack", reinterpret_cast<uint64_t>(&onTheStack), 8, "is not in device memory"},
      {"beyond its segment", good, kSegmentBytes * 2, "leaves its allocation"},
      {"size that overflows", good, UINT64_MAX, "leaves its allocation"},
      {"pointer near the end of the address space", UINT64_MAX - 8, 64, "is not in device memory"},
      {"size 0", good, 0, "size 0"},
      {"another device", elsewhere, 64, "device 2"},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.name);
    uint64_t id = 0;
    const Status status = fixture.Set({good, bad.pointer}, {64, bad.size}, &id);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_TRUE(Says(status.message(), bad.says));
    EXPECT_TRUE(Says(status.message(), "key \"key1\" (number 2)"));
    EXPECT_EQ(id, 0U);
  }
  uint64_t id = 0;
  const Status noDevice = fixture.Set({good}, {64}, &id, 4);
  EXPECT_EQ(noDevice.code(), StatusCode::kInvalid);
  EXPECT_TRUE(Says(noDevice.message(), "devices are 0 to 3"));
}

TEST(Client, SidecarThatDoesNotRegisterEndsTheSession) {
  FakeBehaviour behaviour;
  behaviour.answersRegistrations = false;
  Fixture fixture(behaviour);
  fixture.clientOptions.registerTimeoutMs = 50;
  ASSERT_TRUE(fixture.Connect().ok());
  uint64_t id = 0;
  const Status status = fixture.Set({fixture.Allocate(0, 64)}, {64}, &id);
  EXPECT_EQ(status.code(), StatusCode::kWorkerTimeout);
  EXPECT_TRUE(Says(status.message(), "waited 50 ms"));
  EXPECT_EQ(fixture.closed.Wait(1).size(), 1U);
}

TEST(Client, EndOfTheSidecarEndsEveryRequestOnce) {
  std::atomic<int> received{0};
  FakeBehaviour behaviour;
  behaviour.onMessage = [&received](FakeSidecar& self, Message& message) {
    if (++received == 1) self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
    if (received == 5) self.Die();
  };
  Fixture fixture(behaviour);
  ASSERT_TRUE(fixture.Connect().ok());
  std::map<uint64_t, int> ended;
  uint64_t id = 0;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(fixture.Ask(&id).ok());
    ended[id] = 0;
  }
  const auto completions = fixture.completions.Wait(5);
  ASSERT_EQ(fixture.closed.Wait(1).size(), 1U);
  EXPECT_EQ(fixture.closed.Wait(1)[0].code(), StatusCode::kClientWorkerDisconnect);
  int answered = 0;
  for (const Completion& completion : completions) {
    ++ended[completion.id];
    answered += completion.answered ? 1 : 0;
    if (completion.answered) continue;
    EXPECT_EQ(completion.code, StatusCode::kClientWorkerDisconnect);
    EXPECT_TRUE(Says(completion.message, fixture.sidecar.address()));
    EXPECT_TRUE(Says(completion.message, "connect again"));
  }
  EXPECT_EQ(answered, 1);
  for (const auto& [request, times] : ended) EXPECT_EQ(times, 1) << "request " << request;
  EXPECT_EQ(fixture.Ask(&id).code(), StatusCode::kClientWorkerDisconnect);
  fixture.client->Close();
  EXPECT_EQ(fixture.completions.Wait(5).size(), 5U);
  EXPECT_EQ(fixture.closed.Wait(1).size(), 1U);
}

TEST(Client, CloseEndsOutstandingRequestsOnce) {
  FakeBehaviour behaviour;
  behaviour.onMessage = [](FakeSidecar&, Message&) {};
  Fixture fixture(behaviour);
  ASSERT_TRUE(fixture.Connect().ok());
  uint64_t id = 0;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(fixture.Ask(&id).ok());
  fixture.client->Close();
  fixture.client->Close();
  const auto completions = fixture.completions.Wait(3);
  ASSERT_EQ(completions.size(), 3U);
  for (const Completion& completion : completions) EXPECT_EQ(completion.code, StatusCode::kShuttingDown);
  EXPECT_EQ(fixture.Ask(&id).code(), StatusCode::kShuttingDown);
}

TEST(Client, MalformedRepliesEndTheSession) {
  struct Case {
    const char* name;
    std::function<void(FakeSidecar&, layout::Entry)> answer;
  };
  const Case cases[] = {
      {"no payload", [](FakeSidecar& self, layout::Entry entry) { self.Reply(entry, StatusCode::kOk, {}); }},
      {"one result for two keys",
       [](FakeSidecar& self, layout::Entry entry) { self.Reply(entry, StatusCode::kOk, test::MakeReply(1)); }},
      {"results cut off",
       [](FakeSidecar& self, layout::Entry entry) {
         const std::vector<std::byte> whole = test::MakeReply(2);
         self.Reply(entry, StatusCode::kOk, std::span(whole).first(40));
       }},
      {"message outside of the messages",
       [](FakeSidecar& self, layout::Entry entry) {
         std::vector<std::byte> payload = test::MakeReply(2);
         layout::KeyResult result{};
         result.messageOffset = UINT32_MAX;
         result.messageBytes = 2;
         std::memcpy(payload.data() + sizeof(layout::ObjectReply), &result, sizeof(result));
         self.Reply(entry, StatusCode::kOk, payload);
       }},
      {"unknown id",
       [](FakeSidecar& self, layout::Entry entry) {
         entry.id += 1000;
         self.Reply(entry, StatusCode::kOk, test::MakeReply(2));
       }},
      {"another operation",
       [](FakeSidecar& self, layout::Entry entry) {
         entry.op = static_cast<uint16_t>(layout::Op::kDelete);
         self.Reply(entry, StatusCode::kOk, test::MakeReply(2));
       }},
      {"no reply but a request", [](FakeSidecar& self, layout::Entry entry) { self.Send(entry, test::MakeReply(2)); }},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.name);
    FakeBehaviour behaviour;
    behaviour.onMessage = [&bad](FakeSidecar& self, Message& message) { bad.answer(self, message.entry); };
    Fixture fixture(behaviour);
    ASSERT_TRUE(fixture.Connect().ok());
    uint64_t id = 0;
    ASSERT_TRUE(fixture.Ask(&id).ok());
    const auto completions = fixture.completions.Wait(1);
    ASSERT_EQ(completions.size(), 1U);
    EXPECT_EQ(completions[0].id, id);
    EXPECT_FALSE(completions[0].answered);
    EXPECT_EQ(completions[0].code, StatusCode::kDataInconsistency);
    ASSERT_EQ(fixture.closed.Wait(1).size(), 1U);
    EXPECT_EQ(fixture.closed.Wait(1)[0].code(), StatusCode::kDataInconsistency);
  }
}

TEST(Client, WaitsForRoomInAFullQueue) {
  FakeBehaviour behaviour;
  behaviour.channel.entryCapacity = 4;
  behaviour.channel.payloadCapacity = 1 << 16;
  behaviour.receives = false;
  Fixture fixture(behaviour);
  fixture.clientOptions.waitingMax = 8;
  ASSERT_TRUE(fixture.Connect().ok());
  uint64_t id = 0;
  size_t accepted = 0;
  Status status;
  while ((status = fixture.Ask(&id)).ok()) ++accepted;
  EXPECT_EQ(status.code(), StatusCode::kTryAgain);
  EXPECT_EQ(accepted, 12U);
  EXPECT_TRUE(Says(status.message(), "8 requests wait"));
  fixture.client->Cancel(id - 1);  // one of those that wait: it is never sent
  EXPECT_EQ(fixture.completions.Wait(1)[0].code, StatusCode::kRpcCancelled);
  fixture.sidecar.StartReceiving();
  EXPECT_EQ(fixture.completions.Wait(accepted).size(), accepted);
}

TEST(Client, CancelReachesTheSidecarAndTheAnswerEndsTheRequest) {
  std::atomic<uint64_t> asked{0};
  FakeBehaviour behaviour;
  behaviour.onMessage = [&asked](FakeSidecar& self, Message& message) {
    if (message.entry.op != static_cast<uint16_t>(layout::Op::kCancel)) {
      asked = message.entry.id;
      return;
    }
    layout::Entry reply{};
    reply.id = message.entry.args[0];
    reply.op = static_cast<uint16_t>(layout::Op::kExist);
    EXPECT_EQ(reply.id, asked.load());
    self.Reply(reply, StatusCode::kRpcCancelled, {});
  };
  Fixture fixture(behaviour);
  ASSERT_TRUE(fixture.Connect().ok());
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Ask(&id).ok());
  fixture.client->Cancel(id);
  fixture.client->Cancel(id + 1);  // nobody's: ignored
  const auto completions = fixture.completions.Wait(1);
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_TRUE(completions[0].answered);
  EXPECT_EQ(completions[0].code, StatusCode::kRpcCancelled);
}

TEST(Client, ManyThreadsSubmitOverOneClient) {
  constexpr int kThreads = 4;
  constexpr int kRequests = 500;
  Fixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const uint64_t memory = fixture.Allocate(0, 4096);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRequests; ++i) {
        uint64_t id = 0;
        const Status status = i % 2 == 0 ? fixture.Set({memory}, {64}, &id) : fixture.Ask(&id);
        EXPECT_TRUE(status.ok()) << status.ToString();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto completions = fixture.completions.Wait(kThreads * kRequests);
  ASSERT_EQ(completions.size(), static_cast<size_t>(kThreads * kRequests));
  std::map<uint64_t, int> ended;
  for (const Completion& completion : completions) {
    EXPECT_EQ(completion.code, StatusCode::kOk);
    ++ended[completion.id];
  }
  EXPECT_EQ(ended.size(), completions.size());
  EXPECT_EQ(fixture.sidecar.registrations(), 1);
}

TEST(Client, ChildOfAForkIsRefused) {
  Fixture fixture;
  ASSERT_TRUE(fixture.Connect().ok());
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    uint64_t id = 0;
    const bool refused = fixture.Ask(&id).code() == StatusCode::kNotSupported;
    fixture.client->Close();
    ::_exit(refused ? 0 : 1);
  }
  int result = 0;
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  EXPECT_TRUE(WIFEXITED(result) && WEXITSTATUS(result) == 0);
  uint64_t id = 0;
  ASSERT_TRUE(fixture.Ask(&id).ok());  // the parent's session is untouched
  EXPECT_EQ(fixture.completions.Wait(1)[0].code, StatusCode::kOk);
}

}  // namespace
}  // namespace hbmesh
