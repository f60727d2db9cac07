// What the sidecar of another worker says: as a reader to PeerHolds (opens, closes, pushes layers), as a holder to
// PeerLinks (answers, blobs, news of holds).
//
// Must hold: who waits is told once at most; a hold belongs to the connection that it was given to; when the
// connections have ended, nothing is held any more.
#include <set>

#include "fuzz/fuzz.h"
#include "fuzz/object_request.h"
#include "sidecar/control_port.h"
#include "sidecar/device_objects.h"
#include "sidecar/layers.h"
#include "sidecar/peer_holds.h"
#include "sidecar/peer_links.h"
#include "sidecar/pending_slots.h"
#include "sidecar/store_keeper.h"

namespace hbmesh::fuzz {
namespace {

using namespace hbmesh::sidecar;

constexpr uint32_t kMessageBytesMax = 2048;
constexpr uint64_t kRegionBytes = 4096;

class FakeEndpoint final : public Endpoint {
 public:
  explicit FakeEndpoint(uint64_t id) : id_(id) {}
  uint64_t id() const override { return id_; }
  std::string peer() const override { return "fuzz"; }
  uint32_t lanes() const override { return 1; }
  Status Read(const RemoteRange&, std::span<const LocalPiece>, uint32_t, uint64_t) override {
    return {StatusCode::kTryAgain, "never"};
  }
  Status Write(std::span<const LocalPiece>, const RemoteRange&, uint32_t, uint64_t) override {
    return {StatusCode::kTryAgain, "never"};
  }
  Status Send(std::span<const std::byte> message) override {
    FUZZ_CHECK(message.size() <= kMessageBytesMax);
    peer::MessageHeader header{};
    FUZZ_CHECK(peer::ParseHeader(message, &header));
    Touch(message);
    return ++sent_ % 7 == 0 ? Status(StatusCode::kTryAgain, "full") : Status::Ok();
  }

 private:
  const uint64_t id_;
  uint32_t sent_ = 0;
};

class FakeTransport final : public Transport {
 public:
  const char* name() const override { return "tcp"; }
  TransportCapabilities capabilities() const override {
    return {.oneSidedRead = true, .oneSidedWrite = true, .messageBytesMax = kMessageBytesMax};
  }
  Status Listen(const std::string&) override { return Status::Ok(); }
  std::string address() const override { return "fuzz"; }
  Status RegisterMemory(std::byte* base, uint64_t bytes, int, uint64_t, bool, MemoryRegion* region) override {
    *region = {++lastRegion_, base, bytes};
    return Status::Ok();
  }
  void UnregisterMemory(uint32_t) override {}
  Status Connect(const std::string&, uint32_t, uint64_t token, std::unique_ptr<Endpoint>* endpoint) override {
    connecting = token;
    *endpoint = std::make_unique<FakeEndpoint>(1000 + token);
    endpointId = 1000 + token;
    return Status::Ok();
  }
  uint64_t connecting = 0;
  uint64_t endpointId = 0;

 private:
  uint32_t lastRegion_ = 0;
};

// Everybody who waits for a peer, or is told of layers.
class Everybody final : public PeerReader, public PeerMemoryUser, public LayerWaiter, public HoldUser {
 public:
  void OnOpened(uint64_t tag, const peer::OpenedRecord&, uint64_t) override { FUZZ_CHECK(told_.insert(tag).second); }
  void OnOpenFailed(uint64_t tag, const Status& why) override { FUZZ_CHECK(!why.ok() && told_.insert(tag).second); }
  void OnMemoryOpened(uint64_t tag, const peer::OpenedRecord&, std::span<const peer::BlobRecord> blobs,
                      uint64_t) override {
    FUZZ_CHECK(told_.insert(tag).second);
    for (const peer::BlobRecord& blob : blobs) Touch(std::as_bytes(std::span(&blob, 1)));
  }
  void OnMemoryOpenFailed(uint64_t tag, const Status&) override { FUZZ_CHECK(told_.insert(tag).second); }
  void OnMemoryBroken(uint64_t, const Status&) override {}
  void OnMemoryClosed(uint64_t, StatusCode) override {}
  void OnLayer(uint32_t layer, const Status&) override { FUZZ_CHECK(layers_.insert(layer).second); }
  void OnHoldBroken(uint64_t, const Status&) override {}
  void OnHoldConsumed(uint64_t, const Status&) override {}

