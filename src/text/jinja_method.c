/* Methods that Python's objects have and templates call: of text, lists, dicts, loops.
 *
 * Lists and dicts of the request cannot be changed; those the template made can. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <string.h>
#include <utf8proc.h>

#define ZFILL_MAX 4096

/* args->v[0] is the object. */

static const struct jv *text_arg(struct jinja *j, struct jargs *args, size_t i, const char *name)
{
    const struct jv *v = jarg(args, i, name);

    if (v != NULL && v->type == J_STR)
        return v;
    (void)jfail(j, ERR_INVAL, "a method of str takes text, not %s",
                v != NULL ? jv_type_name(v) : "nothing");
    return NULL;
}

static struct str self_view(const struct jargs *args)
{
    return jv_view(&args->v[0]);
}

/* ---- text ---- */

static bool strip(struct jinja *j, struct jargs *args, bool left, bool right, struct jv *out)
{
    const struct jv *chars = jarg(args, 1, NULL);

    if (chars != NULL && chars->type != J_STR && chars->type != J_NONE)
        return jfail(j, ERR_INVAL, "strip arg must be None or str");
    *out = jv_text(jtext_strip(args->v[0].s, chars, left, right));
    return jbytes(j, args->v[0].s.n);
}

static bool s_strip(struct jinja *j, struct jargs *args, struct jv *out)
{
    return strip(j, args, true, true, out);
}

static bool s_lstrip(struct jinja *j, struct jargs *args, struct jv *out)
{
    return strip(j, args, true, false, out);
}

static bool s_rstrip(struct jinja *j, struct jargs *args, struct jv *out)
{
    return strip(j, args, false, true, out);
}

static bool change_case(struct jinja *j, struct jargs *args, enum jcase how, struct jv *out)
{
    *out = jv_text((struct jtext) { 0 });
    return jtext_case(j, args->v[0].s, how, &out->s);
}

static bool s_upper(struct jinja *j, struct jargs *args, struct jv *out)
{
    return change_case(j, args, JCASE_UPPER, out);
}

static bool s_lower(struct jinja *j, struct jargs *args, struct jv *out)
{
    return change_case(j, args, JCASE_LOWER, out);
}

static bool s_title(struct jinja *j, struct jargs *args, struct jv *out)
{
    return change_case(j, args, JCASE_TITLE, out);
}

static bool s_capitalize(struct jinja *j, struct jargs *args, struct jv *out)
{
    return change_case(j, args, JCASE_CAPITAL, out);
}

/* A piece of text; out grows by it. */
static bool add_piece(struct jinja *j, struct jv *out, struct jtext s, size_t from, size_t n)
{
    struct jv v = jv_text(jtext_sub(s, from, n));

    return jstep(j, 1) && jlist_add(j, out->list, &v);
}

static size_t space_len(struct str s, size_t at)
{
    size_t len;

    return at < s.n && jchar_is_space(utf8_next(str_sub(s, at, s.n), &len)) ? len : 0;
}

static bool split_blanks(struct jinja *j, struct jtext t, int64_t max, struct jv *out)
{
    struct str s = { t.p, t.n };
    size_t at = 0, len;

    for (;;) {
        size_t from;

        while ((len = space_len(s, at)) > 0)
            at += len;
        if (at >= s.n)
            return true;
        from = at;
        if (max == 0)
            return add_piece(j, out, t, from, s.n - from);
        while (at < s.n && space_len(s, at) == 0) {
            (void)utf8_next(str_sub(s, at, s.n), &len);
            at += len;
        }
        if (!add_piece(j, out, t, from, at - from))
            return false;
        max -= max > 0;
    }
}

