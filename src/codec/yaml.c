/* YAML into a tree.
 *
 * libyaml's parser gives events; a stack of open collections turns them into nodes.  Depth is
 * counted on the events and stops the parser: its scanner is quadratic in flow nesting, and 32
 * levels end a mebibyte of brackets after some milliseconds.
 *
 * A key is an event like a value: an open map whose `key` is set waits for the value.  Duplicates
 * are found by a hash over (map, key); equal hashes are checked against the map's members, so that
 * a collision costs time and never a wrong refusal.
 *
 * Invariant: nodes are in the arena from their event on, every event is deleted once. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/yaml.h"
#include "base/check.h"
#include "base/map.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

struct open_node {
    struct yaml_node *node;
    const struct yaml_node **tail; /* where the next child is linked */
    struct str key;                /* maps: p != NULL: the value comes next */
    uint32_t key_line, key_column;
};

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    const char *file;
    struct open_node open[YAML_DEPTH_MAX];
    uint32_t depth;
    struct map keys; /* hash of (map, key) -> the member */
    const struct yaml_node *root;
    struct err *e;
};

static int complain(struct err *e, int code, const char *file, uint32_t line, uint32_t column,
                    const char *what)
{
    return err_set(e, code, "%s:%u:%u: %s", file, line, column, what);
}

static int refuse(struct reader *r, int code, const yaml_mark_t *at, const char *what)
{
    return complain(r->e, code, r->file, (uint32_t)at->line + 1, (uint32_t)at->column + 1, what);
}

/* libyaml's own complaint: it knows a place, save for bytes that are no text. */
static int broken(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    char what[160];

    if (p->error == YAML_MEMORY_ERROR)
        return err_set(r->e, ERR_NOMEM, "%s: no memory", r->file);
    if (p->error == YAML_READER_ERROR)
        return err_set(r->e, ERR_PARSE, "%s: %s (byte %zu)", r->file, p->problem,
                       p->problem_offset);
    snprintf(what, sizeof(what), "%s%s%s", p->problem != NULL ? p->problem : "not YAML",
             p->context != NULL ? ", " : "", p->context != NULL ? p->context : "");
    return refuse(r, ERR_PARSE, &p->problem_mark, what);
}

static bool plain_in(const struct yaml_node *n, const char *const *words, size_t count)
{
    if (n == NULL || n->type != YAML_SCALAR || n->quoted)
        return false;
    for (size_t i = 0; i < count; i++)
        if (str_eqz(n->text, words[i]))
            return true;
    return false;
}

/* ---- building ---- */

static bool key_known(const struct open_node *o, struct str key)
{
    for (const struct yaml_node *c = o->node->first; c != NULL; c = c->next)
        if (str_eq(c->key, key))
            return true;
    return false;
}

static int take_key(struct reader *r, const yaml_event_t *ev)
{
    struct open_node *o = &r->open[r->depth - 1];
    struct str key = { (const char *)ev->data.scalar.value, ev->data.scalar.length };
    bool plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    uint64_t hash = map_mix(str_hash(key) ^ map_mix((uintptr_t)o->node)), seen;
    char what[160];

    if (key.n == 0 && plain)
        return refuse(r, ERR_PARSE, &ev->start_mark, "a key is empty");
    if (str_eqz(key, "<<") && plain)
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "merge keys are not supported");
    if (map_get(&r->keys, hash, &seen) && key_known(o, key)) {
        snprintf(what, sizeof(what), "key \"%.*s\" comes twice", (int)MIN(key.n, (size_t)100),
                 key.p);
        return refuse(r, ERR_PARSE, &ev->start_mark, what);
    }
    if (!map_put(&r->keys, hash, 1))
        return refuse(r, ERR_NOMEM, &ev->start_mark, "no memory");
    o->key = arena_str(r->arena, key);
    if (o->key.p == NULL)
        return refuse(r, ERR_LIMIT, &ev->start_mark, "the file is too large");
    o->key_line = (uint32_t)ev->start_mark.line + 1;
    o->key_column = (uint32_t)ev->start_mark.column + 1;
    return 0;
}

/* A node of the event, linked where the innermost open collection wants it. */
static int node_new(struct reader *r, const yaml_event_t *ev, enum yaml_type type,
                    struct yaml_node **out)
{
    struct open_node *o = r->depth != 0 ? &r->open[r->depth - 1] : NULL;
    struct yaml_node *n = arena_try_zero(r->arena, 1, sizeof(*n));

    *out = n;
    if (n == NULL)
        return refuse(r, ERR_LIMIT, &ev->start_mark, "the file is too large");
    n->type = type;
    n->file = r->file;
    n->line = (uint32_t)ev->start_mark.line + 1;
    n->column = (uint32_t)ev->start_mark.column + 1;
    if (o == NULL) {
        r->root = n;
        return 0;
    }
    if (o->node->type == YAML_MAP) {
        n->key = o->key;
        n->key_line = o->key_line;
        n->key_column = o->key_column;
        o->key = STR_NONE;
    }
    *o->tail = n;
    o->tail = &n->next;
    o->node->count++;
    return 0;
}

