/* JSON: what RFC 8259 accepts and refuses, spans, limits, numbers, and the writer. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/json.h"
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

/* STR() for static tables. */
#define LIT(z)                                                                                     \
    {                                                                                              \
        (z), sizeof(z) - 1                                                                         \
    }
#define ARENA_BYTES ((size_t)64 << 20)

static int parse_n(struct str src, const struct json_limits *lim)
{
    struct arena a;
    const struct json *j;
    struct err e = { 0 };
    int rc;

    arena_init(&a, ARENA_BYTES);
    rc = json_parse(&a, src, lim, &j, &e);
    assert_int_equal(rc, rc == 0 ? 0 : e.code);
    assert_true((rc == 0) == (j != NULL));
    arena_fini(&a);
    return rc;
}

static const struct str good[] = {
    LIT("null"),
    LIT(" true "),
    LIT("\t\r\n false\n"),
    LIT("0"),
    LIT("-0"),
    LIT("-0.0e-0"),
    LIT("1E+2"),
    LIT("123456789012345678901234567890"),
    LIT("1.5e300"),
    LIT("1e400"),
    LIT("\"\""),
    LIT("[]"),
    LIT("{}"),
    LIT("[ ]"),
    LIT("{ }"),
    LIT("[1 , 2,\n3]"),
    LIT("[[],{},[[]]]"),
    LIT("{\"a\":{\"b\":[]} ,\"\":0}"),
    LIT("{\"a\":1,\"a\":2}"),
    LIT("\"\\u0000\\u001f\\uD83D\\uDE00\\/\\b\\f\""),
    LIT("\"\x7f\""),
    LIT("\"\xf0\x9f\x98\x80 \xc3\xa9 \xef\xbf\xbf\""),
    LIT("\"\xe2\x80\xa8\""),
    LIT("\"\\u0041\""),
    LIT("\"0123456789abcdef0123456789abcdef\\\"0123456789abcdef\""),
};

static const struct str bad[] = {
    LIT(""),
    LIT(" "),
    LIT("nul"),
    LIT("nulll"),
    LIT("True"),
    LIT("NaN"),
    LIT("Infinity"),
    LIT("-Infinity"),
    LIT("01"),
    LIT("-01"),
    LIT("+1"),
    LIT(".5"),
    LIT("1."),
    LIT("1.e1"),
    LIT("1e"),
    LIT("1e+"),
    LIT("-"),
    LIT("0x10"),
    LIT("1 2"),
    LIT("[1,]"),
    LIT("[,1]"),
    LIT("[1 2]"),
    LIT("[1"),
    LIT("]"),
    LIT("[1}"),
    LIT("{\"a\":1,}"),
    LIT("{a:1}"),
    LIT("{\"a\" 1}"),
    LIT("{\"a\":}"),
    LIT("{1:1}"),
    LIT("{\"a\":1"),
    LIT("{\"a\"}"),
    LIT("{,}"),
    LIT("{]"),
    LIT("'a'"),
    LIT("\"a"),
    LIT("\""),
    LIT("\"\\\""),
    LIT("\"\\x41\""),
    LIT("\"\\u12\""),
    LIT("\"\\u123g\""),
    LIT("\"\\ud800\""),
    LIT("\"\\udc00\\ud800\""),
    LIT("\"\\ud800\\u0041\""),
    LIT("\"\\uD83Dx\""),
    LIT("\"\n\""),
    LIT("\"\t\""),
    LIT("\"\0\""),
    LIT("\"\x80\""),
    LIT("\"\xc0\xaf\""),
    LIT("\"\xc1\xbf\""),
    LIT("\"\xe0\x9f\xbf\""),
    LIT("\"\xed\xa0\x80\""),
    LIT("\"\xf0\x8f\xbf\xbf\""),
    LIT("\"\xf4\x90\x80\x80\""),
    LIT("\"\xf5\x80\x80\x80\""),
    LIT("\"\xc3\""),
    LIT("\"\xe2\x82\""),
    LIT("\"\xc3\\u0041\""),
    LIT("\"\\\xc3\xa9\""),
    LIT("\xef\xbb\xbf{}"),
    LIT("[1]x"),
    LIT("// c\n1"),
    LIT("/**/1"),
    LIT("[1,\v2]"),
    LIT("[\xc2\xa0]"),
    LIT("{\"a\":1}}"),
    LIT("\"\\\n\""),
    LIT("nu\0l"),
};

static void rfc_8259_decides_what_is_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++)
        if (parse_n(good[i], NULL) != 0)
            fail_msg("refused: %.*s", STR_ARG(good[i]));
    for (size_t i = 0; i < COUNT(bad); i++)
        if (parse_n(bad[i], NULL) != ERR_PARSE)
            fail_msg("accepted: case %zu: %.*s", i, STR_ARG(bad[i]));
}

