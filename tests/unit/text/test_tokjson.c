/* tokenizer.json: ids as Hugging Face's tokenizers gives them, refusals that name the part, and a
 * model's folder opened in one call. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/file.h"
#include "codec/json.h"
#include "text/chat.h"
#include "text/text_model.h"
#include "text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void path_of(struct buf *b, const char *dir, const char *file)
{
    buf_reset(b);
    assert_true(buf_f(b, "%s/%s/%s", TOKJSON, dir, file) && buf_c(b, '\0'));
}

static void assert_ids(const struct text_model *m, struct str text, unsigned flags,
                       const struct json *want, const char *dir)
{
    struct token_list l = { 0 };
    const struct json *j;
    size_t i = 0;
    uint64_t id;

    assert_int_equal(tokenizer_encode(m->tokenizer, text, flags | TOKENIZE_PARSE_SPECIAL, &l), 0);
    for (j = want->first; j != NULL; j = j->next, i++)
        if (!json_u64(j, &id) || i >= l.count || l.id[i] != id)
            break;
    if (j != NULL || i != l.count)
        fail_msg("%s: \"%.*s\" differs at %zu of %u", dir, STR_ARG(text), i, want->count);
    token_list_fini(&l);
}

static void ids_equal_the_reference(void **state)
{
    static const char *const dirs[] = { "bytes_nfc",    "bytes_words",   "bytes_regex",
                                        "bytes_case",   "chars_prepend", "chars_first",
                                        "chars_unknown" };
    struct buf path, file;

    (void)state;
    buf_init(&path, 4096);
    buf_init(&file, (size_t)1 << 24);
    for (size_t i = 0; i < COUNT(dirs); i++) {
        const struct json *vectors;
        struct text_model *m;
        struct err e = { 0 };
        struct arena a;

        arena_init(&a, (size_t)1 << 26);
        path_of(&path, dirs[i], "");
        if (text_model_open(&m, path.p, &e) != 0)
            fail_msg("%s", e.msg);
        path_of(&path, dirs[i], "vectors.json");
        buf_reset(&file);
        assert_int_equal(file_read(path.p, &file, &e), 0);
        assert_int_equal(json_parse(&a, buf_view(&file), NULL, &vectors, &e), 0);
        assert_true(vectors->count > 150);
        for (const struct json *v = vectors->first; v != NULL; v = v->next) {
            struct str text;

            assert_true(json_str(json_get(v, "text"), &text));
            assert_ids(m, text, 0, json_get(v, "plain"), dirs[i]);
            assert_ids(m, text, TOKENIZE_ADD_SPECIAL, json_get(v, "framed"), dirs[i]);
        }
        text_model_close(m);
        arena_fini(&a);
    }
    buf_fini(&path);
    buf_fini(&file);
}

/* ---- refusals ---- */

static void refusals_name_the_part(void **state)
{
#define MODEL(x)                                                                                   \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]" x "}"
    static const struct {
        const char *json;
        int rc;
        const char *word;
    } cases[] = {
        { "{" MODEL("") "}", 0, NULL },
        { "[]", ERR_PARSE, "object" },
        { "{", ERR_PARSE, "JSON" },
        { "{}", ERR_PARSE, "model" },
        { "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", ERR_UNSUPPORTED, "WordPiece" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", ERR_UNSUPPORTED, "Unigram" },
        { "{" MODEL(",\"end_of_word_suffix\":\"</w>\"") "}", ERR_UNSUPPORTED, "</w>" },
        { "{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL("") "}", ERR_UNSUPPORTED,
          "Precompiled" },
        { "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Odd\"}]}"
          "," MODEL("") "}",
          ERR_UNSUPPORTED, "Odd" },
        { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
          "\"Isolated\"}," MODEL("") "}",
          ERR_UNSUPPORTED, "regular expression" },
        { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":"
          "\"Burned\"}," MODEL("") "}",
          ERR_UNSUPPORTED, "Burned" },
        { "{\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL("") "}", ERR_UNSUPPORTED,
          "BertProcessing" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", ERR_PARSE,
          "id 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}", ERR_LIMIT,
          "4000000000" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", ERR_PARSE,
          "merges" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", ERR_PARSE,
          "merges" },
        { "{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]," MODEL("") "}", ERR_PARSE, "\"x\"" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tokenizer *t = NULL;
        struct err e = { 0 };
        int rc = tokenizer_new_json(&t, str_of(cases[i].json), NULL, &e);

        if (rc != cases[i].rc)
            fail_msg("case %zu: %d, %s", i, rc, e.msg);
        if (rc != 0 && strstr(e.msg, cases[i].word) == NULL)
            fail_msg("case %zu: \"%s\" does not say %s", i, e.msg, cases[i].word);
        assert_true((t == NULL) == (rc != 0));
        tokenizer_free(t);
    }
}

