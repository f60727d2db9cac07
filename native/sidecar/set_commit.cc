// The part of SetTransfer that asks the owners: to reserve, to commit, what became of what they did not answer.
#include <algorithm>
#include <cstring>
#include <utility>

#include "sidecar/lookup.h"
#include "sidecar/set_transfer.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

namespace {

// Codes after which the owner may have committed.
bool IsUnsure(StatusCode code) {
  return code == StatusCode::kRpcUnavailable || code == StatusCode::kRpcPeerDead ||
         code == StatusCode::kRpcDeadlineExceeded || code == StatusCode::kRpcCancelled ||
         code == StatusCode::kClientWorkerDisconnect || code == StatusCode::kWorkerTimeout;
}

// Does this answer to a repeated commit tell for sure what became of the first? Others tell only that the control
// process, or the owner, could not say it now.
bool Decides(const layout::ResultRecord& record, uint64_t generation) {
  const auto code = static_cast<StatusCode>(record.code);
  return code == StatusCode::kOk || code == StatusCode::kKeyAlreadyExists || IsOtherFamily(record) ||
         (code == StatusCode::kTryAgain && record.generation != 0 && record.generation >= generation);
}

std::span<const layout::Location> LocationsOf(const layout::ResultRecord& record) {
  return {record.locations, std::min<size_t>(record.locationCount, std::size(record.locations))};
}

}  // namespace

void SetTransfer::Ask(layout::Op op, std::vector<std::byte> payload) {
  layout::KeyBatchHeader header{};
  std::memcpy(&header, payload.data(), sizeof(header));
  batchBytes_ = AlignTo8(sizeof(header) + 4ULL * header.count + header.keyBytes);
  Question question;
  question.op = op;
  question.count = header.count;
  question.args[0] = entry().args[0];
  question.payload = std::move(payload);
  const Status status = core_.control.Ask(std::move(question), this, static_cast<uint64_t>(op), &questionId_);
  // Nobody was asked, so nothing was committed; what was doubtful before stays so.
  if (!status.ok()) FailSurely(status);
}

void SetTransfer::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  const auto op = static_cast<layout::Op>(tag);
  const char* asked = op == layout::Op::kReserve ? "reserving" : "committing";
  if (!last) core_.control.Forget(questionId_);
  questionId_ = 0;
  if (reply.entry.code != static_cast<uint32_t>(StatusCode::kOk)) {
    const Status refusal = RefusalOf(reply, asked);
    if (IsUnsure(refusal.code())) {
      FailRest(refusal);
    } else {
      FailSurely(refusal);
    }
    Advance();
    return;
  }
  const auto records = RecordsOf(reply, batchBytes_, asked_.size() * sizeof(layout::ResultRecord));
  if (records.empty()) {
    FailRest({StatusCode::kDataInconsistency, std::string("the control process answered ") + asked +
                                                  " with records that don't fit: both must be of the same release"});
  } else if (op == layout::Op::kReserve) {
    OnReserved(reinterpret_cast<const layout::ResultRecord*>(records.data()));
    if (reservedFirst_) {
      asked_.clear();
      Prepare();
      return;
    }
  } else if (op == layout::Op::kPresence) {
    OnLocated(reinterpret_cast<const layout::ResultRecord*>(records.data()));
  } else {
    OnCommitted(reinterpret_cast<const layout::ResultRecord*>(records.data()));
  }
  Advance();
}

void SetTransfer::OnReserved(const layout::ResultRecord* records) {
  for (size_t n = 0; n < asked_.size(); ++n) {
    const uint32_t i = asked_[n];
    const layout::ResultRecord& record = records[n];
    if (keys_[i].state != State::kPending) continue;
    const auto code = static_cast<StatusCode>(record.code);
    if (code != StatusCode::kOk) {
      FailKey(i, {code, IsOtherFamily(record) ? FamilyText(call_.key(i), record) : TextOf(code, "reserving")});
    } else if ((record.flags & layout::kExisted) != 0 && existence_ != layout::Existence::kReplace) {
      if (LookHere(i, record) == Here::kComing) {
        FailKey(i, {StatusCode::kTryAgain, "another set of this key is under way on this worker: try again"});
      } else {
        EndExisted(i, record);
      }
    } else {
      keys_[i].state = State::kReserved;
      keys_[i].generation = record.generation;
    }
  }
}

