/* Many simulated model servers in one process, one a port, that look to a router like vLLM.
 *
 *   light_backend --ports 16 --first-port 21000                     answers at once: to measure
 * routers light_backend --ports 4 --first-port 21000 --engine ...         batches, queues, caches:
 * see sim_engine.h
 *
 * Without --engine a request costs little more than its bytes: the body is not parsed (its first
 * and last bytes say whether to stream), the answer is ready-made and leaves in one piece.  With it
 * every token is an event of its own, at its time.
 *
 * GET /bench on any port tells the counters of all of them as JSON; POST /bench begins them anew.
 * A line on standard output, "ready PORT PORT ...", says that all ports are open. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"
#include "codec/json.h"
#include "light_metrics.h"
#include "net/http.h"
#include "sim_engine.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define PORTS_MAX  1024
#define ECHO_MAX   256 /* tokens of a ready-made answer */
#define LOOK_BYTES ((size_t)1024)
#define EVENT_MAX  512

struct options {
    const char *model;
    uint32_t ports, first_port, tokens, slots, chunk_tokens, kv_blocks, conns, every;
    double prefill_ms, decode_ms, slope;
    struct opt_list slow;
    bool engine;
};

#define AT(f) offsetof(struct options, f)

static const struct opt_desc table[] = {
    { "ports", OPT_U32, AT(ports), "1", "N", 1, PORTS_MAX, "so many servers" },
    { "first-port", OPT_U32, AT(first_port), "0", "PORT", 0, 65535,
      "theirs are this one and the next; 0: any free" },
    { "model", OPT_STR, AT(model), "sim", "NAME", 0, 0, "the name they serve" },
    { "tokens", OPT_U32, AT(tokens), "16", "N", 1, 100000, "of an answer without max_tokens" },
    { "conns", OPT_U32, AT(conns), "20000", "N", 1, 1000000, "connections to one server" },
    { "engine", OPT_BOOL, AT(engine), "false", NULL, 0, 0, "simulate one instead of answering" },
    { "prefill-ms-per-token", OPT_F64, AT(prefill_ms), "0.2", "MS", 0, 0, "a prompt token" },
    { "decode-ms", OPT_F64, AT(decode_ms), "10", "MS", 0, 0, "a step with one sequence" },
    { "slope", OPT_F64, AT(slope), "0.02", "F", 0, 0, "more of it for each further sequence" },
    { "slots", OPT_U32, AT(slots), "32", "N", 1, 100000, "sequences at once" },
    { "every", OPT_U32, AT(every), "1", "N", 1, 1000000,
      "a token at so many steps, as of a slow model" },
    { "chunk-tokens", OPT_U32, AT(chunk_tokens), "2048", "N", 1, 1000000, "prompt a step" },
    { "kv-blocks", OPT_U32, AT(kv_blocks), "8192", "N", 1, 16777216, "of 16 tokens" },
    { "slow", OPT_LIST, AT(slow), NULL, "INDEX=FACTOR", 0, 0, "this server takes so much longer" },
};

struct server {
    struct backend *backend;
    struct http_server *http;
    struct sim_engine *engine;
    struct light_metrics *metrics;
    uint32_t in_flight, peak;
    uint64_t requests, done, aborted, output_tokens;
};

struct backend {
    struct options o;
    struct loop *loop;
    struct server *server;
    struct buf models;
    struct buf whole[2], stream[2]; /* ready-made answers: chat, completion */
};

/* A request that the engine works on. */
struct exchange {
    struct server *server;
    struct http_req *req;
    struct sim_seq *seq; /* NULL: all tokens are there */
    uint64_t begun_ns, token_ns;
    uint32_t prompt_tokens, cached, tokens, owed; /* owed: not written yet */
    bool chat, stream, usage;
};

static const char *const words[] = { "river ",  "stone ",  "market ", "window ",
                                     "garden ", "in ",     "the ",    "letter ",
                                     "of ",     "forest ", "and ",    "silver ",
                                     "winter ", "bridge ", "to ",     "music " };

/* ---- answers ---- */

static void add_event(struct buf *b, const struct options *o, bool chat, uint32_t i, bool last)
{
    const char *word = words[i % COUNT(words)];

    buf_f(b,
          "data: {\"id\":\"cmpl-sim\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\","
          "\"choices\":[{\"index\":0,",
          chat ? "chat.completion.chunk" : "text_completion", o->model);
    if (chat)
        buf_f(b, "\"delta\":{%s\"content\":\"%s\"}", i == 0 ? "\"role\":\"assistant\"," : "", word);
    else
        buf_f(b, "\"text\":\"%s\"", word);
    buf_f(b, ",\"logprobs\":null,\"finish_reason\":%s}]}\n\n", last ? "\"length\"" : "null");
}

