/* How full the fleet is.
 *
 * utilization, concurrency: upstream's averages over endpoints, with the operator's thresholds.
 * adaptive: an endpoint is full when it runs what it was seen to run while requests waited there;
 * the fleet is full when every endpoint is.  What is learned moves quickly where a queue shows and
 * grows by a quarter a scrape where none does, so that a fleet that got faster is found out within
 * seconds and a wrong guess costs one scrape. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "sched/flow.h"
#include "sched/flow_policy.h"
#include <math.h>
#include <string.h>

#define LIMIT_FIRST  64  /* of an endpoint about which nothing is known */
#define LIMIT_SILENT 256 /* of one that shows no metrics */
#define LIMIT_MAX    4096
#define SLOTS_SHARE  1.25 /* of advertised slots: the next ones wait where they are needed */
#define SLACK_SHARE  0.1  /* on top of what runs: enough to have a next one at hand */
#define SLACK_MIN    1.0
#define GROW         1.25
#define NEAR         0.8 /* of the limit: only then is it being tried out */
#define LEARN        0.5

/* ---- the learned limit ---- */

void flow_limit_learn(struct flow_limit *l, double inflight, double running, double waiting,
                      uint32_t slots, uint64_t now_ms)
{
    double busy = running + MAX(SLACK_MIN, SLACK_SHARE * running);

    l->at_ms = now_ms;
    if (slots != 0) {
        l->limit = slots * SLOTS_SHARE;
        return;
    }
    if (l->limit <= 0)
        l->limit = LIMIT_FIRST;
    if (waiting > MAX(SLACK_MIN, SLACK_SHARE * running) && running > 0)
        l->limit += LEARN * (busy - l->limit);
    else if (waiting <= 0 && inflight >= NEAR * l->limit)
        l->limit = MAX(l->limit * GROW, l->limit + 1);
    l->limit = MIN(MAX(l->limit, 2.0), (double)LIMIT_MAX);
}

/* ---- detectors ---- */

static double adaptive(const struct sched_endpoint *ep, uint32_t count)
{
    double least = INFINITY;

    for (uint32_t i = 0; i < count; i++) {
        double limit = ep[i].inflight_limit > 0 ? ep[i].inflight_limit : LIMIT_FIRST;
        double load = ep[i].inflight + MAX(0.0, ep[i].running - ep[i].inflight);

        if (!ep[i].has_metrics)
            limit = LIMIT_SILENT;
        least = MIN(least, load / limit);
    }
    return count != 0 ? least : 1;
}

static bool is_fresh(const struct flow_utilization_params *p, const struct sched_endpoint *e)
{
    /* a load that is not a number is none: a sum with it would call any fleet idle */
    return e->has_metrics && e->metrics_age_ms <= p->stale_ms && !isnan(e->scraped_waiting) &&
           !isnan(e->scraped_kv);
}

static double utilization(const struct flow_utilization_params *p, const struct sched_endpoint *ep,
                          uint32_t count)
{
    double sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += is_fresh(p, &ep[i])
                   ? MAX(ep[i].scraped_waiting / p->queue_depth, ep[i].scraped_kv / p->kv_usage)
                   : 1;
    return count != 0 ? sum / count : 1;
}

static double concurrency(const struct flow_concurrency_params *p, const struct sched_endpoint *ep,
                          uint32_t count)
{
    double requests = 0, tokens = 0, both = 0;

    if (count == 0)
        return 1;
    for (uint32_t i = 0; i < count; i++) {
        requests += ep[i].inflight_requests;
        tokens += ep[i].inflight_tokens;
        both +=
            MAX(ep[i].inflight_requests / p->requests_max, ep[i].inflight_tokens / p->tokens_max);
    }
    switch ((enum flow_concurrency_mode)p->mode) {
    case FLOW_BY_REQUESTS: return requests / (count * p->requests_max);
    case FLOW_BY_TOKENS: return tokens / (count * p->tokens_max);
    case FLOW_BY_BOTH: break;
    }
    return both / count;
}

