/* The HTTP/1.1 server.
 *
 *   IDLE --byte--> HEAD --> BODY --> BUSY (the handler has it) --answer--> IDLE
 *                    `--------`------------`--refused, last answer--> LINGER --> closed
 *
 * One exchange at a time on a connection: bytes of a pipelined next request wait in `in` (one read
 * at most, then reading pauses) until the answer is out.  Each further request starts from a task
 * of the loop, so that a full pipeline does not keep the others waiting.
 *
 * The request (struct http_req) owns parser, body and arena, and comes into being with the first
 * byte: an idle connection holds nothing.  When the client leaves before the handler asked to be
 * told, the request stays as an orphan until it is answered.
 *
 * Deadlines: connections wait in one list per state in the order of their deadlines; one timer per
 * server looks at the heads every TICK_MS.  The list `watch` holds the few that need a closer look:
 * bytes queued (does the client read?) and paused ones (did it leave unseen?).
 *
 * Closing: send, stop parsing, FIN, drop what still comes for a second or 64 KiB, close. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/http.h"
#include "net/http1.h"
#include "net/loop_priv.h"
#include <stdio.h>
#include <string.h>

#define TICK_MS   100
#define LINGER_MS 1000
/* Who still sends a body that was refused hears why only while somebody reads it. */
#define LINGER_BYTES     ((size_t)32 << 20)
#define SHED_AFTER_MS    1000
#define REQUESTS_MAX     10000 /* a connection: rebalancing, bounded state */
#define RATE_AFTER_MS    10000
#define RATE_BYTES_PER_S 1024
#define HEAD_OUT_MAX     ((size_t)256 << 10)

enum sconn_state { SCONN_IDLE, SCONN_HEAD, SCONN_BODY, SCONN_BUSY, SCONN_LINGER, SCONN_STATES };

struct sconn {
    struct ring ring;           /* in server->list[state] */
    struct ring watch;          /* in server->watch, or alone */
    struct http_server *server; /* NULL: the server is closed, the connection on its way */
    struct conn *conn;
    struct http_req *req;
    struct buf in; /* bytes of the next request */
    struct loop_task more;
    enum sconn_state state;
    bool paused, eof, closing, feeding;
    uint64_t address; /* hash of the peer's, for the count per address */
    uint32_t requests;
    uint64_t since;               /* when it entered its state */
    size_t dropped;               /* while lingering */
    uint64_t written, written_at; /* progress of the client's reading */
};

struct http_req {
    struct ring ring;           /* in server->reqs */
    struct http_server *server; /* NULL: closed */
    struct sconn *c;            /* NULL: the client is gone */
    struct http1 parser;
    struct buf body, head_out;
    struct arena arena;
    struct loop_task flush;
    size_t body_counted;
    uint64_t body_at; /* when the last of its bytes came */
    loop_fn *gone_fn, *drain_fn;
    void *gone_ctx, *drain_ctx;
    bool seen;       /* by a handler */
    bool dispatched; /* its body is complete and the handler has it */
    bool started, chunked, no_body, close_after, in_gone;
    char peer[64];
};

struct http_server {
    struct loop *loop;
    struct listener *listener; /* NULL: draining */
    struct http_server_opts opts;
    http_handler *fn;
    void *ctx;
    struct ring list[SCONN_STATES], watch, reqs;
    struct loop_timer *tick;
    struct map addresses; /* hash of an address -> its connections */
    size_t conns, active, bodies_bytes;
    uint64_t full_since;
    uint16_t port;
    bool draining, full, shedding;
};

static void feed(struct sconn *c, struct str in);

/* ---- states ---- */

static void enter(struct sconn *c, enum sconn_state state)
{
    c->state = state;
    c->since = loop_now_ms(c->server->loop);
    ring_del(&c->ring);
    ring_push(&c->server->list[state], &c->ring);
}

static void watch(struct sconn *c)
{
    if (!ring_empty(&c->watch))
        return;
    c->written = conn_written(c->conn);
    c->written_at = loop_now_ms(c->server->loop);
    ring_push(&c->server->watch, &c->watch);
}

static void hold(struct sconn *c)
{
    c->paused = true;
    conn_pause(c->conn);
    watch(c);
}

static void unhold(struct sconn *c)
{
    c->paused = false;
    conn_resume(c->conn);
}

/* ---- requests ---- */

