#include "sidecar/sidecar_test_util.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <random>

#include "base/align.h"
#include "base/clock.h"
#include "base/event_fd.h"
#include "base/test_address.h"
#include "base/unix_socket.h"

namespace hbmesh::sidecar::testing {

namespace {

uint64_t NowNs() { return SteadyClock().NowNs(); }

template <typename Record>
void Append(std::vector<std::byte>& target, const Record* records, size_t count) {
  const auto* begin = reinterpret_cast<const std::byte*>(records);
  const size_t size = target.size();
  target.resize(size + count * sizeof(Record));
  if (count != 0) std::memcpy(target.data() + size, begin, count * sizeof(Record));
}

}  // namespace

std::string NewWorkerAddress() { return testing_support::UniqueWorkerAddress(); }

SidecarProcess::SidecarProcess(std::string workerAddress, std::vector<std::string> flags, int adoptFd)
    : workerAddress_(std::move(workerAddress)) {
  int pipe[2];
  EXPECT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  std::vector<std::string> words = {HBMESH_SIDECAR_PATH, "--worker_address=" + workerAddress_, "--ready_fd=3"};
  for (const std::string name : {"--arena_mb=", "--devices="}) {
    const auto isGiven = [&](const std::string& flag) { return flag.starts_with(name); };
    if (std::none_of(flags.begin(), flags.end(), isGiven)) words.push_back(name + (name[2] == 'a' ? "64" : "4"));
  }
  if (adoptFd >= 0) words.push_back("--adopt_fd=4");
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // Out of the way of 3 and 4, which the child gives away below.
  const int readyFd = ::fcntl(pipe[1], F_DUPFD_CLOEXEC, 100);
  const int storeFd = adoptFd >= 0 ? ::fcntl(adoptFd, F_DUPFD_CLOEXEC, 100) : -1;
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(126);
    ::dup2(readyFd, 3);
    if (storeFd >= 0) ::dup2(storeFd, 4);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(pipe[1]);
  ::close(readyFd);
  if (storeFd >= 0) ::close(storeFd);
  char byte = 0;
  while (::read(pipe[0], &byte, 1) == 1 && byte != '\n') ready_ += byte;
  ::close(pipe[0]);
}

SidecarProcess::~SidecarProcess() {
  if (pid_ <= 0) return;
  Signal(SIGKILL);
  Wait();
}

void SidecarProcess::Signal(int signal) const { ::kill(pid_, signal); }

int SidecarProcess::Wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

Peer::Peer(const std::string& workerAddress, session::Kind kind, const std::string& token) {
  Status status = ConnectUnix(session::SocketName(workerAddress), &socket_);
  EXPECT_TRUE(status.ok()) << status.ToString();
  session::Hello hello{};
  hello.type = static_cast<uint32_t>(session::Type::kHello);
  hello.magic = session::kMagic;
  hello.version = session::kVersion;
  hello.kind = static_cast<uint32_t>(kind);
  hello.pid = static_cast<uint32_t>(::getpid());
  std::memcpy(hello.token, token.data(), token.size());
  EXPECT_TRUE(hbmesh::SendPacket(socket_.get(), std::as_bytes(std::span(&hello, 1))).ok());
  Packet packet;
  status = hbmesh::ReceivePacket(socket_.get(), std::as_writable_bytes(std::span(&welcome_, 1)), &packet);
  EXPECT_TRUE(status.ok()) << status.ToString();
  if (welcome_.code != 0) return;
  EXPECT_EQ(packet.descriptors.size(), kind == session::Kind::kControl ? 4U : 3U);
  status = Channel::Attach(std::move(packet.descriptors[0]), std::move(packet.descriptors[1]),
                           std::move(packet.descriptors[2]), &channel_);
  EXPECT_TRUE(status.ok()) << status.ToString();
  if (kind == session::Kind::kControl) storeFd_ = std::move(packet.descriptors[3]);
}

bool Peer::TryReceive(Message* message, int timeoutMs) {
  const uint64_t deadline = NowNs() + static_cast<uint64_t>(timeoutMs) * 1'000'000;
  for (;;) {
    bool received = false;
    const Status status = channel_->Receive(message, &received);
    EXPECT_TRUE(status.ok()) << status.ToString();
    if (received) return true;
    const uint64_t now = NowNs();
    if (!status.ok() || now >= deadline) return false;
    if (channel_->PrepareSleep()) {
      (void)WaitEvent(channel_->peerWakeFd(), static_cast<int>((deadline - now) / 1'000'000 + 1));
    }
    channel_->EndSleep();
  }
}

Message Peer::Receive() {
  Message message;
  EXPECT_TRUE(TryReceive(&message, kPatienceMs)) << "no message came";
  return message;
}

bool Peer::WaitClosed() {
  pollfd entry{socket_.get(), POLLIN, 0};
  char byte = 0;
  return ::poll(&entry, 1, kPatienceMs) == 1 && ::recv(socket_.get(), &byte, 1, 0) <= 0;
}

DeviceMemory::DeviceMemory(uint64_t bytes)
    : bytes_(bytes), fd_(::memfd_create("hbm", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  data_ = static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
  EXPECT_NE(static_cast<void*>(data_), MAP_FAILED);
}

DeviceMemory::~DeviceMemory() { ::munmap(data_, bytes_); }

void DeviceMemory::Fill(uint64_t seed) {
  std::mt19937_64 random(seed);
  for (uint64_t at = 0; at + 8 <= bytes_; at += 8) {
    const uint64_t word = random();
    std::memcpy(data_ + at, &word, sizeof(word));
  }
}

std::vector<std::byte> KeyBatchOf(const std::vector<std::string>& keys) {
  layout::KeyBatchHeader header{static_cast<uint32_t>(keys.size()), 0};
  std::vector<uint32_t> ends;
  std::string text;
  for (const std::string& key : keys) {
    text += key;
    ends.push_back(static_cast<uint32_t>(text.size()));
  }
  header.keyBytes = static_cast<uint32_t>(text.size());
  std::vector<std::byte> batch;
  Append(batch, &header, 1);
  Append(batch, ends.data(), ends.size());
  Append(batch, text.data(), text.size());
  batch.resize(AlignUp(batch.size(), 8));
  return batch;
}

std::vector<std::string> KeysOf(std::span<const std::byte> batch) {
  layout::KeyBatchHeader header{};
  std::memcpy(&header, batch.data(), sizeof(header));
  std::vector<std::string> keys;
  uint32_t begin = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    uint32_t end = 0;
    std::memcpy(&end, batch.data() + sizeof(header) + 4ULL * i, sizeof(end));
    keys.emplace_back(reinterpret_cast<const char*>(batch.data()) + sizeof(header) + 4ULL * header.count + begin,
                      end - begin);
    begin = end;
  }
  return keys;
}

Status Client::Register(uint32_t device, uint64_t bytes, int fd, uint32_t* region) {
  session::RegisterRegion request{};
  request.type = static_cast<uint32_t>(session::Type::kRegisterRegion);
  request.deviceIndex = device;
  request.bytes = bytes;
  const std::vector<int> fds = fd >= 0 ? std::vector<int>{fd} : std::vector<int>{};
  EXPECT_TRUE(hbmesh::SendPacket(socket(), std::as_bytes(std::span(&request, 1)), fds).ok());
  session::RegisterReply reply{};
  Packet packet;
  const Status status = hbmesh::ReceivePacket(socket(), std::as_writable_bytes(std::span(&reply, 1)), &packet);
  EXPECT_TRUE(status.ok()) << status.ToString();
  *region = reply.region;
  return {static_cast<StatusCode>(reply.code), reply.text};
}

uint32_t Client::MustRegister(uint32_t device, const DeviceMemory& memory) {
  uint32_t region = 0;
  const Status status = Register(device, memory.bytes(), memory.fd(), &region);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return region;
}

Status Client::Unregister(uint32_t region) {
  const session::UnregisterRegion request{static_cast<uint32_t>(session::Type::kUnregisterRegion), region};
  EXPECT_TRUE(hbmesh::SendPacket(socket(), std::as_bytes(std::span(&request, 1))).ok());
  session::RegisterReply reply{};
  Packet packet;
  EXPECT_TRUE(hbmesh::ReceivePacket(socket(), std::as_writable_bytes(std::span(&reply, 1)), &packet).ok());
  return {static_cast<StatusCode>(reply.code), reply.text};
}

uint64_t Client::SubmitRaw(layout::Op op, uint32_t count, std::span<const std::byte> payload,
                           std::array<uint64_t, 4> args) {
  layout::Entry entry{};
  entry.id = ++lastId_;
  entry.op = static_cast<uint16_t>(op);
  entry.count = count;
  std::copy(args.begin(), args.end(), entry.args);
  const Status status = channel().Send(entry, payload);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return entry.id;
}

uint64_t Client::Submit(layout::Op op, uint32_t device, const std::vector<KeyBlobs>& keys,
                        std::array<uint64_t, 4> args) {
  const bool transfer = op == layout::Op::kSetD2H || op == layout::Op::kGetH2D ||
                        (op >= layout::Op::kDevPublish && op <= layout::Op::kDevMGet) ||
                        op == layout::Op::kReserveLayers || op == layout::Op::kPushLayer;
  std::vector<std::string> names;
  std::vector<uint32_t> ends;
  std::vector<layout::BlobRecord> blobs;
  for (const KeyBlobs& key : keys) {
    names.push_back(key.key);
    if (transfer) {
      for (const BlobOf& blob : key.blobs) blobs.push_back({blob.region, 0, blob.offset, blob.bytes});
    }
    ends.push_back(static_cast<uint32_t>(blobs.size()));
  }
  const std::vector<std::byte> batch = KeyBatchOf(names);
  const layout::ObjectRequest request{device, static_cast<uint32_t>(blobs.size()), batch.size()};
  std::vector<std::byte> payload;
  Append(payload, &request, 1);
  Append(payload, batch.data(), batch.size());
  if (transfer) {
    if (ends.size() % 2 != 0) ends.push_back(0);
    Append(payload, ends.data(), ends.size());
    Append(payload, blobs.data(), blobs.size());
  }
  const uint64_t id = SubmitRaw(op, static_cast<uint32_t>(keys.size()), payload, args);
  const bool events =
      op == layout::Op::kDevPublish || op == layout::Op::kDevSubscribe || op == layout::Op::kReserveLayers;
  if (events) events_[id].keys.resize(keys.size());
  return id;
}

void Events::Take(const Message& message) {
  code = static_cast<StatusCode>(message.entry.code);
  over = (message.entry.flags & layout::kFlagMore) == 0;
  layout::DeviceReply header{};
  ASSERT_GE(message.payload.size(), sizeof(header));
  std::memcpy(&header, message.payload.data(), sizeof(header));
  const std::byte* at = message.payload.data() + sizeof(header);
  const std::byte* pathsAt = at + header.count * sizeof(layout::KeyEvent);
  const std::byte* messages = pathsAt + header.pathCount * sizeof(layout::PathRecord);
  ASSERT_EQ(messages + header.messageBytes, message.payload.data() + message.payload.size());
  const auto textOf = [&](uint32_t offset, uint32_t bytes) {
    return std::string(reinterpret_cast<const char*>(messages) + offset, bytes);
  };
  if (code != StatusCode::kOk) text = textOf(0, header.messageBytes);
  for (uint32_t i = 0; i < header.count; ++i) {
    layout::KeyEvent event{};
    std::memcpy(&event, at + i * sizeof(event), sizeof(event));
    ASSERT_LT(event.keyIndex, keys.size());
    ASSERT_LE(event.messageOffset + event.messageBytes, header.messageBytes);
    Key& key = keys[event.keyIndex];
    ASSERT_FALSE(key.ended) << "a key ends once";
    const std::string said = textOf(event.messageOffset, event.messageBytes);
    if (event.stage == static_cast<uint32_t>(layout::KeyStage::kAccepted)) {
      ASSERT_FALSE(key.accepted);
      key.accepted = true;
      key.accepting = said;
      continue;
    }
    key.ended = true;
    key.code = static_cast<StatusCode>(event.code);
    key.text = said;
    key.bytes = event.bytes;
  }
  for (uint32_t i = 0; i < header.pathCount; ++i) {
    std::memcpy(&paths.emplace_back(), pathsAt + i * sizeof(layout::PathRecord), sizeof(layout::PathRecord));
  }
  if (!over || code != StatusCode::kOk) return;
  for (const Key& key : keys) EXPECT_TRUE(key.ended) << "the last reply leaves no key open";
}

const Events& Client::WaitEvents(uint64_t id, const std::function<bool(const Events&)>& condition) {
  Events& wanted = events_[id];
  while (!wanted.over && !condition(wanted)) {
    Message message;
    if (!TryReceive(&message, kPatienceMs)) {
      ADD_FAILURE() << "no further reply to request " << id;
      return wanted;
    }
    const auto found = events_.find(message.entry.id);
    if (found != events_.end()) {
      found->second.Take(message);
    } else {
      early_.emplace(message.entry.id, std::move(message));
    }
  }
  return wanted;
}

const Events& Client::Now(uint64_t id) {
  Message message;
  while (TryReceive(&message, 0)) {
    const auto found = events_.find(message.entry.id);
    if (found != events_.end()) {
      found->second.Take(message);
    } else {
      early_.emplace(message.entry.id, std::move(message));
    }
  }
  return events_[id];
}

Reply Client::WaitFor(uint64_t id) {
  for (;;) {
    if (const auto found = early_.find(id); found != early_.end()) {
      const Reply reply = DecodeReply(found->second);
      early_.erase(found);
      return reply;
    }
    Message message;
    if (!TryReceive(&message, kPatienceMs)) {
      ADD_FAILURE() << "no reply to request " << id;
      return {StatusCode::kFutureTimeout, "", {}, {}, {}, {}};
    }
    if (const auto found = events_.find(message.entry.id); found != events_.end()) {
      found->second.Take(message);
    } else {
      early_.emplace(message.entry.id, std::move(message));
    }
  }
}

Reply DecodeReply(const Message& message) {
  Reply reply;
  reply.code = static_cast<StatusCode>(message.entry.code);
  layout::ObjectReply header{};
  EXPECT_GE(message.payload.size(), sizeof(header));
  std::memcpy(&header, message.payload.data(), sizeof(header));
  const std::byte* at = message.payload.data() + sizeof(header);
  const auto take = [&](void* target, size_t bytes) {
    std::memcpy(target, at, bytes);
    at += bytes;
  };
  reply.results.resize(header.count);
  reply.paths.resize(header.pathCount);
  if (header.count != 0) take(reply.results.data(), header.count * sizeof(layout::KeyResult));
  if (header.pathCount != 0) take(reply.paths.data(), header.pathCount * sizeof(layout::PathRecord));
  if (message.entry.op == static_cast<uint16_t>(layout::Op::kGetMeta) && header.count != 0) {
    std::vector<uint32_t> counts(AlignUp(header.count, 2));
    take(counts.data(), counts.size() * 4);
    for (uint32_t i = 0; i < header.count; ++i) {
      std::vector<uint64_t>& sizes = reply.blobSizes.emplace_back(counts[i]);
      if (counts[i] != 0) take(sizes.data(), counts[i] * 8ULL);
    }
  }
  const std::string messages(reinterpret_cast<const char*>(at), header.messageBytes);
  EXPECT_EQ(at + header.messageBytes, message.payload.data() + message.payload.size());
  if (header.count == 0) reply.text = messages;
  for (const layout::KeyResult& result : reply.results) {
    EXPECT_LE(uint64_t{result.messageOffset} + result.messageBytes, messages.size());
    reply.texts.push_back(messages.substr(result.messageOffset, result.messageBytes));
  }
  return reply;
}

KeyBlobs Blobs(const std::string& key, uint32_t region, uint32_t count, uint64_t bytes, uint64_t offset) {
  KeyBlobs blobs{key, {}};
  for (uint32_t i = 0; i < count; ++i) blobs.blobs.push_back({region, offset + i * bytes, bytes});
  return blobs;
}

void Eventually(const std::function<bool()>& condition, const std::string& what) {
  const uint64_t deadline = NowNs() + uint64_t{kPatienceMs} * 1'000'000;
  while (!condition()) {
    ASSERT_LT(NowNs(), deadline) << "never came true: " << what;
    std::this_thread::yield();
  }
}

}  // namespace hbmesh::sidecar::testing
