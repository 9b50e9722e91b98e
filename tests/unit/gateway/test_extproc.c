/* The ext_proc conversation, message by message, over a real gRPC connection with a picker that the
 * test plays.  (Behind a real Envoy: tests/interop/extproc_envoy.py.) */
// SPDX-License-Identifier: Apache-2.0
#include "../net/grpc_client.h"
#include "codec/proto.h"
#include "gateway/extproc.h"
#include "gateway/extproc_priv.h"

/* ---- messages, by the numbers of Envoy's files ---- */

enum {
    REQUEST_HEADERS = 2,
    RESPONSE_HEADERS,
    REQUEST_BODY,
    RESPONSE_BODY,
    REQUEST_TRAILERS,
    RESPONSE_TRAILERS
};

static void put_len(struct buf *b, unsigned field, struct str s)
{
    size_t n = s.n;

    buf_c(b, (char)(field << 3 | 2));
    for (; n >= 0x80; n >>= 7)
        buf_c(b, (char)(n | 0x80));
    buf_c(b, (char)n);
    buf_str(b, s);
}

static void wrap(struct buf *b, unsigned field)
{
    struct buf out;

    buf_init(&out, 32 << 20);
    put_len(&out, field, buf_view(b));
    buf_fini(b);
    *b = out;
}

/* lines: "name: value\n" ... */
static void headers_message(struct buf *m, unsigned which, const char *lines, bool end)
{
    struct str rest = str_of(lines);
    struct buf map;

    buf_init(&map, 1 << 20);
    while (rest.n != 0) {
        struct str line = str_cut(&rest, '\n'), name = str_cut(&line, '|');
        struct buf h;

        buf_init(&h, 1 << 16);
        put_len(&h, 1, name);
        put_len(&h, 3, line);
        put_len(&map, 1, buf_view(&h));
        buf_fini(&h);
    }
    wrap(&map, 1);
    if (end)
        buf_add(&map, "\x18\x01", 2);
    wrap(&map, which);
    *m = map;
}

static void body_message(struct buf *m, unsigned which, struct str body, bool end)
{
    buf_init(m, 32 << 20);
    put_len(m, 1, body);
    if (end)
        buf_add(m, "\x10\x01", 2);
    wrap(m, which);
}

/* metadata_context { filter_metadata { space: bytes } } */
static void add_metadata(struct buf *m, const char *space, struct str bytes)
{
    struct buf e;

    buf_init(&e, 1 << 20);
    put_len(&e, 1, str_of(space));
    put_len(&e, 2, bytes);
    wrap(&e, 1);
    put_len(m, 8, buf_view(&e));
    buf_fini(&e);
}

/* ---- the picker ---- */

static struct {
    struct extproc_stream *s;
    size_t asked, done, headers, ended;
    enum extproc_cause cause;
    struct buf body, response, path, id, subset, served;
    bool bodyless, has_subset, event_stream;
    bool late; /* the test answers */
    const struct extproc_number *report;
    size_t report_count;
    struct extproc_pick pick;
} saw;

static void on_request(void *ctx, struct extproc_stream *s, const struct extproc_request *q)
{
    (void)ctx;
    saw.asked++;
    saw.s = s;
    buf_reset(&saw.body);
    buf_reset(&saw.path);
    buf_reset(&saw.id);
    buf_reset(&saw.subset);
    buf_reset(&saw.response);
    buf_str(&saw.body, q->body);
    buf_str(&saw.path, q->path);
    buf_str(&saw.id, q->request_id);
    saw.bodyless = q->bodyless;
    saw.has_subset = q->has_subset;
    for (size_t i = 0; i < q->subset_count; i++) {
        buf_str(&saw.subset, q->subset[i]);
        buf_c(&saw.subset, ' ');
    }
    if (!saw.late)
        extproc_continue(s, &saw.pick);
}

static void on_response(void *ctx, struct extproc_stream *s, const struct extproc_response *r)
{
    (void)ctx;
    saw.headers++;
    saw.event_stream = r->event_stream;
    buf_reset(&saw.served);
    buf_str(&saw.served, r->served);
    extproc_response_set(s, STR("x-session-token"), STR("t"));
}

static void on_response_body(void *ctx, struct extproc_stream *s, struct str bytes, bool end)
{
    (void)ctx;
    buf_str(&saw.response, bytes);
    saw.ended += end;
    if (end)
        extproc_report(s, saw.report, saw.report_count);
}

