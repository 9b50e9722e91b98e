/* KV that leaves for another engine and comes back: same text, honest counts, leases that end; and
 * events from which a listener rebuilds exactly the cache. */
// SPDX-License-Identifier: Apache-2.0
#include "base/map.h"
#include "harness.h"
#include <pthread.h>

static const char *const archs[] = { "llama", "gemma3" };
static struct tiny models[COUNT(archs)];

static int models_open(void **state)
{
    struct err e = { 0 };

    (void)state;
    if (kern_init(NULL, &e) != 0)
        return -1;
    for (size_t i = 0; i < COUNT(archs); i++)
        tiny_open(&models[i], archs[i]);
    return 0;
}

static int models_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++)
        tiny_close(&models[i]);
    return 0;
}

/* One prefill of p on `from` with its KV held. */
static void hold(struct engine *from, struct heard *h, const uint32_t *p, uint32_t n)
{
    struct engine_request r = request(h, p, n, 1);

    r.hold_kv = true;
    start(from, &r);
    wait_done(h);
    assert_int_equal(atomic_load(&h->prefill_blocks), n / 16);
}

/* Copies blocks [first, last) of `src` on `from` into request `dst` on `to`. */
static void hand_over(struct engine *from, uint64_t src, struct engine *to, uint64_t dst,
                      uint32_t first, uint32_t last)
{
    uint8_t *buf = mem_alloc(engine_kv_block_bytes(from));
    struct blockkey key;
    uint32_t parts;
    int rc;

    for (uint32_t i = first; i < last; i++) {
        assert_int_equal(engine_export_block(from, src, i, buf, &key, &parts), 0);
        while ((rc = engine_import_block(to, dst, i, &key, parts, buf)) == ERR_AGAIN)
            clock_sleep_ms(1);
        assert_int_equal(rc, 0);
    }
    mem_free(buf);
}

static void handed_over_kv_gives_the_same_text(void **state)
{
    static const struct {
        uint32_t prompt, blocks;
    } cases[] = {
        { 100, 6 }, /* all full blocks */
        { 96, 6 },  /* the prompt ends with a block: its last token is computed all the same */
        { 100, 3 }, /* the rest never comes */
        { 100, 0 }, { 160, 10 },
    };
    uint32_t p[160];

    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++)
        for (size_t c = 0; c < COUNT(cases); c++) {
            uint32_t n = cases[c].prompt, got;
            struct engine_opts o = opts();
            struct engine *from = engine_make(models[a].m, &o, NULL, NULL);
            struct engine *to = engine_make(models[a].m, &o, NULL, NULL);
            struct engine *ref = engine_make(models[a].m, &o, NULL, NULL);
            struct heard want, held, h;
            struct engine_request r;

            prompt_make(models[a].m, p, 160, 20 + c);
            r = request(&want, p, n, 24);
            start(ref, &r);
            wait_done(&want);
            hold(from, &held, p, n);
            r = request(&h, p, n, 24);
            r.await_import = true;
            r.import_wait_ms = 10000;
            start(to, &r);
            hand_over(from, held.id, to, h.id, 0, cases[c].blocks);
            assert_false(atomic_load(&h.done));
            engine_import_done(to, h.id, 0);
            wait_done(&h);
            same(&want, &h);
            assert_int_equal(h.r.imported_tokens + h.r.computed_tokens, n);
            got = MIN(cases[c].blocks * 16, n - 1);
            if (a == 0 || cases[c].blocks == n / 16)
                assert_int_equal(h.r.imported_tokens, got);
            else /* windows: a part of the prompt whose windowed half was not sent cannot be used */
                assert_true(h.r.imported_tokens <= got);
            engine_lease_release(from, held.id);
            assert_true(all_free(from));
            assert_true(all_free(to));
            engine_close(from);
            engine_close(to);
            engine_close(ref);
        }
}

static void held_locally(const struct model *m)
{
    struct engine_opts o = opts();
    struct engine *from = engine_make(m, &o, NULL, NULL);
    struct engine *to = engine_make(m, &o, NULL, NULL);
    struct heard h, held;
    struct engine_request r;
    uint32_t p[100];

    prompt_make(m, p, 100, 1);
    r = request(&h, p, 50, 1); /* leaves three blocks in the cache */
    start(to, &r);
    wait_done(&h);
    hold(from, &held, p, 100);
    r = request(&h, p, 100, 4);
    r.await_import = true;
    r.import_wait_ms = 10000;
    start(to, &r);
    hand_over(from, held.id, to, h.id, 3, 6);
    engine_import_done(to, h.id, 0);
    wait_done(&h);
    assert_int_equal(h.r.cached_tokens, 48);
    assert_int_equal(h.r.imported_tokens, 48);
    assert_int_equal(h.r.computed_tokens, 4);
    r = request(&h, p, 96, 4); /* now all of it is here: nothing to wait for */
    r.await_import = true;
    r.import_wait_ms = 60000;
    start(to, &r);
    wait_done(&h);
    assert_int_equal(h.r.cached_tokens, 95);
    engine_close(from);
    engine_close(to);
}

