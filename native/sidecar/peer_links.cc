#include "sidecar/peer_links.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/log.h"

namespace hbmesh::sidecar {

namespace {

constexpr size_t kBlobsMax = 1 << 20;  // of one device object
constexpr size_t kReadsTogetherMax = 32;
// Closes of objects wait for others of their kind, this many or this long: each message costs both sides a wake-up.
constexpr size_t kClosesTogether = 16;
constexpr uint64_t kCloseDelayNs = kNsPerMs;

}  // namespace

PeerLink::~PeerLink() {
  environment_.timers.Cancel(connectTimer_);
  environment_.timers.Cancel(closeTimer_);
  CancelReachTimers();
  if (connecting_) environment_.tokens.Withdraw(connectToken_);
}

std::string PeerLink::Name() const {
  return "worker " + address_.workerAddress + " (member " + std::to_string(address_.member) + ")";
}

Status PeerLink::Dead(const Status& cause) const {
  return {StatusCode::kRpcPeerDead, Name() + " can't be read from: " + cause.message()};
}

layout::TransportId PeerLink::transport() const { return environment_.transports[transport_].id; }

void PeerLink::Open(uint32_t slot, uint64_t generation, PeerReader* reader, uint64_t tag) {
  const uint64_t opening = ++lastOpen_;
  opening_.emplace(opening, Opening{reader, nullptr, tag, {}});
  opens_.push_back({opening, generation, slot, 0});
  SendOpens();
}

void PeerLink::ForgetOpens(PeerReader* reader) {
  for (auto& [number, opening] : opening_) {
    if (opening.reader == reader) opening.reader = nullptr;
  }
}

void PeerLink::OpenMemory(peer::OpenRecord request, PeerMemoryUser* user, uint64_t tag) {
  request.tag = ++lastOpen_;
  opening_.emplace(request.tag, Opening{nullptr, user, tag, {}});
  opens_.push_back(request);
  SendOpens();
}

void PeerLink::OpenMemory(peer::PushRecord request, PeerMemoryUser* user, uint64_t tag) {
  request.tag = ++lastOpen_;
  opening_.emplace(request.tag, Opening{nullptr, user, tag, {}});
  pushes_.push_back(request);
  SendOpens();
}

void PeerLink::ForgetMemory(PeerMemoryUser* user) {
  for (auto& [number, opening] : opening_) {
    if (opening.user == user) opening.user = nullptr;
  }
  std::vector<uint64_t> holds;
  for (const auto& [hold, known] : holds_) {
    if (known.user == user) holds.push_back(hold);
  }
  for (const uint64_t hold : holds) CloseHold(connection_, hold);
}

void PeerLink::SendOpens() {
  if (unreachable_) {
    RefuseOpens();
    return;
  }
  if (!connected_ && !connecting_) Connect();
  WatchOpens();
}

void PeerLink::FailOpens(const Status& why) {
  opens_.clear();
  pushes_.clear();
  const auto opening = std::exchange(opening_, {});
  for (const auto& [number, waiting] : opening) {
    if (waiting.reader != nullptr) waiting.reader->OnOpenFailed(waiting.tag, why);
    if (waiting.user != nullptr) waiting.user->OnMemoryOpenFailed(waiting.tag, why);
  }
}

void PeerLink::Connect() {
  candidates_.clear();
  for (const std::string& name : TransportNames(environment_.options.transport)) {
    for (uint32_t i = 0; i < environment_.transports.size(); ++i) {
      if (environment_.transports[i].name == name && address_.transports.contains(name)) candidates_.push_back(i);
    }
  }
  TryNext({StatusCode::kRpcUnavailable, "it offers no transport that this worker has"});
}

void PeerLink::TryNext(Status last) {
  connecting_ = false;
  environment_.timers.Cancel(connectTimer_);
  while (!candidates_.empty()) {
    transport_ = candidates_.front();
    candidates_.erase(candidates_.begin());
    OpenTransport& open = environment_.transports[transport_];
    connectToken_ = environment_.tokens.Add(this, 0);
    const Status status = open.transport->Connect(address_.transports.at(open.name), environment_.options.lanes,
                                                  connectToken_, &endpoint_);
    if (status.ok()) {
      connecting_ = true;
      const uint64_t deadline = environment_.clock.NowNs() + environment_.options.connectTimeoutMs * kNsPerMs;
      connectTimer_ = environment_.timers.Add(deadline, [this] {
        connectTimer_ = {};
        environment_.tokens.Withdraw(connectToken_);
        endpoint_.reset();
        TryNext({StatusCode::kRpcDeadlineExceeded,
                 "no connection within " + std::to_string(environment_.options.connectTimeoutMs) + " ms"});
      });
      return;
    }
    environment_.tokens.Withdraw(connectToken_);
    last = status;
  }
  Lose(last);
}

void PeerLink::OnCompletion(uint64_t /*tag*/, const Status& status) {
  if (status.ok()) {
    OnConnected();
    return;
  }
  endpoint_.reset();
  TryNext(status);
}

void PeerLink::OnConnected() {
  environment_.timers.Cancel(connectTimer_);
  connecting_ = false;
  connected_ = true;
  ++connection_;
  Reach();
  const std::string& used = environment_.transports[transport_].name;
  const TransportChoice choice = environment_.options.transport;
  const std::string wanted = TransportNames(choice).front();
  // Under kAuto a peer on another machine is reached by tcp: that is the choice, not a fallback.
  fallback_ = choice != TransportChoice::kAuto && used != wanted;
  if (fallback_) Log().warn("{} is read over {} instead of {}, which can't be used with it", Name(), used, wanted);
}

Status PeerLink::Read(uint64_t connection, const RemoteRange& source, std::vector<LocalPiece> target, uint32_t lane,
                      CompletionTarget* completion, uint64_t tag, uint32_t group) {
  return Queue(connection, {source, std::move(target), lane, completion, tag, group, false});
}

Status PeerLink::Write(uint64_t connection, const RemoteRange& target, std::vector<LocalPiece> source, uint32_t lane,
                       CompletionTarget* completion, uint64_t tag, uint32_t group) {
  return Queue(connection, {target, std::move(source), lane, completion, tag, group, true});
}

Status PeerLink::Queue(uint64_t connection, PendingRead request) {
  if (!connected_ || connection != connection_) {
    return Dead({StatusCode::kRpcPeerDead, "the connection ended before all bytes were moved"});
  }
  request.lane %= std::max(1U, endpoint_->lanes());
  reads_.push_back(std::move(request));
  return Status::Ok();
}

void PeerLink::CancelQueued(CompletionTarget* completion) {
  std::vector<uint64_t> tags;
  std::erase_if(reads_, [&](const PendingRead& read) {
    if (read.completion == completion) tags.push_back(read.tag);
    return read.completion == completion;
  });
  for (const uint64_t tag : tags) completion->OnCompletion(tag, {StatusCode::kRpcCancelled, "nobody needs the bytes"});
}

void PeerLink::ConsumeHold(uint64_t connection, uint64_t hold) {
  if (connected_ && connection == connection_) consumes_.push_back({hold});
}

void PeerLink::CloseHold(uint64_t connection, uint64_t hold) {
  // The holder releases what belongs to an ended connection by itself.
  if (!connected_ || connection != connection_) return;
  const bool awaited = holds_.erase(hold) != 0;  // who lent memory may wait for it; an object only stays a bit longer
  closes_.push_back({hold});
  closesDue_ = closesDue_ || awaited || closes_.size() >= kClosesTogether;
  if (closesDue_ || closeTimer_.id != 0) return;
  closeTimer_ = environment_.timers.Add(environment_.clock.NowNs() + kCloseDelayNs, [this] {
    closeTimer_ = {};
    closesDue_ = true;
  });
}

void PeerLink::Reset(const Status& why) {
  environment_.timers.Cancel(connectTimer_);
  if (std::exchange(connecting_, false)) environment_.tokens.Withdraw(connectToken_);
  connected_ = false;
  endpoint_.reset();  // completes what it has accepted
  consumes_.clear();
  closes_.clear();
  closesDue_ = false;
  environment_.timers.Cancel(closeTimer_);
  const Status dead = Dead(why);
  const auto holds = std::exchange(holds_, {});
  const auto reads = std::exchange(reads_, {});
  FailOpens(dead);
  for (const auto& [number, hold] : holds) hold.user->OnMemoryBroken(hold.tag, dead);
  for (const PendingRead& read : reads) read.completion->OnCompletion(read.tag, dead);
}

bool PeerLink::Owns(EndpointKey endpoint) const {
  return endpoint_ != nullptr && endpoint.transport == transport_ && endpoint.endpoint == endpoint_->id();
}

void PeerLink::OnMessage(std::span<const std::byte> message) {
  if (HandleMessage(message)) return;
  Log().warn("{} sent a malformed message: its connection is closed", Name());
  Reset({StatusCode::kDataInconsistency, "it sent a malformed message; both must be of the same release"});
}

bool PeerLink::HandleMessage(std::span<const std::byte> message) {
  peer::MessageHeader header{};
  if (!peer::ParseHeader(message, &header)) return false;
  const auto type = static_cast<peer::Type>(header.type);
  const uint64_t connection = connection_;
  // What is told of one record may end the connection; then the rest is of no use.
  const auto alive = [&](uint32_t i) { return i < header.count && connected_ && connection == connection_; };
  switch (type) {
    case peer::Type::kOpened:
      for (uint32_t i = 0; alive(i); ++i) TakeOpened(peer::RecordAt<peer::OpenedRecord>(message, i));
      return true;
    case peer::Type::kBlobs:
      for (uint32_t i = 0; alive(i); ++i) {
        if (!TakeBlob(peer::RecordAt<peer::BlobRecord>(message, i))) return false;
      }
      return true;
    case peer::Type::kClosed:
    case peer::Type::kBroken:
      for (uint32_t i = 0; alive(i); ++i) TakeHoldNews(type, peer::RecordAt<peer::HoldRecord>(message, i));
      return true;
    default:
      return false;
  }
}

void PeerLink::TakeOpened(const peer::OpenedRecord& opened) {
  const auto found = opening_.find(opened.tag);
  if (found == opening_.end()) return;
  const Opening waiting = std::move(found->second);
  opening_.erase(found);
  const bool good = opened.code == static_cast<uint32_t>(StatusCode::kOk);
  if (waiting.reader != nullptr) {
    waiting.reader->OnOpened(waiting.tag, opened, connection_);
  } else if (waiting.user != nullptr) {
    if (good) holds_.insert_or_assign(opened.hold, MemoryHold{waiting.user, waiting.tag});
    waiting.user->OnMemoryOpened(waiting.tag, opened, waiting.blobs, connection_);
  } else if (good) {
    CloseHold(connection_, opened.hold);
  }
}

bool PeerLink::TakeBlob(const peer::BlobRecord& blob) {
  const auto found = opening_.find(blob.tag);
  if (found == opening_.end()) return true;
  if (found->second.blobs.size() >= kBlobsMax) return false;
  if (found->second.user != nullptr) found->second.blobs.push_back(blob);
  return true;
}

void PeerLink::TakeHoldNews(peer::Type type, const peer::HoldRecord& news) {
  const auto found = holds_.find(news.hold);
  if (found == holds_.end()) return;  // closed meanwhile
  const MemoryHold hold = found->second;
  if (type == peer::Type::kClosed) {
    holds_.erase(found);
    hold.user->OnMemoryClosed(hold.tag, static_cast<StatusCode>(news.code));
    return;
  }
  hold.user->OnMemoryBroken(hold.tag, {static_cast<StatusCode>(news.code),
                                       "the client on " + Name() + " whose device memory it is has ended"});
}

void PeerLink::OnDisconnect(const Status& reason) {
  if (connecting_) return;  // the completion of Connect tells
  Log().info("the connection to {} ended: {}", Name(), reason.message());
  Reset(reason);
}

bool PeerLink::FlushReads() {
  bool sent = false;
  while (connected_ && !reads_.empty()) {  // a reader that is told of a failure may end the connection
    Status status;
    const size_t accepted = reads_.front().write ? StartWrite(&status) : StartReads(&status);
    reads_.erase(reads_.begin(), reads_.begin() + static_cast<ptrdiff_t>(accepted));
    sent = sent || accepted > 0;
    if (status.ok()) continue;
    if (status.code() == StatusCode::kTryAgain) break;
    const PendingRead failed = std::move(reads_.front());
    reads_.pop_front();
    failed.completion->OnCompletion(failed.tag, status);
    sent = true;
  }
  return sent;
}

size_t PeerLink::StartWrite(Status* status) {
  const PendingRead& write = reads_.front();
  const uint64_t token = environment_.tokens.Add(write.completion, write.tag, write.group);
  *status = endpoint_->Write(write.target, write.source, write.lane, token);
  if (!status->ok()) environment_.tokens.Withdraw(token);
  return status->ok() ? 1 : 0;
}

// All that come before the next write, together.
size_t PeerLink::StartReads(Status* status) {
  starting_.clear();
  for (const PendingRead& read : reads_) {
    if (read.write || starting_.size() == kReadsTogetherMax) break;
    const uint64_t token = environment_.tokens.Add(read.completion, read.tag, read.group);
    starting_.push_back({read.source, read.target, read.lane, token});
  }
  const size_t accepted = endpoint_->ReadEach(starting_, status);
  for (size_t index = accepted; index < starting_.size(); ++index) {
    environment_.tokens.Withdraw(starting_[index].token);
  }
  return accepted;
}

bool PeerLink::FlushMessages() {
  const uint32_t bytesMax = environment_.transports[transport_].transport->capabilities().messageBytesMax;
  bool sent = false;
  const auto send = [&](auto& queue, peer::Type type) {
    using Record = typename std::remove_reference_t<decltype(queue)>::value_type;
    while (!queue.empty()) {
      const size_t count = std::min(queue.size(), peer::RecordsPerMessage<Record>(bytesMax));
      const std::vector<Record> records(queue.begin(), queue.begin() + static_cast<ptrdiff_t>(count));
      const Status status = endpoint_->Send(peer::MakeMessage<Record>(type, records));
      // Another fault than "full" is the connection's end, of which OnDisconnect tells.
      if (!status.ok()) return;
      queue.erase(queue.begin(), queue.begin() + static_cast<ptrdiff_t>(count));
      sent = true;
    }
  };
  send(opens_, peer::Type::kOpen);
  send(pushes_, peer::Type::kPush);
  send(consumes_, peer::Type::kConsumed);
  if (closesDue_) {
    send(closes_, peer::Type::kClose);
    closesDue_ = !closes_.empty();
    environment_.timers.Cancel(closeTimer_);
  }
  return sent;
}

bool PeerLink::Flush() {
  if (!connected_) return false;
  const bool read = FlushReads();
  return (connected_ && FlushMessages()) || read;
}

namespace {

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end != 0) parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

bool ParseMember(std::string_view text, uint32_t* member) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *member);
  return error == std::errc() && end == text.data() + text.size() && *member != 0;
}

