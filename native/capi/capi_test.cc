// Goal: the C API says what hbmesh.h promises, also when the sidecar hangs, dies or refuses; every future ends.
// Method: C cases that need no worker, and a sidecar of this test's own. Cases with real workers are in suite/.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "capi/capi_cases.h"
#include "capi/hbmesh.h"
#include "client/fake_sidecar.h"

namespace hbmesh {
namespace {

using layout::KeyEvent;
using layout::KeyStage;
using layout::Op;
using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

TEST(Capi, Values) { EXPECT_EQ(capi_case_values(), 0); }
TEST(Capi, BadArguments) { EXPECT_EQ(capi_case_bad_arguments(), 0); }
TEST(Capi, SimMemory) { EXPECT_EQ(capi_case_sim_memory(), 0); }
TEST(Capi, NobodyThere) { EXPECT_EQ(capi_case_nobody_there(), 0); }

KeyEvent Event(uint32_t keyIndex, KeyStage stage, StatusCode code = StatusCode::kOk, uint32_t messageBytes = 0) {
  return {keyIndex, static_cast<uint32_t>(stage), static_cast<uint32_t>(code), 0, 0, messageBytes, 64};
}

void SendReply(FakeSidecar& sidecar, const layout::Entry& request, bool more, StatusCode code,
               const std::vector<KeyEvent>& events, const std::string& messages = {}) {
  layout::Entry entry = request;
  entry.flags = static_cast<uint16_t>(layout::kFlagReply | (more ? layout::kFlagMore : 0));
  entry.code = static_cast<uint32_t>(code);
  sidecar.Send(entry, test::MakeDeviceReply(events, messages));
}

bool Is(const Message& message, Op op) { return message.entry.op == static_cast<uint16_t>(op); }

// A client of a fake sidecar, and a batch of three keys with a blob each.
struct Fixture {
  explicit Fixture(std::function<void(FakeSidecar&, Message&)> onMessage) : sidecar(Behaviour(std::move(onMessage))) {
    hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
    options.worker_address = sidecar.address().c_str();
    options.request_timeout_ms = 50;
    EXPECT_EQ(hbmesh_client_create(&options, &client), HBMESH_OK);
    EXPECT_EQ(hbmesh_client_init(client), HBMESH_OK) << hbmesh_last_message();
    EXPECT_EQ(hbmesh_sim_allocate(0, 4096, &pointers[0]), HBMESH_OK);
    pointers[1] = pointers[2] = pointers[0];
    batch.key_count = 3;
    batch.blob_count = 3;
    batch.keys = keys;
    batch.blob_ends = ends;
    batch.pointers = pointers;
    batch.blob_bytes = sizes;
    keysOnly.key_count = 3;
    keysOnly.keys = keys;
  }
  ~Fixture() {
    hbmesh_client_free(client);
    for (hbmesh_future* future : futures) hbmesh_future_free(future);
    EXPECT_EQ(hbmesh_sim_free(pointers[0]), HBMESH_OK);
  }
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;

  static FakeBehaviour Behaviour(std::function<void(FakeSidecar&, Message&)> onMessage) {
    FakeBehaviour behaviour;
    behaviour.onMessage = std::move(onMessage);
    return behaviour;
  }

