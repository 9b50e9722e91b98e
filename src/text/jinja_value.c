/* Values: constructors, truth, equality and order as Python has them; lists and dicts;
 * and text that remembers which of its bytes came from outside.
 *
 * Text that grows at its end (`ns.text = ns.text + x` in a loop) would be copied whole
 * each turn.  A text therefore knows the buffer it lies in; when it ends exactly where
 * that buffer's used part ends, the next piece is written behind it and only a new
 * (pointer, length) is handed out.  Older values keep their length, so nothing they see
 * changes. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DICT_LINEAR_MAX 8 /* entries that are searched one by one */

/* ---- failing and counting ---- */

bool jfail(struct jinja *j, int rc, const char *fmt, ...)
{
    char what[ERR_MSG_MAX];
    va_list ap;

    if (j->rc != 0)
        return false;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (j->line == 0) /* not in the template yet */
        j->rc = err_set(j->e, rc, "%s", what);
    else
        j->rc = err_set(j->e, rc, "chat template, line %u: %s", j->line, what);
    return false;
}

bool jfail_memory(struct jinja *j)
{
    return jfail(j, ERR_LIMIT, "rendering needs too much memory");
}

bool jstep(struct jinja *j, size_t n)
{
    if (n > JINJA_STEPS_MAX || j->steps + n > JINJA_STEPS_MAX)
        return jfail(j, ERR_LIMIT, "rendering takes too many steps");
    j->steps += (uint32_t)n;
    return true;
}

bool jbytes(struct jinja *j, size_t n)
{
    return jstep(j, n / JINJA_BULK_BYTES);
}

bool jenter(struct jinja *j)
{
    if (j->depth >= JINJA_DEPTH_MAX)
        return jfail(j, ERR_LIMIT, "rendering nests too deeply");
    j->depth++;
    return true;
}

void jleave(struct jinja *j)
{
    j->depth--;
}

/* ---- scalars ---- */

struct jv jv_none(void)
{
    return (struct jv) { .type = J_NONE };
}

struct jv jv_bool(bool b)
{
    return (struct jv) { .type = J_BOOL, .b = b };
}

struct jv jv_int(int64_t i)
{
    return (struct jv) { .type = J_INT, .i = i };
}

struct jv jv_float(double f)
{
    return (struct jv) { .type = J_FLOAT, .f = f };
}

struct jv jv_str(struct str s)
{
    return (struct jv) { .type = J_STR, .s = { .p = s.p, .n = s.n } };
}

struct jv jv_text(struct jtext s)
{
    return (struct jv) { .type = J_STR, .s = s };
}

struct jv jv_undef(struct str name)
{
    return (struct jv) { .type = J_UNDEF, .s = { .p = name.p, .n = name.n } };
}

struct str jv_view(const struct jv *v)
{
    return (struct str) { v->s.p, v->s.n };
}

const char *jv_type_name(const struct jv *v)
{
    static const char *const names[] = {
        [J_UNDEF] = "Undefined",
        [J_NONE] = "NoneType",
        [J_BOOL] = "bool",
        [J_INT] = "int",
        [J_FLOAT] = "float",
        [J_BIG] = "int",
        [J_STR] = "str",
        [J_LIST] = "list",
        [J_TUPLE] = "tuple",
        [J_DICT] = "dict",
        [J_NAMESPACE] = "Namespace",
        [J_LOOP] = "LoopContext",
        [J_MACRO] = "Macro",
        [J_FUNC] = "function",
        [J_METHOD] = "builtin_function_or_method",
        [J_CYCLER] = "Cycler",
        [J_JOINER] = "Joiner",
    };
    return names[v->type];
}

