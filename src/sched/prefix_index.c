/* Two structures that know the same pairs of endpoint and key:
 *
 *   key table      key -> bit set of places (endpoints); in SHARDS parts, each growing alone, so
 *                  that no request pays for rehashing all of it
 *   place          an endpoint: nodes in a list by age, and a table from key to node
 *
 * Both tables probe linearly and close the gap on removal, so there are no tombstones.  A shard's
 * slot is the key followed by its bits: one cache line a lookup for up to 448 endpoints.
 *
 * A match walks the keys with what changed between one key's holders and the next one's: holders
 * mostly stay the same over hundreds of keys, and then a step costs a comparison.
 *
 * Invariant: a place's bit is set in a key's set  <=>  that place has a node for the key. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/prefix_index.h"
#include "base/check.h"
#include "base/mem.h"
#include <string.h>

#define SHARDS       256u
#define SHARD_MIN    16u
#define NONE         PREFIX_INDEX_NONE
#define AHEAD        12 /* keys that are prefetched before they are looked at */
#define PLACES_MAX   16384u
#define CAPACITY_MAX (1u << 22)
#define TICK_MS      16 /* 32 bits of them are two years */

/* slots: cap of (1 + words) words; word 0 is the key, 0 = empty */
struct shard {
    uint64_t *slots;
    uint32_t cap, count;
};

struct node {
    uint64_t key;
    uint32_t newer, older; /* or, when free, older: the next free one */
    uint32_t at;           /* ticks since the first add */
    uint32_t weight;
};

struct place {
    uint64_t uid; /* 0 with used == false */
    bool used;
    struct node *node;
    uint32_t *table; /* node + 1, 0 = empty */
    uint32_t nodes_cap, table_cap, nodes_used, count;
    uint32_t newest, oldest, free;
    uint64_t weight; /* of its nodes */
};

struct prefix_index {
    struct shard shard[SHARDS];
    struct place *place;
    uint32_t places, words; /* words: of a bit set */
    uint64_t keys, entries, weight, base_ms;
    struct map by_uid;
    size_t bytes, bytes_max;
    bool has_base;
};

/* ---- memory, counted ---- */

static void *take(struct prefix_index *ix, size_t count, size_t size)
{
    size_t bytes;
    void *p;

    if (!size_mul(count, size, &bytes) || bytes > ix->bytes_max - ix->bytes)
        return NULL;
    p = mem_try_zero(count, size);
    if (p != NULL)
        ix->bytes += bytes;
    return p;
}

static void give(struct prefix_index *ix, void *p, size_t bytes)
{
    mem_free(p);
    if (p != NULL)
        ix->bytes -= bytes;
}

struct prefix_index *prefix_index_new(size_t bytes_max)
{
    struct prefix_index *ix = mem_zalloc(sizeof(*ix));

    ix->bytes_max = bytes_max;
    ix->words = 1;
    return ix;
}

static void place_drop_memory(struct prefix_index *ix, struct place *p)
{
    give(ix, p->node, p->nodes_cap * sizeof(*p->node));
    give(ix, p->table, p->table_cap * sizeof(*p->table));
    *p = (struct place) { 0 };
}

void prefix_index_free(struct prefix_index *ix)
{
    if (ix == NULL)
        return;
    for (uint32_t i = 0; i < ix->places; i++)
        place_drop_memory(ix, &ix->place[i]);
    for (uint32_t i = 0; i < SHARDS; i++)
        mem_free(ix->shard[i].slots);
    mem_free(ix->place);
    map_fini(&ix->by_uid);
    mem_free(ix);
}

/* ---- the key table ---- */

static uint64_t key_of(uint64_t key)
{
    return key != 0 ? key : 1; /* 0 marks an empty slot */
}

static uint32_t shard_of(uint64_t mixed)
{
    return (uint32_t)(mixed >> 56);
}

static uint64_t *slot_at(const struct prefix_index *ix, const struct shard *s, uint32_t i)
{
    return s->slots + (size_t)i * (1 + ix->words);
}

static uint64_t *key_find(const struct prefix_index *ix, uint64_t key, uint64_t mixed)
{
    const struct shard *s = &ix->shard[shard_of(mixed)];

    if (s->cap == 0)
        return NULL;
    for (uint32_t i = (uint32_t)mixed & (s->cap - 1);; i = (i + 1) & (s->cap - 1)) {
        uint64_t *slot = slot_at(ix, s, i);

        if (slot[0] == key)
            return slot;
        if (slot[0] == 0)
            return NULL;
    }
}

