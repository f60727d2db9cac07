#include "bench/link_run.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "bench/failure.h"
#include "bench/json_line.h"
#include "bench/line_socket.h"
#include "bench/link_memory.h"
#include "bench/raw_streams.h"
#include "bench/timed_run.h"

namespace hbmesh::bench {

namespace {

constexpr uint64_t kRawBytesMax = 1ULL << 30;
constexpr uint64_t kCacheLineBytes = 64;
constexpr uint64_t kPeakParts = 10;
constexpr uint32_t kWarmups = 10;
constexpr int kPolls = 2000;
constexpr uint64_t kRoomParts = 4;

std::atomic<bool> stopAsked = false;                    // relaxed: nothing is published with it
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal handler sets it

void Say(const JsonLine& line) {
  std::fputs((line.Finish() + "\n").c_str(), stdout);
  std::fflush(stdout);
}

// Counts what is done. The first failure ends every wait. Whoever waits is woken once, for the last one it waits for.
class Completions final : public TransportSink {
 public:
  void OnComplete(uint64_t /*token*/, Status status) override {
    if (!status.ok()) Fail(std::move(status));
    // Publishes the bytes that arrived. Sequentially consistent with awaited_: of the two threads one sees the other.
    const uint64_t done = done_.fetch_add(1) + 1;
    if (done >= awaited_.load()) done_.notify_one();
  }
  void OnAccept(std::unique_ptr<Endpoint> /*endpoint*/) override {}
  void OnMessage(uint64_t /*endpointId*/, std::span<const std::byte> /*message*/) override {}
  void OnDisconnect(uint64_t /*endpointId*/, Status reason) override { Fail(std::move(reason)); }

  [[nodiscard]] uint64_t done() const { return done_.load(std::memory_order_acquire); }
  // Throws the first failure. `polls`: how often it looks before it sleeps.
  void Await(uint64_t count, int polls) {
    for (int turn = 0; turn < polls && done() < count; ++turn) __builtin_ia32_pause();
    awaited_.store(count);
    for (uint64_t seen = done_.load(); seen < count; seen = done_.load()) done_.wait(seen);
    const std::lock_guard lock(mutex_);
    if (fault_.has_value()) throw Failure(fault_->code(), fault_->message());
  }

 private:
  void Fail(Status status) {
    const std::lock_guard lock(mutex_);
    if (!fault_.has_value()) fault_ = std::move(status);
  }

  std::atomic<uint64_t> done_ = 0;
  std::atomic<uint64_t> awaited_ = 0;
  std::mutex mutex_;
  std::optional<Status> fault_;  // guarded by mutex_
};

class Link {
 public:
  explicit Link(const Order& order);

  // One transfer of `bytes`; waits where too many are under way. Reads may start with a later one, or AwaitAll.
  void Post(uint64_t bytes);
  void AwaitAll() {
    StartReads();
    Await(posted_);
  }
  [[nodiscard]] uint64_t done() const { return completions_.done(); }
  // How many may be under way.
  void SetDepth(uint64_t depth) { depth_ = depth; }
  [[nodiscard]] uint32_t lanes() const { return endpoint_->lanes(); }
  [[nodiscard]] std::span<std::byte> span() const { return memory_.span(); }

 private:
  // A wait for one transfer looks for it first, as who waits for one in earnest would; with many under way that would
  // take a core from what moves the bytes.
  void Await(uint64_t count) { completions_.Await(count, depth_ == 1 ? kPolls : 0); }
  [[nodiscard]] uint32_t LaneOfNext() const { return static_cast<uint32_t>(posted_ % endpoint_->lanes()); }
  void StartWrite(const RemoteRange& range, const LocalPiece& piece);
  void StartReads();

