// Goal: every transport keeps the promises of transport.h, and a new one shows it by being added to the list at the
// end. Method: two transports in this process connected to each other, real bytes compared with what was there before;
// a second process where a death is needed. HBMESH_SEED repeats a random run.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

constexpr uint64_t kMemoryBytes = 24 << 20;

class TransportConformance : public testing::TestWithParam<std::string> {
 protected:
  TransportConformance() : ownerMemory_(kMemoryBytes), readerMemory_(kMemoryBytes) {}

  void SetUp() override {
    ASSERT_EQ(CreateTransport(GetParam(), options_, &ownerSink_, &owner_).ToString(), Status::Ok().ToString());
    ASSERT_EQ(CreateTransport(GetParam(), options_, &readerSink_, &reader_).ToString(), Status::Ok().ToString());
    ASSERT_EQ(owner_->Listen(ListenAddress(GetParam())).ToString(), Status::Ok().ToString());
    ownerRegion_ = ownerMemory_.Register(*owner_, true);
    readerRegion_ = readerMemory_.Register(*reader_, true);
    FillPattern(ownerMemory_.memory.span(), 1);
    FillPattern(readerMemory_.memory.span(), 2);
    ASSERT_EQ(reader_->Connect(owner_->address(), 2, kConnectToken, &toOwner_).ToString(), Status::Ok().ToString());
    ASSERT_EQ(readerSink_.Wait(kConnectToken).ToString(), Status::Ok().ToString());
    toReader_ = ownerSink_.WaitAccepted();
    ASSERT_NE(toReader_, nullptr);
  }

  void TearDown() override {
    toOwner_.reset();
    toReader_.reset();
    reader_.reset();
    owner_.reset();  // accepts nobody any more
    ownerSink_.CloseAccepted();
  }

  [[nodiscard]] RemoteRange Owner(uint64_t offset, uint64_t bytes) const {
    return {.region = ownerRegion_.id, .offset = offset, .bytes = bytes};
  }
  Status Read(const RemoteRange& range, std::span<const LocalPiece> pieces, uint32_t lane = 0) {
    const uint64_t token = ++token_;
    const Status accepted = toOwner_->Read(range, pieces, lane, token);
    return accepted.ok() ? readerSink_.Wait(token) : accepted;
  }
  Status Write(std::span<const LocalPiece> pieces, const RemoteRange& range, uint32_t lane = 0) {
    const uint64_t token = ++token_;
    const Status accepted = toOwner_->Write(pieces, range, lane, token);
    return accepted.ok() ? readerSink_.Wait(token) : accepted;
  }
  // A read that must work, to show that a fault before it broke nothing.
  void ExpectStillWorks() {
    const LocalPiece piece{readerMemory_.data(), 1000};
    ASSERT_EQ(Read(Owner(777, 1000), {&piece, 1}).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(readerMemory_.data(), ownerMemory_.data() + 777, 1000), 0);
  }

  static constexpr uint64_t kConnectToken = 1'000'000'000;
  TransportOptions options_;
  SharedMemory ownerMemory_;
  SharedMemory readerMemory_;
  CollectingSink ownerSink_;
  CollectingSink readerSink_;
  std::unique_ptr<Transport> owner_;
  std::unique_ptr<Transport> reader_;
  MemoryRegion ownerRegion_;
  MemoryRegion readerRegion_;
  std::unique_ptr<Endpoint> toOwner_;
  std::unique_ptr<Endpoint> toReader_;
  uint64_t token_ = 0;
};

TEST_P(TransportConformance, ReadsAndWritesEverySizeAndNoByteBeside) {
  for (const uint64_t bytes : {1ULL, 2ULL, 63ULL, 64ULL, 65ULL, 511ULL, 4095ULL, 4097ULL, 32768ULL, 32769ULL, 65535ULL,
                               65537ULL, 1048576ULL, 1048577ULL, 5242883ULL}) {
    SCOPED_TRACE("size " + std::to_string(bytes));
    const uint64_t offset = 1 + bytes % 61;
    std::byte* target = readerMemory_.data() + 3;
    FillPattern({target - 1, bytes + 2}, bytes);
    const std::byte before = target[-1];
    const std::byte after = target[bytes];
    const LocalPiece piece{target, bytes};
    ASSERT_EQ(Read(Owner(offset, bytes), {&piece, 1}, 1).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(target, ownerMemory_.data() + offset, bytes), 0);
    ASSERT_EQ(target[-1], before);
    ASSERT_EQ(target[bytes], after);

    FillPattern({target, bytes}, bytes + 1000);
    const std::byte ownerBefore = ownerMemory_.data()[offset - 1];
    const std::byte ownerAfter = ownerMemory_.data()[offset + bytes];
    ASSERT_EQ(Write({&piece, 1}, Owner(offset, bytes), 1).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(target, ownerMemory_.data() + offset, bytes), 0);
    ASSERT_EQ(ownerMemory_.data()[offset - 1], ownerBefore);
    ASSERT_EQ(ownerMemory_.data()[offset + bytes], ownerAfter);
  }
}

