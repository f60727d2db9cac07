// What a peer says on a lane of the tcp transport, or on the connection for requests, after the handshake: TcpReceiver,
// with reads and writes of ours under way and memory that the peer may read, or write.
//
// Must hold: bytes arrive only in memory that is open for writing and in the targets of our reads; a request completes
// once at most; the receiver ends when the peer does.
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "base/fd.h"
#include "fuzz/fuzz.h"
#include "transport/memory_table.h"
#include "transport/tcp_receiver.h"

namespace hbmesh::fuzz {
namespace {

constexpr size_t kStreamBytesMax = 128 << 10;
constexpr size_t kMemoryBytes = 4096;
constexpr std::byte kPattern{0xA7};
// The first byte of an input: which connection the rest comes over.
constexpr uint8_t kOfLane = 0;
constexpr uint8_t kOfRequests = 1;

class Lane final : public TcpLaneEvents {
 public:
  Lane() {
    const int bytes = 1 << 20;
    (void)::setsockopt(theirs_.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    (void)::setsockopt(ours_.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    MemoryRegion region;
    FUZZ_CHECK(memory_->Add(readable_.data(), readable_.size(), -1, 0, false, &region).ok() && region.id == 1);
    FUZZ_CHECK(memory_->Add(writable_.data(), writable_.size(), -1, 0, true, &region).ok() && region.id == 2);
    AddRequests();
  }
  // The numbers that the peer has to answer with.
  [[nodiscard]] const std::vector<uint64_t>& requests() const { return requests_; }

  void Say(TcpReceiver::Kind kind, std::span<const std::byte> stream) {
    // What doesn't fit into the socket at once is never said.
    (void)::send(theirs_.get(), stream.data(), stream.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    ::shutdown(theirs_.get(), SHUT_WR);
    TransportOptions options;
    options.requestsPerLaneMax = 4;
    options.messagesQueuedMax = 16;
    TcpReceiver receiver(ours_.get(), kind, options, memory_.get(), &table_, &sender_, this);
    FUZZ_CHECK(receiver.Run().code() == StatusCode::kRpcPeerDead);
    sender_.Stop();
    (void)sender_.Run().ok();  // lets go of what it still has to send
    for (const uint64_t token : table_.TakeAll()) FUZZ_CHECK(completed_.insert(token).second);
    FUZZ_CHECK(completed_.size() == requests_.size());
    FUZZ_CHECK(std::all_of(readable_.begin(), readable_.end(), [](std::byte byte) { return byte == kPattern; }));
    memory_->Remove(1);  // waits for ever if a use was forgotten
    memory_->Remove(2);
  }

 private:
  void AddRequests() {
    const auto add = [&](bool write, std::vector<LocalPiece> pieces) {
      uint64_t bytes = write ? 64 : 0;
      for (const LocalPiece& piece : pieces) bytes += piece.bytes;
      uint64_t request = 0;
      FUZZ_CHECK(table_.Add(requests_.size(), write, pieces, bytes, &request).ok());
      requests_.push_back(request);
    };
    add(false, {{first_.data(), first_.size()}});
    add(false, {{second_.data(), 1}, {first_.data(), 3}, {second_.data() + 1, second_.size() - 1}});
    add(true, {});
  }
  uint64_t id() const override { return 1; }
  TcpSender* SenderOf(uint32_t lane) override { return lane == 0 ? &sender_ : nullptr; }
  void OnLaneComplete(uint64_t token, Status /*status*/) override { FUZZ_CHECK(completed_.insert(token).second); }
  void OnLaneMessage(std::span<const std::byte> message) override {
    FUZZ_CHECK(message.size() <= tcp::kMessageBytesMax);
    Touch(message);
  }

  static Fd MakePair(Fd* theirs) {
    int sockets[2];
    FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
    *theirs = Fd(sockets[1]);
    return Fd(sockets[0]);
  }

  Fd theirs_;
  Fd ours_ = MakePair(&theirs_);
  TcpSender sender_{ours_.get()};
  Bytes readable_ = Bytes(kMemoryBytes, kPattern);
  Bytes writable_ = Bytes(kMemoryBytes);
  Bytes first_ = Bytes(1000);
  Bytes second_ = Bytes(70);
  std::shared_ptr<MemoryTable> memory_ = std::make_shared<MemoryTable>();
  RequestTable table_{3};
  std::vector<uint64_t> requests_;
  std::set<uint64_t> completed_;
};

// A frame that may be right: its fields are small numbers, its payload is there.
void AppendFrame(Input& input, const Lane& lane, Bytes* stream) {
  tcp::FrameHeader header{};
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(input.Byte() % 8);
  header.lane = input.Byte() % 3;
  const uint8_t which = input.Byte();
  header.request = which < 0x80 ? lane.requests()[which % lane.requests().size()] : input.Take<uint64_t>();
  header.offset = input.Number() * 50;
  header.bytes = input.Number() * 100;
  header.region = static_cast<uint32_t>(input.Number());
  header.code = input.Byte();
  header.payloadBytes = static_cast<uint32_t>(input.Number() * 50);
  const auto* first = reinterpret_cast<const std::byte*>(&header);
  stream->insert(stream->end(), first, first + sizeof header);
  stream->resize(stream->size() + std::min<size_t>(header.payloadBytes, kStreamBytesMax), std::byte{0x11});
}

SeedWriter& PutFrame(SeedWriter& seed, tcp::FrameType type, uint8_t which, uint8_t offset, uint8_t bytes,
                     uint8_t region, uint8_t payload) {
  seed.PutByte(1)
      .PutByte(static_cast<uint8_t>(type))
      .PutByte(0)
      .PutByte(which)
      .PutByte(offset)
      .PutByte(bytes)
      .PutByte(region);
  return seed.PutByte(type == tcp::FrameType::kFailed ? 5 : 0).PutByte(payload);
}

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter requests;
  requests.PutByte(kOfRequests);
  PutFrame(requests, tcp::FrameType::kRead, 0x80, 0, 10, 1, 0);
  PutFrame(requests, tcp::FrameType::kMessage, 0, 0, 0, 0, 9);
  SeedWriter data;
  data.PutByte(kOfLane);
  PutFrame(data, tcp::FrameType::kData, 0, 0, 0, 0, 10);
  PutFrame(data, tcp::FrameType::kData, 0, 10, 0, 0, 10);
  PutFrame(data, tcp::FrameType::kData, 1, 0, 0, 0, 1);
  SeedWriter write;
  write.PutByte(kOfLane);
  PutFrame(write, tcp::FrameType::kWrite, 3, 2, 10, 2, 10);
  PutFrame(write, tcp::FrameType::kWrite, 3, 2, 10, 2, 10);
  SeedWriter answers;
  answers.PutByte(kOfLane);
  PutFrame(answers, tcp::FrameType::kWritten, 2, 0, 0, 0, 0);
  PutFrame(answers, tcp::FrameType::kFailed, 0, 0, 0, 0, 3);
  SeedWriter raw;
  raw.PutByte(kOfRequests);
  const tcp::FrameHeader header{.magic = tcp::kMagic,
                                .type = 6,
                                .lane = 0,
                                .request = 1,
                                .offset = 0,
                                .bytes = 0,
                                .region = 0,
                                .code = 0,
                                .payloadBytes = 4,
                                .reserved2 = 0};
  raw.PutByte(0).PutByte(52).Put(header).Put(uint32_t{1});
  return {requests.bytes(), data.bytes(), write.bytes(), answers.bytes(), raw.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hbmesh::fuzz;
  Input input(data, size);
  const auto kind =
      input.Byte() % 2 == kOfRequests ? hbmesh::TcpReceiver::Kind::kRequests : hbmesh::TcpReceiver::Kind::kLane;
  Lane lane;
  Bytes stream;
  while (!input.empty() && stream.size() < kStreamBytesMax) {
    if (input.Byte() % 4 != 0) {
      AppendFrame(input, lane, &stream);
    } else {
      const std::span<const std::byte> some = input.Some(input.Byte());
      stream.insert(stream.end(), some.begin(), some.end());
    }
  }
  lane.Say(kind, stream);
  return 0;
}
