/* Flow control: bounds, budgets of time, order, fairness, and what a detector learns. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "sched/flow.h"
#include <stdio.h>
#include <string.h>

static const struct flow_fleet roomy = { .saturation = 0.5 }, full = { .saturation = 1 },
                               nobody = { .saturation = 1, .is_empty = true };

static struct sched_flow_conf conf(void)
{
    return (struct sched_flow_conf) {
        .enabled = true,
        .ttl_ms = 60000,
        .no_endpoint_ttl_ms = 3000,
        .default_band = { .requests_max = 5000, .bytes_max = 1000000000 },
        .negative_band = { .requests_max = 5000, .bytes_max = 1000000000 }
    };
}

static struct flow_item item(const char *tenant, double tokens)
{
    return (struct flow_item) { .fairness_id = str_of(tenant), .tokens = tokens, .bytes = 100 };
}

/* ---- bounds and budgets ---- */

static void queues_are_bounded_by_count_and_bytes(void **state)
{
    struct sched_flow_conf c = conf();
    struct flow_item it[4];
    struct flow *f;

    (void)state;
    c.default_band.requests_max = 3;
    f = flow_new(&c, NULL);
    for (unsigned i = 0; i < 4; i++) {
        it[i] = item("a", 1);
        assert_int_equal(flow_enqueue(f, &it[i], &full, 0),
                         i < 3 ? FLOW_DISPATCHED : FLOW_REJECTED_CAPACITY);
    }
    assert_int_equal(flow_queued(f), 3);
    assert_int_equal(flow_queued_bytes(f), 300);
    assert_int_equal(flow_enqueue(f, &it[3], &nobody, 0), FLOW_REJECTED_NO_ENDPOINTS);
    for (unsigned i = 0; i < 3; i++)
        flow_remove(f, &it[i]);
    flow_remove(f, &it[0]); /* twice is none */
    assert_int_equal(flow_queued(f), 0);
    flow_free(f);

    c = conf();
    c.bytes_max = 250;
    f = flow_new(&c, NULL);
    for (unsigned i = 0; i < 3; i++) {
        it[i] = item("a", 1);
        assert_int_equal(flow_enqueue(f, &it[i], &full, 0),
                         i < 2 ? FLOW_DISPATCHED : FLOW_REJECTED_CAPACITY);
    }
    flow_remove(f, &it[0]);
    flow_remove(f, &it[1]);
    flow_free(f);
}

static void waiting_has_an_end_by_what_is_there(void **state)
{
    static const struct {
        bool was_empty, is_empty; /* at the beginning, at the end */
        uint64_t changed_ms, look_ms;
        bool expires;
        enum flow_outcome why;
    } cases[] = {
        { false, false, 0, 59999, false, 0 },
        { false, false, 0, 60000, true, FLOW_EVICTED_TTL },
        { true, true, 0, 2999, false, 0 },
        { true, true, 0, 3000, true, FLOW_EVICTED_NO_ENDPOINTS },
        { false, true, 10000, 12999, false, 0 }, /* the clock starts anew at the change */
        { false, true, 10000, 13000, true, FLOW_EVICTED_NO_ENDPOINTS },
        { true, false, 2000, 61999, false, 0 },
        { true, false, 2000, 62000, true, FLOW_EVICTED_TTL },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct sched_flow_conf c = conf();
        struct flow *f = flow_new(&c, NULL);
        struct flow_item it = item("a", 1), *got;
        const struct flow_fleet *end = cases[i].is_empty ? &nobody : &full;
        enum flow_outcome why;

        assert_int_equal(flow_enqueue(f, &it, cases[i].was_empty ? &nobody : &full, 0),
                         FLOW_DISPATCHED);
        assert_null(flow_expire(f, end, cases[i].changed_ms, &why));
        got = flow_expire(f, end, cases[i].look_ms, &why);
        if ((got != NULL) != cases[i].expires)
            fail_msg("case %zu", i);
        if (got != NULL)
            assert_int_equal(why, cases[i].why);
        flow_remove(f, &it);
        flow_free(f);
    }
}

