/* The index stream: a snapshot, then every change, to each scheduler that asks.
 *
 * The snapshot goes part by part as fast as the subscriber reads, while changes
 * go out at once.  Both say how things are at the moment they are written, and
 * a part is written only after every change before it, so whichever comes last
 * for a key is right, and no copy of the index is needed.
 *
 *   index --changes--> m->changes --copied--> subscriber's out --chunks--> HTTP
 *                        snapshot part --------^ (only when out is empty)
 *
 * out is bounded: a subscriber that reads too slowly is cut off and begins anew. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/manager_priv.h"

#define SUBSCRIBERS_MAX 64
#define OUT_BYTES_MAX   ((size_t)64 << 20)
#define CHUNK_BYTES     ((size_t)64 << 10)

struct kv_subscriber {
    struct kv_subscriber *next;
    struct kv_manager *m;
    struct http_req *r;
    struct buf out;
    size_t out_at; /* sent so far */
    uint32_t part; /* of the snapshot, next to be written */
    bool is_ready_sent;
    bool is_blocked; /* waits for on_drain */
};

static void drop(struct kv_subscriber *s)
{
    struct kv_manager *m = s->m;

    for (struct kv_subscriber **at = &m->subscribers; *at != NULL; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    m->subscriber_count--;
    metric_set(m->cell[KM_STREAMS], (double)m->subscriber_count);
    buf_fini(&s->out);
    mem_free(s);
}

static void cut_off(struct kv_subscriber *s)
{
    LOG_WARN("index stream overflow subscriber=%s bytes=%zu", http_req_peer(s->r),
             s->out.len - s->out_at);
    metric_add(s->m->cell[KM_STREAM_OVERFLOWS], 1);
    http_reply_abort(s->r);
    drop(s);
}

static void on_gone(void *ctx)
{
    struct kv_subscriber *s = ctx;

    LOG_INFO("index stream closed by subscriber");
    drop(s);
}

static void add_pair(void *ctx, uint32_t endpoint, uint64_t key)
{
    kv_stream_pair(ctx, endpoint, key);
}

/* Sends what is queued, then goes on with the snapshot, until the connection is full. */
static void pump(struct kv_subscriber *s)
{
    while (!s->is_blocked) {
        if (s->out_at < s->out.len) {
            struct str chunk = str_sub(buf_view(&s->out), s->out_at, CHUNK_BYTES);
            int rc = http_reply_chunk(s->r, chunk);

            if (rc == ERR_AGAIN)
                s->is_blocked = true;
            if (rc != 0)
                return; /* closed: on_gone follows */
            s->out_at += chunk.n;
            continue;
        }
        buf_reset(&s->out);
        s->out_at = 0;
        if (s->part < KV_INDEX_PARTS) {
            struct kv_stream_writer w;

            kv_stream_writer_init(&w, &s->out);
            kv_index_each_part(s->m->index, s->part++, add_pair, &w);
        } else if (!s->is_ready_sent) {
            kv_stream_count(&s->out, KV_FRAME_READY, kv_index_total(s->m->index));
            s->is_ready_sent = true;
        } else {
            return;
        }
        if (s->out.failed) {
            cut_off(s);
            return;
        }
    }
}

static void on_drain(void *ctx)
{
    struct kv_subscriber *s = ctx;

    s->is_blocked = false;
    pump(s);
}

/* What was sent already goes first, so that the buffer does not grow for ever. */
static bool queue_up(struct kv_subscriber *s, struct str bytes)
{
    if (s->out_at != 0 && s->out_at >= s->out.len / 2) {
        buf_drop(&s->out, s->out_at);
        s->out_at = 0;
    }
    return buf_str(&s->out, bytes);
}

void kv_publish(struct kv_manager *m)
{
    struct kv_subscriber *next;

    if (m->changes.len == 0 && !m->changes.failed)
        return;
    for (struct kv_subscriber *s = m->subscribers; s != NULL; s = next) {
        next = s->next;
        if (m->changes.failed || !queue_up(s, buf_view(&m->changes)))
            cut_off(s);
        else
            pump(s);
    }
    buf_reset(&m->changes);
    kv_stream_break(&m->writer);
}

void kv_publish_beat(struct kv_manager *m)
{
    struct kv_subscriber *next;
    struct buf beat;

    kv_publish(m);
    buf_init(&beat, 64);
    kv_stream_count(&beat, KV_FRAME_BEAT, kv_index_total(m->index));
    for (struct kv_subscriber *s = m->subscribers; s != NULL; s = next) {
        next = s->next;
        if (!s->is_ready_sent)
            continue;
        if (!queue_up(s, buf_view(&beat)))
            cut_off(s);
        else
            pump(s);
    }
    buf_fini(&beat);
}

void kv_publish_endpoint(struct kv_manager *m, uint32_t endpoint)
{
    if (m->subscribers == NULL)
        return;
    kv_stream_endpoint(&m->changes, endpoint, kv_index_address(m->index, endpoint),
                       kv_index_model(m->index, endpoint));
    kv_stream_break(&m->writer);
}

static void on_add(void *ctx, uint32_t endpoint, uint64_t key)
{
    struct kv_manager *m = ctx;

    if (m->subscribers != NULL)
        kv_stream_key(&m->writer, KV_FRAME_ADD, endpoint, key);
}

static void on_del(void *ctx, uint32_t endpoint, uint64_t key)
{
    struct kv_manager *m = ctx;

    if (m->subscribers != NULL)
        kv_stream_key(&m->writer, KV_FRAME_DEL, endpoint, key);
}

static void on_clear(void *ctx, uint32_t endpoint)
{
    struct kv_manager *m = ctx;

    if (m->subscribers == NULL)
        return;
    kv_stream_clear(&m->changes, endpoint);
    kv_stream_break(&m->writer);
}

void kv_publish_subscribe(struct kv_manager *m, struct http_req *r)
{
    struct kv_subscriber *s;

    if (m->subscriber_count >= SUBSCRIBERS_MAX) {
        http_reply(r, 503, "application/json",
                   STR("{\"error\":{\"message\":\"too many index streams\",\"code\":\"limit\"}}"),
                   NULL);
        return;
    }
    kv_publish(m); /* earlier changes are in the snapshot */
    s = mem_zalloc(sizeof(*s));
    s->m = m;
    s->r = r;
    buf_init(&s->out, OUT_BYTES_MAX);
    s->next = m->subscribers;
    m->subscribers = s;
    m->subscriber_count++;
    metric_set(m->cell[KM_STREAMS], (double)m->subscriber_count);
    LOG_INFO("index stream opened subscriber=%s pairs=%llu", http_req_peer(r),
             (unsigned long long)kv_index_total(m->index));
    http_reply_start(r, 200, KV_STREAM_TYPE, NULL);
    http_req_on_gone(r, on_gone, s);
    http_req_on_drain(r, on_drain, s);
    kv_stream_hello(&s->out, m->index_opts.block_tokens, m->index_opts.hash, str_of(m->seed),
                    m->index_opts.blocks_max);
    for (uint32_t i = 0; i < kv_index_endpoint_count(m->index); i++)
        kv_stream_endpoint(&s->out, i, kv_index_address(m->index, i), kv_index_model(m->index, i));
    pump(s);
}

void kv_publish_init(struct kv_manager *m)
{
    buf_init(&m->changes, OUT_BYTES_MAX / 2);
    kv_stream_writer_init(&m->writer, &m->changes);
    kv_index_set_watch(m->index, &(struct kv_index_watch) { on_add, on_del, on_clear, m });
}

void kv_publish_fini(struct kv_manager *m)
{
    while (m->subscribers != NULL) {
        http_reply_abort(m->subscribers->r);
        drop(m->subscribers);
    }
    buf_fini(&m->changes);
}
