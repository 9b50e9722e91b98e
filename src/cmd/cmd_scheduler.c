/* llmd scheduler: the front door. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "gateway/gateway.h"
#include "model/model.h"
#include "net/conn.h"
#include <malloc.h>
#include <signal.h>
#include <stddef.h>

struct opts {
    const char *listen, *cache, *model, *seed, *log_level;
    struct opt_list endpoints;
    uint32_t scrape_ms, stale_ms, frozen_ms, stuck_ms, inflight_max, retries_max, block_size;
    uint32_t first_byte_ms, gap_ms, total_ms, wait_ms, shutdown_s, split_min_tokens;
    uint64_t body_bytes_max, bodies_bytes_max;
    double prefill_ms, decode_ms;
    bool split, allow_special, insecure;
};

#define AT(f) offsetof(struct opts, f)

static const struct opt_desc table[] = {
    { "listen", OPT_STR, AT(listen), "127.0.0.1:8080", "ADDR:PORT", 0, 0,
      "where clients connect; port 0 = any free" },
    { "endpoint", OPT_LIST, AT(endpoints), NULL, "ADDR:PORT[=ROLE]", 0, 0,
      "a worker, may be repeated; ROLE: both, prefill or decode" },
    { "cache", OPT_STR, AT(cache), NULL, "ADDR:PORT", 0, 0,
      "the cache manager, whose index is followed" },
    { "model", OPT_STR, AT(model), NULL, "FILE|NAME", 0, 0,
      "the workers' GGUF file: its tokenizer and chat template; without it prompts are estimated" },
    { "index-seed", OPT_STR, AT(seed), "", "TEXT", 0, 0,
      "seed of the index's keys, as the cache manager has it" },
    { "block-size", OPT_U32, AT(block_size), "16", "N", 1, 256, "tokens per block of the index" },
    { "scrape-ms", OPT_U32, AT(scrape_ms), "100", "MS", 5, 60000, "worker poll period" },
    { "stale-ms", OPT_U32, AT(stale_ms), "1000", "MS", 50, 60000,
      "no scrape answered for so long: used only if nobody else is there" },
    { "frozen-ms", OPT_U32, AT(frozen_ms), "3000", "MS", 100, 600000,
      "no scrape answered for so long: out, and its silent streams are ended" },
    { "stuck-ms", OPT_U32, AT(stuck_ms), "15000", "MS", 1000, 600000,
      "a worker that says it made no progress for so long is out" },
    { "max-inflight", OPT_U32, AT(inflight_max), "1024", "N", 1, 1000000,
      "unfinished requests; past it 429" },
    { "max-retries", OPT_U32, AT(retries_max), "2", "N", 0, 10,
      "further attempts at other workers before the first byte" },
    { "wait-ms", OPT_U32, AT(wait_ms), "3000", "MS", 0, 600000,
      "with nobody in rotation, wait so long for a worker that was there until lately" },
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

struct daemon {
    struct loop *loop;
    struct gateway *gateway;
    uint32_t shutdown_ms;
    bool stopping;
};

static void drained(void *ctx)
{
    struct daemon *d = ctx;

    LOG_INFO("scheduler drained");
    loop_stop(d->loop);
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
    LOG_INFO("scheduler draining inflight=%u timeout_ms=%u", gateway_inflight(d->gateway),
             d->shutdown_ms);
    gateway_drain(d->gateway, d->shutdown_ms, drained, d);
}

/* "ADDR:PORT" or "ADDR:PORT=ROLE"; the address is copied to *address (mem_free). */
static int parse_endpoint(const char *text, struct gateway_endpoint_opts *out, char **address,
                          struct err *e)
{
    struct str role = str_of(text), addr = str_cut(&role, '=');
    char host[256];
    uint16_t port;

    *address = str_dup(addr);
    *out = (struct gateway_endpoint_opts) { .address = *address, .role = SCHED_BOTH };
    if (addr_parse(addr, host, &port, e) != 0)
        return err_set(e, ERR_INVAL, "--endpoint %s: must be ADDR:PORT or ADDR:PORT=ROLE", text);
    if (port == 0)
        return err_set(e, ERR_INVAL, "--endpoint %s: needs a port", text);
    if (role.p == NULL)
        return 0;
    out->role_given = true;
    if (!sched_role_parse(role, &out->role))
        return err_set(e, ERR_INVAL, "--endpoint %s: the role must be both, prefill or decode",
                       text);
    return 0;
}

