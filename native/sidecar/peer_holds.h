// PeerHolds: the holder's side. Opens objects for peers' sidecars, keeps them in place while they are read, releases
// them when the reader says so or its connection ends.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sidecar/peer_protocol.h"
#include "sidecar/transports.h"
#include "store/object_store.h"

namespace hbmesh::sidecar {

class PeerHolds {
 public:
  PeerHolds(ObjectStore& store, std::vector<OpenTransport>& transports) : store_(store), transports_(transports) {}
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
    std::unordered_map<uint64_t, uint32_t> holds;  // hold to slot
    std::deque<std::vector<std::byte>> outbox;
  };

  void Open(EndpointKey from, Peer& peer, std::span<const std::byte> message, uint32_t count);
  [[nodiscard]] peer::OpenedRecord OpenOne(EndpointKey from, Peer& peer, const peer::OpenRecord& request);
  void Close(Peer& peer, std::span<const std::byte> message, uint32_t count);
  void Release(Peer& peer);
  bool Flush(Peer& peer);

  ObjectStore& store_;
  std::vector<OpenTransport>& transports_;
  uint64_t lastHold_ = 0;
  std::map<EndpointKey, Peer> peers_;
};

}  // namespace hbmesh::sidecar
