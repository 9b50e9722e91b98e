/* llmd scheduler: the front door. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/cpus.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/sched_files.h"
#include "cmd/sched_flags.h"
#include "cmd/sched_kube.h"
#include "gateway/gateway.h"
#include "model/model.h"
#include "net/conn.h"
#include "net/tls.h"
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#define LOOPS_MAX     64
#define LOOPS_OWN_MAX 8 /* by themselves: past it they would mostly wait for their lock */

struct opts {
    const char *listen, *cache, *model, *seed, *log_level;
    const char *config_file, *config_text, *endpoints_file, *objects_file, *strategy, *access_log;
    const char *traces, *tls_dir, *cert_path, *key_file, *admin_key_file;
    struct opt_list endpoints, dns, aliases;
    struct kube_flags kube;
    uint32_t dns_ms, loops, queue_max, queue_ms, conns_max, grpc_port, grpc_health_port;
    double trace_ratio;
    const char *worker_ca, *worker_cert_dir, *worker_name;
    bool worker_tls, worker_verify;
    uint32_t metrics_port;
    bool metrics_auth, allow_experimental, secure_serving, tls_self_signed;
    uint32_t scrape_ms, stale_ms, frozen_ms, stuck_ms, inflight_max, retries_max, block_size;
    uint32_t first_byte_ms, gap_ms, total_ms, wait_ms, shutdown_s, split_min_tokens;
    uint64_t body_bytes_max, bodies_bytes_max;
    double prefill_ms, decode_ms;
    bool split, allow_special, insecure, elects;
};

#define AT(f) offsetof(struct opts, f)

