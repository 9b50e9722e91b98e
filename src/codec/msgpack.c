/* MessagePack (the public format page of 2017): a head byte says type and how
 * many bytes of length follow.
 *
 * A container's count is checked against the bytes that are left, one byte an
 * item being the least, so a few bytes can never make a reader reserve much.
 * Skipping keeps a count of the values still owed instead of a stack. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/msgpack.h"
#include <string.h>

void mp_init(struct mp_cursor *c, struct str bytes)
{
    c->p = bytes.p != NULL ? (const uint8_t *)bytes.p : (const uint8_t *)"";
    c->end = c->p + bytes.n;
}

/* n big-endian bytes (1, 2, 4, 8) at *p; false when they are not all there. */
static bool take(const uint8_t **p, const uint8_t *end, unsigned n, uint64_t *out)
{
    uint64_t v = 0;

    if ((size_t)(end - *p) < n)
        return false;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | (*p)[i];
    *p += n;
    *out = v;
    return true;
}

static bool take_bytes(const uint8_t **p, const uint8_t *end, uint64_t n, struct mp_value *out)
{
    if ((uint64_t)(end - *p) < n)
        return false;
    out->as.s = (struct str) { (const char *)*p, (size_t)n };
    *p += n;
    return true;
}

static bool count_fits(const uint8_t *p, const uint8_t *end, uint64_t items, uint64_t each)
{
    return items * each <= (uint64_t)(end - p); /* items < 2^32 */
}

static void set_signed(struct mp_value *out, uint64_t v, unsigned bytes)
{
    unsigned shift = 64 - 8 * bytes;
    int64_t i = (int64_t)(v << shift) >> shift;

    if (i < 0) {
        out->type = MP_INT;
        out->as.i = i;
    } else {
        out->type = MP_UINT;
        out->as.u = (uint64_t)i;
    }
}

static bool set_float(struct mp_value *out, uint64_t v, unsigned bytes)
{
    uint32_t low = (uint32_t)v;
    float f;

    out->type = MP_FLOAT;
    if (bytes == 4) {
        memcpy(&f, &low, sizeof(f));
        out->as.f = (double)f;
    } else {
        memcpy(&out->as.f, &v, sizeof(v));
    }
    return true;
}

static bool set_container(struct mp_value *out, enum mp_type type, uint64_t n, const uint8_t *p,
                          const uint8_t *end)
{
    out->type = type;
    out->as.n = (uint32_t)n;
    return count_fits(p, end, n, type == MP_MAP ? 2 : 1);
}

/* Heads 0xc0 .. 0xdf. */
static bool long_form(uint8_t h, const uint8_t **p, const uint8_t *end, struct mp_value *out)
{
    uint64_t v;
    unsigned n;

    switch (h) {
    case 0xc0: out->type = MP_NIL; return true;
    case 0xc2:
    case 0xc3:
        out->type = MP_BOOL;
        out->as.b = h == 0xc3;
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        out->type = MP_BIN;
        return take(p, end, 1u << (h - 0xc4), &v) && take_bytes(p, end, v, out);
    case 0xc7:
    case 0xc8:
    case 0xc9: /* length, then a type byte that nothing here needs */
        out->type = MP_EXT;
        return take(p, end, 1u << (h - 0xc7), &v) && take(p, end, 1, &(uint64_t) { 0 }) &&
               take_bytes(p, end, v, out);
    case 0xca:
    case 0xcb: n = h == 0xca ? 4 : 8; return take(p, end, n, &v) && set_float(out, v, n);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf: out->type = MP_UINT; return take(p, end, 1u << (h - 0xcc), &out->as.u);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        n = 1u << (h - 0xd0);
        if (!take(p, end, n, &v))
            return false;
        set_signed(out, v, n);
        return true;
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        out->type = MP_EXT;
        return take(p, end, 1, &(uint64_t) { 0 }) &&
               take_bytes(p, end, (uint64_t)1 << (h - 0xd4), out);
    case 0xd9:
    case 0xda:
    case 0xdb:
        out->type = MP_STR;
        return take(p, end, 1u << (h - 0xd9), &v) && take_bytes(p, end, v, out);
    case 0xdc:
    case 0xdd:
        return take(p, end, h == 0xdc ? 2 : 4, &v) && set_container(out, MP_ARRAY, v, *p, end);
    case 0xde:
    case 0xdf: return take(p, end, h == 0xde ? 2 : 4, &v) && set_container(out, MP_MAP, v, *p, end);
    default: return false; /* 0xc1 was never given a meaning */
    }
}

