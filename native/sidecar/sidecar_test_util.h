// What the tests of the sidecar share: a sidecar as a process of its own, a client and a control process that speak the
// real socket and channel, and a small directory in memory that several control processes share.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "queue/channel.h"
#include "queue/session_protocol.h"
#include "transport/transport.h"

namespace hbmesh::sidecar::testing {

// Long enough for the slowest sanitizer; a test that waits that long has failed.
inline constexpr int kPatienceMs = 30'000;

// A worker address that no other test of this machine uses: names and ports come from the process id.
[[nodiscard]] std::string NewWorkerAddress();

// A process of hbmesh-sidecar. Killed by the destructor, and with the test.
class SidecarProcess {
 public:
  explicit SidecarProcess(std::string workerAddress, std::vector<std::string> flags = {}, int adoptFd = -1);
  ~SidecarProcess();
  [[nodiscard]] const std::string& workerAddress() const { return workerAddress_; }
  // What it wrote to its ready descriptor.
  [[nodiscard]] const std::string& ready() const { return ready_; }
  void Signal(int signal) const;
  // Waits for the end. The exit code, or minus the signal.
  int Wait();
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  std::string workerAddress_;
  std::string ready_;
  pid_t pid_ = -1;
};

// One end of a session: the socket and the channel. Used by one thread.
class Peer {
 public:
  Peer(const std::string& workerAddress, session::Kind kind, const std::string& token = "");
  [[nodiscard]] const session::Welcome& welcome() const { return welcome_; }
  [[nodiscard]] Channel& channel() { return *channel_; }
  [[nodiscard]] int socket() const { return socket_.get(); }
  [[nodiscard]] int storeFd() const { return storeFd_.get(); }
  // Ends the session as the death of the process would.
  void Die() { socket_.Reset(); }
  // The next message; fails the test when none comes in time.
  Message Receive();
  // False: nothing within the time.
  bool TryReceive(Message* message, int timeoutMs);
  // True when the sidecar closed the session.
  bool WaitClosed();

 private:
  Fd socket_;
  session::Welcome welcome_{};
  std::unique_ptr<Channel> channel_;
  Fd storeFd_;
};

// Memory of a simulated device, as a client exports it.
class DeviceMemory {
 public:
  explicit DeviceMemory(uint64_t bytes);
  ~DeviceMemory();
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  void Fill(uint64_t seed);

 private:
  uint64_t bytes_;
  Fd fd_;
  std::byte* data_ = nullptr;
};

struct BlobOf {
  uint32_t region;
  uint64_t offset;
  uint64_t bytes;
};
struct KeyBlobs {
  std::string key;
  std::vector<BlobOf> blobs;
};

struct Reply {
  StatusCode code = StatusCode::kOk;
  std::string text;  // of a call that was refused as a whole
  std::vector<layout::KeyResult> results;
  std::vector<std::string> texts;
  std::vector<layout::PathRecord> paths;
  std::vector<std::vector<uint64_t>> blobSizes;
};

[[nodiscard]] std::vector<std::byte> KeyBatchOf(const std::vector<std::string>& keys);
[[nodiscard]] std::vector<std::string> KeysOf(std::span<const std::byte> batch);

// What became of each key of a call whose keys end one by one.
struct Events {
  struct Key {
    bool accepted = false;
    bool ended = false;
    StatusCode code = StatusCode::kOk;
    std::string text;       // of its end
    std::string accepting;  // of its acceptance
    uint64_t bytes = 0;
  };
  StatusCode code = StatusCode::kOk;  // of the whole call
  std::string text;
  bool over = false;
  std::vector<Key> keys;
  std::vector<layout::PathRecord> paths;
  // Adds a message; checks that the stages are in order.
  void Take(const Message& message);
};

class Client : public Peer {
 public:
  explicit Client(const std::string& workerAddress, const std::string& token = "")
      : Peer(workerAddress, session::Kind::kClient, token) {}
  // The answer; *region is set when it is OK.
  Status Register(uint32_t device, uint64_t bytes, int fd, uint32_t* region);
  uint32_t MustRegister(uint32_t device, const DeviceMemory& memory);
  Status Unregister(uint32_t region);

  uint64_t Submit(layout::Op op, uint32_t device, const std::vector<KeyBlobs>& keys, std::array<uint64_t, 4> args = {});
  // With any bytes as payload.
  uint64_t SubmitRaw(layout::Op op, uint32_t count, std::span<const std::byte> payload,
                     std::array<uint64_t, 4> args = {});
  Reply WaitFor(uint64_t id);
  // Waits until the condition holds of what became of the request's keys, or the request is over.
  const Events& WaitEvents(uint64_t id, const std::function<bool(const Events&)>& condition);
  const Events& WaitEnd(uint64_t id) {
    return WaitEvents(id, [](const Events&) { return false; });
  }
  const Events& WaitAccepted(uint64_t id, uint32_t key = 0) {
    return WaitEvents(id,
                      [key](const Events& events) { return events.keys.size() > key && events.keys[key].accepted; });
  }
  // What is known by now.
  const Events& Now(uint64_t id);
  Reply Call(layout::Op op, uint32_t device, const std::vector<KeyBlobs>& keys, std::array<uint64_t, 4> args = {}) {
    return WaitFor(Submit(op, device, keys, args));
  }

