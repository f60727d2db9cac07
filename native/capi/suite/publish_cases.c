/* Publish and subscribe; the three families; processes at either end that are killed. */
#include <string.h>

#include "capi/suite/suite.h"

static void publish_first(void) {
  struct memory* target = memory(1, 0);
  hbmesh_path path = HBMESH_INIT(hbmesh_path);
  hbmesh_future* sent = publish(first(), KEY, memory(0, 1));
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  EXPECT(bytes_of(0) == DEFAULT_BYTES);
  EXPECT(hbmesh_result_path_count(last_result()) == 1);
  EXPECT(hbmesh_result_path(last_result(), 0, &path) == HBMESH_OK);
  IS(hbmesh_transport_name(path.transport), place.transport);
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 1));
}

static void subscribe_first(void) {
  struct memory* target = memory(1, 0);
  hbmesh_future* waiting = subscribe(second(), KEY, target, 0);
  hbmesh_future* sent;
  IS(end_now(waiting), "FUTURE_TIMEOUT");
  EXPECT(hbmesh_future_done(waiting) == 0);
  sent = publish(first(), KEY, memory(0, 2));
  IS(end_of(waiting), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 2));
}

static void retry(void) {
  struct memory* source = memory(0, 3);
  struct memory* target = memory(1, 0);
  hbmesh_future* sent[] = {publish(first(), KEY, source), publish(first(), KEY, source)};
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(ends_of(2, sent), "OK OK");
  EXPECT(holds(target, 3));
}

static void others_key(void) {
  struct memory* target = memory(1, 0);
  hbmesh_future* sent = publish(first(), KEY, memory(0, 4));
  int worker;
  IS(end_of(publish(first(), KEY, memory(0, 5))), "INVALID");
  for (worker = 0; worker < 2; ++worker) {
    IS(end_of(publish(new_client(worker), KEY, memory(2, 6))), "INVALID");
    SAYS("another client's");
  }
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 4));
}

static void same_card(void) {
  struct memory* target = memory(1, 0);
  hbmesh_client* near = new_client(0);
  hbmesh_future* sent = publish(first(), KEY, memory(0, 7));
  IS(end_of(subscribe(near, KEY, memory(0, 0), 0)), "INVALID");
  SAYS("device 0");
  IS(end_of(subscribe(near, KEY, target, 0)), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 7));
}

static void other_blobs(void) {
  struct memory* target = memory_of(1, 0, "64 128");
  hbmesh_future* sent = publish(first(), KEY, memory_of(0, 8, "64 128"));
  IS(end_of(subscribe(second(), KEY, memory_of(1, 0, "64 129"), 0)), "INVALID");
  SAYS("129");
  SAYS("128");
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 8));
}

static void gone_after(void) {
  struct memory* target = memory(3, 0);
  hbmesh_future* sent = publish(first(), KEY, memory(0, 9));
  hbmesh_future* again;
  IS(end_of(subscribe(second(), KEY, memory(1, 0), 0)), "OK");
  IS(end_of(sent), "OK");
  IS(end_of(subscribe(second(), KEY, memory(1, 0), 50)), "FUTURE_TIMEOUT");
  again = publish(first(), KEY, memory(2, 10));
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(again), "OK");
  EXPECT(holds(target, 10));
}

static void two_subscribers(void) {
  struct memory* targets[] = {memory(1, 0), memory(2, 0)};
  hbmesh_future* waiting[] = {subscribe(second(), KEY, targets[0], 0), subscribe(second(), KEY, targets[1], 0)};
  IS(end_of(publish(first(), KEY, memory(0, 11))), "OK");
  UNTIL(hbmesh_future_done(waiting[0]) + hbmesh_future_done(waiting[1]) > 0);
  EXPECT(hbmesh_future_done(waiting[0]) + hbmesh_future_done(waiting[1]) == 1);
  IS(end_of(publish(first(), KEY, memory(3, 12))), "OK");
  IS(ends_of(2, waiting), "OK OK");
  EXPECT(holds(targets[0], 11) ? holds(targets[1], 12) : holds(targets[0], 12) && holds(targets[1], 11));
}

static void many(void) {
  enum { kCount = 200, kTaken = 17 };
  const char* const* keys = many_keys(kCount);
  struct memory* sources[kCount];
  struct memory* targets[kCount];
  hbmesh_future* foreign = publish(new_client(0), keys[kTaken], memory_of(4, 5000, "512 117"));
  hbmesh_future** sent;
  hbmesh_future** received;
  int good = 1;
  uint32_t i;
  for (i = 0; i < kCount; ++i) {
    sources[i] = memory_of(0, 100 + i, text("512 %u", 100 + i));
    targets[i] = memory_of(1, 0, text("512 %u", 100 + i));
  }
  sent = publish_all(first(), batch_of(kCount, keys, sources));
  received = subscribe_all(second(), batch_of(kCount, keys, targets), 0);
  IS(ends_of(kTaken, sent), "17 OK");
  IS(end_of(sent[kTaken]), "INVALID");
  IS(ends_of(kCount - kTaken - 1, sent + kTaken + 1), "182 OK");
  IS(ends_of(kCount, received), "200 OK");
  IS(end_of(foreign), "OK");
  for (i = 0; i < kCount; ++i) good = good && holds(targets[i], i == kTaken ? 5000 : 100 + i);
  EXPECT(good);
}

