/* base/buf.h - a growable byte buffer with a ceiling set where it is created.
 *
 * Once an append would pass the ceiling (or memory is refused) nothing is added
 * and the buffer is marked failed: writers append freely, check once at the end.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_BUF_H
#define BASE_BUF_H
#include "base/str.h"
#include <stdarg.h>

struct buf {
    char *p;
    size_t len, cap, max;
    bool failed; /* an append was refused */
};

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);
void buf_reset(struct buf *b); /* keeps memory; clears failed */
/* Room for n more bytes at b->p + b->len; the caller then raises len.  false = refused. */
bool buf_reserve(struct buf *b, size_t n);
bool buf_add(struct buf *b, const void *p, size_t n);
bool buf_str(struct buf *b, struct str s);
bool buf_z(struct buf *b, const char *z);
bool buf_c(struct buf *b, char c);
bool buf_f(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool buf_vf(struct buf *b, const char *fmt, va_list ap);
void buf_drop(struct buf *b, size_t n); /* removes n bytes from the front */
struct str buf_view(const struct buf *b);
/* Moves the bytes out (owned by the caller, mem_free); the buffer is empty afterwards. */
char *buf_take(struct buf *b, size_t *len);
#endif
