/* The tree walked.
 *
 * An expression is evaluated into a value, statements write into the current output.  Each
 * node counts a step and, while it runs, a level of depth; both have ceilings, so a template
 * can neither run nor nest for long.  break and continue travel as a flag that every list
 * of statements looks at. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

/* ---- variables ---- */

struct jframe *jframe_new(struct jinja *j, struct jframe *up)
{
    struct jframe *f = arena_try_zero(j->a, 1, sizeof(*f));

    if (f == NULL) {
        (void)jfail_memory(j);
        return NULL;
    }
    f->up = up;
    return f;
}

void jframe_capture(struct jframe *f)
{
    for (; f != NULL && !f->captured; f = f->up)
        f->captured = true;
}

bool jframe_put(struct jinja *j, struct jframe *f, const char *name, const struct jv *v)
{
    for (size_t i = 0; i < f->count; i++)
        if (f->var[i].name == name) {
            f->var[i].v = *v;
            return true;
        }
    if (f->count == f->cap) {
        size_t cap = f->cap * 2 + 4;
        struct jvar *p = arena_try_zero(j->a, cap, sizeof(*p));

        if (p == NULL)
            return jfail_memory(j);
        if (f->count > 0)
            memcpy(p, f->var, f->count * sizeof(*p));
        f->var = p;
        f->cap = cap;
    }
    f->var[f->count++] = (struct jvar) { name, *v };
    return true;
}

static struct jv lookup(const struct jinja *j, const struct jnode *n)
{
    const struct jv *v;

    for (const struct jframe *f = j->frame; f != NULL; f = f->up)
        for (size_t i = 0; i < f->count; i++)
            if (f->var[i].name == n->name.p)
                return f->var[i].v;
    v = jdict_gets(j->context, n->name);
    if (v != NULL)
        return *v;
    if (n->op != 0)
        return (struct jv) { .type = J_FUNC, .fn = { n->op, NULL } };
    return jv_undef(n->name);
}

bool jassign(struct jinja *j, const struct jnode *target, const struct jv *v)
{
    struct jv *items;
    size_t count, i = 0;

    if (target->kind == JN_NAME)
        return jframe_put(j, j->frame, target->name.p, v);
    if (target->kind == JN_NSREF) {
        struct jv ns = lookup(j, target->a), key = jv_str(target->name);

        if (ns.type != J_NAMESPACE)
            return jfail(j, ERR_INVAL, "cannot assign attribute on non-namespace object");
        return jdict_put(j, ns.dict, &key, v);
    }
    if (!jv_items(j, v, &items, &count))
        return false;
    for (const struct jnode *t = target->list; t != NULL; t = t->next, i++) {
        if (i == count)
            return jfail(j, ERR_INVAL, "not enough values to unpack");
        if (!jassign(j, t, &items[i]))
            return false;
    }
    return i == count || jfail(j, ERR_INVAL, "too many values to unpack");
}

/* ---- attributes and items ---- */

static bool bind(struct jinja *j, const struct jv *self, uint16_t method, struct jv *out)
{
    struct jv *copy = arena_try_zero(j->a, 1, sizeof(*copy));

    if (copy == NULL)
        return jfail_memory(j);
    *copy = *self;
    *out = (struct jv) { .type = J_METHOD, .fn = { method, copy } };
    return true;
}

static bool undefined_use(struct jinja *j, const struct jv *v)
{
    if (v->s.p == NULL)
        return jfail(j, ERR_INVAL, "an undefined value is used");
    return jfail(j, ERR_INVAL, "'%.*s' is undefined",
                 STR_ARG(str_sub((struct str) { v->s.p, v->s.n }, 0, 64)));
}

/* obj.name: what the type has, then what the object holds. */
bool jget_attr(struct jinja *j, const struct jv *obj, struct str name, uint16_t method,
               struct jv *out)
{
    const struct jv *v;

    if (obj->type == J_UNDEF)
        return undefined_use(j, obj);
    if (method != 0 && jmethod_exists(method, obj->type))
        return bind(j, obj, method, out);
    *out = jv_undef(name);
    if (obj->type == J_DICT || obj->type == J_NAMESPACE) {
        v = jdict_gets(obj->dict, name);
        if (v != NULL)
            *out = *v;
    } else if (obj->type == J_LOOP) {
        (void)jloop_attr(obj->loop, name, out);
    } else if (obj->type == J_MACRO && str_eqz(name, "name")) {
        *out = jv_str(obj->macro->node->name);
    }
    return true;
}

