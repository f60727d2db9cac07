// Goal: a get that nobody waits for any more begins nothing that writes to its caller's memory: no further read from
// another worker, no further copy from the arena. What has begun ends first, and only then is the caller answered.
// Method: a sidecar in this process with a transport and devices made by hand, which take as much as they are allowed
// to and say when it is done.
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "device/sim_device.h"
#include "sidecar/peer_protocol.h"
#include "sidecar/sidecar.h"
#include "sidecar/sidecar_test_util.h"

namespace hbmesh::sidecar::testing {
namespace {

using layout::Op;

constexpr uint64_t kSliceBytes = 64 << 10;
constexpr uint32_t kSlices = 10;
constexpr uint64_t kPayloadBytes = kSlices * kSliceBytes;
constexpr std::byte kFarByte{0x77};

// What the hand-made endpoint was asked for, and what it may take.
struct Far {
  std::mutex mutex;
  size_t room = 0;      // reads that it takes
  size_t attempts = 0;  // reads that were asked for, taken or not
  size_t closed = 0;    // holds
  struct Taken {
    uint64_t token;
    std::vector<LocalPiece> target;
  };
  std::vector<Taken> taken;
  TransportSink* sink = nullptr;

  size_t Attempts() {
    const std::lock_guard lock(mutex);
    return attempts;
  }
  size_t TakenCount() {
    const std::lock_guard lock(mutex);
    return taken.size();
  }
  bool Closed() {
    const std::lock_guard lock(mutex);
    return closed != 0;
  }
  // Brings the bytes of all that was taken, and has room for everything from now on.
  void CompleteAll() {
    std::vector<Taken> done;
    {
      const std::lock_guard lock(mutex);
      done = taken;
      room = SIZE_MAX;
    }
    for (const Taken& read : done) {
      for (const LocalPiece& piece : read.target) std::memset(piece.address, static_cast<int>(kFarByte), piece.bytes);
      sink->OnComplete(read.token, Status::Ok());
    }
  }
};

class FarEndpoint final : public Endpoint {
 public:
  explicit FarEndpoint(Far& far) : far_(far) {}
  [[nodiscard]] uint64_t id() const override { return 1; }
  [[nodiscard]] std::string peer() const override { return "far"; }
  [[nodiscard]] uint32_t lanes() const override { return 1; }
  Status Read(const RemoteRange& /*source*/, std::span<const LocalPiece> target, uint32_t /*lane*/,
              uint64_t token) override {
    const std::lock_guard lock(far_.mutex);
    ++far_.attempts;
    if (far_.taken.size() >= far_.room) return {StatusCode::kTryAgain, "as much as it was allowed to is under way"};
    far_.taken.push_back({token, {target.begin(), target.end()}});
    return Status::Ok();
  }
  Status Write(std::span<const LocalPiece> /*source*/, const RemoteRange& /*target*/, uint32_t /*lane*/,
               uint64_t /*token*/) override {
    return {StatusCode::kNotSupported, "nothing is written here"};
  }
  // Opens everything that is asked for as one object of the shape above.
  Status Send(std::span<const std::byte> message) override {
    peer::MessageHeader header{};
    EXPECT_TRUE(peer::ParseHeader(message, &header));
    if (header.type == static_cast<uint16_t>(peer::Type::kClose)) {
      const std::lock_guard lock(far_.mutex);
      far_.closed += header.count;
    } else if (header.type == static_cast<uint16_t>(peer::Type::kOpen)) {
      peer::OpenedRecord opened{};
      opened.tag = peer::RecordAt<peer::OpenRecord>(message, 0).tag;
      opened.hold = 1;
      opened.region = 1;
      const uint64_t bytes = kPayloadBytes;
      peer::SetShape(std::span(&bytes, 1), &opened);
      far_.sink->OnMessage(id(), peer::MakeMessage<peer::OpenedRecord>(peer::Type::kOpened, std::span(&opened, 1)));
    }
    return Status::Ok();
  }

