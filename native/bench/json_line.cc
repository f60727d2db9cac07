#include "bench/json_line.h"

#include <fmt/format.h>

#include <iterator>

namespace hbmesh::bench {

namespace {

std::string Quoted(std::string_view value) {
  std::string text = "\"";
  for (const char character : value) {
    if (character == '"' || character == '\\') {
      text += '\\';
      text += character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      text += fmt::format("\\u{:04x}", static_cast<unsigned>(character));
    } else {
      text += character;
    }
  }
  return text + '"';
}

}  // namespace

void JsonLine::Name(std::string_view name) {
  if (!text_.empty()) text_ += ',';
  text_ += Quoted(name);
  text_ += ':';
}

JsonLine& JsonLine::Text(std::string_view name, std::string_view value) { return Raw(name, Quoted(value)); }

JsonLine& JsonLine::Number(std::string_view name, uint64_t value) { return Raw(name, std::to_string(value)); }

JsonLine& JsonLine::Flag(std::string_view name, bool value) { return Raw(name, value ? "true" : "false"); }

JsonLine& JsonLine::Micros(std::string_view name, std::span<const uint64_t> nanoseconds) {
  Name(name);
  text_ += '[';
  for (size_t i = 0; i < nanoseconds.size(); ++i) {
    fmt::format_to(std::back_inserter(text_), "{}{}.{:03}", i == 0 ? "" : ",", nanoseconds[i] / 1000,
                   nanoseconds[i] % 1000);
  }
  text_ += ']';
  return *this;
}

JsonLine& JsonLine::Raw(std::string_view name, std::string_view json) {
  Name(name);
  text_ += json;
  return *this;
}

}  // namespace hbmesh::bench
