// Goal: who sends learns whether all of it was taken: a consumer that takes messages lives. Method: both ends of a
// channel in one process.
#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/event_fd.h"
#include "queue/channel.h"

namespace hbmesh {
namespace {

Fd Duplicate(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

TEST(ChannelTaken, KnowsWhetherAllWasTaken) {
  Fd wake;
  ASSERT_TRUE(CreateEventFd(&wake).ok());
  std::unique_ptr<Channel> sidecar;
  std::unique_ptr<Channel> peer;
  ASSERT_TRUE(Channel::Create({.entryCapacity = 8, .payloadCapacity = 4096}, wake.get(), &sidecar).ok());
  ASSERT_TRUE(
      Channel::Attach(Duplicate(sidecar->memoryFd()), Duplicate(wake.get()), Duplicate(sidecar->peerWakeFd()), &peer)
          .ok());
  EXPECT_TRUE(peer->AllTaken()) << "nothing was sent";
  ASSERT_TRUE(peer->Send(layout::Entry{}, std::vector<std::byte>(100)).ok());
  ASSERT_TRUE(peer->Send(layout::Entry{}, std::vector<std::byte>()).ok());
  Message message;
  bool received = false;
  for (const bool all : {false, true}) {
    EXPECT_FALSE(peer->AllTaken());
    ASSERT_TRUE(sidecar->Receive(&message, &received).ok());
    EXPECT_TRUE(received);
    EXPECT_EQ(peer->AllTaken(), all);
  }
  EXPECT_TRUE(sidecar->AllTaken()) << "the other direction is its own";
}

}  // namespace
}  // namespace hbmesh
