/* Row operations: every level against f64, on odd lengths, at the end of guarded memory. */
// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "kern_test.h"

#define SEED 31

static struct kern_pool *pool;

static const uint32_t lengths[] = { 1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 255, 576, 640, 1537 };

#define EACH_LEVEL(l)                                                                              \
    for (size_t l = 0; l < COUNT(levels); l++)                                                     \
        if (use_level(levels[l]))
#define EACH_LENGTH(n)                                                                             \
    for (size_t n##_ = 0, n; n##_ < COUNT(lengths) && (n = lengths[n##_], true); n##_++)

static bool close_to(double got, double want, double rel)
{
    return fabs(got - want) <= rel * (1e-6 + fabs(want));
}

static void rmsnorm_equals_its_formula(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED);
    EACH_LEVEL(l) EACH_LENGTH(d)
    {
        uint32_t n = 3;
        struct guarded gx = guarded_new(n * d * 4, 4), gw = guarded_new(d * 4, 4);
        struct guarded gy = guarded_new(n * d * 4, 4);
        float *x = gx.p, *w = gw.p, *y = gy.p;

        random_floats(x, n * d, &r);
        random_floats(w, d, &r);
        kern_rmsnorm(y, x, w, n, (uint32_t)d, 1e-5f, pool);
        for (uint32_t i = 0; i < n; i++) {
            double s = 0;

            for (size_t k = 0; k < d; k++)
                s += (double)x[i * d + k] * x[i * d + k];
            s = 1 / sqrt(s / (double)d + 1e-5);
            for (size_t k = 0; k < d; k++)
                assert_true(close_to(y[i * d + k], x[i * d + k] * s * w[k], 2e-6));
        }
        kern_rmsnorm(x, x, w, n, (uint32_t)d, 1e-5f, pool); /* in place */
        assert_memory_equal(x, y, n * d * 4);
        guarded_free(&gx);
        guarded_free(&gw);
        guarded_free(&gy);
    }
}

static void gates_equal_their_formulas(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 1);
    EACH_LEVEL(l) EACH_LENGTH(d) for (int act = 0; act < 2; act++)
    {
        struct guarded gg = guarded_new(d * 4, 4), gu = guarded_new(d * 4, 4);
        float *g = gg.p, *u = gu.p;

        random_floats(g, d, &r);
        random_floats(u, d, &r);
        for (size_t k = 0; k < d; k++)
            g[k] *= k % 5 == 0 ? 200 : k % 5 == 1 ? 1 : 8;
        for (size_t k = 0; k < d; k++) {
            double x = g[k], want;
            float out[1];

            want = act == 0 ? x / (1 + exp(-x))
                            : 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
            kern_glu(out, g + k, u + k, 1, 1, act, pool);
            assert_true(fabs(out[0] - want * u[k]) <= 1e-6 * fabs(want * u[k]) + 2e-6 * fabs(u[k]));
        }
        {
            float *out = mem_alloc(d * 4);

            kern_glu(out, g, u, 1, (uint32_t)d, act, pool);
            for (size_t k = 0; k < d; k++) { /* the same alone as in a vector */
                float one;

                kern_glu(&one, g + k, u + k, 1, 1, act, pool);
                assert_memory_equal(&one, &out[k], 4);
            }
            mem_free(out);
        }
        guarded_free(&gg);
        guarded_free(&gu);
    }
}

