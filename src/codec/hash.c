/* The plain hashes of codec/blockkey.h: SHA-256 by OpenSSL, XXH64 by xxHash,
 * CRC-32C by the CPU's instruction or by eight tables (slicing by 8). */
// SPDX-License-Identifier: Apache-2.0
#define XXH_INLINE_ALL
#include "base/check.h"
#include "codec/blockkey.h"
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <xxhash.h>

#define CRC32C_POLY 0x82f63b78u /* Castagnoli, reflected */

static pthread_once_t sha_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha_md; /* fetched once: a fetch a call costs more than the hash */

static void sha_fetch(void)
{
    sha_md = EVP_MD_fetch(NULL, "SHA256", NULL);
}

void hash_sha256(const void *p, size_t n, uint8_t out[32])
{
    pthread_once(&sha_once, sha_fetch);
    ASSERT(sha_md != NULL && EVP_Digest(n != 0 ? p : "", n, out, NULL, sha_md, NULL) == 1);
}

uint64_t hash_xxh64(const void *p, size_t n)
{
    return XXH64(p, n, 0);
}

static uint64_t load64le(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

static pthread_once_t crc_once = PTHREAD_ONCE_INIT;
static uint32_t crc_table[8][256];

static void crc_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (CRC32C_POLY & (0 - (c & 1)));
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 0xff];
}

static uint32_t crc_by_table(uint32_t c, const uint8_t *p, size_t n)
{
    pthread_once(&crc_once, crc_fill);
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v = load64le(p) ^ c;

        c = crc_table[7][v & 0xff] ^ crc_table[6][v >> 8 & 0xff] ^ crc_table[5][v >> 16 & 0xff] ^
            crc_table[4][v >> 24 & 0xff] ^ crc_table[3][v >> 32 & 0xff] ^
            crc_table[2][v >> 40 & 0xff] ^ crc_table[1][v >> 48 & 0xff] ^ crc_table[0][v >> 56];
    }
    for (; n != 0; p++, n--)
        c = c >> 8 ^ crc_table[0][(c ^ *p) & 0xff];
    return c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_cpu(uint32_t c, const uint8_t *p, size_t n)
{
    uint64_t wide = c;

    for (; n >= 8; p += 8, n -= 8)
        wide = __builtin_ia32_crc32di(wide, load64le(p));
    c = (uint32_t)wide;
    for (; n != 0; p++, n--)
        c = __builtin_ia32_crc32qi(c, *p);
    return c;
}
#endif

uint32_t hash_crc32c(uint32_t crc, const void *p, size_t n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_by_cpu(~crc, p, n);
#endif
    return ~crc_by_table(~crc, p, n);
}

uint32_t hash_crc32c_portable(uint32_t crc, const void *p, size_t n)
{
    return ~crc_by_table(~crc, p, n);
}
