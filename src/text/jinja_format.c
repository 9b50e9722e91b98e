/* Formatting: "%s" % x and "{}".format(x), as far as templates go: a value's text or number with
 * sign, fill, alignment, width and precision. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WIDTH_MAX     4096
#define PRECISION_MAX 64
#define NUMBER_MAX    512 /* %.64f of 1e308 and more */

struct spec {
    struct str fill; /* one character */
    char align;      /* < > ^ = or 0: by type */
    char sign;       /* + space or 0 */
    bool alternate;
    size_t width;
    int precision; /* -1 = none */
    char type;     /* 0 = by the value */
};

static bool read_uint(struct str s, size_t *at, size_t max, size_t *out)
{
    *out = 0;
    while (*at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9') {
        *out = *out * 10 + (size_t)(s.p[(*at)++] - '0');
        if (*out > max)
            return false;
    }
    return true;
}

/* A number by printf's rules; type is one of diuxXobeEfFgG. */
static bool number_text(struct jinja *j, const struct jv *v, const struct spec *s,
                        char out[NUMBER_MAX], size_t *n)
{
    char type = s->type, c[12];
    int64_t i;
    int k = 0;

    if (!jv_is_number(v))
        return jfail(j, ERR_INVAL, "format: a number is required, not %s", jv_type_name(v));
    c[k++] = '%';
    if (s->sign != 0)
        c[k++] = s->sign;
    if (s->alternate)
        c[k++] = '#';
    if (strchr("diuxXo", type) != NULL) {
        if (!jv_as_int(v, &i)) {
            double d = jv_double(v);

            if (!(d > -9.2e18 && d < 9.2e18) || strchr("xXo", type) != NULL)
                return jfail(j, ERR_INVAL, "format: an integer is required");
            i = (int64_t)d;
        }
        if (strchr("xXo", type) != NULL && i < 0)
            return jfail(j, ERR_INVAL, "format: a negative number cannot be written in this base");
        (void)snprintf(c + k, sizeof(c) - (size_t)k, "l%c", type == 'u' ? 'd' : type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        *n = (size_t)snprintf(out, NUMBER_MAX, c, (long)i);
    } else {
        (void)snprintf(c + k, sizeof(c) - (size_t)k, ".*%c", type);
        *n =
            (size_t)snprintf(out, NUMBER_MAX, c, s->precision < 0 ? 6 : s->precision, jv_double(v));
#pragma GCC diagnostic pop
    }
    if (*n >= NUMBER_MAX)
        return jfail(j, ERR_LIMIT, "format: the number is too long");
    return true;
}

static bool put_fill(struct jsb *b, struct str fill, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!jsb_add(b, fill.p, fill.n, false))
            return false;
    return true;
}

static bool put_padded(struct jsb *b, struct jtext t, const struct spec *s, bool is_number)
{
    size_t chars = jtext_chars((struct str) { t.p, t.n }),
           pad = s->width > chars ? s->width - chars : 0;
    struct str fill = s->fill.n > 0 ? s->fill : STR(" ");
    char align = s->align != 0 ? s->align : is_number ? '>' : '<';
    size_t sign = is_number && t.n > 0 && strchr("+- ", t.p[0]) != NULL ? 1 : 0;

    if (align == '=')
        return jsb_text(b, jtext_sub(t, 0, sign)) && put_fill(b, fill, pad) &&
               jsb_text(b, jtext_sub(t, sign, t.n - sign));
    if (align == '^')
        return put_fill(b, fill, pad / 2) && jsb_text(b, t) && put_fill(b, fill, pad - pad / 2);
    return put_fill(b, fill, align == '>' ? pad : 0) && jsb_text(b, t) &&
           put_fill(b, fill, align == '<' ? pad : 0);
}

static bool put_value(struct jsb *b, const struct jv *v, const struct spec *s)
{
    struct jinja *j = b->j;
    char number[NUMBER_MAX];
    struct spec with;
    struct jtext t;
    struct jsb repr;
    size_t n = 0;

    if (s->type == 0 && v->type == J_INT) {
        with = *s;
        with.type = 'd';
        s = &with;
    }
    if (s->type != 0 && strchr("diuxXoeEfFgG", s->type) != NULL) {
        if (!number_text(j, v, s, number, &n))
            return false;
        return put_padded(b, (struct jtext) { .p = number, .n = n }, s, true);
    }
    if (s->type == 'r' || s->type == 'a') {
        if (!jsb_init(&repr, j, 0) || !jprint_repr(&repr, v))
            return false;
        t = jsb_done(&repr);
    } else if (s->type != 0 && s->type != 's' && s->type != 'c') {
        return jfail(j, ERR_INVAL, "format: unsupported format character");
    } else if (!jv_to_text(j, v, &t)) {
        return false;
    }
    if (s->precision >= 0)
        t = jtext_sub(t, 0, jtext_at((struct str) { t.p, t.n }, (size_t)s->precision));
    return put_padded(b, t, s, jv_is_number(v) && s->type == 0);
}

