/* The ext_proc conversation of one HTTP request:
 *
 *   request:   head --> BODY --end or trailers--> ASKED --continue--> SENDING --> SENT
 *                                                   `--refuse--> DEAD
 *   response:  NONE --head--> BODY --end or trailers--> DONE
 *
 * Envoy does not wait for an answer before it sends on, so the head's answer is put off until the
 * picker has spoken; then head, body and trailers are answered in this order.  The body goes back
 * in frames as fast as Envoy reads them, out of the buffer it was gathered in.  Answers of the
 * response side are made when they are due; what the stream does not take at once waits in `queue`,
 * which cannot grow long, because the server delivers no message while its own queue is half full.
 *
 * A proxy that answers by itself (a timeout, say) sends response headers before the picker spoke:
 * the request side is DEAD then, and a late answer of the picker is dropped.
 *
 * After the end of the request further body messages are ignored: some Envoys repeat the last
 * piece.
 *
 * Invariant: done runs once if request ran, from the end of the response or of the stream. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/extproc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/proto.h"
#include "codec/proto/ext_proc.pb-c.h"
#include "gateway/extproc_priv.h"
#include <string.h>

#define BODY_DEFAULT   ((size_t)16 << 20)
#define BUFFER_DEFAULT ((size_t)256 << 20)
#define HEAD_ARENA     ((size_t)1 << 20)
#define MESSAGE_ARENA  ((size_t)256 << 10) /* on top of twice the message */
#define HEADERS_MAX    1000
#define QUEUE_MAX      ((size_t)32 << 20)
#define REPORT_MAX     ((size_t)64 << 10)
#define ANSWER_MAX     ((size_t)8 << 20)
#define REFUSAL_ARENA  ((size_t)128 << 10)
#define REFUSAL_MAX    512
#define UUID_BYTES     36
#define ADDED_MAX      32
#define PATH_DEFAULT   "/v1/completions"
#define SUBSET_SPACE   "envoy.lb.subset_hint"
#define SUBSET_KEY     "x-gateway-destination-endpoint-subset"
#define SERVED_SPACE   "envoy.lb"
#define SERVED_KEY     "x-gateway-destination-endpoint-served"

enum request_state { REQ_NONE, REQ_BODY, REQ_ASKED, REQ_SENDING, REQ_SENT, REQ_DEAD };
enum response_state { RESP_NONE, RESP_BODY, RESP_DONE };

struct extproc {
    struct extproc_opts opts;
    struct extproc_ops ops;
    void *ctx;
    size_t buffered;   /* bytes in all streams' bodies */
    struct buf answer; /* one answer, while it is made */
    struct buf piece;  /* a response chunk after the change of names */
};

struct extproc_stream {
    struct extproc *x;
    struct grpc_stream *g;
    void *user;
    enum request_state req;
    enum response_state resp;
    struct arena head; /* until the head is answered */
    struct extproc_header *header;
    size_t header_count;
    struct buf body;
    size_t body_at;
    struct buf queue;    /* answers that wait: length, bytes, length, bytes ... */
    struct str metadata; /* Struct of the subset hint, in `head` */
    bool has_metadata;
    char request_id[UUID_BYTES + 1];
    struct extproc_rename rename;
    struct extproc_header added[ADDED_MAX]; /* during response_headers, in `message` */
    size_t added_count;
    struct arena *message;
    struct buf report; /* metadata of the response's last frame, as bytes of a Struct */
    bool asked, done_said, continued, failed;
    bool head_end;        /* the head was the whole request: there is no body to answer */
    bool trailers_due;    /* the request ended with trailers */
    bool body_ended;      /* the last frame of the body is out */
    bool skip, end_after; /* close once everything is out */
};

/* ---- endings ---- */

static void say_done(struct extproc_stream *s, enum extproc_cause cause)
{
    if (!s->asked || s->done_said)
        return;
    s->done_said = true;
    s->x->ops.done(s->x->ctx, s, cause);
}

static void drop_body(struct extproc_stream *s)
{
    s->x->buffered -= s->body.len;
    buf_fini(&s->body);
    buf_init(&s->body, 0);
    s->body_at = 0;
}

static void fail(struct extproc_stream *s, enum grpc_status status, const char *why)
{
    s->failed = true;
    grpc_finish(s->g, status, why, "ext_proc");
}

