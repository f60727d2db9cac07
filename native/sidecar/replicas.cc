#include "sidecar/replicas.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "sidecar/object_call.h"
#include "sidecar/peer_links.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kBatchKeysMax = 4'096;  // of one message to the owners
constexpr size_t kUsedMax = 65'536;      // locations that are remembered; the oldest are forgotten first

// Codes after which the owner has not taken the location up.
bool IsRefused(StatusCode code) {
  return code == StatusCode::kNotFound || code == StatusCode::kKeyAlreadyExists || code == StatusCode::kNoSpace ||
         code == StatusCode::kInvalid || code == StatusCode::kDataInconsistency;
}

}  // namespace

Replicas::~Replicas() {
  for (const auto& [tag, asked] : questions_) control_.Forget(asked.id);
}

bool Replicas::Begin(std::string_view key, std::span<const uint64_t> blobSizes, const layout::ResultRecord& found,
                     uint64_t ttlMs, ObjectView* object, uint64_t* copy) {
  if (options_.replicaPercent == 0 || paused_ || keys_.contains(key)) return false;
  const std::span locations(found.locations, found.locationCount);
  const bool known = std::ranges::any_of(locations, [&](const auto& at) { return at.member == peers_.self(); });
  // One place is the object's own, whose worker may be away.
  const bool full = locations.size() + 1 >= std::size(found.locations);
  if (known || full || store_.FindSealed(key).has_value()) return false;
  const ObjectAttributes attributes{.ttlMs = ttlMs, .pin = Pin::kNone, .replica = true};
  if (!Allocate(key, blobSizes, found.generation, attributes, object).ok()) return false;
  *copy = ++lastCopy_;
  copies_.emplace(*copy, Copy{std::string(key), object->slot, found.generation, object->payloadBytes});
  keys_.emplace(key);
  return true;
}

Status Replicas::BeginWhole(std::string_view key, std::span<const uint64_t> blobSizes, uint64_t generation,
                            const ObjectAttributes& attributes, std::function<void(StatusCode)> done,
                            ObjectView* object, uint64_t* copy) {
  if (keys_.contains(key)) return {StatusCode::kTryAgain, "the object is being copied already"};
  if (Status status = Allocate(key, blobSizes, generation, attributes, object); !status.ok()) return status;
  *copy = ++lastCopy_;
  Copy& begun = copies_[*copy];
  begun = {std::string(key), object->slot, generation, object->payloadBytes};
  begun.done = std::move(done);
  keys_.emplace(key);
  return Status::Ok();
}

Status Replicas::Allocate(std::string_view key, std::span<const uint64_t> blobSizes, uint64_t generation,
                          const ObjectAttributes& attributes, ObjectView* object) {
  const auto allocate = [&] {
    return attributes.replica ? keeper_.Allocate(key, blobSizes, attributes, object)
                              : keeper_.AllocateInRoom(key, blobSizes, attributes, object);
  };
  Status status = allocate();
  if (!status.ok() || !used_.contains({object->slot, generation})) return status;
  const uint32_t before = object->slot;
  status = allocate();
  (void)store_.Drop(before, 0).ok();
  if (!status.ok() || !used_.contains({object->slot, generation})) return status;
  (void)store_.Drop(object->slot, 0).ok();
  return {StatusCode::kNoSpace, "only slots are free in which this version was before"};
}

void Replicas::GiveUp(uint64_t number) {
  const auto found = copies_.find(number);
  if (found == copies_.end()) return;
  const Copy& copy = found->second;
  // Once it was offered it may have been dropped, and its slot be another object's.
  (void)store_.Drop(copy.slot, copy.offered ? copy.generation : 0).ok();
  keys_.erase(copy.key);
  copies_.erase(found);
}

void Replicas::Offer(uint64_t number, uint64_t openedMs, std::optional<uint32_t> payloadCrc32c) {
  Copy& copy = copies_.at(number);
  copy.offered = true;
  copy.openedMs = openedMs;
  if (payloadCrc32c.has_value()) store_.SetPayloadCrc(copy.slot, *payloadCrc32c);
  store_.MarkWritten(copy.slot, copy.generation);
  Remember({copy.slot, copy.generation});
  offered_.push_back(number);
}

void Replicas::Remember(Place place) {
  if (!used_.insert(place).second) return;
  usedInOrder_.push_back(place);
  if (usedInOrder_.size() <= kUsedMax) return;
  used_.erase(usedInOrder_.front());
  usedInOrder_.pop_front();
}

