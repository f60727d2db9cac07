#include "sidecar/control_port.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr size_t kTextBytesMax = 512;  // of a refusal

layout::Entry EntryOf(const Question& question, uint64_t id) {
  layout::Entry entry{};
  entry.id = id;
  entry.op = static_cast<uint16_t>(question.op);
  entry.count = question.count;
  std::copy(std::begin(question.args), std::end(question.args), std::begin(entry.args));
  return entry;
}

}  // namespace

Status ControlPort::Ask(Question question, ControlWaiter* waiter, uint64_t tag, uint64_t* id) {
  if (session_ == nullptr) {
    return {StatusCode::kRpcUnavailable,
            "the control process of worker " + workerAddress_ +
                " is not running: it is being restarted, try again; if this lasts, look at the worker's log"};
  }
  const uint64_t asked = ++lastId_;
  const layout::Entry entry = EntryOf(question, asked);
  if (Status status = session_->Send(entry, std::move(question.payload)); !status.ok()) return status;
  waiting_.emplace(asked, Waiting{waiter, tag});
  *id = asked;
  return Status::Ok();
}

void ControlPort::Tell(Question question) {
  if (session_ == nullptr) return;
  const layout::Entry entry = EntryOf(question, ++lastId_);
  // A control process that can't be told any more is about to be detached.
  (void)session_->Send(entry, std::move(question.payload)).ok();
}

void ControlPort::Cancel(uint64_t id) {
  if (waiting_.erase(id) == 0) return;
  Question question;
  question.op = layout::Op::kCancel;
  question.args[0] = id;
  Tell(std::move(question));
}

void ControlPort::OnReply(const Message& reply) {
  const auto found = waiting_.find(reply.entry.id);
  if (found == waiting_.end()) return;
  const Waiting waiting = found->second;
  const bool last = (reply.entry.flags & layout::kFlagMore) == 0;
  if (last) waiting_.erase(found);
  waiting.waiter->OnControlReply(waiting.tag, reply, last);
}

void ControlPort::Detach() {
  session_ = nullptr;
  const Status lost(StatusCode::kClientWorkerDisconnect,
                    "the control process of worker " + workerAddress_ +
                        " ended while it was asked: it is being restarted, try again");
  // Waiters may forget others while they are told.
  while (!waiting_.empty()) {
    const Waiting waiting = waiting_.begin()->second;
    waiting_.erase(waiting_.begin());
    waiting.waiter->OnControlLost(waiting.tag, lost);
  }
}

std::span<const std::byte> RecordsOf(const Message& reply, uint64_t batchBytes, uint64_t recordBytes) {
  const std::span<const std::byte> payload(reply.payload);
  if (payload.size() == recordBytes) return payload;
  if (payload.size() == batchBytes + recordBytes) return payload.subspan(batchBytes);
  return {};
}

Status RefusalOf(const Message& reply, const char* asked) {
  const auto code = static_cast<StatusCode>(reply.entry.code);
  if (reply.payload.empty()) return {code, TextOf(code, asked)};
  const auto* text = reinterpret_cast<const char*>(reply.payload.data());
  return {code, std::string(text, std::min(reply.payload.size(), kTextBytesMax))};
}

std::string TextOf(StatusCode code, const char* asked) {
  switch (code) {
    case StatusCode::kKeyAlreadyExists:
      return "the key is there already: delete it first, or set with existence `skip` or `replace`";
    case StatusCode::kNotFound:
      return "no object is set under this key";
    case StatusCode::kTryAgain:
      return std::string("the owner of the key could not answer yet (") + asked + "), the ring is changing: try again";
    case StatusCode::kRpcUnavailable:
    case StatusCode::kRpcPeerDead:
    case StatusCode::kRpcDeadlineExceeded:
      return std::string("the owner of the key could not be reached (") + asked +
             "): try again; if this lasts, see which workers are down";
    default:
      return std::string(StatusCodeName(code)) + " from the owner of the key (" + asked + "): see the worker's log";
  }
}

}  // namespace hbmesh::sidecar
