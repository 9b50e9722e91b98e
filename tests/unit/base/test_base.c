/* base: text, buffers, maps, flags, metrics, arenas. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/opt.h"
#include "base/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void numbers_are_whole_strings_or_nothing(void **state)
{
    static const struct {
        const char *in;
        bool ok;
        uint64_t v;
    } cases[] = {
        { "0", true, 0 },
        { "18446744073709551615", true, UINT64_MAX },
        { "18446744073709551616", false, 0 },
        { "", false, 0 },
        { "-1", false, 0 },
        { "1 ", false, 0 },
        { "0x10", false, 0 },
        { "99999999999999999999999", false, 0 },
    };
    uint64_t v;
    int64_t i;
    double f;

    (void)state;
    for (size_t k = 0; k < COUNT(cases); k++) {
        assert_int_equal(str_u64(str_of(cases[k].in), &v), cases[k].ok);
        if (cases[k].ok)
            assert_true(v == cases[k].v);
    }
    assert_true(str_i64(STR("-9223372036854775808"), &i) && i == INT64_MIN);
    assert_false(str_i64(STR("9223372036854775808"), &i));
    assert_true(str_f64(STR("1.5e3"), &f) && f == 1500);
    assert_false(str_f64(STR("nan"), &f));
    assert_false(str_f64(STR("1.5x"), &f));
}

static void buffers_stop_at_their_ceiling(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 10);
    assert_true(buf_z(&b, "12345"));
    assert_false(buf_z(&b, "678901"));
    assert_int_equal(b.len, 5);
    assert_false(buf_c(&b, 'x')); /* a failed buffer stays failed */
    buf_reset(&b);
    assert_true(buf_f(&b, "%d", 123456));
    buf_drop(&b, 4);
    assert_true(str_eqz(buf_view(&b), "56"));
    buf_fini(&b);
}

static void failed_memory_fails_the_buffer_not_the_process(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    mem_fail_at(1);
    assert_false(buf_z(&b, "text"));
    mem_fail_at(0);
    assert_true(b.failed);
    buf_fini(&b);
}

/* The map equals a plain table under random puts and deletes. */
static void map_equals_a_plain_table(void **state)
{
    enum { KEYS = 97 };
    uint64_t model[KEYS] = { 0 }, seed = 20240601, v;
    struct map m = { 0 };
    struct rng r;
    size_t live = 0, seen = 0;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&r, seed);
    for (int step = 0; step < 20000; step++) {
        uint64_t key = rng_below(&r, KEYS), value = rng_u64(&r) | 1;

        if (rng_below(&r, 3) == 0) {
            assert_int_equal(map_del(&m, key), model[key] != 0);
            model[key] = 0;
        } else {
            assert_true(map_put(&m, key, value));
            model[key] = value;
        }
    }
    for (size_t k = 0; k < KEYS; k++) {
        assert_int_equal(map_get(&m, k, &v), model[k] != 0);
        if (model[k] != 0)
            assert_true(v == model[k]);
        live += model[k] != 0;
    }
    for (size_t i = map_next(&m, 0); i < m.cap; i = map_next(&m, i + 1))
        seen++;
    assert_int_equal(seen, live);
    assert_int_equal(m.count, live);
    map_fini(&m);
}

struct sample_opts {
    bool on;
    uint32_t n;
    const char *s;
    struct opt_list list;
};

static const struct opt_desc table[] = {
    { "on", OPT_BOOL, offsetof(struct sample_opts, on), "true", NULL, 0, 0, "a switch" },
    { "count", OPT_U32, offsetof(struct sample_opts, n), "7", "N", 1, 100, "a number" },
    { "text", OPT_STR, offsetof(struct sample_opts, s), NULL, "TEXT", 0, 0, "a text" },
    { "item", OPT_LIST, offsetof(struct sample_opts, list), NULL, "TEXT", 0, 0, "a list" },
};

static int parse(struct sample_opts *o, int argc, const char *const *argv, struct err *e)
{
    return opt_parse(o, table, COUNT(table), argc, (char **)(uintptr_t)argv, NULL, e);
}

