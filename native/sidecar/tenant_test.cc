// Goal: two tenants of one worker never meet, and nobody gets in without a tenant's token. Method: a tenants file is
// parsed; then a real sidecar process with such a file, one client for each tenant, the same keys with other bytes.
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "sidecar/key_check.h"
#include "sidecar/sidecar_test_util.h"
#include "sidecar/tenants.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

TEST(TenantsTest, PrefixesAreThoseOfTheControlProcess) {
  Tenants tenants;
  ASSERT_TRUE(Tenants::Parse("# who\n\n  t1   a\r\nt2\tdefault\n", "f", &tenants).ok());
  ASSERT_NE(tenants.PrefixOf("t1"), nullptr);
  EXPECT_EQ(*tenants.PrefixOf("t1"), "d24ec4f1a98c6e5b\x1f");  // the example of src/base/tenants.ts
  EXPECT_EQ(*tenants.PrefixOf("t2"), "");
  EXPECT_EQ(tenants.PrefixOf(""), nullptr);
  EXPECT_EQ(tenants.PrefixOf("t"), nullptr);
  EXPECT_EQ(tenants.PrefixOf("t11"), nullptr);
  EXPECT_EQ(UserKey("d24ec4f1a98c6e5b\x1fkey"), "key");
  EXPECT_EQ(UserKey("a-key-of-seventeen-and-more"), "a-key-of-seventeen-and-more");
  EXPECT_EQ(ShowKey("d24ec4f1a98c6e5b\x1fkey"), "\"key\"");
}

TEST(TenantsTest, FaultsNameFileAndLineButNoToken) {
  Tenants tenants;
  for (const std::string text : {"secret\n", "secret a b\n", "secret a\nsecret b\n", "# nobody\n"}) {
    const Status status = Tenants::Parse(text, "/etc/who", &tenants);
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << text;
    EXPECT_NE(status.message().find("/etc/who"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("token tenant"), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find("secret"), std::string::npos) << status.message();
  }
  EXPECT_TRUE(tenants.empty());
}

class TenantTest : public ::testing::Test {
 protected:
  TenantTest() : path_("/tmp/hbmesh-tenants-" + std::to_string(::getpid())) {
    std::ofstream(path_) << "token-a a\ntoken-b b\ntoken-d default\n";
    worker_ = std::make_unique<Worker>(directory_, 1, std::vector<std::string>{"--tenants_file=" + path_});
  }
  ~TenantTest() override { ::unlink(path_.c_str()); }

  const std::string path_;
  FakeDirectory directory_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(TenantTest, OnlyTokensOfTheFileGetIn) {
  for (const std::string token : {"", "token-", "token-c", "token-aa"}) {
    Peer peer(worker_->process.workerAddress(), session::Kind::kClient, token);
    EXPECT_EQ(peer.welcome().code, CodeOf(StatusCode::kNotAuthorized));
    const std::string text = peer.welcome().text;
    EXPECT_NE(text.find("give the token of a tenant"), std::string::npos) << text;
    EXPECT_EQ(text.find("token-"), std::string::npos) << text;
  }
}

TEST_F(TenantTest, TheSameKeyIsTwoObjects) {
  const std::string& address = worker_->process.workerAddress();
  Client a(address, "token-a");
  Client b(address, "token-b");
  DeviceMemory memory(1 << 20);
  memory.Fill(21);
  const uint32_t ofA = a.MustRegister(0, memory);
  const uint32_t ofB = b.MustRegister(0, memory);
  ASSERT_EQ(a.Call(Op::kSetD2H, 0, {Blobs("k", ofA, 1, 4096)}).results[0].code, 0U);
  EXPECT_TRUE(directory_.Knows("d24ec4f1a98c6e5b\x1fk"));
  // The other tenant's key is a miss for each call.
  EXPECT_EQ(b.Call(Op::kExist, 0, {{"k", {}}}).results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(b.Call(Op::kGetMeta, 0, {{"k", {}}}).results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(b.Call(Op::kDelete, 0, {{"k", {}}}).results[0].flags, 0U);
  EXPECT_EQ(b.Call(Op::kGetH2D, 0, {Blobs("k", ofB, 1, 4096, 8192)}).results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_EQ(a.Call(Op::kExist, 0, {{"k", {}}}).results[0].code, 0U) << "the other tenant's delete did nothing";
  // `fail`: not there for this tenant.
  ASSERT_EQ(b.Call(Op::kSetD2H, 0, {Blobs("k", ofB, 1, 4096, 4096)}, {1, 0, 0, 0}).results[0].code, 0U);
  EXPECT_EQ(a.Call(Op::kGetH2D, 0, {Blobs("k", ofA, 1, 4096, 64 << 10)}).results[0].code, 0U);
  EXPECT_EQ(b.Call(Op::kGetH2D, 0, {Blobs("k", ofB, 1, 4096, 128 << 10)}).results[0].code, 0U);
  EXPECT_EQ(std::memcmp(memory.data(), memory.data() + (64 << 10), 4096), 0);
  EXPECT_EQ(std::memcmp(memory.data() + 4096, memory.data() + (128 << 10), 4096), 0);
  EXPECT_EQ(worker_->control->Stats().objects, 2U);
}

TEST_F(TenantTest, DeviceObjectsDoNotMeetEither) {
  const std::string& address = worker_->process.workerAddress();
  Client a(address, "token-a");
  Client b(address, "token-d");
  DeviceMemory memory(1 << 20);
  const uint32_t ofA = a.MustRegister(0, memory);
  const uint32_t ofB = b.MustRegister(1, memory);
  const uint64_t published = a.Submit(Op::kDevPublish, 0, {Blobs("k", ofA, 1, 4096)});
  ASSERT_EQ(a.WaitAccepted(published).code, StatusCode::kOk);
  const Events& missed = b.WaitEnd(b.Submit(Op::kDevSubscribe, 1, {Blobs("k", ofB, 1, 4096, 8192)}, {20, 0, 0, 0}));
  ASSERT_EQ(missed.keys.size(), 1U);
  EXPECT_EQ(missed.keys[0].code, StatusCode::kFutureTimeout) << missed.keys[0].text;
  EXPECT_FALSE(a.Now(published).over) << "nobody received it";
}

TEST_F(TenantTest, TextsShowTheUsersKey) {
  Client a(worker_->process.workerAddress(), "token-a");
  DeviceMemory memory(1 << 20);
  const uint32_t region = a.MustRegister(0, memory);
  ASSERT_EQ(a.Call(Op::kDevMSet, 0, {Blobs("cached", region, 1, 4096)}).results[0].code, 0U);
  const Reply mixed = a.Call(Op::kSetD2H, 0, {Blobs("cached", region, 1, 4096)});
  EXPECT_EQ(mixed.results[0].code, CodeOf(StatusCode::kInvalid));
  EXPECT_EQ(mixed.texts[0].find("key \"cached\" was set with devMSet"), 0U) << mixed.texts[0];
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
