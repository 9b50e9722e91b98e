/* The cache manager's HTTP door: health, metrics, the list of endpoints, look-ups, the stream. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "codec/json.h"
#include "kv/manager_priv.h"
#include <string.h>

#define JSON_TYPE         "application/json"
#define REPLY_BYTES_MAX   ((size_t)64 << 20)
#define LOOKUP_TOKENS_MAX (1u << 20)
#define LOOKUP_JSON_BYTES ((size_t)128 << 20) /* a token takes 80 bytes of tree */

static void reply_buf(struct http_req *r, int status, const char *type, struct buf *b)
{
    if (b->failed)
        http_reply(r, 500, JSON_TYPE,
                   STR("{\"error\":{\"message\":\"answer too large\",\"code\":\"limit\"}}"), NULL);
    else
        http_reply(r, status, type, buf_view(b), NULL);
    buf_fini(b);
}

static void reply_error(struct http_req *r, int status, const char *code, const char *message)
{
    struct json_w w;
    struct buf b;

    buf_init(&b, 4096);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kobj(&w, "error");
    json_w_kz(&w, "message", message);
    json_w_kz(&w, "type", status < 500 ? "invalid_request_error" : "server_error");
    json_w_kz(&w, "code", code);
    json_w_end(&w, '}');
    json_w_end(&w, '}');
    reply_buf(r, status, JSON_TYPE, &b);
}

static void get_health(struct kv_manager *m, struct http_req *r)
{
    (void)m;
    http_reply(r, 200, JSON_TYPE, STR("{\"status\":\"ok\"}"), NULL);
}

static void get_ready(struct kv_manager *m, struct http_req *r)
{
    size_t up = 0, whole = 0;
    struct json_w w;
    struct buf b;

    kv_manager_check_ready(m);
    for (size_t i = 0; i < m->source_count; i++) {
        up += m->source[i]->is_up;
        whole += m->source[i]->is_up && m->source[i]->replay == KV_REPLAY_NONE;
    }
    buf_init(&b, 4096);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "status", m->is_ready ? "ready" : "not_ready");
    if (!m->is_ready)
        json_w_kz(&w, "reason", "waiting for the workers' event streams");
    json_w_ku64(&w, "sources", m->source_count);
    json_w_ku64(&w, "sources_up", up);
    json_w_ku64(&w, "sources_replayed", whole);
    json_w_ku64(&w, "blocks", kv_index_total(m->index));
    json_w_end(&w, '}');
    reply_buf(r, m->is_ready ? 200 : 503, JSON_TYPE, &b);
}

