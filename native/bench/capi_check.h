// Failures of the C API.
#pragma once

#include <string>

#include "bench/failure.h"
#include "capi/hbmesh.h"

namespace hbmesh::bench {

// Throws what the C API's last call on this thread said, unless it is HBMESH_OK. `doing` begins the sentence.
inline void CheckCall(hbmesh_status status, const std::string& doing) {
  if (status != HBMESH_OK) throw Failure(static_cast<StatusCode>(status), doing + ": " + hbmesh_last_message());
}

}  // namespace hbmesh::bench
