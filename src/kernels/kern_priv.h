/* kernels/kern_priv.h - what the files of this module share: the packed layout and the level table.
 *
 * Packed weights.  A *group* is 16 output rows; a *cell* is a group x 32 inputs; a *step* is a
 * group x 4 inputs = 64 codes, row-major, which is one 512-bit or two 256-bit registers.  Codes are
 * unsigned.  A group's cells follow each other, groups follow each other: matmul is one stream.
 *
 *   block types (Q4_0 Q4_1 Q5_0 Q5_1 Q8_0)         super-block types (Q4_K Q5_K Q6_K)
 *     cell: f16 d[16] (f16 min[16]) codes            head: f16 d[16] (f16 dmin[16])
 *                                                    8 x cell: sc[halves][16] (m[16]) codes
 *   codes: 4 x 64 bytes; byte j of chunk c holds code j of step 2c in its low nibble and of step
 *          2c+1 in its high one (8-bit codes: 8 x 64 bytes, a step each)
 *          5-bit: + 64 bytes, bit s of byte j is bit 4 of code j of step s
 *          6-bit: + 2 x 64 bytes, bits 2t..2t+1 of byte j of half p are bits 4..5 of step 4p + t
 *
 * A weight is scale * code + min for all types: min = -scale * zero where the type has none.
 * Every value of scale and min is exact in f32 (an f16 times at most 8 bits).
 * Float types: [cols][16 rows] elements per group.
 *
 * Packed activations.  Panels of up to `tile` rows (the level's), w wide; per 32 inputs:
 *   f32 scale[w], f32 s[w], f32 s0[w], f32 s1[w]  (scale times the sum of all 32, first, last 16)
 *   i8  q[8 steps][w][4]
 *
 * The one order of summation, per output and for every tile shape: for each cell in ascending
 * order, for each half: acc = fma(float(int sum), scale_w * scale_a, acc), then
 * acc = fma(min, s, acc). */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_KERN_PRIV_H
#define KERNELS_KERN_PRIV_H
#include "base/check.h"
#include "kernels/kernels.h"

#define KERN_GROUP     16 /* rows of a group */
#define KERN_CELL      32 /* inputs of a cell */
#define KERN_ACT_BYTES 48 /* packed bytes of 32 activations */
#define KERN_TILE_MAX  16
#define KERN_SCRATCH   ((size_t)1 << 20) /* bytes a thread has for panels */
#define KERN_KEYS      128               /* keys of an attention tile, cut at absolute positions */
#define KERN_HEAD_MAX  256               /* head_dim of the vector attention */
#define KERN_ATTN_ROWS 96                /* query rows of an attention unit */

enum kern_type { /* ggml's numbers */
                 KT_F32 = 0,
                 KT_F16 = 1,
                 KT_Q4_0 = 2,
                 KT_Q4_1 = 3,
                 KT_Q5_0 = 6,
                 KT_Q5_1 = 7,
                 KT_Q8_0 = 8,
                 KT_Q4_K = 12,
                 KT_Q5_K = 13,
                 KT_Q6_K = 14,
                 KT_BF16 = 30
};

struct kern_form {
    uint32_t type;
    uint32_t elem_bytes; /* float types: bytes of an element; 0 = codes */
    uint32_t bits;       /* of a code */
    uint32_t zero;       /* code of the value 0 */
    uint32_t has_min;
    uint32_t halves; /* scales a row has in a cell */
    uint32_t cells;  /* in a super-block; 1 = no super-block */
    uint32_t head_bytes, cell_bytes, code_at;
    uint32_t src_bytes; /* GGUF bytes of cells * 32 elements */
};

/* NULL: not a type we pack. */
const struct kern_form *kern_form_of(uint32_t type);

static inline size_t kern_group_bytes(const struct kern_form *f, uint32_t cols)
{
    if (f->elem_bytes != 0)
        return (size_t)cols * KERN_GROUP * f->elem_bytes;
    return (size_t)(cols / KERN_CELL / f->cells) * (f->head_bytes + f->cells * f->cell_bytes);
}

