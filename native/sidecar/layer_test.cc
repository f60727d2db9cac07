// Goal: layer by layer as it goes between prefill and decode: the decode side reserves, the prefill side pushes layer
// after layer in any order, each is seen when it is complete; every misuse is told its cause; either end's death
// reaches the other. Method: real sidecar processes, one or two, over both transports; devices are slow where something
// is to happen in the middle.
#include <csignal>
#include <cstring>

#include "sidecar/peer_protocol.h"
#include "sidecar/raw_peer.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kTicketMs = 20'000;
constexpr uint32_t kLayers = 4;
constexpr uint64_t kBlobBytes = 100'000;

// Layers of two blobs each.
std::vector<KeyBlobs> Targets(uint32_t region, uint64_t blobBytes = kBlobBytes) {
  std::vector<KeyBlobs> layers;
  for (uint32_t i = 0; i < kLayers; ++i) {
    layers.push_back(Blobs(std::to_string(i), region, 2, blobBytes, i * 2 * blobBytes));
  }
  return layers;
}

std::string WithOtherSecret(std::string ticket) {
  ticket.back() = ticket.back() == '0' ? '1' : '0';
  return ticket;
}

// "local": both on one worker.
class LayerTest : public ::testing::TestWithParam<std::string> {
 protected:
  explicit LayerTest(std::vector<std::string> flags = {}, uint64_t blobBytes = kBlobBytes) : bytes(blobBytes) {
    if (GetParam() != "local") flags.push_back("--transport=" + GetParam());
    flags.push_back("--slice_kb=64");
    decodeWorker = std::make_unique<Worker>(directory, 1, flags);
    if (GetParam() != "local") {
      prefillWorker = std::make_unique<Worker>(directory, 2, flags);
      Introduce({decodeWorker->control.get(), prefillWorker->control.get()},
                {decodeWorker->process.workerAddress(), prefillWorker->process.workerAddress()});
    }
    Worker& pusher = prefillWorker != nullptr ? *prefillWorker : *decodeWorker;
    decode = std::make_unique<Client>(decodeWorker->process.workerAddress());
    prefill = std::make_unique<Client>(pusher.process.workerAddress());
    source.Fill(41);
    target.Fill(42);
    to = decode->MustRegister(1, target);
    from = prefill->MustRegister(0, source);
  }
  std::string Reserve(uint64_t* id, uint64_t ttlMs = kTicketMs) {
    *id = decode->Submit(Op::kReserveLayers, 1, Targets(to, bytes), {ttlMs, 0, 0, 0});
    const Events& events = decode->WaitAccepted(*id, kLayers - 1);
    return events.keys[0].accepting;
  }
  uint64_t SubmitPush(const std::string& ticket, uint64_t layer) {
    return prefill->Submit(Op::kPushLayer, 0, {Blobs(ticket, from, 2, bytes, layer * 2 * bytes)}, {layer, 0, 0, 0});
  }
  Reply Push(const std::string& ticket, uint64_t layer) { return prefill->WaitFor(SubmitPush(ticket, layer)); }
  void ExpectPush(const Reply& reply, StatusCode code, const std::string& text) {
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    EXPECT_EQ(reply.results[0].code, CodeOf(code)) << reply.texts[0];
    EXPECT_NE(reply.texts[0].find(text), std::string::npos) << reply.texts[0];
  }
  [[nodiscard]] bool LayerThere(uint64_t layer) const {
    const uint64_t at = layer * 2 * bytes;
    return std::memcmp(source.data() + at, target.data() + at, 2 * bytes) == 0;
  }

  const uint64_t bytes;
  FakeDirectory directory;
  std::unique_ptr<Worker> decodeWorker;
  std::unique_ptr<Worker> prefillWorker;
  std::unique_ptr<Client> decode;
  std::unique_ptr<Client> prefill;
  DeviceMemory source{8 << 20};
  DeviceMemory target{8 << 20};
  uint32_t from = 0;
  uint32_t to = 0;
};

