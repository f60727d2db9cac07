#include "sidecar/transports.h"

#include <utility>

#include "base/log.h"

namespace hbmesh::sidecar {

namespace {

std::string ListenAddress(const SidecarOptions& options, const std::string& name) {
  if (name == "shm") return "hbmesh-shm/" + options.workerAddress;
  if (!options.transportListen.empty()) return options.transportListen;
  return options.workerAddress.substr(0, options.workerAddress.rfind(':')) + ":0";
}

Status Open(const SidecarOptions& options, const TransportFactory& factory, CompletionQueue& events, ObjectStore& store,
            uint32_t index, OpenTransport* opened) {
  opened->id = opened->name == "shm" ? layout::TransportId::kShm : layout::TransportId::kTcp;
  opened->events = std::make_unique<TransportEvents>(events, index);
  if (Status status = factory(opened->name, opened->events.get(), &opened->transport); !status.ok()) return status;
  const std::span<std::byte> memory = store.objectMemory();
  Status status =
      opened->transport->RegisterMemory(memory.data(), memory.size(), store.memoryFd(), 0, false, &opened->arena);
  if (!status.ok()) return status;
  return opened->transport->Listen(ListenAddress(options, opened->name));
}

}  // namespace

std::vector<std::string> TransportNames(TransportChoice choice) {
  if (choice == TransportChoice::kTcp) return {"tcp"};
  return {"shm", "tcp"};
}

Status OpenTransports(const SidecarOptions& options, const TransportFactory& factory, CompletionQueue& events,
                      ObjectStore& store, std::vector<OpenTransport>* transports) {
  Status last;
  for (const std::string& name : TransportNames(options.transport)) {
    OpenTransport opened;
    opened.name = name;
    Status status = Open(options, factory, events, store, static_cast<uint32_t>(transports->size()), &opened);
    if (status.ok()) {
      transports->push_back(std::move(opened));
      continue;
    }
    // The one that was asked for must be there; the others are there in case.
    const bool wanted =
        options.transport != TransportChoice::kAuto && name == TransportNames(options.transport).front();
    if (wanted) return status;
    Log().warn("transport {} is not available: {}", name, status.message());
    last = std::move(status);
  }
  return transports->empty() ? last : Status::Ok();
}

std::string DescribeTransports(const std::vector<OpenTransport>& transports) {
  std::string text;
  for (const OpenTransport& opened : transports) {
    if (!text.empty()) text += ' ';
    text += opened.name + "=" + opened.transport->address();
  }
  return text;
}

}  // namespace hbmesh::sidecar
