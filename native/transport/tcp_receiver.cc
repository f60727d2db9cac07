#include "transport/tcp_receiver.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace hbmesh {
namespace {

using tcp::FrameHeader;
using tcp::FrameType;

constexpr size_t kPartsPerCall = 512;
constexpr uint64_t kDiscardBytes = 64 << 10;
// What is received ahead is copied once more. Behind a small frame many small ones may follow, which then cost one
// system call together; behind a large one comes another large one, of which little is taken ahead.
constexpr size_t kAheadBytes = 16 << 10;
constexpr size_t kAheadOfLargeBytes = 1 << 10;
constexpr uint64_t kLargeBytes = 16 << 10;
static_assert(kAheadOfLargeBytes >= sizeof(FrameHeader));
// Writes of so many bytes or frames are answered at once: the peer may only have so many under way, and must not run
// out of them while this side is busy with receiving.
constexpr uint64_t kAnswerBytes = 256 << 10;
constexpr size_t kAnswersMax = 64;

Status Broken(const std::string& what) {
  return {StatusCode::kRpcPeerDead,
          "the peer sent " + what + "; the connection is closed. Do both sides run the same version?"};
}

}  // namespace

Status TcpReceiver::Run() {
  ahead_.bytes.resize(kAheadBytes);
  Status status = ReceiveFrames();
  write_ = {};  // whoever unregisters the memory of a write that was cut off must not wait for this lane's destruction
  return status;
}

Status TcpReceiver::ReceiveFrames() {
  for (;;) {
    FrameHeader header;
    if (Status status = NextHeader(&header); !status.ok()) return status;
    if (Status status = Dispatch(header); !status.ok()) return status;
  }
}

Status TcpReceiver::Dispatch(const FrameHeader& header) {
  if (header.magic != tcp::kMagic) return Broken("a frame without the magic number");
  if (header.payloadBytes > tcp::kChunkBytesMax) {
    return Broken("a frame of " + std::to_string(header.payloadBytes) + " bytes, more than the limit");
  }
  if (write_.active && header.type == static_cast<uint16_t>(FrameType::kWrite) && header.request != write_.request) {
    return Broken("a second write in the middle of one");
  }
  // Whoever waits for an answer doesn't wait for a large payload.
  if (!written_.empty() && writtenBytes_ + header.payloadBytes > kAnswerBytes) {
    if (Status status = SendWritten(); !status.ok()) return status;
  }
  const auto type = static_cast<FrameType>(header.type);
  // Nor for many that are no writes, and need no answer of their own.
  if (!written_.empty() && type != FrameType::kWrite) writtenBytes_ += header.payloadBytes;
  const bool isRequest = type == FrameType::kRead || type == FrameType::kMessage;
  if (isRequest != (kind_ == Kind::kRequests)) {
    return Broken("a frame of type " + std::to_string(header.type) + ", which doesn't belong on this connection");
  }
  switch (type) {
    case FrameType::kRead:
      return OnRead(header);
    case FrameType::kData:
      return OnData(header);
    case FrameType::kWrite:
      return OnWrite(header);
    case FrameType::kWritten:
      return OnWritten(header);
    case FrameType::kFailed:
      return OnFailed(header);
    case FrameType::kMessage:
      return OnMessage(header);
  }
  return Broken("a frame of the unknown type " + std::to_string(header.type));
}

Status TcpReceiver::OnRead(const FrameHeader& header) const {
  if (header.payloadBytes != 0 || header.bytes == 0) return Broken("a malformed read request");
  TcpSender* const sender = events_->SenderOf(header.lane);
  if (sender == nullptr) return Broken("a read request for a lane that there is not");
  if (sender->queuedBulk() >= bulkMax_) return Broken("more requests than are allowed");
  TcpBulk bulk;
  std::byte* address = nullptr;
  const RemoteRange range{.region = header.region, .offset = header.offset, .bytes = header.bytes};
  if (Status status = memory_->Acquire(range, false, events_->id(), &bulk.use, &address); !status.ok()) {
    return Fail(*sender, header.request, status);
  }
  bulk.header.magic = tcp::kMagic;
  bulk.header.type = static_cast<uint16_t>(FrameType::kData);
  bulk.header.request = header.request;
  bulk.pieces.push_back({address, header.bytes});
  bulk.bytes = header.bytes;
  return sender->SendBulk(std::move(bulk));
}