static void on_done(void *ctx, struct extproc_stream *s, enum extproc_cause cause)
{
    (void)ctx;
    assert_ptr_equal(s, saw.s);
    saw.done++;
    saw.cause = cause;
    saw.s = NULL;
}

static const struct extproc_ops ops = { on_request, on_response, on_response_body, on_done };

static struct extproc *x;
static struct grpc_server *server;
static struct grpc_method method[1];
static struct client c;

static void start(struct extproc_opts opts)
{
    struct buf *bufs[] = { &saw.body, &saw.response, &saw.path, &saw.id, &saw.subset, &saw.served };

    memset(&saw, 0, sizeof(saw));
    for (size_t i = 0; i < COUNT(bufs); i++)
        buf_init(bufs[i], 32 << 20);
    saw.pick = (struct extproc_pick) { .destination = STR("10.0.0.1:80,10.0.0.2:80") };
    x = extproc_open(&opts, &ops, NULL);
    method[0] = extproc_method(x);
    assert_int_equal(grpc_server_open(loop, &(struct grpc_server_opts) { 0 }, method, 1, &server,
                                      &(struct err) { 0 }),
                     0);
    client_open(&c, grpc_server_port(server));
}

static void finish(void)
{
    struct buf *bufs[] = { &saw.body, &saw.response, &saw.path, &saw.id, &saw.subset, &saw.served };

    client_end(&c);
    WAIT(grpc_server_streams(server) == 0);
    assert_int_equal(saw.done, saw.asked);
    grpc_server_close(server);
    extproc_close(x); /* asserts that no body is left in the books */
    for (size_t i = 0; i < COUNT(bufs); i++)
        buf_fini(bufs[i]);
}

static struct call *open_stream(void)
{
    return client_start(&c, "/" EXTPROC_SERVICE "/Process");
}

static void say(struct call *k, struct buf *m)
{
    client_send(&c, k, buf_view(m), false);
    buf_fini(m);
}

static void say_headers(struct call *k, unsigned which, const char *lines, bool end)
{
    struct buf m;

    headers_message(&m, which, lines, end);
    say(k, &m);
}

static void say_body(struct call *k, unsigned which, struct str body, bool end)
{
    struct buf m;

    body_message(&m, which, body, end);
    say(k, &m);
}

/* ---- answers ---- */

enum {
    A_REQUEST_HEADERS = 1,
    A_RESPONSE_HEADERS,
    A_REQUEST_BODY,
    A_RESPONSE_BODY,
    A_REQUEST_TRAILERS,
    A_RESPONSE_TRAILERS,
    A_IMMEDIATE
};

/* The bytes of field `number` in m, by a path of fields. */
static struct str dig(struct str m, const unsigned *path, size_t depth)
{
    for (size_t i = 0; i < depth; i++) {
        struct proto_field f;
        struct str found = STR_NONE;

        while (proto_next(&m, &f) == PROTO_FIELD)
            if (f.number == path[i])
                found = f.bytes;
        m = found;
    }
    return m;
}

#define DIG(m, ...)                                                                                \
    dig(m, (const unsigned[]) { __VA_ARGS__ },                                                     \
        sizeof((unsigned[]) { __VA_ARGS__ }) / sizeof(unsigned))

static uint64_t dig_number(struct str m, unsigned number)
{
    struct proto_field f;

    while (proto_next(&m, &f) == PROTO_FIELD)
        if (f.number == number)
            return f.varint;
    return 0;
}

static struct buf answer; /* the last one taken */

/* Waits for the next answer; returns which one it is. */
static unsigned next(struct call *k)
{
    struct proto_field f;
    struct str m;

    if (answer.max == 0)
        buf_init(&answer, 32 << 20);
    WAIT(call_next(k, &answer) || k->ended || k->closed);
    if (answer.len == 0)
        return 0;
    m = buf_view(&answer);
    return proto_next(&m, &f) == PROTO_FIELD ? f.number : 0;
}

/* "name=value\n" of every header that the answer sets. */
static bool sets(struct str mutation, const char *name, const char *value)
{
    struct proto_field f;
    size_t times = 0;
    bool same = false;

    while (proto_next(&mutation, &f) == PROTO_FIELD) {
        if (f.number != 1 || !str_eqz(DIG(f.bytes, 1, 1), name))
            continue;
        times++;
        same = value == NULL || str_eqz(DIG(f.bytes, 1, 3), value);
        assert_int_equal(DIG(f.bytes, 1, 2).n, 0); /* raw_value only */
    }
    assert_true(times <= 1);
    return times == 1 && same;
}

