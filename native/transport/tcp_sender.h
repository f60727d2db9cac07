// TcpSender: everything that goes out on one connection, a lane or that for requests. Small frames pass large ones: a
// large one goes out in chunks, and small ones go between two chunks. Writes keep their order, whatever their size:
// the frames of two of them must not mix.
//
// A small frame is sent at once by the thread that has it, if nothing is queued and the socket takes it without
// waiting; this saves waking the lane's sending thread. Otherwise, and for large payloads, that thread (Run) does it,
// as many queued frames at a time as make up kGatherBytes.
// No caller of another method ever waits for the socket: a receiver that answers must go on receiving, or two peers
// that read from each other would wait for each other.
//
// Thread rule: Run is the sending thread; the rest from any thread.
#pragma once

#include <sys/uio.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/status.h"
#include "transport/memory_table.h"
#include "transport/tcp_wire.h"
#include "transport/transport.h"

namespace hbmesh {

// A payload on its way that isn't copied: Data for a peer's Read, or the bytes of our Write.
struct TcpBulk {
  tcp::FrameHeader header{};  // of the first chunk; offset (Data) and payloadBytes are set for each chunk
  std::vector<LocalPiece> pieces;
  uint64_t bytes = 0;
  MemoryTable::Use use;  // Data: keeps the region registered
  // Progress, Run's only.
  uint64_t sent = 0;
  size_t piece = 0;
  uint64_t pieceOffset = 0;
};

class TcpSender {
 public:
  explicit TcpSender(int socket) : socket_(socket) {}

  // A frame with a small payload, which is copied if it can't be sent at once. Never refuses: the caller bounds them.
  // Not kOk: the socket is broken.
  [[nodiscard]] Status SendSmall(const tcp::FrameHeader& header, std::span<const std::byte> payload);
  // The same for several frames without payloads, together.
  [[nodiscard]] Status SendFrames(std::span<const tcp::FrameHeader> frames);
  [[nodiscard]] Status SendBulk(TcpBulk bulk);
  [[nodiscard]] size_t queuedSmall() const;  // frames
  [[nodiscard]] size_t queuedBulk() const;

  // Returns when no byte of our Write `request` is read any more: a peer may say too early that it has them, and
  // whoever is told of the completion may free them.
  void AwaitSent(uint64_t request);

  // Sends until Stop (kOk) or until the socket breaks. Lets go of all queued payloads at its end.
  [[nodiscard]] Status Run();
  void Stop();

 private:
  struct SmallFrames {  // that were sent together
    std::vector<std::byte> bytes;
    size_t sent = 0;
    size_t count = 1;
  };
  // What Run sends together. The payloads stay in their queues until they are out.
  struct Gathered {
    struct Frame {  // or SmallFrames
      size_t partsEnd;
      std::deque<TcpBulk>* ended;  // whose front is out with it; null: none
    };
    std::vector<SmallFrames> small;
    std::vector<tcp::FrameHeader> headers;  // never grows: `parts` points into it
    std::vector<iovec> parts;
    std::vector<Frame> frames;
    uint64_t payloadBytes = 0;
    // How far it is out.
    size_t part = 0;
    size_t frame = 0;
  };

  static SmallFrames CopyOf(std::span<const iovec> parts, size_t sent, size_t frames);
  [[nodiscard]] bool QueuedLocked() const;
  [[nodiscard]] bool IdleLocked() const;
  [[nodiscard]] Status SendParts(std::span<const iovec> parts, size_t frames);
  // REQUIRES: sending_ is the caller's.
  [[nodiscard]] Status SendNow(std::span<const iovec> parts, size_t frames);
  void GatherLocked(Gathered* gathered);
  // Adds the queue's next chunk, of the payload at `index`. True: that is its last one.
  static bool AppendChunk(std::deque<TcpBulk>& queue, size_t index, Gathered* gathered);
  [[nodiscard]] Status SendGathered(Gathered& gathered);
  void Advance(Gathered& gathered, size_t sent);

  const int socket_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable sent_;               // our Writes are out
  std::deque<SmallFrames> small_;              // guarded by mutex_
  size_t smallFrames_ = 0;                     // guarded by mutex_: in small_
  std::deque<TcpBulk> quick_;                  // guarded by mutex_: small Data, which passes what is in bulk_
  std::deque<TcpBulk> bulk_;                   // guarded by mutex_
  std::unordered_set<uint64_t> unsentWrites_;  // guarded by mutex_: requests of Writes that are in bulk_
  bool sending_ = false;                       // guarded by mutex_: a thread is writing to the socket
  bool stopping_ = false;                      // guarded by mutex_
};

}  // namespace hbmesh
