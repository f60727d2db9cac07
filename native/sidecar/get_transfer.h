// GetTransfer: kGetH2D. What is sealed here is scattered at once. The rest is looked up, and each key that is found is
// read from a worker that has it, or scattered from here if it came to be here meanwhile; each key on its own.
//
//   local key:   [coming back from the SSD tier ->] copying -> ended
//   other key:   looking -> opening -> reading -> settling -> ended       next location: back to opening
//                              \-> asking -> opening                      no location left: its owner is asked again
//
// Where no location has the object any more, or it was lost here, its owner is asked once more: it may have moved to
// another worker meanwhile. What is told then and was tried before is not tried again.
//
// The object is held, here or at its source, while its bytes move. Bytes of another worker go straight to the device,
// or through an object of the arena: for devices that the transport can't reach, and where a copy is to stay here
// (sidecar/replicas.h). Then each slice is scattered as soon as it is there, so that only the last one's copy comes
// after the reading. `settling`: those copies, and the checksum.
//
// get_transfer.cc: local part, lookup, endings. get_again.cc: asking again. get_spilled.cc: the SSD tier.
// get_remote.cc: opening, and what follows the reading. get_read.cc: reading.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sidecar/checksums.h"
#include "sidecar/peer_links.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class GetTransfer final : public Request,
                          private CompletionTarget,
                          private ControlWaiter,
                          private PeerReader,
                          private SlotWaiter {
 public:
  GetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~GetTransfer();
  void Start() override;
  void Stop(const Status& why) override;

 private:
  enum class State : uint8_t { kLooking, kOpening, kReading, kSettling, kAsking, kEnded };

  // A key that was not sealed here at first.
  struct Remote {
    uint32_t key = 0;
    State state = State::kLooking;
    layout::ResultRecord found{};
    std::vector<layout::SliceRecord> slices;
    uint32_t tried = 0;     // bit i: location i
    uint32_t location = 0;  // that is being tried
    uint64_t connection = 0;
    uint64_t hold = 0;
    std::optional<uint32_t> payloadCrc32c;
    uint32_t reads = 0;   // under way
    uint32_t copies = 0;  // of slices, and the checksum, under way
    Status fault;         // why the last location failed
    Status copyFault;
    std::byte* host = nullptr;            // where the bytes go first; null: straight to the device
    std::optional<uint32_t> stagingSlot;  // of the object that they go to
    std::optional<uint64_t> replica;      // or it is a copy that is to stay
    uint64_t openedMs = 0;
    bool spilled = false;  // it was, at its source
    uint32_t askedAgain = 0;
    uint64_t question = 0;       // that asks again
    std::optional<Status> lost;  // it was here, and what came back from the SSD tier was not it
    ChecksumItem check;
  };

  // Keys that are scattered from here by one copy.
  struct LocalBatch {
    std::vector<uint32_t> keys;
    std::vector<uint32_t> slots;  // held
    std::vector<uint64_t> generations;
    std::vector<CopyPiece> pieces;
    std::vector<ChecksumItem> checks;
    std::vector<uint32_t> checkedKeys;  // whose checks these are, as positions in `keys`
    uint64_t bytes = 0;
    uint64_t startNs = 0;      // 0: when the copy begins
    bool spilled = false;      // they were
    uint32_t outstanding = 0;  // the copy, and the checksums
    Status copied;
  };

  // What a completion is of: the lowest two bits of its tag. Then 30 bits of index, and 32 of slice.
  enum Tag : uint64_t { kLocalTag = 0, kReadTag = 1, kScatterTag = 2, kCheckTag = 3 };
  static constexpr uint64_t MakeTag(Tag kind, size_t index, size_t slice = 0) {
    return (static_cast<uint64_t>(slice) << 32) | (static_cast<uint64_t>(index) << 2) | kind;
  }

  // A key whose object comes back from the SSD tier.
  struct Return {
    uint64_t ticket;
    uint64_t startNs;
  };

  // What came from one source.
  struct Source {
    uint64_t startNs = 0;
    layout::PathRecord path{};
  };

  void OnAbandoned() override;
  void OnDeadline() override;
  void OnCompletion(uint64_t tag, const Status& status) override;
  void OnControlReply(uint64_t tag, const Message& reply, bool last) override;
  void OnControlLost(uint64_t tag, const Status& why) override;
  void OnOpened(uint64_t tag, const peer::OpenedRecord& opened, uint64_t connection) override;
  void OnOpenFailed(uint64_t tag, const Status& why) override;
  void OnSlotSettled(uint64_t tag) override;

  // ----- local -----
  // Adds a key to the batch, brings its object back first, or ends it because its shape differs.
  void AddLocal(uint32_t key, const ObjectView& object, LocalBatch* batch);
  [[nodiscard]] static Status Damaged(const std::string& where);
  void StartLocal(LocalBatch batch);
  void OnLocal(LocalBatch& batch, const Status& status);
  void EndLocal(LocalBatch& batch);

  // ----- SSD tier -----
  void BringBack(uint32_t key, const ObjectView& object);
  void OnBroughtBack(uint32_t key, const Status& status, const ObjectView* object);
  void FailReturn(uint32_t key, const Status& status);
  // All that are still on their way.
  void EndReturns(const Status& status);

  // ----- lookup -----
  void Lookup();
  [[nodiscard]] Status TakeLookup(const Message& reply);
  void TakeFound(Remote& remote, const layout::FoundRecord& found, std::string_view messages);
  [[nodiscard]] std::string MissingText() const;

  // ----- asking again -----
  // Asks the owner once more where the object is. False: that is no use.
  [[nodiscard]] bool AskAgain(uint32_t remote);
  void OnAskedAgain(uint32_t remote, const Message& reply, bool last);
  // A key whose object was lost here: others may have it.
  void AskOthers(uint32_t key, const Status& lost);
  // Marks what was tried already, of what the owner tells now.
  void MarkTried(Remote& remote, const layout::ResultRecord& before, uint32_t tried) const;

  // ----- remote -----
  // Goes to the first location that was not tried yet; ends the key when there is none.
  void TryNext(uint32_t remote, LocalBatch* local);
  [[nodiscard]] std::optional<uint32_t> NextLocation(const Remote& remote) const;
  // True: it is here and was added, has ended, or is waited for.
  bool TryHere(uint32_t remote, const layout::Location& location, LocalBatch* local);
  [[nodiscard]] Status CheckOpened(const Remote& remote, const peer::OpenedRecord& opened) const;
  [[nodiscard]] bool SlicesCover(const Remote& remote) const;
  void StartReads(uint32_t remote, const peer::OpenedRecord& opened);
  [[nodiscard]] std::vector<LocalPiece> PiecesOf(const Remote& remote, const layout::SliceRecord& slice) const;
  static void MergeSlices(std::vector<layout::SliceRecord>* slices);
  // Where the bytes go first, if not to the device.
  [[nodiscard]] Status ChooseHost(Remote& remote, const peer::OpenedRecord& opened, bool reachesDevice);
  [[nodiscard]] Status Stage(Remote& remote);
  void OnRead(uint32_t remote, size_t slice, const Status& status);
  void Scatter(uint32_t remote, const layout::SliceRecord& slice);
  void EndReads(uint32_t remote);
  // The bytes that are to be compared with the object's checksum; none: it has none, or they can't be looked at.
  [[nodiscard]] std::vector<LocalPiece> BytesToCheck(const Remote& remote) const;
  void OnCopied(uint32_t remote, const Status& status);
  void Settle(uint32_t remote);
  // What is said of a location that failed.
  void NameFault(Remote& remote);
  void GiveUpHost(Remote& remote);
  void ReportMissing(const Remote& remote);
  void AddSource(const PeerLink& link, uint32_t member, const Remote& remote);
  // The source of this member that the key's bytes count for.
  [[nodiscard]] static bool IsOf(const Source& source, uint32_t member, const Remote& remote);
  [[nodiscard]] static Status OpenFault(const PeerLink& link, StatusCode code);

  // ----- endings -----
  void EndRemote(Remote& remote);
  void FailRemote(Remote& remote, const Status& status);
  void FailWaiting(const Status& status);
  // Begins no further part of a copy or read.
  void StopMoving();
  void SetOk(uint32_t key, uint64_t generation);
  void Advance();

  ObjectCall call_;
  const uint64_t timeoutMs_;
  ReplyBuilder reply_;
  uint32_t open_ = 0;    // keys that have not ended
  uint32_t moving_ = 0;  // batches, and keys of other workers, whose bytes are under way
  std::deque<LocalBatch> locals_;
  std::unordered_map<uint32_t, Return> returns_;  // by key
  std::vector<Remote> remotes_;
  std::vector<Source> sources_;
  uint32_t group_ = 0;  // of the reads that go straight to the device; 0: none yet
  uint64_t questionId_ = 0;
  std::optional<Status> stopped_;  // no further location is tried
};

}  // namespace hbmesh::sidecar
