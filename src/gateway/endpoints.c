/* Endpoints: what is known of each, and whether it is in rotation.
 *
 *   every scrape_ms   GET /metrics        unless the last one is still on its way; an idle one is
 *                                         asked less often (rest_ms)
 *   every RETURN_MS   GET /v1/models      until known, then every MODELS_MS
 *   every RETURN_MS   GET /health/ready   until it is, then every READY_MS
 *   every MODELS_MS   GET /props          of llama.cpp, until it has said its slots
 *
 * What follows from the answers, by the age of the last good one:
 *
 *   could not connect -> unreachable      < stale_ms -> used (or loading, draining, stuck)
 *   >= stale_ms -> stale                  >= frozen_ms -> frozen
 *
 * A stale endpoint is used only while no fresh one serves the model; the rest are out until a
 * scrape works again.  Errors of requests are kept apart from scrapes: ERRORS_ROW gateway errors
 * in a row take an endpoint out for EJECT_MS times the number of times; one request then tries
 * it.  A new process at its address starts without them.  At most half of the endpoints are out
 * by that at a time, and never the last. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/engine.h"
#include "gateway/gateway_priv.h"
#include "gateway/prom_text.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SCRAPE_BYTES_MAX   ((size_t)4 << 20)
#define MODELS_BYTES_MAX   ((size_t)1 << 20)
#define CONNECT_MS         1000
#define READY_MS           1000
#define RETURN_MS          100 /* the same, of one that is on its way back */
#define MODELS_MS          5000
#define ERRORS_ROW         5
#define EJECT_MS           30000
#define EJECT_MS_MAX       300000
#define SLOW_START_MS      10000 /* after an ejection: a tenth of the weight */
#define PAUSE_MS_MAX       30000
#define IDLE_AFTER_MS      1000
#define IDLE_TICKS         4
#define IDLE_CONFIGURED_MS 150
#define UNTRIED_MS         60000 /* others learned, this one did not */
#define START_JITTER_S     1     /* some compute it anew from the boot time, which wavers */
#define RECENT_MS          30000 /* in rotation so lately: it may well come back */

enum family {
    F_RUNNING,
    F_WAITING,
    F_KV_USAGE,
    F_CACHE_CONFIG,
    F_BLOCKS_IN_USE,
    F_BLOCKS_TOTAL,
    F_STALLED,
    F_START_TIME,
    F_PROMPT_TOKENS,
    F_SG_RUNNING,
    F_SG_WAITING,
    F_SG_USAGE,
    F_SG_CACHE_CONFIG,
    F_SG_PROMPT_TOKENS,
    F_LC_RUNNING,
    F_LC_WAITING,
    F_LC_USAGE,
    F_LC_PROMPT_TOKENS,
    F_TRT_RUNNING,
    F_TRT_WAITING,
    F_TRT_USAGE,
    F_LORA,
    F_COUNT
};

static const struct str families[F_COUNT] = {
    [F_RUNNING] = { "vllm:num_requests_running", 25 },
    [F_WAITING] = { "vllm:num_requests_waiting", 25 },
    [F_KV_USAGE] = { "vllm:kv_cache_usage_perc", 24 },
    [F_CACHE_CONFIG] = { "vllm:cache_config_info", 22 },
    [F_BLOCKS_IN_USE] = { "llmd_blocks_in_use", 18 },
    [F_BLOCKS_TOTAL] = { "llmd_blocks_total", 17 },
    [F_STALLED] = { "llmd_worker_seconds_since_progress", 34 },
    [F_START_TIME] = { "process_start_time_seconds", 26 },
    [F_PROMPT_TOKENS] = { "vllm:prompt_tokens_total", 24 },
    [F_SG_RUNNING] = { "sglang:num_running_reqs", 23 },
    [F_SG_WAITING] = { "sglang:num_queue_reqs", 21 },
    [F_SG_USAGE] = { "sglang:token_usage", 18 },
    [F_SG_CACHE_CONFIG] = { "sglang:cache_config_info", 24 },
    [F_SG_PROMPT_TOKENS] = { "sglang:prompt_tokens_total", 26 },
    [F_LC_RUNNING] = { "llamacpp:requests_processing", 28 },
    [F_LC_WAITING] = { "llamacpp:requests_deferred", 26 },
    [F_LC_USAGE] = { "llamacpp:kv_cache_usage_ratio", 29 },
    [F_LC_PROMPT_TOKENS] = { "llamacpp:prompt_tokens_total", 28 },
    [F_TRT_RUNNING] = { "trtllm_num_requests_running", 27 },
    [F_TRT_WAITING] = { "trtllm_num_requests_waiting", 27 },
    [F_TRT_USAGE] = { "trtllm_kv_cache_utilization", 27 },
    [F_LORA] = { "vllm:lora_requests_info", 23 },
};

struct scraped {
    double v[F_COUNT];
    bool has[F_COUNT];
    uint64_t block_tokens, blocks;
    double lora_at; /* the newest sample's value: when it was made */
    struct str lora_running, lora_waiting, lora_max;
};

static bool is_usage(size_t which)
{
    return which == F_KV_USAGE || which == F_SG_USAGE || which == F_LC_USAGE ||
           which == F_TRT_USAGE;
}

static void lora_sample(struct scraped *s, struct str labels, double value)
{
    if (s->has[F_LORA] && value <= s->lora_at)
        return;
    s->lora_at = value;
    s->lora_running = s->lora_waiting = s->lora_max = STR_NONE;
    (void)prom_label(labels, "running_lora_adapters", &s->lora_running);
    (void)prom_label(labels, "waiting_lora_adapters", &s->lora_waiting);
    (void)prom_label(labels, "max_lora", &s->lora_max);
}

