#include "transport/shm_endpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include "base/event_fd.h"
#include "base/time_slice.h"
#include "transport/endpoint_id.h"
#include "transport/request_check.h"

namespace hbmesh {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr size_t kOutPacketsMax = 4 * shm::kRegionsMax;  // answers that the peer doesn't take; then it counts as dead

Status Broken(const std::string& what) {
  return {StatusCode::kRpcPeerDead,
          "the peer sent " + what + "; the connection is closed. Do both sides run the same version?"};
}

// Page tables now rather than faults during the first copies; not for sparse memory, which it would make real. A matter
// of speed only, so that an older kernel's refusal doesn't count.
void PopulatePages(int fd, const MappedMemory& memory, bool writable) {
#ifdef MADV_POPULATE_WRITE
  struct stat information {};
  if (::fstat(fd, &information) != 0 || information.st_blocks * 512 < information.st_size) return;
  (void)::madvise(memory.data(), memory.bytes(), writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
#endif
}

// A record of the size that its type has.
template <typename Record>
bool ReadRecord(std::span<const std::byte> packet, Record* record) {
  if (packet.size() != sizeof *record) return false;
  std::memcpy(record, packet.data(), sizeof *record);
  return true;
}

}  // namespace

ShmLink::ShmLink(std::shared_ptr<ShmShared> shared, std::string peer)
    : id_(NextEndpointId()),
      peer_(std::move(peer)),
      shared_(std::move(shared)),
      requestsMax_(shared_->options.requestsPerLaneMax * shared_->copies->threads()) {}

Status ShmLink::Attach(Fd socket) {
  if (Status status = SetNonBlocking(socket.get(), true); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  socket_ = std::move(socket);
  attached_ = true;
  return Status::Ok();
}

void ShmLink::Start(std::function<Status(int cancel, Fd* socket)> connect, uint64_t token) {
  const bool connects = connect != nullptr;
  const Status status = StartThread(std::move(connect), token);
  if (status.ok()) return;
  if (connects) {
    shared_->sink->OnComplete(token, status);
  } else {
    Finish(status);
  }
}

Status ShmLink::StartThread(std::function<Status(int cancel, Fd* socket)> connect, uint64_t token) {
  const std::lock_guard lock(mutex_);
  if (closing_) return Status::Ok();
  if (!wake_.valid()) {
    reason_ = CreateEventFd(&wake_);
    broken_ = !reason_.ok();
  }
  try {
    thread_ = std::thread([this, connect = std::move(connect), token] { Run(connect, token); });
  } catch (const std::system_error& error) {
    return {StatusCode::kTryAgain, std::string("no thread for ") + peer_ + ": " + error.what()};
  }
  return Status::Ok();
}

void ShmLink::Close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    if (wake_.valid()) SignalEvent(wake_.get());
  }
  if (thread_.joinable()) {
    thread_.join();
  } else {
    Finish(Status::Ok());
  }
}

void ShmLink::Run(const std::function<Status(int, Fd*)>& connect, uint64_t token) {
  if (connect) {
    Fd socket;
    Status status = connect(wake_.get(), &socket);
    if (status.ok()) status = Attach(std::move(socket));
    shared_->sink->OnComplete(token, status);
    if (!status.ok()) return;
  }
  AskForTimeSlice(TimeSlice::kShort);
  Finish(Serve());
}

