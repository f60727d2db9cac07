// What a thread asks of the scheduler: how long it runs before others get the core (EEVDF, Linux 6.12). Its share of
// the core stays the same. Older kernels ignore or refuse it, which does no harm.
#pragma once

namespace hbmesh {

enum class TimeSlice {
  // Moves bytes by the megabyte: who answers somebody runs as soon as it wakes, and not milliseconds later, when bytes
  // have every core.
  kLong,
  // Answers, and is done in microseconds: it runs before threads that compute for longer.
  kShort,
};

// Of the calling thread, which must have the usual scheduling policy; others are left as they are.
void AskForTimeSlice(TimeSlice slice);

}  // namespace hbmesh
