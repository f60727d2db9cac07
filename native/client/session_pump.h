// SessionPump: the thread that receives what the sidecar sends over a channel, and notices when the sidecar is gone.
//
// It spins for a short time after each message, then sleeps until the channel's eventfd, the session socket's end of
// file or Nudge() wakes it. While it sleeps, a thread that waits for an answer may receive in its place (TakeOver):
// then the answer wakes nobody. The handler is called by one thread at a time. The pump borrows channel and socket:
// both outlive Stop().
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

#include "base/fd.h"
#include "base/status.h"
#include "queue/channel.h"

namespace hbmesh {

class PumpHandler {
 public:
  virtual ~PumpHandler() = default;
  // One message, in order. The payload may be moved out.
  virtual void OnMessage(Message* message) = 0;
  // After a run of messages and after each Nudge. Returns in how many milliseconds to call again at the latest, -1:
  // only when something happens.
  virtual int OnTurn() = 0;
  // Once, as the last call, when the session ended from the other side: kClientWorkerDisconnect at the socket's end of
  // file, kDataInconsistency when the sidecar broke the channel's rules. Not called after Stop().
  virtual void OnBroken(const Status& reason) = 0;
};

class SessionPump {
 public:
  SessionPump(Channel* channel, int socket, uint32_t spinMicros, PumpHandler* handler);
  ~SessionPump();
  SessionPump(const SessionPump&) = delete;
  SessionPump& operator=(const SessionPump&) = delete;

  [[nodiscard]] Status Start();
  // Makes the thread call OnTurn soon. Any thread.
  void Nudge();
  // Ends the thread and waits for it. Idempotent; one thread at a time, never the pump's own.
  void Stop();
  // Receives on the calling thread until GiveBack. False: another thread receives, or the session is over. Never waits.
  [[nodiscard]] bool TakeOver();
  // Receives what is there. False: the session is over. REQUIRES of both: TakeOver was true, on this thread.
  bool Poll();
  void GiveBack();
  // In the child after a fork, where the thread does not exist: forgets it instead of waiting for it.
  void Abandon();

 private:
  void Run();
  // Until Stop, or until the session is over.
  void Receive(std::unique_lock<std::mutex>& receiving);
  // Receives until the ring is empty. Returns false when the session is over.
  bool Drain(bool* receivedAny);
  // Sleeps without `receiving`; sets *broken at the socket's end of file.
  void Sleep(int timeoutMs, bool* broken, std::unique_lock<std::mutex>& receiving);

  Channel* channel_;
  int socket_;
  uint32_t spinMicros_;
  PumpHandler* handler_;
  Fd nudge_;
  std::atomic<bool> stop_{false};  // relaxed: Nudge's eventfd write orders it
  std::atomic<bool> nudged_{false};
  std::mutex receiving_;  // held by the thread that receives; guards what follows
  bool asleep_ = false;   // the pump's thread sleeps, or is on its way up
  bool over_ = false;     // nobody receives any more
  std::thread thread_;
};

}  // namespace hbmesh
