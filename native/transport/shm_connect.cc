#include "transport/shm_connect.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <utility>

#include "base/unix_socket.h"
#include "transport/shm_wire.h"

namespace hbmesh {
namespace {

// Room for some messages of the largest size; the kernel's default has room for three.
constexpr int kSendBufferBytes = 1 << 20;

Status Unavailable(const std::string& name, const std::string& why) {
  return {StatusCode::kRpcUnavailable, "no shm transport of hbmesh could be reached at " + name + ": " + why +
                                           "; check that the worker there is running on this host"};
}

Status AwaitReply(const std::string& name, int socket, int cancel, uint32_t timeoutMs) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeoutMs);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd polled[] = {{socket, POLLIN, 0}, {cancel, POLLIN, 0}};
    const int ready = left <= 0 ? 0 : ::poll(polled, 2, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return StatusFromErrno(errno, "waiting for " + name);
    if (ready == 0) return Unavailable(name, "no answer within " + std::to_string(timeoutMs) + " ms");
    if (polled[1].revents != 0) return {StatusCode::kRpcCancelled, "the endpoint was closed while it connected"};
    return Status::Ok();
  }
}

}  // namespace

Status CheckShmPeer(int socket, std::string* peer) {
  PeerCredentials credentials;
  if (Status status = SetNonBlocking(socket, true); !status.ok()) return status;
  if (Status status = GetPeerCredentials(socket, &credentials); !status.ok()) return status;
  *peer = "process " + std::to_string(credentials.pid) + " of this host";
  if (credentials.uid != ::geteuid() && credentials.uid != 0) {
    return {StatusCode::kNotAuthorized, "process " + std::to_string(credentials.pid) + " belongs to user " +
                                            std::to_string(credentials.uid) + ", this one to " +
                                            std::to_string(::geteuid()) +
                                            "; shared memory is for processes of the same user only"};
  }
  return Status::Ok();
}

Status ConnectShm(const std::string& name, const TransportOptions& options, int cancel, Fd* socket) {
  Fd made;
  Status status = ConnectUnix(name, &made);
  if (status.code() == StatusCode::kRpcUnavailable) return Unavailable(name, "nobody listens there");
  if (!status.ok()) return status;
  std::string peer;
  if (status = CheckShmPeer(made.get(), &peer); !status.ok()) return status;
  (void)::setsockopt(made.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  const shm::Hello hello{.header = {.type = static_cast<uint32_t>(shm::PacketType::kHello), .region = 0},
                         .magic = shm::kMagic,
                         .version = shm::kVersion};
  // One that has closed already has said why.
  status = SendPacket(made.get(), std::as_bytes(std::span(&hello, 1)));
  if (!status.ok() && status.code() != StatusCode::kRpcPeerDead) return Unavailable(name, status.message());
  if (status = AwaitReply(name, made.get(), cancel, options.connectTimeoutMs); !status.ok()) return status;
  shm::HelloReply reply{};
  Packet packet;
  status = ReceivePacket(made.get(), std::as_writable_bytes(std::span(&reply, 1)), &packet);
  if (!status.ok()) return Unavailable(name, status.message());
  if (packet.bytes != sizeof reply || reply.magic != shm::kMagic) {
    return Unavailable(name, "something else than hbmesh answered");
  }
  if (reply.code != 0) {
    return {static_cast<StatusCode>(reply.code),
            name + ": " + std::string(reply.text, ::strnlen(reply.text, sizeof reply.text))};
  }
  *socket = std::move(made);
  return Status::Ok();
}

Status ReceiveShmHello(int socket) {
  shm::Hello hello{};
  Packet packet;
  Status status = ReceivePacket(socket, std::as_writable_bytes(std::span(&hello, 1)), &packet);
  if (!status.ok()) return status;
  if (packet.bytes != sizeof hello || hello.magic != shm::kMagic ||
      hello.header.type != static_cast<uint32_t>(shm::PacketType::kHello)) {
    return {StatusCode::kInvalid, "a stranger connected to the shm transport"};
  }
  if (hello.version != shm::kVersion) {
    return {StatusCode::kNotSupported, "this side speaks version " + std::to_string(shm::kVersion) +
                                           " of the shm transport, the caller version " +
                                           std::to_string(hello.version) + "; run the same release in both"};
  }
  return status;
}

void SendShmReply(int socket, const Status& status) {
  shm::HelloReply reply{};
  reply.header = {.type = static_cast<uint32_t>(shm::PacketType::kHelloReply), .region = 0};
  reply.magic = shm::kMagic;
  reply.version = shm::kVersion;
  reply.code = static_cast<uint32_t>(status.code());
  std::strncpy(reply.text, status.message().c_str(), sizeof reply.text - 1);
  (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  (void)SendPacket(socket, std::as_bytes(std::span(&reply, 1)));  // a peer that is gone is noticed later
}

}  // namespace hbmesh
