/* HTTP/2 sessions over nghttp2, which owns framing, HPACK, flow control and the checks of RFC 9113.
 *
 *   http2_feed --> nghttp2 --> frame callbacks --> stream --> http2_ops
 *   http2_pull <-- nghttp2 <-- read callback   <-- stream's queue (bounded)
 *
 * Windows: the connection's opens as bytes arrive, so that a stream that is held back cannot stop
 * the others; a stream's opens by http2_consume alone, so at most one stream window of bytes waits
 * in each.
 *
 * Abuse is counted in three ways.  Tokens pay for resets of unfinished streams, whether the peer
 * sends them or provokes them from us; glitches are frames a sane peer has no reason to send; pings
 * that come too often are strikes.  At a limit the peer gets GOAWAY ENHANCE_YOUR_CALM: streams that
 * run may end, new ones are ignored.  Past the last limit the session ends at once.
 *
 * A header block is kept in one place a session (blocks cannot interleave) and only for on_head.
 * on_room is put off to the next http2_pull, because nghttp2 must not be entered from its own read
 * callback. */
// SPDX-License-Identifier: Apache-2.0
#include "net/http2.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/loop_priv.h"
#include <nghttp2/nghttp2.h>
#include <string.h>

#define STREAMS_MAX_DEFAULT  100
#define STREAM_QUEUE_DEFAULT ((size_t)256 << 10)
#define STREAM_QUEUE_CEILING ((size_t)64 << 20) /* one write into an empty queue */
#define STREAM_WINDOW        65536
#define CONNECTION_WINDOW    (1 << 20)
#define STREAMS_A_SESSION    100000
#define CONTINUATIONS_MAX    8
#define SETTINGS_MAX         32
#define ACKS_MAX             100
#define CONTROL_QUEUE_MAX    1000
#define EMPTY_FRAMES_MAX     100
#define GLITCHES_CALM        750
#define GLITCHES_END         1000
#define RESET_BURST          1000
#define RESETS_PER_S         33
#define PING_INTERVAL_MS     10000
#define PING_STRIKES_MAX     2
#define HEAD_MS              10000 /* for the preface, and for a header block */
#define STALL_MS             60000
#define IDLE_MS              600000
#define DRAIN_GRACE_MS       1000
#define DRIP_BYTES           16 /* window updates below it: the peer makes us send crumbs */
#define TRAILERS_MAX         8
#define FIELD_COST           32

struct http2_stream {
    struct ring ring; /* in session->streams */
    struct ring room; /* in session->roomy: on_room is due */
    struct http2_session *h;
    void *user;
    struct buf out;
    size_t out_at;      /* taken by nghttp2 */
    uint64_t moved_ms;  /* queue's last progress */
    struct buf trailer; /* name NUL value NUL ... */
    size_t trailer_count;
    int32_t id;
    bool open; /* on_head ran */
    bool responded, ending, deferred, want_room, peer_ended, we_ended, was_reset;
};

struct head_block {
    struct http2_field field[HTTP2_FIELDS_MAX];
    size_t count, used, cost;
    bool over;
    char bytes[HTTP2_HEAD_BYTES_MAX];
};

struct http2_session {
    nghttp2_session *ng;
    struct http2_ops ops;
    void *ctx;
    struct ring streams, roomy;
    size_t stream_count, queue_max;
    struct head_block *block;
    struct http2_counts count;
    double tokens;
    uint64_t tokens_ms, since_ms, head_since_ms, ping_ms, idle_ms, drain_ms;
    uint32_t empty_frames, strikes;
    int32_t last_id, gap_first; /* requests: the highest id, and where the gap below it begins */
    bool got_settings, in_head, shutting, feed_failed;
};

/* ---- limits ---- */

/* Streams that run may end; new ones are ignored. */
static void calm(struct http2_session *h)
{
    if (h->count.goaway_sent)
        return;
    h->count.goaway_sent = true;
    (void)nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(h->ng),
                                NGHTTP2_ENHANCE_YOUR_CALM, NULL, 0);
}

