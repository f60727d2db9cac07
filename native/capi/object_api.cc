// Host objects and the device cache: set, get, delete and questions, each waited for or with a future.
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using hbmesh::layout::Op;
using namespace hbmesh::capi;

// Fails for a struct that is none; what stands in it is the plan's fault.
Status SetPlan(Op op, const hbmesh_set_options* options, CallPlan* plan) {
  plan->op = op;
  if (options == nullptr) return Status::Ok();
  hbmesh_set_options given{};
  if (Status status = CopyStruct(options, "hbmesh_set_options", &given); !status.ok()) return status;
  if (given.existence > HBMESH_EXISTENCE_REPLACE || given.pin > HBMESH_PIN_HARD || given.checksum > 1) {
    plan->fault = {StatusCode::kInvalid,
                   "existence " + std::to_string(given.existence) + ", pin " + std::to_string(given.pin) +
                       " or checksum " + std::to_string(given.checksum) + " is none: use 0 to 2, 0 to 2, and 0 or 1"};
  }
  plan->args[0] = given.existence;
  plan->args[1] = given.ttl_ms;
  plan->args[2] = given.pin | (given.checksum != 0 ? uint64_t{hbmesh::layout::kSetChecksum} : 0);
  return Status::Ok();
}

hbmesh_status Set(hbmesh_client* client, Op op, const hbmesh_batch* batch, const hbmesh_set_options* options,
                  hbmesh_result** result) {
  return Guard([&]() -> Status {
    CallPlan plan;
    if (result != nullptr) *result = nullptr;
    if (Status status = SetPlan(op, options, &plan); !status.ok()) return status;
    return CallAndWait(client, batch, plan, result);
  });
}

hbmesh_status SetAsync(hbmesh_client* client, Op op, const hbmesh_batch* batch, const hbmesh_set_options* options,
                       hbmesh_future** future) {
  return Guard([&]() -> Status {
    CallPlan plan;
    if (future != nullptr) *future = nullptr;
    if (Status status = SetPlan(op, options, &plan); !status.ok()) return status;
    return NewFuture(client, batch, plan, future);
  });
}

CallPlan GetPlan(uint32_t timeoutMs) {
  return {Op::kGetH2D, {timeoutMs, 0, 0}, timeoutMs, nullptr, CheckTimeout(timeoutMs)};
}

CallPlan DevGetPlan(uint32_t timeoutMs, uint32_t shareReplica) {
  const uint64_t flags = shareReplica != 0 ? uint64_t{hbmesh::layout::kShareReplica} : 0;
  return {Op::kDevMGet, {timeoutMs, flags, 0}, timeoutMs, nullptr, CheckTimeout(timeoutMs)};
}

hbmesh_status Ask(hbmesh_client* client, Op op, const hbmesh_batch* batch, hbmesh_result** result) {
  return Guard([&] { return CallAndWait(client, batch, {op, {}, 0, nullptr}, result); });
}

hbmesh_status AskAsync(hbmesh_client* client, Op op, const hbmesh_batch* batch, hbmesh_future** future) {
  return Guard([&] { return NewFuture(client, batch, {op, {}, 0, nullptr}, future); });
}

// The blob sizes of each key, to put answers together.
using BlobLists = std::vector<std::vector<uint64_t>>;

BlobLists BlobsOf(const hbmesh_result& result) {
  BlobLists lists(result.statuses.size());
  uint32_t begin = 0;
  for (size_t i = 0; i < result.blobEnds.size(); ++i) {
    lists[i].assign(result.blobBytes.begin() + begin, result.blobBytes.begin() + result.blobEnds[i]);
    begin = result.blobEnds[i];
  }
  return lists;
}

void PutBlobs(const BlobLists& lists, hbmesh_result* result) {
  result->blobBytes.clear();
  result->blobEnds.clear();
  for (const std::vector<uint64_t>& blobs : lists) {
    result->blobBytes.insert(result->blobBytes.end(), blobs.begin(), blobs.end());
    result->blobEnds.push_back(static_cast<uint32_t>(result->blobBytes.size()));
  }
}

