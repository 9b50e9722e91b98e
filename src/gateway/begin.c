/* A request's beginning: who it is from, what it asks for, by which rules it will be treated. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "gateway/gateway_priv.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define READ_INLINE_BYTES          ((size_t)16 << 10) /* with a tokenizer: about a millisecond */
#define READ_INLINE_BYTES_ESTIMATE ((size_t)2 << 20)  /* without */

static struct str either(const struct http_headers *h, const char *name, const char *older)
{
    struct str v = http_header_get(h, name);

    return v.p != NULL ? v : http_header_get(h, older);
}

static void make_id(struct routing *x)
{
    struct str id = http_header_get(&x->headers, "x-request-id");

    if (id.p != NULL && forward_id_is_good(id))
        snprintf(x->id, sizeof(x->id), "%.*s", STR_ARG(id));
    else
        snprintf(x->id, sizeof(x->id), "%016" PRIx64 "%016" PRIx64, rng_u64(&x->f->rng),
                 rng_u64(&x->f->rng));
}

/* What headers say of the tenant and of the priority. */
static void identify(struct routing *x)
{
    struct str id =
        either(&x->headers, "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id");
    struct str objective =
        either(&x->headers, "x-llm-d-inference-objective", "x-gateway-inference-objective");

    if (x->identity.set != NULL) { /* a key says who it is, and headers cannot say otherwise */
        snprintf(x->fairness_id, sizeof(x->fairness_id), "%.*s", STR_ARG(x->identity.tenant));
        x->priority = x->identity.priority;
        x->weight = x->identity.weight;
        return;
    }
    snprintf(x->fairness_id, sizeof(x->fairness_id), "default-flow");
    if (id.p != NULL && forward_id_is_good(id))
        snprintf(x->fairness_id, sizeof(x->fairness_id), "%.*s", STR_ARG(id));
    else if ((id = policy_identity(x)).p != NULL && forward_id_is_good(id))
        snprintf(x->fairness_id, sizeof(x->fairness_id), "%.*s", STR_ARG(id));
    if (objective.p == NULL)
        return;
    gateway_lock(x->g);
    (void)objects_priority(x->g->objects, objective, &x->priority);
    gateway_unlock(x->g);
}

/* The client's own promise to its user; only slo-deadline ordering looks at it. */
static void read_objective(struct routing *x)
{
    struct str ms = either(&x->headers, "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms");

    x->slo_ttft_ms = 0;
    if (ms.p != NULL && (!str_f64(ms, &x->slo_ttft_ms) || !isfinite(x->slo_ttft_ms)))
        x->slo_ttft_ms = 0;
}

static void choose_strategy(struct routing *x)
{
    struct str wanted = http_header_get(&x->headers, "x-llmd-strategy");
    enum sched_strategy s;

    x->strategy = x->g->strategy;
    if (x->identity.set != NULL && !x->identity.admin)
        return; /* an operator's word */
    if (wanted.p != NULL && sched_strategy_parse(wanted, &s) &&
        (s != SCHED_CONFIGURED || x->policy->pipeline != NULL))
        x->strategy = s;
}

void routing_init(struct routing *x, struct front *f, enum route_kind kind, const char *path,
                  const struct http_headers *headers, const char *peer, size_t body_bytes)
{
    struct gateway *g = f->g;

    x->g = g;
    x->f = f;
    x->kind = kind;
    x->path = path;
    x->headers = *headers;
    x->body_bytes = body_bytes;
    x->t_start = clock_ns();
    snprintf(x->peer, sizeof(x->peer), "%s", peer);
    make_id(x);
    policy_enter(x);
    identify(x);
    read_objective(x);
    choose_strategy(x);
    trace_begin(&x->trace, http_header_get(headers, "traceparent"), g->trace_ratio, &f->rng);
    /* nobody would ever see a span of ours: the client's stays the parent */
    if (f->traces == NULL && trace_has_parent(&x->trace))
        memcpy(x->trace.span_id, x->trace.parent_id, sizeof(x->trace.span_id));
    metric_set(g->m_inflight, atomic_fetch_add(&g->inflight, 1) + 1);
}

static enum reading_kind reading_kind_of(enum route_kind k)
{
    return k == ROUTE_CHAT         ? READING_CHAT
           : k == ROUTE_COMPLETION ? READING_COMPLETION
                                   : READING_OTHER;
}

bool routing_read(struct routing *x, struct str body, struct reader_job **job,
                  void (*done)(void *ctx, struct reading *r), void *ctx)
{
    struct reader *reader = x->f->reader;
    enum reading_kind kind = reading_kind_of(x->kind);
    size_t limit = reader_has_model(reader) ? READ_INLINE_BYTES : READ_INLINE_BYTES_ESTIMATE;
    char name[MODEL_NAME_MAX + 1];
    struct str model = endpoints_model(x->g, name);
    struct reading r;

    if (body.n > limit) {
        *job = reader_start(reader, kind, body, model, done, ctx);
        return *job != NULL;
    }
    reader_read(reader, kind, body, model, &r);
    done(ctx, &r);
    return true;
}

bool routing_limit(struct routing *x)
{
    struct gateway *g = x->g;
    int rc;

    if (x->identity.set == NULL)
        return true;
    gateway_lock(g);
    rc = limit_admit(g->limiter, x->identity.tenant, &x->identity.rates,
                     (uint64_t)x->reading.prompt_tokens + x->reading.max_tokens, clock_ms(),
                     &x->limit, &x->rates);
    gateway_unlock(g);
    return rc == 0;
}

/* What it really used counts; an answer that was cut counts as far as it came. */
static void routing_unlimit(struct routing *x)
{
    const struct answer_usage *u = &x->usage;
    uint64_t used = u->known             ? (uint64_t)u->prompt_tokens + u->completion_tokens
                    : x->t_dispatch != 0 ? (uint64_t)x->reading.prompt_tokens + x->seen.events
                                         : 0;

    if (x->limit.tenant == NULL)
        return;
    gateway_lock(x->g);
    limit_settle(x->g->limiter, &x->limit, used, clock_ms());
    gateway_unlock(x->g);
}

void routing_fini(struct routing *x)
{
    struct gateway *g = x->g;

    routing_unlimit(x);
    reading_free(&x->reading);
    policy_leave(x);
    auth_identity_put(&x->identity);
    metric_set(g->m_inflight, atomic_fetch_sub(&g->inflight, 1) - 1);
}
