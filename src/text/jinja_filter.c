/* Filters on single values, and the table of all filters. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDENT_MAX 64

const struct jv *jarg(const struct jargs *args, size_t i, const char *name)
{
    if (i < args->count)
        return &args->v[i];
    for (size_t k = 0; name != NULL && k < args->kw_count; k++)
        if (str_eqz(args->kw[k].name, name))
            return &args->kw[k].v;
    return NULL;
}

bool jarg_int(struct jinja *j, const struct jargs *args, size_t i, const char *name, int64_t def,
              int64_t *out)
{
    const struct jv *v = jarg(args, i, name);

    *out = def;
    if (v == NULL || v->type == J_NONE)
        return true;
    return jv_as_int(v, out) ||
           jfail(j, ERR_INVAL, "'%s' object cannot be interpreted as an integer", jv_type_name(v));
}

static bool flag(const struct jargs *args, size_t i, const char *name)
{
    const struct jv *v = jarg(args, i, name);

    return v != NULL && jv_truth(v);
}

static bool text_of(struct jinja *j, const struct jargs *args, struct jtext *out)
{
    return jv_to_text(j, &args->v[0], out);
}

static bool undefined_error(struct jinja *j)
{
    return jfail(j, ERR_INVAL, "an undefined value is used");
}

/* ---- text ---- */

static bool f_string(struct jinja *j, struct jargs *args, struct jv *out)
{
    *out = jv_text((struct jtext) { 0 });
    return text_of(j, args, &out->s);
}

static bool f_case(struct jinja *j, struct jargs *args, enum jcase how, struct jv *out)
{
    struct jtext t;

    *out = jv_text((struct jtext) { 0 });
    return text_of(j, args, &t) && jtext_case(j, t, how, &out->s);
}

static bool f_upper(struct jinja *j, struct jargs *args, struct jv *out)
{
    return f_case(j, args, JCASE_UPPER, out);
}

static bool f_lower(struct jinja *j, struct jargs *args, struct jv *out)
{
    return f_case(j, args, JCASE_LOWER, out);
}

static bool f_title(struct jinja *j, struct jargs *args, struct jv *out)
{
    return f_case(j, args, JCASE_FILTER_TITLE, out);
}

static bool f_capitalize(struct jinja *j, struct jargs *args, struct jv *out)
{
    return f_case(j, args, JCASE_CAPITAL, out);
}

static bool f_trim(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jtext t;

    if (!text_of(j, args, &t))
        return false;
    *out = jv_text(jtext_strip(t, jarg(args, 1, "chars"), true, true));
    return jbytes(j, t.n);
}

static bool f_replace(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *old = jarg(args, 1, "old"), *with = jarg(args, 2, "new");
    struct jtext t, o, w;
    int64_t count;

    if (old == NULL || with == NULL)
        return jfail(j, ERR_INVAL, "replace() takes old and new text");
    *out = jv_text((struct jtext) { 0 });
    return text_of(j, args, &t) && jv_to_text(j, old, &o) && jv_to_text(j, with, &w) &&
           jarg_int(j, args, 3, "count", -1, &count) &&
           jtext_replace(j, t, (struct str) { o.p, o.n }, w, count, &out->s);
}

static bool f_escape(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jtext t;

    *out = jv_text((struct jtext) { 0 });
    return text_of(j, args, &t) && jtext_escape(j, t, &out->s);
}

/* One line at a time; the first, and blank ones, only when asked for. */
static bool f_indent(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *width = jarg(args, 1, "width");
    bool first = flag(args, 2, "first"), blank = flag(args, 3, "blank");
    struct jtext t,
        pad = { .p = "                                                                ", .n = 4 };
    int64_t n = 4;
    struct jsb b;

    if (width != NULL && width->type == J_STR)
        pad = width->s;
    else if (!jarg_int(j, args, 1, "width", 4, &n))
        return false;
    else if (n > INDENT_MAX)
        return jfail(j, ERR_LIMIT, "indent() is limited to %d", INDENT_MAX);
    else
        pad.n = n < 0 ? 0 : (size_t)n;
    if (args->v[0].type != J_STR)
        return jfail(j, ERR_INVAL, "indent() takes text, not '%s'", jv_type_name(&args->v[0]));
    if (!text_of(j, args, &t) || !jsb_init(&b, j, 0))
        return false;
    for (size_t at = 0; at <= t.n;) {
        size_t len = str_chr((struct str) { t.p + at, t.n - at }, '\n');

        len = len == SIZE_MAX ? t.n - at : len;
        if ((at == 0 ? first : blank || len > 0) && !jsb_text(&b, pad))
            return false;
        if (!jsb_text(&b, jtext_sub(t, at, MIN(len + 1, t.n - at))))
            return false;
        at += len + 1;
    }
    *out = jv_text(jsb_done(&b));
    return true;
}

