/* The pages that tell of the gateway itself: /v1/status, /v1/models, /metrics, /health/ready. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/access_log.h"
#include "gateway/gateway_priv.h"
#include <math.h>
#include <string.h>

#define PAGE_BYTES_MAX   ((size_t)16 << 20)
#define MODELS_SHOWN_MAX 1024
#define STANDBY          "another replica leads"

static double tenths(double v)
{
    return (double)(int64_t)(v * 10 + 0.5) / 10;
}

static void part_of_self(struct json_w *w, struct gateway *g)
{
    bool usable = endpoints_any_usable(g), standby = g->standby;

    json_w_obj(w);
    json_w_kz(w, "name", "scheduler");
    json_w_kz(w, "role", "scheduler");
    json_w_kz(w, "address", g->address);
    json_w_kz(w, "state",
              g->draining ? "draining"
              : standby   ? "standby"
              : usable    ? "ready"
                          : "waiting");
    json_w_kz(w, "reason",
              g->draining ? "is shutting down"
              : standby   ? STANDBY
              : usable    ? ""
                          : "no worker is in rotation");
    json_w_ku64(w, "inflight", g->inflight);
    json_w_ku64(w, "uptime_s", (uint64_t)(clock_wall_s() - g->started_s));
    json_w_kbool(w, "estimates_tokens", !reader_has_model(g->front[0].reader));
    json_w_end(w, '}');
}

static void part_of_cache(struct json_w *w, const struct gateway *g)
{
    bool up = prefix_cache_up(g->prefix);

    json_w_obj(w);
    json_w_kz(w, "name", "cache");
    json_w_kz(w, "role", "cache");
    json_w_kz(w, "address", g->cache);
    json_w_kz(w, "state", up ? "used" : "unreachable");
    json_w_kz(
        w, "reason",
        up ? "" : "its index is not being followed: prefixes are guessed from what was sent where");
    json_w_ku64(w, "blocks", prefix_cache_blocks(g->prefix));
    json_w_end(w, '}');
}

static void part_of_endpoint(struct json_w *w, const struct endpoint *ep)
{
    uint64_t now = clock_ms();
    bool ejected = ep->ejected_until_ms > now, paused = ep->paused_until_ms > now;
    bool open = ep->use == SCHED_USED && (ejected || paused);

    json_w_obj(w);
    json_w_kz(w, "name", ep->address);
    json_w_kz(w, "role", sched_role_name(ep->role));
    json_w_kz(w, "address", ep->address);
    json_w_kz(w, "state", sched_use_name(open ? SCHED_CIRCUIT_OPEN : ep->use));
    json_w_kz(w, "reason",
              !open     ? ep->reason
              : ejected ? "answered with errors"
                        : "was busy or could not be reached: paused for a moment");
    if (ep->model_count != 0)
        json_w_kstr(w, "model", ep->models_list[0]);
    json_w_kz(w, "tokens", token_probe_name(ep->tokens.verdict));
    json_w_karr(w, "models");
    for (uint32_t i = 0; i < ep->model_count; i++)
        json_w_str(w, ep->models_list[i]);
    json_w_end(w, ']');
    json_w_ku64(w, "inflight", ep->inflight);
    json_w_ku64(w, "inflight_prefill_tokens", (uint64_t)ep->prefill_tokens);
    json_w_ku64(w, "inflight_decode", ep->decoding);
    json_w_ku64(w, "running", (uint64_t)ep->running);
    json_w_ku64(w, "waiting", (uint64_t)ep->waiting);
    json_w_kf64(w, "kv_usage", tenths(ep->kv_usage * 100) / 100);
    if (ep->has_blocks) {
        json_w_ku64(w, "blocks_in_use", (uint64_t)ep->blocks_in_use);
        json_w_ku64(w, "blocks_total", (uint64_t)ep->blocks_total);
    } else {
        json_w_knull(w, "blocks_in_use");
    }
    if (ep->block_tokens != 0)
        json_w_ku64(w, "block_tokens", ep->block_tokens);
    json_w_kf64(w, "prefill_ms_per_token", tenths(ep->learner.prefill_ms_per_token * 100) / 100);
    json_w_kf64(w, "decode_ms_per_token", tenths(ep->learner.decode_ms_per_token * 100) / 100);
    json_w_ku64(w, "scrape_age_ms", ep->last_ok_ms != 0 ? now - ep->last_ok_ms : 0);
    json_w_end(w, '}');
}

static void part_of_unused(struct json_w *w, const char *id)
{
    json_w_obj(w);
    json_w_kz(w, "name", id);
    json_w_kz(w, "role", "pod");
    json_w_kz(w, "address", id);
    json_w_kz(w, "state", "not_used");
    json_w_kz(w, "reason", id + strlen(id) + 1);
    json_w_end(w, '}');
}

static void reply_json(struct http_req *r, int status, struct buf *b)
{
    http_reply(r, status, "application/json", buf_view(b), NULL);
    buf_fini(b);
}

void status_page(struct gateway *g, struct http_req *r)
{
    struct json_w w;
    struct buf b;

    buf_init(&b, PAGE_BYTES_MAX);
    json_w_init(&w, &b);
    json_w_obj(&w);
    json_w_kz(&w, "version", LLMD_VERSION);
    json_w_karr(&w, "parts");
    part_of_self(&w, g);
    gateway_lock(g);
    if (g->cache != NULL)
        part_of_cache(&w, g);
    for (uint32_t i = 0; i < g->endpoint_count; i++)
        part_of_endpoint(&w, g->endpoints[i]);
    for (uint32_t i = 0; i < g->unused_count; i++)
        part_of_unused(&w, g->unused[i]);
    gateway_unlock(g);
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    reply_json(r, 200, &b);
}

/* Ids of every endpoint in rotation, each once. */
static uint32_t merged_models(const struct gateway *g, struct str *out, uint32_t max, uint32_t *len)
{
    uint32_t n = 0;

    *len = 0;
    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        const struct endpoint *ep = g->endpoints[i];

        if (ep->use != SCHED_USED && ep->use != SCHED_STALE)
            continue;
        *len = MAX(*len, ep->max_model_len);
        for (uint32_t k = 0; k < ep->model_count; k++) {
            bool known = false;

            for (uint32_t j = 0; j < n && !known; j++)
                known = str_eq(out[j], ep->models_list[k]);
            if (!known && n < max)
                out[n++] = ep->models_list[k];
        }
    }
    return n;
}

