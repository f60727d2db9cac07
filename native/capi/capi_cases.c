#include "capi/capi_cases.h"

#include <stdio.h>
#include <string.h>

#define BLOB_BYTES 4096

static int check(int holds, const char* what, int line) {
  if (holds) return 0;
  fprintf(stderr, "capi_cases.c:%d: %s; last message: %s\n", line, what, hbmesh_last_message());
  return 1;
}
#define EXPECT(condition) failed += check((condition), #condition, __LINE__)
/* A call's status. The message is read before anything else is called. */
#define EXPECT_STATUS(wanted, call)                                                                \
  do {                                                                                             \
    const hbmesh_status got = (call);                                                              \
    if (got != (wanted)) {                                                                         \
      fprintf(stderr, "capi_cases.c:%d: %s is %s: %s\n", __LINE__, #call, hbmesh_status_name(got), \
              hbmesh_last_message());                                                              \
      failed += 1;                                                                                 \
    }                                                                                              \
  } while (0)

static int says(const char* part) { return strstr(hbmesh_last_message(), part) != NULL; }

static hbmesh_client* connect_to(const char* address) {
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = address;
  if (hbmesh_client_create(&options, &client) != HBMESH_OK || hbmesh_client_init(client) != HBMESH_OK) {
    fprintf(stderr, "connecting to %s: %s\n", address, hbmesh_last_message());
    hbmesh_client_free(client);
    return NULL;
  }
  return client;
}

/* One blob of BLOB_BYTES under one key. */
struct one {
  char name[64];
  const char* keys[1];
  uint32_t ends[1];
  uint64_t pointers[1];
  uint64_t sizes[1];
  hbmesh_batch batch;
};

static int make_one(struct one* one, uint32_t device, unsigned char fill) {
  unsigned char bytes[BLOB_BYTES];
  const hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  int failed = 0;
  memset(bytes, fill, sizeof(bytes));
  EXPECT_STATUS(HBMESH_OK, hbmesh_generate_key("capi", one->name, sizeof(one->name)));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_allocate(device, BLOB_BYTES, &one->pointers[0]));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_copy_in(one->pointers[0], bytes, sizeof(bytes)));
  one->keys[0] = one->name;
  one->ends[0] = 1;
  one->sizes[0] = BLOB_BYTES;
  one->batch = batch;
  one->batch.device_index = device;
  one->batch.key_count = 1;
  one->batch.blob_count = 1;
  one->batch.keys = one->keys;
  one->batch.blob_ends = one->ends;
  one->batch.pointers = one->pointers;
  one->batch.blob_bytes = one->sizes;
  return failed;
}

static int holds(const struct one* one, unsigned char fill) {
  unsigned char bytes[BLOB_BYTES];
  size_t i;
  if (hbmesh_sim_copy_out(bytes, one->pointers[0], sizeof(bytes)) != HBMESH_OK) return 0;
  for (i = 0; i < sizeof(bytes); ++i) {
    if (bytes[i] != fill) return 0;
  }
  return 1;
}

/* The same key without blobs. */
static hbmesh_batch key_of(const struct one* one) {
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  batch.key_count = 1;
  batch.keys = one->keys;
  return batch;
}

int capi_case_values(void) {
  int failed = 0;
  char key[64];
  char again[64];
  EXPECT(hbmesh_version() == HBMESH_VERSION);
  EXPECT(strcmp(hbmesh_status_name(HBMESH_FUTURE_TIMEOUT), "FUTURE_TIMEOUT") == 0);
  EXPECT(strcmp(hbmesh_status_name(4711), "UNKNOWN_CODE") == 0);
  EXPECT_STATUS(HBMESH_OK, hbmesh_generate_key("kv", key, sizeof(key)));
  EXPECT(strlen(key) == 39 && strncmp(key, "kv-", 3) == 0);
  EXPECT_STATUS(HBMESH_OK, hbmesh_generate_key(NULL, again, sizeof(again)));
  EXPECT(strlen(again) == 36 && strcmp(key + 3, again) != 0);
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_generate_key("kv", key, 39));
  EXPECT(says("40 bytes"));
  EXPECT(key[0] == '\0');
  return failed;
}

