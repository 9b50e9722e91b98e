/* The decision, as facts about who is chosen. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/rng.h"
#include "sched/sched.h"
#include <math.h>
#include <string.h>

#define EPS 8

static struct sched_conf conf(void)
{
    struct sched_conf c;

    sched_conf_default(&c);
    return c;
}

/* ---- one decision ---- */

struct one {
    const char *fact;
    uint32_t count, tokens, max_tokens;
    uint32_t matched[EPS];
    struct sched_endpoint ep[EPS];
    uint32_t decode, prefill;
    const char *why;
};

#define N SCHED_NONE
#define IDLE                                                                                       \
    {                                                                                              \
        .use = SCHED_USED                                                                          \
    }

static const struct one ones[] = {
    { "nobody is there", 0, 100, 0, { 0 }, { IDLE }, N, N, "no_endpoint" },
    { "all are away",
      2,
      100,
      0,
      { 0 },
      { { .use = SCHED_FROZEN }, { .use = SCHED_LOADING } },
      N,
      N,
      "no_endpoint" },
    { "the only one is used, whatever it costs",
      1,
      4000,
      0,
      { 0 },
      { { .inflight = 900, .inflight_prefill_tokens = 1e6 } },
      0,
      N,
      "no_prefill_endpoint" },
    { "a cached prefix wins", 3, 1000, 0, { 0, 62, 0 }, { IDLE }, 1, N, "mostly_cached" },
    { "the longer cached prefix wins",
      3,
      1000,
      0,
      { 10, 20, 40 },
      { IDLE },
      2,
      N,
      "no_prefill_endpoint" },
    { "the loaded one loses",
      2,
      500,
      0,
      { 0, 0 },
      { { .inflight = 4, .inflight_prefill_tokens = 2000 }, IDLE },
      1,
      N,
      "no_prefill_endpoint" },
    { "streams count as load",
      2,
      500,
      0,
      { 0, 0 },
      { { .inflight = 6, .inflight_decode = 6 }, IDLE },
      1,
      N,
      "no_prefill_endpoint" },
    { "load that is not ours counts",
      2,
      500,
      0,
      { 0, 0 },
      { { .running = 8, .waiting = 4 }, IDLE },
      1,
      N,
      "no_prefill_endpoint" },
    { "a scrape of our own requests counts once",
      2,
      500,
      0,
      { 0, 0 },
      { { .inflight = 3, .running = 3 }, { .inflight = 4, .running = 1 } },
      0,
      N,
      "no_prefill_endpoint" },
    { "a small prefix does not outweigh a queue",
      2,
      1000,
      0,
      { 2, 0 },
      { { .inflight = 3, .inflight_prefill_tokens = 3000 }, IDLE },
      1,
      N,
      "no_prefill_endpoint" },
    { "a long prefix outweighs a stream",
      2,
      4000,
      64,
      { 240, 0 },
      { { .inflight = 1, .inflight_decode = 1 }, IDLE },
      0,
      N,
      "mostly_cached" },
    { "slow prefill loses",
      2,
      500,
      0,
      { 0, 0 },
      { { .prefill_ms_per_token = 9 }, { .prefill_ms_per_token = 2 } },
      1,
      N,
      "no_prefill_endpoint" },
    { "slow decoding loses",
      2,
      50,
      200,
      { 0, 0 },
      { { .decode_ms_per_token = 10 }, { .decode_ms_per_token = 30 } },
      0,
      N,
      "short" },
    { "no free slot loses",
      2,
      50,
      200,
      { 0, 0 },
      { { .slots = 2, .inflight = 2 }, { .slots = 8, .inflight = 3 } },
      1,
      N,
      "short" },
    { "a full KV cache loses",
      2,
      200,
      0,
      { 0, 0 },
      { { .kv_usage = 0.97, .inflight = 1 }, { .kv_usage = 0.2, .inflight = 1 } },
      1,
      N,
      "no_prefill_endpoint" },
    { "what is not used is not chosen, though cheaper",
      2,
      500,
      0,
      { 31, 0 },
      { { .use = SCHED_STALE }, { .inflight = 9 } },
      1,
      N,
      "no_prefill_endpoint" },
    { "a decode worker takes a short prompt",
      2,
      60,
      0,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 }, { .role = SCHED_DECODE, .kvx_capable = 1 } },
      1,
      N,
      "short" },
    { "a long prompt is split by role",
      2,
      800,
      0,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 }, { .role = SCHED_DECODE, .kvx_capable = 1 } },
      1,
      0,
      NULL },
    { "a mostly cached prompt is not split",
      2,
      800,
      0,
      { 0, 45 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 }, { .role = SCHED_DECODE, .kvx_capable = 1 } },
      1,
      N,
      "mostly_cached" },
    { "an uncached rest that is short is not split",
      2,
      300,
      0,
      { 0, 12 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 }, { .role = SCHED_DECODE, .kvx_capable = 1 } },
      1,
      N,
      "short" },
    { "who cannot hand over takes no part",
      2,
      800,
      0,
      { 0, 0 },
      { { .role = SCHED_PREFILL }, { .role = SCHED_DECODE } },
      1,
      N,
      "no_prefill_endpoint" },
    { "a full prefill side is left alone",
      2,
      800,
      0,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1, .inflight = 6, .inflight_prefill_tokens = 9000 },
        { .role = SCHED_DECODE, .kvx_capable = 1 } },
      1,
      N,
      "aggregated_is_cheaper" },
    { "with the decode side away, prefill workers answer",
      2,
      800,
      0,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_DECODE, .kvx_capable = 1, .use = SCHED_UNREACHABLE } },
      0,
      N,
      "no_prefill_endpoint" },
    { "a full decode side overrules the role",
      2,
      60,
      400,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_DECODE, .kvx_capable = 1, .inflight = 30, .slots = 30 } },
      0,
      N,
      "short" },
    { "a loaded one does not",
      2,
      60,
      400,
      { 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_DECODE, .kvx_capable = 1, .inflight = 30, .slots = 64 } },
      1,
      N,
      "short" },
    { "the prefix at a prefill worker draws the split there",
      3,
      1600,
      0,
      { 0, 60, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_DECODE, .kvx_capable = 1 } },
      2,
      1,
      NULL },
    { "one that does both does not split with itself",
      1,
      4000,
      0,
      { 0 },
      { { .kvx_capable = 1, .inflight = 4, .inflight_decode = 4 } },
      0,
      N,
      "no_prefill_endpoint" },
    { "the least loaded decode worker of a pair",
      3,
      900,
      0,
      { 0, 0, 0 },
      { { .role = SCHED_PREFILL, .kvx_capable = 1 },
        { .role = SCHED_DECODE, .kvx_capable = 1, .inflight = 5, .inflight_decode = 5 },
        { .role = SCHED_DECODE, .kvx_capable = 1, .inflight = 1, .inflight_decode = 1 } },
      2,
      0,
      NULL },
};

