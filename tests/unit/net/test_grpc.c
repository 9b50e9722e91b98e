/* The gRPC server against nghttp2's client, and the bare session against a clock that the test
 * moves.  (Against grpcio and Envoy, and under floods: tests/interop.) */
// SPDX-License-Identifier: Apache-2.0
#include "grpc_client.h"
#include "net/grpc.h"
#include "net/http2.h"

#define PIECE ((size_t)40000)

/* What the methods under test do and saw. */
static struct {
    size_t opened, gone, cancelled, messages, bytes, half_closed, rooms, refused;
    size_t left; /* "/t/Many": pieces to send */
    struct grpc_stream *last;
    bool keep; /* "/t/Echo": do not finish at the half-close */
} saw;

static struct grpc_server *server;

static void on_open(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    saw.opened++;
    saw.last = s;
    assert_true(str_eqz(grpc_metadata(s, ":method"), "POST"));
    assert_null(grpc_metadata(s, "absent").p);
}

static void on_gone(void *ctx, struct grpc_stream *s, bool cancelled)
{
    (void)ctx;
    (void)s;
    saw.gone++;
    saw.cancelled += cancelled;
    saw.last = NULL;
}

static void echo(void *ctx, struct grpc_stream *s, struct str bytes)
{
    (void)ctx;
    saw.messages++;
    saw.bytes += bytes.n;
    assert_true(grpc_metadata(s, ":path").p == NULL); /* only in on_open */
    if (grpc_send(s, bytes) == ERR_AGAIN)
        saw.refused++;
}

static void finish(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    saw.half_closed++;
    if (!saw.keep)
        grpc_finish(s, GRPC_OK, NULL, NULL);
}

static void send_many(void *ctx, struct grpc_stream *s)
{
    static char piece[PIECE];
    int rc = 0;

    (void)ctx;
    while (saw.left != 0 && rc == 0) {
        memset(piece, (int)(saw.left & 0x7f), sizeof(piece));
        rc = grpc_send(s, (struct str) { piece, sizeof(piece) });
        if (rc == 0)
            saw.left--;
    }
    saw.refused += rc == ERR_AGAIN;
    if (saw.left == 0)
        grpc_finish(s, GRPC_OK, NULL, NULL);
}

static void many(void *ctx, struct grpc_stream *s, struct str bytes)
{
    (void)bytes;
    send_many(ctx, s);
}

static void many_room(void *ctx, struct grpc_stream *s)
{
    saw.rooms++;
    send_many(ctx, s);
}

static void fail_at_once(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    grpc_finish(s, GRPC_UNAVAILABLE, "100% \xc3\xbc", "no_endpoints");
}

static void nothing(void *ctx, struct grpc_stream *s)
{
    (void)ctx;
    (void)s;
}

static const struct grpc_method methods[] = {
    { "/t/Unary", true, NULL, on_open, echo, finish, NULL, on_gone },
    { "/t/Echo", false, NULL, on_open, echo, finish, NULL, on_gone },
    { "/t/Many", false, NULL, on_open, many, nothing, many_room, on_gone },
    { "/t/Fail", false, NULL, fail_at_once, echo, nothing, NULL, on_gone },
};

static void serve(struct grpc_server_opts opts)
{
    struct err e;

    memset(&saw, 0, sizeof(saw));
    assert_int_equal(grpc_server_open(loop, &opts, methods, COUNT(methods), &server, &e), 0);
}

static void stop(void)
{
    grpc_server_close(server);
    server = NULL;
}

static void a_unary_call_is_answered(void **state)
{
    struct client c;
    struct call *k;
    struct buf m;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    k = client_start(&c, "/t/Unary");
    client_send(&c, k, STR("hello"), true);
    WAIT(k->closed);
    buf_init(&m, 100);
    assert_true(call_next(k, &m));
    assert_true(str_eqz(buf_view(&m), "hello"));
    assert_int_equal(k->in.len, 0);
    assert_true(call_says(k, ":status: 200\n") && call_says(k, "content-type: application/grpc\n"));
    assert_true(call_says(k, "grpc-status: 0\n"));
    assert_int_equal(saw.gone, 1);
    assert_int_equal(saw.cancelled, 0);
    buf_fini(&m);
    client_end(&c);
    stop();
}

