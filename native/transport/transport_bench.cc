// Compares what the transports and the simulated device move with what the machine can: tcp with as many raw sockets,
// shm and the device with plain streaming copies by as many threads. Both sides in one run, in turns, the best of each
// counts.
//
//   transport_bench [rounds]     prints one line a case: GB/s, GB/s of the limit, ratio, processor time (of the reader)
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/copy.h"
#include "base/mapped_memory.h"
#include "device/sim_device.h"
#include "transport/transport_factory.h"

namespace hbmesh {
namespace {

constexpr uint64_t kMemoryBytes = 256 << 20;
constexpr uint64_t kBytesPerRun = 1ULL << 30;
constexpr uint32_t kLanes = 2;
constexpr uint32_t kOutstanding = 8;  // a lane

void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

struct Memory {
  Fd fd;
  MappedMemory mapped;
  Memory() {
    Check(CreateMemfd("hbmesh-bench", kMemoryBytes, false, &fd));
    Check(MappedMemory::Map(fd.get(), 0, kMemoryBytes, true, &mapped));
    Check(mapped.Prefault());
  }
};

double Gbps(uint64_t bytes, std::chrono::steady_clock::time_point begin) {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(bytes) / seconds.count() / 1e9;
}

// Counts completions; the submitting thread waits until few enough are outstanding.
class Window final : public TransportSink, public CompletionSink {
 public:
  void OnComplete(uint64_t, Status status) override { Done(status); }
  void Complete(uint64_t, Status status) override { Done(status); }
  void OnAccept(std::unique_ptr<Endpoint> endpoint) override { accepted.push_back(std::move(endpoint)); }
  void OnMessage(uint64_t, std::span<const std::byte>) override {}
  void OnDisconnect(uint64_t, Status) override {}
  // Spins first, as the sidecar's loop does.
  void WaitFor(uint64_t count) const {
    for (int turn = 0; turn < 2000; ++turn) {
      if (done_.load(std::memory_order_acquire) >= count) return;
      __builtin_ia32_pause();
    }
    for (uint64_t seen = done_.load(std::memory_order_acquire); seen < count;
         seen = done_.load(std::memory_order_acquire)) {
      done_.wait(seen);
    }
  }
  [[nodiscard]] uint64_t done() const { return done_.load(std::memory_order_acquire); }
  std::vector<std::unique_ptr<Endpoint>> accepted;

