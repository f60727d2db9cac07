// The part of PeerHolds that opens device memory for peers.
#include <utility>

#include "base/log.h"
#include "sidecar/peer_holds.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kMemoryHoldsMax = 65'536;  // of one peer; more get NOT_READY

}  // namespace

peer::OpenedRecord PeerHolds::OpenMemory(EndpointKey from, Peer& peer, const peer::OpenRecord& request) {
  peer::OpenedRecord answer{};
  answer.tag = request.tag;
  DeviceObject* object = nullptr;
  uint64_t hold = 0;
  const bool exclusive = request.mode == static_cast<uint32_t>(peer::OpenMode::kExclusive);
  Status status = peer.memory.size() < kMemoryHoldsMax
                      ? objects_.Open(request.slot, request.generation, exclusive, this, &hold, &object)
                      : Status(StatusCode::kNotReady, "too many objects are open");
  if (status.ok()) {
    status = SendBlobs(from, peer, request.tag, object->blobs, false);
    if (status.ok()) {
      peer.memory.insert(hold);
      memory_.emplace(hold, from);
      answer.hold = hold;
      peer::SetShape(object->sizes, &answer);
    } else {
      Log().warn("device memory can't be offered to peer {}: {}", peer.endpoint->peer(), status.message());
      status = {StatusCode::kNotSupported, status.message()};
      objects_.Close(hold);
    }
  }
  answer.code = static_cast<uint32_t>(status.code());
  return answer;
}

Status PeerHolds::SendBlobs(EndpointKey from, Peer& peer, uint64_t tag, std::span<const DeviceBlob> blobs,
                            bool writable) {
  Transport& transport = *transports_[from.transport].transport;
  std::vector<peer::BlobRecord> records;
  for (const DeviceBlob& blob : blobs) {
    uint32_t region = 0;
    if (Status status = blob.region->Export(transport, writable, &region); !status.ok()) return status;
    records.push_back({tag, blob.offset, blob.bytes, region, 0});
  }
  const size_t perMessage = peer::RecordsPerMessage<peer::BlobRecord>(transport.capabilities().messageBytesMax);
  for (size_t at = 0; at < records.size(); at += perMessage) {
    const auto part = std::span(records).subspan(at, std::min(perMessage, records.size() - at));
    peer.outbox.push_back(peer::MakeMessage<peer::BlobRecord>(peer::Type::kBlobs, part));
  }
  return Status::Ok();
}

void PeerHolds::Consume(Peer& peer, std::span<const std::byte> message, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t hold = peer::RecordAt<peer::CloseRecord>(message, i).hold;
    if (!peer.memory.contains(hold)) continue;  // closed, or made up: nothing of others is touched
    if ((hold & kLayerHoldBit) != 0) {
      layers_.Consume(hold);
    } else {
      objects_.Consume(hold);
    }
  }
}

void PeerHolds::CloseMemory(uint64_t hold) {
  memory_.erase(hold);
  if ((hold & kLayerHoldBit) != 0) {
    layers_.Close(hold);
  } else {
    objects_.Close(hold);
  }
}

void PeerHolds::Push(EndpointKey from, Peer& peer, std::span<const std::byte> message, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const peer::OpenedRecord answer = OpenLayer(from, peer, peer::RecordAt<peer::PushRecord>(message, i));
    peer.outbox.push_back(peer::MakeMessage<peer::OpenedRecord>(peer::Type::kOpened, std::span(&answer, 1)));
  }
  Flush(peer);
}

peer::OpenedRecord PeerHolds::OpenLayer(EndpointKey from, Peer& peer, const peer::PushRecord& request) {
  peer::OpenedRecord answer{};
  answer.tag = request.tag;
  const Ticket ticket{0, request.ticket, {request.secret[0], request.secret[1]}};
  const Layers::Shape shape{request.blobCount, request.payloadBytes, {request.shapeHash[0], request.shapeHash[1]}};
  Layers::Opened opened;
  Status status = peer.memory.size() < kMemoryHoldsMax ? layers_.Open(ticket, request.layer, shape, this, &opened)
                                                       : Status(StatusCode::kNotReady, "too many layers are open");
  if (status.ok()) {
    peer.memory.insert(opened.hold);
    memory_.emplace(opened.hold, from);
    answer.hold = opened.hold;
    status = SendBlobs(from, peer, request.tag, opened.blobs, true);
    if (!status.ok()) {
      Log().warn("device memory can't be offered to peer {}: {}", peer.endpoint->peer(), status.message());
      peer.memory.erase(opened.hold);
      CloseMemory(opened.hold);
      answer.hold = 0;
      status = {StatusCode::kNotSupported, status.message()};
    }
  }
  peer::SetShape(opened.sizes, &answer);
  answer.code = static_cast<uint32_t>(status.code());
  return answer;
}

void PeerHolds::TellHold(uint64_t hold, peer::Type type, StatusCode code) {
  const auto known = memory_.find(hold);
  if (known == memory_.end()) return;
  const auto found = peers_.find(known->second);
  if (found == peers_.end()) return;
  Peer& peer = found->second;
  const peer::HoldRecord record{hold, static_cast<uint32_t>(code), 0};
  peer.outbox.push_back(peer::MakeMessage<peer::HoldRecord>(type, std::span(&record, 1)));
  Flush(peer);
}

void PeerHolds::OnHoldBroken(uint64_t hold, const Status& why) { TellHold(hold, peer::Type::kBroken, why.code()); }

void PeerHolds::OnHoldConsumed(uint64_t hold, const Status& status) {
  TellHold(hold, peer::Type::kClosed, status.code());
  const auto known = memory_.find(hold);
  if (known == memory_.end()) return;
  if (const auto found = peers_.find(known->second); found != peers_.end()) found->second.memory.erase(hold);
  memory_.erase(known);
}

}  // namespace hbmesh::sidecar
