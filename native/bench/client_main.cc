// hbmesh-bench-client IP:PORT: a user's process for `hbmesh bench`, on the C API. Follows orders, one a line on stdin,
// and answers each with one line of JSON on stdout: {"ok":true,...} or {"ok":false,"code":...,"message":...}. Ends at
// the end of stdin. src/bench/native-client.ts is the other end; "-" instead of an address connects to nothing.
// HBMESH_TOKEN is the token of a worker that wants one.
//
//   memory name= device= threads= keys= blobs= bytes= fill=      allocates; fill 0: zeros
//   forget name=                                                 frees
//   check name= fill=                                            holds=true|false
//   run op= memory= iterations= prefix= suffixes= [multiplier= timeout_ms= share= at=]
//   publish memory= iterations= prefix= suffixes=, settle timeout_ms=
//   reserve memory= -> ticket, push memory= ticket= [in_flight= at=], await timeout_ms=
//   loop memory= ms=                                             rounds of a loop that reads all of it
//   round-trips kind= rounds=
//
// Exit codes: 0 at the end of stdin, 1 when it could not connect (one line as above says why), 2 wrong arguments.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "bench/capi_check.h"
#include "bench/device_calls.h"
#include "bench/json_line.h"
#include "bench/machine_limits.h"
#include "bench/memory_loop.h"
#include "bench/object_calls.h"
#include "bench/object_memory.h"
#include "bench/order.h"

namespace hbmesh::bench {
namespace {

constexpr uint32_t kTimeoutMs = 60'000;

struct ClientFree {
  void operator()(hbmesh_client* client) const { hbmesh_client_free(client); }
};

std::string PathsJson(const std::vector<PathSum>& paths) {
  constexpr const char* kTransports[] = {"local", "shm", "tcp", "rdma", "hccs"};
  std::string text;
  for (const PathSum& sum : paths) {
    JsonLine line;
    line.Text("transport", sum.path.transport < std::size(kTransports) ? kTransports[sum.path.transport] : "unknown")
        .Text("source", sum.path.source)
        .Number("lanes", sum.path.lanes)
        .Number("bytes", sum.path.bytes)
        .Number("calls", sum.calls)
        .Flag("fallback", (sum.path.flags & HBMESH_PATH_FALLBACK) != 0)
        .Flag("staged", (sum.path.flags & HBMESH_PATH_STAGED) != 0);
    text += (text.empty() ? "" : ",") + line.Finish();
  }
  return "[" + text + "]";
}

void AddRun(const TimedRun& run, JsonLine& answer) {
  answer.Number("beginNs", run.beginNs).Number("endNs", run.endNs).Micros("latenciesUs", run.latenciesNs);
}

class BenchClient {
 public:
  // Throws Failure.
  explicit BenchClient(const std::string& address);
  // Throws Failure.
  [[nodiscard]] std::string Follow(const std::string& text);
  [[nodiscard]] uint32_t deviceCount() const { return deviceCount_; }
  [[nodiscard]] const std::string& backend() const { return backend_; }

 private:
  void MakeMemory(const Order& order);
  [[nodiscard]] ObjectMemory& MemoryOf(const Order& order, const char* argument);
  [[nodiscard]] CallPlan PlanOf(const Order& order);
  void Run(const Order& order, JsonLine& answer);
  void FollowDeviceOrder(const Order& order, JsonLine& answer);

