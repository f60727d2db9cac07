// TcpLane: one connection of an endpoint, with a thread that receives and one that sends. Two threads, so that sending
// never keeps a lane from receiving. The endpoint's connection for requests is one too, which carries no bytes.
//
// Thread rule: as Endpoint; events arrive from the lane's threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "base/time_slice.h"
#include "transport/memory_table.h"
#include "transport/request_table.h"
#include "transport/socket_address.h"
#include "transport/tcp_receiver.h"
#include "transport/tcp_sender.h"
#include "transport/transport_options.h"

namespace hbmesh {

class TcpLane {
 public:
  TcpLane(Fd socket, TcpReceiver::Kind kind, const TransportOptions& options, MemoryTable* memory,
          TcpLaneEvents* events);
  // REQUIRES: Join was called, or Start never.
  ~TcpLane() = default;

  // `ended` is called by each of the two threads as its last act, with the reason (kOk: Shutdown was asked for).
  // Returns how many there are: fewer than two if the process may have no more.
  [[nodiscard]] uint32_t Start(const std::function<void(Status)>& ended);
  // Makes both threads end. Any thread.
  void Shutdown();
  void Join();

  // Expects the bytes of a Read on this lane, and fills *request, which is to be sent to the peer then; all but its
  // lane.
  [[nodiscard]] Status ExpectRead(const RemoteRange& source, std::span<const LocalPiece> target, uint64_t token,
                                  tcp::FrameHeader* request);
  [[nodiscard]] Status Write(std::span<const LocalPiece> source, const RemoteRange& target, uint64_t token);
  // The connection for requests only.
  void SendRequests(std::span<const tcp::FrameHeader> requests);
  [[nodiscard]] Status SendMessage(std::span<const std::byte> message);
  [[nodiscard]] bool IsUnheard() const { return IsUnacknowledged(socket_.get()); }
  [[nodiscard]] TcpSender* sender() { return &sender_; }
  // REQUIRES: both threads are past receiving and sending.
  [[nodiscard]] std::vector<uint64_t> TakeOutstanding() { return requests_.TakeAll(); }

 private:
  const TransportOptions options_;
  const TimeSlice slice_;
  Fd socket_;
  RequestTable requests_;
  TcpSender sender_;
  TcpReceiver receiver_;
  std::thread sending_;
  std::thread receiving_;
};

}  // namespace hbmesh
