// The part of PeerHolds that opens device memory for peers.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "sidecar/peer_holds.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kMemoryHoldsMax = 65'536;  // of one peer; more get NOT_READY

}  // namespace

peer::OpenedRecord PeerHolds::OpenMemory(EndpointKey from, Peer& peer, const peer::OpenRecord& request,
                                         std::vector<peer::BlobRecord>* blobs) {
  peer::OpenedRecord answer{};
  answer.tag = request.tag;
  DeviceObject* object = nullptr;
  uint64_t hold = 0;
  const bool exclusive = request.mode == static_cast<uint32_t>(peer::OpenMode::kExclusive);
  Status status = peer.memory.size() < kMemoryHoldsMax
                      ? objects_.Open(request.slot, request.generation, exclusive, this, &hold, &object)
                      : Status(StatusCode::kNotReady, "too many objects are open");
  if (status.ok()) {
    status = NameBlobs(from, request.tag, object->blobs, false, blobs);
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

Status PeerHolds::NameBlobs(EndpointKey from, uint64_t tag, std::span<const DeviceBlob> blobs, bool writable,
                            std::vector<peer::BlobRecord>* records) {
  Transport& transport = *transports_[from.transport].transport;
  const size_t before = records->size();
  for (const DeviceBlob& blob : blobs) {
    uint32_t region = 0;
    if (Status status = blob.region->Export(transport, writable, &region); !status.ok()) {
      records->resize(before);
      return status;
    }
    records->push_back({tag, blob.offset, blob.bytes, region, 0});
  }
  return Status::Ok();
}

void PeerHolds::QueueBlobs(EndpointKey from, Peer& peer, std::vector<peer::BlobRecord>* records) {
  const uint32_t bytesMax = transports_[from.transport].transport->capabilities().messageBytesMax;
  const size_t perMessage = peer::RecordsPerMessage<peer::BlobRecord>(bytesMax);
  for (size_t at = 0; at < records->size(); at += perMessage) {
    const auto part = std::span(*records).subspan(at, std::min(perMessage, records->size() - at));
    peer.outbox.push_back(peer::MakeMessage<peer::BlobRecord>(peer::Type::kBlobs, part));
  }
  records->clear();
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
  std::vector<peer::BlobRecord> blobs;
  for (uint32_t i = 0; i < count; ++i) {
    const peer::OpenedRecord answer = OpenLayer(from, peer, peer::RecordAt<peer::PushRecord>(message, i), &blobs);
    QueueBlobs(from, peer, &blobs);
    peer.outbox.push_back(peer::MakeMessage<peer::OpenedRecord>(peer::Type::kOpened, std::span(&answer, 1)));
  }
  Flush(peer);
}

peer::OpenedRecord PeerHolds::OpenLayer(EndpointKey from, Peer& peer, const peer::PushRecord& request,
                                        std::vector<peer::BlobRecord>* blobs) {
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
    status = NameBlobs(from, request.tag, opened.blobs, true, blobs);
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
  const uint32_t bytesMax = transports_[known->second.transport].transport->capabilities().messageBytesMax;
  // News that wait for room share a message.
  if (!peer.outbox.empty() && peer::AppendRecord(type, record, bytesMax, &peer.outbox.back())) return;
  peer.outbox.push_back(peer::MakeMessage<peer::HoldRecord>(type, std::span(&record, 1)));
  Flush(peer);
}

void PeerHolds::OnHoldBroken(uint64_t hold, const Status& why) { TellHold(hold, peer::Type::kBroken, why.code()); }

void PeerHolds::OnHoldOverdue(uint64_t hold) {
  const auto known = memory_.find(hold);
  if (known == memory_.end()) return;
  const EndpointKey peer = known->second;
  if (const auto found = peers_.find(peer); found != peers_.end()) {
    Log().warn("peer {} doesn't stop writing to a ticket that ended: its connection is closed",
               found->second.endpoint->peer());
  }
  OnDisconnect(peer);
}

void PeerHolds::OnHoldConsumed(uint64_t hold, const Status& status) {
  TellHold(hold, peer::Type::kClosed, status.code());
  const auto known = memory_.find(hold);
  if (known == memory_.end()) return;
  if (const auto found = peers_.find(known->second); found != peers_.end()) found->second.memory.erase(hold);
  memory_.erase(known);
}

}  // namespace hbmesh::sidecar
