/* TCP byte streams over libuv.
 *
 *   conn_write --try--> kernel
 *        `-- what it does not take --> seg, seg, seg --one uv_write at a time--> kernel
 *
 * The usual write leaves at once, without a copy or an allocation.  Only the rest of a write to a
 * slow peer is copied into a seg.  One uv_write of up to BATCH_SEGS segs is in flight: a second
 * would only queue behind it.  Reads go to the loop's one buffer, so an idle connection owns no
 * memory but its struct.
 *
 * A client tries the addresses of a name one after the other, within one deadline; a failed attempt
 * costs its socket, so the handle is closed and initialised anew.
 *
 * Closing: conn_close marks the connection and closes the handle; libuv calls handle_closed from
 * the loop, which releases the segs and says on_close.  A name look-up that cannot be cancelled any
 * more keeps the struct (not the callbacks) alive until it ends.
 *
 * Invariants: inflight > 0 <=> a uv_write runs; queued = bytes of all segs not yet with libuv. */
// SPDX-License-Identifier: Apache-2.0
#include "net/conn.h"
#include "base/check.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/conn_tls_priv.h"
#include "net/loop_priv.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WRITE_MAX_DEFAULT  ((size_t)1 << 20)
#define CONNECT_MS_DEFAULT 1000
#define DEAD_MS_DEFAULT    10000
#define KEEP_IDLE_S        5
#define KEEP_INTERVAL_S    2
#define KEEP_PROBES        3
#define BATCH_SEGS         32
#define HOST_MAX           256
#define BACKLOG            1024

/* Only a client needs this, and only until it is connected. */
struct dial {
    uv_getaddrinfo_t lookup;
    uv_connect_t connect;
    uv_timer_t timer;
    struct addrinfo *all, *at; /* from the look-up */
    struct sockaddr_storage fixed;
    struct conn *c;
    int last_error;
    bool looking, connecting, timer_open; /* what libuv still holds of this struct */
};

struct listener {
    uv_tcp_t tcp;
    struct loop_own own;
    struct loop *loop;
    struct conn_opts opts;
    void (*on_accept)(void *ctx, struct conn *c);
    void *ctx;
    uint16_t port;
    bool paused, held; /* held: libuv has one ready and waits for us */
};

static void dial_next(struct conn *c);
static void flush(struct conn *c);

/* ---- addresses ---- */

int addr_parse(struct str text, char *host_out, uint16_t *port, struct err *e)
{
    struct str host, rest;
    uint64_t n;

    *port = 0;
    host_out[0] = 0;
    if (text.n != 0 && text.p[0] == '[') {
        size_t end = str_chr(text, ']');

        if (end == SIZE_MAX)
            return err_set(e, ERR_PARSE, "address: '[' without ']'");
        host = str_sub(text, 1, end - 1);
        rest = str_sub(text, end + 1, SIZE_MAX);
        if (rest.n == 0 || rest.p[0] != ':')
            return err_set(e, ERR_PARSE, "address: no port after ']'");
        rest = str_sub(rest, 1, SIZE_MAX);
    } else {
        rest = text;
        host = str_cut(&rest, ':');
        if (rest.p == NULL)
            return err_set(e, ERR_PARSE, "address: no port (want HOST:PORT)");
        if (str_chr(rest, ':') != SIZE_MAX)
            return err_set(e, ERR_PARSE, "address: IPv6 needs brackets, [::1]:80");
        if (host.n == 0)
            host = STR("127.0.0.1");
    }
    if (!str_u64(rest, &n) || n > 65535)
        return err_set(e, ERR_PARSE, "address: port must be 0..65535");
    if (host.n == 0 || host.n >= HOST_MAX)
        return err_set(e, ERR_PARSE, "address: host must have 1..255 characters");
    for (size_t i = 0; i < host.n; i++)
        if ((unsigned char)host.p[i] <= ' ' || host.p[i] == '/' || host.p[i] == '@')
            return err_set(e, ERR_PARSE, "address: bad character in host");
    memcpy(host_out, host.p, host.n);
    host_out[host.n] = 0;
    *port = (uint16_t)n;
    return 0;
}

bool addr_is_loopback(const char *host)
{
    struct in_addr a4;
    struct in6_addr a6;

    if (strcmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &a4) == 1)
        return (ntohl(a4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &a6) == 1 && IN6_IS_ADDR_LOOPBACK(&a6);
}

static bool literal(const char *host, uint16_t port, struct sockaddr_storage *out)
{
    return uv_ip4_addr(host, port, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)out) == 0;
}

