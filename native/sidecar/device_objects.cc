#include "sidecar/device_objects.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint32_t kReadersMax = 2;  // of one object of the cache at a time; more find another location, or wait
constexpr uint64_t kRemoveTag = 1ULL << 63;  // in tags of questions about a batch; others are of one slot
constexpr size_t kBatchKeysMax = 4096;       // of one message to the owners

template <typename Record>
void Append(std::vector<std::byte>& payload, const Record& record) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&record);
  payload.insert(payload.end(), bytes, bytes + sizeof(record));
}

Question QuestionOf(layout::Op op, std::span<const std::string_view> keys, layout::Family family) {
  Question question;
  question.op = op;
  question.count = static_cast<uint32_t>(keys.size());
  question.args[1] = static_cast<uint64_t>(family);
  question.payload = MakeKeyBatch(keys);
  return question;
}

}  // namespace

DeviceObjects::~DeviceObjects() {
  for (const auto& [tag, id] : questions_) control_.Forget(id);
}

DeviceObject& DeviceObjects::Add(const ObjectCall& call, uint32_t i, layout::Family family, uint64_t session) {
  auto object = std::make_unique<DeviceObject>();
  lastSlot_ = (lastSlot_ + 1) & (layout::kDeviceSlot - 1);
  while (objects_.contains(lastSlot_ | layout::kDeviceSlot)) lastSlot_ = (lastSlot_ + 1) & (layout::kDeviceSlot - 1);
  object->key = call.key(i);
  object->family = family;
  object->slot = lastSlot_ | layout::kDeviceSlot;
  object->session = session;
  object->device = call.device();
  object->blobs = call.deviceBlobs(i);
  const auto sizes = call.blobSizes(i);
  object->sizes.assign(sizes.begin(), sizes.end());
  object->bytes = call.objectBytes(i);
  DeviceObject& added = *object;
  keys_.emplace(added.key, added.slot);
  objects_.emplace(added.slot, std::move(object));
  return added;
}

DeviceObject* DeviceObjects::Find(uint32_t slot) {
  const auto found = objects_.find(slot);
  return found == objects_.end() || found->second->gone ? nullptr : found->second.get();
}

DeviceObject* DeviceObjects::FindKey(std::string_view key, uint64_t session) {
  DeviceObject* any = nullptr;
  const auto [begin, end] = keys_.equal_range(std::string(key));
  for (auto known = begin; known != end; ++known) {
    any = objects_.at(known->second).get();
    if (any->session == session) break;
  }
  return any;
}

std::vector<DeviceObject*> DeviceObjects::FindOwn(std::string_view key, uint64_t session) {
  std::vector<DeviceObject*> own;
  const auto [begin, end] = keys_.equal_range(std::string(key));
  for (auto known = begin; known != end; ++known) {
    DeviceObject* object = objects_.at(known->second).get();
    if (object->session == session) own.push_back(object);
  }
  return own;
}

bool DeviceObjects::SameMap(const DeviceObject& object, const ObjectCall& call, uint32_t i) {
  return object.device == call.device() &&
         std::ranges::equal(object.blobs, call.deviceBlobs(i), [](const DeviceBlob& a, const DeviceBlob& b) {
           return a.region == b.region && a.offset == b.offset && a.bytes == b.bytes;
         });
}

void DeviceObjects::Commit(DeviceObject& object) {
  if (std::exchange(object.committed, true)) return;
  const auto waiters = object.waiters;
  if (object.family == layout::Family::kDeviceCache) object.waiters.clear();  // that was all they wait for
  for (const auto& [waiter, key] : waiters) waiter->OnPublished(key);
}

void DeviceObjects::ForgetWaiter(uint32_t slot, PublishWaiter* waiter, uint32_t key) {
  const auto found = objects_.find(slot);
  if (found != objects_.end()) std::erase(found->second->waiters, std::pair(waiter, key));
}

Status DeviceObjects::Open(uint32_t slot, uint64_t generation, bool exclusive, HoldUser* user, uint64_t* hold,
                           DeviceObject** object) {
  DeviceObject* found = Find(slot);
  const auto family = exclusive ? layout::Family::kPublished : layout::Family::kDeviceCache;
  if (found == nullptr || found->generation == 0 || found->family != family) {
    return {StatusCode::kNotFound, "the object is gone"};
  }
  if (found->generation != generation) return {StatusCode::kTryAgain, "the object was replaced"};
  if (found->consumed || found->holds >= (exclusive ? 1 : kReadersMax)) {
    return {StatusCode::kNotReady, "others read the object"};
  }
  ++found->holds;
  *hold = ++lastHold_ | kDeviceHoldBit;
  found->lastHold = *hold;
  holds_.emplace(*hold, Hold{slot, user});
  *object = found;
  return Status::Ok();
}

