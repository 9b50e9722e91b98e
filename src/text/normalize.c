/* Normalizers of tokenizer.json.
 *
 * Unicode's normal forms cost time only where they change something: a bit for each character
 * says that nothing happens to it and that it joins with nothing before it.  Text of such
 * characters is passed through; the others are rewritten in runs, each from the quiet character
 * before it.  A run has at most RUN_MAX characters, because ordering marks is quadratic: Unicode's
 * own stream-safe text has no more than 30. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include "text/rules.h"
#include <utf8proc.h>

#define STABLE_CHARS 0x30000 /* beyond: looked at in full */
#define RUN_MAX      128
#define EXPANSION    18 /* of U+FDFA, the longest there is */

/* Characters that Unicode 10 to 15 gave a place among the marks, or a decomposition.  The tables
 * that the reference normalizes with are of Unicode 9: there nothing happens to them. */
static const struct {
    uint32_t from, to;
} inert[] = {
    { 0x7fd, 0x7fd },     { 0x898, 0x89f },     { 0x8ca, 0x8d3 },     { 0x9fe, 0x9fe },
    { 0xc3c, 0xc3c },     { 0xd3b, 0xd3c },     { 0xeba, 0xeba },     { 0x1715, 0x1715 },
    { 0x1abf, 0x1ace },   { 0x1df6, 0x1dfa },   { 0x32ff, 0x32ff },   { 0xa7f2, 0xa7f4 },
    { 0xa82c, 0xa82c },   { 0xab69, 0xab69 },   { 0x10781, 0x10785 }, { 0x10787, 0x107b0 },
    { 0x107b2, 0x107ba }, { 0x10d24, 0x10d27 }, { 0x10eab, 0x10eac }, { 0x10efd, 0x10eff },
    { 0x10f46, 0x10f50 }, { 0x10f82, 0x10f85 }, { 0x11070, 0x11070 }, { 0x1133b, 0x1133b },
    { 0x1145e, 0x1145e }, { 0x11839, 0x1183a }, { 0x11930, 0x11930 }, { 0x11938, 0x11938 },
    { 0x1193d, 0x1193e }, { 0x11943, 0x11943 }, { 0x119e0, 0x119e0 }, { 0x11a34, 0x11a34 },
    { 0x11a47, 0x11a47 }, { 0x11a99, 0x11a99 }, { 0x11d42, 0x11d42 }, { 0x11d44, 0x11d45 },
    { 0x11d97, 0x11d97 }, { 0x11f41, 0x11f42 }, { 0x16ff0, 0x16ff1 }, { 0x1e030, 0x1e06d },
    { 0x1e08f, 0x1e08f }, { 0x1e130, 0x1e136 }, { 0x1e2ae, 0x1e2ae }, { 0x1e2ec, 0x1e2ef },
    { 0x1e4ec, 0x1e4ef }, { 0x1f16c, 0x1f16c }, { 0x1fbf0, 0x1fbf9 }
};

static bool is_inert(uint32_t cp)
{
    size_t low = 0, high = COUNT(inert);

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (cp > inert[mid].to)
            low = mid + 1;
        else
            high = mid;
    }
    return low < COUNT(inert) && cp >= inert[low].from;
}

