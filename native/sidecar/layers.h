// Layers: memory that the decode side reserved, layer by layer, and the tickets that others write into it with.
//
//   layer:  empty -> pushing -> complete        a pusher that gives up in the middle ends the whole ticket
//
// A ticket is "<member>-<number>-<32 hex digits of secret>". It ends when all layers are complete, when it is cancelled
// or its time is over, and with its client. A layer that is being written when the ticket ends is ended for its waiter
// only when its pusher has stopped: until then the bytes may still come.
//
// How tickets ended is remembered for the last ones, so that a late pusher learns whether its layer is there already,
// or its reader has died. Numbers begin at a random place: those of a sidecar that died are known as such.
//
// Thread rule: the loop.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sidecar/device_objects.h"
#include "sidecar/object_call.h"

namespace hbmesh::sidecar {

struct Ticket {
  uint32_t member = 0;
  uint64_t number = 0;
  std::array<uint64_t, 2> secret{};
};
[[nodiscard]] std::string ShowTicket(const Ticket& ticket);
[[nodiscard]] bool ParseTicket(std::string_view text, Ticket* ticket);

// Who reserved, and waits for the layers.
class LayerWaiter {
 public:
  // Each layer once.
  virtual void OnLayer(uint32_t layer, const Status& status) = 0;

 protected:
  ~LayerWaiter() = default;
};

class Layers {
 public:
  Layers();
  Layers(const Layers&) = delete;
  Layers& operator=(const Layers&) = delete;

  // The call's keys are the layers. Returns the number and the secret; `call` and `waiter` live until each layer ended.
  [[nodiscard]] Ticket Reserve(const ObjectCall& call, LayerWaiter* waiter);
  // Ends the ticket: no further push begins. Layers without a pusher end at once, the others when theirs has stopped.
  void End(uint64_t number, const Status& why);

  // Pushers that have not stopped some time after the end.
  void Sever(uint64_t number);

  struct Opened {
    uint64_t hold = 0;
    std::vector<DeviceBlob> blobs;
    std::vector<uint64_t> sizes;  // also when the shape doesn't fit
    uint32_t device = 0;
  };
  // What a pusher says its layer looks like.
  struct Shape {
    uint32_t blobCount = 0;
    uint64_t payloadBytes = 0;
    std::array<uint64_t, 2> hash{};
  };
  // kNotFound: no such ticket (any more); kRpcPeerDead: it ended by a death, of its client, of a pusher in the middle
  // of a layer, or of the sidecar that gave it; kNotAuthorized: another secret; kOutOfRange; kKeyAlreadyExists: pushed,
  // or being pushed; kInvalid: another shape. On kOk the layer is the user's until it closes or consumes the hold.
  [[nodiscard]] Status Open(const Ticket& ticket, uint32_t layer, const Shape& shape, HoldUser* user, Opened* opened);
  // The bytes are there: the layer is complete. Its user is told; the hold has ended.
  void Consume(uint64_t hold);
  // Given up: the ticket is dead.
  void Close(uint64_t hold);
  [[nodiscard]] size_t holds() const { return holds_.size(); }

 private:
  enum class State : uint8_t { kEmpty, kPushing, kEnded };
  struct Reservation {
    std::array<uint64_t, 2> secret{};
    const ObjectCall* call = nullptr;
    LayerWaiter* waiter = nullptr;
    std::vector<State> layers;
    uint32_t open = 0;  // layers that have not ended
    bool ended = false;
    Status why;
  };
  struct Hold {
    uint64_t number;
    uint32_t layer;
    HoldUser* user;
  };

  // A ticket that is no more.
  struct Ended {
    std::array<uint64_t, 2> secret{};
    uint32_t layers = 0;
    StatusCode code = StatusCode::kOk;  // kOk: all layers are complete
  };

  void EndLayer(uint64_t number, uint32_t layer, const Status& status);
  void Remember(uint64_t number, const Reservation& reservation);
  // Of a ticket without a reservation.
  [[nodiscard]] Status Refuse(const Ticket& ticket, uint32_t layer, Opened* opened) const;

  const uint64_t firstNumber_;
  uint64_t lastNumber_;
  uint64_t lastHold_ = 0;
  std::unordered_map<uint64_t, Reservation> reservations_;
  std::unordered_map<uint64_t, Hold> holds_;
  std::unordered_map<uint64_t, Ended> ended_;
  std::deque<uint64_t> endedInOrder_;
};

}  // namespace hbmesh::sidecar