static void the_table_of_facts_holds(void **state)
{
    struct sched_conf c = conf();

    (void)state;
    for (size_t i = 0; i < COUNT(ones); i++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            const struct one *o = &ones[i];
            struct sched_request r = { .prompt_tokens = o->tokens,
                                       .block_tokens = 16,
                                       .max_tokens = o->max_tokens,
                                       .matched = o->matched,
                                       .random = seed * UINT64_C(0x9e3779b97f4a7c15) };
            struct sched_decision d;

            sched_decide(&c, o->ep, o->count, &r, &d, NULL);
            if (d.decode != o->decode || d.prefill != o->prefill ||
                (o->why == NULL) != (d.why_not_split == NULL) ||
                (o->why != NULL && strcmp(o->why, d.why_not_split) != 0))
                fail_msg("\"%s\": decode %u prefill %u why %s", o->fact, d.decode, d.prefill,
                         d.why_not_split != NULL ? d.why_not_split : "split");
        }
}

static void excluded_endpoints_are_not_chosen(void **state)
{
    struct sched_endpoint ep[3] = { IDLE, { .inflight = 3 }, { .inflight = 9 } };
    bool excluded[3] = { true, true, false };
    struct sched_request r = { .prompt_tokens = 500, .block_tokens = 16, .excluded = excluded };
    struct sched_conf c = conf();
    struct sched_decision d;

    (void)state;
    sched_decide(&c, ep, 3, &r, &d, NULL);
    assert_int_equal(d.decode, 2);
    excluded[2] = true;
    sched_decide(&c, ep, 3, &r, &d, NULL);
    assert_int_equal(d.decode, SCHED_NONE);
}

