#include "client/client.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "client/client_impl.h"

namespace hbmesh {

namespace {

// How soon to look again whether the queue has room: the sidecar doesn't tell when it takes an entry out.
constexpr int kRetryMs = 1;
// The longest that Close waits for bytes, on top of its grace.
constexpr uint64_t kCloseBytesMsMax = 600'000;

// Does the reply say of a key that it was cancelled. REQUIRES: the reply was decoded.
bool AnyCancelled(const ObjectReplyView& view) {
  return std::any_of(view.results.begin(), view.results.end(), [](const layout::KeyResult& result) {
    return result.code == static_cast<uint32_t>(StatusCode::kRpcCancelled);
  });
}

}  // namespace

Status Client::Impl::CheckUsable() const {
  if (::getpid() == pid_) return Status::Ok();
  return {StatusCode::kNotSupported,
          "this client was made before the process forked: make a client of its own in the child process"};
}

Status Client::Impl::SendOrKeep(const layout::Entry& entry, std::vector<std::byte> payload) {
  if (waiting_.empty()) {
    Status status = session_.channel->Send(entry, payload);
    if (status.code() != StatusCode::kTryAgain) return status;
  }
  if (waiting_.size() >= options_.waitingMax && !stopping_) {
    return {StatusCode::kTryAgain, "the queue to worker " + options_.workerAddress + " is full and " +
                                       std::to_string(waiting_.size()) +
                                       " requests wait for room: submit again after a completion"};
  }
  waiting_.push_back({entry, std::move(payload)});
  pump_.Nudge();
  return Status::Ok();
}

template <typename BeforeSending>
Status Client::Impl::Submit(const ObjectCall& call, Registration registration, uint64_t* id,
                            const BeforeSending& beforeSending) {
  if (Status status = CheckUsable(); !status.ok()) return status;
  if (Status status = CheckObjectCall(call); !status.ok()) return status;
  ResolvedBlobs blobs;
  if (CarriesBlobs(call.op)) {
    if (call.deviceIndex >= session_.deviceCount) {
      return {StatusCode::kInvalid, "worker " + options_.workerAddress + " has no device " +
                                        std::to_string(call.deviceIndex) + ": its devices are 0 to " +
                                        std::to_string(session_.deviceCount - 1)};
    }
    if (Status status = regions_.Resolve(call, registration, &blobs); !status.ok()) return OfClosing(status);
  }
  layout::Entry entry{};
  entry.op = static_cast<uint16_t>(call.op);
  entry.count = call.keyCount;
  std::copy(std::begin(call.args), std::end(call.args), std::begin(entry.args));
  std::vector<std::byte> payload = EncodeObjectRequest(call, blobs.records);
  const size_t payloadBytes = payload.size();

  beforeSending();
  std::unique_lock lock(mutex_);
  Status status = stopping_ ? Closed() : ended_;
  if (status.ok()) {
    entry.id = nextId_++;
    const uint64_t bytes = std::accumulate(call.sizes.begin(), call.sizes.end(), uint64_t{0});
    outstanding_.emplace(entry.id, Outstanding{call.op, call.keyCount, bytes, blobs.segments,
                                               KeyStages(EndsByKey(call.op) ? call.keyCount : 0)});
    *id = entry.id;
    status = SendOrKeep(entry, std::move(payload));
    if (!status.ok()) outstanding_.erase(entry.id);
  }
  lock.unlock();
  if (!status.ok()) regions_.Unpin(blobs.segments);
  if (status.code() == StatusCode::kOutOfRange) {
    return {StatusCode::kOutOfRange, "the request has " + std::to_string(payloadBytes) +
                                         " bytes, more than the queue to the worker takes: " + status.message() +
                                         "; give fewer keys or blobs a call"};
  }
  return status;
}

void Client::Impl::SendCancel(uint64_t id, uint64_t keyNumber) {
  layout::Entry entry{};
  entry.op = static_cast<uint16_t>(layout::Op::kCancel);
  entry.args[0] = id;
  entry.args[1] = keyNumber;
  // Not sent when even the waiting list is full: the request then ends by itself, as it would have.
  [[maybe_unused]] const Status ignored = SendOrKeep(entry, {});
}

void Client::Impl::CancelKey(uint64_t id, uint32_t keyIndex) {
  if (!CheckUsable().ok()) return;
  {
    const std::lock_guard lock(mutex_);
    const auto found = outstanding_.find(id);
    if (found == outstanding_.end() || !ended_.ok() || !found->second.stages.IsOpen(keyIndex)) return;
    if (found->second.stages.open() > 1) {
      SendCancel(id, uint64_t{keyIndex} + 1);  // behind the request, should that still wait
      return;
    }
  }
  Cancel(id);
}

void Client::Impl::Cancel(uint64_t id) {
  if (!CheckUsable().ok()) return;
  Outstanding outstanding;
  {
    const std::lock_guard lock(mutex_);
    const auto found = outstanding_.find(id);
    if (found == outstanding_.end() || !ended_.ok()) return;
    const auto kept =
        std::find_if(waiting_.begin(), waiting_.end(), [id](const Waiting& waiting) { return waiting.entry.id == id; });
    if (kept == waiting_.end()) {
      SendCancel(id, 0);
      return;
    }
    waiting_.erase(kept);
    outstanding = std::move(found->second);
    outstanding_.erase(found);
  }
  Finish(std::move(outstanding),
         {id, false, StatusCode::kRpcCancelled, "the request was cancelled before it was sent", {}});
}

Status Client::Impl::RegisterDeviceMemory(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes) {
  if (Status status = CheckUsable(); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Closed();
    if (!ended_.ok()) return ended_;
  }
  return OfClosing(regions_.Preregister(pointers, sizes));
}

void Client::Impl::Finish(Outstanding outstanding, Completion completion) {
  regions_.Unpin(outstanding.segments);
  if (callbacks_.onComplete) callbacks_.onComplete(std::move(completion));
}

void Client::Impl::EndAll(const Status& reason, bool unconfirmed) {
  std::unordered_map<uint64_t, Outstanding> ending;
  {
    const std::lock_guard lock(mutex_);
    if (ended_.ok()) ended_ = reason;
    ending.swap(outstanding_);
    waiting_.clear();
    settled_.notify_all();
  }
  for (auto& [id, outstanding] : ending) {
    const Status end = unconfirmed ? Unconfirmed(outstanding) : reason;
    Finish(std::move(outstanding), {id, false, end.code(), end.message(), {}});
  }
}

void Client::Impl::BreakSession(const Status& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (violation_.ok()) violation_ = reason;
  }
  ::shutdown(session_.socket.get(), SHUT_RDWR);  // the pump sees the end of file and calls OnBroken
}

