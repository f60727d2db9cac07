// Client, registration, keys, health.
#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "base/address.h"
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using hbmesh::layout::Op;
using namespace hbmesh::capi;

uint32_t Or(uint32_t given, uint32_t usual) { return given == 0 ? usual : given; }

// A version 4 UUID.
Status Uuid(std::string* text) {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return hbmesh::StatusFromErrno(errno, "asking the kernel for random bytes");
  }
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0F) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3F) | 0x80);
  constexpr char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *text += '-';
    *text += kDigits[bytes[i] >> 4];
    *text += kDigits[bytes[i] & 0x0F];
  }
  return Status::Ok();
}

Status Health(hbmesh_client* client, hbmesh_health_info* info) {
  hbmesh_health_info known{};
  if (client == nullptr) return IsNull("client");
  if (Status status = CopyStruct(info, "hbmesh_health_info", &known); !status.ok()) return status;
  std::shared_ptr<Connection> connection;
  if (Status status = OpenConnection(client, &connection); !status.ok()) return status;
  std::string key;
  if (Status status = Uuid(&key); !status.ok()) return status;
  const std::vector<std::string> keys = {key};
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  batch.key_count = 1;
  hbmesh_result* asked = nullptr;
  if (Status status = CallAndWait(client, &batch, {Op::kExist, {}, 0, &keys}, &asked); !status.ok()) return status;
  const std::unique_ptr<hbmesh_result> result(asked);
  hbmesh_health_info filled{};
  filled.ready = result->statuses[0] == HBMESH_OK || result->statuses[0] == HBMESH_NOT_FOUND ? 1 : 0;
  filled.device_count = connection->client().deviceCount();
  filled.session = connection->client().sessionId();
  connection->client().backend().copy(filled.backend, sizeof(filled.backend) - 1);
  if (Status status = FillStruct(filled, "hbmesh_health_info", info); !status.ok()) return status;
  // Not a failure of the call, but its message tells why the worker isn't ready.
  return {StatusCode::kOk, filled.ready == 1 ? std::string() : result->messages[0]};
}

Status Init(hbmesh_client* client) {
  if (client == nullptr) return IsNull("client");
  const std::lock_guard connecting(client->connecting);
  std::shared_ptr<Connection> old;
  {
    const std::lock_guard lock(client->mutex);
    if (client->closed) return {StatusCode::kShuttingDown, "the client was closed: make a new one"};
    if (client->connection && client->connection->lost().ok()) return Status::Ok();
    old = std::move(client->connection);
    client->connection = nullptr;
  }
  old.reset();
  std::shared_ptr<Connection> connection;
  if (Status status = Connection::Open(client->options, &connection); !status.ok()) return status;
  const std::lock_guard lock(client->mutex);
  if (client->closed) return {StatusCode::kShuttingDown, "the client was closed while it connected"};
  client->connection = std::move(connection);
  return Status::Ok();
}

}  // namespace

