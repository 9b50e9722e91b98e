/* sched/plugins_data.h - parameters of parsers, data sources, extractors and discovery.
 * (topology-extractor has its own, in sched/topology.h.)
 *
 * Types only: the work itself is done by who reads the network (the gateway), which finds its
 * parameters through sched_plugin_conf.params.
 * Source: the project's scheduler page, 7.1 and 8.
 * Threads: immutable once loaded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PLUGINS_DATA_H
#define SCHED_PLUGINS_DATA_H
#include "sched/metric_spec.h"

/* metrics-, models-, dcgm- and multicluster-metrics-data-source. */
struct data_http_params {
    int scheme; /* 0 http, 1 https */
    struct str path;
    uint32_t port; /* 0: the endpoint's own */
    bool insecure_skip_verify, use_node_address;
    struct str ca_cert_path, client_cert_path, client_key_path; /* n == 0: none */
    uint32_t interval_ms;                                       /* 0: every tick */
};

struct data_k8s_params { /* k8s-notification-source */
    struct str group, version, kind;
};

struct data_core_metrics_params { /* core-metrics-extractor */
    struct str engine_label_key, default_engine;
    const struct metric_engine *engine; /* configured ones only: ask data_engine() */
    uint32_t engine_count;
};

struct data_multicluster_params { /* multicluster-metrics-extractor: families */
    struct str kv_usage, queue_size;
};

struct data_discovery_params { /* file-discovery, multicluster-file-discovery */
    struct str path;
    bool watch;
};

#define DATA_ENGINE_LABEL_LEGACY "inference.networking.k8s.io/engine-type"

/* The mapping for the value of an endpoint's engine label (empty: it has none).  A configured
 * engine goes before the built-in one of its name; an unknown one is the default engine. */
const struct metric_engine *data_engine(const struct data_core_metrics_params *p, struct str label);
#endif
