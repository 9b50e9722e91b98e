/* Parameters by tables: one row a parameter, which says what may stand there and where it goes.
 *
 *   a plugin's own   defaults -> members of the file, each by its row (config_params.c goes on)
 *   maps and lists   the same, from the decoder of their row, whose complaints get the path put in
 *                    after their place
 *
 * Upstream turns YAML into JSON and decodes that strictly: names without regard to case, unknown
 * ones refused, text where a number belongs refused and the other way round, null for the default.
 */
// SPDX-License-Identifier: Apache-2.0
#include "sched/params.h"
#include "base/check.h"
#include "sched/config_priv.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LIST_MAX 1024 /* items of one list in a configuration */

/* ---- values ---- */

bool params_is_text(const struct yaml_node *n)
{
    struct str s;
    double d;
    bool b;

    return yaml_str(n, &s) && (n->quoted || (!yaml_f64(n, &d) && !yaml_bool(n, &b)));
}

static const char *what_is(const struct yaml_node *n)
{
    double d;
    bool b;

    if (yaml_is(n, YAML_MAP))
        return "a map";
    if (yaml_is(n, YAML_LIST))
        return "a list";
    return yaml_is_null(n)    ? "null"
           : yaml_f64(n, &d)  ? "a number"
           : yaml_bool(n, &b) ? "a boolean"
                              : "text";
}

int params_text(const struct yaml_node *n, const char *path, struct str *out, struct err *e)
{
    if (params_is_text(n)) {
        *out = n->text;
        return 0;
    }
    if (n->type == YAML_SCALAR && !yaml_is_null(n))
        return yaml_err(n, e, "%s: must be text, not %s; write \"%.*s\" in quotes", path,
                        what_is(n), (int)MIN(n->text.n, (size_t)60), n->text.p);
    return yaml_err(n, e, "%s: must be text, not %s", path, what_is(n));
}

int params_bool(const struct yaml_node *n, const char *path, bool *out, struct err *e)
{
    if (yaml_bool(n, out))
        return 0;
    return yaml_err(n, e, "%s: must be true or false, not %s", path, what_is(n));
}

/* ---- durations and quantities ---- */

static bool unit_ns(struct str unit, double *out)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = { { "ns", 1 },   { "us", 1e3 }, { "\xc2\xb5s", 1e3 }, { "\xce\xbcs", 1e3 },
                  { "ms", 1e6 }, { "s", 1e9 },  { "m", 60e9 },        { "h", 3600e9 } };

    for (size_t i = 0; i < COUNT(units); i++)
        if (str_eqz(unit, units[i].name)) {
            *out = units[i].ns;
            return true;
        }
    return false;
}

/* Digits with at most one dot at the front of *s, cut off. */
static bool take_decimal(struct str *s, double *out)
{
    size_t n = 0, dots = 0;

    while (n < s->n && n < 40 && (isdigit((unsigned char)s->p[n]) || s->p[n] == '.'))
        dots += s->p[n++] == '.';
    if (n == dots || dots > 1)
        return false;
    *out = 0;
    for (size_t i = 0, after = 0; i < n; i++) {
        if (s->p[i] == '.') {
            after = 1;
        } else if (after == 0) {
            *out = *out * 10 + (s->p[i] - '0');
        } else {
            *out += (s->p[i] - '0') / pow(10, (double)after);
            after++;
        }
    }
    *s = str_sub(*s, n, SIZE_MAX);
    return true;
}

bool params_parse_duration(struct str s, uint64_t *ms)
{
    double ns = 0, value, unit;

    if (str_starts(s, STR("+")))
        s = str_sub(s, 1, SIZE_MAX);
    if (str_eqz(s, "0")) {
        *ms = 0;
        return true;
    }
    if (s.n == 0)
        return false;
    while (s.n != 0) {
        size_t n = 0;

        if (!take_decimal(&s, &value))
            return false;
        while (n < s.n && s.p[n] != '.' && !isdigit((unsigned char)s.p[n]))
            n++;
        if (!unit_ns(str_sub(s, 0, n), &unit))
            return false;
        ns += value * unit;
        s = str_sub(s, n, SIZE_MAX);
    }
    if (ns > 9e18) /* Go's durations are 63 bits of nanoseconds */
        return false;
    *ms = (uint64_t)ceil(ns / 1e6 - 1e-7); /* what is not zero never becomes zero */
    return true;
}

