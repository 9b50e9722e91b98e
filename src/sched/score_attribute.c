/* endpoint-attribute-scorer: any number an endpoint says of itself, on a straight line.
 * header-label-affinity-scorer: a header of the request against a label. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

/* ---- endpoint-attribute-scorer ---- */

#define P struct attribute_scorer_params

static const struct plugin_param FIXED[] = {
    { .name = "min", .kind = PARAM_F64, .at = offsetof(P, min), .required = true },
    { .name = "max", .kind = PARAM_F64, .at = offsetof(P, max), .required = true },
};

static int decode_fixed(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;
    int rc = params_decode(n, FIXED, COUNT(FIXED), "fixedRange", a, c, e);

    c->is_fixed = true;
    if (rc == 0 && !(c->min < c->max))
        return yaml_err(n, e, "fixedRange: min must be less than max");
    return rc;
}

static int decode_adaptive(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_decode(n, NULL, 0, "adaptiveRange", a, params, e);
}

static const struct plugin_param NORMALIZATION[] = {
    { .name = "fixedRange", .kind = PARAM_CUSTOM, .decode = decode_fixed },
    { .name = "adaptiveRange", .kind = PARAM_CUSTOM, .decode = decode_adaptive },
};

static int decode_normalization(const struct yaml_node *n, struct arena *a, void *params,
                                struct err *e)
{
    if (yaml_is(n, YAML_MAP) && n->count > 1)
        return yaml_err(n, e, "normalization: needs one of fixedRange and adaptiveRange");
    return params_decode(n, NORMALIZATION, COUNT(NORMALIZATION), "normalization", a, params, e);
}

static int decode_type(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;
    struct str text = STR_NONE;

    (void)a;
    if (!yaml_str(n, &text) ||
        (!str_eqz(text, "linear_lower_is_better") && !str_eqz(text, "linear_higher_is_better")))
        return yaml_err(n, e, "type: must be linear_lower_is_better or linear_higher_is_better");
    c->higher_is_better = str_eqz(text, "linear_higher_is_better");
    return 0;
}

static const struct plugin_param ALGORITHM[] = {
    { .name = "type", .kind = PARAM_CUSTOM, .decode = decode_type, .required = true },
    { .name = "normalization", .kind = PARAM_CUSTOM, .decode = decode_normalization },
};

static int decode_algorithm(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    ((P *)params)->has_algorithm = true;
    return params_decode(n, ALGORITHM, COUNT(ALGORITHM), "algorithm", a, params, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "attributeKey",
      .kind = PARAM_STR,
      .at = offsetof(P, attribute),
      .required = true,
      .help = "name of the attribute" },
    { .name = "producer",
      .kind = PARAM_STR,
      .at = offsetof(P, producer),
      .value = "core-metrics-extractor",
      .help = "who gives it; empty: whoever does" },
    { .name = "algorithm",
      .kind = PARAM_CUSTOM,
      .decode = decode_algorithm,
      .required = true,
      .help = "type linear_lower_is_better or linear_higher_is_better; normalization: fixedRange "
              "(min, max) or adaptiveRange" },
};

static int check_attribute(const void *params, struct err *e)
{
    if (((const P *)params)->attribute.n == 0)
        return err_set(e, ERR_INVAL, "attributeKey: must not be empty");
    return 0;
}

static void score_attribute(struct plugin *p, const struct sched_view *v, const bool *keep,
                            double *out)
{
    const P *c = p->params;
    double min = c->is_fixed ? c->min : INFINITY, max = c->is_fixed ? c->max : -INFINITY, x;

    for (uint32_t i = 0; i < v->count && !c->is_fixed; i++)
        if (keep[i] && sched_endpoint_attribute(&v->ep[i], c->attribute, c->producer, &x)) {
            min = MIN(min, x);
            max = MAX(max, x);
        }
    for (uint32_t i = 0; i < v->count; i++) {
        if (!keep[i])
            continue;
        out[i] = 0;
        if (!sched_endpoint_attribute(&v->ep[i], c->attribute, c->producer, &x))
            continue;
        if (max == min) {
            out[i] = 1;
            continue;
        }
        x = MIN(MAX((x - min) / (max - min), 0), 1);
        out[i] = c->higher_is_better ? x : 1 - x;
    }
}
#undef P

const struct plugin_type plugin_attribute_scorer = {
    .type = "endpoint-attribute-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .params_size = sizeof(struct attribute_scorer_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check_attribute,
    .score = score_attribute,
};

/* ---- header-label-affinity-scorer ---- */

static const struct plugin_param HEADER_LABEL[] = {
    { .name = "headerName",
      .kind = PARAM_STR,
      .at = offsetof(struct header_label_params, header),
      .required = true,
      .help = "header of the request" },
    { .name = "labelKey",
      .kind = PARAM_STR,
      .at = offsetof(struct header_label_params, label),
      .required = true,
      .help = "label it is compared with" },
};

static int check_header_label(const void *params, struct err *e)
{
    const struct header_label_params *c = params;

    if (c->header.n == 0)
        return err_set(e, ERR_INVAL, "headerName: must not be empty");
    if (c->label.n == 0)
        return err_set(e, ERR_INVAL, "labelKey: must not be empty");
    return 0;
}

static void score_header_label(struct plugin *p, const struct sched_view *v, const bool *keep,
                               double *out)
{
    const struct header_label_params *c = p->params;
    struct str wanted = sched_view_header_any(v, c->header);

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = wanted.n != 0 && str_eq(wanted, sched_endpoint_label(&v->ep[i], c->label));
}

const struct plugin_type plugin_header_label_scorer = {
    .type = "header-label-affinity-scorer",
    .roles = ROLE_SCORER,
    .alpha = true,
    .params_size = sizeof(struct header_label_params),
    .params = HEADER_LABEL,
    .param_count = COUNT(HEADER_LABEL),
    .check = check_header_label,
    .score = score_header_label,
};
