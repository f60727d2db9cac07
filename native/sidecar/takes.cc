#include "sidecar/takes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "sidecar/object_call.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kSetupMs = 5'000;  // of a question, beyond its bytes at the floor rate
constexpr uint64_t kPinMax = static_cast<uint64_t>(Pin::kHard);

Status Malformed() {
  return {StatusCode::kInvalid, "the objects to take over don't have the sizes that the message says"};
}

}  // namespace

Status ParseTake(const Message& message, std::vector<WantedObject>* objects) {
  const std::span<const std::byte> payload(message.payload);
  layout::KeyBatchHeader header{};
  if (payload.size() < sizeof(header)) return Malformed();
  std::memcpy(&header, payload.data(), sizeof(header));
  const uint64_t count = header.count;
  const uint64_t batchBytes = AlignTo8(sizeof(header) + 4 * count + header.keyBytes);
  const uint64_t fixedBytes = batchBytes + AlignTo8(4 * count) + count * sizeof(layout::TakeRecord);
  if (count != message.entry.count || payload.size() < fixedBytes) return Malformed();
  const std::byte* keyBytes = payload.data() + sizeof(header) + 4 * count;
  const std::byte* sizes = payload.data() + batchBytes + AlignTo8(4 * count);
  const uint64_t blobs = (payload.size() - fixedBytes) / sizeof(uint64_t);
  const std::byte* records = sizes + blobs * sizeof(uint64_t);
  uint32_t key = 0;
  uint32_t blob = 0;
  for (uint64_t i = 0; i < count; ++i) {
    uint32_t keyEnd = 0;
    uint32_t blobEnd = 0;
    std::memcpy(&keyEnd, payload.data() + sizeof(header) + 4 * i, 4);
    std::memcpy(&blobEnd, payload.data() + batchBytes + 4 * i, 4);
    if (keyEnd <= key || keyEnd > header.keyBytes || blobEnd <= blob || blobEnd > blobs) return Malformed();
    WantedObject& wanted = objects->emplace_back();
    wanted.key.assign(reinterpret_cast<const char*>(keyBytes) + key, keyEnd - key);
    wanted.blobSizes.resize(blobEnd - blob);
    std::memcpy(wanted.blobSizes.data(), sizes + uint64_t{blob} * 8, wanted.blobSizes.size() * 8);
    std::memcpy(&wanted.record, records + i * sizeof(wanted.record), sizeof(wanted.record));
    if (wanted.record.generation == 0 || wanted.record.pin > kPinMax) return Malformed();
    key = keyEnd;
    blob = blobEnd;
  }
  return blob == blobs ? Status::Ok() : Malformed();
}

Takes::~Takes() {
  peers_.ForgetOpens(this);
  for (auto& [number, one] : ones_) {
    if (one.room != 0) keeper_.tier()->ForgetRoom(one.room);
    timers_.Cancel(one.batch->deadline);
  }
}

void Takes::Take(std::vector<WantedObject> objects, Done done) {
  const auto batch = std::make_shared<Batch>();
  batch->codes.resize(objects.size(), static_cast<uint32_t>(StatusCode::kOk));
  batch->done = std::move(done);
  batch->left = 1;  // ours, until all of them have begun
  uint64_t bytes = 0;
  for (size_t index = 0; index < objects.size(); ++index) {
    bytes += objects[index].record.bytes;
    const uint64_t number = ++last_;
    One& one = ones_[number];
    one.batch = batch;
    one.index = index;
    one.wanted = std::move(objects[index]);
    ++batch->left;
    if (const auto code = Begin(number, one); code.has_value()) End(number, *code);
  }
  if (--batch->left == 0) {
    batch->done(batch->codes);
    return;
  }
  const uint64_t limitMs = kSetupMs + bytes / (options_.floorMbPerSecond * 1000);
  batch->deadline = timers_.Add(clock_.NowNs() + limitMs * kNsPerMs, [this, batch] {
    batch->deadline = {};
    OnDeadline(batch);
  });
}