static void on_sample(void *ctx, size_t which, struct str labels, double value)
{
    struct scraped *s = ctx;
    struct str size;

    if (which == F_CACHE_CONFIG && prom_label(labels, "block_size", &size))
        (void)str_u64(size, &s->block_tokens);
    if (which == F_CACHE_CONFIG && prom_label(labels, "num_gpu_blocks", &size))
        (void)str_u64(size, &s->blocks);
    if (which == F_SG_CACHE_CONFIG && prom_label(labels, "page_size", &size))
        (void)str_u64(size, &s->block_tokens);
    if (which == F_SG_CACHE_CONFIG && prom_label(labels, "num_pages", &size))
        (void)str_u64(size, &s->blocks);
    if (which == F_LORA)
        lora_sample(s, labels, value);
    /* one server can hold several engines: requests add up, the fullest cache counts */
    if (is_usage(which))
        s->v[which] = s->has[which] ? MAX(s->v[which], value) : value;
    else
        s->v[which] += value;
    s->has[which] = true;
}

static double bounded(double v, double max)
{
    return v > 0 ? MIN(v, max) : 0;
}

/* A new process has no errors yet: those of the one before, which broke every request it had, say
 * nothing about it.  Neither does that one's speed, which was worst when it died: who is thought
 * slow gets no request that would show otherwise. */
static void forgive(struct endpoint *ep)
{
    ep->learner = (struct sched_learner) { 0 };
    ep->g->rates_changed = true;
    ep->errors_row = 0;
    ep->ejected_until_ms = ep->paused_until_ms = ep->slow_until_ms = 0;
    ep->on_probe = false;
}

static void endpoint_restarted(struct endpoint *ep)
{
    forgive(ep);
    ep->ready_known = ep->models_known = ep->was_used = false;
    LOG_INFO("endpoint restarted endpoint=%s", ep->address);
    if (ep->g->prefix != NULL)
        prefix_forget(ep->g->prefix, ep);
    ep->models_due_ms = 0;
    ep->ready_due_ms = 0;
}

static uint32_t adapters(struct str list, struct str *out)
{
    uint32_t n = 0;

    while (list.n > 0 && n < ENDPOINT_ADAPTERS_MAX) {
        struct str one = str_trim(str_cut(&list, ','));

        if (one.n > 0)
            out[n++] = one;
    }
    return n;
}

/* The page goes with the next scrape: its names are kept in a text of the endpoint's. */
static void take_lora(struct endpoint *ep, const struct scraped *s)
{
    uint64_t max = 0;
    char *text;

    if (!s->has[F_LORA])
        return;
    text = mem_zalloc(s->lora_running.n + s->lora_waiting.n + 1);
    if (s->lora_running.n != 0)
        memcpy(text, s->lora_running.p, s->lora_running.n);
    if (s->lora_waiting.n != 0)
        memcpy(text + s->lora_running.n, s->lora_waiting.p, s->lora_waiting.n);
    mem_free(ep->lora_text);
    ep->lora_text = text;
    ep->lora_active_count = adapters((struct str) { text, s->lora_running.n }, ep->lora_active);
    ep->lora_waiting_count =
        adapters((struct str) { text + s->lora_running.n, s->lora_waiting.n }, ep->lora_waiting);
    if (s->lora_max.p != NULL)
        (void)str_u64(s->lora_max, &max);
    ep->lora_max = (uint32_t)MIN(max, (uint64_t)UINT32_MAX);
}

/* A start time that moved, or a counter that fell: another process, come back between two scrapes.
 */
static void look_for_restart(struct endpoint *ep, const struct scraped *s)
{
    bool counts =
        s->has[F_PROMPT_TOKENS] || s->has[F_SG_PROMPT_TOKENS] || s->has[F_LC_PROMPT_TOKENS];
    double tokens = s->v[F_PROMPT_TOKENS] + s->v[F_SG_PROMPT_TOKENS] + s->v[F_LC_PROMPT_TOKENS];

    if ((ep->start_time != 0 && s->has[F_START_TIME] &&
         s->v[F_START_TIME] > ep->start_time + (ep->ours ? 0 : START_JITTER_S)) ||
        (counts && tokens < ep->prompt_tokens))
        endpoint_restarted(ep);
    ep->prompt_tokens = tokens;
    if (s->has[F_START_TIME])
        ep->start_time = s->v[F_START_TIME];
}

static void custom_free(struct endpoint *ep)
{
    for (uint32_t i = 0; i < ep->custom_count; i++)
        mem_free((char *)ep->custom[i].key.p);
    mem_free(ep->custom);
    ep->custom = NULL;
    ep->custom_count = 0;
}

static void take_custom(struct endpoint *ep, const struct metric_engine *m,
                        const struct engine_page *page)
{
    custom_free(ep);
    if (m->custom_count != 0)
        ep->custom = mem_zalloc(m->custom_count * sizeof(*ep->custom));
    for (uint32_t i = 0; i < m->custom_count; i++)
        if (page->has_custom[i])
            ep->custom[ep->custom_count++] =
                (struct sched_attribute) { { str_dup(m->custom[i].attribute),
                                             m->custom[i].attribute.n },
                                           STR("core-metrics-extractor"),
                                           page->custom[i] };
}

/* The names of its configuration count in the place of those that are known. */
static void by_configuration(struct endpoint *ep, const struct metric_engine *m, struct scraped *s)
{
    static const enum family known[] = { F_SG_RUNNING, F_LC_RUNNING, F_TRT_RUNNING,
                                         F_SG_WAITING, F_LC_WAITING, F_TRT_WAITING,
                                         F_SG_USAGE,   F_LC_USAGE,   F_TRT_USAGE };
    struct engine_page page;

    engine_read(m, buf_view(&ep->scrape_body), &page);
    for (size_t i = 0; i < COUNT(known); i++)
        s->v[known[i]] = 0;
    s->v[F_RUNNING] = page.running;
    s->v[F_WAITING] = page.waiting;
    s->v[F_KV_USAGE] = page.kv_usage;
    s->block_tokens = (uint64_t)bounded(page.block_tokens, UINT32_MAX);
    s->blocks = (uint64_t)bounded(page.blocks, UINT32_MAX);
    s->has[F_LORA] = page.has_lora;
    s->lora_running = page.lora_running;
    s->lora_waiting = page.lora_waiting;
    s->lora_max = page.lora_max;
    if (m != metric_engine_find(m->name)) /* known engines leave out what they do not use */
        metric_add(
            gateway_cell(ep->g, M_EXTRACT_ERRORS, "metrics-data-source", "core-metrics-extractor"),
            page.missing);
    take_custom(ep, m, &page);
}

