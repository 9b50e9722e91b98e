/* Cached ids are the ids of tokenizing anew, whatever the conversation, the marks and the order in
 * which conversations grow; the ceiling holds.
 *
 * Tokenizers: those of tests/golden/tokjson, and, when LLMD_TEST_TOKENIZERS names a folder, every
 * model in it (GGUF files, folders with a tokenizer.json). */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "text/text_model.h"
#include "text/token_cache.h"
#include "text/tokenizer.h"
#include "model/gguf.h"
#include "tiny_vocab.h"
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)1 << 20)

struct talk {
    struct buf text, mark; /* mark: a byte for each of text */
};

static void add(struct talk *k, struct str s, char mark)
{
    assert_true(buf_str(&k->text, s));
    for (size_t i = 0; i < s.n; i++)
        assert_true(buf_c(&k->mark, mark));
}

/* Control tokens of t, a few of them, with their texts. */
static size_t controls(const struct tokenizer *t, struct rng *r, struct str *out, size_t max)
{
    size_t n = 0;

    for (uint32_t i = 0; i < 4000 && n < max; i++) {
        uint32_t count = tokenizer_count(t), id = i < 64    ? i
                                                  : i < 600 ? count - MIN(count, i - 63)
                                                            : (uint32_t)rng_below(r, count);

        if (tokenizer_is_control(t, id) || tokenizer_is_eog(t, id))
            out[n++] = tokenizer_text(t, id);
    }
    out[n++] = STR("[L]");
    out[n++] = STR("<sep>");
    return n;
}

static void random_part(struct talk *k, struct rng *r, const struct str *control, size_t n)
{
    static const char *const words[] = {
        "Hello", " world", "\n", "  ", "caf\xc3\xa9", "e\xcc\x81", "\xe6\x97\xa5", "123",
        "[B]",   " word",  "<|", "|>", "<",           "'s",        "\xe2\x96\x81"
    };
    struct str s;

    switch (rng_below(r, 8)) {
    case 0: add(k, control[rng_below(r, n)], 0); break;
    case 1: add(k, control[rng_below(r, n)], 1); break; /* a user wrote it */
    case 2:                                             /* half of one, and half marked */
        s = control[rng_below(r, n)];
        add(k, str_sub(s, 0, rng_below(r, s.n + 1)), 0);
        add(k, str_sub(control[rng_below(r, n)], 0, 3), (char)rng_below(r, 2));
        break;
    default:
        for (uint64_t i = rng_below(r, 40); i > 0; i--)
            add(k, str_of(words[rng_below(r, COUNT(words))]), 1);
    }
}

static void assert_same(struct token_cache *c, const struct tokenizer *t, const struct talk *k,
                        bool marked, const char *name)
{
    struct token_list want = { 0 }, got = { 0 };
    const uint8_t *mark = marked ? (const uint8_t *)k->mark.p : NULL;
    struct str text = buf_view(&k->text);

    assert_true(token_list_add(&got, 7) && token_list_add(&want, 7)); /* both append */
    assert_int_equal(mark != NULL ? tokenizer_encode_marked(t, text, mark, &want)
                                  : tokenizer_encode(t, text, TOKENIZE_PARSE_SPECIAL, &want),
                     0);
    assert_int_equal(token_cache_encode(c, text, mark, &got), 0);
    if (got.count != want.count || memcmp(got.id, want.id, got.count * sizeof(got.id[0])) != 0)
        fail_msg("%s: a text of %zu bytes: %zu cached, %zu anew", name, text.n, got.count,
                 want.count);
    token_list_fini(&want);
    token_list_fini(&got);
}

#define TALKS 5

static void try_tokenizer(const struct tokenizer *t, const char *path, unsigned rounds)
{
    struct talk talk[TALKS];
    struct token_cache_stats s;
    struct token_cache *c;
    struct str control[34];
    struct rng r;
    size_t n;

    rng_seed(&r, 11);
    c = token_cache_new(t, 64 << 10); /* small: segments come and go */
    assert_non_null(c);
    n = controls(t, &r, control, 32);
    for (size_t i = 0; i < TALKS; i++) {
        buf_init(&talk[i].text, TEXT_MAX);
        buf_init(&talk[i].mark, TEXT_MAX);
    }
    for (unsigned i = 0; i < rounds; i++) {
        struct talk *k = &talk[rng_below(&r, TALKS)], *from = &talk[rng_below(&r, TALKS)];

        if (rng_below(&r, 20) == 0 || k->text.len > 20000) { /* another branch of a conversation */
            size_t keep = from == k ? 0 : rng_below(&r, from->text.len + 1);

            buf_reset(&k->text);
            buf_reset(&k->mark);
            if (keep > 0) {
                buf_add(&k->text, from->text.p, keep);
                buf_add(&k->mark, from->mark.p, keep);
            }
        }
        for (int p = 0; p < 12; p++)
            random_part(k, &r, control, n);
        assert_same(c, t, k, rng_below(&r, 4) != 0, path);
        token_cache_stats(c, &s);
        assert_true(s.bytes <= 64 << 10);
    }
    token_cache_stats(c, &s);
    if (s.cached_tokens == 0)
        print_message("%s: nothing was cached\n", path);
    print_message("%s: %u texts, %.0f %% of %llu tokens from the cache\n", path, rounds,
                  100.0 * (double)s.cached_tokens / (double)s.tokens, (unsigned long long)s.tokens);
    for (size_t i = 0; i < TALKS; i++) {
        buf_fini(&talk[i].text);
        buf_fini(&talk[i].mark);
    }
    token_cache_free(c);
}

