/* Calls about one key, and what they answered as text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capi/suite/suite.h"

#define WAIT_MS 30000u
#define SHOWN_KEYS 16u

/* ---- Batches ----------------------------------------------------------------------------------------------------- */

const hbmesh_batch* batch_of(uint32_t count, const char* const* keys, struct memory* const* memories) {
  hbmesh_batch* batch = scratch(sizeof(*batch));
  uint32_t* ends;
  uint64_t* pointers;
  uint64_t* sizes;
  uint32_t blobs = 0;
  uint32_t i;
  const hbmesh_batch empty = HBMESH_INIT(hbmesh_batch);
  *batch = empty;
  batch->key_count = count;
  batch->keys = keys;
  if (memories == NULL) return batch;
  for (i = 0; i < count; ++i) blobs += memories[i]->count;
  ends = scratch(count * sizeof(*ends));
  pointers = scratch(blobs * sizeof(*pointers));
  sizes = scratch(blobs * sizeof(*sizes));
  blobs = 0;
  for (i = 0; i < count; ++i) {
    memcpy(pointers + blobs, memories[i]->pointers, memories[i]->count * sizeof(*pointers));
    memcpy(sizes + blobs, memories[i]->sizes, memories[i]->count * sizeof(*sizes));
    blobs += memories[i]->count;
    ends[i] = blobs;
  }
  batch->device_index = memories[0]->device;
  batch->blob_count = blobs;
  batch->blob_ends = ends;
  batch->pointers = pointers;
  batch->blob_bytes = sizes;
  return batch;
}

const hbmesh_batch* one(const char* key, const struct memory* blobs) {
  const char** keys = scratch(sizeof(*keys));
  struct memory* const list[] = {(struct memory*)blobs};
  keys[0] = key;
  return batch_of(1, keys, list);
}

const hbmesh_batch* key_only(const char* key) {
  const char** keys = scratch(sizeof(*keys));
  keys[0] = key;
  return batch_of(1, keys, NULL);
}

const hbmesh_batch* layers_of(uint32_t count, struct memory* const* layers) { return batch_of(count, NULL, layers); }

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static hbmesh_result* latest;

static void free_result(void* result) {
  if (latest == result) latest = NULL;
  hbmesh_result_free(result);
}

const hbmesh_result* last_result(void) { return latest; }

static int has(uint32_t key) { return key < hbmesh_result_count(latest); }

uint64_t bytes_of(uint32_t key) { return has(key) ? hbmesh_result_bytes(latest)[key] : 0; }
uint32_t flags_of(uint32_t key) { return has(key) ? hbmesh_result_flags(latest)[key] : 0; }
uint64_t generation_of(uint32_t key) { return has(key) ? hbmesh_result_generations(latest)[key] : 0; }

uint32_t blob_end_of(uint32_t key) {
  const uint32_t* ends = hbmesh_result_blob_ends(latest);
  return has(key) && ends != NULL ? ends[key] : 0;
}

/* How many, and all different words in the order of their first key. */
static const char* summary(uint32_t count, const char* const* words) {
  const char* said = text("%u", count);
  uint32_t i;
  for (i = 0; i < count; ++i) {
    const char* found = strstr(said, words[i]);
    const size_t length = strlen(words[i]);
    if (found != NULL && (found[length] == ' ' || found[length] == '\0')) continue;
    said = text("%s %s", said, words[i]);
  }
  return said;
}

static const char* joined(uint32_t count, const char* const* words) {
  const char* said = words[0];
  uint32_t i;
  if (count > SHOWN_KEYS) return summary(count, words);
  for (i = 1; i < count; ++i) said = text("%s %s", said, words[i]);
  return said;
}

const char* answer(hbmesh_status status, hbmesh_result* result) {
  const uint32_t count = hbmesh_result_count(result);
  const char** words = scratch((count + 1) * sizeof(*words));
  uint32_t i;
  latest = result;
  if (result != NULL) keep(result, free_result);
  if (status != HBMESH_OK) return text("!%s", hbmesh_status_name(status));
  for (i = 0; i < count; ++i) {
    const char* name = hbmesh_status_name(hbmesh_result_status(result, i));
    words[i] = (hbmesh_result_flags(result)[i] & HBMESH_EXISTED) != 0 ? text("%s(existed)", name) : name;
  }
  return count == 0 ? "nothing" : joined(count, words);
}

/* ---- One key ----------------------------------------------------------------------------------------------------- */

const char* set_as(hbmesh_client* client, const char* key, const struct memory* from, const hbmesh_set_options* how) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_set_d2h(client, one(key, from), how, &result);
  return answer(status, result);
}

const char* set(hbmesh_client* client, const char* key, const struct memory* from) {
  return set_as(client, key, from, NULL);
}

const char* set_existence(hbmesh_client* client, const char* key, const struct memory* from, uint32_t existence) {
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  options.existence = existence;
  return set_as(client, key, from, &options);
}

