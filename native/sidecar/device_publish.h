// DevicePublish: kDevPublish and kDevMSet. Makes the caller's blobs known as device objects; moves no bytes.
//
//   key:  reserving -> committing -> [published ->] ended
//
// kDevMSet ends a key when its owner has confirmed. kDevPublish tells that as an event, and ends the key when its
// receiver has the bytes; cancelling or losing the client takes back what nobody is reading. A key that this client
// has published already with the same memory is waited for once more.
#pragma once

#include <vector>

#include "sidecar/device_objects.h"
#include "sidecar/event_reply.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class DevicePublish final : public Request, private ControlWaiter, private PublishWaiter {
 public:
  DevicePublish(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~DevicePublish();
  void Start() override;
  void Stop(const Status& why) override;
  void StopKey(uint32_t key, const Status& why) override;

 private:
  enum class State : uint8_t { kReserving, kCommitting, kWaiting, kEnded };
  struct Key {
    State state = State::kReserving;
    uint32_t slot = 0;
    uint64_t generation = 0;
    bool attached = false;  // to an object of an earlier call
    bool accepted = false;
    Status withdrawn;  // cancelled while it was read: ends so when its reader gives up
  };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  void OnPublished(uint32_t key) override;
  void OnPublishEnded(uint32_t key, const Status& status) override;
  void OnReleased(uint32_t key) override;

  void Prepare(uint32_t key);
  void Ask(layout::Op op, std::vector<std::byte> payload);
  void OnReserved(const layout::ResultRecord* records);
  void Commit();
  void OnCommitted(const layout::ResultRecord* records);
  [[nodiscard]] Status Refusal(uint32_t key, const layout::ResultRecord& record, const char* asked) const;
  // Takes an unfinished key back; one that is read at the moment when its reader gives up.
  void Withdraw(uint32_t key, const Status& why);
  void EndKey(uint32_t key, const Status& status);
  void FailAsked(const Status& status);
  void Advance();

  ObjectCall call_;
  const layout::Family family_;
  ReplyBuilder reply_;   // kDevMSet
  EventBuilder events_;  // kDevPublish
  std::vector<Key> keys_;
  uint32_t open_ = 0;
  bool batching_ = false;  // many keys change; events are told together
  std::vector<uint32_t> asked_;
  uint64_t batchBytes_ = 0;
  uint64_t questionId_ = 0;
};

}  // namespace hbmesh::sidecar
