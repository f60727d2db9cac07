// The shared memory of a store as a dead process left it, damaged: ObjectStore::Adopt, and life with what it kept.
//
// The input is a row of damages to a good store; checksums may be made right again, so that what they cover is read,
// too. Must hold: every object that is kept lies in the arena, none overlaps another, each is found by its key and by
// its slot, and the store goes on working: its room is all free again when everything is gone.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "base/crc32c.h"
#include "base/mapped_memory.h"
#include "fuzz/fuzz.h"
#include "store/object_format.h"
#include "store/object_store.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint32_t kSlots = 16;
constexpr uint64_t kArenaBytes = 8192;
constexpr uint64_t kArenaOffset = 4096;
constexpr uint64_t kTableOffset = kArenaOffset + kArenaBytes;
constexpr uint64_t kNowMs = 1000;

// Sealed ones of 1 to 3 blobs, one that was written only, one free slot, one spilled.
Bytes GoodStore() {
  std::unique_ptr<ObjectStore> store;
  const StoreOptions options{.arenaBytes = kArenaBytes, .slots = kSlots, .prefault = false, .storeId = 7};
  FUZZ_CHECK(ObjectStore::Create(options, &store).ok());
  for (uint32_t i = 0; i < 6; ++i) {
    const std::vector<uint64_t> sizes(1 + i % 3, 40 + i);
    ObjectView view;
    const ObjectAttributes attributes{.ttlMs = i == 2 ? 60'000ULL : 0};
    FUZZ_CHECK(store->Allocate("key" + std::to_string(i), sizes, &view, attributes).ok());
    std::fill_n(view.payload, view.payloadBytes, static_cast<std::byte>(i));
    store->MarkWritten(view.slot, 100 + i);
    if (i != 4) store->Seal(view.slot, kNowMs);
  }
  const uint32_t spilled = store->FindSealed("key5")->slot;
  store->BeginSpill(spilled);
  FUZZ_CHECK(store->EndSpill(spilled, 4096));
  const std::span<std::byte> memory = store->memory();
  return {memory.begin(), memory.end()};
}

class Damage {
 public:
  explicit Damage(const Bytes& good) {
    FUZZ_CHECK(CreateMemfd("fuzz", good.size(), false, &memory_).ok());
    FUZZ_CHECK(MappedMemory::Map(memory_.get(), 0, good.size(), true, &map_).ok());
    std::memcpy(map_.data(), good.data(), good.size());
  }

  void Apply(Input& input) {
    for (int i = 0; i < 32 && !input.empty(); ++i) {
      const uint8_t what = input.Byte();
      const uint64_t value = input.Number() * (what % 2 == 0 ? 1 : 64);
      if (what < 0x60) {  // a word of a slot
        Store(kTableOffset + 8 * input.Below(kSlots * sizeof(ObjectSlot) / 8), value);
      } else if (what < 0xA0) {  // a word of an object
        Store(ExtentOf(input.Byte()) + 8 * input.Below(16), value);
      } else if (what < 0xB0) {
        Store(8 * input.Below((kStoreProgressOffset + sizeof(StoreProgress)) / 8), value);
      } else if (what < 0xC0) {  // two slots with one object
        std::memcpy(SlotAt(input.Byte()), SlotAt(input.Byte() + 1U), sizeof(ObjectSlot));
      } else if (what < 0xE0) {
        SealObject(input.Byte());
      } else {
        SealHeader();
      }
    }
  }
  [[nodiscard]] Fd Take() { return std::move(memory_); }

 private:
  void Store(uint64_t offset, uint64_t value) {
    if (offset + sizeof value <= map_.bytes()) std::memcpy(map_.data() + offset, &value, sizeof value);
  }
  [[nodiscard]] ObjectSlot* SlotAt(uint32_t slot) const {
    return reinterpret_cast<ObjectSlot*>(map_.data() + kTableOffset) + slot % kSlots;
  }
  [[nodiscard]] uint64_t ExtentOf(uint32_t slot) const { return SlotAt(slot)->extentOffset / 8 * 8; }

  // Makes header and slot agree again.
  void SealObject(uint32_t number) {
    ObjectSlot* slot = SlotAt(number);
    if (slot->extentOffset >= map_.bytes()) return;
    std::byte* at = map_.data() + ExtentOf(number);
    const uint64_t room = map_.bytes() - ExtentOf(number);
    if (room < sizeof(ObjectHeader)) return;
    auto* header = reinterpret_cast<ObjectHeader*>(at);
    const uint64_t covered = sizeof *header + 8ULL * header->blobCount + header->keyBytes;
    if (covered > room) return;
    slot->keyHash = object_format::HashOf(object_format::KeyAt(at));
    object_format::Finish(at, slot->generation);
  }
  void SealHeader() {
    auto* header = reinterpret_cast<StoreHeader*>(map_.data());
    header->headerCrc32c = 0;
    StoreHeader copy{};
    std::memcpy(&copy, header, sizeof copy);
    header->headerCrc32c = Crc32c(std::as_bytes(std::span(&copy, 1)));
  }

  Fd memory_;
  MappedMemory map_;
};

void CheckObjects(ObjectStore& store) {
  struct Range {
    uint64_t begin;
    uint64_t end;
  };
  std::vector<Range> ranges;
  std::vector<std::string> keys;
  const std::span<std::byte> memory = store.memory();
  store.ForEachSealed([&](const ObjectView& view) {
    uint64_t bytes = 0;
    for (const uint64_t size : view.blobSizes) bytes += size;
    FUZZ_CHECK(bytes == view.payloadBytes && !view.key.empty());
    keys.emplace_back(view.key);
    const ObjectSlot& slot = store.SlotAt(view.slot);
    FUZZ_CHECK(slot.extentOffset >= kArenaOffset && slot.extentBytes <= memory.size());
    FUZZ_CHECK(slot.extentOffset + slot.extentBytes <= memory.size());
    ranges.push_back({slot.extentOffset, slot.extentOffset + slot.extentBytes});
    if (view.state == SlotState::kSpilled) return;
    FUZZ_CHECK(view.payload >= memory.data() &&
               view.payloadFdOffset + view.payloadBytes <= slot.extentOffset + slot.extentBytes);
    Touch({view.payload, view.payloadBytes});
  });
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges.size(); ++i) FUZZ_CHECK(ranges[i - 1].end <= ranges[i].begin);
  std::sort(keys.begin(), keys.end());
  FUZZ_CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
  FUZZ_CHECK(store.usage().objects == keys.size());
}

