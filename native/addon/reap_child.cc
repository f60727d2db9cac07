#include "addon/reap_child.h"

#include <sys/wait.h>

#include <cerrno>

#include "addon/js_values.h"

namespace hbmesh::addon {

Napi::Value ReapChild(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto pid = static_cast<pid_t>(AsUint32(info[0], "pid"));
  // 0 and less are groups of children, Node's among them.
  if (pid <= 0) throw MakeError(env, StatusCode::kInvalid, "pid must be the id of one process");
  pid_t reaped = 0;
  do reaped = ::waitpid(pid, nullptr, WNOHANG);
  while (reaped < 0 && errno == EINTR);
  return Napi::Boolean::New(env, reaped == pid);
}

}  // namespace hbmesh::addon
