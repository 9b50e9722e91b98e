/* worker/worker.h - the model server around the engine: HTTP, KV events, KV hand-over.
 *
 * worker_run binds first and answers /health at once, loads in a thread of its
 * own, serves until SIGTERM or SIGINT, drains, and returns.  A second signal
 * ends it at once.  Source: vLLM's OpenAI server and flags; the project's
 * worker-api page. */
// SPDX-License-Identifier: Apache-2.0
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum worker_role { WORKER_BOTH, WORKER_PREFILL, WORKER_DECODE };

struct worker_opts {
    const char *model;             /* path of a GGUF file */
    const char *served_model_name; /* NULL: the catalogue name or the file's base name */
    const char *host;
    uint16_t port;
    enum worker_role role;
    uint16_t kvx_port;                  /* 0 = any free */
    const char *kv_events_config;       /* vLLM's JSON, or NULL: off */
    const char *kv_load_failure_policy; /* recompute, fail */
    uint32_t block_size, max_model_len, max_num_seqs, max_num_batched_tokens, max_queue_size;
    uint64_t kv_cache_bytes;
    uint32_t threads, shutdown_timeout_s, prefill_timeout_ms;
    int weights_fd;
    bool prefix_caching, allow_special_in_content;
    const char *hash_seed, *cpu;
};

int worker_run(const struct worker_opts *o, struct err *e) MUST_CHECK;
#endif
