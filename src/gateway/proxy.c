/* A request on its way: read, decided, forwarded, answered.
 *
 *   proxy_request -> read (here, or on the thread) -> attempt -> on_head -> on_body ... -> on_end
 *                                                       ^                                   |
 *                                                       `-- retry: nothing was answered yet -'
 *
 * Nothing goes to the client before the first body byte of a good answer is there, so everything
 * that fails earlier can still be tried elsewhere or refused with an honest status.  After it, a
 * failure is one error event and a broken-off stream (stream.c).
 *
 * An exchange has at most one of: a job, a timer, a call.  It is freed in exchange_end, which every
 * way out goes through once; the client's leaving (on_gone) is such a way. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/picker.h"
#include "gateway/proxy_priv.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HEADERS_OUT_MAX  112
#define BACKOFF_MS       25
#define BODY_NAME_BYTES  ((size_t)2 << 10)
#define WAIT_STEP_MS     50
#define BACKOFF_MS_MAX   1000
#define RESETS_MAX       1   /* a reset may have cost work already: one more try, no more */
#define DEADLINE_LEFT_MS 250 /* no attempt with less */

/* The id, what plugins add, the rates, the receipt. */
#define ANSWER_HEADERS_MAX (2 + ROUTED_HEADERS_MAX + LIMIT_HEADERS_MAX)

static void attempt(struct exchange *x);
static void admit(struct exchange *x);

/* ---- refusals ---- */

static void reply_error(struct gateway *g, struct http_req *r, const struct oai_error *e,
                        const char *id, uint32_t retry_after_s, const char *dropped,
                        const struct limit_state *rates)
{
    struct http_header extra[6 + LIMIT_HEADERS_MAX];
    struct http_headers headers = { extra, 0 };
    char seconds[16], ms[16], code[8];
    bool by_rate = rates != NULL && rates->refused_by != LIMIT_NONE; /* they bring their advice */
    struct buf b;

    retry_after_s = MAX(retry_after_s, 1u);
    snprintf(seconds, sizeof(seconds), "%" PRIu32, retry_after_s);
    snprintf(ms, sizeof(ms), "%" PRIu32, MIN(retry_after_s, 3600u) * 1000);
    snprintf(code, sizeof(code), "%d", e->status);
    if ((e->status == 429 || e->status == 503) && !by_rate) {
        extra[headers.count++] = (struct http_header) { STR("Retry-After"), str_of(seconds) };
        extra[headers.count++] = (struct http_header) { STR("retry-after-ms"), str_of(ms) };
    }
    extra[headers.count++] =
        (struct http_header) { STR("x-should-retry"),
                               e->status == 429 || e->status >= 502 ? STR("true") : STR("false") };
    if (id != NULL)
        extra[headers.count++] = (struct http_header) { STR("x-request-id"), str_of(id) };
    if (dropped != NULL)
        extra[headers.count++] =
            (struct http_header) { STR("x-llm-d-request-dropped-reason"), str_of(dropped) };
    if (e->status == 401)
        extra[headers.count++] =
            (struct http_header) { STR("WWW-Authenticate"), STR(AUTH_CHALLENGE) };
    if (rates != NULL)
        headers.count += limit_headers(rates, http_req_arena(r), extra + headers.count);
    buf_init(&b, (size_t)8 << 10);
    oai_error_body(e, &b);
    metric_add(gateway_cell(g, M_L_REQUESTS, code, NULL), 1);
    metric_add(gateway_cell(g, M_L_REJECTED, e->code, NULL), 1);
    http_reply(r, e->status, "application/json", buf_view(&b), &headers);
    buf_fini(&b);
}

static void fail_v(struct oai_error *e, int status, const char *type, const char *code,
                   const char *fmt, va_list ap)
{
    char text[sizeof(e->message)];

    vsnprintf(text, sizeof(text), fmt, ap);
    (void)oai_fail(e, status, type, code, NULL, "%s", text);
}

void proxy_refuse(struct gateway *g, struct http_req *r, int status, const char *type,
                  const char *code, const char *fmt, ...)
{
    struct oai_error e;
    va_list ap;

    va_start(ap, fmt);
    fail_v(&e, status, type, code, fmt, ap);
    va_end(ap);
    reply_error(g, r, &e, NULL, 1, NULL, NULL);
}

