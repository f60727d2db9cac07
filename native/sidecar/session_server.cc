#include "sidecar/session_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/unix_socket.h"

namespace hbmesh::sidecar {

namespace {

// Connections that have not greeted yet, or were refused: of users that are served without a token, and as many of
// others. A new one pushes out the oldest of its kind.
constexpr size_t kGreetingMax = 64;
constexpr int kRefusedPacketsMax = 16;  // that are read of one that was refused
constexpr size_t kPacketBytesMax =
    std::max({sizeof(session::Hello), sizeof(session::RegisterRegion), sizeof(session::UnregisterRegion)});
constexpr uint64_t kPayloadCapacity = 64ULL << 20;
constexpr uint64_t kFullPauseMs = 100;  // when descriptors are used up; the backlog keeps callers waiting

std::string FieldText(const char* field, size_t capacity) { return {field, ::strnlen(field, capacity)}; }

void PutText(const std::string& text, char* field, size_t capacity) {
  std::memcpy(field, text.data(), std::min(text.size(), capacity - 1));
}

// A Welcome that says why there will be no session. A peer that is gone or doesn't read learns it from the closed
// socket.
void SendRefusal(int socket, const Status& status) {
  session::Welcome welcome{};
  welcome.type = static_cast<uint32_t>(session::Type::kWelcome);
  welcome.magic = session::kMagic;
  welcome.version = session::kVersion;
  welcome.code = static_cast<uint32_t>(status.code());
  PutText(status.message(), welcome.text, sizeof(welcome.text));
  (void)SendPacket(socket, std::as_bytes(std::span(&welcome, 1))).ok();
}

}  // namespace

// A socket that was accepted; a session once it has greeted.
struct SessionServer::Connection final : FdHandler {
  Connection(SessionServer& owner, uint64_t number, Fd connected)
      : server(owner), id(number), socket(std::move(connected)) {}
  void OnReady(uint32_t events) override { server.OnPacket(*this, events); }

