// Goal: an SSD tier makes a small arena hold ten times its size: whatever is pushed out of memory is found again with
// its bytes, here and from another worker, through delete, expiry, pins, a kill and a damaged file; what is lost is
// said to be lost. Method: real sidecar processes with an arena of a few objects and a directory of the test's own;
// every byte that comes back is compared; the tier's file is damaged behind the sidecar's back.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kHard = 2;
constexpr uint64_t kReplace = 2;

struct SpillDirectory {
  SpillDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-spill-test-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~SpillDirectory() { std::filesystem::remove_all(path); }
  [[nodiscard]] std::string file() const { return path + "/hbmesh-spill"; }
  [[nodiscard]] std::vector<std::string> Flags(uint64_t arenaMb, uint64_t spillMb,
                                               const std::vector<std::string>& more = {}) const {
    std::vector<std::string> flags = {"--arena_mb=" + std::to_string(arenaMb), "--spill_directory=" + path,
                                      "--spill_mb=" + std::to_string(spillMb)};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }
  std::string path;
};

std::string KeyOf(uint64_t number) { return "key" + std::to_string(number); }

// Sets and gets objects of 1 MiB in two blobs whose bytes are a function of a number.
class Objects {
 public:
  explicit Objects(Client& client, uint64_t count = 1)
      : client_(client), memory_(count * kMiB), expected_(kMiB), region_(client.MustRegister(0, memory_)) {}

  Reply Set(uint64_t number, std::array<uint64_t, 4> args = {}) {
    memory_.Fill(number);
    return client_.Call(Op::kSetD2H, 0, {Blobs(KeyOf(number), region_, 2, kMiB / 2)}, args);
  }
  // `first` up to, and not with, `end`, each by itself.
  void SetAll(uint64_t first, uint64_t end) {
    for (uint64_t number = first; number < end; ++number) {
      const Reply reply = Set(number);
      ASSERT_EQ(reply.results[0].code, 0U) << KeyOf(number) << ": " << reply.texts[0];
    }
  }
  uint64_t SubmitGet(uint64_t first, uint64_t end) {
    std::memset(memory_.data(), 0, memory_.bytes());
    std::vector<KeyBlobs> keys;
    for (uint64_t number = first; number < end; ++number) {
      keys.push_back(Blobs(KeyOf(number), region_, 2, kMiB / 2, (number - first) * kMiB));
    }
    return client_.Submit(Op::kGetH2D, 0, keys);
  }
  // In one call.
  Reply Get(uint64_t first, uint64_t end) { return client_.WaitFor(SubmitGet(first, end)); }
  Reply Get(uint64_t number) { return Get(number, number + 1); }
  void ExpectRight(uint64_t number, uint64_t at = 0) {
    expected_.Fill(number);
    EXPECT_EQ(std::memcmp(memory_.data() + at * kMiB, expected_.data(), kMiB), 0) << KeyOf(number);
  }
  // Gets them `step` in one call, and compares. Path flags of all calls together are added to *flags.
  void ExpectAll(uint64_t first, uint64_t end, uint64_t step, uint32_t* flags = nullptr) {
    for (uint64_t from = first; from < end; from += step) {
      const uint64_t to = std::min(end, from + step);
      const Reply reply = Get(from, to);
      ASSERT_EQ(reply.code, StatusCode::kOk) << reply.text;
      for (uint64_t number = from; number < to; ++number) {
        ASSERT_EQ(reply.results[number - from].code, 0U) << KeyOf(number) << ": " << reply.texts[number - from];
        ExpectRight(number, number - from);
      }
      for (const layout::PathRecord& path : reply.paths) {
        if (flags != nullptr) *flags |= path.flags;
      }
    }
  }
  // Of those from `first` on, one that is on the SSD tier.
  uint64_t AnySpilled(FakeControl& control, uint64_t first, uint64_t end) {
    for (uint64_t number = first; number < end; ++number) {
      if (Explain(control, number).find(R"("where":"ssd")") != std::string::npos) return number;
    }
    ADD_FAILURE() << "none is on the SSD tier";
    return first;
  }
  static std::string Explain(FakeControl& control, uint64_t number) {
    const Message reply = control.Ask(Op::kExplain, 1, KeyBatchOf({KeyOf(number)}));
    return {reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size()};
  }

