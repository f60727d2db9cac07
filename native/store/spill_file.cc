#include "store/spill_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "base/align.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"

namespace hbmesh {
namespace {

constexpr const char* kFileName = "hbmesh-spill";
constexpr uint32_t kFileMagic = 0x31464248;    // "HBF1"
constexpr uint32_t kRecordMagic = 0x31534248;  // "HBS1"
constexpr uint32_t kFileVersion = 2;
constexpr uint32_t kRecordVersion = 1;

// Places that follow each other must not follow each other in the index as well.
uint64_t HashOf(uint64_t offset) { return (offset / ArenaAllocator::kAlignment * 0x9E3779B97F4A7C15ULL) >> 32; }

uint32_t CrcOf(SpillFileHeader header) {
  header.headerCrc32c = 0;
  return Crc32c(std::as_bytes(std::span(&header, 1)));
}

uint32_t CrcOf(SpillFooter footer) {
  footer.footerCrc32c = 0;
  return Crc32c(std::as_bytes(std::span(&footer, 1)));
}

Status NoDirectory(int error, const std::string& doing, const std::string& directory) {
  const Status cause = StatusFromErrno(error, doing + " the spill directory " + directory);
  return {cause.code(), cause.message() +
                            "; give a directory in which this user may make files, and whose parent is "
                            "there"};
}

Status OpenDirectory(const std::string& directory, Fd* opened) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return NoDirectory(errno, "making", directory);
  }
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return NoDirectory(errno, "opening", directory);
  }
  if (::faccessat(fd.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return NoDirectory(errno, "writing to", directory);
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return {StatusCode::kNotReady, "the spill directory " + directory +
                                         " is used by another sidecar; give each worker a directory of its own"};
    }
    return StatusFromErrno(errno, "locking the spill directory " + directory);
  }
  *opened = std::move(fd);
  return Status::Ok();
}

}  // namespace

SpillFooter MakeSpillFooter(const SpillIdentity& identity, uint32_t payloadCrc32c) {
  SpillFooter footer{};
  footer.magic = kRecordMagic;
  footer.version = kRecordVersion;
  footer.storeId = identity.storeId;
  footer.generation = identity.generation;
  footer.keyHash = identity.keyHash;
  footer.payloadBytes = identity.payloadBytes;
  footer.payloadCrc32c = payloadCrc32c;
  footer.footerCrc32c = CrcOf(footer);
  return footer;
}

std::string SpillFooterFault(const SpillFooter& footer, const SpillIdentity& identity, uint32_t crc32c) {
  if (footer.magic != kRecordMagic || footer.version != kRecordVersion || footer.footerCrc32c != CrcOf(footer)) {
    return "there is no whole record";
  }
  if (footer.storeId != identity.storeId || footer.generation != identity.generation ||
      footer.keyHash != identity.keyHash || footer.payloadBytes != identity.payloadBytes) {
    return "there is a record of another object";
  }
  return footer.payloadCrc32c == crc32c ? "" : "the checksum of the payload doesn't match";
}

bool IsSpillPacked(uint64_t payloadBytes) { return payloadBytes < kSpillPackedBytes - sizeof(SpillFooter); }

uint64_t SpillRecordBytes(uint64_t payloadBytes) {
  return AlignUp(payloadBytes + sizeof(SpillFooter),
                 IsSpillPacked(payloadBytes) ? ArenaAllocator::kAlignment : kSpillBlockBytes);
}

void FreeAligned::operator()(std::byte* memory) const { std::free(memory); }

AlignedBuffer MakeAlignedBuffer(uint64_t bytes) {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kSpillBlockBytes, bytes));
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  std::memset(memory, 0, bytes);
  return AlignedBuffer(memory);
}

SpillFile::SpillFile(Fd directory, std::string path, uint64_t fileBytes)
    : directory_(std::move(directory)),
      path_(std::move(path)),
      fileBytes_(fileBytes),
      space_(fileBytes - kSpillBlockBytes) {}

