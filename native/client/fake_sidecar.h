// FakeSidecar: the other end of a session, for tests. It speaks the session protocol and the channel, and does with
// requests what the test says. One session at a time, on a thread of its own.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "base/test_address.h"
#include "base/unix_socket.h"
#include "queue/channel.h"
#include "queue/session_protocol.h"

namespace hbmesh::test {

struct FakeBehaviour {
  ChannelOptions channel;
  uint32_t deviceCount = 4;
  std::string backend = "sim";
  uint32_t version = session::kVersion;
  StatusCode welcomeCode = StatusCode::kOk;
  bool answersHello = true;
  bool answersRegistrations = true;
  std::string address;   // that it serves; empty: one of its own
  bool receives = true;  // takes messages out of the queue from the start
  std::function<void(class FakeSidecar&, Message&)> onMessage;
};

class FakeSidecar {
 public:
  explicit FakeSidecar(FakeBehaviour behaviour)
      : address_(behaviour.address.empty() ? testing_support::UniqueWorkerAddress() : behaviour.address),
        behaviour_(std::move(behaviour)),
        receives_(behaviour_.receives) {
    Check(CreateEventFd(&stop_));
    Check(CreateEventFd(&wake_));
    Check(ListenUnix(session::SocketName(address_), &listener_));
    thread_ = std::thread([this] { Run(); });
  }
  ~FakeSidecar() {
    SignalEvent(stop_.get());
    thread_.join();
  }
  FakeSidecar(const FakeSidecar&) = delete;
  FakeSidecar& operator=(const FakeSidecar&) = delete;

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] int registrations() const { return registrations_.load(); }
  [[nodiscard]] int unregistrations() const { return unregistrations_.load(); }

  // From onMessage only: this thread is the channel's sender.
  void Reply(const layout::Entry& request, StatusCode code, std::span<const std::byte> payload) {
    layout::Entry entry = request;
    entry.flags = layout::kFlagReply;
    entry.code = static_cast<uint32_t>(code);
    Send(entry, payload);
  }
  // Waits while the queue is full: the client takes messages out on a thread of its own.
  void Send(const layout::Entry& entry, std::span<const std::byte> payload) {
    Status status = channel_->Send(entry, payload);
    while (status.code() == StatusCode::kTryAgain) {
      std::this_thread::yield();
      status = channel_->Send(entry, payload);
    }
    Check(status);
  }
  // From onMessage, or through RunSoon: closes the session as the death of the process would.
  void Die() { socket_.Reset(); }
  void StartReceiving() { receives_.store(true); }
  // Runs something on the sidecar's thread.
  void RunSoon(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    soon_.push_back(std::move(work));
  }

 private:
  static void Check(const Status& status) {
    if (!status.ok()) {
      std::fprintf(stderr, "fake sidecar: %s\n", status.ToString().c_str());
      std::abort();
    }
  }