 private:
  Client& client_;
  DeviceMemory memory_;
  DeviceMemory expected_;
  uint32_t region_;
};

uint64_t Forgotten(FakeDirectory& directory) {
  const std::lock_guard lock(directory.mutex);
  return directory.forgotten;
}

TEST(SpillTest, TenTimesTheArenaIsFoundHereAndFromAnotherWorker) {
  for (const std::string transport : {"tcp", "shm"}) {
    SpillDirectory spill;
    FakeDirectory directory;
    Worker first(directory, 1, spill.Flags(4, 64, {"--transport=" + transport}));
    Worker second(directory, 2, {"--arena_mb=4", "--transport=" + transport});
    Introduce({first.control.get(), second.control.get()},
              {first.process.workerAddress(), second.process.workerAddress()});
    Client here(first.process.workerAddress());
    Client far(second.process.workerAddress());
    Objects mine(here, 20);
    Objects theirs(far, 20);
    mine.SetAll(0, 40);
    const layout::SidecarStats stats = first.control->Stats();
    EXPECT_EQ(stats.objects, 40U);
    EXPECT_GE(stats.spilledObjects, 36U);
    EXPECT_EQ(stats.spilledBytes, stats.spilledObjects * kMiB);
    EXPECT_EQ(stats.spillBytes, 64 * kMiB - 4096);
    EXPECT_LE(stats.arenaUsedBytes, 4 * kMiB);
    uint32_t flags = 0;
    mine.ExpectAll(0, 40, 1, &flags);
    EXPECT_EQ(flags, layout::kPathSpilled) << "the path says where the bytes were";
    mine.ExpectAll(0, 40, 20);  // five times the arena in one call
    flags = 0;
    theirs.ExpectAll(0, 40, 1, &flags);
    EXPECT_EQ(flags, layout::kPathSpilled);
    theirs.ExpectAll(0, 40, 20);
    EXPECT_EQ(Forgotten(directory), 0U) << "nothing was dropped";
    EXPECT_EQ(first.control->Stats().objects, 40U);
    Eventually([&] { return first.control->Stats().holds == 0; }, "nothing stays held");
  }
}

TEST(SpillTest, OneCallSaysWhichBytesCameFromTheTier) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker worker(directory, 1, spill.Flags(8, 64));
  Client client(worker.process.workerAddress());
  Objects objects(client, 2);
  objects.SetAll(0, 20);
  ASSERT_EQ(objects.Get(19).paths[0].flags, 0U) << "the newest is in memory";
  const std::string inMemory = Objects::Explain(*worker.control, 19);
  EXPECT_NE(inMemory.find(R"("where":"memory")"), std::string::npos) << inMemory;
  EXPECT_EQ(inMemory.find("spillOffset"), std::string::npos) << inMemory;
  const std::string onTier = Objects::Explain(*worker.control, 0);
  EXPECT_NE(onTier.find(R"("where":"ssd")"), std::string::npos) << onTier;
  EXPECT_NE(onTier.find(R"("spillOffset":")"), std::string::npos) << onTier;
  const Reply back = objects.Get(0);
  ASSERT_EQ(back.paths.size(), 1U);
  EXPECT_EQ(back.paths[0].flags, layout::kPathSpilled);
  EXPECT_EQ(back.paths[0].bytes, kMiB);
  EXPECT_EQ(objects.Get(0).paths[0].flags, 0U) << "it is in memory now";
  // Presence and shape are known without bringing anything back.
  EXPECT_EQ(client.Call(Op::kExist, 0, {{KeyOf(2), {}}}).results[0].code, 0U);
  EXPECT_EQ(client.Call(Op::kGetMeta, 0, {{KeyOf(2), {}}}).blobSizes[0], (std::vector<uint64_t>{kMiB / 2, kMiB / 2}));
  EXPECT_NE(Objects::Explain(*worker.control, 2).find(R"("where":"ssd")"), std::string::npos);
  DeviceMemory other(kMiB);
  const Reply shape = client.Call(Op::kGetH2D, 0, {Blobs(KeyOf(2), client.MustRegister(0, other), 1, 100)});
  EXPECT_EQ(shape.results[0].code, CodeOf(StatusCode::kInvalid)) << "another shape is refused before that, too";
  EXPECT_NE(Objects::Explain(*worker.control, 2).find(R"("where":"ssd")"), std::string::npos);
}

