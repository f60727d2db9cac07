#include "sidecar/sidecar.h"

#include <algorithm>
#include <utility>

#include "base/event_fd.h"
#include "base/log.h"
#include "base/time_slice.h"
#include "store/spiller.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint32_t kMessagesPerTurn = 64;  // of one session, so that none keeps the others waiting
constexpr uint64_t kRetryMs = 2;           // for queues that don't tell when they have room

}  // namespace

Sidecar::Sidecar(SidecarOptions options, Clock& clock)
    : options_(std::move(options)),
      clock_(clock),
      timers_(clock),
      loop_(clock, timers_, options_.spinMicros),
      control_(options_.workerAddress) {}

Sidecar::~Sidecar() {
  // Peers first: no read of theirs or ours may be under way when memory goes.
  if (links_ != nullptr) links_->Clear({StatusCode::kShuttingDown, "the sidecar ends"});
  holds_.reset();
}

Status Sidecar::Create(SidecarOptions options, const DeviceFactory& devices, const TransportFactory& transports,
                       Clock& clock, std::unique_ptr<Sidecar>* sidecar) {
  std::unique_ptr<Sidecar> made(new Sidecar(std::move(options), clock));
  if (Status status = made->Open(devices, transports); !status.ok()) return status;
  *sidecar = std::move(made);
  return Status::Ok();
}

Status Sidecar::OpenStore() {
  if (options_.adoptFd >= 0) return ObjectStore::Adopt(Fd(options_.adoptFd), &store_);
  StoreOptions options;
  options.arenaBytes = options_.arenaBytes;
  options.hugePages = options_.hugePages;
  return ObjectStore::Create(options, &store_);
}

Status Sidecar::OpenTier() {
  if (!options_.spill.directory.empty()) {
    if (Status status = keeper_->OpenTier(options_.spill, loop_.wakeFd()); !status.ok()) return status;
    KeepSpilled(options_.adoptFd >= 0);  // whoever holds that store may let another one adopt it
    return Status::Ok();
  }
  if (const uint64_t lost = Spiller::DropSpilled(*store_, keeper_->sink()); lost != 0) {
    Log().warn("{} objects of the adopted store were on an SSD tier, which this sidecar has none of: they are gone",
               lost);
  }
  return Status::Ok();
}

void Sidecar::KeepSpilled(bool keep) {
  if (keeper_->tier() != nullptr) keeper_->tier()->Keep(keep);
}

Status Sidecar::OpenDevices(const DeviceFactory& factory) {
  if (Status status = factory(options_.devices, deviceEvents_.get(), &devices_); !status.ok()) return status;
  if (devices_.empty()) return {StatusCode::kInvalid, "no devices: give --devices 1 or more"};
  const std::span<std::byte> memory = store_->objectMemory();
  for (const std::unique_ptr<Device>& device : devices_) {
    if (!device->capabilities().registerHostMemory) continue;
    const Status status = device->RegisterHostMemory(memory.data(), memory.size());
    if (!status.ok()) Log().warn("device {} copies without pinned memory: {}", device->index(), status.message());
  }
  return Status::Ok();
}

Status Sidecar::Open(const DeviceFactory& devices, const TransportFactory& transports) {
  if (Status status = loop_.Open(); !status.ok()) return status;
  events_ = std::make_unique<CompletionQueue>(loop_.wakeFd(), &tokens_.groups());
  deviceEvents_ = std::make_unique<DeviceEvents>(*events_);
  if (Status status = OpenStore(); !status.ok()) return status;
  EvictionPolicy eviction = options_.eviction;
  eviction.replicaPercentMax = options_.replicaPercent;
  if (Status status = store_->SetEvictionPolicy(eviction); !status.ok()) return status;
  if (Status status = OpenDevices(devices); !status.ok()) return status;
  copier_ = std::make_unique<Copier>(devices_, tokens_);
  checksums_ = std::make_unique<Checksums>(*events_, tokens_);
  if (Status status = OpenTransports(options_, transports, *events_, *store_, &transports_); !status.ok())
    return status;
  links_ = std::make_unique<PeerLinks>(PeerLink::Environment{options_, clock_, timers_, tokens_, transports_});
  keeper_ = std::make_unique<StoreKeeper>(*store_, control_, *links_, clock_, timers_);
  replicas_ = std::make_unique<Replicas>(options_, *store_, *keeper_, control_, *links_);
  takes_ = std::make_unique<Takes>(options_, clock_, timers_, *store_, *keeper_, *replicas_, *checksums_, *links_);
  if (Status status = OpenTier(); !status.ok()) return status;
  if (options_.tenants.empty()) Log().info("there is no tenants file: all sessions are one tenant");
  objects_ = std::make_unique<DeviceObjects>(control_, *links_);
  holds_ = std::make_unique<PeerHolds>(*store_, *keeper_, *objects_, pending_, layers_, transports_, clock_);
  service_ = std::make_unique<ControlService>(
      *store_, *objects_, pending_, *links_, *takes_,
      ControlService::Hooks{[this] { return clock_.NowMs(); }, [this] { return Stats(); },
                            [this](bool drain, std::function<void()> done) {
                              KeepSpilled(false);  // the worker ends, and its store with it
                              BeginStop(drain, Status::Ok(), std::move(done));
                            },
                            [this](bool lost) { control_.SetOwnersLost(lost); },
                            [this](bool leaving) {
                              SetLeaving(leaving);
                              const std::vector<Request*> requests = requests_.List();
                              return static_cast<uint64_t>(std::ranges::count_if(
                                  requests, [](const Request* request) { return request->isSet(); }));
                            }});
  sessions_ =
      std::make_unique<SessionServer>(options_, loop_, timers_, clock_, devices_, static_cast<SessionListener&>(*this));
  core_ = std::make_unique<Core>(Core{options_,
                                      clock_,
                                      timers_,
                                      *store_,
                                      *keeper_,
                                      devices_,
                                      tokens_,
                                      *copier_,
                                      *checksums_,
                                      *replicas_,
                                      control_,
                                      *links_,
                                      *objects_,
                                      pending_,
                                      layers_,
                                      *sessions_,
                                      requests_,
                                      {}});
  AwaitControl(options_.startGraceMs, "after the start");
  return sessions_->Listen({devices_.front()->backend(), DescribeTransports(transports_), store_->memoryFd()});
}

