// ShmEndpoint: a peer on this host. Reads and Writes are copies by the threads of a CopyPool, straight between the
// mapped memory of the peer and local memory.
//
// ShmLink is what the endpoint, its thread and the copies share. The thread owns the socket's receiving side: it
// answers the peer's questions, maps what it offers, and notices its death. It ends the link: it completes what waits,
// waits for copies under way, lets go of all memory, and then tells of the disconnect.
//
// Thread rule: as Endpoint.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/copy_pool.h"
#include "base/fd.h"
#include "base/mapped_memory.h"
#include "base/unix_socket.h"
#include "transport/memory_table.h"
#include "transport/shm_wire.h"
#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

// What all endpoints of one shm transport share.
struct ShmShared {
  TransportOptions options;
  TransportSink* sink = nullptr;
  std::shared_ptr<MemoryTable> memory;
  std::unique_ptr<CopyPool> copies;
};

class ShmLink {
 public:
  ShmLink(std::shared_ptr<ShmShared> shared, std::string peer);

  // Of an accepted peer: takes the socket. Start follows.
  [[nodiscard]] Status Attach(Fd socket);
  // Starts the thread. With `connect`, it first runs that, attaches what it brings and completes `token`. If the
  // process may have no more threads the link has ended, and `token` is complete.
  void Start(std::function<Status(int cancel, Fd* socket)> connect, uint64_t token);
  // Ends everything; returns when no event can follow.
  void Close();

  [[nodiscard]] Status Submit(bool write, const RemoteRange& range, std::span<const LocalPiece> pieces, uint64_t token);
  [[nodiscard]] Status Send(std::span<const std::byte> message);
  // Asks the peer to let go of a region of ours.
  void Revoke(uint32_t region);
  // The peer did not let go in time: it counts as dead.
  void BreakIfAnnounced(uint32_t region);

  [[nodiscard]] uint64_t id() const { return id_; }
  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] uint32_t lanes() const { return shared_->copies->threads(); }
  [[nodiscard]] int socket() const { return socket_.get(); }

 private:
  struct Request {
    bool write = false;
    RemoteRange range;
    std::vector<LocalPiece> pieces;
    uint64_t token = 0;
  };
  // Memory of the peer.
  struct Remote {
    bool mapped = false;
    bool revoking = false;  // new requests fail; unmapped when `users` is 0
    bool writable = false;
    std::byte* base = nullptr;
    uint64_t bytes = 0;
    uint32_t users = 0;  // copies under way
    MappedMemory memory;
    std::vector<Request> waiting;  // until it is mapped
  };
  struct OutPacket {
    std::vector<std::byte> bytes;
    Fd descriptor;
  };

  [[nodiscard]] Status StartThread(std::function<Status(int cancel, Fd* socket)> connect, uint64_t token);
  void Run(const std::function<Status(int, Fd*)>& connect, uint64_t token);
  [[nodiscard]] Status Serve();
  [[nodiscard]] Status ReceiveAll(std::span<std::byte> buffer);
  [[nodiscard]] Status Handle(std::span<const std::byte> packet, std::vector<Fd>& descriptors);
  void OnMapRequest(uint32_t region);
  [[nodiscard]] Status OnMapReply(const shm::MapReply& reply, std::vector<Fd>& descriptors);
  [[nodiscard]] static Status MapRemote(const shm::MapReply& reply, const std::vector<Fd>& descriptors, Remote* remote);
  void OnRevoke(uint32_t region);
  void Finish(Status reason);

  void StartCopy(Remote& remote, const Request& request);
  void EndCopy(uint32_t region, uint64_t token);
  void Fail(uint64_t token, Status status);
  void QueueLocked(const void* bytes, size_t size, Fd descriptor);
  [[nodiscard]] Status FlushLocked();

  const uint64_t id_;
  const std::string peer_;
  const std::shared_ptr<ShmShared> shared_;
  const uint32_t requestsMax_;
  Fd socket_;  // set before or by the thread, closed with the link
  Fd wake_;    // eventfd: packets to send, or Close
  std::mutex mutex_;
  std::condition_variable idle_;
  bool attached_ = false;  // guarded by mutex_, as all below
  bool closing_ = false;
  bool broken_ = false;
  Status reason_;
  uint32_t outstanding_ = 0;  // accepted requests that are not complete
  std::map<uint32_t, Remote> remotes_;
  std::map<uint32_t, MemoryTable::Use> announced_;  // regions of ours that the peer has mapped, or is about to
  std::deque<OutPacket> out_;
  std::thread thread_;
};

class ShmEndpoint final : public Endpoint {
 public:
  explicit ShmEndpoint(std::shared_ptr<ShmLink> link) : link_(std::move(link)) {}
  ~ShmEndpoint() override { link_->Close(); }

  [[nodiscard]] uint64_t id() const override { return link_->id(); }
  [[nodiscard]] std::string peer() const override { return link_->peer(); }
  [[nodiscard]] uint32_t lanes() const override { return link_->lanes(); }
  [[nodiscard]] Status Read(const RemoteRange& source, std::span<const LocalPiece> target, uint32_t lane,
                            uint64_t token) override;
  [[nodiscard]] Status Write(std::span<const LocalPiece> source, const RemoteRange& target, uint32_t lane,
                             uint64_t token) override;
  [[nodiscard]] Status Send(std::span<const std::byte> message) override { return link_->Send(message); }

 private:
  const std::shared_ptr<ShmLink> link_;
};

}  // namespace hbmesh