/* Every byte string is exact-sized on the heap, so a sanitizer sees a read past its end. */
static void a_document_cut_short_is_refused_and_never_overread(void **state)
{
    static const char doc[] =
        "{\"m\":[{\"role\":\"u\\u00e9\\n\",\"n\":-12.5e3},true,null],\"s\":\"\xf0\x9f\x98\x80"
        "0123456789abcdef0123\"}";

    (void)state;
    for (size_t n = 0; n < sizeof(doc); n++) {
        char *copy = mem_dup(doc, n);

        assert_int_equal(parse_n((struct str) { copy, n }, NULL),
                         n == sizeof(doc) - 1 ? 0 : ERR_PARSE);
        mem_free(copy);
        if (n == sizeof(doc) - 1)
            break;
    }
}

static void spans_are_the_bytes_of_each_value(void **state)
{
    static const char doc[] = " { \"a\" : [ 1, \"x\\ty\" , {\"k\":2} ] , \"b\":-1.50e1 } ";
    struct arena a;
    const struct json *j, *arr;
    struct str s;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    assert_int_equal(json_parse(&a, str_of(doc), NULL, &j, NULL), 0);
    assert_true(str_eqz(j->span, "{ \"a\" : [ 1, \"x\\ty\" , {\"k\":2} ] , \"b\":-1.50e1 }"));
    arr = json_get(j, "a");
    assert_int_equal(arr->count, 3);
    assert_true(str_eqz(arr->span, "[ 1, \"x\\ty\" , {\"k\":2} ]"));
    assert_true(str_eqz(json_at(arr, 1)->span, "\"x\\ty\""));
    assert_true(json_str(json_at(arr, 1), &s) && str_eqz(s, "x\ty"));
    assert_true(str_eqz(json_at(arr, 2)->span, "{\"k\":2}"));
    assert_true(str_eqz(json_get(j, "b")->span, "-1.50e1"));
    assert_null(json_at(arr, 3));
    assert_null(json_get(arr, "a"));
    assert_null(json_get(NULL, "a"));
    /* Borrowed where nothing needed decoding. */
    assert_ptr_equal(json_get(j, "b")->text.p, json_get(j, "b")->span.p);
    arena_fini(&a);
}

static void escapes_decode_to_utf8(void **state)
{
    static const struct {
        const char *in;
        struct str out;
    } cases[] = {
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", LIT("\"\\/\b\f\n\r\t") },
        { "\"\\u0000\"", LIT("\0") },
        { "\"a\\u00e9b\\u20ACc\\ud83d\\ude00d\"", LIT("a\xc3\xa9"
                                                      "b\xe2\x82\xac"
                                                      "c\xf0\x9f\x98\x80"
                                                      "d") },
        { "\"\\uFFFF\\u07ff\\u0800\"", LIT("\xef\xbf\xbf\xdf\xbf\xe0\xa0\x80") },
        { "\"\\udbff\\udfff\"", LIT("\xf4\x8f\xbf\xbf") },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena a;
        const struct json *j;
        struct str s;

        arena_init(&a, ARENA_BYTES);
        assert_int_equal(json_parse(&a, str_of(cases[i].in), NULL, &j, NULL), 0);
        assert_true(json_str(j, &s));
        assert_true(str_eq(s, cases[i].out));
        arena_fini(&a);
    }
}

static void integers_keep_all_64_bits_and_others_are_refused(void **state)
{
    static const struct {
        const char *in;
        bool is_i64;
        int64_t i;
        bool is_u64;
        uint64_t u;
    } cases[] = {
        { "9223372036854775807", true, INT64_MAX, true, INT64_MAX },
        { "-9223372036854775808", true, INT64_MIN, false, 0 },
        { "9223372036854775808", false, 0, true, (uint64_t)INT64_MAX + 1 },
        { "18446744073709551615", false, 0, true, UINT64_MAX },
        { "18446744073709551616", false, 0, false, 0 },
        { "9007199254740993", true, 9007199254740993, true, 9007199254740993u },
        { "1.0", false, 0, false, 0 },
        { "1e3", false, 0, false, 0 },
        { "\"1\"", false, 0, false, 0 },
        { "true", false, 0, false, 0 },
        { "-1", true, -1, false, 0 },
    };

    (void)state;
    for (size_t n = 0; n < COUNT(cases); n++) {
        struct arena a;
        const struct json *j;
        int64_t i = 0;
        uint64_t u = 0;

        arena_init(&a, ARENA_BYTES);
        assert_int_equal(json_parse(&a, str_of(cases[n].in), NULL, &j, NULL), 0);
        assert_true(json_i64(j, &i) == cases[n].is_i64 && i == cases[n].i);
        assert_true(json_u64(j, &u) == cases[n].is_u64 && u == cases[n].u);
        arena_fini(&a);
    }
}