static const struct opt_desc table[] = {
    { "listen", OPT_STR, AT(listen), "127.0.0.1:8080", "ADDR:PORT", 0, 0,
      "where clients connect; port 0 = any free" },
    { "endpoint", OPT_LIST, AT(endpoints), NULL, "ADDR:PORT[=ROLE]", 0, 0,
      "a worker, may be repeated; ROLE: both, prefill or decode" },
    { "endpoint-dns", OPT_LIST, AT(dns), NULL, "NAME:PORT[=ROLE]", 0, 0,
      "every address that the name resolves to is a worker, asked for again and again; may be "
      "repeated" },
    { "dns-ms", OPT_U32, AT(dns_ms), "5000", "MS", 100, 3600000, "how often names are resolved" },
    { "config-file", OPT_STR, AT(config_file), NULL, "FILE", 0, 0,
      "llm-d's EndpointPickerConfig (YAML): its plugins decide; read again when it changes" },
    { "config-text", OPT_STR, AT(config_text), NULL, "YAML", 0, 0, "the same, given here" },
    { "allow-experimental-plugins", OPT_BOOL, AT(allow_experimental), "false", NULL, 0, 0,
      "let a configuration use plugins that llm-d calls Alpha" },
    { "endpoints-file", OPT_STR, AT(endpoints_file), NULL, "FILE", 0, 0,
      "workers in llm-d's file discovery format, beside --endpoint; read again when it changes" },
    { "objects-file", OPT_STR, AT(objects_file), NULL, "FILE", 0, 0,
      "InferenceModelRewrite and InferenceObjective objects; read again when it changes" },
    KUBE_FLAGS(struct opts),
    { "ha-enable-leader-election", OPT_BOOL, AT(elects), "false", NULL, 0, 0,
      "Kubernetes: of several replicas one is ready, the one that holds a Lease; without it all "
      "are" },
    { "model-alias", OPT_LIST, AT(aliases), NULL, "NAME=TARGET", 0, 0,
      "a further name of a model, may be repeated" },
    { "strategy", OPT_STR, AT(strategy), NULL, "NAME", 0, 0,
      "cost (the default), config (the default with a configuration), round_robin, random, "
      "least_requests; the header x-llmd-strategy chooses for one request" },
    { "loops", OPT_U32, AT(loops), "0", "N", 0, 64,
      "event loops, each on a thread; 0 = one per CPU that it may use, at most 8" },
    { "queue-max", OPT_U32, AT(queue_max), "5000", "N", 1, 1000000,
      "requests of a priority that wait while all workers are full; past it 429" },
    { "queue-ms", OPT_U32, AT(queue_ms), "60000", "MS", 1, 3600000,
      "longest wait there; past it 429" },
    { "grpc-port", OPT_U32, AT(grpc_port), "0", "PORT", 0, 65535,
      "serve Envoy's ext_proc there (llm-d's port is 9002); 0 = off" },
    { "grpc-health-port", OPT_U32, AT(grpc_health_port), "0", "PORT", 0, 65535,
      "plain-text gRPC health there (llm-d's port is 9003); 0 = on the ext_proc port only" },
    { "metrics-port", OPT_U32, AT(metrics_port), "0", "PORT", 0, 65535,
      "/metrics, /healthz and /readyz in plain text there, too (llm-d's port is 9090); 0 = off" },
    { "metrics-endpoint-auth", OPT_BOOL, AT(metrics_auth), "true", NULL, 0, 0,
      "once there are keys, /metrics needs an administrator's (--no-metrics-endpoint-auth: not on "
      "--metrics-port)" },
    { "secure-serving", OPT_BOOL, AT(secure_serving), "false", NULL, 0, 0,
      "TLS on the ext_proc port: --cert-path's certificate, or one made at the start" },
    { "cert-path", OPT_STR, AT(cert_path), NULL, "DIR", 0, 0,
      "tls.crt and tls.key of the ext_proc port; read again when they change" },
    { "api-key-file", OPT_STR, AT(key_file), NULL, "FILE", 0, 0,
      "API keys by tenant (llmd key new): without a good one 401; read again when it changes" },
    { "admin-key-file", OPT_STR, AT(admin_key_file), NULL, "FILE", 0, 0,
      "keys of administrators: metrics, status and receipts, once there are keys" },
    { "tls-dir", OPT_STR, AT(tls_dir), NULL, "DIR", 0, 0,
      "TLS on --listen with tls.crt and tls.key from there; read again when they change" },
    { "tls-self-signed", OPT_BOOL, AT(tls_self_signed), "false", NULL, 0, 0,
      "TLS on --listen with a certificate made at the start" },
    { "worker-tls", OPT_BOOL, AT(worker_tls), "false", NULL, 0, 0,
      "speak TLS to workers, with requests and scrapes" },
    { "worker-ca", OPT_STR, AT(worker_ca), NULL, "FILE", 0, 0,
      "PEM authorities of their certificates; read again when it changes; default: the system's" },
    { "worker-name", OPT_STR, AT(worker_name), NULL, "NAME", 0, 0,
      "the name that their certificates are for; default: each one's own address" },
    { "worker-verify", OPT_BOOL, AT(worker_verify), "true", NULL, 0, 0,
      "check their certificates (--no-worker-verify: any will do, such as self-signed ones)" },
    { "worker-cert-dir", OPT_STR, AT(worker_cert_dir), NULL, "DIR", 0, 0,
      "tls.crt and tls.key that we show to workers which ask for one" },
    { "access-log", OPT_STR, AT(access_log), NULL, "FILE", 0, 0,
      "a JSON line for each request, without its text; - is standard output" },
    { "otlp-endpoint", OPT_STR, AT(traces), NULL, "URL", 0, 0,
      "send spans to this OpenTelemetry collector (OTLP over HTTP), such as "
      "http://127.0.0.1:4318" },
    { "trace-ratio", OPT_F64, AT(trace_ratio), "0.1", "R", 0, 0,
      "share of the requests that are traced when the client did not say" },
    { "max-connections", OPT_U32, AT(conns_max), "20000", "N", 1, 1000000, "client connections" },
    { "cache", OPT_STR, AT(cache), NULL, "ADDR:PORT", 0, 0,
      "the cache manager, whose index is followed" },
    { "model", OPT_STR, AT(model), NULL, "FILE|DIR|NAME", 0, 0,
      "the workers' model, for its tokenizer and chat template: a GGUF file, or a folder with "
      "tokenizer.json; without it prompts are estimated" },
    { "index-seed", OPT_STR, AT(seed), "", "TEXT", 0, 0,
      "seed of the index's keys, as the cache manager has it" },
    { "block-size", OPT_U32, AT(block_size), "16", "N", 1, 256, "tokens per block of the index" },
    { "scrape-ms", OPT_U32, AT(scrape_ms), "100", "MS", 5, 60000,
      "worker poll period; an idle one is asked at every fourth" },
    { "stale-ms", OPT_U32, AT(stale_ms), "1000", "MS", 50, 60000,
      "no scrape answered for so long: used only if nobody else is there" },
    { "frozen-ms", OPT_U32, AT(frozen_ms), "3000", "MS", 100, 600000,
      "no scrape answered for so long: out, and its silent streams are ended" },
    { "stuck-ms", OPT_U32, AT(stuck_ms), "15000", "MS", 1000, 600000,
      "a worker that says it made no progress for so long is out" },
    { "max-inflight", OPT_U32, AT(inflight_max), "16384", "N", 1, 1000000,
      "unfinished requests; past it 429" },
    { "max-retries", OPT_U32, AT(retries_max), "2", "N", 0, 10,
      "further attempts at other workers before the first byte" },
    { "wait-ms", OPT_U32, AT(wait_ms), "3000", "MS", 0, 600000,
      "with nobody in rotation, wait so long for a worker: one that was there until lately, or the "
      "first one (scale from zero)" },
    { "first-byte-ms", OPT_U32, AT(first_byte_ms), "600000", "MS", 100, 3600000,
      "longest wait for a worker's first byte" },
    { "gap-ms", OPT_U32, AT(gap_ms), "120000", "MS", 100, 3600000,
      "longest silence within an answer" },
    { "request-ms", OPT_U32, AT(total_ms), "3600000", "MS", 1000, 86400000, "longest request" },
    { "max-body-bytes", OPT_U64, AT(body_bytes_max), "16777216", "N", 1024, 1073741824,
      "largest request body" },
    { "max-bodies-bytes", OPT_U64, AT(bodies_bytes_max), "536870912", "N", 1024, 0,
      "all request bodies being held; past it 503" },
    { "split", OPT_BOOL, AT(split), "true", NULL, 0, 0,
      "let a prefill worker compute long prompts for a decode worker (--no-split)" },
    { "split-min-tokens", OPT_U32, AT(split_min_tokens), "128", "N", 1, 0,
      "uncached prompts shorter than this are never split" },
    { "prefill-ms-per-token", OPT_F64, AT(prefill_ms), "2", "MS", 0, 0,
      "assumed until a worker's answers teach better" },
    { "decode-ms-per-token", OPT_F64, AT(decode_ms), "20", "MS", 0, 0,
      "assumed until a worker's answers teach better" },
    { "allow-special-in-content", OPT_BOOL, AT(allow_special), "false", NULL, 0, 0,
      "as the workers have it" },
    { "shutdown-timeout", OPT_U32, AT(shutdown_s), "30", "SECONDS", 0, 3600,
      "grace for running requests after SIGTERM" },
    { "log-level", OPT_STR, AT(log_level), "info", "LEVEL", 0, 0, "error, warn, info, debug" },
    { "insecure", OPT_BOOL, AT(insecure), "false", NULL, 0, 0,
      "allow listening beyond loopback without keys and TLS" },
};

