// hbmesh-sidecar: the command line of the sidecar. Reads flags, makes devices and transports, serves.
//
// Exit codes: 0 after kShutdown or SIGTERM, 1 when it could not start or had to end, 2 for a wrong command line.
#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>

#include "base/address.h"
#include "base/log.h"
#include "device/sim_device.h"
#include "sidecar/memory_keeper.h"
#include "sidecar/sidecar.h"
#include "transport/cluster_token.h"
#include "transport/transport_factory.h"

namespace {

using hbmesh::Status;
using hbmesh::sidecar::KeyRule;
using hbmesh::sidecar::LocalToken;
using hbmesh::sidecar::Sidecar;
using hbmesh::sidecar::SidecarOptions;
using hbmesh::sidecar::TransportChoice;

struct Flags {
  SidecarOptions options;
  uint64_t arenaMb = 1024;
  uint64_t spillMb = 0;
  int readyFd = -1;
  std::string tokenFile;
  std::string tenantsFile;
  std::string clusterTokenFile;
  bool stageRemoteGets = false;
  bool keepMemory = false;
  uint32_t copyThreads = 0;
  uint64_t simBandwidthMbPerSecond = 0;
  hbmesh::SimOptions sim;
};

// A size in KiB or MiB, 2^shift bytes each. Its range is one of these, not of bytes: a transformation would come before
// the check.
CLI::Option* AddSize(CLI::App& app, const std::string& name, uint64_t& bytes, uint32_t shift, const std::string& text) {
  return app.add_option_function<uint64_t>(
      name, [&bytes, shift](const uint64_t& size) { bytes = size << shift; }, text);
}

void AddFlags(CLI::App& app, Flags& flags) {
  SidecarOptions& options = flags.options;
  app.add_option("--worker_address", options.workerAddress, "IP:PORT of the worker; names the session socket")
      ->required();
  app.add_option("--devices", options.devices, "devices of this host")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--arena_mb", flags.arenaMb, "memory for objects, MiB")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_flag("--huge_pages", options.hugePages, "take the arena from huge pages");
  app.add_option("--adopt_fd", options.adoptFd,
                 "descriptor of the memory of a sidecar that ended, to go on with its objects");
  app.add_option("--ready_fd", flags.readyFd, "descriptor that gets the line `ready` or `error: ...`, and is closed");
  app.add_option("--eviction_high", options.eviction.highPercent,
                 "above this share of the arena, in percent, objects are evicted, the longest not used first")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--eviction_low", options.eviction.lowPercent, "until at most this share is used, percent")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--replica_percent", options.replicaPercent,
                 "most of the arena, in percent, that copies of objects read from other workers take; 0: none are kept")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option(
      "--spill_directory", options.spill.directory,
      "directory of this worker alone, on an SSD: what makes room in the arena goes there and comes back on a "
      "get. Takes --spill_mb");
  app.add_option("--spill_mb", flags.spillMb, "size of the file there, MiB, all allocated at the start")
      ->check(CLI::Range(1, 1 << 30));
  app.add_option("--copy_threads", flags.copyThreads, "threads that copy; 0: as many as fit the machine")
      ->check(CLI::Range(0, 64));
  app.add_option("--spin_us", options.spinMicros, "how long to poll before sleeping")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_option("--orphan_grace_ms", options.orphanGraceMs, "how long to wait for a new control process")
      ->capture_default_str();
  app.add_flag("--keep_memory", flags.keepMemory,
               "a process beside this one keeps the memory for as long when both are killed");
  app.add_option("--max_inflight", options.inflightMax, "requests of one client under way; more get TRY_AGAIN")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  AddSize(app, "--max_inflight_mb", options.inflightBytesMax, 20,
          "MiB of their messages, beyond one; default 256; more get TRY_AGAIN")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--max_sessions", options.sessionsMax, "processes connected at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--floor_mb_s", options.floorMbPerSecond, "a transfer slower than this many MB/s is given up")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  AddSize(app, "--slice_kb", options.sliceBytes, 10,
          "piece of a remote read, KiB; of a large one up to 8 times as much; default 1024")
      ->check(CLI::Range(4, 1 << 20));
  AddSize(app, "--at_once_mb", options.atOnceBytesMax, 20,
          "sets up to this size, MiB, tell the owners of the keys while they are copied; default 512, 0: none")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--key_rule", options.keyRule, "which keys are allowed")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, KeyRule>{{"strict", KeyRule::kStrict}, {"extended", KeyRule::kExtended}}))
      ->default_str("strict");
}

// Who may connect.
void AddAccessFlags(CLI::App& app, Flags& flags) {
  SidecarOptions& options = flags.options;
  app.add_option("--token_file", flags.tokenFile, "file with the token that sessions must present");
  app.add_option("--cluster_token_file", flags.clusterTokenFile,
                 "file with the token that all workers of the cluster have: peers over tcp must prove it, and clients "
                 "may show it");
  app.add_option("--tenants_file", flags.tenantsFile,
                 "lines of `token tenant`: whose keys a client sees; without it all clients are one tenant");
  app.add_option("--local_token", options.localToken, "must clients of this host show a token?")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, LocalToken>{{"optional", LocalToken::kOptional}, {"required", LocalToken::kRequired}}))
      ->default_str("optional");
  app.add_option("--client_uids", options.clientUids, "ids of users that are served beside this one and root")
      ->delimiter(',');
  app.add_option("--client_gid", options.clientGid, "id of a group whose members are served too");
}

