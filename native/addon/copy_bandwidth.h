// Measures what one copy of memory costs on this machine: the limit that sets and local gets are compared with.
#pragma once

#include "addon/js_values.h"

namespace hbmesh::addon {

// measureCopyBandwidth(threads, bytes, pieceBytes, rounds): Promise<number>, bytes a second of the best round.
[[nodiscard]] Napi::Value MeasureCopyBandwidth(const Napi::CallbackInfo& info);

}  // namespace hbmesh::addon
