#include "base/event_fd.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "base/clock.h"

namespace hbmesh {

Status CreateEventFd(Fd* event) {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    return StatusFromErrno(errno, "eventfd");
  }
  *event = Fd(fd);
  return Status::Ok();
}

void SignalEvent(int event) {
  const uint64_t one = 1;
  // EAGAIN means that the counter is at its limit: the event is signalled all the same.
  while (::write(event, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

bool DrainEvent(int event) {
  uint64_t count = 0;
  ssize_t got = 0;
  do {
    got = ::read(event, &count, sizeof(count));
  } while (got < 0 && errno == EINTR);
  return got == sizeof(count) && count > 0;
}

bool WaitEvent(int event, int timeoutMs) {
  const SteadyClock clock;
  const uint64_t endNs = clock.NowNs() + (timeoutMs < 0 ? 0 : static_cast<uint64_t>(timeoutMs) * 1'000'000);
  for (;;) {
    if (DrainEvent(event)) {
      return true;
    }
    int waitMs = -1;
    if (timeoutMs >= 0) {
      const uint64_t nowNs = clock.NowNs();
      if (nowNs >= endNs) {
        return false;
      }
      waitMs = static_cast<int>((endNs - nowNs + 999'999) / 1'000'000);
    }
    pollfd wait{event, POLLIN, 0};
    if (::poll(&wait, 1, waitMs) < 0 && errno != EINTR) {
      return false;
    }
  }
}

}  // namespace hbmesh
