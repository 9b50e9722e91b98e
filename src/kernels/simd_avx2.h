/* kernels/simd_avx2.h - the vector vocabulary of attn_simd.h and rows_simd.h in AVX2, FMA, F16C.
 * All static: a linker must never pick a wide-ISA copy for another level. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_SIMD_AVX2_H
#define KERNELS_SIMD_AVX2_H
#include <immintrin.h>
#include <stdint.h>

#define V_LANES  8
#define V_INLINE static inline __attribute__((always_inline, unused))
#define V_TILE   6 /* query rows of an attention micro-kernel */

typedef __m256 vf;

V_INLINE vf v_zero(void)
{
    return _mm256_setzero_ps();
}

V_INLINE vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}

V_INLINE vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

V_INLINE void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

V_INLINE __m256i v_lane(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

/* The first n < V_LANES elements; the others are 0. */
V_INLINE vf v_load_n(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), v_lane()));
}

V_INLINE void v_store_n(float *p, vf v, uint32_t n)
{
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), v_lane()), v);
}

V_INLINE vf v_load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

V_INLINE void v_store_half(uint16_t *p, vf v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

V_INLINE vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

V_INLINE vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

V_INLINE vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

V_INLINE vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

V_INLINE vf v_fma(vf a, vf b, vf c) /* a * b + c */
{
    return _mm256_fmadd_ps(a, b, c);
}

V_INLINE vf v_fnma(vf a, vf b, vf c) /* c - a * b */
{
    return _mm256_fnmadd_ps(a, b, c);
}

V_INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

V_INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

V_INLINE vf v_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

V_INLINE vf v_scale2(vf a, vf n) /* a * 2^n, n whole and within the normal range */
{
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);

    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), e));
}

/* Lane i of v where lo <= first + i < hi, else of `other`. */
V_INLINE vf v_within(vf v, vf other, uint32_t first, uint32_t lo, uint32_t hi)
{
    __m256i at = _mm256_add_epi32(v_lane(), _mm256_set1_epi32((int)first));
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lo), at);
    __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)hi), at);

    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(_mm256_andnot_si256(below, inside)));
}

V_INLINE float v_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

V_INLINE float v_largest(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* (a0 b0 a1 b1 ...) pairs of two vectors' worth of memory: u = first of each pair, v = second. */
V_INLINE void v_load_pairs(const float *p, vf *u, vf *v)
{
    vf a = v_load(p), b = v_load(p + 8);
    __m256d x = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    __m256d y = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));

    *u = _mm256_castpd_ps(_mm256_permute4x64_pd(x, 0xd8));
    *v = _mm256_castpd_ps(_mm256_permute4x64_pd(y, 0xd8));
}

V_INLINE void v_store_pairs(float *p, vf u, vf v)
{
    vf a = _mm256_unpacklo_ps(u, v), b = _mm256_unpackhi_ps(u, v);

    v_store(p, _mm256_permute2f128_ps(a, b, 0x20));
    v_store(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
}

/* x[i] lane j <-> x[j] lane i. */
V_INLINE void v_transpose(vf x[V_LANES])
{
    vf y[V_LANES];

#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
    }
    /* Now x[4 a + c] holds, in its 128-bit half b, column 4 b + c of rows 4 a .. 4 a + 3. */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        y[c] = _mm256_permute2f128_ps(x[c], x[4 + c], 0x20);
        y[4 + c] = _mm256_permute2f128_ps(x[c], x[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        x[i] = y[i];
}
#endif