/* However the bytes of two messages are cut into DATA frames, the same two arrive. */
static void cuts_do_not_matter(void **state)
{
    static const char two[] = "\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\4wxyz";
    struct str all = { two, sizeof(two) - 1 };
    struct client c;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    for (size_t cut = 0; cut <= all.n; cut++) {
        struct call *k = client_start(&c, "/t/Echo");

        client_raw(&c, k, str_sub(all, 0, cut), false);
        run_ms(3);
        client_raw(&c, k, str_sub(all, cut, SIZE_MAX), true);
        WAIT(k->closed);
        assert_int_equal(k->in.len, all.n);
        assert_memory_equal(k->in.p, two, all.n);
        assert_true(call_says(k, "grpc-status: 0\n"));
    }
    assert_int_equal(saw.messages, 3 * (all.n + 1));
    client_end(&c);
    stop();
}

static const struct {
    const char *path, *header, *value, *bytes;
    size_t n;
    const char *status;
    bool seen; /* by the method */
} broken[] = {
    { "/t/Unary", "x-test", "1", "\0\0\0\0\5abc", 8, "13", true },             /* cut */
    { "/t/Unary", "x-test", "1", "\0\0\0", 3, "13", true },                    /* cut earlier */
    { "/t/Unary", "x-test", "1", "", 0, "13", true },                          /* no message */
    { "/t/Unary", "x-test", "1", "\0\0\0\0\1a\0\0\0\0\1b", 12, "13", true },   /* two */
    { "/t/Unary", "x-test", "1", "\1\0\0\0\1a", 6, "13", true },               /* compressed? */
    { "/t/Unary", "grpc-encoding", "gzip", "\1\0\0\0\1a", 6, "12", true },     /* compressed */
    { "/t/Unary", "grpc-encoding", "identity", "\1\0\0\0\1a", 6, "13", true }, /* it says not */
    { "/t/Unary", "x-test", "1", "\2\0\0\0\1a", 6, "13", true },               /* no such flag */
    { "/t/Unary", "x-test", "1", "\0\0\0\x03\xe9", 5, "8", true },             /* 1,001 of 1,000 */
    { "/t/Unary", "x-test", "1", "\0\xff\xff\xff\xff", 5, "8", true },         /* 4 GiB */
    { "/t/None", "x-test", "1", "\0\0\0\0\1a", 6, "12", false },
};

static void broken_calls_get_their_status(void **state)
{
    char want[32];
    struct client c;

    (void)state;
    serve((struct grpc_server_opts) { .message_bytes_max = 1000 });
    client_open(&c, grpc_server_port(server));
    for (size_t i = 0; i < COUNT(broken); i++) {
        size_t opened = saw.opened;
        struct call *k = client_start_with(&c, "POST", broken[i].path, "application/grpc",
                                           broken[i].header, broken[i].value);

        client_raw(&c, k, (struct str) { broken[i].bytes, broken[i].n }, true);
        WAIT(k->ended);
        snprintf(want, sizeof(want), "grpc-status: %s\n", broken[i].status);
        if (!call_says(k, want))
            fail_msg("case %zu: want %s, got %.*s", i, want, STR_ARG(buf_view(&k->head)));
        assert_int_equal(saw.opened - opened, broken[i].seen);
    }
    WAIT(saw.gone == saw.opened);
    assert_int_equal(grpc_server_streams(server), 0);
    client_end(&c);
    stop();
}

static void what_is_no_grpc_is_refused(void **state)
{
    struct client c;
    struct call *a, *b;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    a = client_start_with(&c, "GET", "/t/Unary", "application/grpc", "x-test", "1");
    b = client_start_with(&c, "POST", "/t/Unary", "application/json", "x-test", "1");
    WAIT(a->ended && b->ended);
    assert_true(call_says(a, ":status: 405\n"));
    assert_true(call_says(b, ":status: 415\n"));
    assert_int_equal(saw.opened, 0);
    client_end(&c);
    stop();
}

