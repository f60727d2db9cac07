// Goal: a client that lies, scribbles, changes what was checked, or takes all it can get, harms nobody: it gets an
// error or loses its session, while an honest client's calls go on and its bytes stay right, and nobody else's bytes
// reach it. Method: a real sidecar process, an honest client that sets and gets and compares all the time, and hostile
// ones in threads beside it. Random ones print their seed (HBMESH_SEED runs one again).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "base/mapped_memory.h"
#include "base/test_support.h"
#include "base/unix_socket.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMemoryBytes = 1 << 20;
constexpr int kHonestRounds = 150;
constexpr std::byte kHostileByte{0xAA};

class HostileClientTest : public ::testing::Test {
 protected:
  explicit HostileClientTest(std::vector<std::string> flags = {})
      : process(NewWorkerAddress(), std::move(flags)), control(process.workerAddress(), directory, 1) {
    EXPECT_EQ(process.ready(), "ready");
  }

  // Sets, gets into other memory, compares; as often as said. Stops at the first fault.
  void BeHonest(int rounds) {
    Client client(process.workerAddress());
    DeviceMemory source(kMemoryBytes);
    DeviceMemory target(kMemoryBytes);
    const uint32_t from = client.MustRegister(0, source);
    const uint32_t to = client.MustRegister(0, target);
    for (int round = 0; round < rounds && !::testing::Test::HasFailure(); ++round) {
      source.Fill(static_cast<uint64_t>(round) + 1);
      const std::string key = "honest" + std::to_string(round % 20);
      const uint64_t bytes = 1 + static_cast<uint64_t>(round) * 997 % 100'000;
      const Reply set = client.Call(Op::kSetD2H, 0, {Blobs(key, from, 3, bytes)}, {2, 0, layout::kSetChecksum, 0});
      ASSERT_EQ(set.code, StatusCode::kOk) << set.text;
      ASSERT_EQ(set.results[0].code, 0U) << set.texts[0];
      const Reply get = client.Call(Op::kGetH2D, 0, {Blobs(key, to, 3, bytes)});
      ASSERT_EQ(get.code, StatusCode::kOk) << get.text;
      ASSERT_EQ(get.results[0].code, 0U) << get.texts[0];
      ASSERT_EQ(std::memcmp(source.data(), target.data(), 3 * bytes), 0) << "round " << round;
    }
  }
  // Runs `attack` again and again in a thread of its own while the honest client works.
  void BesideAnHonestClient(const std::function<void()>& attack) {
    std::atomic<bool> over = false;
    std::atomic<int> attacks = 0;
    std::thread hostile([&] {
      while (!over.load() && !::testing::Test::HasFailure()) {
        attack();
        attacks.fetch_add(1);
      }
    });
    Eventually([&] { return attacks.load() > 0 || HasFailure(); }, "the attack begins");
    BeHonest(kHonestRounds);
    over.store(true);
    hostile.join();
    BeHonest(5);
    std::printf("%d attacks\n", attacks.load());
  }

  FakeDirectory directory;
  SidecarProcess process;
  FakeControl control;
};

// Memory that holds one byte everywhere, and nothing but what its own client set may ever come into it.
class HostileMemory {
 public:
  HostileMemory() : memory(kMemoryBytes) { std::fill_n(memory.data(), memory.bytes(), kHostileByte); }
  void ExpectOnlyItsOwn() const {
    EXPECT_TRUE(std::all_of(memory.data(), memory.data() + memory.bytes(), [](std::byte byte) {
      return byte == kHostileByte;
    })) << "bytes of somebody else";
  }
  DeviceMemory memory;
};

