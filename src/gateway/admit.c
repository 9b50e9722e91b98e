/* Pools and their queues.
 *
 * Saturation is worked out when somebody waits or when the last look is LOOK_MS old or used up: a
 * look that found room grants as many requests as free endpoints without another one; whoever
 * leaves the queue uses one of these grants.
 *
 * The gateway's lock guards all of it; it is not held while an owner is told.  Whoever waits on
 * another loop is told by a post, one at a time a pool: only when that one has been booked does the
 * next look see it. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/admit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define POOLS_MAX     64 /* models with queues of their own; more share the last one */
#define LOOK_MS       20
#define ROOM_TO_SPARE 0.7 /* saturation under which a look grants several */
#define PUMP_MAX      256 /* granted in one go, so that the loop is not held */

struct pool {
    char *model;
    struct flow *flow;
    uint32_t granted; /* left of the last look */
    uint64_t look_ms;
    double saturation, parts[2];
    bool is_empty;
    uint32_t posted; /* verdicts on their way to other loops */
    struct evict evict;
};

struct admission {
    struct gateway *g;
    struct sched_flow_conf conf;
    struct sched_pipeline *pipeline;
    struct pool pool[POOLS_MAX];
    uint32_t pool_count;
};

struct admission *admission_new(struct gateway *g, const struct sched_flow_conf *c,
                                struct sched_pipeline *pipeline)
{
    struct admission *a = mem_zalloc(sizeof(*a));

    a->g = g;
    a->conf = *c;
    a->pipeline = pipeline;
    return a;
}

void admission_free(struct admission *a)
{
    if (a == NULL)
        return;
    for (uint32_t i = 0; i < a->pool_count; i++) {
        flow_free(a->pool[i].flow);
        mem_free(a->pool[i].model);
    }
    mem_free(a);
}

static struct pool *pool_of(struct admission *a, struct str model)
{
    struct pool *p;

    for (uint32_t i = 0; i < a->pool_count; i++)
        if (str_eqz(model, a->pool[i].model))
            return &a->pool[i];
    if (a->pool_count == POOLS_MAX)
        return &a->pool[POOLS_MAX - 1];
    p = &a->pool[a->pool_count++];
    p->model = str_dup(model);
    p->flow = flow_new(&a->conf, a->pipeline);
    p->evict.grace_ms = evict_grace_ms(a->pipeline, &a->conf, a->g->scrape_ms, a->g->stale_ms);
    return p;
}

/* How full the endpoints of a model are now. */
static void look(struct admission *a, struct pool *p)
{
    struct gateway *g = a->g;
    uint32_t n = 0;
    uint64_t now = clock_ms();

    endpoints_snapshot(g, p->model[0] != 0 ? str_of(p->model) : STR_NONE, g->snap);
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        if (g->snap[i].use == SCHED_USED)
            g->snap[n++] = g->snap[i];
    p->is_empty = n == 0;
    p->saturation = flow_saturation(a->pipeline, &a->conf, g->snap, n, now, p->parts);
    p->look_ms = now;
    p->granted =
        !p->is_empty && p->saturation < ROOM_TO_SPARE ? (uint32_t)ceil(n * (1 - p->saturation)) : 0;
}

static struct flow_fleet fleet_of(const struct pool *p)
{
    return (struct flow_fleet) { .saturation = p->saturation, .is_empty = p->is_empty };
}

/* ---- ending what runs for those who wait ---- */

static bool evicts(const struct admission *a)
{
    return a->conf.enabled && a->conf.eviction;
}

/* It goes.  (locked) */
static void track(struct admit_ticket *t)
{
    if (evicts(t->admission))
        evict_track(&t->pool->evict, &t->running, t->item.priority);
}

static void untrack(struct admit_ticket *t)
{
    struct gateway *g = t->admission->g;
    uint64_t after_ms;

    if (!evict_end(&t->pool->evict, &t->running, clock_ms(), &after_ms))
        return;
    metric_add(gateway_cell(g, M_FLOW_REVOCATIONS, "confirmed", gateway_pool), 1);
    metric_observe(gateway_cell(g, M_FLOW_REVOCATION_SECONDS, gateway_pool, NULL),
                   (double)after_ms * 1e-3);
}