/* Takes body answers of one side until one has end_of_stream, or `bytes` are there. */
static void collect(struct call *k, unsigned which, size_t bytes, struct buf *out, bool *end)
{
    buf_init(out, 32 << 20);
    *end = false;
    while (!*end && (out->len < bytes || bytes == 0)) {
        struct str streamed;

        assert_int_equal(next(k), which);
        streamed = DIG(buf_view(&answer), which, 1, 3, 3);
        *end = dig_number(streamed, 2) != 0;
        assert_true(DIG(streamed, 1).n <= EXTPROC_FRAME_MAX);
        buf_str(out, DIG(streamed, 1));
        if (bytes == 0 && *end)
            break;
    }
}

#define HEAD                                                                                       \
    ":method|POST\n:path|/v1/chat/completions?a=b\nX-Mine|kept\ncookie|a\ncookie|b\n"              \
    "x-slo-ttft-ms|5\ncontent-length|9\n"

/* ---- the facts ---- */

static void a_whole_request_is_answered_in_order(void **state)
{
    struct proto_value lb, v;
    struct str mutation, metadata;
    struct call *k;
    struct buf got;
    bool end;

    (void)state;
    start((struct extproc_opts) { 0 });
    saw.pick.set = (const struct extproc_header[]) { { STR("x-mine"), STR("changed") },
                                                     { STR("x-prefiller-host-port"), STR("p:1") } };
    saw.pick.set_count = 2;
    saw.pick.remove = (const char *const[]) { "x-kv-cache-source-host-port" };
    saw.pick.remove_count = 1;
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, HEAD, false);
    say_body(k, REQUEST_BODY, STR("{\"a\":"), false);
    run_ms(20);
    assert_int_equal(k->in.len, 0); /* nothing before all is known */
    assert_int_equal(saw.asked, 0);
    say_body(k, REQUEST_BODY, STR("1}"), true);
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    assert_true(str_eqz(buf_view(&saw.body), "{\"a\":1}"));
    assert_true(str_eqz(buf_view(&saw.path), "/v1/chat/completions"));
    assert_int_equal(saw.id.len, 36);
    assert_false(saw.has_subset);
    mutation = DIG(buf_view(&answer), A_REQUEST_HEADERS, 1, 2);
    assert_true(sets(mutation, "x-gateway-destination-endpoint", "10.0.0.1:80,10.0.0.2:80"));
    assert_true(sets(mutation, "Content-Length", "7"));
    assert_true(sets(mutation, ":path", "/v1/chat/completions?a=b"));
    assert_true(sets(mutation, "x-mine", "changed"));
    assert_true(sets(mutation, "x-prefiller-host-port", "p:1"));
    assert_true(sets(mutation, "x-request-id", NULL));
    assert_false(sets(mutation, "cookie", NULL)); /* twice: the proxy's own copy stays whole */
    assert_false(sets(mutation, "x-slo-ttft-ms", NULL));
    assert_false(sets(mutation, "content-length", NULL));
    assert_true(str_eqz(DIG(mutation, 2), "x-kv-cache-source-host-port"));
    assert_int_equal(dig_number(DIG(buf_view(&answer), A_REQUEST_HEADERS, 1), 5), 1);
    metadata = DIG(buf_view(&answer), 8);
    assert_true(proto_struct_valid(metadata) && proto_struct_get(metadata, "envoy.lb", &lb));
    assert_true(proto_struct_get(lb.bytes, "x-gateway-destination-endpoint", &v));
    assert_true(str_eqz(v.bytes, "10.0.0.1:80,10.0.0.2:80"));
    collect(k, A_REQUEST_BODY, 0, &got, &end);
    assert_true(end && str_eqz(buf_view(&got), "{\"a\":1}"));
    buf_fini(&got);

    say_headers(k, RESPONSE_HEADERS,
                ":status|200\ncontent-type|text/event-stream\nset-cookie|a\nset-cookie|b\n", false);
    assert_int_equal(next(k), A_RESPONSE_HEADERS);
    mutation = DIG(buf_view(&answer), A_RESPONSE_HEADERS, 1, 2);
    assert_true(sets(mutation, "x-went-into-resp-headers", "true"));
    assert_true(sets(mutation, "x-session-token", "t") && sets(mutation, ":status", "200"));
    assert_false(sets(mutation, "set-cookie", NULL));
    assert_true(saw.event_stream);
    say_body(k, RESPONSE_BODY, STR("data: 1\n\n"), false);
    collect(k, A_RESPONSE_BODY, 9, &got, &end); /* at once */
    assert_true(!end && str_eqz(buf_view(&got), "data: 1\n\n"));
    buf_fini(&got);
    assert_int_equal(saw.done, 0);
    say_body(k, RESPONSE_BODY, STR_NONE, true);
    collect(k, A_RESPONSE_BODY, 0, &got, &end);
    assert_true(end && got.len == 0);
    buf_fini(&got);
    assert_int_equal(saw.done, 1);
    assert_int_equal(saw.cause, EXTPROC_NATURAL);
    assert_int_equal(saw.ended, 1);
    client_raw(&c, k, STR_NONE, true);
    WAIT(k->closed);
    assert_true(call_says(k, "grpc-status: 0\n"));
    finish();
}

