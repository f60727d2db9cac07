// What reaches the loop from other threads: completions of device copies and transport requests, and transport events.
//
// CompletionQueue carries the events; TokenTable says whom a completion is for. Tokens are given out by the loop and
// come back exactly once, so that a token leads to its target without a lookup in a map. Requests that are of use only
// together form a group: the loop is woken by the last of them, or by one that fails.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/device.h"
#include "transport/transport.h"

namespace hbmesh::sidecar {

struct LoopEvent {
  enum class Kind : uint32_t { kComplete, kAccept, kMessage, kDisconnect };
  Kind kind = Kind::kComplete;
  uint32_t transport = 0;  // index of the transport; not used by completions
  uint64_t id = 0;         // token, or endpoint
  Status status;
  std::unique_ptr<Endpoint> endpoint;
  std::vector<std::byte> message;
};

// How many requests of each group are under way. Group 0 is none: each of its requests counts as the last.
//
// Thread rule: End from any thread; the rest from the loop.
class CompletionGroups {
 public:
  static constexpr uint32_t kBits = 12;  // of a group's number

  // 0 when all are taken.
  [[nodiscard]] uint32_t Open();
  // REQUIRES: none of its requests is under way.
  void Close(uint32_t group);
  void Begin(uint32_t group);
  // True: it was the last one.
  bool End(uint32_t group);

 private:
  std::array<std::atomic<uint32_t>, 1U << kBits> underWay_{};
  std::vector<uint32_t> free_;
  uint32_t unused_ = 1;  // numbers from here on were never given out
};

// Thread rule: Push from any thread; the rest from the loop.
class CompletionQueue {
 public:
  // `wakeFd`: eventfd that wakes the loop. Both are borrowed.
  CompletionQueue(int wakeFd, CompletionGroups* groups) : wakeFd_(wakeFd), groups_(groups) {}

  void Push(LoopEvent event);
  // Moves all events into *events (which is cleared first). False: there were none.
  bool Take(std::vector<LoopEvent>* events);
  // Before the loop sleeps. False: something came, take it first. After True every Push writes to the eventfd, but for
  // a completion whose group has others under way.
  [[nodiscard]] bool PrepareSleep();
  void EndSleep();

 private:
  const int wakeFd_;
  CompletionGroups* const groups_;
  std::mutex mutex_;
  bool asleep_ = false;            // guarded by mutex_
  std::vector<LoopEvent> events_;  // guarded by mutex_
};

// The sink of all devices.
class DeviceEvents final : public CompletionSink {
 public:
  explicit DeviceEvents(CompletionQueue& queue) : queue_(queue) {}
  void Complete(uint64_t token, Status status) override;

 private:
  CompletionQueue& queue_;
};

// The sink of one transport.
class TransportEvents final : public TransportSink {
 public:
  TransportEvents(CompletionQueue& queue, uint32_t transport) : queue_(queue), transport_(transport) {}
  void OnComplete(uint64_t token, Status status) override;
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override;
  void OnMessage(uint64_t endpointId, std::span<const std::byte> message) override;
  void OnDisconnect(uint64_t endpointId, Status reason) override;

 private:
  CompletionQueue& queue_;
  const uint32_t transport_;
};

// Whoever waits for completions. It must live until each of its tokens has come back.
class CompletionTarget {
 public:
  virtual void OnCompletion(uint64_t tag, const Status& status) = 0;

 protected:
  ~CompletionTarget() = default;
};

// Thread rule: the loop.
class TokenTable {
 public:
  [[nodiscard]] uint64_t Add(CompletionTarget* target, uint64_t tag, uint32_t group = 0);
  // A request that was not accepted: its token will not come back.
  void Withdraw(uint64_t token);
  // Gives the token back and calls its target. False: nobody knows this token.
  bool Complete(uint64_t token, const Status& status);
  [[nodiscard]] size_t outstanding() const { return entries_.size() - free_.size(); }
  [[nodiscard]] CompletionGroups& groups() { return groups_; }
  [[nodiscard]] static uint32_t GroupOf(uint64_t token) {
    return static_cast<uint32_t>(token >> 32) & ((1U << CompletionGroups::kBits) - 1);
  }

 private:
  static constexpr uint32_t kTurnBits = 32 - CompletionGroups::kBits;

  struct Entry {
    CompletionTarget* target = nullptr;
    uint64_t tag = 0;
    uint32_t turn = 1;  // counts the uses of this entry: a token that comes back twice is noticed
    uint32_t group = 0;
  };
  // The entry that the token leads to, or null.
  [[nodiscard]] Entry* Find(uint64_t token);
  void Free(Entry& entry);

  CompletionGroups groups_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
};

}  // namespace hbmesh::sidecar
