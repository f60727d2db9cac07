// ObjectStore: the object table and the arena of one worker, in one memfd that both of its processes hold.
//
//   0            StoreHeader, StoreProgress   in 4,096 bytes
//   arenaOffset  arena                        extents aligned to 64 bytes, each one object: ObjectHeader, blob sizes,
//                                             key, payload
//   tableOffset  ObjectSlot x slots           the table
//
// The table has address space for more objects than fit into the arena, and takes memory as it is used, a step of
// 4,096 slots at a time: it is the arena's bytes that limit how many objects there are. In huge pages it grows by one
// of them at a time; if there is no free one, the table is full.
//
// The bytes are the truth: a restarted process maps the same memfd (Adopt), drops what was not sealed, and finds every
// sealed object again. Indexes (key to slot, free extents, LRU order, expiry) are private memory, rebuilt from the
// slots. Adoption orders objects by when they were sealed; what was read since is forgotten.
//
// Life. An object ends by Drop, by being replaced, when its time is over, or when it makes room: replicas first, then
// objects without a pin by least recent use, then soft pins. Never: hard pins, objects that are held or not sealed yet.
// Only Touch and the end of a hold count as use; looking up renews nothing. With an SSD tier (store/spiller.h) objects
// that make room may stay as kSpilled: findable, their bytes in the tier's file.
//
// Thread rule: one thread, the sidecar's loop. Copies into and out of payloads happen on other threads while the object
// is being written or held; the store never moves or frees such bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "store/object_life.h"

namespace hbmesh {

// ----- what lies in shared memory (docs/FORMATS.md has an example in bytes) -----

// At the start of the memfd. Written once, by Create.
struct StoreHeader {
  uint32_t magic;        // 0x31544248 "HBT1"
  uint32_t version;      // 3
  uint32_t slots;        // at most
  uint32_t flags;        // StoreFlags
  uint64_t arenaOffset;  // in the memfd: 4,096
  uint64_t arenaBytes;   // a multiple of 64
  uint32_t reserved;
  uint32_t headerCrc32c;  // over this header (this field 0)
  uint64_t storeId;       // which store this is; the file of an SSD tier names it too
  uint64_t tableOffset;   // in the memfd: the arena's end, rounded up to 4,096; in huge pages to 2 MiB
};
static_assert(sizeof(StoreHeader) == 56);
enum StoreFlags : uint32_t {
  kStorePrefaulted = 1,  // every page of the arena is backed; who adopts the store maps them all at once
  kStoreHugePages = 2,
};

// Behind the header, at 64. Written as the table grows.
struct StoreProgress {
  // Slots from here on were never used: reading them would only make the system back their pages. In the upper half
  // the same, inverted: one store writes both, and what doesn't agree is not believed.
  uint64_t slotsOpened;
};
inline constexpr uint64_t kStoreProgressOffset = 64;

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
  kSpilled = 5,  // visible; its extent has only header, blob sizes and key, the payload is in the SSD tier's file
};

struct ObjectSlot {
  uint64_t generation;
  uint64_t extentOffset;  // in the memfd
  uint64_t extentBytes;
  uint64_t keyHash;
  uint64_t sealedAtMs;   // for LRU and explain
  uint64_t ttlMs;        // 0: none
  uint32_t state;        // SlotState
  uint32_t flags;        // SlotFlags
  uint64_t spillOffset;  // kSpilled: where the payload is in the tier's file; else 0
};
static_assert(sizeof(ObjectSlot) == 64);
enum SlotFlags : uint32_t {
  kSlotPinMask = 3,  // a Pin
  kSlotReplica = 4,
};

// ----- operations -----

struct StoreOptions {
  uint64_t arenaBytes = 1ULL << 30;
  // The most objects. 0: one for each 64 bytes of arena, which is what the least object takes; at most 2^30.
  uint32_t slots = 0;
  bool hugePages = false;  // MFD_HUGETLB; fails with the remedy when too few are free
  bool prefault = true;    // touches the arena once, so that the first copy is not slowed by page faults
  uint64_t storeId = 0;    // 0: a random one
};

struct ObjectView {
  uint32_t slot = 0;
  uint64_t generation = 0;
  SlotState state = SlotState::kFree;
  std::string_view key;
  std::span<const uint64_t> blobSizes;
  std::byte* payload = nullptr;  // null: kSpilled
  uint64_t payloadBytes = 0;
  uint64_t payloadFdOffset = 0;  // where the payload is in the memfd
  uint64_t sealedAtMs = 0;
  std::optional<uint32_t> payloadCrc32c;  // if it was asked for when the object was set
  ObjectAttributes attributes;
  uint64_t expiresAtMs = 0;  // 0: never, or not sealed yet
};