static void a_request_without_body_has_no_body_answer(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, ":method|GET\nx-request-id|mine\n", true);
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    assert_true(saw.bodyless && str_eqz(buf_view(&saw.id), "mine"));
    assert_true(str_eqz(buf_view(&saw.path), "/v1/completions"));
    say_headers(k, RESPONSE_HEADERS, ":status|204\n", true);
    assert_int_equal(next(k), A_RESPONSE_HEADERS);
    assert_int_equal(saw.done, 1);
    assert_int_equal(saw.cause, EXTPROC_NATURAL);
    finish();
}

/* Sizes around the frame: the same bytes, in frames of at most 62,000, an empty body in one. */
static void bodies_come_back_in_frames(void **state)
{
    static const size_t sizes[] = { 0, 1, 61999, 62000, 62001, 124000, 3000001 };

    (void)state;
    start((struct extproc_opts) { 0 });
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct call *k = open_stream();
        struct buf body, got;
        bool end;

        buf_init(&body, 4 << 20);
        buf_reserve(&body, sizes[i] + 1);
        for (; body.len < sizes[i]; body.len++)
            body.p[body.len] = (char)(body.len * 7 + body.len / 251);
        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        for (size_t at = 0; at < body.len || at == 0; at += 100000)
            say_body(k, REQUEST_BODY, str_sub(buf_view(&body), at, 100000),
                     at + 100000 >= body.len);
        assert_int_equal(next(k), A_REQUEST_HEADERS);
        assert_int_equal(
            sets(DIG(buf_view(&answer), A_REQUEST_HEADERS, 1, 2), "Content-Length", NULL),
            sizes[i] != 0);
        collect(k, A_REQUEST_BODY, 0, &got, &end);
        assert_int_equal(got.len, sizes[i]);
        if (got.len != 0)
            assert_memory_equal(got.p, body.p, got.len);
        buf_fini(&got);
        buf_fini(&body);
        client_reset(&c, k);
        WAIT(saw.done == i + 1);
        assert_int_equal(saw.cause, EXTPROC_CLIENT_DISCONNECT);
    }
    finish();
}

static void a_repeated_last_piece_is_ignored(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
    say_body(k, REQUEST_BODY, STR("abc"), true);
    say_body(k, REQUEST_BODY, STR("c"), true);
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    assert_int_equal(next(k), A_REQUEST_BODY);
    say_headers(k, RESPONSE_HEADERS, ":status|200\n", true);
    assert_int_equal(next(k), A_RESPONSE_HEADERS); /* and no second body */
    assert_int_equal(saw.asked, 1);
    finish();
}

static void trailers_end_a_request_too(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    for (int with_body = 0; with_body < 2; with_body++) {
        k = open_stream();
        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        if (with_body)
            say_body(k, REQUEST_BODY, STR("abc"), false);
        say_headers(k, REQUEST_TRAILERS, "x-end|1\n", false);
        assert_int_equal(next(k), A_REQUEST_HEADERS);
        if (with_body) {
            struct str streamed;

            assert_int_equal(next(k), A_REQUEST_BODY);
            streamed = DIG(buf_view(&answer), A_REQUEST_BODY, 1, 3, 3);
            assert_int_equal(dig_number(streamed, 2), 0); /* the trailers are the end */
        }
        assert_int_equal(next(k), A_REQUEST_TRAILERS);
        say_headers(k, RESPONSE_HEADERS, ":status|200\n", false);
        assert_int_equal(next(k), A_RESPONSE_HEADERS);
        say_body(k, RESPONSE_BODY, STR("xyz"), false);
        assert_int_equal(next(k), A_RESPONSE_BODY);
        say_headers(k, RESPONSE_TRAILERS, "grpc-status|0\n", false);
        assert_int_equal(next(k), A_RESPONSE_TRAILERS);
        assert_int_equal(saw.done, with_body + 1);
        assert_int_equal(saw.cause, EXTPROC_NATURAL);
    }
    finish();
}

