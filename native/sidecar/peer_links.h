// PeerLinks: the reader's side. One link to each other worker's sidecar: connected at first use, over the wanted
// transport or the next one that works; opens objects in batches; reads; closes.
//
// A link that breaks tells everyone who waits, and connects anew at the next use. A peer that can't be connected to, or
// whose host no longer acknowledges what is sent, is unreachable: whoever wants to open something there is told so at
// once, until the link has connected again, which it tries all the time (peer_reach.cc). A host that acknowledges
// counts as reachable, however slow its sidecar is. Holds and reads belong to one connection: its number goes with
// them, so that no read is made under a hold that ended with an earlier connection.
//
// Thread rule: the loop. A reader must ForgetOpens before it dies.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "sidecar/peer_protocol.h"
#include "sidecar/timers.h"
#include "sidecar/transports.h"

namespace hbmesh::sidecar {

class PeerReader {
 public:
  // The holder's answer, whatever its code. `connection` goes with reads and the hold.
  virtual void OnOpened(uint64_t tag, const peer::OpenedRecord& opened, uint64_t connection) = 0;
  virtual void OnOpenFailed(uint64_t tag, const Status& why) = 0;

 protected:
  ~PeerReader() = default;
};

// Of device objects and layers: their blobs come with the answer, and the hold may end from the other side.
class PeerMemoryUser {
 public:
  // The holder's answer, whatever its code. The link knows the hold from now on, until it was closed.
  virtual void OnMemoryOpened(uint64_t tag, const peer::OpenedRecord& opened, std::span<const peer::BlobRecord> blobs,
                              uint64_t connection) = 0;
  virtual void OnMemoryOpenFailed(uint64_t tag, const Status& why) = 0;
  // The client whose memory it is has gone, or the connection has. Nothing more may be read or written; the hold is to
  // be closed when what is under way ended.
  virtual void OnMemoryBroken(uint64_t tag, const Status& why) = 0;
  // The answer to ConsumeHold. The hold has ended.
  virtual void OnMemoryClosed(uint64_t tag, StatusCode code) = 0;

 protected:
  ~PeerMemoryUser() = default;
};

// A member as kPeers tells of it.
struct PeerAddress {
  uint32_t member = 0;
  std::string workerAddress;
  std::map<std::string, std::string> transports;  // name to address
  bool operator==(const PeerAddress&) const = default;
};

class PeerLink final : private CompletionTarget {
 public:
  struct Environment {
    const SidecarOptions& options;
    Clock& clock;
    Timers& timers;
    TokenTable& tokens;
    std::vector<OpenTransport>& transports;
  };

  PeerLink(const Environment& environment, PeerAddress address)
      : environment_(environment), address_(std::move(address)) {}
  ~PeerLink();

  [[nodiscard]] const PeerAddress& address() const { return address_; }
  // "worker 10.0.0.2:31501 (member 7)"
  [[nodiscard]] std::string Name() const;

  void Open(uint32_t slot, uint64_t generation, PeerReader* reader, uint64_t tag);
  void ForgetOpens(PeerReader* reader);
  // Opens a device object, or a layer for writing. The tag of the record is set here.
  void OpenMemory(peer::OpenRecord request, PeerMemoryUser* user, uint64_t tag);
  void OpenMemory(peer::PushRecord request, PeerMemoryUser* user, uint64_t tag);
  // It wants no further news, of whatever it opened; holds that it has are given up. Not while it reads or writes.
  void ForgetMemory(PeerMemoryUser* user);
  // The bytes are there: ends the hold for good. OnMemoryClosed follows, or OnMemoryBroken when the connection ends.
  void ConsumeHold(uint64_t connection, uint64_t hold);
  // Completes through `target` exactly once if kOk was returned. `group`: of CompletionGroups.
  [[nodiscard]] Status Read(uint64_t connection, const RemoteRange& source, std::vector<LocalPiece> target,
                            uint32_t lane, CompletionTarget* completion, uint64_t tag, uint32_t group = 0);
  // The same in the other direction. Completion means that the bytes are visible to the peer.
  [[nodiscard]] Status Write(uint64_t connection, const RemoteRange& target, std::vector<LocalPiece> source,
                             uint32_t lane, CompletionTarget* completion, uint64_t tag, uint32_t group = 0);
  // What the transport has not accepted yet of this target's reads and writes is given up; each completes now, with
  // kRpcCancelled. What it has accepted goes on.
  void CancelQueued(CompletionTarget* completion);
  // The peer hears of it at once if it lent memory, within a millisecond or two if it was an object.
  void CloseHold(uint64_t connection, uint64_t hold);

  // Of the connection that is there: what carries the bytes, in how many lanes, and is it not what was asked for.
  [[nodiscard]] layout::TransportId transport() const;
  [[nodiscard]] const Transport& carrier() const { return *environment_.transports[transport_].transport; }
  [[nodiscard]] uint32_t lanes() const { return endpoint_ == nullptr ? 1 : endpoint_->lanes(); }
  [[nodiscard]] bool fallback() const { return fallback_; }