static void outcomes_have_upstreams_words(void **state)
{
    static const struct {
        enum flow_outcome o;
        bool is_empty;
        int status;
        const char *name, *reason;
    } cases[] = {
        { FLOW_REJECTED_CAPACITY, false, 429, "RejectedCapacity", "rejected-saturated" },
        { FLOW_REJECTED_NO_ENDPOINTS, true, 503, "RejectedNoEndpoints", "rejected-no-endpoints" },
        { FLOW_EVICTED_TTL, false, 429, "EvictedTTL", "rejected-ttl-expired" },
        { FLOW_EVICTED_TTL, true, 503, "EvictedTTL", "rejected-no-endpoints" },
        { FLOW_EVICTED_NO_ENDPOINTS, true, 503, "EvictedNoEndpoints", "rejected-no-endpoints" },
        { FLOW_EVICTED_CANCELLED, false, 503, "EvictedContextCancelled",
          "rejected-context-cancelled" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(flow_outcome_status(cases[i].o, cases[i].is_empty), cases[i].status);
        assert_string_equal(flow_outcome_name(cases[i].o), cases[i].name);
        assert_string_equal(flow_outcome_reason(cases[i].o, cases[i].is_empty), cases[i].reason);
    }
}

/* ---- order ---- */

static void a_higher_priority_goes_first_and_a_full_fleet_holds_all(void **state)
{
    struct sched_flow_conf c = conf();
    struct flow *f = flow_new(&c, NULL);
    struct flow_item low = item("a", 1), mid = item("a", 1), high = item("a", 1);

    (void)state;
    low.priority = -5;
    high.priority = 10;
    assert_int_equal(flow_enqueue(f, &low, &full, 0), FLOW_DISPATCHED);
    assert_int_equal(flow_enqueue(f, &mid, &full, 0), FLOW_DISPATCHED);
    assert_int_equal(flow_enqueue(f, &high, &full, 0), FLOW_DISPATCHED);
    assert_int_equal(flow_position(f, &high), 1);
    assert_int_equal(flow_position(f, &mid), 2);
    assert_int_equal(flow_position(f, &low), 3);
    assert_null(flow_next(f, &full, 1));
    assert_null(flow_next(f, &nobody, 1));
    assert_ptr_equal(flow_next(f, &roomy, 1), &high);
    assert_ptr_equal(flow_next(f, &roomy, 1), &mid);
    assert_ptr_equal(flow_next(f, &roomy, 1), &low);
    assert_null(flow_next(f, &roomy, 1));
    flow_free(f);
}

static void an_idle_tenant_is_owed_nothing(void **state)
{
    struct sched_flow_conf c = conf();
    struct flow *f = flow_new(&c, NULL);
    struct flow_item busy[40], late[10], *it;
    unsigned of_late = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(busy); i++) {
        busy[i] = item("busy", 100);
        assert_int_equal(flow_enqueue(f, &busy[i], &full, 0), FLOW_DISPATCHED);
    }
    for (unsigned i = 0; i < 20; i++)
        assert_non_null(flow_next(f, &roomy, 1));
    for (size_t i = 0; i < COUNT(late); i++) {
        late[i] = item("late", 100);
        assert_int_equal(flow_enqueue(f, &late[i], &full, 1), FLOW_DISPATCHED);
    }
    for (unsigned i = 0; i < 10; i++) {
        it = flow_next(f, &roomy, 2);
        of_late += str_eqz(it->fairness_id, "late");
    }
    assert_in_range(of_late, 4, 6); /* half, not all, of what comes */
    while (flow_next(f, &roomy, 3) != NULL)
        ;
    flow_free(f);
}

/* Five times more than can be served, sizes unlike; real costs differ from the expected ones. */
static void shares_in_tokens_follow_the_weights(void **state)
{
    static const char *const name[] = { "a", "b", "c" };
    static const double weight[] = { 1, 2, 4 }, size[] = { 400, 50, 900 };
    struct sched_flow_conf c = conf();
    struct flow *f = flow_new(&c, NULL);
    double served[3] = { 0 }, all = 0;
    struct rng rng;
    uint64_t now = 0;

    (void)state;
    rng_seed(&rng, 3);
    for (unsigned step = 0; step < 6000; step++) {
        struct flow_item *it;

        now += 10;
        for (unsigned t = 0; t < 3; t++) {
            struct flow_item *fresh = mem_zalloc(sizeof(*fresh));

            *fresh = item(name[t], size[t] * (0.5 + rng_f64(&rng)));
            fresh->weight = weight[t];
            if (flow_enqueue(f, fresh, &full, now) != FLOW_DISPATCHED)
                mem_free(fresh);
        }
        it = flow_next(f, &roomy, now);
        assert_non_null(it);
        if (step >= 300) {
            unsigned t = (unsigned)(it->fairness_id.p[0] - 'a');
            double real = it->tokens * (0.2 + 1.2 * rng_f64(&rng));

            served[t] += real;
            all += real;
            flow_settle(f, it->fairness_id, 0, it->tokens, real / 2, real / 2, now);
        }
        mem_free(it);
    }
    for (unsigned t = 0; t < 3; t++) {
        double share = served[t] / all, fair = weight[t] / 7;

        print_message("%s: %.3f of the tokens, %.3f by weight\n", name[t], share, fair);
        assert_true(share > 0.9 * fair && share < 1.1 * fair);
    }
    for (struct flow_item *it; (it = flow_next(f, &roomy, now)) != NULL;)
        mem_free(it);
    flow_free(f);
}

