/* capi_suite: the API suite of test/api, through the C API.
 *
 *   capi_suite list                                    all cases, "GROUP<tab>NAME" a line
 *   capi_suite run GROUP FIRST SECOND TRANSPORT [NAME]  the cases of a group (or one) at two workers, IP:PORT each (the
 *                                                      same twice: one worker); TRANSPORT is what is between them, or
 *                                                      "local"; a line a case, "passed<tab>NAME" or "FAILED<tab>NAME",
 *                                                      behind lines that say what did not hold
 *   capi_suite child ADDRESS COMMAND KEY               what a case starts to kill it
 *
 * Exits 1 when a case failed, 2 for wrong arguments. */
#include <stdio.h>
#include <string.h>

#include "capi/suite/suite.h"

static const struct suite_group* const groups[] = {
    &host_object_group,  &life_group,  &bad_input_group, &publish_group, &family_group,     &killed_group,
    &device_cache_group, &layer_group, &limit_group,     &tenant_group,  &precedence_group,
};
static const size_t group_count = sizeof(groups) / sizeof(groups[0]);

static int list_cases(void) {
  size_t i;
  size_t j;
  for (i = 0; i < group_count; ++i) {
    for (j = 0; j < groups[i]->count; ++j) printf("%s\t%s\n", groups[i]->name, groups[i]->cases[j].name);
  }
  return 0;
}

static int run_group(const struct suite_group* group, const char* only) {
  int failed = 0;
  size_t i;
  for (i = 0; i < group->count; ++i) {
    if (only != NULL && strcmp(group->cases[i].name, only) != 0) continue;
    const int faults = run_case(&group->cases[i]);
    printf("%s\t%s\n", faults == 0 ? "passed" : "FAILED", group->cases[i].name);
    fflush(stdout);
    failed += faults;
  }
  end_group();
  return failed == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  size_t i;
  setvbuf(stdout, NULL, _IOLBF, 0); /* what a case says is told, even when it crashes */
  if (argc == 2 && strcmp(argv[1], "list") == 0) return list_cases();
  if (argc == 5 && strcmp(argv[1], "child") == 0) return child_main(argv[2], argv[3], argv[4]);
  if (argc >= 6 && strcmp(argv[1], "run") == 0) {
    place.workers[0] = argv[3];
    place.workers[1] = argv[4];
    place.transport = argv[5];
    for (i = 0; i < group_count; ++i) {
      if (strcmp(groups[i]->name, argv[2]) == 0) return run_group(groups[i], argc > 6 ? argv[6] : NULL);
    }
  }
  fprintf(stderr,
          "usage: capi_suite list | run GROUP FIRST SECOND TRANSPORT [NAME] | child ADDRESS COMMAND KEY\n"
          "(see native/capi/suite/main.c)\n");
  return 2;
}
