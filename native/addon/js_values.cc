#include "addon/js_values.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace hbmesh::addon {

namespace {

[[noreturn]] void ThrowType(const Napi::Value& value, const char* name, const char* expected) {
  throw MakeError(value.Env(), StatusCode::kInvalid, std::string(name) + " must be " + expected);
}

Napi::TypedArray AsTypedArray(const Napi::Value& value, const char* name, napi_typedarray_type type,
                              const char* expected) {
  if (!value.IsTypedArray()) ThrowType(value, name, expected);
  const auto array = value.As<Napi::TypedArray>();
  if (array.TypedArrayType() != type) ThrowType(value, name, expected);
  return array;
}

// Goes round Napi::TypedArrayOf::Data, whose pointer is null-based for an empty buffer.
template <typename Element>
std::span<const Element> Elements(const Napi::TypedArray& array) {
  const size_t count = array.ByteLength() / sizeof(Element);
  if (count == 0) return {};
  const auto* base = static_cast<const std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  return {reinterpret_cast<const Element*>(base), count};
}

}  // namespace

Napi::Error MakeError(Napi::Env env, StatusCode code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::Number::New(env, static_cast<uint32_t>(code)));
  return error;
}

Napi::Error MakeError(Napi::Env env, const Status& status) { return MakeError(env, status.code(), status.message()); }

void ThrowIfFailed(Napi::Env env, const Status& status) {
  if (!status.ok()) throw MakeError(env, status);
}

Napi::Object AsObject(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) ThrowType(value, name, "an object");
  return value.As<Napi::Object>();
}

std::string AsString(const Napi::Value& value, const char* name) {
  if (!value.IsString()) ThrowType(value, name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

uint32_t AsUint32(const Napi::Value& value, const char* name) {
  constexpr const char* kExpected = "an integer from 0 to 4294967295";
  if (!value.IsNumber()) ThrowType(value, name, kExpected);
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= std::numeric_limits<uint32_t>::max()) || std::floor(number) != number) {
    ThrowType(value, name, kExpected);
  }
  return static_cast<uint32_t>(number);
}

uint64_t AsUint64(const Napi::Value& value, const char* name) {
  constexpr const char* kExpected = "a bigint from 0 to 2^64 - 1";
  if (!value.IsBigInt()) ThrowType(value, name, kExpected);
  bool lossless = false;
  const uint64_t number = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) ThrowType(value, name, kExpected);
  return number;
}

Napi::Function AsFunction(const Napi::Value& value, const char* name) {
  if (!value.IsFunction()) ThrowType(value, name, "a function");
  return value.As<Napi::Function>();
}

std::span<const std::byte> AsBytes(const Napi::Value& value, const char* name) {
  return Elements<std::byte>(AsTypedArray(value, name, napi_uint8_array, "a Uint8Array"));
}

std::span<const uint32_t> AsUint32Array(const Napi::Value& value, const char* name) {
  return Elements<uint32_t>(AsTypedArray(value, name, napi_uint32_array, "a Uint32Array"));
}

std::span<const uint64_t> AsUint64Array(const Napi::Value& value, const char* name) {
  return Elements<uint64_t>(AsTypedArray(value, name, napi_biguint64_array, "a BigUint64Array"));
}

Napi::Uint8Array CopyToJs(Napi::Env env, std::span<const std::byte> bytes) {
  Napi::Uint8Array copy = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(copy.Data(), bytes.data(), bytes.size());
  return copy;
}

}  // namespace hbmesh::addon
