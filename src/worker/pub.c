/* KV events: batches leave the engine thread as bytes, the loop numbers and sends them.
 *
 * Sequence starts at 0 with AllBlocksCleared (the engine's first event), so that
 * an index without replay forgets this worker's previous life.  The last
 * messages are kept for replay, bounded in count and bytes. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/events.h"
#include "worker/worker_priv.h"
#include <stdio.h>
#include <string.h>

#define BATCH_BYTES_MAX ((size_t)8 << 20)
#define RING_BYTES_MAX  ((size_t)64 << 20)

struct kept {
    char *p;
    size_t n;
};

struct publisher {
    struct worker *w;
    struct zmtp_pub *pub;
    struct zmtp_router *router;
    char topic[600];
    uint64_t seq; /* of the next message */
    struct kept *ring;
    uint32_t ring_cap;
    uint64_t ring_first; /* oldest kept sequence */
    size_t ring_bytes;
};

static void be64(char out[8], uint64_t v)
{
    for (int i = 0; i < 8; i++)
        out[i] = (char)(v >> (56 - 8 * i));
}

static void drop_oldest(struct publisher *p)
{
    struct kept *k = &p->ring[p->ring_first % p->ring_cap];

    p->ring_bytes -= k->n;
    mem_free(k->p);
    *k = (struct kept) { 0 };
    p->ring_first++;
}

static void keep(struct publisher *p, char *bytes, size_t n)
{
    while (p->ring_first < p->seq &&
           (p->seq - p->ring_first >= p->ring_cap || p->ring_bytes + n > RING_BYTES_MAX))
        drop_oldest(p);
    p->ring[p->seq % p->ring_cap] = (struct kept) { bytes, n };
    p->ring_bytes += n;
}

struct outgoing {
    struct publisher *p;
    char *bytes;
    size_t n;
    uint32_t events;
};

/* A batch too large to send uses up its number, so that subscribers see a gap. */
static void skip_one(struct publisher *p)
{
    while (p->ring_first < p->seq)
        drop_oldest(p);
    p->ring_first = ++p->seq;
}

static void send_on_loop(void *ctx)
{
    struct outgoing *o = ctx;
    struct publisher *p = o->p;
    char seq[8];
    struct zmtp_msg m = { .count = 3 };

    if (o->bytes == NULL) {
        skip_one(p);
        mem_free(o);
        return;
    }
    be64(seq, p->seq);
    m.frame[0] = str_of(p->topic);
    m.frame[1] = (struct str) { seq, 8 };
    m.frame[2] = (struct str) { o->bytes, o->n };
    zmtp_pub_send(p->pub, &m);
    keep(p, o->bytes, o->n);
    p->seq++;
    metric_add(worker_metric(p->w, WM_EVENTS_SENT, NULL), o->events);
    mem_free(o);
}

/* Engine thread: folds keys, encodes, hands over. */
void publisher_events(void *ctx, const struct engine_kv_event *ev, uint32_t count)
{
    struct worker *w = ctx;
    struct kv_event *out;
    struct outgoing *o;
    struct arena a;
    struct buf b;

    if (w->pub == NULL || count == 0)
        return;
    arena_init(&a, SIZE_MAX);
    out = arena_alloc(&a, count * sizeof(*out));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t *hashes = arena_alloc(&a, (ev[i].key_count + 1) * sizeof(*hashes));

        for (uint32_t k = 0; k < ev[i].key_count; k++)
            hashes[k] = blockkey_fold(&ev[i].keys[k]);
        out[i] =
            (struct kv_event) { .kind = ev[i].kind == ENGINE_KV_STORED    ? KV_STORED
                                        : ev[i].kind == ENGINE_KV_REMOVED ? KV_REMOVED
                                                                          : KV_CLEARED,
                                .hashes = hashes,
                                .hash_count = ev[i].key_count,
                                .has_parent = ev[i].parent != NULL,
                                .parent = ev[i].parent != NULL ? blockkey_fold(ev[i].parent) : 0,
                                .tokens = ev[i].tokens,
                                .token_count =
                                    ev[i].tokens != NULL ? ev[i].key_count * ev[i].block_tokens : 0,
                                .block_size = ev[i].block_tokens,
                                .medium = STR("GPU"),
                                .salt = ev[i].salt };
    }
    buf_init(&b, BATCH_BYTES_MAX);
    kv_batch_encode(&b, &(struct kv_batch) { .ts = clock_wall_s(), .events = out, .count = count });
    arena_fini(&a);
    if (b.failed) {
        LOG_WARN("kv events dropped count=%u reason=too_large", count);
        buf_fini(&b); /* o->bytes stays NULL */
    }
    o = mem_zalloc(sizeof(*o));
    o->p = w->pub;
    o->events = count;
    if (b.p != NULL)
        o->bytes = buf_take(&b, &o->n);
    loop_post(w->loop, send_on_loop, o);
}