/* ---- "%s" % x ---- */

static bool percent_spec(struct jinja *j, struct str f, size_t *at, struct spec *s)
{
    bool left = false, zero = false;
    size_t n;

    *s = (struct spec) { .precision = -1 };
    for (; *at < f.n && strchr("-+ 0#", f.p[*at]) != NULL && f.p[*at] != 0; (*at)++) {
        left = left || f.p[*at] == '-';
        zero = zero || f.p[*at] == '0';
        s->alternate = s->alternate || f.p[*at] == '#';
        if (f.p[*at] == '+' || (f.p[*at] == ' ' && s->sign == 0))
            s->sign = f.p[*at];
    }
    if (!read_uint(f, at, WIDTH_MAX, &s->width))
        return jfail(j, ERR_LIMIT, "format: the width is too large");
    if (*at < f.n && f.p[*at] == '.') {
        (*at)++;
        if (!read_uint(f, at, PRECISION_MAX, &n))
            return jfail(j, ERR_LIMIT, "format: the precision is too large");
        s->precision = (int)n;
    }
    if (*at >= f.n)
        return jfail(j, ERR_INVAL, "incomplete format");
    s->type = f.p[(*at)++];
    s->align = left ? '<' : '>';
    if (zero && !left && s->type != 's' && s->type != 'r') {
        s->fill = STR("0");
        s->align = '=';
    }
    return true;
}

/* The value that the next conversion takes: (name) of a mapping, else the next one. */
static bool percent_value(struct jinja *j, struct str f, size_t *at, const struct jv *args,
                          size_t *used, struct jv *out)
{
    bool many = args->type == J_TUPLE;

    if (*at < f.n && f.p[*at] == '(') {
        size_t end = jtext_find(f, STR(")"), *at);
        const struct jv *v;

        if (end == SIZE_MAX || args->type != J_DICT)
            return jfail(j, ERR_INVAL, "format requires a mapping");
        v = jdict_gets(args->dict, str_sub(f, *at + 1, end - *at - 1));
        if (v == NULL)
            return jfail(j, ERR_INVAL, "format: no such key");
        *out = *v;
        *at = end + 1;
        *used = SIZE_MAX;
        return true;
    }
    if (*used == SIZE_MAX || *used >= (many ? args->list->count : 1))
        return jfail(j, ERR_INVAL, "not enough arguments for format string");
    *out = many ? args->list->v[*used] : *args;
    (*used)++;
    return true;
}

bool jformat_percent(struct jinja *j, struct jtext f, const struct jv *args, struct jv *out)
{
    struct str s = { f.p, f.n };
    size_t from = 0, used = 0, at;
    struct jsb b;

    if (!jsb_init(&b, j, 0))
        return false;
    while ((at = jtext_find(s, STR("%"), from)) != SIZE_MAX) {
        struct spec spec;
        struct jv v;

        if (!jstep(j, 1) || !jsb_text(&b, jtext_sub(f, from, at - from)))
            return false;
        at++;
        if (at < s.n && s.p[at] == '%') {
            if (!jsb_text(&b, jtext_sub(f, at, 1)))
                return false;
            from = at + 1;
            continue;
        }
        if (!percent_value(j, s, &at, args, &used, &v) || !percent_spec(j, s, &at, &spec) ||
            !put_value(&b, &v, &spec))
            return false;
        from = at;
    }
    if (!jsb_text(&b, jtext_sub(f, from, s.n - from)))
        return false;
    if (used != SIZE_MAX && used < (args->type == J_TUPLE ? args->list->count
                                    : args->type == J_DICT || args->type == J_LIST ? 0
                                                                                   : 1))
        return jfail(j, ERR_INVAL, "not all arguments converted during string formatting");
    *out = jv_text(jsb_done(&b));
    return true;
}

/* ---- "{}".format(x) ---- */

