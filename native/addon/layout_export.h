// The shared layouts as JavaScript sees them (NativeLayout in src/sidecar/addon.ts): taken from the headers by the
// compiler, so that no offset, number or limit is written down twice.
#pragma once

#include "addon/js_values.h"

namespace hbmesh::addon {

[[nodiscard]] Napi::Object MakeLayoutObject(Napi::Env env);

}  // namespace hbmesh::addon
