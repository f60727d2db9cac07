#include "base/mapped_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace hbmesh {
namespace {

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14, missing in older headers
#endif

constexpr uint64_t kPageBytes = 4096;
constexpr unsigned kMemfdHugePages = MFD_HUGETLB | (21U << 26);  // 2^21 = 2 MiB

bool IsHuge(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && static_cast<uint64_t>(info.st_blksize) == kHugePageBytes;
}

Status HugePagesMissing(int error, uint64_t bytes) {
  const uint64_t pages = (bytes + kHugePageBytes - 1) / kHugePageBytes;
  Status cause = StatusFromErrno(error, "map " + std::to_string(bytes) + " bytes in huge pages");
  return {StatusCode::kOutOfMemory, cause.message() + "; " + std::to_string(pages) +
                                        " free huge pages of 2 MiB are needed: sysctl vm.nr_hugepages=" +
                                        std::to_string(pages) + ", or start without --enable_huge_tlb"};
}

}  // namespace

MappedMemory& MappedMemory::operator=(MappedMemory&& other) noexcept {
  if (this != &other) {
    Reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Status MappedMemory::Map(int fd, uint64_t offset, uint64_t bytes, bool writable, MappedMemory* memory) {
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  const int reserve = IsHuge(fd) ? MAP_NORESERVE : 0;
  void* address = ::mmap(nullptr, bytes, protection, MAP_SHARED | reserve, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) {
    const int error = errno;
    if (reserve != 0) {
      return HugePagesMissing(error, bytes);
    }
    return StatusFromErrno(error, "map " + std::to_string(bytes) + " bytes of shared memory");
  }
  MappedMemory made;
  made.data_ = static_cast<std::byte*>(address);
  made.bytes_ = bytes;
  *memory = std::move(made);
  return Status::Ok();
}

Status MappedMemory::Prefault(uint64_t bytes) {
  if (bytes == 0) {
    return Status::Ok();
  }
  int result = 0;
  do {
    result = ::madvise(data_, bytes, MADV_POPULATE_WRITE);
  } while (result < 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) {
    return Status::Ok();
  }
  if (errno != EINVAL) {
    return {StatusCode::kOutOfMemory,
            StatusFromErrno(errno, "back " + std::to_string(bytes) + " bytes of shared memory").message() +
                "; use a smaller arena or raise the memory limit of the container"};
  }
  // An older kernel. A write of 0 to an atomic add leaves the bytes as they are.
  for (uint64_t offset = 0; offset < bytes; offset += kPageBytes) {
    __atomic_fetch_add(reinterpret_cast<unsigned char*>(data_ + offset), 0, __ATOMIC_RELAXED);
  }
  return Status::Ok();
}

void MappedMemory::Reset() {
  if (data_ != nullptr) {
    ::munmap(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
}

Status CreateMemfd(const std::string& name, uint64_t bytes, bool hugePages, Fd* memory) {
  if (bytes == 0 || bytes > static_cast<uint64_t>(INT64_MAX) || (hugePages && bytes % kHugePageBytes != 0)) {
    return {StatusCode::kInvalid, "shared memory of " + std::to_string(bytes) +
                                      " bytes: the size must be over 0, and with huge pages a multiple of 2 MiB"};
  }
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugePages ? kMemfdHugePages : 0U);
  Fd made(::memfd_create(name.c_str(), flags));
  if (!made.valid()) {
    return StatusFromErrno(errno, "memfd_create " + name);
  }
  if (::ftruncate(made.get(), static_cast<off_t>(bytes)) < 0) {
    return StatusFromErrno(errno, "set shared memory " + name + " to " + std::to_string(bytes) + " bytes");
  }
  if (::fcntl(made.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
    return StatusFromErrno(errno, "seal shared memory " + name);
  }
  *memory = std::move(made);
  return Status::Ok();
}

Status BackMemory(int fd, uint64_t offset, uint64_t bytes) {
  int result = 0;
  do {
    result = ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result < 0 && errno == EINTR);
  if (result == 0) {
    return Status::Ok();
  }
  const int error = errno;
  return IsHuge(fd) ? HugePagesMissing(error, bytes)
                    : StatusFromErrno(error, "back " + std::to_string(bytes) + " bytes of shared memory");
}

Status CheckMemfd(int fd, uint64_t* bytes) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return {StatusCode::kDataInconsistency,
            "shared memory from a peer is not sealed against shrinking: it must be a memfd with F_SEAL_SHRINK"};
  }
  struct stat info {};
  if (::fstat(fd, &info) < 0) {
    return StatusFromErrno(errno, "ask for the size of shared memory");
  }
  *bytes = static_cast<uint64_t>(info.st_size);
  return Status::Ok();
}

}  // namespace hbmesh
