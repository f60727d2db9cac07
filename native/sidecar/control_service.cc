#include "sidecar/control_service.h"

#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "sidecar/explain.h"
#include "sidecar/object_call.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kListKeysMax = 4096;  // of one message of kListHeld
constexpr size_t kListKeyBytesMax = 1U << 20;
// Of one answer to kListHeld: some milliseconds of the loop.
constexpr uint32_t kListSlots = 16'384;

void Append(std::vector<std::byte>& target, const void* source, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(source);
  target.insert(target.end(), begin, begin + bytes);
}

layout::Entry ReplyTo(const Message& message, StatusCode code = StatusCode::kOk) {
  layout::Entry entry{};
  entry.id = message.entry.id;
  entry.op = message.entry.op;
  entry.flags = layout::kFlagReply;
  entry.code = static_cast<uint32_t>(code);
  entry.count = message.entry.count;
  return entry;
}

// A session that can't be answered is about to be closed, and that is told elsewhere.
void Send(Session& session, const layout::Entry& entry, std::vector<std::byte> payload) {
  if (const Status status = session.Send(entry, std::move(payload)); !status.ok()) {
    Log().warn("an answer to the control process was lost: {}", status.message());
  }
}

void Refuse(Session& session, const Message& message, const Status& status) {
  std::vector<std::byte> text;
  Append(text, status.message().data(), status.message().size());
  Send(session, ReplyTo(message, status.code()), std::move(text));
}

bool HeldObjects(Session& session, const Message& message, std::vector<layout::HeldObject>* objects) {
  const uint64_t bytes = uint64_t{message.entry.count} * sizeof(layout::HeldObject);
  if (message.payload.size() != bytes) {
    Refuse(session, message, {StatusCode::kInvalid, "the objects don't have the size that the entry says"});
    return false;
  }
  objects->resize(message.entry.count);
  if (bytes != 0) std::memcpy(objects->data(), message.payload.data(), bytes);
  return true;
}

// Objects of one message of kListHeld.
struct ListPart {
  std::vector<uint32_t> ends;
  std::string keys;
  std::vector<layout::CommitRecord> records;

  [[nodiscard]] std::vector<std::byte> Payload() const {
    const layout::KeyBatchHeader header{static_cast<uint32_t>(ends.size()), static_cast<uint32_t>(keys.size())};
    std::vector<std::byte> payload;
    Append(payload, &header, sizeof(header));
    Append(payload, ends.data(), ends.size() * sizeof(uint32_t));
    Append(payload, keys.data(), keys.size());
    payload.resize(AlignTo8(payload.size()));
    Append(payload, records.data(), records.size() * sizeof(layout::CommitRecord));
    return payload;
  }
};

// Device objects of a family, those that readers share or the others. A message names a key once: the same key on
// several devices goes out in as many messages.
std::vector<std::vector<const DeviceObject*>> RoundsOf(const DeviceObjects& objects, layout::Family family,
                                                       bool shared) {
  std::vector<std::vector<const DeviceObject*>> rounds;
  std::unordered_map<std::string_view, size_t> seen;
  objects.ForEachCommitted([&](const DeviceObject& object) {
    if (object.family != family || object.shared != shared) return;
    const size_t round = seen[object.key]++;
    if (round == rounds.size()) rounds.emplace_back();
    rounds[round].push_back(&object);
  });
  return rounds;
}

}  // namespace

StatusCode ControlService::DropOne(const layout::HeldObject& held) {
  // Generation 0 would match any object; no object that others know of has it.
  if (held.generation == 0) return StatusCode::kInvalid;
  if ((held.slot & layout::kDeviceSlot) != 0) {
    DeviceObject* object = objects_.Find(held.slot);
    if (object == nullptr || object->generation != held.generation) return StatusCode::kOk;
    if (object->consumed) return StatusCode::kOk;  // it ends with the answer of the owner that asks for this
    objects_.Remove(*object, {StatusCode::kNotFound, "the key was deleted"}, false);
    return StatusCode::kOk;
  }
  if (pending_.NoteDropped(held.slot, held.generation)) return StatusCode::kOk;
  // A version that its set has not sealed yet: it was to replace an older one of this worker.
  ObjectView dropped;
  if (store_.FindSlot(held.slot, held.generation, &dropped).ok() && dropped.state == SlotState::kWritten) {
    DropOlderThan(store_, dropped.key, held.generation);
  }
  const StatusCode code = store_.Drop(held.slot, held.generation).code();
  // What is not there any more needs no dropping.
  return code == StatusCode::kNotFound || code == StatusCode::kTryAgain ? StatusCode::kOk : code;
}

void ControlService::Drop(Session& session, const Message& message) {
  std::vector<layout::HeldObject> objects;
  if (!HeldObjects(session, message, &objects)) return;
  std::vector<std::byte> codes;
  for (const layout::HeldObject& object : objects) {
    const auto code = static_cast<uint32_t>(DropOne(object));
    Append(codes, &code, sizeof(code));
  }
  Send(session, ReplyTo(message), std::move(codes));
}

