/* Parameters of one plugin by the table of its type.
 *
 *   defaults of every row -> members of the file, each by its row -> required -> check
 *
 * Upstream turns YAML into JSON and decodes that strictly: names without regard to case, unknown
 * ones refused, text where a number belongs refused and the other way round, null for the default.
 * A complaint of a row's own decoder gets the path put in after its place. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config_priv.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PARAMS_MAX 64 /* of one type */

/* ---- kinds ---- */

bool config_is_text(const struct yaml_node *n)
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

int config_text(struct loader *l, const struct yaml_node *n, const char *path, struct str *out)
{
    if (config_is_text(n)) {
        *out = n->text;
        return 0;
    }
    if (n->type == YAML_SCALAR && !yaml_is_null(n))
        return yaml_err(n, l->e, "%s: must be text, not %s; write \"%.*s\" in quotes", path,
                        what_is(n), (int)MIN(n->text.n, (size_t)60), n->text.p);
    return yaml_err(n, l->e, "%s: must be text, not %s", path, what_is(n));
}

int config_bool(struct loader *l, const struct yaml_node *n, const char *path, bool *out)
{
    if (yaml_bool(n, out))
        return 0;
    return yaml_err(n, l->e, "%s: must be true or false, not %s", path, what_is(n));
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

bool config_parse_duration(struct str s, uint64_t *ms)
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

bool config_parse_quantity(struct str s, uint64_t *out)
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

int config_duration(struct loader *l, const struct yaml_node *n, const char *path, uint32_t *ms)
{
    uint64_t v;

    if (!config_is_text(n) && !(yaml_is(n, YAML_SCALAR) && str_eqz(n->text, "0")))
        return yaml_err(n, l->e, "%s: must be a duration such as 60s or 250ms, not %s", path,
                        what_is(n));
    if (!config_parse_duration(n->text, &v))
        return yaml_err(n, l->e, "%s: \"%.*s\" is no duration; write it as 60s, 250ms or 1m30s",
                        path, (int)MIN(n->text.n, (size_t)60), n->text.p);
    if (v > UINT32_MAX)
        return yaml_err(n, l->e, "%s: must be at most 49 days", path);
    *ms = (uint32_t)v;
    return 0;
}

int config_quantity(struct loader *l, const struct yaml_node *n, const char *path, uint64_t *out)
{
    struct str s;

    if (!yaml_str(n, &s))
        return yaml_err(n, l->e, "%s: must be a quantity such as 5000, 5k or 1Gi, not %s", path,
                        what_is(n));
    if (!config_parse_quantity(s, out))
        return yaml_err(n, l->e,
                        "%s: \"%.*s\" is no quantity of at least 0; write it as 5000, 5k or 1Gi",
                        path, (int)MIN(s.n, (size_t)60), s.p);
    return 0;
}

/* ---- rows ---- */

static bool is_bounded(const struct plugin_param *p)
{
    return p->min != 0 || p->max != 0;
}

static int check_range(struct loader *l, const struct plugin_param *p, const struct yaml_node *n,
                       const char *path, double v)
{
    if (!is_bounded(p))
        return 0;
    if (isinf(p->max) && v < p->min)
        return yaml_err(n, l->e, "%s: must be at least %.12g", path, p->min);
    if (isinf(p->min) && v > p->max)
        return yaml_err(n, l->e, "%s: must be at most %.12g", path, p->max);
    if (v < p->min || v > p->max)
        return yaml_err(n, l->e, "%s: must be %.12g..%.12g", path, p->min, p->max);
    return 0;
}

/* JSON knows one kind of number: 5.0 and 1e3 are whole. */
static int whole(struct loader *l, const struct yaml_node *n, const char *path, int64_t *out)
{
    double d;

    if (yaml_i64(n, out))
        return 0;
    if (!yaml_f64(n, &d))
        return yaml_err(n, l->e, "%s: must be a whole number, not %s", path, what_is(n));
    if (d != floor(d) || fabs(d) > 9e18)
        return yaml_err(n, l->e, "%s: must be a whole number", path);
    *out = (int64_t)d;
    return 0;
}

static int set_number(struct loader *l, const struct plugin_param *p, const struct yaml_node *n,
                      const char *path, void *at)
{
    int64_t i = 0;
    double d;
    int rc;

    if (p->kind == PARAM_F64) {
        if (!yaml_f64(n, &d))
            return yaml_err(n, l->e, "%s: must be a number, not %s", path, what_is(n));
        rc = check_range(l, p, n, path, d);
        *(double *)at = d;
        return rc;
    }
    rc = whole(l, n, path, &i);
    if (rc == 0)
        rc = check_range(l, p, n, path, (double)i);
    if (rc != 0)
        return rc;
    if (p->kind == PARAM_I64) {
        *(int64_t *)at = i;
        return 0;
    }
    if (i < 0 || i > UINT32_MAX)
        return yaml_err(n, l->e, "%s: must be 0..%u", path, UINT32_MAX);
    *(uint32_t *)at = (uint32_t)i;
    return 0;
}

static int set_word(struct loader *l, const struct plugin_param *p, const struct yaml_node *n,
                    const char *path, int *out)
{
    char all[200] = "";
    const char *near;
    struct str s;
    size_t count = 0, len = 0;
    int rc = config_text(l, n, path, &s);

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
    return yaml_err(n, l->e, "%s: must be one of %s%s%s%s", path, all,
                    near != NULL ? "; did you mean " : "", near != NULL ? near : "",
                    near != NULL ? "?" : "");
}

/* The complaint of a row's own decoder: "FILE:LINE:COL: what" or "what". */
static int put_path(struct loader *l, const struct plugin_param *p, const struct yaml_node *n,
                    const char *path, int code)
{
    char place[ERR_MSG_MAX / 2], what[ERR_MSG_MAX];
    const char *file = n->file, *at = l->e->msg, *rest = at;
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
        return err_set(l->e, code, "%s: %.*s%s", place, (int)(strlen(path) - name_len), path, what);
    return err_set(l->e, code, "%s: %s: %s", place, path, what);
}

static int set_param(struct loader *l, const struct plugin_param *p, const struct yaml_node *n,
                     const char *path, void *params)
{
    void *at = (char *)params + p->at;
    struct err own = { 0 };
    uint32_t ms = 0;
    int rc;

    switch (p->kind) {
    case PARAM_BOOL: return config_bool(l, n, path, at);
    case PARAM_U32:
    case PARAM_I64:
    case PARAM_F64: return set_number(l, p, n, path, at);
    case PARAM_STR: return config_text(l, n, path, at);
    case PARAM_WORD: return set_word(l, p, n, path, at);
    case PARAM_DURATION_MS:
        if (n->type == YAML_SCALAR && n->text.n == 0) /* "": the default */
            return 0;
        rc = config_duration(l, n, path, &ms);
        if (rc == 0)
            rc = check_range(l, p, n, path, ms);
        *(uint32_t *)at = ms;
        return rc;
    case PARAM_CUSTOM:
        rc = p->decode(n, &l->c->arena, params, &own);
        if (rc == 0)
            return 0;
        *l->e = own;
        return put_path(l, p, n, path, rc);
    case PARAM_IGNORED: break;
    }
    return 0;
}

/* The default stands in the table as text: read by the same code as the file's. */
static int set_default(struct loader *l, const struct plugin_param *p, void *params)
{
    struct yaml_node n = { .type = YAML_SCALAR, .file = "default", .line = 1, .column = 1 };

    if (p->value == NULL || p->kind == PARAM_IGNORED)
        return 0;
    n.text = str_of(p->value);
    n.quoted = p->kind == PARAM_STR || p->kind == PARAM_WORD;
    return set_param(l, p, &n, p->name, params);
}

static int unknown_param(struct loader *l, const struct plugin_type *t, const struct yaml_node *n,
                         const char *path)
{
    const char *names[PARAMS_MAX], *near;
    char known[300] = "";
    size_t count = 0, len = 0;

    for (; count < t->param_count && count < PARAMS_MAX; count++) {
        names[count] = t->params[count].name;
        if (len < sizeof(known))
            len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
                                    count != 0 ? ", " : "; known: ", names[count]);
    }
    near = config_nearest(n->key, names, count);
    if (near != NULL)
        return yaml_err_key(n, l->e, "%s: unknown parameter of type %s; did you mean %s?", path,
                            t->type, near);
    return yaml_err_key(n, l->e, "%s: unknown parameter of type %s%s", path, t->type,
                        count == 0 ? ", which has none" : known);
}

