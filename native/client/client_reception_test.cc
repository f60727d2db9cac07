// Goal: a thread that waits for its request receives in the place of the client's own thread, answers of others too,
// and gives the receiving back whatever happens. Method: a sidecar of this test's own that answers when it is told to;
// completions say on which thread they came. Which thread is the first to receive isn't promised: where a test needs
// its own, it asks again until it was.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "client/client.h"
#include "client/fake_sidecar.h"

namespace hbmesh {
namespace {

using test::FakeBehaviour;
using test::FakeSidecar;
using test::Says;

constexpr uint32_t kPatientMicros = 2'000'000;
constexpr int kTriesMax = 1000;

struct Ended {
  Completion completion;
  std::thread::id thread;
};

// Requests of the sidecar that were not answered yet.
class Held {
 public:
  void Put(const layout::Entry& entry) {
    const std::lock_guard lock(mutex_);
    entries_.push_back(entry);
  }
  [[nodiscard]] std::vector<layout::Entry> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(entries_, {});
  }
  [[nodiscard]] size_t count() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<layout::Entry> entries_;
};

class ClientReception : public ::testing::Test {
 protected:
  ClientReception() : sidecar_(Behaviour()) {}

  FakeBehaviour Behaviour() {
    FakeBehaviour behaviour;
    behaviour.onMessage = [this](FakeSidecar& self, Message& message) {
      if (message.entry.op == static_cast<uint16_t>(layout::Op::kCancel)) return;
      if (holds_) {
        held_.Put(message.entry);
      } else {
        Answer(self, message.entry);
      }
    };
    return behaviour;
  }

  static void Answer(FakeSidecar& self, const layout::Entry& entry) {
    self.Reply(entry, StatusCode::kOk, test::MakeReply(entry.count));
  }

  void Connect(uint32_t spinMicros) {
    ClientOptions options;
    options.workerAddress = sidecar_.address();
    options.spinMicros = spinMicros;
    options.closeGraceMs = 20;
    const Status status =
        Client::Connect(options, nullptr,
                        {[this](Completion&& completion) {
                           const std::lock_guard lock(mutex_);
                           const uint64_t id = completion.id;
                           ended_.emplace(id, Ended{std::move(completion), std::this_thread::get_id()});
                           ++completions_;
                           changed_.notify_all();
                         },
                         {},
                         [this](const Status& reason) { closed_.Put(reason); }},
                        &client_);
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  [[nodiscard]] Status Ask(uint64_t* id, Client::Reception* reception) {
    const std::vector<std::byte> batch = test::MakeKeyBatch({"a"});
    ObjectCall call;
    call.op = layout::Op::kExist;
    call.keys = batch;
    call.keyCount = 1;
    return client_->Submit(call, Registration::kAllowed, id, reception);
  }

  [[nodiscard]] bool HasEnded(uint64_t id) {
    const std::lock_guard lock(mutex_);
    return ended_.contains(id);
  }
  [[nodiscard]] Ended AwaitEnd(uint64_t id) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return ended_.contains(id); }));
    return ended_[id];
  }

  // Submits until this thread is the one that receives; the requests stay unanswered. Gives up after kTriesMax.
  uint64_t TakeTheReceiving(Client::Reception* reception) {
    holds_ = true;
    uint64_t id = 0;
    EXPECT_TRUE(Ask(&id, reception).ok());
    for (int tries = 0; tries < kTriesMax && !reception->holds(); ++tries) {
      std::this_thread::yield();
      EXPECT_TRUE(Ask(&id, reception).ok());
    }
    EXPECT_TRUE(reception->holds());
    return id;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Ended> ended_;
  int completions_ = 0;
  test::Inbox<Status> closed_;
  std::atomic<bool> holds_{false};
  Held held_;
  FakeSidecar sidecar_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientReception, TheAnswerComesOnTheWaitingThread) {
  Connect(kPatientMicros);
  Client::Reception reception;
  const uint64_t id = TakeTheReceiving(&reception);
  sidecar_.RunSoon([this] {
    for (const layout::Entry& entry : held_.Take()) Answer(sidecar_, entry);
  });
  reception.PollUntil([&] { return HasEnded(id); });
  const Ended ended = AwaitEnd(id);
  EXPECT_EQ(ended.completion.code, StatusCode::kOk);
  EXPECT_EQ(ended.thread, std::this_thread::get_id());
  EXPECT_FALSE(reception.holds());
}

