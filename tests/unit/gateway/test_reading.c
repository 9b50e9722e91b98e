/* A request body, read once: the same tokens and keys as the worker and the index make. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/log.h"
#include "gateway/reading.h"
#include "kv/index.h"
#include "mkmodel/mkmodel.h"
#include "model/gguf.h"
#include "text/chat.h"
#include "text/text_model.h"
#include "text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 16

struct world {
    char path[64];
    struct loop *loop;
    struct reader *exact, *guessing;
    struct gguf *gguf;
    struct tokenizer *tok;
    struct chat_template *template;
    struct kv_index *index;
};

static struct world w;

static int setup(void **state)
{
    struct reader_opts o = { .seed = "s", .block_tokens = BLOCK };
    struct kv_index_opts k = { .block_tokens = BLOCK, .hash = INDEX_HASH_XXH64, .seed = "s" };
    struct mkmodel m;
    struct err e;
    struct str source;
    int fd;

    (void)state;
    snprintf(w.path, sizeof(w.path), "/tmp/llmd-test-reading-XXXXXX");
    fd = mkstemp(w.path);
    assert_true(fd >= 0);
    close(fd);
    mkmodel_defaults(&m, "llama");
    m.layers = 1;
    m.embd = 64;
    m.heads = 1;
    m.kv_heads = 1;
    m.ff = 64;
    assert_int_equal(mkmodel_write(&m, w.path, &e), 0);
    assert_int_equal(loop_new(&w.loop, &e), 0);
    assert_int_equal(reader_new(&w.guessing, w.loop, &o, &e), 0);
    o.model = w.path;
    if (reader_new(&w.exact, w.loop, &o, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(gguf_open(&w.gguf, w.path, &e), 0);
    assert_int_equal(tokenizer_new(&w.tok, w.gguf, &e), 0);
    assert_true(gguf_str(w.gguf, "tokenizer.chat_template", &source));
    assert_int_equal(chat_template_new(&w.template, source, &e), 0);
    w.index = kv_index_new(&k);
    return 0;
}

static void end_loop(void *ctx)
{
    loop_stop(ctx);
}

static int teardown(void **state)
{
    (void)state;
    reader_free(w.exact);
    reader_free(w.guessing);
    loop_post(w.loop, end_loop, w.loop); /* after the jobs that were read but not yet delivered */
    loop_run(w.loop);
    loop_free(w.loop);
    kv_index_free(w.index);
    chat_template_free(w.template);
    tokenizer_free(w.tok);
    gguf_close(w.gguf);
    unlink(w.path);
    return 0;
}

static void read_it(struct reader *r, enum reading_kind kind, const char *body, struct reading *out)
{
    reader_read(r, kind, str_of(body), STR("default"), out);
}

/* What the index makes of these tokens. */
static void assert_keys(const struct reading *r, const char *model, const char *salt,
                        const struct token_list *tokens)
{
    uint64_t keys[512];
    uint32_t n;

    assert_true(tokens->count / BLOCK <= COUNT(keys));
    assert_int_equal(r->prompt_tokens, tokens->count);
    n = kv_index_keys(w.index, str_of(model), str_of(salt), tokens->id, (uint32_t)tokens->count,
                      keys);
    assert_int_equal(n, tokens->count / BLOCK);
    assert_int_equal(r->key_count, n);
    assert_memory_equal(r->keys, keys, n * sizeof(keys[0]));
}

#define TEXT                                                                                       \
    "The quick brown fox jumps over the lazy dog, again and again, until the evening comes and "   \
    "it is dark. "

