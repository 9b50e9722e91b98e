/* The HTTP server on real sockets, against a client that sends raw bytes. */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/http.h"
#include <malloc.h>
#include <sys/resource.h>

#define H "Host: a\r\n"

static struct http_server *server;
static struct http_req *held[4]; /* requests that wait for an answer by the test */
static size_t held_count, handled, gone, drains, refusals;
static char last_reason[32];
static bool hold_quietly; /* without asking to be told when the client leaves */

static void on_gone(void *ctx)
{
    held[(size_t)(uintptr_t)ctx] = NULL;
    gone++;
}

static void on_drain(void *ctx)
{
    (void)ctx;
    drains++;
}

static void handle(void *ctx, struct http_req *r)
{
    (void)ctx;
    handled++;
    if (str_eqz(http_req_path(r), "/hold")) {
        if (!hold_quietly)
            http_req_on_gone(r, on_gone, (void *)(uintptr_t)held_count);
        held[held_count++] = r;
    } else if (str_eqz(http_req_path(r), "/stream")) {
        http_reply_start(r, 200, "text/event-stream", NULL);
        assert_int_equal(http_reply_chunk(r, STR("hello")), 0);
        assert_int_equal(http_reply_chunk(r, STR_NONE), 0); /* must not look like the end */
        assert_int_equal(http_reply_chunk(r, STR("0123456789abcdef")), 0);
        http_reply_end(r);
    } else if (str_eqz(http_req_path(r), "/echo")) {
        http_reply(r, 200, "text/plain", http_req_body(r), NULL);
    } else if (str_eqz(http_req_path(r), "/inject")) {
        struct http_header h[] = { { STR("X-A"), STR("v\r\nX-Evil: 1") },
                                   { STR("X B"), STR("v") },
                                   { STR("X-Good"), STR("v") },
                                   { STR("Content-Length"), STR("99") },
                                   { STR("Connection"), STR("close") } };

        http_reply(r, 200, NULL, STR("ok"), &(struct http_headers) { h, COUNT(h) });
    } else {
        struct buf b;

        buf_init(&b, 256);
        buf_f(&b, "%.*s?%.*s", STR_ARG(http_req_path(r)), STR_ARG(http_req_query(r)));
        http_reply(r, 200, "text/plain", buf_view(&b), NULL);
        buf_fini(&b);
    }
}

static void on_refuse(void *ctx, int status, const char *reason)
{
    (void)ctx;
    (void)status;
    refusals++;
    snprintf(last_reason, sizeof(last_reason), "%s", reason);
}

static uint16_t start(struct http_server_opts o)
{
    struct err e;

    memset(held, 0, sizeof(held));
    held_count = handled = gone = drains = refusals = 0;
    hold_quietly = false;
    o.host = "127.0.0.1";
    o.server_name = "llmd";
    o.on_refuse = on_refuse;
    assert_int_equal(http_server_open(loop, &o, handle, NULL, &server, &e), 0);
    return http_server_port(server);
}

static void finish(void)
{
    assert_int_equal(http_server_active(server), 0);
    http_server_close(server);
    server = NULL;
}

