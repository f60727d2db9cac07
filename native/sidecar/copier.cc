#include "sidecar/copier.h"

#include <algorithm>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr size_t kPiecesMax = 4096;  // of one call of Device::Copy

}  // namespace

// Lives from Copy until its completion was delivered; owned by this file alone.
struct Copier::Job {
  uint32_t device;
  CopyKind kind;
  std::vector<CopyPiece> pieces;
  CompletionTarget* target;
  uint64_t tag;
  size_t next = 0;           // piece to start with
  uint32_t outstanding = 0;  // accepted by the device
  Status status;             // the first fault
};

void Copier::Copy(uint32_t device, CopyKind kind, std::vector<CopyPiece> pieces, CompletionTarget* target,
                  uint64_t tag) {
  auto* job = new Job{device, kind, std::move(pieces), target, tag, 0, 0, Status::Ok()};
  ++active_;
  if (!waiting_[device].empty() || !Start(*job)) {
    waiting_[device].push_back(job);
    return;
  }
  if (job->outstanding == 0) ended_.push_back(job);
}

bool Copier::Start(Job& job) {
  while (job.next < job.pieces.size() && job.status.ok()) {
    const size_t count = std::min(kPiecesMax, job.pieces.size() - job.next);
    const uint64_t token = tokens_.Add(this, reinterpret_cast<uint64_t>(&job));
    Status status = devices_[job.device]->Copy(job.kind, std::span(job.pieces).subspan(job.next, count), token);
    if (!status.ok()) tokens_.Withdraw(token);
    if (status.code() == StatusCode::kTryAgain) return false;
    if (!status.ok()) {
      job.status = std::move(status);
      break;
    }
    job.next += count;
    ++job.outstanding;
  }
  return true;
}

void Copier::EndIfDone(Job* job) {
  const bool started = job->next >= job->pieces.size() || !job->status.ok();
  if (!started || job->outstanding != 0) return;
  std::erase(waiting_[job->device], job);  // it may wait with a fault of an earlier part
  const std::unique_ptr<Job> owned(job);
  --active_;
  owned->target->OnCompletion(owned->tag, owned->status);
}

void Copier::OnCompletion(uint64_t tag, const Status& status) {
  Job* job = reinterpret_cast<Job*>(tag);
  --job->outstanding;
  if (!status.ok() && job->status.ok()) job->status = status;
  const uint32_t device = job->device;
  EndIfDone(job);
  Advance(device);
}

void Copier::Advance(uint32_t device) {
  std::deque<Job*>& queue = waiting_[device];
  while (!queue.empty() && Start(*queue.front())) {
    Job* job = queue.front();
    queue.pop_front();
    if (job->outstanding == 0) ended_.push_back(job);
  }
}

void Copier::Cancel(const CompletionTarget* target) {
  for (const std::deque<Job*>& queue : waiting_) {
    for (Job* job : queue) {
      if (job->target == target && job->status.ok())
        job->status = {StatusCode::kRpcCancelled, "nobody needs the bytes"};
    }
  }
}

bool Copier::Poll() {
  for (uint32_t device = 0; device < waiting_.size(); ++device) Advance(device);
  if (ended_.empty()) return false;
  for (Job* job : std::exchange(ended_, {})) EndIfDone(job);
  return true;
}

}  // namespace hbmesh::sidecar
