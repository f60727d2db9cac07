// Checksums: CRC32C of bytes that lie in memory, off the loop's thread: a large object takes longer than the loop may
// stand still. Threads are started when they are first needed; what is small is done at once.
//
// Thread rule: the loop. Items and the memory that they name must stay valid until completion.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "sidecar/completions.h"

namespace hbmesh::sidecar {

struct ChecksumItem {
  std::vector<LocalPiece> pieces;  // the bytes, in order
  uint32_t expected = 0;           // the caller's own; not looked at
  uint32_t crc32c = 0;             // set before completion
};

class Checksums {
 public:
  Checksums(CompletionQueue& events, TokenTable& tokens) : events_(events), tokens_(tokens) {}
  // Ends the threads; what has not begun is not done, and its completion doesn't come.
  ~Checksums();
  Checksums(const Checksums&) = delete;
  Checksums& operator=(const Checksums&) = delete;

  // Calls target->OnCompletion(tag, kOk) exactly once, later: when every item has its checksum.
  void Compute(std::span<ChecksumItem> items, CompletionTarget* target, uint64_t tag);

 private:
  struct Job {
    std::span<ChecksumItem> items;
    uint64_t token;
    size_t next = 0;  // item that nobody has taken
    size_t left;      // items without a checksum
  };

  void Work();
  void Complete(uint64_t token);

  CompletionQueue& events_;
  TokenTable& tokens_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;  // guarded by mutex_, as the jobs are: those with items to be taken
  bool stopping_ = false;                  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace hbmesh::sidecar
