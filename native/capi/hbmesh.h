/* hbmesh.h: the C API of hbmesh. Bytes in device memory become objects under keys, and objects become bytes in device
 * memory again, on this node or another. One header, C11, library libhbmesh.so. docs/API.md shows each call with an
 * example, beside the same call in TypeScript.
 *
 * Results. Every call returns a status: HBMESH_OK, or why the call could not be tried; hbmesh_last_message() then has
 * the sentence with cause and remedy. A call about keys that could be tried returns HBMESH_OK and answers for each key
 * in an hbmesh_result, which the caller frees. Out parameters are set when a call returns HBMESH_OK, and to NULL or
 * zero else. `result` may be NULL where nobody wants to look at the keys; the call then returns the first failing key's
 * status.
 *
 * Order of errors of a call, unless it says otherwise: HBMESH_INVALID for a NULL that is not allowed or a struct whose
 * `size` is unknown; HBMESH_SHUTTING_DOWN after hbmesh_client_close, HBMESH_NOT_READY before hbmesh_client_init,
 * HBMESH_CLIENT_WORKER_DISCONNECT after the worker's sidecar ended (hbmesh_client_init connects anew); HBMESH_INVALID
 * for what this process sees wrong with the arguments: options and times, the number of keys, the device, the blobs key
 * by key, their memory; HBMESH_OUT_OF_RANGE for a call larger than the queue; HBMESH_TRY_AGAIN when too many calls are
 * under way; HBMESH_INVALID for the first key that is not allowed, then for one that comes twice (`key "name" (number
 * 3)`, counted from 1). Then what happens to a call that was tried: HBMESH_CLIENT_WORKER_DISCONNECT;
 * HBMESH_RPC_DEADLINE_EXCEEDED when it was not answered in time, also for the keys alone that were not done by then;
 * HBMESH_WORKER_TIMEOUT when the worker did not even confirm that it stopped, in 2 seconds and the time for the call's
 * bytes at floor_bytes_per_second (don't reuse the call's device memory before hbmesh_client_close).
 * HBMESH_OUT_OF_MEMORY when this process has no memory.
 *
 * Ownership. Arrays, strings and structs that are passed in are borrowed for the time of the call. Device memory of a
 * call must stay valid until the call returned, or its future has ended. What a function named ..._create, ... or an
 * out parameter hands back is freed by the matching ..._free; strings and arrays got from a handle live as long as it.
 *
 * Threads. Every function may be called from any thread, on one handle at the same time too, but a handle must not be
 * used while or after it is freed. No call throws, none calls back.
 *
 * fork(). A client made before answers HBMESH_NOT_SUPPORTED in the child, which may make clients of its own; the
 * parent's sessions are the parent's alone, and end with it. Simulated device memory from before the fork is the
 * parent's too: the child allocates its own.
 *
 * Structs carry their size in the first field: set it to sizeof(the struct) and zero the rest (HBMESH_INIT does both);
 * a later library accepts a shorter struct and takes its defaults for the fields that are not there.
 *
 * Units: sizes in bytes, times in milliseconds unless the name says otherwise, device pointers as 64-bit numbers. */
#ifndef HBMESH_H
#define HBMESH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HBMESH_VERSION_MAJOR 0
#define HBMESH_VERSION_MINOR 1
#define HBMESH_VERSION_PATCH 0
#define HBMESH_VERSION (HBMESH_VERSION_MAJOR * 10000 + HBMESH_VERSION_MINOR * 100 + HBMESH_VERSION_PATCH)

#if defined(__GNUC__)
#define HBMESH_API __attribute__((visibility("default")))
#else
#define HBMESH_API
#endif

/* A struct of this API with its size set and all else zero: hbmesh_batch batch = HBMESH_INIT(hbmesh_batch); */
#ifdef __cplusplus
extern "C++" {
template <typename Struct>
inline Struct hbmesh_init() {
  Struct made{};
  made.size = sizeof(Struct);
  return made;
}
}
#define HBMESH_INIT(type) hbmesh_init<type>()
#else
#define HBMESH_INIT(type) \
  { .size = sizeof(type) }
