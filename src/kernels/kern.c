/* Level detection, the dispatch table, and how each operation is cut into tickets.
 *
 * Everything here is common to all levels: the level's functions get a part that fits its caches
 * and one thread.  The cuts only decide who computes an output element and when; its value is
 * fixed by the order of summation (kern_priv.h), so cuts may depend on threads and sizes freely. */
// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/mem.h"
#include "kernels/kern_priv.h"
#include <stdlib.h>
#include <string.h>
#ifdef KERN_X86
#include <cpuid.h>
#endif

#define ROW_GRAIN_BYTES 32768  /* row operations: bytes of a ticket */
#define MM_GRAIN_BYTES  24576  /* matmul with few rows: weight bytes of a ticket, at least */
#define MM_ACT_BYTES    393216 /* packed activations that stay in L2 beside a weight panel */
#define MM_TICKETS      8      /* a thread and region, about: enough to even out a lost core */
#define MM_ROWS_MAX     512    /* rows of a task: bounds its scratch */
#define MEASURE_BYTES   ((size_t)192 << 20)
#define MEASURE_PASSES  8

static const struct kern_ops *ops = &kern_ops_scalar;

#ifdef KERN_X86
static uint64_t os_saves(void)
{
    uint32_t lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static enum kern_level best_level(void)
{
    const uint32_t osxsave_avx_fma_f16c = 1U << 27 | 1U << 28 | 1U << 12 | 1U << 29;
    const uint32_t f_dq_bw_vl = 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31;
    uint32_t a, b, c, d;
    uint64_t os;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & osxsave_avx_fma_f16c) != osxsave_avx_fma_f16c)
        return KERN_SCALAR;
    os = os_saves();
    if ((os & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & 1U << 5) == 0)
        return KERN_SCALAR;
    if ((os & 0xe0) == 0xe0 && (b & f_dq_bw_vl) == f_dq_bw_vl && (c & 1U << 11) != 0)
        return KERN_AVX512; /* bit 11: VNNI */
    return KERN_AVX2;
}
#else
static enum kern_level best_level(void)
{
    return KERN_SCALAR;
}
#endif

static const struct kern_ops *ops_of(enum kern_level level)
{
#ifdef KERN_X86
    if (level == KERN_AVX512)
        return &kern_ops_avx512;
    if (level == KERN_AVX2)
        return &kern_ops_avx2;
#endif
    (void)level;
    return &kern_ops_scalar;
}

int kern_init(const char *forced, struct err *e)
{
    static const char *const names[] = { "scalar", "avx2", "avx512" };
    enum kern_level best = best_level(), want = best;

    if (forced == NULL)
        forced = getenv("LLMD_CPU");
    if (forced != NULL && forced[0] != 0) {
        for (want = KERN_SCALAR; want < COUNT(names) && strcmp(forced, names[want]) != 0; want++)
            ;
        if (want == COUNT(names))
            return err_set(e, ERR_INVAL, "cpu level %s: known are scalar, avx2, avx512", forced);
        if (want > best)
            return err_set(e, ERR_UNSUPPORTED, "cpu level %s: this CPU offers %s at most", forced,
                           names[best]);
    }
    ops = ops_of(want);
    return 0;
}

const struct kern_ops *kern_ops_now(void)
{
    return ops;
}

enum kern_level kern_level(void)
{
    return ops->level;
}

const char *kern_level_name(void)
{
    return ops->name;
}

/* ---- activations ---- */

int kern_act_init(struct kern_act *a, uint32_t rows, uint32_t cols)
{
    size_t cells = (cols + KERN_CELL - 1) / KERN_CELL;

    *a = (struct kern_act) { 0 };
    if (!size_mul(cells * KERN_ACT_BYTES, MAX(rows, 1), &a->size))
        return ERR_NOMEM;
    a->data = mem_pages(a->size);
    return a->data == NULL ? ERR_NOMEM : 0;
}

void kern_act_fini(struct kern_act *a)
{
    mem_pages_free(a->data, a->size);
    *a = (struct kern_act) { 0 };
}

struct act_job {
    struct kern_act *a;
    const float *x;
    uint32_t panels; /* a ticket */
};

static void act_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct act_job *j = ctx;
    uint32_t t0 = i * j->panels * ops->tile, end = MIN(t0 + j->panels * ops->tile, j->a->n);

    (void)thread;
    for (; t0 < end; t0 += ops->tile)
        ops->act((uint8_t *)kern_act_panel(j->a, t0), j->x + (size_t)t0 * j->a->cols,
                 MIN(ops->tile, end - t0), j->a->cols);
}

