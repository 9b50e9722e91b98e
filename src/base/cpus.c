// SPDX-License-Identifier: Apache-2.0
#include "base/cpus.h"
#include "base/check.h"
#include "base/file.h"
#include <sched.h>

/* CPUs that cgroup v2 lets this process use, or UINT32_MAX. */
static uint32_t quota_cpus(void)
{
    struct buf b;
    struct str quota, rest;
    uint64_t us, period;
    uint32_t n = UINT32_MAX;

    buf_init(&b, 256);
    if (file_read("/sys/fs/cgroup/cpu.max", &b, NULL) == 0) {
        rest = str_trim(buf_view(&b));
        quota = str_cut(&rest, ' ');
        if (str_u64(quota, &us) && str_u64(rest, &period) && period != 0 && us / period < 65536)
            n = (uint32_t)MAX((us + period / 2) / period, 1);
    }
    buf_fini(&b);
    return n;
}

uint32_t cpus_allowed(void)
{
    cpu_set_t set;
    uint32_t n = 1;

    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        n = (uint32_t)MAX(CPU_COUNT(&set), 1);
    return MIN(n, quota_cpus());
}