struct served {
    const struct str *ids;
    uint32_t count;
    bool found;
};

static void look_for(void *ctx, struct str target)
{
    struct served *s = ctx;

    for (uint32_t i = 0; i < s->count; i++)
        s->found |= str_eq(s->ids[i], target);
}

/* Further names, of models that are there. */
static uint32_t add_names(const struct gateway *g, struct str *ids, uint32_t n, uint32_t max)
{
    struct served s = { ids, n, false };
    size_t names = objects_names(g->objects);

    for (size_t i = 0; i < names && n < max; i++) {
        struct served own = { ids, n, false };

        s.found = false;
        objects_targets(g->objects, i, look_for, &s);
        look_for(&own, objects_name(g->objects, i));
        if (s.found && !own.found)
            ids[n++] = objects_name(g->objects, i);
    }
    return n;
}

void status_models(struct gateway *g, struct http_req *r, struct str id)
{
    struct str *ids = mem_alloc(MODELS_SHOWN_MAX * sizeof(*ids));
    bool found = id.n == 0;
    uint32_t len, n;
    struct buf b;

    buf_init(&b, PAGE_BYTES_MAX);
    gateway_lock(g); /* the names are the endpoints' */
    n = merged_models(g, ids, MODELS_SHOWN_MAX, &len);
    n = add_names(g, ids, n, MODELS_SHOWN_MAX);
    for (uint32_t i = 0; i < n && !found; i++)
        if (str_eq(ids[i], id)) {
            struct json_w w;

            json_w_init(&w, &b);
            json_w_obj(&w);
            json_w_kstr(&w, "id", id);
            json_w_kz(&w, "object", "model");
            json_w_ki64(&w, "created", (int64_t)g->started_s);
            json_w_kz(&w, "owned_by", "llmd");
            if (len != 0)
                json_w_ku64(&w, "max_model_len", len);
            json_w_end(&w, '}');
            found = true;
        }
    if (id.n == 0)
        oai_models_reply(&b, ids, n, (int64_t)g->started_s, len);
    gateway_unlock(g);
    mem_free(ids);
    if (n == 0)
        proxy_refuse(g, r, 503, "ServiceUnavailableError", "no_endpoint",
                     "no worker is in rotation");
    else if (!found)
        proxy_refuse(g, r, 404, "NotFoundError", "model_not_found",
                     "the model `%.*s` does not exist", (int)MIN(id.n, (size_t)200), id.p);
    else
        http_reply(r, 200, "application/json", buf_view(&b), NULL);
    buf_fini(&b);
}

