/* The sampler against a naive one that sorts everything, and against the law of large numbers. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_priv.h"
#include "harness.h"
#include <stdlib.h>

#define VOCAB 500

static int setup(void **state)
{
    struct err e;

    (void)state;
    return kern_init(NULL, &e);
}

static const float *sort_by;

static int by_logit(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (sort_by[x] != sort_by[y])
        return sort_by[x] > sort_by[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

struct setting {
    float temperature, top_p, min_p, repetition, presence, frequency;
    uint32_t top_k;
};

/* Probabilities of every token, the slow way. */
static void naive(const struct setting *c, const float *logits, const uint32_t *prompt,
                  uint32_t prompt_count, const uint32_t *out, uint32_t out_count, double *prob)
{
    static float l[VOCAB];
    static uint32_t id[VOCAB];
    double max, sum = 0, mass = 0;
    uint32_t n = VOCAB;

    for (uint32_t i = 0; i < VOCAB; i++) {
        uint32_t times = 0;
        bool seen = false;

        l[i] = logits[i];
        id[i] = i;
        prob[i] = 0;
        for (uint32_t j = 0; j < prompt_count; j++)
            seen |= prompt[j] == i;
        for (uint32_t j = 0; j < out_count; j++)
            times += out[j] == i;
        if (seen || times != 0)
            l[i] = l[i] > 0 ? l[i] / c->repetition : l[i] * c->repetition;
        l[i] -= c->frequency * (float)times + (times != 0 ? c->presence : 0);
    }
    sort_by = l;
    qsort(id, VOCAB, sizeof(*id), by_logit);
    if (c->temperature == 0) {
        prob[id[0]] = 1;
        return;
    }
    max = (double)l[id[0]];
    while (c->min_p > 0 && n > 1 &&
           exp(((double)l[id[n - 1]] - max) / (double)c->temperature) < (double)c->min_p)
        n--;
    if (c->top_k != 0)
        n = MIN(n, c->top_k);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(((double)l[id[i]] - max) / (double)c->temperature);
    for (uint32_t i = 0; i < n; i++) {
        mass += exp(((double)l[id[i]] - max) / (double)c->temperature) / sum;
        if (mass >= (double)c->top_p) {
            n = i + 1;
            break;
        }
    }
    sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(((double)l[id[i]] - max) / (double)c->temperature);
    for (uint32_t i = 0; i < n; i++)
        prob[id[i]] = exp(((double)l[id[i]] - max) / (double)c->temperature) / sum;
}

static void draws_follow_the_naive_distribution(void **state)
{
    static const struct setting cases[] = {
        { 0, 1, 0, 1, 0, 0, 0 },          { 1, 1, 0, 1, 0, 0, 0 },
        { 0.7f, 1, 0, 1, 0, 0, 5 },       { 1, 0.5f, 0, 1, 0, 0, 0 },
        { 1.5f, 0.9f, 0, 1, 0, 0, 0 },    { 1, 0.8f, 0, 1, 0, 0, 20 },
        { 1, 1, 0.1f, 1, 0, 0, 0 },       { 1, 0.9f, 0.05f, 1, 0, 0, 10 },
        { 1, 1, 0, 1.3f, 0.5f, 0.2f, 0 }, { 0.9f, 0.95f, 0, 1.2f, 0, 0, 40 },
        { 1, 0, 0, 1, 0, 0, 0 },          { 2, 1, 0, 1, 0, 0, 1 },
        { 1, 1, 0, 1, 0, 0, 400 },
    };
    static const uint32_t prompt[] = { 3, 9, 27, 81, 3 }, out[] = { 9, 100, 100, 200 };
    struct sample_scratch x;
    struct rng rng;

    (void)state;
    rng_seed(&rng, 42);
    assert_int_equal(scratch_init(&x, VOCAB), 0);
    for (size_t c = 0; c < COUNT(cases); c++) {
        static float logits[VOCAB], copy[VOCAB];
        static double prob[VOCAB];
        static uint32_t seen[VOCAB];
        struct engine_sampling p = { .temperature = cases[c].temperature,
                                     .top_k = cases[c].top_k,
                                     .top_p = cases[c].top_p,
                                     .min_p = cases[c].min_p,
                                     .repetition_penalty = cases[c].repetition,
                                     .presence_penalty = cases[c].presence,
                                     .frequency_penalty = cases[c].frequency,
                                     .has_seed = true,
                                     .seed = c };
        uint32_t draws = 20000;
        double chi = 0;
        uint32_t cells = 0;
        struct sampler s;

        for (uint32_t i = 0; i < VOCAB; i++) /* a few likely ones over a long tail */
            logits[i] = (float)(rng_f64(&rng) * 4 + (rng_below(&rng, 20) == 0 ? 4 : 0));
        logits[100] = logits[9] = 8;
        naive(&cases[c], logits, prompt, COUNT(prompt), out, COUNT(out), prob);
        assert_int_equal(sampler_init(&s, &p, prompt, COUNT(prompt)), 0);
        for (uint32_t i = 0; i < COUNT(out); i++)
            assert_true(sampler_accept(&s, out[i]));
        memset(seen, 0, sizeof(seen));
        for (uint32_t i = 0; i < draws; i++) {
            memcpy(copy, logits, sizeof(copy));
            seen[sampler_pick(&s, copy, VOCAB, COUNT(out), NULL, 0, &x, NULL)]++;
        }
        for (uint32_t i = 0; i < VOCAB; i++) {
            double want = prob[i] * draws, d = (double)seen[i] - want;

            if (prob[i] == 0)
                assert_int_equal(seen[i], 0); /* outside the set is outside, always */
            if (want >= 5) {
                chi += d * d / want;
                cells++;
            }
        }
        if (chi > cells + 6 * sqrt(2.0 * cells + 1))
            fail_msg("case %zu: chi2 %.1f over %u cells", c, chi, cells);
        sampler_fini(&s);
    }
    scratch_fini(&x);
}

