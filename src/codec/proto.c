/* A cursor over protobuf fields, the check that runs before protobuf-c, and google.protobuf.Struct.
 *
 * protobuf-c does not look at UTF-8, lets wire types pass that do not fit, and allocates as the
 * bytes say.  So a message is walked once against its descriptor, and unpacked with an allocator
 * that ends at the arena's ceiling.
 *
 * Struct { repeated Entry fields = 1 }, Entry { string key = 1; Value value = 2 },
 * Value { oneof: null 1, number 2, string 3, bool 4, Struct 5, List 6 }, List { repeated Value 1 }
 */
// SPDX-License-Identifier: Apache-2.0
#include "codec/proto.h"
#include "codec/utf8.h"
#include <protobuf-c/protobuf-c.h>
#include <string.h>

#define VARINT_BYTES_MAX 10
#define NUMBER_MAX       ((1u << 29) - 1)

enum { STRUCT_FIELDS = 1, ENTRY_KEY = 1, ENTRY_VALUE = 2, LIST_VALUES = 1 };
enum {
    VALUE_NULL = 1,
    VALUE_NUMBER = 2,
    VALUE_STRING = 3,
    VALUE_BOOL = 4,
    VALUE_STRUCT = 5,
    VALUE_LIST = 6
};

/* ---- fields on the wire ---- */

static bool take_varint(struct str *in, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < in->n && i < VARINT_BYTES_MAX; i++) {
        unsigned char byte = (unsigned char)in->p[i];

        if (i == VARINT_BYTES_MAX - 1 && byte > 1)
            return false; /* more than 64 bits */
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if ((byte & 0x80) == 0) {
            *out = v;
            *in = str_sub(*in, i + 1, SIZE_MAX);
            return true;
        }
    }
    return false;
}

static bool take_fixed(struct str *in, size_t bytes, uint64_t *out)
{
    uint64_t v = 0;

    if (in->n < bytes)
        return false;
    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)(unsigned char)in->p[i] << (8 * i);
    *out = v;
    *in = str_sub(*in, bytes, SIZE_MAX);
    return true;
}

enum proto_step proto_next(struct str *in, struct proto_field *f)
{
    uint64_t tag, n;
    bool ok = false;

    *f = (struct proto_field) { 0 };
    if (in->n == 0)
        return PROTO_END;
    if (!take_varint(in, &tag) || (tag >> 3) == 0 || (tag >> 3) > NUMBER_MAX)
        return PROTO_BAD;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (enum proto_wire)(tag & 7);
    switch (f->wire) {
    case PROTO_VARINT: ok = take_varint(in, &f->varint); break;
    case PROTO_FIXED64: ok = take_fixed(in, 8, &f->varint); break;
    case PROTO_FIXED32: ok = take_fixed(in, 4, &f->varint); break;
    case PROTO_BYTES:
        ok = take_varint(in, &n) && n <= in->n;
        if (ok) {
            f->bytes = str_sub(*in, 0, (size_t)n);
            *in = str_sub(*in, (size_t)n, SIZE_MAX);
        }
        break;
    default: /* groups, and two numbers that mean nothing */ break;
    }
    return ok ? PROTO_FIELD : PROTO_BAD;
}

/* ---- messages ---- */

static enum proto_wire wire_of(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return PROTO_BYTES;
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64: return PROTO_FIXED64;
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32: return PROTO_FIXED32;
    default: return PROTO_VARINT;
    }
}

static bool text_valid(struct str s)
{
    return utf8_valid(s) && str_chr(s, 0) == SIZE_MAX;
}

static bool message_valid(const ProtobufCMessageDescriptor *type, struct str in, int depth)
{
    const ProtobufCFieldDescriptor *known;
    struct proto_field f;
    enum proto_step step;

    if (depth > PROTO_DEPTH_MAX)
        return false;
    while ((step = proto_next(&in, &f)) == PROTO_FIELD) {
        known = protobuf_c_message_descriptor_get_field(type, f.number);
        if (known == NULL)
            continue;
        if (f.wire != wire_of(known->type))
            return false;
        if (known->type == PROTOBUF_C_TYPE_STRING && !text_valid(f.bytes))
            return false;
        if (known->type == PROTOBUF_C_TYPE_MESSAGE &&
            !message_valid(known->descriptor, f.bytes, depth + 1))
            return false;
    }
    return step == PROTO_END;
}

