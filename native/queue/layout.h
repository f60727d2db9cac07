// Everything that two processes read from the same bytes: the shared-memory channel, its entries, and the payloads of
// each operation. This header is the only definition; the addon exports the offsets to TypeScript
// (addon/layout_export).
//
// Byte order is the host's (both ends are on one machine). All records are aligned to 8 bytes unless stated. Fields
// named `reserved` are written as 0 and ignored by readers.
//
// A channel is one memfd, made and sealed against resizing by the sidecar:
//
//   0        ChannelHeader            4,096 bytes
//   4096     entries of ring 0        capacity x 64: peer -> sidecar   (peer: a client, or the control process)
//   ...      entries of ring 1        capacity x 64: sidecar -> peer
//   ...      payload of ring 0        payloadBytes, a byte ring
//   ...      payload of ring 1        payloadBytes, a byte ring
//
// Each ring has one producer and one consumer. A message is one entry, and `payloadBytes` contiguous bytes in the
// payload ring at position `payloadPos % capacity` (8-byte aligned; a producer skips to the start of the ring rather
// than wrap a payload). Positions and indexes count up for ever; they are reduced modulo the capacity (a power of two)
// on use.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace hbmesh::layout {

inline constexpr uint32_t kChannelMagic = 0x31514248;  // "HBQ1"
inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr size_t kCacheLine = 64;

// Shared by producer and consumer of one ring. The two sides write to cache lines of their own.
struct alignas(kCacheLine) RingControl {
  // Written by the producer. Release: publishes every entry and payload below it.
  alignas(kCacheLine) std::atomic<uint64_t> tail;
  // Written by the producer, after `tail`'s entries: how far the payload ring has been given out. Informative.
  std::atomic<uint64_t> payloadTail;
  // Written by the consumer. Release: gives every entry below it back to the producer.
  alignas(kCacheLine) std::atomic<uint64_t> head;
  // Written by the consumer, with `head`: payload bytes below it may be overwritten.
  std::atomic<uint64_t> payloadHead;
  // 1 while the consumer sleeps on its eventfd. Set by the consumer, then it looks at `tail` once more; the producer
  // reads it after publishing, and sets it to 0 when it signals. All sequentially consistent, so that one of the two
  // sees the other (the proof is in channel.cc).
  alignas(kCacheLine) std::atomic<uint32_t> consumerSleeps;
};
static_assert(sizeof(RingControl) == 192);

struct ChannelHeader {
  uint32_t magic;
  uint32_t version;
  uint32_t entryCapacity;  // entries a ring, a power of two
  uint32_t reserved;
  uint64_t payloadCapacity;  // bytes a ring, a power of two
  uint64_t entriesOffset[2];
  uint64_t payloadOffset[2];
  alignas(kCacheLine) RingControl ring[2];
};
static_assert(sizeof(ChannelHeader) <= 4096);
inline constexpr size_t kChannelHeaderBytes = 4096;

// One message. `id` pairs a reply with its request and is chosen by the requester.
struct Entry {
  uint64_t id;
  uint16_t op;     // Op
  uint16_t flags;  // EntryFlags
  uint32_t code;   // StatusCode, in replies
  uint64_t payloadPos;
  uint32_t payloadBytes;
  uint32_t count;    // keys in the message
  uint64_t args[4];  // by operation
};
static_assert(sizeof(Entry) == 64);
static_assert(offsetof(Entry, payloadPos) == 16 && offsetof(Entry, args) == 32);

enum EntryFlags : uint16_t {
  kFlagReply = 1,  // answers the request with the same id
  kFlagMore = 2,   // further replies with this id follow
};

enum class Op : uint16_t {
  // Client -> sidecar. Payload: ObjectRequest. Reply payload: ObjectReply.
  kSetD2H = 1,  // args: existence | ttlMs | flags (SetFlags) | 0
  kGetH2D = 2,  // args: timeoutMs | flags | 0 | 0
  kDelete = 3,
  kExist = 4,
  kGetMeta = 5,  // reply carries blob sizes after the results
  kCancel = 6,   // args: id of the request to end | 0: all of it, else 1 + the index of the key to end (requests whose
                 // keys end one by one). No reply of its own

