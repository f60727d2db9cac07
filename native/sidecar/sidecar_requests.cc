// The part of Sidecar that turns a client's message into a request, or refuses it.
#include <utility>

#include "sidecar/device_fetch.h"
#include "sidecar/device_publish.h"
#include "sidecar/get_transfer.h"
#include "sidecar/layer_requests.h"
#include "sidecar/query.h"
#include "sidecar/set_transfer.h"
#include "sidecar/sidecar.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kWaitMsMax = 1'800'000;  // of a get
constexpr uint64_t kTtlMsMax = 3'153'600'000'000;

}  // namespace

void Sidecar::HandleClient(Session& session, Message& message) {
  const layout::Entry& entry = message.entry;
  if ((entry.flags & layout::kFlagReply) != 0) {
    Refuse(session, entry, {StatusCode::kInvalid, "a client has nothing to answer: the entry is flagged as a reply"});
    return;
  }
  switch (static_cast<layout::Op>(entry.op)) {
    case layout::Op::kSetD2H:
    case layout::Op::kGetH2D:
    case layout::Op::kDevPublish:
    case layout::Op::kDevSubscribe:
    case layout::Op::kDevMSet:
    case layout::Op::kDevMGet:
    case layout::Op::kReserveLayers:
    case layout::Op::kPushLayer:
      HandleTransfer(session, message);
      return;
    case layout::Op::kDevLocalDelete:
      HandleLocalDelete(session, message);
      return;
    case layout::Op::kDelete:
    case layout::Op::kDevDelete:
    case layout::Op::kExist:
    case layout::Op::kGetMeta:
    case layout::Op::kExplain:
      HandleQuery(session, message);
      return;
    case layout::Op::kCancel:
      Cancel(session, entry.args[0], entry.args[1]);
      return;
    default:
      Refuse(session, entry,
             {StatusCode::kNotSupported,
              "operation " + std::to_string(entry.op) + " is not one of a client's: use the release of the worker"});
  }
}

Status Sidecar::CheckRoom(Session& session, const layout::Entry& entry) const {
  if (stopping_) {
    return {StatusCode::kShuttingDown, "worker " + options_.workerAddress + " is being stopped: use another worker"};
  }
  if (session.requests().contains(entry.id)) {
    return {StatusCode::kInvalid,
            "request " + std::to_string(entry.id) + " is under way: give each request its own number"};
  }
  if (session.requests().size() >= options_.inflightMax) {
    return {StatusCode::kTryAgain, "this client has " + std::to_string(session.requests().size()) +
                                       " requests under way, the most it may have: try again when one is answered"};
  }
  const uint64_t under = session.requestBytes();
  if (under > 0 && under + entry.payloadBytes > options_.inflightBytesMax) {
    return {StatusCode::kTryAgain, "this client has requests of " + std::to_string(under) +
                                       " bytes under way, with this one they are over the limit of " +
                                       std::to_string(options_.inflightBytesMax) + ": try again when one is answered"};
  }
  return Status::Ok();
}

