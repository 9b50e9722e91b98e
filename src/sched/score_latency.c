/* latency-scorer: by how much each endpoint is expected to keep or miss the objective.
 *
 *   no predictions          -> KV room, queue and prefix, weighted
 *   some keep both          -> only those, by the configured strategy
 *   all miss                -> idle ones, else those that miss least of the two objectives
 *
 * Within the chosen group the headrooms are compared with each other: "least" packs requests where
 * the objective is kept only just, "most" spreads them. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static const char *const STRATEGIES[] = { "least", "most", NULL };

#define P struct latency_scorer_params
#define WEIGHT(key, member, text, words_help)                                                      \
    {                                                                                              \
        .name = key, .kind = PARAM_F64, .at = offsetof(P, member), .value = text, .max = INFINITY, \
        .help = words_help                                                                         \
    }

static const struct plugin_param PARAMS[] = {
    WEIGHT("ttftWeight", ttft_weight, "0.8", "weight of the time to first token"),
    WEIGHT("tpotWeight", tpot_weight, "0.2", "weight of the time per further token"),
    { .name = "headroomSelectionStrategy",
      .kind = PARAM_WORD,
      .at = offsetof(P, strategy),
      .value = "least",
      .words = STRATEGIES,
      .help = "who is best of those that keep the objective" },
    WEIGHT("compositeKVWeight", kv_weight, "1", "without predictions: of free KV memory"),
    WEIGHT("compositeQueueWeight", queue_weight, "1", "without predictions: of a short queue"),
    WEIGHT("compositePrefixWeight", prefix_weight, "1", "without predictions: of the prefix held"),
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, prefix_producer),
      .help = "whose matches count; empty: the approximate producer's" },
    { .name = "latencyPredictionInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, latency_producer),
      .help = "whose predictions count" },
};
#undef P

/* ---- without predictions ---- */

static void score_composite(const struct latency_scorer_params *c, const struct sched_view *v,
                            const bool *keep, double *out)
{
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    double sum = c->kv_weight + c->queue_weight + c->prefix_weight, longest = 0;

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            longest = MAX(longest, v->ep[i].scraped_waiting);
    for (uint32_t i = 0; i < v->count; i++) {
        double queue = longest > 0 ? (longest - v->ep[i].scraped_waiting) / longest : 1;
        double x = c->kv_weight * (1 - v->ep[i].scraped_kv) + c->queue_weight * queue +
                   c->prefix_weight * score_prefix_of(f, i, 0, 1);

        if (keep[i])
            out[i] = sum > 0 ? round(x / sum * 100) / 100 : 0;
    }
}

/* ---- with predictions ---- */

enum group { MISS_NONE, MISS_TPOT, MISS_TTFT, MISS_BOTH, GROUPS };

static enum group group_of(const struct sched_prediction *p)
{
    if (p->ttft_headroom_ms < 0)
        return p->tpot_headroom_ms < 0 ? MISS_BOTH : MISS_TTFT;
    return p->tpot_headroom_ms < 0 ? MISS_TPOT : MISS_NONE;
}

struct span {
    double min, max;
};

static void span_add(struct span *s, double x)
{
    s->min = MIN(s->min, x);
    s->max = MAX(s->max, x);
}

static bool is_flat(const struct span *s)
{
    return s->max - s->min <= 1e-9;
}

static double normal(const struct span *s, double x)
{
    return is_flat(s) ? 0.5 : (x - s->min) / (s->max - s->min);
}

static void score_group(const struct latency_scorer_params *c, const struct sched_view *v,
                        const bool *in, bool most, double *out)
{
    struct span ttft = { INFINITY, -INFINITY }, tpot = ttft;
    double alpha = 1, beta = 0, sum = c->ttft_weight + c->tpot_weight;

    for (uint32_t i = 0; i < v->count; i++)
        if (in[i]) {
            span_add(&ttft, fabs(v->prediction[i].ttft_headroom_ms));
            span_add(&tpot, fabs(v->prediction[i].tpot_headroom_ms));
        }
    if (sum > 0) {
        alpha = c->ttft_weight / sum;
        beta = c->tpot_weight / sum;
    }
    if (is_flat(&ttft) != is_flat(&tpot)) { /* what is the same everywhere says nothing */
        alpha = is_flat(&ttft) ? 0 : 1;
        beta = 1 - alpha;
    }
    for (uint32_t i = 0; i < v->count; i++) {
        double x;

        if (!in[i])
            continue;
        x = alpha * normal(&ttft, fabs(v->prediction[i].ttft_headroom_ms)) +
            beta * normal(&tpot, fabs(v->prediction[i].tpot_headroom_ms));
        out[i] = MIN(1, (trunc((most ? x : 1 - x) * 100) + 1) / 100);
    }
}

/* Marks the members of one group; idle: only those without a request. */
static uint32_t select_group(const struct sched_view *v, const bool *keep, int group, bool idle,
                             bool *in)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < v->count; i++) {
        const struct sched_prediction *p = &v->prediction[i];

        in[i] = keep[i] && (idle ? p->dispatched == 0 : (int)group_of(p) == group);
        count += in[i];
    }
    return count;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct latency_scorer_params *c = p->params;
    bool *in = arena_alloc(v->arena, v->count + 1);

    if (v->prediction == NULL) {
        score_composite(c, v, keep, out);
        return;
    }
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = 0;
    if (select_group(v, keep, MISS_NONE, false, in) != 0) {
        score_group(c, v, in, c->strategy == HEADROOM_MOST, out);
        return;
    }
    if (select_group(v, keep, 0, true, in) != 0) {
        score_group(c, v, in, false, out);
        return;
    }
    for (int g = MISS_TPOT; g < GROUPS; g++)
        if (select_group(v, keep, g, false, in) != 0) {
            score_group(c, v, in, false, out);
            return;
        }
}

static const char *const NEEDS[] = { "LatencyPredictionInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct latency_scorer_params *)params)->latency_producer;
}

const struct plugin_type plugin_latency_scorer = {
    .type = "latency-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct latency_scorer_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .score = score,
};