static void get_metrics(struct kv_manager *m, struct http_req *r)
{
    struct buf b;

    kv_manager_gauges(m);
    buf_init(&b, REPLY_BYTES_MAX);
    metrics_render(m->metrics, &b);
    reply_buf(r, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

static void put_source(struct json_w *w, const struct kv_source *s)
{
    const struct kv_index *x = s->m->index;

    json_w_obj(w);
    json_w_kz(w, "name", s->name);
    if (s->address != NULL)
        json_w_kz(w, "address", s->address);
    else
        json_w_knull(w, "address");
    json_w_kstr(w, "model", s->has_endpoint ? kv_index_model(x, s->endpoint) : STR(""));
    json_w_ku64(w, "blocks", s->has_endpoint ? kv_index_blocks(x, s->endpoint) : 0);
    json_w_kbool(w, "up", s->is_up);
    if (s->has_seq)
        json_w_ku64(w, "last_seq", s->last_seq);
    else
        json_w_knull(w, "last_seq");
    json_w_ku64(w, "messages", s->messages);
    json_w_kbool(w, "partial", s->is_partial);
    json_w_kbool(w, "replaying", s->replay != KV_REPLAY_NONE);
    json_w_end(w, '}');
}

static void get_index(struct kv_manager *m, struct http_req *r)
{
    struct json_w w;
    struct buf b;

    buf_init(&b, REPLY_BYTES_MAX);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_ku64(&w, "block_tokens", m->index_opts.block_tokens);
    json_w_kz(&w, "hash", m->index_opts.hash == INDEX_HASH_XXH64 ? "xxh64" : "cbor-fnv");
    json_w_ku64(&w, "blocks", kv_index_total(m->index));
    json_w_ku64(&w, "bytes", kv_index_bytes(m->index));
    json_w_ku64(&w, "streams", m->subscriber_count);
    json_w_karr(&w, "endpoints");
    for (size_t i = 0; i < m->source_count; i++)
        put_source(&w, m->source[i]);
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    reply_buf(r, 200, JSON_TYPE, &b);
}

struct lookup {
    struct str model, salt;
    uint32_t *tokens, count;
};

/* Fills out from the body; NULL, or what is wrong with it. */
static const char *read_lookup(struct arena *a, struct str body, struct lookup *out, char *why,
                               size_t why_size)
{
    const struct json *j, *list, *salt;
    struct err e = { 0 };
    uint64_t v;

    *out = (struct lookup) { 0 };
    if (json_parse(a, body, NULL, &j, &e) != 0) {
        size_t n = MIN(strlen(e.msg), why_size - 1);

        memcpy(why, e.msg, n);
        why[n] = 0;
        return why;
    }
    if (!json_str(json_get(j, "model"), &out->model))
        return "model: a text is needed";
    list = json_get(j, "token_ids");
    if (!json_is(list, JSON_ARRAY))
        return "token_ids: a list of token ids is needed";
    if (list->count > LOOKUP_TOKENS_MAX)
        return "token_ids: more than 1,048,576";
    salt = json_get(j, "cache_salt");
    if (salt != NULL && !json_is(salt, JSON_NULL) && !json_str(salt, &out->salt))
        return "cache_salt: must be a text";
    out->tokens = arena_try(a, ((size_t)list->count + 1) * sizeof(*out->tokens));
    if (out->tokens == NULL)
        return "token_ids: too many";
    for (const struct json *t = list->first; t != NULL; t = t->next) {
        if (!json_u64(t, &v) || v > UINT32_MAX)
            return "token_ids: each must be a whole number from 0 to 4294967295";
        out->tokens[out->count++] = (uint32_t)v;
    }
    return NULL;
}

static void answer_lookup(struct kv_manager *m, struct http_req *r, const struct lookup *q,
                          struct arena *a)
{
    uint32_t endpoints = kv_index_endpoint_count(m->index), n, best = 0;
    uint64_t *keys = arena_try(a, ((size_t)q->count + 1) * sizeof(*keys)), begin = clock_ns();
    uint32_t *matched = arena_try(a, ((size_t)endpoints + 1) * sizeof(*matched));
    struct json_w w;
    struct buf b;

    if (keys == NULL || matched == NULL) {
        reply_error(r, 413, "limit", "token_ids: too many");
        return;
    }
    n = kv_index_keys(m->index, q->model, q->salt, q->tokens, q->count, keys);
    kv_index_match(m->index, keys, n, matched, endpoints);
    metric_observe(m->cell[KM_LOOKUP_SECONDS], (double)(clock_ns() - begin) / 1e9);
    metric_add(m->cell[KM_LOOKUPS], 1);
    buf_init(&b, REPLY_BYTES_MAX);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_karr(&w, "endpoints");
    for (uint32_t i = 0; i < endpoints; i++) {
        if (matched[i] == 0)
            continue;
        best = MAX(best, matched[i]);
        json_w_obj(&w);
        json_w_kstr(&w, "address", kv_index_address(m->index, i));
        json_w_ku64(&w, "matched_blocks", matched[i]);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_ku64(&w, "block_tokens", m->index_opts.block_tokens);
    json_w_ku64(&w, "blocks", n);
    json_w_end(&w, '}');
    metric_add(m->cell[KM_LOOKUP_HITS], best);
    metric_add(m->cell[KM_MAX_HIT], best);
    reply_buf(r, 200, JSON_TYPE, &b);
}

static void post_lookup(struct kv_manager *m, struct http_req *r)
{
    struct lookup q;
    struct arena a;
    char why[256];
    const char *wrong;

    arena_init(&a, LOOKUP_JSON_BYTES);
    wrong = read_lookup(&a, http_req_body(r), &q, why, sizeof(why));
    if (wrong != NULL)
        reply_error(r, 400, "invalid_request", wrong);
    else
        answer_lookup(m, r, &q, &a);
    arena_fini(&a);
}

static const struct {
    const char *method, *path;
    void (*fn)(struct kv_manager *m, struct http_req *r);
} routes[] = {
    { "GET", "/health", get_health },
    { "GET", "/health/ready", get_ready },
    { "GET", "/metrics", get_metrics },
    { "GET", "/v1/index", get_index },
    { "GET", KV_STREAM_PATH, kv_publish_subscribe },
    { "POST", "/v1/lookup", post_lookup },
};

void kv_manager_handle(void *ctx, struct http_req *r)
{
    const char *allow = NULL;

    for (size_t i = 0; i < COUNT(routes); i++) {
        if (!str_eqz(http_req_path(r), routes[i].path))
            continue;
        if (str_eqz(http_req_method(r), routes[i].method) ||
            (str_eqz(http_req_method(r), "HEAD") && routes[i].fn != kv_publish_subscribe &&
             routes[i].fn != post_lookup)) {
            routes[i].fn(ctx, r);
            return;
        }
        allow = routes[i].method;
    }
    if (allow != NULL)
        reply_error(r, 405, "method_not_allowed", "this path does not take that method");
    else
        reply_error(r, 404, "not_found",
                    "no such path; there are /health, /health/ready, /metrics, /v1/index, "
                    "/v1/index/stream and /v1/lookup");
}
