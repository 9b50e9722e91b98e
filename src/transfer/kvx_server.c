/* KVX producer: sends prompt blocks as soon as the engine has computed them.
 *
 *   consumer                      producer
 *   HELLO             <------->   HELLO           fingerprint, epoch, block bytes
 *   PUSH_OPEN(t, first, count) -> (held until the HTTP leg offers t)
 *                     <--------   PUSH_ACK(t, count)
 *                     <--------   DATA(index, key, crc) ...   as on_prefill reports them
 *                     <--------   DONE(count, digest)
 *   RELEASE(t)        -------->   lease ends, connection closes
 *
 * One connection carries one transfer, so closing it is the fence: nothing of
 * the transfer can arrive after.  A connection that ends without RELEASE frees
 * what the transfer held at once: the consumer computes the prompt itself.
 * Invariant: offer->session == s  <=>  s->offer == offer. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/conn.h"
#include "transfer/kvx_frame.h"
#include "transfer/transfer.h"
#include <string.h>

#define SESSIONS_MAX 256
#define OFFERS_MAX   1024
#define OPEN_WAIT_MS 10000 /* PUSH_OPEN may come before the HTTP leg */
#define WRITE_BYTES  ((size_t)4 << 20)

struct session;

struct offer {
    struct offer *next;
    struct kvx_id id;
    uint64_t request;
    uint32_t blocks, ready;
    bool finished, had_session;
    int rc;
    uint64_t born_ms, finished_ms;
    struct session *session;
};

struct session {
    struct session *next;
    struct kvx_server *server;
    struct conn *conn;
    struct kvx_reader reader;
    struct kvx_manifest manifest;
    struct kvx_id id;
    struct offer *offer;
    bool hello, open, done, released, closing;
    uint32_t first, count, sent;
    uint64_t born_ms;
};

struct kvx_server {
    struct loop *loop;
    struct engine *engine;
    struct listener *listener;
    struct loop_timer *timer;
    struct kvx_metrics metrics;
    uint64_t epoch;
    uint8_t fingerprint[32];
    size_t block_bytes, write_max;
    struct offer *offers;
    struct session *sessions;
    uint32_t offer_count, session_count;
};

static void count_add(struct metric_cell *c, double v)
{
    if (c != NULL)
        metric_add(c, v);
}

/* ---- sending ---- */

static bool send_frame(struct session *s, enum kvx_type type, const struct kvx_header *h)
{
    struct buf b;
    bool ok;

    buf_init(&b, KVX_FIXED_BYTES + KVX_HEADER_BYTES_MAX);
    kvx_frame_put(&b, type, h, 0);
    ok = !b.failed && conn_write(s->conn, buf_view(&b)) == 0;
    buf_fini(&b);
    return ok;
}

static void put_transfer(struct kvx_header *h, const struct session *s)
{
    memcpy(h->transfer, s->id.b, sizeof(h->transfer));
    h->attempt = 1;
    h->has |= 1u << KVX_F_TRANSFER | 1u << KVX_F_ATTEMPT;
}

static void send_hello(struct session *s)
{
    struct kvx_header h = { .has = 1u << KVX_F_PROTO | 1u << KVX_F_EPOCH | 1u << KVX_F_FINGERPRINT |
                                   1u << KVX_F_BLOCK_BYTES | 1u << KVX_F_BLOCK_TOKENS,
                            .proto = KVX_PROTO,
                            .epoch = s->server->epoch,
                            .block_bytes = s->server->block_bytes,
                            .block_tokens = engine_block_tokens(s->server->engine) };

    memcpy(h.fingerprint, s->server->fingerprint, sizeof(h.fingerprint));
    (void)send_frame(s, KVX_HELLO, &h);
}

static void fail(struct session *s, enum kvx_code code)
{
    struct kvx_header h = { .has = 1u << KVX_F_CODE, .code = code };

    if (s->closing)
        return;
    s->closing = true;
    (void)send_frame(s, KVX_ERROR, &h);
    conn_shutdown(s->conn); /* the peer closes; the sweep closes a peer that does not */
}

static void send_ack(struct session *s)
{
    struct kvx_header h = { .has = 1u << KVX_F_COUNT, .count = s->count };

    put_transfer(&h, s);
    (void)send_frame(s, KVX_PUSH_ACK, &h);
}

static void send_done(struct session *s)
{
    struct kvx_header h = { .has = 1u << KVX_F_COUNT | 1u << KVX_F_DIGEST, .count = s->sent };

    put_transfer(&h, s);
    kvx_manifest_digest(&s->manifest, h.digest);
    s->done = send_frame(s, KVX_DONE, &h);
}

