// What a client or a control process and the sidecar say on the session socket: an abstract Unix SOCK_SEQPACKET socket
// named "hbmesh/<IP>:<PORT>" after the worker address. One packet is one message; descriptors travel beside it
// (SCM_RIGHTS). The socket carries what the channel can't: descriptors, and the news that a process died (its end of
// file).
//
//   peer                                     sidecar
//   Hello                     ------------>  checks version, peer credentials, token (sidecar/admission.h)
//                             <------------  Welcome + channel memfd, sidecar wake, peer wake [, store memfd]
//   RegisterRegion [+ memfd]  ------------>  Device::Import
//                             <------------  RegisterReply
//   UnregisterRegion          ------------>
//                             <------------  RegisterReply
//
// Registration is request and reply, one at a time for each session. Everything else goes over the channel.
#pragma once

#include <cstdint>
#include <string>

namespace hbmesh::session {

inline constexpr uint32_t kMagic = 0x31534248;  // "HBS1"
inline constexpr uint32_t kVersion = 2;
inline constexpr uint32_t kTextBytes = 512;
inline constexpr uint32_t kExportKeyBytesMax = 128;

// The name of a worker's session socket, without the leading zero byte.
inline std::string SocketName(const std::string& workerAddress) { return "hbmesh/" + workerAddress; }

enum class Kind : uint32_t { kClient = 1, kControl = 2 };

enum class Type : uint32_t {
  kHello = 1,
  kWelcome = 2,
  kRegisterRegion = 3,
  kRegisterReply = 4,
  kUnregisterRegion = 5,
};

struct Hello {
  uint32_t type;  // Type::kHello
  uint32_t magic;
  uint32_t version;
  uint32_t kind;  // Kind
  uint32_t pid;
  uint32_t reserved;
  char token[kTextBytes];  // zero terminated
};

struct Welcome {
  uint32_t type;
  uint32_t magic;
  uint32_t version;
  uint32_t code;  // StatusCode; not kOk: `text` says why, no descriptors, and no session
  uint64_t session;
  uint32_t deviceCount;
  uint32_t descriptors;         // how many travel beside this packet
  char backend[32];             // "sim", "ascend"
  char transports[kTextBytes];  // "tcp=127.0.0.1:40123 shm=hbmesh-shm/…", for the control process
  char text[kTextBytes];
};

struct RegisterRegion {
  uint32_t type;
  uint32_t deviceIndex;
  uint64_t bytes;
  uint32_t keyBytes;
  uint32_t reserved;
  uint8_t key[kExportKeyBytesMax];
};

struct UnregisterRegion {
  uint32_t type;
  uint32_t region;
};

struct RegisterReply {
  uint32_t type;
  uint32_t code;
  uint32_t region;
  uint32_t reserved;
  char text[kTextBytes];
};

}  // namespace hbmesh::session
