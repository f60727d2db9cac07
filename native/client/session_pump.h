// SessionPump: the thread that receives what the sidecar sends over a channel, and notices when the sidecar is gone.
//
// It spins for a short time after each message, then sleeps until the channel's eventfd, the session socket's end of
// file or Nudge() wakes it. The handler is called on this thread only. The pump borrows channel and socket: both
// outlive Stop().
#pragma once

#include <atomic>
#include <cstdint>
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
  // In the child after a fork, where the thread does not exist: forgets it instead of waiting for it.
  void Abandon();

 private:
  void Run();
  // Receives until the ring is empty. Returns false when the session is over.
  bool Drain(bool* receivedAny);
  // Sleeps; sets *broken at the socket's end of file.
  void Sleep(int timeoutMs, bool* broken);

  Channel* channel_;
  int socket_;
  uint32_t spinMicros_;
  PumpHandler* handler_;
  Fd nudge_;
  std::atomic<bool> stop_{false};  // relaxed: Nudge's eventfd write orders it
  std::atomic<bool> nudged_{false};
  std::thread thread_;
};

}  // namespace hbmesh
