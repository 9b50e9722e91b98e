/* kernels/attn_simd.h - attention over a level's vector vocabulary (simd_*.h and rows_simd.h,
 * included before): the same code for every vector width, compiled once per level.
 *
 * For one tile of KERN_KEYS keys, K is opened to f32 and transposed into sub-panels
 * [dim][2 vectors of keys], V into [key][dim].  Then every V_TILE query rows pass over them:
 *
 *   scores[row][key] = sum over dim, ascending, of q[row][dim] * K[dim][key]      (lanes = keys)
 *   p = exp(score - max) for visible keys, else 0; sum over lanes, fixed order
 *   acc[row][dim] = sum over keys, ascending, of p[row][key] * V[key][dim]        (lanes = dims)
 *
 * A key that a row does not see adds exactly nothing (p = 0 and V finite), so rows of different
 * positions can share the loops and still get the bits they would get alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_ATTN_SIMD_H
#define KERNELS_ATTN_SIMD_H
#include "kernels/kern_priv.h"
#include <float.h>

#define SUB      (2 * V_LANES) /* keys of a sub-panel */
#define UNIT_MAX (KERN_ATTN_ROWS + V_TILE)

static_assert(KERN_KEYS % SUB == 0, "sub-panels fill a tile");
static_assert(KERN_HEAD_MAX % (2 * V_LANES) == 0, "whole vectors");

/* What a thread's scratch holds during a ticket. */
struct attn_room {
    float *q;     /* [row tile][head_dim][V_TILE], scaled */
    float *k, *v; /* opened keys and values of the tile */
    float *p;     /* [V_TILE][KERN_KEYS] */
    float *acc;   /* [V_TILE][head_dim] */
    float *o;     /* [rows][head_dim], merged so far */
    float max[UNIT_MAX], sum[UNIT_MAX];
    uint32_t lo[UNIT_MAX], hi[UNIT_MAX]; /* visible keys of each row */
    const uint16_t *key[KERN_KEYS];
};

static_assert(sizeof(struct attn_room) + 64 * 6 +
                      sizeof(float) *
                          (2 * KERN_KEYS * KERN_HEAD_MAX + V_TILE * (KERN_KEYS + KERN_HEAD_MAX) +
                           2 * UNIT_MAX * KERN_HEAD_MAX) <=
                  KERN_SCRATCH,
              "a unit fits the scratch");

static const uint16_t attn_no_key[KERN_HEAD_MAX]; /* stands for keys that nobody sees */

V_INLINE float *attn_take(uint8_t **at, size_t floats)
{
    float *p = (float *)(void *)*at;

    *at += (floats * sizeof(float) + 63) / 64 * 64;
    return p;
}

V_INLINE struct attn_room *attn_rooms(void *scratch, uint32_t rows, uint32_t d)
{
    struct attn_room *r = scratch;
    uint8_t *at = (uint8_t *)scratch + (sizeof(*r) + 63) / 64 * 64;
    uint32_t padded = (rows + V_TILE - 1) / V_TILE * V_TILE;

    r->q = attn_take(&at, (size_t)padded * d);
    r->k = attn_take(&at, (size_t)KERN_KEYS * d);
    r->v = attn_take(&at, (size_t)KERN_KEYS * d);
    r->p = attn_take(&at, (size_t)V_TILE * KERN_KEYS);
    r->acc = attn_take(&at, (size_t)V_TILE * d);
    r->o = attn_take(&at, (size_t)padded * d);
    return r;
}

/* Element offset of query row `row` of this KV head in q and out. */
V_INLINE size_t attn_row_at(const struct kern_attn_task *t, uint32_t row)
{
    uint32_t group = t->a->heads / t->a->kv_heads;
    size_t token = t->seq->q_row + row / group;

    return (token * t->a->heads + t->kv_head * group + row % group) * t->a->head_dim;
}

static void attn_open_queries(const struct kern_attn_task *t, struct attn_room *r)
{
    uint32_t d = t->a->head_dim, rows = t->r1 - t->r0;

    for (uint32_t i = 0; i < rows; i++) {
        const float *q = t->a->q + attn_row_at(t, t->r0 + i);
        float *dst = r->q + (size_t)(i / V_TILE) * V_TILE * d + i % V_TILE;

        for (uint32_t k = 0; k < d; k++)
            dst[k * V_TILE] = q[k] * t->a->scale;
        r->max[i] = -FLT_MAX;
        r->sum[i] = 0;
        kern_attn_range(t->a, t->seq, t->r0 + i, &r->lo[i], &r->hi[i]);
    }
    for (size_t i = 0; i < (size_t)rows * d; i += V_LANES)
        v_store(r->o + i, v_zero());
}