static bool f_truncate(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *end = jarg(args, 3, "end");
    struct jtext t, tail = { .p = "...", .n = 3 };
    bool kill = flag(args, 2, "killwords");
    int64_t length, leeway;
    size_t chars, keep, cut;

    if (!text_of(j, args, &t) || !jarg_int(j, args, 1, "length", 255, &length) ||
        !jarg_int(j, args, 4, "leeway", 5, &leeway) || (end != NULL && !jv_to_text(j, end, &tail)))
        return false;
    chars = jtext_chars((struct str) { t.p, t.n });
    keep = jtext_chars((struct str) { tail.p, tail.n });
    *out = jv_text(t);
    if (length < (int64_t)keep || leeway < 0)
        return jfail(j, ERR_INVAL, "truncate(): the length is too short");
    if ((int64_t)chars <= length || (int64_t)chars - length <= leeway)
        return true;
    cut = jtext_at((struct str) { t.p, t.n }, (size_t)length - keep);
    if (!kill)
        for (size_t i = cut; i > 0; i--)
            if (t.p[i - 1] == ' ') {
                cut = i - 1;
                break;
            }
    return jtext_concat(j, jtext_sub(t, 0, cut), tail, &out->s);
}

static bool f_wordcount(struct jinja *j, struct jargs *args, struct jv *out)
{
    int64_t count = 0;
    bool inside = false;
    struct jtext t;

    if (!text_of(j, args, &t) || !jbytes(j, t.n))
        return false;
    for (size_t at = 0, len; at < t.n; at += len) {
        uint32_t cp = utf8_next((struct str) { t.p + at, t.n - at }, &len);
        bool word = cp == '_' || (cp >= '0' && cp <= '9') || (cp | 0x20) - 'a' < 26 ||
                    (cp >= 0x80 && !jchar_is_space(cp));

        count += word && !inside;
        inside = word;
    }
    *out = jv_int(count);
    return true;
}

static bool f_urlencode(struct jinja *j, struct jargs *args, struct jv *out)
{
    static const char hex[] = "0123456789ABCDEF";
    struct jtext t;
    struct jsb b;

    if (!text_of(j, args, &t) || !jsb_init(&b, j, 0) || !jstep(j, t.n / 8))
        return false;
    for (size_t i = 0; i < t.n; i++) {
        unsigned char c = (unsigned char)t.p[i];
        char out3[3] = { '%', hex[c >> 4], hex[c & 15] };
        bool plain = (c >= '0' && c <= '9') || (c | 0x20u) - 'a' < 26 ||
                     (c != 0 && strchr("_.-~/", c) != NULL);

        if (!jsb_add(&b, plain ? (const char *)&t.p[i] : out3, plain ? 1 : 3,
                     t.taint != NULL ? t.taint[i] : t.tainted))
            return false;
    }
    *out = jv_text(jsb_done(&b));
    return true;
}

static bool f_center(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jtext t;
    int64_t width, n, pad, left;
    struct jsb b;

    if (!text_of(j, args, &t) || !jarg_int(j, args, 1, "width", 80, &width) || !jsb_init(&b, j, 0))
        return false;
    n = (int64_t)jtext_chars((struct str) { t.p, t.n });
    if (width > JINJA_RANGE_MAX)
        return jfail(j, ERR_LIMIT, "center() is too wide");
    pad = width > n ? width - n : 0;
    left = pad / 2 + (pad & width & 1);
    for (int64_t i = 0; i < left; i++)
        if (!jsb_z(&b, " "))
            return false;
    if (!jstep(j, (size_t)pad / 8) || !jsb_text(&b, t))
        return false;
    for (int64_t i = left; i < pad; i++)
        if (!jsb_z(&b, " "))
            return false;
    *out = jv_text(jsb_done(&b));
    return true;
}