static void a_split_can_be_ruled_out(void **state)
{
    struct sched_endpoint ep[2] = { { .role = SCHED_PREFILL, .kvx_capable = 1 },
                                    { .role = SCHED_DECODE, .kvx_capable = 1 } };
    struct sched_request r = { .prompt_tokens = 2000, .block_tokens = 16, .no_split = true };
    struct sched_conf c = conf();
    struct sched_decision d;

    (void)state;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.prefill, SCHED_NONE);
    assert_string_equal(d.why_not_split, "off");
}

/* A random fleet and request; every value that a snapshot can hold. */
static void random_case(struct rng *g, struct sched_endpoint *ep, uint32_t *matched, uint32_t count,
                        struct sched_request *r)
{
    for (uint32_t i = 0; i < count; i++) {
        ep[i] = (struct sched_endpoint) {
            .role = (enum sched_role)rng_below(g, 3),
            .use = rng_below(g, 4) == 0 ? SCHED_FROZEN : SCHED_USED,
            .waiting = (double)rng_below(g, 5),
            .running = (double)rng_below(g, 9),
            .kv_usage = rng_f64(g),
            .inflight = (uint32_t)rng_below(g, 12),
            .inflight_prefill_tokens = (double)rng_below(g, 4000),
            .prefill_ms_per_token = rng_below(g, 2) ? rng_f64(g) * 5 : 0,
            .decode_ms_per_token = rng_below(g, 2) ? rng_f64(g) * 40 : 0,
            .decode_batch_slope = rng_below(g, 2) ? rng_f64(g) : 0,
            .slots = (uint32_t)rng_below(g, 16),
            .kvx_capable = (uint32_t)rng_below(g, 2),
        };
        matched[i] = (uint32_t)rng_below(g, 200);
    }
    *r = (struct sched_request) { .prompt_tokens = (uint32_t)rng_below(g, 3000),
                                  .block_tokens = 16,
                                  .max_tokens = (uint32_t)rng_below(g, 400),
                                  .matched = matched,
                                  .random = rng_u64(g),
                                  .sharers = (uint32_t)rng_below(g, 4) };
}

static void decisions_repeat_and_keep_their_rules(void **state)
{
    struct sched_endpoint ep[EPS];
    struct sched_cost costs[EPS];
    struct sched_decision d, again;
    struct sched_conf c = conf();
    struct sched_request r;
    uint32_t matched[EPS];
    struct rng g;

    (void)state;
    rng_seed(&g, 7);
    for (unsigned n = 0; n < 20000; n++) {
        uint32_t count = 1 + (uint32_t)rng_below(&g, EPS);
        bool any = false;

        random_case(&g, ep, matched, count, &r);
        sched_decide(&c, ep, count, &r, &d, costs);
        sched_decide(&c, ep, count, &r, &again, NULL);
        assert_memory_equal(&d, &again, sizeof(d));
        for (uint32_t i = 0; i < count; i++)
            any |= ep[i].use == SCHED_USED;
        assert_int_equal(any, d.decode != SCHED_NONE);
        if (!any)
            continue;
        assert_int_equal(ep[d.decode].use, SCHED_USED);
        assert_true(isfinite(d.cost.total_ms) && d.cost.total_ms >= 0);
        assert_true(d.cost.cached_tokens < MAX(r.prompt_tokens, 1u));
        assert_int_equal(d.prefill == SCHED_NONE, d.why_not_split != NULL);
        for (uint32_t i = 0; i < count && d.prefill == SCHED_NONE; i++)
            if (ep[i].use == SCHED_USED &&
                ep[i].role != SCHED_PREFILL) /* nobody beyond a tie is cheaper */
                assert_true(d.cost.total_ms <= costs[i].total_ms * 1.04 + 1);
        if (d.prefill != SCHED_NONE) {
            assert_int_equal(ep[d.prefill].use, SCHED_USED);
            assert_int_not_equal(d.prefill, d.decode);
            assert_int_not_equal(ep[d.prefill].role, SCHED_DECODE);
            assert_true(ep[d.prefill].kvx_capable && ep[d.decode].kvx_capable);
            assert_true(fabs(d.cost.queue_ms + d.cost.prefill_ms + d.cost.transfer_ms +
                             d.cost.interference_ms - d.cost.total_ms) < 1e-6);
        }
    }
}

