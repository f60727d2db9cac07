#include "sidecar/peer_holds.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kHoldsMax = 65'536;  // of one peer; more get NOT_READY
constexpr size_t kOutboxMax = 4'096;  // answers that a peer doesn't take; then its connection is closed

// One that is not sealed yet has all of its time before it.
uint64_t LeftMs(const ObjectView& object, uint64_t nowMs) {
  if (object.expiresAtMs == 0) return object.attributes.ttlMs;
  return object.expiresAtMs > nowMs ? object.expiresAtMs - nowMs : 1;
}

}  // namespace

PeerHolds::~PeerHolds() {
  pending_.Forget(this);
  for (auto& [key, peer] : peers_) Release(peer);
}

void PeerHolds::OnAccept(uint32_t transport, std::unique_ptr<Endpoint> endpoint) {
  const EndpointKey key{transport, endpoint->id()};
  Peer peer;
  peer.endpoint = std::move(endpoint);
  peers_.insert_or_assign(key, std::move(peer));
}

bool PeerHolds::OnMessage(EndpointKey from, std::span<const std::byte> message) {
  const auto found = peers_.find(from);
  if (found == peers_.end()) return false;
  Peer& peer = found->second;
  if (!HandleMessage(from, peer, message)) {
    Log().warn("peer {} sent a malformed message: its connection is closed", peer.endpoint->peer());
    OnDisconnect(from);
    return true;
  }
  if (peer.outbox.size() > kOutboxMax) {
    Log().warn("peer {} doesn't take its answers: its connection is closed", peer.endpoint->peer());
    OnDisconnect(from);
  }
  return true;
}

bool PeerHolds::HandleMessage(EndpointKey from, Peer& peer, std::span<const std::byte> message) {
  peer::MessageHeader header{};
  if (!peer::ParseHeader(message, &header)) return false;
  switch (static_cast<peer::Type>(header.type)) {
    case peer::Type::kOpen:
      Open(from, peer, message, header.count);
      return true;
    case peer::Type::kClose:
      Close(peer, message, header.count);
      return true;
    case peer::Type::kPush:
      Push(from, peer, message, header.count);
      return true;
    case peer::Type::kConsumed:
      Consume(peer, message, header.count);
      return true;
    default:
      return false;
  }
}

void PeerHolds::Open(EndpointKey from, Peer& peer, std::span<const std::byte> message, uint32_t count) {
  const uint32_t bytesMax = transports_[from.transport].transport->capabilities().messageBytesMax;
  const size_t perMessage = peer::RecordsPerMessage<peer::OpenedRecord>(bytesMax);
  std::vector<peer::OpenedRecord> answers;
  std::vector<peer::BlobRecord> blobs;
  const auto send = [&] {
    if (answers.empty()) return;
    QueueBlobs(from, peer, &blobs);
    peer.outbox.push_back(peer::MakeMessage<peer::OpenedRecord>(peer::Type::kOpened, answers));
    answers.clear();
  };
  for (uint32_t i = 0; i < count; ++i) {
    const auto request = peer::RecordAt<peer::OpenRecord>(message, i);
    if (Defer(from, request)) continue;
    if ((request.slot & layout::kDeviceSlot) != 0) {
      answers.push_back(OpenMemory(from, peer, request, &blobs));
    } else if (const auto answer = OpenOne(from, peer, request); answer.has_value()) {
      answers.push_back(*answer);
    }
    if (answers.size() == perMessage) send();
  }
  send();
  Flush(peer);
}

bool PeerHolds::Defer(EndpointKey from, const peer::OpenRecord& request) {
  if (pending_.Find(request.slot, request.generation) == nullptr || deferred_.size() >= kHoldsMax) return false;
  const uint64_t tag = ++lastHold_;
  deferred_.emplace(tag, std::pair(from, request));
  pending_.Wait(request.slot, this, tag);
  return true;
}

void PeerHolds::OnSlotSettled(uint64_t tag) {
  const auto found = deferred_.find(tag);
  if (found == deferred_.end()) return;
  const auto [from, request] = found->second;
  deferred_.erase(found);
  const auto peer = peers_.find(from);
  if (peer == peers_.end()) return;
  if (const auto answer = OpenOne(from, peer->second, request); answer.has_value()) {
    Answer(from, peer->second, *answer);
  }
}

std::optional<peer::OpenedRecord> PeerHolds::OpenOne(EndpointKey from, Peer& peer, const peer::OpenRecord& request) {
  peer::OpenedRecord answer{};
  answer.tag = request.tag;
  if (peer.holds.size() + peer.returns.size() >= kHoldsMax) {
    answer.code = static_cast<uint32_t>(StatusCode::kNotReady);
    return answer;
  }
  ObjectView object;
  const Status status = store_.FindSlot(request.slot, request.generation, &object);
  if (status.ok()) return Lend(from, peer, request.tag, object);
  if (status.code() == StatusCode::kNotReady) {
    BringBack(from, peer, request.tag, object);
    return std::nullopt;
  }
  answer.code = static_cast<uint32_t>(status.code());
  return answer;
}

