/* Limits: below, at and above the numbers of keys, blobs and calls. */
#include <stdio.h>
#include <string.h>

#include "capi/suite/every_call.h"

#define MANY 10000u
#define UNDER_WAY 1024

static struct memory** same_piece(uint32_t count) {
  struct memory** list = scratch(count * sizeof(*list));
  struct memory* blob = memory_of(0, 1, "64");
  uint32_t i;
  for (i = 0; i < count; ++i) list[i] = blob;
  return list;
}

static void one_too_many(void) {
  const char* const* keys = many_keys(100001);
  struct memory** blobs = same_piece(100001);
  size_t i;
  for (i = 0; i < every_call_count; ++i) {
    const struct every_call* each = &every_call[i];
    const hbmesh_batch* batch =
        batch_of(each->keys_max + 1, each->has_keys ? keys : NULL, each->has_blobs ? blobs : NULL);
    IS(text("%s %s", each->name, hbmesh_status_name(each->call(first(), batch))), text("%s INVALID", each->name));
    SAYS(text("%u", each->keys_max + 1));
    SAYS(text("%u", each->keys_max));
  }
  IS(exist(second(), keys[0]), "NOT_FOUND");
  IS(dev_get(second(), keys[0], memory_of(1, 0, "64"), 0, 0), "NOT_FOUND");
}

static int all_hold(struct memory* const* list, uint32_t seed) {
  uint32_t i;
  for (i = 0; i < MANY; ++i) {
    if (!holds(list[i], seed + i)) return 0;
  }
  return 1;
}

static void host_objects(void) {
  const char* const* keys = many_keys(MANY);
  struct memory** targets = pieces(1, 0, MANY, 64);
  hbmesh_result* result = NULL;
  hbmesh_status status = hbmesh_set_d2h(first(), batch_of(MANY, keys, pieces(0, 1, MANY, 64)), NULL, &result);
  IS(answer(status, result), "10000 OK");
  status = hbmesh_get_h2d(second(), batch_of(MANY, keys, targets), 0, &result);
  IS(answer(status, result), "10000 OK");
  EXPECT(all_hold(targets, 1));
  status = hbmesh_delete(second(), batch_of(MANY, keys, NULL), &result);
  IS(answer(status, result), "10000 OK(existed)");
}

static void published(void) {
  const char* const* keys = many_keys(MANY);
  struct memory** targets = pieces(1, 0, MANY, 64);
  hbmesh_future** sent = publish_all(first(), batch_of(MANY, keys, pieces(0, 2, MANY, 64)));
  hbmesh_future** received = subscribe_all(second(), batch_of(MANY, keys, targets), 0);
  IS(ends_of(MANY, received), "10000 OK");
  IS(ends_of(MANY, sent), "10000 OK");
  EXPECT(all_hold(targets, 2));
}

static void cached(void) {
  const char* const* keys = many_keys(MANY);
  struct memory** targets = pieces(1, 0, MANY, 64);
  hbmesh_result* result = NULL;
  hbmesh_status status = hbmesh_dev_mset(first(), batch_of(MANY, keys, pieces(0, 3, MANY, 64)), NULL, &result);
  IS(answer(status, result), "10000 OK");
  status = hbmesh_dev_mget(second(), batch_of(MANY, keys, targets), 0, 0, &result);
  IS(answer(status, result), "10000 OK");
  EXPECT(all_hold(targets, 3));
  status = hbmesh_dev_local_delete(second(), batch_of(MANY, keys, NULL), &result);
  IS(answer(status, result), "10000 OK");
  status = hbmesh_dev_delete(second(), batch_of(MANY, keys, NULL), &result);
  IS(answer(status, result), "10000 OK(existed)");
}

static void layers(void) {
  struct memory** targets = pieces(1, 0, MANY, 64);
  hbmesh_ticket* ticket = reserve(second(), MANY, targets, 0);
  const char* name = hbmesh_ticket_text(ticket);
  EXPECT(hbmesh_ticket_layer_count(ticket) == MANY);
  IS(push(first(), name, MANY - 1, memory_of(0, 4, "64")), "OK");
  EXPECT(hbmesh_ticket_wait_layer(ticket, MANY - 1, 30000) == HBMESH_OK);
  EXPECT(holds(targets[MANY - 1], 4));
  IS(push(first(), name, MANY, memory_of(0, 4, "64")), "!OUT_OF_RANGE");
}