 private:
  std::set<uint64_t> told_;
  std::set<uint32_t> layers_;
};

// The parts of a sidecar that peers reach, without a loop.
class Worker {
 public:
  Worker() {
    const StoreOptions options{.arenaBytes = 16384, .slots = 8, .prefault = false};
    FUZZ_CHECK(ObjectStore::Create(options, &store_).ok());
    transports_.emplace_back();
    transports_[0].name = "tcp";
    auto made = std::make_unique<FakeTransport>();
    transport_ = made.get();
    transports_[0].transport = std::move(made);
    options_.transport = TransportChoice::kTcp;
    links_ = std::make_unique<PeerLinks>(PeerLink::Environment{options_, clock_, timers_, tokens_, transports_});
    keeper_ = std::make_unique<StoreKeeper>(*store_, control_, *links_, clock_, timers_);
    objects_ = std::make_unique<DeviceObjects>(control_, *links_);
    holds_ = std::make_unique<PeerHolds>(*store_, *keeper_, *objects_, pending_, layers_, transports_, clock_);
    FillStore();
    FillDevice();
    for (const uint64_t id : {1, 2}) holds_->OnAccept(0, std::make_unique<FakeEndpoint>(id));
    FUZZ_CHECK(links_->Update("self 1\n2 10.0.0.2:1 tcp=fuzz").ok());
  }

  void Run(Input& input) {
    for (int i = 0; i < 60 && !input.empty(); ++i) Step(input);
    for (const uint64_t id : {1, 2}) (void)holds_->OnDisconnect({0, id});
    links_->Clear({StatusCode::kRpcPeerDead, "the end"});
    layers_.End(ticket_.number, {StatusCode::kRpcCancelled, "the end"});
    objects_->EndSession(1);
    (void)objects_->Flush();
    (void)pending_.Poll();
    FUZZ_CHECK(holds_->holds() == 0 && objects_->holds() == 0 && layers_.holds() == 0);
    FUZZ_CHECK(store_->usage().holds == 0);
  }

 private:
  void FillStore() {
    for (uint32_t i = 0; i < 4; ++i) {
      const std::vector<uint64_t> sizes(1 + i, 64);
      ObjectView view;
      FUZZ_CHECK(store_->Allocate("key" + std::to_string(i), sizes, &view).ok());
      if (i == 3) {  // still on its way
        sizes_ = sizes;
        pending_.Add(view.slot, {view.key, sizes_, 256, 0});
        pending_.Confirm(view.slot, 4);
        break;
      }
      store_->MarkWritten(view.slot, 1 + i);
      store_->Seal(view.slot, 1);
    }
  }
  void FillDevice() {
    regions_.push_back(std::make_shared<Region>(
        device_, DeviceRegion{.base = memory_.data(), .bytes = kRegionBytes, .deviceIndex = 0}));
    Message message;
    message.entry.count = 3;
    message.payload = ObjectRequestOf(0, 3, {{0, 0, 0, 64}, {0, 0, 64, 64}, {0, 0, 128, 64}, {0, 0, 192, 64}});
    ParseLimits limits;
    limits.devices = 1;
    limits.blobs = true;
    FUZZ_CHECK(call_.Parse(std::move(message), regions_, limits).ok());
    for (uint32_t i = 0; i < 3; ++i) {
      const auto family = i < 2 ? layout::Family::kPublished : layout::Family::kDeviceCache;
      DeviceObject& object = objects_->Add(call_, i, family, 1);
      object.generation = 1 + i;
      objects_->Commit(object);
    }
    ticket_ = layers_.Reserve(call_, &everybody_);
  }

