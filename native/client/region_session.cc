#include "client/region_session.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/unix_socket.h"
#include "queue/session_protocol.h"

namespace hbmesh {

RegionSession::RegionSession(int socket, std::string workerAddress, uint32_t timeoutMs)
    : socket_(socket), workerAddress_(std::move(workerAddress)), timeoutMs_(timeoutMs) {}

Status RegionSession::Receive(const char* doing, uint32_t* region, bool* answered) const {
  pollfd entry{socket_, POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&entry, 1, static_cast<int>(timeoutMs_));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    return {StatusCode::kWorkerTimeout, "waited " + std::to_string(timeoutMs_) + " ms for the sidecar of worker " +
                                            workerAddress_ + " to " + doing +
                                            "; the session is closed: look at the worker's log, then connect again"};
  }
  session::RegisterReply reply{};
  Packet packet;
  const Status received = ReceivePacket(socket_, std::as_writable_bytes(std::span(&reply, 1)), &packet);
  if (received.code() == StatusCode::kRpcPeerDead) {
    return {StatusCode::kClientWorkerDisconnect, "the sidecar of worker " + workerAddress_ + " ended while it was to " +
                                                     doing + ": connect again once the worker is back"};
  }
  if (!received.ok() || packet.bytes != sizeof(reply) ||
      reply.type != static_cast<uint32_t>(session::Type::kRegisterReply)) {
    return {StatusCode::kDataInconsistency, "the sidecar of worker " + workerAddress_ +
                                                " broke the session protocol when it was to " + doing +
                                                ": worker and client must be of the same release"};
  }
  *answered = true;
  if (reply.code != 0) {
    return {static_cast<StatusCode>(reply.code), std::string(reply.text, ::strnlen(reply.text, sizeof(reply.text)))};
  }
  *region = reply.region;
  return Status::Ok();
}

Status RegionSession::Ask(std::span<const std::byte> packet, int fd, const char* doing, uint32_t* region) {
  bool answered = false;
  // One packet at a time is under way, so the socket's buffer has room unless the other side is gone.
  Status status = SendPacket(socket_, packet, fd < 0 ? std::span<const int>() : std::span<const int>(&fd, 1));
  const bool sent = status.ok();
  if (sent) status = Receive(doing, region, &answered);
  if (!answered) ::shutdown(socket_, SHUT_RDWR);
  if (!sent && status.code() == StatusCode::kRpcPeerDead) {
    return {StatusCode::kClientWorkerDisconnect,
            "the sidecar of worker " + workerAddress_ + " ended: connect again once the worker is back"};
  }
  return status;
}

Status RegionSession::Register(const ExportHandle& handle, uint32_t* region) {
  session::RegisterRegion request{};
  request.type = static_cast<uint32_t>(session::Type::kRegisterRegion);
  request.deviceIndex = handle.deviceIndex;
  request.bytes = handle.bytes;
  if (handle.key.size() > sizeof(request.key)) {
    return {StatusCode::kRuntimeError, "the export key of device memory has " + std::to_string(handle.key.size()) +
                                           " bytes, the session protocol carries " +
                                           std::to_string(sizeof(request.key))};
  }
  request.keyBytes = static_cast<uint32_t>(handle.key.size());
  if (!handle.key.empty()) std::memcpy(request.key, handle.key.data(), handle.key.size());
  return Ask(std::as_bytes(std::span(&request, 1)), handle.fd, "register device memory", region);
}

Status RegionSession::Unregister(uint32_t region) {
  session::UnregisterRegion request{};
  request.type = static_cast<uint32_t>(session::Type::kUnregisterRegion);
  request.region = region;
  uint32_t ignored = 0;
  return Ask(std::as_bytes(std::span(&request, 1)), -1, "unregister device memory", &ignored);
}

}  // namespace hbmesh
