/* Fuzz: walking value by value and skipping must end at the same byte, and what was read is written
 * again in the shortest form and reads back alike. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/msgpack.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_head(struct buf *b, const struct mp_value *v)
{
    switch (v->type) {
    case MP_NIL: mp_w_nil(b); break;
    case MP_BOOL: mp_w_bool(b, v->as.b); break;
    case MP_UINT: mp_w_uint(b, v->as.u); break;
    case MP_INT: mp_w_int(b, v->as.i); break;
    case MP_FLOAT: mp_w_f64(b, v->as.f); break;
    case MP_STR: mp_w_str(b, v->as.s); break;
    case MP_BIN:
    case MP_EXT: mp_w_bin(b, v->as.s.p, v->as.s.n); break;
    case MP_ARRAY: mp_w_array(b, v->as.n); break;
    case MP_MAP: mp_w_map(b, v->as.n); break;
    }
}

static bool same(const struct mp_value *a, const struct mp_value *b)
{
    switch (a->type) {
    case MP_NIL: return b->type == MP_NIL;
    case MP_BOOL: return b->type == MP_BOOL && a->as.b == b->as.b;
    case MP_FLOAT: return b->type == MP_FLOAT && memcmp(&a->as.f, &b->as.f, sizeof(a->as.f)) == 0;
    case MP_UINT:
    case MP_INT: return b->type == a->type && a->as.u == b->as.u;
    case MP_STR: return b->type == MP_STR && str_eq(a->as.s, b->as.s);
    case MP_BIN:
    case MP_EXT: return b->type == MP_BIN && str_eq(a->as.s, b->as.s);
    case MP_ARRAY:
    case MP_MAP: return b->type == a->type && a->as.n == b->as.n;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mp_cursor walk, skip, back;
    struct mp_value v, w;
    uint64_t owed = 1;
    struct buf b;
    int rc = 0;

    mp_init(&walk, (struct str) { (const char *)data, size });
    skip = walk;
    buf_init(&b, (size_t)64 << 20);
    while (rc == 0 && owed != 0) {
        rc = mp_next(&walk, &v);
        if (rc != 0)
            break;
        owed--;
        owed += v.type == MP_ARRAY ? v.as.n : v.type == MP_MAP ? (uint64_t)v.as.n * 2 : 0;
        write_head(&b, &v);
    }
    ASSERT((mp_skip(&skip) == 0) == (rc == 0));
    if (rc == 0) {
        ASSERT(walk.p == skip.p);
        mp_init(&back, buf_view(&b));
        mp_init(&walk, (struct str) { (const char *)data, size });
        while (walk.p != skip.p) {
            ASSERT(mp_next(&walk, &v) == 0 && mp_next(&back, &w) == 0);
            ASSERT(same(&v, &w));
        }
        ASSERT(back.p == back.end);
    }
    buf_fini(&b);
    return 0;
}
