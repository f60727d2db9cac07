#include "sidecar/device_fetch.h"

#include <algorithm>
#include <utility>

#include "sidecar/key_check.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kRetryMsMin = 1;
constexpr uint64_t kRetryMsMax = 32;
constexpr uint32_t kRetryDoublings = 5;

}  // namespace

DeviceFetch::DeviceFetch(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry),
      call_(std::move(call)),
      subscribe_(static_cast<layout::Op>(entry.op) == layout::Op::kDevSubscribe),
      timeoutMs_(entry.args[0]),
      share_(!subscribe_ && (entry.args[1] & layout::kShareReplica) != 0),
      startNs_(core.clock.NowNs()) {}

DeviceFetch::~DeviceFetch() {
  core_.timers.Cancel(retry_);
  for (const auto& [tag, asked] : questions_) core_.control.Cancel(asked.id);
  core_.peers.ForgetMemory(this);
  for (const auto& [hold, key] : holdsHere_) core_.objects.Close(hold);
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kSharing) core_.objects.ForgetWaiter(keys_[i].replica, this, i);
  }
}

void DeviceFetch::Start() {
  reply_.Reset(call_.count());
  keys_.resize(call_.count());
  open_ = call_.count();
  SetDeadline(subscribe_ ? timeoutMs_ : timeoutMs_ + TransferLimitMs(call_.totalBytes()));
  std::vector<uint32_t> all(call_.count());
  for (uint32_t i = 0; i < call_.count(); ++i) all[i] = i;
  Lookup(std::move(all));
  Advance();
}

uint64_t DeviceFetch::LeftMs() const {
  const uint64_t elapsedMs = (core_.clock.NowNs() - startNs_) / kNsPerMs;
  return timeoutMs_ > elapsedMs ? timeoutMs_ - elapsedMs : 0;
}

void DeviceFetch::Lookup(std::vector<uint32_t> keys) {
  const uint64_t tag = ++lastQuestion_;
  Question question;
  question.op = layout::Op::kLookup;
  question.count = static_cast<uint32_t>(keys.size());
  question.args[0] = LeftMs();
  question.args[1] = core_.options.sliceBytes;
  question.args[2] = core_.options.lanes;
  question.args[3] = static_cast<uint64_t>(subscribe_ ? layout::Family::kPublished : layout::Family::kDeviceCache);
  question.payload = LookupPayload(call_, keys);
  for (const uint32_t key : keys) {
    keys_[key].state = State::kLooking;
    keys_[key].question = tag;
    keys_[key].tried = 0;
    keys_[key].again = false;
    keys_[key].fault = Status::Ok();
  }
  uint64_t id = 0;
  if (const Status status = core_.control.Ask(std::move(question), this, tag, &id); !status.ok()) {
    for (const uint32_t key : keys) EndKey(key, status);
    return;
  }
  questions_.emplace(tag, Asked{id, std::move(keys)});
}

void DeviceFetch::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  Asked& known = questions_.at(tag);
  const Asked asked = last ? std::move(known) : known;
  if (last) questions_.erase(tag);
  Status status = reply.entry.code == static_cast<uint32_t>(StatusCode::kOk) ? TakeLookup(asked, reply)
                                                                             : RefusalOf(reply, "looking up");
  if (status.ok() && last) {
    status = {StatusCode::kDataInconsistency,
              "the control process ended the lookup without an answer for the key: see the worker's log"};
  }
  if (!status.ok()) {
    if (!last) core_.control.Cancel(asked.id);
    questions_.erase(tag);
    for (const uint32_t key : asked.keys) {
      if (keys_[key].state == State::kLooking && keys_[key].question == tag) EndKey(key, status);
    }
  }
  Advance();
}

void DeviceFetch::OnControlLost(uint64_t tag, const Status& why) {
  const Asked asked = std::move(questions_.at(tag));
  questions_.erase(tag);
  for (const uint32_t key : asked.keys) {
    if (keys_[key].state == State::kLooking && keys_[key].question == tag) EndKey(key, why);
  }
  Advance();
}

Status DeviceFetch::TakeLookup(const Asked& asked, const Message& reply) {
  LookupView view;
  if (Status status = ParseLookup(reply, static_cast<uint32_t>(asked.keys.size()), &view); !status.ok()) return status;
  for (const layout::FoundRecord& found : view.found) {
    const uint32_t key = asked.keys[found.keyIndex];
    if (keys_[key].state == State::kLooking) TakeFound(key, found, view.messages);
  }
  return Status::Ok();
}

void DeviceFetch::TakeFound(uint32_t index, const layout::FoundRecord& found, std::string_view messages) {
  const auto code = static_cast<StatusCode>(found.code);
  const auto ofRecord = static_cast<StatusCode>(found.result.code);
  if (code == StatusCode::kOk && ofRecord == StatusCode::kOk) {
    keys_[index].found = found.result;
    TryNext(index);
    return;
  }
  layout::ResultRecord record = found.result;
  record.code = static_cast<uint32_t>(code == StatusCode::kOk ? ofRecord : code);
  const auto refused = static_cast<StatusCode>(record.code);
  std::string text(messages.substr(found.messageOffset, found.messageBytes));
  if (text.empty() && IsOtherFamily(record)) text = FamilyText(call_.key(index), record);
  if (refused == StatusCode::kNotFound) {
    EndKey(index, Missing(index));
  } else if (refused == StatusCode::kTryAgain && LeftMs() != 0) {
    Wait(index);
  } else {
    EndKey(index, {refused, text.empty() ? TextOf(refused, "looking up") : std::move(text)});
  }
}

