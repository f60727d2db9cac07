#include "bench/order.h"

#include <charconv>
#include <sstream>

#include "bench/failure.h"

namespace hbmesh::bench {

Order::Order(const std::string& line) {
  std::istringstream words(line);
  words >> verb_;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == 0 || equals == std::string::npos) {
      throw Failure(StatusCode::kInvalid, "order " + verb_ + ": \"" + word + "\" is not name=value");
    }
    arguments_[word.substr(0, equals)] = word.substr(equals + 1);
  }
}

const std::string& Order::Text(const std::string& name) const {
  const auto found = arguments_.find(name);
  if (found == arguments_.end()) throw Failure(StatusCode::kInvalid, "order " + verb_ + " lacks " + name + "=");
  return found->second;
}

uint64_t Order::Number(const std::string& name) const {
  const std::string& text = Text(name);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Failure(StatusCode::kInvalid, "order " + verb_ + ": " + name + "=" + text + " is no number");
  }
  return value;
}

uint64_t Order::NumberOr(const std::string& name, uint64_t fallback) const {
  return arguments_.contains(name) ? Number(name) : fallback;
}

std::vector<std::string> Order::List(const std::string& name) const {
  std::vector<std::string> items;
  std::istringstream text(Text(name));
  for (std::string item; std::getline(text, item, ',');) items.push_back(item);
  return items;
}

}  // namespace hbmesh::bench
