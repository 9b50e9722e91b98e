/* gateway/world.h - workers made of http servers, a gateway in front of them and clients, on one
 * loop: what test_gateway.c stands on. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEST_GATEWAY_WORLD_H
#define TEST_GATEWAY_WORLD_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "codec/json.h"
#include "gateway/gateway.h"
#include "gateway/gateway_priv.h"
#include "net/http.h"
#include <stdio.h>
#include <string.h>

#define WORKERS   4
#define HELD_MAX  256
#define WAIT_MS   5000
#define SHOTS_MAX 256

struct worker {
    struct http_server *server;
    char address[64];
    /* what it does */
    bool frozen, is_ours, not_ready;
    int refuse; /* status of every completion; 0 = serves them */
    const char *retry_after;
    uint32_t events;       /* of a stream, then the end mark */
    uint32_t cut_after;    /* events, then the connection breaks; 0 = never */
    bool cut_before;       /* breaks without any answer */
    bool hold;             /* keeps requests until released */
    bool hold_after_first; /* of a stream */
    uint32_t event_bytes;
    const char *usage;  /* JSON object or NULL */
    const char *page;   /* of metrics; NULL: vLLM's names */
    int page_status;    /* 0 = 200 */
    const char *models; /* the page; NULL: serves m */
    uint32_t scrapes;
    /* what came of it */
    uint32_t requests, gone, live, foreign; /* foreign: running there, not from here */
    struct http_req *held[HELD_MAX];
    bool held_stream[HELD_MAX];
    uint32_t held_count;
    char last_body[512], last_prefiller[128], last_steer[128], last_id[160], last_trace[128];
};

struct world {
    struct loop *loop;
    struct loop_timer *deadline, *poll;
    struct worker worker[WORKERS];
    struct gateway *g;
    struct http_client *client;
    bool late;
};

static struct world w;

/* ---- fake workers ---- */

static void worker_gone(void *ctx)
{
    struct worker *k = ctx;

    k->gone++;
    k->live--;
    for (uint32_t i = 0; i < k->held_count; i++)
        k->held[i] = NULL; /* one at a time is held where this is tested */
}

static void add_event(struct buf *b, const struct worker *k, uint32_t i)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";

    buf_f(b, "data: {\"i\":%u,\"t\":\"", i);
    for (uint32_t left = k->event_bytes, n; left > 0; left -= n) {
        n = MIN(left, 26U);
        buf_add(b, letters + i % 26, n);
    }
    buf_z(b, "\"}\n\n");
}

static void stream_all(struct worker *k, struct http_req *r, uint32_t from)
{
    struct buf b;

    buf_init(&b, (size_t)64 << 20);
    for (uint32_t i = from; i < k->events; i++) {
        if (k->cut_after != 0 && i == k->cut_after) {
            buf_z(&b, "data: {\"half"); /* an event that never ends */
            assert_int_equal(http_reply_chunk(r, buf_view(&b)), 0);
            k->live--;
            http_reply_abort(r);
            buf_fini(&b);
            return;
        }
        add_event(&b, k, i);
    }
    if (k->usage != NULL)
        buf_f(&b, "data: {\"choices\":[],\"usage\":%s}\n\n", k->usage);
    buf_z(&b, "data: [DONE]\n\n");
    for (struct str rest = buf_view(&b); rest.n > 0;) {
        struct str part = str_sub(rest, 0, 100000);

        if (http_reply_chunk(r, part) != 0)
            break;
        rest = str_sub(rest, part.n, SIZE_MAX);
    }
    buf_fini(&b);
    k->live--;
    http_reply_end(r);
}

static void finish_request(struct worker *k, struct http_req *r, bool stream)
{
    char body[600];

    if (stream) {
        if (!http_reply_started(r)) {
            http_reply_start(r, 200, "text/event-stream", NULL);
            stream_all(k, r, 0);
        } else {
            stream_all(k, r, 1);
        }
        return;
    }
    snprintf(body, sizeof(body), "{\"object\":\"chat.completion\",\"by\":\"%s\",\"usage\":%s}",
             k->address, k->usage != NULL ? k->usage : "null");
    k->live--;
    http_reply(r, 200, "application/json", str_of(body), NULL);
}

static void copy_header(char *out, size_t n, struct http_req *r, const char *name)
{
    struct str v = http_header_get(http_req_headers(r), name);

    snprintf(out, n, "%.*s", STR_ARG(v));
}

