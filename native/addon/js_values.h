// Values between JavaScript and C++: arguments checked as they enter, errors with a status code as they leave.
//
// Thread rule: the environment's own thread.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace hbmesh::addon {

// An Error whose `code` is the status code's number (NativeError in src/sidecar/addon.ts).
[[nodiscard]] Napi::Error MakeError(Napi::Env env, const Status& status);
[[nodiscard]] Napi::Error MakeError(Napi::Env env, StatusCode code, const std::string& message);
// Throws unless the status is kOk.
void ThrowIfFailed(Napi::Env env, const Status& status);

// Each takes one field or argument; throws INVALID with its name when it has another type or range.
[[nodiscard]] Napi::Object AsObject(const Napi::Value& value, const char* name);
[[nodiscard]] std::string AsString(const Napi::Value& value, const char* name);
[[nodiscard]] uint32_t AsUint32(const Napi::Value& value, const char* name);
[[nodiscard]] uint64_t AsUint64(const Napi::Value& value, const char* name);
[[nodiscard]] Napi::Function AsFunction(const Napi::Value& value, const char* name);

// The elements of a typed array; valid until control returns to JavaScript.
[[nodiscard]] std::span<const std::byte> AsBytes(const Napi::Value& value, const char* name);
[[nodiscard]] std::span<const uint32_t> AsUint32Array(const Napi::Value& value, const char* name);
[[nodiscard]] std::span<const uint64_t> AsUint64Array(const Napi::Value& value, const char* name);

// A Uint8Array with a copy of the bytes.
[[nodiscard]] Napi::Uint8Array CopyToJs(Napi::Env env, std::span<const std::byte> bytes);

}  // namespace hbmesh::addon
