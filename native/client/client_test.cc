// Goal: a client says clearly why it can't connect, and ends every request exactly once, whatever the sidecar does.
// Method: a sidecar of this test's own that speaks the protocol and misbehaves on order.
#include "client/client.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <map>

#include "client/client_fixture.h"

namespace hbmesh {
namespace {

using test::ClientFixture;
using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

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
  ClientFixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kNotAuthorized);
  EXPECT_EQ(status.message(), "refused by the test");
}

TEST(ClientConnect, SidecarOfAnotherRelease) {
  FakeBehaviour behaviour;
  behaviour.version = session::kVersion + 1;
  ClientFixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kDataInconsistency);
  EXPECT_TRUE(Says(status.message(), "same release"));
}

TEST(ClientConnect, SilentSidecarRunsIntoTheTimeLimit) {
  FakeBehaviour behaviour;
  behaviour.answersHello = false;
  ClientFixture fixture(behaviour);
  fixture.clientOptions.connectTimeoutMs = 50;
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kRpcDeadlineExceeded);
  EXPECT_TRUE(Says(status.message(), "waited 50 ms"));
  EXPECT_TRUE(Says(status.message(), "answer the greeting"));
}

TEST(ClientConnect, CanBeCancelled) {
  FakeBehaviour behaviour;
  behaviour.answersHello = false;
  ClientFixture fixture(behaviour);
  Fd cancel;
  ASSERT_TRUE(CreateEventFd(&cancel).ok());
  SignalEvent(cancel.get());
  fixture.clientOptions.cancelFd = cancel.get();
  EXPECT_EQ(fixture.Connect().code(), StatusCode::kRpcCancelled);
}

TEST(ClientConnect, AnotherBackend) {
  FakeBehaviour behaviour;
  behaviour.backend = "ascend";
  ClientFixture fixture(behaviour);
  const Status status = fixture.Connect();
  EXPECT_EQ(status.code(), StatusCode::kNotSupported);
  EXPECT_TRUE(Says(status.message(), "ascend"));
}

TEST(Client, SidecarThatDoesNotRegisterEndsTheSession) {
  FakeBehaviour behaviour;
  behaviour.answersRegistrations = false;
  ClientFixture fixture(behaviour);
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
  ClientFixture fixture(behaviour);
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
  ClientFixture fixture(behaviour);
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
    ClientFixture fixture(behaviour);
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
  ClientFixture fixture(behaviour);
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
  ClientFixture fixture(behaviour);
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
  ClientFixture fixture;
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
  ClientFixture fixture;
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
