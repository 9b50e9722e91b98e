// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"
#include "base/check.h"
#include "base/mem.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NUMBER_CHARS_MAX 64

struct str str_of(const char *z)
{
    return z != NULL ? (struct str) { z, strlen(z) } : STR_NONE;
}

bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool str_eqz(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}

bool str_ieq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || strncasecmp(a.p, b.p, a.n) == 0);
}

bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && str_eq(str_sub(s, 0, prefix.n), prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && str_eq(str_sub(s, s.n - suffix.n, suffix.n), suffix);
}

int str_cmp(struct str a, struct str b)
{
    size_t n = MIN(a.n, b.n);
    int c = n != 0 ? memcmp(a.p, b.p, n) : 0;

    return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.n != 0 && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n != 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

struct str str_sub(struct str s, size_t from, size_t n)
{
    from = MIN(from, s.n);
    return (struct str) { s.p != NULL ? s.p + from : NULL, MIN(n, s.n - from) };
}

size_t str_find(struct str s, struct str needle)
{
    const char *at;

    if (needle.n == 0)
        return 0;
    at = s.n != 0 ? memmem(s.p, s.n, needle.p, needle.n) : NULL;
    return at != NULL ? (size_t)(at - s.p) : SIZE_MAX;
}

size_t str_chr(struct str s, char c)
{
    const char *at = s.n != 0 ? memchr(s.p, c, s.n) : NULL;

    return at != NULL ? (size_t)(at - s.p) : SIZE_MAX;
}

struct str str_cut(struct str *rest, char sep)
{
    size_t at = str_chr(*rest, sep);
    struct str head = *rest;

    if (at == SIZE_MAX) {
        *rest = STR_NONE;
        return head;
    }
    head.n = at;
    *rest = str_sub(*rest, at + 1, SIZE_MAX);
    return head;
}

bool str_u64(struct str s, uint64_t *out)
{
    uint64_t v = 0;

    if (s.n == 0 || s.n > 20)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned d = (unsigned)(unsigned char)s.p[i] - '0';

        if (d > 9 || __builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)d, &v))
            return false;
    }
    *out = v;
    return true;
}

bool str_i64(struct str s, int64_t *out)
{
    bool neg = s.n != 0 && s.p[0] == '-';
    uint64_t v;

    if (!str_u64(neg ? str_sub(s, 1, SIZE_MAX) : s, &v))
        return false;
    if (v > (uint64_t)INT64_MAX + (neg ? 1 : 0))
        return false;
    *out = neg ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

bool str_f64(struct str s, double *out)
{
    char tmp[NUMBER_CHARS_MAX + 1], *end;
    double v;

    if (s.n == 0 || s.n > NUMBER_CHARS_MAX || is_blank(s.p[0]))
        return false;
    memcpy(tmp, s.p, s.n);
    tmp[s.n] = 0;
    v = strtod(tmp, &end);
    if (end != tmp + s.n || !isfinite(v))
        return false;
    *out = v;
    return true;
}

char *str_dup(struct str s)
{
    char *z = mem_alloc(s.n + 1);

    if (s.n != 0)
        memcpy(z, s.p, s.n);
    z[s.n] = 0;
    return z;
}

uint64_t str_hash(struct str s)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ s.n;

    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}
