/* Attention over paged KV: every level against plain f64 softmax, and a query row's independence
 * of chunking, company, block numbers, threads and garbage in slots that nobody may see. */
// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "kern_test.h"

#define SEED 23

static struct kern_pool *pool1, *pool2;

struct shape {
    uint32_t heads, kv_heads, d, window, block_tokens;
};

static const struct shape shapes[] = {
    { 9, 3, 64, 0, 16 },  { 4, 1, 256, 0, 16 },  { 4, 1, 256, 200, 16 }, { 14, 2, 64, 0, 32 },
    { 2, 2, 128, 33, 8 }, { 3, 1, 80, 0, 16 },   { 2, 1, 72, 50, 16 },   { 2, 2, 20, 0, 4 },
    { 1, 1, 288, 0, 16 }, { 7, 1, 96, 128, 64 },
};

/* One sequence of n tokens: K, V, Q as f32, and its pages. */
struct world {
    struct shape s;
    uint32_t n, blocks, first_block;
    float *k, *v, *q;
    uint16_t *kh, *vh; /* as stored */
    uint32_t *table;
    struct guarded kv;
    size_t stride, layer_offset;
};

/* first_block: blocks before it were dropped (windowed groups). */
static struct world world_new(struct shape s, uint32_t n, uint32_t first_block, struct rng *r)
{
    struct world w = { .s = s, .n = n, .first_block = first_block };
    size_t row = (size_t)s.kv_heads * s.d, layer = 2 * row * s.block_tokens * 2;

    w.k = mem_alloc(n * row * 4);
    w.v = mem_alloc(n * row * 4);
    w.q = mem_alloc((size_t)n * s.heads * s.d * 4);
    w.kh = mem_alloc(n * row * 2);
    w.vh = mem_alloc(n * row * 2);
    random_floats(w.k, n * row, r);
    random_floats(w.v, n * row, r);
    random_floats(w.q, (size_t)n * s.heads * s.d, r);
    for (size_t i = 0; i < (size_t)n * s.heads * s.d; i++)
        w.q[i] *= 4; /* sharp enough that the softmax matters */
    kern_f32_to_f16(w.kh, w.k, n * row);
    kern_f32_to_f16(w.vh, w.v, n * row);
    w.blocks = (n + s.block_tokens - 1) / s.block_tokens;
    w.layer_offset = layer; /* the second of two layers */
    w.stride = 2 * layer;
    w.kv = guarded_new(w.stride * w.blocks, 64);
    memset(w.kv.p, 0xff, w.stride * w.blocks); /* NaN everywhere */
    w.table = mem_alloc(w.blocks * sizeof(*w.table));
    for (uint32_t i = 0; i < w.blocks; i++)
        w.table[i] = i * 7 % w.blocks; /* scattered when 7 does not divide the count */
    if (w.blocks % 7 == 0)
        for (uint32_t i = 0; i < w.blocks; i++)
            w.table[i] = w.blocks - 1 - i;
    for (uint32_t i = first_block * s.block_tokens; i < n; i++)
        kern_kv_store(w.kv.p, w.stride, w.layer_offset, w.table[i / s.block_tokens],
                      i % s.block_tokens, s.block_tokens, s.kv_heads, s.d, w.k + i * row,
                      w.v + i * row);
    return w;
}

static void world_free(struct world *w)
{
    guarded_free(&w->kv);
    mem_free(w->k);
    mem_free(w->v);
    mem_free(w->q);
    mem_free(w->kh);
    mem_free(w->vh);
    mem_free(w->table);
}

/* out rows [start, start + count) by one call. */
static void attend(const struct world *w, uint32_t start, uint32_t count, float *out,
                   struct kern_pool *p)
{
    struct kern_attn_seq seq = { w->table + w->first_block, w->first_block * w->s.block_tokens,
                                 start, count, 0 };
    size_t row = (size_t)w->s.heads * w->s.d;
    struct kern_attn a = {
        w->kv.p, w->stride,   w->layer_offset, w->s.block_tokens,  w->s.heads,        w->s.kv_heads,
        w->s.d,  w->s.window, 0.25f,           w->q + start * row, out + start * row, &seq,
        1
    };

    kern_attention(&a, p);
}

