/* The scheduler's metrics: llm-d's names where they exist, so that its dashboards and autoscalers
 * work (and their older twins, which its own tests still read), and llmd_scheduler_* for the rest.
 * Source: the project's scheduler page, section 11. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include <inttypes.h>
#include <stdio.h>

#define REQUEST_SETS_MAX 4096 /* label sets with cells of their own; more share "other" */
#define MODEL_NAMES_MAX  1000 /* distinct ones from clients, likewise */

static const double duration_buckets[] = { .005, .025, .05, .1,  .2,   .4,   .6,   .8,  1,
                                           1.25, 1.5,  2,   3,   4,    5,    6,    8,   10,
                                           15,   20,   30,  45,  60,   120,  180,  240, 300,
                                           360,  480,  600, 900, 1200, 1800, 2700, 3600 };
static const double ttft_buckets[] = { .005, .025, .05, .1, .2, .4, .6, .8, 1,  1.25, 1.5, 2,
                                       3,    4,    5,   6,  8,  10, 15, 20, 30, 45,   60,  120 };
static const double ntpot_buckets[] = { .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10 };
static const double tpot_buckets[] = { .0005, .00205, .005, .01, .02, .04, .06, .08, .1, .125,
                                       .15,   .2,     .3,   .4,  .5,  .6,  .8,  1,   2 };
static const double itl_buckets[] = { .001, .005, .01, .02, .04, .06, .08, .1,
                                      .15,  .2,   .3,  .5,  .75, 1,   2 };
static const double bytes_buckets[] = { 64,       128,       256,       512,       1024,
                                        2048,     4096,      8192,      16384,     32768,
                                        65536,    131072,    262144,    524288,    1048576,
                                        2097152,  4194304,   8388608,   16777216,  33554432,
                                        67108864, 134217728, 268435456, 536870912, 1073741824 };
/* 32778: upstream's own number, kept so that series can be compared */
static const double size_buckets[] = { 1,    8,    16,   32,   64,    128,   256,  512,
                                       1024, 2048, 4096, 8192, 16384, 32778, 65536 };
static const double token_buckets[] = { 1,     8,      16,     32,     64,     128,   256,
                                        512,   1024,   2048,   4096,   8192,   16384, 32778,
                                        65536, 131072, 262144, 524288, 1048576 };
static const double output_buckets[] = { 1,   2,   4,   8,    16,   32,   64,
                                         128, 256, 512, 1024, 2048, 4096, 8192 };
static const double quick_buckets[] = { .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1 };
static const double processing_buckets[] = { .0005, .001, .002, .005, .01, .015, .025, .04,
                                             .06,   .1,   .25,  .5,   1,   2.5,  5,    10 };
static const double response_buckets[] = { .0001, .00025, .0005, .001, .0025, .005, .01, .025,
                                           .05,   .1,     .25,   .5,   1,     2.5,  5 };
static const double queue_buckets[] = { .0001, .0005, .001, .005, .01, .025, .05, .1,
                                        .25,   .5,    1,    2.5,  5,   10,   30,  60 };
static const double revocation_buckets[] = { .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10 };
static const double ratio_buckets[] = { 0, .1, .2, .3, .4, .5, .6, .7, .8, .9, 1 };

const char *const gateway_pool = "llmd";

#define HIST(b) .buckets = (b), .bucket_count = COUNT(b)
#define NONE    .buckets = NULL, .bucket_count = 0
#define LABELS(...)                                                                                \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define REQUEST LABELS("model_name", "target_model_name", "fairness_id", "priority")
#define MODELS  LABELS("model_name", "target_model_name")
#define POOL    LABELS("name")