static void equals_win_equally_often(void **state)
{
    struct sched_endpoint ep[4] = { IDLE };
    struct sched_conf c = conf();
    uint32_t won[4] = { 0 };
    struct rng g;

    (void)state;
    rng_seed(&g, 3);
    for (unsigned n = 0; n < 4000; n++) {
        struct sched_request r = { .prompt_tokens = 100,
                                   .block_tokens = 16,
                                   .random = rng_u64(&g) };
        struct sched_decision d;

        sched_decide(&c, ep, 4, &r, &d, NULL);
        won[d.decode]++;
    }
    for (unsigned i = 0; i < 4; i++)
        assert_in_range(won[i], 850, 1150);
}

/* ---- many requests, as the gateway's books would have them ---- */

struct sim {
    struct sched_endpoint ep[EPS];
    uint32_t count, held[EPS], got[EPS];
    struct rng g;
};

/* held: blocks of the shared prefix. */
static uint32_t send(struct sim *s, uint32_t prompt, uint32_t max_tokens, uint32_t sharers)
{
    struct sched_conf c = conf();
    struct sched_request r = { .prompt_tokens = prompt,
                               .block_tokens = 16,
                               .max_tokens = max_tokens,
                               .matched = s->held,
                               .random = rng_u64(&s->g),
                               .sharers = sharers };
    struct sched_decision d;

    sched_decide(&c, s->ep, s->count, &r, &d, NULL);
    assert_int_not_equal(d.decode, SCHED_NONE);
    s->ep[d.decode].inflight++;
    s->ep[d.decode].inflight_prefill_tokens += d.book_tokens;
    s->got[d.decode]++;
    return d.decode;
}

static double max_over_mean(const struct sim *s, uint32_t total)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < s->count; i++)
        most = MAX(most, s->got[i]);
    return (double)most * s->count / total;
}

static void a_hot_prefix_spreads(void **state)
{
    static const struct {
        uint32_t prefix, suffix, max_tokens;
        double prefill, decode;
    } cases[] = {
        { 1000, 24, 8, 0, 0 },    { 1000, 24, 16, 0, 0 },  { 1000, 24, 64, 0, 0 },
        { 1000, 24, 0, 0, 0 },    { 1000, 24, 1, 0, 0 },   { 1000, 100, 16, 0, 0 },
        { 1000, 24, 16, 0.5, 5 }, { 1000, 24, 16, 5, 10 }, { 4000, 50, 32, 2, 20 },
        { 300, 20, 16, 2, 20 },   { 1000, 24, 16, 1, 3 },  { 1000, 24, 400, 2, 8 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        for (unsigned holders = 0; holders <= 1; holders++)
            for (uint64_t seed = 0; seed < 5; seed++) {
                struct sim s = { .count = 3 };
                uint32_t blocks = cases[i].prefix / 16;

                rng_seed(&s.g, seed);
                s.held[0] = holders * blocks;
                for (uint32_t k = 0; k < 3; k++) {
                    s.ep[k].prefill_ms_per_token = cases[i].prefill;
                    s.ep[k].decode_ms_per_token = cases[i].decode;
                }
                for (uint32_t n = 0; n < 64; n++)
                    s.held[send(&s, cases[i].prefix + cases[i].suffix, cases[i].max_tokens, n)] =
                        blocks;
                if (max_over_mean(&s, 64) > 1.5)
                    fail_msg("case %zu holders %u seed %d: %u %u %u", i, holders, (int)seed,
                             s.got[0], s.got[1], s.got[2]);
            }
}

static void a_slow_endpoint_gets_less(void **state)
{
    struct sim s = { .count = 3 };

    (void)state;
    rng_seed(&s.g, 1);
    for (uint32_t k = 0; k < 3; k++) {
        s.ep[k].prefill_ms_per_token = k == 2 ? 6 : 2;
        s.ep[k].decode_ms_per_token = k == 2 ? 60 : 20;
    }
    for (uint32_t n = 0; n < 60; n++)
        (void)send(&s, 200, 50, 0);
    assert_true(s.got[2] * 2 < s.got[0]);
    assert_true(s.got[2] * 2 < s.got[1]);
    assert_true(s.got[2] > 0);
}

/* Conversations of several turns with up to 9 requests in flight at a time: each later turn finds
 * its history where the last turn ran. */
static void later_turns_stay_with_their_prefix(void **state)
{
    enum { SESSIONS = 24, TURNS = 6, LIVE = 9 };
    struct sim s = { .count = 3 };
    uint32_t home[SESSIONS], stayed = 0, later = 0;
    struct {
        uint32_t ep, tokens;
    } live[LIVE];
    uint32_t first = 0, live_count = 0;

    (void)state;
    rng_seed(&s.g, 11);
    for (uint32_t t = 0; t < TURNS; t++)
        for (uint32_t k = 0; k < SESSIONS; k++) {
            uint32_t history = t * 300, prompt = history + 120, at;

            if (live_count == LIVE) { /* the oldest ends */
                s.ep[live[first].ep].inflight--;
                s.ep[live[first].ep].inflight_prefill_tokens -= live[first].tokens;
                first = (first + 1) % LIVE;
                live_count--;
            }
            memset(s.held, 0, sizeof(s.held));
            if (t > 0)
                s.held[home[k]] = history / 16;
            at = send(&s, prompt, 32, 0);
            if (t > 0) {
                later++;
                stayed += at == home[k];
            }
            live[(first + live_count++) % LIVE].ep = at;
            live[(first + live_count - 1) % LIVE].tokens =
                prompt - (t > 0 && at == home[k] ? history / 16 * 16 : 0);
            home[k] = at;
        }
    assert_true(stayed >= later * 9 / 10);
    assert_true(max_over_mean(&s, SESSIONS * TURNS) <= 1.5);
}

/* A conversation that nobody shares does not move away from its history for a few streams. */
static void only_a_shared_prefix_is_copied(void **state)
{
    struct sched_endpoint ep[2] = { { .inflight = 3, .inflight_decode = 3 }, IDLE };
    uint32_t matched[2] = { 120, 0 };
    struct sched_request r = {
        .prompt_tokens = 2000, .block_tokens = 16, .max_tokens = 64, .matched = matched
    };
    struct sched_conf c = conf();
    struct sched_decision d;

    (void)state;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 0);
    r.sharers = 3;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 1);
}

