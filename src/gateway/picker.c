/* The scheduler as Envoy's endpoint picker: the same reading, queues and decisions as the proxy's,
 * for requests whose bytes Envoy carries.
 *
 *   request -> read -> admit -> decide -> extproc_continue ... response -> done
 *                 `--------`--------`---> extproc_refuse
 *
 * A pick lives from request to done, which comes exactly once and gives everything back.  Envoy
 * makes no second attempt through us: it gets the further picks with the first.
 * Source: the project's scheduler page, section 2. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/picker.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/extproc.h"
#include "gateway/gateway_priv.h"
#include "gateway/health_grpc.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DESTINATIONS_BYTES 1024
#define TAIL_BYTES_MAX     ((size_t)1 << 20) /* of a whole answer, to find its usage */
#define FIELDS_MAX         256
#define REPORTS_MAX        8 /* numbers for Envoy, of one answer */

struct picker {
    struct front *f;
    struct extproc *x;
    struct grpc_server *server, *health_server;
    struct health_grpc health;
    struct grpc_method method[1 + HEALTH_GRPC_METHODS];
    struct pick *live;
};

struct pick {
    struct routing rt;
    struct pick *next, *prev;
    struct picker *p;
    struct extproc_stream *s;
    struct admit_ticket ticket;
    struct reader_job *job;
    struct loop_timer *timer; /* while it waits for others */
    struct http_header field[FIELDS_MAX];
    struct str body; /* borrowed until it is answered */
    struct buf tail; /* of the answer: an unfinished event, or all of it */
    uint64_t t_event;
    bool is_answered, is_bodyless, is_evicted;
};

/* ---- refusals ---- */

static const char *code_name(int status)
{
    switch (status) {
    case 400: return "BadRequest";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "NotFound";
    case 412: return "PreconditionFailed";
    case 429: return "ResourceExhausted";
    case 503: return "ServiceUnavailable";
    default: return "Internal";
    }
}

static size_t refusal_headers(struct pick *k, int status, const char *dropped,
                              struct extproc_header h[2], char seconds[16])
{
    size_t n = 0;

    if (dropped != NULL)
        h[n++] = (struct extproc_header) { STR(EXTPROC_REASON_HEADER), str_of(dropped) };
    if (status == 429 || status == 503) {
        snprintf(seconds, 16, "%" PRIu32, admit_retry_after_s(&k->ticket, rng_u64(&k->p->f->rng)));
        h[n++] = (struct extproc_header) { STR("retry-after"), str_of(seconds) };
    }
    return n;
}

