// DeviceFetch: kDevSubscribe and kDevMGet. Looks each key up, opens it where it is, and moves its bytes from there
// straight into the caller's device memory; each key on its own.
//
//   key:  looking -> opening -> moving -> [closing or sharing ->] ended
//            ^---- waiting <-'                     others have it, or it was gone: looked up again after a short time
//
// A published key is taken for the length of the transfer, and ends at its publisher when the bytes are here (closing).
// A key of the cache is read beside others; with kShareReplica the caller's memory then serves further readers, and the
// key ends when its owner has answered to that (sharing). Whatever the answer, the bytes are here: the key is OK.
//
// device_fetch.cc: lookup and endings. device_move.cc: opening and moving.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sidecar/blob_mover.h"
#include "sidecar/device_objects.h"
#include "sidecar/event_reply.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class DeviceFetch final : public Request,
                          private ControlWaiter,
                          private PeerMemoryUser,
                          private HoldUser,
                          private PublishWaiter,
                          private MoveListener {
 public:
  DeviceFetch(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~DeviceFetch();
  void Start() override;
  void Stop(const Status& why) override;
  void StopKey(uint32_t key, const Status& why) override;

 private:
  enum class State : uint8_t { kLooking, kWaiting, kOpening, kMoving, kClosing, kSharing, kEnded };

  struct Key {
    State state = State::kLooking;
    uint64_t question = 0;  // tag of the lookup that it is in
    layout::ResultRecord found{};
    uint32_t tried = 0;     // bit i: location i
    uint32_t location = 0;  // that is being tried
    bool again = false;     // a location was busy or gone: worth another lookup
    uint64_t connection = 0;
    uint64_t hold = 0;
    bool here = false;     // the hold is of this worker's table
    uint32_t replica = 0;  // slot of the device object that is being shared
    Status fault;          // why the last location failed
    std::unique_ptr<BlobMover> mover;
  };

  struct Asked {
    uint64_t id = 0;
    std::vector<uint32_t> keys;
  };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  void OnMemoryOpened(uint64_t tag, const peer::OpenedRecord& opened, std::span<const peer::BlobRecord> blobs,
                      uint64_t connection) override;
  void OnMemoryOpenFailed(uint64_t tag, const Status& why) override;
  void OnMemoryBroken(uint64_t tag, const Status& why) override;
  void OnMemoryClosed(uint64_t tag, StatusCode code) override;
  void OnHoldBroken(uint64_t hold, const Status& why) override;
  void OnHoldConsumed(uint64_t hold, const Status& status) override;
  void OnPublished(uint32_t key) override;
  void OnPublishEnded(uint32_t key, const Status& status) override;
  void OnMoved(uint64_t tag, const Status& status) override;

  // ----- lookup -----
  void Lookup(std::vector<uint32_t> keys);
  [[nodiscard]] Status TakeLookup(const Asked& asked, const Message& reply);
  void TakeFound(uint32_t key, const layout::FoundRecord& found, std::string_view messages);
  [[nodiscard]] Status Missing(uint32_t key) const;
  [[nodiscard]] uint64_t LeftMs() const;
  void Wait(uint32_t key);
  void RetryWaiting();

  // ----- opening and moving -----
  void TryNext(uint32_t key);
  // True: it is being opened. False: see again and fault.
  bool TryLocation(uint32_t key, const layout::Location& location);
  bool TryHere(uint32_t key, const layout::Location& location);
  [[nodiscard]] std::unique_ptr<BlobMover> MakeMover(uint32_t key);
  void ReportMissing(uint32_t key);
  void Break(uint32_t key, const Status& why);
  void CloseHold(Key& key);
  void EndMove(uint32_t key);
  // False: there is nothing to wait for.
  [[nodiscard]] bool Share(uint32_t key);
  void EndSharing(uint32_t key);

  // ----- endings -----
  void EndKey(uint32_t key, const Status& status);
  // Keys whose bytes don't move yet.
  void FailWaiting(const Status& status);
  void StopLooking();
  [[nodiscard]] bool IsWaiting(uint32_t key) const { return keys_[key].state <= State::kOpening; }
  void Advance();

  ObjectCall call_;
  const bool subscribe_;
  const uint64_t timeoutMs_;
  const bool share_;
  const uint64_t startNs_;
  ReplyBuilder reply_;   // kDevMGet
  EventBuilder events_;  // kDevSubscribe
  std::vector<Key> keys_;
  uint32_t open_ = 0;    // keys that have not ended
  uint32_t moving_ = 0;  // keys with bytes under way
  uint64_t lastQuestion_ = 0;
  std::map<uint64_t, Asked> questions_;
  std::map<uint64_t, uint32_t> holdsHere_;  // hold to key
  TimerId retry_;
  uint32_t retries_ = 0;
  bool abandoned_ = false;
  std::optional<Status> stopped_;
};

}  // namespace hbmesh::sidecar
