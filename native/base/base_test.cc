// Goal: the small things that all else stands on do what their headers say. Method: each promise by itself; copies
// against memcpy over every alignment.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "base/align.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/crc32c.h"
#include "base/event_fd.h"
#include "base/log_limit.h"
#include "base/mapped_memory.h"
#include "base/status.h"
#include "base/test_support.h"
#include "base/unix_socket.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;
using testing_support::Seed;

std::span<const std::byte> BytesOf(const std::string& text) { return std::as_bytes(std::span(text)); }

// ----- status -----

TEST(Status, SaysItsNameAndMessage) {
  EXPECT_EQ(Status::Ok().ToString(), "OK");
  EXPECT_EQ(Status(StatusCode::kTryAgain, "full").ToString(), "TRY_AGAIN: full");
  EXPECT_EQ(StatusCodeName(static_cast<StatusCode>(4711)), "UNKNOWN_CODE");
}

TEST(Status, TranslatesErrno) {
  EXPECT_TRUE(StatusFromErrno(0, "nothing").ok());
  const Status refused = StatusFromErrno(ECONNREFUSED, "connect to 127.0.0.1:31501");
  EXPECT_EQ(refused.code(), StatusCode::kRpcUnavailable);
  EXPECT_EQ(refused.message(), "connect to 127.0.0.1:31501: Connection refused (errno " + std::to_string(ECONNREFUSED) +
                                   "); check that the worker runs and that the address is right");
  EXPECT_EQ(StatusFromErrno(EAGAIN, "x").code(), StatusCode::kTryAgain);
  EXPECT_EQ(StatusFromErrno(EPIPE, "x").code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(StatusFromErrno(EIO, "x").code(), StatusCode::kRuntimeError);
}

// ----- arithmetic -----

TEST(Align, RangesAtTheEndsOfNumbers) {
  EXPECT_TRUE(RangeInside(0, 0, 0));
  EXPECT_TRUE(RangeInside(4, 6, 10));
  EXPECT_FALSE(RangeInside(4, 7, 10));
  EXPECT_FALSE(RangeInside(11, 0, 10));
  EXPECT_FALSE(RangeInside(UINT64_MAX, 2, 10));
  EXPECT_FALSE(RangeInside(1, UINT64_MAX, UINT64_MAX));
  EXPECT_TRUE(RangeInside(0, UINT64_MAX, UINT64_MAX));
  uint64_t sum = 7;
  EXPECT_FALSE(AddChecked(UINT64_MAX, 1, &sum));
  EXPECT_EQ(sum, 7U);
  EXPECT_TRUE(AddChecked(UINT64_MAX - 1, 1, &sum));
  EXPECT_EQ(sum, UINT64_MAX);
  EXPECT_EQ(AlignUp(65, 64), 128U);
  EXPECT_EQ(AlignDown(127, 64), 64U);
  EXPECT_FALSE(IsPowerOfTwo(0));
}

TEST(Clock, StandsStillUntilItIsAdvanced) {
  ManualClock clock(5);
  EXPECT_EQ(clock.NowNs(), 5U);
  clock.AdvanceMs(2);
  EXPECT_EQ(clock.NowMs(), 2U);
  const SteadyClock steady;
  const uint64_t before = steady.NowNs();
  EXPECT_GE(steady.NowNs(), before);
}

// ----- checksum -----

TEST(Crc32c, GivesTheKnownValues) {
  EXPECT_EQ(Crc32c({}), 0U);
  EXPECT_EQ(Crc32c(BytesOf("123456789")), 0xE3069283U);  // the check value of the CRC catalogue
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(Crc32c(zeros), 0x8A9136AAU);  // RFC 3720, B.4
  const auto bytes = Pattern(3, 1000);
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{500}, size_t{1000}}) {
    EXPECT_EQ(Crc32c(std::span(bytes).subspan(cut), Crc32c(std::span(bytes).first(cut))), Crc32c(bytes)) << cut;
  }
}

// ----- copies -----

