#include "sidecar/set_transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sidecar/lookup.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

namespace {

// How long until owners that did not answer are asked again to commit.
constexpr uint64_t kCommitAgainMs = 500;

constexpr uint64_t kChecksumTag = 1;  // of completions; the copy's is 0

}  // namespace

SetTransfer::SetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry),
      call_(std::move(call)),
      existence_(static_cast<layout::Existence>(entry.args[0])) {}

SetTransfer::~SetTransfer() {
  for (const Key& key : keys_) {
    if (key.allocated) core_.pending.Settle(key.slot);
  }
  core_.pending.Forget(this);
  if (questionId_ != 0) core_.control.Forget(questionId_);
  if (room_ != 0) core_.keeper.tier()->ForgetRoom(room_);
}

void SetTransfer::Start() {
  startNs_ = core_.clock.NowNs();
  reply_.Reset(call_.count());
  keys_.resize(call_.count());
  SetDeadline(TransferLimitMs(call_.totalBytes()));
  if (core_.control.ownersLost()) {
    ReserveFirst();
  } else {
    Prepare();
  }
}

void SetTransfer::Prepare() {
  while (prepared_ < call_.count()) {
    if (!PrepareKey(prepared_)) return;
    ++prepared_;
  }
  Begin();
  Advance();
}

bool SetTransfer::PrepareKey(uint32_t i) {
  Key& key = keys_[i];
  if (key.state == State::kEnded) return true;  // by the answer to ReserveFirst
  const auto sealed = existence_ == layout::Existence::kReplace ? std::nullopt : core_.store.FindSealed(call_.key(i));
  if (sealed.has_value()) {
    if (existence_ == layout::Existence::kFail) {
      FailKey(i, {StatusCode::kKeyAlreadyExists, TextOf(StatusCode::kKeyAlreadyExists, "set")});
      return true;
    }
    layout::KeyResult& result = reply_.result(i);
    result.flags = layout::kExisted;
    result.generation = sealed->generation;
    result.bytes = sealed->payloadBytes;
    key.state = State::kEnded;
    return true;
  }
  if (reservedFirst_ && key.state == State::kPending) {
    FailKey(i, {StatusCode::kTryAgain, "the object under this key made room or expired just now: try again"});
    return true;
  }
  ObjectAttributes attributes;
  attributes.ttlMs = entry().args[1];
  attributes.pin = static_cast<Pin>(entry().args[2] & layout::kSetPinMask);
  ObjectView object;
  const Status status = std::exchange(roomMade_, false)
                            ? core_.keeper.Allocate(call_.key(i), call_.blobSizes(i), attributes, &object)
                            : core_.keeper.TryAllocate(call_.key(i), call_.blobSizes(i), attributes, &object);
  if (status.code() == StatusCode::kTryAgain) {
    AwaitRoom(i);
    return false;
  }
  if (!status.ok()) {
    FailKey(i, status);
    return true;
  }
  key.allocated = true;
  key.slot = object.slot;
  key.payload = object.payload;
  std::byte* target = object.payload;
  for (uint32_t blob = call_.blobBegin(i); blob < call_.blobEnd(i); ++blob) {
    pieces_.push_back({target, call_.blobAddress(blob), call_.blobSize(blob)});
    target += call_.blobSize(blob);
  }
  copiedBytes_ += object.payloadBytes;
  asked_.push_back(i);
  return true;
}

void SetTransfer::AwaitRoom(uint32_t first) {
  uint64_t bytes = 0;  // of all keys to come, so that the tier writes many objects at once
  for (uint32_t i = first; i < call_.count(); ++i) {
    bytes += ObjectStore::ExtentBytes(call_.key(i), call_.blobSizes(i));
  }
  const uint64_t extentBytes = ObjectStore::ExtentBytes(call_.key(first), call_.blobSizes(first));
  room_ = core_.keeper.tier()->MakeRoom(std::min(bytes, core_.store.usage().arenaBytes), extentBytes, [this] {
    room_ = 0;
    roomMade_ = true;
    Prepare();
  });
}

