#include "bench/failure.h"

namespace hbmesh::bench {

void Check(hbmesh_status status, const std::string& doing) {
  if (status != HBMESH_OK) throw Failure(status, doing + ": " + hbmesh_last_message());
}

}  // namespace hbmesh::bench
