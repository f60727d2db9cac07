// How objects end by themselves: expiry, and eviction in the order replicas, unpinned, soft pinned, each by least
// recent use.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {
namespace {

// Lists that a scope allows, in order of eviction.
constexpr LruLists::List kOrder[] = {LruLists::kReplicas, LruLists::kUnpinned, LruLists::kSoftPinned};

// In CostOf: a soft pin is worth more than any number of unpinned bytes in an arena.
constexpr uint64_t kSoftPinCost = 1ULL << 43;
constexpr uint64_t kReplicaDiscount = 8;

// While room is made in order of use, at most this many times the bytes wanted are evicted; then it is the arena's
// fragmentation that stands in the way, and a run of neighbours is chosen instead.
constexpr uint64_t kOrderedShare = 2;

}  // namespace

Status SharedObjectStore::SetEvictionPolicy(const EvictionPolicy& policy) {
  if (policy.lowPercent == 0 || policy.lowPercent > policy.highPercent || policy.highPercent > 100 ||
      policy.replicaPercentMax > 100) {
    return {StatusCode::kInvalid, "watermarks of " + std::to_string(policy.lowPercent) + "% and " +
                                      std::to_string(policy.highPercent) + "%, replicas up to " +
                                      std::to_string(policy.replicaPercentMax) +
                                      "%: use 0 < low <= high <= 100, and at most 100% of replicas"};
  }
  policy_ = policy;
  return Status::Ok();
}

uint64_t SharedObjectStore::highWatermark() const { return header_.arenaBytes / 100 * policy_.highPercent; }
uint64_t SharedObjectStore::lowWatermark() const { return header_.arenaBytes / 100 * policy_.lowPercent; }

// ----- what the slots say -----

bool SharedObjectStore::IsVisible(uint32_t slot) const {
  const SlotState state = StateOf(slot);
  return state == SlotState::kSealed || state == SlotState::kSpilled;
}

ObjectAttributes SharedObjectStore::AttributesOf(uint32_t slot) const {
  const uint32_t flags = table_[slot].flags;
  return {.ttlMs = table_[slot].ttlMs,
          .pin = static_cast<Pin>(std::min<uint32_t>(flags & kSlotPinMask, static_cast<uint32_t>(Pin::kHard))),
          .replica = (flags & kSlotReplica) != 0};
}

uint64_t SharedObjectStore::PayloadBytesOf(uint32_t slot) const {
  return object_format::HeaderAt(BytesOf(slot)).payloadBytes;
}

uint64_t SharedObjectStore::ExpiresAt(uint32_t slot) const {
  const ObjectSlot& shared = table_[slot];
  return shared.ttlMs == 0 || shared.ttlMs > UINT64_MAX - shared.sealedAtMs ? UINT64_MAX
                                                                            : shared.sealedAtMs + shared.ttlMs;
}

bool SharedObjectStore::IsExpired(uint32_t slot) const {
  return table_[slot].ttlMs != 0 && IsVisible(slot) && clock_->NowMs() >= ExpiresAt(slot);
}

// ----- sums and lists -----

LruLists::List SharedObjectStore::ListFor(uint32_t slot) const {
  if (!IsVisible(slot) || local_[slot].holds > 0) {
    return LruLists::kNoList;
  }
  const ObjectAttributes attributes = AttributesOf(slot);
  if (attributes.pin == Pin::kHard) {
    return LruLists::kNoList;
  }
  const bool soft = attributes.pin == Pin::kSoft;
  if (StateOf(slot) == SlotState::kSpilled) {
    return soft ? LruLists::kSpilledSoftPinned : LruLists::kSpilled;
  }
  if (attributes.replica) {
    return LruLists::kReplicas;
  }
  return soft ? LruLists::kSoftPinned : LruLists::kUnpinned;
}

void SharedObjectStore::Count(uint32_t slot, Counted sum, bool in, uint64_t* total) {
  Local& local = local_[slot];
  if (in != ((local.counted & sum) != 0)) {
    local.counted = static_cast<uint8_t>(local.counted ^ sum);
    *total = in ? *total + table_[slot].extentBytes : *total - table_[slot].extentBytes;
  }
}

// Keeps the sums and the lists in step with the slot's state, attributes and holds. After each change of these, and
// before the extent changes.
void SharedObjectStore::UpdatePlace(uint32_t slot, bool oldest) {
  const SlotState state = StateOf(slot);
  const ObjectAttributes attributes = AttributesOf(slot);
  const bool unfinished = state == SlotState::kWriting || state == SlotState::kWritten;
  Count(slot, kInHeld, unfinished || local_[slot].holds > 0, &counts_.heldBytes);
  Count(slot, kInHardPinned, state == SlotState::kSealed && attributes.pin == Pin::kHard, &counts_.hardPinnedBytes);
  Count(slot, kInReplicas, state != SlotState::kFree && attributes.replica, &counts_.replicaBytes);
  const LruLists::List wanted = ListFor(slot);
  if (lists_.listOf(slot) == wanted) {
    return;
  }
  if (lists_.listOf(slot) != LruLists::kNoList) {
    lists_.Remove(slot);
  }
  if (wanted == LruLists::kNoList) {
    return;
  }
  if (oldest) {
    lists_.PutOldest(wanted, slot, table_[slot].extentBytes);
  } else {
    lists_.PutNewest(wanted, slot, table_[slot].extentBytes);
  }
}