  FakeSidecar sidecar;
  hbmesh_client* client = nullptr;
  const char* keys[3] = {"a", "b", "c"};
  uint32_t ends[3] = {1, 2, 3};
  uint64_t pointers[3] = {0, 0, 0};
  uint64_t sizes[3] = {64, 64, 64};
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  hbmesh_batch keysOnly = HBMESH_INIT(hbmesh_batch);
  hbmesh_future* futures[3] = {nullptr, nullptr, nullptr};
};

constexpr uint32_t kLongMs = 30'000;  // no working test waits for it

TEST(Capi, SetSendsItsOptions) {
  test::Inbox<layout::Entry> seen;
  Fixture fixture([&seen](FakeSidecar& self, Message& message) {
    seen.Put(message.entry);
    self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
  });
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  options.existence = HBMESH_EXISTENCE_REPLACE;
  options.ttl_ms = 1500;
  options.pin = HBMESH_PIN_HARD;
  options.checksum = 1;
  hbmesh_result* result = nullptr;
  ASSERT_EQ(hbmesh_set_d2h(fixture.client, &fixture.batch, &options, &result), HBMESH_OK) << hbmesh_last_message();
  EXPECT_EQ(hbmesh_result_count(result), 3U);
  EXPECT_EQ(hbmesh_result_failed_count(result), 0U);
  EXPECT_STREQ(hbmesh_result_message(result, 0), "");
  hbmesh_result_free(result);
  const layout::Entry entry = seen.Wait(1).at(0);
  EXPECT_EQ(entry.op, static_cast<uint16_t>(Op::kSetD2H));
  EXPECT_EQ(entry.count, 3U);
  EXPECT_EQ(entry.args[0], 2U);
  EXPECT_EQ(entry.args[1], 1500U);
  EXPECT_EQ(entry.args[2], 6U);
}

TEST(Capi, RefusedCallHasTheSidecarsWord) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    layout::ObjectReply header{};
    const std::string text = "key \"b\" (number 2) is not allowed";
    header.messageBytes = static_cast<uint32_t>(text.size());
    std::vector<std::byte> payload(sizeof(header) + text.size());
    std::memcpy(payload.data(), &header, sizeof(header));
    std::memcpy(payload.data() + sizeof(header), text.data(), text.size());
    self.Reply(message.entry, StatusCode::kInvalid, payload);
  });
  hbmesh_result* result = nullptr;
  EXPECT_EQ(hbmesh_delete(fixture.client, &fixture.keysOnly, &result), HBMESH_INVALID);
  EXPECT_STREQ(hbmesh_last_message(), "key \"b\" (number 2) is not allowed");
  EXPECT_EQ(result, nullptr);
  // A publish that is refused as a whole has no futures.
  EXPECT_EQ(hbmesh_dev_publish(fixture.client, &fixture.batch, fixture.futures), HBMESH_INVALID);
  EXPECT_EQ(fixture.futures[0], nullptr);
}

TEST(Capi, SilentSidecarIsStoppedAndNamed) {
  layout::Entry request{};
  Fixture fixture([&request](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kCancel)) {
      self.Reply(request, StatusCode::kRpcCancelled, {});
    } else {
      request = message.entry;
    }
  });
  EXPECT_EQ(hbmesh_delete(fixture.client, &fixture.keysOnly, nullptr), HBMESH_RPC_DEADLINE_EXCEEDED);
  EXPECT_TRUE(Says(hbmesh_last_message(), "waited 50 ms"));
  EXPECT_EQ(hbmesh_dev_publish(fixture.client, &fixture.batch, fixture.futures), HBMESH_RPC_DEADLINE_EXCEEDED);
  EXPECT_TRUE(Says(hbmesh_last_message(), "accept"));
}

// The answer to a cancel, of a call whose first key was done by then.
std::vector<std::byte> CutShort(uint32_t count) {
  std::vector<std::byte> payload = test::MakeReply(count);
  for (uint32_t i = 1; i < count; ++i) {
    layout::KeyResult result{};
    result.code = static_cast<uint32_t>(StatusCode::kRpcCancelled);
    std::memcpy(payload.data() + sizeof(layout::ObjectReply) + i * sizeof(result), &result, sizeof(result));
  }
  return payload;
}

// One rule in every language: what a caller cancels ends with RPC_CANCELLED, what a time limit stops says so.
TEST(Capi, ATimeLimitIsNoCancel) {
  layout::Entry request{};
  Fixture fixture([&request](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kCancel)) {
      self.Reply(request, StatusCode::kOk, CutShort(3));
    } else {
      request = message.entry;
    }
  });
  hbmesh_result* result = nullptr;
  ASSERT_EQ(hbmesh_get_h2d(fixture.client, &fixture.batch, 0, &result), HBMESH_OK) << hbmesh_last_message();
  EXPECT_EQ(hbmesh_result_status(result, 0), HBMESH_OK);
  for (const uint32_t key : {1U, 2U}) {
    EXPECT_EQ(hbmesh_result_status(result, key), HBMESH_RPC_DEADLINE_EXCEEDED);
    EXPECT_TRUE(Says(hbmesh_result_message(result, key), "waited 50 ms"));
  }
  hbmesh_result_free(result);
  EXPECT_EQ(hbmesh_get_h2d(fixture.client, &fixture.batch, 0, nullptr), HBMESH_RPC_DEADLINE_EXCEEDED);

  hbmesh_future* future = nullptr;
  ASSERT_EQ(hbmesh_get_h2d_async(fixture.client, &fixture.batch, 0, &future), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_cancel(future), HBMESH_OK);
  ASSERT_EQ(hbmesh_future_get(future, kLongMs, &result), HBMESH_OK);
  EXPECT_EQ(hbmesh_result_status(result, 0), HBMESH_OK);
  EXPECT_EQ(hbmesh_result_status(result, 1), HBMESH_RPC_CANCELLED);
  hbmesh_result_free(result);
  hbmesh_future_free(future);
}