static void flags_parse_and_wrong_ones_get_one_helpful_line(void **state)
{
    struct sample_opts o = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(
        parse(&o, 6, (const char *[]) { "--no-on", "--count=5", "--item", "a", "--item", "b" }, &e),
        0);
    assert_false(o.on);
    assert_int_equal(o.n, 5);
    assert_int_equal(o.list.count, 2);
    assert_string_equal(o.list.item[1], "b");
    assert_int_equal(parse(&o, 1, (const char *[]) { "--cout=5" }, &e), ERR_INVAL);
    assert_non_null(strstr(e.msg, "did you mean --count"));
    assert_int_equal(parse(&o, 2, (const char *[]) { "--count", "101" }, &e), ERR_INVAL);
    assert_non_null(strstr(e.msg, "1..100"));
    assert_int_equal(parse(&o, 1, (const char *[]) { "--text" }, &e), ERR_INVAL);
    assert_int_equal(parse(&o, 1, (const char *[]) { "stray" }, &e), ERR_INVAL);
    assert_int_equal(parse(&o, 1, (const char *[]) { "--help" }, &e), ERR_CANCELLED);
}

static void metrics_render_as_prometheus_text(void **state)
{
    static const double buckets[] = { 0.005, 1 };
    static const struct metric_desc rows[] = {
        { METRIC_COUNTER, "a_total", "A.", { NULL }, NULL, 0 },
        { METRIC_GAUGE, "b", "B.", { "x", "y" }, NULL, 0 },
        { METRIC_HISTOGRAM, "c", "C.", { NULL }, buckets, 2 },
    };
    struct metrics *m = metrics_new(rows, COUNT(rows));
    struct buf b;

    (void)state;
    metric_add(metrics_cell(m, 0, NULL), 2);
    metric_set(metrics_cell(m, 1, (const char *const[]) { "a\"b", "c\\d" }), 0.25);
    metric_observe(metrics_cell(m, 2, NULL), 0.004);
    metric_observe(metrics_cell(m, 2, NULL), 3);
    buf_init(&b, 4096);
    metrics_render(m, &b);
    buf_c(&b, 0);
    assert_string_equal(
        b.p, "# HELP a_total A.\n# TYPE a_total counter\na_total 2\n"
             "# HELP b B.\n# TYPE b gauge\nb{x=\"a\\\"b\",y=\"c\\\\d\"} 0.25\n"
             "# HELP c C.\n# TYPE c histogram\nc_bucket{le=\"0.005\"} 1\nc_bucket{le=\"1\"} 1\n"
             "c_bucket{le=\"+Inf\"} 2\nc_sum 3.004\nc_count 2\n");
    buf_fini(&b);
    metrics_free(m);
}

static void label_sets_are_bounded(void **state)
{
    static const struct metric_desc rows[] = {
        { METRIC_COUNTER, "a_total", "A.", { "x" }, NULL, 0 }
    };
    struct metrics *m = metrics_new(rows, 1);
    char name[16];

    (void)state;
    for (int i = 0; i < METRIC_CELLS_MAX + 50; i++) {
        snprintf(name, sizeof(name), "v%d", i);
        metric_add(metrics_cell(m, 0, (const char *const[]) { name }), 1);
    }
    assert_true(metric_value(metrics_cell(m, 0, (const char *const[]) { "other" })) == 50);
    metrics_free(m);
}

static void arenas_count_against_their_ceiling(void **state)
{
    struct arena a;
    size_t n = 0;

    (void)state;
    arena_init(&a, 100000);
    while (n < 100 && arena_try(&a, 10000) != NULL)
        n++;
    assert_in_range(n, 5, 10);
    assert_null(arena_try(&a, SIZE_MAX - 4));
    arena_fini(&a);
    assert_string_equal(arena_str(&a, STR("kept")).p, "kept"); /* empty again, and usable */
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_whole_strings_or_nothing),
        cmocka_unit_test(buffers_stop_at_their_ceiling),
        cmocka_unit_test(failed_memory_fails_the_buffer_not_the_process),
        cmocka_unit_test(map_equals_a_plain_table),
        cmocka_unit_test(flags_parse_and_wrong_ones_get_one_helpful_line),
        cmocka_unit_test(metrics_render_as_prometheus_text),
        cmocka_unit_test(label_sets_are_bounded),
        cmocka_unit_test(arenas_count_against_their_ceiling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
