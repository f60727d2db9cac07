// What the sidecars of two workers say to each other in messages (Endpoint::Send), beside the one-sided reads.
//
//   reader                                  holder
//   OPEN {slot, generation} x n  -------->  finds the object, holds it
//                                <--------  OPENED {region, offset, sizes, hold} x n
//   (reads the bytes)
//   CLOSE {hold} x n             -------->  releases it; so does the end of the connection
//
// A message is a MessageHeader and `count` records of one type. Records are copied out before use: a message may begin
// at any address. Byte order is little-endian on both ends. A message that breaks this closes the connection it came
// on.
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
inline constexpr uint16_t kVersion = 1;
inline constexpr uint32_t kShownSizes = 8;

enum class Type : uint16_t { kOpen = 1, kOpened = 2, kClose = 3 };

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
  uint32_t reserved;
};
static_assert(sizeof(OpenRecord) == 24);

struct OpenedRecord {
  uint64_t tag;
  uint64_t hold;    // for CLOSE; 0 when code is not OK
  uint64_t offset;  // of the payload, in the region
  uint64_t payloadBytes;
  uint64_t shapeHash[2];
  uint32_t code;    // StatusCode: OK, TRY_AGAIN (another generation), NOT_FOUND, NOT_READY (too many holds)
  uint32_t region;  // of the transport that the message came on
  uint32_t blobCount;
  uint32_t reserved;
  uint64_t firstSizes[kShownSizes];
};
static_assert(sizeof(OpenedRecord) == 128);

struct CloseRecord {
  uint64_t hold;
};
static_assert(sizeof(CloseRecord) == 8);

// Hash of blob sizes, as OpenedRecord carries it.
[[nodiscard]] std::array<uint64_t, 2> ShapeHash(std::span<const uint64_t> blobSizes);

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

// How many records fit into a message of this size; at least 1.
template <typename Record>
[[nodiscard]] size_t RecordsPerMessage(uint32_t messageBytesMax) {
  const size_t room = messageBytesMax > sizeof(MessageHeader) ? messageBytesMax - sizeof(MessageHeader) : 0;
  return room < sizeof(Record) ? 1 : room / sizeof(Record);
}

}  // namespace hbmesh::sidecar::peer