static void the_subset_hint_is_read(void **state)
{
    static const struct {
        const char *hex; /* a Struct, as Python writes it; NULL: no metadata */
        bool has;
        const char *subset;
    } cases[] = {
        { "\x0a\x54\x0a\x25x-gateway-destination-endpoint-subset\x12\x2b\x32\x29\x0a\x0d\x1a\x0b"
          "10.0.0.1:80\x0a\x09\x11\0\0\0\0\0\0\x14\x40\x0a\x0d\x1a\x0b"
          "10.0.0.2:80",
          true, "10.0.0.1:80 10.0.0.2:80 " },
        { "\x0a\x2b\x0a\x25x-gateway-destination-endpoint-subset\x12\x02\x32\0", true, "" },
        { NULL, false, "" },
    };
    static const size_t bytes[] = { 0x56, 0x2d, 0 };

    (void)state;
    start((struct extproc_opts) { 0 });
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call *k = open_stream();
        struct buf m;

        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        body_message(&m, REQUEST_BODY, STR("abc"), true);
        if (cases[i].hex != NULL)
            add_metadata(&m, "envoy.lb.subset_hint", (struct str) { cases[i].hex, bytes[i] });
        say(k, &m);
        assert_int_equal(next(k), A_REQUEST_HEADERS);
        assert_int_equal(saw.has_subset, cases[i].has);
        assert_true(str_eqz(buf_view(&saw.subset), cases[i].subset));
        headers_message(&m, RESPONSE_HEADERS, ":status|200\n", true);
        if (i == 0)
            add_metadata(&m, "envoy.lb",
                         STR("\x0a\x34\x0a\x25x-gateway-destination-endpoint-served\x12\x0b\x1a\x09"
                             "1.2.3.4:5"));
        say(k, &m);
        assert_int_equal(next(k), A_REQUEST_BODY);
        assert_int_equal(next(k), A_RESPONSE_HEADERS);
        assert_true(str_eqz(buf_view(&saw.served), i == 0 ? "1.2.3.4:5" : ""));
    }
    finish();
}

static void a_late_answer_and_a_changed_body(void **state)
{
    struct call *k;
    struct buf got;
    bool end;

    (void)state;
    start((struct extproc_opts) { 0 });
    saw.late = true;
    saw.pick.has_body = true;
    saw.pick.body = STR("another");
    saw.pick.score = &(struct extproc_score) { STR("10.0.0.1:80"), 0.25 };
    saw.pick.score_count = 1;
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
    say_body(k, REQUEST_BODY, STR("abc"), true);
    WAIT(saw.asked == 1);
    run_ms(20);
    assert_int_equal(k->in.len, 0);
    extproc_continue(saw.s, &saw.pick);
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    assert_true(sets(DIG(buf_view(&answer), A_REQUEST_HEADERS, 1, 2), "Content-Length", "7"));
    assert_true(str_find(buf_view(&answer), STR("x-gateway-destination-endpoint-scores")) !=
                SIZE_MAX);
    collect(k, A_REQUEST_BODY, 0, &got, &end);
    assert_true(str_eqz(buf_view(&got), "another"));
    buf_fini(&got);
    extproc_continue(saw.s, &saw.pick); /* a second answer is nothing */
    run_ms(20);
    assert_int_equal(k->in.len, 0);
    finish();
}

static void refusals_are_the_last_word(void **state)
{
    static const struct extproc_header reason = {
        { EXTPROC_REASON_HEADER, sizeof(EXTPROC_REASON_HEADER) - 1 }, { "evicted", 7 }
    };
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    for (int evicted = 0; evicted < 2; evicted++) {
        struct str now;

        saw.late = evicted == 0;
        k = open_stream();
        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        say_body(k, REQUEST_BODY, STR("abc"), true);
        if (evicted) { /* taken back while the response streams */
            assert_int_equal(next(k), A_REQUEST_HEADERS);
            assert_int_equal(next(k), A_REQUEST_BODY);
            say_headers(k, RESPONSE_HEADERS, ":status|200\n", false);
            assert_int_equal(next(k), A_RESPONSE_HEADERS);
        } else {
            WAIT(saw.asked == 1);
        }
        extproc_refuse(saw.s, 429, STR("inference error: x"), &reason, 1);
        assert_int_equal(next(k), A_IMMEDIATE);
        now = DIG(buf_view(&answer), A_IMMEDIATE);
        assert_int_equal(dig_number(DIG(now, 1), 1), 429);
        assert_true(str_eqz(DIG(now, 3), "inference error: x"));
        assert_true(sets(DIG(now, 2), EXTPROC_REASON_HEADER, "evicted"));
        WAIT(k->ended);
        assert_true(call_says(k, "grpc-status: 0\n"));
        WAIT(saw.done == (size_t)evicted + 1);
        assert_int_equal(saw.cause, EXTPROC_NATURAL);
    }
    finish();
}

