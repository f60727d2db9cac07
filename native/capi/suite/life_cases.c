/* Life and death of host objects: time to live, pins, eviction, checksums. The workers have 16 MiB each. */
#include "capi/suite/suite.h"

#define MIB "1048576"
#define LARGE "5242880"
#define HUGE_BLOB "6291456"

static const char* set_pinned(const char* key, const struct memory* from, uint32_t pin) {
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  options.pin = pin;
  return set_as(first(), key, from, &options);
}

static void expires(void) {
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  options.ttl_ms = 50;
  IS(set_as(first(), KEY, memory_of(0, 1, "64"), &options), "OK");
  options.ttl_ms = 600000;
  IS(set_as(first(), key_with("-stays"), memory_of(0, 2, "64"), &options), "OK");
  UNTIL(exist(second(), KEY)[0] == 'N');
  IS(get(second(), KEY, memory_of(1, 0, "64"), 0), "NOT_FOUND");
  IS(exist(second(), key_with("-stays")), "OK");
  IS(explain(second(), KEY), "OK");
  IS(delete_key(first(), key_with("-stays")), "OK(existed)");
}

static void pinned_stay(void) {
  struct memory* large[] = {memory_of(0, 3, HUGE_BLOB), memory_of(0, 4, HUGE_BLOB)};
  struct memory* kept = memory_of(1, 0, HUGE_BLOB);
  IS(set_pinned(key_with("-a"), large[0], HBMESH_PIN_HARD), "OK");
  IS(set_pinned(key_with("-b"), large[1], HBMESH_PIN_HARD), "OK");
  IS(set_pinned(key_with("-c"), memory_of(0, 5, HUGE_BLOB), HBMESH_PIN_NONE), "OUT_OF_MEMORY");
  SAYS("pinned");
  IS(exist(second(), key_with("-c")), "NOT_FOUND");
  IS(get(second(), key_with("-b"), kept, 0), "OK");
  EXPECT(holds(kept, 4));
  IS(delete_key(second(), key_with("-a")), "OK(existed)");
  IS(set_pinned(key_with("-c"), memory_of(0, 5, HUGE_BLOB), HBMESH_PIN_NONE), "OK");
  IS(delete_key(first(), key_with("-b")), "OK(existed)");
  IS(delete_key(first(), key_with("-c")), "OK(existed)");
}

static void full_and_more(void) {
  const char* here = key_with("-here");
  hbmesh_set_options fail = HBMESH_INIT(hbmesh_set_options);
  struct memory* huge = memory_of(0, 10, HUGE_BLOB);
  hbmesh_future* sent = publish(second(), KEY, memory(1, 11));
  fail.existence = HBMESH_EXISTENCE_FAIL;
  IS(set_pinned(here, huge, HBMESH_PIN_HARD), "OK");
  IS(set_pinned(key_with("-b"), huge, HBMESH_PIN_HARD), "OK");
  IS(set_as(first(), here, huge, &fail), "KEY_ALREADY_EXISTS");
  IS(set(first(), KEY, huge), "OUT_OF_MEMORY"); /* and not INVALID, which it is too */
  IS(delete_key(first(), here), "OK(existed)");
  IS(set(first(), KEY, huge), "INVALID");
  SAYS("devPublish");
  IS(delete_key(first(), key_with("-b")), "OK(existed)");
  EXPECT(hbmesh_future_cancel(sent) == HBMESH_OK);
  IS(end_of(sent), "RPC_CANCELLED");
}

static void evicted(void) {
  struct memory* target = memory_of(1, 0, LARGE);
  IS(set_pinned(key_with("-soft"), memory_of(0, 6, LARGE), HBMESH_PIN_SOFT), "OK");
  IS(set(first(), key_with("-loose"), memory_of(0, 7, LARGE)), "OK");
  IS(get(second(), key_with("-loose"), target, 0), "OK"); /* read last, yet it goes first */
  IS(set(first(), key_with("-new"), memory_of(0, 8, LARGE)), "OK");
  UNTIL(exist(second(), key_with("-loose"))[0] == 'N');
  IS(get(second(), key_with("-soft"), target, 0), "OK");
  EXPECT(holds(target, 6));
  IS(explain(second(), key_with("-loose")), "OK");
  SAYS("evicted");
  IS(delete_key(first(), key_with("-soft")), "OK(existed)");
  IS(delete_key(first(), key_with("-new")), "OK(existed)");
}

static void checksum(void) {
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  struct memory* targets[] = {memory_of(1, 0, MIB), memory_of(2, 0, MIB)};
  options.checksum = 1;
  IS(set_as(first(), KEY, memory_of(0, 9, MIB), &options), "OK");
  IS(get(first(), KEY, targets[0], 0), "OK");
  IS(get(second(), KEY, targets[1], 0), "OK");
  EXPECT(holds(targets[0], 9) && holds(targets[1], 9));
  IS(delete_key(first(), KEY), "OK(existed)");
}

static const struct suite_case cases[] = {
    {"an object is gone when its time is over, and no other", expires},
    {"full of pinned objects: OUT_OF_MEMORY, what is there stays, a delete makes room", pinned_stay},
    {"full: KEY_ALREADY_EXISTS before OUT_OF_MEMORY, and that before another family", full_and_more},
    {"what is not pinned makes room before what is pinned softly, and is then a miss everywhere", evicted},
    {"an object with a checksum is read back, locally and remotely", checksum},
};
GROUP(life_group, "life of host objects", cases);