static void add_usage(struct buf *b, uint32_t prompt, uint32_t tokens, uint32_t cached)
{
    buf_f(b,
          "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u,"
          "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
          prompt, prompt + tokens, tokens, cached);
}

static void add_end(struct buf *b, const struct options *o, bool chat, bool usage, uint32_t prompt,
                    uint32_t tokens, uint32_t cached)
{
    if (usage) {
        buf_f(b,
              "data: {\"id\":\"cmpl-sim\",\"object\":\"%s\",\"created\":1700000000,"
              "\"model\":\"%s\",\"choices\":[],",
              chat ? "chat.completion.chunk" : "text_completion", o->model);
        add_usage(b, prompt, tokens, cached);
        buf_z(b, "}\n\n");
    }
    buf_z(b, "data: [DONE]\n\n");
}

static void add_whole(struct buf *b, const struct options *o, bool chat, uint32_t prompt,
                      uint32_t tokens, uint32_t cached)
{
    buf_f(b,
          "{\"id\":\"cmpl-sim\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\","
          "\"choices\":[{\"index\":0,%s\"",
          chat ? "chat.completion" : "text_completion", o->model,
          chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    for (uint32_t i = 0; i < tokens; i++)
        buf_z(b, words[i % COUNT(words)]);
    buf_f(b, "\"%s,\"logprobs\":null,\"finish_reason\":\"length\"}],", chat ? "}" : "");
    add_usage(b, prompt, tokens, cached);
    buf_c(b, '}');
}

static void reply_error(struct http_req *r, int status, const char *what)
{
    char text[256];
    int n =
        snprintf(text, sizeof(text), "{\"error\":{\"message\":\"%s\",\"code\":%d}}", what, status);

    http_reply(r, status, "application/json", (struct str) { text, (size_t)n }, NULL);
}

/* ---- with an engine ---- */

static void exchange_end(struct exchange *x)
{
    x->server->in_flight--;
    mem_free(x);
}

static void exchange_gone(void *ctx)
{
    struct exchange *x = ctx;

    if (x->seq != NULL) {
        sim_cancel(x->seq);
        x->server->aborted++;
        ++*light_value(x->server->metrics, LV_ABORT);
    }
    exchange_end(x);
}

/* Writes what is owed as far as the client takes it, and the end after the last token. */
static void exchange_push(void *ctx)
{
    struct exchange *x = ctx;
    const struct options *o = &x->server->backend->o;
    struct buf b;
    int rc = 0;

    if (!x->stream)
        return;
    buf_init(&b, 2 * EVENT_MAX);
    while (rc == 0 && x->owed != 0) {
        buf_reset(&b);
        add_event(&b, o, x->chat, x->tokens - x->owed, x->seq == NULL && x->owed == 1);
        rc = http_reply_chunk(x->req, buf_view(&b));
        x->owed -= rc == 0;
    }
    if (rc == 0 && x->seq == NULL) {
        buf_reset(&b);
        add_end(&b, o, x->chat, x->usage, x->prompt_tokens, x->tokens, x->cached);
        rc = http_reply_chunk(x->req, buf_view(&b));
        if (rc == 0) {
            http_reply_end(x->req);
            exchange_end(x);
        }
    }
    buf_fini(&b);
}

static void on_token(void *ctx)
{
    struct exchange *x = ctx;
    struct light_metrics *m = x->server->metrics;
    uint64_t now = clock_ns();

    if (x->tokens == 0) {
        uint64_t admitted = sim_admitted_ns(x->seq);

        x->cached = sim_cached_tokens(x->seq);
        light_observe(m, LH_TTFT, (double)(now - x->begun_ns) / 1e9);
        light_observe(m, LH_QUEUE, (double)(admitted - x->begun_ns) / 1e9);
        *light_value(m, LV_PROMPT_TOKENS) += x->prompt_tokens;
        *light_value(m, LV_COMPUTED_TOKENS) += x->prompt_tokens - x->cached;
    } else {
        light_observe(m, LH_ITL, (double)(now - x->token_ns) / 1e9);
    }
    x->token_ns = now;
    x->tokens++;
    x->owed++;
    x->server->output_tokens++;
    ++*light_value(m, LV_OUTPUT_TOKENS);
    exchange_push(x);
}

static void on_done(void *ctx)
{
    struct exchange *x = ctx;
    struct light_metrics *m = x->server->metrics;
    struct buf b;

    x->seq = NULL;
    x->server->done++;
    ++*light_value(m, LV_LENGTH);
    light_observe(m, LH_E2E, (double)(clock_ns() - x->begun_ns) / 1e9);
    light_observe(m, LH_PROMPT, x->prompt_tokens);
    light_observe(m, LH_OUTPUT, x->tokens);
    if (x->stream) {
        exchange_push(x);
        return;
    }
    buf_init(&b, EVENT_MAX + (size_t)x->tokens * 16);
    add_whole(&b, &x->server->backend->o, x->chat, x->prompt_tokens, x->tokens, x->cached);
    http_reply(x->req, 200, "application/json", buf_view(&b), NULL);
    buf_fini(&b);
    exchange_end(x);
}

static const struct sim_ops engine_ops = { on_token, on_done };

static uint32_t tokens_wanted(const struct options *o, const struct json *root)
{
    uint64_t n;

    if (!json_u64(json_get(root, "max_tokens"), &n) &&
        !json_u64(json_get(root, "max_completion_tokens"), &n))
        n = o->tokens;
    return (uint32_t)MIN(n, (uint64_t)100000);
}

static void simulate(struct server *s, struct http_req *r, bool chat)
{
    const struct json *root = NULL, *prompt;
    struct exchange *x;
    struct err e;

    if (json_parse(http_req_arena(r), http_req_body(r), NULL, &root, &e) != 0 ||
        (prompt = json_get(root, chat ? "messages" : "prompt")) == NULL) {
        reply_error(r, 400, "a JSON object with messages or prompt is needed");
        return;
    }
    x = mem_zalloc(sizeof(*x));
    *x = (struct exchange) { .server = s, .req = r, .begun_ns = clock_ns(), .chat = chat };
    x->prompt_tokens = (uint32_t)MAX(prompt->span.n / SIM_BYTES_PER_TOKEN, (size_t)1);
    (void)json_bool(json_get(root, "stream"), &x->stream);
    (void)json_bool(json_get(json_get(root, "stream_options"), "include_usage"), &x->usage);
    x->seq = sim_submit(s->engine, prompt->span, tokens_wanted(&s->backend->o, root), x);
    if (x->seq == NULL) {
        mem_free(x);
        ++*light_value(s->metrics, LV_ERROR);
        reply_error(r, 400, "the prompt does not fit into the KV cache");
        return;
    }
    s->in_flight++;
    s->peak = MAX(s->peak, s->in_flight);
    http_req_on_gone(r, exchange_gone, x);
    if (x->stream) {
        http_req_on_drain(r, exchange_push, x);
        http_reply_start(r, 200, "text/event-stream; charset=utf-8", NULL);
    }
}

/* ---- without ---- */

static bool has(struct str body, const char *word)
{
    struct str w = str_of(word);

    if (body.n <= 2 * LOOK_BYTES)
        return str_find(body, w) != SIZE_MAX;
    return str_find(str_sub(body, 0, LOOK_BYTES), w) != SIZE_MAX ||
           str_find(str_sub(body, body.n - LOOK_BYTES, LOOK_BYTES), w) != SIZE_MAX;
}

static void echo(struct server *s, struct http_req *r, bool chat)
{
    struct backend *b = s->backend;
    struct str body = http_req_body(r);
    double prompt = (double)(body.n / SIM_BYTES_PER_TOKEN);

    s->done++;
    s->peak = MAX(s->peak, 1u);
    s->output_tokens += b->o.tokens;
    ++*light_value(s->metrics, LV_LENGTH);
    *light_value(s->metrics, LV_OUTPUT_TOKENS) += b->o.tokens;
    *light_value(s->metrics, LV_PROMPT_TOKENS) += prompt;
    *light_value(s->metrics, LV_QUERIED) += prompt;
    *light_value(s->metrics, LV_COMPUTED_TOKENS) += prompt;
    if (has(body, "\"stream\":true") || has(body, "\"stream\": true")) {
        http_reply_start(r, 200, "text/event-stream; charset=utf-8", NULL);
        (void)!http_reply_chunk(r, buf_view(&b->stream[!chat]));
        http_reply_end(r);
    } else {
        http_reply(r, 200, "application/json", buf_view(&b->whole[!chat]), NULL);
    }
}

/* ---- the other pages ---- */

static void metrics(struct server *s, struct http_req *r)
{
    if (s->engine != NULL) {
        const struct sim_totals *t = sim_engine_totals(s->engine);

        *light_value(s->metrics, LV_RUNNING) = t->running;
        *light_value(s->metrics, LV_WAITING) = t->waiting;
        *light_value(s->metrics, LV_KV_USAGE) =
            (double)t->blocks_used / (double)s->backend->o.kv_blocks;
        *light_value(s->metrics, LV_QUERIED) = (double)t->queried_tokens;
        *light_value(s->metrics, LV_HITS) = (double)t->hit_tokens;
    }
    http_reply(r, 200, "text/plain; version=1.0.0; charset=utf-8", light_page(s->metrics), NULL);
}

static void counters(struct backend *b, struct http_req *r)
{
    struct json_w w;
    struct buf out;

    buf_init(&out, (size_t)1 << 20);
    json_w_init(&w, &out);
    json_w_arr(&w);
    for (uint32_t i = 0; i < b->o.ports; i++) {
        const struct server *s = &b->server[i];

        json_w_obj(&w);
        json_w_ku64(&w, "port", http_server_port(s->http));
        json_w_ku64(&w, "requests", s->requests);
        json_w_ku64(&w, "done", s->done);
        json_w_ku64(&w, "aborted", s->aborted);
        json_w_ku64(&w, "output_tokens", s->output_tokens);
        json_w_ku64(&w, "in_flight", s->in_flight);
        json_w_ku64(&w, "peak_in_flight", s->peak);
        if (s->engine != NULL) {
            const struct sim_totals *t = sim_engine_totals(s->engine);

            json_w_ku64(&w, "running", t->running);
            json_w_ku64(&w, "waiting", t->waiting);
            json_w_ku64(&w, "blocks_used", t->blocks_used);
            json_w_ku64(&w, "queried_tokens", t->queried_tokens);
            json_w_ku64(&w, "hit_tokens", t->hit_tokens);
            json_w_ku64(&w, "evicted_blocks", t->evicted_blocks);
        }
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    http_reply(r, 200, "application/json", buf_view(&out), NULL);
    buf_fini(&out);
}

/* What the engine itself has counted (tokens queried, hit) is of its whole life. */
static void counters_anew(struct backend *b)
{
    for (uint32_t i = 0; i < b->o.ports; i++) {
        struct server *s = &b->server[i];

        s->requests = s->done = s->aborted = s->output_tokens = 0;
        s->peak = s->in_flight;
    }
}

static void handle(void *ctx, struct http_req *r)
{
    struct server *s = ctx;
    struct str path = http_req_path(r);
    bool chat = str_eqz(path, "/v1/chat/completions");

    if (chat || str_eqz(path, "/v1/completions")) {
        s->requests++;
        if (s->engine != NULL)
            simulate(s, r, chat);
        else
            echo(s, r, chat);
    } else if (str_eqz(path, "/metrics")) {
        metrics(s, r);
    } else if (str_eqz(path, "/health")) {
        http_reply(r, 200, NULL, STR(""), NULL);
    } else if (str_eqz(path, "/v1/models")) {
        http_reply(r, 200, "application/json", buf_view(&s->backend->models), NULL);
    } else if (str_eqz(path, "/bench")) {
        if (str_eqz(http_req_method(r), "POST"))
            counters_anew(s->backend);
        counters(s->backend, r);
    } else {
        reply_error(r, 404, "no such page");
    }
}

/* ---- setting up ---- */

static void ready_made(struct backend *b)
{
    const struct options *o = &b->o;

    buf_init(&b->models, 1024);
    buf_f(&b->models,
          "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":"
          "1700000000,\"owned_by\":\"vllm\",\"root\":\"%s\",\"max_model_len\":131072}]}",
          o->model, o->model);
    for (int i = 0; i < 2; i++) {
        uint32_t tokens = MIN(o->tokens, (uint32_t)ECHO_MAX);

        buf_init(&b->whole[i], EVENT_MAX * (ECHO_MAX + 2));
        buf_init(&b->stream[i], EVENT_MAX * (ECHO_MAX + 2));
        add_whole(&b->whole[i], o, i == 0, 1000, tokens, 0);
        for (uint32_t k = 0; k < tokens; k++)
            add_event(&b->stream[i], o, i == 0, k, k + 1 == tokens);
        add_end(&b->stream[i], o, i == 0, true, 1000, tokens, 0);
    }
}

static int slowness(const struct options *o, uint32_t index, double *out, struct err *e)
{
    *out = 1;
    for (size_t i = 0; i < o->slow.count; i++) {
        struct str factor = str_of(o->slow.item[i]), at = str_cut(&factor, '=');
        uint64_t which;
        double f;

        if (!str_u64(at, &which) || !str_f64(factor, &f) || !(f > 0))
            return err_set(e, ERR_INVAL, "--slow %s: must be INDEX=FACTOR", o->slow.item[i]);
        if (which == index)
            *out = f;
    }
    return 0;
}

static int server_open(struct backend *b, uint32_t i, struct err *e)
{
    const struct options *o = &b->o;
    struct server *s = &b->server[i];
    struct sim_conf c = { .prefill_ms = o->prefill_ms,
                          .decode_ms = o->decode_ms,
                          .slope = o->slope,
                          .slots = o->slots,
                          .chunk_tokens = o->chunk_tokens,
                          .every = o->every,
                          .kv_blocks = o->kv_blocks };
    struct http_server_opts ho = { .host = "127.0.0.1",
                                   .port = (uint16_t)(o->first_port != 0 ? o->first_port + i : 0),
                                   .idle_ms = 600000,
                                   .conns_max = o->conns,
                                   .server_name = "uvicorn" };
    int rc = slowness(o, i, &c.factor, e);

    if (rc != 0)
        return rc;
    s->backend = b;
    s->metrics = light_metrics_new(o->model, o->kv_blocks);
    if (o->engine)
        s->engine = sim_engine_new(b->loop, &c, &engine_ops);
    return http_server_open(b->loop, &ho, handle, s, &s->http, e);
}

static void stop(void *ctx)
{
    loop_stop(ctx);
}

static void many_files(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

static int run(struct backend *b, struct err *e)
{
    int rc = loop_new(&b->loop, e);

    if (rc != 0)
        return rc;
    rc = loop_signal(b->loop, SIGTERM, stop, b->loop, e);
    if (rc == 0)
        rc = loop_signal(b->loop, SIGINT, stop, b->loop, e);
    for (uint32_t i = 0; rc == 0 && i < b->o.ports; i++)
        rc = server_open(b, i, e);
    if (rc == 0) {
        printf("ready");
        for (uint32_t i = 0; i < b->o.ports; i++)
            printf(" %u", http_server_port(b->server[i].http));
        printf("\n");
        (void)fflush(stdout);
        loop_run(b->loop);
    }
    for (uint32_t i = 0; i < b->o.ports; i++) {
        struct server *s = &b->server[i];

        if (s->http != NULL)
            http_server_close(s->http);
        if (s->engine != NULL)
            sim_engine_free(s->engine);
        if (s->metrics != NULL)
            light_metrics_free(s->metrics);
    }
    loop_free(b->loop);
    return rc;
}

int main(int argc, char **argv)
{
    struct backend b = { 0 };
    struct err e = { 0 };
    struct buf help;
    int rc;

    log_init("light_backend", LOG_WARN_LEVEL);
    rc = opt_parse(&b.o, table, COUNT(table), argc - 1, argv + 1, NULL, &e);
    if (rc == ERR_CANCELLED) {
        buf_init(&help, (size_t)64 << 10);
        opt_help(table, COUNT(table), &help);
        printf("%.*s", STR_ARG(buf_view(&help)));
        buf_fini(&help);
        return 0;
    }
    if (rc == 0 && b.o.engine && !(b.o.decode_ms >= 0 && b.o.prefill_ms >= 0))
        rc = err_set(&e, ERR_INVAL, "times must not be negative");
    if (rc == 0) {
        many_files();
        ready_made(&b);
        b.server = mem_zalloc(b.o.ports * sizeof(*b.server));
        rc = run(&b, &e);
        mem_free(b.server);
        buf_fini(&b.models);
        for (int i = 0; i < 2; i++) {
            buf_fini(&b.whole[i]);
            buf_fini(&b.stream[i]);
        }
    }
    if (rc != 0)
        fprintf(stderr, "light_backend: %s\n", e.msg);
    return rc != 0;
}
