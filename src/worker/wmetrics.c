/* The worker's metric table: vLLM's names where it has them, ours under llmd_. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "worker/worker_priv.h"
#include <stdio.h>

static const double ttft_buckets[] = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                       1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560 };
static const double itl_buckets[] = { .01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                      .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80 };
static const double e2e_buckets[] = { .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                      30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 };
static const double token_buckets[] = { 1,   2,    5,    10,   20,    50,    100,   200,
                                        500, 1000, 2000, 5000, 10000, 20000, 50000, 100000 };

#define B(x) x, COUNT(x)

static const struct metric_desc table[WM_COUNT_OF] = {
    [WM_WAITING] = { METRIC_GAUGE,
                     "vllm:num_requests_waiting",
                     "Requests waiting for a place in the batch.",
                     { "model_name", "engine" },
                     NULL,
                     0 },
    [WM_RUNNING] = { METRIC_GAUGE,
                     "vllm:num_requests_running",
                     "Requests in the batch.",
                     { "model_name", "engine" },
                     NULL,
                     0 },
    [WM_KV_USAGE] = { METRIC_GAUGE,
                      "vllm:kv_cache_usage_perc",
                      "Used KV blocks as a share of all (1 = full).",
                      { "model_name", "engine" },
                      NULL,
                      0 },
    [WM_CACHE_CONFIG] = { METRIC_GAUGE,
                          "vllm:cache_config_info",
                          "KV cache configuration.",
                          { "model_name", "engine", "block_size", "num_gpu_blocks",
                            "enable_prefix_caching", "cache_dtype" },
                          NULL,
                          0 },
    [WM_PROMPT_TOKENS] = { METRIC_COUNTER,
                           "vllm:prompt_tokens_total",
                           "Prompt tokens processed.",
                           { "model_name", "engine" },
                           NULL,
                           0 },
    [WM_GENERATION_TOKENS] = { METRIC_COUNTER,
                               "vllm:generation_tokens_total",
                               "Tokens generated.",
                               { "model_name", "engine" },
                               NULL,
                               0 },
    [WM_SUCCESS] = { METRIC_COUNTER,
                     "vllm:request_success_total",
                     "Finished requests by reason.",
                     { "model_name", "engine", "finished_reason" },
                     NULL,
                     0 },
    [WM_PREEMPTIONS] = { METRIC_COUNTER,
                         "vllm:num_preemptions_total",
                         "Requests put back because blocks ran out.",
                         { "model_name", "engine" },
                         NULL,
                         0 },
    [WM_PREFIX_QUERIES] = { METRIC_COUNTER,
                            "vllm:prefix_cache_queries_total",
                            "Prompt tokens looked up in the prefix cache.",
                            { "model_name", "engine" },
                            NULL,
                            0 },
    [WM_PREFIX_HITS] = { METRIC_COUNTER,
                         "vllm:prefix_cache_hits_total",
                         "Prompt tokens found in the prefix cache.",
                         { "model_name", "engine" },
                         NULL,
                         0 },
    [WM_EXTERNAL_QUERIES] = { METRIC_COUNTER,
                              "vllm:external_prefix_cache_queries_total",
                              "Prompt tokens asked of another worker.",
                              { "model_name", "engine" },
                              NULL,
                              0 },
    [WM_EXTERNAL_HITS] = { METRIC_COUNTER,
                           "vllm:external_prefix_cache_hits_total",
                           "Prompt tokens whose KV another worker handed over.",
                           { "model_name", "engine" },
                           NULL,
                           0 },
    [WM_BY_SOURCE] = { METRIC_COUNTER,
                       "vllm:prompt_tokens_by_source_total",
                       "Prompt tokens by where their KV came from.",
                       { "model_name", "engine", "source" },
                       NULL,
                       0 },
    [WM_TTFT] = { METRIC_HISTOGRAM,
                  "vllm:time_to_first_token_seconds",
                  "From arrival to the first token.",
                  { "model_name", "engine" },
                  B(ttft_buckets) },
    [WM_ITL] = { METRIC_HISTOGRAM,
                 "vllm:inter_token_latency_seconds",
                 "Between tokens of one request.",
                 { "model_name", "engine" },
                 B(itl_buckets) },
    [WM_E2E] = { METRIC_HISTOGRAM,
                 "vllm:e2e_request_latency_seconds",
                 "From arrival to the last token.",
                 { "model_name", "engine" },
                 B(e2e_buckets) },
    [WM_QUEUE_TIME] = { METRIC_HISTOGRAM,
                        "vllm:request_queue_time_seconds",
                        "Waiting before the first step.",
                        { "model_name", "engine" },
                        B(e2e_buckets) },
    [WM_PREFILL_TIME] = { METRIC_HISTOGRAM,
                          "vllm:request_prefill_time_seconds",
                          "First step to first token.",
                          { "model_name", "engine" },
                          B(e2e_buckets) },
    [WM_DECODE_TIME] = { METRIC_HISTOGRAM,
                         "vllm:request_decode_time_seconds",
                         "First token to last.",
                         { "model_name", "engine" },
                         B(e2e_buckets) },
    [WM_REQUEST_PROMPT] = { METRIC_HISTOGRAM,
                            "vllm:request_prompt_tokens",
                            "Prompt tokens of a request.",
                            { "model_name", "engine" },
                            B(token_buckets) },
    [WM_REQUEST_GENERATION] = { METRIC_HISTOGRAM,
                                "vllm:request_generation_tokens",
                                "Generated tokens of a request.",
                                { "model_name", "engine" },
                                B(token_buckets) },
    [WM_BLOCKS_TOTAL] = { METRIC_GAUGE,
                          "llmd_blocks_total",
                          "KV blocks reserved.",
                          { NULL },
                          NULL,
                          0 },
    [WM_BLOCKS_IN_USE] = { METRIC_GAUGE,
                           "llmd_blocks_in_use",
                           "KV blocks held by live requests and leases.",
                           { NULL },
                           NULL,
                           0 },
    [WM_BLOCKS_CACHED] = { METRIC_GAUGE,
                           "llmd_blocks_cached",
                           "Free KV blocks that still hold a known prefix.",
                           { NULL },
                           NULL,
                           0 },
    [WM_BLOCKS_LEASED] = { METRIC_GAUGE,
                           "llmd_blocks_leased",
                           "KV blocks kept for another worker to take.",
                           { NULL },
                           NULL,
                           0 },
    [WM_KVX_BYTES] = { METRIC_COUNTER,
                       "llmd_kvx_bytes_total",
                       "KV bytes handed over.",
                       { "transport", "dir" },
                       NULL,
                       0 },
    [WM_KVX_HIDDEN] = { METRIC_COUNTER,
                        "llmd_kvx_bytes_hidden_total",
                        "KV bytes received that were sent before the prompt's last block was "
                        "computed.",
                        { NULL },
                        NULL,
                        0 },
    [WM_KVX_VERIFY] = { METRIC_COUNTER,
                        "llmd_kvx_verify_failures_total",
                        "Blocks or peers refused: what did not verify.",
                        { "kind" },
                        NULL,
                        0 },
    [WM_KVX_LEASE_EXPIRED] = { METRIC_COUNTER,
                               "llmd_kvx_lease_expired_total",
                               "Leases that ran out unread.",
                               { NULL },
                               NULL,
                               0 },
    [WM_KVX_TRANSFERS] = { METRIC_COUNTER,
                           "llmd_kvx_transfers_total",
                           "Transfers by outcome.",
                           { "dir", "outcome" },
                           NULL,
                           0 },
    [WM_KVX_RECOMPUTE] = { METRIC_COUNTER,
                           "llmd_kvx_recompute_tokens_total",
                           "Prompt tokens computed here after a hand-over failed.",
                           { NULL },
                           NULL,
                           0 },
    [WM_REMOTE_PREFILL] = { METRIC_COUNTER,
                            "llmd_remote_prefill_total",
                            "Requests with a prefill worker named, by what came of it.",
                            { "reason" },
                            NULL,
                            0 },
    [WM_PREFILL_COMPUTED] = { METRIC_COUNTER,
                              "llmd_prefill_tokens_computed_total",
                              "Prompt tokens computed on this worker.",
                              { NULL },
                              NULL,
                              0 },
    [WM_STEPS] = { METRIC_COUNTER, "llmd_worker_steps_total", "Engine steps.", { NULL }, NULL, 0 },
    [WM_STEP_SECONDS] = { METRIC_COUNTER,
                          "llmd_worker_step_seconds_total",
                          "Time in engine steps.",
                          { NULL },
                          NULL,
                          0 },
    [WM_SECONDS_SINCE_PROGRESS] = { METRIC_GAUGE,
                                    "llmd_worker_seconds_since_progress",
                                    "Age of the last finished step while requests run; 0 when "
                                    "idle.",
                                    { NULL },
                                    NULL,
                                    0 },
    [WM_HTTP] = { METRIC_COUNTER,
                  "http_requests_total",
                  "HTTP requests by route.",
                  { "handler" },
                  NULL,
                  0 },
    [WM_START_TIME] = { METRIC_GAUGE,
                        "process_start_time_seconds",
                        "Start of this process, seconds since 1970.",
                        { NULL },
                        NULL,
                        0 },
    [WM_EVENTS_SENT] = { METRIC_COUNTER,
                         "llmd_worker_kv_events_total",
                         "KV events published.",
                         { NULL },
                         NULL,
                         0 },
};

struct metrics *worker_metrics_new(void)
{
    return metrics_new(table, WM_COUNT_OF);
}

struct metric_cell *worker_metric(struct worker *w, enum worker_metric m, const char *label)
{
    const char *values[METRIC_LABELS_MAX] = { w->model_name, "0", label };

    if (table[m].labels[0] != NULL && table[m].labels[0][0] != 'm')
        values[0] = label;
    return metrics_cell(w->metrics, m, values);
}

static struct metric_cell *pair(struct worker *w, enum worker_metric m, const char *a,
                                const char *b)
{
    return metrics_cell(w->metrics, m, (const char *const[]) { a, b });
}

void worker_kvx_metrics(struct worker *w, struct kvx_metrics *out)
{
    *out = (struct kvx_metrics) {
        .bytes_sent = pair(w, WM_KVX_BYTES, "tcp", "send"),
        .bytes_received = pair(w, WM_KVX_BYTES, "tcp", "recv"),
        .bytes_hidden = worker_metric(w, WM_KVX_HIDDEN, NULL),
        .verify_crc = worker_metric(w, WM_KVX_VERIFY, "crc"),
        .verify_key = worker_metric(w, WM_KVX_VERIFY, "key"),
        .verify_fingerprint = worker_metric(w, WM_KVX_VERIFY, "fingerprint"),
        .verify_epoch = worker_metric(w, WM_KVX_VERIFY, "epoch"),
        .lease_expired = worker_metric(w, WM_KVX_LEASE_EXPIRED, NULL),
    };
}

void worker_metrics_refresh(struct worker *w)
{
    static const enum worker_metric plain[] = { WM_WAITING,
                                                WM_RUNNING,
                                                WM_KV_USAGE,
                                                WM_PROMPT_TOKENS,
                                                WM_GENERATION_TOKENS,
                                                WM_PREEMPTIONS,
                                                WM_PREFIX_QUERIES,
                                                WM_PREFIX_HITS,
                                                WM_EXTERNAL_QUERIES,
                                                WM_EXTERNAL_HITS,
                                                WM_TTFT,
                                                WM_ITL,
                                                WM_E2E,
                                                WM_QUEUE_TIME,
                                                WM_PREFILL_TIME,
                                                WM_DECODE_TIME,
                                                WM_REQUEST_PROMPT,
                                                WM_REQUEST_GENERATION };
    static const char *const reasons[] = { "stop", "length", "abort", "error" };
    static const char *const sources[] = { "local_compute", "local_cache_hit",
                                           "external_kv_transfer" };
    /* while loading the engine belongs to the loading thread */
    struct engine *en = w->state == WORKER_LOADING ? NULL : w->engine;
    struct engine_stats s = { 0 };
    char block[16], total[16];

    for (size_t i = 0; i < COUNT(plain); i++)
        (void)worker_metric(w, plain[i], NULL);
    for (size_t i = 0; i < COUNT(reasons); i++)
        (void)worker_metric(w, WM_SUCCESS, reasons[i]);
    for (size_t i = 0; i < COUNT(sources); i++)
        (void)worker_metric(w, WM_BY_SOURCE, sources[i]);
    if (en != NULL)
        engine_stats(en, &s);
    metric_set(worker_metric(w, WM_START_TIME, NULL), w->started_s);
    metric_set(worker_metric(w, WM_WAITING, NULL), s.waiting);
    metric_set(worker_metric(w, WM_RUNNING, NULL), s.running);
    metric_set(worker_metric(w, WM_KV_USAGE, NULL),
               s.blocks_total != 0 ? (double)s.blocks_in_use / s.blocks_total : 0);
    metric_set(worker_metric(w, WM_PROMPT_TOKENS, NULL), (double)s.prompt_tokens);
    metric_set(worker_metric(w, WM_GENERATION_TOKENS, NULL), (double)s.output_tokens);
    metric_set(worker_metric(w, WM_PREEMPTIONS, NULL), (double)s.preemptions);
    metric_set(worker_metric(w, WM_PREFIX_QUERIES, NULL), (double)s.prefix_query_tokens);
    metric_set(worker_metric(w, WM_PREFIX_HITS, NULL), (double)s.prefix_hit_tokens);
    metric_set(worker_metric(w, WM_BLOCKS_TOTAL, NULL), s.blocks_total);
    metric_set(worker_metric(w, WM_BLOCKS_IN_USE, NULL), s.blocks_in_use);
    metric_set(worker_metric(w, WM_BLOCKS_CACHED, NULL), s.blocks_cached);
    metric_set(worker_metric(w, WM_BLOCKS_LEASED, NULL), s.blocks_leased);
    metric_set(worker_metric(w, WM_STEPS, NULL), (double)s.steps);
    metric_set(worker_metric(w, WM_STEP_SECONDS, NULL), s.step_s_total);
    metric_set(worker_metric(w, WM_SECONDS_SINCE_PROGRESS, NULL),
               s.running != 0 && s.last_progress_ns != 0
                   ? (double)(clock_ns() - s.last_progress_ns) * 1e-9
                   : 0);
    if (en == NULL)
        return;
    snprintf(block, sizeof(block), "%u", engine_block_tokens(en));
    snprintf(total, sizeof(total), "%u", s.blocks_total);
    metric_set(metrics_cell(w->metrics, WM_CACHE_CONFIG,
                            (const char *const[]) { w->model_name, "0", block, total,
                                                    w->opts->prefix_caching ? "True" : "False",
                                                    "float16" }),
               1);
}
