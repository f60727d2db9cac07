#include "sidecar/get_transfer.h"

#include <utility>

#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

GetTransfer::GetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry), call_(std::move(call)), timeoutMs_(entry.args[0]) {}

GetTransfer::~GetTransfer() {
  if (questionId_ != 0) core_.control.Cancel(questionId_);
  for (const Remote& remote : remotes_) {
    if (remote.question != 0) core_.control.Cancel(remote.question);
  }
  if (!remotes_.empty()) {
    core_.peers.ForgetOpens(this);
    core_.pending.Forget(this);
  }
  EndReturns({});
  core_.tokens.groups().Close(group_);
}

void GetTransfer::Start() {
  reply_.Reset(call_.count());
  open_ = call_.count();
  LocalBatch local;
  for (uint32_t i = 0; i < call_.count(); ++i) {
    if (const auto sealed = core_.store.FindSealed(call_.key(i)); sealed.has_value()) {
      AddLocal(i, *sealed, &local);
    } else {
      remotes_.emplace_back().key = i;
    }
  }
  SetDeadline(timeoutMs_ + TransferLimitMs(call_.totalBytes()));
  StartLocal(std::move(local));
  if (!remotes_.empty()) Lookup();
  Advance();
}

void GetTransfer::AddLocal(uint32_t key, const ObjectView& object, LocalBatch* batch) {
  if (const Status shape = CheckShape(call_, key, object.blobSizes, kGetWords); !shape.ok()) {
    reply_.Fail(key, shape);
    --open_;
    return;
  }
  if (object.payload == nullptr) {
    BringBack(key, object);
    return;
  }
  core_.store.Hold(object.slot);
  if (object.payloadCrc32c.has_value()) {
    batch->checks.push_back({{{object.payload, object.payloadBytes}}, *object.payloadCrc32c, 0});
    batch->checkedKeys.push_back(static_cast<uint32_t>(batch->keys.size()));
  }
  batch->keys.push_back(key);
  batch->slots.push_back(object.slot);
  batch->generations.push_back(object.generation);
  const std::byte* source = object.payload;
  for (uint32_t blob = call_.blobBegin(key); blob < call_.blobEnd(key); ++blob) {
    batch->pieces.push_back({call_.blobAddress(blob), source, call_.blobSize(blob)});
    source += call_.blobSize(blob);
  }
  batch->bytes += object.payloadBytes;
}

Status GetTransfer::Damaged(const std::string& where) {
  return {StatusCode::kDataInconsistency,
          "the bytes of the object are not those that were set (its checksum differs; it was read from " + where +
              "): delete the key and set it again"};
}

void GetTransfer::StartLocal(LocalBatch batch) {
  if (batch.keys.empty()) return;
  if (batch.startNs == 0) batch.startNs = core_.clock.NowNs();
  batch.outstanding = batch.checks.empty() ? 1 : 2;
  ++moving_;
  std::vector<CopyPiece> pieces = batch.pieces;
  locals_.push_back(std::move(batch));
  const uint64_t tag = MakeTag(kLocalTag, locals_.size() - 1);
  core_.copier.Copy(call_.device(), CopyKind::kHostToDevice, std::move(pieces), this, tag);
  if (!locals_.back().checks.empty()) core_.checksums.Compute(locals_.back().checks, this, tag);
}

void GetTransfer::OnCompletion(uint64_t tag, const Status& status) {
  const uint32_t index = static_cast<uint32_t>(tag) >> 2;
  switch (static_cast<Tag>(tag & 3)) {
    case kLocalTag:
      OnLocal(locals_[index], status);
      break;
    case kReadTag:
      OnRead(index, tag >> 32, status);
      break;
    case kScatterTag:
    case kCheckTag:
      OnCopied(index, status);
      break;
  }
  Advance();
}

void GetTransfer::OnLocal(LocalBatch& batch, const Status& status) {
  if (!status.ok()) batch.copied = status;
  if (--batch.outstanding == 0) EndLocal(batch);
}

