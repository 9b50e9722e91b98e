/* request-attribute-reporter: a number worked out from the usage of an answer, for whoever carries
 * the answer (Envoy's dynamic metadata).
 *
 * Upstream takes exactly one attribute an instance; more instances report more of them.  What is
 * not above 0 is not reported, fractions are cut off. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <math.h>

struct reported_key {
    struct str space, name;
};

struct reporter_params {
    struct reported_key key;
    const struct usage_expr *expression, *condition; /* condition NULL: always */
};

static int decode_expr(const struct yaml_node *n, enum usage_type type, struct arena *a,
                       const struct usage_expr **out, struct err *e)
{
    struct err own;
    struct str text;

    if (!yaml_str(n, &text))
        return yaml_err(n, e, "%.*s: must be text", STR_ARG(n->key));
    if (usage_expr_parse(out, text, type, a, &own) != 0)
        return yaml_err(n, e, "%.*s: %s", STR_ARG(n->key), own.msg);
    return 0;
}

static int decode_expression(const struct yaml_node *n, struct arena *a, void *params,
                             struct err *e)
{
    return decode_expr(n, USAGE_NUMBER, a, &((struct reporter_params *)params)->expression, e);
}

static int decode_condition(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct str text;

    if (yaml_str(n, &text) && text.n == 0) /* as upstream: none */
        return 0;
    return decode_expr(n, USAGE_BOOL, a, &((struct reporter_params *)params)->condition, e);
}

static const struct plugin_param KEY[] = {
    { .name = "namespace",
      .kind = PARAM_STR,
      .at = offsetof(struct reported_key, space),
      .value = "envoy.lb" },
    { .name = "name",
      .kind = PARAM_STR,
      .at = offsetof(struct reported_key, name),
      .required = true },
};

static int decode_key(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct reported_key *k = &((struct reporter_params *)params)->key;
    int rc;

    params_default(KEY, COUNT(KEY), k);
    rc = params_decode(n, KEY, COUNT(KEY), "key", a, k, e);
    if (rc == 0 && k->name.n == 0)
        rc = yaml_err(n, e, "key.name: must not be empty");
    if (k->space.n == 0)
        k->space = STR("envoy.lb");
    return rc;
}

static const struct plugin_param ATTRIBUTE[] = {
    { .name = "key", .kind = PARAM_CUSTOM, .decode = decode_key, .required = true },
    { .name = "expression", .kind = PARAM_CUSTOM, .decode = decode_expression, .required = true },
    { .name = "condition", .kind = PARAM_CUSTOM, .decode = decode_condition },
};

static int decode_attributes(const struct yaml_node *n, struct arena *a, void *params,
                             struct err *e)
{
    if (!yaml_is(n, YAML_LIST) || n->count != 1)
        return yaml_err(n, e,
                        "attributes: must be a list of exactly one; declare a plugin for each");
    return params_decode(n->first, ATTRIBUTE, COUNT(ATTRIBUTE), "attributes[0]", a, params, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "attributes",
      .kind = PARAM_CUSTOM,
      .decode = decode_attributes,
      .required = true,
      .help = "one map: key {namespace (envoy.lb), name}, expression, condition" },
};

static bool report(const struct plugin *p, const struct usage_values *u, struct sched_report *out)
{
    const struct reporter_params *c = p->params;
    double v;

    if (c->condition != NULL && (!usage_expr_eval(c->condition, u, &v) || v == 0))
        return false;
    if (!usage_expr_eval(c->expression, u, &v) || !(v >= 1 && v < 9.2e18))
        return false;
    *out = (struct sched_report) { c->key.space, c->key.name, trunc(v) };
    return true;
}

const struct plugin_type plugin_usage_reporter = {
    .type = "request-attribute-reporter",
    .roles = ROLE_RESPONSE,
    .params_size = sizeof(struct reporter_params),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .report = report,
};
