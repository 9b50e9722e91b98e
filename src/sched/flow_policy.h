/* sched/flow_policy.h - the rules of flow control that a configuration can choose, and their
 * parameters.  flow.c applies those of queues, saturate.c those of saturation.
 * Source: the project's scheduler page, 9.6, 9.7. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_FLOW_POLICY_H
#define SCHED_FLOW_POLICY_H
#include "sched/plugin.h"

enum flow_ordering { FLOW_FCFS, FLOW_EDF, FLOW_SLO_DEADLINE };
enum flow_fairness { FLOW_STRICT, FLOW_ROUND_ROBIN, FLOW_PROGRAM_AWARE, FLOW_WEIGHTED };
enum flow_ceiling { FLOW_STATIC, FLOW_HOLDBACK, FLOW_SOFT };
enum flow_detector { FLOW_UTILIZATION, FLOW_CONCURRENCY, FLOW_ADAPTIVE };

struct flow_program_params {
    uint32_t eviction_ttl_s, eviction_sweep_s;
    double weight_service, weight_wait, half_life_s;
    int strategy;
};

struct flow_static_params {
    double threshold;
};

struct flow_holdback_params {
    double ceiling_min, ceiling_max;
    int shape, domain; /* domain: 0 rank, 1 value */
};

struct flow_utilization_params {
    double queue_depth, kv_usage, headroom;
    uint32_t stale_ms;
};

enum flow_concurrency_mode { FLOW_BY_REQUESTS, FLOW_BY_TOKENS, FLOW_BY_BOTH };

struct flow_concurrency_params {
    double requests_max, tokens_max, headroom;
    int mode; /* enum flow_concurrency_mode */
    struct str producer;
};

/* What a type is; false: it is not of that kind. */
bool flow_ordering_of(const struct plugin_type *t, enum flow_ordering *out);
bool flow_fairness_of(const struct plugin_type *t, enum flow_fairness *out);
bool flow_ceiling_of(const struct plugin_type *t, enum flow_ceiling *out);
bool flow_detector_of(const struct plugin_type *t, enum flow_detector *out);

/* The filters of detectors (saturate.c). */
void flow_filter_utilization(struct plugin *p, const struct sched_view *v, bool *keep);
void flow_filter_concurrency(struct plugin *p, const struct sched_view *v, bool *keep);
#endif
