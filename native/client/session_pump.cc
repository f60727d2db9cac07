#include "client/session_pump.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <system_error>

namespace hbmesh {

namespace {

using Clock = std::chrono::steady_clock;

// Messages that are handled before OnTurn is called, so that a flood delays nobody for long.
constexpr int kMessagesPerTurn = 256;

void ClearEvent(int fd) {
  uint64_t count = 0;
  // EAGAIN: nobody wrote. Anything else can't be repaired here, and does no harm: the loop looks again.
  [[maybe_unused]] const ssize_t ignored = ::read(fd, &count, sizeof(count));
}

}  // namespace

SessionPump::SessionPump(Channel* channel, int socket, uint32_t spinMicros, PumpHandler* handler)
    : channel_(channel), socket_(socket), spinMicros_(spinMicros), handler_(handler) {}

SessionPump::~SessionPump() { Stop(); }

Status SessionPump::Start() {
  nudge_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!nudge_.valid()) return StatusFromErrno(errno, "making the wake descriptor of a session");
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return StatusFromErrno(error.code().value(), "starting the receiver thread of a session");
  }
  return Status::Ok();
}

void SessionPump::Nudge() {
  nudged_.store(true, std::memory_order_release);  // publishes what the caller wants to be seen by OnTurn
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(nudge_.get(), &one, sizeof(one));
}

void SessionPump::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  Nudge();
  thread_.join();
}

void SessionPump::Abandon() {
  if (thread_.joinable()) thread_.detach();
}

bool SessionPump::Drain(bool* receivedAny) {
  Message message;
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    bool received = false;
    if (Status status = channel_->Receive(&message, &received); !status.ok()) {
      handler_->OnBroken(status);
      return false;
    }
    if (!received) return true;
    *receivedAny = true;
    handler_->OnMessage(&message);
  }
  return true;
}

bool SessionPump::TakeOver() {
  if (!receiving_.try_lock()) return false;
  if (over_) {
    receiving_.unlock();
    return false;
  }
  channel_->EndSleep();
  return true;
}

bool SessionPump::Poll() {
  if (over_) return false;
  bool receivedAny = false;
  over_ = !Drain(&receivedAny);
  if (!receivedAny) ::sched_yield();
  // The pump's thread has what is left to do: to end, or to wake up in time for the next turn.
  if (over_ || (receivedAny && handler_->OnTurn() >= 0)) Nudge();
  return !over_;
}

void SessionPump::GiveBack() {
  while (asleep_ && !over_ && !channel_->PrepareSleep()) Poll();
  receiving_.unlock();
}

void SessionPump::Sleep(int timeoutMs, bool* broken, std::unique_lock<std::mutex>& receiving) {
  if (channel_->PrepareSleep()) {
    asleep_ = true;
    receiving.unlock();
    std::array<pollfd, 3> entries = {pollfd{channel_->peerWakeFd(), POLLIN, 0}, pollfd{nudge_.get(), POLLIN, 0},
                                     pollfd{socket_, POLLRDHUP, 0}};
    const int ready = ::poll(entries.data(), entries.size(), timeoutMs);
    receiving.lock();
    asleep_ = false;
    if (ready > 0) {
      if (entries[0].revents != 0) ClearEvent(entries[0].fd);
      if (entries[1].revents != 0) ClearEvent(entries[1].fd);
      *broken = entries[2].revents != 0;
    }
  }
  channel_->EndSleep();
}

void SessionPump::Run() {
  std::unique_lock receiving(receiving_);
  Receive(receiving);
  over_ = true;
}

void SessionPump::Receive(std::unique_lock<std::mutex>& receiving) {
  Clock::time_point spinUntil = Clock::now();
  int turnInMs = -1;
  bool socketEnded = false;
  while (!over_ && !stop_.load(std::memory_order_relaxed)) {
    bool receivedAny = false;
    if (!Drain(&receivedAny)) return;
    const bool nudged = nudged_.exchange(false, std::memory_order_acquire);
    if (receivedAny || nudged || turnInMs >= 0) turnInMs = handler_->OnTurn();
    if (receivedAny) {
      if (spinMicros_ > 0) spinUntil = Clock::now() + std::chrono::microseconds(spinMicros_);
      continue;
    }
    if (socketEnded) {  // and what was still in the ring has been received
      handler_->OnBroken({StatusCode::kClientWorkerDisconnect, "its sidecar process ended"});
      return;
    }
    if (Clock::now() < spinUntil) {
      ::sched_yield();  // not a pause: on a machine whose cores are taken the sidecar may wait for this one
      continue;
    }
    Sleep(turnInMs, &socketEnded, receiving);
  }
}

}  // namespace hbmesh