static void blocks_held_locally_need_no_import(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++)
        held_locally(models[a].m);
}

static void a_wrong_late_or_missing_block_is_not_used(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[0].m, &o, NULL, NULL);
    uint8_t *bytes = mem_zalloc(engine_kv_block_bytes(en));
    struct blockkey key = { { 1 } };
    struct heard h;
    struct engine_request r;
    uint32_t p[64], parts;
    int rc;

    (void)state;
    prompt_make(models[0].m, p, 64, 2);
    r = request(&h, p, 64, 2);
    r.await_import = true;
    r.import_wait_ms = 150;
    start(en, &r);
    while ((rc = engine_import_block(en, h.id, 0, &key, 1, bytes)) == ERR_AGAIN)
        clock_sleep_ms(1);
    assert_int_equal(rc, ERR_MISMATCH);
    wait_done(&h); /* by its deadline, and computed here */
    assert_int_equal(h.r.reason, ENGINE_LENGTH);
    assert_int_equal(h.r.computed_tokens, 64);
    assert_int_equal(engine_import_block(en, h.id, 0, &key, 1, bytes), ERR_NOTFOUND);
    assert_int_equal(engine_import_block(en, 12345, 0, &key, 1, bytes), ERR_NOTFOUND);
    assert_int_equal(engine_export_block(en, h.id, 0, bytes, &key, &parts), ERR_NOTFOUND);
    r = request(&h, p, 64, 2); /* cancelled while it waits */
    r.await_import = true;
    r.import_wait_ms = 60000;
    r.salt = STR("other");
    start(en, &r);
    engine_cancel(en, h.id);
    wait_done(&h);
    assert_int_equal(h.r.reason, ENGINE_ABORT);
    assert_true(all_free(en));
    mem_free(bytes);
    engine_close(en);
}

static void leases_end_by_time_release_and_cancel(void **state)
{
    struct engine_opts o = opts();
    struct engine *en;
    struct engine_stats s;
    struct heard h;
    uint8_t *bytes;
    struct blockkey key;
    uint32_t p[64], parts;

    (void)state;
    o.lease_ms = 300;
    en = engine_make(models[0].m, &o, NULL, NULL);
    bytes = mem_zalloc(engine_kv_block_bytes(en));
    prompt_make(models[0].m, p, 64, 2);
    hold(en, &h, p, 64);
    engine_stats(en, &s);
    assert_int_equal(s.blocks_leased, 4);
    assert_int_equal(s.blocks_in_use, 4);
    assert_int_equal(engine_export_block(en, h.id, 3, bytes, &key, &parts), 0);
    assert_int_equal(parts, 1);
    assert_int_equal(engine_export_block(en, h.id, 4, bytes, &key, &parts), ERR_NOTFOUND);
    assert_true(all_free(en)); /* time */
    assert_int_equal(engine_export_block(en, h.id, 3, bytes, &key, &parts), ERR_NOTFOUND);
    hold(en, &h, p, 64);
    engine_lease_renew(en, h.id, 60000);
    clock_sleep_ms(500);
    engine_stats(en, &s);
    assert_int_equal(s.blocks_leased, 4);
    engine_lease_release(en, h.id);
    assert_true(all_free(en));
    hold(en, &h, p, 64);
    engine_lease_renew(en, h.id, 60000);
    engine_cancel(en, h.id);
    assert_true(all_free(en));
    mem_free(bytes);
    engine_close(en);
}

static void at_most_half_of_the_pool_is_held(void **state)
{
    struct engine_opts o = opts();
    struct engine *en;
    struct engine_stats s;
    static struct heard h[64];
    uint32_t p[128], i = 0;
    struct err e;
    uint64_t id;
    int rc = 0;

    (void)state;
    o.kv_bytes = 64 * 16 * model_kv_bytes_per_token(models[0].m, 0);
    en = engine_make(models[0].m, &o, NULL, NULL);
    for (; i < 64; i++) {
        struct engine_request r;

        prompt_make(models[0].m, p, 128, i);
        r = request(&h[i], p, 128, 1);
        r.hold_kv = true;
        rc = engine_submit(en, &r, &id, &e);
        if (rc != 0)
            break;
        wait_done(&h[i]);
    }
    assert_int_equal(rc, ERR_LIMIT);
    assert_int_equal(i, 4);
    engine_stats(en, &s);
    assert_int_equal(s.blocks_leased, 32);
    { /* others still run on the rest */
        struct heard g;
        struct engine_request r = request(&g, p, 100, 20);

        start(en, &r);
        wait_done(&g);
        assert_int_equal(g.r.reason, ENGINE_LENGTH);
    }
    engine_close(en); /* leases end with it */
}