struct StoreUsage {
  uint64_t arenaBytes = 0;
  uint64_t usedBytes = 0;
  uint64_t objects = 0;  // sealed, spilled ones too
  uint64_t holds = 0;
  uint64_t heldBytes = 0;        // can't be freed because of holds or writing
  uint64_t damaged = 0;          // objects that Adopt gave up because their bytes were not as they must be
  uint64_t hardPinnedBytes = 0;  // sealed with Pin::kHard
  uint64_t evictableBytes = 0;   // could make room now
  uint64_t replicaBytes = 0;
  uint64_t spilledObjects = 0;
  uint64_t spilledBytes = 0;       // payloads in the SSD tier
  uint64_t spilledIndexBytes = 0;  // what the arena has of them: header, blob sizes and key
  uint64_t slots = 0;              // the most objects
  uint64_t usedSlots = 0;          // by sealed objects and those that are being set, read, or on their way out
  uint64_t tableBytes = 0;         // memory of the table, beside the arena
  uint64_t indexBytes = 0;         // private memory for finding and ordering objects
  // Since the store was opened:
  uint64_t evicted = 0;
  uint64_t expired = 0;
  uint64_t spilled = 0;
  uint64_t broughtBack = 0;
  uint64_t lost = 0;
  std::array<uint64_t, kEvictCauses> evictedBy{};  // by EvictCause
};

// Who owns the space that spilled objects take in the tier's file.
class SpillSpace {
 public:
  // The object at this offset is gone, or back in memory. From within the store's operations.
  virtual void FreeSpilled(uint64_t spillOffset, uint64_t payloadBytes) = 0;

 protected:
  ~SpillSpace() = default;
};

class ObjectStore {
 public:
  [[nodiscard]] static Status Create(const StoreOptions& options, std::unique_ptr<ObjectStore>* store);
  // Maps an existing memfd; objects that were not sealed are freed, written ones too. A sealed one whose slot or header
  // is not as it must be, or whose extent overlaps another's, is freed, logged and counted (StoreUsage::damaged); of
  // two under one key the higher generation stays. Payload bytes are not read. kDataInconsistency: not a store.
  [[nodiscard]] static Status Adopt(Fd memory, std::unique_ptr<ObjectStore>* store);
  // What an object takes of the arena.
  [[nodiscard]] static uint64_t ExtentBytes(std::string_view key, std::span<const uint64_t> blobSizes);
  virtual ~ObjectStore() = default;

  // Room for an object, state kWriting. Several may be writing under the same key. kOutOfMemory names used, held, and
  // free. kInvalid: no blobs, a blob of size 0, or no key. The views in ObjectView are valid until the slot is freed.
  //
  // With `evicted`, objects make room, just enough of them, and each is told before it goes (a replica only takes the
  // room of replicas). Nothing is evicted when even that would not be enough. In a fragmented arena the cheapest run of
  // neighbours goes; the work is one walk over the arena at most.
  [[nodiscard]] virtual Status Allocate(std::string_view key, std::span<const uint64_t> blobSizes, ObjectView* object,
                                        const ObjectAttributes& attributes = {},
                                        const EndedSink* evicted = nullptr) = 0;
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

  // Sealed and not expired. Renews nothing. Its state may be kSpilled: then there is no payload, and Spiller::BringBack
  // gets it.
  [[nodiscard]] virtual std::optional<ObjectView> FindSealed(std::string_view key) const = 0;
  // By slot, if its generation is this one and its bytes are whole (kWritten or kSealed). kTryAgain: another
  // generation, expired, or no such slot in this table; ask the owner again. kNotReady: it is spilled; *object is set,
  // without payload, and Spiller::BringBack gets it.
  [[nodiscard]] virtual Status FindSlot(uint32_t slot, uint64_t generation, ObjectView* object) const = 0;
  // Keeps the bytes where they are until Release, whatever happens to the key. REQUIRES: the slot is not free.
  virtual void Hold(uint32_t slot) = 0;
  // The end of the last hold counts as use, as Touch does.
  virtual void Release(uint32_t slot) = 0;

  // ----- life -----

  // The clock by which objects expire; SteadyClock by default. Borrowed. nowMs of Seal must be of the same clock.
  virtual void SetClock(const Clock* clock) = 0;
  // kInvalid: not 0 < low <= high <= 100, or more than 100 percent of replicas.
  [[nodiscard]] virtual Status SetEvictionPolicy(const EvictionPolicy& policy) = 0;
  // The object is being read: it becomes the most recently used. REQUIRES: sealed, spilled, or held.
  virtual void Touch(uint32_t slot) = 0;
  // Another pin for a sealed object. kTryAgain as FindSlot.
  [[nodiscard]] virtual Status SetPin(uint32_t slot, uint64_t generation, Pin pin) = 0;
  // A replica becomes an object like others: it is no longer the first to go, and may be spilled. kTryAgain as
  // FindSlot.
  [[nodiscard]] virtual Status Promote(uint32_t slot, uint64_t generation) = 0;
  // Drops at most `limit` objects whose time is over, the longest overdue first, and tells how many. Those that are
  // held end as soon as they are released. kSpilled ones too.
  virtual uint32_t CollectExpired(uint64_t nowMs, uint32_t limit, const EndedSink& each) = 0;
  // When the next object expires; UINT64_MAX: none does.
  [[nodiscard]] virtual uint64_t nextExpiryMs() const = 0;
  // Evicts until at most `usedBytesMax` of the arena are used, nothing more may go, or `limit` went; tells how many.
  virtual uint32_t EvictTo(uint64_t usedBytesMax, uint32_t limit, const EndedSink& each,
                           EvictionScope scope = EvictionScope::kSoftPinned) = 0;
  // 0 unless more than the high watermark is used; then EvictTo the low one.
  virtual uint32_t EvictToWatermark(uint32_t limit, const EndedSink& each) = 0;
  // In bytes of arena.
  [[nodiscard]] virtual uint64_t highWatermark() const = 0;
  [[nodiscard]] virtual uint64_t lowWatermark() const = 0;

