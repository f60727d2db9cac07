// Goal: a control process's session moves messages both ways in order, brings the store's memory, and tells of the
// sidecar's end once. Method: a sidecar of this test's own.
#include "client/control_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "client/fake_sidecar.h"

namespace hbmesh {
namespace {

using test::FakeBehaviour;
using test::FakeSidecar;

struct Fixture {
  explicit Fixture(FakeBehaviour behaviour) : sidecar(std::move(behaviour)) {
    ControlClientOptions options;
    options.workerAddress = sidecar.address();
    const Status status = ControlClient::Connect(options,
                                                 {[this](std::vector<Message>&& batch) {
                                                    for (Message& message : batch) messages.Put(std::move(message));
                                                  },
                                                  [this](const Status& reason) { closed.Put(reason); }},
                                                 &client);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }

  test::Inbox<Message> messages;
  test::Inbox<Status> closed;
  FakeSidecar sidecar;
  std::unique_ptr<ControlClient> client;
};

TEST(ControlClient, SaysWhatTheSidecarHas) {
  Fixture fixture({});
  EXPECT_EQ(fixture.client->deviceCount(), 4U);
  EXPECT_EQ(fixture.client->backend(), "sim");
  EXPECT_EQ(fixture.client->transports(), "tcp=127.0.0.1:4000");
  EXPECT_NE(::fcntl(fixture.client->storeFd(), F_GETFD), -1);
}

TEST(ControlClient, MessagesGoBothWaysInOrder) {
  constexpr uint64_t kMessages = 500;
  FakeBehaviour behaviour;
  behaviour.onMessage = [](FakeSidecar& self, Message& message) {
    self.Reply(message.entry, StatusCode::kOk, message.payload);
  };
  Fixture fixture(behaviour);
  for (uint64_t i = 0; i < kMessages; ++i) {
    layout::Entry entry{};
    entry.id = i;
    entry.op = static_cast<uint16_t>(layout::Op::kStats);
    const std::vector<std::byte> payload(i % 100, static_cast<std::byte>(i));
    ASSERT_TRUE(fixture.client->Send(entry, payload).ok());
  }
  const auto messages = fixture.messages.Wait(kMessages);
  ASSERT_EQ(messages.size(), kMessages);
  for (uint64_t i = 0; i < kMessages; ++i) {
    EXPECT_EQ(messages[i].entry.id, i);
    EXPECT_EQ(messages[i].payload, std::vector<std::byte>(i % 100, static_cast<std::byte>(i)));
  }
}

TEST(ControlClient, EndOfTheSidecarIsToldOnce) {
  FakeBehaviour behaviour;
  behaviour.onMessage = [](FakeSidecar& self, Message& message) {
    self.Reply(message.entry, StatusCode::kOk, {});
    self.Die();
  };
  Fixture fixture(behaviour);
  ASSERT_TRUE(fixture.client->Send({}, {}).ok());
  const auto closed = fixture.closed.Wait(1);
  ASSERT_EQ(closed.size(), 1U);
  EXPECT_EQ(closed[0].code(), StatusCode::kClientWorkerDisconnect);
  EXPECT_EQ(fixture.messages.Wait(1).size(), 1U);  // what was sent before is not lost
  EXPECT_EQ(fixture.client->Send({}, {}).code(), StatusCode::kClientWorkerDisconnect);
  fixture.client->Close();
  EXPECT_EQ(fixture.closed.Wait(1).size(), 1U);
}

TEST(ControlClient, CloseIsQuietAndSendThenFails) {
  Fixture fixture({});
  fixture.client->Close();
  EXPECT_EQ(fixture.client->Send({}, {}).code(), StatusCode::kShuttingDown);
  EXPECT_EQ(fixture.closed.Wait(0).size(), 0U);
}

}  // namespace
}  // namespace hbmesh
