/* Matrix products with AVX-512 VNNI.
 *
 *   rows <= 6   weights are opened in registers, 16 outputs x all rows: a memory stream
 *   rows > 6    32 outputs x up to 2,048 inputs are opened into a panel of bytes (in cache), then
 *               every 6 activation rows pass over it: 12 int32 and 12 f32 accumulators in registers
 *
 * vpdpbusd adds 4 products of unsigned code and signed activation to an int32 lane, so an output
 * row is a lane and nothing is ever summed across lanes.  Both paths apply the same two fused
 * multiply-adds per cell in the same order: their results are equal bit for bit. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/mm_avx512.h"
#include "kernels/kern_priv.h"
#include <immintrin.h>
#include <string.h>

#define INLINE      static inline __attribute__((always_inline))
#define TILE        6
#define PAIR        2  /* groups of a panel */
#define PANEL_CELLS 64 /* 2,048 inputs: the panel is 80 KiB, and stays in L2 */

/* A panel's cell: codes of step s and group g at 128 s + 64 g, then f32 scale[halves][2][16],
 * then min likewise. */
#define PANEL_CODES        ((size_t)8 * PAIR * 64)
#define PANEL_CELL(halves) (PANEL_CODES + (size_t)(halves)*2 * PAIR * KERN_GROUP * sizeof(float))

struct shape { /* compile-time facts of a type, folded by inlining */
    uint32_t bits, zero, has_min, halves, cells, head_bytes, cell_bytes, code_at;
};

struct scales {
    __m512 s[2], m[2];
};

INLINE __m512 broadcast(const uint8_t *p, uint32_t i)
{
    return _mm512_set1_ps(((const float *)(const void *)p)[i]);
}

INLINE __m512i broadcast4(const uint8_t *p)
{
    return _mm512_set1_epi32(*(const int32_t *)(const void *)p);
}

INLINE __m512 load_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

/* The 64 codes of step s (a constant after unrolling). */
INLINE __m512i step_codes(uint32_t bits, const uint8_t *p, uint32_t s)
{
    const __m512i low = _mm512_set1_epi8(15), bit4 = _mm512_set1_epi8(16);
    __m512i x, hi;

    if (bits == 8)
        return _mm512_loadu_si512(p + 64 * (size_t)s);
    x = _mm512_loadu_si512(p + 64 * (size_t)(s / 2));
    x = _mm512_and_si512(s % 2 == 0 ? x : _mm512_srli_epi16(x, 4), low);
    if (bits == 4)
        return x;
    if (bits == 5) {
        hi = _mm512_loadu_si512(p + 256);
        hi = s <= 4 ? _mm512_slli_epi16(hi, 4 - s) : _mm512_srli_epi16(hi, s - 4);
        return _mm512_ternarylogic_epi64(x, hi, bit4, 0xf8); /* x | (hi & bit4) */
    }
    hi = _mm512_loadu_si512(p + 256 + 64 * (size_t)(s / 4));
    hi = s % 4 <= 2 ? _mm512_slli_epi16(hi, 4 - 2 * (s % 4)) : _mm512_srli_epi16(hi, 2);
    return _mm512_ternarylogic_epi64(x, hi, _mm512_set1_epi8(0x30), 0xf8);
}

INLINE __m512 small_scales(const uint8_t *p, bool is_signed)
{
    __m128i b = _mm_loadu_si128((const void *)p);

    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
}

/* Scales of one cell; d and m are the super-block's (or the cell's own). */
INLINE struct scales cell_scales(const struct shape f, const uint8_t *cell, __m512 d, __m512 m)
{
    struct scales r;

    for (uint32_t h = 0; h < f.halves; h++) {
        r.s[h] = d;
        if (f.cells > 1)
            r.s[h] = _mm512_mul_ps(d, small_scales(cell + 16 * (size_t)h, f.halves == 2));
        if (!f.has_min)
            r.m[h] = _mm512_mul_ps(r.s[h], _mm512_set1_ps(-(float)f.zero));
        else if (f.cells > 1)
            r.m[h] = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), m),
                                   small_scales(cell + 16, false));
        else
            r.m[h] = m;
    }
    return r;
}

