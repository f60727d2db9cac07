// Making a store, and adopting one that another process left: nothing in it is believed before it is checked.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/align.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {
namespace {

constexpr uint32_t kStoreMagic = 0x31544248;  // "HBT1"
constexpr uint32_t kStoreVersion = 3;
constexpr uint64_t kArenaBytesMax = 1ULL << 50;
// The least object takes its header and 64 bytes of payload, and on the SSD tier still its header: no arena has room
// for more objects than these slots.
constexpr uint64_t kArenaBytesForSlot = ArenaAllocator::kAlignment;
constexpr uint32_t kSlotsMax = 1U << 30;  // bit 31 of a slot's number says that it is a device object
// Of huge pages, which may be used up later, the table has from the start what objects of 1 KiB need.
constexpr uint64_t kArenaBytesForSlotBacked = 1024;

uint64_t TableOffset(uint64_t arenaBytes, uint32_t flags) {
  return AlignUp(kStoreHeaderBytes + arenaBytes, (flags & kStoreHugePages) != 0 ? kHugePageBytes : kStorePageBytes);
}

uint64_t StoreBytes(const StoreHeader& header) {
  return AlignUp(header.tableOffset + uint64_t{header.slots} * sizeof(ObjectSlot),
                 (header.flags & kStoreHugePages) != 0 ? kHugePageBytes : kStorePageBytes);
}

uint64_t RandomId() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

uint32_t CrcOf(StoreHeader header) {
  header.headerCrc32c = 0;
  return Crc32c(std::as_bytes(std::span(&header, 1)));
}

Status NotAStore(const std::string& why) {
  return {StatusCode::kDataInconsistency,
          "the memory to adopt is no object store: " + why + "; start the sidecar without it, its objects are lost"};
}

Status CheckHeader(const StoreHeader& header, uint64_t memoryBytes) {
  if (header.magic != kStoreMagic) {
    return NotAStore("it doesn't begin with the magic number");
  }
  if (header.version != kStoreVersion) {
    return NotAStore("its version is " + std::to_string(header.version) + ", this is version " +
                     std::to_string(kStoreVersion));
  }
  if (header.headerCrc32c != CrcOf(header)) {
    return NotAStore("the checksum of its header doesn't match");
  }
  if (header.slots == 0 || header.slots > kSlotsMax || header.arenaOffset != kStoreHeaderBytes ||
      !IsAligned(header.arenaBytes, object_format::kAlignment) || header.arenaBytes > kArenaBytesMax ||
      header.tableOffset != TableOffset(header.arenaBytes, header.flags) || StoreBytes(header) > memoryBytes) {
    return NotAStore("its " + std::to_string(header.slots) + " slots and " + std::to_string(header.arenaBytes) +
                     " bytes of arena don't fit into " + std::to_string(memoryBytes) + " bytes");
  }
  return Status::Ok();
}

// Where the last page that the file has from `begin` on ends, or `begin`; 0: the file system doesn't tell.
uint64_t DataEnd(int fd, uint64_t begin) {
  auto end = static_cast<off_t>(begin);
  for (;;) {
    const off_t data = ::lseek(fd, end, SEEK_DATA);
    if (data < 0) {
      return errno == ENXIO ? static_cast<uint64_t>(end) : 0;  // ENXIO: only a hole is left
    }
    end = ::lseek(fd, data, SEEK_HOLE);
    if (end < 0) {
      return 0;
    }
  }
}

}  // namespace

