// The passive side of a link: offers memory to one client, serves its raw streams, and ends with it.
#pragma once

#include <cstdint>

namespace hbmesh::bench {

// Says {"event":"listening","port":N} and, when a client came, {"event":"client",...} on stdout. Port 0 takes a free
// one. Anyone who reaches the port meanwhile may read and write the memory offered, which holds nothing. Throws
// Failure.
void ServeLink(uint16_t port);

}  // namespace hbmesh::bench
