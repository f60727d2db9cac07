// Channel: two message rings in one memfd between the sidecar and one peer process (layout.h draws it).
//
// The two ends don't trust each other's writes: a receiver copies an entry out, checks it, then copies the payload out;
// a sender checks the consumer's positions. A peer that breaks the rules gets kDataInconsistency, after which the
// channel is unusable.
//
// Thread rule: one thread sends and one thread (which may be another) receives at each end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "queue/layout.h"

namespace hbmesh {

struct ChannelOptions {
  uint32_t entryCapacity = 1024;           // a power of two
  uint64_t payloadCapacity = 64ULL << 20;  // bytes a ring, a power of two; sparse until used
};

struct Message {
  layout::Entry entry{};           // payloadPos is meaningless once received
  std::vector<std::byte> payload;  // reused between receives: keep the Message to keep the memory
};

enum class ChannelSide { kSidecar, kPeer };

class Channel {
 public:
  // Makes the memory, sealed against resizing. Side kSidecar. Wakes are eventfds: one to wake the sidecar (shared by
  // all of its channels, borrowed), one to wake the peer.
  [[nodiscard]] static Status Create(const ChannelOptions& options, int sidecarWake, std::unique_ptr<Channel>* channel);
  // Maps memory that came from the sidecar and checks its header, its seals and its size. Side kPeer.
  [[nodiscard]] static Status Attach(Fd memory, Fd sidecarWake, Fd peerWake, std::unique_ptr<Channel>* channel);
  ~Channel();

  // Copies entry and payload in and publishes them; wakes the consumer if it sleeps. kTryAgain: the ring is full,
  // nothing was written. kOutOfRange: the payload can never fit (over half of the ring's payload capacity).
  [[nodiscard]] Status Send(const layout::Entry& entry, std::span<const std::byte> payload);
  // As Send, for payloads in several parts.
  [[nodiscard]] Status Send(const layout::Entry& entry, std::span<const std::span<const std::byte>> parts);
  // Has the consumer taken all that was sent? May be called by the sending thread only. false, too, when it broke the
  // rules.
  [[nodiscard]] bool AllTaken();
  // Takes the next message. false in *received: the ring is empty. An error other than kOk means the peer broke the
  // rules.
  [[nodiscard]] Status Receive(Message* message, bool* received);
  // Is there anything to receive; may be called by the receiving thread only.
  [[nodiscard]] bool HasMessage() const;

  // Before the receiving thread sleeps on its eventfd. True: go to sleep. False: something came, receive first.
  [[nodiscard]] bool PrepareSleep();
  void EndSleep();

  [[nodiscard]] int memoryFd() const;
  [[nodiscard]] int peerWakeFd() const;
  [[nodiscard]] int sidecarWakeFd() const;

 private:
  struct Impl;
  explicit Channel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hbmesh