TEST(Capi, PublishReturnsWhenAcceptedAndFuturesEndOneByOne) {
  layout::Entry request{};
  Fixture fixture([&request](FakeSidecar& self, Message& message) {
    if (!Is(message, Op::kDevPublish)) return;
    request = message.entry;
    SendReply(self, request, true, StatusCode::kOk, {Event(0, KeyStage::kAccepted), Event(2, KeyStage::kAccepted)});
    SendReply(self, request, true, StatusCode::kOk, {Event(1, KeyStage::kEnded, StatusCode::kInvalid, 5)}, "other");
  });
  ASSERT_EQ(hbmesh_dev_publish(fixture.client, &fixture.batch, fixture.futures), HBMESH_OK) << hbmesh_last_message();
  hbmesh_result* result = nullptr;
  EXPECT_EQ(hbmesh_future_get(fixture.futures[1], 0, &result), HBMESH_INVALID);
  EXPECT_STREQ(hbmesh_last_message(), "other");
  EXPECT_STREQ(hbmesh_result_message(result, 0), "other");
  hbmesh_result_free(result);
  EXPECT_EQ(hbmesh_future_done(fixture.futures[0]), 0U);
  EXPECT_EQ(hbmesh_future_get(fixture.futures[0], 0, nullptr), HBMESH_FUTURE_TIMEOUT);
  fixture.sidecar.RunSoon([&] {
    SendReply(fixture.sidecar, request, true, StatusCode::kOk, {Event(2, KeyStage::kEnded)});
    SendReply(fixture.sidecar, request, false, StatusCode::kOk, {Event(0, KeyStage::kEnded)});
  });
  EXPECT_EQ(hbmesh_future_get(fixture.futures[0], kLongMs, &result), HBMESH_OK);
  EXPECT_EQ(hbmesh_result_bytes(result)[0], 64U);
  hbmesh_result_free(result);
  EXPECT_EQ(hbmesh_future_get(fixture.futures[2], kLongMs, nullptr), HBMESH_OK);
}

// How often the eventfd was signalled since the last look; waits for the first.
uint64_t Signals(int eventFd) {
  pollfd entry{eventFd, POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, kLongMs), 1);
  uint64_t count = 0;
  EXPECT_EQ(::read(eventFd, &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  return count;
}

bool IsQuiet(int eventFd) {
  pollfd entry{eventFd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 0;
}

TEST(Capi, EventLoopsAreToldOfTheEndOfFutures) {
  layout::Entry request{};
  Fixture fixture([&request](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kCancel)) SendReply(self, request, false, StatusCode::kRpcCancelled, {});
    if (!Is(message, Op::kDevPublish)) return;
    request = message.entry;
    SendReply(self, request, true, StatusCode::kOk,
              {Event(0, KeyStage::kAccepted), Event(1, KeyStage::kAccepted), Event(2, KeyStage::kAccepted)});
  });
  const Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_EQ(hbmesh_dev_publish(fixture.client, &fixture.batch, fixture.futures), HBMESH_OK) << hbmesh_last_message();
  EXPECT_EQ(hbmesh_future_notify(nullptr, event.get()), HBMESH_INVALID);
  EXPECT_EQ(hbmesh_future_notify(fixture.futures[0], -2), HBMESH_INVALID);
  for (hbmesh_future* future : fixture.futures) EXPECT_EQ(hbmesh_future_notify(future, event.get()), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_notify(fixture.futures[0], event.get()), HBMESH_OK);  // instead, not in addition
  EXPECT_TRUE(IsQuiet(event.get()));
  fixture.sidecar.RunSoon(
      [&] { SendReply(fixture.sidecar, request, true, StatusCode::kOk, {Event(0, KeyStage::kEnded)}); });
  EXPECT_EQ(Signals(event.get()), 1U);
  EXPECT_EQ(hbmesh_future_done(fixture.futures[0]), 1U);
  EXPECT_EQ(hbmesh_future_notify(fixture.futures[0], event.get()), HBMESH_OK);  // has ended: at once
  EXPECT_EQ(Signals(event.get()), 1U);
  hbmesh_future_free(fixture.futures[2]);  // nobody asks for its end any more
  fixture.futures[2] = nullptr;
  hbmesh_client_close(fixture.client);
  EXPECT_EQ(Signals(event.get()), 1U);
  EXPECT_EQ(hbmesh_future_get(fixture.futures[1], 0, nullptr), HBMESH_SHUTTING_DOWN);
}

