/* The paged KV pool and the prefix cache.
 *
 *   free --alloc--> in use (refs > 0) --unref, not cached--> free
 *                      |  publish: enters the map (cached)
 *                      '--unref, cached--> LRU list --ref--> in use
 *                                             '--alloc finds nothing free--> evicted, free
 *
 * A logical block is named by its place in group 0 (full layers).  Models with
 * windowed layers give it a second part in group 1, which has its own free and
 * LRU lists: the window forgets it earlier.
 * Users release a chain's last block first, and using a block means using all
 * before it, so in LRU order a child always leaves before its parent.
 * A second copy of a cached block is never kept: blocks_publish gives the user
 * the first one (same tokens and batch-invariant kernels: the same bytes).
 * Invariants: cached => the parent is cached, or was when nobody could use the child;
 * on LRU list g <=> cached && refs[g] == 0 && the part is there. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <string.h>

static void lru_push(struct blocks *b, uint32_t g, uint32_t id)
{
    struct lru *l = &b->lru[g];
    struct lru_link *k = b->link[g];

    DEBUG_ASSERT(!k[id].on);
    k[id] = (struct lru_link) { l->tail, BLOCK_NONE, true };
    if (l->tail != BLOCK_NONE)
        k[l->tail].next = id;
    else
        l->head = id;
    l->tail = id;
    l->count++;
}

static void lru_drop(struct blocks *b, uint32_t g, uint32_t id)
{
    struct lru *l = &b->lru[g];
    struct lru_link *k = b->link[g];

    if (!k[id].on)
        return;
    if (k[id].prev != BLOCK_NONE)
        k[k[id].prev].next = k[id].next;
    else
        l->head = k[id].next;
    if (k[id].next != BLOCK_NONE)
        k[k[id].next].prev = k[id].prev;
    else
        l->tail = k[id].prev;
    k[id].on = false;
    l->count--;
}

int blocks_init(struct blocks *b, uint32_t tokens, uint32_t groups, const uint32_t count[GROUPS],
                const size_t stride[GROUPS], bool events, struct err *e)
{
    *b = (struct blocks) { .tokens = tokens, .groups = groups, .events_on = events };
    pthread_mutex_init(&b->map_mu, NULL);
    b->block = mem_try_zero(count[0], sizeof(*b->block));
    if (b->block == NULL)
        return err_set(e, ERR_NOMEM, "KV pool: no memory for %u block records", count[0]);
    if (groups > 1)
        b->owner1 = mem_try_zero(count[1], sizeof(*b->owner1));
    for (uint32_t g = 0; g < groups; g++) {
        size_t bytes;

        b->count[g] = count[g];
        b->stride[g] = stride[g];
        b->lru[g] = (struct lru) { BLOCK_NONE, BLOCK_NONE, 0 };
        b->link[g] = mem_try_zero(count[0], sizeof(*b->link[g]));
        b->free_list[g] = mem_try_zero(count[g], sizeof(*b->free_list[g]));
        if (!size_mul(count[g], stride[g], &bytes))
            return err_set(e, ERR_NOMEM, "KV pool: %u blocks of %zu bytes overflow", count[g],
                           stride[g]);
        if (bytes != 0)
            b->arena[g] = mem_pages(bytes);
        if (b->link[g] == NULL || b->free_list[g] == NULL || (bytes != 0 && b->arena[g] == NULL) ||
            (groups > 1 && b->owner1 == NULL))
            return err_set(e, ERR_NOMEM,
                           "KV pool: %zu bytes refused; lower --kv-cache-memory-bytes", bytes);
        for (uint32_t i = 0; i < count[g]; i++) /* low numbers are given out first */
            b->free_list[g][i] = count[g] - 1 - i;
        b->free_count[g] = count[g];
    }
    for (uint32_t i = 0; i < count[0]; i++)
        b->block[i].part1 = BLOCK_NONE;
    return 0;
}

void blocks_fini(struct blocks *b)
{
    if (b->tokens == 0)
        return;
    blocks_events_reset(b);
    for (uint32_t g = 0; g < GROUPS; g++) {
        if (b->arena[g] != NULL)
            mem_pages_free(b->arena[g], (size_t)b->count[g] * b->stride[g]);
        mem_free(b->link[g]);
        mem_free(b->free_list[g]);
    }
    mem_free(b->block);
    mem_free(b->owner1);
    mem_free(b->ev);
    mem_free(b->ev_key);
    mem_free(b->ev_token);
    map_fini(&b->map);
    pthread_mutex_destroy(&b->map_mu);
    *b = (struct blocks) { 0 };
}

