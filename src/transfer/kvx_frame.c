/* KVX frames.  Header fields are rows of one table: encoder and decoder walk it. */
// SPDX-License-Identifier: Apache-2.0
#include "transfer/kvx_frame.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/msgpack.h"
#include <string.h>

#define MANIFEST_BYTES_MAX ((size_t)65536 * (BLOCKKEY_BYTES + 4))

static const struct {
    const char *name;
    size_t at, bytes; /* bytes 0: an unsigned integer */
} fields[KVX_F_COUNT_OF] = {
    [KVX_F_PROTO] = { "proto", offsetof(struct kvx_header, proto), 0 },
    [KVX_F_EPOCH] = { "epoch", offsetof(struct kvx_header, epoch), 0 },
    [KVX_F_FINGERPRINT] = { "fingerprint", offsetof(struct kvx_header, fingerprint), 32 },
    [KVX_F_BLOCK_BYTES] = { "block_bytes", offsetof(struct kvx_header, block_bytes), 0 },
    [KVX_F_BLOCK_TOKENS] = { "block_tokens", offsetof(struct kvx_header, block_tokens), 0 },
    [KVX_F_TRANSFER] = { "transfer", offsetof(struct kvx_header, transfer), 16 },
    [KVX_F_ATTEMPT] = { "attempt", offsetof(struct kvx_header, attempt), 0 },
    [KVX_F_FIRST] = { "first", offsetof(struct kvx_header, first), 0 },
    [KVX_F_COUNT] = { "count", offsetof(struct kvx_header, count), 0 },
    [KVX_F_INDEX] = { "index", offsetof(struct kvx_header, index), 0 },
    [KVX_F_SEQ] = { "seq", offsetof(struct kvx_header, seq), 0 },
    [KVX_F_PARTS] = { "parts", offsetof(struct kvx_header, parts), 0 },
    [KVX_F_KEY] = { "key", offsetof(struct kvx_header, key), BLOCKKEY_BYTES },
    [KVX_F_CRC] = { "crc32c", offsetof(struct kvx_header, crc), 0 },
    [KVX_F_LATE] = { "late", offsetof(struct kvx_header, late), 0 },
    [KVX_F_DIGEST] = { "digest", offsetof(struct kvx_header, digest), 16 },
    [KVX_F_CODE] = { "code", offsetof(struct kvx_header, code), 0 },
};

static void le_put(char *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(v >> (8 * i));
}

static uint64_t le_get(const char *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)(uint8_t)p[i] << (8 * i);
    return v;
}

void kvx_frame_put(struct buf *b, enum kvx_type type, const struct kvx_header *h,
                   uint64_t body_bytes)
{
    size_t start = b->len, head_bytes;
    char fixed[KVX_FIXED_BYTES] = { 'K', 'V', 'X', '1' };
    uint32_t crc;

    buf_add(b, fixed, sizeof(fixed));
    mp_w_map(b, (uint32_t)__builtin_popcount(h->has));
    for (size_t i = 0; i < KVX_F_COUNT_OF; i++) {
        const char *at = (const char *)h + fields[i].at;

        if (!KVX_HAS(h, i))
            continue;
        mp_w_str(b, str_of(fields[i].name));
        if (fields[i].bytes != 0)
            mp_w_bin(b, at, fields[i].bytes);
        else
            mp_w_uint(b, *(const uint64_t *)(const void *)at);
    }
    if (b->failed)
        return;
    head_bytes = b->len - start - KVX_FIXED_BYTES;
    le_put(fixed + 4, type, 2);
    le_put(fixed + 8, head_bytes, 4);
    le_put(fixed + 16, body_bytes, 8);
    crc = hash_crc32c(0, fixed, 24);
    crc = hash_crc32c(crc, b->p + start + KVX_FIXED_BYTES, head_bytes);
    le_put(fixed + 24, crc, 4);
    memcpy(b->p + start, fixed, sizeof(fixed));
}

static int field_parse(struct mp_cursor *c, struct kvx_header *out)
{
    struct mp_value key, v;
    int rc = mp_next(c, &key);

    if (rc != 0 || key.type != MP_STR)
        return ERR_PARSE;
    for (size_t i = 0; i < KVX_F_COUNT_OF; i++) {
        char *at = (char *)out + fields[i].at;

        if (!str_eqz(key.as.s, fields[i].name))
            continue;
        if (mp_next(c, &v) != 0)
            return ERR_PARSE;
        if (fields[i].bytes != 0) {
            if (v.type != MP_BIN || v.as.s.n != fields[i].bytes)
                return ERR_PARSE;
            memcpy(at, v.as.s.p, v.as.s.n);
        } else {
            if (v.type != MP_UINT)
                return ERR_PARSE;
            *(uint64_t *)(void *)at = v.as.u;
        }
        out->has |= 1u << i;
        return 0;
    }
    return mp_skip(c); /* a field of a later version */
}