 private:
  uint64_t lastId_ = 0;
  std::map<uint64_t, Message> early_;
  std::map<uint64_t, Events> events_;
};

[[nodiscard]] Reply DecodeReply(const Message& message);

class FakeControl;

// The directory of a cluster in memory, with the rules of decisions.ts that the sidecar relies on: keys of other
// families are INVALID, locations of device objects take turns, and are taken out when they are reported missing.
class FakeDirectory {
 public:
  struct Known {
    uint64_t generation = 0;
    uint64_t bytes = 0;
    std::vector<layout::Location> locations;
    uint32_t family = 0;  // layout::Family
    size_t turn = 0;      // which location comes first next
  };
  std::mutex mutex;
  uint64_t lastGeneration = 0;
  std::map<std::string, Known> known;         // guarded by mutex
  std::vector<layout::ResultRecord> missing;  // what was reported, guarded by mutex
  uint64_t forgotten = 0;                     // locations that were to be forgotten, guarded by mutex
  uint64_t forgottenWhole = 0;                // those of which all had been there
  [[nodiscard]] bool Knows(const std::string& key);
  [[nodiscard]] bool IsEmpty();
  // As if somebody had committed it.
  void Add(const std::string& key, Known one);
};

// A control process: answers its sidecar's questions from the directory, in a thread.
class FakeControl {
 public:
  FakeControl(const std::string& workerAddress, FakeDirectory& directory, uint32_t member);
  ~FakeControl() { Die(); }
  // As if the process was killed.
  void Die();
  // Operations that get no answer, until they are allowed again.
  void Hold(layout::Op op);
  void Unhold(layout::Op op);
  // From now on each key of this operation is answered with the code, and that generation.
  void Refuse(layout::Op op, StatusCode code, uint64_t generation);
  void Allow(layout::Op op);
  // How often this operation was asked.
  int Asked(layout::Op op);
  void WaitAsked(layout::Op op, int times);
  // Sends a message and, unless it is one-way, waits for the last reply.
  Message Ask(layout::Op op, uint32_t count, std::vector<std::byte> payload, std::array<uint64_t, 4> args = {},
              bool oneWay = false);
  [[nodiscard]] Peer& peer() { return *peer_; }
  [[nodiscard]] uint32_t member() const { return member_; }
  [[nodiscard]] layout::SidecarStats Stats();

 private:
  struct Pending {
    layout::Entry entry;
    std::vector<std::string> keys;
    std::vector<uint64_t> totals;  // payload bytes of each key
    std::vector<bool> done;
    uint64_t deadlineNs = 0;
  };
  void Run();
  void Handle(const Message& message);
  void Answer(const layout::Entry& entry, std::vector<std::byte> payload, uint16_t flags = 0);
  // True: answered for good.
  bool AnswerLookup(Pending& pending);
  // What has no reply, and is not a question of one record a key. True: that was it.
  bool HandleNews(const Message& message, const std::vector<std::string>& keys, size_t batchBytes);
  layout::ResultRecord AnswerKey(const Message& message, size_t index, const std::string& key, size_t batchBytes);

  const uint32_t member_;
  FakeDirectory& directory_;
  std::unique_ptr<Peer> peer_;
  std::mutex mutex_;
  std::set<layout::Op> held_;                           // guarded by mutex_
  std::vector<Message> heldMessages_;                   // guarded by mutex_
  std::map<layout::Op, int> asked_;                     // guarded by mutex_
  std::map<layout::Op, layout::ResultRecord> refused_;  // guarded by mutex_
  std::vector<Message> outgoing_;                       // guarded by mutex_
  std::map<uint64_t, Message> replies_;                 // guarded by mutex_
  std::vector<Pending> lookups_;                        // of the thread
  std::atomic<uint64_t> lastId_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Tells every control process of all members.
void Introduce(const std::vector<FakeControl*>& controls, const std::vector<std::string>& workerAddresses);

// A sidecar and its control process, alone in their cluster until others are introduced.
struct Worker {
  explicit Worker(FakeDirectory& directory, uint32_t member, std::vector<std::string> flags = {}, int adoptFd = -1)
      : process(NewWorkerAddress(), std::move(flags), adoptFd),
        control(std::make_unique<FakeControl>(process.workerAddress(), directory, member)) {
    EXPECT_EQ(process.ready(), "ready");
    Introduce({control.get()}, {process.workerAddress()});
  }
  SidecarProcess process;
  std::unique_ptr<FakeControl> control;
};

[[nodiscard]] inline uint32_t CodeOf(StatusCode code) { return static_cast<uint32_t>(code); }

// Blobs of equal size, one after the other from `offset`.
[[nodiscard]] KeyBlobs Blobs(const std::string& key, uint32_t region, uint32_t count, uint64_t bytes,
                             uint64_t offset = 0);

// Waits until the condition holds; fails the test after the patience.
void Eventually(const std::function<bool()>& condition, const std::string& what);

}  // namespace hbmesh::sidecar::testing
