/* base/cpus.h - how many CPUs this process may use: its affinity, and what cgroup v2 lets it have
 * (a pod's limit), never less than one.  Threads: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_CPUS_H
#define BASE_CPUS_H
#include <stdint.h>

uint32_t cpus_allowed(void);
#endif
