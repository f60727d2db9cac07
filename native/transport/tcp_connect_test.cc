// Goal: who can't connect over tcp is told host, port and cause; IPv6 addresses are listened at and connected to in any
// way of writing them. Method: a table of what a listener may do wrong, each a socket of this test's own.
#include <sys/socket.h>

#include <functional>
#include <thread>

#include "transport/socket_address.h"
#include "transport/transport_test_util.h"

namespace hbmesh {
namespace {

constexpr uint32_t kTimeoutMs = 200;

std::unique_ptr<Transport> MakeTcp(TransportSink* sink) {
  TransportOptions options;
  options.connectTimeoutMs = kTimeoutMs;
  std::unique_ptr<Transport> transport;
  EXPECT_TRUE(CreateTransport("tcp", options, sink, &transport).ok());
  return transport;
}

// What connecting to this address ends with.
Status Connect(const std::string& address) {
  CollectingSink sink;
  const std::unique_ptr<Transport> transport = MakeTcp(&sink);
  std::unique_ptr<Endpoint> endpoint;
  if (Status status = transport->Connect(address, 1, 7, &endpoint); !status.ok()) return status;
  return sink.Wait(7);
}

// A socket that listens, and does something with each connection until it is destroyed.
class Listener {
 public:
  Listener(const std::string& host, std::function<void(int)> act) : act_(std::move(act)) {
    SocketAddress address = ToSocketAddress(host, 0);
    socket_ = Fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(socket_.get(), address.get(), address.bytes), 0);
    EXPECT_EQ(::listen(socket_.get(), SOMAXCONN), 0);
    address.bytes = sizeof address.storage;
    EXPECT_EQ(::getsockname(socket_.get(), address.get(), &address.bytes), 0);
    address_ = SocketAddressName(address);
    thread_ = std::thread([this] {
      std::vector<Fd> accepted;  // open until the end
      for (;;) {
        Fd connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!connection.valid()) return;
        act_(connection.get());
        accepted.push_back(std::move(connection));
      }
    });
  }
  ~Listener() {
    ::shutdown(socket_.get(), SHUT_RDWR);
    thread_.join();
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  const std::function<void(int)> act_;
  Fd socket_;
  std::string address_;
  std::thread thread_;
};

void Close(int connection) { ::shutdown(connection, SHUT_RDWR); }
void Chatter(int connection) {
  const std::string text(4096, 'x');
  (void)::send(connection, text.data(), text.size(), MSG_NOSIGNAL);
}
void Nothing(int /*connection*/) {}

// A port at which nobody listens any more.
std::string Deserted(const std::string& host) { return Listener(host, Nothing).address(); }

void ExpectNamed(const Status& status, const std::string& address, const std::string& cause) {
  EXPECT_EQ(status.code(), StatusCode::kRpcUnavailable) << status.message();
  EXPECT_NE(status.message().find("no tcp transport of hbmesh could be reached at " + address + ": "),
            std::string::npos)
      << status.message();
  EXPECT_NE(status.message().find(cause), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("; check that the worker there is running and the address is right"),
            std::string::npos);
}

class TcpConnectTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TcpConnectTest, NamesHostPortAndCause) {
  const std::string deserted = Deserted(GetParam());
  ExpectNamed(Connect(deserted), deserted, "Connection refused");
  const Listener silent(GetParam(), Nothing);
  ExpectNamed(Connect(silent.address()), silent.address(), "no answer within 200 ms");
  const Listener closing(GetParam(), Close);
  ExpectNamed(Connect(closing.address()), closing.address(), "");
  const Listener foreign(GetParam(), Chatter);
  ExpectNamed(Connect(foreign.address()), foreign.address(), "something else than hbmesh answered");
}

INSTANTIATE_TEST_SUITE_P(Families, TcpConnectTest, ::testing::Values("127.0.0.1", "::1"),
                         [](const auto& each) { return each.param == "::1" ? "Ip6" : "Ip4"; });

TEST(TcpAddresses, AnyWayOfWritingAnIp6Address) {
  CollectingSink serving;
  const std::unique_ptr<Transport> server = MakeTcp(&serving);
  ASSERT_TRUE(server->Listen("[0:0:0:0:0:0:0:1]:0").ok());
  ASSERT_TRUE(server->address().starts_with("[::1]:")) << server->address();
  const std::string port = server->address().substr(server->address().rfind(':'));
  for (const std::string host : {"[::1]", "[0:0:0:0:0:0:0:1]", "[0::1]"}) {
    EXPECT_EQ(Connect(host + port).ToString(), Status::Ok().ToString()) << host;
  }
  serving.CloseAccepted();
}

TEST(TcpAddresses, WhatIsNoneIsRefusedWithTheReason) {
  for (const auto& [address, why] : std::vector<std::pair<std::string, std::string>>{
           {"node7:31501", "has a name"},
           {"::1:31501", "has an IPv6 address without brackets"},
           {"127.0.0.1", "has no port"},
           {"127.0.0.1:65536", "has a port that is no number from 0 to 65535"}}) {
    const Status status = Connect(address);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_NE(status.message().find("the tcp address \"" + address + "\" " + why), std::string::npos)
        << status.message();
  }
}

}  // namespace
}  // namespace hbmesh
