/* JSON reader: one pass over the source, no recursion.
 *
 *   src --value()--> node (from a slab of the arena) --link()--> open container
 *                                                                  frame[depth]
 *
 * A frame holds an open array or object and the link where its next child goes,
 * so depth costs 16 bytes and is bounded before it grows.  A string is scanned
 * once for its end, control characters and UTF-8; only when it holds an escape
 * is it copied, into the arena.  Positions (line, column) are counted when an
 * error is reported, never before. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/json.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include "codec/utf8_priv.h"
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define DEPTH_DEFAULT    64
#define DEPTH_CAP        1024 /* of frames on the stack: 16 KiB */
#define VALUES_DEFAULT   2000000
#define MEMBERS_DEFAULT  10000
#define SLAB_FIRST       8
#define SLAB_MAX         192  /* nodes: just under one chunk of the arena */
#define NUMBER_CHARS_MAX 1100 /* the longest exact double has 1,077 */
#define PAIRWISE_MAX     8    /* members compared pair by pair instead of sorted */

struct frame {
    struct json *node;
    const struct json **link; /* where the next child goes */
};

struct parser {
    struct arena *a;
    const uint8_t *start, *p, *end;
    struct json_limits lim;
    struct json *slab;
    uint32_t slab_left, slab_next, values;
    uint32_t depth;
    struct err *e;
    struct frame frame[DEPTH_CAP];
};

static int fail(struct parser *ps, int code, const uint8_t *at, const char *what)
{
    size_t line = 1, column;
    const uint8_t *bol = ps->start;

    if (ps->e == NULL)
        return code;
    for (const uint8_t *q = ps->start; q < at; q++)
        if (*q == '\n') {
            line++;
            bol = q + 1;
        }
    column = (size_t)(at - bol) + 1;
    return err_set(ps->e, code, "JSON line %zu column %zu: %s", line, column, what);
}

static int no_room(struct parser *ps)
{
    return fail(ps, ERR_LIMIT, ps->p, "too large: memory of the request is used up");
}

static struct json *node_new(struct parser *ps)
{
    if (ps->slab_left == 0) {
        ps->slab = arena_try(ps->a, ps->slab_next * sizeof(struct json));
        if (ps->slab == NULL)
            return NULL;
        ps->slab_left = ps->slab_next;
        ps->slab_next = MIN(ps->slab_next * 4, (uint32_t)SLAB_MAX);
    }
    ps->slab_left--;
    return ps->slab++;
}

static void skip_blank(struct parser *ps)
{
    const uint8_t *p = ps->p;

    while (p < ps->end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
        p++;
    ps->p = p;
}

/* First byte at or after p that needs a look: quote, backslash, control, not ASCII; or end. */
static const uint8_t *skip_plain(const uint8_t *p, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i blank = _mm_set1_epi8(0x20);

    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        /* Signed: control characters and everything from 0x80 on are below 0x20. */
        __m128i bad =
            _mm_or_si128(_mm_cmplt_epi8(v, blank),
                         _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)));
        unsigned mask = (unsigned)_mm_movemask_epi8(bad);

        if (mask != 0)
            return p + __builtin_ctz(mask);
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20 && *p < 0x80)
        p++;
    return p;
}

/* The same, for strings that are not decoded: quote, backslash, control. */
static const uint8_t *skip_undecoded(const uint8_t *p, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i control = _mm_set1_epi8(0x1f);

    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i bad =
            _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(v, control), v),
                         _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)));
        unsigned mask = (unsigned)_mm_movemask_epi8(bad);

        if (mask != 0)
            return p + __builtin_ctz(mask);
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20)
        p++;
    return p;
}

static int hex4(const uint8_t *p, uint32_t *out)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i], l = c | 0x20;

        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if (l >= 'a' && l <= 'f')
            v = v << 4 | (uint32_t)(l - 'a' + 10);
        else
            return ERR_PARSE;
    }
    *out = v;
    return 0;
}

/* \uXXXX at p (after the u), or a pair of them: *cp, and how many bytes were read; 0 = bad. */
static size_t unescape_u(const uint8_t *p, const uint8_t *end, uint32_t *cp)
{
    uint32_t low;

    if (end - p < 4 || hex4(p, cp) != 0)
        return 0;
    if (*cp < 0xd800 || *cp > 0xdfff)
        return 4;
    /* A lone surrogate has no UTF-8 form. */
    if (*cp > 0xdbff || end - p < 10 || p[4] != '\\' || p[5] != 'u' || hex4(p + 6, &low) != 0 ||
        low < 0xdc00 || low > 0xdfff)
        return 0;
    *cp = 0x10000 + ((*cp - 0xd800) << 10) + (low - 0xdc00);
    return 10;
}

