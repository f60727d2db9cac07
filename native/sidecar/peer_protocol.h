// What the sidecars of two workers say to each other in messages (Endpoint::Send), beside the one-sided reads and
// writes. The reader is the side that connected; the holder answers.
//
// Objects of the arena:
//
//   reader                                  holder
//   OPEN {slot, generation} x n  -------->  finds the object, holds it
//                                <--------  OPENED {region, offset, sizes, hold} x n
//   (reads the bytes)
//   CLOSE {hold} x n             -------->  releases it; so does the end of the connection
//
// An object on the holder's SSD tier is answered when it is back in memory: answers come in any order.
//
// Device objects, whose slot numbers have bit 31 (layout::kDeviceSlot). Their blobs lie anywhere in device memory:
//
//   OPEN {slot, generation, mode} x n ---->  finds the object; kExclusive takes it, NOT_READY when others have it
//                                <--------  BLOBS {tag, region, offset, bytes} x blobs, then OPENED {sizes, hold}
//   (reads the bytes)
//   CONSUMED {hold}              -------->  exclusive: the object ends, its publisher and its owner are told
//                                <--------  CLOSED {hold, code}
//   CLOSE {hold}                 -------->  not exclusive, or given up: the object may be opened by others
//
// Layers, into memory that a ticket stands for:
//
//   PUSH {ticket, secret, layer, shape} -->  checks all of it; the layer is the pusher's
//                                <--------  BLOBS of the target, then OPENED {sizes, hold}, or OPENED with a code
//   (writes the bytes)
//   CONSUMED {hold}              -------->  the layer is complete, its waiter is told
//                                <--------  CLOSED {hold, code}
//   CLOSE {hold}                 -------->  given up: the ticket is dead
//
// At any time between OPENED and the end of the hold:
//
//                                <--------  BROKEN {hold, code}: the client whose memory it is has gone. The reader
//                                           begins no further read or write, and sends CLOSE when those under way ended
//
// A message is a MessageHeader and `count` records of one type. Records are copied out before use: a message may begin
// at any address. Byte order is little-endian on both ends. A message that breaks this closes the connection it came
// on. Holds are numbers of one connection's holder; a number that the holder didn't give to this connection is ignored.
//
// Shape: blob count and sizes of an object. The holder sends a hash of all sizes and the first ones themselves, so that
// a record has a fixed size; the reader compares count and hash, and names sizes that differ if they are among the
// first.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace hbmesh::sidecar::peer {

inline constexpr uint32_t kMagic = 0x31504248;  // "HBP1"
inline constexpr uint16_t kVersion = 3;
inline constexpr uint32_t kShownSizes = 8;

enum class Type : uint16_t {
  kOpen = 1,
  kOpened = 2,
  kClose = 3,
  kBlobs = 4,
  kConsumed = 5,
  kClosed = 6,
  kBroken = 7,
  kPush = 8,
};

enum class OpenMode : uint32_t { kShared = 0, kExclusive = 1 };

struct MessageHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t type;
  uint32_t count;
  uint32_t reserved;
};
static_assert(sizeof(MessageHeader) == 16);

struct OpenRecord {
  uint64_t tag;  // chosen by the reader, returned in OpenedRecord
  uint64_t generation;
  uint32_t slot;
  uint32_t mode;  // OpenMode, of device objects
};
static_assert(sizeof(OpenRecord) == 24);

struct PushRecord {
  uint64_t tag;
  uint64_t ticket;  // its number
  uint64_t secret[2];
  uint64_t payloadBytes;
  uint64_t shapeHash[2];
  uint32_t layer;
  uint32_t blobCount;
};
static_assert(sizeof(PushRecord) == 64);