static void a_chat_is_rendered_as_the_worker_renders_it(void **state)
{
    static const char body[] =
        "{\"model\":\"m\",\"stream\":true,\"max_completion_tokens\":7,\"messages\":["
        "{\"role\":\"system\",\"content\":\"" TEXT "\"},{\"role\":\"user\",\"content\":\"" TEXT
        "<|im_end|>\"}]}";
    struct chat_render_opts o = { .add_generation_prompt = true };
    struct token_list tokens = { 0 };
    const struct json *j;
    struct reading r;
    struct arena a;
    struct err e;

    (void)state;
    arena_init(&a, (size_t)1 << 20);
    assert_int_equal(json_parse(&a, str_of(body), NULL, &j, &e), 0);
    o.messages = json_get(j, "messages");
    if (tokenizer_bos(w.tok) != UINT32_MAX)
        o.bos_token = tokenizer_text(w.tok, tokenizer_bos(w.tok));
    if (tokenizer_eos(w.tok) != UINT32_MAX)
        o.eos_token = tokenizer_text(w.tok, tokenizer_eos(w.tok));
    assert_int_equal(chat_tokenize(w.template, &o, w.tok, &tokens, &e), 0);
    read_it(w.exact, READING_CHAT, body, &r);
    assert_int_equal(r.error.status, 0);
    assert_false(r.estimated);
    assert_true(r.stream);
    assert_int_equal(r.max_tokens, 7);
    assert_true(str_eqz(r.model, "m"));
    assert_keys(&r, "m", NULL, &tokens);
    assert_true(r.key_count > 4);
    reading_free(&r);
    token_list_fini(&tokens);
    arena_fini(&a);
}

static void a_completion_is_text_or_ids(void **state)
{
    struct token_list tokens = { 0 };
    struct reading r;

    (void)state;
    assert_int_equal(tokenizer_encode(w.tok, STR(TEXT TEXT),
                                      TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL, &tokens),
                     0);
    read_it(w.exact, READING_COMPLETION,
            "{\"model\":\"m\",\"prompt\":\"" TEXT TEXT "\",\"cache_salt\":\"t1\"}", &r);
    assert_false(r.estimated);
    assert_true(str_eqz(r.salt, "t1"));
    assert_keys(&r, "m", "t1", &tokens);
    reading_free(&r);
    token_list_fini(&tokens);

    /* ids need no tokenizer */
    for (uint32_t i = 1; i <= 40; i++)
        assert_true(token_list_add(&tokens, i));
    read_it(w.guessing, READING_COMPLETION,
            "{\"prompt\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,"
            "28,29,30,31,32,33,34,35,36,37,38,39,40]}",
            &r);
    assert_false(r.estimated);
    assert_null(r.model.p);
    assert_keys(&r, "default", NULL, &tokens);
    reading_free(&r);
    token_list_fini(&tokens);
}

/* Keys of a body, for comparing. */
struct keys {
    uint64_t key[600];
    uint32_t count;
};

static struct keys keys_of(struct reader *rd, enum reading_kind kind, const char *body)
{
    struct keys k = { { 0 }, 0 };
    struct reading r;

    read_it(rd, kind, body, &r);
    assert_int_equal(r.error.status, 0);
    assert_true(r.key_count <= COUNT(k.key));
    k.count = r.key_count;
    if (k.count != 0)
        memcpy(k.key, r.keys, k.count * sizeof(k.key[0]));
    reading_free(&r);
    return k;
}

static uint32_t shared(const struct keys *a, const struct keys *b)
{
    uint32_t n = 0;

    while (n < a->count && n < b->count && a->key[n] == b->key[n])
        n++;
    return n;
}

