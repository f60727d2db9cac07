#include "sidecar/tenants.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>

namespace hbmesh::sidecar {

namespace {

constexpr char kPrefixEnd = 0x1f;

std::string PrefixFor(const std::string& tenant) {
  if (tenant == "default") return {};
  char digits[kTenantPrefixBytes];
  std::snprintf(digits, sizeof(digits), "%016llx",
                static_cast<unsigned long long>(XXH64(tenant.data(), tenant.size(), 0)));
  return std::string(digits) + kPrefixEnd;
}

Status Wrong(const std::string& name, size_t line, const std::string& what) {
  return {StatusCode::kInvalid,
          "line " + std::to_string(line) + " of the tenants file " + name + " " + what + "; it must be: token tenant"};
}

}  // namespace

bool SameToken(std::string_view given, std::string_view token) {
  unsigned difference = given.size() == token.size() ? 0 : 1;
  for (size_t i = 0; i < std::max(given.size(), token.size()); ++i) {
    const char left = i < given.size() ? given[i] : '\0';
    const char right = i < token.size() ? token[i] : '\0';
    difference |= static_cast<unsigned char>(left ^ right);
  }
  return difference == 0;
}

std::string_view UserKey(std::string_view key) {
  const bool prefixed = key.size() > kTenantPrefixBytes && key[kTenantPrefixBytes - 1] == kPrefixEnd;
  return prefixed ? key.substr(kTenantPrefixBytes) : key;
}

Status Tenants::Load(const std::string& path, Tenants* tenants) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return {StatusCode::kInvalid, "the tenants file " + path + " can't be read; each line of it is: token tenant"};
  }
  return Parse({std::istreambuf_iterator<char>(file), {}}, path, tenants);
}

Status Tenants::Parse(const std::string& text, const std::string& name, Tenants* tenants) {
  Tenants made;
  std::istringstream lines(text);
  std::string line;
  for (size_t number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line);
    const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
    if (fields.empty() || fields[0][0] == '#') continue;
    if (fields.size() != 2) return Wrong(name, number, "has " + std::to_string(fields.size()) + " fields");
    Entry entry{fields[0], fields[1], PrefixFor(fields[1])};
    for (const Entry& other : made.entries_) {
      if (other.token == entry.token) return Wrong(name, number, "repeats the token of another line");
      if (other.prefix == entry.prefix && other.tenant != entry.tenant) {
        return Wrong(name, number, "has a tenant whose keys can't be told from those of another one: rename it");
      }
    }
    made.entries_.push_back(std::move(entry));
  }
  if (made.entries_.empty()) {
    return {StatusCode::kInvalid, "the tenants file " + name + " names nobody; each line of it is: token tenant"};
  }
  *tenants = std::move(made);
  return Status::Ok();
}

const std::string* Tenants::PrefixOf(std::string_view token) const {
  const std::string* prefix = nullptr;
  for (const Entry& entry : entries_) {
    if (SameToken(token, entry.token)) prefix = &entry.prefix;
  }
  return prefix;
}

}  // namespace hbmesh::sidecar
