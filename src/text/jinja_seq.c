/* Filters on sequences.  Those that Python gives as generators are marked as iterators: true
 * whatever they hold, no length, and empty after one use, for templates depend on it. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include <string.h>

/* ---- attributes by path ---- */

static bool path_step(struct jinja *j, const struct jv *v, struct str part, struct jv *out)
{
    struct jv key;
    uint64_t index;

    if (str_u64(part, &index) && index <= INT32_MAX)
        key = jv_int((int64_t)index);
    else
        key = jv_str(part);
    return jget_item(j, v, &key, out);
}

bool jattr_path(struct jinja *j, const struct jv *v, const struct jv *path, struct jv *out)
{
    struct str rest;

    *out = *v;
    if (path == NULL || path->type == J_NONE)
        return true;
    if (path->type != J_STR)
        return jget_item(j, v, path, out);
    rest = jv_view(path);
    do {
        struct jv at = *out;

        if (!path_step(j, &at, str_cut(&rest, '.'), out))
            return false;
    } while (rest.p != NULL);
    return true;
}

static bool items_of(struct jinja *j, struct jargs *args, struct jv **items, size_t *count)
{
    return jv_items(j, &args->v[0], items, count) && jstep(j, *count / 4);
}

/* A list, later an iterator when `iterator`. */
static bool begin(struct jinja *j, size_t cap, bool iterator, struct jv *out)
{
    if (!jlist_new(j, cap, out))
        return false;
    if (iterator)
        out->list->kind = JLIST_ITERATOR;
    return true;
}

/* ---- map, select ---- */

/* What is false has no items here, iterable or not: none is taken for an empty list. */
static bool true_items(struct jinja *j, struct jargs *args, struct jv **items, size_t *count)
{
    *items = NULL;
    *count = 0;
    return !jv_truth(&args->v[0]) || items_of(j, args, items, count);
}

bool jseq_map(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *path = jarg(args, SIZE_MAX, "attribute"),
                    *def = jarg(args, SIZE_MAX, "default");
    const struct jv *name = jarg(args, 1, NULL);
    struct jv *items, r;
    size_t count;
    int id = -1;

    if (path == NULL) {
        if (name == NULL || name->type != J_STR)
            return jfail(j, ERR_INVAL, "map() takes a filter or an attribute");
        id = jfilter_find(jv_view(name));
        if (id < 0)
            return jfail(j, ERR_INVAL, "map(): there is no such filter");
    }
    if (!true_items(j, args, &items, &count) || !begin(j, count, true, &r))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jv v;

        if (path != NULL) {
            if (!jattr_path(j, &items[i], path, &v))
                return false;
            if (v.type == J_UNDEF && def != NULL)
                v = *def;
        } else {
            struct jargs with = { .v = args->v + 1,
                                  .count = args->count - 1,
                                  .kw = args->kw,
                                  .kw_count = args->kw_count };
            struct jv keep = with.v[0];
            bool ok;

            with.v[0] = items[i]; /* the filter's name has the place of its value */
            ok = jstep(j, 1) && jenter(j) && jfilter_run(j, (unsigned)id, &with, &v);
            args->v[1] = keep;
            if (!ok)
                return false;
            jleave(j);
        }
        if (!jlist_add(j, r.list, &v))
            return false;
    }
    *out = r;
    return true;
}

/* Keeps the items whose value (or attribute) passes a test, or is true when no test is named. */
static bool sift(struct jinja *j, struct jargs *args, bool by_attr, bool keep, struct jv *out)
{
    size_t at = by_attr ? 2 : 1, count;
    const struct jv *path = by_attr ? jarg(args, 1, NULL) : NULL, *name = jarg(args, at, NULL);
    struct jv *items, r;
    int id = -1;

    if (by_attr && path == NULL)
        return jfail(j, ERR_INVAL, "Missing parameter for attribute name");
    if (name != NULL) {
        id = name->type == J_STR ? jtest_find(jv_view(name)) : -1;
        if (id < 0)
            return jfail(j, ERR_INVAL, "there is no such test");
    }
    if (!true_items(j, args, &items, &count) || !begin(j, 0, true, &r))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jv v;
        bool is;

        if (!jstep(j, 1) || !jattr_path(j, &items[i], path, &v))
            return false;
        is = jv_truth(&v);
        if (id >= 0) {
            struct jargs with = { .v = args->v + at, .count = args->count - at };
            struct jv saved = with.v[0];
            bool ok;

            with.v[0] = v;
            ok = jtest_run(j, (unsigned)id, &with, &is);
            args->v[at] = saved;
            if (!ok)
                return false;
        }
        if (is == keep && !jlist_add(j, r.list, &items[i]))
            return false;
    }
    *out = r;
    return true;
}

