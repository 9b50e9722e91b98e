/* Block keys: a hash over (parent, tokens, extras), the list written as canonical
 * CBOR (RFC 7049, section 3.9: definite lengths, shortest heads) or, for the
 * xxh64 index keys, as plain little-endian integers.
 *
 * The bytes of one block go through a small buffer on the stack (`feed`), which
 * holds a usual block whole: one call of the hash.  Longer ones are streamed. */
// SPDX-License-Identifier: Apache-2.0
#define XXH_INLINE_ALL
#include "codec/blockkey.h"
#include "base/check.h"
#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

#define FEED_BYTES 1024 /* 16 tokens take at most 120 */
#define FNV_BASIS  0xcbf29ce484222325u
#define FNV_PRIME  0x100000001b3u

enum cbor_major { CBOR_UINT = 0, CBOR_BYTES = 2, CBOR_TEXT = 3, CBOR_ARRAY = 4, CBOR_MAP = 5 };
#define CBOR_NULL 0xf6

enum feed_kind { FEED_SHA256, FEED_XXH64, FEED_FNV };

struct feed {
    enum feed_kind kind;
    bool is_streaming; /* the buffer was flushed at least once */
    size_t n;
    EVP_MD_CTX *sha;
    uint64_t fnv;
    XXH64_state_t xxh;
    uint8_t b[FEED_BYTES];
};

static void feed_init(struct feed *f, enum feed_kind kind)
{
    f->kind = kind;
    f->is_streaming = false;
    f->n = 0;
    f->sha = NULL;
    f->fnv = FNV_BASIS;
}

static uint64_t fnv(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * FNV_PRIME;
    return h;
}

static void feed_flush(struct feed *f)
{
    bool first = !f->is_streaming;

    f->is_streaming = true;
    switch (f->kind) {
    case FEED_SHA256:
        if (first) {
            f->sha = EVP_MD_CTX_new();
            ASSERT(f->sha != NULL && EVP_DigestInit_ex(f->sha, EVP_sha256(), NULL) == 1);
        }
        ASSERT(EVP_DigestUpdate(f->sha, f->b, f->n) == 1);
        break;
    case FEED_XXH64:
        if (first)
            XXH64_reset(&f->xxh, 0);
        XXH64_update(&f->xxh, f->b, f->n);
        break;
    case FEED_FNV: f->fnv = fnv(f->fnv, f->b, f->n); break;
    }
    f->n = 0;
}

static void feed_bytes(struct feed *f, const void *p, size_t n)
{
    const uint8_t *from = p;

    while (n != 0) {
        size_t part = MIN(n, FEED_BYTES - f->n);

        memcpy(f->b + f->n, from, part);
        f->n += part;
        from += part;
        n -= part;
        if (f->n == FEED_BYTES)
            feed_flush(f);
    }
}

static void feed_sha_end(struct feed *f, uint8_t out[32])
{
    if (!f->is_streaming) {
        hash_sha256(f->b, f->n, out);
        return;
    }
    feed_flush(f);
    ASSERT(EVP_DigestFinal_ex(f->sha, out, NULL) == 1);
    EVP_MD_CTX_free(f->sha);
}

static uint64_t feed_end(struct feed *f)
{
    if (f->kind == FEED_FNV) {
        feed_flush(f);
        return f->fnv;
    }
    if (!f->is_streaming)
        return XXH64(f->b, f->n, 0);
    feed_flush(f);
    return XXH64_digest(&f->xxh);
}

