#include "sidecar/ssd_tier.h"

#include <unordered_set>
#include <utility>

#include "base/event_fd.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kStartedShare = 4;  // at most this part of the arena is on its way back at once, or one object

}  // namespace

Status SsdTier::Open(const SpillOptions& options, ObjectStore& store, EndedSink ended, int wakeFd,
                     std::unique_ptr<SsdTier>* tier) {
  std::unique_ptr<SsdTier> made(new SsdTier(store));
  const auto wake = [at = made.get(), wakeFd] {
    at->woken_.store(true, std::memory_order_relaxed);
    SignalEvent(wakeFd);
  };
  if (Status status = Spiller::Open(options, store, std::move(ended), wake, &made->spiller_); !status.ok()) {
    return status;
  }
  *tier = std::move(made);
  return Status::Ok();
}

SsdTier::~SsdTier() {
  spiller_.reset();
  for (const auto& [ticket, waiting] : returns_) store_.Release(waiting.slot);
}

bool SsdTier::Poll() {
  const bool woken = woken_.exchange(false, std::memory_order_relaxed);
  if (woken) spiller_->Poll();
  if (std::exchange(returned_, false)) spiller_->Balance();  // the next ones find room, and needn't wait for writes
  if (blocked_ && store_.usage().heldBytes != heldBytes_) blocked_ = false;
  if (!blocked_ && !queue_.empty()) StartReturns();
  return woken;
}

uint64_t SsdTier::BringBack(const ObjectView& object, Spiller::BroughtBack done) {
  const uint64_t ticket = ++lastTicket_;
  store_.Hold(object.slot);
  returns_.emplace(ticket, Return{object.slot, object.generation, object.payloadBytes, std::move(done), 0});
  queue_.push_back(ticket);
  if (!blocked_) StartReturns();
  return ticket;
}

void SsdTier::StartReturns() {
  const uint64_t most = store_.usage().arenaBytes / kStartedShare;
  while (!queue_.empty()) {
    const uint64_t ticket = queue_.front();
    const auto found = returns_.find(ticket);
    if (found == returns_.end()) {
      queue_.pop_front();
      continue;
    }
    Return& next = found->second;
    if (startedBytes_ != 0 && startedBytes_ + next.bytes > most) return;
    queue_.pop_front();
    startedBytes_ += next.bytes;
    next.started = spiller_->BringBack(
        next.slot, next.generation,
        [this, ticket](const Status& status, const ObjectView* object) { EndReturn(ticket, status, object); });
  }
}

bool SsdTier::OthersHold() const {
  std::unordered_set<uint32_t> slots;
  uint64_t ownBytes = 0;  // of what the returns hold themselves: no payloads
  for (const auto& [ticket, waiting] : returns_) {
    if (slots.insert(waiting.slot).second) ownBytes += store_.SlotAt(waiting.slot).extentBytes;
  }
  return store_.usage().heldBytes > ownBytes;
}

void SsdTier::EndReturn(uint64_t ticket, const Status& status, const ObjectView* object) {
  const auto found = returns_.find(ticket);
  startedBytes_ -= found->second.bytes;
  if (status.code() == StatusCode::kOutOfMemory && OthersHold()) {
    found->second.started = 0;
    queue_.push_back(ticket);  // a smaller one may find room
    blocked_ = true;
    heldBytes_ = store_.usage().heldBytes;
    return;
  }
  const Return ended = std::move(found->second);
  returns_.erase(found);
  returned_ = true;
  ended.done(status, object);
  store_.Release(ended.slot);
}

void SsdTier::ForgetReturn(uint64_t ticket) {
  const auto found = returns_.find(ticket);
  if (found == returns_.end()) return;
  if (found->second.started != 0) {
    spiller_->Forget(found->second.started);
    startedBytes_ -= found->second.bytes;
  }
  const uint32_t slot = found->second.slot;
  returns_.erase(found);
  store_.Release(slot);
}

}  // namespace hbmesh::sidecar
