/* probabilistic-admitter: sheds requests of negative priority, the more likely the fuller the
 * endpoints are.
 *
 *   s = mean over endpoints of max(waiting / queue threshold, KV usage / KV threshold)
 *   refused with probability min(s ^ power * k, 1) */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"
#include <math.h>
#include <stddef.h>

struct shed_params {
    double queue_depth, kv_usage, power, k;
};

#define POSITIVE .min = 1e-9, .max = 1e9

static const struct plugin_param PARAMS[] = {
    { .name = "queueDepthThreshold",
      .kind = PARAM_F64,
      .at = offsetof(struct shed_params, queue_depth),
      .value = "5",
      POSITIVE,
      .help = "waiting requests that mean full" },
    { .name = "kvCacheUtilThreshold",
      .kind = PARAM_F64,
      .at = offsetof(struct shed_params, kv_usage),
      .value = "0.8",
      POSITIVE,
      .help = "KV usage that means full" },
    { .name = "power",
      .kind = PARAM_F64,
      .at = offsetof(struct shed_params, power),
      .value = "5",
      POSITIVE,
      .help = "how sharply refusals set in" },
    { .name = "k",
      .kind = PARAM_F64,
      .at = offsetof(struct shed_params, k),
      .value = "300",
      POSITIVE,
      .help = "factor of the probability" },
};

/* 1 (full) when the endpoint does not say. */
static double load_of(const struct shed_params *c, const struct sched_endpoint *e)
{
    if (!e->has_metrics || isnan(e->scraped_waiting) || isnan(e->scraped_kv))
        return 1;
    return MAX(e->scraped_waiting / c->queue_depth, e->scraped_kv / c->kv_usage);
}

static bool admit(struct plugin *p, const struct sched_view *v)
{
    const struct shed_params *c = p->params;
    double sum = 0;

    if (v->r->priority >= 0)
        return true;
    for (uint32_t i = 0; i < v->count; i++)
        sum += load_of(c, &v->ep[i]);
    return v->count == 0 || rng_f64(v->rng) >= MIN(pow(sum / v->count, c->power) * c->k, 1.0);
}

const struct plugin_type plugin_probabilistic_admitter = {
    .type = "probabilistic-admitter",
    .roles = ROLE_ADMITTER,
    .params_size = sizeof(struct shed_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .admit = admit,
};