/* Decodes the escapes of [p, end), the inside of a scanned string.  Never longer than its source.
 */
static int unescape(struct parser *ps, const uint8_t *p, const uint8_t *end, struct str *out)
{
    char *to = arena_try(ps->a, (size_t)(end - p)), *start = to;
    uint32_t cp;
    size_t n;

    if (to == NULL)
        return no_room(ps);
    for (;;) {
        const uint8_t *bs = p < end ? memchr(p, '\\', (size_t)(end - p)) : NULL;

        n = (size_t)((bs != NULL ? bs : end) - p);
        if (n != 0)
            memcpy(to, p, n);
        to += n;
        if (bs == NULL)
            break;
        p = bs + 2; /* the scan saw that a byte follows */
        switch (bs[1]) {
        case '"': *to++ = '"'; break;
        case '\\': *to++ = '\\'; break;
        case '/': *to++ = '/'; break;
        case 'b': *to++ = '\b'; break;
        case 'f': *to++ = '\f'; break;
        case 'n': *to++ = '\n'; break;
        case 'r': *to++ = '\r'; break;
        case 't': *to++ = '\t'; break;
        case 'u':
            n = unescape_u(p, end, &cp);
            if (n == 0)
                return fail(ps, ERR_PARSE, bs, "bad \\u escape (or half a surrogate pair)");
            p += n;
            to += utf8_put(to, cp);
            break;
        default: return fail(ps, ERR_PARSE, bs, "unknown escape");
        }
    }
    *out = (struct str) { start, (size_t)(to - start) };
    return 0;
}

/* A string whose opening quote is at ps->p; leaves ps->p after the closing one. */
static int string(struct parser *ps, struct str *out)
{
    const uint8_t *start = ps->p + 1, *p = start;
    bool has_escape = false, decode = ps->depth <= ps->lim.decode_depth_max;
    size_t n, bad;
    int rc = 0;

    for (;;) {
        p = decode ? skip_plain(p, ps->end) : skip_undecoded(p, ps->end);
        if (p == ps->end)
            return fail(ps, ERR_PARSE, p, "the text ends inside a string");
        if (*p == '"')
            break;
        if (*p == '\\') {
            has_escape = true;
            if (ps->end - p < 2)
                return fail(ps, ERR_PARSE, p, "the text ends inside a string");
            if (p[1] < 0x20 || p[1] >= 0x80)
                return fail(ps, ERR_PARSE, p, "unknown escape");
            p += 2;
        } else if (*p < 0x20) {
            return fail(ps, ERR_PARSE, p, "control character in a string");
        } else {
            n = utf8_step(p, ps->end, &bad);
            if (n == 0)
                return fail(ps, ERR_PARSE, p, "invalid UTF-8");
            p = utf8_skip_wide(p + n, ps->end);
        }
    }
    if (has_escape && decode)
        rc = unescape(ps, start, p, out);
    else
        *out = (struct str) { (const char *)start, (size_t)(p - start) };
    ps->p = p + 1;
    return rc;
}

static const uint8_t *digits(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (uint8_t)(*p - '0') <= 9)
        p++;
    return p;
}

static int number(struct parser *ps, struct str *out)
{
    const uint8_t *start = ps->p, *p = start, *end = ps->end, *q;

    if (*p == '-')
        p++;
    q = digits(p, end);
    if (q == p)
        return fail(ps, ERR_PARSE, start, "a value was expected");
    if (*p == '0' && q - p > 1)
        return fail(ps, ERR_PARSE, start, "a number may not begin with 0");
    p = q;
    if (p < end && *p == '.') {
        q = digits(p + 1, end);
        if (q == p + 1)
            return fail(ps, ERR_PARSE, p, "digits must follow the decimal point");
        p = q;
    }
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        q = digits(p, end);
        if (q == p)
            return fail(ps, ERR_PARSE, p, "digits must follow the exponent");
        p = q;
    }
    *out = (struct str) { (const char *)start, (size_t)(p - start) };
    ps->p = p;
    return 0;
}

static int literal(struct parser *ps, struct str word, enum json_type type, struct json *j)
{
    if ((size_t)(ps->end - ps->p) < word.n || memcmp(ps->p, word.p, word.n) != 0)
        return fail(ps, ERR_PARSE, ps->p, "a value was expected");
    ps->p += word.n;
    j->type = type;
    return 0;
}