/* obj[key]: what the object holds, then what the type has. */
bool jget_item(struct jinja *j, const struct jv *obj, const struct jv *key, struct jv *out)
{
    const struct jv *v;
    int64_t i;
    size_t n;

    if (obj->type == J_UNDEF)
        return undefined_use(j, obj);
    *out = jv_undef(key->type == J_STR ? jv_view(key) : STR_NONE);
    if (obj->type == J_DICT) {
        v = jdict_get(obj->dict, key);
        if (v != NULL) {
            *out = *v;
            return true;
        }
    } else if ((obj->type == J_LIST || obj->type == J_TUPLE) && obj->list->kind == JLIST_PLAIN &&
               jv_as_int(key, &i)) {
        if (i < 0)
            i += (int64_t)obj->list->count;
        if (i >= 0 && (uint64_t)i < obj->list->count)
            *out = obj->list->v[i];
        return true;
    } else if (obj->type == J_STR && jv_as_int(key, &i)) {
        if (!jv_length(j, obj, &n))
            return false;
        if (i < 0)
            i += (int64_t)n;
        if (i >= 0 && (uint64_t)i < n) {
            size_t from = jtext_at(jv_view(obj), (size_t)i),
                   to = jtext_at(jv_view(obj), (size_t)i + 1);

            *out = jv_text(jtext_sub(obj->s, from, to - from));
        }
        return true;
    }
    return key->type != J_STR || jget_attr(j, obj, jv_view(key), jmethod_id(jv_view(key)), out);
}

static bool slice_bound(struct jinja *j, const struct jnode *n, int64_t *out, bool *given)
{
    struct jv v;

    *given = false;
    if (n == NULL)
        return true;
    if (!jeval(j, n, &v))
        return false;
    if (v.type == J_NONE)
        return true;
    *given = true;
    return jv_as_int(&v, out) || jfail(j, ERR_INVAL, "slice indices must be integers or None");
}

/* Python's rules for [start:stop:step] over n items: first index and how many. */
static void slice_range(int64_t n, bool has_start, int64_t *start, bool has_stop, int64_t stop,
                        int64_t step, int64_t *count)
{
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;

    if (!has_start)
        *start = step < 0 ? high : low;
    else if (*start < 0)
        *start = MAX(*start + n, low);
    else
        *start = MIN(*start, high);
    if (!has_stop)
        stop = step < 0 ? low : high;
    else if (stop < 0)
        stop = MAX(stop + n, low);
    else
        stop = MIN(stop, high);
    if (step > 0)
        *count = stop > *start ? (stop - *start - 1) / step + 1 : 0;
    else
        *count = *start > stop ? (*start - stop - 1) / -step + 1 : 0;
}

static bool slice_text(struct jinja *j, struct jtext s, int64_t start, int64_t step, int64_t count,
                       struct jv *out)
{
    struct str view = { s.p, s.n };
    struct jv chars = jv_text(s), *items;
    struct jsb b;
    size_t n;

    if (step == 1 || count <= 0) {
        size_t from = jtext_at(view, count > 0 ? (size_t)start : 0);
        size_t to = count > 0 ? from + jtext_at(str_sub(view, from, view.n), (size_t)count) : from;

        *out = jv_text(jtext_sub(s, from, to - from));
        return true;
    }
    if (!jsb_init(&b, j, 0) || !jv_items(j, &chars, &items, &n))
        return false;
    for (int64_t i = 0; i < count; i++)
        if (!jsb_text(&b, items[start + i * step].s))
            return false;
    *out = jv_text(jsb_done(&b));
    return true;
}

