// SidecarOptions: everything that a sidecar can be told. main.cc fills it from the command line.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sidecar/tenants.h"
#include "store/object_life.h"
#include "store/spill_tier.h"

namespace hbmesh {
class ClusterToken;
}

namespace hbmesh::sidecar {

// Which transport carries bytes between sidecars. kAuto: shm where the peer shares this machine, else tcp.
enum class TransportChoice : uint32_t { kAuto, kTcp, kShm };

// Rule for keys, one for the whole cluster.
enum class KeyRule : uint32_t { kStrict, kExtended };

// Whether clients of this host must show a token (sidecar/admission.h).
enum class LocalToken : uint32_t { kOptional, kRequired };

struct SidecarOptions {
  std::string workerAddress;  // IP:PORT; names the session socket
  uint32_t devices = 8;       // device indexes 0 to devices - 1
  uint64_t arenaBytes = 1ULL << 30;
  bool hugePages = false;
  bool remoteH2d = true;  // objects of other workers go straight to devices; false: through the arena
  int adoptFd = -1;       // memfd of a store to take over; arenaBytes and hugePages are then its own. Consumed.

  // Who may connect (sidecar/admission.h).
  std::string token;  // what every session must present; empty: nothing
  Tenants tenants;    // whose keys a client sees, by its token; empty: all are one tenant
  std::shared_ptr<const ClusterToken> clusterToken;  // good for clients too; null: there is none
  LocalToken localToken = LocalToken::kOptional;
  std::vector<uint32_t> clientUids;   // users served beside the sidecar's own and root
  std::optional<uint32_t> clientGid;  // members of this group are served too

  EvictionPolicy eviction;
  SpillOptions spill;           // no directory: no SSD tier
  uint32_t replicaPercent = 0;  // of the arena, for copies of objects that remote gets read; 0: none are kept

  TransportChoice transport = TransportChoice::kAuto;
  std::string transportListen;  // IP:PORT of the tcp transport; empty: the worker's IP and a free port
  uint32_t lanes = 2;           // connections to each peer
  KeyRule keyRule = KeyRule::kStrict;

  uint32_t spinMicros = 50;            // how long an idle loop polls before it sleeps
  uint32_t orphanGraceMs = 60'000;     // how long to wait for a new control process when the old one is gone
  uint32_t startGraceMs = 60'000;      // the same for the first control process
  uint32_t greetingTimeoutMs = 5'000;  // a connection that doesn't greet is closed
  uint32_t sessionsMax = 256;
  uint32_t inflightMax = 1'024;              // requests of one session under way; more get TRY_AGAIN
  uint64_t inflightBytesMax = 256ULL << 20;  // of their messages together, beyond the first; more get TRY_AGAIN
  uint32_t regionsMax = 1'024;               // regions of one session
  uint64_t regionBytesMax = 4ULL << 40;      // of them together: addresses of this process are for all sessions
  uint32_t controlTimeoutMs = 15'000;        // answer of the control process, beyond what a caller wants to wait
  uint32_t connectTimeoutMs = 5'000;         // connection to a peer's sidecar
  uint64_t floorMbPerSecond = 10;            // a transfer slower than this is given up
  // Sets up to this size are committed while their bytes are copied. Of larger ones others would wait for the bytes too
  // long, and a round trip more costs them little.
  uint64_t atOnceBytesMax = 512ULL << 20;
  uint64_t sliceBytes = 1ULL << 20;  // piece of a remote read; of a large one up to 8 times as much (asm/batch.ts)
};

}  // namespace hbmesh::sidecar