/* Opens the tile's keys [lo, hi); all others read as zero. */
static void attn_open_keys(const struct kern_attn_task *t, struct attn_room *r, uint32_t first,
                           uint32_t lo, uint32_t hi)
{
    uint32_t d = t->a->head_dim;
    size_t to_v = kern_attn_v_offset(t->a);

    for (uint32_t i = 0; i < KERN_KEYS; i++)
        r->key[i] = first + i >= lo && first + i < hi
                        ? kern_attn_key(t->a, t->seq, t->kv_head, first + i)
                        : attn_no_key;
    for (uint32_t i = (lo - first) / SUB * SUB; i < hi - first; i += V_LANES) {
        float *dst = r->k + (size_t)(i / SUB) * SUB * d + i % SUB;

        for (uint32_t k = 0; k < d; k += V_LANES) {
            vf x[V_LANES];

#pragma GCC unroll 16
            for (uint32_t j = 0; j < V_LANES; j++)
                x[j] = v_load_half(r->key[i + j] + k);
            v_transpose(x);
#pragma GCC unroll 16
            for (uint32_t j = 0; j < V_LANES; j++)
                v_store(dst + (size_t)(k + j) * SUB, x[j]);
        }
    }
    for (uint32_t i = lo - first; i < hi - first; i++)
        for (uint32_t k = 0; k < d; k += V_LANES)
            v_store(r->v + (size_t)i * d + k, v_load_half(r->key[i] + to_v + k));
}

/* s[w][SUB keys] = q[w] . K, one sub-panel. */
V_INLINE void attn_scores(uint32_t w, const float *q, const float *k, uint32_t d, float *s)
{
    vf acc[V_TILE][2];

#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++)
        acc[i][0] = acc[i][1] = v_zero();
    for (uint32_t n = 0; n < d; n++, k += SUB, q += V_TILE) {
        vf k0 = v_load(k), k1 = v_load(k + V_LANES);

#pragma GCC unroll 6
        for (uint32_t i = 0; i < w; i++) {
            vf x = v_set1(q[i]);

            acc[i][0] = v_fma(x, k0, acc[i][0]);
            acc[i][1] = v_fma(x, k1, acc[i][1]);
        }
    }
#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++) {
        v_store(s + (size_t)i * KERN_KEYS, acc[i][0]);
        v_store(s + (size_t)i * KERN_KEYS + V_LANES, acc[i][1]);
    }
}

/* acc[w][n vectors of dims] = p[w][keys] . V[keys][d], keys [lo, hi) of the tile. */
V_INLINE void attn_values(uint32_t w, uint32_t n, const float *p, const float *v, uint32_t d,
                          uint32_t lo, uint32_t hi, float *out)
{
    vf acc[V_TILE][2];

#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++)
        acc[i][0] = acc[i][1] = v_zero();
    v += (size_t)lo * d;
    for (uint32_t key = lo; key < hi; key++, v += d) {
        vf v0 = v_load(v), v1 = n == 2 ? v_load(v + V_LANES) : v_zero();

#pragma GCC unroll 6
        for (uint32_t i = 0; i < w; i++) {
            vf x = v_set1(p[i * KERN_KEYS + key]);

            acc[i][0] = v_fma(x, v0, acc[i][0]);
            if (n == 2)
                acc[i][1] = v_fma(x, v1, acc[i][1]);
        }
    }
#pragma GCC unroll 6
    for (uint32_t i = 0; i < w; i++) {
        v_store(out + (size_t)i * d, acc[i][0]);
        if (n == 2)
            v_store(out + (size_t)i * d + V_LANES, acc[i][1]);
    }
}

/* Scores to weights in place for keys [from, to) of the tile; returns max and sum. */
V_INLINE void attn_softmax(float *s, uint32_t from, uint32_t to, uint32_t lo, uint32_t hi,
                           float *max, float *sum)
{
    vf m = v_set1(-FLT_MAX), total = v_zero();

    for (uint32_t i = from; i < to; i += V_LANES)
        m = v_max(m, v_within(v_load(s + i), v_set1(-FLT_MAX), i, lo, hi));
    *max = v_largest(m);
    m = v_set1(*max);
    for (uint32_t i = from; i < to; i += V_LANES) {
        vf p = v_within(v_exp(v_sub(v_load(s + i), m)), v_zero(), i, lo, hi);

        total = v_add(total, p);
        v_store(s + i, p);
    }
    *sum = v_sum(total);
}

/* Merges a tile's (max, sum, acc) into a row's. */
V_INLINE void attn_merge(float *o, float *max, float *sum, float tmax, float tsum, const float *acc,
                         uint32_t d)
{
    float m = *max > tmax ? *max : tmax, e[V_LANES];
    vf c1, c2;

    if (tsum == 0) /* the row sees no key of this tile */
        return;
    c1 = v_exp(v_set1(*max - m));
    c2 = v_exp(v_set1(tmax - m));
    for (uint32_t i = 0; i < d; i += V_LANES)
        v_store(o + i, v_fma(v_load(acc + i), c2, v_mul(v_load(o + i), c1)));
    v_store(e, v_fma(v_set1(tsum), c2, v_mul(v_set1(*sum), c1)));
    *sum = e[0];
    *max = m;
}