static void take_scrape(struct endpoint *ep)
{
    struct scraped s = { .block_tokens = 0 };
    const struct metric_engine *m = engine_of(ep->g->policy->config, ep->label, ep->label_count);

    (void)prom_scan(buf_view(&ep->scrape_body), families, F_COUNT, on_sample, &s);
    if (m != NULL)
        by_configuration(ep, m, &s);
    else
        custom_free(ep);
    ep->running =
        bounded(s.v[F_RUNNING] + s.v[F_SG_RUNNING] + s.v[F_LC_RUNNING] + s.v[F_TRT_RUNNING], 1e6);
    ep->waiting =
        bounded(s.v[F_WAITING] + s.v[F_SG_WAITING] + s.v[F_LC_WAITING] + s.v[F_TRT_WAITING], 1e6);
    ep->kv_usage = bounded(
        MAX(MAX(s.v[F_KV_USAGE], s.v[F_SG_USAGE]), MAX(s.v[F_LC_USAGE], s.v[F_TRT_USAGE])), 1);
    take_lora(ep, &s);
    ep->cache_blocks = (uint32_t)MIN(s.blocks, (uint64_t)UINT32_MAX);
    /* What ran of ours since the scrape before may be in these numbers, finished or not, and is in
     * our own books already; only what exceeds it is somebody else's. */
    ep->foreign =
        MAX(0.0, ep->running + ep->waiting - MAX(ep->inflight_peak, ep->inflight_peak_before));
    ep->has_blocks = s.has[F_BLOCKS_IN_USE];
    ep->blocks_in_use = bounded(s.v[F_BLOCKS_IN_USE], 1e15);
    ep->blocks_total = bounded(s.v[F_BLOCKS_TOTAL], 1e15);
    flow_limit_learn(&ep->limit, ep->inflight + ep->foreign, ep->running, ep->waiting, ep->slots,
                     clock_ms());
    ep->ours = s.has[F_BLOCKS_IN_USE];
    ep->is_llama_cpp = s.has[F_LC_RUNNING];
    if (s.block_tokens != 0)
        ep->block_tokens = (uint32_t)MIN(s.block_tokens, (uint64_t)UINT32_MAX);
    ep->stalled_s = bounded(s.v[F_STALLED], 1e9);
    look_for_restart(ep, &s);
}

/* ---- the three pages ---- */

static void scrape_head(void *ctx, int status, const struct http_headers *h)
{
    struct endpoint *ep = ctx;

    (void)h;
    ep->scrape_status = status;
}

static void scrape_body(void *ctx, struct str bytes)
{
    struct endpoint *ep = ctx;

    (void)buf_str(&ep->scrape_body, bytes);
}

static void scrape_end(void *ctx, int rc, bool sent, bool got)
{
    struct endpoint *ep = ctx;
    struct gateway *g = ep->g;

    (void)got;
    ep->scrape = NULL;
    gateway_lock(g);
    ep->scrape_rc = rc;
    if (rc == 0 && ep->scrape_status == 200 && !ep->scrape_body.failed) {
        bool was_away = ep->last_ok_ms == 0 || ep->refused;

        ep->last_ok_ms = clock_ms();
        ep->refused = false;
        ep->scrape_refused = 0;
        take_scrape(ep);
        if (was_away) {
            ep->models_due_ms = 0;
            ep->ready_due_ms = 0;
        }
    } else {
        metric_add(gateway_cell(g, M_POLL_ERRORS, "metrics-data-source", NULL), 1);
        ep->refused = rc != 0 && !sent;
        ep->scrape_refused = rc == 0 && ep->scrape_status != 200 ? ep->scrape_status : 0;
    }
    endpoints_judge(ep);
    gateway_unlock(g);
}

static const struct http_call_ops scrape_ops = { scrape_head, scrape_body, scrape_end };

static void models_head(void *ctx, int status, const struct http_headers *h)
{
    struct endpoint *ep = ctx;

    (void)h;
    ep->models_status = status;
}

static void models_body(void *ctx, struct str bytes)
{
    struct endpoint *ep = ctx;

    (void)buf_str(&ep->models_body, bytes);
}

static void forget_models(struct endpoint *ep)
{
    for (uint32_t i = 0; i < ep->model_count; i++)
        mem_free((char *)ep->models_list[i].p);
    ep->model_count = 0;
}

static void add_model(struct endpoint *ep, struct str id)
{
    if (ep->model_count < ENDPOINT_MODELS_MAX)
        ep->models_list[ep->model_count++] = (struct str) { str_dup(id), id.n };
}

/* An entry of the list: its id, the further names that llama.cpp gives it, and how long a request
 * may be (llama.cpp: what a slot holds). */
static void take_model(struct endpoint *ep, const struct json *j)
{
    const struct json *aliases = json_get(j, "aliases");
    struct str id;
    uint64_t len;

    if (!json_str(json_get(j, "id"), &id))
        return;
    add_model(ep, id);
    for (const struct json *a = json_is(aliases, JSON_ARRAY) ? aliases->first : NULL; a != NULL;
         a = a->next) {
        struct str alias;

        if (json_str(a, &alias) && !str_eq(alias, id))
            add_model(ep, alias);
    }
    if (json_u64(json_get(j, "max_model_len"), &len) ||
        json_u64(json_get(json_get(j, "meta"), "n_ctx"), &len))
        ep->max_model_len = (uint32_t)MIN(len, (uint64_t)UINT32_MAX);
}

static bool take_models(struct endpoint *ep)
{
    struct arena a;
    const struct json *root, *data;
    struct err e;
    bool well = false;

    arena_init(&a, (size_t)8 << 20);
    if (json_parse(&a, buf_view(&ep->models_body), NULL, &root, &e) == 0 &&
        json_is(data = json_get(root, "data"), JSON_ARRAY)) {
        forget_models(ep);
        well = true;
        for (const struct json *j = data->first; j != NULL; j = j->next)
            take_model(ep, j);
    }
    arena_fini(&a);
    well = ep->model_count != 0 && well;
    if (well && !ep->models_known)
        LOG_INFO("endpoint serves endpoint=%s model=%.*s models=%" PRIu32, ep->address,
                 STR_ARG(ep->models_list[0]), ep->model_count);
    return well;
}

