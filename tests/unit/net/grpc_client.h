/* A gRPC client for tests: nghttp2's client side over a bare connection of the test's loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GRPC_CLIENT_H
#define GRPC_CLIENT_H
#include "net_test.h"
#include "base/mem.h"
#include <nghttp2/nghttp2.h>

#define CALLS_MAX 64

struct call {
    int32_t id;
    struct buf head; /* "name: value\n", trailers too */
    struct buf in;   /* DATA */
    struct buf out;
    bool end, ended, deferred, closed;
    uint32_t code;
};

struct client {
    struct raw raw;
    nghttp2_session *ng;
    struct call call[CALLS_MAX];
    size_t calls;
    bool hold; /* do not give windows back */
    bool goaway;
    uint32_t goaway_code;
};

static inline struct call *client_call_of(struct client *c, int32_t id)
{
    for (size_t i = 0; i < c->calls; i++)
        if (c->call[i].id == id)
            return &c->call[i];
    return NULL;
}

static inline ssize_t client_read(nghttp2_session *ng, int32_t id, uint8_t *p, size_t room,
                                  uint32_t *flags, nghttp2_data_source *source, void *ctx)
{
    struct call *k = source->ptr;
    size_t n = MIN(room, k->out.len);

    (void)ng;
    (void)id;
    (void)ctx;
    if (n == 0 && !k->end) {
        k->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n != 0)
        memcpy(p, k->out.p, n);
    buf_drop(&k->out, n);
    if (k->out.len == 0 && k->end)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static inline int client_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name,
                                size_t name_n, const uint8_t *value, size_t value_n, uint8_t flags,
                                void *ctx)
{
    struct call *k = client_call_of(ctx, f->hd.stream_id);

    (void)ng;
    (void)flags;
    if (k != NULL)
        buf_f(&k->head, "%.*s: %.*s\n", (int)name_n, (const char *)name, (int)value_n,
              (const char *)value);
    return 0;
}

static inline int client_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p,
                              size_t n, void *ctx)
{
    struct client *c = ctx;
    struct call *k = client_call_of(c, id);

    (void)flags;
    if (k != NULL)
        assert_true(buf_add(&k->in, p, n));
    if (!c->hold)
        nghttp2_session_consume(ng, id, n);
    return 0;
}