void proxy_refuse_key(struct front *f, struct http_req *r, int status)
{
    struct oai_error e;

    if (status == 429)
        (void)oai_fail(&e, 429, "RateLimitError", "auth_throttle", NULL,
                       "too many requests with a wrong key came from this address");
    else
        (void)oai_fail(&e, 401, "AuthenticationError", "invalid_api_key", NULL,
                       "a valid API key is needed: Authorization: Bearer <key>");
    reply_error(f->g, r, &e, NULL,
                status == 429 ? auth_retry_s(f->auth, http_req_peer(r), clock_ms()) : 1, NULL,
                NULL);
}

/* ---- life ---- */

static void release(void *ctx);

void exchange_end(struct exchange *x)
{
    struct gateway *g = x->rt.g;
    struct front *f = x->rt.f;

    if (x->call != NULL)
        http_call_cancel(x->call);
    x->call = NULL;
    reader_drop(x->job);
    route_settle(&x->rt, &x->ticket);
    route_release(&x->rt);
    route_leave(&x->rt);
    books_close(&x->rt, &x->ticket, x->gone);
    if (x->prev != NULL)
        x->prev->next = x->next;
    else
        x->rt.f->live = x->next;
    if (x->next != NULL)
        x->next->prev = x->prev;
    loop_timer_free(x->timer);
    buf_fini(&x->body);
    buf_fini(&x->pending);
    buf_fini(&x->name);
    if (admit_leave(&x->ticket))
        release(x);
    policies_pump(g, f);
    gateway_exchange_ended(g);
}

