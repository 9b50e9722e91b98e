/* Matrix products with AVX2.
 *
 *   rows <= 4, or 8-bit codes   weights are opened in registers, 16 outputs x up to 4 rows
 *   else                        16 outputs x up to 1,024 inputs are opened into a panel of bytes
 *                               (in L1), then every 4 activation rows pass over it
 *
 * maddubs gives int16 sums of two products.  They are added in int16 for as many steps as the
 * width of the code allows, and only then widened: 8 steps of 4-bit codes (8 * 2 * 15 * 127 =
 * 30,480), 4 of 5-bit (31,496), 2 of 6-bit (32,004).  8-bit codes allow none: there |w| times
 * sign(a, w) is widened at once, and since w is signed then, the zero point needs no correction.
 * Every path applies the same fused multiply-adds per cell in the same order. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/mm_avx2.h"
#include "kernels/kern_priv.h"
#include <immintrin.h>
#include <string.h>

#define INLINE      static inline __attribute__((always_inline))
#define TILE        4
#define PANEL_CELLS 32 /* 1,024 inputs: 20 KiB of panel */

/* A panel's cell: 8 steps of 64 codes, then f32 scale[halves][16], then min likewise. */
#define PANEL_CODES        512
#define PANEL_CELL(halves) (PANEL_CODES + (size_t)(halves)*2 * KERN_GROUP * sizeof(float))

struct shape { /* compile-time facts of a type, folded by inlining */
    uint32_t bits, zero, has_min, halves, cells, head_bytes, cell_bytes, code_at;
};

struct scales {
    __m256 s[2][2], m[2][2]; /* [half][rows 0..7, 8..15] */
};

INLINE __m256 broadcast(const uint8_t *p, uint32_t i)
{
    return _mm256_broadcast_ss((const float *)(const void *)p + i);
}

INLINE __m256i broadcast4(const uint8_t *p)
{
    return _mm256_set1_epi32(*(const int32_t *)(const void *)p);
}

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

INLINE __m256 load_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

/* a + b, now: left alone, gcc reassociates the chain into a tree and spills every product. */
INLINE __m256i add16(__m256i a, __m256i b)
{
    a = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(a));
    return a;
}

INLINE __m256i add32(__m256i a, __m256i b)
{
    a = _mm256_add_epi32(a, b);
    __asm__("" : "+x"(a));
    return a;
}

/* Steps whose int16 sums cannot overflow. */
INLINE uint32_t chain_of(uint32_t bits)
{
    return bits == 4 ? 8 : bits == 5 ? 4 : 2;
}

/* 32 codes of step s: rows 8 r .. 8 r + 7. */
INLINE __m256i step_codes(uint32_t bits, const uint8_t *p, uint32_t s, uint32_t r)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i x, hi;

    p += 32 * (size_t)r;
    if (bits == 8)
        return load(p + 64 * (size_t)s);
    x = load(p + 64 * (size_t)(s / 2));
    x = _mm256_and_si256(s % 2 == 0 ? x : _mm256_srli_epi16(x, 4), low);
    if (bits == 4)
        return x;
    if (bits == 5) {
        hi = load(p + 256);
        hi = s <= 4 ? _mm256_slli_epi16(hi, 4 - (int)s) : _mm256_srli_epi16(hi, (int)s - 4);
        return _mm256_or_si256(x, _mm256_and_si256(hi, _mm256_set1_epi8(16)));
    }
    hi = load(p + 256 + 64 * (size_t)(s / 4));
    hi = s % 4 <= 2 ? _mm256_slli_epi16(hi, 4 - 2 * (int)(s % 4)) : _mm256_srli_epi16(hi, 2);
    return _mm256_or_si256(x, _mm256_and_si256(hi, _mm256_set1_epi8(0x30)));
}

INLINE __m256 small_scales(const uint8_t *p, bool is_signed)
{
    __m128i b = _mm_loadl_epi64((const void *)p);

    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
}