/* A leader that ends still takes requests until the next one has the Lease (at once, or 2 s when it
 * does not see that), is found to be ready (another 2 s) and proxies know. */
#define HANDOVER_MS 5000

struct daemon {
    struct loop *loop;
    struct gateway *gateway;
    struct sched_kube *kube;
    uint32_t shutdown_ms;
    uint32_t ends;               /* that are waited for before it stops */
    struct loop_timer *handover; /* from leading to draining */
    bool stopping;
};

static void ended(struct daemon *d)
{
    if (--d->ends == 0)
        loop_stop(d->loop);
}

static void drained(void *ctx)
{
    LOG_INFO("scheduler drained");
    ended(ctx);
}

static void resigned(void *ctx)
{
    ended(ctx);
}

static void drain(void *ctx)
{
    struct daemon *d = ctx;

    LOG_INFO("scheduler draining inflight=%u timeout_ms=%u", gateway_inflight(d->gateway),
             d->shutdown_ms);
    gateway_drain(d->gateway, d->shutdown_ms, drained, d);
}

static void signalled(void *ctx)
{
    struct daemon *d = ctx;

    if (d->stopping) {
        LOG_WARN("second signal, leaving at once inflight=%u", gateway_inflight(d->gateway));
        loop_stop(d->loop);
        return;
    }
    d->stopping = true;
    d->ends = 2;
    if (sched_kube_resign(d->kube, resigned, d)) {
        d->handover = loop_timer_new(d->loop, drain, d);
        loop_timer_arm(d->handover, HANDOVER_MS, 0);
    } else {
        drain(d);
    }
}

/* A long prompt takes and gives back a few buffers of its size.  With the allocator's own limits
 * each of them is mapped, faulted in and unmapped anew: 40 % of the time of a 100k-token request.
 */