static bool s_split(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *sep = jarg(args, 1, "sep");
    struct jtext t = args->v[0].s;
    size_t from = 0, at;
    int64_t max;

    if (!jarg_int(j, args, 2, "maxsplit", -1, &max) || !jbytes(j, t.n) || !jlist_new(j, 4, out))
        return false;
    if (sep == NULL || sep->type == J_NONE)
        return split_blanks(j, t, max, out);
    if (sep->type != J_STR || sep->s.n == 0)
        return jfail(j, ERR_INVAL, "split() takes a separator that is not empty");
    while (max != 0 &&
           (at = jtext_find((struct str) { t.p, t.n }, jv_view(sep), from)) != SIZE_MAX) {
        if (!add_piece(j, out, t, from, at - from))
            return false;
        from = at + sep->s.n;
        max -= max > 0;
    }
    return add_piece(j, out, t, from, t.n - from);
}

/* The last occurrence that ends at `end` or before. */
static size_t find_last(struct str s, struct str needle, size_t end)
{
    if (needle.n > end)
        return SIZE_MAX;
    for (size_t at = end - needle.n;; at--) {
        if (memcmp(s.p + at, needle.p, needle.n) == 0)
            return at;
        if (at == 0)
            return SIZE_MAX;
    }
}

static void turn_round(struct jlist *l)
{
    for (size_t i = 0; i < l->count / 2; i++) {
        struct jv v = l->v[i];

        l->v[i] = l->v[l->count - 1 - i];
        l->v[l->count - 1 - i] = v;
    }
}

static bool s_rsplit(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *sep = jarg(args, 1, "sep");
    struct jtext t = args->v[0].s;
    size_t end = t.n, at;
    int64_t max;

    if (!jarg_int(j, args, 2, "maxsplit", -1, &max) || !jbytes(j, t.n) || !jlist_new(j, 4, out))
        return false;
    if ((sep == NULL || sep->type == J_NONE) && max < 0)
        return split_blanks(j, t, max, out);
    if (sep == NULL || sep->type != J_STR || sep->s.n == 0)
        return jfail(j, ERR_INVAL, "rsplit() takes a separator that is not empty");
    while (max != 0 && (at = find_last((struct str) { t.p, t.n }, jv_view(sep), end)) != SIZE_MAX) {
        if (!add_piece(j, out, t, at + sep->s.n, end - at - sep->s.n))
            return false;
        end = at;
        max -= max > 0;
    }
    if (!add_piece(j, out, t, 0, end))
        return false;
    turn_round(out->list);
    return true;
}

static bool s_partition(struct jinja *j, struct jargs *args, bool last, struct jv *out)
{
    const struct jv *sep = text_arg(j, args, 1, "sep");
    struct jtext t = args->v[0].s;
    size_t at;
    bool ok;

    if (sep == NULL || !jbytes(j, t.n) || !jlist_new(j, 3, out))
        return false;
    if (sep->s.n == 0)
        return jfail(j, ERR_INVAL, "empty separator");
    at = last ? find_last((struct str) { t.p, t.n }, jv_view(sep), t.n)
              : jtext_find((struct str) { t.p, t.n }, jv_view(sep), 0);
    if (at == SIZE_MAX)
        ok = add_piece(j, out, t, 0, last ? 0 : t.n) && add_piece(j, out, t, 0, 0) &&
             add_piece(j, out, t, 0, last ? t.n : 0);
    else
        ok = add_piece(j, out, t, 0, at) && add_piece(j, out, t, at, sep->s.n) &&
             add_piece(j, out, t, at + sep->s.n, t.n - at - sep->s.n);
    out->type = J_TUPLE;
    return ok;
}

static bool s_first_partition(struct jinja *j, struct jargs *args, struct jv *out)
{
    return s_partition(j, args, false, out);
}

static bool s_rpartition(struct jinja *j, struct jargs *args, struct jv *out)
{
    return s_partition(j, args, true, out);
}

