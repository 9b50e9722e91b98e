/* YAML: trees, places, what scalars mean, and what is refused. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/check.h"
#include "codec/yaml.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct arena a;
static struct err e;

static const struct yaml_node *parse(const char *src)
{
    const struct yaml_node *n = NULL;

    if (yaml_parse(&a, str_of(src), "f.yaml", &n, &e) != 0)
        fail_msg("%s", e.msg);
    return n;
}

static int setup(void **state)
{
    (void)state;
    arena_init(&a, (size_t)64 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_fini(&a);
    return 0;
}

static void a_file_becomes_a_tree_with_places(void **state)
{
    const struct yaml_node *n = parse("# first\n"
                                      "keys:\n"
                                      "  - id: a1   # who\n"
                                      "    models: [x, 'y z']\n"
                                      "  - id: b2\n"
                                      "note: |\n"
                                      "  two\n"
                                      "  lines\n");
    const struct yaml_node *keys = yaml_get(n, "keys"), *first = keys->first;
    const struct yaml_node *models = yaml_get(first, "models");

    (void)state;
    assert_true(yaml_is(n, YAML_MAP) && n->count == 2);
    assert_true(yaml_is(keys, YAML_LIST) && keys->count == 2);
    assert_string_equal(yaml_get(first, "id")->text.p, "a1");
    assert_int_equal(yaml_get(first, "id")->line, 3);
    assert_int_equal(yaml_get(first, "id")->column, 9);
    assert_int_equal(models->key_line, 4);
    assert_int_equal(models->key_column, 5);
    assert_int_equal(models->count, 2);
    assert_string_equal(models->first->next->text.p, "y z");
    assert_true(models->first->next->quoted && !models->first->quoted);
    assert_string_equal(yaml_get(first->next, "id")->text.p, "b2");
    assert_string_equal(yaml_get(n, "note")->text.p, "two\nlines\n");
    assert_true(yaml_get(n, "note")->quoted);
    assert_null(yaml_get(n, "absent"));
    assert_null(yaml_get(NULL, "absent"));
    assert_null(yaml_get(keys, "id"));
}

static void json_reads_the_same(void **state)
{
    const struct yaml_node *n = parse("{\"a\": [1, -2.5e3, true, null, \"1\"],\n"
                                      "\t\"b\\u00e9\\n\": {\"c\\/\": \"\\\"\"}}");
    const struct yaml_node *v = yaml_get(n, "a")->first;
    uint64_t u;
    double d;
    bool b;

    (void)state;
    assert_true(yaml_u64(v, &u) && u == 1);
    v = v->next;
    assert_true(yaml_f64(v, &d) && d == -2500);
    v = v->next;
    assert_true(yaml_bool(v, &b) && b);
    v = v->next;
    assert_true(yaml_is_null(v));
    v = v->next;
    assert_false(yaml_u64(v, &u));
    assert_string_equal(yaml_get(yaml_get(n, "b\xc3\xa9\n"), "c/")->text.p, "\"");
}

static void an_empty_file_is_null(void **state)
{
    static const char *const cases[] = { "", "\n", "# only words\n", "---\n", "~", "null\n" };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_true(yaml_is_null(parse(cases[i])));
    assert_false(yaml_is_null(parse("''")));
    assert_false(yaml_is_null(parse("\"null\"")));
    assert_false(yaml_is_null(parse("[]")));
}

static void what_is_refused_names_its_place(void **state)
{
    static const struct {
        const char *src;
        int rc;
        const char *msg;
    } cases[] = {
        { "a: 1\nb: 2\na: 3\n", ERR_PARSE, "f.yaml:3:1: key \"a\" comes twice" },
        { "x:\n  a: 1\n  'a': 2\n", ERR_PARSE, "f.yaml:3:3: key \"a\" comes twice" },
        { "{a: 1, a: 1}", ERR_PARSE, "f.yaml:1:8: key \"a\" comes twice" },
        { "a: &x 1\n", ERR_UNSUPPORTED, "f.yaml:1:4: anchors are not supported" },
        { "a: &x [1]\n", ERR_UNSUPPORTED, "f.yaml:1:4: anchors are not supported" },
        { "a: &x {}\n", ERR_UNSUPPORTED, "f.yaml:1:4: anchors are not supported" },
        { "a: *x\n", ERR_UNSUPPORTED, "f.yaml:1:4: aliases are not supported" },
        { "<<: {a: 1}\n", ERR_UNSUPPORTED, "f.yaml:1:1: merge keys are not supported" },
        { "a: !!int 1\n", ERR_UNSUPPORTED, "f.yaml:1:4: tags are not supported" },
        { "a: !x [1]\n", ERR_UNSUPPORTED, "f.yaml:1:4: tags are not supported" },
        { "a: 1\n---\nb: 1\n", ERR_UNSUPPORTED, "f.yaml:2:1: a second document is not supported" },
        { "? [a]\n: 1\n", ERR_PARSE, "f.yaml:1:3: a key must be a scalar" },
        { "?\n: 1\n", ERR_PARSE, "f.yaml:1:2: a key is empty" },
        { "a: \"x\\0y\"\n", ERR_PARSE, "f.yaml:1:4: a NUL character in text" },
        { "a:\n\t- b\n", ERR_PARSE, "f.yaml:2:1: " },
        { "a: [1\n", ERR_PARSE, "f.yaml:2:1: " },
        { "a: 'x\n", ERR_PARSE, "f.yaml:2:1: " },
        { "a: b: c\n", ERR_PARSE, "f.yaml:1:5: " },
        { "a: \xff\n", ERR_PARSE, "f.yaml: " },
        { "a: \x01\n", ERR_PARSE, "f.yaml: " },
        { "\xff\xfe"
          "a",
          ERR_PARSE, "f.yaml: " },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct yaml_node *n = parse("x");
        int rc = yaml_parse(&a, str_of(cases[i].src), "f.yaml", &n, &e);

        if (rc != cases[i].rc || n != NULL ||
            strncmp(e.msg, cases[i].msg, strlen(cases[i].msg)) != 0)
            fail_msg("case %zu: %d %s", i, rc, rc != 0 ? e.msg : "");
    }
}

static void equal_keys_of_different_maps_are_fine(void **state)
{
    const struct yaml_node *n = parse("a: {a: {a: 1}, b: 2}\nb: {a: 3}\n\"<<\": 4\n");

    (void)state;
    assert_string_equal(yaml_get(yaml_get(yaml_get(n, "a"), "a"), "a")->text.p, "1");
    assert_string_equal(yaml_get(n, "<<")->text.p, "4");
}

static void depth_and_size_end_at_their_limit(void **state)
{
    const struct yaml_node *n;
    struct buf b;

    (void)state;
    for (size_t depth = 31; depth <= 33; depth++) {
        buf_init(&b, 1000);
        for (size_t i = 0; i < depth; i++)
            buf_c(&b, '[');
        for (size_t i = 0; i < depth; i++)
            buf_c(&b, ']');
        assert_int_equal(yaml_parse(&a, buf_view(&b), "f", &n, &e), depth <= 32 ? 0 : ERR_LIMIT);
        buf_fini(&b);
    }
    buf_init(&b, YAML_BYTES_MAX + 1);
    buf_reserve(&b, YAML_BYTES_MAX + 1);
    memset(b.p, '#', YAML_BYTES_MAX + 1);
    for (size_t size = YAML_BYTES_MAX - 1; size <= YAML_BYTES_MAX + 1; size++) {
        b.len = size;
        assert_int_equal(yaml_parse(&a, buf_view(&b), "f", &n, &e),
                         size <= YAML_BYTES_MAX ? 0 : ERR_LIMIT);
    }
    memset(b.p, '[', YAML_BYTES_MAX); /* 1 MiB of brackets ends at once (LIB-04) */
    b.len = YAML_BYTES_MAX;
    assert_int_equal(yaml_parse(&a, buf_view(&b), "f", &n, &e), ERR_LIMIT);
    buf_fini(&b);
}