/* Sends block first + sent.  0, ERR_AGAIN (later), or a failure. */
static int send_block(struct session *s)
{
    struct kvx_server *v = s->server;
    uint32_t index = s->first + s->sent, parts = 0;
    struct kvx_header h = { 0 };
    struct blockkey key;
    struct buf head;
    char *body;
    int rc;

    if (conn_queued(s->conn) + v->block_bytes + KVX_FIXED_BYTES + KVX_HEADER_BYTES_MAX >
        v->write_max) {
        conn_want_drain(s->conn);
        return ERR_AGAIN;
    }
    body = mem_try(v->block_bytes);
    if (body == NULL)
        return ERR_NOMEM;
    rc = engine_export_block(v->engine, s->offer->request, index, body, &key, &parts);
    if (rc != 0) {
        mem_free(body);
        return rc;
    }
    h = (struct kvx_header) { .has = 1u << KVX_F_INDEX | 1u << KVX_F_SEQ | 1u << KVX_F_PARTS |
                                     1u << KVX_F_KEY | 1u << KVX_F_CRC | 1u << KVX_F_LATE,
                              .index = index,
                              .seq = s->sent,
                              .parts = parts,
                              .crc = hash_crc32c(0, body, v->block_bytes),
                              .late = s->offer->ready == s->offer->blocks };
    memcpy(h.key, key.b, sizeof(h.key));
    put_transfer(&h, s);
    buf_init(&head, KVX_FIXED_BYTES + KVX_HEADER_BYTES_MAX);
    kvx_frame_put(&head, KVX_DATA, &h, v->block_bytes);
    rc = head.failed ? ERR_NOMEM : conn_write(s->conn, buf_view(&head));
    buf_fini(&head);
    if (rc == 0)
        rc = conn_write_ref(s->conn, (struct str) { body, v->block_bytes }, mem_free, body);
    if (rc != 0) {
        mem_free(body);
        return rc;
    }
    kvx_manifest_add(&s->manifest, h.key, (uint32_t)h.crc);
    s->sent++;
    count_add(v->metrics.bytes_sent, (double)v->block_bytes);
    return 0;
}

static void pump(struct session *s)
{
    struct offer *o = s->offer;

    if (o == NULL || s->done || s->closing)
        return;
    while (s->sent < s->count && s->first + s->sent < o->ready) {
        int rc = send_block(s);

        if (rc == ERR_AGAIN)
            return;
        if (rc != 0) {
            fail(s, rc == ERR_NOTFOUND ? KVX_E_LEASE_EXPIRED : KVX_E_INTERNAL);
            return;
        }
    }
    if (o->finished && o->rc != 0)
        fail(s, KVX_E_INTERNAL);
    else if (s->sent == s->count || o->finished)
        send_done(s);
}

/* ---- offers ---- */

static struct offer *offer_find(struct kvx_server *v, struct kvx_id id)
{
    for (struct offer *o = v->offers; o != NULL; o = o->next)
        if (memcmp(&o->id, &id, sizeof(id)) == 0)
            return o;
    return NULL;
}

static void offer_free(struct kvx_server *v, struct offer *o)
{
    struct offer **at = &v->offers;

    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    if (o->session != NULL)
        o->session->offer = NULL;
    mem_free(o);
    v->offer_count--;
}

static void join(struct session *s, struct offer *o)
{
    s->offer = o;
    o->session = s;
    o->had_session = true;
    if (s->first > o->blocks || s->count > o->blocks - s->first)
        s->count = o->blocks > s->first ? o->blocks - s->first : 0;
    send_ack(s);
    pump(s);
}

void kvx_server_offer(struct kvx_server *v, struct kvx_id id, uint64_t request, uint32_t blocks)
{
    struct offer *o;

    if (v->offer_count >= OFFERS_MAX || offer_find(v, id) != NULL)
        return; /* the consumer's PUSH_OPEN finds nothing and computes by itself */
    o = mem_zalloc(sizeof(*o));
    o->id = id;
    o->request = request;
    o->blocks = blocks;
    o->born_ms = clock_ms();
    o->next = v->offers;
    v->offers = o;
    v->offer_count++;
    for (struct session *s = v->sessions; s != NULL; s = s->next)
        if (s->open && s->offer == NULL && !s->closing && memcmp(&s->id, &id, sizeof(id)) == 0) {
            join(s, o);
            break;
        }
}

