// hbmesh.node: what src/sidecar/addon.ts declares. No policy here: the client core, the control process's port,
// simulated device memory, and the layouts that both languages share.
//
// Node-API only (version 8), so one build serves every Node from 18 on. Safe in worker_threads: each environment has
// its own clients; the simulated memory is the process's.
#include "addon/client_wrap.h"
#include "addon/control_wrap.h"
#include "addon/copy_bandwidth.h"
#include "addon/js_values.h"
#include "addon/layout_export.h"
#include "addon/reap_child.h"
#include "addon/sim_heap_export.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  using namespace hbmesh::addon;
  exports.Set("layout", MakeLayoutObject(env));
  exports.Set("simHeap", MakeSimHeapObject(env));
  exports.Set("connectClient", Napi::Function::New<ConnectClient>(env, "connectClient"));
  exports.Set("connectControl", Napi::Function::New<ConnectControl>(env, "connectControl"));
  exports.Set("reapChild", Napi::Function::New<ReapChild>(env, "reapChild"));
  exports.Set("measureCopyBandwidth", Napi::Function::New<MeasureCopyBandwidth>(env, "measureCopyBandwidth"));
  return exports;
}

}  // namespace

NODE_API_MODULE(hbmesh, Init)
