#define _POSIX_C_SOURCE 200809L
#include "capi/suite/suite.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct place place;

/* ---- Expectations ------------------------------------------------------------------------------------------------ */

static int faults;

static const char* base_name(const char* file) {
  const char* slash = strrchr(file, '/');
  return slash == NULL ? file : slash + 1;
}

void check_that(int good, const char* what, const char* file, int line) {
  if (good) return;
  ++faults;
  printf("%s:%d: does not hold: %s (last message: %s)\n", base_name(file), line, what, hbmesh_last_message());
}

void check_is(const char* got, const char* wanted, const char* what, const char* file, int line) {
  if (strcmp(got, wanted) == 0) return;
  ++faults;
  printf("%s:%d: %s is \"%s\", not \"%s\" (last message: %s)\n", base_name(file), line, what, got, wanted,
         hbmesh_last_message());
}

void check_says(const char* part, const char* file, int line) {
  const hbmesh_result* result = last_result();
  uint32_t i;
  if (strstr(hbmesh_last_message(), part) != NULL) return;
  for (i = 0; i < hbmesh_result_count(result); ++i) {
    if (strstr(hbmesh_result_message(result, i), part) != NULL) return;
  }
  ++faults;
  printf("%s:%d: nothing says \"%s\": last message \"%s\", first key's \"%s\"\n", base_name(file), line, part,
         hbmesh_last_message(), hbmesh_result_message(result, 0));
}

double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void pause_briefly(void) {
  const struct timespec pause = {0, 1000000};
  nanosleep(&pause, NULL);
}

/* ---- The case's things ------------------------------------------------------------------------------------------- */

struct kept {
  void* thing;
  void (*take_back)(void*);
};
static struct kept* kept;
static size_t kept_count;
static size_t kept_room;
static const char* base_key;

void* keep(void* thing, void (*take_back)(void*)) {
  if (kept_count == kept_room) {
    kept_room = kept_room == 0 ? 64 : 2 * kept_room;
    kept = realloc(kept, kept_room * sizeof(*kept));
    if (kept == NULL) abort();
  }
  kept[kept_count].thing = thing;
  kept[kept_count].take_back = take_back;
  ++kept_count;
  return thing;
}

void* scratch(size_t bytes) {
  void* made = calloc(1, bytes == 0 ? 1 : bytes);
  if (made == NULL) abort();
  return keep(made, free);
}

const char* text(const char* format, ...) {
  va_list arguments;
  char* made;
  int length;
  va_start(arguments, format);
  length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  made = scratch((size_t)length + 1);
  va_start(arguments, format);
  vsnprintf(made, (size_t)length + 1, format, arguments);
  va_end(arguments);
  return made;
}

const char* key_with(const char* suffix) {
  if (base_key == NULL) {
    char* made = scratch(64);
    hbmesh_generate_key("api", made, 64);
    base_key = made;
  }
  return text("%s%s", base_key, suffix);
}

const char* const* many_keys(uint32_t count) {
  const char** keys = scratch(count * sizeof(*keys));
  char* all = scratch((size_t)count * 64);
  const char* base = key_with("");
  uint32_t i;
  for (i = 0; i < count; ++i) {
    keys[i] = all + (size_t)i * 64;
    snprintf(all + (size_t)i * 64, 64, "%s-%u", base, i);
  }
  return keys;
}

int run_case(const struct suite_case* one_case) {
  faults = 0;
  one_case->run();
  while (kept_count > 0) {
    --kept_count;
    kept[kept_count].take_back(kept[kept_count].thing);
  }
  base_key = NULL;
  return faults;
}

/* ---- Clients ----------------------------------------------------------------------------------------------------- */

static hbmesh_client* group_clients[2];
static hbmesh_status latest_init;
static char latest_init_message[1024];

hbmesh_status init_status(void) { return latest_init; }
const char* init_message(void) { return latest_init_message; }

static hbmesh_client* connect_to(int worker, const char* token) {
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = place.workers[worker];
  options.token = token;
  options.request_timeout_ms = 60000; /* how busy the machine is must not matter */
  latest_init = hbmesh_client_create(&options, &client);
  if (latest_init == HBMESH_OK) latest_init = hbmesh_client_init(client);
  if (latest_init == HBMESH_OK) return client;
  snprintf(latest_init_message, sizeof(latest_init_message), "%s", hbmesh_last_message());
  hbmesh_client_free(client);
  return NULL;
}

static hbmesh_client* group_client(int worker) {
  if (group_clients[worker] == NULL) {
    group_clients[worker] = connect_to(worker, NULL);
    EXPECT(group_clients[worker] != NULL);
  }
  return group_clients[worker];
}

