#include "store/spill_tier.h"

#include <algorithm>
#include <cstring>

#include "base/align.h"
#include "base/crc32c.h"
#include "base/log.h"

namespace hbmesh {

Status SpillTier::Open(const SpillOptions& options, uint64_t storeId, SpillSink* sink,
                       std::unique_ptr<SpillTier>* tier) {
  if (options.threads == 0 || options.threads > 16 || options.chunkBytes == 0 ||
      !IsAligned(options.chunkBytes, kSpillBlockBytes) || options.queueMax == 0) {
    return {StatusCode::kInvalid, "an SSD tier has 1 to 16 threads, chunks of a multiple of 4096 bytes, and a queue"};
  }
  std::unique_ptr<SpillFile> file;
  if (Status status = SpillFile::Open(options.directory, options.bytesMax, storeId, options.direct, &file);
      !status.ok()) {
    return status;
  }
  std::unique_ptr<SpillTier> made(new SpillTier(options, std::move(file), sink));
  if (Status status = made->MakeWorkers(); !status.ok()) {
    return status;
  }
  *tier = std::move(made);
  return Status::Ok();
}

Status SpillTier::MakeWorkers() {
  bool uring = options_.io != SpillOptions::Io::kPlain;
  for (uint32_t i = 0; i < options_.threads; i++) {
    auto worker = std::make_unique<Worker>();
    if (uring) {
      const Status status = MakeUringSpillIo(file_->fd(), options_.fault, &worker->io);
      if (!status.ok() && options_.io == SpillOptions::Io::kUring) {
        return status;
      }
      uring = status.ok();
      if (!uring) {
        Log().info("SSD tier: plain reads and writes instead of io_uring: {}", status.message());
      }
    }
    if (worker->io == nullptr) {
      worker->io = MakePlainSpillIo(file_->fd(), options_.fault);
    }
    worker->packed = MakePlainSpillIo(file_->packedFd(), options_.fault);
    worker->buffers = MakeAlignedBuffer(uint64_t{SpillIo::kDepth} * options_.chunkBytes);
    workers_.push_back(std::move(worker));
  }
  ioName_ = uring ? "io_uring" : "plain";
  for (const auto& worker : workers_) {
    worker->thread = std::thread([this, at = worker.get()] { Work(at); });
  }
  return Status::Ok();
}

SpillTier::~SpillTier() {
  std::deque<Job> left;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    left.swap(reads_);
    left.insert(left.end(), writes_.begin(), writes_.end());
    writes_.clear();
  }
  changed_.notify_all();
  for (const auto& worker : workers_) {
    if (worker->thread.joinable()) {
      worker->thread.join();
    }
  }
  for (const Job& job : left) {
    sink_->OnSpillIo(job.token, {StatusCode::kShuttingDown, "the SSD tier is closed"});
  }
}

Status SpillTier::Write(uint64_t offset, std::span<const std::byte> payload, const SpillIdentity& identity,
                        uint64_t token) {
  return Queue({SpillOp::kWrite, offset, const_cast<std::byte*>(payload.data()), identity, token});
}

Status SpillTier::Read(uint64_t offset, std::span<std::byte> target, const SpillIdentity& identity, uint64_t token) {
  return Queue({SpillOp::kRead, offset, target.data(), identity, token});
}

Status SpillTier::Queue(const Job& job) {
  {
    const std::lock_guard lock(mutex_);
    std::deque<Job>& queue = job.op == SpillOp::kRead ? reads_ : writes_;
    if (queue.size() >= options_.queueMax) {
      return {StatusCode::kTryAgain, "the SSD tier has " + std::to_string(queue.size()) +
                                         " jobs waiting; try again after one of them has completed"};
    }
    queue.push_back(job);
  }
  changed_.notify_one();
  return Status::Ok();
}

std::optional<SpillTier::Job> SpillTier::NextJob() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || !reads_.empty() || !writes_.empty(); });
  if (stopping_) {
    return std::nullopt;
  }
  std::deque<Job>& queue = reads_.empty() ? writes_ : reads_;
  const Job job = queue.front();
  queue.pop_front();
  return job;
}

void SpillTier::Work(Worker* worker) {
  while (const std::optional<Job> job = NextJob()) {
    sink_->OnSpillIo(job->token, job->op == SpillOp::kWrite ? WriteRecord(worker, *job) : ReadRecord(worker, *job));
  }
}

