/* The device cache: many readers, retries, deletes during use, local deletes, waiting. */
#include <string.h>

#include "capi/suite/suite.h"

static void many_readers(void) {
  enum { kReaders = 7 };
  struct memory* source = memory(0, 50);
  struct memory* targets[kReaders];
  hbmesh_future** reading[kReaders];
  uint32_t i;
  IS(dev_set(first(), KEY, source), "OK");
  for (i = 0; i < kReaders; ++i) {
    targets[i] = memory(i + 1, 0);
    reading[i] = future_place();
    EXPECT(hbmesh_dev_mget_async(new_client(1), one(KEY, targets[i]), 30000, 1, reading[i]) == HBMESH_OK);
  }
  for (i = 0; i < kReaders; ++i) {
    IS(end_of(*reading[i]), "OK");
    EXPECT(hbmesh_result_failed_count(last_result()) == 0);
    EXPECT(holds(targets[i], 50));
  }
  IS(dev_delete(second(), KEY), "OK(existed)");
  IS(dev_get(second(), KEY, memory(2, 0), 0, 0), "NOT_FOUND");
  EXPECT(holds(source, 50));
  for (i = 0; i < kReaders; ++i) EXPECT(holds(targets[i], 50));
}

static void again(void) {
  struct memory* source = memory(0, 51);
  struct memory* target = memory(1, 0);
  IS(dev_set(first(), KEY, source), "OK");
  IS(dev_set(first(), KEY, source), "OK(existed)");
  IS(dev_set(first(), KEY, memory(0, 52)), "INVALID");
  IS(dev_set(new_client(1), KEY, memory(1, 53)), "INVALID");
  IS(dev_get(new_client(0), KEY, memory(0, 0), 0, 0), "INVALID");
  SAYS("device 0");
  IS(dev_get(second(), KEY, memory_of(1, 0, "1 2"), 0, 0), "INVALID");
  IS(dev_get(second(), KEY, target, 0, 0), "OK");
  EXPECT(holds(target, 51));
  IS(dev_delete(first(), KEY), "OK(existed)");
}

static void existence(void) {
  struct memory* source = memory(0, 58);
  struct memory* target = memory(1, 0);
  hbmesh_set_options options = HBMESH_INIT(hbmesh_set_options);
  hbmesh_result* result = NULL;
  hbmesh_status status;
  options.existence = HBMESH_EXISTENCE_REPLACE;
  status = hbmesh_dev_mset(first(), one(KEY, source), &options, &result);
  IS(answer(status, result), "!INVALID");
  SAYS("devDelete the key first");
  options.existence = HBMESH_EXISTENCE_FAIL;
  status = hbmesh_dev_mset(first(), one(KEY, source), &options, &result);
  IS(answer(status, result), "OK");
  status = hbmesh_dev_mset(first(), one(KEY, source), &options, &result);
  IS(answer(status, result), "KEY_ALREADY_EXISTS");
  IS(dev_get(second(), KEY, target, 0, 0), "OK");
  EXPECT(holds(target, 58));
  IS(dev_delete(first(), KEY), "OK(existed)");
}

static void delete_during_use(void) {
  struct memory* source = memory_of(0, 54, "1048576 1048576 1048576 1048576 1048576 1048576 1048576 1048576");
  hbmesh_future** reading[3];
  struct memory* targets[3];
  uint32_t i;
  IS(dev_set(first(), KEY, source), "OK");
  for (i = 0; i < 3; ++i) {
    targets[i] = memory_of(i + 1, 0, "1048576 1048576 1048576 1048576 1048576 1048576 1048576 1048576");
    reading[i] = future_place();
    EXPECT(hbmesh_dev_mget_async(second(), one(KEY, targets[i]), 0, 0, reading[i]) == HBMESH_OK);
  }
  IS(dev_delete(first(), KEY), "OK(existed)");
  for (i = 0; i < 3; ++i) {
    const char* ended = end_of(*reading[i]);
    const hbmesh_status status = hbmesh_result_status(last_result(), 0);
    IS(ended, "OK");
    EXPECT(status == HBMESH_OK || status == HBMESH_NOT_FOUND || status == HBMESH_TRY_AGAIN);
    if (status == HBMESH_OK) EXPECT(holds(targets[i], 54));
  }
  IS(dev_get(second(), KEY, targets[0], 0, 0), "NOT_FOUND");
  EXPECT(holds(source, 54));
}

static void local_delete_of_a_replica(void) {
  struct memory* replica = memory(1, 0);
  struct memory* target = memory(2, 0);
  IS(dev_set(first(), KEY, memory(0, 55)), "OK");
  IS(dev_get(second(), KEY, replica, 0, 1), "OK");
  IS(dev_local_delete(first(), KEY), "OK(existed)");
  IS(dev_get(second(), KEY, target, 0, 0), "OK");
  EXPECT(holds(target, 55));
  IS(dev_local_delete(second(), KEY), "OK(existed)");
  UNTIL(strcmp(dev_get(second(), KEY, memory(3, 0), 0, 0), "NOT_FOUND") == 0);
  EXPECT(holds(replica, 55));
}

static void local_delete_of_strangers(void) {
  struct memory* source = memory(0, 56);
  IS(dev_set(first(), KEY, source), "OK");
  IS(dev_local_delete(second(), KEY), "OK");
  IS(dev_get(second(), KEY, memory(1, 0), 0, 0), "OK");
  IS(dev_local_delete(first(), KEY), "OK(existed)");
  UNTIL(strcmp(dev_get(second(), KEY, memory(3, 0), 0, 0), "NOT_FOUND") == 0);
  EXPECT(holds(source, 56));
}

static void waits(void) {
  struct memory* target = memory(1, 0);
  hbmesh_future** reading = future_place();
  EXPECT(hbmesh_dev_mget_async(second(), one(KEY, target), 30000, 0, reading) == HBMESH_OK);
  IS(dev_set(first(), KEY, memory(0, 57)), "OK");
  IS(end_of(*reading), "OK");
  EXPECT(hbmesh_result_failed_count(last_result()) == 0 && holds(target, 57));
  IS(dev_delete(first(), KEY), "OK(existed)");
  IS(dev_delete(first(), KEY), "OK");
}

static void cancelled(void) {
  hbmesh_future** reading = future_place();
  EXPECT(hbmesh_dev_mget_async(second(), one(KEY, memory(1, 0)), 60000, 0, reading) == HBMESH_OK);
  IS(end_now(*reading), "FUTURE_TIMEOUT");
  EXPECT(hbmesh_future_cancel(*reading) == HBMESH_OK);
  IS(end_of_call(*reading), "RPC_CANCELLED");
}

static const struct suite_case cases[] = {
    {"many readers at once, all of them further sources, all bytes right", many_readers},
    {"the same again is OK and existed; other memory or client, the same card, other blobs: INVALID", again},
    {"existence fail: the second devMSet gets KEY_ALREADY_EXISTS; replace: INVALID", existence},
    {"devDelete during use: who reads ends whole or is told; then nobody finds it", delete_during_use},
    {"devLocalDelete takes back only what this client offers: who shared, also on the setter's worker, serves on",
     local_delete_of_a_replica},
    {"devLocalDelete by who offers nothing changes nothing; by the only holder it ends the object",
     local_delete_of_strangers},
    {"devMGet waits for what is set meanwhile", waits},
    {"devMGet that waits ends when it is cancelled", cancelled},
};
GROUP(device_cache_group, "device cache", cases);