// Until Close (kOk) or until the peer is gone.
Status ShmLink::Serve() {
  std::vector<std::byte> buffer(sizeof(shm::PacketHeader) + shm::kMessageBytesMax);
  for (;;) {
    short events = POLLIN;
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return Status::Ok();
      if (broken_) return reason_;
      if (Status status = FlushLocked(); !status.ok()) return status;
      if (!out_.empty()) events |= POLLOUT;
    }
    pollfd polled[] = {{socket_.get(), events, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(polled, 2, -1) < 0 && errno != EINTR) return StatusFromErrno(errno, "waiting for a peer on this host");
    if (polled[1].revents != 0) (void)DrainEvent(wake_.get());
    if ((polled[0].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
    if (Status status = ReceiveAll(buffer); !status.ok()) return status;
  }
}

// Takes what is there, but not for ever: the peer must not keep us from sending, nor from closing.
Status ShmLink::ReceiveAll(std::span<std::byte> buffer) {
  constexpr int kPacketsPerTurn = 64;
  for (int count = 0; count < kPacketsPerTurn; ++count) {
    Packet packet;
    Status status = ReceivePacket(socket_.get(), buffer, &packet);
    if (status.code() == StatusCode::kTryAgain) return Status::Ok();
    if (status.code() == StatusCode::kRpcPeerDead) return {StatusCode::kRpcPeerDead, "the peer closed the connection"};
    if (!status.ok()) return Broken("a packet that can't be read (" + status.message() + ")");
    status = Handle(buffer.subspan(0, packet.bytes), packet.descriptors);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Status ShmLink::Handle(std::span<const std::byte> packet, std::vector<Fd>& descriptors) {
  shm::PacketHeader header;
  if (packet.size() < sizeof header) return Broken("a packet of " + std::to_string(packet.size()) + " bytes");
  std::memcpy(&header, packet.data(), sizeof header);
  const bool bare = packet.size() == sizeof header;
  switch (static_cast<shm::PacketType>(header.type)) {
    case shm::PacketType::kMapRequest:
      if (!bare) return Broken("a malformed question for memory");
      OnMapRequest(header.region);
      return Status::Ok();
    case shm::PacketType::kMapReply: {
      shm::MapReply reply;
      if (!ReadRecord(packet, &reply)) return Broken("a malformed offer of memory");
      return OnMapReply(reply, descriptors);
    }
    case shm::PacketType::kRevoke:
      if (!bare) return Broken("a malformed revocation");
      OnRevoke(header.region);
      return Status::Ok();
    case shm::PacketType::kRevoked: {
      MemoryTable::Use gone;  // released after the lock
      const std::lock_guard lock(mutex_);
      const auto found = announced_.find(header.region);
      if (!bare || found == announced_.end()) return Broken("the return of memory it doesn't have");
      gone = std::move(found->second);
      announced_.erase(found);
      return Status::Ok();
    }
    case shm::PacketType::kMessage:
      shared_->sink->OnMessage(id_, packet.subspan(sizeof header));
      return Status::Ok();
    default:
      return Broken("a packet of the unknown type " + std::to_string(header.type));
  }
}

void ShmLink::OnMapRequest(uint32_t region) {
  // One step for Revoke: it finds the region announced, or this finds it retired.
  const std::lock_guard lock(mutex_);
  MemoryTable::Use use;
  Status status = shared_->memory->AcquireRegion(region, id_, &use);
  shm::MapReply reply{};
  reply.header = {.type = static_cast<uint32_t>(shm::PacketType::kMapReply), .region = region};
  Fd descriptor;
  if (status.ok()) {
    const RegisteredMemory& memory = use.memory();
    reply.writable = memory.writable ? 1 : 0;
    reply.bytes = memory.bytes;
    reply.fdOffset = memory.fdOffset;
    descriptor = Fd(::fcntl(memory.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!descriptor.valid()) status = StatusFromErrno(errno, "duplicating the descriptor of shared memory");
  }
  reply.code = static_cast<uint32_t>(status.code());
  std::strncpy(reply.text, status.message().c_str(), sizeof reply.text - 1);
  if (status.ok()) announced_.insert_or_assign(region, std::move(use));
  QueueLocked(&reply, sizeof reply, std::move(descriptor));
}

Status ShmLink::OnMapReply(const shm::MapReply& reply, std::vector<Fd>& descriptors) {
  Remote mapped;
  Status status = MapRemote(reply, descriptors, &mapped);
  std::vector<Request> waiting;
  std::vector<Status> fits;
  Remote* remote = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = remotes_.find(reply.header.region);
    if (found == remotes_.end() || found->second.mapped) return Broken("an offer of memory that nobody asked for");
    remote = &found->second;
    waiting = std::move(remote->waiting);
    if (status.ok()) {
      *remote = std::move(mapped);
      for (const Request& request : waiting) {
        fits.push_back(CheckRange(request.range, remote->bytes, remote->writable, request.write));
        if (fits.back().ok()) ++remote->users;  // only this thread revokes: the entry stays until these have ended
      }
    } else {
      fits.assign(waiting.size(), status);
      remotes_.erase(found);  // asked for again by the next request: the cause may have passed
    }
  }
  for (size_t index = 0; index < waiting.size(); ++index) {
    if (fits[index].ok()) {
      StartCopy(*remote, waiting[index]);
    } else {
      Fail(waiting[index].token, fits[index]);
    }
  }
  return Status::Ok();
}

// Trusts nothing the peer says about its memory: size and seals are the kernel's word.
Status ShmLink::MapRemote(const shm::MapReply& reply, const std::vector<Fd>& descriptors, Remote* remote) {
  if (reply.code != 0) {
    const size_t length = ::strnlen(reply.text, sizeof reply.text);
    return {static_cast<StatusCode>(reply.code), std::string(reply.text, length)};
  }
  const std::string name = "memory region " + std::to_string(reply.header.region) + " of the peer";
  if (descriptors.size() != 1) return {StatusCode::kDataInconsistency, name + " came without its descriptor"};
  uint64_t fileBytes = 0;
  if (Status status = CheckMemfd(descriptors[0].get(), &fileBytes); !status.ok()) {
    return {status.code(), name + ": " + status.message()};
  }
  if (reply.bytes == 0 || reply.fdOffset > fileBytes || reply.bytes > fileBytes - reply.fdOffset) {
    return {StatusCode::kDataInconsistency,
            name + " is larger than the memory behind it (" + std::to_string(fileBytes) + " bytes)"};
  }
  const uint64_t skipped = reply.fdOffset % kPageBytes;
  remote->writable = reply.writable != 0;
  Status status = MappedMemory::Map(descriptors[0].get(), reply.fdOffset - skipped, reply.bytes + skipped,
                                    remote->writable, &remote->memory);
  if (!status.ok()) return status;
  PopulatePages(descriptors[0].get(), remote->memory, remote->writable);
  remote->base = remote->memory.data() + skipped;
  remote->bytes = reply.bytes;
  remote->mapped = true;
  return Status::Ok();
}

// Answers also for memory that could not be mapped here: the owner waits for it all the same.
void ShmLink::OnRevoke(uint32_t region) {
  MappedMemory unmapped;  // after the lock
  const std::lock_guard lock(mutex_);
  const auto found = remotes_.find(region);
  if (found != remotes_.end() && found->second.mapped) {
    found->second.revoking = true;
    if (found->second.users > 0) return;  // EndCopy answers
    unmapped = std::move(found->second.memory);
    remotes_.erase(found);
  }
  const shm::PacketHeader answer{.type = static_cast<uint32_t>(shm::PacketType::kRevoked), .region = region};
  QueueLocked(&answer, sizeof answer, Fd());
}

Status ShmLink::Submit(bool write, const RemoteRange& range, std::span<const LocalPiece> pieces, uint64_t token) {
  Request request{.write = write, .range = range, .pieces = {pieces.begin(), pieces.end()}, .token = token};
  Remote* ready = nullptr;
  Status refused;
  {
    const std::lock_guard lock(mutex_);
    if (broken_) return {StatusCode::kRpcPeerDead, "the connection to " + peer_ + " is broken: " + reason_.message()};
    if (!attached_) {
      return {StatusCode::kNotReady,
              "the endpoint to " + peer_ + " is not connected; wait for the completion of Connect"};
    }
    if (outstanding_ >= requestsMax_) {
      return {StatusCode::kTryAgain,
              std::to_string(requestsMax_) + " requests are outstanding; retry after a completion"};
    }
    auto found = remotes_.find(range.region);
    if (found == remotes_.end()) {
      if (remotes_.size() >= shm::kRegionsMax) {
        return {StatusCode::kTryAgain,
                std::to_string(shm::kRegionsMax) + " memory regions of the peer are mapped, which is the limit"};
      }
      found = remotes_.try_emplace(range.region).first;
      const shm::PacketHeader question{.type = static_cast<uint32_t>(shm::PacketType::kMapRequest),
                                       .region = range.region};
      QueueLocked(&question, sizeof question, Fd());
    }
    ++outstanding_;
    Remote& remote = found->second;
    if (!remote.mapped) {
      remote.waiting.push_back(std::move(request));
      return Status::Ok();
    }
    refused = remote.revoking ? UnknownRegion(range.region) : CheckRange(range, remote.bytes, remote.writable, write);
    if (refused.ok()) {
      ++remote.users;
      ready = &remote;  // stays as long as it has users
    }
  }
  if (ready != nullptr) {
    StartCopy(*ready, request);
  } else {
    Fail(token, std::move(refused));
  }
  return Status::Ok();
}

// REQUIRES: the request is counted in outstanding_ and in the region's users. Without the lock: a small copy is done
// here.
void ShmLink::StartCopy(Remote& remote, const Request& request) {
  std::vector<CopyPart> parts;
  parts.reserve(request.pieces.size());
  std::byte* address = remote.base + request.range.offset;
  for (const LocalPiece& piece : request.pieces) {
    if (request.write) {
      parts.push_back({address, piece.address, piece.bytes});
    } else {
      parts.push_back({piece.address, address, piece.bytes});
    }
    address += piece.bytes;
  }
  const Status status = shared_->copies->Submit(
      parts, [this, region = request.range.region, token = request.token] { EndCopy(region, token); });
  if (!status.ok()) EndCopy(request.range.region, request.token);  // never: the pool is not bounded, outstanding_ is
}

void ShmLink::EndCopy(uint32_t region, uint64_t token) {
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled = closing_;
  }
  shared_->sink->OnComplete(
      token,
      cancelled ? Status(StatusCode::kRpcCancelled, "the endpoint to " + peer_ + " was closed before the request ended")
                : Status::Ok());
  MappedMemory unmapped;  // after the lock
  const std::lock_guard lock(mutex_);
  const auto found = remotes_.find(region);
  if (--found->second.users == 0 && found->second.revoking) {
    unmapped = std::move(found->second.memory);
    remotes_.erase(found);
    const shm::PacketHeader answer{.type = static_cast<uint32_t>(shm::PacketType::kRevoked), .region = region};
    QueueLocked(&answer, sizeof answer, Fd());
  }
  if (--outstanding_ == 0) idle_.notify_all();  // under the lock: the link may be gone as soon as it is released
}

void ShmLink::Fail(uint64_t token, Status status) {
  shared_->sink->OnComplete(token, std::move(status));
  const std::lock_guard lock(mutex_);
  if (--outstanding_ == 0) idle_.notify_all();
}

Status ShmLink::Send(std::span<const std::byte> message) {
  if (message.size() > shm::kMessageBytesMax) {
    return {StatusCode::kOutOfRange, "a message of " + std::to_string(message.size()) + " bytes; the limit is " +
                                         std::to_string(shm::kMessageBytesMax)};
  }
  const shm::PacketHeader header{.type = static_cast<uint32_t>(shm::PacketType::kMessage), .region = 0};
  std::vector<std::byte> packet(sizeof header + message.size());
  std::memcpy(packet.data(), &header, sizeof header);
  if (!message.empty()) std::memcpy(packet.data() + sizeof header, message.data(), message.size());
  const std::lock_guard lock(mutex_);
  if (broken_) return {StatusCode::kRpcPeerDead, "the connection to " + peer_ + " is broken: " + reason_.message()};
  if (!attached_)
    return {StatusCode::kNotReady,
            "the endpoint to " + peer_ + " is not connected; wait for the completion of Connect"};
  return SendPacket(socket_.get(), packet);
}

void ShmLink::Revoke(uint32_t region) {
  const std::lock_guard lock(mutex_);
  if (broken_ || closing_ || !announced_.contains(region)) return;
  const shm::PacketHeader packet{.type = static_cast<uint32_t>(shm::PacketType::kRevoke), .region = region};
  QueueLocked(&packet, sizeof packet, Fd());
}

void ShmLink::BreakIfAnnounced(uint32_t region) {
  const std::lock_guard lock(mutex_);
  if (broken_ || !announced_.contains(region)) return;
  broken_ = true;
  reason_ = {StatusCode::kRpcPeerDead,
             "the peer did not let go of memory region " + std::to_string(region) + " in time"};
  SignalEvent(wake_.get());
}

// REQUIRES: mutex_ is held.
void ShmLink::QueueLocked(const void* bytes, size_t size, Fd descriptor) {
  const auto* first = static_cast<const std::byte*>(bytes);
  out_.push_back({.bytes = {first, first + size}, .descriptor = std::move(descriptor)});
  // Sent here if the socket takes it: saves waking the thread. A broken socket is noticed by the thread.
  if (attached_) (void)FlushLocked();
  if (!out_.empty() && wake_.valid()) SignalEvent(wake_.get());
}

// REQUIRES: mutex_ is held.
Status ShmLink::FlushLocked() {
  while (!out_.empty()) {
    const OutPacket& packet = out_.front();
    const int descriptor = packet.descriptor.get();
    const Status status =
        SendPacket(socket_.get(), packet.bytes, std::span(&descriptor, packet.descriptor.valid() ? 1 : 0));
    if (status.code() == StatusCode::kTryAgain) {
      if (out_.size() <= kOutPacketsMax) return Status::Ok();
      return {StatusCode::kRpcPeerDead, "the peer asks for memory and takes no answers"};
    }
    if (!status.ok()) return status;
    out_.pop_front();
  }
  return Status::Ok();
}

void ShmLink::Finish(Status reason) {
  std::vector<uint64_t> tokens;
  std::map<uint32_t, MemoryTable::Use> announced;  // released after the lock
  std::map<uint32_t, Remote> remotes;
  std::unique_lock lock(mutex_);
  if (!broken_) reason_ = reason;
  broken_ = true;
  announced = std::move(announced_);
  announced_.clear();
  for (auto& [region, remote] : remotes_) {
    for (const Request& request : remote.waiting) tokens.push_back(request.token);
    remote.waiting.clear();
  }
  const bool closing = closing_;
  if (socket_.valid())
    ::shutdown(socket_.get(), SHUT_RDWR);  // the peer learns of it now, not when the endpoint is destroyed
  lock.unlock();
  announced.clear();
  const Status end =
      closing ? Status(StatusCode::kRpcCancelled, "the endpoint to " + peer_ + " was closed before the request ended")
              : Status(StatusCode::kRpcPeerDead, "peer " + peer_ + ": " + reason_.message());
  for (const uint64_t token : tokens) Fail(token, end);
  lock.lock();
  idle_.wait(lock, [this] { return outstanding_ == 0; });
  remotes = std::move(remotes_);
  remotes_.clear();
  lock.unlock();
  if (!closing) shared_->sink->OnDisconnect(id_, end);
}

Status ShmEndpoint::Read(const RemoteRange& source, std::span<const LocalPiece> target, uint32_t /*lane*/,
                         uint64_t token) {
  if (Status status = CheckRequest(source, target); !status.ok()) return status;
  return link_->Submit(false, source, target, token);
}

Status ShmEndpoint::Write(std::span<const LocalPiece> source, const RemoteRange& target, uint32_t /*lane*/,
                          uint64_t token) {
  if (Status status = CheckRequest(target, source); !status.ok()) return status;
  return link_->Submit(true, target, source, token);
}

}  // namespace hbmesh