static double reported(struct str metadata, const char *space, const char *name)
{
    struct proto_value s, v;

    assert_true(proto_struct_valid(metadata));
    assert_true(proto_struct_get(metadata, space, &s) && s.kind == PROTO_STRUCT);
    assert_true(proto_struct_get(s.bytes, name, &v) && v.kind == PROTO_NUMBER);
    return v.number;
}

/* On the end of the body, or on the trailers when these are the end. */
static void numbers_go_out_with_the_last_frame(void **state)
{
    static const struct extproc_number numbers[] = {
        { { "envoy.lb", 8 }, { "cost", 4 }, 7 },
        { { "mine", 4 }, { "other", 5 }, 8 },
        { { "envoy.lb", 8 }, { "more", 4 }, 9 },
    };

    (void)state;
    start((struct extproc_opts) { 0 });
    saw.report = numbers;
    saw.report_count = COUNT(numbers);
    for (int trailers = 0; trailers < 2; trailers++) {
        struct call *k = open_stream();
        struct str metadata;

        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        say_body(k, REQUEST_BODY, STR("abc"), true);
        say_headers(k, RESPONSE_HEADERS, ":status|200\n", false);
        say_body(k, RESPONSE_BODY, STR("first"), false);
        assert_int_equal(next(k), A_REQUEST_HEADERS);
        assert_int_equal(next(k), A_REQUEST_BODY);
        assert_int_equal(next(k), A_RESPONSE_HEADERS);
        assert_int_equal(next(k), A_RESPONSE_BODY);
        assert_int_equal(DIG(buf_view(&answer), 8).n, 0);
        if (trailers)
            say_headers(k, RESPONSE_TRAILERS, "", false);
        else
            say_body(k, RESPONSE_BODY, STR("last"), true);
        assert_int_equal(next(k), trailers ? A_RESPONSE_TRAILERS : A_RESPONSE_BODY);
        metadata = DIG(buf_view(&answer), 8);
        assert_true(reported(metadata, "envoy.lb", "cost") == 7);
        assert_true(reported(metadata, "envoy.lb", "more") == 9);
        assert_true(reported(metadata, "mine", "other") == 8);
        client_raw(&c, k, STR_NONE, true);
        WAIT(k->closed);
    }
    finish();
}

static void bodies_have_ceilings(void **state)
{
    struct call *k, *other;

    (void)state;
    start((struct extproc_opts) { .body_bytes_max = 1000, .buffer_bytes_max = 1500 });
    for (size_t n = 999; n <= 1001; n++) {
        static char bytes[1001];

        k = open_stream();
        say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
        say_body(k, REQUEST_BODY, (struct str) { bytes, 500 }, false);
        say_body(k, REQUEST_BODY, (struct str) { bytes, n - 500 }, true);
        assert_int_equal(next(k), n > 1000 ? A_IMMEDIATE : A_REQUEST_HEADERS);
        if (n > 1000)
            assert_int_equal(dig_number(DIG(buf_view(&answer), A_IMMEDIATE, 1), 1), 413);
        client_reset(&c, k);
    }
    WAIT(grpc_server_streams(server) == 0);
    assert_int_equal(saw.asked, 2);
    k = open_stream();
    other = open_stream();
    say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
    say_headers(other, REQUEST_HEADERS, ":path|/x\n", false);
    say_body(k, REQUEST_BODY, (struct str) { (char[900]) { 0 }, 900 }, false);
    say_body(other, REQUEST_BODY, (struct str) { (char[700]) { 0 }, 700 }, false);
    assert_int_equal(next(other), A_IMMEDIATE);
    assert_int_equal(dig_number(DIG(buf_view(&answer), A_IMMEDIATE, 1), 1), 503);
    say_body(k, REQUEST_BODY, STR("x"), true); /* the first is not disturbed */
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    finish();
}

