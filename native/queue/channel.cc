// How the two ends stay in step, and why no wake-up is lost.
//
// A ring has one producer and one consumer. The producer owns `tail`, the consumer owns `head`; each keeps its own
// positions in private memory and only publishes copies, so that a peer which scribbles over the shared ones can't move
// them.
//
//   producer                                      consumer
//   1 payload, entry                              1 consumerSleeps = 1           (seq_cst)
//   2 tail = t + 1            (seq_cst)           2 reads tail                   (seq_cst); not its own head: doesn't
//   sleep 3 reads consumerSleeps    (seq_cst)           3 sleeps on the eventfd
//     if it is 1: sets it to 0, signals
//
// All four marked accesses are in one total order. If the consumer's read of tail comes before the producer's store,
// then the consumer's store of consumerSleeps, which is before that read, is also before the producer's read of it,
// which is after that store: the producer sees 1 and signals. Otherwise the consumer sees the new tail and doesn't
// sleep. An eventfd keeps a signal that comes between steps 2 and 3 of the consumer. The producer takes the 1 back, so
// that a burst costs one signal: the consumer sets it again before it sleeps again.
#include "queue/channel.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <string>

#include "base/align.h"
#include "base/event_fd.h"
#include "base/mapped_memory.h"

namespace hbmesh {
namespace {

using layout::ChannelHeader;
using layout::Entry;
using layout::RingControl;

constexpr uint32_t kEntryCapacityMax = 1U << 20;
constexpr uint64_t kPayloadCapacityMin = 4096;
constexpr uint64_t kPayloadCapacityMax = 1ULL << 40;
constexpr uint64_t kPayloadAlignment = 8;

static_assert(std::atomic<uint64_t>::is_always_lock_free, "other processes share these words");
static_assert(std::atomic<uint32_t>::is_always_lock_free, "other processes share these words");

// Offsets of a channel, computed from the two capacities. REQUIRES: they are within the limits above.
struct Offsets {
  uint64_t entries[2];
  uint64_t payload[2];
  uint64_t total;
};

Offsets OffsetsOf(uint32_t entryCapacity, uint64_t payloadCapacity) {
  const uint64_t entryBytes = uint64_t{entryCapacity} * sizeof(Entry);
  const uint64_t first = layout::kChannelHeaderBytes;
  const uint64_t payload = first + 2 * entryBytes;
  return {{first, first + entryBytes}, {payload, payload + payloadCapacity}, payload + 2 * payloadCapacity};
}

bool CapacitiesValid(uint32_t entryCapacity, uint64_t payloadCapacity) {
  return IsPowerOfTwo(entryCapacity) && entryCapacity <= kEntryCapacityMax && IsPowerOfTwo(payloadCapacity) &&
         payloadCapacity >= kPayloadCapacityMin && payloadCapacity <= kPayloadCapacityMax;
}

Status Inconsistent(const std::string& what) {
  return {StatusCode::kDataInconsistency,
          "the peer broke the rules of the channel: " + what + "; the channel can't be used any more, connect again"};
}

// Copies an entry out word by word, each read once: what is checked is what is used, whatever the peer does meanwhile.
Entry CopyOut(const Entry* shared) {
  Entry entry;
  uint64_t words[sizeof(Entry) / sizeof(uint64_t)];
  const auto* from = reinterpret_cast<const uint64_t*>(shared);
  for (size_t i = 0; i < std::size(words); i++) {
    words[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
  }
  std::memcpy(&entry, words, sizeof(entry));
  return entry;
}

}  // namespace

struct Channel::Impl {
  // One direction as its user on this side sees it. Positions are private; `control` holds what is published.
  struct Ring {
    RingControl* control = nullptr;
    Entry* entries = nullptr;
    std::byte* payload = nullptr;
    uint64_t tail = 0;         // sender: next entry to write
    uint64_t payloadTail = 0;  // sender: payload bytes given out
    uint64_t head = 0;         // receiver: next entry to read. sender: the last value seen
    uint64_t payloadHead = 0;  // likewise
  };

