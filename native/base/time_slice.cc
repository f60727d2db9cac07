#include "base/time_slice.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace hbmesh {
namespace {

// First version of the kernel's struct sched_attr; glibc has none before 2.41.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtimeNs;
  uint64_t deadlineNs;
  uint64_t periodNs;
};
static_assert(sizeof(SchedAttr) == 48);

// The longest and the shortest that the kernel gives; 2.8 ms is usual.
constexpr uint64_t kLongNs = 100'000'000;
constexpr uint64_t kShortNs = 100'000;

}  // namespace

void AskForTimeSlice(TimeSlice slice) {
  SchedAttr attr{};
  attr.size = sizeof(attr);
  if (::syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) != 0 || attr.policy != 0) return;
  attr.runtimeNs = slice == TimeSlice::kLong ? kLongNs : kShortNs;
  (void)::syscall(SYS_sched_setattr, 0, &attr, 0);
}

}  // namespace hbmesh
