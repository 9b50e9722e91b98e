/* kernels/simd_avx512.h - the vector vocabulary of attn_simd.h and rows_simd.h in AVX-512.
 * All static: a linker must never pick a wide-ISA copy for another level. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_SIMD_AVX512_H
#define KERNELS_SIMD_AVX512_H
#include <immintrin.h>
#include <stdint.h>

#define V_LANES  16
#define V_INLINE static inline __attribute__((always_inline, unused))
#define V_TILE   6 /* query rows of an attention micro-kernel */

typedef __m512 vf;

V_INLINE vf v_zero(void)
{
    return _mm512_setzero_ps();
}

V_INLINE vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}

V_INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V_INLINE void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

/* The first n < V_LANES elements; the others are 0. */
V_INLINE vf v_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1U << n) - 1), p);
}

V_INLINE void v_store_n(float *p, vf v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1U << n) - 1), v);
}

V_INLINE vf v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

V_INLINE void v_store_half(uint16_t *p, vf v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

V_INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

V_INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

V_INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

V_INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

V_INLINE vf v_fma(vf a, vf b, vf c) /* a * b + c */
{
    return _mm512_fmadd_ps(a, b, c);
}

V_INLINE vf v_fnma(vf a, vf b, vf c) /* c - a * b */
{
    return _mm512_fnmadd_ps(a, b, c);
}

V_INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

V_INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

V_INLINE vf v_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

V_INLINE vf v_scale2(vf a, vf n) /* a * 2^n, n whole and within the normal range */
{
    return _mm512_scalef_ps(a, n);
}

/* Lane i of v where lo <= first + i < hi, else of `other`. */
V_INLINE vf v_within(vf v, vf other, uint32_t first, uint32_t lo, uint32_t hi)
{
    uint32_t a = lo > first ? lo - first : 0, b = hi > first ? hi - first : 0;
    uint32_t m = (b >= 16 ? 0xffffU : (1U << b) - 1) & ~(a >= 16 ? 0xffffU : (1U << a) - 1);

    return _mm512_mask_blend_ps((__mmask16)m, other, v);
}

V_INLINE float v_sum(vf v)
{
    return _mm512_reduce_add_ps(v);
}

V_INLINE float v_largest(vf v)
{
    return _mm512_reduce_max_ps(v);
}

/* (a0 b0 a1 b1 ...) pairs of two vectors' worth of memory: u = first of each pair, v = second. */
V_INLINE void v_load_pairs(const float *p, vf *u, vf *v)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    vf a = v_load(p), b = v_load(p + 16);

    *u = _mm512_permutex2var_ps(a, even, b);
    *v = _mm512_permutex2var_ps(a, odd, b);
}

V_INLINE void v_store_pairs(float *p, vf u, vf v)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));

    v_store(p, _mm512_permutex2var_ps(u, low, v));
    v_store(p + 16, _mm512_permutex2var_ps(u, high, v));
}

/* Pairs of 64 bits from the low and the high halves of each 128. */
V_INLINE vf v_low2(vf a, vf b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

V_INLINE vf v_high2(vf a, vf b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

/* x[i] lane j <-> x[j] lane i. */
V_INLINE void v_transpose(vf x[V_LANES])
{
    vf y[V_LANES];

#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        x[i] = v_low2(y[i], y[i + 2]);
        x[i + 1] = v_high2(y[i], y[i + 2]);
        x[i + 2] = v_low2(y[i + 1], y[i + 3]);
        x[i + 3] = v_high2(y[i + 1], y[i + 3]);
    }
    /* Now x[4 a + c] holds, in its 128-bit part b, column 4 b + c of rows 4 a .. 4 a + 3. */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        vf p = _mm512_shuffle_f32x4(x[c], x[4 + c], 0x88);
        vf q = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0x88);
        vf r = _mm512_shuffle_f32x4(x[c], x[4 + c], 0xdd);
        vf s = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0xdd);

        y[c] = _mm512_shuffle_f32x4(p, q, 0x88);
        y[8 + c] = _mm512_shuffle_f32x4(p, q, 0xdd);
        y[4 + c] = _mm512_shuffle_f32x4(r, s, 0x88);
        y[12 + c] = _mm512_shuffle_f32x4(r, s, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        x[i] = y[i];
}
#endif
