/* The thread pool: every ticket runs once, regions do not mix, and parked threads come back. */
// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/mem.h"
#include "kern_test.h"
#include <stdatomic.h>

struct region {
    _Atomic uint32_t *ran;
    _Atomic uint64_t threads; /* bit t: thread t took a ticket */
    uint32_t count, threads_max;
    atomic_bool wrong;
    uint32_t work_ns;
};

static void mark(void *ctx, uint32_t i, uint32_t thread)
{
    struct region *r = ctx;
    uint64_t start = clock_ns();

    if (i >= r->count || thread >= r->threads_max)
        atomic_store(&r->wrong, true);
    else
        atomic_fetch_add(&r->ran[i], 1);
    atomic_fetch_or(&r->threads, 1ULL << (thread & 63));
    while (r->work_ns != 0 && clock_ns() - start < r->work_ns)
        ;
}

static void each_ticket_runs_once(void **state)
{
    static const uint32_t threads[] = { 1, 2, 3, 7 };
    struct rng rng;

    (void)state;
    rng_seed(&rng, 41);
    for (size_t t = 0; t < COUNT(threads); t++) {
        struct kern_pool *p = kern_pool_new(threads[t]);
        _Atomic uint32_t *ran = mem_zalloc(1000 * sizeof(*ran));

        assert_int_equal(kern_pool_threads(p), threads[t]);
        for (int round = 0; round < 3000; round++) {
            struct region r = { .ran = ran, .threads_max = threads[t] };

            r.count = (uint32_t)rng_below(&rng, round % 100 == 0 ? 1000 : 9);
            kern_pool_run(p, r.count, mark, &r);
            assert_false(atomic_load(&r.wrong));
            for (uint32_t i = 0; i < 1000; i++)
                if (atomic_exchange(&ran[i], 0) != (i < r.count))
                    fail_msg("threads %u round %d ticket %u of %u", threads[t], round, i, r.count);
            if (round % 50 == 0)
                kern_pool_quiet(p);
            if (round % 300 == 0)
                clock_sleep_ms(1); /* long enough that the others fell asleep */
        }
        kern_pool_free(p);
        mem_free(ran);
    }
}

/* With work in every ticket all threads take part, also after they were parked. */
static void all_threads_take_part(void **state)
{
    struct kern_pool *p = kern_pool_new(3);
    _Atomic uint32_t ran[60];

    (void)state;
    memset(ran, 0, sizeof(ran));
    for (int round = 0; round < 4; round++) {
        struct region r = { .ran = ran, .count = 60, .threads_max = 3, .work_ns = 400000 };

        kern_pool_run(p, 60, mark, &r);
        assert_int_equal(atomic_load(&r.threads), 7);
        kern_pool_quiet(p);
        clock_sleep_ms(2);
    }
    kern_pool_free(p);
}

static void unused_pools_can_be_freed(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++)
        kern_pool_free(kern_pool_new(4));
    kern_pool_free(NULL);
    {
        struct kern_pool *p = kern_pool_new(0);

        assert_true(kern_pool_threads(p) >= 1);
        kern_pool_free(p);
    }
}

static void levels_are_refused_by_name(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(kern_init("sse9", &e), ERR_INVAL);
    assert_non_null(strstr(e.msg, "scalar, avx2, avx512"));
    assert_int_equal(kern_init("scalar", &e), 0);
    assert_int_equal(kern_level(), KERN_SCALAR);
    assert_string_equal(kern_level_name(), "scalar");
    assert_int_equal(kern_init(NULL, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_ticket_runs_once),
        cmocka_unit_test(all_threads_take_part),
        cmocka_unit_test(unused_pools_can_be_freed),
        cmocka_unit_test(levels_are_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