const char* get(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_get_h2d(client, one(key, to), timeout_ms, &result);
  return answer(status, result);
}

typedef hbmesh_status (*key_call)(hbmesh_client*, const hbmesh_batch*, hbmesh_result**);

static const char* ask(key_call call, hbmesh_client* client, const char* key) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = call(client, key_only(key), &result);
  return answer(status, result);
}

const char* exist(hbmesh_client* client, const char* key) { return ask(hbmesh_exist, client, key); }
const char* meta(hbmesh_client* client, const char* key) { return ask(hbmesh_get_meta_info, client, key); }
const char* delete_key(hbmesh_client* client, const char* key) { return ask(hbmesh_delete, client, key); }
const char* dev_delete(hbmesh_client* client, const char* key) { return ask(hbmesh_dev_delete, client, key); }
const char* dev_local_delete(hbmesh_client* client, const char* key) {
  return ask(hbmesh_dev_local_delete, client, key);
}

const char* explain(hbmesh_client* client, const char* key) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_explain(client, key, &result);
  return answer(status, result);
}

const char* dev_set(hbmesh_client* client, const char* key, const struct memory* from) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_dev_mset(client, one(key, from), NULL, &result);
  return answer(status, result);
}

const char* dev_get(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms, int share) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_dev_mget(client, one(key, to), timeout_ms, share != 0, &result);
  return answer(status, result);
}

const char* push(hbmesh_client* client, const char* ticket, uint32_t layer, const struct memory* from) {
  struct memory* const list[] = {(struct memory*)from};
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_push_layer(client, ticket, layer, layers_of(1, list), &result);
  return answer(status, result);
}

/* ---- Futures ----------------------------------------------------------------------------------------------------- */

static hbmesh_status refused; /* of the call that gave no future */

/* Ends what is open first: its memory goes next. */
static void free_futures(void* given) {
  hbmesh_future** futures;
  for (futures = given; *futures != NULL; ++futures) {
    if (hbmesh_future_done(*futures) == 0) hbmesh_future_cancel(*futures);
  }
  for (futures = given; *futures != NULL; ++futures) {
    hbmesh_future_get(*futures, WAIT_MS, NULL);
    hbmesh_future_free(*futures);
  }
}

hbmesh_future** future_place(void) { return keep(scratch(2 * sizeof(hbmesh_future*)), free_futures); }

hbmesh_future** publish_all(hbmesh_client* client, const hbmesh_batch* batch) {
  hbmesh_future** futures = keep(scratch((batch->key_count + 1) * sizeof(*futures)), free_futures);
  refused = hbmesh_dev_publish(client, batch, futures);
  return futures;
}

hbmesh_future** subscribe_all(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms) {
  hbmesh_future** futures = keep(scratch((batch->key_count + 1) * sizeof(*futures)), free_futures);
  refused = hbmesh_dev_subscribe(client, batch, timeout_ms, futures);
  return futures;
}

hbmesh_future* publish(hbmesh_client* client, const char* key, const struct memory* from) {
  return publish_all(client, one(key, from))[0];
}

hbmesh_future* subscribe(hbmesh_client* client, const char* key, const struct memory* to, uint32_t timeout_ms) {
  return subscribe_all(client, one(key, to), timeout_ms)[0];
}

static const char* end_within(hbmesh_future* future, uint32_t timeout_ms) {
  hbmesh_result* result = NULL;
  hbmesh_status status;
  if (future == NULL) return text("!%s", hbmesh_status_name(refused));
  status = hbmesh_future_get(future, timeout_ms, &result);
  latest = result;
  if (result != NULL) keep(result, free_result);
  return hbmesh_status_name(status);
}

const char* end_of(hbmesh_future* future) { return end_within(future, WAIT_MS); }
const char* end_now(hbmesh_future* future) { return end_within(future, 0); }

const char* end_of_call(hbmesh_future* future) { return hbmesh_status_name(hbmesh_future_get(future, WAIT_MS, NULL)); }

const char* ends_of(uint32_t count, hbmesh_future* const* futures) {
  const char** words = scratch(count * sizeof(*words));
  uint32_t i;
  for (i = 0; i < count; ++i) {
    /* Without a result: of thousands of futures none is kept. */
    words[i] = futures[i] == NULL ? text("!%s", hbmesh_status_name(refused))
                                  : hbmesh_status_name(hbmesh_future_get(futures[i], WAIT_MS, NULL));
  }
  return joined(count, words);
}

static void free_ticket(void* ticket) { hbmesh_ticket_free(ticket); }

hbmesh_ticket* reserve(hbmesh_client* client, uint32_t count, struct memory* const* layers, uint64_t ttl_ms) {
  hbmesh_ticket* ticket = NULL;
  const hbmesh_status status = hbmesh_reserve_layers(client, layers_of(count, layers), ttl_ms, &ticket);
  check_is(hbmesh_status_name(status), "OK", "reserve", __FILE__, __LINE__);
  return keep(ticket, free_ticket);
}
