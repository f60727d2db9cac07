// The control process of the sidecar's tests (sidecar_test_util.h).
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/align.h"
#include "base/clock.h"
#include "base/event_fd.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {

namespace {

constexpr uint32_t kOk = static_cast<uint32_t>(StatusCode::kOk);
constexpr uint32_t kNotFound = static_cast<uint32_t>(StatusCode::kNotFound);

template <typename Record>
void Append(std::vector<std::byte>& target, const Record& record) {
  const size_t size = target.size();
  target.resize(size + sizeof(record));
  std::memcpy(target.data() + size, &record, sizeof(record));
}

size_t BatchBytes(std::span<const std::byte> payload) {
  layout::KeyBatchHeader header{};
  std::memcpy(&header, payload.data(), sizeof(header));
  return AlignUp(sizeof(header) + 4ULL * header.count + header.keyBytes, 8);
}

template <typename Record>
Record RecordAt(const Message& message, size_t offset, size_t index) {
  Record record{};
  std::memcpy(&record, message.payload.data() + offset + index * sizeof(record), sizeof(record));
  return record;
}

layout::ResultRecord ResultOf(const FakeDirectory::Known& known) {
  layout::ResultRecord record{};
  record.generation = known.generation;
  record.bytes = known.bytes;
  const size_t count = known.locations.size();
  record.locationCount = static_cast<uint32_t>(std::min(count, std::size(record.locations)));
  record.family = known.family;
  for (size_t i = 0; i < record.locationCount; ++i) record.locations[i] = known.locations[(i + known.turn) % count];
  return record;
}

}  // namespace

FakeControl::FakeControl(const std::string& workerAddress, FakeDirectory& directory, uint32_t member)
    : member_(member), directory_(directory), peer_(std::make_unique<Peer>(workerAddress, session::Kind::kControl)) {
  thread_ = std::thread([this] { Run(); });
}

void FakeControl::Die() {
  if (!thread_.joinable()) return;
  stop_ = true;
  thread_.join();
  peer_->Die();
}

bool FakeDirectory::Knows(const std::string& key) {
  const std::lock_guard lock(mutex);
  return known.contains(key);
}

bool FakeDirectory::IsEmpty() {
  const std::lock_guard lock(mutex);
  return known.empty();
}

void FakeDirectory::Add(const std::string& key, Known one) {
  const std::lock_guard lock(mutex);
  known[key] = std::move(one);
}

void FakeControl::Hold(layout::Op op) {
  const std::lock_guard lock(mutex_);
  held_.insert(op);
}

void FakeControl::Unhold(layout::Op op) {
  const std::lock_guard lock(mutex_);
  held_.erase(op);
}

void FakeControl::Refuse(layout::Op op, StatusCode code, uint64_t generation) {
  layout::ResultRecord record{};
  record.code = static_cast<uint32_t>(code);
  record.generation = generation;
  const std::lock_guard lock(mutex_);
  refused_[op] = record;
}

void FakeControl::Allow(layout::Op op) {
  const std::lock_guard lock(mutex_);
  refused_.erase(op);
}

int FakeControl::Asked(layout::Op op) {
  const std::lock_guard lock(mutex_);
  return asked_[op];
}

void FakeControl::WaitAsked(layout::Op op, int times) {
  Eventually([&] { return Asked(op) >= times; }, "operation " + std::to_string(static_cast<int>(op)) + " was asked");
}

Message FakeControl::Ask(layout::Op op, uint32_t count, std::vector<std::byte> payload, std::array<uint64_t, 4> args,
                         bool oneWay) {
  Message message;
  message.entry.id = ++lastId_;
  message.entry.op = static_cast<uint16_t>(op);
  message.entry.count = count;
  std::copy(args.begin(), args.end(), message.entry.args);
  message.payload = std::move(payload);
  const uint64_t id = message.entry.id;
  {
    const std::lock_guard lock(mutex_);
    outgoing_.push_back(std::move(message));
  }
  Message reply;
  if (oneWay) return reply;
  Eventually(
      [&] {
        const std::lock_guard lock(mutex_);
        const auto found = replies_.find(id);
        if (found == replies_.end() || (found->second.entry.flags & layout::kFlagMore) != 0) return false;
        reply = std::move(found->second);
        replies_.erase(found);
        return true;
      },
      "the sidecar answers its control process");
  return reply;
}

layout::SidecarStats FakeControl::Stats() {
  const Message reply = Ask(layout::Op::kStats, 0, {});
  layout::SidecarStats stats{};
  EXPECT_EQ(reply.payload.size(), sizeof(stats));
  std::memcpy(&stats, reply.payload.data(), sizeof(stats));
  return stats;
}

