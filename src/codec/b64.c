// SPDX-License-Identifier: Apache-2.0
#include "codec/b64.h"
#include <string.h>

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

struct str base64_encode(struct arena *a, struct str bytes)
{
    char *out = arena_alloc(a, (bytes.n + 2) / 3 * 4 + 1);
    size_t n = 0;

    for (size_t i = 0; i < bytes.n; i += 3) {
        size_t left = bytes.n - i;
        uint32_t v = (uint32_t)(uint8_t)bytes.p[i] << 16;

        v |= left > 1 ? (uint32_t)(uint8_t)bytes.p[i + 1] << 8 : 0;
        v |= left > 2 ? (uint32_t)(uint8_t)bytes.p[i + 2] : 0;
        out[n++] = ALPHABET[v >> 18];
        out[n++] = ALPHABET[v >> 12 & 63];
        out[n++] = left > 1 ? ALPHABET[v >> 6 & 63] : '=';
        out[n++] = left > 2 ? ALPHABET[v & 63] : '=';
    }
    return (struct str) { out, n };
}

struct str base64_decode(struct arena *a, struct str text)
{
    uint32_t v = 0, bits = 0;
    size_t n = 0, pad = 0;
    char *out;

    while (pad < 2 && text.n > pad && text.p[text.n - 1 - pad] == '=')
        pad++;
    out = text.n == 0 || text.n % 4 != 0 ? NULL : arena_try(a, text.n / 4 * 3 + 1);
    if (out == NULL)
        return STR_NONE;
    for (size_t i = 0; i < text.n - pad; i++) {
        const char *at = memchr(ALPHABET, text.p[i], sizeof(ALPHABET) - 1);

        if (at == NULL)
            return STR_NONE;
        v = v << 6 | (uint32_t)(at - ALPHABET);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[n++] = (char)(v >> bits & 255);
        }
    }
    return (struct str) { out, n };
}
