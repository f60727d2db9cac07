// hbmesh-raw-sockets: how fast this machine moves bytes over loopback TCP without hbmesh, as the limit that a remote
// get is compared with.
//
//   hbmesh-raw-sockets CONNECTIONS BYTES ROUNDS
//
// Two processes, a thread for each connection in both. In a round each connection carries its share of BYTES, from
// memory that is as large as the share into memory that is as large, as a transfer does: nothing stays in the cache
// between rounds that would not for hbmesh. The sender starts when a byte from the receiver arrives; a round's time is
// from the first such byte to the last received one. Prints the median of the rounds as bytes a second. Exit code 1
// with the cause on stderr.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace {

constexpr size_t kPieceBytes = 1 << 20;       // of one send or receive
constexpr size_t kShareBytesMax = 256 << 20;  // memory of one connection; larger shares go over it again
constexpr unsigned kConnectionsMax = 64;

[[noreturn]] void Fail(const char* doing) {
  std::fprintf(stderr, "hbmesh-raw-sockets: %s: %s\n", doing, std::strerror(errno));
  std::exit(1);
}

// Memory of one connection, touched, so that page faults stay outside of the rounds.
std::byte* MakeMemory(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    Fail("mmap");
  }
  std::memset(memory, 1, bytes);
  return static_cast<std::byte*>(memory);
}

struct Lane {
  hbmesh::Fd socket;
  uint64_t bytes;  // a round
};

// Sends each round's share when asked by one byte; ends when the receiver closes.
void SendRounds(const Lane& lane) {
  const size_t memoryBytes = std::min<uint64_t>(lane.bytes, kShareBytesMax);
  const std::byte* memory = MakeMemory(memoryBytes);
  char go = 0;
  while (::recv(lane.socket.get(), &go, 1, 0) == 1) {
    for (uint64_t sent = 0; sent < lane.bytes;) {
      const size_t at = sent % memoryBytes;
      const size_t piece = std::min({kPieceBytes, memoryBytes - at, static_cast<size_t>(lane.bytes - sent)});
      const ssize_t n = ::send(lane.socket.get(), memory + at, piece, MSG_NOSIGNAL);
      if (n <= 0) {
        Fail("send");
      }
      sent += static_cast<uint64_t>(n);
    }
  }
}

void ReceiveRound(const Lane& lane, std::byte* memory) {
  const size_t memoryBytes = std::min<uint64_t>(lane.bytes, kShareBytesMax);
  const char go = 1;
  if (::send(lane.socket.get(), &go, 1, MSG_NOSIGNAL) != 1) {
    Fail("send");
  }
  for (uint64_t received = 0; received < lane.bytes;) {
    const size_t at = received % memoryBytes;
    const size_t piece = std::min({kPieceBytes, memoryBytes - at, static_cast<size_t>(lane.bytes - received)});
    const ssize_t n = ::recv(lane.socket.get(), memory + at, piece, 0);
    if (n <= 0) {
      Fail("recv");
    }
    received += static_cast<uint64_t>(n);
  }
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

uint64_t ShareOf(uint64_t bytes, unsigned connections, unsigned index) {
  return bytes * (index + 1) / connections - bytes * index / connections;
}

// The sending process. Never returns.
[[noreturn]] void RunSender(const hbmesh::Fd& listener, unsigned connections, uint64_t bytes) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<Lane> lanes;
  for (unsigned i = 0; i < connections; ++i) {
    hbmesh::Fd socket(::accept(listener.get(), nullptr, nullptr));
    if (!socket.valid()) {
      Fail("accept");
    }
    lanes.push_back({std::move(socket), ShareOf(bytes, connections, i)});
  }
  std::vector<std::jthread> threads;
  for (const Lane& lane : lanes) {
    threads.emplace_back([&lane] { SendRounds(lane); });
  }
  threads.clear();
  std::_Exit(0);
}

double MeasureRound(const std::vector<Lane>& lanes, const std::vector<std::byte*>& memory) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::jthread> threads;
  for (size_t i = 1; i < lanes.size(); ++i) {
    threads.emplace_back([&, i] { ReceiveRound(lanes[i], memory[i]); });
  }
  ReceiveRound(lanes[0], memory[0]);
  threads.clear();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<Lane> Connect(uint16_t port, unsigned connections, uint64_t bytes) {
  std::vector<Lane> lanes;
  for (unsigned i = 0; i < connections; ++i) {
    hbmesh::Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = Loopback(port);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      Fail("connect");
    }
    lanes.push_back({std::move(socket), ShareOf(bytes, connections, i)});
  }
  return lanes;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long connections = argc == 4 ? std::strtoul(argv[1], nullptr, 10) : 0;
  const unsigned long long bytes = argc == 4 ? std::strtoull(argv[2], nullptr, 10) : 0;
  const unsigned long rounds = argc == 4 ? std::strtoul(argv[3], nullptr, 10) : 0;
  if (connections == 0 || connections > kConnectionsMax || bytes < connections || rounds == 0) {
    std::fprintf(stderr, "usage: hbmesh-raw-sockets CONNECTIONS(1-%u) BYTES ROUNDS\n", kConnectionsMax);
    return 2;
  }
  hbmesh::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(listener.get(), static_cast<int>(connections)) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    Fail("listen");
  }
  const pid_t child = ::fork();
  if (child < 0) {
    Fail("fork");
  }
  if (child == 0) {
    RunSender(listener, static_cast<unsigned>(connections), bytes);
  }
  listener.Reset();
  std::vector<Lane> lanes = Connect(ntohs(address.sin_port), static_cast<unsigned>(connections), bytes);
  std::vector<std::byte*> memory;
  for (const Lane& lane : lanes) {
    memory.push_back(MakeMemory(std::min<uint64_t>(lane.bytes, kShareBytesMax)));
  }
  MeasureRound(lanes, memory);  // warm-up
  std::vector<double> seconds;
  for (unsigned long round = 0; round < rounds; ++round) {
    seconds.push_back(MeasureRound(lanes, memory));
  }
  lanes.clear();
  ::waitpid(child, nullptr, 0);
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<long>(seconds.size() / 2), seconds.end());
  std::printf("%.0f\n", static_cast<double>(bytes) / seconds[seconds.size() / 2]);
  return 0;
}
