// EventBuilder: collects what happened to keys that end one by one, and lays it out as a DeviceReply.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "queue/layout.h"

namespace hbmesh::sidecar {

class EventBuilder {
 public:
  void Accept(uint32_t key, std::string_view text = {});
  void End(uint32_t key, const Status& status, uint64_t bytes, uint32_t flags = 0);
  void AddPath(const layout::PathRecord& path);
  [[nodiscard]] bool empty() const { return events_.empty(); }
  [[nodiscard]] uint32_t count() const { return static_cast<uint32_t>(events_.size()); }
  // The payload; the builder is empty afterwards.
  [[nodiscard]] std::vector<std::byte> Take();

 private:
  void Add(layout::KeyEvent event, std::string_view text);

  std::vector<layout::KeyEvent> events_;
  std::vector<layout::PathRecord> paths_;
  std::string messages_;
  std::string lastText_;  // at the end of messages_
};

// Adds to the record of the same source and transport, or begins one. Nanoseconds and lanes: the larger counts.
void MergePath(std::vector<layout::PathRecord>& paths, const layout::PathRecord& path);

}  // namespace hbmesh::sidecar
