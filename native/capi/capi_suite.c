/* capi_suite IP:PORT: runs the cases of the C API against the worker at that address, and prints a line for each. Exits
 * 1 when one failed. With names after the address, only those run. */
#include <stdio.h>
#include <string.h>

#include "capi/capi_cases.h"

struct named_case {
  const char* name;
  int (*run)(const char* address);
};

static const struct named_case cases[] = {
    {"life", capi_case_life},
    {"host_objects", capi_case_host_objects},
    {"bad_input", capi_case_bad_input},
    {"futures", capi_case_futures},
    {"publish_subscribe", capi_case_publish_subscribe},
    {"device_cache", capi_case_device_cache},
    {"layers", capi_case_layers},
};

static int is_wanted(const char* name, int argc, char** argv) {
  int i;
  for (i = 2; i < argc; ++i) {
    if (strcmp(argv[i], name) == 0) return 1;
  }
  return argc <= 2;
}

int main(int argc, char** argv) {
  int failed = 0;
  size_t i;
  if (argc < 2) {
    fprintf(stderr, "usage: capi_suite IP:PORT [case...]\n");
    return 2;
  }
  for (i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    int faults;
    if (!is_wanted(cases[i].name, argc, argv)) continue;
    faults = cases[i].run(argv[1]);
    printf("%s %s\n", faults == 0 ? "passed" : "FAILED", cases[i].name);
    failed += faults;
  }
  return failed == 0 ? 0 : 1;
}
