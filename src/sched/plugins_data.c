/* Rows of parsers, data sources, extractors and discovery. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/plugins_data.h"
#include "base/check.h"
#include "codec/yaml.h"
#include "sched/plugin.h"
#include "sched/plugin_types_priv.h"
#include <stdio.h>
#include <string.h>

#define ENGINES_MAX 32

/* ---- parsers ---- */

#define PARSER(word)                                                                               \
    {                                                                                              \
        .type = word, .roles = ROLE_PARSER,                                                        \
    }

static const struct plugin_type parsers[] = {
    PARSER("openai-parser"),      PARSER("anthropic-parser"), PARSER("vllmhttp-parser"),
    PARSER("sglanghttp-parser"),  PARSER("vllmgrpc-parser"),  PARSER("vertexai-parser"),
    PARSER("passthrough-parser"),
};

/* ---- data sources ---- */

static const char *const schemes[] = { "http", "https", NULL };

#define AT(field) offsetof(struct data_http_params, field)

#define SCHEME(def)                                                                                \
    {                                                                                              \
        .name = "scheme", .kind = PARAM_WORD, .at = AT(scheme), .value = def, .words = schemes     \
    }
#define PATH(def)                                                                                  \
    {                                                                                              \
        .name = "path", .kind = PARAM_STR, .at = AT(path), .value = def                            \
    }
#define PORT(def, says)                                                                            \
    {                                                                                              \
        .name = "port", .kind = PARAM_U32, .at = AT(port), .value = def, .min = 1, .max = 65535,   \
        .help = says                                                                               \
    }
#define VERIFY(def)                                                                                \
    {                                                                                              \
        .name = "insecureSkipVerify", .kind = PARAM_BOOL, .at = AT(insecure_skip_verify),          \
        .value = def, .help = "certificates are not checked"                                       \
    }
#define CERTIFICATES                                                                               \
    { .name = "caCertPath", .kind = PARAM_STR, .at = AT(ca_cert_path) },                           \
        { .name = "clientCertPath", .kind = PARAM_STR, .at = AT(client_cert_path) },               \
    {                                                                                              \
        .name = "clientKeyPath", .kind = PARAM_STR, .at = AT(client_key_path)                      \
    }
#define INTERVAL                                                                                   \
    {                                                                                              \
        .name = "interval", .kind = PARAM_DURATION_MS, .at = AT(interval_ms),                      \
        .help = "empty: every tick; else rounded to whole ticks"                                   \
    }

static const struct plugin_param metrics_params[] = {
    SCHEME("http"), PATH("/metrics"), PORT(NULL, "instead of the endpoint's own"),
    VERIFY("true"), CERTIFICATES,     INTERVAL,
};
static const struct plugin_param models_params[] = {
    SCHEME("http"), PATH("/v1/models"), VERIFY("true"), CERTIFICATES, INTERVAL,
};
static const struct plugin_param dcgm_params[] = {
    SCHEME("http"),
    PATH("/metrics"),
    PORT("9400", "of the exporter"),
    VERIFY("true"),
    { .name = "useNodeAddress",
      .kind = PARAM_BOOL,
      .at = AT(use_node_address),
      .help = "the exporter listens at the node" },
    INTERVAL,
};
static const struct plugin_param multicluster_params[] = {
    SCHEME("https"), PATH("/metrics"), PORT(NULL, "instead of the endpoint's own"),
    VERIFY("false"), CERTIFICATES,     INTERVAL,
};
#undef AT

static int check_http(const void *params, struct err *e)
{
    const struct data_http_params *p = params;

    if (p->path.n == 0 || p->path.p[0] != '/')
        return err_set(e, ERR_INVAL, "path: must begin with /");
    if ((p->client_cert_path.n == 0) != (p->client_key_path.n == 0))
        return err_set(e, ERR_INVAL, "%s: needs %s beside it",
                       p->client_key_path.n == 0 ? "clientCertPath" : "clientKeyPath",
                       p->client_key_path.n == 0 ? "clientKeyPath" : "clientCertPath");
    return 0;
}