  // Device objects: bytes that stay in the caller's device memory. Payload as of kSetD2H.
  kDevPublish = 7,       // Replies with kFlagMore: DeviceReply; a key's end is that its receiver has the bytes
  kDevSubscribe = 8,     // args: timeoutMs. Replies with kFlagMore: DeviceReply
  kDevMSet = 9,          // Reply: ObjectReply
  kDevMGet = 10,         // args: timeoutMs | DevGetFlags. Reply: ObjectReply
  kDevDelete = 11,       // Keys only. Reply: ObjectReply
  kDevLocalDelete = 12,  // Keys only: this session's location alone. Reply: ObjectReply

  // Layer by layer. A ticket is text that may be a key: "<member>-<number>-<32 hex digits of secret>".
  kReserveLayers = 13,  // args: ttlMs. "Keys" are the layer numbers "0", "1", ... in order, blobs are their targets.
                        // Replies with kFlagMore: DeviceReply; the first one's message is the ticket, then an event a
                        // layer
  kPushLayer = 14,      // args: layer. One "key", the ticket; blobs are the source. Reply: ObjectReply
  kExplain = 15,        // One key. Reply: ObjectReply whose message is a JSON document

  // Sidecar -> control, reply control -> sidecar. Payload of both: KeyBatch, then one record a key.
  // args[1] of kReserve, kCommit, kRemove and kAddLocation, args[3] of kLookup: Family.
  kReserve = 32,   // args: existence | 0 | 0 | 0. Reply: ResultRecord
  kCommit = 33,    // args: existence. Records: CommitRecord; generation 0: reserves too. Reply: ResultRecord
  kLookup = 34,    // args: timeoutMs | slice bytes | 0 | 0. Payload LookupRequest. Replies with kFlagMore: LookupReply
  kRemove = 35,    // Reply: ResultRecord (flag kExisted)
  kPresence = 36,  // Reply: ResultRecord; code OK is HIT, NOT_FOUND is MISS, all else UNKNOWN
  kMeta = 37,      // Reply: ResultRecord, then u32 counts and u64 blob sizes as in ObjectReply
  kReportMissing = 38,    // Records: ResultRecord as it was looked up. No reply
  kSessions = 39,         // one-way: args: sessions open
  kAddLocation = 40,      // args: 1 if it stays, 0: a copy | family. Records: CommitRecord. A further location. Reply:
                          // ResultRecord
  kForgetLocations = 41,  // Records: ResultRecord, location 0 is this worker's own. It no longer has them. No reply.
                          // Flag kExisted: all of it had been there
  kExplainOwner = 42,     // One key. Reply payload: JSON text of what the owner knows

  // Control -> sidecar, reply sidecar -> control.
  kDrop = 64,      // Records: HeldObject. Reply: u32 codes
  kDescribe = 65,  // Records: HeldObject. Reply: u32 codes, then counts, blob sizes, and u32 HeldFlags
  // Args: first slot. Replies with kFlagMore (args: 0 | family | 1: copies): KeyBatch, CommitRecords of all that is
  // sealed in some slots from there on. The last one says in args[0] with which slot to go on; 0: there are no more.
  kListHeld = 66,
  kPeers = 67,     // one-way. Payload: text, one `id address transport=address ...` a line
  kStats = 68,     // Reply payload: SidecarStats
  kShutdown = 69,  // args: 1 = drain transfers first. Reply, then the sidecar exits 0
  kDrain = 70,     // args: 1 = the worker is about to leave, and takes no new objects; 0 = it takes them again. Reply,
                   // args: sets that are under way
  kTake = 71,      // Payload: TakeRequest. Takes objects of a worker that leaves over, for good. Reply: u32 codes
  kReach = 72,     // one-way. args: 1 = owners of some keys can't be asked at the moment; 0 = all can be
};

// Keys of different families don't mix: the same key in another family is INVALID with flag kOtherFamily.
enum class Family : uint32_t { kHost = 0, kPublished = 1, kDeviceCache = 2 };

// Slot numbers of device objects, to tell them from slots of the object table.
inline constexpr uint32_t kDeviceSlot = 0x8000'0000;

enum class Existence : uint32_t { kSkip = 0, kFail = 1, kReplace = 2 };

