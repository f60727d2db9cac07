// What is behind a Client: requests under way, registered memory, the session and who receives on it.
//
// Thread rule: as Client. OnMessage, OnTurn and OnBroken are called by the pump, for whoever receives: one at a time.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "client/client.h"
#include "client/fork_guard.h"
#include "client/no_device_memory.h"
#include "client/region_session.h"
#include "client/session_connect.h"
#include "client/session_pump.h"

namespace hbmesh {

class Client::Impl final : public PumpHandler {
 public:
  Impl(const ClientOptions& options, DeviceExporter* exporter, ClientCallbacks callbacks, Session session)
      : options_(options),
        callbacks_(std::move(callbacks)),
        session_(std::move(session)),
        forkGuard_(session_.socket.get()),
        exporter_(exporter),
        registrar_(session_.socket.get(), options.workerAddress, options.registerTimeoutMs),
        regions_(exporter == nullptr ? &noMemory_ : exporter, &registrar_, options.regionsMax),
        pump_(session_.channel.get(), session_.socket.get(), options.spinMicros, this) {}

  ~Impl() override { Close(); }

  [[nodiscard]] Status Start() { return pump_.Start(); }
  [[nodiscard]] SessionPump& pump() { return pump_; }
  [[nodiscard]] uint32_t spinMicros() const { return options_.spinMicros; }
  [[nodiscard]] const Session& session() const { return session_; }

  // Memory is registered before `beforeSending`, which may take a while.
  template <typename BeforeSending>
  [[nodiscard]] Status Submit(const ObjectCall& call, Registration registration, uint64_t* id,
                              const BeforeSending& beforeSending);
  void Cancel(uint64_t id);
  void CancelKey(uint64_t id, uint32_t keyIndex);
  [[nodiscard]] Status RegisterDeviceMemory(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes);
  void Close();

  void OnMessage(Message* message) override;
  int OnTurn() override;
  void OnBroken(const Status& reason) override;

 private:
  struct Outstanding {
    layout::Op op = layout::Op::kExist;
    uint32_t keyCount = 0;
    uint64_t bytes = 0;              // of its blobs
    std::vector<uint64_t> segments;  // pinned
    KeyStages stages;                // of keys that end one by one
    bool cutShort = false;           // by Close: a key of it was cancelled
  };
  struct Waiting {
    layout::Entry entry{};
    std::vector<std::byte> payload;
  };
  [[nodiscard]] Status CheckUsable() const;
  // Sends the entry, or keeps it until there is room. REQUIRES: mutex_ is held.
  [[nodiscard]] Status SendOrKeep(const layout::Entry& entry, std::vector<std::byte> payload);
  void FlushWaiting();
  // Asks the sidecar to end a request that was sent. REQUIRES: mutex_ is held.
  void SendCancel(uint64_t id, uint64_t keyNumber);
  [[nodiscard]] bool Answers(const layout::Entry& entry, const Outstanding& outstanding) const;
  // A reply with kFlagMore. False: no such request is outstanding.
  [[nodiscard]] bool TakeEvents(Message* message, Status* broken);
  // The last reply, decoded. A status other than kOk ends the session.
  [[nodiscard]] Status TakeReply(Outstanding* outstanding, Message* message, Completion* completion) const;
  // While the client closes: hands on the events of keys that Close did not cancel, and makes the end of a request that
  // it did cancel kShuttingDown.
  void TellCutShort(Outstanding* outstanding, Completion* completion) const;
  // Asks the sidecar to end what was sent, takes back what was not, and waits for the last replies. REQUIRES: closing_
  // is held.
  void EndOutstanding();
  [[nodiscard]] Status Closed() const;
  // What registration of memory failed with; kShuttingDown where that is only because Close ended the session.
  [[nodiscard]] Status OfClosing(const Status& status);
  // Waits until nothing is outstanding. REQUIRES: the sidecar was asked to end it.
  void AwaitSettled(std::unique_lock<std::mutex>& lock);
  // Of a request that the sidecar did not end in time. REQUIRES: mutex_ is held.
  [[nodiscard]] Status Unconfirmed(const Outstanding& outstanding) const;
  void Finish(Outstanding outstanding, Completion completion);
  // Ends every outstanding request with `reason`, and refuses new ones with it from now on. `unconfirmed`: the sidecar
  // may still be at them.
  void EndAll(const Status& reason, bool unconfirmed);
  void BreakSession(const Status& reason);

  const ClientOptions options_;
  const ClientCallbacks callbacks_;
  const pid_t pid_ = ::getpid();
  Session session_;
  const ForkGuard forkGuard_;
  NoDeviceMemory noMemory_;
  DeviceExporter* const exporter_;
  RegionSession registrar_;
  RegionCache regions_;

  std::mutex mutex_;  // guards what follows, and sending on the channel
  std::unordered_map<uint64_t, Outstanding> outstanding_;
  std::deque<Waiting> waiting_;
  uint64_t nextId_ = 1;
  Status ended_;                     // kOk while the session lives
  Status violation_;                 // what the sidecar did wrong, when we ended the session for it
  bool stopping_ = false;            // Close is at work: no new requests
  uint64_t closeWaitedMs_ = 0;       // for the sidecar's last words
  std::condition_variable settled_;  // while stopping: nothing is outstanding any more

  std::mutex closing_;  // one Close at a time
  SessionPump pump_;    // last: its thread uses everything above
};

}  // namespace hbmesh