static void answers_have_the_promised_bytes(void **state)
{
    static const struct {
        const char *request, *answer;
    } cases[] = {
        { "GET /a?b=c HTTP/1.1\r\n" H "\r\n", "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: "
                                              "text/plain\r\nContent-Length: 6\r\n\r\n/a?b=c" },
        { "POST /echo HTTP/1.1\r\n" H
          "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n",
          "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: text/plain\r\nContent-Length: "
          "3\r\n\r\nhi!" },
        { "HEAD /a HTTP/1.1\r\n" H "\r\n", "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: "
                                           "text/plain\r\nContent-Length: 3\r\n\r\n" },
        { "GET /stream HTTP/1.1\r\n" H "\r\n",
          "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: text/event-stream\r\n"
          "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n" },
        { "HEAD /stream HTTP/1.1\r\n" H "\r\n",
          "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: text/event-stream\r\n"
          "Transfer-Encoding: chunked\r\n\r\n" },
        { "OPTIONS * HTTP/1.1\r\n" H "\r\n",
          "HTTP/1.1 204 No Content\r\nServer: llmd\r\nAllow: GET, HEAD, POST, OPTIONS\r\n\r\n" },
        { "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
          "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
          "Connection: keep-alive\r\n\r\n/a?" },
    };
    struct raw c;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { 0 }));
    for (size_t i = 0; i < COUNT(cases); i++) { /* all on one connection */
        raw_send(&c, cases[i].request);
        WAIT(c.in.len >= strlen(cases[i].answer));
        if (!str_eqz(buf_view(&c.in), cases[i].answer))
            fail_msg("got: %.*s", STR_ARG(buf_view(&c.in)));
        buf_reset(&c.in);
    }
    raw_end(&c);
    finish();
}

static void http_1_0_streams_end_with_the_connection(void **state)
{
    struct raw c;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { 0 }));
    raw_send(&c, "GET /stream HTTP/1.0\r\n\r\n");
    WAIT(c.eof);
    assert_true(raw_has(&c, "Connection: close\r\n\r\nhello0123456789abcdef"));
    assert_false(raw_has(&c, "chunked"));
    raw_end(&c);
    finish();
}

/* req: H1-17 */
static void pipelined_requests_are_answered_in_order_one_at_a_time(void **state)
{
    struct raw c;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { 0 }));
    raw_send(&c, "GET /hold HTTP/1.1\r\n" H "\r\nGET /second HTTP/1.1\r\n" H "\r\n"
                 "GET /hold HTTP/1.1\r\n" H "\r\nGET /fo");
    WAIT(held[0] != NULL);
    raw_send(&c, "urth HTTP/1.1\r\n" H "\r\n");
    run_ms(20);
    assert_int_equal(handled, 1);
    assert_int_equal(c.in.len, 0);
    http_reply(held[0], 200, NULL, STR("first"), NULL);
    WAIT(held[1] != NULL);
    assert_true(raw_has(&c, "\r\n\r\nfirstHTTP/1.1 200 OK") && raw_has(&c, "/second?"));
    assert_false(raw_has(&c, "/fourth"));
    http_reply(held[1], 200, NULL, STR("third"), NULL);
    WAIT(raw_has(&c, "/fourth?"));
    assert_true(raw_has(&c, "thirdHTTP/1.1"));
    raw_end(&c);
    finish();
}

static void a_deep_pipeline_does_not_starve_or_grow(void **state)
{
    enum { N = 5000 };
    struct raw c;
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < N; i++)
        buf_z(&b, "GET /p HTTP/1.1\r\n" H "\r\n");
    raw_start(&c, start((struct http_server_opts) { 0 }));
    assert_int_equal(conn_write(c.c, buf_view(&b)), 0);
    WAIT(handled == N);
    WAIT(c.in.len == N * strlen("HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Type: text/plain\r\n"
                                "Content-Length: 3\r\n\r\n/p?"));
    buf_fini(&b);
    raw_end(&c);
    finish();
}

