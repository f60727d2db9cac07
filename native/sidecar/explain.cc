#include "sidecar/explain.h"

#include <cstdio>

#include "sidecar/tenants.h"

namespace hbmesh::sidecar {

namespace {

std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20) {
      char escaped[7];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      quoted += escaped;
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string Number(uint64_t value) { return Quote(std::to_string(value)); }

const char* NameOf(Explanation::Where where) {
  switch (where) {
    case Explanation::Where::kMemory:
      return "memory";
    case Explanation::Where::kSpilled:
      return "ssd";
    default:
      return "nowhere";
  }
}

const char* NameOf(Pin pin) {
  switch (pin) {
    case Pin::kSoft:
      return "soft";
    case Pin::kHard:
      return "hard";
    default:
      return "none";
  }
}

// Times are told as how long ago they were, or how long it is until then: the clock is this machine's own.
std::string Ago(uint64_t atMs, uint64_t nowMs) { return Number(nowMs > atMs ? nowMs - atMs : 0); }

}  // namespace

std::string ExplainJson(const ObjectStore& store, std::string_view key, uint64_t nowMs) {
  const Explanation known = store.Explain(key);
  std::string json = "{\"key\":" + Quote(UserKey(key)) + ",\"where\":" + Quote(NameOf(known.where)) +
                     ",\"reason\":" + Quote(known.reason);
  if (known.where != Explanation::Where::kNowhere) {
    json += ",\"slot\":" + std::to_string(known.slot) + ",\"generation\":" + Number(known.generation) +
            ",\"bytes\":" + Number(known.bytes) + ",\"blobSizes\":[";
    for (size_t i = 0; i < known.blobSizes.size(); ++i) json += (i == 0 ? "" : ",") + Number(known.blobSizes[i]);
    json += "],\"pin\":" + Quote(NameOf(known.pin)) + ",\"replica\":" + (known.replica ? "true" : "false") +
            ",\"holds\":" + std::to_string(known.holds) + ",\"evictable\":" + (known.evictable ? "true" : "false") +
            ",\"sealedMillisecondsAgo\":" + Ago(known.sealedAtMs, nowMs);
    if (known.lastReadAtMs != 0) json += ",\"readMillisecondsAgo\":" + Ago(known.lastReadAtMs, nowMs);
    if (known.where == Explanation::Where::kSpilled) {
      json += ",\"spillOffset\":" + Number(store.SlotAt(known.slot).spillOffset);
    }
    if (known.expiresAtMs != 0) json += ",\"expiresInMilliseconds\":" + Ago(nowMs, known.expiresAtMs);
  }
  if (known.lastEnding.has_value()) {
    json += ",\"ended\":" + Quote(EndReasonName(known.lastEnding->reason)) +
            ",\"endedGeneration\":" + Number(known.lastEnding->generation) +
            ",\"endedMillisecondsAgo\":" + Ago(known.lastEnding->atMs, nowMs);
    const std::string_view cause = EvictCauseName(known.lastEnding->cause);
    if (!cause.empty()) json += ",\"endedBecause\":" + Quote(cause);
  }
  return json + "}";
}

std::string MergeExplanations(std::string_view owner, std::string_view here) {
  std::string merged = "{\"here\":" + std::string(here);
  const size_t begin = owner.find('{');
  const size_t first = begin == std::string_view::npos ? begin : owner.find_first_not_of(" \t\r\n", begin + 1);
  if (first == std::string_view::npos) return merged + "}";
  if (owner[first] != '}') merged += ",";
  merged += owner.substr(first);
  return merged;
}

std::string RefusalJson(const Status& why) {
  return "{\"code\":" + Quote(StatusCodeName(why.code())) + ",\"message\":" + Quote(why.message()) + "}";
}

}  // namespace hbmesh::sidecar
