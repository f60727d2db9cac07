// The proofs of the tcp transport's handshake (tcp_wire.h), both halves: does the other end belong to this cluster?
// `token` is this end's, null where there is none. An end that has a token talks only to one that proves to have it.
#pragma once

#include "base/status.h"
#include "transport/cluster_token.h"
#include "transport/tcp_wire.h"

namespace hbmesh::tcp {

// Listener: may this caller go on to prove itself? kNotAuthorized for one that can't.
[[nodiscard]] Status CheckCaller(const ClusterToken* token, const Hello& hello);
// Listener: with a random number and the listener's own proof. False: there is no randomness.
[[nodiscard]] bool MakeChallenge(const ClusterToken* token, const Hello& hello, Challenge* challenge);
// Listener: kNotAuthorized for a proof of another token.
[[nodiscard]] Status CheckProof(const ClusterToken* token, const Hello& hello, const Challenge& challenge,
                                const Proof& proof);

// Caller: kNotAuthorized, with the remedy, for a listener of another cluster; nothing is proved to it then.
[[nodiscard]] Status CheckListener(const ClusterToken* token, const Hello& hello, const Challenge& challenge,
                                   Proof* proof);

}  // namespace hbmesh::tcp
