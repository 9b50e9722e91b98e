/* What answers teach: rates that were put in come out. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/rng.h"
#include "sched/sched.h"

static void assert_near(double got, double want, double share)
{
    if (got < want * (1 - share) || got > want * (1 + share))
        fail_msg("%g is not within %g of %g", got, share, want);
}

static struct sched_conf conf(void)
{
    struct sched_conf c;

    sched_conf_default(&c);
    return c;
}

static void prefill_is_time_over_computed_tokens(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();

    (void)state;
    for (int i = 0; i < 20; i++)
        sched_learn(&l, &c, &(struct sched_sample){ .ttft_ms = 750, .uncached_tokens = 500 });
    assert_near(l.prefill_ms_per_token, 1.5, 1e-9);
    /* a worker that became slower is believed within ten answers */
    for (int i = 0; i < 10; i++)
        sched_learn(&l, &c, &(struct sched_sample){ .ttft_ms = 1500, .uncached_tokens = 500 });
    assert_near(l.prefill_ms_per_token, 3, 0.1);
}

static void what_says_nothing_is_not_learned(void **state)
{
    static const struct sched_sample samples[] = {
        { .ttft_ms = 900, .uncached_tokens = 8 },                         /* cached: all fixed cost */
        { .ttft_ms = 9000, .uncached_tokens = 400, .queued_tokens = 4000 }, /* a queue, not its speed */
        { .ttft_ms = 0, .uncached_tokens = 400 },                         /* no first byte */
        { .decode_ms = 100, .decode_tokens = 1 },                         /* too short */
        { .decode_ms = 0, .decode_tokens = 50 },
    };
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();

    (void)state;
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        sched_learn(&l, &c, &samples[i]);
    assert_true(l.prefill_ms_per_token == 0);
    assert_true(l.decode_ms_per_token == 0);
}

static void the_decode_line_is_found(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();
    struct rng g;

    (void)state;
    rng_seed(&g, 5);
    for (int i = 0; i < 300; i++) {
        double streams = (double)rng_below(&g, 9);
        double ms = 12 * (1 + 0.25 * streams) * (0.97 + 0.06 * rng_f64(&g));

        sched_learn(&l, &c, &(struct sched_sample){ .decode_ms = ms * 40, .decode_tokens = 40,
                                                    .streams = streams });
    }
    assert_near(l.decode_ms_per_token, 12, 0.15);
    assert_near(l.decode_batch_slope, 0.25, 0.25);
}

static void without_spread_the_assumed_slope_is_taken_out(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();

    (void)state;
    for (int i = 0; i < 10; i++)
        sched_learn(&l, &c, &(struct sched_sample){ .decode_ms = 40 * 40, .decode_tokens = 40,
                                                    .streams = 3 });
    assert_near(l.decode_ms_per_token, 40 / (1 + 3 * c.decode_batch_slope), 0.01);
    assert_true(l.decode_batch_slope == 0);
}

static void absurd_times_stay_bounded(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();

    (void)state;
    for (int i = 0; i < 50; i++)
        sched_learn(&l, &c, &(struct sched_sample){ .ttft_ms = 1e18, .uncached_tokens = 100,
                                                    .decode_ms = 1e18, .decode_tokens = 10,
                                                    .streams = i % 7 });
    assert_true(l.prefill_ms_per_token <= 60000);
    assert_true(l.decode_ms_per_token > 0 && l.decode_ms_per_token <= 60001);
    assert_true(l.decode_batch_slope >= 0 && l.decode_batch_slope <= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_is_time_over_computed_tokens),
        cmocka_unit_test(what_says_nothing_is_not_learned),
        cmocka_unit_test(the_decode_line_is_found),
        cmocka_unit_test(without_spread_the_assumed_slope_is_taken_out),
        cmocka_unit_test(absurd_times_stay_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