/* A place for the key that is not there yet. */
static uint64_t *key_put(const struct prefix_index *ix, struct shard *s, uint64_t key,
                         uint64_t mixed)
{
    uint32_t i = (uint32_t)mixed & (s->cap - 1);

    while (slot_at(ix, s, i)[0] != 0)
        i = (i + 1) & (s->cap - 1);
    slot_at(ix, s, i)[0] = key;
    s->count++;
    return slot_at(ix, s, i);
}

static bool shard_grow(struct prefix_index *ix, struct shard *s)
{
    struct shard old = *s;
    uint32_t cap = old.cap == 0 ? SHARD_MIN : old.cap * 2;
    size_t width = 1 + ix->words;
    uint64_t *slots = take(ix, cap * width, sizeof(uint64_t));

    if (slots == NULL)
        return false;
    *s = (struct shard) { slots, cap, 0 };
    for (uint32_t i = 0; i < old.cap; i++) {
        const uint64_t *from = old.slots + i * width;

        if (from[0] != 0)
            memcpy(key_put(ix, s, from[0], map_mix(from[0])), from, width * sizeof(uint64_t));
    }
    give(ix, old.slots, old.cap * width * sizeof(uint64_t));
    return true;
}

/* Without memory a shard may become fuller than is fast, but never full: a search must end. */
static uint64_t *key_add(struct prefix_index *ix, uint64_t key, uint64_t mixed)
{
    struct shard *s = &ix->shard[shard_of(mixed)];

    if (s->count + 1 > s->cap / 4 * 3 && !shard_grow(ix, s) && s->count + 1 > s->cap / 16 * 15)
        return NULL;
    ix->keys++;
    return key_put(ix, s, key, mixed);
}

/* Empties a slot and moves up what was probed past it. */
static void key_remove(struct prefix_index *ix, struct shard *s, uint64_t *slot)
{
    size_t width = 1 + ix->words;
    uint32_t hole = (uint32_t)((size_t)(slot - s->slots) / width), i = hole;

    for (;;) {
        uint64_t *next;
        uint32_t home;

        i = (i + 1) & (s->cap - 1);
        next = slot_at(ix, s, i);
        if (next[0] == 0)
            break;
        home = (uint32_t)map_mix(next[0]) & (s->cap - 1);
        /* it may move when its home is not between the hole and where it is */
        if (((i - home) & (s->cap - 1)) >= ((i - hole) & (s->cap - 1))) {
            memcpy(slot_at(ix, s, hole), next, width * sizeof(uint64_t));
            hole = i;
        }
    }
    memset(slot_at(ix, s, hole), 0, width * sizeof(uint64_t));
    s->count--;
    ix->keys--;
}

static void bit_clear(struct prefix_index *ix, uint64_t key, uint32_t place)
{
    uint64_t mixed = map_mix(key), *slot = key_find(ix, key, mixed), rest = 0;

    ASSERT(slot != NULL);
    slot[1 + place / 64] &= ~((uint64_t)1 << place % 64);
    for (uint32_t w = 0; w < ix->words; w++)
        rest |= slot[1 + w];
    if (rest == 0)
        key_remove(ix, &ix->shard[shard_of(mixed)], slot);
}

/* ---- a place: nodes by age ---- */

/* Where the key is in the place's table, or the empty place for it.  Other bits than the shard's
 * and its slot's would do as well; these are independent enough. */
static uint32_t table_at(const struct place *p, uint64_t key, uint64_t mixed)
{
    uint32_t i = (uint32_t)(mixed >> 16) & (p->table_cap - 1);

    while (p->table[i] != 0 && p->node[p->table[i] - 1].key != key)
        i = (i + 1) & (p->table_cap - 1);
    return i;
}

static void table_remove(struct place *p, uint32_t hole)
{
    for (uint32_t i = hole;;) {
        uint32_t home;

        i = (i + 1) & (p->table_cap - 1);
        if (p->table[i] == 0)
            break;
        home = (uint32_t)(map_mix(p->node[p->table[i] - 1].key) >> 16) & (p->table_cap - 1);
        if (((i - home) & (p->table_cap - 1)) >= ((i - hole) & (p->table_cap - 1))) {
            p->table[hole] = p->table[i];
            hole = i;
        }
    }
    p->table[hole] = 0;
}