static void refuse(struct pick *k, int status, const char *reason, const char *dropped,
                   const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void refuse(struct pick *k, int status, const char *reason, const char *dropped,
                   const char *fmt, ...)
{
    struct extproc_header h[2];
    char text[400], seconds[16];
    int used;
    va_list ap;

    used = snprintf(text, sizeof(text), "inference error: %s - ", code_name(status));
    va_start(ap, fmt);
    vsnprintf(text + used, sizeof(text) - (size_t)used, fmt, ap);
    va_end(ap);
    k->rt.answered = status;
    k->rt.failure = reason;
    k->is_answered = true;
    metric_add(gateway_cell(k->rt.g, M_L_REJECTED, reason, NULL), 1);
    (void)extproc_refuse(k->s, status, str_of(text), h,
                         refusal_headers(k, status, dropped, h, seconds));
}

/* ---- the pick ---- */

/* The first choice, then the others in order of preference. */
static void destinations(const struct pick *k, char out[DESTINATIONS_BYTES])
{
    const struct routing *x = &k->rt;
    char first[ADDRESS_BYTES];
    int n = snprintf(out, DESTINATIONS_BYTES, "%.*s",
                     STR_ARG(policy_destination(x, first, sizeof(first))));

    for (uint32_t i = 0; i < x->other_count && n < DESTINATIONS_BYTES; i++)
        n += snprintf(out + n, DESTINATIONS_BYTES - (size_t)n, ",%s", x->other[i]->address);
}

static size_t added_headers(struct pick *k, struct extproc_header *out, char *traceparent)
{
    const struct routing *x = &k->rt;
    size_t n = 0;

    trace_format(&x->trace, traceparent);
    out[n++] = (struct extproc_header) { STR("traceparent"), str_of(traceparent) };
    for (uint32_t i = 0; i < x->to_worker_count; i++)
        out[n++] = (struct extproc_header) { x->to_worker[i].name, str_of(x->to_worker[i].value) };
    if (x->prefill != NULL && x->strategy != SCHED_CONFIGURED)
        out[n++] =
            (struct extproc_header) { STR("x-prefiller-host-port"), str_of(x->prefill->address) };
    return n;
}

static bool rename_body(const struct pick *k, struct buf *out)
{
    const struct reading *r = &k->rt.reading;
    struct json_w w;

    if (r->target.p == NULL || r->model_bytes == 0)
        return false;
    buf_init(out, k->body.n + r->target.n * 6 + 16);
    buf_str(out, str_sub(k->body, 0, r->model_at));
    json_w_init(&w, out);
    json_w_str(&w, r->target);
    buf_str(out, str_sub(k->body, r->model_at + r->model_bytes, SIZE_MAX));
    return !out->failed;
}

static void go_on(struct pick *k)
{
    static const char *const steering[] = { "x-prefiller-host-port", "x-encoder-hosts-ports",
                                            "x-kv-cache-source-host-port",
                                            "x-data-parallel-host-port" };
    struct routing *x = &k->rt;
    struct extproc_header set[8];
    char traceparent[TRACEPARENT_BYTES + 1], to[DESTINATIONS_BYTES];
    struct extproc_pick pick = { .set = set, .remove = steering, .remove_count = COUNT(steering) };
    struct buf body = { 0 };

    destinations(k, to);
    pick.destination = str_of(to);
    pick.set_count = added_headers(k, set, traceparent);
    pick.has_body = rename_body(k, &body);
    if (pick.has_body) {
        pick.body = buf_view(&body);
        pick.model_sent = x->reading.target;
        pick.model_shown = x->reading.model;
    }
    pick.skip_response = str_eqz(str_of(x->path), "/v1/messages/count_tokens");
    x->attempts = 1;
    x->t_dispatch = clock_ns();
    x->sent_to = x->decode->address;
    x->sent_prefill = x->prefill != NULL ? x->prefill->address : NULL;
    k->is_answered = true;
    extproc_continue(k->s, &pick);
    buf_fini(&body);
}

static void refuse_nobody(struct pick *k)
{
    struct routing *x = &k->rt;
    struct str model = routing_model(x);

    if (x->refused_status != 0)
        refuse(k, x->refused_status,
               x->refused_reason != NULL ? x->refused_reason : "refused_by_plugin",
               x->refused_reason, "%s", x->refused_text);
    else if (endpoints_lack_model(x->g, model))
        refuse(k, 404, "model_not_found", NULL, "the model `%.*s` does not exist",
               (int)MIN(model.n, (size_t)200), model.p != NULL ? model.p : "");
    else
        refuse(k, 503, "no_endpoint", "rejected-no-endpoints",
               "failed to find endpoint candidates for serving the request");
}

static void decide(void *ctx)
{
    struct pick *k = ctx;

    if (k->is_evicted)
        return;
    if (route_decide(&k->rt))
        go_on(k);
    else
        refuse_nobody(k);
}

static void admitted(void *ctx)
{
    struct pick *k = ctx;
    uint32_t hold_ms = policy_hold(&k->rt);

    metric_add(k->rt.cells->dispatched, 1);
    metric_observe(k->rt.cells->queued, (double)(k->ticket.left_ns - k->ticket.entered_ns) * 1e-9);
    if (hold_ms == 0) {
        decide(k);
        return;
    }
    k->timer = loop_timer_new(k->p->f->loop, decide, k);
    loop_timer_arm(k->timer, hold_ms, 0);
}

static void refused(void *ctx, enum flow_outcome why, bool pool_is_empty)
{
    struct pick *k = ctx;
    int status = flow_outcome_status(why, pool_is_empty);
    const char *dropped = flow_outcome_reason(why, pool_is_empty);

    refuse(k, status, dropped != NULL ? dropped : "saturated", dropped, "%s",
           status == 503                   ? "no endpoints available"
           : why == FLOW_REJECTED_CAPACITY ? "system saturated, request dropped"
                                           : "request timed out in queue");
}

static void release(void *ctx)
{
    struct pick *k = ctx;

    routing_fini(&k->rt);
    buf_fini(&k->tail);
    mem_free(k);
}

/* It makes room: Envoy gives the client this instead of the rest and resets the worker's side. */
static void evicted(void *ctx)
{
    struct pick *k = ctx;
    struct extproc_header h[2];
    char seconds[16];

    if (!extproc_refuse(k->s, 429, STR("request evicted by flow control"), h,
                        refusal_headers(k, 429, "evicted", h, seconds)))
        return; /* the answer is complete: it ends by itself */
    k->rt.answered = 429;
    k->rt.failure = "evicted";
    k->is_evicted = true;
    route_settle(&k->rt, &k->ticket);
    route_release(&k->rt);
}

static const struct admit_ops admit_ops = { admitted, refused, release, evicted };

static void read_done(void *ctx, struct reading *r)
{
    struct pick *k = ctx;
    struct routing *x = &k->rt;
    enum flow_outcome why;

    k->job = NULL;
    x->reading = *r;
    x->was_read = true;
    x->t_read = clock_ns();
    metric_observe(x->g->m_read, (double)(x->t_read - x->t_start) * 1e-9);
    if (r->error.status != 0) {
        refuse(k, r->error.status, r->error.code, NULL, "%s", r->error.message);
        return;
    }
    books_open(x);
    if (endpoints_lack_model(x->g, routing_model(x))) { /* nothing to wait for */
        refuse_nobody(k);
        return;
    }
    k->ticket.item.bytes = k->body.n;
    switch (admit_enter(x->policy->admission, &k->ticket, x, &admit_ops, k, &why)) {
    case ADMIT_GO: admitted(k); return;
    case ADMIT_REFUSED: refused(k, why, !endpoints_any_usable(x->g)); return;
    case ADMIT_WAIT: return;
    }
}

/* ---- what Envoy says ---- */

struct route_name {
    const char *suffix, *path;
    enum route_kind kind;
};

/* By the longest suffix, as upstream's parsers do. */
static const struct route_name *route_of(struct str path)
{
    static const struct route_name names[] = {
        { "/chat/completions", "/v1/chat/completions", ROUTE_CHAT },
        { "/completions", "/v1/completions", ROUTE_COMPLETION },
        { "/messages/count_tokens", "/v1/messages/count_tokens", ROUTE_OTHER },
        { "/messages", "/v1/messages", ROUTE_OTHER },
        { "/responses", "/v1/responses", ROUTE_OTHER },
        { "/embeddings", "/v1/embeddings", ROUTE_OTHER },
    };
    static const struct route_name other = { "", "other", ROUTE_OTHER };

    for (size_t i = 0; i < COUNT(names); i++)
        if (str_ends(path, str_of(names[i].suffix)))
            return &names[i];
    return &other;
}

static struct http_headers fields_of(struct pick *k, const struct extproc_request *q)
{
    size_t n = MIN(q->header_count, (size_t)FIELDS_MAX);

    for (size_t i = 0; i < n; i++)
        k->field[i] = (struct http_header) { q->header[i].name, q->header[i].value };
    return (struct http_headers) { k->field, n };
}

/* A request without a body goes to any endpoint there is: /v1/models and the like. */
static void pick_any(struct pick *k)
{
    struct routing *x = &k->rt;

    x->strategy = SCHED_RANDOM;
    if (route_decide(x))
        go_on(k);
    else
        refuse(k, 500, "no_endpoint", NULL, "no pods available in datastore");
}

static void on_request(void *ctx, struct extproc_stream *s, const struct extproc_request *q)
{
    struct picker *p = ctx;
    struct pick *k = mem_zalloc(sizeof(*k));
    const struct route_name *route = route_of(q->path);
    struct http_headers h = fields_of(k, q);

    k->p = p;
    k->s = s;
    k->body = q->body;
    k->is_bodyless = q->bodyless;
    buf_init(&k->tail, TAIL_BYTES_MAX);
    extproc_set(s, k);
    routing_init(&k->rt, p->f, route->kind, route->path, &h, "envoy", q->body.n);
    snprintf(k->rt.id, sizeof(k->rt.id), "%.*s", (int)MIN(q->request_id.n, (size_t)REQUEST_ID_MAX),
             q->request_id.p);
    k->rt.has_subset = q->has_subset && !q->bodyless;
    k->rt.subset = q->subset;
    k->rt.subset_count = q->subset_count;
    k->next = p->live;
    if (p->live != NULL)
        p->live->prev = k;
    p->live = k;
    metric_add(gateway_cell(p->f->g, M_EXTPROC_STREAMS, NULL, NULL), 1);
    if (p->f->g->draining)
        refuse(k, 503, "shutting_down", "rejected-shutting-down", "server is shutting down");
    else if (q->bodyless)
        pick_any(k);
    else if (!routing_read(&k->rt, q->body, &k->job, read_done, k))
        refuse(k, 503, "overloaded", "rejected-saturated", "too many long requests are being read");
}

static struct str response_header(const struct extproc_response *r, struct str name)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (str_ieq(r->header[i].name, name))
            return r->header[i].value;
    return STR_NONE;
}