static void text_parts_and_a_continued_answer_make_the_workers_tokens(void **state)
{
    static const char parts[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" TEXT
        "\"},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}";
    static const char joined[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\\n" TEXT "\"}]}";
    static const char answered[] =
        "{\"continue_final_message\":true,\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT
        "\"},{\"role\":\"assistant\",\"content\":\"" TEXT "\"}]}";
    static const char open_end[] =
        "{\"add_generation_prompt\":false,\"continue_final_message\":true,\"messages\":[{\"role\":"
        "\"user\",\"content\":\"" TEXT "\"},{\"role\":\"assistant\",\"content\":\"" TEXT "\"}]}";
    struct keys a = keys_of(w.exact, READING_CHAT, parts);
    struct keys b = keys_of(w.exact, READING_CHAT, joined);
    struct reading r;

    (void)state;
    assert_true(a.count > 2);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.key, b.key, a.count * sizeof(a.key[0]));
    a = keys_of(w.exact, READING_CHAT, answered);
    b = keys_of(w.exact, READING_CHAT, open_end);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.key, b.key, a.count * sizeof(a.key[0]));
    read_it(w.exact, READING_CHAT, answered, &r);
    assert_false(r.estimated);
    reading_free(&r);
}

static void tokens_of_a_body_are_those_of_its_keys(void **state)
{
    static const struct {
        enum reading_kind kind;
        const char *body;
        int rc;
    } cases[] = {
        { READING_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}", 0 },
        { READING_COMPLETION, "{\"model\":\"m\",\"prompt\":\"" TEXT "\"}", 0 },
        { READING_COMPLETION, "{\"prompt\":[5,6,7]}", 0 },
        { READING_CHAT, "{\"messages\":7}", ERR_INVAL },
        { READING_COMPLETION, "{\"prompt\":7}", ERR_INVAL },
        { READING_OTHER, "{\"input\":\"x\"}", ERR_UNSUPPORTED },
        { READING_CHAT, "{", ERR_PARSE },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct token_list l = { 0 };
        struct reading r;
        struct err e;

        assert_int_equal(
            reader_tokens(w.exact, cases[i].kind, str_of(cases[i].body), STR("default"), &l, &e),
            cases[i].rc);
        if (cases[i].rc == 0) {
            read_it(w.exact, cases[i].kind, cases[i].body, &r);
            assert_keys(&r, r.model.p != NULL ? "m" : "default", NULL, &l);
            reading_free(&r);
        } else {
            assert_int_equal(l.count, 0);
            assert_true(e.msg[0] != '\0');
        }
        token_list_fini(&l);
        if (cases[i].kind == READING_CHAT)
            assert_int_not_equal(reader_tokens(w.guessing, READING_CHAT, str_of(cases[i].body),
                                               STR("default"), &l, &e),
                                 0);
        token_list_fini(&l);
    }
}

static void a_distrusted_model_is_estimated(void **state)
{
    static const char *const body = "{\"model\":\"m\",\"prompt\":\"" TEXT "\"}";
    static const char *const other = "{\"model\":\"n\",\"prompt\":\"" TEXT "\"}";
    static const char *const ids = "{\"model\":\"m\",\"prompt\":[1,2,3]}";
    const struct str name[] = { STR("k"), STR("m") };
    struct token_list l = { 0 };
    struct reading r;
    struct err e;

    (void)state;
    reader_distrust(w.exact, name, COUNT(name));
    read_it(w.exact, READING_COMPLETION, body, &r);
    assert_true(r.estimated);
    assert_false(r.render_failed);
    reading_free(&r);
    read_it(w.exact, READING_COMPLETION, other, &r);
    assert_false(r.estimated);
    reading_free(&r);
    read_it(w.exact, READING_COMPLETION, ids, &r);
    assert_false(r.estimated);
    assert_int_equal(r.prompt_tokens, 3);
    reading_free(&r);
    assert_int_equal(
        reader_tokens(w.exact, READING_COMPLETION, str_of(body), STR("default"), &l, &e), 0);
    token_list_fini(&l);
    reader_distrust(w.exact, NULL, 0);
    read_it(w.exact, READING_COMPLETION, body, &r);
    assert_false(r.estimated);
    reading_free(&r);
}