TEST(SpillTest, DeleteReplaceAndTimeEndSpilledObjects) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker worker(directory, 1, spill.Flags(8, 64));
  Client client(worker.process.workerAddress());
  Objects objects(client);
  ASSERT_EQ(objects.Set(100, {0, 3'000, 0, 0}).results[0].code, 0U);  // for 3 s
  objects.SetAll(0, 20);
  EXPECT_EQ(Objects::Explain(*worker.control, 100).find(R"("where":"memory")"), std::string::npos) << "the oldest went";
  const uint64_t before = worker.control->Stats().spilledObjects;
  ASSERT_GE(before, 10U);
  layout::HeldObject held{};
  {
    const std::lock_guard lock(directory.mutex);
    const FakeDirectory::Known& known = directory.known.at(KeyOf(0));
    held = {known.generation, known.locations[0].slot, 0};
    directory.known.erase(KeyOf(0));
  }
  std::vector<std::byte> payload(sizeof(held));
  std::memcpy(payload.data(), &held, sizeof(held));
  worker.control->Ask(Op::kDrop, 1, std::move(payload));
  EXPECT_EQ(objects.Get(0).results[0].code, CodeOf(StatusCode::kNotFound));
  EXPECT_LT(worker.control->Stats().spilledObjects, before);
  // Another object replaces one that is on the tier.
  const uint64_t old = objects.AnySpilled(*worker.control, 1, 20);
  DeviceMemory small(4096);
  small.Fill(77);
  const uint32_t region = client.MustRegister(0, small);
  const Reply replaced = client.Call(Op::kSetD2H, 0, {Blobs(KeyOf(old), region, 1, 4096)}, {kReplace, 0, 0, 0});
  ASSERT_EQ(replaced.results[0].code, 0U) << replaced.texts[0];
  EXPECT_EQ(objects.Get(old).results[0].code, CodeOf(StatusCode::kInvalid)) << "the old shape is gone";
  EXPECT_EQ(client.Call(Op::kGetH2D, 0, {Blobs(KeyOf(old), region, 1, 4096)}).results[0].code, 0U);
  Eventually([&] { return Forgotten(directory) == 1; }, "the owner hears of the one whose time is over");
  const std::string expired = Objects::Explain(*worker.control, 100);
  EXPECT_NE(expired.find(R"("ended":"expired")"), std::string::npos) << expired;
}

TEST(SpillTest, PinnedObjectsNeverLeaveMemory) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker worker(directory, 1, spill.Flags(8, 64));
  Client client(worker.process.workerAddress());
  Objects objects(client);
  objects.SetAll(0, 1);
  for (uint64_t number = 100; number < 103; ++number) {
    ASSERT_EQ(objects.Set(number, {0, 0, kHard, 0}).results[0].code, 0U);
  }
  objects.SetAll(1, 20);
  for (uint64_t number = 100; number < 103; ++number) {
    EXPECT_NE(Objects::Explain(*worker.control, number).find(R"("where":"memory")"), std::string::npos);
    EXPECT_EQ(objects.Get(number).paths[0].flags, 0U);
    objects.ExpectRight(number);
  }
  for (uint64_t number = 103; number < 107; ++number) {
    ASSERT_EQ(objects.Set(number, {0, 0, kHard, 0}).results[0].code, 0U);
  }
  // Seven of eight MiB never move: the next one finds no room, and what is on the tier can't come back.
  const Reply more = objects.Set(107, {0, 0, kHard, 0});
  EXPECT_EQ(more.results[0].code, CodeOf(StatusCode::kOutOfMemory)) << more.texts[0];
  const Reply none = objects.Get(0);
  EXPECT_EQ(none.results[0].code, CodeOf(StatusCode::kOutOfMemory)) << none.texts[0];
  EXPECT_NE(none.texts[0].find("SSD tier"), std::string::npos) << none.texts[0];
  EXPECT_NE(Objects::Explain(*worker.control, 0).find(R"("where":"ssd")"), std::string::npos) << "it isn't lost";
}

TEST(SpillTest, FullTierDropsWhatWasNotUsedForLongest) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker worker(directory, 1, spill.Flags(8, 8));
  Client client(worker.process.workerAddress());
  Objects objects(client);
  objects.SetAll(0, 10);
  EXPECT_EQ(objects.Get(0).results[0].code, 0U);  // used again
  objects.SetAll(10, 16);
  Eventually([&] { return Forgotten(directory) != 0; }, "the owner hears of an end");
  const uint64_t there = worker.control->Stats().objects;
  EXPECT_GE(there, 10U);
  EXPECT_LE(there, 14U) << "no more than arena and tier together";
  EXPECT_EQ(Forgotten(directory), 16 - there);
  EXPECT_NE(Objects::Explain(*worker.control, 1).find(R"("ended":"evicted")"), std::string::npos);
  EXPECT_EQ(objects.Get(0).results[0].code, 0U) << "what was read meanwhile stays";
  objects.ExpectRight(0);
  EXPECT_EQ(objects.Get(15).results[0].code, 0U);
}