static void describe(const struct sockaddr *sa, char *out, size_t size)
{
    char ip[INET6_ADDRSTRLEN] = "?";

    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const void *)sa;

        uv_ip6_name(a, ip, sizeof(ip));
        snprintf(out, size, "[%s]:%u", ip, ntohs(a->sin6_port));
    } else {
        const struct sockaddr_in *a = (const void *)sa;

        uv_ip4_name(a, ip, sizeof(ip));
        snprintf(out, size, "%s:%u", ip, ntohs(a->sin_port));
    }
}

/* ---- closing ---- */

void conn_seg_release(struct seg *s)
{
    if (s->release != NULL)
        s->release(s->rctx);
    mem_free(s);
}

static void conn_gone(struct conn *c)
{
    if (c->state != CONN_CLOSED || c->dial != NULL)
        return;
    conn_tls_free(c);
    mem_free(c);
}

static void dial_free(struct conn *c)
{
    struct dial *d = c->dial;

    if (d->looking || d->connecting || d->timer_open)
        return;
    uv_freeaddrinfo(d->all);
    mem_free(d);
    c->dial = NULL;
    conn_gone(c);
}

static void dial_timer_closed(uv_handle_t *h)
{
    struct dial *d = h->data;

    d->timer_open = false;
    dial_free(d->c);
}

/* The dial is over: its timer goes, and its memory once libuv holds no part of it. */
static void dial_end(struct conn *c)
{
    struct dial *d = c->dial;

    if (d == NULL)
        return;
    if (d->looking)
        uv_cancel((uv_req_t *)&d->lookup);
    if (d->timer_open && !uv_is_closing((uv_handle_t *)&d->timer))
        uv_close((uv_handle_t *)&d->timer, dial_timer_closed);
}

static void handle_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    struct seg *s;

    if (c->next_address && c->state == CONN_STARTING) {
        c->next_address = false;
        dial_next(c);
        return;
    }
    while ((s = c->first) != NULL) {
        c->first = s->next;
        conn_seg_release(s);
    }
    c->state = CONN_CLOSED;
    if (c->ops != NULL && c->ops->on_close != NULL)
        c->ops->on_close(c->ctx, c, c->close_rc);
    if (c->dial != NULL)
        dial_free(c);
    else
        conn_gone(c);
}

static void closing(struct conn *c, int rc, bool reset)
{
    if (c->state >= CONN_CLOSING)
        return;
    if (c->tls != NULL)
        conn_tls_closing(c, rc == 0 && !reset && c->state == CONN_OPEN);
    c->state = CONN_CLOSING;
    c->close_rc = rc;
    ring_del(&c->own.ring);
    dial_end(c);
    /* On its way to the next address it is closing already: handle_closed goes on from there. */
    if (uv_is_closing((uv_handle_t *)&c->tcp))
        return;
    if (!reset || uv_tcp_close_reset(&c->tcp, handle_closed) != 0)
        uv_close((uv_handle_t *)&c->tcp, handle_closed);
}

void conn_fail(struct conn *c, int rc)
{
    closing(c, rc, false);
}

void conn_close(struct conn *c)
{
    closing(c, 0, false);
}

void conn_reset(struct conn *c)
{
    closing(c, 0, true);
}

static void own_close(struct loop_own *o)
{
    conn_close(CONTAINER_OF(o, struct conn, own));
}

/* ---- reading ---- */

static void give_buffer(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct conn *c = h->data;

    (void)hint;
    *buf = uv_buf_init(c->loop->read_buf, (unsigned)LOOP_READ_BYTES);
}

/* libuv reports a reset that comes together with data as a plain end.  The socket knows better. */
static int pending_error(struct conn *c)
{
    int fd, error = 0;
    socklen_t n = sizeof(error);

    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0)
        return UV_ECONNRESET;
    return -error; /* libuv's codes are negated errno on Unix */
}

void conn_end_of_data(struct conn *c)
{
    c->eof = true;
    conn_read_on(c);
    if (c->ops->on_eof != NULL)
        c->ops->on_eof(c->ctx, c);
    else
        conn_close(c);
}