/* ---- answers ---- */

static void queue_add(struct extproc_stream *s, struct str m)
{
    uint32_t n = (uint32_t)m.n;

    if (!buf_add(&s->queue, &n, sizeof(n)) || !buf_str(&s->queue, m))
        fail(s, GRPC_RESOURCE_EXHAUSTED, "answers are not being read");
}

static void send_answer(struct extproc_stream *s, bool made)
{
    struct str m = buf_view(&s->x->answer);

    if (!made)
        fail(s, GRPC_RESOURCE_EXHAUSTED, "the answer is too large");
    else if (s->queue.len != 0 || grpc_send(s->g, m) == ERR_AGAIN)
        queue_add(s, m);
}

static struct buf *new_answer(struct extproc_stream *s)
{
    buf_reset(&s->x->answer);
    return &s->x->answer;
}

/* false: some are left. */
static bool queue_flush(struct extproc_stream *s)
{
    size_t at = 0;
    uint32_t n;

    while (at < s->queue.len) {
        memcpy(&n, s->queue.p + at, sizeof(n));
        if (grpc_send(s->g, (struct str) { s->queue.p + at + sizeof(n), n }) == ERR_AGAIN)
            break;
        at += sizeof(n) + n;
    }
    buf_drop(&s->queue, at);
    if (s->queue.len != 0)
        return false;
    buf_fini(&s->queue);
    buf_init(&s->queue, QUEUE_MAX);
    return true;
}

/* One more frame of the request's body; false: not now. */
static bool send_frame(struct extproc_stream *s)
{
    size_t left = s->body.len - s->body_at, n = MIN(left, (size_t)EXTPROC_FRAME_MAX);
    bool end = n == left && !s->trailers_due;
    struct buf *b = new_answer(s);
    int rc;

    if (!extproc_put_body(b, EXTPROC_REQUEST, str_sub(buf_view(&s->body), s->body_at, n), end,
                          STR_NONE)) {
        fail(s, GRPC_RESOURCE_EXHAUSTED, "the answer is too large");
        return false;
    }
    rc = grpc_send(s->g, buf_view(b));
    if (rc != 0)
        return false;
    s->body_at += n;
    s->body_ended = n == left;
    return true;
}

static void pump(struct extproc_stream *s)
{
    if (!queue_flush(s))
        return;
    if (s->req == REQ_SENDING) {
        s->body_ended |= s->head_end || (s->trailers_due && s->body.len == 0);
        while (!s->body_ended)
            if (!send_frame(s))
                return;
        s->req = REQ_SENT;
        drop_body(s);
        if (s->trailers_due)
            send_answer(s, extproc_put_trailers(new_answer(s), EXTPROC_REQUEST, STR_NONE));
        s->end_after |= s->skip;
    }
    if (s->end_after && s->queue.len == 0)
        grpc_finish(s->g, GRPC_OK, NULL, NULL);
}

static void on_room(void *ctx, struct grpc_stream *g)
{
    (void)ctx;
    pump(grpc_stream_get(g));
}

bool extproc_refuse(struct extproc_stream *s, int http_status, struct str body,
                    const struct extproc_header *header, size_t header_count)
{
    struct arena a;

    if (s->resp == RESP_DONE || s->req == REQ_DEAD || s->end_after)
        return false;
    s->req = REQ_DEAD;
    drop_body(s);
    buf_reset(&s->queue); /* whole answers only: what went out before stays in order */
    arena_init(&a, REFUSAL_ARENA);
    send_answer(s, extproc_put_immediate(new_answer(s), &a, http_status, body,
                                         (struct extproc_set) { header, header_count }));
    arena_fini(&a);
    s->end_after = true;
    pump(s);
    return true;
}

static void refuse(struct extproc_stream *s, int http_status, const char *text)
{
    (void)extproc_refuse(s, http_status, str_of(text), NULL, 0);
}