bool jv_truth(const struct jv *v)
{
    switch (v->type) {
    case J_UNDEF:
    case J_NONE: return false;
    case J_BOOL: return v->b;
    case J_INT: return v->i != 0;
    case J_FLOAT: return v->f != 0;
    case J_STR: return v->s.n != 0;
    case J_LIST:
    case J_TUPLE:
        return v->list->count != 0 ||
               v->list->kind == JLIST_ITERATOR; /* Python cannot know either */
    case J_DICT: return v->dict->count != 0;
    default: return true;
    }
}

bool jv_is_number(const struct jv *v)
{
    return v->type == J_BOOL || v->type == J_INT || v->type == J_FLOAT || v->type == J_BIG;
}

double jv_double(const struct jv *v)
{
    double d = 0;

    switch (v->type) {
    case J_BOOL: return v->b ? 1 : 0;
    case J_INT: return (double)v->i;
    case J_FLOAT: return v->f;
    default: (void)str_f64(jv_view(v), &d); return d;
    }
}

bool jv_as_int(const struct jv *v, int64_t *out)
{
    if (v->type == J_INT)
        *out = v->i;
    else if (v->type == J_BOOL)
        *out = v->b ? 1 : 0;
    else
        return false;
    return true;
}

/* ---- comparison ---- */

static int compare_numbers(const struct jv *a, const struct jv *b)
{
    int64_t x, y;
    double d, e;

    if (jv_as_int(a, &x) && jv_as_int(b, &y))
        return x < y ? -1 : x > y;
    d = jv_double(a);
    e = jv_double(b);
    return d < e ? -1 : d > e ? 1 : d == e ? 0 : 2; /* 2: not a number */
}

static bool lists_equal(struct jinja *j, const struct jlist *a, const struct jlist *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; i < a->count && *out; i++)
        if (!jv_equal(j, &a->v[i], &b->v[i], out))
            return false;
    return true;
}

static bool dicts_equal(struct jinja *j, const struct jdict *a, const struct jdict *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; i < a->count && *out; i++) {
        const struct jv *v = jdict_get(b, &a->e[i].key);

        *out = v != NULL;
        if (v != NULL && !jv_equal(j, &a->e[i].value, v, out))
            return false;
    }
    return true;
}

bool jv_equal(struct jinja *j, const struct jv *a, const struct jv *b, bool *out)
{
    bool ok = true;

    *out = false;
    if (jv_is_number(a) && jv_is_number(b)) {
        *out = a->type == J_BIG && b->type == J_BIG ? str_eq(jv_view(a), jv_view(b))
                                                    : compare_numbers(a, b) == 0;
        return true;
    }
    if (a->type != b->type)
        return true;
    switch (a->type) {
    case J_UNDEF:
    case J_NONE: *out = true; return true;
    case J_STR: *out = str_eq(jv_view(a), jv_view(b)); return !*out || jbytes(j, a->s.n);
    case J_LIST:
    case J_TUPLE:
        if (!jstep(j, 1) || !jenter(j))
            return false;
        ok = lists_equal(j, a->list, b->list, out);
        jleave(j);
        return ok;
    case J_DICT:
        if (!jstep(j, 1) || !jenter(j))
            return false;
        ok = dicts_equal(j, a->dict, b->dict, out);
        jleave(j);
        return ok;
    case J_METHOD:
    case J_FUNC: *out = a->fn.id == b->fn.id; return true;
    default:
        *out = a->dict == b->dict; /* identity: all are pointers */
        return true;
    }
}

