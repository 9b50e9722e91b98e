/* The block index: published keys, the rules of removal, clearing and mapping, and random
 * interleavings against a naive model. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kv/index.h"
#include <stdio.h>
#include <string.h>

static struct kv_index *index_new(uint32_t tokens, enum index_hash h, size_t blocks_max)
{
    return kv_index_new(&(struct kv_index_opts) {
        .block_tokens = tokens, .hash = h, .seed = "", .blocks_max = blocks_max });
}

static uint32_t endpoint(struct kv_index *x, const char *address, const char *model)
{
    uint32_t id;

    assert_int_equal(kv_index_endpoint(x, str_of(address), str_of(model), &id), 0);
    return id;
}

static struct kv_apply_stats apply(struct kv_index *x, uint32_t ep, struct kv_event ev)
{
    struct kv_apply_stats s;

    kv_index_apply(x, ep, &(struct kv_batch) { .events = &ev, .count = 1 }, &s);
    return s;
}

static bool holds(const struct kv_index *x, uint32_t ep, uint64_t key)
{
    uint32_t matched[16];

    kv_index_match(x, &key, 1, matched, 16);
    return matched[ep] == 1;
}

#define HASHES(...)                                                                                \
    .hashes = (const uint64_t[]) { __VA_ARGS__ },                                                  \
    .hash_count = COUNT(((const uint64_t[]) { __VA_ARGS__ }))
#define TOKENS(...)                                                                                \
    .tokens = (const uint32_t[]) { __VA_ARGS__ },                                                  \
    .token_count = COUNT(((const uint32_t[]) { __VA_ARGS__ }))
#define GPU .medium = STR("GPU")
#define CPU .medium = STR("CPU")

/* The worked example of the kv-cache page, 3.5 (B = 4, cbor-fnv, model m). */
static void published_events_give_published_keys(void **state)
{
    const uint64_t key_b = 0xcbd1586ecc3519c9, key_c = 0xf9c674948ec42f77;
    const struct kv_extra img = { .is_media = true, .text = STR("img-aaaa") };
    struct kv_index *x = index_new(4, INDEX_HASH_CBOR_FNV, 0);
    uint32_t p = endpoint(x, "p:1", "m");

    (void)state;
    /* F before its group is known: no effect. */
    apply(x, p,
          (struct kv_event) {
              .kind = KV_STORED, HASHES(100), TOKENS(1, 2, 3, 4), .block_size = 4, GPU });
    assert_true(holds(x, p, key_b));
    assert_int_equal(
        apply(x, p, (struct kv_event) { .kind = KV_REMOVED, HASHES(100), GPU, .has_group = true })
            .skipped,
        1);
    assert_true(holds(x, p, key_b));
    apply(x, p,
          (struct kv_event) { .kind = KV_STORED,
                              HASHES(200),
                              .has_parent = true,
                              .parent = 100,
                              TOKENS(5, 6, 7, 151645),
                              .block_size = 4,
                              GPU,
                              .lora_name = STR("sql-lora"),
                              .has_group = true,
                              .kind_name = STR("full_attention"),
                              .extras = &img,
                              .extra_count = 1 });
    assert_true(holds(x, p, key_c));
    /* Now the group is known, and the removal is of another entry than the one without a group. */
    assert_int_equal(
        apply(x, p, (struct kv_event) { .kind = KV_REMOVED, HASHES(100), GPU, .has_group = true })
            .removed,
        0);
    assert_true(holds(x, p, key_b));
    /* A tier more, a tier less. */
    assert_int_equal(apply(x, p, (struct kv_event) { .kind = KV_STORED, HASHES(100), CPU }).stored,
                     1);
    apply(x, p, (struct kv_event) { .kind = KV_REMOVED, HASHES(100), GPU });
    assert_true(holds(x, p, key_b));
    apply(x, p, (struct kv_event) { .kind = KV_REMOVED, HASHES(100), CPU });
    assert_false(holds(x, p, key_b));
    assert_true(holds(x, p, key_c));
    apply(x, p, (struct kv_event) { .kind = KV_CLEARED });
    assert_false(holds(x, p, key_c));
    assert_int_equal(kv_index_total(x), 0);
    kv_index_free(x);
}

