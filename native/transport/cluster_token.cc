#include "transport/cluster_token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

namespace hbmesh {

Status ClusterToken::Load(const std::string& path, std::shared_ptr<const ClusterToken>* token) {
  const std::string where = "--cluster_token_file " + path;
  std::ifstream file(path, std::ios::binary);
  if (!file) return {StatusCode::kInvalid, where + " can't be read: " + std::strerror(errno)};
  // One byte more than is allowed, with room for the end of the line, tells a file that is too long.
  std::string text(kLengthMax + 64, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  Status status = Parse(text, where, token);
  OPENSSL_cleanse(text.data(), text.size());
  return status;
}

Status ClusterToken::Parse(std::string_view text, const std::string& where,
                           std::shared_ptr<const ClusterToken>* token) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlanks);
  const size_t last = text.find_last_not_of(kBlanks);
  const std::string_view found = first == std::string_view::npos ? "" : text.substr(first, last - first + 1);
  const bool printable = std::all_of(found.begin(), found.end(), [](char each) { return each > ' ' && each <= '~'; });
  if (!printable || found.size() < kLengthMin || found.size() > kLengthMax) {
    return {StatusCode::kInvalid, where + " must have one token of " + std::to_string(kLengthMin) + " to " +
                                      std::to_string(kLengthMax) +
                                      " characters without blanks, and nothing else; make one: openssl rand -hex 32"};
  }
  *token = std::shared_ptr<const ClusterToken>(new ClusterToken(std::string(found)));
  return Status::Ok();
}

ClusterToken::~ClusterToken() { OPENSSL_cleanse(token_.data(), token_.size()); }

bool ClusterToken::Matches(std::string_view given) const {
  return given.size() == token_.size() && CRYPTO_memcmp(given.data(), token_.data(), token_.size()) == 0;
}

ClusterToken::Proof ClusterToken::Prove(std::string_view role, std::span<const std::byte> said,
                                        std::span<const std::byte> nonce) const {
  std::vector<std::byte> text;
  text.reserve(role.size() + 1 + said.size() + nonce.size());
  std::transform(role.begin(), role.end(), std::back_inserter(text), [](char each) { return std::byte(each); });
  text.push_back(std::byte{0});
  text.insert(text.end(), said.begin(), said.end());
  text.insert(text.end(), nonce.begin(), nonce.end());
  Proof proof{};
  unsigned int bytes = 0;
  ::HMAC(EVP_sha256(), token_.data(), static_cast<int>(token_.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(proof.data()), &bytes);
  return proof;
}

bool ClusterToken::Accepts(const Proof& proof, std::string_view role, std::span<const std::byte> said,
                           std::span<const std::byte> nonce) const {
  const Proof expected = Prove(role, said, nonce);
  return CRYPTO_memcmp(proof.data(), expected.data(), proof.size()) == 0;
}

}  // namespace hbmesh