void SharedObjectStore::Touch(uint32_t slot) {
  HBMESH_CHECK(slot < slotsTouched_ && StateOf(slot) != SlotState::kFree, "an object is there");
  local_[slot].lastReadAtMs = clock_->NowMs();
  local_[slot].used = true;
  const LruLists::List list = lists_.listOf(slot);
  if (list != LruLists::kNoList) {
    lists_.Remove(slot);
    lists_.PutNewest(list, slot, table_[slot].extentBytes);
  }
}

Status SharedObjectStore::CheckVersion(uint32_t slot, uint64_t generation) const {
  if (slot < slotsTouched_ && generation != 0 && table_[slot].generation == generation && IsVisible(slot) &&
      !IsExpired(slot)) {
    return Status::Ok();
  }
  return {StatusCode::kTryAgain, "slot " + std::to_string(slot) + " no longer holds generation " +
                                     std::to_string(generation) + ": look the key up again"};
}

Status SharedObjectStore::Promote(uint32_t slot, uint64_t generation) {
  if (Status status = CheckVersion(slot, generation); !status.ok()) {
    return status;
  }
  table_[slot].flags &= ~uint32_t{kSlotReplica};
  UpdatePlace(slot);
  return Status::Ok();
}

Status SharedObjectStore::SetPin(uint32_t slot, uint64_t generation, Pin pin) {
  if (Status status = CheckVersion(slot, generation); !status.ok()) {
    return status;
  }
  table_[slot].flags = (table_[slot].flags & ~uint32_t{kSlotPinMask}) | static_cast<uint32_t>(pin);
  UpdatePlace(slot);
  return Status::Ok();
}

// ----- endings -----

void SharedObjectStore::Note(uint32_t slot, EndReason reason, EvictCause cause) {
  if (history_.size() < kHistory) {
    history_.emplace_back();
  }
  history_[endings_++ % kHistory] = {.keyHash = table_[slot].keyHash,
                                     .generation = table_[slot].generation,
                                     .bytes = PayloadBytesOf(slot),
                                     .atMs = clock_->NowMs(),
                                     .reason = reason,
                                     .cause = cause};
  counts_.evictedBy[static_cast<uint32_t>(cause)]++;
  counts_.evicted += reason == EndReason::kEvicted ? 1 : 0;
  counts_.expired += reason == EndReason::kExpired ? 1 : 0;
  counts_.spilled += reason == EndReason::kSpilled ? 1 : 0;
  counts_.lost += reason == EndReason::kLost ? 1 : 0;
}

void SharedObjectStore::End(uint32_t slot, EndReason reason, const EndedSink& each, EvictCause cause) {
  HBMESH_CHECK(slot < slotsTouched_ && IsVisible(slot), "a sealed or spilled object ends");
  Note(slot, reason, cause);
  if (each) {
    each({.key = object_format::KeyAt(BytesOf(slot)),
          .slot = slot,
          .generation = table_[slot].generation,
          .bytes = PayloadBytesOf(slot),
          .reason = reason,
          .replica = AttributesOf(slot).replica});
  }
  Forget(slot);
  Retire(slot);
}

uint32_t SharedObjectStore::CollectExpired(uint64_t nowMs, uint32_t limit, const EndedSink& each) {
  uint32_t ended = 0;
  while (ended < limit && !expiry_.empty() && expiry_.first().atMs <= nowMs) {
    End(expiry_.first().slot, EndReason::kExpired, each, EvictCause::kNone);
    ended++;
  }
  return ended;
}

uint64_t SharedObjectStore::nextExpiryMs() const { return expiry_.empty() ? UINT64_MAX : expiry_.first().atMs; }

// ----- eviction -----

uint32_t SharedObjectStore::Victim(EvictionScope scope) const {
  for (uint32_t i = 0; i <= static_cast<uint32_t>(scope); i++) {
    if (lists_.oldest(kOrder[i]) != LruLists::kNone) {
      return lists_.oldest(kOrder[i]);
    }
  }
  return LruLists::kNone;
}

uint64_t SharedObjectStore::EvictableBytes(EvictionScope scope) const {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i <= static_cast<uint32_t>(scope); i++) {
    bytes += lists_.bytes(kOrder[i]);
  }
  if (scope != EvictionScope::kReplicas) {
    bytes += lists_.bytes(LruLists::kSpilled);
  }
  if (scope == EvictionScope::kSoftPinned) {
    bytes += lists_.bytes(LruLists::kSpilledSoftPinned);
  }
  return bytes;
}