StatusCode ControlService::ShapeOf(const layout::HeldObject& held, std::span<const uint64_t>* sizes,
                                   uint32_t* flags) const {
  if ((held.slot & layout::kDeviceSlot) != 0) {
    const DeviceObject* object = objects_.Find(held.slot);
    if (object == nullptr || object->gone || object->generation != held.generation) return StatusCode::kTryAgain;
    *sizes = object->sizes;
    if (object->committed) *flags |= layout::kHeldSealed;
    return StatusCode::kOk;
  }
  if (const PendingSlots::Object* pending = pending_.Find(held.slot, held.generation); pending != nullptr) {
    *sizes = pending->blobSizes;
    return StatusCode::kOk;
  }
  ObjectView object;
  const Status status = store_.FindSlot(held.slot, held.generation, &object);
  // A spilled object's shape is in memory, and is all that is asked for.
  const bool found = status.ok() || status.code() == StatusCode::kNotReady;
  if (found) {
    *sizes = object.blobSizes;
    *flags = static_cast<uint32_t>(object.attributes.pin);
    if (object.attributes.replica) *flags |= layout::kHeldReplica;
    if (object.state == SlotState::kSpilled) *flags |= layout::kHeldSpilled;
    if (object.state != SlotState::kWritten) *flags |= layout::kHeldSealed;
  }
  return found ? StatusCode::kOk : status.code();
}

void ControlService::Describe(Session& session, const Message& message) {
  std::vector<layout::HeldObject> objects;
  if (!HeldObjects(session, message, &objects)) return;
  std::vector<uint32_t> codes;
  std::vector<uint32_t> counts;
  std::vector<uint64_t> sizes;
  std::vector<uint32_t> flags(objects.size());
  for (const layout::HeldObject& held : objects) {
    std::span<const uint64_t> shape;
    codes.push_back(static_cast<uint32_t>(ShapeOf(held, &shape, &flags[codes.size()])));
    counts.push_back(static_cast<uint32_t>(shape.size()));
    sizes.insert(sizes.end(), shape.begin(), shape.end());
  }
  std::vector<std::byte> payload;
  Append(payload, codes.data(), codes.size() * 4);
  payload.resize(AlignTo8(payload.size()));
  Append(payload, counts.data(), counts.size() * 4);
  payload.resize(AlignTo8(payload.size()));
  Append(payload, sizes.data(), sizes.size() * 8);
  Append(payload, flags.data(), flags.size() * 4);
  const uint64_t payloadBytes = payload.size();
  const Status sent = session.Send(ReplyTo(message), std::move(payload));
  if (sent.code() == StatusCode::kOutOfRange) {
    Refuse(session, message,
           {StatusCode::kOutOfRange, "the sizes of " + std::to_string(objects.size()) + " objects take " +
                                         std::to_string(payloadBytes) +
                                         " bytes, more than one answer can carry: ask for fewer at once"});
  } else if (!sent.ok()) {
    Log().warn("an answer to the control process was lost: {}", sent.message());
  }
}

void ControlService::Take(Session& session, const Message& message, const FindSession& find) {
  std::vector<WantedObject> objects;
  if (const Status status = ParseTake(message, &objects); !status.ok()) {
    Refuse(session, message, status);
    return;
  }
  const layout::Entry reply = ReplyTo(message);
  takes_.Take(std::move(objects), [find, reply, id = session.id()](std::span<const uint32_t> codes) {
    std::vector<std::byte> payload;
    Append(payload, codes.data(), codes.size_bytes());
    if (Session* asker = find(id); asker != nullptr) Send(*asker, reply, std::move(payload));
  });
}

void ControlService::Explain(Session& session, const Message& message) {
  layout::KeyBatchHeader header{};
  const size_t fixedBytes = sizeof(header) + sizeof(uint32_t);
  if (message.payload.size() >= fixedBytes) std::memcpy(&header, message.payload.data(), sizeof(header));
  if (header.count != 1 || header.keyBytes == 0 || header.keyBytes > message.payload.size() - fixedBytes) {
    Refuse(session, message, {StatusCode::kInvalid, "one key can be explained at a time, which the batch must have"});
    return;
  }
  const std::string_view key(reinterpret_cast<const char*>(message.payload.data()) + fixedBytes, header.keyBytes);
  const std::string text = ExplainJson(store_, key, hooks_.nowMs());
  std::vector<std::byte> payload;
  Append(payload, text.data(), text.size());
  Send(session, ReplyTo(message), std::move(payload));
}

// The messages of one answer to kListHeld, each of one family, and of copies or of others.
class ControlService::HeldList {
 public:
  HeldList(Session& session, const Message& message) : session_(session), message_(message) {}

