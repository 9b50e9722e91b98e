/* Ids of real vocabularies against those of llama.cpp: 5,031 texts made by rule, the hashes of
 * their ids in tests/golden/tokenizer (make.sh tells how they were asked for).
 *
 * LLMD_TEST_MODELS: a folder with the models of the catalogue; without it the cache folder of
 * `llmd model fetch` is looked at.  LLMD_TEST_VOCABS: a folder with llama.cpp's ggml-vocab-*.gguf
 * and their .inp and .out.  What is absent is skipped by name; when nothing is there, the whole
 * test says skipped (status 77), never passed. */
// SPDX-License-Identifier: Apache-2.0
#include "../../golden/tokenizer/cases.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include "model/gguf.h"
#include "model/model.h"
#include "text/tokenizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static size_t found;

struct vocab_file {
    struct gguf *g;
    struct tokenizer *t;
};

static bool model_path(const char *name, const char *file, const char *alias, struct buf *path)
{
    const char *dir = getenv("LLMD_TEST_MODELS"), *names[] = { file, alias };
    struct err e;

    for (size_t i = 0; dir != NULL && i < COUNT(names); i++) {
        buf_reset(path);
        buf_f(path, "%s/%s", dir, names[i]);
        buf_c(path, '\0');
        if (file_exists(path->p))
            return true;
    }
    buf_reset(path);
    if (catalogue_resolve(str_of(name), path, &e) != 0)
        return false;
    buf_c(path, '\0');
    return true;
}

static bool vocab_path(const char *name, const char *suffix, struct buf *path)
{
    const char *dir = getenv("LLMD_TEST_VOCABS");

    buf_reset(path);
    buf_f(path, "%s/ggml-vocab-%s.gguf%s", dir != NULL ? dir : "", name, suffix);
    buf_c(path, '\0');
    return dir != NULL && file_exists(path->p);
}

static void open_file(struct vocab_file *f, const char *path)
{
    struct err e = { 0 };

    f->t = NULL;
    if (gguf_open(&f->g, path, &e) != 0 || tokenizer_new(&f->t, f->g, &e) != 0)
        fail_msg("%s", e.msg);
    found++;
}

static void close_file(struct vocab_file *f)
{
    tokenizer_free(f->t);
    gguf_close(f->g);
}

static uint64_t hash_encoded(const struct tokenizer *t, struct str text)
{
    uint64_t hash = CASE_HASH_INIT;

    for (int special = 0; special < 2; special++) {
        struct token_list l = { 0 };
        unsigned flags = special != 0 ? TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL : 0;

        assert_int_equal(tokenizer_encode(t, text, flags, &l), 0);
        for (size_t i = 0; i < l.count; i++)
            hash = case_hash(hash, l.id[i]);
        hash = case_hash(hash, UINT32_MAX);
        token_list_fini(&l);
    }
    return hash;
}

static uint64_t hash_vocabulary(const struct tokenizer *t)
{
    uint64_t hash = CASE_HASH_INIT;
    struct buf b;

    buf_init(&b, (size_t)1 << 20);
    for (uint32_t id = 0; id < tokenizer_count(t); id++) {
        bool shown;

        buf_reset(&b);
        assert_true(tokenizer_piece(t, id, false, &b));
        shown = b.len > 0;
        buf_reset(&b);
        assert_true(tokenizer_piece(t, id, true, &b));
        hash =
            case_hash(hash, (uint32_t)tokenizer_is_eog(t, id) |
                                (uint32_t)tokenizer_is_control(t, id) << 1 | (uint32_t)shown << 2);
        for (size_t i = 0; i < b.len; i++)
            hash = case_hash(hash, (uint8_t)b.p[i]);
        hash = case_hash(hash, UINT32_MAX);
    }
    buf_fini(&b);
    return hash;
}

static uint64_t golden_at(const struct buf *golden, size_t i)
{
    uint64_t h = 0;

    for (size_t j = 8; j > 0; j--)
        h = h << 8 | (uint8_t)golden->p[8 * i + j - 1];
    return h;
}

/* However the tokens arrive, the stream is the whole with its bad bytes replaced, and never gives
 * half a character. */
static void stream_back(const struct tokenizer *t, struct str text)
{
    struct token_list l = { 0 };
    struct buf out, whole, lossy;
    struct detok d;

    buf_init(&out, (size_t)4 << 20);
    buf_init(&whole, (size_t)4 << 20);
    buf_init(&lossy, (size_t)4 << 20);
    assert_int_equal(tokenizer_encode(t, text, 0, &l), 0);
    detok_init(&d, t, true);
    d.first = false; /* a space that SPM put before the text stays, as in the pieces */
    for (size_t i = 0; i < l.count; i++) {
        size_t before = out.len;

        assert_true(detok_add(&d, l.id[i], &out));
        assert_true(utf8_valid(str_sub(buf_view(&out), before, SIZE_MAX)));
        assert_true(tokenizer_piece(t, l.id[i], true, &whole));
    }
    assert_true(detok_flush(&d, &out));
    detok_fini(&d);
    assert_true(utf8_lossy(&lossy, buf_view(&whole)));
    if (!str_eq(buf_view(&lossy), buf_view(&out)))
        fail_msg("the stream of \"%.*s\" is not the whole", STR_ARG(str_sub(text, 0, 80)));
    buf_fini(&out);
    buf_fini(&whole);
    buf_fini(&lossy);
    token_list_fini(&l);
}

