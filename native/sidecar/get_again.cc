// The part of GetTransfer that asks the owner of a key once more: where all locations that it told of no longer have
// the object, since it moved while it was being looked for; or where it was lost here, and another worker may have a
// copy.
#include <utility>

#include "sidecar/get_transfer.h"
#include "sidecar/lookup.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint32_t kAskedAgainMax = 3;

}  // namespace

bool GetTransfer::AskAgain(uint32_t index) {
  Remote& remote = remotes_[index];
  if (remote.askedAgain == kAskedAgainMax) return false;
  ++remote.askedAgain;
  Question question;
  question.op = layout::Op::kLookup;
  question.count = 1;
  question.args[1] = core_.options.sliceBytes;
  question.args[2] = core_.options.lanes;
  question.payload = LookupPayload(call_, std::vector<uint32_t>{remote.key});
  if (!core_.control.Ask(std::move(question), this, uint64_t{index} + 1, &remote.question).ok()) return false;
  remote.state = State::kAsking;
  return true;
}

void GetTransfer::OnAskedAgain(uint32_t index, const Message& reply, bool last) {
  Remote& remote = remotes_[index];
  if (last) remote.question = 0;
  LookupView view;
  Status status = reply.entry.code == static_cast<uint32_t>(StatusCode::kOk) ? ParseLookup(reply, 1, &view)
                                                                             : RefusalOf(reply, "looking up");
  if (remote.state != State::kAsking) return;
  if (status.ok() && last && view.found.empty()) {
    status = {StatusCode::kDataInconsistency, "the control process ended the lookup without an answer for the key"};
  }
  LocalBatch local;
  if (!status.ok()) {
    FailRemote(remote, remote.lost.value_or(status));
  } else if (!view.found.empty()) {
    const layout::FoundRecord& found = view.found.front();
    if (remote.lost.has_value() && found.code != static_cast<uint32_t>(StatusCode::kOk)) {
      FailRemote(remote, *remote.lost);
    } else {
      const layout::ResultRecord before = remote.found;
      const uint32_t tried = remote.tried;
      TakeFound(remote, found, view.messages);
      if (remote.state != State::kEnded) {
        remote.slices.assign(view.slices.begin(), view.slices.end());
        MarkTried(remote, before, tried);
        TryNext(index, &local);
      }
    }
  }
  StartLocal(std::move(local));
  Advance();
}

void GetTransfer::MarkTried(Remote& remote, const layout::ResultRecord& before, uint32_t tried) const {
  remote.tried = 0;
  bool isNews = false;
  for (uint32_t i = 0; i < remote.found.locationCount; ++i) {
    const layout::Location& now = remote.found.locations[i];
    bool known = remote.lost.has_value() && now.member == core_.peers.self();
    for (uint32_t k = 0; k < before.locationCount && before.generation == remote.found.generation; ++k) {
      const layout::Location& then = before.locations[k];
      known = known || ((tried & (1U << k)) != 0 && then.member == now.member && then.slot == now.slot);
    }
    if (known) remote.tried |= 1U << i;
    isNews = isNews || !known;
  }
  // The same as before: its owner does not know it better.
  if (!isNews) remote.askedAgain = kAskedAgainMax;
}

void GetTransfer::AskOthers(uint32_t key, const Status& lost) {
  const auto index = static_cast<uint32_t>(remotes_.size());
  Remote& remote = remotes_.emplace_back();
  remote.key = key;
  remote.lost = lost;
  if (stopped_.has_value() || !AskAgain(index)) FailRemote(remote, lost);
}

}  // namespace hbmesh::sidecar
