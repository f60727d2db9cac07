// ForkGuard: a socket that is this process's alone. A child made by fork would keep a copy of it open, and the peer
// would not see this process end as long as the child lives. So the child lets go of it at the fork: its copy becomes
// /dev/null, which may be closed like the socket.
//
// Thread rule: any thread, also while others fork. REQUIRES: the socket is open as long as the guard lives.
#pragma once

namespace hbmesh {

class ForkGuard {
 public:
  explicit ForkGuard(int socket);
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

 private:
  const int socket_;
};

}  // namespace hbmesh
