/* The block index: key -> holders, in 256 sorted tables of 16-byte entries.
 *
 *   key --mix--> shard --> entry { mixed key, holders }     (this file)
 *   engine hash of an endpoint --> { 48 bits of the mixed key, references }
 *                                                           (index_apply.c)
 *
 * A holder is a slot: one life of one endpoint.  Clearing an endpoint gives it a
 * new slot and marks the old one as dying: its bits mean nothing from that
 * moment.  A pass over the shards, one shard a step, removes dying slots, after
 * which they can be given out again.
 *
 * Matching walks the keys of a prompt with the set of endpoints that hold all of
 * them so far: an endpoint that drops out has its answer.
 *
 * Invariants: total = sum of endpoint blocks = live bits over all entries; an
 * entry without any slot is removed at once. */
// SPDX-License-Identifier: Apache-2.0
#include "kv/index.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kv/index_priv.h"
#include <string.h>

#define BLOCK_TOKENS_MAX 4096
#define BLOCKS_DEFAULT   ((size_t)4 << 20)
#define EVICT_SAMPLE     16
#define AGE_STEPS        128 /* ages while blocks_max blocks go in; a byte holds twice that */
#define SWEEP_EVERY_ADDS 64
#define MATCH_AHEAD      16 /* keys whose entries are on their way from memory */
#define MIX_A            0xd6e8feb86659fd93u
#define MIX_B            0x9e3779b97f4a7c15u

/* Inverse of an odd number modulo 2^64: each step doubles the bits that are right. */
static uint64_t inverse(uint64_t odd)
{
    uint64_t x = odd;

    for (int i = 0; i < 5; i++)
        x *= 2 - odd * x;
    return x;
}

uint64_t kv_index_mix(const struct kv_index *x, uint64_t key)
{
    uint64_t v = (key ^ x->secret) * MIX_A;

    v = (v ^ v >> 32) * MIX_B;
    return v ^ v >> 32;
}

uint64_t kv_index_unmix(const struct kv_index *x, uint64_t mixed)
{
    uint64_t v = (mixed ^ mixed >> 32) * inverse(MIX_B);

    v = (v ^ v >> 32) * inverse(MIX_A);
    return v ^ x->secret;
}

struct kv_index *kv_index_new(const struct kv_index_opts *o)
{
    struct kv_index *x = mem_zalloc(sizeof(*x));

    x->block_tokens = o->block_tokens != 0 ? MIN(o->block_tokens, (uint32_t)BLOCK_TOKENS_MAX)
                                           : BLOCKKEY_TOKENS_DEFAULT;
    x->hash = o->hash;
    x->seed = mem_strdup(o->seed != NULL ? o->seed : "");
    x->blocks_max = o->blocks_max != 0 ? o->blocks_max : BLOCKS_DEFAULT;
    x->handles_max = x->blocks_max + x->blocks_max / 4;
    x->secret = rng_secure_u64();
    for (size_t i = 0; i < KV_SHARDS; i++)
        x->shard[i].shift = KV_SHARD_BITS;
    return x;
}

static void drop_handles(struct kv_index *x, struct kv_endpoint *ep)
{
    for (size_t i = 0; i < KV_HANDLE_SHARDS; i++)
        kv_table_fini(&ep->handle[i]);
    x->handle_count -= ep->handle_count;
    ep->handle_count = 0;
}

void kv_index_free(struct kv_index *x)
{
    if (x == NULL)
        return;
    for (size_t s = 0; s < KV_SHARDS; s++) {
        for (size_t i = 0; i < x->shard[s].alloc; i++)
            if (x->shard[s].e[i].hash != KV_TABLE_UNUSED)
                kv_holders_free(&x->shard[s].e[i].val, &x->set_bytes);
        kv_table_fini(&x->shard[s]);
    }
    for (uint32_t i = 0; i < x->endpoint_count; i++) {
        drop_handles(x, x->endpoint[i]);
        mem_free(x->endpoint[i]->address);
        mem_free(x->endpoint[i]->model);
        mem_free(x->endpoint[i]);
    }
    mem_free(x->endpoint);
    map_fini(&x->by_address);
    mem_free(x->seed);
    mem_free(x);
}

/* ---- slots ---- */