  // Ends the connection; everything that waits or reads is told `why`.
  void Reset(const Status& why);
  [[nodiscard]] bool Owns(EndpointKey endpoint) const;
  void OnMessage(std::span<const std::byte> message);
  void OnDisconnect(const Status& reason);
  // Sends what is collected. True if anything left.
  bool Flush();
  [[nodiscard]] bool waiting() const {
    return connected_ && !(opens_.empty() && pushes_.empty() && consumes_.empty() && !closesDue_ && reads_.empty());
  }

 private:
  struct Opening {
    PeerReader* reader;    // null: it doesn't want the answer any more, or `user` is the one
    PeerMemoryUser* user;  // the same
    uint64_t tag;
    std::vector<peer::BlobRecord> blobs;
  };
  struct MemoryHold {
    PeerMemoryUser* user;
    uint64_t tag;
  };
  struct PendingRead {
    RemoteRange source;
    std::vector<LocalPiece> target;
    uint32_t lane;
    CompletionTarget* completion;
    uint64_t tag;
    uint32_t group;
    bool write;
  };

  void OnCompletion(uint64_t tag, const Status& status) override;  // of Connect
  // After something was added to opening_.
  void SendOpens();
  void FailOpens(const Status& why);
  // In peer_reach.cc.
  void WatchOpens();
  void Lose(const Status& why);
  void Probe();
  void Reach();
  void RefuseOpens();
  void CancelReachTimers();
  void Connect();
  void TryNext(Status last);
  void OnConnected();
  bool FlushReads();
  // Of reads_, from its front: how many were accepted, and why the next one wasn't.
  [[nodiscard]] size_t StartWrite(Status* status);
  [[nodiscard]] size_t StartReads(Status* status);
  bool FlushMessages();
  // False: the message breaks the protocol.
  [[nodiscard]] bool HandleMessage(std::span<const std::byte> message);
  void TakeOpened(const peer::OpenedRecord& opened);
  [[nodiscard]] bool TakeBlob(const peer::BlobRecord& blob);
  void TakeHoldNews(peer::Type type, const peer::HoldRecord& news);
  [[nodiscard]] Status Queue(uint64_t connection, PendingRead request);
  [[nodiscard]] Status Dead(const Status& cause) const;

  const Environment environment_;
  const PeerAddress address_;
  std::unique_ptr<Endpoint> endpoint_;
  uint32_t transport_ = 0;            // index in environment_.transports
  std::vector<uint32_t> candidates_;  // transports still to be tried
  bool connecting_ = false;
  bool connected_ = false;
  bool fallback_ = false;
  uint64_t connection_ = 0;  // number of the connection that is there, or was last
  uint64_t connectToken_ = 0;
  TimerId connectTimer_;
  bool unreachable_ = false;
  Status whyUnreachable_;
  uint32_t unheard_ = 0;  // looks in a row at which the peer's host had not acknowledged
  TimerId watchTimer_;    // runs while something is being opened
  TimerId probeTimer_;
  TimerId refuseTimer_;
  uint64_t lastOpen_ = 0;
  std::unordered_map<uint64_t, Opening> opening_;  // not answered yet, by the tag of OpenRecord
  std::deque<peer::OpenRecord> opens_;             // not sent yet
  std::deque<peer::PushRecord> pushes_;            // not sent yet
  std::deque<peer::CloseRecord> consumes_;         // not sent yet
  std::deque<peer::CloseRecord> closes_;           // not sent yet
  bool closesDue_ = false;                         // they wait for no others any more
  TimerId closeTimer_;
  std::unordered_map<uint64_t, MemoryHold> holds_;  // of device memory, on the connection that is there
  std::deque<PendingRead> reads_;                   // not accepted yet
  std::vector<ReadRequest> starting_;               // StartReads': kept for its memory
};

class PeerLinks {
 public:
  explicit PeerLinks(const PeerLink::Environment& environment) : environment_(environment) {}

  // Takes the text of kPeers: `self <id>`, then `<id> <workerAddress> tcp=<addr> shm=<name>` a line. Links to members
  // that left, or have other addresses now, are closed. kInvalid: names the line; nothing was changed.
  [[nodiscard]] Status Update(std::string_view text);
  [[nodiscard]] uint32_t self() const { return self_; }
  [[nodiscard]] PeerLink* Find(uint32_t member);
  void ForgetOpens(PeerReader* reader);
  void ForgetMemory(PeerMemoryUser* user);
  void CancelQueued(CompletionTarget* completion);

  // False: the endpoint is none of ours.
  bool OnMessage(EndpointKey from, std::span<const std::byte> message);
  bool OnDisconnect(EndpointKey which, const Status& reason);
  bool Poll();
  [[nodiscard]] bool waiting() const;
  // Ends all connections.
  void Clear(const Status& why);

 private:
  [[nodiscard]] PeerLink* Owner(EndpointKey endpoint);

  const PeerLink::Environment environment_;
  uint32_t self_ = 0;
  std::map<uint32_t, std::unique_ptr<PeerLink>> links_;
};

}  // namespace hbmesh::sidecar