/* ---- folders ---- */

static char folder[64];

static void put(const char *name, const char *text)
{
    char path[128];
    struct err e;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    unlink(path);
    if (text != NULL)
        assert_int_equal(file_write(path, str_of(text), &e), 0);
}

static void assert_renders(const char *path, bool with_tools, const char *want)
{
    struct chat_render_opts o = { 0 };
    const struct chat_template *t;
    struct text_model *m;
    struct arena a;
    struct buf out;
    struct err e = { 0 };

    arena_init(&a, (size_t)1 << 20);
    buf_init(&out, 4096);
    if (text_model_open(&m, path, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(
        json_parse(&a, STR("[{\"role\":\"user\",\"content\":\"hi\"}]"), NULL, &o.messages, &e), 0);
    o.bos_token = m->bos;
    o.eos_token = m->eos;
    t = with_tools && m->tool_template != NULL ? m->tool_template : m->chat_template;
    if (want == NULL) {
        assert_null(t);
    } else {
        assert_non_null(t);
        assert_int_equal(chat_render(t, &o, &out, &e), 0);
        assert_true(buf_c(&out, '\0'));
        assert_string_equal(out.p, want);
    }
    text_model_close(m);
    buf_fini(&out);
    arena_fini(&a);
}

static void a_folder_gives_template_and_ends(void **state)
{
    static const char one[] = "{\"bos_token\":\"a\",\"eos_token\":{\"content\":\"b\"},"
                              "\"chat_template\":\"{{bos_token}}{{messages[0].content}}"
                              "{{eos_token}}\"}";
    static const char several[] =
        "{\"bos_token\":null,\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools\"},"
        "{\"name\":\"default\",\"template\":\"plain\"}]}";
    char path[128];
    struct text_model *m;
    struct err e;

    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/llmd-test-tokjson-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_not_equal(text_model_open(&m, folder, &e), 0);
    assert_null(m);
    put("tokenizer.json", "{" MODEL("") "}");
    assert_renders(folder, false, NULL);
    put("tokenizer_config.json", one);
    assert_renders(folder, false, "ahib");
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    assert_renders(path, false, "ahib");
    put("tokenizer_config.json", several);
    assert_renders(folder, false, "plain");
    assert_renders(folder, true, "tools");
    put("chat_template.json", "{\"chat_template\":\"from json\"}");
    assert_renders(folder, false, "from json");
    put("chat_template.jinja", "from jinja");
    assert_renders(folder, false, "from jinja");
    put("chat_template.jinja", "{% if %}");
    assert_int_not_equal(text_model_open(&m, folder, &e), 0);
    assert_non_null(strstr(e.msg, "chat_template.jinja"));
    put("chat_template.jinja", NULL);
    put("chat_template.json", NULL);
    put("tokenizer_config.json", "{");
    assert_int_not_equal(text_model_open(&m, folder, &e), 0);
    assert_non_null(strstr(e.msg, "tokenizer_config.json"));
    put("tokenizer_config.json", NULL);
    put("tokenizer.json", NULL);
    assert_int_equal(rmdir(folder), 0);
}

/* add_bos_token of a Llama class replaces what tokenizer.json puts around a text. */
static void the_configuration_frames_llama_texts(void **state)
{
    static const struct {
        bool replace, bos, eos;
        uint32_t want[3], count;
    } cases[] = { { false, true, true, { 2 }, 1 },
                  { true, true, false, { 0, 2 }, 2 },
                  { true, true, true, { 0, 2, 1 }, 3 },
                  { true, false, false, { 2 }, 1 } };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tokenizer_json_opts o = { .bos = STR("a"),
                                         .eos = STR("b"),
                                         .replace_frame = cases[i].replace,
                                         .add_bos = cases[i].bos,
                                         .add_eos = cases[i].eos };
        struct token_list l = { 0 };
        struct tokenizer *t;
        struct err e;

        assert_int_equal(tokenizer_new_json(&t, STR("{" MODEL("") "}"), &o, &e), 0);
        assert_int_equal(tokenizer_encode(t, STR("ab"), TOKENIZE_ADD_SPECIAL, &l), 0);
        assert_int_equal(l.count, cases[i].count);
        assert_memory_equal(l.id, cases[i].want, l.count * sizeof(l.id[0]));
        token_list_fini(&l);
        tokenizer_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_reference),
        cmocka_unit_test(refusals_name_the_part),
        cmocka_unit_test(a_folder_gives_template_and_ends),
        cmocka_unit_test(the_configuration_frames_llama_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