int capi_case_bad_arguments(void) {
  int failed = 0;
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  hbmesh_client* client = NULL;
  hbmesh_result* result = NULL;
  hbmesh_future* future = NULL;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(NULL, &client));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, &client));
  EXPECT(says("IP:PORT"));
  options.worker_address = "127.0.0.1:9";
  options.size = sizeof(options) + 8;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, &client));
  EXPECT(says("sizeof"));
  EXPECT(client == NULL);
  options.size = sizeof(options);
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_client_create(&options, &client));
  EXPECT_STATUS(HBMESH_NOT_READY, hbmesh_exist(client, &batch, &result));
  EXPECT(says("hbmesh_client_init"));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_exist(client, &batch, NULL));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_exist(NULL, &batch, &result));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_get_h2d_async(client, &batch, 0, NULL));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_future_get(NULL, 0, NULL));
  EXPECT_STATUS(HBMESH_NOT_READY, hbmesh_dev_publish(client, &batch, &future));
  hbmesh_client_close(client);
  EXPECT_STATUS(HBMESH_SHUTTING_DOWN, hbmesh_exist(client, &batch, &result));
  EXPECT_STATUS(HBMESH_SHUTTING_DOWN, hbmesh_client_init(client));
  hbmesh_client_close(client);
  hbmesh_client_free(client);
  hbmesh_client_free(NULL);
  hbmesh_result_free(NULL);
  hbmesh_future_free(NULL);
  hbmesh_ticket_free(NULL);
  EXPECT(hbmesh_result_count(NULL) == 0 && hbmesh_result_message(NULL, 3)[0] == '\0');
  return failed;
}

int capi_case_sim_memory(void) {
  int failed = 0;
  uint64_t pointer = 0;
  char bytes[8] = "1234567";
  char back[8] = "";
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_allocate(64, 8, &pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_allocate(0, 0, &pointer));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_allocate(3, sizeof(bytes), &pointer));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_copy_in(pointer, bytes, sizeof(bytes)));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_copy_out(back, pointer, sizeof(back)));
  EXPECT(strcmp(bytes, back) == 0);
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_sim_copy_out(back, pointer, 1 << 20));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_free(pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_free(pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_copy_in(7, bytes, sizeof(bytes)));
  return failed;
}

int capi_case_nobody_there(void) {
  int failed = 0;
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = "127.0.0.1:9";
  EXPECT_STATUS(HBMESH_OK, hbmesh_client_create(&options, &client));
  EXPECT_STATUS(HBMESH_NO_AVAILABLE_WORKER, hbmesh_client_init(client));
  EXPECT(says("start one"));
  hbmesh_client_free(client);
  return failed;
}

int capi_case_life(const char* address) {
  int failed = 0;
  hbmesh_health_info health = HBMESH_INIT(hbmesh_health_info);
  hbmesh_client* client = connect_to(address);
  if (client == NULL) return 1;
  EXPECT_STATUS(HBMESH_OK, hbmesh_client_init(client));
  EXPECT_STATUS(HBMESH_OK, hbmesh_health(client, &health));
  EXPECT(health.ready == 1 && health.device_count > 0 && health.session > 0);
  EXPECT(strcmp(health.backend, "sim") == 0);
  hbmesh_client_free(client);
  return failed;
}

int capi_case_host_objects(const char* address) {
  int failed = 0;
  struct one source;
  struct one target;
  hbmesh_batch keys;
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  hbmesh_result* result = NULL;
  uint32_t blobs = 0;
  hbmesh_client* client = connect_to(address);
  if (client == NULL) return 1;
  failed += make_one(&source, 0, 7) + make_one(&target, 1, 0);
  target.keys[0] = source.name;
  keys = key_of(&source);
  EXPECT_STATUS(HBMESH_OK, hbmesh_exist(client, &keys, &result));
  EXPECT(hbmesh_result_status(result, 0) == HBMESH_NOT_FOUND);
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_set_d2h(client, &source.batch, NULL, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_set_d2h(client, &source.batch, NULL, &result));
  EXPECT(hbmesh_result_count(result) == 1 && hbmesh_result_failed_count(result) == 0);
  EXPECT(hbmesh_result_flags(result)[0] == HBMESH_EXISTED);
  hbmesh_result_free(result);
  options.existence = HBMESH_EXISTENCE_FAIL;
  EXPECT_STATUS(HBMESH_KEY_ALREADY_EXISTS, hbmesh_set_d2h(client, &source.batch, &options, NULL));
  EXPECT(hbmesh_last_message()[0] != '\0');
  EXPECT_STATUS(HBMESH_OK, hbmesh_get_h2d(client, &target.batch, 0, &result));
  EXPECT(hbmesh_result_status(result, 0) == HBMESH_OK && hbmesh_result_path_count(result) == 1);
  EXPECT(holds(&target, 7));
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_get_meta_info(client, &keys, &result));
  EXPECT(hbmesh_result_bytes(result)[0] == BLOB_BYTES && hbmesh_result_generations(result)[0] > 0);
  EXPECT(hbmesh_result_blob_bytes(result, &blobs)[0] == BLOB_BYTES && blobs == 1);
  EXPECT(hbmesh_result_blob_ends(result)[0] == 1);
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_delete(client, &keys, NULL));
  EXPECT_STATUS(HBMESH_NOT_FOUND, hbmesh_get_h2d(client, &target.batch, 0, NULL));
  hbmesh_client_free(client);
  return failed;
}

