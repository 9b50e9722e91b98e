/* The HTTP/1.1 client: calls, and a pool of kept connections per host, port and TLS identity.
 *
 *   call --pool has one--> write at once ------------> head, body ..., end --> pool
 *     `----nothing there--> connect --> write --------^
 *
 * A kept connection may have been closed by the server in the very moment of its use.  When it
 * closes within STALE_MS without a byte of a reply, the call starts over on a fresh connection,
 * once, unseen by the caller; `sent` stays true.
 *
 * Each connection has one timer, armed lazily: activity only notes the time, and the timer, when it
 * fires, looks whether a deadline has truly passed and re-arms for the rest.
 *
 * A call ends exactly once: on_end, or cancelled.  The connection goes back to the pool before
 * on_end, so that the next call can already use it.  Connections die in conn_closed only. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/http.h"
#include "net/http1.h"
#include "net/loop_priv.h"
#include "net/tls_priv.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define STALE_MS 1000
#define IDLE_MS                                                                                    \
    60000 /* shorter than a sensible server's own: we do not send into a closing one               \
           */
#define IDLE_PER_HOST         256
#define IDLE_ALL              4096
#define SWEEP_MS              1000
#define HEAD_BYTES_MAX        ((size_t)64 << 10)
#define FIELDS_MAX            256
#define REQUEST_HEAD_MAX      ((size_t)256 << 10)
#define KEY_MAX               296
#define FIRST_BYTE_MS_DEFAULT 600000
#define GAP_MS_DEFAULT        120000
#define TOTAL_MS_DEFAULT      3600000

struct pool_host {
    struct ring idle; /* struct cconn, newest last */
    size_t count;
    char key[KEY_MAX]; /* see pool_key; also the map's key */
};

struct cconn {
    struct ring ring;           /* in client->conns */
    struct ring idle;           /* in pool_host->idle, or alone */
    struct ring age;            /* in client->idle_all, or alone */
    struct http_client *client; /* NULL: the client is freed */
    struct pool_host *host;     /* while idle */
    struct conn *conn;
    struct http_call *call; /* NULL: idle, or closing */
    struct http1 parser;
    struct loop_timer *timer;
    uint64_t idle_since;
    bool pooled; /* served a call before this one */
    bool closing;
    char key[KEY_MAX];
};

struct http_call {
    struct ring ring; /* in client->calls */
    struct http_client *client;
    struct cconn *cc;
    struct http_call_ops ops;
    void *ctx;
    char *host;
    uint16_t port;
    struct tls_client *tls;
    struct buf head;
    char *body; /* owned, or NULL: then the pieces are the caller's; kept for a second try */
    struct str piece[HTTP_PIECES_MAX];
    size_t piece_count;
    uint64_t body_bytes_max;
    uint32_t connect_ms, first_byte_ms, gap_ms, total_ms;
    uint64_t begun, written_at, active_at;
    bool head_only, sent, got, retried, paused, timed_out;
};

struct http_client {
    struct loop *loop;
    struct map hosts; /* text of pool_key -> struct pool_host */
    struct ring conns, calls, idle_all;
    size_t idle_count;
    struct loop_timer *sweep;
};

static const struct conn_ops client_conn_ops;

/* ---- the pool ---- */

/* Plain and encrypted connections, and those of two identities, never stand in for each other. */
static void pool_key(char *out, const char *host, uint16_t port, const struct tls_client *tls)
{
    if (tls == NULL)
        snprintf(out, KEY_MAX, "%s:%u", host, port);
    else
        snprintf(out, KEY_MAX, "%s:%u tls %" PRIu64, host, port, tls_client_id(tls));
}

static void cc_close(struct cconn *cc)
{
    if (cc->closing)
        return;
    cc->closing = true;
    loop_timer_free(cc->timer);
    cc->timer = NULL;
    conn_close(cc->conn);
}

/* Takes cc out of the pool. */
static void idle_remove(struct cconn *cc)
{
    struct http_client *cl = cc->client;
    struct pool_host *h = cc->host;

    if (h == NULL)
        return;
    ring_del(&cc->idle);
    ring_del(&cc->age);
    cc->host = NULL;
    if (--cl->idle_count == 0)
        loop_timer_disarm(cl->sweep);
    if (--h->count == 0) {
        map_dels(&cl->hosts, str_of(h->key));
        mem_free(h);
    }
}

