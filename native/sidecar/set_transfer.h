// SetTransfer: kSetD2H. Gathers blobs into new objects, reserves the keys with their owners at the same time, and makes
// the objects visible when both are done and the owners have confirmed.
//
//   key:  pending -> reserved -> committing -> ended          (any fault ends it; its slot is dropped)
//                                committing -> doubtful -> ended
//
// A slot is dropped only when no copy writes to it. Once the owners were told to commit, the set goes through even if
// the client dies: the object is whole. An owner that was told and did not answer may have made the key visible (and,
// under `replace`, may have had the old bytes dropped): the key is then doubtful. Its caller is told, its bytes stay,
// and the commit is repeated (the owner knows it again) until there is a sure answer.
#pragma once

#include <vector>

#include "sidecar/request.h"

namespace hbmesh::sidecar {

class SetTransfer final : public Request, private CompletionTarget, private ControlWaiter {
 public:
  SetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~SetTransfer();
  void Start() override;
  void Stop(const Status& why) override;

 private:
  enum class State : uint8_t { kPending, kReserved, kCommitting, kDoubtful, kEnded };
  struct Key {
    State state = State::kPending;
    bool allocated = false;
    bool written = false;  // the slot carries the generation; before that nobody else knows the slot
    uint32_t slot = 0;
    const std::byte* payload = nullptr;
    uint64_t generation = 0;  // from the owner, with its answer to the reservation
  };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnCompletion(uint64_t tag, const Status& status) override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;

  // Local decisions and memory. Returns the pieces to copy; asked_ holds the keys to reserve.
  std::vector<CopyPiece> Prepare();
  void Ask(layout::Op op, std::vector<std::byte> payload);
  void OnReserved(const layout::ResultRecord* records);
  void OnCommitted(const layout::ResultRecord* records);
  // Of what was copied, if the caller asked for it. REQUIRES: nothing is marked written yet.
  void Checksum();
  void Commit();
  // Asks the owners to commit the keys in this state.
  void AskToCommit(State state);
  // The owner of a key may or may not have committed it.
  void Doubt(uint32_t key, const Status& status);
  // Ends the keys that no copy and no answer is needed for, and the request with the last of them.
  void FinishWhenDone();
  // Ends a key that will not be there because of this set. Existed keys end so, too.
  void End(uint32_t key);
  void FailKey(uint32_t key, const Status& status);
  // Every key that has not ended; those whose owners were told to commit become doubtful.
  void FailRest(const Status& status);
  // As FailRest, where it is certain that no owner has committed.
  void FailSurely(const Status& status, bool doubtfulToo);
  // Goes to the next step when the one before is complete.
  void Advance();

  ObjectCall call_;
  const layout::Existence existence_;
  ReplyBuilder reply_;
  std::vector<Key> keys_;
  std::vector<uint32_t> asked_;  // the keys of the question to the control process
  uint64_t batchBytes_ = 0;      // of that question's KeyBatch
  uint64_t questionId_ = 0;      // 0: none is open
  bool copying_ = false;
  bool committed_ = false;  // the owners were told
  bool stopped_ = false;    // the sidecar ends: doubtful keys are left to whoever adopts the store
  uint32_t slices_ = 0;
  uint64_t copiedBytes_ = 0;
  uint64_t startNs_ = 0;
};

}  // namespace hbmesh::sidecar
