/* llmd cache: the cache manager. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cache_kube.h"
#include "cmd/cmd.h"
#include "kv/manager.h"
#include "net/conn.h"
#include <signal.h>
#include <stddef.h>

struct opts {
    const char *listen, *seed, *hash, *model, *log_level;
    struct opt_list endpoints;
    struct kube_flags kube;
    uint32_t block_size, events_port, replay_port;
    uint64_t blocks_max;
    bool insecure;
};

#define AT(f) offsetof(struct opts, f)

static const struct opt_desc table[] = {
    { "listen", OPT_STR, AT(listen), "127.0.0.1:8090", "ADDR:PORT", 0, 0,
      "where schedulers connect; port 0 = any free" },
    { "endpoint", OPT_LIST, AT(endpoints), NULL, "NAME=HOST:PORT@EVENTS[@REPLAY]", 0, 0,
      "a worker: its name, where it serves, HOST:PORT of its KV events and of its replay; may be "
      "repeated" },
    KUBE_FLAGS(struct opts),
    { "kv-events-port", OPT_U32, AT(events_port), "5556", "PORT", 1, 65535,
      "Kubernetes: where the pods publish their KV events; rank r of a pod: at this port + r" },
    { "kv-replay-port", OPT_U32, AT(replay_port), "5558", "PORT", 0, 65535,
      "and replay them, likewise; 0 = they do not" },
    { "model", OPT_STR, AT(model), NULL, "NAME", 0, 0,
      "model of workers whose event topic names none" },
    { "block-size", OPT_U32, AT(block_size), "16", "N", 1, 256, "tokens per block of the index" },
    { "hash-seed", OPT_STR, AT(seed), "", "TEXT", 0, 0,
      "seed of the index's keys; the schedulers' --index-seed" },
    { "hash", OPT_STR, AT(hash), "xxh64", "NAME", 0, 0,
      "keys of the index: xxh64, or cbor-fnv as llm-d has them" },
    { "max-blocks", OPT_U64, AT(blocks_max), "4194304", "N", 1024, 1000000000,
      "block-and-worker pairs kept; past it the oldest go" },
    { "log-level", OPT_STR, AT(log_level), "info", "LEVEL", 0, 0, "error, warn, info, debug" },
    { "insecure", OPT_BOOL, AT(insecure), "false", NULL, 0, 0,
      "allow listening beyond loopback without keys and TLS" },
};

static void signalled(void *ctx)
{
    LOG_INFO("cache manager stops");
    loop_stop(ctx);
}

static int serve(const struct opts *o, const struct kv_manager_opts *mo, struct err *e)
{
    struct kv_manager *m = NULL;
    struct cache_kube *k = NULL;
    struct loop *l;
    int rc = loop_new(&l, e);

    if (rc != 0)
        return rc;
    rc = kv_manager_open(l, mo, &m, e);
    if (rc == 0 && kube_flags_given(&o->kube))
        rc = cache_kube_open(l, m, &o->kube, (uint16_t)o->events_port, (uint16_t)o->replay_port, &k,
                             e);
    if (rc == 0)
        rc = loop_signal(l, SIGTERM, signalled, l, e);
    if (rc == 0)
        rc = loop_signal(l, SIGINT, signalled, l, e);
    if (rc == 0) {
        LOG_INFO("cache manager listening address=%s:%u endpoints=%zu block_tokens=%u", mo->host,
                 kv_manager_port(m), mo->source_count, mo->index.block_tokens);
        loop_run(l);
    }
    cache_kube_close(k);
    kv_manager_close(m);
    loop_free(l);
    return rc;
}

static int prepare(const struct opts *o, struct kv_manager_opts *mo, struct kv_source_opts *sources,
                   char host[256], struct err *e)
{
    enum log_level level;

    if (!log_level_parse(str_of(o->log_level), &level))
        return err_set(e, ERR_INVAL, "--log-level: must be error, warn, info or debug, not '%s'",
                       o->log_level);
    log_init("cache", level);
    if (addr_parse(str_of(o->listen), host, &mo->port, e) != 0 ||
        cmd_check_listen(host, o->insecure, e) != 0)
        return e->code;
    if (str_eqz(str_of(o->hash), "cbor-fnv"))
        mo->index.hash = INDEX_HASH_CBOR_FNV;
    else if (!str_eqz(str_of(o->hash), "xxh64"))
        return err_set(e, ERR_INVAL, "--hash: must be xxh64 or cbor-fnv, not '%s'", o->hash);
    if (kube_flags_given(&o->kube) && o->endpoints.count != 0)
        return err_set(e, ERR_INVAL,
                       "workers come from Kubernetes (--pool-name, --endpoint-selector) or from "
                       "--endpoint, not from both");
    for (size_t i = 0; i < o->endpoints.count; i++)
        if (kv_source_parse(str_of(o->endpoints.item[i]), &sources[i], e) != 0)
            return e->code;
    mo->host = host;
    mo->model = o->model;
    mo->sources = sources;
    mo->source_count = o->endpoints.count;
    mo->index.block_tokens = o->block_size;
    mo->index.seed = o->seed;
    mo->index.blocks_max = o->blocks_max;
    return 0;
}

int cmd_cache(int argc, char **argv)
{
    struct opts o = { 0 };
    struct kv_manager_opts mo = { 0 };
    struct kv_source_opts sources[OPT_LIST_MAX];
    struct err e = { 0 };
    char host[256];
    int rc = cmd_options("usage: llmd cache --endpoint NAME=HOST:PORT@EVENTS_HOST:EVENTS_PORT ... "
                         "| --pool-name NAME [FLAGS]",
                         &o, table, COUNT(table), argc, argv, NULL);

    if (rc >= 0)
        return rc;
    rc = prepare(&o, &mo, sources, host, &e);
    if (rc == 0)
        rc = serve(&o, &mo, &e);
    return rc != 0 ? cmd_fail(&e) : 0;
}
