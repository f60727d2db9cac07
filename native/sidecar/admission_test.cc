// Goal: who is let in and who is not, by user, group and token; whoever is refused reads why, and what to do, every
// time, whether it had greeted before or not; and a crowd of refused users keeps nobody out. Method: the rules as a
// table; then real sidecar processes, and child processes of other users (which only root can start).
#include "sidecar/admission.h"

#include <grp.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "sidecar/sidecar_test_util.h"
#include "transport/cluster_token.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uid_t kOther = 65'534;
constexpr gid_t kGroup = 65'533;
const std::string kSecret = "the-token-of-this-cluster";

SidecarOptions OptionsWith(bool tenants, bool clusterToken, LocalToken localToken) {
  SidecarOptions options;
  options.workerAddress = "10.0.0.1:1";
  options.clientUids = {1001, 1002};
  options.clientGid = 300;
  options.localToken = localToken;
  if (tenants) {
    EXPECT_TRUE(Tenants::Parse("token-red red\n", "f", &options.tenants).ok());
  }
  if (clusterToken) {
    EXPECT_TRUE(ClusterToken::Parse(kSecret, "f", &options.clusterToken).ok());
  }
  return options;
}

TEST(AdmissionTest, UsersAndGroups) {
  const SidecarOptions options = OptionsWith(false, false, LocalToken::kOptional);
  const Admission admission(options);
  const auto isKnown = [&](uid_t uid, gid_t gid, std::vector<gid_t> groups) {
    return admission.IsKnown({1, uid, gid}, groups);
  };
  EXPECT_TRUE(isKnown(0, 0, {}));
  EXPECT_TRUE(isKnown(::geteuid(), 7, {}));
  EXPECT_TRUE(isKnown(1001, 7, {}));
  EXPECT_TRUE(isKnown(1002, 7, {}));
  EXPECT_FALSE(isKnown(1003, 7, {8, 9}));
  EXPECT_TRUE(isKnown(1003, 300, {})) << "as its own group";
  EXPECT_TRUE(isKnown(1003, 7, {8, 300})) << "among its groups";
  std::string prefix;
  const Status refused = admission.AdmitClient({1, 1003, 7}, false, "", &prefix);
  EXPECT_EQ(refused.code(), StatusCode::kNotAuthorized);
  EXPECT_EQ(refused.message(), "worker 10.0.0.1:1 serves user id " + std::to_string(::geteuid()) +
                                   " and root, 1001, 1002, and group id 300 on this host, you are 1003 (group 7): run "
                                   "both as the same user, or start the worker with --client_uids 1003 or "
                                   "--client_gid");
  // A control process gets the store's memory: nobody's but our own.
  EXPECT_EQ(admission.AdmitControl({1, 1001, 300}, "").code(), StatusCode::kNotAuthorized);
  EXPECT_TRUE(admission.AdmitControl({1, 0, 0}, "").ok());
}

struct TokenCase {
  bool tenants;
  bool clusterToken;
  LocalToken localToken;
  bool isKnown;
  std::string token;
  std::string wanted;  // the tenant's prefix, or the beginning of the refusal
};

