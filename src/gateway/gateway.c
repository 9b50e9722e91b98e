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
#include "gateway/access_log.h"
#include "gateway/gateway_priv.h"
#include "gateway/picker.h"
#include "net/tls.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SWEEP_MS          250
#define DRAIN_LOOK_MS     20
#define PLUGINS_BYTES_MAX ((size_t)4 << 20)
#define DRAIN_LAST_MS     1000 /* for the last words of what the timeout ended */
#define RECEIPT_PATH      "/v1/receipts/"
#define MODEL_PATH        "/v1/models/"

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

static void page_plugins(struct gateway *g, struct http_req *r)
{
    struct buf b;

    buf_init(&b, PLUGINS_BYTES_MAX);
    gateway_lock(g);
    if (g->policy->pipeline != NULL)
        sched_pipeline_dump(g->policy->pipeline, &b);
    else
        buf_z(&b, "{}");
    gateway_unlock(g);
    http_reply(r, 200, "application/json", buf_view(&b), NULL);
    buf_fini(&b);
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
    { "GET", "/healthz", false, ROUTE_OTHER, page_health },
    { "GET", "/readyz", false, ROUTE_OTHER, status_serving },
    { "GET", "/version", false, ROUTE_OTHER, page_version },
    { "GET", "/debug/plugins/state", false, ROUTE_OTHER, page_plugins },
    { "GET", "/metrics", false, ROUTE_OTHER, status_metrics },
};

static bool method_fits(struct str method, const char *wanted)
{
    return str_eqz(method, wanted) || (str_eqz(method, "HEAD") && str_eqz(STR("GET"), wanted));
}

static void page_receipt(struct gateway *g, struct http_req *r, struct str id)
{
    struct buf text;

    buf_init(&text, RECEIPT_BYTES_MAX * 2);
    if (receipts_get(g->receipts, id, &text))
        http_reply(r, 200, "application/json", buf_view(&text), NULL);
    else
        proxy_refuse(g, r, 404, "NotFoundError", "receipt_not_found",
                     "no receipt of that request is kept; the last %d are", RECEIPTS_MAX);
    buf_fini(&text);
}

static bool is_open_to_all(struct str path)
{
    return str_eqz(path, "/health") || str_eqz(path, "/ping") || str_eqz(path, "/health/ready") ||
           str_eqz(path, "/healthz") || str_eqz(path, "/readyz");
}

/* Before a body is read: who asks.  The answer does not tell what was wrong. */
static void authenticate(void *ctx, struct http_req *r)
{
    struct front *f = ctx;
    struct gateway *g = f->g;
    struct auth_identity id = { 0 };
    int status;

    if (is_open_to_all(http_req_path(r)))
        return;
    status =
        auth_check(f->auth, http_req_headers(r), http_req_peer(r), clock_ms(), clock_wall_s(), &id);
    auth_identity_put(&id);
    if (status == 0)
        return;
    metric_add(gateway_cell(g, M_L_AUTH_FAILURES, status == 429 ? "throttled" : "key", NULL), 1);
    proxy_refuse_key(f, r, status);
}

/* Pages about the system itself are the administrators'. */
static bool may_see(const struct front *f, struct http_req *r)
{
    struct str path = http_req_path(r);
    struct auth_identity id = { 0 };
    bool may;

    if (f->auth == NULL || is_open_to_all(path) || str_eqz(path, "/version") ||
        str_eqz(path, "/v1/models") || str_starts(path, STR(MODEL_PATH)))
        return true;
    may = auth_check(f->auth, http_req_headers(r), http_req_peer(r), clock_ms(), clock_wall_s(),
                     &id) == 0 &&
          id.admin;
    auth_identity_put(&id);
    return may;
}