namespace {

Status CheckWait(uint64_t timeoutMs) {
  if (timeoutMs <= kWaitMsMax) return Status::Ok();
  return {StatusCode::kInvalid, "timeoutMs " + std::to_string(timeoutMs) + " is more than " +
                                    std::to_string(kWaitMsMax) + ": wait in several calls"};
}

Status CheckNone(uint64_t argument, const char* call) {
  if (argument == 0) return Status::Ok();
  return {StatusCode::kNotSupported,
          std::string("flags of ") + call + " are not supported by this worker: leave them out"};
}

Status CheckSet(const layout::Entry& entry) {
  if (entry.args[0] > static_cast<uint64_t>(layout::Existence::kReplace)) {
    return {StatusCode::kInvalid,
            "existence " + std::to_string(entry.args[0]) + " doesn't exist: give 0 (skip), 1 (fail) or 2 (replace)"};
  }
  if (entry.args[1] > kTtlMsMax) {
    return {StatusCode::kInvalid, "a time to live of " + std::to_string(entry.args[1]) + " ms is more than " +
                                      std::to_string(kTtlMsMax) + " (100 years): give less, or none to keep the key"};
  }
  const uint64_t flags = entry.args[2];
  if ((flags & layout::kSetPinMask) > static_cast<uint64_t>(Pin::kHard)) {
    return {StatusCode::kInvalid, "pin " + std::to_string(flags & layout::kSetPinMask) +
                                      " doesn't exist: give 0 (none), 1 (soft) or 2 (hard)"};
  }
  if ((flags & ~uint64_t{layout::kSetPinMask | layout::kSetChecksum}) != 0) {
    return {StatusCode::kNotSupported,
            "flags " + std::to_string(flags) + " of a set are not known to this worker: use its release"};
  }
  return Status::Ok();
}

Status CheckDevSet(const layout::Entry& entry) {
  if (Status status = CheckSet(entry); !status.ok()) return status;
  if (entry.args[0] != static_cast<uint64_t>(layout::Existence::kReplace)) return Status::Ok();
  return {StatusCode::kInvalid,
          "existence replace is not for devMSet, whose readers may be at the memory: devDelete the key first"};
}

}  // namespace

Status Sidecar::CheckArgs(const layout::Entry& entry) const {
  switch (static_cast<layout::Op>(entry.op)) {
    case layout::Op::kGetH2D: {
      Status status = CheckWait(entry.args[0]);
      return status.ok() ? CheckNone(entry.args[1], "a get") : status;
    }
    case layout::Op::kDevSubscribe:
    case layout::Op::kReserveLayers:
      return CheckWait(entry.args[0]);
    case layout::Op::kDevMGet: {
      Status status = CheckWait(entry.args[0]);
      return status.ok() ? CheckNone(entry.args[1] & ~uint64_t{layout::kShareReplica}, "devMGet") : status;
    }
    case layout::Op::kSetD2H:
      return CheckSet(entry);
    case layout::Op::kDevMSet:
      return CheckDevSet(entry);
    default:
      return Status::Ok();
  }
}

Status Sidecar::CheckStays(const layout::Entry& entry) const {
  if (!leaving_) return Status::Ok();
  switch (static_cast<layout::Op>(entry.op)) {
    case layout::Op::kSetD2H:
    case layout::Op::kDevPublish:
    case layout::Op::kDevMSet:
    case layout::Op::kReserveLayers:
      return {StatusCode::kScaling, "worker " + options_.workerAddress +
                                        " is leaving its cluster and moves its objects to other workers: nothing was "
                                        "set, use another worker"};
    default:
      return Status::Ok();
  }
}

void Sidecar::HandleTransfer(Session& session, Message& message) {
  const layout::Entry entry = message.entry;
  Status status = CheckRoom(session, entry);
  if (status.ok()) status = CheckStays(entry);
  if (status.ok()) status = CheckArgs(entry);
  ObjectCall call;
  ParseLimits limits{options_.keyRule, layout::kKeysPerCallMax, static_cast<uint32_t>(devices_.size()), true,
                     session.keyPrefix()};
  const auto op = static_cast<layout::Op>(entry.op);
  // Layers are named by numbers and tickets, which are secrets of their own.
  if (op == layout::Op::kReserveLayers || op == layout::Op::kPushLayer) limits.keyPrefix = {};
  if (status.ok()) status = call.Parse(std::move(message), session.regions(), limits);
  if (!status.ok()) {
    Refuse(session, entry, status);
    return;
  }
  std::unique_ptr<Request> request;
  switch (static_cast<layout::Op>(entry.op)) {
    case layout::Op::kSetD2H:
      request = std::make_unique<SetTransfer>(*core_, session, entry, std::move(call));
      break;
    case layout::Op::kDevPublish:
    case layout::Op::kDevMSet:
      request = std::make_unique<DevicePublish>(*core_, session, entry, std::move(call));
      break;
    case layout::Op::kDevSubscribe:
    case layout::Op::kDevMGet:
      request = std::make_unique<DeviceFetch>(*core_, session, entry, std::move(call));
      break;
    case layout::Op::kReserveLayers:
      request = std::make_unique<ReserveLayers>(*core_, session, entry, std::move(call));
      break;
    case layout::Op::kPushLayer:
      request = std::make_unique<PushLayer>(*core_, session, entry, std::move(call));
      break;
    default:
      request = std::make_unique<GetTransfer>(*core_, session, entry, std::move(call));
  }
  requests_.Add(std::move(request)).Start();
}

