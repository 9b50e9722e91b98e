/* codec/utf8.h - UTF-8 decoding and checking (RFC 3629: no surrogates, no overlong forms). */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_UTF8_H
#define CODEC_UTF8_H
#include "base/buf.h"

#define UTF8_BAD 0xFFFFFFFFu

/* Decodes one code point at s.p[0]; *len is its bytes (1 for a bad byte, then UTF8_BAD). */
uint32_t utf8_next(struct str s, size_t *len);
size_t utf8_put(char out[4], uint32_t cp); /* bytes written; surrogates become U+FFFD */
bool utf8_valid(struct str s);
/* Length of the longest prefix that does not end inside a character (bad bytes count as whole). */
size_t utf8_complete(struct str s);
/* Appends s, each maximal bad sequence replaced by U+FFFD (as Python's errors="replace"). */
bool utf8_lossy(struct buf *out, struct str s);
#endif
