/* gRPC over HTTP/2 (the protocol page "gRPC over HTTP2"): five bytes before each message, the
 * status in trailers.
 *
 *   conn --bytes--> http2 session --DATA--> stream.in --messages--> method
 *   conn <--64 KiB pieces-- http2 <--queue-- grpc_send
 *
 * A message that arrives whole in one DATA frame is delivered from there; only pieces are copied
 * to stream.in.  While more than half of a stream's queue to the peer is unread the stream is held:
 * bytes stay in stream.in, their window stays shut, and on_room lets go.  So a peer that does not
 * read can fill one window and one queue.
 *
 * Writing: answers given inside a read leave together after it; others by a task of the loop, once
 * for all of its streams.
 *
 * Closing: the session is freed at once, which ends its streams; the connection dies in
 * conn_closed, from the loop. */
// SPDX-License-Identifier: Apache-2.0
#include "net/grpc.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/conn.h"
#include "net/http2.h"
#include "net/loop_priv.h"
#include <string.h>

#define MESSAGE_DEFAULT     ((size_t)4 << 20)
#define BUFFER_DEFAULT      ((size_t)256 << 20)
#define STREAMS_DEFAULT     4096
#define CONNECTIONS_DEFAULT 1024
#define QUEUE_MAX           ((size_t)256 << 10) /* unread by the peer, a stream and a connection */
#define WRITE_BYTES         ((size_t)48 << 10)  /* gathered before one write */
#define PREFIX_BYTES        5
#define TICK_MS             1000
#define LINGER_MS           2000 /* for the peer to read the last bytes */
#define REASON_MAX          512
#define H2_CANCEL           8
#define H2_INTERNAL         2

struct grpc_server {
    struct loop *loop;
    struct listener *listener;
    struct ring conns;
    size_t conn_count, stream_count, buffered;
    struct grpc_server_opts opts;
    const struct grpc_method *method;
    size_t method_count;
    struct loop_timer *tick;
    struct buf out; /* gathers frames for one write */
    bool draining;
};

struct grpc_conn {
    struct ring ring;
    struct grpc_server *server; /* NULL: closed by us */
    struct conn *conn;
    struct http2_session *h2;
    struct loop_task pump;
    uint64_t closing_ms; /* not 0: the last bytes are out, the peer may read them */
    bool busy;           /* inside of a read: what is queued leaves after it */
};

struct grpc_stream {
    struct grpc_conn *c;
    struct http2_stream *h2;
    const struct grpc_method *method;
    const struct http2_head *head; /* during on_open */
    void *user;
    struct buf in;
    size_t owed; /* window bytes to give back when the stream is let go */
    size_t message_count;
    bool held, peer_ended, half_closed, started, finished, encoded, parsing;
};

/* ---- writing ---- */

static void pump_soon(struct grpc_conn *c)
{
    if (!c->busy)
        loop_task_run_soon(c->server->loop, &c->pump);
}

static void conn_finish(struct grpc_conn *c)
{
    if (c->closing_ms != 0)
        return;
    c->closing_ms = loop_now_ms(c->server->loop) + 1;
    conn_shutdown(c->conn);
}

static void pump(struct grpc_conn *c)
{
    struct buf *out = &c->server->out;
    bool more = true;

    c->busy = true;
    while (more && c->closing_ms == 0) {
        if (conn_queued(c->conn) > QUEUE_MAX / 2) {
            conn_want_drain(c->conn);
            break;
        }
        buf_reset(out);
        while (more && out->len < WRITE_BYTES) {
            struct str s = http2_pull(c->h2);

            more = s.n != 0;
            buf_str(out, s);
        }
        if (out->len != 0 && (out->failed || conn_write(c->conn, buf_view(out)) != 0))
            break; /* it is closing: on_close comes */
    }
    c->busy = false;
    if (http2_done(c->h2))
        conn_finish(c);
}

static void pump_task(void *ctx)
{
    pump(ctx);
}

/* ---- streams ---- */

static void stream_set_buffered(struct grpc_stream *s, size_t before)
{
    s->c->server->buffered += s->in.len;
    s->c->server->buffered -= before;
}

static void drop_input(struct grpc_stream *s)
{
    size_t before = s->in.len;

    buf_fini(&s->in);
    buf_init(&s->in, 0);
    stream_set_buffered(s, before);
    if (s->owed != 0)
        http2_consume(s->h2, s->owed);
    s->owed = 0;
    s->held = false;
}

