// Sidecar: the process that owns a worker's object table and moves its bytes. Wires sessions, requests, the control
// port, the links to other sidecars and the loop; holds no policy of its own.
//
// Thread rule: Create and Run from one thread; RequestStop from any thread or a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "sidecar/checksums.h"
#include "sidecar/completions.h"
#include "sidecar/control_port.h"
#include "sidecar/control_service.h"
#include "sidecar/copier.h"
#include "sidecar/device_objects.h"
#include "sidecar/layers.h"
#include "sidecar/loop.h"
#include "sidecar/options.h"
#include "sidecar/peer_holds.h"
#include "sidecar/peer_links.h"
#include "sidecar/replicas.h"
#include "sidecar/request.h"
#include "sidecar/session_server.h"
#include "sidecar/store_keeper.h"
#include "sidecar/timers.h"
#include "sidecar/transports.h"

namespace hbmesh::sidecar {

// Makes the devices 0 to count - 1.
using DeviceFactory =
    std::function<Status(uint32_t count, CompletionSink* sink, std::vector<std::unique_ptr<Device>>* devices)>;

class Sidecar final : private LoopWork, private SessionListener {
 public:
  // On kOk the sidecar listens. `clock` is borrowed.
  [[nodiscard]] static Status Create(SidecarOptions options, const DeviceFactory& devices,
                                     const TransportFactory& transports, Clock& clock,
                                     std::unique_ptr<Sidecar>* sidecar);
  ~Sidecar();

  // Serves until it is told to stop. kOk: kShutdown or RequestStop; else why it ended.
  [[nodiscard]] Status Run();
  // Of the memory with the objects; this sidecar's own.
  [[nodiscard]] int memoryFd() const { return store_->memoryFd(); }
  // Ends Run after transfers under way are done. Safe in a signal handler.
  void RequestStop();

 private:
  Sidecar(SidecarOptions options, Clock& clock);
  [[nodiscard]] Status Open(const DeviceFactory& devices, const TransportFactory& transports);
  [[nodiscard]] Status OpenStore();
  [[nodiscard]] Status OpenDevices(const DeviceFactory& factory);
  [[nodiscard]] Status OpenTier();
  // Whether the SSD tier's file outlives this process.
  void KeepSpilled(bool keep);

  bool Poll() override;
  [[nodiscard]] bool PrepareSleep() override;
  void EndSleep() override;
  bool PollSessions();
  bool PollEvents();
  void HandleEvent(LoopEvent& event);
  // Something waits for room in a queue that doesn't tell when it has room.
  [[nodiscard]] bool Waiting() const;

  void OnSessionOpened(Session& session) override;
  void OnSessionClosed(Session& session) override;
  void TellSessions();
  void AwaitControl(uint32_t graceMs, const std::string& what);

  void HandleClient(Session& session, Message& message);
  void HandleTransfer(Session& session, Message& message);
  void HandleQuery(Session& session, Message& message);
  void HandleLocalDelete(Session& session, Message& message);
  // Makes the request's kind, if the message is good.
  [[nodiscard]] Status CheckArgs(const layout::Entry& entry) const;
  // kScaling: the worker is leaving, and this would bring it something new.
  [[nodiscard]] Status CheckStays(const layout::Entry& entry) const;
  [[nodiscard]] Status CheckRoom(Session& session, const layout::Entry& entry) const;
  void Refuse(Session& session, const layout::Entry& entry, const Status& status);
  // `key`: 0 for all of the request, else 1 + the index of the one to end.
  void Cancel(Session& session, uint64_t request, uint64_t key);

  void SetLeaving(bool leaving);
  void BeginStop(bool drain, Status result, std::function<void()> done);
  void EndStop();
  [[nodiscard]] layout::SidecarStats Stats() const;

  // In order of use: later members use earlier ones, and are destroyed before them.
  const SidecarOptions options_;
  Clock& clock_;
  Timers timers_;
  Loop loop_;
  std::unique_ptr<CompletionQueue> events_;
  std::unique_ptr<DeviceEvents> deviceEvents_;
  std::unique_ptr<ObjectStore> store_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<OpenTransport> transports_;
  TokenTable tokens_;
  std::unique_ptr<Copier> copier_;
  std::unique_ptr<Checksums> checksums_;
  ControlPort control_;
  std::unique_ptr<PeerLinks> links_;
  std::unique_ptr<StoreKeeper> keeper_;
  std::unique_ptr<Replicas> replicas_;
  std::unique_ptr<Takes> takes_;
  std::unique_ptr<DeviceObjects> objects_;
  PendingSlots pending_;
  Layers layers_;
  std::unique_ptr<PeerHolds> holds_;
  std::unique_ptr<ControlService> service_;
  RequestTable requests_;
  std::unique_ptr<SessionServer> sessions_;
  std::unique_ptr<Core> core_;

  std::vector<LoopEvent> taken_;  // of the completion queue; kept for its memory
  Message message_;               // kept for its memory
  TimerId orphan_;
  TimerId retry_;
  std::atomic<bool> stopRequested_{false};  // relaxed: the eventfd's write orders it
  bool stopping_ = false;
  bool leaving_ = false;  // what is here is being moved to other workers: nothing new is taken
  Status result_;
  std::vector<std::function<void()>> stopped_;
};

}  // namespace hbmesh::sidecar
