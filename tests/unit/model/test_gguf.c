/* The GGUF reader against files that are cut, damaged or made to hurt. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "mkmodel/mkmodel.h"
#include "model/gguf.h"
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- files by hand: nothing here shares code with the writer in tools/ ---- */

static void u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, sizeof(v));
}

static void u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, sizeof(v));
}

static void text(struct buf *b, const char *z)
{
    u64(b, strlen(z));
    buf_z(b, z);
}

static void head(struct buf *b, uint64_t tensors, uint64_t kvs)
{
    buf_z(b, "GGUF");
    u32(b, 3);
    u64(b, tensors);
    u64(b, kvs);
}

static void tensor(struct buf *b, const char *name, uint32_t dims, uint64_t ne0, uint64_t ne1,
                   uint32_t type, uint64_t offset)
{
    text(b, name);
    u32(b, dims);
    if (dims > 0)
        u64(b, ne0);
    for (uint32_t i = 1; i < dims; i++)
        u64(b, ne1);
    u32(b, type);
    u64(b, offset);
}

static void data(struct buf *b, size_t bytes)
{
    while (b->len % 32 != 0)
        buf_c(b, 0);
    for (size_t i = 0; i < bytes; i++)
        buf_c(b, (char)i);
}

static void key_u32(struct buf *b, const char *key, uint32_t v)
{
    text(b, key);
    u32(b, GGUF_U32);
    u32(b, v);
}

static int open_buf(struct gguf **g, const struct buf *b, struct err *e)
{
    /* A copy of the exact size, so that a sanitizer sees a read past the end. */
    size_t n = b->len;
    char *copy = mem_dup(b->p, n);
    int rc = gguf_open_bytes(g, (struct str) { copy, n }, e);

    if (rc != 0)
        mem_free(copy);
    return rc;
}

static void expect(const struct buf *b, int want, const char *says)
{
    struct gguf *g = NULL;
    struct err e = { 0 };
    int rc = open_buf(&g, b, &e);

    if (rc != want || strstr(e.msg, says) == NULL)
        fail_msg("wanted %d \"%s\", got %d \"%s\"", want, says, rc, e.msg);
    assert_null(g);
    assert_null(strchr(e.msg, '\n'));
}

/* ---- refusals ---- */

static void what_is_not_gguf_is_named(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } cases[] = {
        { "", 0, "not a GGUF model" },
        { "GG", 2, "not a GGUF model" },
        { "version https://git-lfs.github.com/spec/v1\n", 43, "Git LFS" },
        { "<!DOCTYPE html><html>", 21, "web page" },
        { "PK\3\4aaaaaaaaaaaaaaaaaa", 22, "zip" },
        { "\x20\0\0\0\0\0\0\0{\"a\":{}}", 16, "safetensors" },
        { "FUGG\0\0\0\3", 8, "big-endian" },
        { "GGUF", 4, "cut short" },
        { "GGUF\1\0\0\0", 8, "version 1" },
        { "GGUF\0\0\0\3", 8, "big-endian" },
        { "GGUF\x63\0\0\0", 8, "version 99" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct gguf *g;
        struct err e = { 0 };

        assert_int_not_equal(gguf_open_bytes(&g, (struct str) { cases[i].bytes, cases[i].n }, &e),
                             0);
        if (strstr(e.msg, cases[i].says) == NULL)
            fail_msg("case %zu: %s", i, e.msg);
    }
}

static void huge_counts_cost_nothing(void **state)
{
    static const uint64_t counts[] = { 65537, 1u << 31, UINT64_MAX / 2, UINT64_MAX };
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    for (size_t i = 0; i < COUNT(counts); i++) {
        buf_reset(&b);
        head(&b, counts[i], 0);
        data(&b, 64);
        expect(&b, ERR_LIMIT, "at most 65536");
        buf_reset(&b);
        head(&b, 0, counts[i]);
        data(&b, 64);
        expect(&b, ERR_LIMIT, "at most 65536");
    }
    buf_reset(&b);
    head(&b, 65536, 65536); /* allowed, but not in so few bytes */
    data(&b, 64);
    expect(&b, ERR_PARSE, "cut short");
    buf_fini(&b);
}

