#include "sidecar/memory_keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

#include "base/log.h"
#include "base/unix_socket.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): unistd.h has it only for GNU sources

namespace hbmesh::sidecar {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMemoryFd = 3;
constexpr int kLifeFd = 4;
constexpr std::byte kPacket{'m'};
constexpr std::byte kStays{'k'};
constexpr std::byte kEnds{'q'};
constexpr uint32_t kAnswerTimeoutMs = 2'000;  // of who was given the memory
constexpr uint32_t kFetchTimeoutMs = 20'000;  // others may be asked before, and say nothing
constexpr auto kLook = std::chrono::milliseconds(5);
constexpr int kLooks = 20;
constexpr int kFetchesMax = 3;

// True: it ended as it should. `life` blocks.
bool AwaitSidecar(int life) {
  char byte = 0;
  ssize_t got = 0;
  do got = ::read(life, &byte, 1);
  while (got < 0 && errno == EINTR);
  return got == 1;
}

bool IsAllowed(int socket) {
  PeerCredentials peer;
  return GetPeerCredentials(socket, &peer).ok() && (peer.uid == ::getuid() || peer.uid == 0);
}

// False: whoever asked did not take it. Else `socket` blocks, and `listener` is closed: before the answer, so that who
// comes after that one's end doesn't wait at a listener that nobody looks at any more.
bool GiveMemory(int socket, Fd* listener) {
  std::byte answer{};
  Packet taken;
  const int memory = kMemoryFd;
  if (!SetSocketTimeout(socket, kAnswerTimeoutMs).ok() || !SendPacket(socket, {&kPacket, 1}, {&memory, 1}).ok() ||
      !ReceivePacket(socket, {&answer, 1}, &taken).ok() || answer != kPacket || !SetSocketTimeout(socket, 0).ok()) {
    return false;
  }
  listener->Reset();
  // If it is gone already, the wait for its end tells.
  (void)SendPacket(socket, {&kStays, 1}).ok();
  return true;
}

bool ParseGrace(std::string_view text, uint32_t* graceMs) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *graceMs);
  return error == std::errc() && end == text.data() + text.size();
}

int LeftMs(Clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

// Until somebody has taken the memory: returns the connection to it. Invalid: the time is over.
Fd Serve(const std::string& workerAddress, uint32_t graceMs) {
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(graceMs);
  Fd listener;
  // An older one may hold the name for a moment.
  while (!ListenUnix(KeeperSocketName(workerAddress), &listener).ok()) {
    if (LeftMs(until) == 0) return {};
    std::this_thread::sleep_for(kLook);
  }
  while (LeftMs(until) > 0) {
    pollfd polled{listener.get(), POLLIN, 0};
    if (::poll(&polled, 1, LeftMs(until)) <= 0) continue;
    Fd socket;
    if (!AcceptUnix(listener.get(), false, &socket).ok()) continue;
    if (IsAllowed(socket.get()) && GiveMemory(socket.get(), &listener)) return socket;
  }
  return {};
}

}  // namespace

std::string KeeperSocketName(const std::string& workerAddress) { return "hbmesh-keeper/" + workerAddress; }

Status MemoryKeeper::Start(const std::string& workerAddress, int memoryFd, uint32_t graceMs, MemoryKeeper* keeper) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    return {StatusCode::kNotReady, std::string("no pipe for the keeper of the memory: ") + std::strerror(errno)};
  }
  Fd childEnd(pipe[0]);
  MemoryKeeper made;
  made.life_ = Fd(pipe[1]);
  // Above those that they become, so that neither is overwritten before it was copied.
  const Fd memory(::fcntl(memoryFd, F_DUPFD_CLOEXEC, kLifeFd + 1));
  const Fd life(::fcntl(childEnd.get(), F_DUPFD_CLOEXEC, kLifeFd + 1));
  const std::string grace = std::to_string(graceMs);
  const std::array<char*, 4> arguments{const_cast<char*>(kKeeperName), const_cast<char*>(workerAddress.c_str()),
                                       const_cast<char*>(grace.c_str()), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // Who waits for the end of what the sidecar says must not wait for this one.
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    posix_spawn_file_actions_addopen(&actions, standard, "/dev/null", O_RDWR, 0);
  }
  posix_spawn_file_actions_adddup2(&actions, memory.get(), kMemoryFd);
  posix_spawn_file_actions_adddup2(&actions, life.get(), kLifeFd);
  posix_spawn_file_actions_addclosefrom_np(&actions, kLifeFd + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  const int error = memory.valid() && life.valid()
                        ? ::posix_spawn(&made.pid_, "/proc/self/exe", &actions, &attributes, arguments.data(), environ)
                        : EMFILE;
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    made.pid_ = -1;
    return {StatusCode::kNotReady, std::string("the keeper of the memory can't be started: ") + std::strerror(error)};
  }
  *keeper = std::move(made);
  return Status::Ok();
}

