// Results, and simulated device memory.
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using namespace hbmesh::capi;

template <typename Body>
hbmesh_status WithHeap(Body body) {
  return Guard([&]() -> Status {
    hbmesh::SimHeap* heap = nullptr;
    if (Status status = ProcessSimHeap(&heap); !status.ok()) return status;
    return body(*heap);
  });
}

std::byte* AsPointer(uint64_t pointer) { return reinterpret_cast<std::byte*>(pointer); }

}  // namespace

extern "C" {

uint32_t hbmesh_result_count(const hbmesh_result* result) {
  return result == nullptr ? 0 : static_cast<uint32_t>(result->statuses.size());
}

uint32_t hbmesh_result_failed_count(const hbmesh_result* result) {
  if (result == nullptr) return 0;
  const auto failed = [](uint32_t status) { return status != HBMESH_OK; };
  return static_cast<uint32_t>(std::count_if(result->statuses.begin(), result->statuses.end(), failed));
}

const uint32_t* hbmesh_result_statuses(const hbmesh_result* result) {
  return result == nullptr ? nullptr : result->statuses.data();
}

const uint32_t* hbmesh_result_flags(const hbmesh_result* result) {
  return result == nullptr ? nullptr : result->flags.data();
}

const uint64_t* hbmesh_result_bytes(const hbmesh_result* result) {
  return result == nullptr ? nullptr : result->bytes.data();
}

const uint64_t* hbmesh_result_generations(const hbmesh_result* result) {
  return result == nullptr ? nullptr : result->generations.data();
}

hbmesh_status hbmesh_result_status(const hbmesh_result* result, uint32_t index) {
  return index < hbmesh_result_count(result) ? result->statuses[index] : hbmesh_status{HBMESH_OK};
}

const char* hbmesh_result_message(const hbmesh_result* result, uint32_t index) {
  return index < hbmesh_result_count(result) ? result->messages[index].c_str() : "";
}

const uint64_t* hbmesh_result_blob_bytes(const hbmesh_result* result, uint32_t* count) {
  const bool none = result == nullptr || result->blobBytes.empty();
  if (count != nullptr) *count = none ? 0 : static_cast<uint32_t>(result->blobBytes.size());
  return none ? nullptr : result->blobBytes.data();
}

const uint32_t* hbmesh_result_blob_ends(const hbmesh_result* result) {
  return result == nullptr || result->blobEnds.empty() ? nullptr : result->blobEnds.data();
}

uint32_t hbmesh_result_path_count(const hbmesh_result* result) {
  return result == nullptr ? 0 : static_cast<uint32_t>(result->paths.size());
}

hbmesh_status hbmesh_result_path(const hbmesh_result* result, uint32_t index, hbmesh_path* path) {
  return Guard([&]() -> Status {
    if (index >= hbmesh_result_path_count(result)) {
      return {StatusCode::kOutOfRange, "there is no path " + std::to_string(index)};
    }
    const hbmesh::layout::PathRecord& record = result->paths[index];
    hbmesh_path filled{};
    filled.transport = record.transport;
    filled.device_index = record.device;
    filled.lanes = record.lanes;
    filled.slices = record.slices;
    filled.flags = record.flags;
    filled.bytes = record.bytes;
    filled.nanoseconds = record.nanoseconds;
    std::memcpy(filled.source, record.source, sizeof(filled.source));
    filled.source[sizeof(filled.source) - 1] = '\0';
    return FillStruct(filled, "hbmesh_path", path);
  });
}

const char* hbmesh_transport_name(uint32_t transport) {
  switch (static_cast<hbmesh::layout::TransportId>(transport)) {
    case hbmesh::layout::TransportId::kLocal:
      return "local";
    case hbmesh::layout::TransportId::kShm:
      return "shm";
    case hbmesh::layout::TransportId::kTcp:
      return "tcp";
    case hbmesh::layout::TransportId::kRdma:
      return "rdma";
    case hbmesh::layout::TransportId::kHccs:
      return "hccs";
  }
  return "unknown";
}

void hbmesh_result_free(hbmesh_result* result) { delete result; }

hbmesh_status hbmesh_sim_allocate(uint32_t device_index, uint64_t bytes, uint64_t* pointer) {
  return WithHeap([&](hbmesh::SimHeap& heap) -> Status {
    if (pointer == nullptr) return IsNull("pointer");
    *pointer = 0;
    std::byte* allocated = nullptr;
    if (Status status = heap.Allocate(device_index, bytes, &allocated); !status.ok()) return status;
    *pointer = reinterpret_cast<uint64_t>(allocated);
    return Status::Ok();
  });
}

hbmesh_status hbmesh_sim_free(uint64_t pointer) {
  return WithHeap([&](hbmesh::SimHeap& heap) { return heap.Free(AsPointer(pointer)); });
}

hbmesh_status hbmesh_sim_copy_in(uint64_t pointer, const void* source, uint64_t bytes) {
  return WithHeap([&](hbmesh::SimHeap& heap) -> Status {
    if (source == nullptr) return IsNull("source");
    return heap.CopyIn(AsPointer(pointer), {static_cast<const std::byte*>(source), bytes});
  });
}

hbmesh_status hbmesh_sim_copy_out(void* target, uint64_t pointer, uint64_t bytes) {
  return WithHeap([&](hbmesh::SimHeap& heap) -> Status {
    if (target == nullptr) return IsNull("target");
    return heap.CopyOut({static_cast<std::byte*>(target), bytes}, AsPointer(pointer));
  });
}

}  // extern "C"