void SetTransfer::ReserveFirst() {
  for (uint32_t i = 0; i < call_.count(); ++i) {
    if (existence_ == layout::Existence::kReplace || !core_.store.FindSealed(call_.key(i)).has_value()) {
      asked_.push_back(i);
    }
  }
  if (asked_.empty()) {
    Prepare();
    return;
  }
  reservedFirst_ = true;
  core_.keeper.Flush();  // owners hear of a key's end here before it is reserved anew
  Ask(layout::Op::kReserve, MakeKeyBatch(call_, asked_));
  if (questionId_ == 0) Advance();  // nobody was asked, and every key has failed
}

void SetTransfer::Commit() {
  for (Key& key : keys_) {
    if (key.state != State::kReserved) continue;
    key.state = State::kCommitting;
    core_.store.MarkWritten(key.slot, key.generation);
    key.written = true;
  }
  committed_ = true;
  AskToCommit(State::kCommitting);
}

void SetTransfer::CommitAtOnce() {
  for (const uint32_t i : asked_) {
    keys_[i].state = State::kCommitting;
    core_.pending.Add(keys_[i].slot, {call_.key(i), call_.blobSizes(i), call_.objectBytes(i), 0});
  }
  committed_ = true;
  AskToCommit(State::kCommitting);
}

SetTransfer::Here SetTransfer::LookHere(uint32_t i, const layout::ResultRecord& record) {
  bool gone = false;
  for (const layout::Location& location : LocationsOf(record)) {
    if (location.member != core_.peers.self()) continue;
    keys_[i].other = location.slot;
    if (core_.pending.Find(location.slot, record.generation) != nullptr) return Here::kComing;
    if (IsHere(location.slot, record.generation)) return Here::kSealed;
    gone = true;
  }
  return gone && record.locationCount == 1 ? Here::kGone : Here::kNot;
}

bool SetTransfer::IsHere(uint32_t slot, uint64_t generation) {
  ObjectView object;
  const Status status = core_.store.FindSlot(slot, generation, &object);
  return status.ok() || status.code() == StatusCode::kNotReady;  // which says: on the SSD tier
}

void SetTransfer::EndExisted(uint32_t i, const layout::ResultRecord& record) {
  const Here here = LookHere(i, record);
  if (here == Here::kGone) {
    FailKey(i, {StatusCode::kTryAgain,
                "the owner of the key knew of an object that this worker just lost, evicted or expired: try again"});
    return;
  }
  layout::KeyResult& result = reply_.result(i);
  result.flags = layout::kExisted;
  result.generation = record.generation;
  result.bytes = record.bytes;
  if (here == Here::kComing) {
    keys_[i].state = State::kAwaiting;
    core_.pending.Wait(keys_[i].other, this, i);
    return;
  }
  End(i);
}

void SetTransfer::OnSlotSettled(uint64_t tag) {
  const auto i = static_cast<uint32_t>(tag);
  if (keys_[i].state != State::kAwaiting) return;
  if (IsHere(keys_[i].other, reply_.result(i).generation)) {
    End(i);
  } else {
    // The other set failed, or its object was deleted since: ours counts.
    reply_.result(i) = {};
    keys_[i].state = State::kAgain;
  }
  Advance();
}

void SetTransfer::CommitAgain() {
  if (questionId_ != 0) return;
  bool any = false;
  for (Key& key : keys_) {
    if (key.state != State::kAgain) continue;
    key.state = State::kCommitting;
    any = true;
  }
  if (!any) return;
  core_.keeper.Flush();  // that the other one is gone comes first
  AskToCommit(State::kCommitting);
}

