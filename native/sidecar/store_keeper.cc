#include "sidecar/store_keeper.h"

#include <algorithm>
#include <utility>

#include "sidecar/object_call.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint32_t kEndedPerTurn = 1'024;  // so that the loop goes on
constexpr size_t kBatchKeysMax = 4'096;    // of one message
constexpr uint64_t kTierReserve = 16;      // this part of the SSD tier's room is not promised: records are rounded up

}  // namespace

StoreKeeper::StoreKeeper(ObjectStore& store, ControlPort& control, PeerLinks& peers, Clock& clock, Timers& timers)
    : store_(store), control_(control), peers_(peers), clock_(clock), timers_(timers), sink_([this](const auto& ended) {
        gone_.push_back({std::string(ended.key), ended.generation, ended.slot, true});
      }) {
  store_.SetClock(&clock);
}

Status StoreKeeper::Allocate(std::string_view key, std::span<const uint64_t> blobSizes,
                             const ObjectAttributes& attributes, ObjectView* object) {
  return store_.Allocate(key, blobSizes, object, attributes, &sink_);
}

Status StoreKeeper::TryAllocate(std::string_view key, std::span<const uint64_t> blobSizes,
                                const ObjectAttributes& attributes, ObjectView* object) {
  if (tier_ == nullptr) return Allocate(key, blobSizes, attributes, object);
  Status status = store_.Allocate(key, blobSizes, object, attributes, nullptr);
  const bool tooLarge = ObjectStore::ExtentBytes(key, blobSizes) > store_.usage().arenaBytes;
  if (status.code() != StatusCode::kOutOfMemory || tooLarge) return status;
  return {StatusCode::kTryAgain, status.message()};
}

Status StoreKeeper::AllocateInRoom(std::string_view key, std::span<const uint64_t> blobSizes,
                                   const ObjectAttributes& attributes, ObjectView* object) {
  const uint64_t bytes = ObjectStore::ExtentBytes(key, blobSizes);
  const uint64_t most = store_.highWatermark();
  const Status full(StatusCode::kNoSpace, std::to_string(bytes) + " bytes are wanted, and there is room for " +
                                              std::to_string(RoomBytes()) + " without pushing others out");
  if (bytes > most || bytes > RoomBytes()) return full;
  if (store_.usage().usedBytes > most - bytes) {
    (void)store_.EvictTo(most - bytes, UINT32_MAX, sink_, EvictionScope::kReplicas);
  }
  if (tier_ != nullptr) return TryAllocate(key, blobSizes, attributes, object);
  const Status status = store_.Allocate(key, blobSizes, object, attributes, nullptr);
  // What is free is in pieces that are too small.
  return status.code() == StatusCode::kOutOfMemory ? full : status;
}

uint64_t StoreKeeper::RoomBytes() const {
  const StoreUsage usage = store_.usage();
  const uint64_t kept = usage.usedBytes - std::min(usage.usedBytes, usage.replicaBytes);
  uint64_t room = store_.highWatermark() - std::min(store_.highWatermark(), kept);
  if (tier_ != nullptr) {
    const SpillUsage tier = tier_->usage();
    const uint64_t left = tier.fileBytes - tier.usedBytes;
    room += left - left / kTierReserve;
  }
  return room;
}

bool StoreKeeper::Flush() {
  if (gone_.empty()) return false;
  const std::vector<Gone> all = std::exchange(gone_, {});
  // The owners hear from the next control process what is held: nothing is lost with those that can't be told now.
  if (!control_.connected()) return true;
  for (size_t at = 0; at < all.size(); at += kBatchKeysMax) {
    const auto part = std::span(all).subspan(at, std::min(kBatchKeysMax, all.size() - at));
    std::vector<std::string_view> keys;
    for (const Gone& one : part) keys.push_back(one.key);
    Question question;
    question.op = layout::Op::kForgetLocations;
    question.count = static_cast<uint32_t>(part.size());
    question.args[1] = static_cast<uint64_t>(layout::Family::kHost);
    question.payload = MakeKeyBatch(keys);
    for (const Gone& one : part) {
      layout::ResultRecord record{};
      record.generation = one.generation;
      record.flags = one.whole ? uint32_t{layout::kExisted} : 0;
      record.locationCount = 1;
      record.locations[0] = {peers_.self(), one.slot};
      const auto* bytes = reinterpret_cast<const std::byte*>(&record);
      question.payload.insert(question.payload.end(), bytes, bytes + sizeof(record));
    }
    control_.Tell(std::move(question));
  }
  return true;
}

bool StoreKeeper::Poll() {
  uint32_t ended = 0;
  const uint64_t nowMs = clock_.NowMs();
  if (store_.nextExpiryMs() <= nowMs) ended += store_.CollectExpired(nowMs, kEndedPerTurn, sink_);
  if (sealed_ && tier_ != nullptr) {
    tier_->Balance();
    sealed_ = false;
  } else if (sealed_) {
    const uint32_t evicted = store_.EvictToWatermark(kEndedPerTurn, sink_);
    sealed_ = evicted == kEndedPerTurn;
    ended += evicted;
  }
  const bool moved = tier_ != nullptr && tier_->Poll();
  ArmExpiry();
  return Flush() || ended != 0 || moved;
}

void StoreKeeper::ArmExpiry() {
  const uint64_t nextMs = store_.nextExpiryMs();
  if (nextMs == armedForMs_) return;
  timers_.Cancel(expiry_);
  armedForMs_ = nextMs;
  if (nextMs == UINT64_MAX || nextMs > UINT64_MAX / kNsPerMs - 1) return;
  // The loop's next turn does the work.
  expiry_ = timers_.Add((nextMs + 1) * kNsPerMs, [this] {
    expiry_ = {};
    armedForMs_ = UINT64_MAX;
  });
}

void DropOlderThan(ObjectStore& store, std::string_view key, uint64_t generation) {
  const auto sealed = store.FindSealed(key);
  if (!sealed.has_value() || sealed->generation >= generation) return;
  (void)store.Drop(sealed->slot, sealed->generation).ok();
}

}  // namespace hbmesh::sidecar