Status TcpReceiver::OnData(const FrameHeader& header) {
  PendingRequest* pending = requests_->Find(header.request, false);
  if (pending == nullptr) return Broken("data that nobody asked for");
  if (header.payloadBytes == 0 || header.offset != pending->received ||
      header.payloadBytes > pending->bytes - pending->received) {
    return Broken("data outside of what was asked for");
  }
  uint64_t left = header.payloadBytes;
  while (left > 0) {
    parts_.clear();
    while (left > 0 && parts_.size() < kPartsPerCall) {
      const LocalPiece& piece = pending->pieces[pending->piece];
      const uint64_t bytes = std::min(left, piece.bytes - pending->pieceOffset);
      if (bytes > 0) parts_.push_back({piece.address + pending->pieceOffset, bytes});
      left -= bytes;
      pending->pieceOffset += bytes;
      if (pending->pieceOffset == piece.bytes) {
        ++pending->piece;
        pending->pieceOffset = 0;
      }
    }
    if (Status status = ReceiveParts(parts_, left > 0 ? Part::kMiddle : Part::kLast); !status.ok()) return status;
  }
  pending->received += header.payloadBytes;
  if (pending->received < pending->bytes) return Status::Ok();
  if (const std::optional<uint64_t> token = requests_->Take(header.request))
    events_->OnLaneComplete(*token, Status::Ok());
  return Status::Ok();
}

Status TcpReceiver::OnWrite(const FrameHeader& header) {
  if (header.payloadBytes == 0 || header.bytes == 0) return Broken("a malformed write request");
  if (!write_.active) {
    const RemoteRange range{.region = header.region, .offset = header.offset, .bytes = header.bytes};
    write_ = {};
    write_.active = true;
    write_.request = header.request;
    write_.bytes = header.bytes;
    write_.status = memory_->Acquire(range, true, events_->id(), &write_.use, &write_.address);
  }
  if (header.bytes != write_.bytes || header.payloadBytes > write_.bytes - write_.received) {
    return Broken("more bytes than its write request announced");
  }
  Status status = write_.status.ok() ? ReceiveInto(write_.address + write_.received, header.payloadBytes)
                                     : Discard(header.payloadBytes);
  if (!status.ok()) return status;
  write_.received += header.payloadBytes;
  if (write_.received < write_.bytes) return Status::Ok();
  write_.active = false;
  write_.use.Release();
  return AnswerWrite();
}

Status TcpReceiver::AnswerWrite() {
  if (!write_.status.ok()) return Fail(*sender_, write_.request, write_.status);
  FrameHeader& header = written_.emplace_back();
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(FrameType::kWritten);
  header.request = write_.request;
  writtenBytes_ += write_.bytes;
  return writtenBytes_ >= kAnswerBytes || written_.size() >= kAnswersMax ? SendWritten() : Status::Ok();
}

Status TcpReceiver::SendWritten() {
  if (sender_->queuedSmall() >= smallMax_) return Broken("requests, but takes no answers");
  Status status = sender_->SendFrames(written_);
  written_.clear();
  writtenBytes_ = 0;
  return status;
}

Status TcpReceiver::Fail(TcpSender& sender, uint64_t request, const Status& status) const {
  if (sender.queuedSmall() >= smallMax_) return Broken("requests, but takes no answers");
  FrameHeader header{};
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(FrameType::kFailed);
  header.request = request;
  header.code = static_cast<uint32_t>(status.code());
  const std::string text = status.message().substr(0, tcp::kTextBytesMax);
  header.payloadBytes = static_cast<uint32_t>(text.size());
  return sender.SendSmall(header, std::as_bytes(std::span(text)));
}

Status TcpReceiver::OnWritten(const FrameHeader& header) {
  if (header.payloadBytes != 0 || requests_->Find(header.request, true) == nullptr) {
    return Broken("the answer to a write that was not asked for");
  }
  sender_->AwaitSent(header.request);
  if (const std::optional<uint64_t> token = requests_->Take(header.request))
    events_->OnLaneComplete(*token, Status::Ok());
  return Status::Ok();
}

Status TcpReceiver::OnFailed(const FrameHeader& header) {
  if (header.payloadBytes > tcp::kTextBytesMax || header.code == 0) return Broken("a malformed failure");
  std::string text(header.payloadBytes, '\0');
  if (Status status = ReceiveInto(text.data(), text.size()); !status.ok()) return status;
  sender_->AwaitSent(header.request);
  const std::optional<uint64_t> token = requests_->Take(header.request);
  if (!token) return Broken("the failure of a request that was not made");
  events_->OnLaneComplete(*token, Status(static_cast<StatusCode>(header.code), std::move(text)));
  return Status::Ok();
}

Status TcpReceiver::OnMessage(const FrameHeader& header) {
  if (header.payloadBytes > tcp::kMessageBytesMax) return Broken("a malformed message");
  buffer_.resize(std::max<size_t>(buffer_.size(), header.payloadBytes));
  if (Status status = ReceiveInto(buffer_.data(), header.payloadBytes); !status.ok()) return status;
  events_->OnLaneMessage({buffer_.data(), header.payloadBytes});
  return Status::Ok();
}