static struct http_req *req_new(struct sconn *c)
{
    struct http_server *s = c->server;
    struct http_req *r = mem_zalloc(sizeof(*r));

    http1_init(&r->parser, HTTP1_REQUEST,
               &(struct http1_limits) { s->opts.head_bytes_max, s->opts.headers_max,
                                        s->opts.body_bytes_max });
    buf_init(&r->body, s->opts.body_bytes_max);
    buf_init(&r->head_out, HEAD_OUT_MAX);
    arena_init(&r->arena, 8 * s->opts.body_bytes_max + ((size_t)1 << 20));
    loop_task_init(&r->flush, NULL, NULL);
    r->server = s;
    r->c = c;
    snprintf(r->peer, sizeof(r->peer), "%s", conn_peer(c->conn));
    ring_push(&s->reqs, &r->ring);
    c->req = r;
    return r;
}

static void req_free(struct http_req *r)
{
    if (r->server != NULL) {
        r->server->bodies_bytes -= r->body_counted;
        r->server->active -= r->dispatched;
    }
    ring_del(&r->ring);
    loop_task_cancel(&r->flush);
    http1_fini(&r->parser);
    buf_fini(&r->body);
    buf_fini(&r->head_out);
    arena_fini(&r->arena);
    mem_free(r);
}

/* The client is gone: the handler is told, or finds out when it answers. */
static void req_orphan(struct sconn *c)
{
    struct http_req *r = c->req;

    if (r == NULL)
        return;
    c->req = NULL;
    r->c = NULL;
    loop_task_cancel(&r->flush);
    if (r->gone_fn != NULL) {
        r->in_gone = true;
        r->gone_fn(r->gone_ctx);
        req_free(r);
    } else if (!r->seen) {
        req_free(r);
    }
}

static void drop(struct sconn *c)
{
    c->closing = true;
    conn_close(c->conn);
    req_orphan(c);
}

static void linger(struct sconn *c)
{
    loop_task_cancel(&c->more);
    buf_fini(&c->in);
    enter(c, SCONN_LINGER);
    conn_shutdown(c->conn);
    if (conn_queued(c->conn) != 0)
        watch(c);
    if (c->paused)
        unhold(c);
}

/* ---- refusals ---- */

static const char *error_type(int status)
{
    return status == 501                    ? "NotImplementedError"
           : status == 503                  ? "ServiceUnavailableError"
           : status >= 500 && status != 505 ? "InternalServerError"
                                            : "BadRequestError";
}

static void refuse(struct sconn *c, int status, const char *reason, const char *text)
{
    struct http_server *s = c->server;
    char body[512], head[512];
    struct str piece[2];
    int n, m;

    if (s->opts.on_refuse != NULL)
        s->opts.on_refuse(s->ctx, status, reason);
    if (status == 0) {
        drop(c);
        return;
    }
    n = snprintf(body, sizeof(body),
                 "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%d,"
                 "\"reason\":\"%s\"}}",
                 text, error_type(status), status, reason);
    m = snprintf(head, sizeof(head),
                 "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                 "Connection: close\r\nx-should-retry: %s\r\n%s%s\r\n",
                 status, http1_status_text(status), n,
                 status == 408 || status == 503 ? "true" : "false",
                 status == 405 ? "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" : "",
                 status == 503 ? "Retry-After: 1\r\nretry-after-ms: 1000\r\n" : "");
    ASSERT(n > 0 && (size_t)n < sizeof(body) && m > 0 && (size_t)m < sizeof(head));
    piece[0] = (struct str) { head, (size_t)m };
    piece[1] = (struct str) { body, (size_t)n };
    if (c->req != NULL && str_eqz(c->req->parser.method, "HEAD"))
        piece[1].n = 0;
    req_orphan(c);
    if (c->server == NULL || c->closing)
        return;
    if (conn_writev(c->conn, piece, 2, true) == 0)
        linger(c);
}

/* ---- reading ---- */

static bool body_add(struct sconn *c, struct str piece)
{
    struct http_server *s = c->server;
    struct http_req *r = c->req;

    if (piece.n > s->opts.bodies_bytes_max - MIN(s->bodies_bytes, s->opts.bodies_bytes_max) ||
        !buf_str(&r->body, piece)) {
        refuse(c, 503, "overloaded", "Too many request bodies are being held.");
        return false;
    }
    r->body_counted += piece.n;
    r->body_at = loop_now_ms(s->loop);
    s->bodies_bytes += piece.n;
    return true;
}