/* Removes dying slots from one shard; after the last shard they are free. */
void kv_index_sweep_step(struct kv_index *x)
{
    struct kv_table *t;

    if (!x->is_sweeping) {
        if (!x->has_dying)
            return;
        memcpy(x->sweeping, x->dying, sizeof(x->sweeping));
        memset(x->dying, 0, sizeof(x->dying));
        x->has_dying = false;
        x->is_sweeping = true;
        x->sweep_shard = 0;
    }
    t = &x->shard[x->sweep_shard];
    for (size_t i = 0; i < t->alloc;) {
        if (t->e[i].hash == KV_TABLE_UNUSED) {
            i++;
            continue;
        }
        kv_holders_purge(&t->e[i].val, x->live, &x->set_bytes);
        if (kv_holders_empty(t->e[i].val)) {
            kv_holders_free(&t->e[i].val, &x->set_bytes);
            kv_table_del(t, i);
        } else {
            i++;
        }
    }
    kv_table_trim(t);
    if (++x->sweep_shard == KV_SHARDS) {
        x->is_sweeping = false;
        memset(x->sweeping, 0, sizeof(x->sweeping));
    }
}

/* The lowest free slot, so that bitmaps stay short. */
static uint32_t slot_new(struct kv_index *x, uint32_t endpoint)
{
    for (;;) {
        for (uint32_t w = 0; w < KV_SLOT_WORDS; w++) {
            uint64_t unused = ~(x->live[w] | x->dying[w] | x->sweeping[w]);
            uint32_t slot;

            if (w == 0)
                unused &= ~(uint64_t)1; /* slot 0 means none */
            if (unused == 0)
                continue;
            slot = w * 64 + (uint32_t)__builtin_ctzll(unused);
            x->live[w] |= (uint64_t)1 << slot % 64;
            x->owner[slot] = (uint16_t)endpoint;
            x->slot_words = MAX(x->slot_words, w + 1);
            return slot;
        }
        /* At most KV_ENDPOINTS_MAX of KV_SLOTS are live, so a pass frees some. */
        ASSERT(x->has_dying || x->is_sweeping);
        do
            kv_index_sweep_step(x);
        while (x->is_sweeping);
    }
}

/* ---- endpoints ---- */

int kv_index_endpoint(struct kv_index *x, struct str address, struct str model, uint32_t *out)
{
    struct kv_endpoint *ep;
    uint64_t id;

    if (map_gets(&x->by_address, address, &id)) {
        *out = (uint32_t)id;
        ep = x->endpoint[id];
        if (model.n != 0 && !str_eqz(model, ep->model)) {
            if (ep->model[0] != 0)
                kv_index_clear(x, *out); /* another model: nothing of the old one is there */
            mem_free(ep->model);
            ep->model = str_dup(model);
        }
        return 0;
    }
    *out = 0;
    if (x->endpoint_count == KV_ENDPOINTS_MAX)
        return ERR_LIMIT;
    if (x->endpoint_count == x->endpoint_cap) {
        x->endpoint_cap = x->endpoint_cap != 0 ? x->endpoint_cap * 2 : 16;
        x->endpoint = mem_realloc(x->endpoint, x->endpoint_cap * sizeof(struct kv_endpoint *));
    }
    ep = mem_zalloc(sizeof(*ep));
    ep->address = str_dup(address);
    ep->model = str_dup(model);
    for (size_t i = 0; i < KV_HANDLE_SHARDS; i++)
        ep->handle[i].shift = KV_HANDLE_SHARD_BITS;
    if (!map_puts(&x->by_address, str_of(ep->address), x->endpoint_count)) {
        mem_free(ep->address);
        mem_free(ep->model);
        mem_free(ep);
        return ERR_NOMEM;
    }
    ep->slot = slot_new(x, x->endpoint_count);
    x->endpoint[x->endpoint_count] = ep;
    *out = x->endpoint_count++;
    return 0;
}

bool kv_index_find(const struct kv_index *x, struct str address, uint32_t *out)
{
    uint64_t id;

    if (!map_gets(&x->by_address, address, &id))
        return false;
    *out = (uint32_t)id;
    return true;
}

