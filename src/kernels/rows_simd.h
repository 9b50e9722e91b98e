/* kernels/rows_simd.h - row operations over a level's vector vocabulary (simd_*.h, included
 * before): the same code for every vector width, compiled once per level. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_ROWS_SIMD_H
#define KERNELS_ROWS_SIMD_H
#include "kernels/kern_priv.h"
#include <math.h>

/* e^x, relative error below 2 ulp; x below -87.3 gives about 1e-38, above 88.3 about 2e38.
 * x = n ln 2 + f; e^f by a minimax polynomial of degree 6 on |f| <= ln 2 / 2. */
V_INLINE vf v_exp(vf x)
{
    vf n, f, p;

    x = v_max(v_min(x, v_set1(88.3f)), v_set1(-87.3f));
    n = v_round(v_mul(x, v_set1(0x1.715476p+0f)));
    f = v_fnma(n, v_set1(0x1.62e4p-1f), x);
    f = v_fnma(n, v_set1(0x1.7f7d1cp-20f), f);
    p = v_set1(0x1.6a23c8p-10f);
    p = v_fma(p, f, v_set1(0x1.123a2p-7f));
    p = v_fma(p, f, v_set1(0x1.5558f4p-5f));
    p = v_fma(p, f, v_set1(0x1.555492p-3f));
    p = v_fma(p, f, v_set1(0x1.fffffcp-2f));
    p = v_fma(v_mul(f, f), p, f);
    return v_scale2(v_add(p, v_set1(1)), n);
}

static void rows_rmsnorm(float *y, const float *x, const float *w, uint32_t d, float eps)
{
    vf s0 = v_zero(), s1 = v_zero(), r;
    uint32_t i = 0;

    for (; i + 2 * V_LANES <= d; i += 2 * V_LANES) {
        vf a = v_load(x + i), b = v_load(x + i + V_LANES);

        s0 = v_fma(a, a, s0);
        s1 = v_fma(b, b, s1);
    }
    for (; i + V_LANES <= d; i += V_LANES)
        s0 = v_fma(v_load(x + i), v_load(x + i), s0);
    if (i < d) {
        vf a = v_load_n(x + i, d - i);

        s1 = v_fma(a, a, s1);
    }
    r = v_set1(1.0f / sqrtf(v_sum(v_add(s0, s1)) / (float)d + eps));
    for (i = 0; i + V_LANES <= d; i += V_LANES)
        v_store(y + i, v_mul(v_mul(v_load(x + i), r), v_load(w + i)));
    if (i < d)
        v_store_n(y + i, v_mul(v_mul(v_load_n(x + i, d - i), r), v_load_n(w + i, d - i)), d - i);
}

/* x / (1 + e^-z); z = x for SiLU, and 2 sqrt(2/pi) (x + 0.044715 x^3) for GELU by tanh. */
V_INLINE vf v_gate(vf x, int act)
{
    vf z = x;

    if (act != 0)
        z = v_mul(v_mul(x, v_set1(1.5957691216057308f)),
                  v_fma(v_mul(x, x), v_set1(0.044715f), v_set1(1)));
    return v_div(x, v_add(v_set1(1), v_exp(v_sub(v_zero(), z))));
}

V_INLINE void rows_glu_act(float *out, const float *gate, const float *up, size_t n, int act)
{
    size_t i = 0;

    for (; i + V_LANES <= n; i += V_LANES)
        v_store(out + i, v_mul(v_gate(v_load(gate + i), act), v_load(up + i)));
    if (i < n) {
        uint32_t left = (uint32_t)(n - i);

        v_store_n(out + i, v_mul(v_gate(v_load_n(gate + i, left), act), v_load_n(up + i, left)),
                  left);
    }
}

static void rows_glu(float *out, const float *gate, const float *up, size_t n, int act)
{
    if (act == 0)
        rows_glu_act(out, gate, up, n, 0);
    else
        rows_glu_act(out, gate, up, n, 1);
}

