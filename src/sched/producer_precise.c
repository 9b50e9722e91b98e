/* precise-prefix-cache-producer: what the index of KV events says each endpoint holds.
 *
 * The index itself is the cache manager's, followed by whoever reads the network; its answer comes
 * with the request (sched_request.indexed), in blocks of the request's block size.  Where upstream
 * configures an index and subscriptions here, those of the cache manager stand in, so their
 * parameters are accepted and have no effect.
 * The older precise-prefix-cache-scorer is the same and a scorer in one. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"
#include <stddef.h>

struct precise_params {
    bool speculates;
    uint32_t speculative_ttl_ms;
};

static const struct plugin_param PARAMS[] = {
    { .name = "tokenProcessorConfig",
      .kind = PARAM_IGNORED,
      .help = "accepted: --block-size rules" },
    { .name = "indexerConfig",
      .kind = PARAM_IGNORED,
      .help = "accepted: the cache manager's rules" },
    { .name = "kvEventsConfig",
      .kind = PARAM_IGNORED,
      .help = "accepted: the cache manager subscribes" },
    { .name = "speculativeIndexing",
      .kind = PARAM_BOOL,
      .at = offsetof(struct precise_params, speculates),
      .value = "false",
      .help = "accepted; what was routed where is always counted until its events come" },
    { .name = "speculativeTTL",
      .kind = PARAM_DURATION_MS,
      .at = offsetof(struct precise_params, speculative_ttl_ms),
      .value = "2s",
      .max = 3.6e6,
      .help = "accepted" },
};

static void produce(struct plugin *p, struct sched_view *v)
{
    const struct sched_request *r = v->r;
    struct sched_prefix *f;

    if (r->indexed == NULL || r->block_tokens == 0 || (f = producer_prefix_add(v, p->name)) == NULL)
        return;
    f->total_blocks = r->prompt_tokens / r->block_tokens;
    f->block_tokens = r->block_tokens;
    for (uint32_t i = 0; i < v->count; i++)
        f->match_blocks[i] = f->cached_blocks[i] = MIN(r->indexed[i], f->total_blocks);
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    const struct sched_prefix *f = sched_view_prefix(v, p->name);

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = score_prefix_of(f, i, 0, 1);
}

static const char *const NEEDS[] = { "TokenizedPrompt", NULL };
static const char *const GIVES[] = { "PrefixCacheMatchInfo", NULL };

#define PRECISE_TYPE(name)                                                                         \
    .type = name, .params_size = sizeof(struct precise_params), .params = PARAMS,                  \
    .param_count = COUNT(PARAMS), .needs = NEEDS, .gives = GIVES, .produce = produce

const struct plugin_type plugin_precise_producer = {
    PRECISE_TYPE("precise-prefix-cache-producer"),
    .roles = ROLE_PRODUCER,
};

const struct plugin_type plugin_precise_scorer = {
    PRECISE_TYPE("precise-prefix-cache-scorer"),
    .roles = ROLE_PRODUCER | ROLE_SCORER,
    .score = score,
    .deprecated = "precise-prefix-cache-scorer: use prefix-cache-scorer with a "
                  "precise-prefix-cache-producer",
};
