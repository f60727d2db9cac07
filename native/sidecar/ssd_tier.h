// SsdTier: the SSD tier as the sidecar's loop uses it. Around the Spiller it says when there is something to poll, and
// lets objects come back a few at a time, so that one call can get more of them than the arena holds.
//
// An object on its way back is held from the asking to the end of its callback: others don't push it out of the tier.
// One that finds no room because transfers hold too much of the arena waits for their end; if none is under way, it is
// told kOutOfMemory.
//
// Thread rule: the loop. Callbacks come from Poll only.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "base/status.h"
#include "store/object_store.h"
#include "store/spiller.h"

namespace hbmesh::sidecar {

class SsdTier {
 public:
  // As Spiller::Open. `wakeFd`: the loop's eventfd. Borrowed, as the store is.
  [[nodiscard]] static Status Open(const SpillOptions& options, ObjectStore& store, EndedSink ended, int wakeFd,
                                   std::unique_ptr<SsdTier>* tier);
  ~SsdTier();
  SsdTier(const SsdTier&) = delete;
  SsdTier& operator=(const SsdTier&) = delete;

  // In every turn of the loop. True: there was something.
  bool Poll();
  void Balance() { spiller_->Balance(); }
  // As Spiller::MakeRoom and Forget.
  uint64_t MakeRoom(uint64_t arenaBytes, uint64_t extentBytes, std::function<void()> done) {
    return spiller_->MakeRoom(arenaBytes, extentBytes, std::move(done));
  }
  void ForgetRoom(uint64_t ticket) { spiller_->Forget(ticket); }

  // Gets a spilled object into memory; `done` as Spiller::BroughtBack says. Never 0.
  // REQUIRES: the object is spilled.
  uint64_t BringBack(const ObjectView& object, Spiller::BroughtBack done);
  void ForgetReturn(uint64_t ticket);

  // Whether the file stays for who adopts the store.
  void Keep(bool keep) { spiller_->Keep(keep); }
  [[nodiscard]] SpillUsage usage() const { return spiller_->usage(); }

 private:
  struct Return {
    uint32_t slot;
    uint64_t generation;
    uint64_t bytes;
    Spiller::BroughtBack done;
    uint64_t started;  // the spiller's ticket; 0: not yet
  };

  explicit SsdTier(ObjectStore& store) : store_(store) {}
  void StartReturns();
  void EndReturn(uint64_t ticket, const Status& status, const ObjectView* object);
  // Transfers hold memory that will be free when they end.
  [[nodiscard]] bool OthersHold() const;

  ObjectStore& store_;
  std::atomic<bool> woken_{false};  // relaxed: the spiller's mutex orders what there is to poll
  uint64_t lastTicket_ = 0;
  std::unordered_map<uint64_t, Return> returns_;
  std::deque<uint64_t> queue_;  // tickets that are not started; some may be forgotten
  uint64_t startedBytes_ = 0;
  bool returned_ = false;             // since the last Poll
  bool blocked_ = false;              // one found no room
  uint64_t heldBytes_ = 0;            // what was held then: nothing is started before that changes
  std::unique_ptr<Spiller> spiller_;  // destroyed first: its threads wake
};

}  // namespace hbmesh::sidecar
