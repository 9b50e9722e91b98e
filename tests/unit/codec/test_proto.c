/* Protobuf: what is refused before protobuf-c sees it, and google.protobuf.Struct against bytes
 * that Python's protobuf wrote. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "codec/proto.h"
#include "codec/proto/ext_proc.pb-c.h"
#include "codec/proto/health.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static struct str hex(struct buf *b, const char *text)
{
    buf_init(b, 1 << 16);
    for (; text[0] != 0; text += 2) {
        unsigned v = 0;

        for (int i = 0; i < 2; i++)
            v = v * 16 + (unsigned)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
        buf_c(b, (char)v);
    }
    return buf_view(b);
}

/* {"x-gateway-destination-endpoint-subset": ["10.0.0.1:80", 5.0, "10.0.0.2:80"]} */
#define SUBSET                                                                                     \
    "0a540a25782d676174657761792d64657374696e6174696f6e2d656e64706f696e742d737562736574122b32290a" \
    "0d1a0b31302e302e302e313a38300a091100000000000014400a0d1a0b31302e302e302e323a3830"
/* {"a": null, "b": true, "c": 1.5, "d": {"e": "f"}, "g": ["h", false]} */
#define MIXED                                                                                      \
    "0a070a0161120208000a070a0162120220010a0e0a0163120911000000000000f83f0a110a0164120c2a0a0a080a" \
    "016512031a01660a100a0167120b32090a031a01680a022000"

static void pythons_structs_are_read(void **state)
{
    struct proto_value v, item;
    struct buf a, b;
    struct str s;

    (void)state;
    s = hex(&a, SUBSET);
    assert_true(proto_struct_valid(s));
    assert_true(proto_struct_get(s, "x-gateway-destination-endpoint-subset", &v));
    assert_int_equal(v.kind, PROTO_LIST);
    assert_true(proto_list_next(&v.bytes, &item) && str_eqz(item.bytes, "10.0.0.1:80"));
    assert_true(proto_list_next(&v.bytes, &item) && item.kind == PROTO_NUMBER);
    assert_true(item.number == 5.0);
    assert_true(proto_list_next(&v.bytes, &item) && str_eqz(item.bytes, "10.0.0.2:80"));
    assert_false(proto_list_next(&v.bytes, &item));
    s = hex(&b, MIXED);
    assert_true(proto_struct_valid(s));
    assert_true(proto_struct_get(s, "a", &v) && v.kind == PROTO_NULL);
    assert_true(proto_struct_get(s, "b", &v) && v.kind == PROTO_BOOL && v.is_true);
    assert_true(proto_struct_get(s, "c", &v) && v.kind == PROTO_NUMBER && v.number == 1.5);
    assert_true(proto_struct_get(s, "d", &v) && v.kind == PROTO_STRUCT);
    assert_true(proto_struct_get(v.bytes, "e", &item) && str_eqz(item.bytes, "f"));
    assert_false(proto_struct_get(s, "z", &v));
    for (size_t n = 1; n < s.n; n++) /* a cut is seen wherever it does not fall between members */
        assert_int_equal(proto_struct_valid(str_sub(s, 0, n)),
                         n == 9 || n == 18 || n == 34 || n == 53);
    buf_fini(&a);
    buf_fini(&b);
}

/* {"k": "v"}, {"k": 0.5}, {"k": {"k": "v"}} as Python writes them */
static void structs_are_written_as_python_writes_them(void **state)
{
    struct buf got, want, inner;

    (void)state;
    buf_init(&got, 1000);
    buf_init(&inner, 1000);
    proto_struct_put_string(&got, STR("k"), STR("v"));
    proto_struct_put_number(&got, STR("k"), 0.5);
    proto_struct_put_string(&inner, STR("k"), STR("v"));
    proto_struct_put_struct(&got, STR("k"), buf_view(&inner));
    (void)hex(&want, "0a080a016b12031a0176"
                     "0a0e0a016b120911000000000000e03f"
                     "0a110a016b120c2a0a0a080a016b12031a0176");
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.p, want.p, want.len);
    buf_fini(&got);
    buf_fini(&want);
    buf_fini(&inner);
}

/* depth nested structs, written from the inside. */
static bool nested_valid(size_t depth)
{
    struct buf a, b;
    bool ok;

    buf_init(&a, 16 << 20);
    buf_init(&b, 16 << 20);
    for (size_t i = 1; i < depth; i++) {
        struct buf t = a;

        buf_reset(&b);
        proto_struct_put_struct(&b, STR("k"), buf_view(&a));
        a = b;
        b = t;
    }
    ok = proto_struct_valid(buf_view(&a));
    buf_fini(&a);
    buf_fini(&b);
    return ok;
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    assert_true(nested_valid(1));
    assert_true(nested_valid(32));
    assert_false(nested_valid(33));
    assert_false(nested_valid(2000));
}

