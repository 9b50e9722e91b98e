/* worker/worker_priv.h - what the worker's files share.  Everything runs on the worker's loop
 * unless a comment says otherwise. */
// SPDX-License-Identifier: Apache-2.0
#ifndef WORKER_WORKER_PRIV_H
#define WORKER_WORKER_PRIV_H
#include "base/map.h"
#include "base/metrics.h"
#include "engine/engine.h"
#include "net/http.h"
#include "net/zmtp.h"
#include "openai/openai.h"
#include "text/chat.h"
#include "transfer/transfer.h"
#include "worker/worker.h"

enum worker_state { WORKER_LOADING, WORKER_READY, WORKER_DRAINING, WORKER_DEAD };

enum worker_metric {
    WM_WAITING,
    WM_RUNNING,
    WM_KV_USAGE,
    WM_CACHE_CONFIG,
    WM_PROMPT_TOKENS,
    WM_GENERATION_TOKENS,
    WM_SUCCESS,
    WM_PREEMPTIONS,
    WM_PREFIX_QUERIES,
    WM_PREFIX_HITS,
    WM_EXTERNAL_QUERIES,
    WM_EXTERNAL_HITS,
    WM_BY_SOURCE,
    WM_TTFT,
    WM_ITL,
    WM_E2E,
    WM_QUEUE_TIME,
    WM_PREFILL_TIME,
    WM_DECODE_TIME,
    WM_REQUEST_PROMPT,
    WM_REQUEST_GENERATION,
    WM_BLOCKS_TOTAL,
    WM_BLOCKS_IN_USE,
    WM_BLOCKS_CACHED,
    WM_BLOCKS_LEASED,
    WM_KVX_BYTES,
    WM_KVX_HIDDEN,
    WM_KVX_VERIFY,
    WM_KVX_LEASE_EXPIRED,
    WM_KVX_TRANSFERS,
    WM_KVX_RECOMPUTE,
    WM_REMOTE_PREFILL,
    WM_PREFILL_COMPUTED,
    WM_STEPS,
    WM_STEP_SECONDS,
    WM_SECONDS_SINCE_PROGRESS,
    WM_HTTP,
    WM_EVENTS_SENT,
    WM_START_TIME,
    WM_COUNT_OF
};

struct publisher;
struct gen;

struct worker {
    const struct worker_opts *opts;
    struct loop *loop;
    struct http_server *http;
    struct http_client *client;
    struct metrics *metrics;
    enum worker_state state;
    struct err load_error;
    uint64_t epoch; /* random per process */
    char engine_id[33];
    char address[300]; /* host:port as others reach us */
    char model_name[256];
    double started_s;

    struct model *model;
    struct tokenizer *tok;
    struct chat_template *chat; /* NULL: the model has none */
    struct engine *engine;
    struct kvx_server *kvx_server;
    struct kvx_client *kvx_client;
    struct publisher *pub;
    struct map peers; /* "host:port" -> struct peer *, see pd.c */
    struct gen *gens;
    uint32_t live; /* gens not yet freed */
    struct loop_timer *drain_timer, *grace_timer;
    int signals;
};

/* wmetrics.c */
struct metrics *worker_metrics_new(void);
struct metric_cell *worker_metric(struct worker *w, enum worker_metric m, const char *label);
void worker_metrics_refresh(struct worker *w); /* from engine_stats, before rendering */
void worker_kvx_metrics(struct worker *w, struct kvx_metrics *out);

/* api.c: routes */
void worker_handle(void *ctx, struct http_req *r);
void worker_reply_error(struct http_req *r, const struct oai_error *e);

/* gen.c: one generation request, from body to last byte */
void gen_start(struct worker *w, struct http_req *r, bool is_chat);
void gen_cancel_all(struct worker *w); /* each ends with an error that says so */
/* Prompt of a chat or completion body as ids; fills *err. */
int gen_tokenize_chat(struct worker *w, const struct oai_request *q, struct token_list *out,
                      struct oai_error *err) MUST_CHECK;

/* pd.c: prefill elsewhere */
struct pd;
struct pd_opts {
    const char *prefiller;     /* host:port, or NULL: params name the source */
    const struct json *params; /* kv_transfer_params with do_remote_prefill, or NULL */
    const uint32_t *prompt;
    uint32_t prompt_count, first, count; /* blocks wanted */
    struct str salt, request_id, traceparent;
    uint64_t request; /* engine request that awaits the import */
};
/* on_end runs once: reason "ok" or why not; the engine has been told already. */
int pd_start(struct worker *w, const struct pd_opts *o,
             void (*on_end)(void *ctx, const char *reason), void *ctx, struct pd **out) MUST_CHECK;
void pd_cancel(struct pd *p); /* client gone; no on_end follows */
/* GET /v1/llmd/kvx: what a decode worker must know to connect. */
void pd_describe(struct worker *w, struct buf *out);
void pd_peers_free(struct worker *w);
bool pd_id_parse(struct str hex, struct kvx_id *out);
void pd_id_print(struct kvx_id id, char out[33]);

/* pub.c: KV events */
int publisher_open(struct worker *w, const char *config, struct publisher **out,
                   struct err *e) MUST_CHECK;
void publisher_events(void *ctx, const struct engine_kv_event *ev,
                      uint32_t count); /* engine thread */
void publisher_close(struct publisher *p);
#endif
