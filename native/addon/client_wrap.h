// The client core as a JavaScript object (NativeClient in src/sidecar/addon.ts).
#pragma once

#include "addon/js_values.h"

namespace hbmesh::addon {

// connectClient(options): Promise<NativeClient>
[[nodiscard]] Napi::Value ConnectClient(const Napi::CallbackInfo& info);

}  // namespace hbmesh::addon
