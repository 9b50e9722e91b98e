/* Matrix products: every level against f64 sums of the definition, exact integer cases, tails,
 * and the law of batch invariance, with ==. */
// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "kern_test.h"

#define SEED 11

static struct kern_pool *pool1, *pool2;

/* A packed random matrix at the end of guarded memory, and its rows as f32. */
struct weights {
    struct kern_mat m;
    struct guarded g;
    float *f32;
};

static struct weights weights_new(const struct test_type *t, uint32_t rows, uint32_t cols,
                                  struct rng *r)
{
    struct weights w;
    uint8_t *src = mem_alloc((size_t)rows * cols / t->elems * t->bytes);

    random_blocks(src, t, rows, cols, r);
    w.g = guarded_new(kern_packed_size(t->type, rows, cols), 64);
    kern_pack(&w.m, t->type, rows, cols, src, w.g.p, NULL);
    w.f32 = mem_alloc((size_t)rows * cols * sizeof(float));
    for (uint32_t i = 0; i < rows; i++)
        kern_row(&w.m, i, w.f32 + (size_t)i * cols);
    mem_free(src);
    return w;
}

static void weights_free(struct weights *w)
{
    guarded_free(&w->g);
    mem_free(w->f32);
}

/* y[n][rows] by the level in use. */
static void product(float *y, const struct weights *w, const float *x, uint32_t n,
                    struct kern_pool *p)
{
    struct kern_act act;

    assert_int_equal(kern_act_init(&act, n, w->m.cols), 0);
    kern_act_set(&act, x, n, w->m.cols, p);
    kern_matmul(&w->m, &act, y, w->m.rows, NULL, false, p);
    kern_act_fini(&act);
}

/* The values that quantized activations stand for, by the definition. */
static void round_activations(double *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n; b += 32) {
        float amax = 0;

        for (size_t k = b; k < b + 32; k++)
            amax = fmaxf(amax, fabsf(x[k]));
        for (size_t k = b; k < b + 32; k++)
            out[k] = amax == 0 ? 0
                               : (double)(amax * (1.0f / 127.0f)) *
                                     (double)lrintf(x[k] * (127.0f / amax));
    }
}

static void check_product(const struct test_type *t, const char *level, uint32_t rows,
                          uint32_t cols, uint32_t n, struct rng *r)
{
    struct weights w = weights_new(t, rows, cols, r);
    struct guarded gx = guarded_new((size_t)n * cols * 4, 4);
    struct guarded gy = guarded_new((size_t)n * rows * 4, 4);
    float *x = gx.p, *y = gy.p;
    double *a = mem_alloc((size_t)n * cols * sizeof(double));

    random_floats(x, (size_t)n * cols, r);
    product(y, &w, x, n, pool2);
    if (t->is_float)
        for (size_t i = 0; i < (size_t)n * cols; i++)
            a[i] = x[i];
    else
        round_activations(a, x, (size_t)n * cols);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < rows; j++) {
            double sum = 0, terms = 0, got = y[(size_t)i * rows + j];

            for (uint32_t k = 0; k < cols; k++) {
                double v = a[(size_t)i * cols + k] * w.f32[(size_t)j * cols + k];

                sum += v;
                terms += fabs(v);
            }
            if (!(fabs(got - sum) <= 2e-6 * terms + 1e-12))
                fail_msg("%s %s rows %u cols %u n %u at (%u, %u): %g, not %g (of %g)", level,
                         t->name, rows, cols, n, i, j, got, sum, terms);
        }
    mem_free(a);
    guarded_free(&gx);
    guarded_free(&gy);
    weights_free(&w);
}

static void products_equal_the_definition(void **state)
{
    static const uint32_t counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 19, 40 };
    struct rng r;

    (void)state;
    rng_seed(&r, SEED);
    for (size_t l = 0; l < COUNT(levels); l++) {
        if (!use_level(levels[l]))
            continue;
        for (size_t i = 0; i < COUNT(test_types); i++) {
            const struct test_type *t = &test_types[i];
            uint32_t unit = t->elems == 1 ? 1 : t->elems;

            for (uint32_t rows = 1; rows <= 40; rows += rows < 18 ? 3 : 11)
                for (size_t c = rows % 2; c < COUNT(counts); c += 2) {
                    uint64_t most = unit == 1 ? 70 : 300 / unit + 1;
                    uint32_t cols = unit * (uint32_t)(1 + rng_below(&r, most));

                    check_product(t, levels[l], rows, cols, counts[c], &r);
                }
            check_product(t, levels[l], 33, 4096 + 256, 9, &r);
        }
    }
}

