/* codec/utf8_priv.h - one step of UTF-8 checking, inlined into the scanners of this module. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_UTF8_PRIV_H
#define CODEC_UTF8_PRIV_H
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed character at p (p < end), or 0.  On 0, *bad is the length of the
 * maximal ill-formed part (Unicode 15, table 3-7): what one U+FFFD stands for. */
static inline size_t utf8_step(const uint8_t *p, const uint8_t *end, size_t *bad)
{
    uint8_t c = p[0], low = 0x80, high = 0xbf;
    size_t need;

    if (c < 0x80)
        return 1;
    *bad = 1;
    if (c < 0xc2 || c > 0xf4)
        return 0;
    need = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (c == 0xe0)
        low = 0xa0; /* overlong */
    else if (c == 0xed)
        high = 0x9f; /* surrogates */
    else if (c == 0xf0)
        low = 0x90; /* overlong */
    else if (c == 0xf4)
        high = 0x8f; /* above U+10FFFF */
    for (size_t i = 1; i < need; i++) {
        if ((size_t)(end - p) <= i || p[i] < low || p[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

/* Skips well-formed characters of two and three bytes; stops at whatever needs a closer look. */
static inline const uint8_t *utf8_skip_wide(const uint8_t *p, const uint8_t *end)
{
    while (end - p >= 3) {
        if ((p[0] & 0xf0) == 0xe0 && p[0] != 0xe0 && p[0] != 0xed && (p[1] & 0xc0) == 0x80 &&
            (p[2] & 0xc0) == 0x80)
            p += 3;
        else if (p[0] >= 0xc2 && p[0] < 0xe0 && (p[1] & 0xc0) == 0x80)
            p += 2;
        else
            break;
    }
    return p;
}
#endif