/* Ends in an error answer: nothing was answered yet. */
static void exchange_fail(struct exchange *x, int status, const char *type, const char *code,
                          const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void exchange_fail(struct exchange *x, int status, const char *type, const char *code,
                          const char *fmt, ...)
{
    struct http_req *r = x->req;
    struct oai_error e;
    va_list ap;

    va_start(ap, fmt);
    fail_v(&e, status, type, code, fmt, ap);
    va_end(ap);
    if (x->early || x->started) {
        stream_fail(x, &e);
        return;
    }
    x->req = NULL;
    x->rt.answered = status;
    x->rt.failure = code;
    reply_error(x->rt.g, r, &e, x->rt.id, x->retry_after_s, x->dropped,
                x->rt.identity.set != NULL ? &x->rt.rates : NULL);
    exchange_end(x);
}

static void client_gone(void *ctx)
{
    struct exchange *x = ctx;

    x->req = NULL;
    x->rt.failure = "client_gone";
    x->gone = true;
    metric_add(gateway_cell(x->rt.g, M_L_CLIENT_GONE, NULL, NULL), 1);
    if (x->started)
        metric_add(gateway_cell(x->rt.g, M_L_WASTED, NULL, NULL), x->rt.seen.events);
    exchange_end(x);
}

/* ---- attempts ---- */

enum attempt_end { ATT_CONNECT, ATT_RESET, ATT_TIMEOUT, ATT_BUSY, ATT_FROZEN, ATT_BROKEN };

static const char *const attempt_names[] = {
    [ATT_CONNECT] = "connect", [ATT_RESET] = "reset",   [ATT_TIMEOUT] = "timeout",
    [ATT_BUSY] = "busy",       [ATT_FROZEN] = "frozen", [ATT_BROKEN] = "broken",
};

static void attempt_refuse(struct exchange *x, enum attempt_end why)
{
    switch (why) {
    case ATT_CONNECT:
        exchange_fail(x, 503, "ServiceUnavailableError", "upstream_connect",
                      "no worker could be reached");
        return;
    case ATT_BUSY:
        exchange_fail(x, x->status == 429 ? 429 : 503,
                      x->status == 429 ? "RateLimitError" : "ServiceUnavailableError",
                      x->status == 429 ? "upstream_busy" : "upstream_unavailable",
                      "no worker can take the request now");
        return;
    case ATT_TIMEOUT:
        exchange_fail(x, 504, "InternalServerError", "upstream_timeout",
                      "the worker did not answer in time");
        return;
    case ATT_FROZEN:
        exchange_fail(x, 504, "InternalServerError", "upstream_frozen",
                      "the worker stopped answering");
        return;
    case ATT_RESET:
    case ATT_BROKEN:
        exchange_fail(x, 502, "InternalServerError", "upstream_reset",
                      "the worker broke its answer off");
        return;
    }
}

static void backed_off(void *ctx)
{
    attempt(ctx);
}

/* Tries again after so long. */
static void arm(struct exchange *x, uint64_t ms)
{
    if (x->timer == NULL)
        x->timer = loop_timer_new(x->rt.f->loop, backed_off, x);
    loop_timer_arm(x->timer, ms, 0);
}

static bool may_retry(const struct exchange *x, enum attempt_end why)
{
    uint64_t left_ms = x->rt.g->total_ms -
                       MIN((clock_ns() - x->rt.t_start) / 1000000, (uint64_t)x->rt.g->total_ms);

    return why != ATT_BROKEN && x->rt.attempts <= x->rt.g->retries_max &&
           left_ms >= DEADLINE_LEFT_MS &&
           !(why != ATT_CONNECT && why != ATT_BUSY && x->resets > RESETS_MAX);
}

/* This attempt came to nothing, before a byte went to the client. */
static void attempt_failed(struct exchange *x, enum attempt_end why)
{
    struct gateway *g = x->rt.g;
    struct endpoint *ep = x->rt.decode;
    uint32_t backoff =
        MIN((uint32_t)BACKOFF_MS << MIN(x->rt.attempts, 6u), (uint32_t)BACKOFF_MS_MAX);

    if (x->call != NULL)
        http_call_cancel(x->call);
    x->call = NULL;
    if (why == ATT_BUSY)
        endpoint_pause(ep, MAX(x->retry_after_s, 1u) * 1000);
    else
        endpoint_failed(ep, x->rt.t_dispatch);
    route_tried(&x->rt, ep);
    x->resets += why != ATT_CONNECT && why != ATT_BUSY;
    route_release(&x->rt);
    if (!may_retry(x, why)) {
        attempt_refuse(x, why);
        return;
    }
    if (!retry_budget_take(&x->rt.f->budget, clock_ms())) {
        metric_add(gateway_cell(g, M_L_RETRY_REFUSED, NULL, NULL), 1);
        attempt_refuse(x, why);
        return;
    }
    x->last_failure = why;
    arm(x, rng_below(&x->rt.f->rng, backoff));
}

static struct http_headers request_headers(struct exchange *x, struct http_header *out,
                                           char *traceparent)
{
    uint32_t stripped;
    size_t n = forward_headers(http_req_headers(x->req), x->rt.f->auth != NULL, out,
                               HEADERS_OUT_MAX - 8, &stripped);

    if (stripped != 0 && x->rt.attempts == 1)
        metric_add(gateway_cell(x->rt.g, M_L_STRIPPED, NULL, NULL), stripped);
    out[n++] = (struct http_header) { STR("x-request-id"), str_of(x->rt.id) };
    trace_format(&x->rt.trace, traceparent);
    out[n++] = (struct http_header) { STR("traceparent"), str_of(traceparent) };
    for (uint32_t i = 0; i < x->rt.to_worker_count; i++)
        out[n++] =
            (struct http_header) { x->rt.to_worker[i].name, str_of(x->rt.to_worker[i].value) };
    if (x->rt.prefill != NULL && x->rt.strategy != SCHED_CONFIGURED)
        out[n++] =
            (struct http_header) { STR("x-prefiller-host-port"), str_of(x->rt.prefill->address) };
    return (struct http_headers) { out, n };
}

static const struct http_call_ops call_ops;

/* The body as received, with another model's name in the place of the client's.  What is received
 * stays until the call is gone (exchange_end); the name is the exchange's. */
static size_t body_pieces(struct exchange *x, struct str piece[3])
{
    const struct reading *r = &x->rt.reading;
    struct str body = http_req_body(x->req);
    struct json_w w;

    if (r->target.p == NULL || r->model_bytes == 0) {
        piece[0] = body;
        return 1;
    }
    buf_reset(&x->name);
    json_w_init(&w, &x->name);
    json_w_str(&w, r->target);
    piece[0] = str_sub(body, 0, r->model_at);
    piece[1] = buf_view(&x->name);
    piece[2] = str_sub(body, r->model_at + r->model_bytes, SIZE_MAX);
    return 3;
}

static void dispatch(struct exchange *x)
{
    struct gateway *g = x->rt.g;
    struct http_header headers[HEADERS_OUT_MAX];
    char traceparent[TRACEPARENT_BYTES + 1], to[ADDRESS_BYTES];
    struct sched_served served = { .is_reported = true };
    struct str piece[3];
    struct http_call_opts o = {
        .host = x->rt.decode->host,
        .port = x->rt.port != 0 ? x->rt.port : x->rt.decode->port,
        .method = STR("POST"),
        .path = str_of(x->rt.path),
        .tls = g->upstream.tls,
        .headers = request_headers(x, headers, traceparent),
        .pieces = piece,
        .connect_ms = 1000,
        .first_byte_ms = g->first_byte_ms,
        .gap_ms = g->gap_ms,
        .total_ms = g->total_ms - (uint32_t)MIN((clock_ns() - x->rt.t_start) / 1000000,
                                                (uint64_t)g->total_ms - 1),
    };
    struct err e;

    o.piece_count = body_pieces(x, piece);
    served.endpoint = policy_destination(&x->rt, to, sizeof(to));
    policy_served(&x->rt, &served);
    x->rt.t_dispatch = clock_ns();
    x->rt.sent_to = x->rt.decode->address;
    x->rt.sent_prefill = x->rt.prefill != NULL ? x->rt.prefill->address : NULL;
    if (http_call_start(x->rt.f->client, &o, &call_ops, x, &x->call, &e) != 0) {
        x->call = NULL;
        LOG_WARN("cannot call endpoint=%s error=\"%s\"", x->rt.decode->address, e.msg);
        attempt_failed(x, ATT_CONNECT);
    }
}

/* Between the end of a worker and its return there may be a second in which nobody is there; a
 * request that has cost nothing yet can wait for that. */
static bool wait_for_return(struct exchange *x)
{
    struct gateway *g = x->rt.g;
    uint64_t waited_ms = (clock_ns() - x->rt.t_start) / 1000000;
    bool was_refused = x->rt.attempts > 0 && x->last_failure == ATT_BUSY;

    if (g->draining || was_refused || x->rt.attempts > g->retries_max || waited_ms >= g->wait_ms ||
        !endpoints_may_return(g, routing_model(&x->rt)))
        return false;
    /* who could not be reached may be tried anew; who broke off may not */
    if (x->rt.attempts > 0 && x->last_failure == ATT_CONNECT)
        x->rt.tried_count = 0;
    if (!x->waited)
        metric_add(gateway_cell(g, M_L_WAITED, NULL, NULL), 1);
    x->waited = true;
    arm(x, WAIT_STEP_MS);
    return true;
}

/* Nobody is there for it: why is worth saying exactly. */
static void refuse_nobody(struct exchange *x)
{
    struct gateway *g = x->rt.g;
    struct str model = routing_model(&x->rt);

    if (wait_for_return(x))
        return;
    if (x->rt.attempts > 0) {
        attempt_refuse(x, (enum attempt_end)x->last_failure);
        return;
    }
    if (x->rt.refused_status != 0) {
        x->dropped = x->rt.refused_reason;
        exchange_fail(x, x->rt.refused_status,
                      x->rt.refused_status == 429   ? "RateLimitError"
                      : x->rt.refused_status == 503 ? "ServiceUnavailableError"
                      : x->rt.refused_status < 500  ? "BadRequestError"
                                                    : "InternalServerError",
                      x->dropped != NULL ? x->dropped : "refused_by_plugin", "%s",
                      x->rt.refused_text);
        return;
    }
    if (endpoints_lack_model(g, model))
        exchange_fail(x, 404, "NotFoundError", "model_not_found", "the model `%.*s` does not exist",
                      (int)MIN(model.n, (size_t)200), model.p != NULL ? model.p : "");
    else
        exchange_fail(x, 503, "ServiceUnavailableError", "no_endpoint",
                      "no worker that serves the model is in rotation");
}

static void attempt(struct exchange *x)
{
    x->status = 0;
    x->retry_after_s = 0;
    x->rt.streaming = false;
    x->rt.t_first = x->rt.t_last = 0;
    x->rt.usage = (struct answer_usage) { 0 };
    x->rt.seen = (struct answer_seen) { 0 };
    x->rt.streams_sum = 0;
    buf_reset(&x->body);
    if (!route_decide(&x->rt)) {
        refuse_nobody(x);
        return;
    }
    x->rt.attempts++;
    if (x->rt.attempts > 1)
        metric_add(gateway_cell(x->rt.g, M_L_RETRIES, attempt_names[x->last_failure], NULL), 1);
    dispatch(x);
}

/* ---- the answer ---- */

/* What a client that asked gets to know of the decision. */
static struct http_headers answer_headers(struct exchange *x,
                                          struct http_header out[ANSWER_HEADERS_MAX],
                                          struct buf *receipt, bool final)
{
    size_t n = 0;

    out[n++] = (struct http_header) { STR("x-request-id"), str_of(x->rt.id) };
    for (uint32_t i = 0; i < x->rt.to_client_count; i++)
        out[n++] =
            (struct http_header) { x->rt.to_client[i].name, str_of(x->rt.to_client[i].value) };
    if (x->rt.identity.set != NULL)
        n += limit_headers(&x->rt.rates, http_req_arena(x->req), out + n);
    if (x->explain) {
        receipt_write(&x->rt, final, receipt);
        if (!receipt->failed)
            out[n++] = (struct http_header) { STR("x-llmd-receipt"), buf_view(receipt) };
    }
    return (struct http_headers) { out, n };
}

static void send_head(struct exchange *x)
{
    struct http_header extra[ANSWER_HEADERS_MAX];
    struct http_headers headers;
    struct buf receipt;
    char code[8];

    buf_init(&receipt, RECEIPT_BYTES_MAX);
    headers = answer_headers(x, extra, &receipt, false);
    x->rt.answered = x->status;
    snprintf(code, sizeof(code), "%d", x->status);
    metric_add(gateway_cell(x->rt.g, M_L_REQUESTS, code, NULL), 1);
    http_reply_start(x->req, x->status, x->content_type, &headers);
    buf_fini(&receipt);
}

void exchange_start_stream(struct exchange *x)
{
    x->started = true;
    if (!x->early)
        send_head(x);
}

/* The head of a stream that has to wait first: from here on an error is an event. */
static void start_early(struct exchange *x)
{
    x->early = true;
    x->status = 200;
    snprintf(x->content_type, sizeof(x->content_type), "text/event-stream");
    send_head(x);
    stream_place(x, admit_position(&x->ticket));
}

/* The client hears the name that it asked for. */
static void rename_whole(struct exchange *x)
{
    const struct reading *r = &x->rt.reading;
    struct buf b;

    if (r->target.p == NULL || r->model.p == NULL)
        return;
    buf_init(&b, ANSWER_BYTES_MAX * 2);
    answer_rename(buf_view(&x->body), r->target, r->model, &b);
    if (!b.failed) {
        buf_fini(&x->body);
        x->body = b;
    } else {
        buf_fini(&b);
    }
}

/* A whole answer, as the worker gave it. */
static void answer_whole(struct exchange *x)
{
    struct http_header extra[ANSWER_HEADERS_MAX];
    struct http_headers headers;
    struct http_req *r = x->req;
    struct buf receipt;
    char code[8];

    buf_init(&receipt, RECEIPT_BYTES_MAX);
    answer_find_usage(buf_view(&x->body), &x->rt.usage);
    x->rt.answered = x->status;
    if (x->status == 200) {
        endpoint_succeeded(x->rt.decode);
        route_learn(&x->rt);
    }
    headers = answer_headers(x, extra, &receipt, true);
    snprintf(code, sizeof(code), "%d", x->status);
    metric_add(gateway_cell(x->rt.g, M_L_REQUESTS, code, NULL), 1);
    x->req = NULL;
    rename_whole(x);
    x->rt.reply_bytes = x->body.len;
    http_reply(r, x->status, x->content_type[0] != 0 ? x->content_type : "application/json",
               buf_view(&x->body), &headers);
    buf_fini(&receipt);
    exchange_end(x);
}

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    struct exchange *x = ctx;
    struct str type = http_header_get(h, "content-type"), after = http_header_get(h, "retry-after");
    uint64_t seconds;

    x->status = status;
    snprintf(x->content_type, sizeof(x->content_type), "%.*s", STR_ARG(type));
    x->rt.streaming = status == 200 && str_starts(type, STR("text/event-stream"));
    if (after.p != NULL && str_u64(after, &seconds))
        x->retry_after_s = (uint32_t)MIN(seconds, (uint64_t)3600);
    buf_fini(&x->body);
    buf_init(&x->body, x->rt.streaming ? EVENT_BYTES_MAX : ANSWER_BYTES_MAX);
}

