/* The HTTP/1.1 parser: one answer for every cut, and every row of the framing table refused. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "net/http1.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define H       "Host: a\r\n"
#define GET     "GET / HTTP/1.1\r\n" H
#define POST    "POST / HTTP/1.1\r\n" H
#define CHUNKED "Transfer-Encoding: chunked\r\n\r\n"

static const struct http1_limits limits = { 16384, 100, 1000 };

struct outcome {
    enum http1_event event; /* the last one */
    int status;
    char reason[32], body[2048], path[256];
    size_t body_len, headers, left; /* left: bytes after the message */
    bool keep_alive, eof;
};

/* Feeds text in pieces of `step` bytes, the first of them `first` long. */
static struct outcome run(enum http1_kind kind, bool head_only, struct str text, size_t first,
                          size_t step, bool eof)
{
    struct outcome o = { .event = HTTP1_MORE };
    struct http1 p;
    size_t at = 0;

    http1_init(&p, kind, &limits);
    p.head_only = head_only;
    while (o.event != HTTP1_DONE && o.event != HTTP1_BAD) {
        size_t n = MIN(at == 0 ? first : step, text.n - at);
        /* a copy of its own, so that reads past the piece are seen by the sanitizer */
        char *copy = mem_dup(text.p + at, n);
        struct str in = { copy, n }, piece = STR_NONE;

        at += n;
        do {
            o.event = http1_next(&p, &in, &piece);
            if (o.event == HTTP1_HEAD) {
                o.headers = p.headers.count;
                o.keep_alive = p.keep_alive;
                snprintf(o.path, sizeof(o.path), "%.*s", STR_ARG(p.path));
            }
            if (o.event == HTTP1_BODY) {
                assert_true(piece.n <= sizeof(o.body) - o.body_len);
                memcpy(o.body + o.body_len, piece.p, piece.n);
                o.body_len += piece.n;
            }
        } while (o.event == HTTP1_HEAD || o.event == HTTP1_BODY);
        o.left = in.n + (text.n - at);
        mem_free(copy);
        if (at == text.n && o.event == HTTP1_MORE) {
            if (!eof)
                break;
            o.event = http1_eof(&p);
            o.eof = true;
            if (o.event == HTTP1_MORE)
                break;
        }
    }
    if (o.event == HTTP1_BAD) {
        o.status = p.bad_status;
        snprintf(o.reason, sizeof(o.reason), "%s", p.bad_reason);
        o.left = 0; /* where the verdict falls inside the bytes is no promise */
    } else {
        o.status = p.status;
    }
    http1_fini(&p);
    return o;
}

static void same(const struct outcome *a, const struct outcome *b, const char *text, size_t cut)
{
    if (a->event == b->event && a->status == b->status && strcmp(a->reason, b->reason) == 0 &&
        a->left == b->left && a->keep_alive == b->keep_alive && a->headers == b->headers &&
        strcmp(a->path, b->path) == 0 &&
        (a->event == HTTP1_BAD ||
         (a->body_len == b->body_len && memcmp(a->body, b->body, a->body_len) == 0)))
        return;
    fail_msg("cut at %zu: %d %d %s %zu, whole: %d %d %s %zu, of: %.200s", cut, a->event, a->status,
             a->reason, a->left, b->event, b->status, b->reason, b->left, text);
}

static struct outcome at_every_cut(enum http1_kind kind, bool head_only, struct str text, bool eof)
{
    struct outcome whole = run(kind, head_only, text, text.n, text.n, eof);

    for (size_t cut = 1; cut < text.n && cut < 600; cut++) {
        struct outcome o = run(kind, head_only, text, cut, text.n, eof);

        same(&o, &whole, text.p, cut);
    }
    for (size_t step = 1; step <= 3; step++) {
        struct outcome o = run(kind, head_only, text, step, step, eof);

        same(&o, &whole, text.p, 100000 + step);
    }
    return whole;
}

