/* Layers by ticket: in any order, and with wrong input. */
#include <string.h>

#include "capi/suite/suite.h"

static void pushed_in(const uint32_t* order) {
  struct memory* targets[] = {memory(1, 0), memory(1, 0), memory(1, 0), memory(1, 0)};
  struct memory* source = memory(0, 0);
  hbmesh_ticket* ticket = reserve(second(), 4, targets, 0);
  uint32_t i;
  EXPECT(hbmesh_ticket_layer_count(ticket) == 4);
  for (i = 0; i < 4; ++i) {
    hbmesh_future** layer = future_place();
    fill(source, 60 + order[i]);
    IS(push(first(), hbmesh_ticket_text(ticket), order[i], source), "OK");
    EXPECT(hbmesh_ticket_layer(ticket, order[i], layer) == HBMESH_OK);
    IS(end_of(*layer), "OK");
    EXPECT(bytes_of(0) == DEFAULT_BYTES);
    EXPECT(holds(targets[order[i]], 60 + order[i]));
  }
  EXPECT(hbmesh_ticket_wait_all(ticket, 30000) == HBMESH_OK);
  for (i = 0; i < 4; ++i) EXPECT(holds(targets[i], 60 + i));
}

static void in_order(void) {
  const uint32_t order[] = {0, 1, 2, 3};
  pushed_in(order);
}

static void out_of_order(void) {
  const uint32_t order[] = {2, 0, 3, 1};
  pushed_in(order);
}

static void all_at_once(void) {
  struct memory* targets[] = {memory(1, 0), memory(1, 0), memory(1, 0), memory(1, 0)};
  hbmesh_future** pushes[4];
  hbmesh_future** awaited[4];
  hbmesh_ticket* ticket = reserve(second(), 4, targets, 0);
  uint32_t i;
  EXPECT(hbmesh_ticket_wait_layer(ticket, 0, 0) == HBMESH_FUTURE_TIMEOUT);
  for (i = 0; i < 4; ++i) {
    struct memory* source[] = {memory(0, 70 + i)};
    awaited[i] = future_place();
    pushes[i] = future_place();
    EXPECT(hbmesh_ticket_layer(ticket, i, awaited[i]) == HBMESH_OK);
    EXPECT(hbmesh_push_layer_async(first(), hbmesh_ticket_text(ticket), i, layers_of(1, source), pushes[i]) ==
           HBMESH_OK);
  }
  for (i = 0; i < 4; ++i) {
    IS(end_of(*awaited[i]), "OK");
    EXPECT(holds(targets[i], 70 + i));
    IS(end_of(*pushes[i]), "OK");
  }
}

static void wrong_layers(void) {
  struct memory* targets[] = {memory(1, 0), memory(1, 0)};
  hbmesh_ticket* ticket = reserve(second(), 2, targets, 0);
  const char* name = hbmesh_ticket_text(ticket);
  IS(push(first(), name, 0, memory(0, 80)), "OK");
  IS(push(first(), name, 0, memory(0, 81)), "!KEY_ALREADY_EXISTS");
  IS(push(first(), name, 2, memory(0, 82)), "!OUT_OF_RANGE");
  IS(push(first(), name, 1, memory_of(0, 83, "10 20")), "!INVALID");
  SAYS("10, 20");
  SAYS("73728");
  EXPECT(hbmesh_ticket_wait_layer(ticket, 2, 0) == HBMESH_OUT_OF_RANGE);
  IS(push(first(), name, 1, memory(0, 84)), "OK");
  EXPECT(hbmesh_ticket_wait_all(ticket, 30000) == HBMESH_OK);
  EXPECT(holds(targets[0], 80) && holds(targets[1], 84));
}

static void wrong_tickets(void) {
  struct memory* target[] = {memory(1, 0)};
  struct memory* source = memory(0, 85);
  hbmesh_ticket* ticket = reserve(second(), 1, target, 0);
  char* wrong = (char*)text("%s", hbmesh_ticket_text(ticket));
  const char* secret = strrchr(wrong, '-');
  char* last = wrong + strlen(wrong) - 1;
  IS(push(first(), "no ticket", 0, source), "!INVALID");
  *last = *last == '0' ? '1' : '0';
  IS(push(first(), wrong, 0, source), "!NOT_AUTHORIZED");
  EXPECT(strstr(hbmesh_last_message(), secret + 1) == NULL);
  IS(push(first(), text("%.*s-999999%s", (int)strcspn(wrong, "-"), wrong, secret), 0, source), "!NOT_FOUND");
  EXPECT(hbmesh_ticket_cancel(ticket) == HBMESH_OK);
  EXPECT(hbmesh_ticket_wait_layer(ticket, 0, 30000) == HBMESH_RPC_CANCELLED);
  UNTIL(strcmp(push(first(), hbmesh_ticket_text(ticket), 0, memory_of(0, 1, "3")), "!NOT_FOUND") == 0);
}

static void expired(void) {
  struct memory* targets[] = {memory(1, 0), memory(1, 0)};
  hbmesh_ticket* ticket = reserve(second(), 2, targets, 20);
  EXPECT(hbmesh_ticket_wait_layer(ticket, 1, 30000) == HBMESH_FUTURE_TIMEOUT);
  EXPECT(hbmesh_ticket_wait_all(ticket, 30000) == HBMESH_FUTURE_TIMEOUT);
  IS(push(first(), hbmesh_ticket_text(ticket), 0, memory(0, 86)), "!NOT_FOUND");
}

static void wrong_life(void) {
  struct memory* target[] = {memory(1, 0)};
  hbmesh_ticket* ticket = NULL;
  EXPECT(hbmesh_reserve_layers(second(), layers_of(1, target), 1800001, &ticket) == HBMESH_INVALID && ticket == NULL);
  SAYS("1800001");
}

static const struct suite_case cases[] = {
    {"in order: each layer's bytes are there when it resolves", in_order},
    {"out of order: each layer's bytes are there when it resolves", out_of_order},
    {"pushes while a layer is awaited, all at once", all_at_once},
    {"twice: KEY_ALREADY_EXISTS; out of range: OUT_OF_RANGE; other blobs: INVALID naming both", wrong_layers},
    {"no ticket: INVALID; wrong secret: NOT_AUTHORIZED; unknown or ended: NOT_FOUND", wrong_tickets},
    {"expired: the layers end with FUTURE_TIMEOUT, and pushes get NOT_FOUND", expired},
    {"a ticket's life is at most 1,800 s: INVALID above", wrong_life},
};
GROUP(layer_group, "layers", cases);
