/* Bad input: each is refused with its code, its key and what to do, and leaves nothing half-done. */
#include <string.h>

#include "capi/suite/suite.h"

/* Sets a good key and, second, a bad one; the good one must not be there afterwards. */
static const char* set_beside_good(const char* bad_key, const struct memory* bad) {
  const char* keys[] = {KEY, bad_key};
  struct memory* list[] = {memory(0, 1), (struct memory*)bad};
  const hbmesh_status status = hbmesh_set_d2h(first(), batch_of(2, keys, list), NULL, NULL);
  const char* said = text("%s", hbmesh_last_message());
  const uint32_t number = hbmesh_last_key();
  IS(exist(first(), KEY), "NOT_FOUND");
  return text("%s of key %u: %s", hbmesh_status_name(status), number, said);
}

#define REFUSED(call, part)                                                                  \
  do {                                                                                       \
    const char* refusal = (call);                                                            \
    check_that(strncmp(refusal, "INVALID of key 2:", 17) == 0, refusal, __FILE__, __LINE__); \
    check_that(strstr(refusal, part) != NULL, refusal, __FILE__, __LINE__);                  \
  } while (0)

static void empty_key(void) { REFUSED(set_beside_good("", memory(0, 2)), "empty"); }

static void long_key(void) {
  char name[257];
  memset(name, 'k', 256);
  name[256] = '\0';
  REFUSED(set_beside_good(name, memory(0, 2)), "255");
}

static void space(void) { REFUSED(set_beside_good("a b", memory(0, 2)), "byte \"\\x20\" at 1: allowed are A-Z a-z"); }
static void slash(void) { REFUSED(set_beside_good("a/b", memory(0, 2)), "byte \"/\" at 1: allowed are"); }
static void dot(void) { REFUSED(set_beside_good("a.b", memory(0, 2)), "byte \".\" at 1: allowed are"); }
static void letter(void) {
  REFUSED(set_beside_good("schl\xC3\xBCssel", memory(0, 2)), "byte \"\\xC3\" at 4: allowed are");
}

static void longest_key(void) {
  char name[256];
  memset(name, 'k', 255);
  name[255] = '\0';
  IS(set(first(), name, memory(0, 1)), "OK");
  IS(delete_key(first(), name), "OK(existed)");
}

static void twin(void) {
  const char* refusal = set_beside_good(KEY, memory(0, 2));
  check_that(strncmp(refusal, "INVALID of key 1:", 17) == 0, refusal, __FILE__, __LINE__);
  EXPECT(strstr(refusal, "twice (numbers 1 and 2)") != NULL);
}

static void counts(void) {
  const char* keys[] = {KEY, key_with("-b")};
  struct memory* list[] = {memory(0, 1), memory(0, 2)};
  hbmesh_batch batch = *batch_of(2, keys, list);
  batch.key_count = 0;
  IS(answer(hbmesh_set_d2h(first(), &batch, NULL, NULL), NULL), "!INVALID");
  SAYS("at least one");
  batch.key_count = 1; /* the blobs of the second key belong to nobody */
  IS(answer(hbmesh_set_d2h(first(), &batch, NULL, NULL), NULL), "!INVALID");
  SAYS("blob lists");
  IS(exist(first(), KEY), "NOT_FOUND");
}

static const char* set_blob(uint64_t pointer, uint64_t bytes, uint32_t count) {
  struct memory bad = {0, count, &pointer, &bytes, bytes};
  return set_beside_good(key_with("-bad"), &bad);
}

static void size_zero(void) { REFUSED(set_blob(memory(0, 1)->pointers[0], 0, 1), "size 0"); }
static void no_blobs(void) { REFUSED(set_blob(memory(0, 1)->pointers[0], 64, 0), "no blobs"); }
static void no_device_memory(void) { REFUSED(set_blob(0x12345000, 64, 1), "0x12345000"); }
static void beyond(void) { REFUSED(set_blob(memory(0, 1)->pointers[0], 1ull << 40, 1), "73728 bytes"); }

static void freed(void) {
  uint64_t pointer = 0;
  EXPECT(hbmesh_sim_allocate(0, 8 << 20, &pointer) == HBMESH_OK && hbmesh_sim_free(pointer) == HBMESH_OK);
  /* The good key's memory may lie at the start of it by now. */
  REFUSED(set_blob(pointer + (4 << 20), 64, 1), "not in device memory");
}

static void no_device(void) {
  struct memory bad = *memory(0, 1);
  bad.device = 8;
  IS(set(first(), KEY, &bad), "!INVALID");
  SAYS("device 8");
  SAYS("0 to 7");
}

static void two_devices(void) { REFUSED(set_beside_good(key_with("-bad"), memory(1, 3)), "device 1"); }

/* A get of other blobs than "4096 100", at either worker. */
static void other_shape(const char* sizes, const char* mine) {
  int worker;
  IS(set(first(), KEY, memory_of(0, 1, "4096 100")), "OK");
  for (worker = 0; worker < 2; ++worker) {
    struct memory* target = memory_of(2, 0, sizes);
    IS(get(worker == 0 ? first() : second(), KEY, target, 0), "INVALID");
    SAYS("4096, 100");
    SAYS(mine);
    EXPECT(holds(target, 0));
  }
}
static void other_count(void) { other_shape("4096 50 50", "4096, 50, 50"); }
static void other_size(void) { other_shape("4096 101", "4096, 101"); }
static void other_split(void) { other_shape("100 4096", "100, 4096"); }