Status ObjectStore::Create(const StoreOptions& options, std::unique_ptr<ObjectStore>* store) {
  StoreHeader header{};
  header.arenaBytes = AlignDown(options.arenaBytes, object_format::kAlignment);
  if (header.arenaBytes == 0 || header.arenaBytes > kArenaBytesMax) {
    return {StatusCode::kInvalid,
            "an arena of " + std::to_string(options.arenaBytes) + " bytes: use at least 64 bytes and at most 1 PiB"};
  }
  const uint64_t slots = options.slots != 0 ? options.slots : header.arenaBytes / kArenaBytesForSlot;
  header.magic = kStoreMagic;
  header.version = kStoreVersion;
  header.slots = static_cast<uint32_t>(std::min<uint64_t>(slots, kSlotsMax));
  header.flags = (options.prefault ? uint32_t{kStorePrefaulted} : 0) | (options.hugePages ? kStoreHugePages : 0U);
  header.arenaOffset = kStoreHeaderBytes;
  header.storeId = options.storeId != 0 ? options.storeId : RandomId();
  header.tableOffset = TableOffset(header.arenaBytes, header.flags);
  header.headerCrc32c = CrcOf(header);
  Fd fd;
  if (Status status = CreateMemfd("hbmesh-store", StoreBytes(header), options.hugePages, &fd); !status.ok()) {
    return status;
  }
  MappedMemory map;
  if (Status status = MappedMemory::Map(fd.get(), 0, StoreBytes(header), true, &map); !status.ok()) {
    return status;
  }
  const uint64_t slotsBacked = std::min<uint64_t>(header.slots, header.arenaBytes / kArenaBytesForSlotBacked + 1);
  if (options.hugePages) {
    const uint64_t bytes = AlignUp(header.tableOffset + slotsBacked * sizeof(ObjectSlot), kHugePageBytes);
    if (Status status = BackMemory(fd.get(), 0, bytes); !status.ok()) {
      return status;
    }
  }
  if (options.prefault) {
    if (Status status = map.Prefault(header.tableOffset); !status.ok()) {
      return status;
    }
  }
  std::memcpy(map.data(), &header, sizeof(header));
  *store = std::make_unique<SharedObjectStore>(std::move(fd), std::move(map));
  return Status::Ok();
}

Status ObjectStore::Adopt(Fd memory, std::unique_ptr<ObjectStore>* store) {
  uint64_t bytes = 0;
  if (Status status = CheckMemfd(memory.get(), &bytes); !status.ok()) {
    return status;
  }
  if (bytes < kStoreHeaderBytes) {
    return NotAStore("it has only " + std::to_string(bytes) + " bytes");
  }
  MappedMemory map;
  if (Status status = MappedMemory::Map(memory.get(), 0, bytes, true, &map); !status.ok()) {
    return status;
  }
  StoreHeader header{};
  std::memcpy(&header, map.data(), sizeof(header));
  if (Status status = CheckHeader(header, bytes); !status.ok()) {
    return status;
  }
  if ((header.flags & kStorePrefaulted) != 0) {
    if (Status status = map.Prefault(header.tableOffset); !status.ok()) {
      return status;
    }
  }
  auto adopted = std::make_unique<SharedObjectStore>(std::move(memory), std::move(map));
  if (Status status = adopted->AdoptSlots(); !status.ok()) {
    return status;
  }
  *store = std::move(adopted);
  return Status::Ok();
}

// ----- the table's growth -----

// As StoreProgress says. If that is damaged, up to where the table has pages: reading on would make the system back all
// of it, which is as large as the arena.
Status SharedObjectStore::FindOpenedSlots() {
  const auto* progress = reinterpret_cast<const StoreProgress*>(map_.data() + kStoreProgressOffset);
  const auto slots = static_cast<uint32_t>(progress->slotsOpened);
  const bool agrees = progress->slotsOpened == 0 || static_cast<uint32_t>(progress->slotsOpened >> 32) == ~slots;
  if (agrees && slots <= header_.slots) {
    slotsOpened_ = slots;
    return Status::Ok();
  }
  // Huge pages: lseek says that all is data.
  const uint64_t end = (header_.flags & kStoreHugePages) != 0 ? 0 : DataEnd(fd_.get(), header_.tableOffset);
  if (end == 0) {
    return NotAStore("how far its table was used is damaged, and the system doesn't tell it");
  }
  const uint64_t used = (end - header_.tableOffset + sizeof(ObjectSlot) - 1) / sizeof(ObjectSlot);
  slotsOpened_ = static_cast<uint32_t>(std::min<uint64_t>(AlignUp(used, kSlotStep), header_.slots));
  Log().error("adopting the store: how far its table was used is damaged; looking at the {} slots that have memory",
              slotsOpened_);
  return Status::Ok();
}

