// TransportOptions: the limits of the transports. Meaning, unit and default of each; every queue and every wait has
// one.
#pragma once

#include <cstdint>
#include <memory>

namespace hbmesh {

class ClusterToken;

struct TransportOptions {
  uint32_t lanesDefault = 2;           // of an endpoint when Connect is asked for 0; at most 16
  uint32_t requestsPerLaneMax = 256;   // outstanding Reads and Writes, then kTryAgain; both sides must have the same
  uint32_t messagesQueuedMax = 1024;   // that the peer has not taken yet, then kTryAgain
  uint32_t connectTimeoutMs = 9000;    // until all lanes are connected and the peer has answered
  uint32_t handshakeTimeoutMs = 5000;  // of a peer that connected to us; then its connection is closed
  // How long the peer may take or bring no byte in the middle of a frame; then it counts as dead.
  uint32_t stallTimeoutMs = 15000;
  // How long UnregisterMemory, which keeps the loop, waits for a peer that reads or writes the memory, however busily;
  // then that peer counts as dead.
  uint32_t revokeTimeoutMs = 2000;
  uint32_t copyThreads = 0;  // shm: lanes of all endpoints together; 0: two, or one for each core if there are fewer
  uint32_t endpointsMax = 1024;    // accepted and not closed; further peers are turned away
  uint32_t connectionsMax = 5120;  // tcp: of all accepted endpoints together; each has two threads and a descriptor
  // tcp: what both ends must prove to have; null: nothing, and peers that have one are refused.
  std::shared_ptr<const ClusterToken> token;
};

}  // namespace hbmesh
