/* KVX consumer: registers where it wants a prompt's blocks, verifies and imports them.
 *
 * States: CONNECT -> HELLO -> OPEN (PUSH_OPEN sent) -> DATA -> finished.  A block is
 * imported only after its CRC-32C matched; the engine checks its key against the
 * prompt's own chain; DONE's digest must equal ours.  When the engine has no free
 * block (ERR_AGAIN) the connection is paused and the import tried again, so
 * back-pressure reaches the producer.
 * One outcome: finish() runs once, tells the engine, then the owner. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/conn.h"
#include "transfer/kvx_frame.h"
#include "transfer/transfer.h"
#include <string.h>

#define TICK_MS   20
#define PULLS_MAX 256

struct kvx_client {
    struct loop *loop;
    struct engine *engine;
    struct kvx_metrics metrics;
    uint64_t epoch;
    uint8_t fingerprint[32];
    size_t block_bytes;
    struct kvx_pull *pulls;
    uint32_t pull_count;
};

enum pull_state { PULL_CONNECT, PULL_HELLO, PULL_OPEN, PULL_FINISHED };

struct held {
    struct held *next;
    struct kvx_header header;
    char body[];
};

struct kvx_pull {
    struct kvx_pull *next;
    struct kvx_client *client;
    struct conn *conn;
    struct loop_timer *timer;
    struct kvx_reader reader;
    struct kvx_manifest manifest;
    struct kvx_id id;
    enum pull_state state;
    uint64_t producer_epoch, request;
    uint32_t first, count, got;
    uint64_t start_ms; /* of the pull; once finished, of its end */
    uint64_t last_ms, deadline_ms, renew_ms;
    /* Verified blocks that wait for room in the engine: the first, and those that were read with
     * it before the pause. */
    struct held *held, **held_end;
    uint32_t held_count;
    /* DONE that came while blocks were held. */
    bool done_seen;
    struct kvx_header done_header;
    uint64_t bytes, bytes_hidden;
    void (*on_done)(void *ctx, const struct kvx_result *r);
    void *ctx;
};

static void count_add(struct metric_cell *c, double v)
{
    if (c != NULL)
        metric_add(c, v);
}

static bool send_frame(struct kvx_pull *p, enum kvx_type type, const struct kvx_header *h)
{
    struct buf b;
    bool ok;

    buf_init(&b, KVX_FIXED_BYTES + KVX_HEADER_BYTES_MAX);
    kvx_frame_put(&b, type, h, 0);
    ok = !b.failed && conn_write(p->conn, buf_view(&b)) == 0;
    buf_fini(&b);
    return ok;
}

static struct kvx_header transfer_header(const struct kvx_pull *p)
{
    struct kvx_header h = { .has = 1u << KVX_F_TRANSFER | 1u << KVX_F_ATTEMPT, .attempt = 1 };

    memcpy(h.transfer, p->id.b, sizeof(h.transfer));
    return h;
}

static void held_pop(struct kvx_pull *p)
{
    struct held *h = p->held;

    p->held = h->next;
    if (p->held == NULL)
        p->held_end = &p->held;
    p->held_count--;
    mem_free(h);
}

static bool held_push(struct kvx_pull *p, const struct kvx_frame *f)
{
    struct held *h = mem_try(sizeof(*h) + f->body.n);

    if (h == NULL)
        return false;
    h->next = NULL;
    h->header = f->header;
    memcpy(h->body, f->body.p, f->body.n);
    *p->held_end = h;
    p->held_end = &h->next;
    p->held_count++;
    return true;
}

/* Detaches from the client; p itself is freed by the connection's on_close. */
static void drop(struct kvx_pull *p)
{
    struct kvx_pull **at = &p->client->pulls;

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    p->client->pull_count--;
    p->state = PULL_FINISHED;
    p->start_ms = clock_ms();
    kvx_manifest_fini(&p->manifest);
    while (p->held != NULL)
        held_pop(p);
}

/* Says the last word and half-closes; tick() closes a peer that does not follow. */
static void end_conn(struct kvx_pull *p, enum kvx_type last, bool opened)
{
    struct kvx_header h = transfer_header(p);

    if (p->conn == NULL)
        return;
    if (!opened) {
        conn_close(p->conn);
        return;
    }
    (void)send_frame(p, last, &h);
    conn_resume(p->conn);
    conn_shutdown(p->conn);
}

