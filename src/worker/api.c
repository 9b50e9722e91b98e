/* The worker's routes: one table of method, path and handler. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "worker/worker_priv.h"
#include <stdio.h>
#include <string.h>

#define METRICS_BYTES_MAX ((size_t)4 << 20)
#define REPLY_BYTES_MAX   ((size_t)64 << 20)
#define TOKENIZE_ARENA    ((size_t)128 << 20)

void worker_reply_error(struct http_req *r, const struct oai_error *e)
{
    struct http_header h = { STR("Retry-After"), STR("1") };
    struct http_headers extra = { &h, 1 };
    struct buf b;

    buf_init(&b, 65536);
    oai_error_body(e, &b);
    http_reply(r, e->status, "application/json", buf_view(&b),
               e->status == 503 || e->status == 429 ? &extra : NULL);
    buf_fini(&b);
}

static void reply_json(struct http_req *r, struct buf *b)
{
    struct oai_error e;

    if (!b->failed) {
        http_reply(r, 200, "application/json", buf_view(b), NULL);
    } else {
        (void)oai_fail(&e, 500, "InternalServerError", "reply_too_large", NULL,
                       "the reply is too large");
        worker_reply_error(r, &e);
    }
    buf_fini(b);
}

/* Everything that needs the model answers 503 until it is there. */
static bool ready(struct worker *w, struct http_req *r)
{
    struct oai_error e;

    if (w->state == WORKER_READY)
        return true;
    (void)oai_fail(&e, 503, "ServiceUnavailableError",
                   w->state == WORKER_LOADING ? "loading" : "shutting_down", NULL,
                   w->state == WORKER_LOADING ? "the model is still loading; try again shortly"
                                              : "server is shutting down");
    worker_reply_error(r, &e);
    return false;
}

static void get_health(struct worker *w, struct http_req *r)
{
    http_reply(r, w->state == WORKER_DEAD ? 503 : 200, "text/plain", STR(""), NULL);
}

static void get_ready(struct worker *w, struct http_req *r)
{
    if (ready(w, r))
        http_reply(r, 200, "text/plain", STR(""), NULL);
}

static void get_version(struct worker *w, struct http_req *r)
{
    (void)w;
    http_reply(r, 200, "application/json", STR("{\"version\":\"" LLMD_VERSION "\"}"), NULL);
}

static void get_metrics(struct worker *w, struct http_req *r)
{
    struct buf b;

    worker_metrics_refresh(w);
    buf_init(&b, METRICS_BYTES_MAX);
    metrics_render(w->metrics, &b);
    http_reply(r, b.failed ? 500 : 200, "text/plain; version=0.0.4; charset=utf-8", buf_view(&b),
               NULL);
    buf_fini(&b);
}

static void get_models(struct worker *w, struct http_req *r)
{
    struct str id = str_of(w->model_name);
    struct buf b;

    if (!ready(w, r))
        return;
    buf_init(&b, 65536);
    oai_models_reply(&b, &id, 1, (int64_t)w->started_s, engine_max_model_len(w->engine));
    reply_json(r, &b);
}

static void get_kvx(struct worker *w, struct http_req *r)
{
    struct buf b;

    if (!ready(w, r))
        return;
    buf_init(&b, 4096);
    pd_describe(w, &b);
    reply_json(r, &b);
}

static void post_chat(struct worker *w, struct http_req *r)
{
    if (ready(w, r))
        gen_start(w, r, true);
}

static void post_completions(struct worker *w, struct http_req *r)
{
    if (ready(w, r))
        gen_start(w, r, false);
}

static void write_tokens(struct json_w *j, const char *key, const struct token_list *t)
{
    json_w_karr(j, key);
    for (size_t i = 0; i < t->count; i++)
        json_w_u64(j, t->id[i]);
    json_w_end(j, ']');
}

static void put_tokens(struct worker *w, struct buf *b, const struct token_list *t, bool render)
{
    struct json_w j;

    json_w_init(&j, b);
    json_w_obj(&j);
    if (!render) {
        json_w_ku64(&j, "count", t->count);
        json_w_ku64(&j, "max_model_len", engine_max_model_len(w->engine));
    }
    write_tokens(&j, render ? "token_ids" : "tokens", t);
    json_w_end(&j, '}');
}

static void finish_tokens(struct worker *w, struct http_req *r, int rc, const struct oai_error *e,
                          const struct token_list *t, bool render)
{
    struct buf b;

    if (rc != 0) {
        worker_reply_error(r, e);
        return;
    }
    buf_init(&b, REPLY_BYTES_MAX);
    put_tokens(w, &b, t, render);
    reply_json(r, &b);
}

/* POST /tokenize: {"prompt"} or {"messages"}. */
static void post_tokenize(struct worker *w, struct http_req *r)
{
    struct token_list t = { 0 };
    struct oai_error e = { 0 };
    const struct json *j = NULL;
    struct str text;
    struct arena a;
    struct err pe;
    int rc = 0;

    if (!ready(w, r))
        return;
    arena_init(&a, TOKENIZE_ARENA);
    if (json_parse(&a, http_req_body(r), NULL, &j, &pe) != 0) {
        rc = oai_fail(&e, 400, "BadRequestError", "invalid_json", NULL, "%s", pe.msg);
    } else if (json_get(j, "messages") != NULL) {
        struct oai_request q;

        rc = oai_parse_chat(&a, http_req_body(r), &q, &e);
        if (rc == 0)
            rc = gen_tokenize_chat(w, &q, &t, &e);
    } else if (json_str(json_get(j, "prompt"), &text)) {
        bool add = true;

        (void)json_bool(json_get(j, "add_special_tokens"), &add);
        if (tokenizer_encode(w->tok, text,
                             TOKENIZE_PARSE_SPECIAL | (add ? TOKENIZE_ADD_SPECIAL : 0), &t) != 0)
            rc = oai_fail(&e, 413, "BadRequestError", "prompt_too_long", "prompt",
                          "the prompt is too long to tokenize");
    } else {
        rc = oai_fail(&e, 400, "BadRequestError", "missing_field", "prompt",
                      "give prompt (text) or messages");
    }
    finish_tokens(w, r, rc, &e, &t, false);
    token_list_fini(&t);
    arena_fini(&a);
}