static bool eval_slice(struct jinja *j, const struct jv *obj, const struct jnode *n, struct jv *out)
{
    int64_t start = 0, stop = 0, step = 1, count;
    bool has_start, has_stop, has_step;
    size_t length;

    if (!slice_bound(j, n->a, &start, &has_start) || !slice_bound(j, n->b, &stop, &has_stop) ||
        !slice_bound(j, n->c, &step, &has_step))
        return false;
    if (obj->type == J_UNDEF)
        return undefined_use(j, obj);
    if (obj->type != J_STR &&
        ((obj->type != J_LIST && obj->type != J_TUPLE) || obj->list->kind != JLIST_PLAIN))
        return jfail(j, ERR_INVAL, "'%s' object is not subscriptable", jv_type_name(obj));
    if (step == 0 || step < -JINJA_RANGE_MAX || step > JINJA_RANGE_MAX)
        return jfail(j, ERR_INVAL, "slice step cannot be zero or huge");
    if (!jv_length(j, obj, &length))
        return false;
    slice_range((int64_t)length, has_start, &start, has_stop, stop, step, &count);
    if (!jstep(j, (size_t)count / 8))
        return false;
    if (obj->type == J_STR)
        return slice_text(j, obj->s, start, step, count, out);
    if (!jlist_new(j, (size_t)count, out))
        return false;
    out->type = obj->type;
    for (int64_t i = 0; i < count; i++)
        if (!jlist_add(j, out->list, &obj->list->v[start + i * step]))
            return false;
    return true;
}

static bool eval_item(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv obj, key;

    if (!jeval(j, n->a, &obj))
        return false;
    if (n->b->kind == JN_SLICE)
        return eval_slice(j, &obj, n->b, out);
    return jeval(j, n->b, &key) && jget_item(j, &obj, &key, out);
}

/* ---- operators ---- */

static bool repeat(struct jinja *j, const struct jv *v, int64_t times, struct jv *out)
{
    size_t n = v->type == J_STR ? v->s.n : v->list->count, all;
    struct jsb b;

    if (times < 0)
        times = 0;
    if (!size_mul(n, (size_t)times, &all) || all > JINJA_RENDER_BYTES)
        return jfail_memory(j);
    if (v->type == J_STR) {
        if (!jsb_init(&b, j, 0))
            return false;
        for (int64_t i = 0; i < times && n > 0; i++)
            if (!jstep(j, 1) || !jsb_text(&b, v->s))
                return false;
        *out = jv_text(jsb_done(&b));
        return true;
    }
    if (!jstep(j, all / 4) || !jlist_new(j, all, out))
        return false;
    out->type = v->type;
    for (int64_t i = 0; i < times && n > 0; i++)
        for (size_t k = 0; k < n; k++)
            out->list->v[out->list->count++] = v->list->v[k];
    return true;
}

static bool join_lists(struct jinja *j, const struct jv *a, const struct jv *b, struct jv *out)
{
    if (!jstep(j, (a->list->count + b->list->count) / 8) ||
        !jlist_new(j, a->list->count + b->list->count, out))
        return false;
    out->type = a->type;
    for (size_t i = 0; i < a->list->count; i++)
        out->list->v[out->list->count++] = a->list->v[i];
    for (size_t i = 0; i < b->list->count; i++)
        out->list->v[out->list->count++] = b->list->v[i];
    return true;
}

static bool overflow(struct jinja *j)
{
    return jfail(j, ERR_INVAL, "an integer is too large");
}

static int64_t floor_div(int64_t x, int64_t y)
{
    int64_t q = x / y;

    return x % y != 0 && (x < 0) != (y < 0) ? q - 1 : q;
}

static bool int_pow(struct jinja *j, int64_t x, int64_t y, int64_t *out)
{
    *out = 1;
    for (; y > 0; y >>= 1) {
        if ((y & 1) != 0 && __builtin_mul_overflow(*out, x, out))
            return overflow(j);
        if (y > 1 && __builtin_mul_overflow(x, x, &x))
            return overflow(j);
    }
    return true;
}

static bool int_op(struct jinja *j, enum jop op, int64_t x, int64_t y, struct jv *out)
{
    bool over = false;

    if (y == 0 && (op == JOP_DIV || op == JOP_FLOORDIV || op == JOP_MOD))
        return jfail(j, ERR_INVAL, "division by zero");
    if (y == -1 && x == INT64_MIN && (op == JOP_FLOORDIV || op == JOP_MOD))
        return overflow(j);
    *out = jv_int(0);
    switch (op) {
    case JOP_ADD: over = __builtin_add_overflow(x, y, &out->i); break;
    case JOP_SUB: over = __builtin_sub_overflow(x, y, &out->i); break;
    case JOP_MUL: over = __builtin_mul_overflow(x, y, &out->i); break;
    case JOP_DIV: *out = jv_float((double)x / (double)y); break;
    case JOP_FLOORDIV: out->i = floor_div(x, y); break;
    case JOP_MOD: out->i = x - floor_div(x, y) * y; break;
    default:
        if (y >= 0)
            return int_pow(j, x, y, &out->i);
        *out = jv_float(pow((double)x, (double)y));
        break;
    }
    return !over || overflow(j);
}

