// RequestTable: the Reads and Writes of one lane that the peer has not answered yet.
//
// A request's number holds its place and how often the place was used, so that a late or invented answer finds nothing.
// Thread rule: Add from the loop; Find and Take from the lane's receiving thread; TakeAll once no thread receives.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "transport/transport.h"

namespace hbmesh {

struct PendingRequest {
  uint64_t token = 0;
  bool write = false;
  std::vector<LocalPiece> pieces;
  uint64_t bytes = 0;
  // Reads: where the next byte goes. The receiving thread's only.
  uint64_t received = 0;
  size_t piece = 0;
  uint64_t pieceOffset = 0;
};

class RequestTable {
 public:
  explicit RequestTable(uint32_t capacity) : places_(capacity) {
    for (uint32_t place = capacity; place > 0; --place) free_.push_back(place - 1);
  }

  // kTryAgain: as many as allowed are outstanding. kRpcPeerDead: after TakeAll.
  [[nodiscard]] Status Add(uint64_t token, bool write, std::span<const LocalPiece> pieces, uint64_t bytes,
                           uint64_t* request);
  // Null: no such request. Valid until Take or TakeAll.
  [[nodiscard]] PendingRequest* Find(uint64_t request, bool write);
  [[nodiscard]] std::optional<uint64_t> Take(uint64_t request);  // its token
  // Ends the table: the tokens of everything outstanding.
  [[nodiscard]] std::vector<uint64_t> TakeAll();

 private:
  struct Place {
    PendingRequest pending;
    uint32_t uses = 0;  // odd: taken
  };

  [[nodiscard]] Place* PlaceOf(uint64_t request);

  std::mutex mutex_;
  std::vector<Place> places_;   // guarded by mutex_, except for what PendingRequest says
  std::vector<uint32_t> free_;  // guarded by mutex_
  bool ended_ = false;          // guarded by mutex_
};

}  // namespace hbmesh