static void dispatch(struct sconn *c)
{
    struct http_server *s = c->server;
    struct http_req *r = c->req;

    enter(c, SCONN_BUSY);
    r->seen = r->dispatched = true;
    s->active++;
    if (str_eqz(r->parser.path, "*")) {
        struct http_header allow = { STR("Allow"), STR("GET, HEAD, POST, OPTIONS") };

        http_reply(r, 204, NULL, STR_NONE, &(struct http_headers) { &allow, 1 });
    } else {
        s->fn(s->ctx, r);
    }
}

/* The head is there.  false: the connection has something else to do now. */
static bool head_done(struct sconn *c, bool body_follows)
{
    struct http_server *s = c->server;
    struct http_req *r = c->req;

    c->requests++;
    enter(c, SCONN_BODY);
    r->body_at = c->since;
    if (s->opts.on_head != NULL) {
        r->seen = true;
        s->opts.on_head(s->ctx, r);
        if (c->server == NULL || c->closing || c->req != r || c->state != SCONN_BODY)
            return false;
    }
    if (r->parser.expect_continue && !body_follows &&
        conn_write(c->conn, STR("HTTP/1.1 100 Continue\r\n\r\n")) != 0)
        return false;
    return true;
}

/* Bytes that must wait for the answer of the request before them. */
static void keep(struct sconn *c, struct str rest)
{
    if (rest.n == 0 || c->closing || c->server == NULL || c->state == SCONN_LINGER)
        return;
    if (!buf_str(&c->in, rest)) {
        drop(c);
        return;
    }
    if (!c->paused)
        hold(c);
    if (c->req == NULL) /* answered already */
        loop_task_run_soon(c->server->loop, &c->more);
}

static void feed(struct sconn *c, struct str in)
{
    struct str piece;

    c->feeding = true;
    while (!c->closing && c->server != NULL && c->state < SCONN_BUSY) {
        enum http1_event ev;

        if (c->req == NULL) {
            if (in.n == 0)
                break;
            (void)req_new(c);
            enter(c, SCONN_HEAD);
        }
        ev = http1_next(&c->req->parser, &in, &piece);
        if (ev == HTTP1_MORE)
            break;
        if (ev == HTTP1_BAD) {
            const struct http1 *p = &c->req->parser;

            refuse(c, p->bad_status, p->bad_reason, p->bad_text);
            break;
        }
        if (ev == HTTP1_HEAD && !head_done(c, in.n != 0))
            break;
        if (ev == HTTP1_BODY && !body_add(c, piece))
            break;
        if (ev == HTTP1_DONE) {
            dispatch(c);
            break;
        }
    }
    c->feeding = false;
    keep(c, in);
    if (!c->closing && c->server != NULL && c->state == SCONN_IDLE && c->in.len == 0 &&
        c->server->draining)
        drop(c);
}

static void feed_more(void *ctx)
{
    struct sconn *c = ctx;
    struct buf in = c->in;

    buf_init(&c->in, in.max);
    if (c->paused)
        unhold(c);
    feed(c, buf_view(&in));
    buf_fini(&in);
}

static void got_data(void *ctx, struct conn *conn, struct str bytes)
{
    struct sconn *c = ctx;

    (void)conn;
    if (c->server == NULL || c->closing)
        return;
    if (c->state == SCONN_LINGER) {
        c->dropped += bytes.n;
        if (c->dropped > LINGER_BYTES)
            drop(c);
    } else if (c->state == SCONN_BUSY || c->in.len != 0) {
        keep(c, bytes);
    } else {
        feed(c, bytes);
    }
}

/* FIN alone is taken as leaving: a client that wants the answer keeps its side open. */
static void got_eof(void *ctx, struct conn *conn)
{
    struct sconn *c = ctx;

    c->eof = true;
    if (c->server == NULL || conn_queued(conn) == 0 || c->state == SCONN_BUSY)
        drop(c);
    else if (c->state != SCONN_LINGER)
        linger(c); /* the answer before is still on its way out */
}

static void drained(void *ctx, struct conn *conn)
{
    struct sconn *c = ctx;
    struct http_req *r = c->req;

    (void)conn;
    if (r != NULL && r->drain_fn != NULL)
        r->drain_fn(r->drain_ctx);
}