  // In order of use: memory goes before what uses it, the client last.
  std::map<std::string, std::unique_ptr<ObjectMemory>> memories_;
  std::unique_ptr<hbmesh_client, ClientFree> client_;
  Published published_;
  Ticket ticket_;
  uint32_t deviceCount_ = 0;
  std::string backend_;
};

BenchClient::BenchClient(const std::string& address) {
  if (address == "-") return;
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  options.worker_address = address.c_str();
  options.request_timeout_ms = kTimeoutMs;
  options.token = std::getenv("HBMESH_TOKEN");  // as for the other commands; none: null
  hbmesh_client* client = nullptr;
  CheckCall(hbmesh_client_create(&options, &client), "client");
  client_.reset(client);
  CheckCall(hbmesh_client_init(client), "connecting to " + address);
  hbmesh_health_info health = HBMESH_INIT(hbmesh_health_info);
  CheckCall(hbmesh_health(client, &health), "health");
  deviceCount_ = health.device_count;
  backend_ = health.backend;
}

ObjectMemory& BenchClient::MemoryOf(const Order& order, const char* argument) {
  const auto found = memories_.find(order.Text(argument));
  if (found == memories_.end()) {
    throw Failure(StatusCode::kInvalid, "order " + order.verb() + ": no memory is called " + order.Text(argument));
  }
  return *found->second;
}

void BenchClient::MakeMemory(const Order& order) {
  const auto narrow = [&](const char* name) { return static_cast<uint32_t>(order.Number(name)); };
  const MemoryShape shape{.device = narrow("device"),
                          .threads = narrow("threads"),
                          .keys = narrow("keys"),
                          .blobs = narrow("blobs"),
                          .blobBytes = order.Number("bytes")};
  memories_.erase(order.Text("name"));
  auto memory = std::make_unique<ObjectMemory>(shape);
  memory->Fill(order.Number("fill"));
  memories_[order.Text("name")] = std::move(memory);
}

CallPlan BenchClient::PlanOf(const Order& order) {
  return {.op = order.verb() == "run" ? order.Text("op") : order.verb(),
          .client = client_.get(),
          .memory = &MemoryOf(order, "memory"),
          .names = {order.Text("prefix"), order.List("suffixes")},
          .iterations = static_cast<uint32_t>(order.Number("iterations")),
          .multiplier = static_cast<uint32_t>(order.NumberOr("multiplier", 1)),
          .timeoutMs = static_cast<uint32_t>(order.NumberOr("timeout_ms", kTimeoutMs)),
          .shareReplica = static_cast<uint32_t>(order.NumberOr("share", 0)),
          .atNs = order.NumberOr("at", 0)};
}

void BenchClient::Run(const Order& order, JsonLine& answer) {
  std::vector<PathSum> paths;
  AddRun(RunCalls(PlanOf(order), &paths), answer);
  answer.Raw("paths", PathsJson(paths));
}

void BenchClient::FollowDeviceOrder(const Order& order, JsonLine& answer) {
  const auto timeoutMs = static_cast<uint32_t>(order.NumberOr("timeout_ms", kTimeoutMs));
  if (order.verb() == "publish") {
    published_.Publish(PlanOf(order));
  } else if (order.verb() == "settle") {
    published_.Settle(timeoutMs);
  } else if (order.verb() == "reserve") {
    ticket_ = Reserve(client_.get(), MemoryOf(order, "memory"));
    answer.Text("ticket", hbmesh_ticket_text(ticket_.get()));
  } else if (order.verb() == "await") {
    CheckCall(hbmesh_ticket_wait_all(ticket_.get(), timeoutMs), "waiting for the layers");
    answer.Number("endNs", NowNs());
  } else if (order.verb() == "push") {
    const auto inFlight = static_cast<uint32_t>(order.NumberOr("in_flight", 1));
    AddRun(
        PushLayers(client_.get(), MemoryOf(order, "memory"), order.Text("ticket"), inFlight, order.NumberOr("at", 0)),
        answer);
  } else {
    throw Failure(StatusCode::kInvalid, "there is no order \"" + order.verb() + "\"");
  }
}

std::string BenchClient::Follow(const std::string& text) {
  const Order order(text);
  JsonLine answer;
  answer.Flag("ok", true);
  if (order.verb() == "memory") {
    MakeMemory(order);
  } else if (order.verb() == "forget") {
    memories_.erase(order.Text("name"));
  } else if (order.verb() == "check") {
    answer.Flag("holds", MemoryOf(order, "name").Holds(order.Number("fill")));
  } else if (order.verb() == "loop") {
    answer.Micros("latenciesUs", RunMemoryLoop(MemoryOf(order, "memory"), order.Number("ms")));
  } else if (order.verb() == "round-trips") {
    answer.Micros("latenciesUs", RoundTrips(order.Text("kind"), static_cast<uint32_t>(order.Number("rounds"))));
  } else if (client_ == nullptr) {
    throw Failure(StatusCode::kNotReady, "order " + order.verb() + " needs a worker");
  } else if (order.verb() == "run") {
    Run(order, answer);
  } else {
    FollowDeviceOrder(order, answer);
  }
  return answer.Finish();
}

void Say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

std::string FailureLine(std::string_view codeName, const char* message) {
  return JsonLine().Flag("ok", false).Text("code", codeName).Text("message", message).Finish();
}

int Serve(const std::string& address) {
  std::unique_ptr<BenchClient> client;
  try {
    client = std::make_unique<BenchClient>(address);
  } catch (const Failure& failure) {
    Say(FailureLine(failure.codeName(), failure.what()));
    return 1;
  }
  Say(JsonLine().Flag("ok", true).Number("devices", client->deviceCount()).Text("backend", client->backend()).Finish());
  for (std::string line; std::getline(std::cin, line);) {
    try {
      Say(client->Follow(line));
    } catch (const Failure& failure) {
      Say(FailureLine(failure.codeName(), failure.what()));
    }
  }
  return 0;
}

}  // namespace
}  // namespace hbmesh::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: hbmesh-bench-client IP:PORT|-\n", stderr);
    return 2;
  }
  return hbmesh::bench::Serve(argv[1]);
}
