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
        sched_learn(&l, &c, &(struct sched_sample) { .ttft_ms = 750, .uncached_tokens = 500 });
    assert_near(l.prefill_ms_per_token, 1.5, 1e-9);
    /* a worker that became slower is believed within ten answers */
    for (int i = 0; i < 10; i++)
        sched_learn(&l, &c, &(struct sched_sample) { .ttft_ms = 1500, .uncached_tokens = 500 });
    assert_near(l.prefill_ms_per_token, 3, 0.1);
}

static void what_says_nothing_is_not_learned(void **state)
{
    static const struct sched_sample samples[] = {
        { .ttft_ms = 900, .uncached_tokens = 8 }, /* cached: all fixed cost */
        { .ttft_ms = 9000,
          .uncached_tokens = 400,
          .queued_tokens = 4000 },                /* a queue, not its speed */
        { .ttft_ms = 0, .uncached_tokens = 400 }, /* no first byte */
        { .decode_ms = 100, .decode_tokens = 1 }, /* too short */
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

        sched_learn(&l, &c,
                    &(struct sched_sample) {
                        .decode_ms = ms * 40, .decode_tokens = 40, .streams = streams });
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
        sched_learn(
            &l, &c,
            &(struct sched_sample) { .decode_ms = 40 * 40, .decode_tokens = 40, .streams = 3 });
    assert_near(l.decode_ms_per_token, 40 / (1 + 3 * c.decode_batch_slope), 0.01);
    assert_true(l.decode_batch_slope == 0);
}

static void absurd_times_stay_bounded(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();

    (void)state;
    for (int i = 0; i < 50; i++)
        sched_learn(&l, &c,
                    &(struct sched_sample) { .ttft_ms = 1e18,
                                             .uncached_tokens = 100,
                                             .decode_ms = 1e18,
                                             .decode_tokens = 10,
                                             .streams = i % 7 });
    assert_true(l.prefill_ms_per_token <= 60000);
    assert_true(l.decode_ms_per_token > 0 && l.decode_ms_per_token <= 60001);
    assert_true(l.decode_batch_slope >= 0 && l.decode_batch_slope <= 2);
}

/* Answers in one piece, alone: both rates come out of their sum. */
static void whole_answers_teach_both_rates(void **state)
{
    struct sched_learner l = { 0 };
    struct sched_conf c = conf();
    struct rng g;

    (void)state;
    rng_seed(&g, 9);
    for (int i = 0; i < 60; i++) {
        double u = 20 + (double)rng_below(&g, 600);
        uint32_t n = 5 + (uint32_t)rng_below(&g, 60);

        sched_learn(
            &l, &c,
            &(struct sched_sample) { .whole_ms = (0.8 * u + 9 * n) * (0.95 + 0.1 * rng_f64(&g)),
                                     .uncached_tokens = u,
                                     .decode_tokens = n });
    }
    assert_near(l.prefill_ms_per_token, 0.8, 0.15);
    assert_near(l.decode_ms_per_token, 9, 0.15);
}

static void endpoints_are_equal_until_they_clearly_are_not(void **state)
{
    struct sched_conf c = conf();
    struct sched_learner l = { .prefill_ms_per_token = 1.2,
                               .prefill_samples = 1000,
                               .decode_ms_per_token = 8.5,
                               .decode_samples = 1000 };
    struct sched_learner none = { 0 };
    struct sched_endpoint ep = { .use = SCHED_USED };

    (void)state;
    sched_rates(&l, &c, 1, 10, &ep); /* within the noise: the fleet's */
    assert_near(ep.prefill_ms_per_token, 1, 1e-9);
    assert_near(ep.decode_ms_per_token, 10, 1e-9);
    l.prefill_ms_per_token = 4;
    sched_rates(&l, &c, 1, 10, &ep); /* clearly slower */
    assert_near(ep.prefill_ms_per_token, 3.2, 0.02);
    l.prefill_samples = 1; /* one sample says little */
    sched_rates(&l, &c, 1, 10, &ep);
    assert_in_range((unsigned)(ep.prefill_ms_per_token * 100), 105, 125);
    sched_rates(&none, &c, 3, 7, &ep); /* unknown: like the others */
    assert_near(ep.prefill_ms_per_token, 3, 1e-9);
    assert_near(ep.decode_ms_per_token, 7, 1e-9);
    sched_rates(&none, &c, 0, 0, &ep); /* nobody knows */
    assert_near(ep.prefill_ms_per_token, c.default_prefill_ms_per_token, 1e-9);
}

static void the_median_leaves_unknowns_out(void **state)
{
    double odd[] = { 5, 0, 1, 3, 0 }, even[] = { 8, 0, 2 }, none[] = { 0, 0 };

    (void)state;
    assert_near(sched_median(odd, 5), 3, 1e-9);
    assert_near(sched_median(even, 3), 4, 1e-9);
    assert_true(sched_median(none, 2) == 0);
    assert_true(sched_median(none, 0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_is_time_over_computed_tokens),
        cmocka_unit_test(what_says_nothing_is_not_learned),
        cmocka_unit_test(the_decode_line_is_found),
        cmocka_unit_test(without_spread_the_assumed_slope_is_taken_out),
        cmocka_unit_test(absurd_times_stay_bounded),
        cmocka_unit_test(whole_answers_teach_both_rates),
        cmocka_unit_test(endpoints_are_equal_until_they_clearly_are_not),
        cmocka_unit_test(the_median_leaves_unknowns_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
