/* Queues: bands by priority, flows within a band, an order within a flow.
 *
 *   band --heap of flows (weighted) or list of flows--> flow --heap of items (by the order)--> item
 *     all items are linked by arrival, too: with one time budget for all, the oldest expires first
 *
 * global-strict ignores flows: there the items of a band share one heap, and flows only count.
 *
 * weighted: start-time fair queueing (Goyal, Vin, Cheng 1996) in tokens.  A flow's next request
 * starts where its last one ended; the flow with the earliest start goes first; the band's virtual
 * time is the start of the one that went last, and a flow that comes back begins there: it is owed
 * nothing for the time it was away.  flow_settle moves a flow's end by what a request cost more or
 * less than expected. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/flow.h"
#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include "sched/flow_policy.h"
#include <math.h>
#include <string.h>

#define FLOWS_MAX    10000 /* of a band; more share the last one */
#define FLOW_IDLE_MS 300000
#define BAND_IDLE_MS 600000
#define DRAIN_S      10
#define FREE_TIMES   8
#define RETRY_S_MAX  30
#define SOFT_FROM    0.5 /* saturation from where soft-reflective counts its cycles */

struct heap {
    struct flow_item **item;
    uint32_t count, cap;
};

struct flow_queue {
    struct flow_band *band;
    char *key;
    struct heap own;
    uint32_t requests;
    size_t bytes;
    double weight;
    double end;         /* weighted: virtual time at which its service so far ends */
    uint32_t active_at; /* weighted: place in the band's heap of flows */
    double service;     /* program-aware: attained tokens, decayed until service_ms */
    uint64_t service_ms, idle_since_ms;
};

struct flow_band {
    struct sched_band_conf conf;
    enum flow_fairness fairness;
    enum flow_ordering ordering;
    const struct flow_program_params *program;
    bool is_fixed; /* of the configuration, or 0 */
    struct map by_key;
    struct flow_queue **flow; /* sorted by key */
    uint32_t flow_count, flow_cap;
    uint32_t turn;              /* round robin: flows from here on go first; may be flow_count */
    struct flow_queue **active; /* weighted: heap of flows with items, by end */
    uint32_t active_count, active_cap;
    struct heap shared; /* strict */
    double vtime;
    uint32_t requests;
    size_t bytes;
    uint64_t idle_since_ms;
};

struct flow {
    struct sched_flow_conf conf;
    struct sched_pipeline *pipeline;
    struct flow_band *band[SCHED_BANDS_MAX + 1]; /* by priority, the highest first */
    uint32_t band_count;
    enum flow_ceiling ceiling;
    const void *ceiling_params;
    uint32_t soft_cycles[SCHED_BANDS_MAX + 1];
    bool has_demand; /* of the last flow_next */
    struct flow_demand demand;
    struct flow_item *first, *last; /* by arrival */
    uint32_t requests;
    size_t bytes;
    uint64_t seq;
    bool was_empty; /* the pool */
    uint64_t pool_changed_ms;
    uint64_t drained_second[DRAIN_S];
    uint32_t drained[DRAIN_S];
};

/* ---- outcomes ---- */

static const char *const outcome_names[] = {
    [FLOW_DISPATCHED] = "Dispatched",
    [FLOW_REJECTED_CAPACITY] = "RejectedCapacity",
    [FLOW_REJECTED_NO_ENDPOINTS] = "RejectedNoEndpoints",
    [FLOW_EVICTED_TTL] = "EvictedTTL",
    [FLOW_EVICTED_NO_ENDPOINTS] = "EvictedNoEndpoints",
    [FLOW_EVICTED_CANCELLED] = "EvictedContextCancelled",
    [FLOW_REJECTED_OTHER] = "RejectedOther",
};

const char *flow_outcome_name(enum flow_outcome o)
{
    return (size_t)o < COUNT(outcome_names) ? outcome_names[o] : "Unknown";
}

int flow_outcome_status(enum flow_outcome o, bool pool_is_empty)
{
    switch (o) {
    case FLOW_DISPATCHED: return 200;
    case FLOW_EVICTED_TTL: return pool_is_empty ? 503 : 429;
    case FLOW_REJECTED_NO_ENDPOINTS:
    case FLOW_EVICTED_NO_ENDPOINTS:
    case FLOW_EVICTED_CANCELLED: return 503;
    default: return 429;
    }
}

