/* Host objects: what set, get, exist, getMetaInfo, explain and delete promise, locally and remotely. */
#include <string.h>

#include "capi/suite/suite.h"

static void found_everywhere(void) {
  struct memory* near = memory(1, 0);
  struct memory* far = memory(2, 0);
  hbmesh_path path = HBMESH_INIT(hbmesh_path);
  IS(set(first(), KEY, memory(0, 1)), "OK");
  IS(get(first(), KEY, near, 0), "OK");
  EXPECT(holds(near, 1));
  EXPECT(hbmesh_result_path_count(last_result()) == 1);
  EXPECT(hbmesh_result_path(last_result(), 0, &path) == HBMESH_OK);
  IS(hbmesh_transport_name(path.transport), "local");
  IS(get(second(), KEY, far, 0), "OK");
  EXPECT(holds(far, 1));
  EXPECT(hbmesh_result_path_count(last_result()) == 1);
  EXPECT(hbmesh_result_path(last_result(), 0, &path) == HBMESH_OK);
  IS(hbmesh_transport_name(path.transport), place.transport);
  EXPECT(path.bytes == DEFAULT_BYTES && (path.flags & HBMESH_PATH_FALLBACK) == 0);
  if (strcmp(place.transport, "local") != 0) IS(path.source, place.workers[0]);
}

static void skip(void) {
  struct memory* target = memory(3, 0);
  IS(set(first(), KEY, memory(0, 10)), "OK");
  IS(set(second(), KEY, memory(0, 11)), "OK(existed)");
  IS(get(second(), KEY, target, 0), "OK");
  EXPECT(holds(target, 10));
}

static void fail(void) {
  struct memory* target = memory(3, 0);
  IS(set(first(), KEY, memory(0, 20)), "OK");
  IS(set_existence(first(), KEY, memory(0, 21), HBMESH_EXISTENCE_FAIL), "KEY_ALREADY_EXISTS");
  IS(set_existence(second(), KEY, memory(0, 21), HBMESH_EXISTENCE_FAIL), "KEY_ALREADY_EXISTS");
  IS(get(second(), KEY, target, 0), "OK");
  EXPECT(holds(target, 20));
}

static void replace(void) {
  uint32_t round;
  IS(set(first(), KEY, memory(0, 30)), "OK");
  for (round = 1; round <= 2; ++round) {
    struct memory* target = memory(1, 0);
    hbmesh_client* writer = round == 1 ? first() : second();
    IS(set_existence(writer, KEY, memory(0, 30 + round), HBMESH_EXISTENCE_REPLACE), "OK(existed)");
    IS(get(first(), KEY, target, 0), "OK");
    EXPECT(holds(target, 30 + round));
    fill(target, 0);
    IS(get(second(), KEY, target, 0), "OK");
    EXPECT(holds(target, 30 + round));
  }
}

static void replace_shape(void) {
  struct memory* target = memory_of(1, 0, "128");
  IS(set(first(), KEY, memory_of(0, 40, "64 64")), "OK");
  IS(set_existence(first(), KEY, memory_of(0, 41, "128"), HBMESH_EXISTENCE_REPLACE), "OK(existed)");
  IS(get(second(), KEY, memory_of(1, 0, "64 64"), 0), "INVALID");
  SAYS("128");
  IS(get(second(), KEY, target, 0), "OK");
  EXPECT(holds(target, 41));
}

static void replace_is_atomic(void) {
  struct memory* sources[] = {memory(0, 42), memory(0, 43)};
  struct memory* targets[] = {memory(1, 0), memory(2, 0)};
  uint32_t round;
  IS(set(first(), KEY, sources[0]), "OK");
  for (round = 0; round < 30; ++round) {
    hbmesh_future** gets[] = {future_place(), future_place()};
    hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
    hbmesh_future** written = future_place();
    int reader;
    options.existence = HBMESH_EXISTENCE_REPLACE;
    EXPECT(hbmesh_set_d2h_async(round % 3 == 2 ? second() : first(), one(KEY, sources[(round + 1) % 2]), &options,
                                written) == HBMESH_OK);
    for (reader = 0; reader < 2; ++reader) {
      EXPECT(hbmesh_get_h2d_async(reader == 0 ? first() : second(), one(KEY, targets[reader]), 0, gets[reader]) ==
             HBMESH_OK);
    }
    IS(end_of(*written), "OK");
    for (reader = 0; reader < 2; ++reader) {
      const char* ended = end_of(*gets[reader]);
      const hbmesh_status status = hbmesh_result_status(last_result(), 0);
      IS(ended, "OK");
      EXPECT(status == HBMESH_OK || status == HBMESH_TRY_AGAIN);
      if (status == HBMESH_OK) EXPECT(holds(targets[reader], 42) || holds(targets[reader], 43));
    }
  }
}

