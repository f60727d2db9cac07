#include "transport/tcp_sender.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace hbmesh {
namespace {

// Payloads up to this size are sent by the thread that has them when the socket has room.
constexpr uint64_t kInlineBytesMax = 32 << 10;
constexpr size_t kSmallPerCall = 64;
constexpr size_t kChunksPerCall = 64;
constexpr size_t kPartsPerCall = 640;    // below IOV_MAX
constexpr size_t kPiecesPerChunk = 512;  // which always fit beside kSmallPerCall
static_assert(kSmallPerCall + 1 + kPiecesPerChunk <= kPartsPerCall);
// Queued payloads go out together until they are as many bytes: a system call for each frame costs too much where
// frames are small, and larger calls bring nothing.
constexpr uint64_t kGatherBytes = 256 << 10;

iovec Part(const void* base, size_t bytes) { return {const_cast<void*>(base), bytes}; }

uint64_t TotalBytes(std::span<const iovec> parts) {
  uint64_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  return total;
}

// What the socket takes.
struct Attempt {
  size_t sent = 0;
  int error = 0;
  bool broken = false;  // it takes nothing any more
};

// `flags`: MSG_DONTWAIT, or 0 to wait until it has taken all.
Attempt TrySend(int socket, std::span<const iovec> parts, int flags) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  const ssize_t result = ::sendmsg(socket, &message, MSG_NOSIGNAL | flags);
  if (result >= 0) return {static_cast<size_t>(result), 0, false};
  const int error = errno;
  return {0, error, error != EAGAIN && error != EWOULDBLOCK && error != EINTR};
}

bool IsWrite(const TcpBulk& bulk) { return bulk.header.type == static_cast<uint16_t>(tcp::FrameType::kWrite); }

bool IsSmall(const TcpBulk& bulk) { return bulk.bytes <= kInlineBytesMax && bulk.pieces.size() == 1; }

Status SendError(int error) {
  if (error == EAGAIN || error == EWOULDBLOCK) {
    return {StatusCode::kRpcPeerDead, "the peer took no bytes for longer than the stall timeout"};
  }
  return {StatusCode::kRpcPeerDead, std::string("sending to the peer failed: ") + std::strerror(error)};
}

}  // namespace

Status TcpSender::SendSmall(const tcp::FrameHeader& header, std::span<const std::byte> payload) {
  const iovec parts[] = {Part(&header, sizeof header), Part(payload.data(), payload.size())};
  return SendParts(std::span(parts, payload.empty() ? 1 : 2), 1);
}

Status TcpSender::SendFrames(std::span<const tcp::FrameHeader> frames) {
  const iovec parts[] = {Part(frames.data(), frames.size_bytes())};
  return SendParts(parts, frames.size());
}

// REQUIRES: mutex_ is held.
bool TcpSender::QueuedLocked() const { return !small_.empty() || !quick_.empty() || !bulk_.empty(); }

// REQUIRES: mutex_ is held.
bool TcpSender::IdleLocked() const { return !sending_ && !QueuedLocked(); }

Status TcpSender::SendParts(std::span<const iovec> parts, size_t frames) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Status::Ok();
    if (!IdleLocked()) {
      small_.push_back(CopyOf(parts, 0, frames));
      smallFrames_ += frames;
      if (!sending_) wake_.notify_one();
      return Status::Ok();
    }
    sending_ = true;
  }
  return SendNow(parts, frames);
}

Status TcpSender::SendNow(std::span<const iovec> parts, size_t frames) {
  const Attempt attempt = TrySend(socket_, parts, MSG_DONTWAIT);
  const std::lock_guard lock(mutex_);
  sending_ = false;
  // Before what others queued in between: a frame that was begun must be ended first.
  if (!attempt.broken && attempt.sent < TotalBytes(parts)) {
    small_.push_front(CopyOf(parts, attempt.sent, frames));
    smallFrames_ += frames;
  }
  if (QueuedLocked()) wake_.notify_one();
  return attempt.broken ? SendError(attempt.error) : Status::Ok();
}

Status TcpSender::SendBulk(TcpBulk bulk) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Status::Ok();
    if (!IsSmall(bulk) || !IdleLocked()) {
      if (IsWrite(bulk)) unsentWrites_.insert(bulk.header.request);
      const bool passes = IsSmall(bulk) && !IsWrite(bulk);
      (passes ? quick_ : bulk_).push_back(std::move(bulk));
      if (!sending_) wake_.notify_one();
      return Status::Ok();
    }
    sending_ = true;
  }
  bulk.header.payloadBytes = static_cast<uint32_t>(bulk.bytes);
  const iovec parts[] = {Part(&bulk.header, sizeof bulk.header), Part(bulk.pieces[0].address, bulk.bytes)};
  return SendNow(parts, 1);
}

size_t TcpSender::queuedSmall() const {
  const std::lock_guard lock(mutex_);
  return smallFrames_;
}

size_t TcpSender::queuedBulk() const {
  const std::lock_guard lock(mutex_);
  return quick_.size() + bulk_.size();
}

Status TcpSender::Run() {
  Gathered gathered;
  gathered.headers.reserve(kChunksPerCall);
  Status status;
  std::unique_lock lock(mutex_);
  while (status.ok()) {
    wake_.wait(lock, [this] { return stopping_ || (!sending_ && QueuedLocked()); });
    if (stopping_) break;
    sending_ = true;
    GatherLocked(&gathered);
    lock.unlock();
    status = SendGathered(gathered);
    lock.lock();
    sending_ = false;
  }
  stopping_ = true;
  small_.clear();
  smallFrames_ = 0;
  quick_.clear();
  bulk_.clear();
  unsentWrites_.clear();
  sent_.notify_all();
  return status;
}

