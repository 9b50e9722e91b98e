/* prefix-cache-scorer and its kin: who holds the beginning of the prompt.
 *
 * The share of the prompt that is held, mixed on request with its absolute length: a long match
 * saves more work than a short one of the same share. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

static const char MULTICLUSTER_PRODUCER[] = "multicluster-approx-prefix-cache-producer";

double score_prefix_of(const struct sched_prefix *f, uint32_t i, double weight, double scale)
{
    double share, length = 0;

    if (f == NULL || f->total_blocks == 0)
        return 0;
    share = (double)f->match_blocks[i] / f->total_blocks;
    if (weight > 0) {
        length = MIN(1, (double)f->match_blocks[i] * f->block_tokens / scale);
        length *= length;
    }
    return weight * length + (1 - weight) * share;
}

static const struct plugin_param PARAMS[] = {
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct prefix_scorer_params, producer),
      .help = "whose matches count; empty: the approximate producer's" },
    { .name = "matchLengthWeight",
      .kind = PARAM_F64,
      .at = offsetof(struct prefix_scorer_params, length_weight),
      .max = 1,
      .help = "how much the match's length counts, instead of its share" },
    { .name = "matchLengthScaleTokens",
      .kind = PARAM_F64,
      .at = offsetof(struct prefix_scorer_params, length_scale_tokens),
      .value = "8192",
      .help = "tokens from where a match is as long as it can be" },
};

static int check(const void *params, struct err *e)
{
    const struct prefix_scorer_params *c = params;

    if (c->length_weight > 0 && !(c->length_scale_tokens > 0))
        return err_set(e, ERR_INVAL,
                       "matchLengthScaleTokens: must be over 0 when matchLengthWeight is");
    return 0;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct prefix_scorer_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->producer);

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = score_prefix_of(f, i, c->length_weight, c->length_scale_tokens);
}

static const char *const NEEDS[] = { "PrefixCacheMatchInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct prefix_scorer_params *)params)->producer;
}

const struct plugin_type plugin_prefix_scorer = {
    .type = "prefix-cache-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct prefix_scorer_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .needs = NEEDS,
    .needs_from = needs_from,
    .score = score,
};

/* ---- multicluster-prefix-cache-scorer ---- */

static void pool_score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct sched_prefix *f = sched_view_prefix(v, str_of(MULTICLUSTER_PRODUCER));

    (void)p;
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = f == NULL ? NAN : score_prefix_of(f, i, 0, 1);
}

static struct str pool_from(const void *params)
{
    (void)params;
    return str_of(MULTICLUSTER_PRODUCER);
}

const struct plugin_type plugin_multicluster_prefix_scorer = {
    .type = "multicluster-prefix-cache-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .needs = NEEDS,
    .needs_from = pool_from,
    .score = pool_score,
};