static void models_end(void *ctx, int rc, bool sent, bool got)
{
    struct endpoint *ep = ctx;
    bool well = rc == 0 && ep->models_status == 200 && !ep->models_body.failed;

    (void)sent;
    (void)got;
    ep->models = NULL;
    gateway_lock(ep->g);
    if (well && take_models(ep)) {
        if (!ep->models_known)
            token_probe_due(ep);
        ep->models_known = true;
    } else {
        metric_add(gateway_cell(ep->g, M_POLL_ERRORS, "models-data-source", NULL), 1);
    }
    ep->models_due_ms = clock_ms() + (ep->models_known ? MODELS_MS : RETURN_MS);
    endpoints_judge(ep);
    gateway_unlock(ep->g);
}

static const struct http_call_ops models_ops = { models_head, models_body, models_end };

static void ready_head(void *ctx, int status, const struct http_headers *h)
{
    struct endpoint *ep = ctx;

    (void)h;
    ep->ready_status = status;
}

static void ready_body(void *ctx, struct str bytes)
{
    (void)ctx;
    (void)bytes;
}

static void ready_end(void *ctx, int rc, bool sent, bool got)
{
    struct endpoint *ep = ctx;

    (void)sent;
    (void)got;
    ep->ready = NULL;
    gateway_lock(ep->g);
    /* vLLM has no such page (404): there, being asked for models has to do */
    if (rc == 0) {
        ep->is_ready = ep->ready_status != 503;
        ep->ready_known = true;
    }
    ep->ready_due_ms = clock_ms() + (ep->ready_known && ep->is_ready ? READY_MS : RETURN_MS);
    endpoints_judge(ep);
    gateway_unlock(ep->g);
}

static const struct http_call_ops ready_ops = { ready_head, ready_body, ready_end };

/* How many requests llama.cpp computes at a time; its other pages do not tell. */
static void take_props(struct endpoint *ep)
{
    const struct json *root;
    struct arena a;
    struct err e;
    uint64_t n;

    arena_init(&a, (size_t)8 << 20);
    if (json_parse(&a, buf_view(&ep->props_body), NULL, &root, &e) == 0) {
        if (json_u64(json_get(root, "total_slots"), &n))
            ep->slots = (uint32_t)MIN(n, (uint64_t)UINT32_MAX);
        if (ep->max_model_len == 0 &&
            json_u64(json_get(json_get(root, "default_generation_settings"), "n_ctx"), &n))
            ep->max_model_len = (uint32_t)MIN(n, (uint64_t)UINT32_MAX);
    }
    arena_fini(&a);
}

static void props_head(void *ctx, int status, const struct http_headers *h)
{
    struct endpoint *ep = ctx;

    (void)h;
    ep->props_status = status;
}

static void props_body(void *ctx, struct str bytes)
{
    struct endpoint *ep = ctx;

    (void)buf_str(&ep->props_body, bytes);
}

static void props_end(void *ctx, int rc, bool sent, bool got)
{
    struct endpoint *ep = ctx;

    (void)sent;
    (void)got;
    ep->props = NULL;
    gateway_lock(ep->g);
    if (rc == 0 && ep->props_status == 200 && !ep->props_body.failed)
        take_props(ep);
    else
        metric_add(gateway_cell(ep->g, M_POLL_ERRORS, "props-data-source", NULL), 1);
    ep->props_due_ms = clock_ms() + MODELS_MS;
    gateway_unlock(ep->g);
}

static const struct http_call_ops props_ops = { props_head, props_body, props_end };

static void ask(struct endpoint *ep, const struct upstream_page *page, size_t bytes_max,
                const struct http_call_ops *ops, struct http_call **call)
{
    struct http_call_opts o = {
        .host = ep->host,
        .port = page->port != 0 ? page->port : ep->port,
        .method = STR("GET"),
        .path = str_of(page->path),
        .tls = page->tls,
        .connect_ms = CONNECT_MS,
        /* a late answer still shows that it lives; one that is later than this is none */
        .first_byte_ms = ep->g->frozen_ms,
        .gap_ms = ep->g->frozen_ms,
        .total_ms = ep->g->frozen_ms,
        .body_bytes_max = bytes_max,
    };
    struct err e;

    if (http_call_start(ep->g->probes, &o, ops, ep, call, &e) != 0) {
        *call = NULL;
        LOG_WARN("cannot ask endpoint=%s path=%s error=\"%s\"", ep->address, page->path, e.msg);
    }
}

/* ---- in rotation or not ---- */

static enum sched_use judge(const struct endpoint *ep, uint64_t now, const char **reason)
{
    const struct gateway *g = ep->g;
    uint64_t age = now - ep->last_ok_ms;

    if (ep->refused) {
        *reason = ep->scrape_rc == ERR_MISMATCH ? "its certificate is not accepted: --worker-ca, "
                                                  "--worker-name or --no-worker-verify"
                  : ep->scrape_rc == ERR_PARSE  ? "does not speak TLS"
                                                : "nothing accepts connections there";
        return SCHED_UNREACHABLE;
    }
    if (ep->scrape_refused != 0 && (ep->last_ok_ms == 0 || age >= g->stale_ms)) {
        *reason = ep->scrape_refused == 503   ? "answers 503 to /metrics: is still loading"
                  : ep->scrape_refused == 501 ? "has no /metrics (llama-server: give it --metrics)"
                                              : "refuses /metrics";
        return SCHED_LOADING;
    }
    if (ep->last_ok_ms == 0) {
        *reason = ep->scrape_rc == ERR_PARSE
                      ? "answers, but not in HTTP: does it want --worker-tls?"
                      : "has not answered a scrape yet";
        return now - ep->first_try_ms >= g->frozen_ms ? SCHED_FROZEN : SCHED_UNREACHABLE;
    }
    if (age >= g->frozen_ms) {
        *reason = "accepts connections but answers nothing";
        return SCHED_FROZEN;
    }
    if (ep->stalled_s * 1000 >= g->stuck_ms) {
        *reason = "says that its running requests make no progress";
        return SCHED_FROZEN;
    }
    if (!ep->models_known) {
        *reason = "has not said which models it serves";
        return SCHED_LOADING;
    }
    if (!ep->ready_known || !ep->is_ready) {
        *reason = ep->ready_known ? "says that it is not ready" : "has not said that it is ready";
        return ep->was_used ? SCHED_DRAINING : SCHED_LOADING;
    }
    if (age >= g->stale_ms) {
        *reason = "is late with its metrics";
        return SCHED_STALE;
    }
    *reason = ep->tokens.verdict == TOKENS_DIFFERENT
                  ? "tokenizes otherwise than --model: prompts are estimated"
                  : "";
    return SCHED_USED;
}