  SessionServer& server;
  const uint64_t id;
  Fd socket;
  uint64_t watch = 0;
  TimerId greeting;  // runs until it has greeted
  PeerCredentials peer;
  bool isKnown = false;    // its user is served without a token
  bool isRefused = false;  // and knows it: what it still says is thrown away
  int refusedPackets = 0;
  std::unique_ptr<Session> session;
};

SessionServer::SessionServer(const SidecarOptions& options, Loop& loop, Timers& timers, Clock& clock,
                             std::vector<std::unique_ptr<Device>>& devices, SessionListener& listener)
    : options_(options),
      admission_(options),
      loop_(loop),
      timers_(timers),
      clock_(clock),
      devices_(devices),
      listener_(listener) {}

SessionServer::~SessionServer() {
  while (!connections_.empty()) Close(connections_.begin()->first);
  timers_.Cancel(paused_);
  loop_.Unwatch(watch_);
}

Status SessionServer::Listen(WelcomeFacts facts) {
  facts_ = std::move(facts);
  if (Status status = admission_.Check(); !status.ok()) return status;
  const std::string name = session::SocketName(options_.workerAddress);
  if (Status status = ListenUnix(name, &socket_); !status.ok()) return status;
  watch_ = loop_.Watch(socket_.get(), this);
  return watch_ != 0 ? Status::Ok() : StatusFromErrno(errno, "watching session socket " + name);
}

Session* SessionServer::Find(uint64_t id) {
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second->session.get();
}

uint32_t SessionServer::clientCount() const {
  return static_cast<uint32_t>(order_.size()) - (control_ != nullptr ? 1 : 0);
}

void SessionServer::OnReady(uint32_t /*events*/) {
  // Level-triggered: what is left over here is reported again.
  for (int i = 0; i < 16; ++i) {
    Fd socket;
    if (const Status status = AcceptUnix(socket_.get(), true, &socket); !status.ok()) {
      if (status.code() == StatusCode::kOutOfMemory) Pause();
      return;
    }
    Accept(std::move(socket));
  }
}

void SessionServer::Pause() {
  Log().warn("no connections for {} ms: descriptors are used up; raise the limit (ulimit -n)", kFullPauseMs);
  loop_.Unwatch(std::exchange(watch_, 0));
  paused_ = timers_.Add(clock_.NowNs() + kFullPauseMs * kNsPerMs, [this] {
    paused_ = {};
    watch_ = loop_.Watch(socket_.get(), this);
    if (watch_ == 0) Pause();
  });
}

void SessionServer::Accept(Fd socket) {
  PeerCredentials credentials;
  if (!GetPeerCredentials(socket.get(), &credentials).ok()) return;
  const bool isKnown = admission_.IsKnown(credentials, GetPeerGroups(socket.get()));
  BoundGreetings(isKnown);
  const uint64_t id = ++lastId_;
  auto connection = std::make_unique<Connection>(*this, id, std::move(socket));
  connection->peer = credentials;
  connection->isKnown = isKnown;
  connection->watch = loop_.Watch(connection->socket.get(), connection.get());
  if (connection->watch == 0) return;
  AwaitGreeting(*connection);
  connections_.emplace(id, std::move(connection));
}

void SessionServer::AwaitGreeting(Connection& connection) {
  connection.greeting =
      timers_.Add(clock_.NowNs() + options_.greetingTimeoutMs * kNsPerMs, [this, &connection, id = connection.id] {
        if (connection.isRefused) return Close(id);
        Refuse(connection, {StatusCode::kRpcDeadlineExceeded, "you have not greeted for " +
                                                                  std::to_string(options_.greetingTimeoutMs) +
                                                                  " ms after you connected; try again"});
        AwaitGreeting(connection);  // now its end
      });
}

// Who greets at once, as clients do, is a session before so many others come.
void SessionServer::BoundGreetings(bool isKnown) {
  Connection* oldest = nullptr;
  size_t count = 0;
  for (const auto& [id, connection] : connections_) {
    if (connection->session != nullptr || connection->isKnown != isKnown) continue;
    ++count;
    if (oldest == nullptr || id < oldest->id) oldest = connection.get();
  }
  if (count < kGreetingMax) return;
  if (!oldest->isRefused) {
    Refuse(*oldest, {StatusCode::kTryAgain, "too many processes are connecting at once; try again"});
  }
  Close(oldest->id);
}

void SessionServer::Refuse(Connection& connection, const Status& status) {
  SendRefusal(connection.socket.get(), status);
  EndSending(connection.socket.get());
  connection.isRefused = true;
  std::string leftOut;
  if (!refusals_.Allow(clock_.NowNs(), &leftOut)) return;
  const PeerCredentials& peer = connection.peer;
  Log().warn("refused process {} of user {}, group {}: {}{}", peer.pid, peer.uid, peer.gid, status.ToString(), leftOut);
}

void SessionServer::OnPacket(Connection& connection, uint32_t events) {
  const uint64_t id = connection.id;
  for (;;) {
    std::array<std::byte, kPacketBytesMax> buffer;
    Packet packet;
    const Status status = ReceivePacket(connection.socket.get(), buffer, &packet);
    if (status.code() == StatusCode::kTryAgain) break;
    const std::span<const std::byte> bytes(buffer.data(), packet.bytes);
    if (status.ok() && connection.isRefused && ++connection.refusedPackets <= kRefusedPacketsMax) continue;
    if (!status.ok() || !HandlePacket(connection, bytes, packet.descriptors)) {
      Close(id);
      return;
    }
  }
  if ((events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0) Close(id);
}

bool SessionServer::HandlePacket(Connection& connection, std::span<const std::byte> packet,
                                 const std::vector<Fd>& fds) {
  uint32_t type = 0;
  if (packet.size() < sizeof(type)) return false;
  std::memcpy(&type, packet.data(), sizeof(type));
  if (connection.session == nullptr) {
    return !connection.isRefused && type == static_cast<uint32_t>(session::Type::kHello) && Greet(connection, packet);
  }
  if (type == static_cast<uint32_t>(session::Type::kRegisterRegion)) {
    return Register(connection, packet, fds);
  }
  return type == static_cast<uint32_t>(session::Type::kUnregisterRegion) && Unregister(connection, packet);
}

Status SessionServer::CheckGreeting(const Connection& connection, const session::Hello& hello, std::string* keyPrefix) {
  if (hello.magic != session::kMagic || hello.version != session::kVersion) {
    return {StatusCode::kNotSupported, "this sidecar speaks session protocol version " +
                                           std::to_string(session::kVersion) + ", you speak " +
                                           std::to_string(hello.version) + ": use the same release of hbmesh"};
  }
  const bool control = hello.kind == static_cast<uint32_t>(session::Kind::kControl);
  if (!control && hello.kind != static_cast<uint32_t>(session::Kind::kClient)) {
    return {StatusCode::kInvalid, "session kind " + std::to_string(hello.kind) + " doesn't exist"};
  }
  const std::string token = FieldText(hello.token, sizeof(hello.token));
  Status admitted = control ? admission_.AdmitControl(connection.peer, token)
                            : admission_.AdmitClient(connection.peer, connection.isKnown, token, keyPrefix);
  if (!admitted.ok()) return admitted;
  if (control) DropDeadControl();
  if (control && control_ != nullptr) {
    return {StatusCode::kNotReady, "process " + std::to_string(control_->peer.pid) +
                                       " is the control process of worker " + options_.workerAddress +
                                       ": stop it first"};
  }
  if (order_.size() >= options_.sessionsMax) {
    return {StatusCode::kTryAgain, "worker " + options_.workerAddress + " has " + std::to_string(order_.size()) +
                                       " sessions, the most it takes: close one, or connect to another worker"};
  }
  return Status::Ok();
}

Status SessionServer::OpenChannel(Connection& connection, const session::Hello& hello, std::string keyPrefix) {
  ChannelOptions options;
  options.payloadCapacity = kPayloadCapacity;
  std::unique_ptr<Channel> channel;
  if (Status status = Channel::Create(options, loop_.wakeFd(), &channel); !status.ok()) return status;
  connection.session = std::make_unique<Session>(connection.id, static_cast<session::Kind>(hello.kind),
                                                 connection.peer.pid, std::move(channel), kPayloadCapacity / 2);
  connection.session->SetKeyPrefix(std::move(keyPrefix));
  return Status::Ok();
}

bool SessionServer::Greet(Connection& connection, std::span<const std::byte> packet) {
  session::Hello hello{};
  if (packet.size() != sizeof(hello)) return false;
  std::memcpy(&hello, packet.data(), sizeof(hello));
  std::string keyPrefix;
  Status status = CheckGreeting(connection, hello, &keyPrefix);
  if (status.ok()) status = OpenChannel(connection, hello, std::move(keyPrefix));
  if (!status.ok()) {
    Refuse(connection, status);
    return true;
  }
  timers_.Cancel(connection.greeting);
  Session& session = *connection.session;
  std::vector<int> fds = {session.channel().memoryFd(), loop_.wakeFd(), session.channel().peerWakeFd()};
  if (session.kind() == session::Kind::kControl) fds.push_back(facts_.storeFd);
  session::Welcome welcome{};
  welcome.type = static_cast<uint32_t>(session::Type::kWelcome);
  welcome.magic = session::kMagic;
  welcome.version = session::kVersion;
  welcome.session = connection.id;
  welcome.deviceCount = static_cast<uint32_t>(devices_.size());
  welcome.descriptors = static_cast<uint32_t>(fds.size());
  PutText(facts_.backend, welcome.backend, sizeof(welcome.backend));
  PutText(facts_.transports, welcome.transports, sizeof(welcome.transports));
  order_.push_back(&session);
  if (session.kind() == session::Kind::kControl) control_ = &connection;
  listener_.OnSessionOpened(session);
  return SendPacket(connection.socket.get(), std::as_bytes(std::span(&welcome, 1)), fds).ok();
}

bool SessionServer::Register(Connection& connection, std::span<const std::byte> packet, const std::vector<Fd>& fds) {
  session::RegisterRegion request{};
  if (packet.size() != sizeof(request)) return false;
  std::memcpy(&request, packet.data(), sizeof(request));
  uint32_t region = 0;
  if (fds.size() > 1) {
    return AnswerRegistration(connection, {StatusCode::kInvalid, "a region has one descriptor at most"}, 0);
  }
  const int fd = fds.empty() ? -1 : fds[0].get();
  const Status status = ImportRegion(*connection.session, request, fd, &region);
  return AnswerRegistration(connection, status, region);
}

Status SessionServer::ImportRegion(Session& session, const session::RegisterRegion& request, int fd, uint32_t* region) {
  if (session.kind() != session::Kind::kClient) return {StatusCode::kInvalid, "a control process has no device memory"};
  if (request.deviceIndex >= devices_.size()) {
    return {StatusCode::kInvalid, "device index " + std::to_string(request.deviceIndex) +
                                      " doesn't exist: this worker has devices 0 to " +
                                      std::to_string(devices_.size() - 1) + "; give one of them"};
  }
  if (request.bytes == 0) return {StatusCode::kInvalid, "a region of 0 bytes can't be registered"};
  if (request.keyBytes > session::kExportKeyBytesMax) {
    return {StatusCode::kInvalid, "an export key of " + std::to_string(request.keyBytes) + " bytes; at most " +
                                      std::to_string(session::kExportKeyBytesMax) + " are allowed"};
  }
  RegionTable& regions = session.regions();
  const auto slot = std::find(regions.begin(), regions.end(), nullptr);
  if (slot == regions.end() && regions.size() >= options_.regionsMax) {
    return {StatusCode::kTryAgain, "this session has " + std::to_string(regions.size()) +
                                       " regions, the most it may have: register larger ones, or release some"};
  }
  uint64_t bytes = 0;
  for (const auto& each : regions) bytes += each == nullptr ? 0 : each->bytes();
  if (request.bytes > options_.regionBytesMax - std::min(bytes, options_.regionBytesMax)) {
    return {StatusCode::kTryAgain, "this session has registered " + std::to_string(bytes) + " bytes, with " +
                                       std::to_string(request.bytes) + " more it would be over its limit of " +
                                       std::to_string(options_.regionBytesMax) + ": release some regions"};
  }
  ExportHandle handle;
  handle.deviceIndex = request.deviceIndex;
  handle.bytes = request.bytes;
  const auto* key = reinterpret_cast<const std::byte*>(request.key);
  handle.key.assign(key, key + request.keyBytes);
  handle.fd = fd;
  Device& device = *devices_[request.deviceIndex];
  DeviceRegion memory;
  if (Status status = device.Import(handle, &memory); !status.ok()) return status;
  *region = static_cast<uint32_t>(slot - regions.begin());
  auto entry = std::make_shared<Region>(device, memory);
  if (slot == regions.end()) {
    regions.push_back(std::move(entry));
  } else {
    *slot = std::move(entry);
  }
  return Status::Ok();
}

bool SessionServer::Unregister(Connection& connection, std::span<const std::byte> packet) {
  session::UnregisterRegion request{};
  if (packet.size() != sizeof(request)) return false;
  std::memcpy(&request, packet.data(), sizeof(request));
  RegionTable& regions = connection.session->regions();
  if (request.region >= regions.size() || regions[request.region] == nullptr) {
    return AnswerRegistration(connection,
                              {StatusCode::kInvalid, "region " + std::to_string(request.region) + " is not registered"},
                              request.region);
  }
  regions[request.region] = nullptr;  // copies under way keep the memory until they are done
  return AnswerRegistration(connection, Status::Ok(), request.region);
}

bool SessionServer::AnswerRegistration(Connection& connection, const Status& status, uint32_t region) {
  session::RegisterReply reply{};
  reply.type = static_cast<uint32_t>(session::Type::kRegisterReply);
  reply.code = static_cast<uint32_t>(status.code());
  reply.region = region;
  PutText(status.message(), reply.text, sizeof(reply.text));
  // A peer that doesn't read its answers is not waited for.
  return SendPacket(connection.socket.get(), std::as_bytes(std::span(&reply, 1))).ok();
}

// A control process that was killed may have a successor before its end of file was looked at.
void SessionServer::DropDeadControl() {
  if (control_ == nullptr) return;
  std::byte byte{};
  const ssize_t got = ::recv(control_->socket.get(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) Close(control_->id);
}

void SessionServer::Close(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  std::unique_ptr<Connection> connection = std::move(found->second);
  connections_.erase(found);
  loop_.Unwatch(connection->watch);
  timers_.Cancel(connection->greeting);
  if (control_ == connection.get()) control_ = nullptr;
  if (connection->session == nullptr) return;
  const auto position = std::find(order_.begin(), order_.end(), connection->session.get());
  if (position == order_.end()) return;  // refused before it was a session
  order_.erase(position);
  listener_.OnSessionClosed(*connection->session);
}

bool SessionServer::Sweep() {
  std::vector<uint64_t> broken;
  for (Session* session : order_) {
    if (!session->broken().empty()) broken.push_back(session->id());
  }
  for (const uint64_t id : broken) Close(id);
  return !broken.empty();
}

}  // namespace hbmesh::sidecar
