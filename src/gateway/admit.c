/* Pools and their queues.
 *
 * Saturation is worked out when somebody waits or when the last look is LOOK_MS old or used up: a
 * look that found room grants as many requests as there are endpoints without another one. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/admit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <inttypes.h>
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
};

struct admission {
    struct gateway *g;
    struct sched_flow_conf conf;
    struct sched_pipeline *pipeline;
    const struct admit_ops *ops;
    struct pool pool[POOLS_MAX];
    uint32_t pool_count, waiting;
    bool is_pumping;
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
    p->granted = !p->is_empty && p->saturation < ROOM_TO_SPARE ? n : 0;
}

static struct flow_fleet fleet_of(const struct pool *p)
{
    return (struct flow_fleet) { .saturation = p->saturation, .is_empty = p->is_empty };
}

enum admit_verdict admit_enter(struct admission *a, struct admit_ticket *t, const struct routing *x,
                               const struct admit_ops *ops, void *owner, enum flow_outcome *why)
{
    struct str model = x->reading.model.p != NULL ? x->reading.model : endpoints_model(a->g);
    struct pool *p = pool_of(a, model);
    uint64_t now = clock_ms();
    struct flow_fleet fleet;

    t->pool = p;
    t->entered_ns = clock_ns();
    t->expected_tokens =
        x->reading.prompt_tokens +
        MIN(x->reading.max_tokens != 0 ? x->reading.max_tokens : a->g->conf.decode_tokens_default,
            a->g->conf.decode_tokens_max);
    t->item.tokens = t->expected_tokens;
    t->item.owner = owner;
    a->ops = ops;
    if (flow_queued(p->flow) == 0) {
        if (p->granted == 0 || now - p->look_ms >= LOOK_MS)
            look(a, p);
        if (p->granted > 0) {
            p->granted--;
            t->left_ns = t->entered_ns;
            return ADMIT_GO;
        }
    }
    fleet = fleet_of(p);
    *why = flow_enqueue(p->flow, &t->item, &fleet, now);
    if (*why != FLOW_DISPATCHED)
        return ADMIT_REFUSED;
    a->waiting++;
    t->is_charged = true;
    /* with room for one, the next in turn may be this one */
    if (fleet.saturation < 1 && flow_queued(p->flow) == 1 &&
        flow_next(p->flow, &fleet, now) == &t->item) {
        a->waiting--;
        t->left_ns = clock_ns();
        return ADMIT_GO;
    }
    return ADMIT_WAIT;
}

void admit_leave(struct admission *a, struct admit_ticket *t)
{
    if (!admit_is_waiting(t))
        return;
    flow_remove(t->pool->flow, &t->item);
    a->waiting--;
}

void admit_settle(struct admission *a, struct admit_ticket *t, double tokens)
{
    (void)a;
    if (!t->is_charged || t->left_ns == 0)
        return;
    t->is_charged = false;
    flow_settle(t->pool->flow, t->item.fairness_id, t->item.priority, t->expected_tokens, tokens,
                clock_ms());
}

static struct admit_ticket *ticket_of(struct flow_item *it)
{
    return (struct admit_ticket *)((char *)it - offsetof(struct admit_ticket, item));
}

static void pump_pool(struct admission *a, struct pool *p)
{
    struct flow_fleet fleet;
    struct flow_item *it;
    enum flow_outcome why;

    for (unsigned n = 0; n < PUMP_MAX && flow_queued(p->flow) != 0; n++) {
        look(a, p);
        fleet = fleet_of(p);
        it = flow_next(p->flow, &fleet, clock_ms());
        if (it == NULL)
            break;
        a->waiting--;
        ticket_of(it)->left_ns = clock_ns();
        a->ops->go(it->owner); /* books: the next look sees it */
    }
    fleet = fleet_of(p);
    while ((it = flow_expire(p->flow, &fleet, clock_ms(), &why)) != NULL) {
        a->waiting--;
        a->ops->refuse(it->owner, why, fleet.is_empty);
    }
}

void admit_pump(struct admission *a)
{
    if (a->waiting == 0 || a->is_pumping)
        return;
    a->is_pumping = true; /* what goes may end at once and pump again */
    for (uint32_t i = 0; i < a->pool_count; i++)
        if (flow_queued(a->pool[i].flow) != 0)
            pump_pool(a, &a->pool[i]);
    a->is_pumping = false;
}

bool admit_is_waiting(const struct admit_ticket *t)
{
    return t->item.queue != NULL;
}

uint32_t admit_position(const struct admit_ticket *t)
{
    return admit_is_waiting(t) ? flow_position(t->pool->flow, &t->item) : 0;
}

uint32_t admit_waiting(const struct admission *a)
{
    return a->waiting;
}

uint32_t admit_retry_after_s(struct admission *a, const struct admit_ticket *t)
{
    return t->pool == NULL ? 1 : flow_retry_after_s(t->pool->flow, rng_u64(&a->g->rng), clock_ms());
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
    double worst[3] = { 0 };
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
    for (size_t i = 0; i < COUNT(stages); i++)
        metric_set(gateway_cell(a->g, M_FLOW_SATURATION, gateway_pool, stages[i]), worst[i]);
}