/* Busy, or Envoy could not connect: its 503 says no more than that.  Whichever it was, the next
 * pick is somebody else until the scrapes know. */
static void pause_picked(const struct routing *x, const struct extproc_response *r)
{
    uint64_t seconds = 0;

    (void)str_u64(response_header(r, STR("retry-after")), &seconds);
    endpoint_pause(x->decode, (uint32_t)MIN(MAX(seconds, 1u), 3600u) * 1000);
}

static void on_response_headers(void *ctx, struct extproc_stream *s,
                                const struct extproc_response *r)
{
    struct sched_served served = { r->has_lb, r->served };
    struct pick *k = extproc_get(s);
    struct routing *x = &k->rt;
    uint64_t status;

    (void)ctx;
    x->streaming = r->event_stream;
    x->answered = str_u64(r->status, &status) ? (int)status : 200;
    policy_served(x, &served);
    for (uint32_t i = 0; i < x->to_client_count; i++)
        extproc_response_set(s, x->to_client[i].name, str_of(x->to_client[i].value));
    if (x->decode == NULL)
        return;
    if (x->answered >= 500)
        x->failure = "upstream_error";
    if (x->answered == 503 || x->answered == 429)
        pause_picked(x, r);
    else if (x->answered >= 500 && x->answered != 501)
        endpoint_failed(x->decode, x->t_dispatch);
}