  // Begins a new message for what is added from now on, once there is something.
  void Begin(layout::Family family, bool copies) {
    nextFamily_ = family;
    nextCopies_ = copies;
    begins_ = true;
  }
  void Add(std::string_view key, uint64_t generation, uint64_t bytes, uint32_t slot) {
    const bool full = part_.ends.size() >= kListKeysMax || part_.keys.size() >= kListKeyBytesMax;
    if (full || (begins_ && !part_.ends.empty())) Send(layout::kFlagMore, 0);
    begins_ = false;
    family_ = nextFamily_;
    copies_ = nextCopies_;
    part_.keys += key;
    part_.ends.push_back(static_cast<uint32_t>(part_.keys.size()));
    part_.records.push_back({generation, bytes, slot, 0});
  }
  void End(uint32_t nextSlot) { Send(0, nextSlot); }

 private:
  void Send(uint16_t more, uint32_t nextSlot) {
    layout::Entry entry = ReplyTo(message_);
    entry.flags = static_cast<uint16_t>(entry.flags | more);
    entry.count = static_cast<uint32_t>(part_.ends.size());
    entry.args[0] = nextSlot;
    entry.args[1] = static_cast<uint64_t>(family_);
    entry.args[2] = copies_ ? kListedCopies : 0;
    sidecar::Send(session_, entry, part_.Payload());
    part_ = {};
  }

  Session& session_;
  const Message& message_;
  ListPart part_;
  bool begins_ = false;
  layout::Family family_ = layout::Family::kHost;
  layout::Family nextFamily_ = layout::Family::kHost;
  bool copies_ = false;
  bool nextCopies_ = false;
};

void ControlService::ListDevices(HeldList& list) {
  for (const auto family : {layout::Family::kPublished, layout::Family::kDeviceCache}) {
    for (const bool shared : {false, true}) {
      for (const auto& round : RoundsOf(objects_, family, shared)) {
        list.Begin(family, shared);
        for (const DeviceObject* object : round) list.Add(object->key, object->generation, object->bytes, object->slot);
      }
    }
  }
}

// Objects of the arena keep their slots, so that none is missed that was there at the first answer. What has no slot of
// the table yet, or none at all, is in the first one.
void ControlService::ListHeld(Session& session, const Message& message) {
  const uint64_t first = message.entry.args[0];
  if (first > UINT32_MAX) {
    Refuse(session, message, {StatusCode::kInvalid, "no table has a slot " + std::to_string(first)});
    return;
  }
  HeldList list(session, message);
  uint32_t next = 0;
  for (const bool copies : {false, true}) {
    list.Begin(layout::Family::kHost, copies);
    next = store_.ForEachSealedFrom(static_cast<uint32_t>(first), kListSlots, [&](const ObjectView& object) {
      if (object.attributes.replica != copies) return;
      list.Add(object.key, object.generation, object.payloadBytes, object.slot);
    });
    if (first != 0 || copies) continue;
    pending_.ForEachConfirmed([&](uint32_t slot, const PendingSlots::Object& object) {
      list.Add(object.key, object.generation, object.bytes, slot);
    });
  }
  if (first == 0) ListDevices(list);
  list.End(next);
}

void ControlService::Handle(Session& session, const Message& message, const FindSession& find) {
  switch (static_cast<layout::Op>(message.entry.op)) {
    case layout::Op::kDrop:
      Drop(session, message);
      return;
    case layout::Op::kDescribe:
      Describe(session, message);
      return;
    case layout::Op::kExplain:
      Explain(session, message);
      return;
    case layout::Op::kListHeld:
      ListHeld(session, message);
      return;
    case layout::Op::kPeers: {
      const std::string_view text(reinterpret_cast<const char*>(message.payload.data()), message.payload.size());
      if (const Status status = peers_.Update(text); !status.ok()) Log().error("{}", status.message());
      return;
    }
    case layout::Op::kStats: {
      const layout::SidecarStats stats = hooks_.stats();
      std::vector<std::byte> payload;
      Append(payload, &stats, sizeof(stats));
      Send(session, ReplyTo(message), std::move(payload));
      return;
    }
    case layout::Op::kDrain: {
      layout::Entry reply = ReplyTo(message);
      reply.args[0] = hooks_.setLeaving(message.entry.args[0] == 1);
      Send(session, reply, {});
      return;
    }
    case layout::Op::kReach:
      hooks_.setOwnersLost(message.entry.args[0] == 1);
      return;
    case layout::Op::kTake:
      Take(session, message, find);
      return;
    case layout::Op::kShutdown: {
      const layout::Entry reply = ReplyTo(message);
      hooks_.shutdown(message.entry.args[0] == 1, [find, reply, id = session.id()] {
        if (Session* asker = find(id); asker != nullptr) Send(*asker, reply, {});
      });
      return;
    }
    default:
      Refuse(session, message,
             {StatusCode::kNotSupported,
              "operation " + std::to_string(message.entry.op) + " is not one of the sidecar's"});
  }
}

}  // namespace hbmesh::sidecar
