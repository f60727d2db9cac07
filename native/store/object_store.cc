// What a kill at any instruction leaves behind is decided by the order of stores to shared memory: a slot's state is
// written last when an object comes to be (everything below it is whole then), and first when it goes. Shared memory
// survives the process, so that no more than this order is needed; the state's release stores keep it.
#include "store/object_store.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "base/align.h"
#include "base/check.h"
#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {

static_assert(std::atomic_ref<uint32_t>::is_always_lock_free, "another process reads the state after a kill");
static_assert(ArenaAllocator::kAlignment == object_format::kAlignment);

SharedObjectStore::SharedObjectStore(Fd fd, MappedMemory map)
    : fd_(std::move(fd)),
      map_(std::move(map)),
      header_(*reinterpret_cast<const StoreHeader*>(map_.data())),
      table_(reinterpret_cast<ObjectSlot*>(map_.data() + header_.tableOffset)),
      arena_(header_.arenaBytes),
      local_(header_.slots),
      lists_(header_.slots),
      expiry_(header_.slots) {}

SlotState SharedObjectStore::StateOf(uint32_t slot) const { return static_cast<SlotState>(table_[slot].state); }

void SharedObjectStore::SetState(uint32_t slot, SlotState state) {
  // Release: whoever adopts the table and sees this state also sees what was written before it.
  std::atomic_ref<uint32_t>(table_[slot].state).store(static_cast<uint32_t>(state), std::memory_order_release);
}

ObjectView SharedObjectStore::ViewOf(uint32_t slot) const {
  std::byte* at = BytesOf(slot);
  const ObjectHeader& header = object_format::HeaderAt(at);
  ObjectView view;
  view.slot = slot;
  view.generation = table_[slot].generation;
  view.state = StateOf(slot);
  view.key = object_format::KeyAt(at);
  view.blobSizes = object_format::BlobSizesAt(at);
  view.payloadBytes = header.payloadBytes;
  // After a drop in the middle of its life in the tier, too, there is no payload here.
  if (table_[slot].spillOffset == 0) {
    view.payload = at + header.payloadOffset;
    view.payloadFdOffset = table_[slot].extentOffset + header.payloadOffset;
  }
  view.sealedAtMs = table_[slot].sealedAtMs;
  view.attributes = AttributesOf(slot);
  view.expiresAtMs = view.attributes.ttlMs == 0 || !IsVisible(slot) ? 0 : ExpiresAt(slot);
  if ((header.flags & kObjectHasPayloadCrc) != 0) {
    view.payloadCrc32c = header.payloadCrc32c;
  }
  return view;
}

uint32_t SharedObjectStore::IndexOf(std::string_view key, uint64_t hash) const {
  return index_.Find(
      hash, [&](uint32_t slot) { return table_[slot].keyHash == hash && object_format::KeyAt(BytesOf(slot)) == key; });
}

uint32_t SharedObjectStore::TakeSlot(EvictionScope scope, const EndedSink* evicted) {
  if (freeSlots_.empty() && OpenSlots(slotsTouched_ + 1)) {
    return slotsTouched_++;
  }
  if (freeSlots_.empty() && evicted != nullptr) {
    // Spilling would free no slot: a spilled object keeps its own. It is the least loss after a replica.
    uint32_t slot = lists_.oldest(LruLists::kReplicas);
    if (slot == LruLists::kNone && scope != EvictionScope::kReplicas) {
      slot = lists_.oldest(LruLists::kSpilled);
    }
    slot = slot == LruLists::kNone ? Victim(scope) : slot;
    if (slot != LruLists::kNone) {
      End(slot, EndReason::kEvicted, *evicted, EvictCause::kTableFull);
    }
  }
  if (freeSlots_.empty()) {
    return KeyIndex::kNone;
  }
  const uint32_t slot = freeSlots_.back();
  freeSlots_.pop_back();
  return slot;
}

