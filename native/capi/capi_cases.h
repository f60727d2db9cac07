/* Cases of the C API that need no worker. Each returns the number of expectations that failed, and tells of each on
 * stderr. Compiled as C; those with workers are in suite/. */
#ifndef HBMESH_CAPI_CASES_H
#define HBMESH_CAPI_CASES_H

#include "capi/hbmesh.h"

#ifdef __cplusplus
extern "C" {
#endif

int capi_case_values(void);
int capi_case_bad_arguments(void);
int capi_case_sim_memory(void);
int capi_case_nobody_there(void);

#ifdef __cplusplus
}
#endif

#endif
