// Replicas: copies of other workers' objects that remote gets leave in the arena, so that the next get is a local one,
// and that the object outlives its source.
//
//   writing -> offered -> sealed                  any other answer of the owner than OK: dropped
//
// A replica is found by its key only after the owner of the key has taken it up as a location of this very generation:
// from then on a delete or a `replace` reaches it before it is answered. One that is dropped while the owner's answer
// is on its way is not sealed when that comes.
//
// Replicas take a bounded share of the arena (SidecarOptions::replicaPercent), of which the longest not used ones make
// room for others; they are the first to go when objects need room, and never go to the SSD tier.
//
// An object that this worker takes over for good from one that leaves (sidecar/takes.h) goes the same way, and is none
// of them: no share bounds it, and it stays like an object that was set here.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sidecar/control_port.h"
#include "sidecar/options.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

class Replicas final : private ControlWaiter {
 public:
  Replicas(const SidecarOptions& options, ObjectStore& store, StoreKeeper& keeper, ControlPort& control,
           PeerLinks& peers)
      : options_(options), store_(store), keeper_(keeper), control_(control), peers_(peers) {}
  ~Replicas();
  Replicas(const Replicas&) = delete;
  Replicas& operator=(const Replicas&) = delete;

  // Room for a copy of the object that was found, which will live for `ttlMs` (0: for ever). False: no copy is to be
  // kept: they are off, there is no room for it, it is being copied already, or enough others have it.
  // True: *object is where its bytes go, and *copy names it.
  [[nodiscard]] bool Begin(std::string_view key, std::span<const uint64_t> blobSizes, const layout::ResultRecord& found,
                           uint64_t ttlMs, ObjectView* object, uint64_t* copy);
  // The same for an object that is to stay: `done` is told once what came of it, unless it was given up: kOk when it is
  // sealed, else a code after which it is not here. kTryAgain: it is being copied already, or it must wait for room
  // (StoreKeeper::TryAllocate).
  [[nodiscard]] Status BeginWhole(std::string_view key, std::span<const uint64_t> blobSizes, uint64_t generation,
                                  const ObjectAttributes& attributes, std::function<void(StatusCode)> done,
                                  ObjectView* object, uint64_t* copy);
  [[nodiscard]] bool IsCopying(std::string_view key) const { return keys_.contains(key); }
  // No further replicas, or again.
  void Pause(bool paused) { paused_ = paused; }
  // The bytes don't come, or aren't right. REQUIRES: nothing copies into or out of them.
  void GiveUp(uint64_t copy);
  // The bytes are there. `openedMs`: when `ttlMs` began to run. `payloadCrc32c`: if the object has one.
  void Offer(uint64_t copy, uint64_t openedMs, std::optional<uint32_t> payloadCrc32c);
  // Asks the owners, many keys in one message. Called in every turn of the loop. True: there was something.
  bool Flush();

 private:
  struct Copy {
    std::string key;
    uint32_t slot;
    uint64_t generation;
    uint64_t bytes;
    uint64_t openedMs = 0;
    bool offered = false;
    std::function<void(StatusCode)> done = {};  // of one that is to stay
  };
  struct Asked {
    uint64_t id;
    std::vector<uint64_t> copies;
    uint64_t batchBytes;
  };
  using Place = std::pair<uint32_t, uint64_t>;  // slot and generation

  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  void AskFor(std::span<const uint64_t> offered, bool stay);
  // What the owner said of an offered copy.
  void End(uint64_t copy, StatusCode code);
  // A slot in which this generation never was.
  [[nodiscard]] Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes, uint64_t generation,
                                const ObjectAttributes& attributes, ObjectView* object);
  void Remember(Place place);
  // As GiveUp, and tells who waits for it.
  void Fail(uint64_t copy, StatusCode code);

  const SidecarOptions& options_;
  ObjectStore& store_;
  StoreKeeper& keeper_;
  ControlPort& control_;
  PeerLinks& peers_;
  bool paused_ = false;
  uint64_t lastCopy_ = 0;
  std::unordered_map<uint64_t, Copy> copies_;  // until they are sealed or dropped
  std::set<std::string, std::less<>> keys_;    // of these
  std::vector<uint64_t> offered_;              // to be asked for
  uint64_t lastQuestion_ = 0;
  std::unordered_map<uint64_t, Asked> questions_;
  // A location's slot and generation name it for ever: what an owner is told late of one that has ended must not meet
  // its successor.
  std::set<Place> used_;
  std::deque<Place> usedInOrder_;
};

}  // namespace hbmesh::sidecar
