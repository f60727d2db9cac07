// Tenants: whose keys a session sees. A file names them, one line each: `token tenant`, separated by blanks; empty
// lines and lines that begin with # are left out. Tokens stand in no message and no log.
//
// Keys of all tenants but `default` carry a prefix inside, from the session's requests to store, control process and
// peers: 16 hexadecimal digits of XXH64 (seed 0) of the tenant's name, then the byte 0x1f, which no user can write.
// src/base/tenants.ts does the same for the control process.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace hbmesh::sidecar {

inline constexpr size_t kTenantPrefixBytes = 17;

class Tenants {
 public:
  // kInvalid: names the file, the line and what is wrong, but never what stands there.
  [[nodiscard]] static Status Load(const std::string& path, Tenants* tenants);
  [[nodiscard]] static Status Parse(const std::string& text, const std::string& name, Tenants* tenants);

  // No file: everyone is one tenant.
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  // What the keys of the token's tenant begin with; null for a token that nobody has. Takes equally long for all
  // tokens.
  [[nodiscard]] const std::string* PrefixOf(std::string_view token) const;

 private:
  struct Entry {
    std::string token;
    std::string tenant;
    std::string prefix;
  };
  std::vector<Entry> entries_;
};

// Takes as long for any `given` of the same size: a token must not be guessed byte by byte.
[[nodiscard]] bool SameToken(std::string_view given, std::string_view token);

// The key as its user wrote it.
[[nodiscard]] std::string_view UserKey(std::string_view key);

}  // namespace hbmesh::sidecar
