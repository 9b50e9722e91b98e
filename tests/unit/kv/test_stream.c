/* The index stream: bytes as its page has them, whatever the cuts; malformed frames end it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "kv/stream_priv.h"
#include <string.h>

struct seen {
    struct buf text; /* what came, as words */
    int stop_at;     /* the nth frame is refused; 0 = none */
    int frames;
};

static int note(void *ctx, const struct kv_frame *f)
{
    struct seen *s = ctx;
    uint32_t ep;

    switch (f->type) {
    case KV_FRAME_HELLO:
        buf_f(&s->text, "hello %u %u %d %llu %.*s;", f->version, f->block_tokens, (int)f->hash,
              (unsigned long long)f->blocks_max, STR_ARG(f->seed));
        break;
    case KV_FRAME_ENDPOINT:
        buf_f(&s->text, "ep %u %.*s %.*s;", f->endpoint, STR_ARG(f->address), STR_ARG(f->model));
        break;
    case KV_FRAME_PAIRS:
        for (uint32_t i = 0; i < f->count; i++) {
            uint64_t key = kv_frame_pair(f, i, &ep);

            buf_f(&s->text, "pair %u %llx;", ep, (unsigned long long)key);
        }
        break;
    case KV_FRAME_ADD:
    case KV_FRAME_DEL:
        buf_f(&s->text, "%s %u", f->type == KV_FRAME_ADD ? "add" : "del", f->endpoint);
        for (uint32_t i = 0; i < f->count; i++)
            buf_f(&s->text, " %llx", (unsigned long long)kv_frame_key(f, i));
        buf_c(&s->text, ';');
        break;
    case KV_FRAME_CLEAR: buf_f(&s->text, "clear %u;", f->endpoint); break;
    case KV_FRAME_READY: buf_f(&s->text, "ready %llu;", (unsigned long long)f->pairs); break;
    case KV_FRAME_BEAT: buf_f(&s->text, "beat %llu;", (unsigned long long)f->pairs); break;
    }
    return ++s->frames == s->stop_at ? ERR_CANCELLED : 0;
}

static const char whole[] = "\x21\0\0\0\x01\0\0\0"
                            "LLMDIDX1"
                            "\x01\0\0\0"
                            "\x10\0\0\0"
                            "\0\0\0\0"
                            "\0\x10\0\0\0\0\0\0"
                            "seed!"
                            "\x0a\0\0\0\x02\0\0\0"
                            "\x03\0\0\0"
                            "\x03\0"
                            "a:1"
                            "m"
                            "\x18\0\0\0\x03\0\0\0"
                            "\x03\0\0\0"
                            "\x01\0\0\0\0\0\0\0"
                            "\x03\0\0\0"
                            "\xef\xcd\xab\x89\x67\x45\x23\x01"
                            "\x14\0\0\0\x04\0\0\0"
                            "\x03\0\0\0"
                            "\x0a\0\0\0\0\0\0\0"
                            "\x0b\0\0\0\0\0\0\0"
                            "\x0c\0\0\0\x05\0\0\0"
                            "\x03\0\0\0"
                            "\x0a\0\0\0\0\0\0\0"
                            "\x04\0\0\0\x06\0\0\0"
                            "\x03\0\0\0"
                            "\x08\0\0\0\x07\0\0\0"
                            "\x02\0\0\0\0\0\0\0"
                            "\x08\0\0\0\x08\0\0\0"
                            "\x05\0\0\0\0\0\0\0";
static const char words[] =
    "hello 1 16 0 4096 seed!;ep 3 a:1 m;pair 3 1;pair 3 123456789abcdef;add 3 a b;del 3 a;"
    "clear 3;ready 2;beat 5;";

static void what_is_written_is_what_the_page_says(void **state)
{
    struct kv_stream_writer w;
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    kv_stream_hello(&b, 16, INDEX_HASH_XXH64, STR("seed!"), 4096);
    kv_stream_endpoint(&b, 3, STR("a:1"), STR("m"));
    kv_stream_writer_init(&w, &b);
    kv_stream_pair(&w, 3, 1);
    kv_stream_pair(&w, 3, 0x123456789abcdef);
    kv_stream_key(&w, KV_FRAME_ADD, 3, 0xa);
    kv_stream_key(&w, KV_FRAME_ADD, 3, 0xb);
    kv_stream_key(&w, KV_FRAME_DEL, 3, 0xa);
    kv_stream_clear(&b, 3);
    kv_stream_count(&b, KV_FRAME_READY, 2);
    kv_stream_count(&b, KV_FRAME_BEAT, 5);
    assert_int_equal(b.len, sizeof(whole) - 1);
    assert_memory_equal(b.p, whole, b.len);
    buf_fini(&b);
}

