/* Block keys against vectors made with Python's cbor2 and hashlib and Go's fxamacker/cbor and
 * cespare/xxhash (the project's kv-cache page, 2.3 and 2.4), and the plain hashes against their
 * RFCs. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "codec/blockkey.h"
#include <stdio.h>
#include <string.h>

static void hex_is(const uint8_t *p, size_t n, const char *want)
{
    char got[129];

    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        snprintf(got + 2 * i, 3, "%02x", p[i]);
    assert_string_equal(got, want);
}

static void worker_chain_is_vllms_sha256_cbor(void **state)
{
    static const struct {
        const char *seed, *root, *block[3];
    } cases[] = {
        { "0",
          "4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e",
          { "202da172482d928bbc42ab25b0151e2b895f13f41002e27b2ceabcfae6d332ea",
            "4a0a393805c6d2f0ed831000d41bb65980336c4c04895d5e26470bbec927f5bf",
            "7db7c8652c5c4a69d8f91e08e8decadf88d48c3339d35aad480a8718e6d0b0b5" } },
        { "42",
          "9fa6eb003f14425eb9c8e6baacfbcaab26257357b829c7bfa74ffcc4f31c1780",
          { "476e88fb0c175c0b4ef0343e158b5157c2ac537d37d97830e235fcc84bc5706d",
            "9c89b9f2af12de95c90eb76195371e73760b4df4aa7617587856ae50e4ba5af8",
            "5d48eefea020fe9b680c9af6d2a67cb0ab2b3761256ebb1e30f58aa6fe22374b" } },
    };
    static const uint64_t folds[3] = { 0x2ceabcfae6d332ea, 0x26470bbec927f5bf, 0x480a8718e6d0b0b5 };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct blockkey k;
        uint32_t tokens[48];

        for (uint32_t t = 0; t < 48; t++)
            tokens[t] = t + 1;
        blockkey_root(str_of(cases[i].seed), &k);
        hex_is(k.b, 32, cases[i].root);
        for (int n = 0; n < 3; n++) {
            struct blockkey next;

            blockkey_next(&k, tokens + 16 * n, 16, NULL, 0, &next);
            hex_is(next.b, 32, cases[i].block[n]);
            if (i == 0)
                assert_true(blockkey_fold(&next) == folds[n]);
            assert_false(blockkey_eq(&k, &next));
            k = next;
        }
    }
}

static void worker_extras_enter_in_order(void **state)
{
    static const uint32_t tokens[4] = { 0, 23, 24, 255 };
    const struct {
        size_t n;
        struct blockkey_extra x[3];
        const char *hash;
    } cases[] = {
        { 0, { { STR_NONE } }, "ca90027d467f8ae0c02e71aa4eff29f116d1b74ca16446a60ab640f53e976f43" },
        { 1,
          { { STR("sql-lora") } },
          "8e213161033c2c0ac7dd4750be4d779b6d5a4ebb57f14ea69cc21826a42500ac" },
        { 1,
          { { STR("salt-1") } },
          "96ab7569462598269e40e32a2c93f1295dcc2f577b72a266e587191d6e94870b" },
        { 3,
          { { STR("sql-lora") }, { STR("img-aaaa") }, { STR("salt-1") } },
          "c45ce5e30ac668c12f444d47ff3c97dcd0586ce33cf7c9747e54d3b6c175b950" },
    };
    struct blockkey root, k;

    (void)state;
    blockkey_root(STR(BLOCKKEY_SEED_DEFAULT), &root);
    for (size_t i = 0; i < COUNT(cases); i++) {
        blockkey_next(&root, tokens, 4, cases[i].n != 0 ? cases[i].x : NULL, cases[i].n, &k);
        hex_is(k.b, 32, cases[i].hash);
    }
}

static void index_chain_is_llm_ds(void **state)
{
    static const struct {
        enum index_hash h;
        const char *seed;
        uint64_t root, block[3];
    } cases[] = {
        { INDEX_HASH_CBOR_FNV,
          "",
          0x9ae110ccacd232c8,
          { 0x0522c55f25cf0ae8, 0x45540f6612f835e4, 0x9faaeac7973eb762 } },
        { INDEX_HASH_CBOR_FNV,
          "42",
          0x7fdf8ea5c9b70121,
          { 0x65c853ba8ac40d68, 0x826652d21baa7eae, 0xc000fb216676775c } },
        { INDEX_HASH_XXH64,
          "",
          0xcee0ff3534bfff6a,
          { 0x125d06a941f85264, 0x1a1bf4da6c23a668, 0xb6ca6dcb03da9ec9 } },
        { INDEX_HASH_XXH64,
          "42",
          0xda5aa4ce646de549,
          { 0x63efefc1553e0771, 0x56e6b195656f277d, 0xbfba1f2f05c818da } },
    };
    uint32_t tokens[64];

    (void)state;
    for (uint32_t t = 0; t < 64; t++)
        tokens[t] = t + 1;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t k = indexkey_root(cases[i].h, str_of(cases[i].seed), STR("Qwen/Qwen3-32B"));

        assert_true(k == cases[i].root);
        for (int n = 0; n < 3; n++) {
            k = indexkey_next(cases[i].h, k, tokens + 16 * n, 16, NULL, 0);
            assert_true(k == cases[i].block[n]);
        }
        if (i == 0) {
            assert_true(indexkey_next(cases[i].h, k, tokens + 48, 16, NULL, 0) ==
                        0x94905fdcf032ce6b);
            assert_true(indexkey_next(cases[i].h, cases[i].root, tokens, 64, NULL, 0) ==
                        0xdac25acb6bbccc80);
        }
    }
}

static void index_keys_cover_every_integer_head_and_extras(void **state)
{
    static const uint32_t tokens[3][4] = { { 0, 23, 24, 255 },
                                           { 256, 65535, 65536, 151645 },
                                           { 1, 2, 3, 4294967295 } };
    static const uint64_t want[2][4] = {
        { 0xc90cbf5421a4994b, 0x18b5e7511cf764de, 0xb9387d26758a33fb, 0x0be3fd4567623a6b },
        { 0x9ddb2db69f3f452c, 0x8fac1f139f448ae9, 0x6c54f7aa5fb7f487, 0xb57ba5d7171de8bd },
    };
    const struct blockkey_extra x[2] = { { STR("img-aaaa") }, { STR("salt") } };

    (void)state;
    for (int h = 0; h < 2; h++) {
        uint64_t k = indexkey_root((enum index_hash)h, STR(""), STR("m"));

        assert_true(k == want[h][0]);
        for (size_t n = 0; n < 3; n++) {
            k = indexkey_next((enum index_hash)h, k, tokens[n], 4, n != 0 ? x : NULL, n);
            assert_true(k == want[h][n + 1]);
        }
    }
}

static void event_keys_of_the_page(void **state)
{
    static const uint32_t first[4] = { 1, 2, 3, 4 }, child[4] = { 5, 6, 7, 151645 };
    const struct blockkey_extra img = { STR("img-aaaa") }, salt = { STR("salt-1") };
    uint64_t root = indexkey_root(INDEX_HASH_CBOR_FNV, STR(""), STR("m")), k;

    (void)state;
    k = indexkey_next(INDEX_HASH_CBOR_FNV, root, first, 4, NULL, 0);
    assert_true(k == 0xcbd1586ecc3519c9);
    assert_true(indexkey_next(INDEX_HASH_CBOR_FNV, k, child, 4, NULL, 0) == 0x954f815584edd253);
    assert_true(indexkey_next(INDEX_HASH_CBOR_FNV, k, child, 4, &img, 1) == 0xf9c674948ec42f77);
    assert_true(indexkey_next(INDEX_HASH_CBOR_FNV, root, first, 4, &salt, 1) == 0x99ca306fdbe9be3b);
    root = indexkey_root(INDEX_HASH_CBOR_FNV, STR(""), STR("sql-lora"));
    assert_true(root == 0x23f88af846340961);
    assert_true(indexkey_next(INDEX_HASH_CBOR_FNV, root, first, 4, NULL, 0) == 0x321f1d60733ed67c);
}

/* A block too long for the stack buffer is streamed: the same bytes hashed in one piece by hand. */
static void long_blocks_hash_as_their_bytes_do(void **state)
{
    enum { TOKENS = 5000 };
    uint32_t *tokens = mem_alloc(TOKENS * sizeof(*tokens));
    uint8_t *flat = mem_alloc(8 + TOKENS * 4 + 64), *p = flat, want[32];
    struct blockkey root, k;

    (void)state;
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = 100000 + i;
    memcpy(p, &(uint64_t) { 7 }, 8);
    memcpy(p + 8, tokens, TOKENS * 4);
    assert_true(indexkey_next(INDEX_HASH_XXH64, 7, tokens, TOKENS, NULL, 0) ==
                hash_xxh64(flat, 8 + TOKENS * 4));
    blockkey_root(STR("0"), &root);
    mem_free(flat);
    flat = p = mem_alloc(64 + TOKENS * 5);
    memcpy(p, "\x83\x58\x20", 3);
    memcpy(p + 3, root.b, 32);
    memcpy(p + 35, "\x99\x13\x88", 3);
    p += 38;
    for (size_t i = 0; i < TOKENS; i++, p += 5) {
        p[0] = 0x1a;
        for (int b = 0; b < 4; b++)
            p[1 + b] = (uint8_t)(tokens[i] >> (24 - 8 * b));
    }
    *p++ = 0xf6;
    hash_sha256(flat, (size_t)(p - flat), want);
    blockkey_next(&root, tokens, TOKENS, NULL, 0, &k);
    assert_memory_equal(k.b, want, 32);
    mem_free(flat);
    mem_free(tokens);
}

