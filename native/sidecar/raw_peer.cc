#include "sidecar/raw_peer.h"

#include <chrono>

#include "transport/transport_factory.h"

namespace hbmesh::sidecar::testing {

namespace {

constexpr std::chrono::milliseconds kPatience(kPatienceMs);

std::string AddressOf(const std::string& transport, const std::string& transports) {
  const size_t at = (" " + transports).find(" " + transport + "=");
  EXPECT_NE(at, std::string::npos) << transports;
  const std::string rest = transports.substr(at + transport.size() + 1);
  return rest.substr(0, rest.find(' '));
}

}  // namespace

RawPeer::RawPeer(const std::string& transport, const std::string& transports) {
  Status status = CreateTransport(transport, TransportOptions{}, this, &transport_);
  EXPECT_TRUE(status.ok()) << status.ToString();
  status = transport_->Connect(AddressOf(transport, transports), 2, 1, &endpoint_);
  EXPECT_TRUE(status.ok()) << status.ToString();
  std::unique_lock lock(mutex_);
  EXPECT_TRUE(changed_.wait_for(lock, kPatience, [this] { return connected_; }));
}

RawPeer::~RawPeer() {
  endpoint_.reset();
  transport_.reset();
}

void RawPeer::OnComplete(uint64_t /*token*/, Status status) {
  const std::lock_guard lock(mutex_);
  connected_ = status.ok();
  changed_.notify_all();
}

void RawPeer::OnAccept(std::unique_ptr<Endpoint> /*endpoint*/) {}

void RawPeer::OnMessage(uint64_t /*endpointId*/, std::span<const std::byte> message) {
  peer::MessageHeader header{};
  EXPECT_TRUE(peer::ParseHeader(message, &header));
  const std::lock_guard lock(mutex_);
  messages_.emplace_back(static_cast<peer::Type>(header.type),
                         std::vector<std::byte>(message.begin() + sizeof(header), message.end()));
  changed_.notify_all();
}

void RawPeer::OnDisconnect(uint64_t /*endpointId*/, Status /*reason*/) {
  const std::lock_guard lock(mutex_);
  gone_ = true;
  changed_.notify_all();
}

bool RawPeer::WaitDisconnect() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [this] { return gone_; });
}

std::vector<std::byte> RawPeer::WaitRecord(peer::Type type, size_t bytes) {
  for (;;) {
    while (!records_.empty()) {
      auto [kind, record] = std::move(records_.front());
      records_.pop_front();
      if (kind == type) return record;
    }
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [this] { return !messages_.empty(); })) {
      ADD_FAILURE() << "no message came";
      return {};
    }
    auto [kind, message] = std::move(messages_.front());
    messages_.pop_front();
    if (kind != type) continue;
    for (size_t at = 0; at + bytes <= message.size(); at += bytes) {
      records_.emplace_back(kind, std::vector<std::byte>(message.begin() + static_cast<ptrdiff_t>(at),
                                                         message.begin() + static_cast<ptrdiff_t>(at + bytes)));
    }
  }
}

}  // namespace hbmesh::sidecar::testing