#endif

/* Status codes; the table of proto/hbmesh/v1/status.proto. */
typedef uint32_t hbmesh_status;
enum {
  HBMESH_OK = 0,
  HBMESH_INVALID = 2,
  HBMESH_NOT_FOUND = 3,
  HBMESH_RUNTIME_ERROR = 5,
  HBMESH_OUT_OF_MEMORY = 6,
  HBMESH_NOT_READY = 8,
  HBMESH_NOT_AUTHORIZED = 9,
  HBMESH_INTERRUPTED = 11,
  HBMESH_OUT_OF_RANGE = 12,
  HBMESH_NO_SPACE = 13,
  HBMESH_TRY_AGAIN = 19,
  HBMESH_DATA_INCONSISTENCY = 20,
  HBMESH_SHUTTING_DOWN = 21,
  HBMESH_CLIENT_WORKER_DISCONNECT = 23,
  HBMESH_WORKER_TIMEOUT = 24,
  HBMESH_SCALING = 32,
  HBMESH_NOT_SUPPORTED = 36,
  HBMESH_NO_AVAILABLE_WORKER = 37,
  HBMESH_RPC_CANCELLED = 1000,
  HBMESH_RPC_DEADLINE_EXCEEDED = 1001,
  HBMESH_RPC_UNAVAILABLE = 1002,
  HBMESH_RDMA_ERROR = 1005,
  HBMESH_RPC_PEER_DEAD = 1011,
  HBMESH_KEY_ALREADY_EXISTS = 2004,
  HBMESH_ACL_ERROR = 5000,
  HBMESH_HCCL_ERROR = 5001,
  HBMESH_FUTURE_TIMEOUT = 5002
};

typedef struct hbmesh_client hbmesh_client;
typedef struct hbmesh_result hbmesh_result;
typedef struct hbmesh_future hbmesh_future;
typedef struct hbmesh_ticket hbmesh_ticket;

/* HBMESH_VERSION of the library that is loaded. */
HBMESH_API uint32_t hbmesh_version(void);
/* "NOT_FOUND"; "UNKNOWN_CODE" for a number outside of the table. Lives for ever. */
HBMESH_API const char* hbmesh_status_name(hbmesh_status status);
/* Why the calling thread's last call failed; "" after one that did not. Valid until that thread's next call. */
HBMESH_API const char* hbmesh_last_message(void);
/* The number, counted from 1, of the key that this message is about; 0: of none. */
HBMESH_API uint32_t hbmesh_last_key(void);

/* ---- Client ------------------------------------------------------------------------------------------------------ */

typedef struct hbmesh_client_options {
  uint32_t size;
  uint32_t connect_timeout_ms;     /* how long init may take; 0: 9,000 */
  uint32_t request_timeout_ms;     /* how long a call may take, its waiting and its bytes apart; 0: as connect */
  uint32_t subscribe_timeout_ms;   /* devices' default wait for one key; 0: 20,000 */
  uint32_t subscribe_many_ms;      /* ... and for several; 0: 60,000 */
  uint32_t spin_micros;            /* how long a call polls for its answer before it sleeps; 0: 50 */
  uint64_t floor_bytes_per_second; /* slowest transfer that is still waited for; 0: 100,000,000 */
  const char* worker_address;      /* HOST:PORT of the worker on this machine, as in "127.0.0.1:31501" */
  const char* token;               /* what the worker wants to be told; NULL: nothing */
} hbmesh_client_options;

