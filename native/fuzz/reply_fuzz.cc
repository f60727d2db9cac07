// What a sidecar answers a client, and what a control process answers its sidecar.
//
// Must hold: every part of an accepted reply lies in its payload, every index names a key of the call.
#include "client/object_codec.h"
#include "fuzz/fuzz.h"
#include "sidecar/control_port.h"
#include "sidecar/lookup.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint32_t kKeys = 3;

void Objects(layout::Op op, uint32_t code, std::span<const std::byte> payload) {
  ObjectReplyView view;
  if (!DecodeObjectReply(op, code, kKeys, payload, &view).ok()) return;
  FUZZ_CHECK(view.results.size() == kKeys || (code != 0 && view.results.empty()));
  TouchAll(view.results);
  TouchAll(view.paths);
  TouchAll(view.blobCounts);
  TouchAll(view.blobSizes);
  TouchAll(view.messages);
  for (const layout::KeyResult& result : view.results) {
    FUZZ_CHECK(uint64_t{result.messageOffset} + result.messageBytes <= view.messages.size());
  }
  uint64_t blobs = 0;
  for (const uint32_t count : view.blobCounts) blobs += count;
  FUZZ_CHECK(blobs == view.blobSizes.size());
}

void Devices(std::span<const std::byte> payload) {
  DeviceReplyView view;
  if (!DecodeDeviceReply(kKeys, payload, &view).ok()) return;
  for (const layout::KeyEvent& event : view.events) {
    FUZZ_CHECK(event.keyIndex < kKeys);
    TouchAll(view.MessageOf(event));
  }
  TouchAll(view.paths);
  KeyStages stages(kKeys);
  (void)stages.Take(view.events).ok();
  FUZZ_CHECK(stages.open() <= kKeys);
  const std::vector<std::byte> without = WithoutEnded(payload, view, StatusCode::kOk);
  DeviceReplyView again;
  FUZZ_CHECK(DecodeDeviceReply(kKeys, without, &again).ok());
  FUZZ_CHECK(again.events.size() <= view.events.size());
}

void Control(const Message& reply) {
  sidecar::LookupView view;
  if (sidecar::ParseLookup(reply, kKeys, &view).ok()) {
    TouchAll(view.slices);
    for (const layout::FoundRecord& found : view.found) {
      FUZZ_CHECK(found.keyIndex < kKeys && found.result.locationCount <= std::size(found.result.locations));
      TouchAll(view.messages.substr(found.messageOffset, found.messageBytes));
    }
  }
  Touch(sidecar::RecordsOf(reply, 32, kKeys * sizeof(layout::ResultRecord)));
  FUZZ_CHECK(!sidecar::RefusalOf(reply, "fuzz").message().empty() || !reply.payload.empty());
}

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter objects;
  objects.PutByte(static_cast<uint8_t>(layout::Op::kGetMeta)).PutByte(0);
  objects.Put(layout::ObjectReply{kKeys, 1, 4, 3});
  for (uint32_t i = 0; i < kKeys; ++i) objects.Put(layout::KeyResult{.messageOffset = 1, .messageBytes = i});
  objects.Put(layout::PathRecord{.lanes = 2, .bytes = 3});
  for (uint32_t i = 0; i < 4; ++i) objects.Put(uint32_t{i < 3 ? 1U : 0U});
  for (uint32_t i = 0; i < kKeys; ++i) objects.Put(uint64_t{64});
  objects.Put(uint32_t{0x64636261});
  SeedWriter devices;
  devices.PutByte(static_cast<uint8_t>(layout::Op::kDevPublish)).PutByte(0);
  devices.Put(layout::DeviceReply{2, 1, 4, 0});
  for (uint32_t i = 0; i < 2; ++i) {
    devices.Put(layout::KeyEvent{i, 1 + i, 0, 0, 0, 4, 8});
  }
  devices.Put(layout::PathRecord{.lanes = 1}).Put(uint32_t{0x64636261});
  SeedWriter lookup;
  lookup.PutByte(0xFF).PutByte(0).Put(layout::LookupReply{1, 1, 4, 0});
  layout::FoundRecord found{};
  found.keyIndex = 2;
  found.messageBytes = 4;
  found.result.locationCount = 4;
  lookup.Put(found).Put(layout::SliceRecord{.keyIndex = 1, .bytes = 9}).Put(uint32_t{0x64636261});
  SeedWriter refused;
  refused.PutByte(static_cast<uint8_t>(layout::Op::kSetD2H)).PutByte(2).Put(layout::ObjectReply{0, 0, 4, 0});
  refused.Put(uint32_t{0x64636261});
  return {objects.bytes(), devices.bytes(), lookup.bytes(), refused.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  Input input(data, size);
  const uint8_t op = input.Byte();
  hbmesh::Message reply;
  reply.entry.code = input.Byte();
  reply.payload.assign(input.rest().begin(), input.rest().end());
  if (op == 0xFF) {
    Control(reply);
    return 0;
  }
  const auto wanted = static_cast<hbmesh::layout::Op>(op % 16);
  if (hbmesh::EndsByKey(wanted)) {
    Devices(reply.payload);
  } else {
    Objects(wanted, reply.entry.code, reply.payload);
  }
  return 0;
}