const char *flow_outcome_reason(enum flow_outcome o, bool pool_is_empty)
{
    switch (o) {
    case FLOW_REJECTED_CAPACITY: return "rejected-saturated";
    case FLOW_REJECTED_NO_ENDPOINTS:
    case FLOW_EVICTED_NO_ENDPOINTS: return "rejected-no-endpoints";
    case FLOW_EVICTED_TTL: return pool_is_empty ? "rejected-no-endpoints" : "rejected-ttl-expired";
    case FLOW_EVICTED_CANCELLED: return "rejected-context-cancelled";
    default: return NULL;
    }
}

/* ---- the order within a flow ---- */

static double deadline(const struct flow *f, const struct flow_band *b, const struct flow_item *it)
{
    if (b->ordering == FLOW_EDF)
        return f->conf.ttl_ms != 0 ? (double)it->enqueued_ms + f->conf.ttl_ms : INFINITY;
    if (b->ordering == FLOW_SLO_DEADLINE)
        return it->slo_ttft_ms > 0 ? (double)it->received_ms + floor(it->slo_ttft_ms) : INFINITY;
    return 0;
}

static bool is_before(const struct flow *f, const struct flow_band *b, const struct flow_item *x,
                      const struct flow_item *y)
{
    double dx = deadline(f, b, x), dy = deadline(f, b, y);

    if (dx != dy)
        return dx < dy;
    if (b->ordering == FLOW_SLO_DEADLINE && x->received_ms != y->received_ms)
        return x->received_ms < y->received_ms;
    return x->seq < y->seq;
}

static void heap_put(struct heap *h, uint32_t at, struct flow_item *it)
{
    h->item[at] = it;
    it->heap_at = at;
}