bool jseq_select(struct jinja *j, struct jargs *args, struct jv *out)
{
    return sift(j, args, false, true, out);
}

bool jseq_reject(struct jinja *j, struct jargs *args, struct jv *out)
{
    return sift(j, args, false, false, out);
}

bool jseq_selectattr(struct jinja *j, struct jargs *args, struct jv *out)
{
    return sift(j, args, true, true, out);
}

bool jseq_rejectattr(struct jinja *j, struct jargs *args, struct jv *out)
{
    return sift(j, args, true, false, out);
}

/* ---- pieces ---- */

bool jseq_join(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *d = jarg(args, 1, "d"), *path = jarg(args, 2, "attribute");
    struct jtext sep = { 0 };
    struct jv *items;
    struct jsb b;
    size_t count;

    if ((d != NULL && !jv_to_text(j, d, &sep)) || !items_of(j, args, &items, &count) ||
        !jsb_init(&b, j, 0))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jv v;

        if (!jattr_path(j, &items[i], path, &v) || (i > 0 && !jsb_text(&b, sep)) ||
            !jprint_str(&b, &v))
            return false;
    }
    *out = jv_text(jsb_done(&b));
    return true;
}

bool jseq_first(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *v = &args->v[0], *items;
    size_t count, pos = v->type == J_LIST || v->type == J_TUPLE ? v->list->pos : 0;

    if (v->type == J_STR && v->s.n > 0) {
        *out = jv_text(jtext_sub(v->s, 0, jtext_at(jv_view(v), 1)));
        return true;
    }
    if (!jv_items(j, v, &items, &count))
        return false;
    *out = count > 0 ? items[0] : jv_undef(STR_NONE);
    if ((v->type == J_LIST || v->type == J_TUPLE) && v->list->kind == JLIST_ITERATOR && count > 0)
        v->list->pos = pos + 1;
    return true;
}

bool jseq_last(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    size_t count;

    if ((args->v[0].type == J_LIST || args->v[0].type == J_TUPLE) &&
        args->v[0].list->kind == JLIST_ITERATOR)
        return jfail(j, ERR_INVAL, "'generator' object is not reversible");
    if (!items_of(j, args, &items, &count))
        return false;
    *out = count > 0 ? items[count - 1] : jv_undef(STR_NONE);
    return true;
}

static bool copy(struct jinja *j, const struct jv *items, size_t count, bool iterator,
                 bool backwards, struct jv *out)
{
    struct jv r;

    if (!begin(j, count, iterator, &r))
        return false;
    for (size_t i = 0; i < count; i++)
        r.list->v[r.list->count++] = items[backwards ? count - 1 - i : i];
    *out = r;
    return true;
}

bool jseq_list(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    size_t count;

    return items_of(j, args, &items, &count) && copy(j, items, count, false, false, out);
}

bool jseq_reverse(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    struct jsb b;
    size_t count;

    if (!items_of(j, args, &items, &count))
        return false;
    if (args->v[0].type != J_STR)
        return copy(j, items, count, true, true, out);
    if (!jsb_init(&b, j, 0))
        return false;
    for (size_t i = count; i > 0; i--)
        if (!jsb_text(&b, items[i - 1].s))
            return false;
    *out = jv_text(jsb_done(&b));
    return true;
}

bool jseq_items(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *d = &args->v[0];
    size_t n = d->type == J_DICT ? d->dict->count : 0;
    struct jv r;

    if (d->type != J_DICT && d->type != J_UNDEF)
        return jfail(j, ERR_INVAL, "Can only get item pairs from a mapping.");
    if (!jstep(j, n / 4) || !begin(j, n, true, &r))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct jv pair;

        if (!copy(j, (const struct jv[]) { d->dict->e[i].key, d->dict->e[i].value }, 2, false,
                  false, &pair))
            return false;
        pair.type = J_TUPLE;
        r.list->v[r.list->count++] = pair;
    }
    *out = r;
    return true;
}

/* ---- order ---- */

/* What an item is sorted by: an attribute, text folded unless case counts. */
static bool sort_key(struct jinja *j, const struct jv *v, const struct jv *path, bool fold,
                     struct jv *out)
{
    struct jtext t;

    if (!jattr_path(j, v, path, out))
        return false;
    if (!fold || out->type != J_STR)
        return true;
    if (!jtext_case(j, out->s, JCASE_LOWER, &t))
        return false;
    *out = jv_text(t);
    return true;
}

struct sortee {
    struct jv key, item;
};

