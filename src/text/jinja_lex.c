/* Template text to tokens.
 *
 * White space follows Jinja 3 with trim_blocks and lstrip_blocks, as Hugging Face sets them:
 *
 *   {%-  {{-  {#-    all white space before goes        -%}  -}}  -#}   all after goes
 *   {%   {#          blanks before go when they begin   %}   #}         one newline after goes
 *                    the line
 *   {%+  {#+         blanks before stay                 +%}             the newline stays
 *
 * Line ends become \n, and one at the very end of the template goes. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include <stdarg.h>
#include <string.h>

#define BRACKETS_MAX 256

struct lexer {
    struct arena *a;
    struct str s; /* normalised source */
    size_t at;
    uint32_t line;
    bool line_starting; /* the text at `at` begins a line */
    struct jtokens *out;
    struct err *e;
};

static int bad(struct lexer *x, const char *what)
{
    return err_set(x->e, ERR_PARSE, "chat template, line %u: %s", x->line, what);
}

static int add(struct lexer *x, enum jtok type, int op, struct str text)
{
    struct jtokens *t = x->out;

    if (t->count == t->cap) {
        size_t cap = t->cap * 2 + 256;
        struct jtoken *p = arena_try_zero(x->a, cap, sizeof(*p));

        if (p == NULL)
            return err_set(x->e, ERR_LIMIT, "chat template: it needs too much memory");
        if (t->count > 0)
            memcpy(p, t->t, t->count * sizeof(*p));
        t->t = p;
        t->cap = cap;
    }
    t->t[t->count++] = (struct jtoken) { type, op, text, x->line };
    return 0;
}

static void skip_to(struct lexer *x, size_t at)
{
    for (size_t i = x->at; i < at; i++)
        x->line += x->s.p[i] == '\n';
    if (at > x->at)
        x->line_starting = x->s.p[at - 1] == '\n';
    x->at = at;
}

/* One past the white space that begins at `at`. */
static size_t after_space(struct str s, size_t at)
{
    size_t len;

    while (at < s.n && jchar_is_space(utf8_next(str_sub(s, at, s.n), &len)))
        at += len;
    return at;
}

/* Where the white space that ends at `end` begins, not before `from`. */
static size_t before_space(struct str s, size_t from, size_t end)
{
    while (end > from) {
        size_t at = end - 1, len;

        while (at > from && ((unsigned char)s.p[at] & 0xc0) == 0x80)
            at--;
        if (!jchar_is_space(utf8_next(str_sub(s, at, end - at), &len)) || at + len != end)
            break;
        end = at;
    }
    return end;
}

static bool at_z(const struct lexer *x, size_t at, const char *z)
{
    return str_starts(str_sub(x->s, at, x->s.n), str_of(z));
}

/* The end of a tag at `at`: its length with what follows it and goes, or 0.  `close` is "%}" etc.;
 * variables keep the newline after them and know no plus sign. */
static size_t tag_end(const struct lexer *x, size_t at, const char *close, bool is_variable)
{
    size_t from = at;

    if (at < x->s.n && x->s.p[at] == '-' && at_z(x, at + 1, close))
        return after_space(x->s, at + 3) - from;
    if (!is_variable && at < x->s.n && x->s.p[at] == '+' && at_z(x, at + 1, close))
        return 3;
    if (!at_z(x, at, close))
        return 0;
    return !is_variable && at + 2 < x->s.n && x->s.p[at + 2] == '\n' ? 3 : 2;
}

/* Adds the text from x->at to `begin`, where a tag begins; `sign` is the byte after its two. */
static int add_data(struct lexer *x, size_t begin, char sign, bool is_variable)
{
    size_t end = begin, bol = begin;

    if (sign == '-') {
        end = before_space(x->s, x->at, begin);
    } else if (sign != '+' && !is_variable) {
        while (bol > x->at && x->s.p[bol - 1] != '\n')
            bol--;
        if ((bol > x->at || x->line_starting) && after_space(x->s, bol) >= begin)
            end = bol;
    }
    if (end > x->at) {
        int rc = add(x, JT_DATA, 0, str_sub(x->s, x->at, end - x->at));

        if (rc != 0)
            return rc;
    }
    skip_to(x, begin);
    return 0;
}

