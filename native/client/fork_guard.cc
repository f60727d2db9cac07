#include "client/fork_guard.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <mutex>
#include <set>

namespace hbmesh {

namespace {

struct Guarded {
  std::mutex mutex;  // held over a fork, so that the child finds the set whole
  std::set<int> sockets;
};

Guarded& AllGuarded() {
  static Guarded* const all = new Guarded;  // for ever: the handlers can't be taken back
  return *all;
}

// Between fork and whatever the child does next: nothing here may allocate or throw.
void LetGo() {
  Guarded& all = AllGuarded();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    for (const int socket : all.sockets) ::dup3(null, socket, O_CLOEXEC);
    ::close(null);
  }
  all.mutex.unlock();
}

}  // namespace

ForkGuard::ForkGuard(int socket) : socket_(socket) {
  static std::once_flag prepared;
  std::call_once(prepared, [] {
    ::pthread_atfork([] { AllGuarded().mutex.lock(); }, [] { AllGuarded().mutex.unlock(); }, LetGo);
  });
  const std::lock_guard lock(AllGuarded().mutex);
  AllGuarded().sockets.insert(socket_);
}

ForkGuard::~ForkGuard() {
  const std::lock_guard lock(AllGuarded().mutex);
  AllGuarded().sockets.erase(socket_);
}

}  // namespace hbmesh
