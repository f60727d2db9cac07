// The one implementation of ObjectStore. Internal to this folder: object_store.cc has the operations,
// object_store_open.cc makes and adopts stores, object_store_evict.cc ends objects, object_store_spill.cc moves them to
// and from the SSD tier, object_store_explain.cc tells about them.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/growing_array.h"
#include "base/mapped_memory.h"
#include "store/arena_allocator.h"
#include "store/expiry_heap.h"
#include "store/key_index.h"
#include "store/lru_lists.h"
#include "store/object_store.h"

namespace hbmesh {

inline constexpr uint64_t kStorePageBytes = 4096;
inline constexpr uint64_t kStoreHeaderBytes = kStorePageBytes;

class SharedObjectStore final : public ObjectStore {
 public:
  SharedObjectStore(Fd fd, MappedMemory map);

  [[nodiscard]] Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes, ObjectView* object,
                                const ObjectAttributes& attributes, const EndedSink* evicted) override;
  void SetPayloadCrc(uint32_t slot, uint32_t payloadCrc32c) override;
  void MarkWritten(uint32_t slot, uint64_t generation) override;
  void Seal(uint32_t slot, uint64_t nowMs) override;
  Status Drop(uint32_t slot, uint64_t generation) override;
  [[nodiscard]] std::optional<ObjectView> FindSealed(std::string_view key) const override;
  [[nodiscard]] Status FindSlot(uint32_t slot, uint64_t generation, ObjectView* object) const override;
  void Hold(uint32_t slot) override;
  void Release(uint32_t slot) override;

  void SetClock(const Clock* clock) override { clock_ = clock; }
  [[nodiscard]] Status SetEvictionPolicy(const EvictionPolicy& policy) override;
  void Touch(uint32_t slot) override;
  [[nodiscard]] Status SetPin(uint32_t slot, uint64_t generation, Pin pin) override;
  [[nodiscard]] Status Promote(uint32_t slot, uint64_t generation) override;
  uint32_t CollectExpired(uint64_t nowMs, uint32_t limit, const EndedSink& each) override;
  [[nodiscard]] uint64_t nextExpiryMs() const override;
  uint32_t EvictTo(uint64_t usedBytesMax, uint32_t limit, const EndedSink& each, EvictionScope scope) override;
  uint32_t EvictToWatermark(uint32_t limit, const EndedSink& each) override;
  [[nodiscard]] uint64_t highWatermark() const override;
  [[nodiscard]] uint64_t lowWatermark() const override;
  [[nodiscard]] Explanation Explain(std::string_view key) const override;
  [[nodiscard]] Explanation ExplainSlot(uint32_t slot, uint64_t generation) const override;

  void AttachSpill(SpillSpace* space) override { spillSpace_ = space; }
  void ForEachSpilled(const std::function<void(const ObjectView&, uint64_t spillOffset)>& each) const override;
  [[nodiscard]] std::optional<ObjectView> NextVictim(EvictionScope scope) const override;
  void End(uint32_t slot, EndReason reason, const EndedSink& each, EvictCause cause) override;
  void BeginSpill(uint32_t slot) override;
  [[nodiscard]] bool EndSpill(uint32_t slot, uint64_t spillOffset) override;
  void AbortSpill(uint32_t slot) override;
  [[nodiscard]] Status BeginBringBack(uint32_t slot, const EndedSink* evicted, ObjectView* object) override;
  bool EndBringBack(uint32_t slot, bool whole) override;
  [[nodiscard]] bool GatherFree(uint64_t bytes) override;
  [[nodiscard]] std::optional<ObjectView> NextSpilledVictim() const override;
  void ForEachSpilledVictim(const std::function<bool(const ObjectView&)>& each) const override;
  [[nodiscard]] std::optional<Pin> SpilledVictimAt(uint32_t slot, uint64_t spillOffset) const override;
  [[nodiscard]] uint64_t storeId() const override { return header_.storeId; }
  [[nodiscard]] const ObjectSlot& SlotAt(uint32_t slot) const override { return table_[slot]; }

  void ForEachSealed(const std::function<void(const ObjectView&)>& each) const override;
  uint32_t ForEachSealedFrom(uint32_t first, uint32_t slots,
                             const std::function<void(const ObjectView&)>& each) const override;
  [[nodiscard]] StoreUsage usage() const override;
  [[nodiscard]] uint64_t largestFreeBytes() const override { return arena_.largestFreeBytes(); }
  [[nodiscard]] bool HasFree(uint64_t bytes) const override { return arena_.HasFree(bytes); }
  [[nodiscard]] int memoryFd() const override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> memory() override { return map_.span(); }
  [[nodiscard]] std::span<std::byte> objectMemory() override { return map_.span().first(header_.tableOffset); }

  // Takes over what the slots say. Once, before any other call. In object_store_open.cc.
  [[nodiscard]] Status AdoptSlots();

