/* cmd/up.h - what llmd up and its self-test share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_UP_H
#define CMD_UP_H
#include "cmd/cmd.h"

#define UP_MODEL_DEFAULT "qwen2.5-coder-0.5b"

struct up_opts {
    const char *model, *listen, *ask, *log_level;
    uint32_t prefill, decode, workers, threads, max_model_len, shutdown_timeout_s;
    uint64_t kv_bytes;
    bool check, insecure, no_ask, kube;
};

extern const struct opt_desc up_table[];
extern const size_t up_table_count;

/* Every finding about these options that can be known before anything starts, one line each into
 * out ("error: ..." or "note: ...", with what to change).  path: the model's file, "" when it would
 * be fetched first.  Returns the number of errors. */
uint32_t up_validate(const struct up_opts *o, struct buf *path, struct buf *out);

/* Proves the promises on a running set-up by real requests; prints the table.  Number of failures.
 */
uint32_t up_prove(const struct endpoint *door, const struct up_state *s);

/* Waits, for a few seconds at most, until the scheduler uses so many workers: they are taken up one
 * by one, and the first question is to meet them all. */
void up_wait_used(const struct endpoint *door, uint32_t workers);

/* Asks `ask`, streams the answer to stdout and prints its figures; handed_over: KV bytes received
 * by decode workers so far. */
void up_ask(const struct endpoint *door, const char *model, const char *ask,
            double (*handed_over)(void *ctx), void *ctx);

/* The same on a Kubernetes cluster, by kubectl; returns when the user ends it or something failed.
 */
int up_kube(const struct up_opts *o, struct err *e) MUST_CHECK;
#endif
