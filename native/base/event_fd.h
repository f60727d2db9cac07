// Wake-ups over eventfds. All descriptors are close-on-exec and don't block.
//
// Thread rule: any thread, any process that holds the descriptor.
#pragma once

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh {

[[nodiscard]] Status CreateEventFd(Fd* event);

// Wakes whoever waits for the event, now or next. Never blocks; signals before a drain count as one.
void SignalEvent(int event);

// Takes all signals away. True if there were any.
bool DrainEvent(int event);

// Waits until the event is signalled, and drains it. False: the time was over. timeoutMs -1: no limit.
[[nodiscard]] bool WaitEvent(int event, int timeoutMs);

}  // namespace hbmesh
