// The part of GetTransfer that reads an opened object: its slices, their copies to the device where they went to host
// memory first, the checksum, and what becomes of the key then.
#include <utility>

#include "base/log.h"
#include "sidecar/get_transfer.h"
#include "sidecar/replicas.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::sidecar {
namespace {

constexpr uint64_t kMergedBytesMax = 16ULL << 20;  // so that a get which is given up ends soon

}  // namespace

Status GetTransfer::Stage(Remote& remote) {
  const uint64_t bytes = call_.objectBytes(remote.key);
  ObjectView staging;
  // Never sealed: no one finds it by its key, and it is freed when a restarted process adopts the store.
  Status status = core_.keeper.Allocate(call_.key(remote.key), std::span(&bytes, 1), {}, &staging);
  if (!status.ok()) return status;
  remote.stagingSlot = staging.slot;
  remote.host = staging.payload;
  return Status::Ok();
}

Status GetTransfer::ChooseHost(Remote& remote, const peer::OpenedRecord& opened, bool reachesDevice) {
  ObjectView copy;
  uint64_t number = 0;
  const std::string_view key = call_.key(remote.key);
  if (core_.replicas.Begin(key, call_.blobSizes(remote.key), remote.found, opened.expiresInMs, &copy, &number)) {
    remote.replica = number;
    remote.host = copy.payload;
    remote.openedMs = core_.clock.NowMs();
    return Status::Ok();
  }
  return reachesDevice && core_.options.remoteH2d ? Status::Ok() : Stage(remote);
}

void GetTransfer::GiveUpHost(Remote& remote) {
  if (remote.stagingSlot.has_value()) (void)core_.store.Drop(*remote.stagingSlot, 0).ok();
  if (remote.replica.has_value()) core_.replicas.GiveUp(*remote.replica);
  remote.stagingSlot.reset();
  remote.replica.reset();
  remote.host = nullptr;
}

std::vector<LocalPiece> GetTransfer::PiecesOf(const Remote& remote, const layout::SliceRecord& slice) const {
  if (remote.host != nullptr) return {{remote.host + slice.offset, slice.bytes}};
  return call_.PiecesOf(remote.key, slice.offset, slice.bytes);
}

// Neighbours become one, up to kMergedBytesMax: for a transport that cuts a read by itself, and bytes that nobody
// copies on slice by slice.
void GetTransfer::MergeSlices(std::vector<layout::SliceRecord>* slices) {
  size_t kept = 0;
  for (size_t at = 1; at < slices->size(); ++at) {
    layout::SliceRecord& last = (*slices)[kept];
    const layout::SliceRecord& next = (*slices)[at];
    if (next.offset == last.offset + last.bytes && last.bytes + next.bytes <= kMergedBytesMax) {
      last.bytes += next.bytes;
    } else {
      (*slices)[++kept] = next;
    }
  }
  slices->resize(std::min(slices->size(), kept + 1));
}

void GetTransfer::StartReads(uint32_t index, const peer::OpenedRecord& opened) {
  Remote& remote = remotes_[index];
  const uint32_t member = remote.found.locations[remote.location].member;
  PeerLink* link = core_.peers.Find(member);
  const bool reachesDevice = core_.devices[call_.device()]->capabilities().hostAddressable ||
                             link->carrier().capabilities().reachesDeviceMemory;
  if (const Status status = ChooseHost(remote, opened, reachesDevice); !status.ok()) {
    link->CloseHold(remote.connection, remote.hold);
    FailRemote(remote, status);
    return;
  }
  remote.state = State::kReading;
  remote.fault = Status::Ok();
  remote.copyFault = Status::Ok();
  ++moving_;
  ++remote.reads;  // ours, until all slices were given away
  AddSource(*link, member, remote);
  if (remote.host == nullptr && link->carrier().capabilities().sharesOutReads) MergeSlices(&remote.slices);
  // Bytes that nobody copies or checks as they come are of use when all of the call's are there.
  const bool direct = remote.host == nullptr && !remote.payloadCrc32c.has_value();
  if (direct && group_ == 0) group_ = core_.tokens.groups().Open();
  for (size_t at = 0; at < remote.slices.size(); ++at) {
    const layout::SliceRecord& slice = remote.slices[at];
    const RemoteRange source{opened.region, opened.offset + slice.offset, slice.bytes};
    Status status = link->Read(remote.connection, source, PiecesOf(remote, slice), slice.lane, this,
                               MakeTag(kReadTag, index, at), direct ? group_ : 0);
    if (!status.ok()) {
      remote.fault = std::move(status);
      break;
    }
    ++remote.reads;
  }
  if (--remote.reads == 0) EndReads(index);
}