static bool quantity_suffix(struct str s, double *out)
{
    static const char *const si = "kMGTPE", *const bi = "KMGTPE";
    static const struct {
        const char *name;
        double scale;
    } small[] = { { "", 1 }, { "m", 1e-3 }, { "u", 1e-6 }, { "n", 1e-9 } };
    int64_t exponent;
    const char *at;

    for (size_t i = 0; i < COUNT(small); i++)
        if (str_eqz(s, small[i].name)) {
            *out = small[i].scale;
            return true;
        }
    if (s.n == 1 && (at = strchr(si, s.p[0])) != NULL) {
        *out = pow(1000, (double)(at - si + 1));
        return true;
    }
    if (s.n == 2 && s.p[1] == 'i' && (at = strchr(bi, s.p[0])) != NULL) {
        *out = pow(1024, (double)(at - bi + 1));
        return true;
    }
    if (s.p[0] != 'e' && s.p[0] != 'E')
        return false;
    s = str_sub(s, 1, SIZE_MAX);
    if (str_starts(s, STR("+")))
        s = str_sub(s, 1, SIZE_MAX);
    if (!str_i64(s, &exponent) || exponent < -18 || exponent > 18)
        return false;
    *out = pow(10, (double)exponent);
    return true;
}

bool params_parse_quantity(struct str s, uint64_t *out)
{
    double value, scale;

    if (str_starts(s, STR("+")))
        s = str_sub(s, 1, SIZE_MAX);
    if (!take_decimal(&s, &value) || !quantity_suffix(s, &scale))
        return false;
    value = ceil(value * scale - 1e-9);
    if (!(value >= 0 && value < 9.2e18))
        return false;
    *out = (uint64_t)value;
    return true;
}

int params_duration(const struct yaml_node *n, const char *path, uint32_t *ms, struct err *e)
{
    uint64_t v;

    if (!params_is_text(n) && !(yaml_is(n, YAML_SCALAR) && str_eqz(n->text, "0")))
        return yaml_err(n, e, "%s: must be a duration such as 60s or 250ms, not %s", path,
                        what_is(n));
    if (!params_parse_duration(n->text, &v))
        return yaml_err(n, e, "%s: \"%.*s\" is no duration; write it as 60s, 250ms or 1m30s", path,
                        (int)MIN(n->text.n, (size_t)60), n->text.p);
    if (v > UINT32_MAX)
        return yaml_err(n, e, "%s: must be at most 49 days", path);
    *ms = (uint32_t)v;
    return 0;
}

int params_quantity(const struct yaml_node *n, const char *path, uint64_t *out, struct err *e)
{
    struct str s;

    if (!yaml_str(n, &s))
        return yaml_err(n, e, "%s: must be a quantity such as 5000, 5k or 1Gi, not %s", path,
                        what_is(n));
    if (!params_parse_quantity(s, out))
        return yaml_err(n, e,
                        "%s: \"%.*s\" is no quantity of at least 0; write it as 5000, 5k or 1Gi",
                        path, (int)MIN(s.n, (size_t)60), s.p);
    return 0;
}

/* ---- rows ---- */

static bool is_bounded(const struct plugin_param *p)
{
    return p->min != 0 || p->max != 0;
}

static int check_range(const struct plugin_param *p, const struct yaml_node *n, const char *path,
                       double v, struct err *e)
{
    if (!is_bounded(p))
        return 0;
    if (isinf(p->max) && v < p->min)
        return yaml_err(n, e, "%s: must be at least %.12g", path, p->min);
    if (isinf(p->min) && v > p->max)
        return yaml_err(n, e, "%s: must be at most %.12g", path, p->max);
    if (v < p->min || v > p->max)
        return yaml_err(n, e, "%s: must be %.12g..%.12g", path, p->min, p->max);
    return 0;
}

