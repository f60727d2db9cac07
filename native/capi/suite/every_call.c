#include "capi/suite/every_call.h"

#define MANY 100001u

static hbmesh_future* futures[MANY];

static hbmesh_status set_d2h(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_set_d2h(client, batch, NULL, NULL);
}
static hbmesh_status get_h2d(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_get_h2d(client, batch, 0, NULL);
}
static hbmesh_status dev_mset(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_dev_mset(client, batch, NULL, NULL);
}
static hbmesh_status dev_mget(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_dev_mget(client, batch, 0, 0, NULL);
}
static hbmesh_status dev_publish(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_dev_publish(client, batch, futures);
}
/* What the worker refuses about a whole subscription, its futures say. */
static hbmesh_status dev_subscribe(hbmesh_client* client, const hbmesh_batch* batch) {
  hbmesh_status status = hbmesh_dev_subscribe(client, batch, 1, futures);
  uint32_t i;
  if (status != HBMESH_OK) return status;
  status = hbmesh_future_get(futures[0], 30000, NULL);
  for (i = 0; i < batch->key_count; ++i) hbmesh_future_free(futures[i]);
  return status;
}
static hbmesh_status reserve_layers(hbmesh_client* client, const hbmesh_batch* batch) {
  hbmesh_ticket* ticket = NULL;
  const hbmesh_status status = hbmesh_reserve_layers(client, batch, 0, &ticket);
  hbmesh_ticket_free(ticket);
  return status;
}
static hbmesh_status delete_keys(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_delete(client, batch, NULL);
}
static hbmesh_status exist_keys(hbmesh_client* client, const hbmesh_batch* batch) {
  hbmesh_result* result = NULL;
  const hbmesh_status status = hbmesh_exist(client, batch, &result);
  hbmesh_result_free(result);
  return status;
}
static hbmesh_status meta_of(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_get_meta_info(client, batch, NULL);
}
static hbmesh_status dev_delete_keys(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_dev_delete(client, batch, NULL);
}
static hbmesh_status dev_local_delete_keys(hbmesh_client* client, const hbmesh_batch* batch) {
  return hbmesh_dev_local_delete(client, batch, NULL);
}

const struct every_call every_call[] = {
    {"mSetD2H", set_d2h, 1, 1, 10000},
    {"mGetH2D", get_h2d, 1, 1, 10000},
    {"devPublish", dev_publish, 1, 1, 10000},
    {"devSubscribe", dev_subscribe, 1, 1, 10000},
    {"devMSet", dev_mset, 1, 1, 10000},
    {"devMGet", dev_mget, 1, 1, 10000},
    {"reserveLayers", reserve_layers, 1, 0, 10000},
    {"delete", delete_keys, 0, 1, 10000},
    {"devDelete", dev_delete_keys, 0, 1, 10000},
    {"devLocalDelete", dev_local_delete_keys, 0, 1, 10000},
    {"exist", exist_keys, 0, 1, 100000},
    {"getMetaInfo", meta_of, 0, 1, 100000},
};
const size_t every_call_count = sizeof(every_call) / sizeof(every_call[0]);
