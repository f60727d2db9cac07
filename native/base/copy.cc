#include "base/copy.h"

#include <cstring>

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hbmesh {
namespace {

constexpr size_t kLineBytes = 64;

#if defined(__x86_64__)

// How far ahead the source is fetched: some lines, since the hardware's prefetcher stops at each page.
constexpr size_t kPrefetchBytes = 1024;

// The kernels copy whole lines; the target is aligned to a line, the source to nothing. Prefetching past the end of the
// source is harmless: a prefetch never faults.

void StreamSse2(std::byte* target, const std::byte* source, size_t lines) {
  for (; lines > 0; lines--, target += kLineBytes, source += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
    const auto* from = reinterpret_cast<const __m128i*>(source);
    auto* to = reinterpret_cast<__m128i*>(target);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
}

__attribute__((target("avx2"))) void StreamAvx2(std::byte* target, const std::byte* source, size_t lines) {
  for (; lines > 0; lines--, target += kLineBytes, source += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + 32), b);
  }
}

__attribute__((target("avx512f"))) void StreamAvx512(std::byte* target, const std::byte* source, size_t lines) {
  for (; lines > 0; lines--, target += kLineBytes, source += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
    const __m512i a = _mm512_loadu_si512(source);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target), a);
  }
}

using StreamLines = void (*)(std::byte*, const std::byte*, size_t);

StreamLines LinesOf(CopyKernel kernel) {
  switch (kernel) {
    case CopyKernel::kAvx512:
      return StreamAvx512;
    case CopyKernel::kAvx2:
      return StreamAvx2;
    case CopyKernel::kSse2:
      return StreamSse2;
    case CopyKernel::kPlain:
      break;
  }
  return nullptr;
}

#endif

}  // namespace

const char* CopyKernelName(CopyKernel kernel) {
  switch (kernel) {
    case CopyKernel::kPlain:
      return "memcpy";
    case CopyKernel::kSse2:
      return "sse2";
    case CopyKernel::kAvx2:
      return "avx2";
    case CopyKernel::kAvx512:
      return "avx512";
  }
  return "unknown";
}

bool CopyKernelSupported(CopyKernel kernel) {
#if defined(__x86_64__)
  if (kernel == CopyKernel::kAvx512) {
    return __builtin_cpu_supports("avx512f") != 0;
  }
  if (kernel == CopyKernel::kAvx2) {
    return __builtin_cpu_supports("avx2") != 0;
  }
  return true;  // every x86-64 has SSE2
#else
  return kernel == CopyKernel::kPlain;
#endif
}

CopyKernel BestCopyKernel() {
  static const CopyKernel best = [] {
    CopyKernel found = CopyKernel::kPlain;
    for (const CopyKernel kernel : kCopyKernels) {
      found = CopyKernelSupported(kernel) ? kernel : found;
    }
    return found;
  }();
  return best;
}

void CopyWith(CopyKernel kernel, void* target, const void* source, size_t bytes) {
#if defined(__x86_64__)
  const StreamLines stream = LinesOf(kernel);
  if (stream != nullptr && bytes >= 2 * kLineBytes) {
    auto* to = static_cast<std::byte*>(target);
    const auto* from = static_cast<const std::byte*>(source);
    const size_t head = (kLineBytes - reinterpret_cast<uintptr_t>(to) % kLineBytes) % kLineBytes;
    const size_t lines = (bytes - head) / kLineBytes;
    const size_t middle = lines * kLineBytes;
    std::memcpy(to, from, head);
    stream(to + head, from + head, lines);
    std::memcpy(to + head + middle, from + head + middle, bytes - head - middle);
    _mm_sfence();  // streaming stores are weakly ordered: a later release store alone would not publish them
    return;
  }
#endif
  HBMESH_CHECK(CopyKernelSupported(kernel), "the caller asks CopyKernelSupported first");
  if (bytes > 0) {
    std::memcpy(target, source, bytes);
  }
}

void CopyStreaming(void* target, const void* source, size_t bytes) {
  CopyWith(bytes >= kStreamingBytesMin ? BestCopyKernel() : CopyKernel::kPlain, target, source, bytes);
}

}  // namespace hbmesh
