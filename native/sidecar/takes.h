// Takes: objects of a worker that leaves, which this one takes over for good. It reads them like any reader, and serves
// them when their owner has taken it up as a location; then the other worker drops its own. At every moment one of the
// two has the object sealed.
//
//   [waiting for room ->] opening -> [waiting for room ->] reading -> checking -> offered -> ended
//
// An object that is here already is not read again: a replica of it becomes an object like others. What is here makes
// no room, except replicas. Generation, time to live, pin and checksum come along.
//
// Codes of an object: OK; NOT_FOUND (deleted, replaced or expired meanwhile: nothing is to be moved), NO_SPACE,
// SCALING (this worker leaves, too), TRY_AGAIN (it is being read here), RPC_PEER_DEAD and others of the transport,
// DATA_INCONSISTENCY (its bytes are not what was set).
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "sidecar/checksums.h"
#include "sidecar/options.h"
#include "sidecar/peer_links.h"
#include "sidecar/replicas.h"
#include "sidecar/store_keeper.h"
#include "sidecar/timers.h"

namespace hbmesh::sidecar {

struct WantedObject {
  std::string key;
  std::vector<uint64_t> blobSizes;
  layout::TakeRecord record{};
};

// The payload of kTake. kInvalid: says what doesn't fit.
[[nodiscard]] Status ParseTake(const Message& message, std::vector<WantedObject>* objects);

class Takes final : private PeerReader, private CompletionTarget {
 public:
  // One code an object, in the order of the question.
  using Done = std::function<void(std::span<const uint32_t> codes)>;

  // All borrowed.
  Takes(const SidecarOptions& options, Clock& clock, Timers& timers, ObjectStore& store, StoreKeeper& keeper,
        Replicas& replicas, Checksums& checksums, PeerLinks& peers)
      : options_(options),
        clock_(clock),
        timers_(timers),
        store_(store),
        keeper_(keeper),
        replicas_(replicas),
        checksums_(checksums),
        peers_(peers) {}
  ~Takes();
  Takes(const Takes&) = delete;
  Takes& operator=(const Takes&) = delete;

  // `done` is called once, later or at once.
  void Take(std::vector<WantedObject> objects, Done done);
  // This worker is about to leave itself: it takes nothing.
  void SetLeaving(bool leaving) { leaving_ = leaving; }

 private:
  // Objects of one question.
  struct Batch {
    std::vector<uint32_t> codes;
    size_t left = 0;
    Done done;
    TimerId deadline;
  };
  enum class State : uint8_t { kOpening, kWaiting, kReading, kChecking, kOffered };
  struct One {
    std::shared_ptr<Batch> batch;
    size_t index = 0;
    WantedObject wanted;
    State state = State::kOpening;
    uint64_t connection = 0;
    uint64_t hold = 0;
    uint32_t region = 0;
    uint64_t offset = 0;
    ObjectAttributes attributes;
    uint64_t openedMs = 0;
    std::optional<uint32_t> payloadCrc32c;
    uint64_t room = 0;  // ticket of the SSD tier
    uint64_t copy = 0;
    std::byte* payload = nullptr;
    uint32_t reads = 0;
    Status fault;
    ChecksumItem check;
  };
  // What a completion is of: the lowest bit of its tag.
  enum Tag : uint64_t { kReadTag = 0, kCheckTag = 1 };

  void OnOpened(uint64_t tag, const peer::OpenedRecord& opened, uint64_t connection) override;
  void OnOpenFailed(uint64_t tag, const Status& why) override;
  void OnCompletion(uint64_t tag, const Status& status) override;

  // Nothing, if it goes on.
  [[nodiscard]] std::optional<StatusCode> Begin(uint64_t number, One& one);
  // What is here of it already.
  [[nodiscard]] std::optional<StatusCode> FindHere(const WantedObject& wanted);
  void Allocate(uint64_t number);
  void Read(uint64_t number, One& one);
  void EndReads(uint64_t number, One& one);
  void Offer(One& one);
  void OnOffered(uint64_t number, StatusCode code);
  void CloseHold(One& one);
  void Fail(uint64_t number, StatusCode code);
  void End(uint64_t number, StatusCode code);
  void OnDeadline(const std::shared_ptr<Batch>& batch);

  const SidecarOptions& options_;
  Clock& clock_;
  Timers& timers_;
  ObjectStore& store_;
  StoreKeeper& keeper_;
  Replicas& replicas_;
  Checksums& checksums_;
  PeerLinks& peers_;
  bool leaving_ = false;
  uint64_t last_ = 0;
  std::unordered_map<uint64_t, One> ones_;
  std::unordered_map<uint64_t, uint32_t> late_;  // given up while they were being opened: number to source
};

}  // namespace hbmesh::sidecar
