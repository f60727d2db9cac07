// Goal: a channel delivers every message once, whole and in order, wakes its consumer, and survives the worst that a
// peer can do. Method: against a model of queues with random sizes; between two real processes with wake-ups and a
// death; and with a peer that scribbles over everything both can write.
#include "queue/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <random>
#include <thread>

#include "base/event_fd.h"
#include "base/mapped_memory.h"
#include "base/test_support.h"
#include "base/unix_socket.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;
using testing_support::Seed;
using Bytes = std::vector<std::byte>;

constexpr int kPatienceMs = 20'000;  // a wake-up that takes longer is lost

Fd Duplicate(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

// Both ends of a channel in one process, each with its own mapping.
struct Pair {
  explicit Pair(const ChannelOptions& options) {
    EXPECT_TRUE(CreateEventFd(&wake).ok());
    const Status made = Channel::Create(options, wake.get(), &sidecar);
    EXPECT_TRUE(made.ok()) << made.ToString();
    const Status attached =
        Channel::Attach(Duplicate(sidecar->memoryFd()), Duplicate(wake.get()), Duplicate(sidecar->peerWakeFd()), &peer);
    EXPECT_TRUE(attached.ok()) << attached.ToString();
  }
  Fd wake;
  std::unique_ptr<Channel> sidecar;
  std::unique_ptr<Channel> peer;
};

layout::Entry EntryOf(uint64_t id) {
  layout::Entry entry{};
  entry.id = id;
  entry.op = static_cast<uint16_t>(layout::Op::kExist);
  entry.count = static_cast<uint32_t>(id % 77);
  entry.args[3] = ~id;
  return entry;
}

void ExpectMessage(const Message& message, uint64_t id, const Bytes& payload) {
  EXPECT_EQ(message.entry.id, id);
  EXPECT_EQ(message.entry.op, static_cast<uint16_t>(layout::Op::kExist));
  EXPECT_EQ(message.entry.count, id % 77);
  EXPECT_EQ(message.entry.args[3], ~id);
  EXPECT_EQ(message.payload, payload);
}

TEST(Channel, AgreesWithAModelOfTwoQueues) {
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  Pair pair({.entryCapacity = 8, .payloadCapacity = 4096});
  Channel* ends[2] = {pair.peer.get(), pair.sidecar.get()};
  std::deque<std::pair<uint64_t, Bytes>> model[2];  // what is on its way from each end
  uint64_t nextId = 0;
  uint64_t full = 0;
  Message message;
  for (int step = 0; step < 200'000; step++) {
    const size_t from = random() % 2;
    if (random() % 2 == 0) {
      // Mostly small, sometimes of any size up to the limit, so that both limits (entries, bytes) are met.
      const Bytes payload = Pattern(nextId, random() % (random() % 4 == 0 ? 2049 : 200));
      const size_t cut = payload.empty() ? 0 : random() % payload.size();
      const std::span<const std::byte> parts[2] = {std::span(payload).first(cut), std::span(payload).subspan(cut)};
      const Status sent = ends[from]->Send(EntryOf(nextId), parts);
      if (sent.ok()) {
        model[from].emplace_back(nextId++, payload);
        ASSERT_LE(model[from].size(), 8U);
      } else {
        ASSERT_EQ(sent.code(), StatusCode::kTryAgain) << sent.ToString();
        ASSERT_FALSE(model[from].empty()) << "an empty ring takes every message that can fit";
        full++;
      }
    } else {
      bool received = false;
      EXPECT_EQ(ends[1 - from]->HasMessage(), !model[from].empty());
      ASSERT_TRUE(ends[1 - from]->Receive(&message, &received).ok());
      ASSERT_EQ(received, !model[from].empty());
      if (received) {
        ExpectMessage(message, model[from].front().first, model[from].front().second);
        model[from].pop_front();
      }
    }
    ASSERT_FALSE(HasFailure()) << "step " << step;
  }
  EXPECT_GT(full, 0U);
}

TEST(Channel, TakesPayloadsUpToHalfOfTheRing) {
  Pair pair({.entryCapacity = 4, .payloadCapacity = 4096});
  const Bytes half = Pattern(1, 2048);
  const Bytes above = Pattern(1, 2049);
  Message message;
  bool received = false;
  // From every place of the ring, since a payload must not wrap.
  for (uint64_t id = 0; id < 600; id++) {
    ASSERT_TRUE(pair.peer->Send(EntryOf(id), half).ok()) << id;
    ASSERT_TRUE(pair.sidecar->Receive(&message, &received).ok() && received);
    ExpectMessage(message, id, half);
    ASSERT_TRUE(pair.peer->Send(EntryOf(id), std::span(half).first(8)).ok());
    ASSERT_TRUE(pair.sidecar->Receive(&message, &received).ok() && received);
  }
  const Status refused = pair.peer->Send(EntryOf(7), above);
  EXPECT_EQ(refused.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(refused.message(),
            "a message of this channel has at most 2048 payload bytes: split the call into smaller batches");
  EXPECT_FALSE(pair.sidecar->HasMessage());
}

TEST(Channel, IsFullAtItsCapacityAndTakesMoreAfterAReceive) {
  Pair pair({.entryCapacity = 4, .payloadCapacity = 4096});
  for (uint64_t id = 0; id < 4; id++) {
    ASSERT_TRUE(pair.sidecar->Send(EntryOf(id), std::span<const std::byte>{}).ok());
  }
  const Status full = pair.sidecar->Send(EntryOf(4), std::span<const std::byte>{});
  EXPECT_EQ(full.code(), StatusCode::kTryAgain);
  EXPECT_EQ(full.message(), "the channel is full: receive completions, then send again");
  Message message;
  bool received = false;
  ASSERT_TRUE(pair.peer->Receive(&message, &received).ok() && received);
  ExpectMessage(message, 0, {});
  EXPECT_TRUE(pair.sidecar->Send(EntryOf(4), std::span<const std::byte>{}).ok());
}

TEST(Channel, WakesOnlyAConsumerThatSleeps) {
  Pair pair({});
  Message message;
  bool received = false;
  ASSERT_TRUE(pair.peer->Send(EntryOf(1), std::span<const std::byte>{}).ok());
  EXPECT_FALSE(DrainEvent(pair.wake.get()));
  EXPECT_FALSE(pair.sidecar->PrepareSleep()) << "something is there";
  ASSERT_TRUE(pair.sidecar->Receive(&message, &received).ok() && received);
  EXPECT_TRUE(pair.sidecar->PrepareSleep());
  for (uint64_t id = 2; id < 4; id++) {
    ASSERT_TRUE(pair.peer->Send(EntryOf(id), std::span<const std::byte>{}).ok());
  }
  EXPECT_TRUE(DrainEvent(pair.wake.get()));
  pair.sidecar->EndSleep();
  ASSERT_TRUE(pair.peer->Send(EntryOf(4), std::span<const std::byte>{}).ok());
  EXPECT_FALSE(DrainEvent(pair.wake.get()));
}

// ----- two processes -----

// Receives one message, sleeping on `wake` while there is none. False: no wake-up came in time, or the channel is
// broken.
bool ReceiveOrSleep(Channel* channel, int wake, Message* message) {
  for (;;) {
    bool received = false;
    if (!channel->Receive(message, &received).ok()) {
      return false;
    }
    if (received) {
      return true;
    }
    if (channel->PrepareSleep()) {
      const bool woken = WaitEvent(wake, kPatienceMs);
      channel->EndSleep();
      if (!woken) {
        return false;
      }
    }
  }
}

// The peer process: answers each message with the same id and payload, until id 0 arrives. Returns its exit code.
int EchoUntilZero(Channel* channel, int wake) {
  Message message;
  for (;;) {
    if (!ReceiveOrSleep(channel, wake, &message)) {
      return 2;
    }
    if (message.entry.id == 0) {
      return 0;
    }
    if (message.payload != Pattern(message.entry.id, message.payload.size())) {
      return 3;
    }
    Status sent = channel->Send(message.entry, message.payload);
    while (sent.code() == StatusCode::kTryAgain) {
      ::sched_yield();
      sent = channel->Send(message.entry, message.payload);
    }
    if (!sent.ok()) {
      return 4;
    }
  }
}

// A forked process that runs EchoUntilZero over descriptors it got through a socket, as a client does.
struct EchoProcess {
  explicit EchoProcess(const ChannelOptions& options) {
    EXPECT_TRUE(CreateEventFd(&wake).ok());
    EXPECT_TRUE(Channel::Create(options, wake.get(), &channel).ok());
    Fd theirs;
    EXPECT_TRUE(UnixPair(&socket, &theirs).ok());
    pid = ::fork();
    if (pid == 0) {
      socket.Reset();
      ::_exit(Run(theirs.get()));
    }
    theirs.Reset();
    const std::byte hello{1};
    const int descriptors[3] = {channel->memoryFd(), wake.get(), channel->peerWakeFd()};
    EXPECT_TRUE(SendPacket(socket.get(), {&hello, 1}, descriptors).ok());
  }
  static int Run(int socket) {
    std::byte hello{};
    Packet packet;
    if (!ReceivePacket(socket, {&hello, 1}, &packet).ok() || packet.descriptors.size() != 3) {
      return 5;
    }
    const int peerWake = packet.descriptors[2].get();
    std::unique_ptr<Channel> attached;
    const Status status = Channel::Attach(std::move(packet.descriptors[0]), std::move(packet.descriptors[1]),
                                          std::move(packet.descriptors[2]), &attached);
    return status.ok() ? EchoUntilZero(attached.get(), peerWake) : 6;
  }
  int Wait() {
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return status;
  }
  Fd wake;
  Fd socket;
  std::unique_ptr<Channel> channel;
  pid_t pid = -1;
};

TEST(ChannelProcesses, ExchangeMessagesAndNeverLoseAWakeUp) {
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  EchoProcess echo({.entryCapacity = 64, .payloadCapacity = 1 << 18});
  // Bursts of random length, one message at the least, so that both sides sleep again and again, and fill up at times.
  constexpr uint64_t kMessages = 100'000;
  uint64_t sent = 0;
  uint64_t answered = 0;
  Message message;
  while (answered < kMessages) {
    uint64_t burst = 1 + random() % (random() % 8 == 0 ? 64 : 4);
    while (burst-- > 0 && sent < kMessages && sent - answered < 64) {
      const uint64_t id = sent + 1;
      ASSERT_TRUE(echo.channel->Send(EntryOf(id), Pattern(id, id % 1021)).ok());
      sent = id;
    }
    const uint64_t until = random() % 4 == 0 ? sent : answered + 1;
    while (answered < until) {
      ASSERT_TRUE(ReceiveOrSleep(echo.channel.get(), echo.wake.get(), &message)) << "after " << answered;
      answered++;
      ASSERT_EQ(message.entry.id, answered);
      ASSERT_EQ(message.payload, Pattern(answered, answered % 1021));
    }
  }
  ASSERT_TRUE(echo.channel->Send(EntryOf(0), std::span<const std::byte>{}).ok());
  EXPECT_EQ(echo.Wait(), 0);
}

TEST(ChannelProcesses, KeepWhatAPeerSentBeforeItWasKilled) {
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20; round++) {
    EchoProcess echo({.entryCapacity = 64, .payloadCapacity = 1 << 18});
    const uint64_t killAfter = 1 + random() % 500;
    uint64_t sent = 0;
    uint64_t answered = 0;
    Message message;
    while (answered < killAfter) {
      while (sent - answered < 32) {
        ++sent;
        ASSERT_TRUE(echo.channel->Send(EntryOf(sent), Pattern(sent, sent % 1021)).ok());
      }
      ASSERT_TRUE(ReceiveOrSleep(echo.channel.get(), echo.wake.get(), &message));
      ASSERT_EQ(message.entry.id, ++answered);
    }
    ASSERT_EQ(::kill(echo.pid, SIGKILL), 0);
    // The socket tells of the death.
    std::byte rest{};
    Packet packet;
    EXPECT_EQ(ReceivePacket(echo.socket.get(), {&rest, 1}, &packet).code(), StatusCode::kRpcPeerDead);
    EXPECT_TRUE(WIFSIGNALED(echo.Wait()));
    bool received = true;
    for (;;) {
      ASSERT_TRUE(echo.channel->Receive(&message, &received).ok());
      if (!received) {
        break;
      }
      ASSERT_EQ(message.entry.id, ++answered);
      ASSERT_EQ(message.payload, Pattern(answered, answered % 1021));
    }
    EXPECT_LE(answered, sent);
    // Sending to nobody fills up, and does no harm.
    Status status = Status::Ok();
    for (int i = 0; i < 65 && status.ok(); i++) {
      status = echo.channel->Send(EntryOf(1), std::span<const std::byte>{});
    }
    EXPECT_EQ(status.code(), StatusCode::kTryAgain);
  }
}

// ----- a hostile peer -----

struct Hostile {
  Hostile() : pair({.entryCapacity = 8, .payloadCapacity = 4096}) {
    uint64_t bytes = 0;
    EXPECT_TRUE(CheckMemfd(pair.sidecar->memoryFd(), &bytes).ok());
    EXPECT_TRUE(MappedMemory::Map(pair.sidecar->memoryFd(), 0, bytes, true, &map).ok());
    header = reinterpret_cast<layout::ChannelHeader*>(map.data());
    entries = reinterpret_cast<layout::Entry*>(map.data() + layout::kChannelHeaderBytes);
  }
  Status Receive() {
    Message message;
    bool received = false;
    return pair.sidecar->Receive(&message, &received);
  }
  void ExpectBroken() {
    EXPECT_EQ(Receive().code(), StatusCode::kDataInconsistency);
    EXPECT_EQ(pair.sidecar->Send(EntryOf(1), std::span<const std::byte>{}).code(), StatusCode::kDataInconsistency);
    EXPECT_EQ(Receive().code(), StatusCode::kDataInconsistency) << "it stays unusable";
  }
  Pair pair;
  MappedMemory map;
  layout::ChannelHeader* header;
  layout::Entry* entries;
};

TEST(ChannelHostile, ProducerIndexOutsideOfTheRing) {
  for (const uint64_t tail : {uint64_t{9}, UINT64_MAX, UINT64_MAX - 3, uint64_t{1} << 63}) {
    Hostile hostile;
    hostile.header->ring[0].tail = tail;
    hostile.ExpectBroken();
  }
}

TEST(ChannelHostile, PayloadOutsideOfTheRing) {
  struct Case {
    uint64_t pos;
    uint32_t bytes;
  };
  // Too long; beyond the end; from a place that was not given out; unaligned; sums that overflow.
  for (const Case wrong :
       {Case{0, 2049}, Case{0, UINT32_MAX}, Case{4096, 8}, Case{8, 8}, Case{4, 8}, Case{1ULL << 63, 8},
        Case{UINT64_MAX, 8}, Case{UINT64_MAX - 7, 2048}, Case{UINT64_MAX - 4095, 2048}}) {
    Hostile hostile;
    hostile.entries[0] = EntryOf(1);
    hostile.entries[0].payloadPos = wrong.pos;
    hostile.entries[0].payloadBytes = wrong.bytes;
    hostile.header->ring[0].tail = 1;
    hostile.ExpectBroken();
  }
}

TEST(ChannelHostile, ConsumerPositionOutsideOfWhatWasSent) {
  for (const uint64_t head : {uint64_t{9}, UINT64_MAX, uint64_t{1} << 63}) {
    Hostile hostile;
    for (uint64_t id = 0; id < 8; id++) {
      ASSERT_TRUE(hostile.pair.sidecar->Send(EntryOf(id), Pattern(id, 8)).ok());
    }
    hostile.header->ring[1].head = head;
    EXPECT_EQ(hostile.pair.sidecar->Send(EntryOf(8), Pattern(8, 8)).code(), StatusCode::kDataInconsistency);
    hostile.ExpectBroken();
  }
  Hostile hostile;
  ASSERT_TRUE(hostile.pair.sidecar->Send(EntryOf(1), Pattern(1, 2048)).ok());
  ASSERT_TRUE(hostile.pair.sidecar->Send(EntryOf(1), Pattern(1, 2048)).ok());
  hostile.header->ring[1].payloadHead = 4104;
  EXPECT_EQ(hostile.pair.sidecar->Send(EntryOf(2), Pattern(1, 8)).code(), StatusCode::kDataInconsistency);
}

TEST(ChannelHostile, AnyScribbleEndsInAStatus) {
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  int broken = 0;
  for (int round = 0; round < 3000; round++) {
    Hostile hostile;
    for (int i = 0; i < 20; i++) {
      (void)hostile.pair.peer->Send(EntryOf(1), Pattern(1, random() % 512));
      // One word anywhere in the ring controls or in the entries of either ring gets a value near to, or far from a
      // good one.
      const uint64_t controlBytes = offsetof(layout::ChannelHeader, ring) + sizeof(hostile.header->ring);
      const uint64_t offset = random() % 2 == 0
                                  ? random() % controlBytes
                                  : layout::kChannelHeaderBytes + random() % (2 * 8 * sizeof(layout::Entry));
      const uint64_t value = random() % 2 == 0 ? random() : random() % 16;
      std::memcpy(hostile.map.data() + offset / 8 * 8, &value, sizeof(value));
      const Status received = hostile.Receive();
      const Status sent = hostile.pair.sidecar->Send(EntryOf(2), Pattern(2, random() % 2049));
      ASSERT_TRUE(received.ok() || received.code() == StatusCode::kDataInconsistency) << received.ToString();
      ASSERT_TRUE(sent.ok() || sent.code() == StatusCode::kTryAgain || sent.code() == StatusCode::kDataInconsistency);
      broken += received.ok() ? 0 : 1;
      (void)hostile.pair.sidecar->PrepareSleep();
    }
  }
  EXPECT_GT(broken, 0);
}

TEST(ChannelHostile, ScribblesWhileTheOtherSideWorks) {
  const uint64_t seed = Seed();
  for (int round = 0; round < 50; round++) {
    Hostile hostile;
    std::atomic<bool> stop = false;
    std::thread scribbler([&] {
      std::mt19937_64 random(seed + static_cast<uint64_t>(round));
      auto* words = reinterpret_cast<uint64_t*>(hostile.map.data());
      while (!stop.load(std::memory_order_relaxed)) {
        const uint64_t word = random() % ((layout::kChannelHeaderBytes + 16 * sizeof(layout::Entry)) / 8);
        __atomic_store_n(words + word, random() % 3 == 0 ? random() : random() % 8, __ATOMIC_RELAXED);
      }
    });
    for (int i = 0; i < 2000; i++) {
      (void)hostile.Receive();
      (void)hostile.pair.sidecar->Send(EntryOf(1), Pattern(1, 64));
    }
    stop.store(true, std::memory_order_relaxed);
    scribbler.join();
  }
}

TEST(ChannelAttach, RefusesWhatIsNoChannel) {
  const auto attach = [](Fd memory) {
    std::unique_ptr<Channel> channel;
    return Channel::Attach(std::move(memory), Fd(), Fd(), &channel);
  };
  Fd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 1 << 20), 0);
  EXPECT_EQ(attach(std::move(unsealed)).code(), StatusCode::kDataInconsistency);
  Fd small;
  ASSERT_TRUE(CreateMemfd("small", 100, false, &small).ok());
  EXPECT_EQ(attach(std::move(small)).code(), StatusCode::kDataInconsistency);
  Fd zeros;
  ASSERT_TRUE(CreateMemfd("zeros", 1 << 20, false, &zeros).ok());
  EXPECT_EQ(attach(std::move(zeros)).code(), StatusCode::kDataInconsistency);

  // One field changed at a time.
  struct Case {
    size_t offset;
    uint32_t value;
    StatusCode code;
  };
  using layout::ChannelHeader;
  for (const Case wrong : {Case{offsetof(ChannelHeader, version), 2, StatusCode::kNotSupported},
                           Case{offsetof(ChannelHeader, entryCapacity), 0, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, entryCapacity), 12, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, entryCapacity), 1 << 19, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, payloadCapacity), 8192, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, payloadCapacity) + 4, 1 << 20, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, entriesOffset), 8192, StatusCode::kDataInconsistency},
                           Case{offsetof(ChannelHeader, payloadOffset) + 8, 0, StatusCode::kDataInconsistency}}) {
    Hostile hostile;
    std::memcpy(hostile.map.data() + wrong.offset, &wrong.value, sizeof(wrong.value));
    EXPECT_EQ(attach(Duplicate(hostile.pair.sidecar->memoryFd())).code(), wrong.code) << wrong.offset;
  }
}

