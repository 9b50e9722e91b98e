/* utilization-filter: endpoints below every given ceiling.  What is not known counts as 0. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>
#include <string.h>

static const char *const METRICS[] = { "active-requests", "running-requests", "waiting-queue",
                                       "kv-cache-utilization", NULL };

static const struct plugin_param CONDITION[] = {
    { .name = "metric",
      .kind = PARAM_WORD,
      .at = offsetof(struct utilization_condition, metric),
      .words = METRICS,
      .required = true },
    { .name = "maxValue",
      .kind = PARAM_F64,
      .at = offsetof(struct utilization_condition, max_value),
      .max = INFINITY,
      .required = true },
};

static int decode_conditions(const struct yaml_node *n, struct arena *a, void *params,
                             struct err *e)
{
    struct utilization_params *c = params;
    void *items = NULL;
    int rc = params_maps(n, CONDITION, COUNT(CONDITION), "conditions",
                         sizeof(struct utilization_condition), a, &items, &c->count, e);

    c->condition = items;
    for (uint32_t i = 0; i < c->count && rc == 0; i++)
        if (c->condition[i].metric == UTIL_KV && c->condition[i].max_value > 1)
            rc = yaml_err(n, e, "maxValue: kv-cache-utilization is a fraction, 0 to 1");
    return rc;
}

static const struct plugin_param PARAMS[] = {
    { .name = "conditions",
      .kind = PARAM_CUSTOM,
      .decode = decode_conditions,
      .required = true,
      .help = "list of metric and maxValue: all must hold" },
    { .name = "fallbackOnEmpty",
      .kind = PARAM_BOOL,
      .at = offsetof(struct utilization_params, fallback_on_empty),
      .help = "keeps everybody when nobody is below" },
    { .name = "inFlightLoadProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct utilization_params, inflight_producer),
      .help = "whose load counts as active-requests" },
};

static int check(const void *params, struct err *e)
{
    if (((const struct utilization_params *)params)->count == 0)
        return err_set(e, ERR_INVAL, "conditions: needs at least one");
    return 0;
}

static double value_of(const struct sched_endpoint *ep, int metric)
{
    switch (metric) {
    case UTIL_ACTIVE: return ep->inflight_requests;
    case UTIL_RUNNING: return ep->scraped_running;
    case UTIL_WAITING: return ep->scraped_waiting;
    default: return ep->scraped_kv;
    }
}

static bool is_below(const struct utilization_params *c, const struct sched_endpoint *ep)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (!(value_of(ep, c->condition[i].metric) <= c->condition[i].max_value))
            return false;
    return true;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct utilization_params *c = p->params;
    bool some = false;

    for (uint32_t i = 0; i < v->count && !some; i++)
        some = keep[i] && is_below(c, &v->ep[i]);
    if (!some && c->fallback_on_empty)
        return;
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] = keep[i] && is_below(c, &v->ep[i]);
}

static const char *const NEEDS[] = { "InFlightLoad", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct utilization_params *)params)->inflight_producer;
}

const struct plugin_type plugin_utilization_filter = {
    .type = "utilization-filter",
    .roles = ROLE_FILTER,
    .alpha = true,
    .params_size = sizeof(struct utilization_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .needs = NEEDS,
    .needs_from = needs_from,
    .filter = filter,
};
