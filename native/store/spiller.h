// Spiller: joins the object store and its SSD tier. Objects that make room are written to the tier and stay findable as
// kSpilled; a get brings them back. Nothing blocks: the tier's threads move the bytes, and Poll, on the loop, carries
// on.
//
// An object that can't be spilled is dropped, as if there were no tier: replicas always, others when they are larger
// than the tier or a write failed. A full tier drops what was not used there for longest; where
// that alone makes no place for a large one, the neighbours in the file that are the least loss, and nothing when these
// can't go: then the large one is dropped. An object whose bytes can't
// be read back whole is dropped, and whoever waits for it gets the reason; never other bytes.
//
// Thread rule: the loop. Callbacks come from Poll only, and may call back into Spiller and store. The store must
// outlive the Spiller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "store/object_store.h"
#include "store/spill_tier.h"

namespace hbmesh {

struct SpillUsage {
  uint64_t fileBytes = 0;  // that records may take
  uint64_t usedBytes = 0;
  uint64_t memoryBytes = 0;  // private, for knowing what is where in the file
  uint64_t writing = 0;      // objects on their way out
  uint64_t reading = 0;      // and back
  uint64_t writeFaults = 0;
  uint64_t readFaults = 0;
  uint64_t damaged = 0;  // of the read faults: the checksum or the footer was not right
  const char* io = "";   // "io_uring" or "plain"
  bool direct = false;   // O_DIRECT
};

class Spiller final : private SpillSink, private SpillSpace {
 public:
  // Told when the object is in memory: kOk and its view, which may be held within the call. kTryAgain: it was dropped
  // or replaced meanwhile. kOutOfMemory: there is no room for it. kDataInconsistency and others: it was lost.
  using BroughtBack = std::function<void(const Status&, const ObjectView*)>;

  // Opens the tier and takes over the spilled objects of an adopted store; those that can't be there end as kLost, with
  // `ended` told. `ended` is told of every object that ends here, as long as the Spiller lives. `wake`, from any
  // thread: let the loop call Poll.
  [[nodiscard]] static Status Open(const SpillOptions& options, ObjectStore& store, EndedSink ended,
                                   std::function<void()> wake, std::unique_ptr<Spiller>* spiller);
  // Waits for the jobs under way, one a thread, and removes the file unless Keep was called: what was spilled can't
  // come back then, and the next Open of the same store drops it. Callbacks that are still open are dropped uncalled.
  ~Spiller();
  Spiller(const Spiller&) = delete;
  Spiller& operator=(const Spiller&) = delete;

  // For a store with spilled objects and no tier any more: ends them all as kLost. Tells how many.
  static uint64_t DropSpilled(ObjectStore& store, const EndedSink& ended);

  // Takes completions, goes on with what waits, calls back. After each wake, and at any other time.
  void Poll();
  // If more than the high watermark is used: begins to spill down to the low one. Cheap; after each seal, say.
  void Balance();
  // Spills until `arenaBytes` are free, `extentBytes` of them in one piece, then calls `done`; at once if nothing more
  // can be done. No promise: allocate with eviction then. The ticket is for Forget.
  uint64_t MakeRoom(uint64_t arenaBytes, uint64_t extentBytes, std::function<void()> done);
  // Gets a spilled object into memory, one read for all who ask; an object in memory is told too.
  uint64_t BringBack(uint32_t slot, uint64_t generation, BroughtBack done);
  // The callback of this ticket will not be called any more. A job under way ends all the same.
  void Forget(uint64_t ticket);

  // Whether the file stays when this object goes, for who adopts the store.
  void Keep(bool keep) { tier_->file().Keep(keep); }
  [[nodiscard]] SpillUsage usage() const;
  // Nothing under way and no callback open.
  [[nodiscard]] bool idle() const { return jobs_.empty() && rooms_.empty() && returns_.empty() && done_.empty(); }

 private:
  struct Job {
    SpillOp op;
    uint32_t slot;
    uint64_t generation;
    uint64_t offset;
    uint64_t extentBytes;
    std::vector<uint64_t> tickets;  // of a return
  };
  struct Room {
    uint64_t ticket;
    uint64_t arenaBytes;
    uint64_t extentBytes;
    uint64_t moreBytes;  // beyond arenaBytes, because what is free is in too small pieces
    std::function<void()> done;
  };
  struct Return {
    uint32_t slot;
    uint64_t generation;
    BroughtBack done;
  };

  Spiller(ObjectStore& store, EndedSink ended, std::function<void()> wake)
      : store_(store), ended_(std::move(ended)), wake_(std::move(wake)) {}

  void OnSpillIo(uint64_t token, Status status) override;
  void FreeSpilled(uint64_t spillOffset, uint64_t payloadBytes) override;

  void TakeOver();
  void Take(uint64_t token, const Status& status);
  void Written(const Job& job, const Status& status);
  void WasRead(const Job& job, const Status& status);
  void Pump();
  [[nodiscard]] bool WantsRoom() const;
  [[nodiscard]] bool IsThere(const Room& room) const;
  [[nodiscard]] bool SpillOne();
  void KeepIndexSmall();
  [[nodiscard]] std::optional<uint64_t> ReservePlace(const ObjectView& object);
  [[nodiscard]] std::vector<uint32_t> InTheWay(uint64_t payloadBytes) const;
  void ServeRooms();
  void StartReturn(uint64_t ticket);
  void BeginRead(uint64_t ticket, uint32_t slot, uint64_t generation, bool hadRoom);
  void Finish(uint64_t ticket, const Status& status);
  void FinishAll();

  ObjectStore& store_;
  const EndedSink ended_;
  const std::function<void()> wake_;
  uint64_t lastId_ = 0;                             // tokens and tickets
  std::unordered_map<uint64_t, Job> jobs_;          // by token
  std::unordered_map<uint32_t, uint64_t> reading_;  // slot to token
  std::unordered_map<uint64_t, Return> returns_;    // by ticket
  std::vector<Room> rooms_;                         // in order of asking
  std::vector<std::pair<uint64_t, Status>> done_;   // tickets to be told at the next Poll
  uint64_t writing_ = 0;
  uint64_t writingBytes_ = 0;  // of arena that the writes under way will free
  bool awaitsWrite_ = false;   // there is no place for the next victim until a write has ended
  bool balancing_ = false;     // from the high watermark down to the low one
  SpillUsage counts_;
  std::mutex mutex_;
  std::vector<std::pair<uint64_t, Status>> completed_;  // guarded by mutex_
  std::unique_ptr<SpillTier> tier_;                     // destroyed first: its threads call OnSpillIo
};

}  // namespace hbmesh