/* Scales of one cell; head: where d and m of its super-block (or its own) are. */
INLINE struct scales cell_scales(const struct shape f, const uint8_t *cell, const uint8_t *head)
{
    struct scales x;

    for (uint32_t r = 0; r < 2; r++)
        for (uint32_t h = 0; h < f.halves; h++) {
            __m256 d = load_half(head + 16 * r), m;

            if (f.cells > 1)
                d = _mm256_mul_ps(d, small_scales(cell + 16 * h + 8 * r, f.halves == 2));
            m = _mm256_mul_ps(d, _mm256_set1_ps(-(float)f.zero));
            if (f.has_min)
                m = load_half(head + 32 + 16 * r);
            if (f.has_min && f.cells > 1)
                m = _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), m),
                                  small_scales(cell + 16 + 8 * r, false));
            x.s[h][r] = d;
            x.m[h][r] = m;
        }
    return x;
}

/* acc[2][w] += the int32 sums of a half of a cell, scaled. */
INLINE void add_sums(uint32_t w, bool has_zero, __m256 acc[2][TILE], __m256i sum[2][TILE],
                     const __m256 s[2], const __m256 m[2], const uint8_t *act, uint32_t at)
{
#pragma GCC unroll 4
    for (uint32_t t = 0; t < w; t++) {
        __m256 scale = broadcast(act, t);

#pragma GCC unroll 2
        for (uint32_t r = 0; r < 2; r++) {
            acc[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][t]), _mm256_mul_ps(s[r], scale),
                                        acc[r][t]);
            if (has_zero)
                acc[r][t] = _mm256_fmadd_ps(m[r], broadcast(act, at * w + t), acc[r][t]);
        }
    }
}

/* sum[2][w] = int32 sums over steps [s0, s1), by int16 chains.  bits says how long a chain may
 * be; stored how wide the codes lie at p (8 in a panel). */
INLINE void chained_sums(uint32_t bits, uint32_t stored, uint32_t w, const uint8_t *p,
                         const uint8_t *q, uint32_t s0, uint32_t s1, __m256i sum[2][TILE])
{
    const __m256i ones = _mm256_set1_epi16(1);
    uint32_t chain = chain_of(bits);

#pragma GCC unroll 4
    for (uint32_t c = s0; c < s1; c += chain) {
        __m256i x16[2][TILE];

#pragma GCC unroll 8
        for (uint32_t s = c; s < c + chain; s++) {
            __m256i x0 = step_codes(stored, p, s, 0), x1 = step_codes(stored, p, s, 1);

#pragma GCC unroll 4
            for (uint32_t t = 0; t < w; t++) {
                __m256i a = broadcast4(q + 4 * (s * w + t));
                __m256i y0 = _mm256_maddubs_epi16(x0, a), y1 = _mm256_maddubs_epi16(x1, a);

                x16[0][t] = s == c ? y0 : add16(x16[0][t], y0);
                x16[1][t] = s == c ? y1 : add16(x16[1][t], y1);
            }
        }
#pragma GCC unroll 4
        for (uint32_t t = 0; t < w; t++)
#pragma GCC unroll 2
            for (uint32_t r = 0; r < 2; r++) {
                __m256i y = _mm256_madd_epi16(x16[r][t], ones);

                sum[r][t] = c == s0 ? y : add32(sum[r][t], y);
            }
    }
}

/* The same for 8-bit codes of offset 128, as signed numbers. */
INLINE void signed_sums(uint32_t w, const uint8_t *p, const uint8_t *q, __m256i sum[2][TILE])
{
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);

#pragma GCC unroll 4
    for (uint32_t t = 0; t < w; t++)
        sum[0][t] = sum[1][t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (uint32_t s = 0; s < 8; s++) {
        __m256i x0 = _mm256_xor_si256(load(p + 64 * (size_t)s), flip);
        __m256i x1 = _mm256_xor_si256(load(p + 64 * (size_t)s + 32), flip);
        __m256i u0 = _mm256_abs_epi8(x0), u1 = _mm256_abs_epi8(x1);

#pragma GCC unroll 4
        for (uint32_t t = 0; t < w; t++) {
            __m256i a = broadcast4(q + 4 * (s * w + t));
            __m256i y0 = _mm256_maddubs_epi16(u0, _mm256_sign_epi8(a, x0));
            __m256i y1 = _mm256_maddubs_epi16(u1, _mm256_sign_epi8(a, x1));

            sum[0][t] = add32(sum[0][t], _mm256_madd_epi16(y0, ones));
            sum[1][t] = add32(sum[1][t], _mm256_madd_epi16(y1, ones));
        }
    }
}

