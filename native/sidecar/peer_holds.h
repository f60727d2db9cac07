// PeerHolds: the holder's side. Opens objects for peers' sidecars, keeps them in place while they are read, releases
// them when the reader says so or its connection ends. Device memory it opens for them, too, and tells them when the
// client has ended whose memory it is.
//
// peer_holds.cc: connections and objects of the arena. peer_memory.cc: device memory.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "sidecar/device_objects.h"
#include "sidecar/layers.h"
#include "sidecar/peer_protocol.h"
#include "sidecar/pending_slots.h"
#include "sidecar/store_keeper.h"
#include "sidecar/transports.h"
#include "store/object_store.h"

namespace hbmesh::sidecar {

class PeerHolds final : private HoldUser, private SlotWaiter {
 public:
  // `clock`: the store's.
  PeerHolds(ObjectStore& store, StoreKeeper& keeper, DeviceObjects& objects, PendingSlots& pending, Layers& layers,
            std::vector<OpenTransport>& transports, const Clock& clock)
      : store_(store),
        keeper_(keeper),
        objects_(objects),
        pending_(pending),
        layers_(layers),
        transports_(transports),
        clock_(clock) {}
  // Closes all connections.
  ~PeerHolds();

  void OnAccept(uint32_t transport, std::unique_ptr<Endpoint> endpoint);
  // False: the endpoint is none of ours.
  bool OnMessage(EndpointKey from, std::span<const std::byte> message);
  bool OnDisconnect(EndpointKey which);
  // Sends answers that waited for room. True if any was sent.
  bool Poll();
  // Answers wait for room, without an event that would tell of it.
  [[nodiscard]] bool waiting() const;
  [[nodiscard]] size_t holds() const;

 private:
  struct Peer {
    std::unique_ptr<Endpoint> endpoint;
    std::unordered_map<uint64_t, uint32_t> holds;    // hold to slot
    std::unordered_map<uint64_t, uint64_t> returns;  // opens that wait for the SSD tier: number to its ticket
    std::unordered_set<uint64_t> memory;             // holds of device memory
    std::deque<std::vector<std::byte>> outbox;
  };

  void Open(EndpointKey from, Peer& peer, std::span<const std::byte> message, uint32_t count);
  // False: the message breaks the protocol.
  [[nodiscard]] bool HandleMessage(EndpointKey from, Peer& peer, std::span<const std::byte> message);
  void OnHoldBroken(uint64_t hold, const Status& why) override;
  void OnHoldConsumed(uint64_t hold, const Status& status) override;
  void OnHoldOverdue(uint64_t hold) override;
  void OnSlotSettled(uint64_t tag) override;
  // The places of the blobs, as the peer's transport names them, are added to `blobs`.
  [[nodiscard]] peer::OpenedRecord OpenMemory(EndpointKey from, Peer& peer, const peer::OpenRecord& request,
                                              std::vector<peer::BlobRecord>* blobs);
  [[nodiscard]] Status NameBlobs(EndpointKey from, uint64_t tag, std::span<const DeviceBlob> blobs, bool writable,
                                 std::vector<peer::BlobRecord>* records);
  // Queues the records and clears them.
  void QueueBlobs(EndpointKey from, Peer& peer, std::vector<peer::BlobRecord>* records);
  void Push(EndpointKey from, Peer& peer, std::span<const std::byte> message, uint32_t count);
  [[nodiscard]] peer::OpenedRecord OpenLayer(EndpointKey from, Peer& peer, const peer::PushRecord& request,
                                             std::vector<peer::BlobRecord>* blobs);
  void Consume(Peer& peer, std::span<const std::byte> message, uint32_t count);
  void CloseMemory(uint64_t hold);
  void TellHold(uint64_t hold, peer::Type type, StatusCode code);
  // Nothing: it is answered when the object is back from the SSD tier.
  [[nodiscard]] std::optional<peer::OpenedRecord> OpenOne(EndpointKey from, Peer& peer,
                                                          const peer::OpenRecord& request);
  void BringBack(EndpointKey from, Peer& peer, uint64_t tag, const ObjectView& object);
  void OnBroughtBack(EndpointKey from, uint64_t number, uint64_t tag, const Status& status, const ObjectView* object);
  // Holds the object for the peer and tells where it is.
  [[nodiscard]] peer::OpenedRecord Lend(EndpointKey from, Peer& peer, uint64_t tag, const ObjectView& object);
  // One record in a message of its own, or of those that wait.
  void Answer(EndpointKey from, Peer& peer, const peer::OpenedRecord& answer);
  // True: its bytes are still on their way, and it is answered when they are there.
  [[nodiscard]] bool Defer(EndpointKey from, const peer::OpenRecord& request);
  void Close(Peer& peer, std::span<const std::byte> message, uint32_t count);
  void Release(Peer& peer);
  bool Flush(Peer& peer);

  ObjectStore& store_;
  StoreKeeper& keeper_;
  DeviceObjects& objects_;
  PendingSlots& pending_;
  Layers& layers_;
  std::vector<OpenTransport>& transports_;
  const Clock& clock_;
  uint64_t lastHold_ = 0;
  uint64_t lastReturn_ = 0;
  std::map<EndpointKey, Peer> peers_;
  std::unordered_map<uint64_t, std::pair<EndpointKey, peer::OpenRecord>> deferred_;  // by the tag of their wait
  std::unordered_map<uint64_t, EndpointKey> memory_;  // holds of device memory: who has them
};

}  // namespace hbmesh::sidecar
