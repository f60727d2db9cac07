// Goal: the keeper gives the memory of a sidecar that was killed to the next one of its address, to nobody else, and
// stays for it: one that is killed before it has adopted anything loses nothing. It ends with a sidecar that ends as it
// should, and when nobody has come for its memory in time. Method: this
// program is the keeper's, too (main below); a child process is the sidecar, and is killed. Who asks connects to the
// keeper's socket itself where it is to misbehave. Last, a real sidecar with objects.
#include "sidecar/memory_keeper.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/unix_socket.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

constexpr uint32_t kLongMs = 60'000;  // a grace that no test waits for
constexpr uid_t kOtherUser = 65'534;
constexpr std::byte kPacket{'m'};

std::vector<pid_t> KeepersOf(const std::string& workerAddress) {
  std::vector<pid_t> found;
  const std::string wanted = std::string(kKeeperName) + '\0' + workerAddress + '\0';
  DIR* processes = ::opendir("/proc");
  for (const dirent* entry = ::readdir(processes); entry != nullptr; entry = ::readdir(processes)) {
    std::ifstream file("/proc/" + std::string(entry->d_name) + "/cmdline");
    // getline, since an iterator throws when the process ends within the read.
    std::string line;
    std::getline(file, line, '\n');
    if (line.starts_with(wanted)) found.push_back(std::stoi(entry->d_name));
  }
  ::closedir(processes);
  return found;
}

class MemoryKeeperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_ = Fd(::memfd_create("kept", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(memory_.get(), 4096), 0);
  }
  ~MemoryKeeperTest() override {
    Kill();
    for (const pid_t pid : KeepersOf(address_)) ::kill(pid, SIGKILL);
  }
  // A process that has a keeper, as the sidecar has.
  void StartSidecar(uint32_t graceMs) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    const pid_t parent = ::getpid();
    sidecar_ = ::fork();
    if (sidecar_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      MemoryKeeper keeper;
      const bool started = ::getppid() == parent && MemoryKeeper::Start(address_, memory_.get(), graceMs, &keeper).ok();
      [[maybe_unused]] const ssize_t told = ::write(pipe[1], started ? "y" : "n", 1);
      for (;;) ::pause();
    }
    ::close(pipe[1]);
    char started = 0;
    EXPECT_EQ(::read(pipe[0], &started, 1), 1);
    EXPECT_EQ(started, 'y');
    ::close(pipe[0]);
    ExpectKeeper();
  }
  void Kill() {
    if (sidecar_ <= 0) return;
    ::kill(sidecar_, SIGKILL);
    ::waitpid(sidecar_, nullptr, 0);
    sidecar_ = -1;
  }
  // Connected to the keeper, once it listens.
  [[nodiscard]] Fd Connect() const {
    Fd socket;
    Eventually([&] { return ConnectUnix(KeeperSocketName(address_), &socket).ok(); }, "the keeper listens");
    EXPECT_TRUE(SetSocketTimeout(socket.get(), kPatienceMs).ok());
    return socket;
  }
  void ExpectKept(const Fd& fetched) const {
    struct stat given {};
    struct stat mine {};
    ASSERT_TRUE(fetched.valid());
    ASSERT_EQ(::fstat(fetched.get(), &given), 0);
    ASSERT_EQ(::fstat(memory_.get(), &mine), 0);
    EXPECT_EQ(given.st_ino, mine.st_ino);
    EXPECT_EQ(given.st_dev, mine.st_dev);
  }
  // Its command line is there a moment after its start.
  void ExpectKeeper() const {
    Eventually([&] { return KeepersOf(address_).size() == 1; }, "the keeper is there");
  }
  void ExpectEnded() const {
    Eventually([&] { return KeepersOf(address_).empty(); }, "the keeper ends");
    EXPECT_FALSE(FetchKeptMemory(address_, false).memory.valid());
  }

  const std::string address_ = NewWorkerAddress();
  Fd memory_;
  pid_t sidecar_ = -1;
};

TEST_F(MemoryKeeperTest, GivesTheMemoryOfAKilledSidecarToOneAtATime) {
  StartSidecar(kLongMs);
  EXPECT_FALSE(FetchKeptMemory(address_, false).memory.valid()) << "its sidecar lives";
  Kill();
  const KeptMemory kept = FetchKeptMemory(address_, true);
  ExpectKept(kept.memory);
  EXPECT_TRUE(kept.connection.valid());
  EXPECT_FALSE(FetchKeptMemory(address_, false).memory.valid()) << "it is the second one's keeper now";
}