V_INLINE void rows_rope_neox(float *x, const float *cs, uint32_t half)
{
    uint32_t i = 0;

    for (; i + V_LANES <= half; i += V_LANES) {
        vf a = v_load(x + i), b = v_load(x + half + i), c, s;

        v_load_pairs(cs + 2 * (size_t)i, &c, &s);
        v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store(x + half + i, v_add(v_mul(a, s), v_mul(b, c)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];

        x[i] = a * cs[2 * i] - b * cs[2 * i + 1];
        x[half + i] = a * cs[2 * i + 1] + b * cs[2 * i];
    }
}

V_INLINE void rows_rope_pairs(float *x, const float *cs, uint32_t half)
{
    uint32_t i = 0;

    for (; i + V_LANES <= half; i += V_LANES) {
        vf a, b, c, s;

        v_load_pairs(x + 2 * (size_t)i, &a, &b);
        v_load_pairs(cs + 2 * (size_t)i, &c, &s);
        v_store_pairs(x + 2 * (size_t)i, v_sub(v_mul(a, c), v_mul(b, s)),
                      v_add(v_mul(a, s), v_mul(b, c)));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];

        x[2 * i] = a * cs[2 * i] - b * cs[2 * i + 1];
        x[2 * i + 1] = a * cs[2 * i + 1] + b * cs[2 * i];
    }
}

static void rows_rope(float *x, const float *cs, uint32_t heads, uint32_t head_dim,
                      uint32_t rope_dim, int neox)
{
    for (uint32_t h = 0; h < heads; h++, x += head_dim) {
        if (neox)
            rows_rope_neox(x, cs, rope_dim / 2);
        else
            rows_rope_pairs(x, cs, rope_dim / 2);
    }
}

static void rows_to_f16(uint16_t *dst, const float *src, size_t n)
{
    size_t i = 0;

    for (; i + V_LANES <= n; i += V_LANES)
        v_store_half(dst + i, v_load(src + i));
    for (; i < n; i++)
        dst[i] = kern_float_to_half(src[i]);
}

static void rows_to_f32(float *dst, const uint16_t *src, size_t n)
{
    size_t i = 0;

    for (; i + V_LANES <= n; i += V_LANES)
        v_store(dst + i, v_load_half(src + i));
    for (; i < n; i++)
        dst[i] = kern_half_to_float(src[i]);
}

static void rows_add(float *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + V_LANES <= n; i += V_LANES)
        v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

/* The block that first holds the largest value, then the first place in it.  NaN never wins. */
static uint32_t rows_argmax(const float *x, uint32_t n)
{
    uint32_t i = 0, from = 0, best = 0;
    float top = -INFINITY;

    for (; i + 16 * V_LANES <= n; i += 16 * V_LANES) {
        vf m = v_set1(-INFINITY);
        float t;

        for (uint32_t k = 0; k < 16; k++)
            m = v_max(v_load(x + i + k * V_LANES), m);
        t = v_largest(m);
        if (t > top) {
            top = t;
            from = i;
        }
    }
    for (uint32_t k = 0; k < 16 * V_LANES && from + k < n && i != 0; k++)
        if (x[from + k] == top) {
            best = from + k;
            break;
        }
    for (; i < n; i++)
        if (x[i] > top) {
            top = x[i];
            best = i;
        }
    return best;
}

static uint64_t rows_read(const void *p, size_t n)
{
    const float *f = p;
    vf s0 = v_zero(), s1 = v_zero(), s2 = v_zero(), s3 = v_zero();
    float sum;
    uint32_t bits;

    for (size_t i = 0; i < n / sizeof(float); i += 4 * V_LANES) {
        s0 = v_max(s0, v_load(f + i));
        s1 = v_max(s1, v_load(f + i + V_LANES));
        s2 = v_max(s2, v_load(f + i + 2 * V_LANES));
        s3 = v_max(s3, v_load(f + i + 3 * V_LANES));
    }
    sum = v_largest(v_max(v_max(s0, s1), v_max(s2, s3)));
    __builtin_memcpy(&bits, &sum, sizeof(bits));
    return bits;
}
#endif
