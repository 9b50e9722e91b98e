/* Who is ended for others, how many, and how soon again. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "sched/evict.h"

static const struct flow_demand top = { .priority = 10, .ceiling = 1 };

static void the_lowest_then_the_latest_goes(void **state)
{
    /* in flight, in the order they began */
    static const int32_t priority[] = { -1, -2, 0, -2, -1, 5, -2 };
    static const size_t order[] = { 6, 3, 1, 4, 0 };
    struct evict e = { 0 };
    struct evict_item it[COUNT(priority)], *out[EVICT_MAX];
    uint64_t now = 1000, after;

    (void)state;
    for (size_t i = 0; i < COUNT(it); i++)
        evict_track(&e, &it[i], priority[i]);
    for (size_t i = 0; i < COUNT(order); i++, now++) {
        assert_int_equal(evict_choose(&e, &top, 1, now, out), 1);
        assert_ptr_equal(out[0], &it[order[i]]);
        assert_true(evict_end(&e, out[0], now, &after));
    }
    assert_int_equal(evict_choose(&e, &top, 1, now, out), 0); /* the rest is not sheddable */
    assert_int_equal(e.inflight, 2);
    assert_false(evict_end(&e, &it[2], now, &after));
    assert_false(evict_end(&e, &it[5], now, &after));
    assert_false(evict_end(&e, &it[5], now, &after)); /* twice is none */
    assert_int_equal(e.inflight, 0);
}

static void only_what_is_below_the_one_who_waits(void **state)
{
    static const struct {
        int32_t running, waiting;
        uint32_t chosen;
    } cases[] = { { -1, 0, 1 }, { -1, -1, 0 }, { -2, -1, 1 }, { -1, -2, 0 }, { 0, 1, 0 } };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct flow_demand d = { cases[i].waiting, 1 };
        struct evict e = { 0 };
        struct evict_item it, *out[EVICT_MAX];

        evict_track(&e, &it, cases[i].running);
        if (evict_choose(&e, &d, 1, 0, out) != cases[i].chosen)
            fail_msg("case %zu", i);
    }
}

static void as_many_as_are_missing(void **state)
{
    static const struct {
        double saturation, ceiling;
        uint32_t sheddable, others, chosen;
    } cases[] = {
        { 1, 1, 4, 4, 1 },     /* just full: one */
        { 1.125, 1, 4, 5, 1 }, /* one of nine is as much */
        { 1.25, 1, 4, 6, 2 },  /* two of ten are */
        { 4, 1, 4, 4, 2 },     /* never more at a time */
        { 4, 1, 1, 4, 1 },     /* or than there are */
        { 1, 0.5, 4, 4, 2 },   /* a ceiling far below */
        { 4, 1, 0, 4, 0 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct flow_demand d = { 0, cases[i].ceiling };
        struct evict e = { 0 };
        struct evict_item it[16], *out[EVICT_MAX];

        for (uint32_t k = 0; k < cases[i].sheddable + cases[i].others; k++)
            evict_track(&e, &it[k], k < cases[i].sheddable ? -1 : 0);
        if (evict_choose(&e, &d, cases[i].saturation, 0, out) != cases[i].chosen)
            fail_msg("case %zu", i);
    }
}

static void nobody_else_until_it_shows(void **state)
{
    struct evict e = { .grace_ms = 50 };
    struct evict_item it[5], *out[EVICT_MAX], *none[EVICT_MAX];
    uint64_t after = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(it); i++)
        evict_track(&e, &it[i], -1);
    assert_int_equal(evict_choose(&e, &top, 5, 100, out), 2);
    assert_true(evict_pending(&e, 100) == 2);
    assert_true(evict_end(&e, out[0], 110, &after));
    assert_int_equal(after, 10);
    assert_int_equal(evict_choose(&e, &top, 5, 1000, none), 0); /* the other one still runs */
    assert_true(evict_end(&e, out[1], 1000, &after));
    assert_int_equal(after, 900);
    assert_int_equal(evict_choose(&e, &top, 5, 1049, none), 0);
    assert_true(evict_pending(&e, 1049) == 2);
    assert_true(evict_pending(&e, 1050) == 0);
    assert_int_equal(evict_choose(&e, &top, 5, 1050, out), 2);
}

static void who_does_not_end_is_given_up(void **state)
{
    struct evict e = { .grace_ms = 50 };
    struct evict_item it[3], *out[EVICT_MAX], *late;
    uint64_t after;

    (void)state;
    for (size_t i = 0; i < COUNT(it); i++)
        evict_track(&e, &it[i], -1);
    assert_int_equal(evict_choose(&e, &top, 1, 100, out), 1);
    late = out[0];
    assert_int_equal(evict_expire(&e, 10099), 0);
    assert_int_equal(evict_expire(&e, 10100), 1);
    assert_int_equal(evict_expire(&e, 10100), 0);
    assert_int_equal(evict_choose(&e, &top, 1, 10149, out), 0);
    assert_int_equal(evict_choose(&e, &top, 1, 10150, out), 1);
    assert_ptr_not_equal(out[0], late);
    assert_false(evict_end(&e, late, 10160, &after)); /* it counted already */
    assert_true(evict_end(&e, out[0], 10160, &after));
    assert_int_equal(e.inflight, 1);
}

static void demand_is_of_the_highest_that_waits(void **state)
{
    struct sched_flow_conf c = { .enabled = true };
    const struct flow_fleet full = { .saturation = 1 }, roomy = { .saturation = 0.5 },
                            nobody = { .saturation = 1, .is_empty = true };
    struct flow_item low = { .priority = -1, .tokens = 1 }, high = { .priority = 3, .tokens = 1 };
    struct flow *f = flow_new(&c, NULL);
    struct flow_demand d;

    (void)state;
    assert_null(flow_next(f, &full, 0));
    assert_false(flow_demand(f, &d));
    assert_int_equal(flow_enqueue(f, &low, &full, 0), FLOW_DISPATCHED);
    assert_null(flow_next(f, &full, 0));
    assert_true(flow_demand(f, &d));
    assert_int_equal(d.priority, -1);
    assert_int_equal(flow_enqueue(f, &high, &full, 0), FLOW_DISPATCHED);
    assert_null(flow_next(f, &full, 0));
    assert_true(flow_demand(f, &d) && d.priority == 3 && d.ceiling == 1);
    assert_null(flow_next(f, &nobody, 0)); /* nobody is in the way of anybody */
    assert_false(flow_demand(f, &d));
    assert_ptr_equal(flow_next(f, &roomy, 0), &high);
    assert_false(flow_demand(f, &d));
    flow_remove(f, &low);
    flow_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_then_the_latest_goes),
        cmocka_unit_test(only_what_is_below_the_one_who_waits),
        cmocka_unit_test(as_many_as_are_missing),
        cmocka_unit_test(nobody_else_until_it_shows),
        cmocka_unit_test(who_does_not_end_is_given_up),
        cmocka_unit_test(demand_is_of_the_highest_that_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
