/* The rows of flow control's plugin types. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/flow_policy.h"
#include "base/check.h"
#include <stddef.h>
#include <string.h>

#define AT(s, f)    offsetof(struct s, f)
#define TABLE(p)    .params = (p), .param_count = COUNT(p)
#define FRACTION    .min = 0, .max = 1
#define SECONDS_MAX 31536000.0
#define COUNT_LARGE 1e15

static const char *const strategies[] = { "las", NULL };
static const char *const shapes[] = { "linear", NULL };
static const char *const domains[] = { "rank", "value", NULL };
static const char *const modes[] = { "requests", "tokens", "hybrid", NULL };

static const struct plugin_param program_params[] = {
    { .name = "strategy",
      .kind = PARAM_WORD,
      .at = AT(flow_program_params, strategy),
      .value = "las",
      .words = strategies,
      .help = "how service is counted" },
    { .name = "evictionTtlSeconds",
      .kind = PARAM_U32,
      .at = AT(flow_program_params, eviction_ttl_s),
      .value = "3600",
      .min = 1,
      .max = SECONDS_MAX,
      .help = "a program's service is forgotten" },
    { .name = "evictionSweepSeconds",
      .kind = PARAM_U32,
      .at = AT(flow_program_params, eviction_sweep_s),
      .value = "300",
      .min = 1,
      .max = SECONDS_MAX,
      .help = "how often that is looked at" },
    { .name = "lasWeightService",
      .kind = PARAM_F64,
      .at = AT(flow_program_params, weight_service),
      .value = "0.8",
      .min = 0,
      .max = 1e6,
      .help = "weight of little service" },
    { .name = "lasWeightHeadWait",
      .kind = PARAM_F64,
      .at = AT(flow_program_params, weight_wait),
      .value = "0.2",
      .min = 0,
      .max = 1e6,
      .help = "weight of long waiting" },
    { .name = "lasHalfLifeSeconds",
      .kind = PARAM_F64,
      .at = AT(flow_program_params, half_life_s),
      .value = "60",
      .min = 0.001,
      .max = SECONDS_MAX,
      .help = "half of a service is forgotten" },
};

static const struct plugin_param static_params[] = {
    { .name = "threshold",
      .kind = PARAM_F64,
      .at = AT(flow_static_params, threshold),
      .value = "1.0",
      .min = 0,
      .max = 1e6,
      .help = "ceiling of every priority" },
};

static const struct plugin_param holdback_params[] = {
    { .name = "minCeiling",
      .kind = PARAM_F64,
      .at = AT(flow_holdback_params, ceiling_min),
      .min = 0,
      .max = 1,
      .required = true,
      .help = "ceiling of the lowest priority" },
    { .name = "maxCeiling",
      .kind = PARAM_F64,
      .at = AT(flow_holdback_params, ceiling_max),
      .value = "1.0",
      .min = 0,
      .max = 1e6,
      .help = "ceiling of the highest priority" },
    { .name = "shape",
      .kind = PARAM_WORD,
      .at = AT(flow_holdback_params, shape),
      .value = "linear",
      .words = shapes,
      .help = "between them" },
    { .name = "domain",
      .kind = PARAM_WORD,
      .at = AT(flow_holdback_params, domain),
      .value = "rank",
      .words = domains,
      .help = "by rank, or by the priority's value" },
};

static const struct plugin_param utilization_params[] = {
    { .name = "queueDepthThreshold",
      .kind = PARAM_F64,
      .at = AT(flow_utilization_params, queue_depth),
      .value = "5",
      .min = 0.001,
      .max = COUNT_LARGE,
      .help = "waiting requests that mean full" },
    { .name = "kvCacheUtilThreshold",
      .kind = PARAM_F64,
      .at = AT(flow_utilization_params, kv_usage),
      .value = "0.8",
      .min = 0.000001,
      .max = 1,
      .help = "KV usage that means full" },
    { .name = "metricsStalenessThreshold",
      .kind = PARAM_DURATION_MS,
      .at = AT(flow_utilization_params, stale_ms),
      .value = "200ms",
      .min = 1,
      .max = 3.6e6,
      .help = "older metrics mean full" },
    { .name = "headroom",
      .kind = PARAM_F64,
      .at = AT(flow_utilization_params, headroom),
      .value = "0",
      .min = 0,
      .max = 1e6,
      .help = "as a filter: so much above the thresholds" },
};

static const struct plugin_param concurrency_params[] = {
    { .name = "maxConcurrency",
      .kind = PARAM_F64,
      .at = AT(flow_concurrency_params, requests_max),
      .value = "100",
      .min = 1,
      .max = COUNT_LARGE,
      .help = "requests in flight that mean full" },
    { .name = "maxTokenConcurrency",
      .kind = PARAM_F64,
      .at = AT(flow_concurrency_params, tokens_max),
      .value = "1000000",
      .min = 1,
      .max = COUNT_LARGE,
      .help = "tokens in flight that mean full" },
    { .name = "concurrencyMode",
      .kind = PARAM_WORD,
      .at = AT(flow_concurrency_params, mode),
      .value = "requests",
      .words = modes,
      .help = "what is counted" },
    { .name = "headroom",
      .kind = PARAM_F64,
      .at = AT(flow_concurrency_params, headroom),
      .value = "0",
      .min = 0,
      .max = 1e6,
      .help = "as a filter: so much above the limits" },
    { .name = "inFlightLoadProducerName",
      .kind = PARAM_STR,
      .at = AT(flow_concurrency_params, producer),
      .value = "",
      .help = "whose counts" },
};

static int check_holdback(const void *params, struct err *e)
{
    const struct flow_holdback_params *p = params;

    if (p->ceiling_min >= 1)
        return err_set(e, ERR_INVAL, "minCeiling: must be below 1");
    if (p->ceiling_max < p->ceiling_min)
        return err_set(e, ERR_INVAL, "maxCeiling: must not be below minCeiling");
    return 0;
}

static const struct plugin_type types[] = {
    { .type = "fcfs-ordering-policy", .roles = ROLE_ORDERING },
    { .type = "edf-ordering-policy", .roles = ROLE_ORDERING },
    { .type = "slo-deadline-ordering-policy", .roles = ROLE_ORDERING },
    { .type = "global-strict-fairness-policy", .roles = ROLE_FAIRNESS },
    { .type = "round-robin-fairness-policy", .roles = ROLE_FAIRNESS },
    { .type = "program-aware-fairness",
      .roles = ROLE_FAIRNESS,
      .params_size = sizeof(struct flow_program_params),
      TABLE(program_params) },
    { .type = "weighted-fair-policy", .roles = ROLE_FAIRNESS },
    { .type = "static-usage-limit-policy",
      .roles = ROLE_USAGE_LIMIT,
      .params_size = sizeof(struct flow_static_params),
      TABLE(static_params) },
    { .type = "priority-holdback-policy",
      .roles = ROLE_USAGE_LIMIT,
      .alpha = true,
      .params_size = sizeof(struct flow_holdback_params),
      TABLE(holdback_params),
      .check = check_holdback },
    { .type = "soft-reflective-ceiling-policy", .roles = ROLE_USAGE_LIMIT, .alpha = true },
    { .type = "utilization-detector",
      .roles = ROLE_SATURATION | ROLE_FILTER,
      .params_size = sizeof(struct flow_utilization_params),
      TABLE(utilization_params),
      .filter = flow_filter_utilization },
    { .type = "concurrency-detector",
      .roles = ROLE_SATURATION | ROLE_FILTER,
      .params_size = sizeof(struct flow_concurrency_params),
      TABLE(concurrency_params),
      .filter = flow_filter_concurrency },
    { .type = "adaptive-detector", .roles = ROLE_SATURATION },
    /* both name what evict.c does */
    { .type = "sheddable-eviction-filter", .roles = ROLE_EVICTION },
    { .type = "priority-then-time-eviction-order-policy", .roles = ROLE_EVICTION },
};

