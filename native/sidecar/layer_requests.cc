#include "sidecar/layer_requests.h"

#include <utility>

#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kPusherStopMs = 5'000;  // how long a pusher may take to stop when the ticket ends

constexpr ShapeWords kPushWords{"the push has", "the layer was reserved with",
                                "give blobs of the same count and sizes"};

}  // namespace

void ReserveLayers::Start() {
  Status good;
  for (uint32_t i = 0; i < call_.count() && good.ok(); ++i) {
    if (call_.key(i) == std::to_string(i)) continue;
    good = {StatusCode::kInvalid,
            "malformed request: layers must be numbered from 0 in order; client and sidecar must "
            "be of the same release, restart the client"};
  }
  if (good.ok() && core_.peers.self() == 0) {
    good = {StatusCode::kTryAgain, "this worker doesn't know its number in the cluster yet: try again"};
  }
  if (!good.ok()) {
    Refuse(good);
    Finish();
    return;
  }
  ticket_ = core_.layers.Reserve(call_, this);
  ticket_.member = core_.peers.self();
  SetDeadline(entry().args[0]);
  for (uint32_t i = 0; i < call_.count(); ++i) events_.Accept(i, ShowTicket(ticket_));
  Flush();
}

void ReserveLayers::OnLayer(uint32_t layer, const Status& status) {
  --open_;
  events_.End(layer, status, call_.objectBytes(layer));
  Flush();
}

void ReserveLayers::Flush() {
  if (open_ != 0) {
    const uint32_t count = events_.count();
    Tell(events_.Take(), count);
    return;
  }
  if (!answered()) Answer(events_.Take());
  Finish();
}

void ReserveLayers::EndTicket(const Status& why) {
  if (std::exchange(ending_, true)) return;
  SetDeadline(kPusherStopMs);
  core_.layers.End(ticket_.number, why);
}

void ReserveLayers::Stop(const Status& why) { EndTicket(why); }

void ReserveLayers::OnAbandoned() {
  EndTicket({StatusCode::kRpcPeerDead, "the client that reserved the layers has ended"});
}

void ReserveLayers::OnDeadline() {
  if (ending_) {
    core_.layers.Sever(ticket_.number);
    return;
  }
  EndTicket({StatusCode::kFutureTimeout, "the layer was not pushed within the " + std::to_string(entry().args[0]) +
                                             " ms of the ticket: see whether its pusher is alive"});
}

PushLayer::~PushLayer() { core_.peers.ForgetMemory(this); }

void PushLayer::Start() {
  const uint64_t layer = entry().args[0];
  if (call_.count() != 1 || !ParseTicket(call_.key(0), &ticket_)) {
    End({StatusCode::kInvalid, "the ticket is not one that reserveLayers gave: hand on its text unchanged"});
    return;
  }
  if (layer > UINT32_MAX) {
    End(Refusal(StatusCode::kOutOfRange, {}));
    return;
  }
  SetDeadline(TransferLimitMs(call_.totalBytes()));
  if (ticket_.member == core_.peers.self()) {
    StartHere(static_cast<uint32_t>(layer));
    return;
  }
  PeerLink* link = core_.peers.Find(ticket_.member);
  if (link == nullptr) {
    End({StatusCode::kRpcPeerDead,
         "member " + std::to_string(ticket_.member) + ", which gave the ticket, is not in the cluster (any more)"});
    return;
  }
  const auto hash = peer::ShapeHash(call_.blobSizes(0));
  link->OpenMemory(peer::PushRecord{0,
                                    ticket_.number,
                                    {ticket_.secret[0], ticket_.secret[1]},
                                    call_.objectBytes(0),
                                    {hash[0], hash[1]},
                                    static_cast<uint32_t>(layer),
                                    static_cast<uint32_t>(call_.blobSizes(0).size())},
                   this, 0);
}

void PushLayer::StartHere(uint32_t layer) {
  Layers::Opened opened;
  const auto sizes = call_.blobSizes(0);
  const Layers::Shape shape{static_cast<uint32_t>(sizes.size()), call_.objectBytes(0), peer::ShapeHash(sizes)};
  const Status status = core_.layers.Open(ticket_, layer, shape, this, &opened);
  if (!status.ok()) {
    peer::OpenedRecord record{};
    peer::SetShape(opened.sizes, &record);
    End(Refusal(status.code(), record));
    return;
  }
  here_ = true;
  hold_ = opened.hold;
  state_ = State::kMoving;
  MoveListener& listener = *this;
  mover_ = std::make_unique<BlobMover>(core_, call_, 0, BlobMover::Direction::kPush, listener, 0);
  mover_->StartLocal(std::move(opened.blobs));
}

