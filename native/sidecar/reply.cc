#include "sidecar/reply.h"

#include <algorithm>
#include <cstring>

#include "sidecar/event_reply.h"

namespace hbmesh::sidecar {

namespace {

// Fills a payload whose size is known.
class Writer {
 public:
  explicit Writer(std::vector<std::byte>& target) : target_(target) {}
  void Append(const void* source, size_t bytes) {
    if (bytes != 0) std::memcpy(target_.data() + at_, source, bytes);
    at_ += bytes;
  }
  void AlignTo8() { at_ = (at_ + 7) & ~size_t{7}; }

 private:
  std::vector<std::byte>& target_;
  size_t at_ = 0;
};

}  // namespace

void ReplyBuilder::Fail(uint32_t key, StatusCode code, std::string_view text) {
  layout::KeyResult& result = results_[key];
  result.code = static_cast<uint32_t>(code);
  result.flags = 0;
  const auto [found, isNew] = offsets_.try_emplace(std::string(text), static_cast<uint32_t>(messages_.size()));
  if (isNew) messages_ += text;
  result.messageOffset = found->second;
  result.messageBytes = static_cast<uint32_t>(text.size());
}

void ReplyBuilder::AddPath(const layout::PathRecord& path) { MergePath(paths_, path); }

std::vector<std::byte> ReplyBuilder::Build(std::span<const uint32_t> blobCounts,
                                           std::span<const uint64_t> blobSizes) const {
  const layout::ObjectReply header{count(), static_cast<uint32_t>(paths_.size()),
                                   static_cast<uint32_t>(messages_.size()), static_cast<uint32_t>(blobSizes.size())};
  const size_t countBytes = (blobCounts.size_bytes() + 7) & ~size_t{7};
  std::vector<std::byte> payload(sizeof(header) + results_.size() * sizeof(layout::KeyResult) +
                                 paths_.size() * sizeof(layout::PathRecord) + countBytes + blobSizes.size_bytes() +
                                 messages_.size());
  Writer writer(payload);
  writer.Append(&header, sizeof(header));
  writer.Append(results_.data(), results_.size() * sizeof(layout::KeyResult));
  writer.Append(paths_.data(), paths_.size() * sizeof(layout::PathRecord));
  writer.Append(blobCounts.data(), blobCounts.size_bytes());
  writer.AlignTo8();
  writer.Append(blobSizes.data(), blobSizes.size_bytes());
  writer.Append(messages_.data(), messages_.size());
  return payload;
}

std::vector<std::byte> ReplyBuilder::BuildRefusal(std::string_view text) {
  const layout::ObjectReply header{0, 0, static_cast<uint32_t>(text.size()), 0};
  std::vector<std::byte> payload(sizeof(header) + text.size());
  Writer writer(payload);
  writer.Append(&header, sizeof(header));
  writer.Append(text.data(), text.size());
  return payload;
}

layout::PathRecord MakePath(layout::TransportId transport, uint32_t device, uint32_t member, std::string_view source) {
  layout::PathRecord path{};
  path.transport = static_cast<uint32_t>(transport);
  path.device = device;
  path.member = member;
  std::memcpy(path.source, source.data(), std::min(source.size(), sizeof(path.source) - 1));
  return path;
}

}  // namespace hbmesh::sidecar
