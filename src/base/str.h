/* base/str.h - borrowed text: a pointer and a length, not NUL-ended.
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_STR_H
#define BASE_STR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct str {
    const char *p;
    size_t n;
};

#define STR(lit) ((struct str) { (lit), sizeof(lit) - 1 })
#define STR_NONE ((struct str) { NULL, 0 })
/* For printf's "%.*s". */
#define STR_ARG(s) (int)((s).n > 0x7fffffff ? 0x7fffffff : (s).n), (s).p != NULL ? (s).p : ""

struct str str_of(const char *z); /* NULL gives STR_NONE */
bool str_eq(struct str a, struct str b);
bool str_eqz(struct str a, const char *z);
bool str_ieq(struct str a, struct str b); /* ASCII case folded */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
int str_cmp(struct str a, struct str b);
struct str str_trim(struct str s);                       /* ASCII space, tab, CR, LF */
struct str str_sub(struct str s, size_t from, size_t n); /* clamped */
/* Index of the first occurrence, or SIZE_MAX. */
size_t str_find(struct str s, struct str needle);
size_t str_chr(struct str s, char c);
/* Cuts *rest at the first sep: returns the part before it, *rest is what follows.
 * Without a sep the whole is returned and *rest is empty with p == NULL. */
struct str str_cut(struct str *rest, char sep);
/* Whole string must be the number; no sign for u64; false otherwise or on overflow. */
bool str_u64(struct str s, uint64_t *out);
bool str_i64(struct str s, int64_t *out);
bool str_f64(struct str s, double *out);
char *str_dup(struct str s); /* heap, NUL-ended, owned by the caller */
uint64_t str_hash(struct str s);
#endif
