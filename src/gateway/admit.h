/* gateway/admit.h - requests wait here while their model's endpoints are full.
 *
 * Between reading a request and deciding where it goes stands flow control (sched/flow.h), one for
 * each model: a model whose endpoints are full must not hold up another's.  With nobody waiting and
 * room to spare a request passes without a look at the queues.
 *
 *   admit_enter -> go at once
 *             `-> queued -> go (room came) | refused (its time is over) | admit_leave (client left)
 *
 * With eviction on, a request that went may be ended again for one of higher priority that waits.
 *
 * Source: the project's scheduler page, section 9; reliability page, 3.6.
 * Threads: any of the gateway's loops; what becomes of a ticket is told on its own loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_ADMIT_H
#define GATEWAY_ADMIT_H
#include "sched/evict.h"

struct front;
struct gateway;
struct routing;

struct admit_ops;

/* In whoever waits. */
struct admit_ticket {
    struct flow_item item;
    struct evict_item running; /* from its going to admit_settle */
    struct pool *pool;         /* whose endpoints it uses; NULL: never entered */
    struct front *front;       /* whose loop it is told on */
    struct admission *admission;
    const struct admit_ops *ops;
    uint64_t entered_ns, left_ns;
    bool is_posted, is_abandoned; /* word for it is on its way; nobody waits for it */
    bool is_refused, pool_is_empty;
    enum flow_outcome why;
    double expected_tokens;
    bool is_charged; /* went through the queues: its flow's share is counted */
};

/* What becomes of a ticket; owner: as given to admit_enter. */
struct admit_ops {
    void (*go)(void *owner);
    void (*refuse)(void *owner, enum flow_outcome why, bool pool_is_empty);
    void (*release)(void *owner); /* after admit_leave had to say false */
    /* It went, and is to end now, from a post of its own loop: admit_settle and what it booked at
     * once, the rest soon. */
    void (*evict)(void *owner);
};

struct admission;
struct admission *admission_new(struct gateway *g, const struct sched_flow_conf *c,
                                struct sched_pipeline *pipeline);
void admission_free(struct admission *a); /* nobody may wait any more */

enum admit_verdict { ADMIT_GO, ADMIT_WAIT, ADMIT_REFUSED };
/* ADMIT_WAIT: ops are called later, unless admit_leave comes first.  ADMIT_REFUSED: *why. */
enum admit_verdict admit_enter(struct admission *a, struct admit_ticket *t, const struct routing *x,
                               const struct admit_ops *ops, void *owner, enum flow_outcome *why);
/* Out of the queue.  False: word for it is on its way from another loop, and its memory must stay
 * until release is called. */
bool admit_leave(struct admit_ticket *t);
/* It ended: what it cost in tokens (prompt that was computed, and answer). */
void admit_settle(struct admit_ticket *t, double prompt_tokens, double answer_tokens);
/* Room may have come: an answer ended, a scrape came, time went by.  f: the loop that it runs on.
 */
void admit_pump(struct admission *a, struct front *f);
uint32_t admit_position(const struct admit_ticket *t); /* from 1; 0: none */
uint32_t admit_retry_after_s(const struct admit_ticket *t, uint64_t random);
/* Forgets idle flows and bands; now and then.  The gateway's lock is held. */
void admit_tick(struct admission *a);
/* Sets the gauges of queues and saturation.  The gateway's lock is held. */
void admit_metrics(struct admission *a);
#endif
