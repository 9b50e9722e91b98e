/* A bare HTTP/2 server for conformance runs: http2_peer PORT answers every whole request with 200
 * and a few bytes.  `h2spec -h 127.0.0.1 -p PORT` tries the session of net/http2.c against RFC
 * 9113. */
// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/mem.h"
#include "net/conn.h"
#include "net/http2.h"
#include <stdio.h>

struct peer {
    struct conn *conn;
    struct http2_session *h2;
};

static void answer(struct http2_stream *s)
{
    static const struct http2_field head[] = { { { ":status", 7 }, { "200", 3 } } };
    struct str body = STR("hello, conformance");

    if (http2_respond(s, head, 1, false) == 0 && http2_send(s, &body, 1) == 0)
        http2_finish(s, NULL, 0);
}

static void on_head(void *ctx, struct http2_stream *s, const struct http2_head *head, bool end)
{
    (void)ctx;
    (void)head;
    if (end)
        answer(s);
}

static void on_data(void *ctx, struct http2_stream *s, struct str bytes)
{
    (void)ctx;
    http2_consume(s, bytes.n);
}

static void on_end(void *ctx, struct http2_stream *s)
{
    (void)ctx;
    answer(s);
}

static void on_room(void *ctx, struct http2_stream *s)
{
    (void)ctx;
    (void)s;
}

static void on_close(void *ctx, struct http2_stream *s, uint32_t code)
{
    (void)ctx;
    (void)s;
    (void)code;
}

static void pump(struct peer *p)
{
    for (struct str out; (out = http2_pull(p->h2)).n != 0;)
        if (conn_write(p->conn, out) != 0)
            return;
    if (http2_done(p->h2))
        conn_shutdown(p->conn);
}

static void data(void *ctx, struct conn *c, struct str bytes)
{
    struct peer *p = ctx;

    (void)c;
    if (http2_feed(p->h2, bytes) != 0) {
        pump(p);
        conn_shutdown(p->conn);
        return;
    }
    pump(p);
}

static void closed(void *ctx, struct conn *c, int rc)
{
    struct peer *p = ctx;

    (void)c;
    (void)rc;
    http2_free(p->h2);
    mem_free(p);
}

static void accepted(void *ctx, struct conn *c)
{
    static const struct http2_ops h2_ops = { on_head, on_data, on_end, on_room, on_close };
    static const struct conn_ops ops = { .on_data = data, .on_close = closed };
    struct peer *p = mem_zalloc(sizeof(*p));

    (void)ctx;
    p->conn = c;
    if (http2_new(&p->h2, &(struct http2_opts) { 0 }, &h2_ops, p) != 0) {
        mem_free(p);
        conn_close(c);
        return;
    }
    conn_set_ctx(c, &ops, p);
    pump(p);
}

int main(int argc, char **argv)
{
    struct listener *listener;
    struct loop *loop;
    uint64_t port;
    struct err e;

    if (argc != 2 || !str_u64(str_of(argv[1]), &port) || port > 65535 || loop_new(&loop, &e) != 0)
        return 2;
    if (listener_open(loop, NULL, (uint16_t)port, NULL, accepted, NULL, &listener, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    printf("port %u\n", listener_port(listener));
    fflush(stdout);
    loop_run(loop);
    return 0;
}
