// Unix sockets of type SOCK_SEQPACKET in the abstract name space: packets with descriptors beside them, between
// processes of one machine. No file is left behind; the name is free again when the last socket is closed.
//
// Every descriptor is close-on-exec. Calls are retried on EINTR. A broken peer is kRpcPeerDead, never SIGPIPE.
// Thread rule: any thread; one thread at a time for each direction of a socket.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"

namespace hbmesh {

inline constexpr size_t kPacketDescriptorsMax = 16;

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

struct Packet {
  size_t bytes = 0;             // in the buffer that was given
  std::vector<Fd> descriptors;  // owned
};

// `name` without the leading zero byte. The listener doesn't block. kInvalid: the name is empty or too long (107
// bytes). Fails with the remedy when another process listens there.
[[nodiscard]] Status ListenUnix(const std::string& name, Fd* listener);
// kTryAgain: nobody is waiting. kOutOfMemory: somebody is, but there is no descriptor (or memory) for the connection:
// it goes on waiting. The new socket blocks unless `nonBlocking`.
[[nodiscard]] Status AcceptUnix(int listener, bool nonBlocking, Fd* socket);
// Of an errno: descriptors or memory for a new one are used up, for now.
[[nodiscard]] bool OutOfDescriptors(int error);
// A blocking socket. kRpcUnavailable: nobody listens there.
[[nodiscard]] Status ConnectUnix(const std::string& name, Fd* socket);
// Two connected, blocking sockets.
[[nodiscard]] Status UnixPair(Fd* first, Fd* second);

// Who was at the other end when it connected (SO_PEERCRED): the kernel's word, not the peer's.
[[nodiscard]] Status GetPeerCredentials(int socket, PeerCredentials* peer);
// Its groups beside the one among the credentials (SO_PEERGROUPS); empty on a kernel before 4.13.
[[nodiscard]] std::vector<gid_t> GetPeerGroups(int socket);
[[nodiscard]] Status SetNonBlocking(int fd, bool nonBlocking);
// Sends and receives of a blocking socket answer kTryAgain after this long. 0: never.
[[nodiscard]] Status SetSocketTimeout(int socket, uint32_t timeoutMs);

// Sends one packet, whole or not at all. The descriptors are borrowed. kInvalid: empty, or too many descriptors.
// kTryAgain: no room (non-blocking) or the time is over.
[[nodiscard]] Status SendPacket(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors = {});
// Takes one packet; those that the peer sent before it closed come first. kTryAgain: none is there. kRpcPeerDead: the
// other end is closed. kDataInconsistency: the packet is longer than the buffer, or brings more descriptors than
// allowed; it is lost, and its descriptors are closed.
[[nodiscard]] Status ReceivePacket(int socket, std::span<std::byte> buffer, Packet* packet);
// Says that nothing more will be sent. What was sent can still be read by the peer, and its packets by us: for a last
// word to a peer that may be sending. Closing at once would answer a packet on its way with an error instead.
void EndSending(int socket);

}  // namespace hbmesh
