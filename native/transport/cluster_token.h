// ClusterToken: the secret that all workers of a cluster have, and proofs of having it. The token itself is never sent:
// each end shows an HMAC-SHA256 over a text that says which end it is, what was said so far, and the other end's random
// number. src/base/credentials.ts is the same for the control link.
//
// Thread rule: immutable, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace hbmesh {

class ClusterToken {
 public:
  static constexpr size_t kProofBytes = 32;
  static constexpr size_t kLengthMin = 16;  // shorter ones could be guessed from a proof that somebody has heard
  static constexpr size_t kLengthMax = 512;
  using Proof = std::array<std::byte, kProofBytes>;

  // Reads a file that has one token and nothing else. kInvalid names the file, never what is in it.
  [[nodiscard]] static Status Load(const std::string& path, std::shared_ptr<const ClusterToken>* token);
  // `where` names it in the error.
  [[nodiscard]] static Status Parse(std::string_view text, const std::string& where,
                                    std::shared_ptr<const ClusterToken>* token);
  ~ClusterToken();
  ClusterToken(const ClusterToken&) = delete;
  ClusterToken& operator=(const ClusterToken&) = delete;

  // Is this the token? Takes the same time for every wrong one of its length.
  [[nodiscard]] bool Matches(std::string_view given) const;
  // HMAC-SHA256 of the token over `role`, a zero byte, `said` and `nonce`.
  [[nodiscard]] Proof Prove(std::string_view role, std::span<const std::byte> said,
                            std::span<const std::byte> nonce) const;
  // Is `proof` what Prove gives? Takes the same time for every wrong one.
  [[nodiscard]] bool Accepts(const Proof& proof, std::string_view role, std::span<const std::byte> said,
                             std::span<const std::byte> nonce) const;

 private:
  explicit ClusterToken(std::string token) : token_(std::move(token)) {}

  std::string token_;
};

}  // namespace hbmesh
