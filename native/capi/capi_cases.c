#include "capi/capi_cases.h"

#include <stdio.h>
#include <string.h>

static int check(int holds, const char* what, int line) {
  if (holds) return 0;
  fprintf(stderr, "capi_cases.c:%d: %s; last message: %s\n", line, what, hbmesh_last_message());
  return 1;
}
#define EXPECT(condition) failed += check((condition), #condition, __LINE__)
/* A call's status. The message is read before anything else is called. */
#define EXPECT_STATUS(wanted, call)                                                                \
  do {                                                                                             \
    const hbmesh_status got = (call);                                                              \
    if (got != (wanted)) {                                                                         \
      fprintf(stderr, "capi_cases.c:%d: %s is %s: %s\n", __LINE__, #call, hbmesh_status_name(got), \
              hbmesh_last_message());                                                              \
      failed += 1;                                                                                 \
    }                                                                                              \
  } while (0)

static int says(const char* part) { return strstr(hbmesh_last_message(), part) != NULL; }

int capi_case_values(void) {
  int failed = 0;
  char key[64];
  char again[64];
  EXPECT(hbmesh_version() == HBMESH_VERSION);
  EXPECT(strcmp(hbmesh_status_name(HBMESH_FUTURE_TIMEOUT), "FUTURE_TIMEOUT") == 0);
  EXPECT(strcmp(hbmesh_status_name(4711), "UNKNOWN_CODE") == 0);
  EXPECT_STATUS(HBMESH_OK, hbmesh_generate_key("kv", key, sizeof(key)));
  EXPECT(strlen(key) == 39 && strncmp(key, "kv-", 3) == 0);
  EXPECT_STATUS(HBMESH_OK, hbmesh_generate_key(NULL, again, sizeof(again)));
  EXPECT(strlen(again) == 36 && strcmp(key + 3, again) != 0);
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_generate_key("kv", key, 39));
  EXPECT(says("40 bytes"));
  EXPECT(key[0] == '\0');
  return failed;
}

int capi_case_bad_arguments(void) {
  int failed = 0;
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  hbmesh_client* client = NULL;
  hbmesh_result* result = NULL;
  hbmesh_future* future = NULL;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(NULL, &client));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, &client));
  EXPECT(says("worker_address is missing: give the worker's HOST:PORT"));
  static const struct {
    const char* address;
    const char* why;
  } wrong[] = {
      {"bogus", "worker_address \"bogus\" has no port"},
      {"127.0.0.1:99999", "has a port that is no number from 0 to 65535"},
      {"127.0.0.1:0", "has port 0, where no worker is"},
      {"::1:31501", "has an IPv6 address without brackets: give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501"}};
  for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
    options.worker_address = wrong[i].address;
    EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, &client));
    EXPECT(says(wrong[i].why));
    EXPECT(client == NULL);
  }
  options.worker_address = "127.0.0.1:9";
  options.size = sizeof(options) + 8;
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, &client));
  EXPECT(says("sizeof"));
  EXPECT(client == NULL);
  options.size = sizeof(options);
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_client_create(&options, NULL));
  EXPECT_STATUS(HBMESH_OK, hbmesh_client_create(&options, &client));
  EXPECT_STATUS(HBMESH_NOT_READY, hbmesh_exist(client, &batch, &result));
  EXPECT(says("hbmesh_client_init"));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_exist(client, &batch, NULL));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_exist(NULL, &batch, &result));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_get_h2d_async(client, &batch, 0, NULL));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_future_get(NULL, 0, NULL));
  EXPECT_STATUS(HBMESH_NOT_READY, hbmesh_dev_publish(client, &batch, &future));
  hbmesh_client_close(client);
  EXPECT_STATUS(HBMESH_SHUTTING_DOWN, hbmesh_exist(client, &batch, &result));
  EXPECT_STATUS(HBMESH_SHUTTING_DOWN, hbmesh_client_init(client));
  hbmesh_client_close(client);
  hbmesh_client_free(client);
  hbmesh_client_free(NULL);
  hbmesh_result_free(NULL);
  hbmesh_future_free(NULL);
  hbmesh_ticket_free(NULL);
  EXPECT(hbmesh_result_count(NULL) == 0 && hbmesh_result_message(NULL, 3)[0] == '\0');
  return failed;
}

int capi_case_sim_memory(void) {
  int failed = 0;
  uint64_t pointer = 0;
  char bytes[8] = "1234567";
  char back[8] = "";
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_allocate(64, 8, &pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_allocate(0, 0, &pointer));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_allocate(3, sizeof(bytes), &pointer));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_copy_in(pointer, bytes, sizeof(bytes)));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_copy_out(back, pointer, sizeof(back)));
  EXPECT(strcmp(bytes, back) == 0);
  EXPECT_STATUS(HBMESH_OUT_OF_RANGE, hbmesh_sim_copy_out(back, pointer, 1 << 20));
  EXPECT_STATUS(HBMESH_OK, hbmesh_sim_free(pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_free(pointer));
  EXPECT_STATUS(HBMESH_INVALID, hbmesh_sim_copy_in(7, bytes, sizeof(bytes)));
  return failed;
}

int capi_case_nobody_there(void) {
  int failed = 0;
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = "127.0.0.1:9";
  EXPECT_STATUS(HBMESH_OK, hbmesh_client_create(&options, &client));
  EXPECT_STATUS(HBMESH_NO_AVAILABLE_WORKER, hbmesh_client_init(client));
  EXPECT(says("start one"));
  hbmesh_client_free(client);
  return failed;
}
