/* Configuration text: loads or is refused with a place, whatever it holds. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/config.h"
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sched_config_opts o = { .file = "f", .allow_experimental = true };
    struct sched_config *c;
    struct err e;

    if (sched_config_load(&c, (struct str) { (const char *)data, size }, &o, &e) == 0) {
        struct sched_pipeline *p = sched_pipeline_new(c);

        sched_pipeline_free(p);
        sched_config_free(c);
    }
    return 0;
}
