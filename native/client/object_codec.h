// Requests and replies about objects, as bytes: the payloads that queue/layout.h draws. Encoding checks what the caller
// said, decoding trusts nothing that the sidecar wrote.
//
// Thread rule: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "queue/layout.h"

namespace hbmesh {

// One call about a batch of keys. Everything is borrowed for the time of the call only.
struct ObjectCall {
  layout::Op op = layout::Op::kExist;
  uint64_t args[4] = {0, 0, 0, 0};  // by operation, see layout::Op
  uint32_t deviceIndex = 0;
  std::span<const std::byte> keys;  // a KeyBatch, padded to 8 bytes
  uint32_t keyCount = 0;
  // Operations that carry blobs: blob i belongs to key k when blobEnds[k - 1] <= i < blobEnds[k]. Else all three are
  // empty.
  std::span<const uint32_t> blobEnds;
  std::span<const uint64_t> pointers;
  std::span<const uint64_t> sizes;
};

[[nodiscard]] bool CarriesBlobs(layout::Op op);
// Do the keys end one by one, in replies with a DeviceReply, of which all but the last have kFlagMore?
[[nodiscard]] bool EndsByKey(layout::Op op);

// Is the call well formed: a KeyBatch of `keyCount` keys with ascending ends, blobEnds ascending to the number of
// pointers, sizes above 0. kInvalid names what is wrong and the key's index. Which keys are allowed is the sidecar's
// business.
[[nodiscard]] Status CheckObjectCall(const ObjectCall& call);

// REQUIRES: CheckObjectCall(call) is kOk; one record a blob.
[[nodiscard]] std::vector<std::byte> EncodeObjectRequest(const ObjectCall& call,
                                                         std::span<const layout::BlobRecord> blobs);

// How messages name a key: `key "name" (number 3)`, counted from 1; bytes that can't be shown are escaped, a long key
// is cut. The sidecar names keys in the same way, so that callers can tell which one is meant.
[[nodiscard]] std::string DescribeKey(const ObjectCall& call, uint32_t keyIndex);
// The key that a blob belongs to. REQUIRES: CheckObjectCall(call) is kOk.
[[nodiscard]] uint32_t KeyIndexOfBlob(const ObjectCall& call, size_t blobIndex);

// Where the parts of an ObjectReply are. Spans point into the payload.
struct ObjectReplyView {
  std::span<const layout::KeyResult> results;
  std::span<const layout::PathRecord> paths;
  std::span<const uint32_t> blobCounts;  // kGetMeta, one a key
  std::span<const uint64_t> blobSizes;   // kGetMeta
  std::string_view messages;
};

// `code` is the code of the reply's entry. kOk: one result for each of `keyCount` keys, or none with another code than
// OK (then `messages` is about the whole call, and an empty payload is allowed). kDataInconsistency: counts, offsets or
// sizes that don't fit; *view is untouched. REQUIRES: the payload is aligned to 8 bytes, and !EndsByKey(op).
[[nodiscard]] Status DecodeObjectReply(layout::Op op, uint32_t code, uint32_t keyCount,
                                       std::span<const std::byte> payload, ObjectReplyView* view);

// Where the parts of a DeviceReply are. Spans point into the payload.
struct DeviceReplyView {
  std::span<const layout::KeyEvent> events;
  std::span<const layout::PathRecord> paths;
  std::string_view messages;

  [[nodiscard]] std::string_view MessageOf(const layout::KeyEvent& event) const {
    return messages.substr(event.messageOffset, event.messageBytes);
  }
};

// One reply of a request for which EndsByKey holds; an empty payload has no events. kDataInconsistency: an event of a
// key or stage that isn't there, counts or offsets that don't fit; *view is untouched. Whether the events agree with
// earlier replies is KeyStages' business. REQUIRES: the payload is aligned to 8 bytes.
[[nodiscard]] Status DecodeDeviceReply(uint32_t keyCount, std::span<const std::byte> payload, DeviceReplyView* view);

// The reply without those events that end a key with `code`. REQUIRES: `view` is that of `payload`.
[[nodiscard]] std::vector<std::byte> WithoutEnded(std::span<const std::byte> payload, const DeviceReplyView& view,
                                                  StatusCode code);

// How far each key of such a request is. A key is accepted at most once, and ends exactly once.
class KeyStages {
 public:
  explicit KeyStages(uint32_t keyCount = 0) : stages_(keyCount, 0), open_(keyCount) {}

  // Takes the events of one reply in their order. kDataInconsistency: one comes twice, or after its key's end.
  [[nodiscard]] Status Take(std::span<const layout::KeyEvent> events);
  // Keys that have not ended.
  [[nodiscard]] uint32_t open() const { return open_; }
  [[nodiscard]] bool IsOpen(uint32_t keyIndex) const;

 private:
  std::vector<uint8_t> stages_;  // 0, or the last KeyStage
  uint32_t open_;
};

}  // namespace hbmesh