/* JSON knows one kind of number: 5.0 and 1e3 are whole. */
static int whole(const struct yaml_node *n, const char *path, int64_t *out, struct err *e)
{
    double d;

    if (yaml_i64(n, out))
        return 0;
    if (!yaml_f64(n, &d))
        return yaml_err(n, e, "%s: must be a whole number, not %s", path, what_is(n));
    if (d != floor(d) || fabs(d) > 9e18)
        return yaml_err(n, e, "%s: must be a whole number", path);
    *out = (int64_t)d;
    return 0;
}

static int set_number(const struct plugin_param *p, const struct yaml_node *n, const char *path,
                      void *at, struct err *e)
{
    int64_t i = 0;
    double d;
    int rc;

    if (p->kind == PARAM_F64) {
        if (!yaml_f64(n, &d))
            return yaml_err(n, e, "%s: must be a number, not %s", path, what_is(n));
        rc = check_range(p, n, path, d, e);
        *(double *)at = d;
        return rc;
    }
    rc = whole(n, path, &i, e);
    if (rc == 0)
        rc = check_range(p, n, path, (double)i, e);
    if (rc != 0)
        return rc;
    if (p->kind == PARAM_I64) {
        *(int64_t *)at = i;
        return 0;
    }
    if (i < 0 || i > UINT32_MAX)
        return yaml_err(n, e, "%s: must be 0..%u", path, UINT32_MAX);
    *(uint32_t *)at = (uint32_t)i;
    return 0;
}

static int set_word(const struct plugin_param *p, const struct yaml_node *n, const char *path,
                    int *out, struct err *e)
{
    char all[200] = "";
    const char *near;
    struct str s;
    size_t count = 0, len = 0;
    int rc = params_text(n, path, &s, e);

    if (rc != 0)
        return rc;
    for (; p->words[count] != NULL; count++) {
        if (str_eqz(s, p->words[count])) {
            *out = (int)count;
            return 0;
        }
        if (len < sizeof(all))
            len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s", count != 0 ? ", " : "",
                                    p->words[count]);
    }
    near = config_nearest(s, p->words, count);
    return yaml_err(n, e, "%s: must be one of %s%s%s%s", path, all,
                    near != NULL ? "; did you mean " : "", near != NULL ? near : "",
                    near != NULL ? "?" : "");
}

/* The complaint of a row's own decoder: "FILE:LINE:COL: what" or "what". */
static int put_path(const struct plugin_param *p, const struct yaml_node *n, const char *path,
                    int code, struct err *e)
{
    char place[ERR_MSG_MAX / 2], what[ERR_MSG_MAX];
    const char *file = n->file, *at = e->msg, *rest = at;
    size_t name_len = strlen(p->name);
    unsigned line, column;
    int used = 0;

    snprintf(place, sizeof(place), "%s:%u:%u", file, n->line, n->column);
    if (strncmp(at, file, strlen(file)) == 0 &&
        sscanf(at + strlen(file), ":%u:%u: %n", &line, &column, &used) == 2 && used != 0) {
        rest = at + strlen(file) + used;
        snprintf(place, sizeof(place), "%s:%u:%u", file, line, column);
    }
    snprintf(what, sizeof(what), "%s", rest);
    if (strncasecmp(what, p->name, name_len) == 0 && !isalnum((unsigned char)what[name_len]))
        return err_set(e, code, "%s: %.*s%s", place, (int)(strlen(path) - name_len), path, what);
    return err_set(e, code, "%s: %s: %s", place, path, what);
}

static int set_param(const struct plugin_param *p, const struct yaml_node *n, const char *path,
                     struct arena *a, void *params, struct err *e)
{
    void *at = (char *)params + p->at;
    struct err own = { 0 };
    uint32_t ms = 0;
    int rc;

    switch (p->kind) {
    case PARAM_BOOL: return params_bool(n, path, at, e);
    case PARAM_U32:
    case PARAM_I64:
    case PARAM_F64: return set_number(p, n, path, at, e);
    case PARAM_STR: return params_text(n, path, at, e);
    case PARAM_WORD: return set_word(p, n, path, at, e);
    case PARAM_DURATION_MS:
        if (n->type == YAML_SCALAR && n->text.n == 0) /* "": the default */
            return 0;
        rc = params_duration(n, path, &ms, e);
        if (rc == 0)
            rc = check_range(p, n, path, ms, e);
        *(uint32_t *)at = ms;
        return rc;
    case PARAM_CUSTOM:
        rc = p->decode(n, a, params, &own);
        if (rc == 0)
            return 0;
        *e = own;
        return put_path(p, n, path, rc, e);
    case PARAM_IGNORED: break;
    }
    return 0;
}

