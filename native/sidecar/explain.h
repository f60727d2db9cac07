// What this worker knows of a key, as JSON text. 64-bit numbers are text, as in proto3's JSON. The key is shown without
// its tenant's prefix.
#pragma once

#include <string>
#include <string_view>

#include "store/object_store.h"

namespace hbmesh::sidecar {

[[nodiscard]] std::string ExplainJson(const ObjectStore& store, std::string_view key, uint64_t nowMs);
// The owner's document with this worker's as `here`. `owner` is a JSON object, or nothing.
[[nodiscard]] std::string MergeExplanations(std::string_view owner, std::string_view here);
// An object for an owner that could not be asked.
[[nodiscard]] std::string RefusalJson(const Status& why);

}  // namespace hbmesh::sidecar
