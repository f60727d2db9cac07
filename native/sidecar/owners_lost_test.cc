// Goal: while owners of some keys can't be asked, a set that must fail pushes nothing out and takes nothing, and one
// whose owner can be asked goes through as ever. Method: a real sidecar process with a full arena; its control process
// says that owners are lost (kReach) and refuses to reserve; the arena's usage and what was asked are looked at.
#include <cstddef>
#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kFail = 1;
constexpr uint64_t kReplace = 2;
constexpr uint64_t kObjects = 15;  // as many of 1 MiB as fit into 16 MiB with their headers

class OwnersLostTest : public ::testing::Test {
 protected:
  OwnersLostTest() {
    memory.Fill(5);
    region = client.MustRegister(0, memory);
    for (uint64_t number = 0; number < kObjects; ++number) {
      EXPECT_EQ(Set("old" + std::to_string(number)).code, 0U);
    }
    before = worker.control->Stats();
    EXPECT_EQ(before.objects, kObjects);
  }
  void TellReach(bool lost) {
    worker.control->Ask(Op::kReach, 0, {}, {lost ? 1ULL : 0ULL, 0, 0, 0}, true);
    (void)worker.control->Stats();  // answered after it
  }
  struct Outcome {
    uint32_t code;
    std::string text;
    bool existed;
  };
  Outcome Set(const std::string& key, uint64_t existence = 0) {
    const Reply reply = client.Call(Op::kSetD2H, 0, {Blobs(key, region, 2, kMiB / 2)}, {existence, 0, 0, 0});
    return {reply.results.at(0).code, reply.texts.at(0), (reply.results[0].flags & layout::kExisted) != 0};
  }
  void ExpectNothingChanged() {
    const layout::SidecarStats now = worker.control->Stats();
    EXPECT_EQ(now.objects, before.objects) << "objects were pushed out";
    EXPECT_EQ(now.arenaUsedBytes, before.arenaUsedBytes) << "something of a failed set is left";
  }

  FakeDirectory directory;
  Worker worker{directory, 1, {"--arena_mb=16", "--eviction_high=100", "--eviction_low=100"}};
  Client client{worker.process.workerAddress()};
  DeviceMemory memory{kMiB};
  uint32_t region = 0;
  layout::SidecarStats before{};
};

TEST_F(OwnersLostTest, SetsThatMustFailPushNothingOutAndTakeNothing) {
  TellReach(true);
  worker.control->Refuse(Op::kReserve, StatusCode::kRpcUnavailable, 0);
  for (const uint64_t existence : {uint64_t{0}, kFail, kReplace}) {
    for (int number = 0; number < 20; ++number) {
      const Outcome set = Set("new" + std::to_string(number), existence);
      EXPECT_EQ(set.code, CodeOf(StatusCode::kRpcUnavailable));
      EXPECT_EQ(set.text.find("it may become visible"), std::string::npos) << "it failed for sure: " << set.text;
      EXPECT_FALSE(set.text.empty());
    }
  }
  EXPECT_EQ(worker.control->Asked(Op::kReserve), 60);
  ExpectNothingChanged();
}

TEST_F(OwnersLostTest, KeysWhoseOwnerCanBeAskedAreSet) {
  TellReach(true);
  const int committed = worker.control->Asked(Op::kCommit);
  EXPECT_EQ(Set("new").code, 0U);
  EXPECT_EQ(worker.control->Asked(Op::kReserve), 1);
  EXPECT_EQ(worker.control->Asked(Op::kCommit), committed + 1);
  const Reply get = client.Call(Op::kGetH2D, 0, {Blobs("new", region, 2, kMiB / 2)});
  EXPECT_EQ(get.results.at(0).code, 0U) << get.texts.at(0);
  EXPECT_EQ(Set("new").existed, true);
  EXPECT_EQ(Set("new", kFail).code, CodeOf(StatusCode::kKeyAlreadyExists));
  EXPECT_EQ(worker.control->Stats().objects, kObjects) << "one made room for the new one";
  EXPECT_EQ(Set("new", kReplace).code, 0U);
}

TEST_F(OwnersLostTest, AKeyThatAnotherWorkerHasIsNotCopied) {
  TellReach(true);
  directory.Add("there", {99, kMiB, {{7, 1}}, 0, 0});
  const Outcome set = Set("there");
  EXPECT_EQ(set.code, 0U) << set.text;
  EXPECT_TRUE(set.existed);
  EXPECT_EQ(Set("there", kFail).code, CodeOf(StatusCode::kKeyAlreadyExists));
  ExpectNothingChanged();
}

TEST_F(OwnersLostTest, WhenAllCanBeAskedAgainOneQuestionIsEnough) {
  TellReach(true);
  TellReach(false);
  EXPECT_EQ(Set("new").code, 0U);
  EXPECT_EQ(worker.control->Asked(Op::kReserve), 0);
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