TEST(SpillTest, KilledAndAdoptedItStillBringsBack) {
  SpillDirectory spill;
  FakeDirectory directory;
  auto worker = std::make_unique<Worker>(directory, 1, spill.Flags(8, 64));
  const Fd store(::fcntl(worker->control->peer().storeFd(), F_DUPFD_CLOEXEC, 100));
  {
    Client client(worker->process.workerAddress());
    Objects objects(client);
    objects.SetAll(0, 20);
  }
  for (const int signal : {SIGKILL, SIGTERM}) {
    worker->process.Signal(signal);
    EXPECT_EQ(worker->process.Wait(), signal == SIGKILL ? -SIGKILL : 0);
    worker->control->Die();
    EXPECT_TRUE(std::filesystem::exists(spill.file())) << "a successor may want it";
    worker = std::make_unique<Worker>(directory, 1, spill.Flags(8, 64), store.get());
    EXPECT_EQ(worker->control->Stats().objects, 20U);
    EXPECT_GE(worker->control->Stats().spilledObjects, 10U);
    Client client(worker->process.workerAddress());
    Objects objects(client);
    objects.ExpectAll(0, 20, 1);
  }
  // Without the tier they are gone, and said to be.
  worker->process.Signal(SIGKILL);
  worker->process.Wait();
  worker->control->Die();
  worker = std::make_unique<Worker>(directory, 1, std::vector<std::string>{"--arena_mb=8"}, store.get());
  EXPECT_EQ(worker->control->Stats().spilledObjects, 0U);
  EXPECT_LE(worker->control->Stats().objects, 8U);
  EXPECT_NE(Objects::Explain(*worker->control, 0).find(R"("where":"nowhere")"), std::string::npos);
}

TEST(SpillTest, TheFileGoesWithTheWorker) {
  SpillDirectory spill;
  FakeDirectory directory;
  {
    Worker worker(directory, 1, spill.Flags(8, 64));
    Client client(worker.process.workerAddress());
    Objects objects(client);
    objects.SetAll(0, 20);
    EXPECT_TRUE(std::filesystem::exists(spill.file()));
    worker.control->Ask(Op::kShutdown, 0, {}, {1, 0, 0, 0});
    EXPECT_EQ(worker.process.Wait(), 0);
  }
  EXPECT_TRUE(std::filesystem::is_empty(spill.path));
  Worker orphan(directory, 2, spill.Flags(8, 64, {"--orphan_grace_ms=0"}));
  orphan.control->Die();
  EXPECT_EQ(orphan.process.Wait(), 1);
  EXPECT_TRUE(std::filesystem::is_empty(spill.path));
}

// Changes a byte in each 4,096 of the records; the file's header stays.
void DamageFile(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  struct stat about {};
  ASSERT_EQ(::fstat(file.get(), &about), 0);
  for (off_t at = 4096; at < about.st_size; at += 4096) {
    unsigned char byte = 0;
    ASSERT_EQ(::pread(file.get(), &byte, 1, at), 1);
    byte ^= 1;
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, at), 1);
  }
}