// A request with random fields: some are right, so that all of the sidecar is reached.
void SendRandomRequest(std::mt19937_64& random, Client& client, uint32_t region) {
  const auto number = [&](uint64_t good) -> uint64_t {
    switch (random() % 8) {
      case 0:
        return random();
      case 1:
        return UINT64_MAX - random() % 4;
      case 2:
        return kMemoryBytes - random() % 3;
      default:
        return good;
    }
  };
  std::vector<KeyBlobs> keys;
  for (uint64_t i = 0; i < 1 + random() % 3; ++i) {
    std::string key = random() % 10 == 0 ? std::string(random() % 300, 'k') : "hostile" + std::to_string(random() % 8);
    KeyBlobs blobs{std::move(key), {}};
    for (uint64_t blob = 0; blob < random() % 4; ++blob) {
      const auto in = random() % 6 == 0 ? static_cast<uint32_t>(random() % 5) : region;
      blobs.blobs.push_back({in, number(random() % 1000), number(1 + random() % 1000)});
    }
    keys.push_back(std::move(blobs));
  }
  const Op ops[] = {Op::kSetD2H,        Op::kGetH2D,    Op::kDelete,     Op::kExist,
                    Op::kGetMeta,       Op::kCancel,    Op::kDevPublish, Op::kDevSubscribe,
                    Op::kDevMSet,       Op::kDevMGet,   Op::kDevDelete,  Op::kDevLocalDelete,
                    Op::kReserveLayers, Op::kPushLayer, Op::kExplain,    static_cast<Op>(random() % 100)};
  (void)client.Submit(ops[random() % std::size(ops)], static_cast<uint32_t>(random() % 5), keys,
                      {random() % 4, number(random() % 100), random() % 16, 0});
}

// Words anywhere in the header and the entries of the channel, and in the front of its payload.
void Scribble(std::mt19937_64& random, const Client& client, std::byte* channel, uint64_t words) {
  for (uint64_t i = 0; i < words; ++i) {
    const uint64_t at = random() % (random() % 2 == 0 ? 64 : (1 << 14));
    const uint64_t value = random() % 3 == 0 ? random() : random() % 100;
    __atomic_store_n(reinterpret_cast<uint64_t*>(channel) + at, value, __ATOMIC_RELAXED);
  }
  const uint64_t one = 1;
  (void)!::write(const_cast<Client&>(client).channel().sidecarWakeFd(), &one, sizeof one);
}

MappedMemory MapChannel(Client& client) {
  MappedMemory map;
  EXPECT_TRUE(MappedMemory::Map(client.channel().memoryFd(), 0, 1 << 18, true, &map).ok());
  return map;
}

TEST_F(HostileClientTest, RandomEntriesHarmNobodyElse) {
  std::mt19937_64 random(testing_support::Seed());
  HostileMemory own;
  BesideAnHonestClient([&] {
    Client client(process.workerAddress());
    const uint32_t region = client.MustRegister(0, own.memory);
    const MappedMemory channel = MapChannel(client);
    for (int i = 0; i < 40; ++i) SendRandomRequest(random, client, region);
    Message message;
    while (random() % 8 != 0 && client.TryReceive(&message, 1)) {
    }
    if (random() % 2 == 0) Scribble(random, client, channel.data(), random() % 50);
    client.Die();
  });
  own.ExpectOnlyItsOwn();
}