static void *arena_get(void *arena, size_t size)
{
    return arena_try(arena, size);
}

static void arena_put(void *arena, void *p)
{
    (void)arena; /* dropped whole */
    (void)p;
}

int proto_unpack(const struct ProtobufCMessageDescriptor *type, struct str bytes, struct arena *a,
                 struct ProtobufCMessage **out)
{
    ProtobufCAllocator alloc = { arena_get, arena_put, a };

    *out = NULL;
    if (!message_valid(type, bytes, 1))
        return ERR_PARSE;
    *out = protobuf_c_message_unpack(type, &alloc, bytes.n, (const uint8_t *)bytes.p);
    return *out != NULL ? 0 : ERR_LIMIT;
}

bool proto_pack(const struct ProtobufCMessage *m, struct buf *out)
{
    size_t n = protobuf_c_message_get_packed_size(m);

    if (n == 0)
        return true;
    if (!buf_reserve(out, n))
        return false;
    out->len += protobuf_c_message_pack(m, (uint8_t *)out->p + out->len);
    return true;
}

/* ---- google.protobuf.Struct ---- */

static bool struct_valid(struct str s, int depth);

static bool list_valid(struct str s, int depth);

static bool value_valid(struct str in, int depth)
{
    static const enum proto_wire wires[] = {
        [VALUE_NULL] = PROTO_VARINT, [VALUE_NUMBER] = PROTO_FIXED64, [VALUE_STRING] = PROTO_BYTES,
        [VALUE_BOOL] = PROTO_VARINT, [VALUE_STRUCT] = PROTO_BYTES,   [VALUE_LIST] = PROTO_BYTES,
    };
    struct proto_field f;
    enum proto_step step;

    while ((step = proto_next(&in, &f)) == PROTO_FIELD) {
        if (f.number > VALUE_LIST)
            continue;
        if (f.wire != wires[f.number])
            return false;
        if (f.number == VALUE_STRING && !utf8_valid(f.bytes))
            return false;
        if (f.number == VALUE_STRUCT && !struct_valid(f.bytes, depth + 1))
            return false;
        if (f.number == VALUE_LIST && !list_valid(f.bytes, depth + 1))
            return false;
    }
    return step == PROTO_END;
}

static bool list_valid(struct str in, int depth)
{
    struct proto_field f;
    enum proto_step step;

    if (depth > PROTO_DEPTH_MAX)
        return false;
    while ((step = proto_next(&in, &f)) == PROTO_FIELD)
        if (f.number == LIST_VALUES && (f.wire != PROTO_BYTES || !value_valid(f.bytes, depth)))
            return false;
    return step == PROTO_END;
}

static bool entry_valid(struct str in, int depth)
{
    struct proto_field f;
    enum proto_step step;

    while ((step = proto_next(&in, &f)) == PROTO_FIELD) {
        if (f.number == ENTRY_KEY && (f.wire != PROTO_BYTES || !utf8_valid(f.bytes)))
            return false;
        if (f.number == ENTRY_VALUE && (f.wire != PROTO_BYTES || !value_valid(f.bytes, depth)))
            return false;
    }
    return step == PROTO_END;
}

static bool struct_valid(struct str in, int depth)
{
    struct proto_field f;
    enum proto_step step;

    if (depth > PROTO_DEPTH_MAX)
        return false;
    while ((step = proto_next(&in, &f)) == PROTO_FIELD)
        if (f.number == STRUCT_FIELDS && (f.wire != PROTO_BYTES || !entry_valid(f.bytes, depth)))
            return false;
    return step == PROTO_END;
}

bool proto_struct_valid(struct str s)
{
    return struct_valid(s, 1);
}

