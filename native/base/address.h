// Addresses, HOST:PORT: the names of workers, and where everything listens and connects.
//
// One grammar in all languages (src/base/address.ts says it), held by test/support/addresses.json. Each address has one
// way of being written, so that equal ones compare equal.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace hbmesh {

struct Address {
  std::string host;  // an IP address without brackets, or a name
  uint16_t port = 0;

  [[nodiscard]] bool isName() const;
};

// kInvalid, naming `what`, the text and why it is none.
[[nodiscard]] Status ParseAddress(std::string_view text, std::string_view what, Address* address);
// As ParseAddress, but names are refused.
[[nodiscard]] Status ParseIpAddress(std::string_view text, std::string_view what, Address* address);
// The inverse of ParseAddress.
[[nodiscard]] std::string FormatAddress(const std::string& host, uint16_t port);

// The IP addresses that a name leads to, at least one, each once, as this machine looks names up; or why there is none.
using LookUp = std::function<Status(const std::string& name, std::vector<std::string>* hosts)>;

// Blocks for as long as the system's resolver does. kNoAvailableWorker: the name leads nowhere.
[[nodiscard]] Status LookUpName(const std::string& name, std::vector<std::string>* hosts);

}  // namespace hbmesh