TEST_F(HostileClientTest, RequestsThatChangeWhileTheyAreRead) {
  std::mt19937_64 random(testing_support::Seed());
  HostileMemory own;
  std::mutex mutex;
  std::byte* target = nullptr;  // guarded by mutex
  std::atomic<bool> over = false;
  // Changes sizes, offsets and regions of the message, and its entry, all the time.
  std::thread flipping([&, seed = random()] {
    std::mt19937_64 flips(seed);
    const uint64_t values[] = {0, 1, 64, kMemoryBytes - 1, kMemoryBytes, UINT64_MAX, UINT32_MAX, 1ULL << 63};
    while (!over.load()) {
      const std::lock_guard lock(mutex);
      for (int i = 0; i < 100 && target != nullptr; ++i) {
        auto* word = reinterpret_cast<uint64_t*>(target) + flips() % 40;
        const uint64_t before = __atomic_load_n(word, __ATOMIC_RELAXED);
        __atomic_store_n(word, values[flips() % std::size(values)], __ATOMIC_RELAXED);
        __atomic_store_n(word, before, __ATOMIC_RELAXED);
      }
    }
  });
  BesideAnHonestClient([&] {
    Client client(process.workerAddress());
    const uint32_t region = client.MustRegister(0, own.memory);
    MappedMemory map;
    const uint64_t entries = layout::kChannelHeaderBytes;
    const uint64_t payload = entries + 2 * 1024 * sizeof(layout::Entry);
    ASSERT_TRUE(MappedMemory::Map(client.channel().memoryFd(), 0, payload + (1 << 16), true, &map).ok());
    const auto aim = [&](std::byte* at) {
      const std::lock_guard lock(mutex);
      target = at;
    };
    aim(map.data() + (random() % 2 == 0 ? entries : payload));
    for (int i = 0; i < 20; ++i) {
      (void)client.Submit(i % 2 == 0 ? Op::kSetD2H : Op::kGetH2D, 0,
                          {Blobs("flip" + std::to_string(i), region, 2, 64)});
    }
    Message message;
    for (int i = 0; i < 20 && client.TryReceive(&message, 20); ++i) {
    }
    aim(nullptr);
    client.Die();
  });
  over.store(true);
  flipping.join();
  own.ExpectOnlyItsOwn();
}

// What a client may do to its own memory while the sidecar copies from and to it: everything but make it shorter.
TEST_F(HostileClientTest, MemoryThatGoesAwayUnderACopy) {
  DeviceMemory memory(kMemoryBytes);
  EXPECT_NE(::ftruncate(memory.fd(), 0), 0) << "sealed, as the sidecar demands it";
  std::mt19937_64 random(testing_support::Seed());
  BesideAnHonestClient([&] {
    Client client(process.workerAddress());
    EXPECT_NE(::ftruncate(client.channel().memoryFd(), 0), 0) << "so is the channel, which the sidecar made";
    const uint32_t region = client.MustRegister(0, memory);
    std::vector<uint64_t> ids;
    for (int i = 0; i < 8; ++i) {
      const Op op = i % 2 == 0 ? Op::kSetD2H : Op::kGetH2D;
      ids.push_back(client.Submit(op, 0, {Blobs("hole" + std::to_string(i / 2), region, 2, kMemoryBytes / 4)}));
      const auto at = static_cast<off_t>(random() % kMemoryBytes);
      EXPECT_EQ(::fallocate(memory.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 1 << 18), 0);
    }
    for (const uint64_t id : ids) EXPECT_EQ(client.WaitFor(id).code, StatusCode::kOk);
    EXPECT_TRUE(client.Unregister(region).ok());
  });
}

TEST_F(HostileClientTest, MemoryThatCantBeUsedIsRefused) {
  Client client(process.workerAddress());
  uint32_t region = 0;
  const auto sealed = [](int seals) {
    Fd made(::memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(made.get(), 8192), 0);
    EXPECT_EQ(::fcntl(made.get(), F_ADD_SEALS, seals), 0);
    return made;
  };
  const Fd growing = sealed(F_SEAL_GROW);
  EXPECT_EQ(client.Register(0, 8192, growing.get(), &region).code(), StatusCode::kInvalid) << "could shrink";
  const Fd reading = sealed(F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE);
  EXPECT_FALSE(client.Register(0, 8192, reading.get(), &region).ok()) << "can't be written to";
  const Fd good = sealed(F_SEAL_SHRINK);
  EXPECT_FALSE(client.Register(0, 8193, good.get(), &region).ok()) << "is smaller";
  EXPECT_FALSE(client.Register(0, UINT64_MAX, good.get(), &region).ok());
  EXPECT_TRUE(client.Register(0, 8192, good.get(), &region).ok());
  BeHonest(2);
}

