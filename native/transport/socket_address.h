// Numeric addresses of tcp sockets: "127.0.0.1:31501", "[::1]:31501".
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// REQUIRES: `host` is an IP address, without brackets.
[[nodiscard]] SocketAddress ToSocketAddress(const std::string& host, uint16_t port);
// kInvalid, saying why: not a numeric address with a port.
[[nodiscard]] Status ParseSocketAddress(const std::string& text, SocketAddress* address);
[[nodiscard]] std::string SocketAddressName(const SocketAddress& address);

// What all connections of the tcp transport need: no delay for small frames, buffers, a dead host is noticed, sends and
// receives in the middle of a frame end after stallTimeoutMs.
[[nodiscard]] Status PrepareTcpSocket(int socket, uint32_t stallTimeoutMs);
// True: the peer's host has not acknowledged what was sent, though it was sent again; by what the kernel says.
[[nodiscard]] bool IsUnacknowledged(int socket);

}  // namespace hbmesh