/* acc[2][w] = one group x w activation rows, all inputs. */
INLINE void group_direct(const struct shape f, uint32_t w, const uint8_t *p, const uint8_t *act,
                         uint32_t cells, __m256 acc[2][TILE])
{
    uint32_t steps = 8 / f.halves;

#pragma GCC unroll 4
    for (uint32_t t = 0; t < w; t++)
        acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < cells; b += f.cells) {
        const uint8_t *head = p;

        p += f.head_bytes;
        for (uint32_t c = 0; c < f.cells; c++, p += f.cell_bytes, act += w * KERN_ACT_BYTES) {
            struct scales x = cell_scales(f, p, f.cells > 1 ? head : p);

            _mm_prefetch((const char *)p + 2048, _MM_HINT_T0);
#pragma GCC unroll 2
            for (uint32_t h = 0; h < f.halves; h++) {
                __m256i sum[2][TILE];

                if (f.bits == 8)
                    signed_sums(w, p + f.code_at, act + 16 * w, sum);
                else
                    chained_sums(f.bits, f.bits, w, p + f.code_at, act + 16 * w, h * steps,
                                 (h + 1) * steps, sum);
                add_sums(w, f.bits != 8, acc, sum, x.s[h], x.m[h], act, f.halves == 2 ? 2 + h : 1);
            }
        }
    }
}

/* Opens `cells` cells of a group.  p: at a super-block's start. */
INLINE void open_panel(const struct shape f, const uint8_t *p, uint32_t cells, uint8_t *panel)
{
    for (uint32_t b = 0; b < cells; b += f.cells) {
        const uint8_t *head = p;

        p += f.head_bytes;
        for (uint32_t c = 0; c < f.cells; c++, p += f.cell_bytes, panel += PANEL_CELL(f.halves)) {
            struct scales x = cell_scales(f, p, f.cells > 1 ? head : p);
            float *scale = (float *)(void *)(panel + PANEL_CODES);

#pragma GCC unroll 8
            for (uint32_t s = 0; s < 8; s++)
                for (uint32_t r = 0; r < 2; r++)
                    _mm256_store_si256((void *)(panel + 64 * s + 32 * r),
                                       step_codes(f.bits, p + f.code_at, s, r));
            for (uint32_t h = 0; h < f.halves; h++)
                for (uint32_t r = 0; r < 2; r++) {
                    _mm256_store_ps(scale + 16 * h + 8 * r, x.s[h][r]);
                    _mm256_store_ps(scale + 16 * (f.halves + h) + 8 * r, x.m[h][r]);
                }
        }
    }
}

/* Weights to be opened next, fetched while the tiles of the present panel compute: with few tiles
 * a panel, memory would otherwise rest meanwhile. */
struct ahead {
    const uint8_t *p;
    uint32_t step; /* bytes for a cell of a tile; 0 = nothing left to fetch */
};

/* acc[2][w] += panel x w activation rows. */
INLINE void panel_tile(uint32_t bits, uint32_t w, const uint8_t *panel, const uint8_t *act,
                       uint32_t cells, struct ahead next, __m256 acc[2][TILE])
{
    uint32_t halves = bits == 6 ? 2 : 1, steps = 8 / halves;

    for (uint32_t b = 0; b < cells; b++, next.p += next.step) {
        const float *scale = (const float *)(const void *)(panel + PANEL_CODES);

        for (uint32_t i = 0; i < next.step; i += 64)
            _mm_prefetch((const char *)next.p + i, _MM_HINT_T0);
#pragma GCC unroll 2
        for (uint32_t h = 0; h < halves; h++) {
            const float *s0 = scale + 16 * h, *m0 = scale + 16 * (halves + h);
            __m256 s[2] = { _mm256_load_ps(s0), _mm256_load_ps(s0 + 8) };
            __m256 m[2] = { _mm256_load_ps(m0), _mm256_load_ps(m0 + 8) };
            __m256i sum[2][TILE];

            chained_sums(bits, 8, w, panel, act + 16 * w, h * steps, (h + 1) * steps, sum);
            add_sums(w, true, acc, sum, s, m, act, halves == 2 ? 2 + h : 1);
        }
        panel += PANEL_CELL(halves);
        act += w * KERN_ACT_BYTES;
    }
}