#define HTTP_SOURCE(word, is_alpha, table)                                                         \
    {                                                                                              \
        .type = word, .roles = ROLE_SOURCE, .alpha = is_alpha,                                     \
        .params_size = sizeof(struct data_http_params), .params = table,                           \
        .param_count = COUNT(table), .check = check_http                                           \
    }

static const struct plugin_param k8s_params[] = {
    { .name = "group", .kind = PARAM_STR, .at = offsetof(struct data_k8s_params, group) },
    { .name = "version",
      .kind = PARAM_STR,
      .at = offsetof(struct data_k8s_params, version),
      .required = true },
    { .name = "kind",
      .kind = PARAM_STR,
      .at = offsetof(struct data_k8s_params, kind),
      .required = true },
};

static const struct plugin_type sources[] = {
    HTTP_SOURCE("metrics-data-source", false, metrics_params),
    HTTP_SOURCE("models-data-source", false, models_params),
    HTTP_SOURCE("dcgm-data-source", true, dcgm_params),
    HTTP_SOURCE("multicluster-metrics-data-source", true, multicluster_params),
    { .type = "k8s-notification-source",
      .roles = ROLE_SOURCE,
      .params_size = sizeof(struct data_k8s_params),
      .params = k8s_params,
      .param_count = COUNT(k8s_params) },
    { .type = "endpoint-notification-source", .roles = ROLE_SOURCE },
};

/* ---- core-metrics-extractor ---- */

/* A metric in member `key` of n. */
static int take_spec(const struct yaml_node *n, const char *path, const char *key, struct arena *a,
                     struct metric_spec *out, struct err *e)
{
    const struct yaml_node *m = yaml_get(n, key);
    struct err own;
    struct str s;

    if (yaml_is_null(m))
        return 0;
    if (!yaml_str(m, &s))
        return yaml_err(m, e, "%s.%s: must be text", path, key);
    if (metric_spec_parse(out, s, a, &own) != 0)
        return yaml_err(m, e, "%s.%s: %s", path, key, own.msg);
    return 0;
}

static int take_custom(const struct yaml_node *n, const char *path, struct arena *a,
                       struct metric_engine *engine, struct err *e)
{
    static const char *const known[] = { "attributeKey", "metricSpec", NULL };
    const struct yaml_node *list = yaml_get(n, "customMetrics"), *odd;
    struct metric_custom *custom;

    if (yaml_is_null(list))
        return 0;
    if (!yaml_is(list, YAML_LIST) || list->count > METRIC_CUSTOM_MAX)
        return yaml_err(list, e, "%s.customMetrics: must be a list of at most %d", path,
                        METRIC_CUSTOM_MAX);
    custom = arena_try_zero(a, list->count, sizeof(*custom));
    if (custom == NULL)
        return err_set(e, ERR_NOMEM, "no memory");
    engine->custom = custom;
    for (const struct yaml_node *m = list->first; m != NULL; m = m->next) {
        struct metric_custom *c = &custom[engine->custom_count++];
        char at[160];
        int rc;

        snprintf(at, sizeof(at), "%s.customMetrics[%u]", path, engine->custom_count - 1);
        odd = yaml_unknown(m, known);
        if (odd != NULL)
            return yaml_err_key(odd, e, "%s.%.60s: unknown field", at, odd->key.p);
        if (!yaml_str(yaml_get(m, "attributeKey"), &c->attribute) || c->attribute.n == 0)
            return yaml_err(m, e, "%s.attributeKey: missing", at);
        rc = take_spec(m, at, "metricSpec", a, &c->spec, e);
        if (rc != 0)
            return rc;
        if (c->spec.name.n == 0)
            return yaml_err(m, e, "%s.metricSpec: missing", at);
    }
    return 0;
}

