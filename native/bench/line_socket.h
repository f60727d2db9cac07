// LineSocket: a TCP connection that carries lines of text, and between them bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/fd.h"

namespace hbmesh::bench {

class LineSocket {
 public:
  explicit LineSocket(Fd socket) : socket_(std::move(socket)) {}
  // `host` is an IP address without brackets, or a name. Throws Failure when it leads nowhere, or nobody answers.
  [[nodiscard]] static LineSocket Connect(const std::string& host, uint16_t port);

  // False at the end of the connection. Throws Failure for a line that is too long.
  [[nodiscard]] bool ReadLine(std::string* line);
  void WriteLine(const std::string& line);
  // All of it, or Failure.
  void Receive(std::span<std::byte> target);
  void Send(std::span<const std::byte> source);
  // The address of this end without the port: an IPv6 address in brackets.
  [[nodiscard]] std::string LocalHost() const;
  // The other side, and a thread that waits here, see the end of the connection.
  void Shutdown();

 private:
  Fd socket_;
};

// Accepts on all addresses of this host. Throws Failure, naming the port, when it is taken.
[[nodiscard]] Fd ListenOn(uint16_t port);
[[nodiscard]] uint16_t PortOf(const Fd& listener);

}  // namespace hbmesh::bench