  LineSocket control_;
  LinkMemory memory_;
  Completions completions_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Endpoint> endpoint_;
  const bool write_;
  uint32_t region_ = 0;
  uint64_t posted_ = 0;
  uint64_t depth_ = 1;
  uint64_t offset_ = 0;
  // Reads that are not started yet, and where each goes to.
  std::vector<ReadRequest> reads_;
  std::deque<LocalPiece> targets_;  // doesn't move what is there
};

Link::Link(const Order& order)
    : control_(LineSocket::Connect(order.Text("host"), static_cast<uint16_t>(order.Number("port")))),
      memory_(order.Number("bytes")),
      transport_(MakeTransport(order.Text("transport"), static_cast<uint32_t>(order.Number("lanes")), &completions_)),
      write_(order.Text("op") == "write") {
  control_.WriteLine("link transport=" + order.Text("transport") + " bytes=" + order.Text("bytes"));
  std::string answer;
  if (!control_.ReadLine(&answer)) throw Failure(StatusCode::kRpcPeerDead, "the other side ended, or has a client");
  const Order offer(answer.starts_with("ok ") ? answer : "refused");
  if (offer.verb() != "ok") throw Failure(StatusCode::kInvalid, "the other side refuses: " + answer);
  region_ = static_cast<uint32_t>(offer.Number("region"));
  (void)memory_.Register(*transport_);
  Check(transport_->Connect(offer.Text("address"), static_cast<uint32_t>(order.Number("lanes")), 0, &endpoint_),
        "connecting");
  posted_ = 1;  // the connection completes as a request does
  AwaitAll();
}

// Goes on when a part of what is under way is done: waking for each would cost more than small transfers do.
void Link::Post(uint64_t bytes) {
  if (posted_ - completions_.done() >= depth_) {
    StartReads();
    Await(posted_ - depth_ + std::max<uint64_t>(1, depth_ / kRoomParts));
  }
  if (offset_ + bytes > memory_.bytes()) offset_ = 0;
  const LocalPiece piece{memory_.data() + offset_, bytes};
  const RemoteRange range{.region = region_, .offset = offset_, .bytes = bytes};
  if (write_) {
    StartWrite(range, piece);
  } else {
    reads_.push_back({range, {&targets_.emplace_back(piece), 1}, LaneOfNext(), posted_});
  }
  ++posted_;
  offset_ += (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

void Link::StartWrite(const RemoteRange& range, const LocalPiece& piece) {
  for (;;) {
    const Status status = endpoint_->Write({&piece, 1}, range, LaneOfNext(), posted_);
    if (status.ok()) return;
    if (status.code() != StatusCode::kTryAgain) throw Failure(status.code(), status.message());
    Await(completions_.done() + 1);
  }
}

void Link::StartReads() {
  for (std::span<const ReadRequest> left = reads_; !left.empty();) {
    Status status;
    left = left.subspan(endpoint_->ReadEach(left, &status));
    if (left.empty()) break;
    if (status.code() != StatusCode::kTryAgain) throw Failure(status.code(), status.message());
    Await(completions_.done() + 1);
  }
  reads_.clear();
  targets_.clear();
}

// Of one size: average over all, and the best tenth of the run.
void MeasureBandwidth(Link& link, uint64_t bytes, uint64_t iterations) {
  for (uint32_t i = 0; i < kWarmups; ++i) link.Post(bytes);
  link.AwaitAll();
  const uint64_t doneBefore = link.done();
  const uint64_t part = std::max<uint64_t>(1, iterations / kPeakParts);
  uint64_t partDone = doneBefore;
  const uint64_t begin = NowNs();
  uint64_t partBegin = begin;
  double peak = 0;
  for (uint64_t i = 0; i < iterations; ++i) {
    link.Post(bytes);
    const uint64_t done = link.done();
    if (done - partDone < part) continue;
    const uint64_t now = NowNs();
    peak = std::max(peak, static_cast<double>((done - partDone) * bytes) * 1e9 / static_cast<double>(now - partBegin));
    partDone = done;
    partBegin = now;
  }
  link.AwaitAll();
  const double average = static_cast<double>(iterations * bytes) * 1e9 / static_cast<double>(NowNs() - begin);
  Say(JsonLine()
          .Text("event", "bandwidth")
          .Number("bytes", bytes)
          .Number("iterations", iterations)
          .Number("lanes", link.lanes())
          .Number("average", static_cast<uint64_t>(average))
          .Number("peak", static_cast<uint64_t>(std::max(peak, average))));
}

void MeasureLatency(Link& link, uint64_t bytes, uint64_t iterations) {
  std::vector<uint64_t> times;
  for (uint64_t i = 0; i < iterations + kWarmups; ++i) {
    const uint64_t begin = NowNs();
    link.Post(bytes);
    link.AwaitAll();
    if (i >= kWarmups) times.push_back(NowNs() - begin);
  }
  Say(JsonLine()
          .Text("event", "latency")
          .Number("bytes", bytes)
          .Number("iterations", iterations)
          .Micros("latenciesUs", times));
}

void RunForever(Link& link, uint64_t bytes, uint64_t intervalMs) {
  while (!stopAsked.load(std::memory_order_relaxed)) {
    const uint64_t begin = NowNs();
    const uint64_t doneBefore = link.done();
    do {
      link.Post(bytes);
    } while (NowNs() - begin < intervalMs * 1'000'000 && !stopAsked.load(std::memory_order_relaxed));
    const uint64_t done = link.done() - doneBefore;
    const auto rate =
        static_cast<uint64_t>(static_cast<double>(done * bytes) * 1e9 / static_cast<double>(NowNs() - begin));
    Say(JsonLine()
            .Text("event", "bandwidth")
            .Number("bytes", bytes)
            .Number("iterations", done)
            .Number("lanes", link.lanes())
            .Number("average", rate)
            .Number("peak", rate));
  }
  link.AwaitAll();
}

void SayRaw(const Order& order, Link& link, uint64_t bytes) {
  if (order.Text("transport") != "tcp") return;
  const RawPlan plan{.host = order.Text("host"),
                     .port = static_cast<uint16_t>(order.Number("port")),
                     .write = order.Text("op") == "write",
                     .connections = link.lanes(),
                     .bytes = std::min(kRawBytesMax, bytes)};
  Say(JsonLine()
          .Text("event", "raw")
          .Number("connections", plan.connections)
          .Number("average", static_cast<uint64_t>(MeasureRaw(plan, link.span()))));
}

}  // namespace

void RunLink(const Order& order) {
  std::signal(SIGINT, [](int) { stopAsked.store(true, std::memory_order_relaxed); });
  std::signal(SIGTERM, [](int) { stopAsked.store(true, std::memory_order_relaxed); });
  Link link(order);
  const std::vector<std::string> sizes = order.List("sizes");
  const uint64_t iterations = order.Number("iterations");
  if (const uint64_t intervalMs = order.NumberOr("interval_ms", 0); intervalMs != 0) {
    link.SetDepth(order.Number("depth") * link.lanes());
    RunForever(link, std::stoull(sizes.at(0)), intervalMs);
    return;
  }
  uint64_t mostBytes = 0;
  for (const std::string& text : sizes) {
    if (stopAsked.load(std::memory_order_relaxed)) throw Failure(StatusCode::kInterrupted, "interrupted");
    const uint64_t bytes = std::stoull(text);
    mostBytes = std::max(mostBytes, bytes * iterations);
    if (order.verb() == "latency") {
      MeasureLatency(link, bytes, iterations);
    } else {
      link.SetDepth(order.Number("depth") * link.lanes());
      MeasureBandwidth(link, bytes, iterations);
    }
  }
  if (order.verb() == "bandwidth") SayRaw(order, link, mostBytes);
}

}  // namespace hbmesh::bench