void Replicas::Fail(uint64_t number, StatusCode code) {
  const auto done = std::move(copies_.at(number).done);
  GiveUp(number);
  if (done) done(code);
}

bool Replicas::Flush() {
  if (offered_.empty()) return false;
  std::vector<uint64_t> all = std::exchange(offered_, {});
  const auto stays = [this](uint64_t copy) { return copies_.at(copy).done != nullptr; };
  const auto firstCopy = std::ranges::stable_partition(all, stays).begin();
  AskFor({all.begin(), firstCopy}, true);
  AskFor({firstCopy, all.end()}, false);
  return true;
}

void Replicas::AskFor(std::span<const uint64_t> all, bool stay) {
  for (size_t at = 0; at < all.size(); at += kBatchKeysMax) {
    const auto part = all.subspan(at, std::min(kBatchKeysMax, all.size() - at));
    std::vector<std::string_view> keys;
    for (const uint64_t copy : part) keys.push_back(copies_.at(copy).key);
    Question question;
    question.op = layout::Op::kAddLocation;
    question.count = static_cast<uint32_t>(part.size());
    question.args[0] = stay ? 1 : 0;
    question.args[1] = static_cast<uint64_t>(layout::Family::kHost);
    question.payload = MakeKeyBatch(keys);
    Asked asked{0, {part.begin(), part.end()}, question.payload.size()};
    for (const uint64_t number : part) {
      const Copy& copy = copies_.at(number);
      const layout::CommitRecord record{copy.generation, copy.bytes, copy.slot, 0};
      const auto* bytes = reinterpret_cast<const std::byte*>(&record);
      question.payload.insert(question.payload.end(), bytes, bytes + sizeof(record));
    }
    const uint64_t tag = ++lastQuestion_;
    if (control_.Ask(std::move(question), this, tag, &asked.id).ok()) {
      questions_.emplace(tag, std::move(asked));
    } else {
      for (const uint64_t copy : part) Fail(copy, StatusCode::kRpcUnavailable);  // nobody was asked
    }
  }
}

void Replicas::OnControlReply(uint64_t tag, const Message& reply, bool last) {
  const auto found = questions_.find(tag);
  const Asked asked = std::move(found->second);
  questions_.erase(found);
  if (!last) control_.Forget(asked.id);
  const auto code = static_cast<StatusCode>(reply.entry.code);
  const auto bytes = RecordsOf(reply, asked.batchBytes, asked.copies.size() * sizeof(layout::ResultRecord));
  for (size_t n = 0; n < asked.copies.size(); ++n) {
    layout::ResultRecord record{};
    record.code = static_cast<uint32_t>(code == StatusCode::kOk ? StatusCode::kRuntimeError : code);
    if (code == StatusCode::kOk && !bytes.empty()) {
      std::memcpy(&record, bytes.data() + n * sizeof(record), sizeof(record));
    }
    End(asked.copies[n], static_cast<StatusCode>(record.code));
  }
}

void Replicas::OnControlLost(uint64_t tag, const Status& why) {
  const auto found = questions_.find(tag);
  const Asked asked = std::move(found->second);
  questions_.erase(found);
  for (const uint64_t copy : asked.copies) End(copy, why.code());
}

void Replicas::End(uint64_t number, StatusCode code) {
  const Copy& copy = copies_.at(number);
  // A delete or a `replace` may have come before this answer: then the slot is another object's by now.
  ObjectView written;
  const bool there = store_.FindSlot(copy.slot, copy.generation, &written).ok();
  if (code == StatusCode::kOk && there) {
    const uint32_t slot = copy.slot;
    const uint64_t openedMs = copy.openedMs;
    const uint64_t generation = copy.generation;
    const auto done = std::move(copies_.at(number).done);
    keys_.erase(copy.key);
    copies_.erase(number);
    store_.Seal(slot, openedMs);
    keeper_.OnSealed();
    ObjectView sealed;
    if (done) done(store_.FindSlot(slot, generation, &sealed).ok() ? code : StatusCode::kNotFound);
    return;
  }
  // An owner that did not answer may have taken it up all the same.
  if (there && !IsRefused(code)) {
    EndedObject ended;
    ended.key = copy.key;
    ended.slot = copy.slot;
    ended.generation = copy.generation;
    ended.replica = !copy.done;
    keeper_.sink()(ended);
  }
  Fail(number, code == StatusCode::kOk ? StatusCode::kNotFound : code);  // it was dropped meanwhile
}

}  // namespace hbmesh::sidecar