static void try_model(const char *path, unsigned rounds)
{
    struct text_model *m;
    struct err e = { 0 };

    if (text_model_open(&m, path, &e) != 0)
        fail_msg("%s", e.msg);
    try_tokenizer(m->tokenizer, path, rounds);
    text_model_close(m);
}

/* Control tokens that overlap, contain and continue each other are no place to cut; the others of
 * the vocabulary still are. */
static const char *const crossing[] = { "<q>",    "q><r>",   "<r>",   "<r><q>", "zz",
                                        "<more>", "<more>x", " <sp>", "y<in>",  "<in>" };

static void tokens_that_overlap_are_no_place_to_cut(void **state)
{
    static const char head[] =
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":false,\"unk_token\":\"?\",\"vocab\":{"
        "\"?\":0,\"a\":1,\"<\":2,\">\":3,\"q\":4,\"aa\":5},\"merges\":[\"a a\"]},"
        "\"added_tokens\":[{\"id\":6,\"content\":\"<|im_start|>\",\"special\":true},"
        "{\"id\":7,\"content\":\"[L]\",\"special\":true,\"lstrip\":true},"
        "{\"id\":8,\"content\":\"[R]\",\"special\":true,\"rstrip\":true}";
    static struct tiny v;
    struct tokenizer *t;
    struct buf b;
    struct gguf *g;
    struct err e = { 0 };

    (void)state;
    buf_init(&b, TEXT_MAX);
    for (int kind = 0; kind < 2; kind++) {
        if (kind == 0)
            tiny_bpe(&v, "gpt-2");
        else
            tiny_spm(&v);
        for (size_t i = 0; i < COUNT(crossing); i++)
            tiny_add(&v, crossing[i], TINY_CONTROL, 0);
        buf_reset(&b);
        tiny_write(&v, &b);
        assert_int_equal(gguf_open_bytes(&g, buf_view(&b), &e), 0);
        assert_int_equal(tokenizer_new(&t, g, &e), 0);
        try_tokenizer(t, kind == 0 ? "crossing bpe" : "crossing spm", 1000);
        tokenizer_free(t);
        gguf_close(g);
    }
    buf_reset(&b);
    buf_z(&b, head);
    for (size_t i = 0; i < COUNT(crossing); i++)
        buf_f(&b, ",{\"id\":%zu,\"content\":\"%s\",\"special\":true}", i + 9, crossing[i]);
    buf_z(&b, "]}");
    if (tokenizer_new_json(&t, buf_view(&b), NULL, &e) != 0)
        fail_msg("%s", e.msg);
    try_tokenizer(t, "crossing json", 1000);
    tokenizer_free(t);
    buf_fini(&b);
}

static void cached_ids_are_those_of_tokenizing_anew(void **state)
{
    static const char *const dirs[] = { "bytes_nfc",    "bytes_words",   "bytes_regex",
                                        "bytes_case",   "chars_prepend", "chars_first",
                                        "chars_unknown" };
    const char *more = getenv("LLMD_TEST_TOKENIZERS");
    DIR *d = more != NULL ? opendir(more) : NULL;
    char path[4096];

    (void)state;
    for (size_t i = 0; i < COUNT(dirs); i++) {
        snprintf(path, sizeof(path), "%s/%s", TOKJSON, dirs[i]);
        try_model(path, 400);
    }
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        if (f->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", more, f->d_name);
        try_model(path, 1500);
    }
    if (d != NULL)
        closedir(d);
}

/* The same bytes as the template's tokens and as a user's words are different texts. */
static void marks_are_part_of_a_text(void **state)
{
    struct talk k;
    struct token_cache *c;
    struct text_model *m;
    struct rng r;
    struct err e;

    (void)state;
    assert_int_equal(text_model_open(&m, TOKJSON "/bytes_nfc", &e), 0);
    c = token_cache_new(m->tokenizer, (size_t)1 << 20);
    buf_init(&k.text, TEXT_MAX);
    buf_init(&k.mark, TEXT_MAX);
    rng_seed(&r, 5);
    for (int i = 0; i < 40; i++)
        add(&k, STR("<|start|>some words that a user has written<|end|>"), 0);
    for (int i = 0; i < 200; i++) {
        size_t from = rng_below(&r, k.mark.len), n = rng_below(&r, 60);

        assert_same(c, m->tokenizer, &k, true, "marks");
        assert_same(c, m->tokenizer, &k, i % 5 != 0, "marks");
        memset(k.mark.p + from, (int)rng_below(&r, 2), MIN(n, k.mark.len - from));
        if (i % 20 == 0)
            memset(k.mark.p, 0, k.mark.len);
    }
    buf_fini(&k.text);
    buf_fini(&k.mark);
    token_cache_free(c);
    text_model_close(m);
}

