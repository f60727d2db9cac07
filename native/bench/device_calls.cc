#include "bench/device_calls.h"

#include <atomic>

#include "bench/capi_check.h"

namespace hbmesh::bench {

Published::~Published() {
  for (hbmesh_future* future : futures_) hbmesh_future_free(future);
}

void Published::Publish(const CallPlan& plan) {
  const uint32_t keys = plan.memory->shape().keys;
  CallKeys names(plan.names, 0, keys);
  for (uint32_t iteration = 0; iteration < plan.iterations; ++iteration) {
    std::vector<hbmesh_future*> futures(keys);
    const hbmesh_batch batch = plan.memory->Batch(0, names.Name(iteration));
    CheckCall(hbmesh_dev_publish(plan.client, &batch, futures.data()), "publish");
    futures_.insert(futures_.end(), futures.begin(), futures.end());
  }
}

void Published::Settle(uint32_t timeoutMs) {
  for (hbmesh_future* future : futures_) CheckCall(hbmesh_future_get(future, timeoutMs, nullptr), "what was published");
  for (hbmesh_future* future : futures_) hbmesh_future_free(future);
  futures_.clear();
}

Ticket Reserve(hbmesh_client* client, const ObjectMemory& memory) {
  hbmesh_ticket* ticket = nullptr;
  const hbmesh_batch layers = memory.Batch(0, nullptr);
  CheckCall(hbmesh_reserve_layers(client, &layers, 0, &ticket), "reservation");
  return Ticket(ticket);
}

namespace {

class PushWork final : public ThreadWork {
 public:
  PushWork(hbmesh_client* client, const ObjectMemory& memory, const std::string& ticket, std::atomic<uint32_t>& next)
      : client_(client), memory_(memory), ticket_(ticket), next_(next) {}
  void Prepare(uint32_t /*iteration*/) override { layer_ = next_.fetch_add(1, std::memory_order_relaxed); }
  void Call() override {
    if (layer_ >= memory_.shape().keys) return;
    const hbmesh_batch blobs = memory_.Layer(layer_);
    CheckCall(hbmesh_push_layer(client_, ticket_.c_str(), layer_, &blobs, nullptr), "push");
  }

 private:
  hbmesh_client* const client_;
  const ObjectMemory& memory_;
  const std::string& ticket_;
  std::atomic<uint32_t>& next_;  // relaxed: only its value matters
  uint32_t layer_ = 0;
};

}  // namespace

TimedRun PushLayers(hbmesh_client* client, const ObjectMemory& memory, const std::string& ticket, uint32_t inFlight,
                    uint64_t atNs) {
  std::atomic<uint32_t> next = 0;
  const uint32_t calls = (memory.shape().keys + inFlight - 1) / inFlight;
  return RunTimed(inFlight, calls, atNs,
                  [&](uint32_t) { return std::make_unique<PushWork>(client, memory, ticket, next); });
}

}  // namespace hbmesh::bench
