// Transport: moves bytes between registered memory of two sidecars, and small messages between them. One-sided like
// verbs: the reader names remote memory, the other side's processor need not decide anything.
//
// docs/ARCHITECTURE.md gives for each operation the verbs (and HCCS) calls that implement it. A backend is complete;
// what it can't do answers kNotSupported and its capability is false.
//
// Thread rule: all calls from one thread (the sidecar's loop). Events arrive through the TransportSink from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace hbmesh {

struct TransportCapabilities {
  bool oneSidedRead = false;
  bool oneSidedWrite = false;
  bool reachesDeviceMemory = false;    // can target device memory that is not hostAddressable
  bool sharesOutReads = false;         // spreads a read or write over all lanes by itself: slices bring nothing
  uint32_t segmentsPerRequestMax = 1;  // pieces of one request that go in one work request (verbs: max_sge)
  uint32_t messageBytesMax = 0;
};

// Local memory that this transport may read from and write to, and under which number peers name it.
struct MemoryRegion {
  uint32_t id = 0;
  std::byte* base = nullptr;
  uint64_t bytes = 0;
};

// Memory of the peer: the region number that the peer told us, and a range in it.
struct RemoteRange {
  uint32_t region = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct LocalPiece {
  std::byte* address;
  uint64_t bytes;
};

class Endpoint;

// Told of what happened. Implementations only enqueue and wake; they are called from the transport's threads.
class TransportSink {
 public:
  virtual ~TransportSink() = default;
  // Exactly once for each accepted Read or Write, also when the peer dies (kRpcPeerDead) or the endpoint is closed
  // (kRpcCancelled).
  virtual void OnComplete(uint64_t token, Status status) = 0;
  // A peer connected to our address. The sink owns the endpoint from now on.
  virtual void OnAccept(std::unique_ptr<Endpoint> endpoint) = 0;
  // In the order in which the peer sent them. `message` is valid during the call only.
  virtual void OnMessage(uint64_t endpointId, std::span<const std::byte> message) = 0;
  // The endpoint is broken; its outstanding requests have been completed before. Sent once.
  virtual void OnDisconnect(uint64_t endpointId, Status reason) = 0;
};

// One of several reads that are started together.
struct ReadRequest {
  RemoteRange source;
  std::span<const LocalPiece> target;
  uint32_t lane;
  uint64_t token;
};

class Endpoint {
 public:
  // Closes: every outstanding request is completed, no event of this endpoint follows the destructor's return.
  virtual ~Endpoint() = default;
  [[nodiscard]] virtual uint64_t id() const = 0;
  [[nodiscard]] virtual std::string peer() const = 0;
  // Connections (tcp), queue pairs (rdma) or copy threads (shm) that requests can be spread over.
  [[nodiscard]] virtual uint32_t lanes() const = 0;

  // Reads the remote range into the pieces, whose sizes add up to source.bytes. kTryAgain when too much is outstanding.
  [[nodiscard]] virtual Status Read(const RemoteRange& source, std::span<const LocalPiece> target, uint32_t lane,
                                    uint64_t token) = 0;
  // As Read for each in turn, but told to the peer together, which costs both sides less (verbs: one doorbell). Answers
  // how many were accepted; when not all were, *status says why the next one wasn't.
  [[nodiscard]] virtual size_t ReadEach(std::span<const ReadRequest> requests, Status* status) {
    for (size_t index = 0; index < requests.size(); ++index) {
      const ReadRequest& request = requests[index];
      *status = Read(request.source, request.target, request.lane, request.token);
      if (!status->ok()) return index;
    }
    return requests.size();
  }
  // Writes the pieces to the remote range. Completion means the bytes are visible to the peer.
  [[nodiscard]] virtual Status Write(std::span<const LocalPiece> source, const RemoteRange& target, uint32_t lane,
                                     uint64_t token) = 0;
  // Has the peer's host confirmed nothing of what was sent for requests and messages, neither at first nor when that
  // was repeated? Its processes have no part in that: true means cut off or gone, however busy they are.
  [[nodiscard]] virtual bool IsUnheard() const { return false; }
  // Sends a message of at most messageBytesMax. kTryAgain when the peer doesn't take them fast enough.
  [[nodiscard]] virtual Status Send(std::span<const std::byte> message) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual const char* name() const = 0;  // "shm", "tcp"
  [[nodiscard]] virtual TransportCapabilities capabilities() const = 0;
  // Starts to accept peers. `where`: tcp "IP:PORT" (port 0 picks one), shm a name. address() then tells the real one.
  [[nodiscard]] virtual Status Listen(const std::string& where) = 0;
  [[nodiscard]] virtual std::string address() const = 0;
  // Makes memory readable (and writable if asked) by peers. `fd` and `fdOffset` are for transports that share mappings;
  // -1 where the memory has no descriptor. On kOk, *region holds the number that peers use.
  [[nodiscard]] virtual Status RegisterMemory(std::byte* base, uint64_t bytes, int fd, uint64_t fdOffset, bool writable,
                                              MemoryRegion* region) = 0;
  // Peers' later requests for it fail. Waits for those under way.
  virtual void UnregisterMemory(uint32_t region) = 0;
  // Starts to connect. Success or failure arrives as OnComplete(token); on success *endpoint may be used from then on.
  [[nodiscard]] virtual Status Connect(const std::string& address, uint32_t lanes, uint64_t token,
                                       std::unique_ptr<Endpoint>* endpoint) = 0;
};

}  // namespace hbmesh
