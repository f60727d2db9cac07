#include "sidecar/control_service.h"

#include <cstring>
#include <string>
#include <utility>

#include "base/log.h"
#include "sidecar/object_call.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kListKeysMax = 4096;  // of one message of kListHeld
constexpr size_t kListKeyBytesMax = 1U << 20;

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

}  // namespace

void ControlService::Drop(Session& session, const Message& message) {
  std::vector<layout::HeldObject> objects;
  if (!HeldObjects(session, message, &objects)) return;
  std::vector<std::byte> codes;
  for (const layout::HeldObject& object : objects) {
    // Generation 0 would match any object; no object that others know of has it.
    const Status status = object.generation == 0 ? Status(StatusCode::kInvalid, "generation 0")
                                                 : store_.Drop(object.slot, object.generation);
    // What is not there any more needs no dropping.
    const bool gone = status.code() == StatusCode::kNotFound || status.code() == StatusCode::kTryAgain;
    const auto code = static_cast<uint32_t>(gone ? StatusCode::kOk : status.code());
    Append(codes, &code, sizeof(code));
  }
  Send(session, ReplyTo(message), std::move(codes));
}

void ControlService::Describe(Session& session, const Message& message) {
  std::vector<layout::HeldObject> objects;
  if (!HeldObjects(session, message, &objects)) return;
  std::vector<uint32_t> codes;
  std::vector<uint32_t> counts;
  std::vector<uint64_t> sizes;
  for (const layout::HeldObject& held : objects) {
    ObjectView object;
    const Status status = store_.FindSlot(held.slot, held.generation, &object);
    codes.push_back(static_cast<uint32_t>(status.code()));
    counts.push_back(status.ok() ? static_cast<uint32_t>(object.blobSizes.size()) : 0);
    if (status.ok()) sizes.insert(sizes.end(), object.blobSizes.begin(), object.blobSizes.end());
  }
  std::vector<std::byte> payload;
  Append(payload, codes.data(), codes.size() * 4);
  payload.resize(AlignTo8(payload.size()));
  Append(payload, counts.data(), counts.size() * 4);
  payload.resize(AlignTo8(payload.size()));
  Append(payload, sizes.data(), sizes.size() * 8);
  Send(session, ReplyTo(message), std::move(payload));
}

void ControlService::ListHeld(Session& session, const Message& message) {
  ListPart part;
  const auto send = [&](uint16_t more) {
    layout::Entry entry = ReplyTo(message);
    entry.flags = static_cast<uint16_t>(entry.flags | more);
    entry.count = static_cast<uint32_t>(part.ends.size());
    Send(session, entry, part.Payload());
    part = {};
  };
  store_.ForEachSealed([&](const ObjectView& object) {
    if (part.ends.size() >= kListKeysMax || part.keys.size() >= kListKeyBytesMax) send(layout::kFlagMore);
    part.keys += object.key;
    part.ends.push_back(static_cast<uint32_t>(part.keys.size()));
    part.records.push_back({object.generation, object.payloadBytes, object.slot, 0});
  });
  send(0);
}

void ControlService::Handle(Session& session, const Message& message, const std::function<Session*(uint64_t)>& find) {
  switch (static_cast<layout::Op>(message.entry.op)) {
    case layout::Op::kDrop:
      Drop(session, message);
      return;
    case layout::Op::kDescribe:
      Describe(session, message);
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