static bool float_op(struct jinja *j, enum jop op, double x, double y, struct jv *out)
{
    double r = 0;

    if (y == 0 && (op == JOP_DIV || op == JOP_FLOORDIV || op == JOP_MOD))
        return jfail(j, ERR_INVAL, "division by zero");
    switch (op) {
    case JOP_ADD: r = x + y; break;
    case JOP_SUB: r = x - y; break;
    case JOP_MUL: r = x * y; break;
    case JOP_DIV: r = x / y; break;
    case JOP_FLOORDIV: r = floor(x / y); break;
    case JOP_MOD:
        r = fmod(x, y);
        if (r != 0 && (r < 0) != (y < 0))
            r += y;
        break;
    default: r = pow(x, y); break;
    }
    *out = jv_float(r);
    return true;
}

/* Beside markup, plain text is escaped: what the templates that write `x|safe + y` get. */
static bool add_text(struct jinja *j, struct jtext a, struct jtext b, struct jv *out)
{
    bool markup = a.markup || b.markup;

    *out = jv_text((struct jtext) { 0 });
    if (markup && (!jtext_escape(j, a, &a) || !jtext_escape(j, b, &b)))
        return false;
    if (!jtext_concat(j, a, b, &out->s))
        return false;
    out->s.markup = markup;
    return true;
}

bool jbinary(struct jinja *j, enum jop op, const struct jv *a, const struct jv *b, struct jv *out)
{
    int64_t x, y;

    if (a->type == J_UNDEF || b->type == J_UNDEF)
        return undefined_use(j, a->type == J_UNDEF ? a : b);
    if (op == JOP_ADD && a->type == J_STR && b->type == J_STR)
        return add_text(j, a->s, b->s, out);
    if (op == JOP_MOD && a->type == J_STR)
        return jformat_percent(j, a->s, b, out);
    if (jv_as_int(a, &x) && jv_as_int(b, &y))
        return int_op(j, op, x, y, out);
    if (jv_is_number(a) && jv_is_number(b))
        return float_op(j, op, jv_double(a), jv_double(b), out);
    if (op == JOP_MUL && (a->type == J_STR || a->type == J_LIST || a->type == J_TUPLE) &&
        jv_as_int(b, &y))
        return repeat(j, a, y, out);
    if (op == JOP_MUL && (b->type == J_STR || b->type == J_LIST || b->type == J_TUPLE) &&
        jv_as_int(a, &x))
        return repeat(j, b, x, out);
    if (op == JOP_ADD && a->type == b->type && (a->type == J_LIST || a->type == J_TUPLE))
        return join_lists(j, a, b, out);
    return jfail(j, ERR_INVAL, "unsupported operand types: '%s' and '%s'", jv_type_name(a),
                 jv_type_name(b));
}

bool jcompare(struct jinja *j, enum jop op, const struct jv *a, const struct jv *b, bool *out)
{
    int order;

    switch (op) {
    case JOP_EQ: return jv_equal(j, a, b, out);
    case JOP_NE:
        if (!jv_equal(j, a, b, out))
            return false;
        *out = !*out;
        return true;
    case JOP_IN: return jv_contains(j, b, a, out);
    case JOP_NOT_IN:
        if (!jv_contains(j, b, a, out))
            return false;
        *out = !*out;
        return true;
    default: break;
    }
    if (a->type == J_UNDEF || b->type == J_UNDEF)
        return undefined_use(j, a->type == J_UNDEF ? a : b);
    if (!jv_order(j, a, b, &order))
        return false;
    *out = order != 2 && (op == JOP_LT   ? order < 0
                          : op == JOP_LE ? order <= 0
                          : op == JOP_GT ? order > 0
                                         : order >= 0);
    return true;
}

