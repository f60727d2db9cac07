#include "transport/tcp_sender.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace hbmesh {
namespace {

// Data up to this size is sent by the receiving thread itself when the socket has room.
constexpr uint64_t kInlineBytesMax = 32 << 10;
constexpr size_t kSmallFramesPerCall = 64;
constexpr size_t kPiecesPerChunk = 512;  // with the small frames well below IOV_MAX

iovec Part(const void* base, size_t bytes) { return {const_cast<void*>(base), bytes}; }

uint64_t TotalBytes(std::span<const iovec> parts) {
  uint64_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  return total;
}

// What the socket takes without waiting.
struct Attempt {
  size_t sent = 0;
  int error = 0;
  bool broken = false;  // it takes nothing any more
};

Attempt TrySend(int socket, std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  const ssize_t result = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (result >= 0) return {static_cast<size_t>(result), 0, false};
  const int error = errno;
  return {0, error, error != EAGAIN && error != EWOULDBLOCK && error != EINTR};
}

Status SendError(int error) {
  if (error == EAGAIN || error == EWOULDBLOCK) {
    return {StatusCode::kRpcPeerDead, "the peer took no bytes for longer than the stall timeout"};
  }
  return {StatusCode::kRpcPeerDead, std::string("sending to the peer failed: ") + std::strerror(error)};
}

}  // namespace

Status TcpSender::SendSmall(const tcp::FrameHeader& header, std::span<const std::byte> payload) {
  const iovec parts[] = {Part(&header, sizeof header), Part(payload.data(), payload.size())};
  return SendParts(std::span(parts, payload.empty() ? 1 : 2));
}

Status TcpSender::SendFrames(std::span<const tcp::FrameHeader> frames) {
  const iovec parts[] = {Part(frames.data(), frames.size_bytes())};
  return SendParts(parts);
}

Status TcpSender::SendParts(std::span<const iovec> parts) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Status::Ok();
    if (sending_ || !small_.empty() || !bulk_.empty()) {
      small_.push_back(CopyOf(parts, 0));
      if (!sending_) wake_.notify_one();
      return Status::Ok();
    }
    sending_ = true;
  }
  const Attempt attempt = TrySend(socket_, parts);
  const std::lock_guard lock(mutex_);
  sending_ = false;
  // Before what others queued meanwhile: a frame that was begun must be ended first.
  if (!attempt.broken && attempt.sent < TotalBytes(parts)) small_.push_front(CopyOf(parts, attempt.sent));
  if (!small_.empty() || !bulk_.empty()) wake_.notify_one();
  return attempt.broken ? SendError(attempt.error) : Status::Ok();
}

Status TcpSender::SendBulk(TcpBulk bulk) {
  if (bulk.bytes <= kInlineBytesMax && bulk.pieces.size() == 1) {
    bulk.header.payloadBytes = static_cast<uint32_t>(bulk.bytes);
    return SendSmall(bulk.header, {bulk.pieces[0].address, bulk.bytes});
  }
  const std::lock_guard lock(mutex_);
  if (stopping_) return Status::Ok();
  bulk_.push_back(std::move(bulk));
  if (!sending_) wake_.notify_one();
  return Status::Ok();
}

size_t TcpSender::queuedSmall() const {
  const std::lock_guard lock(mutex_);
  return small_.size();
}

size_t TcpSender::queuedBulk() const {
  const std::lock_guard lock(mutex_);
  return bulk_.size();
}