static void on_body(void *ctx, struct str bytes)
{
    struct exchange *x = ctx;

    x->rt.t_last = clock_ns();
    if (x->rt.t_first == 0)
        x->rt.t_first = x->rt.t_last;
    route_first_byte(&x->rt);
    if (x->rt.streaming)
        stream_body(x, bytes);
    else
        (void)buf_str(&x->body, bytes);
}

/* The worker's answer is complete but not a stream. */
static void whole_end(struct exchange *x)
{
    x->rt.t_last = clock_ns();
    if (x->body.failed) {
        exchange_fail(x, 502, "InternalServerError", "upstream_too_large",
                      "the worker's answer is too large");
    } else if (x->status == 503 || x->status == 429) {
        attempt_failed(x, ATT_BUSY);
    } else if (x->status >= 500 && x->status != 501) {
        /* its text may quote the prompt: ours is given instead */
        endpoint_failed(x->rt.decode, x->rt.t_dispatch);
        exchange_fail(x, x->status == 504 ? 504 : 502, "InternalServerError", "upstream_error",
                      "the worker failed");
    } else if (x->early) {
        stream_cut(x, "upstream_error", "the worker refused the request");
    } else {
        answer_whole(x);
    }
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct exchange *x = ctx;

    x->call = NULL;
    if (x->started)
        stream_end(x, rc);
    else if (rc == 0 && !x->rt.streaming)
        whole_end(x);
    else if (rc == ERR_TIMEOUT && sent)
        attempt_failed(x, ATT_TIMEOUT);
    else if (!sent)
        attempt_failed(x, ATT_CONNECT);
    else
        attempt_failed(x, !got || x->status == 200 ? ATT_RESET : ATT_BROKEN);
}

