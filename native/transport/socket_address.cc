#include "transport/socket_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "base/address.h"
#include "base/check.h"

namespace hbmesh {
namespace {

// A peer host that is gone without a word is noticed after about 15 seconds.
constexpr int kKeepAliveIdleSeconds = 6;
constexpr int kKeepAliveIntervalSeconds = 3;
constexpr int kKeepAliveProbes = 3;

bool SetOption(int socket, int level, int name, int value) {
  return ::setsockopt(socket, level, name, &value, sizeof value) == 0;
}

}  // namespace

Status ParseSocketAddress(const std::string& text, SocketAddress* address) {
  Address read;
  if (Status status = ParseIpAddress(text, "the tcp address", &read); !status.ok()) return status;
  *address = ToSocketAddress(read.host, read.port);
  return Status::Ok();
}

SocketAddress ToSocketAddress(const std::string& host, uint16_t port) {
  SocketAddress address;
  sockaddr_in6 six{};
  sockaddr_in four{};
  if (::inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) == 1) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    address.bytes = sizeof six;
    std::memcpy(&address.storage, &six, sizeof six);
  } else {
    const bool isIp = ::inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1;
    HBMESH_CHECK(isIp, "names are looked up first");
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    address.bytes = sizeof four;
    std::memcpy(&address.storage, &four, sizeof four);
  }
  return address;
}

std::string SocketAddressName(const SocketAddress& address) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(address.get(), address.bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown address";
  }
  Address read;
  const std::string text = (address.storage.ss_family == AF_INET6 ? "[" + std::string(host) + "]" : host) + ":" + port;
  // A peer over IPv4 is named so at a listener of both families, too.
  return ParseAddress(text, "", &read).ok() ? FormatAddress(read.host, read.port) : text;
}

Status PrepareTcpSocket(int socket, uint32_t stallTimeoutMs) {
  timeval stall{};
  stall.tv_sec = stallTimeoutMs / 1000;
  stall.tv_usec = static_cast<suseconds_t>(stallTimeoutMs % 1000) * 1000;
  const bool done = SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1) && SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1) &&
                    SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds) &&
                    SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds) &&
                    SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes) &&
                    ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall) == 0 &&
                    ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall) == 0;
  return done ? Status::Ok() : StatusFromErrno(errno, "setting options of a tcp connection");
}

bool IsUnacknowledged(int socket) {
  tcp_info info{};
  socklen_t bytes = sizeof info;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return false;
  return info.tcpi_unacked > 0 && info.tcpi_retransmits > 0;
}

}  // namespace hbmesh
