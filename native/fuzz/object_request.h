// A good request of a client, and the device whose memory it names: what fuzzers of requests and of peers begin with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "fuzz/fuzz.h"
#include "queue/layout.h"

namespace hbmesh::fuzz {

// A device whose regions are memory of the fuzzer.
class MemoryDevice final : public Device {
 public:
  explicit MemoryDevice(uint32_t index) : index_(index) {}
  uint32_t index() const override { return index_; }
  const char* backend() const override { return "fuzz"; }
  DeviceCapabilities capabilities() const override { return {.hostAddressable = true}; }
  Status Import(const ExportHandle&, DeviceRegion*) override { return {StatusCode::kNotSupported, "none"}; }
  void Release(const DeviceRegion&) override {}
  Status RegisterHostMemory(std::byte*, uint64_t) override { return Status::Ok(); }
  Status Copy(CopyKind, std::span<const CopyPiece>, uint64_t) override { return {StatusCode::kNotSupported, "none"}; }

 private:
  const uint32_t index_;
};

// The payload of a call for the keys "key0", "key1", ...; the blobs are shared out evenly.
inline Bytes ObjectRequestOf(uint32_t device, uint32_t keyCount, const std::vector<layout::BlobRecord>& blobs) {
  std::string text;
  std::vector<uint32_t> ends;
  for (uint32_t i = 0; i < keyCount; ++i) {
    text += "key" + std::to_string(i);
    ends.push_back(static_cast<uint32_t>(text.size()));
  }
  SeedWriter batch;
  batch.Put(layout::KeyBatchHeader{keyCount, ends.back()});
  for (const uint32_t end : ends) batch.Put(end);
  batch.PutBytes(std::as_bytes(std::span(text)));
  Bytes keys = batch.bytes();
  keys.resize((keys.size() + 7) / 8 * 8);
  SeedWriter request;
  request.Put(layout::ObjectRequest{device, static_cast<uint32_t>(blobs.size()), keys.size()}).PutBytes(keys);
  if (!blobs.empty()) {
    for (uint32_t i = 0; i < keyCount; ++i) request.Put(static_cast<uint32_t>((i + 1) * blobs.size() / keyCount));
    if (keyCount % 2 != 0) request.Put(uint32_t{0});
    for (const layout::BlobRecord& blob : blobs) request.Put(blob);
  }
  return request.bytes();
}

}  // namespace hbmesh::fuzz
