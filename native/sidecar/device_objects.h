// DeviceObjects: the objects whose bytes stay in clients' device memory, on this worker: what was published, what was
// set to the device cache, and replicas that readers offer. Who reads one holds it; the table says who may.
//
//   reserving -> committed -> gone        gone when it was consumed, dropped, withdrawn, or its session ended
//
// A published object is taken by one reader at a time; when that one gives up, it is free again; when it has the bytes,
// the key is removed at its owner, and publisher and reader are told. An object of the cache has a few readers at a
// time; more are sent away (NOT_READY) to look for another location. Opening never waits, so that no circle of workers
// can wait for each other.
//
// An object that is gone keeps its memory registered until its last hold is closed. It is dropped without breaking
// holds; when its session ends, every hold is told at once.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sidecar/control_port.h"
#include "sidecar/object_call.h"
#include "sidecar/peer_links.h"

namespace hbmesh::sidecar {

inline constexpr uint64_t kDeviceHoldBit = 1ULL << 63;  // in numbers of holds of device objects
inline constexpr uint64_t kLayerHoldBit = 1ULL << 62;   // of layers

// Who holds device memory: a request of this worker, or the connection of a peer. It closes what it was given.
class HoldUser {
 public:
  // The client whose memory it is has ended. The hold is still to be closed.
  virtual void OnHoldBroken(uint64_t hold, const Status& why) = 0;
  // What was consumed has ended everywhere; so has the hold.
  virtual void OnHoldConsumed(uint64_t hold, const Status& status) = 0;
  // The hold broke some time ago, and is still there: whoever has it doesn't stop.
  virtual void OnHoldOverdue(uint64_t /*hold*/) {}

 protected:
  ~HoldUser() = default;
};

// Who published an object, and waits until it was received.
class PublishWaiter {
 public:
  virtual void OnPublished(uint32_t key) = 0;
  virtual void OnPublishEnded(uint32_t key, const Status& status) = 0;
  // Who read the object has given up: nobody reads it now.
  virtual void OnReleased(uint32_t /*key*/) {}

 protected:
  ~PublishWaiter() = default;
};

struct DeviceObject {
  std::string key;
  layout::Family family = layout::Family::kPublished;
  uint64_t generation = 0;
  uint32_t slot = 0;
  uint64_t session = 0;
  uint32_t device = 0;
  std::vector<DeviceBlob> blobs;
  std::vector<uint64_t> sizes;
  uint64_t bytes = 0;
  bool shared = false;     // a reader's memory, offered as a further source
  bool committed = false;  // its owner knows it
  bool consumed = false;
  bool gone = false;  // no longer found; its holds end
  uint32_t holds = 0;
  uint64_t lastHold = 0;  // of a published object: the one that took it
  std::vector<std::pair<PublishWaiter*, uint32_t>> waiters;
};

class DeviceObjects final : private ControlWaiter {
 public:
  DeviceObjects(ControlPort& control, PeerLinks& peers) : control_(control), peers_(peers) {}
  ~DeviceObjects();

  // The blobs of key i of a call.
  DeviceObject& Add(const ObjectCall& call, uint32_t i, layout::Family family, uint64_t session);
  [[nodiscard]] DeviceObject* Find(uint32_t slot);
  // What this worker's clients set or publish under a key; of `session` if that has any.
  [[nodiscard]] DeviceObject* FindKey(std::string_view key, uint64_t session);
  // All that a session sets, publishes or shares under a key: one on each of its devices.
  [[nodiscard]] std::vector<DeviceObject*> FindOwn(std::string_view key, uint64_t session);
  // The object is key i of the call: the same memory on the same device.
  [[nodiscard]] static bool SameMap(const DeviceObject& object, const ObjectCall& call, uint32_t i);
  // The owner knows the object: its waiters are told.
  void Commit(DeviceObject& object);
  void ForgetWaiter(uint32_t slot, PublishWaiter* waiter, uint32_t key);

  // kNotFound, kTryAgain (another generation), kNotReady (others have it). On kOk *hold and *object are set, and the
  // user closes or consumes the hold.
  [[nodiscard]] Status Open(uint32_t slot, uint64_t generation, bool exclusive, HoldUser* user, uint64_t* hold,
                            DeviceObject** object);
  void Close(uint64_t hold);
  // The holder has the bytes of a published object. Its user is told when the key is removed at its owner.
  void Consume(uint64_t hold);

  // Ends an object without breaking those who read it. Waiters are told `why`. `forget`: the owner is told, too.
  void Remove(DeviceObject& object, const Status& why, bool forget);
  void EndSession(uint64_t session);
  // Offers an object that was added as a further location. Its waiters are told that it is one, or that it was removed
  // since its owner doesn't want it.
  void Announce(DeviceObject& object);
  // The owner is to forget this location, which may not be in the table.
  void Forget(std::string_view key, layout::Family family, uint64_t generation, uint32_t slot);

  // Sends what is to be told to owners, many keys in one message. Called in every turn of the loop, and before a key is
  // reserved anew. True: there was something.
  bool Flush();

  void ForEachCommitted(const std::function<void(const DeviceObject&)>& visit) const;
  [[nodiscard]] size_t holds() const { return holds_.size(); }
  [[nodiscard]] size_t size() const { return objects_.size(); }

 private:
  struct Hold {
    uint32_t slot;
    HoldUser* user;
  };

  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  struct Forgotten {
    std::string key;
    uint64_t generation;
    uint32_t slot;
  };

  void FlushConsumed();
  void FlushForgotten(layout::Family family, std::vector<Forgotten>* forgotten);
  void EndRemoved(uint64_t batch);
  void EndConsumed(uint32_t slot);
  void EndWaiters(DeviceObject& object, const Status& status);
  void Unlink(DeviceObject& object);
  void FreeIfUnused(uint32_t slot);

  ControlPort& control_;
  PeerLinks& peers_;
  uint32_t lastSlot_ = 0;
  uint64_t lastHold_ = 0;
  std::unordered_map<uint32_t, std::unique_ptr<DeviceObject>> objects_;  // by slot
  std::unordered_multimap<std::string, uint32_t> keys_;                  // of those that are not gone
  std::unordered_map<uint64_t, Hold> holds_;
  std::unordered_map<uint64_t, uint64_t> questions_;              // open ones, by tag
  std::vector<uint32_t> consumed_;                                // slots whose keys are to be removed
  std::unordered_map<uint64_t, std::vector<uint32_t>> removing_;  // slots whose keys are being removed, by batch
  uint64_t lastBatch_ = 0;
  std::vector<Forgotten> forgottenPublished_;
  std::vector<Forgotten> forgottenCached_;
};

}  // namespace hbmesh::sidecar
