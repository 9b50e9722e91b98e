/* The HTTP client against a peer that the test plays byte by byte, and against our own server. */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/http.h"
#include <pthread.h>

static struct raw peer[8]; /* accepted connections, in order */
static size_t peers;
static struct listener *listener;
static struct http_client *client;

struct result {
    int status, heads, ends, rc;
    bool sent, got;
    struct buf body;
    struct http_call *call;
    char type[64];
};

static void on_accept(void *ctx, struct conn *c)
{
    struct raw *r = &peer[peers++];

    (void)ctx;
    assert_true(peers <= COUNT(peer));
    *r = (struct raw) { .c = c, .open = true };
    buf_init(&r->in, (size_t)64 << 20);
    conn_set_ctx(c, &raw_ops, r);
}

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    struct result *r = ctx;
    struct str type = http_header_get(h, "content-type");

    r->status = status;
    r->heads++;
    snprintf(r->type, sizeof(r->type), "%.*s", STR_ARG(type));
}

static void on_body(void *ctx, struct str bytes)
{
    struct result *r = ctx;

    buf_str(&r->body, bytes);
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct result *r = ctx;

    r->ends++;
    r->rc = rc;
    r->sent = sent;
    r->got = got;
    r->call = NULL;
}

static const struct http_call_ops ops = { on_head, on_body, on_end };

static void begin(void)
{
    struct err e;

    peers = 0;
    assert_int_equal(listener_open(loop, "127.0.0.1", 0, NULL, on_accept, NULL, &listener, &e), 0);
    client = http_client_new(loop);
}

static void finish(void)
{
    http_client_free(client);
    for (size_t i = 0; i < peers; i++)
        raw_end(&peer[i]);
    listener_close(listener);
}

static struct http_call_opts opts(const char *method, const char *path, const char *body)
{
    return (struct http_call_opts) { .host = "127.0.0.1",
                                     .port = listener_port(listener),
                                     .method = str_of(method),
                                     .path = str_of(path),
                                     .body = str_of(body) };
}

static void call(struct result *r, const struct http_call_opts *o)
{
    struct err e;

    *r = (struct result) { 0 };
    buf_init(&r->body, (size_t)64 << 20);
    assert_int_equal(http_call_start(client, o, &ops, r, &r->call, &e), 0);
    assert_int_equal(r->ends, 0);
}

static void the_request_has_the_promised_bytes(void **state)
{
    struct http_header h[] = { { STR("X-A"), STR("b") },
                               { STR("Host"), STR("evil") },
                               { STR("Content-Length"), STR("9") },
                               { STR("Connection"), STR("close") } };
    struct http_call_opts o;
    struct result r;
    char want[256];
    struct err e;

    (void)state;
    begin();
    o = opts("POST", "/v1/x?y=z", "hi");
    o.headers = (struct http_headers) { h, COUNT(h) };
    call(&r, &o);
    snprintf(
        want, sizeof(want),
        "POST /v1/x?y=z HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi",
        listener_port(listener));
    WAIT(peers == 1 && peer[0].in.len >= strlen(want));
    assert_true(str_eqz(buf_view(&peer[0].in), want));
    raw_send(&peer[0], "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Type: a/b\r\n"
                       "Content-Length: 3\r\n\r\nyes");
    WAIT(r.ends == 1);
    assert_int_equal(r.status, 201);
    assert_int_equal(r.heads, 1);
    assert_string_equal(r.type, "a/b");
    assert_true(r.rc == 0 && r.sent && r.got && str_eqz(buf_view(&r.body), "yes"));
    buf_fini(&r.body);
    /* what would break the framing is refused before anything is sent */
    h[0].value = STR("a\r\nX: y");
    assert_int_equal(http_call_start(client, &o, &ops, &r, &r.call, &e), ERR_INVAL);
    o = opts("GET", "/a b", "");
    assert_int_equal(http_call_start(client, &o, &ops, &r, &r.call, &e), ERR_INVAL);
    o = opts("GE T", "/a", "");
    assert_int_equal(http_call_start(client, &o, &ops, &r, &r.call, &e), ERR_INVAL);
    o = opts("GET", "", "");
    assert_int_equal(http_call_start(client, &o, &ops, &r, &r.call, &e), ERR_INVAL);
    finish();
}

