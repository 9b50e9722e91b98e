/* KVX frames: known bytes, one answer however they arrive, and everything that must be refused. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "transfer/kvx_frame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct seen {
    int frames;
    uint16_t type;
    struct kvx_header h;
    char body[64];
    size_t body_n;
};

static int on_frame(void *ctx, const struct kvx_frame *f)
{
    struct seen *s = ctx;

    s->frames++;
    s->type = f->type;
    s->h = f->header;
    s->body_n = f->body.n;
    if (f->body.n != 0)
        memcpy(s->body, f->body.p, MIN(f->body.n, sizeof(s->body)));
    return 0;
}

static void put_data(struct buf *b)
{
    struct kvx_header h = { .has = 1u << KVX_F_INDEX | 1u << KVX_F_SEQ | 1u << KVX_F_KEY |
                                   1u << KVX_F_CRC | 1u << KVX_F_TRANSFER,
                            .index = 300,
                            .seq = 2,
                            .crc = 0xfedcba98 };

    memset(h.key, 7, sizeof(h.key));
    memset(h.transfer, 9, sizeof(h.transfer));
    kvx_frame_put(b, KVX_DATA, &h, 5);
    buf_z(b, "block");
}

/* The layout of docs/protocols/kvx.md, byte for byte: a PING has an empty map as header.  The
 * checksum is CRC-32C of bytes 0..23 and 0x80, computed with an independent implementation. */
static void ping_is_these_bytes(void **state)
{
    static const uint8_t want[] = { 'K', 'V', 'X', '1', 15, 0, 0, 0, 1, 0, 0, 0,
                                    0,   0,   0,   0,   0,  0, 0, 0, 0, 0, 0, 0 };
    struct kvx_header none = { 0 };
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    kvx_frame_put(&b, KVX_PING, &none, 0);
    assert_int_equal(b.len, KVX_FIXED_BYTES + 1);
    assert_memory_equal(b.p, want, sizeof(want));
    assert_int_equal((uint8_t)b.p[KVX_FIXED_BYTES], 0x80);
    assert_memory_equal(b.p + 24, "\x98\xe7\x16\xf5", 4);
    buf_fini(&b);
}

static void one_answer_at_every_cut(void **state)
{
    struct kvx_header none = { 0 };
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    put_data(&b);
    kvx_frame_put(&b, KVX_PING, &none, 0);
    for (size_t cut = 0; cut <= b.len; cut++) {
        struct seen s = { 0 };
        struct kvx_reader r;

        kvx_reader_init(&r, 5);
        assert_int_equal(kvx_reader_feed(&r, (struct str) { b.p, cut }, on_frame, &s), 0);
        assert_int_equal(kvx_reader_feed(&r, (struct str) { b.p + cut, b.len - cut }, on_frame, &s),
                         0);
        assert_int_equal(s.frames, 2);
        assert_int_equal(s.type, KVX_PING);
        kvx_reader_fini(&r);
    }
    buf_fini(&b);
}

static void fields_come_back(void **state)
{
    struct seen s = { 0 };
    struct kvx_reader r;
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    put_data(&b);
    kvx_reader_init(&r, 5);
    assert_int_equal(kvx_reader_feed(&r, buf_view(&b), on_frame, &s), 0);
    assert_int_equal(s.h.index, 300);
    assert_int_equal(s.h.crc, 0xfedcba98);
    assert_true(KVX_HAS(&s.h, KVX_F_KEY) && !KVX_HAS(&s.h, KVX_F_DIGEST));
    assert_int_equal(s.h.key[31], 7);
    assert_int_equal(s.body_n, 5);
    assert_memory_equal(s.body, "block", 5);
    kvx_reader_fini(&r);
    buf_fini(&b);
}

/* Any flipped bit of fixed part or header is refused; so are bodies past the ceiling. */
static void damage_is_refused(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    put_data(&b);
    for (size_t bit = 0; bit < (b.len - 5) * 8; bit++) {
        struct seen s = { 0 };
        struct kvx_reader r;
        int rc;

        b.p[bit / 8] = (char)(b.p[bit / 8] ^ (1 << bit % 8));
        kvx_reader_init(&r, 5);
        rc = kvx_reader_feed(&r, buf_view(&b), on_frame, &s);
        assert_true(rc != 0 || s.frames == 0); /* a longer length only waits for more */
        kvx_reader_fini(&r);
        b.p[bit / 8] = (char)(b.p[bit / 8] ^ (1 << bit % 8));
    }
    {
        struct seen s = { 0 };
        struct kvx_reader r;

        kvx_reader_init(&r, 4);
        assert_int_equal(kvx_reader_feed(&r, buf_view(&b), on_frame, &s), ERR_LIMIT);
        kvx_reader_fini(&r);
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ping_is_these_bytes),
        cmocka_unit_test(one_answer_at_every_cut),
        cmocka_unit_test(fields_come_back),
        cmocka_unit_test(damage_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
