/* Windows of bursts: who joins, and who is placed among which endpoints. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "sched/burst.h"

static const struct burst_conf conf = {
    .window_ms = 100, .block_tokens = 64, .per_endpoint_max = -1, .requests_max = 8
};
static const uint64_t prompts[][2] = { { 11, 12 }, { 21, 22 }, { 31, 32 }, { 41, 42 } };

/* Each of the first n prompts twice: requests 1 .. 2 n, pairs side by side. */
static struct burst *pairs(unsigned n)
{
    struct burst *b = burst_new(&conf);

    for (unsigned i = 0; i < 2 * n; i++)
        assert_int_equal(burst_join(b, i + 1, prompts[i / 2], 2, 1000 + i), 100 - i);
    return b;
}

static uint64_t place_of(struct burst *b, uint64_t id, const uint64_t *uid, uint32_t count)
{
    uint64_t out = 0;

    return burst_find(b, id, uid, count, 1100, &out) ? out : 0;
}

static void equal_prompts_meet_and_different_ones_spread(void **state)
{
    static const uint64_t all[] = { 7, 8, 9 };
    struct burst *b = pairs(3);

    (void)state;
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(place_of(b, i + 1, all, 3), all[i / 2]);
    assert_int_equal(place_of(b, 99, all, 3), 0); /* never joined */
    burst_free(b);
}

/* Not all of them are pressed into the few endpoints that the first to be decided may go to. */
static void a_request_with_few_endpoints_does_not_speak_for_all(void **state)
{
    static const uint64_t all[] = { 7, 8, 9 }, one[] = { 8 };
    struct burst *b = pairs(3);

    (void)state;
    assert_int_equal(place_of(b, 1, one, 1), 8);
    assert_int_equal(place_of(b, 2, all, 3), 7);
    for (unsigned i = 2; i < 6; i++)
        assert_int_equal(place_of(b, i + 1, all, 3), all[i / 2]);
    burst_free(b);
    b = pairs(3); /* the other way round it takes what was chosen for it, if it may */
    assert_int_equal(place_of(b, 3, all, 3), 8);
    assert_int_equal(place_of(b, 4, one, 1), 8);
    assert_int_equal(place_of(b, 1, one, 1), 8);
    burst_free(b);
}

/* Two models, each at endpoints of its own. */
static void everybody_is_placed_at_one_of_its_own(void **state)
{
    static const uint64_t some[] = { 1, 2 }, others[] = { 3, 4 };
    struct burst *b = pairs(4);

    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t *uid = i < 4 ? some : others;
        uint64_t at = place_of(b, i + 1, uid, 2);

        assert_true(at == uid[0] || at == uid[1]);
        if (i % 2 == 1)
            assert_int_equal(at, place_of(b, i, uid, 2));
    }
    burst_free(b);
}

static void a_full_window_and_an_old_one(void **state)
{
    static const uint64_t all[] = { 7, 8 };
    struct burst *b = pairs(4);

    (void)state;
    assert_int_equal(burst_join(b, 9, prompts[0], 2, 1050), 0);    /* full */
    assert_int_equal(burst_join(b, 10, prompts[0], 0, 1050), 0);   /* no blocks */
    assert_int_equal(burst_join(b, 11, prompts[0], 2, 1100), 100); /* the next one */
    assert_int_equal(place_of(b, 11, all, 2), 0);                  /* alone there */
    assert_int_equal(place_of(b, 1, all, 2), 7);
    assert_false(burst_find(b, 1, all, 2, 10000, &(uint64_t) { 0 }));
    burst_free(b);
}

/* Of many different lists of endpoints only so many are placed; the rest decide without. */
static void placements_are_bounded(void **state)
{
    struct burst *b = pairs(1);
    unsigned placed = 0;

    (void)state;
    for (uint64_t i = 1; i <= 20; i++)
        placed += place_of(b, 1, &i, 1) == i;
    assert_in_range(placed, 2, 19);
    burst_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_prompts_meet_and_different_ones_spread),
        cmocka_unit_test(a_request_with_few_endpoints_does_not_speak_for_all),
        cmocka_unit_test(everybody_is_placed_at_one_of_its_own),
        cmocka_unit_test(a_full_window_and_an_old_one),
        cmocka_unit_test(placements_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
