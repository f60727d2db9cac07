// The one implementation of ObjectStore. Internal to this folder: object_store.cc has the operations,
// object_store_open.cc makes and adopts stores.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mapped_memory.h"
#include "store/arena_allocator.h"
#include "store/key_index.h"
#include "store/object_store.h"

namespace hbmesh {

inline constexpr uint64_t kStoreHeaderBytes = 4096;

class SharedObjectStore final : public ObjectStore {
 public:
  SharedObjectStore(Fd fd, MappedMemory map);

  [[nodiscard]] Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes, ObjectView* object) override;
  void SetPayloadCrc(uint32_t slot, uint32_t payloadCrc32c) override;
  void MarkWritten(uint32_t slot, uint64_t generation) override;
  void Seal(uint32_t slot, uint64_t nowMs) override;
  Status Drop(uint32_t slot, uint64_t generation) override;
  [[nodiscard]] std::optional<ObjectView> FindSealed(std::string_view key) const override;
  [[nodiscard]] Status FindSlot(uint32_t slot, uint64_t generation, ObjectView* object) const override;
  void Hold(uint32_t slot) override;
  void Release(uint32_t slot) override;
  void ForEachSealed(const std::function<void(const ObjectView&)>& each) const override;
  [[nodiscard]] StoreUsage usage() const override;
  [[nodiscard]] int memoryFd() const override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> memory() override { return map_.span(); }

  // Takes over what the slots say. Once, before any other call. In object_store_open.cc.
  void AdoptSlots();

 private:
  // What only this process knows of a slot.
  struct Local {
    ArenaAllocator::Handle extent = ArenaAllocator::kNone;
    uint32_t holds = 0;
    bool pinned = false;  // counted in heldBytes
  };

  [[nodiscard]] SlotState StateOf(uint32_t slot) const;
  void SetState(uint32_t slot, SlotState state);
  [[nodiscard]] std::byte* BytesOf(uint32_t slot) const { return map_.data() + table_[slot].extentOffset; }
  [[nodiscard]] ObjectView ViewOf(uint32_t slot) const;
  [[nodiscard]] uint32_t IndexOf(std::string_view key, uint64_t hash) const;
  [[nodiscard]] uint32_t TakeSlot();
  [[nodiscard]] Status ArenaFull(uint64_t bytes) const;
  [[nodiscard]] bool SlotFault(uint32_t slot) const;
  void KeepNewest(std::vector<uint32_t>* slots);
  void DropOverlaps(std::vector<uint32_t>* slots);
  void Forget(uint32_t slot);
  void Retire(uint32_t slot);
  void FreeSlot(uint32_t slot);
  void UpdatePinned(uint32_t slot);

  Fd fd_;
  MappedMemory map_;
  StoreHeader header_;  // a private copy
  ObjectSlot* table_;   // in the mapping
  ArenaAllocator arena_;
  KeyIndex index_;  // sealed objects
  std::vector<Local> local_;
  std::vector<uint32_t> freeSlots_;  // used before, free now; the last freed is the next taken
  uint32_t slotsTouched_ = 0;        // slots from here on were never used
  uint64_t objects_ = 0;
  uint64_t holds_ = 0;
  uint64_t heldBytes_ = 0;
  uint64_t damaged_ = 0;
};

}  // namespace hbmesh