INLINE __m512 add_cell(__m512 acc, __m512i sum, __m512 s, __m512 m, const uint8_t *act, uint32_t w,
                       uint32_t t, uint32_t at)
{
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(s, broadcast(act, t)), acc);
    return _mm512_fmadd_ps(m, broadcast(act, at * w + t), acc);
}

/* acc[w] = one group x w activation rows, all inputs. */
INLINE void group_direct(const struct shape f, uint32_t w, const uint8_t *p, const uint8_t *act,
                         uint32_t cells, __m512 *acc)
{
    uint32_t steps = 8 / f.halves;

    for (uint32_t t = 0; t < w; t++)
        acc[t] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < cells; b += f.cells) {
        __m512 d = load_half(p), m = f.has_min ? load_half(p + 32) : _mm512_setzero_ps();

        p += f.head_bytes;
        for (uint32_t c = 0; c < f.cells; c++, p += f.cell_bytes, act += w * KERN_ACT_BYTES) {
            struct scales sc = cell_scales(f, p, d, m);

            _mm_prefetch((const char *)p + 2048, _MM_HINT_T0);
#pragma GCC unroll 2
            for (uint32_t h = 0; h < f.halves; h++) {
                __m512i sum[TILE];

                for (uint32_t t = 0; t < w; t++)
                    sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (uint32_t s = h * steps; s < (h + 1) * steps; s++) {
                    __m512i x = step_codes(f.bits, p + f.code_at, s);

#pragma GCC unroll 6
                    for (uint32_t t = 0; t < w; t++)
                        sum[t] = _mm512_dpbusd_epi32(sum[t], x,
                                                     broadcast4(act + 16 * w + 4 * (s * w + t)));
                }
#pragma GCC unroll 6
                for (uint32_t t = 0; t < w; t++)
                    acc[t] = add_cell(acc[t], sum[t], sc.s[h], sc.m[h], act, w, t,
                                      f.halves == 2 ? 2 + h : 1);
            }
        }
    }
}

/* Opens `cells` cells of one group into panel position g (0 or 1).  p: at a super-block's start. */
INLINE void open_panel(const struct shape f, const uint8_t *p, uint32_t cells, uint8_t *panel,
                       uint32_t g)
{
    for (uint32_t b = 0; b < cells; b += f.cells) {
        __m512 d = load_half(p), m = f.has_min ? load_half(p + 32) : _mm512_setzero_ps();

        p += f.head_bytes;
        for (uint32_t c = 0; c < f.cells; c++, p += f.cell_bytes, panel += PANEL_CELL(f.halves)) {
            struct scales sc = cell_scales(f, p, d, m);

#pragma GCC unroll 8
            for (uint32_t s = 0; s < 8; s++)
                _mm512_store_si512(panel + 128 * s + 64 * g, step_codes(f.bits, p + f.code_at, s));
            for (uint32_t h = 0; h < f.halves; h++) {
                _mm512_store_ps(panel + PANEL_CODES + 64 * (PAIR * h + g), sc.s[h]);
                _mm512_store_ps(panel + PANEL_CODES + 64 * (PAIR * (f.halves + h) + g), sc.m[h]);
            }
        }
    }
}

/* Weights to be opened next, fetched while the tiles of the present panel compute: with few tiles
 * a panel, memory would otherwise rest meanwhile. */
struct ahead {
    const uint8_t *p; /* in the first group; the second's are group_bytes further on */
    size_t group_bytes;
    uint32_t step; /* bytes of each group for a cell of a tile; 0 = nothing left to fetch */
};