static void damaged_values_are_refused(void **state)
{
    static const struct {
        uint32_t type, elem;
        uint64_t count;
        int rc;
        const char *says;
    } cases[] = {
        { 13, 0, 0, ERR_PARSE, "unknown type 13" },
        { 0xffffffff, 0, 0, ERR_PARSE, "unknown type" },
        { GGUF_STRING, 0, UINT64_MAX, ERR_LIMIT, "metadata string of 18446744073709551615" },
        { GGUF_STRING, 0, (16u << 20) + 1, ERR_LIMIT, "at most 16777216" },
        { GGUF_STRING, 0, 16u << 20, ERR_PARSE, "cut short" },
        { GGUF_ARRAY, GGUF_ARRAY, 1, ERR_UNSUPPORTED, "nested" },
        { GGUF_ARRAY, 13, 1, ERR_PARSE, "unknown type 13" },
        { GGUF_ARRAY, GGUF_U8, UINT64_MAX, ERR_LIMIT, "at most 16777216" },
        { GGUF_ARRAY, GGUF_U64, 16u << 20, ERR_PARSE, "cut short" },
        { GGUF_ARRAY, GGUF_STRING, 16u << 20, ERR_PARSE, "cut short" },
        { GGUF_ARRAY, GGUF_U8, 65, ERR_PARSE, "cut short" },
    };
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        buf_reset(&b);
        head(&b, 0, 1);
        text(&b, "some.key");
        u32(&b, cases[i].type);
        if (cases[i].type == GGUF_ARRAY)
            u32(&b, cases[i].elem);
        u64(&b, cases[i].count);
        for (int k = 0; k < 64; k++)
            buf_c(&b, 0);
        expect(&b, cases[i].rc, cases[i].says);
        expect(&b, cases[i].rc, "key some.key: ");
    }
    buf_fini(&b);
}

static void keys_are_unique_and_printable(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    head(&b, 0, 2);
    key_u32(&b, "a.b", 1);
    key_u32(&b, "a.b", 1);
    expect(&b, ERR_PARSE, "a.b is there twice");
    buf_reset(&b);
    head(&b, 0, 1);
    key_u32(&b, "a\nb", 1);
    expect(&b, ERR_PARSE, "printable");
    buf_reset(&b);
    head(&b, 0, 1);
    u64(&b, 65536);
    data(&b, 70000);
    expect(&b, ERR_LIMIT, "at most 65535");
    buf_fini(&b);
}

static void alignment_is_a_power_of_two_in_range(void **state)
{
    static const struct {
        uint32_t align;
        int rc;
    } cases[] = {
        { 0, ERR_LIMIT },
        { 1, ERR_LIMIT },
        { 4, ERR_LIMIT },
        { 24, ERR_LIMIT },
        { 8, 0 },
        { 32, 0 },
        { 64, 0 },
        { 65536, 0 },
        { 131072, ERR_LIMIT },
        { UINT32_MAX, ERR_LIMIT },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct gguf *g;
        struct err e = { 0 };
        struct buf b;

        buf_init(&b, 1 << 20);
        head(&b, 1, 1);
        key_u32(&b, "general.alignment", cases[i].align);
        tensor(&b, "t", 1, 2, 0, TENSOR_F32, 0);
        while (cases[i].rc == 0 && b.len % cases[i].align != 0)
            buf_c(&b, 0);
        for (int k = 0; k < 8; k++)
            buf_c(&b, (char)k);
        assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), cases[i].rc);
        if (cases[i].rc == 0) {
            assert_ptr_equal(gguf_tensor_at(g, 0)->data, b.p + b.len - 8);
            gguf_close(g);
        }
        buf_fini(&b);
    }
}

