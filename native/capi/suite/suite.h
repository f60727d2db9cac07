/* What the cases of the API suite are written with: expectations, clients of two workers, device memory with patterns,
 * calls about one key whose answer is a word. The same cases stand in test/api in TypeScript; test/api/cases.ts lists
 * both.
 *
 * Everything that a function here hands out is taken back at the end of its case, the newest first. A case goes on
 * after an expectation that did not hold. One thread. */
#ifndef HBMESH_CAPI_SUITE_H
#define HBMESH_CAPI_SUITE_H

#include <stddef.h>
#include <stdint.h>

#include "capi/hbmesh.h"

struct suite_case {
  const char* name;
  void (*run)(void);
};
struct suite_group {
  const char* name;
  const struct suite_case* cases;
  size_t count;
};
#define GROUP(symbol, title, list) const struct suite_group symbol = {title, list, sizeof(list) / sizeof((list)[0])}

extern const struct suite_group host_object_group;
extern const struct suite_group life_group;
extern const struct suite_group bad_input_group;
extern const struct suite_group publish_group;
extern const struct suite_group family_group;
extern const struct suite_group killed_group;
extern const struct suite_group device_cache_group;
extern const struct suite_group layer_group;
extern const struct suite_group limit_group;
extern const struct suite_group tenant_group;
extern const struct suite_group precedence_group;

/* Where the group runs: two workers, or one that is both. */
struct place {
  const char* workers[2]; /* IP:PORT */
  const char* transport;  /* that carries bytes from the first to the second: "tcp", "shm", "local" */
};
extern struct place place;

/* ---- Expectations ------------------------------------------------------------------------------------------------ */

