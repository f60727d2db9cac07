// What two shm transports of one host say on their SOCK_SEQPACKET socket: one packet is one of these records. The bytes
// of Reads and Writes never pass through it: each side maps the other's memory, whose memfd travels beside a MapReply
// when it is first needed, and copies.
//
//   reader                               owner of the memory
//   MapRequest {region}  ------------->  looks it up
//                        <-------------  MapReply {region, code, size} + memfd
//   maps it, copies
//                        <-------------  Revoke {region}     the owner unregisters it
//   ends its copies, unmaps
//   Revoked {region}     ------------->  the owner may use the memory for something else
#pragma once

#include <cstdint>

namespace hbmesh::shm {

inline constexpr uint32_t kMagic = 0x314D4248;  // "HBM1"
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kMessageBytesMax = 64 << 10;
inline constexpr uint32_t kTextBytesMax = 256;
inline constexpr uint32_t kRegionsMax = 4096;  // of one peer, mapped at a time

enum class PacketType : uint32_t {
  kHello = 1,
  kHelloReply = 2,
  kMapRequest = 3,
  kMapReply = 4,
  kRevoke = 5,
  kRevoked = 6,
  kMessage = 7,  // PacketHeader, then the message
};

struct PacketHeader {
  uint32_t type;    // PacketType
  uint32_t region;  // MapRequest, Revoke, Revoked; else 0
};
static_assert(sizeof(PacketHeader) == 8);

struct Hello {
  PacketHeader header;
  uint32_t magic;
  uint32_t version;
};
static_assert(sizeof(Hello) == 16);

struct HelloReply {
  PacketHeader header;
  uint32_t magic;
  uint32_t version;
  uint32_t code;  // StatusCode; not kOk: `text` says why
  uint32_t reserved;
  char text[kTextBytesMax];
};

struct MapReply {
  PacketHeader header;
  uint32_t code;  // StatusCode; not kOk: no descriptor
  uint32_t writable;
  uint64_t bytes;
  uint64_t fdOffset;
  char text[kTextBytesMax];
};

}  // namespace hbmesh::shm
