// Goal: nothing that a client writes harms the sidecar or other clients; every fault is answered with its cause.
// Method: a real sidecar process; malformed calls one by one, then random bytes from a printed seed; after each the
// sidecar must still serve.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <random>

#include "base/unix_socket.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

class HostileTest : public ::testing::Test {
 protected:
  HostileTest() : process(NewWorkerAddress(), {"--max_inflight=4"}), control(process.workerAddress(), directory, 1) {
    EXPECT_EQ(process.ready(), "ready");
  }
  // A new client can still set and get.
  void ExpectServes() {
    Client client(process.workerAddress());
    const uint32_t region = client.MustRegister(0, memory);
    const std::string key = "alive" + std::to_string(++served);
    const Reply set = client.Call(Op::kSetD2H, 0, {Blobs(key, region, 2, 64)});
    ASSERT_EQ(set.code, StatusCode::kOk) << set.text;
    EXPECT_EQ(set.results[0].code, 0U) << set.texts[0];
    EXPECT_EQ(client.Call(Op::kGetH2D, 0, {Blobs(key, region, 2, 64)}).results[0].code, 0U);
  }
  void ExpectInvalid(const Reply& reply, const std::string& text) {
    EXPECT_EQ(reply.code, StatusCode::kInvalid) << reply.text;
    EXPECT_NE(reply.text.find(text), std::string::npos) << reply.text;
    EXPECT_TRUE(reply.results.empty());
  }

  FakeDirectory directory;
  SidecarProcess process;
  FakeControl control;
  DeviceMemory memory{1 << 20};
  int served = 0;
};

TEST_F(HostileTest, BadCallsAreInvalidAndNothingIsDone) {
  Client client(process.workerAddress());
  const uint32_t region = client.MustRegister(0, memory);
  const uint32_t other = client.MustRegister(1, memory);
  const auto set = [&](const std::vector<KeyBlobs>& keys, uint32_t device = 0) {
    return client.Call(Op::kSetD2H, device, keys);
  };
  const KeyBlobs good = Blobs("good", region, 1, 64);
  ExpectInvalid(set({good, Blobs("", region, 1, 64)}), "key number 2 is empty");
  ExpectInvalid(set({good, Blobs(std::string(256, 'x'), region, 1, 64)}), "256 bytes, at most 255");
  ExpectInvalid(set({good, Blobs("a b", region, 1, 64)}), "\"a\\x20b\"");
  ExpectInvalid(set({good, Blobs("a.b", region, 1, 64)}), "\"a.b\"");
  ExpectInvalid(set({good, Blobs("x", region, 1, 64), good}), "\"good\" is in the call twice (numbers 1 and 3)");
  ExpectInvalid(set({good, {"none", {}}}), "\"none\" (number 2) has no blobs");
  ExpectInvalid(set({good, Blobs("zero", region, 1, 0)}), "blob of 0 bytes");
  ExpectInvalid(set({good, Blobs("r", 77, 1, 64)}), "region 77");
  ExpectInvalid(set({good, Blobs("d", other, 1, 64)}), "must be on one device");
  ExpectInvalid(set({good}, 4), "device index 4 doesn't exist: this worker has devices 0 to 3");
  ExpectInvalid(set({good, Blobs("end", region, 1, 65, (1 << 20) - 64)}), "must lie inside");
  ExpectInvalid(set({good, Blobs("wrap", region, 1, UINT64_MAX, 64)}), "must lie inside");
  ExpectInvalid(set({good, Blobs("wrap", region, 1, 64, UINT64_MAX - 8)}), "must lie inside");
  ExpectInvalid(set({}), "no keys");
  ExpectInvalid(client.Call(Op::kSetD2H, 0, {good}, {3, 0, 0, 0}), "existence 3");
  ExpectInvalid(client.Call(Op::kGetH2D, 0, {good}, {1'800'001, 0, 0, 0}), "1800001");
  std::vector<KeyBlobs> many;
  for (uint32_t i = 0; i <= layout::kKeysPerCallMax; ++i) many.push_back({"k" + std::to_string(i), {{region, 0, 8}}});
  ExpectInvalid(set(many), "10001 keys, at most 10000");
  ExpectInvalid(client.Call(Op::kDelete, 0, many), "10001 keys, at most 10000");
  EXPECT_EQ(client.Call(Op::kExist, 0, many).code, StatusCode::kOk);
  many.back().key = many.front().key;
  ExpectInvalid(client.Call(Op::kExist, 0, many), "is in the call twice (numbers 1 and 10001)");
  EXPECT_EQ(client.Call(static_cast<Op>(999), 0, {good}).code, StatusCode::kNotSupported);
  EXPECT_EQ(client.Call(Op::kReserve, 0, {good}).code, StatusCode::kNotSupported);
  EXPECT_EQ(client.Call(Op::kSetD2H, 0, {good}, {0, 0, 8, 0}).code, StatusCode::kNotSupported);
  EXPECT_EQ(control.Asked(Op::kReserve), 0) << "nothing was asked for a refused call";
  EXPECT_EQ(control.Stats().arenaUsedBytes, 0U);
  many.pop_back();
  EXPECT_EQ(client.Call(Op::kGetH2D, 0, many).code, StatusCode::kOk) << "as many as allowed";
  ExpectServes();
}