 private:
  Far& far_;
};

class FarTransport final : public Transport {
 public:
  FarTransport(Far& far, TransportSink* sink) : far_(far) { far_.sink = sink; }
  [[nodiscard]] const char* name() const override { return "tcp"; }
  [[nodiscard]] TransportCapabilities capabilities() const override {
    return {.oneSidedRead = true, .messageBytesMax = 64 << 10};
  }
  Status Listen(const std::string& /*where*/) override { return Status::Ok(); }
  [[nodiscard]] std::string address() const override { return "here"; }
  Status RegisterMemory(std::byte* base, uint64_t bytes, int /*fd*/, uint64_t /*fdOffset*/, bool /*writable*/,
                        MemoryRegion* region) override {
    *region = {1, base, bytes};
    return Status::Ok();
  }
  void UnregisterMemory(uint32_t /*region*/) override {}
  Status Connect(const std::string& /*address*/, uint32_t /*lanes*/, uint64_t token,
                 std::unique_ptr<Endpoint>* endpoint) override {
    *endpoint = std::make_unique<FarEndpoint>(far_);
    far_.sink->OnComplete(token, Status::Ok());
    return Status::Ok();
  }

 private:
  Far& far_;
};

// A simulated device that takes so many copies, and no more.
class GatedDevice final : public Device {
 public:
  GatedDevice(std::unique_ptr<Device> device, std::atomic<int>& room) : device_(std::move(device)), room_(room) {}
  [[nodiscard]] uint32_t index() const override { return device_->index(); }
  [[nodiscard]] const char* backend() const override { return device_->backend(); }
  [[nodiscard]] DeviceCapabilities capabilities() const override { return device_->capabilities(); }
  Status Import(const ExportHandle& handle, DeviceRegion* region) override { return device_->Import(handle, region); }
  void Release(const DeviceRegion& region) override { device_->Release(region); }
  Status RegisterHostMemory(std::byte* base, uint64_t bytes) override {
    return device_->RegisterHostMemory(base, bytes);
  }
  Status Copy(CopyKind kind, std::span<const CopyPiece> pieces, uint64_t token) override {
    if (room_ <= 0) return {StatusCode::kTryAgain, "it is full"};
    --room_;
    return device_->Copy(kind, pieces, token);
  }

 private:
  const std::unique_ptr<Device> device_;
  std::atomic<int>& room_;
};

class AbandonedGetTest : public ::testing::TestWithParam<uint32_t> {  // percent of replicas
 protected:
  AbandonedGetTest() {
    SidecarOptions options;
    options.workerAddress = NewWorkerAddress();
    options.devices = 1;
    options.arenaBytes = 64 << 20;
    options.transport = TransportChoice::kTcp;
    options.sliceBytes = kSliceBytes;
    options.replicaPercent = GetParam();
    const auto devices = [this](uint32_t count, CompletionSink* sink, std::vector<std::unique_ptr<Device>>* made) {
      SimOptions sim;
      sim.deviceCount = count;
      std::vector<std::unique_ptr<Device>> plain;
      if (Status status = CreateSimDevices(sim, sink, &plain); !status.ok()) return status;
      for (auto& device : plain) made->push_back(std::make_unique<GatedDevice>(std::move(device), copies));
      return Status::Ok();
    };
    const auto transports = [this](const std::string&, TransportSink* sink, std::unique_ptr<Transport>* made) {
      *made = std::make_unique<FarTransport>(far, sink);
      return Status::Ok();
    };
    const Status status = Sidecar::Create(options, devices, transports, clock, &sidecar);
    EXPECT_TRUE(status.ok()) << status.ToString();
    thread = std::thread([this] { EXPECT_TRUE(sidecar->Run().ok()); });
    control = std::make_unique<FakeControl>(options.workerAddress, directory, 1);
    const std::string peers = "self 1\n2 127.0.0.1:2 tcp=far\n";
    std::vector<std::byte> payload(peers.size());
    std::memcpy(payload.data(), peers.data(), peers.size());
    (void)control->Ask(Op::kPeers, 0, std::move(payload), {}, true);
    client = std::make_unique<Client>(options.workerAddress);
    region = client->MustRegister(0, memory);
    directory.Add("far", {5, kPayloadBytes, {{2, 3}}, 0, 0});
  }
  ~AbandonedGetTest() override {
    sidecar->RequestStop();
    thread.join();
    control->Die();
  }
  [[nodiscard]] bool Untouched(uint64_t offset, uint64_t bytes) const {
    return std::all_of(memory.data() + offset, memory.data() + offset + bytes,
                       [](std::byte byte) { return byte == std::byte{0}; });
  }
  // A get of the far object, of which three slices are under way and the others wait.
  uint64_t GetToTheMiddle() {
    {
      const std::lock_guard lock(far.mutex);
      far.room = 3;
    }
    const uint64_t get = client->Submit(Op::kGetH2D, 0, {Blobs("far", region, 1, kPayloadBytes)});
    Eventually([&] { return far.Attempts() > 3; }, "the fourth slice is refused");
    return get;
  }
  void ExpectNothingMore() {
    const size_t attempts = far.Attempts();
    far.CompleteAll();
    Eventually([&] { return far.Closed(); }, "the hold is closed");
    EXPECT_EQ(far.Attempts(), attempts) << "no further slice is asked for";
    EXPECT_EQ(far.TakenCount(), 3U);
    Eventually([&] { return control->Stats().arenaUsedBytes == 0; }, "nothing is left in the arena");
    if (GetParam() != 0) {
      EXPECT_TRUE(Untouched(0, kPayloadBytes)) << "what came to the arena is not copied on";
    } else {
      EXPECT_TRUE(Untouched(3 * kSliceBytes, kPayloadBytes - 3 * kSliceBytes));
    }
  }

