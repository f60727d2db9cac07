// Order: one line of the launcher (src/bench/native-client.ts): a verb and name=value words, separated by blanks.
//
//   run op=set memory=m iterations=10 prefix=dev3_key suffixes=a,b
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hbmesh::bench {

class Order {
 public:
  // Throws Failure (INVALID) for a word that is neither the verb nor name=value.
  explicit Order(const std::string& line);
  [[nodiscard]] const std::string& verb() const { return verb_; }
  // Throws Failure (INVALID), naming verb and argument, where there is none.
  [[nodiscard]] const std::string& Text(const std::string& name) const;
  [[nodiscard]] uint64_t Number(const std::string& name) const;
  [[nodiscard]] uint64_t NumberOr(const std::string& name, uint64_t fallback) const;
  // "a,b,c"
  [[nodiscard]] std::vector<std::string> List(const std::string& name) const;

 private:
  std::string verb_;
  std::map<std::string, std::string> arguments_;
};

}  // namespace hbmesh::bench
