#include "capi/operation.h"

#include <unistd.h>

#include <utility>

#include "client/object_codec.h"

namespace hbmesh::capi {

namespace {

// An eventfd whose count is full is readable already; one that its owner closed has nobody to tell.
void Signal(int eventFd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(eventFd, &one, sizeof(one));
}

}  // namespace

Operation::Operation(layout::Op op, uint32_t keyCount) : op_(op), keyCount_(keyCount), result_(keyCount) {
  if (!EndsByKey(op)) return;
  told_.resize(keyCount);
  keyEnded_.resize(keyCount);
  keyPaths_.resize(keyCount);
}

void Operation::Take(const DeviceReplyView& view) {
  if (view.events.empty() && note_.empty()) note_ = view.messages;
  const auto paths = std::make_shared<const std::vector<layout::PathRecord>>(view.paths.begin(), view.paths.end());
  for (const layout::KeyEvent& event : view.events) {
    const uint32_t key = event.keyIndex;
    if (!told_[key]) {
      told_[key] = true;
      ++toldCount_;
    }
    if (event.stage == static_cast<uint32_t>(layout::KeyStage::kAccepted)) {
      if (note_.empty()) note_ = view.MessageOf(event);
      continue;
    }
    keyEnded_[key] = true;
    keyPaths_[key] = paths;
    result_.statuses[key] = event.code;
    result_.flags[key] = event.flags;
    result_.bytes[key] = event.bytes;
    result_.messages[key] = view.MessageOf(event);
  }
}

void Operation::FillFrom(const ObjectReplyView& view) {
  for (size_t i = 0; i < view.results.size() && i < keyCount_; ++i) {
    const layout::KeyResult& result = view.results[i];
    result_.statuses[i] = result.code;
    result_.flags[i] = result.flags;
    result_.bytes[i] = result.bytes;
    result_.generations[i] = result.generation;
    result_.messages[i] = view.messages.substr(result.messageOffset, result.messageBytes);
  }
  if (op_ == layout::Op::kExplain && !view.results.empty() && result_.messages[0].empty()) {
    result_.messages[0] = view.messages;
  }
  result_.paths.assign(view.paths.begin(), view.paths.end());
  result_.blobBytes.assign(view.blobSizes.begin(), view.blobSizes.end());
  uint32_t end = 0;
  for (const uint32_t count : view.blobCounts) result_.blobEnds.push_back(end += count);
}

void Operation::EndOpenKeys(const Status& reason) {
  for (uint32_t key = 0; key < keyEnded_.size(); ++key) {
    if (keyEnded_[key]) continue;
    keyEnded_[key] = true;
    result_.statuses[key] = static_cast<uint32_t>(reason.code());
    result_.messages[key] = reason.message();
  }
}

void Operation::TakeEvents(const RequestEvents& events) {
  const std::lock_guard lock(mutex_);
  DeviceReplyView view;
  if (DecodeDeviceReply(keyCount_, events.payload, &view).ok()) Take(view);  // the core has checked it
  Tell();
}

void Operation::Complete(Completion&& completion) {
  const std::lock_guard lock(mutex_);
  std::string message = std::move(completion.message);
  if (completion.answered && EndsByKey(op_)) {
    DeviceReplyView view;
    if (DecodeDeviceReply(keyCount_, completion.payload, &view).ok()) Take(view);
    if (view.events.empty()) message = view.messages;
  } else if (completion.answered) {
    ObjectReplyView view;
    const auto code = static_cast<uint32_t>(completion.code);
    if (DecodeObjectReply(op_, code, keyCount_, completion.payload, &view).ok()) FillFrom(view);
    if (completion.code != StatusCode::kOk) message = view.messages;
  }
  if (completion.code != StatusCode::kOk) {
    if (message.empty()) {
      message = "the worker ended the call with " + std::string(StatusCodeName(completion.code)) + ": see its log";
    }
    call_ = Status(completion.code, std::move(message));
  }
  EndOpenKeys(call_);
  ended_ = true;
  Tell();
}

bool Operation::WaitEnd(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [this] { return ended_; });
}

bool Operation::WaitAccepted(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [this] { return ended_ || toldCount_ == keyCount_; });
}

bool Operation::WaitKey(uint32_t keyIndex, Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [this, keyIndex] { return ended_ || keyEnded_[keyIndex]; });
}

bool Operation::HasEnded(uint32_t keyIndex) const { return ended_ || (keyIndex != kWholeCall && keyEnded_[keyIndex]); }

void Operation::Tell() {
  changed_.notify_all();
  for (auto watch = watches_.begin(); watch != watches_.end();) {
    if (!HasEnded(watch->second.keyIndex)) {
      ++watch;
      continue;
    }
    Signal(watch->second.eventFd);
    watch = watches_.erase(watch);
  }
}

void Operation::Watch(const void* asker, uint32_t keyIndex, int eventFd) {
  const std::lock_guard lock(mutex_);
  watches_.erase(asker);
  if (eventFd < 0) return;
  if (HasEnded(keyIndex)) {
    Signal(eventFd);
  } else {
    watches_.insert_or_assign(asker, EndWatch{keyIndex, eventFd});
  }
}

bool Operation::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

Status Operation::callStatus() const {
  const std::lock_guard lock(mutex_);
  return call_;
}

hbmesh_result Operation::result() const {
  const std::lock_guard lock(mutex_);
  return result_;
}

bool Operation::NameCancelled(const Status& why) {
  const std::lock_guard lock(mutex_);
  bool all = true;
  for (size_t i = 0; i < result_.statuses.size(); ++i) {
    const bool cancelled = result_.statuses[i] == static_cast<uint32_t>(StatusCode::kRpcCancelled);
    all = all && cancelled;
    if (!cancelled) continue;
    result_.statuses[i] = static_cast<uint32_t>(why.code());
    result_.messages[i] = why.message();
  }
  return all;
}

Status Operation::KeyStatus(uint32_t keyIndex) const {
  const std::lock_guard lock(mutex_);
  return {static_cast<StatusCode>(result_.statuses[keyIndex]), result_.messages[keyIndex]};
}

hbmesh_result Operation::KeyResult(uint32_t keyIndex) const {
  const std::lock_guard lock(mutex_);
  hbmesh_result one(1);
  one.statuses[0] = result_.statuses[keyIndex];
  one.flags[0] = result_.flags[keyIndex];
  one.bytes[0] = result_.bytes[keyIndex];
  one.messages[0] = result_.messages[keyIndex];
  if (keyPaths_[keyIndex]) one.paths = *keyPaths_[keyIndex];
  return one;
}

bool Operation::refused() const {
  const std::lock_guard lock(mutex_);
  return ended_ && !call_.ok() && toldCount_ == 0;
}

std::string Operation::note() const {
  const std::lock_guard lock(mutex_);
  return note_;
}

}  // namespace hbmesh::capi
