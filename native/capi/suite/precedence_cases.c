/* Of two faults at once, the one is told that docs/API.md names first. */
#include <string.h>

#include "capi/suite/every_call.h"

/* A batch for the call with everything wrong: 0 keys, a device that isn't there, a blob of size 0. */
static const hbmesh_batch* all_wrong(void) {
  static uint64_t pointer = 0x1000;
  static uint64_t size = 0;
  static uint32_t end = 1;
  hbmesh_batch* batch = (hbmesh_batch*)batch_of(0, NULL, NULL);
  batch->device_index = 99;
  batch->blob_count = 1;
  batch->blob_ends = &end;
  batch->pointers = &pointer;
  batch->blob_bytes = &size;
  return batch;
}

static void each_says(hbmesh_client* client, const char* wanted) {
  hbmesh_set_options wrong = HBMESH_INIT(hbmesh_set_options);
  struct memory* blobs[] = {memory_of(0, 1, "64")};
  hbmesh_ticket* ticket = NULL;
  hbmesh_future* future = NULL;
  size_t i;
  for (i = 0; i < every_call_count; ++i) {
    const char* name = every_call[i].name;
    IS(text("%s %s", name, hbmesh_status_name(every_call[i].call(client, all_wrong()))), text("%s %s", name, wanted));
  }
  wrong.existence = 9;
  IS(hbmesh_status_name(hbmesh_set_d2h(client, all_wrong(), &wrong, NULL)), wanted);
  IS(hbmesh_status_name(hbmesh_dev_mset(client, all_wrong(), &wrong, NULL)), wanted);
  IS(hbmesh_status_name(hbmesh_get_h2d(client, all_wrong(), 1800001, NULL)), wanted);
  IS(hbmesh_status_name(hbmesh_dev_mget(client, all_wrong(), 1800001, 0, NULL)), wanted);
  IS(hbmesh_status_name(hbmesh_dev_subscribe(client, all_wrong(), 1800001, &future)), wanted);
  IS(hbmesh_status_name(hbmesh_reserve_layers(client, all_wrong(), 1800001, &ticket)), wanted);
  IS(hbmesh_status_name(hbmesh_push_layer(client, "no ticket", 7, all_wrong(), NULL)), wanted);
  IS(hbmesh_status_name(hbmesh_pre_register(client, blobs[0]->sizes, blobs[0]->sizes, 1)), wanted);
  IS(explain(client, "a b"), text("!%s", wanted));
}

static void not_ready(void) {
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = place.workers[0];
  EXPECT(hbmesh_client_create(&options, &client) == HBMESH_OK);
  each_says(client, "NOT_READY");
  hbmesh_client_free(client);
}

static void shutting_down(void) {
  hbmesh_client* client = new_client(0);
  hbmesh_client_close(client);
  each_says(client, "SHUTTING_DOWN");
}

static void options_first(void) {
  hbmesh_set_options wrong = HBMESH_INIT(hbmesh_set_options);
  hbmesh_ticket* ticket = NULL;
  hbmesh_future* future = NULL;
  wrong.existence = 9;
  EXPECT(hbmesh_set_d2h(first(), all_wrong(), &wrong, NULL) == HBMESH_INVALID);
  SAYS("existence");
  EXPECT(hbmesh_dev_mset(first(), all_wrong(), &wrong, NULL) == HBMESH_INVALID);
  SAYS("existence");
  EXPECT(hbmesh_get_h2d(first(), all_wrong(), 1800001, NULL) == HBMESH_INVALID);
  SAYS("1800001");
  EXPECT(hbmesh_dev_mget(first(), all_wrong(), 1800001, 0, NULL) == HBMESH_INVALID);
  SAYS("1800001");
  EXPECT(hbmesh_dev_subscribe(first(), all_wrong(), 1800001, &future) == HBMESH_INVALID);
  SAYS("1800001");
  EXPECT(hbmesh_reserve_layers(first(), all_wrong(), 1800001, &ticket) == HBMESH_INVALID);
  SAYS("1800001");
}

