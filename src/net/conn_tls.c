/* TLS between a connection's callers and its socket.
 *
 *   conn_write --> seg, seg (plain) --SSL_write--> out --try, uv_write--> kernel
 *   on_data <----SSL_read---- in <---- the loop's read buffer
 *
 * What waits, waits in plain text, at most CHUNK_BYTES of it are encrypted ahead of the kernel: so
 * conn_queued and write_max keep their meaning, and a large conn_write_ref needs no second copy of
 * itself.  A small write to a peer that keeps up is encrypted and sent inside conn_write.
 *
 * The session's two BIOs are ours: its reads take from `in`, which borrows the loop's read buffer
 * for the call, its writes append to `out`.  A connection at rest owns its SSL and no buffers.
 *
 * A pause in the middle of a read leaves bytes that the kernel no longer has: they are kept (64 KiB
 * at most), and reading does not start again before they are used up.
 *
 * The end: close_notify is on_eof.  A FIN without it may be an attacker's, and is ERR_CLOSED.
 *
 * Invariants: writing <=> wire is with libuv, and c->inflight is 1 then.  No callback of the owner
 * runs inside a call to OpenSSL. */
// SPDX-License-Identifier: Apache-2.0
#include "net/conn_tls_priv.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/conn_priv.h"
#include "net/tls_priv.h"
#include <openssl/bio.h>
#include <openssl/err.h>
#include <string.h>

#define HANDSHAKE_MS_DEFAULT 10000
#define RECORD_BYTES         16384
#define CHUNK_BYTES          ((size_t)64 << 10)
#define TURN_BYTES           ((size_t)256 << 10) /* given to the kernel in one turn of the loop */
#define OUT_BYTES_MAX        ((size_t)1 << 20)   /* far above a chunk and its record heads */
#define HELD_BYTES_MAX       LOOP_READ_BYTES
#define ANSWERS_MAX          1000 /* records a peer made us send (key updates) in a connection's life */

struct conn_tls {
    SSL *ssl;
    struct conn *c;
    struct str in;        /* encrypted, not yet read */
    struct buf held;      /* the rest of `in` while paused */
    struct buf out, wire; /* encrypted: made; with libuv */
    struct loop_timer *deadline;
    struct loop_task resume;
    uint32_t handshake_ms, answers;
    bool started, open, notified, writing, pumping;
};

/* ---- BIOs ---- */

static int bio_read(BIO *b, char *p, int n)
{
    struct conn_tls *t = BIO_get_data(b);
    size_t take = MIN((size_t)n, t->in.n);

    BIO_clear_retry_flags(b);
    if (take == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(p, t->in.p, take);
    t->in = str_sub(t->in, take, SIZE_MAX);
    return (int)take;
}

static int bio_write(BIO *b, const char *p, int n)
{
    struct conn_tls *t = BIO_get_data(b);

    BIO_clear_retry_flags(b);
    return buf_add(&t->out, p, (size_t)n) ? n : -1;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *p)
{
    (void)b;
    (void)num;
    (void)p;
    return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static int bio_create(BIO *b)
{
    BIO_set_init(b, 1);
    return 1;
}

static BIO_METHOD *method;

static void method_make(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "conn");
    ASSERT(method != NULL && BIO_meth_set_read(method, bio_read) == 1 &&
           BIO_meth_set_write(method, bio_write) == 1 && BIO_meth_set_ctrl(method, bio_ctrl) == 1 &&
           BIO_meth_set_create(method, bio_create) == 1);
}

/* ---- life ---- */

static void too_slow(void *ctx)
{
    conn_fail(ctx, ERR_TIMEOUT);
}

static void work(struct conn *c);

static void resume_task(void *ctx)
{
    struct conn *c = ctx;
    struct buf in = c->tls->held;

    buf_init(&c->tls->held, HELD_BYTES_MAX);
    c->tls->in = buf_view(&in);
    work(c);
    buf_fini(&in);
    conn_read_on(c);
}

int conn_tls_new(struct conn *c, const struct conn_opts *o, const char *host)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct conn_tls *t = mem_zalloc(sizeof(*t));
    BIO *bio;

    pthread_once(&once, method_make);
    t->ssl =
        host != NULL ? tls_client_session(o->tls_client, host) : tls_server_session(o->tls_server);
    bio = BIO_new(method);
    if (t->ssl == NULL || bio == NULL) {
        SSL_free(t->ssl);
        BIO_free(bio);
        mem_free(t);
        return ERR_NOMEM;
    }
    BIO_set_data(bio, t);
    SSL_set_bio(t->ssl, bio, bio);
    t->c = c;
    t->handshake_ms = o->handshake_ms != 0 ? o->handshake_ms : HANDSHAKE_MS_DEFAULT;
    t->deadline = loop_timer_new(c->loop, too_slow, c);
    loop_task_init(&t->resume, resume_task, c);
    buf_init(&t->held, HELD_BYTES_MAX);
    buf_init(&t->out, OUT_BYTES_MAX);
    buf_init(&t->wire, OUT_BYTES_MAX);
    c->tls = t;
    return 0;
}

