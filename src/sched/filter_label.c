/* Filters by labels: a Kubernetes selector, and the older form with one label. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"

/* ---- label-selector-filter ---- */

static void by_selector(struct plugin *p, const struct sched_view *v, bool *keep)
{
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] = keep[i] && label_selector_match(p->params, &v->ep[i]);
}

/* The parameters are the selector itself: either half is added to what the other one gave. */
static int decode_half(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct label_selector *out = params, half;
    struct yaml_node alone = *n, map = { .type = YAML_MAP, .count = 1, .first = &alone };
    struct label_requirement *all;
    int rc;

    alone.next = NULL;
    map.line = n->line;
    map.column = n->column;
    map.file = n->file;
    rc = params_selector(&map, a, &half, e);
    if (rc != 0)
        return rc;
    all = arena_alloc(a, (out->count + half.count + 1) * sizeof(*all));
    for (uint32_t i = 0; i < out->count; i++)
        all[i] = out->requirement[i];
    for (uint32_t i = 0; i < half.count; i++)
        all[out->count + i] = half.requirement[i];
    *out = (struct label_selector) { all, out->count + half.count };
    return 0;
}

static const struct plugin_param SELECTOR_PARAMS[] = {
    { .name = "matchLabels",
      .kind = PARAM_CUSTOM,
      .decode = decode_half,
      .help = "map of labels and values: all must be equal" },
    { .name = "matchExpressions",
      .kind = PARAM_CUSTOM,
      .decode = decode_half,
      .help = "list of key, operator (In, NotIn, Exists, DoesNotExist), values: all must hold" },
};

const struct plugin_type plugin_label_selector_filter = {
    .type = "label-selector-filter",
    .roles = ROLE_FILTER,
    .params_size = sizeof(struct label_selector),
    .params = SELECTOR_PARAMS,
    .param_count = COUNT(SELECTOR_PARAMS),
    .filter = by_selector,
};

const struct plugin_type plugin_by_label_selector = {
    .type = "by-label-selector",
    .roles = ROLE_FILTER,
    .deprecated = "by-label-selector is deprecated: use label-selector-filter",
    .params_size = sizeof(struct label_selector),
    .params = SELECTOR_PARAMS,
    .param_count = COUNT(SELECTOR_PARAMS),
    .filter = by_selector,
};

/* ---- by-label ---- */

static int decode_values(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_list(n, a, &((struct by_label_params *)params)->valid_values, e);
}

static const struct plugin_param LABEL_PARAMS[] = {
    { .name = "label",
      .kind = PARAM_STR,
      .at = offsetof(struct by_label_params, label),
      .required = true,
      .help = "name of the label" },
    { .name = "validValues",
      .kind = PARAM_CUSTOM,
      .decode = decode_values,
      .help = "values that are kept; the empty one also keeps endpoints without the label" },
    { .name = "allowsNoLabel",
      .kind = PARAM_BOOL,
      .at = offsetof(struct by_label_params, allows_no_label),
      .help = "keeps endpoints without the label" },
};

static int check_label(const void *params, struct err *e)
{
    if (((const struct by_label_params *)params)->label.n == 0)
        return err_set(e, ERR_INVAL, "label: must not be empty");
    return 0;
}

static void by_label(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct by_label_params *c = p->params;

    for (uint32_t i = 0; i < v->count; i++) {
        struct str value = sched_endpoint_label(&v->ep[i], c->label);
        bool is_one = value.p == NULL && c->allows_no_label;

        for (uint32_t k = 0; k < c->valid_values.count && !is_one; k++)
            is_one = str_eq(c->valid_values.item[k], value);
        keep[i] &= is_one;
    }
}

const struct plugin_type plugin_by_label = {
    .type = "by-label",
    .roles = ROLE_FILTER,
    .deprecated = "by-label is deprecated: use label-selector-filter",
    .params_size = sizeof(struct by_label_params),
    .params = LABEL_PARAMS,
    .param_count = COUNT(LABEL_PARAMS),
    .check = check_label,
    .filter = by_label,
};