TEST_F(ClientReception, GivenBackItIsTheClientsThreadThatReceives) {
  Connect(1);
  Client::Reception reception;
  const uint64_t id = TakeTheReceiving(&reception);
  reception.PollUntil([] { return false; });  // for a microsecond
  EXPECT_FALSE(reception.holds());
  sidecar_.RunSoon([this] {
    for (const layout::Entry& entry : held_.Take()) Answer(sidecar_, entry);
  });
  const Ended ended = AwaitEnd(id);
  EXPECT_EQ(ended.completion.code, StatusCode::kOk);
  EXPECT_NE(ended.thread, std::this_thread::get_id());
}

TEST_F(ClientReception, WhoReceivesTakesTheAnswersOfOthersToo) {
  Connect(kPatientMicros);
  Client::Reception reception;
  const uint64_t mine = TakeTheReceiving(&reception);
  uint64_t other = 0;
  std::thread([&] {
    Client::Reception refused;
    EXPECT_TRUE(Ask(&other, &refused).ok());
    EXPECT_FALSE(refused.holds());
  }).join();
  sidecar_.RunSoon([this] {
    for (const layout::Entry& entry : held_.Take()) Answer(sidecar_, entry);
  });
  reception.PollUntil([&] { return HasEnded(mine) && HasEnded(other); });
  EXPECT_EQ(AwaitEnd(other).thread, std::this_thread::get_id());
}

TEST_F(ClientReception, ADeadSidecarEndsTheRequestOnce) {
  Connect(1000);
  Client::Reception reception;
  const uint64_t id = TakeTheReceiving(&reception);
  sidecar_.RunSoon([this] { sidecar_.Die(); });
  reception.PollUntil([&] { return HasEnded(id); });
  const Ended ended = AwaitEnd(id);
  EXPECT_EQ(ended.completion.code, StatusCode::kClientWorkerDisconnect);
  EXPECT_TRUE(Says(ended.completion.message, "its sidecar process ended")) << ended.completion.message;
  EXPECT_EQ(closed_.Wait(1).size(), 1U);
  Client::Reception late;
  uint64_t lateId = 0;
  EXPECT_EQ(Ask(&lateId, &late).code(), StatusCode::kClientWorkerDisconnect);
  late.PollUntil([] { return false; });  // of a session that is over
}

TEST_F(ClientReception, ASidecarThatBreaksTheRulesEndsTheSession) {
  Connect(kPatientMicros);
  Client::Reception reception;
  const uint64_t id = TakeTheReceiving(&reception);
  sidecar_.RunSoon([this] {
    layout::Entry entry{};
    entry.op = static_cast<uint16_t>(layout::Op::kExist);
    entry.id = 999'999;
    sidecar_.Reply(entry, StatusCode::kOk, test::MakeReply(1));
  });
  // The client's own thread sees the socket's end, and waits for the receiving.
  int polls = 0;
  reception.PollUntil([&] { return ++polls > 100; });
  EXPECT_EQ(AwaitEnd(id).completion.code, StatusCode::kDataInconsistency);
  EXPECT_EQ(closed_.Wait(1).size(), 1U);
}

TEST_F(ClientReception, ManyThreadsThatWaitEndEachRequestOnce) {
  constexpr int kThreads = 6;
  constexpr int kCallsEach = 400;
  Connect(30);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([this] {
      for (int call = 0; call < kCallsEach; ++call) {
        Client::Reception reception;
        uint64_t id = 0;
        const Status status = Ask(&id, &reception);
        ASSERT_TRUE(status.ok()) << status.ToString();
        reception.PollUntil([&] { return HasEnded(id); });
        ASSERT_EQ(AwaitEnd(id).completion.code, StatusCode::kOk);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(completions_, kThreads * kCallsEach);
}

TEST_F(ClientReception, CloseWaitsForWhoReceives) {
  Connect(20'000);
  Client::Reception reception;
  const uint64_t id = TakeTheReceiving(&reception);
  std::thread closing([this] { client_->Close(); });
  reception.PollUntil([&] { return HasEnded(id); });
  closing.join();
  EXPECT_EQ(AwaitEnd(id).completion.code, StatusCode::kShuttingDown);
}

}  // namespace
}  // namespace hbmesh