bool jv_order(struct jinja *j, const struct jv *a, const struct jv *b, int *out)
{
    *out = 0;
    if (jv_is_number(a) && jv_is_number(b)) {
        *out = compare_numbers(a, b);
        return true;
    }
    if (a->type == J_STR &&
        b->type == J_STR) { /* bytes of UTF-8 have the order of their characters */
        int c = str_cmp(jv_view(a), jv_view(b));

        *out = c < 0 ? -1 : c > 0;
        return jbytes(j, MIN(a->s.n, b->s.n));
    }
    if (a->type != b->type || (a->type != J_LIST && a->type != J_TUPLE))
        return jfail(j, ERR_INVAL, "'<' not supported between '%s' and '%s'", jv_type_name(a),
                     jv_type_name(b));
    for (size_t i = 0; i < a->list->count && i < b->list->count && *out == 0; i++) {
        bool ok, same;

        if (!jstep(j, 1) || !jenter(j))
            return false;
        /* what is equal need not have an order */
        ok = jv_equal(j, &a->list->v[i], &b->list->v[i], &same) &&
             (same || jv_order(j, &a->list->v[i], &b->list->v[i], out));
        jleave(j);
        if (!ok)
            return false;
    }
    if (*out == 0)
        *out = a->list->count < b->list->count ? -1 : a->list->count > b->list->count;
    return true;
}

bool jv_contains(struct jinja *j, const struct jv *in, const struct jv *what, bool *out)
{
    struct jv *items;
    size_t count;

    *out = false;
    if (in->type == J_STR) {
        if (what->type != J_STR)
            return jfail(j, ERR_INVAL, "'in <string>' requires string as left operand, not %s",
                         jv_type_name(what));
        *out = str_find(jv_view(in), jv_view(what)) != SIZE_MAX;
        return jbytes(j, in->s.n);
    }
    if (in->type == J_DICT) {
        *out = jv_hashable(j, what) && jdict_get(in->dict, what) != NULL;
        return j->rc == 0;
    }
    if (!jv_items(j, in, &items, &count) || !jstep(j, count / 4))
        return false;
    for (size_t i = 0; i < count && !*out; i++)
        if (!jv_equal(j, &items[i], what, out))
            return false;
    return true;
}

/* ---- sequences ---- */

static bool characters(struct jinja *j, struct jtext s, struct jv **items, size_t *count)
{
    size_t n = jtext_chars((struct str) { s.p, s.n }), at = 0, len;

    if (!jstep(j, n / 8))
        return false;
    *items = arena_try_zero(j->a, n, sizeof(**items));
    if (*items == NULL)
        return jfail_memory(j);
    for (size_t i = 0; i < n; i++, at += len) {
        (void)utf8_next((struct str) { s.p + at, s.n - at }, &len);
        (*items)[i] = jv_text(jtext_sub(s, at, len));
    }
    *count = n;
    return true;
}

bool jv_items(struct jinja *j, const struct jv *v, struct jv **items, size_t *count)
{
    struct jlist *l;

    *items = NULL;
    *count = 0;
    switch (v->type) {
    case J_UNDEF: return true;
    case J_STR: return characters(j, v->s, items, count);
    case J_LIST:
    case J_TUPLE:
        l = v->list;
        *items = l->v != NULL ? l->v + l->pos : NULL;
        *count = l->count - l->pos;
        if (l->kind == JLIST_ITERATOR)
            l->pos = l->count;
        return true;
    case J_DICT:
        if (!jstep(j, v->dict->count / 8))
            return false;
        *items = arena_try_zero(j->a, v->dict->count, sizeof(**items));
        if (*items == NULL)
            return jfail_memory(j);
        for (size_t i = 0; i < v->dict->count; i++)
            (*items)[i] = v->dict->e[i].key;
        *count = v->dict->count;
        return true;
    default: return jfail(j, ERR_INVAL, "'%s' object is not iterable", jv_type_name(v));
    }
}

bool jv_length(struct jinja *j, const struct jv *v, size_t *out)
{
    *out = 0;
    switch (v->type) {
    case J_UNDEF: return true;
    case J_STR: *out = jtext_chars(jv_view(v)); return jbytes(j, v->s.n);
    case J_LIST:
    case J_TUPLE:
        if (v->list->kind == JLIST_ITERATOR)
            return jfail(j, ERR_INVAL, "object of type 'generator' has no len()");
        *out = v->list->count;
        return true;
    case J_DICT: *out = v->dict->count; return true;
    case J_LOOP: *out = v->loop->count; return true;
    default: return jfail(j, ERR_INVAL, "object of type '%s' has no len()", jv_type_name(v));
    }
}

