#include "sidecar/completions.h"

#include <utility>

#include "base/event_fd.h"

namespace hbmesh::sidecar {

void CompletionQueue::Push(LoopEvent event) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    wake = std::exchange(asleep_, false);
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

uint64_t TokenTable::Add(CompletionTarget* target, uint64_t tag) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  entries_[index].target = target;
  entries_[index].tag = tag;
  return (static_cast<uint64_t>(entries_[index].turn) << 32) | index;
}

TokenTable::Entry* TokenTable::Find(uint64_t token) {
  const auto index = static_cast<uint32_t>(token);
  if (index >= entries_.size()) return nullptr;
  Entry& entry = entries_[index];
  return entry.target != nullptr && entry.turn == static_cast<uint32_t>(token >> 32) ? &entry : nullptr;
}

void TokenTable::Withdraw(uint64_t token) {
  Entry* entry = Find(token);
  if (entry == nullptr) return;
  entry->target = nullptr;
  ++entry->turn;
  free_.push_back(static_cast<uint32_t>(token));
}

bool TokenTable::Complete(uint64_t token, const Status& status) {
  Entry* entry = Find(token);
  if (entry == nullptr) return false;
  CompletionTarget* target = entry->target;
  const uint64_t tag = entry->tag;
  Withdraw(token);  // before the call, which may add tokens
  target->OnCompletion(tag, status);
  return true;
}

}  // namespace hbmesh::sidecar
