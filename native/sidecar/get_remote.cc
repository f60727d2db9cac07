// The remote part of GetTransfer: find a location that has the object, open it there, read its slices.
#include <algorithm>
#include <utility>

#include "base/crc32c.h"
#include "base/log.h"
#include "sidecar/get_transfer.h"
#include "sidecar/lookup.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kReadTag = 1;
constexpr uint64_t kScatterTag = 2;
constexpr uint64_t MakeTag(uint64_t kind, size_t index) { return (static_cast<uint64_t>(index) << 2) | kind; }

bool IsGone(StatusCode code) { return code == StatusCode::kNotFound || code == StatusCode::kTryAgain; }

}  // namespace

std::optional<uint32_t> GetTransfer::NextLocation(const Remote& remote) const {
  const auto untried = [&](uint32_t i) { return (remote.tried & (1U << i)) == 0; };
  const uint32_t count = remote.found.locationCount;
  const uint32_t planned = remote.slices.empty() ? 0 : remote.slices.front().member;
  // Here first, then where the plan says, then the others in order.
  for (const uint32_t wanted : {core_.peers.self(), planned}) {
    for (uint32_t i = 0; i < count; ++i) {
      if (untried(i) && wanted != 0 && remote.found.locations[i].member == wanted) return i;
    }
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (untried(i)) return i;
  }
  return std::nullopt;
}

void GetTransfer::TryNext(uint32_t index, LocalBatch* local) {
  Remote& remote = remotes_[index];
  while (!stopped_.has_value()) {
    const std::optional<uint32_t> next = NextLocation(remote);
    if (!next.has_value()) break;
    remote.location = *next;
    remote.tried |= 1U << *next;
    const layout::Location& location = remote.found.locations[*next];
    if (location.member == core_.peers.self()) {
      if (TryHere(remote, location, local)) return;
      continue;
    }
    PeerLink* link = core_.peers.Find(location.member);
    if (link == nullptr) {
      remote.fault = {StatusCode::kRpcPeerDead,
                      "member " + std::to_string(location.member) +
                          ", which has the object, is not in the cluster any more: try again"};
      continue;
    }
    remote.state = State::kOpening;
    remote.fault = Status::Ok();
    link->Open(location.slot, remote.found.generation, this, index);
    return;
  }
  if (stopped_.has_value()) {
    FailRemote(remote, *stopped_);
  } else if (remote.fault.ok()) {
    FailRemote(remote, {StatusCode::kTryAgain, "no worker has the object at the moment: try again"});
  } else {
    FailRemote(remote, remote.fault);
  }
}

bool GetTransfer::TryHere(Remote& remote, const layout::Location& location, LocalBatch* local) {
  ObjectView object;
  const Status status = core_.store.FindSlot(location.slot, remote.found.generation, &object);
  if (!status.ok() || object.key != call_.key(remote.key)) {
    ReportMissing(remote);
    remote.fault = {StatusCode::kTryAgain, "the object was replaced or deleted while it was looked up: try again"};
    return false;
  }
  remote.state = State::kEnded;  // the batch ends the key
  AddLocal(remote.key, object, local);
  return true;
}

void GetTransfer::ReportMissing(const Remote& remote) {
  layout::ResultRecord record = remote.found;
  record.locationCount = 1;
  record.locations[0] = remote.found.locations[remote.location];
  Question question;
  question.op = layout::Op::kReportMissing;
  question.count = 1;
  question.payload = MakeKeyBatch(call_, std::span(&remote.key, 1));
  const auto* bytes = reinterpret_cast<const std::byte*>(&record);
  question.payload.insert(question.payload.end(), bytes, bytes + sizeof(record));
  core_.control.Tell(std::move(question));
}

void GetTransfer::OnOpenFailed(uint64_t tag, const Status& why) {
  const auto index = static_cast<uint32_t>(tag);
  if (remotes_[index].state != State::kOpening) return;
  remotes_[index].fault = why;
  LocalBatch local;
  TryNext(index, &local);
  StartLocal(std::move(local));
  Advance();
}