static const struct http_call_ops call_ops = { on_head, on_body, on_end };

/* ---- waiting for room ---- */

static void count_refused(const struct exchange *x, enum flow_outcome o)
{
    struct gateway *g = x->rt.g;
    char priority[16];
    const char *outcome[] = { flow_outcome_name(o), priority, gateway_pool };
    const char *waited[] = { x->rt.fairness_id, priority, outcome[0], gateway_pool, "", "" };

    snprintf(priority, sizeof(priority), "%" PRId32, x->rt.priority);
    metric_add(gateway_cell_of(g, M_FLOW_REQUESTS, outcome), 1);
    metric_observe(gateway_cell_of(g, M_FLOW_QUEUE_SECONDS, waited),
                   (double)(clock_ns() - x->ticket.entered_ns) * 1e-9);
}

static void admitted(void *ctx)
{
    struct exchange *x = ctx;
    uint32_t hold_ms;

    metric_add(x->rt.cells->dispatched, 1);
    metric_observe(x->rt.cells->queued, (double)(x->ticket.left_ns - x->ticket.entered_ns) * 1e-9);
    retry_budget_request(&x->rt.f->budget, clock_ms());
    hold_ms = policy_hold(&x->rt);
    if (hold_ms != 0)
        arm(x, hold_ms);
    else
        attempt(x);
}