Status TcpSender::Run() {
  std::vector<iovec> parts;
  std::vector<SmallFrame> frames;
  Status status;
  std::unique_lock lock(mutex_);
  while (status.ok()) {
    wake_.wait(lock, [this] { return stopping_ || (!sending_ && (!small_.empty() || !bulk_.empty())); });
    if (stopping_) break;
    sending_ = true;
    TakeSmallLocked(&frames);
    TcpBulk* bulk = bulk_.empty() ? nullptr : &bulk_.front();  // deque: stays where it is when others push
    lock.unlock();
    parts.clear();
    AppendFrames(frames, &parts);
    tcp::FrameHeader header;
    const bool ends = bulk != nullptr && AppendChunk(*bulk, &header, &parts);
    status = SendAll(parts);
    lock.lock();
    if (ends && status.ok()) {
      bulk_.pop_front();
      sent_.notify_all();
    }
    sending_ = false;
  }
  stopping_ = true;
  small_.clear();
  bulk_.clear();
  sent_.notify_all();
  return status;
}

void TcpSender::AwaitSent(uint64_t request) {
  std::unique_lock lock(mutex_);
  sent_.wait(lock, [&] {
    return std::none_of(bulk_.begin(), bulk_.end(), [&](const TcpBulk& bulk) {
      return bulk.header.type == static_cast<uint16_t>(tcp::FrameType::kWrite) && bulk.header.request == request;
    });
  });
}

void TcpSender::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
}

TcpSender::SmallFrame TcpSender::CopyOf(std::span<const iovec> parts, size_t sent) {
  SmallFrame frame;
  frame.bytes.reserve(TotalBytes(parts));
  for (const iovec& part : parts) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    frame.bytes.insert(frame.bytes.end(), bytes, bytes + part.iov_len);
  }
  frame.sent = sent;
  return frame;
}

// REQUIRES: mutex_ is held.
void TcpSender::TakeSmallLocked(std::vector<SmallFrame>* frames) {
  frames->clear();
  while (!small_.empty() && frames->size() < kSmallFramesPerCall) {
    frames->push_back(std::move(small_.front()));
    small_.pop_front();
  }
}

void TcpSender::AppendFrames(std::span<const SmallFrame> frames, std::vector<iovec>* parts) {
  for (const SmallFrame& frame : frames) {
    parts->push_back(Part(frame.bytes.data() + frame.sent, frame.bytes.size() - frame.sent));
  }
}

bool TcpSender::AppendChunk(TcpBulk& bulk, tcp::FrameHeader* header, std::vector<iovec>* parts) {
  *header = bulk.header;
  if (header->type == static_cast<uint16_t>(tcp::FrameType::kData)) header->offset = bulk.sent;
  parts->push_back(Part(header, sizeof *header));
  uint64_t room = std::min<uint64_t>(bulk.bytes - bulk.sent, tcp::kChunkBytesMax);
  uint32_t payloadBytes = 0;
  for (size_t count = 0; room > 0 && count < kPiecesPerChunk; ++count) {
    const LocalPiece& piece = bulk.pieces[bulk.piece];
    const uint64_t bytes = std::min(room, piece.bytes - bulk.pieceOffset);
    parts->push_back(Part(piece.address + bulk.pieceOffset, bytes));
    payloadBytes += static_cast<uint32_t>(bytes);
    room -= bytes;
    bulk.pieceOffset += bytes;
    if (bulk.pieceOffset == piece.bytes) {
      ++bulk.piece;
      bulk.pieceOffset = 0;
    }
  }
  header->payloadBytes = payloadBytes;
  bulk.sent += payloadBytes;
  return bulk.sent == bulk.bytes;
}

// Waits until the socket took everything. `parts` is used up.
Status TcpSender::SendAll(std::vector<iovec>& parts) const {
  size_t first = 0;
  while (first < parts.size()) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = parts.size() - first;
    const ssize_t result = ::sendmsg(socket_, &message, MSG_NOSIGNAL);
    if (result < 0) {
      if (errno == EINTR) continue;
      return SendError(errno);
    }
    auto sent = static_cast<size_t>(result);
    while (first < parts.size() && sent >= parts[first].iov_len) sent -= parts[first++].iov_len;
    if (sent > 0) {
      parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + sent;
      parts[first].iov_len -= sent;
    }
  }
  return Status::Ok();
}

}  // namespace hbmesh