static void damaged_tensors_are_refused(void **state)
{
    static const uint64_t big = (uint64_t)1 << 40;
    static const struct {
        const char *name;
        uint32_t dims;
        uint64_t ne0, ne1;
        uint32_t type;
        uint64_t offset;
        int rc;
        const char *says;
    } cases[] = {
        { "t", 5, 1, 1, 0, 0, ERR_LIMIT, "5 dimensions" },
        { "t", 0xffffffff, 1, 1, 0, 0, ERR_LIMIT, "dimensions" },
        { "t", 1, 0, 1, 0, 0, ERR_PARSE, "dimension of 0" },
        { "t", 2, 4, 0, 0, 0, ERR_PARSE, "dimension of 0" },
        { "t", 1, UINT64_MAX, 1, 0, 0, ERR_PARSE, "dimension of" },
        { "t", 1, INT64_MAX, 1, 0, 0, ERR_PARSE, "overflows" },
        { "t", 2, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0, ERR_PARSE, "overflows" },
        { "t", 4, (uint64_t)1 << 16, (uint64_t)1 << 16, 0, 0, ERR_PARSE, "overflows" },
        { "t", 1, big, 1, TENSOR_Q8_0, 0, ERR_PARSE, "cut short" },
        { "t", 1, 33, 1, TENSOR_Q8_0, 0, ERR_PARSE, "not a multiple of Q8_0's block of 32" },
        { "t", 1, 128, 1, TENSOR_Q4_K, 0, ERR_PARSE, "not a multiple of Q4_K's block of 256" },
        { "t", 1, 8, 1, 4, 0, ERR_UNSUPPORTED, "withdrawn type Q4_2" },
        { "t", 1, 8, 1, 38, 0, ERR_UNSUPPORTED, "withdrawn type IQ4_NL_8_8" },
        { "t", 1, 256, 1, 10, 0, ERR_UNSUPPORTED, "type Q2_K, which is not supported" },
        { "t", 1, 8, 1, 43, 0, ERR_PARSE, "unknown type 43" },
        { "t", 1, 8, 1, 0xffffffff, 0, ERR_PARSE, "unknown type" },
        { "t", 1, 8, 1, 0, 4, ERR_PARSE, "not aligned to 32" },
        { "t", 1, 8, 1, 0, 64, ERR_PARSE, "cut short" },
        { "t", 1, 9, 1, 0, 32, ERR_PARSE, "cut short" },
        { "t", 1, 8, 1, 0, UINT64_MAX - 31, ERR_PARSE, "overflows" },
        { "t", 1, 8, 1, 0, (uint64_t)INT64_MAX + 1, ERR_PARSE, "cut short" },
        { "a name of sixty-four bytes, one more than may be: 9012345678901234", 1, 8, 1, 0, 0,
          ERR_LIMIT, "at most 63" },
        { "t\x01", 1, 8, 1, 0, 0, ERR_PARSE, "printable" },
        { "", 1, 8, 1, 0, 0, ERR_PARSE, "printable" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;

        buf_init(&b, 1 << 20);
        head(&b, 1, 0);
        tensor(&b, cases[i].name, cases[i].dims <= 5 ? cases[i].dims : 4, cases[i].ne0,
               cases[i].ne1, cases[i].type, cases[i].offset);
        if (cases[i].dims > 5)
            memcpy(b.p + 24 + 8 + strlen(cases[i].name), &cases[i].dims, 4);
        data(&b, 64);
        expect(&b, cases[i].rc, cases[i].says);
        buf_fini(&b);
    }
}

static void tensor_names_are_unique(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    head(&b, 2, 0);
    tensor(&b, "t", 1, 8, 0, TENSOR_F32, 0);
    tensor(&b, "t", 1, 8, 0, TENSOR_F32, 32);
    data(&b, 64);
    expect(&b, ERR_PARSE, "t is there twice");
    buf_fini(&b);
}

/* ---- whole files ---- */

static void tiny(struct buf *b)
{
    struct mkmodel o;
    struct err e;

    mkmodel_defaults(&o, "qwen2");
    o.layers = 1;
    o.embd = o.ff = 32;
    o.heads = 2;
    o.kv_heads = 1;
    o.head_dim = 16;
    o.merges = 20;
    buf_init(b, (size_t)16 << 20);
    assert_int_equal(mkmodel_build(&o, b, &e), 0);
}

static void a_file_cut_anywhere_is_cut_short(void **state)
{
    struct gguf *g;
    struct buf b;
    struct err e;
    size_t whole, data_at;

    (void)state;
    tiny(&b);
    whole = b.len;
    assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), 0);
    data_at = (size_t)(gguf_tensor_at(g, 0)->data - (const uint8_t *)b.p);
    gguf_close(g);
    /* Every byte of the head, then some of the data. */
    for (size_t cut = 0; cut < whole; cut += cut < data_at ? 1 : 997) {
        int rc;

        b.len = cut;
        rc = cut % 64 == 0 ? open_buf(&g, &b, &e) : gguf_open_bytes(&g, buf_view(&b), &e);
        assert_int_equal(rc, ERR_PARSE);
        assert_non_null(strstr(e.msg, cut < 4 ? "not a GGUF" : "cut short"));
    }
    b.len = whole;
    buf_fini(&b);
}

