/* Operations on text: by character, with each byte's origin kept. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <string.h>
#include <utf8proc.h>

size_t jtext_chars(struct str s)
{
    size_t n = 0, len;

    for (size_t at = 0; at < s.n; at += len, n++) {
        len = 1;
        if ((unsigned char)s.p[at] >= 0x80)
            (void)utf8_next((struct str) { s.p + at, s.n - at }, &len);
    }
    return n;
}

size_t jtext_at(struct str s, size_t index)
{
    size_t at = 0, len;

    for (; at < s.n && index > 0; at += len, index--) {
        len = 1;
        if ((unsigned char)s.p[at] >= 0x80)
            (void)utf8_next((struct str) { s.p + at, s.n - at }, &len);
    }
    return at;
}

/* str.isspace of Python. */
bool jchar_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* Whether the character c is one that strip() takes off. */
static bool is_stripped(struct str c, uint32_t cp, const struct jv *chars)
{
    if (chars == NULL || chars->type != J_STR)
        return jchar_is_space(cp);
    for (size_t at = 0, len; at < chars->s.n; at += len) {
        struct str rest = { chars->s.p + at, chars->s.n - at };

        (void)utf8_next(rest, &len);
        if (str_eq(c, str_sub(rest, 0, len)))
            return true;
    }
    return false;
}

struct jtext jtext_strip(struct jtext s, const struct jv *chars, bool left, bool right)
{
    size_t from = 0, end = s.n, len;

    while (left && from < end) {
        uint32_t cp = utf8_next((struct str) { s.p + from, end - from }, &len);

        if (!is_stripped((struct str) { s.p + from, len }, cp, chars))
            break;
        from += len;
    }
    while (right && end > from) {
        size_t at = end - 1;
        uint32_t cp;

        while (at > from && ((unsigned char)s.p[at] & 0xc0) == 0x80)
            at--;
        cp = utf8_next((struct str) { s.p + at, end - at }, &len);
        if (at + len != end || !is_stripped((struct str) { s.p + at, len }, cp, chars))
            break;
        end = at;
    }
    return jtext_sub(s, from, end - from);
}

size_t jtext_find(struct str s, struct str needle, size_t from)
{
    size_t at;

    if (from > s.n)
        return SIZE_MAX;
    at = str_find((struct str) { s.p + from, s.n - from }, needle);
    return at == SIZE_MAX ? at : from + at;
}

bool jtext_replace(struct jinja *j, struct jtext s, struct str old, struct jtext with,
                   int64_t count, struct jtext *out)
{
    struct str view = { s.p, s.n };
    size_t from = 0, len;
    struct jsb b;

    if (count == 0 || (old.n != 0 && str_find(view, old) == SIZE_MAX)) {
        *out = s;
        return jbytes(j, s.n);
    }
    if (!jsb_init(&b, j, 0))
        return false;
    while (count != 0 && from <= s.n) {
        size_t at = jtext_find(view, old, from);

        if (at == SIZE_MAX)
            break;
        if (!jstep(j, 1) || !jsb_text(&b, jtext_sub(s, from, at - from)) || !jsb_text(&b, with))
            return false;
        from = at + old.n;
        count -= count > 0;
        if (old.n != 0)
            continue;
        if (from == s.n) /* nothing is replaced everywhere: between characters and at both ends */
            break;
        (void)utf8_next(str_sub(view, from, s.n), &len);
        if (!jsb_text(&b, jtext_sub(s, from, len)))
            return false;
        from += len;
    }
    if (!jsb_text(&b, jtext_sub(s, from, s.n - from)))
        return false;
    *out = jsb_done(&b);
    return true;
}

