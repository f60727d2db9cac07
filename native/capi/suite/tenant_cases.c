/* Tenants: the workers have a file with the tokens token-red, token-blue and token-default. */
#include <string.h>

#include "capi/suite/suite.h"

static hbmesh_client* of(const char* tenant, int worker) {
  hbmesh_client* client = client_with_token(worker, text("token-%s", tenant));
  EXPECT(client != NULL);
  return client;
}

static void host_keys(void) {
  hbmesh_client* red[] = {of("red", 0), of("red", 1)};
  hbmesh_client* blue[] = {of("blue", 0), of("blue", 1)};
  hbmesh_client* plain = of("default", 1);
  struct memory* target = memory(1, 0);
  int i;
  IS(set(red[0], KEY, memory(0, 1)), "OK");
  for (i = 0; i < 2; ++i) {
    IS(exist(blue[i], KEY), "NOT_FOUND");
    IS(meta(blue[i], KEY), "NOT_FOUND");
    IS(get(blue[i], KEY, memory(2, 0), 0), "NOT_FOUND");
    IS(delete_key(blue[i], KEY), "OK");
  }
  IS(exist(plain, KEY), "NOT_FOUND");
  IS(set(blue[1], KEY, memory_of(0, 2, "64")), "OK");
  IS(get(red[1], KEY, target, 0), "OK");
  EXPECT(holds(target, 1));
  target = memory_of(1, 0, "64");
  IS(get(blue[0], KEY, target, 0), "OK");
  EXPECT(holds(target, 2));
  IS(delete_key(blue[0], KEY), "OK(existed)");
  IS(exist(red[1], KEY), "OK");
  IS(delete_key(red[1], KEY), "OK(existed)");
}

static void device_keys(void) {
  hbmesh_client* red[] = {of("red", 0), of("red", 1)};
  hbmesh_client* blue = of("blue", 1);
  struct memory* target = memory(1, 0);
  hbmesh_future* sent = publish(red[0], KEY, memory(0, 3));
  hbmesh_future* sent_blue;
  IS(end_of(subscribe(blue, KEY, memory(2, 0), 50)), "FUTURE_TIMEOUT");
  sent_blue = publish(blue, KEY, memory(2, 4));
  IS(end_of(subscribe(red[1], KEY, target, 0)), "OK");
  EXPECT(holds(target, 3));
  IS(end_of(sent), "OK");
  IS(end_now(sent_blue), "FUTURE_TIMEOUT"); /* still nobody's but blue's */
  IS(dev_set(red[0], key_with("-cache"), memory(0, 5)), "OK");
  IS(dev_get(blue, key_with("-cache"), memory(1, 0), 0, 0), "NOT_FOUND");
  IS(dev_delete(blue, key_with("-cache")), "OK");
  IS(dev_local_delete(blue, key_with("-cache")), "OK");
  IS(dev_get(red[1], key_with("-cache"), target, 0, 0), "OK");
  EXPECT(holds(target, 5));
  IS(dev_delete(red[1], key_with("-cache")), "OK(existed)");
}

static void unknown_tokens(void) {
  const char* tokens[] = {NULL, "token-green", "token-re", "token-redd"};
  size_t i;
  for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); ++i) {
    EXPECT(client_with_token(1, tokens[i]) == NULL && init_status() == HBMESH_NOT_AUTHORIZED);
    EXPECT(strstr(init_message(), "token of a tenant") != NULL && strstr(init_message(), "token-") == NULL);
  }
}

static void names_in_messages(void) {
  hbmesh_client* red = of("red", 0);
  IS(get(red, KEY, memory(1, 0), 0), "NOT_FOUND");
  EXPECT(strstr(hbmesh_result_message(last_result(), 0), "\x1f") == NULL);
  IS(set(red, KEY, memory(0, 6)), "OK");
  IS(end_of(subscribe(red, KEY, memory(1, 0), 0)), "INVALID");
  SAYS(text("key \"%s\"", KEY));
  IS(explain(red, KEY), "OK");
  SAYS(text("\"%s\"", KEY));
  IS(set(red,
         "a\x1f"
         "b",
         memory(0, 6)),
     "!INVALID");
  IS(delete_key(red, KEY), "OK(existed)");
}

static const struct suite_case cases[] = {
    {"the same key of two tenants is two host objects, at either worker", host_keys},
    {"published and cached keys of a tenant are not there for another", device_keys},
    {"no token, or one that nobody has: NOT_AUTHORIZED, and no message has the token", unknown_tokens},
    {"messages name keys as their tenant wrote them", names_in_messages},
};
GROUP(tenant_group, "tenants", cases);
