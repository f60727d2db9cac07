#include "sidecar/key_check.h"

#include <xxhash.h>

#include <bit>
#include <cstdio>
#include <vector>

#include "generated/key_rule.h"
#include "sidecar/tenants.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kShownBytesMax = 80;
constexpr uint32_t kCompareAllMax = 8;  // up to here comparing each with each is cheaper than hashing

}  // namespace

std::string ShowKey(std::string_view whole) {
  const std::string_view key = UserKey(whole);
  std::string text = "\"";
  for (const char c : key.substr(0, kShownBytesMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7F && c != '"' && c != '\\') {
      text += c;
    } else {
      char escaped[5];
      std::snprintf(escaped, sizeof(escaped), "\\x%02X", byte);
      text += escaped;
    }
  }
  return text + (key.size() > kShownBytesMax ? "…\"" : "\"");
}

Status CheckKeyBytes(std::string_view key, uint32_t index, KeyRule rule) {
  const bool strict = rule == KeyRule::kStrict;
  const std::string number = std::to_string(index + 1);
  const uint32_t bytesMax = strict ? key_rule::kStrictBytesMax : key_rule::kExtendedBytesMax;
  if (key.empty()) return {StatusCode::kInvalid, "key number " + number + " is empty: a key has at least 1 byte"};
  if (key.size() > bytesMax) {
    return {StatusCode::kInvalid, "key " + ShowKey(key) + " (number " + number + ") has " + std::to_string(key.size()) +
                                      " bytes, at most " + std::to_string(bytesMax) + " are allowed: shorten it"};
  }
  const auto& allowed = strict ? key_rule::kStrictBytes : key_rule::kExtendedBytes;
  for (size_t i = 0; i < key.size(); ++i) {
    if (key_rule::Allowed(allowed, static_cast<uint8_t>(key[i]))) continue;
    return {StatusCode::kInvalid, "key " + ShowKey(key) + " (number " + number + ") has the byte " +
                                      ShowKey(key.substr(i, 1)) + " at " + std::to_string(i) +
                                      ": allowed are A-Z a-z 0-9 - _ ! @ # % ^ * ( ) + = : ;" + (strict ? "" : " .")};
  }
  return Status::Ok();
}

Status CheckDuplicates(const uint32_t* ends, uint32_t count, std::string_view bytes) {
  const auto keyAt = [&](uint32_t i) {
    const uint32_t begin = i == 0 ? 0 : ends[i - 1];
    return bytes.substr(begin, ends[i] - begin);
  };
  const auto duplicate = [&](uint32_t first, uint32_t second) {
    return Status(StatusCode::kInvalid, "key " + ShowKey(keyAt(second)) + " is in the call twice (numbers " +
                                            std::to_string(first + 1) + " and " + std::to_string(second + 1) +
                                            "): name each key once");
  };
  if (count <= kCompareAllMax) {
    for (uint32_t i = 1; i < count; ++i) {
      for (uint32_t j = 0; j < i; ++j) {
        if (keyAt(i) == keyAt(j)) return duplicate(j, i);
      }
    }
    return Status::Ok();
  }
  // Open addressing, at most half full; an entry is the key's number plus one. Seeded by the table's own address, so
  // that no client can prepare keys that all fall together.
  std::vector<uint32_t> table(std::bit_ceil(count * 2ULL));
  const size_t mask = table.size() - 1;
  const auto seed = static_cast<XXH64_hash_t>(reinterpret_cast<uintptr_t>(table.data()));
  for (uint32_t i = 0; i < count; ++i) {
    const std::string_view key = keyAt(i);
    size_t at = XXH3_64bits_withSeed(key.data(), key.size(), seed) & mask;
    for (; table[at] != 0; at = (at + 1) & mask) {
      if (keyAt(table[at] - 1) == key) return duplicate(table[at] - 1, i);
    }
    table[at] = i + 1;
  }
  return Status::Ok();
}

}  // namespace hbmesh::sidecar
