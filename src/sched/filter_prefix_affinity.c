/* prefix-cache-affinity-filter: keeps those that hold most of the prompt, unless they have become
 * so slow that somebody without it would answer sooner. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static const char *const TTFT_SOURCES[] = { "prefillThroughput", "latencyPredictor", NULL };

#define P struct prefix_affinity_params
static const struct plugin_param PARAMS[] = {
    { .name = "affinityThreshold",
      .kind = PARAM_F64,
      .at = offsetof(P, affinity_threshold),
      .value = "0.80",
      .min = -INFINITY,
      .max = 1,
      .help = "share of the prompt's blocks from where an endpoint is sticky; <= 0: off" },
    { .name = "explorationProbability",
      .kind = PARAM_F64,
      .at = offsetof(P, exploration_probability),
      .max = 1,
      .help = "how often everybody is kept" },
    { .name = "maxTTFTPenaltyMs",
      .kind = PARAM_F64,
      .at = offsetof(P, max_ttft_penalty_ms),
      .value = "18000",
      .min = -INFINITY,
      .max = INFINITY,
      .help = "how much later a sticky endpoint may answer; <= 0: however late" },
    { .name = "ttftSource",
      .kind = PARAM_WORD,
      .at = offsetof(P, ttft_source),
      .value = "prefillThroughput",
      .words = TTFT_SOURCES,
      .help = "where the time to first token comes from" },
    { .name = "peakPrefillThroughput",
      .kind = PARAM_F64,
      .at = offsetof(P, peak_prefill_throughput),
      .value = "15928",
      .min = 1e-9,
      .max = INFINITY,
      .help = "tokens per second of an endpoint that does nothing else" },
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, prefix_producer),
      .help = "whose prefix matches count" },
    { .name = "inFlightLoadProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, inflight_producer),
      .help = "whose load counts" },
    { .name = "latencyPredictionInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, latency_producer),
      .help = "whose predictions count" },
};
#undef P

static double ttft_ms(const struct prefix_affinity_params *c, const struct sched_view *v,
                      uint32_t i)
{
    if (c->ttft_source == TTFT_LATENCY_PREDICTOR)
        return v->prediction == NULL ? INFINITY : v->prediction[i].ttft_ms;
    return v->ep[i].inflight_tokens / c->peak_prefill_throughput * 1000;
}

static bool is_sticky(const struct prefix_affinity_params *c, const struct sched_prefix *f,
                      uint32_t i)
{
    double share = 0;

    if (f != NULL && f->total_blocks != 0)
        share = (double)f->match_blocks[i] / f->total_blocks;
    return share >= c->affinity_threshold;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct prefix_affinity_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    double best[2] = { INFINITY, INFINITY }; /* not sticky, sticky */
    uint32_t count[2] = { 0, 0 };

    if (c->affinity_threshold <= 0)
        return;
    for (uint32_t i = 0; i < v->count; i++) {
        bool sticky = is_sticky(c, f, i);

        if (!keep[i])
            continue;
        count[sticky]++;
        best[sticky] = MIN(best[sticky], ttft_ms(c, v, i));
    }
    if (count[0] + count[1] <= 1)
        return;
    if (c->exploration_probability > 0 && rng_f64(v->rng) < c->exploration_probability)
        return;
    if (count[1] == 0 ||
        (c->max_ttft_penalty_ms > 0 && count[0] != 0 && best[1] - best[0] > c->max_ttft_penalty_ms))
        return;
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] &= is_sticky(c, f, i);
}

static struct str needs_from(const void *params)
{
    return ((const struct prefix_affinity_params *)params)->prefix_producer;
}

static const char *const NEEDS[] = { "PrefixCacheMatchInfo", "InFlightLoad", NULL };

const struct plugin_type plugin_prefix_affinity_filter = {
    .type = "prefix-cache-affinity-filter",
    .roles = ROLE_FILTER,
    .params_size = sizeof(struct prefix_affinity_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .filter = filter,
};