void kern_act_set(struct kern_act *a, const float *x, uint32_t n, uint32_t cols,
                  struct kern_pool *p)
{
    struct act_job j = { a, x, 1 };
    uint32_t panels = (n + ops->tile - 1) / ops->tile;

    a->n = n;
    a->cols = cols;
    a->f32 = x;
    if (cols % KERN_CELL != 0)
        return;
    ASSERT((size_t)n * (cols / KERN_CELL) * KERN_ACT_BYTES <= a->size);
    j.panels = (uint32_t)MAX(ROW_GRAIN_BYTES / ((size_t)ops->tile * cols * sizeof(float)), 1);
    kern_pool_run(p, (panels + j.panels - 1) / j.panels, act_ticket, &j);
}

/* ---- matmul ---- */

struct mm_part {
    const struct kern_form *form;
    uint32_t groups, grain, tickets; /* grain: groups of a ticket; tickets: of all chunks */
};

struct mm_region {
    const struct kern_mm *mm;
    const struct kern_act *act;
    struct kern_pool *pool;
    uint32_t count, chunk; /* activation rows of a task */
    struct mm_part part[KERN_MM_MAX];
};

static void mm_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct mm_region *r = ctx;
    struct kern_mm_task t = { .act = r->act, .scratch = kern_pool_scratch(r->pool, thread) };
    const struct mm_part *part = r->part;
    uint32_t per_chunk;

    for (t.mm = r->mm; i >= part->tickets; part++, t.mm++)
        i -= part->tickets;
    /* Chunk by chunk: its activations stay in cache while the weights pass by. */
    per_chunk = (part->groups + part->grain - 1) / part->grain;
    t.form = part->form;
    t.g0 = i % per_chunk * part->grain;
    t.g1 = MIN(t.g0 + part->grain, part->groups);
    t.t0 = i / per_chunk * r->chunk;
    t.t1 = MIN(t.t0 + r->chunk, r->act->n);
    ops->mm(&t);
}

/* Rows of a task: as many as fit the cache, cut evenly, a multiple of the tile. */
static uint32_t mm_chunk(const struct kern_act *a)
{
    size_t row = (size_t)MAX(a->cols / KERN_CELL, 1) * KERN_ACT_BYTES;
    uint32_t fit = (uint32_t)MIN(MAX(MM_ACT_BYTES / row, 1), MM_ROWS_MAX);
    uint32_t chunks = (a->n + fit - 1) / fit, rows = (a->n + chunks - 1) / chunks;

    return MIN((rows + ops->tile - 1) / ops->tile * ops->tile, MM_ROWS_MAX / ops->tile * ops->tile);
}

/* Groups of a ticket: a few tickets a thread, each worth the taking. */
static uint32_t mm_grain(const struct mm_part *part, uint32_t cols, uint32_t rows, uint32_t threads)
{
    size_t group = MAX(kern_group_bytes(part->form, cols), 1);
    uint32_t even = part->groups / (threads * MM_TICKETS);
    uint32_t least = (uint32_t)(MM_GRAIN_BYTES / (group * MIN(rows, 8)));
    uint32_t grain = MAX(MAX(even, least), 1);

    return (grain + ops->pair - 1) / ops->pair * ops->pair;
}

void kern_matmul_many(const struct kern_mm *mm, uint32_t count, const struct kern_act *a,
                      struct kern_pool *p)
{
    struct mm_region r = { .mm = mm, .act = a, .pool = p, .count = count };
    uint32_t tickets = 0;

    ASSERT(count <= KERN_MM_MAX);
    if (a->n == 0)
        return;
    r.chunk = mm_chunk(a);
    for (uint32_t i = 0; i < count; i++) {
        struct mm_part *part = &r.part[i];

        ASSERT(mm[i].w->cols == a->cols);
        part->form = kern_form_of(mm[i].w->type);
        part->groups = (mm[i].w->rows + KERN_GROUP - 1) / KERN_GROUP;
        part->grain = mm_grain(part, a->cols, MIN(r.chunk, a->n), kern_pool_threads(p));
        part->tickets =
            (part->groups + part->grain - 1) / part->grain * ((a->n + r.chunk - 1) / r.chunk);
        tickets += part->tickets;
    }
    kern_pool_run(p, tickets, mm_ticket, &r);
}

