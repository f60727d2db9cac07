// Goal: objects live as long as they were set to: time to live, pins, eviction; owners hear of every end; explain tells
// why; a checksum notices damage. Method: real sidecar processes with small arenas; what the fake directory is told is
// looked at, and bytes in the store's memory are changed behind the sidecar's back.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kHard = 2;
constexpr uint64_t kMiB = 1 << 20;

uint64_t Forgotten(FakeDirectory& directory) {
  const std::lock_guard lock(directory.mutex);
  return directory.forgotten;
}

uint64_t ForgottenWhole(FakeDirectory& directory) {
  const std::lock_guard lock(directory.mutex);
  return directory.forgottenWhole;
}

TEST(LifeTest, TimeOverEndsTheObjectAndItsOwnerHears) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  ASSERT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("stays", region, 1, 4096)}, {0, 60'000, 0, 0}).results[0].code, 0U);
  ASSERT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("ends", region, 1, 4096)}, {0, 20, 0, 0}).results[0].code, 0U);
  // Nothing is asked of the sidecar meanwhile: it wakes by itself.
  Eventually([&] { return Forgotten(directory) == 1; }, "the owner hears of the end");
  EXPECT_EQ(ForgottenWhole(directory), 1U) << "older versions elsewhere are outdated";
  EXPECT_EQ(worker.control->Stats().objects, 1U);
  EXPECT_EQ(client.Call(Op::kGetH2D, 0, {Blobs("stays", region, 1, 4096)}).results[0].code, 0U);
}

TEST(LifeTest, ObjectsMakeRoomButPinnedOnes) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--arena_mb=16", "--eviction_high=100", "--eviction_low=100"});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(16 * kMiB);
  const uint32_t region = client.MustRegister(0, memory);
  const auto set = [&](const std::string& key, uint64_t pin) {
    return client.Call(Op::kSetD2H, 0, {Blobs(key, region, 1, 3 * kMiB)}, {0, 0, pin, 0});
  };
  ASSERT_EQ(set("pinned", kHard).results[0].code, 0U);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(set("loose" + std::to_string(i), 0).results[0].code, 0U);
  EXPECT_EQ(worker.control->Stats().objects, 5U) << "as many as fit";
  EXPECT_EQ(Forgotten(directory), 4U) << "the owner heard of those that went";
  EXPECT_EQ(client.Call(Op::kGetH2D, 0, {Blobs("pinned", region, 1, 3 * kMiB)}).results[0].code, 0U);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(set("pinned" + std::to_string(i), kHard).results[0].code, 0U);
  const Reply full = set("more", 0);
  EXPECT_EQ(full.results[0].code, CodeOf(StatusCode::kOutOfMemory));
  EXPECT_NE(full.texts[0].find("pin"), std::string::npos) << full.texts[0];
  EXPECT_EQ(worker.control->Stats().objects, 5U) << "nothing pinned went";
}

TEST(LifeTest, AboveTheHighWatermarkGoesDownToTheLow) {
  FakeDirectory directory;
  Worker worker(directory, 1, {"--arena_mb=16", "--eviction_high=50", "--eviction_low=30"});
  Client client(worker.process.workerAddress());
  DeviceMemory memory(4 * kMiB);
  const uint32_t region = client.MustRegister(0, memory);
  for (const char* key : {"a", "b", "c"}) {
    ASSERT_EQ(client.Call(Op::kSetD2H, 0, {Blobs(key, region, 1, 3 * kMiB)}).results[0].code, 0U);
  }
  Eventually([&] { return Forgotten(directory) == 2; }, "the owner hears of two ends");
  EXPECT_EQ(worker.control->Stats().objects, 1U);
  EXPECT_LE(worker.control->Stats().arenaUsedBytes, 16 * kMiB * 30 / 100);
  EXPECT_EQ(client.Call(Op::kGetH2D, 0, {Blobs("c", region, 1, 3 * kMiB)}).results[0].code, 0U) << "the newest stays";
}

TEST(LifeTest, WrongArgumentsAreRefused) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  const Reply pin = client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 64)}, {0, 0, 3, 0});
  EXPECT_EQ(pin.code, StatusCode::kInvalid);
  EXPECT_NE(pin.text.find("pin 3"), std::string::npos) << pin.text;
  const Reply ttl = client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 64)}, {0, UINT64_MAX, 0, 0});
  EXPECT_EQ(ttl.code, StatusCode::kInvalid);
  EXPECT_NE(ttl.text.find("time to live"), std::string::npos) << ttl.text;
  const Reply flag = client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 64)}, {0, 0, 8, 0});
  EXPECT_EQ(flag.code, StatusCode::kNotSupported);
  SidecarProcess wrong(NewWorkerAddress(), {"--eviction_high=50", "--eviction_low=60"});
  EXPECT_EQ(wrong.ready().find("error: "), 0U) << wrong.ready();
}

