// JsonLine: one answer, a JSON object on one line, field after field.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace hbmesh::bench {

class JsonLine {
 public:
  JsonLine& Text(std::string_view name, std::string_view value);
  JsonLine& Number(std::string_view name, uint64_t value);
  JsonLine& Flag(std::string_view name, bool value);
  // As microseconds with three digits, from nanoseconds.
  JsonLine& Micros(std::string_view name, std::span<const uint64_t> nanoseconds);
  // `json` is an object or array already.
  JsonLine& Raw(std::string_view name, std::string_view json);
  [[nodiscard]] std::string Finish() const { return "{" + text_ + "}"; }

 private:
  void Name(std::string_view name);
  std::string text_;
};

}  // namespace hbmesh::bench
