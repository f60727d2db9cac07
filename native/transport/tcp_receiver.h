// TcpReceiver: everything that comes in on one connection, a lane or that for requests. Payloads go from the socket
// straight to where they belong: into the pieces of our Read, or into the registered memory that the peer writes to.
//
// Each call of recvmsg asks for the rest of a payload and what follows it, so that large frames cost about one call
// each, and small ones, like answers, come several at a time. Answers to the peer's writes go out together: when no
// more is there to receive, or after kAnswerBytes.
//
// Thread rule: Run is the connection's receiving thread; nothing else is called from others.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "transport/memory_table.h"
#include "transport/request_table.h"
#include "transport/tcp_sender.h"
#include "transport/tcp_wire.h"
#include "transport/transport_options.h"

namespace hbmesh {

// Told by a lane; the endpoint implements it. From the lane's threads.
class TcpLaneEvents {
 public:
  virtual ~TcpLaneEvents() = default;
  [[nodiscard]] virtual uint64_t id() const = 0;  // of the endpoint
  virtual void OnLaneComplete(uint64_t token, Status status) = 0;
  virtual void OnLaneMessage(std::span<const std::byte> message) = 0;
  // What goes out on a lane; null: there is no such lane.
  [[nodiscard]] virtual TcpSender* SenderOf(uint32_t lane) = 0;
};

class TcpReceiver {
 public:
  // What a connection is for decides which frames may come.
  enum class Kind { kLane, kRequests };

  TcpReceiver(int socket, Kind kind, const TransportOptions& options, MemoryTable* memory, RequestTable* requests,
              TcpSender* sender, TcpLaneEvents* events)
      : socket_(socket),
        kind_(kind),
        // Our own requests and messages wait in the same queues as the answers to the peer's.
        bulkMax_(2 * static_cast<size_t>(options.requestsPerLaneMax)),
        smallMax_(options.messagesQueuedMax + 4 * static_cast<size_t>(options.requestsPerLaneMax)),
        memory_(memory),
        requests_(requests),
        sender_(sender),
        events_(events) {}

  // Receives until the connection ends or the peer breaks the rules; says which.
  [[nodiscard]] Status Run();

 private:
  // The Write whose frames are coming in; frames of two Writes don't mix.
  struct IncomingWrite {
    bool active = false;
    uint64_t request = 0;
    uint64_t bytes = 0;
    uint64_t received = 0;
    std::byte* address = nullptr;
    Status status;  // not kOk: the bytes are thrown away
    MemoryTable::Use use;
  };

  // What of the frames to come is received already.
  struct Ahead {
    std::vector<std::byte> bytes;
    size_t begin = 0;
    size_t end = 0;
    [[nodiscard]] size_t size() const { return end - begin; }
  };
  // Whether more of the same payload follows what is received.
  enum class Part { kMiddle, kLast };

  [[nodiscard]] Status NextHeader(tcp::FrameHeader* header);
  // Fills `parts` (used up), from ahead_ first. With the last part of a payload what follows it is received into
  // ahead_.
  [[nodiscard]] Status ReceiveParts(std::vector<iovec>& parts, Part part);
  [[nodiscard]] Status ReceiveInto(void* target, uint64_t bytes);
  [[nodiscard]] Status Discard(uint64_t bytes);
  [[nodiscard]] Status ReceiveOnce(msghdr* message, bool betweenFrames, size_t* received);

  [[nodiscard]] Status ReceiveFrames();
  [[nodiscard]] Status Dispatch(const tcp::FrameHeader& header);
  [[nodiscard]] Status OnRead(const tcp::FrameHeader& header) const;
  [[nodiscard]] Status OnData(const tcp::FrameHeader& header);
  [[nodiscard]] Status OnWrite(const tcp::FrameHeader& header);
  [[nodiscard]] Status OnWritten(const tcp::FrameHeader& header);
  [[nodiscard]] Status OnFailed(const tcp::FrameHeader& header);
  [[nodiscard]] Status OnMessage(const tcp::FrameHeader& header);
  [[nodiscard]] Status AnswerWrite();
  [[nodiscard]] Status SendWritten();
  [[nodiscard]] Status Fail(TcpSender& sender, uint64_t request, const Status& status) const;

  const int socket_;
  const Kind kind_;
  const size_t bulkMax_;
  const size_t smallMax_;
  MemoryTable* const memory_;
  RequestTable* const requests_;
  TcpSender* const sender_;
  TcpLaneEvents* const events_;
  IncomingWrite write_;
  std::vector<tcp::FrameHeader> written_;  // answers to writes that are still to be sent
  uint64_t writtenBytes_ = 0;              // that they are about
  Ahead ahead_;
  std::vector<iovec> parts_;
  std::vector<std::byte> buffer_;  // messages, texts, bytes thrown away
};

}  // namespace hbmesh