/* grpc-message is percent-encoded: what is outside of printable ASCII, and '%'. */
static void put_message(struct buf *b, const char *text)
{
    for (const char *p = text; *p != 0; p++) {
        unsigned char ch = (unsigned char)*p;

        if (ch < 0x20 || ch > 0x7e || ch == '%')
            buf_f(b, "%%%02X", ch);
        else
            buf_c(b, (char)ch);
    }
}

#define FIELD(name, value)                                                                         \
    {                                                                                              \
        { name, sizeof(name) - 1 },                                                                \
        {                                                                                          \
            value, sizeof(value) - 1                                                               \
        }                                                                                          \
    }

static const struct http2_field head_fields[] = {
    FIELD(":status", "200"),
    FIELD("content-type", "application/grpc"),
    FIELD("grpc-accept-encoding", "identity"),
};

static void end_call(struct grpc_stream *s, const struct http2_field *trailer, size_t count)
{
    struct http2_field all[COUNT(head_fields) + 3];

    if (s->started) {
        http2_finish(s->h2, trailer, count);
        return;
    }
    ASSERT(count <= 3);
    memcpy(all, head_fields, sizeof(head_fields));
    memcpy(all + COUNT(head_fields), trailer, count * sizeof(*trailer));
    if (http2_respond(s->h2, all, COUNT(head_fields) + count, true) != 0)
        http2_reset(s->h2, H2_INTERNAL);
}

void grpc_finish(struct grpc_stream *s, enum grpc_status status, const char *message,
                 const char *reason)
{
    struct http2_field trailer[3];
    char code[12];
    struct buf text, number;
    size_t n = 0;

    if (s->finished)
        return;
    s->finished = true;
    buf_init(&text, 3 * REASON_MAX);
    buf_init(&number, sizeof(code));
    buf_f(&number, "%d", (int)status);
    trailer[n++] = (struct http2_field) { STR("grpc-status"), buf_view(&number) };
    if (message != NULL) {
        put_message(&text, message);
        trailer[n++] = (struct http2_field) { STR("grpc-message"), buf_view(&text) };
    }
    if (reason != NULL)
        trailer[n++] = (struct http2_field) { STR("llm-d-reason"), str_of(reason) };
    end_call(s, trailer, n);
    buf_fini(&text);
    buf_fini(&number);
    if (!s->parsing)
        drop_input(s);
    pump_soon(s->c);
}

int grpc_send(struct grpc_stream *s, struct str message)
{
    unsigned char prefix[PREFIX_BYTES] = { 0, (unsigned char)(message.n >> 24),
                                           (unsigned char)(message.n >> 16),
                                           (unsigned char)(message.n >> 8),
                                           (unsigned char)message.n };
    struct str piece[2] = { { (const char *)prefix, sizeof(prefix) }, message };
    int rc;

    if (s->finished)
        return ERR_CLOSED;
    if (message.n > UINT32_MAX)
        return ERR_LIMIT;
    if (!s->started) {
        s->started = true;
        rc = http2_respond(s->h2, head_fields, COUNT(head_fields), false);
        if (rc != 0)
            return rc;
    }
    rc = http2_send(s->h2, piece, COUNT(piece));
    if (rc == 0)
        pump_soon(s->c);
    return rc;
}

/* How many bytes the message at p has with its prefix; 0: not all here; SIZE_MAX: the call failed.
 */
static size_t next_message(struct grpc_stream *s, struct str in)
{
    const unsigned char *p = (const unsigned char *)in.p;
    size_t n;

    if (in.n == 0)
        return 0;
    if (p[0] != 0) {
        if (p[0] == 1 && s->encoded)
            grpc_finish(s, GRPC_UNIMPLEMENTED, "compression is not supported", "compressed");
        else
            grpc_finish(s, GRPC_INTERNAL, "bad message flag", "framing");
        return SIZE_MAX;
    }
    if (in.n < PREFIX_BYTES)
        return 0;
    n = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (n > s->c->server->opts.message_bytes_max) {
        grpc_finish(s, GRPC_RESOURCE_EXHAUSTED, "message is too large", "too_large");
        return SIZE_MAX;
    }
    return in.n - PREFIX_BYTES < n ? 0 : PREFIX_BYTES + n;
}

static void hold_if_unread(struct grpc_stream *s)
{
    s->held = http2_queued(s->h2) > QUEUE_MAX / 2;
    if (s->held)
        http2_want_room(s->h2);
}