  void Run() {
    for (;;) {
      std::array<pollfd, 4> entries = {pollfd{stop_.get(), POLLIN, 0}, pollfd{listener_.get(), POLLIN, 0},
                                       pollfd{socket_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
      ::poll(entries.data(), entries.size(), 1);
      if (entries[0].revents != 0) return;
      if (entries[1].revents != 0) Check(AcceptUnix(listener_.get(), true, &socket_));
      if (entries[2].revents != 0) HandlePacket();
      DrainEvent(wake_.get());
      if (channel_ != nullptr && receives_.load()) ReceiveAll();
      std::vector<std::function<void()>> soon;
      {
        const std::lock_guard lock(mutex_);
        soon.swap(soon_);
      }
      for (auto& work : soon) work();
    }
  }

  void ReceiveAll() {
    Message message;
    bool received = true;
    while (received && socket_.valid()) {
      Check(channel_->Receive(&message, &received));
      if (received && behaviour_.onMessage) behaviour_.onMessage(*this, message);
    }
  }

  void HandlePacket() {
    alignas(8) std::array<std::byte, 2048> buffer{};
    Packet packet;
    if (const Status status = ReceivePacket(socket_.get(), buffer, &packet); !status.ok()) {
      if (status.code() != StatusCode::kTryAgain) socket_.Reset();
      return;
    }
    uint32_t type = 0;
    std::memcpy(&type, buffer.data(), sizeof(type));
    switch (static_cast<session::Type>(type)) {
      case session::Type::kHello: {
        session::Hello hello{};
        std::memcpy(&hello, buffer.data(), sizeof(hello));
        if (behaviour_.answersHello) Welcome(static_cast<session::Kind>(hello.kind));
        return;
      }
      case session::Type::kRegisterRegion:
        ++registrations_;
        if (behaviour_.answersRegistrations) AnswerRegistration(static_cast<uint32_t>(registrations_ + 100));
        return;
      case session::Type::kUnregisterRegion:
        ++unregistrations_;
        AnswerRegistration(0);
        return;
      default:
        socket_.Reset();
    }
  }

  void Welcome(session::Kind kind) {
    session::Welcome welcome{};
    welcome.type = static_cast<uint32_t>(session::Type::kWelcome);
    welcome.magic = session::kMagic;
    welcome.version = behaviour_.version;
    welcome.code = static_cast<uint32_t>(behaviour_.welcomeCode);
    welcome.session = 7;
    welcome.deviceCount = behaviour_.deviceCount;
    std::strncpy(welcome.backend, behaviour_.backend.c_str(), sizeof(welcome.backend) - 1);
    std::strncpy(welcome.transports, "tcp=127.0.0.1:4000", sizeof(welcome.transports) - 1);
    std::vector<int> descriptors;
    if (behaviour_.welcomeCode == StatusCode::kOk) {
      Check(Channel::Create(behaviour_.channel, wake_.get(), &channel_));
      descriptors = {channel_->memoryFd(), channel_->sidecarWakeFd(), channel_->peerWakeFd()};
      if (kind == session::Kind::kControl) {
        store_ = Fd(::memfd_create("fake-store", MFD_CLOEXEC));
        descriptors.push_back(store_.get());
      }
    } else {
      std::strncpy(welcome.text, "refused by the test", sizeof(welcome.text) - 1);
    }
    welcome.descriptors = static_cast<uint32_t>(descriptors.size());
    Check(SendPacket(socket_.get(), std::as_bytes(std::span(&welcome, 1)), descriptors));
  }

  void AnswerRegistration(uint32_t region) {
    session::RegisterReply reply{};
    reply.type = static_cast<uint32_t>(session::Type::kRegisterReply);
    reply.region = region;
    Check(SendPacket(socket_.get(), std::as_bytes(std::span(&reply, 1))));
  }

  const std::string address_;
  const FakeBehaviour behaviour_;
  Fd stop_;
  Fd wake_;
  Fd listener_;
  Fd socket_;
  Fd store_;
  std::unique_ptr<Channel> channel_;
  std::atomic<bool> receives_;
  std::atomic<int> registrations_{0};
  std::atomic<int> unregistrations_{0};
  std::mutex mutex_;
  std::vector<std::function<void()>> soon_;
  std::thread thread_;
};

// Collects what a client says, and waits for it.
template <typename Item>
class Inbox {
 public:
  void Put(Item item) {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
    changed_.notify_all();
  }
  // At least `count` items; fewer only after a limit that no working test reaches.
  [[nodiscard]] std::vector<Item> Wait(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(30), [&] { return items_.size() >= count; });
    return items_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Item> items_;
};

// Does the text have this part.
inline ::testing::AssertionResult Says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << text << "\" doesn't say \"" << part << "\"";
}

// A KeyBatch as a client encodes it.
inline std::vector<std::byte> MakeKeyBatch(const std::vector<std::string>& keys) {
  std::string bytes;
  std::vector<uint32_t> ends;
  for (const std::string& key : keys) {
    bytes += key;
    ends.push_back(static_cast<uint32_t>(bytes.size()));
  }
  const layout::KeyBatchHeader header{static_cast<uint32_t>(keys.size()), static_cast<uint32_t>(bytes.size())};
  const size_t size = sizeof(header) + ends.size() * sizeof(uint32_t) + bytes.size();
  std::vector<std::byte> batch((size + 7) / 8 * 8);
  std::memcpy(batch.data(), &header, sizeof(header));
  if (!ends.empty()) std::memcpy(batch.data() + sizeof(header), ends.data(), ends.size() * sizeof(uint32_t));
  std::memcpy(batch.data() + sizeof(header) + ends.size() * sizeof(uint32_t), bytes.data(), bytes.size());
  return batch;
}

// An ObjectReply with code OK for `count` keys.
inline std::vector<std::byte> MakeReply(uint32_t count) {
  const layout::ObjectReply header{count, 0, 0, 0};
  std::vector<std::byte> payload(sizeof(header) + count * sizeof(layout::KeyResult));
  std::memcpy(payload.data(), &header, sizeof(header));
  return payload;
}

// A DeviceReply of these events; the messages are shared by all of them.
inline std::vector<std::byte> MakeDeviceReply(const std::vector<layout::KeyEvent>& events,
                                              const std::string& messages = {}) {
  const layout::DeviceReply header{static_cast<uint32_t>(events.size()), 0, static_cast<uint32_t>(messages.size()), 0};
  const size_t eventBytes = events.size() * sizeof(layout::KeyEvent);
  std::vector<std::byte> payload(sizeof(header) + eventBytes + messages.size());
  std::memcpy(payload.data(), &header, sizeof(header));
  if (eventBytes > 0) std::memcpy(payload.data() + sizeof(header), events.data(), eventBytes);
  if (!messages.empty()) std::memcpy(payload.data() + sizeof(header) + eventBytes, messages.data(), messages.size());
  return payload;
}

}  // namespace hbmesh::test