/* acc[2][w] += panel x w activation rows. */
INLINE void panel_tile(uint32_t halves, uint32_t w, const uint8_t *panel, const uint8_t *act,
                       uint32_t cells, struct ahead next, __m512 acc[PAIR][TILE])
{
    uint32_t steps = 8 / halves;

    for (uint32_t b = 0; b < cells; b++, next.p += next.step) {
        for (uint32_t i = 0; i < next.step; i += 64) {
            _mm_prefetch((const char *)next.p + i, _MM_HINT_T0);
            _mm_prefetch((const char *)next.p + next.group_bytes + i, _MM_HINT_T0);
        }
#pragma GCC unroll 2
        for (uint32_t h = 0; h < halves; h++) {
            __m512i sum[PAIR][TILE];
            const uint8_t *s0 = panel + PANEL_CODES + (size_t)64 * PAIR * h;
            const uint8_t *m0 = s0 + (size_t)64 * PAIR * halves;

#pragma GCC unroll 6
            for (uint32_t t = 0; t < w; t++)
                sum[0][t] = sum[1][t] = _mm512_setzero_si512();
#pragma GCC unroll 8
            for (uint32_t s = h * steps; s < (h + 1) * steps; s++) {
                __m512i x0 = _mm512_load_si512(panel + 128 * s);
                __m512i x1 = _mm512_load_si512(panel + 128 * s + 64);

#pragma GCC unroll 6
                for (uint32_t t = 0; t < w; t++) {
                    __m512i a = broadcast4(act + 16 * w + 4 * (s * w + t));

                    sum[0][t] = _mm512_dpbusd_epi32(sum[0][t], x0, a);
                    sum[1][t] = _mm512_dpbusd_epi32(sum[1][t], x1, a);
                }
            }
#pragma GCC unroll 2
            for (uint32_t g = 0; g < PAIR; g++) {
                __m512 s = _mm512_load_ps(s0 + 64 * g), m = _mm512_load_ps(m0 + 64 * g);

#pragma GCC unroll 6
                for (uint32_t t = 0; t < w; t++)
                    acc[g][t] =
                        add_cell(acc[g][t], sum[g][t], s, m, act, w, t, halves == 2 ? 2 + h : 1);
            }
        }
        panel += PANEL_CELL(halves);
        act += w * KERN_ACT_BYTES;
    }
}

/* Writes 16 outputs of activation row `row`. */
INLINE void put_group(const struct kern_mm_task *t, uint32_t g, uint32_t row, __m512 v)
{
    const struct kern_mm *mm = t->mm;
    uint32_t left = mm->w->rows - g * KERN_GROUP;
    __mmask16 k = (__mmask16)(left >= KERN_GROUP ? 0xffff : (1U << left) - 1);
    float *y = mm->y + row * mm->ldy + (size_t)g * KERN_GROUP;

    if (mm->bias != NULL)
        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, mm->bias + (size_t)g * KERN_GROUP));
    if (mm->add)
        v = _mm512_add_ps(_mm512_maskz_loadu_ps(k, y), v);
    _mm512_mask_storeu_ps(y, k, v);
}

INLINE void few_rows(const struct shape f, uint32_t w, const struct kern_mm_task *t)
{
    uint32_t cells = t->act->cols / KERN_CELL;
    size_t size = (size_t)cells / f.cells * (f.head_bytes + f.cells * f.cell_bytes);
    const uint8_t *p = (const uint8_t *)t->mm->w->data + t->g0 * size;
    const uint8_t *act = kern_act_panel(t->act, t->t0);

    for (uint32_t g = t->g0; g < t->g1; g++, p += size) {
        __m512 acc[TILE];

        group_direct(f, w, p, act, cells, acc);
#pragma GCC unroll 6
        for (uint32_t i = 0; i < w; i++)
            put_group(t, g, t->t0 + i, acc[i]);
    }
}

/* One tile of w rows over one chunk of inputs; between chunks the sums wait in `kept`. */
INLINE void chunk_tile(uint32_t halves, uint32_t w, const struct kern_mm_task *t, uint32_t g,
                       uint32_t row, const uint8_t *act, uint32_t cells, struct ahead next,
                       float *kept, bool is_first, bool is_last)
{
    __m512 acc[PAIR][TILE];

#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++) {
        acc[0][i] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(kept + 32 * (size_t)i);
        acc[1][i] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(kept + 32 * (size_t)i + 16);
    }
    panel_tile(halves, w, t->scratch, act, cells, next, acc);