static bool wants_key(const struct reader *r)
{
    const struct open_node *o = r->depth != 0 ? &r->open[r->depth - 1] : NULL;

    return o != NULL && o->node->type == YAML_MAP && o->key.p == NULL;
}

static int on_scalar(struct reader *r, const yaml_event_t *ev)
{
    struct str text = { (const char *)ev->data.scalar.value, ev->data.scalar.length };
    const char *tag = (const char *)ev->data.scalar.tag;
    struct yaml_node *n;
    int rc;

    if (ev->data.scalar.anchor != NULL)
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "anchors are not supported");
    if (tag != NULL && strcmp(tag, YAML_STR_TAG) != 0 && strcmp(tag, "!") != 0)
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "tags are not supported");
    if (memchr(text.p, 0, text.n) != NULL) /* "\0": what ends C strings is no configuration */
        return refuse(r, ERR_PARSE, &ev->start_mark, "a NUL character in text");
    if (wants_key(r))
        return take_key(r, ev);
    rc = node_new(r, ev, YAML_SCALAR, &n);
    if (rc != 0)
        return rc;
    n->quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || tag != NULL;
    n->text = arena_str(r->arena, text);
    return n->text.p != NULL ? 0 : refuse(r, ERR_LIMIT, &ev->start_mark, "the file is too large");
}

static int on_open(struct reader *r, const yaml_event_t *ev, enum yaml_type type, bool anchor,
                   bool tag)
{
    struct yaml_node *n;
    int rc;

    if (anchor)
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "anchors are not supported");
    if (tag)
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "tags are not supported");
    if (r->depth == YAML_DEPTH_MAX)
        return refuse(r, ERR_LIMIT, &ev->start_mark, "nested too deeply");
    if (wants_key(r))
        return refuse(r, ERR_PARSE, &ev->start_mark, "a key must be a scalar");
    rc = node_new(r, ev, type, &n);
    if (rc != 0)
        return rc;
    r->open[r->depth++] = (struct open_node) { .node = n, .tail = &n->first };
    return 0;
}

static int on_event(struct reader *r, const yaml_event_t *ev)
{
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        return r->root == NULL ? 0
                               : refuse(r, ERR_UNSUPPORTED, &ev->start_mark,
                                        "a second document is not supported");
    case YAML_ALIAS_EVENT:
        return refuse(r, ERR_UNSUPPORTED, &ev->start_mark, "aliases are not supported");
    case YAML_SCALAR_EVENT: return on_scalar(r, ev);
    case YAML_MAPPING_START_EVENT:
        return on_open(r, ev, YAML_MAP, ev->data.mapping_start.anchor != NULL,
                       ev->data.mapping_start.tag != NULL);
    case YAML_SEQUENCE_START_EVENT:
        return on_open(r, ev, YAML_LIST, ev->data.sequence_start.anchor != NULL,
                       ev->data.sequence_start.tag != NULL);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT: r->depth--; return 0;
    default: return 0;
    }
}

static int read_all(struct reader *r)
{
    yaml_event_t ev;
    bool ended;
    int rc;

    do {
        if (yaml_parser_parse(&r->parser, &ev) == 0)
            return broken(r);
        rc = on_event(r, &ev);
        ended = ev.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&ev);
    } while (rc == 0 && !ended);
    return rc;
}

int yaml_parse(struct arena *a, struct str src, const char *file, const struct yaml_node **out,
               struct err *e)
{
    struct reader r = { .arena = a, .file = file, .e = e };
    struct yaml_node *empty;
    int rc;

    *out = NULL;
    if (src.n > YAML_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "%s: larger than %zu bytes", file, YAML_BYTES_MAX);
    if (yaml_parser_initialize(&r.parser) == 0)
        return err_set(e, ERR_NOMEM, "%s: no memory", file);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING); /* no guessing of UTF-16 */
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(src.n != 0 ? src.p : ""),
                                 src.n);
    rc = read_all(&r);
    yaml_parser_delete(&r.parser);
    map_fini(&r.keys);
    if (rc == 0 && r.root == NULL) {
        empty = arena_alloc(a, sizeof(*empty));
        *empty = (struct yaml_node) {
            .type = YAML_SCALAR, .line = 1, .column = 1, .text = STR(""), .file = file
        };
        r.root = empty;
    }
    if (rc == 0)
        *out = r.root;
    return rc;
}

/* ---- asking ---- */

const struct yaml_node *yaml_get(const struct yaml_node *n, const char *key)
{
    if (!yaml_is(n, YAML_MAP))
        return NULL;
    for (const struct yaml_node *c = n->first; c != NULL; c = c->next)
        if (str_eqz(c->key, key))
            return c;
    return NULL;
}