static void number_of_keys(void) {
  size_t i;
  for (i = 0; i < every_call_count; ++i) {
    EXPECT(every_call[i].call(first(), all_wrong()) == HBMESH_INVALID);
    SAYS("no keys given");
  }
}

/* Calls with blobs: two keys, `first_blob` and `second_blob` are (pointer, bytes) pairs. */
static void blobs_say(const char* const* keys, uint32_t device, const uint64_t* pointers, const uint64_t* sizes,
                      const char* part) {
  const uint32_t ends[] = {1, 2};
  hbmesh_batch batch = *batch_of(2, keys, NULL);
  size_t i;
  batch.device_index = device;
  batch.blob_count = 2;
  batch.blob_ends = ends;
  batch.pointers = pointers;
  batch.blob_bytes = sizes;
  for (i = 0; i < every_call_count; ++i) {
    if (!every_call[i].has_blobs) continue;
    EXPECT(every_call[i].call(first(), &batch) == HBMESH_INVALID);
    SAYS(part);
  }
}

static void device_then_blobs(void) {
  const char* keys[] = {"a b", "a b"};
  const uint64_t pointers[] = {0x1000, 0x1000};
  const uint64_t none[] = {0, 0};
  const uint64_t some[] = {64, 0};
  blobs_say(keys, 99, pointers, none, "device 99");
  blobs_say(keys, 0, pointers, some, "size 0");
}

static void memory_then_keys(void) {
  const char* keys[] = {"a b", "a b"};
  const uint64_t good = memory_of(0, 1, "64")->pointers[0];
  const uint64_t elsewhere = memory_of(1, 1, "64")->pointers[0];
  const uint64_t bad_first[] = {0x1000, elsewhere};
  const uint64_t bad_second[] = {good, elsewhere};
  const uint64_t sizes[] = {64, 64};
  blobs_say(keys, 0, bad_first, sizes, "0x1000");
  blobs_say(keys, 0, bad_second, sizes, "device 1");
}

static void allowed_then_twice(void) {
  const char* keys[] = {KEY, KEY, "a b", "c/d"};
  struct memory* blob = memory_of(0, 1, "64");
  struct memory* blobs[] = {blob, blob, blob, blob};
  size_t i;
  for (i = 0; i < every_call_count; ++i) {
    const struct every_call* each = &every_call[i];
    if (!each->has_keys) continue; /* layers are numbered here */
    EXPECT(each->call(first(), batch_of(4, keys, each->has_blobs ? blobs : NULL)) == HBMESH_INVALID);
    SAYS("(number 3)");
    EXPECT(hbmesh_last_key() == 3);
    EXPECT(each->call(first(), batch_of(2, keys, each->has_blobs ? blobs : NULL)) == HBMESH_INVALID);
    SAYS("(numbers 1 and 2)");
    EXPECT(hbmesh_last_key() == 1);
  }
  IS(exist(first(), KEY), "NOT_FOUND");
}

static void family_first(void) {
  hbmesh_set_options fail = HBMESH_INIT(hbmesh_set_options);
  hbmesh_client* stranger = new_client(0);
  hbmesh_future* sent = publish(first(), KEY, memory(0, 2));
  hbmesh_result* result = NULL;
  fail.existence = HBMESH_EXISTENCE_FAIL;
  IS(set_as(stranger, KEY, memory(0, 3), &fail), "INVALID");
  SAYS("devPublish");
  IS(get(stranger, KEY, memory_of(1, 0, "3"), 0), "INVALID");
  SAYS("devSubscribe");
  EXPECT(hbmesh_dev_mset(stranger, one(KEY, memory(0, 3)), &fail, &result) == HBMESH_OK);
  IS(answer(HBMESH_OK, result), "INVALID");
  SAYS("devPublish");
  IS(dev_get(stranger, KEY, memory_of(0, 0, "3"), 0, 0), "INVALID"); /* same card, other blobs */
  SAYS("devSubscribe");
  IS(end_of(publish(stranger, KEY, memory_of(2, 1, "3"))), "INVALID"); /* another client's, other blobs */
  SAYS("another client's");
  IS(end_of(subscribe(stranger, KEY, memory_of(0, 0, "3"), 0)), "INVALID"); /* same card, other blobs */
  SAYS("device 0");
  EXPECT(hbmesh_future_cancel(sent) == HBMESH_OK);
  IS(end_of(sent), "RPC_CANCELLED");
  IS(dev_set(first(), key_with("-cache"), memory(0, 4)), "OK");
  IS(end_of(subscribe(stranger, key_with("-cache"), memory_of(0, 0, "3"), 0)), "INVALID");
  SAYS("devMGet");
  IS(dev_get(stranger, key_with("-cache"), memory_of(0, 0, "3"), 0, 0), "INVALID");
  SAYS("device 0");
  IS(dev_set(stranger, key_with("-cache"), memory_of(0, 1, "3")), "INVALID");
  SAYS("another client's");
  IS(end_of(publish(stranger, key_with("-cache"), memory_of(0, 1, "3"))), "INVALID");
  SAYS("devMSet");
}

