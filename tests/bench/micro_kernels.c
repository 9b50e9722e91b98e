/* Kernel micro benchmarks: matmul, attention and row operations on the shapes of real models.
 *
 *   micro_kernels [scalar|avx2|avx512] [threads] [filter]
 *
 * Weights are streamed from memory (each run takes another copy, past what caches hold) when few
 * rows are computed.  A line gives the best of its runs: GB/s of packed weights as a share of what
 * this machine reads right now, and GMAC/s. */
// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_NS     150000000ULL /* of one line */
#define COLD_BYTES ((size_t)96 << 20)

static double gbps;
static struct kern_pool *pool;

struct shape {
    const char *model, *name;
    uint32_t type, rows, cols;
};

static const struct shape shapes[] = {
    { "smollm2", "q4_1 qkv/o", 3, 576, 576 },   { "smollm2", "q4_1 gate/up", 3, 1536, 576 },
    { "smollm2", "q4_1 down", 3, 576, 1536 },   { "smollm2", "q8_0 head", 8, 49152, 576 },
    { "gemma3", "q5_0 gate/up", 6, 2048, 640 }, { "gemma3", "q4_k down", 12, 640, 2048 },
    { "gemma3", "q6_k down", 14, 640, 2048 },   { "gemma3", "q8_0 head", 8, 262144, 640 },
    { "qwen", "q5_0 gate/up", 6, 4864, 896 },   { "qwen", "q4_k down", 12, 896, 4864 },
    { "qwen", "q6_k down", 14, 896, 4864 },     { "qwen", "q8_0 head", 8, 151936, 896 },
    { "other", "q4_0", 2, 4096, 4096 },         { "other", "q5_k", 13, 4096, 4096 },
    { "other", "f16", 1, 2048, 2048 },          { "other", "bf16", 30, 2048, 2048 },
    { "other", "f32", 0, 2048, 2048 },
};

static void fill(float *x, size_t n, struct rng *r)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(rng_f64(r) * 2 - 1);
}

/* Random bytes are valid blocks but for their f16 scales, which may be infinite: zero the
 * exponents' top bit in every packed half instead of building real blocks. */
static void fill_packed(uint8_t *p, size_t n, struct rng *r)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = rng_u64(r) & 0xbfffbfffbfffbfffULL;

        memcpy(p + i, &v, 8);
    }
}

static void bench_matmul(const struct shape *s, uint32_t n)
{
    size_t size = kern_packed_size(s->type, s->rows, s->cols);
    uint32_t copies = n <= 16 ? (uint32_t)(COLD_BYTES / size) + 1 : 1;
    uint8_t *data = mem_pages(size * copies);
    float *x = mem_alloc((size_t)n * s->cols * 4), *y = mem_alloc((size_t)n * s->rows * 4);
    struct kern_act act;
    struct rng r;
    uint64_t best = UINT64_MAX, start = clock_ns();
    double macs = (double)n * s->rows * s->cols, rate;

    rng_seed(&r, 1);
    if (data == NULL || kern_act_init(&act, n, s->cols) != 0)
        exit(1);
    fill_packed(data, size, &r);
    for (uint32_t i = 1; i < copies; i++)
        memcpy(data + i * size, data, size);
    fill(x, (size_t)n * s->cols, &r);
    kern_act_set(&act, x, n, s->cols, pool);
    for (uint32_t i = 0; i < 3 || clock_ns() - start < RUN_NS; i++) {
        struct kern_mat w = { s->type, s->rows, s->cols, data + i % copies * size, size, true };
        uint64_t t = clock_ns();

        kern_matmul(&w, &act, y, s->rows, NULL, false, pool);
        t = clock_ns() - t;
        best = t < best ? t : best;
    }
    rate = (double)size / (double)best;
    printf("%-8s %-14s rows %4u  %9.1f us  %6.1f GB/s %5.0f %%  %7.1f GMAC/s\n", s->model, s->name,
           n, (double)best / 1e3, rate, 100 * rate / gbps, macs / (double)best);
    fflush(stdout);
    kern_act_fini(&act);
    mem_pages_free(data, size * copies);
    mem_free(x);
    mem_free(y);
}

static void bench_attention(const char *name, uint32_t heads, uint32_t kv_heads, uint32_t d,
                            uint32_t seqs, uint32_t past, uint32_t fresh)
{
    uint32_t bt = 16, blocks = (past + fresh + bt - 1) / bt;
    size_t stride = (size_t)2 * kv_heads * bt * d * 2, q_size = (size_t)seqs * fresh * heads * d;
    uint8_t *kv = mem_pages(stride * blocks * seqs);
    float *q = mem_alloc(q_size * 4), *out = mem_alloc(q_size * 4), *f = mem_alloc(stride * 2);
    uint32_t *table = mem_alloc((size_t)blocks * seqs * 4);
    struct kern_attn_seq *seq = mem_alloc(seqs * sizeof(*seq));
    struct kern_attn a = { kv, stride, 0, bt, heads, kv_heads, d, 0, 0.1f, q, out, seq, seqs };
    struct rng r;
    uint64_t best = UINT64_MAX, start;
    double keys = (double)seqs * fresh * (past + (fresh + 1) / 2.0);

    rng_seed(&r, 2);
    fill(f, stride / 2, &r);
    fill(q, q_size, &r);
    for (uint32_t i = 0; i < blocks * seqs; i++) {
        kern_f32_to_f16((uint16_t *)(void *)(kv + i * stride), f, stride / 2);
        table[i] = i;
    }
    for (uint32_t i = 0; i < seqs; i++)
        seq[i] = (struct kern_attn_seq) { table + (size_t)i * blocks, 0, past, fresh, i * fresh };
    start = clock_ns();
    for (uint32_t i = 0; i < 3 || clock_ns() - start < RUN_NS; i++) {
        uint64_t t = clock_ns();

        kern_attention(&a, pool);
        t = clock_ns() - t;
        best = t < best ? t : best;
    }
    printf("%-8s attention seqs %2u past %5u fresh %4u  %9.1f us  %6.1f GB/s %7.1f GMAC/s\n", name,
           seqs, past, fresh, (double)best / 1e3, (double)stride * blocks * seqs / (double)best,
           keys * heads * d * 2 / (double)best);
    fflush(stdout);
    mem_pages_free(kv, stride * blocks * seqs);
    mem_free(q);
    mem_free(out);
    mem_free(f);
    mem_free(table);
    mem_free(seq);
}