TEST_F(HostileTest, TooManyRequestsGetTryAgain) {
  Client client(process.workerAddress());
  const uint32_t region = client.MustRegister(0, memory);
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 4; ++i) {
    waiting.push_back(client.Submit(Op::kGetH2D, 0, {Blobs("never", region, 1, 64)}, {60'000, 0, 0, 0}));
  }
  EXPECT_EQ(client.Call(Op::kExist, 0, {{"a", {}}}).code, StatusCode::kTryAgain);
  for (const uint64_t id : waiting) (void)client.SubmitRaw(Op::kCancel, 0, {}, {id, 0, 0, 0});
  for (const uint64_t id : waiting) {
    EXPECT_EQ(client.WaitFor(id).results[0].code, static_cast<uint32_t>(StatusCode::kRpcCancelled));
  }
  EXPECT_EQ(client.Call(Op::kExist, 0, {{"a", {}}}).code, StatusCode::kOk);
}

TEST_F(HostileTest, BadRegistrationsSayWhy) {
  Client client(process.workerAddress());
  uint32_t region = 0;
  EXPECT_EQ(client.Register(9, memory.bytes(), memory.fd(), &region).code(), StatusCode::kInvalid);
  EXPECT_EQ(client.Register(0, 0, memory.fd(), &region).code(), StatusCode::kInvalid);
  EXPECT_FALSE(client.Register(0, memory.bytes() * 2, memory.fd(), &region).ok()) << "smaller than it says";
  EXPECT_FALSE(client.Register(0, 4096, -1, &region).ok()) << "no descriptor";
  const Fd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(client.Register(0, 4096, file.get(), &region).ok()) << "no memory";
  const Fd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(loose.get(), 4096), 0);
  EXPECT_FALSE(client.Register(0, 4096, loose.get(), &region).ok()) << "could shrink later";
  EXPECT_EQ(client.Unregister(5).code(), StatusCode::kInvalid);
  region = client.MustRegister(0, memory);
  EXPECT_TRUE(client.Unregister(region).ok());
  ExpectInvalid(client.Call(Op::kSetD2H, 0, {Blobs("a", region, 1, 64)}), "has not registered");
  ExpectServes();
}

TEST_F(HostileTest, BrokenPacketsAndHalfOpenSessions) {
  for (const size_t bytes : {size_t{1}, size_t{4}, sizeof(session::Hello) - 1, size_t{4000}}) {
    Fd socket;
    ASSERT_TRUE(ConnectUnix(session::SocketName(process.workerAddress()), &socket).ok());
    const std::vector<std::byte> junk(bytes, std::byte{1});
    ASSERT_TRUE(hbmesh::SendPacket(socket.get(), junk).ok());
    char byte = 0;
    EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0) << bytes << " bytes are no greeting";
  }
  std::vector<Fd> halfOpen(100);  // more than may be greeting at once
  for (Fd& socket : halfOpen) ASSERT_TRUE(ConnectUnix(session::SocketName(process.workerAddress()), &socket).ok());
  halfOpen.clear();
  // A second control process, as long as the first one lives.
  Peer second(process.workerAddress(), session::Kind::kControl);
  EXPECT_EQ(second.welcome().code, static_cast<uint32_t>(StatusCode::kNotReady));
  Client client(process.workerAddress());
  const uint32_t junk = 77;
  ASSERT_TRUE(hbmesh::SendPacket(client.socket(), std::as_bytes(std::span(&junk, 1))).ok());
  EXPECT_TRUE(client.WaitClosed());
  ExpectServes();
}