/* Merges the two sorted halves of s[0..n); stable, also backwards. */
static bool merge_sort(struct jinja *j, struct sortee *s, struct sortee *tmp, size_t n,
                       bool backwards)
{
    size_t half = n / 2, a = 0, b = half, k = 0;

    if (n < 2)
        return true;
    if (!jstep(j, n / 4 + 1) || !merge_sort(j, s, tmp, half, backwards) ||
        !merge_sort(j, s + half, tmp, n - half, backwards))
        return false;
    while (a < half && b < n) {
        int order;

        if (!jv_order(j, &s[b].key, &s[a].key, &order))
            return false;
        tmp[k++] = order == (backwards ? 1 : -1) ? s[b++] : s[a++];
    }
    while (a < half)
        tmp[k++] = s[a++];
    memcpy(s, tmp, k * sizeof(*s)); /* what is left of the second half is in place */
    return true;
}

/* in_list: keys are compared as lists of one, in which equal ones need not have an order. */
static bool sorted(struct jinja *j, const struct jv *items, size_t count, const struct jv *path,
                   bool fold, bool backwards, bool in_list, struct sortee **out)
{
    struct sortee *s = arena_try_zero(j->a, count * 2, sizeof(*s));

    if (s == NULL)
        return jfail_memory(j);
    for (size_t i = 0; i < count; i++) {
        s[i].item = items[i];
        if (!jstep(j, 1) || !sort_key(j, &items[i], path, fold, &s[i].key))
            return false;
        if (in_list && s[i].key.type != J_STR && !jv_is_number(&s[i].key)) {
            struct jv key = s[i].key;

            if (!copy(j, &key, 1, false, false, &s[i].key))
                return false;
        }
    }
    *out = s;
    return merge_sort(j, s, s + count, count, backwards);
}

static bool truth(const struct jv *v)
{
    return v != NULL && jv_truth(v);
}

bool jseq_sort(struct jinja *j, struct jargs *args, struct jv *out)
{
    bool backwards = truth(jarg(args, 1, "reverse")),
         fold = !truth(jarg(args, 2, "case_sensitive"));
    struct sortee *s = NULL;
    struct jv *items, r;
    size_t count;

    if (!items_of(j, args, &items, &count) ||
        !sorted(j, items, count, jarg(args, 3, "attribute"), fold, backwards, true, &s) ||
        !begin(j, count, false, &r))
        return false;
    for (size_t i = 0; i < count; i++)
        r.list->v[r.list->count++] = s[i].item;
    *out = r;
    return true;
}

static bool pair_of(struct jinja *j, const struct jv *a, const struct jv *b, struct jv *out)
{
    if (!copy(j, (const struct jv[]) { *a, *b }, 2, false, false, out))
        return false;
    out->type = J_TUPLE;
    return true;
}

bool jseq_dictsort(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *by = jarg(args, 2, "by"), path = jv_int(0);
    bool fold = !truth(jarg(args, 1, "case_sensitive")),
         backwards = truth(jarg(args, 3, "reverse"));
    bool by_value = by != NULL && by->type == J_STR && str_eqz(jv_view(by), "value");
    const struct jv second = jv_int(1), *which = by_value ? &second : &path;
    struct jv *d = &args->v[0], pairs, r;
    struct sortee *s = NULL;

    if (d->type != J_DICT)
        return jfail(j, ERR_INVAL, "dictsort() takes a mapping, not '%s'", jv_type_name(d));
    if (!jstep(j, d->dict->count / 4) || !begin(j, d->dict->count, false, &pairs) ||
        !begin(j, d->dict->count, false, &r))
        return false;
    for (size_t i = 0; i < d->dict->count; i++)
        if (!pair_of(j, &d->dict->e[i].key, &d->dict->e[i].value,
                     &pairs.list->v[pairs.list->count++]))
            return false;
    if (!sorted(j, pairs.list->v, pairs.list->count, which, fold, backwards, false, &s))
        return false;
    for (size_t i = 0; i < pairs.list->count; i++)
        r.list->v[r.list->count++] = s[i].item;
    *out = r;
    return true;
}

bool jseq_groupby(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *path = jarg(args, 1, "attribute"), *def = jarg(args, 2, "default");
    bool fold = !truth(jarg(args, 3, "case_sensitive"));
    struct sortee *s = NULL;
    struct jv *items, r, group;
    size_t count;

    if (path == NULL)
        return jfail(j, ERR_INVAL, "groupby() takes an attribute");
    if (!items_of(j, args, &items, &count) ||
        !sorted(j, items, count, path, fold, false, false, &s) || !begin(j, 0, false, &r))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jv pair, name;
        bool same = false;

        if (i > 0 && !jv_equal(j, &s[i - 1].key, &s[i].key, &same))
            return false;
        if (!same) {
            if (!jattr_path(j, &s[i].item, path, &name))
                return false;
            if (name.type == J_UNDEF && def != NULL)
                name = *def;
            if (!begin(j, 0, false, &group) || !pair_of(j, &name, &group, &pair) ||
                !jlist_add(j, r.list, &pair))
                return false;
        }
        if (!jlist_add(j, group.list, &s[i].item))
            return false;
    }
    *out = r;
    return true;
}

