/* Messages of a proxy against the ext_proc conversation, on a stream made of nothing.  Input:
 * pieces of two bytes of length and a message; a piece of length 0 is an event: the picker's late
 * answer, room in the queue, the half-close.  Answers keep the order head, body, trailers on each
 * side, an immediate one is the last, and done comes once for each request. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/proto.h"
#include "gateway/extproc.h"
#include <string.h>

#define BODY_MAX 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    REQUEST_HEADERS = 1,
    RESPONSE_HEADERS,
    REQUEST_BODY,
    RESPONSE_BODY,
    REQUEST_TRAILERS,
    RESPONSE_TRAILERS,
    IMMEDIATE
};

/* ---- a stream made of nothing ---- */

struct grpc_stream {
    void *user;
    size_t queued, queue_max;
    bool finished;
    unsigned stage[2]; /* request, response: 1 head, 2 body, 3 trailers were answered */
    bool immediate;
};

static struct extproc_stream *asked;
static size_t requests, dones;
static unsigned mood; /* of the picker */

void grpc_stream_set(struct grpc_stream *s, void *user)
{
    s->user = user;
}

void *grpc_stream_get(const struct grpc_stream *s)
{
    return s->user;
}

static void check_order(struct grpc_stream *s, struct str message)
{
    struct proto_field f;
    unsigned side, stage;

    ASSERT(!s->immediate);
    ASSERT(proto_next(&message, &f) == PROTO_FIELD && f.wire == PROTO_BYTES);
    if (f.number == IMMEDIATE) {
        s->immediate = true;
        return;
    }
    ASSERT(f.number >= REQUEST_HEADERS && f.number <= RESPONSE_TRAILERS);
    side = (f.number - 1) % 2;
    stage = (f.number - 1) / 2 + 1;
    ASSERT(stage == 2 ? s->stage[side] == 1 || s->stage[side] == 2 : stage > s->stage[side]);
    s->stage[side] = stage;
}

int grpc_send(struct grpc_stream *s, struct str message)
{
    if (s->finished)
        return ERR_CLOSED;
    if (s->queued != 0 && s->queued + message.n > s->queue_max)
        return ERR_AGAIN;
    s->queued += message.n;
    check_order(s, message);
    return 0;
}

void grpc_finish(struct grpc_stream *s, enum grpc_status status, const char *message,
                 const char *reason)
{
    (void)status;
    (void)message;
    (void)reason;
    s->finished = true;
}

/* ---- the picker ---- */

static void answer(void)
{
    static const struct extproc_header set = { { "x-a", 3 }, { "b", 1 } };
    struct extproc_pick pick = { .destination = STR("1.2.3.4:5"),
                                 .set = &set,
                                 .set_count = mood & 1,
                                 .has_body = (mood & 2) != 0,
                                 .body = STR("another body"),
                                 .model_sent = STR("in"),
                                 .model_shown = STR("shown"),
                                 .skip_response = (mood & 12) == 12 };

    if (asked == NULL)
        return;
    if ((mood & 48) == 48)
        extproc_refuse(asked, 429, STR("no"), &set, 1);
    else
        extproc_continue(asked, &pick);
}

static void on_request(void *ctx, struct extproc_stream *s, const struct extproc_request *q)
{
    (void)ctx;
    ASSERT(q->body.n <= BODY_MAX && q->request_id.n != 0 && q->path.n != 0);
    for (size_t i = 0; i < q->header_count; i++)
        for (size_t k = 0; k < q->header[i].name.n; k++)
            ASSERT(q->header[i].name.p[k] < 'A' || q->header[i].name.p[k] > 'Z');
    requests++;
    asked = s;
    if ((mood & 64) == 0)
        answer();
}

static void on_response(void *ctx, struct extproc_stream *s, const struct extproc_response *r)
{
    (void)ctx;
    if (r->event_stream)
        extproc_response_set(s, STR("x-b"), r->served);
}

static void on_response_body(void *ctx, struct extproc_stream *s, struct str bytes, bool end)
{
    (void)ctx;
    (void)end;
    if (bytes.n == 13)
        extproc_refuse(s, 429, STR("evicted"), NULL, 0);
}

static void on_done(void *ctx, struct extproc_stream *s, enum extproc_cause cause)
{
    (void)ctx;
    (void)cause;
    ASSERT(s == asked);
    asked = NULL;
    dones++;
}

static const struct extproc_ops ops = { on_request, on_response, on_response_body, on_done };

static void event(const struct grpc_method *m, struct grpc_stream *g, unsigned which)
{
    if (which % 3 == 0) {
        answer();
    } else if (which % 3 == 1 && g->queued != 0) {
        g->queued = 0;
        m->on_room(m->ctx, g);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct extproc_opts opts = { .body_bytes_max = BODY_MAX, .buffer_bytes_max = BODY_MAX };
    struct grpc_stream g = { .queue_max = 1000 };
    struct grpc_method m;
    struct extproc *x;
    bool half_closed = false;

    if (size < 2)
        return 0;
    mood = data[0];
    g.queue_max = data[1] < 128 ? (size_t)1 << 20 : data[1];
    asked = NULL;
    requests = dones = 0;
    x = extproc_open(&opts, &ops, NULL);
    m = extproc_method(x);
    m.on_open(m.ctx, &g);
    for (size_t at = 2; at + 2 < size && !half_closed;) {
        size_t n = (size_t)data[at] << 8 | data[at + 1];
        char *copy;

        at += 2;
        if (n == 0) {
            if (data[at] % 16 == 15)
                half_closed = true;
            event(&m, &g, data[at++]);
            continue;
        }
        n = MIN(n, size - at);
        copy = mem_dup(data + at, n);
        if (!g.finished)
            m.on_message(m.ctx, &g, (struct str) { copy, n });
        mem_free(copy);
        at += n;
    }
    if (half_closed && !g.finished)
        m.on_half_close(m.ctx, &g);
    m.on_gone(m.ctx, &g, !g.finished);
    ASSERT(requests <= 1 && dones == requests);
    extproc_close(x);
    return 0;
}
