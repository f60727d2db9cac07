#include "sidecar/session.h"

#include <utility>

namespace hbmesh::sidecar {

Status Session::Send(const layout::Entry& entry, std::vector<std::byte> payload) {
  if (!broken_.empty()) return {StatusCode::kClientWorkerDisconnect, broken_};
  if (payload.size() > payloadBytesMax_) {
    return {StatusCode::kOutOfRange, "the answer has " + std::to_string(payload.size()) + " bytes, the queue carries " +
                                         std::to_string(payloadBytesMax_) + ": ask for fewer keys at once"};
  }
  if (outbox_.empty()) {
    Status status = channel_->Send(entry, payload);
    if (status.ok()) return status;
    if (status.code() != StatusCode::kTryAgain) {
      Break(status.message());
      return status;
    }
  }
  outbox_.push_back(Outgoing{entry, std::move(payload)});
  return Status::Ok();
}

bool Session::Flush() {
  bool sent = false;
  while (!outbox_.empty() && broken_.empty()) {
    const Status status = channel_->Send(outbox_.front().entry, outbox_.front().payload);
    if (status.code() == StatusCode::kTryAgain) break;
    if (!status.ok()) Break(status.message());
    outbox_.pop_front();
    sent = true;
  }
  return sent;
}

}  // namespace hbmesh::sidecar