/* Shared prefixes, small pools that evict all the time, and any number of blocks arriving. */
static void any_part_of_a_hand_over_gives_the_same_text(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        const struct model *m = models[a].m;
        struct engine_opts o = opts(), small = opts();
        struct engine *from, *to, *ref;
        uint32_t base[180], p[180];
        struct rng rng;

        o.prefix_caching = false;
        small.kv_bytes =
            40 * 16 *
            (model_kv_bytes_per_token(m, 0) + (a == 1 ? model_kv_bytes_per_token(m, 1) : 0));
        from = engine_make(m, &small, NULL, NULL);
        to = engine_make(m, &small, NULL, NULL);
        ref = engine_make(m, &o, NULL, NULL);
        rng_seed(&rng, 11 + a);
        prompt_make(m, base, 180, 1);
        for (uint32_t i = 0; i < 60; i++) {
            uint32_t n = 40 + (uint32_t)rng_below(&rng, 140), keep = (uint32_t)rng_below(&rng, n);
            uint32_t hint, stop = (uint32_t)rng_below(&rng, n / 16 + 1);
            struct heard want, held, h;
            struct engine_request r;

            prompt_make(m, p, 180, 100 + i);
            memcpy(p, base, keep * sizeof(*p));
            r = request(&want, p, n, 12);
            start(ref, &r);
            hold(from, &held, p, n);
            r = request(&h, p, n, 12);
            r.await_import = true;
            r.import_wait_ms = 10000;
            hint = engine_prefix_blocks(to, p, n, STR_NONE);
            start(to, &r);
            if (hint < stop)
                hand_over(from, held.id, to, h.id, hint, stop);
            engine_import_done(to, h.id, 0);
            wait_done(&want);
            wait_done(&h);
            same(&want, &h);
            assert_int_equal(h.r.imported_tokens + h.r.cached_tokens + h.r.computed_tokens, n);
            engine_lease_release(from, held.id);
        }
        assert_true(all_free(from));
        assert_true(all_free(to));
        engine_close(from);
        engine_close(to);
        engine_close(ref);
    }
}

/* ---- events ---- */

struct listener {
    pthread_mutex_t mu;
    struct map keys; /* fold -> parent fold (0 = root) */
    uint32_t events, cleared, faults, stored, removed;
    uint32_t first_kind;
};

static void hear(void *ctx, const struct engine_kv_event *ev, uint32_t count)
{
    struct listener *l = ctx;

    pthread_mutex_lock(&l->mu);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t parent = ev[i].parent != NULL ? blockkey_fold(ev[i].parent) : 0;

        if (l->events++ == 0)
            l->first_kind = ev[i].kind;
        if (ev[i].kind == ENGINE_KV_CLEARED) {
            map_fini(&l->keys);
            l->cleared++;
        }
        for (uint32_t k = 0; k < ev[i].key_count; k++) {
            uint64_t key = blockkey_fold(&ev[i].keys[k]);

            if (ev[i].kind == ENGINE_KV_STORED) {
                struct blockkey want;
                struct blockkey root;

                /* known parents only, never twice, and the key is that of these tokens */
                l->faults += (parent != 0 && !map_get(&l->keys, parent, NULL)) ||
                             map_get(&l->keys, key, NULL);
                blockkey_root(STR(BLOCKKEY_SEED_DEFAULT), &root);
                blockkey_next(k != 0                 ? &ev[i].keys[k - 1]
                              : ev[i].parent != NULL ? ev[i].parent
                                                     : &root,
                              ev[i].tokens + k * 16, 16, NULL, 0, &want);
                l->faults += !blockkey_eq(&want, &ev[i].keys[k]);
                ASSERT(map_put(&l->keys, key, parent));
                parent = key;
                l->stored++;
            } else { /* present, and no child is left behind */
                l->faults += !map_get(&l->keys, key, NULL);
                for (size_t j = map_next(&l->keys, 0); j < l->keys.cap;
                     j = map_next(&l->keys, j + 1))
                    l->faults += l->keys.slot[j].value == key;
                map_del(&l->keys, key);
                l->removed++;
            }
        }
    }
    pthread_mutex_unlock(&l->mu);
}

