#include "sidecar/query.h"

#include <cstring>
#include <utility>

#include "sidecar/explain.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

layout::Op QuestionOf(layout::Op op) {
  switch (op) {
    case layout::Op::kDelete:
    case layout::Op::kDevDelete:
      return layout::Op::kRemove;
    case layout::Op::kExist:
      return layout::Op::kPresence;
    case layout::Op::kExplain:
      return layout::Op::kExplainOwner;
    default:
      return layout::Op::kMeta;
  }
}

const char* NameOf(layout::Op op) {
  switch (op) {
    case layout::Op::kDelete:
    case layout::Op::kDevDelete:
      return "deleting";
    case layout::Op::kExist:
      return "asking for presence";
    case layout::Op::kExplain:
      return "explaining the key";
    default:
      return "asking for metadata";
  }
}

}  // namespace

Query::Query(Core& core, Session& session, const layout::Entry& entry, ObjectCall call)
    : Request(core, session, entry), call_(std::move(call)), op_(static_cast<layout::Op>(entry.op)) {}

Query::~Query() {
  if (questionId_ != 0) core_.control.Forget(questionId_);
}

bool Query::AnswerHere(uint32_t key) {
  if (op_ == layout::Op::kDelete || op_ == layout::Op::kDevDelete || op_ == layout::Op::kExplain) return false;
  const auto sealed = core_.store.FindSealed(call_.key(key));
  if (!sealed.has_value()) return false;
  layout::KeyResult& result = reply_.result(key);
  result.generation = sealed->generation;
  result.bytes = sealed->payloadBytes;
  if (op_ == layout::Op::kGetMeta) blobSizes_[key].assign(sealed->blobSizes.begin(), sealed->blobSizes.end());
  return true;
}

void Query::Start() {
  reply_.Reset(call_.count());
  if (op_ == layout::Op::kGetMeta) blobSizes_.resize(call_.count());
  for (uint32_t i = 0; i < call_.count(); ++i) {
    if (!AnswerHere(i)) asked_.push_back(i);
  }
  if (asked_.empty()) {
    End();
    return;
  }
  Question question;
  question.op = QuestionOf(op_);
  question.count = static_cast<uint32_t>(asked_.size());
  if (op_ == layout::Op::kDevDelete) question.args[1] = static_cast<uint64_t>(layout::Family::kDeviceCache);
  question.payload = MakeKeyBatch(call_, asked_);
  batchBytes_ = question.payload.size();
  if (const Status status = core_.control.Ask(std::move(question), this, 0, &questionId_); !status.ok()) {
    FailAsked(status);
    return;
  }
  SetDeadline(core_.options.controlTimeoutMs);
}

void Query::OnControlReply(uint64_t /*tag*/, const Message& reply, bool last) {
  if (!last) core_.control.Forget(questionId_);
  questionId_ = 0;
  if (op_ == layout::Op::kExplain && reply.entry.code == static_cast<uint32_t>(StatusCode::kOk)) {
    Explain({reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size()});
    End();
  } else if (reply.entry.code != static_cast<uint32_t>(StatusCode::kOk)) {
    FailAsked(RefusalOf(reply, NameOf(op_)));
  } else if (!TakeRecords(reply)) {
    FailAsked({StatusCode::kDataInconsistency,
               "the control process answered with records that don't fit: both must be of the same release"});
  } else {
    End();
  }
}

bool Query::TakeRecords(const Message& reply) {
  if (op_ == layout::Op::kGetMeta) {
    const std::span<const std::byte> payload(reply.payload);
    return TakeMeta(payload) || (payload.size() > batchBytes_ && TakeMeta(payload.subspan(batchBytes_)));
  }
  const auto bytes = RecordsOf(reply, batchBytes_, asked_.size() * sizeof(layout::ResultRecord));
  if (bytes.empty()) return false;
  const auto* records = reinterpret_cast<const layout::ResultRecord*>(bytes.data());
  for (size_t n = 0; n < asked_.size(); ++n) TakeRecord(asked_[n], records[n]);
  return true;
}

bool Query::TakeMeta(std::span<const std::byte> payload) {
  const uint64_t recordBytes = asked_.size() * sizeof(layout::ResultRecord);
  const uint64_t countBytes = AlignTo8(asked_.size() * 4);
  if (payload.size() < recordBytes + countBytes) return false;
  const auto* records = reinterpret_cast<const layout::ResultRecord*>(payload.data());
  const auto* counts = reinterpret_cast<const uint32_t*>(payload.data() + recordBytes);
  uint64_t total = 0;
  for (size_t n = 0; n < asked_.size(); ++n) total += counts[n];
  if (payload.size() - recordBytes - countBytes != total * 8) return false;
  const auto* sizes = reinterpret_cast<const uint64_t*>(payload.data() + recordBytes + countBytes);
  for (size_t n = 0; n < asked_.size(); ++n) {
    TakeRecord(asked_[n], records[n]);
    blobSizes_[asked_[n]].assign(sizes, sizes + counts[n]);
    sizes += counts[n];
  }
  return true;
}

void Query::TakeRecord(uint32_t key, const layout::ResultRecord& record) {
  const auto code = static_cast<StatusCode>(record.code);
  if (code != StatusCode::kOk) {
    reply_.Fail(key, code, IsOtherFamily(record) ? FamilyText(call_.key(key), record) : TextOf(code, NameOf(op_)));
    return;
  }
  layout::KeyResult& result = reply_.result(key);
  result.flags = record.flags & layout::kExisted;
  result.generation = record.generation;
  result.bytes = record.bytes;
}

void Query::FailAsked(const Status& status) {
  if (op_ == layout::Op::kExplain) {
    Explain(RefusalJson(status));  // what is known here is an answer, too
  } else {
    for (const uint32_t key : asked_) reply_.Fail(key, status);
  }
  End();
}

void Query::Explain(std::string_view owner) {
  const std::string here = ExplainJson(core_.store, call_.key(0), core_.clock.NowMs());
  reply_.Fail(0, StatusCode::kOk, MergeExplanations(owner, here));
}

void Query::OnControlLost(uint64_t /*tag*/, const Status& why) {
  questionId_ = 0;
  FailAsked(why);
}

void Query::OnDeadline() {
  FailAsked({StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(core_.options.controlTimeoutMs) +
                                                   " ms for the owners (" + NameOf(op_) + "): try again"});
}

void Query::Stop(const Status& why) {
  const bool deleting = op_ == layout::Op::kDelete || op_ == layout::Op::kDevDelete;
  FailAsked({why.code(), why.message() + (deleting ? "; the owners were asked already, the keys may be deleted" : "")});
}

void Query::OnAbandoned() { End(); }

void Query::End() {
  if (questionId_ != 0) core_.control.Forget(std::exchange(questionId_, 0));
  if (!answered() && op_ == layout::Op::kGetMeta) {
    std::vector<uint32_t> counts;
    std::vector<uint64_t> sizes;
    for (const std::vector<uint64_t>& blobs : blobSizes_) {
      counts.push_back(static_cast<uint32_t>(blobs.size()));
      sizes.insert(sizes.end(), blobs.begin(), blobs.end());
    }
    Answer(reply_.Build(counts, sizes));
  } else if (!answered()) {
    Answer(reply_.Build());
  }
  Finish();
}

}  // namespace hbmesh::sidecar
