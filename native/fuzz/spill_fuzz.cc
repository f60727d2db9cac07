// The SSD tier's file as a dead process left it, damaged: SpillTier, its header and its records.
//
// Must hold: a file that isn't this store's is replaced; a read gives the bytes that were written under this identity
// or says that it has none, and never reaches outside of its target; places that are taken over don't overlap.
#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/fd.h"
#include "fuzz/fuzz.h"
#include "store/spill_tier.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint64_t kFileBytes = 7 * kSpillBlockBytes;
constexpr uint64_t kStoreId = 77;

struct Record {
  uint64_t offset;
  SpillIdentity identity;
};
const Record kRecords[] = {
    {4096, {kStoreId, 10, 100, 8}}, {4224, {kStoreId, 11, 101, 5000}}, {9344, {kStoreId, 12, 102, 4032}}};

Bytes PayloadOf(const Record& record) {
  return Bytes(record.identity.payloadBytes, static_cast<std::byte>(record.identity.generation));
}

class Sink final : public SpillSink {
 public:
  void OnSpillIo(uint64_t token, Status status) override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(done_.emplace(token, std::move(status)).second);
    changed_.notify_all();
  }
  Status Wait(uint64_t token) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_.contains(token); });
    Status status = done_.at(token);
    done_.erase(token);
    return status;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Status> done_;
};

// A directory for this process, removed with it.
struct Folder {
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-fuzz-XXXXXX").string();
    FUZZ_CHECK(::mkdtemp(pattern.data()) != nullptr);
    path = pattern;
    std::atexit([] { std::filesystem::remove_all(Get().path); });
  }
  static Folder& Get() {
    static auto* folder = new Folder;
    return *folder;
  }
  std::string path;
};

std::unique_ptr<SpillTier> OpenTier(Sink* sink) {
  SpillOptions options;
  options.directory = Folder::Get().path;
  options.bytesMax = kFileBytes;
  options.io = SpillOptions::Io::kPlain;
  options.direct = false;
  options.threads = 1;
  options.chunkBytes = kSpillBlockBytes;
  std::unique_ptr<SpillTier> tier;
  const Status status = SpillTier::Open(options, kStoreId, sink, &tier);
  FUZZ_CHECK(status.ok());
  return tier;
}

Bytes GoodFile() {
  Sink sink;
  const std::unique_ptr<SpillTier> tier = OpenTier(&sink);
  for (const Record& record : kRecords) {
    FUZZ_CHECK(tier->file().Reserve(record.identity.payloadBytes) == record.offset);
    const Bytes payload = PayloadOf(record);
    FUZZ_CHECK(tier->Write(record.offset, payload, record.identity, record.offset).ok());
    FUZZ_CHECK(sink.Wait(record.offset).ok());
  }
  Bytes file(kFileBytes);
  FUZZ_CHECK(::pread(tier->file().fd(), file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));
  return file;
}

void Damage(Input& input, Bytes* file) {
  for (int i = 0; i < 16 && !input.empty(); ++i) {
    const uint8_t what = input.Byte();
    const uint64_t value = input.Number();
    const Record& record = kRecords[what % std::size(kRecords)];
    const uint64_t footer =
        record.offset + SpillRecordBytes(record.identity.payloadBytes) - sizeof(SpillFooter) + 8 * input.Below(8);
    if (what < 0x60) {
      std::memcpy(file->data() + footer, &value, sizeof value);
    } else if (what < 0x80) {
      std::memcpy(file->data() + 8 * input.Below(4), &value, sizeof value);
    } else if (what < 0xC0) {
      (*file)[input.Take<uint32_t>() % file->size()] ^= static_cast<std::byte>(1 + value % 255);
    } else if (what < 0xE0) {  // one record where another was
      const Record& other = kRecords[(what + 1) % std::size(kRecords)];
      std::memmove(file->data() + record.offset, file->data() + other.offset, kSpillBlockBytes);
    } else {
      file->resize(std::max<size_t>(1, input.Take<uint32_t>() % file->size()));
    }
    if (file->size() < kFileBytes) return;
  }
}

void WriteFile(const Bytes& bytes) {
  const Fd file(::open((Folder::Get().path + "/hbmesh-spill").c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  FUZZ_CHECK(::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
}

// A place as a damaged slot may name it; read only if it was taken over.
void ReadAnywhere(Input& input, SpillTier& tier, Sink& sink) {
  std::vector<SpillFile::Place> places;
  for (int i = 0; i < 3; ++i) places.push_back({4096 + input.Number() * 64, input.Number() * 600});
  const std::vector<bool> taken = tier.file().Adopt(places);
  for (size_t i = 0; i < places.size(); ++i) {
    if (!taken[i]) continue;
    FUZZ_CHECK(places[i].offset + SpillRecordBytes(places[i].payloadBytes) <= kFileBytes);
    Bytes target(places[i].payloadBytes);
    const SpillIdentity identity{kStoreId, input.Number(), input.Number(), places[i].payloadBytes};
    FUZZ_CHECK(tier.Read(places[i].offset, target, identity, i).ok());
    (void)sink.Wait(i).ok();
  }
  for (size_t i = 0; i < places.size(); ++i) {
    if (taken[i]) tier.file().Free(places[i].offset);
  }
  FUZZ_CHECK(tier.file().usedBytes() == 0);
}

void ReadRecords(SpillTier& tier, Sink& sink) {
  for (const Record& record : kRecords) {
    Bytes target(record.identity.payloadBytes);
    FUZZ_CHECK(tier.Read(record.offset, target, record.identity, record.offset).ok());
    const Status status = sink.Wait(record.offset);
    if (status.ok()) FUZZ_CHECK(target == PayloadOf(record));
  }
}

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter good;
  for (const Record& record : kRecords) good.PutByte(static_cast<uint8_t>((record.offset - 4096) / 64)).PutByte(2);
  SeedWriter header;
  header.PutByte(9).PutByte(4).PutByte(0).PutByte(0).PutByte(0).PutByte(0);
  header.PutByte(0x60).PutByte(3).Put(uint16_t{0}).Put(uint16_t{1});
  SeedWriter footer;
  for (int i = 0; i < 6; ++i) footer.PutByte(0);
  footer.PutByte(1).PutByte(7).Put(uint16_t{2});
  return {good.bytes(), header.bytes(), footer.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  static const Bytes good = GoodFile();
  Input input(data, size);
  (void)input.Some(24);  // where to read
  Bytes file = good;
  Damage(input, &file);
  WriteFile(file);
  Sink sink;
  const std::unique_ptr<hbmesh::SpillTier> tier = OpenTier(&sink);
  if (file.size() < kFileBytes) FUZZ_CHECK(!tier->file().reopened());
  if (tier->file().reopened()) ReadRecords(*tier, sink);
  Input where(data, std::min<size_t>(size, 24));
  ReadAnywhere(where, *tier, sink);
  return 0;
}
