// SessionServer: the abstract socket of a worker. Accepts processes, checks who they are, makes their channels,
// registers their device memory, notices their death.
//
// Half-open connections (no greeting) are bounded in number, the oldest goes first, and in time; users who are not
// served without a token have a bound of their own, and push nobody else out. Who is refused is told so after its
// greeting was read, and is closed when it has closed, so that the refusal reaches it. A packet that breaks
// session_protocol.h closes the session; a registration that can't be done is answered with its cause.
//
// Thread rule: the loop.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/log_limit.h"
#include "base/status.h"
#include "device/device.h"
#include "sidecar/admission.h"
#include "sidecar/loop.h"
#include "sidecar/options.h"
#include "sidecar/session.h"

namespace hbmesh::sidecar {

class SessionListener {
 public:
  virtual void OnSessionOpened(Session& session) = 0;
  // The session is destroyed afterwards.
  virtual void OnSessionClosed(Session& session) = 0;

 protected:
  ~SessionListener() = default;
};

// What Welcome says of this sidecar.
struct WelcomeFacts {
  std::string backend;
  std::string transports;
  int storeFd = -1;  // given to the control process
};

class SessionServer final : private FdHandler {
 public:
  SessionServer(const SidecarOptions& options, Loop& loop, Timers& timers, Clock& clock,
                std::vector<std::unique_ptr<Device>>& devices, SessionListener& listener);
  ~SessionServer();

  // Fails with the remedy when another process serves this worker address.
  [[nodiscard]] Status Listen(WelcomeFacts facts);

  [[nodiscard]] Session* Find(uint64_t id);
  // All open sessions. The list may be walked while sessions break; they are closed by Sweep.
  [[nodiscard]] const std::vector<Session*>& sessions() const { return order_; }
  [[nodiscard]] uint32_t clientCount() const;
  // Closes the sessions that broke. True if there were any.
  bool Sweep();

 private:
  struct Connection;

  void OnReady(uint32_t events) override;  // the listening socket
  // Nobody is accepted for a while: descriptors are used up.
  void Pause();
  void Accept(Fd socket);
  // Makes room for one more that has not greeted.
  void BoundGreetings(bool isKnown);
  // Its greeting, or the end of one that was refused, is waited for; not for long.
  void AwaitGreeting(Connection& connection);
  // Tells the peer why there will be no session, and the log. The connection stays until the peer has closed it.
  void Refuse(Connection& connection, const Status& status);
  void OnPacket(Connection& connection, uint32_t events);
  [[nodiscard]] bool HandlePacket(Connection& connection, std::span<const std::byte> packet,
                                  const std::vector<Fd>& fds);
  [[nodiscard]] bool Greet(Connection& connection, std::span<const std::byte> packet);
  [[nodiscard]] Status CheckGreeting(const Connection& connection, const session::Hello& hello, std::string* keyPrefix);
  [[nodiscard]] Status OpenChannel(Connection& connection, const session::Hello& hello, std::string keyPrefix);
  [[nodiscard]] bool Register(Connection& connection, std::span<const std::byte> packet, const std::vector<Fd>& fds);
  [[nodiscard]] Status ImportRegion(Session& session, const session::RegisterRegion& request, int fd, uint32_t* region);
  [[nodiscard]] bool Unregister(Connection& connection, std::span<const std::byte> packet);
  [[nodiscard]] bool AnswerRegistration(Connection& connection, const Status& status, uint32_t region);
  void Close(uint64_t connection);
  void DropDeadControl();

  const SidecarOptions& options_;
  const Admission admission_;
  Loop& loop_;
  Timers& timers_;
  Clock& clock_;
  std::vector<std::unique_ptr<Device>>& devices_;
  SessionListener& listener_;
  WelcomeFacts facts_;
  Fd socket_;
  uint64_t watch_ = 0;  // 0: paused
  TimerId paused_;
  uint64_t lastId_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::vector<Session*> order_;
  Connection* control_ = nullptr;
  LogLimit refusals_;
};

}  // namespace hbmesh::sidecar
