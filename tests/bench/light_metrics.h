/* bench/light_metrics.h - the /metrics page of a simulated vLLM: about 16 KB of its names, each
 * value true at the moment of the scrape, and cheap enough to be asked for all the time.
 * Source: names, labels and buckets as a vLLM 0.32 serves them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BENCH_LIGHT_METRICS_H
#define BENCH_LIGHT_METRICS_H
#include "base/str.h"

enum light_value {
    LV_RUNNING,
    LV_WAITING,
    LV_KV_USAGE,
    LV_QUERIED,
    LV_HITS,
    LV_PROMPT_TOKENS,
    LV_COMPUTED_TOKENS,
    LV_OUTPUT_TOKENS,
    LV_LENGTH,
    LV_ABORT,
    LV_ERROR,
    LV_ZERO,
    LV_ONE,
    LV_COUNT
};

enum light_hist { LH_TTFT, LH_ITL, LH_E2E, LH_QUEUE, LH_PROMPT, LH_OUTPUT, LH_COUNT };

struct light_metrics;

/* model, kv_blocks: for the labels. */
struct light_metrics *light_metrics_new(const char *model, uint32_t kv_blocks);
void light_metrics_free(struct light_metrics *m);
/* The cell of a value, to be set or added to. */
double *light_value(struct light_metrics *m, enum light_value v);
void light_observe(struct light_metrics *m, enum light_hist h, double v);
/* The page; valid until the next call. */
struct str light_page(struct light_metrics *m);
#endif