Status SpillTier::Failed(const Job& job, int error) const {
  return StatusFromErrno(error, (job.op == SpillOp::kWrite ? "writing to " : "reading from ") + file_->path() + " at " +
                                    std::to_string(job.offset));
}

Status SpillTier::WriteRecord(Worker* worker, const Job& job) const {
  SpillIo& io = *(IsSpillPacked(job.identity.payloadBytes) ? worker->packed : worker->io);
  const uint64_t total = SpillRecordBytes(job.identity.payloadBytes);
  const uint64_t payloadBytes = job.identity.payloadBytes;
  uint32_t crc = 0;
  int error = 0;
  uint64_t at = 0;
  for (uint32_t turn = 0; at < total && error == 0; turn++) {
    const uint32_t index = turn % SpillIo::kDepth;
    error = io.Wait(index);
    std::byte* chunk = worker->buffers.get() + uint64_t{index} * options_.chunkBytes;
    const uint64_t bytes = std::min<uint64_t>(options_.chunkBytes, total - at);
    const uint64_t ofPayload = at < payloadBytes ? std::min(bytes, payloadBytes - at) : 0;
    std::memcpy(chunk, job.payload + (at < payloadBytes ? at : 0), ofPayload);
    crc = Crc32c({chunk, ofPayload}, crc);
    std::memset(chunk + ofPayload, 0, bytes - ofPayload);
    if (at + bytes == total) {
      const SpillFooter footer = MakeSpillFooter(job.identity, crc);
      std::memcpy(chunk + bytes - sizeof(footer), &footer, sizeof(footer));
    }
    if (error == 0) {
      io.Start(index, SpillOp::kWrite, job.offset + at, chunk, static_cast<uint32_t>(bytes));
    }
    at += bytes;
  }
  for (uint32_t index = 0; index < SpillIo::kDepth; index++) {
    const int last = io.Wait(index);
    error = error != 0 ? error : last;
  }
  return error == 0 ? Status::Ok() : Failed(job, error);
}

Status SpillTier::ReadRecord(Worker* worker, const Job& job) const {
  SpillIo& io = *(IsSpillPacked(job.identity.payloadBytes) ? worker->packed : worker->io);
  const uint64_t total = SpillRecordBytes(job.identity.payloadBytes);
  const uint64_t payloadBytes = job.identity.payloadBytes;
  const uint64_t chunks = (total + options_.chunkBytes - 1) / options_.chunkBytes;
  const auto bytesOf = [&](uint64_t chunk) {
    return std::min<uint64_t>(options_.chunkBytes, total - chunk * options_.chunkBytes);
  };
  const auto bufferOf = [&](uint64_t chunk) {
    return worker->buffers.get() + chunk % SpillIo::kDepth * options_.chunkBytes;
  };
  uint64_t started = 0;
  uint32_t crc = 0;
  int error = 0;
  SpillFooter footer{};
  for (uint64_t chunk = 0; chunk < chunks && error == 0; chunk++) {
    for (; started < std::min(chunks, chunk + SpillIo::kDepth); started++) {
      io.Start(static_cast<uint32_t>(started % SpillIo::kDepth), SpillOp::kRead,
               job.offset + started * options_.chunkBytes, bufferOf(started), static_cast<uint32_t>(bytesOf(started)));
    }
    error = io.Wait(static_cast<uint32_t>(chunk % SpillIo::kDepth));
    const uint64_t at = chunk * options_.chunkBytes;
    if (error == 0 && at < payloadBytes) {
      const uint64_t ofPayload = std::min(bytesOf(chunk), payloadBytes - at);
      std::memcpy(job.payload + at, bufferOf(chunk), ofPayload);
      crc = Crc32c({job.payload + at, ofPayload}, crc);  // of what the reader will get, not of the buffer
    }
    if (error == 0 && chunk + 1 == chunks) {
      std::memcpy(&footer, bufferOf(chunk) + bytesOf(chunk) - sizeof(footer), sizeof(footer));
    }
  }
  for (uint32_t index = 0; index < SpillIo::kDepth; index++) {
    const int last = io.Wait(index);
    error = error != 0 ? error : last;
  }
  if (error != 0) {
    return Failed(job, error);
  }
  const std::string fault = SpillFooterFault(footer, job.identity, crc);
  if (!fault.empty()) {
    return {StatusCode::kDataInconsistency, "the object on the SSD tier (" + file_->path() + " at " +
                                                std::to_string(job.offset) + ") is damaged: " + fault};
  }
  return Status::Ok();
}

}  // namespace hbmesh