static inline int client_frame(nghttp2_session *ng, const nghttp2_frame *f, void *ctx)
{
    struct client *c = ctx;
    struct call *k = client_call_of(c, f->hd.stream_id);

    (void)ng;
    if (k != NULL && (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        k->ended = true;
    if (f->hd.type == NGHTTP2_GOAWAY) {
        c->goaway = true;
        c->goaway_code = f->goaway.error_code;
    }
    return 0;
}

static inline int client_close(nghttp2_session *ng, int32_t id, uint32_t code, void *ctx)
{
    struct call *k = client_call_of(ctx, id);

    (void)ng;
    if (k != NULL) {
        k->closed = true;
        k->code = code;
    }
    return 0;
}

static inline void client_flush(struct client *c)
{
    const uint8_t *p;
    ssize_t n;

    while (!c->raw.closed && (n = nghttp2_session_mem_send(c->ng, &p)) > 0)
        if (conn_write(c->raw.c, (struct str) { (const char *)p, (size_t)n }) != 0)
            return;
}

static inline void client_bytes(void *ctx, struct conn *conn, struct str bytes)
{
    struct client *c = ctx;

    (void)conn;
    assert_int_equal(nghttp2_session_mem_recv(c->ng, (const uint8_t *)bytes.p, bytes.n), bytes.n);
    client_flush(c);
}

static inline void client_eof(void *ctx, struct conn *conn)
{
    ((struct client *)ctx)->raw.eof = true;
    conn_close(conn);
}

static inline void client_gone(void *ctx, struct conn *conn, int rc)
{
    struct client *c = ctx;

    (void)conn;
    (void)rc;
    c->raw.closed = true;
}

static const struct conn_ops client_ops = { .on_data = client_bytes,
                                            .on_eof = client_eof,
                                            .on_close = client_gone };

static inline void client_open(struct client *c, uint16_t port)
{
    nghttp2_session_callbacks *cb;
    nghttp2_option *opt;

    *c = (struct client) { 0 };
    raw_start(&c->raw, port);
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_on_header_callback(cb, client_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, client_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, client_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, client_close);
    nghttp2_option_new(&opt);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    assert_int_equal(nghttp2_session_client_new2(&c->ng, cb, c, opt), 0);
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(opt);
    nghttp2_submit_settings(c->ng, NGHTTP2_FLAG_NONE, NULL, 0);
    conn_set_ctx(c->raw.c, &client_ops, c);
    if (c->raw.in.len != 0) /* the server's SETTINGS may be here already */
        client_bytes(c, c->raw.c, buf_view(&c->raw.in));
    client_flush(c);
}

static inline void client_end(struct client *c)
{
    if (!c->raw.closed)
        conn_close(c->raw.c);
    WAIT(c->raw.closed);
    buf_fini(&c->raw.in);
    nghttp2_session_del(c->ng);
    for (size_t i = 0; i < c->calls; i++) {
        buf_fini(&c->call[i].head);
        buf_fini(&c->call[i].in);
        buf_fini(&c->call[i].out);
    }
}

#define CLIENT_NV(n, v)                                                                            \
    {                                                                                              \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n), strlen(v),                \
            NGHTTP2_NV_FLAG_NONE                                                                   \
    }

/* A call with one header more, or none. */
static inline struct call *client_start_with(struct client *c, const char *method, const char *path,
                                             const char *type, const char *name, const char *value)
{
    nghttp2_nv nv[] = { CLIENT_NV(":method", method), CLIENT_NV(":scheme", "http"),
                        CLIENT_NV(":path", path),     CLIENT_NV(":authority", "test"),
                        CLIENT_NV("te", "trailers"),  CLIENT_NV("content-type", type),
                        CLIENT_NV(name, value) };
    struct call *k = &c->call[c->calls];
    nghttp2_data_provider data = { .source = { .ptr = k }, .read_callback = client_read };

    assert_true(c->calls < CALLS_MAX);
    *k = (struct call) { 0 };
    buf_init(&k->head, 1 << 16);
    buf_init(&k->in, (size_t)64 << 20);
    buf_init(&k->out, (size_t)64 << 20);
    k->id = nghttp2_submit_request(c->ng, NULL, nv, COUNT(nv), &data, NULL);
    assert_true(k->id > 0);
    c->calls++;
    client_flush(c);
    return k;
}

static inline struct call *client_start(struct client *c, const char *path)
{
    return client_start_with(c, "POST", path, "application/grpc", "x-test", "1");
}

/* Bytes as they are. */
static inline void client_raw(struct client *c, struct call *k, struct str bytes, bool end)
{
    assert_true(buf_str(&k->out, bytes));
    k->end = end;
    if (k->deferred) {
        k->deferred = false;
        nghttp2_session_resume_data(c->ng, k->id);
    }
    client_flush(c);
}

static inline void client_send(struct client *c, struct call *k, struct str message, bool end)
{
    struct buf b;

    buf_init(&b, (size_t)64 << 20);
    buf_c(&b, 0);
    for (int shift = 24; shift >= 0; shift -= 8)
        buf_c(&b, (char)(message.n >> shift));
    buf_str(&b, message);
    client_raw(c, k, buf_view(&b), end);
    buf_fini(&b);
}

static inline void client_reset(struct client *c, struct call *k)
{
    nghttp2_submit_rst_stream(c->ng, NGHTTP2_FLAG_NONE, k->id, NGHTTP2_CANCEL);
    client_flush(c);
}

static inline bool call_says(const struct call *k, const char *text)
{
    return str_find(buf_view(&k->head), str_of(text)) != SIZE_MAX;
}

/* The next whole message of the answer, taken off. */
static inline bool call_next(struct call *k, struct buf *out)
{
    const unsigned char *p = (const unsigned char *)k->in.p;
    size_t n;

    if (k->in.len < 5)
        return false;
    assert_int_equal(p[0], 0);
    n = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (k->in.len - 5 < n)
        return false;
    buf_reset(out);
    assert_true(buf_add(out, k->in.p + 5, n));
    buf_drop(&k->in, 5 + n);
    return true;
}
#endif