TEST(AdmissionTest, Tokens) {
  constexpr auto kOptional = LocalToken::kOptional;
  constexpr auto kRequired = LocalToken::kRequired;
  std::string red;
  {
    const SidecarOptions options = OptionsWith(true, false, kOptional);
    red = *options.tenants.PrefixOf("token-red");
  }
  const std::string kUser = "worker 10.0.0.1:1 serves user id";
  const std::string kWrong = "the token is nobody's at worker 10.0.0.1:1: give the ";
  const std::string kNone = "you gave no token at worker 10.0.0.1:1: give the ";
  const TokenCase cases[] = {
      // Nobody has a token: there is none that could be wrong.
      {false, false, kOptional, true, "", ""},
      {false, false, kOptional, true, "anything", ""},
      {false, false, kOptional, false, "", kUser},
      {false, false, kOptional, false, "anything", kUser},
      // The cluster's token: right, wrong, none.
      {false, true, kOptional, true, kSecret, ""},
      {false, true, kOptional, true, kSecret + "x", kWrong + "cluster's token (--cluster_token_file)"},
      {false, true, kOptional, true, kSecret.substr(1), kWrong},
      {false, true, kOptional, true, "", ""},
      {false, true, kOptional, false, kSecret, ""},
      {false, true, kOptional, false, "wrong", kWrong},
      {false, true, kOptional, false, "", kUser},
      // Required: the user is no longer enough, and a token is.
      {false, true, kRequired, true, "", kNone + "cluster's token (--cluster_token_file)"},
      {false, true, kRequired, true, kSecret, ""},
      {false, true, kRequired, true, "wrong", kWrong},
      {false, true, kRequired, false, kSecret, ""},
      {false, true, kRequired, false, "", kNone},
      // Tenants are told apart by their tokens, which are therefore always asked for.
      {true, false, kOptional, true, "", kNone + "token of a tenant"},
      {true, false, kOptional, true, "token-red", red},
      {true, false, kOptional, true, kSecret, kWrong},
      {true, true, kOptional, true, kSecret, ""},
      {true, true, kRequired, false, "token-red", red},
      {true, true, kOptional, true, "token-blue", kWrong + "token of a tenant"},
  };
  for (const TokenCase& each : cases) {
    const SidecarOptions options = OptionsWith(each.tenants, each.clusterToken, each.localToken);
    const Admission admission(options);
    std::string prefix = "old";
    const Status status = admission.AdmitClient({1, 4000, 4000}, each.isKnown, each.token, &prefix);
    const bool refuses = each.wanted.find("worker") != std::string::npos;
    const std::string what = "token \"" + each.token + "\", wanted \"" + each.wanted + "\": " + status.ToString();
    EXPECT_EQ(status.code(), refuses ? StatusCode::kNotAuthorized : StatusCode::kOk) << what;
    EXPECT_EQ(prefix, refuses ? "" : each.wanted) << what;
    EXPECT_EQ(status.message().find(refuses ? each.wanted : ""), 0U) << what;
    EXPECT_EQ(status.message().find(kSecret), std::string::npos);
  }
}

TEST(AdmissionTest, RequiredWithoutTokensIsRefusedAtTheStart) {
  const SidecarOptions none = OptionsWith(false, false, LocalToken::kRequired);
  const Status status = Admission(none).Check();
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("give --cluster_token_file or --tenants_file"), std::string::npos);
  const SidecarProcess process(NewWorkerAddress(), {"--local_token=required"});
  EXPECT_EQ(process.ready(), "error: " + status.message());
  for (const auto& [tenants, token] : {std::pair(true, false), std::pair(false, true)}) {
    const SidecarOptions some = OptionsWith(tenants, token, LocalToken::kRequired);
    EXPECT_TRUE(Admission(some).Check().ok());
  }
}

