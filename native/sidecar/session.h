// Session: one connected process, a client or the control process. It owns the process's channel and regions; it dies
// with its socket. What its requests still copy from or to stays alive through the regions' shared ownership.
//
// Thread rule: the loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "queue/channel.h"
#include "queue/session_protocol.h"
#include "sidecar/object_call.h"

namespace hbmesh::sidecar {

class Request;

class Session {
 public:
  // `payloadBytesMax`: the largest payload that the channel can ever carry.
  Session(uint64_t id, session::Kind kind, pid_t pid, std::unique_ptr<Channel> channel, uint64_t payloadBytesMax)
      : id_(id), kind_(kind), pid_(pid), payloadBytesMax_(payloadBytesMax), channel_(std::move(channel)) {}

  [[nodiscard]] uint64_t id() const { return id_; }
  [[nodiscard]] session::Kind kind() const { return kind_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] Channel& channel() { return *channel_; }
  // What the keys of its tenant begin with inside (sidecar/tenants.h); empty for the tenant `default`.
  [[nodiscard]] const std::string& keyPrefix() const { return keyPrefix_; }
  void SetKeyPrefix(std::string prefix) { keyPrefix_ = std::move(prefix); }
  [[nodiscard]] RegionTable& regions() { return regions_; }
  // Requests under way, by the number that the client gave them.
  [[nodiscard]] std::unordered_map<uint64_t, Request*>& requests() { return requests_; }
  // Bytes of their messages.
  [[nodiscard]] uint64_t requestBytes() const { return requestBytes_; }
  void AddRequest(const layout::Entry& entry, Request* request) {
    requests_.emplace(entry.id, request);
    requestBytes_ += entry.payloadBytes;
  }
  void EndRequest(const layout::Entry& entry) {
    if (requests_.erase(entry.id) != 0) requestBytes_ -= entry.payloadBytes;
  }

  // Sends, or keeps the message until the peer has made room. kOutOfRange: it can never fit.
  [[nodiscard]] Status Send(const layout::Entry& entry, std::vector<std::byte> payload);
  // Sends what was kept. True if anything left.
  bool Flush();
  // Messages wait for room: the peer doesn't take its answers, and must not be given more work.
  [[nodiscard]] bool congested() const { return !outbox_.empty(); }

  // Why this session must be closed; empty while it is good.
  [[nodiscard]] const std::string& broken() const { return broken_; }
  void Break(std::string why) {
    if (broken_.empty()) broken_ = std::move(why);
  }

 private:
  struct Outgoing {
    layout::Entry entry;
    std::vector<std::byte> payload;
  };

  const uint64_t id_;
  const session::Kind kind_;
  const pid_t pid_;
  const uint64_t payloadBytesMax_;
  std::string keyPrefix_;
  std::string broken_;
  std::unique_ptr<Channel> channel_;
  RegionTable regions_;
  std::unordered_map<uint64_t, Request*> requests_;
  uint64_t requestBytes_ = 0;
  std::deque<Outgoing> outbox_;  // bounded: one message for each request under way
};

}  // namespace hbmesh::sidecar