static bool eval_compare(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv left, right;
    bool is = true;

    if (!jeval(j, n->a, &left))
        return false;
    for (const struct jnode *o = n->list; o != NULL && is; o = o->next) {
        if (!jeval(j, o->a, &right) || !jcompare(j, (enum jop)o->op, &left, &right, &is))
            return false;
        left = right;
    }
    *out = jv_bool(is);
    return true;
}

static bool eval_concat(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jtext all = { 0 };

    for (const struct jnode *o = n->list; o != NULL; o = o->next) {
        struct jtext t;
        struct jv v;

        if (!jeval(j, o, &v) || !jv_to_text(j, &v, &t) || !jtext_concat(j, all, t, &all))
            return false;
    }
    *out = jv_text(all);
    return true;
}

static bool eval_sign(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv v;
    int64_t i;

    if (!jeval(j, n->a, &v))
        return false;
    if (v.type == J_UNDEF)
        return undefined_use(j, &v);
    if (jv_as_int(&v, &i)) {
        if (n->kind == JN_NEG && i == INT64_MIN)
            return overflow(j);
        *out = jv_int(n->kind == JN_NEG ? -i : i);
        return true;
    }
    if (!jv_is_number(&v))
        return jfail(j, ERR_INVAL, "bad operand type for unary sign: '%s'", jv_type_name(&v));
    *out = jv_float(n->kind == JN_NEG ? -jv_double(&v) : jv_double(&v));
    return true;
}

/* ---- literals and calls ---- */

static bool eval_list(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv list;

    if (!jlist_new(j, 0, &list))
        return false;
    for (const struct jnode *o = n->list; o != NULL; o = o->next) {
        struct jv v;

        if (!jeval(j, o, &v) || !jlist_add(j, list.list, &v))
            return false;
    }
    if (n->kind == JN_TUPLE)
        list.type = J_TUPLE;
    *out = list;
    return true;
}

static bool eval_dict(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv dict;

    if (!jdict_new(j, &dict))
        return false;
    for (const struct jnode *o = n->list; o != NULL; o = o->next) {
        struct jv k, v;

        if (!jeval(j, o->a, &k) || !jeval(j, o->b, &v) || !jdict_put(j, dict.dict, &k, &v))
            return false;
    }
    *out = dict;
    return true;
}

static bool add_kw(struct jinja *j, struct jargs *args, size_t *cap, struct str name,
                   const struct jv *v)
{
    for (size_t i = 0; i < args->kw_count; i++)
        if (str_eq(args->kw[i].name, name))
            return jfail(j, ERR_INVAL, "a keyword argument is given twice");
    if (args->kw_count == *cap) {
        size_t bigger = *cap * 2 + 4;
        struct jkw *p = arena_try_zero(j->a, bigger, sizeof(*p));

        if (p == NULL)
            return jfail_memory(j);
        if (args->kw_count > 0)
            memcpy(p, args->kw, args->kw_count * sizeof(*p));
        args->kw = p;
        *cap = bigger;
    }
    args->kw[args->kw_count++] = (struct jkw) { name, *v };
    return true;
}

static bool add_star2(struct jinja *j, struct jargs *args, size_t *cap, const struct jv *v)
{
    if (v->type != J_DICT)
        return jfail(j, ERR_INVAL, "the argument after ** must be a mapping");
    for (size_t i = 0; i < v->dict->count; i++) {
        if (v->dict->e[i].key.type != J_STR)
            return jfail(j, ERR_INVAL, "keywords must be strings");
        if (!jstep(j, args->kw_count / 8) ||
            !add_kw(j, args, cap, jv_view(&v->dict->e[i].key), &v->dict->e[i].value))
            return false;
    }
    return true;
}

bool jeval_args(struct jinja *j, const struct jnode *list, struct jv *first, struct jargs *out)
{
    size_t cap = 0;
    struct jv all;

    *out = (struct jargs) { 0 };
    if (!jlist_new(j, 4, &all) || (first != NULL && !jlist_add(j, all.list, first)))
        return false;
    for (const struct jnode *o = list; o != NULL; o = o->next) {
        bool named = o->kind == JN_KWARG || o->kind == JN_STAR || o->kind == JN_STAR2;
        struct jv v, *items;
        bool ok = true;
        size_t n;

        if (!jeval(j, named ? o->a : o, &v))
            return false;
        if (o->kind == JN_KWARG)
            ok = add_kw(j, out, &cap, o->name, &v);
        else if (o->kind == JN_STAR2)
            ok = add_star2(j, out, &cap, &v);
        else if (o->kind != JN_STAR)
            ok = jlist_add(j, all.list, &v);
        else if ((ok = jv_items(j, &v, &items, &n)))
            for (size_t i = 0; i < n && ok; i++)
                ok = jlist_add(j, all.list, &items[i]);
        if (!ok)
            return false;
    }
    out->v = all.list->v;
    out->count = all.list->count;
    return true;
}

