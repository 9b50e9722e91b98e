/* Policies: a configuration with its instances and its queues, in use as one.
 *
 * A request keeps the policy that it began with; a new one takes over for those that come later
 * (reload), and the old one goes when its last request has ended.  The gateway's lock guards all of
 * it, the instances' state included. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <stdio.h>
#include <string.h>

#define DECISION_BYTES_MAX ((size_t)4 << 20) /* of one decision's arena */

static void policy_free(struct policy *p)
{
    admission_free(p->admission);
    sched_pipeline_free(p->pipeline);
    sched_config_free(p->config);
    mem_free(p);
}

/* Without a configuration file: one band, tenants share by weight, saturation is learned. */
static struct sched_flow_conf own_flow(const struct gateway *g)
{
    struct sched_flow_conf c = { .enabled = true,
                                 .ttl_ms = g->queue_ms,
                                 .no_endpoint_ttl_ms = g->wait_ms };

    c.default_band.requests_max = g->queue_max;
    c.default_band.bytes_max = QUEUE_BYTES_MAX;
    c.negative_band = c.default_band;
    return c;
}

void policy_set(struct gateway *g, struct sched_config *config)
{
    struct policy *p = mem_zalloc(sizeof(*p)), *old;
    struct sched_flow_conf own = own_flow(g);

    p->config = config;
    if (config != NULL)
        p->pipeline = sched_pipeline_new(config);
    p->holds = config != NULL && sched_pipeline_holds(p->pipeline);
    p->admission = admission_new(g, config != NULL ? &config->flow : &own, p->pipeline);
    gateway_lock(g);
    old = g->policy;
    p->next = old;
    g->policy = p;
    if (config != NULL && g->strategy == SCHED_COST && !g->strategy_given)
        g->strategy = SCHED_CONFIGURED;
    if (old != NULL && old->users == 0) {
        p->next = old->next;
        policy_free(old);
    }
    gateway_unlock(g);
}

void policy_enter(struct routing *x)
{
    gateway_lock(x->g);
    x->policy = x->g->policy;
    x->policy->users++;
    gateway_unlock(x->g);
}

static void leave(struct gateway *g, struct policy *p)
{
    struct policy **at = &g->policy;

    if (--p->users != 0 || p == g->policy)
        return;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    policy_free(p);
}

void policy_leave(struct routing *x)
{
    if (x->policy == NULL)
        return;
    gateway_lock(x->g);
    leave(x->g, x->policy);
    gateway_unlock(x->g);
    x->policy = NULL;
}

/* The next one to pump, kept by a use of its own; NULL: that was the last. */
static struct policy *pump_next(struct gateway *g, struct policy *p)
{
    struct policy *next;

    gateway_lock(g);
    next = p == NULL ? g->policy : p->next;
    if (next != NULL)
        next->users++;
    if (p != NULL)
        leave(g, p);
    gateway_unlock(g);
    return next;
}

void policies_pump(struct gateway *g, struct front *f)
{
    if (g->waiting == 0)
        return;
    for (struct policy *p = pump_next(g, NULL); p != NULL; p = pump_next(g, p))
        admit_pump(p->admission, f);
}

void policies_tick(struct gateway *g)
{
    for (struct policy *p = g->policy; p != NULL; p = p->next)
        admit_tick(p->admission);
}

void policies_fini(struct gateway *g)
{
    for (struct policy *p = g->policy, *next; p != NULL; p = next) {
        next = p->next;
        policy_free(p);
    }
    g->policy = NULL;
}

void policies_endpoint_gone(struct gateway *g, uint64_t uid)
{
    for (struct policy *p = g->policy; p != NULL; p = p->next)
        if (p->pipeline != NULL)
            sched_pipeline_endpoint_gone(p->pipeline, uid);
}

/* ---- a decision by the configuration ---- */

static struct str header_of(const void *ctx, const char *name)
{
    const struct routing *x = ctx;

    return http_header_get(&x->headers, name);
}

struct str policy_identity(const struct routing *x)
{
    struct sched_request r = { .header = header_of, .header_ctx = x };

    return x->policy->pipeline != NULL ? sched_pipeline_identity(x->policy->pipeline, &r)
                                       : STR_NONE;
}

uint32_t policy_hold(struct routing *x)
{
    struct gateway *g = x->g;
    struct sched_request r = { .prompt_tokens = x->reading.prompt_tokens,
                               .block_tokens = g->block_tokens,
                               .keys = x->reading.keys,
                               .key_count = x->reading.key_count };
    struct sched_view v = { .r = &r, .now_ms = clock_ms() };
    struct arena a;
    uint32_t ms;

    if (!x->policy->holds || x->strategy != SCHED_CONFIGURED)
        return 0;
    arena_init(&a, DECISION_BYTES_MAX);
    v.arena = &a;
    gateway_lock(g);
    r.held = x->held = ++g->held;
    ms = sched_pipeline_hold(x->policy->pipeline, &v);
    gateway_unlock(g);
    arena_fini(&a);
    return ms;
}