uint64_t ObjectStore::ExtentBytes(std::string_view key, std::span<const uint64_t> blobSizes) {
  uint64_t bytes = object_format::PayloadOffset(blobSizes.size(), key.size());
  for (const uint64_t blob : blobSizes) {
    bytes += blob;
  }
  return AlignUp(bytes, ArenaAllocator::kAlignment);
}

Status SharedObjectStore::ArenaFull(uint64_t bytes) const {
  return {StatusCode::kOutOfMemory,
          "the arena has no room for " + std::to_string(bytes) + " bytes: " + std::to_string(arena_.usedBytes()) +
              " of " + std::to_string(arena_.arenaBytes()) + " are used, " + std::to_string(counts_.heldBytes) +
              " of them held by transfers, " + std::to_string(counts_.hardPinnedBytes) + " hard pinned, " +
              std::to_string(EvictableBytes(EvictionScope::kSoftPinned)) + " could be evicted; " +
              std::to_string(arena_.freeBytes()) + " are free, the largest piece " +
              std::to_string(arena_.largestFreeBytes()) +
              "; delete objects, unpin some, or start the worker with a larger arena"};
}

Status SharedObjectStore::TableFull() const {
  const std::string full = "the object table is full: " + std::to_string(slotsTouched_) + " of " +
                           std::to_string(header_.slots) + " slots are used, " + std::to_string(counts_.objects) +
                           " by sealed objects";
  const bool noPages = slotsTouched_ < header_.slots;
  return {StatusCode::kOutOfMemory,
          full + (noPages ? ", and no huge page is free for more; raise vm.nr_hugepages, or delete objects"
                          : "; delete objects, or start the worker with a larger arena")};
}

Status SharedObjectStore::Allocate(std::string_view key, std::span<const uint64_t> blobSizes, ObjectView* object,
                                   const ObjectAttributes& attributes, const EndedSink* evicted) {
  if (key.empty() || key.size() > object_format::kKeyBytesMax || blobSizes.empty() || blobSizes.size() > UINT32_MAX) {
    return {StatusCode::kInvalid, "an object has a key of 1 to 65535 bytes and at least one blob; got " +
                                      std::to_string(key.size()) + " bytes and " + std::to_string(blobSizes.size()) +
                                      " blobs"};
  }
  uint64_t payloadBytes = 0;
  for (const uint64_t bytes : blobSizes) {
    // An object larger than the arena is refused below; here only sums that leave no room for the header.
    if (bytes == 0 || !AddChecked(payloadBytes, bytes, &payloadBytes) || payloadBytes > INT64_MAX) {
      return {StatusCode::kInvalid,
              "a blob has at least 1 byte, and all of an object less than 2^63; one has " + std::to_string(bytes)};
    }
  }
  const uint64_t bytes = object_format::PayloadOffset(blobSizes.size(), key.size()) + payloadBytes;
  const EvictionScope scope = attributes.replica ? EvictionScope::kReplicas : EvictionScope::kSoftPinned;
  if (attributes.replica) {
    if (Status status = MakeReplicaRoom(bytes, evicted); !status.ok()) {
      return status;
    }
  }
  const ArenaAllocator::Handle extent = TakeExtent(bytes, scope, evicted);
  if (extent == ArenaAllocator::kNone) {
    return ArenaFull(bytes);
  }
  const uint32_t slot = TakeSlot(scope, evicted);
  if (slot == KeyIndex::kNone) {
    arena_.Free(extent);
    return TableFull();
  }
  Occupy(slot, extent, key, attributes);
  object_format::Write(BytesOf(slot), key, blobSizes, payloadBytes);
  SetState(slot, SlotState::kWriting);
  UpdatePlace(slot);
  *object = ViewOf(slot);
  return Status::Ok();
}

