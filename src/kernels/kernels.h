/* kernels/kernels.h - the compute layer: a table of functions per CPU level, and the thread pool.
 *
 * The engine packs every weight once (kern_pack), then calls operations on
 * whole batches of rows.  Scalar code is the definition; AVX2 and AVX-512 (VNNI)
 * are tested against it.  The level is chosen once at start (kern_init), a lower
 * one can be forced (LLMD_CPU=scalar|avx2|avx512 or --cpu).
 *
 * A row's result never depends on how many rows there are, on how they are cut
 * into calls, or on the number of threads: every output element is summed in
 * one fixed order.  Batch invariance of the whole engine rests on this.
 *
 * Threads: kern_* that take a pool are called by one thread, the engine's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H
#include "base/err.h"
#include "base/str.h"

enum kern_level { KERN_SCALAR, KERN_AVX2, KERN_AVX512 };

/* forced: NULL = what LLMD_CPU says, else the best this CPU has.  ERR_UNSUPPORTED when the CPU
 * lacks it.  Call once, before all else here (tests change the level between operations). */
int kern_init(const char *forced, struct err *e) MUST_CHECK;
enum kern_level kern_level(void);
const char *kern_level_name(void); /* "avx512-vnni", "avx2", "scalar" */

/* ---- pool: few regions, dynamic tickets, bounded spin then futex ---- */
struct kern_pool;
/* threads: including the caller; 0 = CPUs this process may use. */
struct kern_pool *kern_pool_new(uint32_t threads);
void kern_pool_free(struct kern_pool *p);
uint32_t kern_pool_threads(const struct kern_pool *p);
/* Runs fn(ctx, i) for i in 0..count-1 on all threads; returns when all are done. */
void kern_pool_run(struct kern_pool *p, uint32_t count,
                   void (*fn)(void *ctx, uint32_t i, uint32_t thread), void *ctx);
void kern_pool_quiet(struct kern_pool *p); /* no step soon: park the threads */

/* ---- weights ---- */
/* types are ggml's numbers (model/gguf.h: enum tensor_type). */
struct kern_mat {
    uint32_t type;
    uint32_t rows, cols; /* out, in */
    void *data;          /* packed, 64-byte aligned, pages (mem_pages) or shared memory */
    size_t size;         /* bytes of data */
    bool borrowed;       /* data belongs to somebody else */
};

/* Bytes that kern_pack writes for this tensor at this level. */
size_t kern_packed_size(uint32_t type, uint32_t rows, uint32_t cols);
/* Packs GGUF row-major blocks into data (kern_packed_size bytes, 64-byte aligned, given by the
 * caller).  type must be one that tensor_type_known accepts; p may be NULL. */
void kern_pack(struct kern_mat *out, uint32_t type, uint32_t rows, uint32_t cols, const void *gguf,
               void *data, struct kern_pool *p);
/* One row back as f32: embedding look-up from the packed image. */
void kern_row(const struct kern_mat *m, uint32_t row, float *out);

/* ---- activations: int8 per 32 with scale and sums, plus the f32 source ---- */
struct kern_act {
    uint32_t n, cols;
    const float *f32; /* [n][cols], borrowed; used for F32/F16/BF16 weights */
    uint8_t *data;    /* packed panels, see kern_priv.h */
    size_t size;      /* bytes of data */
};
/* Buffers for up to rows x cols; freed by kern_act_fini.  Returns 0 or ERR_NOMEM. */
int kern_act_init(struct kern_act *a, uint32_t rows, uint32_t cols) MUST_CHECK;
void kern_act_fini(struct kern_act *a);
/* Quantizes n rows of x[n][cols] (f32); rows x cols may be cut in any way that fits the buffers.
 * A cols that is no multiple of 32 keeps only the f32 source: float weights alone can follow. */
void kern_act_set(struct kern_act *a, const float *x, uint32_t n, uint32_t cols,
                  struct kern_pool *p);

/* y[n][ldy] (+)= W . act (+ bias).  y rows are ldy floats apart; cols agree; bias may be NULL. */
void kern_matmul(const struct kern_mat *w, const struct kern_act *a, float *y, size_t ldy,
                 const float *bias, bool add, struct kern_pool *p);
/* Several matrices over the same activations in one parallel region: q, k and v, or gate and up.
 * Results are those of the single calls, bit for bit. */
struct kern_mm {
    const struct kern_mat *w;
    float *y;
    size_t ldy;
    const float *bias; /* or NULL */
    bool add;
};
#define KERN_MM_MAX 8
void kern_matmul_many(const struct kern_mm *mm, uint32_t count, const struct kern_act *a,
                      struct kern_pool *p);

/* ---- row operations ---- */
/* y = x / sqrt(mean(x^2) + eps) * w, n rows of d.  y may be x. */
void kern_rmsnorm(float *y, const float *x, const float *w, uint32_t n, uint32_t d, float eps,
                  struct kern_pool *p);
/* out[n][d] = act(gate[n][d]) * up[n][d]; act: 0 silu, 1 gelu-tanh. */
void kern_glu(float *out, const float *gate, const float *up, uint32_t n, uint32_t d, int act,
              struct kern_pool *p);
/* Rotates n rows of heads x head_dim in place.  cs: per row, [rope_dim/2] pairs (cos, sin). */
void kern_rope(float *x, const float *cs, uint32_t n, uint32_t heads, uint32_t head_dim,
               uint32_t rope_dim, int neox, size_t ldx);
void kern_f32_to_f16(uint16_t *dst, const float *src, size_t n);
void kern_f16_to_f32(float *dst, const uint16_t *src, size_t n);
void kern_add(float *y, const float *x, size_t n); /* y += x */
/* logits: index of the largest, the lowest index on ties. */
uint32_t kern_argmax(const float *x, uint32_t n);

/* ---- attention over paged KV ----
 * A block holds block_tokens tokens of all layers of a group.  For one layer, K and V are
 * f16 [kv_head][token][head_dim] each (HND).  block_base(b) = kv + table[b] * block_stride,
 * then + layer_offset for K and + layer_offset + kv_heads*block_tokens*head_dim*2 bytes for V. */
struct kern_attn_seq {
    const uint32_t *table; /* block numbers: table[i] covers tokens first_block*T + i*T ... */
    uint32_t first_pos;    /* position of table[0]'s first token: windows drop old blocks */
    uint32_t q_start;      /* position of the first query row */
    uint32_t q_count;      /* query rows of this sequence in q */
    uint32_t q_row;        /* first row in q and out */
};
struct kern_attn {
    const uint8_t *kv;                                        /* the group's block arena */
    size_t block_stride, layer_offset;                        /* bytes */
    uint32_t block_tokens, heads, kv_heads, head_dim, window; /* window 0 = all */
    float scale;
    const float *q; /* [rows][heads*head_dim] (roped) */
    float *out;     /* [rows][heads*head_dim] */
    const struct kern_attn_seq *seq;
    uint32_t seq_count;
};
void kern_attention(const struct kern_attn *a, struct kern_pool *p);
/* Stores K and V (f32, [kv_heads*head_dim]) of one token at (block, slot) of a layer as f16. */
void kern_kv_store(uint8_t *kv, size_t block_stride, size_t layer_offset, uint32_t block,
                   uint32_t slot, uint32_t block_tokens, uint32_t kv_heads, uint32_t head_dim,
                   const float *k, const float *v);

/* Read bandwidth of this machine now, GB/s, all pool threads (a few hundred ms). */
double kern_measure_read_gbps(struct kern_pool *p);
#endif
