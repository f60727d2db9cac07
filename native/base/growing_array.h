// GrowingArray: an array that grows in small steps and never moves. It reserves address space for the most elements
// that it may ever have, and opens it to use as it grows: no copy when it gets larger, and no memory before that.
//
// A growing std::vector would copy gigabytes at once at tens of millions of elements. Thread rule: one thread.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "base/align.h"
#include "base/check.h"

namespace hbmesh {

template <typename T>
class GrowingArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  // Elements are made in steps of this many.
  static constexpr uint64_t kStep = 4096;

  // Throws bad_alloc if there is no address space for `most` elements.
  explicit GrowingArray(uint64_t most) : most_(most) {
    reservedBytes_ = AlignUp(most * sizeof(T) + 1, kPageBytes);
    void* at = ::mmap(nullptr, reservedBytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
      throw std::bad_alloc();
    }
    elements_ = static_cast<T*>(at);
  }
  GrowingArray(GrowingArray&& other) noexcept
      : elements_(std::exchange(other.elements_, nullptr)),
        most_(std::exchange(other.most_, 0)),
        size_(std::exchange(other.size_, 0)),
        reservedBytes_(std::exchange(other.reservedBytes_, 0)),
        openBytes_(std::exchange(other.openBytes_, 0)) {}
  GrowingArray& operator=(GrowingArray&& other) noexcept {
    std::swap(elements_, other.elements_);
    std::swap(most_, other.most_);
    std::swap(size_, other.size_);
    std::swap(reservedBytes_, other.reservedBytes_);
    std::swap(openBytes_, other.openBytes_);
    return *this;
  }
  GrowingArray(const GrowingArray&) = delete;
  GrowingArray& operator=(const GrowingArray&) = delete;
  ~GrowingArray() {
    if (elements_ != nullptr) {
      ::munmap(elements_, reservedBytes_);
    }
  }

  // At least `count` elements; new ones are T{}. Throws bad_alloc if there is no memory for them.
  // REQUIRES: count <= most.
  void GrowTo(uint64_t count) {
    if (count <= size_) {
      return;
    }
    HBMESH_CHECK(count <= most_, "the array grows to what was reserved");
    const uint64_t wanted = std::min(AlignUp(count, kStep), most_);
    const uint64_t bytes = AlignUp(wanted * sizeof(T), kPageBytes);
    if (bytes > openBytes_) {
      auto* from = reinterpret_cast<std::byte*>(elements_) + openBytes_;
      if (::mprotect(from, bytes - openBytes_, PROT_READ | PROT_WRITE) != 0) {
        throw std::bad_alloc();
      }
      openBytes_ = bytes;
    }
    std::uninitialized_fill(elements_ + size_, elements_ + wanted, T{});
    size_ = wanted;
  }

  [[nodiscard]] T& operator[](uint64_t index) { return elements_[index]; }
  [[nodiscard]] const T& operator[](uint64_t index) const { return elements_[index]; }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] uint64_t most() const { return most_; }
  // Memory that the elements take now.
  [[nodiscard]] uint64_t bytes() const { return openBytes_; }

 private:
  static constexpr uint64_t kPageBytes = 4096;

  T* elements_ = nullptr;
  uint64_t most_ = 0;
  uint64_t size_ = 0;
  uint64_t reservedBytes_ = 0;
  uint64_t openBytes_ = 0;
};

}  // namespace hbmesh