  SteadyClock clock;
  FakeDirectory directory;
  Far far;
  std::atomic<int> copies{INT32_MAX};
  std::unique_ptr<Sidecar> sidecar;
  std::thread thread;
  std::unique_ptr<FakeControl> control;
  DeviceMemory memory{4 << 20};
  std::unique_ptr<Client> client;
  uint32_t region = 0;
};

TEST_P(AbandonedGetTest, ItsClientDied) {
  (void)GetToTheMiddle();
  client->Die();
  Eventually([&] { return control->Stats().sessions == 0; }, "the session is closed");
  ExpectNothingMore();
}

TEST_P(AbandonedGetTest, ItWasCancelled) {
  const uint64_t get = GetToTheMiddle();
  (void)client->SubmitRaw(Op::kCancel, 0, {}, {get, 0, 0, 0});
  // The messages of one client are taken in order: the cancel was, when this is answered.
  EXPECT_EQ(client->Call(Op::kExist, 0, {{"none", {}}}).results[0].code, CodeOf(StatusCode::kNotFound));
  Message early;
  EXPECT_FALSE(client->TryReceive(&early, 0)) << "not answered while bytes may still come";
  ExpectNothingMore();
  const Reply reply = client->WaitFor(get);
  EXPECT_EQ(reply.results[0].code, CodeOf(StatusCode::kRpcCancelled)) << reply.texts[0];
}

// 12,288 blobs are three copies, since one has at most 4,096 pieces.
TEST_P(AbandonedGetTest, CopiesFromTheArena) {
  constexpr uint32_t kBlobs = 12'288;
  constexpr uint64_t kBytes = kBlobs * 64;
  constexpr uint64_t kTarget = 2 << 20;
  std::memset(memory.data(), 0x55, kBytes);
  ASSERT_EQ(client->Call(Op::kSetD2H, 0, {Blobs("near", region, kBlobs, 64)}).results[0].code, 0U);
  copies = 1;
  (void)client->Submit(Op::kGetH2D, 0, {Blobs("near", region, kBlobs, 64, kTarget)});
  Eventually([&] { return !Untouched(kTarget, 64); }, "the first copy is done");
  client->Die();
  Eventually([&] { return control->Stats().sessions == 0; }, "the session is closed");
  Eventually([&] { return control->Stats().holds == 0; }, "the object is released");
  copies = INT32_MAX;
  EXPECT_EQ(control->Stats().objects, 1U);
  EXPECT_TRUE(Untouched(kTarget + 4'096 * 64, kBytes - 4'096 * 64)) << "no further copy was begun";
}

INSTANTIATE_TEST_SUITE_P(Replicas, AbandonedGetTest, ::testing::Values(0U, 50U));

}  // namespace
}  // namespace hbmesh::sidecar::testing
