/* Values to text: str() and repr() as Python writes them, and json.dumps() as Hugging Face
 * configures it (no HTML escaping, ensure_ascii off unless asked for). */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define ESCAPE_MAX 16 /* the longest is a pair of surrogates: 12 and a NUL */

/* The fewest digits that read back, laid out as float.__repr__ does. */
size_t jprint_float(double f, char out[40])
{
    char text[40], digits[24];
    int exp, count = 0, precision = 0;
    size_t n = 0;

    if (!isfinite(f))
        return (size_t)snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    do {
        (void)snprintf(text, sizeof(text), "%.*e", precision, fabs(f));
    } while (strtod(text, NULL) != fabs(f) && ++precision < 17);
    for (const char *p = text; *p != 0 && *p != 'e'; p++)
        if (*p != '.')
            digits[count++] = *p;
    exp = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    while (count > 1 && digits[count - 1] == '0')
        count--;
    if (signbit(f))
        out[n++] = '-';
    if (exp < -4 || exp >= 16) {
        out[n++] = digits[0];
        if (count > 1)
            out[n++] = '.';
        for (int i = 1; i < count; i++)
            out[n++] = digits[i];
        return n + (size_t)snprintf(out + n, 40 - n, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
    }
    if (exp < 0) { /* 0.00ddd */
        out[n++] = '0';
        out[n++] = '.';
        for (int i = exp + 1; i < 0; i++)
            out[n++] = '0';
        for (int i = 0; i < count; i++)
            out[n++] = digits[i];
        return n;
    }
    for (int i = 0; i < count || i <= exp + 1; i++) { /* ddd.ddd or ddd00.0 */
        if (i == exp + 1)
            out[n++] = '.';
        out[n++] = i < count ? digits[i] : '0';
    }
    return n;
}

static bool print_number(struct jsb *b, const struct jv *v)
{
    char text[40];
    size_t n;

    if (v->type == J_BIG)
        return jsb_text(b, v->s);
    n = v->type == J_FLOAT ? jprint_float(v->f, text)
                           : (size_t)snprintf(text, sizeof(text), "%" PRId64, v->i);
    return jsb_add(b, text, n, false);
}

static bool is_printable(uint32_t cp)
{
    utf8proc_category_t c;

    if (cp >= 0x20 && cp < 0x7f)
        return true;
    c = utf8proc_category((utf8proc_int32_t)cp);
    switch (c) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static size_t repr_escape(uint32_t cp, char quote, char out[ESCAPE_MAX])
{
    if (cp == '\n' || cp == '\r' || cp == '\t')
        return (size_t)snprintf(out, ESCAPE_MAX, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    if (cp == '\\' || cp == (uint32_t)quote)
        return (size_t)snprintf(out, ESCAPE_MAX, "\\%c", (char)cp);
    if (is_printable(cp))
        return 0;
    return (size_t)snprintf(out, ESCAPE_MAX,
                            cp < 0x100     ? "\\x%02x"
                            : cp < 0x10000 ? "\\u%04x"
                                           : "\\U%08x",
                            cp);
}

/* Writes s with some characters replaced; the replacements take the origin of what they stand for.
 */
static bool print_escaped(struct jsb *b, struct jtext s, char quote,
                          size_t (*escape)(uint32_t cp, char quote, char out[ESCAPE_MAX]))
{
    size_t from = 0, len;

    for (size_t at = 0; at < s.n; at += len) {
        char out[ESCAPE_MAX];
        uint32_t cp = utf8_next((struct str) { s.p + at, s.n - at }, &len);
        size_t n = escape(cp, quote, out);

        if (n == 0)
            continue;
        if (!jsb_text(b, jtext_sub(s, from, at - from)) ||
            !jsb_add(b, out, n, s.taint != NULL ? s.taint[at] != 0 : s.tainted))
            return false;
        from = at + len;
    }
    return jsb_text(b, jtext_sub(s, from, s.n - from));
}

static bool repr_str(struct jsb *b, struct jtext s)
{
    struct str view = { s.p, s.n };
    char quote = str_chr(view, '\'') != SIZE_MAX && str_chr(view, '"') == SIZE_MAX ? '"' : '\'';

    return jsb_add(b, &quote, 1, false) && print_escaped(b, s, quote, repr_escape) &&
           jsb_add(b, &quote, 1, false);
}

static bool repr_list(struct jsb *b, const struct jv *v)
{
    const struct jlist *l = v->list;
    bool tuple = v->type == J_TUPLE;

    if (!jsb_z(b, tuple ? "(" : "["))
        return false;
    for (size_t i = 0; i < l->count; i++)
        if ((i > 0 && !jsb_z(b, ", ")) || !jprint_repr(b, &l->v[i]))
            return false;
    return jsb_z(b, tuple && l->count == 1 ? ",)" : tuple ? ")" : "]");
}

static bool repr_dict(struct jsb *b, const struct jdict *d)
{
    if (!jsb_z(b, "{"))
        return false;
    for (size_t i = 0; i < d->count; i++)
        if ((i > 0 && !jsb_z(b, ", ")) || !jprint_repr(b, &d->e[i].key) || !jsb_z(b, ": ") ||
            !jprint_repr(b, &d->e[i].value))
            return false;
    return jsb_z(b, "}");
}

bool jprint_repr(struct jsb *b, const struct jv *v)
{
    bool ok;

    if (!jstep(b->j, 1) || !jenter(b->j))
        return false;
    switch (v->type) {
    case J_UNDEF: ok = jsb_z(b, "Undefined"); break;
    case J_NONE: ok = jsb_z(b, "None"); break;
    case J_BOOL: ok = jsb_z(b, v->b ? "True" : "False"); break;
    case J_INT:
    case J_FLOAT:
    case J_BIG: ok = print_number(b, v); break;
    case J_STR: ok = repr_str(b, v->s); break;
    case J_LIST:
    case J_TUPLE: ok = repr_list(b, v); break;
    case J_DICT: ok = repr_dict(b, v->dict); break;
    case J_NAMESPACE: ok = jsb_z(b, "<Namespace ") && repr_dict(b, v->dict) && jsb_z(b, ">"); break;
    default: ok = jsb_z(b, "<") && jsb_z(b, jv_type_name(v)) && jsb_z(b, ">"); break;
    }
    jleave(b->j);
    return ok;
}

bool jprint_str(struct jsb *b, const struct jv *v)
{
    if (v->type == J_STR)
        return jsb_text(b, v->s);
    return v->type == J_UNDEF || jprint_repr(b, v);
}

bool jv_to_text(struct jinja *j, const struct jv *v, struct jtext *out)
{
    struct jsb b;

    if (v->type == J_STR) {
        *out = v->s;
        return true;
    }
    if (!jsb_init(&b, j, 0) || !jprint_str(&b, v))
        return false;
    *out = jsb_done(&b);
    return true;
}

/* ---- json.dumps ---- */

static size_t json_short(uint32_t cp, char out[ESCAPE_MAX])
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *k = cp < 0x80 && cp != 0 ? strchr(from, (int)cp) : NULL;

    if (k == NULL)
        return cp < 0x20 ? (size_t)snprintf(out, ESCAPE_MAX, "\\u%04x", cp) : 0;
    out[0] = '\\';
    out[1] = to[k - from];
    return 2;
}

static size_t json_escape(uint32_t cp, char quote, char out[ESCAPE_MAX])
{
    (void)quote;
    return json_short(cp, out);
}

static size_t json_escape_ascii(uint32_t cp, char quote, char out[ESCAPE_MAX])
{
    (void)quote;
    if (cp < 0x7f)
        return json_short(cp, out);
    if (cp >= 0x10000 && cp <= 0x10ffff)
        return (size_t)snprintf(out, ESCAPE_MAX, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                                0xdc00 + ((cp - 0x10000) & 0x3ff));
    return (size_t)snprintf(out, ESCAPE_MAX, "\\u%04x", cp & 0xffff);
}

static bool json_string(struct jsb *b, struct jtext s, const struct jdump *o)
{
    return jsb_z(b, "\"") &&
           print_escaped(b, s, '"', o->ensure_ascii ? json_escape_ascii : json_escape) &&
           jsb_z(b, "\"");
}

static bool json_key(struct jsb *b, const struct jv *k, const struct jdump *o)
{
    switch (k->type) {
    case J_STR: return json_string(b, k->s, o);
    case J_NONE: return jsb_z(b, "\"null\"");
    case J_BOOL: return jsb_z(b, k->b ? "\"true\"" : "\"false\"");
    case J_INT:
    case J_FLOAT:
    case J_BIG: return jsb_z(b, "\"") && print_number(b, k) && jsb_z(b, "\"");
    default:
        return jfail(b->j, ERR_INVAL, "keys must be str, int, float, bool or None, not %s",
                     jv_type_name(k));
    }
}

static bool json_value(struct jsb *b, const struct jv *v, const struct jdump *o, unsigned level);

/* Between items: the separator, then with an indent a line end and the level's blanks. */
static bool json_break(struct jsb *b, const struct jdump *o, unsigned level, bool separator)
{
    if (separator && !jsb_add(b, o->item_sep.p, o->item_sep.n, false))
        return false;
    if (!o->has_indent)
        return true;
    if (!jsb_z(b, "\n"))
        return false;
    for (unsigned i = 0; i < level; i++)
        if (!jsb_add(b, o->indent.p, o->indent.n, false))
            return false;
    return true;
}

static bool json_list(struct jsb *b, const struct jlist *l, const struct jdump *o, unsigned level)
{
    if (l->count == 0)
        return jsb_z(b, "[]");
    if (!jsb_z(b, "["))
        return false;
    for (size_t i = 0; i < l->count; i++)
        if (!json_break(b, o, level + 1, i > 0) || !json_value(b, &l->v[i], o, level + 1))
            return false;
    return json_break(b, o, level, false) && jsb_z(b, "]");
}

static int by_key(const void *a, const void *b)
{
    const struct jentry *const *x = a, *const *y = b;

    return str_cmp(jv_view(&(*x)->key), jv_view(&(*y)->key));
}

static bool json_dict(struct jsb *b, const struct jdict *d, const struct jdump *o, unsigned level)
{
    const struct jentry **e;

    if (d->count == 0)
        return jsb_z(b, "{}");
    e = arena_try_zero(b->j->a, d->count, sizeof(*e));
    if (e == NULL)
        return jfail_memory(b->j);
    for (size_t i = 0; i < d->count; i++) {
        e[i] = &d->e[i];
        if (o->sort_keys && d->e[i].key.type != J_STR)
            return jfail(b->j, ERR_INVAL, "sort_keys: a key is not a string");
    }
    if (o->sort_keys)
        qsort(e, d->count, sizeof(*e), by_key);
    if (!jsb_z(b, "{"))
        return false;
    for (size_t i = 0; i < d->count; i++)
        if (!json_break(b, o, level + 1, i > 0) || !json_key(b, &e[i]->key, o) ||
            !jsb_add(b, o->key_sep.p, o->key_sep.n, false) ||
            !json_value(b, &e[i]->value, o, level + 1))
            return false;
    return json_break(b, o, level, false) && jsb_z(b, "}");
}

static bool json_value(struct jsb *b, const struct jv *v, const struct jdump *o, unsigned level)
{
    bool ok;

    if (!jstep(b->j, 1) || !jenter(b->j))
        return false;
    switch (v->type) {
    case J_NONE: ok = jsb_z(b, "null"); break;
    case J_BOOL: ok = jsb_z(b, v->b ? "true" : "false"); break;
    case J_FLOAT:
        if (isfinite(v->f))
            ok = print_number(b, v);
        else
            ok = jsb_z(b, isnan(v->f) ? "NaN" : v->f < 0 ? "-Infinity" : "Infinity");
        break;
    case J_INT:
    case J_BIG: ok = print_number(b, v); break;
    case J_STR: ok = json_string(b, v->s, o); break;
    case J_LIST:
    case J_TUPLE:
        ok = v->list->kind == JLIST_PLAIN
                 ? json_list(b, v->list, o, level)
                 : jfail(b->j, ERR_INVAL, "Object of type generator is not JSON serializable");
        break;
    case J_DICT: ok = json_dict(b, v->dict, o, level); break;
    default:
        ok = jfail(b->j, ERR_INVAL, "Object of type %s is not JSON serializable", jv_type_name(v));
        break;
    }
    jleave(b->j);
    return ok;
}

bool jprint_json(struct jsb *b, const struct jv *v, const struct jdump *o)
{
    return json_value(b, v, o, 0);
}
