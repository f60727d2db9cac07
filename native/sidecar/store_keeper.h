// StoreKeeper: how objects of the arena end by themselves, and that their owners hear of it. Ends those whose time is
// over, evicts above the high watermark and where room is asked for, and tells owners with kForgetLocations, many keys
// in one message.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "sidecar/control_port.h"
#include "sidecar/peer_links.h"
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

  // As ObjectStore::Allocate; others make room.
  [[nodiscard]] Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes,
                                const ObjectAttributes& attributes, ObjectView* object);
  // After a seal: the arena may be above its watermark now, and something may expire earlier than before.
  void OnSealed() { sealed_ = true; }
  // Tells owners what has ended. Called in every turn of the loop, and before keys are reserved anew.
  bool Flush();
  // Expiry and eviction. True: there was something.
  bool Poll();
  // For everything else that ends objects of the arena.
  [[nodiscard]] const EndedSink& sink() const { return sink_; }

 private:
  struct Gone {
    std::string key;
    uint64_t generation;
    uint32_t slot;
  };

  void ArmExpiry();

  ObjectStore& store_;
  ControlPort& control_;
  PeerLinks& peers_;
  Clock& clock_;
  Timers& timers_;
  const EndedSink sink_;
  std::vector<Gone> gone_;
  bool sealed_ = true;
  uint64_t armedForMs_ = UINT64_MAX;
  TimerId expiry_;
};

}  // namespace hbmesh::sidecar
