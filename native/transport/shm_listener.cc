#include "transport/shm_listener.h"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "transport/shm_connect.h"

namespace hbmesh {
namespace {

constexpr size_t kPendingMax = 64;  // connections in handshake; a new one pushes out the oldest
constexpr int kFullPauseMs = 100;   // when descriptors are used up; the backlog keeps callers waiting

}  // namespace

ShmListener::ShmListener(std::shared_ptr<ShmShared> shared, std::function<void(const std::shared_ptr<ShmLink>&)> made)
    : shared_(std::move(shared)), made_(std::move(made)), accepted_(std::make_shared<std::atomic<uint32_t>>(0)) {}

ShmListener::~ShmListener() {
  if (!thread_.joinable()) return;
  SignalEvent(stop_.get());
  thread_.join();
}

Status ShmListener::Start(const std::string& name) {
  if (Status status = ListenUnix(name, &listener_); !status.ok()) return status;
  if (Status status = CreateEventFd(&stop_); !status.ok()) return status;
  thread_ = std::thread([this] { Run(); });
  return Status::Ok();
}

void ShmListener::Run() {
  std::vector<pollfd> polled;
  bool full = false;  // descriptors are used up: nobody is accepted for a while
  for (;;) {
    const Clock::time_point now = Clock::now();
    pending_.remove_if([now](const Pending& pending) { return pending.deadline <= now; });
    polled.assign({{stop_.get(), POLLIN, 0}, {listener_.get(), static_cast<short>(full ? 0 : POLLIN), 0}});
    int timeoutMs = full ? kFullPauseMs : -1;
    for (const Pending& pending : pending_) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(pending.deadline - now).count();
      timeoutMs = timeoutMs < 0 ? static_cast<int>(left) + 1 : std::min(timeoutMs, static_cast<int>(left) + 1);
      polled.push_back({pending.socket.get(), POLLIN, 0});
    }
    if (::poll(polled.data(), polled.size(), timeoutMs) < 0 && errno != EINTR) return;
    if (polled[0].revents != 0) return;
    size_t index = 2;
    for (auto pending = pending_.begin(); pending != pending_.end(); ++index) {
      const bool stays = polled[index].revents == 0 || StillPending(*pending);
      pending = stays ? std::next(pending) : pending_.erase(pending);
    }
    full = !full && polled[1].revents != 0 && !AcceptAll();
  }
}

bool ShmListener::AcceptAll() {
  for (;;) {
    Pending pending;
    if (const Status status = AcceptUnix(listener_.get(), true, &pending.socket); !status.ok()) {
      return status.code() != StatusCode::kOutOfMemory;
    }
    pending.admitted = CheckShmPeer(pending.socket.get(), &pending.peer);
    pending.deadline = Clock::now() + std::chrono::milliseconds(shared_->options.handshakeTimeoutMs);
    if (pending_.size() >= kPendingMax) pending_.pop_front();
    pending_.push_back(std::move(pending));
  }
}

void ShmListener::Refuse(Pending& pending, const Status& status) {
  SendShmReply(pending.socket.get(), status);
  EndSending(pending.socket.get());
  pending.refused = true;
  std::string leftOut;
  if (!refusals_.Allow(SteadyClock().NowNs(), &leftOut)) return;
  Log().warn("refused {} over shm: {}{}", pending.peer, status.ToString(), leftOut);
}

bool ShmListener::StillPending(Pending& pending) {
  const Status status = ReceiveShmHello(pending.socket.get());
  if (status.code() == StatusCode::kTryAgain) return true;
  // Nothing is answered to a stranger, and whatever one that was refused still says is the end of it.
  if (pending.refused || (!status.ok() && status.code() != StatusCode::kNotSupported)) return false;
  if (!status.ok() || !pending.admitted.ok()) {
    Refuse(pending, status.ok() ? pending.admitted : status);
    return true;
  }
  if (accepted_->load(std::memory_order_relaxed) >= shared_->options.endpointsMax) {
    Refuse(pending, {StatusCode::kTryAgain, "this side has " + std::to_string(shared_->options.endpointsMax) +
                                                " peers, which is its limit; try again later"});
    return true;
  }
  accepted_->fetch_add(1, std::memory_order_relaxed);
  const std::shared_ptr<ShmLink> link(new ShmLink(shared_, pending.peer), [count = accepted_](ShmLink* gone) {
    delete gone;
    count->fetch_sub(1, std::memory_order_relaxed);
  });
  if (!link->Attach(std::move(pending.socket)).ok()) return false;
  made_(link);
  // The peer may only send after this reply, so that the sink knows the endpoint before its first message. The sink may
  // have closed it by then; `link` keeps the descriptor open.
  shared_->sink->OnAccept(std::make_unique<ShmEndpoint>(link));
  SendShmReply(link->socket(), Status::Ok());
  link->Start(nullptr, 0);
  return false;
}

}  // namespace hbmesh