static void finish(struct kvx_pull *p, int rc, const char *reason)
{
    struct kvx_client *c = p->client;
    struct kvx_result r = { .rc = rc,
                            .reason = reason,
                            .blocks = p->got,
                            .blocks_wanted = p->count,
                            .bytes = p->bytes,
                            .bytes_hidden = p->bytes_hidden,
                            .seconds = (double)(clock_ms() - p->start_ms) / 1000.0 };
    bool opened = p->state != PULL_CONNECT;

    ASSERT(p->state != PULL_FINISHED);
    count_add(rc == 0 ? c->metrics.transfers_ok : c->metrics.transfers_failed, 1);
    drop(p);
    engine_import_done(c->engine, p->request, rc);
    p->on_done(p->ctx, &r);
    end_conn(p, rc == 0 ? KVX_RELEASE : KVX_CANCEL, opened);
}

static void try_done(struct kvx_pull *p)
{
    uint8_t digest[16];

    if (!p->done_seen || p->held != NULL)
        return;
    kvx_manifest_digest(&p->manifest, digest);
    if (p->done_header.count != p->got || memcmp(digest, p->done_header.digest, 16) != 0) {
        count_add(p->client->metrics.verify_crc, 1);
        finish(p, ERR_MISMATCH, "manifest");
    } else {
        finish(p, 0, "ok");
    }
}

/* Imports one verified block.  ERR_AGAIN: no room yet. */
static int import(struct kvx_pull *p, const struct kvx_header *h, const char *body)
{
    struct blockkey key;
    int rc;

    memcpy(key.b, h->key, sizeof(key.b));
    rc = engine_import_block(p->client->engine, p->request, (uint32_t)h->index, &key,
                             (uint32_t)h->parts, body);
    if (rc == ERR_AGAIN)
        return rc;
    if (rc != 0) {
        if (rc == ERR_MISMATCH)
            count_add(p->client->metrics.verify_key, 1);
        finish(p, rc, rc == ERR_MISMATCH ? "key" : "gone");
        return rc;
    }
    kvx_manifest_add(&p->manifest, h->key, (uint32_t)h->crc);
    p->got++;
    p->bytes += p->client->block_bytes;
    if (h->late == 0) {
        p->bytes_hidden += p->client->block_bytes;
        count_add(p->client->metrics.bytes_hidden, (double)p->client->block_bytes);
    }
    count_add(p->client->metrics.bytes_received, (double)p->client->block_bytes);
    return 0;
}

static int on_block(struct kvx_pull *p, const struct kvx_frame *f)
{
    const uint32_t want = 1u << KVX_F_TRANSFER | 1u << KVX_F_INDEX | 1u << KVX_F_SEQ |
                          1u << KVX_F_PARTS | 1u << KVX_F_KEY | 1u << KVX_F_CRC | 1u << KVX_F_LATE;
    const struct kvx_header *h = &f->header;
    uint32_t seq = p->got + p->held_count;

    if ((h->has & want) != want || p->state != PULL_OPEN || p->done_seen ||
        f->body.n != p->client->block_bytes || memcmp(h->transfer, p->id.b, 16) != 0)
        return ERR_PARSE;
    if (h->seq != seq || h->index != (uint64_t)p->first + seq || seq >= p->count)
        return ERR_PARSE;
    if (hash_crc32c(0, f->body.p, f->body.n) != (uint32_t)h->crc) {
        count_add(p->client->metrics.verify_crc, 1);
        finish(p, ERR_MISMATCH, "crc");
        return ERR_CANCELLED;
    }
    if (p->held != NULL || import(p, h, f->body.p) == ERR_AGAIN) {
        if (!held_push(p, f)) {
            finish(p, ERR_NOMEM, "nomem");
            return ERR_CANCELLED;
        }
        conn_pause(p->conn);
    }
    return p->state == PULL_FINISHED ? ERR_CANCELLED : 0;
}

