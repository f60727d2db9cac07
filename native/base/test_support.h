// For tests only: a printed seed, patterns of bytes, and the worked examples of docs/FORMATS.md.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace hbmesh::testing_support {

// The seed of a random test: HBMESH_SEED if set, to run one again, else a new one. Prints it.
inline uint64_t Seed() {
  const char* given = std::getenv("HBMESH_SEED");
  const uint64_t seed = given != nullptr ? std::stoull(given) : std::random_device{}();
  std::printf("HBMESH_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// Bytes that differ by id and place.
inline std::vector<std::byte> Pattern(uint64_t id, size_t bytes) {
  std::vector<std::byte> made(bytes);
  for (size_t i = 0; i < bytes; i++) {
    made[i] = static_cast<std::byte>(id * 31 + i * 7 + (i >> 8));
  }
  return made;
}

// The bytes of the example that follows the line `<!-- example: name -->` in docs/FORMATS.md: lines of `offset: hex
// bytes | text`, up to the end of the code block. Bytes that no line gives are 0. Empty if there is no such example.
inline std::vector<std::byte> ReadExample(const std::string& name) {
  std::ifstream file(std::string(HBMESH_SOURCE_DIR) + "/docs/FORMATS.md");
  std::vector<std::byte> bytes;
  std::string line;
  while (std::getline(file, line) && line != "<!-- example: " + name + " -->") {
  }
  std::getline(file, line);  // the fence
  while (std::getline(file, line) && line != "```") {
    std::istringstream words(line.substr(0, line.find('|')));
    std::string word;
    words >> word;
    size_t offset = std::stoul(word, nullptr, 16);
    while (words >> word) {
      bytes.resize(std::max(bytes.size(), offset + 1));
      bytes[offset++] = static_cast<std::byte>(std::stoul(word, nullptr, 16));
    }
  }
  return bytes;
}

}  // namespace hbmesh::testing_support
