// Goal: every completion reaches the loop, and the loop is woken by the last one of a group, by one that fails, and by
// everything that is in no group. Method: pushes by hand with a look at the eventfd after each; then threads that push
// while a loop sleeps whenever it may, as the sidecar's does: it must see all of them.
#include "sidecar/completions.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <barrier>
#include <thread>

#include "base/event_fd.h"
#include "base/fd.h"

namespace hbmesh::sidecar {
namespace {

constexpr int kPatienceMs = 60'000;

class WokenTest : public ::testing::Test, protected CompletionTarget {
 protected:
  static Fd MakeWake() {
    Fd wake;
    EXPECT_TRUE(CreateEventFd(&wake).ok());
    return wake;
  }
  void OnCompletion(uint64_t tag, const Status& status) override { told_.emplace_back(tag, status.code()); }

  // Whether this push wakes a loop that sleeps.
  bool Wakes(uint64_t token, const Status& status = Status::Ok()) {
    EXPECT_EQ(queue_.PrepareSleep(), empty_) << "it sleeps over events, or stays awake without any";
    TransportEvents(queue_, 0).OnComplete(token, status);
    empty_ = false;
    pollfd polled{wake_.get(), POLLIN, 0};
    const bool woken = ::poll(&polled, 1, 0) == 1;
    DrainEvent(wake_.get());
    return woken;
  }
  // The loop's turn.
  size_t TakeAll() {
    queue_.EndSleep();
    std::vector<LoopEvent> events;
    (void)queue_.Take(&events);
    for (const LoopEvent& event : events) EXPECT_TRUE(tokens_.Complete(event.id, event.status));
    empty_ = true;
    return events.size();
  }

  Fd wake_ = MakeWake();
  TokenTable tokens_;
  CompletionQueue queue_{wake_.get(), &tokens_.groups()};
  std::vector<std::pair<uint64_t, StatusCode>> told_;
  bool empty_ = true;
};

TEST_F(WokenTest, ByEachThatIsInNoGroup) {
  const uint64_t first = tokens_.Add(this, 1);
  const uint64_t second = tokens_.Add(this, 2);
  EXPECT_TRUE(Wakes(first));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_TRUE(Wakes(second));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_EQ(told_, (std::vector<std::pair<uint64_t, StatusCode>>{{1, StatusCode::kOk}, {2, StatusCode::kOk}}));
}

TEST_F(WokenTest, ByTheLastOfAGroupWhichBringsTheOthers) {
  const uint32_t group = tokens_.groups().Open();
  const uint32_t other = tokens_.groups().Open();
  ASSERT_NE(group, 0U);
  ASSERT_NE(other, group);
  uint64_t tokens[3];
  for (uint64_t tag = 0; tag < 3; ++tag) tokens[tag] = tokens_.Add(this, tag, group);
  const uint64_t others = tokens_.Add(this, 9, other);
  EXPECT_FALSE(Wakes(tokens[1]));
  EXPECT_EQ(TakeAll(), 1U) << "a loop that is awake for another reason takes what there is";
  EXPECT_FALSE(Wakes(tokens[0]));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_TRUE(Wakes(tokens[2]));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_TRUE(Wakes(others)) << "groups don't count for each other";
  EXPECT_EQ(TakeAll(), 1U);
  tokens_.groups().Close(group);
  tokens_.groups().Close(other);
  EXPECT_EQ(told_.size(), 4U);
  EXPECT_EQ(tokens_.outstanding(), 0U);
}

TEST_F(WokenTest, ByOneThatFailsThoughOthersAreUnderWay) {
  const uint32_t group = tokens_.groups().Open();
  const uint64_t first = tokens_.Add(this, 1, group);
  const uint64_t second = tokens_.Add(this, 2, group);
  EXPECT_TRUE(Wakes(first, {StatusCode::kRpcPeerDead, "gone"}));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_TRUE(Wakes(second));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_EQ(told_, (std::vector<std::pair<uint64_t, StatusCode>>{{1, StatusCode::kRpcPeerDead}, {2, StatusCode::kOk}}));
}

// What was not accepted will not come: the one before it is the last.
TEST_F(WokenTest, ByTheLastOneThatWasAccepted) {
  const uint32_t group = tokens_.groups().Open();
  const uint64_t accepted = tokens_.Add(this, 1, group);
  const uint64_t refused = tokens_.Add(this, 2, group);
  tokens_.Withdraw(refused);
  EXPECT_TRUE(Wakes(accepted));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_FALSE(tokens_.Complete(refused, Status::Ok())) << "nobody knows a token that was withdrawn";
}

TEST_F(WokenTest, ByAllWhenNoGroupIsLeft) {
  CompletionGroups& groups = tokens_.groups();
  std::vector<uint32_t> taken;
  for (uint32_t group = groups.Open(); group != 0; group = groups.Open()) taken.push_back(group);
  EXPECT_EQ(taken.size(), (1U << CompletionGroups::kBits) - 1);
  std::ranges::sort(taken);
  EXPECT_EQ(std::ranges::adjacent_find(taken), taken.end()) << "each is given out once";
  const uint64_t first = tokens_.Add(this, 1, 0);
  const uint64_t second = tokens_.Add(this, 2, 0);
  EXPECT_TRUE(Wakes(first));
  EXPECT_EQ(TakeAll(), 1U);
  EXPECT_TRUE(Wakes(second));
  EXPECT_EQ(TakeAll(), 1U);
  groups.Close(0);  // there is nothing to close
  groups.Close(taken.back());
  EXPECT_EQ(groups.Open(), taken.back());
  EXPECT_EQ(groups.Open(), 0U);
}

TEST_F(WokenTest, ATokenThatComesBackTwiceIsNoticed) {
  const uint64_t token = tokens_.Add(this, 1, tokens_.groups().Open());
  EXPECT_TRUE(tokens_.Complete(token, Status::Ok()));
  const uint64_t next = tokens_.Add(this, 2);  // at the same place
  EXPECT_FALSE(tokens_.Complete(token, Status::Ok()));
  EXPECT_TRUE(tokens_.Complete(next, Status::Ok()));
  EXPECT_EQ(told_.size(), 2U);
}

// Four lanes complete the parts of many gets, one after the other as fast as they can.
TEST_F(WokenTest, InTimeForEveryLastOneOfManyGroups) {
  constexpr uint32_t kLanes = 4;
  constexpr int kRounds = 20'000;
  std::vector<uint64_t> tokens(kLanes);
  std::barrier begin(kLanes + 1);
  std::vector<std::thread> lanes;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    lanes.emplace_back([&, lane] {
      TransportEvents events(queue_, 0);
      for (int round = 0; round < kRounds; ++round) {
        begin.arrive_and_wait();
        events.OnComplete(tokens[lane], Status::Ok());
      }
    });
  }
  const uint32_t group = tokens_.groups().Open();
  bool lost = false;
  for (int round = 0; round < kRounds; ++round) {
    for (uint64_t& token : tokens) token = tokens_.Add(this, 0, group);
    begin.arrive_and_wait();
    while (!lost && tokens_.outstanding() > 0) {
      if (queue_.PrepareSleep()) {
        pollfd polled{wake_.get(), POLLIN, 0};
        lost = ::poll(&polled, 1, kPatienceMs) != 1;
        DrainEvent(wake_.get());
      }
      TakeAll();
    }
  }
  for (std::thread& lane : lanes) lane.join();
  EXPECT_FALSE(lost) << "the loop slept over the last completion of a group";
  EXPECT_EQ(told_.size(), size_t{kLanes} * kRounds);
}

}  // namespace
}  // namespace hbmesh::sidecar
