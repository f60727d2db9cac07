// ControlService: what the control process asks of the sidecar: drop, describe and list objects, peers, figures,
// shutdown.
//
// Slots of device objects are known by bit 31 (layout::kDeviceSlot). kListHeld answers in messages of one family each,
// which args[1] names. Copies of other workers' objects have messages of their own (args[2]). One answer has part of
// them, and says where to go on: millions of objects neither stop the loop nor wait in memory.
//
// Payloads: kDrop and kDescribe take HeldObject x count. kDrop answers u32 codes. kDescribe answers codes u32 x count
// padded to 8, blob counts u32 x count padded to 8, blob sizes u64, HeldFlags u32 x count; an answer that the channel
// can't carry is refused with OUT_OF_RANGE. A request that doesn't fit is answered INVALID, with a text.
//
// kExplain takes a KeyBatch of one key and answers JSON text (sidecar/explain.h). kTake: sidecar/takes.h.
//
// Thread rule: the loop.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "queue/channel.h"
#include "sidecar/device_objects.h"
#include "sidecar/peer_links.h"
#include "sidecar/pending_slots.h"
#include "sidecar/session.h"
#include "sidecar/takes.h"
#include "store/object_store.h"

namespace hbmesh::sidecar {

// args[2] of a message of kListHeld: what it lists are copies of other workers' objects.
inline constexpr uint64_t kListedCopies = 1;

class ControlService {
 public:
  struct Hooks {
    std::function<uint64_t()> nowMs;
    std::function<layout::SidecarStats()> stats;
    // Begins the shutdown; `done` is called when transfers were drained (or not waited for).
    std::function<void(bool drain, std::function<void()> done)> shutdown;
    // Can the owners of all keys be asked?
    std::function<void(bool lost)> setOwnersLost;
    // The worker is about to leave, or stays after all. Returns how many sets are under way.
    std::function<uint64_t(bool leaving)> setLeaving;
  };
  // Gives a session again later, if it is still there.
  using FindSession = std::function<Session*(uint64_t)>;

  ControlService(ObjectStore& store, DeviceObjects& objects, PendingSlots& pending, PeerLinks& peers, Takes& takes,
                 Hooks hooks)
      : store_(store), objects_(objects), pending_(pending), peers_(peers), takes_(takes), hooks_(std::move(hooks)) {}

  // A message of the control session without kFlagReply.
  void Handle(Session& session, const Message& message, const FindSession& find);

 private:
  [[nodiscard]] StatusCode DropOne(const layout::HeldObject& held);
  // The blob sizes, valid until the object ends, and HeldFlags.
  [[nodiscard]] StatusCode ShapeOf(const layout::HeldObject& held, std::span<const uint64_t>* sizes,
                                   uint32_t* flags) const;
  void Take(Session& session, const Message& message, const FindSession& find);
  void Drop(Session& session, const Message& message);
  void Describe(Session& session, const Message& message);
  void Explain(Session& session, const Message& message);
  class HeldList;
  void ListDevices(HeldList& list);
  void ListHeld(Session& session, const Message& message);

  ObjectStore& store_;
  DeviceObjects& objects_;
  PendingSlots& pending_;
  PeerLinks& peers_;
  Takes& takes_;
  const Hooks hooks_;
};

}  // namespace hbmesh::sidecar
