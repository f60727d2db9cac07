// The control client as a JavaScript object (NativeControlPort in src/sidecar/addon.ts).
#pragma once

#include "addon/js_values.h"

namespace hbmesh::addon {

// connectControl(options): Promise<NativeControlPort>
[[nodiscard]] Napi::Value ConnectControl(const Napi::CallbackInfo& info);

}  // namespace hbmesh::addon