void conn_tls_free(struct conn *c)
{
    struct conn_tls *t = c->tls;

    if (t == NULL)
        return;
    loop_timer_free(t->deadline);
    SSL_free(t->ssl);
    buf_fini(&t->held);
    buf_fini(&t->out);
    buf_fini(&t->wire);
    mem_free(t);
    c->tls = NULL;
}

/* ---- sending ---- */

static void wire_written(uv_write_t *r, int status)
{
    struct conn *c = r->handle->data;

    c->inflight = 0;
    c->tls->writing = false;
    buf_fini(&c->tls->wire);
    if (c->state != CONN_OPEN)
        return;
    if (status != 0) {
        conn_fail(c, loop_err(status));
        return;
    }
    conn_tls_pump(c);
    conn_was_drained(c);
}

/* Gives `out` to the kernel.  false: something waits now (or the connection failed). */
static bool out_send(struct conn *c, bool at_once)
{
    struct conn_tls *t = c->tls;
    uv_buf_t buf = uv_buf_init(t->out.p, (unsigned)t->out.len);
    int rc = at_once ? uv_try_write((uv_stream_t *)&c->tcp, &buf, 1) : UV_EAGAIN;

    if (rc < 0 && rc != UV_EAGAIN) {
        conn_fail(c, loop_err(rc));
        return false;
    }
    if (rc > 0) {
        c->written += (unsigned)rc;
        if ((size_t)rc == t->out.len) {
            buf_fini(&t->out);
            return true;
        }
        buf_drop(&t->out, (size_t)rc);
    }
    t->wire = t->out;
    buf_init(&t->out, OUT_BYTES_MAX);
    buf = uv_buf_init(t->wire.p, (unsigned)t->wire.len);
    t->writing = true;
    c->inflight = 1;
    c->written += t->wire.len;
    rc = uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, wire_written);
    if (rc != 0) {
        t->writing = false;
        c->inflight = 0;
        conn_fail(c, loop_err(rc));
    }
    return false;
}

static bool encrypt(struct conn *c, struct str bytes)
{
    ERR_clear_error();
    while (bytes.n != 0) {
        size_t n = MIN(bytes.n, (size_t)RECORD_BYTES), done;

        if (SSL_write_ex(c->tls->ssl, bytes.p, n, &done) != 1) {
            LOG_DEBUG("TLS write failed peer=%s", c->peer);
            conn_fail(c, c->tls->out.failed ? ERR_NOMEM : ERR_IO);
            return false;
        }
        bytes = str_sub(bytes, done, SIZE_MAX);
    }
    return true;
}

/* Pieces of a write together make records: a head of 100 bytes does not travel in one of its own.
 */
static bool encrypt_pieces(struct conn *c, const struct str *piece, size_t count)
{
    char record[RECORD_BYTES];
    size_t n = 0;

    for (size_t i = 0; i < count; i++)
        for (struct str rest = piece[i]; rest.n != 0;) {
            size_t take = MIN(rest.n, sizeof(record) - n);

            if (take == sizeof(record)) { /* a whole record in one place */
                if (!encrypt(c, str_sub(rest, 0, take)))
                    return false;
            } else {
                memcpy(record + n, rest.p, take);
                n += take;
                if (n == sizeof(record)) {
                    if (!encrypt(c, (struct str) { record, n }))
                        return false;
                    n = 0;
                }
            }
            rest = str_sub(rest, take, SIZE_MAX);
        }
    return n == 0 || encrypt(c, (struct str) { record, n });
}