static void got_bytes(uv_stream_t *h, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = h->data;

    if (c->state != CONN_OPEN || n == 0)
        return;
    if (n > 0) {
        struct str bytes = { buf->base, (size_t)n };

        if (c->tls != NULL)
            conn_tls_bytes(c, bytes);
        else
            c->ops->on_data(c->ctx, c, bytes);
        return;
    }
    if (n == UV_EOF && (pending_error(c) != 0 || c->tls != NULL))
        n = UV_ECONNRESET; /* TLS: an end without close_notify is a cut */
    if (n == UV_EOF) {
        conn_end_of_data(c);
        return;
    }
    c->eof = true;
    conn_read_on(c);
    conn_fail(c, loop_err((int)n));
}

void conn_read_on(struct conn *c)
{
    bool want = c->state == CONN_OPEN && !c->eof && c->ops != NULL &&
                (c->tls != NULL ? conn_tls_reads(c) : !c->paused);
    int rc;

    if (want == c->reading)
        return;
    c->reading = want;
    if (!want) {
        uv_read_stop((uv_stream_t *)&c->tcp);
        return;
    }
    rc = uv_read_start((uv_stream_t *)&c->tcp, give_buffer, got_bytes);
    if (rc != 0)
        conn_fail(c, loop_err(rc));
}

void conn_pause(struct conn *c)
{
    c->paused = true;
    conn_read_on(c);
}

void conn_resume(struct conn *c)
{
    c->paused = false;
    conn_read_on(c);
    if (c->tls != NULL)
        conn_tls_resume(c);
}