// Fills a slot whose state is kFree until all else is written.
void SharedObjectStore::Occupy(uint32_t slot, ArenaAllocator::Handle extent, std::string_view key,
                               const ObjectAttributes& attributes) {
  const ArenaAllocator::Extent place = arena_.extent(extent);
  arena_.SetOwner(extent, slot);
  local_[slot] = {.extent = extent};
  ObjectSlot& shared = table_[slot];
  shared.generation = 0;
  shared.extentOffset = header_.arenaOffset + place.offset;
  shared.extentBytes = place.bytes;
  shared.keyHash = object_format::HashOf(key);
  shared.sealedAtMs = 0;
  shared.ttlMs = attributes.ttlMs;
  shared.flags = static_cast<uint32_t>(attributes.pin) | (attributes.replica ? uint32_t{kSlotReplica} : 0);
  shared.spillOffset = 0;
}

void SharedObjectStore::SetPayloadCrc(uint32_t slot, uint32_t payloadCrc32c) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) == SlotState::kWriting, "the object is being written");
  auto* header = reinterpret_cast<ObjectHeader*>(BytesOf(slot));
  header->payloadCrc32c = payloadCrc32c;
  header->flags |= kObjectHasPayloadCrc;
}

void SharedObjectStore::MarkWritten(uint32_t slot, uint64_t generation) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) == SlotState::kWriting, "the object is being written");
  HBMESH_CHECK(generation != 0, "generation 0 means any");
  object_format::Finish(BytesOf(slot), generation);
  table_[slot].generation = generation;
  SetState(slot, SlotState::kWritten);
}

void SharedObjectStore::Seal(uint32_t slot, uint64_t nowMs) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) == SlotState::kWritten, "the object is written");
  const uint64_t hash = table_[slot].keyHash;
  const uint32_t before = IndexOf(object_format::KeyAt(BytesOf(slot)), hash);
  // An expired one is no object any more, whatever its generation.
  if (before != KeyIndex::kNone && table_[before].generation > table_[slot].generation && !IsExpired(before)) {
    Retire(slot);
    return;
  }
  table_[slot].sealedAtMs = nowMs;
  // From here on there may be two sealed slots under the key; if we are killed, Adopt keeps the higher generation: this
  // one.
  SetState(slot, SlotState::kSealed);
  if (before != KeyIndex::kNone) {
    Note(before, IsExpired(before) ? EndReason::kExpired : EndReason::kReplaced);
    Forget(before);
    Retire(before);
  }
  index_.Insert(hash, slot);
  if (table_[slot].ttlMs != 0) {
    expiry_.Insert(slot, ExpiresAt(slot));
  }
  counts_.objects++;
  UpdatePlace(slot);
}

Status SharedObjectStore::Drop(uint32_t slot, uint64_t generation) {
  if (slot >= header_.slots) {
    return {StatusCode::kOutOfRange,
            "slot " + std::to_string(slot) + " is not in the table of " + std::to_string(header_.slots) + " slots"};
  }
  const SlotState state = slot < slotsTouched_ ? StateOf(slot) : SlotState::kFree;
  if (state == SlotState::kFree || state == SlotState::kDropped ||
      (generation != 0 && generation != table_[slot].generation)) {
    return Status::Ok();
  }
  if (IsVisible(slot)) {
    Note(slot, EndReason::kDeleted);
    Forget(slot);
  }
  Retire(slot);
  return Status::Ok();
}

std::optional<ObjectView> SharedObjectStore::FindSealed(std::string_view key) const {
  const uint32_t slot = IndexOf(key, object_format::HashOf(key));
  return slot == KeyIndex::kNone || IsExpired(slot) ? std::nullopt : std::optional(ViewOf(slot));
}

Status SharedObjectStore::FindSlot(uint32_t slot, uint64_t generation, ObjectView* object) const {
  if (slot < slotsTouched_ && generation != 0 && table_[slot].generation == generation &&
      (StateOf(slot) == SlotState::kWritten || (IsVisible(slot) && !IsExpired(slot)))) {
    *object = ViewOf(slot);
    return StateOf(slot) != SlotState::kSpilled
               ? Status::Ok()
               : Status(StatusCode::kNotReady, "the object is on the SSD tier: bring it back, then try again");
  }
  return {StatusCode::kTryAgain, "slot " + std::to_string(slot) + " no longer holds generation " +
                                     std::to_string(generation) +
                                     ": the object was deleted or replaced; look the key up again"};
}