static void the_bodys_name_picks_the_model(void **state)
{
    const struct reader_model models[] = { { "tiny", LLMD_TOKJSON "/bytes_nfc" },
                                           { "other", LLMD_TOKJSON "/chars_first" },
                                           { NULL, w.path } };
    struct reader_opts o = {
        .seed = "s", .block_tokens = BLOCK, .models = models, .model_count = COUNT(models)
    };
    static const char *const bodies[] = { "{\"model\":\"tiny\",\"prompt\":\"" TEXT "\"}",
                                          "{\"model\":\"other\",\"prompt\":\"" TEXT "\"}",
                                          "{\"model\":\"m\",\"prompt\":\"" TEXT "\"}",
                                          "{\"prompt\":\"" TEXT "\"}" };
    static const char *const names[] = { "tiny", "other", "m", "default" };
    struct reader *r;
    struct err e;

    (void)state;
    assert_int_equal(reader_new(&r, w.loop, &o, &e), 0);
    assert_true(reader_has_model(r));
    for (size_t i = 0; i < COUNT(bodies); i++) {
        struct token_list want = { 0 };
        struct text_model *m;
        struct reading got;

        assert_int_equal(text_model_open(&m, models[MIN(i, (size_t)2)].path, &e), 0);
        assert_int_equal(tokenizer_encode(m->tokenizer, STR(TEXT),
                                          TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL, &want),
                         0);
        read_it(r, READING_COMPLETION, bodies[i], &got);
        assert_false(got.estimated);
        assert_keys(&got, names[i], NULL, &want);
        reading_free(&got);
        token_list_fini(&want);
        text_model_close(m);
    }
    reader_free(r);
    o.model_count = 2; /* no model for other names */
    assert_int_equal(reader_new(&r, w.loop, &o, &e), 0);
    for (size_t i = 0; i < COUNT(bodies); i++) {
        struct reading got;

        read_it(r, READING_COMPLETION, bodies[i], &got);
        assert_int_equal(got.estimated, i >= 2);
        assert_false(got.render_failed);
        reading_free(&got);
    }
    reader_free(r);
}

/* A guess is of the bytes as they stand, wherever the parts that it is made of end. */
static void guessed_keys_follow_the_bytes(void **state)
{
    static const char tail[] = TEXT TEXT TEXT TEXT;
    char body[2048];

    (void)state;
    for (int n = 0; n < 80; n++) {
        struct keys a, b;
        struct reading r;

        /* tools of every length, the same message: equal keys exactly for equal bodies */
        snprintf(body, sizeof(body), "{\"tools\":[\"%.*s\"],\"messages\":[\"%s\"]}", n, tail, tail);
        a = keys_of(w.guessing, READING_CHAT, body);
        b = keys_of(w.guessing, READING_CHAT, body);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.key, b.key, a.count * sizeof(a.key[0]));
        read_it(w.guessing, READING_CHAT, body, &r);
        assert_int_equal(r.prompt_tokens, (n + 4 + 3) / 4 + (strlen(tail) + 3 + 3) / 4);
        assert_int_equal(r.key_count, r.prompt_tokens / BLOCK);
        reading_free(&r);
        snprintf(body, sizeof(body), "{\"messages\":[\"%s\"],\"tools\":[\"%.*s!\"]}", tail, n,
                 tail);
        b = keys_of(w.guessing, READING_CHAT, body);
        assert_int_equal(shared(&a, &b), (uint32_t)(n + 2) / 64);
    }
}

