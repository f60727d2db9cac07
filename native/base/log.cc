#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <memory>

namespace hbmesh {
namespace {

std::shared_ptr<spdlog::logger>& Holder() {
  static std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>("hbmesh", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    const char* level = std::getenv("HBMESH_LOG");
    // from_str answers `off` for words it doesn't know; a typing error must not silence errors.
    const std::string word = level == nullptr ? "info" : level;
    const auto parsed = spdlog::level::from_str(word);
    made->set_level(parsed == spdlog::level::off && word != "off" ? spdlog::level::info : parsed);
    made->flush_on(spdlog::level::trace);
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l [hbmesh] %v");
    return made;
  }();
  return logger;
}

}  // namespace

spdlog::logger& Log() { return *Holder(); }

void SetLogName(const std::string& name) {
  std::string escaped;
  for (const char c : name) {
    escaped += c;
    if (c == '%') {
      escaped += '%';  // the pattern's own escape
    }
  }
  Holder()->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l [" + escaped + "] %v");
}

}  // namespace hbmesh