void SetTransfer::AskWhatBecame() {
  if (!atOnce_) {
    AskToCommit(State::kDoubtful);
    return;
  }
  asked_.clear();
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == State::kDoubtful) asked_.push_back(i);
  }
  if (!asked_.empty()) Ask(layout::Op::kPresence, MakeKeyBatch(call_, asked_));
}

void SetTransfer::OnLocated(const layout::ResultRecord* records) {
  for (size_t n = 0; n < asked_.size(); ++n) {
    const uint32_t i = asked_[n];
    const layout::ResultRecord& record = records[n];
    const auto code = static_cast<StatusCode>(record.code);
    if (keys_[i].state != State::kDoubtful || (code != StatusCode::kOk && code != StatusCode::kNotFound)) continue;
    const auto isOurs = [&](const layout::Location& location) {
      return location.member == core_.peers.self() && location.slot == keys_[i].slot;
    };
    if (code == StatusCode::kOk && std::ranges::any_of(LocationsOf(record), isOurs)) {
      keys_[i].state = State::kConfirmed;
      keys_[i].generation = record.generation;
      core_.pending.Confirm(keys_[i].slot, record.generation);
    } else {
      End(i);  // never committed, or deleted since, or another one's
    }
  }
}

void SetTransfer::AskToCommit(State state) {
  asked_.clear();
  for (uint32_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i].state == state) asked_.push_back(i);
  }
  if (asked_.empty()) return;
  std::vector<std::byte> payload = MakeKeyBatch(call_, asked_);
  const size_t batchBytes = payload.size();
  payload.resize(batchBytes + asked_.size() * sizeof(layout::CommitRecord));
  for (size_t n = 0; n < asked_.size(); ++n) {
    const Key& key = keys_[asked_[n]];
    const layout::CommitRecord record{key.generation, call_.objectBytes(asked_[n]), key.slot, 0};
    std::memcpy(payload.data() + batchBytes + n * sizeof(record), &record, sizeof(record));
  }
  Ask(layout::Op::kCommit, std::move(payload));
}

void SetTransfer::OnCommitted(const layout::ResultRecord* records) {
  const uint64_t nowMs = core_.clock.NowMs();
  for (size_t n = 0; n < asked_.size(); ++n) {
    const uint32_t i = asked_[n];
    const layout::ResultRecord& record = records[n];
    if (keys_[i].state != State::kCommitting && keys_[i].state != State::kDoubtful) continue;
    const auto code = static_cast<StatusCode>(record.code);
    if (IsUnsure(code) || (keys_[i].state == State::kDoubtful && !Decides(record, keys_[i].generation))) {
      Doubt(i, {code, TextOf(code, "committing")});
      continue;
    }
    if (code != StatusCode::kOk) {
      // It was known, or a newer one: the owner left it to our seal, which won't be, to replace what is sealed here.
      const bool known = code == StatusCode::kTryAgain && record.generation >= keys_[i].generation;
      if (known && existence_ == layout::Existence::kReplace) {
        DropOlderThan(core_.store, call_.key(i), keys_[i].generation);
      }
      FailKey(i, {code, IsOtherFamily(record) ? FamilyText(call_.key(i), record) : TextOf(code, "committing")});
      continue;
    }
    if ((record.flags & layout::kExisted) != 0 && existence_ != layout::Existence::kReplace) {
      EndExisted(i, record);
      continue;
    }
    if (atOnce_) {
      keys_[i].state = State::kConfirmed;
      keys_[i].generation = record.generation;
      core_.pending.Confirm(keys_[i].slot, record.generation);
      continue;
    }
    // A delete may have reached this worker before the owner's answer: then the slot is someone else's by now.
    ObjectView written;
    if (core_.store.FindSlot(keys_[i].slot, keys_[i].generation, &written).ok()) {
      core_.store.Seal(keys_[i].slot, nowMs);
      core_.keeper.OnSealed();
    }
    keys_[i].allocated = false;  // it is the store's now
    SetOk(i, record.flags & layout::kExisted);
  }
}

}  // namespace hbmesh::sidecar