static void rope_rotates_the_pairs_of_its_kind(void **state)
{
    static const struct {
        uint32_t head_dim, rope_dim;
    } cases[] = { { 64, 64 }, { 256, 256 }, { 80, 32 }, { 20, 10 }, { 72, 72 }, { 4, 2 } };
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 2);
    EACH_LEVEL(l) for (size_t c = 0; c < COUNT(cases); c++) for (int neox = 0; neox < 2; neox++)
    {
        uint32_t n = 3, heads = 2, d = cases[c].head_dim, rd = cases[c].rope_dim;
        size_t ld = heads * d + 5;
        float *x = mem_alloc(n * ld * 4), *y = mem_alloc(n * ld * 4), *cs = mem_alloc(n * rd * 4);

        random_floats(x, n * ld, &r);
        random_floats(cs, n * rd, &r);
        memcpy(y, x, n * ld * 4);
        kern_rope(y, cs, n, heads, d, rd, neox, ld);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t h = 0; h < heads; h++)
                for (uint32_t k = 0; k < rd / 2; k++) {
                    size_t at = i * ld + h * d, p = neox ? k : 2 * k;
                    size_t q = neox ? k + rd / 2 : 2 * k + 1;
                    double co = cs[i * rd + 2 * k], si = cs[i * rd + 2 * k + 1];

                    assert_true(fabs(y[at + p] - (x[at + p] * co - x[at + q] * si)) < 1e-6);
                    assert_true(fabs(y[at + q] - (x[at + p] * si + x[at + q] * co)) < 1e-6);
                    x[at + p] = y[at + p];
                    x[at + q] = y[at + q];
                }
        assert_memory_equal(x, y, n * ld * 4); /* nothing else was touched */
        mem_free(x);
        mem_free(y);
        mem_free(cs);
    }
}

/* The conversion as IEEE 754 defines it, by comparing with both neighbours. */
static void halves_round_to_nearest_even(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 3);
    EACH_LEVEL(l)
    {
        uint16_t h[65536], back[65536];
        float f[65536], x[64];

        for (uint32_t i = 0; i < 65536; i++)
            h[i] = (uint16_t)i;
        kern_f16_to_f32(f, h, 65536);
        assert_true(f[0x3c00] == 1 && f[1] == 0x1p-24f && f[0x7bff] == 65504 && f[0xc000] == -2);
        assert_true(isinf(f[0x7c00]) && isnan(f[0x7e00]) && signbit(f[0x8000]));
        kern_f32_to_f16(back, f, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            assert_true(back[i] == h[i] || (isnan(f[i]) && (back[i] & 0x7fff) > 0x7c00));
        for (uint32_t i = 0; i < 0x7bff; i += 7) { /* halfway and just beside it */
            float mid = (f[i] + f[i + 1]) / 2;

            for (int k = 0; k < 64; k++)
                x[k] = k % 3 == 0 ? mid : k % 3 == 1 ? nextafterf(mid, 0) : nextafterf(mid, 1e9f);
            kern_f32_to_f16(back, x, 37);
            for (uint32_t k = 0; k < 37; k++)
                assert_int_equal(back[k], k % 3 == 0 ? i + (i & 1) : k % 3 == 1 ? i : i + 1);
        }
    }
}

static void argmax_is_the_first_of_the_largest(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 4);
    EACH_LEVEL(l) for (uint32_t n = 1; n < 2000; n += n < 40 ? 1 : 97)
    {
        struct guarded g = guarded_new(n * 4, 4);
        float *x = g.p;

        for (int k = 0; k < 20; k++) {
            uint32_t best = (uint32_t)rng_below(&r, n);

            for (uint32_t i = 0; i < n; i++)
                x[i] = i < best ? -2 - (float)rng_f64(&r) : -1 - (float)(rng_u64(&r) & 1);
            x[best] = -1;
            assert_int_equal(kern_argmax(x, n), best);
        }
        for (uint32_t i = 0; i < n; i++)
            x[i] = -INFINITY;
        assert_int_equal(kern_argmax(x, n), 0);
        guarded_free(&g);
    }
}

static void sums_are_sums(void **state)
{
    (void)state;
    EACH_LEVEL(l) EACH_LENGTH(n)
    {
        struct guarded gx = guarded_new(n * 4, 4), gy = guarded_new(n * 4, 4);
        float *x = gx.p, *y = gy.p;

        for (size_t i = 0; i < n; i++) {
            x[i] = (float)i;
            y[i] = 0.5f;
        }
        kern_add(y, x, n);
        for (size_t i = 0; i < n; i++)
            assert_true(y[i] == (float)i + 0.5f);
        guarded_free(&gx);
        guarded_free(&gy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_equals_its_formula),
        cmocka_unit_test(gates_equal_their_formulas),
        cmocka_unit_test(rope_rotates_the_pairs_of_its_kind),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(argmax_is_the_first_of_the_largest),
        cmocka_unit_test(sums_are_sums),
    };
    int rc;

    pool = kern_pool_new(2);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    kern_pool_free(pool);
    return rc;
}