static void sums_hold_whatever_happens(void **state)
{
    enum { ITEMS = 400 };
    struct sched_flow_conf c = conf();
    struct flow *f = flow_new(&c, NULL);
    struct flow_item *it = mem_zalloc(ITEMS * sizeof(*it));
    char tenant[16][8];
    struct rng rng;
    uint64_t now = 0;

    (void)state;
    rng_seed(&rng, 11);
    for (unsigned i = 0; i < 16; i++)
        snprintf(tenant[i], sizeof(tenant[i]), "t%u", i);
    for (unsigned step = 0; step < 40000; step++) {
        struct flow_item *x = &it[rng_below(&rng, ITEMS)];
        enum flow_outcome why;
        struct flow_band_view band[SCHED_BANDS_MAX + 1];
        uint32_t queued = 0, n;
        size_t bytes = 0;

        now += rng_below(&rng, 50);
        if (x->queue != NULL) {
            flow_remove(f, x);
        } else {
            *x = item(tenant[rng_below(&rng, 16)], 1 + (double)rng_below(&rng, 1000));
            x->priority = (int32_t)rng_below(&rng, 4) - 1;
            x->bytes = rng_below(&rng, 5000);
            x->weight = 1 + (double)rng_below(&rng, 4);
            assert_int_equal(flow_enqueue(f, x, &full, now), FLOW_DISPATCHED);
        }
        if (rng_below(&rng, 3) == 0)
            (void)flow_next(f, &roomy, now);
        if (rng_below(&rng, 7) == 0)
            (void)flow_expire(f, &full, now, &why);
        if (step % 100 != 0)
            continue;
        flow_tick(f, now);
        for (unsigned i = 0; i < ITEMS; i++)
            if (it[i].queue != NULL) {
                queued++;
                bytes += it[i].bytes;
            }
        assert_int_equal(flow_queued(f), queued);
        assert_int_equal(flow_queued_bytes(f), bytes);
        n = flow_bands(f, band, COUNT(band));
        for (uint32_t i = 0; i < n; i++)
            queued -= band[i].requests;
        assert_int_equal(queued, 0);
    }
    for (unsigned i = 0; i < ITEMS; i++)
        flow_remove(f, &it[i]);
    flow_free(f);
    mem_free(it);
}

static void advice_comes_from_the_measured_rate(void **state)
{
    struct sched_flow_conf c = conf();
    struct flow *f = flow_new(&c, NULL);
    struct flow_item it[300];

    (void)state;
    assert_int_equal(flow_retry_after_s(f, 0, 0), 1);
    for (size_t i = 0; i < COUNT(it); i++) {
        it[i] = item("a", 1);
        assert_int_equal(flow_enqueue(f, &it[i], &full, 0), FLOW_DISPATCHED);
    }
    assert_int_equal(flow_retry_after_s(f, 0, 0), 30); /* nothing goes */
    for (unsigned i = 0; i < 200; i++)                 /* 20 a second */
        assert_non_null(flow_next(f, &roomy, 10000 + i * 50));
    assert_int_equal(flow_retry_after_s(f, 0, 19999), 5);  /* 100 wait */
    assert_int_equal(flow_retry_after_s(f, 20, 19999), 6); /* and a fifth of it at most */
    for (size_t i = 0; i < COUNT(it); i++)
        flow_remove(f, &it[i]);
    flow_free(f);
}

static void a_decision_is_quick_with_many_flows(void **state)
{
    enum { FLOWS = 1000, ITEMS = 5000 };
    struct sched_flow_conf c = conf();
    struct flow *f;
    struct flow_item *it = mem_zalloc(ITEMS * sizeof(*it));
    char(*tenant)[8] = mem_alloc(FLOWS * 8);
    uint64_t t0;

    (void)state;
    c.default_band.requests_max = ITEMS;
    f = flow_new(&c, NULL);
    for (unsigned i = 0; i < FLOWS; i++)
        snprintf(tenant[i], 8, "t%u", i);
    t0 = clock_ns();
    for (unsigned i = 0; i < ITEMS; i++) {
        it[i] = item(tenant[i % FLOWS], 100);
        assert_int_equal(flow_enqueue(f, &it[i], &full, 0), FLOW_DISPATCHED);
    }
    print_message("%.0f ns an enqueue\n", (double)(clock_ns() - t0) / ITEMS);
    t0 = clock_ns();
    for (unsigned i = 0; i < ITEMS; i++)
        assert_non_null(flow_next(f, &roomy, 1));
    print_message("%.0f ns a dispatch\n", (double)(clock_ns() - t0) / ITEMS);
    flow_free(f);
    mem_free(it);
    mem_free(tenant);
}