TEST_P(TransportConformance, ScattersAndGathersManyPieces) {
  std::vector<LocalPiece> pieces;
  uint64_t total = 0;
  uint64_t position = 5;
  for (uint64_t index = 0; index < 3000; ++index) {
    const uint64_t bytes = 1 + index * 37 % 2500;
    pieces.push_back({readerMemory_.data() + position, bytes});
    position += bytes + 7;
    total += bytes;
  }
  ASSERT_LT(position, kMemoryBytes);
  ASSERT_EQ(Read(Owner(123, total), pieces).ToString(), Status::Ok().ToString());
  const std::byte* expected = ownerMemory_.data() + 123;
  for (const LocalPiece& piece : pieces) {
    ASSERT_EQ(std::memcmp(piece.address, expected, piece.bytes), 0);
    FillPattern({piece.address, piece.bytes}, piece.bytes);
    expected += piece.bytes;
  }
  ASSERT_EQ(Write(pieces, Owner(456, total)).ToString(), Status::Ok().ToString());
  expected = ownerMemory_.data() + 456;
  for (const LocalPiece& piece : pieces) {
    ASSERT_EQ(std::memcmp(piece.address, expected, piece.bytes), 0);
    expected += piece.bytes;
  }
}

TEST_P(TransportConformance, ReadsStartedTogetherStopAtTheFirstThatIsRefused) {
  constexpr size_t kReads = 150;  // more than one system call takes
  constexpr size_t kRefused = 140;
  std::vector<LocalPiece> pieces;
  std::vector<ReadRequest> requests;
  uint64_t position = 0;
  for (uint64_t index = 0; index < kReads; ++index) {
    const uint64_t bytes = 1 + index * 977 % 100'000;
    pieces.push_back({readerMemory_.data() + position, bytes});
    position += bytes;
  }
  ASSERT_LT(position, kMemoryBytes);
  for (size_t index = 0; index < kReads; ++index) {
    // Lanes beyond those that there are count round.
    requests.push_back(
        {Owner(index * 31, pieces[index].bytes), {&pieces[index], 1}, static_cast<uint32_t>(index % 3), ++token_});
  }
  requests[kRefused].source.bytes += 1;  // not what its piece holds
  Status status;
  ASSERT_EQ(toOwner_->ReadEach(requests, &status), kRefused);
  ASSERT_EQ(status.code(), StatusCode::kInvalid) << status.ToString();
  ASSERT_EQ(toOwner_->ReadEach(std::span(requests).subspan(kRefused + 1), &status), kReads - kRefused - 1);
  ASSERT_EQ(status.ToString(), Status::Ok().ToString());
  ASSERT_EQ(toOwner_->ReadEach({}, &status), 0U);
  for (size_t index = 0; index < kReads; ++index) {
    if (index == kRefused) continue;
    ASSERT_EQ(readerSink_.Wait(requests[index].token).ToString(), Status::Ok().ToString()) << index;
    ASSERT_EQ(std::memcmp(pieces[index].address, ownerMemory_.data() + index * 31, pieces[index].bytes), 0) << index;
  }
  ExpectStillWorks();
}