static void completion(struct worker *k, struct http_req *r)
{
    struct http_header after = { STR("Retry-After"), str_of(k->retry_after) };
    bool stream = str_find(http_req_body(r), STR("\"stream\":true")) != SIZE_MAX;

    k->requests++;
    snprintf(k->last_body, sizeof(k->last_body), "%.*s", STR_ARG(http_req_body(r)));
    copy_header(k->last_prefiller, sizeof(k->last_prefiller), r, "x-prefiller-host-port");
    copy_header(k->last_steer, sizeof(k->last_steer), r, "x-gateway-destination-endpoint");
    copy_header(k->last_id, sizeof(k->last_id), r, "x-request-id");
    copy_header(k->last_trace, sizeof(k->last_trace), r, "traceparent");
    if (k->refuse != 0) {
        http_reply(r, k->refuse, "application/json",
                   STR("{\"error\":{\"message\":\"secret prompt\"}}"),
                   &(struct http_headers) { &after, k->retry_after != NULL ? 1 : 0 });
        return;
    }
    if (k->cut_before) {
        http_reply_abort(r);
        return;
    }
    k->live++;
    http_req_on_gone(r, worker_gone, k);
    if (stream && k->hold_after_first) {
        struct buf b;

        buf_init(&b, 4096);
        add_event(&b, k, 0);
        http_reply_start(r, 200, "text/event-stream", NULL);
        assert_int_equal(http_reply_chunk(r, buf_view(&b)), 0);
        buf_fini(&b);
    }
    if (k->hold || k->frozen || (stream && k->hold_after_first)) {
        assert_true(k->held_count < HELD_MAX);
        k->held[k->held_count] = r;
        k->held_stream[k->held_count++] = stream;
        return;
    }
    finish_request(k, r, stream);
}

static void scrape_gone(void *ctx)
{
    (void)ctx;
}

static void worker_handle(void *ctx, struct http_req *r)
{
    struct worker *k = ctx;
    struct str path = http_req_path(r);
    char body[400];

    if (str_eqz(http_req_method(r), "POST")) {
        completion(k, r);
        return;
    }
    if (k->frozen) { /* never answered: its client hangs up by itself */
        http_req_on_gone(r, scrape_gone, NULL);
        return;
    }
    k->scrapes += str_eqz(path, "/metrics");
    if (str_eqz(path, "/metrics") && k->page != NULL) {
        http_reply(r, k->page_status != 0 ? k->page_status : 200, "text/plain", str_of(k->page),
                   NULL);
    } else if (str_eqz(path, "/metrics")) {
        snprintf(body, sizeof(body),
                 "vllm:num_requests_running{engine=\"0\"} %u\n"
                 "vllm:num_requests_waiting{engine=\"0\"} "
                 "0\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n%s",
                 k->live + k->foreign,
                 k->is_ours ? "llmd_blocks_in_use 7\nllmd_blocks_total 99\n" : "");
        http_reply(r, 200, "text/plain", str_of(body), NULL);
    } else if (str_eqz(path, "/v1/models")) {
        http_reply(
            r, 200, "application/json",
            k->models != NULL
                ? str_of(k->models)
                : STR("{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"max_model_len\":512}]}"),
            NULL);
    } else if (str_eqz(path, "/props") && k->models != NULL) {
        http_reply(r, 200, "application/json",
                   STR("{\"default_generation_settings\":{\"n_ctx\":512},\"total_slots\":6}"),
                   NULL);
    } else if (str_eqz(path, "/health/ready")) {
        http_reply(r, k->not_ready ? 503 : 200, "application/json", STR("{}"), NULL);
    } else {
        http_reply(r, 404, "application/json", STR("{}"), NULL);
    }
}

static void release_all(struct worker *k)
{
    for (uint32_t i = 0; i < k->held_count; i++)
        if (k->held[i] != NULL)
            finish_request(k, k->held[i], k->held_stream[i]);
    k->held_count = 0;
}

/* ---- waiting ---- */

static bool (*until)(void);

static void polled(void *ctx)
{
    (void)ctx;
    if (until())
        loop_stop(w.loop);
}

static void too_late(void *ctx)
{
    (void)ctx;
    w.late = true;
    loop_stop(w.loop);
}

static bool wait_ms(bool (*fn)(void), uint64_t ms)
{
    until = fn;
    w.late = false;
    loop_timer_arm(w.deadline, ms, 0);
    loop_timer_arm(w.poll, 0, 2);
    loop_run(w.loop);
    loop_timer_disarm(w.poll);
    loop_timer_disarm(w.deadline);
    return !w.late;
}