// False: there are no more, or no huge page for more.
bool SharedObjectStore::OpenSlots(uint32_t slots) {
  if (slots <= slotsOpened_) {
    return true;
  }
  if (slots > header_.slots) {
    return false;
  }
  const auto opened = static_cast<uint32_t>(std::min<uint64_t>(AlignUp(slots, kSlotStep), header_.slots));
  if ((header_.flags & kStoreHugePages) != 0) {
    const uint64_t end = AlignUp(header_.tableOffset + uint64_t{opened} * sizeof(ObjectSlot), kHugePageBytes);
    if (!BackMemory(fd_.get(), header_.tableOffset, end - header_.tableOffset).ok()) {
      return false;
    }
  }
  GrowPrivate(opened);
  auto* progress = reinterpret_cast<StoreProgress*>(map_.data() + kStoreProgressOffset);
  // Release: whoever adopts the store and sees a slot in use sees that it was opened.
  std::atomic_ref(progress->slotsOpened).store(uint64_t{~opened} << 32 | opened, std::memory_order_release);
  slotsOpened_ = opened;
  return true;
}

void SharedObjectStore::GrowPrivate(uint32_t slots) {
  local_.GrowTo(slots);
  lists_.GrowTo(slots);
}

// ----- adoption -----

// Logs what is wrong with a sealed slot, if anything is.
bool SharedObjectStore::SlotFault(uint32_t slot) const {
  const ObjectSlot& shared = table_[slot];
  std::string fault;
  if (shared.extentBytes == 0 || !IsAligned(shared.extentOffset | shared.extentBytes, object_format::kAlignment) ||
      shared.extentOffset < header_.arenaOffset ||
      !RangeInside(shared.extentOffset - header_.arenaOffset, shared.extentBytes, header_.arenaBytes)) {
    fault = "its extent doesn't lie in the arena";
  } else {
    const bool spilled = StateOf(slot) == SlotState::kSpilled;
    fault = object_format::Fault({BytesOf(slot), shared.extentBytes}, shared, spilled);
    if (fault.empty() && spilled != (shared.spillOffset != 0)) {
      fault = "its state and its place on the SSD tier don't agree";
    }
  }
  if (!fault.empty()) {
    Log().error("adopting the store: slot {} is damaged and dropped: {}", slot, fault);
  }
  return !fault.empty();
}