bool Client::Impl::Answers(const layout::Entry& entry, const Outstanding& outstanding) const {
  const bool more = (entry.flags & layout::kFlagMore) != 0;
  return (entry.flags & layout::kFlagReply) != 0 && entry.op == static_cast<uint16_t>(outstanding.op) &&
         (!more || EndsByKey(outstanding.op));
}

bool Client::Impl::TakeEvents(Message* message, Status* broken) {
  std::vector<std::byte> payload;
  {
    const std::lock_guard lock(mutex_);
    const auto found = outstanding_.find(message->entry.id);
    if (found == outstanding_.end() || !Answers(message->entry, found->second)) return false;
    DeviceReplyView view;
    *broken = DecodeDeviceReply(found->second.keyCount, message->payload, &view);
    if (broken->ok()) *broken = found->second.stages.Take(view.events);
    payload = std::move(message->payload);
    if (broken->ok() && stopping_) {
      std::vector<std::byte> rest = WithoutEnded(payload, view, StatusCode::kRpcCancelled);
      found->second.cutShort = found->second.cutShort || rest.size() != payload.size();
      payload = std::move(rest);
    }
  }
  // One thread at a time takes replies, and a request that was sent stays until its last one: the order is kept.
  if (broken->ok() && callbacks_.onEvents) callbacks_.onEvents({message->entry.id, std::move(payload)});
  return true;
}

void Client::Impl::TellCutShort(Outstanding* outstanding, Completion* completion) const {
  bool cutShort = outstanding->cutShort || completion->code == StatusCode::kRpcCancelled;
  if (EndsByKey(outstanding->op)) {
    DeviceReplyView view;
    if (!DecodeDeviceReply(outstanding->keyCount, completion->payload, &view).ok()) return;
    std::vector<std::byte> rest = WithoutEnded(completion->payload, view, StatusCode::kRpcCancelled);
    cutShort = cutShort || rest.size() != completion->payload.size();
    const bool tells = DecodeDeviceReply(outstanding->keyCount, rest, &view).ok() && !view.events.empty();
    if (cutShort && tells && callbacks_.onEvents) callbacks_.onEvents({completion->id, std::move(rest)});
  } else {
    ObjectReplyView view;
    const auto code = static_cast<uint32_t>(completion->code);
    cutShort =
        cutShort || (DecodeObjectReply(outstanding->op, code, outstanding->keyCount, completion->payload, &view).ok() &&
                     AnyCancelled(view));
  }
  if (cutShort) *completion = {completion->id, false, Closed().code(), Closed().message(), {}};
}

