// The start of every fuzzer: writes its seeds where that is asked for.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "fuzz/fuzz.h"

namespace hbmesh::fuzz {

void Fail(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: doesn't hold: %s\n", file, line, condition);
  std::abort();
}

namespace {

void WriteSeeds(const std::string& folder) {
  size_t number = 0;
  for (const Bytes& seed : Seeds()) {
    std::ofstream file(folder + "/seed-" + std::to_string(number++), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
    FUZZ_CHECK(file.good());
  }
}

}  // namespace
}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments);

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*arguments*/) {
  if (const char* folder = std::getenv("HBMESH_FUZZ_SEEDS"); folder != nullptr) {
    hbmesh::fuzz::WriteSeeds(folder);
    std::exit(0);
  }
  // A fault of the input is logged a thousand times a second.
  ::setenv("HBMESH_LOG", "off", 0);
  return 0;
}