TEST(SpillTest, DamagedBytesAreAnErrorAndForgotten) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker first(directory, 1, spill.Flags(8, 32, {"--transport=tcp"}));
  Worker second(directory, 2, {"--transport=tcp"});
  Introduce({first.control.get(), second.control.get()},
            {first.process.workerAddress(), second.process.workerAddress()});
  Client here(first.process.workerAddress());
  Client far(second.process.workerAddress());
  Objects mine(here);
  Objects theirs(far);
  mine.SetAll(0, 20);
  Eventually([&] { return first.control->Stats().spilledObjects >= 12; }, "the oldest are on the tier");
  DamageFile(spill.file());
  const Reply local = mine.Get(0);
  EXPECT_EQ(local.results[0].code, CodeOf(StatusCode::kDataInconsistency));
  EXPECT_NE(local.texts[0].find("set it again"), std::string::npos) << local.texts[0];
  EXPECT_TRUE(local.paths.empty());
  Eventually([&] { return Forgotten(directory) == 1; }, "the owner hears that it is lost");
  const Reply remote = theirs.Get(1);
  EXPECT_EQ(remote.results[0].code, CodeOf(StatusCode::kDataInconsistency));
  EXPECT_NE(remote.texts[0].find(first.process.workerAddress()), std::string::npos) << remote.texts[0];
  EXPECT_TRUE(remote.paths.empty());
  Eventually([&] { return Forgotten(directory) == 2; }, "of this one, too");
  for (const uint64_t number : {0, 1}) {
    const std::string told = Objects::Explain(*first.control, number);
    EXPECT_NE(told.find(R"("ended":"lost")"), std::string::npos) << told;
    EXPECT_EQ(mine.Set(number, {kReplace, 0, 0, 0}).results[0].code, 0U) << "the key can be set again";
  }
  mine.ExpectAll(0, 2, 1);
}

TEST(SpillTest, WhoGoesAwayMeanwhileLeavesNothingHeld) {
  SpillDirectory spill;
  FakeDirectory directory;
  Worker first(directory, 1, spill.Flags(8, 64, {"--transport=tcp"}));
  auto second = std::make_unique<Worker>(directory, 2, std::vector<std::string>{"--transport=tcp"});
  Introduce({first.control.get(), second->control.get()},
            {first.process.workerAddress(), second->process.workerAddress()});
  Client setter(first.process.workerAddress());
  Objects objects(setter, 20);
  objects.SetAll(0, 20);
  for (int round = 0; round < 5; ++round) {
    Client gone(first.process.workerAddress());
    Objects theirs(gone, 20);
    (void)theirs.SubmitGet(0, 20);
    gone.Die();
    const uint64_t cancelled = objects.SubmitGet(0, 20);
    setter.SubmitRaw(Op::kCancel, 0, {}, {cancelled, 0, 0, 0});
    EXPECT_EQ(setter.WaitFor(cancelled).code, StatusCode::kOk);
  }
  Client reader(second->process.workerAddress());
  Objects far(reader, 20);
  (void)far.SubmitGet(0, 20);
  second.reset();  // killed
  Eventually([&] { return first.control->Stats().holds == 0; }, "nothing stays held");
  objects.ExpectAll(0, 20, 20);
  EXPECT_EQ(Forgotten(directory), 0U);
}

TEST(SpillTest, WrongOptionsAreRefused) {
  SpillDirectory spill;
  std::ofstream(spill.path + "/plain") << "a file";
  const auto refusal = [](std::vector<std::string> flags) {
    return SidecarProcess(NewWorkerAddress(), std::move(flags)).ready();
  };
  const std::string parent = refusal({"--spill_directory=" + spill.path + "/no/such", "--spill_mb=8"});
  EXPECT_EQ(parent.find("error: making the spill directory"), 0U) << parent;
  EXPECT_NE(parent.find("give a directory"), std::string::npos) << parent;
  const std::string file = refusal({"--spill_directory=" + spill.path + "/plain", "--spill_mb=8"});
  EXPECT_EQ(file.find("error: opening the spill directory"), 0U) << file;
  const std::string noSize = refusal({"--spill_directory=" + spill.path});
  EXPECT_NE(noSize.find("--spill_directory and --spill_mb go together"), std::string::npos) << noSize;
  EXPECT_NE(refusal({"--spill_mb=8"}).find("go together"), std::string::npos);
  const std::string large = refusal({"--spill_directory=" + spill.path, "--spill_mb=1000000000"});
  EXPECT_NE(large.find("no room for an SSD tier"), std::string::npos) << large;
  SidecarProcess first(NewWorkerAddress(), spill.Flags(8, 8));
  EXPECT_EQ(first.ready(), "ready");
  const std::string second = refusal(spill.Flags(8, 8));
  EXPECT_NE(second.find("a directory of its own"), std::string::npos) << second;
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