static bool s_splitlines(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *keep = jarg(args, 1, "keepends");
    bool ends = keep != NULL && jv_truth(keep);
    struct jtext t = args->v[0].s;
    size_t from = 0, len;

    if (!jbytes(j, t.n) || !jlist_new(j, 4, out))
        return false;
    for (size_t at = 0; at < t.n; at += len) {
        uint32_t cp = utf8_next((struct str) { t.p + at, t.n - at }, &len);

        if (!((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
              cp == 0x2029))
            continue;
        if (cp == '\r' && at + 1 < t.n && t.p[at + 1] == '\n')
            len = 2;
        if (!add_piece(j, out, t, from, at - from + (ends ? len : 0)))
            return false;
        from = at + len;
    }
    return from == t.n || add_piece(j, out, t, from, t.n - from);
}

static bool affix(struct jinja *j, struct jargs *args, bool at_end, struct jv *out)
{
    const struct jv *what = jarg(args, 1, NULL);
    struct jv *items;
    bool is = false;
    size_t count;

    if (what == NULL || (what->type != J_STR && what->type != J_TUPLE))
        return jfail(j, ERR_INVAL, "startswith and endswith take a str or a tuple of str");
    if (what->type == J_STR) {
        is = at_end ? str_ends(self_view(args), jv_view(what))
                    : str_starts(self_view(args), jv_view(what));
    } else if (jv_items(j, what, &items, &count)) {
        for (size_t i = 0; i < count && !is; i++)
            is = items[i].type == J_STR &&
                 (at_end ? str_ends(self_view(args), jv_view(&items[i]))
                         : str_starts(self_view(args), jv_view(&items[i])));
    }
    *out = jv_bool(is);
    return true;
}

static bool s_startswith(struct jinja *j, struct jargs *args, struct jv *out)
{
    return affix(j, args, false, out);
}

static bool s_endswith(struct jinja *j, struct jargs *args, struct jv *out)
{
    return affix(j, args, true, out);
}

static bool remove_affix(struct jinja *j, struct jargs *args, bool at_end, struct jv *out)
{
    const struct jv *what = text_arg(j, args, 1, NULL);
    struct jtext t = args->v[0].s;

    if (what == NULL)
        return false;
    if (at_end && what->s.n > 0 && str_ends(self_view(args), jv_view(what)))
        t = jtext_sub(t, 0, t.n - what->s.n);
    else if (!at_end && str_starts(self_view(args), jv_view(what)))
        t = jtext_sub(t, what->s.n, t.n - what->s.n);
    *out = jv_text(t);
    return true;
}

static bool s_removeprefix(struct jinja *j, struct jargs *args, struct jv *out)
{
    return remove_affix(j, args, false, out);
}

static bool s_removesuffix(struct jinja *j, struct jargs *args, struct jv *out)
{
    return remove_affix(j, args, true, out);
}

static bool s_replace(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *old = text_arg(j, args, 1, "old"),
                    *with = old != NULL ? text_arg(j, args, 2, "new") : NULL;
    int64_t count;

    *out = jv_text((struct jtext) { 0 });
    return with != NULL && jarg_int(j, args, 3, "count", -1, &count) &&
           jtext_replace(j, args->v[0].s, jv_view(old), with->s, count, &out->s);
}

static bool s_join(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    struct jsb b;
    size_t count;

    if (args->count != 2)
        return jfail(j, ERR_INVAL, "join() takes one argument");
    if (!jv_items(j, &args->v[1], &items, &count) || !jsb_init(&b, j, 0))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (items[i].type != J_STR)
            return jfail(j, ERR_INVAL, "join(): expected str instance, %s found",
                         jv_type_name(&items[i]));
        if (!jstep(j, 1) || (i > 0 && !jsb_text(&b, args->v[0].s)) || !jsb_text(&b, items[i].s))
            return false;
    }
    *out = jv_text(jsb_done(&b));
    return true;
}

static bool find_text(struct jinja *j, struct jargs *args, bool last, bool must, struct jv *out)
{
    const struct jv *what = text_arg(j, args, 1, NULL);
    struct str s = self_view(args);
    size_t at;

    if (what == NULL || !jbytes(j, s.n))
        return false;
    at = last ? find_last(s, jv_view(what), s.n) : jtext_find(s, jv_view(what), 0);
    if (at == SIZE_MAX && must)
        return jfail(j, ERR_INVAL, "substring not found");
    *out = jv_int(at == SIZE_MAX ? -1 : (int64_t)jtext_chars(str_sub(s, 0, at)));
    return true;
}