TEST_P(LayerTest, PushedInAnyOrder) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  EXPECT_EQ(ticket.rfind("1-", 0), 0U) << ticket;
  uint32_t pushed = 0;
  for (const uint32_t layer : {2U, 0U, 3U, 1U}) {
    EXPECT_FALSE(decode->Now(id).keys[layer].ended);
    const Reply reply = Push(ticket, layer);
    ASSERT_EQ(reply.results.size(), 1U) << reply.text;
    EXPECT_EQ(reply.results[0].code, 0U) << reply.texts[0];
    EXPECT_EQ(reply.results[0].bytes, 2 * bytes);
    ASSERT_EQ(reply.paths.size(), 1U);
    EXPECT_EQ(reply.paths[0].bytes, 2 * bytes);
    const Events& events = decode->WaitEvents(id, [&](const Events& now) { return now.keys[layer].ended; });
    EXPECT_EQ(events.keys[layer].code, StatusCode::kOk);
    EXPECT_TRUE(LayerThere(layer)) << "the bytes are there before the event";
    EXPECT_EQ(events.over, ++pushed == kLayers);
  }
  // Again, when the ticket has ended: what it was is still known.
  ExpectPush(Push(ticket, 0), StatusCode::kKeyAlreadyExists, "layer 0 was pushed already");
  ExpectPush(Push(ticket, kLayers), StatusCode::kOutOfRange, "layers 0 to 3");
  ExpectPush(Push(WithOtherSecret(ticket), 0), StatusCode::kNotAuthorized, "secret");
  EXPECT_EQ(decodeWorker->control->Stats().holds, 0U);
}

TEST_P(LayerTest, MisuseSaysItsCause) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  ExpectPush(Push(ticket, 1), StatusCode::kOk, "");
  ExpectPush(Push(ticket, 1), StatusCode::kKeyAlreadyExists, "layer 1 was pushed already");
  ExpectPush(Push(ticket, kLayers), StatusCode::kOutOfRange, "layers 0 to 3");
  const Reply far = prefill->Call(Op::kPushLayer, 0, {Blobs(ticket, from, 2, bytes)}, {UINT64_MAX, 0, 0, 0});
  ExpectPush(far, StatusCode::kOutOfRange, "doesn't exist");
  ExpectPush(Push(WithOtherSecret(ticket), 0), StatusCode::kNotAuthorized, "secret");
  ExpectPush(Push("1-999" + ticket.substr(ticket.rfind('-')), 0), StatusCode::kNotFound, "unknown");
  ExpectPush(Push("77" + ticket.substr(ticket.find('-')), 0), StatusCode::kRpcPeerDead, "member 77");
  ExpectPush(Push("nonsense", 0), StatusCode::kInvalid, "hand on its text unchanged");
  const Reply shape = prefill->Call(Op::kPushLayer, 0, {Blobs(ticket, from, 3, 1000)}, {0, 0, 0, 0});
  ExpectPush(shape, StatusCode::kInvalid, "3 blobs of 1000, 1000, 1000");
  ExpectPush(shape, StatusCode::kInvalid, "2 blobs of 100000, 100000");
  for (const uint32_t layer : {0U, 2U, 3U}) ExpectPush(Push(ticket, layer), StatusCode::kOk, "");
  for (const Events::Key& key : decode->WaitEnd(id).keys) EXPECT_EQ(key.code, StatusCode::kOk) << key.text;
}

