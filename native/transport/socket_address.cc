#include "transport/socket_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include <cerrno>

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
  const Status wrong(StatusCode::kInvalid,
                     "\"" + text + "\" is no tcp address; give IP:PORT, like 127.0.0.1:31501 or [::1]:31501");
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return wrong;
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  if (port.size() > 5 || port.find_first_not_of("0123456789") != std::string::npos || std::stoi(port) > 65535)
    return wrong;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return wrong;
  address->bytes = found->ai_addrlen;
  address->storage = {};
  __builtin_memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  return Status::Ok();
}

std::string SocketAddressName(const SocketAddress& address) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(address.get(), address.bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown address";
  }
  std::string name = host;
  if (address.storage.ss_family == AF_INET6) name.insert(0, 1, '[').push_back(']');
  return name.append(1, ':').append(port);
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