static void keep_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

static int open_worker_tls(const struct opts *o, struct loop *l, struct gateway_opts *go,
                           struct err *e)
{
    struct tls_client_opts t = { .ca_file = o->worker_ca,
                                 .server_name = o->worker_name,
                                 .skip_verify = !o->worker_verify };
    char cert[4096], key[4096];

    if (!o->worker_tls)
        return o->worker_ca == NULL && o->worker_name == NULL && o->worker_verify &&
                       o->worker_cert_dir == NULL
                   ? 0
                   : err_set(e, ERR_INVAL,
                             "--worker-ca, --worker-name, --worker-cert-dir and --no-worker-verify "
                             "need --worker-tls");
    if (o->worker_cert_dir != NULL) {
        snprintf(cert, sizeof(cert), "%s/tls.crt", o->worker_cert_dir);
        snprintf(key, sizeof(key), "%s/tls.key", o->worker_cert_dir);
        t.cert_file = cert;
        t.key_file = key;
    }
    return tls_client_open(l, &t, &go->worker_tls, e);
}

static int open_tls(const struct opts *o, struct loop *l, struct gateway_opts *go, struct err *e)
{
    struct tls_server_opts door = { .dir = o->tls_dir,
                                    .self_signed = o->tls_dir == NULL,
                                    .alpn = "http/1.1" };
    struct tls_server_opts grpc = { .dir = o->cert_path,
                                    .self_signed = o->cert_path == NULL,
                                    .alpn = "h2" };
    int rc = 0;

    if (o->tls_dir != NULL || o->tls_self_signed)
        rc = tls_server_open(l, &door, &go->tls, e);
    if (rc == 0 && o->grpc_port != 0 && (o->secure_serving || o->cert_path != NULL))
        rc = tls_server_open(l, &grpc, &go->grpc_tls, e);
    return rc != 0 ? rc : open_worker_tls(o, l, go, e);
}

static void *run_loop(void *ctx)
{
    loop_run(ctx);
    return NULL;
}

static void stop_loop(void *ctx)
{
    loop_stop(ctx);
}

/* The first loop runs here, the others on threads of their own until it has stopped. */
static int run_loops(struct loop **loops, uint32_t count, struct err *e)
{
    pthread_t thread[LOOPS_MAX];
    uint32_t n = 1;
    int rc = 0;

    for (; n < count && rc == 0; n++)
        if (pthread_create(&thread[n], NULL, run_loop, loops[n]) != 0)
            rc = err_set(e, ERR_NOMEM, "cannot start the thread of loop %u", n);
    n -= rc != 0;
    if (rc == 0)
        loop_run(loops[0]);
    for (uint32_t i = 1; i < n; i++) {
        loop_post(loops[i], stop_loop, loops[i]);
        pthread_join(thread[i], NULL);
    }
    return rc;
}

static void rotated(void *ctx)
{
    struct daemon *d = ctx;

    gateway_reopen_log(d->gateway);
}

/* What was loaded for a gateway that did not come to be. */
static void give_back(struct gateway_opts *go)
{
    sched_config_free(go->config);
    objects_free(go->objects);
    go->config = NULL;
    go->objects = NULL;
}

static int open_all(struct daemon *d, const struct opts *o, struct gateway_opts *go,
                    struct loop **loops, uint32_t count, struct err *e)
{
    int rc = open_tls(o, loops[0], go, e);

    if (rc != 0)
        give_back(go);
    else
        rc = gateway_open(&d->gateway, loops, count, go, e);
    if (rc == 0)
        rc = loop_signal(loops[0], SIGTERM, signalled, d, e);
    if (rc == 0)
        rc = loop_signal(loops[0], SIGINT, signalled, d, e);
    if (rc == 0)
        rc = loop_signal(loops[0], SIGHUP, rotated, d, e);
    return rc;
}

static int open_kube(struct daemon *d, const struct opts *o, struct err *e)
{
    struct sched_kube_opts k = { .flags = &o->kube,
                                 .objects = o->objects_file == NULL,
                                 .elects = o->elects,
                                 .alias = o->aliases.item,
                                 .alias_count = o->aliases.count };

    if (o->elects && !kube_flags_given(&o->kube))
        LOG_WARN("--ha-enable-leader-election has no effect here: workers do not come from "
                 "Kubernetes (--pool-name, --endpoint-selector)");
    return kube_flags_given(&o->kube) ? sched_kube_open(d->loop, d->gateway, &k, &d->kube, e) : 0;
}

