// Key checks of a batch: the rule of the cluster (generated from the Wasm, native/generated/key_rule.h) and duplicates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "sidecar/options.h"

namespace hbmesh::sidecar {

// kOk, or kInvalid with a text that names the first offending key and what to change.
[[nodiscard]] Status CheckKeyBytes(std::string_view key, uint32_t index, KeyRule rule);

// Finds equal keys. `ends` and `bytes` as in a KeyBatch.
[[nodiscard]] Status CheckDuplicates(const uint32_t* ends, uint32_t count, std::string_view bytes);

// A key as it may be shown to people: without its tenant's prefix, quoted, other bytes than visible ASCII as \xNN,
// shortened.
[[nodiscard]] std::string ShowKey(std::string_view key);

}  // namespace hbmesh::sidecar