static void refused_framing_gets_an_error_object_and_the_connection_closes(void **state)
{
    static const struct {
        const char *request;
        int status;
        const char *reason;
    } cases[] = {
        { "POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400,
          "framing_cl_dup" },
        { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400,
          "framing_chunk" },
        { "GET / HTTP/1.1\r\n\r\n", 400, "host" },
        { "GET / HTTP/3.0\r\n", 505, "version" },
        { "TRACE / HTTP/1.1\r\n" H "\r\n", 405, "method" },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 70000000\r\n\r\n", 413, "too_large" },
        { "POST / HTTP/1.1\r\n" H "Expect: x\r\n\r\n", 417, "expect" },
        { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: br\r\n\r\n", 501, "framing_te" },
    };
    uint16_t port = start((struct http_server_opts) { 0 });

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char want[64];
        struct raw c;

        raw_start(&c, port);
        raw_send(&c, cases[i].request);
        raw_send(&c, "GET /after HTTP/1.1\r\n" H "\r\n"); /* req: H1-16 */
        WAIT(c.eof);
        snprintf(want, sizeof(want), "HTTP/1.1 %d ", cases[i].status);
        assert_true(str_starts(buf_view(&c.in), str_of(want)));
        snprintf(want, sizeof(want), "\"code\":%d,\"reason\":\"%s\"}}", cases[i].status,
                 cases[i].reason);
        assert_true(str_ends(buf_view(&c.in), str_of(want)));
        assert_true(
            raw_has(&c, "Content-Type: application/json\r\n") &&
            raw_has(&c, "Connection: close\r\n") && raw_has(&c, "x-should-retry: false\r\n") &&
            raw_has(&c, "\r\n\r\n{\"error\":{\"message\":\"") && raw_has(&c, "\"param\":null"));
        assert_string_equal(last_reason, cases[i].reason);
        assert_int_equal(refusals, i + 1);
        raw_end(&c);
    }
    /* HTTP/0.9: not a word */
    struct raw c;
    raw_start(&c, port);
    raw_send(&c, "GET /path\r\n");
    WAIT(c.eof || c.closed);
    assert_int_equal(c.in.len, 0);
    raw_end(&c);
    assert_int_equal(handled, 0);
    finish();
}

/* req: H1-21 STR-03: FIN alone, RST, and each with bytes nobody reads in front of it. */
static void a_client_that_leaves_while_the_handler_waits_is_noticed(void **state)
{
    static const struct {
        bool reset, pipelined;
    } cases[] = { { false, false }, { true, false }, { false, true }, { true, true } };
    uint16_t port = start((struct http_server_opts) { 0 });

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct raw c;

        raw_start(&c, port);
        raw_send(&c, "GET /hold HTTP/1.1\r\n" H "\r\n");
        WAIT(held[i] != NULL);
        assert_int_equal(http_server_active(server), 1);
        if (cases[i].pipelined) {
            raw_send(&c, "GET /next HTTP/1.1\r\n" H "\r\n");
            run_ms(5);
        }
        if (cases[i].reset)
            conn_reset(c.c);
        else
            conn_shutdown(c.c);
        WAIT(gone == i + 1);
        assert_int_equal(http_server_active(server), 0);
        raw_end(&c);
    }
    assert_int_equal(handled, COUNT(cases));
    finish();
}

static void a_request_whose_client_left_unseen_can_still_be_answered(void **state)
{
    struct raw c;

    (void)state;
    uint16_t port = start((struct http_server_opts) { 0 });
    hold_quietly = true;
    for (int i = 0; i < 3; i++) {
        raw_start(&c, port);
        raw_send(&c, "POST /hold HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nhi");
        WAIT(held[i] != NULL);
        raw_end(&c);
    }
    run_ms(30);
    assert_int_equal(http_server_active(server), 3);
    assert_true(str_eqz(http_req_body(held[0]), "hi")); /* still there */
    assert_true(str_eqz(http_header_get(http_req_headers(held[0]), "host"), "a"));
    http_reply(held[0], 200, NULL, STR("void"), NULL);
    http_reply_start(held[1], 200, NULL, NULL);
    assert_int_equal(http_reply_chunk(held[1], STR("x")), ERR_CLOSED);
    http_reply_end(held[1]);
    assert_int_equal(http_server_active(server), 1);
    http_server_close(server); /* before the last one is answered */
    http_reply_start(held[2], 200, NULL, NULL);
    http_reply_abort(held[2]);
    server = NULL;
}