/* Delivers whole messages; returns how many bytes it used. */
static size_t deliver(struct grpc_stream *s, struct str in)
{
    size_t at = 0;

    s->parsing = true;
    while (!s->finished && !s->held) {
        size_t n = next_message(s, str_sub(in, at, SIZE_MAX));

        if (n == 0 || n == SIZE_MAX)
            break;
        if (++s->message_count > 1 && s->method->unary) {
            grpc_finish(s, GRPC_INTERNAL, "a unary call has one message", "framing");
            break;
        }
        s->method->on_message(s->method->ctx, s, str_sub(in, at + PREFIX_BYTES, n - PREFIX_BYTES));
        at += n;
        hold_if_unread(s);
    }
    s->parsing = false;
    return at;
}

static void keep(struct grpc_stream *s, struct str rest)
{
    struct grpc_server *server = s->c->server;
    size_t before = s->in.len;

    if (server->buffered + rest.n > server->opts.buffer_bytes_max || !buf_str(&s->in, rest))
        grpc_finish(s, GRPC_RESOURCE_EXHAUSTED, "too many unfinished messages", "overloaded");
    else
        stream_set_buffered(s, before);
}

static void input_end(struct grpc_stream *s)
{
    if (!s->peer_ended || s->half_closed || s->held || s->finished)
        return;
    s->half_closed = true;
    if (s->in.len != 0)
        grpc_finish(s, GRPC_INTERNAL, "the last message is cut", "framing");
    else if (s->method->unary && s->message_count == 0)
        grpc_finish(s, GRPC_INTERNAL, "a unary call has one message", "framing");
    else
        s->method->on_half_close(s->method->ctx, s);
}

/* From stream.in, after it grew or was let go. */
static void deliver_kept(struct grpc_stream *s)
{
    size_t used = deliver(s, buf_view(&s->in)), before = s->in.len;

    if (s->finished) {
        drop_input(s);
        return;
    }
    buf_drop(&s->in, used);
    if (s->in.len == 0) {
        size_t max = s->in.max;

        buf_fini(&s->in); /* an idle stream owns no buffer */
        buf_init(&s->in, max);
    }
    stream_set_buffered(s, before);
}

static void on_data(void *ctx, struct http2_stream *h2, struct str bytes)
{
    struct grpc_stream *s = http2_stream_get(h2);

    (void)ctx;
    if (s == NULL || s->finished) {
        http2_consume(h2, bytes.n);
        return;
    }
    if (s->held) {
        s->owed += bytes.n;
        keep(s, bytes);
        return;
    }
    if (s->in.len == 0) {
        size_t used = deliver(s, bytes);

        if (!s->finished && used != bytes.n)
            keep(s, str_sub(bytes, used, SIZE_MAX));
    } else {
        keep(s, bytes);
        if (!s->finished)
            deliver_kept(s);
    }
    if (s->held)
        s->owed += bytes.n;
    else
        http2_consume(h2, bytes.n);
    if (s->finished)
        drop_input(s);
}

static void on_end(void *ctx, struct http2_stream *h2)
{
    struct grpc_stream *s = http2_stream_get(h2);

    (void)ctx;
    if (s == NULL)
        return;
    s->peer_ended = true;
    input_end(s);
}

static void on_room(void *ctx, struct http2_stream *h2)
{
    struct grpc_stream *s = http2_stream_get(h2);

    (void)ctx;
    if (s == NULL)
        return;
    if (s->method->on_room != NULL && !s->finished)
        s->method->on_room(s->method->ctx, s);
    if (s->held && !s->finished) {
        hold_if_unread(s);
        if (!s->held)
            deliver_kept(s);
        if (!s->held && s->owed != 0) {
            http2_consume(h2, s->owed);
            s->owed = 0;
        }
        input_end(s);
    }
}

static void on_close(void *ctx, struct http2_stream *h2, uint32_t code)
{
    struct grpc_stream *s = http2_stream_get(h2);

    (void)ctx;
    (void)code;
    if (s == NULL)
        return;
    s->c->server->stream_count--;
    s->c->server->buffered -= s->in.len;
    if (s->method->on_gone != NULL) {
        bool cancelled = !s->finished;

        s->finished = true;
        s->method->on_gone(s->method->ctx, s, cancelled);
    }
    buf_fini(&s->in);
    mem_free(s);
}

