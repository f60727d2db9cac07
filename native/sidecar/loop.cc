#include "sidecar/loop.h"

#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include "base/event_fd.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kWakeWatch = 0;            // in epoll_event::data; watches count from 1
constexpr uint64_t kSocketCheckNs = 200'000;  // while busy or spinning, sockets are looked at this often

}  // namespace

Status Loop::Open() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return StatusFromErrno(errno, "making the sidecar's epoll");
  if (Status status = CreateEventFd(&wake_); !status.ok()) return status;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeWatch;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return StatusFromErrno(errno, "watching the sidecar's wake eventfd");
  }
  return Status::Ok();
}

uint64_t Loop::Watch(int fd, FdHandler* handler) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = ++lastWatch_;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return 0;
  watches_.emplace(lastWatch_, Watched{fd, handler});
  return lastWatch_;
}

void Loop::Unwatch(uint64_t watch) {
  const auto found = watches_.find(watch);
  if (found == watches_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr);
  watches_.erase(found);
}

bool Loop::Wait(int timeoutMs) {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeoutMs);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    const uint64_t watch = event.data.u64;  // the event is packed: no reference may lead into it
    if (watch == kWakeWatch) {
      DrainEvent(wake_.get());
      continue;
    }
    // A handler may have unwatched others of this round.
    const auto found = watches_.find(watch);
    if (found != watches_.end()) found->second.handler->OnReady(event.events);
  }
  return count > 0;
}

void Loop::Sleep(LoopWork& work) {
  if (work.PrepareSleep()) {
    const uint64_t untilTimer = timers_.NextInNs();
    // Rounded up: waking before the deadline would spin until it.
    const uint64_t ms = untilTimer == UINT64_MAX ? UINT64_MAX : (untilTimer + kNsPerMs - 1) / kNsPerMs;
    (void)Wait(ms == UINT64_MAX ? -1 : static_cast<int>(std::min<uint64_t>(ms, INT_MAX)));
  }
  work.EndSleep();
}

void Loop::Run(LoopWork& work) {
  uint64_t lastWork = clock_.NowNs();
  uint64_t lastLook = lastWork;
  while (!stopped_) {
    const bool ran = timers_.RunDue();
    const bool worked = work.Poll();
    if (stopped_) break;
    const uint64_t now = clock_.NowNs();
    if (ran || worked) lastWork = now;
    if (now - lastLook >= kSocketCheckNs) {
      lastLook = now;
      // The wake-up that was taken here is not there any more to end a sleep, and it came after the poll.
      if (Wait(0)) continue;
    }
    if (ran || worked) continue;
    if (now - lastWork < spinNs_) {
      ::sched_yield();  // not a pause: on a machine whose cores are taken a client may wait for this one
      continue;
    }
    Sleep(work);
    lastWork = clock_.NowNs();
    lastLook = lastWork;
  }
}

}  // namespace hbmesh::sidecar
