/* llmd worker: flags in vLLM's names where vLLM has them. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "codec/blockkey.h"
#include "model/model.h"
#include "net/conn.h"
#include "worker/worker.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct opts {
    struct worker_opts w;
    const char *model, *role, *listen, *host, *log_level;
    uint32_t port, kvx_port, weights_fd;
    bool insecure;
};

#define AT(f) offsetof(struct opts, f)

static const struct opt_desc table[] = {
    { "model", OPT_STR, AT(model), NULL, "FILE|NAME", 0, 0,
      "a GGUF file, or a name of llmd model list" },
    { "served-model-name", OPT_STR, AT(w.served_model_name), NULL, "NAME", 0, 0,
      "name that clients use; default from the file" },
    { "role", OPT_STR, AT(role), "both", "prefill|decode|both", 0, 0,
      "a preference; any worker can do either" },
    { "listen", OPT_STR, AT(listen), NULL, "ADDR:PORT", 0, 0, "overrides --host and --port" },
    { "host", OPT_STR, AT(host), "127.0.0.1", "ADDR", 0, 0, "address of the HTTP API" },
    { "port", OPT_U32, AT(port), "8000", "N", 0, 65535, "port of the HTTP API; 0 = any free" },
    { "kv-transfer-port", OPT_U32, AT(kvx_port), "0", "N", 0, 65535,
      "port of the KV hand-over; 0 = any free" },
    { "kv-events-config", OPT_STR, AT(w.kv_events_config), NULL, "JSON", 0, 0,
      "as vLLM: enable_kv_cache_events, endpoint, replay_endpoint, topic" },
    { "kv-cache-memory-bytes", OPT_U64, AT(w.kv_cache_bytes), "0", "N", 0, 0,
      "KV reservation; 0 = chosen from the model, at most 1 GiB" },
    { "block-size", OPT_U32, AT(w.block_size), "16", "N", 1, 256,
      "tokens per KV block, the same in the whole fleet" },
    { "max-model-len", OPT_U32, AT(w.max_model_len), "0", "N", 0, 0,
      "longest prompt + answer; 0 = from model and KV reservation" },
    { "max-num-seqs", OPT_U32, AT(w.max_num_seqs), "64", "N", 1, 4096, "requests in the batch" },
    { "max-num-batched-tokens", OPT_U32, AT(w.max_num_batched_tokens), "0", "N", 0, 8192,
      "rows of one step; 0 = 512, for a prefill worker 256: its hand-over starts earlier" },
    { "max-queue-size", OPT_U32, AT(w.max_queue_size), "256", "N", 1, 65536,
      "requests waiting; past it 429" },
    { "threads", OPT_U32, AT(w.threads), "0", "N", 0, 1024,
      "compute threads; 0 = the CPUs this process may use" },
    { "cpu", OPT_STR, AT(w.cpu), NULL, "LEVEL", 0, 0, "force a lower level: scalar, avx2, avx512" },
    { "prefill-timeout-ms", OPT_U32, AT(w.prefill_timeout_ms), "120000", "N", 100, 3600000,
      "longest wait for another worker's prefill" },
    { "shutdown-timeout", OPT_U32, AT(w.shutdown_timeout_s), "30", "SECONDS", 0, 3600,
      "grace for running requests after SIGTERM" },
    { "enable-prefix-caching", OPT_BOOL, AT(w.prefix_caching), "true", NULL, 0, 0,
      "reuse KV of equal prefixes (--no-enable-prefix-caching)" },
    { "allow-special-in-content", OPT_BOOL, AT(w.allow_special_in_content), "false", NULL, 0, 0,
      "let message text form control tokens, as vLLM does" },
    { "hash-seed", OPT_STR, AT(w.hash_seed), BLOCKKEY_SEED_DEFAULT, "TEXT", 0, 0,
      "seed of block keys, the same in the whole fleet" },
    { "weights-fd", OPT_U32, AT(weights_fd), "0", "FD", 0, 65535,
      "inherited memfd that workers of one machine share their packed weights in" },
    { "log-level", OPT_STR, AT(log_level), "info", "LEVEL", 0, 0, "error, warn, info, debug" },
    { "insecure", OPT_BOOL, AT(insecure), "false", NULL, 0, 0,
      "allow listening beyond loopback without keys and TLS" },
};

static int prepare(struct opts *o, char host[256], struct buf *path, struct err *e)
{
    static const char *const roles[] = { "both", "prefill", "decode" };
    enum log_level level;
    uint16_t port = (uint16_t)o->port;
    size_t role = 0;

    if (o->model == NULL)
        return err_set(e, ERR_INVAL, "--model is needed: a GGUF file or a name of llmd model list");
    if (!log_level_parse(str_of(o->log_level), &level))
        return err_set(e, ERR_INVAL, "--log-level: must be error, warn, info or debug, not '%s'",
                       o->log_level);
    log_init("worker", level);
    while (role < COUNT(roles) && strcmp(o->role, roles[role]) != 0)
        role++;
    if (role == COUNT(roles))
        return err_set(e, ERR_INVAL, "--role: must be prefill, decode or both, not '%s'", o->role);
    if ((o->w.block_size & (o->w.block_size - 1)) != 0)
        return err_set(e, ERR_INVAL, "--block-size: must be a power of two, not %u",
                       o->w.block_size);
    if (o->listen != NULL) {
        if (addr_parse(str_of(o->listen), host, &port, e) != 0)
            return e->code;
        o->host = host;
    }
    o->w.host = o->host;
    o->w.port = port;
    o->w.role = (enum worker_role)role;
    if (o->w.max_num_batched_tokens == 0)
        o->w.max_num_batched_tokens = o->w.role == WORKER_PREFILL ? 256 : 512;
    else if (o->w.max_num_batched_tokens < 16)
        return err_set(e, ERR_INVAL, "--max-num-batched-tokens: must be 0 or 16..8192, not %u",
                       o->w.max_num_batched_tokens);
    o->w.kvx_port = (uint16_t)o->kvx_port;
    o->w.weights_fd = o->weights_fd != 0 ? (int)o->weights_fd : -1;
    if (cmd_check_listen(o->host, o->insecure, e) != 0 ||
        catalogue_resolve(str_of(o->model), path, e) != 0)
        return e->code;
    buf_c(path, 0);
    o->w.model = path->p;
    if (o->w.served_model_name == NULL && catalogue_find(str_of(o->model)) != NULL)
        o->w.served_model_name = catalogue_find(str_of(o->model))->name;
    return 0;
}

int cmd_worker(int argc, char **argv)
{
    struct opts o = { 0 };
    struct err e = { 0 };
    struct opt_list rest = { .count = 0 };
    char host[256];
    struct buf path;
    int rc = cmd_options("usage: llmd worker FILE|NAME [--role prefill|decode|both] [FLAGS]", &o,
                         table, COUNT(table), argc, argv, &rest);

    if (rc >= 0)
        return rc;
    if (rest.count > 1 || (rest.count == 1 && o.model != NULL)) {
        fprintf(stderr, "llmd: '%s' is one word too many: one model is served\n",
                rest.item[rest.count - 1]);
        return 2;
    }
    if (rest.count == 1) /* as `vllm serve MODEL` has it */
        o.model = rest.item[0];
    buf_init(&path, 4096);
    rc = prepare(&o, host, &path, &e);
    if (rc == 0)
        rc = worker_run(&o.w, &e);
    buf_fini(&path);
    return rc != 0 ? cmd_fail(&e) : 0;
}
