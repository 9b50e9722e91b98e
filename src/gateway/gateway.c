/* Opening, routes, draining.
 *
 * Routes are rows; what is no row is 404.  Order of closing: the server first (its clients are
 * told through on_gone, which ends exchanges), then what exchanges hang on. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/gateway.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <stdio.h>
#include <string.h>

#define SWEEP_MS      250
#define DRAIN_LOOK_MS 20
#define DRAIN_LAST_MS 1000 /* for the last words of what the timeout ended */
#define RECEIPT_PATH  "/v1/receipts/"
#define MODEL_PATH    "/v1/models/"

struct route {
    const char *method, *path;
    bool is_proxied;
    enum route_kind kind;
    void (*page)(struct gateway *g, struct http_req *r);
};

static void page_health(struct gateway *g, struct http_req *r)
{
    (void)g;
    http_reply(r, 200, "text/plain", STR(""), NULL);
}

static void page_models(struct gateway *g, struct http_req *r)
{
    status_models(g, r, STR(""));
}

static void page_version(struct gateway *g, struct http_req *r)
{
    (void)g;
    http_reply(r, 200, "application/json", STR("{\"version\":\"" LLMD_VERSION "\"}"), NULL);
}

static const struct route routes[] = {
    { "POST", "/v1/chat/completions", true, ROUTE_CHAT, NULL },
    { "POST", "/v1/completions", true, ROUTE_COMPLETION, NULL },
    { "POST", "/v1/embeddings", true, ROUTE_OTHER, NULL },
    { "POST", "/v1/responses", true, ROUTE_OTHER, NULL },
    { "POST", "/v1/messages", true, ROUTE_OTHER, NULL },
    { "POST", "/v1/messages/count_tokens", true, ROUTE_OTHER, NULL },
    { "POST", "/tokenize", true, ROUTE_OTHER, NULL },
    { "POST", "/detokenize", true, ROUTE_OTHER, NULL },
    { "GET", "/v1/models", false, ROUTE_OTHER, page_models },
    { "GET", "/v1/status", false, ROUTE_OTHER, status_page },
    { "GET", "/health", false, ROUTE_OTHER, page_health },
    { "GET", "/ping", false, ROUTE_OTHER, page_health },
    { "GET", "/health/ready", false, ROUTE_OTHER, status_ready },
    { "GET", "/version", false, ROUTE_OTHER, page_version },
    { "GET", "/metrics", false, ROUTE_OTHER, status_metrics },
};

static bool method_fits(struct str method, const char *wanted)
{
    return str_eqz(method, wanted) || (str_eqz(method, "HEAD") && str_eqz(STR("GET"), wanted));
}

static void page_receipt(struct gateway *g, struct http_req *r, struct str id)
{
    struct str text = receipts_get(g->receipts, id);

    if (text.p != NULL)
        http_reply(r, 200, "application/json", text, NULL);
    else
        proxy_refuse(g, r, 404, "NotFoundError", "receipt_not_found",
                     "no receipt of that request is kept; the last %d are", RECEIPTS_MAX);
}

static void handle(void *ctx, struct http_req *r)
{
    struct gateway *g = ctx;
    struct str path = http_req_path(r), method = http_req_method(r);
    bool known = false;

    for (size_t i = 0; i < COUNT(routes); i++) {
        if (!str_eqz(path, routes[i].path))
            continue;
        known = true;
        if (!method_fits(method, routes[i].method))
            continue;
        if (routes[i].is_proxied)
            proxy_request(g, r, routes[i].kind, routes[i].path);
        else
            routes[i].page(g, r);
        return;
    }
    if (str_starts(path, STR(RECEIPT_PATH)) && method_fits(method, "GET"))
        page_receipt(g, r, str_sub(path, sizeof(RECEIPT_PATH) - 1, SIZE_MAX));
    else if (str_starts(path, STR(MODEL_PATH)) && path.n > sizeof(MODEL_PATH) - 1 &&
             method_fits(method, "GET"))
        status_models(g, r, str_sub(path, sizeof(MODEL_PATH) - 1, SIZE_MAX));
    else if (known)
        proxy_refuse(g, r, 405, "BadRequestError", "method_not_allowed",
                     "the method is not allowed here");
    else
        proxy_refuse(g, r, 404, "NotFoundError", "route_not_found", "there is no such route");
}

static void refused_by_server(void *ctx, int status, const char *reason)
{
    struct gateway *g = ctx;

    (void)status;
    metric_add(gateway_cell(g, M_L_REJECTED, reason, NULL), 1);
}

static void ticked(void *ctx)
{
    struct gateway *g = ctx;

    endpoints_tick(g);
    prefix_tick(g->prefix);
}