void GetTransfer::EndLocal(LocalBatch& batch) {
  --moving_;
  std::vector<bool> damaged(batch.keys.size());
  for (size_t n = 0; n < batch.checks.size(); ++n) {
    damaged[batch.checkedKeys[n]] = batch.checks[n].crc32c != batch.checks[n].expected;
  }
  for (size_t n = 0; n < batch.keys.size(); ++n) {
    core_.store.Release(batch.slots[n]);
    if (!batch.copied.ok()) {
      const bool stopped = stopped_.has_value() && batch.copied.code() == StatusCode::kRpcCancelled;
      reply_.Fail(batch.keys[n], stopped ? *stopped_ : batch.copied);
    } else if (damaged[n]) {
      reply_.Fail(batch.keys[n], Damaged(core_.options.workerAddress));
    } else {
      SetOk(batch.keys[n], batch.generations[n]);
    }
    --open_;
  }
  if (!batch.copied.ok()) return;
  layout::PathRecord path = MakePath(layout::TransportId::kLocal, call_.device(), 0, core_.options.workerAddress);
  path.lanes = core_.devices[call_.device()]->capabilities().copyThreads;
  path.slices = static_cast<uint32_t>(batch.pieces.size());
  path.bytes = batch.bytes;
  path.nanoseconds = core_.clock.NowNs() - batch.startNs;
  if (batch.spilled) path.flags |= layout::kPathSpilled;
  reply_.AddPath(path);
}

void GetTransfer::Lookup() {
  Question question;
  question.op = layout::Op::kLookup;
  question.count = static_cast<uint32_t>(remotes_.size());
  question.args[0] = timeoutMs_;
  question.args[1] = core_.options.sliceBytes;
  question.args[2] = core_.options.lanes;
  std::vector<uint32_t> keys;
  for (const Remote& remote : remotes_) keys.push_back(remote.key);
  question.payload = LookupPayload(call_, keys);
  if (const Status status = core_.control.Ask(std::move(question), this, 0, &questionId_); !status.ok()) {
    FailWaiting(status);
  }
}

void GetTransfer::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  if (tag != 0) {
    OnAskedAgain(static_cast<uint32_t>(tag - 1), reply, last);
    return;
  }
  if (last) questionId_ = 0;
  Status status =
      reply.entry.code == static_cast<uint32_t>(StatusCode::kOk) ? TakeLookup(reply) : RefusalOf(reply, "looking up");
  if (status.ok() && last) {
    status = {StatusCode::kDataInconsistency,
              "the control process ended the lookup without an answer for the key: see the worker's log"};
  }
  if (!status.ok()) {
    if (questionId_ != 0) core_.control.Cancel(std::exchange(questionId_, 0));
    for (Remote& remote : remotes_) {
      if (remote.state == State::kLooking) FailRemote(remote, status);
    }
  }
  Advance();
}

Status GetTransfer::TakeLookup(const Message& reply) {
  LookupView view;
  if (Status status = ParseLookup(reply, static_cast<uint32_t>(remotes_.size()), &view); !status.ok()) return status;
  for (const layout::SliceRecord& slice : view.slices) {
    if (remotes_[slice.keyIndex].state == State::kLooking) remotes_[slice.keyIndex].slices.push_back(slice);
  }
  LocalBatch local;
  for (const layout::FoundRecord& found : view.found) {
    if (remotes_[found.keyIndex].state != State::kLooking) continue;
    TakeFound(remotes_[found.keyIndex], found, view.messages);
    if (remotes_[found.keyIndex].state != State::kEnded) TryNext(found.keyIndex, &local);
  }
  StartLocal(std::move(local));
  return Status::Ok();
}

void GetTransfer::TakeFound(Remote& remote, const layout::FoundRecord& found, std::string_view messages) {
  const auto code = static_cast<StatusCode>(found.code);
  if (code == StatusCode::kOk) {
    remote.found = found.result;
    return;
  }
  std::string text(messages.substr(found.messageOffset, found.messageBytes));
  if (text.empty() && IsOtherFamily(found.result)) text = FamilyText(call_.key(remote.key), found.result);
  if (text.empty()) text = code == StatusCode::kNotFound ? MissingText() : TextOf(code, "looking up");
  FailRemote(remote, {code, std::move(text)});
}

