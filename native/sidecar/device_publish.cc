#include "sidecar/device_publish.h"

#include <cstring>
#include <utility>

#include "sidecar/key_check.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

DevicePublish::DevicePublish(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry),
      call_(std::move(call)),
      family_(static_cast<layout::Op>(entry.op) == layout::Op::kDevPublish ? layout::Family::kPublished
                                                                           : layout::Family::kDeviceCache) {}

DevicePublish::~DevicePublish() {
  if (questionId_ != 0) core_.control.Forget(questionId_);
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state != State::kEnded) core_.objects.ForgetWaiter(keys_[i].slot, this, i);
  }
}

void DevicePublish::Start() {
  reply_.Reset(call_.count());
  keys_.resize(call_.count());
  open_ = call_.count();
  batching_ = true;
  for (uint32_t i = 0; i < call_.count(); ++i) Prepare(i);
  if (!asked_.empty()) {
    core_.objects.Flush();  // what is to be forgotten first
    SetDeadline(core_.options.controlTimeoutMs);
    Ask(layout::Op::kReserve, MakeKeyBatch(call_, asked_));
  }
  batching_ = false;
  Advance();
}

void DevicePublish::Prepare(uint32_t i) {
  DeviceObject* known = core_.objects.FindKey(call_.key(i), sessionId());
  for (DeviceObject* own : core_.objects.FindOwn(call_.key(i), sessionId())) {
    if (DeviceObjects::SameMap(*own, call_, i)) known = own;
  }
  const std::string name = "key " + ShowKey(call_.key(i));
  if (known != nullptr && known->family != family_) {
    layout::ResultRecord record{};
    record.family = static_cast<uint32_t>(known->family);
    EndKey(i, {StatusCode::kInvalid, FamilyText(call_.key(i), record)});
  } else if (known != nullptr && known->session != sessionId()) {
    EndKey(i, {StatusCode::kInvalid, name + " is another client's: use another key, or wait until it is gone"});
  } else if (known != nullptr && !DeviceObjects::SameMap(*known, call_, i)) {
    EndKey(i, {StatusCode::kInvalid,
               name + " was given with other memory before: give the same blobs, or delete the key first"});
  } else if (known != nullptr && known->committed && family_ == layout::Family::kDeviceCache &&
             entry().args[0] == static_cast<uint64_t>(layout::Existence::kFail)) {
    EndKey(i, {StatusCode::kKeyAlreadyExists, TextOf(StatusCode::kKeyAlreadyExists, "set")});
  } else if (known != nullptr) {
    keys_[i].attached = true;
    keys_[i].slot = known->slot;
    keys_[i].generation = known->generation;
    keys_[i].state = State::kWaiting;
    if (family_ == layout::Family::kPublished || !known->committed)
      known->waiters.emplace_back(static_cast<PublishWaiter*>(this), i);
    if (known->committed) OnPublished(i);
  } else {
    DeviceObject& added = core_.objects.Add(call_, i, family_, sessionId());
    added.waiters.emplace_back(static_cast<PublishWaiter*>(this), i);
    keys_[i].slot = added.slot;
    asked_.push_back(i);
  }
}

void DevicePublish::Ask(layout::Op op, std::vector<std::byte> payload) {
  layout::KeyBatchHeader header{};
  std::memcpy(&header, payload.data(), sizeof(header));
  batchBytes_ = AlignTo8(sizeof(header) + 4ULL * header.count + header.keyBytes);
  Question question;
  question.op = op;
  question.count = header.count;
  question.args[0] = static_cast<uint64_t>(layout::Existence::kFail);
  question.args[1] = static_cast<uint64_t>(family_);
  question.payload = std::move(payload);
  const Status status = core_.control.Ask(std::move(question), this, static_cast<uint64_t>(op), &questionId_);
  if (!status.ok()) FailAsked(status);
}

void DevicePublish::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  const bool reserving = tag == static_cast<uint64_t>(layout::Op::kReserve);
  const char* asked = reserving ? "reserving" : "committing";
  if (!last) core_.control.Forget(questionId_);
  questionId_ = 0;
  batching_ = true;
  if (reply.entry.code != static_cast<uint32_t>(StatusCode::kOk)) {
    FailAsked(RefusalOf(reply, asked));
  } else if (const auto records = RecordsOf(reply, batchBytes_, asked_.size() * sizeof(layout::ResultRecord));
             records.empty()) {
    FailAsked({StatusCode::kDataInconsistency, std::string("the control process answered ") + asked +
                                                   " with records that don't fit: both must be of the same release"});
  } else if (reserving) {
    OnReserved(reinterpret_cast<const layout::ResultRecord*>(records.data()));
    Commit();
  } else {
    OnCommitted(reinterpret_cast<const layout::ResultRecord*>(records.data()));
  }
  batching_ = false;
  Advance();
}

Status DevicePublish::Refusal(uint32_t key, const layout::ResultRecord& record, const char* asked) const {
  const auto code = static_cast<StatusCode>(record.code);
  if (IsOtherFamily(record)) return {code, FamilyText(call_.key(key), record)};
  const bool existed = code == StatusCode::kOk && (record.flags & layout::kExisted) != 0;
  if (code != StatusCode::kKeyAlreadyExists && !existed) return {code, TextOf(code, asked)};
  return {StatusCode::kInvalid,
          "key " + ShowKey(call_.key(key)) + " is another client's: use another key, or wait until it is gone"};
}