void GetTransfer::OnRead(uint32_t index, size_t slice, const Status& status) {
  Remote& remote = remotes_[index];
  --remote.reads;
  if (!status.ok() && remote.fault.ok()) remote.fault = status;
  // As StopMoving: nobody waits for the bytes, and their place may be wanted for something else.
  if (stopped_.has_value() && stopped_->code() != StatusCode::kShuttingDown && remote.copyFault.ok()) {
    remote.copyFault = *stopped_;
  }
  if (remote.host != nullptr && remote.fault.ok() && remote.copyFault.ok()) Scatter(index, remote.slices[slice]);
  if (remote.reads == 0) EndReads(index);
}

void GetTransfer::Scatter(uint32_t index, const layout::SliceRecord& slice) {
  Remote& remote = remotes_[index];
  ++remote.copies;
  std::vector<CopyPiece> pieces;
  const std::byte* source = remote.host + slice.offset;
  for (const LocalPiece& piece : call_.PiecesOf(remote.key, slice.offset, slice.bytes)) {
    pieces.push_back({piece.address, source, piece.bytes});
    source += piece.bytes;
  }
  core_.copier.Copy(call_.device(), CopyKind::kHostToDevice, std::move(pieces), this, MakeTag(kScatterTag, index));
}

void GetTransfer::EndReads(uint32_t index) {
  Remote& remote = remotes_[index];
  remote.state = State::kSettling;
  const uint32_t member = remote.found.locations[remote.location].member;
  if (PeerLink* link = core_.peers.Find(member); link != nullptr) link->CloseHold(remote.connection, remote.hold);
  if (remote.fault.ok()) {
    for (Source& source : sources_) {
      if (!IsOf(source, member, remote)) continue;
      source.path.slices += static_cast<uint32_t>(remote.slices.size());
      source.path.bytes += call_.objectBytes(remote.key);
      source.path.nanoseconds = core_.clock.NowNs() - source.startNs;
      break;
    }
    remote.check.pieces = BytesToCheck(remote);
    if (!remote.check.pieces.empty()) {
      ++remote.copies;
      core_.checksums.Compute(std::span(&remote.check, 1), this, MakeTag(kCheckTag, index));
    }
  } else {
    NameFault(remote);
  }
  if (remote.copies == 0) Settle(index);
}

void GetTransfer::NameFault(Remote& remote) {
  const uint32_t member = remote.found.locations[remote.location].member;
  const PeerLink* link = core_.peers.Find(member);
  // A read that was cancelled ended with its connection.
  const StatusCode code =
      remote.fault.code() == StatusCode::kRpcCancelled ? StatusCode::kRpcPeerDead : remote.fault.code();
  const std::string name = link != nullptr ? link->Name() : "member " + std::to_string(member);
  remote.fault = {code, "reading from " + name + " failed: " + remote.fault.message() + "; try again"};
  if (!stopped_.has_value()) Log().warn("{}", remote.fault.message());
}

std::vector<LocalPiece> GetTransfer::BytesToCheck(const Remote& remote) const {
  if (!remote.payloadCrc32c.has_value()) return {};
  const uint64_t bytes = call_.objectBytes(remote.key);
  if (remote.host != nullptr) return {{remote.host, bytes}};
  // Bytes that went straight to a device that the CPU can't address are not looked at.
  if (!core_.devices[call_.device()]->capabilities().hostAddressable) return {};
  return call_.PiecesOf(remote.key, 0, bytes);
}

void GetTransfer::OnCopied(uint32_t index, const Status& status) {
  Remote& remote = remotes_[index];
  --remote.copies;
  if (!status.ok() && remote.copyFault.ok()) remote.copyFault = status;
  if (remote.reads == 0 && remote.copies == 0) Settle(index);
}

void GetTransfer::Settle(uint32_t index) {
  Remote& remote = remotes_[index];
  --moving_;
  if (!remote.fault.ok()) {
    GiveUpHost(remote);
    LocalBatch local;
    TryNext(index, &local);
    StartLocal(std::move(local));
    return;
  }
  if (!remote.copyFault.ok()) {
    GiveUpHost(remote);
    FailRemote(remote, remote.copyFault);
    return;
  }
  if (!remote.check.pieces.empty() && remote.check.crc32c != *remote.payloadCrc32c) {
    GiveUpHost(remote);
    const uint32_t member = remote.found.locations[remote.location].member;
    const PeerLink* link = core_.peers.Find(member);
    FailRemote(remote, Damaged(link != nullptr ? link->Name() : "member " + std::to_string(member)));
    return;
  }
  if (remote.replica.has_value())
    core_.replicas.Offer(*std::exchange(remote.replica, {}), remote.openedMs, remote.payloadCrc32c);
  GiveUpHost(remote);
  SetOk(remote.key, remote.found.generation);
  EndRemote(remote);
}

}  // namespace hbmesh::sidecar
