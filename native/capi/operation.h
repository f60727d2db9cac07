// Operation: one request of the C API from its submission to its end, and what each of its keys came to. Futures,
// tickets and calls that wait share it.
//
// Thread rule: any thread. The client core tells (TakeEvents, Complete), the API's callers wait and read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "queue/layout.h"

// What the API's callers see of finished keys. Immutable once it was handed out.
struct hbmesh_result {
  std::vector<uint32_t> statuses;
  std::vector<uint32_t> flags;
  std::vector<uint64_t> bytes;
  std::vector<uint64_t> generations;
  std::vector<std::string> messages;
  std::vector<uint64_t> blobBytes;
  std::vector<uint32_t> blobEnds;
  std::vector<hbmesh::layout::PathRecord> paths;

  explicit hbmesh_result(uint32_t count = 0)
      : statuses(count), flags(count), bytes(count), generations(count), messages(count) {}
};

namespace hbmesh::capi {

using Clock = std::chrono::steady_clock;

class Operation {
 public:
  static constexpr uint32_t kWholeCall = UINT32_MAX;

  Operation(layout::Op op, uint32_t keyCount);

  // From the client core, in its order; Complete comes last and once.
  void TakeEvents(const RequestEvents& events);
  void Complete(Completion&& completion);

  // True: the request has ended; every key has accepted or ended (or the request ended); the key has ended.
  [[nodiscard]] bool WaitEnd(Clock::time_point deadline);
  [[nodiscard]] bool WaitAccepted(Clock::time_point deadline);
  [[nodiscard]] bool WaitKey(uint32_t keyIndex, Clock::time_point deadline);
  [[nodiscard]] bool ended() const;

  // REQUIRES of both: WaitEnd was true. How the whole call ended; kOk: `result` has a status a key.
  [[nodiscard]] Status callStatus() const;
  [[nodiscard]] hbmesh_result result() const;
  // Keys that the sidecar cancelled get this status: it only knows that it was told to stop, not why. Were all of them
  // cancelled? REQUIRES: WaitEnd was true.
  bool NameCancelled(const Status& why);
  // REQUIRES: WaitKey was true.
  [[nodiscard]] Status KeyStatus(uint32_t keyIndex) const;
  [[nodiscard]] hbmesh_result KeyResult(uint32_t keyIndex) const;
  // Did the request fail before anything was said of a key?
  [[nodiscard]] bool refused() const;
  // Adds 1 to this eventfd when the key (kWholeCall: the request) ends, at once if it has; instead of what `asker`
  // asked before. -1: asks for nothing any more. The descriptor is borrowed until then.
  void Watch(const void* asker, uint32_t keyIndex, int eventFd);
  // The first text that came with an acceptance: a ticket.
  [[nodiscard]] std::string note() const;
  [[nodiscard]] uint32_t keyCount() const { return keyCount_; }
  [[nodiscard]] layout::Op op() const { return op_; }

 private:
  struct EndWatch {
    uint32_t keyIndex = 0;
    int eventFd = -1;
  };
  using Paths = std::shared_ptr<const std::vector<layout::PathRecord>>;

  // REQUIRES of all: mutex_ is held.
  void Take(const DeviceReplyView& view);
  void FillFrom(const ObjectReplyView& view);
  void EndOpenKeys(const Status& reason);
  [[nodiscard]] bool HasEnded(uint32_t keyIndex) const;
  // Tells waiters and watchers.
  void Tell();

  const layout::Op op_;
  const uint32_t keyCount_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool ended_ = false;
  Status call_;
  hbmesh_result result_;
  std::vector<bool> told_;
  std::vector<bool> keyEnded_;
  std::vector<Paths> keyPaths_;
  uint32_t toldCount_ = 0;
  std::string note_;
  std::unordered_map<const void*, EndWatch> watches_;  // by asker
};

}  // namespace hbmesh::capi