static void events_replay_to_the_cache(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        struct listener l = { .mu = PTHREAD_MUTEX_INITIALIZER };
        struct engine_opts o = opts();
        static struct heard h[60];
        uint32_t base[100], p[200];
        struct engine_stats s;
        struct engine *en;
        struct rng rng;

        o.kv_bytes = 48 * 16 *
                     (model_kv_bytes_per_token(models[a].m, 0) +
                      (a == 1 ? model_kv_bytes_per_token(models[a].m, 1) : 0));
        o.max_num_seqs = 4;
        en = engine_make(models[a].m, &o, hear, &l);
        rng_seed(&rng, 5);
        prompt_make(models[a].m, base, 100, 1);
        for (uint32_t i = 0; i < 60;
             i++) { /* shared prefixes of many lengths, more than the pool holds */
            uint32_t keep = (uint32_t)rng_below(&rng, 100),
                     n = keep + 1 + (uint32_t)rng_below(&rng, 99);
            struct engine_request r;

            prompt_make(models[a].m, p, 200, 100 + i);
            memcpy(p, base, keep * sizeof(*p));
            r = request(&h[i], p, n, 1 + (uint32_t)rng_below(&rng, 40));
            start(en, &r);
            if (i % 4 == 3)
                for (uint32_t j = i - 3; j <= i; j++)
                    wait_done(&h[j]);
        }
        assert_true(all_free(en));
        engine_stats(en, &s);
        pthread_mutex_lock(&l.mu);
        assert_int_equal(l.first_kind, ENGINE_KV_CLEARED);
        assert_int_equal(l.faults, 0);
        assert_true(l.removed > 0);
        assert_int_equal(l.keys.count, s.blocks_cached);
        pthread_mutex_unlock(&l.mu);
        engine_reset_prefix_cache(en);
        for (int i = 0; i < 1000 && s.blocks_cached != 0; i++, clock_sleep_ms(1))
            engine_stats(en, &s);
        assert_int_equal(s.blocks_cached, 0);
        engine_close(en);
        assert_int_equal(l.keys.count, 0);
        map_fini(&l.keys);
    }
}

/* Exporting, cancelling and releasing from other threads while the engine works. */
struct reader {
    struct engine *en;
    atomic_uint_fast64_t id;
    atomic_bool stop;
    atomic_uint copied;
};

static void *read_blocks(void *arg)
{
    struct reader *r = arg;
    uint8_t *bytes = mem_alloc(engine_kv_block_bytes(r->en));
    struct blockkey key;
    uint32_t parts;

    while (!atomic_load(&r->stop))
        for (uint32_t i = 0; i < 8; i++)
            r->copied +=
                engine_export_block(r->en, atomic_load(&r->id), i, bytes, &key, &parts) == 0;
    mem_free(bytes);
    return NULL;
}

static void readers_never_keep_blocks_for_ever(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[1].m, &o, NULL, NULL);
    struct reader r = { .en = en };
    static struct heard h[40];
    uint32_t p[140];
    pthread_t t;

    (void)state;
    assert_int_equal(pthread_create(&t, NULL, read_blocks, &r), 0);
    for (uint32_t i = 0; i < 40; i++) {
        struct engine_request q;

        prompt_make(models[1].m, p, 140, i);
        q = request(&h[i], p, 140, 1);
        q.hold_kv = true;
        start(en, &q);
        atomic_store(&r.id, h[i].id);
        if (i % 3 == 0)
            engine_cancel(en, h[i].id);
        wait_done(&h[i]);
        for (uint32_t ms = 0; i == 1 && ms < 5000 && atomic_load(&r.copied) == 0; ms++)
            clock_sleep_ms(1); /* the reader got at least one before anything is released */
        clock_sleep_ms(1);
        if (i % 2 == 0)
            engine_lease_release(en, h[i].id);
        else
            engine_cancel(en, h[i].id);
    }
    assert_true(all_free(en));
    atomic_store(&r.stop, true);
    pthread_join(t, NULL);
    assert_true(r.copied > 0);
    engine_close(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handed_over_kv_gives_the_same_text),
        cmocka_unit_test(blocks_held_locally_need_no_import),
        cmocka_unit_test(any_part_of_a_hand_over_gives_the_same_text),
        cmocka_unit_test(a_wrong_late_or_missing_block_is_not_used),
        cmocka_unit_test(leases_end_by_time_release_and_cancel),
        cmocka_unit_test(at_most_half_of_the_pool_is_held),
        cmocka_unit_test(events_replay_to_the_cache),
        cmocka_unit_test(readers_never_keep_blocks_for_ever),
    };

    return cmocka_run_group_tests(tests, models_open, models_close);
}