/* Of a oneof, the last one counts. */
static struct proto_value read_value(struct str in)
{
    struct proto_value v = { .kind = PROTO_NULL };
    struct proto_field f;

    while (proto_next(&in, &f) == PROTO_FIELD) {
        switch (f.number) {
        case VALUE_NULL: v = (struct proto_value) { .kind = PROTO_NULL }; break;
        case VALUE_NUMBER:
            v = (struct proto_value) { .kind = PROTO_NUMBER };
            memcpy(&v.number, &f.varint, sizeof(v.number));
            break;
        case VALUE_BOOL:
            v = (struct proto_value) { .kind = PROTO_BOOL, .is_true = f.varint != 0 };
            break;
        case VALUE_STRING:
            v = (struct proto_value) { .kind = PROTO_STRING, .bytes = f.bytes };
            break;
        case VALUE_STRUCT:
            v = (struct proto_value) { .kind = PROTO_STRUCT, .bytes = f.bytes };
            break;
        case VALUE_LIST: v = (struct proto_value) { .kind = PROTO_LIST, .bytes = f.bytes }; break;
        default: break;
        }
    }
    return v;
}

bool proto_struct_get(struct str s, const char *key, struct proto_value *out)
{
    struct proto_field f, part;
    bool found = false;

    *out = (struct proto_value) { .kind = PROTO_NULL };
    while (proto_next(&s, &f) == PROTO_FIELD) {
        struct str name = STR_NONE, value = STR_NONE, entry = f.bytes;

        if (f.number != STRUCT_FIELDS)
            continue;
        while (proto_next(&entry, &part) == PROTO_FIELD) {
            if (part.number == ENTRY_KEY)
                name = part.bytes;
            else if (part.number == ENTRY_VALUE)
                value = part.bytes;
        }
        if (!str_eqz(name, key))
            continue;
        *out = read_value(value);
        found = true;
    }
    return found;
}

bool proto_list_next(struct str *list, struct proto_value *out)
{
    struct proto_field f;

    while (proto_next(list, &f) == PROTO_FIELD)
        if (f.number == LIST_VALUES) {
            *out = read_value(f.bytes);
            return true;
        }
    return false;
}

static size_t varint_bytes(uint64_t v)
{
    size_t n = 1;

    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

static void put_varint(struct buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        buf_c(b, (char)(v | 0x80));
    buf_c(b, (char)v);
}

static void put_tag(struct buf *b, uint32_t number, enum proto_wire wire)
{
    put_varint(b, number << 3 | wire);
}

static void put_bytes(struct buf *b, uint32_t number, struct str s)
{
    put_tag(b, number, PROTO_BYTES);
    put_varint(b, s.n);
    buf_str(b, s);
}

/* The head of an entry whose value takes value_bytes; the value's bytes follow. */
static void open_entry(struct buf *b, struct str key, size_t value_bytes)
{
    size_t entry = 1 + varint_bytes(key.n) + key.n + 1 + varint_bytes(value_bytes) + value_bytes;

    put_tag(b, STRUCT_FIELDS, PROTO_BYTES);
    put_varint(b, entry);
    put_bytes(b, ENTRY_KEY, key);
    put_tag(b, ENTRY_VALUE, PROTO_BYTES);
    put_varint(b, value_bytes);
}

void proto_struct_put_string(struct buf *b, struct str key, struct str value)
{
    open_entry(b, key, 1 + varint_bytes(value.n) + value.n);
    put_bytes(b, VALUE_STRING, value);
}

void proto_struct_put_struct(struct buf *b, struct str key, struct str value)
{
    open_entry(b, key, 1 + varint_bytes(value.n) + value.n);
    put_bytes(b, VALUE_STRUCT, value);
}

void proto_struct_put_number(struct buf *b, struct str key, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    open_entry(b, key, 1 + sizeof(bits));
    put_tag(b, VALUE_NUMBER, PROTO_FIXED64);
    for (size_t i = 0; i < sizeof(bits); i++)
        buf_c(b, (char)(bits >> (8 * i)));
}
