// What happens to a slot whose object moves to the SSD tier and back.
//
// A spilled object keeps its slot, so that its owner's record stays right, and a small extent with header, blob sizes
// and key. That extent is a new one: what is left of the old one would not be wide enough for the next object of the
// same size. While the slot changes from memory to the tier, or back, its state is kDropped: killed in these few
// stores, that one object is lost, which is no worse than its eviction. Moving what memory has of many (GatherFree)
// loses none.
#include <atomic>
#include <cstring>

#include "base/align.h"
#include "base/check.h"
#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {

void SharedObjectStore::ForEachSpilled(const std::function<void(const ObjectView&, uint64_t spillOffset)>& each) const {
  for (uint32_t slot = 0; slot < slotsTouched_; slot++) {
    if (StateOf(slot) == SlotState::kSpilled) {
      each(ViewOf(slot), table_[slot].spillOffset);
    }
  }
}

std::optional<ObjectView> SharedObjectStore::NextVictim(EvictionScope scope) const {
  const uint32_t slot = Victim(scope);
  return slot == LruLists::kNone ? std::nullopt : std::optional(ViewOf(slot));
}

std::optional<ObjectView> SharedObjectStore::NextSpilledVictim() const {
  for (const LruLists::List list : {LruLists::kSpilled, LruLists::kSpilledSoftPinned}) {
    if (lists_.oldest(list) != LruLists::kNone) {
      return ViewOf(lists_.oldest(list));
    }
  }
  return std::nullopt;
}

void SharedObjectStore::ForEachSpilledVictim(const std::function<bool(const ObjectView&)>& each) const {
  for (const LruLists::List list : {LruLists::kSpilled, LruLists::kSpilledSoftPinned}) {
    for (uint32_t slot = lists_.oldest(list); slot != LruLists::kNone; slot = lists_.after(slot)) {
      if (!each(ViewOf(slot))) {
        return;
      }
    }
  }
}

std::optional<Pin> SharedObjectStore::SpilledVictimAt(uint32_t slot, uint64_t spillOffset) const {
  if (slot >= slotsTouched_ || table_[slot].spillOffset != spillOffset) {
    return std::nullopt;
  }
  const LruLists::List list = lists_.listOf(slot);
  const bool isVictim = list == LruLists::kSpilled || list == LruLists::kSpilledSoftPinned;
  return isVictim ? std::optional(AttributesOf(slot).pin) : std::nullopt;
}

void SharedObjectStore::BeginSpill(uint32_t slot) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) == SlotState::kSealed && !local_[slot].spilling,
               "a sealed object is spilled");
  Hold(slot);
  local_[slot].spilling = true;
  local_[slot].used = false;
}

bool SharedObjectStore::EndSpill(uint32_t slot, uint64_t spillOffset) {
  Local& local = local_[slot];
  HBMESH_CHECK(slot < slotsTouched_ && local.spilling && spillOffset != 0, "the object was being spilled");
  local.spilling = false;
  if (StateOf(slot) != SlotState::kSealed || local.holds > 1 || local.used || IsExpired(slot)) {
    Release(slot);
    return false;
  }
  Note(slot, EndReason::kSpilled);
  std::byte* before = BytesOf(slot);
  const std::vector<std::byte> front(before, before + object_format::HeaderAt(before).payloadOffset);
  local.holds--;
  counts_.holds--;
  SetState(slot, SlotState::kDropped);
  UpdatePlace(slot);
  Count(slot, kInReplicas, false, &counts_.replicaBytes);  // the extent's size changes
  arena_.Free(local.extent);
  local.extent = arena_.Allocate(front.size());
  HBMESH_CHECK(local.extent != ArenaAllocator::kNone, "the front of an object fits where all of it was");
  arena_.SetOwner(local.extent, slot);
  const ArenaAllocator::Extent place = arena_.extent(local.extent);
  table_[slot].extentOffset = header_.arenaOffset + place.offset;
  table_[slot].extentBytes = place.bytes;
  table_[slot].spillOffset = spillOffset;
  std::memcpy(BytesOf(slot), front.data(), front.size());
  SetState(slot, SlotState::kSpilled);
  counts_.spilledObjects++;
  counts_.spilledBytes += PayloadBytesOf(slot);
  counts_.spilledIndexBytes += place.bytes;
  UpdatePlace(slot);
  return true;
}

void SharedObjectStore::AbortSpill(uint32_t slot) {
  HBMESH_CHECK(slot < slotsTouched_ && local_[slot].spilling, "the object was being spilled");
  local_[slot].spilling = false;
  if (StateOf(slot) != SlotState::kSealed || local_[slot].holds > 1) {
    Release(slot);
    return;
  }
  local_[slot].holds--;
  counts_.holds--;
  UpdatePlace(slot, true);
}

Status SharedObjectStore::BeginBringBack(uint32_t slot, const EndedSink* evicted, ObjectView* object) {
  Local& local = local_[slot];
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) == SlotState::kSpilled && local.incoming == ArenaAllocator::kNone,
               "a spilled object is brought back once");
  const ObjectHeader& header = object_format::HeaderAt(BytesOf(slot));
  const uint64_t payloadOffset = header.payloadOffset;
  const uint64_t bytes = payloadOffset + header.payloadBytes;
  Hold(slot);  // what makes room now can't be this one
  const ArenaAllocator::Handle extent = TakeExtent(bytes, EvictionScope::kSoftPinned, evicted);
  if (extent == ArenaAllocator::kNone) {
    const Status full = ArenaFull(bytes);
    local.holds--;
    counts_.holds--;
    UpdatePlace(slot);
    return full;
  }
  local.incoming = extent;
  counts_.heldBytes += arena_.extent(extent).bytes;
  *object = ViewOf(slot);
  object->payloadFdOffset = header_.arenaOffset + arena_.extent(extent).offset + payloadOffset;
  object->payload = map_.data() + object->payloadFdOffset;
  return Status::Ok();
}