  void Step(Input& input) {
    const uint8_t what = input.Byte();
    const EndpointKey reader{0, 1U + what % 2};
    if (what < 0x20) {
      Ask(input);
    } else if (what < 0x90) {
      const Bytes message = ReaderMessage(input);
      if (!holds_->OnMessage(reader, message)) holds_->OnAccept(0, std::make_unique<FakeEndpoint>(reader.endpoint));
    } else if (what < 0xE0) {
      const Bytes message = HolderMessage(input);
      (void)links_->OnMessage({0, transport_->endpointId}, message);
    } else if (what < 0xE8) {
      (void)holds_->OnDisconnect(reader);
    } else if (what < 0xEC) {
      (void)links_->OnDisconnect({0, transport_->endpointId}, {StatusCode::kRpcPeerDead, "gone"});
    } else if (what < 0xF0) {
      objects_->EndSession(1);
    } else if (what < 0xF4) {
      pending_.Settle(3);
      (void)pending_.Poll();
    } else {
      (void)holds_->Poll();
      (void)links_->Poll();
      (void)objects_->Flush();
    }
  }

  // Opens something at the peer, and is connected to it.
  void Ask(Input& input) {
    PeerLink* link = links_->Find(2);
    FUZZ_CHECK(link != nullptr);
    const uint8_t how = input.Byte();
    if (how < 0x60) {
      link->Open(static_cast<uint32_t>(input.Number()), input.Number(), &everybody_, ++lastTag_);
    } else if (how < 0xC0) {
      link->OpenMemory(peer::OpenRecord{}, &everybody_, ++lastTag_);
    } else if (how < 0xE0) {
      link->ForgetMemory(&everybody_);
    } else {
      link->ForgetOpens(&everybody_);
    }
    if (const uint64_t token = std::exchange(transport_->connecting, 0); token != 0) {
      (void)tokens_.Complete(token, Status::Ok());
    }
    (void)links_->Poll();
  }

  template <typename Record>
  static Bytes Some(Input& input, peer::Type type, const std::function<Record()>& next) {
    std::vector<Record> records(input.Byte() % 5);
    for (Record& record : records) record = next();
    return peer::MakeMessage<Record>(type, std::span<const Record>(records));
  }
  static Bytes Raw(Input& input) {
    const auto some = input.Some(1 + input.Byte());
    return {some.begin(), some.end()};
  }
  Bytes ReaderMessage(Input& input) {
    const uint8_t how = input.Byte();
    if (how < 0x50) {
      return Some<peer::OpenRecord>(input, peer::Type::kOpen, [&] {
        const uint32_t device = input.Byte() % 2 == 0 ? layout::kDeviceSlot : 0;
        return peer::OpenRecord{input.Number(), input.Number(), device | static_cast<uint32_t>(input.Number()),
                                input.Byte() % 3U};
      });
    }
    if (how < 0xC0) {
      const auto type = how % 2 == 0 ? peer::Type::kClose : peer::Type::kConsumed;
      return Some<peer::CloseRecord>(input, type, [&] {
        const uint8_t kind = input.Byte();
        const uint64_t bit = kind < 0x60 ? 0 : kind < 0xB0 ? kDeviceHoldBit : kLayerHoldBit;
        return peer::CloseRecord{bit | input.Number()};
      });
    }
    if (how < 0xF0) {
      return Some<peer::PushRecord>(input, peer::Type::kPush, [&] {
        const uint32_t layer = static_cast<uint32_t>(input.Number());
        const uint32_t known = layer % 3;
        const auto hash = peer::ShapeHash(call_.blobSizes(known));
        peer::PushRecord record{input.Number(), ticket_.number,   {ticket_.secret[0], ticket_.secret[1]}, 0, {},
                                layer,          input.Byte() % 3U};
        record.payloadBytes = call_.objectBytes(known);
        record.shapeHash[0] = hash[0];
        record.shapeHash[1] = hash[1];
        if (input.Byte() > 0xE0) record.secret[0] ^= 1;
        return record;
      });
    }
    return Raw(input);
  }
  static Bytes HolderMessage(Input& input) {
    const uint8_t how = input.Byte();
    if (how < 0x60) {
      return Some<peer::OpenedRecord>(input, peer::Type::kOpened, [&] {
        peer::OpenedRecord record{};
        record.tag = input.Number();
        record.hold = input.Number();
        record.code = input.Byte() % 4;
        record.blobCount = static_cast<uint32_t>(input.Number());
        return record;
      });
    }
    if (how < 0xA0) {
      return Some<peer::BlobRecord>(input, peer::Type::kBlobs, [&] {
        return peer::BlobRecord{input.Number(), input.Number(), input.Number(), 1, 0};
      });
    }
    if (how < 0xF0) {
      const auto type = how % 2 == 0 ? peer::Type::kClosed : peer::Type::kBroken;
      return Some<peer::HoldRecord>(input, type, [&] { return peer::HoldRecord{input.Number(), input.Byte(), 0}; });
    }
    return Raw(input);
  }