void TcpSender::AwaitSent(uint64_t request) {
  std::unique_lock lock(mutex_);
  sent_.wait(lock, [&] { return !unsentWrites_.contains(request); });
}

void TcpSender::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
}

TcpSender::SmallFrames TcpSender::CopyOf(std::span<const iovec> parts, size_t sent, size_t frames) {
  SmallFrames copy;
  copy.bytes.reserve(TotalBytes(parts));
  for (const iovec& part : parts) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    copy.bytes.insert(copy.bytes.end(), bytes, bytes + part.iov_len);
  }
  copy.sent = sent;
  copy.count = frames;
  return copy;
}

// REQUIRES: mutex_ is held. What was begun to be sent stands at the front of small_, and all of small_ goes first.
void TcpSender::GatherLocked(Gathered* gathered) {
  gathered->small.clear();
  gathered->headers.clear();
  gathered->parts.clear();
  gathered->frames.clear();
  gathered->payloadBytes = 0;
  gathered->part = 0;
  gathered->frame = 0;
  while (!small_.empty() && gathered->small.size() < kSmallPerCall) {
    SmallFrames& frames = gathered->small.emplace_back(std::move(small_.front()));
    small_.pop_front();
    smallFrames_ -= frames.count;
    gathered->parts.push_back(Part(frames.bytes.data() + frames.sent, frames.bytes.size() - frames.sent));
    gathered->frames.push_back({gathered->parts.size(), nullptr});
  }
  const auto room = [&] {
    return gathered->headers.size() < kChunksPerCall && gathered->payloadBytes < kGatherBytes &&
           gathered->parts.size() + 1 + kPiecesPerChunk <= kPartsPerCall;
  };
  for (std::deque<TcpBulk>* queue : {&quick_, &bulk_}) {
    for (size_t index = 0; index < queue->size() && room();) {
      if (AppendChunk(*queue, index, gathered)) ++index;
    }
  }
}

bool TcpSender::AppendChunk(std::deque<TcpBulk>& queue, size_t index, Gathered* gathered) {
  TcpBulk& bulk = queue[index];
  tcp::FrameHeader& header = gathered->headers.emplace_back(bulk.header);
  if (!IsWrite(bulk)) header.offset = bulk.sent;
  gathered->parts.push_back(Part(&header, sizeof header));
  uint64_t room = std::min<uint64_t>(bulk.bytes - bulk.sent, tcp::kChunkBytesMax);
  uint32_t payloadBytes = 0;
  for (size_t count = 0; room > 0 && count < kPiecesPerChunk; ++count) {
    const LocalPiece& piece = bulk.pieces[bulk.piece];
    const uint64_t bytes = std::min(room, piece.bytes - bulk.pieceOffset);
    gathered->parts.push_back(Part(piece.address + bulk.pieceOffset, bytes));
    payloadBytes += static_cast<uint32_t>(bytes);
    room -= bytes;
    bulk.pieceOffset += bytes;
    if (bulk.pieceOffset == piece.bytes) {
      ++bulk.piece;
      bulk.pieceOffset = 0;
    }
  }
  header.payloadBytes = payloadBytes;
  bulk.sent += payloadBytes;
  gathered->payloadBytes += payloadBytes;
  const bool last = bulk.sent == bulk.bytes;
  gathered->frames.push_back({gathered->parts.size(), last ? &queue : nullptr});
  return last;
}

// Waits until the socket took everything. What it takes at once goes together; where it must wait it does so for one
// frame: the peer may answer a Write as soon as its last byte is out, and the thread that receives the answer, which
// waits for the call that sent it (AwaitSent), must not wait for bytes that the peer takes only after it has received.
Status TcpSender::SendGathered(Gathered& gathered) {
  for (int flags = MSG_DONTWAIT; gathered.part < gathered.parts.size();) {
    const size_t end = flags == 0 ? gathered.frames[gathered.frame].partsEnd : gathered.parts.size();
    const Attempt attempt =
        TrySend(socket_, std::span(gathered.parts).subspan(gathered.part, end - gathered.part), flags);
    const bool timedOut = flags == 0 && attempt.sent == 0 && attempt.error != EINTR;
    if (attempt.broken || timedOut) return SendError(attempt.error);
    Advance(gathered, attempt.sent);
    flags = gathered.part < end ? 0 : MSG_DONTWAIT;
  }
  return Status::Ok();
}

// What is out need not be kept any longer.
void TcpSender::Advance(Gathered& gathered, size_t sent) {
  std::vector<iovec>& parts = gathered.parts;
  while (gathered.part < parts.size() && sent >= parts[gathered.part].iov_len) sent -= parts[gathered.part++].iov_len;
  if (sent > 0) {
    parts[gathered.part].iov_base = static_cast<std::byte*>(parts[gathered.part].iov_base) + sent;
    parts[gathered.part].iov_len -= sent;
  }
  bool writes = false;
  const std::lock_guard lock(mutex_);
  while (gathered.frame < gathered.frames.size() && gathered.frames[gathered.frame].partsEnd <= gathered.part) {
    std::deque<TcpBulk>* const ended = gathered.frames[gathered.frame++].ended;
    if (ended == nullptr) continue;
    if (IsWrite(ended->front())) writes = unsentWrites_.erase(ended->front().header.request) > 0 || writes;
    ended->pop_front();
  }
  if (writes) sent_.notify_all();
}

}  // namespace hbmesh