/* An answer to a head that leads to no method. */
static void refuse(struct http2_stream *h2, const char *http, int status, const char *message)
{
    char code[12];
    struct buf number;
    struct http2_field f[] = {
        { STR(":status"), str_of(http) },
        { STR("content-type"), STR("application/grpc") },
        { STR("grpc-status"), STR_NONE },
        { STR("grpc-message"), str_of(message) },
    };

    buf_init(&number, sizeof(code));
    buf_f(&number, "%d", status);
    f[2].value = buf_view(&number);
    if (http2_respond(h2, f, COUNT(f), true) != 0)
        http2_reset(h2, H2_INTERNAL);
    buf_fini(&number);
}

static struct str head_get(const struct http2_head *head, const char *name)
{
    for (size_t i = 0; i < head->count; i++)
        if (str_eqz(head->field[i].name, name))
            return head->field[i].value;
    return STR_NONE;
}

static const struct grpc_method *find_method(const struct grpc_server *s, struct str path)
{
    for (size_t i = 0; i < s->method_count; i++)
        if (str_eqz(path, s->method[i].path))
            return &s->method[i];
    return NULL;
}

static void on_head(void *ctx, struct http2_stream *h2, const struct http2_head *head, bool end)
{
    struct grpc_conn *c = ctx;
    struct str encoding = head_get(head, "grpc-encoding");
    const struct grpc_method *m;
    struct grpc_stream *s;

    if (head->too_large) {
        refuse(h2, "431", GRPC_RESOURCE_EXHAUSTED, "metadata is too large");
        return;
    }
    if (!str_eqz(head_get(head, ":method"), "POST")) {
        refuse(h2, "405", GRPC_UNIMPLEMENTED, "gRPC calls are POST");
        return;
    }
    if (!str_starts(head_get(head, "content-type"), STR("application/grpc"))) {
        refuse(h2, "415", GRPC_UNIMPLEMENTED, "content-type is not application/grpc");
        return;
    }
    m = find_method(c->server, head_get(head, ":path"));
    if (m == NULL) {
        refuse(h2, "200", GRPC_UNIMPLEMENTED, "unknown method");
        return;
    }
    s = mem_try_zero(1, sizeof(*s));
    if (s == NULL) {
        refuse(h2, "200", GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    s->c = c;
    s->h2 = h2;
    s->method = m;
    s->encoded = encoding.n != 0 && !str_eqz(encoding, "identity");
    /* one message that is not whole yet, and what one window brings behind it */
    buf_init(&s->in, c->server->opts.message_bytes_max + PREFIX_BYTES + (128 << 10));
    http2_stream_set(h2, s);
    c->server->stream_count++;
    s->head = head;
    if (m->on_open != NULL)
        m->on_open(m->ctx, s);
    s->head = NULL;
    if (end)
        on_end(ctx, h2);
}

static const struct http2_ops h2_ops = {
    .on_head = on_head,
    .on_data = on_data,
    .on_end = on_end,
    .on_room = on_room,
    .on_close = on_close,
};

struct str grpc_metadata(const struct grpc_stream *s, const char *name)
{
    return s->head != NULL ? head_get(s->head, name) : STR_NONE;
}

void grpc_stream_set(struct grpc_stream *s, void *user)
{
    s->user = user;
}

void *grpc_stream_get(const struct grpc_stream *s)
{
    return s->user;
}

/* ---- connections ---- */

static void conn_data(void *ctx, struct conn *conn, struct str bytes)
{
    struct grpc_conn *c = ctx;

    (void)conn;
    if (c->server == NULL || c->closing_ms != 0)
        return; /* read and dropped, so that the close is no reset */
    c->busy = true;
    if (http2_feed(c->h2, bytes) != 0) {
        pump(c);
        conn_finish(c);
        return;
    }
    pump(c);
}

static void conn_eof(void *ctx, struct conn *conn)
{
    (void)ctx;
    conn_close(conn);
}

static void conn_drained(void *ctx, struct conn *conn)
{
    struct grpc_conn *c = ctx;

    (void)conn;
    if (c->server != NULL)
        pump(c);
}

/* Ends the session and its streams; the connection follows from the loop. */
static void conn_cut(struct grpc_conn *c)
{
    struct grpc_server *s = c->server;

    if (s == NULL)
        return;
    c->busy = true; /* nothing leaves any more */
    http2_free(c->h2);
    c->h2 = NULL;
    loop_task_cancel(&c->pump);
    ring_del(&c->ring);
    s->conn_count--;
    c->server = NULL;
}

static void conn_closed(void *ctx, struct conn *conn, int rc)
{
    struct grpc_conn *c = ctx;

    (void)conn;
    (void)rc;
    conn_cut(c);
    mem_free(c);
}

static const struct conn_ops conn_cb = {
    .on_data = conn_data,
    .on_eof = conn_eof,
    .on_drain = conn_drained,
    .on_close = conn_closed,
};

static void accepted(void *ctx, struct conn *conn)
{
    struct grpc_server *s = ctx;
    struct http2_opts opts = { .streams_max = s->opts.streams_max, .stream_queue_max = QUEUE_MAX };
    struct grpc_conn *c;

    if (s->conn_count >= s->opts.connections_max) {
        conn_close(conn);
        return;
    }
    c = mem_zalloc(sizeof(*c));
    if (http2_new(&c->h2, &opts, &h2_ops, c) != 0) {
        mem_free(c);
        conn_close(conn);
        return;
    }
    c->server = s;
    c->conn = conn;
    loop_task_init(&c->pump, pump_task, c);
    ring_push(&s->conns, &c->ring);
    if (s->conn_count++ == 0)
        loop_timer_arm(s->tick, TICK_MS, TICK_MS);
    conn_set_ctx(conn, &conn_cb, c);
    pump(c); /* our SETTINGS */
}

static void tick(void *ctx)
{
    struct grpc_server *s = ctx;
    uint64_t now = loop_now_ms(s->loop);

    if (s->conn_count == 0)
        loop_timer_disarm(s->tick);
    for (struct ring *n = s->conns.next, *next; n != &s->conns; n = next) {
        struct grpc_conn *c = CONTAINER_OF(n, struct grpc_conn, ring);

        next = n->next;
        if (c->closing_ms != 0) {
            if (now > c->closing_ms + LINGER_MS)
                conn_close(c->conn);
            continue;
        }
        http2_tick(c->h2, clock_ms());
        pump(c);
    }
}

/* ---- the server ---- */

int grpc_server_open(struct loop *l, const struct grpc_server_opts *opts,
                     const struct grpc_method *method, size_t method_count,
                     struct grpc_server **out, struct err *e)
{
    struct conn_opts conn_opts = { .write_max = QUEUE_MAX,
                                   .shares_port = opts->shares_port,
                                   .tls_server = opts->tls };
    struct grpc_server *s = mem_zalloc(sizeof(*s));
    int rc;

    *out = NULL;
    s->loop = l;
    s->opts = *opts;
    s->method = method;
    s->method_count = method_count;
    if (s->opts.message_bytes_max == 0)
        s->opts.message_bytes_max = MESSAGE_DEFAULT;
    if (s->opts.buffer_bytes_max == 0)
        s->opts.buffer_bytes_max = BUFFER_DEFAULT;
    if (s->opts.streams_max == 0)
        s->opts.streams_max = STREAMS_DEFAULT;
    if (s->opts.connections_max == 0)
        s->opts.connections_max = CONNECTIONS_DEFAULT;
    ring_init(&s->conns);
    buf_init(&s->out, 4 * WRITE_BYTES);
    s->tick = loop_timer_new(l, tick, s);
    rc = listener_open(l, opts->host, opts->port, &conn_opts, accepted, s, &s->listener, e);
    if (rc != 0) {
        grpc_server_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

uint16_t grpc_server_port(const struct grpc_server *s)
{
    return s->listener != NULL ? listener_port(s->listener) : 0;
}

size_t grpc_server_streams(const struct grpc_server *s)
{
    return s->stream_count;
}

void grpc_server_drain(struct grpc_server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    listener_close(s->listener);
    s->listener = NULL;
    for (struct ring *n = s->conns.next; n != &s->conns; n = n->next) {
        struct grpc_conn *c = CONTAINER_OF(n, struct grpc_conn, ring);

        http2_drain(c->h2);
        pump_soon(c);
    }
}

void grpc_server_close(struct grpc_server *s)
{
    if (s == NULL)
        return;
    listener_close(s->listener);
    while (!ring_empty(&s->conns)) {
        struct grpc_conn *c = CONTAINER_OF(s->conns.next, struct grpc_conn, ring);
        struct conn *conn = c->conn;

        conn_cut(c);
        conn_close(conn);
    }
    loop_timer_free(s->tick);
    buf_fini(&s->out);
    mem_free(s);
}