void FakeControl::Run() {
  while (!stop_) {
    Message message;
    bool received = false;
    if (!peer_->channel().Receive(&message, &received).ok()) return;
    if (received) Handle(message);
    std::vector<Message> freed;
    {
      const std::lock_guard lock(mutex_);
      for (const Message& outgoing : outgoing_) {
        EXPECT_TRUE(peer_->channel().Send(outgoing.entry, outgoing.payload).ok());
      }
      outgoing_.clear();
      for (Message& waiting : std::exchange(heldMessages_, {})) {
        const bool held = held_.contains(static_cast<layout::Op>(waiting.entry.op));
        (held ? heldMessages_ : freed).push_back(std::move(waiting));
      }
    }
    for (const Message& waiting : freed) Handle(waiting);
    std::erase_if(lookups_, [this](Pending& pending) { return AnswerLookup(pending); });
    if (received) continue;
    if (peer_->channel().PrepareSleep()) (void)WaitEvent(peer_->channel().peerWakeFd(), 1);
    peer_->channel().EndSleep();
  }
}

void FakeControl::Answer(const layout::Entry& question, std::vector<std::byte> payload, uint16_t flags) {
  layout::Entry entry{};
  entry.id = question.id;
  entry.op = question.op;
  entry.flags = static_cast<uint16_t>(layout::kFlagReply | flags);
  entry.count = question.count;
  EXPECT_TRUE(peer_->channel().Send(entry, payload).ok());
}

void FakeControl::Handle(const Message& message) {
  const auto op = static_cast<layout::Op>(message.entry.op);
  {
    const std::lock_guard lock(mutex_);
    if ((message.entry.flags & layout::kFlagReply) != 0) {
      replies_[message.entry.id] = message;
      return;
    }
    ++asked_[op];
    if (held_.contains(op)) {
      heldMessages_.push_back(message);
      return;
    }
  }
  if (op == layout::Op::kSessions || op == layout::Op::kCancel) return;
  const std::vector<std::string> keys = KeysOf(message.payload);
  const size_t batchBytes = BatchBytes(message.payload);
  const std::lock_guard lock(directory_.mutex);
  if (HandleNews(message, keys, batchBytes)) return;
  std::vector<std::byte> payload;
  for (size_t i = 0; i < keys.size(); ++i) Append(payload, AnswerKey(message, i, keys[i], batchBytes));
  if (op == layout::Op::kMeta) payload.resize(payload.size() + AlignUp(4ULL * keys.size(), 8));  // no blob sizes
  Answer(message.entry, std::move(payload));
}

bool FakeControl::HandleNews(const Message& message, const std::vector<std::string>& keys, size_t batchBytes) {
  const auto op = static_cast<layout::Op>(message.entry.op);
  if (op == layout::Op::kReportMissing || op == layout::Op::kForgetLocations) {
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto record = RecordAt<layout::ResultRecord>(message, batchBytes, i);
      if (op == layout::Op::kReportMissing) directory_.missing.push_back(record);
      if (op == layout::Op::kForgetLocations) {
        ++directory_.forgotten;
        directory_.forgottenWhole += (record.flags & layout::kExisted) != 0 ? 1 : 0;
      }
      const layout::Location gone = record.locations[0];
      const auto found = directory_.known.find(keys[i]);
      // A host object that is reported missing stays known: tests count the reports.
      const bool ends = op == layout::Op::kForgetLocations || (gone.slot & layout::kDeviceSlot) != 0;
      if (!ends || found == directory_.known.end() || found->second.generation != record.generation) continue;
      std::erase_if(found->second.locations,
                    [&](const layout::Location& at) { return at.member == gone.member && at.slot == gone.slot; });
      if (found->second.locations.empty()) directory_.known.erase(found);
    }
    return true;
  }
  if (op != layout::Op::kLookup) return false;
  Pending pending{message.entry, keys, {}, std::vector<bool>(keys.size()), 0};
  pending.deadlineNs = SteadyClock().NowNs() + message.entry.args[0] * 1'000'000;
  const size_t endsBytes = AlignUp(4ULL * keys.size(), 8);
  uint32_t blob = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    uint64_t total = 0;
    for (const auto end = RecordAt<uint32_t>(message, batchBytes, i); blob < end; ++blob) {
      total += RecordAt<uint64_t>(message, batchBytes + endsBytes, blob);
    }
    pending.totals.push_back(total);
  }
  lookups_.push_back(std::move(pending));
  return true;
}

