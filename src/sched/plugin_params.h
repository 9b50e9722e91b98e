/* sched/plugin_params.h - the parameters of scheduling plugins, decoded.
 *
 * One struct a type, filled through the type's table (struct plugin_param); names, defaults and
 * ranges stand there.  Text and lists live in the configuration's arena.
 * Threads: immutable once decoded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PLUGIN_PARAMS_H
#define SCHED_PLUGIN_PARAMS_H
#include "sched/label_selector.h"
#include "sched/sched.h"

struct str_list {
    const struct str *item;
    uint32_t count;
};

/* ---- filters ---- */

struct by_label_params {
    struct str label;
    struct str_list valid_values;
    bool allows_no_label;
};

struct context_length_params { /* also a scorer */
    struct str label;
    bool enable_filtering;
};

enum ttft_source { TTFT_PREFILL_THROUGHPUT, TTFT_LATENCY_PREDICTOR };

struct prefix_affinity_params {
    double affinity_threshold, exploration_probability, max_ttft_penalty_ms;
    double peak_prefill_throughput; /* tokens per second */
    int ttft_source;
    struct str prefix_producer, inflight_producer, latency_producer;
};

struct headroom_tier_params {
    double epsilon_explore_neg;
    struct str latency_producer;
};

enum utilization_metric { UTIL_ACTIVE, UTIL_RUNNING, UTIL_WAITING, UTIL_KV };

struct utilization_condition {
    int metric;
    double max_value;
};

struct utilization_params {
    const struct utilization_condition *condition;
    uint32_t count;
    bool fallback_on_empty;
    struct str inflight_producer;
};

enum compare_op { CMP_LT, CMP_LE, CMP_GT, CMP_GE, CMP_EQ, CMP_NE };

struct attribute_filter_params {
    struct str attribute, producer;
    int on_missing; /* 0 Pass, 1 Fail */
    bool fallback_on_empty, has_algorithm;
    int op;
    double value;
};

/* ---- both ---- */

enum session_strategy { SESSION_ENCODED_ENDPOINT, SESSION_ID };

struct session_source { /* one of both */
    struct str header;
    struct str attribute, producer;
};

struct session_affinity_params {
    int strategy;
    struct str profile, header;
    const struct session_source *source;
    uint32_t source_count;
    uint32_t ttl_s, sweep_s;
    bool has_header_config, has_id_config;
};

struct topology_params {
    int min_affinity; /* filter only */
    struct str producer;
};

/* ---- scorers ---- */

struct load_aware_params {
    int64_t threshold;
};

struct prefix_scorer_params {
    struct str producer;
    double length_weight, length_scale_tokens;
};

struct token_load_params {
    double threshold_tokens;
    struct str inflight_producer;
};

struct active_request_params {
    int64_t idle_threshold;
    double max_busy_score;
    struct str inflight_producer;
};

struct no_hit_lru_params {
    int64_t size;
    struct str producer;
};

enum headroom_strategy { HEADROOM_LEAST, HEADROOM_MOST };

struct latency_scorer_params {
    double ttft_weight, tpot_weight;
    int strategy;
    double kv_weight, queue_weight, prefix_weight;
    struct str prefix_producer, latency_producer;
};

struct media_scorer_params {
    struct str producer;
};

struct attribute_scorer_params {
    struct str attribute, producer;
    bool has_algorithm, higher_is_better, is_fixed;
    double min, max;
};

struct header_label_params {
    struct str header, label;
};

struct cost_scorer_params {
    struct sched_conf conf;
    struct str prefix_producer;
};

/* ---- pickers ---- */

struct picker_params {
    int64_t endpoints_max;
};

/* ---- handlers ---- */

enum stage_order { STAGE_DECODE_FIRST, STAGE_PREFILL_FIRST };

struct disagg_params {
    int order;
    struct str decode, prefill, encode; /* profiles */
    struct str prefill_decider, encode_decider;
    uint32_t nested, flat; /* how many of either form were given */
};

struct pd_params {
    struct str decode, prefill, decider, prefix_producer;
    uint32_t primary_port;
};

struct data_parallel_params {
    uint32_t primary_port;
};

struct header_profile_params {
    struct str header, default_profile;
};

struct prefix_decider_params {
    int64_t non_cached_tokens, prompt_tokens;
};

struct disagg_headers_params {
    struct str prefill, encode;
};
#endif