TEST(LifeTest, ExplainTellsWhatIsHere) {
  FakeDirectory directory;
  Worker worker(directory, 1);
  Client client(worker.process.workerAddress());
  DeviceMemory memory(1 << 20);
  const uint32_t region = client.MustRegister(0, memory);
  ASSERT_EQ(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 2, 100)}, {0, 60'000, kHard, 0}).results[0].code, 0U);
  const Message reply = worker.control->Ask(Op::kExplain, 1, KeyBatchOf({"a"}));
  const std::string text(reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size());
  for (const char* part : {R"("key":"a")", R"("where":"memory")", R"("blobSizes":["100","100"])", R"("pin":"hard")",
                           R"("evictable":false)", R"("expiresInMilliseconds":)"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_EQ(worker.control->Ask(Op::kExplain, 2, KeyBatchOf({"a", "b"})).entry.code, CodeOf(StatusCode::kInvalid));
  const Reply asked = client.Call(Op::kExplain, 0, {{"a", {}}});
  ASSERT_EQ(asked.code, StatusCode::kOk) << asked.text;
  EXPECT_EQ(asked.results[0].code, 0U);
  EXPECT_EQ(asked.texts[0].find(R"({"here":{"key":"a","where":"memory")"), 0U) << asked.texts[0];
  EXPECT_EQ(asked.texts[0].back(), '}');
  EXPECT_EQ(worker.control->Asked(Op::kExplainOwner), 1);
  const Reply nowhere = client.Call(Op::kExplain, 0, {{"b", {}}});
  EXPECT_NE(nowhere.texts[0].find(R"("where":"nowhere")"), std::string::npos) << nowhere.texts[0];
  worker.control->Die();
  Eventually(
      [&] {
        return client.Call(Op::kExplain, 0, {{"a", {}}}).texts[0].find("RPC_UNAVAILABLE") != std::string::npos;
      },
      "the owner's silence is told");
}

// Changes one byte of the first place in the store's memory that holds these bytes.
void Damage(int storeFd, const std::byte* bytes, size_t count) {
  const auto size = static_cast<size_t>(::lseek(storeFd, 0, SEEK_END));
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, storeFd, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* found = static_cast<std::byte*>(::memmem(mapped, size, bytes, count));
  ASSERT_NE(found, nullptr);
  *found ^= std::byte{1};
  ::munmap(mapped, size);
}

TEST(LifeTest, ChecksumNoticesDamageHereAndFarAway) {
  FakeDirectory directory;
  Worker first(directory, 1, {"--transport=tcp"});
  Worker second(directory, 2, {"--transport=tcp"});
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client setter(first.process.workerAddress());
  Client getter(second.process.workerAddress());
  DeviceMemory source(1 << 20);
  DeviceMemory target(1 << 20);
  source.Fill(31);
  const uint32_t from = setter.MustRegister(0, source);
  const uint32_t to = getter.MustRegister(0, target);
  ASSERT_EQ(setter.Call(Op::kSetD2H, 0, {Blobs("a", from, 3, 5000)}, {0, 0, layout::kSetChecksum, 0}).results[0].code,
            0U);
  EXPECT_EQ(setter.Call(Op::kGetH2D, 0, {Blobs("a", from, 3, 5000, 64 << 10)}).results[0].code, 0U);
  EXPECT_EQ(getter.Call(Op::kGetH2D, 0, {Blobs("a", to, 3, 5000)}).results[0].code, 0U);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), 15'000), 0);
  Damage(first.control->peer().storeFd(), source.data(), 15'000);
  const Reply here = setter.Call(Op::kGetH2D, 0, {Blobs("a", from, 3, 5000, 64 << 10)});
  EXPECT_EQ(here.results[0].code, CodeOf(StatusCode::kDataInconsistency));
  EXPECT_NE(here.texts[0].find("set it again"), std::string::npos) << here.texts[0];
  const Reply far = getter.Call(Op::kGetH2D, 0, {Blobs("a", to, 3, 5000)});
  EXPECT_EQ(far.results[0].code, CodeOf(StatusCode::kDataInconsistency));
  EXPECT_NE(far.texts[0].find(first.process.workerAddress()), std::string::npos) << far.texts[0];
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
