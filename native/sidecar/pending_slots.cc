#include "sidecar/pending_slots.h"

#include <algorithm>
#include <utility>

namespace hbmesh::sidecar {

void PendingSlots::Add(uint32_t slot, const Object& object) { slots_.insert_or_assign(slot, Slot{object, {}, {}}); }

const PendingSlots::Object* PendingSlots::Find(uint32_t slot, uint64_t generation) const {
  const auto found = slots_.find(slot);
  if (found == slots_.end()) return nullptr;
  const uint64_t own = found->second.object.generation;
  return own == 0 || own == generation ? &found->second.object : nullptr;
}

void PendingSlots::Confirm(uint32_t slot, uint64_t generation) { slots_.at(slot).object.generation = generation; }

bool PendingSlots::NoteDropped(uint32_t slot, uint64_t generation) {
  const auto found = slots_.find(slot);
  if (found == slots_.end()) return false;
  found->second.dropped.push_back(generation);
  return true;
}

bool PendingSlots::IsDropped(uint32_t slot) const {
  const auto found = slots_.find(slot);
  return found != slots_.end() &&
         std::ranges::find(found->second.dropped, found->second.object.generation) != found->second.dropped.end();
}

void PendingSlots::Settle(uint32_t slot) {
  const auto found = slots_.find(slot);
  if (found == slots_.end()) return;
  settled_.insert(settled_.end(), found->second.waiting.begin(), found->second.waiting.end());
  slots_.erase(found);
}

void PendingSlots::Wait(uint32_t slot, SlotWaiter* waiter, uint64_t tag) {
  slots_.at(slot).waiting.push_back({waiter, tag});
}

void PendingSlots::Forget(const SlotWaiter* waiter) {
  const auto isIts = [&](const Waiting& waiting) { return waiting.waiter == waiter; };
  std::erase_if(settled_, isIts);
  for (auto& [number, slot] : slots_) std::erase_if(slot.waiting, isIts);
}

bool PendingSlots::Poll() {
  if (settled_.empty()) return false;
  // One at a time: a waiter may forget others, or wait anew.
  while (!settled_.empty()) {
    const Waiting next = settled_.back();
    settled_.pop_back();
    next.waiter->OnSlotSettled(next.tag);
  }
  return true;
}

void PendingSlots::ForEachConfirmed(const std::function<void(uint32_t slot, const Object&)>& each) const {
  for (const auto& [number, slot] : slots_) {
    if (slot.object.generation != 0 && !IsDropped(number)) each(number, slot.object);
  }
}

}  // namespace hbmesh::sidecar