static void skipping_closes_after_the_request(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    saw.pick.skip_response = true;
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
    say_body(k, REQUEST_BODY, STR("abc"), true);
    assert_int_equal(next(k), A_REQUEST_HEADERS);
    assert_int_equal(next(k), A_REQUEST_BODY);
    WAIT(k->ended);
    assert_true(call_says(k, "grpc-status: 0\n"));
    WAIT(saw.done == 1);
    assert_int_equal(saw.cause, EXTPROC_NATURAL);
    finish();
}

/* Whenever the proxy goes, done comes once. */
static void leaving_at_any_point_gives_the_booking_back(void **state)
{
    (void)state;
    start((struct extproc_opts) { 0 });
    for (int how = 0; how < 2; how++)
        for (int at = 0; at < 6; at++) {
            struct call *k = open_stream();
            size_t asked = saw.asked;

            saw.late = at == 2;
            if (at >= 1)
                say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
            if (at >= 2)
                say_body(k, REQUEST_BODY, STR("abc"), true);
            if (at >= 3)
                assert_int_equal(next(k), A_REQUEST_HEADERS);
            if (at >= 4)
                say_headers(k, RESPONSE_HEADERS, ":status|200\n", false);
            if (at >= 5)
                say_body(k, RESPONSE_BODY, STR("x"), false);
            run_ms(15);
            if (how == 0)
                client_reset(&c, k);
            else
                client_raw(&c, k, STR_NONE, true);
            WAIT(grpc_server_streams(server) == 0);
            assert_int_equal(saw.asked - asked, at >= 2);
            assert_int_equal(saw.done, saw.asked);
            if (at >= 2)
                assert_int_equal(saw.cause, EXTPROC_CLIENT_DISCONNECT);
        }
    finish();
}

/* The proxy answered by itself (a timeout, say): its headers are passed, a late pick is dropped. */
static void the_proxys_own_answer_overtakes_the_picker(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    saw.late = true;
    k = open_stream();
    say_headers(k, REQUEST_HEADERS, ":path|/x\n", false);
    say_body(k, REQUEST_BODY, STR("abc"), true);
    WAIT(saw.asked == 1);
    say_headers(k, RESPONSE_HEADERS, ":status|504\n", false);
    assert_int_equal(next(k), A_RESPONSE_HEADERS);
    extproc_continue(saw.s, &saw.pick);
    say_body(k, RESPONSE_BODY, STR("timeout"), true);
    assert_int_equal(next(k), A_RESPONSE_BODY);
    assert_int_equal(saw.headers, 0);
    assert_int_equal(saw.done, 1);
    finish();
}

/* Upstream's own tests do this. */
static void a_response_without_request_is_passed(void **state)
{
    struct call *k;

    (void)state;
    start((struct extproc_opts) { 0 });
    k = open_stream();
    say_headers(k, RESPONSE_HEADERS, ":status|200\n", false);
    assert_int_equal(next(k), A_RESPONSE_HEADERS);
    say_body(k, RESPONSE_BODY, STR("{\"model\":\"a\"}"), true);
    assert_int_equal(next(k), A_RESPONSE_BODY);
    assert_int_equal(saw.asked + saw.done + saw.headers, 0);
    finish();
}

static const struct {
    unsigned before[3]; /* messages that are fine */
    unsigned which;     /* and the one that is not */
} disorders[] = {
    { { 0 }, REQUEST_BODY },
    { { 0 }, REQUEST_TRAILERS },
    { { 0 }, RESPONSE_BODY },
    { { 0 }, RESPONSE_TRAILERS },
    { { REQUEST_HEADERS }, REQUEST_HEADERS },
    { { REQUEST_HEADERS, REQUEST_TRAILERS, RESPONSE_HEADERS }, RESPONSE_HEADERS },
    { { RESPONSE_HEADERS }, REQUEST_HEADERS },
    { { RESPONSE_HEADERS, RESPONSE_TRAILERS }, RESPONSE_BODY },
};

static void disorder_ends_the_stream(void **state)
{
    (void)state;
    start((struct extproc_opts) { 0 });
    for (size_t i = 0; i < COUNT(disorders); i++) {
        struct call *k = open_stream();

        for (size_t n = 0; n < 4; n++) {
            unsigned which = n < 3 ? disorders[i].before[n] : disorders[i].which;

            if (which == REQUEST_BODY || which == RESPONSE_BODY)
                say_body(k, which, STR("x"), false);
            else if (which != 0)
                say_headers(k, which, ":path|/x\n", false);
        }
        WAIT(k->ended);
        if (!call_says(k, "grpc-status: 3\n"))
            fail_msg("case %zu: %.*s", i, STR_ARG(buf_view(&k->head)));
    }
    WAIT(saw.done == saw.asked);
    assert_int_equal(saw.cause, EXTPROC_ERROR);
    finish();
}

