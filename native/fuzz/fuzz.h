// What all fuzzers share: the bytes of libFuzzer as a row of values, their seeds, and a check that ends the run.
//
// A fuzzer is one file with LLVMFuzzerTestOneInput (Clang declares it) and Seeds: inputs that are near to what well
// behaved peers send, made by code. fuzz_main.cc writes them into the folder that HBMESH_FUZZ_SEEDS names, and ends the
// process.
//
// A fuzzer sets up what it needs without trust in its input, feeds the input in where foreign bytes come in, and checks
// what must hold whatever those were. Memory faults and undefined behaviour are found by the sanitizers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

namespace hbmesh::fuzz {

using Bytes = std::vector<std::byte>;

// Inputs to begin with. Each fuzzer defines it.
[[nodiscard]] std::vector<Bytes> Seeds();

[[noreturn]] void Fail(const char* file, int line, const char* condition);

// Takes values from the front; zeros when the input is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const std::byte*>(data), size) {}

  template <typename Value>
  Value Take() {
    static_assert(std::is_trivially_copyable_v<Value>);
    Value value{};
    const size_t bytes = std::min(sizeof value, rest_.size());
    if (bytes > 0) std::memcpy(static_cast<void*>(&value), rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }
  uint8_t Byte() { return Take<uint8_t>(); }
  uint32_t Below(uint32_t limit) { return Take<uint16_t>() % limit; }
  // Often a small number, since those are the ones that exist; sometimes any.
  uint64_t Number() {
    const uint8_t first = Byte();
    if (first < 0xF0) return first % 16;
    return first < 0xF8 ? Take<uint64_t>() : UINT64_MAX - first % 16;
  }
  std::span<const std::byte> Some(size_t bytesMax) {
    const std::span<const std::byte> some = rest_.subspan(0, std::min(bytesMax, rest_.size()));
    rest_ = rest_.subspan(some.size());
    return some;
  }
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  [[nodiscard]] std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

// Writes what Input takes.
class SeedWriter {
 public:
  template <typename Value>
  SeedWriter& Put(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    const auto* first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof value);
    return *this;
  }
  SeedWriter& PutByte(uint8_t value) { return Put(value); }
  SeedWriter& PutBytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  [[nodiscard]] const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

// Reads each byte, so that a view which leaves its memory is found.
inline uint64_t Touch(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<uint64_t>(byte);
  // The compiler must not leave the loop out.
  asm volatile("" : : "r"(sum) : "memory");
  return sum;
}
template <typename Value>
uint64_t TouchAll(const Value& values) {
  return Touch(std::as_bytes(std::span(values)));
}

}  // namespace hbmesh::fuzz

#define FUZZ_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::hbmesh::fuzz::Fail(__FILE__, __LINE__, #condition))

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