/* The default stands in the table as text: read by the same code as the file's. */
void params_default(const struct plugin_param *table, uint32_t count, void *params)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct plugin_param *p = &table[i];
        struct yaml_node n = { .type = YAML_SCALAR, .file = "default", .line = 1, .column = 1 };
        struct err e;

        if (p->value == NULL)
            continue;
        ASSERT(p->kind != PARAM_CUSTOM && p->kind != PARAM_IGNORED);
        n.text = str_of(p->value);
        n.quoted = p->kind == PARAM_STR || p->kind == PARAM_WORD;
        ASSERT(set_param(p, &n, p->name, NULL, params, &e) == 0);
    }
}

/* ---- maps ---- */

static int unknown_param(const struct yaml_node *n, const struct plugin_param *table,
                         uint32_t count, const char *path, const char *of, struct err *e)
{
    const char *names[PARAMS_MAX], *near;
    char known[300] = "";
    size_t len = 0;

    for (uint32_t i = 0; i < count; i++) {
        names[i] = table[i].name;
        if (len < sizeof(known))
            len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
                                    i != 0 ? ", " : "; known: ", names[i]);
    }
    near = config_nearest(n->key, names, count);
    if (near != NULL)
        return yaml_err_key(n, e, "%s: unknown parameter%s; did you mean %s?", path, of, near);
    return yaml_err_key(n, e, "%s: unknown parameter%s%s", path, of,
                        count == 0 ? "; there are none" : known);
}

