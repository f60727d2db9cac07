#include "addon/control_wrap.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "addon/job.h"
#include "addon/mailbox.h"
#include "client/control_client.h"

namespace hbmesh::addon {

namespace {

struct Closed {
  std::string reason;
};
using ControlEvent = std::variant<std::vector<Message>, Closed>;

// State behind one NativeControlPort. Environment's thread only, except for the mailbox. An open port keeps the process
// alive: the control process lives for it.
class ControlState : public std::enable_shared_from_this<ControlState> {
 public:
  static std::shared_ptr<ControlState> Make(Napi::Env env, Napi::Function onMessages, Napi::Function onClosed) {
    auto state = std::make_shared<ControlState>();
    state->env_ = env;
    state->onMessages_ = Napi::Persistent(onMessages);
    state->onClosed_ = Napi::Persistent(onClosed);
    state->mailbox_ = Mailbox<ControlEvent>::Make(
        env, "hbmesh control", [weak = std::weak_ptr(state)](Napi::Env current, std::vector<ControlEvent>&& events) {
          if (const auto self = weak.lock()) self->Deliver(current, std::move(events));
        });
    napi_add_env_cleanup_hook(env, &ControlState::AtEnvironmentEnd, state.get());
    state->hooked_ = true;
    return state;
  }

  ~ControlState() { Close(); }

  [[nodiscard]] ControlCallbacks MakeCallbacks() const {
    return {[mailbox = mailbox_](std::vector<Message>&& messages) { mailbox->Post(std::move(messages)); },
            [mailbox = mailbox_](const Status& reason) { mailbox->Post(Closed{reason.message()}); }};
  }
  [[nodiscard]] std::unique_ptr<ControlClient>* connected() { return &connected_; }
  void Adopted() {
    client_ = std::move(connected_);
    self_ = shared_from_this();
    // What came before JavaScript knew of the port is delivered from a turn of its own, ahead of what follows.
    if (!early_.empty()) mailbox_->Post(std::vector<Message>());
  }
  [[nodiscard]] const ControlClient* client() const { return client_.get(); }

  [[nodiscard]] bool Send(Napi::Env env, const layout::Entry& entry, std::span<const std::byte> payload) {
    if (!client_) throw MakeError(env, StatusCode::kShuttingDown, "the port to the sidecar was closed");
    const Status status = client_->Send(entry, payload);
    if (status.code() == StatusCode::kTryAgain) return false;
    ThrowIfFailed(env, status);
    return true;
  }

  void Close() {
    closed_ = true;
    if (hooked_) {
      hooked_ = false;
      napi_remove_env_cleanup_hook(env_, &ControlState::AtEnvironmentEnd, this);
    }
    client_.reset();
    mailbox_->Detach();
    mailbox_->Close();
    self_.reset();
  }

 private:
  static void AtEnvironmentEnd(void* argument) {
    auto* const self = static_cast<ControlState*>(argument);
    self->hooked_ = false;
    self->mailbox_->Abandon();
    if (self->client_) self->client_->Close();
  }

  void Deliver(Napi::Env env, std::vector<ControlEvent>&& events);
  void DeliverMessages(Napi::Env env, const std::vector<Message>& messages);