static const struct {
    const char *hex;
    enum proto_step step;
    uint64_t value;
} fields[] = {
    { "0801", PROTO_FIELD, 1 },
    { "08ffffffffffffffffff01", PROTO_FIELD, UINT64_MAX },
    { "08ffffffffffffffffff02", PROTO_BAD, 0 },   /* the 65th bit */
    { "08ffffffffffffffffffff01", PROTO_BAD, 0 }, /* 11 bytes */
    { "0880808080808080808000", PROTO_FIELD, 0 }, /* long-winded, but 64 bits */
    { "08", PROTO_BAD, 0 },
    { "0880", PROTO_BAD, 0 },
    { "0d01000000", PROTO_FIELD, 1 },
    { "0d010000", PROTO_BAD, 0 },
    { "090100000000000080", PROTO_FIELD, 0x8000000000000001 },
    { "0901000000000000", PROTO_BAD, 0 },
    { "0a00", PROTO_FIELD, 0 },
    { "0a0261", PROTO_BAD, 0 },
    { "0affffffffffffffffff0161", PROTO_BAD, 0 },
    { "0b0c", PROTO_BAD, 0 }, /* a group */
    { "0c", PROTO_BAD, 0 },   /* the end of one */
    { "0e00", PROTO_BAD, 0 }, /* wire type 6 */
    { "0001", PROTO_BAD, 0 }, /* field 0 */
    { "f8ffffff0f01", PROTO_FIELD, 1 },
    { "808080801001", PROTO_BAD, 0 }, /* field 2^29 */
    { "", PROTO_END, 0 },
};

static void fields_are_taken_or_refused(void **state)
{
    struct proto_field f;
    struct buf b;

    (void)state;
    for (size_t i = 0; i < COUNT(fields); i++) {
        struct str in = hex(&b, fields[i].hex);
        enum proto_step step = proto_next(&in, &f);

        if (step != fields[i].step || (step == PROTO_FIELD && f.varint != fields[i].value))
            fail_msg("%s: step %d value %llx", fields[i].hex, (int)step,
                     (unsigned long long)f.varint);
        buf_fini(&b);
    }
}

static const struct {
    const char *hex;
    int rc;
} requests[] = {
    { "", 0 },
    { "0a0161", 0 },
    { "0a02c3bc", 0 },
    { "0a01ff", ERR_PARSE },       /* not UTF-8 */
    { "0a0100", ERR_PARSE },       /* NUL: a C string would end there */
    { "0801", ERR_PARSE },         /* a string as a number */
    { "0a0561", ERR_PARSE },       /* past the end */
    { "1005", 0 },                 /* unknown */
    { "1205ff00ff00ff", 0 },       /* unknown bytes are not looked into */
    { "1b1c", ERR_PARSE },         /* but groups are not skipped */
    { "12ffffffff7f", ERR_PARSE }, /* unknown, past the end */
};

static void messages_are_checked_first(void **state)
{
    ProtobufCMessage *m;
    struct arena a;
    struct buf b;

    (void)state;
    for (size_t i = 0; i < COUNT(requests); i++) {
        arena_init(&a, 64 << 10);
        if (proto_unpack(&pb__health__check_request__descriptor, hex(&b, requests[i].hex), &a,
                         &m) != requests[i].rc)
            fail_msg("case %s", requests[i].hex);
        buf_fini(&b);
        arena_fini(&a);
    }
}

/* 200,000 empty headers in 400 KB of a valid message want 20 MB and more. */
static void small_parts_do_not_grow_past_the_arena(void **state)
{
    struct buf headers, map, m;
    ProtobufCMessage *out;
    struct arena a;

    (void)state;
    buf_init(&headers, 1 << 20);
    buf_init(&map, 1 << 20);
    buf_init(&m, 1 << 20);
    for (int i = 0; i < 200000; i++)
        buf_add(&headers, "\x0a\x00", 2);
    buf_add(&map, "\x0a\x80\xb5\x18", 4); /* HttpHeaders.headers of 400,000 */
    buf_str(&map, buf_view(&headers));
    buf_add(&m, "\x12\x84\xb5\x18", 4); /* request_headers of 400,004 */
    buf_str(&m, buf_view(&map));
    arena_init(&a, 2 << 20);
    assert_int_equal(proto_unpack(&pb__ext__processing_request__descriptor, buf_view(&m), &a, &out),
                     ERR_LIMIT);
    assert_null(out);
    assert_true(a.used <= 2 << 20);
    arena_fini(&a);
    buf_fini(&headers);
    buf_fini(&map);
    buf_fini(&m);
}

/* By hand from upstream's numbers: {request_headers {headers {:method raw GET} end_of_stream},
 * observability}
 */
static void upstreams_numbers_are_ours(void **state)
{
    const Pb__Ext__ProcessingRequest *r;
    ProtobufCMessage *m;
    struct arena a;
    struct buf b;

    (void)state;
    arena_init(&a, 64 << 10);
    assert_int_equal(
        proto_unpack(&pb__ext__processing_request__descriptor,
                     hex(&b, "12140a100a0e0a073a6d6574686f641a03474554180150015a020804"), &a, &m),
        0);
    r = (const Pb__Ext__ProcessingRequest *)m;
    assert_int_equal(r->request_case, PB__EXT__PROCESSING_REQUEST__REQUEST_REQUEST_HEADERS);
    assert_true(r->request_headers->end_of_stream);
    assert_int_equal(r->request_headers->headers->n_headers, 1);
    assert_string_equal(r->request_headers->headers->headers[0]->key, ":method");
    assert_memory_equal(r->request_headers->headers->headers[0]->raw_value.data, "GET", 3);
    assert_true(r->observability_mode);
    arena_fini(&a);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pythons_structs_are_read),
        cmocka_unit_test(structs_are_written_as_python_writes_them),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(fields_are_taken_or_refused),
        cmocka_unit_test(messages_are_checked_first),
        cmocka_unit_test(small_parts_do_not_grow_past_the_arena),
        cmocka_unit_test(upstreams_numbers_are_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