layout::ResultRecord FakeControl::AnswerKey(const Message& message, size_t i, const std::string& key,
                                            size_t batchBytes) {
  const auto op = static_cast<layout::Op>(message.entry.op);
  {
    const std::lock_guard lock(mutex_);
    if (const auto refused = refused_.find(op); refused != refused_.end()) return refused->second;
  }
  const uint64_t existence = message.entry.args[0];
  const auto family = static_cast<uint32_t>(message.entry.args[1]);
  const auto found = directory_.known.find(key);
  const bool there = found != directory_.known.end();
  layout::ResultRecord record = there ? ResultOf(found->second) : layout::ResultRecord{};
  const bool asksFamily = op == layout::Op::kReserve || op == layout::Op::kCommit || op == layout::Op::kRemove;
  if (there && asksFamily && found->second.family != family) {
    record.code = static_cast<uint32_t>(StatusCode::kInvalid);
    record.flags = layout::kOtherFamily;
  } else if (op == layout::Op::kReserve || op == layout::Op::kCommit) {
    record.code = there && existence == 1 ? static_cast<uint32_t>(StatusCode::kKeyAlreadyExists) : kOk;
    if (there && existence == 0) record.flags = layout::kExisted;
    const bool free = !there || existence == 2;
    if (op == layout::Op::kReserve && free) record.generation = ++directory_.lastGeneration;
    if (op == layout::Op::kCommit && free) {
      auto commit = RecordAt<layout::CommitRecord>(message, batchBytes, i);
      if (commit.generation == 0) commit.generation = ++directory_.lastGeneration;
      record.generation = commit.generation;
      directory_.known[key] = {commit.generation, commit.bytes, {{member_, commit.slot}}, family, 0};
    }
  } else if (op == layout::Op::kAddLocation) {
    const auto commit = RecordAt<layout::CommitRecord>(message, batchBytes, i);
    const bool good = there && found->second.generation == commit.generation;
    record.code = good ? kOk : kNotFound;
    if (good) found->second.locations.push_back({member_, commit.slot});
  } else if (op == layout::Op::kRemove) {
    record.flags = there ? uint32_t{layout::kExisted} : 0;
    if (there) directory_.known.erase(found);
  } else {
    record.code = there ? kOk : kNotFound;
  }
  return record;
}

bool FakeControl::AnswerLookup(Pending& pending) {
  const std::lock_guard lock(directory_.mutex);
  const bool over = SteadyClock().NowNs() >= pending.deadlineNs;
  std::vector<layout::FoundRecord> found;
  std::vector<layout::SliceRecord> slices;
  bool all = true;
  for (uint32_t i = 0; i < pending.keys.size(); ++i) {
    if (pending.done[i]) continue;
    const auto known = directory_.known.find(pending.keys[i]);
    layout::FoundRecord record{i, kOk, 0, 0, {}};
    if (known != directory_.known.end()) {
      known->second.turn += known->second.family == 0 ? 0 : 1;
      record.result = ResultOf(known->second);
      if (known->second.family != pending.entry.args[3]) {
        record.code = static_cast<uint32_t>(StatusCode::kInvalid);
        record.result.code = record.code;
        record.result.flags = layout::kOtherFamily;
        pending.totals[i] = 0;  // no plan
      }
      uint32_t lane = 0;
      for (uint64_t at = 0; at < pending.totals[i]; at += pending.entry.args[1]) {
        const uint64_t bytes = std::min(pending.entry.args[1], pending.totals[i] - at);
        slices.push_back({i, known->second.locations[0].member, lane++ % 2, 0, at, bytes});
      }
    } else if (over) {
      record.code = kNotFound;
    } else {
      all = false;
      continue;
    }
    pending.done[i] = true;
    found.push_back(record);
  }
  if (found.empty() && !all) return false;
  std::vector<std::byte> payload;
  Append(payload, layout::LookupReply{static_cast<uint32_t>(found.size()), static_cast<uint32_t>(slices.size()), 0, 0});
  for (const layout::FoundRecord& record : found) Append(payload, record);
  for (const layout::SliceRecord& slice : slices) Append(payload, slice);
  Answer(pending.entry, std::move(payload), all ? uint16_t{0} : uint16_t{layout::kFlagMore});
  return all;
}

void Introduce(const std::vector<FakeControl*>& controls, const std::vector<std::string>& workerAddresses) {
  for (FakeControl* control : controls) {
    std::string text = "self " + std::to_string(control->member()) + "\n";
    for (size_t i = 0; i < controls.size(); ++i) {
      text += std::to_string(controls[i]->member()) + " " + workerAddresses[i] + " " +
              controls[i]->peer().welcome().transports + "\n";
    }
    std::vector<std::byte> payload(text.size());
    std::memcpy(payload.data(), text.data(), text.size());
    (void)control->Ask(layout::Op::kPeers, 0, std::move(payload), {}, true);
    (void)control->Stats();  // answered when the list was taken: a client that comes next finds it
  }
}

}  // namespace hbmesh::sidecar::testing