struct spread {
    double sum, squares;
};

static void spread_add(struct spread *s, double v)
{
    s->sum += v;
    s->squares += v * v;
}

/* Average, its older twin, and the deviation, over n endpoints. */
static void spread_set(struct gateway *g, const struct spread *s, uint32_t n,
                       enum gateway_metric average, enum gateway_metric older,
                       enum gateway_metric deviation)
{
    double mean = n != 0 ? s->sum / n : 0;
    double variance = n != 0 ? s->squares / n - mean * mean : 0;

    metric_set(gateway_cell(g, average, gateway_pool, NULL), mean);
    metric_set(gateway_cell(g, older, gateway_pool, NULL), mean);
    metric_set(gateway_cell(g, deviation, gateway_pool, NULL), sqrt(MAX(variance, 0.0)));
}

static void pool_gauges(struct gateway *g)
{
    struct spread waiting = { 0, 0 }, running = { 0, 0 }, usage = { 0, 0 };
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        const struct endpoint *ep = g->endpoints[i];

        metric_set(ep->m_queue, ep->waiting);
        metric_set(ep->m_older_queue, ep->waiting);
        metric_set(ep->m_inflight_requests, ep->inflight);
        metric_set(ep->m_inflight_tokens, ep->prefill_tokens);
        if (ep->use != SCHED_USED && ep->use != SCHED_STALE)
            continue;
        n++;
        spread_add(&waiting, ep->waiting);
        spread_add(&running, ep->running);
        spread_add(&usage, ep->kv_usage);
    }
    metric_set(gateway_cell(g, M_READY_ENDPOINTS, gateway_pool, NULL), n);
    metric_set(gateway_cell(g, O_READY_PODS, gateway_pool, NULL), n);
    spread_set(g, &waiting, n, M_QUEUE_SIZE, O_QUEUE_SIZE, M_DEV_QUEUE);
    spread_set(g, &running, n, M_POOL_RUNNING, O_POOL_RUNNING, M_DEV_RUNNING);
    spread_set(g, &usage, n, M_KV_USAGE, O_KV_USAGE, M_DEV_KV);
}

void status_metrics(struct gateway *g, struct http_req *r)
{
    struct buf b;

    gateway_lock(g);
    pool_gauges(g);
    metric_set(gateway_cell(g, M_L_INDEX_BLOCKS, "own", NULL),
               (double)prefix_own_blocks(g->prefix));
    metric_set(gateway_cell(g, M_PREFIX_SIZE, "llmd", "llmd"),
               (double)prefix_own_blocks(g->prefix));
    metric_set(gateway_cell(g, M_L_INDEX_BLOCKS, "cache", NULL),
               (double)prefix_cache_blocks(g->prefix));
    metric_set(gateway_cell(g, M_L_REPLICA_UP, NULL, NULL), prefix_cache_up(g->prefix));
    admit_metrics(g->policy->admission);
    gateway_unlock(g);
    if (g->access_log != NULL)
        metric_set(gateway_cell(g, M_L_LOG_DROPPED, NULL, NULL),
                   (double)access_log_dropped(g->access_log));
    buf_init(&b, PAGE_BYTES_MAX);
    metrics_render(g->metrics, &b);
    http_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", buf_view(&b), NULL);
    buf_fini(&b);
}

/* Refused, when no requests are to come here. */
static bool is_turned_away(struct gateway *g, struct http_req *r)
{
    if (g->draining)
        proxy_refuse(g, r, 503, "ServiceUnavailableError", "shutting_down",
                     "server is shutting down");
    else if (g->standby)
        proxy_refuse(g, r, 503, "ServiceUnavailableError", "standby", STANDBY);
    else
        return false;
    return true;
}

/* Ready for requests that may have to wait for the first worker (scale from zero). */
void status_serving(struct gateway *g, struct http_req *r)
{
    if (!is_turned_away(g, r))
        http_reply(r, 200, "application/json", STR("{\"status\":\"serving\"}"), NULL);
}

void status_ready(struct gateway *g, struct http_req *r)
{
    if (is_turned_away(g, r))
        return;
    if (endpoints_any_usable(g))
        http_reply(r, 200, "application/json", STR("{\"status\":\"ready\"}"), NULL);
    else
        proxy_refuse(g, r, 503, "ServiceUnavailableError", "no_endpoint",
                     "no worker is in rotation");
}
