// What every call that fetches bytes shares: the question where its keys are, the answer to it, and whether an object
// has the shape of the caller's blobs.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "queue/layout.h"
#include "sidecar/object_call.h"
#include "sidecar/peer_protocol.h"

namespace hbmesh::sidecar {

// Payload of kLookup for some keys of a call.
[[nodiscard]] std::vector<std::byte> LookupPayload(const ObjectCall& call, std::span<const uint32_t> keys);

// A reply to kLookup, in place. Its indexes of keys, locations and messages were checked.
struct LookupView {
  std::span<const layout::FoundRecord> found;
  std::span<const layout::SliceRecord> slices;
  std::string_view messages;
};
// kDataInconsistency: the records don't fit a lookup of this many keys.
[[nodiscard]] Status ParseLookup(const Message& reply, uint32_t keys, LookupView* view);

// The key is there, but in another family than the one that was asked for.
[[nodiscard]] bool IsOtherFamily(const layout::ResultRecord& record);
// Names the family that the key is in, and the calls for it.
[[nodiscard]] std::string FamilyText(std::string_view key, const layout::ResultRecord& record);

// How a text about shapes speaks of the caller's side, of the object, and what to do.
struct ShapeWords {
  const char* mine;
  const char* other;
  const char* remedy;
};
inline constexpr ShapeWords kGetWords{"the get has", "the object was set with", "give the blobs of the set"};

// kOk, or kInvalid with both counts and sizes.
[[nodiscard]] Status CheckShape(const ObjectCall& call, uint32_t key, std::span<const uint64_t> stored,
                                const ShapeWords& words);
// The same for an object that a peer opened.
[[nodiscard]] Status CheckOpenedShape(const ObjectCall& call, uint32_t key, const peer::OpenedRecord& opened,
                                      const ShapeWords& words);

}  // namespace hbmesh::sidecar
