// The second half of DeviceFetch: open a key where it is, move its bytes, end the hold.
#include <utility>

#include "base/log.h"
#include "sidecar/device_fetch.h"
#include "sidecar/key_check.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

constexpr ShapeWords kSubscribeWords{"the subscribe has", "the object was published with",
                                     "give blobs of the same count and sizes"};
constexpr ShapeWords kDevGetWords{"the get has", "the object was set with", "give the blobs of the set"};

}  // namespace

void DeviceFetch::TryNext(uint32_t index) {
  Key& key = keys_[index];
  for (uint32_t i = 0; i < key.found.locationCount && !stopped_.has_value(); ++i) {
    if ((key.tried & (1U << i)) != 0) continue;
    key.tried |= 1U << i;
    key.location = i;
    if (TryLocation(index, key.found.locations[i])) return;
  }
  if (stopped_.has_value()) {
    EndKey(index, *stopped_);
  } else if (key.again || key.fault.ok()) {
    Wait(index);
  } else {
    EndKey(index, key.fault);
  }
}

bool DeviceFetch::TryLocation(uint32_t index, const layout::Location& location) {
  Key& key = keys_[index];
  if ((location.slot & layout::kDeviceSlot) == 0) {
    key.fault = {StatusCode::kDataInconsistency, "the owner names no device object for the key: see the worker's log"};
    return false;
  }
  if (location.member == core_.peers.self()) return TryHere(index, location);
  PeerLink* link = core_.peers.Find(location.member);
  if (link == nullptr) {
    key.fault = {StatusCode::kRpcPeerDead, "member " + std::to_string(location.member) +
                                               ", which has the object, is not in the cluster any more: try again"};
    return false;
  }
  key.state = State::kOpening;
  const auto mode = subscribe_ ? peer::OpenMode::kExclusive : peer::OpenMode::kShared;
  link->OpenMemory(peer::OpenRecord{0, key.found.generation, location.slot, static_cast<uint32_t>(mode)}, this, index);
  return true;
}

bool DeviceFetch::TryHere(uint32_t index, const layout::Location& location) {
  Key& key = keys_[index];
  const DeviceObject* known = core_.objects.Find(location.slot);
  if (known != nullptr && known->device == call_.device()) {
    const std::string device = std::to_string(known->device);
    key.fault = {StatusCode::kInvalid, "key " + ShowKey(call_.key(index)) + " is on device " + device +
                                           " of this worker, and the blobs of the call are on device " + device +
                                           ", too: source and target must be two devices"};
    return false;
  }
  DeviceObject* object = nullptr;
  uint64_t hold = 0;
  const Status status = core_.objects.Open(location.slot, key.found.generation, subscribe_, this, &hold, &object);
  if (!status.ok()) {
    key.again = true;
    if (status.code() != StatusCode::kNotReady) ReportMissing(index);
    return false;
  }
  const ShapeWords& words = subscribe_ ? kSubscribeWords : kDevGetWords;
  Status fits = CheckShape(call_, index, object->sizes, words);
  if (fits.ok() && object->key != call_.key(index)) {
    fits = {StatusCode::kDataInconsistency, "the owner names another key's object: see the worker's log"};
  }
  if (!fits.ok()) {
    core_.objects.Close(hold);
    EndKey(index, fits);
    return true;
  }
  key.state = State::kMoving;
  key.here = true;
  key.hold = hold;
  holdsHere_.emplace(hold, index);
  ++moving_;
  key.mover = MakeMover(index);
  key.mover->StartLocal(object->blobs);
  return true;
}

std::unique_ptr<BlobMover> DeviceFetch::MakeMover(uint32_t index) {
  MoveListener& listener = *this;
  return std::make_unique<BlobMover>(core_, call_, index, BlobMover::Direction::kPull, listener, index);
}

void DeviceFetch::ReportMissing(uint32_t index) {
  const Key& key = keys_[index];
  layout::ResultRecord record = key.found;
  record.locationCount = 1;
  record.locations[0] = key.found.locations[key.location];
  Question question;
  question.op = layout::Op::kReportMissing;
  question.count = 1;
  question.args[1] = static_cast<uint64_t>(subscribe_ ? layout::Family::kPublished : layout::Family::kDeviceCache);
  question.payload = MakeKeyBatch(call_, std::span(&index, 1));
  const auto* bytes = reinterpret_cast<const std::byte*>(&record);
  question.payload.insert(question.payload.end(), bytes, bytes + sizeof(record));
  core_.control.Tell(std::move(question));
}

void DeviceFetch::OnMemoryOpenFailed(uint64_t tag, const Status& why) {
  const auto index = static_cast<uint32_t>(tag);
  if (keys_[index].state != State::kOpening) return;
  keys_[index].fault = why;
  TryNext(index);
  Advance();
}