void check_that(int holds, const char* what, const char* file, int line);
void check_is(const char* got, const char* wanted, const char* what, const char* file, int line);
void check_says(const char* part, const char* file, int line);
#define EXPECT(condition) check_that((condition), #condition, __FILE__, __LINE__)
/* What a call below answered. */
#define IS(call, wanted) check_is((call), (wanted), #call, __FILE__, __LINE__)
/* The messages of the last call have this in them. */
#define SAYS(part) check_says((part), __FILE__, __LINE__)
/* Asks again until the condition holds; fails after 20 seconds. */
#define UNTIL(condition)                                                         \
  do {                                                                           \
    const double wait_begin = seconds_now();                                     \
    while (!(condition) && seconds_now() - wait_begin < 20) pause_briefly();     \
    check_that(seconds_now() - wait_begin < 20, #condition, __FILE__, __LINE__); \
  } while (0)
double seconds_now(void);
void pause_briefly(void);

/* ---- The case's things ------------------------------------------------------------------------------------------- */

/* Runs `take_back` with it when the case has ended. Returns it. */
void* keep(void* thing, void (*take_back)(void*));
/* Zeroed memory until the end of the case. */
void* scratch(size_t bytes);
/* As sprintf, until the end of the case. */
const char* text(const char* format, ...);
/* The case's own key, with something behind it. */
const char* key_with(const char* suffix);
#define KEY key_with("")
/* `count` keys: the case's own, "-" and a number. */
const char* const* many_keys(uint32_t count);

/* Clients of the first and the second worker that live as long as the group, and one of the case's own. */
hbmesh_client* first(void);
hbmesh_client* second(void);
hbmesh_client* new_client(int worker);
/* NULL when init failed; then why. */
hbmesh_client* client_with_token(int worker, const char* token);
hbmesh_status init_status(void);
const char* init_message(void);

/* ---- Device memory ----------------------------------------------------------------------------------------------- */

struct memory {
  uint32_t device;
  uint32_t count;
  uint64_t* pointers;
  uint64_t* sizes;
  uint64_t bytes;
};
/* Blobs of 72 KiB, 1, 4,096 and 100,000 bytes, full of a pattern that the seed gives; seed 0: zeros. */
struct memory* memory(uint32_t device, uint32_t seed);
/* Blobs of these sizes: "64 128". */
struct memory* memory_of(uint32_t device, uint32_t seed, const char* sizes);
/* `count` pieces of `bytes` bytes in one allocation, each a memory of one blob. */
struct memory** pieces(uint32_t device, uint32_t seed, uint32_t count, uint64_t bytes);
void fill(const struct memory* target, uint32_t seed);
int holds(const struct memory* target, uint32_t seed);
/* The sum of the default sizes. */
#define DEFAULT_BYTES (72u * 1024 + 1 + 4096 + 100000)

/* ---- Calls ------------------------------------------------------------------------------------------------------- */

/* A batch for any call. Without memories: of keys alone. */
const hbmesh_batch* batch_of(uint32_t count, const char* const* keys, struct memory* const* memories);
const hbmesh_batch* one(const char* key, const struct memory* blobs);
/* The same without blobs, or with the blobs but no key (layers, pushes). */
const hbmesh_batch* key_only(const char* key);
const hbmesh_batch* layers_of(uint32_t count, struct memory* const* layers);

/* The answer of a call: the code of each key, joined by blanks; "(existed)" behind that of a set or delete which says
 * so; "!" and the code when the whole call failed. Of more than 16 keys: "16 OK" with all different codes in the order
 * of their first key. Takes the result over. */
const char* answer(hbmesh_status status, hbmesh_result* result);
/* The result of the last call; NULL when it failed. */
const hbmesh_result* last_result(void);
/* What it says of a key; 0 when there is none. */
uint64_t bytes_of(uint32_t key);
uint32_t flags_of(uint32_t key);
uint64_t generation_of(uint32_t key);
uint32_t blob_end_of(uint32_t key);

const char* set(hbmesh_client* client, const char* key, const struct memory* from);
const char* set_as(hbmesh_client* client, const char* key, const struct memory* from, const hbmesh_set_options* how);
const char* set_existence(hbmesh_client* client, const char* key, const struct memory* from, uint32_t existence);
const char* get(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms);
const char* exist(hbmesh_client* client, const char* key);
const char* meta(hbmesh_client* client, const char* key);
const char* explain(hbmesh_client* client, const char* key);
const char* delete_key(hbmesh_client* client, const char* key);
const char* dev_set(hbmesh_client* client, const char* key, const struct memory* from);
const char* dev_get(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms, int share);
const char* dev_delete(hbmesh_client* client, const char* key);
const char* dev_local_delete(hbmesh_client* client, const char* key);
const char* push(hbmesh_client* client, const char* ticket, uint32_t layer, const struct memory* from);

/* Futures. NULL when the call was refused: end_of then says so. */
hbmesh_future* publish(hbmesh_client* client, const char* key, const struct memory* from);
hbmesh_future* subscribe(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms);
/* One a key. */
hbmesh_future** publish_all(hbmesh_client* client, const hbmesh_batch* batch);
hbmesh_future** subscribe_all(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms);
/* Of an _async call: IS(started(...), "OK"). */
hbmesh_future** future_place(void);
/* How it ended, waiting for that; "FUTURE_TIMEOUT" while it has not. */
const char* end_of(hbmesh_future* future);
const char* end_now(hbmesh_future* future);
/* Of an _async call: as its first failing key. */
const char* end_of_call(hbmesh_future* future);
/* How all of them ended, as `answer` puts it. */
const char* ends_of(uint32_t count, hbmesh_future* const* futures);

hbmesh_ticket* reserve(hbmesh_client* client, uint32_t count, struct memory* const* layers, uint64_t ttl_ms);

/* ---- Processes that are killed ------------------------------------------------------------------------------------
 */

/* A client process of the worker that does `command` ("publish", "subscribe", "devset", "reserve") with the key, and
 * then stays. Its one line of output is its answer. */
struct child;
struct child* start_child(int worker, const char* command, const char* key);
const char* child_says(const struct child* child);
/* SIGKILL; returns when it is gone. */
void kill_child(struct child* child);
/* What such a process does; returns its exit code. */
int child_main(const char* address, const char* command, const char* key);
/* What it publishes and sets: one blob of this size, full of a pattern. */
#define CHILD_SIZES "4096"
#define CHILD_SEED 4711

/* ---- For main -----------------------------------------------------------------------------------------------------
 */

/* Runs one case. Returns how many expectations did not hold; each was told on stdout. */
int run_case(const struct suite_case* one_case);
/* Closes the group's clients. */
void end_group(void);

#endif