void AddTransferFlags(CLI::App& app, Flags& flags) {
  SidecarOptions& options = flags.options;
  app.add_option("--transport", options.transport, "between sidecars; auto: shm on one host, else tcp")
      ->transform(CLI::CheckedTransformer(std::map<std::string, TransportChoice>{
          {"auto", TransportChoice::kAuto}, {"tcp", TransportChoice::kTcp}, {"shm", TransportChoice::kShm}}))
      ->default_str("auto");
  app.add_option("--transport_listen", options.transportListen,
                 "IP:PORT for tcp; default: the worker's IP, a free port");
  app.add_option("--lanes", options.lanes, "connections to each peer")->check(CLI::Range(1, 16))->capture_default_str();
  app.add_flag("--stage_remote_gets", flags.stageRemoteGets,
               "what comes from other workers goes to host memory first, and from there to the device");
}

void AddSimFlags(CLI::App& app, Flags& flags) {
  app.add_option("--sim_bandwidth_mb_per_s", flags.simBandwidthMbPerSecond,
                 "limit of each simulated device, MB/s; 0: none");
  app.add_option("--sim_latency_us", flags.sim.latencyMicros, "added to each simulated copy, microseconds");
  app.add_flag("--sim_contention", flags.sim.contention, "the limit is that of all simulated devices together");
  app.add_option("--sim_seed", flags.sim.faults.seed, "seed of the simulated faults");
  app.add_option("--sim_fail_every_nth", flags.sim.faults.failEveryNth, "every N-th simulated copy fails; 0: none");
  app.add_option("--sim_fail_probability", flags.sim.faults.failProbability, "share of simulated copies that fail")
      ->check(CLI::Range(0.0, 1.0));
}

void Say(int fd, const std::string& line) {
  if (fd < 0) return;
  const std::string text = line + "\n";
  // Whoever started us and no longer listens needs no answer.
  [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
  ::close(fd);
}

Status ReadToken(const std::string& path, std::string* token) {
  if (path.empty()) return Status::Ok();
  std::ifstream file(path);
  if (!std::getline(file, *token) || token->empty()) {
    return {hbmesh::StatusCode::kInvalid,
            "--token_file " + path + " can't be read or is empty: its first line is the token"};
  }
  return Status::Ok();
}

// What a terminal sends goes to all processes of its group, also when it closes. It is for the control process, which
// leaves the cluster first and then ends this one.
void IgnoreTerminal() {
  for (const int signal : {SIGINT, SIGHUP, SIGQUIT}) std::signal(signal, SIG_IGN);
}

Sidecar* serving = nullptr;  // for the signal handler; set before it is installed

void OnStopSignal(int /*signal*/) { serving->RequestStop(); }

Status Open(Flags& flags, std::unique_ptr<Sidecar>* sidecar) {
  const SidecarOptions& options = flags.options;
  hbmesh::Address address;
  if (Status status = hbmesh::ParseIpAddress(options.workerAddress, "--worker_address", &address); !status.ok()) {
    return status;
  }
  flags.options.workerAddress = hbmesh::FormatAddress(address.host, address.port);
  if (Status status = ReadToken(flags.tokenFile, &flags.options.token); !status.ok()) return status;
  if (!flags.tenantsFile.empty()) {
    Status status = hbmesh::sidecar::Tenants::Load(flags.tenantsFile, &flags.options.tenants);
    if (!status.ok()) return status;
  }
  flags.options.remoteH2d = !flags.stageRemoteGets;
  flags.options.arenaBytes = flags.arenaMb << 20;
  flags.options.spill.bytesMax = flags.spillMb << 20;
  if (options.spill.directory.empty() != (flags.spillMb == 0)) {
    return {hbmesh::StatusCode::kInvalid,
            "--spill_directory and --spill_mb go together: the SSD tier needs a directory and a size"};
  }
  flags.sim.bytesPerSecondMax = flags.simBandwidthMbPerSecond * 1'000'000;
  flags.sim.engineThreads = flags.copyThreads;
  hbmesh::TransportOptions transport;
  transport.lanesDefault = options.lanes;
  transport.copyThreads = flags.copyThreads;
  transport.connectTimeoutMs = options.connectTimeoutMs;
  if (!flags.clusterTokenFile.empty()) {
    Status status = hbmesh::ClusterToken::Load(flags.clusterTokenFile, &transport.token);
    if (!status.ok()) return status;
    flags.options.clusterToken = transport.token;
  }
  static hbmesh::SteadyClock clock;
  return Sidecar::Create(
      flags.options,
      [sim = flags.sim](uint32_t count, hbmesh::CompletionSink* sink,
                        std::vector<std::unique_ptr<hbmesh::Device>>* devices) {
        hbmesh::SimOptions made = sim;
        made.deviceCount = count;
        return hbmesh::CreateSimDevices(made, sink, devices);
      },
      [transport](const std::string& name, hbmesh::TransportSink* sink, std::unique_ptr<hbmesh::Transport>* made) {
        return hbmesh::CreateTransport(name, transport, sink, made);
      },
      clock, sidecar);
}

// What a sidecar that was killed together with its control process has left is adopted.
hbmesh::sidecar::KeptMemory FetchMemory(SidecarOptions& options) {
  hbmesh::sidecar::KeptMemory kept = hbmesh::sidecar::FetchKeptMemory(options.workerAddress, options.adoptFd >= 0);
  if (kept.memory.valid() && options.adoptFd < 0) {
    hbmesh::Log().info("adopting the memory that an earlier sidecar of {} left with its keeper", options.workerAddress);
    options.adoptFd = ::fcntl(kept.memory.get(), F_DUPFD_CLOEXEC, 0);
  }
  return kept;
}

// Memory of a keeper that can't be adopted, of another release or damaged: the keeper would give it to every sidecar to
// come, and none could start. Only adoption fails with this code when a sidecar opens.
void LetGo(const Status& why, SidecarOptions& options, hbmesh::sidecar::KeptMemory& kept) {
  hbmesh::Log().error("{}: its keeper is told to let go of it, and this sidecar starts with an empty arena",
                      why.message());
  // Its destructor tells the keeper, and waits for its end.
  { const hbmesh::sidecar::MemoryKeeper former = hbmesh::sidecar::MemoryKeeper::Of(std::move(kept.connection)); }
  kept = {};
  options.adoptFd = -1;  // the adoption has closed it
}

// The keeper that the memory came from stays, if it is this memory that it keeps. A sidecar without a keeper is as good
// until it is killed.
void StartKeeper(const Sidecar& sidecar, const SidecarOptions& options, hbmesh::sidecar::KeptMemory& kept,
                 hbmesh::sidecar::MemoryKeeper* keeper) {
  if (kept.connection.valid()) {
    hbmesh::sidecar::MemoryKeeper former = hbmesh::sidecar::MemoryKeeper::Of(std::move(kept.connection));
    if (hbmesh::sidecar::IsSameMemory(sidecar.memoryFd(), kept.memory.get())) {
      *keeper = std::move(former);
      return;
    }
  }
  const Status status =
      hbmesh::sidecar::MemoryKeeper::Start(options.workerAddress, sidecar.memoryFd(), options.orphanGraceMs, keeper);
  if (status.ok()) return;
  hbmesh::Log().warn("{}; what is here is lost if both processes are killed at once", status.message());
}

}  // namespace