  Napi::Env env_ = nullptr;
  Napi::FunctionReference onMessages_;
  Napi::FunctionReference onClosed_;
  std::shared_ptr<Mailbox<ControlEvent>> mailbox_;
  bool hooked_ = false;
  bool closed_ = false;
  std::vector<ControlEvent> early_;
  std::unique_ptr<ControlClient> connected_;
  std::unique_ptr<ControlClient> client_;
  std::shared_ptr<ControlState> self_;  // an open port lives without being referred to
};

// PortMessage in src/sidecar/port.ts.
Napi::Object MakePortMessage(Napi::Env env, const Message& message) {
  const layout::Entry& entry = message.entry;
  Napi::Array args = Napi::Array::New(env, std::size(entry.args));
  for (uint32_t i = 0; i < std::size(entry.args); ++i) args.Set(i, Napi::BigInt::New(env, entry.args[i]));
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", Napi::BigInt::New(env, entry.id));
  object.Set("op", Napi::Number::New(env, entry.op));
  object.Set("flags", Napi::Number::New(env, entry.flags));
  object.Set("code", Napi::Number::New(env, entry.code));
  object.Set("count", Napi::Number::New(env, entry.count));
  object.Set("args", args);
  object.Set("payload", CopyToJs(env, message.payload));
  return object;
}

void ControlState::DeliverMessages(Napi::Env env, const std::vector<Message>& messages) {
  if (messages.empty()) return;
  Napi::Array array = Napi::Array::New(env, messages.size());
  for (uint32_t i = 0; i < messages.size(); ++i) array.Set(i, MakePortMessage(env, messages[i]));
  onMessages_.Call({array});
}

void ControlState::Deliver(Napi::Env env, std::vector<ControlEvent>&& events) {
  const auto keep = shared_from_this();
  if (!early_.empty() || !client_) {
    std::move(events.begin(), events.end(), std::back_inserter(early_));
    if (!client_) return;
    events = std::exchange(early_, {});
  }
  for (ControlEvent& event : events) {
    if (closed_) return;
    if (const auto* const messages = std::get_if<std::vector<Message>>(&event)) {
      DeliverMessages(env, *messages);
    } else {
      onClosed_.Call({Napi::String::New(env, std::get<Closed>(event).reason)});
    }
  }
}

Napi::Value SendFromJs(const Napi::CallbackInfo& info, ControlState& state) {
  const Napi::Object message = AsObject(info[0], "message");
  layout::Entry entry{};
  entry.id = AsUint64(message.Get("id"), "id");
  entry.op = static_cast<uint16_t>(AsUint32(message.Get("op"), "op"));
  entry.flags = static_cast<uint16_t>(AsUint32(message.Get("flags"), "flags"));
  entry.code = AsUint32(message.Get("code"), "code");
  entry.count = AsUint32(message.Get("count"), "count");
  const Napi::Object args = AsObject(message.Get("args"), "args");
  for (uint32_t i = 0; i < std::size(entry.args); ++i) entry.args[i] = AsUint64(args.Get(i), "each of args");
  const bool sent = state.Send(info.Env(), entry, AsBytes(message.Get("payload"), "payload"));
  return Napi::Boolean::New(info.Env(), sent);
}

Napi::Object MakePortObject(Napi::Env env, const std::shared_ptr<ControlState>& state) {
  // A duplicate, so that the store outlives this session: it is what a restarted sidecar adopts.
  const int storeFd = ::fcntl(state->client()->storeFd(), F_DUPFD_CLOEXEC, 3);
  if (storeFd < 0) throw MakeError(env, StatusFromErrno(errno, "duplicating the store's descriptor"));
  Napi::Object object = Napi::Object::New(env);
  object.Set("deviceCount", Napi::Number::New(env, state->client()->deviceCount()));
  object.Set("backend", Napi::String::New(env, state->client()->backend()));
  object.Set("transports", Napi::String::New(env, state->client()->transports()));
  object.Set("storeFd", Napi::Number::New(env, storeFd));
  object.Set("send",
             Napi::Function::New(env, [state](const Napi::CallbackInfo& info) { return SendFromJs(info, *state); }));
  object.Set("close", Napi::Function::New(env, [state](const Napi::CallbackInfo&) {
               const auto keep = state;
               keep->Close();
             }));
  return object;
}

}  // namespace

Napi::Value ConnectControl(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object given = AsObject(info[0], "options");
  ControlClientOptions options;
  options.workerAddress = AsString(given.Get("workerAddress"), "workerAddress");
  if (!given.Get("token").IsUndefined()) options.token = AsString(given.Get("token"), "token");
  options.connectTimeoutMs = AsUint32(given.Get("connectTimeoutMs"), "connectTimeoutMs");
  const auto state = ControlState::Make(env, AsFunction(given.Get("onMessages"), "onMessages"),
                                        AsFunction(given.Get("onClosed"), "onClosed"));
  const auto connect = [state, options](int cancelFd) {
    ControlClientOptions interruptible = options;
    interruptible.cancelFd = cancelFd;
    return ControlClient::Connect(interruptible, state->MakeCallbacks(), state->connected());
  };
  const auto finish = [state](Napi::Env current) -> Napi::Value {
    state->Adopted();
    return MakePortObject(current, state);
  };
  return RunJob(env, "hbmesh connect", {connect, finish});
}

}  // namespace hbmesh::addon
