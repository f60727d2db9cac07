#include "capi/connection.h"

#include <pthread.h>

#include <atomic>
#include <utility>

#include "client/key_batch.h"

namespace hbmesh::capi {

namespace {

// More than any node has: which devices a node has is known once a client is connected, and checked there.
constexpr uint32_t kDevicesMax = 64;
// How often a request whose memory was unregistered again before it was sent is tried anew.
constexpr int kRegisterAttemptsMax = 4;

Status Invalid(std::string message) { return {StatusCode::kInvalid, std::move(message)}; }

uint32_t KeysMax(layout::Op op) {
  const bool query = op == layout::Op::kExist || op == layout::Op::kGetMeta;
  return query ? layout::kKeysPerQueryMax : layout::kKeysPerCallMax;
}

Status CollectKeys(const hbmesh_batch& batch, std::vector<std::string_view>* keys) {
  if (batch.keys == nullptr) return Invalid("keys is NULL: give key_count keys");
  for (uint32_t i = 0; i < batch.key_count; ++i) {
    if (batch.keys[i] == nullptr) return Invalid("key number " + std::to_string(i + 1) + " is NULL");
    keys->push_back(batch.key_bytes == nullptr ? std::string_view(batch.keys[i])
                                               : std::string_view(batch.keys[i], batch.key_bytes[i]));
  }
  return Status::Ok();
}

}  // namespace

Status ProcessSimHeap(SimHeap** heap) {
  static std::atomic<SimHeap*> made{nullptr};  // until the process ends: other threads may still use its memory then
  static std::mutex* making = nullptr;
  static std::once_flag prepared;
  // A child made by fork starts anew: the parent's memory stays the parent's, and its locks may be held for ever.
  std::call_once(prepared, [] {
    making = new std::mutex;
    ::pthread_atfork(nullptr, nullptr, [] {
      made = nullptr;
      making = new std::mutex;
    });
  });
  const std::lock_guard lock(*making);
  if (made == nullptr) {
    SimHeapOptions options;
    options.deviceCount = kDevicesMax;
    std::unique_ptr<SimHeap> created;
    if (Status status = SimHeap::Create(options, &created); !status.ok()) return status;
    made = created.release();
  }
  *heap = made;
  return Status::Ok();
}

Status Connection::Open(const ClientOptions& options, std::shared_ptr<Connection>* connection) {
  SimHeap* heap = nullptr;
  if (Status status = ProcessSimHeap(&heap); !status.ok()) return status;
  const std::shared_ptr<Connection> opened(new Connection);
  Connection* const self = opened.get();  // outlives its client, and so the callbacks
  ClientCallbacks callbacks;
  callbacks.onComplete = [self](Completion&& completion) {
    if (const auto operation = self->Find(completion.id, true)) operation->Complete(std::move(completion));
  };
  callbacks.onEvents = [self](RequestEvents&& events) {
    if (const auto operation = self->Find(events.id, false)) operation->TakeEvents(events);
  };
  callbacks.onClosed = [self](const Status& reason) {
    const std::lock_guard lock(self->mutex_);
    self->lost_ = Status(StatusCode::kClientWorkerDisconnect, reason.message());
  };
  if (Status status = Client::Connect(options, heap, std::move(callbacks), &opened->client_); !status.ok()) {
    return status;
  }
  *connection = opened;
  return Status::Ok();
}

Connection::~Connection() {
  if (client_) client_->Close();
}

std::shared_ptr<Operation> Connection::Find(uint64_t id, bool remove) {
  const std::lock_guard lock(mutex_);
  const auto found = operations_.find(id);
  if (found == operations_.end()) return nullptr;
  std::shared_ptr<Operation> operation = found->second;
  if (remove) operations_.erase(found);
  return operation;
}

Status Connection::MakeCall(layout::Op op, const hbmesh_batch& batch, const std::vector<std::string>* keys,
                            FlatCall* flat) const {
  if (batch.key_count == 0) return Invalid("no keys given: a call needs at least one");
  if (batch.key_count > KeysMax(op)) {
    return Invalid(std::to_string(batch.key_count) + " keys in one call, at most " + std::to_string(KeysMax(op)) +
                   " are allowed: make several calls");
  }
  std::vector<std::string_view> views;
  if (keys != nullptr) {
    views.assign(keys->begin(), keys->end());
  } else if (Status status = CollectKeys(batch, &views); !status.ok()) {
    return status;
  }
  if (Status status = EncodeKeyBatch(views, &flat->keys); !status.ok()) return status;
  if (batch.blob_count > 0 &&
      (batch.blob_ends == nullptr || batch.pointers == nullptr || batch.blob_bytes == nullptr)) {
    return Invalid("there are " + std::to_string(batch.blob_count) +
                   " blobs, but blob_ends, pointers or blob_bytes is NULL");
  }
  if (CarriesBlobs(op) && batch.device_index >= client_->deviceCount()) {
    return Invalid("the worker has no device " + std::to_string(batch.device_index) + ": its devices are 0 to " +
                   std::to_string(client_->deviceCount() - 1));
  }
  ObjectCall& call = flat->call;
  call.op = op;
  call.deviceIndex = batch.device_index;
  call.keys = flat->keys;
  call.keyCount = batch.key_count;
  if (batch.blob_count > 0) {
    call.blobEnds = {batch.blob_ends, batch.key_count};
    call.pointers = {batch.pointers, batch.blob_count};
    call.sizes = {batch.blob_bytes, batch.blob_count};
  }
  for (const uint64_t bytes : call.sizes) flat->totalBytes += bytes;
  return CheckObjectCall(call);
}

Status Connection::Submit(const FlatCall& flat, std::shared_ptr<Operation>* operation, uint64_t* id,
                          Client::Reception* reception) {
  auto made = std::make_shared<Operation>(flat.call.op, flat.call.keyCount);
  for (int attempt = 0;; ++attempt) {
    Status status;
    {
      const std::lock_guard lock(mutex_);
      status = client_->Submit(flat.call, Registration::kKnownOnly, id, reception);
      if (status.ok()) operations_.emplace(*id, made);
    }
    if (status.ok()) {
      *operation = std::move(made);
      return status;
    }
    if (status.code() != StatusCode::kNotReady) return status;
    if (attempt == kRegisterAttemptsMax) {
      return {StatusCode::kTryAgain,
              "device memory of this call was unregistered for other calls again and again: use fewer allocations or "
              "fewer calls at a time"};
    }
    status = client_->RegisterDeviceMemory(flat.call.pointers, flat.call.sizes);
    if (!status.ok()) return status;
  }
}

Status Connection::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

}  // namespace hbmesh::capi