static void lookups_make_the_keys_of_events(void **state)
{
    struct kv_index *x = index_new(4, INDEX_HASH_CBOR_FNV, 0);
    uint32_t a = endpoint(x, "a:1", "m"), tokens[11] = { 1, 2, 3, 4, 5, 6, 7, 151645, 9, 9, 9 },
             matched[1];
    uint64_t keys[2];

    (void)state;
    assert_int_equal(kv_index_keys(x, STR("m"), STR_NONE, tokens, 11, keys),
                     2); /* full blocks only */
    assert_true(keys[0] == 0xcbd1586ecc3519c9 && keys[1] == 0x954f815584edd253);
    assert_int_equal(kv_index_keys(x, STR("m"), STR("salt-1"), tokens, 4, keys), 1);
    assert_true(keys[0] == 0x99ca306fdbe9be3b);
    assert_int_equal(kv_index_keys(x, STR("sql-lora"), STR_NONE, tokens, 4, keys), 1);
    assert_true(keys[0] == 0x321f1d60733ed67c);
    assert_int_equal(kv_index_keys(x, STR("m"), STR_NONE, tokens, 3, keys), 0);
    apply(x, a,
          (struct kv_event) { .kind = KV_STORED,
                              HASHES(1, 2),
                              TOKENS(1, 2, 3, 4, 5, 6, 7, 151645),
                              .block_size = 4 });
    kv_index_keys(x, STR("m"), STR_NONE, tokens, 11, keys);
    kv_index_match(x, keys, 2, matched, 1);
    assert_int_equal(matched[0], 2);
    kv_index_free(x);
}

static void matching_counts_leading_blocks_only(void **state)
{
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, 0);
    uint32_t matched[5];
    const uint64_t keys[3] = { 11, 22, 33 };
    /* A all three, B the first two, C the first, D all but the first, E none. */
    static const int has[5][3] = {
        { 1, 1, 1 }, { 1, 1, 0 }, { 1, 0, 1 }, { 0, 1, 1 }, { 0, 0, 0 }
    };
    static const uint32_t want[5] = { 3, 2, 1, 0, 0 };

    (void)state;
    for (uint32_t e = 0; e < 5; e++) {
        char name[8];

        snprintf(name, sizeof(name), "%c:1", (char)('A' + e));
        assert_int_equal(endpoint(x, name, "m"), e);
        assert_int_equal(endpoint(x, name, "m"), e); /* stable */
        for (int k = 0; k < 3; k++)
            if (has[e][k])
                kv_index_add(x, e, keys[k]);
    }
    memset(matched, 0xff, sizeof(matched));
    kv_index_match(x, keys, 3, matched, 5);
    assert_memory_equal(matched, want, sizeof(want));
    kv_index_match(x, keys, 0, matched, 5);
    assert_int_equal(matched[0], 0);
    kv_index_match(x, (const uint64_t[]) { 11, 99, 33 }, 3, matched, 5);
    assert_true(matched[0] == 1 && matched[1] == 1 && matched[2] == 1 && matched[3] == 0);
    kv_index_match(x, keys, 3, matched, 2); /* fewer asked for than there are */
    assert_true(matched[0] == 3 && matched[1] == 2);
    kv_index_free(x);
}

