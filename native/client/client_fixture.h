// ClientFixture: a client of a FakeSidecar, with a simulated heap, for tests. Completions come to an inbox.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/fake_sidecar.h"
#include "device/sim_heap.h"

namespace hbmesh::test {

struct ClientFixture {
  static constexpr uint64_t kSegmentBytes = 1 << 20;

  explicit ClientFixture(FakeBehaviour behaviour = {}) : sidecar(WithReplies(std::move(behaviour))) {
    SimHeapOptions options;
    options.segmentBytesMin = kSegmentBytes;
    EXPECT_TRUE(SimHeap::Create(options, &heap).ok());
    clientOptions.workerAddress = sidecar.address();
    clientOptions.closeGraceMs = 20;  // some of these sidecars never answer
  }

  // Unless the test says otherwise, every request is answered with OK.
  static FakeBehaviour WithReplies(FakeBehaviour behaviour) {
    if (!behaviour.onMessage) {
      behaviour.onMessage = [](FakeSidecar& self, Message& message) {
        self.Reply(message.entry, StatusCode::kOk, test::MakeReply(message.entry.count));
      };
    }
    return behaviour;
  }

  [[nodiscard]] Status Connect() {
    return Client::Connect(clientOptions, heap.get(),
                           {[this](Completion&& completion) { completions.Put(std::move(completion)); },
                            {},
                            [this](const Status& reason) { closed.Put(reason); }},
                           &client);
  }

  [[nodiscard]] uint64_t Allocate(uint32_t device, uint64_t bytes) {
    std::byte* pointer = nullptr;
    EXPECT_TRUE(heap->Allocate(device, bytes, &pointer).ok());
    return reinterpret_cast<uint64_t>(pointer);
  }

  // A set of one blob a key.
  [[nodiscard]] Status Set(const std::vector<uint64_t>& pointers, const std::vector<uint64_t>& sizes, uint64_t* id,
                           uint32_t device = 0, Registration registration = Registration::kAllowed) {
    std::vector<std::string> keys;
    std::vector<uint32_t> ends;
    for (size_t i = 0; i < pointers.size(); ++i) {
      keys.push_back("key" + std::to_string(i));
      ends.push_back(static_cast<uint32_t>(i + 1));
    }
    const std::vector<std::byte> batch = test::MakeKeyBatch(keys);
    ObjectCall call;
    call.op = layout::Op::kSetD2H;
    call.deviceIndex = device;
    call.keys = batch;
    call.keyCount = static_cast<uint32_t>(keys.size());
    call.blobEnds = ends;
    call.pointers = pointers;
    call.sizes = sizes;
    return client->Submit(call, registration, id);
  }

  [[nodiscard]] Status Ask(uint64_t* id) {
    const std::vector<std::byte> batch = test::MakeKeyBatch({"a", "b"});
    ObjectCall call;
    call.op = layout::Op::kExist;
    call.keys = batch;
    call.keyCount = 2;
    return client->Submit(call, Registration::kAllowed, id);
  }

  FakeSidecar sidecar;
  std::unique_ptr<SimHeap> heap;
  ClientOptions clientOptions;
  test::Inbox<Completion> completions;
  test::Inbox<Status> closed;
  std::unique_ptr<Client> client;  // first to go
};

}  // namespace hbmesh::test
