// SpillTier: payloads of objects on an SSD, in one file of bounded size. Write and Read only queue; worker threads copy
// through buffers that O_DIRECT takes, check the CRC32C, and tell a sink.
//
// It knows places and bytes, not slots: store/spiller.h joins it to the object store. Thread rule: the loop, but for
// the sink, which is called from the workers. Every job that was taken completes exactly once, at the latest in the
// destructor.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "store/spill_file.h"
#include "store/spill_io.h"

namespace hbmesh {

struct SpillOptions {
  enum class Io : uint32_t { kAuto = 0, kUring = 1, kPlain = 2 };

  std::string directory;             // of this worker alone
  uint64_t bytesMax = 0;             // of the file, all allocated at the start
  Io io = Io::kAuto;                 // kAuto: io_uring if it is permitted, else plain reads and writes
  bool direct = true;                // O_DIRECT, if the file system has it
  uint32_t threads = 2;              // 1 to 16; each takes SpillIo::kDepth x chunkBytes of memory
  uint32_t chunkBytes = 512U << 10;  // a multiple of 4,096
  uint32_t queueMax = 1024;          // jobs waiting; more get kTryAgain
  SpillFault fault = {};             // for tests
};

// Where completions go.
class SpillSink {
 public:
  // kOk; kDataInconsistency: what is there are not the bytes that were written; kShuttingDown: not begun; else what the
  // system said. Any thread. After a Read that failed the target holds anything.
  virtual void OnSpillIo(uint64_t token, Status status) = 0;

 protected:
  ~SpillSink() = default;
};

class SpillTier {
 public:
  // As SpillFile::Open, and kNotSupported: kUring was asked for and is not permitted. `sink` is borrowed.
  [[nodiscard]] static Status Open(const SpillOptions& options, uint64_t storeId, SpillSink* sink,
                                   std::unique_ptr<SpillTier>* tier);
  // Ends the jobs under way, the waiting ones with kShuttingDown, and removes the file unless file().Keep() was called.
  ~SpillTier();
  SpillTier(const SpillTier&) = delete;
  SpillTier& operator=(const SpillTier&) = delete;

  // The file and its space.
  [[nodiscard]] SpillFile& file() { return *file_; }
  [[nodiscard]] const SpillFile& file() const { return *file_; }
  [[nodiscard]] const char* ioName() const { return ioName_; }

  // Writes a payload to a place reserved for it, with its checksum. The bytes must stay until the completion.
  // kTryAgain: the queue is full, nothing was taken.
  [[nodiscard]] Status Write(uint64_t offset, std::span<const std::byte> payload, const SpillIdentity& identity,
                             uint64_t token);
  // Reads a payload and checks that it is this object's, whole. Reads go before writes: someone waits for them.
  [[nodiscard]] Status Read(uint64_t offset, std::span<std::byte> target, const SpillIdentity& identity,
                            uint64_t token);

 private:
  struct Job {
    SpillOp op;
    uint64_t offset;
    std::byte* payload;  // kWrite only reads it
    SpillIdentity identity;
    uint64_t token;
  };
  struct Worker {
    std::unique_ptr<SpillIo> io;
    std::unique_ptr<SpillIo> packed;  // for packed records: through the page cache
    AlignedBuffer buffers;            // kDepth x chunkBytes
    std::thread thread;
  };

  SpillTier(const SpillOptions& options, std::unique_ptr<SpillFile> file, SpillSink* sink)
      : options_(options), file_(std::move(file)), sink_(sink) {}
  [[nodiscard]] Status MakeWorkers();
  [[nodiscard]] Status Queue(const Job& job);
  [[nodiscard]] std::optional<Job> NextJob();
  void Work(Worker* worker);
  [[nodiscard]] Status WriteRecord(Worker* worker, const Job& job) const;
  [[nodiscard]] Status ReadRecord(Worker* worker, const Job& job) const;
  [[nodiscard]] Status Failed(const Job& job, int error) const;

  const SpillOptions options_;
  const std::unique_ptr<SpillFile> file_;
  SpillSink* const sink_;
  const char* ioName_ = "";
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> reads_;   // guarded by mutex_
  std::deque<Job> writes_;  // guarded by mutex_
  bool stopping_ = false;   // guarded by mutex_
};

}  // namespace hbmesh
