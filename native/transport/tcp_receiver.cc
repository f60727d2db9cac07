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

Status Broken(const std::string& what) {
  return {StatusCode::kRpcPeerDead,
          "the peer sent " + what + "; the connection is closed. Do both sides run the same version?"};
}

}  // namespace

Status TcpReceiver::Run() {
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
  const auto type = static_cast<FrameType>(header.type);
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
    return Answer(*sender, header.request, status);
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
    // The next header is asked for with the last parts only: before them comes more of this payload.
    const size_t keep = headerBytes_;
    if (left > 0) headerBytes_ = sizeof header_;
    Status status = ReceiveParts(parts_);
    if (left > 0) headerBytes_ = keep;
    if (!status.ok()) return status;
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
  return Answer(*sender_, write_.request, write_.status);
}

Status TcpReceiver::Answer(TcpSender& sender, uint64_t request, const Status& status) const {
  if (sender.queuedSmall() >= smallMax_) return Broken("requests, but takes no answers");
  FrameHeader header{};
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(status.ok() ? FrameType::kWritten : FrameType::kFailed);
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
  while (headerBytes_ < sizeof header_) {
    iovec part{header_ + headerBytes_, sizeof header_ - headerBytes_};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    size_t received = 0;
    if (Status status = ReceiveOnce(&message, headerBytes_ == 0 && !write_.active, &received); !status.ok())
      return status;
    headerBytes_ += received;
  }
  std::memcpy(header, header_, sizeof header_);
  headerBytes_ = 0;
  return Status::Ok();
}

Status TcpReceiver::ReceiveInto(void* target, uint64_t bytes) {
  parts_.clear();
  if (bytes > 0) parts_.push_back({target, bytes});
  return ReceiveParts(parts_);
}

Status TcpReceiver::Discard(uint64_t bytes) {
  buffer_.resize(std::max<size_t>(buffer_.size(), kDiscardBytes));
  while (bytes > 0) {
    const uint64_t taken = std::min(bytes, kDiscardBytes);
    bytes -= taken;
    iovec part{buffer_.data(), taken};
    while (part.iov_len > 0) {
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      size_t received = 0;
      if (Status status = ReceiveOnce(&message, false, &received); !status.ok()) return status;
      part.iov_len -= received;
    }
  }
  return Status::Ok();
}

Status TcpReceiver::ReceiveParts(std::vector<iovec>& parts) {
  const size_t payloadParts = parts.size();
  const bool withHeader = headerBytes_ < sizeof header_;
  if (withHeader) parts.push_back({header_, sizeof header_});
  size_t first = 0;
  while (first < payloadParts) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = parts.size() - first;
    size_t received = 0;
    if (Status status = ReceiveOnce(&message, false, &received); !status.ok()) return status;
    while (first < payloadParts && received >= parts[first].iov_len) received -= parts[first++].iov_len;
    if (first == payloadParts) {
      if (withHeader) headerBytes_ = received;  // what came behind the payload
    } else {
      parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + received;
      parts[first].iov_len -= received;
    }
  }
  return Status::Ok();
}

// Between frames the peer may be silent as long as it likes; within one, the socket's timeout bounds its silence. A
// blocking receive would be woken whenever the sending thread of this connection gets room, too; poll is not.
Status TcpReceiver::ReceiveOnce(msghdr* message, bool betweenFrames, size_t* received) {
  for (;;) {
    const ssize_t result = ::recvmsg(socket_, message, betweenFrames ? MSG_DONTWAIT : 0);
    if (result > 0) {
      *received = static_cast<size_t>(result);
      return Status::Ok();
    }
    if (result == 0) return {StatusCode::kRpcPeerDead, "the peer closed the connection"};
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (betweenFrames) {
        pollfd readable{socket_, POLLIN, 0};
        (void)::poll(&readable, 1, -1);  // what it may fail with, receiving tells
        continue;
      }
      return {StatusCode::kRpcPeerDead,
              "the peer sent nothing for longer than the stall timeout in the middle of a frame"};
    }
    return {StatusCode::kRpcPeerDead, std::string("receiving from the peer failed: ") + std::strerror(errno)};
  }
}

}  // namespace hbmesh
