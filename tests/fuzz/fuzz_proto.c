/* Protobuf bytes as fields, as a Struct and as a message: what is valid can be walked, a message
 * that was unpacked packs and unpacks again to the same bytes, and nothing grows past its arena. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/proto.h"
#include "codec/proto/ext_proc.pb-c.h"

#define ARENA_MAX ((size_t)256 << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(struct str s)
{
    struct proto_value v, item;

    if (!proto_struct_valid(s))
        return;
    (void)proto_struct_get(s, "x-gateway-destination-endpoint-subset", &v);
    (void)proto_struct_get(s, "d", &v);
    if (v.kind == PROTO_LIST)
        while (proto_list_next(&v.bytes, &item))
            ASSERT(item.bytes.n <= s.n);
}

/* The message, or a part of it, packed anew: every field that we know of. */
static bool repack(struct str bytes, struct buf *out)
{
    ProtobufCMessage *m;
    struct arena a;
    int rc;

    arena_init(&a, ARENA_MAX);
    rc = proto_unpack(&pb__ext__processing_request__descriptor, bytes, &a, &m);
    if (rc == 0)
        ASSERT(proto_pack(m, out));
    ASSERT(a.used <= ARENA_MAX);
    arena_fini(&a);
    return rc == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str bytes = { (const char *)data, size }, rest = bytes;
    struct buf once, twice;
    struct proto_field f;

    while (proto_next(&rest, &f) == PROTO_FIELD)
        ASSERT(f.number != 0 && f.bytes.n <= size && rest.n < size);
    walk(bytes);
    buf_init(&once, 4 << 20);
    buf_init(&twice, 4 << 20);
    if (repack(bytes, &once) && repack(buf_view(&once), &twice))
        ASSERT(str_eq(buf_view(&once), buf_view(&twice)));
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