Status Sidecar::Run() {
  AskForTimeSlice(TimeSlice::kShort);
  loop_.Run(*this);
  return result_;
}

void Sidecar::RequestStop() {
  stopRequested_.store(true, std::memory_order_relaxed);
  SignalEvent(loop_.wakeFd());
}

bool Sidecar::Poll() {
  if (stopRequested_.load(std::memory_order_relaxed) && !stopping_) BeginStop(true, Status::Ok(), nullptr);
  bool worked = PollSessions();
  worked = PollEvents() || worked;
  worked = copier_->Poll() || worked;
  worked = keeper_->Poll() || worked;
  worked = replicas_->Flush() || worked;
  worked = objects_->Flush() || worked;
  worked = pending_.Poll() || worked;
  worked = links_->Poll() || worked;
  worked = holds_->Poll() || worked;
  for (Session* session : sessions_->sessions()) {
    if (session->congested()) worked = session->Flush() || worked;
  }
  worked = sessions_->Sweep() || worked;
  requests_.Sweep();
  if (stopping_ && requests_.size() == 0) EndStop();
  return worked;
}

bool Sidecar::PollSessions() {
  bool worked = false;
  for (Session* session : sessions_->sessions()) {
    const bool control = session->kind() == session::Kind::kControl;
    for (uint32_t i = 0; i < kMessagesPerTurn && session->broken().empty(); ++i) {
      // A client that doesn't take its answers gets no more work done. The control process's answers end requests.
      if (!control && session->congested()) break;
      bool received = false;
      if (const Status status = session->channel().Receive(&message_, &received); !status.ok()) {
        Log().warn("session {} (process {}) is closed: {}", session->id(), session->pid(), status.message());
        session->Break(status.message());
        break;
      }
      if (!received) break;
      worked = true;
      if (!control) {
        HandleClient(*session, message_);
      } else if ((message_.entry.flags & layout::kFlagReply) != 0) {
        control_.OnReply(message_);
      } else {
        service_->Handle(*session, message_, [this](uint64_t id) { return sessions_->Find(id); });
      }
    }
  }
  return worked;
}

bool Sidecar::PollEvents() {
  if (!events_->Take(&taken_)) return false;
  for (LoopEvent& event : taken_) HandleEvent(event);
  taken_.clear();
  return true;
}

void Sidecar::HandleEvent(LoopEvent& event) {
  const EndpointKey endpoint{event.transport, event.id};
  switch (event.kind) {
    case LoopEvent::Kind::kComplete:
      tokens_.Complete(event.id, event.status);
      break;
    case LoopEvent::Kind::kAccept:
      holds_->OnAccept(event.transport, std::move(event.endpoint));
      break;
    case LoopEvent::Kind::kMessage:
      if (!links_->OnMessage(endpoint, event.message)) holds_->OnMessage(endpoint, event.message);
      break;
    case LoopEvent::Kind::kDisconnect:
      if (!links_->OnDisconnect(endpoint, event.status)) holds_->OnDisconnect(endpoint);
      break;
  }
}

bool Sidecar::Waiting() const {
  if (holds_->waiting() || links_->waiting()) return true;
  for (Session* session : sessions_->sessions()) {
    if (session->congested()) return true;
  }
  return false;
}