/* ---- what is learned of a worker ---- */

/* A worker that runs `slots` at once, a step of 10 ms each, `life` steps a request; scraped every
 * 100 ms.  Returns the share of its steps that were full; *queue: average of what waited there. */
static double simulate(struct flow_limit *l, uint32_t slots, uint32_t life, uint32_t steps,
                       double *queue)
{
    uint32_t left[4096] = { 0 }, inflight = 0, running = 0;
    uint64_t busy = 0, waited = 0;

    for (uint32_t s = 0; s < steps; s++) {
        while (inflight < 4096 && inflight < (uint32_t)(l->limit > 0 ? l->limit : 64))
            left[inflight++] = life;
        running = MIN(inflight, slots);
        for (uint32_t i = 0; i < running; i++)
            left[i]--;
        busy += running;
        waited += inflight - running;
        for (uint32_t i = running; i-- > 0;)
            if (left[i] == 0) {
                inflight--;
                memmove(&left[i], &left[i + 1], (inflight - i) * sizeof(*left));
            }
        if (s % 10 == 9)
            flow_limit_learn(l, inflight, MIN(inflight, slots), inflight - MIN(inflight, slots), 0,
                             s * 10);
    }
    *queue = (double)waited / steps;
    return (double)busy / ((double)slots * steps);
}

static void a_worker_is_kept_busy_without_a_queue_of_its_own(void **state)
{
    static const uint32_t slots[] = { 1, 4, 16, 64, 256 };

    (void)state;
    for (size_t i = 0; i < COUNT(slots); i++) {
        struct flow_limit l = { 0 };
        double queue, busy;

        (void)simulate(&l, slots[i], 40, 3000, &queue); /* 30 s to get rid of the first guess */
        busy = simulate(&l, slots[i], 40, 4000, &queue);

        print_message("%u slots: %.3f busy, %.1f waiting there, limit %.1f\n", slots[i], busy,
                      queue, l.limit);
        assert_true(busy >= 0.95);
        assert_true(queue <= 2 + 0.35 * slots[i]);
    }
}

static void a_worker_that_changes_is_found_out(void **state)
{
    struct flow_limit l = { 0 };
    double queue, busy;

    (void)state;
    (void)simulate(&l, 64, 40, 2000, &queue);
    (void)simulate(&l, 16, 40, 1000, &queue); /* slower: 10 s to learn */
    busy = simulate(&l, 16, 40, 2000, &queue);
    assert_true(busy >= 0.95 && queue <= 8);
    (void)simulate(&l, 64, 40, 1000, &queue); /* faster again */
    busy = simulate(&l, 64, 40, 2000, &queue);
    print_message("after a change: %.3f busy\n", busy);
    assert_true(busy >= 0.95);
}

static void a_fleet_is_full_when_every_worker_is(void **state)
{
    struct sched_flow_conf c = conf();
    struct sched_endpoint ep[3] = {
        { .has_metrics = true, .inflight = 10, .inflight_limit = 10 },
        { .has_metrics = true, .inflight = 5, .inflight_limit = 10 },
        { .has_metrics = true, .role = SCHED_PREFILL, .inflight = 99, .inflight_limit = 10 },
    };
    double parts[2];

    (void)state;
    assert_true(flow_saturation(NULL, &c, ep, 3, 0, parts) == 0.5);
    assert_true(parts[0] == 9.9 && parts[1] == 0.5);
    ep[1].running = 12; /* others' requests count */
    assert_true(flow_saturation(NULL, &c, ep, 3, 0, parts) == 1.0);
    assert_true(flow_saturation(NULL, &c, ep, 0, 0, parts) == 1.0);
    ep[0].has_metrics = ep[1].has_metrics = false; /* silent: a generous guess */
    assert_true(flow_saturation(NULL, &c, ep, 2, 0, parts) < 0.05);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queues_are_bounded_by_count_and_bytes),
        cmocka_unit_test(waiting_has_an_end_by_what_is_there),
        cmocka_unit_test(outcomes_have_upstreams_words),
        cmocka_unit_test(a_higher_priority_goes_first_and_a_full_fleet_holds_all),
        cmocka_unit_test(an_idle_tenant_is_owed_nothing),
        cmocka_unit_test(shares_in_tokens_follow_the_weights),
        cmocka_unit_test(sums_hold_whatever_happens),
        cmocka_unit_test(advice_comes_from_the_measured_rate),
        cmocka_unit_test(a_decision_is_quick_with_many_flows),
        cmocka_unit_test(a_worker_is_kept_busy_without_a_queue_of_its_own),
        cmocka_unit_test(a_worker_that_changes_is_found_out),
        cmocka_unit_test(a_fleet_is_full_when_every_worker_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
