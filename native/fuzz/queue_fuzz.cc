// What a client can write into its channel: anything, anywhere, at any time. The sidecar receives and sends meanwhile.
//
// Must hold: what is received lies in the ring and is no longer than a payload may be; what is sent changes nothing but
// the sidecar's own ring; after a fault the channel stays unusable.
#include "base/event_fd.h"
#include "base/mapped_memory.h"
#include "fuzz/fuzz.h"
#include "queue/channel.h"

namespace hbmesh::fuzz {
namespace {

constexpr uint32_t kEntries = 4;
constexpr uint64_t kPayloadBytes = 4096;
constexpr uint64_t kRingBytes = kEntries * sizeof(layout::Entry);
constexpr uint64_t kChannelBytes = layout::kChannelHeaderBytes + 2 * kRingBytes + 2 * kPayloadBytes;

enum Action : uint8_t { kWord, kEntry, kPublish, kPayload, kReceive, kSend, kSleep, kActions };

class Attack {
 public:
  explicit Attack(Input& input) : input_(input) {
    if (wake_ < 0) {
      static Fd made;
      FUZZ_CHECK(CreateEventFd(&made).ok());
      wake_ = made.get();
    }
    FUZZ_CHECK(Channel::Create({kEntries, kPayloadBytes}, wake_, &channel_).ok());
    FUZZ_CHECK(MappedMemory::Map(channel_->memoryFd(), 0, kChannelBytes, true, &map_).ok());
    header_ = reinterpret_cast<layout::ChannelHeader*>(map_.data());
  }

  void Run() {
    for (int i = 0; i < 200 && !input_.empty(); ++i) Step(static_cast<Action>(input_.Byte() % kActions));
  }

 private:
  void Step(Action action) {
    switch (action) {
      case kWord: {  // any word of the header, the entries and some of the payload
        const uint64_t word = input_.Below(kChannelBytes / 8);
        const uint64_t value = input_.Number();
        std::memcpy(map_.data() + word * 8, &value, sizeof value);
        return;
      }
      case kEntry: {  // one that may be right
        layout::Entry entry{};
        entry.op = input_.Byte();
        entry.payloadPos = header_->ring[0].payloadHead.load() + 8 * input_.Number();
        entry.payloadBytes = static_cast<uint32_t>(input_.Number() * input_.Byte());
        const uint64_t at = header_->ring[0].tail.load() % kEntries;
        std::memcpy(map_.data() + layout::kChannelHeaderBytes + at * sizeof entry, &entry, sizeof entry);
        return;
      }
      case kPublish:
        header_->ring[0].tail.fetch_add(input_.Number());
        return;
      case kPayload: {
        const std::span<const std::byte> some = input_.Some(1 + input_.Byte());
        const uint64_t at = input_.Below(kPayloadBytes - 256);
        if (!some.empty()) std::memcpy(map_.data() + kChannelBytes - 2 * kPayloadBytes + at, some.data(), some.size());
        return;
      }
      case kReceive:
        Receive();
        return;
      case kSend:
        Send();
        return;
      default:
        if (channel_->PrepareSleep()) channel_->EndSleep();
    }
  }

  void Receive() {
    bool received = false;
    const Status status = channel_->Receive(&message_, &received);
    if (!status.ok()) {
      FUZZ_CHECK(status.code() == StatusCode::kDataInconsistency);
      broken_ = true;
      return;
    }
    FUZZ_CHECK(!broken_);
    if (!received) return;
    FUZZ_CHECK(message_.payload.size() <= kPayloadBytes / 2);
    FUZZ_CHECK(message_.payload.size() == message_.entry.payloadBytes);
    TouchAll(message_.payload);
  }

  // Of everything that isn't the sidecar's: the header of ring 0, its entries, its payload.
  [[nodiscard]] Bytes Foreign() const {
    Bytes bytes(map_.data(), map_.data() + offsetof(layout::ChannelHeader, ring) + sizeof(layout::RingControl));
    const std::byte* entries = map_.data() + layout::kChannelHeaderBytes;
    bytes.insert(bytes.end(), entries, entries + kRingBytes);
    const std::byte* payload = map_.data() + kChannelBytes - 2 * kPayloadBytes;
    bytes.insert(bytes.end(), payload, payload + kPayloadBytes);
    return bytes;
  }

  void Send() {
    const std::vector<std::byte> payload(input_.Take<uint16_t>() % (kPayloadBytes / 2 + 16), std::byte{0x5A});
    const Bytes before = Foreign();
    const Status status = channel_->Send({.id = 1}, payload);
    FUZZ_CHECK(Foreign() == before);
    if (payload.size() > kPayloadBytes / 2) {
      FUZZ_CHECK(!status.ok());
    }
    if (status.code() == StatusCode::kDataInconsistency) broken_ = true;
    if (broken_) FUZZ_CHECK(!status.ok());
  }

  static inline int wake_ = -1;
  Input& input_;
  std::unique_ptr<Channel> channel_;
  MappedMemory map_;
  layout::ChannelHeader* header_ = nullptr;
  Message message_;
  bool broken_ = false;
};

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter good;  // two messages, received, and answers
  for (int i = 0; i < 2; ++i) {
    good.PutByte(kEntry).PutByte(4).PutByte(0).PutByte(2).PutByte(10);
    good.PutByte(kPublish).PutByte(1).PutByte(kReceive).PutByte(kSend).Put(uint16_t{300});
  }
  SeedWriter full;
  for (int i = 0; i < 6; ++i) full.PutByte(kSend).Put(uint16_t{2000});
  full.PutByte(kWord).Put(uint16_t{(64 + 192 + 64) / 8}).PutByte(2).PutByte(kSend).Put(uint16_t{64});
  SeedWriter beyond;
  beyond.PutByte(kPublish).PutByte(9).PutByte(kReceive).PutByte(kReceive).PutByte(kSleep);
  return {good.bytes(), full.bytes(), beyond.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hbmesh::fuzz::Input input(data, size);
  hbmesh::fuzz::Attack(input).Run();
  return 0;
}
