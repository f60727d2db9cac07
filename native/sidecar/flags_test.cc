// Goal: sizes on the sidecar's command line are taken within their range, in their unit, and refused by name outside of
// it. Method: the real program: a worker that moves bytes with the largest values, and runs that must end at once.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <memory>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

struct Ended {
  int code = -1;
  std::string output;
};

// REQUIRES: the flags make the program end.
Ended RunSidecar(const std::string& flags) {
  const std::string command = std::string(HBMESH_SIDECAR_PATH) + " " + flags + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  Ended ended;
  std::array<char, 512> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) ended.output += buffer.data();
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) ended.code = WEXITSTATUS(status);
  return ended;
}

struct SizeFlag {
  std::string name;
  std::string below;  // its range
  std::string least;
  std::string most;
  std::string above;
};

class SizeFlagTest : public ::testing::TestWithParam<SizeFlag> {};

TEST_P(SizeFlagTest, TakesItsRangeAndRefusesTheRestByName) {
  const SizeFlag& flag = GetParam();
  for (const std::string& value : {flag.least, flag.most}) {
    FakeDirectory directory;
    Worker worker(directory, 1, {flag.name + "=" + value});
    Client client(worker.process.workerAddress());
    DeviceMemory memory(1 << 20);
    const uint32_t region = client.MustRegister(0, memory);
    EXPECT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("k", region, 1, 4096)}).results[0].code, 0U) << value;
  }
  for (const std::string& value : {flag.below, flag.above}) {
    const Ended ended = RunSidecar("--worker_address=127.0.0.1:1 " + flag.name + "=" + value);
    EXPECT_NE(ended.code, 0) << value;
    EXPECT_NE(ended.output.find(flag.name + ": "), std::string::npos) << ended.output;
    EXPECT_NE(ended.output.find(flag.least + " to " + flag.most), std::string::npos) << ended.output;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SizeFlagTest,
                         ::testing::Values(SizeFlag{"--slice_kb", "3", "4", "1048576", "1048577"},
                                           SizeFlag{"--max_inflight_mb", "0", "1", "1048576", "1048577"},
                                           SizeFlag{"--at_once_mb", "-1", "0", "1048576", "1048577"}),
                         [](const auto& flag) { return flag.param.name.substr(2); });

}  // namespace
}  // namespace hbmesh::sidecar::testing
