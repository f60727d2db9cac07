#include "device/sim_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "base/copy_pool.h"
#include "base/fd.h"
#include "device/sim_timing.h"

namespace hbmesh {
namespace {

// More is a mistake of the caller: no host has that many accelerators.
constexpr uint32_t kDevicesMax = 64;

CopyPoolOptions EngineOptions(const SimOptions& options) {
  CopyPoolOptions engine;
  engine.threads = options.engineThreads;
  engine.queueDepthMax = std::numeric_limits<uint32_t>::max();  // Copy itself bounds what is under way
  engine.inlineBytesMax = options.inlineBytesMax;
  engine.spinMicros = options.spinMicros;
  return engine;
}

uint64_t Mix(uint64_t value) {  // splitmix64
  value += 0x9E3779B97F4A7C15ULL;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

// What all devices of one process share. Members are destroyed from the last to the first: the engines finish their
// copies while the timer still takes completions.
struct SimHost {
  SimHost(const SimOptions& given, CompletionSink* completions) : options(given), sink(completions) {
    if (given.bytesPerSecondMax > 0 || given.latencyMicros > 0) {
      timing = std::make_unique<SimTiming>(given.contention ? 1 : given.deviceCount, given.bytesPerSecondMax,
                                           std::chrono::microseconds(given.latencyMicros));
    }
    engines = std::make_unique<CopyPool>(EngineOptions(given));
  }

  // Empty: this copy works. Copy's thread only.
  std::string NextFault() {
    const uint64_t number = ++copies;
    const SimFaults& faults = options.faults;
    const bool nth = faults.failEveryNth > 0 && number % faults.failEveryNth == 0;
    const double chance = static_cast<double>(Mix(faults.seed ^ Mix(number)) >> 11) * 0x1.0p-53;
    if (!nth && chance >= faults.failProbability) return {};
    return "simulated fault of copy " + std::to_string(number) + " (seed " + std::to_string(faults.seed) +
           "); the target's bytes are undefined, repeat the copy";
  }

  const SimOptions options;
  CompletionSink* const sink;
  uint64_t copies = 0;                // Copy's thread only
  std::atomic<uint32_t> underWay{0};  // accepted and not yet complete; relaxed, it only bounds the queue
  std::unique_ptr<SimTiming> timing;  // null: no limits
  std::unique_ptr<CopyPool> engines;
};

class SimDevice final : public Device {
 public:
  SimDevice(std::shared_ptr<SimHost> host, uint32_t index) : host_(std::move(host)), index_(index) {}
  ~SimDevice() override;

  uint32_t index() const override { return index_; }
  const char* backend() const override { return "sim"; }
  DeviceCapabilities capabilities() const override;
  Status Import(const ExportHandle& handle, DeviceRegion* region) override;
  void Release(const DeviceRegion& region) override;
  Status RegisterHostMemory(std::byte* base, uint64_t bytes) override;
  Status Copy(CopyKind kind, std::span<const CopyPiece> pieces, uint64_t token) override;

 private:
  struct Mapping {
    uint64_t bytes;
    Fd fd;
  };

  [[nodiscard]] Status CheckHandle(const ExportHandle& handle, bool* present) const;
  void Finish(uint64_t token, const std::string& fault);
  void Forget();

  const std::shared_ptr<SimHost> host_;
  const uint32_t index_;
  std::map<std::byte*, Mapping> regions_;
  std::mutex mutex_;
  std::condition_variable idle_;
  uint64_t underWay_ = 0;  // guarded by mutex_: accepted and not yet complete
};

SimDevice::~SimDevice() {
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return underWay_ == 0; });
  }
  for (const auto& [base, mapping] : regions_) ::munmap(base, mapping.bytes);
}

DeviceCapabilities SimDevice::capabilities() const {
  return {.hostAddressable = true,
          .copyBetweenDevices = true,
          .registerHostMemory = true,
          .copyThreads = host_->engines->threads()};
}

// *present: the memory has all of its pages already.
Status SimDevice::CheckHandle(const ExportHandle& handle, bool* present) const {
  const std::string name = "device memory of " + std::to_string(handle.bytes) + " bytes";
  if (handle.deviceIndex != index_) {
    return {StatusCode::kInvalid, name + " belongs to device " + std::to_string(handle.deviceIndex) +
                                      " and can't be imported by device " + std::to_string(index_)};
  }
  if (handle.bytes == 0 || handle.bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return {StatusCode::kInvalid, name + ": the size must be from 1 byte to 8 EiB"};
  }
  struct stat information {};
  if (handle.fd < 0 || ::fstat(handle.fd, &information) != 0) {
    return {StatusCode::kInvalid, name + " came without a usable descriptor; simulated HBM is exported as a memfd"};
  }
  const int seals = ::fcntl(handle.fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return {StatusCode::kInvalid, name + " could shrink while it is in use; seal the memfd with F_SEAL_SHRINK first"};
  }
  if (static_cast<uint64_t>(information.st_size) < handle.bytes) {
    return {StatusCode::kInvalid, name + " has only " + std::to_string(information.st_size) + " bytes"};
  }
  *present = static_cast<uint64_t>(information.st_blocks) * 512 >= handle.bytes;
  return Status::Ok();
}

