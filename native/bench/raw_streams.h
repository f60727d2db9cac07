// Raw sockets beside the transport: the limit of a link, between the same two hosts, from the same memory.
//
// A connection says "raw write BYTES" and sends them, or "raw read BYTES" and gets them; the other side answers "done"
// after it has all of a write.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "bench/line_socket.h"

namespace hbmesh::bench {

// Serves one connection, whose first line was `line`, until it ends.
void ServeRaw(LineSocket& socket, std::string line, std::span<std::byte> memory);

struct RawPlan {
  std::string host;
  uint16_t port = 0;
  bool write = true;
  uint32_t connections = 1;
  uint64_t bytes = 0;  // of all connections together
};

// Bytes a second. Throws Failure.
[[nodiscard]] double MeasureRaw(const RawPlan& plan, std::span<std::byte> memory);

}  // namespace hbmesh::bench