/* POST /v1/chat/completions/render: the prompt as ids, for routers. */
static void post_render_chat(struct worker *w, struct http_req *r)
{
    struct token_list t = { 0 };
    struct oai_error e = { 0 };
    struct oai_request q;
    struct arena a;
    int rc;

    if (!ready(w, r))
        return;
    arena_init(&a, TOKENIZE_ARENA);
    rc = oai_parse_chat(&a, http_req_body(r), &q, &e);
    if (rc == 0)
        rc = gen_tokenize_chat(w, &q, &t, &e);
    finish_tokens(w, r, rc, &e, &t, true);
    token_list_fini(&t);
    arena_fini(&a);
}

static void post_detokenize(struct worker *w, struct http_req *r)
{
    struct oai_error e = { 0 };
    const struct json *j = NULL, *tokens;
    struct buf text, b;
    struct detok d;
    struct arena a;
    struct err pe;
    int rc = 0;

    if (!ready(w, r))
        return;
    arena_init(&a, TOKENIZE_ARENA);
    buf_init(&text, REPLY_BYTES_MAX);
    detok_init(&d, w->tok, true);
    if (json_parse(&a, http_req_body(r), NULL, &j, &pe) != 0)
        rc = oai_fail(&e, 400, "BadRequestError", "invalid_json", NULL, "%s", pe.msg);
    tokens = json_get(j, "tokens");
    if (rc == 0 && !json_is(tokens, JSON_ARRAY))
        rc = oai_fail(&e, 400, "BadRequestError", "missing_field", "tokens",
                      "give tokens, an array of ids");
    for (const struct json *t = rc == 0 ? tokens->first : NULL; t != NULL; t = t->next) {
        uint64_t id;

        if (!json_u64(t, &id) || id >= tokenizer_count(w->tok)) {
            rc = oai_fail(&e, 400, "BadRequestError", "invalid_value", "tokens",
                          "'%.*s' is no token id (0..%u)", STR_ARG(t->span),
                          tokenizer_count(w->tok) - 1);
            break;
        }
        (void)detok_add(&d, (uint32_t)id, &text);
    }
    (void)detok_flush(&d, &text);
    if (rc != 0) {
        worker_reply_error(r, &e);
    } else {
        struct json_w jw;

        buf_init(&b, REPLY_BYTES_MAX);
        json_w_init(&jw, &b);
        json_w_obj(&jw);
        json_w_kstr(&jw, "prompt", buf_view(&text));
        json_w_end(&jw, '}');
        reply_json(r, &b);
    }
    detok_fini(&d);
    buf_fini(&text);
    arena_fini(&a);
}

static void post_reset(struct worker *w, struct http_req *r)
{
    if (!ready(w, r))
        return;
    engine_reset_prefix_cache(w->engine);
    http_reply(r, 200, "application/json", STR("{}"), NULL);
}

static const struct route {
    const char *method, *path;
    void (*fn)(struct worker *w, struct http_req *r);
} routes[] = {
    { "POST", "/v1/chat/completions", post_chat },
    { "POST", "/v1/completions", post_completions },
    { "POST", "/v1/chat/completions/render", post_render_chat },
    { "POST", "/tokenize", post_tokenize },
    { "POST", "/detokenize", post_detokenize },
    { "POST", "/reset_prefix_cache", post_reset },
    { "GET", "/v1/models", get_models },
    { "GET", "/v1/llmd/kvx", get_kvx },
    { "GET", "/health", get_health },
    { "GET", "/ping", get_health },
    { "GET", "/health/ready", get_ready },
    { "GET", "/version", get_version },
    { "GET", "/metrics", get_metrics },
};

void worker_handle(void *ctx, struct http_req *r)
{
    struct worker *w = ctx;
    struct str method = http_req_method(r), path = http_req_path(r);
    struct oai_error e;
    bool known = false;

    if (str_eqz(method, "HEAD"))
        method = STR("GET");
    for (size_t i = 0; i < COUNT(routes); i++) {
        if (!str_eqz(path, routes[i].path))
            continue;
        known = true;
        if (str_eqz(method, routes[i].method)) {
            metric_add(worker_metric(w, WM_HTTP, routes[i].path), 1);
            routes[i].fn(w, r);
            return;
        }
    }
    if (known)
        (void)oai_fail(&e, 405, "BadRequestError", "method_not_allowed", NULL,
                       "%.*s is not allowed on %.*s", STR_ARG(method), STR_ARG(path));
    else
        (void)oai_fail(&e, 404, "NotFoundError", "unknown_path", NULL, "no such path: %.*s",
                       STR_ARG(str_sub(path, 0, 200)));
    worker_reply_error(r, &e);
}