/* Candidates only, one after the other; view_at says which endpoint each is. */
static uint32_t compact(struct gateway *g)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        if (g->snap[i].use != SCHED_USED || g->excluded[i])
            continue;
        g->view[n] = g->snap[i];
        g->view_at[n] = i;
        g->view_matched[n] = g->matched[i];
        n++;
    }
    return n;
}

static void keep_headers(struct routed_header *out, uint32_t *count, uint32_t max,
                         const struct sched_header *header, uint32_t header_count)
{
    for (uint32_t i = 0; i < header_count && *count < max; i++) {
        struct routed_header *h = &out[*count];

        if (header[i].value.n >= sizeof(h->value))
            continue; /* never cut: a cut value would name another place */
        h->name = header[i].name;
        snprintf(h->value, sizeof(h->value), "%.*s", STR_ARG(header[i].value));
        (*count)++;
    }
}

static void take_picks(struct routing *x, const struct sched_run *run)
{
    struct gateway *g = x->g;
    const struct sched_profile_result *primary = &run->profile[run->primary];
    uint32_t first = g->view_at[primary->pick[0]];

    x->decision = (struct sched_decision) { .decode = first,
                                            .prefill = SCHED_NONE,
                                            .why_not_split = sched_why_off };
    if (run->prefill >= 0 && run->profile[run->prefill].pick_count != 0) {
        x->decision.prefill = g->view_at[run->profile[run->prefill].pick[0]];
        x->decision.why_not_split = NULL;
    }
    x->other_count = 0;
    for (uint32_t i = 1; i < primary->pick_count && x->other_count < COUNT(x->other); i++)
        x->other[x->other_count++] = g->endpoints[g->view_at[primary->pick[i]]];
    x->port = run->primary_port;
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        g->costs[i] = (struct sched_cost) { 0 };
    for (uint32_t i = 0; primary->score != NULL && i < run->v->count; i++)
        g->costs[g->view_at[i]].total_ms = primary->score[i]; /* scores, and shown as such */
}

static void book_estimate(struct routing *x, const struct sched_request *r)
{
    const struct gateway *g = x->g;
    uint32_t computes =
        x->decision.prefill != SCHED_NONE ? x->decision.prefill : x->decision.decode;
    uint32_t cached = g->matched[computes] * r->block_tokens;

    x->decision.cost.cached_tokens = MIN(cached, r->prompt_tokens);
    x->decision.book_tokens = r->prompt_tokens - x->decision.cost.cached_tokens;
}

bool policy_decide(struct routing *x, struct sched_request *r)
{
    struct gateway *g = x->g;
    struct arena a;
    struct sched_view v = {
        .ep = g->view, .r = r, .now_ms = clock_ms(), .rng = &g->rng, .arena = &a, .peer = SCHED_NONE
    };
    struct sched_run run = { .v = &v, .config = x->policy->config };
    bool found;

    v.count = compact(g);
    r->indexed = g->view_matched;
    r->header = header_of;
    r->header_ctx = x;
    arena_init(&a, DECISION_BYTES_MAX);
    sched_pipeline_run(x->policy->pipeline, &run);
    found = run.status == 0 && run.primary >= 0 && run.profile[run.primary].pick_count != 0;
    if (found) {
        take_picks(x, &run);
        book_estimate(x, r);
        x->to_worker_count = x->to_client_count = run.header_count = 0;
        sched_pipeline_dispatched(x->policy->pipeline, &run);
        keep_headers(x->to_worker, &x->to_worker_count, COUNT(x->to_worker), run.header,
                     run.header_count);
        run.header_count = 0;
        sched_pipeline_responded(x->policy->pipeline, &run);
        keep_headers(x->to_client, &x->to_client_count, COUNT(x->to_client), run.header,
                     run.header_count);
    } else {
        x->refused_status = run.status;
        x->refused_reason = run.reason;
        snprintf(x->refused_text, sizeof(x->refused_text), "%s", run.message);
    }
    arena_fini(&a);
    return found;
}

void policy_served(struct routing *x, const struct sched_served *s)
{
    struct sched_header h[ROUTED_HEADERS_MAX];
    uint32_t n;

    if (x->strategy != SCHED_CONFIGURED)
        return;
    n = sched_pipeline_served(x->policy->pipeline, s, h, COUNT(h));
    keep_headers(x->to_client, &x->to_client_count, COUNT(x->to_client), h, n);
}

struct str policy_destination(const struct routing *x, char *out, size_t out_bytes)
{
    if (x->port == 0)
        return str_of(x->decode->address);
    snprintf(out, out_bytes, strchr(x->decode->host, ':') != NULL ? "[%s]:%u" : "%s:%u",
             x->decode->host, x->port);
    return str_of(out);
}
