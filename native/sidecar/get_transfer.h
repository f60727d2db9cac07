// GetTransfer: kGetH2D. What is sealed here is scattered at once. The rest is looked up, and each key that is found is
// read from a worker that has it, or scattered from here if it came to be here meanwhile; each key on its own.
//
//   local key:   copying -> ended
//   other key:   looking -> opening -> reading -> [scattering ->] ended       next location: back to opening
//
// The object is held, here or at its source, while its bytes move. `scattering`: devices that the CPU can't address get
// their bytes through a staging object in the arena.
//
// get_transfer.cc: local part, lookup, endings. get_remote.cc: opening and reading.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sidecar/peer_links.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class GetTransfer final : public Request, private CompletionTarget, private ControlWaiter, private PeerReader {
 public:
  GetTransfer(Core& core, Session& session, const layout::Entry& entry, ObjectCall call);
  ~GetTransfer();
  void Start() override;
  void Stop(const Status& why) override;

 private:
  enum class State : uint8_t { kLooking, kOpening, kReading, kScattering, kEnded };

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
    uint32_t payloadCrc32c = 0;  // 0: not known
    uint32_t outstanding = 0;    // reads
    Status fault;                // why the last location failed
    std::optional<uint32_t> stagingSlot;
    std::byte* staging = nullptr;
  };

  // Keys that are scattered from here by one copy.
  struct LocalBatch {
    std::vector<uint32_t> keys;
    std::vector<uint32_t> slots;  // held
    std::vector<uint64_t> generations;
    std::vector<CopyPiece> pieces;
    uint64_t bytes = 0;
    uint64_t startNs = 0;
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

  // ----- local -----
  // Adds a key to the batch, or ends it because its shape differs.
  void AddLocal(uint32_t key, const ObjectView& object, LocalBatch* batch);
  [[nodiscard]] static Status Damaged(const std::string& where);
  void StartLocal(LocalBatch batch);
  void EndLocal(LocalBatch& batch, const Status& status);

  // ----- lookup -----
  void Lookup();
  [[nodiscard]] Status TakeLookup(const Message& reply);
  void TakeFound(const layout::FoundRecord& found, std::string_view messages);
  [[nodiscard]] std::string MissingText() const;

  // ----- remote -----
  // Goes to the first location that was not tried yet; ends the key when there is none.
  void TryNext(uint32_t remote, LocalBatch* local);
  [[nodiscard]] std::optional<uint32_t> NextLocation(const Remote& remote) const;
  // True: it is here and was added, or has ended.
  bool TryHere(Remote& remote, const layout::Location& location, LocalBatch* local);
  [[nodiscard]] Status CheckOpened(const Remote& remote, const peer::OpenedRecord& opened) const;
  [[nodiscard]] bool SlicesCover(const Remote& remote) const;
  void StartReads(uint32_t remote, const peer::OpenedRecord& opened);
  [[nodiscard]] std::vector<LocalPiece> PiecesOf(const Remote& remote, const layout::SliceRecord& slice) const;
  [[nodiscard]] Status Stage(Remote& remote);
  void EndReads(uint32_t remote);
  // False: the checksum is known, and differs.
  [[nodiscard]] bool IsWhole(const Remote& remote) const;
  void Scatter(uint32_t remote);
  void Unstage(Remote& remote);
  void ReportMissing(const Remote& remote);
  void AddSource(const PeerLink& link, uint32_t member, const Remote& remote);

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
  uint32_t moving_ = 0;  // copies and keys with reads under way
  std::vector<LocalBatch> locals_;
  std::vector<Remote> remotes_;
  std::vector<Source> sources_;
  uint64_t questionId_ = 0;
  std::optional<Status> stopped_;  // no further location is tried
};

}  // namespace hbmesh::sidecar
