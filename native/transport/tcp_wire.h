// What two tcp transports say to each other. An endpoint has a connection for each lane, for bytes, and one more for
// requests: what is asked for or said there never waits behind bytes. Each begins with a handshake, then carries frames
// in both directions: a FrameHeader, then payloadBytes bytes. Byte order is that of the hosts, little-endian (checked
// below); all lengths are checked before they are used, and anything unexpected closes the endpoint.
//
//   caller                                            listener
//   Hello                                  -------->
//                                          <--------  HelloReply: kChallenge
//   Proof                                  -------->
//                                          <--------  HelloReply: kAccepted, when all connections are there; or why not
//
// Where there is a cluster token, each end proves to have it before the other trusts it with anything: the listener in
// its challenge, the caller with its Proof. Both are HMAC-SHA256 of the token over "hbmesh tcp listener" or
// "hbmesh tcp caller", a zero byte, the Hello and the challenge's nonce. Without a token they are zeros.
//
//   reader                                            owner of the memory
// over the connection for requests:
//   Read {lane, request, region, offset, bytes} ----> answered on that lane
//   Message + bytes                        -------->
// over a lane:
//                                          <--------  Data {request, offset} + bytes, in frames of up to kChunkBytesMax
//                                          or <-----  Failed {request, code} + text
//   Write {request, region, offset, bytes} + bytes ->  in frames; `offset` and `bytes` are those of the whole request
//                                          <--------  Written {request}, or Failed
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace hbmesh::tcp {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");

inline constexpr uint32_t kMagic = 0x31544248;  // "HBT1"
inline constexpr uint32_t kVersion = 3;
inline constexpr uint32_t kLanesMax = 16;
inline constexpr uint32_t kChunkBytesMax = 1 << 20;  // payload of one Data or Write frame: messages pass between two
inline constexpr uint32_t kMessageBytesMax = 64 << 10;
inline constexpr uint32_t kTextBytesMax = 512;

// Of an endpoint.
constexpr uint32_t ConnectionsOf(uint32_t lanes) { return lanes + 1; }

inline constexpr uint32_t kHasToken = 1;  // flag of Hello and Challenge

struct Hello {
  uint32_t magic;
  uint32_t version;
  uint64_t endpoint[2];  // random, the same on all connections of one endpoint
  uint32_t lane;         // `lanes`: the connection for requests
  uint32_t lanes;
  uint32_t flags;
  uint32_t reserved;
  std::byte nonce[32];  // random
};
static_assert(sizeof(Hello) == 72);

struct Challenge {
  uint32_t flags;
  std::byte nonce[32];  // random
  std::byte proof[32];
};

struct Proof {
  std::byte bytes[32];
};
static_assert(sizeof(Proof) == 32);

enum class Step : uint32_t { kRefused = 0, kChallenge = 1, kAccepted = 2 };

struct HelloReply {
  uint32_t magic;
  uint32_t version;
  uint32_t code;  // StatusCode; not kOk: `text` says why, and the connection is closed
  uint32_t step;  // Step
  union {
    char text[kTextBytesMax];  // zero terminated
    Challenge challenge;
  };
};
static_assert(sizeof(HelloReply) == 16 + kTextBytesMax);

enum class FrameType : uint16_t { kRead = 1, kData = 2, kWrite = 3, kWritten = 4, kFailed = 5, kMessage = 6 };

struct FrameHeader {
  uint32_t magic;
  uint16_t type;     // FrameType
  uint16_t lane;     // Read: on which the bytes are to come
  uint64_t request;  // the requester's number, returned unchanged
  uint64_t offset;   // Read, Write: in the region; Data: in the request
  uint64_t bytes;    // Read, Write: of the whole request
  uint32_t region;
  uint32_t code;  // Failed: StatusCode
  uint32_t payloadBytes;
  uint32_t reserved2;
};
static_assert(sizeof(FrameHeader) == 48);

}  // namespace hbmesh::tcp