static bool s_find(struct jinja *j, struct jargs *args, struct jv *out)
{
    return find_text(j, args, false, false, out);
}

static bool s_rfind(struct jinja *j, struct jargs *args, struct jv *out)
{
    return find_text(j, args, true, false, out);
}

static bool s_index(struct jinja *j, struct jargs *args, struct jv *out)
{
    return find_text(j, args, false, true, out);
}

static bool s_count(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *what = text_arg(j, args, 1, NULL);
    struct str s = self_view(args);
    int64_t n = 0;

    if (what == NULL || !jbytes(j, s.n))
        return false;
    for (size_t at = 0; what->s.n > 0 && (at = jtext_find(s, jv_view(what), at)) != SIZE_MAX;
         at += what->s.n)
        n++;
    *out = jv_int(what->s.n > 0 ? n : (int64_t)jtext_chars(s) + 1);
    return true;
}

static bool s_format(struct jinja *j, struct jargs *args, struct jv *out)
{
    return jformat_braces(j, args->v[0].s, args, out);
}

static bool s_zfill(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jtext t = args->v[0].s;
    size_t chars = jtext_chars((struct str) { t.p, t.n }), sign;
    struct jsb b;
    int64_t width;

    if (!jarg_int(j, args, 1, NULL, 0, &width) || !jsb_init(&b, j, 0))
        return false;
    if (width > ZFILL_MAX)
        return jfail(j, ERR_LIMIT, "zfill() is limited to %d", ZFILL_MAX);
    sign = t.n > 0 && (t.p[0] == '-' || t.p[0] == '+') ? 1 : 0;
    if (!jsb_text(&b, jtext_sub(t, 0, sign)))
        return false;
    for (; width > (int64_t)chars; width--)
        if (!jsb_z(&b, "0"))
            return false;
    if (!jsb_text(&b, jtext_sub(t, sign, t.n - sign)))
        return false;
    *out = jv_text(jsb_done(&b));
    return true;
}

enum ask { ASK_DIGIT, ASK_ALPHA, ASK_ALNUM, ASK_SPACE };

static bool has(uint32_t cp, enum ask what)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    bool digit = c == UTF8PROC_CATEGORY_ND;
    bool alpha = c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;

    switch (what) {
    case ASK_DIGIT: return digit;
    case ASK_ALPHA: return alpha;
    case ASK_ALNUM: return alpha || digit || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
    case ASK_SPACE: return jchar_is_space(cp);
    }
    return false;
}

static bool all_are(struct jinja *j, struct jargs *args, enum ask what, struct jv *out)
{
    struct str s = self_view(args);
    bool is = s.n > 0;

    for (size_t at = 0, len; at < s.n && is; at += len)
        is = has(utf8_next(str_sub(s, at, s.n), &len), what);
    *out = jv_bool(is);
    return jbytes(j, s.n);
}

static bool s_isdigit(struct jinja *j, struct jargs *args, struct jv *out)
{
    return all_are(j, args, ASK_DIGIT, out);
}

static bool s_isalpha(struct jinja *j, struct jargs *args, struct jv *out)
{
    return all_are(j, args, ASK_ALPHA, out);
}

static bool s_isalnum(struct jinja *j, struct jargs *args, struct jv *out)
{
    return all_are(j, args, ASK_ALNUM, out);
}

static bool s_isspace(struct jinja *j, struct jargs *args, struct jv *out)
{
    return all_are(j, args, ASK_SPACE, out);
}

static bool case_test(struct jinja *j, struct jargs *args, const char *test, struct jv *out)
{
    struct jargs with = { .v = args->v, .count = 1 };
    bool is;

    if (!jtest_run(j, (unsigned)jtest_find(str_of(test)), &with, &is))
        return false;
    *out = jv_bool(is);
    return true;
}

static bool s_isupper(struct jinja *j, struct jargs *args, struct jv *out)
{
    return case_test(j, args, "upper", out);
}

