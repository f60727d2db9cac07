// Simulated device memory of this process, for JavaScript (NativeSimHeap in src/sidecar/addon.ts).
#pragma once

#include "addon/js_values.h"
#include "device/sim_heap.h"

namespace hbmesh::addon {

// The one heap of this process: pointers mean the same in every environment (worker_threads). Made at first use, never
// destroyed, since clients of any environment may still use it when another ends. Any thread.
[[nodiscard]] Status ProcessSimHeap(SimHeap** heap);

[[nodiscard]] Napi::Object MakeSimHeapObject(Napi::Env env);

}  // namespace hbmesh::addon