static int form_options(enum norm_kind k)
{
    switch (k) {
    case NORM_NFC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case NORM_NFD: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case NORM_NFKC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

static void set_bit(uint8_t *bits, uint32_t cp, bool on)
{
    if (cp < STABLE_CHARS)
        bits[cp >> 3] = (uint8_t)((bits[cp >> 3] & ~(1u << (cp & 7))) | (unsigned)on << (cp & 7));
}

static bool is_stable(const struct norm_step *s, uint32_t cp)
{
    return cp < STABLE_CHARS && (s->stable[cp >> 3] >> (cp & 7) & 1) != 0;
}

int normalize_prepare(struct norm_step *s)
{
    int options = form_options(s->kind), last;
    bool composes = (options & UTF8PROC_COMPOSE) != 0;

    s->stable = mem_try(STABLE_CHARS / 8);
    if (s->stable == NULL)
        return ERR_NOMEM;
    memset(s->stable, 0xff, STABLE_CHARS / 8);
    for (uint32_t cp = 0x80; cp < STABLE_CHARS; cp++) {
        utf8proc_int32_t d[EXPANSION * 2];
        utf8proc_ssize_t n, parts;

        if (utf8proc_get_property((utf8proc_int32_t)cp)->combining_class != 0 ||
            (cp >= 0xd800 && cp < 0xe000)) {
            set_bit(s->stable, cp, false);
            continue;
        }
        n = parts = utf8proc_decompose_char((utf8proc_int32_t)cp, d, (utf8proc_ssize_t)COUNT(d),
                                            options, &last);
        if (n == 1 && d[0] == (utf8proc_int32_t)cp)
            continue;
        /* what follows the first part may join with what stands before it */
        for (utf8proc_ssize_t i = 1; composes && i < parts && i < (utf8proc_ssize_t)COUNT(d); i++)
            set_bit(s->stable, (uint32_t)d[i], false);
        if (n > 0 && n <= (utf8proc_ssize_t)COUNT(d) && composes)
            n = utf8proc_normalize_utf32(d, n, options);
        if (n != 1 || d[0] != (utf8proc_int32_t)cp)
            set_bit(s->stable, cp, false);
    }
    for (size_t i = 0; i < COUNT(inert); i++)
        for (uint32_t cp = inert[i].from; cp <= inert[i].to; cp++)
            set_bit(s->stable, cp, true);
    return 0;
}

/* Bytes from `from` to the first character that is not stable; *quiet: where the last stable one
 * before it begins (from when there is none). */
static size_t skip_stable(const struct norm_step *s, struct str text, size_t from, size_t *quiet)
{
    size_t at = from, len;
    uint64_t w;

    *quiet = from;
    while (at < text.n) {
        if (at + 8 <= text.n) {
            memcpy(&w, text.p + at, sizeof(w));
            if ((w & 0x8080808080808080u) == 0) {
                at += 8;
                *quiet = at - 1;
                continue;
            }
        }
        if (!is_stable(s, utf8_next(str_sub(text, at, 4), &len)))
            break;
        *quiet = at;
        at += len;
    }
    /* an inert one is no neighbour for marks: the tables at hand would move them past it */
    if (*quiet < at && is_inert(utf8_next(str_sub(text, *quiet, 4), &len)))
        *quiet = at;
    return at;
}

static int rewrite_run(const struct norm_step *s, struct str run, struct buf *out)
{
    utf8proc_int32_t d[(RUN_MAX + 1) * EXPANSION + 4];
    int options = form_options(s->kind);
    utf8proc_ssize_t n;

    n = utf8proc_decompose((const utf8proc_uint8_t *)run.p, (utf8proc_ssize_t)run.n, d,
                           (RUN_MAX + 1) * EXPANSION, options);
    if (n >= 0 && n <= (RUN_MAX + 1) * EXPANSION)
        n = utf8proc_reencode(d, n, options);
    if (n < 0) /* not UTF-8: the caller has seen to it */
        return buf_str(out, run) ? 0 : ERR_LIMIT;
    return buf_add(out, d, (size_t)n) ? 0 : ERR_LIMIT;
}

static int run_form(const struct norm_step *s, struct str *text, struct buf *out)
{
    size_t quiet, done = 0, at = skip_stable(s, *text, 0, &quiet);
    int rc;

    if (at == text->n)
        return 0;
    while (at < text->n) {
        size_t end = at, len, count = 0;

        if (!buf_add(out, text->p + done, quiet - done))
            return ERR_LIMIT;
        while (end < text->n && count < RUN_MAX) {
            if (is_stable(s, utf8_next(str_sub(*text, end, 4), &len)))
                break;
            end += len;
            count++;
        }
        rc = rewrite_run(s, str_sub(*text, quiet, end - quiet), out);
        if (rc != 0)
            return rc;
        done = end;
        at = skip_stable(s, *text, end, &quiet);
    }
    if (!buf_add(out, text->p + done, text->n - done))
        return ERR_LIMIT;
    *text = buf_view(out);
    return 0;
}

static bool is_mark(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

/* Character by character: lower case, or without marks. */
static int run_chars(const struct norm_step *s, struct str *text, struct buf *out)
{
    size_t len;

    for (size_t at = 0; at < text->n; at += len) {
        uint32_t cp = utf8_next(str_sub(*text, at, 4), &len);
        char c[4];
        bool ok = true;

        if (s->kind == NORM_STRIP_ACCENTS)
            ok = is_mark(cp) || buf_add(out, text->p + at, len);
        else if (cp == 0x130) /* the one letter whose small form is two characters */
            ok = buf_z(out, "i\xcc\x87");
        else
            ok = buf_add(out, c, utf8_put(c, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp)));
        if (!ok)
            return ERR_LIMIT;
    }
    *text = buf_view(out);
    return 0;
}

static int run_replace(const struct norm_step *s, struct pattern_run *run, struct str *text,
                       struct buf *out)
{
    size_t done = 0, from = 0, at, end;
    int rc;

    while ((rc = pattern_next(&s->pattern, run, *text, from, &at, &end)) > 0) {
        if (!buf_add(out, text->p + done, at - done) || !buf_str(out, s->text))
            return ERR_LIMIT;
        done = end;
        from = end > at ? end : end + 1;
        if (from > text->n)
            break;
    }
    if (rc < 0)
        return rc;
    if (done == 0 && out->len == 0)
        return 0;
    if (!buf_add(out, text->p + done, text->n - done))
        return ERR_LIMIT;
    *text = buf_view(out);
    return 0;
}

static bool is_space(uint32_t cp)
{
    utf8proc_category_t c;

    if (cp < 0x80)
        return cp == ' ' || (cp >= '\t' && cp <= '\r');
    c = utf8proc_category((utf8proc_int32_t)cp);
    return cp == 0x85 || c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL ||
           c == UTF8PROC_CATEGORY_ZP;
}

static struct str strip(const struct norm_step *s, struct str text)
{
    size_t len, end = 0;

    while (s->left && text.n > 0 && is_space(utf8_next(text, &len)))
        text = str_sub(text, len, text.n);
    for (size_t at = 0; s->right && at < text.n; at += len)
        if (!is_space(utf8_next(str_sub(text, at, 4), &len)))
            end = at + len;
    return s->right ? str_sub(text, 0, end) : text;
}

int normalize(const struct rules *r, struct str text, struct pattern_run *run, struct buf tmp[2],
              struct str *out)
{
    unsigned spare = 0; /* the buffer that text does not lie in */
    int rc = 0;

    for (unsigned i = 0; i < r->norm_count && rc == 0 && text.n > 0; i++) {
        const struct norm_step *s = &r->norm[i];
        struct buf *to = &tmp[spare];

        buf_reset(to);
        switch (s->kind) {
        case NORM_NFC:
        case NORM_NFD:
        case NORM_NFKC:
        case NORM_NFKD: rc = run_form(s, &text, to); break;
        case NORM_LOWERCASE:
        case NORM_STRIP_ACCENTS: rc = run_chars(s, &text, to); break;
        case NORM_PREPEND:
            rc = buf_str(to, s->text) && buf_str(to, text) ? 0 : ERR_LIMIT;
            text = buf_view(to);
            break;
        case NORM_REPLACE: rc = run_replace(s, run, &text, to); break;
        case NORM_STRIP: text = strip(s, text); break;
        }
        if (text.p == to->p)
            spare ^= 1;
    }
    *out = text;
    return rc;
}