  MappedMemory map;
  Fd memory;
  Fd ownedSidecarWake;  // side kPeer
  Fd peerWake;
  int sidecarWake = -1;
  int targetWake = -1;  // who receives what we send
  uint32_t entryCapacity = 0;
  uint64_t payloadCapacity = 0;
  Ring send;
  Ring receive;
  // Set by whichever thread found the fault, read by both. Relaxed: it publishes nothing else.
  std::atomic<bool> broken = false;

  void Bind(ChannelSide side);
  [[nodiscard]] Status Break(const std::string& what) {
    broken.store(true, std::memory_order_relaxed);
    return Inconsistent(what);
  }
  [[nodiscard]] Status RefreshHead();
  [[nodiscard]] bool Fits(uint64_t payloadPos, uint64_t paddedBytes) const {
    return send.tail - send.head < entryCapacity && payloadPos + paddedBytes - send.payloadHead <= payloadCapacity;
  }
  [[nodiscard]] bool PlaceValid(const Entry& entry) const;
  void Publish(const Entry& entry);
};

void Channel::Impl::Bind(ChannelSide side) {
  auto* header = reinterpret_cast<ChannelHeader*>(map.data());
  const Offsets offsets = OffsetsOf(entryCapacity, payloadCapacity);
  Ring* rings[2] = {side == ChannelSide::kPeer ? &send : &receive, side == ChannelSide::kPeer ? &receive : &send};
  for (size_t i = 0; i < 2; i++) {
    rings[i]->control = &header->ring[i];
    rings[i]->entries = reinterpret_cast<Entry*>(map.data() + offsets.entries[i]);
    rings[i]->payload = map.data() + offsets.payload[i];
  }
  targetWake = side == ChannelSide::kPeer ? sidecarWake : peerWake.get();
}

Channel::Channel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Channel::~Channel() = default;

Status Channel::Create(const ChannelOptions& options, int sidecarWake, std::unique_ptr<Channel>* channel) {
  if (!CapacitiesValid(options.entryCapacity, options.payloadCapacity)) {
    return {StatusCode::kInvalid, "channel of " + std::to_string(options.entryCapacity) + " entries and " +
                                      std::to_string(options.payloadCapacity) +
                                      " payload bytes: both must be powers of two, at most 2^20 entries and 2^12 to "
                                      "2^40 bytes"};
  }
  const Offsets offsets = OffsetsOf(options.entryCapacity, options.payloadCapacity);
  auto impl = std::make_unique<Impl>();
  if (Status status = CreateMemfd("hbmesh-channel", offsets.total, false, &impl->memory); !status.ok()) {
    return status;
  }
  if (Status status = MappedMemory::Map(impl->memory.get(), 0, offsets.total, true, &impl->map); !status.ok()) {
    return status;
  }
  if (Status status = CreateEventFd(&impl->peerWake); !status.ok()) {
    return status;
  }
  auto* header = new (impl->map.data()) ChannelHeader{};
  header->magic = layout::kChannelMagic;
  header->version = layout::kProtocolVersion;
  header->entryCapacity = options.entryCapacity;
  header->payloadCapacity = options.payloadCapacity;
  for (size_t i = 0; i < 2; i++) {
    header->entriesOffset[i] = offsets.entries[i];
    header->payloadOffset[i] = offsets.payload[i];
  }
  impl->sidecarWake = sidecarWake;
  impl->entryCapacity = options.entryCapacity;
  impl->payloadCapacity = options.payloadCapacity;
  impl->Bind(ChannelSide::kSidecar);
  channel->reset(new Channel(std::move(impl)));
  return Status::Ok();
}

Status Channel::Attach(Fd memory, Fd sidecarWake, Fd peerWake, std::unique_ptr<Channel>* channel) {
  uint64_t bytes = 0;
  if (Status status = CheckMemfd(memory.get(), &bytes); !status.ok()) {
    return status;
  }
  if (bytes < layout::kChannelHeaderBytes) {
    return Inconsistent("its memory has only " + std::to_string(bytes) + " bytes");
  }
  auto impl = std::make_unique<Impl>();
  if (Status status = MappedMemory::Map(memory.get(), 0, bytes, true, &impl->map); !status.ok()) {
    return status;
  }
  const auto* header = reinterpret_cast<const ChannelHeader*>(impl->map.data());
  if (header->magic != layout::kChannelMagic) {
    return Inconsistent("its memory doesn't begin with the magic number of a channel");
  }
  if (header->version != layout::kProtocolVersion) {
    return {StatusCode::kNotSupported, "the sidecar speaks channel version " + std::to_string(header->version) +
                                           ", this process version " + std::to_string(layout::kProtocolVersion) +
                                           ": install the same version of hbmesh on both sides"};
  }
  const uint32_t entryCapacity = header->entryCapacity;
  const uint64_t payloadCapacity = header->payloadCapacity;
  if (!CapacitiesValid(entryCapacity, payloadCapacity)) {
    return Inconsistent("its capacities are " + std::to_string(entryCapacity) + " and " +
                        std::to_string(payloadCapacity));
  }
  const Offsets offsets = OffsetsOf(entryCapacity, payloadCapacity);
  if (offsets.total > bytes || std::memcmp(header->entriesOffset, offsets.entries, sizeof(offsets.entries)) != 0 ||
      std::memcmp(header->payloadOffset, offsets.payload, sizeof(offsets.payload)) != 0) {
    return Inconsistent("its offsets don't follow from its capacities, or lie outside of its " + std::to_string(bytes) +
                        " bytes");
  }
  impl->memory = std::move(memory);
  impl->ownedSidecarWake = std::move(sidecarWake);
  impl->peerWake = std::move(peerWake);
  impl->sidecarWake = impl->ownedSidecarWake.get();
  impl->entryCapacity = entryCapacity;
  impl->payloadCapacity = payloadCapacity;
  impl->Bind(ChannelSide::kPeer);
  channel->reset(new Channel(std::move(impl)));
  return Status::Ok();
}

// Looks how far the consumer has come, and believes it only if that is a place it can have come to.
Status Channel::Impl::RefreshHead() {
  // Acquire: what lies below these positions has been copied out, and may be overwritten.
  const uint64_t head = send.control->head.load(std::memory_order_acquire);
  const uint64_t payloadHead = send.control->payloadHead.load(std::memory_order_acquire);
  if (head - send.head > send.tail - send.head ||
      payloadHead - send.payloadHead > send.payloadTail - send.payloadHead) {
    return Break("its consumer position is outside of what was sent");
  }
  send.head = head;
  send.payloadHead = payloadHead;
  return Status::Ok();
}

void Channel::Impl::Publish(const Entry& entry) {
  std::memcpy(&send.entries[send.tail & (entryCapacity - 1)], &entry, sizeof(entry));
  send.tail++;
  send.control->payloadTail.store(send.payloadTail, std::memory_order_relaxed);  // informative
  // Publishes the entry and its payload; its place in the total order is what the proof above needs.
  send.control->tail.store(send.tail, std::memory_order_seq_cst);
  if (send.control->consumerSleeps.load(std::memory_order_seq_cst) != 0 &&
      send.control->consumerSleeps.exchange(0, std::memory_order_seq_cst) != 0) {
    SignalEvent(targetWake);
  }
}

Status Channel::Send(const Entry& entry, std::span<const std::byte> payload) {
  return Send(entry, std::span<const std::span<const std::byte>>(&payload, 1));
}

Status Channel::Send(const Entry& entry, std::span<const std::span<const std::byte>> parts) {
  Impl& impl = *impl_;
  Impl::Ring& ring = impl.send;
  if (impl.broken.load(std::memory_order_relaxed)) {
    return Inconsistent("found earlier");
  }
  const uint64_t bytesMax = std::min<uint64_t>(impl.payloadCapacity / 2, UINT32_MAX);
  uint64_t bytes = 0;
  for (const auto part : parts) {
    if (!AddChecked(bytes, part.size(), &bytes) || bytes > bytesMax) {
      return {StatusCode::kOutOfRange, "a message of this channel has at most " + std::to_string(bytesMax) +
                                           " payload bytes: split the call into smaller batches"};
    }
  }
  const uint64_t padded = AlignUp(bytes, kPayloadAlignment);
  uint64_t pos = ring.payloadTail;
  const uint64_t offset = pos & (impl.payloadCapacity - 1);
  if (padded > impl.payloadCapacity - offset) {
    pos += impl.payloadCapacity - offset;  // a payload is contiguous: skip to the start of the ring
  }
  if (!impl.Fits(pos, padded)) {
    if (Status status = impl.RefreshHead(); !status.ok()) {
      return status;
    }
    if (!impl.Fits(pos, padded)) {
      return {StatusCode::kTryAgain, "the channel is full: receive completions, then send again"};
    }
  }
  std::byte* target = ring.payload + (pos & (impl.payloadCapacity - 1));
  for (const auto part : parts) {
    if (!part.empty()) {
      std::memcpy(target, part.data(), part.size());
      target += part.size();
    }
  }
  Entry placed = entry;
  placed.payloadPos = pos;
  placed.payloadBytes = static_cast<uint32_t>(bytes);
  ring.payloadTail = pos + padded;
  impl.Publish(placed);
  return Status::Ok();
}

// Payloads follow each other without gaps, but for the skip to the start of the ring: there is one valid position or
// two.
bool Channel::Impl::PlaceValid(const Entry& entry) const {
  const uint64_t padded = AlignUp(entry.payloadBytes, kPayloadAlignment);
  const uint64_t skipped = entry.payloadPos - receive.payloadHead;
  const uint64_t offset = entry.payloadPos & (payloadCapacity - 1);
  if (entry.payloadBytes > payloadCapacity / 2 || skipped >= payloadCapacity || skipped + padded > payloadCapacity) {
    return false;
  }
  return (skipped == 0 || offset == 0) && RangeInside(offset, padded, payloadCapacity);
}

Status Channel::Receive(Message* message, bool* received) {
  Impl& impl = *impl_;
  Impl::Ring& ring = impl.receive;
  if (impl.broken.load(std::memory_order_relaxed)) {
    return Inconsistent("found earlier");
  }
  const uint64_t tail = ring.control->tail.load(std::memory_order_acquire);  // entries and payloads below it are whole
  if (tail == ring.head) {
    *received = false;
    return Status::Ok();
  }
  if (tail - ring.head > impl.entryCapacity) {
    return impl.Break("its producer index is outside of the ring");
  }
  const Entry entry = CopyOut(&ring.entries[ring.head & (impl.entryCapacity - 1)]);
  if (!impl.PlaceValid(entry)) {
    return impl.Break("an entry has a payload of " + std::to_string(entry.payloadBytes) + " bytes at position " +
                      std::to_string(entry.payloadPos) + ", where none can be");
  }
  const std::byte* source = ring.payload + (entry.payloadPos & (impl.payloadCapacity - 1));
  message->entry = entry;
  message->payload.assign(source, source + entry.payloadBytes);
  ring.head++;
  ring.payloadHead = entry.payloadPos + AlignUp(entry.payloadBytes, kPayloadAlignment);
  // Release: everything was copied out, the producer may write there again.
  ring.control->payloadHead.store(ring.payloadHead, std::memory_order_release);
  ring.control->head.store(ring.head, std::memory_order_release);
  *received = true;
  return Status::Ok();
}

bool Channel::AllTaken() { return impl_->RefreshHead().ok() && impl_->send.head == impl_->send.tail; }

bool Channel::HasMessage() const {
  return impl_->receive.control->tail.load(std::memory_order_acquire) != impl_->receive.head;
}

bool Channel::PrepareSleep() {
  Impl::Ring& ring = impl_->receive;
  ring.control->consumerSleeps.store(1, std::memory_order_seq_cst);
  if (ring.control->tail.load(std::memory_order_seq_cst) == ring.head) {
    return true;
  }
  EndSleep();
  return false;
}

void Channel::EndSleep() {
  // Relaxed: at worst the producer signals once too often.
  impl_->receive.control->consumerSleeps.store(0, std::memory_order_relaxed);
}

int Channel::memoryFd() const { return impl_->memory.get(); }
int Channel::peerWakeFd() const { return impl_->peerWake.get(); }
int Channel::sidecarWakeFd() const { return impl_->sidecarWake; }

}  // namespace hbmesh