TEST_P(LayerTest, ExpiredAndCancelled) {
  uint64_t id = 0;
  const std::string expired = Reserve(&id, 30);
  for (const Events::Key& key : decode->WaitEnd(id).keys) EXPECT_EQ(key.code, StatusCode::kFutureTimeout) << key.text;
  ExpectPush(Push(expired, 0), StatusCode::kNotFound, "its time is over");
  const std::string cancelled = Reserve(&id);
  ExpectPush(Push(cancelled, 0), StatusCode::kOk, "");
  (void)decode->SubmitRaw(Op::kCancel, 0, {}, {id, 0, 0, 0});
  const Events& events = decode->WaitEnd(id);
  EXPECT_EQ(events.keys[0].code, StatusCode::kOk);
  EXPECT_EQ(events.keys[1].code, StatusCode::kRpcCancelled);
  ExpectPush(Push(cancelled, 1), StatusCode::kNotFound, "unknown");
}

TEST_P(LayerTest, DecodeSideDies) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  ExpectPush(Push(ticket, 0), StatusCode::kOk, "");
  decode->Die();
  Eventually([&] { return decodeWorker->control->Stats().sessions == (prefillWorker == nullptr ? 1U : 0U); },
             "the session is closed");
  // Whether its layers were empty or complete when it died.
  ExpectPush(Push(ticket, 1), StatusCode::kRpcPeerDead, "that reserved the layers");
  ExpectPush(Push(ticket, 0), StatusCode::kRpcPeerDead, "that reserved the layers");
  ExpectPush(Push(WithOtherSecret(ticket), 1), StatusCode::kNotAuthorized, "secret");
}

TEST_P(LayerTest, TicketOfASidecarThatDied) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  // As the next sidecar at this address sees it: a number that isn't its own.
  const uint64_t number = std::stoull(ticket.substr(2)) + (1ULL << 32);
  const std::string other = "1-" + std::to_string(number) + ticket.substr(ticket.rfind('-'));
  ExpectPush(Push(other, 0), StatusCode::kRpcPeerDead, "reserve again");
  ExpectPush(Push(ticket, 0), StatusCode::kOk, "");
}

INSTANTIATE_TEST_SUITE_P(Ways, LayerTest, ::testing::Values("local", "tcp", "shm"));

// 10 MB/s: a layer of 2 MiB takes 200 ms.
class SlowLayerTest : public LayerTest {
 protected:
  SlowLayerTest() : LayerTest({"--sim_bandwidth_mb_per_s=10"}, 1 << 20) {}
  uint64_t PushToTheMiddle(const std::string& ticket, uint64_t layer) {
    const uint64_t id = SubmitPush(ticket, layer);
    Eventually([&] { return decodeWorker->control->Stats().holds == 1; }, "the push begins");
    return id;
  }
};

TEST_P(SlowLayerTest, DecodeSideDiesInTheMiddle) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  const uint64_t push = PushToTheMiddle(ticket, 0);
  decode->Die();
  ExpectPush(prefill->WaitFor(push), StatusCode::kRpcPeerDead, "reserved the layers");
  EXPECT_EQ(decodeWorker->control->Stats().holds, 0U);
}

TEST_P(SlowLayerTest, PrefillSideDiesInTheMiddle) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  (void)PushToTheMiddle(ticket, 2);
  prefill->Die();
  const Events& events = decode->WaitEnd(id);
  EXPECT_EQ(events.keys[2].code, StatusCode::kRpcPeerDead) << events.keys[2].text;
  for (const Events::Key& key : events.keys) EXPECT_NE(key.code, StatusCode::kOk) << "the whole ticket is dead";
}

TEST_P(SlowLayerTest, CancelledInTheMiddle) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  const uint64_t push = PushToTheMiddle(ticket, 0);
  (void)decode->SubmitRaw(Op::kCancel, 0, {}, {id, 0, 0, 0});
  ExpectPush(prefill->WaitFor(push), StatusCode::kRpcPeerDead, "cancelled");
  EXPECT_EQ(decode->WaitEnd(id).keys[0].code, StatusCode::kRpcCancelled);
}