bool Sidecar::PrepareSleep() {
  if (!events_->PrepareSleep()) return false;
  for (Session* session : sessions_->sessions()) {
    if (session->congested() && session->kind() != session::Kind::kControl) continue;  // looked at by the retry timer
    if (session->broken().empty() && !session->channel().PrepareSleep()) return false;
  }
  if (retry_.id == 0 && Waiting()) {
    retry_ = timers_.Add(clock_.NowNs() + kRetryMs * kNsPerMs, [this] { retry_ = {}; });
  }
  return true;
}

void Sidecar::EndSleep() {
  events_->EndSleep();
  for (Session* session : sessions_->sessions()) session->channel().EndSleep();
}

void Sidecar::OnSessionOpened(Session& session) {
  if (session.kind() == session::Kind::kControl) {
    Log().info("control process {} connected", session.pid());
    timers_.Cancel(orphan_);
    control_.Attach(&session);
    KeepSpilled(true);  // it has the store's memory now, for a successor of this process
    SetLeaving(false);  // what the one before was about to do, this one knows nothing of
  }
  TellSessions();
}

void Sidecar::OnSessionClosed(Session& session) {
  std::vector<Request*> requests;
  for (const auto& [id, request] : session.requests()) requests.push_back(request);
  session.requests().clear();
  for (Request* request : requests) request->Abandon();
  objects_->EndSession(session.id());
  if (session.kind() == session::Kind::kControl) {
    Log().info("control process {} is gone", session.pid());
    control_.Detach();
    if (!stopping_) AwaitControl(options_.orphanGraceMs, "after the last one ended");
    return;
  }
  TellSessions();
}

void Sidecar::TellSessions() {
  Question question;
  question.op = layout::Op::kSessions;
  question.args[0] = sessions_->clientCount();
  control_.Tell(std::move(question));
}

void Sidecar::AwaitControl(uint32_t graceMs, const std::string& what) {
  timers_.Cancel(orphan_);
  orphan_ = timers_.Add(clock_.NowNs() + graceMs * kNsPerMs, [this, graceMs, what] {
    orphan_ = {};
    KeepSpilled(false);
    BeginStop(false,
              {StatusCode::kNotReady, "no control process came within " + std::to_string(graceMs) + " ms " + what +
                                          ": start the worker again, or give a longer --orphan_grace_ms"},
              nullptr);
  });
}

void Sidecar::SetLeaving(bool leaving) {
  leaving_ = leaving;
  replicas_->Pause(leaving);
  takes_->SetLeaving(leaving);
}

void Sidecar::BeginStop(bool drain, Status result, std::function<void()> done) {
  if (done != nullptr) stopped_.push_back(std::move(done));
  if (!std::exchange(stopping_, true)) result_ = std::move(result);
  const Status why(
      StatusCode::kShuttingDown,
      "worker " + options_.workerAddress + " is being stopped: use another worker, or try again when it is back");
  for (Request* request : requests_.List()) request->Stop(why);
  if (!drain) links_->Clear(why);
}

void Sidecar::EndStop() {
  for (const std::function<void()>& done : std::exchange(stopped_, {})) done();
  loop_.Stop();
}

layout::SidecarStats Sidecar::Stats() const {
  const StoreUsage usage = store_->usage();
  layout::SidecarStats stats{};
  stats.arenaBytes = usage.arenaBytes;
  stats.arenaUsedBytes = usage.usedBytes;
  stats.objects = usage.objects;
  stats.sessions = sessions_->clientCount();
  stats.holds = usage.holds + objects_->holds() + layers_.holds();
  stats.transfers = core_->counters.transfers;
  stats.transferredBytes = core_->counters.transferredBytes;
  stats.spillBytes = keeper_->tier() != nullptr ? keeper_->tier()->usage().fileBytes : 0;
  stats.spilledBytes = usage.spilledBytes;
  stats.spilledObjects = usage.spilledObjects;
  stats.roomBytes = leaving_ ? 0 : keeper_->RoomBytes();
  const auto evictedBy = [&](EvictCause cause) { return usage.evictedBy[static_cast<uint32_t>(cause)]; };
  stats.slots = usage.slots;
  stats.usedSlots = usage.usedSlots;
  stats.tableBytes = usage.tableBytes;
  stats.indexBytes = usage.indexBytes + (keeper_->tier() != nullptr ? keeper_->tier()->usage().memoryBytes : 0);
  stats.spilledIndexBytes = usage.spilledIndexBytes;
  stats.evictedMemoryFull = evictedBy(EvictCause::kMemoryFull) + evictedBy(EvictCause::kReplicaShare);
  stats.evictedTableFull = evictedBy(EvictCause::kTableFull);
  stats.evictedTierFull = evictedBy(EvictCause::kTierFull) + evictedBy(EvictCause::kTierIndexFull) +
                          evictedBy(EvictCause::kTierTooSmall) + evictedBy(EvictCause::kTierFault);
  return stats;
}

}  // namespace hbmesh::sidecar
