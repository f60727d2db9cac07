#include "sidecar/memory_keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
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
constexpr uint32_t kAnswerTimeoutMs = 2'000;  // of who was given the memory
constexpr uint32_t kFetchTimeoutMs = 20'000;  // others may be asked before, and say nothing
constexpr auto kLook = std::chrono::milliseconds(5);
constexpr int kLooks = 20;

// True: it ended as it should.
bool AwaitSidecar() {
  char byte = 0;
  ssize_t got = 0;
  do got = ::read(kLifeFd, &byte, 1);
  while (got < 0 && errno == EINTR);
  return got == 1;
}

bool IsAllowed(int socket) {
  PeerCredentials peer;
  return GetPeerCredentials(socket, &peer).ok() && (peer.uid == ::getuid() || peer.uid == 0);
}

// False: whoever asked did not take it.
bool GiveMemory(int socket) {
  std::byte answer{};
  Packet taken;
  const int memory = kMemoryFd;
  return SetSocketTimeout(socket, kAnswerTimeoutMs).ok() && SendPacket(socket, {&kPacket, 1}, {&memory, 1}).ok() &&
         ReceivePacket(socket, {&answer, 1}, &taken).ok() && answer == kPacket;
}

bool ParseGrace(std::string_view text, uint32_t* graceMs) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *graceMs);
  return error == std::errc() && end == text.data() + text.size();
}

int LeftMs(Clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

// Until somebody has taken the memory, or the time is over.
void Serve(const std::string& workerAddress, uint32_t graceMs) {
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(graceMs);
  Fd listener;
  // An older one may hold the name for a moment.
  while (!ListenUnix(KeeperSocketName(workerAddress), &listener).ok()) {
    if (LeftMs(until) == 0) return;
    std::this_thread::sleep_for(kLook);
  }
  while (LeftMs(until) > 0) {
    pollfd polled{listener.get(), POLLIN, 0};
    if (::poll(&polled, 1, LeftMs(until)) <= 0) continue;
    Fd socket;
    if (!AcceptUnix(listener.get(), false, &socket).ok()) continue;
    if (IsAllowed(socket.get()) && GiveMemory(socket.get())) return;
  }
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
  if (pid_ < 0 || !life_.valid()) return;
  const char byte = 'q';
  // One that was killed is no loss now.
  [[maybe_unused]] const ssize_t written = ::write(life_.get(), &byte, 1);
  life_.Reset();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Fd FetchKeptMemory(const std::string& workerAddress, bool wasKilled) {
  Fd socket;
  for (int look = 1; !ConnectUnix(KeeperSocketName(workerAddress), &socket).ok(); ++look) {
    if (!wasKilled || look == kLooks) return {};
    std::this_thread::sleep_for(kLook);
  }
  std::byte byte{};
  Packet packet;
  if (!IsAllowed(socket.get()) || !SetSocketTimeout(socket.get(), kFetchTimeoutMs).ok()) return {};
  const Status status = ReceivePacket(socket.get(), {&byte, 1}, &packet);
  if (!status.ok() || byte != kPacket || packet.descriptors.size() != 1) {
    Log().warn("the keeper of the memory of {} did not give it: {}", workerAddress,
               status.ok() ? "it sent something else" : status.message());
    return {};
  }
  // Without it the keeper keeps it for the next.
  (void)SendPacket(socket.get(), {&kPacket, 1}).ok();
  return std::move(packet.descriptors.front());
}

int RunKeeper(int argc, char** argv) {
  uint32_t graceMs = 0;
  if (argc != 3 || !ParseGrace(argv[2], &graceMs)) return 2;
  ::prctl(PR_SET_NAME, kKeeperName);
  // Ends with SIGTERM, and with nothing that is meant for others.
  for (const int signal : {SIGINT, SIGHUP, SIGQUIT, SIGPIPE}) std::signal(signal, SIG_IGN);
  if (!AwaitSidecar()) Serve(argv[1], graceMs);
  return 0;
}

}  // namespace hbmesh::sidecar
