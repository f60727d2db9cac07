// PendingSlots: objects that their owners may tell others of while the bytes are still on the way (SetTransfer, "at
// once"). Who wants such an object waits here until it is sealed or has failed; what the control process asks about it
// is answered from here, since the store doesn't know its generation yet.
//
// Thread rule: the loop. Waiters are told from Poll only.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hbmesh::sidecar {

class SlotWaiter {
 public:
  // The slot holds its object now, or does not and never will: look again.
  virtual void OnSlotSettled(uint64_t tag) = 0;

 protected:
  ~SlotWaiter() = default;
};

class PendingSlots {
 public:
  struct Object {
    std::string_view key;
    std::span<const uint64_t> blobSizes;
    uint64_t bytes = 0;
    uint64_t generation = 0;  // 0: the owner has not answered yet
  };

  // The views must live until Settle.
  void Add(uint32_t slot, const Object& object);
  [[nodiscard]] bool Has(uint32_t slot) const { return slots_.contains(slot); }
  // The object in this slot, if it may be this version; null: it is not.
  [[nodiscard]] const Object* Find(uint32_t slot, uint64_t generation) const;
  // The owner's answer. REQUIRES: Has.
  void Confirm(uint32_t slot, uint64_t generation);
  // Somebody deleted this version. False: no such slot is pending.
  bool NoteDropped(uint32_t slot, uint64_t generation);
  // Was the version that the owner confirmed deleted since?
  [[nodiscard]] bool IsDropped(uint32_t slot) const;
  // The object is sealed, or given up. Ignored if it is not pending.
  void Settle(uint32_t slot);

  // REQUIRES: Has.
  void Wait(uint32_t slot, SlotWaiter* waiter, uint64_t tag);
  void Forget(const SlotWaiter* waiter);
  // Tells waiters. True if there were any.
  bool Poll();

  // What owners have confirmed, and nobody has deleted since: others know of it.
  void ForEachConfirmed(const std::function<void(uint32_t slot, const Object&)>& each) const;

 private:
  struct Waiting {
    SlotWaiter* waiter;
    uint64_t tag;
  };
  struct Slot {
    Object object;
    std::vector<uint64_t> dropped;  // versions: which one it is may not be known yet
    std::vector<Waiting> waiting;
  };

  std::unordered_map<uint32_t, Slot> slots_;
  std::vector<Waiting> settled_;
};

}  // namespace hbmesh::sidecar