/* ---- inside a tag ---- */

static bool is_name_byte(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80 || (!first && c >= '0' && c <= '9');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits(struct str s, size_t at)
{
    while (at < s.n &&
           (is_digit(s.p[at]) || (s.p[at] == '_' && at + 1 < s.n && is_digit(s.p[at + 1]))))
        at++;
    return at;
}

/* Without the underscores that may separate digits. */
static int add_number(struct lexer *x, enum jtok type, size_t end)
{
    char *p = arena_try(x->a, end - x->at + 1);
    size_t n = 0;
    int rc;

    if (p == NULL)
        return err_set(x->e, ERR_LIMIT, "chat template: it needs too much memory");
    for (size_t i = x->at; i < end; i++)
        if (x->s.p[i] != '_')
            p[n++] = x->s.p[i];
    rc = add(x, type, 0, (struct str) { p, n });
    skip_to(x, end);
    return rc;
}

static int lex_number(struct lexer *x)
{
    size_t end = digits(x->s, x->at), e;
    bool is_float = false;

    if (end + 1 < x->s.n && x->s.p[end] == '.' && is_digit(x->s.p[end + 1])) {
        end = digits(x->s, end + 1);
        is_float = true;
    }
    e = end;
    if (e < x->s.n && (x->s.p[e] == 'e' || x->s.p[e] == 'E')) {
        e++;
        if (e < x->s.n && (x->s.p[e] == '+' || x->s.p[e] == '-'))
            e++;
        if (e < x->s.n && is_digit(x->s.p[e])) {
            end = digits(x->s, e);
            is_float = true;
        }
    }
    return add_number(x, is_float ? JT_FLOAT : JT_INT, end);
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads n hexadecimal digits at s.p[at]; UINT32_MAX when they are not there. */
static uint32_t hex(struct str s, size_t at, size_t n)
{
    uint32_t v = 0;

    if (at + n > s.n)
        return UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        if (hex_value(s.p[at + i]) < 0)
            return UINT32_MAX;
        v = v << 4 | (uint32_t)hex_value(s.p[at + i]);
    }
    return v;
}

/* One escape at s.p[at] (the byte after the backslash), as Python reads it.  Gives the bytes
 * consumed, writes at most 4 to out; 0 = malformed. */
static size_t escape(struct str s, size_t at, char out[4], size_t *n)
{
    static const char from[] = "nrtbfav0'\"\\", to[] = "\n\r\t\b\f\a\v\0'\"\\";
    char c = s.p[at];
    const char *k = memchr(from, c, sizeof(from) - 1);
    size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t v = 0;

    if (c >= '0' && c <= '7') {
        size_t i = 0;

        for (; i < 3 && at + i < s.n && s.p[at + i] >= '0' && s.p[at + i] <= '7'; i++)
            v = v * 8 + (uint32_t)(s.p[at + i] - '0');
        *n = utf8_put(out, v);
        return i;
    }
    if (k != NULL) {
        out[0] = to[k - from];
        *n = 1;
        return 1;
    }
    if (width > 0) {
        v = hex(s, at + 1, width);
        if (v > 0x10ffff)
            return 0;
        *n = utf8_put(out, v);
        return width + 1;
    }
    *n = 0;
    if (c == '\n') /* a line continued */
        return 1;
    out[0] = '\\'; /* unknown: the backslash stays, and the byte is read as itself */
    *n = 1;
    return SIZE_MAX;
}

static int lex_string(struct lexer *x)
{
    char quote = x->s.p[x->at];
    size_t end = x->at + 1, n = 0;
    char *p;
    int rc;

    while (end < x->s.n && x->s.p[end] != quote)
        end += x->s.p[end] == '\\' ? 2 : 1;
    if (end >= x->s.n)
        return bad(x, "a string does not end");
    p = arena_try(x->a, end - x->at + 4);
    if (p == NULL)
        return err_set(x->e, ERR_LIMIT, "chat template: it needs too much memory");
    for (size_t i = x->at + 1; i < end; i++) {
        char bytes[4];
        size_t len = 0, used;

        if (x->s.p[i] != '\\') {
            p[n++] = x->s.p[i];
            continue;
        }
        used = escape(str_sub(x->s, 0, end), i + 1, bytes, &len);
        if (used == 0)
            return bad(x, "a malformed escape in a string");
        memcpy(p + n, bytes, len);
        n += len;
        i += used == SIZE_MAX ? 0 : used;
    }
    rc = add(x, JT_STRING, 0, (struct str) { p, n });
    skip_to(x, end + 1);
    return rc;
}

static int lex_operator(struct lexer *x, char *open, size_t *depth)
{
    static const struct {
        const char *z;
        int op;
    } twos[] = {
        { "//", JC_FLOORDIV }, { "**", JC_POW }, { "==", JC_EQ },
        { "!=", JC_NE },       { "<=", JC_LE },  { ">=", JC_GE },
    };
    char c = x->s.p[x->at];
    int rc;

    for (size_t i = 0; i < COUNT(twos); i++)
        if (at_z(x, x->at, twos[i].z)) {
            rc = add(x, JT_OP, twos[i].op, STR_NONE);
            skip_to(x, x->at + 2);
            return rc;
        }
    if (c == 0 || strchr("+-*/%~[](){}<>=.:|,", c) == NULL)
        return bad(x, "an unexpected character");
    if (strchr("([{", c) != NULL) {
        if (*depth == BRACKETS_MAX)
            return err_set(x->e, ERR_LIMIT, "chat template, line %u: brackets too deep", x->line);
        open[(*depth)++] = c;
    } else if (strchr(")]}", c) != NULL) {
        char want = c == ')' ? '(' : c == ']' ? '[' : '{';

        if (*depth == 0 || open[--*depth] != want)
            return bad(x, "a bracket that was not opened");
    }
    rc = add(x, JT_OP, c, STR_NONE);
    skip_to(x, x->at + 1);
    return rc;
}

/* The inside of {{ }} or {% %}, up to and with its end. */
static int lex_tag(struct lexer *x, bool is_variable)
{
    const char *close = is_variable ? "}}" : "%}";
    char open[BRACKETS_MAX];
    size_t depth = 0;

    for (;;) {
        size_t len, end;
        int rc;

        skip_to(x, after_space(x->s, x->at));
        if (x->at >= x->s.n)
            return bad(x, "a tag does not end");
        len = depth == 0 ? tag_end(x, x->at, close, is_variable) : 0;
        if (len > 0) {
            rc = add(x, is_variable ? JT_OUT_END : JT_BLOCK_END, 0, STR_NONE);
            skip_to(x, x->at + len);
            return rc;
        }
        if (is_digit(x->s.p[x->at])) {
            rc = lex_number(x);
        } else if (is_name_byte(x->s.p[x->at], true)) {
            end = x->at + 1;
            while (end < x->s.n && is_name_byte(x->s.p[end], false))
                end++;
            rc = add(x, JT_NAME, 0, str_sub(x->s, x->at, end - x->at));
            skip_to(x, end);
        } else if (x->s.p[x->at] == '\'' || x->s.p[x->at] == '"') {
            rc = lex_string(x);
        } else {
            rc = lex_operator(x, open, &depth);
        }
        if (rc != 0)
            return rc;
    }
}

/* A tag {% word %} at `at`: one past it with what goes after it, or 0.  *sign is its first sign. */
static size_t word_tag(const struct lexer *x, size_t at, const char *word, bool is_raw_begin,
                       char *sign)
{
    size_t len;

    *sign = 0;
    if (!at_z(x, at, "{%"))
        return 0;
    at += 2;
    if (at < x->s.n && (x->s.p[at] == '-' || x->s.p[at] == '+'))
        *sign = x->s.p[at++];
    at = after_space(x->s, at);
    if (!at_z(x, at, word))
        return 0;
    at = after_space(x->s, at + strlen(word));
    if (is_raw_begin && at_z(x, at, "%}")) /* the newline after {% raw %} is part of the text */
        return at + 2;
    len = tag_end(x, at, "%}", false);
    return len > 0 ? at + len : 0;
}

static int lex_raw(struct lexer *x)
{
    for (size_t at = x->at; at + 1 < x->s.n; at++) {
        char sign;
        size_t end = word_tag(x, at, "endraw", false, &sign);

        if (end > 0) {
            int rc = add_data(x, at, sign, false);

            skip_to(x, end);
            return rc;
        }
    }
    return bad(x, "{% raw %} does not end");
}

static int lex_comment(struct lexer *x)
{
    for (size_t at = x->at + 2; at + 1 < x->s.n; at++) {
        size_t len = tag_end(x, at, "#}", false);

        if (len > 0) {
            skip_to(x, at + len);
            return 0;
        }
    }
    return bad(x, "a comment does not end");
}

static int lex_all(struct lexer *x)
{
    for (size_t at = x->at; at + 1 < x->s.n;) {
        char kind = x->s.p[at] == '{' ? x->s.p[at + 1] : 0, sign = 0;
        size_t raw;
        int rc;

        if (kind != '{' && kind != '%' && kind != '#') {
            at++;
            continue;
        }
        raw = kind == '%' ? word_tag(x, at, "raw", true, &sign) : 0;
        if (raw == 0)
            sign = at + 2 < x->s.n ? x->s.p[at + 2] : 0;
        rc = add_data(x, at, sign, kind == '{');
        if (rc == 0 && raw > 0) {
            skip_to(x, raw);
            rc = lex_raw(x);
        } else if (rc == 0 && kind == '#') {
            rc = lex_comment(x);
        } else if (rc == 0) {
            rc = add(x, kind == '{' ? JT_OUT_BEGIN : JT_BLOCK_BEGIN, 0, STR_NONE);
            skip_to(x, x->at + (sign == '-' || sign == '+' ? 3 : 2));
            if (rc == 0)
                rc = lex_tag(x, kind == '{');
        }
        if (rc != 0)
            return rc;
        at = x->at;
    }
    if (x->at < x->s.n) {
        int rc = add(x, JT_DATA, 0, str_sub(x->s, x->at, x->s.n));

        if (rc != 0)
            return rc;
    }
    return add(x, JT_EOF, 0, STR_NONE);
}

int jinja_lex(struct arena *a, struct str source, struct jtokens *out, struct err *e)
{
    struct lexer x = { .a = a, .line = 1, .line_starting = true, .out = out, .e = e };
    char *p;
    size_t n = 0;

    *out = (struct jtokens) { 0 };
    if (source.n > JINJA_SOURCE_MAX)
        return err_set(e, ERR_LIMIT, "chat template: more than %zu KiB", JINJA_SOURCE_MAX >> 10);
    p = arena_try(a, source.n + 1);
    if (p == NULL)
        return err_set(e, ERR_LIMIT, "chat template: it needs too much memory");
    for (size_t i = 0; i < source.n; i++) {
        if (source.p[i] == '\r' && i + 1 < source.n && source.p[i + 1] == '\n')
            continue;
        p[n++] = source.p[i] == '\r' ? '\n' : source.p[i];
    }
    if (n > 0 && p[n - 1] == '\n')
        n--;
    x.s = (struct str) { p, n };
    return lex_all(&x);
}