static bool eval_filter(struct jinja *j, const struct jnode *n, struct jv *base, struct jv *out)
{
    struct jargs args;
    struct jv v;

    if (n->a == NULL)
        v = *base; /* a block's text */
    else if (base != NULL && n->a->kind == JN_FILTER ? !eval_filter(j, n->a, base, &v)
                                                     : !jeval(j, n->a, &v))
        return false;
    if (n->op == JUNKNOWN)
        return jfail(j, ERR_INVAL, "there is no filter '%.*s'", STR_ARG(str_sub(n->name, 0, 64)));
    return jeval_args(j, n->list, &v, &args) && jfilter_run(j, n->op, &args, out);
}

static bool eval_test(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jargs args;
    struct jv v;
    bool is;

    if (n->op == JUNKNOWN)
        return jfail(j, ERR_INVAL, "there is no test '%.*s'", STR_ARG(str_sub(n->name, 0, 64)));
    if (!jeval(j, n->a, &v) || !jeval_args(j, n->list, &v, &args) ||
        !jtest_run(j, n->op, &args, &is))
        return false;
    *out = jv_bool(is);
    return true;
}

static bool eval_call(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jargs args;
    struct jv f;

    if (!jeval(j, n->a, &f) || !jeval_args(j, n->list, NULL, &args))
        return false;
    if (f.type == J_UNDEF)
        return undefined_use(j, &f);
    j->line = n->line;
    return jcall(j, &f, &args, out);
}

static bool eval_node(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jv v, w;

    switch (n->kind) {
    case JN_CONST: *out = n->value; return true;
    case JN_NAME: *out = lookup(j, n); return true;
    case JN_LIST:
    case JN_TUPLE: return eval_list(j, n, out);
    case JN_DICT: return eval_dict(j, n, out);
    case JN_ATTR: return jeval(j, n->a, &v) && jget_attr(j, &v, n->name, n->op, out);
    case JN_ITEM: return eval_item(j, n, out);
    case JN_CALL: return eval_call(j, n, out);
    case JN_FILTER: return eval_filter(j, n, NULL, out);
    case JN_TEST: return eval_test(j, n, out);
    case JN_NOT:
        if (!jeval(j, n->a, &v))
            return false;
        *out = jv_bool(!jv_truth(&v));
        return true;
    case JN_NEG:
    case JN_POS: return eval_sign(j, n, out);
    case JN_BIN:
        return jeval(j, n->a, &v) && jeval(j, n->b, &w) && jbinary(j, (enum jop)n->op, &v, &w, out);
    case JN_CONCAT: return eval_concat(j, n, out);
    case JN_AND:
    case JN_OR:
        if (!jeval(j, n->a, out))
            return false;
        return jv_truth(out) != (n->kind == JN_AND) || jeval(j, n->b, out);
    case JN_CMP: return eval_compare(j, n, out);
    case JN_COND:
        if (!jeval(j, n->a, &v))
            return false;
        if (jv_truth(&v))
            return jeval(j, n->b, out);
        if (n->c != NULL)
            return jeval(j, n->c, out);
        *out = jv_undef(STR_NONE);
        return true;
    default: return jfail(j, ERR_INTERNAL, "not an expression");
    }
}

bool jeval(struct jinja *j, const struct jnode *n, struct jv *out)
{
    bool ok;

    j->line = n->line;
    if (!jstep(j, 1) || !jenter(j))
        return false;
    ok = eval_node(j, n, out);
    jleave(j);
    return ok;
}

/* ---- statements ---- */

static bool exec_if(struct jinja *j, const struct jnode *n)
{
    for (const struct jnode *b = n->list; b != NULL; b = b->next) {
        struct jv v = jv_bool(true);

        if (b->a != NULL && !jeval(j, b->a, &v))
            return false;
        if (jv_truth(&v))
            return jexec(j, b->list);
    }
    return true;
}

