/* approx-prefix-cache-producer: the beginning of prompts by what was routed where.
 *
 * A block is blockSizeTokens, at least 64: every so many of the request's chain keys is a block's
 * key, because a chain key stands for everything in front of it too.  The last, shorter block
 * counts.  Once a pick is final its endpoints get all blocks, as if they held them already. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include "sched/prefix_index.h"
#include "sched/producer.h"
#include <string.h>

#define BLOCK_TOKENS_MIN 64
#define INDEX_BYTES_MAX  ((size_t)1 << 30)

struct approx_state {
    struct prefix_index *ix;
};

#define P struct approx_params
static const struct plugin_param PARAMS[] = {
    { .name = "autoTune",
      .kind = PARAM_BOOL,
      .at = offsetof(P, auto_tune),
      .value = "true",
      .help = "block size and capacity from what endpoints say of their caches" },
    { .name = "blockSizeTokens",
      .kind = PARAM_U32,
      .at = offsetof(P, block_tokens),
      .value = "16",
      .max = 1 << 20,
      .help = "tokens of a block; less than 64 counts as 64" },
    { .name = "blockSize",
      .kind = PARAM_U32,
      .at = offsetof(P, block_size),
      .max = 1 << 20,
      .help = "deprecated: older name of blockSizeTokens" },
    { .name = "maxPrefixTokensToMatch",
      .kind = PARAM_U32,
      .at = offsetof(P, tokens_max),
      .value = "131072",
      .help = "tokens that are looked at; 0: maxPrefixBlocksToMatch counts" },
    { .name = "maxPrefixBlocksToMatch",
      .kind = PARAM_U32,
      .at = offsetof(P, blocks_max),
      .value = "2048",
      .help = "blocks that are looked at when the tokens are not bounded; 0: all" },
    { .name = "lruCapacityPerServer",
      .kind = PARAM_U32,
      .at = offsetof(P, capacity),
      .value = "31250",
      .min = 1,
      .max = 1 << 22,
      .help = "blocks remembered of an endpoint that does not say how many it holds" },
};
#undef P

uint32_t approx_block_tokens(const struct approx_params *c, const struct sched_view *v)
{
    uint32_t unit = v->r->block_tokens, tokens = c->block_tokens;

    if (tokens == 16 && c->block_size != 0)
        tokens = c->block_size;
    if (c->auto_tune && v->count != 0 && v->ep[0].cache_block_tokens != 0)
        tokens = v->ep[0].cache_block_tokens;
    tokens = MAX(tokens, BLOCK_TOKENS_MIN);
    if (unit == 0)
        return tokens;
    return (tokens + unit - 1) / unit * unit; /* only whole units have a key */
}

uint32_t producer_block_keys(const struct sched_view *v, uint32_t block_tokens, uint32_t blocks_max,
                             bool with_tail, const uint64_t **out)
{
    const struct sched_request *r = v->r;
    uint32_t step = r->block_tokens == 0 ? 0 : block_tokens / r->block_tokens, count, n;
    uint64_t *keys;

    *out = NULL;
    if (step == 0 || r->keys == NULL)
        return 0;
    n = r->key_count / step;
    if (step == 1 && (!with_tail || r->tail_key == 0 || n >= blocks_max)) {
        *out = r->keys;
        return MIN(n, blocks_max);
    }
    count = MIN(n, blocks_max);
    keys = arena_try(v->arena, ((size_t)count + 1) * sizeof(*keys));
    if (keys == NULL)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        keys[i] = r->keys[(size_t)(i + 1) * step - 1];
    if (with_tail && n < blocks_max) {
        if (r->tail_key != 0)
            keys[count++] = r->tail_key;
        else if (r->key_count % step != 0)
            keys[count++] = r->keys[r->key_count - 1];
    }
    *out = keys;
    return count;
}

static uint32_t blocks_of(const struct plugin *p, const struct sched_view *v,
                          uint32_t *block_tokens, const uint64_t **keys)
{
    const struct approx_params *c = p->params;
    uint32_t max = c->blocks_max != 0 ? c->blocks_max : UINT32_MAX;

    *block_tokens = approx_block_tokens(c, v);
    if (c->tokens_max != 0)
        max = c->tokens_max / *block_tokens;
    return producer_block_keys(v, *block_tokens, max, true, keys);
}

struct sched_prefix *producer_prefix_add(struct sched_view *v, struct str name)
{
    struct sched_prefix *f;
    size_t bytes = ((size_t)v->count + 1) * sizeof(uint32_t);