bool jlist_new(struct jinja *j, size_t cap, struct jv *out)
{
    struct jlist *l = arena_try_zero(j->a, 1, sizeof(*l));

    if (l == NULL)
        return jfail_memory(j);
    if (cap > 0) {
        l->v = arena_try_zero(j->a, cap, sizeof(*l->v));
        if (l->v == NULL)
            return jfail_memory(j);
    }
    l->cap = cap;
    l->own = true;
    *out = (struct jv) { .type = J_LIST, .list = l };
    return true;
}

bool jlist_add(struct jinja *j, struct jlist *l, const struct jv *v)
{
    if (l->count == l->cap) {
        size_t cap = l->cap * 2 + 8;
        struct jv *p = arena_try_zero(j->a, cap, sizeof(*p));

        if (p == NULL)
            return jfail_memory(j);
        if (l->count > 0)
            memcpy(p, l->v, l->count * sizeof(*p));
        l->v = p;
        l->cap = cap;
    }
    l->v[l->count++] = *v;
    return true;
}

/* ---- dicts ---- */

#define KEY_DEPTH_MAX 8 /* of tuples within tuples; a deeper key equals none */

static uint64_t hash_at(const struct jv *k, unsigned depth)
{
    uint64_t h = 7;
    double d;

    if (k->type == J_STR)
        return str_hash(jv_view(k));
    if (jv_is_number(k)) { /* 1, 1.0 and True are the same key */
        d = jv_double(k) + 0.0;
        memcpy(&h, &d, sizeof(h));
        return h * 0x9e3779b97f4a7c15u >> 7;
    }
    for (size_t i = 0; k->type == J_TUPLE && depth < KEY_DEPTH_MAX && i < k->list->count; i++)
        h = h * 31 + hash_at(&k->list->v[i], depth + 1);
    return h;
}

static uint64_t hash_key(const struct jv *k)
{
    return hash_at(k, 0);
}

/* Keys are text, numbers, none, or tuples of them: no failing, no counting. */
static bool keys_equal_at(const struct jv *a, const struct jv *b, unsigned depth)
{
    if (a->type == J_STR && b->type == J_STR)
        return str_eq(jv_view(a), jv_view(b));
    if (jv_is_number(a) && jv_is_number(b))
        return compare_numbers(a, b) == 0;
    if (a->type != b->type)
        return false;
    if (a->type == J_TUPLE) {
        bool same = a->list->count == b->list->count && depth < KEY_DEPTH_MAX;

        for (size_t i = 0; same && i < a->list->count; i++)
            same = keys_equal_at(&a->list->v[i], &b->list->v[i], depth + 1);
        return same;
    }
    return a->type == J_NONE || a->type == J_UNDEF;
}

static bool keys_equal(const struct jv *a, const struct jv *b)
{
    return keys_equal_at(a, b, 0);
}

static size_t find(const struct jdict *d, const struct jv *key)
{
    size_t mask, at;

    if (d->index == NULL) {
        for (size_t i = 0; i < d->count; i++)
            if (keys_equal(&d->e[i].key, key))
                return i;
        return SIZE_MAX;
    }
    mask = d->index_cap - 1;
    for (at = hash_key(key) & mask; d->index[at] != 0; at = (at + 1) & mask)
        if (keys_equal(&d->e[d->index[at] - 1].key, key))
            return d->index[at] - 1;
    return SIZE_MAX;
}

static bool index_all(struct jinja *j, struct jdict *d)
{
    size_t cap = 32, mask;

    d->index = NULL;
    if (d->count <= DICT_LINEAR_MAX)
        return true;
    while (cap < d->count * 2)
        cap *= 2;
    d->index = arena_try_zero(j->a, cap, sizeof(*d->index));
    if (d->index == NULL)
        return jfail_memory(j);
    d->index_cap = cap;
    mask = cap - 1;
    for (size_t i = 0; i < d->count; i++) {
        size_t at = hash_key(&d->e[i].key) & mask;

        while (d->index[at] != 0)
            at = (at + 1) & mask;
        d->index[at] = (uint32_t)i + 1;
    }
    return true;
}