 private:
  // What only this process knows of a slot.
  struct Local {
    ArenaAllocator::Handle extent = ArenaAllocator::kNone;
    ArenaAllocator::Handle incoming = ArenaAllocator::kNone;  // a spilled object's bytes come back into it
    uint32_t holds = 0;
    bool spilling = false;  // one of the holds is the SSD tier's
    bool used = false;      // touched or held since BeginSpill
    uint8_t counted = 0;    // Counted: in which sums the extent is
    uint64_t lastReadAtMs = 0;
  };
  enum Counted : uint8_t { kInHeld = 1, kInHardPinned = 2, kInReplicas = 4 };
  static constexpr uint32_t kSlotStep = 4096;  // by which the table grows
  static constexpr uint32_t kHistory = 1U << 16;

  [[nodiscard]] SlotState StateOf(uint32_t slot) const;
  void SetState(uint32_t slot, SlotState state);
  [[nodiscard]] bool IsVisible(uint32_t slot) const;  // kSealed or kSpilled
  [[nodiscard]] std::byte* BytesOf(uint32_t slot) const { return map_.data() + table_[slot].extentOffset; }
  [[nodiscard]] Status CheckVersion(uint32_t slot, uint64_t generation) const;
  [[nodiscard]] ObjectView ViewOf(uint32_t slot) const;
  [[nodiscard]] ObjectAttributes AttributesOf(uint32_t slot) const;
  [[nodiscard]] uint64_t PayloadBytesOf(uint32_t slot) const;
  [[nodiscard]] uint64_t ExpiresAt(uint32_t slot) const;  // UINT64_MAX: never
  [[nodiscard]] bool IsExpired(uint32_t slot) const;
  [[nodiscard]] uint32_t IndexOf(std::string_view key, uint64_t hash) const;
  [[nodiscard]] uint32_t TakeSlot(EvictionScope scope, const EndedSink* evicted);
  [[nodiscard]] bool OpenSlots(uint32_t slots);
  void GrowPrivate(uint32_t slots);
  [[nodiscard]] Status FindOpenedSlots();
  void Occupy(uint32_t slot, ArenaAllocator::Handle extent, std::string_view key, const ObjectAttributes& attributes);
  [[nodiscard]] Status ArenaFull(uint64_t bytes) const;
  [[nodiscard]] Status TableFull() const;
  [[nodiscard]] bool SlotFault(uint32_t slot) const;
  [[nodiscard]] std::vector<uint32_t> GoodSlots();
  void KeepNewest(std::vector<uint32_t>* slots);
  void DropOverlaps(std::vector<uint32_t>* slots);
  void RebuildOrder(const std::vector<uint32_t>& slots);
  [[nodiscard]] bool MoveFront(uint32_t slot, ArenaAllocator::Extent range,
                               std::vector<ArenaAllocator::Handle>* fillers);
  void Forget(uint32_t slot);
  void Retire(uint32_t slot);
  void FreeSlot(uint32_t slot);
  void UpdatePlace(uint32_t slot, bool oldest = false);
  void Count(uint32_t slot, Counted sum, bool in, uint64_t* total);
  void Note(uint32_t slot, EndReason reason, EvictCause cause = EvictCause::kNone);
  [[nodiscard]] std::string WhyGone(const std::optional<Ending>& ending) const;

  [[nodiscard]] LruLists::List ListFor(uint32_t slot) const;
  [[nodiscard]] uint32_t Victim(EvictionScope scope) const;
  [[nodiscard]] uint64_t EvictableBytes(EvictionScope scope) const;
  [[nodiscard]] Status MakeReplicaRoom(uint64_t bytes, const EndedSink* evicted);
  [[nodiscard]] ArenaAllocator::Handle TakeExtent(uint64_t bytes, EvictionScope scope, const EndedSink* evicted);
  [[nodiscard]] uint64_t CostOf(ArenaAllocator::Handle extent, EvictionScope scope) const;
  [[nodiscard]] std::string WhyEvictable(uint32_t slot, bool* evictable) const;

  Fd fd_;
  MappedMemory map_;
  StoreHeader header_;  // a private copy
  ObjectSlot* table_;   // in the mapping
  ArenaAllocator arena_;
  KeyIndex index_;  // sealed and spilled objects
  GrowingArray<Local> local_;
  LruLists lists_;
  ExpiryHeap expiry_;  // sealed and spilled objects with a ttl
  SteadyClock steadyClock_;
  const Clock* clock_ = &steadyClock_;
  SpillSpace* spillSpace_ = nullptr;
  EvictionPolicy policy_;
  std::deque<uint32_t> freeSlots_;  // used before, free now; the last freed is the next taken
  uint32_t slotsTouched_ = 0;       // slots from here on were never used
  uint32_t slotsOpened_ = 0;        // as StoreProgress says
  std::vector<Ending> history_;     // a ring of kHistory
  uint64_t endings_ = 0;            // ever; the next one is at endings_ % kHistory
  StoreUsage counts_;               // all but what the arena and the lists know
};

}  // namespace hbmesh
