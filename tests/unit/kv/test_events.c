/* KV events: payloads decoded by another implementation (Go msgpack with llm-d's types; the
 * project's kv-cache page, 3.5), recordings of vLLM 0.32, and hostile bytes. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "codec/msgpack.h"
#include "kv/events.h"
#include <string.h>

#define ARENA_BYTES ((size_t)64 << 20)
#define HASH_B      0x2ceabcfae6d332eau

static const char hex_a[] =
    "93cb41da556e402000009197ab426c6f636b53746f72656491c420202da172482d928bbc42ab25b0151e2b895f13f4"
    "100"
    "2e27b2ceabcfae6d332eac0dc00100102030405060708090a0b0c0d0e0f1010c0a347505500";
static const char hex_b[] = "93cb41da556e402000009199ab426c6f636b53746f72656491cf2ceabcfae6d332eac0"
                            "940102030404c0a3475055c0c000";
static const char hex_c[] = "93cb41da556e40200000919bab426c6f636b53746f72656491cf26470bbec927f5bfcf"
                            "2ceabcfae6d332ea94050607ce00"
                            "02505d04c0a3475055a873716c2d6c6f72619192a873716c2d6c6f726192a8696d672d"
                            "616161610200ae66756c6c5f617474656e74696f6e00";
static const char hex_d[] = "93cb41da556e40200000918aa474797065ab426c6f636b53746f726564ac626c6f636b"
                            "5f68617368657391cf2ceabcfae6"
                            "d332eab1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473940102"
                            "0304aa626c6f636b5f73697a6504a76c6f72615f6964c0"
                            "a66d656469756da3475055a96c6f72615f6e616d65c0a967726f75705f69647800b26b"
                            "765f63616368655f737065635f6b696e64ae66756c6c5f"
                            "617474656e74696f6e00";
static const char hex_e[] = "93cb41da556e402000009293ac426c6f636b52656d6f76656491cf2ceabcfae6d332ea"
                            "a347505591b0416c6c426c6f636b"
                            "73436c656172656400";
static const char hex_f[] = "93cb41da556e402000009284a474797065ac426c6f636b52656d6f766564ac626c6f63"
                            "6b5f68617368657391cf2ceabcfa"
                            "e6d332eaa66d656469756da3475055a967726f75705f6964780081a474797065b0416c"
                            "6c426c6f636b73436c656172656400";
static const char hex_g[] =
    "93cb41da556e402000009197ab426c6f636b53746f72656491cf2ceabcfae6d332eac09000c0a343505500";
static const char hex_h[] =
    "92cb41da556e402000009197ab426c6f636b53746f72656491fbc0940102030404c0a3475055";
static const char *const all_hex[] = { hex_a, hex_b, hex_c, hex_d, hex_e, hex_f, hex_g, hex_h };

/* vLLM 0.32 on a CPU, llama with blocks of 32: one BlockStored as a map, group 0. */
static const char hex_vllm[] =
    "93cb41da71e8d79231e8918ba474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cf36b9d3"
    "fc4a"
    "2e47a3b1706172656e745f626c6f636b5f68617368cf5f95028bcc594cfca9746f6b656e5f696473dc0020cd013acd"
    "18aacd0119cd0e05ccd829"
    "291ecd13a9ccd82528cd013acd18aacd0119cd0e05ccd8261ecd13a9ccd82529cd013acd18aacd0119cd0e05ccd821"
    "231ecd56b0aa626c6f636b"
    "5f73697a6520a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0aa65787472615f6b6579"
    "7391c0a967726f75705f69"
    "647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e00";

static struct str unhex(struct arena *a, const char *hex)
{
    size_t n = strlen(hex) / 2;
    char *p = arena_alloc(a, n);

    for (size_t i = 0; i < n; i++) {
        unsigned v = 0;

        for (int k = 0; k < 2; k++)
            v = v << 4 | (unsigned)(hex[2 * i + k] <= '9' ? hex[2 * i + k] - '0'
                                                          : hex[2 * i + k] - 'a' + 10);
        p[i] = (char)v;
    }
    return (struct str) { p, n };
}

static struct kv_batch decode(struct arena *a, const char *hex)
{
    struct kv_batch b;
    struct err e;