static void a_longer_talk_begins_with_the_keys_of_the_shorter(void **state)
{
#define TURN1 "{\"role\":\"user\",\"content\":\"" TEXT "\"}"
#define TURN2                                                                                      \
    ",{\"role\":\"assistant\",\"content\":\"" TEXT "\"},{\"role\":\"user\",\"content\":\"more\"}"
    static const char one[] = "{\"model\":\"m\",\"messages\":[" TURN1 "]}";
    static const char two[] = "{\"model\":\"m\",\"messages\":[" TURN1 TURN2 "]}";
    static const char other[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x" TEXT "\"}]}";
    struct reader *readers[] = { w.exact, w.guessing };

    (void)state;
    for (size_t i = 0; i < COUNT(readers); i++) {
        struct keys a = keys_of(readers[i], READING_CHAT, one),
                    b = keys_of(readers[i], READING_CHAT, two);
        struct keys c = keys_of(readers[i], READING_CHAT, other);

        assert_true(a.count >= 1);
        assert_true(shared(&a, &b) + 1 >= a.count); /* the last block may hold the turn's end */
        assert_true(shared(&a, &b) >= 1);
        assert_true(b.count > a.count);
        assert_true(shared(&a, &c) <= 1);
    }
}

static void model_and_salt_part_the_keys(void **state)
{
    const char *const bodies[] = {
        "{\"model\":\"m\",\"prompt\":\"" TEXT TEXT "\"}",
        "{\"model\":\"n\",\"prompt\":\"" TEXT TEXT "\"}",
        "{\"model\":\"m\",\"prompt\":\"" TEXT TEXT "\",\"cache_salt\":\"a\"}",
        "{\"model\":\"m\",\"prompt\":\"" TEXT TEXT "\",\"cache_salt\":\"b\"}",
        "{\"prompt\":\"" TEXT TEXT "\"}",
    };
    struct keys k[COUNT(bodies)],
        named = keys_of(w.exact, READING_COMPLETION,
                        "{\"model\":\"default\",\"prompt\":\"" TEXT TEXT "\"}");

    (void)state;
    for (size_t i = 0; i < COUNT(bodies); i++)
        k[i] = keys_of(w.exact, READING_COMPLETION, bodies[i]);
    for (size_t i = 0; i < COUNT(bodies); i++)
        for (size_t j = 0; j < i; j++)
            assert_int_equal(shared(&k[i], &k[j]), 0);
    assert_int_equal(shared(&k[4], &named), named.count); /* no model named: the fleet's */
}

static void what_cannot_be_rendered_is_guessed_and_said(void **state)
{
    struct reading r;

    (void)state;
    read_it(w.guessing, READING_CHAT,
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}", &r);
    assert_true(r.estimated);
    assert_false(r.render_failed);
    assert_in_range(r.prompt_tokens, 25, 45); /* a quarter of the bytes */
    reading_free(&r);
    read_it(w.exact, READING_CHAT, "{\"model\":\"m\",\"messages\":7}", &r);
    assert_int_equal(r.error.status, 0); /* the worker says what is wrong with it */
    assert_true(r.estimated && r.render_failed);
    reading_free(&r);
    read_it(w.exact, READING_OTHER, "{\"model\":\"m\",\"input\":[\"a\",\"b\"]}", &r);
    assert_true(r.estimated);
    assert_false(r.render_failed);
    reading_free(&r);
    read_it(w.exact, READING_COMPLETION, "{\"model\":\"m\"}", &r);
    assert_int_equal(r.error.status, 0);
    assert_int_equal(r.prompt_tokens, 0);
    reading_free(&r);
}

static void several_prompts_go_by_the_first(void **state)
{
    struct keys one =
        keys_of(w.exact, READING_COMPLETION, "{\"model\":\"m\",\"prompt\":\"" TEXT "\"}");
    struct keys two = keys_of(w.exact, READING_COMPLETION,
                              "{\"model\":\"m\",\"prompt\":[\"" TEXT "\",\"" TEXT TEXT "\"]}");
    struct reading r, alone;

    (void)state;
    assert_int_equal(shared(&one, &two), one.count);
    assert_int_equal(one.count, two.count);
    read_it(w.exact, READING_COMPLETION,
            "{\"model\":\"m\",\"prompt\":[\"" TEXT "\",\"" TEXT TEXT "\"]}", &r);
    read_it(w.exact, READING_COMPLETION, "{\"model\":\"m\",\"prompt\":\"" TEXT "\"}", &alone);
    assert_true(r.prompt_tokens > alone.prompt_tokens + 30);
    reading_free(&r);
    reading_free(&alone);
}

static void bad_bodies_are_refused(void **state)
{
    static const struct {
        const char *body, *code;
    } cases[] = {
        { "", "invalid_json" },
        { "{", "invalid_json" },
        { "7", "invalid_json" },
        { "{\"a\":\"\xff\"}", "invalid_json" },
        { "{\"kv_transfer_params\":{}}", "reserved_field" },
        { "{\"ec_transfer_params\":[1]}", "reserved_field" },
        { "{\"remote_host\":\"h\"}", "reserved_field" },
        { "{\"do_remote_decode\":true}", "reserved_field" },
        { "{\"bootstrap_room\":1}", "reserved_field" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct reading r;

        read_it(w.exact, READING_COMPLETION, cases[i].body, &r);
        assert_int_equal(r.error.status, 400);
        assert_string_equal(r.error.code, cases[i].code);
        reading_free(&r);
    }
    {
        struct reading r;

        read_it(w.exact, READING_COMPLETION, "{\"prompt\":\"x\",\"kv_transfer_params\":null}", &r);
        assert_int_equal(r.error.status, 0);
        reading_free(&r);
    }
}

/* ---- the thread ---- */

static uint32_t finished;

static void done(void *ctx, struct reading *r)
{
    uint32_t *left = ctx;

    assert_int_equal(r->error.status, 0);
    assert_true(r->key_count > 0);
    reading_free(r);
    finished++;
    if (--*left == 0)
        loop_stop(w.loop);
}

static void must_not(void *ctx, struct reading *r)
{
    (void)ctx;
    (void)r;
    fail_msg("a dropped job was told of");
}

static void the_thread_reads_and_forgets_what_was_dropped(void **state)
{
    static const char body[] = "{\"model\":\"m\",\"prompt\":\"" TEXT TEXT TEXT "\"}";
    uint32_t left = 20, queued = 0;

    (void)state;
    finished = 0;
    for (int i = 0; i < 20; i++) {
        struct reader_job *gone =
            reader_start(w.exact, READING_COMPLETION, STR(body), STR("m"), must_not, NULL);

        assert_non_null(gone);
        reader_drop(gone);
        assert_non_null(
            reader_start(w.exact, READING_COMPLETION, STR(body), STR("m"), done, &left));
    }
    loop_run(w.loop);
    assert_int_equal(finished, 20);
    /* the queue has a ceiling, and what is still in it goes with the reader (see teardown) */
    while (queued <= READER_QUEUE_MAX) {
        struct reader_job *j =
            reader_start(w.exact, READING_COMPLETION, STR(body), STR("m"), must_not, NULL);

        if (j == NULL)
            break;
        reader_drop(j);
        queued++;
    }
    assert_in_range(queued, 1, READER_QUEUE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_rendered_as_the_worker_renders_it),
        cmocka_unit_test(a_completion_is_text_or_ids),
        cmocka_unit_test(tokens_of_a_body_are_those_of_its_keys),
        cmocka_unit_test(a_distrusted_model_is_estimated),
        cmocka_unit_test(the_bodys_name_picks_the_model),
        cmocka_unit_test(guessed_keys_follow_the_bytes),
        cmocka_unit_test(text_parts_and_a_continued_answer_make_the_workers_tokens),
        cmocka_unit_test(a_longer_talk_begins_with_the_keys_of_the_shorter),
        cmocka_unit_test(model_and_salt_part_the_keys),
        cmocka_unit_test(what_cannot_be_rendered_is_guessed_and_said),
        cmocka_unit_test(several_prompts_go_by_the_first),
        cmocka_unit_test(bad_bodies_are_refused),
        cmocka_unit_test(the_thread_reads_and_forgets_what_was_dropped),
    };

    log_init("test", LOG_ERROR_LEVEL);
    return cmocka_run_group_tests(tests, setup, teardown);
}