/* [[fill]align][sign][#][0][width][.precision][type] */
static bool brace_spec(struct jinja *j, struct str f, struct spec *s)
{
    size_t at = 0, len = 0, n;

    *s = (struct spec) { .precision = -1 };
    if (f.n > 0)
        (void)utf8_next(f, &len);
    if (len > 0 && len < f.n && strchr("<>^=", f.p[len]) != NULL) {
        s->fill = str_sub(f, 0, len);
        s->align = f.p[len];
        at = len + 1;
    } else if (f.n > 0 && f.p[0] != 0 && strchr("<>^=", f.p[0]) != NULL) {
        s->align = f.p[0];
        at = 1;
    }
    if (at < f.n && (f.p[at] == '+' || f.p[at] == ' ' || f.p[at] == '-')) {
        s->sign = f.p[at] == '-' ? 0 : f.p[at];
        at++;
    }
    if (at < f.n && f.p[at] == '#') {
        s->alternate = true;
        at++;
    }
    if (at < f.n && f.p[at] == '0') {
        if (s->fill.n == 0)
            s->fill = STR("0");
        if (s->align == 0)
            s->align = '=';
    }
    if (!read_uint(f, &at, WIDTH_MAX, &s->width))
        return jfail(j, ERR_LIMIT, "format: the width is too large");
    if (at < f.n && f.p[at] == '.') {
        at++;
        if (!read_uint(f, &at, PRECISION_MAX, &n))
            return jfail(j, ERR_LIMIT, "format: the precision is too large");
        s->precision = (int)n;
    }
    if (at < f.n)
        s->type = f.p[at++];
    return at == f.n || jfail(j, ERR_INVAL, "format: the specifier is not understood");
}

/* The field's value: "", "0", "name", with .attr and [item] after it. */
static bool brace_value(struct jinja *j, struct str name, const struct jargs *args, size_t *next,
                        struct jv *out)
{
    size_t len = 0;
    const struct jv *v = NULL;
    uint64_t index;
    struct jv at;

    while (len < name.n && name.p[len] != '.' && name.p[len] != '[')
        len++;
    if (len == 0)
        v = ++*next < args->count ? &args->v[*next] : NULL;
    else if (str_u64(str_sub(name, 0, len), &index))
        v = index + 1 < args->count ? &args->v[index + 1] : NULL;
    for (size_t i = 0; v == NULL && i < args->kw_count; i++)
        if (len > 0 && str_eq(args->kw[i].name, str_sub(name, 0, len)))
            v = &args->kw[i].v;
    if (v == NULL)
        return jfail(j, ERR_INVAL, "format: there is no argument for a field");
    *out = *v;
    while (len < name.n) {
        bool item = name.p[len] == '[';
        size_t from = ++len;
        struct jv key;

        while (len < name.n &&
               (item ? name.p[len] != ']' : name.p[len] != '.' && name.p[len] != '['))
            len++;
        at = *out;
        key = str_u64(str_sub(name, from, len - from), &index) && index < INT32_MAX
                  ? jv_int((int64_t)index)
                  : jv_str(str_sub(name, from, len - from));
        if (!jstep(j, 1) || !jget_item(j, &at, &key, out))
            return false;
        len += item && len < name.n ? 1 : 0;
    }
    return true;
}

static bool brace_field(struct jsb *b, struct str field, const struct jargs *args, size_t *next)
{
    struct str rest = field, name;
    size_t colon = str_chr(field, ':'), bang;
    struct spec spec;
    struct jv v;
    char conversion = 0;

    name = colon == SIZE_MAX ? field : str_sub(field, 0, colon);
    rest = colon == SIZE_MAX ? STR_NONE : str_sub(field, colon + 1, field.n);
    bang = str_chr(name, '!');
    if (bang != SIZE_MAX) {
        conversion = bang + 1 < name.n ? name.p[bang + 1] : 0;
        name = str_sub(name, 0, bang);
    }
    if (!brace_value(b->j, name, args, next, &v) || !brace_spec(b->j, rest, &spec))
        return false;
    if (conversion == 'r')
        spec.type = 'r';
    return put_value(b, &v, &spec);
}

bool jformat_braces(struct jinja *j, struct jtext f, const struct jargs *args, struct jv *out)
{
    struct str s = { f.p, f.n };
    size_t from = 0, next = 0;
    struct jsb b;

    if (!jsb_init(&b, j, 0))
        return false;
    for (size_t at = 0; at < s.n;) {
        char c = s.p[at];
        size_t end;

        if (c != '{' && c != '}') {
            at++;
            continue;
        }
        if (!jstep(j, 1) || !jsb_text(&b, jtext_sub(f, from, at - from)))
            return false;
        if (at + 1 < s.n && s.p[at + 1] == c) { /* doubled: itself */
            from = at + 1;
            at += 2;
            continue;
        }
        end = c == '{' ? jtext_find(s, STR("}"), at) : SIZE_MAX;
        if (end == SIZE_MAX)
            return jfail(j, ERR_INVAL, "format: a single brace");
        if (!brace_field(&b, str_sub(s, at + 1, end - at - 1), args, &next))
            return false;
        from = at = end + 1;
    }
    if (!jsb_text(&b, jtext_sub(f, from, s.n - from)))
        return false;
    *out = jv_text(jsb_done(&b));
    return true;
}