TEST(Capi, WholeCallsAndLayersTellToo) {
  layout::Entry reservation{};
  Fixture fixture([&reservation](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kCancel)) {
      SendReply(self, reservation, false, StatusCode::kRpcCancelled, {});
    } else if (Is(message, Op::kReserveLayers)) {
      reservation = message.entry;
      SendReply(self, message.entry, true, StatusCode::kOk,
                {Event(0, KeyStage::kAccepted, StatusCode::kOk, 1), Event(1, KeyStage::kAccepted, StatusCode::kOk, 1),
                 Event(2, KeyStage::kAccepted, StatusCode::kOk, 1)},
                "t");
      SendReply(self, message.entry, true, StatusCode::kOk, {Event(1, KeyStage::kEnded)});
    } else {
      self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
    }
  });
  const Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  hbmesh_future* future = nullptr;
  ASSERT_EQ(hbmesh_dev_mget_async(fixture.client, &fixture.batch, 1000, 1, &future), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_notify(future, event.get()), HBMESH_OK);
  EXPECT_EQ(Signals(event.get()), 1U);
  EXPECT_EQ(hbmesh_future_get(future, 0, nullptr), HBMESH_OK);
  hbmesh_future_free(future);
  ASSERT_EQ(hbmesh_dev_delete_async(fixture.client, &fixture.keysOnly, &future), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_get(future, kLongMs, nullptr), HBMESH_OK);
  hbmesh_future_free(future);
  fixture.batch.keys = nullptr;
  hbmesh_ticket* ticket = nullptr;
  ASSERT_EQ(hbmesh_reserve_layers(fixture.client, &fixture.batch, 0, &ticket), HBMESH_OK) << hbmesh_last_message();
  hbmesh_future* again = nullptr;
  EXPECT_EQ(hbmesh_ticket_layer(ticket, 3, &future), HBMESH_OUT_OF_RANGE);
  ASSERT_EQ(hbmesh_ticket_layer(ticket, 2, &future), HBMESH_OK);
  ASSERT_EQ(hbmesh_ticket_layer(ticket, 2, &again), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_notify(future, event.get()), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_notify(again, event.get()), HBMESH_OK);
  EXPECT_EQ(hbmesh_future_notify(again, -1), HBMESH_OK);  // the other one still wants to know
  EXPECT_EQ(hbmesh_ticket_wait_layer(ticket, 1, kLongMs), HBMESH_OK);
  hbmesh_client_close(fixture.client);
  EXPECT_EQ(Signals(event.get()), 1U);
  hbmesh_future_free(again);
  hbmesh_future_free(future);
  hbmesh_ticket_free(ticket);
}

TEST(Capi, ChildOfAForkHasDeviceMemoryOfItsOwn) {
  uint64_t parents = 0;
  ASSERT_EQ(hbmesh_sim_allocate(0, 4096, &parents), HBMESH_OK);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    uint64_t mine = 0;
    const bool good = hbmesh_sim_free(parents) == HBMESH_INVALID && hbmesh_sim_allocate(0, 4096, &mine) == HBMESH_OK &&
                      mine != parents && hbmesh_sim_free(mine) == HBMESH_OK;
    ::_exit(good ? 0 : 1);
  }
  int result = 0;
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  EXPECT_TRUE(WIFEXITED(result) && WEXITSTATUS(result) == 0);
  EXPECT_EQ(hbmesh_sim_free(parents), HBMESH_OK);
}