void extproc_continue(struct extproc_stream *s, const struct extproc_pick *pick)
{
    struct extproc_set client = { s->header, s->header_count };
    bool made;

    if (s->req != REQ_ASKED)
        return;
    if (pick->has_body && !s->head_end) {
        struct buf changed;

        buf_init(&changed, s->x->opts.body_bytes_max);
        if (!buf_str(&changed, pick->body)) {
            buf_fini(&changed);
            fail(s, GRPC_RESOURCE_EXHAUSTED, "the changed body is too large");
            return;
        }
        drop_body(s);
        s->body = changed;
        s->x->buffered += changed.len;
    }
    s->req = REQ_SENDING;
    s->continued = true;
    s->skip = pick->skip_response;
    extproc_rename_init(&s->rename, pick->model_sent, pick->model_shown);
    made = extproc_put_request_head(new_answer(s), &s->head, pick, client, str_of(s->request_id),
                                    s->body.len);
    arena_fini(&s->head);
    s->header = NULL;
    s->header_count = 0;
    send_answer(s, made);
    pump(s);
}

/* ---- the request ---- */

static bool copy_headers(struct arena *a, const Pb__Ext__HeaderMap *map,
                         struct extproc_header **out, size_t *count)
{
    size_t n = map != NULL ? map->n_headers : 0;

    *out = n <= HEADERS_MAX ? arena_try_zero(a, MAX(n, (size_t)1), sizeof(**out)) : NULL;
    if (*out == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        const Pb__Ext__HeaderValue *h = map->headers[i];
        struct str raw = { (const char *)h->raw_value.data, h->raw_value.len };
        struct str name = arena_str(a, str_of(h->key));
        struct str value = arena_str(a, raw.n != 0 ? raw : str_of(h->value));
        char *p = (char *)(uintptr_t)name.p;

        if (p == NULL || value.p == NULL)
            return false;
        for (size_t k = 0; k < name.n; k++)
            if (p[k] >= 'A' && p[k] <= 'Z')
                p[k] = (char)(p[k] + ('a' - 'A'));
        (*out)[i] = (struct extproc_header) { name, value };
    }
    *count = n;
    return true;
}

static struct str header_get(const struct extproc_header *h, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (str_eqz(h[i].name, name))
            return h[i].value;
    return STR_NONE;
}

static struct str path_of(const struct extproc_stream *s)
{
    static const char *const names[] = { ":path", "x-original-path", "x-forwarded-path" };
    struct str path = STR_NONE;

    for (size_t i = 0; i < COUNT(names) && path.n == 0; i++) {
        path = header_get(s->header, s->header_count, names[i]);
        path = str_cut(&path, '?');
    }
    return path.n != 0 ? path : STR(PATH_DEFAULT);
}

/* RFC 9562, version 4. */
static void make_uuid(char out[UUID_BYTES + 1])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char r[16];
    size_t at = 0;

    rng_secure(r, sizeof(r));
    r[6] = (unsigned char)((r[6] & 0x0f) | 0x40);
    r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof(r); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        out[at++] = hex[r[i] >> 4];
        out[at++] = hex[r[i] & 15];
    }
    out[at] = 0;
}

/* The hint's strings; what is not a string is passed over. */
static bool read_subset(struct extproc_stream *s, struct extproc_request *q)
{
    struct proto_value v, item;
    struct str *list;

    if (!s->has_metadata || !proto_struct_get(s->metadata, SUBSET_KEY, &v) || v.kind != PROTO_LIST)
        return true;
    list = arena_try_zero(&s->head, EXTPROC_SUBSET_MAX, sizeof(*list));
    if (list == NULL)
        return false;
    q->has_subset = true;
    q->subset = list;
    while (proto_list_next(&v.bytes, &item)) {
        if (item.kind != PROTO_STRING)
            continue;
        if (q->subset_count == EXTPROC_SUBSET_MAX)
            return false;
        list[q->subset_count++] = item.bytes;
    }
    return true;
}

static void ask(struct extproc_stream *s)
{
    struct extproc_request q = {
        .header = s->header,
        .header_count = s->header_count,
        .path = path_of(s),
        .request_id = header_get(s->header, s->header_count, "x-request-id"),
        .body = buf_view(&s->body),
        .bodyless = s->head_end,
    };

    if (!read_subset(s, &q)) {
        fail(s, GRPC_RESOURCE_EXHAUSTED, "too many endpoints in the subset hint");
        return;
    }
    if (q.request_id.n == 0) {
        make_uuid(s->request_id);
        q.request_id = str_of(s->request_id);
    }
    s->req = REQ_ASKED;
    s->asked = true;
    s->x->ops.request(s->x->ctx, s, &q);
}

