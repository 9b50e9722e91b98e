/* A request's tokens and log-probabilities, bit for bit, do not depend on company, chunking,
 * threads, prefix hits or preemption; and whatever ends gives everything back. */
// SPDX-License-Identifier: Apache-2.0
#include "harness.h"
#include <sys/mman.h>
#include <unistd.h>

static const char *const archs[] = { "llama", "qwen2", "gemma3" };
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

/* The reference: alone, in an engine of its own. */
static void alone(const struct model *m, const struct engine_opts *o, struct heard *h,
                  const uint32_t *p, uint32_t n, uint32_t max_tokens, uint64_t seed)
{
    struct engine *en = engine_make(m, o, NULL, NULL);
    struct engine_request r = request(h, p, n, max_tokens);

    if (seed != 0) {
        r.sampling.temperature = 0.8f;
        r.sampling.top_p = 0.9f;
        r.sampling.has_seed = true;
        r.sampling.seed = seed;
        r.sampling.repetition_penalty = 1.1f;
    }
    start(en, &r);
    wait_done(h);
    engine_close(en);
}

static void alone_equals_in_a_batch_of_16(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        static struct heard one[16], many[16];
        static uint32_t p[16][200];
        const struct model *m = models[a].m;
        struct engine_opts o = opts();
        struct engine *en = engine_make(m, &o, NULL, NULL);

        for (uint32_t i = 0; i < 16; i++) {
            prompt_make(m, p[i], 200, i + 1);
            alone(m, &o, &one[i], p[i], 5 + i * 12, 12, i % 3 == 2 ? i : 0);
        }
        for (uint32_t i = 0; i < 16; i++) {
            struct engine_request r = request(&many[i], p[i], 5 + i * 12, 12);

            if (i % 3 == 2) {
                r.sampling.temperature = 0.8f;
                r.sampling.top_p = 0.9f;
                r.sampling.has_seed = true;
                r.sampling.seed = i;
                r.sampling.repetition_penalty = 1.1f;
            }
            start(en, &r);
        }
        for (uint32_t i = 0; i < 16; i++) {
            wait_done(&many[i]);
            same(&one[i], &many[i]);
            assert_int_equal(many[i].r.reason, ENGINE_LENGTH);
            assert_int_equal(many[i].r.computed_tokens + many[i].r.cached_tokens, 5 + i * 12);
        }
        assert_true(all_free(en));
        engine_close(en);
    }
}

static void chunks_and_threads_do_not_matter(void **state)
{
    static const uint32_t rows[] = { 1, 7, 64, 512 };
    uint32_t p[150];

    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        struct heard want, h;
        struct engine_opts o = opts();

        prompt_make(models[a].m, p, 150, 7);
        alone(models[a].m, &o, &want, p, 150, 20, 0);
        for (size_t i = 0; i < COUNT(rows); i++) {
            o.max_batched_tokens = rows[i];
            o.max_num_seqs = 1;
            o.threads = 1 + (uint32_t)i % 2;
            alone(models[a].m, &o, &h, p, 150, 20, 0);
            same(&want, &h);
        }
    }
}

static void a_prefix_hit_changes_nothing_but_the_work(void **state)
{
    static const uint32_t lens[] = { 15, 16, 33, 96, 150 };
    uint32_t p[150];

    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        struct engine_opts o = opts();
        struct engine *en = engine_make(models[a].m, &o, NULL, NULL);

        prompt_make(models[a].m, p, 150, 9);
        for (size_t i = 0; i < COUNT(lens); i++) {
            struct heard want, h;
            uint32_t full = lens[i] / 16 * 16;

            alone(models[a].m, &o, &want, p, lens[i], 20, 0);
            for (int again = 0; again < 2; again++) {
                struct engine_request r = request(&h, p, lens[i], 20);

                start(en, &r);
                wait_done(&h);
                same(&want, &h);
                if (again == 1)
                    assert_int_equal(h.r.cached_tokens, MIN(full, lens[i] - 1));
                assert_int_equal(h.r.cached_tokens + h.r.computed_tokens, lens[i]);
            }
        }
        assert_true(all_free(en));
        engine_reset_prefix_cache(en);
        {
            struct heard h;
            struct engine_request r = request(&h, p, 150, 4);

            start(en, &r);
            wait_done(&h);
            assert_int_equal(h.r.cached_tokens, 0);
        }
        engine_close(en);
    }
}

