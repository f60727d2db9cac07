// ReplyBuilder: collects the status of each key and the paths of the bytes, and lays them out as an ObjectReply.
//
// A reply whose entry has a code other than kOk refuses the whole call: no results, only the text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "queue/layout.h"

namespace hbmesh::sidecar {

class ReplyBuilder {
 public:
  void Reset(uint32_t count) {
    results_.assign(count, layout::KeyResult{});
    paths_.clear();
    messages_.clear();
    offsets_.clear();
  }
  [[nodiscard]] layout::KeyResult& result(uint32_t key) { return results_[key]; }
  [[nodiscard]] uint32_t count() const { return static_cast<uint32_t>(results_.size()); }
  // Sets code and text of a key. Equal texts are stored once.
  void Fail(uint32_t key, StatusCode code, std::string_view text);
  void Fail(uint32_t key, const Status& status) { Fail(key, status.code(), status.message()); }

  // Adds to the record of this source and transport, or begins one. Nanoseconds and lanes: the larger counts.
  void AddPath(const layout::PathRecord& path);

  // The payload. `blobCounts` and `blobSizes` are for kGetMeta only.
  [[nodiscard]] std::vector<std::byte> Build(std::span<const uint32_t> blobCounts = {},
                                             std::span<const uint64_t> blobSizes = {}) const;
  // The payload of a call that was refused as a whole.
  [[nodiscard]] static std::vector<std::byte> BuildRefusal(std::string_view text);

 private:
  std::vector<layout::KeyResult> results_;
  std::vector<layout::PathRecord> paths_;
  std::string messages_;
  std::unordered_map<std::string, uint32_t> offsets_;  // where each text begins in messages_
};

// A path record of bytes that come from `source`.
[[nodiscard]] layout::PathRecord MakePath(layout::TransportId transport, uint32_t device, uint32_t member,
                                          std::string_view source);

}  // namespace hbmesh::sidecar
