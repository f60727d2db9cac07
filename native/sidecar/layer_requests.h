// ReserveLayers: kReserveLayers, the decode side. Its blobs are targets; every layer is an event.
// PushLayer: kPushLayer, the prefill side. Writes one layer from the caller's device memory straight into the memory
// that the ticket stands for.
//
//   push:  opening -> moving -> closing -> ended
#pragma once

#include <memory>
#include <optional>

#include "sidecar/blob_mover.h"
#include "sidecar/event_reply.h"
#include "sidecar/layers.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class ReserveLayers final : public Request, private LayerWaiter {
 public:
  ReserveLayers(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
      : Request(core, session, entry), call_(std::move(call)), open_(call_.count()) {}
  void Start() override;
  void Stop(const Status& why) override;

 private:
  void OnAbandoned() override;
  void OnDeadline() override;
  void OnLayer(uint32_t layer, const Status& status) override;
  void Flush();
  // Ends the ticket; pushers have a while to stop.
  void EndTicket(const Status& why);

  ObjectCall call_;
  Ticket ticket_;
  bool ending_ = false;
  EventBuilder events_;
  uint32_t open_;
};

class PushLayer final : public Request, private PeerMemoryUser, private HoldUser, private MoveListener {
 public:
  PushLayer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
      : Request(core, session, entry), call_(std::move(call)) {}
  ~PushLayer();
  void Start() override;
  void Stop(const Status& why) override;

 private:
  enum class State : uint8_t { kOpening, kMoving, kClosing, kEnded };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnMemoryOpened(uint64_t tag, const peer::OpenedRecord& opened, std::span<const peer::BlobRecord> blobs,
                      uint64_t connection) override;
  void OnMemoryOpenFailed(uint64_t tag, const Status& why) override;
  void OnMemoryBroken(uint64_t tag, const Status& why) override;
  void OnMemoryClosed(uint64_t tag, StatusCode code) override;
  void OnHoldBroken(uint64_t hold, const Status& why) override;
  void OnHoldConsumed(uint64_t hold, const Status& status) override;
  void OnMoved(uint64_t tag, const Status& status) override;

  void StartHere(uint32_t layer);
  // What the code of a refused open means; `shape`: of the target.
  [[nodiscard]] Status Refusal(StatusCode code, const peer::OpenedRecord& shape) const;
  void Break(const Status& why);
  void CloseHold();
  void End(const Status& status);

  ObjectCall call_;
  Ticket ticket_;
  State state_ = State::kOpening;
  uint64_t connection_ = 0;
  uint64_t hold_ = 0;
  bool here_ = false;
  std::unique_ptr<BlobMover> mover_;
};

}  // namespace hbmesh::sidecar