// Runs it in a child process of another user. What it returns, below 200.
int AsUser(uid_t uid, gid_t gid, std::vector<gid_t> groups, const std::function<int()>& run) {
  const pid_t child = ::fork();
  EXPECT_GE(child, 0);
  if (child == 0) {
    const bool became = ::setgroups(groups.size(), groups.data()) == 0 && ::setresgid(gid, gid, gid) == 0 &&
                        ::setresuid(uid, uid, uid) == 0;
    ::_exit(became ? run() : 250);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 251;
}

// What a stranger to our client library does: connects, greets when it likes, reads. The code of the Welcome, or 201
// for a greeting that can't be sent, 202 for an answer that doesn't come.
int RawGreeting(const std::string& workerAddress, const std::string& token, bool waitsForTheEnd) {
  Fd socket;
  if (!ConnectUnix(session::SocketName(workerAddress), &socket).ok()) return 203;
  if (waitsForTheEnd) {
    // Until the sidecar closes or gives up, if it does without a greeting.
    pollfd ended{socket.get(), POLLIN, 0};
    (void)::poll(&ended, 1, 20);
  }
  session::Hello hello{};
  hello.type = static_cast<uint32_t>(session::Type::kHello);
  hello.magic = session::kMagic;
  hello.version = session::kVersion;
  hello.kind = static_cast<uint32_t>(session::Kind::kClient);
  std::memcpy(hello.token, token.data(), token.size());
  if (!SendPacket(socket.get(), std::as_bytes(std::span(&hello, 1))).ok()) return 201;
  session::Welcome welcome{};
  Packet packet;
  if (!ReceivePacket(socket.get(), std::as_writable_bytes(std::span(&welcome, 1)), &packet).ok()) return 202;
  if (welcome.code != 0 && std::strlen(welcome.text) == 0) return 204;
  return static_cast<int>(welcome.code);
}

class OtherUserTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
    std::ofstream(tokenFile_) << kSecret << "\n";
  }
  void TearDown() override { ::unlink(tokenFile_.c_str()); }

  // The code of an ordinary greeting of a process of this user.
  static int CodeFor(const Worker& worker, uid_t uid, gid_t gid, std::vector<gid_t> groups,
                     const std::string& token = "") {
    return AsUser(uid, gid, std::move(groups),
                  [&] { return RawGreeting(worker.process.workerAddress(), token, false); });
  }

  static constexpr int kOk = 0;
  static constexpr int kRefused = static_cast<int>(StatusCode::kNotAuthorized);
  const std::string tokenFile_ = "/tmp/hbmesh-admission-" + std::to_string(::getpid());
  FakeDirectory directory_;
};

TEST_F(OtherUserTest, EveryRefusalIsRead) {
  const Worker worker(directory_, 1);
  for (const bool waits : {false, true}) {
    const int refused = AsUser(kOther, kOther, {}, [&] {
      int count = 0;
      for (int i = 0; i < 40; ++i) count += RawGreeting(worker.process.workerAddress(), "", waits) == kRefused ? 1 : 0;
      return count;
    });
    EXPECT_EQ(refused, 40) << (waits ? "greeting late" : "greeting at once");
  }
  // Also what a refused one says too much doesn't take the answer from it.
  EXPECT_EQ(AsUser(kOther, kOther, {},
                   [&] {
                     Fd socket;
                     if (!ConnectUnix(session::SocketName(worker.process.workerAddress()), &socket).ok()) return 203;
                     session::Hello hello{};
                     hello.type = static_cast<uint32_t>(session::Type::kHello);
                     hello.magic = session::kMagic;
                     hello.version = session::kVersion;
                     hello.kind = static_cast<uint32_t>(session::Kind::kClient);
                     for (int i = 0; i < 5; ++i) {
                       if (!SendPacket(socket.get(), std::as_bytes(std::span(&hello, 1))).ok()) return 201;
                     }
                     session::Welcome welcome{};
                     Packet packet;
                     if (!ReceivePacket(socket.get(), std::as_writable_bytes(std::span(&welcome, 1)), &packet).ok())
                       return 202;
                     return static_cast<int>(welcome.code);
                   }),
            kRefused);
}

