/* Who holds which blocks, from two sources.
 *
 *   replica   a copy of the cache manager's index: what workers said they hold
 *   notes     what this process sent where: held as soon as its prefill has run
 *
 * The greater match counts.  Notes bridge the time until the worker's own events arrive, so with a
 * cache manager they expire after NOTE_MS; without one, or while it is away, they are all there is
 * and live until the index's ceiling pushes the oldest out.  Both are hints: a wrong one costs
 * time, never an answer.
 *
 * Notes are made at some blocks only: every one of the first NOTE_DENSE, every 4th up to
 * NOTE_SPARSE, every 16th beyond.  A look-up costs a cache miss a key, and whether 6,000 or 6,016
 * blocks of a prompt are held decides nothing.
 *
 * sharing counts unfinished requests by prefix.  A request enters with its keys at the positions
 * 1, 2, 4, 8 ... (and its last), so that "how many share at least half of this match" is one
 * look-up and not one a block. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include "kv/replica.h"
#include <inttypes.h>
#include <stdio.h>

#define NOTE_MS         5000
#define NOTES_MAX       (1u << 18) /* keys that can expire; past it the oldest expire early */
#define NOTE_BLOCKS_MAX ((size_t)1 << 20)
#define NOTE_KEYS_MAX   2048 /* of one prompt */
#define NOTE_DENSE      64   /* blocks: 1,024 tokens of 16 */
#define NOTE_SPARSE     512

struct note {
    uint64_t key, at_ms;
    uint32_t endpoint; /* of the notes' index */
};

struct prefix {
    struct gateway *g;
    struct kv_index *notes;
    struct note *ring; /* NOTES_MAX; the oldest first */
    size_t first, count;
    uint32_t free_id[GATEWAY_ENDPOINTS_MAX], free_count; /* numbers in notes of those that left */
    uint32_t *found, found_cap;                          /* scratch: one per number in notes */
    uint32_t *held, held_cap; /* scratch: one per endpoint of the replica */
    uint64_t *keys;           /* scratch: NOTE_KEYS_MAX */
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
    r.index.blocks_max = 0;
    r.lock = &p->g->lock;
    return replica_new(p->g->front[0].loop, &r, &p->replica, e);
}

struct prefix *prefix_new(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    struct prefix *p = mem_zalloc(sizeof(*p));
    struct kv_index_opts k = { .block_tokens = g->block_tokens,
                               .hash = INDEX_HASH_XXH64,
                               .seed = o->seed,
                               .blocks_max = NOTE_BLOCKS_MAX };

    p->g = g;
    p->notes = kv_index_new(&k);
    p->ring = mem_alloc(NOTES_MAX * sizeof(*p->ring));
    p->keys = mem_zalloc(NOTE_KEYS_MAX * sizeof(*p->keys));
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
    kv_index_free(p->notes);
    map_fini(&p->sharing);
    mem_free(p->ring);
    mem_free(p->found);
    mem_free(p->held);
    mem_free(p->keys);
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
    return kv_index_total(p->notes);
}

/* The block after `at` whose key is noted; blocks are counted from 1. */
static uint32_t next_noted(uint32_t at)
{
    if (at < NOTE_DENSE)
        return at + 1;
    return at < NOTE_SPARSE ? at + 4 : at + 16;
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
    sparse = MIN(count, (uint32_t)(NOTE_SPARSE - NOTE_DENSE) / 4);
    return dense + 4 * sparse + 16 * (count - sparse);
}

static void match_notes(struct prefix *p, const struct reading *r, uint32_t *matched)
{
    uint32_t n = kv_index_endpoint_count(p->notes), keys = noted_keys(r, p->keys);

    kv_index_match(p->notes, p->keys, keys, p->found, n);
    for (uint32_t i = 0; i < p->g->endpoint_count; i++)
        matched[i] = noted_blocks(p->found[p->g->endpoints[i]->note_id]);
}

static void match_replica(struct prefix *p, const struct reading *r, uint32_t *matched)
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

        if (kv_index_find(x, str_of(p->g->endpoints[i]->address), &id) && id < n)
            matched[i] = MAX(matched[i], p->held[id]);
    }
}

void prefix_match(struct prefix *p, const struct reading *r, uint32_t *matched)
{
    for (uint32_t i = 0; i < p->g->endpoint_count; i++)
        matched[i] = 0;
    if (r->key_count == 0)
        return;
    match_notes(p, r, matched);
    /* guessed tokens have keys of their own, which no worker ever says */
    if (p->replica != NULL && !r->estimated)
        match_replica(p, r, matched);
}

static void note_drop(struct prefix *p)
{
    struct note *n = &p->ring[p->first];

    kv_index_del(p->notes, n->endpoint, n->key);
    p->first = (p->first + 1) % NOTES_MAX;
    p->count--;
}

void prefix_note(struct prefix *p, const struct endpoint *ep, const struct reading *r)
{
    uint64_t now = clock_ms();
    uint32_t n = noted_keys(r, p->keys), id = ep->note_id;

    for (uint32_t i = 0; i < n; i++) {
        kv_index_add(p->notes, id, p->keys[i]);
        if (!prefix_cache_up(p))
            continue;
        if (p->count == NOTES_MAX)
            note_drop(p);
        p->ring[(p->first + p->count++) % NOTES_MAX] = (struct note) { p->keys[i], now, id };
    }
}

void prefix_forget(struct prefix *p, const struct endpoint *ep)
{
    kv_index_clear(p->notes, ep->note_id);
}

/* Numbers are used again: a fleet whose endpoints come and go must not use them up. */
int prefix_endpoint_add(struct prefix *p, struct endpoint *ep, struct err *e)
{
    char name[32];

    if (p->free_count > 0) {
        ep->note_id = p->free_id[--p->free_count];
        return 0;
    }
    snprintf(name, sizeof(name), "%u", kv_index_endpoint_count(p->notes));
    if (kv_index_endpoint(p->notes, str_of(name), STR(""), &ep->note_id) != 0)
        return err_set(e, ERR_LIMIT, "too many endpoints for the index");
    if (ep->note_id >= p->found_cap) {
        p->found_cap = MAX(16u, ep->note_id * 2);
        p->found = mem_realloc(p->found, p->found_cap * sizeof(*p->found));
    }
    return 0;
}

void prefix_endpoint_drop(struct prefix *p, struct endpoint *ep)
{
    prefix_forget(p, ep);
    p->free_id[p->free_count++] = ep->note_id;
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
    while (p->count > 0 && p->ring[p->first].at_ms + NOTE_MS <= now)
        note_drop(p);
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
