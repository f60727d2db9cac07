// The part of GetTransfer that waits for objects of this worker to come back from its SSD tier. Each is scattered as
// soon as it is there, by itself: what came back is not held until others come.
#include <utility>

#include "sidecar/get_transfer.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

void GetTransfer::BringBack(uint32_t key, const ObjectView& object) {
  SsdTier* tier = core_.keeper.tier();
  const uint64_t ticket = tier->BringBack(
      object, [this, key](const Status& status, const ObjectView* back) { OnBroughtBack(key, status, back); });
  returns_.insert_or_assign(key, Return{ticket, core_.clock.NowNs()});
}

void GetTransfer::OnBroughtBack(uint32_t key, const Status& status, const ObjectView* object) {
  LocalBatch batch;
  batch.spilled = true;
  batch.startNs = returns_.at(key).startNs;
  returns_.erase(key);
  if (status.ok()) {
    AddLocal(key, *object, &batch);
  } else if (const auto sealed = core_.store.FindSealed(call_.key(key));
             status.code() == StatusCode::kTryAgain && sealed.has_value()) {
    batch.spilled = false;
    AddLocal(key, *sealed, &batch);  // it was replaced
  } else {
    FailReturn(key, status);
  }
  StartLocal(std::move(batch));
  Advance();
}

void GetTransfer::FailReturn(uint32_t key, const Status& status) {
  const std::string where = "the SSD tier of " + core_.options.workerAddress;
  switch (status.code()) {
    case StatusCode::kTryAgain:
      --open_;
      reply_.Fail(key, status.code(),
                  "the object was deleted, or pushed out, while it came back from " + where + ": try again");
      return;
    case StatusCode::kOutOfMemory:
      --open_;
      reply_.Fail(key, status.code(),
                  "the object is on " + where + " and finds no room in memory: " + status.message());
      return;
    default:
      AskOthers(key,
                {StatusCode::kDataInconsistency, "the object is lost, its bytes did not come back from " + where +
                                                     " as they were set (" + status.message() + "): set it again"});
  }
}

void GetTransfer::EndReturns(const Status& status) {
  for (const auto& [key, waiting] : std::exchange(returns_, {})) {
    core_.keeper.tier()->ForgetReturn(waiting.ticket);
    reply_.Fail(key, status);
    --open_;
  }
}

}  // namespace hbmesh::sidecar