/* All codes at their largest, all activations at +-127: what an int16 sum would not survive. */
static void extreme_codes_sum_exactly(void **state)
{
    static const struct {
        uint32_t type;
        int value; /* of the largest code with scale 1, mins 0 */
    } cases[] = { { 2, 7 },    { 3, 15 },  { 6, 15 },  { 7, 31 }, { 8, 127 },
                  { 8, -128 }, { 12, 15 }, { 13, 31 }, { 14, 31 } };
    static const int signs[] = { 1, -1, 0 };

    (void)state;
    for (size_t l = 0; l < COUNT(levels); l++)
        for (size_t c = 0; c < COUNT(cases) && use_level(levels[l]); c++)
            for (size_t s = 0; s < COUNT(signs); s++) {
                const struct test_type *t = test_types;
                uint32_t rows = 16, cols = 256, n = 7;
                uint8_t *src;
                float *x = mem_alloc(n * cols * sizeof(float)), y[7 * 16];
                struct weights w = { 0 };
                int want = 0;

                while (t->type != cases[c].type)
                    t++;
                src = mem_alloc((size_t)rows * cols / t->elems * t->bytes);
                memset(src,
                       cases[c].value == -128 ? 0x80
                       : t->type == 8         ? 0x7f
                                              : 0xff,
                       (size_t)rows * cols / t->elems * t->bytes);
                for (size_t b = 0; b < (size_t)rows * cols / t->elems; b++) {
                    uint8_t *p = src + b * t->bytes;

                    put_half(p + t->half0, 1);
                    if (t->half1 >= 0)
                        put_half(p + t->half1, 0);
                    if (t->type == 12 || t->type == 13) { /* sub-scales 1, mins 0 */
                        memset(p + 4, 0, 12);
                        memset(p + 4, 1, 4);
                        memset(p + 12, 1, 4);
                    }
                    if (t->type == 14)
                        memset(p + 192, 1, 16);
                }
                for (uint32_t i = 0; i < n * cols; i++)
                    x[i] = signs[s] != 0 ? (float)(127 * signs[s]) : i % 3 == 0 ? -127 : 127;
                w.g = guarded_new(kern_packed_size(t->type, rows, cols), 64);
                kern_pack(&w.m, t->type, rows, cols, src, w.g.p, NULL);
                product(y, &w, x, n, pool1);
                for (uint32_t i = 0; i < n; i++) {
                    want = 0;
                    for (uint32_t k = 0; k < cols; k++)
                        want += cases[c].value * (int)x[i * cols + k];
                    for (uint32_t j = 0; j < rows; j++)
                        if (y[i * rows + j] != (float)want)
                            fail_msg("%s %s sign %d: %f, not %d", levels[l], t->name, signs[s],
                                     y[i * rows + j], want);
                }
                guarded_free(&w.g);
                mem_free(src);
                mem_free(x);
            }
}

static void a_row_is_the_same_alone_and_in_any_company(void **state)
{
    static const uint32_t counts[] = { 1, 2, 3, 4, 5, 6, 7, 12, 16, 31 };
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 1);
    for (size_t l = 0; l < COUNT(levels); l++)
        for (size_t i = 0; i < COUNT(test_types) && use_level(levels[l]); i++) {
            uint32_t rows = 75, cols = l == 0 ? 512 : 2560, n = 61;
            struct weights w = weights_new(&test_types[i], rows, cols, &r);
            float *x = mem_alloc((size_t)n * cols * 4), *all = mem_alloc((size_t)n * rows * 4);
            float *y = mem_alloc((size_t)n * rows * 4);

            random_floats(x, (size_t)n * cols, &r);
            product(all, &w, x, n, pool2);
            product(y, &w, x, n, pool1);
            assert_memory_equal(all, y, (size_t)n * rows * 4);
            for (size_t c = 0; c < COUNT(counts); c++) {
                uint32_t from = (uint32_t)rng_below(&r, n - counts[c]);

                product(y, &w, x + (size_t)from * cols, counts[c], c % 2 == 0 ? pool1 : pool2);
                assert_memory_equal(y, all + (size_t)from * rows, (size_t)counts[c] * rows * 4);
            }
            mem_free(x);
            mem_free(y);
            mem_free(all);
            weights_free(&w);
        }
}