/* Status without a message is the head alone, and what is not printable is percent-encoded. */
static void a_call_can_fail_before_it_speaks(void **state)
{
    struct client c;
    struct call *k;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    k = client_start(&c, "/t/Fail");
    WAIT(k->closed); /* although our side is open: the server resets it with NO_ERROR */
    assert_true(call_says(k, "grpc-status: 14\ngrpc-message: 100%25 %C3%BC\nllm-d-reason: no_end"));
    assert_int_equal(k->code, NGHTTP2_NO_ERROR);
    assert_int_equal(saw.gone, 1);
    assert_int_equal(saw.cancelled, 0);
    client_end(&c);
    stop();
}

/* A peer that does not read gets no more than a window and a queue; then everything, in order. */
static void a_slow_reader_holds_the_sender_back(void **state)
{
    struct client c;
    struct call *k;
    size_t sent, expected = 200;
    struct buf m;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    saw.left = expected;
    client_open(&c, grpc_server_port(server));
    c.hold = true;
    k = client_start(&c, "/t/Many");
    client_send(&c, k, STR("go"), false);
    WAIT(saw.refused != 0);
    run_ms(50);
    sent = expected - saw.left;
    assert_in_range(sent * PIECE, 200000, (size_t)3 * (256 << 10));
    c.hold = false;
    nghttp2_session_consume(c.ng, k->id, k->in.len);
    client_flush(&c);
    WAIT(k->ended);
    assert_true(saw.rooms > 5);
    buf_init(&m, PIECE);
    for (size_t i = expected; i != 0; i--) {
        assert_true(call_next(k, &m));
        assert_int_equal(m.len, PIECE);
        assert_int_equal(m.p[PIECE - 1], (char)(i & 0x7f));
    }
    buf_fini(&m);
    client_end(&c);
    stop();
}

/* Answers are not read, so questions are not taken: bounded here, all served in the end. */
static void unread_answers_hold_the_questions(void **state)
{
    static char text[30000];
    struct client c;
    struct call *k;
    size_t sent = 100, held;

    (void)state;
    memset(text, 'q', sizeof(text));
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    c.hold = true;
    k = client_start(&c, "/t/Echo");
    for (size_t i = 0; i < sent; i++)
        client_send(&c, k, (struct str) { text, sizeof(text) }, i + 1 == sent);
    run_ms(100);
    held = saw.messages;
    assert_in_range(held, 2, 20);
    run_ms(50);
    assert_int_equal(saw.messages, held);
    assert_int_equal(saw.half_closed, 0);
    c.hold = false;
    nghttp2_session_consume(c.ng, k->id, k->in.len);
    client_flush(&c);
    WAIT(k->closed);
    assert_int_equal(saw.messages, sent);
    assert_int_equal(saw.refused, 0);
    assert_int_equal(k->in.len, sent * (sizeof(text) + 5));
    assert_true(call_says(k, "grpc-status: 0\n"));
    client_end(&c);
    stop();
}

static void a_stream_that_is_held_does_not_stop_the_others(void **state)
{
    static char text[60000];
    struct client c;
    struct call *held[20], *k;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    client_open(&c, grpc_server_port(server));
    c.hold = true;
    for (size_t i = 0; i < COUNT(held); i++) {
        held[i] = client_start(&c, "/t/Echo");
        for (int n = 0; n < 12; n++)
            client_send(&c, held[i], (struct str) { text, sizeof(text) }, false);
    }
    run_ms(100);
    /* The client's own connection window is full of unread answers: only give that back. */
    for (size_t i = 0; i < COUNT(held); i++)
        nghttp2_session_consume_connection(c.ng, held[i]->in.len);
    k = client_start(&c, "/t/Unary");
    client_send(&c, k, STR("still here"), true);
    WAIT(saw.half_closed == 1);
    client_end(&c);
    WAIT(saw.gone == saw.opened);
    stop();
}

static void unfinished_messages_have_one_budget(void **state)
{
    static char half[60000];
    struct client c;
    struct call *k[4];
    size_t refused = 0;

    (void)state;
    memcpy(half, "\0\0\1\0\0", 5); /* of 65,536 */
    serve((struct grpc_server_opts) { .buffer_bytes_max = 150000 });
    client_open(&c, grpc_server_port(server));
    for (size_t i = 0; i < COUNT(k); i++) {
        k[i] = client_start(&c, "/t/Echo");
        client_raw(&c, k[i], (struct str) { half, sizeof(half) }, false);
    }
    WAIT(k[2]->ended && k[3]->ended);
    for (size_t i = 0; i < COUNT(k); i++)
        refused += call_says(k[i], "grpc-status: 8\n") && call_says(k[i], "overloaded");
    assert_int_equal(refused, 2);
    client_reset(&c, k[0]);
    WAIT(grpc_server_streams(server) == 1);
    k[0] = client_start(&c, "/t/Echo"); /* its bytes are free again */
    client_raw(&c, k[0], (struct str) { half, sizeof(half) }, false);
    run_ms(20);
    assert_false(k[0]->ended);
    client_end(&c);
    stop();
}

