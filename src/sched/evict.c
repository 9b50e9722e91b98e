/* The choice of requests in flight that are ended for others. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/evict.h"
#include "base/check.h"
#include "sched/flow_policy.h"
#include <math.h>

#define CONFIRM_MS   10000
#define GRACE_OWN_MS 10
#define GRACE_END_MS 250 /* a worker takes to end a request and free what it held */

uint32_t evict_grace_ms(struct sched_pipeline *p, const struct sched_flow_conf *c,
                        uint32_t scrape_ms, uint32_t stale_ms)
{
    enum flow_detector d = FLOW_ADAPTIVE;

    if (p != NULL)
        (void)flow_detector_of(sched_pipeline_plugin(p, c->saturation)->type, &d);
    return d == FLOW_CONCURRENCY ? GRACE_OWN_MS : scrape_ms + stale_ms + GRACE_END_MS;
}

void evict_track(struct evict *e, struct evict_item *it, int32_t priority)
{
    *it = (struct evict_item) { .priority = priority, .is_tracked = true };
    e->inflight++;
    if (priority >= 0)
        return;
    it->next = e->first;
    if (e->first != NULL)
        e->first->prev = it;
    e->first = it;
}

static void unlink_item(struct evict *e, struct evict_item *it)
{
    if (it->prev != NULL)
        it->prev->next = it->next;
    else
        e->first = it->next;
    if (it->next != NULL)
        it->next->prev = it->prev;
    it->next = it->prev = NULL;
}

bool evict_end(struct evict *e, struct evict_item *it, uint64_t now_ms, uint64_t *after_ms)
{
    if (!it->is_tracked)
        return false;
    it->is_tracked = false;
    e->inflight--;
    if (it->batch == 0) {
        if (it->priority < 0)
            unlink_item(e, it);
        return false;
    }
    if (it->batch != e->batch || e->outstanding == 0)
        return false; /* it was given up on */
    e->outstanding--;
    e->quiet_until_ms = now_ms + e->grace_ms;
    *after_ms = now_ms - e->issued_ms;
    return true;
}

uint32_t evict_expire(struct evict *e, uint64_t now_ms)
{
    uint32_t n = e->outstanding;

    if (n == 0 || now_ms - e->issued_ms < CONFIRM_MS)
        return 0;
    e->outstanding = 0;
    e->quiet_until_ms = now_ms + e->grace_ms;
    return n;
}

static bool is_quiet(const struct evict *e, uint64_t now_ms)
{
    return e->outstanding > 0 || now_ms < e->quiet_until_ms;
}

double evict_pending(const struct evict *e, uint64_t now_ms)
{
    return is_quiet(e, now_ms) ? e->chosen * e->credit : 0;
}

/* The first of the lowest priority: the list has the latest first. */
static struct evict_item *victim(const struct evict *e, int32_t below)
{
    struct evict_item *found = NULL;

    for (struct evict_item *it = e->first; it != NULL; it = it->next)
        if (it->priority < below && (found == NULL || it->priority < found->priority))
            found = it;
    return found;
}

uint32_t evict_choose(struct evict *e, const struct flow_demand *d, double saturation,
                      uint64_t now_ms, struct evict_item *out[EVICT_MAX])
{
    double credit = saturation / MAX(e->inflight, 1u);
    uint32_t n = 0, want;

    if (is_quiet(e, now_ms))
        return 0;
    /* nothing is pending here, so all of what is missing counts */
    want = ceil((saturation - d->ceiling) / credit) > 1 ? EVICT_MAX : 1;
    while (n < want && (out[n] = victim(e, d->priority)) != NULL) {
        unlink_item(e, out[n]);
        out[n++]->batch = e->batch + 1;
    }
    if (n == 0)
        return 0;
    e->batch++;
    e->chosen = e->outstanding = n;
    e->credit = credit;
    e->issued_ms = now_ms;
    return n;
}
