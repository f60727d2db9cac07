#include "sidecar/get_transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr size_t kShownSizes = 8;

std::string ShowSizes(std::span<const uint64_t> sizes) {
  std::string text = std::to_string(sizes.size()) + (sizes.size() == 1 ? " blob of " : " blobs of ");
  for (size_t i = 0; i < std::min(sizes.size(), kShownSizes); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return text + (sizes.size() > kShownSizes ? ", … bytes" : " bytes");
}

}  // namespace

GetTransfer::GetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry), call_(std::move(call)), timeoutMs_(entry.args[0]) {}

GetTransfer::~GetTransfer() {
  if (questionId_ != 0) core_.control.Cancel(questionId_);
  if (!remotes_.empty()) core_.peers.ForgetOpens(this);
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

Status GetTransfer::CheckShape(uint32_t key, std::span<const uint64_t> stored) const {
  const std::span<const uint64_t> wanted = call_.blobSizes(key);
  if (std::ranges::equal(wanted, stored)) return Status::Ok();
  const auto different = std::ranges::mismatch(wanted, stored);
  const auto at = static_cast<size_t>(different.in1 - wanted.begin());
  std::string where;
  if (at >= kShownSizes && at < wanted.size() && at < stored.size()) {
    where = " (blob " + std::to_string(at + 1) + ": " + std::to_string(wanted[at]) + " and " +
            std::to_string(stored[at]) + " bytes)";
  }
  return {StatusCode::kInvalid, "the get has " + ShowSizes(wanted) + ", the object was set with " + ShowSizes(stored) +
                                    where + ": give the blobs of the set"};
}

void GetTransfer::AddLocal(uint32_t key, const ObjectView& object, LocalBatch* batch) {
  if (const Status shape = CheckShape(key, object.blobSizes); !shape.ok()) {
    reply_.Fail(key, shape);
    --open_;
    return;
  }
  core_.store.Hold(object.slot);
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

// Tags of completions: the lowest two bits say what ended, the rest is an index.
namespace {
constexpr uint64_t kLocalTag = 0;
constexpr uint64_t kReadTag = 1;
constexpr uint64_t MakeTag(uint64_t kind, size_t index) { return (static_cast<uint64_t>(index) << 2) | kind; }
}  // namespace

void GetTransfer::StartLocal(LocalBatch batch) {
  if (batch.keys.empty()) return;
  batch.startNs = core_.clock.NowNs();
  ++moving_;
  std::vector<CopyPiece> pieces = batch.pieces;
  locals_.push_back(std::move(batch));
  core_.copier.Copy(call_.device(), CopyKind::kHostToDevice, std::move(pieces), this,
                    MakeTag(kLocalTag, locals_.size() - 1));
}

void GetTransfer::OnCompletion(uint64_t tag, const Status& status) {
  const auto index = static_cast<uint32_t>(tag >> 2);
  switch (tag & 3) {
    case kLocalTag:
      EndLocal(locals_[index], status);
      break;
    case kReadTag: {
      Remote& remote = remotes_[index];
      --remote.outstanding;
      if (!status.ok() && remote.fault.ok()) remote.fault = status;
      if (remote.outstanding == 0) EndReads(index);
      break;
    }
    default: {
      Remote& remote = remotes_[index];
      --moving_;
      Unstage(remote);
      if (status.ok()) {
        SetOk(remote.key, remote.found.generation);
        EndRemote(remote);
      } else {
        FailRemote(remote, status);
      }
    }
  }
  Advance();
}

void GetTransfer::EndLocal(LocalBatch& batch, const Status& status) {
  --moving_;
  for (size_t n = 0; n < batch.keys.size(); ++n) {
    core_.store.Release(batch.slots[n]);
    if (status.ok()) {
      SetOk(batch.keys[n], batch.generations[n]);
    } else {
      reply_.Fail(batch.keys[n], status);
    }
    --open_;
  }
  if (!status.ok()) return;
  layout::PathRecord path = MakePath(layout::TransportId::kLocal, call_.device(), 0, core_.options.workerAddress);
  path.lanes = core_.devices[call_.device()]->capabilities().copyThreads;
  path.slices = static_cast<uint32_t>(batch.pieces.size());
  path.bytes = batch.bytes;
  path.nanoseconds = core_.clock.NowNs() - batch.startNs;
  reply_.AddPath(path);
}

void GetTransfer::Lookup() {
  Question question;
  question.op = layout::Op::kLookup;
  question.count = static_cast<uint32_t>(remotes_.size());
  question.args[0] = timeoutMs_;
  question.args[1] = core_.options.sliceBytes;
  question.args[2] = core_.options.lanes;
  question.payload = LookupPayload();
  if (const Status status = core_.control.Ask(std::move(question), this, 0, &questionId_); !status.ok()) {
    FailWaiting(status);
  }
}

std::vector<std::byte> GetTransfer::LookupPayload() const {
  std::vector<uint32_t> keys;
  std::vector<uint32_t> ends;
  std::vector<uint64_t> sizes;
  for (const Remote& remote : remotes_) {
    keys.push_back(remote.key);
    const auto blobs = call_.blobSizes(remote.key);
    sizes.insert(sizes.end(), blobs.begin(), blobs.end());
    ends.push_back(static_cast<uint32_t>(sizes.size()));
  }
  if (ends.size() % 2 != 0) ends.push_back(0);  // to a multiple of 8 bytes
  std::vector<std::byte> payload = MakeKeyBatch(call_, keys);
  const size_t batchBytes = payload.size();
  payload.resize(batchBytes + ends.size() * 4 + sizes.size() * 8);
  std::memcpy(payload.data() + batchBytes, ends.data(), ends.size() * 4);
  std::memcpy(payload.data() + batchBytes + ends.size() * 4, sizes.data(), sizes.size() * 8);
  return payload;
}

void GetTransfer::OnControlReply(uint64_t /*tag*/, const Message& reply, bool last) {
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
  const Status malformed(
      StatusCode::kDataInconsistency,
      "the control process answered the lookup with records that don't fit: both must be of the same release");
  const std::span<const std::byte> payload(reply.payload);
  layout::LookupReply header{};
  if (payload.size() < sizeof(header)) return malformed;
  std::memcpy(&header, payload.data(), sizeof(header));
  const uint64_t foundBytes = uint64_t{header.foundCount} * sizeof(layout::FoundRecord);
  const uint64_t sliceBytes = uint64_t{header.sliceCount} * sizeof(layout::SliceRecord);
  if (payload.size() - sizeof(header) < foundBytes + sliceBytes + header.messageBytes) return malformed;
  const std::byte* records = payload.data() + sizeof(header);
  const auto* slices = reinterpret_cast<const layout::SliceRecord*>(records + foundBytes);
  const std::string_view messages(reinterpret_cast<const char*>(records + foundBytes + sliceBytes),
                                  header.messageBytes);
  for (uint32_t i = 0; i < header.sliceCount; ++i) {
    const layout::SliceRecord& slice = slices[i];
    if (slice.keyIndex >= remotes_.size()) return malformed;
    if (remotes_[slice.keyIndex].state == State::kLooking) remotes_[slice.keyIndex].slices.push_back(slice);
  }
  LocalBatch local;
  Status status;
  for (uint32_t i = 0; i < header.foundCount && status.ok(); ++i) {
    const auto& found = reinterpret_cast<const layout::FoundRecord*>(records)[i];
    if (found.keyIndex >= remotes_.size() || found.result.locationCount > std::size(found.result.locations)) {
      status = malformed;
      break;
    }
    if (remotes_[found.keyIndex].state != State::kLooking) continue;
    status = TakeFound(found, messages);
    if (remotes_[found.keyIndex].state != State::kEnded && status.ok()) TryNext(found.keyIndex, &local);
  }
  StartLocal(std::move(local));
  return status;
}

Status GetTransfer::TakeFound(const layout::FoundRecord& found, std::string_view messages) {
  Remote& remote = remotes_[found.keyIndex];
  if (uint64_t{found.messageOffset} + found.messageBytes > messages.size()) {
    return {StatusCode::kDataInconsistency, "the control process answered the lookup with a text that isn't there"};
  }
  const auto code = static_cast<StatusCode>(found.code);
  if (code == StatusCode::kOk) {
    remote.found = found.result;
    return Status::Ok();
  }
  std::string text(messages.substr(found.messageOffset, found.messageBytes));
  if (text.empty()) text = code == StatusCode::kNotFound ? MissingText() : TextOf(code, "looking up");
  FailRemote(remote, {code, std::move(text)});
  return Status::Ok();
}

std::string GetTransfer::MissingText() const {
  if (timeoutMs_ == 0) return "no object is set under this key: set it first, or give timeoutMs to wait for it";
  return "not set within " + std::to_string(timeoutMs_) +
         " ms: see whether the process that sets it is alive, or wait longer";
}

void GetTransfer::OnControlLost(uint64_t /*tag*/, const Status& why) {
  questionId_ = 0;
  for (Remote& remote : remotes_) {
    if (remote.state == State::kLooking) FailRemote(remote, why);
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
    if (remote.state == State::kLooking || remote.state == State::kOpening) FailRemote(remote, status);
  }
  core_.peers.ForgetOpens(this);
  if (questionId_ != 0) core_.control.Cancel(std::exchange(questionId_, 0));
}

void GetTransfer::Stop(const Status& why) {
  stopped_ = why;
  FailWaiting(why);
  Advance();
}

void GetTransfer::OnAbandoned() { Stop({StatusCode::kInterrupted, "the client ended"}); }

void GetTransfer::OnDeadline() {
  const std::string limit = std::to_string(timeoutMs_ + TransferLimitMs(call_.totalBytes())) + " ms";
  const auto expired = [&](const std::string& waitedFor) {
    return Status(StatusCode::kRpcDeadlineExceeded,
                  "waited " + limit + " for " + waitedFor + "; try again, or lower --floor_mb_s");
  };
  stopped_ = expired("the bytes of the object");
  std::vector<uint32_t> slow;  // members whose reads don't come to an end
  for (Remote& remote : remotes_) {
    if (remote.state == State::kLooking) FailRemote(remote, expired("the owner to say where the object is"));
    if (remote.state == State::kOpening || remote.state == State::kReading) {
      const uint32_t member = remote.found.locations[remote.location].member;
      if (remote.state == State::kReading) slow.push_back(member);
      const PeerLink* link = core_.peers.Find(member);
      const std::string name = link == nullptr ? "member " + std::to_string(member) : link->Name();
      if (remote.state == State::kOpening) FailRemote(remote, expired(name + " to open the object"));
    }
  }
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