TEST_F(HostileTest, RandomPayloads) {
  const uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  Client client(process.workerAddress());
  (void)client.MustRegister(0, memory);
  const std::vector<std::byte> batch = KeyBatchOf({"a", "b"});
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> payload(random() % 200);
    for (std::byte& byte : payload) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
    if (payload.size() >= 16 + batch.size() && round % 2 == 0) {  // near to a good one
      const uint64_t batchBytes = batch.size();
      std::memcpy(payload.data() + 8, &batchBytes, sizeof(batchBytes));
      std::memcpy(payload.data() + 16, batch.data(), batch.size());
      payload[16 + random() % batch.size()] ^= static_cast<std::byte>(1 << random() % 8);
    }
    const Op op = static_cast<Op>(1 + random() % 5);
    const Reply reply = client.WaitFor(client.SubmitRaw(op, static_cast<uint32_t>(random() % 3), payload));
    ASSERT_TRUE(reply.code == StatusCode::kInvalid || reply.code == StatusCode::kOk)
        << "seed " << seed << " round " << round;
  }
  ExpectServes();
}

TEST_F(HostileTest, RandomBytesOverTheWholeChannel) {
  const uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 30; ++round) {
    Client client(process.workerAddress());
    void* base = ::mmap(nullptr, 1 << 18, PROT_READ | PROT_WRITE, MAP_SHARED, client.channel().memoryFd(), 0);
    ASSERT_NE(base, MAP_FAILED);
    auto* bytes = static_cast<volatile unsigned char*>(base);
    // Header and entries; then a wake, so that the sidecar looks.
    for (int i = 0; i < 4000; ++i)
      bytes[random() % (i % 2 == 0 ? 1024 : 1 << 17)] = static_cast<unsigned char>(random());
    const uint64_t one = 1;
    (void)!::write(client.channel().sidecarWakeFd(), &one, sizeof(one));
    ::munmap(base, 1 << 18);
    client.Die();
  }
  ExpectServes();
}

TEST_F(HostileTest, StopsWithCodeZero) {
  ExpectServes();
  const Message reply = control.Ask(Op::kShutdown, 0, {}, {1, 0, 0, 0});
  EXPECT_EQ(reply.entry.code, 0U);
  EXPECT_EQ(process.Wait(), 0);
}

TEST(SidecarProcessTest, ExitCodesAndReadyLines) {
  SidecarProcess terminated(NewWorkerAddress());
  EXPECT_EQ(terminated.ready(), "ready");
  SidecarProcess second(terminated.workerAddress());
  EXPECT_EQ(second.ready().rfind("error: ", 0), 0U) << second.ready();
  EXPECT_EQ(second.Wait(), 1);
  terminated.Signal(SIGTERM);
  EXPECT_EQ(terminated.Wait(), 0);
  SidecarProcess badFlag(NewWorkerAddress(), {"--lanes=0"});
  EXPECT_EQ(badFlag.Wait(), 2);
  FakeDirectory directory;
  SidecarProcess orphan(NewWorkerAddress(), {"--orphan_grace_ms=0"});
  { FakeControl control(orphan.workerAddress(), directory, 1); }
  EXPECT_EQ(orphan.Wait(), 1);
}

TEST(SidecarProcessTest, IgnoresWhatATerminalSends) {
  SidecarProcess process(NewWorkerAddress());
  ASSERT_EQ(process.ready(), "ready");
  for (const int signal : {SIGINT, SIGHUP, SIGQUIT}) process.Signal(signal);
  {
    // It answers after them.
    FakeDirectory directory;
    FakeControl control(process.workerAddress(), directory, 1);
    const Message reply = control.Ask(Op::kShutdown, 0, {}, {1, 0, 0, 0});
    EXPECT_EQ(reply.entry.code, 0U);
  }
  EXPECT_EQ(process.Wait(), 0);
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
