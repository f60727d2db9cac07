// Goal: the loop never sleeps over what came after it had looked: a wake-up that its look at the sockets takes is
// followed by a poll. Method: a clock turned by hand, so that a look is due after each poll; the work is told of
// something right after its poll has seen nothing, by the wake-up or by a descriptor, as another thread would tell it.
#include "sidecar/loop.h"

#include <gtest/gtest.h>
#include <poll.h>

#include "base/event_fd.h"

namespace hbmesh::sidecar {
namespace {

class LoopTest : public ::testing::Test, protected LoopWork, protected FdHandler {
 protected:
  void SetUp() override {
    ASSERT_TRUE(loop_.Open().ok());
    ASSERT_TRUE(CreateEventFd(&other_).ok());
  }
  // What comes in between is at the work when a poll sees it.
  bool Poll() override {
    clock_.AdvanceMs(step_);
    polls_++;
    if (polls_ == comesAfter_) {
      came_ = !bySocket_;
      SignalEvent(bySocket_ ? other_.get() : loop_.wakeFd());
      return false;
    }
    if (came_ || polls_ > kPollsMax) loop_.Stop();
    return came_;
  }
  bool PrepareSleep() override {
    pollfd wake{loop_.wakeFd(), POLLIN, 0};
    if (!came_ || ::poll(&wake, 1, 0) == 1) return true;
    ADD_FAILURE() << "it sleeps, its wake-up is taken, and nothing was done about it";
    return false;
  }
  void EndSleep() override {}
  void OnReady(uint32_t /*epollEvents*/) override {
    DrainEvent(other_.get());
    came_ = true;
  }
  void Run() {
    ASSERT_NE(loop_.Watch(other_.get(), this), 0U);
    loop_.Run(*this);
    EXPECT_TRUE(came_);
    EXPECT_EQ(polls_, comesAfter_ + 1) << "the next poll sees it";
  }

  static constexpr int kPollsMax = 100;
  ManualClock clock_{1'000'000'000};
  Timers timers_{clock_};
  Loop loop_{clock_, timers_, 0};
  Fd other_;
  uint64_t step_ = 1;  // ms that each poll takes; a look is due after 0.2
  int comesAfter_ = 1;
  int polls_ = 0;
  bool bySocket_ = false;
  bool came_ = false;
};

TEST_F(LoopTest, AWakeUpTakenByALookIsPolledFor) { Run(); }

TEST_F(LoopTest, WhatASocketsHandlerLeavesForThePollIsPolledFor) {
  bySocket_ = true;
  Run();
}

TEST_F(LoopTest, AWakeUpEndsTheSleepWhenNoLookWasDue) {
  step_ = 0;
  Run();
}

}  // namespace
}  // namespace hbmesh::sidecar
