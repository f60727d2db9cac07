// Query: kExist, kGetMeta, kDelete, kDevDelete and kExplain. What is sealed here is answered here (not for delete); the
// owners are asked for the rest.
#pragma once

#include <string_view>
#include <vector>

#include "sidecar/request.h"

namespace hbmesh::sidecar {

class Query final : public Request, private ControlWaiter {
 public:
  Query(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~Query();
  void Start() override;
  void Stop(const Status& why) override;

 private:
  void OnAbandoned() override;
  void OnDeadline() override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;

  [[nodiscard]] bool AnswerHere(uint32_t key);
  [[nodiscard]] bool TakeRecords(const Message& reply);
  // kMeta: the records, then blob counts and sizes. False: sizes don't fit.
  [[nodiscard]] bool TakeMeta(std::span<const std::byte> payload);
  void TakeRecord(uint32_t key, const layout::ResultRecord& record);
  // kExplain: the answer, whose text has what the owner said.
  void Explain(std::string_view owner);
  void FailAsked(const Status& status);
  void End();

  ObjectCall call_;
  const layout::Op op_;
  ReplyBuilder reply_;
  std::vector<uint32_t> asked_;
  uint64_t batchBytes_ = 0;
  uint64_t questionId_ = 0;
  std::vector<std::vector<uint64_t>> blobSizes_;  // kGetMeta, of each key
};

}  // namespace hbmesh::sidecar
