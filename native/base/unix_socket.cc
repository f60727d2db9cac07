#include "base/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace hbmesh {
namespace {

constexpr int kListenBacklog = 128;

// Calls `call` until it isn't interrupted.
template <typename Call>
auto RetryInterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) {
    result = call();
  }
  return result;
}

Status AbstractAddress(const std::string& name, sockaddr_un* address, socklen_t* bytes) {
  if (name.empty() || name.size() > sizeof(address->sun_path) - 1) {
    return {StatusCode::kInvalid, "socket name \"" + name + "\" has " + std::to_string(name.size()) +
                                      " bytes: use 1 to " + std::to_string(sizeof(address->sun_path) - 1)};
  }
  *address = {};
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path + 1, name.data(), name.size());  // sun_path[0] is 0: the abstract name space
  *bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return Status::Ok();
}

// Room for the descriptors of one packet, aligned as the kernel wants it.
union ControlBuffer {
  cmsghdr header;
  std::array<char, CMSG_SPACE(kPacketDescriptorsMax * sizeof(int))> bytes;
};

std::vector<Fd> TakeDescriptors(msghdr* message) {
  std::vector<Fd> taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      taken.emplace_back(fd);
    }
  }
  return taken;
}

}  // namespace

Status ListenUnix(const std::string& name, Fd* listener) {
  sockaddr_un address{};
  socklen_t bytes = 0;
  if (Status status = AbstractAddress(name, &address, &bytes); !status.ok()) {
    return status;
  }
  Fd made(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) {
    return StatusFromErrno(errno, "socket for " + name);
  }
  if (::bind(made.get(), reinterpret_cast<const sockaddr*>(&address), bytes) < 0) {
    return StatusFromErrno(errno, "listen at the socket name " + name);
  }
  if (::listen(made.get(), kListenBacklog) < 0) {
    return StatusFromErrno(errno, "listen at the socket name " + name);
  }
  *listener = std::move(made);
  return Status::Ok();
}

Status AcceptUnix(int listener, bool nonBlocking, Fd* socket) {
  const int flags = SOCK_CLOEXEC | (nonBlocking ? SOCK_NONBLOCK : 0);
  Fd made(RetryInterrupted([&] { return ::accept4(listener, nullptr, nullptr, flags); }));
  if (!made.valid()) {
    if (OutOfDescriptors(errno)) {
      return {StatusCode::kOutOfMemory, "no descriptor is left for a local connection; raise the limit (ulimit -n)"};
    }
    // A peer that has gone away while it waited is as if nobody had waited.
    return StatusFromErrno(errno == ECONNABORTED ? EAGAIN : errno, "accept a local connection");
  }
  *socket = std::move(made);
  return Status::Ok();
}

bool OutOfDescriptors(int error) { return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS; }

Status ConnectUnix(const std::string& name, Fd* socket) {
  sockaddr_un address{};
  socklen_t bytes = 0;
  if (Status status = AbstractAddress(name, &address, &bytes); !status.ok()) {
    return status;
  }
  Fd made(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!made.valid()) {
    return StatusFromErrno(errno, "socket for " + name);
  }
  const auto connect = [&] { return ::connect(made.get(), reinterpret_cast<const sockaddr*>(&address), bytes); };
  if (RetryInterrupted(connect) < 0 && errno != EISCONN) {
    return StatusFromErrno(errno, "connect to the socket name " + name);
  }
  *socket = std::move(made);
  return Status::Ok();
}

Status UnixPair(Fd* first, Fd* second) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return StatusFromErrno(errno, "socketpair");
  }
  *first = Fd(ends[0]);
  *second = Fd(ends[1]);
  return Status::Ok();
}

Status GetPeerCredentials(int socket, PeerCredentials* peer) {
  ucred credentials{};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) < 0) {
    return StatusFromErrno(errno, "ask for the credentials of a local peer");
  }
  *peer = {credentials.pid, credentials.uid, credentials.gid};
  return Status::Ok();
}

std::vector<gid_t> GetPeerGroups(int socket) {
  std::vector<gid_t> groups(32);
  for (;;) {
    auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) {
      groups.resize(bytes / sizeof(gid_t));
      return groups;
    }
    if (errno != ERANGE || bytes <= groups.size() * sizeof(gid_t)) return {};
    groups.resize(bytes / sizeof(gid_t));
  }
}

Status SetNonBlocking(int fd, bool nonBlocking) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, nonBlocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0) {
    return StatusFromErrno(errno, "set O_NONBLOCK");
  }
  return Status::Ok();
}

Status SetSocketTimeout(int socket, uint32_t timeoutMs) {
  const timeval time{static_cast<time_t>(timeoutMs / 1000), static_cast<suseconds_t>(timeoutMs % 1000 * 1000)};
  if (::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) < 0 ||
      ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)) < 0) {
    return StatusFromErrno(errno, "set the time-out of a local socket");
  }
  return Status::Ok();
}

Status SendPacket(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors) {
  if (bytes.empty() || descriptors.size() > kPacketDescriptorsMax) {
    return {StatusCode::kInvalid, "a packet has at least 1 byte and at most " + std::to_string(kPacketDescriptorsMax) +
                                      " descriptors; got " + std::to_string(bytes.size()) + " and " +
                                      std::to_string(descriptors.size())};
  }
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlBuffer control{};
  if (!descriptors.empty()) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  if (RetryInterrupted([&] { return ::sendmsg(socket, &message, MSG_NOSIGNAL); }) < 0) {
    return StatusFromErrno(errno, "send to a local peer");
  }
  return Status::Ok();
}

Status ReceivePacket(int socket, std::span<std::byte> buffer, Packet* packet) {
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlBuffer control{};
  message.msg_control = control.bytes.data();
  message.msg_controllen = sizeof(control);
  const auto receive = [&] { return RetryInterrupted([&] { return ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC); }); };
  ssize_t got = receive();
  // The peer closed with packets of ours unread. The kernel says so once, before it gives what the peer sent.
  if (got < 0 && errno == ECONNRESET) got = receive();
  if (got < 0) {
    return StatusFromErrno(errno, "receive from a local peer");
  }
  std::vector<Fd> descriptors = TakeDescriptors(&message);  // owned from here on, whatever follows
  if (got == 0) {
    return {StatusCode::kRpcPeerDead, "the local peer closed its socket: its process ended or gave up"};
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return {StatusCode::kDataInconsistency, "a packet of a local peer is longer than " + std::to_string(buffer.size()) +
                                                " bytes or brings more than " + std::to_string(kPacketDescriptorsMax) +
                                                " descriptors: are both ends of the same version?"};
  }
  packet->bytes = static_cast<size_t>(got);
  packet->descriptors = std::move(descriptors);
  return Status::Ok();
}

void EndSending(int socket) {
  // Fails only where the peer is gone already.
  (void)::shutdown(socket, SHUT_WR);
}

}  // namespace hbmesh