static void refused(void *ctx, enum flow_outcome why, bool pool_is_empty)
{
    struct exchange *x = ctx;
    int status = flow_outcome_status(why, pool_is_empty);

    count_refused(x, why);
    x->dropped = flow_outcome_reason(why, pool_is_empty);
    x->retry_after_s = admit_retry_after_s(&x->ticket, rng_u64(&x->rt.f->rng));
    exchange_fail(x, status, status == 429 ? "RateLimitError" : "ServiceUnavailableError",
                  x->dropped != NULL ? x->dropped : "saturated", "%s",
                  status == 503                   ? "no worker that serves the model is in rotation"
                  : why == FLOW_REJECTED_CAPACITY ? "too many requests are waiting already"
                                                  : "no worker had room for the request in time");
}

static void release(void *ctx)
{
    struct exchange *x = ctx;

    routing_fini(&x->rt);
    mem_free(x);
}

/* It makes room: its place is free at once, even while a slow client still takes what it has. */
static void evicted(void *ctx)
{
    struct exchange *x = ctx;

    if (x->call != NULL)
        http_call_cancel(x->call);
    x->call = NULL;
    route_settle(&x->rt, &x->ticket);
    route_release(&x->rt);
    if (x->ended)
        return;
    x->dropped = "evicted";
    x->retry_after_s = admit_retry_after_s(&x->ticket, rng_u64(&x->rt.f->rng));
    exchange_fail(x, 429, "RateLimitError", x->dropped,
                  "the request was ended to make room for one of higher priority");
}