struct OpenedRecord {
  uint64_t tag;
  uint64_t hold;    // for CLOSE; 0 when code is not OK
  uint64_t offset;  // of the payload, in the region
  uint64_t payloadBytes;
  uint64_t shapeHash[2];
  // StatusCode: OK, TRY_AGAIN (another generation), NOT_FOUND, NOT_READY (too many holds, or others have it),
  // OUT_OF_MEMORY (on the SSD tier, and no room to bring it back), DATA_INCONSISTENCY and others (lost there). Of a
  // push also NOT_AUTHORIZED, OUT_OF_RANGE, KEY_ALREADY_EXISTS, INVALID (another shape, which the record tells).
  uint32_t code;
  uint32_t region;  // of the transport that the message came on
  uint32_t blobCount;
  uint32_t payloadCrc32c;  // of an object that has one, which the flags say
  uint64_t expiresInMs;    // of an object of the arena: how long it will still be there; 0: for ever
  uint32_t flags;          // OpenedFlags
  uint32_t reserved;
  uint64_t firstSizes[kShownSizes];
};
static_assert(sizeof(OpenedRecord) == 144);

enum OpenedFlags : uint32_t {
  kOpenedHasCrc = 1,   // payloadCrc32c is the payload's checksum
  kOpenedSpilled = 2,  // it was on the holder's SSD tier, and came back for this
};

// One blob; those of one tag come in order.
struct BlobRecord {
  uint64_t tag;
  uint64_t offset;
  uint64_t bytes;
  uint32_t region;
  uint32_t reserved;
};
static_assert(sizeof(BlobRecord) == 32);

struct CloseRecord {  // of kClose and kConsumed
  uint64_t hold;
};
static_assert(sizeof(CloseRecord) == 8);

struct HoldRecord {  // of kClosed and kBroken
  uint64_t hold;
  uint32_t code;
  uint32_t reserved;
};
static_assert(sizeof(HoldRecord) == 16);

// Hash of blob sizes, as OpenedRecord carries it.
[[nodiscard]] std::array<uint64_t, 2> ShapeHash(std::span<const uint64_t> blobSizes);
// Fills the record's shape.
void SetShape(std::span<const uint64_t> blobSizes, OpenedRecord* record);

// Reads the header. False: not a message of this protocol, or its size is not that of `count` records.
[[nodiscard]] bool ParseHeader(std::span<const std::byte> message, MessageHeader* header);

// REQUIRES: ParseHeader was true and the type is Record's.
template <typename Record>
[[nodiscard]] Record RecordAt(std::span<const std::byte> message, uint32_t index) {
  Record record;
  std::memcpy(&record, message.data() + sizeof(MessageHeader) + size_t{index} * sizeof(Record), sizeof(Record));
  return record;
}

template <typename Record>
[[nodiscard]] std::vector<std::byte> MakeMessage(Type type, std::span<const Record> records) {
  const MessageHeader header{kMagic, kVersion, static_cast<uint16_t>(type), static_cast<uint32_t>(records.size()), 0};
  std::vector<std::byte> message(sizeof(header) + records.size_bytes());
  std::memcpy(message.data(), &header, sizeof(header));
  std::memcpy(message.data() + sizeof(header), records.data(), records.size_bytes());
  return message;
}

// Adds a record to a message of its type, if the message is one and has room. False: it is unchanged.
template <typename Record>
[[nodiscard]] bool AppendRecord(Type type, const Record& record, uint32_t messageBytesMax,
                                std::vector<std::byte>* message) {
  MessageHeader header{};
  std::memcpy(&header, message->data(), sizeof(header));
  if (header.type != static_cast<uint16_t>(type) || message->size() + sizeof(record) > messageBytesMax) return false;
  ++header.count;
  std::memcpy(message->data(), &header, sizeof(header));
  const auto* bytes = reinterpret_cast<const std::byte*>(&record);
  message->insert(message->end(), bytes, bytes + sizeof(record));
  return true;
}

// How many records fit into a message of this size; at least 1.
template <typename Record>
[[nodiscard]] size_t RecordsPerMessage(uint32_t messageBytesMax) {
  const size_t room = messageBytesMax > sizeof(MessageHeader) ? messageBytesMax - sizeof(MessageHeader) : 0;
  return room < sizeof(Record) ? 1 : room / sizeof(Record);
}

}  // namespace hbmesh::sidecar::peer