bool jdict_new(struct jinja *j, struct jv *out)
{
    struct jdict *d = arena_try_zero(j->a, 1, sizeof(*d));

    if (d == NULL)
        return jfail_memory(j);
    d->own = true;
    *out = (struct jv) { .type = J_DICT, .dict = d };
    return true;
}

bool jv_hashable(struct jinja *j, const struct jv *key)
{
    if (key->type == J_LIST || key->type == J_DICT)
        return jfail(j, ERR_INVAL, "unhashable type: '%s'", jv_type_name(key));
    for (size_t i = 0; key->type == J_TUPLE && i < key->list->count; i++) {
        bool ok;

        if (!jenter(j))
            return false;
        ok = jv_hashable(j, &key->list->v[i]);
        jleave(j);
        if (!ok)
            return false;
    }
    return true;
}

bool jdict_put(struct jinja *j, struct jdict *d, const struct jv *key, const struct jv *value)
{
    size_t i;

    if (!jv_hashable(j, key))
        return false;
    i = find(d, key);
    if (i != SIZE_MAX) {
        d->e[i].value = *value;
        return true;
    }
    if (d->count == d->cap) {
        size_t cap = d->cap * 2 + 4;
        struct jentry *e = arena_try_zero(j->a, cap, sizeof(*e));

        if (e == NULL)
            return jfail_memory(j);
        if (d->count > 0)
            memcpy(e, d->e, d->count * sizeof(*e));
        d->e = e;
        d->cap = cap;
    }
    d->e[d->count++] = (struct jentry) { *key, *value };
    if (d->index == NULL || d->count * 2 > d->index_cap)
        return index_all(j, d);
    i = hash_key(key) & (d->index_cap - 1);
    while (d->index[i] != 0)
        i = (i + 1) & (d->index_cap - 1);
    d->index[i] = (uint32_t)d->count;
    return true;
}

const struct jv *jdict_get(const struct jdict *d, const struct jv *key)
{
    size_t i = find(d, key);

    return i == SIZE_MAX ? NULL : &d->e[i].value;
}

const struct jv *jdict_gets(const struct jdict *d, struct str key)
{
    struct jv k = jv_str(key);

    return jdict_get(d, &k);
}

bool jdict_del(struct jinja *j, struct jdict *d, const struct jv *key, struct jv *out)
{
    size_t i = find(d, key);

    if (i == SIZE_MAX)
        return jfail(j, ERR_INVAL, "pop: no such key");
    *out = d->e[i].value;
    memmove(&d->e[i], &d->e[i + 1], (d->count - i - 1) * sizeof(*d->e));
    d->count--;
    return jstep(j, d->count / 8) && index_all(j, d);
}

/* ---- text and its origin ---- */

struct jtext jtext_sub(struct jtext s, size_t from, size_t n)
{
    if (s.p == NULL) /* nothing, from nowhere */
        return s;
    return (struct jtext) { .p = s.p + from,
                            .n = n,
                            .taint = s.taint != NULL ? s.taint + from : NULL,
                            .tainted = s.tainted,
                            .markup = s.markup,
                            .grow = from + n == s.n ? s.grow : NULL };
}

static struct jgrow *grow_new(struct jinja *j, size_t cap)
{
    struct jgrow *g = arena_try_zero(j->a, 1, sizeof(*g));

    if (g != NULL)
        g->p = arena_try(j->a, cap);
    if (g == NULL || g->p == NULL) {
        (void)jfail_memory(j);
        return NULL;
    }
    g->cap = cap;
    return g;
}