    if (kv_batch_decode(a, unhex(a, hex), &b, &e) != 0)
        fail_msg("%s", e.msg);
    return b;
}

static void published_payloads_decode(void **state)
{
    struct arena a;
    struct kv_batch b;
    const struct kv_event *ev;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    b = decode(&a, hex_a);
    ev = b.events;
    assert_true(b.ts == 1767225600.5 && b.count == 1 && b.skipped == 0);
    assert_true(ev->kind == KV_STORED && ev->hash_count == 1 && ev->hashes[0] == HASH_B &&
                !ev->has_parent);
    assert_true(ev->token_count == 16 && ev->tokens[15] == 16 && ev->block_size == 16 &&
                !ev->has_group);
    assert_true(str_eqz(ev->medium, "GPU") && ev->lora_name.p == NULL);
    for (int i = 0; i < 2; i++) {
        b = decode(&a, i == 0 ? hex_b : hex_d);
        ev = b.events;
        assert_true(ev->hashes[0] == HASH_B && ev->token_count == 4 && ev->tokens[3] == 4 &&
                    ev->block_size == 4);
        assert_true(ev->has_group == (i == 1) && ev->extra_count == 0 && ev->salt.p == NULL);
        assert_true(i == 0 ? ev->kind_name.p == NULL : str_eqz(ev->kind_name, "full_attention"));
    }
    b = decode(&a, hex_c);
    ev = b.events;
    assert_true(ev->hashes[0] == 0x26470bbec927f5bf && ev->has_parent && ev->parent == HASH_B);
    assert_true(ev->tokens[3] == 151645 && str_eqz(ev->lora_name, "sql-lora") && ev->has_group &&
                ev->group == 0);
    assert_true(ev->extra_count == 1 && ev->extras[0].is_media &&
                str_eqz(ev->extras[0].text, "img-aaaa"));
    for (int i = 0; i < 2; i++) {
        b = decode(&a, i == 0 ? hex_e : hex_f);
        assert_true(b.count == 2 && b.events[0].kind == KV_REMOVED &&
                    b.events[1].kind == KV_CLEARED);
        assert_true(b.events[0].hashes[0] == HASH_B && b.events[0].has_group == (i == 1));
        assert_true(str_eqz(b.events[0].medium, "GPU"));
    }
    b = decode(&a, hex_g);
    assert_true(b.events[0].token_count == 0 && str_eqz(b.events[0].medium, "CPU"));
    b = decode(&a, hex_h);
    assert_true(b.events[0].hashes[0] == (uint64_t)-5 && b.events[0].token_count == 4);
    b = decode(&a, hex_vllm);
    ev = b.events;
    assert_true(ev->hashes[0] == 0x36b9d3fc4a2e47a3 && ev->parent == 0x5f95028bcc594cfc &&
                ev->token_count == 32);
    assert_true(ev->tokens[0] == 0x13a && ev->tokens[31] == 0x56b0 && ev->block_size == 32 &&
                ev->has_group);
    arena_fini(&a);
}

static void a_payload_cut_anywhere_is_refused_whole(void **state)
{
    struct arena a;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    for (size_t i = 0; i < COUNT(all_hex); i++) {
        struct str whole = unhex(&a, all_hex[i]);

        for (size_t n = 0; n < whole.n; n++) {
            char *exact = mem_dup(whole.p, n);
            struct kv_batch b;
            struct err e;

            if (kv_batch_decode(&a, (struct str) { exact, n }, &b, &e) != ERR_PARSE || b.count != 0)
                fail_msg("payload %c at %zu", (char)('A' + i), n);
            mem_free(exact);
        }
    }
    arena_fini(&a);
}