std::string GetTransfer::MissingText() const {
  if (timeoutMs_ == 0) return "no object is set under this key: set it first, or give timeoutMs to wait for it";
  return "not set within " + std::to_string(timeoutMs_) +
         " ms: see whether the process that sets it is alive, or wait longer";
}

void GetTransfer::OnControlLost(uint64_t tag, const Status& why) {
  if (tag == 0) questionId_ = 0;
  for (Remote& remote : remotes_) {
    if (tag == 0 && remote.state == State::kLooking) FailRemote(remote, why);
  }
  if (tag != 0) {
    Remote& remote = remotes_[tag - 1];
    remote.question = 0;
    if (remote.state == State::kAsking) FailRemote(remote, why);
  }
  Advance();
}

void GetTransfer::SetOk(uint32_t key, uint64_t generation) {
  layout::KeyResult& result = reply_.result(key);
  result.code = static_cast<uint32_t>(StatusCode::kOk);
  result.generation = generation;
  result.bytes = call_.objectBytes(key);
  ++core_.counters.transfers;
  core_.counters.transferredBytes += result.bytes;
}

void GetTransfer::EndRemote(Remote& remote) {
  remote.state = State::kEnded;
  --open_;
}

void GetTransfer::FailRemote(Remote& remote, const Status& status) {
  reply_.Fail(remote.key, status);
  EndRemote(remote);
}

void GetTransfer::FailWaiting(const Status& status) {
  for (Remote& remote : remotes_) {
    const bool waits = remote.state == State::kLooking || remote.state == State::kOpening;
    if (waits || remote.state == State::kAsking) FailRemote(remote, status);
    if (remote.question != 0) core_.control.Cancel(std::exchange(remote.question, 0));
  }
  core_.peers.ForgetOpens(this);
  if (questionId_ != 0) core_.control.Cancel(std::exchange(questionId_, 0));
}

void GetTransfer::Stop(const Status& why) {
  stopped_ = why;
  EndReturns(why);
  FailWaiting(why);
  // A worker that is being stopped ends what has begun; nobody else waits for these bytes, and their memory may be
  // wanted for something else.
  if (why.code() != StatusCode::kShuttingDown) StopMoving();
  Advance();
}

void GetTransfer::OnAbandoned() { Stop({StatusCode::kInterrupted, "the client ended"}); }

void GetTransfer::StopMoving() {
  core_.copier.Cancel(this);
  core_.peers.CancelQueued(this);
}

void GetTransfer::OnDeadline() {
  const std::string limit = std::to_string(timeoutMs_ + TransferLimitMs(call_.totalBytes())) + " ms";
  const auto expired = [&](const std::string& waitedFor) {
    return Status(StatusCode::kRpcDeadlineExceeded,
                  "waited " + limit + " for " + waitedFor + "; try again, or lower --floor_mb_s");
  };
  stopped_ = expired("the bytes of the object");
  std::vector<uint32_t> slow;  // members whose reads don't come to an end
  for (Remote& remote : remotes_) {
    const bool looks = remote.state == State::kLooking || remote.state == State::kAsking;
    if (looks) FailRemote(remote, expired("the owner to say where the object is"));
    if (remote.state == State::kOpening || remote.state == State::kReading) {
      const uint32_t member = remote.found.locations[remote.location].member;
      if (remote.state == State::kReading) slow.push_back(member);
      const PeerLink* link = core_.peers.Find(member);
      const std::string name = link == nullptr ? "member " + std::to_string(member) : link->Name();
      if (remote.state == State::kOpening) FailRemote(remote, expired(name + " to open the object"));
    }
  }
  EndReturns(expired("the SSD tier to bring the object back to memory"));
  FailWaiting(*stopped_);
  // Nothing may be written to the caller's memory after the answer: reads are ended with their connection.
  for (const uint32_t member : slow) {
    if (PeerLink* link = core_.peers.Find(member); link != nullptr) link->Reset(*stopped_);
  }
  Advance();
}

void GetTransfer::Advance() {
  if (open_ != 0) return;
  if (!answered()) {
    for (const Source& source : sources_) {
      if (source.path.bytes != 0) reply_.AddPath(source.path);
    }
    Answer(reply_.Build());
  }
  if (moving_ == 0) Finish();
}

}  // namespace hbmesh::sidecar