static void a_block_stored_twice_must_be_removed_twice(void **state)
{
    struct kv_index *x = index_new(4, INDEX_HASH_CBOR_FNV, 0);
    uint32_t a = endpoint(x, "a:1", "m");
    const struct kv_event st = {
        .kind = KV_STORED, HASHES(5), TOKENS(1, 2, 3, 4), .block_size = 4
    };
    const struct kv_event rm = { .kind = KV_REMOVED, HASHES(5) };

    (void)state;
    apply(x, a, st);
    apply(x, a, st);
    assert_int_equal(kv_index_blocks(x, a), 1);
    apply(x, a, rm);
    assert_true(holds(x, a, 0xcbd1586ecc3519c9));
    assert_int_equal(apply(x, a, rm).removed, 1);
    assert_false(holds(x, a, 0xcbd1586ecc3519c9));
    assert_int_equal(apply(x, a, rm).removed, 0);
    kv_index_free(x);
}

static void an_unknown_parent_makes_an_orphan(void **state)
{
    struct kv_index *x = index_new(4, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a:1", "m"), b = endpoint(x, "b:1", "m");
    struct kv_event child = { .kind = KV_STORED,
                              HASHES(8, 9),
                              .has_parent = true,
                              .parent = 7,
                              TOKENS(5, 6, 7, 8, 1, 1, 1, 1),
                              .block_size = 4 };

    (void)state;
    /* The parent is known, but to another endpoint. */
    apply(x, b,
          (struct kv_event) { .kind = KV_STORED, HASHES(7), TOKENS(1, 2, 3, 4), .block_size = 4 });
    assert_int_equal(apply(x, a, child).orphans, 2);
    assert_int_equal(kv_index_blocks(x, a), 0);
    assert_int_equal(apply(x, b, child).stored, 2);
    assert_int_equal(kv_index_blocks(x, b), 3);
    kv_index_free(x);
}

static void groups_that_cannot_be_indexed_are_skipped(void **state)
{
    struct kv_index *x = index_new(4, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a:1", "m");
    struct kv_event ev = {
        .kind = KV_STORED, HASHES(1), TOKENS(1, 2, 3, 4), .block_size = 4, .has_group = true
    };

    (void)state;
    assert_int_equal(apply(x, a, ev).skipped, 1); /* kind not known yet */
    ev.kind_name = STR("sliding_window");
    assert_int_equal(apply(x, a, ev).skipped, 1);
    ev.group = 1;
    ev.kind_name = STR("mla_attention");
    assert_int_equal(apply(x, a, ev).stored, 1);
    ev.kind_name = STR_NONE; /* learned */
    assert_int_equal(apply(x, a, ev).stored, 1);
    ev.block_size = 3;
    assert_int_equal(apply(x, a, ev).skipped, 1); /* not dense */
    ev.block_size = 0;
    assert_int_equal(apply(x, a, ev).skipped, 1);
    ev.block_size = 4;
    ev.group = 500;
    assert_int_equal(apply(x, a, ev).skipped, 1);
    kv_index_free(x);
}

static void engine_blocks_of_other_sizes_map_to_canonical_ones(void **state)
{
    struct kv_index *x = index_new(4, INDEX_HASH_CBOR_FNV, 0);
    uint32_t a = endpoint(x, "a:1", "m"), b = endpoint(x, "b:1", "m"), tokens[16], matched[2];
    uint64_t keys[4];

    (void)state;
    for (uint32_t i = 0; i < 16; i++)
        tokens[i] = i + 1;
    assert_int_equal(kv_index_keys(x, STR("m"), STR_NONE, tokens, 16, keys), 4);
    /* 8 tokens a block: one hash, two keys. */
    apply(x, a,
          (struct kv_event) {
              .kind = KV_STORED, HASHES(1), .tokens = tokens, .token_count = 8, .block_size = 8 });
    apply(x, a,
          (struct kv_event) { .kind = KV_STORED,
                              HASHES(2),
                              .has_parent = true,
                              .parent = 1,
                              .tokens = tokens + 8,
                              .token_count = 8,
                              .block_size = 8 });
    /* 2 tokens a block: two hashes, one key; 5 of them leave half a block over. */
    apply(x, b,
          (struct kv_event) { .kind = KV_STORED,
                              HASHES(1, 2, 3, 4, 5),
                              .tokens = tokens,
                              .token_count = 10,
                              .block_size = 2 });
    kv_index_match(x, keys, 4, matched, 2);
    assert_true(matched[a] == 4 && matched[b] == 2);
    assert_int_equal(apply(x, b,
                           (struct kv_event) { .kind = KV_STORED,
                                               HASHES(7, 8),
                                               .has_parent = true,
                                               .parent = 4,
                                               .tokens = tokens + 8,
                                               .token_count = 4,
                                               .block_size = 2 })
                         .stored,
                     2);
    kv_index_match(x, keys, 4, matched, 2);
    assert_int_equal(matched[b], 3);
    apply(x, a, (struct kv_event) { .kind = KV_REMOVED, HASHES(2) });
    apply(x, b, (struct kv_event) { .kind = KV_REMOVED, HASHES(4) });
    kv_index_match(x, keys, 4, matched, 2);
    assert_true(matched[a] == 2 && matched[b] == 1);
    assert_int_equal(kv_index_blocks(x, a), 2);
    assert_int_equal(
        apply(
            x, a,
            (struct kv_event) {
                .kind = KV_STORED, HASHES(9), .tokens = tokens, .token_count = 6, .block_size = 6 })
            .skipped,
        1);
    kv_index_free(x);
}

/* The scheduler salts the first canonical block only, whatever the engine's block size. */
static void a_salt_belongs_to_the_first_block(void **state)
{
    const struct kv_extra salt = { .text = STR("salt-1") };
    struct kv_index *x = index_new(4, INDEX_HASH_CBOR_FNV, 0);
    uint32_t a = endpoint(x, "a:1", "m"), b = endpoint(x, "b:1", "m"), matched[2],
             tokens[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct kv_event ev = { .kind = KV_STORED,
                           HASHES(1),
                           .tokens = tokens,
                           .token_count = 8,
                           .block_size = 8,
                           .extras = &salt,
                           .extra_count = 1 };
    uint64_t keys[2];

    (void)state;
    apply(x, a, ev);
    ev.hashes = (const uint64_t[]) { 1, 2 };
    ev.hash_count = 2;
    ev.block_size = 4;
    apply(x, b, ev);
    kv_index_keys(x, STR("m"), STR("salt-1"), tokens, 8, keys);
    assert_true(keys[0] == 0x99ca306fdbe9be3b);
    kv_index_match(x, keys, 2, matched, 2);
    assert_true(matched[a] == 2 && matched[b] == 2);
    kv_index_keys(x, STR("m"), STR_NONE, tokens, 8, keys);
    kv_index_match(x, keys, 2, matched, 2);
    assert_true(matched[a] == 0 && matched[b] == 0);
    kv_index_free(x);
}

/* ---- a naive model ---- */

enum {
    ENDPOINTS = 7,
    BRANCH = 3,
    DEPTH = 6,
    NODES = (729 * 3 - 1) / 2 - 1 /* 3 + 9 + .. + 729 */,
    BIG = 64
};

struct model {
    uint8_t refs[ENDPOINTS][NODES][3];
};

static uint32_t node_parent(uint32_t n) /* NODES = the root */
{
    return n < BRANCH ? NODES : n / BRANCH - 1;
}

static uint32_t node_path(uint32_t n, uint32_t *path)
{
    uint32_t len = 0;

    for (uint32_t at = n; at != NODES; at = node_parent(at))
        len++;
    for (uint32_t i = len; i-- > 0; n = node_parent(n))
        path[i] = n;
    return len;
}

/* Engine hashes: the same numbers mean other blocks on other endpoints. */
static uint64_t engine_hash(uint32_t e, uint32_t n)
{
    return (n + e * 97) % NODES + 1;
}

static bool model_has(const struct model *m, uint32_t e, uint32_t n)
{
    return (m->refs[e][n][0] | m->refs[e][n][1] | m->refs[e][n][2]) != 0;
}

struct count {
    uint64_t pairs;
    struct kv_index *replica;
};

static void count_pair(void *ctx, uint32_t e, uint64_t key)
{
    struct count *c = ctx;

    (void)e;
    (void)key;
    c->pairs++;
}

static void mirror_add(void *ctx, uint32_t e, uint64_t key)
{
    kv_index_add(ctx, e, key);
}

static void mirror_del(void *ctx, uint32_t e, uint64_t key)
{
    kv_index_del(ctx, e, key);
}

static void mirror_clear(void *ctx, uint32_t e)
{
    kv_index_clear(ctx, e);
}

static void node_tokens(uint32_t n, uint32_t engine_tokens, uint32_t *out)
{
    for (uint32_t t = 0; t < engine_tokens; t++)
        out[t] = n % BRANCH * 1000 + t;
}

static void check_against_model(const struct kv_index *x, const struct kv_index *replica,
                                const struct model *m, uint32_t ratio, struct rng *r)
{
    uint32_t tokens[DEPTH * BIG], path[DEPTH], got[ENDPOINTS], copy[ENDPOINTS], size = 4 * ratio;
    uint64_t keys[DEPTH * BIG / 4], total = 0;
    struct count c = { 0 };

    for (uint32_t e = 0; e < ENDPOINTS; e++) {
        uint64_t blocks = 0;

        for (uint32_t n = 0; n < NODES; n++)
            blocks += model_has(m, e, n) ? ratio : 0;
        assert_int_equal(kv_index_blocks(x, e), blocks);
        total += blocks;
    }
    assert_int_equal(kv_index_total(x), total);
    kv_index_each(x, count_pair, &c);
    assert_int_equal(c.pairs, total);
    assert_int_equal(kv_index_total(replica), total);
    for (int tries = 0; tries < 40; tries++) {
        uint32_t len = node_path((uint32_t)rng_below(r, NODES), path), n;

        for (uint32_t i = 0; i < len; i++)
            node_tokens(path[i], size, tokens + (size_t)i * size);
        n = kv_index_keys(x, STR("m"), STR_NONE, tokens, len * size, keys);
        assert_int_equal(n, len * ratio);
        kv_index_match(x, keys, n, got, ENDPOINTS);
        kv_index_match(replica, keys, n, copy, ENDPOINTS);
        for (uint32_t e = 0; e < ENDPOINTS; e++) {
            uint32_t want = 0;

            while (want < len && model_has(m, e, path[want]))
                want++;
            assert_int_equal(got[e], want * ratio);
            assert_int_equal(copy[e], want * ratio);
        }
    }
}

static void model_store(struct kv_index *x, struct model *m, uint32_t ratio, struct rng *r)
{
    static const char *const medium[] = { "GPU", "cpu", "storage" };
    static const uint8_t most[] = { 7, 7, 3 };
    uint32_t e = (uint32_t)rng_below(r, ENDPOINTS), tier = (uint32_t)rng_below(r, 8), path[DEPTH],
             tokens[DEPTH * BIG];
    uint32_t len = node_path((uint32_t)rng_below(r, NODES), path),
             from = (uint32_t)rng_below(r, len), size = 4 * ratio;
    bool tier_only = rng_below(r, 10) == 0, orphan;
    uint64_t hashes[DEPTH];
    struct kv_event ev = {
        .kind = KV_STORED, .hashes = hashes, .block_size = size, .tokens = tokens
    };

    tier = tier < 5 ? 0 : tier - 5;
    for (uint32_t i = from; i < len; i++) {
        hashes[ev.hash_count++] = engine_hash(e, path[i]);
        node_tokens(path[i], size, tokens + (size_t)(i - from) * size);
    }
    ev.token_count = tier_only ? 0 : ev.hash_count * size;
    ev.has_parent = from != 0;
    ev.parent = from != 0 ? engine_hash(e, path[from - 1]) : 0;
    ev.medium = str_of(medium[tier]);
    orphan = !tier_only && from != 0 && !model_has(m, e, path[from - 1]);
    apply(x, e, ev);
    for (uint32_t i = from; i < len && !orphan; i++)
        if ((!tier_only || model_has(m, e, path[i])) && m->refs[e][path[i]][tier] < most[tier])
            m->refs[e][path[i]][tier]++;
}

static void model_remove(struct kv_index *x, struct model *m, struct rng *r)
{
    static const char *const medium[] = { "", "CPU", "disk" };
    uint32_t e = (uint32_t)rng_below(r, ENDPOINTS), tier = (uint32_t)rng_below(r, 8);
    uint64_t hashes[6];
    struct kv_event ev = { .kind = KV_REMOVED, .hashes = hashes };

    tier = tier < 5 ? 0 : tier - 5;
    ev.medium = str_of(medium[tier]);
    for (uint32_t i = 0; i < COUNT(hashes); i++) {
        uint32_t n = (uint32_t)rng_below(r, NODES);

        hashes[ev.hash_count++] = engine_hash(e, n);
        if (m->refs[e][n][tier] != 0)
            m->refs[e][n][tier]--;
    }
    apply(x, e, ev);
}

static void random_interleavings_end_like_the_naive_model(void **state)
{
    static const uint32_t ratios[] = { 1, 2, 1, 16 };

    (void)state;
    for (uint64_t seed = 1; seed <= COUNT(ratios); seed++) {
        uint32_t ratio = ratios[seed - 1];
        struct kv_index *x = index_new(4, INDEX_HASH_XXH64, 0),
                        *replica = index_new(4, INDEX_HASH_XXH64, 0);
        struct model *m = mem_zalloc(sizeof(*m));
        struct rng r;

        print_message("seed %d, engine block = %u canonical\n", (int)seed, ratio);
        rng_seed(&r, seed);
        kv_index_set_watch(
            x, &(struct kv_index_watch) { mirror_add, mirror_del, mirror_clear, replica });
        for (uint32_t e = 0; e < ENDPOINTS; e++) {
            char name[16];

            snprintf(name, sizeof(name), "e%u", e);
            endpoint(x, name, "m");
            endpoint(replica, name, "m");
        }
        for (int step = 0; step < 6000; step++) {
            uint64_t what = rng_below(&r, 1000);

            if (what < 500) {
                model_store(x, m, ratio, &r);
            } else if (what < 990) {
                model_remove(x, m, &r);
            } else {
                uint32_t e = (uint32_t)rng_below(&r, ENDPOINTS);

                if (what < 995)
                    kv_index_clear(x, e);
                else
                    apply(x, e, (struct kv_event) { .kind = KV_CLEARED });
                memset(m->refs[e], 0, sizeof(m->refs[e]));
            }
            if (step % 50 == 0)
                check_against_model(x, replica, m, ratio, &r);
        }
        kv_index_free(x);
        kv_index_free(replica);
        mem_free(m);
    }
}

/* Holders per block from 1 to hundreds, with slots renewed under them: list, bitmap and back. */
static void many_holders_of_few_blocks(void **state)
{
    enum { EPS = 300, KEYS = 40 };
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, 0);
    uint8_t(*has)[KEYS] = mem_zalloc(EPS * sizeof(*has));
    uint32_t matched[EPS];
    struct rng r;
    size_t bytes_full;

    (void)state;
    rng_seed(&r, 3);
    for (uint32_t e = 0; e < EPS; e++) {
        char name[16];

        snprintf(name, sizeof(name), "e%u", e);
        endpoint(x, name, "m");
    }
    for (int step = 0; step < 120000; step++) {
        uint32_t e = (uint32_t)rng_below(&r, EPS), k = (uint32_t)rng_below(&r, KEYS);
        uint64_t what = rng_below(&r, 100);
        bool growing = step / 20000 % 2 == 0;

        if (what < (growing ? 70 : 20)) {
            kv_index_add(x, e, k);
            has[e][k] = 1;
        } else if (what < 99) {
            kv_index_del(x, e, k);
            has[e][k] = 0;
        } else {
            kv_index_clear(x, e);
            memset(has[e], 0, sizeof(has[e]));
        }
        if (step % 1000 != 0)
            continue;
        for (uint64_t key = 0; key < KEYS; key++) {
            kv_index_match(x, &key, 1, matched, EPS);
            for (uint32_t i = 0; i < EPS; i++)
                assert_int_equal(matched[i], has[i][key]);
        }
    }
    bytes_full = kv_index_bytes(x);
    for (uint32_t e = 0; e < EPS; e++)
        for (uint64_t key = 0; key < KEYS; key++)
            kv_index_del(x, e, key);
    assert_int_equal(kv_index_total(x), 0);
    assert_true(kv_index_bytes(x) <= bytes_full);
    for (uint32_t i = 0; i < 64 * 2 * 256; i++) { /* sweeps go on with additions */
        kv_index_add(x, 0, 7);
        kv_index_del(x, 0, 7);
    }
    kv_index_free(x);
    mem_free(has);
}

/* More lives than there are slots: the old ones are swept and given out again. */
static void endpoints_can_restart_without_end(void **state)
{
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a", "m"), b = endpoint(x, "b", "m"), matched[2];
    const uint64_t key = 5;

    (void)state;
    kv_index_add(x, b, key);
    for (int life = 0; life < 30000; life++) {
        kv_index_match(x, &key, 1, matched, 2);
        assert_true(matched[a] == 0 && matched[b] == 1);
        kv_index_add(x, a, key);
        kv_index_add(x, a, (uint64_t)life + 100);
        kv_index_clear(x, a);
        assert_int_equal(kv_index_total(x), 1);
    }
    kv_index_free(x);
}

static void the_index_stays_under_its_ceiling_and_old_blocks_go_first(void **state)
{
    enum { MAX = 20000 };
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, MAX),
                    *replica = index_new(16, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a", "m"), tokens[16] = { 0 }, kept_old = 0, kept_new = 0, matched[1];
    struct count c = { 0 };

    (void)state;
    endpoint(replica, "a", "m");
    kv_index_set_watch(x,
                       &(struct kv_index_watch) { mirror_add, mirror_del, mirror_clear, replica });
    for (uint32_t i = 0; i < 3 * MAX; i++) {
        uint64_t hash = i + 1;

        tokens[0] = i;
        apply(x, a,
              (struct kv_event) { .kind = KV_STORED,
                                  .hashes = &hash,
                                  .hash_count = 1,
                                  .tokens = tokens,
                                  .token_count = 16,
                                  .block_size = 16 });
        assert_true(kv_index_total(x) <= MAX);
    }
    assert_true(kv_index_total(x) >
                MAX / 100 * 99); /* a handle that goes may take a live pair along */
    assert_int_equal(kv_index_total(replica), kv_index_total(x));
    kv_index_each(x, count_pair, &c);
    assert_int_equal(c.pairs, kv_index_total(x));
    for (uint32_t i = 0; i < 3 * MAX; i++) {
        uint64_t key;

        tokens[0] = i;
        kv_index_keys(x, STR("m"), STR_NONE, tokens, 16, &key);
        kv_index_match(x, &key, 1, matched, 1);
        if (i < MAX)
            kept_old += matched[0];
        else if (i >= 3 * MAX - MAX / 2)
            kept_new += matched[0];
    }
    print_message("kept: %u of the oldest third, %u of the newest %u\n", kept_old, kept_new,
                  MAX / 2);
    assert_true(kept_old < MAX / 100 && kept_new > MAX / 2 * 95 / 100);
    /* Handles are bounded too: many more blocks than fit, none ever removed. */
    assert_true(kv_index_bytes(x) < (size_t)MAX * 100);
    kv_index_free(x);
    kv_index_free(replica);
}

static void clearing_takes_no_time_however_much_is_held(void **state)
{
    enum { BLOCKS = 400000 };
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a", "m"), b = endpoint(x, "b", "m");
    uint64_t start, took;

    (void)state;
    for (uint64_t k = 0; k < BLOCKS; k++) {
        kv_index_add(x, a, k * 2654435761u);
        if (k % 100 == 0)
            kv_index_add(x, b, k * 2654435761u);
    }
    start = clock_ns();
    kv_index_clear(x, a);
    took = clock_ns() - start;
    print_message("clear of %d blocks: %d us\n", BLOCKS, (int)(took / 1000));
    assert_int_equal(kv_index_blocks(x, a), 0);
    assert_int_equal(kv_index_total(x), BLOCKS / 100);
    for (int i = 0; i < 256 * 64; i++)
        kv_index_add(x, b, 1); /* sweep */
    assert_true(kv_index_bytes(x) < (size_t)BLOCKS * 4);
    kv_index_free(x);
}

static void another_model_at_an_address_starts_empty(void **state)
{
    struct kv_index *x = index_new(16, INDEX_HASH_XXH64, 0);
    uint32_t a = endpoint(x, "a", "m");

    (void)state;
    kv_index_add(x, a, 1);
    assert_int_equal(endpoint(x, "a", "m"), a);
    assert_int_equal(kv_index_blocks(x, a), 1);
    assert_int_equal(endpoint(x, "a", "other"), a);
    assert_int_equal(kv_index_blocks(x, a), 0);
    assert_true(str_eqz(kv_index_address(x, a), "a"));
    kv_index_clear(x, 99); /* unknown endpoints are nothing */
    kv_index_add(x, 99, 1);
    kv_index_del(x, 99, 1);
    assert_int_equal(kv_index_total(x), 0);
    kv_index_free(x);
}

static void refused_memory_costs_hints_only(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth < 60; nth++) {
        struct kv_index *x = index_new(4, INDEX_HASH_XXH64, 0);
        uint32_t id, tokens[4 * 64];
        uint64_t hashes[64];

        for (uint32_t i = 0; i < COUNT(tokens); i++)
            tokens[i] = i;
        for (uint32_t i = 0; i < 64; i++)
            hashes[i] = i + 1;
        mem_fail_at(nth);
        for (uint32_t e = 0; e < 8; e++) {
            char name[8];

            snprintf(name, sizeof(name), "%u", e);
            if (kv_index_endpoint(x, str_of(name), STR("m"), &id) == 0)
                apply(x, id,
                      (struct kv_event) { .kind = KV_STORED,
                                          .hashes = hashes,
                                          .hash_count = 64,
                                          .tokens = tokens,
                                          .token_count = COUNT(tokens),
                                          .block_size = 4 });
        }
        mem_fail_at(0);
        for (uint32_t e = 0; e < kv_index_endpoint_count(x); e++)
            apply(x, e,
                  (struct kv_event) { .kind = KV_REMOVED, .hashes = hashes, .hash_count = 64 });
        assert_int_equal(kv_index_total(x), 0);
        kv_index_free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_events_give_published_keys),
        cmocka_unit_test(lookups_make_the_keys_of_events),
        cmocka_unit_test(matching_counts_leading_blocks_only),
        cmocka_unit_test(a_block_stored_twice_must_be_removed_twice),
        cmocka_unit_test(an_unknown_parent_makes_an_orphan),
        cmocka_unit_test(groups_that_cannot_be_indexed_are_skipped),
        cmocka_unit_test(engine_blocks_of_other_sizes_map_to_canonical_ones),
        cmocka_unit_test(a_salt_belongs_to_the_first_block),
        cmocka_unit_test(random_interleavings_end_like_the_naive_model),
        cmocka_unit_test(many_holders_of_few_blocks),
        cmocka_unit_test(endpoints_can_restart_without_end),
        cmocka_unit_test(the_index_stays_under_its_ceiling_and_old_blocks_go_first),
        cmocka_unit_test(clearing_takes_no_time_however_much_is_held),
        cmocka_unit_test(another_model_at_an_address_starts_empty),
        cmocka_unit_test(refused_memory_costs_hints_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