static void idle_add(struct cconn *cc)
{
    struct http_client *cl = cc->client;
    struct pool_host *h;
    uint64_t v;

    if (cl->idle_count >= IDLE_ALL) {
        cc_close(cc);
        return;
    }
    if (map_gets(&cl->hosts, str_of(cc->key), &v)) {
        h = (struct pool_host *)(uintptr_t)v;
        if (h->count >= IDLE_PER_HOST) {
            cc_close(cc);
            return;
        }
    } else {
        h = mem_zalloc(sizeof(*h));
        ring_init(&h->idle);
        memcpy(h->key, cc->key, sizeof(h->key));
        if (!map_puts(&cl->hosts, str_of(h->key), (uintptr_t)h)) {
            mem_free(h);
            cc_close(cc);
            return;
        }
    }
    h->count++;
    cc->host = h;
    cc->idle_since = loop_now_ms(cl->loop);
    ring_push(&h->idle, &cc->idle);
    ring_push(&cl->idle_all, &cc->age);
    if (cl->idle_count++ == 0)
        loop_timer_arm(cl->sweep, SWEEP_MS, SWEEP_MS);
    if (cc->timer != NULL)
        loop_timer_disarm(cc->timer);
    conn_resume(cc->conn); /* to see it close */
}

static struct cconn *idle_take(struct http_client *cl, const char *key)
{
    struct pool_host *h;
    struct cconn *cc;
    uint64_t v;

    if (!map_gets(&cl->hosts, str_of(key), &v))
        return NULL;
    h = (struct pool_host *)(uintptr_t)v;
    cc = CONTAINER_OF(h->idle.prev, struct cconn, idle);
    idle_remove(cc);
    return cc;
}

static void sweep(void *ctx)
{
    struct http_client *cl = ctx;
    uint64_t now = loop_now_ms(cl->loop);

    while (!ring_empty(&cl->idle_all)) {
        struct cconn *cc = CONTAINER_OF(cl->idle_all.next, struct cconn, age);

        if (now - cc->idle_since < IDLE_MS)
            break;
        idle_remove(cc);
        cc_close(cc);
    }
}

/* ---- calls ---- */

static void call_free(struct http_call *call)
{
    ring_del(&call->ring);
    mem_free(call->host);
    mem_free(call->body);
    buf_fini(&call->head);
    mem_free(call);
}

/* Parts call and connection; the connection is kept when it can be. */
static void detach(struct http_call *call, bool keep)
{
    struct cconn *cc = call->cc;

    call->cc = NULL;
    if (cc == NULL)
        return;
    cc->call = NULL;
    if (keep && !cc->closing && conn_queued(cc->conn) == 0) {
        http1_reset(&cc->parser);
        idle_add(cc);
    } else {
        cc_close(cc); /* the parser stays: a callback that cancels may still hold its headers */
    }
}

static void call_end(struct http_call *call, int rc, bool keep)
{
    struct http_call_ops ops = call->ops;
    void *ctx = call->ctx;
    bool sent = call->sent, got = call->got;

    detach(call, keep);
    call_free(call);
    if (ops.on_end != NULL)
        ops.on_end(ctx, rc, sent, got);
}

static void call_write(struct cconn *cc)
{
    struct http_call *call = cc->call;
    struct str piece[1 + HTTP_PIECES_MAX] = { buf_view(&call->head) };

    memcpy(&piece[1], call->piece, call->piece_count * sizeof(*piece));
    call->written_at = call->active_at = loop_now_ms(cc->client->loop);
    call->sent = true;
    if (conn_writev(cc->conn, piece, 1 + call->piece_count, true) != 0)
        conn_close(cc->conn); /* and conn_closed ends the call */
}

static uint64_t call_deadline(const struct http_call *call)
{
    uint64_t at = call->begun + call->total_ms, other;

    if (call->paused || !call->sent)
        return at;
    other = call->got ? call->active_at + call->gap_ms : call->written_at + call->first_byte_ms;
    return MIN(at, other);
}

static void call_arm(struct cconn *cc)
{
    uint64_t now = loop_now_ms(cc->client->loop), at = call_deadline(cc->call);

    loop_timer_arm(cc->timer, at > now ? at - now : 0, 0);
}

static void call_timer(void *ctx)
{
    struct cconn *cc = ctx;

    if (cc->call == NULL)
        return;
    if (loop_now_ms(cc->client->loop) < call_deadline(cc->call))
        call_arm(cc);
    else
        call_end(cc->call, ERR_TIMEOUT, false);
}