static void note_bytes(struct pick *k, struct str bytes)
{
    struct routing *x = &k->rt;
    size_t n;

    x->t_last = clock_ns();
    if (x->t_first == 0)
        x->t_first = x->t_last;
    x->reply_bytes += bytes.n;
    route_first_byte(x);
    if (!buf_str(&k->tail, bytes))
        buf_reset(&k->tail); /* longer than what could be looked at: its usage stays unknown */
    if (!x->streaming)
        return;
    n = answer_whole_events(buf_view(&k->tail));
    if (n > 0) {
        uint32_t events = x->seen.events;

        answer_inspect(str_sub(buf_view(&k->tail), 0, n), &x->seen, &x->usage);
        x->streams_sum += (double)(x->seen.events - events) * (x->decode->decoding - 1);
        books_event(x, x->t_last, k->t_event);
        k->t_event = x->t_last;
        buf_drop(&k->tail, n);
    }
}

/* What plugins tell Envoy of its usage. */
static void report(struct pick *k)
{
    const struct answer_usage *u = &k->rt.usage;
    struct usage_values v = {
        .known = { u->known, u->known, u->known, u->known && u->cached_known },
        .value = { u->prompt_tokens, u->completion_tokens,
                   (double)u->prompt_tokens + u->completion_tokens, u->cached_tokens },
    };
    struct extproc_number number[REPORTS_MAX];
    struct sched_report said[REPORTS_MAX];
    struct sched_pipeline *p = k->rt.policy->pipeline;
    uint32_t n = p != NULL ? sched_pipeline_report(p, &v, said, COUNT(said)) : 0;

    for (uint32_t i = 0; i < n; i++)
        number[i] = (struct extproc_number) { said[i].space, said[i].name, said[i].value };
    extproc_report(k->s, number, n);
}

static void on_response_body(void *ctx, struct extproc_stream *s, struct str bytes, bool end)
{
    struct pick *k = extproc_get(s);
    struct routing *x = &k->rt;

    (void)ctx;
    if (x->decode == NULL)
        return;
    if (bytes.n != 0)
        note_bytes(k, bytes);
    if (!end)
        return;
    if (!x->streaming && x->answered == 200)
        answer_find_usage(buf_view(&k->tail), &x->usage);
    report(k);
}