Status SimDevice::Import(const ExportHandle& handle, DeviceRegion* region) {
  bool present = false;
  if (Status status = CheckHandle(handle, &present); !status.ok()) return status;
  Fd fd(::fcntl(handle.fd, F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return StatusFromErrno(errno, "duplicating the descriptor of device memory");
  void* base = ::mmap(nullptr, handle.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) {
    return StatusFromErrno(errno, "mapping device memory of " + std::to_string(handle.bytes) + " bytes");
  }
#ifdef MADV_POPULATE_WRITE
  // Page tables now rather than faults during the first copies. Not for sparse memory: it would cost real memory. Only
  // a matter of speed, so that an older kernel's refusal doesn't count.
  if (present) (void)::madvise(base, handle.bytes, MADV_POPULATE_WRITE);
#endif
  auto* bytes = static_cast<std::byte*>(base);
  *region = {.base = bytes, .bytes = handle.bytes, .deviceIndex = index_, .fd = fd.get()};
  regions_.emplace(bytes, Mapping{handle.bytes, std::move(fd)});
  return Status::Ok();
}

void SimDevice::Release(const DeviceRegion& region) {
  const auto found = regions_.find(region.base);
  if (found == regions_.end()) return;
  ::munmap(found->first, found->second.bytes);
  regions_.erase(found);
}

// Host memory needs no pinning here: the engines are processors.
Status SimDevice::RegisterHostMemory(std::byte* base, uint64_t bytes) {
  if (base == nullptr || bytes == 0) return {StatusCode::kInvalid, "host memory to register is empty"};
  return Status::Ok();
}

Status SimDevice::Copy(CopyKind kind, std::span<const CopyPiece> pieces, uint64_t token) {
  if (kind != CopyKind::kHostToDevice && kind != CopyKind::kDeviceToHost && kind != CopyKind::kDeviceToDevice) {
    return {StatusCode::kInvalid, "copy kind " + std::to_string(static_cast<uint32_t>(kind)) + " does not exist"};
  }
  uint64_t total = 0;
  std::vector<CopyPart> parts;
  parts.reserve(pieces.size());
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes > 0 && (piece.target == nullptr || piece.source == nullptr)) {
      return {StatusCode::kInvalid, "a piece of " + std::to_string(piece.bytes) + " bytes has no address"};
    }
    if (__builtin_add_overflow(total, piece.bytes, &total)) {
      return {StatusCode::kInvalid, "the sizes of the pieces overflow 64 bits"};
    }
    parts.push_back({piece.target, piece.source, piece.bytes});
  }
  if (host_->underWay.load(std::memory_order_relaxed) >= host_->options.queueDepthMax) {
    return {StatusCode::kTryAgain, "the simulated devices have " + std::to_string(host_->options.queueDepthMax) +
                                       " copies under way, which is their limit; retry after a completion"};
  }
  host_->underWay.fetch_add(1, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    ++underWay_;
  }
  std::string fault = host_->NextFault();
  if (!fault.empty()) parts.clear();
  auto due = SimTiming::Clock::time_point::min();
  if (host_->timing) due = host_->timing->Reserve(host_->options.contention ? 0 : index_, total);
  Status status = host_->engines->Submit(parts, [this, token, due, fault = std::move(fault)] {
    if (!host_->timing) return Finish(token, fault);
    host_->timing->Deliver(due, [this, token, fault] { Finish(token, fault); });
  });
  if (!status.ok()) {
    host_->underWay.fetch_sub(1, std::memory_order_relaxed);
    Forget();
  }
  return status;
}

void SimDevice::Finish(uint64_t token, const std::string& fault) {
  host_->underWay.fetch_sub(1, std::memory_order_relaxed);  // before the sink: it may submit again at once
  host_->sink->Complete(token, fault.empty() ? Status::Ok() : Status(StatusCode::kAclError, fault));
  Forget();
}

void SimDevice::Forget() {
  const std::lock_guard lock(mutex_);
  --underWay_;
  if (underWay_ == 0) idle_.notify_all();  // under the lock: the destructor may free this as soon as it is released
}

}  // namespace

Status CreateSimDevices(const SimOptions& options, CompletionSink* sink,
                        std::vector<std::unique_ptr<Device>>* devices) {
  if (options.deviceCount == 0 || options.deviceCount > kDevicesMax) {
    return {StatusCode::kInvalid, "a host has 1 to " + std::to_string(kDevicesMax) + " simulated devices, not " +
                                      std::to_string(options.deviceCount)};
  }
  if (options.queueDepthMax == 0) return {StatusCode::kInvalid, "the copy queue needs at least one place"};
  if (!(options.faults.failProbability >= 0.0 && options.faults.failProbability <= 1.0)) {
    return {StatusCode::kInvalid, "the probability of simulated faults must be from 0 to 1"};
  }
  auto host = std::make_shared<SimHost>(options, sink);
  std::vector<std::unique_ptr<Device>> made;
  for (uint32_t index = 0; index < options.deviceCount; ++index)
    made.push_back(std::make_unique<SimDevice>(host, index));
  *devices = std::move(made);
  return Status::Ok();
}

}  // namespace hbmesh