static void doubles_round_as_the_c_library_does(void **state)
{
    struct arena a;
    const struct json *j;
    struct buf b;
    double v = 0;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    buf_init(&b, 4096);
    buf_z(&b, "0.");
    for (int i = 0; i < 900; i++)
        buf_c(&b, (char)('0' + i % 10));
    assert_int_equal(json_parse(&a, buf_view(&b), NULL, &j, NULL), 0);
    assert_true(json_f64(j, &v) && v == 0.012345678901234568);
    assert_int_equal(json_parse(&a, STR("1e400"), NULL, &j, NULL), 0);
    assert_false(json_f64(j, &v));
    assert_int_equal(json_parse(&a, STR("-2.5e-3"), NULL, &j, NULL), 0);
    assert_true(json_f64(j, &v) && v == -0.0025);
    buf_fini(&b);
    arena_fini(&a);
}

static void every_limit_is_an_error_not_a_crash(void **state)
{
    struct buf b;
    struct arena a;
    const struct json *j;
    struct err e;

    (void)state;
    buf_init(&b, (size_t)4 << 20);
    for (int i = 0; i < 1000000; i++)
        buf_c(&b, '[');
    assert_int_equal(parse_n(buf_view(&b), NULL), ERR_LIMIT);
    assert_int_equal(parse_n(buf_view(&b), &(struct json_limits) { .depth_max = UINT32_MAX }),
                     ERR_LIMIT);
    assert_int_equal(parse_n(STR("[[1]]"), &(struct json_limits) { .depth_max = 2 }), 0);
    assert_int_equal(parse_n(STR("[[{}]]"), &(struct json_limits) { .depth_max = 2 }), ERR_LIMIT);
    assert_int_equal(parse_n(STR("[1,2]"), &(struct json_limits) { .values_max = 3 }), 0);
    assert_int_equal(parse_n(STR("[1,2,3]"), &(struct json_limits) { .values_max = 3 }), ERR_LIMIT);
    assert_int_equal(parse_n(STR("{\"a\":1,\"b\":2}"), &(struct json_limits) { .members_max = 1 }),
                     ERR_LIMIT);
    arena_init(&a, 16 << 10);
    buf_reset(&b);
    buf_c(&b, '[');
    for (int i = 0; i < 5000; i++)
        buf_z(&b, "1,");
    buf_z(&b, "1]");
    assert_int_equal(json_parse(&a, buf_view(&b), NULL, &j, &e), ERR_LIMIT);
    arena_fini(&a);
    buf_fini(&b);
}

static void duplicates_are_last_wins_or_refused(void **state)
{
    static const struct json_limits strict = { .refuse_duplicates = true };
    struct arena a;
    const struct json *j;
    struct buf b;
    int64_t v = 0;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    assert_int_equal(json_parse(&a, STR("{\"a\":1,\"\\u0061\":2,\"b\":3}"), NULL, &j, NULL), 0);
    assert_true(json_i64(json_get(j, "a"), &v) && v == 2);
    arena_fini(&a);
    assert_int_equal(parse_n(STR("{\"a\":1,\"\\u0061\":2}"), &strict), ERR_PARSE);
    assert_int_equal(parse_n(STR("{\"a\":1,\"b\":{\"a\":2}}"), &strict), 0);
    buf_init(&b, 1 << 20);
    for (int dup = 0; dup < 2; dup++) {
        buf_reset(&b);
        buf_c(&b, '{');
        for (int i = 0; i < 500; i++)
            buf_f(&b, "\"k%d\":0,", i);
        buf_f(&b, "\"k%d\":0}", dup ? 250 : 500);
        assert_int_equal(parse_n(buf_view(&b), &strict), dup ? ERR_PARSE : 0);
    }
    buf_fini(&b);
}

static void an_error_says_line_and_column(void **state)
{
    struct arena a;
    const struct json *j;
    struct err e;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    assert_int_equal(json_parse(&a, STR("{\n  \"a\": 1,\n  \"b\": tru\n}"), NULL, &j, &e),
                     ERR_PARSE);
    assert_non_null(strstr(e.msg, "line 3 column 8"));
    arena_fini(&a);
}

