/* The topology plugins: near the endpoint that the other side of a split runs on. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/topology.h"
#include "base/check.h"
#include "sched/config.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"

static const char EXTRACTOR[] = "topology-extractor";

enum topology_level topology_common(const struct topology_labels *l, const struct sched_endpoint *a,
                                    const struct sched_endpoint *b)
{
    for (int level = TOPOLOGY_HOST; level < TOPOLOGY_NONE; level++) {
        struct str x = sched_endpoint_label(a, l->label[level]);

        if (x.n != 0 && str_eq(x, sched_endpoint_label(b, l->label[level])))
            return (enum topology_level)level;
    }
    return TOPOLOGY_NONE;
}

/* ---- topology-extractor ---- */

#define LABEL_ROW(key, level, text)                                                                \
    {                                                                                              \
        .name = key, .kind = PARAM_STR,                                                            \
        .at = offsetof(struct topology_labels, label) + (level) * sizeof(struct str),              \
        .value = text, .help = "label that names it"                                               \
    }

static const struct plugin_param EXTRACTOR_PARAMS[] = {
    LABEL_ROW("hostname", TOPOLOGY_HOST, "kubernetes.io/hostname"),
    LABEL_ROW("rack", TOPOLOGY_RACK, "topology.kubernetes.io/rack"),
    LABEL_ROW("zone", TOPOLOGY_ZONE, "topology.kubernetes.io/zone"),
    LABEL_ROW("region", TOPOLOGY_REGION, "topology.kubernetes.io/region"),
};

static const char *const GIVES[] = { "Topology", NULL };

const struct plugin_type plugin_topology_extractor = {
    .type = EXTRACTOR,
    .roles = ROLE_EXTRACTOR,
    .alpha = true,
    .params_size = sizeof(struct topology_labels),
    .params = EXTRACTOR_PARAMS,
    .param_count = COUNT(EXTRACTOR_PARAMS),
    .gives = GIVES,
};

/* ---- its users ---- */

static const struct topology_labels DEFAULT_LABELS = {
    { { "kubernetes.io/hostname", 22 },
      { "topology.kubernetes.io/rack", 27 },
      { "topology.kubernetes.io/zone", 27 },
      { "topology.kubernetes.io/region", 29 } },
};

static const struct topology_labels *labels_of(const struct plugin *p)
{
    const struct topology_params *c = p->params;
    struct str name = c->producer.n != 0 ? c->producer : str_of(EXTRACTOR);
    const struct sched_config *config;
    int at;

    if (p->pipeline == NULL)
        return &DEFAULT_LABELS;
    config = sched_pipeline_config(p->pipeline);
    at = sched_config_find(config, name);
    if (at < 0 || config->plugin[at].type != &plugin_topology_extractor)
        return &DEFAULT_LABELS;
    return config->plugin[at].params;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct topology_params *c = p->params;
    const struct topology_labels *l = labels_of(p);
    bool some = false;

    if (v->peer == SCHED_NONE)
        return;
    for (uint32_t i = 0; i < v->count && !some; i++)
        some = keep[i] && (int)topology_common(l, &v->ep[i], &v->ep[v->peer]) <= c->min_affinity;
    for (uint32_t i = 0; i < v->count && some; i++)
        keep[i] &= (int)topology_common(l, &v->ep[i], &v->ep[v->peer]) <= c->min_affinity;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    static const double SCORES[] = { 1, 0.2, 0.05, 0.02, 0 };
    const struct topology_labels *l = labels_of(p);

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] =
                v->peer == SCHED_NONE ? 0 : SCORES[topology_common(l, &v->ep[i], &v->ep[v->peer])];
}

static const char *const LEVELS[] = { "host", "rack", "zone", "region", NULL };

#define PRODUCER_ROW                                                                               \
    {                                                                                              \
        .name = "topologyProducerName", .kind = PARAM_STR,                                         \
        .at = offsetof(struct topology_params, producer),                                          \
        .help = "the extractor that says which labels"                                             \
    }

static const struct plugin_param FILTER_PARAMS[] = {
    { .name = "minAffinity",
      .kind = PARAM_WORD,
      .at = offsetof(struct topology_params, min_affinity),
      .value = "host",
      .words = LEVELS,
      .help = "the widest level that is near enough" },
    PRODUCER_ROW,
};

static const struct plugin_param SCORER_PARAMS[] = { PRODUCER_ROW };

const struct plugin_type plugin_topology_filter = {
    .type = "topology-affinity-filter",
    .roles = ROLE_FILTER,
    .alpha = true,
    .params_size = sizeof(struct topology_params),
    .params = FILTER_PARAMS,
    .param_count = COUNT(FILTER_PARAMS),
    .filter = filter,
};

const struct plugin_type plugin_topology_scorer = {
    .type = "topology-affinity-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .params_size = sizeof(struct topology_params),
    .params = SCORER_PARAMS,
    .param_count = COUNT(SCORER_PARAMS),
    .score = score,
};