static void revoked(void *ctx)
{
    struct admit_ticket *t = ctx;
    struct gateway *g = t->front->g;
    bool abandoned;

    gateway_lock(g);
    t->is_posted = false;
    abandoned = t->is_abandoned;
    gateway_unlock(g);
    if (abandoned)
        t->ops->release(t->item.owner);
    else
        t->ops->evict(t->item.owner);
}

/* After a flow_next that found nobody: ends who is in the way of somebody better.  By posts, also
 * on this loop: whoever is chosen may be on the stack.  (locked) */
static void reclaim(struct admission *a, struct pool *p)
{
    struct evict_item *victim[EVICT_MAX];
    struct flow_demand d;
    uint64_t now = clock_ms();
    uint32_t n = evict_expire(&p->evict, now);
    char number[16];

    if (n != 0)
        metric_add(gateway_cell(a->g, M_FLOW_REVOCATIONS, "timed_out", gateway_pool), n);
    if (!flow_demand(p->flow, &d))
        return;
    metric_set(gateway_cell(a->g, M_FLOW_RECLAIM_TARGET, gateway_pool, NULL),
               p->saturation - d.ceiling);
    n = evict_choose(&p->evict, &d, p->saturation, now, victim);
    if (n == 0)
        return;
    snprintf(number, sizeof(number), "%" PRId32, d.priority);
    metric_add(gateway_cell(a->g, M_FLOW_REVOCATIONS_ISSUED, number, gateway_pool), n);
    while (n-- > 0) {
        struct admit_ticket *t = CONTAINER_OF(victim[n], struct admit_ticket, running);

        t->is_posted = true;
        loop_post(t->front->loop, revoked, t);
    }
}

static void pump_posted(void *ctx)
{
    struct front *f = ctx;

    f->pump_is_posted = false;
    policies_pump(f->g, f);
}

/* ---- in ---- */

static void ticket_fill(struct admission *a, struct admit_ticket *t, const struct routing *x,
                        void *owner)
{
    uint32_t answer =
        x->reading.max_tokens != 0 ? x->reading.max_tokens : a->g->conf.decode_tokens_default;

    t->front = x->f;
    t->admission = a;
    t->entered_ns = clock_ns();
    t->expected_tokens = x->reading.prompt_tokens + MIN(answer, a->g->conf.decode_tokens_max);
    t->item.tokens = t->expected_tokens;
    t->item.fairness_id = str_of(x->fairness_id);
    t->item.weight = x->weight;
    t->item.priority = x->priority;
    t->item.received_ms = x->t_start / 1000000;
    t->item.slo_ttft_ms = x->slo_ttft_ms;
    t->item.owner = owner;
}

/* Also when nobody is waited for. */
static bool was_anybody(const struct gateway *g)
{
    if (g->wait_ms == 0)
        return true;
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        if (g->endpoints[i]->last_in_ms != 0)
            return true;
    return false;
}

static enum admit_verdict enter(struct admission *a, struct admit_ticket *t, struct pool *p,
                                enum flow_outcome *why)
{
    uint64_t now = clock_ms();
    struct flow_fleet fleet;

    t->pool = p;
    if (!a->conf.enabled) { /* upstream's gate is off: only what may be shed is looked at */
        *why = FLOW_REJECTED_OTHER;
        if (t->item.priority < 0)
            look(a, p);
        return t->item.priority < 0 && p->saturation >= 1 ? ADMIT_REFUSED : ADMIT_GO;
    }
    if (flow_queued(p->flow) == 0 && p->posted == 0) {
        if (p->granted == 0 || now - p->look_ms >= LOOK_MS)
            look(a, p);
        /* with nobody there any more the proxy knows better what to say; the first worker of all
         * is waited for here */
        if (p->granted > 0 || (p->is_empty && a->pipeline == NULL && was_anybody(a->g))) {
            p->granted -= p->granted > 0;
            return ADMIT_GO;
        }
    }
    fleet = fleet_of(p);
    *why = flow_enqueue(p->flow, &t->item, &fleet, now);
    if (*why != FLOW_DISPATCHED)
        return ADMIT_REFUSED;
    a->g->waiting++;
    t->is_charged = true;
    /* with room for one, the next in turn may be this one */
    if (fleet.saturation < 1 && flow_queued(p->flow) == 1 && p->posted == 0 &&
        flow_next(p->flow, &fleet, now) == &t->item) {
        a->g->waiting--;
        return ADMIT_GO;
    }
    return ADMIT_WAIT;
}