static bool s_islower(struct jinja *j, struct jargs *args, struct jv *out)
{
    return case_test(j, args, "lower", out);
}

/* ---- dicts ---- */

static bool d_get(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *key = jarg(args, 1, NULL), *def = jarg(args, 2, NULL), *v;

    if (key == NULL)
        return jfail(j, ERR_INVAL, "get() takes a key");
    if (!jv_hashable(j, key))
        return false;
    v = jdict_get(args->v[0].dict, key);
    *out = v != NULL ? *v : def != NULL ? *def : jv_none();
    return true;
}

enum view { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

static bool view(struct jinja *j, const struct jdict *d, enum view what, struct jv *out)
{
    struct jv r;

    if (!jstep(j, d->count / 4) || !jlist_new(j, d->count, &r))
        return false;
    for (size_t i = 0; i < d->count; i++) {
        struct jv v = what == VIEW_KEYS ? d->e[i].key : d->e[i].value;

        if (what == VIEW_ITEMS) {
            if (!jlist_new(j, 2, &v) || !jlist_add(j, v.list, &d->e[i].key) ||
                !jlist_add(j, v.list, &d->e[i].value))
                return false;
            v.type = J_TUPLE;
        }
        r.list->v[r.list->count++] = v;
    }
    r.list->kind = JLIST_VIEW;
    *out = r;
    return true;
}

static bool d_keys(struct jinja *j, struct jargs *args, struct jv *out)
{
    return view(j, args->v[0].dict, VIEW_KEYS, out);
}

static bool d_values(struct jinja *j, struct jargs *args, struct jv *out)
{
    return view(j, args->v[0].dict, VIEW_VALUES, out);
}

static bool d_items(struct jinja *j, struct jargs *args, struct jv *out)
{
    return view(j, args->v[0].dict, VIEW_ITEMS, out);
}

static bool may_change(struct jinja *j, bool own)
{
    return own || jfail(j, ERR_INVAL, "what came with the request cannot be changed");
}

static bool d_update(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jdict *d = args->v[0].dict;
    const struct jv *with = jarg(args, 1, NULL);

    *out = jv_none();
    if (!may_change(j, d->own))
        return false;
    if (with != NULL && with->type != J_DICT)
        return jfail(j, ERR_INVAL, "update() takes a mapping");
    for (size_t i = 0; with != NULL && i < with->dict->count; i++)
        if (!jstep(j, 1) || !jdict_put(j, d, &with->dict->e[i].key, &with->dict->e[i].value))
            return false;
    for (size_t i = 0; i < args->kw_count; i++) {
        struct jv key = jv_str(args->kw[i].name);

        if (!jdict_put(j, d, &key, &args->kw[i].v))
            return false;
    }
    return true;
}

static bool d_pop(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *key = jarg(args, 1, NULL), *def = jarg(args, 2, NULL);
    struct jdict *d = args->v[0].dict;

    if (!may_change(j, d->own))
        return false;
    if (key == NULL)
        return jfail(j, ERR_INVAL, "pop() takes a key");
    if (def != NULL && jdict_get(d, key) == NULL) {
        *out = *def;
        return true;
    }
    return jdict_del(j, d, key, out);
}

static bool d_setdefault(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *key = jarg(args, 1, NULL), *def = jarg(args, 2, NULL), *v;

    if (!may_change(j, args->v[0].dict->own))
        return false;
    if (key == NULL)
        return jfail(j, ERR_INVAL, "setdefault() takes a key");
    v = jdict_get(args->v[0].dict, key);
    *out = v != NULL ? *v : def != NULL ? *def : jv_none();
    return v != NULL || jdict_put(j, args->v[0].dict, key, out);
}

static bool d_copy(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jdict *d = args->v[0].dict;

    if (!jdict_new(j, out))
        return false;
    for (size_t i = 0; i < d->count; i++)
        if (!jstep(j, 1) || !jdict_put(j, out->dict, &d->e[i].key, &d->e[i].value))
            return false;
    return true;
}

/* ---- lists ---- */

static bool l_append(struct jinja *j, struct jargs *args, struct jv *out)
{
    *out = jv_none();
    if (args->count != 2)
        return jfail(j, ERR_INVAL, "append() takes one argument");
    return may_change(j, args->v[0].list->own) && jlist_add(j, args->v[0].list, &args->v[1]);
}

static bool l_extend(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    size_t count;

    *out = jv_none();
    if (args->count != 2)
        return jfail(j, ERR_INVAL, "extend() takes one argument");
    if (!may_change(j, args->v[0].list->own) || !jv_items(j, &args->v[1], &items, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!jstep(j, 1) || !jlist_add(j, args->v[0].list, &items[i]))
            return false;
    return true;
}

static bool l_insert(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jlist *l = args->v[0].list;
    int64_t at;

    *out = jv_none();
    if (args->count != 3)
        return jfail(j, ERR_INVAL, "insert() takes two arguments");
    if (!may_change(j, l->own) || !jarg_int(j, args, 1, NULL, 0, &at) || !jstep(j, l->count / 8) ||
        !jlist_add(j, l, &args->v[2]))
        return false;
    at = at < 0 ? MAX(at + (int64_t)l->count - 1, 0) : MIN(at, (int64_t)l->count - 1);
    memmove(&l->v[at + 1], &l->v[at], (l->count - 1 - (size_t)at) * sizeof(*l->v));
    l->v[at] = args->v[2];
    return true;
}

static bool l_pop(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jlist *l = args->v[0].list;
    int64_t at;

    if (!may_change(j, l->own) || !jarg_int(j, args, 1, NULL, -1, &at) || !jstep(j, l->count / 8))
        return false;
    at += at < 0 ? (int64_t)l->count : 0;
    if (at < 0 || at >= (int64_t)l->count)
        return jfail(j, ERR_INVAL, "pop index out of range");
    *out = l->v[at];
    memmove(&l->v[at], &l->v[at + 1], (l->count - 1 - (size_t)at) * sizeof(*l->v));
    l->count--;
    return true;
}

static bool l_find(struct jinja *j, struct jargs *args, bool count_all, struct jv *out)
{
    struct jlist *l = args->v[0].list;
    int64_t n = 0;

    if (args->count != 2)
        return jfail(j, ERR_INVAL, "index() and count() take one argument");
    for (size_t i = 0; i < l->count; i++) {
        bool same;

        if (!jv_equal(j, &l->v[i], &args->v[1], &same))
            return false;
        n += same;
        if (same && !count_all) {
            *out = jv_int((int64_t)i);
            return jstep(j, l->count / 4);
        }
    }
    if (!count_all)
        return jfail(j, ERR_INVAL, "index(): the value is not in the list");
    *out = jv_int(n);
    return jstep(j, l->count / 4);
}

static bool l_index(struct jinja *j, struct jargs *args, struct jv *out)
{
    return l_find(j, args, false, out);
}

static bool l_count(struct jinja *j, struct jargs *args, struct jv *out)
{
    return l_find(j, args, true, out);
}

/* ---- loops and cyclers ---- */

static bool loop_cycle(struct jinja *j, struct jargs *args, struct jv *out)
{
    if (args->count < 2)
        return jfail(j, ERR_INVAL, "no items for cycling given");
    *out = args->v[1 + args->v[0].loop->index % (args->count - 1)];
    return true;
}

static bool loop_changed(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jloop *l = args->v[0].loop;
    struct jv now;
    bool same = false;

    if (!jlist_new(j, args->count, &now))
        return false;
    for (size_t i = 1; i < args->count; i++)
        if (!jlist_add(j, now.list, &args->v[i]))
            return false;
    if (l->has_changed && !jv_equal(j, &l->changed, &now, &same))
        return false;
    l->changed = now;
    l->has_changed = true;
    *out = jv_bool(!same);
    return true;
}

static bool cycler_next(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jcycler *c = args->v[0].cycler;

    (void)j;
    *out = c->items->v[c->at];
    c->at = (c->at + 1) % c->items->count;
    return true;
}

static bool cycler_reset(struct jinja *j, struct jargs *args, struct jv *out)
{
    (void)j;
    args->v[0].cycler->at = 0;
    *out = jv_none();
    return true;
}

/* ---- the table ---- */

#define ON(type) (1u << (type))

/* A name may stand twice, for different types; the id is that of its first row. */
static const struct {
    const char *name;
    unsigned types;
    jcallee *run;
} methods[] = {
    { "append", ON(J_LIST), l_append },
    { "capitalize", ON(J_STR), s_capitalize },
    { "changed", ON(J_LOOP), loop_changed },
    { "copy", ON(J_DICT), d_copy },
    { "count", ON(J_STR), s_count },
    { "count", ON(J_LIST) | ON(J_TUPLE), l_count },
    { "cycle", ON(J_LOOP), loop_cycle },
    { "endswith", ON(J_STR), s_endswith },
    { "extend", ON(J_LIST), l_extend },
    { "find", ON(J_STR), s_find },
    { "format", ON(J_STR), s_format },
    { "get", ON(J_DICT), d_get },
    { "index", ON(J_STR), s_index },
    { "index", ON(J_LIST) | ON(J_TUPLE), l_index },
    { "insert", ON(J_LIST), l_insert },
    { "isalnum", ON(J_STR), s_isalnum },
    { "isalpha", ON(J_STR), s_isalpha },
    { "isdigit", ON(J_STR), s_isdigit },
    { "islower", ON(J_STR), s_islower },
    { "isspace", ON(J_STR), s_isspace },
    { "isupper", ON(J_STR), s_isupper },
    { "items", ON(J_DICT), d_items },
    { "join", ON(J_STR), s_join },
    { "keys", ON(J_DICT), d_keys },
    { "lower", ON(J_STR), s_lower },
    { "lstrip", ON(J_STR), s_lstrip },
    { "next", ON(J_CYCLER), cycler_next },
    { "partition", ON(J_STR), s_first_partition },
    { "pop", ON(J_LIST), l_pop },
    { "pop", ON(J_DICT), d_pop },
    { "removeprefix", ON(J_STR), s_removeprefix },
    { "removesuffix", ON(J_STR), s_removesuffix },
    { "replace", ON(J_STR), s_replace },
    { "reset", ON(J_CYCLER), cycler_reset },
    { "rfind", ON(J_STR), s_rfind },
    { "rpartition", ON(J_STR), s_rpartition },
    { "rsplit", ON(J_STR), s_rsplit },
    { "rstrip", ON(J_STR), s_rstrip },
    { "setdefault", ON(J_DICT), d_setdefault },
    { "split", ON(J_STR), s_split },
    { "splitlines", ON(J_STR), s_splitlines },
    { "startswith", ON(J_STR), s_startswith },
    { "strip", ON(J_STR), s_strip },
    { "title", ON(J_STR), s_title },
    { "update", ON(J_DICT), d_update },
    { "upper", ON(J_STR), s_upper },
    { "values", ON(J_DICT), d_values },
    { "zfill", ON(J_STR), s_zfill },
};

uint16_t jmethod_id(struct str name)
{
    for (size_t i = 0; i < COUNT(methods); i++)
        if (str_eqz(name, methods[i].name))
            return (uint16_t)(i + 1);
    return 0;
}

static size_t row(uint16_t id, enum jtype type)
{
    for (size_t i = id - 1u;
         i < COUNT(methods) && strcmp(methods[i].name, methods[id - 1].name) == 0; i++)
        if ((methods[i].types & ON(type)) != 0)
            return i;
    return SIZE_MAX;
}

bool jmethod_exists(uint16_t id, enum jtype type)
{
    return row(id, type) != SIZE_MAX;
}

bool jmethod_run(struct jinja *j, uint16_t id, struct jargs *args, struct jv *out)
{
    size_t i = row(id, args->v[0].type);

    ASSERT(i != SIZE_MAX);
    return methods[i].run(j, args, out);
}
