/* The scheduler's metrics: llm-d's names where they exist, so that its dashboards and autoscalers
 * work, and llmd_scheduler_* for the rest.  Source: the project's scheduler page, section 11. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "gateway/gateway_priv.h"

static const double duration_buckets[] = { .005, .025, .05, .1,  .2,  .4,  .6,  .8,   1,    1.25, 1.5,  2,
                                           3,    4,    5,   6,   8,   10,  15,  20,   30,   45,   60,   120,
                                           180,  240,  300, 360, 480, 600, 900, 1200, 1800, 2700, 3600 };
static const double ttft_buckets[] = { .005, .025, .05, .1, .2, .4, .6, .8, 1,  1.25, 1.5, 2,
                                       3,    4,    5,   6,  8,  10, 15, 20, 30, 45,   60,  120 };
static const double token_buckets[] = { 1,     8,     16,     32,     64,     128,    256, 512, 1024, 2048, 4096,
                                        8192,  16384, 32778,  65536,  131072, 262144, 524288, 1048576 };
static const double output_buckets[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192 };
static const double quick_buckets[] = { .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1 };

#define HIST(b) .buckets = (b), .bucket_count = COUNT(b)
#define NONE .buckets = NULL, .bucket_count = 0

static const struct metric_desc table[M_COUNT] = {
    [M_REQUESTS] = { METRIC_COUNTER, "llm_d_epp_request_total", "Requests by model.", { "model_name" }, NONE },
    [M_REQUEST_SECONDS] = { METRIC_HISTOGRAM, "llm_d_epp_request_duration_seconds",
                            "From the whole request read to the end of its answer.", { "model_name" },
                            HIST(duration_buckets) },
    [M_TTFT] = { METRIC_HISTOGRAM, "llm_d_epp_request_ttft_seconds",
                 "From the whole request read to the first byte of its answer.",
                 { "model_name", "streaming" }, HIST(ttft_buckets) },
    [M_INPUT_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_input_tokens", "Prompt tokens.",
                         { "model_name" }, HIST(token_buckets) },
    [M_CACHED_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_cached_tokens",
                          "Prompt tokens that the worker said it had cached.", { "model_name" },
                          HIST(token_buckets) },
    [M_OUTPUT_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_output_tokens",
                          "Tokens of answers, as the worker counted them.", { "model_name" },
                          HIST(output_buckets) },
    [M_READY_ENDPOINTS] = { METRIC_GAUGE, "llm_d_epp_ready_endpoints", "Endpoints in rotation.", { "name" }, NONE },
    [M_QUEUE_SIZE] = { METRIC_GAUGE, "llm_d_epp_average_queue_size",
                       "Waiting requests, average of the endpoints in rotation.", { "name" }, NONE },
    [M_KV_USAGE] = { METRIC_GAUGE, "llm_d_epp_average_kv_cache_utilization",
                     "KV cache in use (0 to 1), average of the endpoints in rotation.", { "name" }, NONE },
    [M_RUNNING] = { METRIC_GAUGE, "llm_d_epp_average_running_requests",
                    "Running requests, average of the endpoints in rotation.", { "name" }, NONE },
    [M_ENDPOINT_QUEUE] = { METRIC_GAUGE, "llm_d_epp_per_endpoint_queue_size", "Waiting requests.",
                           { "name", "model_server_endpoint" }, NONE },
    [M_DECISION] = { METRIC_COUNTER, "llm_d_epp_disagg_decision_total", "Decisions by kind.",
                     { "decision_type" }, NONE },
    [M_DECIDE_SECONDS] = { METRIC_HISTOGRAM, "llm_d_epp_scheduler_e2e_duration_seconds",
                           "Time of a decision.", { NULL }, HIST(quick_buckets) },
    [M_POLL_ERRORS] = { METRIC_COUNTER, "llm_d_epp_datalayer_poll_errors_total",
                        "Scrapes that failed, by page.", { "source_type" }, NONE },
    [M_INFO] = { METRIC_GAUGE, "llm_d_epp_info", "Always 1.", { "version" }, NONE },
    [M_L_REQUESTS] = { METRIC_COUNTER, "llmd_scheduler_requests_total", "Answers by status.", { "code" }, NONE },
    [M_L_REJECTED] = { METRIC_COUNTER, "llmd_scheduler_rejected_total",
                       "Requests refused or ended by the scheduler itself.", { "reason" }, NONE },
    [M_L_RETRIES] = { METRIC_COUNTER, "llmd_scheduler_retries_total",
                      "Further attempts at another endpoint.", { "reason" }, NONE },
    [M_L_RETRY_REFUSED] = { METRIC_COUNTER, "llmd_scheduler_retry_budget_exhausted_total",
                            "Retries that the budget did not allow.", { NULL }, NONE },
    [M_L_SPLIT] = { METRIC_COUNTER, "llmd_scheduler_split_total",
                    "Requests sent with a prefill worker beside the decode worker.", { NULL }, NONE },
    [M_L_NOT_SPLIT] = { METRIC_COUNTER, "llmd_scheduler_not_split_total", "The others, and why.", { "reason" }, NONE },
    [M_L_PREDICTED] = { METRIC_COUNTER, "llmd_scheduler_cached_tokens_predicted_total",
                        "Cached prompt tokens that decisions counted on, of answers whose usage says the real ones.",
                        { NULL }, NONE },
    [M_L_REAL] = { METRIC_COUNTER, "llmd_scheduler_cached_tokens_real_total",
                   "Cached prompt tokens that workers reported for the same requests.", { NULL }, NONE },
    [M_L_TTFT] = { METRIC_HISTOGRAM, "llmd_scheduler_ttft_seconds",
                   "From the whole request read to the first byte of its answer.", { NULL },
                   HIST(ttft_buckets) },
    [M_L_INFLIGHT] = { METRIC_GAUGE, "llmd_scheduler_inflight_requests", "Unfinished requests.", { NULL }, NONE },
    [M_L_CUT] = { METRIC_COUNTER, "llmd_scheduler_streams_cut_total",
                  "Streams that ended in an error event.", { "reason" }, NONE },
    [M_L_CLIENT_GONE] = { METRIC_COUNTER, "llmd_scheduler_client_gone_total",
                          "Requests whose client left before the answer ended.", { NULL }, NONE },
    [M_L_STRIPPED] = { METRIC_COUNTER, "llmd_scheduler_stripped_headers_total",
                       "Steering headers that clients sent and that were removed.", { NULL }, NONE },
    [M_L_ESTIMATE] = { METRIC_COUNTER, "llmd_render_estimate_total",
                       "Prompts whose tokens were guessed from their bytes (no --model).", { NULL }, NONE },
    [M_L_RENDER_FAILED] = { METRIC_COUNTER, "llmd_scheduler_render_failed_total",
                            "Prompts that the model's template could not render here.", { NULL }, NONE },
    [M_L_ENDPOINT_STATE] = { METRIC_GAUGE, "llmd_scheduler_endpoint_state",
                             "1 for the state that an endpoint is in.", { "endpoint", "state" }, NONE },
    [M_L_ENDPOINT_INFLIGHT] = { METRIC_GAUGE, "llmd_scheduler_endpoint_inflight",
                                "Own unfinished requests at an endpoint.", { "endpoint" }, NONE },
    [M_L_ENDPOINT_REQUESTS] = { METRIC_COUNTER, "llmd_scheduler_endpoint_requests_total",
                                "Requests sent to an endpoint.", { "endpoint" }, NONE },
    [M_L_PREFILL_RATE] = { METRIC_GAUGE, "llmd_scheduler_endpoint_prefill_seconds_per_token",
                           "Learned from answers; 0 = nothing yet.", { "endpoint" }, NONE },
    [M_L_DECODE_RATE] = { METRIC_GAUGE, "llmd_scheduler_endpoint_decode_seconds_per_token",
                          "Learned from answers, one stream alone; 0 = nothing yet.", { "endpoint" }, NONE },
    [M_L_EJECTED] = { METRIC_COUNTER, "llmd_scheduler_endpoint_ejected_total",
                      "Times that an endpoint left rotation after errors in a row.", { "endpoint" }, NONE },
    [M_L_INDEX_BLOCKS] = { METRIC_GAUGE, "llmd_scheduler_index_blocks",
                           "Blocks known, by source.", { "source" }, NONE },
    [M_L_REPLICA_UP] = { METRIC_GAUGE, "llmd_scheduler_cache_up",
                         "1 while the cache manager's index is being followed.", { NULL }, NONE },
    [M_L_READ_SECONDS] = { METRIC_HISTOGRAM, "llmd_scheduler_read_seconds",
                           "Time to parse, render, tokenize and key a request.", { NULL },
                           HIST(quick_buckets) },
    [M_L_WAITED] = { METRIC_COUNTER, "llmd_scheduler_waited_total",
                     "Requests that waited for a worker to come back.", { NULL }, NONE },
    [M_L_WASTED] = { METRIC_COUNTER, "llmd_wasted_tokens_total",
                     "Answer tokens of attempts that were cut.", { NULL }, NONE },
};

struct metrics *gateway_metrics_new(void)
{
    return metrics_new(table, COUNT(table));
}

struct metric_cell *gateway_cell(struct gateway *g, enum gateway_metric m, const char *a,
                                 const char *b)
{
    const char *values[METRIC_LABELS_MAX] = { a, b };

    return metrics_cell(g->metrics, m, values);
}
