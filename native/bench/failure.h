// Failure: what ends an order of the bench client. Thrown where it happens, caught once a line, answered to the
// launcher.
#pragma once

#include <stdexcept>
#include <string>

#include "capi/hbmesh.h"

namespace hbmesh::bench {

class Failure : public std::runtime_error {
 public:
  Failure(hbmesh_status code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] const char* codeName() const { return hbmesh_status_name(code_); }

 private:
  hbmesh_status code_;
};

// Throws what the C API's last call on this thread said, unless it is HBMESH_OK. `doing` begins the sentence.
void Check(hbmesh_status status, const std::string& doing);

}  // namespace hbmesh::bench