void Sidecar::HandleLocalDelete(Session& session, Message& message) {
  const layout::Entry entry = message.entry;
  const ParseLimits limits{options_.keyRule, layout::kKeysPerCallMax, static_cast<uint32_t>(devices_.size()), false,
                           session.keyPrefix()};
  ObjectCall call;
  Status status = CheckRoom(session, entry);
  if (status.ok()) status = call.Parse(std::move(message), session.regions(), limits);
  if (!status.ok()) {
    Refuse(session, entry, status);
    return;
  }
  ReplyBuilder builder;
  builder.Reset(call.count());
  for (uint32_t i = 0; i < call.count(); ++i) {
    // None: as good as deleted.
    for (DeviceObject* object : objects_->FindOwn(call.key(i), session.id())) {
      if (object->family != layout::Family::kDeviceCache) {
        builder.Fail(i, StatusCode::kInvalid, "the key was published with devPublish: cancel its future instead");
        continue;
      }
      builder.result(i).flags = layout::kExisted;
      objects_->Remove(*object, {StatusCode::kNotFound, "the key was deleted"}, true);
    }
  }
  layout::Entry reply{};
  reply.id = entry.id;
  reply.op = entry.op;
  reply.flags = layout::kFlagReply;
  reply.count = call.count();
  // A session that can't be answered is about to be closed.
  (void)session.Send(reply, builder.Build()).ok();
}

void Sidecar::HandleQuery(Session& session, Message& message) {
  const layout::Entry entry = message.entry;
  const auto op = static_cast<layout::Op>(entry.op);
  const bool deleting = op == layout::Op::kDelete || op == layout::Op::kDevDelete;
  uint32_t keysMax = deleting ? layout::kKeysPerCallMax : layout::kKeysPerQueryMax;
  if (op == layout::Op::kExplain) keysMax = 1;
  const ParseLimits limits{options_.keyRule, keysMax, static_cast<uint32_t>(devices_.size()), false,
                           session.keyPrefix()};
  ObjectCall call;
  Status status = CheckRoom(session, entry);
  if (status.ok()) status = call.Parse(std::move(message), session.regions(), limits);
  if (!status.ok()) {
    Refuse(session, entry, status);
    return;
  }
  requests_.Add(std::make_unique<Query>(*core_, session, entry, std::move(call))).Start();
}

void Sidecar::Refuse(Session& session, const layout::Entry& entry, const Status& status) {
  layout::Entry reply{};
  reply.id = entry.id;
  reply.op = entry.op;
  reply.flags = layout::kFlagReply;
  reply.code = static_cast<uint32_t>(status.code());
  // A session that can't be answered is about to be closed.
  (void)session.Send(reply, ReplyBuilder::BuildRefusal(status.message())).ok();
}

void Sidecar::Cancel(Session& session, uint64_t request, uint64_t key) {
  const auto found = session.requests().find(request);
  if (found == session.requests().end()) return;  // answered already
  const Status why(StatusCode::kRpcCancelled, "cancelled by the caller");
  if (key == 0) {
    found->second->Stop(why);
  } else if (key <= UINT32_MAX) {
    found->second->StopKey(static_cast<uint32_t>(key - 1), why);
  }
}

}  // namespace hbmesh::sidecar