static void attach(struct http_call *call, struct cconn *cc)
{
    call->cc = cc;
    cc->call = call;
    cc->parser.head_only = call->head_only;
    cc->parser.limits.body_bytes = call->body_bytes_max;
    if (cc->timer == NULL)
        cc->timer = loop_timer_new(cc->client->loop, call_timer, cc);
    if (call->paused)
        conn_pause(cc->conn);
}

static int call_connect(struct http_call *call, struct err *e)
{
    struct http_client *cl = call->client;
    struct conn_opts o = { .connect_ms = call->connect_ms, .tls_client = call->tls };
    struct cconn *cc = mem_zalloc(sizeof(*cc));
    int rc;

    cc->client = cl;
    ring_init(&cc->idle);
    ring_init(&cc->age);
    pool_key(cc->key, call->host, call->port, call->tls);
    http1_init(&cc->parser, HTTP1_REPLY,
               &(struct http1_limits) { HEAD_BYTES_MAX, FIELDS_MAX, UINT64_MAX });
    rc = conn_open(cl->loop, call->host, call->port, &o, &client_conn_ops, cc, &cc->conn, e);
    if (rc != 0) {
        mem_free(cc);
        return rc;
    }
    ring_push(&cl->conns, &cc->ring);
    attach(call, cc);
    call_arm(cc);
    return 0;
}

/* ---- replies ---- */

static int reply_rc(const struct http1 *p)
{
    return p->bad_rc == ERR_UNSUPPORTED ? ERR_PARSE : p->bad_rc;
}

/* The reply is complete.  true: an interim one, the real one follows. */
static bool reply_done(struct cconn *cc, bool more_bytes)
{
    struct http1 *p = &cc->parser;
    struct http_call *call = cc->call;

    if (p->status < 200 && p->status != 101) {
        http1_reset(p);
        p->head_only = call->head_only;
        return true;
    }
    /* Bytes after a reply answer nothing we asked: such a connection is not kept. */
    if (p->status == 101)
        call_end(call, ERR_PARSE, false);
    else
        call_end(call, 0, p->keep_alive && !more_bytes);
    return false;
}

static void conn_data(void *ctx, struct conn *conn, struct str in)
{
    struct cconn *cc = ctx;
    struct http_call *call = cc->call;
    struct str piece;

    (void)conn;
    if (cc->closing)
        return;
    if (call == NULL) { /* idle connections have nothing to say */
        idle_remove(cc);
        cc_close(cc);
        return;
    }
    call->active_at = loop_now_ms(cc->client->loop);
    if (!call->got) { /* from now on the shorter deadline between bytes holds */
        call->got = true;
        call_arm(cc);
    }
    while (cc->call == call) { /* a callback may cancel */
        switch (http1_next(&cc->parser, &in, &piece)) {
        case HTTP1_HEAD:
            if (cc->parser.status >= 200 && call->ops.on_head != NULL)
                call->ops.on_head(call->ctx, cc->parser.status, &cc->parser.headers);
            break;
        case HTTP1_BODY:
            if (call->ops.on_body != NULL)
                call->ops.on_body(call->ctx, piece);
            break;
        case HTTP1_DONE:
            if (!reply_done(cc, in.n != 0))
                return;
            break;
        case HTTP1_BAD: call_end(call, reply_rc(&cc->parser), false); return;
        default: return;
        }
    }
}

static void conn_opened(void *ctx, struct conn *conn)
{
    struct cconn *cc = ctx;

    (void)conn;
    if (cc->closing || cc->call == NULL)
        return;
    call_write(cc);
    call_arm(cc);
}

static void conn_fin(void *ctx, struct conn *conn)
{
    struct cconn *cc = ctx;

    (void)conn;
    if (cc->call != NULL && http1_eof(&cc->parser) == HTTP1_DONE)
        (void)reply_done(cc, true);
    else
        conn_close(cc->conn); /* conn_closed decides what this means for the call */
}

/* A kept connection closed on us before it answered: that says nothing about the server. */
static bool is_stale(const struct cconn *cc, const struct http_call *call, uint64_t now)
{
    return cc->pooled && !call->got && !call->retried && now - call->written_at <= STALE_MS;
}

static void conn_closed(void *ctx, struct conn *conn, int rc)
{
    struct cconn *cc = ctx;
    struct http_call *call = cc->call;
    struct http_client *cl = cc->client;

    (void)conn;
    idle_remove(cc);
    ring_del(&cc->ring);
    loop_timer_free(cc->timer);
    if (call != NULL) {
        bool stale = is_stale(cc, call, loop_now_ms(cl->loop));

        call->cc = NULL;
        if (rc == 0 || rc == ERR_CANCELLED)
            rc = ERR_CLOSED;
        if (stale) {
            call->retried = true;
            stale = call_connect(call, NULL) == 0;
        }
        if (!stale)
            call_end(call, rc, false);
    }
    http1_fini(&cc->parser);
    mem_free(cc);
}