Status TcpReceiver::NextHeader(FrameHeader* header) {
  if (ahead_.size() < sizeof *header) {
    // What is there of it goes to the front, so that much more fits behind it.
    std::memmove(ahead_.bytes.data(), ahead_.bytes.data() + ahead_.begin, ahead_.size());
    ahead_.end = ahead_.size();
    ahead_.begin = 0;
  }
  while (ahead_.size() < sizeof *header) {
    iovec part{ahead_.bytes.data() + ahead_.end, ahead_.bytes.size() - ahead_.end};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    size_t received = 0;
    if (Status status = ReceiveOnce(&message, ahead_.size() == 0 && !write_.active, &received); !status.ok())
      return status;
    ahead_.end += received;
  }
  std::memcpy(header, ahead_.bytes.data() + ahead_.begin, sizeof *header);
  ahead_.begin += sizeof *header;
  return Status::Ok();
}

Status TcpReceiver::ReceiveInto(void* target, uint64_t bytes) {
  parts_.clear();
  if (bytes > 0) parts_.push_back({target, bytes});
  return ReceiveParts(parts_, Part::kLast);
}

Status TcpReceiver::Discard(uint64_t bytes) {
  buffer_.resize(std::max<size_t>(buffer_.size(), kDiscardBytes));
  while (bytes > 0) {
    const uint64_t taken = std::min(bytes, kDiscardBytes);
    bytes -= taken;
    parts_.assign(1, {buffer_.data(), taken});
    if (Status status = ReceiveParts(parts_, bytes > 0 ? Part::kMiddle : Part::kLast); !status.ok()) return status;
  }
  return Status::Ok();
}

Status TcpReceiver::ReceiveParts(std::vector<iovec>& parts, Part part) {
  const size_t payloadParts = parts.size();
  size_t first = 0;
  // Of `received` bytes: those of the payload are where they belong. Returns how many are behind it.
  const auto advance = [&](size_t received) {
    while (first < payloadParts && received >= parts[first].iov_len) received -= parts[first++].iov_len;
    if (first == payloadParts) return received;
    parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + received;
    parts[first].iov_len -= received;
    return size_t{0};
  };
  uint64_t missing = 0;
  for (iovec& target : parts) {
    const size_t bytes = std::min(ahead_.size(), target.iov_len);
    std::memcpy(target.iov_base, ahead_.bytes.data() + ahead_.begin, bytes);
    ahead_.begin += bytes;
    target.iov_base = static_cast<std::byte*>(target.iov_base) + bytes;
    target.iov_len -= bytes;
    missing += target.iov_len;
  }
  if (missing == 0) return Status::Ok();
  ahead_.begin = 0;
  ahead_.end = 0;
  if (part == Part::kLast)
    parts.push_back({ahead_.bytes.data(), missing >= kLargeBytes ? kAheadOfLargeBytes : kAheadBytes});
  (void)advance(0);
  while (first < payloadParts) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = parts.size() - first;
    size_t received = 0;
    if (Status status = ReceiveOnce(&message, false, &received); !status.ok()) return status;
    ahead_.end = advance(received);
  }
  return Status::Ok();
}

// Between frames the peer may be silent as long as it likes; within one, the socket's timeout bounds its silence. A
// blocking receive would be woken whenever the sending thread of this connection gets room, too; poll is not. The peer
// gets its answers before this side waits for it.
Status TcpReceiver::ReceiveOnce(msghdr* message, bool betweenFrames, size_t* received) {
  for (;;) {
    const bool mayWait = !betweenFrames && written_.empty();
    const ssize_t result = ::recvmsg(socket_, message, mayWait ? 0 : MSG_DONTWAIT);
    if (result > 0) {
      *received = static_cast<size_t>(result);
      return Status::Ok();
    }
    if (result == 0) return {StatusCode::kRpcPeerDead, "the peer closed the connection"};
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      return {StatusCode::kRpcPeerDead, std::string("receiving from the peer failed: ") + std::strerror(errno)};
    }
    if (mayWait) {
      return {StatusCode::kRpcPeerDead,
              "the peer sent nothing for longer than the stall timeout in the middle of a frame"};
    }
    if (!written_.empty()) {
      if (Status status = SendWritten(); !status.ok()) return status;
    }
    if (betweenFrames) {
      pollfd readable{socket_, POLLIN, 0};
      (void)::poll(&readable, 1, -1);  // what it may fail with, receiving tells
    }
  }
}

}  // namespace hbmesh
