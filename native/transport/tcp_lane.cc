#include "transport/tcp_lane.h"

#include <sys/socket.h>

#include <string>
#include <system_error>
#include <utility>

namespace hbmesh {

TcpLane::TcpLane(Fd socket, TcpReceiver::Kind kind, const TransportOptions& options, MemoryTable* memory,
                 TcpLaneEvents* events)
    : options_(options),
      slice_(kind == TcpReceiver::Kind::kLane ? TimeSlice::kLong : TimeSlice::kShort),
      socket_(std::move(socket)),
      requests_(options.requestsPerLaneMax),
      sender_(socket_.get()),
      receiver_(socket_.get(), kind, options, memory, &requests_, &sender_, events) {}

uint32_t TcpLane::Start(const std::function<void(Status)>& ended) {
  try {
    sending_ = std::thread([this, ended] {
      AskForTimeSlice(slice_);
      ended(sender_.Run());
    });
    receiving_ = std::thread([this, ended] {
      AskForTimeSlice(slice_);
      ended(receiver_.Run());
    });
  } catch (const std::system_error&) {
    return sending_.joinable() ? 1 : 0;
  }
  return 2;
}

void TcpLane::Shutdown() {
  sender_.Stop();
  ::shutdown(socket_.get(), SHUT_RDWR);
}

void TcpLane::Join() {
  if (sending_.joinable()) sending_.join();
  if (receiving_.joinable()) receiving_.join();
}

Status TcpLane::ExpectRead(const RemoteRange& source, std::span<const LocalPiece> target, uint64_t token,
                           tcp::FrameHeader* request) {
  *request = {};
  request->magic = tcp::kMagic;
  request->type = static_cast<uint16_t>(tcp::FrameType::kRead);
  request->region = source.region;
  request->offset = source.offset;
  request->bytes = source.bytes;
  return requests_.Add(token, false, target, source.bytes, &request->request);
}

// A broken socket is noticed by the receiving threads too, which complete what is outstanding.
void TcpLane::SendRequests(std::span<const tcp::FrameHeader> requests) { (void)sender_.SendFrames(requests); }

Status TcpLane::Write(std::span<const LocalPiece> source, const RemoteRange& target, uint64_t token) {
  TcpBulk bulk;
  bulk.header.magic = tcp::kMagic;
  bulk.header.type = static_cast<uint16_t>(tcp::FrameType::kWrite);
  bulk.header.region = target.region;
  bulk.header.offset = target.offset;
  bulk.header.bytes = target.bytes;
  bulk.bytes = target.bytes;
  bulk.pieces.assign(source.begin(), source.end());
  if (Status status = requests_.Add(token, true, {}, target.bytes, &bulk.header.request); !status.ok()) return status;
  (void)sender_.SendBulk(std::move(bulk));
  return Status::Ok();
}

Status TcpLane::SendMessage(std::span<const std::byte> message) {
  // Read requests wait in the same queue, at most requestsPerLaneMax of each lane.
  if (sender_.queuedSmall() >= options_.messagesQueuedMax + tcp::kLanesMax * options_.requestsPerLaneMax) {
    return {StatusCode::kTryAgain,
            std::to_string(options_.messagesQueuedMax) + " messages are queued and the peer takes none; retry later"};
  }
  tcp::FrameHeader header{};
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(tcp::FrameType::kMessage);
  header.payloadBytes = static_cast<uint32_t>(message.size());
  return sender_.SendSmall(header, message);
}

}  // namespace hbmesh