static double detect(struct sched_pipeline *pl, const struct sched_flow_conf *c,
                     const struct sched_endpoint *ep, uint32_t count)
{
    enum flow_detector d = FLOW_ADAPTIVE;
    const struct plugin *p = NULL;

    if (pl != NULL) {
        p = sched_pipeline_plugin(pl, c->saturation);
        (void)flow_detector_of(p->type, &d);
    }
    switch (d) {
    case FLOW_UTILIZATION: return utilization(p->params, ep, count);
    case FLOW_CONCURRENCY: return concurrency(p->params, ep, count);
    case FLOW_ADAPTIVE: break;
    }
    return adaptive(ep, count);
}

/* ---- the fleet by role ---- */

static bool takes_part(const struct sched_endpoint *e, bool prefill)
{
    static const char *const decoders[] = { "decode", "none", "prefill-decode", "both",
                                            "encode-prefill-decode" };
    static const char *const prefillers[] = { "prefill", "encode-prefill", "prefill-decode", "both",
                                              "encode-prefill-decode" };
    struct str role = sched_endpoint_label(e, STR("llm-d.ai/role"));

    if (role.p == NULL)
        return prefill ? e->role == SCHED_PREFILL : e->role != SCHED_PREFILL;
    for (size_t i = 0; i < COUNT(decoders); i++)
        if (str_eqz(role, prefill ? prefillers[i] : decoders[i]))
            return true;
    return false;
}

double flow_saturation(struct sched_pipeline *p, const struct sched_flow_conf *c,
                       const struct sched_endpoint *ep, uint32_t count, uint64_t now_ms,
                       double parts[2])
{
    struct sched_endpoint *part = mem_alloc(MAX(count, 1u) * sizeof(*part));
    double found[2] = { 0, 0 }, worst = -1;

    (void)now_ms;
    for (unsigned side = 0; side < 2; side++) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < count; i++)
            if (takes_part(&ep[i], side == 0))
                part[n++] = ep[i];
        if (n == 0)
            continue;
        found[side] = detect(p, c, part, n);
        /* our own decode workers compute prompts themselves when prefill workers are full */
        if (p != NULL || side == 1)
            worst = MAX(worst, found[side]);
    }
    mem_free(part);
    if (parts != NULL)
        memcpy(parts, found, sizeof(found));
    return worst >= 0 ? worst : detect(p, c, ep, count);
}

/* ---- detectors as filters ---- */

void flow_filter_utilization(struct plugin *pl, const struct sched_view *v, bool *keep)
{
    const struct flow_utilization_params *p = pl->params;
    uint32_t left = 0;

    for (uint32_t i = 0; i < v->count; i++)
        left += keep[i] && is_fresh(p, &v->ep[i]) &&
                v->ep[i].scraped_waiting < p->queue_depth * (1 + p->headroom) &&
                v->ep[i].scraped_kv < p->kv_usage * (1 + p->headroom);
    if (left == 0)
        return; /* all are kept: a full fleet still serves */
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] = keep[i] && is_fresh(p, &v->ep[i]) &&
                  v->ep[i].scraped_waiting < p->queue_depth * (1 + p->headroom) &&
                  v->ep[i].scraped_kv < p->kv_usage * (1 + p->headroom);
}

void flow_filter_concurrency(struct plugin *pl, const struct sched_view *v, bool *keep)
{
    const struct flow_concurrency_params *p = pl->params;
    double requests = floor(p->requests_max * (1 + p->headroom));
    double tokens = floor(p->tokens_max * (1 + p->headroom));

    for (uint32_t i = 0; i < v->count; i++) {
        bool by_requests = v->ep[i].inflight_requests < requests;
        bool by_tokens = v->ep[i].inflight_tokens < tokens;

        keep[i] = keep[i] && (p->mode == FLOW_BY_TOKENS || by_requests) &&
                  (p->mode == FLOW_BY_REQUESTS || by_tokens);
    }
}