static int take_engine(const struct yaml_node *n, const char *path, struct arena *a,
                       struct metric_engine *out, struct err *e)
{
    static const char *const known[] = { "name",
                                         "queuedRequestsSpec",
                                         "runningRequestsSpec",
                                         "kvUsageSpec",
                                         "loraSpec",
                                         "cacheInfoSpec",
                                         "cacheBlockSizeLabelName",
                                         "cacheNumBlocksLabelName",
                                         "cacheBlockSizeSpec",
                                         "cacheNumBlocksSpec",
                                         "customMetrics",
                                         NULL };
    const struct {
        const char *key;
        struct metric_spec *at;
    } specs[] = {
        { "queuedRequestsSpec", &out->waiting },
        { "runningRequestsSpec", &out->running },
        { "kvUsageSpec", &out->kv_usage },
        { "loraSpec", &out->lora },
        { "cacheInfoSpec", &out->cache_info },
        { "cacheBlockSizeSpec", &out->cache_block_size },
        { "cacheNumBlocksSpec", &out->cache_blocks },
    };
    const struct yaml_node *odd = yaml_unknown(n, known);

    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "%s: must be a map", path);
    if (odd != NULL)
        return yaml_err_key(odd, e, "%s.%.60s: unknown field", path, odd->key.p);
    if (!yaml_str(yaml_get(n, "name"), &out->name) || out->name.n == 0)
        return yaml_err(n, e, "%s.name: missing", path);
    if (str_eqz(out->name, "default"))
        return yaml_err(yaml_get(n, "name"), e,
                        "%s.name: default is reserved; name an engine and set defaultEngine", path);
    for (size_t i = 0; i < COUNT(specs); i++) {
        int rc = take_spec(n, path, specs[i].key, a, specs[i].at, e);

        if (rc != 0)
            return rc;
    }
    yaml_str(yaml_get(n, "cacheBlockSizeLabelName"), &out->cache_block_size_label);
    yaml_str(yaml_get(n, "cacheNumBlocksLabelName"), &out->cache_blocks_label);
    return take_custom(n, path, a, out, e);
}

static int take_engines(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct data_core_metrics_params *p = params;
    struct metric_engine *engine;
    uint32_t i = 0;

    if (!yaml_is(n, YAML_LIST) || n->count > ENGINES_MAX)
        return yaml_err(n, e, "must be a list of at most %d engines", ENGINES_MAX);
    engine = arena_try_zero(a, n->count, sizeof(*engine));
    if (engine == NULL)
        return err_set(e, ERR_NOMEM, "no memory");
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next, i++) {
        char path[64];
        int rc;

        snprintf(path, sizeof(path), "engineConfigs[%u]", i);
        rc = take_engine(m, path, a, &engine[i], e);
        if (rc != 0)
            return rc;
        for (uint32_t k = 0; k < i; k++)
            if (str_eq(engine[k].name, engine[i].name))
                return yaml_err(m, e, "%s.name: engine \"%.60s\" is configured twice", path,
                                engine[i].name.p);
    }
    p->engine = engine;
    p->engine_count = i;
    return 0;
}

static const struct metric_engine *configured(const struct data_core_metrics_params *p,
                                              struct str name)
{
    for (uint32_t i = 0; i < p->engine_count; i++)
        if (str_eq(p->engine[i].name, name))
            return &p->engine[i];
    return metric_engine_find(name);
}

const struct metric_engine *data_engine(const struct data_core_metrics_params *p, struct str label)
{
    const struct metric_engine *found = configured(p, label);

    return found != NULL ? found : configured(p, p->default_engine);
}

static int check_core_metrics(const void *params, struct err *e)
{
    const struct data_core_metrics_params *p = params;

    if (configured(p, p->default_engine) == NULL)
        return err_set(e, ERR_INVAL, "defaultEngine: no engine is named \"%.*s\"",
                       STR_ARG(p->default_engine));
    return 0;
}