static void each_stream_ends_once(void **state)
{
    struct client c;
    struct call *k;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    saw.keep = true;
    client_open(&c, grpc_server_port(server));
    k = client_start(&c, "/t/Echo");
    client_send(&c, k, STR("a"), false);
    WAIT(saw.messages == 1);
    client_reset(&c, k); /* the peer leaves */
    WAIT(saw.gone == 1);
    assert_int_equal(saw.cancelled, 1);
    k = client_start(&c, "/t/Echo");
    client_send(&c, k, STR("a"), true); /* finished by us, later */
    WAIT(saw.half_closed == 1);
    grpc_finish(saw.last, GRPC_OK, NULL, NULL);
    assert_int_equal(grpc_send(saw.last, STR("late")), ERR_CLOSED);
    WAIT(k->closed && saw.gone == 2);
    assert_int_equal(saw.cancelled, 1);
    (void)client_start(&c, "/t/Echo");
    WAIT(saw.opened == 3);
    client_end(&c); /* the connection goes */
    WAIT(saw.gone == 3);
    assert_int_equal(saw.cancelled, 2);
    client_open(&c, grpc_server_port(server));
    (void)client_start(&c, "/t/Echo");
    WAIT(saw.opened == 4);
    stop(); /* the server goes */
    assert_int_equal(saw.gone, 4);
    assert_int_equal(saw.cancelled, 3);
    client_end(&c);
}

static void draining_lets_streams_end(void **state)
{
    struct client c;
    struct call *k, *late;
    uint16_t port;
    struct raw r;

    (void)state;
    serve((struct grpc_server_opts) { 0 });
    saw.keep = true;
    port = grpc_server_port(server);
    client_open(&c, port);
    k = client_start(&c, "/t/Echo");
    client_send(&c, k, STR("a"), false);
    WAIT(saw.messages == 1);
    grpc_server_drain(server);
    WAIT(c.goaway);
    assert_int_equal(c.goaway_code, NGHTTP2_NO_ERROR);
    raw_start(&r, port);
    assert_true(r.closed); /* nobody listens */
    raw_end(&r);
    client_send(&c, k, STR("b"), true);
    WAIT(saw.messages == 2 && saw.half_closed == 1);
    run_ms(2500); /* past the second GOAWAY */
    assert_false(c.raw.closed);
    late = NULL;
    grpc_finish(saw.last, GRPC_OK, NULL, NULL);
    WAIT(k->ended && c.raw.closed);
    assert_true(call_says(k, "grpc-status: 0\n"));
    (void)late;
    client_end(&c);
    stop();
}

static void connections_have_a_ceiling(void **state)
{
    struct client a, b;
    struct raw r;

    (void)state;
    serve((struct grpc_server_opts) { .connections_max = 2 });
    client_open(&a, grpc_server_port(server));
    client_open(&b, grpc_server_port(server));
    raw_start(&r, grpc_server_port(server));
    WAIT(r.eof || r.closed);
    raw_end(&r);
    client_end(&a);
    run_ms(20);
    client_open(&a, grpc_server_port(server));
    client_send(&a, client_start(&a, "/t/Unary"), STR("x"), true);
    WAIT(a.call[0].closed);
    client_end(&a);
    client_end(&b);
    stop();
}

/* ---- the session alone, with a clock that the test moves ---- */

static size_t heads, closes;

static void head_seen(void *ctx, struct http2_stream *s, const struct http2_head *head, bool end)
{
    static const struct http2_field ok[] = { { { ":status", 7 }, { "200", 3 } } };
    static char much[100000];
    struct str body = { much, sizeof(much) };

    (void)ctx;
    (void)end;
    heads++;
    assert_true(str_eqz(head->field[0].name, ":method"));
    assert_int_equal(http2_respond(s, ok, 1, false), 0);
    assert_int_equal(http2_send(s, &body, 1), 0);
}