static void list_out(struct place *p, uint32_t n)
{
    struct node *x = &p->node[n];

    *(x->newer != NONE ? &p->node[x->newer].older : &p->newest) = x->older;
    *(x->older != NONE ? &p->node[x->older].newer : &p->oldest) = x->newer;
}

static void list_in(struct place *p, uint32_t n)
{
    struct node *x = &p->node[n];

    x->newer = NONE;
    x->older = p->newest;
    *(p->newest != NONE ? &p->node[p->newest].newer : &p->oldest) = n;
    p->newest = n;
}

static void evict_oldest(struct prefix_index *ix, uint32_t place)
{
    struct place *p = &ix->place[place];
    uint32_t n = p->oldest;
    uint64_t key = p->node[n].key;

    table_remove(p, table_at(p, key, map_mix(key)));
    list_out(p, n);
    p->node[n].older = p->free;
    p->free = n;
    p->count--;
    p->weight -= p->node[n].weight;
    ix->entries--;
    ix->weight -= p->node[n].weight;
    bit_clear(ix, key, place);
}

static bool place_grow(struct prefix_index *ix, struct place *p, uint32_t capacity)
{
    uint32_t cap = MIN(MAX(p->nodes_cap * 2, 64), capacity), table_cap = 64;
    struct node *node;
    uint32_t *table;

    while (table_cap < cap * 2)
        table_cap *= 2;
    if (cap <= p->nodes_cap)
        return false;
    node = take(ix, cap, sizeof(*node));
    table = node == NULL ? NULL : take(ix, table_cap, sizeof(*table));
    if (table == NULL) {
        give(ix, node, cap * sizeof(*node));
        return false;
    }
    if (p->nodes_used != 0)
        memcpy(node, p->node, p->nodes_used * sizeof(*node));
    give(ix, p->node, p->nodes_cap * sizeof(*p->node));
    give(ix, p->table, p->table_cap * sizeof(*p->table));
    p->node = node;
    p->table = table;
    p->nodes_cap = cap;
    p->table_cap = table_cap;
    for (uint32_t n = p->newest; n != NONE; n = p->node[n].older)
        p->table[table_at(p, p->node[n].key, map_mix(p->node[n].key))] = n + 1;
    return true;
}

/* A node that is in no list, or NONE. */
static uint32_t node_take(struct prefix_index *ix, uint32_t place, uint32_t capacity,
                          uint32_t weight)
{
    struct place *p = &ix->place[place];
    uint32_t n;

    while (p->count != 0 && p->weight + weight > capacity)
        evict_oldest(ix, place);
    if (p->free == NONE && p->nodes_used == p->nodes_cap && !place_grow(ix, p, capacity)) {
        if (p->count == 0)
            return NONE;
        evict_oldest(ix, place);
    }
    if (p->free == NONE)
        return p->nodes_used++;
    n = p->free;
    p->free = p->node[n].older;
    return n;
}

/* ---- places ---- */

uint32_t prefix_index_place(const struct prefix_index *ix, uint64_t uid)
{
    uint64_t at;

    return map_get(&ix->by_uid, uid, &at) ? (uint32_t)at : NONE;
}

/* Wider bit sets in all shards, or in none. */
static bool widen(struct prefix_index *ix, uint32_t words)
{
    uint64_t *wide[SHARDS] = { NULL };
    size_t from = 1 + ix->words, to = 1 + words;
    bool have_all = true;

    for (uint32_t i = 0; i < SHARDS && have_all; i++)
        if (ix->shard[i].cap != 0) {
            wide[i] = take(ix, ix->shard[i].cap * to, sizeof(uint64_t));
            have_all = wide[i] != NULL;
        }
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard *s = &ix->shard[i];

        if (!have_all) {
            give(ix, wide[i], s->cap * to * sizeof(uint64_t));
            continue;
        }
        for (uint32_t k = 0; k < s->cap; k++)
            memcpy(wide[i] + k * to, s->slots + k * from, from * sizeof(uint64_t));
        give(ix, s->slots, s->cap * from * sizeof(uint64_t));
        s->slots = wide[i];
    }
    if (have_all)
        ix->words = words;
    return have_all;
}