static int on_hello(struct kvx_pull *p, const struct kvx_header *h)
{
    struct kvx_client *c = p->client;
    struct kvx_header open = transfer_header(p);

    if (p->state != PULL_HELLO || !KVX_HAS(h, KVX_F_FINGERPRINT) || !KVX_HAS(h, KVX_F_EPOCH) ||
        !KVX_HAS(h, KVX_F_BLOCK_BYTES))
        return ERR_PARSE;
    if (memcmp(h->fingerprint, c->fingerprint, 32) != 0 || h->block_bytes != c->block_bytes) {
        count_add(c->metrics.verify_fingerprint, 1);
        finish(p, ERR_MISMATCH, "fingerprint");
        return ERR_CANCELLED;
    }
    if (h->epoch != p->producer_epoch) {
        count_add(c->metrics.verify_epoch, 1);
        finish(p, ERR_MISMATCH, "epoch");
        return ERR_CANCELLED;
    }
    open.has |= 1u << KVX_F_FIRST | 1u << KVX_F_COUNT | 1u << KVX_F_EPOCH;
    open.first = p->first;
    open.count = p->count;
    open.epoch = p->producer_epoch;
    (void)send_frame(p, KVX_PUSH_OPEN, &open);
    p->state = PULL_OPEN;
    return 0;
}

static const char *error_reason(uint64_t code)
{
    switch (code) {
    case KVX_E_PROTO: return "proto";
    case KVX_E_FINGERPRINT: return "fingerprint";
    case KVX_E_UNKNOWN_REQUEST: return "unknown_request";
    case KVX_E_LEASE_EXPIRED: return "lease_expired";
    case KVX_E_BUSY: return "busy";
    case KVX_E_EPOCH: return "epoch";
    default: return "producer";
    }
}

static int on_frame(void *ctx, const struct kvx_frame *f)
{
    struct kvx_pull *p = ctx;

    p->last_ms = clock_ms();
    switch (f->type) {
    case KVX_HELLO: return on_hello(p, &f->header);
    case KVX_PING:
    case KVX_PUSH_ACK: return 0;
    case KVX_DATA: return on_block(p, f);
    case KVX_DONE:
        if (!KVX_HAS(&f->header, KVX_F_COUNT) || !KVX_HAS(&f->header, KVX_F_DIGEST) || p->done_seen)
            return ERR_PARSE;
        p->done_seen = true;
        p->done_header = f->header;
        try_done(p);
        return p->state == PULL_FINISHED ? ERR_CANCELLED : 0;
    case KVX_ERROR: finish(p, ERR_IO, error_reason(f->header.code)); return ERR_CANCELLED;
    case KVX_CANCEL_ACK: return 0;
    default: return (f->flags & KVX_FLAG_OPTIONAL) != 0 ? 0 : ERR_PARSE;
    }
}

static void on_open(void *ctx, struct conn *c)
{
    struct kvx_pull *p = ctx;
    struct kvx_header h = { .has = 1u << KVX_F_PROTO | 1u << KVX_F_EPOCH | 1u << KVX_F_FINGERPRINT,
                            .proto = KVX_PROTO,
                            .epoch = p->client->epoch };

    (void)c;
    memcpy(h.fingerprint, p->client->fingerprint, sizeof(h.fingerprint));
    p->state = PULL_HELLO;
    p->last_ms = clock_ms();
    (void)send_frame(p, KVX_HELLO, &h);
}

static void on_data(void *ctx, struct conn *c, struct str bytes)
{
    struct kvx_pull *p = ctx;
    int rc;

    (void)c;
    if (p->state == PULL_FINISHED)
        return;
    rc = kvx_reader_feed(&p->reader, bytes, on_frame, p);
    if (rc != 0 && p->state != PULL_FINISHED)
        finish(p, rc, rc == ERR_MISMATCH ? "header_crc" : "proto");
}

static void on_close(void *ctx, struct conn *c, int rc)
{
    struct kvx_pull *p = ctx;

    (void)c;
    p->conn = NULL;
    if (p->state != PULL_FINISHED)
        finish(p, rc != 0 ? rc : ERR_CLOSED, p->state == PULL_CONNECT ? "connect" : "closed");
    loop_timer_free(p->timer);
    kvx_reader_fini(&p->reader);
    mem_free(p);
}