/* The address without its port. */
static uint64_t address_of(const struct conn *conn)
{
    struct str peer = str_of(conn_peer(conn));

    while (peer.n != 0 && peer.p[peer.n - 1] != ':')
        peer.n--;
    return str_hash(peer);
}

/* Counts one more connection of an address; false when it has its share already. */
static bool address_get(struct http_server *s, uint64_t address)
{
    uint64_t count = 0;

    (void)map_get(&s->addresses, address, &count);
    return count < s->opts.conns_per_peer_max && map_put(&s->addresses, address, count + 1);
}

static void address_put(struct http_server *s, uint64_t address)
{
    uint64_t count = 0;

    (void)map_get(&s->addresses, address, &count);
    if (count > 1)
        (void)map_put(&s->addresses, address, count - 1);
    else
        (void)map_del(&s->addresses, address);
}

static void closed(void *ctx, struct conn *conn, int rc)
{
    struct sconn *c = ctx;
    struct http_server *s = c->server;
    uint64_t address = c->address;

    (void)conn;
    (void)rc;
    req_orphan(c);
    ring_del(&c->ring);
    ring_del(&c->watch);
    loop_task_cancel(&c->more);
    buf_fini(&c->in);
    mem_free(c);
    if (s == NULL)
        return;
    address_put(s, address);
    s->conns--;
    if (s->full && s->conns < s->opts.conns_max) {
        s->full = s->shedding = false;
        if (s->listener != NULL)
            listener_resume(s->listener);
    }
    if (s->conns == 0 && !s->full)
        loop_timer_disarm(s->tick);
}

static const struct conn_ops server_ops = {
    .on_data = got_data, .on_eof = got_eof, .on_drain = drained, .on_close = closed
};

static void accepted(void *ctx, struct conn *conn)
{
    struct http_server *s = ctx;
    uint64_t address = address_of(conn);
    struct sconn *c;

    if (s->conns >= s->opts.conns_max /* only while shedding */ || !address_get(s, address)) {
        conn_reset(conn);
        return;
    }
    c = mem_zalloc(sizeof(*c));
    c->server = s;
    c->address = address;
    c->conn = conn;
    ring_init(&c->ring);
    ring_init(&c->watch);
    loop_task_init(&c->more, feed_more, c);
    buf_init(&c->in, LOOP_READ_BYTES * 2);
    enter(c, SCONN_IDLE);
    if (s->conns++ == 0)
        loop_timer_arm(s->tick, TICK_MS, TICK_MS);
    conn_set_ctx(conn, &server_ops, c);
    if (s->conns >= s->opts.conns_max && !s->full) {
        s->full = true;
        s->full_since = loop_now_ms(s->loop);
        listener_pause(s->listener);
    }
}

/* ---- time ---- */

static struct sconn *oldest(struct http_server *s, enum sconn_state state, uint64_t now,
                            uint64_t ms)
{
    struct sconn *c;

    if (ring_empty(&s->list[state]))
        return NULL;
    c = CONTAINER_OF(s->list[state].next, struct sconn, ring);
    return now - c->since >= ms ? c : NULL;
}

static bool body_too_slow(const struct sconn *c, uint64_t now)
{
    uint64_t ms = now - c->since;

    return ms >= c->server->opts.body_ms || now - c->req->body_at >= c->server->opts.gap_ms ||
           (ms >= RATE_AFTER_MS && c->req->body.len < ms * RATE_BYTES_PER_S / 1000);
}

static void look_closer(struct http_server *s, uint64_t now)
{
    for (struct ring *n = s->watch.next, *next; n != &s->watch; n = next) {
        struct sconn *c = CONTAINER_OF(n, struct sconn, watch);
        size_t queued = conn_queued(c->conn);

        next = n->next;
        if (c->closing || (!c->paused && queued == 0)) {
            ring_del(&c->watch);
            if (!c->closing && s->draining && c->state == SCONN_IDLE)
                drop(c);
            continue;
        }
        if (queued == 0 || conn_written(c->conn) != c->written) {
            c->written = conn_written(c->conn);
            c->written_at = now;
        }
        if ((c->paused && conn_peer_left(c->conn)) || now - c->written_at >= s->opts.stall_ms)
            drop(c);
    }
}