/* Writes 16 outputs of activation row `row`. */
INLINE void put_group(const struct kern_mm_task *t, uint32_t g, uint32_t row, __m256 v0, __m256 v1)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const struct kern_mm *mm = t->mm;
    int left = (int)(mm->w->rows - g * KERN_GROUP);
    float *y = mm->y + row * mm->ldy + (size_t)g * KERN_GROUP;
    __m256 v[2] = { v0, v1 };

#pragma GCC unroll 2
    for (int r = 0; r < 2; r++, left -= 8, y += 8) {
        __m256i k = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane);

        if (mm->bias != NULL)
            v[r] = _mm256_add_ps(v[r],
                                 _mm256_maskload_ps(mm->bias + (size_t)g * KERN_GROUP + 8 * r, k));
        if (mm->add)
            v[r] = _mm256_add_ps(_mm256_maskload_ps(y, k), v[r]);
        if (left >= 8)
            _mm256_storeu_ps(y, v[r]);
        else
            _mm256_maskstore_ps(y, k, v[r]);
    }
}

INLINE void direct_tile(const struct shape f, uint32_t w, const struct kern_mm_task *t, uint32_t g,
                        uint32_t row)
{
    uint32_t cells = t->act->cols / KERN_CELL;
    size_t size = (size_t)cells / f.cells * (f.head_bytes + f.cells * f.cell_bytes);
    __m256 acc[2][TILE];

    group_direct(f, w, (const uint8_t *)t->mm->w->data + g * size, kern_act_panel(t->act, row),
                 cells, acc);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < w; i++)
        put_group(t, g, row + i, acc[0][i], acc[1][i]);
}

/* One tile of w rows over one chunk of inputs; between chunks the sums wait in `kept`. */
INLINE void chunk_tile(uint32_t bits, uint32_t w, const struct kern_mm_task *t, uint32_t g,
                       uint32_t row, const uint8_t *act, uint32_t cells, struct ahead next,
                       float *kept, bool is_first, bool is_last)
{
    __m256 acc[2][TILE];

#pragma GCC unroll 4
    for (uint32_t i = 0; i < w; i++)
#pragma GCC unroll 2
        for (uint32_t r = 0; r < 2; r++)
            acc[r][i] = is_first ? _mm256_setzero_ps() : _mm256_load_ps(kept + 16 * i + 8 * r);
    panel_tile(bits, w, t->scratch, act, cells, next, acc);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < w; i++) {
        if (is_last) {
            put_group(t, g, row + i, acc[0][i], acc[1][i]);
            continue;
        }
        _mm256_store_ps(kept + 16 * i, acc[0][i]);
        _mm256_store_ps(kept + 16 * i + 8, acc[1][i]);
    }
}

typedef void chunk_fn(const struct kern_mm_task *t, uint32_t g, uint32_t row, const uint8_t *act,
                      uint32_t cells, struct ahead next, float *kept, bool is_first, bool is_last);
typedef void open_fn(const uint8_t *p, uint32_t cells, uint8_t *panel);
typedef void direct_fn(const struct kern_mm_task *t, uint32_t g, uint32_t row);

#define CHUNK(bits, w)                                                                             \
    static void chunk_##bits##_##w(const struct kern_mm_task *t, uint32_t g, uint32_t row,         \
                                   const uint8_t *act, uint32_t cells, struct ahead next,          \
                                   float *kept, bool is_first, bool is_last)                       \
    {                                                                                              \
        chunk_tile(bits, w, t, g, row, act, cells, next, kept, is_first, is_last);                 \
    }
#define CHUNKS(bits) CHUNK(bits, 1) CHUNK(bits, 2) CHUNK(bits, 3) CHUNK(bits, 4)
CHUNKS(4)
CHUNKS(5)
CHUNKS(6)