void PeerHolds::BringBack(EndpointKey from, Peer& peer, uint64_t tag, const ObjectView& object) {
  const uint64_t number = ++lastReturn_;
  const uint64_t ticket =
      keeper_.tier()->BringBack(object, [this, from, number, tag](const Status& status, const ObjectView* back) {
        OnBroughtBack(from, number, tag, status, back);
      });
  peer.returns.emplace(number, ticket);
}

void PeerHolds::OnBroughtBack(EndpointKey from, uint64_t number, uint64_t tag, const Status& status,
                              const ObjectView* object) {
  const auto found = peers_.find(from);
  if (found == peers_.end() || found->second.returns.erase(number) == 0) return;
  Peer& peer = found->second;
  peer::OpenedRecord answer{};
  answer.tag = tag;
  answer.code = static_cast<uint32_t>(status.code());
  if (status.ok()) {
    answer = Lend(from, peer, tag, *object);
    answer.flags |= peer::kOpenedSpilled;
  }
  Answer(from, peer, answer);
}

void PeerHolds::Answer(EndpointKey from, Peer& peer, const peer::OpenedRecord& answer) {
  const uint32_t bytesMax = transports_[from.transport].transport->capabilities().messageBytesMax;
  // Answers that wait for room share a message.
  if (!peer.outbox.empty() && peer::AppendRecord(peer::Type::kOpened, answer, bytesMax, &peer.outbox.back())) {
    return;
  }
  peer.outbox.push_back(peer::MakeMessage<peer::OpenedRecord>(peer::Type::kOpened, std::span(&answer, 1)));
  Flush(peer);
}

peer::OpenedRecord PeerHolds::Lend(EndpointKey from, Peer& peer, uint64_t tag, const ObjectView& object) {
  peer::OpenedRecord answer{};
  answer.tag = tag;
  store_.Hold(object.slot);
  answer.hold = ++lastHold_;
  peer.holds.emplace(answer.hold, object.slot);
  peer::SetShape(object.blobSizes, &answer);
  if (object.payloadCrc32c.has_value()) {
    answer.flags = peer::kOpenedHasCrc;
    answer.payloadCrc32c = *object.payloadCrc32c;
  }
  answer.expiresInMs = LeftMs(object, clock_.NowMs());
  answer.region = transports_[from.transport].arena.id;
  answer.offset = object.payloadFdOffset;  // the region is the whole memfd
  return answer;
}

void PeerHolds::Close(Peer& peer, std::span<const std::byte> message, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t hold = peer::RecordAt<peer::CloseRecord>(message, i).hold;
    if (peer.memory.erase(hold) != 0) CloseMemory(hold);
    const auto found = peer.holds.find(hold);
    if (found == peer.holds.end()) continue;  // closed twice, or made up: nothing of others is touched
    store_.Release(found->second);
    peer.holds.erase(found);
  }
}

void PeerHolds::Release(Peer& peer) {
  // First the connection: no read may be under way when the bytes are let go.
  peer.endpoint.reset();
  for (const auto& [hold, slot] : peer.holds) store_.Release(slot);
  peer.holds.clear();
  for (const auto& [number, ticket] : std::exchange(peer.returns, {})) keeper_.tier()->ForgetReturn(ticket);
  const auto memory = std::exchange(peer.memory, {});
  // One layer that is given up breaks the others of its ticket: of those this peer is not told any more.
  for (const uint64_t hold : memory) memory_.erase(hold);
  for (const uint64_t hold : memory) CloseMemory(hold);
}

bool PeerHolds::OnDisconnect(EndpointKey which) {
  const auto found = peers_.find(which);
  if (found == peers_.end()) return false;
  Release(found->second);
  peers_.erase(found);
  return true;
}

bool PeerHolds::Flush(Peer& peer) {
  bool sent = false;
  while (!peer.outbox.empty()) {
    const Status status = peer.endpoint->Send(peer.outbox.front());
    if (status.code() == StatusCode::kTryAgain) break;
    peer.outbox.pop_front();  // any other fault ends the connection, of which OnDisconnect tells
    sent = true;
  }
  return sent;
}

bool PeerHolds::Poll() {
  bool sent = false;
  for (auto& [key, peer] : peers_) sent = Flush(peer) || sent;
  return sent;
}

bool PeerHolds::waiting() const {
  return std::any_of(peers_.begin(), peers_.end(), [](const auto& entry) { return !entry.second.outbox.empty(); });
}

size_t PeerHolds::holds() const {
  size_t count = 0;
  for (const auto& [key, peer] : peers_) count += peer.holds.size() + peer.memory.size();
  return count;
}

}  // namespace hbmesh::sidecar