bool conn_peer_left(const struct conn *c)
{
    struct pollfd p = { .events = POLLRDHUP };

    if (c->state != CONN_OPEN || uv_fileno((const uv_handle_t *)&c->tcp, &p.fd) != 0)
        return true;
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* ---- writing ---- */

void conn_want_drain(struct conn *c)
{
    c->want_drain = true;
}

size_t conn_queued(const struct conn *c)
{
    return c->queued + (c->inflight != 0 ? c->tcp.write_queue_size : 0) +
           (c->tls != NULL ? conn_tls_queued(c) : 0);
}

uint64_t conn_written(const struct conn *c)
{
    return c->written - (c->inflight != 0 ? c->tcp.write_queue_size : 0);
}

static void fin_done(uv_shutdown_t *r, int status)
{
    (void)r;
    (void)status; /* a failed shutdown shows as a read error */
}

void conn_fin_send(struct conn *c)
{
    if (c->fin_sent)
        return;
    c->fin_sent = true;
    (void)uv_shutdown(&c->fin, (uv_stream_t *)&c->tcp, fin_done);
}

static void fin_if_empty(struct conn *c)
{
    if (c->fin_wanted && c->first == NULL && c->state == CONN_OPEN)
        conn_fin_send(c);
}

void conn_was_drained(struct conn *c)
{
    if (!c->want_drain || c->state != CONN_OPEN || conn_queued(c) > c->write_max / 2)
        return;
    c->want_drain = false;
    if (c->ops->on_drain != NULL)
        c->ops->on_drain(c->ctx, c);
}

static void written(uv_write_t *r, int status)
{
    struct conn *c = r->handle->data;

    for (; c->inflight != 0; c->inflight--) {
        struct seg *s = c->first;

        c->first = s->next;
        if (c->first == NULL)
            c->last = &c->first;
        conn_seg_release(s);
    }
    if (c->state != CONN_OPEN)
        return;
    if (status != 0) {
        conn_fail(c, loop_err(status));
        return;
    }
    flush(c);
    conn_was_drained(c);
}

static void flush(struct conn *c)
{
    uv_buf_t buf[BATCH_SEGS];
    unsigned n = 0;
    size_t bytes = 0;
    int rc;

    if (c->inflight != 0 || c->state != CONN_OPEN)
        return;
    for (struct seg *s = c->first; s != NULL && n < BATCH_SEGS; s = s->next) {
        buf[n++] = uv_buf_init((char *)(uintptr_t)s->p, (unsigned)s->n);
        bytes += s->n;
    }
    if (n == 0) {
        fin_if_empty(c);
        return;
    }
    c->inflight = n;
    c->queued -= bytes;
    c->written += bytes;
    rc = uv_write(&c->write, (uv_stream_t *)&c->tcp, buf, n, written);
    if (rc != 0) {
        c->inflight = 0;
        conn_fail(c, loop_err(rc));
    }
}

void conn_seg_push(struct conn *c, struct seg *s)
{
    s->next = NULL;
    *c->last = s;
    c->last = &s->next;
    c->queued += s->n;
}

/* What the kernel takes at once; 0 when anything waits already. */
static size_t write_now(struct conn *c, const struct str *piece, size_t count)
{
    uv_buf_t buf[CONN_PIECES_MAX];
    unsigned n = 0;
    int rc;

    if (c->first != NULL || c->state != CONN_OPEN)
        return 0;
    for (size_t i = 0; i < count; i++)
        if (piece[i].n != 0)
            buf[n++] = uv_buf_init((char *)(uintptr_t)piece[i].p,
                                   (unsigned)MIN(piece[i].n, (size_t)1 << 30));
    rc = n != 0 ? uv_try_write((uv_stream_t *)&c->tcp, buf, n) : 0;
    if (rc > 0) {
        c->written += (unsigned)rc;
        return (size_t)rc;
    }
    if (rc < 0 && rc != UV_EAGAIN)
        conn_fail(c, loop_err(rc));
    return 0;
}

static int may_write(struct conn *c, size_t bytes, bool force)
{
    size_t queued = conn_queued(c);

    if (c->state >= CONN_CLOSING || c->fin_wanted)
        return ERR_CLOSED;
    if (force || queued == 0 || (queued <= c->write_max && bytes <= c->write_max - queued))
        return 0;
    c->want_drain = true;
    return ERR_AGAIN;
}

int conn_writev(struct conn *c, const struct str *piece, size_t count, bool force)
{
    size_t all = 0, done, at = 0;
    struct seg *s;
    char *p;
    int rc;

    ASSERT(count <= CONN_PIECES_MAX);
    for (size_t i = 0; i < count; i++)
        all += piece[i].n;
    rc = may_write(c, all, force);
    if (rc != 0 || all == 0)
        return rc;
    if (c->tls != NULL)
        return conn_tls_writev(c, piece, count, all);
    done = write_now(c, piece, count);
    if (c->state >= CONN_CLOSING)
        return ERR_CLOSED;
    if (done == all)
        return 0;
    s = mem_try(sizeof(*s) + (all - done));
    if (s == NULL) {
        conn_fail(c, ERR_NOMEM);
        return ERR_CLOSED;
    }
    p = (char *)(s + 1);
    for (size_t i = 0; i < count; i++) {
        size_t skip = MIN(done, piece[i].n);

        done -= skip;
        if (piece[i].n != skip)
            memcpy(p + at, piece[i].p + skip, piece[i].n - skip);
        at += piece[i].n - skip;
    }
    *s = (struct seg) { .p = p, .n = at };
    conn_seg_push(c, s);
    flush(c);
    return c->state >= CONN_CLOSING ? ERR_CLOSED : 0;
}

int conn_write(struct conn *c, struct str bytes)
{
    return conn_writev(c, &bytes, 1, false);
}

static int write_ref(struct conn *c, struct str bytes, loop_fn *release, void *rctx, bool force)
{
    struct seg *s;
    size_t done;
    int rc = may_write(c, bytes.n, force);

    if (rc != 0)
        return rc;
    done = c->tls == NULL ? write_now(c, &bytes, 1) : 0;
    if (c->state >= CONN_CLOSING)
        return ERR_CLOSED;
    if (done == bytes.n) {
        release(rctx);
        return 0;
    }
    s = mem_alloc(sizeof(*s));
    *s =
        (struct seg) { .p = bytes.p + done, .n = bytes.n - done, .release = release, .rctx = rctx };
    conn_seg_push(c, s);
    /* When this fails, the close releases the bytes. */
    if (c->tls != NULL)
        conn_tls_pump(c);
    else
        flush(c);
    return 0;
}

int conn_write_ref(struct conn *c, struct str bytes, loop_fn *release, void *rctx)
{
    return write_ref(c, bytes, release, rctx, false);
}

int conn_write_ref_force(struct conn *c, struct str bytes, loop_fn *release, void *rctx)
{
    return write_ref(c, bytes, release, rctx, true);
}

void conn_shutdown(struct conn *c)
{
    c->fin_wanted = true;
    if (c->tls != NULL)
        conn_tls_pump(c);
    else
        fin_if_empty(c);
}

void conn_set_ctx(struct conn *c, const struct conn_ops *ops, void *ctx)
{
    c->ops = ops;
    c->ctx = ctx;
    conn_read_on(c);
}

const char *conn_peer(const struct conn *c)
{
    return c->peer;
}

/* ---- opening ---- */

static void set_options(struct conn *c)
{
    int fd, idle = KEEP_IDLE_S, every = KEEP_INTERVAL_S, probes = KEEP_PROBES, on = 1;
    unsigned dead = c->dead_ms;

    uv_tcp_nodelay(&c->tcp, 1);
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
    if (!c->keepalive)
        return;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static struct conn *conn_make(struct loop *l, const struct conn_opts *o)
{
    struct conn *c = mem_zalloc(sizeof(*c));

    c->loop = l;
    c->last = &c->first;
    c->write_max = o != NULL && o->write_max != 0 ? o->write_max : WRITE_MAX_DEFAULT;
    c->dead_ms = o != NULL && o->dead_ms != 0 ? o->dead_ms : DEAD_MS_DEFAULT;
    c->keepalive = o == NULL || !o->no_keepalive;
    uv_tcp_init(&l->uv, &c->tcp);
    c->tcp.data = c;
    loop_own_add(l, &c->own, own_close);
    return c;
}

static void connected(uv_connect_t *r, int status)
{
    struct conn *c = r->handle->data;
    struct dial *d = c->dial;

    d->connecting = false;
    if (c->state != CONN_STARTING)
        return; /* closed meanwhile; handle_closed has the rest */
    if (status != 0) {
        d->last_error = status;
        c->next_address = true;
        uv_close((uv_handle_t *)&c->tcp, handle_closed);
        return;
    }
    dial_end(c);
    c->state = CONN_OPEN;
    set_options(c);
    if (c->tls != NULL) { /* on_open comes after the handshake */
        conn_tls_start(c);
        return;
    }
    conn_read_on(c);
    if (c->state == CONN_OPEN && c->ops->on_open != NULL)
        c->ops->on_open(c->ctx, c);
    if (c->state == CONN_OPEN)
        flush(c); /* what was written before the connection stood */
}

static void dial_to(struct conn *c, const struct sockaddr *sa)
{
    int rc;

    describe(sa, c->peer, sizeof(c->peer));
    rc = uv_tcp_connect(&c->dial->connect, &c->tcp, sa, connected);
    c->dial->connecting = rc == 0;
    if (rc != 0) {
        c->dial->last_error = rc;
        c->next_address = true;
        uv_close((uv_handle_t *)&c->tcp, handle_closed);
    }
}

/* The handle of the failed attempt is closed: on with the next address, or give up. */
static void dial_next(struct conn *c)
{
    struct dial *d = c->dial;

    if (d->at != NULL)
        d->at = d->at->ai_next;
    uv_tcp_init(&c->loop->uv, &c->tcp);
    c->tcp.data = c;
    if (d->at != NULL)
        dial_to(c, d->at->ai_addr);
    else
        conn_fail(c, loop_err(d->last_error) == ERR_TIMEOUT ? ERR_TIMEOUT : ERR_IO);
}

static void looked_up(uv_getaddrinfo_t *r, int status, struct addrinfo *all)
{
    struct dial *d = r->data;
    struct conn *c = d->c;

    d->looking = false;
    d->all = all;
    if (c->state != CONN_STARTING) {
        dial_free(c);
        return;
    }
    if (status != 0 || all == NULL) {
        conn_fail(c, ERR_IO);
        return;
    }
    d->at = all;
    dial_to(c, all->ai_addr);
}

static void dial_timeout(uv_timer_t *t)
{
    struct dial *d = t->data;

    conn_fail(d->c, ERR_TIMEOUT);
}

int conn_open(struct loop *l, const char *host, uint16_t port, const struct conn_opts *opts,
              const struct conn_ops *ops, void *ctx, struct conn **out, struct err *e)
{
    uint32_t ms = opts != NULL && opts->connect_ms != 0 ? opts->connect_ms : CONNECT_MS_DEFAULT;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP };
    struct dial *d;
    struct conn *c;
    char service[8];
    int rc;

    *out = NULL;
    if (host == NULL || host[0] == 0 || strlen(host) >= HOST_MAX || port == 0)
        return err_set(e, ERR_INVAL, "connect: bad host or port");
    c = conn_make(l, opts);
    c->ops = ops;
    c->ctx = ctx;
    d = c->dial = mem_zalloc(sizeof(*d));
    d->c = c;
    if (opts != NULL && opts->tls_client != NULL && conn_tls_new(c, opts, host) != 0) {
        c->ops = NULL; /* the caller hears it here and not by on_close */
        conn_fail(c, ERR_NOMEM);
        return err_set(e, ERR_NOMEM, "connect to %s: no memory for TLS", host);
    }
    uv_update_time(&l->uv);
    uv_timer_init(&l->uv, &d->timer);
    d->timer.data = d;
    d->timer_open = true;
    uv_timer_start(&d->timer, dial_timeout, ms, 0);
    snprintf(c->peer, sizeof(c->peer), "%.48s:%u", host, port);
    if (literal(host, port, &d->fixed)) {
        dial_to(c, (struct sockaddr *)&d->fixed);
    } else {
        snprintf(service, sizeof(service), "%u", port);
        d->lookup.data = d;
        rc = uv_getaddrinfo(&l->uv, &d->lookup, looked_up, host, service, &hints);
        if (rc != 0) {
            c->ops = NULL; /* the caller hears it here and not by on_close */
            conn_fail(c, ERR_IO);
            return err_set(e, ERR_IO, "connect to %s: %s", host, uv_strerror(rc));
        }
        d->looking = true;
    }
    *out = c;
    return 0;
}

/* ---- listening ---- */

static void accept_one(struct listener *s)
{
    struct conn *c = conn_make(s->loop, &s->opts);
    struct sockaddr_storage sa;
    int n = (int)sizeof(sa);

    if (uv_accept((uv_stream_t *)&s->tcp, (uv_stream_t *)&c->tcp) != 0) {
        conn_close(c);
        return;
    }
    c->state = CONN_OPEN;
    set_options(c);
    if (s->opts.tls_server != NULL) {
        if (conn_tls_new(c, &s->opts, NULL) != 0) {
            conn_close(c);
            return;
        }
        conn_tls_start(c);
    }
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&sa, &n) == 0)
        describe((struct sockaddr *)&sa, c->peer, sizeof(c->peer));
    s->on_accept(s->ctx, c);
}