static int header_parse(struct str bytes, struct kvx_header *out)
{
    struct mp_cursor c;
    struct mp_value map;

    *out = (struct kvx_header) { 0 };
    mp_init(&c, bytes);
    if (mp_next(&c, &map) != 0 || map.type != MP_MAP)
        return ERR_PARSE;
    for (uint32_t i = 0; i < map.as.n; i++)
        if (field_parse(&c, out) != 0)
            return ERR_PARSE;
    return c.p == c.end ? 0 : ERR_PARSE;
}

void kvx_reader_init(struct kvx_reader *r, uint64_t body_max)
{
    *r = (struct kvx_reader) { .body_max = MIN(body_max, KVX_BODY_BYTES_MAX),
                               .need = KVX_FIXED_BYTES };
    buf_init(&r->head, KVX_FIXED_BYTES + KVX_HEADER_BYTES_MAX);
}

void kvx_reader_fini(struct kvx_reader *r)
{
    buf_fini(&r->head);
    mem_free(r->body);
    r->body = NULL;
}

/* The fixed part is here: how long is the header? */
static int fixed_check(struct kvx_reader *r)
{
    uint64_t head_bytes = le_get(r->head.p + 8, 4);

    if (memcmp(r->head.p, "KVX1", 4) != 0)
        return ERR_PARSE;
    if (head_bytes > KVX_HEADER_BYTES_MAX)
        return ERR_LIMIT;
    r->body_bytes = le_get(r->head.p + 16, 8);
    if (r->body_bytes > r->body_max)
        return ERR_LIMIT;
    r->need = KVX_FIXED_BYTES + (size_t)head_bytes;
    return 0;
}

/* Fixed part and header are here: check them and make room for the body. */
static int head_done(struct kvx_reader *r)
{
    struct str header = { r->head.p + KVX_FIXED_BYTES, r->head.len - KVX_FIXED_BYTES };
    uint32_t crc = hash_crc32c(hash_crc32c(0, r->head.p, 24), header.p, header.n);

    if (crc != (uint32_t)le_get(r->head.p + 24, 4))
        return ERR_MISMATCH;
    r->frame = (struct kvx_frame) { .type = (uint16_t)le_get(r->head.p + 4, 2),
                                    .flags = (uint16_t)le_get(r->head.p + 6, 2) };
    if (header_parse(header, &r->frame.header) != 0)
        return ERR_PARSE;
    r->body_have = 0;
    r->in_body = true;
    if (r->body_bytes != 0) {
        mem_free(r->body);
        r->body = mem_try((size_t)r->body_bytes);
        if (r->body == NULL)
            return ERR_NOMEM;
    }
    return 0;
}

int kvx_reader_feed(struct kvx_reader *r, struct str bytes,
                    int (*on_frame)(void *ctx, const struct kvx_frame *f), void *ctx)
{
    int rc;

    for (;;) {
        size_t n;

        if (!r->in_body) {
            n = MIN(bytes.n, r->need - r->head.len);
            if (!buf_add(&r->head, bytes.p, n))
                return ERR_NOMEM;
            bytes = str_sub(bytes, n, SIZE_MAX);
            if (r->head.len < r->need)
                return 0;
            if (r->need == KVX_FIXED_BYTES) {
                rc = fixed_check(r);
                if (rc != 0)
                    return rc;
                if (r->head.len < r->need)
                    continue;
            }
            rc = head_done(r);
            if (rc != 0)
                return rc;
        }
        n = (size_t)MIN((uint64_t)bytes.n, r->body_bytes - r->body_have);
        if (n != 0)
            memcpy(r->body + r->body_have, bytes.p, n);
        r->body_have += n;
        bytes = str_sub(bytes, n, SIZE_MAX);
        if (r->body_have < r->body_bytes)
            return 0;
        r->frame.body = (struct str) { r->body, (size_t)r->body_bytes };
        r->in_body = false;
        r->need = KVX_FIXED_BYTES;
        buf_reset(&r->head);
        rc = on_frame(ctx, &r->frame);
        if (rc != 0)
            return rc;
        if (bytes.n == 0)
            return 0;
    }
}

void kvx_manifest_init(struct kvx_manifest *m)
{
    buf_init(&m->acc, MANIFEST_BYTES_MAX);
}

void kvx_manifest_add(struct kvx_manifest *m, const uint8_t key[BLOCKKEY_BYTES], uint32_t crc)
{
    char c[4];

    le_put(c, crc, 4);
    buf_add(&m->acc, key, BLOCKKEY_BYTES);
    buf_add(&m->acc, c, 4);
}

void kvx_manifest_digest(const struct kvx_manifest *m, uint8_t out[16])
{
    uint8_t all[32];

    hash_sha256(m->acc.p, m->acc.len, all);
    memcpy(out, all, 16);
}

void kvx_manifest_fini(struct kvx_manifest *m)
{
    buf_fini(&m->acc);
}