void endpoints_judge(struct endpoint *ep)
{
    const char *reason;
    enum sched_use use = judge(ep, clock_ms(), &reason);

    ep->reason = reason;
    if (use == SCHED_USED) {
        ep->was_used = true;
    } else if (use == SCHED_UNREACHABLE) { /* what comes back is a new process */
        ep->was_used = ep->ready_known = ep->models_known = false;
        ep->start_time = ep->prompt_tokens = 0;
        ep->slots = 0;
        ep->props_due_ms = 0;
    }
    if (use == SCHED_USED || use == SCHED_STALE)
        ep->last_in_ms = clock_ms();
    if (use == ep->use)
        return;
    LOG_INFO("endpoint is %s endpoint=%s was=%s reason=\"%s\"", sched_use_name(use), ep->address,
             sched_use_name(ep->use), reason);
    metric_set(ep->m_state[ep->use], 0);
    metric_set(ep->m_state[use], 1);
    if (use == SCHED_UNREACHABLE) {
        /* its memory went with it */
        if (ep->g->prefix != NULL)
            prefix_forget(ep->g->prefix, ep);
        forgive(ep);
    }
    ep->use = use;
}

bool endpoint_serves(const struct endpoint *ep, struct str model)
{
    if (model.p == NULL)
        return ep->model_count != 0;
    for (uint32_t i = 0; i < ep->model_count; i++)
        if (str_eq(ep->models_list[i], model))
            return true;
    return false;
}

struct str endpoints_model(struct gateway *g, char out[MODEL_NAME_MAX + 1])
{
    out[0] = 0;
    gateway_lock(g);
    for (uint32_t i = 0; i < g->endpoint_count && out[0] == 0; i++)
        if (g->endpoints[i]->model_count != 0)
            snprintf(out, MODEL_NAME_MAX + 1, "%.*s", STR_ARG(g->endpoints[i]->models_list[0]));
    gateway_unlock(g);
    return str_of(out);
}

bool endpoints_lack_model(struct gateway *g, struct str model)
{
    bool known = false, served = false;

    gateway_lock(g);
    for (uint32_t i = 0; i < g->endpoint_count && !served; i++) {
        known |= g->endpoints[i]->model_count != 0;
        served = endpoint_serves(g->endpoints[i], model);
    }
    gateway_unlock(g);
    return known && !served;
}

static bool in_rotation(const struct endpoint *ep)
{
    return ep->use == SCHED_USED || ep->use == SCHED_STALE;
}

bool endpoints_may_return(struct gateway *g, struct str model)
{
    uint64_t now = clock_ms();
    bool may = false;

    gateway_lock(g);
    for (uint32_t i = 0; i < g->endpoint_count && !may; i++) {
        const struct endpoint *ep = g->endpoints[i];

        may =
            ep->last_in_ms != 0 && now - ep->last_in_ms <= RECENT_MS && endpoint_serves(ep, model);
    }
    gateway_unlock(g);
    return may;
}

bool endpoints_any_usable(struct gateway *g)
{
    bool any = false;

    gateway_lock(g);
    for (uint32_t i = 0; i < g->endpoint_count && !any; i++)
        any = in_rotation(g->endpoints[i]);
    gateway_unlock(g);
    return any;
}

static bool held_back(const struct endpoint *ep, uint64_t now)
{
    return ep->ejected_until_ms > now || ep->paused_until_ms > now ||
           (ep->ejections != 0 && ep->errors_row >= ERRORS_ROW && ep->on_probe);
}

static double fastest(const double *v, uint32_t count)
{
    double best = 0;

    for (uint32_t i = 0; i < count; i++)
        if (v[i] > 0 && (best <= 0 || v[i] < best))
            best = v[i];
    return best;
}

/* Of an endpoint that nothing is known of the best is believed: where engines of several makes
 * stand side by side, one thought as slow as the middle of them would never be tried. */
static void fleet_rates(struct gateway *g)
{
    double *v = g->rates;

    if (!g->rates_changed)
        return;
    g->rates_changed = false;
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        v[i] = g->endpoints[i]->learner.prefill_ms_per_token;
    g->best_prefill = fastest(v, g->endpoint_count);
    g->fleet_prefill = sched_median(v, g->endpoint_count);
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        v[i] = g->endpoints[i]->learner.decode_ms_per_token;
    g->best_decode = fastest(v, g->endpoint_count);
    g->fleet_decode = sched_median(v, g->endpoint_count);
}

/* What was learned of one that gets nothing while others do may be a bad moment's: for one request
 * it counts as unknown, and what becomes of that counts again. */
static void put_rates(const struct endpoint *ep, struct sched_endpoint *out)
{
    static const struct sched_learner nothing;
    const struct gateway *g = ep->g;
    bool untried = ep->inflight == 0 && g->learned_ms >= ep->learned_ms + UNTRIED_MS;
    const struct sched_learner *l = untried ? &nothing : &ep->learner;

    sched_rates(l, &g->conf, l->prefill_samples != 0 ? g->fleet_prefill : g->best_prefill,
                l->decode_samples != 0 ? g->fleet_decode : g->best_decode, out);
}

