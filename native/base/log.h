// The log of a native process: one logger, to stderr, in the form of `time level [process] message`.
//
// HBMESH_LOG sets the level: trace, debug, info (default), warn, error, off. Thread rule: any thread. Not for the hot
// path. Whoever classifies an error logs it, once.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace hbmesh {

// The logger, made at first use.
[[nodiscard]] spdlog::logger& Log();

// The name in brackets, for example "sidecar 127.0.0.1:31501". Default: "hbmesh". Call it before threads start.
void SetLogName(const std::string& name);

}  // namespace hbmesh