static const struct metric_desc table[M_COUNT] = {
    [R_REQUESTS] = { METRIC_COUNTER, "llm_d_epp_request_total", "Requests.", REQUEST, NONE },
    [R_ERRORS] = { METRIC_COUNTER, "llm_d_epp_request_error_total",
                   "Requests that ended in an error.",
                   LABELS("model_name", "target_model_name", "fairness_id", "priority",
                          "error_code"),
                   NONE },
    [R_SECONDS] = { METRIC_HISTOGRAM, "llm_d_epp_request_duration_seconds",
                    "From the whole request read to the end of its answer.", REQUEST,
                    HIST(duration_buckets) },
    [R_BYTES_IN] = { METRIC_HISTOGRAM, "llm_d_epp_request_size_bytes", "Bodies of requests.",
                     REQUEST, HIST(bytes_buckets) },
    [R_BYTES_OUT] = { METRIC_HISTOGRAM, "llm_d_epp_response_size_bytes", "Bodies of answers.",
                      REQUEST, HIST(size_buckets) },
    [R_INPUT_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_input_tokens", "Prompt tokens.",
                         REQUEST, HIST(token_buckets) },
    [R_CACHED_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_cached_tokens",
                          "Prompt tokens that the worker said it had cached.", REQUEST,
                          HIST(token_buckets) },
    [R_OUTPUT_TOKENS] = { METRIC_HISTOGRAM, "llm_d_epp_request_output_tokens",
                          "Tokens of answers, as the worker counted them.", REQUEST,
                          HIST(output_buckets) },
    [R_RUNNING] = { METRIC_GAUGE, "llm_d_epp_request_running", "Unfinished requests.", REQUEST,
                    NONE },
    [R_NTPOT] = { METRIC_HISTOGRAM, "llm_d_epp_request_ntpot_seconds", "Duration by answer token.",
                  REQUEST, HIST(ntpot_buckets) },
    [R_TTFT] = { METRIC_HISTOGRAM, "llm_d_epp_request_ttft_seconds",
                 "From the whole request read to the first byte of its answer.",
                 LABELS("model_name", "target_model_name", "fairness_id", "priority", "streaming"),
                 HIST(ttft_buckets) },
    [R_TPOT] = { METRIC_HISTOGRAM, "llm_d_epp_request_streaming_tpot_seconds",
                 "Time by token after the first one, of streams.", REQUEST, HIST(tpot_buckets) },
    [R_ITL] = { METRIC_HISTOGRAM, "llm_d_epp_request_streaming_itl_seconds",
                "Time between the events of streams.", REQUEST, HIST(itl_buckets) },
    [O_REQUESTS] = { METRIC_COUNTER, "inference_objective_request_total", "Requests. (older name)",
                     LABELS("model_name", "target_model_name", "priority"), NONE },
    [O_ERRORS] = { METRIC_COUNTER, "inference_objective_request_error_total",
                   "Requests that ended in an error. (older name)",
                   LABELS("model_name", "target_model_name", "error_code"), NONE },
    [O_SECONDS] = { METRIC_HISTOGRAM, "inference_objective_request_duration_seconds",
                    "From the whole request read to the end of its answer. (older name)", MODELS,
                    HIST(duration_buckets) },
    [O_BYTES_IN] = { METRIC_HISTOGRAM, "inference_objective_request_sizes",
                     "Bodies of requests. (older name)", MODELS, HIST(bytes_buckets) },
    [O_BYTES_OUT] = { METRIC_HISTOGRAM, "inference_objective_response_sizes",
                      "Bodies of answers. (older name)", MODELS, HIST(size_buckets) },
    [O_INPUT_TOKENS] = { METRIC_HISTOGRAM, "inference_objective_input_tokens",
                         "Prompt tokens. (older name)", MODELS, HIST(token_buckets) },
    [O_CACHED_TOKENS] = { METRIC_HISTOGRAM, "inference_objective_prompt_cached_tokens",
                          "Prompt tokens that the worker said it had cached. (older name)", MODELS,
                          HIST(token_buckets) },
    [O_OUTPUT_TOKENS] = { METRIC_HISTOGRAM, "inference_objective_output_tokens",
                          "Tokens of answers, as the worker counted them. (older name)", MODELS,
                          HIST(output_buckets) },
    [O_RUNNING] = { METRIC_GAUGE, "inference_objective_running_requests",
                    "Unfinished requests. (older name)", LABELS("model_name"), NONE },
    [O_NTPOT] = { METRIC_HISTOGRAM, "inference_objective_normalized_time_per_output_token_seconds",
                  "Duration by answer token. (older name)", MODELS, HIST(ntpot_buckets) },
    [M_READY_ENDPOINTS] = { METRIC_GAUGE, "llm_d_epp_ready_endpoints", "Endpoints in rotation.",
                            POOL, NONE },
    [O_READY_PODS] = { METRIC_GAUGE, "inference_pool_ready_pods",
                       "Endpoints in rotation. (older name)", POOL, NONE },
    [M_QUEUE_SIZE] = { METRIC_GAUGE, "llm_d_epp_average_queue_size",
                       "Waiting requests, average of the endpoints in rotation.", POOL, NONE },
    [O_QUEUE_SIZE] = { METRIC_GAUGE, "inference_pool_average_queue_size",
                       "Waiting requests, average of the endpoints in rotation. (older name)", POOL,
                       NONE },
    [M_KV_USAGE] = { METRIC_GAUGE, "llm_d_epp_average_kv_cache_utilization",
                     "KV cache in use (0 to 1), average of the endpoints in rotation.", POOL,
                     NONE },
    [O_KV_USAGE] = { METRIC_GAUGE, "inference_pool_average_kv_cache_utilization",
                     "KV cache in use (0 to 1), average of the endpoints in rotation. (older name)",
                     POOL, NONE },
    [M_POOL_RUNNING] = { METRIC_GAUGE, "llm_d_epp_average_running_requests",
                         "Running requests, average of the endpoints in rotation.", POOL, NONE },
    [O_POOL_RUNNING] = { METRIC_GAUGE, "inference_pool_average_running_requests",
                         "Running requests, average of the endpoints in rotation. (older name)",
                         POOL, NONE },
    [M_DEV_QUEUE] = { METRIC_GAUGE, "llm_d_epp_std_dev_queue_size",
                      "Waiting requests, spread over the endpoints.", POOL, NONE },
    [M_DEV_KV] = { METRIC_GAUGE, "llm_d_epp_std_dev_kv_cache_utilization",
                   "KV cache in use, spread over the endpoints.", POOL, NONE },
    [M_DEV_RUNNING] = { METRIC_GAUGE, "llm_d_epp_std_dev_running_requests",
                        "Running requests, spread over the endpoints.", POOL, NONE },
    [M_ENDPOINT_QUEUE] = { METRIC_GAUGE, "llm_d_epp_per_endpoint_queue_size", "Waiting requests.",
                           LABELS("name", "model_server_endpoint"), NONE },
    [O_POD_QUEUE] = { METRIC_GAUGE, "inference_pool_per_pod_queue_size",
                      "Waiting requests. (older name)", LABELS("model_server_pod", "name"), NONE },
    [M_DECISION] = { METRIC_COUNTER, "llm_d_epp_disagg_decision_total", "Decisions by kind.",
                     LABELS("plugin_name", "plugin_type", "model_name", "decision_type"), NONE },
    [O_DECISION] = { METRIC_COUNTER, "llm_d_inference_scheduler_disagg_decision_total",
                     "Decisions by kind. (older name)", LABELS("model_name", "decision_type"),
                     NONE },
    [M_DECIDE_SECONDS] = { METRIC_HISTOGRAM,
                           "llm_d_epp_scheduler_e2e_duration_seconds",
                           "Time of a decision.",
                           { NULL },
                           HIST(quick_buckets) },
    [O_DECIDE_SECONDS] = { METRIC_HISTOGRAM,
                           "inference_extension_scheduler_e2e_duration_seconds",
                           "Time of a decision. (older name)",
                           { NULL },
                           HIST(quick_buckets) },
    [M_ATTEMPTS] = { METRIC_COUNTER, "llm_d_epp_scheduler_attempts_total", "Decisions by outcome.",
                     LABELS("status", "target_model_name", "endpoint_name", "namespace", "port"),
                     NONE },
    [M_REQUEST_PROCESSING] = { METRIC_HISTOGRAM,
                               "llm_d_epp_request_processing_duration_seconds",
                               "From the whole request read to its dispatch, the queue left out.",
                               { NULL },
                               HIST(processing_buckets) },
    [M_RESPONSE_PROCESSING] = { METRIC_HISTOGRAM,
                                "llm_d_epp_response_processing_duration_seconds",
                                "From the worker's last byte to the end of the answer.",
                                { NULL },
                                HIST(response_buckets) },
    [M_POLL_ERRORS] = { METRIC_COUNTER, "llm_d_epp_datalayer_poll_errors_total",
                        "Scrapes that failed, by page.", LABELS("source_type"), NONE },
    [M_EXTRACT_ERRORS] = { METRIC_COUNTER, "llm_d_epp_datalayer_extract_errors_total",
                           "Metrics of a configured engine that a scraped page lacked.",
                           LABELS("source_type", "extractor_type"), NONE },
    [M_PREFIX_SIZE] = { METRIC_GAUGE, "llm_d_epp_prefix_indexer_size",
                        "Blocks in the own index of prefixes.",
                        LABELS("plugin_name", "plugin_type"), NONE },
    [M_PREFIX_RATIO] = { METRIC_HISTOGRAM, "llm_d_epp_prefix_indexer_hit_ratio",
                         "Matched share of prompts.", LABELS("plugin_name", "plugin_type"),
                         HIST(ratio_buckets) },
    [M_INFLIGHT_REQUESTS] = { METRIC_GAUGE, "llm_d_epp_inflight_requests",
                              "Own unfinished requests at an endpoint.",
                              LABELS("endpoint_name", "namespace", "producer_name"), NONE },
    [M_INFLIGHT_TOKENS] = { METRIC_GAUGE, "llm_d_epp_inflight_tokens",
                            "Own prompt tokens not yet computed at an endpoint.",
                            LABELS("endpoint_name", "namespace", "producer_name"), NONE },
    [M_REWRITES] = { METRIC_COUNTER, "llm_d_epp_model_rewrite_decisions_total",
                     "Requests whose model was rewritten.",
                     LABELS("model_rewrite_name", "model_name", "target_model"), NONE },
    [M_INFO] = { METRIC_GAUGE, "llm_d_epp_info", "Always 1.", LABELS("commit", "build_ref"), NONE },
    [O_INFO] = { METRIC_GAUGE, "inference_extension_info", "Always 1. (older name)",
                 LABELS("commit", "build_ref"), NONE },
    [M_FLOW_QUEUE_SECONDS] = { METRIC_HISTOGRAM,
                               "llm_d_epp_flow_control_request_queue_duration_seconds",
                               "Time in the queue, by what became of the request.",
                               LABELS("fairness_id", "priority", "outcome", "inference_pool",
                                      "model_name", "target_model_name"),
                               HIST(queue_buckets) },
    [M_FLOW_QUEUE_SIZE] = { METRIC_GAUGE, "llm_d_epp_flow_control_queue_size",
                            "Requests that wait for room.",
                            LABELS("fairness_id", "priority", "inference_pool", "model_name",
                                   "target_model_name"),
                            NONE },
    [M_FLOW_QUEUE_BYTES] = { METRIC_GAUGE, "llm_d_epp_flow_control_queue_bytes",
                             "Bodies of the requests that wait.",
                             LABELS("fairness_id", "priority", "inference_pool", "model_name",
                                    "target_model_name"),
                             NONE },
    [M_FLOW_SATURATION] = { METRIC_GAUGE, "llm_d_epp_flow_control_pool_saturation",
                            "How full the endpoints are; 1 = full.",
                            LABELS("inference_pool", "stage"), NONE },
    [M_FLOW_REQUESTS] = { METRIC_COUNTER, "llm_d_epp_flow_control_requests_total",
                          "Requests that came to flow control, by what became of them.",
                          LABELS("outcome", "priority", "inference_pool"), NONE },
    [M_FLOW_USED_REQUESTS] = { METRIC_GAUGE, "llm_d_epp_flow_control_capacity_utilization_requests",
                               "Share of a priority's places in the queue that is taken.",
                               LABELS("priority", "inference_pool"), NONE },
    [M_FLOW_USED_BYTES] = { METRIC_GAUGE, "llm_d_epp_flow_control_capacity_utilization_bytes",
                            "Share of a priority's bytes in the queue that is taken.",
                            LABELS("priority", "inference_pool"), NONE },
    [M_FLOW_REVOCATIONS_ISSUED] = { METRIC_COUNTER,
                                    "llm_d_epp_flow_control_revocations_issued_total",
                                    "Requests in flight that were chosen to end, by the priority "
                                    "of "
                                    "those who waited.",
                                    LABELS("priority", "inference_pool"), NONE },
    [M_FLOW_REVOCATIONS] = { METRIC_COUNTER, "llm_d_epp_flow_control_revocations_total",
                             "What became of requests that were chosen to end: confirmed, "
                             "timed_out.",
                             LABELS("outcome", "inference_pool"), NONE },
    [M_FLOW_RECLAIM_TARGET] = { METRIC_GAUGE, "llm_d_epp_flow_control_reclaim_target",
                                "Saturation above the ceiling of those who waited last.",
                                LABELS("inference_pool"), NONE },
    [M_FLOW_PENDING_RECLAIM] = { METRIC_GAUGE, "llm_d_epp_flow_control_pending_reclaim",
                                 "Saturation expected back from requests that were chosen to end.",
                                 LABELS("inference_pool"), NONE },
    [M_FLOW_REVOCATION_SECONDS] = { METRIC_HISTOGRAM,
                                    "llm_d_epp_flow_control_revocation_confirmation_seconds",
                                    "From the choice of a request to its end.",
                                    LABELS("inference_pool"), HIST(revocation_buckets) },
    [M_EXTPROC_STREAMS] = { METRIC_GAUGE,
                            "llm_d_epp_extproc_streams_inflight",
                            "Open streams of Envoy's.",
                            { NULL },
                            NONE },
    [M_EXTPROC_SECONDS] = { METRIC_HISTOGRAM,
                            "llm_d_epp_extproc_stream_duration_seconds",
                            "Life of a stream.",
                            { NULL },
                            HIST(duration_buckets) },
    [M_EXTPROC_TOTAL] = { METRIC_COUNTER, "llm_d_epp_extproc_streams_total",
                          "Streams by how they ended.", LABELS("code"), NONE },
    [M_L_REQUESTS] = { METRIC_COUNTER,
                       "llmd_scheduler_requests_total",
                       "Answers by status.",
                       { "code" },
                       NONE },
    [M_L_REJECTED] = { METRIC_COUNTER,
                       "llmd_scheduler_rejected_total",
                       "Requests refused or ended by the scheduler itself.",
                       { "reason" },
                       NONE },
    [M_L_RETRIES] = { METRIC_COUNTER,
                      "llmd_scheduler_retries_total",
                      "Further attempts at another endpoint.",
                      { "reason" },
                      NONE },
    [M_L_RETRY_REFUSED] = { METRIC_COUNTER,
                            "llmd_scheduler_retry_budget_exhausted_total",
                            "Retries that the budget did not allow.",
                            { NULL },
                            NONE },
    [M_L_SPLIT] = { METRIC_COUNTER,
                    "llmd_scheduler_split_total",
                    "Requests sent with a prefill worker beside the decode worker.",
                    { NULL },
                    NONE },
    [M_L_NOT_SPLIT] = { METRIC_COUNTER,
                        "llmd_scheduler_not_split_total",
                        "The others, and why.",
                        { "reason" },
                        NONE },
    [M_L_PREDICTED] = { METRIC_COUNTER,
                        "llmd_scheduler_cached_tokens_predicted_total",
                        "Cached prompt tokens that decisions counted on, of answers whose usage "
                        "says the real ones.",
                        { NULL },
                        NONE },
    [M_L_REAL] = { METRIC_COUNTER,
                   "llmd_scheduler_cached_tokens_real_total",
                   "Cached prompt tokens that workers reported for the same requests.",
                   { NULL },
                   NONE },
    [M_L_TTFT] = { METRIC_HISTOGRAM,
                   "llmd_scheduler_ttft_seconds",
                   "From the whole request read to the first byte of its answer.",
                   { NULL },
                   HIST(ttft_buckets) },
    [M_L_INFLIGHT] = { METRIC_GAUGE,
                       "llmd_scheduler_inflight_requests",
                       "Unfinished requests.",
                       { NULL },
                       NONE },
    [M_L_CUT] = { METRIC_COUNTER,
                  "llmd_scheduler_streams_cut_total",
                  "Streams that ended in an error event.",
                  { "reason" },
                  NONE },
    [M_L_CLIENT_GONE] = { METRIC_COUNTER,
                          "llmd_scheduler_client_gone_total",
                          "Requests whose client left before the answer ended.",
                          { NULL },
                          NONE },
    [M_L_STRIPPED] = { METRIC_COUNTER,
                       "llmd_scheduler_stripped_headers_total",
                       "Steering headers that clients sent and that were removed.",
                       { NULL },
                       NONE },
    [M_L_ESTIMATE] = { METRIC_COUNTER,
                       "llmd_render_estimate_total",
                       "Prompts whose tokens were guessed from their bytes (no --model).",
                       { NULL },
                       NONE },
    [M_L_RENDER_FAILED] = { METRIC_COUNTER,
                            "llmd_scheduler_render_failed_total",
                            "Prompts that the model's template could not render here.",
                            { NULL },
                            NONE },
    [M_L_ENDPOINT_STATE] = { METRIC_GAUGE,
                             "llmd_scheduler_endpoint_state",
                             "1 for the state that an endpoint is in.",
                             { "endpoint", "state" },
                             NONE },
    [M_L_ENDPOINT_INFLIGHT] = { METRIC_GAUGE,
                                "llmd_scheduler_endpoint_inflight",
                                "Own unfinished requests at an endpoint.",
                                { "endpoint" },
                                NONE },
    [M_L_ENDPOINT_REQUESTS] = { METRIC_COUNTER,
                                "llmd_scheduler_endpoint_requests_total",
                                "Requests sent to an endpoint.",
                                { "endpoint" },
                                NONE },
    [M_L_PREFILL_RATE] = { METRIC_GAUGE,
                           "llmd_scheduler_endpoint_prefill_seconds_per_token",
                           "Learned from answers; 0 = nothing yet.",
                           { "endpoint" },
                           NONE },
    [M_L_DECODE_RATE] = { METRIC_GAUGE,
                          "llmd_scheduler_endpoint_decode_seconds_per_token",
                          "Learned from answers, one stream alone; 0 = nothing yet.",
                          { "endpoint" },
                          NONE },
    [M_L_EJECTED] = { METRIC_COUNTER,
                      "llmd_scheduler_endpoint_ejected_total",
                      "Times that an endpoint left rotation after errors in a row.",
                      { "endpoint" },
                      NONE },
    [M_L_TOKEN_PROBES] = { METRIC_COUNTER,
                           "llmd_scheduler_token_probes_total",
                           "Workers asked whether they tokenize as --model does, by answer.",
                           { "result" },
                           NONE },
    [M_L_INDEX_BLOCKS] = { METRIC_GAUGE,
                           "llmd_scheduler_index_blocks",
                           "Blocks known, by source.",
                           { "source" },
                           NONE },
    [M_L_REPLICA_UP] = { METRIC_GAUGE,
                         "llmd_scheduler_cache_up",
                         "1 while the cache manager's index is being followed.",
                         { NULL },
                         NONE },
    [M_L_READ_SECONDS] = { METRIC_HISTOGRAM,
                           "llmd_scheduler_read_seconds",
                           "Time to parse, render, tokenize and key a request.",
                           { NULL },
                           HIST(quick_buckets) },
    [M_L_WAITED] = { METRIC_COUNTER,
                     "llmd_scheduler_waited_total",
                     "Requests that waited for a worker to come back.",
                     { NULL },
                     NONE },
    [M_L_WASTED] = { METRIC_COUNTER,
                     "llmd_wasted_tokens_total",
                     "Answer tokens of attempts that were cut.",
                     { NULL },
                     NONE },
    [M_L_STRATEGY] = { METRIC_COUNTER,
                       "llmd_scheduler_decisions_total",
                       "Decisions by the rule that made them.",
                       { "strategy" },
                       NONE },
    [M_L_LOG_DROPPED] = { METRIC_GAUGE,
                          "llmd_scheduler_access_log_dropped",
                          "Lines of the access log that its target was too slow for.",
                          { NULL },
                          NONE },
    [M_L_SPANS] = { METRIC_COUNTER,
                    "llmd_scheduler_trace_spans_total",
                    "Spans by what became of them: exported, dropped.",
                    { "outcome" },
                    NONE },
    [M_L_RELOADS] = { METRIC_COUNTER,
                      "llmd_config_reloads_total",
                      "Files taken over while running, by what they are.",
                      { "file" },
                      NONE },
    [M_L_RELOAD_FAILURES] = { METRIC_COUNTER,
                              "llmd_config_reload_failures_total",
                              "Files refused while running: what was there before stays.",
                              { "file" },
                              NONE },
    [M_CRD_PRESENT] = { METRIC_GAUGE,
                        "llm_d_epp_optional_crd_present",
                        "1 when the Kubernetes API server knows the kind.",
                        { "crd" },
                        NONE },
    [M_L_FOLLOWED] = { METRIC_GAUGE,
                       "llmd_kube_followed",
                       "1 while the objects of the kind are followed; 0: the last view is used.",
                       { "resource" },
                       NONE },
    [M_L_FOLLOW_ERRORS] = { METRIC_COUNTER,
                            "llmd_kube_errors_total",
                            "Lists and watches that failed.",
                            { "resource" },
                            NONE },
    [M_LEADS] = { METRIC_GAUGE,
                  "leader_election_master_status",
                  "1 while this replica leads by the Lease; 0: it stands by.",
                  { "name" },
                  NONE },
    [M_L_CERT_EXPIRES] = { METRIC_GAUGE,
                           "llmd_tls_certificate_expires_timestamp_seconds",
                           "When the certificate in use ends; 0 = no TLS.",
                           { NULL },
                           NONE },
    [M_L_AUTH_FAILURES] = { METRIC_COUNTER,
                            "llmd_auth_failures_total",
                            "Requests without a good key, by why.",
                            { "reason" },
                            NONE },
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

struct metric_cell *gateway_cell_of(struct gateway *g, enum gateway_metric m,
                                    const char *const *values)
{
    return metrics_cell(g->metrics, m, values);
}

/* ---- cells of requests ---- */

struct request_set {
    struct request_cells cells;
    char *key;
};

struct request_metrics {
    struct metrics *m;
    struct map sets;  /* text key -> struct request_set */
    struct map names; /* model names seen */
};

struct request_metrics *request_metrics_new(struct metrics *m)
{
    struct request_metrics *rm = mem_zalloc(sizeof(*rm));

    rm->m = m;
    return rm;
}

void request_metrics_free(struct request_metrics *rm)
{
    if (rm == NULL)
        return;
    for (size_t i = map_next(&rm->sets, 0); i < rm->sets.cap; i = map_next(&rm->sets, i + 1)) {
        struct request_set *s = (struct request_set *)(uintptr_t)rm->sets.slot[i].value;

        mem_free(s->key);
        mem_free(s);
    }
    for (size_t i = map_next(&rm->names, 0); i < rm->names.cap; i = map_next(&rm->names, i + 1))
        mem_free((void *)(uintptr_t)rm->names.slot[i].value);
    map_fini(&rm->sets);
    map_fini(&rm->names);
    mem_free(rm);
}

/* The name as a label: bounded in number, because clients choose it. */
static const char *bounded_name(struct request_metrics *rm, struct str name)
{
    uint64_t at;
    char *copy;

    if (name.p == NULL || name.n == 0)
        return "";
    if (map_gets(&rm->names, name, &at))
        return (const char *)(uintptr_t)at;
    if (rm->names.count >= MODEL_NAMES_MAX || name.n > 256)
        return "other";
    copy = str_dup(name);
    if (!map_puts(&rm->names, str_of(copy), (uint64_t)(uintptr_t)copy)) {
        mem_free(copy);
        return "other";
    }
    return copy;
}

static void fill(struct request_metrics *rm, struct request_cells *c, const char *const *v)
{
    const char *streaming[5] = { v[0], v[1], v[2], v[3], "false" };
    const char *older[3] = { v[0], v[1], v[3] };
    const char *done = flow_outcome_name(FLOW_DISPATCHED);
    const char *queued[6] = { v[2], v[3], done, gateway_pool, v[0], v[1] };
    const char *outcome[3] = { done, v[3], gateway_pool };

    for (int f = R_REQUESTS; f <= R_ITL; f++)
        c->r[f] = f == R_ERRORS || f == R_TTFT ? NULL : metrics_cell(rm->m, (size_t)f, v);
    for (int f = O_REQUESTS; f <= O_NTPOT; f++)
        c->o[f - O_REQUESTS] = f == O_ERRORS ? NULL : metrics_cell(rm->m, (size_t)f, older);
    c->ttft[0] = metrics_cell(rm->m, R_TTFT, streaming);
    c->queued = metrics_cell(rm->m, M_FLOW_QUEUE_SECONDS, queued);
    c->dispatched = metrics_cell(rm->m, M_FLOW_REQUESTS, outcome);
    streaming[4] = "true";
    c->ttft[1] = metrics_cell(rm->m, R_TTFT, streaming);
}

const struct request_cells *request_metrics_cells(struct request_metrics *rm, struct str model,
                                                  struct str target, const char *fairness_id,
                                                  int32_t priority)
{
    const char *v[4] = { bounded_name(rm, model), bounded_name(rm, target), fairness_id, NULL };
    struct request_set *s;
    char number[16], key[1024];
    uint64_t at;
    int n;

    snprintf(number, sizeof(number), "%" PRId32, priority);
    v[3] = number;
    n = snprintf(key, sizeof(key), "%s%c%s%c%s%c%s", v[0], 1, v[1], 1, v[2], 1, v[3]);
    if (map_gets(&rm->sets, (struct str) { key, (size_t)MIN(n, (int)sizeof(key) - 1) }, &at))
        return &((struct request_set *)(uintptr_t)at)->cells;
    if (rm->sets.count >= REQUEST_SETS_MAX) {
        v[2] = "other";
        n = snprintf(key, sizeof(key), "%s", "other");
        v[0] = v[1] = "other";
        if (map_gets(&rm->sets, STR("other"), &at))
            return &((struct request_set *)(uintptr_t)at)->cells;
    }
    s = mem_zalloc(sizeof(*s));
    s->key = mem_strdup(key);
    fill(rm, &s->cells, v);
    if (!map_puts(&rm->sets, str_of(s->key), (uint64_t)(uintptr_t)s))
        LOG_ERROR("no memory for the books of a label set");
    return &s->cells;
}

void request_metrics_error(struct request_metrics *rm, struct str model, struct str target,
                           const char *fairness_id, int32_t priority, int status)
{
    char number[16], code[8];
    const char *v[5] = { bounded_name(rm, model), bounded_name(rm, target), fairness_id, number,
                         code };
    const char *older[3] = { v[0], v[1], code };

    snprintf(number, sizeof(number), "%" PRId32, priority);
    snprintf(code, sizeof(code), "%d", status);
    metric_add(metrics_cell(rm->m, R_ERRORS, v), 1);
    metric_add(metrics_cell(rm->m, O_ERRORS, older), 1);
}
