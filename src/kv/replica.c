/* A scheduler's copy of the index.
 *
 *   connect --HELLO--> fill `next` --READY--> `next` becomes `view`; changes go to it
 *      ^                    |                          |
 *      `---- back-off <-----+---- lost, malformed, silent for 3 s, or the counts differ
 *
 * The old view answers until the new snapshot is complete, so a short absence of
 * the manager costs nothing.  Endpoint numbers: a new index is given the known
 * addresses in their order first, so that they stay; the manager's own numbers
 * are mapped, as another manager (or the same one restarted) may count otherwise.
 * Every heartbeat carries the number of pairs: a copy that went wrong is noticed
 * within a second. */
// SPDX-License-Identifier: Apache-2.0
#include "kv/replica.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kv/stream_priv.h"
#include "net/http.h"

#define KEEP_MS          10000
#define SILENT_MS        (3 * KV_STREAM_BEAT_MS)
#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS   2000
#define TICK_MS          250
#define UNMAPPED         UINT32_MAX
#define SLACK_BLOCKS     ((uint64_t)1 << 20) /* the manager evicts, the copy must not */

struct replica {
    pthread_mutex_t *lock; /* NULL: none */
    struct loop *loop;
    struct http_client *client;
    struct http_call *call;
    struct loop_timer *retry, *tick;
    char *host, *seed;
    uint16_t port;
    struct kv_index_opts opts;
    uint32_t keep_ms, backoff_ms;

    struct kv_index *view, *next;      /* next: a snapshot that is not complete */
    uint32_t number[KV_ENDPOINTS_MAX]; /* the manager's number -> ours */
    struct kv_stream_reader reader;
    bool is_said;      /* the present trouble is in the log */
    uint64_t heard_ms; /* last frame; 0 = never */
    uint64_t lost_ms;  /* since when there is no complete stream; 0 = there is one */
    uint64_t snapshots;
};

static void start(void *ctx);

/* ---- frames ---- */

static struct kv_index *target(const struct replica *r)
{
    return r->next != NULL ? r->next : r->view;
}

static int on_hello(struct replica *r, const struct kv_frame *f)
{
    struct kv_index_opts o = r->opts;

    if (f->version != KV_STREAM_VERSION || f->block_tokens != r->opts.block_tokens ||
        f->hash != r->opts.hash || !str_eqz(f->seed, r->seed)) {
        if (!r->is_said)
            LOG_ERROR("index stream refused: the cache manager makes other keys version=%u "
                      "block_tokens=%u hash=%d; "
                      "give both the same --block-size and seed",
                      f->version, f->block_tokens, (int)f->hash);
        r->is_said = true;
        return ERR_MISMATCH;
    }
    if (r->next != NULL || r->lost_ms == 0)
        return ERR_PARSE; /* in the middle of a stream */
    o.blocks_max = (size_t)MIN(f->blocks_max, UINT64_MAX - SLACK_BLOCKS) + SLACK_BLOCKS;
    r->next = kv_index_new(&o);
    for (uint32_t i = 0; i < kv_index_endpoint_count(r->view); i++) {
        uint32_t same;

        if (kv_index_endpoint(r->next, kv_index_address(r->view, i), kv_index_model(r->view, i),
                              &same) != 0)
            return ERR_NOMEM;
        ASSERT(same == i);
    }
    for (size_t i = 0; i < COUNT(r->number); i++)
        r->number[i] = UNMAPPED;
    return 0;
}

static int on_endpoint(struct replica *r, const struct kv_frame *f)
{
    struct kv_index *x = target(r);
    uint32_t mine;

    if (f->endpoint >= COUNT(r->number) || f->address.n == 0)
        return ERR_PARSE;
    if (kv_index_endpoint(x, f->address, f->model, &mine) != 0)
        return ERR_LIMIT;
    r->number[f->endpoint] = mine;
    return 0;
}

static bool mapped(const struct replica *r, uint32_t theirs, uint32_t *mine)
{
    *mine = theirs < COUNT(r->number) ? r->number[theirs] : UNMAPPED;
    return *mine != UNMAPPED;
}