static void on_done(void *ctx, struct extproc_stream *s, enum extproc_cause cause)
{
    static const char *const causes[] = { "natural", "client_disconnect", "error" };
    struct picker *p = ctx;
    struct pick *k = extproc_get(s);
    struct routing *x = &k->rt;
    struct gateway *g = x->g;

    reader_drop(k->job);
    loop_timer_free(k->timer);
    if (cause == EXTPROC_NATURAL && x->answered == 200 && x->decode != NULL) {
        endpoint_succeeded(x->decode);
        if (!k->is_bodyless)
            route_learn(x);
    } else if (cause == EXTPROC_CLIENT_DISCONNECT) {
        x->failure = "client_gone";
        metric_add(gateway_cell(g, M_L_CLIENT_GONE, NULL, NULL), 1);
    } else if (cause == EXTPROC_ERROR && x->failure == NULL) {
        x->failure = "upstream_cut";
    }
    route_settle(x, &k->ticket);
    route_release(x);
    route_leave(x);
    books_close(x, &k->ticket, cause == EXTPROC_CLIENT_DISCONNECT);
    metric_add(gateway_cell(g, M_EXTPROC_STREAMS, NULL, NULL), -1);
    metric_add(gateway_cell(g, M_EXTPROC_TOTAL, k->is_evicted ? "evicted" : causes[cause], NULL),
               1);
    metric_observe(gateway_cell(g, M_EXTPROC_SECONDS, NULL, NULL),
                   (double)(clock_ns() - x->t_start) * 1e-9);
    if (k->prev != NULL)
        k->prev->next = k->next;
    else
        p->live = k->next;
    if (k->next != NULL)
        k->next->prev = k->prev;
    if (admit_leave(&k->ticket))
        release(k);
    policies_pump(g, p->f);
    gateway_exchange_ended(g);
}

static const struct extproc_ops ops = { on_request, on_response_headers, on_response_body,
                                        on_done };

/* ---- health ---- */

static enum health_status health(void *ctx, struct str service)
{
    /* the last one: charts before llm-d's probe by it */
    static const char *const readiness[] = { "", "readiness", EXTPROC_SERVICE,
                                             "inference-extension" };
    const struct picker *p = ctx;
    struct gateway *g = p->f->g;

    if (str_eqz(service, "liveness"))
        return HEALTH_SERVING;
    /* As upstream: whether its pool is known, not whether a worker is in rotation just now.  A
     * picker without one queues requests or says why not, where Envoy would only say that nobody is
     * there. */
    for (size_t i = 0; i < COUNT(readiness); i++)
        if (str_eqz(service, readiness[i]))
            return !g->draining && !g->standby && g->knows_pool ? HEALTH_SERVING
                                                                : HEALTH_NOT_SERVING;
    return HEALTH_SERVICE_UNKNOWN;
}

/* ---- life ---- */

uint64_t picker_oldest_ns(const struct picker *p, uint64_t otherwise)
{
    for (const struct pick *k = p != NULL ? p->live : NULL; k != NULL; k = k->next)
        otherwise = MIN(otherwise, k->rt.t_start);
    return otherwise;
}

static int open_servers(struct picker *p, const struct picker_opts *o, struct err *e)
{
    static const char *const names[] = { "", "readiness", "liveness", EXTPROC_SERVICE };
    struct grpc_method *method = p->method;
    struct grpc_server_opts so = { .host = o->host,
                                   .port = o->port,
                                   .shares_port = o->shares_port,
                                   .message_bytes_max = o->message_bytes_max,
                                   .tls = o->tls };
    int rc;

    p->health = (struct health_grpc) { health, p, names, COUNT(names) };
    method[0] = extproc_method(p->x);
    health_grpc_methods(&p->health, &method[1]);
    rc = grpc_server_open(p->f->loop, &so, method, COUNT(p->method), &p->server, e);
    if (rc != 0 || o->health_port == PICKER_NO_PORT)
        return rc;
    so.port = o->health_port;
    so.shares_port = false;
    so.tls = NULL; /* upstream's is plain text, and probes expect it */
    return grpc_server_open(p->f->loop, &so, &method[1], HEALTH_GRPC_METHODS, &p->health_server, e);
}

int picker_open(struct picker **out, struct front *f, const struct picker_opts *o, struct err *e)
{
    struct picker *p = mem_zalloc(sizeof(*p));
    struct extproc_opts xo = { .body_bytes_max = o->body_bytes_max };
    int rc;

    *out = NULL;
    p->f = f;
    p->x = extproc_open(&xo, &ops, p);
    rc = open_servers(p, o, e);
    if (rc != 0) {
        picker_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

uint16_t picker_port(const struct picker *p)
{
    return grpc_server_port(p->server);
}

void picker_close(struct picker *p)
{
    if (p == NULL)
        return;
    grpc_server_close(p->health_server);
    grpc_server_close(p->server);
    extproc_close(p->x);
    mem_free(p);
}