static void the_writer_puts_commas_and_escapes(void **state)
{
    struct buf b;
    struct json_w w;

    (void)state;
    buf_init(&b, 4096);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "a", "q\"\\\b\f\n\r\t\x01\x7f/\xc3\xa9");
    json_w_kstr(&w, "bad", STR("x\xff\xe2\x82y\xed\xa0\x80"));
    json_w_ki64(&w, "min", INT64_MIN);
    json_w_ku64(&w, "max", UINT64_MAX);
    json_w_karr(&w, "arr");
    json_w_i64(&w, 0);
    json_w_obj(&w);
    json_w_end(&w, '}');
    json_w_arr(&w);
    json_w_bool(&w, true);
    json_w_null(&w);
    json_w_end(&w, ']');
    json_w_raw(&w, STR("{\"r\":1}"));
    json_w_end(&w, ']');
    json_w_kf64(&w, "f", 0.1);
    json_w_kf64(&w, "nan", NAN);
    json_w_kf64(&w, "inf", -INFINITY);
    json_w_knull(&w, "n");
    json_w_kbool(&w, "t", false);
    json_w_kraw(&w, "raw", STR("[]"));
    json_w_kobj(&w, "o");
    json_w_end(&w, '}');
    json_w_end(&w, '}');
    assert_true(str_eqz(buf_view(&b), "{\"a\":\"q\\\"\\\\\\b\\f\\n\\r\\t\\u0001\x7f/"
                                      "\xc3\xa9\",\"bad\":\"x\xef\xbf\xbd\xef\xbf\xbdy"
                                      "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\",\"min\":-"
                                      "9223372036854775808,\"max\":18446744073709551615,"
                                      "\"arr\":[0,{},[true,null],{\"r\":1}],\"f\":0.1,\"nan\":null,"
                                      "\"inf\":null,\"n\":null,\"t\":false,"
                                      "\"raw\":[],\"o\":{}}"));
    assert_int_equal(parse_n(buf_view(&b), NULL), 0);
    buf_reset(&b);
    json_w_init(&w, &b);
    for (int i = 0; i < 64; i++)
        json_w_arr(&w);
    assert_false(b.failed);
    json_w_arr(&w); /* the 65th */
    assert_true(b.failed);
    buf_fini(&b);
}

static void a_written_double_reads_back_bit_for_bit(void **state)
{
    static const struct {
        double v;
        const char *z;
    } cases[] = {
        { 0, "0" },
        { 1, "1" },
        { 0.1, "0.1" },
        { 1e21, "1e+21" },
        { 5e-324, "4.94065645841247e-324" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 0.30000000000000004, "0.30000000000000004" },
        { 1767225600.5, "1767225600.5" },
        { -0.0, "-0" },
        { -0.05, "-0.05" },
        { 999999999.999, "999999999.999" },
        { 0.0005, "0.0005" },
    };
    struct rng r;
    struct buf b;
    struct json_w w;
    char want[40];

    (void)state;
    buf_init(&b, 64);
    for (size_t i = 0; i < COUNT(cases); i++) {
        buf_reset(&b);
        json_w_init(&w, &b);
        json_w_f64(&w, cases[i].v);
        assert_true(str_eqz(buf_view(&b), cases[i].z));
    }
    rng_seed(&r, 7);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = rng_u64(&r);
        double v;

        memcpy(&v, &bits, sizeof(v));
        if (!isfinite(v))
            continue;
        buf_reset(&b);
        json_w_init(&w, &b);
        json_w_f64(&w, v);
        buf_c(&b, 0);
        assert_true(strtod(b.p, NULL) == v);
        /* few decimals are written without printf, and as printf does */
        v = (double)((int64_t)(bits >> 24) - ((int64_t)1 << 39)) / 1000;
        snprintf(want, sizeof(want), "%.15g", v);
        buf_reset(&b);
        json_w_init(&w, &b);
        json_w_f64(&w, v);
        assert_true(str_eqz(buf_view(&b), want));
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_8259_decides_what_is_json),
        cmocka_unit_test(a_document_cut_short_is_refused_and_never_overread),
        cmocka_unit_test(spans_are_the_bytes_of_each_value),
        cmocka_unit_test(escapes_decode_to_utf8),
        cmocka_unit_test(integers_keep_all_64_bits_and_others_are_refused),
        cmocka_unit_test(doubles_round_as_the_c_library_does),
        cmocka_unit_test(every_limit_is_an_error_not_a_crash),
        cmocka_unit_test(duplicates_are_last_wins_or_refused),
        cmocka_unit_test(an_error_says_line_and_column),
        cmocka_unit_test(the_writer_puts_commas_and_escapes),
        cmocka_unit_test(a_written_double_reads_back_bit_for_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
