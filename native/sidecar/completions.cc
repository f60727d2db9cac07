#include "sidecar/completions.h"

#include <utility>

#include "base/event_fd.h"

namespace hbmesh::sidecar {

uint32_t CompletionGroups::Open() {
  if (free_.empty()) return unused_ < underWay_.size() ? unused_++ : 0;
  const uint32_t group = free_.back();
  free_.pop_back();
  return group;
}

void CompletionGroups::Close(uint32_t group) {
  if (group != 0) free_.push_back(group);
}

void CompletionGroups::Begin(uint32_t group) {
  if (group != 0) underWay_[group].fetch_add(1, std::memory_order_relaxed);
}

bool CompletionGroups::End(uint32_t group) {
  return group == 0 || underWay_[group].fetch_sub(1, std::memory_order_relaxed) == 1;
}

void CompletionQueue::Push(LoopEvent event) {
  const bool failed = !event.status.ok();
  const uint32_t group = event.kind == LoopEvent::Kind::kComplete ? TokenTable::GroupOf(event.id) : 0;
  bool wake = false;
  {
    // Counted while nobody else can push: the last one's wake-up must find the others' events.
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    const bool last = groups_->End(group);
    wake = (last || failed) && std::exchange(asleep_, false);
  }
  if (wake) SignalEvent(wakeFd_);
}

bool CompletionQueue::Take(std::vector<LoopEvent>* events) {
  events->clear();
  const std::lock_guard lock(mutex_);
  events->swap(events_);
  return !events->empty();
}

bool CompletionQueue::PrepareSleep() {
  const std::lock_guard lock(mutex_);
  asleep_ = events_.empty();
  return asleep_;
}

void CompletionQueue::EndSleep() {
  const std::lock_guard lock(mutex_);
  asleep_ = false;
}

void DeviceEvents::Complete(uint64_t token, Status status) {
  LoopEvent event;
  event.id = token;
  event.status = std::move(status);
  queue_.Push(std::move(event));
}

void TransportEvents::OnComplete(uint64_t token, Status status) {
  LoopEvent event;
  event.transport = transport_;
  event.id = token;
  event.status = std::move(status);
  queue_.Push(std::move(event));
}

void TransportEvents::OnAccept(std::unique_ptr<Endpoint> endpoint) {
  LoopEvent event;
  event.kind = LoopEvent::Kind::kAccept;
  event.transport = transport_;
  event.endpoint = std::move(endpoint);
  queue_.Push(std::move(event));
}

void TransportEvents::OnMessage(uint64_t endpointId, std::span<const std::byte> message) {
  LoopEvent event;
  event.kind = LoopEvent::Kind::kMessage;
  event.transport = transport_;
  event.id = endpointId;
  event.message.assign(message.begin(), message.end());
  queue_.Push(std::move(event));
}

void TransportEvents::OnDisconnect(uint64_t endpointId, Status reason) {
  LoopEvent event;
  event.kind = LoopEvent::Kind::kDisconnect;
  event.transport = transport_;
  event.id = endpointId;
  event.status = std::move(reason);
  queue_.Push(std::move(event));
}

uint64_t TokenTable::Add(CompletionTarget* target, uint64_t tag, uint32_t group) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Entry& entry = entries_[index];
  entry.target = target;
  entry.tag = tag;
  entry.group = group;
  groups_.Begin(group);
  return (static_cast<uint64_t>((entry.turn << CompletionGroups::kBits) | group) << 32) | index;
}

TokenTable::Entry* TokenTable::Find(uint64_t token) {
  const auto index = static_cast<uint32_t>(token);
  if (index >= entries_.size()) return nullptr;
  Entry& entry = entries_[index];
  const bool same = static_cast<uint32_t>(token >> 32) == ((entry.turn << CompletionGroups::kBits) | entry.group);
  return entry.target != nullptr && same ? &entry : nullptr;
}

void TokenTable::Free(Entry& entry) {
  entry.target = nullptr;
  entry.turn = (entry.turn + 1) % (1U << kTurnBits);
  free_.push_back(static_cast<uint32_t>(&entry - entries_.data()));
}

void TokenTable::Withdraw(uint64_t token) {
  Entry* entry = Find(token);
  if (entry == nullptr) return;
  (void)groups_.End(entry->group);  // the loop is awake
  Free(*entry);
}

bool TokenTable::Complete(uint64_t token, const Status& status) {
  Entry* entry = Find(token);
  if (entry == nullptr) return false;
  CompletionTarget* target = entry->target;
  const uint64_t tag = entry->tag;
  Free(*entry);  // before the call, which may add tokens
  target->OnCompletion(tag, status);
  return true;
}

}  // namespace hbmesh::sidecar
