#include "transport/tcp_endpoint.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/event_fd.h"
#include "transport/endpoint_id.h"
#include "transport/request_check.h"
#include "transport/tcp_connect.h"
#include "transport/tcp_wire.h"

namespace hbmesh {

TcpLink::TcpLink(std::string peer, uint32_t lanes, const TransportOptions& options, std::shared_ptr<MemoryTable> memory,
                 TransportSink* sink)
    : id_(NextEndpointId()),
      peer_(std::move(peer)),
      laneCount_(lanes),
      options_(options),
      memory_(std::move(memory)),
      sink_(sink) {}

bool TcpLink::Attach(std::vector<Fd> sockets) {
  const std::lock_guard lock(mutex_);
  if (closing_) return false;
  for (Fd& socket : sockets) {
    const auto kind = lanes_.size() < laneCount_ ? TcpReceiver::Kind::kLane : TcpReceiver::Kind::kRequests;
    lanes_.push_back(std::make_unique<TcpLane>(std::move(socket), kind, options_, memory_.get(), this));
  }
  attached_.store(true, std::memory_order_release);
  return true;
}

void TcpLink::Start() {
  uint32_t missing = 0;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    threadsStarted_ = true;
    threads_.store(2 * tcp::ConnectionsOf(laneCount_), std::memory_order_release);
    for (const auto& lane : lanes_) {
      missing += missing > 0 ? 2 : 2 - lane->Start([this](const Status& reason) { OnThreadEnd(reason); });
    }
    if (missing > 0) {
      BreakLocked({StatusCode::kTryAgain, "this process may have no more threads; raise its limit (ulimit -u, pids)"});
    }
  }
  // Those that there are not have ended.
  if (missing > 0 && threads_.fetch_sub(missing, std::memory_order_acq_rel) == missing) Finish();
}

void TcpLink::Break(const Status& reason) {
  const std::lock_guard lock(mutex_);
  BreakLocked(reason);
}

// REQUIRES: mutex_ is held.
void TcpLink::BreakLocked(const Status& reason) {
  if (!broken_ && !reason.ok()) {
    broken_ = true;
    reason_ = reason;
  }
  for (const auto& lane : lanes_) lane->Shutdown();
}

void TcpLink::Close() {
  bool started = false;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    started = threadsStarted_;
    for (const auto& lane : lanes_) lane->Shutdown();
  }
  for (const auto& lane : lanes_) lane->Join();
  if (!started) Finish();
}

Status TcpLink::Check() {
  if (!attached_.load(std::memory_order_acquire)) {
    return {StatusCode::kNotReady,
            "the endpoint to " + peer_ + " is not connected; wait for the completion of Connect"};
  }
  const std::lock_guard lock(mutex_);
  if (broken_) return {StatusCode::kRpcPeerDead, "the connection to " + peer_ + " is broken: " + reason_.message()};
  return Status::Ok();
}

TcpSender* TcpLink::SenderOf(uint32_t lane) { return lane < laneCount_ ? lanes_[lane]->sender() : nullptr; }

void TcpLink::OnLaneComplete(uint64_t token, Status status) { sink_->OnComplete(token, std::move(status)); }

void TcpLink::OnLaneMessage(std::span<const std::byte> message) { sink_->OnMessage(id_, message); }

void TcpLink::OnThreadEnd(const Status& reason) {
  {
    const std::lock_guard lock(mutex_);
    BreakLocked(reason);
  }
  if (threads_.fetch_sub(1, std::memory_order_acq_rel) == 1) Finish();
}

// No thread of this link receives or sends any more.
void TcpLink::Finish() {
  Status reason;
  bool closing = false;
  {
    const std::lock_guard lock(mutex_);
    closing = closing_;
    if (!broken_) reason_ = {StatusCode::kRpcPeerDead, "the connection ended"};
    broken_ = true;
    reason = {StatusCode::kRpcPeerDead, "peer " + peer_ + ": " + reason_.message()};
    if (closing)
      reason = {StatusCode::kRpcCancelled, "the endpoint to " + peer_ + " was closed before the request ended"};
  }
  for (const auto& lane : lanes_) {
    for (const uint64_t token : lane->TakeOutstanding()) sink_->OnComplete(token, reason);
  }
  if (!closing) sink_->OnDisconnect(id_, reason);
}

