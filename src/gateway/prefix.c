/* Who holds which blocks, from two sources.
 *
 *   replica   a copy of the cache manager's index: what workers said they hold
 *   notes     what this process sent where: held as soon as its prefill has run
 *
 * The greater match counts.  Notes bridge the time until the worker's own events arrive, so with a
 * cache manager they expire after NOTE_MS; without one, or while it is away, they are all there is.
 * Then they are kept as the worker keeps its blocks: as many as it says it has room for, the least
 * recently used go first, and of a prompt its end before its beginning.  Believing more than that
 * makes every worker look as if it held everything, and a fleet whose memory holds all prefixes
 * once then computes them again and again.  Both sources are hints: a wrong one costs time, never
 * an answer.
 *
 * Notes are made at some blocks only: every one of the first NOTE_DENSE, every 4th up to
 * NOTE_SPARSE, every 32nd beyond; each takes as much room as the blocks it stands for.  A look-up
 * costs a cache miss a key, and whether 6,000 or 6,032 blocks of a prompt are held decides
 * nothing.
 *
 * sharing counts unfinished requests by prefix.  A request enters with its keys at the positions
 * 1, 2, 4, 8 ... (and its last), so that "how many share at least half of this match" is one
 * look-up and not one a block. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include "kv/replica.h"
#include "sched/prefix_index.h"
#include <inttypes.h>

#define NOTE_MS         5000
#define NOTE_BYTES_MAX  ((size_t)256 << 20)
#define NOTE_KEYS_MAX   2048 /* of one prompt */
#define NOTE_DENSE      16   /* blocks: 256 tokens of 16 */
#define NOTE_SPARSE     512
#define NOTE_STEP       4
#define NOTE_STEP_FAR   32
#define CAPACITY_BLOCKS 31250 /* of a worker that does not say; llm-d's lruCapacityPerServer */

struct prefix {
    struct gateway *g;
    struct prefix_index *notes;
    uint32_t *held, held_cap; /* scratch: one per endpoint of the replica */
    uint64_t *keys;           /* scratch: NOTE_KEYS_MAX */
    uint32_t *weight;         /* scratch: the same */
    struct replica *replica;  /* NULL: no cache manager was named */
    bool was_up;
    struct map sharing;
};

static int follow_cache(struct prefix *p, const struct gateway_opts *o,
                        const struct kv_index_opts *k, struct err *e)
{
    struct replica_opts r = { .index = *k };
    char host[256];

    if (o->cache == NULL)
        return 0;
    if (addr_parse(str_of(o->cache), host, &r.port, e) != 0)
        return e->code;
    r.host = host;
    r.lock = &p->g->lock;
    return replica_new(p->g->front[0].loop, &r, &p->replica, e);
}

struct prefix *prefix_new(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    struct prefix *p = mem_zalloc(sizeof(*p));
    struct kv_index_opts k = { .block_tokens = g->block_tokens,
                               .hash = INDEX_HASH_XXH64,
                               .seed = o->seed };

    p->g = g;
    p->notes = prefix_index_new(NOTE_BYTES_MAX);
    p->keys = mem_zalloc(NOTE_KEYS_MAX * sizeof(*p->keys));
    p->weight = mem_zalloc(NOTE_KEYS_MAX * sizeof(*p->weight));
    if (follow_cache(p, o, &k, e) != 0) {
        prefix_free(p);
        return NULL;
    }
    return p;
}

void prefix_free(struct prefix *p)
{
    if (p == NULL)
        return;
    replica_free(p->replica);
    prefix_index_free(p->notes);
    map_fini(&p->sharing);
    mem_free(p->held);
    mem_free(p->keys);
    mem_free(p->weight);
    mem_free(p);
}

bool prefix_cache_up(const struct prefix *p)
{
    return p->replica != NULL && replica_up(p->replica);
}

uint64_t prefix_cache_blocks(const struct prefix *p)
{
    return p->replica != NULL ? kv_index_total(replica_index(p->replica)) : 0;
}

uint64_t prefix_own_blocks(const struct prefix *p)
{
    struct prefix_index_stats s;

    prefix_index_stats(p->notes, &s);
    return s.weight;
}

/* The block after `at` whose key is noted; blocks are counted from 1. */
static uint32_t next_noted(uint32_t at)
{
    if (at < NOTE_DENSE)
        return at + 1;
    return at < NOTE_SPARSE ? at + NOTE_STEP : at + NOTE_STEP_FAR;
}

/* Keys of the noted blocks of a prompt; out has room for NOTE_KEYS_MAX. */
static uint32_t noted_keys(const struct reading *r, uint64_t *out)
{
    uint32_t n = 0;

    for (uint32_t at = 1; at <= r->key_count && n < NOTE_KEYS_MAX; at = next_noted(at))
        out[n++] = r->keys[at - 1];
    return n;
}

/* Leading blocks that so many leading noted keys stand for. */
static uint32_t noted_blocks(uint32_t count)
{
    uint32_t dense = MIN(count, (uint32_t)NOTE_DENSE), sparse;

    count -= dense;
    sparse = MIN(count, (uint32_t)(NOTE_SPARSE - NOTE_DENSE) / NOTE_STEP);
    return dense + NOTE_STEP * sparse + NOTE_STEP_FAR * (count - sparse);
}