static uint32_t place_new(struct prefix_index *ix, uint64_t uid)
{
    uint32_t i = 0;

    while (i < ix->places && ix->place[i].used)
        i++;
    if (i == ix->places) {
        uint32_t cap = MIN(MAX(ix->places * 2, 16), PLACES_MAX);
        struct place *grown;

        if (cap == ix->places)
            return NONE;
        grown = mem_try_realloc(ix->place, cap * sizeof(*grown));
        if (grown == NULL)
            return NONE;
        memset(grown + ix->places, 0, (cap - ix->places) * sizeof(*grown));
        ix->place = grown;
        ix->places = cap;
    }
    if (i / 64 >= ix->words && !widen(ix, MAX(ix->words * 2, i / 64 + 1)))
        return NONE;
    if (!map_put(&ix->by_uid, uid, i))
        return NONE;
    ix->place[i] =
        (struct place) { .uid = uid, .used = true, .newest = NONE, .oldest = NONE, .free = NONE };
    return i;
}

void prefix_index_gone(struct prefix_index *ix, uint64_t uid)
{
    uint32_t place = prefix_index_place(ix, uid);
    struct place *p;

    if (place == NONE)
        return;
    p = &ix->place[place];
    for (uint32_t n = p->newest; n != NONE; n = p->node[n].older)
        bit_clear(ix, p->node[n].key, place);
    ix->entries -= p->count;
    ix->weight -= p->weight;
    map_del(&ix->by_uid, uid);
    place_drop_memory(ix, p);
}

/* ---- adding ---- */

static void prefetch(const struct prefix_index *ix, uint64_t key)
{
    uint64_t mixed = map_mix(key_of(key));
    const struct shard *s = &ix->shard[shard_of(mixed)];

    if (s->cap != 0)
        __builtin_prefetch(slot_at(ix, s, (uint32_t)mixed & (s->cap - 1)));
}

/* What adding the key to the place looks at first. */
static void prefetch_both(const struct prefix_index *ix, const struct place *p, uint64_t key)
{
    prefetch(ix, key);
    if (p->table_cap != 0)
        __builtin_prefetch(&p->table[(uint32_t)(map_mix(key_of(key)) >> 16) & (p->table_cap - 1)]);
}

static void add_one(struct prefix_index *ix, uint32_t place, uint32_t capacity, uint64_t key,
                    uint32_t weight, uint32_t at)
{
    struct place *p = &ix->place[place];
    uint64_t mixed = map_mix(key), *slot;
    uint32_t n;

    if (p->table_cap != 0) {
        n = p->table[table_at(p, key, mixed)];
        if (n != 0) {
            list_out(p, n - 1);
            list_in(p, n - 1);
            p->weight += (uint64_t)weight - p->node[n - 1].weight;
            ix->weight += (uint64_t)weight - p->node[n - 1].weight;
            p->node[n - 1].at = at;
            p->node[n - 1].weight = weight;
            return;
        }
    }
    n = node_take(ix, place, capacity, weight);
    if (n == NONE)
        return;
    slot = key_find(ix, key, mixed);
    if (slot == NULL)
        slot = key_add(ix, key, mixed);
    if (slot == NULL) {
        p->node[n].older = p->free;
        p->free = n;
        return;
    }
    slot[1 + place / 64] |= (uint64_t)1 << place % 64;
    p->node[n] = (struct node) { .key = key, .at = at, .weight = weight };
    p->table[table_at(p, key, mixed)] = n + 1;
    list_in(p, n);
    p->count++;
    p->weight += weight;
    ix->entries++;
    ix->weight += weight;
}

void prefix_index_add(struct prefix_index *ix, uint64_t uid, uint32_t capacity,
                      const uint64_t *keys, const uint32_t *weight, uint32_t count, uint64_t now_ms)
{
    uint32_t place = prefix_index_place(ix, uid), at;

    capacity = MIN(capacity, CAPACITY_MAX);
    if (capacity == 0 || count == 0)
        return;
    if (place == NONE)
        place = place_new(ix, uid);
    if (place == NONE)
        return;
    if (!ix->has_base) {
        ix->has_base = true;
        ix->base_ms = now_ms;
    }
    at = (uint32_t)((now_ms - MIN(now_ms, ix->base_ms)) / TICK_MS);
    for (uint32_t i = 0; i < AHEAD && i < count; i++)
        prefetch_both(ix, &ix->place[place], keys[i]);
    for (uint32_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            prefetch_both(ix, &ix->place[place], keys[i + AHEAD]);
        add_one(ix, place, capacity, key_of(keys[i]), weight != NULL ? weight[i] : 1, at);
    }
}

