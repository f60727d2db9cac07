// Client: a process's connection to the worker on its host. Sets, gets and questions go out over the shared-memory
// channel; answers come back through a callback. The addon and the C API stand on it; there is no Node in it.
//
// Thread rule: any thread may submit, cancel and close. Callbacks come from the receiver thread, or from a thread that
// calls Cancel or Close; they may submit and cancel, but must not close or destroy the client.
//
// Each accepted request is completed exactly once: with the sidecar's answer; with kClientWorkerDisconnect when the
// sidecar ended; with kShuttingDown when the client was closed. Device memory of a request must stay allocated until
// then: the sidecar no longer reads or writes it, unless the completion's message says that it may.
//
// Requests whose keys end one by one (EndsByKey in object_codec.h) tell of that through onEvents, in the sidecar's
// order, before they complete; a key that ended keeps its memory pinned until the request completes, no longer reads or
// writes it. Each key ends exactly once: by an event, or else with its request (`code` of the completion).
//
// A child made by fork has no receiver thread: every call there answers kNotSupported, and destruction leaves the
// parent's session alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/object_codec.h"
#include "client/region_cache.h"
#include "device/device_exporter.h"

namespace hbmesh {

struct ClientOptions {
  std::string workerAddress;  // IP:PORT
  std::string token;
  uint32_t connectTimeoutMs = 9000;
  uint32_t registerTimeoutMs = 9000;           // answer to one registration of device memory
  uint32_t spinMicros = 20;                    // how long the receiver polls after a message before it sleeps
  uint32_t regionsMax = 1024;                  // device segments registered at a time
  uint32_t waitingMax = 4096;                  // accepted requests that wait for room in the queue; more get kTryAgain
  uint32_t closeGraceMs = 2000;                // how long Close waits for the sidecar to end what is outstanding ...
  uint64_t floorBytesPerSecond = 100'000'000;  // ... and longer by this, for bytes that move, of a sidecar that lives
  int cancelFd = -1;                           // readable: Connect gives up. Borrowed for the time of Connect.
};

// One of several replies to a request; the payload is a DeviceReply (checked, its events too).
struct RequestEvents {
  uint64_t id = 0;
  std::vector<std::byte> payload;
};

struct Completion {
  uint64_t id = 0;
  // True: `code` and `payload` are the sidecar's ObjectReply or last DeviceReply (checked; DeviceReply: with code kOk
  // every key has ended). False: the request ended here; `message` says why.
  bool answered = false;
  StatusCode code = StatusCode::kOk;
  std::string message;
  std::vector<std::byte> payload;
};

struct ClientCallbacks {
  std::function<void(Completion&&)> onComplete;
  // Between Submit and onComplete of a request whose keys end one by one; may come before Submit returns.
  std::function<void(RequestEvents&&)> onEvents;
  // Once, after every outstanding request was completed, when the session ended from the other side. Not after Close.
  std::function<void(const Status& reason)> onClosed;
};

class Client {
 public:
  // For a thread that submits a request and waits for its end: it receives by itself from the submission on, unless
  // another thread does, so that the answer wakes nobody. Completions and events of any request may then come on this
  // thread.
  class Reception {
   public:
    Reception() = default;
    ~Reception() { GiveBack(); }
    Reception(const Reception&) = delete;
    Reception& operator=(const Reception&) = delete;

    // Does the calling thread receive.
    [[nodiscard]] bool holds() const { return client_ != nullptr; }
    // Polls until `done` says so, for spinMicros at the most; then the client's own thread receives again.
    template <typename Done>
    void PollUntil(const Done& done) {
      while (!done() && Poll()) {
      }
      GiveBack();
    }

   private:
    friend class Client;

    // False: the time is over, or the session, or another thread receives.
    bool Poll();
    void GiveBack();

    Client* client_ = nullptr;
    uint64_t untilNs_ = 0;  // set by the first Poll
  };

  // Errors are those of OpenSession, and kNotSupported when the worker's backend is not the exporter's. The exporter
  // may be null (then no device memory can be used); it is borrowed and outlives the client.
  [[nodiscard]] static Status Connect(const ClientOptions& options, DeviceExporter* exporter, ClientCallbacks callbacks,
                                      std::unique_ptr<Client>* client);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Accepts a request; the completion with *id follows, perhaps before Submit returns. Errors, after which there is no
  // completion: kInvalid (the call, its pointers), kNotReady (kKnownOnly and memory is not registered yet), kTryAgain
  // (too many requests wait), kOutOfRange (larger than the queue), kClientWorkerDisconnect, kShuttingDown,
  // kNotSupported (fork). With kAllowed the call may block for a round trip to register memory.
  // `reception`: the caller is going to wait for the end, see Reception; null: it isn't.
  [[nodiscard]] Status Submit(const ObjectCall& call, Registration registration, uint64_t* id,
                              Reception* reception = nullptr);
  // Asks for the end of a request. It still completes: with kRpcCancelled, or with its answer if that was on its way.
  // An id that is not outstanding is ignored.
  void Cancel(uint64_t id);
  // The same for one key of a request whose keys end one by one; the others go on. A key that ended is left alone.
  void CancelKey(uint64_t id, uint32_t keyIndex);
  // Registers device memory ahead of use. May block.
  [[nodiscard]] Status RegisterDeviceMemory(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes);
  // Cancels what is outstanding, waits for the sidecar's last words on it, then ends the session. It waits up to
  // closeGraceMs for a sidecar that takes no message, and for one that does as long as the outstanding bytes may take.
  // Every request has completed before Close returns: with the answer that was on its way, else with kShuttingDown; its
  // message says so where the sidecar did not confirm in time that it stopped, and device memory may still be written.
  // Doesn't wait once the sidecar is gone. Blocks, so keep it off threads that must not; never call it from a callback.
  // Idempotent; a second caller waits for the first.
  void Close();

  [[nodiscard]] uint32_t deviceCount() const;
  [[nodiscard]] const std::string& backend() const;
  // IP:PORT that the name in the options led to.
  [[nodiscard]] const std::string& workerAddress() const;
  [[nodiscard]] uint64_t sessionId() const;

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hbmesh
