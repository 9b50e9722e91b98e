/* gateway/admit.h - requests wait here while their model's endpoints are full.
 *
 * Between reading a request and deciding where it goes stands flow control (sched/flow.h), one for
 * each model: a model whose endpoints are full must not hold up another's.  With nobody waiting and
 * room to spare a request passes without a look at the queues.
 *
 *   admit_enter -> go at once
 *             `-> queued -> go (room came) | refused (its time is over) | admit_leave (client left)
 *
 * Source: the project's scheduler page, section 9; reliability page, 3.6.
 * Threads: the gateway's loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_ADMIT_H
#define GATEWAY_ADMIT_H
#include "sched/flow.h"

struct gateway;
struct routing;

/* In whoever waits. */
struct admit_ticket {
    struct flow_item item;
    struct pool *pool; /* whose endpoints it uses; NULL: never entered */
    uint64_t entered_ns, left_ns;
    double expected_tokens;
    bool is_charged; /* went through the queues: its flow's share is counted */
};

/* What becomes of a ticket that waited; owner: as given to admit_enter. */
struct admit_ops {
    void (*go)(void *owner);
    void (*refuse)(void *owner, enum flow_outcome why, bool pool_is_empty);
};

struct admission;
struct admission *admission_new(struct gateway *g, const struct sched_flow_conf *c,
                                struct sched_pipeline *pipeline);
void admission_free(struct admission *a); /* nobody may wait any more */

enum admit_verdict { ADMIT_GO, ADMIT_WAIT, ADMIT_REFUSED };
/* ADMIT_WAIT: ops are called later, unless admit_leave comes first.  ADMIT_REFUSED: *why. */
enum admit_verdict admit_enter(struct admission *a, struct admit_ticket *t, const struct routing *x,
                               const struct admit_ops *ops, void *owner, enum flow_outcome *why);
void admit_leave(struct admission *a, struct admit_ticket *t);
/* It ended: what it cost in tokens (prompt that was computed, and answer). */
void admit_settle(struct admission *a, struct admit_ticket *t, double tokens);
/* Room may have come: an answer ended, a scrape came, time went by. */
void admit_pump(struct admission *a);
bool admit_is_waiting(const struct admit_ticket *t);
uint32_t admit_position(const struct admit_ticket *t); /* from 1; 0: not waiting */
uint32_t admit_waiting(const struct admission *a);
uint32_t admit_retry_after_s(struct admission *a, const struct admit_ticket *t);
/* Sets the gauges of queues and saturation. */
void admit_metrics(struct admission *a);
#endif