static void unknown(void) {
  const char* keys[] = {key_with("-unknown"), KEY};
  int worker;
  IS(set(first(), KEY, memory(0, 1)), "OK");
  for (worker = 0; worker < 2; ++worker) {
    struct memory* targets[] = {memory(1, 0), memory(1, 0)};
    hbmesh_result* result = NULL;
    const hbmesh_status status =
        hbmesh_get_h2d(worker == 0 ? first() : second(), batch_of(2, keys, targets), 0, &result);
    IS(answer(status, result), "NOT_FOUND OK");
    EXPECT(hbmesh_result_failed_count(result) == 1 && hbmesh_result_message(result, 0)[0] != '\0');
    EXPECT(holds(targets[0], 0) && holds(targets[1], 1));
  }
}

static void unknown_waiting(void) {
  IS(get(second(), KEY, memory(1, 0), 100), "NOT_FOUND");
  SAYS("100 ms");
}

static void no_worker(void) {
  const char* const real = place.workers[0];
  place.workers[0] = "127.0.0.1:9";
  EXPECT(client_with_token(0, NULL) == NULL && init_status() == HBMESH_NO_AVAILABLE_WORKER);
  EXPECT(strstr(init_message(), "127.0.0.1:9") != NULL);
  place.workers[0] = real;
}

static void before_and_after(void) {
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = place.workers[0];
  EXPECT(hbmesh_client_create(&options, &client) == HBMESH_OK);
  IS(exist(client, KEY), "!NOT_READY");
  SAYS("init");
  EXPECT(hbmesh_client_init(client) == HBMESH_OK);
  IS(exist(client, KEY), "NOT_FOUND");
  hbmesh_client_close(client);
  IS(exist(client, KEY), "!SHUTTING_DOWN");
  hbmesh_client_free(client);
}

static void options(void) {
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  options.existence = 3;
  IS(set_as(first(), KEY, memory(0, 1), &options), "!INVALID");
  SAYS("existence 3");
  options.existence = 0;
  options.pin = 3;
  IS(set_as(first(), KEY, memory(0, 1), &options), "!INVALID");
  SAYS("pin 3");
  options.pin = 0;
  options.ttl_ms = UINT64_MAX;
  IS(set_as(first(), KEY, memory(0, 1), &options), "!INVALID");
  IS(get(first(), KEY, memory(0, 1), 1800001), "!INVALID");
  SAYS("1800001");
  IS(dev_get(first(), KEY, memory(0, 1), 1800001, 0), "!INVALID");
  IS(exist(first(), KEY), "NOT_FOUND");
}

static void no_range(void) {
  const uint64_t pointer = 0x1000;
  const uint64_t bytes = 1;
  EXPECT(hbmesh_pre_register(first(), &pointer, &bytes, 1) == HBMESH_INVALID);
  SAYS("range 0");
}

static const struct suite_case cases[] = {
    {"an empty key: INVALID, and the good key beside it is not set", empty_key},
    {"a key of 256 bytes: INVALID, and the good key beside it is not set", long_key},
    {"a key with a space in it: INVALID, and the good key beside it is not set", space},
    {"a key with a slash in it: INVALID, and the good key beside it is not set", slash},
    {"a key with a dot in it (rule strict): INVALID, and the good key beside it is not set", dot},
    {"a key with a letter beyond ASCII: INVALID, and the good key beside it is not set", letter},
    {"a key of 255 bytes is allowed", longest_key},
    {"a key twice in one call: INVALID naming it", twin},
    {"no keys at all, or not as many as blob lists: INVALID", counts},
    {"a blob of size 0: INVALID naming the key", size_zero},
    {"no blobs: INVALID naming the key", no_blobs},
    {"a pointer that is no device memory: INVALID naming the key and the pointer", no_device_memory},
    {"a blob longer than its memory: INVALID naming the key and the memory's size", beyond},
    {"a blob in memory that was freed: INVALID naming the key", freed},
    {"a device that doesn't exist: INVALID naming it and how many there are", no_device},
    {"two devices in one batch: INVALID naming the key and the device", two_devices},
    {"a get of another count of blobs than the set's: INVALID naming both, locally and remotely", other_count},
    {"a get of another size than the set's: INVALID naming both, locally and remotely", other_size},
    {"a get of the same bytes, split otherwise: INVALID naming both, locally and remotely", other_split},
    {"an unknown key without waiting: NOT_FOUND at once, the others are read", unknown},
    {"an unknown key with waiting: NOT_FOUND after the wait, which the message names", unknown_waiting},
    {"no worker at the address: NO_AVAILABLE_WORKER naming it", no_worker},
    {"a call before init: NOT_READY; after close: SHUTTING_DOWN", before_and_after},
    {"options and times that don't exist: INVALID", options},
    {"registering what is no device memory: INVALID naming the range", no_range},
};
GROUP(bad_input_group, "bad input", cases);