// Whoever was given the memory may be killed at any moment: before it has adopted it, or long after.
TEST_F(MemoryKeeperTest, StaysForWhoeverWasGivenItsMemory) {
  StartSidecar(kLongMs);
  Kill();
  for (int i = 0; i < 3; ++i) {
    (void)Connect();  // it listens
    const KeptMemory kept = FetchKeptMemory(address_, true);
    ExpectKept(kept.memory);
    EXPECT_TRUE(kept.connection.valid()) << i;
    EXPECT_EQ(KeepersOf(address_).size(), 1U);
  }  // the connection ends without a word, as that of a process that is killed
  (void)Connect();
  {
    KeptMemory kept = FetchKeptMemory(address_, true);
    const MemoryKeeper keeper = MemoryKeeper::Of(std::move(kept.connection));
  }  // as it should
  EXPECT_TRUE(KeepersOf(address_).empty()) << "its end is waited for";
  EXPECT_FALSE(FetchKeptMemory(address_, true).memory.valid());
}

TEST_F(MemoryKeeperTest, GivesUpAfterItsGraceAlsoWhenAnotherOneHadItsMemory) {
  StartSidecar(2'000);
  Kill();
  (void)Connect();
  ExpectKept(FetchKeptMemory(address_, true).memory);
  ExpectEnded();
}

// A keeper of an earlier release ends when its memory is taken.
TEST_F(MemoryKeeperTest, TheMemoryOfAKeeperThatDoesNotStayIsTaken) {
  Fd listener;
  ASSERT_TRUE(ListenUnix(KeeperSocketName(address_), &listener).ok());
  ASSERT_TRUE(SetNonBlocking(listener.get(), false).ok());
  std::thread former([&] {
    Fd socket;
    std::byte answer{};
    Packet taken;
    const int memory = memory_.get();
    EXPECT_TRUE(AcceptUnix(listener.get(), false, &socket).ok());
    listener.Reset();
    EXPECT_TRUE(SendPacket(socket.get(), {&kPacket, 1}, {&memory, 1}).ok());
    EXPECT_TRUE(ReceivePacket(socket.get(), {&answer, 1}, &taken).ok());
    EXPECT_EQ(answer, kPacket);
  });
  const KeptMemory kept = FetchKeptMemory(address_, true);
  former.join();
  ExpectKept(kept.memory);
  EXPECT_FALSE(kept.connection.valid());
}

TEST_F(MemoryKeeperTest, EndsWithASidecarThatEndsAsItShould) {
  {
    MemoryKeeper keeper;
    ASSERT_TRUE(MemoryKeeper::Start(address_, memory_.get(), kLongMs, &keeper).ok());
    ExpectKeeper();
  }
  EXPECT_TRUE(KeepersOf(address_).empty()) << "its end is waited for";
  EXPECT_FALSE(FetchKeptMemory(address_, true).memory.valid());
  EXPECT_GE(::fcntl(memory_.get(), F_GETFD), 0) << "the memory was borrowed";
}

TEST_F(MemoryKeeperTest, ASidecarEndsThoughItsKeeperIsGone) {
  MemoryKeeper keeper;
  ASSERT_TRUE(MemoryKeeper::Start(address_, memory_.get(), kLongMs, &keeper).ok());
  ExpectKeeper();
  ::signal(SIGPIPE, SIG_IGN);
  for (const pid_t pid : KeepersOf(address_)) ::kill(pid, SIGTERM);
  Eventually([&] { return KeepersOf(address_).empty(); }, "SIGTERM ends it");
}

TEST_F(MemoryKeeperTest, GivesUpAfterItsGrace) {
  for (const uint32_t graceMs : {0, 1, 200}) {
    StartSidecar(graceMs);
    Kill();
    ExpectEnded();
  }
}

TEST_F(MemoryKeeperTest, AnotherAddressHasNothing) {
  StartSidecar(kLongMs);
  Kill();
  (void)Connect();
  EXPECT_FALSE(FetchKeptMemory(NewWorkerAddress(), true).memory.valid());
  EXPECT_FALSE(FetchKeptMemory(address_ + "0", false).memory.valid());
  ExpectKept(FetchKeptMemory(address_, false).memory);
}

TEST_F(MemoryKeeperTest, WhoDoesNotTakeItLeavesItForTheNext) {
  StartSidecar(kLongMs);
  Kill();
  for (int i = 0; i < 3; i++) (void)Connect();  // gone at once
  const std::array<std::byte, 2> tooLong{kPacket, kPacket};
  const std::array<std::byte, 1> wrong{std::byte{'x'}};
  for (const std::span<const std::byte> answer :
       {std::span<const std::byte>(tooLong), std::span<const std::byte>(wrong), std::span<const std::byte>()}) {
    const Fd socket = Connect();
    std::byte byte{};
    Packet packet;
    ASSERT_TRUE(ReceivePacket(socket.get(), {&byte, 1}, &packet).ok());
    EXPECT_EQ(packet.descriptors.size(), 1U);
    if (!answer.empty()) {
      ASSERT_TRUE(SendPacket(socket.get(), answer).ok());
    }
  }
  const Fd silent = Connect();
  ExpectKept(FetchKeptMemory(address_, false).memory);
}

TEST_F(MemoryKeeperTest, AnotherUserGetsNothing) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  StartSidecar(kLongMs);
  Kill();
  (void)Connect();  // it listens
  const pid_t other = ::fork();
  if (other == 0) {
    Fd socket;
    std::byte byte{};
    Packet packet;
    if (::setresuid(kOtherUser, kOtherUser, kOtherUser) != 0) ::_exit(2);
    if (!ConnectUnix(KeeperSocketName(address_), &socket).ok()) ::_exit(3);
    if (!SetSocketTimeout(socket.get(), kPatienceMs).ok()) ::_exit(4);
    const Status status = ReceivePacket(socket.get(), {&byte, 1}, &packet);
    ::_exit(status.code() == StatusCode::kRpcPeerDead && packet.descriptors.empty() ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(other, &status, 0), other);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ExpectKept(FetchKeptMemory(address_, false).memory);
}

TEST_F(MemoryKeeperTest, NothingIsTakenFromAnotherUserOrOneWhoGivesNoMemory) {
  Fd listener;
  ASSERT_TRUE(ListenUnix(KeeperSocketName(address_), &listener).ok());
  ASSERT_TRUE(SetNonBlocking(listener.get(), false).ok());
  // Each gives something else; the last one is of another user, and gives what a keeper would.
  for (const int kind : {0, 1, 2, 3}) {
    if (kind == 3 && ::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
    const pid_t parent = ::getpid();
    const pid_t giver = ::fork();
    if (giver == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Fd socket;
      const std::array<std::byte, 2> bytes{kind == 2 ? std::byte{'x'} : kPacket, kPacket};
      const int memory = memory_.get();
      if (::getppid() != parent) ::_exit(2);
      if (kind == 3) {
        // The kernel takes the credentials of who called listen.
        if (::setresuid(kOtherUser, kOtherUser, kOtherUser) != 0 || ::listen(listener.get(), 8) != 0) ::_exit(3);
      }
      const std::span<const int> descriptors = kind == 1 ? std::span<const int>() : std::span(&memory, 1);
      for (;;) {
        if (!AcceptUnix(listener.get(), false, &socket).ok()) continue;
        (void)SendPacket(socket.get(), std::span(bytes).first(kind == 0 ? 2 : 1), descriptors);
      }
    }
    if (kind == 3) {
      Eventually(
          [&] {
            Fd socket;
            PeerCredentials peer;
            return ConnectUnix(KeeperSocketName(address_), &socket).ok() &&
                   GetPeerCredentials(socket.get(), &peer).ok() && peer.uid == kOtherUser;
          },
          "the other user listens");
    }
    EXPECT_FALSE(FetchKeptMemory(address_, false).memory.valid()) << kind;
    ::kill(giver, SIGKILL);
    ASSERT_EQ(::waitpid(giver, nullptr, 0), giver);
  }
}

TEST_F(MemoryKeeperTest, WaitsForItsNameAndIgnoresWhatIsMeantForOthers) {
  Fd older;
  ASSERT_TRUE(ListenUnix(KeeperSocketName(address_), &older).ok());
  StartSidecar(kLongMs);
  // The keeper ignores these from its beginning, before which they would end it.
  Kill();
  older.Reset();
  (void)Connect();
  for (const pid_t pid : KeepersOf(address_)) {
    for (const int signal : {SIGINT, SIGHUP, SIGQUIT}) ::kill(pid, signal);
  }
  ExpectKept(FetchKeptMemory(address_, false).memory);
}

TEST(MemoryKeeper, WrongArgumentsAreRefused) {
  std::string name = kKeeperName;
  std::string address = "127.0.0.1:1";
  for (std::string grace : {"", "x", "-1", "1x", "4294967296"}) {
    std::array<char*, 4> arguments{name.data(), address.data(), grace.data(), nullptr};
    EXPECT_EQ(RunKeeper(3, arguments.data()), 2) << grace;
  }
  std::array<char*, 3> few{name.data(), address.data(), nullptr};
  EXPECT_EQ(RunKeeper(2, few.data()), 2);
}

TEST(MemoryKeeper, ASidecarThatWasKilledWithItsControlProcessIsAdopted) {
  FakeDirectory directory;
  DeviceMemory memory(1 << 20);
  const std::vector<std::string> flags = {"--keep_memory"};
  auto worker = std::make_unique<Worker>(directory, 1, flags);
  const std::string address = worker->process.workerAddress();
  {
    Client client(address);
    memory.Fill(7);
    ASSERT_EQ(client.Call(layout::Op::kSetD2H, 0, {Blobs("a", client.MustRegister(0, memory), 2, 1 << 19)}).code,
              StatusCode::kOk);
  }
  worker->process.Signal(SIGKILL);
  EXPECT_EQ(worker->process.Wait(), -SIGKILL);
  worker->control->Die();
  Eventually(
      [&] {
        Fd socket;
        return ConnectUnix(KeeperSocketName(address), &socket).ok();
      },
      "the keeper listens");
  {
    // Killed between the keeper's answer and the adoption.
    const KeptMemory given = FetchKeptMemory(address, true);  // it listens
    ASSERT_TRUE(given.memory.valid());
  }
  Eventually(
      [&] {
        Fd socket;
        return ConnectUnix(KeeperSocketName(address), &socket).ok();
      },
      "the keeper listens again");
  SidecarProcess next(address, flags);
  EXPECT_EQ(next.ready(), "ready");
  FakeControl control(address, directory, 1);
  Introduce({&control}, {address});
  EXPECT_EQ(control.Stats().objects, 1U);
  EXPECT_EQ(KeepersOf(address).size(), 1U) << "the first one's has stayed";
  DeviceMemory read(1 << 20);
  Client client(address);
  const Reply got = client.Call(layout::Op::kGetH2D, 0, {Blobs("a", client.MustRegister(0, read), 2, 1 << 19)});
  EXPECT_EQ(got.results[0].code, 0U) << got.texts[0];
  EXPECT_EQ(std::memcmp(read.data(), memory.data(), memory.bytes()), 0);
  control.Ask(layout::Op::kShutdown, 0, {}, {1, 0, 0, 0});
  EXPECT_EQ(next.Wait(), 0);
  EXPECT_TRUE(KeepersOf(address).empty());
}

// Of another release, or damaged: it must not stand in the way of every sidecar to come.
TEST(MemoryKeeper, MemoryThatCanNotBeAdoptedIsLetGoOf) {
  FakeDirectory directory;
  const std::vector<std::string> flags = {"--keep_memory"};
  auto worker = std::make_unique<Worker>(directory, 1, flags);
  const std::string address = worker->process.workerAddress();
  Eventually([&] { return KeepersOf(address).size() == 1; }, "the keeper is there");
  const pid_t before = KeepersOf(address).at(0);
  worker->process.Signal(SIGKILL);
  EXPECT_EQ(worker->process.Wait(), -SIGKILL);
  worker->control->Die();
  const auto listens = [&] {
    Fd socket;
    return ConnectUnix(KeeperSocketName(address), &socket).ok();
  };
  Eventually(listens, "the keeper listens");
  {
    const KeptMemory given = FetchKeptMemory(address, true);
    ASSERT_TRUE(given.memory.valid());
    const uint32_t version = 1'000;
    ASSERT_EQ(::pwrite(given.memory.get(), &version, sizeof(version), 4), ssize_t{sizeof(version)});
  }
  Eventually(listens, "the keeper listens again");
  SidecarProcess next(address, flags);
  EXPECT_EQ(next.ready(), "ready");
  FakeControl control(address, directory, 1);
  Introduce({&control}, {address});
  EXPECT_EQ(control.Stats().objects, 0U);
  Eventually([&] { return KeepersOf(address).size() == 1; }, "it has a keeper of its own");
  EXPECT_NE(KeepersOf(address).at(0), before);
  control.Ask(layout::Op::kShutdown, 0, {}, {1, 0, 0, 0});
  EXPECT_EQ(next.Wait(), 0);
  EXPECT_TRUE(KeepersOf(address).empty());
}

}  // namespace
}  // namespace hbmesh::sidecar::testing

int main(int argc, char** argv) {
  if (std::string_view(argv[0]) == hbmesh::sidecar::kKeeperName) return hbmesh::sidecar::RunKeeper(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