void prefix_index_expire(struct prefix_index *ix, uint64_t before_ms)
{
    uint64_t before;

    if (!ix->has_base || before_ms < ix->base_ms)
        return;
    before = (before_ms - ix->base_ms) / TICK_MS;
    for (uint32_t i = 0; i < ix->places; i++) {
        struct place *p = &ix->place[i];

        while (p->used && p->oldest != NONE && p->node[p->oldest].at <= before)
            evict_oldest(ix, i);
    }
}

/* ---- asking ---- */

/* Counts per place while the walk goes on: since[place] is where its run of held keys began. */
struct walk {
    uint64_t *holders;
    uint32_t *since, *count;
};

static void turn(struct walk *w, uint32_t word, uint64_t now, uint32_t at)
{
    uint64_t changed = now ^ w->holders[word];

    while (changed != 0) {
        uint32_t bit = (uint32_t)__builtin_ctzll(changed), place = word * 64 + bit;

        if (now >> bit & 1)
            w->since[place] = at;
        else
            w->count[place] += at - w->since[place];
        changed &= changed - 1;
    }
    w->holders[word] = now;
}

void prefix_index_match(const struct prefix_index *ix, struct arena *a, const uint64_t *keys,
                        uint32_t count, const uint64_t *uid, uint32_t endpoints, uint32_t *held)
{
    size_t places = (size_t)ix->words * 64;
    struct walk w = { arena_alloc(a, ix->words * sizeof(uint64_t)),
                      arena_alloc(a, places * sizeof(uint32_t)),
                      arena_alloc(a, places * sizeof(uint32_t)) };
    uint32_t at = 0;

    memset(w.holders, 0, ix->words * sizeof(uint64_t));
    memset(w.count, 0, places * sizeof(uint32_t));
    for (uint32_t i = 0; i < AHEAD && i < count; i++)
        prefetch(ix, keys[i]);
    for (; at < count; at++) {
        uint64_t key = key_of(keys[at]);
        const uint64_t *slot = key_find(ix, key, map_mix(key));

        if (slot == NULL)
            break;
        if (at + AHEAD < count)
            prefetch(ix, keys[at + AHEAD]);
        for (uint32_t k = 0; k < ix->words; k++)
            if (slot[1 + k] != w.holders[k])
                turn(&w, k, slot[1 + k], at);
    }
    for (uint32_t k = 0; k < ix->words; k++)
        turn(&w, k, 0, at);
    for (uint32_t i = 0; i < endpoints; i++) {
        uint32_t place = prefix_index_place(ix, uid[i]);

        held[i] = place == NONE ? 0 : w.count[place];
    }
}

uint64_t prefix_index_weight(const struct prefix_index *ix, uint64_t uid)
{
    uint32_t place = prefix_index_place(ix, uid);

    return place == NONE ? 0 : ix->place[place].weight;
}

bool prefix_index_holds(const struct prefix_index *ix, uint64_t uid, uint64_t key)
{
    uint32_t place = prefix_index_place(ix, uid);
    const uint64_t *slot;

    key = key_of(key);
    slot = place == NONE ? NULL : key_find(ix, key, map_mix(key));
    return slot != NULL && (slot[1 + place / 64] >> place % 64 & 1) != 0;
}

void prefix_index_stats(const struct prefix_index *ix, struct prefix_index_stats *out)
{
    *out = (struct prefix_index_stats) {
        .endpoints = (uint32_t)ix->by_uid.count,
        .keys = (uint32_t)ix->keys,
        .entries = ix->entries,
        .weight = ix->weight,
        .bytes = ix->bytes,
    };
}

bool prefix_index_nth(const struct prefix_index *ix, uint32_t n, uint64_t *uid, uint32_t *entries)
{
    for (uint32_t i = 0; i < ix->places; i++)
        if (ix->place[i].used && n-- == 0) {
            *uid = ix->place[i].uid;
            *entries = ix->place[i].count;
            return true;
        }
    return false;
}