void GetTransfer::OnOpened(uint64_t tag, const peer::OpenedRecord& opened, uint64_t connection) {
  const auto index = static_cast<uint32_t>(tag);
  Remote& remote = remotes_[index];
  PeerLink* link = core_.peers.Find(remote.found.locations[remote.location].member);
  if (remote.state != State::kOpening || link == nullptr) return;
  const auto code = static_cast<StatusCode>(opened.code);
  if (code != StatusCode::kOk) {
    if (IsGone(code)) ReportMissing(remote);
    remote.fault = {StatusCode::kTryAgain, IsGone(code) ? link->Name() + " doesn't have the object any more: try again"
                                                        : link->Name() + " has too many objects open: try again"};
    LocalBatch local;
    TryNext(index, &local);
    StartLocal(std::move(local));
  } else if (const Status fits = CheckOpened(remote, opened); !fits.ok()) {
    link->CloseHold(connection, opened.hold);
    FailRemote(remote, fits);
  } else {
    remote.connection = connection;
    remote.hold = opened.hold;
    remote.payloadCrc32c = opened.payloadCrc32c;
    StartReads(index, opened);
  }
  Advance();
}

Status GetTransfer::CheckOpened(const Remote& remote, const peer::OpenedRecord& opened) const {
  if (Status status = CheckOpenedShape(call_, remote.key, opened, kGetWords); !status.ok()) return status;
  if (SlicesCover(remote)) return Status::Ok();
  return {StatusCode::kDataInconsistency,
          "the plan of the control process doesn't cover the object: see the worker's log"};
}

bool GetTransfer::SlicesCover(const Remote& remote) const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const layout::SliceRecord& slice : remote.slices) ranges.emplace_back(slice.offset, slice.bytes);
  std::sort(ranges.begin(), ranges.end());
  uint64_t end = 0;
  const uint64_t total = call_.objectBytes(remote.key);
  for (const auto& [offset, bytes] : ranges) {
    if (offset != end || bytes == 0 || bytes > total - end) return false;
    end += bytes;
  }
  return end == total;
}

Status GetTransfer::Stage(Remote& remote) {
  const uint64_t bytes = call_.objectBytes(remote.key);
  ObjectView staging;
  // Never sealed: no one finds it by its key, and it is freed when a restarted process adopts the store.
  Status status = core_.keeper.Allocate(call_.key(remote.key), std::span(&bytes, 1), {}, &staging);
  if (!status.ok()) return status;
  remote.stagingSlot = staging.slot;
  remote.staging = staging.payload;
  return Status::Ok();
}

void GetTransfer::Unstage(Remote& remote) {
  if (!remote.stagingSlot.has_value()) return;
  (void)core_.store.Drop(*remote.stagingSlot, 0).ok();
  remote.stagingSlot.reset();
}

std::vector<LocalPiece> GetTransfer::PiecesOf(const Remote& remote, const layout::SliceRecord& slice) const {
  if (remote.stagingSlot.has_value()) return {{remote.staging + slice.offset, slice.bytes}};
  return call_.PiecesOf(remote.key, slice.offset, slice.bytes);
}

void GetTransfer::StartReads(uint32_t index, const peer::OpenedRecord& opened) {
  Remote& remote = remotes_[index];
  const uint32_t member = remote.found.locations[remote.location].member;
  PeerLink* link = core_.peers.Find(member);
  const Transport& transport = link->carrier();
  if (!core_.devices[call_.device()]->capabilities().hostAddressable && !transport.capabilities().reachesDeviceMemory) {
    if (const Status status = Stage(remote); !status.ok()) {
      link->CloseHold(remote.connection, remote.hold);
      FailRemote(remote, status);
      return;
    }
  }
  remote.state = State::kReading;
  remote.fault = Status::Ok();
  ++moving_;
  ++remote.outstanding;  // ours, until all slices were given away
  AddSource(*link, member, remote);
  for (const layout::SliceRecord& slice : remote.slices) {
    const RemoteRange source{opened.region, opened.offset + slice.offset, slice.bytes};
    Status status =
        link->Read(remote.connection, source, PiecesOf(remote, slice), slice.lane, this, MakeTag(kReadTag, index));
    if (!status.ok()) {
      remote.fault = std::move(status);
      break;
    }
    ++remote.outstanding;
  }
  if (--remote.outstanding == 0) EndReads(index);
}

