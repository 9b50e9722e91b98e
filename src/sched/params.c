/* One row a parameter: the row says what may stand there and where it goes.  The loader does the
 * same for the whole of a plugin's parameters (config_params.c), with paths and suggestions; this
 * is for the maps and lists inside.
 *
 * Errors are made where the node is at hand, so that each names its place; what the table lists is
 * what the message offers instead. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/params.h"
#include "base/check.h"
#include <math.h>
#include <string.h>

#define LIST_MAX 1024 /* items of one list in a configuration */

/* ---- values ---- */

bool params_duration_ms(struct str text, uint32_t *out)
{
    static const struct {
        struct str name;
        double ms;
    } units[] = {
        { { "ns", 2 }, 1e-6 },        { { "us", 2 }, 1e-3 }, { { "\xc2\xb5s", 3 }, 1e-3 },
        { { "\xce\xbcs", 3 }, 1e-3 }, { { "ms", 2 }, 1 },    { { "s", 1 }, 1e3 },
        { { "m", 1 }, 6e4 },          { { "h", 1 }, 3.6e6 },
    };
    double sum = 0;

    if (str_eqz(text, "0")) {
        *out = 0;
        return true;
    }
    if (text.n != 0 && text.p[0] == '+')
        text = str_sub(text, 1, SIZE_MAX);
    if (text.n == 0)
        return false;
    while (text.n != 0) {
        size_t digits = 0, letters, unit = 0;
        double number;

        while (digits < text.n && strchr("0123456789.", text.p[digits]) != NULL)
            digits++;
        for (letters = digits; letters < text.n && strchr("0123456789.", text.p[letters]) == NULL;)
            letters++;
        if (!str_f64(str_sub(text, 0, digits), &number))
            return false;
        while (unit < COUNT(units) &&
               !str_eq(units[unit].name, str_sub(text, digits, letters - digits)))
            unit++;
        if (unit == COUNT(units))
            return false;
        sum += number * units[unit].ms;
        text = str_sub(text, letters, SIZE_MAX);
    }
    /* "0.1s" is 100 ms, not 99 */
    sum = floor(sum + 1e-9);
    if (!(sum <= UINT32_MAX))
        return false;
    *out = (uint32_t)sum;
    return true;
}

static bool in_range(const struct plugin_param *p, double v)
{
    if (p->max <= p->min) /* no upper bound; both 0: none at all */
        return (p->min == 0 && p->max == 0) || v >= p->min;
    return v >= p->min && v <= p->max;
}

static int word_of(const struct plugin_param *p, struct str text)
{
    for (int i = 0; p->words[i] != NULL; i++)
        if (str_eqz(text, p->words[i]))
            return i;
    return -1;
}

/* Numbers as they go into the struct. */
static void put_u32(const struct plugin_param *p, void *params, uint64_t v)
{
    memcpy((char *)params + p->at, &(uint32_t) { (uint32_t)v }, sizeof(uint32_t));
}

static void put(const struct plugin_param *p, void *params, const void *v, size_t size)
{
    memcpy((char *)params + p->at, v, size);
}

void params_default(const struct plugin_param *table, uint32_t count, void *params)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct plugin_param *p = &table[i];
        struct str text = str_of(p->value);
        bool flag = str_eqz(text, "true");
        uint64_t u = 0;
        uint32_t ms = 0;
        int64_t n = 0;
        double f = 0;
        int word = 0;

        if (text.p == NULL)
            continue;
        switch (p->kind) {
        case PARAM_BOOL: put(p, params, &flag, sizeof(flag)); break;
        case PARAM_U32:
            ASSERT(str_u64(text, &u));
            put_u32(p, params, u);
            break;
        case PARAM_I64:
            ASSERT(str_i64(text, &n));
            put(p, params, &n, sizeof(n));
            break;
        case PARAM_F64:
            ASSERT(str_f64(text, &f));
            put(p, params, &f, sizeof(f));
            break;
        case PARAM_STR: put(p, params, &text, sizeof(text)); break;
        case PARAM_WORD:
            word = word_of(p, text);
            ASSERT(word >= 0);
            put(p, params, &word, sizeof(word));
            break;
        case PARAM_DURATION_MS:
            ASSERT(params_duration_ms(text, &ms));
            put_u32(p, params, ms);
            break;
        case PARAM_CUSTOM:
        case PARAM_IGNORED: break;
        }
    }
}

static int range_err(const struct yaml_node *n, const struct plugin_param *p, struct err *e)
{
    if (p->max <= p->min || isinf(p->max))
        return yaml_err(n, e, "%s: must be at least %.15g", p->name, p->min);
    if (isinf(p->min))
        return yaml_err(n, e, "%s: must be at most %.15g", p->name, p->max);
    return yaml_err(n, e, "%s: must be %.15g to %.15g", p->name, p->min, p->max);
}

static int decode_number(const struct yaml_node *n, const struct plugin_param *p, void *params,
                         struct err *e)
{
    int64_t i = 0;
    double f = 0;