static int on_keys(struct replica *r, const struct kv_frame *f)
{
    struct kv_index *x = target(r);
    uint32_t mine;

    if (!mapped(r, f->endpoint, &mine))
        return ERR_PARSE;
    for (uint32_t i = 0; i < f->count; i++)
        if (f->type == KV_FRAME_ADD)
            kv_index_add(x, mine, kv_frame_key(f, i));
        else
            kv_index_del(x, mine, kv_frame_key(f, i));
    return 0;
}

static int on_pairs(struct replica *r, const struct kv_frame *f)
{
    if (r->next == NULL)
        return ERR_PARSE;
    for (uint32_t i = 0; i < f->count; i++) {
        uint32_t theirs, mine;
        uint64_t key = kv_frame_pair(f, i, &theirs);

        if (!mapped(r, theirs, &mine))
            return ERR_PARSE;
        kv_index_add(r->next, mine, key);
    }
    return 0;
}

/* READY and heartbeats: the manager's count of pairs must be ours. */
static int on_count(struct replica *r, const struct kv_frame *f)
{
    uint64_t mine = kv_index_total(target(r));

    if (mine != f->pairs) {
        LOG_WARN("index copy differs: asking for a new snapshot mine=%llu theirs=%llu",
                 (unsigned long long)mine, (unsigned long long)f->pairs);
        return ERR_MISMATCH;
    }
    if (f->type == KV_FRAME_BEAT)
        return r->next == NULL ? 0 : ERR_PARSE;
    if (r->next == NULL)
        return ERR_PARSE;
    kv_index_free(r->view);
    r->view = r->next;
    r->next = NULL;
    r->lost_ms = 0;
    r->backoff_ms = BACKOFF_FIRST_MS;
    r->is_said = false;
    r->snapshots++;
    LOG_INFO("index followed manager=%s:%u pairs=%llu endpoints=%u", r->host, r->port,
             (unsigned long long)f->pairs, kv_index_endpoint_count(r->view));
    return 0;
}

static int on_frame(void *ctx, const struct kv_frame *f)
{
    struct replica *r = ctx;
    uint32_t mine;

    if (f->type == KV_FRAME_HELLO)
        return on_hello(r, f);
    if (r->next == NULL && r->lost_ms != 0)
        return ERR_PARSE; /* before HELLO */
    switch (f->type) {
    case KV_FRAME_ENDPOINT: return on_endpoint(r, f);
    case KV_FRAME_PAIRS: return on_pairs(r, f);
    case KV_FRAME_ADD:
    case KV_FRAME_DEL: return on_keys(r, f);
    case KV_FRAME_CLEAR:
        if (!mapped(r, f->endpoint, &mine))
            return ERR_PARSE;
        kv_index_clear(target(r), mine);
        return 0;
    case KV_FRAME_READY:
    case KV_FRAME_BEAT: return on_count(r, f);
    case KV_FRAME_HELLO: break;
    }
    return ERR_PARSE;
}

/* ---- connection ---- */

static void hold(struct replica *r)
{
    if (r->lock != NULL)
        pthread_mutex_lock(r->lock);
}

static void let_go(struct replica *r)
{
    if (r->lock != NULL)
        pthread_mutex_unlock(r->lock);
}

/* The stream is no more (its call is over or cancelled): the view ages, a new try comes. */
static void lost(struct replica *r, const char *why)
{
    uint64_t now = clock_ms();

    r->call = NULL;
    if (r->lost_ms == 0)
        r->lost_ms = MAX(now, (uint64_t)1);
    if (!r->is_said)
        LOG_WARN("index not followed manager=%s:%u reason=%s", r->host, r->port, why);
    r->is_said = true;
    kv_index_free(r->next);
    r->next = NULL;
    kv_stream_reader_fini(&r->reader);
    kv_stream_reader_init(&r->reader);
    loop_timer_arm(r->retry, r->backoff_ms + rng_secure_u64() % (r->backoff_ms / 4 + 1), 0);
    r->backoff_ms = MIN(r->backoff_ms * 2, (uint32_t)BACKOFF_MAX_MS);
}

static void give_up(struct replica *r, const char *why)
{
    http_call_cancel(r->call);
    lost(r, why);
}

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    struct replica *r = ctx;

    hold(r);
    if (status != 200 || !str_eqz(http_header_get(h, "content-type"), KV_STREAM_TYPE))
        give_up(r, "the answer is no index stream");
    let_go(r);
}