static void a_seed_repeats_and_ties_go_low(void **state)
{
    struct engine_sampling p = {
        .temperature = 1, .top_p = 0.9f, .repetition_penalty = 1, .has_seed = true, .seed = 7
    };
    float logits[VOCAB], copy[VOCAB];
    struct sample_scratch x;
    struct sampler a, b;

    (void)state;
    assert_int_equal(scratch_init(&x, VOCAB), 0);
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = (float)(i % 7);
    assert_int_equal(sampler_init(&a, &p, NULL, 0), 0);
    assert_int_equal(sampler_init(&b, &p, NULL, 0), 0);
    for (int i = 0; i < 100; i++) {
        uint32_t first;

        memcpy(copy, logits, sizeof(copy));
        first = sampler_pick(&a, copy, VOCAB, 0, NULL, 0, &x, NULL);
        memcpy(copy, logits, sizeof(copy));
        assert_int_equal(sampler_pick(&b, copy, VOCAB, 0, NULL, 0, &x, NULL), first);
    }
    a.p.temperature = 0;
    memcpy(copy, logits, sizeof(copy));
    assert_int_equal(sampler_pick(&a, copy, VOCAB, 0, NULL, 0, &x, NULL), 6);
    a.p.temperature = 1;
    a.p.top_k = 3; /* 6, 13, 20: the lowest ids of the tied ones */
    for (int i = 0; i < 50; i++) {
        uint32_t got;

        memcpy(copy, logits, sizeof(copy));
        got = sampler_pick(&a, copy, VOCAB, 0, NULL, 0, &x, NULL);
        assert_true(got == 6 || got == 13 || got == 20);
    }
    sampler_fini(&a);
    sampler_fini(&b);
    scratch_fini(&x);
}

static void bias_min_tokens_and_logprobs(void **state)
{
    static const struct engine_bias bias[] = { { 5, 100 }, { 499, -100 } };
    static const uint32_t eog[] = { 5 };
    struct engine_sampling p = { .top_p = 1,
                                 .repetition_penalty = 1,
                                 .bias = bias,
                                 .bias_count = 2,
                                 .min_tokens = 2,
                                 .logprobs = 3 };
    float logits[VOCAB], copy[VOCAB];
    struct sample_scratch x;
    struct engine_logprob lp;
    struct sampler s;
    double sum = 0;

    (void)state;
    assert_int_equal(scratch_init(&x, VOCAB), 0);
    for (uint32_t i = 0; i < VOCAB; i++) {
        logits[i] = (float)((i * 37) % 101) * 0.1f;
        sum += exp((double)logits[i]);
    }
    logits[499] = 20;
    sum += exp(20) - exp((double)((499 * 37) % 101) * 0.1);
    assert_int_equal(sampler_init(&s, &p, NULL, 0), 0);
    memcpy(copy, logits, sizeof(copy)); /* the biased one is EOS, which min_tokens bars */
    assert_int_not_equal(sampler_pick(&s, copy, VOCAB, 1, eog, 1, &x, &lp), 5);
    memcpy(copy, logits, sizeof(copy));
    assert_int_equal(sampler_pick(&s, copy, VOCAB, 2, eog, 1, &x, &lp), 5);
    /* log-probabilities are those of the raw logits */
    assert_int_equal(lp.id, 5);
    assert_true(fabs((double)lp.logprob - ((double)logits[5] - log(sum))) < 1e-4);
    assert_int_equal(lp.top_count, 3);
    assert_int_equal(lp.top_id[0], 499);
    assert_true(lp.top_logprob[1] >= lp.top_logprob[2]);
    {
        uint32_t rank = 1;

        for (uint32_t i = 0; i < VOCAB; i++)
            rank += logits[i] > logits[5];
        assert_int_equal(lp.rank, rank);
    }
    sampler_fini(&s);
    scratch_fini(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_naive_distribution),
        cmocka_unit_test(a_seed_repeats_and_ties_go_low),
        cmocka_unit_test(bias_min_tokens_and_logprobs),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