static void what_newer_and_older_peers_send_is_read(void **state)
{
    static const struct {
        const char *what, *hex;
        uint32_t count, skipped;
    } cases[] = {
        { "an unknown trailing element",
          "93cb41da556e4020000091"
          "9d"
          "ab426c6f636b53746f72656491cf2ceabcfae6d332eac0940102030404c0a3475055c0c0"
          "c0c0c0a17800",
          1, 0 },
        { "a fourth batch element",
          "94cb41da556e402000009191b0416c6c426c6f636b73436c656172656400c0", 1, 0 },
        { "a batch as a map",
          "82a27473cb41da556e40200000a66576656e74739191b0416c6c426c6f636b73436c6561726564", 1, 0 },
        { "an event wrapped as bin",
          "93cb41da556e4020000091c41291b0416c6c426c6f636b73436c656172656400", 1, 0 },
        { "an unknown tag",
          "93cb41da556e40200000929"
          "2a3466f6f0591b0416c6c426c6f636b73436c656172656400",
          1, 1 },
        { "an unknown tag as a map", "93cb41da556e402000009181a474797065a3466f6f00", 0, 1 },
        { "an unknown key",
          "93cb41da556e402000009182a474797065b0416c6c426c6f636b73436c6561726564a178920102"
          "00",
          1, 0 },
        { "whole seconds", "93ce6955b9009000", 0, 0 },
        { "tokens in pairs",
          "93cb41da556e402000009195ab426c6f636b53746f7265649101c091920102"
          "0100",
          0, 1 },
        { "token -1", "93cb41da556e402000009195ab426c6f636b53746f7265649101c091ff0100", 0, 1 },
        { "a hash list that is empty", "93cb41da556e402000009195ab426c6f636b53746f72656490c0901000",
          1, 0 },
    };
    struct arena a;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct kv_batch b;
        struct err e;

        if (kv_batch_decode(&a, unhex(&a, cases[i].hex), &b, &e) != 0)
            fail_msg("%s: %s", cases[i].what, e.msg);
        if (b.count != cases[i].count || b.skipped != cases[i].skipped)
            fail_msg("%s: %u events, %u skipped", cases[i].what, b.count, b.skipped);
    }
    arena_fini(&a);
}

static void malformed_events_refuse_the_batch(void **state)
{
    static const struct {
        const char *what, *hex;
    } cases[] = {
        { "nothing", "" },
        { "a number", "05" },
        { "one element", "91cb41da556e40200000" },
        { "no events", "81a27473cb41da556e40200000" },
        { "events no list", "93cb41da556e402000000500" },
        { "event no container", "93cb41da556e40200000910500" },
        { "no tag", "93cb41da556e40200000919000" },
        { "tag no text", "93cb41da556e4020000091910500" },
        { "map without type", "93cb41da556e402000009181a1780500" },
        { "stored without tokens", "93cb41da556e402000009193ab426c6f636b53746f7265649101c000" },
        { "removed without hashes", "93cb41da556e402000009191ac426c6f636b52656d6f76656400" },
        { "an empty hash", "93cb41da556e402000009193ac426c6f636b52656d6f76656491c400a347505500" },
        { "a hash that is nil", "93cb41da556e402000009192ac426c6f636b52656d6f76656491c000" },
        { "extras for another count", "93cb41da556e402000009199ab426c6f636b53746f72656491cf2ceabcfa"
                                      "e6d332eac0940102030404c0a3475055c092c0c000" },
        { "bytes after the end", "93cb41da556e40200000900000" },
        { "reserved byte", "93cb41da556e4020000090c1" },
        { "ts no number", "93a1789000" },
    };
    struct arena a;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct kv_batch b;
        struct err e;

        if (kv_batch_decode(&a, unhex(&a, cases[i].hex), &b, &e) != ERR_PARSE)
            fail_msg("accepted: %s", cases[i].what);
        assert_int_equal(b.count, 0);
    }
    arena_fini(&a);
}