/* Makes a client that is connected to nothing yet. HBMESH_INVALID: no worker address, or one that is none. */
HBMESH_API hbmesh_status hbmesh_client_create(const hbmesh_client_options* options, hbmesh_client** client);
/* Connects; again, after the worker was lost. HBMESH_OK at once when connected. Errors: HBMESH_SHUTTING_DOWN,
 * HBMESH_NO_AVAILABLE_WORKER (nothing serves the address on this machine, or its name leads nowhere),
 * HBMESH_NOT_AUTHORIZED (another user serves it, or the token is refused), HBMESH_RPC_DEADLINE_EXCEEDED,
 * HBMESH_DATA_INCONSISTENCY (another release). */
HBMESH_API hbmesh_status hbmesh_client_init(hbmesh_client* client);
/* IP:PORT of the worker that the client is connected to; of one that isn't, HOST:PORT as it was given.
 * HBMESH_OUT_OF_RANGE: it takes more than `capacity` bytes with its zero; 264 are always enough. */
HBMESH_API hbmesh_status hbmesh_client_address(hbmesh_client* client, char* address, size_t capacity);
/* Ends every call and future with HBMESH_SHUTTING_DOWN. Waits until the sidecar uses none of their device memory any
 * more: 2 seconds at most for one that takes no message, else as long as bytes that move may take. What it did not
 * confirm by then says so in its message. May be called again. NULL is ignored. */
HBMESH_API void hbmesh_client_close(hbmesh_client* client);
/* Closes and frees. Results, futures and tickets of the client stay usable (ended) until they are freed themselves. */
HBMESH_API void hbmesh_client_free(hbmesh_client* client);

/* ---- What a call is about ---------------------------------------------------------------------------------------- */

/* Keys and, for calls that move bytes, their blobs: blob i belongs to key k when blob_ends[k - 1] <= i < blob_ends[k].
 * All blobs of a call are on one device. Calls about keys alone take blob_count 0 and NULLs. 1 to 10,000 keys
 * (100,000 for exist and get_meta_info), none twice. */
typedef struct hbmesh_batch {
  uint32_t size;
  uint32_t device_index;
  uint32_t key_count;
  uint32_t blob_count;
  const char* const* keys;
  const uint32_t* key_bytes;  /* length of each key; NULL: the keys are zero-terminated */
  const uint32_t* blob_ends;  /* one a key */
  const uint64_t* pointers;   /* one a blob: device address */
  const uint64_t* blob_bytes; /* one a blob: above 0 */
} hbmesh_batch;

enum { HBMESH_EXISTENCE_SKIP = 0, HBMESH_EXISTENCE_FAIL = 1, HBMESH_EXISTENCE_REPLACE = 2 };
enum { HBMESH_PIN_NONE = 0, HBMESH_PIN_SOFT = 1, HBMESH_PIN_HARD = 2 };

typedef struct hbmesh_set_options {
  uint32_t size;
  uint32_t existence; /* a key that is there: skip it (its result says existed), fail, or replace it */
  uint64_t ttl_ms;    /* until the objects are removed; 0: never */
  uint32_t pin;       /* when memory runs short: none goes first, soft last, hard never */
  uint32_t checksum;  /* 1: keep a CRC32C, which every get checks */
} hbmesh_set_options;

/* ---- Results ----------------------------------------------------------------------------------------------------- */

enum { HBMESH_EXISTED = 1 }; /* flag of a key. Set: it was there and was left. Delete: it was there */
enum { HBMESH_PATH_FALLBACK = 1, HBMESH_PATH_STAGED = 2, HBMESH_PATH_SPILLED = 4 };

/* What really carried bytes: one for each source and transport. */
typedef struct hbmesh_path {
  uint32_t size;
  uint32_t transport; /* see hbmesh_transport_name */
  uint32_t device_index;
  uint32_t lanes;
  uint32_t slices;
  uint32_t flags; /* HBMESH_PATH_... */
  uint64_t bytes;
  uint64_t nanoseconds;
  char source[48]; /* worker address that the bytes came from; "" for this worker */
} hbmesh_path;