/* bias, add, a wide y, and several matrices in one region. */
static void outputs_land_where_they_should(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 2);
    for (size_t l = 0; l < COUNT(levels); l++)
        for (uint32_t n = 1; n <= 9 && use_level(levels[l]); n += 4) {
            const uint32_t cols = 256, rows[3] = { 40, 16, 21 }, ldy = 80;
            struct weights w[3];
            float x[9 * 256], bias[40], y[9 * 80], z[9 * 40], sep[3][9 * 40];
            struct kern_act act;
            struct kern_mm mm[3];

            random_floats(x, n * cols, &r);
            random_floats(bias, 40, &r);
            for (uint32_t i = 0; i < n * ldy; i++)
                y[i] = (float)i;
            assert_int_equal(kern_act_init(&act, n, cols), 0);
            kern_act_set(&act, x, n, cols, pool2);
            for (int k = 0; k < 3; k++) {
                w[k] = weights_new(&test_types[3 + 2 * k], rows[k], cols, &r);
                kern_matmul(&w[k].m, &act, sep[k], rows[k], NULL, false, pool2);
            }
            mm[0] = (struct kern_mm) { &w[0].m, y, ldy, bias, false };
            mm[1] = (struct kern_mm) { &w[1].m, y + 40, ldy, NULL, true };
            mm[2] = (struct kern_mm) { &w[2].m, z, rows[2], NULL, false };
            kern_matmul_many(mm, 3, &act, pool2);
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < ldy; j++) {
                    float want = (float)(i * ldy + j);

                    if (j < 40)
                        want = sep[0][i * 40 + j] + bias[j];
                    else if (j < 56)
                        want += sep[1][i * 16 + j - 40];
                    assert_true(y[i * ldy + j] == want);
                }
            assert_memory_equal(z, sep[2], n * rows[2] * sizeof(float));
            kern_act_fini(&act);
            for (int k = 0; k < 3; k++)
                weights_free(&w[k]);
        }
}

/* 8-bit activations: relative RMS error of a product below 1 %. */
static void quantized_activations_cost_under_one_percent(void **state)
{
    struct rng r;
    uint32_t rows = 64, cols = 1024, n = 8;
    double err = 0, all = 0;

    (void)state;
    rng_seed(&r, SEED + 3);
    assert_true(use_level("scalar"));
    {
        struct weights w = weights_new(&test_types[7], rows, cols, &r);
        float *x = mem_alloc((size_t)n * cols * 4), *y = mem_alloc((size_t)n * rows * 4);

        random_floats(x, (size_t)n * cols, &r);
        product(y, &w, x, n, pool1);
        for (uint32_t i = 0; i < n * rows; i++) {
            double sum = 0;

            for (uint32_t k = 0; k < cols; k++)
                sum += (double)x[i / rows * cols + k] * w.f32[i % rows * cols + k];
            err += (y[i] - sum) * (y[i] - sum);
            all += sum * sum;
        }
        assert_true(sqrt(err / all) < 0.01);
        mem_free(x);
        mem_free(y);
        weights_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_the_definition),
        cmocka_unit_test(extreme_codes_sum_exactly),
        cmocka_unit_test(a_row_is_the_same_alone_and_in_any_company),
        cmocka_unit_test(outputs_land_where_they_should),
        cmocka_unit_test(quantized_activations_cost_under_one_percent),
    };
    int rc;

    pool1 = kern_pool_new(1);
    pool2 = kern_pool_new(2);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    kern_pool_free(pool1);
    kern_pool_free(pool2);
    return rc;
}
