/* endpoint-attribute-filter: a number that an endpoint says of itself, compared. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <string.h>

static const char *const MISSING[] = { "Pass", "Fail", NULL };
static const char *const ALGORITHMS[] = { "threshold", NULL };
static const char *const OPERATORS[] = {
    "LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual", NULL
};

#define P struct attribute_filter_params
static const struct plugin_param THRESHOLD[] = {
    { .name = "operator",
      .kind = PARAM_WORD,
      .at = offsetof(P, op),
      .words = OPERATORS,
      .required = true },
    { .name = "value", .kind = PARAM_F64, .at = offsetof(P, value), .required = true },
};

static int decode_threshold(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    ((P *)params)->has_algorithm = true;
    return params_decode(n, THRESHOLD, COUNT(THRESHOLD), "threshold", a, params, e);
}

/* The one algorithm has no place in the struct: its word is only checked. */
static int decode_type(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct str text = STR_NONE;

    (void)a;
    (void)params;
    if (!yaml_str(n, &text) || !str_eqz(text, ALGORITHMS[0]))
        return yaml_err(n, e, "type: must be %s", ALGORITHMS[0]);
    return 0;
}

static const struct plugin_param ALGORITHM[] = {
    { .name = "type", .kind = PARAM_CUSTOM, .decode = decode_type, .required = true },
    { .name = "threshold", .kind = PARAM_CUSTOM, .decode = decode_threshold, .required = true },
};

static int decode_algorithm(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    return params_decode(n, ALGORITHM, COUNT(ALGORITHM), "algorithm", a, params, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "attribute",
      .kind = PARAM_STR,
      .at = offsetof(P, attribute),
      .required = true,
      .help = "name of the attribute" },
    { .name = "producer",
      .kind = PARAM_STR,
      .at = offsetof(P, producer),
      .value = "core-metrics-extractor",
      .help = "who gives it; empty: whoever does" },
    { .name = "onMissing",
      .kind = PARAM_WORD,
      .at = offsetof(P, on_missing),
      .value = "Pass",
      .words = MISSING,
      .help = "what becomes of endpoints without it" },
    { .name = "fallbackOnEmpty",
      .kind = PARAM_BOOL,
      .at = offsetof(P, fallback_on_empty),
      .help = "keeps everybody when nobody would be left" },
    { .name = "algorithm",
      .kind = PARAM_CUSTOM,
      .decode = decode_algorithm,
      .required = true,
      .help = "type threshold, and threshold: operator and value" },
};
#undef P

static int check(const void *params, struct err *e)
{
    if (((const struct attribute_filter_params *)params)->attribute.n == 0)
        return err_set(e, ERR_INVAL, "attribute: must not be empty");
    return 0;
}

static bool compare(int op, double a, double b)
{
    switch (op) {
    case CMP_LT: return a < b;
    case CMP_LE: return a <= b;
    case CMP_GT: return a > b;
    case CMP_GE: return a >= b;
    case CMP_EQ: return a == b;
    default: return a != b;
    }
}

static bool passes(const struct attribute_filter_params *c, const struct sched_endpoint *ep)
{
    double value;

    if (!sched_endpoint_attribute(ep, c->attribute, c->producer, &value))
        return c->on_missing == 0;
    return compare(c->op, value, c->value);
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    const struct attribute_filter_params *c = p->params;
    bool some = false;

    for (uint32_t i = 0; i < v->count && !some; i++)
        some = keep[i] && passes(c, &v->ep[i]);
    if (!some && c->fallback_on_empty)
        return;
    for (uint32_t i = 0; i < v->count; i++)
        keep[i] = keep[i] && passes(c, &v->ep[i]);
}

const struct plugin_type plugin_attribute_filter = {
    .type = "endpoint-attribute-filter",
    .roles = ROLE_FILTER,
    .alpha = true,
    .params_size = sizeof(struct attribute_filter_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .check = check,
    .filter = filter,
};