static void on_body(void *ctx, struct str bytes)
{
    struct replica *r = ctx;
    int rc;

    if (r->call == NULL)
        return;
    hold(r);
    r->heard_ms = MAX(clock_ms(), (uint64_t)1);
    rc = kv_stream_feed(&r->reader, bytes, on_frame, r);
    if (rc != 0)
        give_up(r, rc == ERR_MISMATCH ? "mismatch" : "malformed");
    let_go(r);
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct replica *r = ctx;

    (void)sent;
    (void)got;
    hold(r);
    lost(r, rc == 0 ? "ended" : err_name(rc));
    let_go(r);
}

static void start(void *ctx)
{
    static const struct http_call_ops ops = { on_head, on_body, on_end };
    struct replica *r = ctx;
    struct http_call_opts o = { .host = r->host,
                                .port = r->port,
                                .method = STR("GET"),
                                .path = STR(KV_STREAM_PATH),
                                .connect_ms = 1000,
                                .first_byte_ms = SILENT_MS,
                                .gap_ms = SILENT_MS,
                                .total_ms = UINT32_MAX };
    struct err e;

    if (http_call_start(r->client, &o, &ops, r, &r->call, &e) == 0)
        return;
    hold(r);
    lost(r, e.msg);
    let_go(r);
}

/* Empties a view that has been without its manager for too long. */
static void on_tick(void *ctx)
{
    struct replica *r = ctx;

    if (r->lost_ms == 0 || clock_ms() - r->lost_ms < r->keep_ms || kv_index_total(r->view) == 0)
        return;
    LOG_WARN("index view dropped: no manager for %u ms", r->keep_ms);
    hold(r);
    for (uint32_t i = 0; i < kv_index_endpoint_count(r->view); i++)
        kv_index_clear(r->view, i);
    let_go(r);
}

int replica_new(struct loop *l, const struct replica_opts *o, struct replica **out, struct err *e)
{
    struct replica *r;

    *out = NULL;
    if (o->host == NULL || o->host[0] == 0 || o->port == 0)
        return err_set(e, ERR_INVAL, "the cache manager's address needs a host and a port");
    r = mem_zalloc(sizeof(*r));
    r->loop = l;
    r->host = mem_strdup(o->host);
    r->port = o->port;
    r->seed = mem_strdup(o->index.seed != NULL ? o->index.seed : "");
    r->opts = o->index;
    r->opts.seed = r->seed;
    if (r->opts.block_tokens == 0)
        r->opts.block_tokens = BLOCKKEY_TOKENS_DEFAULT;
    r->lock = o->lock;
    r->keep_ms = o->keep_ms != 0 ? o->keep_ms : KEEP_MS;
    r->backoff_ms = BACKOFF_FIRST_MS;
    r->view = kv_index_new(&r->opts);
    r->lost_ms = MAX(clock_ms(), (uint64_t)1);
    kv_stream_reader_init(&r->reader);
    r->client = http_client_new(l);
    r->retry = loop_timer_new(l, start, r);
    r->tick = loop_timer_new(l, on_tick, r);
    loop_timer_arm(r->tick, TICK_MS, TICK_MS);
    loop_timer_arm(r->retry, 0, 0);
    *out = r;
    return 0;
}

const struct kv_index *replica_index(const struct replica *r)
{
    return r->view;
}

bool replica_up(const struct replica *r)
{
    return r->lost_ms == 0 && replica_age_ms(r) <= SILENT_MS;
}

uint32_t replica_age_ms(const struct replica *r)
{
    if (r->heard_ms == 0)
        return UINT32_MAX;
    return (uint32_t)MIN(MAX(clock_ms(), r->heard_ms) - r->heard_ms, (uint64_t)UINT32_MAX - 1);
}

uint64_t replica_snapshots(const struct replica *r)
{
    return r->snapshots;
}

void replica_free(struct replica *r)
{
    if (r == NULL)
        return;
    loop_timer_free(r->retry);
    loop_timer_free(r->tick);
    http_client_free(r->client);
    kv_stream_reader_fini(&r->reader);
    kv_index_free(r->view);
    kv_index_free(r->next);
    mem_free(r->host);
    mem_free(r->seed);
    mem_free(r);
}