static void cancel(void) {
  const char* keys[] = {key_with("-a"), key_with("-b")};
  struct memory* sources[] = {memory(0, 20), memory(0, 21)};
  struct memory* target = memory(1, 0);
  hbmesh_future** sent = publish_all(first(), batch_of(2, keys, sources));
  hbmesh_future* nobody;
  EXPECT(hbmesh_future_cancel(sent[0]) == HBMESH_OK);
  IS(end_of(sent[0]), "RPC_CANCELLED");
  IS(end_of(subscribe(second(), keys[0], memory(1, 0), 50)), "FUTURE_TIMEOUT");
  nobody = subscribe(second(), key_with("-c"), memory(1, 0), 0);
  EXPECT(hbmesh_future_cancel(nobody) == HBMESH_OK);
  IS(end_of(nobody), "RPC_CANCELLED");
  IS(end_of(subscribe(second(), keys[1], target, 0)), "OK");
  IS(end_of(sent[1]), "OK");
  EXPECT(holds(target, 21));
}

static void cancel_all(void) {
  const char* keys[] = {key_with("-a"), key_with("-b")};
  struct memory* targets[] = {memory(1, 0), memory(1, 0)};
  hbmesh_future** waiting = subscribe_all(second(), batch_of(2, keys, targets), 0);
  int i;
  for (i = 0; i < 2; ++i) EXPECT(hbmesh_future_cancel(waiting[i]) == HBMESH_OK);
  IS(ends_of(2, waiting), "RPC_CANCELLED RPC_CANCELLED");
}

static void nobody_publishes(void) {
  IS(end_of(subscribe(second(), KEY, memory(1, 0), 20)), "FUTURE_TIMEOUT");
  SAYS(KEY);
}

static void future_times(void) {
  hbmesh_future* waiting = subscribe(second(), KEY, memory(1, 0), 1800000);
  EXPECT(hbmesh_future_get(waiting, 1800001, NULL) == HBMESH_INVALID);
  SAYS("1800001");
  IS(end_now(waiting), "FUTURE_TIMEOUT");
  EXPECT(hbmesh_future_cancel(waiting) == HBMESH_OK);
  IS(end_of(waiting), "RPC_CANCELLED");
  IS(end_of(waiting), "RPC_CANCELLED");
  EXPECT(hbmesh_future_get(waiting, 1800001, NULL) == HBMESH_INVALID); /* even now */
  IS(end_of(subscribe(second(), KEY, memory(1, 0), 1800001)), "!INVALID");
}

static void closing(void) {
  struct memory* other = memory(2, 24);
  struct memory* target = memory(1, 0);
  hbmesh_client* leaving = new_client(0);
  hbmesh_future* sent = publish(leaving, KEY, memory(0, 23));
  hbmesh_future* again = NULL;
  hbmesh_client_close(leaving);
  IS(end_of(sent), "SHUTTING_DOWN");
  UNTIL(strcmp(end_now(again = publish(first(), KEY, other)), "FUTURE_TIMEOUT") == 0);
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(again), "OK");
  EXPECT(holds(target, 24));
}

static const struct suite_case publish_list[] = {
    {"publish, then subscribe: the bytes arrive, both futures end, the path is named", publish_first},
    {"subscribe may come first", subscribe_first},
    {"publishing the same memory again is a retry: both futures end with the transfer", retry},
    {"other memory, or another client's key: INVALID; what was published stands", others_key},
    {"the same card at both ends: INVALID, naming it; another card gets it", same_card},
    {"other blobs than the publisher's: INVALID, naming both; the object is free for the next", other_blobs},
    {"the object is gone after it was received, and the key is free for other memory", gone_after},
    {"of two subscribers one gets it; the other waits for the next publish", two_subscribers},
    {"many keys in one call arrive each in its place; a key that can't be published holds up no other", many},
    {"cancel ends one key alone, at either end", cancel},
    {"cancelling a whole subscription ends each of its keys", cancel_all},
    {"nobody publishes in time: FUTURE_TIMEOUT with the key", nobody_publishes},
    {"a future's wait is from 0 to 1,800,000 ms, and it may be asked again", future_times},
    {"closing the client ends its futures with SHUTTING_DOWN, and its offers are gone", closing},
};
GROUP(publish_group, "publish and subscribe", publish_list);