// Keys, made once by the client and handed on without conversion: client -> sidecar -> control -> Wasm -> owner.
//
//   0    count u32 │ keyBytes u32
//   8    ends u32 x count            exclusive end of each key in the bytes
//   ...  bytes u8 x keyBytes, then zeros to a multiple of 8
struct KeyBatchHeader {
  uint32_t count;
  uint32_t keyBytes;
};
static_assert(sizeof(KeyBatchHeader) == 8);

// Payload of kSetD2H, kGetH2D, kDelete, kExist, kGetMeta:
//   ObjectRequest │ KeyBatch │ blobEnds u32 x count, padded to 8 │ BlobRecord x blobCount
// kDelete, kExist and kGetMeta have blobCount 0 and no blobEnds.
struct ObjectRequest {
  uint32_t deviceIndex;
  uint32_t blobCount;  // of all keys together
  uint64_t keyBatchBytes;
};
static_assert(sizeof(ObjectRequest) == 16);

struct BlobRecord {
  uint32_t region;  // as the sidecar numbered it at registration
  uint32_t reserved;
  uint64_t offset;  // in the region
  uint64_t bytes;
};
static_assert(sizeof(BlobRecord) == 24);

// Reply payload:
//   ObjectReply │ KeyResult x count │ PathRecord x pathCount │ (kGetMeta) blobCounts u32 x count padded to 8, blob
//   sizes u64 │ messages
struct ObjectReply {
  uint32_t count;
  uint32_t pathCount;
  uint32_t messageBytes;
  uint32_t blobSizeCount;
};
static_assert(sizeof(ObjectReply) == 16);

// kSetD2H, args[2].
enum SetFlags : uint64_t {
  kSetPinMask = 3,   // 0 none, 1 soft, 2 hard
  kSetChecksum = 4,  // CRC32C of the payload, checked by every get
};

// kDevMGet, args[1].
enum DevGetFlags : uint64_t {
  kShareReplica = 1,  // the caller's memory stays valid, and serves further readers
};

// Reply payload of calls whose keys end one by one:
//   DeviceReply │ KeyEvent x count │ PathRecord x pathCount │ messages
struct DeviceReply {
  uint32_t count;
  uint32_t pathCount;
  uint32_t messageBytes;
  uint32_t reserved;
};
static_assert(sizeof(DeviceReply) == 16);

enum class KeyStage : uint32_t {
  kAccepted = 1,  // published, or reserved: the key's end follows in a later reply
  kEnded = 2,     // `code` is final
};

struct KeyEvent {
  uint32_t keyIndex;
  uint32_t stage;  // KeyStage
  uint32_t code;
  uint32_t flags;  // ResultFlags
  uint32_t messageOffset;
  uint32_t messageBytes;
  uint64_t bytes;
};
static_assert(sizeof(KeyEvent) == 32);

enum ResultFlags : uint32_t {
  kExisted = 1,      // set: the key was there and was left; delete: it was there
  kOtherFamily = 2,  // INVALID because the key is there under another family
};

struct KeyResult {
  uint32_t code;
  uint32_t flags;
  uint32_t messageOffset;  // in the messages; equal texts may share bytes
  uint32_t messageBytes;
  uint64_t generation;
  uint64_t bytes;
};
static_assert(sizeof(KeyResult) == 32);

enum class TransportId : uint32_t { kLocal = 0, kShm = 1, kTcp = 2, kRdma = 3, kHccs = 4 };
enum PathFlags : uint32_t {
  kPathFallback = 1,  // not the transport that was asked for
  kPathStaged = 2,    // went through a staging buffer instead of straight to its target
  kPathSpilled = 4,   // was on the source's SSD tier, and came back to its memory first
};

// What really carried bytes of this request: one record for each source and transport.
struct PathRecord {
  uint32_t transport;
  uint32_t device;
  uint32_t member;  // source member id, 0 for this worker
  uint32_t lanes;   // connections or copy threads used
  uint32_t flags;
  uint32_t slices;
  uint64_t bytes;
  uint64_t nanoseconds;
  char source[48];  // worker address of the source, zero terminated: as long as one of IPv6 gets
};
static_assert(sizeof(PathRecord) == 88);