hbmesh_client* first(void) { return group_client(0); }
hbmesh_client* second(void) { return group_client(1); }

static void free_client(void* client) { hbmesh_client_free(client); }

hbmesh_client* client_with_token(int worker, const char* token) {
  hbmesh_client* client = connect_to(worker, token);
  return client == NULL ? NULL : keep(client, free_client);
}

hbmesh_client* new_client(int worker) {
  hbmesh_client* client = client_with_token(worker, NULL);
  EXPECT(client != NULL);
  return client;
}

void end_group(void) {
  int worker;
  for (worker = 0; worker < 2; ++worker) hbmesh_client_free(group_clients[worker]);
  free(kept);
}

/* ---- Device memory ----------------------------------------------------------------------------------------------- */

static void free_memory(void* given) {
  const struct memory* memory = given;
  uint32_t i;
  for (i = 0; i < memory->count; ++i) hbmesh_sim_free(memory->pointers[i]);
}

/* Byte i of blob b is a function of both and of the seed. */
static void make_pattern(unsigned char* bytes, uint64_t count, uint32_t blob, uint32_t seed) {
  uint32_t state = seed * 2654435761u + blob * 40503u + 1u;
  uint64_t i;
  if (seed == 0) {
    memset(bytes, 0, count);
    return;
  }
  for (i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = (unsigned char)(state >> 24);
  }
}

void fill(const struct memory* target, uint32_t seed) {
  uint32_t i;
  for (i = 0; i < target->count; ++i) {
    unsigned char* bytes = malloc(target->sizes[i]);
    make_pattern(bytes, target->sizes[i], i, seed);
    check_that(hbmesh_sim_copy_in(target->pointers[i], bytes, target->sizes[i]) == HBMESH_OK, "copy in", __FILE__,
               __LINE__);
    free(bytes);
  }
}

int holds(const struct memory* target, uint32_t seed) {
  int same = 1;
  uint32_t i;
  for (i = 0; i < target->count; ++i) {
    unsigned char* wanted = malloc(2 * target->sizes[i]);
    unsigned char* got = wanted + target->sizes[i];
    make_pattern(wanted, target->sizes[i], i, seed);
    same = same && hbmesh_sim_copy_out(got, target->pointers[i], target->sizes[i]) == HBMESH_OK &&
           memcmp(wanted, got, target->sizes[i]) == 0;
    free(wanted);
  }
  return same;
}

static struct memory* new_memory(uint32_t device, uint32_t count) {
  struct memory* made = scratch(sizeof(*made));
  made->device = device;
  made->count = count;
  made->pointers = scratch(count * sizeof(*made->pointers));
  made->sizes = scratch(count * sizeof(*made->sizes));
  return made;
}

struct memory* memory_of(uint32_t device, uint32_t seed, const char* sizes) {
  uint64_t parsed[1024];
  uint32_t count = 0;
  char* at = (char*)sizes;
  struct memory* made;
  uint32_t i;
  for (;;) {
    const uint64_t size = strtoull(at, &at, 10);
    if (size == 0 || count == sizeof(parsed) / sizeof(parsed[0])) break;
    parsed[count++] = size;
  }
  made = new_memory(device, count);
  for (i = 0; i < count; ++i) {
    made->sizes[i] = parsed[i];
    made->bytes += parsed[i];
    EXPECT(hbmesh_sim_allocate(device, parsed[i], &made->pointers[i]) == HBMESH_OK);
  }
  keep(made, free_memory);
  fill(made, seed);
  return made;
}

struct memory* memory(uint32_t device, uint32_t seed) {
  return memory_of(device, seed, "73728 1 4096 100000");
}

struct memory** pieces(uint32_t device, uint32_t seed, uint32_t count, uint64_t bytes) {
  const struct memory* whole = memory_of(device, 0, text("%llu", (unsigned long long)(bytes * count)));
  struct memory* all = scratch(count * sizeof(*all));
  struct memory** list = scratch(count * sizeof(*list));
  uint64_t* numbers = scratch(2 * count * sizeof(*numbers));
  uint32_t i;
  for (i = 0; i < count; ++i) {
    list[i] = &all[i];
    all[i].device = device;
    all[i].count = 1;
    all[i].pointers = &numbers[2 * i];
    all[i].sizes = &numbers[2 * i + 1];
    all[i].pointers[0] = whole->pointers[0] + i * bytes;
    all[i].sizes[0] = all[i].bytes = bytes;
    if (seed != 0) fill(&all[i], seed + i);
  }
  return list;
}