bool ParsePeer(const std::vector<std::string_view>& words, PeerAddress* peer) {
  if (words.size() < 2 || !ParseMember(words[0], &peer->member)) return false;
  peer->workerAddress = words[1];
  for (size_t i = 2; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals == std::string_view::npos || equals == 0) return false;
    peer->transports.emplace(words[i].substr(0, equals), words[i].substr(equals + 1));
  }
  return true;
}

}  // namespace

Status PeerLinks::Update(std::string_view text) {
  uint32_t self = self_;
  std::map<uint32_t, PeerAddress> peers;
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> words = Split(line, ' ');
    PeerAddress peer;
    const bool good = !words.empty() && words[0] == "self" ? words.size() == 2 && ParseMember(words[1], &self)
                                                           : ParsePeer(words, &peer);
    if (!good) return {StatusCode::kInvalid, "the list of peers has the line \"" + std::string(line) + "\""};
    if (peer.member != 0) peers[peer.member] = std::move(peer);
  }
  self_ = self;
  peers.erase(self);
  for (auto link = links_.begin(); link != links_.end();) {
    const auto known = peers.find(link->first);
    if (known != peers.end() && known->second == link->second->address()) {
      peers.erase(known);
      ++link;
      continue;
    }
    const std::unique_ptr<PeerLink> left = std::move(link->second);
    link = links_.erase(link);
    left->Reset({StatusCode::kRpcPeerDead, "it left the cluster or was restarted"});
  }
  for (auto& [member, peer] : peers) links_.emplace(member, std::make_unique<PeerLink>(environment_, std::move(peer)));
  return Status::Ok();
}

