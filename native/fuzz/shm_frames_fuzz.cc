// What a peer on this host says on the socket of the shm transport: ShmLink, with descriptors of all kinds, while it
// reads and writes the peer's memory.
//
// Must hold: each request completes once, and fails if it is for bytes that were not offered; memory that could shrink
// is not mapped; the link ends with its peer, and lets go of all memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <map>

#include "base/unix_socket.h"
#include "fuzz/fuzz.h"
#include "transport/shm_endpoint.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint64_t kBytes = 8192;

enum Kind : uint8_t { kSealed, kLoose, kReadOnly, kPipe, kNone, kKinds };
// Half of what comes is as it should be: else little would come so far that it matters.
Kind KindOf(uint8_t byte) { return byte < 0x80 ? kSealed : static_cast<Kind>(byte % kKinds); }
uint8_t ByteOf(Kind kind) {
  return kind == kSealed ? 0 : static_cast<uint8_t>(0x80 + (kKinds - 0x80 % kKinds + kind) % kKinds);
}

enum Step : uint8_t { kAsk, kOffer, kSay, kSteps };

// Where bounds go wrong: at, before and after the ends of pages and memory; sometimes any.
uint64_t Edge(Input& input) {
  static constexpr uint64_t kEdges[] = {0,          1,      4095,       4096,          kBytes - 1000,
                                        kBytes - 1, kBytes, kBytes + 1, kBytes + 4095, 2 * kBytes};
  const uint8_t which = input.Byte();
  return which < 0xE0 ? kEdges[which % std::size(kEdges)] : input.Number() * 512;
}
constexpr uint8_t kEdgeOfBytes = 6;

// Mostly one of two, so that question, offer and revocation meet.
uint32_t Region(Input& input) {
  const uint8_t which = input.Byte();
  return which < 0xE0 ? 1 + which % 2 : static_cast<uint32_t>(input.Number());
}