uint32_t blocks_available(const struct blocks *b, uint32_t group)
{
    return b->free_count[group] + b->lru[group].count;
}

uint32_t blocks_cached(const struct blocks *b)
{
    return b->lru[0].count;
}

uint8_t *blocks_at(const struct blocks *b, uint32_t group, uint32_t place)
{
    return b->arena[group] + (size_t)place * b->stride[group];
}

/* ---- events ---- */

static struct kv_pending *event_add(struct blocks *b, int kind)
{
    if (b->ev_count == b->ev_cap) {
        b->ev_cap = b->ev_cap != 0 ? b->ev_cap * 2 : 16;
        b->ev = mem_realloc(b->ev, b->ev_cap * sizeof(*b->ev));
    }
    b->ev[b->ev_count] = (struct kv_pending) { .kind = kind,
                                               .key_at = (uint32_t)b->ev_key_count,
                                               .token_at = (uint32_t)b->ev_token_count };
    return &b->ev[b->ev_count++];
}

static void event_key(struct blocks *b, struct kv_pending *p, const struct blockkey *key)
{
    if (b->ev_key_count == b->ev_key_cap) {
        b->ev_key_cap = b->ev_key_cap != 0 ? b->ev_key_cap * 2 : 64;
        b->ev_key = mem_realloc(b->ev_key, b->ev_key_cap * sizeof(*b->ev_key));
    }
    b->ev_key[b->ev_key_count++] = *key;
    p->key_count++;
}

static void event_removed(struct blocks *b, const struct blockkey *key)
{
    struct kv_pending *p = b->ev_count != 0 ? &b->ev[b->ev_count - 1] : NULL;

    if (!b->events_on)
        return;
    if (p == NULL || p->kind != ENGINE_KV_REMOVED)
        p = event_add(b, ENGINE_KV_REMOVED);
    event_key(b, p, key);
}

void blocks_event_stored(struct blocks *b, const struct blockkey *key,
                         const struct blockkey *parent, const uint32_t *tokens, struct str salt)
{
    struct kv_pending *p = b->ev_count != 0 ? &b->ev[b->ev_count - 1] : NULL;

    if (!b->events_on)
        return;
    /* A run goes on when this block's parent is the run's last key. */
    if (p == NULL || p->kind != ENGINE_KV_STORED || parent == NULL ||
        !blockkey_eq(&b->ev_key[b->ev_key_count - 1], parent)) {
        p = event_add(b, ENGINE_KV_STORED);
        p->has_parent = parent != NULL;
        if (parent != NULL)
            p->parent = *parent;
        if (salt.n != 0) {
            p->salt = mem_dup(salt.p, salt.n);
            p->salt_n = salt.n;
        }
    }
    event_key(b, p, key);
    if (b->ev_token_count + b->tokens > b->ev_token_cap) {
        b->ev_token_cap = b->ev_token_cap * 2 + b->tokens;
        b->ev_token = mem_realloc(b->ev_token, b->ev_token_cap * sizeof(*b->ev_token));
    }
    memcpy(b->ev_token + b->ev_token_count, tokens, b->tokens * sizeof(*tokens));
    b->ev_token_count += b->tokens;
}

void blocks_event_cleared(struct blocks *b)
{
    if (b->events_on)
        event_add(b, ENGINE_KV_CLEARED);
}

void blocks_events_reset(struct blocks *b)
{
    for (size_t i = 0; i < b->ev_count; i++)
        mem_free(b->ev[i].salt);
    b->ev_count = b->ev_key_count = b->ev_token_count = 0;
}

/* ---- pool ---- */

static void part_free(struct blocks *b, uint32_t id)
{
    uint32_t place = b->block[id].part1;

    DEBUG_ASSERT(b->block[id].refs[1] == 0);
    if (place == BLOCK_NONE)
        return;
    lru_drop(b, 1, id);
    b->block[id].part1 = BLOCK_NONE;
    b->free_list[1][b->free_count[1]++] = place;
}

static void map_remove(struct blocks *b, uint32_t id)
{
    struct block *k = &b->block[id];

    if (!k->cached)
        return;
    pthread_mutex_lock(&b->map_mu);
    map_del(&b->map, blockkey_fold(&k->key));
    pthread_mutex_unlock(&b->map_mu);
    k->cached = false;
}