void SharedObjectStore::Hold(uint32_t slot) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) != SlotState::kFree, "an object is there");
  local_[slot].holds++;
  local_[slot].used = true;
  counts_.holds++;
  UpdatePlace(slot);
}

void SharedObjectStore::Release(uint32_t slot) {
  HBMESH_CHECK(slot < slotsTouched_ && local_[slot].holds > 0, "the object is held");
  local_[slot].holds--;
  counts_.holds--;
  if (local_[slot].holds == 0 && StateOf(slot) == SlotState::kDropped) {
    FreeSlot(slot);
  } else {
    UpdatePlace(slot);
  }
}

void SharedObjectStore::ForEachSealed(const std::function<void(const ObjectView&)>& each) const {
  (void)ForEachSealedFrom(0, UINT32_MAX, each);
}

uint32_t SharedObjectStore::ForEachSealedFrom(uint32_t first, uint32_t slots,
                                              const std::function<void(const ObjectView&)>& each) const {
  const auto end = static_cast<uint32_t>(std::min<uint64_t>(slotsTouched_, uint64_t{first} + slots));
  for (uint32_t slot = first; slot < end; slot++) {
    if (IsVisible(slot)) {
      each(ViewOf(slot));
    }
  }
  return end < slotsTouched_ ? end : 0;
}

StoreUsage SharedObjectStore::usage() const {
  StoreUsage usage = counts_;
  usage.arenaBytes = arena_.arenaBytes();
  usage.usedBytes = arena_.usedBytes();
  usage.evictableBytes = EvictableBytes(EvictionScope::kSoftPinned);
  usage.slots = header_.slots;
  usage.usedSlots = slotsTouched_ - freeSlots_.size();
  usage.tableBytes = AlignUp(uint64_t{slotsOpened_} * sizeof(ObjectSlot),
                             (header_.flags & kStoreHugePages) != 0 ? kHugePageBytes : kStorePageBytes);
  usage.indexBytes = index_.bytes() + local_.bytes() + lists_.memoryBytes() + expiry_.memoryBytes() +
                     arena_.memoryBytes() + freeSlots_.size() * sizeof(uint32_t);
  return usage;
}

// The key no longer leads to this sealed or spilled slot.
void SharedObjectStore::Forget(uint32_t slot) {
  index_.Remove(table_[slot].keyHash, slot);
  expiry_.Remove(slot);
  counts_.objects--;
  if (StateOf(slot) == SlotState::kSpilled) {
    counts_.spilledObjects--;
    counts_.spilledBytes -= PayloadBytesOf(slot);
    counts_.spilledIndexBytes -= table_[slot].extentBytes;
  }
}

// Frees the slot, now or after the last hold. REQUIRES: no key leads to it.
void SharedObjectStore::Retire(uint32_t slot) {
  SetState(slot, SlotState::kDropped);
  if (local_[slot].holds == 0) {
    FreeSlot(slot);
  } else {
    UpdatePlace(slot);
  }
}

void SharedObjectStore::FreeSlot(uint32_t slot) {
  const uint64_t spillOffset = table_[slot].spillOffset;
  const uint64_t payloadBytes = PayloadBytesOf(slot);
  SetState(slot, SlotState::kFree);
  table_[slot].generation = 0;  // a stale reader's generation can't match
  table_[slot].spillOffset = 0;
  UpdatePlace(slot);
  arena_.Free(local_[slot].extent);
  if (local_[slot].incoming != ArenaAllocator::kNone) {
    arena_.Free(local_[slot].incoming);
  }
  local_[slot] = {};
  freeSlots_.push_back(slot);
  if (spillOffset != 0 && spillSpace_ != nullptr) {
    spillSpace_->FreeSpilled(spillOffset, payloadBytes);
  }
}

}  // namespace hbmesh