static void ticked(void *ctx)
{
    struct http_server *s = ctx;
    uint64_t now = loop_now_ms(s->loop);
    struct sconn *c;

    while ((c = oldest(s, SCONN_IDLE, now, s->opts.idle_ms)) != NULL) {
        enter(c, SCONN_LINGER); /* out of this list, whatever happens next */
        drop(c);
    }
    while ((c = oldest(s, SCONN_HEAD, now, s->opts.head_ms)) != NULL) {
        enter(c, SCONN_LINGER);
        refuse(c, 408, "slow_client", "The request head took too long.");
    }
    for (struct ring *n = s->list[SCONN_BODY].next, *next; n != &s->list[SCONN_BODY]; n = next) {
        c = CONTAINER_OF(n, struct sconn, ring);
        next = n->next;
        if (c->closing || !body_too_slow(c, now))
            continue;
        enter(c, SCONN_LINGER);
        refuse(c, 408, "slow_client", "The request body took too long.");
    }
    while ((c = oldest(s, SCONN_LINGER, now, LINGER_MS)) != NULL) {
        enter(c, SCONN_LINGER);
        /* While bytes are queued the watch decides: it drops a client that does not read. */
        if (!c->closing && conn_queued(c->conn) == 0)
            drop(c);
    }
    look_closer(s, now);
    if (s->full && !s->shedding && s->listener != NULL && now - s->full_since >= SHED_AFTER_MS) {
        s->shedding = true;
        listener_resume(s->listener);
    }
}

/* ---- the server ---- */

int http_server_open(struct loop *l, const struct http_server_opts *o, http_handler *fn, void *ctx,
                     struct http_server **out, struct err *e)
{
    struct http_server *s = mem_zalloc(sizeof(*s));
    struct conn_opts co;
    int rc;