static const struct conn_ops client_conn_ops = {
    .on_open = conn_opened, .on_data = conn_data, .on_eof = conn_fin, .on_close = conn_closed
};

/* ---- the interface ---- */

struct http_client *http_client_new(struct loop *l)
{
    struct http_client *cl = mem_zalloc(sizeof(*cl));

    cl->loop = l;
    ring_init(&cl->conns);
    ring_init(&cl->calls);
    ring_init(&cl->idle_all);
    cl->sweep = loop_timer_new(l, sweep, cl);
    return cl;
}

void http_client_free(struct http_client *cl)
{
    if (cl == NULL)
        return;
    while (!ring_empty(&cl->calls))
        http_call_cancel(CONTAINER_OF(cl->calls.next, struct http_call, ring));
    while (!ring_empty(&cl->conns)) {
        struct cconn *cc = CONTAINER_OF(cl->conns.next, struct cconn, ring);

        idle_remove(cc);
        ring_del(&cc->ring);
        cc_close(cc);
        cc->client = NULL;
    }
    loop_timer_free(cl->sweep);
    map_fini(&cl->hosts);
    mem_free(cl);
}

static bool is_ours(struct str name)
{
    static const char *const names[] = {
        "host", "content-length", "connection", "keep-alive",      "transfer-encoding", "expect",
        "te",   "upgrade",        "trailer",    "proxy-connection"
    };

    for (size_t i = 0; i < COUNT(names); i++)
        if (str_ieq(name, str_of(names[i])))
            return true;
    return false;
}

static bool target_ok(struct str path)
{
    for (size_t i = 0; i < path.n; i++)
        if ((unsigned char)path.p[i] <= ' ' || (unsigned char)path.p[i] >= 127)
            return false;
    return path.n != 0;
}

static int head_build(struct http_call *call, const struct http_call_opts *o, struct err *e)
{
    struct buf *b = &call->head;
    bool v6 = strchr(o->host, ':') != NULL;
    size_t body_bytes = o->piece_count == 0 ? o->body.n : 0;

    for (size_t i = 0; i < o->piece_count; i++)
        body_bytes += o->pieces[i].n;
    if (!http1_name_ok(o->method) || !target_ok(o->path))
        return err_set(e, ERR_INVAL, "http: bad method or path");
    buf_str(b, o->method);
    buf_c(b, ' ');
    buf_str(b, o->path);
    buf_f(b, " HTTP/1.1\r\nHost: %s%s%s:%u\r\n", v6 ? "[" : "", o->host, v6 ? "]" : "", o->port);
    for (size_t i = 0; i < o->headers.count; i++) {
        const struct http_header *h = &o->headers.list[i];

        if (!http1_name_ok(h->name) || !http1_value_ok(h->value))
            return err_set(e, ERR_INVAL, "http: bad header");
        if (is_ours(h->name))
            continue;
        buf_str(b, h->name);
        buf_z(b, ": ");
        buf_str(b, h->value);
        buf_z(b, "\r\n");
    }
    if (body_bytes != 0 || str_eqz(o->method, "POST") || str_eqz(o->method, "PUT") ||
        str_eqz(o->method, "PATCH"))
        buf_f(b, "Content-Length: %zu\r\n", body_bytes);
    buf_z(b, "\r\n");
    return b->failed ? err_set(e, ERR_LIMIT, "http: request head is too large") : 0;
}

static int take_body(struct http_call *call, const struct http_call_opts *o, struct err *e)
{
    ASSERT(o->piece_count <= HTTP_PIECES_MAX);
    if (o->piece_count != 0) {
        memcpy(call->piece, o->pieces, o->piece_count * sizeof(*o->pieces));
        call->piece_count = o->piece_count;
    } else if (o->body.n != 0) {
        call->body = mem_try(o->body.n);
        if (call->body == NULL)
            return err_set(e, ERR_NOMEM, "http: no memory for the body");
        memcpy(call->body, o->body.p, o->body.n);
        call->piece[call->piece_count++] = (struct str) { call->body, o->body.n };
    }
    return 0;
}

int http_call_start(struct http_client *cl, const struct http_call_opts *o,
                    const struct http_call_ops *ops, void *ctx, struct http_call **out,
                    struct err *e)
{
    char key[KEY_MAX];
    struct http_call *call;
    struct cconn *cc;
    int rc;

