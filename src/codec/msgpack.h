/* codec/msgpack.h - MessagePack cursor and writer.
 *
 * The cursor never allocates: it walks bytes in place, checks every length
 * against what is left, and skips values without recursion deeper than 16.
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_MSGPACK_H
#define CODEC_MSGPACK_H
#include "base/buf.h"
#include "base/err.h"

enum mp_type {
    MP_NIL,
    MP_BOOL,
    MP_UINT,
    MP_INT,
    MP_FLOAT,
    MP_STR,
    MP_BIN,
    MP_ARRAY,
    MP_MAP,
    MP_EXT
};

struct mp_value {
    enum mp_type type;
    union {
        bool b;
        uint64_t u; /* MP_UINT */
        int64_t i;  /* MP_INT: negative */
        double f;
        struct str s; /* MP_STR, MP_BIN, MP_EXT: borrowed */
        uint32_t n;   /* MP_ARRAY: items; MP_MAP: pairs; the items follow */
    } as;
};

struct mp_cursor {
    const uint8_t *p, *end;
};

void mp_init(struct mp_cursor *c, struct str bytes);
int mp_next(struct mp_cursor *c, struct mp_value *out) MUST_CHECK; /* 0, ERR_PARSE */
int mp_skip(struct mp_cursor *c) MUST_CHECK;                       /* one whole value */

void mp_w_nil(struct buf *b);
void mp_w_bool(struct buf *b, bool v);
void mp_w_uint(struct buf *b, uint64_t v); /* shortest form */
void mp_w_int(struct buf *b, int64_t v);
void mp_w_f64(struct buf *b, double v);
void mp_w_str(struct buf *b, struct str s);
void mp_w_bin(struct buf *b, const void *p, size_t n);
void mp_w_array(struct buf *b, uint32_t n);
void mp_w_map(struct buf *b, uint32_t n);
#endif