PeerLink* PeerLinks::Find(uint32_t member) {
  const auto found = links_.find(member);
  return found == links_.end() ? nullptr : found->second.get();
}

void PeerLinks::ForgetOpens(PeerReader* reader) {
  for (auto& [member, link] : links_) link->ForgetOpens(reader);
}

void PeerLinks::CancelQueued(CompletionTarget* completion) {
  for (auto& [member, link] : links_) link->CancelQueued(completion);
}

void PeerLinks::ForgetMemory(PeerMemoryUser* user) {
  for (auto& [member, link] : links_) link->ForgetMemory(user);
}

PeerLink* PeerLinks::Owner(EndpointKey endpoint) {
  for (auto& [member, link] : links_) {
    if (link->Owns(endpoint)) return link.get();
  }
  return nullptr;
}

bool PeerLinks::OnMessage(EndpointKey from, std::span<const std::byte> message) {
  PeerLink* link = Owner(from);
  if (link != nullptr) link->OnMessage(message);
  return link != nullptr;
}

bool PeerLinks::OnDisconnect(EndpointKey which, const Status& reason) {
  PeerLink* link = Owner(which);
  if (link != nullptr) link->OnDisconnect(reason);
  return link != nullptr;
}

bool PeerLinks::Poll() {
  bool sent = false;
  for (auto& [member, link] : links_) sent = link->Flush() || sent;
  return sent;
}

bool PeerLinks::waiting() const {
  return std::any_of(links_.begin(), links_.end(), [](const auto& entry) { return entry.second->waiting(); });
}

void PeerLinks::Clear(const Status& why) {
  for (auto& [member, link] : std::exchange(links_, {})) link->Reset(why);
}

}  // namespace hbmesh::sidecar