  SidecarOptions options_;
  ManualClock clock_;
  Timers timers_{clock_};
  TokenTable tokens_;
  Bytes memory_ = Bytes(kRegionBytes);
  MemoryDevice device_{0};
  std::unique_ptr<ObjectStore> store_;
  std::vector<OpenTransport> transports_;
  FakeTransport* transport_ = nullptr;
  ControlPort control_{"fuzz"};
  std::unique_ptr<PeerLinks> links_;
  std::unique_ptr<StoreKeeper> keeper_;
  std::unique_ptr<DeviceObjects> objects_;
  PendingSlots pending_;
  std::vector<uint64_t> sizes_;
  RegionTable regions_;
  sidecar::ObjectCall call_;
  Layers layers_;
  Everybody everybody_;
  Ticket ticket_;
  uint64_t lastTag_ = 0;
  std::unique_ptr<PeerHolds> holds_;
};

}  // namespace

std::vector<Bytes> Seeds() {
  SeedWriter objects;  // opens slot 0 of generation 1, and the device object 0; closes both
  objects.PutByte(0x21).PutByte(0).PutByte(2);
  objects.PutByte(1).PutByte(5).PutByte(1).PutByte(0).PutByte(0);
  objects.PutByte(0).PutByte(6).PutByte(1).PutByte(1).PutByte(1);
  objects.PutByte(0x21).PutByte(0x50).PutByte(2).PutByte(0).PutByte(1).PutByte(0x70).PutByte(1);
  SeedWriter consume;
  consume.PutByte(0x20).PutByte(0).PutByte(1).PutByte(0).PutByte(6).PutByte(1).PutByte(1).PutByte(1);
  consume.PutByte(0x20).PutByte(0x51).PutByte(2).PutByte(0x70).PutByte(1).PutByte(0x70).PutByte(1).PutByte(0xFF);
  SeedWriter push;
  push.PutByte(0x20).PutByte(0xC0).PutByte(1).PutByte(1).PutByte(9).PutByte(1).PutByte(0);
  push.PutByte(0x20).PutByte(0x51).PutByte(1).PutByte(0xC0).PutByte(1);
  SeedWriter reads;  // opens two, is answered
  reads.PutByte(0).PutByte(0).PutByte(1).PutByte(1).PutByte(0).PutByte(0x60);
  reads.PutByte(0x90).PutByte(0x60).PutByte(1).PutByte(2).PutByte(0).PutByte(8);
  reads.PutByte(0x90).PutByte(0).PutByte(2).PutByte(1).PutByte(7).PutByte(0).PutByte(1).PutByte(2).PutByte(8);
  reads.PutByte(0).PutByte(1).PutByte(0x90).PutByte(0xA0).PutByte(1).PutByte(8).PutByte(0);
  return {objects.bytes(), consume.bytes(), push.bytes(), reads.bytes()};
}

}  // namespace hbmesh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hbmesh::fuzz::Input input(data, size);
  hbmesh::fuzz::Worker worker;
  worker.Run(input);
  return 0;
}