/* req: LIM-08 */
static void a_slow_reader_pushes_back_and_is_told_when_there_is_room(void **state)
{
    enum { PIECE = 32 << 10 };
    struct raw c;
    char *piece = mem_zalloc(PIECE);
    size_t sent = 0;
    int rc;

    (void)state;
    memset(piece, 'x', PIECE);
    raw_start(&c, start((struct http_server_opts) { .write_bytes_max = 256 << 10 }));
    raw_send(&c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    WAIT(held[0] != NULL);
    conn_pause(c.c);
    http_req_on_drain(held[0], on_drain, NULL);
    http_reply_start(held[0], 200, NULL, NULL);
    while ((rc = http_reply_chunk(held[0], (struct str) { piece, PIECE })) == 0) {
        sent++;
        assert_true(sent < 2000); /* 64 MiB: more than the kernel holds */
    }
    assert_int_equal(rc, ERR_AGAIN);
    run_ms(20);
    assert_int_equal(drains, 0);
    conn_resume(c.c);
    WAIT(drains == 1);
    assert_int_equal(http_reply_chunk(held[0], STR("end")), 0);
    http_reply_end(held[0]);
    WAIT(raw_has(&c, "\r\n3\r\nend\r\n0\r\n\r\n"));
    /* head, then each chunk whole: "8000\r\n" + PIECE + "\r\n" */
    size_t head = str_find(buf_view(&c.in), STR("\r\n\r\n")) + 4;
    assert_int_equal(c.in.len, head + sent * (PIECE + 8) + strlen("3\r\nend\r\n0\r\n\r\n"));
    mem_free(piece);
    raw_end(&c);
    finish();
}

static void a_client_that_reads_nothing_is_dropped(void **state)
{
    struct raw c;
    char piece[4096] = { 0 };
    int rc = 0;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { .stall_ms = 300 }));
    conn_pause(c.c);
    raw_send(&c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    WAIT(held[0] != NULL);
    http_reply_start(held[0], 200, NULL, NULL);
    while (rc == 0)
        rc = http_reply_chunk(held[0], (struct str) { piece, sizeof(piece) });
    assert_int_equal(rc, ERR_AGAIN);
    WAIT(gone == 1);
    raw_end(&c);
    finish();
}