static chunk_fn *const chunk_fns[3][TILE] = {
    { chunk_4_1, chunk_4_2, chunk_4_3, chunk_4_4 },
    { chunk_5_1, chunk_5_2, chunk_5_3, chunk_5_4 },
    { chunk_6_1, chunk_6_2, chunk_6_3, chunk_6_4 },
};

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

#define DIRECT(name, w)                                                                            \
    static void direct_##name##_##w(const struct kern_mm_task *t, uint32_t g, uint32_t row)        \
    {                                                                                              \
        direct_tile(shape_##name, w, t, g, row);                                                   \
    }
#define FUNCTIONS(name, bits, zero, min, halves, cells, head, cell, code)                          \
    static const struct shape shape_##name = { bits, zero, min, halves, cells, head, cell, code }; \
    static void open_##name(const uint8_t *p, uint32_t n, uint8_t *panel)                          \
    {                                                                                              \
        open_panel(shape_##name, p, n, panel);                                                     \
    }                                                                                              \
    DIRECT(name, 1) DIRECT(name, 2) DIRECT(name, 3) DIRECT(name, 4)
SHAPES(FUNCTIONS)

struct variant {
    uint32_t type;
    open_fn *open;
    direct_fn *direct[TILE];
};

#define VARIANT(name, bits, zero, min, halves, cells, head, cell, code)                            \
    { KT_##name,                                                                                   \
      open_##name,                                                                                 \
      { direct_##name##_1, direct_##name##_2, direct_##name##_3, direct_##name##_4 } },
static const struct variant variants[] = { SHAPES(VARIANT) };

/* All tiles of a task over the panel of group g, inputs from cell c0 on. */
static void panel_rows(const struct kern_mm_task *t, uint32_t g, uint32_t c0, uint32_t n,
                       const uint8_t *next, size_t next_bytes)
{
    uint32_t cells = t->act->cols / KERN_CELL, tiles = (t->t1 - t->t0 + TILE - 1) / TILE;
    float *kept = (float *)(void *)((uint8_t *)t->scratch + PANEL_CELLS * PANEL_CELL(2));
    uint32_t step = (uint32_t)(next_bytes / (n * tiles) + 63) / 64 * 64;
    struct ahead ahead = { next, 0 };

    for (uint32_t row = t->t0; row < t->t1; row += TILE) {
        uint32_t w = MIN(TILE, t->t1 - row);
        const uint8_t *act = kern_act_panel(t->act, row) + (size_t)c0 * w * KERN_ACT_BYTES;

        ahead.step = ahead.p < next + next_bytes ? step : 0;
        chunk_fns[t->form->bits - 4][w - 1](t, g, row, act, n, ahead, kept + (row - t->t0) * 16,
                                            c0 == 0, c0 + n == cells);
        ahead.p += (size_t)n * ahead.step;
    }
}

static void many_rows(const struct kern_mm_task *t, open_fn *open)
{
    uint32_t cells = t->act->cols / KERN_CELL;
    size_t size = kern_group_bytes(t->form, t->act->cols), cell = size / cells;

    for (uint32_t g = t->g0; g < t->g1; g++)
        for (uint32_t c0 = 0, n; c0 < cells; c0 += n) {
            const uint8_t *p = (const uint8_t *)t->mm->w->data + g * size + c0 * cell;
            size_t next_bytes = 0;

            n = MIN(PANEL_CELLS, cells - c0);
            open(p, n, t->scratch);
            if (c0 + n < cells) /* groups follow each other: what comes next lies next */
                next_bytes = MIN(PANEL_CELLS, cells - c0 - n) * cell;
            else if (g + 1 < t->g1)
                next_bytes = MIN(PANEL_CELLS, cells) * cell;
            panel_rows(t, g, c0, n, p + n * cell, next_bytes);
        }
}

static void direct_rows(const struct kern_mm_task *t, direct_fn *const *direct)
{
    for (uint32_t g = t->g0; g < t->g1; g++)
        for (uint32_t row = t->t0; row < t->t1; row += TILE)
            direct[MIN(TILE, t->t1 - row) - 1](t, g, row);
}

/* ---- float weights: [cols][16] per group, activations f32 ---- */

INLINE __m256 float_weights(uint32_t type, const uint8_t *p)
{
    if (type == KT_F32)
        return _mm256_loadu_ps((const float *)(const void *)p);
    if (type == KT_F16)
        return load_half(p);
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}

INLINE void float_tile(uint32_t type, uint32_t w, const struct kern_mm_task *t, uint32_t g,
                       uint32_t row)
{
    uint32_t cols = t->act->cols, half = type == KT_F32 ? 32 : 16;
    const uint8_t *p = (const uint8_t *)t->mm->w->data + (size_t)g * cols * 2 * half;
    const float *x = t->act->f32 + (size_t)row * cols;
    __m256 acc[2][TILE];

#pragma GCC unroll 4
    for (uint32_t i = 0; i < w; i++)
        acc[0][i] = acc[1][i] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < cols; k++, p += 2 * half) {
        __m256 w0 = float_weights(type, p), w1 = float_weights(type, p + half);

#pragma GCC unroll 4
        for (uint32_t i = 0; i < w; i++) {
            __m256 a = _mm256_broadcast_ss(x + (size_t)i * cols + k);

            acc[0][i] = _mm256_fmadd_ps(w0, a, acc[0][i]);
            acc[1][i] = _mm256_fmadd_ps(w1, a, acc[1][i]);
        }
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < w; i++)
        put_group(t, g, row + i, acc[0][i], acc[1][i]);
}

INLINE void float_rows(uint32_t type, const struct kern_mm_task *t)
{
    for (uint32_t g = t->g0; g < t->g1; g++) {
        uint32_t row = t->t0;

        for (; row + TILE <= t->t1; row += TILE)
            float_tile(type, TILE, t, g, row);
        for (; row < t->t1; row++)
            float_tile(type, 1, t, g, row);
    }
}

void kern_mm_avx2(const struct kern_mm_task *t)
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
    if (t->form->bits == 8 || t->act->n <= TILE)
        direct_rows(t, v->direct);
    else
        many_rows(t, v->open);
}

/* ---- activations ---- */

INLINE float largest(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

INLINE void quantize_32(const float *x, float *scale, uint32_t w, int8_t *q)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256i lo = _mm256_set1_epi32(-127), hi = _mm256_set1_epi32(127);
    __m256 v[4], m = _mm256_setzero_ps(), inv;
    __m256i i[4], c;
    __m128i s0, s1;
    float amax;
    int sum0, sum1;

    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_loadu_ps(x + 8 * k);
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, v[k]));
    }
    amax = largest(m);
    inv = _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0);
    for (int k = 0; k < 4; k++) {
        i[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], inv));
        i[k] = _mm256_max_epi32(_mm256_min_epi32(i[k], hi), lo);
    }
    s0 = _mm256_castsi256_si128(_mm256_hadd_epi32(i[0], i[1]));
    s0 = _mm_add_epi32(s0, _mm256_extracti128_si256(_mm256_hadd_epi32(i[0], i[1]), 1));
    s1 = _mm256_castsi256_si128(_mm256_hadd_epi32(i[2], i[3]));
    s1 = _mm_add_epi32(s1, _mm256_extracti128_si256(_mm256_hadd_epi32(i[2], i[3]), 1));
    s0 = _mm_hadd_epi32(s0, s1);
    s0 = _mm_hadd_epi32(s0, s0);
    sum0 = _mm_cvtsi128_si32(s0);
    sum1 = _mm_extract_epi32(s0, 1);
    /* Packing works within 128-bit halves: the permutation puts the words in order again. */
    c = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
    c = _mm256_permutevar8x32_epi32(c, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
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

void kern_act_avx2(uint8_t *dst, const float *x, uint32_t w, uint32_t cols)
{
    for (uint32_t b = 0; b < cols / KERN_CELL; b++, dst += w * KERN_ACT_BYTES)
        for (uint32_t t = 0; t < w; t++)
            quantize_32(x + (size_t)t * cols + (size_t)b * KERN_CELL, (float *)(void *)dst + t, w,
                        (int8_t *)dst + 16 * w + 4 * t);
}