/* req: H1-01 H1-02 H1-03 H1-04 H1-05 H1-06 H1-07 H1-08 H1-09 H1-10 H1-11 H1-12 H1-13 H1-18 H1-20 */
static const struct refusal {
    int status;
    const char *reason;
    struct str text;
} refusals[] = {
#define R(status, reason, text)                                                                    \
    {                                                                                              \
        status, reason,                                                                            \
        {                                                                                          \
            text, sizeof(text) - 1                                                                 \
        }                                                                                          \
    }
    /* H1-01 */
    R(400, "framing_cl_te", POST "Content-Length: 3\r\n" CHUNKED "3\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_cl_te", POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"),
    R(400, "framing_cl_te", POST "Transfer-Encoding: gzip\r\ncontent-length: 0\r\n\r\n"),
    /* H1-02 */
    R(400, "framing_cl_dup", POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    R(400, "framing_cl_dup", POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    R(400, "framing_cl_dup", POST "Content-Length: 3, 3\r\n\r\nabc"),
    R(400, "framing_cl_dup", POST "Content-Length: 3,\r\n\r\nabc"),
    /* H1-03 */
    R(400, "framing_cl_bad", POST "Content-Length: +3\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length: -3\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length: 1 0\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length: 0x3\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length:\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length: 9223372036854775808\r\n\r\n"),
    R(400, "framing_cl_bad", POST "Content-Length: 00000000000000000003\r\n\r\nabc"),
    R(400, "framing_cl_bad", POST "Content-Length: 3abc\r\n\r\nabc"),
    /* H1-04 */
    R(501, "framing_te", POST "Transfer-Encoding: gzip\r\n\r\n"),
    R(501, "framing_te", POST "Transfer-Encoding: identity\r\n\r\n"),
    R(501, "framing_te", POST "Transfer-Encoding: xchunked\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: chunked\r\n" CHUNKED "0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding:\r\n\r\n"),
    R(400, "framing_te", POST "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    /* H1-05 */
    R(400, "framing_te", "POST / HTTP/1.0\r\n" H CHUNKED "0\r\n\r\n"),
    /* H1-06 */
    R(400, "framing_chunk", POST CHUNKED "+3\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "-3\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "0x3\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "1_0\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED " 3\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3 \r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3 ;x\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "000000003\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "fffffffffffffffff\r\n"),
    R(400, "framing_chunk", POST CHUNKED "\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED ";x\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "g\r\n"),
    /* H1-07 */
    R(400, "framing_eol", "GET / HTTP/1.1\n" H "\r\n"),
    R(400, "framing_eol", "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    R(400, "framing_eol", GET "\n"),
    R(400, "framing_eol", GET "X: a\rb\r\n\r\n"),
    R(400, "framing_eol", GET "X: a\r\r\n\r\n"),
    R(400, "framing_eol", "\nGET / HTTP/1.1\r\n" H "\r\n"),
    R(400, "framing_eol", "GET /\r HTTP/1.1\r\n" H "\r\n"),
    R(400, "framing_eol", POST CHUNKED "3\nabc\r\n0\r\n\r\n"),
    R(400, "framing_eol", POST CHUNKED "3;x\nabc\r\n0\r\n\r\n"),
    R(400, "framing_eol", POST CHUNKED "0\r\nX: y\n\r\n"),
    R(400, "framing_eol", POST CHUNKED "0\r\n\n"),
    /* H1-08 */
    R(400, "framing_chunk", POST CHUNKED "3\r\nabcd\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3\r\nabc0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3\r\nabc\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3\r\nabc\rX"),
    R(400, "framing_chunk", POST CHUNKED "3;a\rb\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3;a\x01\r\nabc\r\n0\r\n\r\n"),
    R(400, "framing_chunk", POST CHUNKED "3\rabc\r\n0\r\n\r\n"),
    /* H1-09 */
    R(400, "header_syntax", GET "X: a\r\n b\r\n\r\n"),
    R(400, "header_syntax", GET "X : a\r\n\r\n"),
    R(400, "header_syntax", GET "X\t: a\r\n\r\n"),
    R(400, "header_syntax", GET ": a\r\n\r\n"),
    R(400, "header_syntax", GET "X\r\n\r\n"),
    R(400, "header_syntax", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    R(400, "header_syntax", GET "X\0Y: a\r\n\r\n"),
    R(400, "header_syntax", GET "X: a\0b\r\n\r\n"),
    R(400, "header_syntax", GET "X: a\x7f\r\n\r\n"),
    R(400, "header_syntax", GET "X: a\x01\r\n\r\n"),
    R(400, "header_syntax", GET "X(: a\r\n\r\n"),
    R(400, "header_syntax", GET "X\xc3\xa4: a\r\n\r\n"),
    R(400, "header_syntax", POST CHUNKED "0\r\nX : y\r\n\r\n"),
    R(400, "header_syntax", POST CHUNKED "0\r\n y\r\n\r\n"),
    /* H1-10 */
    R(400, "host", "GET / HTTP/1.1\r\n\r\n"),
    R(400, "host", GET H "\r\n"),
    R(400, "host", GET "Host: b\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: [x]\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"),
    R(400, "host", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
    /* H1-11 */
    R(400, "target", "GET /#f HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a\0b HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a\x01 HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /%00 HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /?a=%00 HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a%2fb HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a%2Fb HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a%5cb HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a\\b HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a/../b HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a/%2e%2E/b HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /. HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /.. HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /a/%2e HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /%zz HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET /%2 HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET http://b/ HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET http://a:81/ HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    R(400, "target", "GET http:/// HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET ftp://a/ HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET a HTTP/1.1\r\n" H "\r\n"),
    R(400, "target", "GET * HTTP/1.1\r\n" H "\r\n"),
    /* H1-12 */
    R(505, "version", "GET / HTTP/2.0\r\n" H "\r\n"),
    R(505, "version", "GET / HTTP/1.2\r\n" H "\r\n"),
    R(505, "version", "GET / HTTP/0.9\r\n" H "\r\n"),
    R(505, "version", "GET / http/1.1\r\n" H "\r\n"),
    R(505, "version", "GET / HTTP/1.1x\r\n" H "\r\n"),
    R(505, "version", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    R(0, "version", "GET /path\r\n"),
    R(0, "version", "GET /path\r\nHost: a\r\n\r\n"),
    /* the request line's own shape */
    R(400, "request_line", " GET / HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "GET  / HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "GET /  HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "GET / HTTP/1.1 \r\n" H "\r\n"),
    R(400, "request_line", "GET / a HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "GET\t/ HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "G(T / HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "GET\r\n" H "\r\n"),
    R(400, "request_line", "\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n"),
    R(400, "request_line", "\x16\x03\x01\x02"),
    /* H1-13 */
    R(405, "method", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    R(405, "method", "TRACE / HTTP/1.1\r\n" H "\r\n"),
    /* H1-18 */
    R(417, "expect", POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\na"),
    /* H1-20 */
    R(400, "header_syntax", POST "Content_Length: 3\r\n\r\n"),
    R(400, "header_syntax", POST "transfer_encoding: chunked\r\n\r\n"),
    R(400, "header_syntax", GET "X_Gateway_Destination_Endpoint: 10.0.0.1:1\r\n\r\n"),
    R(400, "header_syntax", GET "x-llm-d_foo: 1\r\n\r\n"),
    R(400, "header_syntax", GET "x_prefiller_host_port: 1\r\n\r\n"),
    /* H1-14 */
    R(413, "too_large", POST "Content-Length: 1001\r\n\r\n"),
    R(413, "too_large", POST CHUNKED "3e9\r\n"),
    R(413, "too_large", POST CHUNKED "1\r\na\r\n3e8\r\n"),
#undef R
};

static void what_could_smuggle_is_refused_at_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(refusals); i++) {
        const struct refusal *r = &refusals[i];
        struct outcome o = at_every_cut(HTTP1_REQUEST, false, r->text, false);

        if (o.event != HTTP1_BAD || o.status != r->status || strcmp(o.reason, r->reason) != 0)
            fail_msg("want %d %s, got event %d, %d %s: %.200s", r->status, r->reason, o.event,
                     o.status, o.reason, r->text.p);
    }
}

static void good_requests_parse_at_every_cut(void **state)
{
    static const struct {
        const char *text, *path, *body;
        bool keep_alive;
        size_t left, headers;
    } good[] = {
        { GET "\r\n", "/", "", true, 0, 1 },
        { "\r\n" GET "\r\n", "/", "", true, 0, 1 },
        { GET "\r\nGET", "/", "", true, 3, 1 },
        { "GET /a/b?q=%2f&r HTTP/1.1\r\n" H "X:y\r\nZ: \t v \t\r\nE:\r\n\r\n", "/a/b", "", true, 0,
          4 },
        { "GET / HTTP/1.0\r\n\r\n", "/", "", false, 0, 0 },
        { "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "/", "", true, 0, 1 },
        { GET "Connection: x, CLOSE\r\n\r\n", "/", "", false, 0, 2 },
        { GET "Connection: closed\r\n\r\n", "/", "", true, 0, 2 },
        { GET "Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "/", "", true, 0, 3 },
        { POST "Content-Length: 3\r\n\r\nabcd", "/", "abc", true, 1, 2 },
        { POST "Content-Length: 0\r\n\r\nabcd", "/", "", true, 4, 2 },
        { POST "Content-Length: 003\r\n\r\nabc", "/", "abc", true, 0, 2 },
        { POST "Content-Length: \t3 \r\n\r\nabc", "/", "abc", true, 0, 2 },
        { POST "\r\nabc", "/", "", true, 3, 1 },
        { POST CHUNKED "3\r\nabc\r\n0\r\n\r\nX", "/", "abc", true, 1, 2 },
        { POST "tRANSFER-eNCODING: Chunked\r\n\r\n3\r\nabc\r\n00000000\r\n\r\n", "/", "abc", true,
          0, 2 },
        { POST CHUNKED "3;a=b; c\r\nabc\r\nA\r\n0123456789\r\n0;x\r\nT: v\r\nU: w\r\n\r\n", "/",
          "abc0123456789", true, 0, 2 },
        { "GET http://A/x HTTP/1.1\r\n" H "\r\n", "/x", "", true, 0, 1 },
        { "GET https://a?q HTTP/1.1\r\n" H "\r\n", "/", "", true, 0, 1 },
        { "OPTIONS * HTTP/1.1\r\n" H "\r\n", "*", "", true, 0, 1 },
        { "GET /...a/b./.c/%2e.. HTTP/1.1\r\n" H "\r\n", "/...a/b./.c/%2e..", "", true, 0, 1 },
        { "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", "/", "", true, 0, 1 },
        { "GET / HTTP/1.1\r\nHost: a-b.c_d:0\r\n\r\n", "/", "", true, 0, 1 },
        { GET "X: \xc3\xa4\r\n\r\n", "/", "", true, 0, 2 },
        { GET "X_Custom: 1\r\n\r\n", "/", "", true, 0, 2 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        struct outcome o = at_every_cut(HTTP1_REQUEST, false, str_of(good[i].text), false);

        if (o.event != HTTP1_DONE)
            fail_msg("event %d, %d %s: %s", o.event, o.status, o.reason, good[i].text);
        assert_string_equal(o.path, good[i].path);
        assert_int_equal(o.body_len, strlen(good[i].body));
        assert_memory_equal(o.body, good[i].body, o.body_len);
        assert_int_equal(o.keep_alive, good[i].keep_alive);
        assert_int_equal(o.left, good[i].left);
        assert_int_equal(o.headers, good[i].headers);
    }
}

static void replies_parse_at_every_cut(void **state)
{
    static const struct {
        const char *text;
        bool eof, head_only;
        enum http1_event event;
        int status;
        const char *body;
        bool keep_alive;
    } cases[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 0, 0, HTTP1_DONE, 200, "hi", true },
        { "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", 0, 0, HTTP1_DONE, 200, "hi", true },
        { "HTTP/1.1 503 \r\ncontent-length: 0\r\n\r\n", 0, 0, HTTP1_DONE, 503, "", true },
        { "HTTP/1.1 204 No Content\r\n\r\n", 0, 0, HTTP1_DONE, 204, "", true },
        { "HTTP/1.1 100 Continue\r\n\r\n", 0, 0, HTTP1_DONE, 100, "", true },
        { "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", 0, 1, HTTP1_DONE, 200, "", true },
        { "HTTP/1.1 200 OK\r\n" CHUNKED "2\r\nhi\r\n0\r\n\r\n", 0, 0, HTTP1_DONE, 200, "hi", true },
        { "HTTP/1.1 200 OK\r\n\r\nhi", 1, 0, HTTP1_DONE, 200, "hi", false },
        { "HTTP/1.0 200 OK\r\n\r\nhi", 1, 0, HTTP1_DONE, 200, "hi", false },
        { "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 0, 0,
          HTTP1_DONE, 200, "hi", true },
        { "HTTP/1.1 200 OK\r\n\r\nhi", 0, 0, HTTP1_MORE, 200, "hi", false },
        { "", 1, 0, HTTP1_MORE, 0, "", false },
        { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", 1, 0, HTTP1_BAD, 400, "", true },
        { "HTTP/1.1 200 OK\r\n" CHUNKED "2\r\nhi\r\n", 1, 0, HTTP1_BAD, 400, "", true },
        { "HTTP/1.1 200 OK\r\nContent-L", 1, 0, HTTP1_BAD, 400, "", false },
        { "HTTP/1.1 20 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "HTTP/1.1 2000 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "HTTP/1.1  200 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "HTTP/1.1 099 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "HTTP/2 200 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "ICY 200 OK\r\n\r\n", 0, 0, HTTP1_BAD, 502, "", false },
        { "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 0, 0, HTTP1_BAD, 400, "", false },
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" CHUNKED, 0, 0, HTTP1_BAD, 400, "", false },
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 0, 0, HTTP1_BAD,
          400, "", false },
        { "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", 0, 0, HTTP1_BAD, 400, "", false },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct outcome o =
            at_every_cut(HTTP1_REPLY, cases[i].head_only, str_of(cases[i].text), cases[i].eof);

        if (o.event != cases[i].event || o.status != cases[i].status)
            fail_msg("event %d, %d %s: %s", o.event, o.status, o.reason, cases[i].text);
        if (o.event == HTTP1_BAD)
            continue;
        assert_int_equal(o.body_len, strlen(cases[i].body));
        assert_memory_equal(o.body, cases[i].body, o.body_len);
        assert_int_equal(o.keep_alive, cases[i].keep_alive);
    }
}

static struct str repeat(struct buf *b, const char *before, char c, size_t n, const char *after)
{
    buf_reset(b);
    buf_z(b, before);
    for (size_t i = 0; i < n; i++)
        buf_c(b, c);
    buf_z(b, after);
    assert_false(b->failed);
    return buf_view(b);
}

static void expect_limit(struct str text, int status)
{
    struct outcome o = run(HTTP1_REQUEST, false, text, text.n, text.n, false);
    struct outcome one = run(HTTP1_REQUEST, false, text, 1, 1, false);

    assert_int_equal(o.event, status == 0 ? HTTP1_DONE : HTTP1_BAD);
    assert_int_equal(o.status, status);
    same(&one, &o, "limit", 0);
}

/* req: LIM-20 LIM-21 LIM-24 H1-14: each at the limit and one past it. */
static void every_limit_is_exact(void **state)
{
    struct buf b, all;

    (void)state;
    buf_init(&b, 1 << 20);
    buf_init(&all, 1 << 20);
    /* "GET /" and " HTTP/1.1" are 14 bytes of the line */
    expect_limit(repeat(&b, "GET /", 'a', 8192 - 14, " HTTP/1.1\r\n" H "\r\n"), 0);
    expect_limit(repeat(&b, "GET /", 'a', 8192 - 13, " HTTP/1.1\r\n" H "\r\n"), 414);
    expect_limit(repeat(&b, "GET /", 'a', 9000, ""), 414);
    expect_limit(repeat(&b, GET "X: ", 'a', 8192 - 3, "\r\n\r\n"), 0);
    expect_limit(repeat(&b, GET "X: ", 'a', 8192 - 2, "\r\n\r\n"), 431);
    for (int past = 0; past <= 1; past++) { /* a head of 16,384 bytes in all */
        size_t n = sizeof(GET) - 1 + 2;

        buf_reset(&all);
        buf_z(&all, GET);
        for (; n + 1024 <= 16384; n += 1024)
            buf_f(&all, "X: %01019d\r\n", 0);
        n = 16384 - n;
        buf_f(&all, "X: %0*d\r\n\r\n", (int)n - 5 + past, 0);
        expect_limit(buf_view(&all), past ? 431 : 0);
    }
    for (int past = 0; past <= 1; past++) { /* 100 fields, Host among them */
        buf_reset(&all);
        buf_z(&all, GET);
        for (int i = 0; i < 99 + past; i++)
            buf_z(&all, "X: y\r\n");
        buf_z(&all, "\r\n");
        expect_limit(buf_view(&all), past ? 431 : 0);
    }
    expect_limit(repeat(&b, POST CHUNKED "1;", 'e', 256, "\r\na\r\n0\r\n\r\n"), 0);
    expect_limit(repeat(&b, POST CHUNKED "1;", 'e', 257, "\r\na\r\n0\r\n\r\n"), 400);
    for (int past = 0; past <= 1; past++) { /* 4 KiB of extensions in all */
        buf_reset(&all);
        buf_z(&all, POST CHUNKED);
        for (int i = 0; i < 16; i++)
            buf_f(&all, "1;%0256d\r\na\r\n", 0);
        buf_z(&all, past ? "1;x\r\na\r\n0\r\n\r\n" : "0\r\n\r\n");
        expect_limit(buf_view(&all), past ? 400 : 0);
    }
    for (int past = 0; past <= 1; past++) { /* 16 trailer fields */
        buf_reset(&all);
        buf_z(&all, POST CHUNKED "0\r\n");
        for (int i = 0; i < 16 + past; i++)
            buf_z(&all, "T: v\r\n");
        buf_z(&all, "\r\n");
        expect_limit(buf_view(&all), past ? 400 : 0);
    }
    expect_limit(repeat(&b, POST CHUNKED "0\r\nT: ", 'v', 4096 - 7, "\r\n\r\n"), 0);
    expect_limit(repeat(&b, POST CHUNKED "0\r\nT: ", 'v', 4096 - 6, "\r\n\r\n"), 400);
    expect_limit(repeat(&b, POST "Content-Length: 1000\r\n\r\n", 'b', 1000, ""), 0);
    expect_limit(repeat(&b, POST CHUNKED "3e8\r\n", 'b', 1000, "\r\n0\r\n\r\n"), 0);
    buf_fini(&b);
    buf_fini(&all);
}

static void refused_memory_is_an_answer(void **state)
{
    static const char text[] = "POST /x HTTP/1.1\r\n" H "A: b\r\nContent-Length: 2\r\n\r\nhi";

    (void)state;
    for (uint64_t nth = 1; nth < 20; nth++) {
        struct outcome o;

        mem_fail_at(nth);
        o = run(HTTP1_REQUEST, false, STR(text), sizeof(text) - 1, 1, false);
        mem_fail_at(0);
        if (o.event == HTTP1_DONE)
            return;
        assert_int_equal(o.event, HTTP1_BAD);
        assert_int_equal(o.status, 503);
    }
    fail_msg("never got through");
}

static void a_second_message_starts_afresh(void **state)
{
    struct str in = STR(
                   "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
                   "GET /b HTTP/1.1\r\nHost: b\r\n\r\n"),
               piece;
    struct http1 p;

    (void)state;
    http1_init(&p, HTTP1_REQUEST, &limits);
    assert_int_equal(http1_next(&p, &in, &piece), HTTP1_HEAD);
    assert_int_equal(http1_next(&p, &in, &piece), HTTP1_BODY);
    assert_int_equal(http1_next(&p, &in, &piece), HTTP1_DONE);
    http1_reset(&p);
    assert_true(http1_idle(&p));
    assert_int_equal(http1_next(&p, &in, &piece), HTTP1_HEAD);
    assert_true(str_eqz(p.path, "/b"));
    assert_true(str_eqz(http_header_get(&p.headers, "hOST"), "b"));
    assert_null(http_header_get(&p.headers, "connection").p);
    assert_true(p.keep_alive);
    assert_false(p.has_length);
    assert_int_equal(http1_next(&p, &in, &piece), HTTP1_DONE);
    assert_int_equal(in.n, 0);
    http1_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_could_smuggle_is_refused_at_every_cut),
        cmocka_unit_test(good_requests_parse_at_every_cut),
        cmocka_unit_test(replies_parse_at_every_cut),
        cmocka_unit_test(every_limit_is_exact),
        cmocka_unit_test(refused_memory_is_an_answer),
        cmocka_unit_test(a_second_message_starts_afresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