static void cbor_head(struct feed *f, enum cbor_major major, uint64_t v)
{
    uint8_t tmp[9];
    unsigned bytes = v < 24            ? 0
                     : v <= UINT8_MAX  ? 1
                     : v <= UINT16_MAX ? 2
                     : v <= UINT32_MAX ? 4
                                       : 8;
    unsigned info = bytes == 0   ? (unsigned)v
                    : bytes == 1 ? 24
                    : bytes == 2 ? 25
                    : bytes == 4 ? 26
                                 : 27;

    tmp[0] = (uint8_t)((unsigned)major << 5 | info);
    for (unsigned i = 0; i < bytes; i++)
        tmp[1 + i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
    feed_bytes(f, tmp, 1 + bytes);
}

static void cbor_text(struct feed *f, struct str s)
{
    cbor_head(f, CBOR_TEXT, s.n);
    feed_bytes(f, s.p, s.n);
}

static void cbor_tokens(struct feed *f, const uint32_t *tokens, size_t n)
{
    cbor_head(f, CBOR_ARRAY, n);
    for (size_t i = 0; i < n; i++)
        cbor_head(f, CBOR_UINT, tokens[i]);
}

static void cbor_null(struct feed *f)
{
    feed_bytes(f, &(uint8_t) { CBOR_NULL }, 1);
}

void blockkey_root(struct str seed, struct blockkey *out)
{
    struct feed f;

    feed_init(&f, FEED_SHA256);
    cbor_text(&f, seed);
    feed_sha_end(&f, out->b);
}

void blockkey_next(const struct blockkey *parent, const uint32_t *tokens, size_t n,
                   const struct blockkey_extra *extras, size_t extra_count, struct blockkey *out)
{
    struct feed f;

    feed_init(&f, FEED_SHA256);
    cbor_head(&f, CBOR_ARRAY, 3);
    cbor_head(&f, CBOR_BYTES, BLOCKKEY_BYTES);
    feed_bytes(&f, parent->b, BLOCKKEY_BYTES);
    cbor_tokens(&f, tokens, n);
    if (extra_count == 0)
        cbor_null(&f);
    else
        cbor_head(&f, CBOR_ARRAY, extra_count);
    for (size_t i = 0; i < extra_count; i++)
        cbor_text(&f, extras[i].text);
    feed_sha_end(&f, out->b);
}

uint64_t blockkey_fold(const struct blockkey *k)
{
    uint64_t v = 0;

    for (size_t i = BLOCKKEY_BYTES - 8; i < BLOCKKEY_BYTES; i++)
        v = v << 8 | k->b[i];
    return v;
}

bool blockkey_eq(const struct blockkey *a, const struct blockkey *b)
{
    return memcmp(a->b, b->b, BLOCKKEY_BYTES) == 0;
}

static void feed_le(struct feed *f, uint64_t v, unsigned bytes)
{
    uint8_t tmp[8];

    for (unsigned i = 0; i < bytes; i++)
        tmp[i] = (uint8_t)(v >> 8 * i);
    feed_bytes(f, tmp, bytes);
}

uint64_t indexkey_root(enum index_hash h, struct str seed, struct str model)
{
    struct feed f;

    if (h == INDEX_HASH_XXH64) {
        feed_init(&f, FEED_XXH64);
        feed_le(&f, hash_xxh64(seed.p, seed.n), 8);
        feed_le(&f, model.n, 8);
        feed_bytes(&f, model.p, model.n);
        return feed_end(&f);
    }
    feed_init(&f, FEED_FNV);
    cbor_head(&f, CBOR_ARRAY, 3);
    cbor_head(&f, CBOR_UINT, fnv(FNV_BASIS, (const uint8_t *)seed.p, seed.n));
    cbor_null(&f);
    cbor_text(&f, model);
    return feed_end(&f);
}

static uint64_t next_xxh64(uint64_t parent, const uint32_t *tokens, size_t n,
                           const struct blockkey_extra *extras, size_t extra_count)
{
    struct feed f;

    feed_init(&f, FEED_XXH64);
    feed_le(&f, parent, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    feed_bytes(&f, tokens, n * sizeof(tokens[0]));
#else
    for (size_t i = 0; i < n; i++)
        feed_le(&f, tokens[i], 4);
#endif
    for (size_t i = 0; i < extra_count; i++) {
        feed_le(&f, extras[i].text.n, 8);
        feed_bytes(&f, extras[i].text.p, extras[i].text.n);
    }
    return feed_end(&f);
}

uint64_t indexkey_next(enum index_hash h, uint64_t parent, const uint32_t *tokens, size_t n,
                       const struct blockkey_extra *extras, size_t extra_count)
{
    struct feed f;

    if (h == INDEX_HASH_XXH64)
        return next_xxh64(parent, tokens, n, extras, extra_count);
    feed_init(&f, FEED_FNV);
    cbor_head(&f, CBOR_ARRAY, 3);
    cbor_head(&f, CBOR_UINT, parent);
    cbor_tokens(&f, tokens, n);
    if (extra_count == 0)
        cbor_null(&f);
    else
        cbor_head(&f, CBOR_ARRAY, extra_count);
    for (size_t i = 0; i < extra_count; i++) {
        cbor_head(&f, CBOR_MAP, 1);
        cbor_text(&f, STR("Hash"));
        cbor_text(&f, extras[i].text);
    }
    return feed_end(&f);
}
