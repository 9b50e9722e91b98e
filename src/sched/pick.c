/* Pickers: the last step of a profile.
 *
 * The list is shuffled first, so equal scores win equally often.  Few are asked for (one, nearly
 * always), so the best are taken one by one instead of sorting. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static const struct plugin_param PARAMS[] = {
    { .name = "maxNumOfEndpoints",
      .kind = PARAM_I64,
      .at = offsetof(struct picker_params, endpoints_max),
      .value = "1",
      .help = "how many are picked, the best first; 0 and less: 1" },
};

static uint32_t wanted(const struct plugin *p, uint32_t count, uint32_t max)
{
    int64_t n = ((const struct picker_params *)p->params)->endpoints_max;

    return (uint32_t)MIN(MIN((uint64_t)MAX(n, 1), count), max);
}

/* Those kept, in random order. */
static uint32_t shuffled(const struct sched_view *v, const bool *keep, uint32_t **out)
{
    uint32_t n = 0, *list = arena_alloc(v->arena, (v->count + 1) * sizeof(*list));

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            list[n++] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t k = (uint32_t)rng_below(v->rng, i), t = list[i - 1];

        list[i - 1] = list[k];
        list[k] = t;
    }
    *out = list;
    return n;
}

/* The n of list[] with the largest keys (by endpoint), the largest first; of equals the earlier. */
static void take_largest(uint32_t *list, uint32_t count, const double *key, uint32_t *out,
                         uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        uint32_t best = k;

        for (uint32_t i = k + 1; i < count; i++)
            if (key[list[i]] > key[list[best]])
                best = i;
        out[k] = list[best];
        /* those before it move up, so that equals stay in their order */
        for (uint32_t i = best; i > k; i--)
            list[i] = list[i - 1];
        list[k] = out[k];
    }
}

static uint32_t pick_random(struct plugin *p, const struct sched_view *v, const bool *keep,
                            const double *score, uint32_t *out, uint32_t max)
{
    uint32_t *list, count = shuffled(v, keep, &list), n = wanted(p, count, max);

    (void)score;
    for (uint32_t i = 0; i < n; i++)
        out[i] = list[i];
    return n;
}

static uint32_t pick_max(struct plugin *p, const struct sched_view *v, const bool *keep,
                         const double *score, uint32_t *out, uint32_t max)
{
    uint32_t *list, count, n;

    if (score == NULL)
        return pick_random(p, v, keep, score, out, max);
    count = shuffled(v, keep, &list);
    n = wanted(p, count, max);
    take_largest(list, count, score, out, n);
    return n;
}

/* A-Res (Efraimidis, Spirakis): the n largest of U^(1/weight) are a sample without replacement
 * whose chances are the weights.  By their logarithms, because small weights make powers that are
 * all zero. */
static uint32_t pick_weighted(struct plugin *p, const struct sched_view *v, const bool *keep,
                              const double *score, uint32_t *out, uint32_t max)
{
    double *key = arena_alloc(v->arena, (v->count + 1) * sizeof(*key));
    uint32_t *list, count, n;
    bool some = false;

    for (uint32_t i = 0; i < v->count && score != NULL; i++)
        some |= keep[i] && score[i] > 0;
    if (!some)
        return pick_random(p, v, keep, score, out, max);
    count = shuffled(v, keep, &list);
    n = wanted(p, count, max);
    for (uint32_t i = 0; i < count; i++) {
        double u = rng_f64(v->rng), weight = score[list[i]];

        key[list[i]] = weight > 0 ? log(u > 0 ? u : 1e-10) / weight : -INFINITY;
    }
    take_largest(list, count, key, out, n);
    return n;
}

#define PICKER(name)                                                                               \
    .type = name, .roles = ROLE_PICKER, .params_size = sizeof(struct picker_params),               \
    .params = PARAMS, .param_count = COUNT(PARAMS)

const struct plugin_type plugin_max_score_picker = {
    PICKER("max-score-picker"),
    .pick = pick_max,
};

const struct plugin_type plugin_random_picker = {
    PICKER("random-picker"),
    .pick = pick_random,
};

const struct plugin_type plugin_weighted_random_picker = {
    PICKER("weighted-random-picker"),
    .pick = pick_weighted,
};