static void incoming(uv_stream_t *h, int status)
{
    struct listener *s = h->data;

    if (status != 0)
        return; /* out of descriptors: libuv sheds the connection itself */
    if (s->paused)
        s->held = true;
    else
        accept_one(s);
}

void listener_pause(struct listener *s)
{
    s->paused = true;
}

void listener_resume(struct listener *s)
{
    s->paused = false;
    if (s->held) {
        s->held = false;
        accept_one(s);
    }
}

static void listener_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void listener_own_close(struct loop_own *o)
{
    listener_close(CONTAINER_OF(o, struct listener, own));
}

/* libuv makes its socket in bind; one that shares its port must be made before. */
static int socket_shared(uv_tcp_t *tcp, int family)
{
    int on = 1, rc, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0)
        rc = -errno;
    else
        rc = uv_tcp_open(tcp, fd);
    if (rc != 0)
        (void)close(fd);
    return rc;
}

int listener_open(struct loop *l, const char *host, uint16_t port, const struct conn_opts *opts,
                  void (*on_accept)(void *ctx, struct conn *c), void *ctx, struct listener **out,
                  struct err *e)
{
    struct sockaddr_storage sa;
    struct listener *s;
    int rc, n = (int)sizeof(sa);

    *out = NULL;
    if (host == NULL)
        host = "127.0.0.1";
    if (!literal(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port, &sa))
        return err_set(e, ERR_INVAL, "listen on %s: want an IP address", host);
    s = mem_zalloc(sizeof(*s));
    s->loop = l;
    if (opts != NULL)
        s->opts = *opts;
    s->on_accept = on_accept;
    s->ctx = ctx;
    uv_tcp_init(&l->uv, &s->tcp);
    s->tcp.data = s;
    loop_own_add(l, &s->own, listener_own_close);
    rc = s->opts.shares_port ? socket_shared(&s->tcp, sa.ss_family) : 0;
    if (rc == 0)
        rc = uv_tcp_bind(&s->tcp, (struct sockaddr *)&sa, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&s->tcp, BACKLOG, incoming);
    if (rc == 0)
        rc = uv_tcp_getsockname(&s->tcp, (struct sockaddr *)&sa, &n);
    if (rc != 0) {
        listener_close(s);
        return err_set(e, ERR_IO, "listen on %s:%u: %s", host, port, uv_strerror(rc));
    }
    s->port = sa.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&sa)->sin6_port)
                                       : ntohs(((struct sockaddr_in *)&sa)->sin_port);
    *out = s;
    return 0;
}

uint16_t listener_port(const struct listener *s)
{
    return s->port;
}

void listener_close(struct listener *s)
{
    if (s == NULL)
        return;
    ring_del(&s->own.ring);
    if (!uv_is_closing((uv_handle_t *)&s->tcp))
        uv_close((uv_handle_t *)&s->tcp, listener_closed);
}