SpillFile::~SpillFile() {
  if (!keep_ && file_.valid()) {
    (void)::unlinkat(directory_.get(), kFileName, 0);
  }
}

Status SpillFile::Open(const std::string& directory, uint64_t fileBytes, uint64_t storeId, bool direct,
                       std::unique_ptr<SpillFile>* file) {
  const uint64_t bytes = AlignDown(fileBytes, kSpillBlockBytes);
  if (bytes < 2 * kSpillBlockBytes || bytes > (1ULL << 50)) {
    return {StatusCode::kInvalid,
            "an SSD tier of " + std::to_string(fileBytes) + " bytes: use at least 8192 bytes and at most 1 PiB"};
  }
  Fd locked;
  if (Status status = OpenDirectory(directory, &locked); !status.ok()) {
    return status;
  }
  std::unique_ptr<SpillFile> made(new SpillFile(std::move(locked), directory + "/" + kFileName, bytes));
  if (!made->OpenExisting(storeId, direct).ok()) {
    if (Status status = made->MakeNew(storeId, direct); !status.ok()) {
      return status;
    }
  }
  if (Status status = made->OpenPacked(); !status.ok()) {
    return status;
  }
  *file = std::move(made);
  return Status::Ok();
}

// With O_DIRECT if it is wanted and the file system has it: some refuse it when the file is opened, others at the first
// read.
Status SpillFile::OpenFlags(int flags, bool direct) {
  const auto open = [&](int more) {
    return Fd(::openat(directory_.get(), kFileName, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags | more, 0600));
  };
  file_ = open(direct ? O_DIRECT : 0);
  direct_ = direct && file_.valid();
  if (direct && !file_.valid() && errno == EINVAL) {
    file_ = open(0);
  }
  if (!file_.valid()) {
    return StatusFromErrno(errno, "opening the SSD tier's file " + path_);
  }
  if (direct_) {
    const AlignedBuffer probe = MakeAlignedBuffer(kSpillBlockBytes);
    if (::pread(file_.get(), probe.get(), kSpillBlockBytes, 0) < 0) {
      direct_ = false;
      const int now = ::fcntl(file_.get(), F_GETFL);
      if (now < 0 || ::fcntl(file_.get(), F_SETFL, now & ~O_DIRECT) != 0) {
        return StatusFromErrno(errno, "reading the SSD tier's file " + path_);
      }
    }
  }
  return Status::Ok();
}

