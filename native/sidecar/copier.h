// Copier: copies between host and device memory that may be larger than a device takes at once. Cuts them into parts,
// keeps what a device doesn't take now, and completes once.
//
// Thread rule: the loop. The memory must stay valid until completion.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "device/device.h"
#include "sidecar/completions.h"

namespace hbmesh::sidecar {

class Copier final : private CompletionTarget {
 public:
  Copier(std::vector<std::unique_ptr<Device>>& devices, TokenTable& tokens)
      : devices_(devices), tokens_(tokens), waiting_(devices.size()) {}

  // Calls target->OnCompletion(tag) exactly once, later: also when there is nothing to copy, or a device refused.
  void Copy(uint32_t device, CopyKind kind, std::vector<CopyPiece> pieces, CompletionTarget* target, uint64_t tag);
  // Starts no further part of this target's copies. They complete all the same, with kRpcCancelled if a part is left.
  void Cancel(const CompletionTarget* target);
  // Tries again what a device didn't take, and completes what needed no device. True if anything moved.
  bool Poll();
  // Copies under way or waiting.
  [[nodiscard]] size_t active() const { return active_; }

 private:
  struct Job;

  void OnCompletion(uint64_t tag, const Status& status) override;
  // False: the device is full; the job waits.
  bool Start(Job& job);
  void EndIfDone(Job* job);
  void Advance(uint32_t device);

  std::vector<std::unique_ptr<Device>>& devices_;
  TokenTable& tokens_;
  size_t active_ = 0;
  std::vector<std::deque<Job*>> waiting_;  // of each device
  std::vector<Job*> ended_;                // to be completed by the next Poll
};

}  // namespace hbmesh::sidecar