/* ---- Families ---------------------------------------------------------------------------------------------------- */

static void published_key(void) {
  hbmesh_future* sent = publish(first(), KEY, memory(0, 30));
  int worker;
  for (worker = 0; worker < 2; ++worker) {
    hbmesh_client* client = worker == 0 ? first() : second();
    IS(get(client, KEY, memory(1, 0), 0), "INVALID");
    SAYS("devSubscribe");
    IS(dev_get(client, KEY, memory(1, 0), 0, 0), "INVALID");
    SAYS("devSubscribe");
    IS(set(client, KEY, memory(1, 1)), "INVALID");
    IS(dev_set(client, KEY, memory(1, 1)), "INVALID");
    IS(delete_key(client, KEY), "INVALID");
    IS(dev_delete(client, KEY), "INVALID");
  }
  IS(end_of(subscribe(second(), KEY, memory(1, 0), 0)), "OK");
  IS(end_of(sent), "OK");
}

static void set_and_cached_keys(void) {
  const char* keys[] = {key_with("-host"), key_with("-cache")};
  const char* remedies[] = {"mGetH2D", "devMGet"};
  int i;
  IS(set(first(), keys[0], memory(0, 31)), "OK");
  IS(dev_set(first(), keys[1], memory(0, 32)), "OK");
  for (i = 0; i < 4; ++i) {
    hbmesh_client* client = i / 2 == 0 ? first() : second();
    IS(end_of(subscribe(client, keys[i % 2], memory(1, 0), 0)), "INVALID");
    SAYS(remedies[i % 2]);
    IS(end_of(publish(client, keys[i % 2], memory(2, 1))), "INVALID");
  }
  IS(dev_get(second(), keys[0], memory(1, 0), 0, 0), "INVALID");
  IS(get(second(), keys[1], memory(1, 0), 0), "INVALID");
  IS(dev_delete(second(), keys[0]), "INVALID");
  IS(delete_key(second(), keys[1]), "INVALID");
  IS(delete_key(second(), keys[0]), "OK(existed)");
  IS(dev_delete(second(), keys[1]), "OK(existed)");
}

static const struct suite_case family_list[] = {
    {"a published key is for devSubscribe only", published_key},
    {"a set key and a cached key are for no subscriber, and not for each other's calls", set_and_cached_keys},
};
GROUP(family_group, "families", family_list);

/* ---- Killed processes -------------------------------------------------------------------------------------------- */

static void publisher_killed(void) {
  struct memory* source = memory(2, 40);
  struct memory* target = memory(1, 0);
  struct child* child = start_child(0, "publish", KEY);
  hbmesh_future* sent = NULL;
  IS(child_says(child), "FUTURE_TIMEOUT");
  kill_child(child);
  UNTIL(strcmp(end_now(sent = publish(first(), KEY, source)), "FUTURE_TIMEOUT") == 0);
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 40));
}

static void subscriber_killed(void) {
  struct memory* target = memory(2, 0);
  struct child* child = start_child(1, "subscribe", KEY);
  hbmesh_future* sent;
  IS(child_says(child), "FUTURE_TIMEOUT");
  kill_child(child);
  sent = publish(first(), KEY, memory(0, 41));
  IS(end_of(subscribe(second(), KEY, target, 0)), "OK");
  IS(end_of(sent), "OK");
  EXPECT(holds(target, 41));
}

static void setter_killed(void) {
  struct memory* target = memory_of(1, 0, CHILD_SIZES);
  struct child* child = start_child(0, "devset", KEY);
  IS(child_says(child), "OK");
  IS(dev_get(second(), KEY, target, 0, 0), "OK");
  EXPECT(holds(target, CHILD_SEED));
  kill_child(child);
  UNTIL(strcmp(dev_get(second(), KEY, target, 0, 0), "NOT_FOUND") == 0);
}

static void decode_side_killed(void) {
  struct memory* source = memory_of(0, 42, CHILD_SIZES);
  struct child* child = start_child(1, "reserve", KEY);
  const char* ticket = child_says(child);
  const char* said = "";
  uint32_t layer = 0;
  IS(push(first(), ticket, layer, source), "OK");
  kill_child(child);
  UNTIL(strcmp(said = push(first(), ticket, ++layer, source), "OK") != 0);
  EXPECT(strcmp(said, "!RPC_PEER_DEAD") == 0 || strcmp(said, "!NOT_FOUND") == 0);
}

static const struct suite_case killed_list[] = {
    {"the publisher: its key is gone, and another may publish it to whoever waits", publisher_killed},
    {"the subscriber that waits: what is published then goes to another", subscriber_killed},
    {"the setter of a cached object: it is not found any more", setter_killed},
    {"the decode side: pushers are told", decode_side_killed},
};
GROUP(killed_group, "a client process is killed", killed_list);