std::optional<StatusCode> Takes::Begin(uint64_t number, One& one) {
  if (leaving_) return StatusCode::kScaling;
  if (const auto here = FindHere(one.wanted); here.has_value()) return here;
  if (replicas_.IsCopying(one.wanted.key)) return StatusCode::kTryAgain;
  // Not opened at all where it can't stay: the source may have to bring it back from its SSD tier for that.
  if (ObjectStore::ExtentBytes(one.wanted.key, one.wanted.blobSizes) > keeper_.RoomBytes()) return StatusCode::kNoSpace;
  PeerLink* link = peers_.Find(one.wanted.record.member);
  if (link == nullptr) return StatusCode::kRpcPeerDead;
  link->Open(one.wanted.record.slot, one.wanted.record.generation, this, number);
  return std::nullopt;
}

std::optional<StatusCode> Takes::FindHere(const WantedObject& wanted) {
  const auto sealed = store_.FindSealed(wanted.key);
  if (!sealed.has_value() || sealed->generation < wanted.record.generation) return std::nullopt;
  if (sealed->generation > wanted.record.generation) return StatusCode::kNotFound;
  const bool kept = store_.Promote(sealed->slot, sealed->generation).ok() &&
                    store_.SetPin(sealed->slot, sealed->generation, static_cast<Pin>(wanted.record.pin)).ok();
  keeper_.OnSealed();
  return kept ? StatusCode::kOk : StatusCode::kTryAgain;
}

void Takes::OnOpenFailed(uint64_t tag, const Status& why) {
  if (late_.erase(tag) != 0 || !ones_.contains(tag)) return;
  Log().warn("an object of a worker that leaves could not be read: {}", why.message());
  End(tag, why.code());
}

void Takes::OnOpened(uint64_t tag, const peer::OpenedRecord& opened, uint64_t connection) {
  if (const auto late = late_.extract(tag); !late.empty()) {
    PeerLink* link = peers_.Find(late.mapped());
    if (link != nullptr && opened.hold != 0) link->CloseHold(connection, opened.hold);
    return;
  }
  const auto found = ones_.find(tag);
  if (found == ones_.end()) return;
  One& one = found->second;
  const auto code = static_cast<StatusCode>(opened.code);
  if (code != StatusCode::kOk) {
    End(tag, code == StatusCode::kTryAgain ? StatusCode::kNotFound : code);  // another version is there, or none
    return;
  }
  one.connection = connection;
  one.hold = opened.hold;
  one.region = opened.region;
  one.offset = opened.offset;
  one.openedMs = clock_.NowMs();
  one.attributes = {.ttlMs = opened.expiresInMs, .pin = static_cast<Pin>(one.wanted.record.pin), .replica = false};
  if ((opened.flags & peer::kOpenedHasCrc) != 0) one.payloadCrc32c = opened.payloadCrc32c;
  const auto hash = peer::ShapeHash(one.wanted.blobSizes);
  const bool same = opened.blobCount == one.wanted.blobSizes.size() && opened.payloadBytes == one.wanted.record.bytes &&
                    opened.shapeHash[0] == hash[0] && opened.shapeHash[1] == hash[1];
  if (!same) {
    Fail(tag, StatusCode::kDataInconsistency);
    return;
  }
  Allocate(tag);
}

void Takes::Allocate(uint64_t number) {
  const auto found = ones_.find(number);
  if (found == ones_.end()) return;
  One& one = found->second;
  ObjectView object;
  const Status status = replicas_.BeginWhole(
      one.wanted.key, one.wanted.blobSizes, one.wanted.record.generation, one.attributes,
      [this, number](StatusCode code) { OnOffered(number, code); }, &object, &one.copy);
  if (status.ok()) {
    one.payload = object.payload;
    Read(number, one);
    return;
  }
  const bool waits = status.code() == StatusCode::kTryAgain && keeper_.tier() != nullptr &&
                     !replicas_.IsCopying(one.wanted.key) && one.state == State::kOpening;
  if (!waits) {
    Fail(number, one.state == State::kWaiting ? StatusCode::kNoSpace : status.code());
    return;
  }
  one.state = State::kWaiting;
  const uint64_t bytes = ObjectStore::ExtentBytes(one.wanted.key, one.wanted.blobSizes);
  one.room = keeper_.tier()->MakeRoom(bytes, bytes, [this, number] {
    if (const auto waiting = ones_.find(number); waiting != ones_.end()) waiting->second.room = 0;
    Allocate(number);
  });
}

