// Failure: what ends an order or a run of the bench programs. Thrown where it happens, caught once, answered to the
// launcher.
#pragma once

#include <stdexcept>
#include <string>

#include "base/status.h"

namespace hbmesh::bench {

class Failure : public std::runtime_error {
 public:
  Failure(StatusCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] std::string_view codeName() const { return StatusCodeName(code_); }

 private:
  StatusCode code_;
};

// Throws unless it is kOk. `doing` begins the sentence.
inline void Check(const Status& status, const std::string& doing) {
  if (!status.ok()) throw Failure(status.code(), doing + ": " + status.message());
}

}  // namespace hbmesh::bench
