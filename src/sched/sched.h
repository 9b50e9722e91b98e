/* sched/sched.h - the decision: a pure function of a snapshot and a request.
 *
 * One cost in estimated milliseconds per candidate: queue + prefill of what is
 * not cached + transfer + decode interference; the least cost wins, near ties
 * are broken at random (by the seed given).  No I/O, no clock, no globals, so a
 * decision can be replayed.  Source: the project's scheduler page and design 2.
 * Threads: pure. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H
#include "base/str.h"
#include <stdint.h>

enum sched_role { SCHED_BOTH, SCHED_PREFILL, SCHED_DECODE };
const char *sched_role_name(enum sched_role r);
bool sched_role_parse(struct str s, enum sched_role *out); /* both prefill decode */

struct sched_label {
    struct str key, value;
};

/* The role by llm-d.ai/role, of whose words more are known than roles: encoders take no part in
 * text.  False: no such label, *out is both. */
bool sched_role_of(const struct sched_label *label, uint32_t count, enum sched_role *out);

enum sched_use { /* used, or not used because */
                 SCHED_USED,
                 SCHED_UNREACHABLE,
                 SCHED_STALE,
                 SCHED_FROZEN,
                 SCHED_LOADING,
                 SCHED_DRAINING,
                 SCHED_OTHER_MODEL,
                 SCHED_EXCLUDED,
                 SCHED_CIRCUIT_OPEN
};
const char *sched_use_name(enum sched_use u);

struct sched_attribute { /* "key/producer" */
    struct str key, producer;
    double value;
};

struct sched_endpoint {
    struct str address; /* "127.0.0.1:8101" */
    enum sched_role role;
    enum sched_use use; /* SCHED_USED: a candidate */
    /* scraped */
    double waiting, running; /* requests */
    double kv_usage;         /* 0..1 */
    /* own accounting, added before dispatch */
    uint32_t inflight;
    double inflight_prefill_tokens; /* sum of book_tokens of requests without a first token yet */
    double inflight_decode;         /* streams past their first token */
    /* learned per endpoint (moving averages); 0 = unknown: the defaults below apply */
    double prefill_ms_per_token, decode_ms_per_token; /* the latter with no other stream beside */
    double decode_batch_slope;
    uint32_t slots;       /* concurrent sequences; 0 = unknown */
    uint32_t kvx_capable; /* can take part in a hand-over */

    /* what llm-d's plugins look at (sched/plugin.h) */
    uint64_t uid;  /* never used again for another endpoint */
    struct str id; /* "namespace/name-rank-0"; file discovery: "namespace/name" */
    const struct sched_label *label;
    uint32_t label_count;
    bool has_metrics, is_stale; /* scraped at all; older than the staleness threshold */
    uint32_t metrics_age_ms;
    double scraped_waiting, scraped_running, scraped_kv; /* as its page said */
    uint32_t cache_block_tokens, cache_blocks;           /* 0 = not said */
    double cache_used_tokens;                     /* of them hold a prefix, as far as known */
    const struct str *lora_active, *lora_waiting; /* adapters */
    uint32_t lora_active_count, lora_waiting_count, lora_max;
    double inflight_limit;      /* learned (sched/flow.h); 0 = unknown */
    uint32_t inflight_requests; /* every profile's picks count */
    double inflight_tokens;
    const struct sched_attribute *attribute; /* custom metrics and the like */
    uint32_t attribute_count;
};

struct sched_request {
    uint32_t prompt_tokens, block_tokens;
    uint32_t max_tokens;     /* 0 = unknown */
    const uint32_t *matched; /* per endpoint: leading blocks held (0 when unknown) */
    const bool *excluded;    /* per endpoint, already tried; NULL = none */
    uint64_t random;         /* for ties */
    uint32_t sharers;        /* unfinished requests that share the best matched prefix */
    bool no_split;           /* the caller rules a split out */

    /* what llm-d's plugins look at (sched/plugin.h) */
    struct str id, model, target_model; /* target: after rewriting */
    struct str fairness_id, objective;
    int32_t priority;
    size_t body_bytes;
    /* Chain keys of full blocks of block_tokens each; tail: of the last, shorter one (0 = none). */
    const uint64_t *keys;
    uint32_t key_count;
    uint64_t tail_key;
    /* Precise match per endpoint in blocks of block_tokens, by the index; NULL = no index. */
    const uint32_t *indexed;
    struct str (*header)(const void *ctx, const char *name); /* NULL = no headers */
    const void *header_ctx;
    uint64_t held;        /* its number among those that waited for others; 0: it did not */
    uint32_t media_items; /* images, audio, video parts of the prompt */
};

