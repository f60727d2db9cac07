// Connection: a client core and the operations that are under way on it. A FlatCall is a caller's batch as the core
// takes it.
//
// Thread rule: any thread. Ownership: operations are shared with whoever waits for them; futures hold the connection
// weakly, so that it ends with its client.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "capi/hbmesh.h"
#include "capi/operation.h"
#include "client/client.h"
#include "device/sim_heap.h"

namespace hbmesh::capi {

// The simulated devices of this process, made at first use.
[[nodiscard]] Status ProcessSimHeap(SimHeap** heap);

// A call with what it borrows. The blobs stay the caller's.
struct FlatCall {
  ObjectCall call;
  std::vector<std::byte> keys;
  uint64_t totalBytes = 0;
};

class Connection {
 public:
  [[nodiscard]] static Status Open(const ClientOptions& options, std::shared_ptr<Connection>* connection);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // kInvalid names what is wrong: keys and their number, then arrays that are NULL, the device, the blobs key by key.
  // `keys` replaces those of the batch, where the operation has others.
  [[nodiscard]] Status MakeCall(layout::Op op, const hbmesh_batch& batch, const std::vector<std::string>* keys,
                                FlatCall* flat) const;
  // Registers memory where needed, and submits. Errors are those of Client::Submit and RegisterDeviceMemory.
  [[nodiscard]] Status Submit(const FlatCall& flat, std::shared_ptr<Operation>* operation, uint64_t* id,
                              Client::Reception* reception);
  [[nodiscard]] Client& client() { return *client_; }
  // Why the session ended from the other side; kOk while it lives.
  [[nodiscard]] Status lost() const;

 private:
  Connection() = default;
  [[nodiscard]] std::shared_ptr<Operation> Find(uint64_t id, bool remove);

  mutable std::mutex mutex_;  // guards what follows; held while a request is submitted, so that no answer overtakes it
  std::unordered_map<uint64_t, std::shared_ptr<Operation>> operations_;
  Status lost_;
  std::unique_ptr<Client> client_;  // first to go: its thread uses what is above
};

}  // namespace hbmesh::capi
