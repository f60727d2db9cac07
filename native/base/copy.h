// Copies at the speed of memory. A plain copy of much data reads each target line before it overwrites it; stores that
// go round the cache don't, which nearly doubles what one core moves.
//
// Thread rule: any thread; the ranges must not be touched by others meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hbmesh {

// From this size on CopyStreaming goes round the cache; below it is memcpy. Measured on an AMD EPYC (Zen 5), one core,
// memory that is in no cache: 72 KiB memcpy 18.7 GB/s, streaming 23.7; 1 MiB 16.5 and 21.8. With the target in the
// cache memcpy is twice as fast at 32 KiB and below, and such small targets are mostly read at once.
inline constexpr size_t kStreamingBytesMin = size_t{32} << 10;

// memcpy for any size and alignment; the ranges must not overlap. After return every byte is visible to other cores
// that learn of it by a release store, whichever way was taken (the streaming stores are fenced).
void CopyStreaming(void* target, const void* source, size_t bytes);

// The ways to copy that CopyStreaming chooses from, for tests and benchmarks.
enum class CopyKernel : uint32_t { kPlain, kSse2, kAvx2, kAvx512 };
inline constexpr CopyKernel kCopyKernels[] = {CopyKernel::kPlain, CopyKernel::kSse2, CopyKernel::kAvx2,
                                              CopyKernel::kAvx512};

[[nodiscard]] const char* CopyKernelName(CopyKernel kernel);
[[nodiscard]] bool CopyKernelSupported(CopyKernel kernel);
// The one that this processor gets.
[[nodiscard]] CopyKernel BestCopyKernel();
// Any size. REQUIRES: CopyKernelSupported(kernel).
void CopyWith(CopyKernel kernel, void* target, const void* source, size_t bytes);

}  // namespace hbmesh
