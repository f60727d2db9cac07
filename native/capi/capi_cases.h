/* Cases of the C API that run the same against a sidecar of a test's own and against a real worker. Each returns the
 * number of expectations that failed, and tells of each on stderr. Compiled as C. */
#ifndef HBMESH_CAPI_CASES_H
#define HBMESH_CAPI_CASES_H

#include "capi/hbmesh.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Needs no worker. */
int capi_case_values(void);
int capi_case_bad_arguments(void);
int capi_case_sim_memory(void);
int capi_case_nobody_there(void);

/* With a worker at this IP:PORT. */
int capi_case_life(const char* address);
int capi_case_host_objects(const char* address);
int capi_case_bad_input(const char* address);
int capi_case_futures(const char* address);
int capi_case_publish_subscribe(const char* address);
int capi_case_device_cache(const char* address);
int capi_case_layers(const char* address);

#ifdef __cplusplus
}
#endif

#endif
