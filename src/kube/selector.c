/* A reader of one requirement after the other.  What was read is written out anew, without blanks
 * that mean nothing. */
// SPDX-License-Identifier: Apache-2.0
#include "kube/selector.h"
#include "base/check.h"

#define NAME_MAX_BYTES   63
#define PREFIX_MAX_BYTES 253

struct reader {
    struct str text;
    size_t at;
    struct buf *out;
};

static bool is_lower_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_alnum(char c)
{
    return is_lower_or_digit(c) || (c >= 'A' && c <= 'Z');
}

/* Letters and digits at both ends. */
static bool name_ok(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '_' && s.p[i] != '.')
            return false;
    return s.n != 0 && s.n <= NAME_MAX_BYTES && is_alnum(s.p[0]) && is_alnum(s.p[s.n - 1]);
}

static bool prefix_ok(struct str s)
{
    if (s.n > PREFIX_MAX_BYTES)
        return false;
    while (s.p != NULL) {
        struct str part = str_cut(&s, '.');

        for (size_t i = 0; i < part.n; i++)
            if (!is_lower_or_digit(part.p[i]) && part.p[i] != '-')
                return false;
        if (part.n == 0 || part.p[0] == '-' || part.p[part.n - 1] == '-')
            return false;
    }
    return true;
}

bool kube_label_key_ok(struct str s)
{
    struct str rest = s, prefix = str_cut(&rest, '/');

    return rest.p == NULL ? name_ok(s) : prefix_ok(prefix) && name_ok(rest);
}

bool kube_label_value_ok(struct str s)
{
    return s.n == 0 || name_ok(s);
}

void kube_percent(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];

        if (is_alnum(c) || c == '-' || c == '_' || c == '.' || c == '~')
            buf_c(out, c);
        else
            buf_f(out, "%%%02X", (unsigned char)c);
    }
}

/* ---- words and signs ---- */

static char peek(struct reader *r)
{
    while (r->at < r->text.n && str_trim(str_sub(r->text, r->at, 1)).n == 0)
        r->at++;
    return r->at < r->text.n ? r->text.p[r->at] : 0;
}

static bool take(struct reader *r, char c)
{
    bool is = peek(r) == c;

    r->at += is;
    return is;
}

/* Up to a blank or a sign; may be empty. */
static struct str word(struct reader *r)
{
    static const struct str signs = { "!=<>(), \t\r\n", 11 };
    size_t from;

    (void)peek(r);
    from = r->at;
    while (r->at < r->text.n && str_chr(signs, r->text.p[r->at]) == SIZE_MAX)
        r->at++;
    return str_sub(r->text, from, r->at - from);
}

/* Returns a static text of what is wrong, or NULL. */
static const char *value(struct reader *r)
{
    struct str v = word(r);

    kube_percent(r->out, v);
    return kube_label_value_ok(v) ? NULL : "this is no value of a label";
}

static const char *number(struct reader *r)
{
    struct str v = word(r);
    int64_t n;

    kube_percent(r->out, v);
    return str_i64(v, &n) && kube_label_value_ok(v) ? NULL : "a whole number is wanted here";
}

static const char *set(struct reader *r)
{
    const char *wrong;

    if (!take(r, '('))
        return "a set is wanted here, such as (a,b)";
    if (peek(r) == ')')
        return "the set is empty";
    buf_z(r->out, "%28");
    do {
        wrong = value(r);
        if (wrong != NULL)
            return wrong;
        if (peek(r) == ',')
            buf_z(r->out, "%2C");
    } while (take(r, ','));
    buf_z(r->out, "%29");
    return take(r, ')') ? NULL : "the set does not end with )";
}

/* What stands behind a key; nothing: it must be there. */
static const char *restriction(struct reader *r)
{
    struct str how;

    switch (peek(r)) {
    case 0:
    case ',': return NULL;
    case '!':
        if (!str_eqz(str_sub(r->text, r->at, 2), "!="))
            return "!= is wanted here";
        r->at += 2;
        buf_z(r->out, "%21%3D");
        return value(r);
    case '=':
        r->at += str_eqz(str_sub(r->text, r->at, 2), "==") ? 2 : 1;
        buf_z(r->out, "%3D");
        return value(r);
    case '>':
    case '<': kube_percent(r->out, str_sub(r->text, r->at++, 1)); return number(r);
    default: break;
    }
    how = word(r);
    if (!str_eqz(how, "in") && !str_eqz(how, "notin"))
        return "=, ==, !=, in or notin is wanted here";
    buf_f(r->out, "%%20%.*s%%20", STR_ARG(how));
    return set(r);
}

static const char *requirement(struct reader *r)
{
    bool is_absent = take(r, '!');
    struct str key = word(r);

    if (is_absent)
        buf_z(r->out, "%21");
    kube_percent(r->out, key);
    if (!kube_label_key_ok(key))
        return "this is no name of a label";
    if (is_absent)
        return peek(r) == 0 || peek(r) == ',' ? NULL : "behind !NAME nothing more can stand";
    return restriction(r);
}

int kube_selector_query(struct str text, struct buf *out, struct err *e)
{
    struct reader r = { .text = text, .out = out };
    const char *wrong;

    if (str_trim(text).n == 0)
        return err_set(e, ERR_INVAL, "a selector must name a label, such as app=vllm");
    buf_z(out, "labelSelector=");
    for (;;) {
        wrong = requirement(&r);
        if (wrong != NULL || peek(&r) == 0)
            break;
        if (!take(&r, ',')) {
            wrong = "a comma is wanted here";
            break;
        }
        buf_z(out, "%2C");
    }
    if (wrong != NULL)
        return err_set(e, ERR_INVAL, "selector %.*s: %s, at or before character %zu", STR_ARG(text),
                       wrong, r.at + 1);
    return out->failed ? err_set(e, ERR_INVAL, "the selector is too long") : 0;
}