void endpoints_snapshot(struct gateway *g, struct str model, struct sched_endpoint *snap)
{
    uint64_t now = clock_ms();
    uint32_t fresh = 0, open = 0;

    fleet_rates(g);
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        const struct endpoint *ep = g->endpoints[i];

        snap[i] = (struct sched_endpoint) {
            .address = str_of(ep->address),
            .role = ep->role,
            .use = ep->use,
            .waiting = MIN(ep->waiting, ep->foreign),
            .running = ep->inflight + ep->foreign - MIN(ep->waiting, ep->foreign),
            .kv_usage = ep->kv_usage,
            .inflight = ep->inflight,
            .inflight_prefill_tokens = ep->prefill_tokens,
            .inflight_decode = ep->decoding,
            .slots = ep->slots,
            .kvx_capable = ep->ours || ep->role_given,
            .uid = ep->uid,
            .cache_block_tokens = ep->block_tokens,
            .cache_blocks = ep->cache_blocks,
            .lora_active = ep->lora_active,
            .lora_active_count = ep->lora_active_count,
            .lora_waiting = ep->lora_waiting,
            .lora_waiting_count = ep->lora_waiting_count,
            .lora_max = ep->lora_max,
            .id = str_of(ep->id),
            .label = ep->label,
            .label_count = ep->label_count,
            .attribute = ep->custom,
            .attribute_count = ep->custom_count,
            .has_metrics = ep->last_ok_ms != 0,
            .is_stale = now - ep->last_ok_ms >= g->stale_ms,
            .metrics_age_ms = (uint32_t)MIN(now - ep->last_ok_ms, (uint64_t)UINT32_MAX),
            .scraped_waiting = ep->waiting,
            .scraped_running = ep->running,
            .scraped_kv = ep->kv_usage,
            .inflight_limit = ep->limit.limit,
            .inflight_requests = ep->inflight,
            .inflight_tokens = ep->prefill_tokens,
        };
        put_rates(ep, &snap[i]);
        if (in_rotation(ep) && !endpoint_serves(ep, model))
            snap[i].use = SCHED_OTHER_MODEL;
        fresh += snap[i].use == SCHED_USED;
    }
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        if (fresh == 0 && snap[i].use == SCHED_STALE)
            snap[i].use = SCHED_USED; /* a late answer beats none */
        open += snap[i].use == SCHED_USED && !held_back(g->endpoints[i], now);
    }
    if (open == 0)
        return; /* never hold the last ones back */
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        const struct endpoint *ep = g->endpoints[i];

        if (snap[i].use != SCHED_USED)
            continue;
        if (held_back(ep, now) ||
            (ep->slow_until_ms > now && open > 1 && rng_below(&g->rng, 10) != 0))
            snap[i].use = SCHED_CIRCUIT_OPEN;
    }
}

/* ---- the books of errors ---- */

void endpoint_succeeded(struct endpoint *ep)
{
    gateway_lock(ep->g);
    if (ep->on_probe)
        ep->slow_until_ms = clock_ms() + SLOW_START_MS;
    ep->on_probe = false;
    ep->errors_row = 0;
    gateway_unlock(ep->g);
}

static void failed(struct endpoint *ep, uint64_t dispatched_ns)
{
    struct gateway *g = ep->g;
    uint64_t now = clock_ms();
    uint32_t out = 0;

    /* Out already by what its scrapes say, and back by the same: a count would keep it out longer.
     */
    if (ep->use == SCHED_FROZEN || ep->use == SCHED_UNREACHABLE)
        return;
    ep->on_probe = false;
    /* In a row means one after the other: what breaks many requests at once is one error. */
    if (dispatched_ns < ep->last_error_ns)
        return;
    ep->last_error_ns = clock_ns();
    ep->errors_row++;
    if (ep->errors_row < ERRORS_ROW)
        return;
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        out += g->endpoints[i] != ep && g->endpoints[i]->ejected_until_ms > now;
    if ((out + 1) * 2 > g->endpoint_count)
        return;
    ep->ejections++;
    ep->ejected_until_ms = now + MIN((uint64_t)EJECT_MS * ep->ejections, (uint64_t)EJECT_MS_MAX);
    metric_add(ep->m_ejected, 1);
    LOG_WARN("endpoint ejected endpoint=%s errors=%" PRIu32 " ms=%" PRIu64, ep->address,
             ep->errors_row, ep->ejected_until_ms - now);
}

void endpoint_failed(struct endpoint *ep, uint64_t dispatched_ns)
{
    gateway_lock(ep->g);
    failed(ep, dispatched_ns);
    gateway_unlock(ep->g);
}

void endpoint_dispatched(struct endpoint *ep)
{
    if (ep->ejections != 0 && ep->errors_row >= ERRORS_ROW)
        ep->on_probe = true;
    ep->scrape_due_ms = 0;
}

void endpoint_pause(struct endpoint *ep, uint32_t ms)
{
    gateway_lock(ep->g);
    ep->paused_until_ms = clock_ms() + MIN(ms, (uint32_t)PAUSE_MS_MAX);
    gateway_unlock(ep->g);
}

/* ---- life ---- */

/* Its series end with it, unless another has its address by now. */
static void cells_close(const struct endpoint *ep)
{
    static const struct {
        enum gateway_metric family;
        size_t label;
    } series[] = {
        { M_L_ENDPOINT_STATE, 0 }, { M_L_ENDPOINT_INFLIGHT, 0 }, { M_L_ENDPOINT_REQUESTS, 0 },
        { M_L_PREFILL_RATE, 0 },   { M_L_DECODE_RATE, 0 },       { M_L_EJECTED, 0 },
        { M_ENDPOINT_QUEUE, 1 },   { O_POD_QUEUE, 0 },           { M_INFLIGHT_REQUESTS, 0 },
        { M_INFLIGHT_TOKENS, 0 },
    };
    struct gateway *g = ep->g;

    for (uint32_t i = 0; i < g->endpoint_count; i++)
        if (strcmp(g->endpoints[i]->address, ep->address) == 0)
            return;
    for (const struct endpoint *other = g->gone; other != NULL; other = other->next)
        if (other != ep && strcmp(other->address, ep->address) == 0)
            return;
    for (size_t i = 0; i < COUNT(series); i++)
        metrics_drop(g->metrics, series[i].family, series[i].label, ep->address);
}