static int serve(const struct opts *o, struct gateway_opts *go, struct sched_files *files,
                 struct err *e)
{
    struct daemon d = { .shutdown_ms = o->shutdown_s * 1000 };
    uint32_t count = o->loops != 0 ? o->loops : MIN(cpus_allowed(), (uint32_t)LOOPS_OWN_MAX);
    struct loop *loops[LOOPS_MAX] = { NULL };
    int rc = 0;

    count = MIN(count, (uint32_t)LOOPS_MAX);
    keep_memory();
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = loop_new(&loops[i], e);
    d.loop = loops[0];
    if (rc == 0)
        rc = open_all(&d, o, go, loops, count, e);
    if (rc == 0)
        rc = open_kube(&d, o, e);
    if (rc == 0) {
        sched_files_watch(files, loops[0], d.gateway);
        LOG_INFO("scheduler listening address=%s:%u tls=%s grpc=%u endpoints=%u strategy=%s "
                 "model=%s cache=%s loops=%u",
                 go->host, gateway_port(d.gateway), go->tls != NULL ? "on" : "off",
                 gateway_grpc_port(d.gateway), go->endpoint_count,
                 go->strategy_given   ? sched_strategy_name(go->strategy)
                 : go->config != NULL ? "config"
                                      : "cost",
                 go->model != NULL ? go->model : "none", go->cache != NULL ? go->cache : "none",
                 count);
        rc = run_loops(loops, count, e);
    }
    loop_timer_free(d.handover);
    sched_files_free(files);
    sched_kube_close(d.kube);
    gateway_close(d.gateway);
    tls_server_close(go->tls);
    tls_server_close(go->grpc_tls);
    tls_client_close(go->worker_tls);
    for (uint32_t i = 0; i < count; i++)
        if (loops[i] != NULL)
            loop_free(loops[i]);
    return rc;
}

static int start_log(const struct opts *o, struct err *e)
{
    enum log_level level;

    if (!log_level_parse(str_of(o->log_level), &level))
        return err_set(e, ERR_INVAL, "--log-level: must be error, warn, info or debug, not '%s'",
                       o->log_level);
    log_init("scheduler", level);
    return 0;
}

static int prepare(const struct opts *o, struct gateway_opts *go, char host[256], struct buf *path,
                   struct err *e)
{
    if (addr_parse(str_of(o->listen), host, &go->port, e) != 0 ||
        cmd_check_listen(host,
                         o->insecure ||
                             (o->key_file != NULL && (o->tls_dir != NULL || o->tls_self_signed)),
                         e) != 0)
        return e->code;
    if (o->prefill_ms <= 0 || o->decode_ms <= 0)
        return err_set(e, ERR_INVAL,
                       "--prefill-ms-per-token and --decode-ms-per-token must be above 0");
    if (o->stale_ms > o->frozen_ms)
        return err_set(e, ERR_INVAL, "--stale-ms must not be above --frozen-ms");
    if (o->model != NULL) {
        if (catalogue_resolve_text(str_of(o->model), path, e) != 0)
            return e->code;
        buf_c(path, 0);
        go->model = path->p;
    }
    go->host = host;
    go->cache = o->cache;
    go->seed = o->seed;
    go->block_tokens = o->block_size;
    go->scrape_ms = o->scrape_ms;
    go->stale_ms = o->stale_ms;
    go->frozen_ms = o->frozen_ms;
    go->stuck_ms = o->stuck_ms;
    go->inflight_max = o->inflight_max;
    go->retries_max = o->retries_max == 0 ? UINT32_MAX : o->retries_max;
    go->wait_ms = o->wait_ms == 0 ? UINT32_MAX : o->wait_ms;
    go->first_byte_ms = o->first_byte_ms;
    go->gap_ms = o->gap_ms;
    go->total_ms = o->total_ms;
    go->body_bytes_max = o->body_bytes_max;
    go->bodies_bytes_max = o->bodies_bytes_max;
    if (o->strategy != NULL) {
        go->strategy_given = true;
        if (!sched_strategy_parse(str_of(o->strategy), &go->strategy))
            return err_set(e, ERR_INVAL,
                           "--strategy: must be cost, config, round_robin, random or "
                           "least_requests, not '%s'",
                           o->strategy);
        if (go->strategy == SCHED_CONFIGURED && go->config == NULL)
            return err_set(e, ERR_INVAL, "--strategy config needs --config-file");
    }
    if (o->trace_ratio < 0 || o->trace_ratio > 1)
        return err_set(e, ERR_INVAL, "--trace-ratio: must be 0..1");
    go->queue_max = o->queue_max;
    go->queue_ms = o->queue_ms;
    go->conns_max = o->conns_max;
    go->access_log = o->access_log;
    go->traces = o->traces;
    go->key_file = o->key_file;
    go->admin_key_file = o->admin_key_file;
    go->trace_ratio = o->trace_ratio;
    go->is_picker = o->grpc_port != 0;
    go->metrics_port = (uint16_t)o->metrics_port;
    go->metrics_open = !o->metrics_auth;
    go->grpc_port = (uint16_t)o->grpc_port;
    go->grpc_health_port = o->grpc_health_port != 0 ? (uint16_t)o->grpc_health_port : UINT16_MAX;
    go->no_split = !o->split;
    go->allow_special_in_content = o->allow_special;
    sched_conf_default(&go->conf);
    go->conf.split_min_tokens = o->split_min_tokens;
    go->conf.default_prefill_ms_per_token = o->prefill_ms;
    go->conf.default_decode_ms_per_token = o->decode_ms;
    return 0;
}

