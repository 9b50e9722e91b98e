/* burst-prefix-cache-producer: requests that come within a window and share their beginning are
 * sent to the same endpoint, as if it held it already (sched/burst.h). */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/burst.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"

#define BLOCKS_DEFAULT 2048

struct burst_state {
    struct burst *b;
};

#define AT(f) offsetof(struct burst_conf, f)
static const char *const balances[] = { "requests", "tokens", NULL };
static const struct plugin_param PARAMS[] = {
    { .name = "windowDurationMs",
      .kind = PARAM_U32,
      .at = AT(window_ms),
      .value = "100",
      .min = 1,
      .max = 10000,
      .help = "how long a request waits for others" },
    { .name = "maxPerReplica",
      .kind = PARAM_I64,
      .at = AT(per_endpoint_max),
      .value = "-1",
      .min = -1,
      .max = 1 << 20,
      .help = "of one prompt at one endpoint; -1: all" },
    { .name = "blockSizeTokens",
      .kind = PARAM_U32,
      .at = AT(block_tokens),
      .value = "64",
      .min = 1,
      .max = 1 << 20,
      .help = "tokens of a block" },
    { .name = "maxPrefixTokensToMatch",
      .kind = PARAM_U32,
      .at = AT(tokens_max),
      .help = "tokens that are looked at; 0: 2048 blocks" },
    { .name = "minColocateBlocks",
      .kind = PARAM_U32,
      .at = AT(colocate_blocks),
      .help = "so many shared blocks bring different prompts together; 0: only equal ones" },
    { .name = "maxBatchSize",
      .kind = PARAM_I64,
      .at = AT(requests_max),
      .value = "1000",
      .min = -1,
      .max = 1 << 20,
      .help = "requests of a window; the others do not wait; -1: 4096" },
    { .name = "balanceBy",
      .kind = PARAM_WORD,
      .at = AT(balance),
      .value = "requests",
      .words = balances,
      .help = "what endpoints get equal numbers of" },
};
#undef AT

static int check(const void *params, struct err *e)
{
    const struct burst_conf *c = params;

    if (c->per_endpoint_max == 0)
        return err_set(e, ERR_INVAL, "maxPerReplica: must be -1 or at least 1");
    if (c->requests_max == 0)
        return err_set(e, ERR_INVAL, "maxBatchSize: must be -1 or at least 1");
    if (c->tokens_max != 0 && c->tokens_max < c->block_tokens)
        return err_set(e, ERR_INVAL,
                       "maxPrefixTokensToMatch: must be 0 or at least blockSizeTokens");
    return 0;
}

static uint32_t blocks_of(const struct plugin *p, const struct sched_view *v,
                          uint32_t *block_tokens, const uint64_t **keys)
{
    const struct burst_conf *c = p->params;
    uint32_t unit = MAX(v->r->block_tokens, 1u);

    *block_tokens = (c->block_tokens + unit - 1) / unit * unit; /* only whole units have a key */
    return producer_block_keys(v, *block_tokens,
                               c->tokens_max != 0 ? c->tokens_max / *block_tokens : BLOCKS_DEFAULT,
                               true, keys);
}

static uint32_t hold(struct plugin *p, const struct sched_view *v)
{
    uint32_t block_tokens, count;
    const uint64_t *keys;

    count = blocks_of(p, v, &block_tokens, &keys);
    return burst_join(((struct burst_state *)p->state)->b, v->r->held, keys, count, v->now_ms);
}

static void produce(struct plugin *p, struct sched_view *v)
{
    struct sched_prefix *f = producer_prefix_add(v, p->name);
    uint64_t *uid = arena_alloc(v->arena, ((size_t)v->count + 1) * sizeof(*uid)), at;
    const uint64_t *keys;

    if (f == NULL)
        return;
    f->total_blocks = blocks_of(p, v, &f->block_tokens, &keys);
    for (uint32_t i = 0; i < v->count; i++)
        uid[i] = v->ep[i].uid;
    if (!burst_find(((struct burst_state *)p->state)->b, v->r->held, uid, v->count, v->now_ms, &at))
        return;
    for (uint32_t i = 0; i < v->count; i++)
        if (uid[i] == at)
            f->match_blocks[i] = f->cached_blocks[i] = f->total_blocks;
}

static void state_init(struct plugin *p)
{
    ((struct burst_state *)p->state)->b = burst_new(p->params);
}

static void state_fini(struct plugin *p)
{
    burst_free(((struct burst_state *)p->state)->b);
}

static const char *const NEEDS[] = { "TokenizedPrompt", NULL };
static const char *const GIVES[] = { "PrefixCacheMatchInfo", NULL };

const struct plugin_type plugin_burst_producer = {
    .type = "burst-prefix-cache-producer",
    .roles = ROLE_PRODUCER,
    .alpha = true,
    .params_size = sizeof(struct burst_conf),
    .state_size = sizeof(struct burst_state),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .needs = NEEDS,
    .gives = GIVES,
    .state_init = state_init,
    .state_fini = state_fini,
    .hold = hold,
    .produce = produce,
};
