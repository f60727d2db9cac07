#include "transport/tcp_transport.h"

#include <string>
#include <utility>

#include "transport/memory_table.h"
#include "transport/socket_address.h"
#include "transport/tcp_endpoint.h"
#include "transport/tcp_listener.h"
#include "transport/tcp_wire.h"

namespace hbmesh {
namespace {

constexpr uint32_t kSegmentsPerRequest = 512;  // pieces that one system call takes

class TcpTransport final : public Transport {
 public:
  TcpTransport(const TransportOptions& options, TransportSink* sink)
      : options_(options), sink_(sink), memory_(std::make_shared<MemoryTable>()) {}

  const char* name() const override { return "tcp"; }
  TransportCapabilities capabilities() const override {
    return {.oneSidedRead = true,
            .oneSidedWrite = true,
            .reachesDeviceMemory = false,
            .sharesOutReads = false,
            .segmentsPerRequestMax = kSegmentsPerRequest,
            .messageBytesMax = tcp::kMessageBytesMax};
  }
  Status Listen(const std::string& where) override;
  std::string address() const override { return address_; }
  Status RegisterMemory(std::byte* base, uint64_t bytes, int /*fd*/, uint64_t /*fdOffset*/, bool writable,
                        MemoryRegion* region) override {
    return memory_->Add(base, bytes, -1, 0, writable, region);
  }
  void UnregisterMemory(uint32_t region) override;
  Status Connect(const std::string& address, uint32_t lanes, uint64_t token,
                 std::unique_ptr<Endpoint>* endpoint) override;

 private:
  const TransportOptions options_;
  TransportSink* const sink_;
  const std::shared_ptr<MemoryTable> memory_;
  const std::shared_ptr<TcpLinks> links_ = std::make_shared<TcpLinks>();
  std::string address_;
  std::unique_ptr<TcpListener> listener_;
};

Status TcpTransport::Listen(const std::string& where) {
  if (listener_) return {StatusCode::kInvalid, "this transport listens on " + address_ + " already"};
  SocketAddress address;
  if (Status status = ParseSocketAddress(where, &address); !status.ok()) return status;
  auto listener = std::make_unique<TcpListener>(options_, memory_, links_, sink_);
  if (Status status = listener->Start(address, &address_); !status.ok()) return status;
  listener_ = std::move(listener);
  return Status::Ok();
}

// A peer that takes or brings a byte now and then is no slower than its line, and could keep the memory for ever.
void TcpTransport::UnregisterMemory(uint32_t region) {
  memory_->Retire(region);
  if (memory_->AwaitUnused(region, options_.revokeTimeoutMs)) return;
  links_->Break(memory_->UsersOf(region), {StatusCode::kRpcPeerDead, "the peer did not let go of memory region " +
                                                                         std::to_string(region) + " in time"});
  memory_->Remove(region);
}

Status TcpTransport::Connect(const std::string& address, uint32_t lanes, uint64_t token,
                             std::unique_ptr<Endpoint>* endpoint) {
  SocketAddress parsed;
  if (Status status = ParseSocketAddress(address, &parsed); !status.ok()) return status;
  const uint32_t count = lanes == 0 ? options_.lanesDefault : lanes;
  if (count == 0 || count > tcp::kLanesMax) {
    return {StatusCode::kInvalid,
            "an endpoint has 1 to " + std::to_string(tcp::kLanesMax) + " lanes, not " + std::to_string(count)};
  }
  auto link = std::make_shared<TcpLink>(SocketAddressName(parsed), count, options_, memory_, sink_);
  links_->Remember(link);
  auto made = std::make_unique<TcpEndpoint>(std::move(link));
  TcpEndpoint* connecting = made.get();
  *endpoint = std::move(made);  // before the thread may complete the token
  if (Status status = connecting->StartConnect(parsed, options_, sink_, token); !status.ok()) {
    endpoint->reset();
    return status;
  }
  return Status::Ok();
}

}  // namespace

std::unique_ptr<Transport> CreateTcpTransport(const TransportOptions& options, TransportSink* sink) {
  return std::make_unique<TcpTransport>(options, sink);
}

}  // namespace hbmesh