static void request_headers(struct extproc_stream *s, const Pb__Ext__HttpHeaders *m)
{
    if (s->req != REQ_NONE || s->resp != RESP_NONE) {
        fail(s, GRPC_INVALID_ARGUMENT, "request headers out of order");
        return;
    }
    if (!copy_headers(&s->head, m->headers, &s->header, &s->header_count)) {
        fail(s, GRPC_RESOURCE_EXHAUSTED, "too many headers");
        return;
    }
    s->req = REQ_BODY;
    s->head_end = m->end_of_stream != 0;
    if (s->head_end)
        ask(s);
}

static void request_body(struct extproc_stream *s, const Pb__Ext__HttpBody *m)
{
    struct extproc *x = s->x;

    if (s->req == REQ_NONE) {
        fail(s, GRPC_INVALID_ARGUMENT, "request body before its headers");
        return;
    }
    if (s->req != REQ_BODY)
        return;
    if (m->body.len > x->opts.body_bytes_max - s->body.len) {
        refuse(s, 413, "inference error: ContentTooLarge - request body is too large");
        return;
    }
    if (m->body.len > x->opts.buffer_bytes_max - MIN(x->buffered, x->opts.buffer_bytes_max) ||
        !buf_add(&s->body, m->body.data, m->body.len)) {
        refuse(s, 503,
               "inference error: ServiceUnavailable - too many request bodies are buffered");
        return;
    }
    x->buffered += m->body.len;
    if (m->end_of_stream)
        ask(s);
}

static void request_trailers(struct extproc_stream *s)
{
    if (s->req == REQ_NONE) {
        fail(s, GRPC_INVALID_ARGUMENT, "request trailers before headers");
        return;
    }
    if (s->req != REQ_BODY)
        return;
    s->trailers_due = true;
    ask(s);
}

/* ---- the response ---- */

static void response_end(struct extproc_stream *s)
{
    s->resp = RESP_DONE;
    say_done(s, EXTPROC_NATURAL);
}

void extproc_response_set(struct extproc_stream *s, struct str name, struct str value)
{
    struct extproc_header h;

    ASSERT(s->message != NULL);
    if (s->added_count == ADDED_MAX)
        return;
    h.name = arena_str(s->message, name);
    h.value = arena_str(s->message, value);
    if (h.name.p != NULL && h.value.p != NULL)
        s->added[s->added_count++] = h;
}

void extproc_report(struct extproc_stream *s, const struct extproc_number *list, size_t count)
{
    if (!extproc_put_numbers(&s->report, list, count))
        buf_reset(&s->report); /* too long for metadata: none rather than a part */
}

static struct str served_of(struct str metadata)
{
    struct proto_value v;

    return metadata.p != NULL && proto_struct_get(metadata, SERVED_KEY, &v) &&
                   v.kind == PROTO_STRING
               ? v.bytes
               : STR_NONE;
}

static void response_headers(struct extproc_stream *s, const Pb__Ext__HttpHeaders *m,
                             struct str served_metadata, struct arena *a)
{
    struct extproc_response r = { .served = served_of(served_metadata),
                                  .has_lb = served_metadata.p != NULL,
                                  .end = m->end_of_stream != 0 };
    struct extproc_header *list;

    if (s->resp != RESP_NONE) {
        fail(s, GRPC_INVALID_ARGUMENT, "response headers twice");
        return;
    }
    if (!copy_headers(a, m->headers, &list, &r.header_count)) {
        fail(s, GRPC_RESOURCE_EXHAUSTED, "too many headers");
        return;
    }
    r.header = list;
    r.status = header_get(list, r.header_count, ":status");
    r.event_stream = str_find(header_get(list, r.header_count, "content-type"),
                              STR("text/event-stream")) != SIZE_MAX;
    s->resp = RESP_BODY;
    if (s->req == REQ_BODY || s->req == REQ_ASKED)
        s->req = REQ_DEAD; /* the proxy answered by itself */
    s->added_count = 0;
    if (s->continued) {
        s->message = a;
        s->x->ops.response_headers(s->x->ctx, s, &r);
        s->message = NULL;
    }
    if (s->end_after)
        return;
    send_answer(s, extproc_put_response_head(new_answer(s), a,
                                             (struct extproc_set) { s->added, s->added_count },
                                             (struct extproc_set) { list, r.header_count }));
    if (r.end)
        response_end(s);
}