static void check_golden(const char *name, const char *path)
{
    char *text = mem_alloc(CASE_BYTES_MAX), file[4096];
    struct vocab_file f;
    struct buf golden;
    struct err e;
    size_t bad = 0;

    snprintf(file, sizeof(file), "%s/%s.hash", TOKENIZER_GOLDEN, name);
    buf_init(&golden, (size_t)1 << 20);
    if (file_read(file, &golden, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(golden.len, 8 * (CASE_COUNT + 1));
    open_file(&f, path);
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct str s = { text, case_make(i, text) };

        if (hash_encoded(f.t, s) != golden_at(&golden, i) && bad++ < 5)
            print_message("%s: case %zu differs: \"%.*s\"\n", name, i, STR_ARG(str_sub(s, 0, 80)));
        if (i % 7 == 0)
            stream_back(f.t, s);
    }
    if (hash_vocabulary(f.t) != golden_at(&golden, CASE_COUNT) && bad++ < 6)
        print_message("%s: kinds or texts of tokens differ\n", name);
    assert_int_equal(bad, 0);
    close_file(&f);
    buf_fini(&golden);
    mem_free(text);
}

static void check_model(const char *golden, const char *name, const char *file, const char *alias)
{
    struct buf path;
    bool is_there;

    buf_init(&path, 4096);
    is_there = model_path(name, file, alias, &path);
    if (is_there) {
        check_golden(golden, path.p);
        buf_fini(&path);
        return;
    }
    buf_fini(&path);
    print_message("SKIPPED %s: no such model in LLMD_TEST_MODELS or the cache folder\n", name);
    skip();
}

static void smollm2_gives_the_ids_of_llama_cpp(void **state)
{
    (void)state;
    check_model("smollm2", "smollm2-135m", "smollm2-135m-instruct-q4_1.gguf", "smollm2.gguf");
}

static void qwen_gives_the_ids_of_llama_cpp(void **state)
{
    (void)state;
    check_model("qwen2.5", "qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                "qwen.gguf");
}

static void gemma3_gives_the_ids_of_llama_cpp(void **state)
{
    (void)state;
    check_model("gemma3", "gemma3-270m", "gemma-3-270m-q4_k_m.gguf", "gemma3.gguf");
}

static const char *const vocabs[] = { "gpt-2",  "llama-bpe", "qwen2",     "llama-spm", "phi-3",
                                      "qwen35", "falcon",    "starcoder", "gpt-neox" };

static void vocabularies_give_the_ids_of_llama_cpp(void **state)
{
    struct buf path;
    size_t absent = 0;

    (void)state;
    buf_init(&path, 4096);
    for (size_t i = 0; i < COUNT(vocabs); i++)
        if (vocab_path(vocabs[i], "", &path)) {
            check_golden(vocabs[i], path.p);
        } else {
            print_message("SKIPPED ggml-vocab-%s.gguf: not in LLMD_TEST_VOCABS\n", vocabs[i]);
            absent++;
        }
    buf_fini(&path);
    if (absent == COUNT(vocabs))
        skip();
}

/* Published texts are separated by a line; published ids are a line each. */
static void check_published(const char *name, struct str in, struct str out)
{
    const struct str mark = STR("\n__ggml_vocab_test__\n");
    struct buf path;
    struct vocab_file f;
    size_t cases = 0;

    buf_init(&path, 4096);
    assert_true(vocab_path(name, "", &path));
    open_file(&f, path.p);
    buf_fini(&path);
    while (in.n > 0) {
        size_t end = str_find(in, mark);
        struct str text = str_sub(in, 0, end != SIZE_MAX ? end : in.n), line = str_cut(&out, '\n');
        struct token_list l = { 0 };
        size_t i = 0;

        in = str_sub(in, end != SIZE_MAX ? end + mark.n : in.n, in.n);
        assert_int_equal(tokenizer_encode(f.t, text, 0, &l), 0);
        while ((line = str_trim(line)).n > 0) {
            struct str word = str_cut(&line, ' ');
            uint64_t id;

            assert_true(str_u64(word, &id));
            if (i >= l.count || l.id[i] != id)
                fail_msg("%s: \"%.*s\" differs at %zu", name, STR_ARG(text), i);
            i++;
        }
        assert_int_equal(i, l.count);
        token_list_fini(&l);
        cases++;
    }
    assert_true(cases > 20);
    close_file(&f);
}

static void published_vectors_hold(void **state)
{
    static const char *const names[] = { "gpt-2",  "llama-bpe", "qwen2",    "llama-spm",
                                         "phi-3",  "qwen35",    "falcon",   "starcoder",
                                         "refact", "mpt",       "command-r" };
    struct buf path, in, out;
    size_t absent = 0;
    struct err e;

    (void)state;
    buf_init(&path, 4096);
    buf_init(&in, (size_t)1 << 20);
    buf_init(&out, (size_t)1 << 20);
    for (size_t i = 0; i < COUNT(names); i++) {
        buf_reset(&in);
        buf_reset(&out);
        if (!vocab_path(names[i], ".inp", &path) || file_read(path.p, &in, &e) != 0 ||
            !vocab_path(names[i], ".out", &path) || file_read(path.p, &out, &e) != 0) {
            print_message("SKIPPED published vectors of %s: not in LLMD_TEST_VOCABS\n", names[i]);
            absent++;
            continue;
        }
        check_published(names[i], buf_view(&in), buf_view(&out));
    }
    buf_fini(&path);
    buf_fini(&in);
    buf_fini(&out);
    if (absent == COUNT(names))
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_gives_the_ids_of_llama_cpp),
        cmocka_unit_test(qwen_gives_the_ids_of_llama_cpp),
        cmocka_unit_test(gemma3_gives_the_ids_of_llama_cpp),
        cmocka_unit_test(vocabularies_give_the_ids_of_llama_cpp),
        cmocka_unit_test(published_vectors_hold),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return failed != 0 ? failed : found == 0 ? 77 : 0;
}