Status AskMeta(hbmesh_client* client, const hbmesh_batch& batch, hbmesh_result* answer);

// Asks again for these keys of the batch, and puts what is said of them into the answer.
void AskMetaAgain(hbmesh_client* client, const hbmesh_batch& batch, std::span<const uint32_t> indexes,
                  hbmesh_result* answer, BlobLists* blobs) {
  std::vector<const char*> keys;
  std::vector<uint32_t> keyBytes;
  for (const uint32_t index : indexes) {
    keys.push_back(batch.keys[index]);
    if (batch.key_bytes != nullptr) keyBytes.push_back(batch.key_bytes[index]);
  }
  hbmesh_batch part = HBMESH_INIT(hbmesh_batch);
  part.key_count = static_cast<uint32_t>(keys.size());
  part.keys = keys.data();
  part.key_bytes = batch.key_bytes == nullptr ? nullptr : keyBytes.data();
  hbmesh_result told;
  const Status status = AskMeta(client, part, &told);
  BlobLists lists = status.ok() ? BlobsOf(told) : BlobLists(indexes.size());
  for (size_t at = 0; at < indexes.size(); ++at) {
    const uint32_t index = indexes[at];
    answer->statuses[index] = status.ok() ? told.statuses[at] : static_cast<uint32_t>(status.code());
    answer->messages[index] = status.ok() ? told.messages[at] : status.message();
    if (!status.ok()) continue;
    answer->bytes[index] = told.bytes[at];
    answer->generations[index] = told.generations[at];
    (*blobs)[index] = std::move(lists[at]);
  }
}

// An answer carries so many blob sizes: keys that were too much for it are asked for again, half of them at a time.
Status AskMeta(hbmesh_client* client, const hbmesh_batch& batch, hbmesh_result* answer) {
  Sent sent;
  if (Status status = Send(client, &batch, {Op::kGetMeta, {}, 0, nullptr}, &sent); !status.ok()) return status;
  const Status ended = Await(sent, client->options.workerAddress);
  if (!ended.ok() && (ended.code() != StatusCode::kOutOfRange || batch.key_count == 1)) return ended;
  *answer = ended.ok() ? sent.operation->result() : hbmesh_result(batch.key_count);
  std::vector<uint32_t> left;
  for (uint32_t i = 0; i < batch.key_count; ++i) {
    if (!ended.ok() || answer->statuses[i] == HBMESH_OUT_OF_RANGE) left.push_back(i);
  }
  if (left.empty() || batch.key_count == 1) return Status::Ok();
  BlobLists blobs = BlobsOf(*answer);
  const size_t half = (left.size() + 1) / 2;
  const std::span<const uint32_t> all(left);
  AskMetaAgain(client, batch, all.first(half), answer, &blobs);
  if (half < left.size()) AskMetaAgain(client, batch, all.subspan(half), answer, &blobs);
  PutBlobs(blobs, answer);
  return Status::Ok();
}

Status Metadata(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  if (result != nullptr) *result = nullptr;
  hbmesh_batch given{};
  if (client == nullptr) return IsNull("client");
  if (Status status = CopyStruct(batch, "hbmesh_batch", &given); !status.ok()) return status;
  given.size = sizeof(given);
  hbmesh_result answer;
  if (Status status = AskMeta(client, given, &answer); !status.ok()) return status;
  return Deliver(std::move(answer), result);
}

// The call of an explanation; the key is borrowed by the plan.
template <typename Body>
hbmesh_status Explain(const char* key, Body body) {
  return Guard([&]() -> Status {
    if (key == nullptr) return IsNull("key");
    const std::vector<std::string> keys = {key};
    hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
    batch.key_count = 1;
    return body(&batch, CallPlan{Op::kExplain, {}, 0, &keys});
  });
}

}  // namespace

