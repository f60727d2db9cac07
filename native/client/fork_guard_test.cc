// Goal: a process's end reaches its peers although a child that it forked lives on.
// Method: a pair of sockets, a child that waits to be told to end; the parent closes its socket and looks at the other
// end while the child is there. Without the guard that end stays open.
#include "client/fork_guard.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <optional>

#include "base/fd.h"

namespace hbmesh {
namespace {

constexpr int kLongMs = 30'000;  // no working test waits for it

bool IsClosedByPeer(int socket, int timeoutMs) {
  pollfd entry{socket, POLLIN, 0};
  return ::poll(&entry, 1, timeoutMs) == 1 && (entry.revents & POLLHUP) != 0;
}

// Closes the guarded socket while a child of this process lives; has the other end seen it?
bool EndIsSeen(bool guarded, int timeoutMs) {
  std::array<int, 2> pair{};
  std::array<int, 2> tell{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()), 0);
  EXPECT_EQ(::pipe(tell.data()), 0);
  Fd mine(pair[0]);
  const Fd other(pair[1]);
  std::optional<ForkGuard> guard;
  if (guarded) guard.emplace(mine.get());
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(tell[1]);
    ::close(pair[1]);
    char byte = 0;
    [[maybe_unused]] const ssize_t end = ::read(tell[0], &byte, 1);
    ::_exit(0);
  }
  guard.reset();
  mine.Reset();
  const bool seen = IsClosedByPeer(other.get(), timeoutMs);
  ::close(tell[1]);
  ::close(tell[0]);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  return seen;
}

TEST(ForkGuard, ChildLetsGo) { EXPECT_TRUE(EndIsSeen(true, kLongMs)); }

TEST(ForkGuard, WithoutItTheChildHoldsTheSocket) { EXPECT_FALSE(EndIsSeen(false, 0)); }

TEST(ForkGuard, ParentKeepsItsSocket) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()), 0);
  const Fd mine(pair[0]);
  const Fd other(pair[1]);
  const ForkGuard guard(mine.get());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(::send(mine.get(), "x", 1, 0), 1);
  char byte = 0;
  EXPECT_EQ(::recv(other.get(), &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'x');
}

}  // namespace
}  // namespace hbmesh
