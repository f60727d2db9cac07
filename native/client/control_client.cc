#include "client/control_client.h"

#include <sys/socket.h>

#include <mutex>
#include <utility>

#include "client/session_connect.h"
#include "client/session_pump.h"

namespace hbmesh {

class ControlClient::Impl final : public PumpHandler {
 public:
  Impl(const ControlClientOptions& options, ControlCallbacks callbacks, Session session)
      : workerAddress_(options.workerAddress),
        callbacks_(std::move(callbacks)),
        session_(std::move(session)),
        pump_(session_.channel.get(), session_.socket.get(), options.spinMicros, this) {}

  ~Impl() override { Close(); }

  [[nodiscard]] Status Start() { return pump_.Start(); }
  [[nodiscard]] const Session& session() const { return session_; }

  [[nodiscard]] Status Send(const layout::Entry& entry, std::span<const std::byte> payload) {
    const std::lock_guard lock(mutex_);
    if (!ended_.ok()) return ended_;
    return session_.channel->Send(entry, payload);
  }

  void Close() {
    const std::lock_guard closing(closing_);
    pump_.Stop();
    ::shutdown(session_.socket.get(), SHUT_RDWR);
    End({StatusCode::kShuttingDown, "the session with the sidecar of " + workerAddress_ + " was closed"});
  }

  void OnMessage(Message* message) override { batch_.push_back(std::move(*message)); }

  int OnTurn() override {
    if (!batch_.empty() && callbacks_.onMessages) callbacks_.onMessages(std::exchange(batch_, {}));
    return -1;
  }

  void OnBroken(const Status& reason) override {
    OnTurn();
    const Status ended(reason.code(), "lost the sidecar of worker " + workerAddress_ + ": " + reason.message());
    End(ended);
    if (callbacks_.onClosed) callbacks_.onClosed(ended);
  }

 private:
  void End(const Status& reason) {
    const std::lock_guard lock(mutex_);
    if (ended_.ok()) ended_ = reason;
  }

  const std::string workerAddress_;
  const ControlCallbacks callbacks_;
  Session session_;
  std::vector<Message> batch_;  // receiver thread only
  std::mutex mutex_;            // guards what follows, and sending
  Status ended_;                // kOk while the session lives
  std::mutex closing_;
  SessionPump pump_;  // last: its thread uses everything above
};

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlClient::~ControlClient() = default;

Status ControlClient::Connect(const ControlClientOptions& options, ControlCallbacks callbacks,
                              std::unique_ptr<ControlClient>* client) {
  Session session;
  const SessionOptions sessionOptions{options.workerAddress,    options.token,    session::Kind::kControl,
                                      options.connectTimeoutMs, options.cancelFd, LookUpName};
  if (Status status = OpenSession(sessionOptions, &session); !status.ok()) return status;
  auto impl = std::make_unique<Impl>(options, std::move(callbacks), std::move(session));
  if (Status status = impl->Start(); !status.ok()) return status;
  *client = std::unique_ptr<ControlClient>(new ControlClient(std::move(impl)));
  return Status::Ok();
}

Status ControlClient::Send(const layout::Entry& entry, std::span<const std::byte> payload) {
  return impl_->Send(entry, payload);
}
void ControlClient::Close() { impl_->Close(); }
uint32_t ControlClient::deviceCount() const { return impl_->session().deviceCount; }
const std::string& ControlClient::backend() const { return impl_->session().backend; }
const std::string& ControlClient::transports() const { return impl_->session().transports; }
int ControlClient::storeFd() const { return impl_->session().storeMemory.get(); }

}  // namespace hbmesh