TEST_P(TransportConformance, RefusesWhenTooMuchIsOutstandingAndCompletesTheRestOnce) {
  std::vector<uint64_t> accepted;
  bool refused = false;
  for (uint64_t index = 0; index < 100'000 && !refused; ++index) {
    const uint64_t token = ++token_;
    const LocalPiece piece{readerMemory_.data() + index % 100 * 100'000, 100'000};
    const Status status = toOwner_->Read(Owner(index % 1000, 100'000), {&piece, 1}, 0, token);
    if (status.ok()) {
      accepted.push_back(token);
    } else {
      refused = true;
      EXPECT_EQ(status.code(), StatusCode::kTryAgain) << status.ToString();
      EXPECT_NE(status.message().find("retry"), std::string::npos);
    }
  }
  EXPECT_TRUE(refused) << "the number of outstanding requests has no limit";
  for (const uint64_t token : accepted) EXPECT_EQ(readerSink_.Wait(token).ToString(), Status::Ok().ToString());
  for (const uint64_t token : accepted) EXPECT_EQ(readerSink_.count(token), 1);
  ExpectStillWorks();
}

// Both sides ask for more than all socket buffers hold before anything is taken: a side that stopped receiving in order
// to send would stop the other for ever.
TEST_P(TransportConformance, BothEndsReadFromEachOtherWithoutDeadlock) {
  constexpr uint64_t kBytes = 4 << 20;
  constexpr uint64_t kRequests = 24;
  constexpr uint64_t kHalf = kMemoryBytes / 2;  // each side serves its upper half and receives into the lower
  for (uint64_t index = 0; index < kRequests; ++index) {
    const uint64_t slot = index % 2 * kBytes;
    const LocalPiece mine{readerMemory_.data() + slot, kBytes};
    const LocalPiece its{ownerMemory_.data() + slot, kBytes};
    const RemoteRange fromReader{.region = readerRegion_.id, .offset = kHalf + slot, .bytes = kBytes};
    ASSERT_EQ(toOwner_->Read(Owner(kHalf + slot, kBytes), {&mine, 1}, index % 2, index + 1).ToString(), "OK");
    ASSERT_EQ(toReader_->Read(fromReader, {&its, 1}, index % 2, index + 1).ToString(), "OK");
  }
  for (uint64_t index = 0; index < kRequests; ++index) {
    EXPECT_EQ(readerSink_.Wait(index + 1).ToString(), Status::Ok().ToString());
    EXPECT_EQ(ownerSink_.Wait(index + 1).ToString(), Status::Ok().ToString());
  }
  EXPECT_EQ(std::memcmp(readerMemory_.data(), ownerMemory_.data() + kHalf, 2 * kBytes), 0);
  EXPECT_EQ(std::memcmp(ownerMemory_.data(), readerMemory_.data() + kHalf, 2 * kBytes), 0);
}

TEST_P(TransportConformance, FaultsAreNamedAndBreakNothingElse) {
  std::byte local[64]{};
  const LocalPiece piece{local, sizeof local};
  const std::span<const LocalPiece> pieces(&piece, 1);

  Status status = Read({.region = 4242, .offset = 0, .bytes = 64}, pieces);
  EXPECT_EQ(status.code(), StatusCode::kNotFound) << status.ToString();
  EXPECT_NE(status.message().find("4242"), std::string::npos);
  status = Read(Owner(kMemoryBytes - 63, 64), pieces);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange) << status.ToString();
  EXPECT_NE(status.message().find(std::to_string(kMemoryBytes)), std::string::npos);
  EXPECT_EQ(Read(Owner(UINT64_MAX - 10, 64), pieces).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(Write(pieces, Owner(kMemoryBytes - 63, 64)).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(Write(pieces, {.region = 4242, .offset = 0, .bytes = 64}).code(), StatusCode::kNotFound);
  ExpectStillWorks();

  EXPECT_EQ(Read(Owner(0, 63), pieces).code(), StatusCode::kInvalid);
  EXPECT_EQ(Read(Owner(0, 0), {}).code(), StatusCode::kInvalid);
  const LocalPiece huge[] = {{local, UINT64_MAX}, {local, 65}};
  EXPECT_EQ(Read(Owner(0, 64), huge).code(), StatusCode::kInvalid);
  const LocalPiece nowhere{nullptr, 64};
  EXPECT_EQ(Read(Owner(0, 64), {&nowhere, 1}).code(), StatusCode::kInvalid);
  ExpectStillWorks();
}

TEST_P(TransportConformance, LargeWriteToReadOnlyMemoryIsRefused) {
  SharedMemory readOnly(4 << 20);
  const MemoryRegion region = readOnly.Register(*owner_, false);
  const LocalPiece piece{readerMemory_.data(), 4 << 20};
  const RemoteRange range{.region = region.id, .offset = 0, .bytes = 4 << 20};
  const Status status = Write({&piece, 1}, range);
  EXPECT_EQ(status.code(), StatusCode::kNotAuthorized) << status.ToString();
  EXPECT_EQ(readOnly.data()[100], std::byte{0});
  EXPECT_EQ(Read(range, {&piece, 1}).ToString(), Status::Ok().ToString());
  ExpectStillWorks();
  owner_->UnregisterMemory(region.id);
}

TEST_P(TransportConformance, UnregisteredMemoryIsOutOfReachAndItsNumberIsNotUsedAgain) {
  SharedMemory memory(8 << 20);
  const MemoryRegion region = memory.Register(*owner_, false);
  const RemoteRange range{.region = region.id, .offset = 0, .bytes = 8 << 20};
  for (uint64_t token = 1; token <= 8; ++token) {
    const LocalPiece piece{readerMemory_.data() + (token % 2) * (8 << 20), 8 << 20};
    ASSERT_EQ(toOwner_->Read(range, {&piece, 1}, 0, token).ToString(), Status::Ok().ToString());
  }
  owner_->UnregisterMemory(region.id);  // in the middle of them: each works, or finds the region gone
  FillPattern(memory.memory.span(), 3);
  for (uint64_t token = 1; token <= 8; ++token) {
    const Status status = readerSink_.Wait(token);
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kNotFound) << status.ToString();
  }
  token_ = 100;
  const LocalPiece piece{readerMemory_.data(), 8 << 20};
  EXPECT_EQ(Read(range, {&piece, 1}).code(), StatusCode::kNotFound);
  EXPECT_NE(memory.Register(*owner_, false).id, region.id);
  ExpectStillWorks();
}

TEST_P(TransportConformance, MessagesArriveInOrderUpToTheirLimit) {
  const uint32_t limit = reader_->capabilities().messageBytesMax;
  ASSERT_GE(limit, 4096U);
  std::vector<std::byte> message(limit + 1);
  FillPattern(message, 9);
  const Status status = toOwner_->Send(message);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange) << status.ToString();
  for (uint32_t number = 0; number < 500; ++number) {
    const size_t bytes = number % 50 == 0 ? limit : 4 + number;
    std::memcpy(message.data(), &number, sizeof number);
    Status sent = toOwner_->Send({message.data(), bytes});
    for (; sent.code() == StatusCode::kTryAgain; sent = toOwner_->Send({message.data(), bytes})) ::sched_yield();
    ASSERT_EQ(sent.ToString(), Status::Ok().ToString());
  }
  for (uint32_t number = 0; number < 500; ++number) {
    const CollectingSink::Message received = ownerSink_.WaitMessage();
    uint32_t got = 0;
    ASSERT_GE(received.bytes.size(), sizeof got);
    std::memcpy(&got, received.bytes.data(), sizeof got);
    ASSERT_EQ(got, number);
    ASSERT_EQ(received.bytes.size(), number % 50 == 0 ? limit : 4 + number);
    ASSERT_EQ(received.endpoint, toReader_->id());
    ASSERT_EQ(std::memcmp(received.bytes.data() + 4, message.data() + 4, received.bytes.size() - 4), 0);
  }
}

TEST_P(TransportConformance, ClosingCompletesEachOutstandingRequestOnce) {
  std::vector<uint64_t> accepted;
  for (uint64_t token = 1; token <= 64; ++token) {
    const LocalPiece piece{readerMemory_.data() + (token % 8) * (2 << 20), 2 << 20};
    if (toOwner_->Read(Owner(0, 2 << 20), {&piece, 1}, token % 2, token).ok()) accepted.push_back(token);
  }
  const uint64_t endpoint = toOwner_->id();
  toOwner_.reset();
  for (const uint64_t token : accepted) {
    ASSERT_EQ(readerSink_.count(token), 1) << "after the destructor's return";
    const Status status = readerSink_.Wait(token);
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kRpcCancelled) << status.ToString();
  }
  EXPECT_EQ(readerSink_.disconnects(endpoint), 0);
  EXPECT_EQ(ownerSink_.WaitDisconnect(toReader_->id()).code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(ownerSink_.disconnects(toReader_->id()), 1);
}

TEST_P(TransportConformance, RequestsAfterThePeerClosedFailAtOnce) {
  toReader_.reset();
  EXPECT_EQ(readerSink_.WaitDisconnect(toOwner_->id()).code(), StatusCode::kRpcPeerDead);
  const LocalPiece piece{readerMemory_.data(), 10};
  EXPECT_EQ(toOwner_->Read(Owner(0, 10), {&piece, 1}, 0, 1).code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(toOwner_->Write({&piece, 1}, Owner(0, 10), 0, 2).code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(toOwner_->Send({readerMemory_.data(), 10}).code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(readerSink_.count(1), 0);
}

TEST_P(TransportConformance, ConnectingToNobodyNamesTheAddress) {
  const std::string address = GetParam() == "tcp" ? "127.0.0.1:1" : "hbmesh-test/nobody";
  std::unique_ptr<Endpoint> endpoint;
  ASSERT_EQ(reader_->Connect(address, 1, 7, &endpoint).ToString(), Status::Ok().ToString());
  const Status status = readerSink_.Wait(7);
  EXPECT_EQ(status.code(), StatusCode::kRpcUnavailable) << status.ToString();
  EXPECT_NE(status.message().find(address), std::string::npos) << status.ToString();
  const LocalPiece piece{readerMemory_.data(), 10};
  EXPECT_FALSE(endpoint->Read(Owner(0, 10), {&piece, 1}, 0, 8).ok());
}

TEST_P(TransportConformance, AnEndpointMayBeClosedWhileItConnects) {
  for (uint64_t token = 1; token <= 20; ++token) {
    std::unique_ptr<Endpoint> endpoint;
    ASSERT_EQ(reader_->Connect(owner_->address(), 2, token, &endpoint).ToString(), Status::Ok().ToString());
    endpoint.reset();
    EXPECT_EQ(readerSink_.count(token), 1);
  }
  token_ = 100;
  ExpectStillWorks();
}

// Reads and writes of random ranges and pieces on both lanes, compared with plain copies in a model of both memories.
TEST_P(TransportConformance, RandomRequestsDoWhatAModelSays) {
  const char* given = std::getenv("HBMESH_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE("HBMESH_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<std::byte> ownerModel(ownerMemory_.data(), ownerMemory_.data() + kMemoryBytes);
  std::vector<std::byte> readerModel(readerMemory_.data(), readerMemory_.data() + kMemoryBytes);
  for (int round = 0; round < 25; ++round) {
    // The requests of a round go on at once; each has ranges of its own on both sides.
    constexpr uint64_t kLaneRequests = 12;
    constexpr uint64_t kShare = kMemoryBytes / kLaneRequests;
    for (uint64_t index = 0; index < kLaneRequests; ++index) {
      const uint64_t largest = random() % 4 == 0 ? kShare / 2 : 5000;
      const uint64_t bytes = 1 + random() % largest;
      const uint64_t remote = index * kShare + random() % (kShare - bytes);
      uint64_t local = index * kShare + random() % (kShare / 2 - 4096);
      const bool write = random() % 2 == 0;
      std::vector<LocalPiece> pieces;
      for (uint64_t left = bytes, offset = 0; left > 0;) {
        const uint64_t part = pieces.size() < 64 ? 1 + random() % left : left;
        pieces.push_back({readerMemory_.data() + local, part});
        std::byte* mine = readerModel.data() + local;
        std::byte* its = ownerModel.data() + remote + offset;
        std::memcpy(write ? its : mine, write ? mine : its, part);
        left -= part;
        offset += part;
        local += part + random() % 60;
      }
      const uint64_t token = ++token_;
      const auto lane = static_cast<uint32_t>(random() % 2);
      const Status status = write ? toOwner_->Write(pieces, Owner(remote, bytes), lane, token)
                                  : toOwner_->Read(Owner(remote, bytes), pieces, lane, token);
      ASSERT_EQ(status.ToString(), Status::Ok().ToString());
    }
    for (uint64_t token = token_ - kLaneRequests + 1; token <= token_; ++token) {
      ASSERT_EQ(readerSink_.Wait(token).ToString(), Status::Ok().ToString());
    }
    ASSERT_EQ(std::memcmp(ownerModel.data(), ownerMemory_.data(), kMemoryBytes), 0) << "round " << round;
    ASSERT_EQ(std::memcmp(readerModel.data(), readerMemory_.data(), kMemoryBytes), 0) << "round " << round;
  }
}

// ----- a peer that is killed -----

// A second process: this program again, running only PeerProcess.Serves.
class ChildProcess {
 public:
  explicit ChildProcess(const std::string& transport) {
    int news[2];
    int life[2];
    EXPECT_EQ(::pipe2(news, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(life, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, news[1], 3 + 100);
    ::posix_spawn_file_actions_adddup2(&actions, life[0], 4 + 100);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    const std::string variable = "HBMESH_TEST_PEER=" + transport;
    std::vector<char*> environment{const_cast<char*>(variable.c_str())};
    for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
    environment.push_back(nullptr);
    char program[] = "/proc/self/exe";
    char filter[] = "--gtest_filter=PeerProcess.Serves";
    char* arguments[] = {program, filter, nullptr};
    EXPECT_EQ(::posix_spawn(&pid_, program, &actions, nullptr, arguments, environment.data()), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(news[1]);
    ::close(life[0]);
    life_ = Fd(life[1]);
    const Fd reading(news[0]);
    char text[256]{};
    const ssize_t got = ::read(reading.get(), text, sizeof text - 1);
    EXPECT_GT(got, 0) << "the peer process did not start";
    const std::string line(text);
    address = line.substr(0, line.find(' '));
    region = static_cast<uint32_t>(std::strtoul(line.c_str() + address.size(), nullptr, 10));
  }
  ~ChildProcess() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

  std::string address;
  uint32_t region = 0;

 private:
  pid_t pid_ = 0;
  Fd life_;  // the peer process ends when it is closed
};

TEST(PeerProcess, Serves) {
  const char* transport = std::getenv("HBMESH_TEST_PEER");
  if (transport == nullptr) GTEST_SKIP() << "only a helper of the tests with a killed peer";
  CollectingSink sink;
  SharedMemory memory(kMemoryBytes);
  FillPattern(memory.memory.span(), 5);
  std::unique_ptr<Transport> served;
  ASSERT_TRUE(CreateTransport(transport, {}, &sink, &served).ok());
  ASSERT_TRUE(served->Listen(ListenAddress(transport)).ok());
  const MemoryRegion region = memory.Register(*served, true);
  const std::string news = served->address() + " " + std::to_string(region.id);
  ASSERT_GT(::write(3 + 100, news.data(), news.size()), 0);
  char end = 0;
  (void)!::read(4 + 100, &end, 1);  // until the tests are over
  sink.CloseAccepted();
}

TEST_P(TransportConformance, AKilledPeerEndsEveryRequestAndTheEndpointOnce) {
  ChildProcess peer(GetParam());
  std::unique_ptr<Endpoint> endpoint;
  ASSERT_EQ(reader_->Connect(peer.address, 2, 7, &endpoint).ToString(), Status::Ok().ToString());
  ASSERT_EQ(readerSink_.Wait(7).ToString(), Status::Ok().ToString());
  uint64_t token = 100;
  std::vector<uint64_t> accepted;
  // Requests that go on at once have memory of their own; those after the kill share one piece, on one lane.
  constexpr uint64_t kBytes = 220 << 10;
  const auto submit = [&](uint64_t slot, bool write) {
    const LocalPiece piece{readerMemory_.data() + slot * kBytes, kBytes};
    const RemoteRange range{.region = peer.region, .offset = slot * kBytes, .bytes = kBytes};
    const auto lane = static_cast<uint32_t>(slot % 2);
    const uint64_t mine = ++token;
    const Status status =
        write ? endpoint->Write({&piece, 1}, range, lane, mine) : endpoint->Read(range, {&piece, 1}, lane, mine);
    if (status.ok()) accepted.push_back(mine);
    return status;
  };
  for (uint64_t slot = 0; slot < 100; ++slot) (void)submit(slot, slot % 3 == 0);
  (void)readerSink_.Wait(accepted[10]);  // so that bytes are on their way
  peer.Kill();
  Status last;
  while (last.ok() || last.code() == StatusCode::kTryAgain) {
    last = submit(100, false);
    if (last.code() == StatusCode::kTryAgain) ::sched_yield();
  }
  EXPECT_EQ(last.code(), StatusCode::kRpcPeerDead) << last.ToString();
  EXPECT_EQ(readerSink_.WaitDisconnect(endpoint->id()).code(), StatusCode::kRpcPeerDead);
  for (const uint64_t done : accepted) {
    EXPECT_EQ(readerSink_.count(done), 1) << "before the disconnect";
    const Status status = readerSink_.Wait(done);
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kRpcPeerDead) << status.ToString();
  }
  EXPECT_EQ(readerSink_.disconnects(endpoint->id()), 1);
  endpoint.reset();
  ExpectStillWorks();
}

INSTANTIATE_TEST_SUITE_P(Transports, TransportConformance, testing::Values("shm", "tcp"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace hbmesh
