// TcpEndpoint: a peer over tcp, reached over one connection for each lane and one for requests.
//
// TcpLink is what its threads share: the lanes, and how the endpoint ends. It ends as a whole: when one thread of one
// lane stops, all are stopped; the last one completes what is outstanding (so that no byte moves after a completion)
// and then tells of the disconnect.
//
// Thread rule: as Endpoint.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "transport/memory_table.h"
#include "transport/socket_address.h"
#include "transport/tcp_lane.h"
#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

class TcpLink final : public TcpLaneEvents {
 public:
  TcpLink(std::string peer, uint32_t lanes, const TransportOptions& options, std::shared_ptr<MemoryTable> memory,
          TransportSink* sink);

  [[nodiscard]] uint64_t id() const override { return id_; }
  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] uint32_t laneCount() const { return laneCount_; }

  // Takes the connected sockets, one for each lane and that for requests. False: Close was called before, they are
  // closed.
  bool Attach(std::vector<Fd> sockets);
  // Starts the lanes' threads, unless Close was called. Without enough of them the link breaks. REQUIRES: Attach.
  void Start();
  // Ends the connections for this reason; the disconnect follows.
  void Break(const Status& reason);
  // Ends everything; completes what is outstanding. Returns when no event can follow.
  void Close();

  // Whether there is a connection: not kOk before, and when it is broken.
  [[nodiscard]] Status Check();
  // As Endpoint's.
  [[nodiscard]] bool IsUnheard() const {
    return attached_.load(std::memory_order_acquire) && lanes_[laneCount_]->IsUnheard();
  }
  // REQUIRES of both: Check was kOk.
  [[nodiscard]] TcpLane& lane(uint32_t lane) { return *lanes_[lane % laneCount_]; }
  [[nodiscard]] TcpLane& requests() { return *lanes_[laneCount_]; }

  void OnLaneComplete(uint64_t token, Status status) override;
  void OnLaneMessage(std::span<const std::byte> message) override;
  TcpSender* SenderOf(uint32_t lane) override;

 private:
  void OnThreadEnd(const Status& reason);
  void BreakLocked(const Status& reason);
  void Finish();

  const uint64_t id_;
  const std::string peer_;
  const uint32_t laneCount_;
  const TransportOptions options_;
  const std::shared_ptr<MemoryTable> memory_;
  TransportSink* const sink_;
  std::mutex mutex_;
  bool closing_ = false;                         // guarded by mutex_
  bool threadsStarted_ = false;                  // guarded by mutex_
  bool broken_ = false;                          // guarded by mutex_
  Status reason_;                                // guarded by mutex_: why it broke
  std::atomic<bool> attached_{false};            // release: publishes lanes_, which doesn't change afterwards
  std::atomic<uint32_t> threads_{0};             // not yet ended; acq_rel: the last one sees what the others did
  std::vector<std::unique_ptr<TcpLane>> lanes_;  // laneCount_, then the connection for requests
};

// The links of one transport that there are. Any thread.
class TcpLinks {
 public:
  void Remember(const std::shared_ptr<TcpLink>& link);
  // Those with these numbers.
  void Break(std::span<const uint64_t> ids, const Status& reason);

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<TcpLink>> links_;  // guarded by mutex_
};

class TcpEndpoint final : public Endpoint {
 public:
  // Of an accepted peer.
  explicit TcpEndpoint(std::shared_ptr<TcpLink> link) : link_(std::move(link)) {}
  ~TcpEndpoint() override;

  // Connects all lanes on a thread of its own; completes `token`.
  [[nodiscard]] Status StartConnect(const SocketAddress& address, const TransportOptions& options, TransportSink* sink,
                                    uint64_t token);

  [[nodiscard]] uint64_t id() const override { return link_->id(); }
  [[nodiscard]] std::string peer() const override { return link_->peer(); }
  [[nodiscard]] uint32_t lanes() const override { return link_->laneCount(); }
  [[nodiscard]] Status Read(const RemoteRange& source, std::span<const LocalPiece> target, uint32_t lane,
                            uint64_t token) override;
  [[nodiscard]] size_t ReadEach(std::span<const ReadRequest> requests, Status* status) override;
  [[nodiscard]] Status Write(std::span<const LocalPiece> source, const RemoteRange& target, uint32_t lane,
                             uint64_t token) override;
  [[nodiscard]] bool IsUnheard() const override { return link_->IsUnheard(); }
  [[nodiscard]] Status Send(std::span<const std::byte> message) override;

 private:
  const std::shared_ptr<TcpLink> link_;
  std::vector<tcp::FrameHeader> starting_;  // ReadEach's
  Fd cancel_;                               // eventfd: ends the connecting thread
  std::thread connecting_;
};

}  // namespace hbmesh
