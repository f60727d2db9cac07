// ControlPort: the sidecar's questions to its control process, with ids and replies. The control process may be gone:
// then a question is refused at once, and those that wait are told.
//
// Thread rule: the loop. A waiter must Forget what it has asked before it dies.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "queue/channel.h"
#include "sidecar/session.h"

namespace hbmesh::sidecar {

class ControlWaiter {
 public:
  // One reply to the question with this tag. `last`: no other follows.
  virtual void OnControlReply(uint64_t tag, const Message& reply, bool last) = 0;
  // The control process is gone; no reply will come.
  virtual void OnControlLost(uint64_t tag, const Status& why) = 0;

 protected:
  ~ControlWaiter() = default;
};

struct Question {
  layout::Op op = layout::Op::kReserve;
  uint32_t count = 0;
  uint64_t args[4] = {0, 0, 0, 0};
  std::vector<std::byte> payload;
};

class ControlPort {
 public:
  explicit ControlPort(std::string workerAddress) : workerAddress_(std::move(workerAddress)) {}

  void Attach(Session* session) {
    session_ = session;
    ownersLost_ = false;
  }
  // Tells every waiter.
  void Detach();
  [[nodiscard]] bool connected() const { return session_ != nullptr; }
  // Owners of some keys can't be asked at the moment (kReach): what would be done for such a key is in vain.
  void SetOwnersLost(bool lost) { ownersLost_ = lost; }
  [[nodiscard]] bool ownersLost() const { return ownersLost_; }

  // kRpcUnavailable: there is no control process now. On kOk *id is for Forget.
  [[nodiscard]] Status Ask(Question question, ControlWaiter* waiter, uint64_t tag, uint64_t* id);
  // A message that has no reply. Lost when there is no control process.
  void Tell(Question question);
  void Forget(uint64_t id) { waiting_.erase(id); }
  // Forgets, and tells the control process that it need not look any further (kLookup only).
  void Cancel(uint64_t id);
  // A message with kFlagReply from the control process. Ids that nobody waits for (any more) are ignored.
  void OnReply(const Message& reply);

 private:
  struct Waiting {
    ControlWaiter* waiter;
    uint64_t tag;
  };

  const std::string workerAddress_;
  Session* session_ = nullptr;
  bool ownersLost_ = false;
  uint64_t lastId_ = 0;
  std::unordered_map<uint64_t, Waiting> waiting_;
};

// The records of a reply of one record a key. Replies may repeat the KeyBatch of the question before the records
// (`batchBytes` of it). Empty: the sizes don't fit.
[[nodiscard]] std::span<const std::byte> RecordsOf(const Message& reply, uint64_t batchBytes, uint64_t recordBytes);

// The whole question failed: its code, with a text that names what was asked.
[[nodiscard]] Status RefusalOf(const Message& reply, const char* asked);

// What a code means for one key, when the control process gave no text of its own.
[[nodiscard]] std::string TextOf(StatusCode code, const char* asked);

}  // namespace hbmesh::sidecar