static const struct conn_ops pull_ops = { .on_open = on_open,
                                          .on_data = on_data,
                                          .on_close = on_close };

static void tick(void *ctx)
{
    struct kvx_pull *p = ctx;
    uint64_t now = clock_ms();

    if (p->state == PULL_FINISHED) {
        if (now - p->start_ms > KVX_SETUP_MS)
            conn_close(p->conn);
        return;
    }
    if (now >= p->deadline_ms) {
        finish(p, ERR_TIMEOUT, "deadline");
        return;
    }
    if (p->state == PULL_OPEN && now >= p->renew_ms) {
        struct kvx_header h = transfer_header(p);

        p->renew_ms = now + KVX_RENEW_EVERY_MS;
        (void)send_frame(p, KVX_RENEW, &h);
    }
    if (p->held != NULL) {
        while (p->held != NULL && import(p, &p->held->header, p->held->body) == 0)
            held_pop(p);
        if (p->state == PULL_FINISHED || p->held != NULL)
            return; /* failed, or still no room */
        p->last_ms = now;
        conn_resume(p->conn);
        try_done(p);
        return;
    }
    if (p->state != PULL_OPEN ? now - p->start_ms > KVX_SETUP_MS : now - p->last_ms > KVX_GAP_MS)
        finish(p, ERR_TIMEOUT, p->state != PULL_OPEN ? "connect" : "silent");
}

struct kvx_client *kvx_client_new(struct loop *l, struct engine *en, uint64_t epoch,
                                  const struct kvx_metrics *m)
{
    struct kvx_client *c = mem_zalloc(sizeof(*c));

    c->loop = l;
    c->engine = en;
    c->epoch = epoch;
    c->block_bytes = engine_kv_block_bytes(en);
    if (m != NULL)
        c->metrics = *m;
    engine_fingerprint(en, c->fingerprint);
    return c;
}

void kvx_client_free(struct kvx_client *c)
{
    if (c == NULL)
        return;
    while (c->pulls != NULL)
        kvx_pull_cancel(c->pulls);
    mem_free(c);
}

int kvx_pull_start(struct kvx_client *c, const char *host, uint16_t port, struct kvx_id id,
                   uint64_t producer_epoch, uint64_t request, uint32_t first, uint32_t count,
                   uint32_t deadline_ms, void (*on_done)(void *ctx, const struct kvx_result *r),
                   void *ctx, struct kvx_pull **out, struct err *e)
{
    struct conn_opts opts = { .connect_ms = KVX_SETUP_MS / 2 };
    struct kvx_pull *p;
    int rc;

    *out = NULL;
    if (c->pull_count >= PULLS_MAX)
        return err_set(e, ERR_LIMIT, "more than %d transfers at once", PULLS_MAX);
    p = mem_zalloc(sizeof(*p));
    p->client = c;
    p->id = id;
    p->producer_epoch = producer_epoch;
    p->request = request;
    p->first = first;
    p->count = count;
    p->held_end = &p->held;
    p->start_ms = p->last_ms = clock_ms();
    p->deadline_ms = p->start_ms + deadline_ms;
    p->renew_ms = p->start_ms + KVX_RENEW_EVERY_MS;
    p->on_done = on_done;
    p->ctx = ctx;
    rc = conn_open(c->loop, host, port, &opts, &pull_ops, p, &p->conn, e);
    if (rc != 0) {
        mem_free(p);
        return rc;
    }
    kvx_reader_init(&p->reader, c->block_bytes);
    kvx_manifest_init(&p->manifest);
    p->timer = loop_timer_new(c->loop, tick, p);
    loop_timer_arm(p->timer, TICK_MS, TICK_MS);
    p->next = c->pulls;
    c->pulls = p;
    c->pull_count++;
    *out = p;
    return 0;
}

void kvx_pull_cancel(struct kvx_pull *p)
{
    bool opened;

    if (p == NULL || p->state == PULL_FINISHED)
        return;
    opened = p->state != PULL_CONNECT;
    drop(p);
    end_conn(p, KVX_CANCEL, opened);
}
