/* Server-sent events: the examples of the standard, at every cut, and the ceilings. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "net/sse.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void collect(void *ctx, struct str data)
{
    struct buf *b = ctx;

    buf_c(b, '<');
    buf_str(b, data);
    buf_c(b, '>');
}

static const struct {
    const char *in, *want;
} cases[] = {
    /* WHATWG HTML 9.2.6 */
    { "data: YHOO\ndata: +2\ndata: 10\n\n", "<YHOO\n+2\n10>" },
    { ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third "
      "event\n\n",
      "<first event><second event>< third event>" },
    { "data\n\ndata\ndata\n\ndata:", "<><\n>" },
    { "data:test\n\ndata: test\n\n", "<test><test>" },
    /* line ends */
    { "data: a\r\n\r\ndata: b\r\rdata: c\n\n", "<a><b><c>" },
    { "data: a\r\n\ndata: b\n\r\n", "<a><b>" },
    { "\r\n\r\ndata: a\r\ndata: b\r\n\r\n", "<a\nb>" },
    /* what is not data */
    { "\xef\xbb\xbf"
      "data: bom\n\n",
      "<bom>" },
    { "\xef\xbb\xbf\xef\xbb\xbf"
      "data: two boms\n\n",
      "" },
    { "event: x\nretry: 5\n\n:data: no\nDATA: no\ndatax: no\n data: no\n\n", "" },
    { "data: {\"a\":1}\n\ndata: [DONE]\n\n", "<{\"a\":1}><[DONE]>" },
    { "data: unfinished\n", "" },
    { "data: a:b: c\n\n", "<a:b: c>" },
};

static void same_events_at_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t len = strlen(cases[i].in);

        for (size_t cut = 0; cut <= len; cut++)
            for (size_t step = 1; step <= len; step += len - 1 != 0 ? len - 1 : 1) {
                struct buf out;
                struct sse s;

                buf_init(&out, 4096);
                sse_init(&s, 64);
                for (size_t at = 0; at < len;) {
                    size_t n = MIN(at == 0 && cut != 0 ? cut : step, len - at);
                    char *copy = mem_dup(cases[i].in + at, n);

                    assert_int_equal(sse_feed(&s, (struct str) { copy, n }, collect, &out), 0);
                    mem_free(copy);
                    at += n;
                }
                if (!str_eqz(buf_view(&out), cases[i].want))
                    fail_msg("case %zu cut %zu: got %.*s", i, cut, STR_ARG(buf_view(&out)));
                sse_fini(&s);
                buf_fini(&out);
            }
    }
}

static int feed_one(size_t n, size_t step)
{
    struct buf in, out;
    struct sse s;
    int rc = 0;

    buf_init(&in, 4096);
    buf_init(&out, 4096);
    buf_z(&in, "data: ");
    for (size_t i = 0; i < n; i++)
        buf_c(&in, 'x');
    buf_z(&in, "\n\n");
    sse_init(&s, 100);
    for (size_t at = 0; at < in.len && rc == 0; at += step)
        rc = sse_feed(&s, str_sub(buf_view(&in), at, step), collect, &out);
    assert_int_equal(out.len, rc == 0 ? n + 2 : 0);
    sse_fini(&s);
    buf_fini(&in);
    buf_fini(&out);
    return rc;
}

static void an_event_over_the_ceiling_is_refused(void **state)
{
    struct buf out;
    struct sse s;
    int rc = 0;

    (void)state;
    for (size_t step = 1; step < 200; step += 57) {
        assert_int_equal(feed_one(100, step), 0);
        assert_int_equal(feed_one(101, step), ERR_LIMIT);
        assert_int_equal(feed_one(500, step), ERR_LIMIT);
    }
    /* many lines of one event, each small */
    buf_init(&out, 4096);
    sse_init(&s, 100);
    for (int i = 0; i < 60 && rc == 0; i++)
        rc = sse_feed(&s, STR("data: xy\n"), collect, &out);
    assert_int_equal(rc, ERR_LIMIT);
    assert_int_equal(out.len, 0);
    sse_fini(&s);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_events_at_every_cut),
        cmocka_unit_test(an_event_over_the_ceiling_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