static void swept(void *ctx)
{
    proxy_sweep(ctx);
}

static void prepare_decisions(struct gateway *g)
{
    static const char *const kinds[2] = { "decode-only", "prefill-decode" };

    for (int split = 0; split < 2; split++) {
        const char *own[] = { "llmd", "cost", "", kinds[split] };
        const char *upstream[] = { "disagg-profile-handler", "disagg-profile-handler", "",
                                   kinds[split] };

        g->m_decision[split] = gateway_cell_of(g, M_DECISION, own);
        g->m_configured[split] = gateway_cell_of(g, M_DECISION, upstream);
        g->m_older_decision[split] = gateway_cell(g, O_DECISION, "", kinds[split]);
    }
    for (int i = 0; i < SCHED_STRATEGIES; i++)
        g->m_strategy[i] =
            gateway_cell(g, M_L_STRATEGY, sched_strategy_name((enum sched_strategy)i), NULL);
}

/* Families with known label values exist at zero from the start. */
static void metrics_prepare(struct gateway *g)
{
    static const char *const retries[] = { "connect", "reset", "timeout", "busy", "frozen" };

    for (size_t i = 0; sched_why_not_split[i] != NULL; i++)
        (void)gateway_cell(g, M_L_NOT_SPLIT, sched_why_not_split[i], NULL);
    for (size_t i = 0; i < COUNT(retries); i++)
        (void)gateway_cell(g, M_L_RETRIES, retries[i], NULL);
    prepare_decisions(g);
    (void)gateway_cell(g, M_L_CUT, "upstream_cut", NULL);
    metric_set(gateway_cell(g, M_INFO, LLMD_VERSION, "llmd"), 1);
    metric_set(gateway_cell(g, O_INFO, LLMD_VERSION, "llmd"), 1);
    g->m_inflight = gateway_cell(g, M_L_INFLIGHT, NULL, NULL);
}

static uint32_t or_default(uint32_t v, uint32_t other)
{
    return v != 0 ? v : other;
}

/* Without a configuration file: one band, tenants share by weight, saturation is learned. */
static void take_flow(struct gateway *g, const struct gateway_opts *o)
{
    struct sched_flow_conf *c = &g->flow_conf;

    c->enabled = true;
    c->ttl_ms = c->no_endpoint_ttl_ms = or_default(o->queue_ms, 60000);
    c->default_band.requests_max = or_default(o->queue_max, 5000);
    c->default_band.bytes_max = 1000000000;
    c->negative_band = c->default_band;
}

static void take_opts(struct gateway *g, const struct gateway_opts *o)
{
    g->conf = o->conf;
    if (g->conf.default_prefill_ms_per_token <= 0)
        sched_conf_default(&g->conf);
    g->scrape_ms = or_default(o->scrape_ms, 100);
    g->stale_ms = or_default(o->stale_ms, 1000);
    g->frozen_ms = or_default(o->frozen_ms, 3000);
    g->stuck_ms = or_default(o->stuck_ms, 15000);
    g->inflight_max = or_default(o->inflight_max, 16384);
    g->retries_max = o->retries_max == UINT32_MAX ? 0 : or_default(o->retries_max, 2);
    g->block_tokens = or_default(o->block_tokens, 16);
    g->first_byte_ms = or_default(o->first_byte_ms, 600000);
    g->gap_ms = or_default(o->gap_ms, 120000);
    g->total_ms = or_default(o->total_ms, 3600000);
    g->wait_ms = o->wait_ms == UINT32_MAX ? 0 : or_default(o->wait_ms, 3000);
    g->no_split = o->no_split;
    g->strategy = o->strategy;
    take_flow(g, o);
    g->cache = o->cache != NULL ? mem_strdup(o->cache) : NULL;
    g->started_s = clock_wall_s();
}

static int open_server(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    struct http_server_opts so = {
        .host = o->host,
        .port = o->port,
        .body_bytes_max = o->body_bytes_max,
        .bodies_bytes_max = o->bodies_bytes_max != 0 ? o->bodies_bytes_max : (size_t)512 << 20,
        .write_bytes_max = (size_t)256 << 10,
        .server_name = "llmd",
        .on_refuse = refused_by_server,
    };

    int rc = http_server_open(g->loop, &so, handle, g, &g->server, e);

    if (rc == 0)
        snprintf(g->address, sizeof(g->address), strchr(o->host, ':') != NULL ? "[%s]:%u" : "%s:%u",
                 o->host, http_server_port(g->server));
    return rc;
}