void TcpLinks::Remember(const std::shared_ptr<TcpLink>& link) {
  const std::lock_guard lock(mutex_);
  std::erase_if(links_, [](const std::weak_ptr<TcpLink>& known) { return known.expired(); });
  links_.push_back(link);
}

void TcpLinks::Break(std::span<const uint64_t> ids, const Status& reason) {
  std::vector<std::shared_ptr<TcpLink>> found;  // let go of without the lock
  {
    const std::lock_guard lock(mutex_);
    for (const std::weak_ptr<TcpLink>& known : links_) {
      std::shared_ptr<TcpLink> link = known.lock();
      if (link != nullptr && std::ranges::find(ids, link->id()) != ids.end()) found.push_back(std::move(link));
    }
  }
  for (const auto& link : found) link->Break(reason);
}

TcpEndpoint::~TcpEndpoint() {
  if (cancel_.valid()) SignalEvent(cancel_.get());
  if (connecting_.joinable()) connecting_.join();
  link_->Close();
}

Status TcpEndpoint::StartConnect(const SocketAddress& address, const TransportOptions& options, TransportSink* sink,
                                 uint64_t token) {
  if (Status status = CreateEventFd(&cancel_); !status.ok()) return status;
  const auto connect = [link = link_, address, options, sink, token, cancel = cancel_.get()] {
    std::vector<Fd> sockets;
    const Status status = ConnectLanes(address, link->laneCount(), options, cancel, &sockets);
    if (status.ok())
      (void)link->Attach(std::move(sockets));  // only this endpoint's destructor closes, after this thread
    sink->OnComplete(token, status);
    if (status.ok()) link->Start();
  };
  try {
    connecting_ = std::thread(connect);
  } catch (const std::system_error& error) {
    return {StatusCode::kTryAgain, std::string("no thread to connect to ") + link_->peer() + ": " + error.what()};
  }
  return Status::Ok();
}

Status TcpEndpoint::Read(const RemoteRange& source, std::span<const LocalPiece> target, uint32_t lane, uint64_t token) {
  if (Status status = CheckRequest(source, target); !status.ok()) return status;
  if (Status status = link_->Check(); !status.ok()) return status;
  tcp::FrameHeader request;
  if (Status status = link_->lane(lane).ExpectRead(source, target, token, &request); !status.ok()) return status;
  request.lane = static_cast<uint16_t>(lane % lanes());
  link_->requests().SendRequests(std::span(&request, 1));
  return Status::Ok();
}

size_t TcpEndpoint::ReadEach(std::span<const ReadRequest> requests, Status* status) {
  *status = link_->Check();
  starting_.clear();
  for (size_t at = 0; status->ok() && at < requests.size(); ++at) {
    const ReadRequest& request = requests[at];
    tcp::FrameHeader frame;
    *status = CheckRequest(request.source, request.target);
    if (status->ok()) {
      *status = link_->lane(request.lane).ExpectRead(request.source, request.target, request.token, &frame);
    }
    if (!status->ok()) break;
    frame.lane = static_cast<uint16_t>(request.lane % lanes());
    starting_.push_back(frame);
  }
  if (!starting_.empty()) link_->requests().SendRequests(starting_);
  return starting_.size();
}

Status TcpEndpoint::Write(std::span<const LocalPiece> source, const RemoteRange& target, uint32_t lane,
                          uint64_t token) {
  if (Status status = CheckRequest(target, source); !status.ok()) return status;
  if (Status status = link_->Check(); !status.ok()) return status;
  return link_->lane(lane).Write(source, target, token);
}

Status TcpEndpoint::Send(std::span<const std::byte> message) {
  if (message.size() > tcp::kMessageBytesMax) {
    return {StatusCode::kOutOfRange, "a message of " + std::to_string(message.size()) + " bytes; the limit is " +
                                         std::to_string(tcp::kMessageBytesMax)};
  }
  if (Status status = link_->Check(); !status.ok()) return status;
  return link_->requests().SendMessage(message);
}

}  // namespace hbmesh