static const struct admit_ops admit_ops = { admitted, refused, release, evicted };

/* Whether the client wants to be told of its place in the queue while it waits. */
static bool wants_comments(const struct exchange *x)
{
    return x->rt.reading.stream &&
           str_eqz(http_header_get(http_req_headers(x->req), "x-llmd-queue-comments"), "1");
}

static void admit(struct exchange *x)
{
    struct gateway *g = x->rt.g;
    enum flow_outcome why;

    x->ticket.item.bytes = http_req_body(x->req).n;
    switch (admit_enter(x->rt.policy->admission, &x->ticket, &x->rt, &admit_ops, x, &why)) {
    case ADMIT_GO: admitted(x); return;
    case ADMIT_REFUSED: refused(x, why, !endpoints_any_usable(g)); return;
    case ADMIT_WAIT:
        if (wants_comments(x))
            start_early(x);
        return;
    }
}

/* ---- reading ---- */

static void read_done(void *ctx, struct reading *r)
{
    struct exchange *x = ctx;
    struct gateway *g = x->rt.g;

    x->job = NULL;
    x->rt.reading = *r;
    x->rt.was_read = true;
    x->rt.t_read = clock_ns();
    metric_observe(g->m_read, (double)(x->rt.t_read - x->rt.t_start) * 1e-9);
    if (x->rt.reading.error.status != 0) {
        struct oai_error e = x->rt.reading.error;
        struct http_req *req = x->req;

        x->req = NULL;
        x->rt.answered = e.status;
        x->rt.failure = e.code;
        reply_error(g, req, &e, x->rt.id, 0, NULL, NULL);
        exchange_end(x);
        return;
    }
    if (x->rt.kind != ROUTE_OTHER && x->rt.reading.estimated) {
        if (x->rt.reading.render_failed)
            metric_add(gateway_cell(g, M_L_RENDER_FAILED, NULL, NULL), 1);
        else
            metric_add(gateway_cell(g, M_L_ESTIMATE, NULL, NULL), 1);
    }
    books_open(&x->rt);
    if (x->rt.identity.set != NULL && !auth_model_allowed(&x->rt.identity, x->rt.reading.model)) {
        exchange_fail(x, 403, "PermissionDeniedError", "permission",
                      "this key may not use the model");
        return;
    }
    if (endpoints_lack_model(g, routing_model(&x->rt))) {
        refuse_nobody(x);
        return;
    }
    if (!routing_limit(&x->rt)) {
        x->retry_after_s = (uint32_t)MIN((x->rt.rates.retry_ms + 999) / 1000, (uint64_t)3600);
        exchange_fail(x, 429, "RateLimitError", "rate_limit", "the tenant's limit of %s is reached",
                      limit_kind_name(x->rt.rates.refused_by));
        return;
    }
    admit(x);
}

