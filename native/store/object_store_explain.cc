// Why an object is there, may go, or is gone.
#include <algorithm>
#include <string>

#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {

std::string_view EndReasonName(EndReason reason) {
  switch (reason) {
    case EndReason::kEvicted:
      return "evicted";
    case EndReason::kExpired:
      return "expired";
    case EndReason::kDeleted:
      return "deleted";
    case EndReason::kReplaced:
      return "replaced";
    case EndReason::kSpilled:
      return "spilled";
    case EndReason::kLost:
      return "lost";
  }
  return "ended";
}

std::string_view EvictCauseName(EvictCause cause) {
  switch (cause) {
    case EvictCause::kNone:
      break;
    case EvictCause::kMemoryFull:
      return "memory full";
    case EvictCause::kTableFull:
      return "object table full";
    case EvictCause::kTierFull:
      return "SSD tier full";
    case EvictCause::kTierIndexFull:
      return "index of the SSD tier full";
    case EvictCause::kTierFault:
      return "SSD tier not writable";
    case EvictCause::kTierTooSmall:
      return "larger than the SSD tier";
    case EvictCause::kReplicaShare:
      return "share of replicas full";
  }
  return "";
}

namespace {

// The latest of the endings that `is` picks.
template <typename Is>
std::optional<Ending> LastEnding(const std::vector<Ending>& history, uint64_t endings, Is is) {
  for (uint64_t i = 0; i < std::min<uint64_t>(endings, history.size()); i++) {
    const Ending& ending = history[(endings - 1 - i) % history.size()];
    if (is(ending)) {
      return ending;
    }
  }
  return std::nullopt;
}

// What there was too little of, and what to do.
std::string WhyEvicted(EvictCause cause) {
  switch (cause) {
    case EvictCause::kTableFull:
      return ": the object table was full; start the worker with a larger arena, or with more free huge pages";
    case EvictCause::kTierFull:
      return ": memory and SSD tier were full; start the worker with a larger --spill_mb";
    case EvictCause::kTierIndexFull:
      return ": what memory has of each object on the SSD tier took half of it; start the worker with a larger arena";
    case EvictCause::kTierFault:
      return ": memory was full and the SSD tier could not be written; see the worker's log";
    case EvictCause::kTierTooSmall:
      return ": memory was full and the object is larger than the SSD tier; start the worker with a larger --spill_mb";
    case EvictCause::kReplicaShare:
      return ": a replica, and replicas took all that they may; see --replica_percent";
    default:
      return " to make room for others: memory was full; pin what must stay, or start the worker with a larger arena";
  }
}

}  // namespace

std::string SharedObjectStore::WhyGone(const std::optional<Ending>& ending) const {
  if (!ending.has_value()) {
    std::string text = "no such object here, and none among the last that ended";
    for (uint32_t cause = 1; endings_ > kHistory && cause < kEvictCauses; cause++) {
      if (counts_.evictedBy[cause] > 0) {
        text.append(text.ends_with("ended") ? "; evicted in all: " : ", ")
            .append(std::to_string(counts_.evictedBy[cause]))
            .append(" (")
            .append(EvictCauseName(static_cast<EvictCause>(cause)))
            .append(")");
      }
    }
    return text;
  }
  const uint64_t nowMs = clock_->NowMs();
  std::string text(EndReasonName(ending->reason));
  text.append(" ").append(std::to_string(nowMs - std::min(nowMs, ending->atMs))).append(" ms ago");
  switch (ending->reason) {
    case EndReason::kEvicted:
      return text + WhyEvicted(ending->cause);
    case EndReason::kExpired:
      return text + ": its time to live was over";
    case EndReason::kDeleted:
      return text + ": a delete, or its owner gave up this copy";
    case EndReason::kLost:
      return text + ": its bytes on the SSD tier could not be read back; see the worker's log";
    default:
      return text;
  }
}

std::string SharedObjectStore::WhyEvictable(uint32_t slot, bool* evictable) const {
  *evictable = false;
  const SlotState state = StateOf(slot);
  const uint32_t holds = local_[slot].holds;
  if (state == SlotState::kWriting || state == SlotState::kWritten) {
    return "can't be evicted: it is not set yet, its bytes or its owner's answer are on their way";
  }
  if (state == SlotState::kDropped) {
    return "gone; its bytes stay until the last of " + std::to_string(holds) + " transfers has ended";
  }
  if (local_[slot].spilling) {
    return "can't be evicted: it is being written to the SSD tier";
  }
  if (holds > 0) {
    return "can't be evicted: transfers hold it: " + std::to_string(holds);
  }
  const LruLists::List list = lists_.listOf(slot);
  *evictable = list != LruLists::kNoList;
  switch (list) {
    case LruLists::kReplicas:
      return "a replica: evicted before all others when room is needed";
    case LruLists::kUnpinned:
      return "evicted when room is needed and it is the least recently read";
    case LruLists::kSoftPinned:
      return "soft pinned: evicted only when no replica and no unpinned object is left";
    case LruLists::kSpilled:
    case LruLists::kSpilledSoftPinned:
      return "on the SSD tier: dropped when the tier is full and it is the least recently used there";
    default:
      return "can't be evicted: it is hard pinned";
  }
}

Explanation SharedObjectStore::ExplainSlot(uint32_t slot, uint64_t generation) const {
  Explanation told;
  told.slot = slot;
  if (slot >= slotsTouched_ || StateOf(slot) == SlotState::kFree ||
      (generation != 0 && table_[slot].generation != generation)) {
    told.generation = generation;
    if (generation != 0) {
      told.lastEnding =
          LastEnding(history_, endings_, [&](const Ending& ending) { return ending.generation == generation; });
    }
    told.reason = WhyGone(told.lastEnding);
    return told;
  }
  const ObjectView view = ViewOf(slot);
  told.where = view.state == SlotState::kSpilled ? Explanation::Where::kSpilled : Explanation::Where::kMemory;
  told.key = view.key;
  told.generation = view.generation;
  told.bytes = view.payloadBytes;
  told.blobSizes.assign(view.blobSizes.begin(), view.blobSizes.end());
  told.sealedAtMs = view.sealedAtMs;
  told.lastReadAtMs = local_[slot].lastReadAtMs;
  told.expiresAtMs = view.expiresAtMs;
  told.pin = view.attributes.pin;
  told.replica = view.attributes.replica;
  told.holds = local_[slot].holds;
  told.reason = WhyEvictable(slot, &told.evictable);
  const uint64_t hash = table_[slot].keyHash;
  told.lastEnding = LastEnding(history_, endings_, [&](const Ending& ending) { return ending.keyHash == hash; });
  return told;
}

Explanation SharedObjectStore::Explain(std::string_view key) const {
  const uint64_t hash = object_format::HashOf(key);
  const uint32_t slot = IndexOf(key, hash);
  if (slot != KeyIndex::kNone && !IsExpired(slot)) {
    return ExplainSlot(slot, 0);
  }
  Explanation told;
  told.key = key;
  told.lastEnding = LastEnding(history_, endings_, [&](const Ending& ending) { return ending.keyHash == hash; });
  if (slot != KeyIndex::kNone) {  // over, and not collected yet
    told.lastEnding = {.keyHash = hash,
                       .generation = table_[slot].generation,
                       .bytes = PayloadBytesOf(slot),
                       .atMs = ExpiresAt(slot),
                       .reason = EndReason::kExpired};
  }
  told.generation = told.lastEnding ? told.lastEnding->generation : 0;
  told.reason = WhyGone(told.lastEnding);
  return told;
}

}  // namespace hbmesh