int capi_case_bad_input(const char* address) {
  int failed = 0;
  struct one one;
  static const char* many[10001];
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  hbmesh_result* result = NULL;
  hbmesh_batch batch;
  hbmesh_client* client = connect_to(address);
  size_t i;
  if (client == NULL) return 1;
  failed += make_one(&one, 0, 1);
  for (i = 0; i < sizeof(many) / sizeof(many[0]); ++i) many[i] = one.name;
  batch = key_of(&one);
  batch.keys = many;
  batch.key_count = 10001;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_delete(client, &batch, &result));
  EXPECT(says("10001 keys") && result == NULL);
  batch.key_count = 2;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_delete(client, &batch, NULL)); /* the same key twice */
  EXPECT(says("(number"));
  many[1] = NULL;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_delete(client, &batch, NULL));
  EXPECT(says("key number 2 is NULL"));
  batch.key_count = 0;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_delete(client, &batch, NULL));
  one.batch.pointers = NULL;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_set_d2h(client, &one.batch, NULL, NULL));
  one.batch.pointers = one.pointers;
  one.sizes[0] = 0;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_set_d2h(client, &one.batch, NULL, NULL));
  EXPECT(says("size 0"));
  one.sizes[0] = BLOB_BYTES;
  one.batch.device_index = 1000;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_set_d2h(client, &one.batch, NULL, NULL));
  EXPECT(says("device 1000"));
  one.batch.device_index = 0;
  options.pin = 3;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_set_d2h(client, &one.batch, &options, NULL));
  one.pointers[0] = 4096;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_set_d2h(client, &one.batch, NULL, NULL));
  EXPECT(says("(number 1)"));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_pre_register(client, one.pointers, one.sizes, 1));
  hbmesh_client_free(client);
  return failed;
}

int capi_case_futures(const char* address) {
  int failed = 0;
  struct one source;
  struct one target;
  hbmesh_batch keys;
  hbmesh_future* set = NULL;
  hbmesh_future* get = NULL;
  hbmesh_result* result = NULL;
  hbmesh_client* client = connect_to(address);
  if (client == NULL) return 1;
  failed += make_one(&source, 0, 9) + make_one(&target, 0, 0);
  target.keys[0] = source.name;
  EXPECT_STATUS(HBMESH_OK, hbmesh_get_h2d_async(client, &target.batch, 30000, &get));
  EXPECT_STATUS(HBMESH_FUTURE_TIMEOUT, hbmesh_future_get(get, 0, NULL));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_future_get(get, 1800001, NULL));
  EXPECT(hbmesh_future_done(get) == 0);
  EXPECT_STATUS(HBMESH_OK, hbmesh_set_d2h_async(client, &source.batch, NULL, &set));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_get(set, 30000, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_get(get, 30000, &result));
  EXPECT(hbmesh_result_count(result) == 1 && hbmesh_result_status(result, 0) == HBMESH_OK);
  EXPECT(hbmesh_future_done(get) == 1 && holds(&target, 9));
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_get(get, 0, NULL)); /* again */
  hbmesh_future_free(get);
  hbmesh_future_free(set);
  keys = key_of(&source);
  EXPECT_STATUS(HBMESH_OK, hbmesh_delete(client, &keys, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_get_h2d_async(client, &target.batch, 1800000, &get));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_cancel(get));
  EXPECT_STATUS(HBMESH_RPC_CANCELLED, hbmesh_future_get(get, 30000, NULL));
  hbmesh_future_free(get);
  EXPECT_STATUS(HBMESH_OK, hbmesh_get_h2d_async(client, &target.batch, 1800000, &get));
  hbmesh_client_free(client);
  EXPECT_STATUS(HBMESH_SHUTTING_DOWN, hbmesh_future_get(get, 0, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_cancel(get));
  hbmesh_future_free(get);
  return failed;
}

