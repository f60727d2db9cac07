// Job: work that may block, on a thread of its own, that settles a promise. It is not on Node's thread pool, so that a
// worker that doesn't answer can't hold up file access, and so that the end of the environment can interrupt it.
//
// Thread rule: Run on the environment's thread. The environment's end cancels the job and waits for its thread.
#pragma once

#include <functional>

#include "addon/js_values.h"

namespace hbmesh::addon {

struct JobSteps {
  // On the job's thread. `cancelFd` becomes readable when the environment ends.
  std::function<Status(int cancelFd)> work;
  // Then, on the environment's thread, unless work failed: gives the value that the promise resolves to, or throws.
  std::function<Napi::Value(Napi::Env env)> finish;
};

[[nodiscard]] Napi::Promise RunJob(Napi::Env env, const char* name, JobSteps steps);

// The same for callers that settle something else: `done` gets the status of the work.
void RunJob(Napi::Env env, const char* name, std::function<Status(int cancelFd)> work,
            std::function<void(Napi::Env env, const Status& status)> done);

}  // namespace hbmesh::addon