#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++) {
        if (!is_last) {
            _mm512_store_ps(kept + 32 * (size_t)i, acc[0][i]);
            _mm512_store_ps(kept + 32 * (size_t)i + 16, acc[1][i]);
            continue;
        }
        put_group(t, g, row + i, acc[0][i]);
        if (g + 1 < t->g1)
            put_group(t, g + 1, row + i, acc[1][i]);
    }
}

typedef void chunk_fn(const struct kern_mm_task *t, uint32_t g, uint32_t row, const uint8_t *act,
                      uint32_t cells, struct ahead next, float *kept, bool is_first, bool is_last);

#define CHUNK(halves, w)                                                                           \
    static void chunk_##halves##_##w(const struct kern_mm_task *t, uint32_t g, uint32_t row,       \
                                     const uint8_t *act, uint32_t cells, struct ahead next,        \
                                     float *kept, bool is_first, bool is_last)                     \
    {                                                                                              \
        chunk_tile(halves, w, t, g, row, act, cells, next, kept, is_first, is_last);               \
    }
#define CHUNKS(halves)                                                                             \
    CHUNK(halves, 1)                                                                               \
    CHUNK(halves, 2) CHUNK(halves, 3) CHUNK(halves, 4) CHUNK(halves, 5) CHUNK(halves, 6)
CHUNKS(1)
CHUNKS(2)

static chunk_fn *const chunk_fns[2][TILE] = {
    { chunk_1_1, chunk_1_2, chunk_1_3, chunk_1_4, chunk_1_5, chunk_1_6 },
    { chunk_2_1, chunk_2_2, chunk_2_3, chunk_2_4, chunk_2_5, chunk_2_6 },
};

typedef void open_fn(const uint8_t *p, uint32_t cells, uint8_t *panel, uint32_t g);
typedef void few_fn(const struct kern_mm_task *t);

/* All tiles of a task over the panel of groups g, g + 1, inputs from cell c0 on. */
static void panel_rows(const struct kern_mm_task *t, uint32_t g, uint32_t c0, uint32_t n,
                       const uint8_t *next, size_t next_bytes)
{
    const struct kern_form *f = t->form;
    uint32_t cells = t->act->cols / KERN_CELL, tiles = (t->t1 - t->t0 + TILE - 1) / TILE;
    float *kept = (float *)(void *)((uint8_t *)t->scratch + PANEL_CELLS * PANEL_CELL(2));
    uint32_t step = (uint32_t)(next_bytes / (n * tiles) + 63) / 64 * 64;
    struct ahead ahead = { next, kern_group_bytes(f, t->act->cols), 0 };

    for (uint32_t row = t->t0; row < t->t1; row += TILE) {
        uint32_t w = MIN(TILE, t->t1 - row);
        const uint8_t *act = kern_act_panel(t->act, row) + (size_t)c0 * w * KERN_ACT_BYTES;

        ahead.step = ahead.p < next + next_bytes ? step : 0;
        chunk_fns[f->halves - 1][w - 1](t, g, row, act, n, ahead, kept + (row - t->t0) * 32,
                                        c0 == 0, c0 + n == cells);
        ahead.p += (size_t)n * ahead.step;
    }
}