void kv_index_clear(struct kv_index *x, uint32_t endpoint)
{
    struct kv_endpoint *ep;

    if (endpoint >= x->endpoint_count)
        return;
    ep = x->endpoint[endpoint];
    if (ep->blocks != 0) { /* otherwise its slot stands nowhere */
        uint64_t bit = (uint64_t)1 << ep->slot % 64;

        x->live[ep->slot / 64] &= ~bit;
        x->dying[ep->slot / 64] |= bit;
        x->has_dying = true;
        x->total -= ep->blocks;
        ep->blocks = 0;
        ep->slot = slot_new(x, endpoint);
    }
    drop_handles(x, ep);
    memset(ep->group, 0, sizeof(ep->group));
    if (x->watch.on_clear != NULL)
        x->watch.on_clear(x->watch.ctx, endpoint);
}

uint32_t kv_index_endpoint_count(const struct kv_index *x)
{
    return x->endpoint_count;
}

struct str kv_index_address(const struct kv_index *x, uint32_t endpoint)
{
    return endpoint < x->endpoint_count ? str_of(x->endpoint[endpoint]->address) : STR_NONE;
}

struct str kv_index_model(const struct kv_index *x, uint32_t endpoint)
{
    return endpoint < x->endpoint_count ? str_of(x->endpoint[endpoint]->model) : STR_NONE;
}

uint64_t kv_index_blocks(const struct kv_index *x, uint32_t endpoint)
{
    return endpoint < x->endpoint_count ? x->endpoint[endpoint]->blocks : 0;
}

uint64_t kv_index_total(const struct kv_index *x)
{
    return x->total;
}

size_t kv_index_bytes(const struct kv_index *x)
{
    size_t bytes = sizeof(*x) + x->set_bytes + x->endpoint_cap * sizeof(struct kv_endpoint *);

    for (size_t s = 0; s < KV_SHARDS; s++)
        bytes += kv_table_bytes(&x->shard[s]);
    for (uint32_t i = 0; i < x->endpoint_count; i++) {
        bytes += sizeof(struct kv_endpoint);
        for (size_t s = 0; s < KV_HANDLE_SHARDS; s++)
            bytes += kv_table_bytes(&x->endpoint[i]->handle[s]);
    }
    return bytes;
}

/* ---- pairs ---- */

struct loss {
    struct kv_index *x;
    uint64_t key;
};

static void lose(void *ctx, uint32_t slot)
{
    struct loss *l = ctx;
    struct kv_index *x = l->x;
    uint32_t endpoint = x->owner[slot];

    if (!kv_bit(x->live, slot))
        return;
    x->endpoint[endpoint]->blocks--;
    x->total--;
    if (x->watch.on_del != NULL)
        x->watch.on_del(x->watch.ctx, endpoint, l->key);
}

/* Removes the oldest of a few entries at the hand, whoever holds it; never `keep`. */
static bool evict_one(struct kv_index *x, uint64_t keep)
{
    struct kv_table *t = NULL, *at;
    size_t victim = 0;
    unsigned seen = 0;
    uint8_t oldest = 0;

    for (uint32_t shards = 0; shards <= KV_SHARDS && seen < EVICT_SAMPLE; shards++) {
        at = &x->shard[x->evict_shard];
        for (; x->evict_at < at->alloc && seen < EVICT_SAMPLE; x->evict_at++) {
            const struct kv_entry *en = &at->e[x->evict_at];
            uint8_t age;

            if (en->hash == KV_TABLE_UNUSED || en->hash == keep)
                continue;
            age = (uint8_t)(x->age - kv_holders_age(en->val));
            if (t == NULL || age > oldest) {
                t = at;
                victim = x->evict_at;
                oldest = age;
            }
            seen++;
        }
        if (seen < EVICT_SAMPLE) {
            x->evict_shard = (x->evict_shard + 1) % KV_SHARDS;
            x->evict_at = 0;
        }
    }
    if (t == NULL)
        return false;
    kv_holders_each(t->e[victim].val, lose,
                    &(struct loss) { x, kv_index_unmix(x, t->e[victim].hash) });
    kv_holders_free(&t->e[victim].val, &x->set_bytes);
    kv_table_del(t, victim);
    return true;
}