// What the directory answers for a key; the layout is also asm/layout.ts and src/decision/layout.ts.
struct Location {
  uint32_t member;
  uint32_t slot;  // index in the holder's object table
};
struct ResultRecord {
  uint32_t code;
  uint32_t flags;
  uint64_t generation;
  uint64_t bytes;
  uint32_t locationCount;
  uint32_t family;  // Family of what is there
  Location locations[4];
};
static_assert(sizeof(ResultRecord) == 64);

struct CommitRecord {
  uint64_t generation;
  uint64_t bytes;
  uint32_t slot;
  uint32_t member;  // filled in by the control process
};
static_assert(sizeof(CommitRecord) == 24);

struct HeldObject {
  uint64_t generation;
  uint32_t slot;
  uint32_t reserved;
};
static_assert(sizeof(HeldObject) == 16);

enum HeldFlags : uint32_t {
  kHeldPinMask = 3,  // 0 none, 1 soft, 2 hard
  kHeldReplica = 4,  // a copy of another worker's object
  kHeldSpilled = 8,  // its bytes are on the SSD tier
  kHeldSealed = 16,  // all of it is there, and visible by its key
};

// kTake request payload: KeyBatch │ blobEnds u32 x count, padded to 8 │ blob sizes u64 x total │ TakeRecord x count
struct TakeRecord {
  uint64_t generation;
  uint64_t bytes;
  uint32_t slot;    // at the source
  uint32_t member;  // the source
  uint32_t pin;
  uint32_t reserved;
};
static_assert(sizeof(TakeRecord) == 32);

// kLookup request payload: KeyBatch │ blobEnds u32 x count, padded to 8 │ blob sizes u64 x total
// kLookup reply payload:   LookupReply │ FoundRecord x foundCount │ SliceRecord x sliceCount │ messages
// A reply tells of the keys that were decided since the last one; the last reply lacks kFlagMore.
struct LookupReply {
  uint32_t foundCount;
  uint32_t sliceCount;
  uint32_t messageBytes;
  uint32_t reserved;
};
static_assert(sizeof(LookupReply) == 16);

struct FoundRecord {
  uint32_t keyIndex;
  uint32_t code;           // OK: see `result`; else the key's final status
  uint32_t messageOffset;  // as in KeyResult
  uint32_t messageBytes;
  ResultRecord result;
};
static_assert(sizeof(FoundRecord) == 80);

// One piece of the plan that the Wasm made: `bytes` from `offset` of the object's payload, over connection `lane`.
struct SliceRecord {
  uint32_t keyIndex;
  uint32_t member;  // the source
  uint32_t lane;
  uint32_t firstBlob;  // the blob that `offset` falls into
  uint64_t offset;
  uint64_t bytes;
};
static_assert(sizeof(SliceRecord) == 32);

struct SidecarStats {
  uint64_t arenaBytes;
  uint64_t arenaUsedBytes;
  uint64_t objects;
  uint64_t sessions;
  uint64_t holds;
  uint64_t transfers;         // since start
  uint64_t transferredBytes;  // since start
  uint64_t spillBytes;        // size of the SSD tier; 0: there is none
  uint64_t spilledBytes;      // payloads there
  uint64_t spilledObjects;
  uint64_t roomBytes;  // that objects of a worker that leaves may take here, without pushing out any but replicas
  uint64_t slots;      // of the object table: the most objects
  uint64_t usedSlots;
  uint64_t tableBytes;         // memory of the table, beside the arena
  uint64_t indexBytes;         // the sidecar's own memory for finding and ordering objects
  uint64_t spilledIndexBytes;  // of the arena: what it has of objects on the SSD tier
  // Objects evicted since the start, by what there was too little of:
  uint64_t evictedMemoryFull;
  uint64_t evictedTableFull;
  uint64_t evictedTierFull;  // or the tier could not take them
};
static_assert(sizeof(SidecarStats) == 152);

// Limits of docs/API.md that native code needs.
inline constexpr uint32_t kKeysPerCallMax = 10'000;
inline constexpr uint32_t kKeysPerQueryMax = 100'000;  // exist, getMetaInfo
inline constexpr uint32_t kKeyBytesMax = 1'024;        // rule `extended`; 255 under `strict`

}  // namespace hbmesh::layout