/* end: with the last frame. */
static void send_response(struct extproc_stream *s, struct str bytes, bool end)
{
    bool is_last;

    do {
        struct str part = str_sub(bytes, 0, EXTPROC_FRAME_MAX);

        bytes = str_sub(bytes, part.n, SIZE_MAX);
        is_last = end && bytes.n == 0;
        send_answer(s, extproc_put_body(new_answer(s), EXTPROC_RESPONSE, part, is_last,
                                        is_last ? buf_view(&s->report) : STR_NONE));
    } while (bytes.n != 0 && !s->failed);
}

/* Chunk by chunk; what the change of names holds back comes with the next, or with the last. */
static void pass_on(struct extproc_stream *s, struct str bytes, bool last, bool end)
{
    struct buf *out = &s->x->piece;

    buf_reset(out);
    if (!extproc_rename_feed(&s->rename, bytes, last, out)) {
        fail(s, GRPC_RESOURCE_EXHAUSTED, "a response chunk is too large");
        return;
    }
    if (out->len != 0 || end)
        send_response(s, buf_view(out), end);
}

static void response_body(struct extproc_stream *s, const Pb__Ext__HttpBody *m)
{
    struct str bytes = { (const char *)m->body.data, m->body.len };
    bool end = m->end_of_stream != 0;

    if (s->resp != RESP_BODY) {
        fail(s, GRPC_INVALID_ARGUMENT, "response body out of order");
        return;
    }
    if (s->continued)
        s->x->ops.response_body(s->x->ctx, s, bytes, end);
    if (s->end_after)
        return;
    pass_on(s, bytes, end, end);
    if (end)
        response_end(s);
}

static void response_trailers(struct extproc_stream *s)
{
    if (s->resp != RESP_BODY) {
        fail(s, GRPC_INVALID_ARGUMENT, "response trailers out of order");
        return;
    }
    if (s->continued)
        s->x->ops.response_body(s->x->ctx, s, STR_NONE, true);
    if (s->end_after)
        return;
    pass_on(s, STR_NONE, true, false);
    send_answer(s, extproc_put_trailers(new_answer(s), EXTPROC_RESPONSE, buf_view(&s->report)));
    response_end(s);
}

/* ---- the stream ---- */

/* The namespaces we read, out of metadata that Envoy fills as it likes. */
static bool take_metadata(struct extproc_stream *s, const Pb__Ext__Metadata *m, struct str *served)
{
    for (size_t i = 0; m != NULL && i < m->n_filter_metadata; i++) {
        const Pb__Ext__StructEntry *e = m->filter_metadata[i];
        struct str key = str_of(e->key), value = { (const char *)e->value.data, e->value.len };

        if (str_eqz(key, SERVED_SPACE)) {
            if (!proto_struct_valid(value))
                return false;
            *served = value;
        } else if (str_eqz(key, SUBSET_SPACE) && s->req < REQ_ASKED) {
            if (!proto_struct_valid(value))
                return false;
            s->metadata = arena_str(&s->head, value);
            s->has_metadata = s->metadata.p != NULL;
            if (!s->has_metadata)
                return false;
        }
    }
    return true;
}

static void dispatch(struct extproc_stream *s, const Pb__Ext__ProcessingRequest *m, struct arena *a)
{
    struct str served = STR_NONE;

    if (!take_metadata(s, m->metadata_context, &served)) {
        fail(s, GRPC_INVALID_ARGUMENT, "bad metadata");
        return;
    }
    switch (m->request_case) {
    case PB__EXT__PROCESSING_REQUEST__REQUEST_REQUEST_HEADERS:
        request_headers(s, m->request_headers);
        break;
    case PB__EXT__PROCESSING_REQUEST__REQUEST_REQUEST_BODY: request_body(s, m->request_body); break;
    case PB__EXT__PROCESSING_REQUEST__REQUEST_REQUEST_TRAILERS: request_trailers(s); break;
    case PB__EXT__PROCESSING_REQUEST__REQUEST_RESPONSE_HEADERS:
        response_headers(s, m->response_headers, served, a);
        break;
    case PB__EXT__PROCESSING_REQUEST__REQUEST_RESPONSE_BODY:
        response_body(s, m->response_body);
        break;
    case PB__EXT__PROCESSING_REQUEST__REQUEST_RESPONSE_TRAILERS: response_trailers(s); break;
    default: fail(s, GRPC_INVALID_ARGUMENT, "a message without content"); break;
    }
}