void kvx_server_progress(struct kvx_server *v, struct kvx_id id, uint32_t blocks)
{
    struct offer *o = offer_find(v, id);

    if (o == NULL || blocks <= o->ready)
        return;
    o->ready = MIN(blocks, o->blocks);
    if (o->session != NULL)
        pump(o->session);
}

/* Nobody will take it. */
static void offer_give_up(struct kvx_server *v, struct offer *o)
{
    if (!o->finished)
        engine_cancel(v->engine, o->request);
    engine_lease_release(v->engine, o->request);
    offer_free(v, o);
}

void kvx_server_finish(struct kvx_server *v, struct kvx_id id, int rc)
{
    struct offer *o = offer_find(v, id);

    if (o == NULL || o->finished)
        return;
    o->finished = true;
    o->rc = rc;
    o->finished_ms = clock_ms();
    if (rc == 0)
        o->ready = o->blocks;
    if (o->session != NULL)
        pump(o->session);
}

uint32_t kvx_server_transfers(const struct kvx_server *v)
{
    return v->offer_count;
}

/* ---- receiving ---- */

static int on_push_open(struct session *s, const struct kvx_header *h)
{
    const uint32_t want =
        1u << KVX_F_TRANSFER | 1u << KVX_F_FIRST | 1u << KVX_F_COUNT | 1u << KVX_F_EPOCH;
    struct offer *o;

    if ((h->has & want) != want || !s->hello || s->open || h->first > UINT32_MAX / 2 ||
        h->count > UINT32_MAX / 2)
        return ERR_PARSE;
    if (h->epoch != s->server->epoch) {
        count_add(s->server->metrics.verify_epoch, 1);
        fail(s, KVX_E_EPOCH);
        return 0;
    }
    memcpy(s->id.b, h->transfer, sizeof(s->id.b));
    s->first = (uint32_t)h->first;
    s->count = (uint32_t)h->count;
    s->open = true;
    s->born_ms = clock_ms();
    o = offer_find(s->server, s->id);
    if (o != NULL && o->session == NULL)
        join(s, o);
    else if (o != NULL)
        fail(s, KVX_E_BUSY); /* a transfer id serves one consumer */
    return 0;
}

/* A consumer that gave up before it could register (we were slow to say HELLO) names what it
 * does not want; without this the lease would have to expire. */
static void cancel_unopened(struct session *s, const struct kvx_header *h)
{
    struct offer *o;

    memcpy(s->id.b, h->transfer, sizeof(s->id.b));
    o = offer_find(s->server, s->id);
    if (o != NULL && o->session == NULL)
        offer_give_up(s->server, o);
}

static int on_frame(void *ctx, const struct kvx_frame *f)
{
    struct session *s = ctx;
    const struct kvx_header *h = &f->header;

    switch (f->type) {
    case KVX_HELLO:
        if (s->hello || !KVX_HAS(h, KVX_F_PROTO) || !KVX_HAS(h, KVX_F_FINGERPRINT))
            return ERR_PARSE;
        s->hello = true;
        send_hello(s);
        if (h->proto != KVX_PROTO) {
            fail(s, KVX_E_PROTO);
        } else if (memcmp(h->fingerprint, s->server->fingerprint, 32) != 0) {
            count_add(s->server->metrics.verify_fingerprint, 1);
            fail(s, KVX_E_FINGERPRINT);
        }
        return 0;
    case KVX_PUSH_OPEN: return on_push_open(s, h);
    case KVX_RENEW:
        if (s->offer != NULL)
            engine_lease_renew(s->server->engine, s->offer->request, KVX_RENEW_TO_MS);
        return 0;
    case KVX_RELEASE:
        s->released = s->done;
        conn_close(s->conn);
        return 0;
    case KVX_CANCEL: {
        struct kvx_header ack = { 0 };

        if (!s->open && KVX_HAS(h, KVX_F_TRANSFER))
            cancel_unopened(s, h);
        put_transfer(&ack, s);
        s->closing = true;
        (void)send_frame(s, KVX_CANCEL_ACK, &ack);
        conn_shutdown(s->conn);
        return 0;
    }
    default: return (f->flags & KVX_FLAG_OPTIONAL) != 0 ? 0 : ERR_PARSE;
    }
}

static void on_data(void *ctx, struct conn *c, struct str bytes)
{
    struct session *s = ctx;

    if (!s->closing && kvx_reader_feed(&s->reader, bytes, on_frame, s) != 0)
        conn_close(c);
}

static void on_drain(void *ctx, struct conn *c)
{
    (void)c;
    pump(ctx);
}