void kern_matmul(const struct kern_mat *w, const struct kern_act *a, float *y, size_t ldy,
                 const float *bias, bool add, struct kern_pool *p)
{
    struct kern_mm mm = { w, y, ldy, bias, add };

    kern_matmul_many(&mm, 1, a, p);
}

/* ---- row operations ---- */

struct row_job {
    float *out;
    const float *a, *b;
    size_t n, grain; /* rows of the norm, elements of glu; of a ticket */
    uint32_t d;
    float eps;
    int act;
};

static void rmsnorm_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct row_job *j = ctx;
    size_t end = MIN((i + 1) * j->grain, j->n);

    (void)thread;
    for (size_t r = i * j->grain; r < end; r++)
        ops->rmsnorm(j->out + r * j->d, j->a + r * j->d, j->b, j->d, j->eps);
}

void kern_rmsnorm(float *y, const float *x, const float *w, uint32_t n, uint32_t d, float eps,
                  struct kern_pool *p)
{
    struct row_job j = { y, x, w, n, MAX(ROW_GRAIN_BYTES / (d * sizeof(float)), 1), d, eps, 0 };

    kern_pool_run(p, (uint32_t)((n + j.grain - 1) / j.grain), rmsnorm_ticket, &j);
}

static void glu_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct row_job *j = ctx;
    size_t at = i * j->grain;

    (void)thread;
    ops->glu(j->out + at, j->a + at, j->b + at, MIN(j->grain, j->n - at), j->act);
}

void kern_glu(float *out, const float *gate, const float *up, uint32_t n, uint32_t d, int act,
              struct kern_pool *p)
{
    struct row_job j = { out, gate, up, (size_t)n * d, ROW_GRAIN_BYTES / sizeof(float), 0, 0, act };

    kern_pool_run(p, (uint32_t)((j.n + j.grain - 1) / j.grain), glu_ticket, &j);
}

void kern_rope(float *x, const float *cs, uint32_t n, uint32_t heads, uint32_t head_dim,
               uint32_t rope_dim, int neox, size_t ldx)
{
    for (uint32_t i = 0; i < n; i++)
        ops->rope(x + i * ldx, cs + (size_t)i * rope_dim, heads, head_dim, rope_dim, neox);
}

void kern_f32_to_f16(uint16_t *dst, const float *src, size_t n)
{
    ops->to_f16(dst, src, n);
}

void kern_f16_to_f32(float *dst, const uint16_t *src, size_t n)
{
    ops->to_f32(dst, src, n);
}

void kern_add(float *y, const float *x, size_t n)
{
    ops->add(y, x, n);
}

uint32_t kern_argmax(const float *x, uint32_t n)
{
    return ops->argmax(x, n);
}

void kern_kv_store(uint8_t *kv, size_t block_stride, size_t layer_offset, uint32_t block,
                   uint32_t slot, uint32_t block_tokens, uint32_t kv_heads, uint32_t head_dim,
                   const float *k, const float *v)
{
    size_t head = (size_t)block_tokens * head_dim;
    uint16_t *kd = (uint16_t *)(void *)(kv + block * block_stride + layer_offset);
    uint16_t *vd = kd + kv_heads * head;

    for (uint32_t h = 0; h < kv_heads; h++) {
        size_t at = h * head + (size_t)slot * head_dim;

        ops->to_f16(kd + at, k + (size_t)h * head_dim, head_dim);
        ops->to_f16(vd + at, v + (size_t)h * head_dim, head_dim);
    }
}

/* ---- bandwidth ---- */

struct read_job {
    const char *p;
    size_t part;
    _Atomic uint64_t sum; /* so that the reads are not thrown away */
};

static void read_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    struct read_job *j = ctx;

    (void)thread;
    j->sum += ops->read(j->p + i * j->part, j->part);
}

double kern_measure_read_gbps(struct kern_pool *p)
{
    uint32_t parts = 64 * kern_pool_threads(p);
    struct read_job j = { .part = MEASURE_BYTES / parts / 4096 * 4096 };
    void *mem = mem_pages(MEASURE_BYTES);
    double best = 0;

    if (mem == NULL)
        return 0;
    memset(mem, 1, MEASURE_BYTES);
    j.p = mem;
    for (int i = 0; i < MEASURE_PASSES; i++) {
        uint64_t start = clock_ns();
        double gbps;

        kern_pool_run(p, parts, read_ticket, &j);
        gbps = (double)(j.part * parts) / (double)MAX(clock_ns() - start, 1);
        best = MAX(best, gbps);
    }
    mem_pages_free(mem, MEASURE_BYTES);
    return best;
}