Status Client::Impl::TakeReply(Outstanding* outstanding, Message* message, Completion* completion) const {
  const layout::Entry& entry = message->entry;
  Status decoded;
  if (EndsByKey(outstanding->op)) {
    DeviceReplyView view;
    decoded = DecodeDeviceReply(outstanding->keyCount, message->payload, &view);
    if (decoded.ok()) decoded = outstanding->stages.Take(view.events);
    const uint32_t open = outstanding->stages.open();
    if (decoded.ok() && entry.code == static_cast<uint32_t>(StatusCode::kOk) && open > 0) {
      decoded = {StatusCode::kDataInconsistency, "the sidecar ended a request with OK while " + std::to_string(open) +
                                                     " of its keys were open: worker and client must be of the same "
                                                     "release"};
    }
  } else {
    ObjectReplyView view;
    decoded = DecodeObjectReply(outstanding->op, entry.code, outstanding->keyCount, message->payload, &view);
  }
  if (decoded.ok()) {
    *completion = {entry.id, true, static_cast<StatusCode>(entry.code), {}, std::move(message->payload)};
  } else {
    *completion = {entry.id, false, decoded.code(), "worker " + options_.workerAddress + ": " + decoded.message(), {}};
  }
  return decoded;
}

void Client::Impl::OnMessage(Message* message) {
  const layout::Entry& entry = message->entry;
  Status broken;
  bool known = false;
  if ((entry.flags & layout::kFlagMore) != 0) {
    known = TakeEvents(message, &broken);
  } else {
    Outstanding outstanding;
    bool stopping = false;
    {
      const std::lock_guard lock(mutex_);
      const auto found = outstanding_.find(entry.id);
      known = found != outstanding_.end() && Answers(entry, found->second);
      if (known) {
        outstanding = std::move(found->second);
        outstanding_.erase(found);
      }
      stopping = stopping_;
      if (stopping && outstanding_.empty()) settled_.notify_all();  // Close then waits for this thread's end
    }
    if (known) {
      Completion completion;
      broken = TakeReply(&outstanding, message, &completion);
      if (stopping && broken.ok()) TellCutShort(&outstanding, &completion);
      Finish(std::move(outstanding), std::move(completion));
    }
  }
  if (!known) {
    broken = {StatusCode::kDataInconsistency, "its sidecar answered a request that is not outstanding (id " +
                                                  std::to_string(entry.id) +
                                                  "): worker and client must be of the same release"};
  }
  if (!broken.ok()) BreakSession(broken);
}

void Client::Impl::FlushWaiting() {
  while (!waiting_.empty()) {
    const Status status = session_.channel->Send(waiting_.front().entry, waiting_.front().payload);
    if (status.code() == StatusCode::kTryAgain) return;
    // Anything but kOk means that the sidecar broke the rules; receiving will find that too and end the session.
    waiting_.pop_front();
  }
}

int Client::Impl::OnTurn() {
  const std::lock_guard lock(mutex_);
  FlushWaiting();
  return waiting_.empty() ? -1 : kRetryMs;
}

void Client::Impl::OnBroken(const Status& reason) {
  Status cause = reason;
  {
    const std::lock_guard lock(mutex_);
    if (!violation_.ok()) cause = violation_;
  }
  const Status ended(cause.code(), "lost the session with worker " + options_.workerAddress + ": " + cause.message() +
                                       ". Calls under way took effect for whole keys or not at all: connect again "
                                       "once the worker is back, and repeat them");
  EndAll(ended, false);
  if (callbacks_.onClosed) callbacks_.onClosed(ended);
}

void Client::Impl::Close() {
  if (!CheckUsable().ok()) {
    pump_.Abandon();  // the parent's thread and session are not ours to end
    return;
  }
  const std::lock_guard closing(closing_);
  EndOutstanding();
  pump_.Stop();
  ::shutdown(session_.socket.get(), SHUT_RDWR);  // a registration under way ends too
  EndAll(Closed(), true);
}

Status Client::Impl::Closed() const {
  return {StatusCode::kShuttingDown, "the client of worker " + options_.workerAddress + " was closed"};
}

Status Client::Impl::OfClosing(const Status& status) {
  if (status.code() != StatusCode::kClientWorkerDisconnect) return status;
  const std::lock_guard lock(mutex_);
  return stopping_ ? Closed() : status;
}

