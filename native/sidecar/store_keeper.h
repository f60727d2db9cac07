// StoreKeeper: how objects of the arena end by themselves or go to the SSD tier, and that their owners hear of an end.
// Ends those whose time is over, evicts or spills above the high watermark and where room is asked for, and tells
// owners with kForgetLocations, many keys in one message.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "sidecar/control_port.h"
#include "sidecar/peer_links.h"
#include "sidecar/ssd_tier.h"
#include "sidecar/timers.h"
#include "store/object_store.h"

namespace hbmesh::sidecar {

class StoreKeeper {
 public:
  // All borrowed. The store's clock becomes this one.
  StoreKeeper(ObjectStore& store, ControlPort& control, PeerLinks& peers, Clock& clock, Timers& timers);
  ~StoreKeeper() { timers_.Cancel(expiry_); }
  StoreKeeper(const StoreKeeper&) = delete;
  StoreKeeper& operator=(const StoreKeeper&) = delete;

  // Before all else. Objects on the SSD tier of an adopted store are found again, or end.
  [[nodiscard]] Status OpenTier(const SpillOptions& options, int wakeFd) {
    return SsdTier::Open(options, store_, sink_, wakeFd, &tier_);
  }
  // Null: there is none.
  [[nodiscard]] SsdTier* tier() { return tier_.get(); }

  // As ObjectStore::Allocate; others make room, and are dropped for it.
  [[nodiscard]] Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes,
                                const ObjectAttributes& attributes, ObjectView* object);
  // The same, but kTryAgain where something would be dropped that the SSD tier can take: MakeRoom, then Allocate.
  [[nodiscard]] Status TryAllocate(std::string_view key, std::span<const uint64_t> blobSizes,
                                   const ObjectAttributes& attributes, ObjectView* object);
  // Room for an object of a worker that leaves: as TryAllocate, but nothing that is here makes room for it, except
  // replicas. kNoSpace: there is none.
  [[nodiscard]] Status AllocateInRoom(std::string_view key, std::span<const uint64_t> blobSizes,
                                      const ObjectAttributes& attributes, ObjectView* object);
  // What such objects may take, in bytes of arena.
  [[nodiscard]] uint64_t RoomBytes() const;
  // After a seal: the arena may be above its watermark now, and something may expire earlier than before.
  void OnSealed() { sealed_ = true; }
  // Tells owners what has ended. Called in every turn of the loop, and before keys are reserved anew.
  bool Flush();
  // Expiry and eviction. True: there was something.
  bool Poll();
  // The owner was told of an object that is not going to be sealed.
  void TakeBack(std::string_view key, uint64_t generation, uint32_t slot) {
    gone_.push_back({std::string(key), generation, slot, false});
  }
  // For everything else that ends objects of the arena.
  [[nodiscard]] const EndedSink& sink() const { return sink_; }

 private:
  struct Gone {
    std::string key;
    uint64_t generation;
    uint32_t slot;
    bool whole;  // it was sealed: the owner then knows that older versions of the key are outdated
  };

  void ArmExpiry();

  ObjectStore& store_;
  ControlPort& control_;
  PeerLinks& peers_;
  Clock& clock_;
  Timers& timers_;
  const EndedSink sink_;
  std::unique_ptr<SsdTier> tier_;
  std::vector<Gone> gone_;
  bool sealed_ = true;
  uint64_t armedForMs_ = UINT64_MAX;
  TimerId expiry_;
};

// Drops what is sealed under the key if it is older than this generation, which its owner knew as committed: the owner
// leaves it to this worker to replace it by sealing the newer one, which then doesn't happen.
void DropOlderThan(ObjectStore& store, std::string_view key, uint64_t generation);

}  // namespace hbmesh::sidecar