    if (v->prefix_count == SCHED_PREFIXES_MAX)
        return NULL;
    f = &v->prefix[v->prefix_count++];
    *f = (struct sched_prefix) { .producer = name };
    f->match_blocks = arena_alloc(v->arena, bytes);
    f->cached_blocks = arena_alloc(v->arena, bytes);
    memset(f->match_blocks, 0, bytes);
    memset(f->cached_blocks, 0, bytes);
    return f;
}

static void produce(struct plugin *p, struct sched_view *v)
{
    struct approx_state *s = p->state;
    struct sched_prefix *f = producer_prefix_add(v, p->name);
    uint64_t *uid = arena_alloc(v->arena, (v->count + 1) * sizeof(*uid));
    const uint64_t *keys;

    if (f == NULL)
        return;
    f->total_blocks = blocks_of(p, v, &f->block_tokens, &keys);
    for (uint32_t i = 0; i < v->count; i++)
        uid[i] = v->ep[i].uid;
    prefix_index_match(s->ix, v->arena, keys, f->total_blocks, uid, v->count, f->match_blocks);
    for (uint32_t i = 0; i < v->count; i++)
        f->cached_blocks[i] = f->match_blocks[i];
}

/* An endpoint's cache in blocks of ours: its own blocks may be smaller. */
static uint32_t capacity_of(const struct approx_params *c, const struct sched_endpoint *e,
                            uint32_t block_tokens)
{
    uint64_t tokens = (uint64_t)e->cache_blocks * e->cache_block_tokens;

    if (!c->auto_tune || tokens == 0)
        return c->capacity;
    return (uint32_t)MIN(MAX(tokens / block_tokens, 1), UINT32_MAX);
}

static void remember(struct plugin *p, const struct sched_view *v, uint32_t pick)
{
    struct approx_state *s = p->state;
    uint32_t block_tokens, count;
    const uint64_t *keys;

    count = blocks_of(p, v, &block_tokens, &keys);
    prefix_index_add(s->ix, v->ep[pick].uid, capacity_of(p->params, &v->ep[pick], block_tokens),
                     keys, NULL, count, v->now_ms);
}

static void dispatched(struct plugin *p, struct sched_run *run)
{
    uint32_t primary = sched_run_pick(run, run->primary);
    uint32_t prefill = sched_run_pick(run, sched_run_prefill(run));

    if (primary != SCHED_NONE)
        remember(p, run->v, primary);
    if (prefill != SCHED_NONE && prefill != primary)
        remember(p, run->v, prefill);
}

static void endpoint_gone(struct plugin *p, uint64_t uid)
{
    prefix_index_gone(((struct approx_state *)p->state)->ix, uid);
}

static void state_init(struct plugin *p)
{
    ((struct approx_state *)p->state)->ix = prefix_index_new(INDEX_BYTES_MAX);
}

static void state_fini(struct plugin *p)
{
    prefix_index_free(((struct approx_state *)p->state)->ix);
}

void producer_index_dump(const struct prefix_index *ix, struct buf *out)
{
    struct prefix_index_stats s;
    uint64_t uid;
    uint32_t entries;

    prefix_index_stats(ix, &s);
    buf_f(out, "{\"endpoints\":%u,\"blocks\":%u,\"bytes\":%zu,\"blocksByEndpoint\":{", s.endpoints,
          s.keys, s.bytes);
    for (uint32_t i = 0; i < PRODUCER_DUMP_MAX && prefix_index_nth(ix, i, &uid, &entries); i++)
        buf_f(out, "%s\"%llu\":%u", i != 0 ? "," : "", (unsigned long long)uid, entries);
    buf_z(out, "}}");
}

static void dump(const struct plugin *p, struct buf *out)
{
    producer_index_dump(((const struct approx_state *)p->state)->ix, out);
}

static const char *const NEEDS[] = { "TokenizedPrompt", NULL };
static const char *const GIVES[] = { "PrefixCacheMatchInfo", NULL };

#define APPROX_TYPE(name)                                                                          \
    .type = name, .roles = ROLE_PRODUCER | ROLE_PRE_REQUEST,                                       \
    .params_size = sizeof(struct approx_params), .state_size = sizeof(struct approx_state),        \
    .params = PARAMS, .param_count = COUNT(PARAMS), .needs = NEEDS, .gives = GIVES,                \
    .state_init = state_init, .state_fini = state_fini, .produce = produce,                        \
    .dispatched = dispatched, .endpoint_gone = endpoint_gone, .dump = dump

const struct plugin_type plugin_approx_producer = {
    APPROX_TYPE("approx-prefix-cache-producer"),
};

const struct plugin_type plugin_multicluster_approx_producer = {
    APPROX_TYPE("multicluster-approx-prefix-cache-producer"),
    .alpha = true,
};