/* in types */
enum { ORDERING_AT = 0, FAIRNESS_AT = 3, CEILING_AT = 7, DETECTOR_AT = 10, EVICTION_AT = 13 };

const struct plugin_type *const plugin_flow[] = {
    &types[0], &types[1], &types[2],  &types[3],  &types[4],  &types[5],  &types[6],  &types[7],
    &types[8], &types[9], &types[10], &types[11], &types[12], &types[13], &types[14], NULL,
};
static_assert(COUNT(plugin_flow) == COUNT(types) + 1, "every type has its row");

static bool within(const struct plugin_type *t, size_t from, size_t to, size_t *at)
{
    for (size_t i = from; i < to; i++)
        if (t == &types[i]) {
            *at = i - from;
            return true;
        }
    return false;
}

bool flow_ordering_of(const struct plugin_type *t, enum flow_ordering *out)
{
    size_t at;

    if (!within(t, ORDERING_AT, FAIRNESS_AT, &at))
        return false;
    *out = (enum flow_ordering)at;
    return true;
}

bool flow_fairness_of(const struct plugin_type *t, enum flow_fairness *out)
{
    size_t at;

    if (!within(t, FAIRNESS_AT, CEILING_AT, &at))
        return false;
    *out = (enum flow_fairness)at;
    return true;
}

bool flow_ceiling_of(const struct plugin_type *t, enum flow_ceiling *out)
{
    size_t at;

    if (!within(t, CEILING_AT, DETECTOR_AT, &at))
        return false;
    *out = (enum flow_ceiling)at;
    return true;
}

bool flow_detector_of(const struct plugin_type *t, enum flow_detector *out)
{
    size_t at;

    if (!within(t, DETECTOR_AT, EVICTION_AT, &at))
        return false;
    *out = (enum flow_detector)at;
    return true;
}