static void block_free(struct blocks *b, uint32_t id)
{
    if (b->groups > 1)
        part_free(b, id);
    b->free_list[0][b->free_count[0]++] = id;
}

uint32_t blocks_alloc(struct blocks *b)
{
    uint32_t id;

    if (b->free_count[0] == 0) {
        id = b->lru[0].head;
        if (id == BLOCK_NONE)
            return BLOCK_NONE;
        lru_drop(b, 0, id);
        event_removed(b, &b->block[id].key);
        map_remove(b, id);
        block_free(b, id);
    }
    id = b->free_list[0][--b->free_count[0]];
    b->block[id].refs[0] = 1;
    b->in_use++;
    return id;
}

bool blocks_alloc_part(struct blocks *b, uint32_t id)
{
    uint32_t place;

    ASSERT(b->block[id].part1 == BLOCK_NONE);
    if (b->free_count[1] == 0) {
        uint32_t old = b->lru[1].head;

        if (old == BLOCK_NONE)
            return false;
        part_free(b, old);
    }
    place = b->free_list[1][--b->free_count[1]];
    b->block[id].part1 = place;
    b->block[id].refs[1] = 1;
    b->owner1[place] = id;
    return true;
}

void blocks_ref(struct blocks *b, uint32_t id, uint32_t group)
{
    struct block *k = &b->block[id];

    if (k->refs[group]++ == 0) {
        lru_drop(b, group, id);
        if (group == 0)
            b->in_use++;
    }
}

void blocks_unref(struct blocks *b, uint32_t id, uint32_t group)
{
    struct block *k = &b->block[id];

    ASSERT(k->refs[group] > 0);
    if (--k->refs[group] != 0)
        return;
    if (group == 0)
        b->in_use--;
    if (k->cached)
        lru_push(b, group, id);
    else if (group == 0)
        block_free(b, id);
    else
        part_free(b, id);
}

/* ---- prefix map ---- */

uint32_t blocks_find(const struct blocks *b, const struct blockkey *key)
{
    uint64_t v;

    if (!map_get(&b->map, blockkey_fold(key), &v) || !blockkey_eq(&b->block[v].key, key))
        return BLOCK_NONE;
    return (uint32_t)v;
}

uint32_t blocks_count_prefix(struct blocks *b, const struct blockkey *keys, uint32_t count)
{
    uint32_t n = 0;

    pthread_mutex_lock(&b->map_mu);
    while (n < count && blocks_find(b, &keys[n]) != BLOCK_NONE)
        n++;
    pthread_mutex_unlock(&b->map_mu);
    return n;
}

uint32_t blocks_publish(struct blocks *b, uint32_t id, const struct blockkey *key, bool want_part)
{
    struct block *k = &b->block[id];
    uint32_t other = blocks_find(b, key);
    bool ok;

    if (other == id)
        return id;
    if (other == BLOCK_NONE) {
        pthread_mutex_lock(&b->map_mu);
        /* A fold that two keys share keeps its first owner; the second stays private. */
        ok =
            !map_get(&b->map, blockkey_fold(key), NULL) && map_put(&b->map, blockkey_fold(key), id);
        if (ok)
            k->key = *key;
        pthread_mutex_unlock(&b->map_mu);
        k->cached = ok;
        return id;
    }
    blocks_ref(b, other, 0);
    if (b->groups > 1 && want_part) {
        if (b->block[other].part1 ==
            BLOCK_NONE) { /* the older copy lost its windowed part: give ours */
            ASSERT(k->refs[1] == 1);
            b->block[other].part1 = k->part1;
            b->block[other].refs[1] = 1;
            b->owner1[k->part1] = other;
            k->part1 = BLOCK_NONE;
            k->refs[1] = 0;
        } else {
            blocks_ref(b, other, 1);
            blocks_unref(b, id, 1);
        }
    }
    blocks_unref(b, id, 0);
    return other;
}

void blocks_reset_cache(struct blocks *b)
{
    for (uint32_t i = 0; i < b->count[0]; i++) {
        struct block *k = &b->block[i];

        if (!k->cached)
            continue;
        map_remove(b, i);
        for (uint32_t g = b->groups; g-- > 0;) {
            if (!b->link[g][i].on)
                continue;
            lru_drop(b, g, i);
            if (g == 0)
                block_free(b, i);
            else
                part_free(b, i);
        }
    }
    blocks_event_cleared(b);
}