static void the_arenas_ceiling_holds(void **state)
{
    const struct yaml_node *n;
    struct arena small;
    struct buf b;

    (void)state;
    buf_init(&b, YAML_BYTES_MAX);
    while (b.len < 500000)
        buf_f(&b, "k%zu: v\n", b.len);
    arena_init(&small, (size_t)256 << 10);
    assert_int_equal(yaml_parse(&small, buf_view(&b), "f", &n, &e), ERR_LIMIT);
    assert_null(n);
    arena_fini(&small);
    assert_int_equal(yaml_parse(&a, buf_view(&b), "f", &n, &e), 0);
    buf_fini(&b);
}

/* Columns: what each reading gives; x = not that kind.  The rows follow the YAML 1.2 core schema,
 * with Go's words for booleans. */
static void plain_scalars_mean_what_is_asked(void **state)
{
    static const struct {
        const char *src, *u64, *i64, *f64;
        int boolean; /* -1: none */
    } cases[] = {
        { "0", "0", "0", "0", -1 },
        { "8080", "8080", "8080", "8080", -1 },
        { "+7", "7", "7", "7", -1 },
        { "-7", "x", "-7", "-7", -1 },
        { "0x1F", "31", "31", "31", -1 },
        { "0o17", "15", "15", "15", -1 },
        { "0xFFFFFFFFFFFFFFFF", "18446744073709551615", "x", "18446744073709551616", -1 },
        { "0x10000000000000000", "x", "x", "x", -1 },
        { "010", "x", "x", "x", -1 },
        { "-0", "x", "0", "0", -1 },
        { "18446744073709551615", "18446744073709551615", "x", "18446744073709551616", -1 },
        { "18446744073709551616", "x", "x", "18446744073709551616", -1 },
        { "-9223372036854775808", "x", "-9223372036854775808", "-9223372036854775808", -1 },
        { "-9223372036854775809", "x", "x", "-9223372036854775808", -1 },
        { "1.5", "x", "x", "1.5", -1 },
        { "+.5e1", "x", "x", "5", -1 },
        { "1e400", "x", "x", "x", -1 },
        { ".inf", "x", "x", "x", -1 },
        { "nan", "x", "x", "x", -1 },
        { "0x", "x", "x", "x", -1 },
        { "1_000", "x", "x", "x", -1 },
        { "--1", "x", "x", "x", -1 },
        { "+-1", "x", "x", "x", -1 },
        { "'1'", "x", "x", "x", -1 },
        { "!!str 1", "x", "x", "x", -1 },
        { "true", "x", "x", "x", 1 },
        { "False", "x", "x", "x", 0 },
        { "yes", "x", "x", "x", 1 },
        { "OFF", "x", "x", "x", 0 },
        { "tRue", "x", "x", "x", -1 },
        { "\"true\"", "x", "x", "x", -1 },
        { "1", "1", "1", "1", -1 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct yaml_node *n = parse(cases[i].src);
        uint64_t u = 99;
        int64_t s = 99;
        double d = 99, want;
        bool b = false;
        struct str text;

        if (yaml_u64(n, &u) ? strtoull(cases[i].u64, NULL, 10) != u : cases[i].u64[0] != 'x')
            fail_msg("u64 of %s: %llu", cases[i].src, (unsigned long long)u);
        if (yaml_i64(n, &s) ? strtoll(cases[i].i64, NULL, 10) != s : cases[i].i64[0] != 'x')
            fail_msg("i64 of %s: %lld", cases[i].src, (long long)s);
        want = strtod(cases[i].f64, NULL);
        if (yaml_f64(n, &d) ? fabs(d - want) > 0 : cases[i].f64[0] != 'x')
            fail_msg("f64 of %s: %g", cases[i].src, d);
        if ((yaml_bool(n, &b) ? (int)b : -1) != cases[i].boolean)
            fail_msg("bool of %s", cases[i].src);
        assert_true(yaml_str(n, &text));
    }
    assert_false(yaml_str(parse("~"), &(struct str) { 0 }));
    assert_false(yaml_str(parse("[a]"), &(struct str) { 0 }));
    assert_false(yaml_u64(NULL, &(uint64_t) { 0 }));
}

static void complaints_name_value_or_key(void **state)
{
    static const char *const known[] = { "a", "b", NULL };
    const struct yaml_node *n = parse("a: 1\nb:   {c: 2}\n'd': 3\n");

    (void)state;
    assert_int_equal(yaml_err(yaml_get(n, "b"), &e, "must be %d", 5), ERR_PARSE);
    assert_string_equal(e.msg, "f.yaml:2:6: must be 5");
    n = yaml_unknown(n, known);
    assert_non_null(n);
    yaml_err_key(n, &e, "unknown key \"%.*s\"", STR_ARG(n->key));
    assert_string_equal(e.msg, "f.yaml:3:1: unknown key \"d\"");
    assert_null(yaml_unknown(parse("{a: 1}"), known));
    assert_null(yaml_unknown(parse("[c]"), known));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_becomes_a_tree_with_places),
        cmocka_unit_test(json_reads_the_same),
        cmocka_unit_test(an_empty_file_is_null),
        cmocka_unit_test(what_is_refused_names_its_place),
        cmocka_unit_test(equal_keys_of_different_maps_are_fine),
        cmocka_unit_test(depth_and_size_end_at_their_limit),
        cmocka_unit_test(the_arenas_ceiling_holds),
        cmocka_unit_test(plain_scalars_mean_what_is_asked),
        cmocka_unit_test(complaints_name_value_or_key),
    };

    return cmocka_run_group_tests_name("yaml", tests, setup, teardown);
}
