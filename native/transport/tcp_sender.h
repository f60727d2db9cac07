// TcpSender: everything that goes out on one connection, a lane or that for requests. Small frames pass large ones: a
// large one goes out in chunks, and small ones go between two chunks.
//
// A small frame is sent at once by the thread that has it, if nothing is queued and the socket takes it without
// waiting; this saves waking the lane's sending thread. Otherwise, and for large payloads, that thread (Run) does it.
// No caller of another method ever waits for the socket: a receiver that answers must go on receiving, or two peers
// that read from each other would wait for ever.
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
#include <vector>

#include "base/status.h"
#include "transport/memory_table.h"
#include "transport/tcp_wire.h"
#include "transport/transport.h"

namespace hbmesh {

// A large payload on its way: Data for a peer's Read, or the bytes of our Write.
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
  [[nodiscard]] size_t queuedSmall() const;
  [[nodiscard]] size_t queuedBulk() const;

  // Returns when no byte of our Write `request` is read any more: a peer may say too early that it has them, and
  // whoever is told of the completion may free them.
  void AwaitSent(uint64_t request);

  // Sends until Stop (kOk) or until the socket breaks. Lets go of all queued payloads at its end.
  [[nodiscard]] Status Run();
  void Stop();

 private:
  struct SmallFrame {  // or several that were sent together
    std::vector<std::byte> bytes;
    size_t sent = 0;
  };

  static SmallFrame CopyOf(std::span<const iovec> parts, size_t sent);
  [[nodiscard]] Status SendParts(std::span<const iovec> parts);
  void TakeSmallLocked(std::vector<SmallFrame>* frames);
  static void AppendFrames(std::span<const SmallFrame> frames, std::vector<iovec>* parts);
  [[nodiscard]] Status SendAll(std::vector<iovec>& parts) const;
  // Adds the next chunk's header and pieces to `parts`. True: it is the last one.
  static bool AppendChunk(TcpBulk& bulk, tcp::FrameHeader* header, std::vector<iovec>* parts);

  const int socket_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable sent_;  // a large payload is out
  std::deque<SmallFrame> small_;  // guarded by mutex_
  std::deque<TcpBulk> bulk_;      // guarded by mutex_; the front one's progress is Run's
  bool sending_ = false;          // guarded by mutex_: a thread is writing to the socket
  bool stopping_ = false;         // guarded by mutex_
};

}  // namespace hbmesh
