// What the tests of the transports share: a sink that collects events, memory that can be registered with any
// transport, and a pair of connected transports.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_memory.h"
#include "transport/transport.h"
#include "transport/transport_factory.h"

namespace hbmesh {

// Long enough for the slowest sanitizer; a test that waits that long has failed.
inline constexpr std::chrono::seconds kPatience{60};

class CollectingSink final : public TransportSink {
 public:
  struct Message {
    uint64_t endpoint;
    std::vector<std::byte> bytes;
  };

  void OnComplete(uint64_t token, Status status) override {
    const std::lock_guard lock(mutex_);
    completions_.emplace(token, std::move(status));
    ++counts_[token];
    ++completed_;
    changed_.notify_all();
  }
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override {
    const std::lock_guard lock(mutex_);
    accepted_.push_back(std::move(endpoint));
    changed_.notify_all();
  }
  void OnMessage(uint64_t endpointId, std::span<const std::byte> message) override {
    const std::lock_guard lock(mutex_);
    messages_.push_back({endpointId, {message.begin(), message.end()}});
    changed_.notify_all();
  }
  void OnDisconnect(uint64_t endpointId, Status reason) override {
    const std::lock_guard lock(mutex_);
    ++disconnects_[endpointId];
    reasons_[endpointId] = std::move(reason);
    changed_.notify_all();
  }

  // The status of one request; fails the test when it doesn't come.
  Status Wait(uint64_t token) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, kPatience, [&] { return completions_.contains(token); });
    EXPECT_TRUE(came) << "request " << token << " never completed";
    return came ? completions_.find(token)->second : Status(StatusCode::kRuntimeError, "never completed");
  }
  void WaitCompleted(uint64_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return completed_ >= count; }))
        << completed_ << " of " << count << " completions";
  }
  std::unique_ptr<Endpoint> WaitAccepted() {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, kPatience, [&] { return !accepted_.empty(); });
    EXPECT_TRUE(came) << "nobody connected";
    if (!came) return nullptr;
    auto endpoint = std::move(accepted_.front());
    accepted_.pop_front();
    return endpoint;
  }
  Message WaitMessage() {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, kPatience, [&] { return !messages_.empty(); });
    EXPECT_TRUE(came) << "no message came";
    if (!came) return {};
    Message message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }
  Status WaitDisconnect(uint64_t endpointId) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return disconnects_.contains(endpointId); }))
        << "no disconnect of endpoint " << endpointId;
    return reasons_[endpointId];
  }
  int disconnects(uint64_t endpointId) {
    const std::lock_guard lock(mutex_);
    const auto found = disconnects_.find(endpointId);
    return found == disconnects_.end() ? 0 : found->second;
  }
  int count(uint64_t token) {
    const std::lock_guard lock(mutex_);
    const auto found = counts_.find(token);
    return found == counts_.end() ? 0 : found->second;
  }
  size_t accepted() {
    const std::lock_guard lock(mutex_);
    return accepted_.size();
  }
  void CloseAccepted() {
    std::deque<std::unique_ptr<Endpoint>> closing;
    {
      const std::lock_guard lock(mutex_);
      closing.swap(accepted_);
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Status> completions_;
  std::map<uint64_t, int> counts_;
  uint64_t completed_ = 0;
  std::deque<std::unique_ptr<Endpoint>> accepted_;
  std::deque<Message> messages_;
  std::map<uint64_t, int> disconnects_;
  std::map<uint64_t, Status> reasons_;
};

// Memory with a descriptor, so that every transport can register it.
struct SharedMemory {
  Fd fd;
  MappedMemory memory;

  explicit SharedMemory(uint64_t bytes) {
    EXPECT_EQ(CreateMemfd("hbmesh-transport-test", bytes, false, &fd).ToString(), Status::Ok().ToString());
    EXPECT_EQ(MappedMemory::Map(fd.get(), 0, bytes, true, &memory).ToString(), Status::Ok().ToString());
  }
  [[nodiscard]] std::byte* data() const { return memory.data(); }
  [[nodiscard]] uint64_t bytes() const { return memory.bytes(); }
  [[nodiscard]] MemoryRegion Register(Transport& transport, bool writable) const {
    MemoryRegion region;
    const Status status = transport.RegisterMemory(data(), bytes(), fd.get(), 0, writable, &region);
    EXPECT_EQ(status.ToString(), Status::Ok().ToString());
    return region;
  }
};

inline void FillPattern(std::span<std::byte> bytes, uint64_t seed) {
  uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (std::byte& value : bytes) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    value = static_cast<std::byte>(state >> 56);
  }
}

inline std::string ListenAddress(const std::string& transport) { return transport == "tcp" ? "127.0.0.1:0" : ""; }

}  // namespace hbmesh
