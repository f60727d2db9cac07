#include "client/object_codec.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

namespace hbmesh {

namespace {

constexpr size_t kKeyTextMax = 80;  // of a key that is quoted in a message

constexpr uint64_t PadTo8(uint64_t bytes) { return (bytes + 7) & ~uint64_t{7}; }

Status Invalid(std::string message) { return {StatusCode::kInvalid, std::move(message)}; }

Status BadReply(const std::string& what) {
  return {StatusCode::kDataInconsistency,
          "the sidecar's reply is malformed (" + what + "): worker and client must be of the same release"};
}

// An end in the KeyBatch; the caller has checked that it is there.
uint32_t KeyEnd(const ObjectCall& call, uint32_t index) {
  uint32_t end = 0;
  std::memcpy(&end, call.keys.data() + sizeof(layout::KeyBatchHeader) + size_t{index} * sizeof(uint32_t), sizeof(end));
  return end;
}

// The key's bytes; empty when the batch is malformed.
std::string_view KeyOf(const ObjectCall& call, uint32_t keyIndex) {
  const size_t bytesOffset = sizeof(layout::KeyBatchHeader) + size_t{call.keyCount} * sizeof(uint32_t);
  if (keyIndex >= call.keyCount || call.keys.size() < bytesOffset) return {};
  const uint32_t begin = keyIndex == 0 ? 0 : KeyEnd(call, keyIndex - 1);
  const uint32_t end = KeyEnd(call, keyIndex);
  if (end < begin || bytesOffset + end > call.keys.size()) return {};
  return {reinterpret_cast<const char*>(call.keys.data()) + bytesOffset + begin, end - begin};
}

Status CheckKeyBatch(const ObjectCall& call) {
  layout::KeyBatchHeader header{};
  if (call.keyCount == 0) return Invalid("no keys given: a call needs at least one");
  if (call.keys.size() < sizeof(header)) return Invalid("the key batch is shorter than its header");
  std::memcpy(&header, call.keys.data(), sizeof(header));
  const uint64_t endsBytes = uint64_t{header.count} * sizeof(uint32_t);
  if (header.count != call.keyCount || call.keys.size() != PadTo8(sizeof(header) + endsBytes + header.keyBytes)) {
    return Invalid("the key batch holds " + std::to_string(header.count) + " keys in " +
                   std::to_string(call.keys.size()) + " bytes, which doesn't fit a call with " +
                   std::to_string(call.keyCount) + " keys");
  }
  uint32_t begin = 0;
  for (uint32_t i = 0; i < call.keyCount; ++i) {
    const uint32_t end = KeyEnd(call, i);
    if (end < begin || end > header.keyBytes) {
      return Invalid("key " + std::to_string(i) + " of the key batch ends outside of its bytes");
    }
    begin = end;
  }
  if (begin != header.keyBytes) return Invalid("the key batch has bytes that belong to no key");
  return Status::Ok();
}

Status CheckBlobs(const ObjectCall& call) {
  if (!CarriesBlobs(call.op)) {
    if (call.blobEnds.empty() && call.pointers.empty() && call.sizes.empty()) return Status::Ok();
    return Invalid("this operation takes no blobs");
  }
  if (call.blobEnds.size() != call.keyCount) {
    return Invalid(std::to_string(call.keyCount) + " keys but " + std::to_string(call.blobEnds.size()) +
                   " blob lists: give one list for each key");
  }
  if (call.pointers.size() != call.sizes.size()) return Invalid("give one size for each pointer");
  uint32_t begin = 0;
  for (uint32_t key = 0; key < call.keyCount; ++key) {
    const uint32_t end = call.blobEnds[key];
    if (end <= begin || end > call.pointers.size()) {
      return Invalid(DescribeKey(call, key) + " has no blobs: give at least one for each key");
    }
    for (uint32_t blob = begin; blob < end; ++blob) {
      if (call.sizes[blob] != 0) continue;
      return Invalid("blob " + std::to_string(blob - begin) + " of " + DescribeKey(call, key) +
                     " has size 0: a blob has at least one byte");
    }
    begin = end;
  }
  if (begin != call.pointers.size()) return Invalid("there are more pointers than the blob lists name");
  return Status::Ok();
}

// Reads the next `count` records and moves on; false when the payload is too short for them.
template <typename Record>
bool Take(std::span<const std::byte>* rest, uint64_t count, std::span<const Record>* records) {
  if (count > rest->size() / sizeof(Record)) return false;
  const uint64_t bytes = std::min<uint64_t>(PadTo8(count * sizeof(Record)), rest->size());
  *records = {reinterpret_cast<const Record*>(rest->data()), static_cast<size_t>(count)};
  *rest = rest->subspan(bytes);
  return true;
}

Status CheckResults(const ObjectReplyView& view, uint32_t messageBytes) {
  for (size_t i = 0; i < view.results.size(); ++i) {
    const layout::KeyResult& result = view.results[i];
    if (uint64_t{result.messageOffset} + result.messageBytes > messageBytes) {
      return BadReply("the message of key " + std::to_string(i) + " is outside of the messages");
    }
  }
  return Status::Ok();
}

}  // namespace

bool CarriesBlobs(layout::Op op) {
  switch (op) {
    case layout::Op::kSetD2H:
    case layout::Op::kGetH2D:
    case layout::Op::kDevPublish:
    case layout::Op::kDevSubscribe:
    case layout::Op::kDevMSet:
    case layout::Op::kDevMGet:
    case layout::Op::kReserveLayers:
    case layout::Op::kPushLayer:
      return true;
    default:
      return false;
  }
}

bool EndsByKey(layout::Op op) {
  return op == layout::Op::kDevPublish || op == layout::Op::kDevSubscribe || op == layout::Op::kReserveLayers;
}

Status CheckObjectCall(const ObjectCall& call) {
  if (call.op < layout::Op::kSetD2H || call.op > layout::Op::kExplain || call.op == layout::Op::kCancel) {
    return Invalid("operation " + std::to_string(static_cast<uint32_t>(call.op)) + " is not one of a client's");
  }
  if (Status status = CheckKeyBatch(call); !status.ok()) return status;
  return CheckBlobs(call);
}

std::string DescribeKey(const ObjectCall& call, uint32_t keyIndex) {
  const std::string number = "number " + std::to_string(keyIndex + 1);
  const std::string_view key = KeyOf(call, keyIndex);
  if (key.empty()) return "key " + number;
  std::string text = "key \"";
  for (const char c : key.substr(0, kKeyTextMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7F && c != '"' && c != '\\') {
      text += c;
      continue;
    }
    char escaped[5];
    std::snprintf(escaped, sizeof(escaped), "\\x%02X", byte);
    text += escaped;
  }
  return text + (key.size() > kKeyTextMax ? "…\" (" : "\" (") + number + ")";
}

uint32_t KeyIndexOfBlob(const ObjectCall& call, size_t blobIndex) {
  const auto end = std::upper_bound(call.blobEnds.begin(), call.blobEnds.end(), blobIndex);
  return static_cast<uint32_t>(end - call.blobEnds.begin());
}

std::vector<std::byte> EncodeObjectRequest(const ObjectCall& call, std::span<const layout::BlobRecord> blobs) {
  layout::ObjectRequest request{};
  request.deviceIndex = call.deviceIndex;
  request.blobCount = static_cast<uint32_t>(blobs.size());
  request.keyBatchBytes = call.keys.size();
  const size_t endsBytes = PadTo8(call.blobEnds.size_bytes());
  std::vector<std::byte> payload(sizeof(request) + call.keys.size() + endsBytes + blobs.size_bytes());
  std::byte* at = payload.data();
  std::memcpy(at, &request, sizeof(request));
  at += sizeof(request);
  std::memcpy(at, call.keys.data(), call.keys.size());
  at += call.keys.size();
  if (!blobs.empty()) {
    std::memcpy(at, call.blobEnds.data(), call.blobEnds.size_bytes());
    std::memcpy(at + endsBytes, blobs.data(), blobs.size_bytes());
  }
  return payload;
}

Status DecodeObjectReply(layout::Op op, uint32_t code, uint32_t keyCount, std::span<const std::byte> payload,
                         ObjectReplyView* view) {
  const bool failed = code != static_cast<uint32_t>(StatusCode::kOk);
  if (payload.empty() && failed) {
    *view = {};
    return Status::Ok();
  }
  layout::ObjectReply header{};
  if (payload.size() < sizeof(header)) return BadReply(std::to_string(payload.size()) + " bytes");
  std::memcpy(&header, payload.data(), sizeof(header));
  if (header.count != keyCount && !(failed && header.count == 0)) {
    return BadReply(std::to_string(header.count) + " results for " + std::to_string(keyCount) + " keys");
  }
  ObjectReplyView found;
  std::span<const std::byte> rest = payload.subspan(sizeof(header));
  if (!Take(&rest, header.count, &found.results)) return BadReply("it ends within the results");
  if (!Take(&rest, header.pathCount, &found.paths)) return BadReply("it ends within the paths");
  if (op == layout::Op::kGetMeta) {
    if (!Take(&rest, header.count, &found.blobCounts)) return BadReply("it ends within the blob counts");
    if (!Take(&rest, header.blobSizeCount, &found.blobSizes)) return BadReply("it ends within the blob sizes");
    uint64_t total = 0;
    for (const uint32_t count : found.blobCounts) total += count;
    if (total != header.blobSizeCount) return BadReply("blob counts and blob sizes differ");
  } else if (header.blobSizeCount != 0) {
    return BadReply("blob sizes that nobody asked for");
  }
  if (header.messageBytes > rest.size()) return BadReply("it ends within the messages");
  found.messages = {reinterpret_cast<const char*>(rest.data()), header.messageBytes};
  if (Status status = CheckResults(found, header.messageBytes); !status.ok()) return status;
  *view = found;
  return Status::Ok();
}

Status DecodeDeviceReply(uint32_t keyCount, std::span<const std::byte> payload, DeviceReplyView* view) {
  if (payload.empty()) {
    *view = {};
    return Status::Ok();
  }
  layout::DeviceReply header{};
  if (payload.size() < sizeof(header)) return BadReply(std::to_string(payload.size()) + " bytes");
  std::memcpy(&header, payload.data(), sizeof(header));
  DeviceReplyView found;
  std::span<const std::byte> rest = payload.subspan(sizeof(header));
  if (!Take(&rest, header.count, &found.events)) return BadReply("it ends within the events");
  if (!Take(&rest, header.pathCount, &found.paths)) return BadReply("it ends within the paths");
  if (header.messageBytes > rest.size()) return BadReply("it ends within the messages");
  found.messages = {reinterpret_cast<const char*>(rest.data()), header.messageBytes};
  for (const layout::KeyEvent& event : found.events) {
    const std::string name = "the event of key " + std::to_string(event.keyIndex);
    if (event.keyIndex >= keyCount) return BadReply(name + ", where there are " + std::to_string(keyCount) + " keys");
    if (uint64_t{event.messageOffset} + event.messageBytes > header.messageBytes) {
      return BadReply(name + " has a message outside of the messages");
    }
    if (event.stage != static_cast<uint32_t>(layout::KeyStage::kAccepted) &&
        event.stage != static_cast<uint32_t>(layout::KeyStage::kEnded)) {
      return BadReply(name + " has stage " + std::to_string(event.stage));
    }
  }
  *view = found;
  return Status::Ok();
}

std::vector<std::byte> WithoutEnded(std::span<const std::byte> payload, const DeviceReplyView& view, StatusCode code) {
  std::vector<std::byte> kept(payload.begin(), payload.end());
  const auto goes = [code](const layout::KeyEvent& event) {
    return event.stage == static_cast<uint32_t>(layout::KeyStage::kEnded) && event.code == static_cast<uint32_t>(code);
  };
  const auto ended = static_cast<size_t>(std::count_if(view.events.begin(), view.events.end(), goes));
  if (ended == 0) return kept;
  layout::DeviceReply header{};
  std::memcpy(&header, kept.data(), sizeof(header));
  header.count -= static_cast<uint32_t>(ended);
  std::memcpy(kept.data(), &header, sizeof(header));
  size_t at = sizeof(header);
  for (const layout::KeyEvent& event : view.events) {
    if (goes(event)) continue;
    std::memcpy(kept.data() + at, &event, sizeof(event));
    at += sizeof(event);
  }
  const std::span<const std::byte> rest = payload.subspan(sizeof(header) + view.events.size_bytes());
  std::copy(rest.begin(), rest.end(), kept.begin() + static_cast<ptrdiff_t>(at));
  kept.resize(at + rest.size());
  return kept;
}

Status KeyStages::Take(std::span<const layout::KeyEvent> events) {
  constexpr auto kEnded = static_cast<uint8_t>(layout::KeyStage::kEnded);
  for (const layout::KeyEvent& event : events) {
    uint8_t& stage = stages_.at(event.keyIndex);
    if (event.stage <= stage) {
      return BadReply("key " + std::to_string(event.keyIndex) + (stage == kEnded ? " ended" : " was accepted") +
                      " before, and now comes stage " + std::to_string(event.stage));
    }
    stage = static_cast<uint8_t>(event.stage);
    if (stage == kEnded) --open_;
  }
  return Status::Ok();
}

bool KeyStages::IsOpen(uint32_t keyIndex) const {
  return keyIndex < stages_.size() && stages_[keyIndex] != static_cast<uint8_t>(layout::KeyStage::kEnded);
}

}  // namespace hbmesh
