// Simulated devices: their HBM is shared memory (memfds that clients export), their copy engines are threads with
// streaming stores. A real backend that moves real bytes, not a mock; docs/ARCHITECTURE.md has the Ascend call for each
// operation.
//
// Bandwidth, latency, contention and faults can be set, and are off by default: then a copy is as fast as the machine.
// With a limit, the bytes are moved at full speed and the completion is held back until a device of that speed would be
// done.
//
// Thread rule: as Device. All devices of one CreateSimDevices share its engines.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "device/device.h"

namespace hbmesh {

// Which copies fail, decided by their number (counted from 1 over all devices) and the seed only: a run can be
// repeated.
struct SimFaults {
  uint64_t seed = 1;
  uint64_t failEveryNth = 0;     // 0: none
  double failProbability = 0.0;  // of each copy, 0 to 1
};

struct SimOptions {
  uint32_t deviceCount = 8;
  uint32_t engineThreads = 0;          // 0: two, or one for each core if there are fewer
  uint32_t queueDepthMax = 1024;       // copies under way, over all devices; then Copy answers kTryAgain
  uint64_t inlineBytesMax = 32 << 10;  // up to here Copy itself copies
  uint32_t spinMicros = 30;            // how long an idle engine looks for work before it sleeps
  uint64_t bytesPerSecondMax = 0;      // of each device; 0: as fast as the machine
  uint32_t latencyMicros = 0;          // added to each copy
  bool contention = false;  // the bandwidth limit is that of all devices together (one host link), not of each
  SimFaults faults;
};

// Makes the devices 0 .. deviceCount - 1 of this process. `sink` must outlive them. A device waits in its destructor
// until all that it accepted has completed.
[[nodiscard]] Status CreateSimDevices(const SimOptions& options, CompletionSink* sink,
                                      std::vector<std::unique_ptr<Device>>* devices);

}  // namespace hbmesh
