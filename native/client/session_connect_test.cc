// Goal: a worker is found by any way of writing its address, and by its host's name over every address that this leads
// to, within the time limit. Method: a fake sidecar at an address that the test chooses, and a resolver that the test
// gives.
#include "client/session_connect.h"

#include <gtest/gtest.h>

#include <future>

#include "client/fake_sidecar.h"

namespace hbmesh {
namespace {

using test::FakeBehaviour;
using test::FakeSidecar;

LookUp Leads(std::vector<std::string> hosts) {
  return [hosts = std::move(hosts)](const std::string&, std::vector<std::string>* found) {
    *found = hosts;
    return Status::Ok();
  };
}

// An IPv6 address that no other test process has as a worker's.
std::string UniqueHost6() {
  char text[32];
  std::snprintf(text, sizeof text, "fd00::1:%x", static_cast<unsigned>(::getpid()) & 0xffff);
  return text;
}

FakeBehaviour At(const std::string& address) {
  FakeBehaviour behaviour;
  behaviour.address = address;
  return behaviour;
}

Status Open(const std::string& workerAddress, const LookUp& lookUp, uint32_t timeoutMs = 9000, int cancelFd = -1) {
  SessionOptions options;
  options.workerAddress = workerAddress;
  options.lookUp = lookUp;
  options.connectTimeoutMs = timeoutMs;
  options.cancelFd = cancelFd;
  Session session;
  return OpenSession(options, &session);
}

TEST(OpenSession, AnAddressMayBeWrittenInAnyWay) {
  const std::string host = UniqueHost6();
  FakeSidecar sidecar(At("[" + host + "]:31501"));
  for (const std::string& text : {"[" + host + "]:31501", "[fd00:0:0:0:0::1:" + host.substr(8) + "]:31501",
                                  "[FD00:0::0:0:1:" + host.substr(8) + "]:31501"}) {
    const Status status = Open(text, nullptr);
    EXPECT_TRUE(status.ok()) << text << ": " << status.message();
  }
}

TEST(OpenSession, ANameWithOnlyAnIp6Address) {
  const std::string host = UniqueHost6();
  FakeSidecar sidecar(At("[" + host + "]:31502"));
  const Status status = Open("node7:31502", Leads({host}));
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(OpenSession, EveryAddressOfANameIsTried) {
  const std::string host = UniqueHost6();
  FakeSidecar sidecar(At("[" + host + "]:31503"));
  EXPECT_TRUE(Open("node7:31503", Leads({"127.0.0.9", host})).ok());
  const Status status = Open("Node7:31504", Leads({"127.0.0.9", host}));
  EXPECT_EQ(status.code(), StatusCode::kNoAvailableWorker);
  EXPECT_NE(
      status.message().find("no worker serves Node7:31504 (127.0.0.9:31504, [" + host + "]:31504) on this machine"),
      std::string::npos)
      << status.message();
}

TEST(OpenSession, WhoAnswersAndRefusesIsNotPassedOver) {
  const std::string host = UniqueHost6();
  FakeBehaviour behaviour = At("[" + host + "]:31505");
  behaviour.welcomeCode = StatusCode::kNotAuthorized;
  FakeSidecar sidecar(behaviour);
  EXPECT_EQ(Open("node7:31505", Leads({host, "127.0.0.9"})).code(), StatusCode::kNotAuthorized);
}

TEST(OpenSession, ANameThatLeadsNowhereAndTextsThatAreNone) {
  const LookUp nowhere = [](const std::string& name, std::vector<std::string>*) {
    return Status(StatusCode::kNoAvailableWorker, "the name " + name + " leads to no address");
  };
  const Status status = Open("node7:31501", nowhere);
  EXPECT_EQ(status.code(), StatusCode::kNoAvailableWorker);
  EXPECT_EQ(status.message(), "the name node7 leads to no address");
  for (const char* wrong : {"", "bogus", "127.0.0.1:99999", "::1:31501"}) {
    EXPECT_EQ(Open(wrong, nowhere).code(), StatusCode::kInvalid) << wrong;
  }
}

TEST(OpenSession, AResolverThatHangsRunsIntoTheTimeLimitAndCanBeCancelled) {
  const auto release = std::make_shared<std::promise<void>>();
  const LookUp hangs = [until = release->get_future().share()](const std::string&, std::vector<std::string>*) {
    until.wait();
    return Status::Ok();
  };
  const Status late = Open("node7:31501", hangs, 20);
  EXPECT_EQ(late.code(), StatusCode::kRpcDeadlineExceeded);
  EXPECT_NE(late.message().find("waited 20 ms"), std::string::npos) << late.message();
  EXPECT_NE(late.message().find("looking up the name node7"), std::string::npos) << late.message();
  Fd cancel;
  ASSERT_TRUE(CreateEventFd(&cancel).ok());
  SignalEvent(cancel.get());
  EXPECT_EQ(Open("node7:31501", hangs, 9000, cancel.get()).code(), StatusCode::kRpcCancelled);
  release->set_value();
}

}  // namespace
}  // namespace hbmesh