bool kv_index_pair_add(struct kv_index *x, uint32_t endpoint, uint64_t mixed)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    struct kv_table *t = kv_index_shard(x, mixed);
    bool is_new;
    struct kv_entry *en = kv_table_put(t, mixed, &is_new);
    int rc;

    if (en == NULL)
        return false;
    rc = kv_holders_add(&en->val, ep->slot, x->live, &x->set_bytes);
    if (rc < 0) {
        if (is_new)
            kv_table_del(t, (size_t)(en - t->e));
        return false;
    }
    en->val = kv_holders_aged(en->val, x->age);
    if (rc == 0)
        return true;
    ep->blocks++;
    x->total++;
    if (++x->inserts % MAX(x->blocks_max / AGE_STEPS, (uint64_t)1) == 0)
        x->age++;
    if (x->watch.on_add != NULL)
        x->watch.on_add(x->watch.ctx, endpoint, kv_index_unmix(x, mixed));
    while (x->total > x->blocks_max && evict_one(x, mixed))
        ;
    return true;
}

struct kv_entry *kv_index_by_prefix(const struct kv_index *x, uint64_t prefix)
{
    uint64_t low = prefix << 16;
    const struct kv_table *t = kv_index_shard(x, low);
    size_t i;

    if (t->count == 0)
        return NULL;
    i = kv_table_lower(t, low);
    return t->e[i].hash >> 16 == prefix && t->e[i].hash != KV_TABLE_UNUSED ? &t->e[i] : NULL;
}

void kv_index_pair_del(struct kv_index *x, uint32_t endpoint, uint64_t prefix)
{
    struct kv_endpoint *ep = x->endpoint[endpoint];
    struct kv_entry *en = kv_index_by_prefix(x, prefix);
    struct kv_table *t;
    uint64_t mixed;

    if (en == NULL || !kv_holders_del(&en->val, ep->slot, &x->set_bytes))
        return;
    mixed = en->hash;
    t = kv_index_shard(x, mixed);
    if (kv_holders_empty(en->val)) {
        kv_holders_free(&en->val, &x->set_bytes);
        kv_table_del(t, (size_t)(en - t->e));
    }
    ep->blocks--;
    x->total--;
    if (x->watch.on_del != NULL)
        x->watch.on_del(x->watch.ctx, endpoint, kv_index_unmix(x, mixed));
}

void kv_index_add(struct kv_index *x, uint32_t endpoint, uint64_t key)
{
    if (endpoint >= x->endpoint_count)
        return;
    (void)kv_index_pair_add(x, endpoint, kv_index_mix(x, key)); /* without memory: one hint less */
    if (++x->adds % SWEEP_EVERY_ADDS == 0)
        kv_index_sweep_step(x);
}

void kv_index_del(struct kv_index *x, uint32_t endpoint, uint64_t key)
{
    if (endpoint < x->endpoint_count)
        kv_index_pair_del(x, endpoint, kv_index_mix(x, key) >> 16);
}

void kv_index_set_watch(struct kv_index *x, const struct kv_index_watch *w)
{
    x->watch = w != NULL ? *w : (struct kv_index_watch) { 0 };
}

struct visit {
    const struct kv_index *x;
    void (*fn)(void *ctx, uint32_t endpoint, uint64_t key);
    void *ctx;
    uint64_t key;
};

static void visit_one(void *ctx, uint32_t slot)
{
    const struct visit *v = ctx;

    if (kv_bit(v->x->live, slot))
        v->fn(v->ctx, v->x->owner[slot], v->key);
}

void kv_index_each_part(const struct kv_index *x, uint32_t part,
                        void (*fn)(void *ctx, uint32_t endpoint, uint64_t key), void *ctx)
{
    const struct kv_table *t = &x->shard[part % KV_SHARDS];
    struct visit v = { x, fn, ctx, 0 };

    for (size_t i = 0; i < t->alloc; i++)
        if (t->e[i].hash != KV_TABLE_UNUSED) {
            v.key = kv_index_unmix(x, t->e[i].hash);
            kv_holders_each(t->e[i].val, visit_one, &v);
        }
}

void kv_index_each(const struct kv_index *x, void (*fn)(void *ctx, uint32_t endpoint, uint64_t key),
                   void *ctx)
{
    for (uint32_t part = 0; part < KV_INDEX_PARTS; part++)
        kv_index_each_part(x, part, fn, ctx);
}

