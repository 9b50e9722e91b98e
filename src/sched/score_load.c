/* Scorers by load: queue, running requests, KV usage, tokens and requests in flight.
 *
 * The first two compare candidates with each other, so the least loaded scores 1 and the most
 * loaded 0, however near they are; the others measure against a fixed ceiling. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static const char MULTICLUSTER_QUEUE[] = "llm-d.ai/multicluster-queue-size";
static const char MULTICLUSTER_KV[] = "llm-d.ai/multicluster-kv-cache-utilization";

/* A load of an endpoint; NAN: it says none. */
typedef double load_fn(const struct sched_endpoint *ep);

static double queue_of(const struct sched_endpoint *ep)
{
    return ep->scraped_waiting;
}

static double running_of(const struct sched_endpoint *ep)
{
    return ep->scraped_running;
}

static double attribute_of(const struct sched_endpoint *ep, const char *key)
{
    double value;

    return sched_endpoint_attribute(ep, str_of(key), STR(""), &value) ? value : NAN;
}

static double pool_queue_of(const struct sched_endpoint *ep)
{
    return attribute_of(ep, MULTICLUSTER_QUEUE);
}

static void by_range(const struct sched_view *v, const bool *keep, double *out, load_fn *load)
{
    double min = INFINITY, max = -INFINITY;

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i] && !isnan(load(&v->ep[i]))) {
            min = MIN(min, load(&v->ep[i]));
            max = MAX(max, load(&v->ep[i]));
        }
    for (uint32_t i = 0; i < v->count; i++) {
        double x = load(&v->ep[i]);

        if (keep[i])
            out[i] = isnan(x) ? NAN : max == min ? 1 : (max - x) / (max - min);
    }
}

static void queue(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    by_range(v, keep, out, queue_of);
}

static void running(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    by_range(v, keep, out, running_of);
}

static void pool_queue(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    by_range(v, keep, out, pool_queue_of);
}

static void kv(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = 1 - v->ep[i].scraped_kv;
}

static void pool_kv(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    (void)p;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = 1 - attribute_of(&v->ep[i], MULTICLUSTER_KV);
}

const struct plugin_type plugin_queue_scorer = {
    .type = "queue-scorer",
    .roles = ROLE_SCORER,
    .score = queue,
};

const struct plugin_type plugin_running_requests_scorer = {
    .type = "running-requests-size-scorer",
    .roles = ROLE_SCORER,
    .score = running,
};

const struct plugin_type plugin_kv_scorer = {
    .type = "kv-cache-utilization-scorer",
    .roles = ROLE_SCORER,
    .score = kv,
};

const struct plugin_type plugin_multicluster_queue_scorer = {
    .type = "multicluster-queue-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .score = pool_queue,
};

const struct plugin_type plugin_multicluster_kv_scorer = {
    .type = "multicluster-kv-cache-utilization-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .score = pool_kv,
};

/* ---- load-aware-scorer ---- */

#define LOAD_THRESHOLD 128

static const struct plugin_param LOAD_AWARE[] = {
    { .name = "threshold",
      .kind = PARAM_I64,
      .at = offsetof(struct load_aware_params, threshold),
      .value = "128",
      .help = "waiting requests from where the score is 0; 0 and less: 128" },
};

static void load_aware(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    int64_t given = ((const struct load_aware_params *)p->params)->threshold;
    double threshold = given <= 0 ? LOAD_THRESHOLD : (double)given;

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i] && !isnan(v->ep[i].scraped_waiting))
            out[i] = 0.5 * (1 - MIN(MAX(v->ep[i].scraped_waiting, 0), threshold) / threshold);
}

const struct plugin_type plugin_load_aware_scorer = {
    .type = "load-aware-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct load_aware_params),
    .params = LOAD_AWARE,
    .param_count = COUNT(LOAD_AWARE),
    .score = load_aware,
};

/* ---- token-load-scorer ---- */

static const char *const NEEDS[] = { "InFlightLoad", NULL };

static const struct plugin_param TOKEN_LOAD[] = {
    { .name = "queueThresholdTokens",
      .kind = PARAM_F64,
      .at = offsetof(struct token_load_params, threshold_tokens),
      .value = "4194304",
      .min = 1,
      .max = INFINITY,
      .help = "tokens in flight from where the score is 0" },
    { .name = "inFlightLoadProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct token_load_params, inflight_producer),
      .help = "whose load counts" },
};

static void token_load(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    double threshold = ((const struct token_load_params *)p->params)->threshold_tokens;

    for (uint32_t i = 0; i < v->count; i++) {
        double own = v->uncached_tokens != NULL ? v->uncached_tokens[i] : 0;
        double tokens = v->ep[i].inflight_tokens + own;

        if (keep[i])
            out[i] = tokens <= 0 ? 1 : 1 - MIN(tokens, threshold) / threshold;
    }
}

static struct str token_load_from(const void *params)
{
    return ((const struct token_load_params *)params)->inflight_producer;
}

const struct plugin_type plugin_token_load_scorer = {
    .type = "token-load-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct token_load_params),
    .params = TOKEN_LOAD,
    .param_count = COUNT(TOKEN_LOAD),
    .needs = NEEDS,
    .needs_from = token_load_from,
    .score = token_load,
};

/* ---- active-request-scorer ---- */

static const struct plugin_param ACTIVE[] = {
    { .name = "idleThreshold",
      .kind = PARAM_I64,
      .at = offsetof(struct active_request_params, idle_threshold),
      .help = "requests in flight up to which an endpoint counts as idle" },
    { .name = "maxBusyScore",
      .kind = PARAM_F64,
      .at = offsetof(struct active_request_params, max_busy_score),
      .value = "1.0",
      .help = "most that one that is not idle can score; outside of 0..1: 1" },
    { .name = "inFlightLoadProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct active_request_params, inflight_producer),
      .help = "whose load counts" },
    { .name = "requestTimeout", .kind = PARAM_IGNORED, .help = "without effect" },
};

static void active(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct active_request_params *c = p->params;
    double most = 0, busy = c->max_busy_score;

    if (!(busy >= 0 && busy <= 1))
        busy = 1;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            most = MAX(most, v->ep[i].inflight_requests);
    for (uint32_t i = 0; i < v->count; i++) {
        double n = v->ep[i].inflight_requests;

        if (keep[i])
            out[i] = n <= (double)c->idle_threshold || most == 0 ? 1 : (most - n) / most * busy;
    }
}

static struct str active_from(const void *params)
{
    return ((const struct active_request_params *)params)->inflight_producer;
}

const struct plugin_type plugin_active_request_scorer = {
    .type = "active-request-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct active_request_params),
    .params = ACTIVE,
    .param_count = COUNT(ACTIVE),
    .needs = NEEDS,
    .needs_from = active_from,
    .score = active,
};