static struct exchange *exchange_new(struct front *f, struct http_req *r, enum route_kind kind,
                                     const char *path, const struct auth_identity *id)
{
    struct exchange *x = mem_zalloc(sizeof(*x));
    const struct http_headers *h = http_req_headers(r);

    x->rt.identity = *id;
    routing_init(&x->rt, f, kind, path, h, http_req_peer(r), http_req_body(r).n);
    x->req = r;
    x->explain = str_eqz(http_header_get(h, "x-llmd-explain"), "1");
    buf_init(&x->body, EVENT_BYTES_MAX);
    buf_init(&x->pending, PENDING_BYTES_MAX);
    buf_init(&x->name, BODY_NAME_BYTES);
    x->next = f->live;
    if (f->live != NULL)
        f->live->prev = x;
    f->live = x;
    http_req_on_gone(r, client_gone, x);
    http_req_on_drain(r, stream_drained, x);
    return x;
}

static void begin(struct front *f, struct http_req *r, enum route_kind kind, const char *path)
{
    struct auth_identity id = { 0 };
    struct exchange *x;
    int status = 0;

    /* once more: a key can be taken back while a body is on its way */
    if (f->auth != NULL)
        status = auth_check(f->auth, http_req_headers(r), http_req_peer(r), clock_ms(),
                            clock_wall_s(), &id);
    if (status != 0) {
        proxy_refuse_key(f, r, status);
        return;
    }
    x = exchange_new(f, r, kind, path, &id);
    if (!routing_read(&x->rt, http_req_body(r), &x->job, read_done, x))
        exchange_fail(x, 503, "ServiceUnavailableError", "overloaded",
                      "too many long requests are being read");
}

void proxy_request(struct front *f, struct http_req *r, enum route_kind kind, const char *path)
{
    struct gateway *g = f->g;

    if (g->draining)
        proxy_refuse(g, r, 503, "ServiceUnavailableError", "shutting_down",
                     "server is shutting down");
    else if (g->inflight >= g->inflight_max)
        proxy_refuse(g, r, 429, "RateLimitError", "too_many_requests",
                     "%" PRIu32 " requests are being served already", (uint32_t)g->inflight);
    else
        begin(f, r, kind, path);
}

/* ---- from outside ---- */

void proxy_sweep(struct front *f)
{
    struct gateway *g = f->g;
    uint64_t now = clock_ns(), oldest = now;

    policies_pump(g, f);
    for (struct exchange *x = f->live, *next; x != NULL; x = next) {
        uint64_t quiet_from = MAX(x->rt.t_dispatch, x->rt.t_last);

        next = x->next;
        oldest = MIN(oldest, x->rt.t_start);
        if (x->early && x->call == NULL && stream_place_is_due(x, now))
            stream_place(x, admit_position(&x->ticket));
        if (x->call == NULL)
            continue;
        if (x->rt.decode->use == SCHED_FROZEN && !x->paused &&
            now - quiet_from >= (uint64_t)g->frozen_ms * 1000000) {
            if (x->started)
                stream_cut(x, "upstream_cut", "the worker stopped answering");
            else
                attempt_failed(x, ATT_FROZEN);
        } else if (x->started) {
            stream_quiet(x, now);
        }
    }
    oldest = picker_oldest_ns(f->picker, oldest);
    atomic_store_explicit(&f->oldest_ns, oldest, memory_order_release);
}

void proxy_break_all(struct front *f, const char *code, const char *message)
{
    for (struct exchange *x = f->live, *next; x != NULL; x = next) {
        next = x->next;
        if (x->started && !x->ended)
            stream_cut(x, code, message);
        else if (!x->started)
            exchange_fail(x, 503, "ServiceUnavailableError", code, "%s", message);
    }
}

void proxy_drop_all(struct front *f)
{
    while (f->live != NULL) {
        struct exchange *x = f->live;
        struct http_req *r = x->req;

        x->req = NULL;
        x->rt.failure = "dropped";
        exchange_end(x);
        if (r != NULL)
            http_reply_abort(r);
    }
}