void SetTransfer::Begin() {
  slices_ = static_cast<uint32_t>(pieces_.size());
  if (!asked_.empty() && !reservedFirst_) {
    core_.keeper.Flush();  // owners hear of a key's end here before it is reserved anew
    atOnce_ = existence_ != layout::Existence::kReplace && copiedBytes_ <= core_.options.atOnceBytesMax;
    if (atOnce_) {
      CommitAtOnce();
    } else {
      Ask(layout::Op::kReserve, MakeKeyBatch(call_, asked_));
    }
  }
  // After the question: the owners work while the bytes move. Nothing is copied when it could not be asked.
  if (questionId_ == 0 && (!reservedFirst_ || asked_.empty())) return;
  copying_ = true;
  core_.copier.Copy(call_.device(), CopyKind::kDeviceToHost, std::move(pieces_), this, 0);
}

void SetTransfer::SetOk(uint32_t i, uint32_t flags) {
  keys_[i].state = State::kEnded;
  layout::KeyResult& result = reply_.result(i);
  result.flags = flags;
  result.generation = keys_[i].generation;
  result.bytes = call_.objectBytes(i);
  ++core_.counters.transfers;
  core_.counters.transferredBytes += result.bytes;
}

void SetTransfer::SealConfirmed(uint32_t i) {
  Key& key = keys_[i];
  if (!fault_.ok()) {
    FailKey(i, fault_);
    return;
  }
  const bool deleted = core_.pending.IsDropped(key.slot);
  core_.store.MarkWritten(key.slot, key.generation);
  key.written = true;
  SetOk(i, 0);
  if (deleted) {
    End(i);  // it was set, and deleted before its bytes were whole
    return;
  }
  core_.store.Seal(key.slot, core_.clock.NowMs());
  core_.keeper.OnSealed();
  key.allocated = false;  // it is the store's now
  core_.pending.Settle(key.slot);
}

void SetTransfer::TakeBack(uint32_t i) {
  const Key& key = keys_[i];
  if (key.state != State::kConfirmed || core_.pending.IsDropped(key.slot)) return;
  core_.keeper.TakeBack(call_.key(i), key.generation, key.slot);
}

void SetTransfer::OnCompletion(uint64_t tag, const Status& status) {
  if (tag == kChecksumTag) {
    OnChecksum();
  } else if (const bool givenUp = !cancelled_.ok() && !atOnce_; !status.ok() || givenUp || !BeginChecksum()) {
    EndCopy(status);
  }
  Advance();
}

void SetTransfer::EndCopy(const Status& status) {
  copying_ = false;
  if (!cancelled_.ok()) {
    EndCancelled(status);
    return;
  }
  if (!status.ok()) {
    if (atOnce_) {
      fault_ = status;
    } else {
      FailRest(status);
    }
    return;
  }
  layout::PathRecord path = MakePath(layout::TransportId::kLocal, call_.device(), 0, core_.options.workerAddress);
  path.lanes = core_.devices[call_.device()]->capabilities().copyThreads;
  path.slices = slices_;
  path.bytes = copiedBytes_;
  path.nanoseconds = core_.clock.NowNs() - startNs_;
  reply_.AddPath(path);
}

bool SetTransfer::BeginChecksum() {
  if ((entry().args[2] & layout::kSetChecksum) == 0) return false;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    const Key& key = keys_[i];
    if (!key.allocated || key.state == State::kEnded) continue;
    checks_.push_back({{{key.payload, call_.objectBytes(i)}}, 0, 0});
    checkedKeys_.push_back(i);
  }
  if (!checks_.empty()) core_.checksums.Compute(checks_, this, kChecksumTag);
  return !checks_.empty();
}

void SetTransfer::OnChecksum() {
  for (size_t n = 0; n < checks_.size(); ++n) {
    const Key& key = keys_[checkedKeys_[n]];
    if (key.state != State::kEnded) core_.store.SetPayloadCrc(key.slot, checks_[n].crc32c);
  }
  EndCopy(Status::Ok());
}

void SetTransfer::End(uint32_t i) {
  keys_[i].state = State::kEnded;
  if (keys_[i].allocated) core_.pending.Settle(keys_[i].slot);
  // While a copy writes to it the slot stays; Advance drops it when the copy is done.
  if (copying_ || !keys_[i].allocated) return;
  (void)core_.store.Drop(keys_[i].slot, keys_[i].written ? keys_[i].generation : 0).ok();
  keys_[i].allocated = false;
}

void SetTransfer::Doubt(uint32_t i, const Status& status) {
  keys_[i].state = State::kDoubtful;
  reply_.Fail(i,
              {status.code(), status.message() + "; whether the key is there is not known yet: it may become visible"});
}

