/* The worker process: bind, load in a thread, serve, drain.
 *
 * Order matters at both ends.  Start: the socket answers /health before the
 * weights are read; routes that need the model say 503 until worker_ready runs
 * on the loop.  End: readiness goes first, running requests finish within the
 * grace, then the engine stops, then the loop. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "worker/worker_priv.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BODY_BYTES_MAX ((size_t)64 << 20)
#define CONN_WRITE_MAX ((size_t)1 << 20)
#define ABORT_MS       1000

/* The catalogue's name when the file is one of its, else the file's base name. */
static void choose_name(struct worker *w)
{
    const char *base = strrchr(w->opts->model, '/');

    base = base != NULL ? base + 1 : w->opts->model;
    for (size_t i = 0; w->opts->served_model_name == NULL && catalogue_at(i) != NULL; i++)
        if (strcmp(catalogue_at(i)->file, base) == 0)
            base = catalogue_at(i)->name;
    if (w->opts->served_model_name != NULL)
        base = w->opts->served_model_name;
    snprintf(w->model_name, sizeof(w->model_name), "%s", base);
    if (w->opts->served_model_name == NULL && str_ends(str_of(w->model_name), STR(".gguf")))
        w->model_name[strlen(w->model_name) - 5] = 0;
}

/* ---- loading, in a thread of its own ---- */

static int load_text(struct worker *w, struct err *e)
{
    struct str source;
    int rc = tokenizer_new(&w->tok, w->model->gguf, e);

    if (rc != 0)
        return rc;
    if (gguf_str(w->model->gguf, "tokenizer.chat_template", &source) && source.n != 0)
        rc = chat_template_new(&w->chat, source, e);
    return rc;
}

static int load(struct worker *w, struct err *e)
{
    const struct worker_opts *o = w->opts;
    struct engine_opts eo = { .block_tokens = o->block_size,
                              .kv_bytes = o->kv_cache_bytes,
                              .max_model_len = o->max_model_len,
                              .max_num_seqs = o->max_num_seqs,
                              .max_batched_tokens = o->max_num_batched_tokens,
                              .queue_max = o->max_queue_size,
                              .step_budget_ms = 50,
                              .threads = o->threads,
                              .prefix_caching = o->prefix_caching,
                              .hash_seed = o->hash_seed,
                              .weights_fd = o->weights_fd };
    struct buf plan;
    int rc = kern_init(o->cpu, e);

    if (rc == 0)
        rc = model_open(&w->model, o->model, e);
    if (rc == 0)
        rc = load_text(w, e);
    if (rc != 0)
        return rc;
    buf_init(&plan, 65536);
    rc = engine_plan(w->model, &eo, &plan, e);
    if (rc == 0)
        fprintf(stderr, "%.*s", STR_ARG(buf_view(&plan)));
    buf_fini(&plan);
    if (rc == 0)
        rc = engine_open(&w->engine, w->model, w->tok, &eo, publisher_events, w, e);
    return rc;
}

static void worker_ready(void *ctx)
{
    struct worker *w = ctx;
    struct kvx_metrics m;
    struct err e = { 0 };

    if (w->load_error.code != 0 || w->state != WORKER_LOADING) {
        loop_stop(w->loop);
        return;
    }
    worker_kvx_metrics(w, &m);
    m.transfers_ok =
        metrics_cell(w->metrics, WM_KVX_TRANSFERS, (const char *const[]) { "send", "ok" });
    m.transfers_failed =
        metrics_cell(w->metrics, WM_KVX_TRANSFERS, (const char *const[]) { "send", "failed" });
    if (kvx_server_open(w->loop, w->engine, w->opts->host, w->opts->kvx_port, w->epoch, &m,
                        &w->kvx_server, &e) != 0) {
        w->load_error = e;
        loop_stop(w->loop);
        return;
    }
    m.transfers_ok = m.transfers_failed = NULL; /* counted with the reason in gen.c */
    w->kvx_client = kvx_client_new(w->loop, w->engine, w->epoch, &m);
    w->state = WORKER_READY;
    LOG_INFO("ready model=%s address=%s kvx_port=%u cpu=%s max_model_len=%u", w->model_name,
             w->address, kvx_server_port(w->kvx_server), kern_level_name(),
             engine_max_model_len(w->engine));
}

static void *load_thread(void *ctx)
{
    struct worker *w = ctx;
    struct err e = { 0 };

    if (load(w, &e) != 0)
        w->load_error = e; /* read by the loop after the post below */
    loop_post(w->loop, worker_ready, w);
    return NULL;
}

/* ---- ending ---- */

/* Answers must have left, and blocks that another worker is taking must have arrived. */
static void drain_check(void *ctx)
{
    struct worker *w = ctx;

    if (w->live == 0 && kvx_server_transfers(w->kvx_server) == 0 &&
        http_server_unsent(w->http) == 0)
        loop_stop(w->loop);
}