void DeviceObjects::Close(uint64_t hold) {
  const auto found = holds_.find(hold);
  if (found == holds_.end()) return;
  const uint32_t slot = found->second.slot;
  DeviceObject& object = *objects_.at(slot);
  // What was consumed stays so: its key is being removed.
  if (object.consumed) {
    found->second.user = nullptr;
    return;
  }
  holds_.erase(found);
  --object.holds;
  if (object.holds == 0 && !object.gone) {
    const auto waiters = object.waiters;  // one that was cancelled takes the object back
    for (const auto& [waiter, key] : waiters) waiter->OnReleased(key);
  }
  FreeIfUnused(slot);
}

void DeviceObjects::Consume(uint64_t hold) {
  const auto found = holds_.find(hold);
  if (found == holds_.end()) return;
  DeviceObject& object = *objects_.at(found->second.slot);
  if (object.family != layout::Family::kPublished || object.consumed) return;
  object.consumed = true;
  if (object.gone) {  // withdrawn or its session ended in the meantime: its owner was told then
    EndConsumed(object.slot);
    return;
  }
  consumed_.push_back(object.slot);
}

bool DeviceObjects::Flush() {
  if (consumed_.empty() && forgottenPublished_.empty() && forgottenCached_.empty()) return false;
  FlushForgotten(layout::Family::kPublished, &forgottenPublished_);
  FlushForgotten(layout::Family::kDeviceCache, &forgottenCached_);
  FlushConsumed();
  return true;
}

void DeviceObjects::FlushConsumed() {
  while (!consumed_.empty()) {
    const size_t count = std::min<size_t>(consumed_.size(), kBatchKeysMax);
    std::vector<uint32_t> slots(consumed_.end() - static_cast<ptrdiff_t>(count), consumed_.end());
    consumed_.resize(consumed_.size() - count);
    std::vector<std::string_view> keys;
    for (const uint32_t slot : slots) keys.push_back(objects_.at(slot)->key);
    const uint64_t batch = kRemoveTag | ++lastBatch_;
    removing_.emplace(batch, std::move(slots));
    uint64_t id = 0;
    const Question question = QuestionOf(layout::Op::kRemove, keys, layout::Family::kPublished);
    if (control_.Ask(question, this, batch, &id).ok()) {
      questions_.emplace(batch, id);
    } else {
      EndRemoved(batch);
    }
  }
}

void DeviceObjects::FlushForgotten(layout::Family family, std::vector<Forgotten>* forgotten) {
  const std::vector<Forgotten> all = std::exchange(*forgotten, {});
  for (size_t at = 0; at < all.size(); at += kBatchKeysMax) {
    const auto part = std::span(all).subspan(at, std::min(kBatchKeysMax, all.size() - at));
    std::vector<std::string_view> keys;
    for (const Forgotten& one : part) keys.push_back(one.key);
    Question question = QuestionOf(layout::Op::kForgetLocations, keys, family);
    for (const Forgotten& one : part) {
      layout::ResultRecord record{};
      record.generation = one.generation;
      record.flags = layout::kExisted;
      record.locationCount = 1;
      record.locations[0] = {peers_.self(), one.slot};
      Append(question.payload, record);
    }
    control_.Tell(std::move(question));
  }
}

// The receivers have the bytes, whatever the owners say; one that could not be reached learns it from the next who
// doesn't find the object here.
void DeviceObjects::EndRemoved(uint64_t batch) {
  const auto found = removing_.find(batch);
  const std::vector<uint32_t> slots = std::move(found->second);
  removing_.erase(found);
  for (const uint32_t slot : slots) {
    if (objects_.contains(slot)) EndConsumed(slot);
  }
}

void DeviceObjects::EndConsumed(uint32_t slot) {
  DeviceObject& object = *objects_.at(slot);
  EndWaiters(object, Status::Ok());
  Unlink(object);
  const uint64_t number = object.lastHold;
  const auto taken = holds_.find(number);
  HoldUser* user = taken == holds_.end() ? nullptr : taken->second.user;
  if (taken != holds_.end()) holds_.erase(taken);
  object.holds = 0;
  FreeIfUnused(slot);
  if (user != nullptr) user->OnHoldConsumed(number, Status::Ok());
}