/* Encrypts a chunk of what waits. */
static bool encrypt_segs(struct conn *c)
{
    size_t room = CHUNK_BYTES;

    while (room != 0 && c->first != NULL && c->state == CONN_OPEN) {
        struct str piece[CONN_PIECES_MAX];
        size_t count = 0, all = 0;

        for (struct seg *s = c->first; s != NULL && count < COUNT(piece) && all < room;
             s = s->next) {
            piece[count] = (struct str) { s->p, MIN(s->n, room - all) };
            all += piece[count++].n;
        }
        if (!encrypt_pieces(c, piece, count))
            return false;
        room -= all;
        c->queued -= all;
        while (all != 0) {
            struct seg *s = c->first;
            size_t used = MIN(all, s->n);

            s->p += used;
            s->n -= used;
            all -= used;
            if (s->n != 0)
                break;
            c->first = s->next;
            if (c->first == NULL)
                c->last = &c->first;
            conn_seg_release(s); /* the owner's: it may write, and finds `pumping` set */
        }
    }
    return c->state == CONN_OPEN;
}

static void say_goodbye(struct conn_tls *t)
{
    if (!t->open || t->notified)
        return;
    t->notified = true;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl);
}

/* What is to be encrypted next; false: nothing. */
static bool make_more(struct conn *c)
{
    struct conn_tls *t = c->tls;

    if (t->out.len != 0)
        return true;
    if (t->open && c->first != NULL)
        return encrypt_segs(c) && t->out.len != 0;
    if (t->open && c->fin_wanted)
        say_goodbye(t);
    return t->out.len != 0;
}

void conn_tls_pump(struct conn *c)
{
    struct conn_tls *t = c->tls;
    size_t turn = 0;

    if (t->pumping || t->writing || c->state != CONN_OPEN)
        return;
    t->pumping = true;
    while (c->state == CONN_OPEN && make_more(c)) {
        turn += t->out.len;
        if (!out_send(c, turn < TURN_BYTES))
            break;
    }
    t->pumping = false;
    if (c->state == CONN_OPEN && !t->writing && t->out.len == 0 && c->first == NULL && t->open &&
        c->fin_wanted)
        conn_fin_send(c);
}

int conn_tls_writev(struct conn *c, const struct str *piece, size_t count, size_t all)
{
    struct conn_tls *t = c->tls;
    struct seg *s;
    char *p;

    if (t->open && c->first == NULL && !t->writing && !t->pumping && all <= CHUNK_BYTES &&
        c->state == CONN_OPEN) {
        if (encrypt_pieces(c, piece, count))
            conn_tls_pump(c);
        return c->state >= CONN_CLOSING ? ERR_CLOSED : 0;
    }
    s = mem_try(sizeof(*s) + all);
    if (s == NULL) {
        conn_fail(c, ERR_NOMEM);
        return ERR_CLOSED;
    }
    p = (char *)(s + 1);
    *s = (struct seg) { .p = p, .n = all };
    for (size_t i = 0; i < count; i++) {
        if (piece[i].n != 0)
            memcpy(p, piece[i].p, piece[i].n);
        p += piece[i].n;
    }
    conn_seg_push(c, s);
    conn_tls_pump(c);
    return c->state >= CONN_CLOSING ? ERR_CLOSED : 0;
}

size_t conn_tls_queued(const struct conn *c)
{
    return c->tls->out.len;
}

/* ---- receiving ---- */

static void session_failed(struct conn *c)
{
    struct conn_tls *t = c->tls;
    unsigned long code = ERR_peek_error();
    const char *why = ERR_reason_error_string(code);
    bool verify = !t->open && SSL_get_verify_result(t->ssl) != X509_V_OK;
    bool alert = ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET;

    LOG_INFO("TLS broken off peer=%s handshake=%s why=\"%s\" verify=\"%s\"", c->peer,
             t->open ? "done" : "open", why != NULL ? why : "unknown",
             verify ? X509_verify_cert_error_string(SSL_get_verify_result(t->ssl)) : "");
    ERR_clear_error();
    t->notified = true; /* what is left in `out` is the alert, and the last word */
    if (t->out.len != 0 && !t->writing)
        (void)out_send(c, true);
    conn_fail(c, verify ? ERR_MISMATCH : alert ? ERR_CLOSED : ERR_PARSE);
}

