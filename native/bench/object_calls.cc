#include "bench/object_calls.h"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "bench/capi_check.h"

namespace hbmesh::bench {

namespace {

class Result {
 public:
  ~Result() { hbmesh_result_free(result_); }
  [[nodiscard]] hbmesh_result** out() { return &result_; }
  [[nodiscard]] hbmesh_result* get() const { return result_; }
  void Reset() {
    hbmesh_result_free(result_);
    result_ = nullptr;
  }

 private:
  hbmesh_result* result_ = nullptr;
};

// Throws the first key's failure.
void CheckKeys(const hbmesh_result* result, const char* const* keys, const std::string& op) {
  if (hbmesh_result_failed_count(result) == 0) return;
  for (uint32_t i = 0; i < hbmesh_result_count(result); ++i) {
    const hbmesh_status status = hbmesh_result_status(result, i);
    if (status == HBMESH_OK) continue;
    throw Failure(static_cast<StatusCode>(status),
                  op + " of key \"" + keys[i] + "\": " + hbmesh_result_message(result, i));
  }
}

void AddPaths(const hbmesh_result* result, std::vector<PathSum>* sums) {
  for (uint32_t i = 0; i < hbmesh_result_path_count(result); ++i) {
    hbmesh_path path = HBMESH_INIT(hbmesh_path);
    if (hbmesh_result_path(result, i, &path) != HBMESH_OK) return;
    PathSum* same = nullptr;
    for (PathSum& sum : *sums) {
      if (sum.path.transport == path.transport && sum.path.lanes == path.lanes && sum.path.flags == path.flags &&
          std::strcmp(sum.path.source, path.source) == 0) {
        same = &sum;
      }
    }
    if (same == nullptr) {
      sums->push_back({path, 1});
    } else {
      same->path.bytes += path.bytes;
      same->path.nanoseconds += path.nanoseconds;
      same->calls += 1;
    }
  }
}

using CallFunction = hbmesh_status (*)(const CallPlan&, const hbmesh_batch&, hbmesh_result**);

hbmesh_status Subscribe(const CallPlan& plan, const hbmesh_batch& batch, hbmesh_result** result) {
  std::vector<hbmesh_future*> futures(batch.key_count);
  hbmesh_status first = hbmesh_dev_subscribe(plan.client, &batch, plan.timeoutMs, futures.data());
  for (uint32_t i = 0; first == HBMESH_OK && i < batch.key_count; ++i) {
    // The paths of the last key stand for all.
    const bool last = i + 1 == batch.key_count;
    first = hbmesh_future_get(futures[i], plan.timeoutMs, last ? result : nullptr);
  }
  for (hbmesh_future* future : futures) hbmesh_future_free(future);
  return first;
}

const std::map<std::string, CallFunction>& Calls() {
  static const std::map<std::string, CallFunction> calls = {
      {"set", [](const CallPlan& p, const hbmesh_batch& b,
                 hbmesh_result** r) { return hbmesh_set_d2h(p.client, &b, nullptr, r); }},
      {"get", [](const CallPlan& p, const hbmesh_batch& b,
                 hbmesh_result** r) { return hbmesh_get_h2d(p.client, &b, p.timeoutMs, r); }},
      {"delete",
       [](const CallPlan& p, const hbmesh_batch& b, hbmesh_result** r) { return hbmesh_delete(p.client, &b, r); }},
      {"exist",
       [](const CallPlan& p, const hbmesh_batch& b, hbmesh_result** r) { return hbmesh_exist(p.client, &b, r); }},
      {"meta", [](const CallPlan& p, const hbmesh_batch& b,
                  hbmesh_result** r) { return hbmesh_get_meta_info(p.client, &b, r); }},
      {"devmset", [](const CallPlan& p, const hbmesh_batch& b,
                     hbmesh_result** r) { return hbmesh_dev_mset(p.client, &b, nullptr, r); }},
      {"devmget", [](const CallPlan& p, const hbmesh_batch& b,
                     hbmesh_result** r) { return hbmesh_dev_mget(p.client, &b, p.timeoutMs, p.shareReplica, r); }},
      {"devdelete",
       [](const CallPlan& p, const hbmesh_batch& b, hbmesh_result** r) { return hbmesh_dev_delete(p.client, &b, r); }},
      {"devlocaldelete", [](const CallPlan& p, const hbmesh_batch& b,
                            hbmesh_result** r) { return hbmesh_dev_local_delete(p.client, &b, r); }},
      {"subscribe", Subscribe},
  };
  return calls;
}

// Calls about keys alone take no blobs.
bool MovesBytes(const std::string& op) {
  return op == "set" || op == "get" || op == "devmset" || op == "devmget" || op == "subscribe";
}

class Work final : public ThreadWork {
 public:
  Work(const CallPlan& plan, CallFunction call, uint32_t thread, std::mutex& mutex, std::vector<PathSum>* paths)
      : plan_(plan),
        call_(call),
        keys_(plan.names, thread, plan.memory->shape().keys),
        batch_(plan.memory->Batch(thread, nullptr)),
        mutex_(mutex),
        paths_(paths) {
    if (MovesBytes(plan.op)) return;
    batch_.blob_count = 0;
    batch_.blob_ends = nullptr;
    batch_.pointers = nullptr;
    batch_.blob_bytes = nullptr;
  }
  // What the last call left is summed up at the end of the thread.
  ~Work() override {
    Collect();
    const std::lock_guard lock(mutex_);
    for (const PathSum& mine : sums_) paths_->push_back(mine);
  }
  void Prepare(uint32_t iteration) override {
    Collect();
    batch_.keys = keys_.Name(iteration % plan_.iterations);
  }
  void Call() override {
    CheckCall(call_(plan_, batch_, result_.out()), plan_.op);
    if (plan_.op != "subscribe") CheckKeys(result_.get(), batch_.keys, plan_.op);
  }

 private:
  void Collect() {
    if (result_.get() == nullptr) return;
    AddPaths(result_.get(), &sums_);
    result_.Reset();
  }

  const CallPlan& plan_;
  const CallFunction call_;
  CallKeys keys_;
  hbmesh_batch batch_;
  Result result_;
  std::vector<PathSum> sums_;
  std::mutex& mutex_;
  std::vector<PathSum>* const paths_;  // guarded by mutex_
};

}  // namespace

const char* const* CallKeys::Name(uint32_t iteration) {
  const std::string head = names_.prefix + std::to_string(iteration) + "_";
  const std::string& suffix = names_.suffixes[thread_];
  pointers_.clear();
  for (size_t i = 0; i < texts_.size(); ++i) {
    texts_[i] = head + std::to_string(i) + "_" + suffix;
    pointers_.push_back(texts_[i].c_str());
  }
  return pointers_.data();
}

TimedRun RunCalls(const CallPlan& plan, std::vector<PathSum>* paths) {
  const auto found = Calls().find(plan.op);
  if (found == Calls().end()) throw Failure(StatusCode::kInvalid, "there is no op \"" + plan.op + "\"");
  const uint32_t threads = plan.memory->shape().threads;
  if (plan.names.suffixes.size() != threads) {
    throw Failure(StatusCode::kInvalid,
                  std::to_string(plan.names.suffixes.size()) + " suffixes for " + std::to_string(threads) + " threads");
  }
  std::mutex mutex;
  return RunTimed(threads, plan.iterations * plan.multiplier, plan.atNs,
                  [&](uint32_t thread) { return std::make_unique<Work>(plan, found->second, thread, mutex, paths); });
}

}  // namespace hbmesh::bench
