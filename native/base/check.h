// HBMESH_CHECK: stops the process when only a bug of ours can have broken the condition, in release builds too. Never
// for what a peer, a user or the system can cause: that is a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define HBMESH_CHECK(condition, reason)                                                               \
  do {                                                                                                \
    if (!(condition)) [[unlikely]] {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s (%s)\n", __FILE__, __LINE__, #condition, reason); \
      std::abort();                                                                                   \
    }                                                                                                 \
  } while (false)