int params_members(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                   const char *path, const char *of, struct arena *a, void *params,
                   bool given[PARAMS_MAX], struct err *e)
{
    ASSERT(count <= PARAMS_MAX);
    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "%s: must be a map, not %s", path, what_is(n));
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next) {
        char at[CONFIG_PATH_MAX + 80];
        uint32_t i = 0;
        int rc;

        while (i < count && !str_ieq(m->key, str_of(table[i].name)))
            i++;
        snprintf(at, sizeof(at), "%s.%.*s", path, (int)MIN(m->key.n, (size_t)60), m->key.p);
        if (i == count)
            return unknown_param(m, table, count, at, of, e);
        if (given[i])
            return yaml_err_key(m, e, "%s: given twice, in different case", at);
        given[i] = true;
        if (yaml_is_null(m))
            continue;
        rc = set_param(&table[i], m, at, a, params, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int params_decode(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                  const char *path, struct arena *a, void *params, struct err *e)
{
    bool given[PARAMS_MAX] = { false };
    int rc = yaml_is_null(n) ? 0 : params_members(n, table, count, path, "", a, params, given, e);

    for (uint32_t i = 0; i < count && rc == 0; i++)
        if (table[i].required && !given[i])
            return n == NULL ? err_set(e, ERR_INVAL, "%s: needs %s", path, table[i].name)
                             : yaml_err(n, e, "%s: needs %s", path, table[i].name);
    return rc;
}

/* ---- lists ---- */

static int list_check(const struct yaml_node *n, const char *what, struct err *e)
{
    if (!yaml_is(n, YAML_LIST))
        return yaml_err(n, e, "%.*s: must be a list of %s", STR_ARG(n->key), what);
    if (n->count > LIST_MAX)
        return yaml_err(n, e, "%.*s: more than %d items", STR_ARG(n->key), LIST_MAX);
    return 0;
}

int params_list(const struct yaml_node *n, struct arena *a, struct str_list *out, struct err *e)
{
    struct str *item;
    int rc = list_check(n, "text", e);

    if (rc != 0)
        return rc;
    item = arena_alloc(a, (n->count + 1) * sizeof(*item));
    *out = (struct str_list) { item, n->count };
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next)
        if (!yaml_str(m, item++))
            return yaml_err(m, e, "%.*s: must be a list of text", STR_ARG(n->key));
    return 0;
}

int params_maps(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                const char *path, size_t item_size, struct arena *a, void **out,
                uint32_t *out_count, struct err *e)
{
    char *item;
    uint32_t i = 0;
    int rc = list_check(n, "maps", e);

    if (rc != 0)
        return rc;
    item = arena_alloc(a, (n->count + 1) * item_size);
    memset(item, 0, (n->count + 1) * item_size);
    *out = item;
    *out_count = n->count;
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next, item += item_size) {
        char at[CONFIG_PATH_MAX];

        snprintf(at, sizeof(at), "%s[%u]", path, i++);
        if (yaml_is_null(m))
            return yaml_err(m, e, "%s: must be a map", at);
        params_default(table, count, item);
        rc = params_decode(m, table, count, at, a, item, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- label selectors ---- */

static const char *const OPERATORS[] = { "In", "NotIn", "Exists", "DoesNotExist", NULL };

static int decode_values(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct label_requirement *r = params;
    struct str_list values = { NULL, 0 };
    int rc = params_list(n, a, &values, e);

    r->value = values.item;
    r->count = values.count;
    return rc;
}

static const struct plugin_param REQUIREMENT[] = {
    { .name = "key",
      .kind = PARAM_STR,
      .at = offsetof(struct label_requirement, key),
      .required = true },
    { .name = "operator",
      .kind = PARAM_WORD,
      .at = offsetof(struct label_requirement, op),
      .words = OPERATORS,
      .required = true },
    { .name = "values", .kind = PARAM_CUSTOM, .decode = decode_values },
};

/* Of a selector that is being read. */
struct selector_parts {
    struct label_requirement *labels, *expressions;
    uint32_t label_count, expression_count;
};

static int decode_labels(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    struct selector_parts *s = params;
    struct str *value;

    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "matchLabels: must be a map of text");
    if (n->count > LIST_MAX)
        return yaml_err(n, e, "matchLabels: more than %d items", LIST_MAX);
    s->labels = arena_alloc(a, (n->count + 1) * sizeof(*s->labels));
    value = arena_alloc(a, (n->count + 1) * sizeof(*value));
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next, value++) {
        if (!yaml_str(m, value))
            return yaml_err(m, e, "matchLabels: %.*s must be text", STR_ARG(m->key));
        s->labels[s->label_count++] = (struct label_requirement) { m->key, LABEL_IN, value, 1 };
    }
    return 0;
}

static int decode_expressions(const struct yaml_node *n, struct arena *a, void *params,
                              struct err *e)
{
    struct selector_parts *s = params;
    void *items = NULL;
    int rc = params_maps(n, REQUIREMENT, COUNT(REQUIREMENT), "matchExpressions",
                         sizeof(struct label_requirement), a, &items, &s->expression_count, e);

    s->expressions = items;
    for (uint32_t i = 0; i < s->expression_count && rc == 0; i++) {
        const struct label_requirement *r = &s->expressions[i];

        if ((r->op == LABEL_IN || r->op == LABEL_NOT_IN) != (r->count != 0))
            rc = yaml_err(n, e, "matchExpressions: %s %s values", OPERATORS[r->op],
                          r->count == 0 ? "needs" : "takes no");
    }
    return rc;
}

static const struct plugin_param SELECTOR[] = {
    { .name = "matchLabels", .kind = PARAM_CUSTOM, .decode = decode_labels },
    { .name = "matchExpressions", .kind = PARAM_CUSTOM, .decode = decode_expressions },
};

int params_selector(const struct yaml_node *n, struct arena *a, struct label_selector *out,
                    struct err *e)
{
    struct selector_parts s = { NULL, NULL, 0, 0 };
    struct label_requirement *all;
    int rc = params_decode(n, SELECTOR, COUNT(SELECTOR), "label selector", a, &s, e);

    if (rc != 0)
        return rc;
    all = arena_alloc(a, (s.label_count + s.expression_count + 1) * sizeof(*all));
    if (s.label_count != 0)
        memcpy(all, s.labels, s.label_count * sizeof(*all));
    if (s.expression_count != 0)
        memcpy(all + s.label_count, s.expressions, s.expression_count * sizeof(*all));
    *out = (struct label_selector) { all, s.label_count + s.expression_count };
    return 0;
}
