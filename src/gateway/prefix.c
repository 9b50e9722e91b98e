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
 * sharing counts unfinished requests by prefix.  A request enters with its keys at the positions
 * 1, 2, 4, 8 ... (and its last), so that "how many share at least half of this match" is one
 * look-up and not one a block. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"

#define NOTE_MS 5000
#define NOTES_MAX (1u << 18)          /* keys that can expire; past it the oldest expire early */
#define NOTE_BLOCKS_MAX ((size_t)1 << 20)
#define NOTE_KEYS_MAX 8192            /* of one prompt: 128k tokens */

struct note {
    uint64_t key, at_ms;
    uint32_t endpoint;                /* of the notes' index */
};

struct prefix {
    struct gateway *g;
    struct kv_index *notes;
    struct note *ring;                /* NOTES_MAX; the oldest first */
    size_t first, count;
    uint32_t *note_id;                /* the gateway's endpoint to the index's */
    struct map sharing;
};

struct prefix *prefix_new(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    struct prefix *p = mem_zalloc(sizeof(*p));
    struct kv_index_opts k = { .block_tokens = g->block_tokens, .hash = INDEX_HASH_XXH64,
                               .seed = o->seed, .blocks_max = NOTE_BLOCKS_MAX };

    p->g = g;
    p->notes = kv_index_new(&k);
    p->ring = mem_alloc(NOTES_MAX * sizeof(*p->ring));
    p->note_id = mem_zalloc((size_t)g->endpoint_count * sizeof(*p->note_id));
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        if (kv_index_endpoint(p->notes, str_of(g->endpoints[i].address), STR(""),
                              &p->note_id[i]) != 0) {
            (void)err_set(e, ERR_LIMIT, "too many endpoints for the index");
            prefix_free(p);
            return NULL;
        }
    return p;
}

void prefix_free(struct prefix *p)
{
    if (p == NULL)
        return;
    kv_index_free(p->notes);
    map_fini(&p->sharing);
    mem_free(p->ring);
    mem_free(p->note_id);
    mem_free(p);
}

bool prefix_cache_up(const struct prefix *p)
{
    (void)p;
    return false;
}

uint64_t prefix_cache_blocks(const struct prefix *p)
{
    (void)p;
    return 0;
}

uint64_t prefix_own_blocks(const struct prefix *p)
{
    return kv_index_total(p->notes);
}

static void match_in(const struct kv_index *x, const struct reading *r, const uint32_t *id,
                     uint32_t endpoint_count, uint32_t *matched)
{
    uint32_t n = kv_index_endpoint_count(x);
    uint32_t *all = mem_zalloc(MAX(n, 1u) * sizeof(*all));

    kv_index_match(x, r->keys, r->key_count, all, n);
    for (uint32_t i = 0; i < endpoint_count; i++)
        if (id[i] < n)
            matched[i] = MAX(matched[i], all[id[i]]);
    mem_free(all);
}

void prefix_match(struct prefix *p, const struct reading *r, uint32_t *matched)
{
    for (uint32_t i = 0; i < p->g->endpoint_count; i++)
        matched[i] = 0;
    if (r->key_count != 0)
        match_in(p->notes, r, p->note_id, p->g->endpoint_count, matched);
}

static void note_drop(struct prefix *p)
{
    struct note *n = &p->ring[p->first];

    kv_index_del(p->notes, n->endpoint, n->key);
    p->first = (p->first + 1) % NOTES_MAX;
    p->count--;
}

void prefix_note(struct prefix *p, uint32_t endpoint, const struct reading *r)
{
    uint64_t now = clock_ms();
    uint32_t n = MIN(r->key_count, (uint32_t)NOTE_KEYS_MAX), id = p->note_id[endpoint];

    for (uint32_t i = 0; i < n; i++) {
        kv_index_add(p->notes, id, r->keys[i]);
        if (!prefix_cache_up(p))
            continue;
        if (p->count == NOTES_MAX)
            note_drop(p);
        p->ring[(p->first + p->count++) % NOTES_MAX] = (struct note){ r->keys[i], now, id };
    }
}

void prefix_forget(struct prefix *p, uint32_t endpoint)
{
    kv_index_clear(p->notes, p->note_id[endpoint]);
}

void prefix_tick(struct prefix *p)
{
    uint64_t now = clock_ms();

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
