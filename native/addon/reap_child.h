// reapChild(pid): waits for a child of this process that has ended and that Node did not start. For process 1.
#pragma once

#include <napi.h>

namespace hbmesh::addon {

// False: it still runs, or is no child of this process. Never blocks.
Napi::Value ReapChild(const Napi::CallbackInfo& info);

}  // namespace hbmesh::addon