/* ["", BE64 first wanted] -> ["", topic, seq, payload] ... ["", "", ff..ff, ""] */
static void on_replay(void *ctx, struct zmtp_peer *peer, const struct zmtp_msg *m)
{
    struct publisher *p = ctx;
    struct zmtp_msg out = { .count = 4 };
    uint64_t from = 0;
    char seq[8];

    if (m->count != 2 || m->frame[0].n != 0 || m->frame[1].n != 8)
        return;
    for (size_t i = 0; i < 8; i++)
        from = from << 8 | (uint8_t)m->frame[1].p[i];
    for (uint64_t s = MAX(from, p->ring_first); s < p->seq; s++) {
        struct kept *k = &p->ring[s % p->ring_cap];

        be64(seq, s);
        out.frame[0] = STR("");
        out.frame[1] = str_of(p->topic);
        out.frame[2] = (struct str) { seq, 8 };
        out.frame[3] = (struct str) { k->p, k->n };
        if (zmtp_router_send(peer, &out) != 0)
            return; /* the peer reads too slowly: it asks again */
    }
    be64(seq, UINT64_MAX);
    out.frame[0] = out.frame[1] = out.frame[3] = STR("");
    out.frame[2] = (struct str) { seq, 8 };
    if (zmtp_router_send(peer, &out) != 0)
        LOG_DEBUG("kv events replay unfinished from=%llu", (unsigned long long)from);
}

/* "tcp://HOST:PORT", "*" meaning every interface. */
static int endpoint_parse(struct str s, char host[256], uint16_t *port, struct err *e)
{
    struct str rest = s;

    if (!str_starts(s, STR("tcp://")))
        return err_set(e, ERR_INVAL, "--kv-events-config: endpoint '%.*s' must be tcp://HOST:PORT",
                       STR_ARG(s));
    rest = str_sub(s, 6, SIZE_MAX);
    if (str_starts(rest, STR("*:"))) {
        char text[32];

        snprintf(text, sizeof(text), "0.0.0.0:%.*s", STR_ARG(str_sub(rest, 2, 8)));
        return addr_parse(str_of(text), host, port, e);
    }
    return addr_parse(rest, host, port, e);
}

int publisher_open(struct worker *w, const char *config, struct publisher **out, struct err *e)
{
    struct publisher *p = NULL;
    const struct json *j;
    struct str endpoint = STR("tcp://127.0.0.1:5557"), replay = STR_NONE, topic = STR_NONE;
    char host[256];
    uint16_t port;
    uint64_t steps = 10000;
    bool enabled = true;
    struct arena a;
    int rc;

    *out = NULL;
    arena_init(&a, (size_t)1 << 20);
    rc = json_parse(&a, str_of(config), NULL, &j, e);
    if (rc != 0 || j->type != JSON_OBJECT) {
        rc = err_set(e, ERR_INVAL,
                     "--kv-events-config: must be a JSON object like "
                     "{\"enable_kv_cache_events\":true,\"endpoint\":\"tcp://127.0.0.1:5557\"}");
        goto out;
    }
    (void)json_bool(json_get(j, "enable_kv_cache_events"), &enabled);
    (void)json_str(json_get(j, "endpoint"), &endpoint);
    (void)json_str(json_get(j, "replay_endpoint"), &replay);
    (void)json_str(json_get(j, "topic"), &topic);
    (void)json_u64(json_get(j, "buffer_steps"), &steps);
    if (!enabled)
        goto out;
    p = mem_zalloc(sizeof(*p));
    p->w = w;
    p->ring_cap = (uint32_t)MIN(MAX(steps, 1), 1000000);
    p->ring = mem_zalloc(p->ring_cap * sizeof(*p->ring));
    if (topic.n != 0)
        snprintf(p->topic, sizeof(p->topic), "%.*s", STR_ARG(topic));
    else
        snprintf(p->topic, sizeof(p->topic), "kv@%s@%s", w->address, w->model_name);
    rc = endpoint_parse(endpoint, host, &port, e);
    if (rc == 0)
        rc = zmtp_pub_open(w->loop, host, port, 0, &p->pub, e);
    if (rc == 0 && replay.n != 0) {
        rc = endpoint_parse(replay, host, &port, e);
        if (rc == 0)
            rc = zmtp_router_open(w->loop, host, port, on_replay, p, &p->router, e);
    }
    if (rc != 0)
        goto out;
    LOG_INFO("kv events published topic=%s port=%u", p->topic, zmtp_pub_port(p->pub));
    *out = p;
    p = NULL;
out:
    publisher_close(p);
    arena_fini(&a);
    return rc;
}

void publisher_close(struct publisher *p)
{
    if (p == NULL)
        return;
    if (p->router != NULL)
        zmtp_router_close(p->router);
    if (p->pub != NULL)
        zmtp_pub_close(p->pub);
    while (p->ring_first < p->seq)
        drop_oldest(p);
    mem_free(p->ring);
    mem_free(p);
}