static void naive(const struct world *w, uint32_t pos, uint32_t head, double *out)
{
    uint32_t kvh = head / (w->s.heads / w->s.kv_heads), d = w->s.d;
    uint32_t lo = w->s.window != 0 && pos + 1 > w->s.window ? pos + 1 - w->s.window : 0;
    double *s = mem_alloc((pos + 1) * sizeof(double)), max = -1e300, sum = 0;
    float f;

    memset(out, 0, d * sizeof(*out));
    for (uint32_t t = lo; t <= pos; t++) {
        s[t] = 0;
        for (uint32_t i = 0; i < d; i++) {
            kern_f16_to_f32(&f, w->kh + ((size_t)t * w->s.kv_heads + kvh) * d + i, 1);
            s[t] += 0.25 * w->q[((size_t)pos * w->s.heads + head) * d + i] * f;
        }
        max = fmax(max, s[t]);
    }
    for (uint32_t t = lo; t <= pos; t++) {
        double p = exp(s[t] - max);

        sum += p;
        for (uint32_t i = 0; i < d; i++) {
            kern_f16_to_f32(&f, w->vh + ((size_t)t * w->s.kv_heads + kvh) * d + i, 1);
            out[i] += p * f;
        }
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
    mem_free(s);
}

static void attention_equals_plain_softmax(void **state)
{
    struct rng r;
    double want[288];

    (void)state;
    rng_seed(&r, SEED);
    for (size_t l = 0; l < COUNT(levels); l++)
        for (size_t c = 0; c < COUNT(shapes) && use_level(levels[l]); c++) {
            const struct shape s = shapes[c];
            struct world w = world_new(s, l == 0 ? 140 : 301, 0, &r);
            float *out = mem_alloc((size_t)w.n * s.heads * s.d * 4);

            attend(&w, 0, w.n, out, pool2);
            for (uint32_t pos = 0; pos < w.n; pos += pos < 4 || pos + 5 > w.n ? 1 : 13)
                for (uint32_t h = 0; h < s.heads; h++) {
                    naive(&w, pos, h, want);
                    for (uint32_t i = 0; i < s.d; i++) {
                        double got = out[((size_t)pos * s.heads + h) * s.d + i];

                        if (!(fabs(got - want[i]) < 2e-5))
                            fail_msg("%s shape %zu pos %u head %u dim %u: %g, not %g", levels[l], c,
                                     pos, h, i, got, want[i]);
                    }
                }
            mem_free(out);
            world_free(&w);
        }
}

static void a_query_is_the_same_in_any_chunk_and_alone(void **state)
{
    static const uint32_t chunks[] = { 1, 3, 16, 50, 128, 400 };
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 1);
    for (size_t l = 0; l < COUNT(levels); l++)
        for (size_t c = 0; c < COUNT(shapes) && use_level(levels[l]); c++) {
            const struct shape s = shapes[c];
            uint32_t n = l == 0 ? 133 : 700; /* the scalar level is slow */
            size_t size = (size_t)n * s.heads * s.d * 4;
            struct world w = world_new(s, n, 0, &r);
            float *all = mem_alloc(size), *out = mem_alloc(size);

            attend(&w, 0, n, all, pool2);
            attend(&w, 0, n, out, pool1);
            assert_memory_equal(all, out, size);
            for (size_t k = 0; k < COUNT(chunks); k++) {
                memset(out, 0, size);
                for (uint32_t at = 0; at < n; at += chunks[k])
                    attend(&w, at, MIN(chunks[k], n - at), out, k % 2 == 0 ? pool2 : pool1);
                assert_memory_equal(all, out, size);
            }
            mem_free(all);
            mem_free(out);
            world_free(&w);
        }
}

/* A long sequence beside short ones: its tiles are computed by several threads and merged. */
static void sequences_do_not_disturb_each_other(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, SEED + 2);
    for (size_t l = 1; l < COUNT(levels); l++)
        for (size_t c = 0; c < 4 && use_level(levels[l]); c++) {
            const struct shape s = shapes[c];
            struct world w = world_new(s, 3000, 0, &r);
            const uint32_t starts[] = { 2999, 17, 1500, 0, 700 }, counts[] = { 1, 1, 4, 3, 60 };
            size_t row = (size_t)s.heads * s.d;
            float *alone = mem_alloc(w.n * row * 4), *q = mem_alloc(69 * row * 4);
            float *out = mem_alloc(69 * row * 4);
            struct kern_attn_seq seq[6];
            struct kern_attn a = { w.kv.p,
                                   w.stride,
                                   w.layer_offset,
                                   s.block_tokens,
                                   s.heads,
                                   s.kv_heads,
                                   s.d,
                                   s.window,
                                   0.25f,
                                   q,
                                   out,
                                   seq,
                                   6 };
            uint32_t at = 0;

            for (uint32_t i = 0; i < 5; i++) {
                attend(&w, starts[i], counts[i], alone, pool1);
                memcpy(q + at * row, w.q + starts[i] * row, counts[i] * row * 4);
                seq[i] = (struct kern_attn_seq) { w.table, 0, starts[i], counts[i], at };
                at += counts[i];
            }
            seq[5] = (struct kern_attn_seq) { w.table, 0, 5, 0, at }; /* no rows: nothing happens */
            kern_attention(&a, pool2);
            for (uint32_t i = 0; i < 5; i++)
                assert_memory_equal(out + seq[i].q_row * row, alone + starts[i] * row,
                                    counts[i] * row * 4);
            mem_free(alone);
            mem_free(q);
            mem_free(out);
            world_free(&w);
        }
}

/* Blocks that left every window are dropped from the table: nothing changes. */
static void dropped_blocks_are_never_read(void **state)
{
    struct rng r, again;

    (void)state;
    rng_seed(&r, SEED + 3);
    for (size_t l = 0; l < COUNT(levels); l++)
        for (size_t c = 0; c < COUNT(shapes) && use_level(levels[l]); c++) {
            const struct shape s = shapes[c];
            uint32_t n = 400, drop = s.window != 0 ? (n - 10 + 1 - s.window) / s.block_tokens : 0;
            size_t row = (size_t)s.heads * s.d;
            struct world w, x;
            float *a = mem_alloc(n * row * 4), *b = mem_alloc(n * row * 4);

            again = r;
            w = world_new(s, n, 0, &r);
            x = world_new(s, n, drop, &again);
            attend(&w, n - 10, 10, a, pool2);
            attend(&x, n - 10, 10, b, pool2);
            assert_memory_equal(a + (n - 10) * row, b + (n - 10) * row, 10 * row * 4);
            mem_free(a);
            mem_free(b);
            world_free(&w);
            world_free(&x);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_equals_plain_softmax),
        cmocka_unit_test(a_query_is_the_same_in_any_chunk_and_alone),
        cmocka_unit_test(sequences_do_not_disturb_each_other),
        cmocka_unit_test(dropped_blocks_are_never_read),
    };
    int rc;

    pool1 = kern_pool_new(1);
    pool2 = kern_pool_new(2);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    kern_pool_free(pool1);
    kern_pool_free(pool2);
    return rc;
}
