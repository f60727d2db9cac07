// Goal: frames that wait go out together and come in together, answers to writes too; and nobody waits for bytes that
// the other side takes later. Method: TcpSender and TcpReceiver on socket pairs. In a pair of packet sockets each
// system call that sends is one packet, which a test can count, and one that receives must take all of a packet.
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <thread>

#include "transport/tcp_receiver.h"
#include "transport/tcp_sender.h"
#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

using tcp::FrameHeader;
using tcp::FrameType;

struct SocketPair {
  Fd ours;
  Fd theirs;

  // `type`: SOCK_STREAM, or SOCK_SEQPACKET.
  explicit SocketPair(int type) {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, sockets), 0);
    ours = Fd(sockets[0]);
    theirs = Fd(sockets[1]);
    const timeval patience{.tv_sec = kPatience.count(), .tv_usec = 0};
    EXPECT_EQ(::setsockopt(theirs.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  }
  // Of a packet socket: the next packet.
  [[nodiscard]] std::vector<std::byte> NextPacket() const {
    std::vector<std::byte> packet(1 << 20);
    const ssize_t bytes = ::recv(theirs.get(), packet.data(), packet.size(), 0);
    EXPECT_GT(bytes, 0) << "nothing was sent";
    packet.resize(static_cast<size_t>(std::max<ssize_t>(0, bytes)));
    return packet;
  }
  void Say(std::span<const std::byte> bytes) const {
    EXPECT_EQ(::send(theirs.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
};

FrameHeader HeaderOf(FrameType type, uint64_t request) {
  FrameHeader header{};
  header.magic = tcp::kMagic;
  header.type = static_cast<uint16_t>(type);
  header.request = request;
  return header;
}

TcpBulk BulkOf(FrameType type, uint64_t request, std::span<std::byte> memory) {
  TcpBulk bulk;
  bulk.header = HeaderOf(type, request);
  bulk.header.bytes = memory.size();
  bulk.bytes = memory.size();
  bulk.pieces.push_back({memory.data(), memory.size()});
  return bulk;
}

// Of one packet, or of several one after the other.
std::vector<FrameHeader> FramesOf(std::span<const std::byte> bytes) {
  std::vector<FrameHeader> frames;
  while (bytes.size() >= sizeof(FrameHeader)) {
    FrameHeader& header = frames.emplace_back();
    std::memcpy(&header, bytes.data(), sizeof header);
    const size_t whole = sizeof header + header.payloadBytes;
    EXPECT_EQ(header.magic, tcp::kMagic);
    EXPECT_LE(whole, bytes.size()) << "a frame was cut";
    bytes = bytes.subspan(std::min(whole, bytes.size()));
  }
  EXPECT_EQ(bytes.size(), 0U) << "a header was cut";
  return frames;
}

void Append(std::vector<std::byte>* stream, const FrameHeader& header, std::span<const std::byte> payload) {
  const auto* first = reinterpret_cast<const std::byte*>(&header);
  stream->insert(stream->end(), first, first + sizeof header);
  stream->insert(stream->end(), payload.begin(), payload.end());
}

// ----- what is sent -----

class RunningSender {
 public:
  explicit RunningSender(TcpSender& sender) : sender_(sender), thread_([this] { status_ = sender_.Run(); }) {}
  ~RunningSender() { (void)Stop(); }
  Status Stop() {
    sender_.Stop();
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  TcpSender& sender_;
  Status status_;
  std::thread thread_;
};

TEST(TcpSender, QueuedWritesGoOutInOneCall) {
  constexpr uint64_t kWrites = 8;
  constexpr size_t kBytes = 4000;
  const SocketPair sockets(SOCK_SEQPACKET);
  TcpSender sender(sockets.ours.get());
  std::vector<std::byte> memory(kWrites * kBytes);
  FillPattern(memory, 1);
  for (uint64_t write = 0; write < kWrites; ++write) {
    TcpBulk bulk = BulkOf(FrameType::kWrite, write, std::span(memory).subspan(write * kBytes, kBytes));
    // In two pieces, which are not sent before Run.
    bulk.pieces = {{memory.data() + write * kBytes, 1}, {memory.data() + write * kBytes + 1, kBytes - 1}};
    ASSERT_EQ(sender.SendBulk(std::move(bulk)).ToString(), "OK");
  }
  EXPECT_EQ(sender.queuedBulk(), kWrites);
  RunningSender running(sender);
  const std::vector<std::byte> packet = sockets.NextPacket();
  const std::vector<FrameHeader> frames = FramesOf(packet);
  ASSERT_EQ(frames.size(), kWrites);
  for (uint64_t write = 0; write < kWrites; ++write) {
    EXPECT_EQ(frames[write].request, write);
    EXPECT_EQ(frames[write].payloadBytes, kBytes);
    const std::byte* payload = packet.data() + write * (sizeof(FrameHeader) + kBytes) + sizeof(FrameHeader);
    EXPECT_EQ(std::memcmp(payload, memory.data() + write * kBytes, kBytes), 0);
    sender.AwaitSent(write);
  }
  EXPECT_EQ(running.Stop().ToString(), "OK");
}

// Answers to reads pass large payloads, writes pass nothing: the frames of two of them would mix.
TEST(TcpSender, SmallDataPassesAndSmallWritesKeepTheirOrder) {
  const SocketPair sockets(SOCK_STREAM);
  TcpSender sender(sockets.ours.get());
  std::vector<std::byte> memory((2 << 20) + 100);
  const std::span<std::byte> large(memory.data(), 2 << 20);
  const std::span<std::byte> small(memory.data() + large.size(), 100);
  ASSERT_EQ(sender.SendBulk(BulkOf(FrameType::kWrite, 1, large)).ToString(), "OK");
  ASSERT_EQ(sender.SendBulk(BulkOf(FrameType::kWrite, 2, small)).ToString(), "OK");
  ASSERT_EQ(sender.SendBulk(BulkOf(FrameType::kData, 3, small)).ToString(), "OK");
  EXPECT_EQ(sender.queuedBulk(), 3U);
  RunningSender running(sender);
  std::vector<std::byte> stream(memory.size() + small.size() + 4 * sizeof(FrameHeader));
  ASSERT_EQ(::recv(sockets.theirs.get(), stream.data(), stream.size(), MSG_WAITALL),
            static_cast<ssize_t>(stream.size()));
  std::vector<uint64_t> order;
  for (const FrameHeader& frame : FramesOf(stream)) order.push_back(frame.request);
  EXPECT_EQ(order, (std::vector<uint64_t>{3, 1, 1, 2}));
  EXPECT_EQ(running.Stop().ToString(), "OK");
}

// Two peers whose receiving threads wait for that of the other would wait until they count as dead.
TEST(TcpSender, AWriteThatIsOutDoesNotWaitForThoseSentWithIt) {
  constexpr size_t kBytes = 40'000;
  const SocketPair sockets(SOCK_STREAM);
  const int buffer = 4096;  // far less than a payload
  ASSERT_EQ(::setsockopt(sockets.ours.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer), 0);
  TcpSender sender(sockets.ours.get());
  std::vector<std::byte> memory(2 * kBytes);
  ASSERT_EQ(sender.SendBulk(BulkOf(FrameType::kWrite, 1, std::span(memory).first(kBytes))).ToString(), "OK");
  ASSERT_EQ(sender.SendBulk(BulkOf(FrameType::kWrite, 2, std::span(memory).last(kBytes))).ToString(), "OK");
  RunningSender running(sender);
  std::vector<std::byte> first(sizeof(FrameHeader) + kBytes);
  ASSERT_EQ(::recv(sockets.theirs.get(), first.data(), first.size(), MSG_WAITALL), static_cast<ssize_t>(first.size()));
  // The second one waits for room that nobody makes.
  std::future<void> out = std::async(std::launch::async, [&] { sender.AwaitSent(1); });
  const bool inTime = out.wait_for(kPatience) == std::future_status::ready;
  EXPECT_TRUE(inTime) << "the first write waits for the second";
  EXPECT_EQ(sender.queuedBulk(), 1U);
  ::shutdown(sockets.theirs.get(), SHUT_RDWR);
  EXPECT_EQ(running.Stop().code(), StatusCode::kRpcPeerDead);
}

// ----- what is received -----

// A lane that receives from one pair of sockets and answers on another.
class ReceivingLane final : public TcpLaneEvents {
 public:
  explicit ReceivingLane(int type) : from(type) {
    EXPECT_TRUE(table->Add(memory.data(), memory.size(), -1, 0, true, &region).ok());
    thread_ = std::thread([this] {
      TcpReceiver receiver(from.ours.get(), TcpReceiver::Kind::kLane, options_, table.get(), &requests, &sender_, this);
      EXPECT_EQ(receiver.Run().code(), StatusCode::kRpcPeerDead);
    });
  }
  ~ReceivingLane() override {
    ::shutdown(from.theirs.get(), SHUT_RDWR);
    thread_.join();
  }
  [[nodiscard]] uint64_t id() const override { return 1; }
  void OnLaneComplete(uint64_t token, Status status) override { sink.OnComplete(token, std::move(status)); }
  void OnLaneMessage(std::span<const std::byte> /*message*/) override {}
  TcpSender* SenderOf(uint32_t /*lane*/) override { return &sender_; }
  [[nodiscard]] FrameHeader Write(uint64_t request, uint64_t bytes) const {
    FrameHeader header = HeaderOf(FrameType::kWrite, request);
    header.region = region.id;
    header.bytes = bytes;
    header.payloadBytes = static_cast<uint32_t>(bytes);
    return header;
  }

  const SocketPair from;
  const SocketPair to{SOCK_SEQPACKET};
  CollectingSink sink;
  RequestTable requests{32};
  std::vector<std::byte> memory = std::vector<std::byte>(1 << 20);
  std::shared_ptr<MemoryTable> table = std::make_shared<MemoryTable>();
  MemoryRegion region;

 private:
  const TransportOptions options_;
  TcpSender sender_{to.ours.get()};
  std::thread thread_;
};

std::vector<uint64_t> RequestsOf(std::span<const FrameHeader> frames) {
  std::vector<uint64_t> requests;
  for (const FrameHeader& frame : frames) {
    EXPECT_EQ(frame.type, static_cast<uint16_t>(FrameType::kWritten));
    requests.push_back(frame.request);
  }
  return requests;
}

TEST(TcpReceiver, WritesThatCameTogetherAreAnsweredTogether) {
  ReceivingLane lane(SOCK_STREAM);
  std::vector<std::byte> bytes(1000);
  FillPattern(bytes, 7);
  std::vector<std::byte> stream;
  for (uint64_t request = 1; request <= 10; ++request) {
    FrameHeader header = lane.Write(request, bytes.size());
    header.offset = request * bytes.size();
    Append(&stream, header, bytes);
  }
  lane.from.Say(stream);
  EXPECT_EQ(RequestsOf(FramesOf(lane.to.NextPacket())), (std::vector<uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  for (uint64_t request = 1; request <= 10; ++request) {
    EXPECT_EQ(std::memcmp(lane.memory.data() + request * bytes.size(), bytes.data(), bytes.size()), 0);
  }
}

TEST(TcpReceiver, AnswersDoNotWaitForTheRestOfAFrame) {
  ReceivingLane lane(SOCK_STREAM);
  const std::vector<std::byte> bytes(1000);
  std::vector<std::byte> stream;
  for (uint64_t request = 1; request <= 3; ++request) Append(&stream, lane.Write(request, bytes.size()), bytes);
  const std::span<const std::byte> all(stream);
  const size_t cut = stream.size() - 500;
  lane.from.Say(all.first(cut));
  EXPECT_EQ(RequestsOf(FramesOf(lane.to.NextPacket())), (std::vector<uint64_t>{1, 2}));
  lane.from.Say(all.subspan(cut));
  EXPECT_EQ(RequestsOf(FramesOf(lane.to.NextPacket())), (std::vector<uint64_t>{3}));
}

// The writes are there all at once, and their sender may be waiting for answers: it gets them on the way.
TEST(TcpReceiver, ManyWritesAreAnsweredOnTheWay) {
  constexpr uint64_t kWrites = 150;
  ReceivingLane lane(SOCK_STREAM);
  const std::byte byte{1};
  std::vector<std::byte> stream;
  for (uint64_t request = 1; request <= kWrites; ++request) Append(&stream, lane.Write(request, 1), {&byte, 1});
  lane.from.Say(stream);
  std::vector<uint64_t> answered;
  size_t largest = 0;
  while (answered.size() < kWrites) {
    const std::vector<uint64_t> some = RequestsOf(FramesOf(lane.to.NextPacket()));
    ASSERT_FALSE(some.empty());
    largest = std::max(largest, some.size());
    answered.insert(answered.end(), some.begin(), some.end());
  }
  EXPECT_LE(largest, 64U);
  for (uint64_t request = 1; request <= kWrites; ++request) EXPECT_EQ(answered[request - 1], request);
}

// One call takes them all: what it left of a packet would be lost.
TEST(TcpReceiver, AnswersThatCameTogetherAreTakenWithOneCall) {
  ReceivingLane lane(SOCK_SEQPACKET);
  std::vector<std::byte> packet;
  for (uint64_t token = 1; token <= 20; ++token) {
    uint64_t request = 0;
    ASSERT_EQ(lane.requests.Add(token, true, {}, 8, &request).ToString(), "OK");
    Append(&packet, HeaderOf(FrameType::kWritten, request), {});
  }
  lane.from.Say(packet);
  for (uint64_t token = 1; token <= 20; ++token) EXPECT_EQ(lane.sink.Wait(token).ToString(), "OK");
}

// Payloads of every size about the limits of what is received ahead, cut anywhere.
TEST(TcpReceiver, FramesOfAllSizesArriveWhereverTheStreamIsCut) {
  for (const size_t cut : {1UL, 47UL, 48UL, 49UL, 1000UL, 1023UL, 1024UL, 16'383UL, 16'384UL, 16'433UL, 100'000UL}) {
    SCOPED_TRACE("cut after " + std::to_string(cut));
    ReceivingLane lane(SOCK_STREAM);
    std::vector<std::byte> expected(lane.memory.size());
    std::vector<std::byte> stream;
    uint64_t offset = 0;
    uint64_t request = 0;
    for (const size_t bytes : {1UL, 16'383UL, 40UL, 16'384UL, 16'385UL, 70'000UL, 2UL, 976UL, 32'768UL, 5UL}) {
      const std::span<std::byte> payload = std::span(expected).subspan(offset, bytes);
      FillPattern(payload, bytes);
      FrameHeader header = lane.Write(++request, bytes);
      header.offset = offset;
      Append(&stream, header, payload);
      offset += bytes;
    }
    const std::span<const std::byte> all(stream);
    for (size_t at = 0; at < all.size();) {
      const size_t bytes = std::min(at < 3 * cut ? cut : all.size() - at, all.size() - at);
      lane.from.Say(all.subspan(at, bytes));
      at += bytes;
    }
    uint64_t answered = 0;
    while (answered < request) answered += RequestsOf(FramesOf(lane.to.NextPacket())).size();
    EXPECT_EQ(answered, request);
    EXPECT_EQ(std::memcmp(lane.memory.data(), expected.data(), expected.size()), 0);
  }
}

// ----- two transports -----

struct TransportPair {
  SharedMemory ownerMemory{32 << 20};
  SharedMemory writerMemory{32 << 20};
  CollectingSink ownerSink;
  CollectingSink writerSink;
  std::unique_ptr<Transport> owner = Make(&ownerSink);
  std::unique_ptr<Transport> writer = Make(&writerSink);
  uint32_t ownerRegion = ownerMemory.Register(*owner, true).id;
  uint32_t writerRegion = writerMemory.Register(*writer, true).id;
  std::unique_ptr<Endpoint> toOwner;
  std::unique_ptr<Endpoint> toWriter;

  TransportPair() {
    EXPECT_TRUE(owner->Listen("127.0.0.1:0").ok());
    EXPECT_TRUE(writer->Connect(owner->address(), 1, 0, &toOwner).ok());
    EXPECT_TRUE(writerSink.Wait(0).ok());
    toWriter = ownerSink.WaitAccepted();
    FillPattern(writerMemory.memory.span(), 1);
    writerMemory.data()[0] = std::byte{0xA5};  // not what ownerMemory begins with
    FillPattern(ownerMemory.memory.span(), 2);
    ownerMemory.data()[0] = std::byte{0x5A};
  }
  static std::unique_ptr<Transport> Make(TransportSink* sink) {
    std::unique_ptr<Transport> made;
    EXPECT_TRUE(CreateTransport("tcp", {}, sink, &made).ok());
    return made;
  }
};

TEST(TcpTransport, SmallWritesMayFollowALargeOneThatIsUnderWay) {
  TransportPair pair;
  uint64_t token = 0;
  uint64_t offset = 0;
  const auto write = [&](uint64_t bytes) {
    const LocalPiece piece{pair.writerMemory.data() + offset, bytes};
    const RemoteRange range{.region = pair.ownerRegion, .offset = offset, .bytes = bytes};
    ASSERT_EQ(pair.toOwner->Write({&piece, 1}, range, 0, ++token).ToString(), "OK");
    offset += bytes;
  };
  write(30 << 20);
  // Its first frame is there, by the file: the mapping is the transport's now.
  const std::byte first = pair.writerMemory.data()[0];
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::byte seen{};
  do {
    ASSERT_EQ(::pread(pair.ownerMemory.fd.get(), &seen, 1, 0), 1);
  } while (seen != first && std::chrono::steady_clock::now() < deadline);
  ASSERT_EQ(seen, first) << "no byte came";
  for (const uint64_t bytes : {100, 40'000, 1, 32'768}) write(bytes);
  for (uint64_t written = 1; written <= token; ++written) {
    EXPECT_EQ(pair.writerSink.Wait(written).ToString(), "OK") << "write " << written;
  }
  EXPECT_EQ(std::memcmp(pair.ownerMemory.data(), pair.writerMemory.data(), offset), 0);
}

// More than all socket buffers hold, both ways: no thread may wait for bytes before it has received.
TEST(TcpTransport, BothEndsWriteToEachOtherWithoutDeadlock) {
  constexpr uint64_t kBytes = 60'000;
  constexpr uint64_t kUnderWay = 250;
  constexpr uint64_t kHalf = 16 << 20;  // each side writes its lower half to the upper one of the other
  TransportPair pair;
  for (uint64_t token = 1; token <= 8 * kUnderWay; ++token) {
    const uint64_t offset = token % kUnderWay * kBytes;
    if (token > kUnderWay) {
      ASSERT_EQ(pair.writerSink.Wait(token - kUnderWay).ToString(), "OK");
      ASSERT_EQ(pair.ownerSink.Wait(token - kUnderWay).ToString(), "OK");
    }
    const LocalPiece mine{pair.writerMemory.data() + offset, kBytes};
    const LocalPiece its{pair.ownerMemory.data() + offset, kBytes};
    const RemoteRange there{.region = pair.ownerRegion, .offset = kHalf + offset, .bytes = kBytes};
    const RemoteRange here{.region = pair.writerRegion, .offset = kHalf + offset, .bytes = kBytes};
    ASSERT_EQ(pair.toOwner->Write({&mine, 1}, there, 0, token).ToString(), "OK");
    ASSERT_EQ(pair.toWriter->Write({&its, 1}, here, 0, token).ToString(), "OK");
  }
  for (uint64_t token = 7 * kUnderWay + 1; token <= 8 * kUnderWay; ++token) {
    EXPECT_EQ(pair.writerSink.Wait(token).ToString(), "OK");
    EXPECT_EQ(pair.ownerSink.Wait(token).ToString(), "OK");
  }
  EXPECT_EQ(std::memcmp(pair.ownerMemory.data() + kHalf, pair.writerMemory.data(), kUnderWay * kBytes), 0);
  EXPECT_EQ(std::memcmp(pair.writerMemory.data() + kHalf, pair.ownerMemory.data(), kUnderWay * kBytes), 0);
}

}  // namespace
}  // namespace hbmesh