static void on_message(void *ctx, struct grpc_stream *g, struct str bytes)
{
    struct extproc_stream *s = grpc_stream_get(g);
    ProtobufCMessage *m;
    struct arena a;
    int rc;

    (void)ctx;
    if (s->failed || s->end_after)
        return;
    arena_init(&a, 2 * bytes.n + MESSAGE_ARENA);
    rc = proto_unpack(&pb__ext__processing_request__descriptor, bytes, &a, &m);
    if (rc == ERR_PARSE)
        fail(s, GRPC_INVALID_ARGUMENT, "not a ProcessingRequest");
    else if (rc != 0)
        fail(s, GRPC_RESOURCE_EXHAUSTED, "a message of too many parts");
    else
        dispatch(s, (const Pb__Ext__ProcessingRequest *)m, &a);
    arena_fini(&a);
}

static void on_open(void *ctx, struct grpc_stream *g)
{
    struct extproc_stream *s = mem_zalloc(sizeof(*s));

    s->x = ctx;
    s->g = g;
    arena_init(&s->head, HEAD_ARENA);
    buf_init(&s->body, s->x->opts.body_bytes_max);
    buf_init(&s->queue, QUEUE_MAX);
    buf_init(&s->report, REPORT_MAX);
    grpc_stream_set(g, s);
}

/* Envoy is through with the stream.  Before the end of the response: its client left. */
static void on_half_close(void *ctx, struct grpc_stream *g)
{
    struct extproc_stream *s = grpc_stream_get(g);

    (void)ctx;
    if (s->end_after || s->skip)
        return; /* it ends by itself, once everything is out */
    say_done(s, EXTPROC_CLIENT_DISCONNECT);
    grpc_finish(g, GRPC_OK, NULL, NULL);
}

static void on_gone(void *ctx, struct grpc_stream *g, bool cancelled)
{
    struct extproc_stream *s = grpc_stream_get(g);

    (void)ctx;
    say_done(s, s->failed   ? EXTPROC_ERROR
                : cancelled ? EXTPROC_CLIENT_DISCONNECT
                            : EXTPROC_NATURAL);
    drop_body(s);
    arena_fini(&s->head);
    buf_fini(&s->queue);
    buf_fini(&s->report);
    extproc_rename_fini(&s->rename);
    mem_free(s);
}

void extproc_set(struct extproc_stream *s, void *user)
{
    s->user = user;
}

void *extproc_get(const struct extproc_stream *s)
{
    return s->user;
}

struct extproc *extproc_open(const struct extproc_opts *opts, const struct extproc_ops *ops,
                             void *ctx)
{
    struct extproc *x = mem_zalloc(sizeof(*x));

    x->opts = *opts;
    if (x->opts.body_bytes_max == 0)
        x->opts.body_bytes_max = BODY_DEFAULT;
    if (x->opts.buffer_bytes_max == 0)
        x->opts.buffer_bytes_max = BUFFER_DEFAULT;
    x->ops = *ops;
    x->ctx = ctx;
    buf_init(&x->answer, ANSWER_MAX);
    buf_init(&x->piece, ANSWER_MAX);
    return x;
}

void extproc_close(struct extproc *x)
{
    if (x == NULL)
        return;
    ASSERT(x->buffered == 0);
    buf_fini(&x->answer);
    buf_fini(&x->piece);
    mem_free(x);
}

struct grpc_method extproc_method(struct extproc *x)
{
    return (struct grpc_method) { .path = "/" EXTPROC_SERVICE "/Process",
                                  .ctx = x,
                                  .on_open = on_open,
                                  .on_message = on_message,
                                  .on_half_close = on_half_close,
                                  .on_room = on_room,
                                  .on_gone = on_gone };
}
