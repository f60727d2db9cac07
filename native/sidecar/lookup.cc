#include "sidecar/lookup.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sidecar/key_check.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kShownSizes = 8;

std::string ShowSizes(std::span<const uint64_t> sizes) {
  std::string text = std::to_string(sizes.size()) + (sizes.size() == 1 ? " blob of " : " blobs of ");
  for (size_t i = 0; i < std::min(sizes.size(), kShownSizes); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return text + (sizes.size() > kShownSizes ? ", … bytes" : " bytes");
}

}  // namespace

std::vector<std::byte> LookupPayload(const ObjectCall& call, std::span<const uint32_t> keys) {
  std::vector<uint32_t> ends;
  std::vector<uint64_t> sizes;
  for (const uint32_t key : keys) {
    const auto blobs = call.blobSizes(key);
    sizes.insert(sizes.end(), blobs.begin(), blobs.end());
    ends.push_back(static_cast<uint32_t>(sizes.size()));
  }
  if (ends.size() % 2 != 0) ends.push_back(0);  // to a multiple of 8 bytes
  std::vector<std::byte> payload = MakeKeyBatch(call, keys);
  const size_t batchBytes = payload.size();
  payload.resize(batchBytes + ends.size() * 4 + sizes.size() * 8);
  std::memcpy(payload.data() + batchBytes, ends.data(), ends.size() * 4);
  std::memcpy(payload.data() + batchBytes + ends.size() * 4, sizes.data(), sizes.size() * 8);
  return payload;
}

Status ParseLookup(const Message& reply, uint32_t keys, LookupView* view) {
  const Status malformed(
      StatusCode::kDataInconsistency,
      "the control process answered the lookup with records that don't fit: both must be of the same release");
  const std::span<const std::byte> payload(reply.payload);
  layout::LookupReply header{};
  if (payload.size() < sizeof(header)) return malformed;
  std::memcpy(&header, payload.data(), sizeof(header));
  const uint64_t foundBytes = uint64_t{header.foundCount} * sizeof(layout::FoundRecord);
  const uint64_t sliceBytes = uint64_t{header.sliceCount} * sizeof(layout::SliceRecord);
  if (payload.size() - sizeof(header) < foundBytes + sliceBytes + header.messageBytes) return malformed;
  const std::byte* records = payload.data() + sizeof(header);
  view->found = {reinterpret_cast<const layout::FoundRecord*>(records), header.foundCount};
  view->slices = {reinterpret_cast<const layout::SliceRecord*>(records + foundBytes), header.sliceCount};
  view->messages = {reinterpret_cast<const char*>(records + foundBytes + sliceBytes), header.messageBytes};
  for (const layout::SliceRecord& slice : view->slices) {
    if (slice.keyIndex >= keys) return malformed;
  }
  for (const layout::FoundRecord& found : view->found) {
    if (found.keyIndex >= keys || found.result.locationCount > std::size(found.result.locations) ||
        uint64_t{found.messageOffset} + found.messageBytes > header.messageBytes) {
      return malformed;
    }
  }
  return Status::Ok();
}

bool IsOtherFamily(const layout::ResultRecord& record) {
  return record.code == static_cast<uint32_t>(StatusCode::kInvalid) && (record.flags & layout::kOtherFamily) != 0;
}

std::string FamilyText(std::string_view key, const layout::ResultRecord& record) {
  const std::string name = "key " + ShowKey(key);
  switch (static_cast<layout::Family>(record.family)) {
    case layout::Family::kPublished:
      return name + " was published with devPublish: use devSubscribe, or another key";
    case layout::Family::kDeviceCache:
      return name + " was set with devMSet: use devMGet and devDelete, or another key";
    default:
      return name + " was set with mSetD2H: use mGetH2D and delete, or another key";
  }
}

Status CheckShape(const ObjectCall& call, uint32_t key, std::span<const uint64_t> stored, const ShapeWords& words) {
  const std::span<const uint64_t> wanted = call.blobSizes(key);
  if (std::ranges::equal(wanted, stored)) return Status::Ok();
  const auto different = std::ranges::mismatch(wanted, stored);
  const auto at = static_cast<size_t>(different.in1 - wanted.begin());
  std::string where;
  if (at >= kShownSizes && at < wanted.size() && at < stored.size()) {
    where = " (blob " + std::to_string(at + 1) + ": " + std::to_string(wanted[at]) + " and " +
            std::to_string(stored[at]) + " bytes)";
  }
  return {StatusCode::kInvalid, std::string(words.mine) + " " + ShowSizes(wanted) + ", " + words.other + " " +
                                    ShowSizes(stored) + where + ": " + words.remedy};
}

Status CheckOpenedShape(const ObjectCall& call, uint32_t key, const peer::OpenedRecord& opened,
                        const ShapeWords& words) {
  const std::span<const uint64_t> wanted = call.blobSizes(key);
  const auto hash = peer::ShapeHash(wanted);
  const bool same = opened.blobCount == wanted.size() && opened.payloadBytes == call.objectBytes(key) &&
                    opened.shapeHash[0] == hash[0] && opened.shapeHash[1] == hash[1];
  if (same) return Status::Ok();
  // The sizes that the record carries are enough for the text; a list of another length says the rest.
  const std::vector<uint64_t> stored(opened.firstSizes,
                                     opened.firstSizes + std::min<size_t>(opened.blobCount, peer::kShownSizes));
  if (opened.blobCount <= peer::kShownSizes) {
    Status status = CheckShape(call, key, stored, words);
    if (!status.ok()) return status;
  }
  std::string shown;
  if (!stored.empty()) {
    shown = ", of which the first has " + std::to_string(stored[0]) + " and the last shown " +
            std::to_string(stored.back());
  }
  return {StatusCode::kInvalid, std::string(words.mine) + " " + std::to_string(wanted.size()) + " blobs with " +
                                    std::to_string(call.objectBytes(key)) + " bytes, " + words.other + " " +
                                    std::to_string(opened.blobCount) + " blobs with " +
                                    std::to_string(opened.payloadBytes) + " bytes" + shown + ": " + words.remedy};
}

}  // namespace hbmesh::sidecar
