/* W3C trace context (the examples of the recommendation, and what must be refused). */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "gateway/trace.h"
#include <string.h>

#define GOOD "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static const struct {
    const char *in;
    bool is_taken;
    uint8_t flags;
} parents[] = {
    { GOOD, true, 1 },
    { "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true, 0 },
    { "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", true, 1 }, /* unknown bits go */
    { "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", true, 1 },
    { GOOD "-what", false, 0 }, /* version 00 ends here */
    { "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", false, 0 },
    { "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false, 0 },
    { "00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, 0 },
    { "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false, 0 },
    { "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false, 0 },
    { "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false, 0 },
    { "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", false, 0 },
    { "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false, 0 },
    { "", false, 0 },
};

static void a_valid_parent_is_taken_over(void **state)
{
    struct rng rng;
    char out[TRACEPARENT_BYTES + 1];

    (void)state;
    rng_seed(&rng, 1);
    for (size_t i = 0; i < COUNT(parents); i++) {
        struct trace t;
        bool same;

        trace_begin(&t, str_of(parents[i].in), 0, &rng);
        trace_format(&t, out);
        assert_int_equal(strlen(out), TRACEPARENT_BYTES);
        same = strlen(parents[i].in) > 35 && memcmp(out + 3, parents[i].in + 3, 32) == 0;
        if (same != parents[i].is_taken)
            fail_msg("%s gave %s", parents[i].in, out);
        assert_int_equal(t.flags, parents[i].flags);
        /* the next hop's parent is our span, not the client's */
        if (same)
            assert_memory_not_equal(out + 36, parents[i].in + 36, 16);
    }
}

static void without_a_parent_the_ratio_decides(void **state)
{
    uint32_t sampled = 0;
    struct rng rng;

    (void)state;
    rng_seed(&rng, 2);
    for (uint32_t i = 0; i < 10000; i++) {
        struct trace t;

        trace_begin(&t, STR_NONE, 0.1, &rng);
        sampled += t.flags;
    }
    assert_in_range(sampled, 850, 1150);
}

static void a_collector_without_http_is_refused_by_name(void **state)
{
    struct trace_exporter *x;
    struct loop *l;
    struct err e;

    (void)state;
    assert_int_equal(loop_new(&l, &e), 0);
    assert_int_equal(trace_exporter_new(&x, l, "grpc://127.0.0.1:4317", "s", NULL, NULL, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "grpc://127.0.0.1:4317"));
    assert_int_equal(trace_exporter_new(&x, l, "http://127.0.0.1:4318", "s", NULL, NULL, &e), 0);
    trace_exporter_free(x);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_valid_parent_is_taken_over),
        cmocka_unit_test(without_a_parent_the_ratio_decides),
        cmocka_unit_test(a_collector_without_http_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