void Live(ObjectStore& store) {
  const EndedSink ignore = [](const EndedObject&) {};
  ManualClock clock(kNowMs * 1'000'000);
  store.SetClock(&clock);
  for (int i = 0; i < 8; ++i) {
    const uint64_t size = 900;
    ObjectView made;
    if (!store.Allocate("new" + std::to_string(i), std::span(&size, 1), &made, {}, &ignore).ok()) break;
    std::fill_n(made.payload, made.payloadBytes, std::byte{9});
    store.MarkWritten(made.slot, 1000 + static_cast<uint64_t>(i));
    store.Seal(made.slot, kNowMs);
    CheckObjects(store);
  }
  TouchAll(store.Explain("key0").reason);
  clock.AdvanceMs(1'000'000);
  (void)store.CollectExpired(clock.NowMs(), 100, ignore);
  std::vector<std::pair<uint32_t, uint64_t>> all;
  store.ForEachSealed([&](const ObjectView& view) { all.emplace_back(view.slot, view.generation); });
  for (const auto& [slot, generation] : all) FUZZ_CHECK(store.Drop(slot, generation).ok());
  const StoreUsage usage = store.usage();
  FUZZ_CHECK(usage.objects == 0 && usage.usedBytes == 0 && usage.holds == 0);
  FUZZ_CHECK(store.largestFreeBytes() == usage.arenaBytes);
}

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter none;
  SeedWriter slot;  // the extent of slot 1, moved
  slot.PutByte(1).PutByte(3).Put(uint16_t{8 + 1});
  SeedWriter object;  // another blob count in object 0, with right checksums
  object.PutByte(0x60).PutByte(2).PutByte(0).Put(uint16_t{1}).PutByte(0xC0).PutByte(0);
  SeedWriter twice;
  twice.PutByte(0xB0).PutByte(1).PutByte(2).PutByte(2);
  SeedWriter header;
  header.PutByte(0xA0).PutByte(15).Put(uint16_t{1}).PutByte(0xE0).PutByte(0);
  return {none.bytes(), slot.bytes(), object.bytes(), twice.bytes(), header.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  static const Bytes good = GoodStore();
  Input input(data, size);
  Damage damage(good);
  damage.Apply(input);
  std::unique_ptr<hbmesh::ObjectStore> store;
  if (const hbmesh::Status status = hbmesh::ObjectStore::Adopt(damage.Take(), &store); !status.ok()) {
    FUZZ_CHECK(!status.message().empty());
    return 0;
  }
  CheckObjects(*store);
  Live(*store);
  return 0;
}