static void calls_stop(struct endpoint *ep)
{
    struct http_call **const calls[] = { &ep->scrape, &ep->models, &ep->ready, &ep->props };

    for (size_t i = 0; i < COUNT(calls); i++) {
        if (*calls[i] != NULL)
            http_call_cancel(*calls[i]);
        *calls[i] = NULL;
    }
    token_probe_stop(ep);
}

static void labels_free(struct endpoint *ep)
{
    for (uint32_t i = 0; i < ep->label_count; i++) {
        mem_free((char *)ep->label[i].key.p);
        mem_free((char *)ep->label[i].value.p);
    }
    mem_free(ep->label);
    ep->label = NULL;
    ep->label_count = 0;
}

static void describe(struct endpoint *ep, const struct gateway_endpoint_opts *o)
{
    ep->role = o->role;
    ep->role_given = o->role_given;
    mem_free(ep->id);
    ep->id = mem_strdup(o->id != NULL ? o->id : o->address);
    labels_free(ep);
    ep->label = mem_zalloc(MAX(o->label_count, 1u) * sizeof(*ep->label));
    for (uint32_t i = 0; i < o->label_count; i++)
        ep->label[ep->label_count++] =
            (struct sched_label) { { str_dup(o->label[i].key), o->label[i].key.n },
                                   { str_dup(o->label[i].value), o->label[i].value.n } };
}

static void endpoint_free(struct endpoint *ep)
{
    calls_stop(ep);
    forget_models(ep);
    buf_fini(&ep->scrape_body);
    buf_fini(&ep->models_body);
    buf_fini(&ep->tokens.body);
    buf_fini(&ep->props_body);
    labels_free(ep);
    custom_free(ep);
    mem_free(ep->lora_text);
    mem_free(ep->id);
    mem_free(ep->address);
    mem_free(ep);
}

/* Pointers to one that left stay good as long as a request lives that began before it did. */
static void gone_collect(struct gateway *g)
{
    uint64_t oldest = UINT64_MAX;

    if (g->gone == NULL)
        return;
    /* acquire: pairs with the sweep's release; what it had seen by then is behind it */
    for (uint32_t i = 0; i < g->front_count; i++)
        oldest = MIN(oldest, atomic_load_explicit(&g->front[i].oldest_ns, memory_order_acquire));
    for (struct endpoint **at = &g->gone; *at != NULL;) {
        struct endpoint *ep = *at;

        if (ep->gone_ns < oldest) {
            *at = ep->next;
            cells_close(ep);
            endpoint_free(ep);
        } else {
            at = &ep->next;
        }
    }
}

/* Who has had nothing to do for a second is asked at every IDLE_TICKS-th tick, and at the next one
 * once it gets something; never so seldom that its numbers would count as stale. */
static uint64_t rest_ms(struct endpoint *ep, uint64_t now)
{
    /* a configured utilization-detector takes numbers of over 200 ms for a full worker */
    uint32_t most_ms = ep->g->policy != NULL && ep->g->policy->pipeline != NULL
                           ? IDLE_CONFIGURED_MS
                           : ep->g->stale_ms / 3;
    uint32_t ticks = IDLE_TICKS;

    if (ep->use != SCHED_USED || ep->inflight != 0 || ep->foreign > 0)
        ep->busy_ms = now;
    if (now - ep->busy_ms < IDLE_AFTER_MS)
        return 0;
    while (ticks > 1 && ticks * ep->g->scrape_ms > most_ms)
        ticks--;
    /* due a little before its tick, which may come early */
    return (uint64_t)ticks * ep->g->scrape_ms - ep->g->scrape_ms / 2;
}

void endpoints_tick(struct gateway *g)
{
    const struct upstream_page ready = { .path = "/health/ready", .tls = g->upstream.tls };
    const struct upstream_page props = { .path = "/props", .tls = g->upstream.tls };
    uint64_t now = clock_ms();

    gateway_lock(g);
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        struct endpoint *ep = g->endpoints[i];
        bool up = ep->last_ok_ms != 0 && !ep->refused;

        if (ep->scrape == NULL && ep->scrape_due_ms <= now) {
            ep->scrape_due_ms = now + rest_ms(ep, now);
            buf_reset(&ep->scrape_body);
            ep->scrape_status = 0;
            ep->inflight_peak_before = ep->inflight_peak;
            ep->inflight_peak = ep->inflight;
            ask(ep, &g->upstream.metrics, SCRAPE_BYTES_MAX, &scrape_ops, &ep->scrape);
        }
        if (up && ep->models == NULL && ep->models_due_ms <= now) {
            buf_reset(&ep->models_body);
            ep->models_status = 0;
            ask(ep, &g->upstream.models, MODELS_BYTES_MAX, &models_ops, &ep->models);
        }
        if (up && ep->ready == NULL && ep->ready_due_ms <= now) {
            ep->ready_status = 0;
            ask(ep, &ready, MODELS_BYTES_MAX, &ready_ops, &ep->ready);
        }
        token_probe_tick(ep, now);
        if (up && ep->is_llama_cpp && ep->slots == 0 && ep->props == NULL &&
            ep->props_due_ms <= now) {
            buf_reset(&ep->props_body);
            ep->props_status = 0;
            ask(ep, &props, MODELS_BYTES_MAX, &props_ops, &ep->props);
        }
        endpoints_judge(ep);
    }
    gone_collect(g);
    gateway_unlock(g);
}

static void cells_open(struct endpoint *ep)
{
    struct gateway *g = ep->g;
    const char *inflight[] = { ep->address, "default", "inflight-load-producer" };

    for (unsigned u = 0; u < COUNT(ep->m_state); u++)
        ep->m_state[u] =
            gateway_cell(g, M_L_ENDPOINT_STATE, ep->address, sched_use_name((enum sched_use)u));
    metric_set(ep->m_state[ep->use], 1);
    ep->m_inflight = gateway_cell(g, M_L_ENDPOINT_INFLIGHT, ep->address, NULL);
    ep->m_requests = gateway_cell(g, M_L_ENDPOINT_REQUESTS, ep->address, NULL);
    ep->m_prefill = gateway_cell(g, M_L_PREFILL_RATE, ep->address, NULL);
    ep->m_decode = gateway_cell(g, M_L_DECODE_RATE, ep->address, NULL);
    ep->m_ejected = gateway_cell(g, M_L_EJECTED, ep->address, NULL);
    ep->m_queue = gateway_cell(g, M_ENDPOINT_QUEUE, gateway_pool, ep->address);
    ep->m_older_queue = gateway_cell(g, O_POD_QUEUE, ep->address, gateway_pool);
    ep->m_inflight_requests = gateway_cell_of(g, M_INFLIGHT_REQUESTS, inflight);
    ep->m_inflight_tokens = gateway_cell_of(g, M_INFLIGHT_TOKENS, inflight);
}

