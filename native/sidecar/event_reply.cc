#include "sidecar/event_reply.h"

#include <algorithm>
#include <cstring>

namespace hbmesh::sidecar {

void EventBuilder::Add(layout::KeyEvent event, std::string_view text) {
  if (text != lastText_) {
    messages_ += text;
    lastText_ = text;
  }
  event.messageOffset = static_cast<uint32_t>(messages_.size() - text.size());
  event.messageBytes = static_cast<uint32_t>(text.size());
  events_.push_back(event);
}

void EventBuilder::Accept(uint32_t key, std::string_view text) {
  layout::KeyEvent event{};
  event.keyIndex = key;
  event.stage = static_cast<uint32_t>(layout::KeyStage::kAccepted);
  Add(event, text);
}

void EventBuilder::End(uint32_t key, const Status& status, uint64_t bytes, uint32_t flags) {
  layout::KeyEvent event{};
  event.keyIndex = key;
  event.stage = static_cast<uint32_t>(layout::KeyStage::kEnded);
  event.code = static_cast<uint32_t>(status.code());
  event.flags = flags;
  event.bytes = status.ok() ? bytes : 0;
  Add(event, status.message());
}

void EventBuilder::AddPath(const layout::PathRecord& path) { MergePath(paths_, path); }

std::vector<std::byte> EventBuilder::Take() {
  const layout::DeviceReply header{count(), static_cast<uint32_t>(paths_.size()),
                                   static_cast<uint32_t>(messages_.size()), 0};
  const size_t eventBytes = events_.size() * sizeof(layout::KeyEvent);
  const size_t pathBytes = paths_.size() * sizeof(layout::PathRecord);
  std::vector<std::byte> payload(sizeof(header) + eventBytes + pathBytes + messages_.size());
  std::byte* at = payload.data();
  const auto append = [&at](const void* source, size_t bytes) {
    if (bytes != 0) std::memcpy(at, source, bytes);
    at += bytes;
  };
  append(&header, sizeof(header));
  append(events_.data(), eventBytes);
  append(paths_.data(), pathBytes);
  append(messages_.data(), messages_.size());
  *this = {};
  return payload;
}

void MergePath(std::vector<layout::PathRecord>& paths, const layout::PathRecord& path) {
  for (layout::PathRecord& known : paths) {
    if (known.transport != path.transport || known.member != path.member || known.flags != path.flags) continue;
    known.slices += path.slices;
    known.bytes += path.bytes;
    known.lanes = std::max(known.lanes, path.lanes);
    known.nanoseconds = std::max(known.nanoseconds, path.nanoseconds);
    return;
  }
  paths.push_back(path);
}

}  // namespace hbmesh::sidecar
