// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define CAP_MIN 256

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf) { .max = max };
}

void buf_fini(struct buf *b)
{
    mem_free(b->p);
    *b = (struct buf) { .max = b->max };
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool buf_reserve(struct buf *b, size_t n)
{
    size_t need, cap;
    char *p;

    if (b->failed)
        return false;
    if (!size_add(b->len, n, &need) || need > b->max) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap)
        return true;
    cap = MAX(b->cap, (size_t)CAP_MIN);
    while (cap < need)
        cap = cap > b->max / 2 ? b->max : cap * 2;
    p = mem_try_realloc(b->p, cap);
    if (p == NULL) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

bool buf_add(struct buf *b, const void *p, size_t n)
{
    if (!buf_reserve(b, n))
        return false;
    if (n != 0)
        memcpy(b->p + b->len, p, n);
    b->len += n;
    return true;
}

bool buf_str(struct buf *b, struct str s)
{
    return buf_add(b, s.p, s.n);
}

bool buf_z(struct buf *b, const char *z)
{
    return buf_add(b, z, strlen(z));
}

bool buf_c(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

bool buf_vf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && buf_reserve(b, (size_t)n + 1)) {
        vsnprintf(b->p + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    return !b->failed;
}

bool buf_f(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    bool ok;

    va_start(ap, fmt);
    ok = buf_vf(b, fmt, ap);
    va_end(ap);
    return ok;
}

void buf_drop(struct buf *b, size_t n)
{
    ASSERT(n <= b->len);
    b->len -= n;
    if (n != 0 && b->len != 0)
        memmove(b->p, b->p + n, b->len);
}

struct str buf_view(const struct buf *b)
{
    return (struct str) { b->p, b->len };
}

char *buf_take(struct buf *b, size_t *len)
{
    char *p = b->p;

    *len = b->len;
    *b = (struct buf) { .max = b->max };
    return p;
}
