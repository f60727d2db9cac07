// ControlClient: the control process's end of its queue to the sidecar. It moves messages; what they mean is decided
// above.
//
// Thread rule: any thread may send and close. Callbacks come from the receiver thread and must not close or destroy.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "queue/channel.h"

namespace hbmesh {

struct ControlClientOptions {
  std::string workerAddress;  // IP:PORT
  std::string token;
  uint32_t connectTimeoutMs = 9000;
  uint32_t spinMicros = 0;  // Node is woken by an event in any case, so spinning would win little
  int cancelFd = -1;        // readable: Connect gives up. Borrowed for the time of Connect.
};

struct ControlCallbacks {
  // Messages in order, as many as came at once.
  std::function<void(std::vector<Message>&&)> onMessages;
  // Once, as the last call, when the session ended from the other side. Not after Close.
  std::function<void(const Status& reason)> onClosed;
};

class ControlClient {
 public:
  // Errors are those of OpenSession.
  [[nodiscard]] static Status Connect(const ControlClientOptions& options, ControlCallbacks callbacks,
                                      std::unique_ptr<ControlClient>* client);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  // kTryAgain: the queue is full, nothing was sent. kOutOfRange: larger than the queue. kShuttingDown,
  // kClientWorkerDisconnect: the session is over.
  [[nodiscard]] Status Send(const layout::Entry& entry, std::span<const std::byte> payload);
  void Close();

  [[nodiscard]] uint32_t deviceCount() const;
  [[nodiscard]] const std::string& backend() const;
  [[nodiscard]] const std::string& transports() const;
  // The store's memory; owned by the client, valid as long as it is.
  [[nodiscard]] int storeFd() const;

 private:
  class Impl;
  explicit ControlClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hbmesh