// As another user: the kernel says who it is.
TEST_F(HostileClientTest, AnotherUserIsTurnedAway) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65'534;
    Fd socket;
    session::Hello hello{};
    hello.type = static_cast<uint32_t>(session::Type::kHello);
    hello.magic = session::kMagic;
    hello.version = session::kVersion;
    hello.kind = static_cast<uint32_t>(session::Kind::kControl);  // would be given the store
    session::Welcome welcome{};
    Packet packet;
    if (::setresuid(kNobody, kNobody, kNobody) != 0) ::_exit(2);
    if (!ConnectUnix(session::SocketName(process.workerAddress()), &socket).ok()) ::_exit(3);
    if (!SendPacket(socket.get(), std::as_bytes(std::span(&hello, 1))).ok()) ::_exit(6);
    if (!ReceivePacket(socket.get(), std::as_writable_bytes(std::span(&welcome, 1)), &packet).ok()) ::_exit(4);
    const bool refused = welcome.code == CodeOf(StatusCode::kNotAuthorized) && packet.descriptors.empty() &&
                         std::strstr(welcome.text, "you are 65534") != nullptr;
    ::_exit(refused ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
  BeHonest(2);
}

class GreedyClientTest : public HostileClientTest {
 protected:
  GreedyClientTest() : HostileClientTest({"--max_inflight_mb=1", "--max_sessions=20"}) {}
};

// The messages of a client that waits for ever are bounded in bytes: what it can make the sidecar keep.
TEST_F(GreedyClientTest, BytesOfRequestsUnderWayAreBounded) {
  Client greedy(process.workerAddress());
  DeviceMemory memory(kMemoryBytes);
  const uint32_t region = greedy.MustRegister(0, memory);
  const auto wait = [&](const std::string& key) {  // 20,000 blobs of 24 bytes each
    return greedy.Submit(Op::kGetH2D, 0, {Blobs(key, region, 20'000, 8)}, {60'000, 0, 0, 0});
  };
  const uint64_t first = wait("never1");
  const uint64_t second = wait("never2");
  const Reply third = greedy.WaitFor(wait("never3"));
  EXPECT_EQ(third.code, StatusCode::kTryAgain);
  EXPECT_NE(third.text.find("over the limit of 1048576"), std::string::npos) << third.text;
  EXPECT_EQ(greedy.Call(Op::kExist, 0, {{"small", {}}}).code, StatusCode::kOk) << "what is small still goes";
  for (const uint64_t id : {first, second}) (void)greedy.SubmitRaw(Op::kCancel, 0, {}, {id, 0, 0, 0});
  for (const uint64_t id : {first, second}) {
    EXPECT_EQ(greedy.WaitFor(id).results[0].code, CodeOf(StatusCode::kRpcCancelled));
  }
  EXPECT_EQ(greedy.Call(Op::kGetH2D, 0, {Blobs("never3", region, 60'000, 8)}).code, StatusCode::kOk)
      << "one alone may be larger";
  BeHonest(2);
}

// Sessions and half-open connections, more than are taken, from one process.
TEST_F(GreedyClientTest, FloodsOfConnections) {
  std::vector<std::unique_ptr<Client>> sessions;
  while (sessions.empty() || (sessions.back()->welcome().code == 0 && sessions.size() < 30)) {
    sessions.push_back(std::make_unique<Client>(process.workerAddress()));
  }
  EXPECT_EQ(sessions.back()->welcome().code, CodeOf(StatusCode::kTryAgain));
  EXPECT_EQ(sessions.size(), 20U) << "the control process is one of 20";
  EXPECT_EQ(sessions.front()->Call(Op::kExist, 0, {{"a", {}}}).code, StatusCode::kOk);
  sessions.clear();
  BesideAnHonestClient([&] {
    std::vector<Fd> silent(200);  // three times as many as may be greeting
    for (Fd& socket : silent) EXPECT_TRUE(ConnectUnix(session::SocketName(process.workerAddress()), &socket).ok());
  });
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