static bool f_format(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv list;
    struct jtext t;

    if (!text_of(j, args, &t))
        return false;
    if (args->kw_count > 0) {
        if (!jdict_new(j, &list))
            return false;
        for (size_t i = 0; i < args->kw_count; i++) {
            struct jv key = jv_str(args->kw[i].name);

            if (!jdict_put(j, list.dict, &key, &args->kw[i].v))
                return false;
        }
    } else {
        if (!jlist_new(j, args->count, &list))
            return false;
        for (size_t i = 1; i < args->count; i++)
            if (!jlist_add(j, list.list, &args->v[i]))
                return false;
        list.type = J_TUPLE;
    }
    return jformat_percent(j, t, &list, out);
}

/* ---- numbers ---- */

static bool f_abs(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *v = &args->v[0];
    int64_t i;

    if (jv_as_int(v, &i) && i != INT64_MIN)
        *out = jv_int(i < 0 ? -i : i);
    else if (v->type == J_FLOAT)
        *out = jv_float(fabs(v->f));
    else
        return jfail(j, ERR_INVAL, "bad operand type for abs(): '%s'", jv_type_name(v));
    return true;
}

static bool float_of(const struct jv *v, double *out)
{
    if (jv_is_number(v)) {
        *out = jv_double(v);
        return true;
    }
    return v->type == J_STR && str_f64(str_trim(jv_view(v)), out);
}

static bool f_int(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *v = &args->v[0], *def = jarg(args, 1, "default");
    int64_t base, i;
    double d;

    if (v->type == J_UNDEF)
        return undefined_error(j);
    if (!jarg_int(j, args, 2, "base", 10, &base))
        return false;
    *out = def != NULL ? *def : jv_int(0);
    if (v->type == J_BIG) {
        *out = *v;
    } else if (jv_as_int(v, &i)) {
        *out = jv_int(i);
    } else if (v->type == J_STR && base != 10 && base >= 2 && base <= 36 && v->s.n > 0 &&
               v->s.n < 80) {
        char text[80], *end;
        struct str s = str_trim(jv_view(v));

        memcpy(text, s.p, s.n);
        text[s.n] = 0;
        errno = 0;
        i = strtoll(text, &end, (int)base);
        if (end != text && *end == 0 && errno == 0)
            *out = jv_int(i);
    } else if (v->type == J_STR && str_i64(str_trim(jv_view(v)), &i)) {
        *out = jv_int(i);
    } else if (float_of(v, &d) && d > -9.2e18 && d < 9.2e18) {
        *out = jv_int((int64_t)d);
    }
    return true;
}

static bool f_float(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *def = jarg(args, 1, "default");
    double d;

    if (args->v[0].type == J_UNDEF)
        return undefined_error(j);
    *out = def != NULL ? *def : jv_float(0);
    if (float_of(&args->v[0], &d))
        *out = jv_float(d);
    return true;
}

/* round() of Python: by the decimal digits of the value, halves to even; integers stay. */
static bool f_round(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *method = jarg(args, 2, "method"), *v = &args->v[0];
    struct str how = method != NULL && method->type == J_STR ? jv_view(method) : STR("common");
    char text[400];
    int64_t precision;
    double d, scale;

    if (!jarg_int(j, args, 1, "precision", 0, &precision))
        return false;
    if (!jv_is_number(v) || precision < -30 || precision > 30)
        return jfail(j, ERR_INVAL, "round() takes a number and a precision");
    *out = v->type == J_BOOL ? jv_int(v->b) : *v;
    d = jv_double(v);
    scale = pow(10, (double)precision);
    if (str_eqz(how, "ceil")) {
        *out = jv_float(ceil(d * scale) / scale);
    } else if (str_eqz(how, "floor")) {
        *out = jv_float(floor(d * scale) / scale);
    } else if (v->type == J_FLOAT && precision >= 0) {
        (void)snprintf(text, sizeof(text), "%.*f", (int)precision, d);
        *out = jv_float(strtod(text, NULL));
    } else if (precision < 0) {
        d = rint(d * scale) / scale;
        *out = v->type == J_FLOAT || fabs(d) > 9e18 ? jv_float(d) : jv_int((int64_t)d);
    }
    return true;
}

/* ---- any value ---- */

static bool f_default(struct jinja *j, struct jargs *args, struct jv *out)
{
    const struct jv *def = jarg(args, 1, "default_value");

    (void)j;
    *out = args->v[0];
    if (out->type == J_UNDEF || (flag(args, 2, "boolean") && !jv_truth(out)))
        *out = def != NULL ? *def : jv_str(STR_NONE);
    return true;
}