static void give_up(void *ctx)
{
    struct worker *w = ctx;

    loop_stop(w->loop);
}

/* Grace is over: what still runs is aborted, and has a moment to say so to its client. */
static void abort_rest(void *ctx)
{
    struct worker *w = ctx;

    if (w->live != 0)
        LOG_WARN("grace is over, aborting live=%u", w->live);
    else
        LOG_WARN("grace is over transfers=%u unsent_bytes=%zu", kvx_server_transfers(w->kvx_server),
                 http_server_unsent(w->http));
    gen_cancel_all(w);
    loop_timer_free(w->grace_timer);
    w->grace_timer = loop_timer_new(w->loop, give_up, w);
    loop_timer_arm(w->grace_timer, ABORT_MS, 0);
}

static void on_signal(void *ctx)
{
    struct worker *w = ctx;

    w->signals++;
    if (w->state == WORKER_LOADING)
        _exit(0); /* nothing is served yet, and packing weights cannot be interrupted */
    if (w->signals == 2)
        abort_rest(w);
    if (w->signals > 1)
        return;
    LOG_INFO("draining live=%u grace_s=%u", w->live, w->opts->shutdown_timeout_s);
    w->state = WORKER_DRAINING;
    http_server_drain(w->http);
    w->drain_timer = loop_timer_new(w->loop, drain_check, w);
    loop_timer_arm(w->drain_timer, 20, 20);
    w->grace_timer = loop_timer_new(w->loop, abort_rest, w);
    loop_timer_arm(w->grace_timer, (uint64_t)w->opts->shutdown_timeout_s * 1000 + 1, 0);
}

static void worker_close(struct worker *w)
{
    kvx_server_close(w->kvx_server);
    kvx_client_free(w->kvx_client);
    if (w->client != NULL)
        http_client_free(w->client);
    engine_close(w->engine);
    publisher_close(w->pub);
    if (w->http != NULL)
        http_server_close(w->http);
    loop_timer_free(w->drain_timer);
    loop_timer_free(w->grace_timer);
    loop_free(w->loop);
    pd_peers_free(w);
    chat_template_free(w->chat);
    tokenizer_free(w->tok);
    model_close(w->model);
    metrics_free(w->metrics);
}

static int bind_all(struct worker *w, struct err *e)
{
    const struct worker_opts *o = w->opts;
    struct http_server_opts ho = { .host = o->host,
                                   .port = o->port,
                                   /* What the door lets in, and what it adds. */
                                   .head_bytes_max = (size_t)64 << 10,
                                   .headers_max = 256,
                                   .body_bytes_max = BODY_BYTES_MAX,
                                   .write_bytes_max = CONN_WRITE_MAX,
                                   .server_name = "llmd/" LLMD_VERSION };
    int rc = loop_new(&w->loop, e);

    if (rc != 0)
        return rc;
    rc = http_server_open(w->loop, &ho, worker_handle, w, &w->http, e);
    if (rc != 0)
        return rc;
    snprintf(w->address, sizeof(w->address), strchr(o->host, ':') != NULL ? "[%s]:%u" : "%s:%u",
             o->host, http_server_port(w->http));
    w->client = http_client_new(w->loop);
    if (o->kv_events_config != NULL)
        rc = publisher_open(w, o->kv_events_config, &w->pub, e);
    if (rc == 0)
        rc = loop_signal(w->loop, SIGTERM, on_signal, w, e);
    if (rc == 0)
        rc = loop_signal(w->loop, SIGINT, on_signal, w, e);
    return rc;
}

int worker_run(const struct worker_opts *o, struct err *e)
{
    struct worker w = { .opts = o, .epoch = rng_secure_u64(), .started_s = clock_wall_s() };
    pthread_t loader;
    int rc;

    choose_name(&w);
    snprintf(w.engine_id, sizeof(w.engine_id), "%016llx%016llx", (unsigned long long)w.epoch,
             (unsigned long long)rng_secure_u64());
    w.metrics = worker_metrics_new();
    rc = bind_all(&w, e);
    if (rc == 0 && pthread_create(&loader, NULL, load_thread, &w) != 0)
        rc = err_set(e, ERR_NOMEM, "cannot start the loading thread");
    if (rc == 0) {
        LOG_INFO("listening address=%s role=%s model=%s", w.address,
                 o->role == WORKER_PREFILL  ? "prefill"
                 : o->role == WORKER_DECODE ? "decode"
                                            : "both",
                 w.model_name);
        loop_run(w.loop);
        pthread_join(loader, NULL);
        if (w.load_error.code != 0) {
            *e = w.load_error;
            rc = e->code;
        }
    }
    worker_close(&w);
    return rc;
}
