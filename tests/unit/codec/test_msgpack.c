/* MessagePack: heads as the format page gives them, bytes from another implementation, hostile
 * lengths. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "codec/msgpack.h"
#include <string.h>

#define LIT(z)                                                                                     \
    {                                                                                              \
        (z), sizeof(z) - 1                                                                         \
    }

static void integers_take_the_shortest_form(void **state)
{
    /* From Python's msgpack 1.0, packb(). */
    static const struct {
        int64_t v;
        struct str bytes;
    } cases[] = {
        { 0, LIT("\x00") },
        { 127, LIT("\x7f") },
        { 128, LIT("\xcc\x80") },
        { 255, LIT("\xcc\xff") },
        { 256, LIT("\xcd\x01\x00") },
        { 65535, LIT("\xcd\xff\xff") },
        { 65536, LIT("\xce\x00\x01\x00\x00") },
        { 4294967295, LIT("\xce\xff\xff\xff\xff") },
        { 4294967296, LIT("\xcf\x00\x00\x00\x01\x00\x00\x00\x00") },
        { -1, LIT("\xff") },
        { -32, LIT("\xe0") },
        { -33, LIT("\xd0\xdf") },
        { -128, LIT("\xd0\x80") },
        { -129, LIT("\xd1\xff\x7f") },
        { -32768, LIT("\xd1\x80\x00") },
        { -32769, LIT("\xd2\xff\xff\x7f\xff") },
        { INT64_MIN, LIT("\xd3\x80\x00\x00\x00\x00\x00\x00\x00") },
        { INT64_MAX, LIT("\xcf\x7f\xff\xff\xff\xff\xff\xff\xff") },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;
        struct mp_cursor c;
        struct mp_value v;

        buf_init(&b, 64);
        mp_w_int(&b, cases[i].v);
        if (!str_eq(buf_view(&b), cases[i].bytes))
            fail_msg("case %zu", i);
        mp_init(&c, cases[i].bytes);
        assert_int_equal(mp_next(&c, &v), 0);
        assert_ptr_equal(c.p, c.end);
        assert_int_equal(v.type, cases[i].v < 0 ? MP_INT : MP_UINT);
        assert_true((cases[i].v < 0 ? v.as.i : (int64_t)v.as.u) == cases[i].v);
        buf_fini(&b);
    }
}