static void many_rows(const struct kern_mm_task *t, open_fn *open)
{
    const struct kern_form *f = t->form;
    uint32_t cells = t->act->cols / KERN_CELL;
    size_t size = kern_group_bytes(f, t->act->cols), cell = size / cells;
    const uint8_t *base = t->mm->w->data;

    for (uint32_t g = t->g0; g < t->g1; g += PAIR)
        for (uint32_t c0 = 0, n; c0 < cells; c0 += n) {
            const uint8_t *p = base + g * size + c0 * cell, *next = p;
            size_t next_bytes = 0;

            n = MIN(PANEL_CELLS, cells - c0);
            open(p, n, t->scratch, 0);
            /* A missing second group is computed on whatever the panel holds and not stored. */
            if (g + 1 < t->g1)
                open(p + size, n, t->scratch, 1);
            if (c0 + n < cells) {
                next = p + n * cell;
                next_bytes = MIN(PANEL_CELLS, cells - c0 - n) * cell;
            } else if (g + PAIR < t->g1) {
                next = base + (g + PAIR) * size;
                next_bytes = MIN(PANEL_CELLS, cells) * cell;
            }
            panel_rows(t, g, c0, n, next, next_bytes);
        }
}

/* name, bits, zero, has_min, halves, cells, head, cell, code_at: as in pack.c */
#define SHAPES(X)                                                                                  \
    X(Q4_0, 4, 8, 0, 1, 1, 0, 288, 32)                                                             \
    X(Q4_1, 4, 0, 1, 1, 1, 0, 320, 64)                                                             \
    X(Q5_0, 5, 16, 0, 1, 1, 0, 352, 32)                                                            \
    X(Q5_1, 5, 0, 1, 1, 1, 0, 384, 64)                                                             \
    X(Q8_0, 8, 128, 0, 1, 1, 0, 544, 32)                                                           \
    X(Q4_K, 4, 0, 1, 1, 8, 64, 288, 32)                                                            \
    X(Q5_K, 5, 0, 1, 1, 8, 64, 352, 32)                                                            \
    X(Q6_K, 6, 32, 0, 2, 8, 32, 416, 32)

#define FEW(name, w)                                                                               \
    static void few_##name##_##w(const struct kern_mm_task *t)                                     \
    {                                                                                              \
        few_rows(shape_##name, w, t);                                                              \
    }
#define FUNCTIONS(name, bits, zero, min, halves, cells, head, cell, code)                          \
    static const struct shape shape_##name = { bits, zero, min, halves, cells, head, cell, code }; \
    static void open_##name(const uint8_t *p, uint32_t n, uint8_t *panel, uint32_t g)              \
    {                                                                                              \
        open_panel(shape_##name, p, n, panel, g);                                                  \
    }                                                                                              \
    FEW(name, 1) FEW(name, 2) FEW(name, 3) FEW(name, 4) FEW(name, 5) FEW(name, 6)
SHAPES(FUNCTIONS)

struct variant {
    uint32_t type;
    open_fn *open;
    few_fn *few[TILE];
};

#define VARIANT(name, bits, zero, min, halves, cells, head, cell, code)                            \
    { KT_##name,                                                                                   \
      open_##name,                                                                                 \
      { few_##name##_1, few_##name##_2, few_##name##_3, few_##name##_4, few_##name##_5,            \
        few_##name##_6 } },
static const struct variant variants[] = { SHAPES(VARIANT) };

/* ---- float weights: [cols][16] per group, activations f32 ---- */

INLINE __m512 float_codes(uint32_t type, const uint8_t *p, size_t k)
{
    if (type == KT_F32)
        return _mm512_loadu_ps(p + 64 * k);
    if (type == KT_F16)
        return load_half(p + 32 * k);
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(p + 32 * k))), 16));
}

INLINE void float_tile(uint32_t type, uint32_t w, const struct kern_mm_task *t, uint32_t g,
                       uint32_t row)
{
    uint32_t cols = t->act->cols;
    size_t size = (size_t)cols * KERN_GROUP * (type == KT_F32 ? 4 : 2);
    const uint8_t *p0 = (const uint8_t *)t->mm->w->data + g * size;
    const uint8_t *p1 = g + 1 < t->g1 ? p0 + size : p0;
    const float *x = t->act->f32 + (size_t)row * cols;
    __m512 acc[PAIR][TILE];

#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++)
        acc[0][i] = acc[1][i] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < cols; k++) {
        __m512 w0 = float_codes(type, p0, k), w1 = float_codes(type, p1, k);

#pragma GCC unroll 6
        for (uint32_t i = 0; i < w; i++) {
            __m512 a = _mm512_set1_ps(x[(size_t)i * cols + k]);

            acc[0][i] = _mm512_fmadd_ps(w0, a, acc[0][i]);
            acc[1][i] = _mm512_fmadd_ps(w1, a, acc[1][i]);
        }
    }