Status PushLayer::Refusal(StatusCode code, const peer::OpenedRecord& shape) const {
  const std::string layer = "layer " + std::to_string(entry().args[0]);
  switch (code) {
    case StatusCode::kNotFound:
      return {code, "the ticket is unknown, or its time is over: reserve again"};
    case StatusCode::kRpcPeerDead:
      return {
          code,
          "the ticket ended by a death: of the client or the worker that reserved the layers, or of another pusher in "
          "the middle of a layer: reserve again"};
    case StatusCode::kNotAuthorized:
      return {code, "the secret of the ticket is wrong: hand on its text unchanged"};
    case StatusCode::kOutOfRange:
      return {code, layer + " doesn't exist: " +
                        (shape.blobCount == 1 ? "the ticket has layers 0 to " + std::to_string(shape.firstSizes[0] - 1)
                                              : std::string("give one that was reserved"))};
    case StatusCode::kKeyAlreadyExists:
      return {code, layer + " was pushed already, or is being pushed: push each layer once"};
    case StatusCode::kInvalid: {
      Status status = CheckOpenedShape(call_, 0, shape, kPushWords);
      if (!status.ok()) return status;
      return {StatusCode::kDataInconsistency, "the holder of the ticket refused the shape that it has itself"};
    }
    case StatusCode::kNotReady:
      return {StatusCode::kTryAgain, "the worker of the ticket has too many transfers open: try again"};
    default:
      return {code,
              "the worker of the ticket refused the push with " + std::string(StatusCodeName(code)) + ": see its log"};
  }
}

void PushLayer::OnMemoryOpened(uint64_t /*tag*/, const peer::OpenedRecord& opened,
                               std::span<const peer::BlobRecord> blobs, uint64_t connection) {
  PeerLink* link = core_.peers.Find(ticket_.member);
  const auto code = static_cast<StatusCode>(opened.code);
  if (code != StatusCode::kOk) {
    End(Refusal(code, opened));
    return;
  }
  hold_ = opened.hold;
  connection_ = connection;
  if (state_ != State::kOpening || link == nullptr) {
    CloseHold();
    return;
  }
  if (!BlobsFit(call_, 0, blobs)) {
    CloseHold();
    End({StatusCode::kDataInconsistency, link->Name() + " named other blobs than it accepted: see its log"});
    return;
  }
  state_ = State::kMoving;
  MoveListener& listener = *this;
  mover_ = std::make_unique<BlobMover>(core_, call_, 0, BlobMover::Direction::kPush, listener, 0);
  mover_->StartRemote(ticket_.member, connection, blobs);
}

void PushLayer::OnMemoryOpenFailed(uint64_t /*tag*/, const Status& why) { End(why); }

void PushLayer::Break(const Status& why) {
  if (state_ == State::kMoving) {
    mover_->Break({StatusCode::kRpcPeerDead, why.message()});
  } else if (state_ == State::kClosing) {
    CloseHold();
    End({StatusCode::kRpcPeerDead, why.message() + "; whether the layer arrived is not known"});
  }
}

void PushLayer::OnMemoryBroken(uint64_t /*tag*/, const Status& why) { Break(why); }
void PushLayer::OnHoldBroken(uint64_t /*hold*/, const Status& why) { Break(why); }

void PushLayer::CloseHold() {
  if (hold_ == 0) return;
  const uint64_t hold = std::exchange(hold_, 0);
  if (here_) {
    core_.layers.Close(hold);
  } else if (PeerLink* link = core_.peers.Find(ticket_.member); link != nullptr) {
    link->CloseHold(connection_, hold);
  }
}

void PushLayer::OnMoved(uint64_t /*tag*/, const Status& status) {
  PeerLink* link = here_ ? nullptr : core_.peers.Find(ticket_.member);
  if (!status.ok() || (!here_ && link == nullptr)) {
    state_ = State::kClosing;
    CloseHold();
    End(status.ok() ? Status(StatusCode::kRpcPeerDead, "the worker of the ticket left the cluster") : status);
    return;
  }
  state_ = State::kClosing;
  if (here_) {
    core_.layers.Consume(std::exchange(hold_, 0));  // answers before it returns
  } else {
    link->ConsumeHold(connection_, hold_);
  }
}

void PushLayer::OnHoldConsumed(uint64_t /*hold*/, const Status& status) {
  hold_ = 0;
  End(status);
}

void PushLayer::OnMemoryClosed(uint64_t /*tag*/, StatusCode code) {
  hold_ = 0;
  End(code == StatusCode::kOk ? Status::Ok() : Status(code, "the worker of the ticket refused the layer at its end"));
}

void PushLayer::Stop(const Status& why) {
  if (state_ == State::kOpening) {
    End(why);
  } else if (state_ == State::kMoving) {
    mover_->Break(why);
  }
}

void PushLayer::OnAbandoned() { Stop({StatusCode::kInterrupted, "the client ended"}); }

void PushLayer::OnDeadline() {
  const Status expired(StatusCode::kRpcDeadlineExceeded, "waited " +
                                                             std::to_string(TransferLimitMs(call_.totalBytes())) +
                                                             " ms for the layer to arrive; try again, or lower "
                                                             "--floor_mb_s");
  Stop(expired);
  // What is under way ends with the connection.
  PeerLink* link = here_ ? nullptr : core_.peers.Find(ticket_.member);
  if (state_ != State::kEnded && link != nullptr) link->Reset(expired);
}

void PushLayer::End(const Status& status) {
  if (state_ == State::kEnded) return;
  state_ = State::kEnded;
  ReplyBuilder reply;
  reply.Reset(call_.count());
  if (status.ok()) {
    reply.result(0).bytes = call_.objectBytes(0);
    reply.AddPath(mover_->path());
    ++core_.counters.transfers;
    core_.counters.transferredBytes += call_.objectBytes(0);
  } else {
    for (uint32_t i = 0; i < call_.count(); ++i) reply.Fail(i, status);
  }
  Answer(reply.Build());
  Finish();
}

}  // namespace hbmesh::sidecar