static bool extreme(struct jinja *j, struct jargs *args, int want, struct jv *out)
{
    bool fold = !truth(jarg(args, 1, "case_sensitive"));
    const struct jv *path = jarg(args, 2, "attribute");
    struct jv *items, best, key;
    size_t count;

    if (!items_of(j, args, &items, &count))
        return false;
    *out = jv_undef(STR_NONE);
    for (size_t i = 0; i < count; i++) {
        int order = want;

        if (!jstep(j, 1) || !sort_key(j, &items[i], path, fold, &key) ||
            (i > 0 && !jv_order(j, &key, &best, &order)))
            return false;
        if (order == want) {
            best = key;
            *out = items[i];
        }
    }
    return true;
}

bool jseq_min(struct jinja *j, struct jargs *args, struct jv *out)
{
    return extreme(j, args, -1, out);
}

bool jseq_max(struct jinja *j, struct jargs *args, struct jv *out)
{
    return extreme(j, args, 1, out);
}

bool jseq_sum(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *path = jarg(args, 1, "attribute"), *start = jarg(args, 2, "start");
    struct jv *items;
    size_t count;

    if (!items_of(j, args, &items, &count))
        return false;
    *out = start != NULL ? *start : jv_int(0);
    for (size_t i = 0; i < count; i++) {
        struct jv v, sum = *out;

        if (!jstep(j, 1) || !jattr_path(j, &items[i], path, &v) ||
            !jbinary(j, JOP_ADD, &sum, &v, out))
            return false;
    }
    return true;
}

bool jseq_unique(struct jinja *j, struct jargs *args, struct jv *out)
{
    bool fold = !truth(jarg(args, 1, "case_sensitive"));
    const struct jv *path = jarg(args, 2, "attribute");
    struct jv *items, seen, r, key, yes = jv_bool(true);
    size_t count;

    if (!items_of(j, args, &items, &count) || !begin(j, 0, true, &r) || !jdict_new(j, &seen))
        return false;
    for (size_t i = 0; i < count; i++) {
        size_t before = seen.dict->count;

        if (!jstep(j, 1) || !sort_key(j, &items[i], path, fold, &key) ||
            !jdict_put(j, seen.dict, &key, &yes))
            return false;
        if (seen.dict->count > before && !jlist_add(j, r.list, &items[i]))
            return false;
    }
    *out = r;
    return true;
}

/* ---- columns ---- */

bool jseq_batch(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *fill = jarg(args, 2, "fill_with");
    struct jv *items, r, row;
    int64_t size;
    size_t count;

    if (!jarg_int(j, args, 1, "linecount", 0, &size) || !items_of(j, args, &items, &count) ||
        !begin(j, 0, true, &r))
        return false;
    if (size < 1 || size > JINJA_RANGE_MAX)
        return jfail(j, size < 1 ? ERR_INVAL : ERR_LIMIT, "batch() takes 1 to %d", JINJA_RANGE_MAX);
    for (size_t i = 0; i < count; i += (size_t)size) {
        if (!copy(j, items + i, MIN(count - i, (size_t)size), false, false, &row) ||
            !jlist_add(j, r.list, &row))
            return false;
        while (fill != NULL && fill->type != J_NONE && row.list->count < (size_t)size)
            if (!jstep(j, 1) || !jlist_add(j, row.list, fill))
                return false;
    }
    *out = r;
    return true;
}

bool jseq_slice(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *fill = jarg(args, 2, "fill_with");
    struct jv *items, r, row;
    int64_t slices;
    size_t count, per, extra, at = 0;

    if (!jarg_int(j, args, 1, "slices", 0, &slices) || !items_of(j, args, &items, &count) ||
        !begin(j, 0, true, &r))
        return false;
    if (slices < 1 || slices > JINJA_RANGE_MAX || !jstep(j, (size_t)slices))
        return jfail(j, slices < 1 ? ERR_INVAL : ERR_LIMIT, "slice() takes 1 to %d",
                     JINJA_RANGE_MAX);
    per = count / (size_t)slices;
    extra = count % (size_t)slices;
    for (size_t i = 0; i < (size_t)slices; i++) {
        size_t n = per + (i < extra);

        if (!copy(j, items + at, n, false, false, &row) ||
            (fill != NULL && fill->type != J_NONE && i >= extra && extra > 0 &&
             !jlist_add(j, row.list, fill)) ||
            !jlist_add(j, r.list, &row))
            return false;
        at += n;
    }
    *out = r;
    return true;
}
