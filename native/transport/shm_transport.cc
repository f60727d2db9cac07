#include "transport/shm_transport.h"

#include <unistd.h>

#include <limits>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/mapped_memory.h"
#include "transport/endpoint_id.h"
#include "transport/shm_connect.h"
#include "transport/shm_endpoint.h"
#include "transport/shm_listener.h"
#include "transport/shm_wire.h"

namespace hbmesh {
namespace {

// One after the other: a copy has no limit of pieces, this only says that many are welcome.
constexpr uint32_t kSegmentsPerRequest = 4096;

class ShmTransport final : public Transport {
 public:
  ShmTransport(const TransportOptions& options, TransportSink* sink);

  const char* name() const override { return "shm"; }
  TransportCapabilities capabilities() const override {
    return {.oneSidedRead = true,
            .oneSidedWrite = true,
            .reachesDeviceMemory = false,
            .sharesOutReads = true,
            .segmentsPerRequestMax = kSegmentsPerRequest,
            .messageBytesMax = shm::kMessageBytesMax};
  }
  Status Listen(const std::string& where) override;
  std::string address() const override { return address_; }
  Status RegisterMemory(std::byte* base, uint64_t bytes, int fd, uint64_t fdOffset, bool writable,
                        MemoryRegion* region) override;
  void UnregisterMemory(uint32_t region) override;
  Status Connect(const std::string& address, uint32_t lanes, uint64_t token,
                 std::unique_ptr<Endpoint>* endpoint) override;

 private:
  void Remember(const std::shared_ptr<ShmLink>& link);
  [[nodiscard]] std::vector<std::shared_ptr<ShmLink>> Links();

  const std::shared_ptr<ShmShared> shared_;
  std::string address_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<ShmLink>> links_;  // guarded by mutex_
  std::unique_ptr<ShmListener> listener_;      // last: its thread uses what is above
};

ShmTransport::ShmTransport(const TransportOptions& options, TransportSink* sink)
    : shared_(std::make_shared<ShmShared>()) {
  CopyPoolOptions copies;
  copies.threads = options.copyThreads;
  copies.queueDepthMax = std::numeric_limits<uint32_t>::max();  // each endpoint bounds its own requests
  shared_->options = options;
  shared_->sink = sink;
  shared_->memory = std::make_shared<MemoryTable>();
  shared_->copies = std::make_unique<CopyPool>(copies);
}

Status ShmTransport::Listen(const std::string& where) {
  if (listener_) return {StatusCode::kInvalid, "this transport listens on " + address_ + " already"};
  const std::string name =
      where.empty() ? "hbmesh-shm/" + std::to_string(::getpid()) + "-" + std::to_string(NextEndpointId()) : where;
  auto listener =
      std::make_unique<ShmListener>(shared_, [this](const std::shared_ptr<ShmLink>& link) { Remember(link); });
  if (Status status = listener->Start(name); !status.ok()) return status;
  address_ = name;
  listener_ = std::move(listener);
  return Status::Ok();
}

Status ShmTransport::RegisterMemory(std::byte* base, uint64_t bytes, int fd, uint64_t fdOffset, bool writable,
                                    MemoryRegion* region) {
  if (fd < 0) {
    return {StatusCode::kNotSupported,
            "the shm transport shares memory by its descriptor, and this memory has none; use a memfd"};
  }
  uint64_t fileBytes = 0;
  if (Status status = CheckMemfd(fd, &fileBytes); !status.ok()) return status;
  if (fdOffset > fileBytes || bytes > fileBytes - fdOffset) {
    return {StatusCode::kInvalid,
            "memory to register is larger than the memfd behind it (" + std::to_string(fileBytes) + " bytes)"};
  }
  return shared_->memory->Add(base, bytes, fd, fdOffset, writable, region);
}

void ShmTransport::UnregisterMemory(uint32_t region) {
  shared_->memory->Retire(region);
  for (const auto& link : Links()) link->Revoke(region);
  if (shared_->memory->AwaitUnused(region, shared_->options.revokeTimeoutMs)) return;
  for (const auto& link : Links()) link->BreakIfAnnounced(region);
  shared_->memory->Remove(region);
}

Status ShmTransport::Connect(const std::string& address, uint32_t /*lanes*/, uint64_t token,
                             std::unique_ptr<Endpoint>* endpoint) {
  if (address.empty())
    return {StatusCode::kInvalid, "an empty shm address; give the name that the peer's address() tells"};
  auto link = std::make_shared<ShmLink>(shared_, address);
  Remember(link);
  *endpoint = std::make_unique<ShmEndpoint>(link);  // before the thread may complete the token
  link->Start([address, options = shared_->options](
                  int cancel, Fd* socket) { return ConnectShm(address, options, cancel, socket); },
              token);
  return Status::Ok();
}

void ShmTransport::Remember(const std::shared_ptr<ShmLink>& link) {
  const std::lock_guard lock(mutex_);
  std::erase_if(links_, [](const std::weak_ptr<ShmLink>& known) { return known.expired(); });
  links_.push_back(link);
}

std::vector<std::shared_ptr<ShmLink>> ShmTransport::Links() {
  std::vector<std::shared_ptr<ShmLink>> links;
  const std::lock_guard lock(mutex_);
  for (const auto& known : links_) {
    if (auto link = known.lock()) links.push_back(std::move(link));
  }
  return links;
}

}  // namespace

std::unique_ptr<Transport> CreateShmTransport(const TransportOptions& options, TransportSink* sink) {
  return std::make_unique<ShmTransport>(options, sink);
}

}  // namespace hbmesh
