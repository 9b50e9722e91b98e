/* Packing: a row read back from the packed image equals the type's definition bit for bit. */
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/mem.h"
#include "kern_test.h"

static uint32_t take_u32(const char **p)
{
    uint32_t v;

    memcpy(&v, *p, 4);
    *p += 4;
    return v;
}

/* tests/golden/kernels/blocks.bin: random blocks with the values that the gguf package gives. */
static void rows_equal_the_gguf_packages_values(void **state)
{
    struct buf b;
    struct err e;
    const char *p, *end;
    uint32_t seen = 0;

    (void)state;
    buf_init(&b, 1 << 20);
    assert_int_equal(file_read(GOLDEN_DIR "/blocks.bin", &b, &e), 0);
    for (p = b.p, end = b.p + b.len; p < end; seen++) {
        uint32_t type = take_u32(&p), rows = take_u32(&p), cols = take_u32(&p);
        uint32_t size = take_u32(&p);
        struct kern_mat m;
        void *data = mem_pages(kern_packed_size(type, rows, cols));
        float *out = mem_alloc(cols * sizeof(float));

        kern_pack(&m, type, rows, cols, p, data, NULL);
        p += size;
        for (uint32_t r = 0; r < rows; r++, p += cols * sizeof(float)) {
            kern_row(&m, r, out);
            for (uint32_t k = 0; k < cols; k++) {
                float want;

                memcpy(&want, p + 4 * (size_t)k, 4);
                if (memcmp(&want, &out[k], 4) != 0 && !(want == 0 && out[k] == 0))
                    fail_msg("type %u row %u col %u: %a, not %a", type, r, k, out[k], want);
            }
        }
        mem_free(out);
        mem_pages_free(data, m.size);
    }
    assert_int_equal(seen, COUNT(test_types));
    buf_fini(&b);
}

/* Bytes must not grow: decode is a stream of them. */
static void packed_bits_per_weight_are_those_of_the_file(void **state)
{
    static const struct {
        uint32_t type;
        double bits;
    } cases[] = { { 2, 4.5 },    { 3, 5 },       { 6, 5.5 }, { 7, 6 },  { 8, 8.5 }, { 12, 4.625 },
                  { 13, 5.625 }, { 14, 6.5625 }, { 0, 32 },  { 1, 16 }, { 30, 16 } };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_true((double)kern_packed_size(cases[i].type, 64, 512) * 8 ==
                    cases[i].bits * 64 * 512);
    assert_int_equal(kern_packed_size(2, 17, 64), kern_packed_size(2, 32, 64));
    assert_int_equal(kern_packed_size(9999, 16, 32), 0);
}

static void packing_by_two_threads_gives_the_same_bytes(void **state)
{
    struct kern_pool *pool = kern_pool_new(2);
    struct rng r;

    (void)state;
    rng_seed(&r, 7);
    for (size_t i = 0; i < COUNT(test_types); i++) {
        const struct test_type *t = &test_types[i];
        uint32_t rows = 150, cols = 512;
        size_t size = kern_packed_size(t->type, rows, cols);
        uint8_t *src = mem_alloc((size_t)rows * cols / t->elems * t->bytes);
        void *a = mem_pages(size), *b = mem_pages(size);
        struct kern_mat m;

        random_blocks(src, t, rows, cols, &r);
        kern_pack(&m, t->type, rows, cols, src, a, NULL);
        kern_pack(&m, t->type, rows, cols, src, b, pool);
        assert_memory_equal(a, b, size);
        mem_pages_free(a, size);
        mem_pages_free(b, size);
        mem_free(src);
    }
    kern_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_gguf_packages_values),
        cmocka_unit_test(packed_bits_per_weight_are_those_of_the_file),
        cmocka_unit_test(packing_by_two_threads_gives_the_same_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
