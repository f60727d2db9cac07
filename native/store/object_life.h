// What decides how long an object stays, and how its end is told. Values only; object_store.h has the operations.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hbmesh {

// The numbers are those in ObjectSlot::flags.
enum class Pin : uint32_t {
  kNone = 0,
  kSoft = 1,  // evicted when nothing else is left to evict
  kHard = 2,  // never evicted; ends by delete, replace or expiry
};

struct ObjectAttributes {
  uint64_t ttlMs = 0;  // from Seal on; 0: for ever
  Pin pin = Pin::kNone;
  bool replica = false;  // a copy of another worker's object: first to be evicted, dropped and never spilled
};

enum class EndReason : uint32_t {
  kEvicted = 1,   // made room for others
  kExpired = 2,   // its ttlMs was over
  kDeleted = 3,   // Drop: delete, or the owner said so
  kReplaced = 4,  // a newer generation was sealed under its key
  kSpilled = 5,   // left memory, is on the SSD tier
  kLost = 6,      // was on the SSD tier and could not be read, or failed its checksum
};
[[nodiscard]] std::string_view EndReasonName(EndReason reason);

// Why an object was evicted: what there was too little of.
enum class EvictCause : uint8_t {
  kNone = 0,           // it was not evicted
  kMemoryFull = 1,     // of the arena
  kTableFull = 2,      // slots of the object table
  kTierFull = 3,       // of the SSD tier
  kTierIndexFull = 4,  // memory for what the arena has of objects on the SSD tier
  kTierFault = 5,      // the SSD tier could not be written
  kTierTooSmall = 6,   // the object is larger than the SSD tier
  kReplicaShare = 7,   // of the arena that replicas may take
};
inline constexpr uint32_t kEvictCauses = 8;
[[nodiscard]] std::string_view EvictCauseName(EvictCause cause);

// An object that just ended here. The key is valid during the call only.
struct EndedObject {
  std::string_view key;
  uint32_t slot = 0;
  uint64_t generation = 0;
  uint64_t bytes = 0;  // payload
  EndReason reason = EndReason::kEvicted;
  bool replica = false;
};
// Must not change the store: note it down, tell the owner later.
using EndedSink = std::function<void(const EndedObject&)>;

struct EvictionPolicy {
  uint32_t highPercent = 90;        // of the arena: above it, eviction begins
  uint32_t lowPercent = 80;         // and ends at or below this
  uint32_t replicaPercentMax = 25;  // replicas never take more than this
};

// Which objects an eviction may choose: this class and those before it.
enum class EvictionScope : uint32_t { kReplicas = 0, kUnpinned = 1, kSoftPinned = 2 };

// One line of the store's short history.
struct Ending {
  uint64_t keyHash = 0;
  uint64_t generation = 0;
  uint64_t bytes = 0;
  uint64_t atMs = 0;
  EndReason reason = EndReason::kEvicted;
  EvictCause cause = EvictCause::kNone;
  bool operator==(const Ending&) const = default;
};

// The answer to "where is it, and why (not) there".
struct Explanation {
  enum class Where : uint32_t { kNowhere = 0, kMemory = 1, kSpilled = 2 };
  Where where = Where::kNowhere;
  std::string key;  // empty if only a slot was given that holds nothing
  uint32_t slot = 0;
  uint64_t generation = 0;
  uint64_t bytes = 0;
  std::vector<uint64_t> blobSizes;
  uint64_t sealedAtMs = 0;
  uint64_t lastReadAtMs = 0;  // 0: not since it was set, or since the sidecar started
  uint64_t expiresAtMs = 0;   // 0: never
  Pin pin = Pin::kNone;
  bool replica = false;
  uint32_t holds = 0;
  bool evictable = false;
  std::string reason;                // one sentence: why it can or can't be evicted now, or why it is not there
  std::optional<Ending> lastEnding;  // of this key; the last 65,536 endings of all keys are remembered
};

}  // namespace hbmesh