static void random_damage_never_reads_outside(void **state)
{
    struct rng r;
    struct buf b;
    struct err e;
    size_t head_len;

    (void)state;
    tiny(&b);
    head_len = b.len / 6; /* where the structure is */
    rng_seed(&r, 7);
    for (int round = 0; round < 3000; round++) {
        size_t at = rng_below(&r, head_len);
        char was[8];
        struct gguf *g;

        memcpy(was, b.p + at, sizeof(was));
        for (size_t i = 0; i < 1 + rng_below(&r, sizeof(was)); i++)
            b.p[at + i] = (char)(rng_below(&r, 3) != 0 ? rng_u64(&r) : 0xff);
        if (gguf_open_bytes(&g, buf_view(&b), &e) == 0) {
            for (size_t i = 0; i < gguf_tensor_count(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);

                assert_true(t->data >= (const uint8_t *)b.p &&
                            t->size <= (size_t)((const uint8_t *)b.p + b.len - t->data));
            }
            gguf_close(g);
        }
        memcpy(b.p + at, was, sizeof(was));
    }
    buf_fini(&b);
}

static void without_memory_it_says_so(void **state)
{
    struct gguf *g;
    struct buf b;
    uint64_t n = 1;

    (void)state;
    tiny(&b);
    for (;; n++) {
        struct err e = { 0 };
        int rc;

        mem_fail_at(n);
        rc = gguf_open_bytes(&g, buf_view(&b), &e);
        mem_fail_at(0);
        if (rc == 0)
            break;
        assert_int_equal(rc, ERR_NOMEM);
        assert_null(g);
    }
    assert_true(n > 8);
    gguf_close(g);
    buf_fini(&b);
}

static void versions_2_and_3_read_alike(void **state)
{
    struct gguf *g;
    struct buf b;
    struct err e;
    uint32_t two = 2;

    (void)state;
    tiny(&b);
    memcpy(b.p + 4, &two, 4);
    assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), 0);
    gguf_close(g);
    buf_fini(&b);
}

static void every_kind_of_number_is_taken(void **state)
{
    static const struct {
        enum gguf_type type;
        uint64_t raw;
        size_t n;
        int64_t want; /* INT64_MIN: not an integer of ours */
        double real;
    } cases[] = {
        { GGUF_U8, 200, 1, 200, 200 },
        { GGUF_I8, 0x80, 1, INT64_MIN, -128 },
        { GGUF_I8, 0x7f, 1, 127, 127 },
        { GGUF_U16, 65535, 2, 65535, 65535 },
        { GGUF_I16, 0x8000, 2, INT64_MIN, -32768 },
        { GGUF_U32, 0xffffffff, 4, 0xffffffff, 4294967295.0 },
        { GGUF_I32, 0xffffffff, 4, INT64_MIN, -1 },
        { GGUF_U64, (uint64_t)1 << 62, 8, (int64_t)1 << 62, 4611686018427387904.0 },
        { GGUF_I64, 5, 8, 5, 5 },
        { GGUF_F32, 0x3fc00000, 4, INT64_MIN, 1.5 },
        { GGUF_F64, 0xbff8000000000000, 8, INT64_MIN, -1.5 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct gguf *g;
        struct err e;
        struct buf b;
        uint64_t u;
        double f;
        bool flag;

        buf_init(&b, 4096);
        head(&b, 0, 1);
        text(&b, "k");
        u32(&b, (uint32_t)cases[i].type);
        buf_add(&b, &cases[i].raw, cases[i].n);
        assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), 0);
        assert_int_equal(gguf_u64(g, "k", &u), cases[i].want != INT64_MIN);
        if (cases[i].want != INT64_MIN)
            assert_int_equal(u, cases[i].want);
        assert_true(gguf_f64(g, "k", &f));
        assert_true(f == cases[i].real);
        assert_false(gguf_bool(g, "k", &flag));
        assert_false(gguf_u64(g, "absent", &u));
        gguf_close(g);
        buf_fini(&b);
    }
}