// Moves what memory has of a spilled object out of a range. At every moment its slot leads to a place that has it:
// killed in between, the object is where it was, or where it is to be. False: there is no other place.
bool SharedObjectStore::MoveFront(uint32_t slot, ArenaAllocator::Extent range,
                                  std::vector<ArenaAllocator::Handle>* fillers) {
  const uint64_t bytes = table_[slot].extentBytes;
  ArenaAllocator::Handle extent = arena_.Allocate(bytes);
  const auto isInside = [&] {
    const ArenaAllocator::Extent at = arena_.extent(extent);
    return at.offset < range.offset + range.bytes && range.offset < at.offset + at.bytes;
  };
  while (extent != ArenaAllocator::kNone && isInside()) {
    fillers->push_back(extent);  // where one that was moved before has been
    extent = arena_.Allocate(bytes);
  }
  if (extent == ArenaAllocator::kNone) {
    return false;
  }
  const ArenaAllocator::Extent place = arena_.extent(extent);
  HBMESH_CHECK(place.bytes == bytes, "sums and lists go by the extent's size");
  std::memcpy(map_.data() + header_.arenaOffset + place.offset, BytesOf(slot), bytes);
  // Release: whoever adopts the table and sees the new place sees the bytes there.
  std::atomic_ref(table_[slot].extentOffset).store(header_.arenaOffset + place.offset, std::memory_order_release);
  arena_.SetOwner(extent, slot);
  arena_.Free(local_[slot].extent);
  local_[slot].extent = extent;
  return true;
}

bool SharedObjectStore::GatherFree(uint64_t bytes) {
  if (arena_.HasFree(bytes)) {
    return true;
  }
  std::vector<ArenaAllocator::Handle> run;
  const auto cost = [&](ArenaAllocator::Handle at) {
    const uint32_t slot = arena_.owner(at);
    const bool moves =
        slot != ArenaAllocator::kNone && StateOf(slot) == SlotState::kSpilled && local_[slot].extent == at;
    return moves ? table_[slot].extentBytes : ArenaAllocator::kBlocked;
  };
  const uint32_t oldest = lists_.oldest(LruLists::kSpilled);
  const ArenaAllocator::Handle near = oldest == LruLists::kNone ? ArenaAllocator::kNone : local_[oldest].extent;
  if (counts_.spilledObjects == 0 || arena_.freeBytes() < bytes || !arena_.CheapestRun(bytes, cost, &run, near)) {
    return false;
  }
  if (run.empty()) {
    return arena_.BringForward(bytes);  // it is there, and HasFree did not look as far
  }
  ArenaAllocator::Extent range{};
  std::vector<ArenaAllocator::Handle> fillers = arena_.TakeFreeOf(run, bytes, &range);
  std::vector<uint32_t> slots;
  for (const ArenaAllocator::Handle at : run) {
    if (arena_.extent(at).offset < range.offset + range.bytes) {
      slots.push_back(arena_.owner(at));
    }
  }
  for (const uint32_t slot : slots) {
    if (!MoveFront(slot, range, &fillers)) {
      break;  // those before stay where they are now, which is as good
    }
  }
  for (const ArenaAllocator::Handle filler : fillers) {
    arena_.Free(filler);
  }
  return arena_.HasFree(bytes);
}

bool SharedObjectStore::EndBringBack(uint32_t slot, bool whole) {
  Local& local = local_[slot];
  HBMESH_CHECK(slot < slotsTouched_ && local.incoming != ArenaAllocator::kNone, "the object was being brought back");
  const ArenaAllocator::Handle incoming = local.incoming;
  const ArenaAllocator::Extent place = arena_.extent(incoming);
  counts_.heldBytes -= place.bytes;
  local.incoming = ArenaAllocator::kNone;
  if (!whole || StateOf(slot) != SlotState::kSpilled) {
    const bool dropped = StateOf(slot) != SlotState::kSpilled;
    arena_.Free(incoming);
    Release(slot);
    return whole && !dropped;
  }
  const uint64_t spillOffset = table_[slot].spillOffset;
  const ObjectHeader header = object_format::HeaderAt(BytesOf(slot));
  std::memcpy(map_.data() + header_.arenaOffset + place.offset, BytesOf(slot), header.payloadOffset);
  const uint32_t holdsBefore = local.holds;  // of others; they have seen no bytes yet
  local.holds = 0;
  SetState(slot, SlotState::kDropped);
  UpdatePlace(slot);
  Count(slot, kInReplicas, false, &counts_.replicaBytes);
  counts_.spilledIndexBytes -= table_[slot].extentBytes;
  arena_.Free(local.extent);
  local.extent = incoming;
  arena_.SetOwner(incoming, slot);
  table_[slot].extentOffset = header_.arenaOffset + place.offset;
  table_[slot].extentBytes = place.bytes;
  table_[slot].spillOffset = 0;
  SetState(slot, SlotState::kSealed);
  local.holds = holdsBefore;
  local.lastReadAtMs = clock_->NowMs();
  counts_.spilledObjects--;
  counts_.spilledBytes -= header.payloadBytes;
  counts_.broughtBack++;
  UpdatePlace(slot);
  Release(slot);
  if (spillSpace_ != nullptr) {
    spillSpace_->FreeSpilled(spillOffset, header.payloadBytes);
  }
  return true;
}

}  // namespace hbmesh
