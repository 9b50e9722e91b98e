/* codec/yaml.h - YAML reader for configuration files: libyaml's events into a tree in an arena.
 *
 * One document of block or flow style; JSON is YAML, so a JSON file reads the same (only escapes of
 * surrogate pairs are refused).  Refused with a place: a second document, anchors, aliases, merge
 * keys ("<<"), tags other than !!str, keys that are no scalar or come twice in one map, nesting
 * over YAML_DEPTH_MAX, more than YAML_BYTES_MAX bytes, bytes that are no UTF-8.
 *
 * Scalars keep their characters; what a plain one means is decided by the asking: yaml_u64 of
 * `8080`, yaml_bool of `true`, yaml_str of either.  A quoted one (also |, > and !!str) is text and
 * nothing else.  Every node knows its file, line and column, and yaml_err puts them before a
 * complaint:  `keys.yaml:12:7: unknown key "tennant"`.
 *
 * The tree borrows `file` and owns nothing outside the arena; src may go.
 * Threads: pure functions of their arguments.  Up to some 100 ms for a hostile file of full size:
 * at start or on a thread that may take that long. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_YAML_H
#define CODEC_YAML_H
#include "base/arena.h"
#include "base/err.h"

#define YAML_BYTES_MAX ((size_t)1 << 20)
#define YAML_DEPTH_MAX 32

enum yaml_type { YAML_SCALAR, YAML_MAP, YAML_LIST };

struct yaml_node {
    enum yaml_type type;
    bool quoted;           /* scalars: never a number, a boolean or null */
    uint32_t count;        /* children */
    uint32_t line, column; /* of the value, from 1 */
    uint32_t key_line, key_column;
    struct str text;               /* scalars, decoded, NUL-ended */
    struct str key;                /* member name, NUL-ended; p == NULL outside maps */
    const struct yaml_node *first; /* first child, in the order of the file */
    const struct yaml_node *next;  /* next sibling */
    const char *file;
};

/* Parses src; an empty document is a null scalar.  file: for the messages, borrowed by the tree.
 * Returns 0, ERR_PARSE, ERR_UNSUPPORTED (anchors and their kin), ERR_LIMIT (size, depth, or the
 * arena's ceiling) or ERR_NOMEM; *e says FILE:LINE:COL: what. */
int yaml_parse(struct arena *a, struct str src, const char *file, const struct yaml_node **out,
               struct err *e) MUST_CHECK;

/* Member by name, or NULL; n may be NULL or no map. */
const struct yaml_node *yaml_get(const struct yaml_node *n, const char *key);
/* The first member whose key is not in the NULL-ended list, or NULL: for "unknown key". */
const struct yaml_node *yaml_unknown(const struct yaml_node *n, const char *const *known);

bool yaml_is(const struct yaml_node *n, enum yaml_type t); /* false for NULL */
/* Absent, or plain: nothing, ~, null (also Null, NULL). */
bool yaml_is_null(const struct yaml_node *n);

/* Each is false, and leaves *out, when the node is absent or not of that kind. */
/* Any scalar but null: a plain 1.10 is the text "1.10". */
bool yaml_str(const struct yaml_node *n, struct str *out);
/* Plain decimal, 0x or 0o.  A leading zero (010) means two things in two YAMLs and is refused. */
bool yaml_u64(const struct yaml_node *n, uint64_t *out);
bool yaml_i64(const struct yaml_node *n, int64_t *out);
/* Plain and finite. */
bool yaml_f64(const struct yaml_node *n, double *out);
/* Plain true, false and, as Go's readers take them, yes, no, on, off, y, n; each also Capitalised
 * or in CAPITALS. */
bool yaml_bool(const struct yaml_node *n, bool *out);

/* Fills *e with FILE:LINE:COL and the sentence; returns ERR_PARSE.  yaml_err_key points at the
 * member's name instead of its value. */
int yaml_err(const struct yaml_node *n, struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int yaml_err_key(const struct yaml_node *n, struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#endif
