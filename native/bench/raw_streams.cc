#include "bench/raw_streams.h"

#include <algorithm>
#include <memory>
#include <sstream>
#include <vector>

#include "bench/failure.h"
#include "bench/timed_run.h"

namespace hbmesh::bench {

namespace {

constexpr uint64_t kPieceBytes = 1 << 20;

// Goes over the memory again and again, in pieces, until all bytes have passed.
template <typename Move>
void InPieces(uint64_t bytes, std::span<std::byte> memory, const Move& move) {
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t at = done % memory.size();
    const uint64_t piece = std::min({kPieceBytes, bytes - done, memory.size() - at});
    move(memory.subspan(at, piece));
    done += piece;
  }
}

class Stream final : public ThreadWork {
 public:
  Stream(const RawPlan& plan, std::span<std::byte> memory)
      : socket_(LineSocket::Connect(plan.host, plan.port)),
        write_(plan.write),
        bytes_(plan.bytes / plan.connections),
        memory_(memory) {}
  void Prepare(uint32_t /*iteration*/) override {}
  void Call() override {
    socket_.WriteLine(std::string("raw ") + (write_ ? "write " : "read ") + std::to_string(bytes_));
    if (!write_) {
      InPieces(bytes_, memory_, [&](std::span<std::byte> piece) { socket_.Receive(piece); });
      return;
    }
    InPieces(bytes_, memory_, [&](std::span<std::byte> piece) { socket_.Send(piece); });
    std::string answer;
    if (!socket_.ReadLine(&answer)) throw Failure(StatusCode::kRpcPeerDead, "the other side ended");
  }

 private:
  LineSocket socket_;
  const bool write_;
  const uint64_t bytes_;
  const std::span<std::byte> memory_;
};

}  // namespace

void ServeRaw(LineSocket& socket, std::string line, std::span<std::byte> memory) {
  do {
    std::istringstream words(line);
    std::string raw;
    std::string direction;
    uint64_t bytes = 0;
    if (!(words >> raw >> direction >> bytes) || raw != "raw") return;
    if (direction == "write") {
      InPieces(bytes, memory, [&](std::span<std::byte> piece) { socket.Receive(piece); });
      socket.WriteLine("done");
    } else {
      InPieces(bytes, memory, [&](std::span<std::byte> piece) { socket.Send(piece); });
    }
  } while (socket.ReadLine(&line));
}

double MeasureRaw(const RawPlan& plan, std::span<std::byte> memory) {
  const uint64_t share = memory.size() / plan.connections;
  // The second round counts: connections are warm then.
  const TimedRun run = RunTimed(plan.connections, 2, 0, [&](uint32_t thread) {
    return std::make_unique<Stream>(plan, memory.subspan(thread * share, share));
  });
  uint64_t slowestNs = 1;
  for (size_t call = 1; call < run.latenciesNs.size(); call += 2)
    slowestNs = std::max(slowestNs, run.latenciesNs[call]);
  const uint64_t bytes = plan.bytes / plan.connections * plan.connections;
  return static_cast<double>(bytes) * 1e9 / static_cast<double>(slowestNs);
}

}  // namespace hbmesh::bench