    if (p->kind == PARAM_F64) {
        if (!yaml_f64(n, &f))
            return yaml_err(n, e, "%s: must be a number", p->name);
    } else {
        if (!yaml_i64(n, &i))
            return yaml_err(n, e, "%s: must be a whole number", p->name);
        f = (double)i;
    }
    if (p->kind == PARAM_U32 && (i < 0 || i > UINT32_MAX))
        return yaml_err(n, e, "%s: must be 0 to %u", p->name, UINT32_MAX);
    if (!in_range(p, f))
        return range_err(n, p, e);
    if (p->kind == PARAM_F64)
        put(p, params, &f, sizeof(f));
    else if (p->kind == PARAM_I64)
        put(p, params, &i, sizeof(i));
    else
        put_u32(p, params, (uint64_t)i);
    return 0;
}

static int word_err(const struct yaml_node *n, const struct plugin_param *p, struct err *e)
{
    char list[200] = "";

    for (int i = 0; p->words[i] != NULL; i++) {
        size_t len = strlen(list);

        if (p->words[i][0] != 0 && len + strlen(p->words[i]) + 3 < sizeof(list)) {
            if (len != 0) {
                memcpy(list + len, ", ", 3);
                len += 2;
            }
            memcpy(list + len, p->words[i], strlen(p->words[i]) + 1);
        }
    }
    return yaml_err(n, e, "%s: must be one of: %s", p->name, list);
}

static int decode_one(const struct yaml_node *n, const struct plugin_param *p, struct arena *a,
                      void *params, struct err *e)
{
    struct str text = STR_NONE;
    uint32_t ms = 0;
    bool flag;
    int word;

    switch (p->kind) {
    case PARAM_BOOL:
        if (!yaml_bool(n, &flag))
            return yaml_err(n, e, "%s: must be true or false", p->name);
        put(p, params, &flag, sizeof(flag));
        return 0;
    case PARAM_U32:
    case PARAM_I64:
    case PARAM_F64: return decode_number(n, p, params, e);
    case PARAM_STR:
        if (!yaml_str(n, &text))
            return yaml_err(n, e, "%s: must be text", p->name);
        put(p, params, &text, sizeof(text));
        return 0;
    case PARAM_WORD:
        word = yaml_str(n, &text) ? word_of(p, text) : -1;
        if (word < 0)
            return word_err(n, p, e);
        put(p, params, &word, sizeof(word));
        return 0;
    case PARAM_DURATION_MS:
        if (!yaml_str(n, &text) || !params_duration_ms(text, &ms))
            return yaml_err(n, e, "%s: must be a duration such as 250ms, 60s or 5m", p->name);
        if (!in_range(p, ms))
            return range_err(n, p, e);
        put_u32(p, params, ms);
        return 0;
    case PARAM_CUSTOM: return p->decode(n, a, params, e);
    case PARAM_IGNORED: return 0;
    }
    return err_set(e, ERR_INTERNAL, "%s: no such kind", p->name);
}

/* ---- maps ---- */

static int unknown_err(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                       const char *owner, struct err *e)
{
    char list[300] = "";
    size_t len = 0;

    for (uint32_t i = 0; i < count; i++) {
        size_t more = strlen(table[i].name);

        if (len + more + 8 >= sizeof(list)) {
            memcpy(list + len, ", ...", 6);
            break;
        }
        if (len != 0) {
            memcpy(list + len, ", ", 2);
            len += 2;
        }
        memcpy(list + len, table[i].name, more + 1);
        len += more;
    }
    if (count == 0)
        return yaml_err_key(n, e, "%s: unknown parameter \"%.*s\": it has none", owner,
                            STR_ARG(n->key));
    return yaml_err_key(n, e, "%s: unknown parameter \"%.*s\"; known are: %s", owner,
                        STR_ARG(n->key), list);
}

int params_decode(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                  const char *owner, struct arena *a, void *params, struct err *e)
{
    uint64_t given = 0;
    int rc;

    ASSERT(count <= 64);
    if (!yaml_is_null(n) && !yaml_is(n, YAML_MAP))
        return yaml_err(n, e, "%s: must be a map", owner);
    for (const struct yaml_node *m = yaml_is_null(n) ? NULL : n->first; m != NULL; m = m->next) {
        uint32_t i = 0;

        while (i < count && !str_ieq(m->key, str_of(table[i].name)))
            i++;
        if (i == count)
            return unknown_err(m, table, count, owner, e);
        if (yaml_is_null(m))
            continue;
        rc = decode_one(m, &table[i], a, params, e);
        if (rc != 0)
            return rc;
        given |= (uint64_t)1 << i;
    }
    for (uint32_t i = 0; i < count; i++)
        if (table[i].required && (given >> i & 1) == 0)
            return n == NULL ? err_set(e, ERR_INVAL, "%s: needs %s", owner, table[i].name)
                             : yaml_err(n, e, "%s: needs %s", owner, table[i].name);
    return 0;
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
                const char *owner, size_t item_size, struct arena *a, void **out,
                uint32_t *out_count, struct err *e)
{
    char *item;
    int rc = list_check(n, "maps", e);

    if (rc != 0)
        return rc;
    item = arena_alloc(a, (n->count + 1) * item_size);
    memset(item, 0, (n->count + 1) * item_size);
    *out = item;
    *out_count = n->count;
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next, item += item_size) {
        if (yaml_is_null(m))
            return yaml_err(m, e, "%s: must be a map", owner);
        params_default(table, count, item);
        rc = params_decode(m, table, count, owner, a, item, e);
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
