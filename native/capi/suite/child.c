/* Client processes that a case kills: this program again, as `capi_suite child`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capi/suite/suite.h"

extern char** environ;

struct child {
  pid_t process;
  int output;
  char line[512];
};

const char* child_says(const struct child* child) { return child->line; }

void kill_child(struct child* child) {
  if (child->process <= 0) return;
  kill(child->process, SIGKILL);
  while (waitpid(child->process, NULL, 0) < 0) {
  }
  child->process = 0;
  close(child->output);
}

static void take_back_child(void* child) {
  kill_child(child);
  free(child);
}

/* Its first line, without the end. */
static void read_line(struct child* child) {
  size_t at = 0;
  while (at + 1 < sizeof(child->line)) {
    if (read(child->output, child->line + at, 1) != 1) break;
    if (child->line[at] == '\n') break;
    ++at;
  }
  child->line[at] = '\0';
}

struct child* start_child(int worker, const char* command, const char* key) {
  struct child* child = keep(calloc(1, sizeof(*child)), take_back_child);
  char program[] = "/proc/self/exe";
  char name[] = "capi_suite";
  char role[] = "child";
  char* arguments[] = {name, role, NULL, NULL, NULL, NULL};
  posix_spawn_file_actions_t actions;
  int ends[2];
  arguments[2] = (char*)place.workers[worker];
  arguments[3] = (char*)command;
  arguments[4] = (char*)key;
  if (pipe2(ends, O_CLOEXEC) != 0) return child;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  if (posix_spawn(&child->process, program, &actions, NULL, arguments, environ) != 0) child->process = 0;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  child->output = ends[0];
  read_line(child);
  EXPECT(child->line[0] != '\0');
  return child;
}

int child_main(const char* address, const char* command, const char* key) {
  static char line[512];
  struct memory* blobs;
  struct memory* layers[3];
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* not even a crash of the suite leaves it behind */
  place.workers[0] = place.workers[1] = address;
  place.transport = "local";
  blobs = memory_of(strcmp(command, "publish") == 0 || strcmp(command, "devset") == 0 ? 0 : 1, CHILD_SEED, CHILD_SIZES);
  if (strcmp(command, "publish") == 0) {
    snprintf(line, sizeof(line), "%s", end_now(publish(first(), key, blobs)));
  } else if (strcmp(command, "subscribe") == 0) {
    snprintf(line, sizeof(line), "%s", end_now(subscribe(first(), key, blobs, 600000)));
  } else if (strcmp(command, "devset") == 0) {
    snprintf(line, sizeof(line), "%s", dev_set(first(), key, blobs));
  } else if (strcmp(command, "reserve") == 0) {
    layers[0] = blobs;
    layers[1] = memory_of(1, 0, CHILD_SIZES);
    layers[2] = memory_of(1, 0, CHILD_SIZES);
    snprintf(line, sizeof(line), "%s", hbmesh_ticket_text(reserve(first(), 3, layers, 0)));
  } else {
    return 2;
  }
  printf("%s\n", line);
  fflush(stdout);
  for (;;) pause(); /* until it is killed */
}