Fd NewDescriptor(Kind kind) {
  if (kind == kPipe) {
    int ends[2];
    FUZZ_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    ::close(ends[1]);
    return Fd(ends[0]);
  }
  Fd made(::memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  FUZZ_CHECK(made.valid() && ::ftruncate(made.get(), kBytes) == 0);
  if (kind != kLoose) FUZZ_CHECK(::fcntl(made.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  if (kind == kReadOnly) FUZZ_CHECK(::fcntl(made.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
  return made;
}

class Sink final : public TransportSink {
 public:
  void OnComplete(uint64_t token, Status status) override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(completed_.emplace(token, status.code()).second);
  }
  void OnAccept(std::unique_ptr<Endpoint>) override {}
  void OnMessage(uint64_t, std::span<const std::byte> message) override { Touch(message); }
  void OnDisconnect(uint64_t, Status reason) override {
    FUZZ_CHECK(!reason.ok());
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void WaitEnd() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
  }
  [[nodiscard]] size_t completed() const { return completed_.size(); }
  [[nodiscard]] bool succeeded(uint64_t token) const { return completed_.at(token) == StatusCode::kOk; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, StatusCode> completed_;
  bool ended_ = false;
};

class Attack {
 public:
  Attack() : sealed_(NewDescriptor(kSealed)) {
    shared_->sink = &sink_;
    shared_->memory = std::make_shared<MemoryTable>();
    CopyPoolOptions copies;
    copies.threads = 1;
    copies.spinMicros = 0;
    shared_->copies = std::make_unique<CopyPool>(copies);
    MemoryRegion region;
    FUZZ_CHECK(shared_->memory->Add(own_.data(), own_.size(), sealed_.get(), 0, true, &region).ok());
    link_ = std::make_shared<ShmLink>(shared_, "fuzz");
    Fd ours;
    FUZZ_CHECK(UnixPair(&ours, &theirs_).ok() && link_->Attach(std::move(ours)).ok());
    (void)SetNonBlocking(theirs_.get(), true);
    link_->Start(nullptr, 0);
  }

  void Run(Input& input) {
    for (int i = 0; i < 40 && !input.empty(); ++i) {
      switch (static_cast<Step>(input.Byte() % kSteps)) {
        case kAsk:
          Ask(input);
          break;
        case kOffer:
          Offer(input);
          break;
        default:
          Say(input);
      }
    }
    theirs_.Reset();
    sink_.WaitEnd();
    link_->Close();
    FUZZ_CHECK(sink_.completed() == asked_);
    for (const uint64_t token : refused_) FUZZ_CHECK(token >= asked_ || !sink_.succeeded(token));
    link_.reset();
    shared_->memory->Remove(1);  // waits for ever if a use was forgotten
  }

 private:
  void Ask(Input& input) {
    const bool write = input.Byte() % 2 == 0;
    const uint64_t bytes = 1 + input.Below(static_cast<uint32_t>(target_.size()));
    const LocalPiece piece{target_.data(), bytes};
    const RemoteRange range{.region = Region(input), .offset = Edge(input), .bytes = bytes};
    if (link_->Submit(write, range, std::span(&piece, 1), asked_).ok()) ++asked_;
  }
  // A question and the offer that answers it: the range ends at the end of what is offered, or next to it.
  void Offer(Input& input) {
    shm::MapReply reply{};
    reply.header = {.type = static_cast<uint32_t>(shm::PacketType::kMapReply), .region = ++offered_};
    reply.writable = input.Byte() % 2;
    reply.bytes = Edge(input);
    reply.fdOffset = Edge(input);
    const uint64_t bytes = 1 + input.Below(static_cast<uint32_t>(target_.size()));
    const uint8_t over = input.Byte();
    const uint64_t end = reply.bytes + (over < 0xC0 ? 0 : over % 3 - 1);
    const LocalPiece piece{target_.data(), bytes};
    const RemoteRange range{.region = offered_, .offset = end - bytes, .bytes = bytes};
    const bool fits =
        bytes <= end && end <= reply.bytes && reply.bytes <= kBytes && reply.fdOffset <= kBytes - reply.bytes;
    if (!fits) refused_.push_back(asked_);
    if (link_->Submit(over % 2 == 0, range, std::span(&piece, 1), asked_).ok()) ++asked_;
    const Fd descriptor = NewDescriptor(KindOf(input.Byte()));
    const int number = descriptor.get();
    (void)SendPacket(theirs_.get(), std::as_bytes(std::span(&reply, 1)), std::span(&number, 1)).ok();
  }
  void Say(Input& input) {
    const uint8_t how = input.Byte();
    Bytes packet;
    if (how % 4 == 0) {
      const auto some = input.Some(1 + input.Byte());
      packet.assign(some.begin(), some.end());
    } else {
      packet = Record(input, how);
    }
    const Kind kind = KindOf(input.Byte());
    if (packet.empty()) return;
    const Fd descriptor = kind == kNone ? Fd() : NewDescriptor(kind);
    const int number = descriptor.get();
    (void)SendPacket(theirs_.get(), packet, std::span(&number, descriptor.valid() ? 1 : 0)).ok();
  }
  static Bytes Record(Input& input, uint8_t how) {
    shm::MapReply reply{};
    reply.header.type = 3 + how % 5;
    reply.header.region = Region(input);
    size_t bytes = sizeof reply.header;
    if (reply.header.type == static_cast<uint32_t>(shm::PacketType::kMapReply)) {
      const uint8_t code = input.Byte();
      reply.code = code < 0xE0 ? 0 : code % 4;
      reply.writable = input.Byte() % 2;
      reply.bytes = Edge(input);
      reply.fdOffset = Edge(input);
      bytes = sizeof reply;
    }
    const auto* first = reinterpret_cast<const std::byte*>(&reply);
    return {first, first + bytes};
  }

  Fd sealed_;
  Sink sink_;
  Bytes own_ = Bytes(kBytes);
  Bytes target_ = Bytes(1000);
  std::shared_ptr<ShmShared> shared_ = std::make_shared<ShmShared>();
  std::shared_ptr<ShmLink> link_;
  Fd theirs_;
  uint64_t asked_ = 0;
  std::vector<uint64_t> refused_;   // tokens of requests for bytes that are not offered, or are not there
  uint32_t offered_ = 0x7E57'0000;  // regions that only Offer asks for
};

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter reads;  // asks for 100 bytes of region 2, which is then offered, and revoked
  reads.PutByte(kAsk).PutByte(1).Put(uint16_t{99}).PutByte(1).PutByte(0);
  reads.PutByte(kSay)
      .PutByte(1)
      .PutByte(1)
      .PutByte(0)
      .PutByte(1)
      .PutByte(kEdgeOfBytes)
      .PutByte(0)
      .PutByte(ByteOf(kSealed));
  reads.PutByte(kSay).PutByte(2).PutByte(1).PutByte(ByteOf(kNone));
  SeedWriter lends;  // asks for ours, gives it back
  lends.PutByte(kSay)
      .PutByte(5)
      .PutByte(0)
      .PutByte(ByteOf(kNone))
      .PutByte(kSay)
      .PutByte(3)
      .PutByte(0)
      .PutByte(ByteOf(kNone));
  SeedWriter message;
  message.PutByte(kSay).PutByte(4).PutByte(8).Put(shm::PacketHeader{7, 0}).PutByte(1).PutByte(ByteOf(kLoose));
  SeedWriter loose;
  loose.PutByte(kAsk).PutByte(0).Put(uint16_t{10}).PutByte(0).PutByte(0);
  loose.PutByte(kSay)
      .PutByte(1)
      .PutByte(0)
      .PutByte(0)
      .PutByte(1)
      .PutByte(kEdgeOfBytes)
      .PutByte(0)
      .PutByte(ByteOf(kLoose));
  SeedWriter offers;  // memory of which a part is offered, and all of it
  for (const uint8_t bytes : {3, 6}) {
    offers.PutByte(kOffer).PutByte(1).PutByte(bytes).PutByte(0).Put(uint16_t{99}).PutByte(0).PutByte(ByteOf(kSealed));
  }
  return {reads.bytes(), lends.bytes(), message.bytes(), loose.bytes(), offers.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hbmesh::fuzz::Input input(data, size);
  hbmesh::fuzz::Attack().Run(input);
  return 0;
}
