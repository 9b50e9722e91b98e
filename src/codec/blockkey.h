/* codec/blockkey.h - identity of a block of tokens.
 *
 * Worker keys (vLLM's sha256_cbor chain): key[i] = SHA-256(canonical CBOR of
 * (parent bytes, tokens, extra keys or null)); the root is SHA-256(CBOR(seed
 * text)).  32 bytes in transfer, the last 8 bytes big-endian as the 64-bit fold
 * in events.
 * Index keys (llm-d's request keys): cbor-fnv or xxh64 chains of 64 bits whose
 * root holds seed and model name.
 * Source: the project's kv-cache page, section 2, which has published vectors.
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_BLOCKKEY_H
#define CODEC_BLOCKKEY_H
#include "base/buf.h"
#include "base/str.h"

#define BLOCKKEY_BYTES          32
#define BLOCKKEY_TOKENS_DEFAULT 16
#define BLOCKKEY_SEED_DEFAULT   "0" /* fleet-wide, never random */

struct blockkey {
    uint8_t b[BLOCKKEY_BYTES];
};

/* An extra key: LoRA name, media hash, cache salt; in that order. */
struct blockkey_extra {
    struct str text;
};

void blockkey_root(struct str seed, struct blockkey *out);
/* extras: NULL when count is 0. */
void blockkey_next(const struct blockkey *parent, const uint32_t *tokens, size_t n,
                   const struct blockkey_extra *extras, size_t extra_count, struct blockkey *out);
uint64_t blockkey_fold(const struct blockkey *k);
bool blockkey_eq(const struct blockkey *a, const struct blockkey *b);

enum index_hash { INDEX_HASH_XXH64, INDEX_HASH_CBOR_FNV };

uint64_t indexkey_root(enum index_hash h, struct str seed, struct str model);
uint64_t indexkey_next(enum index_hash h, uint64_t parent, const uint32_t *tokens, size_t n,
                       const struct blockkey_extra *extras, size_t extra_count);

/* SHA-256, CRC-32C (Castagnoli; crc of what came before, 0 to begin), XXH64 (seed 0). */
void hash_sha256(const void *p, size_t n, uint8_t out[32]);
uint32_t hash_crc32c(uint32_t crc, const void *p, size_t n);
uint32_t hash_crc32c_portable(uint32_t crc, const void *p, size_t n); /* the same without SSE4.2 */
uint64_t hash_xxh64(const void *p, size_t n);
#endif