class CopyTest : public testing::TestWithParam<CopyKernel> {
 protected:
  void SetUp() override {
    if (!CopyKernelSupported(GetParam())) {
      GTEST_SKIP() << "this processor has no " << CopyKernelName(GetParam());
    }
  }
  // Copies between the given places of two buffers, and looks for a byte too few or too many.
  void Check(size_t targetOffset, size_t sourceOffset, size_t bytes) {
    constexpr size_t kMargin = 64;
    const auto source = Pattern(bytes + sourceOffset, sourceOffset + bytes + 1);
    std::vector<std::byte> target(targetOffset + bytes + kMargin, std::byte{0xA5});
    std::vector<std::byte> expected = target;
    std::memcpy(expected.data() + targetOffset, source.data() + sourceOffset, bytes);
    CopyWith(GetParam(), target.data() + targetOffset, source.data() + sourceOffset, bytes);
    ASSERT_EQ(target, expected) << targetOffset << " " << sourceOffset << " " << bytes;
  }
};

TEST_P(CopyTest, CopiesEverySmallSizeAtEveryAlignment) {
  for (size_t bytes = 0; bytes < 300; bytes++) {
    for (size_t offset = 0; offset < 64; offset += 3) {
      Check(offset, 63 - offset, bytes);
    }
  }
  for (size_t target = 0; target < 64; target++) {
    for (size_t source = 0; source < 64; source += 7) {
      Check(target, source, 1000);
    }
  }
}