static bool f_length(struct jinja *j, struct jargs *args, struct jv *out)
{
    size_t n;

    if (!jv_length(j, &args->v[0], &n))
        return false;
    *out = jv_int((int64_t)n);
    return true;
}

static bool f_safe(struct jinja *j, struct jargs *args, struct jv *out)
{
    bool ok = f_string(j, args, out);

    out->s.markup = true;
    return ok;
}

/* separators=(item, key) */
static bool dump_separators(struct jinja *j, const struct jv *v, struct jdump *o)
{
    if (v == NULL || v->type == J_NONE)
        return true;
    if ((v->type != J_TUPLE && v->type != J_LIST) || v->list->count != 2 ||
        v->list->v[0].type != J_STR || v->list->v[1].type != J_STR)
        return jfail(j, ERR_INVAL, "tojson(): separators must be two strings");
    o->item_sep = jv_view(&v->list->v[0]);
    o->key_sep = jv_view(&v->list->v[1]);
    return true;
}

static bool f_tojson(struct jinja *j, struct jargs *args, struct jv *out)
{
    static const char blanks[INDENT_MAX + 1] =
        "                                                                ";
    const struct jv *indent = jarg(args, 2, "indent");
    struct jdump o = { .item_sep = STR(", "), .key_sep = STR(": ") };
    struct jsb b;
    int64_t n;

    o.ensure_ascii = flag(args, 1, "ensure_ascii");
    o.sort_keys = flag(args, 4, "sort_keys");
    if (indent != NULL && indent->type != J_NONE) {
        o.has_indent = true;
        o.item_sep = STR(",");
        if (indent->type == J_STR)
            o.indent = jv_view(indent);
        else if (!jv_as_int(indent, &n))
            return jfail(j, ERR_INVAL, "tojson(): indent must be a number or a string");
        else if (n > INDENT_MAX)
            return jfail(j, ERR_LIMIT, "tojson(): indent is limited to %d", INDENT_MAX);
        else
            o.indent = (struct str) { blanks, n < 0 ? 0 : (size_t)n };
    }
    if (!dump_separators(j, jarg(args, 3, "separators"), &o) || !jsb_init(&b, j, 0) ||
        !jprint_json(&b, &args->v[0], &o))
        return false;
    *out = jv_text(jsb_done(&b));
    return true;
}

/* ---- the table ---- */

static const struct {
    const char *name;
    jcallee *run;
} filters[] = {
    { "abs", f_abs },         { "batch", jseq_batch },       { "capitalize", f_capitalize },
    { "center", f_center },   { "count", f_length },         { "d", f_default },
    { "default", f_default }, { "dictsort", jseq_dictsort }, { "e", f_escape },
    { "escape", f_escape },   { "first", jseq_first },       { "float", f_float },
    { "format", f_format },   { "groupby", jseq_groupby },   { "indent", f_indent },
    { "int", f_int },         { "items", jseq_items },       { "join", jseq_join },
    { "last", jseq_last },    { "length", f_length },        { "list", jseq_list },
    { "lower", f_lower },     { "map", jseq_map },           { "max", jseq_max },
    { "min", jseq_min },      { "reject", jseq_reject },     { "rejectattr", jseq_rejectattr },
    { "replace", f_replace }, { "reverse", jseq_reverse },   { "round", f_round },
    { "safe", f_safe },       { "select", jseq_select },     { "selectattr", jseq_selectattr },
    { "slice", jseq_slice },  { "sort", jseq_sort },         { "string", f_string },
    { "sum", jseq_sum },      { "title", f_title },          { "tojson", f_tojson },
    { "trim", f_trim },       { "truncate", f_truncate },    { "unique", jseq_unique },
    { "upper", f_upper },     { "urlencode", f_urlencode },  { "wordcount", f_wordcount },
};

int jfilter_find(struct str name)
{
    for (size_t i = 0; i < COUNT(filters); i++)
        if (str_eqz(name, filters[i].name))
            return (int)i;
    return -1;
}

bool jfilter_run(struct jinja *j, unsigned id, struct jargs *args, struct jv *out)
{
    ASSERT(id < COUNT(filters) && args->count > 0);
    return filters[id].run(j, args, out);
}
