/* What the kernel tests share: levels of this CPU, guarded memory, random blocks of each type. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_KERN_TEST_H
#define TESTS_KERN_TEST_H
#include "base/check.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

static const char *const levels[] = { "scalar", "avx2", "avx512" };

/* false: this CPU lacks the level, which is said. */
static inline bool use_level(const char *name)
{
    struct err e;

    if (kern_init(name, &e) == 0)
        return true;
    print_message("skipped: %s\n", e.msg);
    return false;
}

struct test_type {
    uint32_t type;
    const char *name;
    uint32_t elems, bytes;
    int half0, half1; /* offsets of f16 fields, -1 = none */
    bool is_float;
};

static const struct test_type test_types[] = {
    { 0, "f32", 1, 4, -1, -1, true },         { 1, "f16", 1, 2, -1, -1, true },
    { 30, "bf16", 1, 2, -1, -1, true },       { 2, "q4_0", 32, 18, 0, -1, false },
    { 3, "q4_1", 32, 20, 0, 2, false },       { 6, "q5_0", 32, 22, 0, -1, false },
    { 7, "q5_1", 32, 24, 0, 2, false },       { 8, "q8_0", 32, 34, 0, -1, false },
    { 12, "q4_k", 256, 144, 0, 2, false },    { 13, "q5_k", 256, 176, 0, 2, false },
    { 14, "q6_k", 256, 210, 208, -1, false },
};

/* Memory that ends at a page nobody may touch.  align: of the start, at the cost of slack. */
struct guarded {
    char *base;
    size_t pages;
    void *p;
};

static inline struct guarded guarded_new(size_t size, size_t align)
{
    size_t body = (size + align + 4095) / 4096 * 4096;
    struct guarded g = { .pages = body + 4096 };

    g.base = mmap(NULL, g.pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.base != MAP_FAILED);
    assert_int_equal(mprotect(g.base + body, 4096, PROT_NONE), 0);
    g.p = g.base + (body - size) / align * align;
    return g;
}

static inline void guarded_free(struct guarded *g)
{
    munmap(g->base, g->pages);
}

static inline void random_floats(float *x, size_t n, struct rng *r)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(rng_f64(r) * 2 - 1);
}

static inline void put_half(uint8_t *p, float v)
{
    uint16_t h;

    kern_f32_to_f16(&h, &v, 1);
    memcpy(p, &h, 2);
}

/* rows x cols of a type: random codes, scales in +-[2^-7, 2^-6]. */
static inline void random_blocks(uint8_t *dst, const struct test_type *t, uint32_t rows,
                                 uint32_t cols, struct rng *r)
{
    size_t n = (size_t)rows * cols / t->elems;

    for (size_t b = 0; b < n; b++, dst += t->bytes) {
        for (uint32_t i = 0; i < t->bytes; i++)
            dst[i] = (uint8_t)rng_u64(r);
        if (t->is_float) {
            float v = (float)(rng_f64(r) * 2 - 1);
            uint32_t bits;

            memcpy(&bits, &v, 4);
            if (t->type == 0)
                memcpy(dst, &v, 4);
            else if (t->type == 1)
                put_half(dst, v);
            else
                memcpy(dst, (uint8_t *)&bits + 2, 2);
        }
        if (t->half0 >= 0)
            put_half(dst + t->half0, (float)((1 + rng_f64(r)) / 128 * (rng_u64(r) & 1 ? 1 : -1)));
        if (t->half1 >= 0)
            put_half(dst + t->half1, (float)((1 + rng_f64(r)) / 128 * (rng_u64(r) & 1 ? 1 : -1)));
    }
}
#endif