extern "C" {

hbmesh_status hbmesh_set_d2h(hbmesh_client* client, const hbmesh_batch* batch, const hbmesh_set_options* options,
                             hbmesh_result** result) {
  return Set(client, Op::kSetD2H, batch, options, result);
}

hbmesh_status hbmesh_set_d2h_async(hbmesh_client* client, const hbmesh_batch* batch, const hbmesh_set_options* options,
                                   hbmesh_future** future) {
  return SetAsync(client, Op::kSetD2H, batch, options, future);
}

hbmesh_status hbmesh_dev_mset(hbmesh_client* client, const hbmesh_batch* batch, const hbmesh_set_options* options,
                              hbmesh_result** result) {
  return Set(client, Op::kDevMSet, batch, options, result);
}

hbmesh_status hbmesh_dev_mset_async(hbmesh_client* client, const hbmesh_batch* batch, const hbmesh_set_options* options,
                                    hbmesh_future** future) {
  return SetAsync(client, Op::kDevMSet, batch, options, future);
}

hbmesh_status hbmesh_get_h2d(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                             hbmesh_result** result) {
  return Guard([&] { return CallAndWait(client, batch, GetPlan(timeout_ms), result); });
}

hbmesh_status hbmesh_get_h2d_async(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                   hbmesh_future** future) {
  return Guard([&] { return NewFuture(client, batch, GetPlan(timeout_ms), future); });
}

hbmesh_status hbmesh_dev_mget(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                              uint32_t share_replica, hbmesh_result** result) {
  return Guard([&] { return CallAndWait(client, batch, DevGetPlan(timeout_ms, share_replica), result); });
}

hbmesh_status hbmesh_dev_mget_async(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                    uint32_t share_replica, hbmesh_future** future) {
  return Guard([&] { return NewFuture(client, batch, DevGetPlan(timeout_ms, share_replica), future); });
}

hbmesh_status hbmesh_delete(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  return Ask(client, Op::kDelete, batch, result);
}

hbmesh_status hbmesh_delete_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future) {
  return AskAsync(client, Op::kDelete, batch, future);
}

hbmesh_status hbmesh_dev_delete(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  return Ask(client, Op::kDevDelete, batch, result);
}

hbmesh_status hbmesh_dev_delete_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future) {
  return AskAsync(client, Op::kDevDelete, batch, future);
}

hbmesh_status hbmesh_dev_local_delete(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  return Ask(client, Op::kDevLocalDelete, batch, result);
}

hbmesh_status hbmesh_dev_local_delete_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future) {
  return AskAsync(client, Op::kDevLocalDelete, batch, future);
}

hbmesh_status hbmesh_exist(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  return Guard([&]() -> Status {
    if (result == nullptr) return IsNull("result");
    return CallAndWait(client, batch, {Op::kExist, {}, 0, nullptr}, result);
  });
}

hbmesh_status hbmesh_exist_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future) {
  return AskAsync(client, Op::kExist, batch, future);
}

hbmesh_status hbmesh_get_meta_info(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result) {
  return Guard([&] { return Metadata(client, batch, result); });
}

hbmesh_status hbmesh_get_meta_info_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future) {
  return AskAsync(client, Op::kGetMeta, batch, future);
}

hbmesh_status hbmesh_explain(hbmesh_client* client, const char* key, hbmesh_result** result) {
  return Explain(key, [&](const hbmesh_batch* batch, const CallPlan& plan) {
    return result == nullptr ? IsNull("result") : CallAndWait(client, batch, plan, result);
  });
}

hbmesh_status hbmesh_explain_async(hbmesh_client* client, const char* key, hbmesh_future** future) {
  return Explain(
      key, [&](const hbmesh_batch* batch, const CallPlan& plan) { return NewFuture(client, batch, plan, future); });
}

}  // extern "C"