static void questions(void) {
  const char* const* keys = many_keys(100000);
  hbmesh_result* result = NULL;
  hbmesh_status status;
  IS(set(first(), keys[99999], memory_of(0, 5, "64 1")), "OK");
  status = hbmesh_exist(second(), batch_of(100000, keys, NULL), &result);
  IS(answer(status, result), "100000 NOT_FOUND OK");
  IS(hbmesh_status_name(hbmesh_result_status(last_result(), 99999)), "OK");
  status = hbmesh_get_meta_info(second(), batch_of(100000, keys, NULL), &result);
  IS(answer(status, result), "100000 NOT_FOUND OK");
  EXPECT(bytes_of(99999) == 65);
  EXPECT(blob_end_of(99998) == 0 && blob_end_of(99999) == 2);
}

/* A key of `count` blobs of 1 byte, all the same byte. */
static const char* set_of_blobs(const char* key, uint32_t count) {
  const struct memory* byte = memory_of(0, 6, "1");
  uint64_t* numbers = scratch(2 * (size_t)count * sizeof(*numbers));
  struct memory blobs = {0, count, numbers, numbers + count, count};
  uint32_t i;
  for (i = 0; i < count; ++i) {
    blobs.pointers[i] = byte->pointers[0];
    blobs.sizes[i] = 1;
  }
  return set(first(), key, &blobs);
}

static void much_metadata(void) {
  enum { kKeys = 4, kBlobs = 1100000 };
  const char* const* keys = many_keys(kKeys);
  hbmesh_result* result = NULL;
  hbmesh_status status;
  uint32_t blobs = 0;
  int worker;
  uint32_t i;
  for (i = 0; i < kKeys; ++i) IS(set_of_blobs(keys[i], kBlobs), "OK");
  for (worker = 0; worker < 2; ++worker) {
    status = hbmesh_get_meta_info(worker == 0 ? first() : second(), batch_of(kKeys, keys, NULL), &result);
    IS(answer(status, result), "OK OK OK OK");
    hbmesh_result_blob_bytes(last_result(), &blobs);
    EXPECT(blobs == kKeys * kBlobs);
    for (i = 0; i < kKeys; ++i) EXPECT(blob_end_of(i) == (i + 1) * kBlobs);
  }
  status = hbmesh_delete(first(), batch_of(kKeys, keys, NULL), &result);
  IS(answer(status, result), "OK(existed) OK(existed) OK(existed) OK(existed)");
}

static void too_large(void) {
  IS(set_of_blobs(KEY, 1400000), "!OUT_OF_RANGE");
  SAYS("fewer keys or blobs");
  IS(exist(first(), KEY), "NOT_FOUND");
}

static void under_way(void) {
  hbmesh_client* client = new_client(1);
  struct memory* blob = memory_of(1, 0, "64");
  hbmesh_future** waiting[UNDER_WAY];
  int i;
  for (i = 0; i < UNDER_WAY; ++i) {
    waiting[i] = future_place();
    EXPECT(hbmesh_get_h2d_async(client, one(KEY, blob), 60000, waiting[i]) == HBMESH_OK);
  }
  IS(exist(client, KEY), "!TRY_AGAIN");
  SAYS("1024 requests under way");
  IS(exist(client, "a b"), "!TRY_AGAIN"); /* comes before which keys are allowed */
  EXPECT(hbmesh_future_cancel(*waiting[7]) == HBMESH_OK);
  end_of(*waiting[7]);
  IS(exist(client, KEY), "NOT_FOUND");
  for (i = 0; i < UNDER_WAY; ++i) hbmesh_future_cancel(*waiting[i]);
}

static const struct suite_case cases[] = {
    {"one key too many: INVALID naming the limit, in every call, and nothing is done", one_too_many},
    {"10,000 keys are set, read and deleted in one call each", host_objects},
    {"10,000 keys are published and subscribed in one call each", published},
    {"10,000 keys are cached on devices, read and deleted in one call each", cached},
    {"10,000 layers are reserved in one call, and the last one is pushed", layers},
    {"100,000 keys are asked for in one call of exist, and of getMetaInfo", questions},
    {"metadata of more blobs than one answer carries comes whole, from either worker", much_metadata},
    {"a call larger than the queue: OUT_OF_RANGE, and nothing is done", too_large},
    {"1,024 calls of a client are under way; one more: TRY_AGAIN, until one has ended", under_way},
};
GROUP(limit_group, "limits", cases);