  [[nodiscard]] virtual Explanation Explain(std::string_view key) const = 0;
  // kNowhere unless the slot holds this generation (0: any).
  [[nodiscard]] virtual Explanation ExplainSlot(uint32_t slot, uint64_t generation) const = 0;

  // ----- SSD tier: what Spiller does to a slot; nobody else -----

  // Who frees the file's space. Borrowed; null: no tier, spilled objects can't come back.
  virtual void AttachSpill(SpillSpace* space) = 0;
  // Calls `each` with every spilled slot and its place. `each` must not change the store.
  virtual void ForEachSpilled(const std::function<void(const ObjectView&, uint64_t spillOffset)>& each) const = 0;
  // The next object that would make room, or none. Replicas are dropped, never spilled: see attributes.replica.
  [[nodiscard]] virtual std::optional<ObjectView> NextVictim(EvictionScope scope) const = 0;
  // Ends what NextVictim or any other sealed or spilled object is, now. `cause` of kEvicted. REQUIRES: sealed or
  // spilled.
  virtual void End(uint32_t slot, EndReason reason, const EndedSink& each, EvictCause cause = EvictCause::kNone) = 0;
  // Holds the object while its bytes are written to the file; it stays readable. REQUIRES: kSealed.
  virtual void BeginSpill(uint32_t slot) = 0;
  // The bytes are in the file. True: the object is kSpilled now, and its room is free. False: it was read, dropped or
  // replaced meanwhile and stays as it is; the place in the file is the caller's again.
  [[nodiscard]] virtual bool EndSpill(uint32_t slot, uint64_t spillOffset) = 0;
  // The bytes are not in the file: the object stays in memory, and is the next to go.
  virtual void AbortSpill(uint32_t slot) = 0;
  // Room for a spilled object's bytes: object->payload. Held until EndBringBack. Evicts as Allocate does.
  // REQUIRES: kSpilled, and no other bring-back of this slot.
  [[nodiscard]] virtual Status BeginBringBack(uint32_t slot, const EndedSink* evicted, ObjectView* object) = 0;
  // True: the bytes are right; the object is kSealed and most recently used, its place in the file is freed.
  // False: it stays kSpilled (`whole` false), or was dropped meanwhile.
  virtual bool EndBringBack(uint32_t slot, bool whole) = 0;
  // True: there is a free piece of this size; for that what memory has of spilled objects may have been moved, and
  // views of them are no longer valid. One walk over the arena.
  [[nodiscard]] virtual bool GatherFree(uint64_t bytes) = 0;
  // The longest not used object in the tier, soft pins last; or none.
  [[nodiscard]] virtual std::optional<ObjectView> NextSpilledVictim() const = 0;
  // Calls `each` with that one and those that would be next, in this order, until it says false. `each` must not change
  // the store.
  virtual void ForEachSpilledVictim(const std::function<bool(const ObjectView&)>& each) const = 0;
  // The pin of the object of this slot, if it lies at this place of the tier and may be dropped from there.
  [[nodiscard]] virtual std::optional<Pin> SpilledVictimAt(uint32_t slot, uint64_t spillOffset) const = 0;
  [[nodiscard]] virtual uint64_t storeId() const = 0;
  // As in the slot. REQUIRES: such a slot.
  [[nodiscard]] virtual const ObjectSlot& SlotAt(uint32_t slot) const = 0;

  // Calls `each` for every sealed object, spilled ones too. `each` must not change the store.
  virtual void ForEachSealed(const std::function<void(const ObjectView&)>& each) const = 0;
  // The same for `slots` slots from `first` on, for who has other things to do in between. Returns the slot to go on
  // with; 0: there are no more.
  virtual uint32_t ForEachSealedFrom(uint32_t first, uint32_t slots,
                                     const std::function<void(const ObjectView&)>& each) const = 0;
  [[nodiscard]] virtual StoreUsage usage() const = 0;
  // In one piece, now. For messages: walks over free pieces.
  [[nodiscard]] virtual uint64_t largestFreeBytes() const = 0;
  // Whether so much is free in one piece. Constant time.
  [[nodiscard]] virtual bool HasFree(uint64_t bytes) const = 0;
  // The whole memfd and its mapping.
  [[nodiscard]] virtual int memoryFd() const = 0;
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;
  // The part of it, from its start, that has objects: for registration with transports and devices, which may back
  // every page of what they are given.
  [[nodiscard]] virtual std::span<std::byte> objectMemory() = 0;
};

}  // namespace hbmesh
