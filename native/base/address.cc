#include "base/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

namespace hbmesh {
namespace {

constexpr size_t kNameBytesMax = 253;
constexpr size_t kLabelBytesMax = 63;
constexpr size_t kPortDigitsMax = 5;
constexpr uint32_t kPortMax = 65535;

constexpr std::string_view kEmpty = "is empty";
constexpr std::string_view kZone = "has a zone (%), which means something on one host only";
constexpr std::string_view kNeither = "has a host that is neither an IP address (IPv6 in brackets) nor a name";
constexpr std::string_view kNoPort = "has no port";
constexpr std::string_view kBadPort = "has a port that is no number from 0 to 65535";
constexpr std::string_view kNoBrackets = "has an IPv6 address without brackets";

bool IsDigit(char each) { return each >= '0' && each <= '9'; }

// As it is written; nothing for a text that is no IPv6 address.
std::optional<std::string> ReadIp6(std::string_view text) {
  in6_addr bytes{};
  if (::inet_pton(AF_INET6, std::string(text).c_str(), &bytes) != 1) return std::nullopt;
  char written[INET6_ADDRSTRLEN];
  if (IN6_IS_ADDR_V4MAPPED(&bytes)) {
    ::inet_ntop(AF_INET, &bytes.s6_addr[12], written, sizeof written);
  } else {
    ::inet_ntop(AF_INET6, &bytes, written, sizeof written);
  }
  return written;
}

bool IsIp4(std::string_view text) {
  in_addr bytes{};
  return ::inet_pton(AF_INET, std::string(text).c_str(), &bytes) == 1;
}

bool IsLabel(std::string_view label) {
  const auto fits = [](char each) {
    return IsDigit(each) || (each >= 'a' && each <= 'z') || each == '-' || each == '_';
  };
  return !label.empty() && label.size() <= kLabelBytesMax && label.front() != '-' && label.back() != '-' &&
         std::all_of(label.begin(), label.end(), fits);
}

// Some resolvers read a name that ends so as an IPv4 address: 127.1, 0x7f000001.
bool IsNumber(std::string_view label) {
  const auto isHex = [](char each) { return IsDigit(each) || (each >= 'a' && each <= 'f'); };
  if (label.starts_with("0x")) return std::all_of(label.begin() + 2, label.end(), isHex);
  return std::all_of(label.begin(), label.end(), IsDigit);
}

std::optional<std::string> ReadName(std::string_view text) {
  std::string name(text);
  for (char& each : name) {
    if (each >= 'A' && each <= 'Z') each = static_cast<char>(each - 'A' + 'a');
  }
  if (name.size() > kNameBytesMax) return std::nullopt;
  std::string_view rest = name;
  if (rest.ends_with('.')) rest.remove_suffix(1);
  for (;;) {
    const size_t dot = rest.find('.');
    const std::string_view label = rest.substr(0, dot);
    if (!IsLabel(label)) return std::nullopt;
    if (dot == std::string_view::npos) return IsNumber(label) ? std::nullopt : std::optional(name);
    rest.remove_prefix(dot + 1);
  }
}

// What is inside the brackets of a host that has them must be an IPv6 address.
std::optional<std::string> ReadHost(std::string_view text) {
  if (text.starts_with('[')) return ReadIp6(text.substr(1, text.size() - 2));
  return IsIp4(text) ? std::optional(std::string(text)) : ReadName(text);
}

std::optional<uint16_t> ReadPort(std::string_view text) {
  uint32_t port = 0;
  const bool isPlain = text.size() <= kPortDigitsMax && std::all_of(text.begin(), text.end(), IsDigit) &&
                       (text.size() == 1 || text.front() != '0');
  if (!isPlain) return std::nullopt;
  std::from_chars(text.data(), text.data() + text.size(), port);
  return port <= kPortMax ? std::optional(static_cast<uint16_t>(port)) : std::nullopt;
}

// Host, with its brackets, and port of a text; or why it can't be split.
struct Parts {
  std::string_view host;
  std::string_view port;
  std::string_view fault;
};

Parts SplitPort(std::string_view text) {
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return {.host = {}, .port = {}, .fault = kNeither};
    const std::string_view rest = text.substr(close + 1);
    if (!rest.empty() && rest.front() != ':') return {.host = {}, .port = {}, .fault = kNeither};
    return {.host = text.substr(0, close + 1), .port = rest.empty() ? rest : rest.substr(1), .fault = {}};
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return {.host = text, .port = {}, .fault = {}};
  if (ReadIp6(text).has_value() || ReadIp6(text.substr(0, colon)).has_value()) {
    return {.host = {}, .port = {}, .fault = kNoBrackets};
  }
  return {.host = text.substr(0, colon), .port = text.substr(colon + 1), .fault = {}};
}

// The address; or why the text is none.
std::string_view Read(std::string_view text, Address* address) {
  if (text.empty()) return kEmpty;
  if (text.find('%') != std::string_view::npos) return kZone;
  const Parts parts = SplitPort(text);
  if (!parts.fault.empty()) return parts.fault;
  std::optional<std::string> host = ReadHost(parts.host);
  if (!host.has_value()) return kNeither;
  if (parts.port.empty()) return kNoPort;
  const std::optional<uint16_t> port = ReadPort(parts.port);
  if (!port.has_value()) return kBadPort;
  address->host = *std::move(host);
  address->port = *port;
  return {};
}

// What was given, without a password that somebody put before the host.
std::string Quote(std::string_view text) {
  const size_t at = text.rfind('@');
  if (at == std::string_view::npos) return "\"" + std::string(text) + "\"";
  return "\"..." + std::string(text.substr(at)) + "\"";
}

}  // namespace

bool Address::isName() const { return host.find(':') == std::string::npos && !IsIp4(host); }

Status ParseAddress(std::string_view text, std::string_view what, Address* address) {
  const std::string_view fault = Read(text, address);
  if (fault.empty()) return Status::Ok();
  return {StatusCode::kInvalid, std::string(what) + " " + Quote(text) + " " + std::string(fault) +
                                    ": give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501"};
}

Status ParseIpAddress(std::string_view text, std::string_view what, Address* address) {
  Address read;
  if (Status status = ParseAddress(text, what, &read); !status.ok()) return status;
  if (read.isName()) {
    return {StatusCode::kInvalid, std::string(what) + " \"" + std::string(text) +
                                      "\" has a name, which may lead elsewhere on another machine: give the IP that "
                                      "others reach (getent ahosts " +
                                      read.host + ")"};
  }
  *address = std::move(read);
  return Status::Ok();
}

std::string FormatAddress(const std::string& host, uint16_t port) {
  const bool isIp6 = host.find(':') != std::string::npos;
  return (isIp6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Status LookUpName(const std::string& name, std::vector<std::string>* hosts) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int fault = ::getaddrinfo(name.c_str(), nullptr, &hints, &found);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  std::vector<std::string> all;
  for (const addrinfo* each = fault == 0 ? found : nullptr; each != nullptr; each = each->ai_next) {
    char host[NI_MAXHOST];
    if (::getnameinfo(each->ai_addr, each->ai_addrlen, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    const std::string_view text = host;
    // A zone says over which link of this host, and no worker has one in its name.
    const std::optional<std::string> read = text.find(':') == std::string_view::npos
                                                ? std::optional(std::string(text))
                                                : ReadIp6(text.substr(0, text.find('%')));
    if (read.has_value() && std::find(all.begin(), all.end(), *read) == all.end()) all.push_back(*read);
  }
  if (all.empty()) {
    const std::string why = fault == 0 ? "" : std::string(" (") + ::gai_strerror(fault) + ")";
    return {StatusCode::kNoAvailableWorker,
            "the name " + name + " leads to no address" + why + ": check it, or give the IP"};
  }
  *hosts = std::move(all);
  return Status::Ok();
}

}  // namespace hbmesh