void GetTransfer::AddSource(const PeerLink& link, uint32_t member, const Remote& remote) {
  const auto transport = static_cast<uint32_t>(link.transport());
  auto source = std::find_if(sources_.begin(), sources_.end(), [&](const Source& known) {
    return known.path.member == member && known.path.transport == transport;
  });
  if (source == sources_.end()) {
    source = sources_.insert(sources_.end(), {core_.clock.NowNs(), MakePath(link.transport(), call_.device(), member,
                                                                            link.address().workerAddress)});
    source->path.lanes = link.lanes();
  }
  if (link.fallback()) source->path.flags |= layout::kPathFallback;
  if (remote.stagingSlot.has_value()) source->path.flags |= layout::kPathStaged;
}

void GetTransfer::EndReads(uint32_t index) {
  Remote& remote = remotes_[index];
  --moving_;
  const uint32_t member = remote.found.locations[remote.location].member;
  PeerLink* link = core_.peers.Find(member);
  if (link != nullptr) link->CloseHold(remote.connection, remote.hold);
  if (!remote.fault.ok()) {
    Unstage(remote);
    // A read that was cancelled ended with its connection.
    const StatusCode code =
        remote.fault.code() == StatusCode::kRpcCancelled ? StatusCode::kRpcPeerDead : remote.fault.code();
    const std::string name = link != nullptr ? link->Name() : "member " + std::to_string(member);
    remote.fault = {code, "reading from " + name + " failed: " + remote.fault.message() + "; try again"};
    if (!stopped_.has_value()) Log().warn("{}", remote.fault.message());
    LocalBatch local;
    TryNext(index, &local);
    StartLocal(std::move(local));
    return;
  }
  for (Source& source : sources_) {
    if (source.path.member != member) continue;
    source.path.slices += static_cast<uint32_t>(remote.slices.size());
    source.path.bytes += call_.objectBytes(remote.key);
    source.path.nanoseconds = core_.clock.NowNs() - source.startNs;
    break;
  }
  if (!IsWhole(remote)) {
    Unstage(remote);
    FailRemote(remote, Damaged(link != nullptr ? link->Name() : "member " + std::to_string(member)));
    return;
  }
  if (remote.stagingSlot.has_value()) {
    Scatter(index);
    return;
  }
  SetOk(remote.key, remote.found.generation);
  EndRemote(remote);
}

bool GetTransfer::IsWhole(const Remote& remote) const {
  if (remote.payloadCrc32c == 0) return true;
  const uint64_t bytes = call_.objectBytes(remote.key);
  if (remote.stagingSlot.has_value()) return Crc32c({remote.staging, bytes}) == remote.payloadCrc32c;
  // Bytes that went straight to a device that the CPU can't address are not looked at.
  if (!core_.devices[call_.device()]->capabilities().hostAddressable) return true;
  uint32_t crc = 0;
  for (const LocalPiece& piece : call_.PiecesOf(remote.key, 0, bytes)) crc = Crc32c({piece.address, piece.bytes}, crc);
  return crc == remote.payloadCrc32c;
}

void GetTransfer::Scatter(uint32_t index) {
  Remote& remote = remotes_[index];
  remote.state = State::kScattering;
  ++moving_;
  std::vector<CopyPiece> pieces;
  for (uint32_t blob = call_.blobBegin(remote.key); blob < call_.blobEnd(remote.key); ++blob) {
    pieces.push_back({call_.blobAddress(blob), remote.staging + call_.blobOffset(blob), call_.blobSize(blob)});
  }
  core_.copier.Copy(call_.device(), CopyKind::kHostToDevice, std::move(pieces), this, MakeTag(kScatterTag, index));
}

}  // namespace hbmesh::sidecar