static void end_session(struct http2_session *h, uint32_t code)
{
    h->count.goaway_sent = true;
    (void)nghttp2_session_terminate_session(h->ng, code);
}

static void glitch(struct http2_session *h)
{
    h->count.glitches++;
    if (h->count.glitches >= GLITCHES_END)
        end_session(h, NGHTTP2_ENHANCE_YOUR_CALM);
    else if (h->count.glitches >= GLITCHES_CALM)
        calm(h);
}

static void pay_reset(struct http2_session *h)
{
    uint64_t now = clock_ms();

    h->tokens += (double)(now - h->tokens_ms) * RESETS_PER_S / 1000;
    h->tokens_ms = now;
    h->tokens = MIN(h->tokens, RESET_BURST);
    h->tokens -= 1;
    if (h->tokens < 0)
        calm(h);
}

static void empty_frame(struct http2_session *h)
{
    if (++h->empty_frames > EMPTY_FRAMES_MAX)
        end_session(h, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void pinged(struct http2_session *h)
{
    uint64_t now = clock_ms();

    if (h->ping_ms != 0 && now - h->ping_ms < PING_INTERVAL_MS && ++h->strikes > PING_STRIKES_MAX)
        calm(h);
    if (h->strikes > ACKS_MAX)
        end_session(h, NGHTTP2_ENHANCE_YOUR_CALM);
    h->ping_ms = now;
}

/* ---- streams ---- */

static struct http2_stream *stream_of(struct http2_session *h, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h->ng, id);
}

static void stream_free(struct http2_stream *s, uint32_t code)
{
    struct http2_session *h = s->h;

    if (s->open)
        h->ops.on_close(h->ctx, s, code);
    ring_del(&s->ring);
    ring_del(&s->room);
    if (--h->stream_count == 0)
        h->idle_ms = clock_ms();
    buf_fini(&s->out);
    buf_fini(&s->trailer);
    mem_free(s);
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *ctx)
{
    struct http2_stream *s = stream_of(ctx, id);

    (void)ng;
    if (s != NULL)
        stream_free(s, code);
    return 0;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *f, void *ctx)
{
    struct http2_session *h = ctx;
    struct http2_stream *s;

    if (h->block == NULL)
        h->block = mem_try(sizeof(*h->block));
    if (h->block == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    h->block->count = h->block->used = h->block->cost = 0;
    h->block->over = false;
    if (f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    s = mem_try_zero(1, sizeof(*s));
    if (s == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->h = h;
    s->id = f->hd.stream_id;
    ring_init(&s->ring);
    ring_init(&s->room);
    ring_push(&h->streams, &s->ring);
    buf_init(&s->out, STREAM_QUEUE_CEILING);
    buf_init(&s->trailer, HTTP2_HEAD_BYTES_MAX);
    h->stream_count++;
    if (++h->count.streams == STREAMS_A_SESSION)
        http2_drain(h);
    nghttp2_session_set_stream_user_data(ng, s->id, s);
    return 0;
}

static struct str block_add(struct head_block *b, const uint8_t *p, size_t n)
{
    struct str s = { b->bytes + b->used, n };

    memcpy(b->bytes + b->used, p, n);
    b->used += n;
    return s;
}

/* Over the ceiling decoding goes on, because the peer's table is shared, but nothing is stored. */
static int on_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name,
                     size_t name_n, const uint8_t *value, size_t value_n, uint8_t flags, void *ctx)
{
    struct head_block *b = ((struct http2_session *)ctx)->block;
    struct http2_field *at;

    (void)ng;
    (void)flags;
    b->cost += name_n + value_n + FIELD_COST;
    if (b->cost > HTTP2_HEAD_BYTES_MAX || b->count == HTTP2_FIELDS_MAX)
        b->over = true;
    if (b->over || f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    at = &b->field[b->count++];
    at->name = block_add(b, name, name_n);
    at->value = block_add(b, value, value_n);
    return 0;
}

/* A field that breaks the rules ends its stream, instead of vanishing from it. */
static int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name,
                             size_t name_n, const uint8_t *value, size_t value_n, uint8_t flags,
                             void *ctx)
{
    (void)ng;
    (void)f;
    (void)name;
    (void)name_n;
    (void)value;
    (void)value_n;
    (void)flags;
    glitch(ctx);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void peer_ended(struct http2_session *h, struct http2_stream *s)
{
    s->peer_ended = true;
    h->ops.on_end(h->ctx, s);
}

static void head_done(struct http2_session *h, const nghttp2_frame *f)
{
    struct http2_stream *s = stream_of(h, f->hd.stream_id);
    bool end = (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    if (s == NULL)
        return;
    if (f->headers.cat != NGHTTP2_HCAT_REQUEST) { /* trailers: their end is what counts */
        if (end)
            peer_ended(h, s);
        return;
    }
    s->open = true;
    s->peer_ended = end;
    h->ops.on_head(h->ctx, s,
                   &(struct http2_head) { h->block->field, h->block->count, h->block->over }, end);
}

static void got_data_frame(struct http2_session *h, const nghttp2_frame *f)
{
    struct http2_stream *s = stream_of(h, f->hd.stream_id);

    if ((f->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
        if (f->hd.length == f->data.padlen)
            empty_frame(h);
        return;
    }
    if (s != NULL && s->open)
        peer_ended(h, s);
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *ctx)
{
    struct http2_session *h = ctx;
    struct http2_stream *s;

    (void)ng;
    switch (f->hd.type) {
    case NGHTTP2_HEADERS:
        h->in_head = false;
        head_done(h, f);
        break;
    case NGHTTP2_DATA: got_data_frame(h, f); break;
    case NGHTTP2_RST_STREAM:
        s = stream_of(h, f->hd.stream_id);
        h->count.resets_in++;
        if (s != NULL && !s->we_ended)
            pay_reset(h);
        break;
    case NGHTTP2_SETTINGS:
        h->got_settings = true;
        if ((f->hd.flags & NGHTTP2_FLAG_ACK) == 0 && f->settings.niv == 0)
            empty_frame(h);
        break;
    case NGHTTP2_PING:
        if ((f->hd.flags & NGHTTP2_FLAG_ACK) == 0)
            pinged(h);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        if (f->window_update.window_size_increment < DRIP_BYTES)
            glitch(h);
        break;
    case NGHTTP2_PRIORITY: glitch(h); break;
    default: break;
    }
    return 0;
}

/* A new stream closes all idle ones below it.  nghttp2 would ignore a late request on one of those
 * (RFC 9113, 5.1.1, wants an error); the last gap is remembered here. */
static void check_order(struct http2_session *h, int32_t id)
{
    if (id > h->last_id) {
        h->gap_first = h->last_id + 2;
        h->last_id = id;
    } else if (id >= h->gap_first && id < h->last_id &&
               nghttp2_session_find_stream(h->ng, id) == NULL) {
        end_session(h, NGHTTP2_PROTOCOL_ERROR);
    }
}

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *ctx)
{
    struct http2_session *h = ctx;

    (void)ng;
    if (hd->type == NGHTTP2_HEADERS) {
        h->in_head = true;
        h->head_since_ms = clock_ms();
        check_order(h, hd->stream_id);
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *f, int code, void *ctx)
{
    (void)ng;
    (void)f;
    (void)code;
    glitch(ctx);
    return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
                   void *ctx)
{
    struct http2_session *h = ctx;
    struct http2_stream *s = stream_of(h, id);

    (void)flags;
    if (n != 0)
        h->empty_frames = 0;
    (void)nghttp2_session_consume_connection(ng, n);
    if (s == NULL || !s->open || s->was_reset)
        (void)nghttp2_session_consume_stream(ng, id, n);
    else
        h->ops.on_data(h->ctx, s, (struct str) { (const char *)p, n });
    return 0;
}

/* ---- sending ---- */

static void sent_end(struct http2_session *h, struct http2_stream *s)
{
    s->we_ended = true;
    if (!s->peer_ended) /* nobody listens to the rest of the request: let the peer stop */
        (void)nghttp2_submit_rst_stream(h->ng, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
}

static int on_sent(nghttp2_session *ng, const nghttp2_frame *f, void *ctx)
{
    struct http2_session *h = ctx;
    struct http2_stream *s;

    (void)ng;
    if (f->hd.type == NGHTTP2_RST_STREAM) {
        s = stream_of(h, f->hd.stream_id);
        h->count.resets_out++;
        if (f->rst_stream.error_code != NGHTTP2_NO_ERROR && (s == NULL || !s->was_reset))
            pay_reset(h);
        return 0;
    }
    if (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA)
        return 0;
    h->strikes = 0;
    s = stream_of(h, f->hd.stream_id);
    if (s != NULL && (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        sent_end(h, s);
    return 0;
}

/* The next two NUL-ended texts of a packed field. */
static struct http2_field unpack_field(const char **at)
{
    struct http2_field f;

    f.name = str_of(*at);
    *at += f.name.n + 1;
    f.value = str_of(*at);
    *at += f.value.n + 1;
    return f;
}

static nghttp2_nv nv_of(struct http2_field f)
{
    return (nghttp2_nv) { .name = (uint8_t *)(uintptr_t)f.name.p,
                          .value = (uint8_t *)(uintptr_t)f.value.p,
                          .namelen = f.name.n,
                          .valuelen = f.value.n };
}

static int submit_trailers(struct http2_stream *s)
{
    nghttp2_nv nv[TRAILERS_MAX];
    const char *at = s->trailer.p;

    for (size_t i = 0; i < s->trailer_count; i++)
        nv[i] = nv_of(unpack_field(&at));
    return nghttp2_submit_trailer(s->h->ng, s->id, nv, s->trailer_count);
}

static ssize_t read_queue(nghttp2_session *ng, int32_t id, uint8_t *p, size_t room, uint32_t *flags,
                          nghttp2_data_source *source, void *ctx)
{
    struct http2_stream *s = source->ptr;
    size_t n = MIN(room, s->out.len - s->out_at);

    (void)ng;
    (void)id;
    (void)ctx;
    if (n != 0) {
        memcpy(p, s->out.p + s->out_at, n);
        s->out_at += n;
        s->moved_ms = clock_ms();
    }
    if (s->out_at == s->out.len) {
        buf_reset(&s->out);
        s->out_at = 0;
        if (s->ending) {
            *flags |= NGHTTP2_DATA_FLAG_EOF;
            if (s->trailer_count != 0) {
                *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
                if (submit_trailers(s) != 0)
                    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
            }
        } else if (n == 0) {
            s->deferred = true;
        }
    }
    if (s->want_room && http2_queued(s) <= s->h->queue_max / 2 && ring_empty(&s->room))
        ring_push(&s->h->roomy, &s->room);
    return s->deferred ? NGHTTP2_ERR_DEFERRED : (ssize_t)n;
}

int http2_respond(struct http2_stream *s, const struct http2_field *field, size_t count, bool end)
{
    nghttp2_data_provider data = { .source = { .ptr = s }, .read_callback = read_queue };
    nghttp2_nv nv[HTTP2_FIELDS_MAX];

    if (s->responded || s->was_reset)
        return ERR_CLOSED;
    if (count > COUNT(nv))
        return ERR_LIMIT;
    for (size_t i = 0; i < count; i++)
        nv[i] = nv_of(field[i]);
    s->responded = true;
    s->ending = end;
    return nghttp2_submit_response(s->h->ng, s->id, nv, count, end ? NULL : &data) == 0
               ? 0
               : ERR_CLOSED;
}

static void wake(struct http2_stream *s)
{
    if (!s->deferred)
        return;
    s->deferred = false;
    s->moved_ms = clock_ms();
    (void)nghttp2_session_resume_data(s->h->ng, s->id);
}

size_t http2_queued(const struct http2_stream *s)
{
    return s->out.len - s->out_at;
}

void http2_want_room(struct http2_stream *s)
{
    s->want_room = true;
}

int http2_send(struct http2_stream *s, const struct str *piece, size_t count)
{
    size_t all = 0, queued = http2_queued(s);

    if (!s->responded || s->ending || s->was_reset)
        return ERR_CLOSED;
    for (size_t i = 0; i < count; i++)
        all += piece[i].n;
    if (queued != 0 && (queued > s->h->queue_max || all > s->h->queue_max - queued)) {
        s->want_room = true;
        return ERR_AGAIN;
    }
    if (s->out_at != 0) {
        buf_drop(&s->out, s->out_at);
        s->out_at = 0;
    }
    if (queued == 0)
        s->moved_ms = clock_ms();
    if (!buf_reserve(&s->out, all)) {
        http2_reset(s, NGHTTP2_INTERNAL_ERROR);
        return ERR_CLOSED;
    }
    for (size_t i = 0; i < count; i++)
        buf_str(&s->out, piece[i]);
    wake(s);
    return 0;
}

void http2_finish(struct http2_stream *s, const struct http2_field *trailer, size_t count)
{
    ASSERT(count <= TRAILERS_MAX);
    if (!s->responded || s->ending || s->was_reset)
        return;
    for (size_t i = 0; i < count; i++) {
        buf_str(&s->trailer, trailer[i].name);
        buf_c(&s->trailer, 0);
        buf_str(&s->trailer, trailer[i].value);
        buf_c(&s->trailer, 0);
    }
    ASSERT(!s->trailer.failed);
    s->trailer_count = count;
    s->ending = true;
    wake(s);
}

void http2_reset(struct http2_stream *s, uint32_t code)
{
    if (s->was_reset)
        return;
    s->was_reset = true;
    (void)nghttp2_submit_rst_stream(s->h->ng, NGHTTP2_FLAG_NONE, s->id, code);
}

void http2_consume(struct http2_stream *s, size_t bytes)
{
    (void)nghttp2_session_consume_stream(s->h->ng, s->id, bytes);
}

/* ---- the session ---- */

static nghttp2_session *open_ng(struct http2_session *h, uint32_t streams_max)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    nghttp2_session *ng = NULL;

    if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&opt) != 0)
        goto out;
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_peer_max_concurrent_streams(opt, streams_max);
    nghttp2_option_set_max_settings(opt, SETTINGS_MAX);
    nghttp2_option_set_max_outbound_ack(opt, ACKS_MAX);
    nghttp2_option_set_max_continuations(opt, CONTINUATIONS_MAX);
    /* Ours, in pay_reset, leaves streams that run to their end; this is the wall behind it. */
    nghttp2_option_set_stream_reset_rate_limit(opt, 10 * RESET_BURST, 10 * RESETS_PER_S);
    if (nghttp2_session_server_new2(&ng, cb, h, opt) != 0)
        ng = NULL;
out:
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(opt);
    return ng;
}

int http2_new(struct http2_session **out, const struct http2_opts *opts,
              const struct http2_ops *ops, void *ctx)
{
    uint32_t streams = opts->streams_max != 0 ? opts->streams_max : STREAMS_MAX_DEFAULT;
    nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)HTTP2_HEAD_BYTES_MAX },
    };
    struct http2_session *h = mem_try_zero(1, sizeof(*h));

    *out = NULL;
    if (h == NULL)
        return ERR_NOMEM;
    h->ops = *ops;
    h->ctx = ctx;
    ring_init(&h->streams);
    ring_init(&h->roomy);
    h->queue_max = opts->stream_queue_max != 0 ? opts->stream_queue_max : STREAM_QUEUE_DEFAULT;
    h->tokens = RESET_BURST;
    h->last_id = -1;
    h->tokens_ms = h->since_ms = h->idle_ms = clock_ms();
    h->ng = open_ng(h, streams);
    if (h->ng == NULL ||
        nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, settings, COUNT(settings)) != 0 ||
        nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) !=
            0) {
        http2_free(h);
        return ERR_NOMEM;
    }
    *out = h;
    return 0;
}

void http2_free(struct http2_session *h)
{
    if (h == NULL)
        return;
    while (!ring_empty(&h->streams)) {
        struct http2_stream *s = CONTAINER_OF(h->streams.next, struct http2_stream, ring);

        nghttp2_session_set_stream_user_data(h->ng, s->id, NULL);
        stream_free(s, NGHTTP2_CANCEL);
    }
    nghttp2_session_del(h->ng);
    mem_free(h->block);
    mem_free(h);
}

int http2_feed(struct http2_session *h, struct str bytes)
{
    ssize_t n;

    if (h->feed_failed)
        return ERR_PARSE;
    n = nghttp2_session_mem_recv(h->ng, (const uint8_t *)bytes.p, bytes.n);
    if (n < 0) { /* no preface, or a flood that nghttp2 counts itself */
        end_session(h, n == NGHTTP2_ERR_BAD_CLIENT_MAGIC ? NGHTTP2_PROTOCOL_ERROR
                                                         : NGHTTP2_ENHANCE_YOUR_CALM);
        h->feed_failed = true;
        return ERR_PARSE;
    }
    if (nghttp2_session_get_outbound_queue_size(h->ng) > CONTROL_QUEUE_MAX + 2 * h->stream_count)
        end_session(h, NGHTTP2_ENHANCE_YOUR_CALM);
    return 0;
}

struct str http2_pull(struct http2_session *h)
{
    const uint8_t *p = NULL;
    ssize_t n;

    while (!ring_empty(&h->roomy)) {
        struct http2_stream *s = CONTAINER_OF(h->roomy.next, struct http2_stream, room);

        ring_del(&s->room);
        s->want_room = false;
        if (s->open && !s->was_reset)
            h->ops.on_room(h->ctx, s);
    }
    n = nghttp2_session_mem_send(h->ng, &p);
    if (n < 0) {
        h->feed_failed = true;
        return STR_NONE;
    }
    return (struct str) { (const char *)p, (size_t)n };
}

bool http2_done(struct http2_session *h)
{
    if (nghttp2_session_want_write(h->ng) != 0)
        return false;
    return h->feed_failed || nghttp2_session_want_read(h->ng) == 0;
}

void http2_drain(struct http2_session *h)
{
    if (h->shutting)
        return;
    h->shutting = true;
    h->drain_ms = clock_ms();
    (void)nghttp2_submit_shutdown_notice(h->ng);
}

static void drain_last(struct http2_session *h)
{
    if (h->count.goaway_sent)
        return;
    h->count.goaway_sent = true;
    (void)nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(h->ng), NGHTTP2_NO_ERROR,
                                NULL, 0);
}

void http2_tick(struct http2_session *h, uint64_t now_ms)
{
    if ((!h->got_settings && now_ms - h->since_ms > HEAD_MS) ||
        (h->in_head && now_ms - h->head_since_ms > HEAD_MS))
        end_session(h, NGHTTP2_ENHANCE_YOUR_CALM);
    if (h->stream_count == 0 && now_ms - h->idle_ms > IDLE_MS)
        http2_drain(h);
    if (h->shutting && now_ms - h->drain_ms >= DRAIN_GRACE_MS)
        drain_last(h);
    for (struct ring *n = h->streams.next; n != &h->streams; n = n->next) {
        struct http2_stream *s = CONTAINER_OF(n, struct http2_stream, ring);

        if (http2_queued(s) != 0 && now_ms - s->moved_ms > STALL_MS)
            http2_reset(s, NGHTTP2_CANCEL);
    }
}

size_t http2_streams(const struct http2_session *h)
{
    return h->stream_count;
}

void http2_stream_set(struct http2_stream *s, void *user)
{
    s->user = user;
}

void *http2_stream_get(const struct http2_stream *s)
{
    return s->user;
}

struct http2_counts http2_count(const struct http2_session *h)
{
    return h->count;
}
