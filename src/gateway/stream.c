/* Streamed answers.
 *
 * Whole events go on as they came; an event that has begun waits in x->body for its end, so that a
 * worker that dies in the middle of one leaves no half of it with the client.
 *
 *   upstream --whole events--> client
 *                 `--client too slow--> pending (then upstream is paused) --drained--> client
 *
 * The end is one of: the end mark was seen (or the dialect has none): the answer is complete; else
 * an error event and a transfer without its last chunk, because a cut answer must not look
 * finished. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "gateway/proxy_priv.h"
#include <stdio.h>

#define SLICE_BYTES ((size_t)64 << 10) /* of pending bytes, at a time */
#define COMMENT_NS  UINT64_C(15000000000)
#define PLACE_NS    UINT64_C(1000000000)

static void finish(struct exchange *x)
{
    struct http_req *r = x->req;

    x->req = NULL;
    if (x->cut)
        http_reply_abort(r); /* what is queued still goes out */
    else
        http_reply_end(r);
    exchange_end(x);
}

/* Gives pending bytes to the client as far as it takes them. */
static void flush(struct exchange *x)
{
    while (x->pending.len > 0) {
        struct str slice = str_sub(buf_view(&x->pending), 0, SLICE_BYTES);

        if (http_reply_chunk(x->req, slice) != 0)
            return;
        buf_drop(&x->pending, slice.n);
    }
}

static void give(struct exchange *x, struct str bytes)
{
    if (bytes.n == 0)
        return;
    x->t_wrote = clock_ns();
    x->rt.reply_bytes += bytes.n;
    if (x->pending.len == 0) {
        int rc = http_reply_chunk(x->req, bytes);

        if (rc != ERR_AGAIN)
            return; /* sent, or the client is going: on_gone says so */
    }
    (void)buf_str(&x->pending, bytes);
    if (x->call != NULL && !x->paused) {
        http_call_pause(x->call);
        x->paused = true;
    }
}

/* The client hears the name that it asked for. */
static void give_renamed(struct exchange *x, struct str events)
{
    const struct reading *r = &x->rt.reading;
    struct buf b;

    if (r->target.p == NULL || r->model.p == NULL) {
        give(x, events);
        return;
    }
    buf_init(&b, events.n * 2 + EVENT_BYTES_MAX);
    answer_rename(events, r->target, r->model, &b);
    give(x, b.failed ? events : buf_view(&b));
    buf_fini(&b);
}

void stream_fail(struct exchange *x, const struct oai_error *e)
{
    struct buf b;

    if (x->call != NULL)
        http_call_cancel(x->call);
    x->call = NULL;
    x->rt.failure = e->code;
    metric_add(gateway_cell(x->rt.g, M_L_CUT, e->code, NULL), 1);
    metric_add(gateway_cell(x->rt.g, M_L_WASTED, NULL, NULL), x->rt.seen.events);
    if (x->rt.decode != NULL && str_eqz(STR("upstream_cut"), e->code))
        endpoint_failed(x->rt.decode, x->rt.t_dispatch);
    buf_init(&b, (size_t)4 << 10);
    oai_sse_error(&b, e);
    give(x, buf_view(&b));
    buf_fini(&b);
    x->cut = true;
    x->ended = true;
    if (x->pending.len == 0 || x->pending.failed)
        finish(x);
}

void stream_cut(struct exchange *x, const char *code, const char *message)
{
    struct oai_error e;

    (void)oai_fail(&e, 502, "InternalServerError", code, NULL, "%s", message);
    stream_fail(x, &e);
}

void stream_body(struct exchange *x, struct str bytes)
{
    uint32_t events = x->rt.seen.events;
    struct str whole = bytes;
    size_t n;

    if (x->body.len > 0) {
        if (!buf_str(&x->body, bytes)) {
            if (!x->started)
                exchange_start_stream(x);
            stream_cut(x, "upstream_cut", "the worker sent an event that is too large");
            return;
        }
        whole = buf_view(&x->body);
    }
    n = answer_whole_events(whole);
    if (n > 0) {
        struct str ready = str_sub(whole, 0, n);

        answer_inspect(ready, &x->rt.seen, &x->rt.usage);
        books_event(&x->rt, x->rt.t_last, x->t_event);
        x->t_event = x->rt.t_last;
        x->rt.streams_sum += (double)(x->rt.seen.events - events) * (x->rt.decode->decoding - 1);
        if (!x->started)
            exchange_start_stream(x);
        give_renamed(x, ready);
        if (x->pending.failed) {
            stream_cut(x, "slow_client", "the client reads too slowly");
            return;
        }
    }
    if (x->body.len > 0)
        buf_drop(&x->body, n);
    else
        (void)buf_str(&x->body, str_sub(bytes, n, SIZE_MAX));
    if (x->body.failed)
        stream_cut(x, "upstream_cut", "the worker sent an event that is too large");
}

void stream_end(struct exchange *x, int rc)
{
    bool complete = rc == 0 && (x->rt.seen.done || x->rt.seen.error || x->rt.kind == ROUTE_OTHER);

    /* The end mark is the answer's end, whatever becomes of the connection after it. */
    if (!complete && !x->rt.seen.done) {
        stream_cut(x, "upstream_cut",
                   rc == ERR_TIMEOUT ? "the worker fell silent"
                                     : "the worker broke its answer off");
        return;
    }
    if (x->rt.seen.error)
        x->rt.failure = "upstream_error";
    else
        endpoint_succeeded(x->rt.decode);
    if (x->rt.failure == NULL)
        route_learn(&x->rt);
    x->ended = true;
    if (x->pending.len == 0)
        finish(x);
}

void stream_drained(void *ctx)
{
    struct exchange *x = ctx;

    if (!x->started && !x->early)
        return;
    flush(x);
    if (x->pending.len > 0)
        return;
    if (x->ended) {
        finish(x);
    } else if (x->paused) {
        x->paused = false;
        x->rt.t_last = clock_ns(); /* the silence was the client's */
        if (x->call != NULL)
            http_call_resume(x->call);
    }
}

void stream_quiet(struct exchange *x, uint64_t now_ns)
{
    if (x->pending.len == 0 && x->t_wrote != 0 && now_ns - x->t_wrote >= COMMENT_NS)
        give(x, STR(":\n\n"));
}

bool stream_place_is_due(const struct exchange *x, uint64_t now_ns)
{
    return x->pending.len == 0 && now_ns - x->t_wrote >= PLACE_NS;
}

void stream_place(struct exchange *x, uint32_t position)
{
    char line[48];
    int n = snprintf(line, sizeof(line), ": queue position %u\n\n", position);

    give(x, (struct str) { line, (size_t)n });
}