/* A long prompt takes and gives back a few buffers of its size.  With the allocator's own limits
 * each of them is mapped, faulted in and unmapped anew: 40 % of the time of a 100k-token request.
 */
static void keep_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

static int serve(const struct opts *o, const struct gateway_opts *go, struct err *e)
{
    struct daemon d = { .shutdown_ms = o->shutdown_s * 1000 };
    int rc;

    keep_memory();
    rc = loop_new(&d.loop, e);

    if (rc != 0)
        return rc;
    rc = gateway_open(&d.gateway, d.loop, go, e);
    if (rc == 0)
        rc = loop_signal(d.loop, SIGTERM, signalled, &d, e);
    if (rc == 0)
        rc = loop_signal(d.loop, SIGINT, signalled, &d, e);
    if (rc == 0) {
        LOG_INFO("scheduler listening address=%s:%u endpoints=%u model=%s cache=%s", go->host,
                 gateway_port(d.gateway), go->endpoint_count,
                 go->model != NULL ? go->model : "none", go->cache != NULL ? go->cache : "none");
        loop_run(d.loop);
    }
    gateway_close(d.gateway);
    loop_free(d.loop);
    return rc;
}

static int prepare(const struct opts *o, struct gateway_opts *go, char host[256], struct buf *path,
                   struct err *e)
{
    enum log_level level;

    if (!log_level_parse(str_of(o->log_level), &level))
        return err_set(e, ERR_INVAL, "--log-level: must be error, warn, info or debug, not '%s'",
                       o->log_level);
    log_init("scheduler", level);
    if (addr_parse(str_of(o->listen), host, &go->port, e) != 0 ||
        cmd_check_listen(host, o->insecure, e) != 0)
        return e->code;
    if (o->endpoints.count == 0)
        return err_set(e, ERR_INVAL,
                       "--endpoint is needed: the address of a worker, such as 127.0.0.1:8000");
    if (o->prefill_ms <= 0 || o->decode_ms <= 0)
        return err_set(e, ERR_INVAL,
                       "--prefill-ms-per-token and --decode-ms-per-token must be above 0");
    if (o->stale_ms > o->frozen_ms)
        return err_set(e, ERR_INVAL, "--stale-ms must not be above --frozen-ms");
    if (o->model != NULL) {
        if (catalogue_resolve(str_of(o->model), path, e) != 0)
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
    go->no_split = !o->split;
    go->allow_special_in_content = o->allow_special;
    sched_conf_default(&go->conf);
    go->conf.split_min_tokens = o->split_min_tokens;
    go->conf.default_prefill_ms_per_token = o->prefill_ms;
    go->conf.default_decode_ms_per_token = o->decode_ms;
    return 0;
}

int cmd_scheduler(int argc, char **argv)
{
    struct opts o = { 0 };
    struct gateway_opts go = { 0 };
    struct gateway_endpoint_opts eps[OPT_LIST_MAX];
    char *addresses[OPT_LIST_MAX] = { NULL };
    struct err e = { 0 };
    char host[256];
    struct buf path;
    int rc = cmd_options("usage: llmd scheduler --endpoint ADDR:PORT[=ROLE] ... [--cache "
                         "ADDR:PORT] [--model FILE|NAME] [FLAGS]",
                         &o, table, COUNT(table), argc, argv, NULL);

    if (rc >= 0)
        return rc;
    buf_init(&path, 4096);
    rc = prepare(&o, &go, host, &path, &e);
    for (size_t i = 0; rc == 0 && i < o.endpoints.count; i++)
        rc = parse_endpoint(o.endpoints.item[i], &eps[i], &addresses[i], &e);
    go.endpoints = eps;
    go.endpoint_count = (uint32_t)o.endpoints.count;
    if (rc == 0)
        rc = serve(&o, &go, &e);
    for (size_t i = 0; i < COUNT(addresses); i++)
        mem_free(addresses[i]);
    buf_fini(&path);
    return rc != 0 ? cmd_fail(&e) : 0;
}