static void arrays_texts_and_flags_read_back(void **state)
{
    const struct gguf_value *v;
    struct gguf *g;
    struct err e;
    struct buf b;
    struct str s;
    uint64_t u = 0;
    double f;
    bool flag = false;

    (void)state;
    buf_init(&b, 4096);
    head(&b, 0, 4);
    text(&b, "words");
    u32(&b, GGUF_ARRAY);
    u32(&b, GGUF_STRING);
    u64(&b, 3);
    text(&b, "one");
    text(&b, "");
    text(&b, "three");
    text(&b, "sizes");
    u32(&b, GGUF_ARRAY);
    u32(&b, GGUF_I32);
    u64(&b, 2);
    u32(&b, 7);
    u32(&b, 0xfffffffe);
    text(&b, "text");
    u32(&b, GGUF_STRING);
    text(&b, "h\xc3\xa9");
    text(&b, "flag");
    u32(&b, GGUF_BOOL);
    buf_c(&b, 1);
    assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), 0);
    assert_int_equal(gguf_kv_count(g), 4);
    assert_true(str_eqz(gguf_kv_key(g, 2), "text"));
    v = gguf_get(g, "words");
    assert_int_equal(v->count, 3);
    assert_true(str_eqz(v->strings[0], "one") && v->strings[1].n == 0 &&
                str_eqz(v->strings[2], "three"));
    assert_false(gguf_value_u64(v, 0, &u));
    v = gguf_get(g, "sizes");
    assert_true(gguf_value_u64(v, 0, &u) && u == 7);
    assert_false(gguf_value_u64(v, 1, &u));
    assert_true(gguf_value_f64(v, 1, &f) && f == -2);
    assert_false(gguf_value_u64(v, 2, &u));
    assert_false(gguf_u64(g, "sizes", &u)); /* an array is no scalar */
    assert_true(gguf_str(g, "text", &s) && str_eqz(s, "h\xc3\xa9"));
    assert_true(gguf_bool(g, "flag", &flag) && flag);
    assert_false(gguf_u64(g, "flag", &u));
    assert_true(gguf_value_u64(gguf_get(g, "flag"), 0, &u) && u == 1);
    gguf_close(g);
    buf_fini(&b);
}

static void released_pages_come_back(void **state)
{
    const char *path = "test_gguf.gguf";
    struct gguf *g;
    struct buf b;
    struct err e;
    uint8_t hash[2] = { 0 };

    (void)state;
    tiny(&b);
    assert_int_equal(file_write(path, buf_view(&b), &e), 0);
    assert_int_equal(gguf_open(&g, path, &e), 0);
    assert_int_equal(gguf_file_bytes(g), b.len);
    for (int i = 0; i < 2; i++) {
        const struct gguf_tensor *t = gguf_tensor_find(g, "token_embd.weight");

        for (size_t k = 0; k < t->size; k++)
            hash[i] = (uint8_t)(hash[i] * 31 + t->data[k]);
        gguf_release_tensors(g);
    }
    assert_int_equal(hash[0], hash[1]);
    assert_non_null(gguf_get(g, "general.architecture"));
    gguf_close(g);
    assert_int_equal(gguf_open(&g, "/nonexistent.gguf", &e), ERR_NOTFOUND);
    assert_int_not_equal(gguf_open(&g, ".", &e), 0);
    remove(path);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_gguf_is_named),
        cmocka_unit_test(huge_counts_cost_nothing),
        cmocka_unit_test(damaged_values_are_refused),
        cmocka_unit_test(keys_are_unique_and_printable),
        cmocka_unit_test(alignment_is_a_power_of_two_in_range),
        cmocka_unit_test(damaged_tensors_are_refused),
        cmocka_unit_test(tensor_names_are_unique),
        cmocka_unit_test(a_file_cut_anywhere_is_cut_short),
        cmocka_unit_test(random_damage_never_reads_outside),
        cmocka_unit_test(without_memory_it_says_so),
        cmocka_unit_test(versions_2_and_3_read_alike),
        cmocka_unit_test(every_kind_of_number_is_taken),
        cmocka_unit_test(arrays_texts_and_flags_read_back),
        cmocka_unit_test(released_pages_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