void SetTransfer::FailKey(uint32_t key, const Status& status) {
  TakeBack(key);
  reply_.result(key) = {};
  reply_.Fail(key, status);
  End(key);
}

void SetTransfer::FailRest(const Status& status) {
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kCommitting) {
      Doubt(i, status);
    } else if (keys_[i].state != State::kEnded && keys_[i].state != State::kDoubtful) {
      FailKey(i, status);
    }
  }
}

void SetTransfer::FailSurely(const Status& status) {
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state != State::kEnded && keys_[i].state != State::kDoubtful) FailKey(i, status);
  }
}

void SetTransfer::OnControlLost(uint64_t /*tag*/, const Status& why) {
  questionId_ = 0;
  FailRest(why);
  Advance();
}

void SetTransfer::Stop(const Status& why) {
  stopped_ = stopped_ || why.code() == StatusCode::kShuttingDown;
  if (answered()) {
    FinishWhenDone();
    return;
  }
  if (why.code() == StatusCode::kShuttingDown) {
    // Only what waits for the owners' first answer is taken back.
    if (committed_ || copying_) return;
  } else if (copying_) {
    if (cancelled_.ok()) cancelled_ = why;
    // Its owners were told of it at once: it goes through where they confirm it.
    if (!atOnce_) core_.copier.Cancel(this);
    return;
  }
  FailRest(why);
  Advance();
}

void SetTransfer::EndCancelled(const Status& copied) {
  if (atOnce_ && fault_.ok()) fault_ = copied;  // the client may have ended after its cancel
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kConfirmed) SealConfirmed(i);
  }
  FailRest(cancelled_);
}

void SetTransfer::OnAbandoned() {
  // Bytes that nobody vouches for are not kept; the owners hear of it when the copy has ended.
  if (copying_ && atOnce_) fault_ = {StatusCode::kInterrupted, "the client ended"};
  if (committed_) return;
  FailRest({StatusCode::kInterrupted, "the client ended"});
  Advance();
}

void SetTransfer::OnDeadline() {
  if (answered() && committed_) {
    // Also when the last question got no answer: what was asked is forgotten, or it would never be asked again.
    FailRest({StatusCode::kRpcDeadlineExceeded, "the owners did not confirm the keys"});
    if (questionId_ != 0) core_.control.Forget(std::exchange(questionId_, 0));
    AskWhatBecame();
    FinishWhenDone();
    return;
  }
  const char* waitedFor = "the owners to reserve the keys";
  if (room_ != 0) waitedFor = "room in the arena, whose objects are being written to the SSD tier";
  if (copying_) waitedFor = "the copy from device memory";
  if (!copying_ && committed_) waitedFor = "the owners to confirm the keys";
  FailRest({StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(TransferLimitMs(call_.totalBytes())) +
                                                  " ms for " + waitedFor + "; try again, or lower --floor_mb_s"});
  if (copying_) core_.copier.Cancel(this);
  Advance();
}

void SetTransfer::Advance() {
  CommitAgain();
  bool waiting = copying_;  // the caller's memory is read until the copy ends, whatever became of the keys
  bool reserved = false;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    const Key& key = keys_[i];
    if (key.state == State::kConfirmed && !copying_) SealConfirmed(i);
    waiting = waiting || key.state == State::kPending || key.state == State::kCommitting ||
              key.state == State::kAwaiting || key.state == State::kAgain;
    waiting = waiting || key.state == State::kConfirmed;
    reserved = reserved || key.state == State::kReserved;
  }
  if (reserved && !waiting) {
    Commit();  // fails its keys if there is nobody to ask
    waiting = questionId_ != 0;
    reserved = false;
  }
  if (waiting || reserved) return;
  if (questionId_ != 0) core_.control.Forget(std::exchange(questionId_, 0));
  if (!answered()) Answer(reply_.Build());
  FinishWhenDone();
}

void SetTransfer::FinishWhenDone() {
  if (copying_) return;
  if (room_ != 0) core_.keeper.tier()->ForgetRoom(std::exchange(room_, 0));
  bool doubtful = false;
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    doubtful = doubtful || keys_[i].state == State::kDoubtful;
    if (keys_[i].allocated && keys_[i].state == State::kEnded) End(i);
  }
  if (doubtful && !stopped_) {
    SetDeadline(questionId_ == 0 ? kCommitAgainMs : core_.options.controlTimeoutMs);
    return;
  }
  Finish();
}

}  // namespace hbmesh::sidecar
