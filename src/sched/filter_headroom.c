/* slo-headroom-tier-filter: endpoints that will meet the objective, or, rarely, the others: to
 * learn whether they still would not. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"

static const struct plugin_param PARAMS[] = {
    { .name = "epsilonExploreNeg",
      .kind = PARAM_F64,
      .at = offsetof(struct headroom_tier_params, epsilon_explore_neg),
      .value = "0.01",
      .max = 1,
      .help = "how often those that will miss it are kept instead" },
    { .name = "latencyPredictionInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct headroom_tier_params, latency_producer),
      .help = "whose predictions count" },
};

static bool is_positive(const struct sched_view *v, uint32_t i)
{
    return v->prediction[i].ttft_headroom_ms >= 0 && v->prediction[i].tpot_headroom_ms >= 0;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct headroom_tier_params *c = p->params;
    uint32_t count[2] = { 0, 0 };
    bool wanted = true;

    if (v->prediction == NULL)
        return;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            count[is_positive(v, i)]++;
    if (count[0] == 0 || count[1] == 0)
        return;
    wanted = rng_f64(v->rng) >= c->epsilon_explore_neg;
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] &= is_positive(v, i) == wanted;
}

static const char *const NEEDS[] = { "LatencyPredictionInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct headroom_tier_params *)params)->latency_producer;
}

const struct plugin_type plugin_headroom_filter = {
    .type = "slo-headroom-tier-filter",
    .roles = ROLE_FILTER,
    .params_size = sizeof(struct headroom_tier_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .filter = filter,
};