/* Gives g a taint map, in which what is there already is as `tainted` says. */
static bool grow_map(struct jinja *j, struct jgrow *g, bool tainted)
{
    if (g->taint != NULL)
        return true;
    g->taint = arena_try(j->a, g->cap);
    if (g->taint == NULL)
        return jfail_memory(j);
    memset(g->taint, tainted, g->used);
    return true;
}

static void grow_put(struct jgrow *g, struct jtext s)
{
    if (s.n == 0)
        return;
    memcpy(g->p + g->used, s.p, s.n);
    if (g->taint != NULL && s.taint != NULL)
        memcpy(g->taint + g->used, s.taint, s.n);
    else if (g->taint != NULL)
        memset(g->taint + g->used, s.tainted, s.n);
    g->used += s.n;
}

bool jtext_concat(struct jinja *j, struct jtext a, struct jtext b, struct jtext *out)
{
    bool uniform = a.taint == NULL && b.taint == NULL && a.tainted == b.tainted;
    struct jgrow *g = a.grow;
    size_t n;

    if (b.n == 0) {
        *out = a;
        return true;
    }
    if (a.n == 0) {
        *out = b;
        return true;
    }
    if (!size_add(a.n, b.n, &n) || !jbytes(j, b.n))
        return jfail_memory(j);
    if (g == NULL || a.p + a.n != g->p + g->used || g->cap - g->used < b.n) {
        if (!jbytes(j, a.n))
            return false;
        g = grow_new(j, MAX(n * 2, (size_t)64));
        if (g == NULL || (!uniform && !grow_map(j, g, false)))
            return false;
        grow_put(g, a);
    } else if (!uniform && !grow_map(j, g, a.tainted)) {
        return false;
    }
    grow_put(g, b);
    *out = (struct jtext) { .p = g->p + g->used - n, .n = n, .grow = g, .tainted = a.tainted };
    if (!uniform)
        out->taint = g->taint + g->used - n;
    return true;
}

bool jsb_init(struct jsb *b, struct jinja *j, size_t max)
{
    *b = (struct jsb) { .j = j, .max = max, .g = grow_new(j, 256) };
    return b->g != NULL;
}

bool jsb_text(struct jsb *b, struct jtext s)
{
    struct jgrow *g = b->g;
    bool clean = s.taint != NULL || !s.tainted, tainted = s.taint != NULL || s.tainted;

    if (s.n == 0)
        return true;
    if (!jbytes(b->j, s.n))
        return false;
    if (b->max != 0 && (s.n > b->max || g->used > b->max - s.n))
        return jfail(b->j, ERR_LIMIT, "the output is too large");
    if (g->cap - g->used < s.n) {
        struct jgrow *bigger = grow_new(b->j, (g->used + s.n) * 2);

        if (bigger == NULL)
            return false;
        bigger->used = 0;
        if (g->taint != NULL && !grow_map(b->j, bigger, false))
            return false;
        grow_put(bigger, (struct jtext) { .p = g->p, .n = g->used, .taint = g->taint });
        b->g = g = bigger;
    }
    if (((b->any_clean && tainted) || (b->any_tainted && clean) || (clean && tainted)) &&
        !grow_map(b->j, g, b->any_tainted))
        return false;
    grow_put(g, s);
    b->any_clean = b->any_clean || clean;
    b->any_tainted = b->any_tainted || tainted;
    return true;
}

bool jsb_add(struct jsb *b, const char *p, size_t n, bool tainted)
{
    return jsb_text(b, (struct jtext) { .p = p, .n = n, .tainted = tainted });
}

bool jsb_z(struct jsb *b, const char *z)
{
    return jsb_add(b, z, strlen(z), false);
}

struct jtext jsb_done(const struct jsb *b)
{
    return (struct jtext) {
        .p = b->g->p, .n = b->g->used, .taint = b->g->taint, .grow = b->g, .tainted = b->any_tainted
    };
}