extern "C" {

uint32_t hbmesh_version(void) { return HBMESH_VERSION; }

const char* hbmesh_status_name(hbmesh_status status) {
  return hbmesh::StatusCodeName(static_cast<StatusCode>(status)).data();  // literals: zero-terminated
}

const char* hbmesh_last_message(void) { return LastMessage().c_str(); }

uint32_t hbmesh_last_key(void) { return KeyNamedIn(LastMessage()); }

hbmesh_status hbmesh_client_create(const hbmesh_client_options* options, hbmesh_client** client) {
  return Guard([&]() -> Status {
    if (client == nullptr) return IsNull("client");
    *client = nullptr;
    hbmesh_client_options given{};
    if (Status status = CopyStruct(options, "hbmesh_client_options", &given); !status.ok()) return status;
    if (given.worker_address == nullptr || given.worker_address[0] == '\0') {
      return {StatusCode::kInvalid,
              "worker_address is missing: give the worker's HOST:PORT, as in 127.0.0.1:31501 or [::1]:31501"};
    }
    hbmesh::Address address;
    if (Status status = hbmesh::ParseAddress(given.worker_address, "worker_address", &address); !status.ok()) {
      return status;
    }
    if (address.port == 0) {
      return {StatusCode::kInvalid, "worker_address \"" + std::string(given.worker_address) +
                                        "\" has port 0, where no worker is: give its port, usually 31501"};
    }
    auto made = std::make_unique<hbmesh_client>();
    made->options.workerAddress = hbmesh::FormatAddress(address.host, address.port);
    if (given.token != nullptr) made->options.token = given.token;
    made->options.connectTimeoutMs = Or(given.connect_timeout_ms, 9000);
    made->options.spinMicros = Or(given.spin_micros, 50);
    made->requestTimeoutMs = Or(given.request_timeout_ms, made->options.connectTimeoutMs);
    made->subscribeTimeoutMs = Or(given.subscribe_timeout_ms, 20'000);
    made->subscribeManyMs = Or(given.subscribe_many_ms, 60'000);
    made->floorBytesPerSecond = given.floor_bytes_per_second == 0 ? 100'000'000 : given.floor_bytes_per_second;
    made->options.floorBytesPerSecond = made->floorBytesPerSecond;
    *client = made.release();
    return Status::Ok();
  });
}

hbmesh_status hbmesh_client_init(hbmesh_client* client) {
  return Guard([&] { return Init(client); });
}

hbmesh_status hbmesh_client_address(hbmesh_client* client, char* address, size_t capacity) {
  return Guard([&]() -> Status {
    if (client == nullptr) return IsNull("client");
    if (address == nullptr) return IsNull("address");
    const std::lock_guard lock(client->mutex);
    const std::string& known =
        client->connection ? client->connection->client().workerAddress() : client->options.workerAddress;
    if (known.size() >= capacity) {
      return {StatusCode::kOutOfRange, "the address takes " + std::to_string(known.size() + 1) + " bytes, and " +
                                           std::to_string(capacity) + " are there"};
    }
    known.copy(address, known.size());
    address[known.size()] = '\0';
    return Status::Ok();
  });
}

void hbmesh_client_close(hbmesh_client* client) {
  if (client == nullptr) return;
  Guard([&]() -> Status {
    std::shared_ptr<Connection> connection;
    {
      const std::lock_guard lock(client->mutex);
      client->closed = true;
      connection = std::move(client->connection);
      client->connection = nullptr;
    }
    if (connection) connection->client().Close();
    return Status::Ok();
  });
}

void hbmesh_client_free(hbmesh_client* client) {
  hbmesh_client_close(client);
  delete client;
}

hbmesh_status hbmesh_pre_register(hbmesh_client* client, const uint64_t* pointers, const uint64_t* bytes,
                                  uint32_t count) {
  return Guard([&]() -> Status {
    std::shared_ptr<Connection> connection;
    if (count > 0 && (pointers == nullptr || bytes == nullptr)) return IsNull("pointers or bytes");
    if (Status status = OpenConnection(client, &connection); !status.ok()) return status;
    return connection->client().RegisterDeviceMemory({pointers, count}, {bytes, count});
  });
}

hbmesh_status hbmesh_generate_key(const char* prefix, char* key, size_t capacity) {
  return Guard([&]() -> Status {
    if (key == nullptr) return IsNull("key");
    std::string text = prefix == nullptr || prefix[0] == '\0' ? std::string() : std::string(prefix) + "-";
    if (Status status = Uuid(&text); !status.ok()) return status;
    if (text.size() >= capacity) {
      if (capacity > 0) key[0] = '\0';
      return {StatusCode::kOutOfRange,
              "the key needs " + std::to_string(text.size() + 1) + " bytes, capacity is " + std::to_string(capacity)};
    }
    std::memcpy(key, text.c_str(), text.size() + 1);
    return Status::Ok();
  });
}

hbmesh_status hbmesh_health(hbmesh_client* client, hbmesh_health_info* info) {
  return Guard([&] { return Health(client, info); });
}

}  // extern "C"
