// The remote part of GetTransfer: find a location that has the object, open it there.
#include <algorithm>
#include <utility>

#include "sidecar/get_transfer.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

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
  bool left = false;
  while (!stopped_.has_value()) {
    const std::optional<uint32_t> next = NextLocation(remote);
    if (!next.has_value()) break;
    remote.location = *next;
    remote.tried |= 1U << *next;
    const layout::Location& location = remote.found.locations[*next];
    if (location.member == core_.peers.self()) {
      if (TryHere(index, location, local)) return;
      continue;
    }
    PeerLink* link = core_.peers.Find(location.member);
    if (link == nullptr) {
      left = true;
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
  } else if ((left || remote.fault.ok() || remote.fault.code() == StatusCode::kTryAgain) && AskAgain(index)) {
    return;  // all that had it no longer do, or have left the cluster
  } else if (remote.lost.has_value()) {
    FailRemote(remote, *remote.lost);
  } else if (remote.fault.ok()) {
    FailRemote(remote, {StatusCode::kTryAgain, "no worker has the object at the moment: try again"});
  } else {
    FailRemote(remote, remote.fault);
  }
}

bool GetTransfer::TryHere(uint32_t index, const layout::Location& location, LocalBatch* local) {
  Remote& remote = remotes_[index];
  if (core_.pending.Find(location.slot, remote.found.generation) != nullptr) {
    remote.state = State::kOpening;
    core_.pending.Wait(location.slot, this, index);
    return true;
  }
  ObjectView object;
  const Status status = core_.store.FindSlot(location.slot, remote.found.generation, &object);
  const bool isHere = status.ok() || status.code() == StatusCode::kNotReady;  // which says: on the SSD tier
  if (!isHere || object.key != call_.key(remote.key)) {
    ReportMissing(remote);
    remote.fault = {StatusCode::kTryAgain, "the object was replaced or deleted while it was looked up: try again"};
    return false;
  }
  remote.state = State::kEnded;  // the batch ends the key
  AddLocal(remote.key, object, local);
  return true;
}

void GetTransfer::OnSlotSettled(uint64_t tag) {
  const auto index = static_cast<uint32_t>(tag);
  Remote& remote = remotes_[index];
  if (remote.state != State::kOpening) return;
  LocalBatch local;
  if (!TryHere(index, remote.found.locations[remote.location], &local)) TryNext(index, &local);
  StartLocal(std::move(local));
  Advance();
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
    remote.fault = OpenFault(*link, code);
    LocalBatch local;
    TryNext(index, &local);
    StartLocal(std::move(local));
  } else if (const Status fits = CheckOpened(remote, opened); !fits.ok()) {
    link->CloseHold(connection, opened.hold);
    FailRemote(remote, fits);
  } else {
    remote.connection = connection;
    remote.hold = opened.hold;
    remote.spilled = (opened.flags & peer::kOpenedSpilled) != 0;
    remote.payloadCrc32c.reset();
    if ((opened.flags & peer::kOpenedHasCrc) != 0) remote.payloadCrc32c = opened.payloadCrc32c;
    StartReads(index, opened);
  }
  Advance();
}

Status GetTransfer::OpenFault(const PeerLink& link, StatusCode code) {
  if (IsGone(code)) return {StatusCode::kTryAgain, link.Name() + " doesn't have the object any more: try again"};
  switch (code) {
    case StatusCode::kNotReady:
      return {StatusCode::kTryAgain, link.Name() + " has too many objects open: try again"};
    case StatusCode::kOutOfMemory:
      return {StatusCode::kOutOfMemory, "the object is on the SSD tier of " + link.Name() +
                                            ", which has no room to bring it back: try again, or "
                                            "give that worker a larger arena"};
    default:
      return {StatusCode::kDataInconsistency, "the object is lost, its bytes did not come back from the SSD tier of " +
                                                  link.Name() + " as they were set; see its log, and set it again"};
  }
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

void GetTransfer::AddSource(const PeerLink& link, uint32_t member, const Remote& remote) {
  const auto transport = static_cast<uint32_t>(link.transport());
  auto source = std::find_if(sources_.begin(), sources_.end(), [&](const Source& known) {
    return IsOf(known, member, remote) && known.path.transport == transport;
  });
  if (source == sources_.end()) {
    source = sources_.insert(sources_.end(), {core_.clock.NowNs(), MakePath(link.transport(), call_.device(), member,
                                                                            link.address().workerAddress)});
    source->path.lanes = link.lanes();
  }
  if (link.fallback()) source->path.flags |= layout::kPathFallback;
  if (remote.host != nullptr) source->path.flags |= layout::kPathStaged;
  if (remote.spilled) source->path.flags |= layout::kPathSpilled;
}

bool GetTransfer::IsOf(const Source& source, uint32_t member, const Remote& remote) {
  return source.path.member == member && ((source.path.flags & layout::kPathSpilled) != 0) == remote.spilled;
}

}  // namespace hbmesh::sidecar