enum admit_verdict admit_enter(struct admission *a, struct admit_ticket *t, const struct routing *x,
                               const struct admit_ops *ops, void *owner, enum flow_outcome *why)
{
    char name[MODEL_NAME_MAX + 1];
    struct str model = routing_model(x).p != NULL ? routing_model(x) : endpoints_model(a->g, name);
    enum admit_verdict v;

    ticket_fill(a, t, x, owner);
    t->ops = ops;
    gateway_lock(a->g);
    v = enter(a, t, pool_of(a, model), why);
    if (v == ADMIT_GO)
        track(t);
    gateway_unlock(a->g);
    /* its coming may be reason enough to end another */
    if (v == ADMIT_WAIT && evicts(a) && !x->f->pump_is_posted) {
        x->f->pump_is_posted = true;
        loop_post(x->f->loop, pump_posted, x->f);
    }
    if (v == ADMIT_GO)
        t->left_ns = clock_ns();
    return v;
}

bool admit_leave(struct admit_ticket *t)
{
    struct admission *a = t->admission;
    bool free_now;

    if (t->pool == NULL)
        return true;
    gateway_lock(a->g);
    if (t->item.queue != NULL) {
        flow_remove(t->pool->flow, &t->item);
        a->g->waiting--;
    }
    free_now = !t->is_posted;
    t->is_abandoned = true;
    gateway_unlock(a->g);
    return free_now;
}

void admit_settle(struct admit_ticket *t, double prompt_tokens, double answer_tokens)
{
    struct admission *a = t->admission;
    bool was_charged = t->is_charged && t->left_ns != 0;

    if (!was_charged && !t->running.is_tracked)
        return;
    gateway_lock(a->g);
    untrack(t);
    if (was_charged)
        flow_settle(t->pool->flow, t->item.fairness_id, t->item.priority, t->expected_tokens,
                    prompt_tokens, answer_tokens, clock_ms());
    gateway_unlock(a->g);
    t->is_charged = t->is_charged && !was_charged;
}

static struct admit_ticket *ticket_of(struct flow_item *it)
{
    return (struct admit_ticket *)((char *)it - offsetof(struct admit_ticket, item));
}

static void tell(struct admit_ticket *t)
{
    void *owner = t->item.owner;

    if (t->is_refused) {
        t->ops->refuse(owner, t->why, t->pool_is_empty);
        return;
    }
    t->left_ns = clock_ns();
    if (evicts(t->admission)) {
        gateway_lock(t->front->g);
        track(t);
        gateway_unlock(t->front->g);
    }
    t->ops->go(owner); /* books: the next look sees it */
}

/* A verdict arrived on its ticket's own loop. */
static void arrived(void *ctx)
{
    struct admit_ticket *t = ctx;
    struct front *f = t->front;
    struct gateway *g = f->g;
    bool abandoned;

    gateway_lock(g);
    t->pool->posted--;
    t->is_posted = false;
    abandoned = t->is_abandoned;
    gateway_unlock(g);
    /* either may have been the last request of this admission: it is not to be used after */
    if (abandoned)
        t->ops->release(t->item.owner);
    else
        tell(t);
    policies_pump(g, f);
}

/* Takes the next one out whose turn it is or whose time is over.  (locked) */
static struct admit_ticket *take(struct admission *a, struct pool *p)
{
    struct flow_fleet fleet;
    struct admit_ticket *t;
    struct flow_item *it;
    enum flow_outcome why = FLOW_DISPATCHED;

    if (flow_queued(p->flow) == 0 || p->posted != 0)
        return NULL;
    look(a, p);
    fleet = fleet_of(p);
    it = flow_next(p->flow, &fleet, clock_ms());
    if (it != NULL)
        p->granted -= p->granted > 0;
    else if (evicts(a))
        reclaim(a, p);
    if (it == NULL)
        it = flow_expire(p->flow, &fleet, clock_ms(), &why);
    if (it == NULL)
        return NULL;
    a->g->waiting--;
    t = ticket_of(it);
    t->is_refused = why != FLOW_DISPATCHED;
    t->why = why;
    t->pool_is_empty = fleet.is_empty;
    return t;
}

