#include "sidecar/object_call.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sidecar/key_check.h"

namespace hbmesh::sidecar {

namespace {

Status Malformed(const std::string& what) {
  return {StatusCode::kInvalid,
          "malformed request: " + what + "; client and sidecar must be of the same release, restart the client"};
}

std::string KeyName(const ObjectCall& call, uint32_t index) {
  return "key " + ShowKey(call.key(index)) + " (number " + std::to_string(index + 1) + ")";
}

}  // namespace

Status ObjectCall::Parse(Message&& message, const RegionTable& regions, const ParseLimits& limits) {
  payload_ = std::move(message.payload);
  message.payload.clear();
  const std::span<const std::byte> payload(payload_);
  layout::ObjectRequest request{};
  if (payload.size() < sizeof(request) + sizeof(layout::KeyBatchHeader)) {
    return Malformed("it has " + std::to_string(payload.size()) + " bytes, less than its fixed part");
  }
  std::memcpy(&request, payload.data(), sizeof(request));
  if (request.keyBatchBytes % 8 != 0 || request.keyBatchBytes < sizeof(layout::KeyBatchHeader) ||
      request.keyBatchBytes > payload.size() - sizeof(request)) {
    return Malformed("its key batch of " + std::to_string(request.keyBatchBytes) + " bytes does not fit");
  }
  device_ = request.deviceIndex;
  blobCount_ = request.blobCount;
  keyBatch_ = payload.subspan(sizeof(request), request.keyBatchBytes);
  if (Status status = ParseKeys(keyBatch_, limits); !status.ok()) return status;
  if (!limits.keyPrefix.empty()) PrefixKeys(limits.keyPrefix);
  if (message.entry.count != count_) return Malformed("its entry and its key batch name different numbers of keys");
  const std::span<const std::byte> rest = payload.subspan(sizeof(request) + request.keyBatchBytes);
  if (!limits.blobs) {
    return blobCount_ == 0 && rest.empty() ? Status::Ok() : Malformed("it carries blobs, which this call has none of");
  }
  if (device_ >= limits.devices) {
    return {StatusCode::kInvalid, "device index " + std::to_string(device_) +
                                      " doesn't exist: this worker has devices 0 to " +
                                      std::to_string(limits.devices - 1) + "; give one of them"};
  }
  return ParseBlobs(rest, regions);
}

Status ObjectCall::ParseKeys(std::span<const std::byte> batch, const ParseLimits& limits) {
  layout::KeyBatchHeader header{};
  std::memcpy(&header, batch.data(), sizeof(header));
  if (header.count == 0) return {StatusCode::kInvalid, "the call has no keys: give at least one"};
  if (header.count > limits.keysMax) {
    return {StatusCode::kInvalid, "the call has " + std::to_string(header.count) + " keys, at most " +
                                      std::to_string(limits.keysMax) + " are allowed: split it"};
  }
  const uint64_t used = sizeof(header) + 4ULL * header.count + header.keyBytes;
  if (AlignTo8(used) != batch.size()) return Malformed("its key batch does not have the size that its header says");
  keyEnds_ = reinterpret_cast<const uint32_t*>(batch.data() + sizeof(header));
  keyBytes_ = {reinterpret_cast<const char*>(batch.data()) + sizeof(header) + 4ULL * header.count, header.keyBytes};
  uint32_t begin = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    if (keyEnds_[i] < begin || keyEnds_[i] > header.keyBytes) return Malformed("the ends of its keys are not in order");
    if (Status status = CheckKeyBytes(keyBytes_.substr(begin, keyEnds_[i] - begin), i, limits.keyRule); !status.ok()) {
      return status;
    }
    begin = keyEnds_[i];
  }
  if (begin != header.keyBytes) return Malformed("its keys don't fill their bytes");
  count_ = header.count;
  return CheckDuplicates(keyEnds_, count_, keyBytes_);
}

void ObjectCall::PrefixKeys(std::string_view prefix) {
  const layout::KeyBatchHeader header{count_,
                                      static_cast<uint32_t>(keyBytes_.size() + uint64_t{count_} * prefix.size())};
  const size_t endsBytes = 4ULL * count_;
  std::vector<std::byte> batch(AlignTo8(sizeof(header) + endsBytes + header.keyBytes));
  std::memcpy(batch.data(), &header, sizeof(header));
  auto* ends = reinterpret_cast<uint32_t*>(batch.data() + sizeof(header));
  auto* bytes = reinterpret_cast<char*>(batch.data()) + sizeof(header) + endsBytes;
  uint32_t end = 0;
  for (uint32_t i = 0; i < count_; ++i) {
    const std::string_view own = key(i);
    std::memcpy(bytes + end, prefix.data(), prefix.size());
    std::memcpy(bytes + end + prefix.size(), own.data(), own.size());
    end += static_cast<uint32_t>(prefix.size() + own.size());
    ends[i] = end;
  }
  prefixed_ = std::move(batch);
  keyBatch_ = prefixed_;
  keyEnds_ = ends;
  keyBytes_ = {bytes, header.keyBytes};
}