/* A copy that pushes others out of a full cache is made only for a longer queue. */
static void a_full_cache_keeps_prefixes_at_one_place(void **state)
{
    struct sched_endpoint ep[2] = { { .inflight = 3, .inflight_prefill_tokens = 2500 }, IDLE };
    uint32_t matched[2] = { 120, 0 };
    struct sched_request r = {
        .prompt_tokens = 2000, .block_tokens = 16, .max_tokens = 64, .matched = matched
    };
    struct sched_conf c = conf();
    struct sched_decision d;

    (void)state;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 1);
    ep[1].cache_blocks = 1600;
    ep[1].cache_block_tokens = 16;
    ep[1].cache_used_tokens = 1600 * 16 - 2000; /* room for all of it */
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 1);
    ep[1].cache_used_tokens = 1600 * 16;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 0);
    /* more ask for it than one endpoint's part of the load: the copy will be used */
    r.sharers = 30;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 1);
    r.sharers = 0;
    ep[0].inflight_prefill_tokens = 20000;
    sched_decide(&c, ep, 2, &r, &d, NULL);
    assert_int_equal(d.decode, 1);
}

static void names_are_words(void **state)
{
    enum sched_role role;

    (void)state;
    for (int u = SCHED_USED; u <= SCHED_CIRCUIT_OPEN; u++)
        assert_string_not_equal(sched_use_name((enum sched_use)u), "unknown");
    for (int k = SCHED_BOTH; k <= SCHED_DECODE; k++) {
        assert_true(sched_role_parse(str_of(sched_role_name((enum sched_role)k)), &role));
        assert_int_equal(role, k);
    }
    assert_false(sched_role_parse(STR("Both"), &role));
    assert_string_equal(sched_use_name((enum sched_use)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_facts_holds),
        cmocka_unit_test(excluded_endpoints_are_not_chosen),
        cmocka_unit_test(a_split_can_be_ruled_out),
        cmocka_unit_test(decisions_repeat_and_keep_their_rules),
        cmocka_unit_test(equals_win_equally_often),
        cmocka_unit_test(a_hot_prefix_spreads),
        cmocka_unit_test(a_slow_endpoint_gets_less),
        cmocka_unit_test(later_turns_stay_with_their_prefix),
        cmocka_unit_test(only_a_shared_prefix_is_copied),
        cmocka_unit_test(a_full_cache_keeps_prefixes_at_one_place),
        cmocka_unit_test(names_are_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
