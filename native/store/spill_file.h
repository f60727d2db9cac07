// SpillFile: the file of an SSD tier, in a directory that only this process uses, and the space in it.
//
//   0      SpillFileHeader in 4,096 bytes
//   4096   records: payload │ zeros │ SpillFooter (docs/FORMATS.md)
//
// A record under 64 KiB is packed: it lies at a multiple of 64, next to others, so that an object of 1 KiB takes
// 1,088 bytes. Such records go through the page cache, where the kernel joins writes to one block. Larger ones begin
// and end at multiples of 4,096, as O_DIRECT wants it: no block is ever written both ways.
//
// The directory is locked (flock) as long as the object lives; the lock ends with the process, whatever ends it.
// Thread rule: one thread, but for fd().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "store/arena_allocator.h"
#include "store/key_index.h"

namespace hbmesh {

inline constexpr uint64_t kSpillBlockBytes = 4096;          // offsets, lengths and buffers: what O_DIRECT needs at most
inline constexpr uint64_t kSpillPackedBytes = 64ULL << 10;  // records below this are packed

struct SpillFileHeader {
  uint32_t magic;    // 0x31464248 "HBF1"
  uint32_t version;  // 2
  uint64_t storeId;  // of the store whose slots lead here
  uint64_t fileBytes;
  uint32_t reserved;
  uint32_t headerCrc32c;  // over this header (this field 0)
};
static_assert(sizeof(SpillFileHeader) == 32);

// The last 64 bytes of a record.
struct SpillFooter {
  uint32_t magic;    // 0x31534248 "HBS1"
  uint32_t version;  // 1
  uint64_t storeId;
  uint64_t generation;
  uint64_t keyHash;
  uint64_t payloadBytes;
  uint32_t payloadCrc32c;
  uint32_t footerCrc32c;  // over this footer (this field 0)
  uint64_t reserved[2];
};
static_assert(sizeof(SpillFooter) == 64);

// What a record must be of, to be believed.
struct SpillIdentity {
  uint64_t storeId = 0;
  uint64_t generation = 0;
  uint64_t keyHash = 0;
  uint64_t payloadBytes = 0;
};
[[nodiscard]] SpillFooter MakeSpillFooter(const SpillIdentity& identity, uint32_t payloadCrc32c);
// "" or what is wrong.
[[nodiscard]] std::string SpillFooterFault(const SpillFooter& footer, const SpillIdentity& identity, uint32_t crc32c);
[[nodiscard]] uint64_t SpillRecordBytes(uint64_t payloadBytes);
[[nodiscard]] bool IsSpillPacked(uint64_t payloadBytes);

// Memory that O_DIRECT takes.
struct FreeAligned {
  void operator()(std::byte* memory) const;
};
using AlignedBuffer = std::unique_ptr<std::byte[], FreeAligned>;
[[nodiscard]] AlignedBuffer MakeAlignedBuffer(uint64_t bytes);

class SpillFile {
 public:
  static constexpr uint32_t kNoOwner = ArenaAllocator::kNone;
  struct Place {
    uint64_t offset;
    uint64_t payloadBytes;
    uint32_t owner = kNoOwner;  // as in Reserve
  };
  // Of a record that may go: what is lost with it. kBlocked: it may not. Sums of them must not overflow.
  using CostOf = std::function<uint64_t(uint32_t owner, uint64_t offset, uint64_t recordBytes)>;
  static constexpr uint64_t kBlocked = ArenaAllocator::kBlocked;

  // Makes the directory (mode 0700) if only its last part is missing, locks it, and opens the file of this store or, if
  // there is none, removes what is there and makes one of `fileBytes` (rounded down to 4,096), all of it allocated. The
  // file of this store keeps its size, whatever fileBytes says: objects lie in it.
  // kNotReady: another process uses the directory. kNoSpace: the file system has too little room. kInvalid: fileBytes.
  [[nodiscard]] static Status Open(const std::string& directory, uint64_t fileBytes, uint64_t storeId, bool direct,
                                   std::unique_ptr<SpillFile>* file);
  // Removes the file, unless Keep was called.
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // Whether the file stays, for a process that adopts the store.
  void Keep(bool keep) { keep_ = keep; }
  [[nodiscard]] int fd() const { return file_.get(); }
  // For packed records: never O_DIRECT.
  [[nodiscard]] int packedFd() const { return packed_.valid() ? packed_.get() : file_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool direct() const { return direct_; }
  [[nodiscard]] bool reopened() const { return reopened_; }  // the file was there, of this store

  // Space for a record of this payload; nullopt: there is none. `owner` is any number of the caller's, for CheapestRun.
  [[nodiscard]] std::optional<uint64_t> Reserve(uint64_t payloadBytes, uint32_t owner = kNoOwner);
  // Whether a record of this payload would find space if the one at `offset` were freed. REQUIRES: as Free.
  [[nodiscard]] bool WouldFit(uint64_t offset, uint64_t payloadBytes) const;
  // The owners of neighbours that together, if they were freed, would make space for a record of this payload, at the
  // least sum of costs; empty: there are none. Looks around the record at `near` first (ArenaAllocator::CheapestRun).
  [[nodiscard]] std::vector<uint32_t> CheapestRun(uint64_t payloadBytes, const CostOf& costOf, uint64_t near) const;
  // REQUIRES: reserved or adopted.
  void Free(uint64_t offset);
  // Takes over records that a former process wrote; false for each that can't lie there, or overlaps another.
  // REQUIRES: nothing was reserved.
  [[nodiscard]] std::vector<bool> Adopt(const std::vector<Place>& places);
  [[nodiscard]] uint64_t capacityBytes() const { return space_.arenaBytes(); }
  [[nodiscard]] uint64_t usedBytes() const { return space_.usedBytes(); }
  // Private memory for knowing what is where.
  [[nodiscard]] uint64_t memoryBytes() const { return space_.memoryBytes() + taken_.bytes(); }

 private:
  SpillFile(Fd directory, std::string path, uint64_t fileBytes);
  [[nodiscard]] Status OpenExisting(uint64_t storeId, bool direct);
  [[nodiscard]] Status MakeNew(uint64_t storeId, bool direct);
  [[nodiscard]] Status OpenFlags(int flags, bool direct);
  [[nodiscard]] Status OpenPacked();
  [[nodiscard]] ArenaAllocator::Handle Allocate(uint64_t payloadBytes);
  [[nodiscard]] bool HasAligned(const std::vector<ArenaAllocator::Handle>& run, uint64_t recordBytes) const;
  [[nodiscard]] uint64_t OffsetOf(ArenaAllocator::Handle record) const;
  [[nodiscard]] ArenaAllocator::Handle RecordAt(uint64_t offset) const;

  Fd directory_;  // holds the lock; closed last
  const std::string path_;
  uint64_t fileBytes_;
  Fd file_;
  Fd packed_;  // the same file, if file_ is O_DIRECT
  bool direct_ = false;
  bool reopened_ = false;
  bool keep_ = false;
  ArenaAllocator space_;  // offsets from kSpillBlockBytes on
  KeyIndex taken_;        // records by their offset
};

}  // namespace hbmesh