static void heap_up(const struct flow *f, const struct flow_band *b, struct heap *h, uint32_t at)
{
    struct flow_item *it = h->item[at];

    while (at > 0 && is_before(f, b, it, h->item[(at - 1) / 2])) {
        heap_put(h, at, h->item[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(h, at, it);
}

static void heap_down(const struct flow *f, const struct flow_band *b, struct heap *h, uint32_t at)
{
    struct flow_item *it = h->item[at];

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= h->count)
            break;
        if (child + 1 < h->count && is_before(f, b, h->item[child + 1], h->item[child]))
            child++;
        if (!is_before(f, b, h->item[child], it))
            break;
        heap_put(h, at, h->item[child]);
        at = child;
    }
    heap_put(h, at, it);
}

static void heap_add(const struct flow *f, const struct flow_band *b, struct heap *h,
                     struct flow_item *it)
{
    if (h->count == h->cap) {
        h->cap = h->cap != 0 ? h->cap * 2 : 8;
        h->item = mem_realloc(h->item, h->cap * sizeof(struct flow_item *));
    }
    h->item[h->count] = it;
    heap_up(f, b, h, h->count++);
}

static void heap_del(const struct flow *f, const struct flow_band *b, struct heap *h,
                     struct flow_item *it)
{
    uint32_t at = it->heap_at;

    h->count--;
    if (at == h->count)
        return;
    h->item[at] = h->item[h->count];
    heap_up(f, b, h, at);
    heap_down(f, b, h, h->item[at]->heap_at);
}

/* ---- flows ---- */

static struct heap *heap_of(struct flow_queue *q)
{
    return q->band->fairness == FLOW_STRICT ? &q->band->shared : &q->own;
}

static void active_put(struct flow_band *b, uint32_t at, struct flow_queue *q)
{
    b->active[at] = q;
    q->active_at = at;
}

static void active_up(struct flow_band *b, uint32_t at)
{
    struct flow_queue *q = b->active[at];

    while (at > 0 && q->end < b->active[(at - 1) / 2]->end) {
        active_put(b, at, b->active[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    active_put(b, at, q);
}

static void active_down(struct flow_band *b, uint32_t at)
{
    struct flow_queue *q = b->active[at];

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= b->active_count)
            break;
        if (child + 1 < b->active_count && b->active[child + 1]->end < b->active[child]->end)
            child++;
        if (b->active[child]->end >= q->end)
            break;
        active_put(b, at, b->active[child]);
        at = child;
    }
    active_put(b, at, q);
}

static void active_add(struct flow_band *b, struct flow_queue *q)
{
    if (b->active_count == b->active_cap) {
        b->active_cap = b->active_cap != 0 ? b->active_cap * 2 : 8;
        b->active = mem_realloc(b->active, b->active_cap * sizeof(struct flow_queue *));
    }
    q->end = MAX(q->end, b->vtime);
    b->active[b->active_count] = q;
    active_up(b, b->active_count++);
}

static void active_del(struct flow_band *b, struct flow_queue *q)
{
    uint32_t at = q->active_at;

    b->active_count--;
    if (at == b->active_count)
        return;
    b->active[at] = b->active[b->active_count];
    active_up(b, at);
    active_down(b, b->active[at]->active_at);
}

/* Where a key is among the sorted flows, or would be. */
static uint32_t flow_find(const struct flow_band *b, const char *key)
{
    uint32_t lo = 0, hi = b->flow_count;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (strcmp(b->flow[mid]->key, key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct flow_queue *queue_known(const struct flow_band *b, struct str key)
{
    uint64_t at;

    return map_gets(&b->by_key, key, &at) ? (struct flow_queue *)(uintptr_t)at : NULL;
}

static struct flow_queue *queue_of(struct flow_band *b, struct str key, uint64_t now_ms)
{
    struct flow_queue *q = queue_known(b, key);
    uint32_t at;

    if (q != NULL)
        return q;
    if (b->flow_count >= FLOWS_MAX)
        return b->flow[FLOWS_MAX - 1];
    if (b->flow_count == b->flow_cap) {
        b->flow_cap = b->flow_cap != 0 ? b->flow_cap * 2 : 8;
        b->flow = mem_realloc(b->flow, b->flow_cap * sizeof(struct flow_queue *));
    }
    q = mem_zalloc(sizeof(*q));
    q->band = b;
    q->key = str_dup(key);
    q->weight = 1;
    q->idle_since_ms = q->service_ms = now_ms;
    at = flow_find(b, q->key);
    memmove(&b->flow[at + 1], &b->flow[at], (b->flow_count - at) * sizeof(struct flow_queue *));
    b->flow[at] = q;
    b->flow_count++;
    b->turn += at < b->turn;
    (void)map_puts(&b->by_key, str_of(q->key), (uint64_t)(uintptr_t)q);
    return q;
}

static void queue_free(struct flow_queue *q)
{
    mem_free(q->own.item);
    mem_free(q->key);
    mem_free(q);
}

static void queue_drop(struct flow_band *b, uint32_t at)
{
    struct flow_queue *q = b->flow[at];

    (void)map_dels(&b->by_key, str_of(q->key));
    b->flow_count--;
    memmove(&b->flow[at], &b->flow[at + 1], (b->flow_count - at) * sizeof(struct flow_queue *));
    b->turn -= at < b->turn;
    queue_free(q);
}

/* ---- bands ---- */

static const void *params_of(const struct flow *f, uint32_t plugin)
{
    return sched_pipeline_plugin(f->pipeline, plugin)->params;
}

static struct flow_band *band_new(struct flow *f, const struct sched_band_conf *c, int32_t priority)
{
    struct flow_band *b = mem_zalloc(sizeof(*b));

    b->conf = *c;
    b->conf.priority = priority;
    b->fairness = FLOW_WEIGHTED;
    if (f->pipeline != NULL) {
        const struct plugin_type *fair = sched_pipeline_plugin(f->pipeline, c->fairness)->type;
        const struct plugin_type *order = sched_pipeline_plugin(f->pipeline, c->ordering)->type;

        (void)flow_fairness_of(fair, &b->fairness);
        (void)flow_ordering_of(order, &b->ordering);
        if (b->fairness == FLOW_PROGRAM_AWARE)
            b->program = params_of(f, c->fairness);
    }
    return b;
}

static void band_free(struct flow_band *b)
{
    for (uint32_t i = 0; i < b->flow_count; i++)
        queue_free(b->flow[i]);
    map_fini(&b->by_key);
    mem_free(b->flow);
    mem_free(b->active);
    mem_free(b->shared.item);
    mem_free(b);
}

static struct flow_band *band_insert(struct flow *f, struct flow_band *b)
{
    uint32_t at = 0;

    while (at < f->band_count && f->band[at]->conf.priority > b->conf.priority)
        at++;
    memmove(&f->band[at + 1], &f->band[at], (f->band_count - at) * sizeof(struct flow_band *));
    f->band[at] = b;
    f->band_count++;
    return b;
}

static struct flow_band *band_known(const struct flow *f, int32_t priority)
{
    for (uint32_t i = 0; i < f->band_count; i++)
        if (f->band[i]->conf.priority == priority)
            return f->band[i];
    return NULL;
}

/* Priorities come from objectives, which an operator declares: their bands are made when first
 * used.  Past the ceiling the band 0 takes them. */
static struct flow_band *band_of(struct flow *f, int32_t priority)
{
    struct flow_band *b = band_known(f, priority);

    if (b != NULL)
        return b;
    if (f->band_count >= SCHED_BANDS_MAX)
        return band_known(f, 0);
    return band_insert(
        f, band_new(f, priority < 0 ? &f->conf.negative_band : &f->conf.default_band, priority));
}

struct flow *flow_new(const struct sched_flow_conf *c, struct sched_pipeline *pipeline)
{
    struct flow *f = mem_zalloc(sizeof(*f));

    f->conf = *c;
    f->pipeline = pipeline;
    if (pipeline != NULL) {
        const struct plugin *limit = sched_pipeline_plugin(pipeline, c->usage_limit);

        (void)flow_ceiling_of(limit->type, &f->ceiling);
        f->ceiling_params = limit->params;
    }
    for (uint32_t i = 0; i < c->band_count && i < SCHED_BANDS_MAX - 1; i++)
        band_insert(f, band_new(f, &c->band[i], c->band[i].priority))->is_fixed = true;
    band_of(f, 0)->is_fixed = true;
    return f;
}

void flow_free(struct flow *f)
{
    if (f == NULL)
        return;
    for (uint32_t i = 0; i < f->band_count; i++)
        band_free(f->band[i]);
    mem_free(f);
}

/* ---- in ---- */

static bool would_exceed(uint64_t have, uint64_t more, uint64_t max)
{
    return max != 0 && (more > max || have > max - more);
}

/* Nobody fills a queue alone: a flow may hold so many times what is still free (dynamic thresholds,
 * Choudhury and Hahne 1998), so that one tenant's backlog leaves room for the next one's. */
static bool may_queue(const struct flow_band *b, const struct flow_item *it)
{
    const struct flow_queue *q = queue_known(b, it->fairness_id);

    return b->fairness != FLOW_WEIGHTED || b->conf.requests_max == 0 || q == NULL ||
           q->requests < FREE_TIMES * (b->conf.requests_max - b->requests);
}

static bool has_room(const struct flow *f, const struct flow_band *b, const struct flow_item *it)
{
    return !would_exceed(f->bytes, it->bytes, f->conf.bytes_max) &&
           !would_exceed(f->requests, 1, f->conf.requests_max) &&
           !would_exceed(b->bytes, it->bytes, b->conf.bytes_max) &&
           !would_exceed(b->requests, 1, b->conf.requests_max) && may_queue(b, it);
}

static void count(struct flow *f, struct flow_queue *q, const struct flow_item *it, int step,
                  uint64_t now_ms)
{
    struct flow_band *b = q->band;
    uint32_t one = step > 0 ? 1 : UINT32_MAX;
    size_t bytes = step > 0 ? it->bytes : (size_t)0 - it->bytes;

    f->requests += one;
    b->requests += one;
    q->requests += one;
    f->bytes += bytes;
    b->bytes += bytes;
    q->bytes += bytes;
    if (q->requests == 0)
        q->idle_since_ms = now_ms;
    if (b->requests == 0)
        b->idle_since_ms = now_ms;
}

static void note_pool(struct flow *f, const struct flow_fleet *fleet, uint64_t now_ms)
{
    if (fleet->is_empty != f->was_empty)
        f->pool_changed_ms = now_ms;
    f->was_empty = fleet->is_empty;
}

enum flow_outcome flow_enqueue(struct flow *f, struct flow_item *it, const struct flow_fleet *fleet,
                               uint64_t now_ms)
{
    struct flow_band *b = band_of(f, it->priority);
    struct flow_queue *q;

    note_pool(f, fleet, now_ms);
    if (!has_room(f, b, it))
        return fleet->is_empty ? FLOW_REJECTED_NO_ENDPOINTS : FLOW_REJECTED_CAPACITY;
    q = queue_of(b, it->fairness_id, now_ms);
    q->weight = it->weight > 0 ? it->weight : 1;
    it->queue = q;
    it->seq = f->seq++;
    it->enqueued_ms = now_ms;
    it->next = NULL;
    it->prev = f->last;
    if (f->last != NULL)
        f->last->next = it;
    else
        f->first = it;
    f->last = it;
    heap_add(f, b, heap_of(q), it);
    count(f, q, it, 1, now_ms);
    if (b->fairness == FLOW_WEIGHTED && q->requests == 1)
        active_add(b, q);
    return FLOW_DISPATCHED;
}

/* ---- out ---- */

static void take_out(struct flow *f, struct flow_item *it, uint64_t now_ms)
{
    struct flow_queue *q = it->queue;

    heap_del(f, q->band, heap_of(q), it);
    count(f, q, it, -1, now_ms);
    if (q->band->fairness == FLOW_WEIGHTED && q->requests == 0)
        active_del(q->band, q);
    if (it->prev != NULL)
        it->prev->next = it->next;
    else
        f->first = it->next;
    if (it->next != NULL)
        it->next->prev = it->prev;
    else
        f->last = it->prev;
    it->next = it->prev = NULL;
    it->queue = NULL;
}

void flow_remove(struct flow *f, struct flow_item *it)
{
    if (it->queue != NULL)
        take_out(f, it, it->enqueued_ms);
}

struct flow_item *flow_expire(struct flow *f, const struct flow_fleet *fleet, uint64_t now_ms,
                              enum flow_outcome *why)
{
    uint32_t ttl = fleet->is_empty ? f->conf.no_endpoint_ttl_ms : f->conf.ttl_ms;
    struct flow_item *it = f->first;

    note_pool(f, fleet, now_ms);
    if (it == NULL || ttl == 0 || now_ms < MAX(it->enqueued_ms, f->pool_changed_ms) + ttl)
        return NULL;
    *why = fleet->is_empty ? FLOW_EVICTED_NO_ENDPOINTS : FLOW_EVICTED_TTL;
    take_out(f, it, now_ms);
    return it;
}

/* ---- who is next ---- */

static double half(double service, uint64_t from_ms, uint64_t to_ms, double half_life_s)
{
    return to_ms > from_ms ? service * exp2(-(double)(to_ms - from_ms) / 1000 / half_life_s)
                           : service;
}

static double normal(double v, double min, double max)
{
    return max > min ? (v - min) / (max - min) : 0.5;
}

/* Little attained service and long waiting count, each scaled over the flows that wait. */
static struct flow_queue *next_program(const struct flow_band *b, uint64_t now_ms)
{
    double service[2] = { INFINITY, -INFINITY }, wait[2] = { INFINITY, -INFINITY }, best = -1;
    struct flow_queue *found = NULL;

    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < b->flow_count; i++) {
            struct flow_queue *q = b->flow[i];
            double s, w, score;

            if (q->requests == 0)
                continue;
            s = half(q->service, q->service_ms, now_ms, b->program->half_life_s);
            w = (double)(now_ms - MIN(now_ms, q->own.item[0]->enqueued_ms));
            if (pass == 0) {
                service[0] = MIN(service[0], s);
                service[1] = MAX(service[1], s);
                wait[0] = MIN(wait[0], w);
                wait[1] = MAX(wait[1], w);
                continue;
            }
            score = b->program->weight_service * (1 - normal(s, service[0], service[1])) +
                    b->program->weight_wait * normal(w, wait[0], wait[1]);
            if (score > best) {
                best = score;
                found = q;
            }
        }
    return found;
}

static struct flow_queue *next_round(struct flow_band *b)
{
    for (uint32_t step = 0; step < b->flow_count; step++) {
        uint32_t at = (b->turn + step) % b->flow_count;

        if (b->flow[at]->requests != 0) {
            b->turn = at + 1;
            return b->flow[at];
        }
    }
    return NULL;
}

static struct flow_item *head_of(struct flow_band *b, uint64_t now_ms)
{
    switch (b->fairness) {
    case FLOW_STRICT: return b->shared.item[0];
    case FLOW_ROUND_ROBIN: return next_round(b)->own.item[0];
    case FLOW_PROGRAM_AWARE: return next_program(b, now_ms)->own.item[0];
    case FLOW_WEIGHTED: break;
    }
    return b->active[0]->own.item[0];
}

static void charge(struct flow_band *b, struct flow_queue *q, double tokens)
{
    b->vtime = q->end;
    q->end += MAX(tokens, 1.0) / q->weight;
    active_down(b, q->active_at);
}

static double soft_ceiling(struct flow *f, uint32_t i, double s)
{
    double n = f->band_count, r;
    uint32_t every;

    if (i == 0)
        return 1;
    r = n > 1 ? 1 - i * s / (n - 1) : 1;
    if (s < r)
        return 1;
    if (s >= 1)
        return 0;
    if (s < SOFT_FROM)
        return 0;
    every = (uint32_t)MAX(1.0, round(s / (1 - s)));
    return ++f->soft_cycles[i] % every == 0 ? 1 : 0;
}

static double holdback(const struct flow *f, uint32_t i)
{
    const struct flow_holdback_params *p = f->ceiling_params;
    int32_t high = f->band[0]->conf.priority, low = f->band[f->band_count - 1]->conf.priority;
    double share;

    if (f->band_count == 1 || high == low)
        return p->ceiling_max;
    share = p->domain == 0 ? 1 - (double)i / (f->band_count - 1)
                           : ((double)f->band[i]->conf.priority - low) / ((double)high - low);
    return p->ceiling_min + share * (p->ceiling_max - p->ceiling_min);
}

static double ceiling(struct flow *f, uint32_t i, double saturation)
{
    const struct flow_static_params *fixed = f->ceiling_params;

    switch (f->ceiling) {
    case FLOW_SOFT: return soft_ceiling(f, i, saturation);
    case FLOW_HOLDBACK: return holdback(f, i);
    case FLOW_STATIC: break;
    }
    return fixed != NULL ? fixed->threshold : 1;
}

/* From band i on nobody goes. */
static void note_demand(struct flow *f, uint32_t i, const double *ceilings, double saturation)
{
    for (; i < f->band_count && !f->has_demand; i++)
        if (f->band[i]->requests != 0 && ceilings[i] > 0 && saturation >= ceilings[i]) {
            f->demand = (struct flow_demand) { f->band[i]->conf.priority, ceilings[i] };
            f->has_demand = true;
        }
}

bool flow_demand(const struct flow *f, struct flow_demand *out)
{
    *out = f->demand;
    return f->has_demand;
}

struct flow_item *flow_next(struct flow *f, const struct flow_fleet *fleet, uint64_t now_ms)
{
    double ceilings[SCHED_BANDS_MAX + 1];
    uint64_t second = now_ms / 1000;

    note_pool(f, fleet, now_ms);
    f->has_demand = false;
    if (f->requests == 0 || fleet->is_empty)
        return NULL;
    /* of all bands, for a policy may count cycles */
    for (uint32_t i = 0; i < f->band_count; i++)
        ceilings[i] = ceiling(f, i, fleet->saturation);
    for (uint32_t i = 0; i < f->band_count; i++) {
        struct flow_band *b = f->band[i];
        struct flow_item *it;

        /* the lower ones wait with it: what they took would keep it waiting */
        if (fleet->saturation >= ceilings[i]) {
            note_demand(f, i, ceilings, fleet->saturation);
            return NULL;
        }
        if (b->requests == 0)
            continue;
        it = head_of(b, now_ms);
        if (b->fairness == FLOW_WEIGHTED)
            charge(b, it->queue, it->tokens);
        take_out(f, it, now_ms);
        if (f->drained_second[second % DRAIN_S] != second) {
            f->drained_second[second % DRAIN_S] = second;
            f->drained[second % DRAIN_S] = 0;
        }
        f->drained[second % DRAIN_S]++;
        return it;
    }
    return NULL;
}

void flow_settle(struct flow *f, struct str fairness_id, int32_t priority, double expected_tokens,
                 double prompt_tokens, double answer_tokens, uint64_t now_ms)
{
    double real_tokens = MAX(prompt_tokens + answer_tokens, 1.0);
    struct flow_band *b = band_known(f, priority);
    struct flow_queue *q;

    if (b == NULL)
        b = band_known(f, 0);
    q = queue_known(b, fairness_id);
    if (q == NULL)
        return;
    if (b->fairness == FLOW_PROGRAM_AWARE) {
        q->service = half(q->service, q->service_ms, now_ms, b->program->half_life_s) +
                     prompt_tokens + 2 * answer_tokens;
        q->service_ms = now_ms;
    }
    if (b->fairness != FLOW_WEIGHTED)
        return;
    q->end += (real_tokens - MAX(expected_tokens, 1.0)) / q->weight;
    if (q->requests == 0)
        return;
    active_up(b, q->active_at);
    active_down(b, q->active_at);
}

/* ---- upkeep ---- */

void flow_tick(struct flow *f, uint64_t now_ms)
{
    for (uint32_t i = f->band_count; i-- > 0;) {
        struct flow_band *b = f->band[i];

        for (uint32_t k = b->flow_count; k-- > 0;)
            if (b->flow[k]->requests == 0 && now_ms - b->flow[k]->idle_since_ms >= FLOW_IDLE_MS)
                queue_drop(b, k);
        if (b->is_fixed || b->requests != 0 || b->flow_count != 0 ||
            now_ms - b->idle_since_ms < BAND_IDLE_MS)
            continue;
        band_free(b);
        f->band_count--;
        memmove(&f->band[i], &f->band[i + 1], (f->band_count - i) * sizeof(struct flow_band *));
    }
}

/* Whoever came before it in its own flow, and in every other flow of its band as much as its turn
 * allows, and all of the bands above. */
uint32_t flow_position(const struct flow *f, const struct flow_item *it)
{
    struct flow_queue *q = it->queue;
    const struct heap *heap;
    uint32_t n = 1, ahead = 0;

    if (q == NULL)
        return 0;
    heap = heap_of(q);
    for (uint32_t i = 0; f->band[i] != q->band; i++)
        n += f->band[i]->requests;
    for (uint32_t i = 0; i < heap->count; i++)
        ahead += is_before(f, q->band, heap->item[i], it);
    if (q->band->fairness == FLOW_STRICT)
        return n + ahead;
    for (uint32_t i = 0; i < q->band->flow_count; i++)
        if (q->band->flow[i] != q)
            n += MIN(q->band->flow[i]->requests, ahead);
    return n + ahead;
}

uint32_t flow_retry_after_s(const struct flow *f, uint64_t random, uint64_t now_ms)
{
    uint64_t second = now_ms / 1000, drained = 0;
    double s = RETRY_S_MAX;

    for (uint32_t i = 0; i < DRAIN_S; i++)
        if (f->drained_second[i] + DRAIN_S > second)
            drained += f->drained[i];
    if (drained != 0)
        s = MIN(f->requests / ((double)drained / DRAIN_S), (double)RETRY_S_MAX);
    else if (f->requests == 0)
        s = 1;
    s = MAX(s, 1.0) * (1 + (double)(random % 21) / 100);
    return (uint32_t)ceil(s - 1e-9);
}

uint32_t flow_queued(const struct flow *f)
{
    return f->requests;
}

size_t flow_queued_bytes(const struct flow *f)
{
    return f->bytes;
}

uint32_t flow_bands(const struct flow *f, struct flow_band_view *out, uint32_t max)
{
    uint32_t n = MIN(f->band_count, max);

    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct flow_band_view) { .priority = f->band[i]->conf.priority,
                                           .requests = f->band[i]->requests,
                                           .bytes = f->band[i]->bytes,
                                           .requests_max = f->band[i]->conf.requests_max,
                                           .bytes_max = f->band[i]->conf.bytes_max };
    return n;
}

void flow_each(const struct flow *f,
               void (*fn)(void *ctx, struct str fairness_id, int32_t priority, uint32_t requests,
                          size_t bytes),
               void *ctx)
{
    for (uint32_t i = 0; i < f->band_count; i++)
        for (uint32_t k = 0; k < f->band[i]->flow_count; k++) {
            const struct flow_queue *q = f->band[i]->flow[k];

            if (q->requests != 0)
                fn(ctx, str_of(q->key), f->band[i]->conf.priority, q->requests, q->bytes);
        }
}