/* Reads a value; of a container only its opening bracket. */
static int value(struct parser *ps, struct json *j)
{
    const uint8_t *start = ps->p;
    int rc = 0;

    if (start == ps->end)
        return fail(ps, ERR_PARSE, start, "the text ends where a value was expected");
    if (++ps->values > ps->lim.values_max)
        return fail(ps, ERR_LIMIT, start, "too many values");
    switch (*start) {
    case '{':
    case '[':
        if (ps->depth == ps->lim.depth_max)
            return fail(ps, ERR_LIMIT, start, "nested too deeply");
        j->type = *start == '{' ? JSON_OBJECT : JSON_ARRAY;
        ps->frame[ps->depth++] = (struct frame) { j, &j->first };
        ps->p++;
        break;
    case '"':
        j->type = JSON_STRING;
        rc = string(ps, &j->text);
        break;
    case 't': rc = literal(ps, STR("true"), JSON_TRUE, j); break;
    case 'f': rc = literal(ps, STR("false"), JSON_FALSE, j); break;
    case 'n': rc = literal(ps, STR("null"), JSON_NULL, j); break;
    default:
        j->type = JSON_NUMBER;
        rc = number(ps, &j->text);
        break;
    }
    j->span = (struct str) { (const char *)start, (size_t)(ps->p - start) };
    return rc;
}

static int by_key(const void *a, const void *b)
{
    return str_cmp((*(const struct json *const *)a)->key, (*(const struct json *const *)b)->key);
}

/* Sorting keeps this n log n whatever the names are. */
static int has_duplicate(const struct json *obj, bool *out)
{
    const struct json **all;
    size_t n = 0;

    *out = false;
    if (obj->count <= PAIRWISE_MAX) {
        for (const struct json *m = obj->first; m != NULL; m = m->next)
            for (const struct json *o = m->next; o != NULL; o = o->next)
                *out = *out || str_eq(m->key, o->key);
        return 0;
    }
    all = mem_try_zero(obj->count, sizeof(const struct json *));
    if (all == NULL)
        return ERR_LIMIT;
    for (const struct json *m = obj->first; m != NULL; m = m->next)
        all[n++] = m;
    qsort(all, n, sizeof(const struct json *), by_key);
    for (size_t i = 1; i < n && !*out; i++)
        *out = str_eq(all[i - 1]->key, all[i]->key);
    mem_free(all);
    return 0;
}

static int close_container(struct parser *ps)
{
    struct json *c = ps->frame[--ps->depth].node;
    bool dup;

    ps->p++;
    c->span.n = (size_t)((const char *)ps->p - c->span.p);
    if (c->type == JSON_OBJECT && ps->lim.refuse_duplicates && c->count > 1) {
        if (has_duplicate(c, &dup) != 0)
            return no_room(ps);
        if (dup)
            return fail(ps, ERR_PARSE, (const uint8_t *)c->span.p,
                        "an object names a member twice");
    }
    return 0;
}

/* The next child of the innermost open container: its name if it has one, then the value. */
static int child(struct parser *ps, bool may_close)
{
    struct frame *f = &ps->frame[ps->depth - 1];
    bool is_object = f->node->type == JSON_OBJECT;
    struct json *j;
    int rc;

    skip_blank(ps);
    if (may_close && ps->p < ps->end && *ps->p == (is_object ? '}' : ']'))
        return close_container(ps);
    j = node_new(ps);
    if (j == NULL)
        return no_room(ps);
    *j = (struct json) { 0 };
    if (is_object) {
        if (ps->p == ps->end || *ps->p != '"')
            return fail(ps, ERR_PARSE, ps->p, "a member name in quotes was expected");
        if (f->node->count >= ps->lim.members_max)
            return fail(ps, ERR_LIMIT, ps->p, "too many members in one object");
        rc = string(ps, &j->key);
        if (rc != 0)
            return rc;
        skip_blank(ps);
        if (ps->p == ps->end || *ps->p != ':')
            return fail(ps, ERR_PARSE, ps->p, "':' was expected after the member name");
        ps->p++;
        skip_blank(ps);
    }
    *f->link = j;
    f->link = &j->next;
    f->node->count++;
    return value(ps, j);
}