/* False: nothing is left to do for now. */
static bool pump_one(struct admission *a, struct front *f, struct pool *p)
{
    struct admit_ticket *t;
    bool elsewhere;

    gateway_lock(a->g);
    t = take(a, p);
    elsewhere = t != NULL && t->front != f;
    if (elsewhere) {
        t->is_posted = true;
        p->posted++;
        loop_post(t->front->loop, arrived, t);
    }
    gateway_unlock(a->g);
    if (t != NULL && !elsewhere)
        tell(t);
    return t != NULL && !elsewhere;
}

void admit_pump(struct admission *a, struct front *f)
{
    uint32_t pools;

    if (a->g->waiting == 0 || f->is_pumping)
        return;
    f->is_pumping = true; /* who goes may end at once and pump again */
    gateway_lock(a->g);
    pools = a->pool_count;
    gateway_unlock(a->g);
    for (uint32_t i = 0; i < pools; i++)
        for (unsigned n = 0; n < PUMP_MAX && pump_one(a, f, &a->pool[i]); n++)
            ;
    f->is_pumping = false;
}

uint32_t admit_position(const struct admit_ticket *t)
{
    struct admission *a = t->admission;
    uint32_t at;

    if (a == NULL)
        return 0;
    gateway_lock(a->g);
    at = t->item.queue != NULL ? flow_position(t->pool->flow, &t->item) : 0;
    gateway_unlock(a->g);
    return at;
}

uint32_t admit_retry_after_s(const struct admit_ticket *t, uint64_t random)
{
    struct admission *a = t->admission;
    uint32_t s;

    if (t->pool == NULL)
        return 1;
    gateway_lock(a->g);
    s = flow_retry_after_s(t->pool->flow, random, clock_ms());
    gateway_unlock(a->g);
    return s;
}

void admit_tick(struct admission *a)
{
    uint64_t now = clock_ms();

    for (uint32_t i = 0; i < a->pool_count; i++)
        flow_tick(a->pool[i].flow, now);
}

struct gauges {
    struct gateway *g;
    const char *model;
};

static void flow_gauges(void *ctx, struct str fairness_id, int32_t priority, uint32_t requests,
                        size_t bytes)
{
    const struct gauges *w = ctx;
    char number[16], *id = str_dup(fairness_id);
    const char *v[] = { id, number, gateway_pool, w->model, w->model };

    snprintf(number, sizeof(number), "%" PRId32, priority);
    metric_set(gateway_cell_of(w->g, M_FLOW_QUEUE_SIZE, v), requests);
    metric_set(gateway_cell_of(w->g, M_FLOW_QUEUE_BYTES, v), (double)bytes);
    mem_free(id);
}

void admit_metrics(struct admission *a)
{
    static const char *const stages[] = { "effective", "prefill", "decode" };
    struct flow_band_view band[SCHED_BANDS_MAX + 1];
    double worst[3] = { 0 }, pending = 0;
    char number[16];

    /* who waits no longer is shown at zero */
    metrics_zero(a->g->metrics, M_FLOW_QUEUE_SIZE);
    metrics_zero(a->g->metrics, M_FLOW_QUEUE_BYTES);
    for (uint32_t i = 0; i < a->pool_count; i++) {
        struct pool *p = &a->pool[i];
        struct gauges w = { a->g, p->model };
        uint32_t n = flow_bands(p->flow, band, COUNT(band));

        worst[0] = MAX(worst[0], p->saturation);
        worst[1] = MAX(worst[1], p->parts[0]);
        worst[2] = MAX(worst[2], p->parts[1]);
        flow_each(p->flow, flow_gauges, &w);
        pending += evict_pending(&p->evict, clock_ms());
        for (uint32_t k = 0; k < n; k++) {
            snprintf(number, sizeof(number), "%" PRId32, band[k].priority);
            if (band[k].requests_max != 0)
                metric_set(gateway_cell(a->g, M_FLOW_USED_REQUESTS, number, gateway_pool),
                           band[k].requests / (double)band[k].requests_max);
            if (band[k].bytes_max != 0)
                metric_set(gateway_cell(a->g, M_FLOW_USED_BYTES, number, gateway_pool),
                           (double)band[k].bytes / (double)band[k].bytes_max);
        }
    }
    metric_set(gateway_cell(a->g, M_FLOW_PENDING_RECLAIM, gateway_pool, NULL), pending);
    for (size_t i = 0; i < COUNT(stages); i++)
        metric_set(gateway_cell(a->g, M_FLOW_SATURATION, gateway_pool, stages[i]), worst[i]);
}