/* ---- looking up ---- */

uint32_t kv_index_keys(const struct kv_index *x, struct str model, struct str salt,
                       const uint32_t *tokens, uint32_t count, uint64_t *out)
{
    struct blockkey_extra extra = { .text = salt };
    uint64_t key = indexkey_root(x->hash, str_of(x->seed), model);
    uint32_t n = count / x->block_tokens;

    for (uint32_t i = 0; i < n; i++) {
        bool has_salt = i == 0 && salt.n != 0;

        key = indexkey_next(x->hash, key, tokens + (size_t)i * x->block_tokens, x->block_tokens,
                            has_salt ? &extra : NULL, has_salt ? 1 : 0);
        out[i] = key;
    }
    return n;
}

/* Those of `had` that hold the block; returns whether there are any. */
static bool keep_holders(uint64_t word, const uint64_t *had, uint64_t *left, uint32_t words)
{
    struct kv_set *s = kv_holders_set(word);
    uint64_t any = 0;

    if (s != NULL && s->cap == 0) {
        uint32_t n = MIN(words, (uint32_t)s->words);

        for (uint32_t w = 0; w < n; w++)
            any |= left[w] = had[w] & s->data[w];
        for (uint32_t w = n; w < words; w++)
            left[w] = 0;
        return any != 0;
    }
    memset(left, 0, words * sizeof(*left));
    for (uint32_t i = 0; i < (s != NULL ? s->count : KV_INLINE_SLOTS); i++) {
        uint32_t slot = s != NULL ? kv_set_list(s)[i] : kv_holders_inline(word, i);
        uint64_t bit = had[slot / 64] & (uint64_t)1 << slot % 64;

        left[slot / 64] |= bit;
        any |= bit;
    }
    return any != 0;
}

static void answer(const struct kv_index *x, const uint64_t *slots, const uint64_t *except,
                   uint32_t value, uint32_t *matched, uint32_t endpoints)
{
    for (uint32_t w = 0; w < x->slot_words; w++)
        for (uint64_t left = slots[w] & ~(except != NULL ? except[w] : 0); left != 0;
             left &= left - 1) {
            uint32_t endpoint = x->owner[w * 64 + (uint32_t)__builtin_ctzll(left)];

            if (endpoint < endpoints)
                matched[endpoint] = value;
        }
}

/* Fetches what looking up keys[i] will touch: first its entry, a little later its set. */
static void fetch_ahead(const struct kv_index *x, const uint64_t *keys, uint32_t count, uint32_t i)
{
    const struct kv_entry *en;
    uint64_t mixed;

    if (i + MATCH_AHEAD < count) {
        mixed = kv_index_mix(x, keys[i + MATCH_AHEAD]);
        kv_table_prefetch(kv_index_shard(x, mixed), mixed);
    }
    if (i + MATCH_AHEAD / 2 < count) {
        mixed = kv_index_mix(x, keys[i + MATCH_AHEAD / 2]);
        en = kv_table_find(kv_index_shard(x, mixed), mixed);
        if (en != NULL && kv_holders_set(en->val) != NULL)
            __builtin_prefetch(kv_holders_set(en->val));
    }
}

void kv_index_match(const struct kv_index *x, const uint64_t *keys, uint32_t count,
                    uint32_t *matched, uint32_t endpoints)
{
    uint64_t bits[2][KV_SLOT_WORDS], *had = bits[0], *left = bits[1], *swap;
    uint32_t i;

    if (endpoints != 0)
        memset(matched, 0, endpoints * sizeof(*matched));
    memcpy(had, x->live, sizeof(x->live));
    for (i = 0; i < count; i++) {
        uint64_t mixed = kv_index_mix(x, keys[i]);
        const struct kv_entry *en;

        fetch_ahead(x, keys, count, i);
        en = kv_table_find(kv_index_shard(x, mixed), mixed);
        if (en == NULL)
            break;
        if (!keep_holders(en->val, had, left, x->slot_words))
            break;
        if (i != 0)
            answer(x, had, left, i, matched, endpoints);
        swap = had;
        had = left;
        left = swap;
    }
    if (i != 0)
        answer(x, had, NULL, i, matched, endpoints);
}