/* A conversation that grows is nearly all found: the point of it. */
static void a_grown_chat_is_tokenized_at_its_end_only(void **state)
{
    struct token_cache_stats before, after;
    struct token_cache *c;
    struct text_model *m;
    struct token_list l = { 0 };
    struct buf text;
    struct err e;

    (void)state;
    assert_int_equal(text_model_open(&m, TOKJSON "/bytes_nfc", &e), 0);
    c = token_cache_new(m->tokenizer, (size_t)1 << 20);
    buf_init(&text, TEXT_MAX);
    for (int turn = 0; turn < 40; turn++) {
        buf_f(&text, "<|start|>user\nquestion %d", turn);
        for (int i = 0; i < 40; i++)
            buf_z(&text, " and some more words");
        buf_z(&text, "<|end|>\n<|start|>assistant\n");
        token_cache_stats(c, &before);
        l.count = 0;
        assert_int_equal(token_cache_encode(c, buf_view(&text), NULL, &l), 0);
    }
    token_cache_stats(c, &after);
    assert_true((after.cached_tokens - before.cached_tokens) * 10 > l.count * 9);
    token_list_fini(&l);
    buf_fini(&text);
    token_cache_free(c);
    text_model_close(m);
}

struct shared {
    struct token_cache *c;
    const struct tokenizer *t;
};

static void *encode_many(void *ctx)
{
    struct shared *s = ctx;

    for (int i = 0; i < 300; i++) {
        struct token_list want = { 0 }, got = { 0 };
        struct buf text;

        buf_init(&text, TEXT_MAX);
        for (int k = 0; k < i % 7 + 1; k++) {
            buf_f(&text, "<|start|>%d", k);
            for (int j = 0; j < 60; j++)
                buf_z(&text, " hello world");
            buf_z(&text, "<|end|>");
        }
        assert_int_equal(tokenizer_encode(s->t, buf_view(&text), TOKENIZE_PARSE_SPECIAL, &want), 0);
        assert_int_equal(token_cache_encode(s->c, buf_view(&text), NULL, &got), 0);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(got.id, want.id, want.count * sizeof(want.id[0]));
        token_list_fini(&want);
        token_list_fini(&got);
        buf_fini(&text);
    }
    return NULL;
}

static void threads_share_a_cache(void **state)
{
    struct shared s;
    struct text_model *m;
    pthread_t thread[3];
    struct err e;

    (void)state;
    assert_int_equal(text_model_open(&m, TOKJSON "/bytes_nfc", &e), 0);
    s = (struct shared) { token_cache_new(m->tokenizer, 16 << 10), m->tokenizer };
    for (size_t i = 0; i < COUNT(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, encode_many, &s), 0);
    for (size_t i = 0; i < COUNT(thread); i++)
        pthread_join(thread[i], NULL);
    token_cache_free(s.c);
    text_model_close(m);
}

/* Whichever allocation fails, the answer is right or an error, and the list is as before. */
static void memory_may_fail_anywhere(void **state)
{
    struct token_list want = { 0 };
    struct text_model *m;
    struct buf text;
    struct err e;

    (void)state;
    assert_int_equal(text_model_open(&m, TOKJSON "/bytes_nfc", &e), 0);
    buf_init(&text, TEXT_MAX);
    for (int i = 0; i < 6; i++)
        buf_f(&text, "<|start|>%0600d<|end|>", i);
    assert_int_equal(tokenizer_encode(m->tokenizer, buf_view(&text), TOKENIZE_PARSE_SPECIAL, &want),
                     0);
    for (uint64_t nth = 1; nth < 60; nth++) {
        struct token_list got = { 0 };
        struct token_cache *c;
        int rc = ERR_NOMEM;

        mem_fail_at(nth);
        c = token_cache_new(m->tokenizer, 1 << 20);
        if (c != NULL)
            rc = token_cache_encode(c, buf_view(&text), NULL, &got);
        mem_fail_at(0);
        if (rc == 0) {
            assert_int_equal(got.count, want.count);
            assert_memory_equal(got.id, want.id, want.count * sizeof(want.id[0]));
        } else {
            assert_int_equal(got.count, 0);
        }
        token_list_fini(&got);
        token_cache_free(c);
    }
    token_list_fini(&want);
    buf_fini(&text);
    text_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_ids_are_those_of_tokenizing_anew),
        cmocka_unit_test(tokens_that_overlap_are_no_place_to_cut),
        cmocka_unit_test(marks_are_part_of_a_text),
        cmocka_unit_test(a_grown_chat_is_tokenized_at_its_end_only),
        cmocka_unit_test(threads_share_a_cache),
        cmocka_unit_test(memory_may_fail_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