static int set_members(struct loader *l, const struct plugin_type *t, const struct yaml_node *n,
                       const char *path, void *params, bool *given)
{
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next) {
        char at[CONFIG_PATH_MAX + 80];
        uint32_t i = 0;
        int rc;

        while (i < t->param_count && !str_ieq(m->key, str_of(t->params[i].name)))
            i++;
        snprintf(at, sizeof(at), "%s.%.*s", path, (int)MIN(m->key.n, (size_t)60), m->key.p);
        if (i == t->param_count)
            return unknown_param(l, t, m, at);
        if (given[i])
            return yaml_err_key(m, l->e, "%s: given twice, in different case", at);
        given[i] = true;
        if (yaml_is_null(m))
            continue;
        rc = set_param(l, &t->params[i], m, at, params);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Where a complaint of check() points: the parameter it begins with, else the plugin. */
static int complain_of_check(struct loader *l, const struct yaml_node *n, const char *path,
                             int code)
{
    char what[ERR_MSG_MAX];

    snprintf(what, sizeof(what), "%s", l->e->msg);
    for (const struct yaml_node *m = n != NULL ? n->first : NULL; m != NULL; m = m->next)
        if (strncasecmp(what, m->key.p, m->key.n) == 0 && !isalnum((unsigned char)what[m->key.n]))
            return yaml_err_key(m, l->e, "%s.%s", path, what);
    if (n != NULL)
        return yaml_err(n, l->e, "%s: %s", path, what);
    return err_set(l->e, code, "%s: %s: %s", l->o.file, path, what);
}

int config_params(struct loader *l, uint32_t index, const struct yaml_node *n, const void **out)
{
    const struct plugin_type *t = l->c->plugin[index].type;
    const struct yaml_node *item = l->node[index];
    bool given[PARAMS_MAX] = { false };
    char path[CONFIG_PATH_MAX];
    struct err own = { 0 };
    void *params;
    int rc;

    ASSERT(t->param_count <= PARAMS_MAX);
    if (item != NULL)
        snprintf(path, sizeof(path), "plugins[%u].parameters", index);
    else
        snprintf(path, sizeof(path), "%s (made by default)", t->type);
    params = arena_try_zero(&l->c->arena, 1, MAX(t->params_size, (size_t)1));
    if (params == NULL)
        return err_set(l->e, ERR_NOMEM, "%s: no memory", l->o.file);
    *out = params;
    for (uint32_t i = 0; i < t->param_count; i++) {
        rc = set_default(l, &t->params[i], params);
        if (rc != 0)
            return rc;
    }
    if (yaml_is_null(n))
        n = NULL;
    if (n != NULL && n->type != YAML_MAP)
        return yaml_err(n, l->e, "%s: must be a map, not %s", path, what_is(n));
    rc = n != NULL ? set_members(l, t, n, path, params, given) : 0;
    if (rc != 0)
        return rc;
    if (n == NULL)
        n = item;
    for (uint32_t i = 0; i < t->param_count; i++)
        if (t->params[i].required && !given[i])
            return n != NULL ? yaml_err(n, l->e, "%s.%s: missing; type %s needs it", path,
                                        t->params[i].name, t->type)
                             : err_set(l->e, ERR_PARSE,
                                       "%s: type %s is needed but cannot be made by default: "
                                       "declare it under plugins with %s",
                                       l->o.file, t->type, t->params[i].name);
    rc = t->check != NULL ? t->check(params, &own) : 0;
    if (rc == 0)
        return 0;
    *l->e = own;
    return complain_of_check(l, n, path, rc);
}
