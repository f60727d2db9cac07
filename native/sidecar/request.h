// Request: one call of a client from its message to its reply. Its kinds: SetTransfer, GetTransfer, Query, and those of
// device objects and layers (DevicePublish, DeviceFetch, LocalDelete, ReserveLayers, PushLayer).
//
// A request ends once: it answers if its session is still there, and is destroyed when nothing that it started is under
// way any more. Core is what all requests use.
//
// Thread rule: the loop.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "sidecar/completions.h"
#include "sidecar/control_port.h"
#include "sidecar/copier.h"
#include "sidecar/object_call.h"
#include "sidecar/options.h"
#include "sidecar/pending_slots.h"
#include "sidecar/reply.h"
#include "sidecar/session_server.h"
#include "sidecar/timers.h"
#include "store/object_store.h"

namespace hbmesh::sidecar {

class Checksums;
class DeviceObjects;
class Replicas;
class StoreKeeper;
class Layers;
class PeerLinks;
class Request;

// Counters since the start.
struct Counters {
  uint64_t transfers = 0;
  uint64_t transferredBytes = 0;
};

// All requests. Owns them; destroys an ended one after the loop's turn.
class RequestTable {
 public:
  Request& Add(std::unique_ptr<Request> request);
  void Remove(Request* request);
  void Sweep() { ended_.clear(); }
  [[nodiscard]] size_t size() const { return requests_.size(); }
  [[nodiscard]] std::vector<Request*> List() const;

 private:
  std::unordered_map<Request*, std::unique_ptr<Request>> requests_;
  std::vector<std::unique_ptr<Request>> ended_;
};

struct Core {
  const SidecarOptions& options;
  Clock& clock;
  Timers& timers;
  ObjectStore& store;
  StoreKeeper& keeper;
  std::vector<std::unique_ptr<Device>>& devices;
  TokenTable& tokens;
  Copier& copier;
  Checksums& checksums;
  Replicas& replicas;
  ControlPort& control;
  PeerLinks& peers;
  DeviceObjects& objects;
  PendingSlots& pending;
  Layers& layers;
  SessionServer& sessions;
  RequestTable& requests;
  Counters counters;
};

class Request {
 public:
  Request(Core& core, Session& session, const layout::Entry& entry);
  virtual ~Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  virtual void Start() = 0;
  // Ends what has not begun to move bytes, with this status. For kCancel and for shutdown, more than once. What has
  // begun goes on at a shutdown; a cancelled request begins no further part, and answers when its caller's memory is
  // not used any more.
  virtual void Stop(const Status& why) = 0;
  // The same for one key of a request whose keys end one by one. Others have no such part.
  virtual void StopKey(uint32_t /*key*/, const Status& /*why*/) {}
  // Does it bring host objects to this worker?
  [[nodiscard]] virtual bool isSet() const { return false; }
  // The client is gone: nothing needs to be answered; what is not needed any more is given up.
  void Abandon();
  [[nodiscard]] uint64_t sessionId() const { return sessionId_; }

 protected:
  virtual void OnAbandoned() = 0;
  // The time limit that SetDeadline gave is over.
  virtual void OnDeadline() {}
  void SetDeadline(uint64_t inMs);
  // A transfer of this many bytes at the floor rate, and what is allowed for set-up.
  [[nodiscard]] uint64_t TransferLimitMs(uint64_t bytes) const;

  // Sends the reply, once. The request goes on to live until Finish.
  void Answer(std::vector<std::byte> payload);
  // Sends a part of the reply; others follow.
  void Tell(std::vector<std::byte> payload, uint32_t count);
  void Refuse(const Status& status);
  [[nodiscard]] bool answered() const { return answered_; }
  [[nodiscard]] const layout::Entry& entry() const { return entry_; }
  // Nothing is under way any more: the request may be destroyed. Call it last.
  void Finish();

  Core& core_;

 private:
  void Send(StatusCode code, std::vector<std::byte> payload);

  const uint64_t sessionId_;
  const layout::Entry entry_;
  bool answered_ = false;
  bool finished_ = false;
  TimerId deadline_;
};

}  // namespace hbmesh::sidecar
