/* p2p-source-producer: from whom the endpoint that computes a prompt may fetch the KV it lacks.
 *
 * Those that hold the most of the prompt, give or take one block, are drawn from by how short their
 * queues are; the request's id makes the draw, so a retry asks the same one.  The header goes to
 * the worker only when the source holds enough more than the worker itself.
 * Blocks by tier are not known here, so every cached block counts. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"
#include <math.h>
#include <stddef.h>

static const char HEADER[] = "x-kv-cache-source-host-port";

struct p2p_params {
    struct str prefix_producer, prefill_profile;
    uint32_t delta_min;
};

#define P struct p2p_params
static const struct plugin_param PARAMS[] = {
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(P, prefix_producer),
      .help = "whose matches count; empty: the approximate producer's" },
    { .name = "minCachedTokenDelta",
      .kind = PARAM_U32,
      .at = offsetof(P, delta_min),
      .value = "1",
      .min = 1,
      .max = UINT32_MAX,
      .help = "tokens that the source must hold beyond what the worker does" },
    { .name = "prefillProfileName",
      .kind = PARAM_STR,
      .at = offsetof(P, prefill_profile),
      .value = "prefill",
      .help = "profile whose pick computes the prompt, when it ran" },
};
#undef P

static double fnv32_fraction(struct str s)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * 16777619u;
    return h / 4294967296.0;
}

static double weight_of(const struct sched_endpoint *e)
{
    return e->scraped_waiting > 0 ? 1 / (1 + e->scraped_waiting) : 1;
}

static uint32_t source_of(const struct plugin *p, const struct sched_view *v)
{
    const struct p2p_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    double sum = 0, at = fnv32_fraction(v->r->id);
    uint32_t most = 0, last = SCHED_NONE;

    if (f == NULL)
        return SCHED_NONE;
    for (uint32_t i = 0; i < v->count; i++)
        if (v->ep[i].use == SCHED_USED)
            most = MAX(most, f->cached_blocks[i]);
    for (uint32_t i = 0; i < v->count && most != 0; i++)
        if (v->ep[i].use == SCHED_USED && f->cached_blocks[i] + 1 >= most)
            sum += weight_of(&v->ep[i]);
    at *= sum;
    for (uint32_t i = 0; i < v->count && most != 0; i++) {
        if (v->ep[i].use != SCHED_USED || f->cached_blocks[i] + 1 < most)
            continue;
        last = i;
        at -= weight_of(&v->ep[i]);
        if (at < 0)
            break;
    }
    return last;
}

static void produce(struct plugin *p, struct sched_view *v)
{
    uint32_t source = source_of(p, v);

    if (source != SCHED_NONE)
        sched_view_attribute_set(v, STR("best-match"), p->name, v->ep[source].address);
}

static void dispatched(struct plugin *p, struct sched_run *run)
{
    const struct p2p_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(run->v, c->prefix_producer);
    uint32_t computes = sched_run_pick(run, sched_config_profile(run->config, c->prefill_profile));
    uint32_t source = source_of(p, run->v);

    sched_run_drop(run, HEADER);
    if (computes == SCHED_NONE)
        computes = sched_run_pick(run, run->primary);
    if (f == NULL || source == SCHED_NONE || computes == SCHED_NONE || source == computes ||
        f->cached_blocks[source] <= f->cached_blocks[computes])
        return;
    if ((uint64_t)(f->cached_blocks[source] - f->cached_blocks[computes]) * f->block_tokens >=
        c->delta_min)
        sched_run_header(run, HEADER, run->v->ep[source].address);
}

static const char *const NEEDS[] = { "PrefixCacheMatchInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct p2p_params *)params)->prefix_producer;
}

const struct plugin_type plugin_p2p_producer = {
    .type = "p2p-source-producer",
    .roles = ROLE_PRODUCER | ROLE_PRE_REQUEST,
    .alpha = true,
    .params_size = sizeof(struct p2p_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .produce = produce,
    .dispatched = dispatched,
};