/* Room for one more, in the list and in a decision's scratch. */
static void grow(struct gateway *g)
{
    uint32_t cap = g->endpoint_cap != 0 ? g->endpoint_cap * 2 : 16;

    if (g->endpoint_count < g->endpoint_cap)
        return;
    g->endpoints = mem_realloc(g->endpoints, cap * sizeof(struct endpoint *));
    g->snap = mem_realloc(g->snap, cap * sizeof(*g->snap));
    g->costs = mem_realloc(g->costs, cap * sizeof(*g->costs));
    g->matched = mem_realloc(g->matched, cap * sizeof(*g->matched));
    g->excluded = mem_realloc(g->excluded, cap * sizeof(*g->excluded));
    g->rates = mem_realloc(g->rates, cap * sizeof(*g->rates));
    g->view = mem_realloc(g->view, cap * sizeof(*g->view));
    g->view_at = mem_realloc(g->view_at, cap * sizeof(*g->view_at));
    g->view_matched = mem_realloc(g->view_matched, cap * sizeof(*g->view_matched));
    g->endpoint_cap = cap;
}

static int endpoint_add(struct gateway *g, const struct gateway_endpoint_opts *o, struct err *e)
{
    struct endpoint *ep = mem_zalloc(sizeof(*ep));
    int rc;

    ep->g = g;
    ep->uid = ++g->endpoint_uid;
    ep->address = mem_strdup(o->address);
    buf_init(&ep->scrape_body, SCRAPE_BYTES_MAX);
    buf_init(&ep->models_body, MODELS_BYTES_MAX);
    buf_init(&ep->tokens.body, MODELS_BYTES_MAX);
    buf_init(&ep->props_body, MODELS_BYTES_MAX);
    describe(ep, o);
    ep->use = SCHED_UNREACHABLE;
    ep->reason = "has not answered a scrape yet";
    ep->first_try_ms = clock_ms();
    rc = addr_parse(str_of(ep->address), ep->host, &ep->port, e);
    if (rc != 0) {
        endpoint_free(ep);
        return rc;
    }
    cells_open(ep);
    grow(g);
    g->endpoints[g->endpoint_count++] = ep;
    return 0;
}

/* No new request goes there; those that run end as they would have. */
static void endpoint_drop(struct gateway *g, uint32_t i)
{
    struct endpoint *ep = g->endpoints[i];

    LOG_INFO("endpoint left endpoint=%s inflight=%" PRIu32, ep->address, ep->inflight);
    calls_stop(ep);
    metric_set(ep->m_state[ep->use], 0);
    prefix_forget(g->prefix, ep);
    policies_endpoint_gone(g, ep->uid);
    ep->gone_ns = clock_ns();
    ep->next = g->gone;
    g->gone = ep;
    g->endpoint_count--;
    memmove(&g->endpoints[i], &g->endpoints[i + 1],
            (g->endpoint_count - i) * sizeof(struct endpoint *));
    token_probe_left(ep);
    g->rates_changed = true;
}

/* All is well before anything is changed.  by_address: of the list. */
static int check_list(const struct gateway_endpoint_opts *list, uint32_t count,
                      struct map *by_address, struct err *e)
{
    char host[256];
    uint16_t port;
    uint64_t at;

    if (count > GATEWAY_ENDPOINTS_MAX)
        return err_set(e, ERR_LIMIT, "%u endpoints: at most %d", count, GATEWAY_ENDPOINTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct str address = str_of(list[i].address);

        if (map_gets(by_address, address, &at))
            return err_set(e, ERR_INVAL, "endpoint %s is given twice", list[i].address);
        if (addr_parse(address, host, &port, e) != 0)
            return e->code;
        if (!map_puts(by_address, address, i))
            return err_set(e, ERR_NOMEM, "no memory for %u endpoints", count);
    }
    return 0;
}

static int set_list(struct gateway *g, const struct gateway_endpoint_opts *list, uint32_t count,
                    struct map *by_address, struct err *e)
{
    int rc = check_list(list, count, by_address, e);
    uint64_t at;

    if (rc != 0)
        return rc;
    for (uint32_t i = g->endpoint_count; i-- > 0;) {
        struct endpoint *ep = g->endpoints[i];

        if (!map_gets(by_address, str_of(ep->address), &at)) {
            endpoint_drop(g, i);
            continue;
        }
        describe(ep, &list[at]);
        (void)map_dels(by_address, str_of(ep->address));
    }
    for (uint32_t i = 0; i < count && rc == 0; i++)
        if (map_gets(by_address, str_of(list[i].address), &at)) /* a new one */
            rc = endpoint_add(g, &list[i], e);
    return rc;
}

int endpoints_set(struct gateway *g, const struct gateway_endpoint_opts *list, uint32_t count,
                  struct err *e)
{
    struct map by_address = { 0 };
    int rc;

    gateway_lock(g);
    rc = set_list(g, list, count, &by_address, e);
    gateway_unlock(g);
    map_fini(&by_address);
    return rc;
}

void endpoints_fini(struct gateway *g)
{
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        endpoint_free(g->endpoints[i]);
    for (struct endpoint *ep = g->gone, *next; ep != NULL; ep = next) {
        next = ep->next;
        endpoint_free(ep);
    }
    mem_free(g->endpoints);
    mem_free(g->snap);
    mem_free(g->costs);
    mem_free(g->matched);
    mem_free(g->excluded);
    mem_free(g->rates);
    mem_free(g->view);
    mem_free(g->view_at);
    mem_free(g->view_matched);
}
