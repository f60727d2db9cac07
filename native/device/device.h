// Device: accelerator memory as the sidecar sees it. One object for each device index of this host.
//
// A backend is this table of operations, complete: an operation that the hardware lacks answers kNotSupported and its
// capability is false. docs/ARCHITECTURE.md gives for each operation the Ascend call that implements it.
//
// Thread rule: Import, Release and the constructor belong to one thread (the sidecar's loop). Copy may be called from
// that thread only; completions arrive through the sink, from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace hbmesh {

// How device memory of one process is made known to another. sim: a memfd, `fd` travels beside the bytes. Ascend: the
// 64-byte key of aclrtIpcMemGetExportKey, no fd.
struct ExportHandle {
  uint32_t deviceIndex = 0;
  uint64_t bytes = 0;
  std::vector<std::byte> key;
  int fd = -1;  // borrowed by Import, which duplicates what it keeps
};

// Imported device memory. `base` may be used as source or target of Copy, and by transports that can reach this device;
// it need not be readable by the CPU (DeviceCapabilities::hostAddressable says).
struct DeviceRegion {
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  uint32_t deviceIndex = 0;
  int fd = -1;  // for transports that pass memory on by descriptor; -1 if there is none. Owned by the device.
};

struct DeviceCapabilities {
  bool hostAddressable = false;  // the CPU and sockets may touch `base` directly
  bool copyBetweenDevices = false;
  bool registerHostMemory = false;
  uint32_t copyThreads = 0;  // engines that work in parallel
};

enum class CopyKind : uint32_t { kHostToDevice = 1, kDeviceToHost = 2, kDeviceToDevice = 3 };  // aclrtMemcpyKind

struct CopyPiece {
  std::byte* target;
  const std::byte* source;
  uint64_t bytes;
};

// Told of finished work. Implementations only enqueue and wake; they are called from engine threads.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  // Exactly once for each accepted request.
  virtual void Complete(uint64_t token, Status status) = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual uint32_t index() const = 0;
  // "sim", "ascend"
  [[nodiscard]] virtual const char* backend() const = 0;
  [[nodiscard]] virtual DeviceCapabilities capabilities() const = 0;

  // Maps memory that a client exported. Refuses a handle whose memory is smaller than it says or could shrink later.
  // On kOk, *region stays valid until Release.
  [[nodiscard]] virtual Status Import(const ExportHandle& handle, DeviceRegion* region) = 0;
  // REQUIRES: no copy or transfer uses the region.
  virtual void Release(const DeviceRegion& region) = 0;

  // Makes host memory fast (pinned) for copies with this device.
  [[nodiscard]] virtual Status RegisterHostMemory(std::byte* base, uint64_t bytes) = 0;

  // Copies all pieces, in any order, and completes `token` once when all are done. Accepts at once or answers kTryAgain
  // when its queue is full (nothing was accepted). The pieces are copied before return; the memory must stay valid
  // until completion. Small copies may be done before Copy returns; the completion then arrives through the sink all
  // the same.
  [[nodiscard]] virtual Status Copy(CopyKind kind, std::span<const CopyPiece> pieces, uint64_t token) = 0;
};

}  // namespace hbmesh
