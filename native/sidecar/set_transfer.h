// SetTransfer: kSetD2H. Gathers blobs into new objects, reserves the keys with their owners at the same time, and makes
// the objects visible when both are done and the owners have confirmed.
//
//   key:  pending -> reserved -> committing -> ended          (any fault ends it; its slot is dropped)
//                                committing -> doubtful -> ended
//
// At once: a set of no more than SidecarOptions::atOnceBytesMax, unless it replaces, asks its owners for both in one
// question, while the bytes are copied; it takes as long as the longer of the two. Who learns of the object before its
// bytes are whole waits (PendingSlots). A copy that fails then takes the location back from the owner.
//
//   key:  committing -> confirmed -> ended                    (confirmed: the owner knows it, the bytes may not be
//   there)
//         committing -> doubtful -> confirmed -> ended
//         committing -> awaiting -> ended, or again -> committing      (awaiting: another set of this worker was first,
//         and its bytes are on the way; whether that one counts is known when they are there)
//
// While owners of some keys can't be asked (ControlPort::ownersLost), keys are reserved before they get room: a set
// that must fail pushes nothing out. Then it goes on as one that asks twice.
//
// Where there is an SSD tier, keys wait for room rather than push out what the tier can take; all of a call begins to
// move when all of it has room.
//
// A slot is dropped only when no copy writes to it. Once the owners were told to commit, the set goes through even if
// the client dies: the object is whole. An owner that was told and did not answer may have made the key visible (and,
// under `replace`, may have had the old bytes dropped): the key is then doubtful. Its caller is told, its bytes stay,
// and the commit is repeated (the owner knows it again by its generation) until there is a sure answer. A key that was
// reserved and committed in one question has no generation to be known by: its owner is asked what became of it, and
// where it doesn't know this slot the bytes go. An owner leaves it to the seal to replace what this worker had; where
// another version ended ours before, what it was to replace is dropped (here, and where the owner has ours dropped:
// ControlService).
//
// set_transfer.cc: room, copy, endings. set_commit.cc: what is asked of the owners.
#pragma once

#include <vector>

#include "sidecar/checksums.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class SetTransfer final : public Request, private CompletionTarget, private ControlWaiter, private SlotWaiter {
 public:
  SetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~SetTransfer();
  void Start() override;
  void Stop(const Status& why) override;
  [[nodiscard]] bool isSet() const override { return true; }

 private:
  enum class State : uint8_t { kPending, kReserved, kCommitting, kAwaiting, kAgain, kConfirmed, kDoubtful, kEnded };
  // What this worker has of an object that its owner says is there.
  enum class Here : uint8_t { kNot, kSealed, kComing, kGone };
  struct Key {
    State state = State::kPending;
    bool allocated = false;
    bool written = false;  // the slot carries the generation; before that nobody else knows the slot
    uint32_t slot = 0;
    std::byte* payload = nullptr;
    uint64_t generation = 0;  // from the owner, with its answer to the reservation
    uint32_t other = 0;       // slot of the object that was there first
  };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnCompletion(uint64_t tag, const Status& status) override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  void OnSlotSettled(uint64_t tag) override;

  // Asks for all keys that are not here, before any of them gets room.
  void ReserveFirst();
  // Local decisions and memory for the keys from prepared_ on, then goes on with all of them. It comes again when it
  // has to wait for room.
  void Prepare();
  // False: the key waits for room.
  [[nodiscard]] bool PrepareKey(uint32_t key);
  void AwaitRoom(uint32_t key);
  // Asks for the keys in asked_ and copies pieces_.
  void Begin();
  void Ask(layout::Op op, std::vector<std::byte> payload);
  void OnReserved(const layout::ResultRecord* records);
  void OnCommitted(const layout::ResultRecord* records);
  // Of what was copied, if the caller asked for it. True: it was begun. REQUIRES: nothing is marked written yet.
  [[nodiscard]] bool BeginChecksum();
  void OnChecksum();
  void EndCopy(const Status& status);
  void Commit();
  // Asks the owners to commit the keys in this state.
  void AskToCommit(State state);
  // The owner says that it knew the key before. It is believed where this worker doesn't know better: that object may
  // have ended here just now, or be under way here.
  void EndExisted(uint32_t key, const layout::ResultRecord& record);
  [[nodiscard]] Here LookHere(uint32_t key, const layout::ResultRecord& record);
  [[nodiscard]] bool IsHere(uint32_t slot, uint64_t generation);
  // Keys in the state kAgain.
  void CommitAgain();
  // Of doubtful keys.
  void AskWhatBecame();
  void OnLocated(const layout::ResultRecord* records);
  // The owner of a key may or may not have committed it.
  void Doubt(uint32_t key, const Status& status);
  // Begins to reserve and commit in one question.
  void CommitAtOnce();
  // The copy of a cancelled set has ended: what its owners have confirmed is set, nobody is asked or awaited any more.
  void EndCancelled(const Status& copied);
  // What the owner confirmed becomes visible, or is taken back. REQUIRES: the copy has ended.
  void SealConfirmed(uint32_t key);
  void TakeBack(uint32_t key);
  void SetOk(uint32_t key, uint32_t flags);
  // Ends the keys that no copy and no answer is needed for, and the request with the last of them.
  void FinishWhenDone();
  // Ends a key that will not be there because of this set. Existed keys end so, too.
  void End(uint32_t key);
  void FailKey(uint32_t key, const Status& status);
  // Every key that has not ended; those whose owners were told to commit become doubtful.
  void FailRest(const Status& status);
  // As FailRest, where it is certain that no owner has committed.
  void FailSurely(const Status& status);
  // Goes to the next step when the one before is complete.
  void Advance();

  ObjectCall call_;
  const layout::Existence existence_;
  ReplyBuilder reply_;
  std::vector<Key> keys_;
  std::vector<uint32_t> asked_;  // the keys of the question to the control process
  uint64_t batchBytes_ = 0;      // of that question's KeyBatch
  uint64_t questionId_ = 0;      // 0: none is open
  uint32_t prepared_ = 0;        // keys that have their memory, or ended without
  uint64_t room_ = 0;            // ticket of the SSD tier while a key waits; else 0
  bool roomMade_ = false;        // for the next key: it waits no more
  std::vector<CopyPiece> pieces_;
  bool copying_ = false;  // or the checksums of what was copied are being made
  std::vector<ChecksumItem> checks_;
  std::vector<uint32_t> checkedKeys_;  // whose these are
  bool committed_ = false;             // the owners were told
  bool atOnce_ = false;
  bool reservedFirst_ = false;  // or about to be
  Status fault_;                // of a copy at once
  Status cancelled_;            // while bytes are copied
  bool stopped_ = false;        // the sidecar ends: doubtful keys are left to whoever adopts the store
  uint32_t slices_ = 0;
  uint64_t copiedBytes_ = 0;
  uint64_t startNs_ = 0;
};

}  // namespace hbmesh::sidecar
