/* The scheduling types, in lists by what they do. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/plugin_types_priv.h"

const struct plugin_type *const plugin_filters[] = {
    &plugin_decode_filter,     &plugin_prefill_filter,
    &plugin_encode_filter,     &plugin_label_selector_filter,
    &plugin_by_label_selector, &plugin_by_label,
    &plugin_context_length,    &plugin_prefix_affinity_filter,
    &plugin_headroom_filter,   &plugin_utilization_filter,
    &plugin_attribute_filter,  &plugin_session_affinity_filter,
    &plugin_topology_filter,   &plugin_multicluster_session_affinity_filter,
    &plugin_testing_filter,    NULL,
};

const struct plugin_type *const plugin_scorers[] = {
    &plugin_queue_scorer,
    &plugin_running_requests_scorer,
    &plugin_kv_scorer,
    &plugin_load_aware_scorer,
    &plugin_prefix_scorer,
    &plugin_precise_scorer,
    &plugin_lora_scorer,
    &plugin_token_load_scorer,
    &plugin_active_request_scorer,
    &plugin_no_hit_lru_scorer,
    &plugin_session_affinity_scorer,
    &plugin_latency_scorer,
    &plugin_media_scorer,
    &plugin_attribute_scorer,
    &plugin_header_label_scorer,
    &plugin_topology_scorer,
    &plugin_multicluster_queue_scorer,
    &plugin_multicluster_kv_scorer,
    &plugin_multicluster_prefix_scorer,
    &plugin_cost_scorer,
    NULL,
};

const struct plugin_type *const plugin_pickers[] = {
    &plugin_max_score_picker,
    &plugin_random_picker,
    &plugin_weighted_random_picker,
    NULL,
};

const struct plugin_type *const plugin_handlers[] = {
    &plugin_single_handler,
    &plugin_disagg_handler,
    &plugin_pd_handler,
    &plugin_data_parallel_handler,
    &plugin_header_handler,
    &plugin_disagg_headers,
    &plugin_prefill_header,
    &plugin_always_decider,
    &plugin_prefix_decider,
    &plugin_media_decider,
    NULL,
};

const struct plugin_type *const plugin_producers[] = {
    &plugin_approx_producer,     &plugin_multicluster_approx_producer,
    &plugin_precise_producer,    &plugin_token_producer,
    &plugin_tokenizer_producer,  &plugin_inflight_producer,
    &plugin_session_id_producer, &plugin_latency_producer,
    &plugin_media_producer,      &plugin_p2p_producer,
    &plugin_burst_producer,      NULL,
};

const struct plugin_type *const plugin_requests[] = {
    &plugin_probabilistic_admitter,
    &plugin_latency_admitter,
    &plugin_rollout_screener,
    &plugin_agent_identity,
    &plugin_served_verifier,
    &plugin_usage_reporter,
    NULL,
};