static void plain_hashes_agree_with_their_publications(void **state)
{
    uint8_t d[32], bytes[48];

    (void)state;
    hash_sha256("abc", 3, d);
    hex_is(d, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256(NULL, 0, d);
    hex_is(d, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_true(hash_xxh64(NULL, 0) == 0xef46db3751d8e999);
    assert_int_equal(hash_crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, 32); /* RFC 3720, B.4 */
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x46dd794e);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = 31 - i;
    assert_int_equal(hash_crc32c(0, bytes, 32), 0x113fdb5c);
}

static void crc_is_the_same_in_pieces_and_without_the_instruction(void **state)
{
    uint8_t bytes[257];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    for (size_t off = 0; off < 9; off++)
        for (size_t n = 0; off + n <= sizeof(bytes); n += 1 + n / 16) {
            uint32_t whole = hash_crc32c(0, bytes + off, n);

            assert_int_equal(hash_crc32c_portable(0, bytes + off, n), whole);
            assert_int_equal(
                hash_crc32c(hash_crc32c(0, bytes + off, n / 3), bytes + off + n / 3, n - n / 3),
                whole);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worker_chain_is_vllms_sha256_cbor),
        cmocka_unit_test(worker_extras_enter_in_order),
        cmocka_unit_test(index_chain_is_llm_ds),
        cmocka_unit_test(index_keys_cover_every_integer_head_and_extras),
        cmocka_unit_test(event_keys_of_the_page),
        cmocka_unit_test(long_blocks_hash_as_their_bytes_do),
        cmocka_unit_test(plain_hashes_agree_with_their_publications),
        cmocka_unit_test(crc_is_the_same_in_pieces_and_without_the_instruction),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