static void salts_are_found_and_lora_names_are_not_extras(void **state)
{
    static const struct {
        const char *what;
        int kind;
        const char *salt;
        uint32_t extras;
    } cases[] = {
        { "a bare text", 0, "salt-1", 1 },
        { "after the LoRA name", 1, "salt-1", 1 },
        { "typed", 2, "salt-1", 2 },
        { "SGLang's map", 3, "salt-1", 1 },
        { "SGLang's, of a child", 4, NULL, 0 },
    };
    struct arena a;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;
        struct kv_batch out;
        struct err e;
        int kind = cases[i].kind;

        buf_init(&b, 4096);
        mp_w_array(&b, 3);
        mp_w_f64(&b, 1);
        mp_w_array(&b, 1);
        mp_w_array(&b, kind >= 3 ? 8 : 9);
        mp_w_str(&b, STR("BlockStored"));
        mp_w_array(&b, 1);
        mp_w_uint(&b, 7);
        mp_w_uint(&b, kind == 4 ? 6 : 0);
        mp_w_array(&b, 1);
        mp_w_uint(&b, 3);
        mp_w_uint(&b, 1);
        mp_w_nil(&b);
        mp_w_nil(&b);
        if (kind >= 3) {
            mp_w_map(&b, 2);
            mp_w_str(&b, STR("session_id"));
            mp_w_nil(&b);
            mp_w_str(&b, STR("cache_salt"));
            mp_w_str(&b, STR("salt-1"));
        } else {
            if (kind == 1)
                mp_w_str(&b, STR("lora"));
            else
                mp_w_nil(&b);
            mp_w_array(&b, 1);
            mp_w_array(&b, kind == 2 ? 3 : kind == 1 ? 2 : 1);
            if (kind == 1)
                mp_w_str(&b, STR("lora"));
            if (kind == 2) {
                mp_w_map(&b, 2);
                mp_w_str(&b, STR("type"));
                mp_w_str(&b, STR("lora"));
                mp_w_str(&b, STR("name"));
                mp_w_str(&b, STR("x"));
                mp_w_map(&b, 2);
                mp_w_str(&b, STR("salt"));
                mp_w_str(&b, STR("salt-1"));
                mp_w_str(&b, STR("type"));
                mp_w_str(&b, STR("cache_salt"));
                mp_w_map(&b, 2);
                mp_w_str(&b, STR("type"));
                mp_w_str(&b, STR("mm"));
                mp_w_str(&b, STR("hash"));
                mp_w_str(&b, STR("img"));
            } else {
                mp_w_str(&b, STR("salt-1"));
            }
        }
        mp_w_uint(&b, 0);
        if (kv_batch_decode(&a, buf_view(&b), &out, &e) != 0)
            fail_msg("%s: %s", cases[i].what, e.msg);
        assert_int_equal(out.events[0].extra_count, cases[i].extras);
        assert_true(cases[i].salt == NULL ? out.events[0].salt.p == NULL
                                          : str_eqz(out.events[0].salt, cases[i].salt));
        if (kind == 2)
            assert_true(out.events[0].extras[1].is_media &&
                        str_eqz(out.events[0].extras[1].text, "img"));
        buf_fini(&b);
    }
    arena_fini(&a);
}

static void ceilings_hold(void **state)
{
    struct arena a;
    struct buf b;
    struct kv_batch out;
    struct err e;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    buf_init(&b, (size_t)16 << 20);
    for (uint32_t n = KV_EVENT_HASHES_MAX; n <= KV_EVENT_HASHES_MAX + 1; n++) {
        buf_reset(&b);
        mp_w_array(&b, 3);
        mp_w_f64(&b, 1);
        mp_w_array(&b, 1);
        mp_w_array(&b, 2);
        mp_w_str(&b, STR("BlockRemoved"));
        mp_w_array(&b, n);
        for (uint32_t i = 0; i < n; i++)
            mp_w_uint(&b, i);
        mp_w_uint(&b, 0);
        assert_int_equal(kv_batch_decode(&a, buf_view(&b), &out, &e),
                         n > KV_EVENT_HASHES_MAX ? ERR_LIMIT : 0);
    }
    arena_fini(&a);
    arena_init(&a, 64 << 10); /* the arena's own ceiling */
    buf_reset(&b);
    mp_w_array(&b, 2);
    mp_w_f64(&b, 1);
    mp_w_array(&b, 4000);
    for (int i = 0; i < 4000; i++) {
        mp_w_array(&b, 1);
        mp_w_str(&b, STR("AllBlocksCleared"));
    }
    assert_int_equal(kv_batch_decode(&a, buf_view(&b), &out, &e), ERR_LIMIT);
    buf_fini(&b);
    arena_fini(&a);
}