static void connections_are_kept_and_used_again(void **state)
{
    struct http_call_opts o;
    struct result r;

    (void)state;
    begin();
    o = opts("GET", "/", "");
    for (int i = 0; i < 3; i++) {
        call(&r, &o);
        WAIT(peers == 1 && raw_has(&peer[0], "\r\n\r\n"));
        buf_reset(&peer[0].in);
        raw_send(&peer[0],
                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        WAIT(r.ends == 1 && r.rc == 0);
        buf_fini(&r.body);
    }
    /* bytes nobody asked for: such a connection is not trusted again */
    raw_send(&peer[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT(peer[0].eof);
    call(&r, &o);
    WAIT(peers == 2 && raw_has(&peer[1], "\r\n\r\n"));
    raw_send(&peer[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    WAIT(r.ends == 1 && r.rc == 0);
    WAIT(peer[1].eof);
    call(&r, &o);
    WAIT(peers == 3 && raw_has(&peer[2], "\r\n\r\n"));
    raw_send(&peer[2], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nextra");
    WAIT(r.ends == 1 && r.rc == 0);
    WAIT(peer[2].eof);
    finish();
}

static void a_stale_kept_connection_is_retried_once_unseen(void **state)
{
    struct http_call_opts o;
    struct result r;

    (void)state;
    begin();
    o = opts("POST", "/", "body");
    call(&r, &o);
    WAIT(peers == 1 && raw_has(&peer[0], "body"));
    raw_send(&peer[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT(r.ends == 1);
    buf_reset(&peer[0].in);
    /* the server closes in the moment of the next use */
    call(&r, &o);
    WAIT(raw_has(&peer[0], "body"));
    conn_reset(peer[0].c);
    WAIT(peers == 2 && raw_has(&peer[1], "\r\n\r\nbody"));
    assert_int_equal(r.ends, 0);
    raw_send(&peer[1], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    WAIT(r.ends == 1 && r.rc == 0);
    assert_true(str_eqz(buf_view(&r.body), "ok"));
    buf_fini(&r.body);
    /* twice is not staleness */
    buf_reset(&peer[1].in);
    call(&r, &o);
    WAIT(raw_has(&peer[1], "body"));
    conn_close(peer[1].c);
    WAIT(peers == 3 && raw_has(&peer[2], "body"));
    conn_close(peer[2].c);
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_CLOSED && r.sent && !r.got);
    buf_fini(&r.body);
    /* nor is a reply that had begun */
    call(&r, &o);
    WAIT(peers == 4 && raw_has(&peer[3], "body"));
    buf_reset(&peer[3].in);
    raw_send(&peer[3], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT(r.ends == 1);
    call(&r, &o);
    WAIT(raw_has(&peer[3], "body"));
    raw_send(&peer[3], "HTTP/1.1 2");
    run_ms(5);
    conn_close(peer[3].c);
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_CLOSED && r.got);
    run_ms(20);
    assert_int_equal(peers, 4);
    finish();
}

static void a_fresh_connection_that_breaks_is_not_retried(void **state)
{
    struct http_call_opts o;
    struct result r;

    (void)state;
    begin();
    o = opts("POST", "/", "body");
    call(&r, &o);
    WAIT(peers == 1 && raw_has(&peer[0], "body"));
    conn_close(peer[0].c);
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_CLOSED && r.sent && !r.got);
    run_ms(20);
    assert_int_equal(peers, 1);
    finish();
}

static void failing_to_connect_says_that_nothing_was_sent(void **state)
{
    struct http_call_opts o;
    struct result r;
    struct err e;

    (void)state;
    begin();
    o = opts("POST", "/", "body");
    o.port = 1;
    call(&r, &o);
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_IO && !r.sent && !r.got);
    o.host = "name.invalid";
    call(&r, &o);
    WAIT(r.ends == 1);
    assert_true(r.rc != 0 && !r.sent && !r.got);
    o.host = "";
    assert_int_equal(http_call_start(client, &o, &ops, &r, &r.call, &e), ERR_INVAL);
    finish();
}

/* req: H1-22 */
static void replies_that_break_the_rules_end_in_an_error(void **state)
{
    static const struct {
        const char *text;
        bool close, reset;
        int rc;
    } cases[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0,
          ERR_PARSE },
        { "HTTP/1.1 200 OK\nContent-Length: 1\n\n", 0, 0, ERR_PARSE },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, 0, ERR_PARSE },
        { "HTTP/1.1 101 Switching Protocols\r\n\r\n", 0, 0, ERR_PARSE },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", 1, 0, ERR_CLOSED },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", 1, 0, ERR_CLOSED },
        { "HTTP/1.1 200 OK\r\n\r\nhi", 1, 0, 0 },
        { "HTTP/1.1 200 OK\r\n\r\nhi", 0, 1, ERR_CLOSED }, /* RST is no end of a body */
        { "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", 0, 0, ERR_LIMIT },
    };
    struct http_call_opts o;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct result r;

        begin();
        o = opts("GET", "/", "");
        o.body_bytes_max = 100;
        call(&r, &o);
        WAIT(peers == 1 && raw_has(&peer[0], "\r\n\r\n"));
        raw_send(&peer[0], cases[i].text);
        if (cases[i].close)
            conn_shutdown(peer[0].c);
        if (cases[i].reset)
            conn_reset(peer[0].c);
        WAIT(r.ends == 1);
        if (r.rc != cases[i].rc)
            fail_msg("rc %d for %s", r.rc, cases[i].text);
        WAIT(peer[0].eof || peer[0].closed); /* never kept */
        buf_fini(&r.body);
        finish();
    }
}

/* req: LIM-11 LIM-12 LIM-13 */
static void every_deadline_ends_the_call(void **state)
{
    struct http_call_opts o;
    struct result r;
    uint64_t begun;

    (void)state;
    begin();
    o = opts("GET", "/", "");
    o.first_byte_ms = 60;
    o.gap_ms = 150;
    call(&r, &o);
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_TIMEOUT && r.sent && !r.got);
    call(&r, &o); /* first byte in time, then silence: the gap counts */
    WAIT(peers == 2 && raw_has(&peer[1], "\r\n\r\n"));
    begun = clock_ms();
    raw_send(&peer[1], "HTTP/1.1 200 OK\r\n");
    run_ms(100);
    assert_int_equal(r.ends, 0);
    raw_send(&peer[1], "Content-Length: 9\r\n\r\n");
    WAIT(r.ends == 1);
    assert_true(r.rc == ERR_TIMEOUT && r.got && clock_ms() - begun >= 200);
    o.total_ms = 100; /* bytes come all the time, and still */
    o.first_byte_ms = 0;
    call(&r, &o);
    WAIT(peers == 3 && raw_has(&peer[2], "\r\n\r\n"));
    raw_send(&peer[2], "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    begun = clock_ms();
    while (r.ends == 0 && clock_ms() - begun < 2000) {
        run_ms(10);
        if (!peer[2].eof)
            raw_send(&peer[2], "x");
    }
    assert_true(r.rc == ERR_TIMEOUT && clock_ms() - begun < 1000);
    buf_fini(&r.body);
    finish();
}

static void pausing_holds_the_peer_back_and_stops_the_gap_clock(void **state)
{
    enum { PIECE = 64 << 10 };
    struct http_call_opts o;
    struct result r;
    char *piece = mem_zalloc(PIECE);
    size_t n = 0;

    (void)state;
    begin();
    o = opts("GET", "/", "");
    o.gap_ms = 100;
    call(&r, &o);
    WAIT(peers == 1 && raw_has(&peer[0], "\r\n\r\n"));
    raw_send(&peer[0], "HTTP/1.1 200 OK\r\n\r\n");
    WAIT(r.heads == 1);
    http_call_pause(r.call);
    while (conn_write(peer[0].c, (struct str) { piece, PIECE }) == 0) {
        n += PIECE;
        assert_true(n < (size_t)100 << 20);
    }
    run_ms(250);
    assert_int_equal(r.ends, 0);
    assert_int_equal(r.body.len, 0);
    http_call_resume(r.call);
    conn_shutdown(peer[0].c);
    WAIT(r.ends == 1);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.body.len, n);
    mem_free(piece);
    buf_fini(&r.body);
    finish();
}

static void a_cancelled_call_closes_and_is_silent(void **state)
{
    struct http_call_opts o;
    struct result r;

    (void)state;
    begin();
    o = opts("GET", "/", "");
    call(&r, &o);
    http_call_cancel(r.call); /* while connecting */
    call(&r, &o);
    WAIT(peers >= 1 &&
         (raw_has(&peer[0], "\r\n\r\n") || (peers == 2 && raw_has(&peer[1], "\r\n\r\n"))));
    http_call_cancel(r.call);
    WAIT(peer[peers - 1].eof);
    assert_int_equal(r.ends, 0);
    call(&r, &o); /* left to http_client_free */
    run_ms(5);
    finish();
    assert_int_equal(r.ends, 0);
}

static void cancel_in_body(void *ctx, struct str bytes)
{
    struct result *r = ctx;

    (void)bytes;
    r->heads++;
    http_call_cancel(r->call);
}

static void a_call_may_be_cancelled_from_its_own_callback(void **state)
{
    static const struct http_call_ops mine = { NULL, cancel_in_body, on_end };
    struct http_call_opts o;
    struct result r = { 0 };
    struct err e;

    (void)state;
    begin();
    o = opts("GET", "/", "");
    assert_int_equal(http_call_start(client, &o, &mine, &r, &r.call, &e), 0);
    WAIT(peers == 1 && raw_has(&peer[0], "\r\n\r\n"));
    raw_send(&peer[0],
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n");
    WAIT(peer[0].eof);
    assert_true(r.heads == 1 && r.ends == 0);
    finish();
}

/* ---- against our own server ---- */

static struct http_server *server;
static int served;

static void serve(void *ctx, struct http_req *r)
{
    struct buf b;

    (void)ctx;
    served++;
    if (str_eqz(http_req_path(r), "/big")) {
        buf_init(&b, (size_t)8 << 20);
        for (int i = 0; i < 500000; i++)
            buf_f(&b, "%d ", i);
        http_reply(r, 200, "text/plain", buf_view(&b), NULL);
        buf_fini(&b);
        return;
    }
    http_reply(r, 200, "text/plain", http_req_body(r), NULL);
}

static int chain_left;
static struct result chain_result;

static void chain_end(void *ctx, int rc, bool sent, bool got)
{
    static const struct http_call_ops again = { on_head, on_body, chain_end };
    struct http_call_opts o = { .host = "127.0.0.1",
                                .port = http_server_port(server),
                                .method = STR("POST"),
                                .path = STR("/"),
                                .body = STR("x") };
    struct err e;

    on_end(ctx, rc, sent, got);
    assert_int_equal(rc, 0);
    if (--chain_left != 0)
        assert_int_equal(http_call_start(client, &o, &again, ctx, &chain_result.call, &e), 0);
}

static void calls_from_on_end_reuse_the_connection(void **state)
{
    struct http_server_opts so = { .host = "127.0.0.1" };
    struct err e;

    (void)state;
    served = 0;
    chain_left = 1001;
    chain_result = (struct result) { 0 };
    buf_init(&chain_result.body, 1 << 20);
    assert_int_equal(http_server_open(loop, &so, serve, NULL, &server, &e), 0);
    client = http_client_new(loop);
    chain_end(&chain_result, 0, false, false);
    WAIT(chain_left == 0);
    assert_int_equal(served, 1000);
    assert_int_equal(chain_result.body.len, 1000);
    buf_fini(&chain_result.body);
    http_client_free(client);
    http_server_close(server);
}

static void *server_thread(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void stop(void *ctx)
{
    loop_stop(ctx);
}

static void fetch_blocks_until_the_whole_answer_is_there(void **state)
{
    struct http_server_opts so = { .host = "127.0.0.1" };
    struct http_call_opts o = { .host = "127.0.0.1", .method = STR("POST"), .path = STR("/big") };
    struct buf body;
    pthread_t t;
    struct err e;
    int status;

    (void)state;
    assert_int_equal(http_server_open(loop, &so, serve, NULL, &server, &e), 0);
    o.port = http_server_port(server);
    assert_int_equal(pthread_create(&t, NULL, server_thread, loop), 0);
    buf_init(&body, (size_t)8 << 20);
    assert_int_equal(http_fetch(&o, &status, &body, NULL, NULL, &e), 0);
    assert_int_equal(status, 200);
    assert_true(str_starts(buf_view(&body), STR("0 1 2 ")) &&
                str_ends(buf_view(&body), STR(" 499999 ")));
    buf_fini(&body);
    buf_init(&body, 1000);
    assert_int_equal(http_fetch(&o, &status, &body, NULL, NULL, &e), ERR_LIMIT);
    buf_fini(&body);
    o.port = 1;
    buf_init(&body, 1000);
    assert_int_equal(http_fetch(&o, &status, &body, NULL, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "http://127.0.0.1:1/big"));
    buf_fini(&body);
    loop_post(loop, stop, loop);
    pthread_join(t, NULL);
    http_server_close(server);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(the_request_has_the_promised_bytes),
        T(connections_are_kept_and_used_again),
        T(a_stale_kept_connection_is_retried_once_unseen),
        T(a_fresh_connection_that_breaks_is_not_retried),
        T(failing_to_connect_says_that_nothing_was_sent),
        T(replies_that_break_the_rules_end_in_an_error),
        T(every_deadline_ends_the_call),
        T(pausing_holds_the_peer_back_and_stops_the_gap_clock),
        T(a_cancelled_call_closes_and_is_silent),
        T(a_call_may_be_cancelled_from_its_own_callback),
        T(calls_from_on_end_reuse_the_connection),
        T(fetch_blocks_until_the_whole_answer_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
