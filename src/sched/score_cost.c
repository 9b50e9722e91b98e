/* llmd-cost-scorer: the project's own cost model as one scorer among llm-d's.  An extension: other
 * schedulers do not know the type.
 *
 * score = least estimated cost / own cost, in milliseconds until the answer is complete (queue,
 * prefill of what is not cached, interference; sched/sched.h).  So the best scores 1 and one that
 * takes twice as long 0.5, whatever the load. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

#define CONF(member) offsetof(struct cost_scorer_params, conf.member)

static const struct plugin_param PARAMS[] = {
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct cost_scorer_params, prefix_producer),
      .help = "whose matches count where the index has none; empty: the approximate producer's" },
    { .name = "defaultPrefillMsPerToken",
      .kind = PARAM_F64,
      .at = CONF(default_prefill_ms_per_token),
      .value = "2",
      .min = 1e-6,
      .max = 1e6,
      .help = "until an endpoint's own is learned" },
    { .name = "defaultDecodeMsPerToken",
      .kind = PARAM_F64,
      .at = CONF(default_decode_ms_per_token),
      .value = "20",
      .min = 1e-6,
      .max = 1e6,
      .help = "until an endpoint's own is learned" },
    { .name = "decodeInterference",
      .kind = PARAM_F64,
      .at = CONF(decode_interference),
      .value = "0.3",
      .max = 10,
      .help = "share of a prefill's time that each running stream loses" },
    { .name = "decodeBatchSlope",
      .kind = PARAM_F64,
      .at = CONF(decode_batch_slope),
      .value = "0.3",
      .max = 10,
      .help = "how much one more stream stretches a decode step" },
    { .name = "decodeTokensDefault",
      .kind = PARAM_U32,
      .at = CONF(decode_tokens_default),
      .value = "128",
      .min = 1,
      .max = 1000000,
      .help = "answer length when the request sets no limit" },
    { .name = "decodeTokensMax",
      .kind = PARAM_U32,
      .at = CONF(decode_tokens_max),
      .value = "512",
      .min = 1,
      .max = 1000000,
      .help = "longest answer that is believed" },
    { .name = "roleFraction",
      .kind = PARAM_F64,
      .at = CONF(role_fraction),
      .value = "0.5",
      .max = 10,
      .help = "work on the other side of a role costs that much more" },
    { .name = "roleFixedMs",
      .kind = PARAM_F64,
      .at = CONF(role_fixed_ms),
      .value = "500",
      .max = 1e6,
      .help = "and a prefill worker that decodes this" },
    { .name = "kvFull",
      .kind = PARAM_F64,
      .at = CONF(kv_full),
      .value = "0.9",
      .min = 0.01,
      .max = 1,
      .help = "KV usage from where a prompt waits for room" },
    { .name = "evictFactor",
      .kind = PARAM_F64,
      .at = CONF(evict_factor),
      .value = "3",
      .max = 1000,
      .help = "what a copy pushes out of a full cache costs so many times more" },
};

/* What the index does not know, the producer may. */
static const uint32_t *matched_of(const struct cost_scorer_params *c, const struct sched_view *v)
{
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    uint32_t *blocks;

    if (v->r->matched != NULL || f == NULL || v->r->block_tokens == 0)
        return v->r->matched;
    blocks = arena_alloc(v->arena, (v->count + 1) * sizeof(*blocks));
    for (uint32_t i = 0; i < v->count; i++)
        blocks[i] =
            (uint32_t)((uint64_t)f->cached_blocks[i] * f->block_tokens / v->r->block_tokens);
    return blocks;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct cost_scorer_params *c = p->params;
    struct sched_cost *costs = arena_alloc(v->arena, (v->count + 1) * sizeof(*costs));
    bool *excluded = arena_alloc(v->arena, v->count + 1);
    struct sched_request r = *v->r;
    struct sched_decision unused;
    double least = INFINITY;

    for (uint32_t i = 0; i < v->count; i++)
        excluded[i] = !keep[i];
    r.matched = matched_of(c, v);
    r.excluded = excluded;
    r.no_split = true;
    sched_decide(&c->conf, v->ep, v->count, &r, &unused, costs);
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            least = MIN(least, costs[i].total_ms);
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = costs[i].total_ms > 0 ? least / costs[i].total_ms : 1;
}

const struct plugin_type plugin_cost_scorer = {
    .type = "llmd-cost-scorer",
    .roles = ROLE_SCORER,
    .params_size = sizeof(struct cost_scorer_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .score = score,
};