/* B and E are byte for byte what we write for the same events. */
static void encoding_matches_the_published_bytes(void **state)
{
    const uint64_t hash = HASH_B;
    const uint32_t tokens[4] = { 1, 2, 3, 4 };
    const struct kv_event stored = { .kind = KV_STORED,
                                     .hashes = &hash,
                                     .hash_count = 1,
                                     .tokens = tokens,
                                     .token_count = 4,
                                     .block_size = 4,
                                     .medium = STR("GPU") };
    const struct kv_event pair[2] = {
        { .kind = KV_REMOVED, .hashes = &hash, .hash_count = 1, .medium = STR("GPU") },
        { .kind = KV_CLEARED },
    };
    const struct {
        struct kv_batch b;
        const char *hex;
    } cases[] = {
        { { .ts = 1767225600.5, .events = &stored, .count = 1 }, hex_b },
        { { .ts = 1767225600.5, .events = pair, .count = 2 }, hex_e },
    };
    struct arena a;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;

        buf_init(&b, 4096);
        kv_batch_encode(&b, &cases[i].b);
        assert_true(str_eq(buf_view(&b), unhex(&a, cases[i].hex)));
        buf_fini(&b);
    }
    arena_fini(&a);
}

static void everything_written_reads_back(void **state)
{
    const uint64_t hashes[3] = { 1, UINT64_MAX, 0x8000000000000000u };
    const uint32_t tokens[6] = { 0, 127, 128, 65536, UINT32_MAX, 5 };
    const struct kv_extra extras[3] = { { .text = STR("salt") },
                                        { .text = STR("x") },
                                        { .block = 2, .text = STR("img") } };
    const struct kv_event ev[] = {
        { .kind = KV_STORED,
          .hashes = hashes,
          .hash_count = 3,
          .has_parent = true,
          .parent = 9,
          .tokens = tokens,
          .token_count = 6,
          .block_size = 2,
          .medium = STR("CPU"),
          .lora_name = STR("lora"),
          .has_group = true,
          .group = 3,
          .kind_name = STR("sliding_window"),
          .window = 1024,
          .extras = extras,
          .extra_count = 3 },
        { .kind = KV_STORED,
          .hashes = hashes,
          .hash_count = 3,
          .tokens = tokens,
          .token_count = 6,
          .block_size = 2,
          .salt = STR("tenant") },
        { .kind = KV_REMOVED, .hashes = hashes, .hash_count = 2, .has_group = true, .group = 1 },
    };
    const struct kv_batch in = { .ts = 3.25, .events = ev, .count = COUNT(ev) };
    struct kv_batch out;
    struct arena a;
    struct buf b;
    struct err e;

    (void)state;
    arena_init(&a, ARENA_BYTES);
    buf_init(&b, 4096);
    kv_batch_encode(&b, &in);
    assert_int_equal(kv_batch_decode(&a, buf_view(&b), &out, &e), 0);
    assert_true(out.ts == 3.25 && out.count == COUNT(ev));
    for (uint32_t i = 0; i < out.count; i++) {
        const struct kv_event *o = &out.events[i];

        assert_true(o->kind == ev[i].kind && o->hash_count == ev[i].hash_count &&
                    o->token_count == ev[i].token_count);
        assert_memory_equal(o->hashes, hashes, o->hash_count * sizeof(hashes[0]));
        if (o->token_count != 0)
            assert_memory_equal(o->tokens, tokens, sizeof(tokens));
        assert_true(o->has_parent == ev[i].has_parent && o->parent == ev[i].parent);
        assert_true(o->has_group == ev[i].has_group && o->group == ev[i].group &&
                    o->window == ev[i].window);
        assert_true(str_eq(o->medium, ev[i].medium) && str_eq(o->lora_name, ev[i].lora_name));
    }
    assert_int_equal(out.events[0].extra_count, 3);
    assert_true(str_eqz(out.events[0].extras[2].text, "img") && out.events[0].extras[2].block == 2);
    assert_true(str_eqz(out.events[0].salt, "salt") && str_eqz(out.events[1].salt, "tenant"));
    buf_fini(&b);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_payloads_decode),
        cmocka_unit_test(a_payload_cut_anywhere_is_refused_whole),
        cmocka_unit_test(what_newer_and_older_peers_send_is_read),
        cmocka_unit_test(malformed_events_refuse_the_batch),
        cmocka_unit_test(salts_are_found_and_lora_names_are_not_extras),
        cmocka_unit_test(ceilings_hold),
        cmocka_unit_test(encoding_matches_the_published_bytes),
        cmocka_unit_test(everything_written_reads_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