TEST_F(OtherUserTest, NamedUsersAndMembersOfTheGroupGetIn) {
  const Worker worker(directory_, 1, {"--client_uids=65500,65534", "--client_gid=65533"});
  EXPECT_EQ(CodeFor(worker, kOther, kOther, {}), kOk);
  EXPECT_EQ(CodeFor(worker, 65'500, 65'500, {}), kOk);
  EXPECT_EQ(CodeFor(worker, 65'501, 65'501, {}), kRefused);
  EXPECT_EQ(CodeFor(worker, 65'501, kGroup, {}), kOk);
  EXPECT_EQ(CodeFor(worker, 65'501, 65'501, {65'532, kGroup}), kOk);
  EXPECT_EQ(CodeFor(worker, 65'501, 65'501, {65'532}), kRefused);
}

TEST_F(OtherUserTest, ATokenGetsInWhoeverHasIt) {
  const Worker worker(directory_, 1, {"--cluster_token_file=" + tokenFile_});
  EXPECT_EQ(CodeFor(worker, kOther, kOther, {}, kSecret), kOk);
  EXPECT_EQ(CodeFor(worker, kOther, kOther, {}, "wrong"), kRefused);
  EXPECT_EQ(CodeFor(worker, kOther, kOther, {}), kRefused);
  // Our own user: known without one, and turned away with a wrong one.
  EXPECT_EQ(Peer(worker.process.workerAddress(), session::Kind::kClient).welcome().code, 0U);
  EXPECT_EQ(Peer(worker.process.workerAddress(), session::Kind::kClient, "wrong").welcome().code,
            CodeOf(StatusCode::kNotAuthorized));
}

// Bytes of another user's device memory become an object, and come back into it: the sidecar maps what it was handed.
TEST_F(OtherUserTest, ANamedUserSetsAndGets) {
  const Worker worker(directory_, 1, {"--client_uids=65534"});
  const int code = AsUser(kOther, kOther, {}, [&] {
    Client client(worker.process.workerAddress());
    if (client.welcome().code != 0) return 201;
    DeviceMemory memory(1 << 20);
    memory.Fill(5);
    const uint32_t region = client.MustRegister(0, memory);
    if (client.Call(Op::kSetD2H, 0, {Blobs("k", region, 2, 70'000)}).results[0].code != 0) return 202;
    if (client.Call(Op::kGetH2D, 0, {Blobs("k", region, 2, 70'000, 400'000)}).results[0].code != 0) return 203;
    return std::memcmp(memory.data(), memory.data() + 400'000, 140'000) == 0 && !HasFailure() ? 0 : 204;
  });
  EXPECT_EQ(code, 0);
}

// Who greets too late reads that, too.
TEST(AdmissionTest, AGreetingThatComesTooLateIsToldSo) {
  FakeDirectory directory;
  const Worker worker(directory, 1);
  Fd late;
  ASSERT_TRUE(ConnectUnix(session::SocketName(worker.process.workerAddress()), &late).ok());
  session::Welcome welcome{};
  Packet packet;
  ASSERT_TRUE(ReceivePacket(late.get(), std::as_writable_bytes(std::span(&welcome, 1)), &packet).ok());
  EXPECT_EQ(welcome.code, CodeOf(StatusCode::kRpcDeadlineExceeded));
  EXPECT_STREQ(welcome.text, "you have not greeted for 5000 ms after you connected; try again");
  std::byte byte{};
  EXPECT_EQ(ReceivePacket(late.get(), {&byte, 1}, &packet).code(), StatusCode::kRpcPeerDead);
}

// Users who are not served have their own places: however many wait there, ours get in.
TEST_F(OtherUserTest, ACrowdOfStrangersKeepsNobodyOut) {
  const Worker worker(directory_, 1);
  Fd silent;
  ASSERT_TRUE(ConnectUnix(session::SocketName(worker.process.workerAddress()), &silent).ok());
  const int answered = AsUser(kOther, kOther, {}, [&] {
    std::vector<Fd> crowd(200);
    for (Fd& socket : crowd) {
      if (!ConnectUnix(session::SocketName(worker.process.workerAddress()), &socket).ok()) return 201;
    }
    // The last of them is greeted after all others, so those are behind it.
    return RawGreeting(worker.process.workerAddress(), "", false);
  });
  EXPECT_EQ(answered, kRefused);
  session::Hello hello{};
  hello.type = static_cast<uint32_t>(session::Type::kHello);
  hello.magic = session::kMagic;
  hello.version = session::kVersion;
  hello.kind = static_cast<uint32_t>(session::Kind::kClient);
  ASSERT_TRUE(SendPacket(silent.get(), std::as_bytes(std::span(&hello, 1))).ok());
  session::Welcome welcome{};
  Packet packet;
  ASSERT_TRUE(ReceivePacket(silent.get(), std::as_writable_bytes(std::span(&welcome, 1)), &packet).ok());
  EXPECT_EQ(welcome.code, 0U) << welcome.text << ": our own connection was pushed out by theirs";
}

}  // namespace
}  // namespace hbmesh::sidecar::testing