uint32_t SharedObjectStore::EvictTo(uint64_t usedBytesMax, uint32_t limit, const EndedSink& each, EvictionScope scope) {
  uint32_t ended = 0;
  while (arena_.usedBytes() > usedBytesMax && ended < limit) {
    const uint32_t slot = Victim(scope);
    if (slot == LruLists::kNone) {
      break;
    }
    End(slot, EndReason::kEvicted, each, EvictCause::kMemoryFull);
    ended++;
  }
  return ended;
}

uint32_t SharedObjectStore::EvictToWatermark(uint32_t limit, const EndedSink& each) {
  return arena_.usedBytes() > highWatermark() ? EvictTo(lowWatermark(), limit, each, EvictionScope::kSoftPinned) : 0;
}

Status SharedObjectStore::MakeReplicaRoom(uint64_t bytes, const EndedSink* evicted) {
  const uint64_t most = header_.arenaBytes / 100 * policy_.replicaPercentMax;
  const auto fits = [&] { return counts_.replicaBytes <= most && bytes <= most - counts_.replicaBytes; };
  while (!fits() && bytes <= most && evicted != nullptr && lists_.oldest(LruLists::kReplicas) != LruLists::kNone) {
    End(lists_.oldest(LruLists::kReplicas), EndReason::kEvicted, *evicted, EvictCause::kReplicaShare);
  }
  if (fits()) {
    return Status::Ok();
  }
  return {StatusCode::kOutOfMemory, "no room for a replica of " + std::to_string(bytes) + " bytes: replicas take " +
                                        std::to_string(counts_.replicaBytes) + " of at most " + std::to_string(most) +
                                        "; read without keeping a copy, or raise the share of replicas"};
}

// What is lost if this taken block goes.
uint64_t SharedObjectStore::CostOf(ArenaAllocator::Handle extent, EvictionScope scope) const {
  const uint32_t slot = arena_.owner(extent);
  if (slot == ArenaAllocator::kNone) {
    return ArenaAllocator::kBlocked;
  }
  const bool unpinnedToo = scope != EvictionScope::kReplicas;
  const bool softToo = scope == EvictionScope::kSoftPinned;
  switch (lists_.listOf(slot)) {
    case LruLists::kReplicas:
      return table_[slot].extentBytes / kReplicaDiscount;
    case LruLists::kUnpinned:
      return unpinnedToo ? table_[slot].extentBytes : ArenaAllocator::kBlocked;
    case LruLists::kSpilled:
      return unpinnedToo ? PayloadBytesOf(slot) : ArenaAllocator::kBlocked;
    case LruLists::kSoftPinned:
    case LruLists::kSpilledSoftPinned:
      return softToo ? kSoftPinCost : ArenaAllocator::kBlocked;
    default:
      return ArenaAllocator::kBlocked;
  }
}

ArenaAllocator::Handle SharedObjectStore::TakeExtent(uint64_t bytes, EvictionScope scope, const EndedSink* evicted) {
  ArenaAllocator::Handle extent = arena_.Allocate(bytes);
  if (extent != ArenaAllocator::kNone || evicted == nullptr || bytes > arena_.arenaBytes()) {
    return extent;
  }
  const uint64_t nowMs = clock_->NowMs();
  while (extent == ArenaAllocator::kNone && CollectExpired(nowMs, 1, *evicted) > 0) {
    extent = arena_.Allocate(bytes);
  }
  if (extent != ArenaAllocator::kNone || arena_.freeBytes() + EvictableBytes(scope) < bytes) {
    return extent;
  }
  // One object that is long enough makes the room. Where it takes several, objects that can't go may stand in between:
  // then nothing is evicted in vain.
  std::vector<ArenaAllocator::Handle> run;
  const auto cost = [&](ArenaAllocator::Handle at) { return CostOf(at, scope); };
  const uint64_t orderedMax = kOrderedShare * bytes;
  uint64_t ordered = 0;
  bool checked = false;
  while (extent == ArenaAllocator::kNone && ordered < orderedMax) {
    const uint32_t slot = Victim(scope);
    if (slot == LruLists::kNone) {
      break;
    }
    if (!checked && table_[slot].extentBytes < bytes) {
      if (!arena_.CheapestRun(bytes, cost, &run, local_[slot].extent)) {
        return ArenaAllocator::kNone;
      }
      checked = true;
    }
    ordered += table_[slot].extentBytes;
    End(slot, EndReason::kEvicted, *evicted, EvictCause::kMemoryFull);
    extent = arena_.Allocate(bytes);
  }
  if (extent != ArenaAllocator::kNone) {
    return extent;
  }
  const uint32_t oldest = Victim(scope);
  const ArenaAllocator::Handle near = oldest == LruLists::kNone ? ArenaAllocator::kNone : local_[oldest].extent;
  if (!arena_.CheapestRun(bytes, cost, &run, near)) {
    return extent;
  }
  std::vector<uint32_t> slots;
  for (const ArenaAllocator::Handle at : run) {
    slots.push_back(arena_.owner(at));
  }
  for (const uint32_t slot : slots) {
    End(slot, EndReason::kEvicted, *evicted, EvictCause::kMemoryFull);
  }
  return arena_.Allocate(bytes);
}

}  // namespace hbmesh
