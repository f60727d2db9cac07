#include "sidecar/request.h"

#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kTransferSetupMs = 5'000;

}  // namespace

Request& RequestTable::Add(std::unique_ptr<Request> request) {
  Request& added = *request;
  requests_.emplace(&added, std::move(request));
  return added;
}

void RequestTable::Remove(Request* request) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  ended_.push_back(std::move(found->second));
  requests_.erase(found);
}

std::vector<Request*> RequestTable::List() const {
  std::vector<Request*> list;
  list.reserve(requests_.size());
  for (const auto& [request, owned] : requests_) list.push_back(request);
  return list;
}

Request::Request(Core& core, Session& session, const layout::Entry& entry)
    : core_(core), sessionId_(session.id()), entry_(entry) {
  session.AddRequest(entry, this);
}

void Request::SetDeadline(uint64_t inMs) {
  core_.timers.Cancel(deadline_);
  deadline_ = core_.timers.Add(core_.clock.NowNs() + inMs * kNsPerMs, [this] {
    deadline_ = {};
    OnDeadline();
  });
}

uint64_t Request::TransferLimitMs(uint64_t bytes) const {
  return kTransferSetupMs + bytes / (core_.options.floorMbPerSecond * 1000);
}

void Request::Send(StatusCode code, std::vector<std::byte> payload) {
  if (std::exchange(answered_, true)) return;
  Session* session = core_.sessions.Find(sessionId_);
  if (session == nullptr) return;
  session->EndRequest(entry_);
  layout::Entry reply{};
  reply.id = entry_.id;
  reply.op = entry_.op;
  reply.flags = layout::kFlagReply;
  reply.code = static_cast<uint32_t>(code);
  reply.count = code == StatusCode::kOk ? entry_.count : 0;
  const Status status = session->Send(reply, std::move(payload));
  if (status.code() != StatusCode::kOutOfRange) return;
  reply.code = static_cast<uint32_t>(StatusCode::kOutOfRange);
  reply.count = 0;
  (void)session->Send(reply, ReplyBuilder::BuildRefusal(status.message())).ok();
}

void Request::Tell(std::vector<std::byte> payload, uint32_t count) {
  if (answered_) return;
  Session* session = core_.sessions.Find(sessionId_);
  if (session == nullptr) return;
  layout::Entry reply{};
  reply.id = entry_.id;
  reply.op = entry_.op;
  reply.flags = layout::kFlagReply | layout::kFlagMore;
  reply.count = count;
  // A session that can't be told is about to be closed.
  (void)session->Send(reply, std::move(payload)).ok();
}

void Request::Answer(std::vector<std::byte> payload) { Send(StatusCode::kOk, std::move(payload)); }

void Request::Refuse(const Status& status) { Send(status.code(), ReplyBuilder::BuildRefusal(status.message())); }

void Request::Abandon() {
  answered_ = true;
  OnAbandoned();
}

void Request::Finish() {
  if (std::exchange(finished_, true)) return;
  core_.timers.Cancel(deadline_);
  core_.requests.Remove(this);
}

}  // namespace hbmesh::sidecar
