// A peer made by hand for tests: connects to a sidecar's transport and speaks peer_protocol.h record by record.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sidecar/peer_protocol.h"
#include "sidecar/sidecar_test_util.h"
#include "transport/transport.h"

namespace hbmesh::sidecar::testing {

class RawPeer final : private TransportSink {
 public:
  // `transports`: as Welcome tells them.
  RawPeer(const std::string& transport, const std::string& transports);
  ~RawPeer();

  template <typename Record>
  void Send(peer::Type type, const std::vector<Record>& records) {
    const Status status = endpoint_->Send(peer::MakeMessage<Record>(type, std::span<const Record>(records)));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  // The next record of this type; those of other types are passed over.
  template <typename Record>
  Record Wait(peer::Type type) {
    Record record{};
    const std::vector<std::byte> bytes = WaitRecord(type, sizeof(Record));
    if (bytes.size() == sizeof(Record)) std::memcpy(&record, bytes.data(), sizeof(Record));
    return record;
  }
  bool WaitDisconnect();

 private:
  void OnComplete(uint64_t token, Status status) override;
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override;
  void OnMessage(uint64_t endpointId, std::span<const std::byte> message) override;
  void OnDisconnect(uint64_t endpointId, Status reason) override;
  [[nodiscard]] std::vector<std::byte> WaitRecord(peer::Type type, size_t bytes);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool connected_ = false;  // guarded by mutex_, as all below
  bool gone_ = false;
  std::deque<std::pair<peer::Type, std::vector<std::byte>>> messages_;
  std::deque<std::pair<peer::Type, std::vector<std::byte>>> records_;  // of the test's thread
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace hbmesh::sidecar::testing
