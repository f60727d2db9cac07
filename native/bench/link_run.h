// The active side of a link: reads from or writes to the memory of the other side, and says how fast.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/order.h"

namespace hbmesh::bench {

// Orders, one a run:
//   bandwidth host= port= transport= op=read|write sizes= iterations= lanes= depth= bytes= [interval_ms=]
//   latency   ... the same; depth has no effect
// Says a line a size on stdout, and for bandwidth at the end one of the raw sockets' (tcp). With interval_ms it repeats
// the first size for ever, a line an interval, until SIGINT or SIGTERM. Throws Failure.
void RunLink(const Order& order);

}  // namespace hbmesh::bench