/* Until every container that value() or child() opened is closed again. */
static int children(struct parser *ps)
{
    bool is_fresh = true; /* the innermost container was just opened */
    int rc;

    while (ps->depth != 0) {
        uint32_t before = ps->depth;
        struct frame *f = &ps->frame[ps->depth - 1];

        if (!is_fresh) {
            skip_blank(ps);
            if (ps->p == ps->end)
                return fail(ps, ERR_PARSE, ps->p, "the text ends inside an array or object");
            if (*ps->p == (f->node->type == JSON_OBJECT ? '}' : ']')) {
                rc = close_container(ps);
                if (rc != 0)
                    return rc;
                continue;
            }
            if (*ps->p != ',')
                return fail(ps, ERR_PARSE, ps->p,
                            "',' or the end of the array or object was expected");
            ps->p++;
        }
        rc = child(ps, is_fresh);
        if (rc != 0)
            return rc;
        is_fresh = ps->depth > before;
    }
    return 0;
}

int json_parse(struct arena *a, struct str src, const struct json_limits *limits,
               const struct json **out, struct err *e)
{
    struct parser ps;
    struct json *root;
    int rc;

    *out = NULL;
    ps.a = a;
    ps.start = ps.p = src.p != NULL ? (const uint8_t *)src.p : (const uint8_t *)"";
    ps.end = ps.start + src.n;
    ps.lim = limits != NULL ? *limits : (struct json_limits) { 0 };
    ps.lim.depth_max =
        ps.lim.depth_max != 0 ? MIN(ps.lim.depth_max, (uint32_t)DEPTH_CAP) : DEPTH_DEFAULT;
    ps.lim.values_max = ps.lim.values_max != 0 ? ps.lim.values_max : VALUES_DEFAULT;
    ps.lim.members_max = ps.lim.members_max != 0 ? ps.lim.members_max : MEMBERS_DEFAULT;
    if (ps.lim.decode_depth_max == 0)
        ps.lim.decode_depth_max = UINT32_MAX;
    ps.slab_left = ps.values = ps.depth = 0;
    ps.slab_next = SLAB_FIRST;
    ps.e = e;
    root = node_new(&ps);
    if (root == NULL)
        return no_room(&ps);
    *root = (struct json) { 0 };
    skip_blank(&ps);
    rc = value(&ps, root);
    if (rc == 0)
        rc = children(&ps);
    if (rc != 0)
        return rc;
    skip_blank(&ps);
    if (ps.p != ps.end)
        return fail(&ps, ERR_PARSE, ps.p, "more text after the end of the value");
    *out = root;
    return 0;
}

const struct json *json_get(const struct json *j, const char *key)
{
    const struct json *found = NULL;
    struct str k = str_of(key);

    if (!json_is(j, JSON_OBJECT))
        return NULL;
    for (const struct json *m = j->first; m != NULL; m = m->next)
        if (str_eq(m->key, k))
            found = m;
    return found;
}

const struct json *json_at(const struct json *j, size_t index)
{
    const struct json *m;

    if (j == NULL || (j->type != JSON_ARRAY && j->type != JSON_OBJECT) || index >= j->count)
        return NULL;
    for (m = j->first; index != 0; index--)
        m = m->next;
    return m;
}

bool json_is(const struct json *j, enum json_type t)
{
    return j != NULL && j->type == t;
}

bool json_bool(const struct json *j, bool *out)
{
    if (!json_is(j, JSON_TRUE) && !json_is(j, JSON_FALSE))
        return false;
    *out = j->type == JSON_TRUE;
    return true;
}

bool json_i64(const struct json *j, int64_t *out)
{
    return json_is(j, JSON_NUMBER) && str_i64(j->text, out);
}

bool json_u64(const struct json *j, uint64_t *out)
{
    return json_is(j, JSON_NUMBER) && str_u64(j->text, out);
}

bool json_f64(const struct json *j, double *out)
{
    char tmp[NUMBER_CHARS_MAX + 1];
    double v;

    if (!json_is(j, JSON_NUMBER) || j->text.n > NUMBER_CHARS_MAX)
        return false;
    /* The grammar was checked, so strtod reads all of it and nothing else (no hex, no "inf"). */
    memcpy(tmp, j->text.p, j->text.n);
    tmp[j->text.n] = 0;
    v = strtod(tmp, NULL);
    if (v - v != 0) /* overflow to infinity */
        return false;
    *out = v;
    return true;
}

bool json_str(const struct json *j, struct str *out)
{
    if (!json_is(j, JSON_STRING))
        return false;
    *out = j->text;
    return true;
}
