#include "sidecar/layers.h"

#include <charconv>
#include <cstdio>
#include <random>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr size_t kSecretDigits = 32;
constexpr size_t kEndedMax = 4'096;  // tickets whose end is remembered; the oldest are forgotten first

// The upper part of a number is the sidecar's own; together they stay exact as a number of JavaScript.
constexpr int kCounterBits = 32;
constexpr uint64_t kIncarnations = 1ULL << 20;

// In comparable time whatever differs: a secret must not be guessed word by word.
bool SameSecret(const std::array<uint64_t, 2>& a, const std::array<uint64_t, 2>& b) {
  return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
}

template <typename Number>
bool ParseNumber(std::string_view text, int base, Number* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

uint64_t RandomWord() {
  static std::random_device device;  // the kernel's
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// What a push to a ticket that ended so is told.
Status EndOf(StatusCode code) {
  if (code == StatusCode::kRpcPeerDead) return {code, "the ticket ended by a death"};
  return {StatusCode::kNotFound, "no such ticket"};
}

}  // namespace

std::string ShowTicket(const Ticket& ticket) {
  char secret[kSecretDigits + 1];
  std::snprintf(secret, sizeof(secret), "%016llx%016llx", static_cast<unsigned long long>(ticket.secret[0]),
                static_cast<unsigned long long>(ticket.secret[1]));
  return std::to_string(ticket.member) + "-" + std::to_string(ticket.number) + "-" + secret;
}

bool ParseTicket(std::string_view text, Ticket* ticket) {
  const size_t first = text.find('-');
  const size_t second = first == std::string_view::npos ? first : text.find('-', first + 1);
  if (second == std::string_view::npos || text.size() - second - 1 != kSecretDigits) return false;
  return ParseNumber(text.substr(0, first), 10, &ticket->member) && ticket->member != 0 &&
         ParseNumber(text.substr(first + 1, second - first - 1), 10, &ticket->number) &&
         ParseNumber(text.substr(second + 1, 16), 16, &ticket->secret[0]) &&
         ParseNumber(text.substr(second + 17), 16, &ticket->secret[1]);
}

Layers::Layers() : firstNumber_((1 + RandomWord() % (kIncarnations - 1)) << kCounterBits), lastNumber_(firstNumber_) {}

Ticket Layers::Reserve(const ObjectCall& call, LayerWaiter* waiter) {
  Ticket ticket;
  ticket.number = ++lastNumber_;
  ticket.secret = {RandomWord(), RandomWord()};
  Reservation reservation;
  reservation.secret = ticket.secret;
  reservation.call = &call;
  reservation.waiter = waiter;
  reservation.layers.resize(call.count());
  reservation.open = call.count();
  reservations_.emplace(ticket.number, std::move(reservation));
  return ticket;
}

void Layers::EndLayer(uint64_t number, uint32_t layer, const Status& status) {
  const auto found = reservations_.find(number);
  if (found == reservations_.end() || found->second.layers[layer] == State::kEnded) return;
  Reservation& reservation = found->second;
  reservation.layers[layer] = State::kEnded;
  LayerWaiter* waiter = reservation.waiter;
  if (--reservation.open == 0) {
    Remember(number, reservation);
    reservations_.erase(found);
  }
  waiter->OnLayer(layer, status);
}

void Layers::Remember(uint64_t number, const Reservation& reservation) {
  const StatusCode code = reservation.ended ? reservation.why.code() : StatusCode::kOk;
  ended_.emplace(number, Ended{reservation.secret, static_cast<uint32_t>(reservation.layers.size()), code});
  endedInOrder_.push_back(number);
  if (endedInOrder_.size() <= kEndedMax) return;
  ended_.erase(endedInOrder_.front());
  endedInOrder_.pop_front();
}

void Layers::End(uint64_t number, const Status& why) {
  const auto found = reservations_.find(number);
  if (found == reservations_.end() || std::exchange(found->second.ended, true)) return;
  found->second.why = why;
  std::vector<std::pair<uint64_t, HoldUser*>> broken;
  for (const auto& [hold, known] : holds_) {
    if (known.number == number) broken.emplace_back(hold, known.user);
  }
  std::vector<uint32_t> empty;
  for (uint32_t i = 0; i < found->second.layers.size(); ++i) {
    if (found->second.layers[i] == State::kEmpty) empty.push_back(i);
  }
  for (const uint32_t layer : empty) EndLayer(number, layer, why);
  const Status ended(StatusCode::kRpcPeerDead, "the ticket ended: " + why.message());
  for (const auto& [hold, user] : broken) user->OnHoldBroken(hold, ended);
}

void Layers::Sever(uint64_t number) {
  std::vector<std::pair<uint64_t, HoldUser*>> overdue;
  for (const auto& [hold, known] : holds_) {
    if (known.number == number) overdue.emplace_back(hold, known.user);
  }
  for (const auto& [hold, user] : overdue) user->OnHoldOverdue(hold);
}

Status Layers::Open(const Ticket& ticket, uint32_t layer, const Shape& shape, HoldUser* user, Opened* opened) {
  const auto found = reservations_.find(ticket.number);
  if (found == reservations_.end()) return Refuse(ticket, layer, opened);
  Reservation& reservation = found->second;
  if (!SameSecret(reservation.secret, ticket.secret)) {
    return {StatusCode::kNotAuthorized, "not the secret of the ticket"};
  }
  if (reservation.ended) return EndOf(reservation.why.code());
  const auto sizes =
      layer < reservation.layers.size() ? reservation.call->blobSizes(layer) : std::span<const uint64_t>();
  if (layer >= reservation.layers.size()) {
    opened->sizes.assign(1, reservation.layers.size());  // for the text: how many layers there are
    return {StatusCode::kOutOfRange, "no such layer"};
  }
  opened->sizes.assign(sizes.begin(), sizes.end());
  if (reservation.layers[layer] != State::kEmpty) return {StatusCode::kKeyAlreadyExists, "the layer was pushed"};
  if (shape.blobCount != sizes.size() || shape.payloadBytes != reservation.call->objectBytes(layer) ||
      shape.hash != peer::ShapeHash(sizes)) {
    return {StatusCode::kInvalid, "another shape"};
  }
  reservation.layers[layer] = State::kPushing;
  opened->hold = ++lastHold_ | kLayerHoldBit;
  opened->blobs = reservation.call->deviceBlobs(layer);
  opened->device = reservation.call->device();
  holds_.emplace(opened->hold, Hold{ticket.number, layer, user});
  return Status::Ok();
}

Status Layers::Refuse(const Ticket& ticket, uint32_t layer, Opened* opened) const {
  const auto found = ended_.find(ticket.number);
  if (found == ended_.end()) {
    const bool ours = ticket.number >> kCounterBits == firstNumber_ >> kCounterBits;
    return EndOf(ours || ticket.number >> kCounterBits == 0 ? StatusCode::kNotFound : StatusCode::kRpcPeerDead);
  }
  const Ended& ended = found->second;
  if (!SameSecret(ended.secret, ticket.secret)) return {StatusCode::kNotAuthorized, "not the secret of the ticket"};
  if (ended.code != StatusCode::kOk) return EndOf(ended.code);
  if (layer < ended.layers) return {StatusCode::kKeyAlreadyExists, "all layers of the ticket are complete"};
  opened->sizes.assign(1, ended.layers);
  return {StatusCode::kOutOfRange, "no such layer"};
}

void Layers::Consume(uint64_t hold) {
  const auto found = holds_.find(hold);
  if (found == holds_.end()) return;
  const Hold ended = found->second;
  holds_.erase(found);
  EndLayer(ended.number, ended.layer, Status::Ok());
  ended.user->OnHoldConsumed(hold, Status::Ok());
}

void Layers::Close(uint64_t hold) {
  const auto found = holds_.find(hold);
  if (found == holds_.end()) return;
  const Hold ended = found->second;
  holds_.erase(found);
  const auto reservation = reservations_.find(ended.number);
  if (reservation == reservations_.end()) return;
  const Status why = reservation->second.ended
                         ? reservation->second.why
                         : Status(StatusCode::kRpcPeerDead, "the pusher of layer " + std::to_string(ended.layer) +
                                                                " gave up in the middle, or ended");
  EndLayer(ended.number, ended.layer, why);
  End(ended.number, why);
}

}  // namespace hbmesh::sidecar
