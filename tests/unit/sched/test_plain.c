/* Strategies that look at nothing but who is there. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/rng.h"
#include "sched/sched.h"

static void round_robin_takes_turns_among_those_in_rotation(void **state)
{
    struct sched_endpoint ep[5] = { { .use = SCHED_USED },
                                    { .use = SCHED_FROZEN },
                                    { .use = SCHED_USED },
                                    { .use = SCHED_USED, .role = SCHED_PREFILL },
                                    { .use = SCHED_USED } };
    static const uint32_t expected[] = { 0, 2, 4, 0, 2, 4 };
    struct sched_request r = { .prompt_tokens = 100, .block_tokens = 16 };
    struct sched_decision d;

    (void)state;
    for (uint32_t i = 0; i < COUNT(expected); i++) {
        sched_decide_plainly(SCHED_ROUND_ROBIN, ep, COUNT(ep), &r, i, &d);
        assert_int_equal(d.decode, expected[i]);
        assert_int_equal(d.prefill, SCHED_NONE);
        assert_true(d.book_tokens == 100);
    }
}

static void what_was_tried_is_not_tried_again(void **state)
{
    struct sched_endpoint ep[2] = { { .use = SCHED_USED }, { .use = SCHED_USED } };
    bool excluded[2] = { true, false };
    struct sched_request r = { .excluded = excluded };
    struct sched_decision d;

    (void)state;
    for (uint64_t turn = 0; turn < 4; turn++) {
        sched_decide_plainly(SCHED_ROUND_ROBIN, ep, 2, &r, turn, &d);
        assert_int_equal(d.decode, 1);
    }
    excluded[1] = true;
    sched_decide_plainly(SCHED_RANDOM, ep, 2, &r, 0, &d);
    assert_int_equal(d.decode, SCHED_NONE);
}

static void least_requests_breaks_ties_at_random(void **state)
{
    struct sched_endpoint ep[4] = { { .use = SCHED_USED, .inflight = 3 },
                                    { .use = SCHED_USED, .inflight = 1 },
                                    { .use = SCHED_LOADING },
                                    { .use = SCHED_USED, .inflight = 1 } };
    uint32_t taken[4] = { 0 };
    struct rng rng;
    struct sched_decision d;

    (void)state;
    rng_seed(&rng, 7);
    for (uint32_t i = 0; i < 1000; i++) {
        struct sched_request r = { .random = rng_u64(&rng) };

        sched_decide_plainly(SCHED_LEAST_REQUESTS, ep, 4, &r, 0, &d);
        taken[d.decode]++;
    }
    assert_int_equal(taken[0] + taken[2], 0);
    assert_in_range(taken[1], 400, 600);
}

static void a_prefill_worker_decodes_only_when_alone(void **state)
{
    struct sched_endpoint ep[1] = { { .use = SCHED_USED, .role = SCHED_PREFILL } };
    struct sched_request r = { .prompt_tokens = 10 };
    struct sched_decision d;

    (void)state;
    for (int s = SCHED_ROUND_ROBIN; s < SCHED_STRATEGIES; s++) {
        sched_decide_plainly((enum sched_strategy)s, ep, 1, &r, 0, &d);
        assert_int_equal(d.decode, 0);
    }
}

static void names_are_read_back(void **state)
{
    enum sched_strategy s;

    (void)state;
    for (int i = 0; i < SCHED_STRATEGIES; i++) {
        assert_true(sched_strategy_parse(str_of(sched_strategy_name((enum sched_strategy)i)), &s));
        assert_int_equal(s, i);
    }
    assert_false(sched_strategy_parse(STR("Cost"), &s));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_robin_takes_turns_among_those_in_rotation),
        cmocka_unit_test(what_was_tried_is_not_tried_again),
        cmocka_unit_test(least_requests_breaks_ties_at_random),
        cmocka_unit_test(a_prefill_worker_decodes_only_when_alone),
        cmocka_unit_test(names_are_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
