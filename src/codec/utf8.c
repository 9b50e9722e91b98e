/* UTF-8: every function walks utf8_step(), which knows the well-formed sequences of RFC 3629;
 * runs of ASCII are skipped eight bytes at a time. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/utf8.h"
#include "codec/utf8_priv.h"
#include <string.h>

#define HIGH_BITS 0x8080808080808080u

/* First byte at or after p that is not ASCII, or end. */
static const uint8_t *skip_ascii(const uint8_t *p, const uint8_t *end)
{
    uint64_t w;

    while ((size_t)(end - p) >= sizeof(w)) {
        memcpy(&w, p, sizeof(w));
        if ((w & HIGH_BITS) != 0)
            break;
        p += sizeof(w);
    }
    while (p < end && *p < 0x80)
        p++;
    return p;
}

uint32_t utf8_next(struct str s, size_t *len)
{
    const uint8_t *p = (const uint8_t *)s.p;
    size_t n, bad;

    if (s.n == 0) {
        *len = 0;
        return UTF8_BAD;
    }
    n = utf8_step(p, p + s.n, &bad);
    *len = n != 0 ? n : 1;
    switch (n) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    case 3: return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    case 4:
        return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
               (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    default: return UTF8_BAD;
    }
}

size_t utf8_put(char out[4], uint32_t cp)
{
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        cp = 0xfffd;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

bool utf8_valid(struct str s)
{
    const uint8_t *p = (const uint8_t *)s.p, *end;
    size_t n, bad;

    if (s.n == 0)
        return true;
    end = p + s.n;
    while ((p = skip_ascii(p, end)) < end) {
        n = utf8_step(p, end, &bad);
        if (n == 0)
            return false;
        p = utf8_skip_wide(p + n, end);
    }
    return true;
}

size_t utf8_complete(struct str s)
{
    const uint8_t *p = (const uint8_t *)s.p;
    size_t bad;

    /* Only a lead byte among the last three can begin a character that is not all there; it is
     * cut off only when what follows it is well-formed as far as it goes. */
    for (size_t back = 1; back <= 3 && back <= s.n; back++) {
        const uint8_t *at = p + s.n - back;

        if ((*at & 0xc0) == 0x80)
            continue;
        if (*at < 0xc2 || *at > 0xf4 || utf8_step(at, p + s.n, &bad) != 0 || bad != back)
            return s.n;
        return s.n - back;
    }
    return s.n;
}

bool utf8_lossy(struct buf *out, struct str s)
{
    const uint8_t *p = (const uint8_t *)s.p, *end, *from = p;
    size_t n, bad = 1;

    if (s.n == 0)
        return !out->failed;
    end = p + s.n;
    while ((p = skip_ascii(p, end)) < end) {
        n = utf8_step(p, end, &bad);
        if (n == 0) {
            buf_add(out, from, (size_t)(p - from));
            buf_add(out, "\xef\xbf\xbd", 3);
            n = bad;
            from = p + n;
        }
        p += n;
    }
    return buf_add(out, from, (size_t)(end - from));
}