static void waits(void) {
  const char* keys[] = {key_with("-later"), key_with("-there"), key_with("-never")};
  struct memory* targets[] = {memory(2, 0), memory(2, 0), memory(2, 0)};
  hbmesh_future** waiting = future_place();
  IS(set(first(), keys[1], memory(0, 50)), "OK");
  EXPECT(hbmesh_get_h2d_async(second(), batch_of(3, keys, targets), 60000, waiting) == HBMESH_OK);
  UNTIL(holds(targets[1], 50));
  IS(set(first(), keys[0], memory(0, 51)), "OK");
  UNTIL(holds(targets[0], 51));
  EXPECT(hbmesh_future_cancel(*waiting) == HBMESH_OK);
  IS(end_of(*waiting), "OK");
  IS(hbmesh_status_name(hbmesh_result_status(last_result(), 2)), "RPC_CANCELLED");
  EXPECT(holds(targets[0], 51) && holds(targets[1], 50) && holds(targets[2], 0));
}

static void cancelled(void) {
  hbmesh_future** waiting = future_place();
  EXPECT(hbmesh_get_h2d_async(second(), one(KEY, memory(2, 0)), 60000, waiting) == HBMESH_OK);
  IS(end_now(*waiting), "FUTURE_TIMEOUT");
  EXPECT(hbmesh_future_cancel(*waiting) == HBMESH_OK);
  IS(end_of_call(*waiting), "RPC_CANCELLED");
}

static void closed(void) {
  hbmesh_client* leaving = new_client(1);
  hbmesh_future** waiting = future_place();
  EXPECT(hbmesh_get_h2d_async(leaving, one(KEY, memory(2, 0)), 60000, waiting) == HBMESH_OK);
  hbmesh_client_close(leaving);
  IS(end_now(*waiting), "SHUTTING_DOWN");
}

static void deletes(void) {
  const char* absent = key_with("-not-there");
  const char* keys[] = {KEY, absent};
  hbmesh_result* result = NULL;
  hbmesh_status status;
  int worker;
  IS(set(first(), KEY, memory(0, 60)), "OK");
  status = hbmesh_exist(second(), batch_of(2, keys, NULL), &result);
  IS(answer(status, result), "OK NOT_FOUND");
  status = hbmesh_delete(second(), batch_of(2, keys, NULL), &result);
  IS(answer(status, result), "OK(existed) OK");
  for (worker = 0; worker < 2; ++worker) {
    hbmesh_client* client = worker == 0 ? first() : second();
    IS(exist(client, KEY), "NOT_FOUND");
    IS(get(client, KEY, memory(1, 0), 0), "NOT_FOUND");
  }
}

static void tells_blob_sizes(void) {
  int worker;
  IS(set(first(), KEY, memory(0, 70)), "OK");
  for (worker = 0; worker < 2; ++worker) {
    hbmesh_client* client = worker == 0 ? first() : second();
    uint32_t count = 0;
    const uint64_t* sizes;
    IS(meta(client, KEY), "OK");
    sizes = hbmesh_result_blob_bytes(last_result(), &count);
    EXPECT(count == 4 && sizes[0] == 72 * 1024 && sizes[1] == 1 && sizes[2] == 4096 && sizes[3] == 100000);
    EXPECT(blob_end_of(0) == 4);
    EXPECT(bytes_of(0) == DEFAULT_BYTES);
    EXPECT(generation_of(0) > 0);
    IS(meta(client, key_with("-not-there")), "NOT_FOUND");
  }
}