bool jtext_escape(struct jinja *j, struct jtext s, struct jtext *out)
{
    static const struct {
        char c;
        const char *z;
    } entities[] = {
        { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '"', "&#34;" }, { '\'', "&#39;" },
    };
    struct jsb b;
    size_t from = 0;

    *out = s;
    if (s.markup)
        return true;
    if (!jsb_init(&b, j, 0))
        return false;
    for (size_t i = 0; i < s.n; i++)
        for (size_t k = 0; k < COUNT(entities); k++)
            if (s.p[i] == entities[k].c) {
                if (!jsb_text(&b, jtext_sub(s, from, i - from)) ||
                    !jsb_add(&b, entities[k].z, strlen(entities[k].z),
                             s.taint != NULL ? s.taint[i] : s.tainted))
                    return false;
                from = i + 1;
            }
    if (!jsb_text(&b, jtext_sub(s, from, s.n - from)))
        return false;
    *out = jsb_done(&b);
    out->markup = true;
    return true;
}

/* ---- case ---- */

/* Full upper-casing where one character becomes several; title is only the first of them. */
static const struct {
    uint32_t from;
    const char *upper, *title;
} several[] = {
    { 0xdf, "SS", "Ss" },   { 0xfb00, "FF", "Ff" },   { 0xfb01, "FI", "Fi" },
    { 0xfb02, "FL", "Fl" }, { 0xfb03, "FFI", "Ffi" }, { 0xfb04, "FFL", "Ffl" },
    { 0xfb05, "ST", "St" }, { 0xfb06, "ST", "St" },   { 0x149, "\xca\xbcN", "\xca\xbcN" },
};

enum one { ONE_UPPER, ONE_LOWER, ONE_TITLE };

static size_t change(uint32_t cp, enum one to, char out[8])
{
    for (size_t i = 0; i < COUNT(several) && to != ONE_LOWER; i++)
        if (several[i].from == cp) {
            const char *z = to == ONE_UPPER ? several[i].upper : several[i].title;

            memcpy(out, z, strlen(z));
            return strlen(z);
        }
    if (cp == 0x130 && to == ONE_LOWER) { /* I with a dot: i and the dot */
        memcpy(out, "i\xcc\x87", 3);
        return 3;
    }
    cp = (uint32_t)(to == ONE_UPPER   ? utf8proc_toupper((utf8proc_int32_t)cp)
                    : to == ONE_LOWER ? utf8proc_tolower((utf8proc_int32_t)cp)
                                      : utf8proc_totitle((utf8proc_int32_t)cp));
    return utf8_put(out, cp);
}

static bool is_cased(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

/* What happens to the next character, and whether one after it begins a word. */
static enum one step_case(enum jcase how, uint32_t cp, bool *begins)
{
    enum one to = *begins ? ONE_TITLE : ONE_LOWER;

    switch (how) {
    case JCASE_UPPER: return ONE_UPPER;
    case JCASE_LOWER: return ONE_LOWER;
    case JCASE_CAPITAL: *begins = false; return to;
    case JCASE_TITLE: /* str.title: a letter after anything that has no case */
        *begins = !is_cased(cp);
        return to;
    case JCASE_FILTER_TITLE: /* the filter: after blanks, hyphens and opening brackets */
        if (cp < 0x80 && cp != 0 && strchr("-({[<", (int)cp) != NULL)
            *begins = true;
        else
            *begins = jchar_is_space(cp);
        return to == ONE_TITLE ? ONE_UPPER : to;
    }
    return to;
}

bool jtext_case(struct jinja *j, struct jtext s, enum jcase how, struct jtext *out)
{
    bool begins = true;
    struct jsb b;
    size_t len;

    if (!jsb_init(&b, j, 0) || !jstep(j, s.n / 16))
        return false;
    for (size_t at = 0; at < s.n; at += len) {
        uint32_t cp = utf8_next((struct str) { s.p + at, s.n - at }, &len);
        bool tainted = s.taint != NULL ? s.taint[at] != 0 : s.tainted, ok;
        char text[8];

        if (cp == UTF8_BAD)
            ok = jsb_add(&b, s.p + at, len, tainted);
        else
            ok = jsb_add(&b, text, change(cp, step_case(how, cp, &begins), text), tainted);
        if (!ok)
            return false;
    }
    *out = jsb_done(&b);
    return true;
}
