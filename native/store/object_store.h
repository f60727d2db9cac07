// ObjectStore: the object table and the arena of one worker, in one memfd that both of its processes hold.
//
//   0            StoreHeader          in 4,096 bytes
//   4096         ObjectSlot x slots   the table
//   arenaOffset  arena                extents aligned to 64 bytes, each one object: ObjectHeader, blob sizes, key,
//   payload
//
// The bytes are the truth: a restarted process maps the same memfd (Adopt), drops what was not sealed, and finds every
// sealed object again. Indexes (key to slot, free extents) are private memory, rebuilt from the slots.
//
// Thread rule: one thread, the sidecar's loop. Copies into and out of payloads happen on other threads while the object
// is being written or held; the store never moves or frees such bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh {

// ----- what lies in shared memory (docs/FORMATS.md has an example in bytes) -----

// At the start of the memfd. Written once, by Create.
struct StoreHeader {
  uint32_t magic;    // 0x31544248 "HBT1"
  uint32_t version;  // 1
  uint32_t slots;
  uint32_t flags;        // StoreFlags
  uint64_t arenaOffset;  // in the memfd: the table's end, rounded up to 4,096
  uint64_t arenaBytes;   // a multiple of 64
  uint32_t reserved;
  uint32_t headerCrc32c;  // over this header (this field 0)
};
static_assert(sizeof(StoreHeader) == 40);
enum StoreFlags : uint32_t {
  kStorePrefaulted = 1,  // every page is backed; who adopts the store maps them all at once
};

// An object in the arena. The payload is the blobs one after the other, without gaps.
//   0  ObjectHeader │ blob sizes u64 x blobCount │ key bytes │ zeros to a multiple of 64 │ payload
struct ObjectHeader {
  uint32_t magic;    // 0x314F4248 "HBO1"
  uint16_t version;  // 1
  uint16_t keyBytes;
  uint32_t blobCount;
  uint32_t flags;  // ObjectFlags
  uint64_t generation;
  uint64_t payloadOffset;  // from the start of this header, a multiple of 64
  uint64_t payloadBytes;
  uint32_t payloadCrc32c;
  uint32_t headerCrc32c;  // over header (this field 0), blob sizes and key
};
static_assert(sizeof(ObjectHeader) == 48);
enum ObjectFlags : uint32_t {
  kObjectHasPayloadCrc = 1,  // payloadCrc32c is set
};

enum class SlotState : uint32_t {
  kFree = 0,
  kWriting = 1,  // bytes are on their way; never visible
  kWritten = 2,  // bytes are whole, the owner has not confirmed yet; visible to peers that know the generation
  kSealed = 3,   // visible
  kDropped = 4,  // no longer visible, freed when the last hold ends
};

struct ObjectSlot {
  uint64_t generation;
  uint64_t extentOffset;  // in the memfd
  uint64_t extentBytes;
  uint64_t keyHash;
  uint64_t sealedAtMs;  // for LRU and explain
  uint64_t ttlMs;       // 0: none
  uint32_t state;       // SlotState
  uint32_t flags;
  uint64_t reserved;
};
static_assert(sizeof(ObjectSlot) == 64);

// ----- operations -----

struct StoreOptions {
  uint64_t arenaBytes = 1ULL << 30;
  uint32_t slots = 0;      // 0: one for each 16 KiB of arena, at least 1,024
  bool hugePages = false;  // MFD_HUGETLB; fails with the remedy when none are free
  bool prefault = true;    // touches the arena once, so that the first copy is not slowed by page faults
};

struct ObjectView {
  uint32_t slot = 0;
  uint64_t generation = 0;
  SlotState state = SlotState::kFree;
  std::string_view key;
  std::span<const uint64_t> blobSizes;
  std::byte* payload = nullptr;
  uint64_t payloadBytes = 0;
  uint64_t payloadFdOffset = 0;  // where the payload is in the memfd
  uint64_t sealedAtMs = 0;
  std::optional<uint32_t> payloadCrc32c;  // if it was asked for when the object was set
};

struct StoreUsage {
  uint64_t arenaBytes = 0;
  uint64_t usedBytes = 0;
  uint64_t objects = 0;  // sealed
  uint64_t holds = 0;
  uint64_t heldBytes = 0;  // can't be freed because of holds or writing
  uint64_t damaged = 0;    // objects that Adopt gave up because their bytes were not as they must be
};

class ObjectStore {
 public:
  [[nodiscard]] static Status Create(const StoreOptions& options, std::unique_ptr<ObjectStore>* store);
  // Maps an existing memfd; objects that were not sealed are freed, written ones too. A sealed one whose slot or header
  // is not as it must be, or whose extent overlaps another's, is freed, logged and counted (StoreUsage::damaged); of
  // two under one key the higher generation stays. Payload bytes are not read. kDataInconsistency: not a store.
  [[nodiscard]] static Status Adopt(Fd memory, std::unique_ptr<ObjectStore>* store);
  virtual ~ObjectStore() = default;

  // Room for an object, state kWriting. Several may be writing under the same key. kOutOfMemory names used, held, and
  // free. kInvalid: no blobs, a blob of size 0, or no key. The views in ObjectView are valid until the slot is freed.
  [[nodiscard]] virtual Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes,
                                        ObjectView* object) = 0;
  // Records the checksum of the whole payload. REQUIRES: kWriting.
  virtual void SetPayloadCrc(uint32_t slot, uint32_t payloadCrc32c) = 0;
  // kWriting -> kWritten, once all bytes have arrived. Sets the generation that the owner gave, which isn't 0.
  virtual void MarkWritten(uint32_t slot, uint64_t generation) = 0;
  // kWritten -> kSealed; the key now leads to this slot. A slot that was sealed under this key before is dropped: a
  // reader sees the old or the new bytes. When that one has a higher generation (its set was later), it stays and this
  // one is dropped.
  virtual void Seal(uint32_t slot, uint64_t nowMs) = 0;
  // Gives up an object in whatever state. Freed at once, or when the last hold ends. Ignored, with kOk, when the
  // generation differs (0 matches any): that object is gone already. kOutOfRange: no such slot. REQUIRES: nothing
  // copies into or out of it, or it is held.
  virtual Status Drop(uint32_t slot, uint64_t generation) = 0;

  [[nodiscard]] virtual std::optional<ObjectView> FindSealed(std::string_view key) const = 0;
  // By slot, if its generation is this one and its bytes are whole (kWritten or kSealed). kTryAgain: another
  // generation, or no such slot in this table; ask the owner again.
  [[nodiscard]] virtual Status FindSlot(uint32_t slot, uint64_t generation, ObjectView* object) const = 0;
  // Keeps the bytes where they are until Release, whatever happens to the key. REQUIRES: the slot is not free.
  virtual void Hold(uint32_t slot) = 0;
  virtual void Release(uint32_t slot) = 0;

  // Calls `each` for every sealed object. `each` must not change the store.
  virtual void ForEachSealed(const std::function<void(const ObjectView&)>& each) const = 0;
  [[nodiscard]] virtual StoreUsage usage() const = 0;
  // The whole memfd and its mapping, for registration with transports and devices.
  [[nodiscard]] virtual int memoryFd() const = 0;
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;
};

}  // namespace hbmesh