static void explains(void) {
  IS(set(first(), KEY, memory(0, 71)), "OK");
  IS(explain(first(), KEY), "OK");
  SAYS("\"where\":\"memory\"");
  IS(explain(second(), KEY), "OK");
  SAYS(place.workers[0]);
  IS(explain(second(), key_with("-not-there")), "OK");
  SAYS("nowhere");
}

static void many(void) {
  enum { kCount = 300 };
  const char* const* keys = many_keys(kCount);
  struct memory* sources[kCount];
  struct memory* targets[kCount];
  hbmesh_result* result = NULL;
  hbmesh_status status;
  int good = 1;
  uint32_t i;
  for (i = 0; i < kCount; ++i) {
    sources[i] = memory_of(0, 1000 + i, text("512 %u", 100 + i));
    targets[i] = memory_of(3, 0, text("512 %u", 100 + i));
  }
  status = hbmesh_set_d2h(first(), batch_of(kCount, keys, sources), NULL, &result);
  IS(answer(status, result), "300 OK");
  status = hbmesh_get_h2d(second(), batch_of(kCount, keys, targets), 0, &result);
  IS(answer(status, result), "300 OK");
  for (i = 0; i < kCount; ++i) good = good && holds(targets[i], 1000 + i);
  EXPECT(good);
  status = hbmesh_delete(second(), batch_of(kCount, keys, NULL), &result);
  IS(answer(status, result), "300 OK(existed)");
}

static void one_wins(void) {
  struct memory* sources[] = {memory(0, 80), memory(1, 81)};
  hbmesh_future** sets[] = {future_place(), future_place()};
  uint32_t existed[2] = {9, 9};
  int i;
  for (i = 0; i < 2; ++i) {
    EXPECT(hbmesh_set_d2h_async(i == 0 ? first() : second(), one(KEY, sources[i]), NULL, sets[i]) == HBMESH_OK);
  }
  for (i = 0; i < 2; ++i) {
    IS(end_of(*sets[i]), "OK");
    IS(hbmesh_status_name(hbmesh_result_status(last_result(), 0)), "OK");
    existed[i] = flags_of(0) & HBMESH_EXISTED;
  }
  EXPECT(existed[0] + existed[1] == 1);
  for (i = 0; i < 2; ++i) {
    struct memory* target = memory(2, 0);
    IS(get(i == 0 ? first() : second(), KEY, target, 0), "OK");
    EXPECT(holds(target, existed[0] == 0 ? 80 : 81));
  }
}

static void client_extras(void) {
  struct memory* blobs = memory(0, 82);
  hbmesh_health_info health = HBMESH_INIT(hbmesh_health_info);
  EXPECT(hbmesh_health(first(), &health) == HBMESH_OK);
  EXPECT(health.ready == 1 && health.device_count >= 4 && health.session > 0 && strcmp(health.backend, "sim") == 0);
  EXPECT(hbmesh_pre_register(first(), blobs->pointers, blobs->sizes, blobs->count) == HBMESH_OK);
  IS(set(first(), KEY, blobs), "OK");
  EXPECT(strcmp(KEY, key_with("-")) != 0 && strlen(KEY) == 40 && strncmp(KEY, "api-", 4) == 0);
}

static const struct suite_case cases[] = {
    {"a set at one worker is found from any, locally and remotely, with its path", found_everywhere},
    {"skip: the first write wins and the second says existed", skip},
    {"fail: the second write gets KEY_ALREADY_EXISTS and changes nothing", fail},
    {"replace: both workers read the new bytes, whichever wrote them", replace},
    {"replace with another shape: readers of the old shape are told both", replace_shape},
    {"replace: who reads meanwhile sees the old bytes or the new ones", replace_is_atomic},
    {"a get waits for a key that is set meanwhile, and one missing key holds up no other", waits},
    {"a get that waits ends when it is cancelled", cancelled},
    {"a get that waits ends when its client is closed", closed},
    {"delete removes for everybody; deleting what isn't there is OK", deletes},
    {"getMetaInfo tells blob sizes from either worker", tells_blob_sizes},
    {"explain tells where an object is, and of a key that isn't there that it is nowhere", explains},
    {"many keys in one call arrive each in its place", many},
    {"two clients set the same key at once: one wins whole, the other says existed", one_wins},
    {"a client asks for the worker's health, registers memory ahead, and makes keys", client_extras},
};
GROUP(host_object_group, "host objects", cases);