/* req: H1-18 */
static void expect_100_continue_is_answered_only_when_the_body_is_awaited(void **state)
{
    struct raw c;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { .body_bytes_max = 100 }));
    raw_send(&c, "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    WAIT(raw_has(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    raw_send(&c, "hi");
    WAIT(raw_has(&c, "\r\n\r\nhi"));
    buf_reset(&c.in);
    raw_send(&c, "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    WAIT(raw_has(&c, "\r\n\r\nhi"));
    assert_false(raw_has(&c, "100 Continue"));
    buf_reset(&c.in);
    raw_send(&c, "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 101\r\n\r\n");
    WAIT(c.eof);
    assert_true(raw_has(&c, "HTTP/1.1 413 "));
    assert_false(raw_has(&c, "100 Continue"));
    raw_end(&c);
    finish();
}

static void guard(void *ctx, struct http_req *r)
{
    (void)ctx;
    assert_int_equal(http_req_body(r).n, 0);
    if (http_header_get(http_req_headers(r), "authorization").p == NULL)
        http_reply(r, 401, "application/json", STR("{\"error\":\"Unauthorized\"}"), NULL);
}

static void on_head_can_refuse_before_the_body_is_read(void **state)
{
    uint16_t port = start((struct http_server_opts) { .on_head = guard });
    struct raw c;

    (void)state;
    raw_start(&c, port);
    raw_send(&c,
             "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n");
    WAIT(c.eof);
    assert_true(raw_has(&c, "HTTP/1.1 401 ") && raw_has(&c, "Connection: close"));
    assert_false(raw_has(&c, "100 Continue"));
    assert_int_equal(handled, 0);
    raw_end(&c);
    raw_start(&c, port);
    raw_send(&c, "POST /echo HTTP/1.1\r\n" H "Authorization: x\r\nContent-Length: 2\r\n\r\nhi");
    WAIT(raw_has(&c, "\r\n\r\nhi"));
    raw_end(&c);
    finish();
}

/* req: H1-15 LIM-05 LIM-07 LIM-09 */
static void slow_heads_and_bodies_get_408_and_idle_ones_nothing(void **state)
{
    uint16_t port =
        start((struct http_server_opts) { .head_ms = 150, .body_ms = 150, .idle_ms = 400 });
    struct raw head, body, idle, kept, empty_line;

    (void)state;
    raw_start(&head, port);
    raw_start(&body, port);
    raw_start(&idle, port);
    raw_start(&kept, port);
    raw_start(&empty_line, port);
    raw_send(&head, "GET / HTTP/1.1\r\nHost");
    raw_send(&body, "POST / HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nx");
    raw_send(&kept, "GET /a HTTP/1.1\r\n" H "\r\n");
    raw_send(&empty_line, "\r\n");
    WAIT(head.eof && body.eof && empty_line.eof);
    assert_true(raw_has(&head, "HTTP/1.1 408 ") && raw_has(&head, "slow_client"));
    assert_true(raw_has(&body, "HTTP/1.1 408 ") && raw_has(&body, "x-should-retry: true"));
    WAIT(idle.eof && kept.eof);
    assert_int_equal(idle.in.len, 0);
    assert_true(raw_has(&kept, "/a?"));
    assert_false(raw_has(&kept, "408"));
    raw_end(&head);
    raw_end(&body);
    raw_end(&idle);
    raw_end(&kept);
    raw_end(&empty_line);
    assert_int_equal(refusals, 3);
    finish();
}

/* req: LIM-06: fast at first and then silent is slow too, long before body_ms. */
static void a_gap_within_a_body_is_408(void **state)
{
    uint16_t port = start((struct http_server_opts) { .gap_ms = 200 });
    uint64_t begun = clock_ms();
    struct raw gap;

    (void)state;
    raw_start(&gap, port);
    raw_send(&gap, "POST / HTTP/1.1\r\n" H "Content-Length: 9\r\n\r\nabc");
    run_ms(120);
    raw_send(&gap, "def"); /* in time: the gap begins anew */
    run_ms(120);
    assert_false(gap.eof);
    WAIT(gap.eof);
    assert_true(clock_ms() - begun >= 320);
    assert_true(raw_has(&gap, "HTTP/1.1 408 ") && raw_has(&gap, "slow_client"));
    raw_end(&gap);
    assert_int_equal(refusals, 1);
    finish();
}

static void held_bodies_have_a_common_ceiling(void **state)
{
    uint16_t port = start((struct http_server_opts) { .bodies_bytes_max = 1000 });
    struct raw a, b;
    char body[801];

    (void)state;
    memset(body, 'b', 800);
    body[800] = 0;
    raw_start(&a, port);
    raw_start(&b, port);
    raw_send(&a, "POST /hold HTTP/1.1\r\n" H "Content-Length: 800\r\n\r\n");
    raw_send(&a, body);
    WAIT(held[0] != NULL);
    raw_send(&b, "POST /echo HTTP/1.1\r\n" H "Content-Length: 800\r\n\r\n");
    raw_send(&b, body);
    WAIT(b.eof);
    assert_true(raw_has(&b, "HTTP/1.1 503 ") && raw_has(&b, "Retry-After: 1\r\n") &&
                raw_has(&b, "\"overloaded\""));
    raw_end(&b);
    http_reply(held[0], 200, NULL, STR("ok"), NULL);
    raw_start(&b, port); /* the room is back */
    raw_send(&b, "POST /echo HTTP/1.1\r\n" H "Content-Length: 800\r\n\r\n");
    raw_send(&b, body);
    WAIT(raw_has(&b, "bbb"));
    raw_end(&a);
    raw_end(&b);
    finish();
}

static void an_aborted_stream_looks_cut(void **state)
{
    uint16_t port = start((struct http_server_opts) { 0 });
    struct raw c;

    (void)state;
    raw_start(&c, port);
    raw_send(&c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    WAIT(held[0] != NULL);
    http_reply_start(held[0], 200, NULL, NULL);
    assert_true(http_reply_started(held[0]));
    WAIT(raw_has(&c, "chunked\r\n\r\n")); /* the head goes out alone when no piece comes */
    assert_int_equal(http_reply_chunk(held[0], STR("data: {\"error\":1}\n\n")), 0);
    http_reply_abort(held[0]);
    WAIT(c.eof || c.closed);
    assert_true(raw_has(&c, "{\"error\":1}\n\n\r\n")); /* what was said arrives */
    assert_false(raw_has(&c, "\r\n0\r\n"));
    raw_end(&c);
    raw_start(&c, port); /* with nothing started, and for HTTP/1.0: RST */
    raw_send(&c, "GET /hold HTTP/1.0\r\n\r\n");
    WAIT(held[1] != NULL);
    http_reply_start(held[1], 200, NULL, NULL);
    assert_int_equal(http_reply_chunk(held[1], STR("x")), 0);
    http_reply_abort(held[1]);
    WAIT(c.closed);
    assert_int_equal(c.rc, ERR_CLOSED);
    assert_false(c.eof);
    raw_end(&c);
    finish();
}

static void header_values_cannot_split_an_answer(void **state)
{
    struct raw c;

    (void)state;
    raw_start(&c, start((struct http_server_opts) { 0 }));
    raw_send(&c, "GET /inject HTTP/1.1\r\n" H "\r\n");
    WAIT(c.eof);
    assert_true(str_eqz(buf_view(&c.in), "HTTP/1.1 200 OK\r\nServer: llmd\r\nContent-Length: 2\r\n"
                                         "Connection: close\r\nX-Good: v\r\n\r\nok"));
    raw_end(&c);
    finish();
}

/* req: LIM-01 */
static void past_conns_max_new_ones_wait_then_are_shed(void **state)
{
    uint16_t port = start((struct http_server_opts) { .conns_max = 2 });
    struct raw a, b, c, d;

    (void)state;
    raw_start(&a, port);
    raw_start(&b, port);
    run_ms(10);
    raw_start(&c, port); /* held in the kernel's queue */
    raw_send(&c, "GET /c HTTP/1.1\r\n" H "\r\n");
    run_ms(50);
    assert_int_equal(c.in.len, 0);
    raw_end(&a);
    WAIT(raw_has(&c, "/c?")); /* served as soon as there is room */
    raw_start(&d, port);
    WAIT(d.closed); /* none for a second: reset */
    assert_int_equal(d.rc, ERR_CLOSED);
    raw_end(&d);
    raw_end(&b);
    run_ms(10);
    raw_start(&d, port);
    raw_send(&d, "GET /d HTTP/1.1\r\n" H "\r\n");
    WAIT(raw_has(&d, "/d?"));
    raw_end(&c);
    raw_end(&d);
    finish();
}

/* req: LIM-02 */
static void one_address_has_its_share_of_connections(void **state)
{
    uint16_t port = start((struct http_server_opts) { .conns_per_peer_max = 2 });
    struct raw a, b, c;

    (void)state;
    for (int round = 0; round < 3; round++) {
        raw_start(&a, port);
        raw_start(&b, port);
        raw_start(&c, port);
        WAIT(c.closed);
        raw_send(&a, "GET /a HTTP/1.1\r\n" H "\r\n");
        WAIT(raw_has(&a, "/a?"));
        raw_end(&a);
        raw_end(&b);
        raw_end(&c);
        run_ms(10);
    }
    finish();
}

static void draining_ends_idle_now_and_busy_after_their_answer(void **state)
{
    uint16_t port = start((struct http_server_opts) { 0 });
    struct raw idle, busy, late = { 0 };
    struct err e;

    (void)state;
    raw_start(&idle, port);
    raw_start(&busy, port);
    raw_send(&busy, "GET /hold HTTP/1.1\r\n" H "\r\n");
    WAIT(held[0] != NULL);
    http_server_drain(server);
    http_server_drain(server);
    WAIT(idle.eof || idle.closed);
    assert_int_equal(http_server_port(server), port);
    assert_int_equal(conn_open(loop, "127.0.0.1", port, NULL, &raw_ops, &late, &late.c, &e), 0);
    WAIT(late.closed); /* refused */
    assert_false(late.open);
    http_reply(held[0], 200, NULL, STR("bye"), NULL);
    WAIT(busy.eof);
    assert_true(raw_has(&busy, "Connection: close\r\n\r\nbye"));
    raw_end(&idle);
    raw_end(&busy);
    finish();
}

static void closing_the_server_breaks_everything_and_says_so(void **state)
{
    uint16_t port = start((struct http_server_opts) { 0 });
    struct raw a, b;

    (void)state;
    raw_start(&a, port);
    raw_start(&b, port);
    raw_send(&a, "GET /hold HTTP/1.1\r\n" H "\r\n");
    raw_send(&b, "GET /hold HTTP/1.1\r\n" H "\r\n");
    WAIT(held[1] != NULL);
    http_reply_start(held[1], 200, NULL, NULL);
    http_server_close(server);
    assert_int_equal(gone, 2);
    WAIT((a.eof || a.closed) && (b.eof || b.closed));
    raw_end(&a);
    raw_end(&b);
}

/* req: LIM-01: ten thousand clients that say nothing cost little, and a busy one does not feel
 * them. */
static void ten_thousand_idle_connections_are_cheap(void **state)
{
    struct rlimit fds;
    size_t n, before, after;
    struct raw busy;
    struct raw *idle;
    uint16_t port = start((struct http_server_opts) { 0 });

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &fds), 0);
    n = MIN((size_t)9990, (size_t)(fds.rlim_cur - 100) / 2); /* both ends are in this process */
    idle = mem_zalloc(n * sizeof(*idle));
    before = mallinfo2().uordblks;
    for (size_t i = 0; i < n; i++) {
        struct err e;

        assert_int_equal(
            conn_open(loop, "127.0.0.1", port, NULL, &raw_ops, &idle[i], &idle[i].c, &e), 0);
        if (i % 500 == 499 || i + 1 == n)
            WAIT(idle[i].open);
    }
    run_ms(20);
    after = mallinfo2().uordblks;
    printf("%zu idle connections, %zu bytes each (client and server)\n", n, (after - before) / n);
    assert_true((after - before) / n < 4096);
    raw_start(&busy, port);
    raw_send(&busy, "GET /busy HTTP/1.1\r\n" H "\r\n");
    WAIT(raw_has(&busy, "/busy?"));
    raw_end(&busy);
    for (size_t i = 0; i < n; i++)
        conn_close(idle[i].c);
    WAIT(idle[n - 1].closed);
    mem_free(idle);
    finish();
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(answers_have_the_promised_bytes),
        T(http_1_0_streams_end_with_the_connection),
        T(pipelined_requests_are_answered_in_order_one_at_a_time),
        T(a_deep_pipeline_does_not_starve_or_grow),
        T(refused_framing_gets_an_error_object_and_the_connection_closes),
        T(a_client_that_leaves_while_the_handler_waits_is_noticed),
        T(a_request_whose_client_left_unseen_can_still_be_answered),
        T(a_slow_reader_pushes_back_and_is_told_when_there_is_room),
        T(a_client_that_reads_nothing_is_dropped),
        T(expect_100_continue_is_answered_only_when_the_body_is_awaited),
        T(on_head_can_refuse_before_the_body_is_read),
        T(slow_heads_and_bodies_get_408_and_idle_ones_nothing),
        T(a_gap_within_a_body_is_408),
        T(held_bodies_have_a_common_ceiling),
        T(an_aborted_stream_looks_cut),
        T(header_values_cannot_split_an_answer),
        T(past_conns_max_new_ones_wait_then_are_shed),
        T(one_address_has_its_share_of_connections),
        T(draining_ends_idle_now_and_busy_after_their_answer),
        T(closing_the_server_breaks_everything_and_says_so),
        T(ten_thousand_idle_connections_are_cheap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
