// What a client writes as the payload of a call: the sidecar's ObjectCall::Parse, and texts that name tickets.
//
// Must hold: a call that is accepted has its keys in its bytes, each blob in a region of this session, and pieces that
// cover exactly what was asked for.
#include <memory>
#include <string>

#include "fuzz/fuzz.h"
#include "fuzz/object_request.h"
#include "sidecar/layers.h"
#include "sidecar/object_call.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint64_t kRegionBytes[] = {4096, 100, 1};

// Regions 0, 1 and 3; 3 is on device 1, 2 was unregistered.
struct Regions {
  Regions() : memory(3) {
    for (size_t i = 0; i < memory.size(); ++i) {
      memory[i].resize(kRegionBytes[i]);
      const uint32_t on = i == 2 ? 1 : 0;
      auto made = std::make_shared<sidecar::Region>(
          devices[on], DeviceRegion{.base = memory[i].data(), .bytes = kRegionBytes[i], .deviceIndex = on});
      if (i == 2) table.push_back(nullptr);
      table.push_back(std::move(made));
    }
  }
  [[nodiscard]] bool Contains(const std::byte* address, uint64_t bytes) const {
    return std::any_of(memory.begin(), memory.end(), [&](const Bytes& each) {
      return address >= each.data() && address + bytes <= each.data() + each.size();
    });
  }
  MemoryDevice devices[2] = {MemoryDevice(0), MemoryDevice(1)};
  std::vector<Bytes> memory;
  sidecar::RegionTable table;
};

void CheckKeys(const sidecar::ObjectCall& call, const sidecar::ParseLimits& limits) {
  FUZZ_CHECK(call.count() > 0 && call.count() <= limits.keysMax);
  uint64_t keyBytes = 0;
  for (uint32_t i = 0; i < call.count(); ++i) {
    const std::string_view key = call.key(i);
    FUZZ_CHECK(key.size() > limits.keyPrefix.size() && key.starts_with(limits.keyPrefix));
    TouchAll(key);
    keyBytes += key.size();
  }
  FUZZ_CHECK(call.keyBatch().size() == (8 + 4ULL * call.count() + keyBytes + 7) / 8 * 8);
  Touch(call.keyBatch());
  std::vector<uint32_t> all(call.count());
  for (uint32_t i = 0; i < call.count(); ++i) all[i] = i;
  // The one that hands on makes the same bytes, but for the padding.
  FUZZ_CHECK(MakeKeyBatch(call, all).size() == call.keyBatch().size());
}

void CheckBlobs(const sidecar::ObjectCall& call, const Regions& regions, uint64_t random) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < call.count(); ++i) {
    FUZZ_CHECK(call.blobEnd(i) > call.blobBegin(i));
    uint64_t bytes = 0;
    for (uint32_t blob = call.blobBegin(i); blob < call.blobEnd(i); ++blob) {
      FUZZ_CHECK(call.blobOffset(blob) == bytes && call.blobSize(blob) > 0);
      FUZZ_CHECK(regions.Contains(call.blobAddress(blob), call.blobSize(blob)));
      bytes += call.blobSize(blob);
    }
    FUZZ_CHECK(call.objectBytes(i) == bytes);
    total += bytes;
    const uint64_t offset = random % bytes;
    const uint64_t wanted = 1 + (random >> 32) % (bytes - offset);
    uint64_t covered = 0;
    for (const LocalPiece& piece : call.PiecesOf(i, offset, wanted)) {
      FUZZ_CHECK(piece.bytes > 0 && regions.Contains(piece.address, piece.bytes));
      covered += piece.bytes;
    }
    FUZZ_CHECK(covered == wanted);
    for (const sidecar::DeviceBlob& blob : call.deviceBlobs(i)) {
      FUZZ_CHECK(blob.region->deviceIndex() == call.device());
      FUZZ_CHECK(regions.Contains(blob.address(), blob.bytes));
    }
  }
  FUZZ_CHECK(call.totalBytes() == total);
}

Bytes RequestOf(uint8_t how, uint32_t device, uint32_t keyCount, const std::vector<layout::BlobRecord>& blobs) {
  SeedWriter seed;
  seed.PutByte(how).Put(keyCount).Put(uint64_t{0x1234'5678'9ABC'DEF0});
  return seed.PutBytes(ObjectRequestOf(device, keyCount, blobs)).bytes();
}

void ParseText(Input& input) {
  const std::span<const std::byte> rest = input.rest();
  const std::string text(reinterpret_cast<const char*>(rest.data()), rest.size());
  sidecar::Ticket ticket;
  if (!sidecar::ParseTicket(text, &ticket)) return;
  sidecar::Ticket again;
  FUZZ_CHECK(sidecar::ParseTicket(sidecar::ShowTicket(ticket), &again));
  FUZZ_CHECK(again.member == ticket.member && again.number == ticket.number && again.secret == ticket.secret);
}

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter ticket;
  const std::string text = sidecar::ShowTicket({7, 12, {1, 2}});
  ticket.PutByte(0x80).PutBytes(std::as_bytes(std::span(text)));
  return {RequestOf(0, 0, 2, {}),
          RequestOf(1, 0, 1, {{0, 0, 64, 128}}),
          RequestOf(1, 0, 2, {{0, 0, 0, 4096}, {1, 0, 0, 100}, {1, 0, 50, 50}}),
          RequestOf(3, 1, 1, {{3, 0, 0, 1}}),
          RequestOf(7, 0, 9,
                    {{0, 0, 0, 8},
                     {0, 0, 8, 8},
                     {0, 0, 16, 8},
                     {0, 0, 24, 8},
                     {0, 0, 0, 8},
                     {0, 0, 8, 8},
                     {0, 0, 16, 8},
                     {0, 0, 24, 8},
                     {1, 0, 0, 9}}),
          ticket.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  static const Regions regions;
  Input input(data, size);
  const uint8_t how = input.Byte();
  if ((how & 0x80) != 0) {
    ParseText(input);
    return 0;
  }
  hbmesh::Message message;
  message.entry.count = input.Take<uint32_t>();
  const auto random = input.Take<uint64_t>();
  message.payload.assign(input.rest().begin(), input.rest().end());
  hbmesh::sidecar::ParseLimits limits;
  limits.devices = 2;
  limits.blobs = (how & 1) != 0;
  limits.keyRule = (how & 2) != 0 ? hbmesh::sidecar::KeyRule::kExtended : hbmesh::sidecar::KeyRule::kStrict;
  if ((how & 4) != 0) limits.keyPrefix = "0123456789abcdef\x1f";
  hbmesh::sidecar::ObjectCall call;
  if (const hbmesh::Status status = call.Parse(std::move(message), regions.table, limits); !status.ok()) {
    FUZZ_CHECK(status.code() == hbmesh::StatusCode::kInvalid && !status.message().empty());
    return 0;
  }
  CheckKeys(call, limits);
  if (limits.blobs) CheckBlobs(call, regions, random);
  return 0;
}