static void tickets(void) {
  struct memory* targets[] = {memory(1, 0), memory(1, 0)};
  struct memory* other = memory_of(0, 1, "3");
  hbmesh_ticket* ticket = reserve(second(), 2, targets, 0);
  const char* right = hbmesh_ticket_text(ticket);
  char* wrong = (char*)text("%s", right);
  const char* secret = strrchr(wrong, '-');
  char* last = wrong + strlen(wrong) - 1;
  *last = *last == '0' ? '1' : '0';
  IS(push(first(), right, 0, memory(0, 1)), "OK");
  IS(push(first(), "no-ticket", 9, other), "!INVALID");
  SAYS("ticket");
  IS(push(first(), text("%.*s-999999%s", (int)strcspn(wrong, "-"), wrong, secret), 9, other), "!NOT_FOUND");
  IS(push(first(), wrong, 9, other), "!NOT_AUTHORIZED");
  IS(push(first(), right, 9, other), "!OUT_OF_RANGE");
  IS(push(first(), right, 0, other), "!KEY_ALREADY_EXISTS");
  IS(push(first(), right, 1, other), "!INVALID");
  EXPECT(hbmesh_ticket_wait_layer(ticket, 9, 1800001) == HBMESH_OUT_OF_RANGE);
  EXPECT(hbmesh_ticket_wait_layer(ticket, 0, 1800001) == HBMESH_INVALID);
}

static void too_large(void) {
  enum { kBlobs = 1400000 };
  const uint64_t pointer = memory_of(0, 1, "64")->pointers[0];
  uint64_t* numbers = scratch(2 * (size_t)kBlobs * sizeof(*numbers));
  struct memory blobs = {0, kBlobs, numbers, numbers + kBlobs, kBlobs};
  uint32_t i;
  for (i = 0; i < kBlobs; ++i) {
    blobs.pointers[i] = pointer;
    blobs.sizes[i] = 1;
  }
  IS(set(first(), "a b", &blobs), "!OUT_OF_RANGE");
  blobs.sizes[kBlobs - 1] = 0;
  IS(set(first(), "a b", &blobs), "!INVALID");
  SAYS("size 0");
}

static const struct suite_case cases[] = {
    {"NOT_READY before anything that is wrong with a call", not_ready},
    {"SHUTTING_DOWN before anything that is wrong with a call", shutting_down},
    {"options and times before the number of keys", options_first},
    {"the number of keys before devices and blobs", number_of_keys},
    {"the device before the blobs, and the blobs' sizes before their memory", device_then_blobs},
    {"the blobs' memory, the first one's first, before which keys are allowed", memory_then_keys},
    {"which keys are allowed, the first one's fault first, before keys that come twice", allowed_then_twice},
    {"what is wrong with the blobs before a call that is too large, and that before which keys are allowed", too_large},
    {"of a key: its family, then whose it is, then the card, then the blobs", family_first},
    {"of a push: ticket, secret, layer, pushed before, blobs; of a wait: layer, time", tickets},
};
GROUP(precedence_group, "precedence of errors", cases);