HBMESH_API uint32_t hbmesh_result_count(const hbmesh_result* result);
/* Keys whose status is not HBMESH_OK. */
HBMESH_API uint32_t hbmesh_result_failed_count(const hbmesh_result* result);
/* One a key, in the order of the keys. */
HBMESH_API const uint32_t* hbmesh_result_statuses(const hbmesh_result* result);
HBMESH_API const uint32_t* hbmesh_result_flags(const hbmesh_result* result);
/* Bytes of the object, or that were moved. */
HBMESH_API const uint64_t* hbmesh_result_bytes(const hbmesh_result* result);
HBMESH_API const uint64_t* hbmesh_result_generations(const hbmesh_result* result);
/* Of one key. Message: zero-terminated, "" when its status is HBMESH_OK. HBMESH_OK and "" for an index out of range. */
HBMESH_API hbmesh_status hbmesh_result_status(const hbmesh_result* result, uint32_t index);
HBMESH_API const char* hbmesh_result_message(const hbmesh_result* result, uint32_t index);
/* get_meta_info: sizes of all blobs, key after key, and where each key's end; *count may be NULL. NULL when there are
 * none. */
HBMESH_API const uint64_t* hbmesh_result_blob_bytes(const hbmesh_result* result, uint32_t* count);
HBMESH_API const uint32_t* hbmesh_result_blob_ends(const hbmesh_result* result);
HBMESH_API uint32_t hbmesh_result_path_count(const hbmesh_result* result);
/* HBMESH_OUT_OF_RANGE: no such path. */
HBMESH_API hbmesh_status hbmesh_result_path(const hbmesh_result* result, uint32_t index, hbmesh_path* path);
/* "local" (0), "shm", "tcp", "rdma", "hccs"; "unknown" for another number. Lives for ever. */
HBMESH_API const char* hbmesh_transport_name(uint32_t transport);
HBMESH_API void hbmesh_result_free(hbmesh_result* result); /* NULL is ignored */

/* ---- Host objects ------------------------------------------------------------------------------------------------ */

/* Each call about keys has a form that ends in _async: it returns once it was sent, with a future for the whole call,
 * whose result has a status a key. A future can be cancelled, which ends the call. */

/* Copies device memory into host objects, visible on every node when the call returns, and only whole. options may be
 * NULL. Status of a key, in this order: HBMESH_KEY_ALREADY_EXISTS (existence fail, and set here), HBMESH_OUT_OF_MEMORY,
 * HBMESH_INVALID (of a device family), HBMESH_KEY_ALREADY_EXISTS (set elsewhere), HBMESH_RPC_UNAVAILABLE or
 * HBMESH_TRY_AGAIN (its owner can't answer now), HBMESH_RUNTIME_ERROR. */