struct sched_conf {
    double default_prefill_ms_per_token, default_decode_ms_per_token; /* 2, 20 */
    double transfer_ms_per_token;                                     /* 0.02 */
    double split_fixed_ms;                                            /* cost of an extra hop: 10 */
    uint32_t split_min_tokens;    /* shorter uncached prompts are never split: 128 */
    double split_cached_fraction; /* prompts cached beyond it at the decode side are never split:
                                     0.75 */
    double tie_fraction;          /* costs within this are equal: 0.03 */
    double decode_interference; /* share of a prefill's time that each running stream loses: 0.3 */
    double decode_batch_slope;  /* how much one more stream stretches a decode step: 0.3 */
    uint32_t decode_tokens_default; /* answer length when max_tokens is unknown: 128 */
    uint32_t decode_tokens_max;     /* longer promises are rarely kept: 512 */
    double role_fraction;           /* work on the other side of a role costs that much more: 0.5 */
    double role_fixed_ms;           /* and a prefill worker that decodes this: 500 */
    double kv_full;                 /* KV usage from where a prompt waits for room: 0.9 */
    double evict_factor; /* what a copy pushes out of a full cache costs so many times more: 3 */
};
void sched_conf_default(struct sched_conf *c);

struct sched_cost {
    double queue_ms, prefill_ms, transfer_ms, interference_ms, total_ms;
    uint32_t cached_tokens;
};

#define SCHED_NONE UINT32_MAX

struct sched_decision {
    uint32_t decode;           /* endpoint index, or SCHED_NONE: nobody */
    uint32_t prefill;          /* SCHED_NONE: not split */
    struct sched_cost cost;    /* of the choice */
    double book_tokens;        /* prompt tokens to count as in flight where they are computed */
    const char *why_not_split; /* NULL when split; else one of sched_why_not_split[] */
};

/* Every reason, for metric labels; NULL-ended. */
extern const char *const sched_why_not_split[];
extern const char *const sched_why_off; /* the one that says: not asked for */

/* costs: one per endpoint (as aggregated candidate), may be NULL. */
void sched_decide(const struct sched_conf *c, const struct sched_endpoint *ep, uint32_t count,
                  const struct sched_request *r, struct sched_decision *out,
                  struct sched_cost *costs);

/* ---- which rule decides ---- */

enum sched_strategy {
    SCHED_COST,       /* the estimated milliseconds above; the default without a configuration */
    SCHED_CONFIGURED, /* the pipeline of the configuration file */
    SCHED_ROUND_ROBIN,
    SCHED_RANDOM,
    SCHED_LEAST_REQUESTS, /* fewest in flight, ties at random */
    SCHED_STRATEGIES
};
const char *sched_strategy_name(enum sched_strategy s); /* cost config round_robin ... */
bool sched_strategy_parse(struct str s, enum sched_strategy *out);

/* The last three: among candidates that decode.  turn: of round robin, counted on by the caller.
 * Never splits. */
void sched_decide_plainly(enum sched_strategy s, const struct sched_endpoint *ep, uint32_t count,
                          const struct sched_request *r, uint64_t turn, struct sched_decision *out);

/* ---- what is learned from answers (sched/learn.c) ---- */

/* A request as it was seen from outside, once it has ended. */
struct sched_sample {
    double ttft_ms;         /* dispatch to first byte; 0 = not seen */
    double uncached_tokens; /* prompt tokens that were computed for it */
    double queued_tokens;   /* prompt tokens in front of it at dispatch */
    double decode_ms;       /* first to last byte; 0 = not seen */
    uint32_t decode_tokens; /* after the first one */
    double streams;         /* other streams on the endpoint meanwhile (average) */
    double whole_ms;        /* an answer that came in one piece, alone on its endpoint; else 0 */
};

/* Zeroed is valid: nothing learned. */
struct sched_learner {
    double prefill_ms_per_token; /* 0 = unknown */
    double decode_ms_per_token;  /* 0 = unknown; one stream alone */
    double decode_batch_slope;   /* 0 = unknown */
    uint32_t prefill_samples, decode_samples;
    double weight, sx, sxx, sy, sxy; /* decayed sums of (streams, ms per token) */
    double suu, sun, snn, sut, snt;  /* of whole answers: uncached, answer tokens, ms */
};

void sched_learn(struct sched_learner *l, const struct sched_conf *c, const struct sched_sample *s);

/* What learned rates make of an endpoint.  A fleet's endpoints are taken for equal until they
 * clearly are not: chance and neighbours make up to RATE_EQUAL of difference, and few samples say
 * little.  fleet: the median of the endpoints that know theirs; conf's value when 0.
 * Fills the three learned fields of *ep. */
void sched_rates(const struct sched_learner *l, const struct sched_conf *c, double fleet_prefill,
                 double fleet_decode, struct sched_endpoint *ep);
/* Median of count values, those that are 0 left out; 0 when none is left.  Reorders v. */
double sched_median(double *v, uint32_t count);
#endif