// Both of two objects that claim the same bytes are given up: there is no telling whose they are. Sorts by place.
void SharedObjectStore::DropOverlaps(std::vector<uint32_t>* slots) {
  struct Range {
    uint64_t begin;
    uint64_t end;
    uint32_t slot;
    bool bad;
  };
  // Beside each other, not by slot: tens of millions are sorted.
  std::vector<Range> ranges;
  ranges.reserve(slots->size());
  for (const uint32_t slot : *slots) {
    const ObjectSlot& shared = table_[slot];
    ranges.push_back({shared.extentOffset, shared.extentOffset + shared.extentBytes, slot, false});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  size_t farthest = 0;  // of those before, the one whose extent ends last
  for (size_t i = 1; i < ranges.size(); i++) {
    if (ranges[i].begin < ranges[farthest].end) {
      ranges[i].bad = true;
      ranges[farthest].bad = true;
    }
    farthest = ranges[i].end > ranges[farthest].end ? i : farthest;
  }
  slots->clear();
  for (const Range& range : ranges) {
    if (range.bad) {
      Log().error("adopting the store: slot {} is damaged and dropped: its extent overlaps another's", range.slot);
      counts_.damaged++;
    } else {
      slots->push_back(range.slot);
    }
  }
}

// Fills the index; of several under one key the highest generation stays.
void SharedObjectStore::KeepNewest(std::vector<uint32_t>* slots) {
  std::unordered_set<uint32_t> older;
  for (const uint32_t slot : *slots) {
    const uint64_t hash = table_[slot].keyHash;
    const uint32_t other = IndexOf(object_format::KeyAt(BytesOf(slot)), hash);
    if (other != KeyIndex::kNone && table_[other].generation >= table_[slot].generation) {
      older.insert(slot);
      continue;
    }
    if (other != KeyIndex::kNone) {
      index_.Remove(hash, other);
      older.insert(other);
    }
    index_.Insert(hash, slot);
  }
  if (!older.empty()) {
    std::erase_if(*slots, [&](uint32_t slot) { return older.contains(slot); });
  }
}

std::vector<uint32_t> SharedObjectStore::GoodSlots() {
  std::vector<uint32_t> good;
  for (uint32_t slot = 0; slot < slotsOpened_; slot++) {
    if (!IsVisible(slot)) {
      continue;
    }
    if (SlotFault(slot)) {
      counts_.damaged++;
    } else {
      good.push_back(slot);
    }
  }
  DropOverlaps(&good);
  KeepNewest(&good);
  return good;
}

Status SharedObjectStore::AdoptSlots() {
  if (Status status = FindOpenedSlots(); !status.ok()) {
    return status;
  }
  GrowPrivate(slotsOpened_);
  const std::vector<uint32_t> good = GoodSlots();
  std::vector<ArenaAllocator::Extent> extents;
  extents.reserve(good.size());
  for (const uint32_t slot : good) {
    extents.push_back({table_[slot].extentOffset - header_.arenaOffset, table_[slot].extentBytes});
  }
  const std::vector<ArenaAllocator::Handle> handles = arena_.Adopt(extents);
  for (size_t i = 0; i < good.size(); i++) {
    local_[good[i]].extent = handles[i];
    arena_.SetOwner(handles[i], good[i]);
  }
  counts_.objects = good.size();
  slotsTouched_ = good.empty() ? 0 : *std::max_element(good.begin(), good.end()) + 1;
  for (uint32_t slot = slotsOpened_; slot-- > 0;) {
    if (local_[slot].extent != ArenaAllocator::kNone) {
      continue;
    }
    if (StateOf(slot) != SlotState::kFree) {
      SetState(slot, SlotState::kFree);
      table_[slot].generation = 0;
    }
    if (slot < slotsTouched_) {
      freeSlots_.push_back(slot);
    }
  }
  RebuildOrder(good);
  return Status::Ok();
}

// LRU order and expiry, as far as the slots tell: by when the objects were sealed.
void SharedObjectStore::RebuildOrder(const std::vector<uint32_t>& slots) {
  struct Sealed {
    uint64_t atMs;
    uint64_t generation;
    uint32_t slot;
  };
  std::vector<Sealed> order;
  order.reserve(slots.size());
  for (const uint32_t slot : slots) {
    order.push_back({table_[slot].sealedAtMs, table_[slot].generation, slot});
  }
  std::sort(order.begin(), order.end(), [](const Sealed& a, const Sealed& b) {
    return std::pair(a.atMs, a.generation) < std::pair(b.atMs, b.generation);
  });
  for (const auto& [atMs, generation, slot] : order) {
    UpdatePlace(slot);
    if (table_[slot].ttlMs != 0) {
      expiry_.Insert(slot, ExpiresAt(slot));
    }
    if (StateOf(slot) == SlotState::kSpilled) {
      counts_.spilledObjects++;
      counts_.spilledBytes += PayloadBytesOf(slot);
      counts_.spilledIndexBytes += table_[slot].extentBytes;
    }
  }
}

}  // namespace hbmesh