static void a_salt_keeps_tenants_apart(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[0].m, &o, NULL, NULL);
    static const struct {
        const char *salt;
        uint32_t cached;
    } cases[] = {
        { "a", 0 }, { "b", 0 }, { "", 0 }, { "a", 48 }, { "", 48 },
    };
    uint32_t p[60];

    (void)state;
    prompt_make(models[0].m, p, 60, 5);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct heard h;
        struct engine_request r = request(&h, p, 60, 2);

        r.salt = str_of(cases[i].salt);
        start(en, &r);
        wait_done(&h);
        assert_int_equal(h.r.cached_tokens, cases[i].cached);
        assert_int_equal(engine_prefix_blocks(en, p, 60, r.salt), 3);
    }
    engine_close(en);
}

static void preemption_changes_nothing(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++) {
        static struct heard one[6], many[6];
        static uint32_t p[6][100];
        const struct model *m = models[a].m;
        struct engine_opts o = opts();
        struct engine *en;
        struct engine_stats s;

        o.prefix_caching = a != 1; /* once without its help */
        for (uint32_t i = 0; i < 6; i++) {
            prompt_make(m, p[i], 100, 50 + i);
            alone(m, &o, &one[i], p[i], 40 + i, 150, i % 2 == 1 ? i : 0);
        }
        /* room for about two of the six at full length */
        o.kv_bytes = 28 * 16 *
                     (model_kv_bytes_per_token(m, 0) +
                      (m->group_count > 1 ? model_kv_bytes_per_token(m, 1) : 0));
        o.max_batched_tokens = 64;
        en = engine_make(m, &o, NULL, NULL);
        for (uint32_t i = 0; i < 6; i++) {
            struct engine_request r = request(&many[i], p[i], 40 + i, 150);

            if (i % 2 == 1) {
                r.sampling.temperature = 0.8f;
                r.sampling.top_p = 0.9f;
                r.sampling.has_seed = true;
                r.sampling.seed = i;
                r.sampling.repetition_penalty = 1.1f;
            }
            start(en, &r);
        }
        for (uint32_t i = 0; i < 6; i++) {
            wait_done(&many[i]);
            same(&one[i], &many[i]);
        }
        engine_stats(en, &s);
        assert_true(s.preemptions > 0);
        assert_true(all_free(en));
        engine_close(en);
    }
}

static void cancel_frees_everything(void **state)
{
    struct engine_opts o = opts();
    struct engine *en;
    static struct heard h[20];
    uint32_t p[900];

    (void)state;
    o.max_num_seqs = 8;
    o.max_batched_tokens = 32;
    en = engine_make(models[2].m, &o, NULL, NULL);
    prompt_make(models[2].m, p, 900, 3);
    for (uint32_t i = 0; i < 20; i++) { /* running, prefilling and waiting ones */
        struct engine_request r = request(&h[i], p + i, 20 + i * 20, 200);

        start(en, &r);
    }
    while (atomic_load(&h[0].tokens_so_far) < 3)
        clock_sleep_ms(1);
    for (uint32_t i = 0; i < 20; i++)
        engine_cancel(en, h[i].id);
    for (uint32_t i = 0; i < 20; i++) {
        wait_done(&h[i]);
        assert_int_equal(h[i].r.reason, ENGINE_ABORT);
        engine_cancel(en, h[i].id); /* a second time is nothing */
    }
    assert_true(all_free(en));
    engine_close(en);
}

static void closing_ends_what_is_left(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[0].m, &o, NULL, NULL);
    struct heard h[4];
    uint32_t p[40];

    (void)state;
    prompt_make(models[0].m, p, 40, 3);
    for (uint32_t i = 0; i < 4; i++) {
        struct engine_request r = request(&h[i], p + i, 30, 200);

        start(en, &r);
    }
    engine_close(en);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(atomic_load(&h[i].done));
        assert_int_equal(h[i].r.reason, ENGINE_ABORT);
    }
}

static void wrong_requests_are_refused(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[0].m, &o, NULL, NULL);
    uint32_t limit = engine_max_model_len(en), *p = mem_alloc((limit + 1) * sizeof(*p));
    struct err e;
    struct heard h;
    uint64_t id;
    struct engine_request r;

    (void)state;
    prompt_make(models[0].m, p, limit + 1, 1);
    r = request(&h, p, 0, 5);
    assert_int_equal(engine_submit(en, &r, &id, &e), ERR_INVAL);
    r = request(&h, p, limit, 5);
    assert_int_equal(engine_submit(en, &r, &id, &e), ERR_INVAL);
    p[3] = models[0].m->n_vocab;
    r = request(&h, p, 10, 5);
    assert_int_equal(engine_submit(en, &r, &id, &e), ERR_INVAL);
    assert_int_equal(id, 0);
    engine_close(en);
    mem_free(p);
}