int mp_next(struct mp_cursor *c, struct mp_value *out)
{
    const uint8_t *p = c->p;
    uint8_t h;
    bool ok = true;

    if (p == c->end)
        return ERR_PARSE;
    h = *p++;
    if (h < 0x80) {
        out->type = MP_UINT;
        out->as.u = h;
    } else if (h < 0x90) {
        ok = set_container(out, MP_MAP, h & 0x0f, p, c->end);
    } else if (h < 0xa0) {
        ok = set_container(out, MP_ARRAY, h & 0x0f, p, c->end);
    } else if (h < 0xc0) {
        out->type = MP_STR;
        ok = take_bytes(&p, c->end, h & 0x1f, out);
    } else if (h < 0xe0) {
        ok = long_form(h, &p, c->end, out);
    } else {
        out->type = MP_INT;
        out->as.i = (int8_t)h;
    }
    if (!ok)
        return ERR_PARSE;
    c->p = p;
    return 0;
}

int mp_skip(struct mp_cursor *c)
{
    struct mp_cursor at = *c;
    struct mp_value v;
    uint64_t owed = 1; /* below bytes * 2^33: cannot overflow */

    while (owed != 0) {
        if (mp_next(&at, &v) != 0)
            return ERR_PARSE;
        owed--;
        if (v.type == MP_ARRAY)
            owed += v.as.n;
        else if (v.type == MP_MAP)
            owed += (uint64_t)v.as.n * 2;
    }
    *c = at;
    return 0;
}

static void put(struct buf *b, uint8_t head, uint64_t v, unsigned bytes)
{
    uint8_t tmp[9] = { head };

    for (unsigned i = 0; i < bytes; i++)
        tmp[1 + i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
    buf_add(b, tmp, 1 + bytes);
}

void mp_w_nil(struct buf *b)
{
    put(b, 0xc0, 0, 0);
}

void mp_w_bool(struct buf *b, bool v)
{
    put(b, v ? 0xc3 : 0xc2, 0, 0);
}

void mp_w_uint(struct buf *b, uint64_t v)
{
    if (v < 0x80)
        put(b, (uint8_t)v, 0, 0);
    else if (v <= UINT8_MAX)
        put(b, 0xcc, v, 1);
    else if (v <= UINT16_MAX)
        put(b, 0xcd, v, 2);
    else if (v <= UINT32_MAX)
        put(b, 0xce, v, 4);
    else
        put(b, 0xcf, v, 8);
}

void mp_w_int(struct buf *b, int64_t v)
{
    if (v >= 0)
        mp_w_uint(b, (uint64_t)v);
    else if (v >= -32)
        put(b, (uint8_t)v, 0, 0);
    else if (v >= INT8_MIN)
        put(b, 0xd0, (uint64_t)v, 1);
    else if (v >= INT16_MIN)
        put(b, 0xd1, (uint64_t)v, 2);
    else if (v >= INT32_MIN)
        put(b, 0xd2, (uint64_t)v, 4);
    else
        put(b, 0xd3, (uint64_t)v, 8);
}

void mp_w_f64(struct buf *b, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof(bits));
    put(b, 0xcb, bits, 8);
}

/* Head and length of a text or of bytes; past 2^32 - 1 there is no form. */
static void put_sized(struct buf *b, size_t n, uint8_t one, uint8_t two, uint8_t four)
{
    if (n <= UINT8_MAX)
        put(b, one, n, 1);
    else if (n <= UINT16_MAX)
        put(b, two, n, 2);
    else if (n <= UINT32_MAX)
        put(b, four, n, 4);
    else
        b->failed = true;
}

void mp_w_str(struct buf *b, struct str s)
{
    if (s.n < 32)
        put(b, (uint8_t)(0xa0 | s.n), 0, 0);
    else
        put_sized(b, s.n, 0xd9, 0xda, 0xdb);
    buf_str(b, s);
}

void mp_w_bin(struct buf *b, const void *p, size_t n)
{
    put_sized(b, n, 0xc4, 0xc5, 0xc6);
    buf_add(b, p, n);
}

void mp_w_array(struct buf *b, uint32_t n)
{
    if (n < 16)
        put(b, (uint8_t)(0x90 | n), 0, 0);
    else if (n <= UINT16_MAX)
        put(b, 0xdc, n, 2);
    else
        put(b, 0xdd, n, 4);
}

void mp_w_map(struct buf *b, uint32_t n)
{
    if (n < 16)
        put(b, (uint8_t)(0x80 | n), 0, 0);
    else if (n <= UINT16_MAX)
        put(b, 0xde, n, 2);
    else
        put(b, 0xdf, n, 4);
}