static const struct {
    const char *p;
    size_t n;
} rubbish[] = {
    { "", 0 },                                     /* no content */
    { "\x50\x01", 2 },                             /* observability alone */
    { "\x12\x05\x0a", 3 },                         /* past the end */
    { "\x10\x01", 2 },                             /* a message as a number */
    { "\x13\x14", 2 },                             /* a group */
    { "\x12\x07\x0a\x05\x0a\x03\x0a\x01\xff", 9 }, /* a name that is not UTF-8 */
    { "\x12\x00\x42\x1b\x0a\x19\x0a\x14"
      "envoy.lb.subset_hint\x12\x01\xff",
      31 }, /* metadata that is no Struct */
};

static void rubbish_ends_the_stream(void **state)
{
    (void)state;
    start((struct extproc_opts) { 0 });
    for (size_t i = 0; i < COUNT(rubbish); i++) {
        struct call *k = open_stream();

        client_send(&c, k, (struct str) { rubbish[i].p, rubbish[i].n }, false);
        WAIT(k->ended);
        if (!call_says(k, "grpc-status: 3\n"))
            fail_msg("case %zu: %.*s", i, STR_ARG(buf_view(&k->head)));
    }
    finish();
}

/* ---- the model's name ---- */

static const struct {
    const char *from, *to, *in, *out;
} renames[] = {
    { "in", "out", "{\"model\":\"in\",\"a\":\"model\"}", "{\"model\":\"out\",\"a\":\"model\"}" },
    { "in", "out", "{\"model\": \"in\"}{\"model\":\"in\"}",
      "{\"model\": \"out\"}{\"model\":\"out\"}" },
    { "in", "out", "{\"model\":\"inn\"}", "{\"model\":\"inn\"}" },
    { "in", "out", "\"\"model\":\"\"model\":\"in\"", "\"\"model\":\"\"model\":\"out\"" },
    { "in", "out", "{\\\"model\\\":\\\"in\\\"}", "{\\\"model\\\":\\\"in\\\"}" },
    { "a\"b", "c\\d", "{\"model\":\"a\\\"b\"}", "{\"model\":\"c\\\\d\"}" },
    { "in", "", "{\"model\":\"in\"}", "{\"model\":\"in\"}" },
    { "in", "in", "{\"model\":\"in\"}", "{\"model\":\"in\"}" },
    { "in", "out", "\"model\":\"in", "\"model\":\"in" }, /* cut short: as it is */
};

static void names_are_replaced_at_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(renames); i++) {
        struct str in = str_of(renames[i].in);

        for (size_t a = 0; a <= in.n; a++)
            for (size_t b = a; b <= in.n; b++) {
                struct extproc_rename r;
                struct buf out;

                buf_init(&out, 1000);
                extproc_rename_init(&r, str_of(renames[i].from), str_of(renames[i].to));
                assert_true(extproc_rename_feed(&r, str_sub(in, 0, a), false, &out));
                assert_true(extproc_rename_feed(&r, str_sub(in, a, b - a), false, &out));
                assert_true(r.held.len < 24);
                assert_true(extproc_rename_feed(&r, str_sub(in, b, SIZE_MAX), true, &out));
                if (!str_eqz(buf_view(&out), renames[i].out))
                    fail_msg("case %zu cut %zu %zu: %.*s", i, a, b, STR_ARG(buf_view(&out)));
                extproc_rename_fini(&r);
                buf_fini(&out);
            }
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_whole_request_is_answered_in_order),
        T(a_request_without_body_has_no_body_answer),
        T(bodies_come_back_in_frames),
        T(a_repeated_last_piece_is_ignored),
        T(trailers_end_a_request_too),
        T(the_subset_hint_is_read),
        T(a_late_answer_and_a_changed_body),
        T(refusals_are_the_last_word),
        T(bodies_have_ceilings),
        T(numbers_go_out_with_the_last_frame),
        T(skipping_closes_after_the_request),
        T(leaving_at_any_point_gives_the_booking_back),
        T(the_proxys_own_answer_overtakes_the_picker),
        T(a_response_without_request_is_passed),
        T(disorder_ends_the_stream),
        T(rubbish_ends_the_stream),
        cmocka_unit_test(names_are_replaced_at_every_cut),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);

    buf_fini(&answer);
    return rc;
}
