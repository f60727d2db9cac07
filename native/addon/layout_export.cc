#include "addon/layout_export.h"

#include <cstddef>
#include <initializer_list>

#include "queue/layout.h"

namespace hbmesh::addon {

namespace {

struct Field {
  const char* name;
  size_t offset;
  size_t bytes;
};
struct Number {
  const char* name;
  uint64_t value;
};

#define HBMESH_FIELD(Struct, name) \
  Field { #name, offsetof(layout::Struct, name), sizeof(layout::Struct::name) }

Napi::Object MakeStruct(Napi::Env env, size_t bytes, std::initializer_list<Field> fields) {
  Napi::Object described = Napi::Object::New(env);
  for (const Field& field : fields) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("offset", Napi::Number::New(env, static_cast<double>(field.offset)));
    entry.Set("bytes", Napi::Number::New(env, static_cast<double>(field.bytes)));
    described.Set(field.name, entry);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytes", Napi::Number::New(env, static_cast<double>(bytes)));
  object.Set("fields", described);
  return object;
}

Napi::Object MakeNumbers(Napi::Env env, std::initializer_list<Number> numbers) {
  Napi::Object object = Napi::Object::New(env);
  for (const Number& number : numbers) {
    object.Set(number.name, Napi::Number::New(env, static_cast<double>(number.value)));
  }
  return object;
}

#define HBMESH_STRUCT(Struct, ...) structs.Set(#Struct, MakeStruct(env, sizeof(layout::Struct), {__VA_ARGS__}))

Napi::Object MakeStructs(Napi::Env env) {
  Napi::Object structs = Napi::Object::New(env);
  HBMESH_STRUCT(Entry, HBMESH_FIELD(Entry, id), HBMESH_FIELD(Entry, op), HBMESH_FIELD(Entry, flags),
                HBMESH_FIELD(Entry, code), HBMESH_FIELD(Entry, payloadPos), HBMESH_FIELD(Entry, payloadBytes),
                HBMESH_FIELD(Entry, count), HBMESH_FIELD(Entry, args));
  HBMESH_STRUCT(KeyBatchHeader, HBMESH_FIELD(KeyBatchHeader, count), HBMESH_FIELD(KeyBatchHeader, keyBytes));
  HBMESH_STRUCT(ObjectRequest, HBMESH_FIELD(ObjectRequest, deviceIndex), HBMESH_FIELD(ObjectRequest, blobCount),
                HBMESH_FIELD(ObjectRequest, keyBatchBytes));
  HBMESH_STRUCT(BlobRecord, HBMESH_FIELD(BlobRecord, region), HBMESH_FIELD(BlobRecord, offset),
                HBMESH_FIELD(BlobRecord, bytes));
  HBMESH_STRUCT(ObjectReply, HBMESH_FIELD(ObjectReply, count), HBMESH_FIELD(ObjectReply, pathCount),
                HBMESH_FIELD(ObjectReply, messageBytes), HBMESH_FIELD(ObjectReply, blobSizeCount));
  HBMESH_STRUCT(DeviceReply, HBMESH_FIELD(DeviceReply, count), HBMESH_FIELD(DeviceReply, pathCount),
                HBMESH_FIELD(DeviceReply, messageBytes));
  HBMESH_STRUCT(KeyEvent, HBMESH_FIELD(KeyEvent, keyIndex), HBMESH_FIELD(KeyEvent, stage), HBMESH_FIELD(KeyEvent, code),
                HBMESH_FIELD(KeyEvent, flags), HBMESH_FIELD(KeyEvent, messageOffset),
                HBMESH_FIELD(KeyEvent, messageBytes), HBMESH_FIELD(KeyEvent, bytes));
  HBMESH_STRUCT(KeyResult, HBMESH_FIELD(KeyResult, code), HBMESH_FIELD(KeyResult, flags),
                HBMESH_FIELD(KeyResult, messageOffset), HBMESH_FIELD(KeyResult, messageBytes),
                HBMESH_FIELD(KeyResult, generation), HBMESH_FIELD(KeyResult, bytes));
  HBMESH_STRUCT(PathRecord, HBMESH_FIELD(PathRecord, transport), HBMESH_FIELD(PathRecord, device),
                HBMESH_FIELD(PathRecord, member), HBMESH_FIELD(PathRecord, lanes), HBMESH_FIELD(PathRecord, flags),
                HBMESH_FIELD(PathRecord, slices), HBMESH_FIELD(PathRecord, bytes),
                HBMESH_FIELD(PathRecord, nanoseconds), HBMESH_FIELD(PathRecord, source));
  HBMESH_STRUCT(Location, HBMESH_FIELD(Location, member), HBMESH_FIELD(Location, slot));
  HBMESH_STRUCT(ResultRecord, HBMESH_FIELD(ResultRecord, code), HBMESH_FIELD(ResultRecord, flags),
                HBMESH_FIELD(ResultRecord, generation), HBMESH_FIELD(ResultRecord, bytes),
                HBMESH_FIELD(ResultRecord, locationCount), HBMESH_FIELD(ResultRecord, family),
                HBMESH_FIELD(ResultRecord, locations));
  HBMESH_STRUCT(CommitRecord, HBMESH_FIELD(CommitRecord, generation), HBMESH_FIELD(CommitRecord, bytes),
                HBMESH_FIELD(CommitRecord, slot), HBMESH_FIELD(CommitRecord, member));
  HBMESH_STRUCT(HeldObject, HBMESH_FIELD(HeldObject, generation), HBMESH_FIELD(HeldObject, slot));
  HBMESH_STRUCT(TakeRecord, HBMESH_FIELD(TakeRecord, generation), HBMESH_FIELD(TakeRecord, bytes),
                HBMESH_FIELD(TakeRecord, slot), HBMESH_FIELD(TakeRecord, member), HBMESH_FIELD(TakeRecord, pin));
  HBMESH_STRUCT(LookupReply, HBMESH_FIELD(LookupReply, foundCount), HBMESH_FIELD(LookupReply, sliceCount),
                HBMESH_FIELD(LookupReply, messageBytes));
  HBMESH_STRUCT(FoundRecord, HBMESH_FIELD(FoundRecord, keyIndex), HBMESH_FIELD(FoundRecord, code),
                HBMESH_FIELD(FoundRecord, messageOffset), HBMESH_FIELD(FoundRecord, messageBytes),
                HBMESH_FIELD(FoundRecord, result));
  HBMESH_STRUCT(SliceRecord, HBMESH_FIELD(SliceRecord, keyIndex), HBMESH_FIELD(SliceRecord, member),
                HBMESH_FIELD(SliceRecord, lane), HBMESH_FIELD(SliceRecord, firstBlob),
                HBMESH_FIELD(SliceRecord, offset), HBMESH_FIELD(SliceRecord, bytes));
  HBMESH_STRUCT(SidecarStats, HBMESH_FIELD(SidecarStats, arenaBytes), HBMESH_FIELD(SidecarStats, arenaUsedBytes),
                HBMESH_FIELD(SidecarStats, objects), HBMESH_FIELD(SidecarStats, sessions),
                HBMESH_FIELD(SidecarStats, holds), HBMESH_FIELD(SidecarStats, transfers),
                HBMESH_FIELD(SidecarStats, transferredBytes), HBMESH_FIELD(SidecarStats, spillBytes),
                HBMESH_FIELD(SidecarStats, spilledBytes), HBMESH_FIELD(SidecarStats, spilledObjects),
                HBMESH_FIELD(SidecarStats, roomBytes), HBMESH_FIELD(SidecarStats, slots),
                HBMESH_FIELD(SidecarStats, usedSlots), HBMESH_FIELD(SidecarStats, tableBytes),
                HBMESH_FIELD(SidecarStats, indexBytes), HBMESH_FIELD(SidecarStats, spilledIndexBytes),
                HBMESH_FIELD(SidecarStats, evictedMemoryFull), HBMESH_FIELD(SidecarStats, evictedTableFull),
                HBMESH_FIELD(SidecarStats, evictedTierFull));
  return structs;
}

// Names are those of the headers, without the k.
Napi::Object MakeOps(Napi::Env env) {
#define HBMESH_OP(name) \
  Number { #name, static_cast < uint64_t>(layout::Op::k##name) }
  return MakeNumbers(env, {HBMESH_OP(SetD2H),
                           HBMESH_OP(GetH2D),
                           HBMESH_OP(Delete),
                           HBMESH_OP(Exist),
                           HBMESH_OP(GetMeta),
                           HBMESH_OP(Cancel),
                           HBMESH_OP(DevPublish),
                           HBMESH_OP(DevSubscribe),
                           HBMESH_OP(DevMSet),
                           HBMESH_OP(DevMGet),
                           HBMESH_OP(DevDelete),
                           HBMESH_OP(DevLocalDelete),
                           HBMESH_OP(ReserveLayers),
                           HBMESH_OP(PushLayer),
                           HBMESH_OP(Explain),
                           HBMESH_OP(Reserve),
                           HBMESH_OP(Commit),
                           HBMESH_OP(Lookup),
                           HBMESH_OP(Remove),
                           HBMESH_OP(Presence),
                           HBMESH_OP(Meta),
                           HBMESH_OP(ReportMissing),
                           HBMESH_OP(Sessions),
                           HBMESH_OP(Drop),
                           HBMESH_OP(Describe),
                           HBMESH_OP(ListHeld),
                           HBMESH_OP(Peers),
                           HBMESH_OP(Stats),
                           HBMESH_OP(Shutdown),
                           HBMESH_OP(AddLocation),
                           HBMESH_OP(ForgetLocations),
                           HBMESH_OP(ExplainOwner),
                           HBMESH_OP(Drain),
                           HBMESH_OP(Take),
                           HBMESH_OP(Reach)});
#undef HBMESH_OP
}

Napi::Object MakeFlags(Napi::Env env) {
  return MakeNumbers(env, {{"Reply", layout::kFlagReply},
                           {"More", layout::kFlagMore},
                           {"Existed", layout::kExisted},
                           {"OtherFamily", layout::kOtherFamily},
                           {"SetPinSoft", 1},
                           {"SetPinHard", 2},
                           {"SetChecksum", layout::kSetChecksum},
                           {"ShareReplica", layout::kShareReplica},
                           {"StageAccepted", static_cast<uint64_t>(layout::KeyStage::kAccepted)},
                           {"StageEnded", static_cast<uint64_t>(layout::KeyStage::kEnded)},
                           {"PathFallback", layout::kPathFallback},
                           {"PathStaged", layout::kPathStaged},
                           {"PathSpilled", layout::kPathSpilled}});
}

Napi::Object MakeLimits(Napi::Env env) {
  return MakeNumbers(env, {{"KeysPerCallMax", layout::kKeysPerCallMax},
                           {"KeysPerQueryMax", layout::kKeysPerQueryMax},
                           {"KeyBytesMax", layout::kKeyBytesMax}});
}

Napi::Object MakeTransports(Napi::Env env) {
  using layout::TransportId;
  return MakeNumbers(env, {{"local", static_cast<uint64_t>(TransportId::kLocal)},
                           {"shm", static_cast<uint64_t>(TransportId::kShm)},
                           {"tcp", static_cast<uint64_t>(TransportId::kTcp)},
                           {"rdma", static_cast<uint64_t>(TransportId::kRdma)},
                           {"hccs", static_cast<uint64_t>(TransportId::kHccs)}});
}

// Every code of the enum, under the name that StatusCodeName gives it (that of status.proto).
Napi::Object MakeStatusCodes(Napi::Env env) {
  constexpr uint32_t kCodeMax = 7000;  // ours start at 6000
  Napi::Object codes = Napi::Object::New(env);
  const std::string_view unknown = StatusCodeName(static_cast<StatusCode>(UINT32_MAX));
  for (uint32_t number = 0; number < kCodeMax; ++number) {
    const std::string_view name = StatusCodeName(static_cast<StatusCode>(number));
    if (name != unknown) codes.Set(std::string(name), Napi::Number::New(env, number));
  }
  return codes;
}

}  // namespace

Napi::Object MakeLayoutObject(Napi::Env env) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("structs", MakeStructs(env));
  object.Set("ops", MakeOps(env));
  object.Set("flags", MakeFlags(env));
  object.Set("limits", MakeLimits(env));
  object.Set("transports", MakeTransports(env));
  object.Set("statusCodes", MakeStatusCodes(env));
  return object;
}

}  // namespace hbmesh::addon
