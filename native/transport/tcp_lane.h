// TcpLane: one connection of an endpoint, with a thread that receives and one that sends. Two threads, so that sending
// never keeps a lane from receiving.
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
#include "transport/memory_table.h"
#include "transport/request_table.h"
#include "transport/tcp_receiver.h"
#include "transport/tcp_sender.h"
#include "transport/transport_options.h"

namespace hbmesh {

class TcpLane {
 public:
  TcpLane(Fd socket, uint32_t lane, const TransportOptions& options, MemoryTable* memory, TcpLaneEvents* events);
  // REQUIRES: Join was called, or Start never.
  ~TcpLane() = default;

  // `ended` is called by each of the two threads as its last act, with the reason (kOk: Shutdown was asked for).
  // Returns how many there are: fewer than two if the process may have no more.
  [[nodiscard]] uint32_t Start(const std::function<void(Status)>& ended);
  // Makes both threads end. Any thread.
  void Shutdown();
  void Join();

  [[nodiscard]] Status Read(const RemoteRange& source, std::span<const LocalPiece> target, uint64_t token);
  // As Read, but the peer hears of it with SendQueued only.
  [[nodiscard]] Status QueueRead(const RemoteRange& source, std::span<const LocalPiece> target, uint64_t token);
  void SendQueued();
  [[nodiscard]] Status Write(std::span<const LocalPiece> source, const RemoteRange& target, uint64_t token);
  [[nodiscard]] Status Send(std::span<const std::byte> message);
  // REQUIRES: both threads are past receiving and sending.
  [[nodiscard]] std::vector<uint64_t> TakeOutstanding() { return requests_.TakeAll(); }

 private:
  [[nodiscard]] Status AddRead(const RemoteRange& source, std::span<const LocalPiece> target, uint64_t token,
                               tcp::FrameHeader* header);

  const TransportOptions options_;
  Fd socket_;
  RequestTable requests_;
  TcpSender sender_;
  TcpReceiver receiver_;
  std::thread sending_;
  std::thread receiving_;
};

}  // namespace hbmesh