int main(int argc, char** argv) {
  IgnoreTerminal();
  if (std::string_view(argv[0]) == hbmesh::sidecar::kKeeperName) return hbmesh::sidecar::RunKeeper(argc, argv);
  CLI::App app("Owns a worker's objects and moves their bytes. Started by `hbmesh worker`.");
  Flags flags;
  AddFlags(app, flags);
  AddAccessFlags(app, flags);
  AddTransferFlags(app, flags);
  AddSimFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) Say(flags.readyFd, std::string("error: ") + error.what());
    return app.exit(error) == 0 ? 0 : 2;
  }
  hbmesh::SetLogName("sidecar " + flags.options.workerAddress);
  std::signal(SIGPIPE, SIG_IGN);
  hbmesh::sidecar::KeptMemory kept;
  const bool adoptsGiven = flags.options.adoptFd >= 0;
  if (flags.keepMemory) kept = FetchMemory(flags.options);
  const bool fromKeeper = !adoptsGiven && flags.options.adoptFd >= 0;
  std::unique_ptr<Sidecar> sidecar;
  Status opened = Open(flags, &sidecar);
  if (opened.code() == hbmesh::StatusCode::kDataInconsistency && fromKeeper) {
    LetGo(opened, flags.options, kept);
    opened = Open(flags, &sidecar);
  }
  if (!opened.ok()) {
    Say(flags.readyFd, "error: " + opened.message());
    std::fprintf(stderr, "hbmesh-sidecar: %s\n", opened.ToString().c_str());
    return 1;
  }
  hbmesh::sidecar::MemoryKeeper keeper;
  if (flags.keepMemory) StartKeeper(*sidecar, flags.options, kept, &keeper);
  kept.memory.Reset();
  serving = sidecar.get();
  std::signal(SIGTERM, OnStopSignal);
  Say(flags.readyFd, "ready");
  const Status status = sidecar->Run();
  // Whoever asked for the end may add a signal. It must not cut short what leaves nothing behind.
  std::signal(SIGTERM, SIG_IGN);
  sidecar.reset();
  if (status.ok()) return 0;
  std::fprintf(stderr, "hbmesh-sidecar: %s\n", status.ToString().c_str());
  return 1;
}