    *out = NULL;
    s->opts = *o;
#define DEFAULT(field, value)                                                                      \
    if (s->opts.field == 0)                                                                        \
    s->opts.field = (value)
    DEFAULT(head_bytes_max, (size_t)32 << 10);
    DEFAULT(headers_max, 100);
    DEFAULT(body_bytes_max, (size_t)16 << 20);
    DEFAULT(write_bytes_max, (size_t)1 << 20);
    DEFAULT(head_ms, 10000);
    DEFAULT(body_ms, 120000);
    DEFAULT(gap_ms, 30000);
    DEFAULT(idle_ms, 120000);
    DEFAULT(conns_max, 10000);
    DEFAULT(conns_per_peer_max, s->opts.conns_max);
    DEFAULT(bodies_bytes_max, (size_t)1 << 30);
    DEFAULT(stall_ms, 60000);
    DEFAULT(dead_ms, s->opts.stall_ms); /* a closed window counts too, and may last that long */
#undef DEFAULT
    s->loop = l;
    s->fn = fn;
    s->ctx = ctx;
    for (size_t i = 0; i < SCONN_STATES; i++)
        ring_init(&s->list[i]);
    ring_init(&s->watch);
    ring_init(&s->reqs);
    co = (struct conn_opts) { .write_max = s->opts.write_bytes_max,
                              .dead_ms = s->opts.dead_ms,
                              .shares_port = s->opts.shares_port,
                              .tls_server = s->opts.tls };
    rc = listener_open(l, o->host, o->port, &co, accepted, s, &s->listener, e);
    if (rc != 0) {
        mem_free(s);
        return rc;
    }
    s->port = listener_port(s->listener);
    s->tick = loop_timer_new(l, ticked, s);
    *out = s;
    return 0;
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

size_t http_server_active(const struct http_server *s)
{
    return s->active;
}

size_t http_server_unsent(const struct http_server *s)
{
    size_t bytes = 0;

    for (size_t i = 0; i < SCONN_STATES; i++)
        for (struct ring *n = s->list[i].next; n != &s->list[i]; n = n->next) {
            const struct sconn *c = CONTAINER_OF(n, struct sconn, ring);

            bytes += c->closing ? 0 : conn_queued(c->conn);
        }
    return bytes;
}

void http_server_drain(struct http_server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    listener_close(s->listener); /* new connections are refused: clients go elsewhere at once */
    s->listener = NULL;
    for (struct ring *n = s->list[SCONN_IDLE].next, *next; n != &s->list[SCONN_IDLE]; n = next) {
        struct sconn *c = CONTAINER_OF(n, struct sconn, ring);

        next = n->next;
        if (c->in.len == 0 && conn_queued(c->conn) == 0 && !c->feeding)
            drop(c);
    }
}

void http_server_close(struct http_server *s)
{
    if (s == NULL)
        return;
    listener_close(s->listener);
    for (size_t i = 0; i < SCONN_STATES; i++)
        while (!ring_empty(&s->list[i])) {
            struct sconn *c = CONTAINER_OF(s->list[i].next, struct sconn, ring);

            ring_del(&c->ring);
            ring_del(&c->watch);
            loop_task_cancel(&c->more);
            drop(c);
            c->server = NULL;
        }
    while (!ring_empty(&s->reqs)) { /* orphans: answered later into the void */
        struct http_req *r = CONTAINER_OF(s->reqs.next, struct http_req, ring);

        ring_del(&r->ring);
        r->server = NULL;
    }
    loop_timer_free(s->tick);
    map_fini(&s->addresses);
    mem_free(s);
}

/* ---- what a handler sees ---- */

struct str http_req_method(const struct http_req *r)
{
    return r->parser.method;
}

struct str http_req_path(const struct http_req *r)
{
    return r->parser.path;
}

struct str http_req_query(const struct http_req *r)
{
    return r->parser.query;
}

const struct http_headers *http_req_headers(const struct http_req *r)
{
    return &r->parser.headers;
}

struct str http_req_body(const struct http_req *r)
{
    return buf_view(&r->body);
}

struct arena *http_req_arena(struct http_req *r)
{
    return &r->arena;
}

const char *http_req_peer(const struct http_req *r)
{
    return r->peer;
}

void http_req_on_gone(struct http_req *r, loop_fn *fn, void *ctx)
{
    r->gone_fn = fn;
    r->gone_ctx = ctx;
}

void http_req_on_drain(struct http_req *r, loop_fn *fn, void *ctx)
{
    r->drain_fn = fn;
    r->drain_ctx = ctx;
}

bool http_reply_started(const struct http_req *r)
{
    return r->started;
}

/* ---- answers ---- */

static bool ours(struct str name)
{
    static const char *const names[] = { "content-length", "transfer-encoding",
                                         "connection",     "keep-alive",
                                         "server",         "upgrade",
                                         "trailer" };

    for (size_t i = 0; i < COUNT(names); i++)
        if (str_ieq(name, str_of(names[i])))
            return true;
    return false;
}

/* length < 0: streamed. */
static void head_write(struct http_req *r, int status, const char *type, int64_t length,
                       const struct http_headers *extra)
{
    const struct http_server *s = r->server;
    const struct http1 *p = &r->parser;
    struct buf *b = &r->head_out;
    bool bodyless = status == 204 || status == 304;

    r->started = true;
    r->no_body = bodyless || str_eqz(p->method, "HEAD");
    r->chunked = length < 0 && p->minor == 1 && !bodyless;
    r->close_after = !p->keep_alive || !r->dispatched || (s != NULL && s->draining) ||
                     (r->c != NULL && r->c->requests >= REQUESTS_MAX) ||
                     (length < 0 && !r->chunked && !r->no_body);
    for (size_t i = 0; extra != NULL && i < extra->count; i++)
        r->close_after |= str_ieq(extra->list[i].name, STR("connection")) &&
                          http1_list_has(extra->list[i].value, "close");
    buf_f(b, "HTTP/1.1 %d %s\r\n", status, http1_status_text(status));
    if (s != NULL && s->opts.server_name != NULL)
        buf_f(b, "Server: %s\r\n", s->opts.server_name);
    if (type != NULL)
        buf_f(b, "Content-Type: %s\r\n", type);
    if (r->chunked)
        buf_z(b, "Transfer-Encoding: chunked\r\n");
    else if (length >= 0 && !bodyless)
        buf_f(b, "Content-Length: %lld\r\n", (long long)length);
    if (r->close_after)
        buf_z(b, "Connection: close\r\n");
    else if (p->minor == 0)
        buf_z(b, "Connection: keep-alive\r\n");
    for (size_t i = 0; extra != NULL && i < extra->count; i++) {
        const struct http_header *h = &extra->list[i];

        if (ours(h->name))
            continue;
        if (!http1_name_ok(h->name) || !http1_value_ok(h->value)) {
            LOG_WARN("answer header left out, it holds a control character name_bytes=%zu",
                     h->name.n);
            continue;
        }
        buf_str(b, h->name);
        buf_z(b, ": ");
        buf_str(b, h->value);
        buf_z(b, "\r\n");
    }
    buf_z(b, "\r\n");
}

/* The answer is out (or queued): the connection is free for the next request. */
static void exchange_end(struct http_req *r)
{
    struct sconn *c = r->c;
    bool close_after = r->close_after;

    if (r->in_gone)
        return;
    req_free(r);
    if (c == NULL)
        return;
    c->req = NULL;
    if (c->closing || c->server == NULL)
        return;
    if (close_after) {
        linger(c);
        return;
    }
    enter(c, SCONN_IDLE);
    if (conn_queued(c->conn) != 0)
        watch(c);
    if (c->in.len != 0)
        loop_task_run_soon(c->server->loop, &c->more);
    else if (c->server->draining && !c->feeding)
        linger(c);
}

static int send_pieces(struct http_req *r, const struct str *piece, size_t count, bool force)
{
    struct sconn *c = r->c;
    int rc;

    if (c == NULL || c->closing)
        return ERR_CLOSED;
    rc = conn_writev(c->conn, piece, count, force);
    if (rc == 0 && conn_queued(c->conn) != 0)
        watch(c);
    return rc;
}

void http_reply(struct http_req *r, int status, const char *content_type, struct str body,
                const struct http_headers *extra)
{
    struct str piece[2];

    ASSERT(!r->started);
    head_write(r, status, content_type, (int64_t)body.n, extra);
    piece[0] = buf_view(&r->head_out);
    piece[1] = r->no_body ? STR_NONE : body;
    if (r->head_out.failed) {
        http_reply_abort(r);
        return;
    }
    (void)send_pieces(r, piece, 2, true); /* a failed write closes, and closed() has the rest */
    exchange_end(r);
}

static void flush_head(void *ctx)
{
    struct http_req *r = ctx;
    struct str head = buf_view(&r->head_out);

    (void)send_pieces(r, &head, 1, true);
    buf_fini(&r->head_out);
}

void http_reply_start(struct http_req *r, int status, const char *content_type,
                      const struct http_headers *extra)
{
    ASSERT(!r->started);
    head_write(r, status, content_type, -1, extra);
    loop_task_init(&r->flush, flush_head, r);
    if (r->c != NULL && !r->c->closing && !r->head_out.failed)
        loop_task_run_soon(r->server->loop, &r->flush);
}

int http_reply_chunk(struct http_req *r, struct str bytes)
{
    char size[24];
    struct str piece[4];
    int n, rc;

    ASSERT(r->started);
    if (r->c == NULL || r->c->closing || r->head_out.failed)
        return ERR_CLOSED;
    if (r->no_body || bytes.n == 0)
        return 0;
    n = snprintf(size, sizeof(size), "%zx\r\n", bytes.n);
    piece[0] = buf_view(&r->head_out);
    piece[1] = (struct str) { size, r->chunked ? (size_t)n : 0 };
    piece[2] = bytes;
    piece[3] = (struct str) { "\r\n", r->chunked ? 2 : 0 };
    rc = send_pieces(r, piece, COUNT(piece), false);
    if (rc == 0 && r->head_out.len != 0) {
        loop_task_cancel(&r->flush);
        buf_fini(&r->head_out);
    }
    return rc;
}

void http_reply_end(struct http_req *r)
{
    struct str piece[2];

    ASSERT(r->started);
    if (r->in_gone)
        return;
    if (r->head_out.failed) {
        http_reply_abort(r);
        return;
    }
    piece[0] = buf_view(&r->head_out);
    piece[1] = r->chunked && !r->no_body ? STR("0\r\n\r\n") : STR_NONE;
    (void)send_pieces(r, piece, 2, true);
    exchange_end(r);
}

void http_reply_abort(struct http_req *r)
{
    struct sconn *c = r->c;
    bool shows; /* does FIN tell the client that something is missing? */

    if (r->in_gone)
        return;
    shows = r->started && r->chunked && r->head_out.len == 0;
    req_free(r);
    if (c == NULL)
        return;
    c->req = NULL;
    if (c->closing || c->server == NULL)
        return;
    if (shows) {
        linger(c); /* what is queued still goes out, the last chunk does not */
    } else {
        c->closing = true;
        conn_reset(c->conn);
    }
}