static void the_queue_has_a_ceiling(void **state)
{
    struct engine_opts o = opts();
    struct engine *en;
    static struct heard h[64];
    uint32_t p[600], taken = 0;
    struct err e;
    int rc = 0;

    (void)state;
    o.queue_max = 8;
    o.max_num_seqs = 2;
    o.max_batched_tokens = 16;
    en = engine_make(models[0].m, &o, NULL, NULL);
    prompt_make(models[0].m, p, 600, 1);
    while (taken < 64) {
        struct engine_request r = request(&h[taken], p, 500, 200);

        rc = engine_submit(en, &r, &h[taken].id, &e);
        if (rc != 0)
            break;
        taken++;
    }
    assert_int_equal(rc, ERR_LIMIT);
    assert_in_range(taken, 8, 11);
    for (uint32_t i = 0; i < taken; i++)
        engine_cancel(en, h[i].id);
    for (uint32_t i = 0; i < taken; i++)
        wait_done(&h[i]);
    engine_close(en);
}

static void stop_ids_and_lengths(void **state)
{
    struct engine_opts o = opts();
    struct engine *en = engine_make(models[0].m, &o, NULL, NULL);
    struct heard h, g;
    struct engine_request r;
    uint32_t p[20], stop;

    (void)state;
    prompt_make(models[0].m, p, 20, 77);
    r = request(&h, p, 20, 30);
    start(en, &r);
    wait_done(&h);
    assert_int_equal(h.count, 30);
    stop = h.token[4];
    r = request(&g, p, 20, 30);
    r.sampling.stop_ids[0] = stop;
    r.sampling.stop_id_count = 1;
    start(en, &r);
    wait_done(&g);
    assert_int_equal(g.r.reason, ENGINE_STOP);
    assert_int_equal(g.r.stop_id, stop);
    assert_int_equal(g.token[g.count - 1], stop);
    assert_true(g.count <= 5);
    r.sampling.min_tokens = 10;
    memset(&g, 0, sizeof(g));
    start(en, &r);
    wait_done(&g);
    assert_true(g.count >= 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_not_equal(g.token[i], stop);
    r = request(&g, p, 20, 0); /* the prompt alone */
    start(en, &r);
    wait_done(&g);
    assert_int_equal(g.count, 0);
    assert_int_equal(g.r.reason, ENGINE_LENGTH);
    r = request(&g, p, 20, 1u << 30); /* clamped to the context */
    r.sampling.ignore_eos = true;
    start(en, &r);
    wait_done(&g);
    assert_int_equal(g.r.output_tokens, engine_max_model_len(en) - 20);
    engine_close(en);
}

static void prompt_logprobs_agree_in_any_chunking(void **state)
{
    uint32_t p[70];
    struct heard h[2];

    (void)state;
    prompt_make(models[0].m, p, 70, 6);
    for (int i = 0; i < 2; i++) {
        struct engine_opts o = opts();
        struct engine *en;
        struct engine_request r = request(&h[i], p, 70, 3);

        o.max_num_seqs = 4;
        o.max_batched_tokens = i == 0 ? 128 : 9;
        en = engine_make(models[0].m, &o, NULL, NULL);
        r.sampling.prompt_logprobs = 3;
        start(en, &r);
        wait_done(&h[i]);
        assert_int_equal(h[i].plp_count, 70);
        engine_close(en);
    }
    for (uint32_t i = 1; i < 70; i++) {
        assert_memory_equal(&h[0].plp[i], &h[1].plp[i], sizeof(h[0].plp[i]));
        assert_int_equal(h[0].plp[i].id, p[i]);
        assert_int_equal(h[0].plp[i].top_count, 3);
        assert_true(h[0].plp[i].top_logprob[0] >= h[0].plp[i].logprob);
    }
    same(&h[0], &h[1]);
    mem_free(h[0].plp);
    mem_free(h[1].plp);
}

static void two_engines_share_one_copy_of_the_weights(void **state)
{
    struct engine_opts o = opts();
    int fd = memfd_create("weights", 0);
    struct engine *a, *b;
    struct heard h[3];
    uint32_t p[30];

    (void)state;
    prompt_make(models[1].m, p, 30, 4);
    alone(models[1].m, &o, &h[0], p, 30, 10, 0);
    o.weights_fd = fd;
    a = engine_make(models[1].m, &o, NULL, NULL);
    b = engine_make(models[1].m, &o, NULL, NULL);
    assert_int_equal(engine_weights_fd(b), fd);
    for (int i = 1; i < 3; i++) {
        struct engine_request r = request(&h[i], p, 30, 10);

        start(i == 1 ? a : b, &r);
        wait_done(&h[i]);
        same(&h[0], &h[i]);
    }
    engine_close(a);
    engine_close(b);
    { /* another model's image is refused, not used */
        struct engine *en;
        struct err e;

        assert_int_equal(engine_open(&en, models[0].m, NULL, &o, NULL, NULL, &e), ERR_MISMATCH);
        assert_null(en);
    }
    close(fd);
}

static void a_plan_that_does_not_fit_is_refused(void **state)
{
    struct engine_opts o = opts();
    struct buf b;
    struct err e;

    (void)state;
    buf_init(&b, 4096);
    assert_int_equal(engine_plan(models[0].m, &o, &b, &e), 0);
    assert_true(b.len > 0);
    o.kv_bytes = (uint64_t)1 << 44;
    assert_int_equal(engine_plan(models[0].m, &o, &b, &e), ERR_NOMEM);
    o.kv_bytes = 1 << 16;
    o.max_model_len = 1024;
    assert_int_equal(engine_plan(models[0].m, &o, &b, &e), ERR_INVAL);
    buf_fini(&b);
}

/* While a long prompt is prefilled in small chunks, who decodes gets a token every step. */
static void a_long_prompt_does_not_stop_others(void **state)
{
    struct engine_opts o = opts();
    struct engine *en;
    struct heard quick, slow, late;
    struct engine_request r;
    uint32_t p[900], before, during;

    (void)state;
    o.max_num_seqs = 4;
    o.max_batched_tokens = 24;
    en = engine_make(models[2].m, &o, NULL, NULL);
    prompt_make(models[2].m, p, 900, 3);
    r = request(&quick, p, 8, 250);
    start(en, &r);
    while (atomic_load(&quick.tokens_so_far) < 2)
        clock_sleep_ms(1);
    r = request(&slow, p + 10, 880, 1);
    start(en, &r);
    before = atomic_load(&quick.tokens_so_far);
    r = request(&late, p + 5, 30, 1); /* comes after the long one and need not wait for its end */
    start(en, &r);
    wait_done(&late);
    wait_done(&slow);
    assert_true(late.done_ns < slow.done_ns); /* by the engine's clock: this thread may stall */
    during = atomic_load(&quick.tokens_so_far) - before;
    assert_true(during >= 880 / 24);
    wait_done(&quick);
    engine_close(en);
}

static void refused_memory_is_an_error_and_leaks_nothing(void **state)
{
    const struct model *m = models[2].m;
    struct engine_opts o = opts();
    struct engine *en = NULL;
    struct heard h;
    uint32_t p[60];
    struct err e;
    int rc = -1;

    (void)state;
    for (uint64_t n = 1; n < 200 && rc != 0; n++) {
        mem_fail_at(n);
        rc = engine_open(&en, m, NULL, &o, NULL, NULL, &e);
        mem_fail_at(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
    }
    assert_int_equal(rc, 0);
    prompt_make(m, p, 60, 8);
    for (uint64_t n = 1; n < 30; n++) {
        struct engine_request r = request(&h, p, 60, 3);

        r.salt = STR("s");
        r.sampling.repetition_penalty = 1.2f;
        r.sampling.prompt_logprobs = n % 2 == 0 ? 1 : -1;
        mem_fail_at(n);
        rc = engine_submit(en, &r, &h.id, &e);
        if (rc == 0)
            wait_done(&h);
        else
            assert_int_equal(rc, ERR_NOMEM);
        mem_fail_at(0);
        mem_free(h.plp);
    }
    assert_true(all_free(en));
    engine_close(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_equals_in_a_batch_of_16),
        cmocka_unit_test(chunks_and_threads_do_not_matter),
        cmocka_unit_test(a_prefix_hit_changes_nothing_but_the_work),
        cmocka_unit_test(a_salt_keeps_tenants_apart),
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(cancel_frees_everything),
        cmocka_unit_test(closing_ends_what_is_left),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(the_queue_has_a_ceiling),
        cmocka_unit_test(stop_ids_and_lengths),
        cmocka_unit_test(prompt_logprobs_agree_in_any_chunking),
        cmocka_unit_test(two_engines_share_one_copy_of_the_weights),
        cmocka_unit_test(a_plan_that_does_not_fit_is_refused),
        cmocka_unit_test(a_long_prompt_does_not_stop_others),
        cmocka_unit_test(refused_memory_is_an_error_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, models_open, models_close);
}
