/* sched/metric_spec.h - which series of a worker's metrics page means what, engine by engine.
 *
 * `name` or `name{label=value,label2="v"}`: of the samples of that family whose labels include all
 * pairs the first one counts, as a gauge or counter.
 * Source: the project's scheduler page, 8.2.
 * Threads: immutable once parsed. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_METRIC_SPEC_H
#define SCHED_METRIC_SPEC_H
#include "base/arena.h"
#include "base/err.h"

#define METRIC_SPEC_LABELS_MAX 16
#define METRIC_CUSTOM_MAX      64 /* custom metrics of an engine */

struct metric_label {
    struct str name, value;
};

struct metric_spec {
    struct str name; /* n == 0: the engine has no such metric */
    const struct metric_label *label;
    uint32_t label_count;
};

/* A value that plugins see as an attribute "key/core-metrics-extractor". */
struct metric_custom {
    struct str attribute;
    struct metric_spec spec;
};

struct metric_engine {
    struct str name;
    struct metric_spec waiting, running, kv_usage; /* requests, requests, 0..1 */
    struct metric_spec lora; /* labels running_lora_adapters, waiting_lora_adapters, max_lora */
    struct metric_spec cache_info; /* labels below hold the numbers ... */
    struct str cache_block_size_label, cache_blocks_label;
    struct metric_spec cache_block_size, cache_blocks; /* ... or these two gauges */
    const struct metric_custom *custom;
    uint32_t custom_count;
};

/* Blank text gives a spec without a name.  The result lives in the arena; text may go.
 * Returns 0, ERR_PARSE (e: one sentence, no place) or ERR_LIMIT. */
int metric_spec_parse(struct metric_spec *out, struct str text, struct arena *a,
                      struct err *e) MUST_CHECK;

/* vllm, sglang, trtllm-serve, triton-tensorrt-llm, triton; NULL past the last. */
const struct metric_engine *metric_engine_built_in(size_t i);
/* By name among the built-in ones, or NULL. */
const struct metric_engine *metric_engine_find(struct str name);
#endif