static void data_seen(void *ctx, struct http2_stream *s, struct str bytes)
{
    (void)ctx;
    http2_consume(s, bytes.n);
}

static void stream_seen(void *ctx, struct http2_stream *s)
{
    (void)ctx;
    (void)s;
}

static void close_seen(void *ctx, struct http2_stream *s, uint32_t code)
{
    (void)ctx;
    (void)s;
    (void)code;
    closes++;
}

static const struct http2_ops bare_ops = { head_seen, data_seen, stream_seen, stream_seen,
                                           close_seen };

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
/* SETTINGS; HEADERS with END_STREAM | END_HEADERS: GET / of http by the static table, host "a" */
#define SETTINGS_FRAME "\0\0\0\4\0\0\0\0\0"
#define GET_FRAME      "\0\0\6\1\5\0\0\0\1\x82\x84\x86\1\1\x61"

static struct http2_session *bare(const char *bytes, size_t n)
{
    struct http2_session *h;

    heads = closes = 0;
    assert_int_equal(http2_new(&h, &(struct http2_opts) { 0 }, &bare_ops, NULL), 0);
    assert_int_equal(http2_feed(h, (struct str) { bytes, n }), 0);
    return h;
}

static void pull_all(struct http2_session *h)
{
    while (http2_pull(h).n != 0)
        ;
}

static void waits_have_an_end(void **state)
{
    static const char greeted[] = PREFACE SETTINGS_FRAME GET_FRAME;
    static const char cut[] = PREFACE SETTINGS_FRAME "\0\0\3\1\1\0\0\0\1\x82";
    uint64_t now = clock_ms();
    struct http2_session *h;

    (void)state;
    h = bare("PRI", 3); /* no preface */
    http2_tick(h, now + 9000);
    pull_all(h);
    assert_false(http2_done(h));
    http2_tick(h, now + 11000);
    pull_all(h);
    assert_true(http2_done(h));
    http2_free(h);

    h = bare(cut, sizeof(cut) - 1); /* half a head */
    http2_tick(h, now + 9000);
    pull_all(h);
    assert_false(http2_done(h));
    http2_tick(h, now + 11000);
    pull_all(h);
    assert_true(http2_done(h));
    http2_free(h);

    h = bare(greeted, sizeof(greeted) - 1); /* 100,000 bytes into a window of 65,535 */
    pull_all(h);
    assert_int_equal(heads, 1);
    http2_tick(h, now + 50000);
    pull_all(h);
    assert_int_equal(http2_streams(h), 1);
    http2_tick(h, now + 62000);
    pull_all(h);
    assert_int_equal(http2_streams(h), 0);
    assert_int_equal(closes, 1);
    assert_false(http2_done(h));
    http2_tick(h, now + 62000 + 601000); /* nothing for ten minutes */
    pull_all(h);
    http2_tick(h, now + 62000 + 603000);
    pull_all(h);
    assert_true(http2_done(h));
    http2_free(h);
}

static void pings_in_a_hurry_are_answered_with_goodbye(void **state)
{
    static const char greeted[] = PREFACE SETTINGS_FRAME;
    struct http2_session *h = bare(greeted, sizeof(greeted) - 1);

    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_false(i < 3 && http2_count(h).goaway_sent);
        assert_int_equal(http2_feed(h, STR("\0\0\10\6\0\0\0\0\0pingping")), 0);
        pull_all(h);
    }
    assert_true(http2_count(h).goaway_sent);
    assert_true(http2_done(h)); /* no stream was open */
    http2_free(h);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_unary_call_is_answered),
        T(cuts_do_not_matter),
        T(broken_calls_get_their_status),
        T(what_is_no_grpc_is_refused),
        T(a_call_can_fail_before_it_speaks),
        T(a_slow_reader_holds_the_sender_back),
        T(unread_answers_hold_the_questions),
        T(a_stream_that_is_held_does_not_stop_the_others),
        T(unfinished_messages_have_one_budget),
        T(each_stream_ends_once),
        T(draining_lets_streams_end),
        T(connections_have_a_ceiling),
        T(waits_have_an_end),
        T(pings_in_a_hurry_are_answered_with_goodbye),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