void DevicePublish::OnReserved(const layout::ResultRecord* records) {
  for (size_t n = 0; n < asked_.size(); ++n) {
    const uint32_t i = asked_[n];
    const layout::ResultRecord& record = records[n];
    if (keys_[i].state != State::kReserving) continue;
    DeviceObject* object = core_.objects.Find(keys_[i].slot);
    if (object == nullptr) continue;  // it has ended
    if (record.code != 0 || (record.flags & layout::kExisted) != 0) {
      core_.objects.Remove(*object, Refusal(i, record, "reserving"), false);
      continue;
    }
    keys_[i].generation = record.generation;
    keys_[i].state = State::kCommitting;
    object->generation = record.generation;  // from now on readers whom the owner tells of it find it
  }
}

void DevicePublish::Commit() {
  asked_.clear();
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kCommitting) asked_.push_back(i);
  }
  if (asked_.empty()) return;
  std::vector<std::byte> payload = MakeKeyBatch(call_, asked_);
  for (const uint32_t i : asked_) {
    const layout::CommitRecord record{keys_[i].generation, call_.objectBytes(i), keys_[i].slot, 0};
    const auto* bytes = reinterpret_cast<const std::byte*>(&record);
    payload.insert(payload.end(), bytes, bytes + sizeof(record));
  }
  Ask(layout::Op::kCommit, std::move(payload));
}

void DevicePublish::OnCommitted(const layout::ResultRecord* records) {
  for (size_t n = 0; n < asked_.size(); ++n) {
    const uint32_t i = asked_[n];
    const layout::ResultRecord& record = records[n];
    const bool good = record.code == 0 && (record.flags & layout::kExisted) == 0;
    DeviceObject* object = core_.objects.Find(keys_[i].slot);
    if (object == nullptr) {
      // Taken back, or its client ended, while the owner was told.
      if (good) core_.objects.Forget(call_.key(i), family_, keys_[i].generation, keys_[i].slot);
    } else if (good) {
      core_.objects.Commit(*object);
    } else {
      core_.objects.Remove(*object, Refusal(i, record, "committing"), false);
    }
  }
  asked_.clear();
}

void DevicePublish::OnPublished(uint32_t i) {
  Key& key = keys_[i];
  if (key.state == State::kEnded || std::exchange(key.accepted, true)) return;
  key.state = State::kWaiting;
  if (family_ == layout::Family::kPublished) {
    events_.Accept(i);
    Advance();
    return;
  }
  layout::KeyResult& result = reply_.result(i);
  result.generation = key.generation;
  result.bytes = call_.objectBytes(i);
  if (key.attached) result.flags = layout::kExisted;
  EndKey(i, Status::Ok());
  Advance();
}

void DevicePublish::OnPublishEnded(uint32_t key, const Status& status) {
  EndKey(key, status);
  Advance();
}

void DevicePublish::EndKey(uint32_t i, const Status& status) {
  if (keys_[i].state == State::kEnded) return;
  keys_[i].state = State::kEnded;
  --open_;
  if (family_ == layout::Family::kPublished) {
    events_.End(i, status, call_.objectBytes(i));
  } else if (!status.ok()) {
    reply_.Fail(i, status);
  }
}

void DevicePublish::Withdraw(uint32_t i, const Status& why) {
  if (keys_[i].state == State::kEnded) return;
  DeviceObject* object = core_.objects.Find(keys_[i].slot);
  if (object != nullptr && (object->holds != 0 || object->consumed) && !answered()) {
    keys_[i].withdrawn = why;  // bytes move: it goes on
    return;
  }
  core_.objects.ForgetWaiter(keys_[i].slot, this, i);
  EndKey(i, why);
  // Another call that waits for the same publication keeps it.
  if (object != nullptr && object->waiters.empty()) core_.objects.Remove(*object, why, true);
}

void DevicePublish::OnReleased(uint32_t i) {
  if (keys_[i].withdrawn.ok()) return;
  const Status why = keys_[i].withdrawn;
  Withdraw(i, why);
  Advance();
}

void DevicePublish::FailAsked(const Status& status) {
  for (const uint32_t i : std::exchange(asked_, {})) {
    DeviceObject* object = core_.objects.Find(keys_[i].slot);
    // The owner may have been told, and may know it by now.
    if (object != nullptr && keys_[i].state == State::kCommitting) object->committed = true;
    if (object != nullptr) core_.objects.Remove(*object, status, true);
    EndKey(i, status);
  }
}

void DevicePublish::OnControlLost(uint64_t /*tag*/, const Status& why) {
  questionId_ = 0;
  FailAsked(why);
  Advance();
}

void DevicePublish::Stop(const Status& why) {
  for (uint32_t i = 0; i < keys_.size(); ++i) Withdraw(i, why);
  Advance();
}

void DevicePublish::StopKey(uint32_t key, const Status& why) {
  if (key < keys_.size()) Withdraw(key, why);
  Advance();
}

void DevicePublish::OnAbandoned() {
  // The objects end with the session, which tells their readers.
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kEnded) continue;
    core_.objects.ForgetWaiter(keys_[i].slot, this, i);
    EndKey(i, {StatusCode::kInterrupted, "the client ended"});
  }
  Advance();
}

void DevicePublish::OnDeadline() {
  if (asked_.empty()) return;
  if (questionId_ != 0) core_.control.Forget(std::exchange(questionId_, 0));
  FailAsked({StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(core_.options.controlTimeoutMs) +
                                                   " ms for the owners to confirm the keys: try again"});
  Advance();
}

void DevicePublish::Advance() {
  if (batching_) return;
  if (family_ == layout::Family::kPublished && !events_.empty()) {
    const uint32_t count = events_.count();
    if (open_ != 0) {
      Tell(events_.Take(), count);
    } else if (!answered()) {
      Answer(events_.Take());
    }
  }
  if (open_ != 0) return;
  if (!answered()) Answer(reply_.Build());
  if (questionId_ == 0) Finish();
}

}  // namespace hbmesh::sidecar