void Takes::Read(uint64_t number, One& one) {
  PeerLink* link = peers_.Find(one.wanted.record.member);
  one.state = State::kReading;
  ++one.reads;  // ours, until all slices were given away
  const uint64_t total = one.wanted.record.bytes;
  uint32_t lane = static_cast<uint32_t>(number);
  for (uint64_t at = 0; at < total && one.fault.ok(); at += options_.sliceBytes) {
    const uint64_t bytes = std::min<uint64_t>(options_.sliceBytes, total - at);
    const RemoteRange source{one.region, one.offset + at, bytes};
    const std::vector<LocalPiece> target{{one.payload + at, bytes}};
    Status status = link == nullptr ? Status(StatusCode::kRpcPeerDead, "the worker is not in the cluster any more")
                                    : link->Read(one.connection, source, target, lane++, this, number << 1 | kReadTag);
    if (status.ok()) {
      ++one.reads;
    } else {
      one.fault = std::move(status);
    }
  }
  if (--one.reads == 0) EndReads(number, one);
}

void Takes::OnCompletion(uint64_t tag, const Status& status) {
  const uint64_t number = tag >> 1;
  One& one = ones_.at(number);  // it lives as long as anything is under way
  if ((tag & 1) == kCheckTag) {
    if (one.fault.ok() && one.check.crc32c != *one.payloadCrc32c)
      one.fault = {StatusCode::kDataInconsistency, "its checksum differs"};
    Offer(one);
    if (!one.fault.ok()) Fail(number, one.fault.code());
    return;
  }
  if (!status.ok() && one.fault.ok()) one.fault = status;
  if (--one.reads == 0) EndReads(number, one);
}

void Takes::EndReads(uint64_t number, One& one) {
  if (one.fault.ok() && one.payloadCrc32c.has_value()) {
    one.state = State::kChecking;
    one.check.pieces = {{one.payload, one.wanted.record.bytes}};
    checksums_.Compute(std::span(&one.check, 1), this, number << 1 | kCheckTag);
    return;
  }
  Offer(one);
  if (!one.fault.ok()) Fail(number, one.fault.code());
}

void Takes::Offer(One& one) {
  if (!one.fault.ok()) return;
  one.state = State::kOffered;
  CloseHold(one);
  replicas_.Offer(one.copy, one.openedMs, one.payloadCrc32c);
}

void Takes::OnOffered(uint64_t number, StatusCode code) {
  const One& one = ones_.at(number);
  // Another copy of it came here meanwhile.
  if (code == StatusCode::kKeyAlreadyExists) code = FindHere(one.wanted).value_or(StatusCode::kTryAgain);
  End(number, code);
}

void Takes::CloseHold(One& one) {
  PeerLink* link = peers_.Find(one.wanted.record.member);
  if (link != nullptr && one.hold != 0) link->CloseHold(one.connection, one.hold);
  one.hold = 0;
}

void Takes::Fail(uint64_t number, StatusCode code) {
  One& one = ones_.at(number);
  CloseHold(one);
  if (one.copy != 0) replicas_.GiveUp(one.copy);
  if (one.room != 0) keeper_.tier()->ForgetRoom(one.room);
  if (!one.fault.ok()) {
    Log().warn("an object of a worker that leaves could not be taken over: {}", one.fault.message());
  }
  End(number, code);
}

void Takes::End(uint64_t number, StatusCode code) {
  const auto found = ones_.find(number);
  const std::shared_ptr<Batch> batch = found->second.batch;
  batch->codes[found->second.index] = static_cast<uint32_t>(code);
  ones_.erase(found);
  if (--batch->left != 0) return;
  timers_.Cancel(batch->deadline);
  batch->done(batch->codes);
}

void Takes::OnDeadline(const std::shared_ptr<Batch>& batch) {
  std::vector<uint64_t> waiting;
  std::vector<uint32_t> slow;  // members whose reads don't come to an end
  for (auto& [number, one] : ones_) {
    if (one.batch != batch) continue;
    if (one.state == State::kOpening || one.state == State::kWaiting) waiting.push_back(number);
    if (one.state == State::kOpening) late_.emplace(number, one.wanted.record.member);
    if (one.state == State::kReading) slow.push_back(one.wanted.record.member);
  }
  for (const uint64_t number : waiting) Fail(number, StatusCode::kRpcDeadlineExceeded);
  for (const uint32_t member : slow) {
    if (PeerLink* link = peers_.Find(member); link != nullptr) {
      link->Reset({StatusCode::kRpcDeadlineExceeded, "the bytes of an object that leaves did not come in time"});
    }
  }
}

}  // namespace hbmesh::sidecar