Status Client::Impl::Unconfirmed(const Outstanding& outstanding) const {
  std::string message = Closed().message() + ", and its sidecar did not confirm within " +
                        std::to_string(closeWaitedMs_) + " ms that it ended this request";
  if (CarriesBlobs(outstanding.op)) {
    message +=
        ": the request's device memory may still be read or written until the sidecar ends it; don't reuse the "
        "memory before, or end the worker";
  }
  return {StatusCode::kShuttingDown, std::move(message)};
}

void Client::Impl::EndOutstanding() {
  std::vector<std::pair<uint64_t, Outstanding>> unsent;
  {
    const std::lock_guard lock(mutex_);
    if (!ended_.ok() || stopping_) return;
    stopping_ = true;
    std::deque<Waiting> cancels;  // of requests that were sent
    for (Waiting& waiting : waiting_) {
      const auto found = outstanding_.find(waiting.entry.id);
      if (waiting.entry.op == static_cast<uint16_t>(layout::Op::kCancel)) {
        cancels.push_back(std::move(waiting));
      } else if (found != outstanding_.end()) {
        unsent.emplace_back(waiting.entry.id, std::move(found->second));
        outstanding_.erase(found);
      }
    }
    waiting_ = std::move(cancels);
    for (const auto& [id, outstanding] : outstanding_) SendCancel(id, 0);
  }
  for (auto& [id, outstanding] : unsent) {
    Finish(std::move(outstanding), {id, false, Closed().code(), Closed().message(), {}});
  }
  std::unique_lock lock(mutex_);
  AwaitSettled(lock);
}

void Client::Impl::AwaitSettled(std::unique_lock<std::mutex>& lock) {
  const auto wait = [&](uint64_t ms) {
    closeWaitedMs_ += ms;
    return settled_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return outstanding_.empty(); });
  };
  if (wait(options_.closeGraceMs) || !waiting_.empty() || !session_.channel->AllTaken()) return;
  // It lives: bytes that move at the moment have to come to their end.
  uint64_t bytes = 0;
  for (const auto& [id, outstanding] : outstanding_) bytes += outstanding.bytes;
  wait(std::min(bytes * 1000 / std::max<uint64_t>(options_.floorBytesPerSecond, 1), kCloseBytesMsMax));
}

bool Client::Reception::Poll() {
  if (client_ == nullptr) return false;
  const auto now =
      static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
  if (untilNs_ == 0) untilNs_ = now + client_->impl_->spinMicros() * 1000ULL;
  return client_->impl_->pump().Poll() && now < untilNs_;
}

void Client::Reception::GiveBack() {
  if (client_ != nullptr) std::exchange(client_, nullptr)->impl_->pump().GiveBack();
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

Status Client::Connect(const ClientOptions& options, DeviceExporter* exporter, ClientCallbacks callbacks,
                       std::unique_ptr<Client>* client) {
  Session session;
  const SessionOptions sessionOptions{options.workerAddress,    options.token,    session::Kind::kClient,
                                      options.connectTimeoutMs, options.cancelFd, LookUpName};
  if (Status status = OpenSession(sessionOptions, &session); !status.ok()) return status;
  ClientOptions found = options;
  found.workerAddress = session.workerAddress;
  if (exporter != nullptr && session.backend != exporter->backend()) {
    return {StatusCode::kNotSupported, "worker " + found.workerAddress + " has devices of backend " + session.backend +
                                           ", this process has memory of backend " + exporter->backend() +
                                           ": use the same on both sides"};
  }
  auto impl = std::make_unique<Impl>(found, exporter, std::move(callbacks), std::move(session));
  if (Status status = impl->Start(); !status.ok()) return status;
  *client = std::unique_ptr<Client>(new Client(std::move(impl)));
  return Status::Ok();
}

Status Client::Submit(const ObjectCall& call, Registration registration, uint64_t* id, Reception* reception) {
  const auto beforeSending = [&] {
    const bool mayTake = reception != nullptr && reception->client_ == nullptr;
    if (mayTake && impl_->pump().TakeOver()) reception->client_ = this;
  };
  return impl_->Submit(call, registration, id, beforeSending);
}
void Client::Cancel(uint64_t id) { impl_->Cancel(id); }
void Client::CancelKey(uint64_t id, uint32_t keyIndex) { impl_->CancelKey(id, keyIndex); }
Status Client::RegisterDeviceMemory(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes) {
  return impl_->RegisterDeviceMemory(pointers, sizes);
}
void Client::Close() { impl_->Close(); }
uint32_t Client::deviceCount() const { return impl_->session().deviceCount; }
const std::string& Client::backend() const { return impl_->session().backend; }
const std::string& Client::workerAddress() const { return impl_->session().workerAddress; }
uint64_t Client::sessionId() const { return impl_->session().id; }

}  // namespace hbmesh