TEST_P(CopyTest, CopiesRandomSizes) {
  std::mt19937_64 random(Seed());
  for (int i = 0; i < 200; i++) {
    Check(random() % 200, random() % 200, random() % 200'000);
  }
}

TEST_P(CopyTest, TouchesNothingBeyondTheRanges) {
  // Both ranges end where their last page ends; the page behind can't be touched.
  constexpr size_t kPages = 4 * 4096;
  const auto guarded = [] {
    void* made = ::mmap(nullptr, kPages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(::mprotect(static_cast<std::byte*>(made) + kPages, 4096, PROT_NONE), 0);
    return static_cast<std::byte*>(made);
  };
  std::byte* source = guarded();
  std::byte* target = guarded();
  for (size_t bytes = 1; bytes < kPages; bytes += 61) {
    CopyWith(GetParam(), target + kPages - bytes, source + kPages - bytes, bytes);
  }
  EXPECT_EQ(::munmap(source, kPages + 4096), 0);
  EXPECT_EQ(::munmap(target, kPages + 4096), 0);
}

INSTANTIATE_TEST_SUITE_P(AllKernels, CopyTest, testing::ValuesIn(kCopyKernels),
                         [](const auto& kernel) { return CopyKernelName(kernel.param); });

TEST(CopyStreaming, CopiesBelowAtAndAboveTheThreshold) {
  for (const size_t bytes :
       {size_t{0}, size_t{1}, kStreamingBytesMin - 1, kStreamingBytesMin, kStreamingBytesMin + 1, size_t{3} << 20}) {
    const auto source = Pattern(9, bytes);
    std::vector<std::byte> target(bytes);
    CopyStreaming(target.data(), source.data(), bytes);
    EXPECT_EQ(target, source) << bytes;
  }
}

// ----- events -----

TEST(EventFd, CountsSignalsAsOne) {
  Fd event;
  ASSERT_TRUE(CreateEventFd(&event).ok());
  EXPECT_FALSE(DrainEvent(event.get()));
  EXPECT_FALSE(WaitEvent(event.get(), 0));
  SignalEvent(event.get());
  SignalEvent(event.get());
  EXPECT_TRUE(WaitEvent(event.get(), -1));
  EXPECT_FALSE(DrainEvent(event.get()));
  std::thread waker([&] { SignalEvent(event.get()); });
  EXPECT_TRUE(WaitEvent(event.get(), 20'000));
  waker.join();
}

// ----- memory -----

TEST(Memfd, IsSealedAndMapsAgain) {
  Fd fd;
  ASSERT_TRUE(CreateMemfd("test", 8192, false, &fd).ok());
  EXPECT_EQ(::ftruncate(fd.get(), 4096), -1);
  EXPECT_EQ(::ftruncate(fd.get(), 16384), -1);
  uint64_t bytes = 0;
  ASSERT_TRUE(CheckMemfd(fd.get(), &bytes).ok());
  EXPECT_EQ(bytes, 8192U);
  MappedMemory first;
  MappedMemory second;
  ASSERT_TRUE(MappedMemory::Map(fd.get(), 0, 8192, true, &first).ok());
  ASSERT_TRUE(first.Prefault().ok());
  first.data()[5000] = std::byte{42};
  ASSERT_TRUE(first.Prefault().ok());
  ASSERT_TRUE(MappedMemory::Map(fd.get(), 4096, 4096, false, &second).ok());
  EXPECT_EQ(second.data()[5000 - 4096], std::byte{42});
  MappedMemory moved = std::move(first);
  EXPECT_EQ(moved.bytes(), 8192U);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move): what a move leaves is promised
}

TEST(Memfd, RefusesWhatCouldShrink) {
  Fd open(::memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  uint64_t bytes = 0;
  EXPECT_EQ(CheckMemfd(open.get(), &bytes).code(), StatusCode::kDataInconsistency);
  Fd file(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(CheckMemfd(file.get(), &bytes).code(), StatusCode::kDataInconsistency);
  Fd none;
  EXPECT_EQ(CreateMemfd("none", 0, false, &none).code(), StatusCode::kInvalid);
  EXPECT_EQ(CreateMemfd("odd", 4096, true, &none).code(), StatusCode::kInvalid);
}

// ----- sockets -----

std::string FreshName(const char* what) { return "hbmesh-test/" + std::to_string(::getpid()) + "/" + what; }

TEST(UnixSocket, PassesDescriptorsAndCredentials) {
  const std::string name = FreshName("pass");
  Fd listener;
  Fd client;
  Fd server;
  ASSERT_TRUE(ListenUnix(name, &listener).ok());
  EXPECT_EQ(AcceptUnix(listener.get(), false, &server).code(), StatusCode::kTryAgain);
  ASSERT_TRUE(ConnectUnix(name, &client).ok());
  ASSERT_TRUE(AcceptUnix(listener.get(), false, &server).ok());
  for (const int end : {client.get(), server.get()}) {
    PeerCredentials peer;
    ASSERT_TRUE(GetPeerCredentials(end, &peer).ok());
    EXPECT_EQ(peer.pid, ::getpid());
    EXPECT_EQ(peer.uid, ::getuid());
    EXPECT_NE(::fcntl(end, F_GETFD) & FD_CLOEXEC, 0);
  }
  Fd event;
  ASSERT_TRUE(CreateEventFd(&event).ok());
  const int descriptors[] = {event.get(), event.get()};
  ASSERT_TRUE(SendPacket(client.get(), BytesOf("hello"), descriptors).ok());
  ASSERT_TRUE(SendPacket(client.get(), BytesOf("again")).ok());
  std::byte buffer[16];
  Packet packet;
  ASSERT_TRUE(ReceivePacket(server.get(), buffer, &packet).ok());
  EXPECT_EQ(std::memcmp(buffer, "hello", 5), 0);
  EXPECT_EQ(packet.bytes, 5U);
  ASSERT_EQ(packet.descriptors.size(), 2U);
  EXPECT_NE(::fcntl(packet.descriptors[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  SignalEvent(packet.descriptors[1].get());
  EXPECT_TRUE(DrainEvent(event.get()));
  ASSERT_TRUE(ReceivePacket(server.get(), buffer, &packet).ok());
  EXPECT_TRUE(packet.descriptors.empty()) << "those of the packet before are closed";

  client.Reset();
  EXPECT_EQ(ReceivePacket(server.get(), buffer, &packet).code(), StatusCode::kRpcPeerDead);
  EXPECT_EQ(SendPacket(server.get(), BytesOf("x")).code(), StatusCode::kRpcPeerDead);
}

// A refusal: said, and closed before what the other end had sent was read.
TEST(UnixSocket, LastWordsOfAPeerThatLeftPacketsUnreadAreRead) {
  Fd first;
  Fd second;
  ASSERT_TRUE(UnixPair(&first, &second).ok());
  ASSERT_TRUE(SendPacket(first.get(), BytesOf("never read")).ok());
  ASSERT_TRUE(SendPacket(second.get(), BytesOf("no")).ok());
  second.Reset();
  EXPECT_EQ(SendPacket(first.get(), BytesOf("more")).code(), StatusCode::kRpcPeerDead);
  std::byte buffer[16];
  Packet packet;
  ASSERT_TRUE(ReceivePacket(first.get(), buffer, &packet).ok());
  EXPECT_EQ(packet.bytes, 2U);
  EXPECT_EQ(ReceivePacket(first.get(), buffer, &packet).code(), StatusCode::kRpcPeerDead);

  // One that only ends its sending reads on, and is read to its end.
  ASSERT_TRUE(UnixPair(&first, &second).ok());
  ASSERT_TRUE(SendPacket(second.get(), BytesOf("no")).ok());
  EndSending(second.get());
  ASSERT_TRUE(SendPacket(first.get(), BytesOf("late")).ok());
  ASSERT_TRUE(ReceivePacket(first.get(), buffer, &packet).ok());
  EXPECT_EQ(ReceivePacket(first.get(), buffer, &packet).code(), StatusCode::kRpcPeerDead);
  ASSERT_TRUE(ReceivePacket(second.get(), buffer, &packet).ok());
  EXPECT_EQ(packet.bytes, 4U);
}

TEST(UnixSocket, TellsThePeersGroups) {
  Fd first;
  Fd second;
  ASSERT_TRUE(UnixPair(&first, &second).ok());
  std::vector<gid_t> own(static_cast<size_t>(::getgroups(0, nullptr)));
  ASSERT_EQ(::getgroups(static_cast<int>(own.size()), own.data()), static_cast<int>(own.size()));
  std::vector<gid_t> told = GetPeerGroups(first.get());
  std::sort(own.begin(), own.end());
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, own);
}

TEST(LogLimit, LeavesOutWhatIsTooMuchAndSaysHowMuch) {
  LogLimit limit;
  std::string leftOut = "old";
  const uint64_t start = 7'000'000'000;
  for (uint32_t i = 0; i < LogLimit::kLinesMax; ++i) {
    EXPECT_TRUE(limit.Allow(start + i, &leftOut)) << i;
    EXPECT_EQ(leftOut, "");
  }
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(limit.Allow(start + LogLimit::kWindowNs - 1, &leftOut));
  EXPECT_TRUE(limit.Allow(start + LogLimit::kWindowNs, &leftOut));
  EXPECT_EQ(leftOut, " (3 such lines before this one were left out)");
  EXPECT_TRUE(limit.Allow(start + LogLimit::kWindowNs + 1, &leftOut));
  EXPECT_EQ(leftOut, "");
}

TEST(UnixSocket, KeepsItsLimits) {
  Fd listener;
  Fd other;
  EXPECT_EQ(ListenUnix("", &listener).code(), StatusCode::kInvalid);
  EXPECT_EQ(ListenUnix(std::string(108, 'n'), &listener).code(), StatusCode::kInvalid);
  ASSERT_TRUE(ListenUnix(FreshName("taken"), &listener).ok());
  const Status taken = ListenUnix(FreshName("taken"), &other);
  EXPECT_EQ(taken.code(), StatusCode::kRuntimeError);
  EXPECT_NE(taken.message().find("another process uses this address"), std::string::npos) << taken.message();
  EXPECT_EQ(ConnectUnix(FreshName("nobody"), &other).code(), StatusCode::kRpcUnavailable);

  Fd first;
  Fd second;
  ASSERT_TRUE(UnixPair(&first, &second).ok());
  const std::vector<int> many(kPacketDescriptorsMax + 1, first.get());
  EXPECT_EQ(SendPacket(first.get(), BytesOf("x"), many).code(), StatusCode::kInvalid);
  EXPECT_EQ(SendPacket(first.get(), {}).code(), StatusCode::kInvalid);
  std::byte small[2];
  Packet packet;
  ASSERT_TRUE(SendPacket(first.get(), BytesOf("too long"), std::span(many).first(kPacketDescriptorsMax)).ok());
  EXPECT_EQ(ReceivePacket(second.get(), small, &packet).code(), StatusCode::kDataInconsistency);
  ASSERT_TRUE(SetNonBlocking(second.get(), true).ok());
  EXPECT_EQ(ReceivePacket(second.get(), small, &packet).code(), StatusCode::kTryAgain);
  ASSERT_TRUE(SetNonBlocking(second.get(), false).ok());
  ASSERT_TRUE(SetSocketTimeout(second.get(), 1).ok());
  EXPECT_EQ(ReceivePacket(second.get(), small, &packet).code(), StatusCode::kTryAgain);
}

}  // namespace
}  // namespace hbmesh
