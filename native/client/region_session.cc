#include "client/region_session.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "queue/session_protocol.h"

namespace hbmesh {

RegionSession::RegionSession(int socket, std::string workerAddress, uint32_t timeoutMs)
    : socket_(socket), workerAddress_(std::move(workerAddress)), timeoutMs_(timeoutMs) {}

Status RegionSession::Send(const void* packet, size_t bytes, int fd) const {
  iovec part{const_cast<void*>(packet), bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  // One packet at a time is under way, so the socket's buffer has room unless the other side is gone.
  while (::sendmsg(socket_, &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return StatusFromErrno(errno, "asking the sidecar of worker " + workerAddress_);
  }
  return Status::Ok();
}

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
  const ssize_t received = ::recv(socket_, &reply, sizeof(reply), MSG_DONTWAIT);
  if (received == 0 || (received < 0 && (errno == ECONNRESET || errno == EPIPE))) {
    return {StatusCode::kClientWorkerDisconnect, "the sidecar of worker " + workerAddress_ + " ended while it was to " +
                                                     doing + ": connect again once the worker is back"};
  }
  if (received != static_cast<ssize_t>(sizeof(reply)) ||
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

Status RegionSession::Ask(const void* packet, size_t bytes, int fd, const char* doing, uint32_t* region) {
  bool answered = false;
  Status status = Send(packet, bytes, fd);
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
  return Ask(&request, sizeof(request), handle.fd, "register device memory", region);
}

Status RegionSession::Unregister(uint32_t region) {
  session::UnregisterRegion request{};
  request.type = static_cast<uint32_t>(session::Type::kUnregisterRegion);
  request.region = region;
  uint32_t ignored = 0;
  return Ask(&request, sizeof(request), -1, "unregister device memory", &ignored);
}

}  // namespace hbmesh