/* The handshake's next step.  false: more bytes are needed, or it failed. */
static bool shake(struct conn *c)
{
    struct conn_tls *t = c->tls;
    int rc, how;

    ERR_clear_error();
    rc = SSL_do_handshake(t->ssl);
    how = SSL_get_error(t->ssl, rc);
    if (rc != 1 && how != SSL_ERROR_WANT_READ) {
        session_failed(c);
        return false;
    }
    t->open = rc == 1;
    conn_tls_pump(c);
    if (!t->open || c->state != CONN_OPEN)
        return false;
    loop_timer_free(t->deadline);
    t->deadline = NULL;
    if (c->ops->on_open != NULL)
        c->ops->on_open(c->ctx, c);
    if (c->state == CONN_OPEN)
        conn_tls_pump(c); /* what was written before */
    return c->state == CONN_OPEN;
}

/* One record.  false: no more now. */
static bool read_record(struct conn *c)
{
    struct conn_tls *t = c->tls;
    char plain[RECORD_BYTES];
    size_t n = 0, waits = t->out.len;
    int rc, how;

    ERR_clear_error();
    rc = SSL_read_ex(t->ssl, plain, sizeof(plain), &n);
    how = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, rc);
    if (t->out.len > waits && how != SSL_ERROR_SSL) {
        if (++t->answers > ANSWERS_MAX) {
            conn_fail(c, ERR_LIMIT);
            return false;
        }
        conn_tls_pump(c);
    }
    if (c->state != CONN_OPEN)
        return false;
    switch (how) {
    case SSL_ERROR_NONE: c->ops->on_data(c->ctx, c, (struct str) { plain, n }); return true;
    case SSL_ERROR_WANT_READ: return false;
    case SSL_ERROR_ZERO_RETURN:
        t->in = STR_NONE; /* nothing counts after close_notify */
        conn_end_of_data(c);
        return false;
    default: session_failed(c); return false;
    }
}

/* Uses up `in`, as far as the owner wants to hear it. */
static void work(struct conn *c)
{
    struct conn_tls *t = c->tls;
    bool more = true;

    if (!t->open)
        more = shake(c);
    while (more && c->state == CONN_OPEN && !c->paused && !c->eof)
        more = read_record(c);
    if (c->state == CONN_OPEN && t->in.n != 0 && !c->eof) {
        if (!buf_str(&t->held, t->in))
            conn_fail(c, ERR_NOMEM);
        else if (!c->paused) /* resumed by the last callback */
            loop_task_run_soon(c->loop, &t->resume);
    }
    t->in = STR_NONE;
}

void conn_tls_bytes(struct conn *c, struct str bytes)
{
    c->tls->in = bytes;
    work(c);
    conn_read_on(c);
}

bool conn_tls_reads(const struct conn *c)
{
    const struct conn_tls *t = c->tls;

    return t->started && (!c->paused || !t->open) && t->held.len == 0;
}

void conn_tls_resume(struct conn *c)
{
    if (c->tls->held.len != 0 && c->state == CONN_OPEN)
        loop_task_run_soon(c->loop, &c->tls->resume);
}

void conn_tls_start(struct conn *c)
{
    struct conn_tls *t = c->tls;

    t->started = true;
    loop_timer_arm(t->deadline, t->handshake_ms, 0);
    if (SSL_is_server(t->ssl))
        return;
    (void)shake(c);
    conn_read_on(c);
}

void conn_tls_closing(struct conn *c, bool clean)
{
    struct conn_tls *t = c->tls;
    uv_buf_t buf;

    loop_timer_free(t->deadline);
    t->deadline = NULL;
    loop_task_cancel(&t->resume);
    if (!clean || !t->open || t->notified || c->first != NULL || t->writing || t->pumping ||
        t->out.len != 0)
        return;
    say_goodbye(t); /* all that was written is out: the peer may take it for complete */
    buf = uv_buf_init(t->out.p, (unsigned)t->out.len);
    if (t->out.len != 0)
        (void)uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
}

struct str conn_alpn(const struct conn *c)
{
    const unsigned char *p = NULL;
    unsigned n = 0;

    if (c->tls != NULL)
        SSL_get0_alpn_selected(c->tls->ssl, &p, &n);
    return (struct str) { (const char *)p, n };
}

bool conn_is_tls(const struct conn *c)
{
    return c->tls != NULL;
}