static void it_reads_alike_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t step = 1; step < sizeof(whole); step++) {
        struct kv_stream_reader r;
        struct seen s = { 0 };

        buf_init(&s.text, 4096);
        kv_stream_reader_init(&r);
        for (size_t at = 0; at < sizeof(whole) - 1; at += step) {
            size_t n = MIN(step, sizeof(whole) - 1 - at);
            char *exact = mem_dup(whole + at, n);

            assert_int_equal(kv_stream_feed(&r, (struct str) { exact, n }, note, &s), 0);
            mem_free(exact);
        }
        assert_true(str_eqz(buf_view(&s.text), words));
        kv_stream_reader_fini(&r);
        buf_fini(&s.text);
    }
}

static void malformed_frames_end_the_stream(void **state)
{
    static const struct {
        const char *p;
        size_t n;
        int rc;
    } cases[] = {
#define CASE(z, rc) { (z), sizeof(z) - 1, (rc) }
        CASE("\x01\0\x01\0\x04\0\0\0", ERR_PARSE), /* longer than a frame may be */
        CASE("\xff\xff\xff\xff\x04\0\0\0", ERR_PARSE),
        CASE("\x04\0\0\0\x06\x01\0\0\0\0\0\0", ERR_PARSE), /* the zero bytes are not */
        CASE("\x03\0\0\0\x06\0\0\0\0\0\0", ERR_PARSE),     /* CLEAR of 3 bytes */
        CASE("\x04\0\0\0\x04\0\0\0\0\0\0\0", ERR_PARSE),   /* ADD of nothing */
        CASE("\x05\0\0\0\x04\0\0\0\0\0\0\0\0", ERR_PARSE),
        CASE("\x0b\0\0\0\x03\0\0\0"
             "01234567890",
             ERR_PARSE), /* PAIRS of 11 bytes */
        CASE("\x07\0\0\0\x07\0\0\0"
             "0123456",
             ERR_PARSE),
        CASE("\x06\0\0\0\x02\0\0\0"
             "\0\0\0\0\x01\0",
             ERR_PARSE), /* address longer than the frame */
        CASE("\x1c\0\0\0\x01\0\0\0"
             "LLMDIDX2"
             "01234567890123456789",
             ERR_PARSE),
        CASE("\x02\0\0\0\x63\0\0\0"
             "ab",
             0), /* a type of later days */
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct kv_stream_reader r;
        struct seen s = { 0 };

        buf_init(&s.text, 4096);
        kv_stream_reader_init(&r);
        if (kv_stream_feed(&r, (struct str) { cases[i].p, cases[i].n }, note, &s) != cases[i].rc)
            fail_msg("case %zu", i);
        assert_int_equal(s.frames, 0);
        kv_stream_reader_fini(&r);
        buf_fini(&s.text);
    }
}

static void a_refused_frame_stops_the_reading(void **state)
{
    struct kv_stream_reader r;
    struct seen s = { .stop_at = 2 };

    (void)state;
    buf_init(&s.text, 4096);
    kv_stream_reader_init(&r);
    assert_int_equal(kv_stream_feed(&r, (struct str) { whole, sizeof(whole) - 1 }, note, &s),
                     ERR_CANCELLED);
    assert_int_equal(s.frames, 2);
    kv_stream_reader_fini(&r);
    buf_fini(&s.text);
}

static void long_runs_are_split_into_frames(void **state)
{
    struct kv_stream_reader r;
    struct kv_stream_writer w;
    struct seen s = { 0 };
    struct buf b;
    uint64_t want = 0;

    (void)state;
    buf_init(&b, 1 << 22);
    kv_stream_writer_init(&w, &b);
    for (uint64_t i = 0; i < 20000; i++)
        kv_stream_key(&w, KV_FRAME_ADD, 1, i);
    for (uint64_t i = 0; i < 20000; i++)
        kv_stream_pair(&w, (uint32_t)i, i);
    buf_init(&s.text, 1 << 24);
    kv_stream_reader_init(&r);
    assert_int_equal(kv_stream_feed(&r, buf_view(&b), note, &s), 0);
    want = (20000 * 8 + 65527) / 65528 + (20000 * 12 + 65531) / 65532;
    assert_true((uint64_t)s.frames == want);
    assert_non_null(memmem(s.text.p, s.text.len, " 4e1f;pair 0 0;", 15));
    kv_stream_reader_fini(&r);
    buf_fini(&s.text);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_what_the_page_says),
        cmocka_unit_test(it_reads_alike_however_it_is_cut),
        cmocka_unit_test(malformed_frames_end_the_stream),
        cmocka_unit_test(a_refused_frame_stops_the_reading),
        cmocka_unit_test(long_runs_are_split_into_frames),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