static int run(const struct sched_words *words)
{
    struct opts o = { 0 };
    struct gateway_opts go = { 0 };
    struct sched_files *files = NULL;
    struct sched_files_opts fo;
    struct err e = { 0 };
    char host[256];
    struct buf path;
    int rc =
        cmd_options("usage: llmd scheduler --endpoint ADDR:PORT[=ROLE] ... | --endpoints-file "
                    "FILE [--config-file FILE] [--cache ADDR:PORT] [--model FILE|NAME] [FLAGS]",
                    &o, table, COUNT(table), words->count, words->word, NULL);

    if (rc >= 0)
        return rc;
    buf_init(&path, 4096);
    fo = (struct sched_files_opts) { .config_file = o.config_file,
                                     .config_text = o.config_text,
                                     .endpoints_file = o.endpoints_file,
                                     .objects_file = o.objects_file,
                                     .aliases = o.aliases,
                                     .endpoints = o.endpoints,
                                     .dns = o.dns,
                                     .dns_ms = o.dns_ms,
                                     .allow_experimental = o.allow_experimental };
    rc = start_log(&o, &e);
    for (int i = 0; i < words->note_count && rc == 0; i++)
        LOG_WARN("%s", words->note[i]);
    if (rc == 0)
        rc = sched_files_load(&files, &fo, &go, &e);
    if (rc == 0)
        rc = prepare(&o, &go, host, &path, &e);
    if (rc == 0 && kube_flags_given(&o.kube) &&
        (go.endpoint_count != 0 || o.dns.count != 0 || o.endpoints_file != NULL ||
         (go.config != NULL && go.config->discovery >= 0)))
        rc = err_set(&e, ERR_INVAL,
                     "workers come from Kubernetes (--pool-name, --endpoint-selector) or from "
                     "--endpoint, --endpoint-dns and --endpoints-file, not from both");
    if (rc == 0 && go.endpoint_count == 0 && o.dns.count == 0 && o.endpoints_file == NULL &&
        !kube_flags_given(&o.kube) && (go.config == NULL || go.config->discovery < 0))
        rc = err_set(&e, ERR_INVAL,
                     "--endpoint is needed: the address of a worker, such as 127.0.0.1:8000; or "
                     "--endpoint-dns, a name of several; or --endpoints-file, a list; in "
                     "Kubernetes --pool-name or "
                     "--endpoint-selector");
    go.endpoints_follow = kube_flags_given(&o.kube) || o.dns.count != 0;
    if (rc == 0)
        rc = serve(&o, &go, files, &e); /* takes the files over */
    else {
        sched_files_free(files);
        give_back(&go);
    }
    buf_fini(&path);
    return rc != 0 ? cmd_fail(&e) : 0;
}

int cmd_scheduler(int argc, char **argv)
{
    struct sched_words words;
    struct arena a;
    struct err e;
    int rc;

    arena_init(&a, (size_t)1 << 20);
    if (sched_flags_translate(&a, argc, argv, &words, &e) == 0) {
        rc = run(&words);
    } else {
        fprintf(stderr, "llmd: %s\n", e.msg);
        rc = 2;
    }
    arena_fini(&a);
    return rc;
}