TEST(Capi, SubscribeWaitsAsLongAsItIsTold) {
  test::Inbox<layout::Entry> seen;
  Fixture fixture([&seen](FakeSidecar&, Message& message) { seen.Put(message.entry); });
  ASSERT_EQ(hbmesh_dev_subscribe(fixture.client, &fixture.batch, 0, fixture.futures), HBMESH_OK);
  EXPECT_EQ(seen.Wait(1).at(0).args[0], 60'000U);
  hbmesh_future* single[1] = {nullptr};
  fixture.batch.key_count = fixture.batch.blob_count = 1;
  ASSERT_EQ(hbmesh_dev_subscribe(fixture.client, &fixture.batch, 0, single), HBMESH_OK);
  EXPECT_EQ(seen.Wait(2).at(1).args[0], 20'000U);
  EXPECT_EQ(hbmesh_future_cancel(single[0]), HBMESH_OK);
  EXPECT_EQ(seen.Wait(3).at(2).args[1], 0U);  // the only key: the request
  EXPECT_EQ(hbmesh_future_cancel(fixture.futures[1]), HBMESH_OK);
  EXPECT_EQ(seen.Wait(4).at(3).args[1], 2U);  // one of three: 1 + its index
  hbmesh_client_close(fixture.client);
  EXPECT_EQ(hbmesh_future_get(single[0], 0, nullptr), HBMESH_SHUTTING_DOWN);
  EXPECT_EQ(hbmesh_future_get(fixture.futures[2], 0, nullptr), HBMESH_SHUTTING_DOWN);
  hbmesh_future_free(single[0]);
}

TEST(Capi, DeathOfTheSidecarEndsFuturesAndInitConnectsAnew) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kDevSubscribe)) {
      self.Die();
    } else {
      self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
    }
  });
  ASSERT_EQ(hbmesh_dev_subscribe(fixture.client, &fixture.batch, 0, fixture.futures), HBMESH_OK);
  for (hbmesh_future* future : fixture.futures) {
    EXPECT_EQ(hbmesh_future_get(future, kLongMs, nullptr), HBMESH_CLIENT_WORKER_DISCONNECT);
  }
  EXPECT_EQ(hbmesh_delete(fixture.client, &fixture.keysOnly, nullptr), HBMESH_CLIENT_WORKER_DISCONNECT);
  EXPECT_TRUE(Says(hbmesh_last_message(), "connect again"));
  hbmesh_status again = HBMESH_OK;
  do {  // the reason reaches the client a moment after its futures ended
    ASSERT_EQ(hbmesh_client_init(fixture.client), HBMESH_OK) << hbmesh_last_message();
    again = hbmesh_delete(fixture.client, &fixture.keysOnly, nullptr);
  } while (again == HBMESH_CLIENT_WORKER_DISCONNECT);
  EXPECT_EQ(again, HBMESH_OK);
}

TEST(Capi, LayersComeWithATicket) {
  layout::Entry request{};  // of the sidecar's thread
  test::Inbox<layout::Entry> requests;
  test::Inbox<layout::Entry> cancels;
  Fixture fixture([&](FakeSidecar& self, Message& message) {
    if (Is(message, Op::kCancel)) {
      cancels.Put(message.entry);
      SendReply(self, request, false, StatusCode::kRpcCancelled, {});
      return;
    }
    request = message.entry;
    requests.Put(request);
    const std::string ticket = "7-1-0123456789abcdef0123456789abcdef";
    std::vector<KeyEvent> events;
    for (uint32_t i = 0; i < 3; ++i) {
      events.push_back(Event(i, KeyStage::kAccepted, StatusCode::kOk, static_cast<uint32_t>(ticket.size())));
    }
    SendReply(self, request, true, StatusCode::kOk, events, ticket);
    SendReply(self, request, true, StatusCode::kOk, {Event(1, KeyStage::kEnded)});
  });
  fixture.batch.keys = nullptr;
  hbmesh_ticket* ticket = nullptr;
  ASSERT_EQ(hbmesh_reserve_layers(fixture.client, &fixture.batch, 0, &ticket), HBMESH_OK) << hbmesh_last_message();
  EXPECT_EQ(requests.Wait(1).at(0).args[0], 600'000U);
  EXPECT_STREQ(hbmesh_ticket_text(ticket), "7-1-0123456789abcdef0123456789abcdef");
  EXPECT_EQ(hbmesh_ticket_wait_layer(ticket, 1, kLongMs), HBMESH_OK);
  EXPECT_EQ(hbmesh_ticket_wait_layer(ticket, 0, 0), HBMESH_FUTURE_TIMEOUT);
  EXPECT_EQ(hbmesh_ticket_wait_layer(ticket, 3, 0), HBMESH_OUT_OF_RANGE);
  EXPECT_TRUE(Says(hbmesh_last_message(), "layers 0 to 2"));
  EXPECT_EQ(hbmesh_ticket_cancel(ticket), HBMESH_OK);
  EXPECT_EQ(hbmesh_ticket_wait_all(ticket, kLongMs), HBMESH_RPC_CANCELLED);
  EXPECT_EQ(cancels.Wait(1).size(), 1U);
  hbmesh_ticket_free(ticket);
}

TEST(Capi, ManyThreadsShareAClient) {
  Fixture fixture([](FakeSidecar& self, Message& message) {
    self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
  });
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        const hbmesh_status status = hbmesh_set_d2h(fixture.client, &fixture.batch, nullptr, nullptr);
        // 50 ms may be over on a busy machine: then it says so.
        if (status != HBMESH_OK && status != HBMESH_RPC_DEADLINE_EXCEEDED) failures.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0);
}

}  // namespace
}  // namespace hbmesh