static const struct plugin_param core_params[] = {
    { .name = "engineLabelKey",
      .kind = PARAM_STR,
      .at = offsetof(struct data_core_metrics_params, engine_label_key),
      .value = "llm-d.ai/engine-type" },
    { .name = "defaultEngine",
      .kind = PARAM_STR,
      .at = offsetof(struct data_core_metrics_params, default_engine),
      .value = "vllm" },
    { .name = "engineConfigs", .kind = PARAM_CUSTOM, .decode = take_engines },
};

/* ---- the other extractors ---- */

static const struct plugin_param aggregate_params[] = {
    { .name = "kvCacheUtilizationMetric",
      .kind = PARAM_STR,
      .at = offsetof(struct data_multicluster_params, kv_usage),
      .value = "llm_d_epp_average_kv_cache_utilization" },
    { .name = "queueSizeMetric",
      .kind = PARAM_STR,
      .at = offsetof(struct data_multicluster_params, queue_size),
      .value = "llm_d_epp_average_queue_size" },
};

static const char *const core_gives[] = { "WaitingQueueSize",    "RunningRequestsSize",
                                          "KVCacheUsagePercent", "ActiveModels",
                                          "WaitingModels",       NULL };
static const char *const models_gives[] = { "/v1/models", NULL };
static const char *const dcgm_gives[] = { "GPUUtilization", NULL };
static const char *const multicluster_gives[] = { "llm-d.ai/multicluster-queue-size",
                                                  "llm-d.ai/multicluster-kv-cache-utilization",
                                                  NULL };

static const struct plugin_type extractors[] = {
    { .type = "core-metrics-extractor",
      .roles = ROLE_EXTRACTOR,
      .params_size = sizeof(struct data_core_metrics_params),
      .params = core_params,
      .param_count = COUNT(core_params),
      .check = check_core_metrics,
      .gives = core_gives },
    { .type = "models-data-extractor", .roles = ROLE_EXTRACTOR, .gives = models_gives },
    { .type = "dcgm-extractor", .roles = ROLE_EXTRACTOR, .alpha = true, .gives = dcgm_gives },
    { .type = "multicluster-metrics-extractor",
      .roles = ROLE_EXTRACTOR,
      .alpha = true,
      .params_size = sizeof(struct data_multicluster_params),
      .params = aggregate_params,
      .param_count = COUNT(aggregate_params),
      .gives = multicluster_gives },
};

/* ---- discovery ---- */

static const struct plugin_param discovery_params[] = {
    { .name = "path",
      .kind = PARAM_STR,
      .at = offsetof(struct data_discovery_params, path),
      .required = true },
    { .name = "watchFile",
      .kind = PARAM_BOOL,
      .at = offsetof(struct data_discovery_params, watch),
      .help = "read again when it changes" },
};

static int check_discovery(const void *params, struct err *e)
{
    const struct data_discovery_params *p = params;

    return p->path.n != 0 ? 0 : err_set(e, ERR_INVAL, "path: empty");
}

#define DISCOVERY(word, is_alpha)                                                                  \
    {                                                                                              \
        .type = word, .roles = ROLE_DISCOVERY, .alpha = is_alpha,                                  \
        .params_size = sizeof(struct data_discovery_params), .params = discovery_params,           \
        .param_count = COUNT(discovery_params), .check = check_discovery                           \
    }

static const struct plugin_type discoveries[] = {
    DISCOVERY("file-discovery", false),
    DISCOVERY("multicluster-file-discovery", true),
};

const struct plugin_type *const plugin_data[] = {
    &parsers[0],     &parsers[1],     &parsers[2],
    &parsers[3],     &parsers[4],     &parsers[5],
    &parsers[6],     &sources[0],     &sources[1],
    &sources[2],     &sources[3],     &sources[4],
    &sources[5],     &extractors[0],  &extractors[1],
    &extractors[2],  &extractors[3],  &plugin_topology_extractor,
    &discoveries[0], &discoveries[1], NULL,
};