 private:
  void Done(const Status& status) {
    Check(status);
    done_.fetch_add(1, std::memory_order_release);
    done_.notify_one();
  }
  std::atomic<uint64_t> done_{0};
};

// A process that ends with this one.
pid_t Fork(const std::function<void()>& child) {
  const pid_t pid = ::fork();
  HBMESH_CHECK(pid >= 0, "fork");
  if (pid > 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  child();
  ::_exit(0);
}

void Serve(const std::string& transport, int news) {
  Memory memory;
  Window window;
  std::unique_ptr<Transport> served;
  Check(CreateTransport(transport, {}, &window, &served));
  Check(served->Listen(transport == "tcp" ? "127.0.0.1:0" : ""));
  MemoryRegion region;
  Check(served->RegisterMemory(memory.mapped.data(), kMemoryBytes, memory.fd.get(), 0, true, &region));
  const std::string text = served->address() + " " + std::to_string(region.id);
  HBMESH_CHECK(::write(news, text.data(), text.size()) > 0, "pipe");
  ::pause();
}

// Sends on each accepted connection for ever, in slices.
void ServeRaw(int listener, uint64_t sliceBytes) {
  Memory memory;
  std::vector<std::thread> threads;
  for (;;) {
    const int socket = ::accept(listener, nullptr, nullptr);
    threads.emplace_back([&memory, socket, sliceBytes] {
      for (uint64_t offset = 0;; offset = (offset + sliceBytes) % kMemoryBytes) {
        for (uint64_t sent = 0; sent < sliceBytes;) {
          const ssize_t count = ::send(socket, memory.mapped.data() + offset + sent, sliceBytes - sent, MSG_NOSIGNAL);
          if (count <= 0) {
            ::close(socket);
            return;
          }
          sent += static_cast<uint64_t>(count);
        }
      }
    });
  }
}

double ReadRaw(uint16_t port, const Memory& target, uint64_t sliceBytes) {
  std::vector<std::thread> threads;
  std::vector<int> sockets;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    sockets.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    HBMESH_CHECK(::connect(sockets[lane], reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "connect");
  }
  const auto begin = std::chrono::steady_clock::now();
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    threads.emplace_back([&, lane] {
      uint64_t offset = lane * (kMemoryBytes / kLanes);
      for (uint64_t left = kBytesPerRun / kLanes; left > 0;) {
        const ssize_t got = ::recv(sockets[lane], target.mapped.data() + offset,
                                   std::min({sliceBytes, left, kMemoryBytes - offset}), 0);
        HBMESH_CHECK(got > 0, "recv");
        left -= static_cast<uint64_t>(got);
        offset = (offset + static_cast<uint64_t>(got)) % kMemoryBytes;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double result = Gbps(kBytesPerRun, begin);
  for (const int socket : sockets) ::close(socket);
  return result;
}

double ReadTransport(Window& window, Endpoint& endpoint, uint32_t region, const Memory& target, uint64_t sliceBytes) {
  const uint64_t start = window.done();
  const uint64_t slices = kBytesPerRun / sliceBytes;
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t index = 0; index < slices; ++index) {
    if (index >= kLanes * kOutstanding) window.WaitFor(start + index - kLanes * kOutstanding + 1);
    const uint64_t offset = index * sliceBytes % kMemoryBytes;
    const LocalPiece piece{target.mapped.data() + offset, sliceBytes};
    const RemoteRange range{.region = region, .offset = offset, .bytes = sliceBytes};
    Check(endpoint.Read(range, {&piece, 1}, static_cast<uint32_t>(index % kLanes), index));
  }
  window.WaitFor(start + slices);
  return Gbps(kBytesPerRun, begin);
}

double CopyPlain(const Memory& target, const Memory& source, uint64_t sliceBytes, uint32_t threadCount) {
  std::vector<std::thread> threads;
  const auto begin = std::chrono::steady_clock::now();
  for (uint32_t index = 0; index < threadCount; ++index) {
    threads.emplace_back([&, index] {
      for (uint64_t slice = index; slice < kBytesPerRun / sliceBytes; slice += threadCount) {
        const uint64_t offset = slice * sliceBytes % kMemoryBytes;
        CopyStreaming(target.mapped.data() + offset, source.mapped.data() + offset, sliceBytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return Gbps(kBytesPerRun, begin);
}

double CopyDevice(Window& window, Device& device, const DeviceRegion& hbm, const Memory& host, uint64_t sliceBytes) {
  const uint64_t start = window.done();
  const uint64_t slices = kBytesPerRun / sliceBytes;
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t index = 0; index < slices; ++index) {
    if (index >= kOutstanding) window.WaitFor(start + index - kOutstanding + 1);
    const uint64_t offset = index * sliceBytes % kMemoryBytes;
    const CopyPiece piece{host.mapped.data() + offset, hbm.base + offset, sliceBytes};
    Check(device.Copy(CopyKind::kDeviceToHost, {&piece, 1}, index));
  }
  window.WaitFor(start + slices);
  return Gbps(kBytesPerRun, begin);
}

// Processor time of this process so far, in seconds.
double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

// The best of some runs, in GB/s, and the least processor time a GB, which says something also on a busy machine.
struct Best {
  double gbps = 0;
  double cpuMillisPerGb = 1e9;
  void Run(const std::function<double()>& run) {
    const double begin = CpuSeconds();
    gbps = std::max(gbps, run());
    cpuMillisPerGb = std::min(cpuMillisPerGb, (CpuSeconds() - begin) * 1e12 / static_cast<double>(kBytesPerRun));
  }
};

void Report(const char* name, uint64_t sliceBytes, int rounds, const std::function<double()>& ours,
            const std::function<double()>& limit) {
  Best best;
  Best bestLimit;
  for (int round = 0; round < rounds; ++round) {
    bestLimit.Run(limit);
    best.Run(ours);
  }
  std::printf("%-7s slices of %5llu KiB  %6.2f GB/s  limit %6.2f GB/s  ratio %.2f   cpu ms/GB %4.0f, limit %4.0f\n",
              name, static_cast<unsigned long long>(sliceBytes >> 10), best.gbps, bestLimit.gbps,
              best.gbps / bestLimit.gbps, best.cpuMillisPerGb, bestLimit.cpuMillisPerGb);
  std::fflush(stdout);
}

void BenchTransport(const std::string& name, int rounds) {
  constexpr uint64_t kSlices[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};
  int news[2];
  HBMESH_CHECK(::pipe(news) == 0, "pipe");
  std::vector<pid_t> children{Fork([&] { Serve(name, news[1]); })};
  std::vector<uint16_t> ports;
  for (const uint64_t sliceBytes : kSlices) {
    if (name != "tcp") break;
    const Fd listener(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    HBMESH_CHECK(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), bytes) == 0, "bind");
    HBMESH_CHECK(::listen(listener.get(), 16) == 0, "listen");
    HBMESH_CHECK(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes) == 0, "getsockname");
    ports.push_back(ntohs(address.sin_port));
    children.push_back(Fork([&] { ServeRaw(listener.get(), sliceBytes); }));
  }
  char text[256]{};
  HBMESH_CHECK(::read(news[0], text, sizeof text - 1) > 0, "pipe");
  const std::string line(text);
  const std::string address = line.substr(0, line.find(' '));
  const auto region = static_cast<uint32_t>(std::stoul(line.substr(address.size() + 1)));
  {
    Memory target;
    Memory source;
    Window window;
    std::unique_ptr<Transport> transport;
    std::unique_ptr<Endpoint> endpoint;
    Check(CreateTransport(name, {}, &window, &transport));
    Check(transport->Connect(address, kLanes, 0, &endpoint));
    window.WaitFor(1);
    for (size_t index = 0; index < std::size(kSlices); ++index) {
      const uint64_t sliceBytes = kSlices[index];
      Report(
          name.c_str(), sliceBytes, rounds,
          [&] { return ReadTransport(window, *endpoint, region, target, sliceBytes); },
          [&] {
            return name == "tcp" ? ReadRaw(ports[index], target, sliceBytes)
                                 : CopyPlain(target, source, sliceBytes, endpoint->lanes());
          });
    }
  }
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
}

void BenchDevice(int rounds) {
  Memory hbm;
  Memory host;
  Window window;
  std::vector<std::unique_ptr<Device>> devices;
  SimOptions options;
  options.deviceCount = 1;
  Check(CreateSimDevices(options, &window, &devices));
  DeviceRegion region;
  Check(devices[0]->Import({.deviceIndex = 0, .bytes = kMemoryBytes, .key = {}, .fd = hbm.fd.get()}, &region));
  for (const uint64_t sliceBytes : {64ULL << 10, 256ULL << 10, 1ULL << 20, 4ULL << 20, 32ULL << 20}) {
    Report(
        "device", sliceBytes, rounds, [&] { return CopyDevice(window, *devices[0], region, host, sliceBytes); },
        [&] { return CopyPlain(host, hbm, sliceBytes, devices[0]->capabilities().copyThreads); });
  }
  devices[0]->Release(region);
}

}  // namespace
}  // namespace hbmesh

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, static_cast<int>(std::strtol(argv[1], nullptr, 10))) : 5;
  hbmesh::BenchTransport("tcp", rounds);
  hbmesh::BenchTransport("shm", rounds);
  hbmesh::BenchDevice(rounds);
  return 0;
}