MemoryKeeper::~MemoryKeeper() {
  if (!life_.valid()) return;
  // One that was killed is no loss now.
  [[maybe_unused]] const ssize_t written = ::write(life_.get(), &kEnds, 1);
  if (pid_ < 0) {
    // No child: its end closes the connection, for which the fetch has set a limit.
    std::byte byte{};
    [[maybe_unused]] const ssize_t got = ::read(life_.get(), &byte, 1);
    return;
  }
  life_.Reset();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool IsSameMemory(int one, int other) {
  struct stat oneFile {};
  struct stat otherFile {};
  return ::fstat(one, &oneFile) == 0 && ::fstat(other, &otherFile) == 0 && oneFile.st_ino == otherFile.st_ino &&
         oneFile.st_dev == otherFile.st_dev;
}

namespace {

// `met`: there is a keeper, which did not give its memory.
KeptMemory FetchOnce(const std::string& workerAddress, int looks, bool* met) {
  *met = false;
  Fd socket;
  for (int look = 1; !ConnectUnix(KeeperSocketName(workerAddress), &socket).ok(); ++look) {
    if (look >= looks) return {};
    std::this_thread::sleep_for(kLook);
  }
  std::byte byte{};
  Packet packet;
  if (!IsAllowed(socket.get()) || !SetSocketTimeout(socket.get(), kFetchTimeoutMs).ok()) return {};
  const Status status = ReceivePacket(socket.get(), {&byte, 1}, &packet);
  if (!status.ok() || byte != kPacket || packet.descriptors.size() != 1) {
    Log().warn("the keeper of the memory of {} did not give it: {}", workerAddress,
               status.ok() ? "it sent something else" : status.message());
    *met = true;
    return {};
  }
  KeptMemory kept;
  kept.memory = std::move(packet.descriptors.front());
  Packet stays;
  if (SendPacket(socket.get(), {&kPacket, 1}).ok() && ReceivePacket(socket.get(), {&byte, 1}, &stays).ok() &&
      byte == kStays) {
    kept.connection = std::move(socket);
  }
  return kept;
}

}  // namespace

KeptMemory FetchKeptMemory(const std::string& workerAddress, bool wasKilled) {
  bool met = false;
  KeptMemory kept = FetchOnce(workerAddress, wasKilled ? kLooks : 1, &met);
  // It was about to hear of the end of another one.
  for (int attempt = 1; met && attempt < kFetchesMax; ++attempt) kept = FetchOnce(workerAddress, kLooks, &met);
  // A keeper that got no answer in time keeps the memory for the next, which must not be somebody else's: this sidecar
  // may end as it should. One of an earlier release is gone.
  for (int attempt = 1; kept.memory.valid() && !kept.connection.valid() && attempt < kFetchesMax; ++attempt) {
    KeptMemory again = FetchOnce(workerAddress, 1, &met);
    if (!again.memory.valid()) break;
    kept = std::move(again);
  }
  return kept;
}

int RunKeeper(int argc, char** argv) {
  uint32_t graceMs = 0;
  if (argc != 3 || !ParseGrace(argv[2], &graceMs)) return 2;
  ::prctl(PR_SET_NAME, kKeeperName);
  // Ends with SIGTERM, and with nothing that is meant for others.
  for (const int signal : {SIGINT, SIGHUP, SIGQUIT, SIGPIPE}) std::signal(signal, SIG_IGN);
  Fd life(kLifeFd);
  while (!AwaitSidecar(life.get())) {
    life.Reset();
    life = Serve(argv[1], graceMs);
    if (!life.valid()) break;
  }
  // The process's end closes it: that is what the sidecar waits for.
  (void)life.Release();
  return 0;
}

}  // namespace hbmesh::sidecar
