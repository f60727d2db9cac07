#include "transport/tcp_handshake.h"

#include <sys/random.h>

#include <algorithm>
#include <span>
#include <string>

namespace hbmesh::tcp {
namespace {

constexpr std::string_view kCaller = "hbmesh tcp caller";
constexpr std::string_view kListener = "hbmesh tcp listener";

std::span<const std::byte> BytesOf(const Hello& hello) { return std::as_bytes(std::span(&hello, 1)); }

ClusterToken::Proof ProofOf(const std::byte (&bytes)[ClusterToken::kProofBytes]) {
  ClusterToken::Proof proof{};
  std::copy(std::begin(bytes), std::end(bytes), proof.begin());
  return proof;
}

Status NotOfThisCluster(const std::string& what) {
  return {StatusCode::kNotAuthorized, what + "; start all workers of a cluster with the same --cluster_token_file"};
}

}  // namespace

Status CheckCaller(const ClusterToken* token, const Hello& hello) {
  if (token != nullptr && (hello.flags & kHasToken) == 0) {
    return NotOfThisCluster("this side asks for a cluster token, and the caller has none");
  }
  return Status::Ok();
}

bool MakeChallenge(const ClusterToken* token, const Hello& hello, Challenge* challenge) {
  *challenge = {};
  if (::getrandom(challenge->nonce, sizeof challenge->nonce, 0) != static_cast<ssize_t>(sizeof challenge->nonce)) {
    return false;
  }
  if (token != nullptr) {
    challenge->flags = kHasToken;
    const ClusterToken::Proof proof = token->Prove(kListener, BytesOf(hello), challenge->nonce);
    std::copy(proof.begin(), proof.end(), challenge->proof);
  }
  return true;
}

Status CheckProof(const ClusterToken* token, const Hello& hello, const Challenge& challenge, const Proof& proof) {
  if (token == nullptr || token->Accepts(ProofOf(proof.bytes), kCaller, BytesOf(hello), challenge.nonce)) {
    return Status::Ok();
  }
  return NotOfThisCluster("the caller has another cluster token than this side");
}

Status CheckListener(const ClusterToken* token, const Hello& hello, const Challenge& challenge, Proof* proof) {
  *proof = {};
  const bool asks = (challenge.flags & kHasToken) != 0;
  if (token == nullptr) {
    return asks ? NotOfThisCluster("asks for a cluster token, and this worker has none") : Status::Ok();
  }
  if (!asks) return NotOfThisCluster("has no cluster token, and this worker has one");
  if (!token->Accepts(ProofOf(challenge.proof), kListener, BytesOf(hello), challenge.nonce)) {
    return NotOfThisCluster("has another cluster token than this worker");
  }
  const ClusterToken::Proof made = token->Prove(kCaller, BytesOf(hello), challenge.nonce);
  std::copy(made.begin(), made.end(), proof->bytes);
  return Status::Ok();
}

}  // namespace hbmesh::tcp
