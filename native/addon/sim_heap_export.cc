#include "addon/sim_heap_export.h"

#include <mutex>

namespace hbmesh::addon {

namespace {

// More than any node has: which devices a node has is known once a client is connected, and checked there.
constexpr uint32_t kDevicesMax = 64;

SimHeap& Heap(Napi::Env env) {
  SimHeap* heap = nullptr;
  ThrowIfFailed(env, ProcessSimHeap(&heap));
  return *heap;
}

std::byte* AsPointer(const Napi::Value& value) { return reinterpret_cast<std::byte*>(AsUint64(value, "pointer")); }

Napi::Value Allocate(const Napi::CallbackInfo& info) {
  std::byte* pointer = nullptr;
  const uint32_t deviceIndex = AsUint32(info[0], "deviceIndex");
  ThrowIfFailed(info.Env(), Heap(info.Env()).Allocate(deviceIndex, AsUint64(info[1], "bytes"), &pointer));
  return Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(pointer));
}

Napi::Value Free(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), Heap(info.Env()).Free(AsPointer(info[0])));
  return info.Env().Undefined();
}

Napi::Value CopyIn(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), Heap(info.Env()).CopyIn(AsPointer(info[0]), AsBytes(info[1], "source")));
  return info.Env().Undefined();
}

Napi::Value CopyOut(const Napi::CallbackInfo& info) {
  const std::byte* const pointer = AsPointer(info[0]);
  const uint64_t bytes = AsUint64(info[1], "bytes");
  // Asked before the copy's memory is taken: a size that was meant as something else must not exhaust it.
  ExportedRegion region;
  ThrowIfFailed(info.Env(), Heap(info.Env()).Describe(pointer, bytes, &region));
  Napi::Uint8Array copy = Napi::Uint8Array::New(info.Env(), bytes);
  const std::span target(reinterpret_cast<std::byte*>(copy.Data()), bytes);
  ThrowIfFailed(info.Env(), Heap(info.Env()).CopyOut(target, pointer));
  return copy;
}

}  // namespace

Status ProcessSimHeap(SimHeap** heap) {
  static std::mutex mutex;
  static SimHeap* made = nullptr;
  const std::lock_guard lock(mutex);
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

Napi::Object MakeSimHeapObject(Napi::Env env) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("allocate", Napi::Function::New<Allocate>(env, "allocate"));
  object.Set("free", Napi::Function::New<Free>(env, "free"));
  object.Set("copyIn", Napi::Function::New<CopyIn>(env, "copyIn"));
  object.Set("copyOut", Napi::Function::New<CopyOut>(env, "copyOut"));
  return object;
}

}  // namespace hbmesh::addon