TEST(ChannelCreate, RefusesCapacitiesThatAreNoPowersOfTwo) {
  std::unique_ptr<Channel> channel;
  EXPECT_EQ(Channel::Create({.entryCapacity = 1000}, -1, &channel).code(), StatusCode::kInvalid);
  EXPECT_EQ(Channel::Create({.payloadCapacity = 5000}, -1, &channel).code(), StatusCode::kInvalid);
  EXPECT_EQ(Channel::Create({.payloadCapacity = 2048}, -1, &channel).code(), StatusCode::kInvalid);
  EXPECT_EQ(channel, nullptr);
}

TEST(FormatsDocument, ShowsWhatAChannelHolds) {
  const Bytes example = testing_support::ReadExample("channel");
  ASSERT_EQ(example.size(), 0x2108U) << "docs/FORMATS.md has no such example";
  Fd wake;
  ASSERT_TRUE(CreateEventFd(&wake).ok());
  std::unique_ptr<Channel> channel;
  ASSERT_TRUE(Channel::Create({.entryCapacity = 2, .payloadCapacity = 4096}, wake.get(), &channel).ok());
  layout::Entry entry{};
  entry.id = 7;
  entry.op = static_cast<uint16_t>(layout::Op::kExist);
  entry.flags = layout::kFlagReply;
  entry.count = 1;
  entry.args[0] = 3;
  ASSERT_TRUE(channel->Send(entry, std::as_bytes(std::span("pong", 4))).ok());
  MappedMemory map;
  ASSERT_TRUE(MappedMemory::Map(channel->memoryFd(), 0, example.size(), false, &map).ok());
  EXPECT_EQ(Bytes(map.data(), map.data() + example.size()), example);
}

}  // namespace
}  // namespace hbmesh
