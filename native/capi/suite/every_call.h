/* Every call about a batch of keys, to say the same of all of them. */
#ifndef HBMESH_CAPI_SUITE_EVERY_CALL_H
#define HBMESH_CAPI_SUITE_EVERY_CALL_H

#include "capi/suite/suite.h"

struct every_call {
  const char* name;
  hbmesh_status (*call)(hbmesh_client* client, const hbmesh_batch* batch);
  int has_blobs;
  int has_keys;
  uint32_t keys_max;
};
extern const struct every_call every_call[];
extern const size_t every_call_count;

#endif
