#include "store/spiller.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/log.h"

namespace hbmesh {
namespace {

// What 64 bytes of the tier cost when neighbours must go for a large object: 1 for those that were not used for
// longest, 2 for those after them, each as many as make what is wanted, and so on up to kOldShare of them. One soft pin
// costs more than everything without.
constexpr uint64_t kOldShare = 8;
constexpr size_t kOldMax = 4'096;
constexpr uint64_t kUsedCost = 16;
constexpr uint64_t kSoftPinCost = 1ULL << 43;

constexpr uint64_t kIndexShare = 2;

constexpr uint64_t kWritesMax = 64;  // under way at once; bounds what can't be evicted because it is being written

SpillIdentity IdentityOf(const ObjectStore& store, const ObjectView& object, uint64_t keyHash) {
  return {.storeId = store.storeId(),
          .generation = object.generation,
          .keyHash = keyHash,
          .payloadBytes = object.payloadBytes};
}

}  // namespace

Status Spiller::Open(const SpillOptions& options, ObjectStore& store, EndedSink ended, std::function<void()> wake,
                     std::unique_ptr<Spiller>* spiller) {
  std::unique_ptr<Spiller> made(new Spiller(store, std::move(ended), std::move(wake)));
  if (Status status = SpillTier::Open(options, store.storeId(), made.get(), &made->tier_); !status.ok()) {
    return status;
  }
  made->TakeOver();
  store.AttachSpill(made.get());
  const SpillFile& file = made->tier_->file();
  const char* cache = options.direct ? "through the page cache, because its file system refuses O_DIRECT" : "cached";
  Log().info("SSD tier: {} of {} bytes{}, {}, {}", file.path(), file.capacityBytes(),
             file.reopened() ? ", taken over with its objects" : "", made->tier_->ioName(),
             file.direct() ? "O_DIRECT" : cache);
  *spiller = std::move(made);
  return Status::Ok();
}

Spiller::~Spiller() {
  tier_.reset();  // from here on no thread calls OnSpillIo, and all jobs have completed
  store_.AttachSpill(nullptr);
  for (const auto& [token, status] : std::exchange(completed_, {})) {
    const Job job = std::move(jobs_.extract(token).mapped());
    if (job.op == SpillOp::kWrite) {
      store_.AbortSpill(job.slot);  // it is in memory still
    } else {
      (void)store_.EndBringBack(job.slot, false);
    }
  }
}

uint64_t Spiller::DropSpilled(ObjectStore& store, const EndedSink& ended) {
  std::vector<uint32_t> slots;
  store.ForEachSpilled([&](const ObjectView& object, uint64_t) { slots.push_back(object.slot); });
  for (const uint32_t slot : slots) {
    store.End(slot, EndReason::kLost, ended);
  }
  return slots.size();
}

// Spilled objects of an adopted store: their records are in the file if it is this store's.
void Spiller::TakeOver() {
  if (!tier_->file().reopened()) {
    if (const uint64_t lost = DropSpilled(store_, ended_); lost > 0) {
      Log().warn("SSD tier: {} spilled objects are lost: the file of their store is gone", lost);
    }
    return;
  }
  std::vector<uint32_t> slots;
  std::vector<SpillFile::Place> places;
  store_.ForEachSpilled([&](const ObjectView& object, uint64_t offset) {
    slots.push_back(object.slot);
    places.push_back({offset, object.payloadBytes, object.slot});
  });
  const std::vector<bool> good = tier_->file().Adopt(places);
  for (size_t i = 0; i < slots.size(); i++) {
    if (!good[i]) {
      Log().error("SSD tier: slot {} leads to a place that isn't its own: dropped", slots[i]);
      store_.End(slots[i], EndReason::kLost, ended_);
    }
  }
}

void Spiller::OnSpillIo(uint64_t token, Status status) {
  {
    const std::lock_guard lock(mutex_);
    completed_.emplace_back(token, std::move(status));
  }
  if (wake_) {
    wake_();
  }
}

void Spiller::FreeSpilled(uint64_t spillOffset, uint64_t /*payloadBytes*/) { tier_->file().Free(spillOffset); }

void Spiller::Poll() {
  std::vector<std::pair<uint64_t, Status>> completed;
  {
    const std::lock_guard lock(mutex_);
    completed.swap(completed_);
  }
  for (const auto& [token, status] : completed) {
    Take(token, status);
  }
  FinishAll();  // before others make room: what just came back is there
  Pump();
  ServeRooms();
  FinishAll();
}

void Spiller::FinishAll() {
  for (const auto& [ticket, status] : std::exchange(done_, {})) {
    Finish(ticket, status);
  }
}

void Spiller::Take(uint64_t token, const Status& status) {
  const Job job = std::move(jobs_.extract(token).mapped());
  if (job.op == SpillOp::kWrite) {
    Written(job, status);
  } else {
    WasRead(job, status);
  }
}

// ----- out -----

void Spiller::Written(const Job& job, const Status& status) {
  writing_--;
  writingBytes_ -= job.extentBytes;
  awaitsWrite_ = false;
  if (status.ok()) {
    if (!store_.EndSpill(job.slot, job.offset)) {
      tier_->file().Free(job.offset);  // it was read, dropped or replaced meanwhile
    }
    return;
  }
  tier_->file().Free(job.offset);
  store_.AbortSpill(job.slot);
  counts_.writeFaults++;
  if (std::has_single_bit(counts_.writeFaults)) {  // a broken disk must not fill the log as well
    Log().warn("SSD tier: {}; the object is dropped instead ({} such faults so far)", status.message(),
               counts_.writeFaults);
  }
  ObjectView object;
  if (store_.FindSlot(job.slot, job.generation, &object).ok() && store_.ExplainSlot(job.slot, 0).evictable) {
    store_.End(job.slot, EndReason::kEvicted, ended_, EvictCause::kTierFault);
  }
}

void Spiller::Balance() {
  if (store_.usage().usedBytes - std::min(store_.usage().usedBytes, writingBytes_) > store_.highWatermark()) {
    balancing_ = true;
    Pump();
  }
}

uint64_t Spiller::MakeRoom(uint64_t arenaBytes, uint64_t extentBytes, std::function<void()> done) {
  const uint64_t ticket = ++lastId_;
  rooms_.push_back({ticket, arenaBytes, extentBytes, 0, std::move(done)});
  Pump();
  if (wake_) {
    wake_();  // there may be nothing to wait for
  }
  return ticket;
}

bool Spiller::WantsRoom() const {
  const StoreUsage usage = store_.usage();
  const uint64_t usedSoon = usage.usedBytes - std::min(usage.usedBytes, writingBytes_);
  uint64_t wanted = 0;
  for (const Room& room : rooms_) {
    wanted += std::min(room.arenaBytes + room.moreBytes, usage.arenaBytes - std::min(wanted, usage.arenaBytes));
  }
  return (balancing_ && usedSoon > store_.lowWatermark()) || usage.arenaBytes - usedSoon < wanted;
}

void Spiller::Pump() {
  while (WantsRoom()) {
    if (writing_ >= kWritesMax || !SpillOne()) {
      break;
    }
  }
  const StoreUsage usage = store_.usage();
  const bool nothingLeft = writing_ == 0 && !store_.NextVictim(EvictionScope::kSoftPinned).has_value();
  if (balancing_ && (usage.usedBytes <= store_.lowWatermark() || nothingLeft)) {
    balancing_ = false;
  }
}

// Begins to write the next victim, or drops it. False: there is none now, or it must wait.
bool Spiller::SpillOne() {
  const std::optional<ObjectView> victim = store_.NextVictim(EvictionScope::kSoftPinned);
  if (!victim.has_value() || awaitsWrite_) {
    return false;
  }
  const bool fits = SpillRecordBytes(victim->payloadBytes) <= tier_->file().capacityBytes();
  if (victim->attributes.replica || !fits) {
    const EvictCause cause = fits ? EvictCause::kMemoryFull : EvictCause::kTierTooSmall;
    store_.End(victim->slot, EndReason::kEvicted, ended_, cause);
    return true;
  }
  KeepIndexSmall();
  const std::optional<uint64_t> offset = ReservePlace(*victim);
  if (!offset.has_value()) {
    awaitsWrite_ = writing_ > 0;
    if (awaitsWrite_) {
      return false;  // what is being written may be dropped from the tier later
    }
    store_.End(victim->slot, EndReason::kEvicted, ended_, EvictCause::kTierFull);
    return true;
  }
  const uint64_t token = ++lastId_;
  const SpillIdentity identity = IdentityOf(store_, *victim, store_.SlotAt(victim->slot).keyHash);
  if (!tier_->Write(*offset, {victim->payload, victim->payloadBytes}, identity, token).ok()) {
    tier_->file().Free(*offset);
    return false;
  }
  store_.BeginSpill(victim->slot);
  const uint64_t extentBytes = store_.SlotAt(victim->slot).extentBytes;
  jobs_.emplace(token, Job{SpillOp::kWrite, victim->slot, victim->generation, *offset, extentBytes, {}});
  writing_++;
  writingBytes_ += extentBytes;
  return true;
}

// What the arena has of objects on the tier takes half of it at most: more of them would leave no room for others.
void Spiller::KeepIndexSmall() {
  while (store_.usage().spilledIndexBytes > store_.usage().arenaBytes / kIndexShare) {
    const std::optional<ObjectView> oldest = store_.NextSpilledVictim();
    if (!oldest.has_value()) {
      return;
    }
    store_.End(oldest->slot, EndReason::kEvicted, ended_, EvictCause::kTierIndexFull);
  }
}

std::optional<uint64_t> Spiller::ReservePlace(const ObjectView& object) {
  std::optional<uint64_t> offset = tier_->file().Reserve(object.payloadBytes, object.slot);
  if (offset.has_value()) {
    return offset;
  }
  for (const uint32_t slot : InTheWay(object.payloadBytes)) {
    store_.End(slot, EndReason::kEvicted, ended_, EvictCause::kTierFull);  // frees its place
  }
  return tier_->file().Reserve(object.payloadBytes, object.slot);
}

// What the tier drops for a payload, and nothing that wouldn't help: the longest not used object if its place is large
// enough, as it is when all have one size; else the neighbours that are the least loss. None: objects that are held or
// on their way stand in between.
std::vector<uint32_t> Spiller::InTheWay(uint64_t payloadBytes) const {
  const std::optional<ObjectView> oldest = store_.NextSpilledVictim();
  if (!oldest.has_value()) {
    return {};
  }
  const uint64_t oldestOffset = store_.SlotAt(oldest->slot).spillOffset;
  if (tier_->file().WouldFit(oldestOffset, payloadBytes)) {
    return {oldest->slot};
  }
  const uint64_t wantedBytes = SpillRecordBytes(payloadBytes);
  std::unordered_map<uint32_t, uint64_t> costs;  // of a block, by slot
  uint64_t oldBytes = 0;
  store_.ForEachSpilledVictim([&](const ObjectView& object) {
    costs.emplace(object.slot, 1 + oldBytes / wantedBytes);
    oldBytes += SpillRecordBytes(object.payloadBytes);
    return costs.size() < kOldMax && oldBytes / wantedBytes < kOldShare;
  });
  return tier_->file().CheapestRun(
      payloadBytes,
      [&](uint32_t slot, uint64_t offset, uint64_t recordBytes) {
        const std::optional<Pin> pin = store_.SpilledVictimAt(slot, offset);
        if (!pin.has_value()) {
          return SpillFile::kBlocked;
        }
        if (*pin == Pin::kSoft) {
          return kSoftPinCost;
        }
        const auto old = costs.find(slot);
        return recordBytes / ArenaAllocator::kAlignment * (old == costs.end() ? kUsedCost : old->second);
      },
      oldestOffset);
}

bool Spiller::IsThere(const Room& room) const {
  const StoreUsage usage = store_.usage();
  return usage.arenaBytes - usage.usedBytes >= room.arenaBytes && store_.HasFree(room.extentBytes);
}

void Spiller::ServeRooms() {
  // Only those that are there now: a callback may ask again.
  for (size_t left = rooms_.size(); left > 0 && !rooms_.empty(); left--) {
    Room& front = rooms_.front();
    bool there = IsThere(front);
    if (!there && writing_ == 0) {
      there = store_.GatherFree(front.extentBytes) && IsThere(front);
    }
    if (!there && writing_ == 0) {
      // In a fragmented arena the next neighbours to go are found by going on in order of use.
      const StoreUsage usage = store_.usage();
      const uint64_t freeBytes = usage.arenaBytes - usage.usedBytes;
      front.moreBytes = freeBytes + front.extentBytes - std::min(freeBytes + front.extentBytes, front.arenaBytes);
      Pump();
    }
    if (!there && writing_ > 0) {
      return;  // more room comes
    }
    const Room room = std::move(rooms_.front());
    rooms_.erase(rooms_.begin());
    room.done();
    Pump();
  }
}

// ----- back -----

uint64_t Spiller::BringBack(uint32_t slot, uint64_t generation, BroughtBack done) {
  const uint64_t ticket = ++lastId_;
  returns_.emplace(ticket, Return{slot, generation, std::move(done)});
  BeginRead(ticket, slot, generation, false);
  return ticket;
}

// `hadRoom`: MakeRoom was asked already; now others are dropped for it if need be.
void Spiller::BeginRead(uint64_t ticket, uint32_t slot, uint64_t generation, bool hadRoom) {
  const auto tell = [&](const Status& status) {
    done_.emplace_back(ticket, status);
    if (wake_) {
      wake_();
    }
  };
  ObjectView object;
  const Status found = store_.FindSlot(slot, generation, &object);
  if (found.code() != StatusCode::kNotReady) {
    tell(found);
    return;
  }
  if (const auto under = reading_.find(slot); under != reading_.end()) {
    jobs_.at(under->second).tickets.push_back(ticket);
    return;
  }
  const Status room = store_.BeginBringBack(slot, hadRoom ? &ended_ : nullptr, &object);
  if (room.code() == StatusCode::kOutOfMemory && !hadRoom) {
    const uint64_t bytes = store_.SlotAt(slot).extentBytes + object.payloadBytes;
    (void)MakeRoom(bytes, bytes, [this, ticket] { StartReturn(ticket); });
    return;
  }
  if (!room.ok()) {
    tell(room);
    return;
  }
  const uint64_t token = ++lastId_;
  const uint64_t offset = store_.SlotAt(slot).spillOffset;
  const SpillIdentity identity = IdentityOf(store_, object, store_.SlotAt(slot).keyHash);
  if (const Status status = tier_->Read(offset, {object.payload, object.payloadBytes}, identity, token); !status.ok()) {
    (void)store_.EndBringBack(slot, false);
    tell(status);
    return;
  }
  jobs_.emplace(token, Job{SpillOp::kRead, slot, generation, offset, 0, {ticket}});
  reading_.emplace(slot, token);
}

void Spiller::StartReturn(uint64_t ticket) {
  const auto waits = returns_.find(ticket);
  if (waits != returns_.end()) {  // else it was forgotten
    BeginRead(ticket, waits->second.slot, waits->second.generation, true);
  }
}

void Spiller::WasRead(const Job& job, const Status& status) {
  reading_.erase(job.slot);
  Status told = status;
  if (status.ok()) {
    if (!store_.EndBringBack(job.slot, true)) {
      told = {StatusCode::kTryAgain, "the object was deleted or replaced while it came back from the SSD tier"};
    }
  } else {
    (void)store_.EndBringBack(job.slot, false);
    counts_.readFaults++;
    counts_.damaged += status.code() == StatusCode::kDataInconsistency ? 1 : 0;
    Log().warn("SSD tier: {}; the object is dropped", status.message());
    ObjectView object;
    if (store_.FindSlot(job.slot, job.generation, &object).code() == StatusCode::kNotReady) {
      store_.End(job.slot, EndReason::kLost, ended_);
    }
  }
  for (const uint64_t ticket : job.tickets) {
    done_.emplace_back(ticket, told);
  }
}

void Spiller::Finish(uint64_t ticket, const Status& status) {
  const auto waits = returns_.find(ticket);
  if (waits == returns_.end()) {
    return;  // forgotten
  }
  const Return told = std::move(waits->second);
  returns_.erase(waits);
  if (!status.ok()) {
    told.done(status, nullptr);
    return;
  }
  // What another callback did in between, it may have dropped the object.
  ObjectView object;
  const Status found = store_.FindSlot(told.slot, told.generation, &object);
  if (found.code() == StatusCode::kNotReady) {
    returns_.emplace(ticket, told);  // and spilled again: once more
    BeginRead(ticket, told.slot, told.generation, false);
    return;
  }
  told.done(found, found.ok() ? &object : nullptr);
}

void Spiller::Forget(uint64_t ticket) {
  returns_.erase(ticket);
  std::erase_if(rooms_, [&](const Room& room) { return room.ticket == ticket; });
}

SpillUsage Spiller::usage() const {
  SpillUsage usage = counts_;
  usage.fileBytes = tier_->file().capacityBytes();
  usage.usedBytes = tier_->file().usedBytes();
  usage.memoryBytes = tier_->file().memoryBytes();
  usage.writing = writing_;
  usage.reading = reading_.size();
  usage.io = tier_->ioName();
  usage.direct = tier_->file().direct();
  return usage;
}

}  // namespace hbmesh