Status DeviceFetch::Missing(uint32_t index) const {
  const std::string name = "key " + ShowKey(call_.key(index));
  const std::string waited = std::to_string(timeoutMs_) + " ms";
  if (subscribe_) {
    return {StatusCode::kFutureTimeout, "waited " + waited + " for " + name +
                                            " to be published: see whether its publisher is alive, or wait longer"};
  }
  if (timeoutMs_ == 0) {
    return {StatusCode::kNotFound, name + " is not in the device cache: set it with devMSet, or give timeoutMs"};
  }
  return {StatusCode::kNotFound, name + " was not set within " + waited + ": see whether its setter is alive"};
}

void DeviceFetch::Wait(uint32_t index) {
  keys_[index].state = State::kWaiting;
  if (retry_.id != 0) return;
  const uint64_t ms = std::min(kRetryMsMax, kRetryMsMin << std::min(retries_, kRetryDoublings));
  retry_ = core_.timers.Add(core_.clock.NowNs() + ms * kNsPerMs, [this] {
    retry_ = {};
    RetryWaiting();
  });
}

void DeviceFetch::RetryWaiting() {
  ++retries_;
  std::vector<uint32_t> waiting;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kWaiting) waiting.push_back(i);
  }
  if (!waiting.empty()) Lookup(std::move(waiting));
  Advance();
}

void DeviceFetch::EndKey(uint32_t index, const Status& status) {
  Key& key = keys_[index];
  if (key.state == State::kEnded) return;
  key.state = State::kEnded;
  --open_;
  if (status.ok()) {
    ++core_.counters.transfers;
    core_.counters.transferredBytes += call_.objectBytes(index);
  }
  if (subscribe_) {
    events_.End(index, status, call_.objectBytes(index));
    if (status.ok()) events_.AddPath(key.mover->path());
    return;
  }
  if (!status.ok()) {
    reply_.Fail(index, status);
    return;
  }
  reply_.AddPath(key.mover->path());
  layout::KeyResult& result = reply_.result(index);
  result.code = static_cast<uint32_t>(StatusCode::kOk);
  result.generation = key.found.generation;
  result.bytes = call_.objectBytes(index);
}

void DeviceFetch::FailWaiting(const Status& status) {
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (IsWaiting(i)) EndKey(i, status);
  }
  StopLooking();
}

void DeviceFetch::StopLooking() {
  for (const auto& [tag, asked] : std::exchange(questions_, {})) core_.control.Cancel(asked.id);
  core_.timers.Cancel(retry_);
}

void DeviceFetch::Stop(const Status& why) {
  stopped_ = why;
  FailWaiting(why);
  // A worker that is being stopped ends what has begun; nobody else waits for these bytes, and their memory may be
  // wanted for something else.
  const bool breaks = why.code() != StatusCode::kShuttingDown;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (breaks && keys_[i].state == State::kMoving) keys_[i].mover->Break(why);
    EndSharing(i);
  }
  Advance();
}

void DeviceFetch::StopKey(uint32_t key, const Status& why) {
  if (key < keys_.size() && IsWaiting(key)) EndKey(key, why);
  if (key < keys_.size() && keys_[key].state == State::kMoving) keys_[key].mover->Break(why);
  Advance();
}

void DeviceFetch::OnAbandoned() {
  const Status why(StatusCode::kInterrupted, "the client ended");
  abandoned_ = true;
  stopped_ = why;
  FailWaiting(why);
  // What it took is to be free for others soon.
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kMoving) keys_[i].mover->Break(why);
    EndSharing(i);
  }
  Advance();
}

void DeviceFetch::OnDeadline() {
  if (subscribe_ && !stopped_.has_value()) {
    for (uint32_t i = 0; i < keys_.size(); ++i) {
      if (IsWaiting(i)) EndKey(i, Missing(i));
    }
    StopLooking();
    stopped_ = Status(StatusCode::kFutureTimeout, "the time of the call is over");
    if (open_ != 0) SetDeadline(TransferLimitMs(call_.totalBytes()));
    Advance();
    return;
  }
  const uint64_t limitMs = (core_.clock.NowNs() - startNs_) / kNsPerMs;
  const Status expired(StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(limitMs) +
                                                             " ms for the bytes of the object; try again, or lower "
                                                             "--floor_mb_s");
  stopped_ = expired;
  FailWaiting(expired);
  std::vector<uint32_t> slow;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    Key& key = keys_[i];
    if (key.state == State::kClosing) EndMove(i);  // the bytes are whole
    EndSharing(i);                                 // so they are here
    if (key.state != State::kMoving) continue;
    key.mover->Break(expired);
    if (!key.here) slow.push_back(key.found.locations[key.location].member);
  }
  // Nothing may be written to the caller's memory after the answer: reads are ended with their connection.
  for (const uint32_t member : slow) {
    if (PeerLink* link = core_.peers.Find(member); link != nullptr) link->Reset(expired);
  }
  Advance();
}

void DeviceFetch::Advance() {
  if (subscribe_ && !events_.empty()) {
    const uint32_t count = events_.count();
    if (open_ != 0) {
      Tell(events_.Take(), count);
    } else if (!answered()) {
      Answer(events_.Take());
    }
  }
  if (open_ != 0) return;
  if (!answered()) Answer(reply_.Build());
  if (moving_ == 0) Finish();
}

}  // namespace hbmesh::sidecar