V_INLINE void attn_finish(float *out, const float *o, float sum, uint32_t d)
{
    vf r = v_set1(1 / sum);

    for (uint32_t i = 0; i < d; i += V_LANES)
        v_store(out + i, v_mul(v_load(o + i), r));
}

/* One tile of keys for the w query rows from i0 on. */
V_INLINE void attn_rows(uint32_t w, const struct kern_attn_task *t, struct attn_room *r,
                        uint32_t i0, uint32_t tile)
{
    uint32_t first = tile * KERN_KEYS, d = t->a->head_dim, c = 0;
    /* Positions rise with the rows: the first sees the lowest key, the last the highest. */
    uint32_t lo = MAX(r->lo[i0], first), hi = MIN(r->hi[i0 + w - 1], first + KERN_KEYS);
    uint32_t from, to;
    float max[V_TILE], sum[V_TILE];

    for (uint32_t i = 0; i < w; i++)
        sum[i] = max[i] = 0;
    if (lo < hi) {
        lo -= first;
        hi -= first;
        from = lo / SUB * SUB;
        to = (hi + SUB - 1) / SUB * SUB;
        for (uint32_t i = from; i < to; i += SUB)
            attn_scores(w, r->q + (size_t)i0 * d, r->k + (size_t)i * d, d, r->p + i);
        for (uint32_t i = 0; i < w; i++) {
            uint32_t a = r->lo[i0 + i], b = r->hi[i0 + i];

            attn_softmax(r->p + (size_t)i * KERN_KEYS, from, to, a > first ? a - first : 0,
                         b > first ? b - first : 0, &max[i], &sum[i]);
        }
        for (; c + 2 * V_LANES <= d; c += 2 * V_LANES)
            attn_values(w, 2, r->p, r->v + c, d, lo, hi, r->acc + c);
        for (; c < d; c += V_LANES)
            attn_values(w, 1, r->p, r->v + c, d, lo, hi, r->acc + c);
    }
    for (uint32_t i = 0; i < w; i++) {
        uint32_t row = i0 + i;
        float *part;

        if (t->part == NULL) {
            attn_merge(r->o + (size_t)row * d, &r->max[row], &r->sum[row], max[i], sum[i],
                       r->acc + (size_t)i * d, d);
            continue;
        }
        part = t->part + ((size_t)row * t->part_tiles + tile - t->tile0) * (d + 2);
        part[0] = max[i];
        part[1] = sum[i];
        for (uint32_t k = 0; k < d; k += V_LANES)
            v_store(part + 2 + k, v_load(r->acc + (size_t)i * d + k));
    }
}

V_INLINE void attn_row_tile(uint32_t w, const struct kern_attn_task *t, struct attn_room *r,
                            uint32_t i0, uint32_t tile)
{
    switch (w) {
    case 1: attn_rows(1, t, r, i0, tile); break;
    case 2: attn_rows(2, t, r, i0, tile); break;
    case 3: attn_rows(3, t, r, i0, tile); break;
    case 4: attn_rows(4, t, r, i0, tile); break;
    case 5: attn_rows(5, t, r, i0, tile); break;
    default: attn_rows(6, t, r, i0, tile); break;
    }
}

static void attn_task(const struct kern_attn_task *t)
{
    uint32_t rows = t->r1 - t->r0, d = t->a->head_dim;
    struct attn_room *r;

    if (d % V_LANES != 0 || d > KERN_HEAD_MAX) {
        kern_ops_scalar.attn(t);
        return;
    }
    r = attn_rooms(t->scratch, rows, d);
    attn_open_queries(t, r);
    for (uint32_t tile = t->tile0; tile < t->tile1; tile++) {
        uint32_t first = tile * KERN_KEYS;
        uint32_t lo = MAX(r->lo[0], first), hi = MIN(r->hi[rows - 1], first + KERN_KEYS);

        if (lo < hi)
            attn_open_keys(t, r, first, lo, hi);
        for (uint32_t i = 0; (lo < hi || t->part != NULL) && i < rows; i += V_TILE)
            attn_row_tile(MIN(V_TILE, rows - i), t, r, i, tile);
    }
    for (uint32_t i = 0; t->part == NULL && i < rows; i++)
        attn_finish(t->a->out + attn_row_at(t, t->r0 + i), r->o + (size_t)i * d, r->sum[i], d);
}

static void attn_merge_row(float *out, const float *part, uint32_t tiles, uint32_t d)
{
    float o[KERN_HEAD_MAX], max = -FLT_MAX, sum = 0;

    if (d % V_LANES != 0 || d > KERN_HEAD_MAX) {
        kern_ops_scalar.attn_merge(out, part, tiles, d);
        return;
    }
    for (uint32_t i = 0; i < d; i += V_LANES)
        v_store(o + i, v_zero());
    for (uint32_t i = 0; i < tiles; i++, part += d + 2)
        attn_merge(o, &max, &sum, part[0], part[1], part + 2, d);
    attn_finish(out, o, sum, d);
}
#endif