int gateway_open(struct gateway **out, struct loop *l, const struct gateway_opts *o, struct err *e)
{
    struct gateway *g = mem_zalloc(sizeof(*g));
    struct reader_opts ro = { .model = o->model,
                              .seed = o->seed,
                              .allow_special_in_content = o->allow_special_in_content };
    int rc;

    *out = NULL;
    g->loop = l;
    rng_seed(&g->rng, rng_secure_u64());
    g->metrics = gateway_metrics_new();
    g->request_metrics = request_metrics_new(g->metrics);
    take_opts(g, o);
    metrics_prepare(g);
    g->receipts = receipts_new();
    g->client = http_client_new(l);
    g->probes = http_client_new(l);
    ro.block_tokens = g->block_tokens;
    rc = reader_new(&g->reader, l, &ro, e);
    if (rc == 0 && (g->prefix = prefix_new(g, o, e)) == NULL)
        rc = e->code;
    if (rc == 0)
        rc = endpoints_set(g, o->endpoints, o->endpoint_count, e);
    g->admission = admission_new(g, &g->flow_conf, g->pipeline);
    if (rc == 0)
        rc = open_server(g, o, e);
    if (rc != 0) {
        gateway_close(g);
        return rc;
    }
    if (!reader_has_model(g->reader))
        LOG_WARN("no model file given: prompts are counted by their bytes and the cache manager's "
                 "index cannot be used; give --model");
    g->tick = loop_timer_new(l, ticked, g);
    loop_timer_arm(g->tick, 0, g->scrape_ms);
    g->sweep = loop_timer_new(l, swept, g);
    loop_timer_arm(g->sweep, SWEEP_MS, SWEEP_MS);
    *out = g;
    return 0;
}

int gateway_set_endpoints(struct gateway *g, const struct gateway_endpoint_opts *list,
                          uint32_t count, struct err *e)
{
    int rc = endpoints_set(g, list, count, e);

    if (rc == 0)
        endpoints_tick(g); /* new ones are asked at once */
    return rc;
}

uint16_t gateway_port(const struct gateway *g)
{
    return http_server_port(g->server);
}

uint32_t gateway_inflight(const struct gateway *g)
{
    return g->inflight;
}

/* ---- the end ---- */

static void drain_done(void *ctx)
{
    struct gateway *g = ctx;

    if (g->drained)
        return;
    g->drained = true;
    loop_timer_disarm(g->drain_timer);
    g->drain_fn(g->drain_ctx);
}

static void drain_timeout(void *ctx)
{
    struct gateway *g = ctx;

    if (g->inflight != 0 && !g->drain_broken) {
        g->drain_broken = true;
        LOG_WARN("shutdown timeout, ending what still runs inflight=%u", g->inflight);
        proxy_break_all(g, "shutting_down", "server is shutting down");
    }
    /* ended answers may still be on their way to slow clients */
    if ((g->inflight != 0 || http_server_unsent(g->server) != 0) &&
        clock_ms() < g->drain_until_ms) {
        loop_timer_arm(g->drain_timer, DRAIN_LOOK_MS, 0);
        return;
    }
    drain_done(g);
}

/* Not from inside an exchange's end: the timer's turn comes when nobody is on the stack. */
void gateway_exchange_ended(struct gateway *g)
{
    if (g->draining && !g->drained && g->inflight == 0 && g->drain_timer != NULL)
        loop_timer_arm(g->drain_timer, 0, 0);
}

void gateway_drain(struct gateway *g, uint32_t timeout_ms, loop_fn *fn, void *ctx)
{
    g->draining = true;
    g->drain_until_ms = clock_ms() + timeout_ms + DRAIN_LAST_MS;
    g->drain_fn = fn;
    g->drain_ctx = ctx;
    if (g->drain_timer == NULL)
        g->drain_timer = loop_timer_new(g->loop, drain_timeout, g);
    loop_timer_arm(g->drain_timer, g->inflight == 0 ? 0 : timeout_ms, 0);
}

void gateway_close(struct gateway *g)
{
    if (g == NULL)
        return;
    g->draining = g->drained = true;
    if (g->prefix != NULL)
        proxy_drop_all(g);
    http_server_close(g->server);
    http_client_free(g->client);
    admission_free(g->admission);
    endpoints_fini(g); /* asks through probes */
    http_client_free(g->probes);
    loop_timer_free(g->tick);
    loop_timer_free(g->sweep);
    loop_timer_free(g->drain_timer);
    reader_free(g->reader);
    prefix_free(g->prefix);
    receipts_free(g->receipts);
    request_metrics_free(g->request_metrics);
    metrics_free(g->metrics);
    mem_free(g->cache);
    mem_free(g);
}