/* The transfer is over, whatever the reason: free what it held. */
static void on_close(void *ctx, struct conn *c, int rc)
{
    struct session *s = ctx, **at = &s->server->sessions;
    struct kvx_server *v = s->server;

    (void)c;
    (void)rc;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    v->session_count--;
    if (s->offer != NULL) {
        count_add(s->released ? v->metrics.transfers_ok : v->metrics.transfers_failed, 1);
        offer_give_up(v, s->offer);
    }
    kvx_reader_fini(&s->reader);
    kvx_manifest_fini(&s->manifest);
    mem_free(s);
}

static const struct conn_ops session_ops = { .on_data = on_data,
                                             .on_drain = on_drain,
                                             .on_close = on_close };

static void on_accept(void *ctx, struct conn *c)
{
    struct kvx_server *v = ctx;
    struct session *s;

    if (v->session_count >= SESSIONS_MAX) {
        conn_close(c);
        return;
    }
    s = mem_zalloc(sizeof(*s));
    s->server = v;
    s->conn = c;
    s->born_ms = clock_ms();
    kvx_reader_init(&s->reader, 0); /* consumers send no bodies */
    kvx_manifest_init(&s->manifest);
    s->next = v->sessions;
    v->sessions = s;
    v->session_count++;
    conn_set_ctx(c, &session_ops, s);
}

/* Twice a second: signs of life, and whoever stayed too long. */
static void sweep(void *ctx)
{
    struct kvx_server *v = ctx;
    uint64_t now = clock_ms();

    for (struct session *s = v->sessions, *next; s != NULL; s = next) {
        struct kvx_header none = { 0 };

        next = s->next;
        if (s->closing) {
            if (now - s->born_ms > KVX_SETUP_MS)
                conn_close(s->conn);
        } else if (!s->open && now - s->born_ms > KVX_SETUP_MS) {
            conn_close(s->conn);
        } else if (s->open && s->offer == NULL && now - s->born_ms > OPEN_WAIT_MS) {
            fail(s, KVX_E_UNKNOWN_REQUEST);
        } else if (s->hello) {
            (void)send_frame(s, KVX_PING, &none);
        }
    }
    for (struct offer *o = v->offers, *next; o != NULL; o = next) {
        /* One that failed holds nothing: it stays to tell a consumer that is on its way. */
        uint64_t stay_ms = o->rc != 0 ? KVX_SETUP_MS : KVX_LEASE_MS;

        next = o->next;
        if (o->session == NULL && o->finished && now - o->finished_ms > stay_ms) {
            count_add(v->metrics.lease_expired, o->rc == 0);
            engine_lease_release(v->engine, o->request);
            offer_free(v, o);
        }
    }
}

int kvx_server_open(struct loop *l, struct engine *en, const char *host, uint16_t port,
                    uint64_t epoch, const struct kvx_metrics *m, struct kvx_server **out,
                    struct err *e)
{
    struct kvx_server *v = mem_zalloc(sizeof(*v));
    struct conn_opts opts;
    int rc;

    *out = NULL;
    v->loop = l;
    v->engine = en;
    v->epoch = epoch;
    v->block_bytes = engine_kv_block_bytes(en);
    v->write_max = MAX(WRITE_BYTES, 4 * v->block_bytes);
    if (m != NULL)
        v->metrics = *m;
    engine_fingerprint(en, v->fingerprint);
    opts = (struct conn_opts) { .write_max = v->write_max };
    rc = listener_open(l, host, port, &opts, on_accept, v, &v->listener, e);
    if (rc != 0) {
        mem_free(v);
        return rc;
    }
    v->timer = loop_timer_new(l, sweep, v);
    loop_timer_arm(v->timer, KVX_PING_MS, KVX_PING_MS);
    *out = v;
    return 0;
}

uint16_t kvx_server_port(const struct kvx_server *v)
{
    return listener_port(v->listener);
}

/* Runs on the loop; the sessions' on_close follow on later turns, so the server is freed by the
 * last of them: here everything is detached by hand instead. */
void kvx_server_close(struct kvx_server *v)
{
    if (v == NULL)
        return;
    listener_close(v->listener);
    loop_timer_free(v->timer);
    while (v->sessions != NULL) {
        static const struct conn_ops nothing = { 0 };
        struct session *s = v->sessions;

        v->sessions = s->next;
        conn_set_ctx(s->conn, &nothing, NULL);
        conn_close(s->conn);
        kvx_reader_fini(&s->reader);
        kvx_manifest_fini(&s->manifest);
        mem_free(s);
    }
    while (v->offers != NULL) {
        v->offers->session = NULL;
        engine_lease_release(v->engine, v->offers->request);
        offer_free(v, v->offers);
    }
    mem_free(v);
}
