#include "addon/client_wrap.h"

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "addon/job.h"
#include "addon/mailbox.h"
#include "addon/sim_heap_export.h"
#include "client/client.h"

namespace hbmesh::addon {

namespace {

struct Closed {
  std::string reason;
};
using ClientEvent = std::variant<Completion, RequestEvents, Closed>;

// A submit call whose device memory must be registered first: the arguments outlive the call, so they are copied.
struct KeptCall {
  uint64_t requestId = 0;
  ObjectCall call;  // its spans point into what follows
  std::vector<std::byte> keys;
  std::vector<uint32_t> blobEnds;
  std::vector<uint64_t> pointers;
  std::vector<uint64_t> sizes;

  explicit KeptCall(uint64_t id, const ObjectCall& original)
      : requestId(id),
        call(original),
        keys(original.keys.begin(), original.keys.end()),
        blobEnds(original.blobEnds.begin(), original.blobEnds.end()),
        pointers(original.pointers.begin(), original.pointers.end()),
        sizes(original.sizes.begin(), original.sizes.end()) {
    call.keys = keys;
    call.blobEnds = blobEnds;
    call.pointers = pointers;
    call.sizes = sizes;
  }
};

// How often a request whose memory was unregistered again before it was sent is tried anew.
constexpr int kRegisterAttemptsMax = 4;

// State behind one NativeClient object. It lives until the object is collected and the last request has settled, or
// until the environment ends. Environment's thread only, except for what the mailbox and the client say of themselves.
class ClientState : public std::enable_shared_from_this<ClientState> {
 public:
  // The mailbox exists before the client, since the client's callbacks post to it.
  static std::shared_ptr<ClientState> Make(Napi::Env env, Napi::Function onClosed) {
    auto state = std::make_shared<ClientState>();
    state->env_ = env;
    state->onClosed_ = Napi::Persistent(onClosed);
    state->mailbox_ = Mailbox<ClientEvent>::Make(
        env, "hbmesh client", [weak = std::weak_ptr(state)](Napi::Env current, std::vector<ClientEvent>&& events) {
          if (const auto self = weak.lock()) self->Deliver(current, std::move(events));
        });
    napi_add_env_cleanup_hook(env, &ClientState::AtEnvironmentEnd, state.get());
    state->hooked_ = true;
    return state;
  }

  // Nothing is outstanding any more, since `self_` keeps this object while something is: Close doesn't wait.
  ~ClientState() {
    Unhook();
    if (client_) client_->Close();
    mailbox_->Close();
  }

  [[nodiscard]] ClientCallbacks MakeCallbacks() const {
    return {[mailbox = mailbox_](Completion&& completion) { mailbox->Post(std::move(completion)); },
            [mailbox = mailbox_](RequestEvents&& events) { mailbox->Post(std::move(events)); },
            [mailbox = mailbox_](const Status& reason) { mailbox->Post(Closed{reason.message()}); }};
  }
  // Where Connect puts the client, on the job's thread, before Adopted is called.
  [[nodiscard]] std::unique_ptr<Client>* connected() { return &connected_; }
  void Adopted(Napi::Env env) {
    client_ = std::move(connected_);
    mailbox_->KeepAlive(env, false);
    if (closedEarly_) mailbox_->Post(std::move(*closedEarly_));
  }
  [[nodiscard]] const Client* client() const { return client_.get(); }

  // `onEvents`: called with the payload of every reply before the last; empty where there are none.
  [[nodiscard]] Napi::Value Submit(Napi::Env env, uint64_t requestId, const ObjectCall& call,
                                   Napi::FunctionReference onEvents);
  void Cancel(uint64_t requestId);
  void CancelKey(uint64_t requestId, uint32_t keyIndex);
  [[nodiscard]] Napi::Value Register(Napi::Env env, std::vector<uint64_t> pointers, std::vector<uint64_t> sizes);
  // A promise that resolves once the session has ended and every request that was sent has settled. The waiting is not
  // done on the environment's thread. A second call resolves at once.
  [[nodiscard]] Napi::Value Close(Napi::Env env);

 private:
  struct Request {
    Napi::Promise::Deferred deferred;
    uint64_t id = 0;  // the client's; 0 while its memory is being registered
    bool cancelled = false;
    std::vector<uint32_t> cancelledKeys;  // before it was sent
    Napi::FunctionReference onEvents;
  };