static void match_notes(struct prefix *p, const struct reading *r, uint32_t *matched,
                        struct sched_endpoint *snap)
{
    uint32_t n = p->g->endpoint_count, keys = noted_keys(r, p->keys);
    struct arena a;
    uint64_t *uid;

    arena_init(&a, 0);
    uid = arena_alloc(&a, (n + 1) * sizeof(*uid));
    for (uint32_t i = 0; i < n; i++)
        uid[i] = p->g->endpoints[i]->uid;
    prefix_index_match(p->notes, &a, p->keys, keys, uid, n, matched);
    for (uint32_t i = 0; i < n; i++) {
        matched[i] = noted_blocks(matched[i]);
        snap[i].cache_used_tokens =
            (double)prefix_index_weight(p->notes, uid[i]) * p->g->block_tokens;
    }
    arena_fini(&a);
}

static void match_replica(struct prefix *p, const struct reading *r, uint32_t *matched,
                          struct sched_endpoint *snap)
{
    const struct kv_index *x = replica_index(p->replica);
    uint32_t n = kv_index_endpoint_count(x);

    if (n > p->held_cap) {
        p->held = mem_realloc(p->held, n * sizeof(*p->held)); /* n <= KV_ENDPOINTS_MAX */
        p->held_cap = n;
    }
    kv_index_match(x, r->keys, r->key_count, p->held, n);
    for (uint32_t i = 0; i < p->g->endpoint_count; i++) {
        uint32_t id;

        if (!kv_index_find(x, str_of(p->g->endpoints[i]->address), &id) || id >= n)
            continue;
        matched[i] = MAX(matched[i], p->held[id]);
        snap[i].cache_used_tokens =
            MAX(snap[i].cache_used_tokens, (double)kv_index_blocks(x, id) * p->g->block_tokens);
    }
}

void prefix_match(struct prefix *p, const struct reading *r, uint32_t *matched,
                  struct sched_endpoint *snap)
{
    for (uint32_t i = 0; i < p->g->endpoint_count; i++)
        matched[i] = 0;
    if (r->key_count == 0)
        return;
    match_notes(p, r, matched, snap);
    /* guessed tokens have keys of their own, which no worker ever says */
    if (p->replica != NULL && !r->estimated)
        match_replica(p, r, matched, snap);
}

/* Blocks of ours that fit into the endpoint's memory. */
static uint32_t capacity_of(const struct gateway *g, const struct endpoint *ep)
{
    uint64_t tokens = (uint64_t)ep->cache_blocks * ep->block_tokens;

    return tokens == 0 ? CAPACITY_BLOCKS
                       : (uint32_t)MIN(MAX(tokens / g->block_tokens, 1), UINT32_MAX);
}

/* The end of the prompt first: its beginning is what others share and becomes the most recent. */
void prefix_note(struct prefix *p, const struct endpoint *ep, const struct reading *r)
{
    uint32_t n = noted_keys(r, p->keys);

    for (uint32_t i = 0; i < n; i++)
        p->weight[n - 1 - i] = noted_blocks(i + 1) - noted_blocks(i);
    for (uint32_t i = 0; i < n / 2; i++) {
        uint64_t key = p->keys[i];

        p->keys[i] = p->keys[n - 1 - i];
        p->keys[n - 1 - i] = key;
    }
    prefix_index_add(p->notes, ep->uid, capacity_of(p->g, ep), p->keys, p->weight, n, clock_ms());
}

void prefix_forget(struct prefix *p, const struct endpoint *ep)
{
    prefix_index_gone(p->notes, ep->uid);
}

void prefix_tick(struct prefix *p)
{
    uint64_t now = clock_ms();
    bool up = prefix_cache_up(p);

    if (up != p->was_up) {
        if (up)
            LOG_INFO("cache manager followed address=%s blocks=%" PRIu64, p->g->cache,
                     prefix_cache_blocks(p));
        else
            LOG_WARN("cache manager lost address=%s, prefixes are guessed from what was sent where",
                     p->g->cache);
        p->was_up = up;
    }
    if (up && now > NOTE_MS)
        prefix_index_expire(p->notes, now - NOTE_MS);
}

/* ---- sharing ---- */

static void share(struct prefix *p, uint64_t key, int step)
{
    uint64_t n = 0;

    (void)map_get(&p->sharing, key, &n);
    n = step > 0 ? n + 1 : n - MIN(n, (uint64_t)1);
    if (n == 0)
        (void)map_del(&p->sharing, key);
    else
        (void)map_put(&p->sharing, key, n); /* without memory it counts as not shared */
}

static void share_all(struct prefix *p, const struct reading *r, int step)
{
    uint32_t at = 1;

    for (; at < r->key_count; at *= 2)
        share(p, r->keys[at - 1], step);
    if (r->key_count != 0)
        share(p, r->keys[r->key_count - 1], step);
}

void prefix_enter(struct prefix *p, const struct reading *r)
{
    share_all(p, r, 1);
}

void prefix_leave(struct prefix *p, const struct reading *r)
{
    share_all(p, r, -1);
}

uint32_t prefix_sharers(const struct prefix *p, const struct reading *r, uint32_t blocks)
{
    uint64_t n = 0;
    uint32_t at = 1;

    blocks = MIN(blocks, r->key_count);
    if (blocks == 0)
        return 0;
    while (at <= blocks / 2)
        at *= 2;
    (void)map_get(&p->sharing, r->keys[at - 1], &n);
    return (uint32_t)n;
}