Status SpillFile::OpenPacked() {
  if (direct_) {
    packed_ = Fd(::openat(directory_.get(), kFileName, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!packed_.valid()) {
      return StatusFromErrno(errno, "opening the SSD tier's file " + path_);
    }
  }
  // Who gets one packed object does not want its neighbours.
  (void)::posix_fadvise(packedFd(), 0, 0, POSIX_FADV_RANDOM);
  return Status::Ok();
}

Status SpillFile::OpenExisting(uint64_t storeId, bool direct) {
  if (Status status = OpenFlags(0, direct); !status.ok()) {
    return status;
  }
  struct stat about {};
  const AlignedBuffer block = MakeAlignedBuffer(kSpillBlockBytes);
  SpillFileHeader header{};
  const bool read = ::fstat(file_.get(), &about) == 0 && S_ISREG(about.st_mode) &&
                    ::pread(file_.get(), block.get(), kSpillBlockBytes, 0) == ssize_t{kSpillBlockBytes};
  std::memcpy(&header, block.get(), sizeof(header));
  if (!read || header.magic != kFileMagic || header.version != kFileVersion || header.headerCrc32c != CrcOf(header) ||
      header.storeId != storeId || header.fileBytes < 2 * kSpillBlockBytes ||
      static_cast<uint64_t>(about.st_size) != header.fileBytes) {
    file_.Reset();
    return {StatusCode::kNotFound, "the file is of another store"};
  }
  if (header.fileBytes != fileBytes_) {
    Log().warn(
        "SSD tier: {} has {} bytes and objects of this store, and {} are asked for: it stays as large as it is until "
        "the worker ends",
        path_, header.fileBytes, fileBytes_);
    fileBytes_ = header.fileBytes;
    space_ = ArenaAllocator(fileBytes_ - kSpillBlockBytes);
  }
  reopened_ = true;
  return Status::Ok();
}

Status SpillFile::MakeNew(uint64_t storeId, bool direct) {
  if (::unlinkat(directory_.get(), kFileName, 0) != 0 && errno != ENOENT) {
    return StatusFromErrno(errno, "removing the old file " + path_);
  }
  if (Status status = OpenFlags(O_CREAT | O_EXCL, direct); !status.ok()) {
    return status;
  }
  int error = ::fallocate(file_.get(), 0, 0, static_cast<off_t>(fileBytes_)) == 0 ? 0 : errno;
  if (error == EOPNOTSUPP) {
    error = ::ftruncate(file_.get(), static_cast<off_t>(fileBytes_)) == 0 ? 0 : errno;
  }
  if (error == ENOSPC || error == EFBIG || error == EDQUOT) {
    return {StatusCode::kNoSpace, "the file system of " + path_ + " has no room for an SSD tier of " +
                                      std::to_string(fileBytes_) + " bytes; make room, or give it fewer"};
  }
  if (error != 0) {
    return StatusFromErrno(error, "making the SSD tier's file " + path_);
  }
  SpillFileHeader header{};
  header.magic = kFileMagic;
  header.version = kFileVersion;
  header.storeId = storeId;
  header.fileBytes = fileBytes_;
  header.headerCrc32c = CrcOf(header);
  const AlignedBuffer block = MakeAlignedBuffer(kSpillBlockBytes);
  std::memcpy(block.get(), &header, sizeof(header));
  const ssize_t written = ::pwrite(file_.get(), block.get(), kSpillBlockBytes, 0);
  if (written != ssize_t{kSpillBlockBytes}) {
    return StatusFromErrno(written < 0 ? errno : EIO, "writing the SSD tier's file " + path_);
  }
  return Status::Ok();
}

ArenaAllocator::Handle SpillFile::Allocate(uint64_t payloadBytes) {
  if (payloadBytes > space_.arenaBytes()) {
    return ArenaAllocator::kNone;
  }
  const uint64_t bytes = SpillRecordBytes(payloadBytes);
  return IsSpillPacked(payloadBytes) ? space_.Allocate(bytes) : space_.AllocateAligned(bytes, kSpillBlockBytes);
}

uint64_t SpillFile::OffsetOf(ArenaAllocator::Handle record) const {
  return kSpillBlockBytes + space_.extent(record).offset;
}

ArenaAllocator::Handle SpillFile::RecordAt(uint64_t offset) const {
  const uint32_t record = taken_.Find(HashOf(offset), [&](uint32_t at) { return OffsetOf(at) == offset; });
  HBMESH_CHECK(record != KeyIndex::kNone, "asks for what was reserved");
  return record;
}

std::optional<uint64_t> SpillFile::Reserve(uint64_t payloadBytes, uint32_t owner) {
  const ArenaAllocator::Handle taken = Allocate(payloadBytes);
  if (taken == ArenaAllocator::kNone) {
    return std::nullopt;
  }
  space_.SetOwner(taken, owner);
  const uint64_t offset = OffsetOf(taken);
  taken_.Insert(HashOf(offset), taken);
  return offset;
}

bool SpillFile::WouldFit(uint64_t offset, uint64_t payloadBytes) const {
  if (payloadBytes > space_.arenaBytes()) {
    return false;
  }
  const ArenaAllocator::Extent piece = space_.Piece(RecordAt(offset));
  const uint64_t begin = IsSpillPacked(payloadBytes) ? piece.offset : AlignUp(piece.offset, kSpillBlockBytes);
  return piece.bytes >= begin - piece.offset + SpillRecordBytes(payloadBytes);
}

// Whether a large record would lie in what is free once these neighbours are, the last one first in `run`.
bool SpillFile::HasAligned(const std::vector<ArenaAllocator::Handle>& run, uint64_t recordBytes) const {
  if (run.empty()) {
    return false;
  }
  const ArenaAllocator::Extent first = space_.Piece(run.back());
  const ArenaAllocator::Extent last = space_.Piece(run.front());
  return AlignUp(first.offset, kSpillBlockBytes) + recordBytes <= last.offset + last.bytes;
}

std::vector<uint32_t> SpillFile::CheapestRun(uint64_t payloadBytes, const CostOf& costOf, uint64_t near) const {
  if (payloadBytes > space_.arenaBytes()) {
    return {};
  }
  std::vector<ArenaAllocator::Handle> run;
  const auto cost = [&](ArenaAllocator::Handle at) {
    return space_.owner(at) == kNoOwner ? kBlocked : costOf(space_.owner(at), OffsetOf(at), space_.extent(at).bytes);
  };
  const uint64_t bytes = SpillRecordBytes(payloadBytes);
  (void)space_.CheapestRun(bytes, cost, &run, RecordAt(near));
  if (!IsSpillPacked(payloadBytes) && !HasAligned(run, bytes)) {
    // Packed ones end anywhere, and a free piece that isn't aligned is nothing: with so much more, any place will do.
    const uint64_t slack = kSpillBlockBytes - ArenaAllocator::kAlignment;
    (void)space_.CheapestRun(std::min(bytes + slack, space_.arenaBytes()), cost, &run, RecordAt(near));
  }
  std::vector<uint32_t> owners;
  owners.reserve(run.size());
  for (const ArenaAllocator::Handle at : run) {
    owners.push_back(space_.owner(at));
  }
  return owners;
}

void SpillFile::Free(uint64_t offset) {
  const ArenaAllocator::Handle record = RecordAt(offset);
  taken_.Remove(HashOf(offset), record);
  space_.Free(record);
}

std::vector<bool> SpillFile::Adopt(const std::vector<Place>& places) {
  std::vector<std::pair<uint64_t, size_t>> order;  // offset, index
  order.reserve(places.size());
  for (size_t i = 0; i < places.size(); i++) {
    order.emplace_back(places[i].offset, i);
  }
  std::sort(order.begin(), order.end());
  std::vector<bool> good(places.size(), false);
  std::vector<ArenaAllocator::Extent> extents;
  std::vector<uint32_t> owners;
  uint64_t end = 0;
  for (const auto& [offset, i] : order) {
    const auto [at, payloadBytes, owner] = places[i];
    const uint64_t alignment = IsSpillPacked(payloadBytes) ? ArenaAllocator::kAlignment : kSpillBlockBytes;
    if (offset < kSpillBlockBytes || !IsAligned(offset, alignment) || payloadBytes > fileBytes_) {
      continue;
    }
    const ArenaAllocator::Extent extent{offset - kSpillBlockBytes, SpillRecordBytes(payloadBytes)};
    // Of two that overlap, the one that is whole is found out by its footer and checksum when it is read.
    if (extent.offset >= end && RangeInside(extent.offset, extent.bytes, space_.arenaBytes())) {
      good[i] = true;
      end = extent.offset + extent.bytes;
      extents.push_back(extent);
      owners.push_back(owner);
    }
  }
  const std::vector<ArenaAllocator::Handle> handles = space_.Adopt(extents);
  for (size_t i = 0; i < handles.size(); i++) {
    space_.SetOwner(handles[i], owners[i]);
    taken_.Insert(HashOf(OffsetOf(handles[i])), handles[i]);
  }
  return good;
}

}  // namespace hbmesh