void DeviceObjects::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  if (!last) control_.Forget(questions_.at(tag));
  questions_.erase(tag);
  const auto slot = static_cast<uint32_t>(tag);
  if ((tag & kRemoveTag) != 0) {
    EndRemoved(tag);
    return;
  }
  layout::ResultRecord record{};
  record.code = reply.entry.code;
  const std::span<const std::byte> payload(reply.payload);
  if (record.code == 0 && payload.size() >= sizeof(record)) {
    std::memcpy(&record, payload.data() + payload.size() - sizeof(record), sizeof(record));
  }
  DeviceObject* object = Find(slot);
  if (object == nullptr) return;
  const auto code = static_cast<StatusCode>(record.code);
  if (code == StatusCode::kOk) {
    Commit(*object);
  } else {
    Remove(*object, {code, "the owner did not take the location up"}, false);
  }
}

void DeviceObjects::OnControlLost(uint64_t tag, const Status& why) {
  questions_.erase(tag);
  const auto slot = static_cast<uint32_t>(tag);
  if ((tag & kRemoveTag) != 0) {
    EndRemoved(tag);
  } else if (DeviceObject* object = Find(slot); object != nullptr) {
    Remove(*object, why, false);
  }
}

void DeviceObjects::EndWaiters(DeviceObject& object, const Status& status) {
  if (status.ok()) Commit(object);  // received before the owner's answer came
  for (const auto& [waiter, key] : std::exchange(object.waiters, {})) waiter->OnPublishEnded(key, status);
}

void DeviceObjects::Unlink(DeviceObject& object) {
  if (std::exchange(object.gone, true)) return;
  const auto [begin, end] = keys_.equal_range(object.key);
  const auto known = std::find_if(begin, end, [&](const auto& entry) { return entry.second == object.slot; });
  if (known != end) keys_.erase(known);
}

void DeviceObjects::FreeIfUnused(uint32_t slot) {
  const auto found = objects_.find(slot);
  if (found != objects_.end() && found->second->gone && found->second->holds == 0) objects_.erase(found);
}

void DeviceObjects::Remove(DeviceObject& object, const Status& why, bool forget) {
  if (object.gone) return;
  const uint32_t slot = object.slot;
  if (forget && object.committed) Forget(object.key, object.family, object.generation, slot);
  Unlink(object);
  if (!object.consumed) EndWaiters(object, why);
  FreeIfUnused(slot);
}

void DeviceObjects::EndSession(uint64_t session) {
  std::vector<uint32_t> slots;
  for (const auto& [slot, object] : objects_) {
    if (object->session == session && !object->gone) slots.push_back(slot);
  }
  if (slots.empty()) return;
  std::vector<std::pair<uint64_t, HoldUser*>> broken;
  for (const auto& [number, hold] : holds_) {
    const DeviceObject& object = *objects_.at(hold.slot);
    // One that was consumed is whole at its reader.
    const bool read = object.session == session && !object.gone && !object.consumed;
    if (read && hold.user != nullptr) broken.emplace_back(number, hold.user);
  }
  const Status why(StatusCode::kRpcPeerDead, "the client whose device memory it is has ended");
  for (const uint32_t slot : slots) {
    if (DeviceObject* object = Find(slot); object != nullptr) Remove(*object, why, true);
  }
  for (const auto& [number, user] : broken) {
    if (holds_.contains(number)) user->OnHoldBroken(number, why);
  }
}

void DeviceObjects::Announce(DeviceObject& object) {
  const std::string_view key = object.key;
  Question question = QuestionOf(layout::Op::kAddLocation, std::span(&key, 1), object.family);
  Append(question.payload, layout::CommitRecord{object.generation, object.bytes, object.slot, 0});
  const uint64_t tag = object.slot;
  uint64_t id = 0;
  if (const Status status = control_.Ask(std::move(question), this, tag, &id); !status.ok()) {
    Remove(object, status, false);
    return;
  }
  questions_.emplace(tag, id);
}

void DeviceObjects::Forget(std::string_view key, layout::Family family, uint64_t generation, uint32_t slot) {
  auto& forgotten = family == layout::Family::kPublished ? forgottenPublished_ : forgottenCached_;
  forgotten.push_back({std::string(key), generation, slot});
}

void DeviceObjects::ForEachCommitted(const std::function<void(const DeviceObject&)>& visit) const {
  for (const auto& [slot, object] : objects_) {
    if (object->committed && !object->gone && !object->consumed) visit(*object);
  }
}

}  // namespace hbmesh::sidecar
