/* sched/flow.h - flow control: bounded queues in front of the decision.
 *
 * A request waits here while the fleet is saturated.  Bands by priority, flows (tenants) within a
 * band, an order within a flow; who is next is asked whenever something changed.  Time and
 * saturation are given, so that every rule can be tested; items belong to their owner and are
 * linked in, nothing is copied.
 *
 *   flow_enqueue -> queued -> flow_next (dispatched) -> flow_settle (what it really cost)
 *                     |-----> flow_expire (its time is over)
 *                     `-----> flow_remove (its client left)
 *
 * Invariant: queued requests and bytes per band and in all equal the sums over linked items.
 * Source: the project's scheduler page, section 9; reliability page, 3.6.
 * Threads: one owner at a time (the gateway's lock). */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_FLOW_H
#define SCHED_FLOW_H
#include "sched/config.h"

enum flow_outcome { /* names as upstream's metric label has them */
                    FLOW_DISPATCHED,
                    FLOW_REJECTED_CAPACITY,
                    FLOW_REJECTED_NO_ENDPOINTS,
                    FLOW_EVICTED_TTL,
                    FLOW_EVICTED_NO_ENDPOINTS,
                    FLOW_EVICTED_CANCELLED,
                    FLOW_REJECTED_OTHER,
                    FLOW_OUTCOMES
};
const char *flow_outcome_name(enum flow_outcome o); /* "RejectedCapacity" ... */
/* HTTP status, drop reason and message prefix of an outcome (spec 9.5). */
int flow_outcome_status(enum flow_outcome o, bool pool_is_empty);
const char *flow_outcome_reason(enum flow_outcome o, bool pool_is_empty);

struct flow;

/* In the owner's request.  Zeroed is valid; fields of the second group are the flow's. */
struct flow_item {
    struct str fairness_id; /* borrowed while queued */
    double weight;          /* of its flow, > 0; 0 = 1.  The latest item's counts */
    int32_t priority;
    size_t bytes;
    double tokens;        /* expected cost: prompt that is to be computed, and answer */
    uint64_t received_ms; /* for deadline ordering */
    double slo_ttft_ms;   /* 0 = none */
    void *owner;

    struct flow_item *next, *prev; /* by time of arrival */
    struct flow_queue *queue;      /* NULL: not queued */
    uint32_t heap_at;              /* its place in the order of its queue */
    uint64_t seq, enqueued_ms;
};

/* What the caller knows of the fleet at one moment. */
struct flow_fleet {
    double saturation; /* of the detector; >= 1: full.  flow_saturation below computes it */
    bool is_empty;     /* no endpoint at all */
};

/* pipeline: instances of the configured policies (ordering, fairness, usage limit); borrowed. */
struct flow *flow_new(const struct sched_flow_conf *c, struct sched_pipeline *pipeline);
void flow_free(struct flow *f); /* nothing may be queued */
/* FLOW_DISPATCHED: it is queued (flow_next gives it when its turn comes); else why not. */
enum flow_outcome flow_enqueue(struct flow *f, struct flow_item *it, const struct flow_fleet *fleet,
                               uint64_t now_ms);
/* The item to dispatch now, unlinked; NULL: nobody, or the fleet is full for who is next. */
struct flow_item *flow_next(struct flow *f, const struct flow_fleet *fleet, uint64_t now_ms);
/* Who waited in vain at the last flow_next: the highest priority that has requests and whose
 * ceiling saturation had reached. */
struct flow_demand {
    int32_t priority;
    double ceiling; /* > 0: one of 0 is not to be reached by making room */
};
/* False: nobody did. */
bool flow_demand(const struct flow *f, struct flow_demand *out);
void flow_remove(struct flow *f, struct flow_item *it); /* no-op when not queued */
/* Unlinks and returns one item whose time is over, and why; NULL: none is. */
struct flow_item *flow_expire(struct flow *f, const struct flow_fleet *fleet, uint64_t now_ms,
                              enum flow_outcome *why);
/* A dispatched request ended: what it really cost, in prompt tokens that were computed and tokens
 * of the answer (policies that share by service). */
void flow_settle(struct flow *f, struct str fairness_id, int32_t priority, double expected_tokens,
                 double prompt_tokens, double answer_tokens, uint64_t now_ms);
/* Idle flows and bands go (5 and 10 minutes). */
void flow_tick(struct flow *f, uint64_t now_ms);
/* Requests that would go first if nothing else came: from 1. */
uint32_t flow_position(const struct flow *f, const struct flow_item *it);
/* Whole seconds for Retry-After: queued / drain rate of the last 10 s, in 1..30, with up to 20 %
 * on top by `random` so that those refused do not come back together. */
uint32_t flow_retry_after_s(const struct flow *f, uint64_t random, uint64_t now_ms);
uint32_t flow_queued(const struct flow *f);
size_t flow_queued_bytes(const struct flow *f);

struct flow_band_view {
    int32_t priority;
    uint32_t requests;
    size_t bytes;
    uint64_t requests_max, bytes_max;
};
uint32_t flow_bands(const struct flow *f, struct flow_band_view *out, uint32_t max);
/* fn for every flow with queued requests. */
void flow_each(const struct flow *f,
               void (*fn)(void *ctx, struct str fairness_id, int32_t priority, uint32_t requests,
                          size_t bytes),
               void *ctx);

/* ---- saturation ---- */

/* Of the whole fleet, as the configured detector says: split by role as spec 9.4 does (max over
 * the parts that are not empty).  parts, when not NULL: prefill, decode. */
double flow_saturation(struct sched_pipeline *p, const struct sched_flow_conf *c,
                       const struct sched_endpoint *ep, uint32_t count, uint64_t now_ms,
                       double parts[2]);

/* Saturation without tuning (type adaptive-detector, the default without a file): how many
 * requests an endpoint runs at once is learned from its own queue.  An endpoint with requests
 * waiting is full at what it runs; one without may take more, a little at a time. */
struct flow_limit {
    double limit; /* requests in flight that keep it busy; 0 = nothing known */
    uint64_t at_ms;
};
/* inflight: ours and others'; waiting, running: as scraped just now. */
void flow_limit_learn(struct flow_limit *l, double inflight, double running, double waiting,
                      uint32_t slots, uint64_t now_ms);
#endif