void DeviceFetch::OnMemoryOpened(uint64_t tag, const peer::OpenedRecord& opened,
                                 std::span<const peer::BlobRecord> blobs, uint64_t connection) {
  const auto index = static_cast<uint32_t>(tag);
  Key& key = keys_[index];
  const uint32_t member = key.found.locations[key.location].member;
  PeerLink* link = core_.peers.Find(member);
  const auto code = static_cast<StatusCode>(opened.code);
  if (link == nullptr) return;
  if (key.state != State::kOpening) {
    if (code == StatusCode::kOk) link->CloseHold(connection, opened.hold);
    return;
  }
  if (code != StatusCode::kOk) {
    if (code == StatusCode::kNotFound || code == StatusCode::kTryAgain) ReportMissing(index);
    key.again = key.again || code != StatusCode::kNotSupported;
    if (code == StatusCode::kNotSupported) {
      key.fault = {code, link->Name() + " can't offer its device memory over this transport: choose another"};
    }
    TryNext(index);
    Advance();
    return;
  }
  Status fits = CheckOpenedShape(call_, index, opened, subscribe_ ? kSubscribeWords : kDevGetWords);
  if (fits.ok() && !BlobsFit(call_, index, blobs)) {
    fits = {StatusCode::kDataInconsistency, link->Name() + " named other blobs than it promised: see its log"};
  }
  if (!fits.ok()) {
    link->CloseHold(connection, opened.hold);
    EndKey(index, fits);
  } else {
    key.state = State::kMoving;
    key.here = false;
    key.connection = connection;
    key.hold = opened.hold;
    ++moving_;
    key.mover = MakeMover(index);
    key.mover->StartRemote(member, connection, blobs);
  }
  Advance();
}

void DeviceFetch::Break(uint32_t index, const Status& why) {
  Key& key = keys_[index];
  if (key.state == State::kMoving) {
    key.mover->Break({StatusCode::kRpcPeerDead, why.message() + " before all bytes were here"});
  } else if (key.state == State::kClosing) {
    EndMove(index);  // the bytes are whole
  }
}

void DeviceFetch::OnMemoryBroken(uint64_t tag, const Status& why) {
  Break(static_cast<uint32_t>(tag), why);
  Advance();
}

void DeviceFetch::OnHoldBroken(uint64_t hold, const Status& why) {
  if (const auto known = holdsHere_.find(hold); known != holdsHere_.end()) Break(known->second, why);
  Advance();
}

void DeviceFetch::CloseHold(Key& key) {
  if (key.here) {
    holdsHere_.erase(key.hold);
    core_.objects.Close(key.hold);
    return;
  }
  PeerLink* link = core_.peers.Find(key.found.locations[key.location].member);
  if (link != nullptr) link->CloseHold(key.connection, key.hold);
}

void DeviceFetch::OnMoved(uint64_t tag, const Status& status) {
  const auto index = static_cast<uint32_t>(tag);
  Key& key = keys_[index];
  --moving_;
  if (!status.ok()) {
    CloseHold(key);
    key.fault = status;
    const uint32_t member = key.found.locations[key.location].member;
    const bool cancelled = status.code() == StatusCode::kRpcCancelled;
    if (!abandoned_ && !cancelled) Log().warn("a transfer from member {} failed: {}", member, status.message());
    // What is published has one source; of the cache another one may have it, and is not asked for a key that the
    // caller cancelled (a transport's own cancel comes as kRpcPeerDead).
    if (subscribe_ || stopped_.has_value() || cancelled) {
      EndKey(index, status);
    } else {
      TryNext(index);
    }
  } else if (!subscribe_) {
    CloseHold(key);
    if (!Share(index)) EndKey(index, Status::Ok());
  } else {
    key.state = State::kClosing;
    PeerLink* link = key.here ? nullptr : core_.peers.Find(key.found.locations[key.location].member);
    if (key.here) {
      core_.objects.Consume(key.hold);
    } else if (link != nullptr) {
      link->ConsumeHold(key.connection, key.hold);
    } else {
      EndMove(index);
    }
  }
  Advance();
}

void DeviceFetch::EndMove(uint32_t index) {
  Key& key = keys_[index];
  if (key.here) {
    holdsHere_.erase(key.hold);
    core_.objects.Close(key.hold);  // of no effect on one that has ended
  }
  EndKey(index, Status::Ok());
}

void DeviceFetch::OnMemoryClosed(uint64_t tag, StatusCode /*code*/) {
  const auto index = static_cast<uint32_t>(tag);
  if (keys_[index].state == State::kClosing) EndMove(index);
  Advance();
}

void DeviceFetch::OnHoldConsumed(uint64_t hold, const Status& /*status*/) {
  const auto known = holdsHere_.find(hold);
  if (known == holdsHere_.end()) return;
  const uint32_t index = known->second;
  if (keys_[index].state == State::kClosing) EndMove(index);
  Advance();
}

bool DeviceFetch::Share(uint32_t index) {
  if (!share_ || abandoned_ || stopped_.has_value()) return false;
  for (const DeviceObject* own : core_.objects.FindOwn(call_.key(index), sessionId())) {
    if (own->device == call_.device()) return false;  // this device serves the key already
  }
  DeviceObject& replica = core_.objects.Add(call_, index, layout::Family::kDeviceCache, sessionId());
  replica.generation = keys_[index].found.generation;
  replica.shared = true;
  replica.waiters.emplace_back(static_cast<PublishWaiter*>(this), index);
  keys_[index].replica = replica.slot;
  keys_[index].state = State::kSharing;
  core_.objects.Announce(replica);  // may end it, and the key with it
  return true;
}

void DeviceFetch::EndSharing(uint32_t index) {
  if (keys_[index].state != State::kSharing) return;
  core_.objects.ForgetWaiter(keys_[index].replica, this, index);
  EndKey(index, Status::Ok());
}

void DeviceFetch::OnPublished(uint32_t index) {
  if (keys_[index].state == State::kSharing) EndKey(index, Status::Ok());
  Advance();
}

void DeviceFetch::OnPublishEnded(uint32_t index, const Status& /*status*/) {
  if (keys_[index].state == State::kSharing) EndKey(index, Status::Ok());
  Advance();
}

}  // namespace hbmesh::sidecar