static void handle(void *ctx, struct http_req *r)
{
    struct front *f = ctx;
    struct gateway *g = f->g;
    struct str path = http_req_path(r), method = http_req_method(r);
    bool known = false, hidden = false;

    for (size_t i = 0; i < COUNT(routes); i++) {
        if (!str_eqz(path, routes[i].path))
            continue;
        hidden = !routes[i].is_proxied && !may_see(f, r);
        if (hidden)
            break;
        known = true;
        if (!method_fits(method, routes[i].method))
            continue;
        if (routes[i].is_proxied)
            proxy_request(f, r, routes[i].kind, routes[i].path);
        else
            routes[i].page(g, r);
        return;
    }
    if (!hidden && str_starts(path, STR(RECEIPT_PATH)) && method_fits(method, "GET") &&
        may_see(f, r))
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

/* The door for scrapers and probes: nothing that costs a worker. */
static void handle_metrics(void *ctx, struct http_req *r)
{
    struct gateway *g = ctx;
    struct str path = http_req_path(r);

    if (!method_fits(http_req_method(r), "GET"))
        proxy_refuse(g, r, 405, "BadRequestError", "method_not_allowed",
                     "the method is not allowed here");
    else if (str_eqz(path, "/metrics") && (g->metrics_open || may_see(&g->front[0], r)))
        status_metrics(g, r);
    else if (str_eqz(path, "/debug/plugins/state") && may_see(&g->front[0], r))
        page_plugins(g, r);
    else if (str_eqz(path, "/healthz") || str_eqz(path, "/health"))
        page_health(g, r);
    else if (str_eqz(path, "/readyz"))
        status_serving(g, r);
    else if (str_eqz(path, "/health/ready"))
        status_ready(g, r);
    else
        proxy_refuse(g, r, 404, "NotFoundError", "route_not_found",
                     "there is /metrics, /healthz, /readyz and /debug/plugins/state");
}

static void refused_by_server(void *ctx, int status, const char *reason)
{
    const struct front *f = ctx;
    struct gateway *g = f->g;

    (void)status;
    metric_add(gateway_cell(g, M_L_REJECTED, reason, NULL), 1);
}

static void ticked(void *ctx)
{
    struct gateway *g = ctx;

    endpoints_tick(g);
    gateway_lock(g);
    prefix_tick(g->prefix);
    policies_tick(g);
    gateway_unlock(g);
    if (g->tls != NULL) {
        struct tls_info info;

        tls_server_info(g->tls, &info);
        metric_set(gateway_cell(g, M_L_CERT_EXPIRES, NULL, NULL), (double)info.not_after);
    }
    policies_pump(g, &g->front[0]); /* fresh numbers may mean room */
}

static void swept(void *ctx)
{
    struct front *f = ctx;

    proxy_sweep(f);
    if (f->traces != NULL)
        trace_exporter_tick(f->traces);
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
    g->m_decide = gateway_cell(g, M_DECIDE_SECONDS, NULL, NULL);
    g->m_older_decide = gateway_cell(g, O_DECIDE_SECONDS, NULL, NULL);
    g->m_read = gateway_cell(g, M_L_READ_SECONDS, NULL, NULL);
    g->m_request = gateway_cell(g, M_REQUEST_PROCESSING, NULL, NULL);
    g->m_response = gateway_cell(g, M_RESPONSE_PROCESSING, NULL, NULL);
    g->m_prefix = gateway_cell(g, M_PREFIX_RATIO, "llmd", "llmd");
}

static uint32_t or_default(uint32_t v, uint32_t other)
{
    return v != 0 ? v : other;
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
    g->trace_ratio = o->trace_ratio;
    g->tls = o->tls;
    g->upstream.tls = o->worker_tls;
    g->strategy_given = o->strategy_given;
    g->queue_ms = or_default(o->queue_ms, 60000);
    g->queue_max = or_default(o->queue_max, 5000);
    g->cache = o->cache != NULL ? mem_strdup(o->cache) : NULL;
    g->started_s = clock_wall_s();
}

/* Sockets that share a port would silently share it with a stranger's process, too. */
static int port_is_free(struct front *f, const struct gateway_opts *o, struct err *e)
{
    struct listener *trial;
    int rc;

    if (f->g->front_count == 1 || f->index != 0)
        return 0;
    rc = listener_open(f->loop, o->host, o->port, NULL, NULL, NULL, &trial, e);
    listener_close(trial);
    return rc;
}

static int open_server(struct front *f, const struct gateway_opts *o, struct err *e)
{
    struct gateway *g = f->g;
    struct http_server_opts so = {
        .host = o->host,
        .port = f->index == 0 ? o->port : http_server_port(g->front[0].server),
        .shares_port = g->front_count > 1,
        .body_bytes_max = o->body_bytes_max,
        .bodies_bytes_max =
            (o->bodies_bytes_max != 0 ? o->bodies_bytes_max : (size_t)512 << 20) / g->front_count,
        .write_bytes_max = (size_t)256 << 10,
        .conns_max = or_default(o->conns_max, 20000) / g->front_count,
        .tls = o->tls,
        .server_name = "llmd",
        .on_head = f->auth != NULL ? authenticate : NULL,
        .on_refuse = refused_by_server,
    };

    int rc = port_is_free(f, o, e);

    return rc != 0 ? rc : http_server_open(f->loop, &so, handle, f, &f->server, e);
}

static int open_metrics_door(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    struct http_server_opts so = { .host = o->host,
                                   .port = o->metrics_port,
                                   .body_bytes_max = 4096,
                                   .conns_max = 256,
                                   .server_name = "llmd" };

    g->metrics_open = o->metrics_open;
    return o->metrics_port == 0
               ? 0
               : http_server_open(g->front[0].loop, &so, handle_metrics, g, &g->metrics_door, e);
}

/* Any thread: bodies may be read on one of their own. */
static struct str rewrite(void *ctx, struct str model, char out[READER_NAME_MAX + 1])
{
    struct gateway *g = ctx;
    struct str target, rule, made = STR_NONE;

    gateway_lock(g);
    if (model.p != NULL && objects_rewrite(g->objects, model, &g->rng, &target, &rule) &&
        target.n <= READER_NAME_MAX && !str_eq(target, model)) {
        char *name = str_dup(rule), *from = str_dup(model), *to = str_dup(target);
        const char *v[] = { name, from, to };

        snprintf(out, READER_NAME_MAX + 1, "%s", to);
        made = str_of(out);
        metric_add(gateway_cell_of(g, M_REWRITES, v), 1);
        mem_free(name);
        mem_free(from);
        mem_free(to);
    }
    gateway_unlock(g);
    return made;
}

int gateway_set_config(struct gateway *g, struct sched_config *config, struct err *e)
{
    int rc = upstream_set(g, config, e);

    if (rc == 0)
        policy_set(g, config);
    else
        sched_config_free(config);
    return rc;
}

void gateway_set_objects(struct gateway *g, struct objects *objects)
{
    gateway_lock(g);
    objects_free(g->objects);
    g->objects = objects;
    gateway_unlock(g);
}

static int open_picker(struct front *f, const struct gateway_opts *o, struct err *e)
{
    struct gateway *g = f->g;
    struct picker_opts po = {
        .host = o->host,
        .port = f->index == 0 ? o->grpc_port : picker_port(g->front[0].picker),
        .health_port = f->index == 0 ? o->grpc_health_port : PICKER_NO_PORT,
        .shares_port = g->front_count > 1,
        .tls = o->grpc_tls,
        .body_bytes_max = o->body_bytes_max,
    };

    return picker_open(&f->picker, f, &po, e);
}

static int open_front(struct gateway *g, uint32_t i, struct loop *l, const struct gateway_opts *o,
                      struct err *e)
{
    struct front *f = &g->front[i];
    struct reader_opts ro = { .share = i != 0 ? g->front[0].reader : NULL,
                              .model = o->model,
                              .seed = o->seed,
                              .block_tokens = g->block_tokens,
                              .allow_special_in_content = o->allow_special_in_content,
                              .rewrite = rewrite,
                              .rewrite_ctx = g };
    struct auth_opts ao = { .key_file = o->key_file, .admin_key_file = o->admin_key_file };
    int rc;

    f->g = g;
    f->index = i;
    f->loop = l;
    rng_seed(&f->rng, rng_secure_u64());
    f->oldest_ns = clock_ns();
    f->client = http_client_new(l);
    f->request_metrics = request_metrics_new(g->metrics);
    rc = reader_new(&f->reader, l, &ro, e);
    if (rc == 0 && o->traces != NULL)
        rc = trace_exporter_new(&f->traces, l, o->traces, "llm-d-epp",
                                gateway_cell(g, M_L_SPANS, "exported", NULL),
                                gateway_cell(g, M_L_SPANS, "dropped", NULL), e);
    if (rc == 0 && (o->key_file != NULL || o->admin_key_file != NULL))
        rc = auth_open(l, &ao, &f->auth, e);
    if (rc == 0)
        rc = open_server(f, o, e);
    if (rc == 0 && o->is_picker)
        rc = open_picker(f, o, e);
    if (rc != 0)
        return rc;
    f->sweep = loop_timer_new(l, swept, f);
    loop_timer_arm(f->sweep, SWEEP_MS, SWEEP_MS);
    return 0;
}

static int open_shared(struct gateway *g, const struct gateway_opts *o, struct err *e)
{
    int rc = 0;

    g->objects = o->objects;
    if (g->objects == NULL)
        rc = objects_load(&g->objects, STR_NONE, "", NULL, 0, e);
    if (rc != 0)
        return rc;
    g->prefix = prefix_new(g, o, e);
    if (g->prefix == NULL)
        return e->code;
    rc = endpoints_set(g, o->endpoints, o->endpoint_count, e);
    g->knows_pool = !o->endpoints_follow;
    if (rc == 0 && o->access_log != NULL)
        rc = access_log_open(&g->access_log, o->access_log, e);
    return rc;
}

int gateway_open(struct gateway **out, struct loop *const *loops, uint32_t count,
                 const struct gateway_opts *o, struct err *e)
{
    struct gateway *g = mem_zalloc(sizeof(*g));
    int rc;

    *out = NULL;
    pthread_mutex_init(&g->lock, NULL);
    g->front = mem_zalloc(count * sizeof(*g->front));
    for (uint32_t i = 0; i < count; i++)
        g->front[i].loop = loops[i];
    g->front_count = count;
    rng_seed(&g->rng, rng_secure_u64());
    g->metrics = gateway_metrics_new();
    take_opts(g, o);
    metrics_prepare(g);
    g->receipts = receipts_new();
    g->limiter = limiter_new();
    g->probes = http_client_new(loops[0]);
    rc = open_shared(g, o, e);
    if (rc == 0)
        rc = upstream_set(g, o->config, e);
    policy_set(g, o->config);
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = open_front(g, i, loops[i], o, e);
    if (rc == 0)
        rc = open_metrics_door(g, o, e);
    if (rc != 0) {
        gateway_close(g);
        return rc;
    }
    snprintf(g->address, sizeof(g->address), strchr(o->host, ':') != NULL ? "[%s]:%u" : "%s:%u",
             o->host, gateway_port(g));
    if (!reader_has_model(g->front[0].reader))
        LOG_WARN("no model file given: prompts are counted by their bytes and the cache manager's "
                 "index cannot be used; give --model");
    g->tick = loop_timer_new(loops[0], ticked, g);
    loop_timer_arm(g->tick, 0, g->scrape_ms);
    *out = g;
    return 0;
}

int gateway_set_endpoints(struct gateway *g, const struct gateway_endpoint_opts *list,
                          uint32_t count, struct err *e)
{
    int rc = endpoints_set(g, list, count, e);

    if (rc == 0) {
        g->knows_pool = true;
        endpoints_tick(g); /* new ones are asked at once */
    }
    return rc;
}

void gateway_reopen_log(struct gateway *g)
{
    if (g->access_log != NULL)
        access_log_reopen(g->access_log);
}

void gateway_reloaded(struct gateway *g, const char *file, bool is_taken)
{
    metric_add(gateway_cell(g, is_taken ? M_L_RELOADS : M_L_RELOAD_FAILURES, file, NULL), 1);
}

static void unused_free(struct gateway *g)
{
    for (uint32_t i = 0; i < g->unused_count; i++)
        mem_free(g->unused[i]);
    mem_free(g->unused);
    g->unused = NULL;
    g->unused_count = 0;
}

void gateway_set_unused(struct gateway *g, const struct gateway_unused *list, uint32_t count)
{
    gateway_lock(g);
    unused_free(g);
    if (count != 0)
        g->unused = mem_zalloc(count * sizeof(char *));
    for (uint32_t i = 0; i < count; i++) {
        size_t n = strlen(list[i].id) + 1, m = strlen(list[i].reason) + 1;

        g->unused[i] = mem_alloc(n + m);
        memcpy(g->unused[i], list[i].id, n);
        memcpy(g->unused[i] + n, list[i].reason, m);
    }
    g->unused_count = count;
    gateway_unlock(g);
}

void gateway_discovery(struct gateway *g, const char *what, bool is_followed, uint64_t errors,
                       int has_kind)
{
    metric_set(gateway_cell(g, M_L_FOLLOWED, what, NULL), is_followed);
    metric_add(gateway_cell(g, M_L_FOLLOW_ERRORS, what, NULL), (double)errors);
    if (has_kind >= 0)
        metric_set(gateway_cell(g, M_CRD_PRESENT, what, NULL), has_kind);
}

void gateway_set_leading(struct gateway *g, bool leads, const char *name)
{
    g->standby = !leads;
    metric_set(gateway_cell(g, M_LEADS, name, NULL), leads);
}

bool gateway_any_usable(struct gateway *g)
{
    return endpoints_any_usable(g);
}

uint16_t gateway_grpc_port(const struct gateway *g)
{
    return g->front[0].picker != NULL ? picker_port(g->front[0].picker) : 0;
}

uint16_t gateway_port(const struct gateway *g)
{
    return http_server_port(g->front[0].server);
}

uint32_t gateway_inflight(const struct gateway *g)
{
    return g->inflight;
}

/* ---- the end ---- */

static void drain_done(struct gateway *g)
{
    if (g->drained)
        return;
    g->drained = true;
    loop_timer_disarm(g->drain_timer);
    g->drain_fn(g->drain_ctx);
}

static void break_front(void *ctx)
{
    proxy_break_all(ctx, "shutting_down", "server is shutting down");
}

/* Bytes that slow clients have not taken yet; the other loops' are given their time. */
static bool has_unsent(const struct gateway *g)
{
    return http_server_unsent(g->front[0].server) != 0 ||
           (g->front_count > 1 && clock_ms() + DRAIN_LAST_MS / 2 < g->drain_until_ms);
}

static void drain_timeout(void *ctx)
{
    struct gateway *g = ctx;
    uint64_t now = clock_ms();

    if (g->inflight != 0 && !g->drain_broken && now + DRAIN_LAST_MS >= g->drain_until_ms) {
        g->drain_broken = true;
        LOG_WARN("shutdown timeout, ending what still runs inflight=%" PRIu32,
                 (uint32_t)g->inflight);
        for (uint32_t i = 0; i < g->front_count; i++)
            loop_post(g->front[i].loop, break_front, &g->front[i]);
    }
    if ((g->inflight != 0 || (g->drain_broken && has_unsent(g))) && now < g->drain_until_ms) {
        loop_timer_arm(g->drain_timer, DRAIN_LOOK_MS, 0);
        return;
    }
    drain_done(g);
}

static void drain_look(void *ctx)
{
    struct gateway *g = ctx;

    if (!g->drained && g->drain_timer != NULL)
        loop_timer_arm(g->drain_timer, 0, 0);
}

/* Not from inside an exchange's end: the timer's turn comes when nobody is on the stack. */
void gateway_exchange_ended(struct gateway *g)
{
    if (g->draining && g->inflight == 0)
        loop_post(g->front[0].loop, drain_look, g);
}

void gateway_drain(struct gateway *g, uint32_t timeout_ms, loop_fn *fn, void *ctx)
{
    g->draining = true;
    g->drain_until_ms = clock_ms() + timeout_ms + DRAIN_LAST_MS;
    g->drain_fn = fn;
    g->drain_ctx = ctx;
    if (g->drain_timer == NULL)
        g->drain_timer = loop_timer_new(g->front[0].loop, drain_timeout, g);
    loop_timer_arm(g->drain_timer, g->inflight == 0 ? 0 : timeout_ms, 0);
}

static void close_front(struct front *f)
{
    picker_close(f->picker);
    http_server_close(f->server);
    auth_close(f->auth);
    http_client_free(f->client);
    loop_timer_free(f->sweep);
    reader_free(f->reader);
    trace_exporter_free(f->traces);
    request_metrics_free(f->request_metrics);
}

void gateway_close(struct gateway *g)
{
    if (g == NULL)
        return;
    g->draining = g->drained = true;
    if (g->metrics_door != NULL)
        http_server_close(g->metrics_door);
    for (uint32_t i = 0; i < g->front_count; i++)
        proxy_drop_all(&g->front[i]);
    for (uint32_t i = 0; i < g->front_count; i++)
        close_front(&g->front[i]);
    endpoints_fini(g); /* asks through probes */
    policies_fini(g);
    objects_free(g->objects);
    http_client_free(g->probes);
    upstream_fini(g);
    loop_timer_free(g->tick);
    loop_timer_free(g->drain_timer);
    prefix_free(g->prefix);
    access_log_close(g->access_log);
    receipts_free(g->receipts);
    limiter_free(g->limiter);
    metrics_free(g->metrics);
    pthread_mutex_destroy(&g->lock);
    unused_free(g);
    mem_free(g->front);
    mem_free(g->cache);
    mem_free(g);
}