/* Runs statements in a frame of their own, into a text of their own. */
static bool captured(struct jinja *j, const struct jnode *list, struct jv *out)
{
    struct jframe *around = j->frame;
    struct jsb *into = j->out, text;
    bool ok;

    if (!jsb_init(&text, j, into->max))
        return false;
    j->frame = jframe_new(j, around);
    if (j->frame == NULL)
        return false;
    j->out = &text;
    ok = jexec(j, list);
    j->out = into;
    j->frame = around;
    *out = jv_text(jsb_done(&text));
    return ok;
}

static bool exec_scope(struct jinja *j, const struct jnode *n)
{
    struct jframe *around = j->frame;
    bool ok = true;

    j->frame = jframe_new(j, around);
    if (j->frame == NULL)
        return false;
    ok = jexec(j, n->list2) && jexec(j, n->list);
    j->frame = around;
    return ok;
}

static bool exec_macro(struct jinja *j, const struct jnode *n, struct jv *out)
{
    struct jmacro *m = arena_try_zero(j->a, 1, sizeof(*m));

    if (m == NULL)
        return jfail_memory(j);
    m->node = n;
    m->frame = j->frame;
    jframe_capture(j->frame);
    *out = (struct jv) { .type = J_MACRO, .macro = m };
    return true;
}

static bool exec_call_block(struct jinja *j, const struct jnode *n)
{
    struct jv caller, f, out, with;
    struct jargs args;
    struct jkw *kw;

    if (!exec_macro(j, n->c, &caller) || !jeval(j, n->a->a, &f) ||
        !jeval_args(j, n->a->list, NULL, &args))
        return false;
    kw = arena_try_zero(j->a, args.kw_count + 1, sizeof(*kw));
    if (kw == NULL)
        return jfail_memory(j);
    for (size_t i = 0; i < args.kw_count; i++)
        kw[i] = args.kw[i];
    kw[args.kw_count] = (struct jkw) { STR("caller"), caller };
    args.kw = kw;
    args.kw_count++;
    with = f;
    return jcall(j, &with, &args, &out) && jprint_str(j->out, &out);
}

static bool exec_node(struct jinja *j, const struct jnode *n)
{
    struct jv v, w;

    j->line = n->line;
    switch (n->kind) {
    case JN_DATA: return jsb_add(j->out, n->name.p, n->name.n, false);
    case JN_OUT: return jeval(j, n->a, &v) && jprint_str(j->out, &v);
    case JN_IF: return exec_if(j, n);
    case JN_FOR: return jeval(j, n->a, &v) && jrun_loop(j, n, &v, j->frame, 0);
    case JN_SET: return jeval(j, n->a, &v) && jassign(j, n->b, &v);
    case JN_SET_BLOCK:
        if (!captured(j, n->list, &v))
            return false;
        if (n->a != NULL) {
            w = v;
            if (!eval_filter(j, n->a, &w, &v))
                return false;
        }
        return jassign(j, n->b, &v);
    case JN_MACRO: return exec_macro(j, n, &v) && jframe_put(j, j->frame, n->name.p, &v);
    case JN_CALL_BLOCK: return exec_call_block(j, n);
    case JN_FILTER_BLOCK:
        return captured(j, n->list, &w) && eval_filter(j, n->a, &w, &v) && jprint_str(j->out, &v);
    case JN_BREAK: j->flow = JFLOW_BREAK; return true;
    case JN_CONTINUE: j->flow = JFLOW_CONTINUE; return true;
    case JN_SCOPE: return exec_scope(j, n);
    default: return jfail(j, ERR_INTERNAL, "not a statement");
    }
}

bool jexec(struct jinja *j, const struct jnode *list)
{
    bool ok = true;

    if (!jenter(j))
        return false;
    for (const struct jnode *n = list; n != NULL && ok && j->flow == JFLOW_NEXT; n = n->next)
        ok = jstep(j, 1) && exec_node(j, n);
    jleave(j);
    return ok;
}

int jinja_run(struct jinja *j, const struct jnode *root, struct jsb *out)
{
    struct jframe *f = jframe_new(j, NULL);

    j->frame = f;
    j->out = out;
    if (f == NULL || !jexec(j, root))
        return j->rc;
    return 0;
}