static void report(const char *what, uint64_t ns, double bytes)
{
    printf("%-24s %9.2f us  %7.1f GB/s\n", what, (double)ns / 1e3, bytes / (double)ns);
}

static void nothing(void *ctx, uint32_t i, uint32_t thread)
{
    (void)ctx;
    (void)i;
    (void)thread;
}

#define BEST_OF(name, bytes, call)                                                                 \
    do {                                                                                           \
        uint64_t best_ = UINT64_MAX;                                                               \
        for (int i_ = 0; i_ < 200; i_++) {                                                         \
            uint64_t t_ = clock_ns();                                                              \
            call;                                                                                  \
            t_ = clock_ns() - t_;                                                                  \
            best_ = t_ < best_ ? t_ : best_;                                                       \
        }                                                                                          \
        report(name, best_, bytes);                                                                \
    } while (0)

static void bench_rows(void)
{
    uint32_t n = 256, d = 1536;
    size_t all = (size_t)n * d;
    float *x = mem_alloc(all * 4), *y = mem_alloc(all * 4), *z = mem_alloc(all * 4);
    struct kern_act act;
    struct rng r;

    rng_seed(&r, 3);
    fill(x, all, &r);
    fill(y, all, &r);
    if (kern_act_init(&act, n, d) != 0)
        exit(1);
    BEST_OF("region of 2 tickets", 0, kern_pool_run(pool, 2, nothing, NULL));
    BEST_OF("quantize 256x1536", (double)all * 4, kern_act_set(&act, x, n, d, pool));
    BEST_OF("quantize 1x1536", d * 4.0, kern_act_set(&act, x, 1, d, pool));
    BEST_OF("rmsnorm 256x1536", (double)all * 8, kern_rmsnorm(z, x, y, n, d, 1e-5f, pool));
    BEST_OF("silu 256x1536", (double)all * 12, kern_glu(z, x, y, n, d, 0, pool));
    BEST_OF("gelu 256x1536", (double)all * 12, kern_glu(z, x, y, n, d, 1, pool));
    BEST_OF("rope 256x24x64", (double)all * 8, kern_rope(x, y, n, 24, 64, 64, 1, d));
    BEST_OF("argmax 262144", 262144 * 4.0, d = kern_argmax(x, 262144) < 1 ? d : d);
    kern_act_fini(&act);
    mem_free(x);
    mem_free(y);
    mem_free(z);
}

int main(int argc, char **argv)
{
    static const uint32_t counts[] = { 1, 4, 16, 512 };
    const char *filter = argc > 3 ? argv[3] : "";
    struct err e;

    if (kern_init(argc > 1 && argv[1][0] != '-' ? argv[1] : NULL, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    pool = kern_pool_new(argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0);
    gbps = kern_measure_read_gbps(pool);
    printf("level %s, %u threads, reads %.1f GB/s\n", kern_level_name(), kern_pool_threads(pool),
           gbps);
    if (strstr("rows", filter) != NULL)
        bench_rows();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
            char line[64];

            snprintf(line, sizeof(line), "%s %s %u", shapes[i].model, shapes[i].name, counts[k]);
            if (strstr(line, filter) != NULL && (counts[k] <= 16 || shapes[i].rows < 40000))
                bench_matmul(&shapes[i], counts[k]);
        }
    if (strstr("attention", filter) != NULL) {
        bench_attention("smollm2", 9, 3, 64, 1, 0, 512);
        bench_attention("smollm2", 9, 3, 64, 1, 8192, 512);
        bench_attention("smollm2", 9, 3, 64, 1, 2047, 1);
        bench_attention("smollm2", 9, 3, 64, 16, 1023, 1);
        bench_attention("gemma3", 4, 1, 256, 1, 0, 512);
        bench_attention("gemma3", 4, 1, 256, 1, 2047, 1);
        bench_attention("qwen", 14, 2, 64, 1, 0, 512);
        bench_attention("qwen", 14, 2, 64, 1, 2047, 1);
        bench_attention("qwen", 14, 2, 64, 16, 1023, 1);
    }
    printf("reads %.1f GB/s at the end\n", kern_measure_read_gbps(pool));
    kern_pool_free(pool);
    return 0;
}