int capi_case_publish_subscribe(const char* address) {
  int failed = 0;
  struct one source;
  struct one target;
  hbmesh_future* published = NULL;
  hbmesh_future* subscribed = NULL;
  hbmesh_result* result = NULL;
  hbmesh_client* publisher = connect_to(address);
  hbmesh_client* subscriber = connect_to(address);
  if (publisher == NULL || subscriber == NULL) return 1;
  failed += make_one(&source, 0, 5) + make_one(&target, 1, 0);
  target.keys[0] = source.name;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_dev_subscribe(subscriber, &target.batch, 1800001, &subscribed));
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_subscribe(subscriber, &target.batch, 0, &subscribed));
  EXPECT_STATUS(HBMESH_FUTURE_TIMEOUT, hbmesh_future_get(subscribed, 0, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_publish(publisher, &source.batch, &published));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_get(subscribed, 20000, &result));
  EXPECT(hbmesh_result_count(result) == 1 && holds(&target, 5));
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_get(published, 20000, NULL));
  hbmesh_future_free(published);
  hbmesh_future_free(subscribed);
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_subscribe(subscriber, &target.batch, 1, &subscribed));
  EXPECT_STATUS(HBMESH_FUTURE_TIMEOUT, hbmesh_future_get(subscribed, 20000, NULL));
  EXPECT(hbmesh_future_done(subscribed) == 1);
  hbmesh_future_free(subscribed);
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_subscribe(subscriber, &target.batch, 60000, &subscribed));
  EXPECT_STATUS(HBMESH_OK, hbmesh_future_cancel(subscribed));
  EXPECT_STATUS(HBMESH_RPC_CANCELLED, hbmesh_future_get(subscribed, 20000, NULL));
  hbmesh_future_free(subscribed);
  hbmesh_client_free(publisher);
  hbmesh_client_free(subscriber);
  return failed;
}

int capi_case_device_cache(const char* address) {
  int failed = 0;
  struct one source;
  struct one target;
  hbmesh_batch keys;
  hbmesh_result* result = NULL;
  hbmesh_client* setter = connect_to(address);
  hbmesh_client* getter = connect_to(address);
  if (setter == NULL || getter == NULL) return 1;
  failed += make_one(&source, 0, 6) + make_one(&target, 1, 0);
  target.keys[0] = source.name;
  keys = key_of(&source);
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_mset(setter, &source.batch, NULL, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_mget(getter, &target.batch, 0, 1, &result));
  EXPECT(hbmesh_result_status(result, 0) == HBMESH_OK && holds(&target, 6));
  hbmesh_result_free(result);
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_local_delete(getter, &keys, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_dev_delete(setter, &keys, NULL));
  EXPECT_STATUS(HBMESH_NOT_FOUND, hbmesh_dev_mget(getter, &target.batch, 0, 0, NULL));
  hbmesh_client_free(setter);
  hbmesh_client_free(getter);
  return failed;
}

int capi_case_layers(const char* address) {
  int failed = 0;
  struct one layers[2];
  struct one source;
  uint32_t ends[2] = {1, 2};
  uint64_t pointers[2];
  uint64_t sizes[2] = {BLOB_BYTES, BLOB_BYTES};
  hbmesh_batch reserved = HBMESH_INIT(hbmesh_batch);
  hbmesh_ticket* ticket = NULL;
  hbmesh_client* decode = connect_to(address);
  hbmesh_client* prefill = connect_to(address);
  if (decode == NULL || prefill == NULL) return 1;
  failed += make_one(&layers[0], 1, 0) + make_one(&layers[1], 1, 0) + make_one(&source, 0, 3);
  pointers[0] = layers[0].pointers[0];
  pointers[1] = layers[1].pointers[0];
  reserved.device_index = 1;
  reserved.key_count = 2;
  reserved.blob_count = 2;
  reserved.blob_ends = ends;
  reserved.pointers = pointers;
  reserved.blob_bytes = sizes;
  source.batch.keys = NULL;
  EXPECT_STATUS(HBMESH_OK, hbmesh_reserve_layers(decode, &reserved, 60000, &ticket));
  if (ticket == NULL) return failed;
  EXPECT(hbmesh_ticket_text(ticket)[0] != '\0');
  EXPECT_STATUS(HBMESH_FUTURE_TIMEOUT, hbmesh_ticket_wait_layer(ticket, 0, 0));
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_ticket_wait_layer(ticket, 2, 0));
  EXPECT_STATUS(HBMESH_OK, hbmesh_push_layer(prefill, hbmesh_ticket_text(ticket), 1, &source.batch, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_ticket_wait_layer(ticket, 1, 20000));
  EXPECT(holds(&layers[1], 3) && holds(&layers[0], 0));
  EXPECT_STATUS(HBMESH_KEY_ALREADY_EXISTS,
                hbmesh_push_layer(prefill, hbmesh_ticket_text(ticket), 1, &source.batch, NULL));
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_push_layer(prefill, hbmesh_ticket_text(ticket), 2, &source.batch, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_push_layer(prefill, hbmesh_ticket_text(ticket), 0, &source.batch, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_ticket_wait_all(ticket, 20000));
  EXPECT(holds(&layers[0], 3));
  hbmesh_ticket_free(ticket);
  hbmesh_client_free(decode);
  hbmesh_client_free(prefill);
  return failed;
}