#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++) {
        put_group(t, g, row + i, acc[0][i]);
        if (g + 1 < t->g1)
            put_group(t, g + 1, row + i, acc[1][i]);
    }
}

INLINE void float_rows(uint32_t type, const struct kern_mm_task *t)
{
    for (uint32_t g = t->g0; g < t->g1; g += PAIR) {
        uint32_t row = t->t0;

        for (; row + TILE <= t->t1; row += TILE)
            float_tile(type, TILE, t, g, row);
        for (; row + 2 <= t->t1; row += 2)
            float_tile(type, 2, t, g, row);
        if (row < t->t1)
            float_tile(type, 1, t, g, row);
    }
}

void kern_mm_avx512(const struct kern_mm_task *t)
{
    const struct variant *v = variants;

    switch (t->form->type) {
    case KT_F32: float_rows(KT_F32, t); return;
    case KT_F16: float_rows(KT_F16, t); return;
    case KT_BF16: float_rows(KT_BF16, t); return;
    default: break;
    }
    while (v->type != t->form->type)
        v++;
    if (t->act->n <= TILE)
        v->few[t->act->n - 1](t);
    else
        many_rows(t, v->open);
}

/* ---- activations ---- */

INLINE void quantize_32(const float *x, float *scale, uint32_t w, int8_t *q)
{
    const __m512i lo = _mm512_set1_epi32(-127), hi = _mm512_set1_epi32(127);
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16), inv;
    float amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    __m512i ia, ib;
    __m256i c, sums;
    __m128i s0, s1;
    int sum0, sum1;

    inv = _mm512_set1_ps(amax > 0 ? 127.0f / amax : 0);
    ia = _mm512_cvtps_epi32(_mm512_mul_ps(a, inv));
    ib = _mm512_cvtps_epi32(_mm512_mul_ps(b, inv));
    ia = _mm512_max_epi32(_mm512_min_epi32(ia, hi), lo);
    ib = _mm512_max_epi32(_mm512_min_epi32(ib, hi), lo);
    c = _mm256_set_m128i(_mm512_cvtepi32_epi8(ib), _mm512_cvtepi32_epi8(ia));
    sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), c);
    s0 = _mm256_castsi256_si128(sums);
    s1 = _mm256_extracti128_si256(sums, 1);
    s0 = _mm_hadd_epi32(s0, s1);
    s0 = _mm_hadd_epi32(s0, s0);
    sum0 = _mm_cvtsi128_si32(s0);
    sum1 = _mm_extract_epi32(s0, 1);
    scale[0] = amax * (1.0f / 127.0f);
    scale[w] = scale[0] * (float)(sum0 + sum1);
    scale[2 * w] = scale[0] * (float)sum0;
    scale[3 * w] = scale[0] * (float)sum1;
    if (w == 1) {
        _mm256_storeu_si256((void *)q, c);
        return;
    }
    for (uint32_t s = 0; s < 8; s++)
        memcpy(q + (size_t)4 * w * s, (char *)&c + 4 * s, 4);
}

void kern_act_avx512(uint8_t *dst, const float *x, uint32_t w, uint32_t cols)
{
    for (uint32_t b = 0; b < cols / KERN_CELL; b++, dst += w * KERN_ACT_BYTES)
        for (uint32_t t = 0; t < w; t++)
            quantize_32(x + (size_t)t * cols + (size_t)b * KERN_CELL, (float *)(void *)dst + t, w,
                        (int8_t *)dst + 16 * w + 4 * t);
}