/* A part of one matmul: groups [g0, g1) x activation rows [t0, t1); t0 is a multiple of tile. */
struct kern_mm_task {
    const struct kern_form *form;
    const struct kern_mm *mm;
    const struct kern_act *act;
    uint32_t g0, g1, t0, t1;
    void *scratch; /* KERN_SCRATCH bytes, 64-byte aligned */
};

/* Query rows [r0, r1) of one sequence and KV head (row = token * group + head in group), over the
 * key tiles [tile0, tile1).  part == NULL: tiles are merged and the rows written to out.
 * Otherwise a tile's (max, sum, acc[head_dim]) goes to
 * part[((row - r0) * part_tiles + tile - tile0) * (head_dim + 2)]. */
struct kern_attn_task {
    const struct kern_attn *a;
    const struct kern_attn_seq *seq;
    uint32_t kv_head, r0, r1;
    uint32_t tile0, tile1, part_tiles;
    float *part;
    void *scratch;
};

/* Keys [lo, hi) that query row `row` of a sequence sees. */
static inline void kern_attn_range(const struct kern_attn *a, const struct kern_attn_seq *s,
                                   uint32_t row, uint32_t *lo, uint32_t *hi)
{
    uint32_t pos = s->q_start + row / (a->heads / a->kv_heads);

    *lo = s->first_pos;
    *hi = pos + 1;
    if (a->window != 0 && *hi > a->window && *hi - a->window > *lo)
        *lo = *hi - a->window;
}

/* The K row of a key in its page; V is kern_attn_v_offset elements further on. */
static inline const uint16_t *kern_attn_key(const struct kern_attn *a,
                                            const struct kern_attn_seq *s, uint32_t kv_head,
                                            uint32_t key)
{
    uint32_t at = key - s->first_pos;
    const uint8_t *block = a->kv + s->table[at / a->block_tokens] * a->block_stride;

    return (const uint16_t *)(const void *)(block + a->layer_offset) +
           ((size_t)kv_head * a->block_tokens + at % a->block_tokens) * a->head_dim;
}

static inline size_t kern_attn_v_offset(const struct kern_attn *a)
{
    return (size_t)a->kv_heads * a->block_tokens * a->head_dim;
}

struct kern_ops {
    enum kern_level level;
    const char *name;
    uint32_t tile; /* activation rows of a panel */
    uint32_t pair; /* groups that a task should hold a multiple of */
    /* Quantizes rows x[w][cols] into the panel at dst. */
    void (*act)(uint8_t *dst, const float *x, uint32_t w, uint32_t cols);
    void (*mm)(const struct kern_mm_task *t);
    void (*attn)(const struct kern_attn_task *t);
    /* Merges the tiles of one row, part[tiles][head_dim + 2], into out[head_dim]. */
    void (*attn_merge)(float *out, const float *part, uint32_t tiles, uint32_t head_dim);
    void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t d, float eps);
    void (*glu)(float *out, const float *gate, const float *up, size_t n, int act);
    void (*rope)(float *x, const float *cs, uint32_t heads, uint32_t head_dim, uint32_t rope_dim,
                 int neox);
    void (*to_f16)(uint16_t *dst, const float *src, size_t n);
    void (*to_f32)(float *dst, const uint16_t *src, size_t n);
    void (*add)(float *y, const float *x, size_t n);
    uint32_t (*argmax)(const float *x, uint32_t n);
    uint64_t (*read)(const void *p, size_t n); /* touches n bytes (a multiple of 1024) */
};

extern const struct kern_ops kern_ops_scalar;
#ifdef KERN_X86
extern const struct kern_ops kern_ops_avx2, kern_ops_avx512;
#endif

const struct kern_ops *kern_ops_now(void);

void *kern_pool_scratch(struct kern_pool *p, uint32_t thread);
/* The caller's own growing buffers, which: 0 or 1; valid until asked for again. */
void *kern_pool_work(struct kern_pool *p, uint32_t which, size_t size);

/* The half-precision conversions of the scalar level: round to nearest even, subnormals exact. */
float kern_half_to_float(uint16_t h);
uint16_t kern_float_to_half(float f);

static inline const uint8_t *kern_act_panel(const struct kern_act *a, uint32_t t0)
{
    return a->data + (size_t)t0 * (a->cols / KERN_CELL) * KERN_ACT_BYTES;
}
#endif