TEST_P(SlowLayerTest, PushCancelledInTheMiddle) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  const uint64_t push = PushToTheMiddle(ticket, 0);
  (void)prefill->SubmitRaw(Op::kCancel, 0, {}, {push, 0, 0, 0});
  ExpectPush(prefill->WaitFor(push), StatusCode::kRpcCancelled, "cancelled by the caller");
  EXPECT_EQ(decodeWorker->control->Stats().holds, 0U) << "answered while it was moved";
  EXPECT_EQ(decode->WaitEnd(id).keys[0].code, StatusCode::kRpcPeerDead) << "half a layer is there";
}

INSTANTIATE_TEST_SUITE_P(Ways, SlowLayerTest, ::testing::Values("local"));

// Between workers: a pusher made by hand stays in the middle.
class LayerPeerTest : public LayerTest {
 protected:
  // Opens a layer as another worker's sidecar would.
  peer::OpenedRecord Open(RawPeer& pusher, const std::string& ticket, uint32_t layer) {
    const std::string digits = ticket.substr(ticket.rfind('-') + 1);
    const std::vector<uint64_t> sizes = {bytes, bytes};
    const auto hash = peer::ShapeHash(sizes);
    pusher.Send<peer::PushRecord>(
        peer::Type::kPush,
        {{9,
          std::stoull(ticket.substr(2)),
          {std::stoull(digits.substr(0, 16), nullptr, 16), std::stoull(digits.substr(16), nullptr, 16)},
          2 * bytes,
          {hash[0], hash[1]},
          layer,
          2}});
    return pusher.Wait<peer::OpenedRecord>(peer::Type::kOpened);
  }
};

TEST_P(LayerPeerTest, ThePushersSidecarDies) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  auto pusher = std::make_unique<RawPeer>(GetParam(), decodeWorker->control->peer().welcome().transports);
  EXPECT_EQ(Open(*pusher, ticket, 1).code, 0U);
  ExpectPush(Push(ticket, 1), StatusCode::kKeyAlreadyExists, "being pushed");
  EXPECT_FALSE(decode->Now(id).keys[1].ended) << "not complete";
  pusher.reset();
  const Events& events = decode->WaitEnd(id);
  EXPECT_EQ(events.keys[1].code, StatusCode::kRpcPeerDead) << events.keys[1].text;
  EXPECT_EQ(events.keys[0].code, StatusCode::kRpcPeerDead);
}

// The first layer that is given up breaks the second, whose pusher is that very peer.
TEST_P(LayerPeerTest, ThePushersSidecarDiesWithTwoLayers) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  auto pusher = std::make_unique<RawPeer>(GetParam(), decodeWorker->control->peer().welcome().transports);
  EXPECT_EQ(Open(*pusher, ticket, 1).code, 0U);
  EXPECT_EQ(Open(*pusher, ticket, 2).code, 0U);
  pusher.reset();
  const Events& events = decode->WaitEnd(id);
  for (const Events::Key& layer : events.keys) EXPECT_EQ(layer.code, StatusCode::kRpcPeerDead) << layer.text;
  Eventually([&] { return decodeWorker->control->Stats().holds == 0; }, "no hold is left");
}

TEST_P(LayerPeerTest, TheDecodeSideDies) {
  uint64_t id = 0;
  const std::string ticket = Reserve(&id);
  RawPeer pusher(GetParam(), decodeWorker->control->peer().welcome().transports);
  const auto opened = Open(pusher, ticket, 1);
  EXPECT_EQ(opened.code, 0U);
  decode->Die();
  const auto broken = pusher.Wait<peer::HoldRecord>(peer::Type::kBroken);
  EXPECT_EQ(broken.hold, opened.hold);
  EXPECT_EQ(broken.code, CodeOf(StatusCode::kRpcPeerDead));
  pusher.Send<peer::CloseRecord>(peer::Type::kClose, {{opened.hold}});
  Eventually([&] { return decodeWorker->control->Stats().holds == 0; }, "no hold is left");
}

INSTANTIATE_TEST_SUITE_P(Ways, LayerPeerTest, ::testing::Values("tcp", "shm"));

}  // namespace
}  // namespace hbmesh::sidecar::testing
