/* sched/evict.h - who is ended so that somebody of higher priority need not wait.
 *
 * All requests in flight are counted; only sheddable ones (priority below 0) can be chosen: the
 * lowest priority first, and of those the one that began last, for it has cost the least.
 *
 *   evict_track -> in flight -> evict_choose -> revoked -> evict_end (confirmed)
 *                     `-> evict_end                 `---> evict_expire (it did not end in time)
 *
 * Until the last ones chosen have ended, and for grace_ms after, nobody else is: saturation must
 * show first what that gave back.
 * Invariant: outstanding > 0 or now < quiet_until_ms  =>  evict_choose chooses nobody.
 * Source: the project's scheduler page, 9.8.
 * Threads: one owner at a time (the gateway's lock). */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_EVICT_H
#define SCHED_EVICT_H
#include "sched/flow.h"

#define EVICT_MAX 2 /* chosen at a time */

/* In the owner's request.  Zeroed is valid. */
struct evict_item {
    int32_t priority;
    struct evict_item *next, *prev; /* sheddable and not chosen: the latest first */
    uint64_t batch;                 /* that it was chosen with; 0 = not */
    bool is_tracked;
};

/* How long what was given back needs to show: at once where our own books are looked at, else until
 * pages scraped before are too old to count. */
uint32_t evict_grace_ms(struct sched_pipeline *p, const struct sched_flow_conf *c,
                        uint32_t scrape_ms, uint32_t stale_ms);

/* Zeroed but for grace_ms. */
struct evict {
    uint32_t grace_ms;
    struct evict_item *first;
    uint32_t inflight;            /* all that are tracked */
    uint64_t batch;               /* the last one */
    uint32_t chosen, outstanding; /* of it; and those that did not end yet */
    double credit;                /* saturation that one of it is expected to give back */
    uint64_t issued_ms, quiet_until_ms;
};

void evict_track(struct evict *e, struct evict_item *it, int32_t priority);
/* It ended, or never mind if it is not tracked.  True: it had been chosen and that is hereby
 * confirmed, *after_ms later. */
bool evict_end(struct evict *e, struct evict_item *it, uint64_t now_ms, uint64_t *after_ms);
/* Whom to end for d; as many as should bring saturation below its ceiling, at most EVICT_MAX.  They
 * stay tracked until evict_end.  Returns how many. */
uint32_t evict_choose(struct evict *e, const struct flow_demand *d, double saturation,
                      uint64_t now_ms, struct evict_item *out[EVICT_MAX]);
/* Gives up on those that did not end within ten seconds.  Returns how many. */
uint32_t evict_expire(struct evict *e, uint64_t now_ms);
/* Saturation that is expected back from those chosen. */
double evict_pending(const struct evict *e, uint64_t now_ms);
#endif
