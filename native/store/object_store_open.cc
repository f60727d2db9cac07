// Making a store, and adopting one that another process left: nothing in it is believed before it is checked.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "base/align.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "store/object_format.h"
#include "store/shared_object_store.h"

namespace hbmesh {
namespace {

constexpr uint32_t kStoreMagic = 0x31544248;  // "HBT1"
constexpr uint32_t kStoreVersion = 2;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kArenaBytesForSlot = 16ULL << 10;
constexpr uint64_t kSpillBytesForSlot = 64ULL << 10;
constexpr uint64_t kSpillSlotsMax = 1U << 20;
constexpr uint32_t kSlotsMin = 1024;
constexpr uint32_t kSlotsMax = 1U << 30;

uint64_t ArenaOffset(uint32_t slots) {
  return AlignUp(kStoreHeaderBytes + uint64_t{slots} * sizeof(ObjectSlot), kPageBytes);
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
  if (header.slots == 0 || header.slots > kSlotsMax || header.arenaOffset != ArenaOffset(header.slots) ||
      !IsAligned(header.arenaBytes, object_format::kAlignment) ||
      !RangeInside(header.arenaOffset, header.arenaBytes, memoryBytes)) {
    return NotAStore("its " + std::to_string(header.slots) + " slots and " + std::to_string(header.arenaBytes) +
                     " bytes of arena don't fit into " + std::to_string(memoryBytes) + " bytes");
  }
  return Status::Ok();
}

}  // namespace

Status ObjectStore::Create(const StoreOptions& options, std::unique_ptr<ObjectStore>* store) {
  const uint64_t arenaBytes = AlignDown(options.arenaBytes, object_format::kAlignment);
  const uint64_t ownSlots = std::max<uint64_t>(arenaBytes / kArenaBytesForSlot, kSlotsMin) +
                            std::min(options.spillBytes / kSpillBytesForSlot, kSpillSlotsMax);
  const uint64_t slotsWanted = options.slots != 0 ? options.slots : ownSlots;
  const auto slots = static_cast<uint32_t>(std::min<uint64_t>(slotsWanted, kSlotsMax));
  if (arenaBytes == 0 || arenaBytes > (1ULL << 50)) {
    return {StatusCode::kInvalid,
            "an arena of " + std::to_string(options.arenaBytes) + " bytes: use at least 64 bytes and at most 1 PiB"};
  }
  uint64_t bytes = ArenaOffset(slots) + arenaBytes;
  bytes = AlignUp(bytes, options.hugePages ? kHugePageBytes : kPageBytes);
  Fd fd;
  if (Status status = CreateMemfd("hbmesh-store", bytes, options.hugePages, &fd); !status.ok()) {
    return status;
  }
  MappedMemory map;
  if (Status status = MappedMemory::Map(fd.get(), 0, bytes, true, &map); !status.ok()) {
    return status;
  }
  if (options.prefault) {
    if (Status status = map.Prefault(); !status.ok()) {
      return status;
    }
  }
  StoreHeader header{};
  header.magic = kStoreMagic;
  header.version = kStoreVersion;
  header.slots = slots;
  header.flags = options.prefault ? uint32_t{kStorePrefaulted} : 0;
  header.arenaOffset = ArenaOffset(slots);
  header.arenaBytes = arenaBytes;
  header.storeId = options.storeId != 0 ? options.storeId : RandomId();
  header.headerCrc32c = CrcOf(header);
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
    if (Status status = map.Prefault(); !status.ok()) {
      return status;
    }
  }
  auto adopted = std::make_unique<SharedObjectStore>(std::move(memory), std::move(map));
  adopted->AdoptSlots();
  *store = std::move(adopted);
  return Status::Ok();
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

// Both of two objects that claim the same bytes are given up: there is no telling whose they are.
void SharedObjectStore::DropOverlaps(std::vector<uint32_t>* slots) {
  std::sort(slots->begin(), slots->end(),
            [&](uint32_t a, uint32_t b) { return table_[a].extentOffset < table_[b].extentOffset; });
  std::vector<bool> bad(slots->size(), false);
  size_t farthest = 0;  // of those before, the one whose extent ends last
  const auto endOf = [&](size_t i) { return table_[(*slots)[i]].extentOffset + table_[(*slots)[i]].extentBytes; };
  for (size_t i = 1; i < slots->size(); i++) {
    if (table_[(*slots)[i]].extentOffset < endOf(farthest)) {
      bad[i] = true;
      bad[farthest] = true;
    }
    farthest = endOf(i) > endOf(farthest) ? i : farthest;
  }
  size_t kept = 0;
  for (size_t i = 0; i < slots->size(); i++) {
    if (bad[i]) {
      Log().error("adopting the store: slot {} is damaged and dropped: its extent overlaps another's", (*slots)[i]);
      counts_.damaged++;
    } else {
      (*slots)[kept++] = (*slots)[i];
    }
  }
  slots->resize(kept);
}

// Fills the index; of several under one key the highest generation stays.
void SharedObjectStore::KeepNewest(std::vector<uint32_t>* slots) {
  for (const uint32_t slot : *slots) {
    const uint64_t hash = table_[slot].keyHash;
    const uint32_t other = IndexOf(object_format::KeyAt(BytesOf(slot)), hash);
    if (other != KeyIndex::kNone && table_[other].generation >= table_[slot].generation) {
      continue;
    }
    if (other != KeyIndex::kNone) {
      index_.Remove(hash, other);
    }
    index_.Insert(hash, slot);
  }
  std::erase_if(*slots, [&](uint32_t slot) {
    return IndexOf(object_format::KeyAt(BytesOf(slot)), table_[slot].keyHash) != slot;
  });
}

void SharedObjectStore::AdoptSlots() {
  std::vector<uint32_t> good;
  for (uint32_t slot = 0; slot < header_.slots; slot++) {
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
  for (uint32_t slot = header_.slots; slot-- > 0;) {
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
  RebuildOrder(&good);
}

// LRU order and expiry, as far as the slots tell: by when the objects were sealed.
void SharedObjectStore::RebuildOrder(std::vector<uint32_t>* slots) {
  std::sort(slots->begin(), slots->end(), [&](uint32_t a, uint32_t b) {
    return std::pair(table_[a].sealedAtMs, table_[a].generation) <
           std::pair(table_[b].sealedAtMs, table_[b].generation);
  });
  for (const uint32_t slot : *slots) {
    UpdatePlace(slot);
    if (table_[slot].ttlMs != 0) {
      expiry_.Insert(slot, ExpiresAt(slot));
    }
    if (StateOf(slot) == SlotState::kSpilled) {
      counts_.spilledObjects++;
      counts_.spilledBytes += PayloadBytesOf(slot);
    }
  }
}

}  // namespace hbmesh