#define WAIT(fn)                                                                                   \
    do {                                                                                           \
        if (!wait_ms((fn), WAIT_MS))                                                               \
            fail_msg("waited in vain: %s", #fn);                                                   \
    } while (0)

static bool never(void)
{
    return false;
}

/* ---- clients ---- */

struct shot {
    struct http_call *call;
    int status, rc;
    bool ended;
    struct buf body;
    char id[160], receipt[8192], retry_after[16], should_retry[16];
};

static struct shot shots[SHOTS_MAX];
static uint32_t shot_count;

static void shot_head(void *ctx, int status, const struct http_headers *h)
{
    struct shot *s = ctx;
    struct str v = http_header_get(h, "x-llmd-receipt");

    s->status = status;
    snprintf(s->receipt, sizeof(s->receipt), "%.*s", STR_ARG(v));
    v = http_header_get(h, "x-request-id");
    snprintf(s->id, sizeof(s->id), "%.*s", STR_ARG(v));
    v = http_header_get(h, "retry-after");
    snprintf(s->retry_after, sizeof(s->retry_after), "%.*s", STR_ARG(v));
    v = http_header_get(h, "x-should-retry");
    snprintf(s->should_retry, sizeof(s->should_retry), "%.*s", STR_ARG(v));
}

static void shot_body(void *ctx, struct str bytes)
{
    assert_true(buf_str(&((struct shot *)ctx)->body, bytes));
}

static void shot_end(void *ctx, int rc, bool sent, bool got)
{
    struct shot *s = ctx;

    (void)sent;
    (void)got;
    s->rc = rc;
    s->ended = true;
    s->call = NULL;
}

static struct shot *shoot_with(const char *method, const char *path, const char *body,
                               const struct http_header *headers, size_t count)
{
    static const struct http_call_ops ops = { shot_head, shot_body, shot_end };
    struct shot *s = &shots[shot_count++];
    struct http_call_opts o = { .host = "127.0.0.1",
                                .port = gateway_port(w.g),
                                .method = str_of(method),
                                .path = str_of(path),
                                .headers = { headers, count },
                                .body = str_of(body) };
    struct err e;

    assert_true(shot_count <= SHOTS_MAX);
    memset(s, 0, sizeof(*s));
    buf_init(&s->body, (size_t)64 << 20);
    assert_int_equal(http_call_start(w.client, &o, &ops, s, &s->call, &e), 0);
    return s;
}

static struct shot *shoot(const char *path, const char *body)
{
    return shoot_with("POST", path, body, NULL, 0);
}

static struct shot *get(const char *path)
{
    return shoot_with("GET", path, "", NULL, 0);
}

static bool all_ended(void)
{
    for (uint32_t i = 0; i < shot_count; i++)
        if (!shots[i].ended)
            return false;
    return true;
}

static bool has(const struct shot *s, const char *text)
{
    return str_find(buf_view(&s->body), str_of(text)) != SIZE_MAX;
}

#define CHAT "/v1/chat/completions"
#define ASK  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"
#define ASK_STREAM                                                                                 \
    "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"

/* ---- the world ---- */

static bool all_used(void)
{
    for (uint32_t i = 0; i < w.g->endpoint_count; i++)
        if (w.g->endpoints[i]->use != SCHED_USED)
            return false;
    return true;
}

static void start_workers(uint32_t count)
{
    struct err e;

    memset(&w, 0, sizeof(w));
    shot_count = 0;
    assert_int_equal(loop_new(&w.loop, &e), 0);
    w.deadline = loop_timer_new(w.loop, too_late, NULL);
    w.poll = loop_timer_new(w.loop, polled, NULL);
    w.client = http_client_new(w.loop);
    for (uint32_t i = 0; i < count; i++) {
        struct worker *k = &w.worker[i];
        struct http_server_opts o = { .host = "127.0.0.1", .write_bytes_max = (size_t)64 << 20 };

        k->events = 3;
        k->event_bytes = 5;
        assert_int_equal(http_server_open(w.loop, &o, worker_handle, k, &k->server, &e), 0);
        snprintf(k->address, sizeof(k->address), "127.0.0.1:%u", http_server_port(k->server));
    }
}

static struct gateway_opts quick(void)
{
    return (struct gateway_opts) { .host = "127.0.0.1",
                                   .scrape_ms = 10,
                                   .stale_ms = 250,
                                   .frozen_ms = 500,
                                   .wait_ms = UINT32_MAX };
}

static void start_gateway(uint32_t count, struct gateway_opts o, const enum sched_role *roles)
{
    struct gateway_endpoint_opts eps[WORKERS];
    struct err e;

    for (uint32_t i = 0; i < count; i++)
        eps[i] = (struct gateway_endpoint_opts) { .address = w.worker[i].address,
                                                  .role = roles != NULL ? roles[i] : SCHED_BOTH,
                                                  .role_given = roles != NULL };
    o.endpoints = eps;
    o.endpoint_count = count;
    if (gateway_open(&w.g, &w.loop, 1, &o, &e) != 0)
        fail_msg("%s", e.msg);
}

static void start(uint32_t count)
{
    start_workers(count);
    start_gateway(count, quick(), NULL);
    WAIT(all_used);
}

static bool idle(void)
{
    return w.g->inflight == 0;
}

/* Every test ends with books that are even. */
static void stop(void)
{
    WAIT(idle);
    for (uint32_t i = 0; i < w.g->endpoint_count; i++) {
        assert_int_equal(w.g->endpoints[i]->inflight, 0);
        assert_int_equal(w.g->endpoints[i]->decoding, 0);
        assert_true(w.g->endpoints[i]->prefill_tokens == 0);
    }
    assert_null(w.g->front[0].live);
    gateway_close(w.g);
    for (uint32_t i = 0; i < WORKERS; i++)
        http_server_close(w.worker[i].server);
    http_client_free(w.client);
    for (uint32_t i = 0; i < shot_count; i++)
        buf_fini(&shots[i].body);
    loop_timer_free(w.deadline);
    loop_timer_free(w.poll);
    loop_free(w.loop);
}

static double metric_of(enum gateway_metric m, const char *label)
{
    return metric_value(gateway_cell(w.g, m, label, NULL));
}

/* ---- facts ---- */
#endif