    *out = NULL;
    if (o->host == NULL || o->host[0] == 0 || strlen(o->host) > 255 || o->port == 0)
        return err_set(e, ERR_INVAL, "http: bad host or port");
    call = mem_zalloc(sizeof(*call));
    ring_push(&cl->calls, &call->ring);
    call->client = cl;
    call->ops = *ops;
    call->ctx = ctx;
    call->host = mem_strdup(o->host);
    call->port = o->port;
    call->tls = o->tls;
    call->connect_ms = o->connect_ms;
    call->first_byte_ms = o->first_byte_ms != 0 ? o->first_byte_ms : FIRST_BYTE_MS_DEFAULT;
    call->gap_ms = o->gap_ms != 0 ? o->gap_ms : GAP_MS_DEFAULT;
    call->total_ms = o->total_ms != 0 ? o->total_ms : TOTAL_MS_DEFAULT;
    call->body_bytes_max = o->body_bytes_max != 0 ? o->body_bytes_max : UINT64_MAX;
    call->head_only = str_eqz(o->method, "HEAD");
    call->begun = loop_now_ms(cl->loop);
    buf_init(&call->head, REQUEST_HEAD_MAX);
    rc = head_build(call, o, e);
    if (rc != 0)
        goto fail;
    rc = take_body(call, o, e);
    if (rc != 0)
        goto fail;
    pool_key(key, o->host, o->port, o->tls);
    cc = idle_take(cl, key);
    if (cc != NULL) {
        cc->pooled = true;
        attach(call, cc);
        call_write(cc);
        call_arm(cc);
    } else {
        rc = call_connect(call, e);
        if (rc != 0)
            goto fail;
    }
    *out = call;
    return 0;
fail:
    call_free(call);
    return rc;
}

void http_call_cancel(struct http_call *call)
{
    detach(call, false);
    call_free(call);
}

void http_call_pause(struct http_call *call)
{
    call->paused = true;
    if (call->cc != NULL)
        conn_pause(call->cc->conn);
}

void http_call_resume(struct http_call *call)
{
    call->paused = false;
    call->active_at = loop_now_ms(call->client->loop);
    if (call->cc == NULL)
        return;
    conn_resume(call->cc->conn);
    call_arm(call->cc);
}

/* ---- blocking ---- */

struct fetch {
    struct loop *loop;
    struct buf *body;
    void (*on_bytes)(void *ctx, struct str bytes);
    void *ctx;
    int status, rc;
};

static void fetch_head(void *ctx, int status, const struct http_headers *h)
{
    struct fetch *f = ctx;

    (void)h;
    f->status = status;
}

static void fetch_body(void *ctx, struct str bytes)
{
    struct fetch *f = ctx;

    if (f->on_bytes != NULL)
        f->on_bytes(f->ctx, bytes);
    else if (f->body != NULL)
        (void)buf_str(f->body, bytes); /* a full buffer stays marked: looked at in the end */
}

static void fetch_end(void *ctx, int rc, bool sent, bool got)
{
    struct fetch *f = ctx;

    (void)sent;
    (void)got;
    f->rc = rc;
    loop_stop(f->loop);
}

int http_fetch(const struct http_call_opts *o, int *status, struct buf *body,
               void (*on_bytes)(void *ctx, struct str bytes), void *ctx, struct err *e)
{
    static const struct http_call_ops ops = { fetch_head, fetch_body, fetch_end };
    struct fetch f = { .body = body, .on_bytes = on_bytes, .ctx = ctx };
    struct http_call_opts mine = *o;
    struct http_client *cl = NULL;
    struct http_call *call;
    int rc = loop_new(&f.loop, e);

    *status = 0;
    if (rc != 0)
        return rc;
    if (body != NULL && on_bytes == NULL && mine.body_bytes_max == 0)
        mine.body_bytes_max = body->max - body->len;
    cl = http_client_new(f.loop);
    rc = http_call_start(cl, &mine, &ops, &f, &call, e);
    if (rc == 0) {
        loop_run(f.loop);
        rc = f.rc;
        *status = f.status;
        if (rc == 0 && body != NULL && body->failed)
            rc = ERR_LIMIT;
        if (rc != 0)
            err_set(e, rc, "%.*s http%s://%s:%u%.*s: %s", STR_ARG(o->method),
                    o->tls != NULL ? "s" : "", o->host, o->port, STR_ARG(o->path), err_name(rc));
    }
    http_client_free(cl);
    loop_free(f.loop);
    return rc;
}