  static void AtEnvironmentEnd(void* argument) {
    auto* const self = static_cast<ClientState*>(argument);
    self->hooked_ = false;
    self->mailbox_->Abandon();
    if (self->client_) self->client_->Close();
  }

  void Unhook();
  void Deliver(Napi::Env env, std::vector<ClientEvent>&& events);
  void Settle(Napi::Env env, Completion&& completion);
  void Tell(Napi::Env env, const RequestEvents& events);
  // Takes a request out and lets the process end when it was the last one.
  Napi::Promise::Deferred Remove(Napi::Env env, uint64_t requestId);
  void RegisterThenSubmit(Napi::Env env, std::shared_ptr<KeptCall> kept, int attempt);
  void SubmitKept(Napi::Env env, const std::shared_ptr<KeptCall>& kept, int attempt, const Status& registered);

  Napi::Env env_ = nullptr;
  Napi::FunctionReference onClosed_;
  std::shared_ptr<Mailbox<ClientEvent>> mailbox_;
  bool hooked_ = false;
  bool closed_ = false;  // by JavaScript
  std::optional<Closed> closedEarly_;
  std::unordered_map<uint64_t, Request> requests_;     // by the caller's id
  std::unordered_map<uint64_t, uint64_t> requestIds_;  // the client's id to the caller's
  std::unique_ptr<Client> connected_;
  std::shared_ptr<Client> client_;  // shared with jobs that register memory
  // Keeps this object while requests are outstanding, although JavaScript may have dropped it.
  std::shared_ptr<ClientState> self_;
};

Napi::Promise::Deferred ClientState::Remove(Napi::Env env, uint64_t requestId) {
  const auto found = requests_.find(requestId);
  const Napi::Promise::Deferred deferred = found->second.deferred;
  requestIds_.erase(found->second.id);
  requests_.erase(found);
  if (requests_.empty()) {
    mailbox_->KeepAlive(env, false);
    self_.reset();
  }
  return deferred;
}

Napi::Value ClientState::Submit(Napi::Env env, uint64_t requestId, const ObjectCall& call,
                                Napi::FunctionReference onEvents) {
  if (!client_) throw MakeError(env, StatusCode::kShuttingDown, "the client was closed: make a new one");
  if (requests_.contains(requestId)) {
    throw MakeError(env, StatusCode::kInvalid, "request id " + std::to_string(requestId) + " is already in use");
  }
  const auto keep = shared_from_this();
  const Napi::Promise::Deferred deferred(env);
  uint64_t id = 0;
  const Status status = client_->Submit(call, Registration::kKnownOnly, &id);
  if (!status.ok() && status.code() != StatusCode::kNotReady) {
    deferred.Reject(MakeError(env, status).Value());
    return deferred.Promise();
  }
  if (requests_.empty()) {
    mailbox_->KeepAlive(env, true);
    self_ = keep;
  }
  requests_.emplace(requestId, Request{deferred, id, false, {}, std::move(onEvents)});
  if (status.ok()) {
    requestIds_.emplace(id, requestId);
  } else {
    RegisterThenSubmit(env, std::make_shared<KeptCall>(requestId, call), 1);
  }
  return deferred.Promise();
}

void ClientState::RegisterThenSubmit(Napi::Env env, std::shared_ptr<KeptCall> kept, int attempt) {
  RunJob(
      env, "hbmesh registration",
      [client = client_, kept](int) { return client->RegisterDeviceMemory(kept->pointers, kept->sizes); },
      [self = shared_from_this(), kept, attempt](Napi::Env current, const Status& status) {
        self->SubmitKept(current, kept, attempt, status);
      });
}

void ClientState::SubmitKept(Napi::Env env, const std::shared_ptr<KeptCall>& kept, int attempt,
                             const Status& registered) {
  const auto found = requests_.find(kept->requestId);
  if (found == requests_.end()) return;
  Status status = registered;
  if (status.ok() && found->second.cancelled) {
    status = {StatusCode::kRpcCancelled, "the request was cancelled before it was sent"};
  }
  if (status.ok() && !client_) status = {StatusCode::kShuttingDown, "the client was closed"};
  uint64_t id = 0;
  if (status.ok()) status = client_->Submit(kept->call, Registration::kKnownOnly, &id);
  if (status.ok()) {
    found->second.id = id;
    requestIds_.emplace(id, kept->requestId);
    for (const uint32_t keyIndex : found->second.cancelledKeys) client_->CancelKey(id, keyIndex);
    return;
  }
  if (status.code() == StatusCode::kNotReady) {
    if (attempt < kRegisterAttemptsMax) {
      RegisterThenSubmit(env, kept, attempt + 1);
      return;
    }
    status = {StatusCode::kTryAgain,
              "device memory of this call was unregistered for other calls again and again: use "
              "fewer allocations or fewer calls at a time"};
  }
  Remove(env, kept->requestId).Reject(MakeError(env, status).Value());
}

void ClientState::Cancel(uint64_t requestId) {
  const auto found = requests_.find(requestId);
  if (found == requests_.end() || !client_) return;
  found->second.cancelled = true;
  if (found->second.id != 0) client_->Cancel(found->second.id);
}

void ClientState::CancelKey(uint64_t requestId, uint32_t keyIndex) {
  const auto found = requests_.find(requestId);
  if (found == requests_.end() || !client_) return;
  if (found->second.id != 0) {
    client_->CancelKey(found->second.id, keyIndex);
  } else {
    found->second.cancelledKeys.push_back(keyIndex);
  }
}

Napi::Value ClientState::Register(Napi::Env env, std::vector<uint64_t> pointers, std::vector<uint64_t> sizes) {
  if (!client_) throw MakeError(env, StatusCode::kShuttingDown, "the client was closed: make a new one");
  return RunJob(env, "hbmesh registration",
                {[client = client_, pointers = std::move(pointers), sizes = std::move(sizes)](int) {
                   return client->RegisterDeviceMemory(pointers, sizes);
                 },
                 [](Napi::Env current) { return current.Undefined(); }});
}

void ClientState::Settle(Napi::Env env, Completion&& completion) {
  const auto found = requestIds_.find(completion.id);
  if (found == requestIds_.end()) return;
  const Napi::Promise::Deferred deferred = Remove(env, found->second);
  if (!completion.answered) {
    deferred.Reject(MakeError(env, completion.code, completion.message).Value());
    return;
  }
  Napi::Object reply = Napi::Object::New(env);
  reply.Set("code", Napi::Number::New(env, static_cast<uint32_t>(completion.code)));
  reply.Set("payload", CopyToJs(env, completion.payload));
  deferred.Resolve(reply);
}

void ClientState::Tell(Napi::Env env, const RequestEvents& events) {
  const auto found = requestIds_.find(events.id);
  if (found == requestIds_.end()) return;
  const auto request = requests_.find(found->second);
  if (request->second.onEvents.IsEmpty()) return;
  const Napi::Function handler = request->second.onEvents.Value();  // the request may end within the call
  handler.Call({CopyToJs(env, events.payload)});
}

void ClientState::Deliver(Napi::Env env, std::vector<ClientEvent>&& events) {
  const auto keep = shared_from_this();
  for (ClientEvent& event : events) {
    if (auto* const completion = std::get_if<Completion>(&event)) {
      Settle(env, std::move(*completion));
    } else if (const auto* const some = std::get_if<RequestEvents>(&event)) {
      Tell(env, *some);
    } else if (!client_ && !closed_) {
      closedEarly_ = std::get<Closed>(event);  // before Adopted: JavaScript does not know the client yet
    } else if (!closed_) {                     // after close() nobody is told
      onClosed_.Call({Napi::String::New(env, std::get<Closed>(event).reason)});
    }
  }
}

void ClientState::Unhook() {
  if (!hooked_) return;
  hooked_ = false;
  napi_remove_env_cleanup_hook(env_, &ClientState::AtEnvironmentEnd, this);
}

Napi::Value ClientState::Close(Napi::Env env) {
  const auto finish = [self = shared_from_this()](Napi::Env current) -> Napi::Value {
    self->mailbox_->DeliverNow(current);  // what Client::Close ended
    self->Unhook();
    self->mailbox_->Close();
    return current.Undefined();
  };
  if (closed_) {
    const Napi::Promise::Deferred deferred(env);
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  const Napi::Promise promise = RunJob(env, "hbmesh close",
                                       {[client = client_](int) {
                                          if (client) client->Close();
                                          return Status::Ok();
                                        },
                                        finish});
  closed_ = true;
  client_.reset();
  return promise;
}

Napi::Value SubmitFromJs(const Napi::CallbackInfo& info, ClientState& state) {
  const Napi::Object request = AsObject(info[0], "request");
  ObjectCall call;
  call.op = static_cast<layout::Op>(AsUint32(request.Get("op"), "op"));
  const Napi::Object args = AsObject(request.Get("args"), "args");
  for (uint32_t i = 0; i < 4; ++i) call.args[i] = AsUint64(args.Get(i), "each of args");
  call.deviceIndex = AsUint32(request.Get("deviceIndex"), "deviceIndex");
  call.keys = AsBytes(request.Get("keys"), "keys");
  call.keyCount = AsUint32(request.Get("keyCount"), "keyCount");
  call.blobEnds = AsUint32Array(request.Get("blobEnds"), "blobEnds");
  call.pointers = AsUint64Array(request.Get("pointers"), "pointers");
  call.sizes = AsUint64Array(request.Get("sizes"), "sizes");
  Napi::FunctionReference onEvents;
  if (!request.Get("onEvents").IsUndefined()) {
    onEvents = Napi::Persistent(AsFunction(request.Get("onEvents"), "onEvents"));
  }
  return state.Submit(info.Env(), AsUint64(request.Get("requestId"), "requestId"), call, std::move(onEvents));
}

Napi::Value RegisterFromJs(const Napi::CallbackInfo& info, ClientState& state) {
  const auto pointers = AsUint64Array(info[0], "pointers");
  const auto sizes = AsUint64Array(info[1], "sizes");
  return state.Register(info.Env(), {pointers.begin(), pointers.end()}, {sizes.begin(), sizes.end()});
}

// The object that JavaScript holds. Its functions share the state, which goes with the last of them.
Napi::Object MakeClientObject(Napi::Env env, const std::shared_ptr<ClientState>& state) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("deviceCount", Napi::Number::New(env, state->client()->deviceCount()));
  object.Set("backend", Napi::String::New(env, state->client()->backend()));
  object.Set("workerAddress", Napi::String::New(env, state->client()->workerAddress()));
  object.Set("submit",
             Napi::Function::New(env, [state](const Napi::CallbackInfo& info) { return SubmitFromJs(info, *state); }));
  object.Set("registerDeviceMemory", Napi::Function::New(env, [state](const Napi::CallbackInfo& info) {
               return RegisterFromJs(info, *state);
             }));
  object.Set("cancel", Napi::Function::New(env, [state](const Napi::CallbackInfo& info) {
               state->Cancel(AsUint64(info[0], "requestId"));
             }));
  object.Set("cancelKey", Napi::Function::New(env, [state](const Napi::CallbackInfo& info) {
               state->CancelKey(AsUint64(info[0], "requestId"), AsUint32(info[1], "keyIndex"));
             }));
  object.Set("close",
             Napi::Function::New(env, [state](const Napi::CallbackInfo& info) { return state->Close(info.Env()); }));
  return object;
}

}  // namespace

Napi::Value ConnectClient(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object given = AsObject(info[0], "options");
  ClientOptions options;
  options.workerAddress = AsString(given.Get("workerAddress"), "workerAddress");
  options.token = AsString(given.Get("token"), "token");
  options.connectTimeoutMs = AsUint32(given.Get("connectTimeoutMs"), "connectTimeoutMs");
  options.spinMicros = AsUint32(given.Get("spinMicros"), "spinMicros");
  options.floorBytesPerSecond = AsUint64(given.Get("floorBytesPerSecond"), "floorBytesPerSecond");
  const Napi::Function onClosed = AsFunction(given.Get("onClosed"), "onClosed");
  SimHeap* heap = nullptr;
  ThrowIfFailed(env, ProcessSimHeap(&heap));
  const auto state = ClientState::Make(env, onClosed);
  const auto connect = [state, options, heap](int cancelFd) {
    ClientOptions interruptible = options;
    interruptible.cancelFd = cancelFd;
    return Client::Connect(interruptible, heap, state->MakeCallbacks(), state->connected());
  };
  const auto finish = [state](Napi::Env current) -> Napi::Value {
    state->Adopted(current);
    return MakeClientObject(current, state);
  };
  return RunJob(env, "hbmesh connect", {connect, finish});
}

}  // namespace hbmesh::addon
