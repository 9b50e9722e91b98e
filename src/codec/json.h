/* codec/json.h - JSON (RFC 8259) reader into an arena, and a writer into a buf.
 *
 * The reader keeps the span of every value in the source, so that a proxy can
 * edit one value in place, and numbers as text, so that 64-bit integers are
 * never rounded.  Strings are decoded (escapes, surrogates) into the arena, or
 * borrowed from the source when they hold no escape: the source must outlive
 * the tree.  Duplicate keys: the last wins in json_get; json_limits can refuse
 * them.  Invalid UTF-8 is refused.
 * Threads: pure functions of their arguments. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_JSON_H
#define CODEC_JSON_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum json_type {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

struct json {
    enum json_type type;
    uint32_t count;           /* items of an array, members of an object */
    struct str text;          /* number: its characters; string: decoded */
    struct str key;           /* decoded member name; p == NULL outside objects */
    struct str span;          /* the bytes of this value in the source */
    const struct json *first; /* first child */
    const struct json *next;  /* next sibling */
};

struct json_limits {
    uint32_t depth_max;   /* 0 = 64 */
    uint32_t values_max;  /* 0 = 2,000,000 */
    uint32_t members_max; /* of one object; 0 = 10,000 */
    bool refuse_duplicates;
    uint32_t decode_depth_max; /* strings and names nested deeper keep their escapes, and neither
                                  these nor UTF-8 are checked there; 0 = all are decoded */
};

/* Parses the whole of src (trailing blanks allowed).  limits may be NULL.
 * Returns 0, ERR_PARSE (e says line, column and what), or ERR_LIMIT. */
int json_parse(struct arena *a, struct str src, const struct json_limits *limits,
               const struct json **out, struct err *e) MUST_CHECK;

/* Member by name (the last of duplicates), or NULL; j may be NULL or no object. */
const struct json *json_get(const struct json *j, const char *key);
const struct json *json_at(const struct json *j, size_t index); /* O(index) */
bool json_is(const struct json *j, enum json_type t);           /* false for NULL */
bool json_bool(const struct json *j, bool *out);
bool json_i64(const struct json *j, int64_t *out); /* only an integer literal that fits */
bool json_u64(const struct json *j, uint64_t *out);
bool json_f64(const struct json *j, double *out);
bool json_str(const struct json *j, struct str *out);

/* The writer puts commas by itself.  Depth at most 64. */
struct json_w {
    struct buf *b;
    uint64_t has_item; /* bit per depth */
    unsigned depth;
    bool after_key;
};

void json_w_init(struct json_w *w, struct buf *b);
void json_w_obj(struct json_w *w);
void json_w_arr(struct json_w *w);
void json_w_end(struct json_w *w, char close); /* '}' or ']' */
void json_w_key(struct json_w *w, struct str key);
void json_w_str(struct json_w *w, struct str s); /* invalid UTF-8 becomes U+FFFD */
void json_w_i64(struct json_w *w, int64_t v);
void json_w_u64(struct json_w *w, uint64_t v);
void json_w_f64(struct json_w *w, double v); /* shortest that reads back; NaN, inf: null */
void json_w_bool(struct json_w *w, bool v);
void json_w_null(struct json_w *w);
void json_w_raw(struct json_w *w, struct str s); /* s is JSON already */
/* key and value in one call. */
void json_w_kstr(struct json_w *w, const char *key, struct str s);
void json_w_kz(struct json_w *w, const char *key, const char *z);
void json_w_ki64(struct json_w *w, const char *key, int64_t v);
void json_w_ku64(struct json_w *w, const char *key, uint64_t v);
void json_w_kf64(struct json_w *w, const char *key, double v);
void json_w_kbool(struct json_w *w, const char *key, bool v);
void json_w_knull(struct json_w *w, const char *key);
void json_w_kobj(struct json_w *w, const char *key);
void json_w_karr(struct json_w *w, const char *key);
void json_w_kraw(struct json_w *w, const char *key, struct str s);
#endif