HBMESH_API hbmesh_status hbmesh_set_d2h(hbmesh_client* client, const hbmesh_batch* batch,
                                        const hbmesh_set_options* options, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_set_d2h_async(hbmesh_client* client, const hbmesh_batch* batch,
                                              const hbmesh_set_options* options, hbmesh_future** future);
/* Reads host objects, of this node or another, into device memory. timeout_ms: how long to wait for keys that are not
 * there yet, each on its own; 0: not at all; at most 1,800,000. Status of a key: HBMESH_INVALID (of a device family, or
 * blobs other than those of the set), HBMESH_NOT_FOUND, HBMESH_RPC_UNAVAILABLE, HBMESH_TRY_AGAIN,
 * HBMESH_DATA_INCONSISTENCY (its checksum does not fit), HBMESH_RPC_CANCELLED. */
HBMESH_API hbmesh_status hbmesh_get_h2d(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                        hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_get_h2d_async(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                              hbmesh_future** future);
/* Removes objects everywhere. A key that is not there is HBMESH_OK, without HBMESH_EXISTED. Status of a key:
 * HBMESH_INVALID (of a device family), HBMESH_RPC_UNAVAILABLE, HBMESH_TRY_AGAIN. */
HBMESH_API hbmesh_status hbmesh_delete(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_delete_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future);
/* Status of a key: HBMESH_OK is a hit, HBMESH_NOT_FOUND a miss, all else unknown, and never a miss. `result` must not
 * be NULL. */
HBMESH_API hbmesh_status hbmesh_exist(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_exist_async(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** future);
/* Size, blob sizes, generation. Status of a key as of hbmesh_exist. Where the blob sizes of all keys are more than one
 * answer carries (some 4,000,000), it asks in several calls; the _async form does not, and answers HBMESH_OUT_OF_RANGE,
 * as the status of some keys or of the call. */
HBMESH_API hbmesh_status hbmesh_get_meta_info(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_get_meta_info_async(hbmesh_client* client, const hbmesh_batch* batch,
                                                    hbmesh_future** future);
/* All that is known of an object, as JSON text: message 0 of the result. Answers for keys that are not there, too.
 * `result` must not be NULL. */
HBMESH_API hbmesh_status hbmesh_explain(hbmesh_client* client, const char* key, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_explain_async(hbmesh_client* client, const char* key, hbmesh_future** future);

/* ---- Futures ----------------------------------------------------------------------------------------------------- */

/* Waits up to timeout_ms (0 to 1,800,000; 0: does not wait) for the end. *result (may be NULL) then has the status of
 * the future's key, also when that failed, or those of all keys of an async call that could be tried; free it where it
 * is not NULL. Returns HBMESH_INVALID (timeout), HBMESH_FUTURE_TIMEOUT (not ended: nothing was stopped, get again),
 * else what the future ended with: HBMESH_OK, the key's failure, or that of the call. */
HBMESH_API hbmesh_status hbmesh_future_get(hbmesh_future* future, uint32_t timeout_ms, hbmesh_result** result);
/* Asks for the end of this key (or async call) alone. It then ends with HBMESH_RPC_CANCELLED, or as it would have if
 * that came first; its device memory may be in use until it has ended. */
HBMESH_API hbmesh_status hbmesh_future_cancel(hbmesh_future* future);
/* 1: it has ended. */
HBMESH_API uint32_t hbmesh_future_done(const hbmesh_future* future);
/* Adds 1 to the eventfd `event_fd` when the future ends, at once if it has: for event loops, which can't wait in
 * hbmesh_future_get. The descriptor is borrowed until the future has ended or was freed; several futures may share one,
 * and a later call replaces an earlier one. -1 takes it back: nothing is written to it any more. HBMESH_INVALID: no
 * descriptor. */
HBMESH_API hbmesh_status hbmesh_future_notify(hbmesh_future* future, int event_fd);
/* Forgets it; the transfer itself goes on, and uses its device memory until it has ended, which nobody is told then:
 * cancel and wait first where the memory is wanted. NULL is ignored. */
HBMESH_API void hbmesh_future_free(hbmesh_future* future);

/* ---- Device to device -------------------------------------------------------------------------------------------- */

/* Offers device memory under keys, each to one subscriber. futures: an array of batch->key_count that is filled in; a
 * future is HBMESH_OK when the receiver has the bytes; the object is then gone. Returns once every key is published or
 * could not be. A future's failure: HBMESH_INVALID (of another family or client, or published with other blobs),
 * HBMESH_RPC_UNAVAILABLE or HBMESH_TRY_AGAIN, HBMESH_RPC_PEER_DEAD (the receiver ended), HBMESH_RPC_CANCELLED,
 * HBMESH_CLIENT_WORKER_DISCONNECT, HBMESH_SHUTTING_DOWN. */
HBMESH_API hbmesh_status hbmesh_dev_publish(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** futures);
/* Receives what is or will be published. Returns at once. timeout_ms: at most 1,800,000; 0: the client's default, 20 s
 * for one key, 60 s for several. A future's failure: HBMESH_INVALID (other blobs than the publisher's, same card,
 * another family), HBMESH_RPC_PEER_DEAD (the publisher ended), HBMESH_FUTURE_TIMEOUT (nobody published), then as
 * above. */
HBMESH_API hbmesh_status hbmesh_dev_subscribe(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                              hbmesh_future** futures);
/* Makes device memory readable under keys, by any number of readers, until it is deleted or the client ends. Of the
 * options only existence has an effect, skip or fail. Status of a key: HBMESH_INVALID (of another family or client, or
 * set with other blobs), HBMESH_KEY_ALREADY_EXISTS (existence fail), HBMESH_RPC_UNAVAILABLE, HBMESH_TRY_AGAIN. */
HBMESH_API hbmesh_status hbmesh_dev_mset(hbmesh_client* client, const hbmesh_batch* batch,
                                         const hbmesh_set_options* options, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_dev_mset_async(hbmesh_client* client, const hbmesh_batch* batch,
                                               const hbmesh_set_options* options, hbmesh_future** future);
/* Reads it. share_replica 1: this memory serves further readers, so it stays valid until dev_local_delete. Status of a
 * key: HBMESH_INVALID (blobs, same card, another family), HBMESH_NOT_FOUND, HBMESH_RPC_PEER_DEAD (its last holder
 * ended), HBMESH_RPC_UNAVAILABLE, HBMESH_TRY_AGAIN, HBMESH_RPC_CANCELLED. */
HBMESH_API hbmesh_status hbmesh_dev_mget(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                         uint32_t share_replica, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_dev_mget_async(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                               uint32_t share_replica, hbmesh_future** future);
/* Ends such objects everywhere; or only what this client offers of them. As hbmesh_delete. */
HBMESH_API hbmesh_status hbmesh_dev_delete(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_dev_delete_async(hbmesh_client* client, const hbmesh_batch* batch,
                                                 hbmesh_future** future);
HBMESH_API hbmesh_status hbmesh_dev_local_delete(hbmesh_client* client, const hbmesh_batch* batch,
                                                 hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_dev_local_delete_async(hbmesh_client* client, const hbmesh_batch* batch,
                                                       hbmesh_future** future);

/* ---- Layer by layer ---------------------------------------------------------------------------------------------- */

/* Reserves device memory for layers; `layers` is a batch whose key_count is the number of layers and whose keys are
 * NULL. ttl_ms: until a ticket that is not complete ends with HBMESH_FUTURE_TIMEOUT; 0: 600,000. */
HBMESH_API hbmesh_status hbmesh_reserve_layers(hbmesh_client* client, const hbmesh_batch* layers, uint64_t ttl_ms,
                                               hbmesh_ticket** ticket);
/* What the pushing side needs; a secret. */
HBMESH_API const char* hbmesh_ticket_text(const hbmesh_ticket* ticket);
HBMESH_API uint32_t hbmesh_ticket_layer_count(const hbmesh_ticket* ticket);
/* A future for one layer (from 0), with its bytes and what carried them; frees nothing of the ticket when it is freed.
 * HBMESH_OUT_OF_RANGE: no such layer. */
HBMESH_API hbmesh_status hbmesh_ticket_layer(const hbmesh_ticket* ticket, uint32_t layer, hbmesh_future** future);
/* HBMESH_OK when the layer (from 0) is in its memory, all of it. Errors: HBMESH_OUT_OF_RANGE, HBMESH_INVALID (timeout
 * over 1,800,000), HBMESH_RPC_PEER_DEAD (the pusher ended within a layer), HBMESH_FUTURE_TIMEOUT (the ticket expired,
 * or not there yet), HBMESH_RPC_CANCELLED, HBMESH_CLIENT_WORKER_DISCONNECT, HBMESH_SHUTTING_DOWN. */
HBMESH_API hbmesh_status hbmesh_ticket_wait_layer(hbmesh_ticket* ticket, uint32_t layer, uint32_t timeout_ms);
HBMESH_API hbmesh_status hbmesh_ticket_wait_all(hbmesh_ticket* ticket, uint32_t timeout_ms);
/* Asks for the end of the reservation; layers that are not there end with HBMESH_RPC_CANCELLED. A layer's device memory
 * may be in use until its future has ended. */
HBMESH_API hbmesh_status hbmesh_ticket_cancel(hbmesh_ticket* ticket);
/* Cancels what is open, and forgets it. Device memory of layers that are open may be in use until they have ended;
 * their futures (hbmesh_ticket_layer) tell. NULL is ignored. */
HBMESH_API void hbmesh_ticket_free(hbmesh_ticket* ticket);
/* Pushes one layer. `blobs` has key_count 1 and keys NULL. HBMESH_OK when its bytes are complete at the other side.
 * Errors, in this order: HBMESH_INVALID (no ticket), HBMESH_NOT_FOUND (ticket unknown or expired),
 * HBMESH_NOT_AUTHORIZED (wrong secret), HBMESH_OUT_OF_RANGE (no such layer), HBMESH_KEY_ALREADY_EXISTS (pushed before),
 * HBMESH_INVALID (other blobs than reserved, naming both), HBMESH_RPC_PEER_DEAD (the reserving side ended),
 * HBMESH_RPC_UNAVAILABLE. `result` may be NULL. */
HBMESH_API hbmesh_status hbmesh_push_layer(hbmesh_client* client, const char* ticket_text, uint32_t layer,
                                           const hbmesh_batch* blobs, hbmesh_result** result);
HBMESH_API hbmesh_status hbmesh_push_layer_async(hbmesh_client* client, const char* ticket_text, uint32_t layer,
                                                 const hbmesh_batch* blobs, hbmesh_future** future);

/* ---- More -------------------------------------------------------------------------------------------------------- */

/* Registers device memory ahead of its first use. HBMESH_INVALID, naming the range: it is no device memory.
 * HBMESH_TRY_AGAIN: as much is registered as may be. */
HBMESH_API hbmesh_status hbmesh_pre_register(hbmesh_client* client, const uint64_t* pointers, const uint64_t* bytes,
                                             uint32_t count);
/* Writes a zero-terminated key that nobody else has: prefix (may be NULL), "-", 36 characters. HBMESH_OUT_OF_RANGE: it
 * does not fit in `capacity` bytes. Needs no worker. */
HBMESH_API hbmesh_status hbmesh_generate_key(const char* prefix, char* key, size_t capacity);

typedef struct hbmesh_health_info {
  uint32_t size;
  uint32_t ready;        /* 1: the sidecar answers, and the directory behind it */
  uint32_t device_count; /* of the node */
  uint32_t reserved;
  uint64_t session; /* this client's number at the sidecar */
  char backend[16]; /* "sim", "ascend" */
} hbmesh_health_info;
/* Asks the worker. HBMESH_OK with ready 0 when it answers but can't reach the directory; hbmesh_last_message then says
 * why. */
HBMESH_API hbmesh_status hbmesh_health(hbmesh_client* client, hbmesh_health_info* info);

/* Simulated device memory of this process, for use without accelerators. 64 devices; pointers are real addresses.
 * HBMESH_INVALID: no such device, 0 bytes, no start of an allocation, no device memory. HBMESH_OUT_OF_RANGE: more than
 * the allocation has. HBMESH_OUT_OF_MEMORY. */
HBMESH_API hbmesh_status hbmesh_sim_allocate(uint32_t device_index, uint64_t bytes, uint64_t* pointer);
HBMESH_API hbmesh_status hbmesh_sim_free(uint64_t pointer);
HBMESH_API hbmesh_status hbmesh_sim_copy_in(uint64_t pointer, const void* source, uint64_t bytes);
HBMESH_API hbmesh_status hbmesh_sim_copy_out(void* target, uint64_t pointer, uint64_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* HBMESH_H */