const struct yaml_node *yaml_unknown(const struct yaml_node *n, const char *const *known)
{
    if (!yaml_is(n, YAML_MAP))
        return NULL;
    for (const struct yaml_node *c = n->first; c != NULL; c = c->next) {
        const char *const *k = known;

        while (*k != NULL && !str_eqz(c->key, *k))
            k++;
        if (*k == NULL)
            return c;
    }
    return NULL;
}

bool yaml_is(const struct yaml_node *n, enum yaml_type t)
{
    return n != NULL && n->type == t;
}

bool yaml_is_null(const struct yaml_node *n)
{
    static const char *const words[] = { "", "~", "null", "Null", "NULL" };

    return n == NULL || plain_in(n, words, COUNT(words));
}

bool yaml_str(const struct yaml_node *n, struct str *out)
{
    if (!yaml_is(n, YAML_SCALAR) || yaml_is_null(n))
        return false;
    *out = n->text;
    return true;
}

static bool in_base(struct str digits, unsigned base, uint64_t *out)
{
    uint64_t v = 0;

    if (digits.n == 0)
        return false;
    for (size_t i = 0; i < digits.n; i++) {
        char c = digits.p[i];
        unsigned d = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                     : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                            : 16;

        if (d >= base || v > (UINT64_MAX - d) / base)
            return false;
        v = v * base + d;
    }
    *out = v;
    return true;
}

/* Digits without a sign. */
static bool magnitude(struct str s, uint64_t *out)
{
    if (str_starts(s, STR("0x")))
        return in_base(str_sub(s, 2, SIZE_MAX), 16, out);
    if (str_starts(s, STR("0o")))
        return in_base(str_sub(s, 2, SIZE_MAX), 8, out);
    return !(s.n > 1 && s.p[0] == '0') && in_base(s, 10, out);
}

bool yaml_u64(const struct yaml_node *n, uint64_t *out)
{
    struct str s;

    if (!yaml_is(n, YAML_SCALAR) || n->quoted)
        return false;
    s = n->text;
    return magnitude(str_starts(s, STR("+")) ? str_sub(s, 1, SIZE_MAX) : s, out);
}

bool yaml_i64(const struct yaml_node *n, int64_t *out)
{
    uint64_t v;

    if (!yaml_is(n, YAML_SCALAR) || n->quoted)
        return false;
    if (str_starts(n->text, STR("-"))) {
        if (!magnitude(str_sub(n->text, 1, SIZE_MAX), &v) || v > (uint64_t)INT64_MAX + 1)
            return false;
        *out = v == (uint64_t)INT64_MAX + 1 ? INT64_MIN : -(int64_t)v;
        return true;
    }
    if (!yaml_u64(n, &v) || v > INT64_MAX)
        return false;
    *out = (int64_t)v;
    return true;
}

bool yaml_f64(const struct yaml_node *n, double *out)
{
    uint64_t natural;
    int64_t whole;
    struct str s;
    double d;

    if (!yaml_is(n, YAML_SCALAR) || n->quoted)
        return false;
    if (yaml_i64(n, &whole)) {
        *out = (double)whole;
        return true;
    }
    if (yaml_u64(n, &natural)) { /* above INT64_MAX, in base 16 and 8 too */
        *out = (double)natural;
        return true;
    }
    s = n->text;
    for (size_t i = 0; i < s.n; i++) /* neither hexadecimal floats nor names of infinities */
        if (strchr("0123456789.eE+-", s.p[i]) == NULL)
            return false;
    if (str_starts(s, STR("+")) || str_starts(s, STR("-")))
        s = str_sub(s, 1, SIZE_MAX);
    if (s.n > 1 && s.p[0] == '0' && s.p[1] >= '0' && s.p[1] <= '9') /* see yaml_u64 */
        return false;
    if (s.n == 0 || s.p[0] == '+' || s.p[0] == '-' || !str_f64(s, &d) || !isfinite(d))
        return false;
    *out = n->text.p[0] == '-' ? -d : d;
    return true;
}

bool yaml_bool(const struct yaml_node *n, bool *out)
{
    static const char *const yes[] = { "true", "True", "TRUE", "yes", "Yes", "YES",
                                       "on",   "On",   "ON",   "y",   "Y" };
    static const char *const no[] = { "false", "False", "FALSE", "no", "No", "NO",
                                      "off",   "Off",   "OFF",   "n",  "N" };

    if (!plain_in(n, yes, COUNT(yes)) && !plain_in(n, no, COUNT(no)))
        return false;
    *out = plain_in(n, yes, COUNT(yes));
    return true;
}

/* ---- complaining ---- */

int yaml_err(const struct yaml_node *n, struct err *e, const char *fmt, ...)
{
    char what[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return complain(e, ERR_PARSE, n->file, n->line, n->column, what);
}

int yaml_err_key(const struct yaml_node *n, struct err *e, const char *fmt, ...)
{
    bool member = n->key.p != NULL;
    char what[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return complain(e, ERR_PARSE, n->file, member ? n->key_line : n->line,
                    member ? n->key_column : n->column, what);
}
