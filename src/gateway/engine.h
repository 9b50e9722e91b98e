/* gateway/engine.h - a worker's metrics page by the names that a configuration gives its engine.
 *
 * Without such names a page is read by those that engines are known for (endpoints.c).
 * Source: the project's scheduler page, 8.2.  Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_ENGINE_H
#define GATEWAY_ENGINE_H
#include "sched/config.h"
#include "sched/metric_spec.h"

struct engine_page {
    double waiting, running, kv_usage, block_tokens, blocks; /* 0: not there */
    bool has_lora;
    double lora_at;                                  /* when the sample was made, by its value */
    struct str lora_running, lora_waiting, lora_max; /* borrowed of the page */
    bool has_custom[METRIC_CUSTOM_MAX];
    double custom[METRIC_CUSTOM_MAX]; /* as the engine lists them */
    uint32_t missing; /* metrics that the engine has by its configuration, and the page has not */
};

/* The names for an endpoint with these labels: of the engine that its label names, or of the
 * default engine if c configures it or names another than vllm.  NULL: nothing says, its page tells
 * by itself.  c may be NULL. */
const struct metric_engine *engine_of(const struct sched_config *c, const struct sched_label *label,
                                      uint32_t label_count);
/* Of several samples of a metric, requests add up, the fullest cache and the newest adapters count;
 * of custom ones the first. */
void engine_read(const struct metric_engine *m, struct str page, struct engine_page *out);
#endif
