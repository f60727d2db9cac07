// Goal: whoever a transport refuses reads why, every time, however early or late it speaks. Method: processes of
// another user over shm (which only root can start), and a raw caller over tcp that goes on talking after it was
// refused.
#include <grp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/event_fd.h"
#include "base/unix_socket.h"
#include "transport/cluster_token.h"
#include "transport/shm_connect.h"
#include "transport/socket_address.h"
#include "transport/tcp_wire.h"
#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

constexpr uid_t kOtherUser = 65'534;
constexpr int kTries = 40;

std::unique_ptr<Transport> Listening(const std::string& name, const TransportOptions& options, CollectingSink* sink) {
  std::unique_ptr<Transport> transport;
  EXPECT_TRUE(CreateTransport(name, options, sink, &transport).ok());
  EXPECT_TRUE(transport->Listen(ListenAddress(name)).ok());
  return transport;
}

TEST(TransportRefusal, EveryProcessOfAnotherUserReadsWhyOverShm) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  CollectingSink sink;
  const std::unique_ptr<Transport> transport = Listening("shm", {}, &sink);
  const std::string address = transport->address();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresuid(kOtherUser, kOtherUser, kOtherUser) != 0) ::_exit(200);
    Fd never;
    if (!CreateEventFd(&never).ok()) ::_exit(201);
    int told = 0;
    for (int i = 0; i < kTries; ++i) {
      Fd socket;
      const Status status = ConnectShm(address, {}, never.get(), &socket);
      const bool names = status.message().find("belongs to user 65534, this one to 0") != std::string::npos;
      told += status.code() == StatusCode::kNotAuthorized && names ? 1 : 0;
    }
    ::_exit(told);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, kTries);
  EXPECT_EQ(sink.accepted(), 0U);
  // Our own user still gets in.
  CollectingSink own;
  std::unique_ptr<Transport> caller;
  std::unique_ptr<Endpoint> endpoint;
  ASSERT_TRUE(CreateTransport("shm", {}, &own, &caller).ok());
  ASSERT_TRUE(caller->Connect(address, 1, 1, &endpoint).ok());
  EXPECT_EQ(own.Wait(1).ToString(), Status::Ok().ToString());
  endpoint.reset();
  caller.reset();
  sink.CloseAccepted();
}

// A listener that closed at once would answer what the caller still sends with a reset.
TEST(TransportRefusal, ACallerThatGoesOnTalkingOverTcpIsReadToItsEnd) {
  CollectingSink sink;
  TransportOptions options;
  options.handshakeTimeoutMs = 60'000;
  ASSERT_TRUE(ClusterToken::Parse("a-token-of-24-characters", "test", &options.token).ok());
  const std::unique_ptr<Transport> transport = Listening("tcp", options, &sink);
  SocketAddress address;
  ASSERT_TRUE(ParseSocketAddress(transport->address(), &address).ok());
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(socket.get(), address.get(), address.bytes), 0);
  ASSERT_TRUE(SetSocketTimeout(socket.get(), 60'000).ok());
  tcp::Hello hello{};
  hello.magic = tcp::kMagic;
  hello.version = tcp::kVersion;
  hello.lanes = 1;  // and no token
  ASSERT_EQ(::send(socket.get(), &hello, sizeof hello, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof hello));
  tcp::HelloReply reply{};
  ASSERT_EQ(::recv(socket.get(), &reply, sizeof reply, MSG_WAITALL), static_cast<ssize_t>(sizeof reply));
  EXPECT_EQ(reply.code, static_cast<uint32_t>(StatusCode::kNotAuthorized));
  EXPECT_NE(std::string(reply.text).find("the same --cluster_token_file"), std::string::npos) << reply.text;
  std::byte byte{};
  EXPECT_EQ(::recv(socket.get(), &byte, 1, 0), 0) << "nothing more comes";
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(::send(socket.get(), &hello, sizeof hello, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof hello)) << i;
  }
  EXPECT_EQ(::recv(socket.get(), &byte, 1, 0), 0) << "and no reset";
  EXPECT_EQ(sink.accepted(), 0U);
}

}  // namespace
}  // namespace hbmesh