Status ObjectCall::ParseBlobs(std::span<const std::byte> rest, const RegionTable& regions) {
  const uint64_t endsBytes = AlignTo8(4ULL * count_);
  if (rest.size() < endsBytes || (rest.size() - endsBytes) != uint64_t{blobCount_} * sizeof(layout::BlobRecord)) {
    return Malformed("its blob records don't have the size that its header says");
  }
  blobEnds_ = reinterpret_cast<const uint32_t*>(rest.data());
  const auto* blobs = reinterpret_cast<const layout::BlobRecord*>(rest.data() + endsBytes);
  addresses_.reserve(blobCount_);
  sizes_.reserve(blobCount_);
  offsets_.reserve(blobCount_);
  uint32_t begin = 0;
  for (uint32_t i = 0; i < count_; ++i) {
    if (blobEnds_[i] < begin || blobEnds_[i] > blobCount_) return Malformed("the ends of its blobs are not in order");
    if (blobEnds_[i] == begin) {
      return {StatusCode::kInvalid, KeyName(*this, i) + " has no blobs: give at least one"};
    }
    uint64_t offset = 0;
    for (uint32_t blob = begin; blob < blobEnds_[i]; ++blob) {
      if (Status status = ResolveBlob(i, blobs[blob], regions); !status.ok()) return status;
      offsets_.push_back(offset);
      offset += blobs[blob].bytes;  // no overflow: checked on the total
    }
    begin = blobEnds_[i];
  }
  return begin == blobCount_ ? Status::Ok() : Malformed("its blobs belong to no key");
}

Status ObjectCall::ResolveBlob(uint32_t key, const layout::BlobRecord& blob, const RegionTable& regions) {
  if (blob.bytes == 0) return {StatusCode::kInvalid, KeyName(*this, key) + " has a blob of 0 bytes: leave it out"};
  if (blob.region >= regions.size() || regions[blob.region] == nullptr) {
    return {StatusCode::kInvalid, KeyName(*this, key) + " has a blob in region " + std::to_string(blob.region) +
                                      ", which this session has not registered: register the device memory first"};
  }
  const std::shared_ptr<Region>& region = regions[blob.region];
  if (region->deviceIndex() != device_) {
    return {StatusCode::kInvalid, KeyName(*this, key) + " has a blob on device " +
                                      std::to_string(region->deviceIndex()) + ", the call is for device " +
                                      std::to_string(device_) + ": all blobs of a call must be on one device"};
  }
  if (blob.offset > region->bytes() || blob.bytes > region->bytes() - blob.offset) {
    return {StatusCode::kInvalid, KeyName(*this, key) + " has a blob of " + std::to_string(blob.bytes) +
                                      " bytes at offset " + std::to_string(blob.offset) + " of a region of " +
                                      std::to_string(region->bytes()) + " bytes: it must lie inside"};
  }
  if (__builtin_add_overflow(totalBytes_, blob.bytes, &totalBytes_)) {
    return {StatusCode::kInvalid, "the blobs of the call add up to more than 2^64 bytes: split it"};
  }
  regionOf_.push_back(Keep(blob.region, region));
  addresses_.push_back(region->base() + blob.offset);
  sizes_.push_back(blob.bytes);
  return Status::Ok();
}

// The place of a region in regions_. Not searched for: a call may have a million blobs, each in another region.
uint32_t ObjectCall::Keep(uint32_t number, const std::shared_ptr<Region>& region) {
  if (!regionOf_.empty() && regions_[regionOf_.back()] == region) return regionOf_.back();
  if (kept_.size() <= number) kept_.resize(number + 1, kNotKept);
  if (kept_[number] == kNotKept) {
    kept_[number] = static_cast<uint32_t>(regions_.size());
    regions_.push_back(region);
  }
  return kept_[number];
}

std::vector<LocalPiece> ObjectCall::PiecesOf(uint32_t i, uint64_t offset, uint64_t bytes) const {
  std::vector<LocalPiece> pieces;
  uint32_t low = blobBegin(i);
  uint32_t high = blobEnd(i);
  while (high - low > 1) {  // the blob that the range begins in
    const uint32_t middle = low + (high - low) / 2;
    (offsets_[middle] <= offset ? low : high) = middle;
  }
  uint64_t at = offset;
  for (const uint64_t end = offset + bytes; at < end; ++low) {
    const uint64_t inBlob = at - offsets_[low];
    const uint64_t part = std::min(sizes_[low] - inBlob, end - at);
    pieces.push_back({addresses_[low] + inBlob, part});
    at += part;
  }
  return pieces;
}

std::vector<DeviceBlob> ObjectCall::deviceBlobs(uint32_t i) const {
  std::vector<DeviceBlob> blobs;
  for (uint32_t blob = blobBegin(i); blob < blobEnd(i); ++blob) {
    const std::shared_ptr<Region>& region = regions_[regionOf_[blob]];
    blobs.push_back({region, static_cast<uint64_t>(addresses_[blob] - region->base()), sizes_[blob]});
  }
  return blobs;
}

std::vector<std::byte> MakeKeyBatch(std::span<const std::string_view> keys) {
  layout::KeyBatchHeader header{static_cast<uint32_t>(keys.size()), 0};
  for (const std::string_view key : keys) header.keyBytes += static_cast<uint32_t>(key.size());
  std::vector<std::byte> batch(AlignTo8(sizeof(header) + 4ULL * header.count + header.keyBytes));
  std::memcpy(batch.data(), &header, sizeof(header));
  std::byte* ends = batch.data() + sizeof(header);
  std::byte* bytes = ends + 4ULL * header.count;
  uint32_t end = 0;
  for (const std::string_view key : keys) {
    std::memcpy(bytes + end, key.data(), key.size());
    end += static_cast<uint32_t>(key.size());
    std::memcpy(ends, &end, sizeof(end));
    ends += sizeof(end);
  }
  return batch;
}

std::vector<std::byte> MakeKeyBatch(const ObjectCall& call, std::span<const uint32_t> keys) {
  std::vector<std::string_view> texts;
  texts.reserve(keys.size());
  for (const uint32_t key : keys) texts.push_back(call.key(key));
  return MakeKeyBatch(texts);
}

}  // namespace hbmesh::sidecar