static void other_forms_of_one_value_read_alike(void **state)
{
    static const struct {
        struct str bytes;
        enum mp_type type;
        int64_t v;
    } cases[] = {
        { LIT("\xcc\x05"), MP_UINT, 5 },
        { LIT("\xd0\x05"), MP_UINT, 5 },
        { LIT("\xd3\0\0\0\0\0\0\0\x05"), MP_UINT, 5 },
        { LIT("\xd1\xff\xfb"), MP_INT, -5 },
        { LIT("\xd2\xff\xff\xff\xfb"), MP_INT, -5 },
        { LIT("\xc3"), MP_BOOL, 1 },
        { LIT("\xc2"), MP_BOOL, 0 },
        { LIT("\xc0"), MP_NIL, 0 },
    };
    struct mp_cursor c;
    struct mp_value v;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        mp_init(&c, cases[i].bytes);
        assert_int_equal(mp_next(&c, &v), 0);
        assert_int_equal(v.type, cases[i].type);
        if (v.type == MP_BOOL)
            assert_int_equal(v.as.b, cases[i].v);
        else if (v.type == MP_UINT)
            assert_true(v.as.u == (uint64_t)cases[i].v);
        else if (v.type == MP_INT)
            assert_true(v.as.i == cases[i].v);
    }
    mp_init(&c, STR("\xca\x3f\xc0\x00\x00"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_FLOAT && v.as.f == 1.5);
    mp_init(&c, STR("\xcb\x41\xda\x55\x6e\x40\x20\x00\x00"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_FLOAT && v.as.f == 1767225600.5);
    mp_init(&c, STR("\xd6\xff\x01\x02\x03\x04"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_EXT && v.as.s.n == 4 && c.p == c.end);
    mp_init(&c, STR("\xc7\x03\x05"
                    "abc"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_EXT && str_eqz(v.as.s, "abc"));
    mp_init(&c, STR("\xda\x00\x02hi\xc5\x00\x01x"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_STR && str_eqz(v.as.s, "hi"));
    assert_true(mp_next(&c, &v) == 0 && v.type == MP_BIN && str_eqz(v.as.s, "x"));
}

static void sizes_and_containers_are_written_as_the_format_page_says(void **state)
{
    static const struct {
        size_t n;
        struct str str_head, bin_head, arr_head, map_head;
    } cases[] = {
        { 0, LIT("\xa0"), LIT("\xc4\x00"), LIT("\x90"), LIT("\x80") },
        { 15, LIT("\xaf"), LIT("\xc4\x0f"), LIT("\x9f"), LIT("\x8f") },
        { 16, LIT("\xb0"), LIT("\xc4\x10"), LIT("\xdc\x00\x10"), LIT("\xde\x00\x10") },
        { 31, LIT("\xbf"), LIT("\xc4\x1f"), LIT("\xdc\x00\x1f"), LIT("\xde\x00\x1f") },
        { 32, LIT("\xd9\x20"), LIT("\xc4\x20"), LIT("\xdc\x00\x20"), LIT("\xde\x00\x20") },
        { 256, LIT("\xda\x01\x00"), LIT("\xc5\x01\x00"), LIT("\xdc\x01\x00"), LIT("\xde\x01\x00") },
        { 65536, LIT("\xdb\x00\x01\x00\x00"), LIT("\xc6\x00\x01\x00\x00"),
          LIT("\xdd\x00\x01\x00\x00"), LIT("\xdf\x00\x01\x00\x00") },
    };
    char *zeros = mem_zalloc(65536);

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;

        buf_init(&b, 1 << 20);
        mp_w_str(&b, (struct str) { zeros, cases[i].n });
        assert_true(str_starts(buf_view(&b), cases[i].str_head) &&
                    b.len == cases[i].str_head.n + cases[i].n);
        buf_reset(&b);
        mp_w_bin(&b, zeros, cases[i].n);
        assert_true(str_starts(buf_view(&b), cases[i].bin_head) &&
                    b.len == cases[i].bin_head.n + cases[i].n);
        buf_reset(&b);
        mp_w_array(&b, (uint32_t)cases[i].n);
        assert_true(str_eq(buf_view(&b), cases[i].arr_head));
        buf_reset(&b);
        mp_w_map(&b, (uint32_t)cases[i].n);
        assert_true(str_eq(buf_view(&b), cases[i].map_head));
        buf_fini(&b);
    }
    mem_free(zeros);
}

static void a_length_beyond_what_is_left_is_refused(void **state)
{
    static const struct str cases[] = {
        LIT(""),
        LIT("\xc1"),
        LIT("\xcc"),
        LIT("\xcd\x01"),
        LIT("\xcf\x01\x02\x03"),
        LIT("\xca\x00"),
        LIT("\xcb\x00"),
        LIT("\xa1"),
        LIT("\xd9\x02x"),
        LIT("\xdb\xff\xff\xff\xff"),
        LIT("\xc6\xff\xff\xff\xffxx"),
        LIT("\x91"),
        LIT("\x82\x01\x02\x03"),
        LIT("\xdc\x00\x02\x00"),
        LIT("\xdd\xff\xff\xff\xff\x00"),
        LIT("\xdf\xff\xff\xff\xff\x00\x00"),
        LIT("\xde\x00\x01\x00"),
        LIT("\xd4"),
        LIT("\xd4\x01"),
        LIT("\xc7\x02\x01x"),
        LIT("\xc9\xff\xff\xff\xff\x00"),
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *exact = mem_dup(cases[i].p, cases[i].n);
        struct mp_cursor c;
        struct mp_value v;

        mp_init(&c, (struct str) { exact, cases[i].n });
        if (mp_next(&c, &v) != ERR_PARSE)
            fail_msg("case %zu", i);
        assert_ptr_equal(c.p, exact); /* a refused value is not half read */
        assert_int_equal(mp_skip(&c), ERR_PARSE);
        mem_free(exact);
    }
}

static void skipping_costs_no_stack_however_deep(void **state)
{
    size_t n = (size_t)1 << 20;
    char *deep = mem_alloc(n + 1);
    struct mp_cursor c;

    (void)state;
    memset(deep, 0x91, n);
    deep[n] = 0x05;
    mp_init(&c, (struct str) { deep, n + 1 });
    assert_int_equal(mp_skip(&c), 0);
    assert_ptr_equal(c.p, c.end);
    mp_init(&c, (struct str) { deep, n });
    assert_int_equal(mp_skip(&c), ERR_PARSE);
    mem_free(deep);
    mp_init(&c, STR("\x82\x01\x92\xa1x\xc0\x02\x81\x03\x90\x2a"));
    assert_int_equal(mp_skip(&c), 0);
    assert_int_equal(c.end - c.p, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_take_the_shortest_form),
        cmocka_unit_test(other_forms_of_one_value_read_alike),
        cmocka_unit_test(sizes_and_containers_are_written_as_the_format_page_says),
        cmocka_unit_test(a_length_beyond_what_is_left_is_refused),
        cmocka_unit_test(skipping_costs_no_stack_however_deep),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
