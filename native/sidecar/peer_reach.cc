// The part of PeerLink that remembers a peer that can't be reached, so that only the first who wants something of it
// waits.
#include <utility>

#include "base/log.h"
#include "sidecar/peer_links.h"

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kWatchNs = 100 * kNsPerMs;
// The kernel repeats what is not acknowledged after 200 ms at the earliest; so the peer has been silent for 0.7 s then.
constexpr uint32_t kUnheardMax = 5;
constexpr uint64_t kProbeNs = 100 * kNsPerMs;

}  // namespace

void PeerLink::WatchOpens() {
  if (watchTimer_.id != 0) return;
  watchTimer_ = environment_.timers.Add(environment_.clock.NowNs() + kWatchNs, [this] {
    watchTimer_ = {};
    unheard_ = connected_ && !opening_.empty() && endpoint_->IsUnheard() ? unheard_ + 1 : 0;
    if (opening_.empty()) return;
    if (unheard_ < kUnheardMax) {
      WatchOpens();
    } else {
      Lose({StatusCode::kRpcUnavailable, "its host no longer acknowledges what is sent to it"});
    }
  });
}

void PeerLink::Lose(const Status& why) {
  if (!std::exchange(unreachable_, true)) Log().warn("{} can't be reached: {}", Name(), why.message());
  whyUnreachable_ = why;
  unheard_ = 0;
  Probe();
  Reset(why);
}

void PeerLink::Probe() {
  environment_.timers.Cancel(probeTimer_);
  probeTimer_ = environment_.timers.Add(environment_.clock.NowNs() + kProbeNs, [this] {
    probeTimer_ = {};
    if (!connected_ && !connecting_) Connect();
  });
}

void PeerLink::Reach() {
  if (!std::exchange(unreachable_, false)) return;
  environment_.timers.Cancel(probeTimer_);
  Log().info("{} can be reached again", Name());
}

// Not at once: whoever opens does not expect its answer before that returns.
void PeerLink::RefuseOpens() {
  if (refuseTimer_.id != 0) return;
  refuseTimer_ = environment_.timers.Add(environment_.clock.NowNs(), [this] {
    refuseTimer_ = {};
    if (unreachable_) {
      FailOpens(Dead(whyUnreachable_));
    } else if (!opening_.empty()) {
      WatchOpens();  // reached again meanwhile: they were sent, or wait for the connection, and nothing watches them
    }
  });
}

void PeerLink::CancelReachTimers() {
  environment_.timers.Cancel(watchTimer_);
  environment_.timers.Cancel(probeTimer_);
  environment_.timers.Cancel(refuseTimer_);
}

}  // namespace hbmesh::sidecar
