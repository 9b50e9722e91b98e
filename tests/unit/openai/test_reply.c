/* Replies: exact bytes of small ones, and the openai package's verdict on all of them. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/openai.h"
#include "base/check.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct oai_reply_meta meta = {
    { "chatcmpl-1", 10 }, { "m", 1 }, 1760000000, { NULL, 0 }
};
static const struct oai_usage usage = { 3, 2, 0 };
static const struct oai_usage cached = { 300, 2, 256 };

static const struct oai_logprob logprobs[] = {
    { .token = { "Hi", 2 },
      .id = 5,
      .logprob = -0.1f,
      .top_count = 2,
      .top = { { { "Hi", 2 }, 5, -0.1f }, { { "\xf0\x9f", 2 }, 6, -INFINITY } } },
    { .token = { " \"x\"\n", 5 },
      .id = 9,
      .logprob = -3.0e-8f,
      .text_offset = 2,
      .top_count = 2,
      .top = { { { "a", 1 }, 1, -1.5f }, { { "a", 1 }, 2, -2.5f } } },
};

static void a_chat_reply_has_every_member(void **state)
{
    static const uint32_t ids[] = { 1, 2 }, prompt[] = { 7 };
    struct oai_reply_meta m = meta;
    struct oai_choice c = { .text = STR("a\"\xc3\xa9"),
                            .finish_reason = "stop",
                            .stop_reason_id = 42,
                            .token_ids = ids,
                            .token_id_count = 2,
                            .prompt_ids = prompt,
                            .prompt_id_count = 1 };
    struct buf b;

    (void)state;
    m.kv_transfer_params = STR("{\"x\":1}");
    buf_init(&b, 1u << 16);
    oai_chat_reply(&b, &m, &c, 1, &cached);
    buf_c(&b, '\0');
    assert_string_equal(
        b.p,
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":"
        "\"m\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\\"\xc3\xa9\","
        "\"refusal\":null,"
        "\"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null},"
        "\"logprobs\":null,"
        "\"finish_reason\":\"stop\",\"stop_reason\":42,\"token_ids\":[1,2]}],\"service_tier\":null,"
        "\"system_fingerprint\":\"llmd-" LLMD_VERSION
        "\",\"usage\":{\"prompt_tokens\":300,\"total_tokens\":302,"
        "\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":256}},\"prompt_"
        "logprobs\":null,"
        "\"prompt_token_ids\":[7],\"kv_transfer_params\":{\"x\":1}}");
    buf_fini(&b);
}

static void a_chat_stream_leaves_out_what_is_not_set(void **state)
{
    struct oai_choice c = { .text = STR(""), .stop_reason_id = -1 };
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 16);
    oai_chat_chunk(&b, &meta, &c, true, NULL);
    c.text = STR("x");
    oai_chat_chunk(&b, &meta, &c, false, NULL);
    c.finish_reason = "length";
    c.text = STR("");
    oai_chat_chunk(&b, &meta, &c, false, NULL);
    oai_chat_chunk(&b, &meta, NULL, false, &usage);
    oai_sse_done(&b);
    buf_c(&b, '\0');
#define HEAD                                                                                       \
    "data: "                                                                                       \
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"          \
    "\"model\":\"m\","
    assert_string_equal(
        b.p, HEAD
        "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
        "\"logprobs\":null,"
        "\"finish_reason\":null}]}\n\n" HEAD
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"logprobs\":null,\"finish_"
        "reason\":null}]}\n\n" HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},"
        "\"logprobs\":null,\"finish_reason\":\"length\","
        "\"stop_reason\":null}],\"system_fingerprint\":\"llmd-" LLMD_VERSION "\"}\n\n" HEAD
        "\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"total_tokens\":5,\"completion_tokens\":2,"
        "\"prompt_tokens_details\":null}}\n\n"
        "data: [DONE]\n\n");
    buf_fini(&b);
}

static void logprobs_are_short_and_never_infinite(void **state)
{
    struct oai_choice c = { .finish_reason = "stop",
                            .stop_reason_id = -1,
                            .want_logprobs = true,
                            .logprobs = logprobs,
                            .logprob_count = 2 };
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 16);
    oai_chat_reply(&b, &meta, &c, 1, &usage);
    buf_c(&b, '\0');
    assert_non_null(
        strstr(b.p, "\"logprobs\":{\"content\":[{\"token\":\"Hi\",\"logprob\":-0.1,\"bytes\":[72,"
                    "105],\"top_logprobs\":["
                    "{\"token\":\"Hi\",\"logprob\":-0.1,\"bytes\":[72,105]},"
                    "{\"token\":\"\xef\xbf\xbd\",\"logprob\":-9999.0,\"bytes\":[240,159]}]},"));
    assert_non_null(strstr(b.p, "\"logprob\":-3e-08,"));
    buf_reset(&b);
    oai_completion_reply(&b, &meta, &c, 1, &usage);
    buf_c(&b, '\0');
    assert_non_null(strstr(b.p, "\"logprobs\":{\"text_offset\":[0,2],\"token_logprobs\":[-0.1,-3e-"
                                "08],\"tokens\":[\"Hi\",\" \\\"x\\\"\\n\"],"
                                "\"top_logprobs\":[{\"Hi\":-0.1,\"\xef\xbf\xbd\":-9999.0},{\"a\":-"
                                "1.5,\" \\\"x\\\"\\n\":-3e-08}]}"));
    buf_fini(&b);
}

static void an_error_has_status_as_code_and_a_reason(void **state)
{
    struct oai_error e;
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 16);
    assert_int_equal(oai_fail(&e, 404, "NotFoundError", "model_not_found", "model",
                              "The model `%s` does not exist.", "x\"y"),
                     ERR_INVAL);
    oai_sse_error(&b, &e);
    buf_c(&b, '\0');
    assert_string_equal(
        b.p,
        "data: {\"error\":{\"message\":\"The model `x\\\"y` does not exist.\",\"type\":"
        "\"NotFoundError\",\"param\":\"model\",\"code\":404,\"reason\":\"model_not_found\"}}\n\n");
    buf_fini(&b);
}

/* One line each: the newlines of a stream become byte 1, which JSON cannot hold. */
static void put_line(FILE *f, const char *kind, const struct buf *b)
{
    (void)fprintf(f, "%s\t", kind);
    for (size_t i = 0; i < b->len; i++)
        (void)fputc(b->p[i] == '\n' ? 1 : b->p[i], f);
    (void)fputc('\n', f);
}

static void put_streams(FILE *f, struct oai_choice c, const struct oai_usage *u)
{
    struct oai_error e;
    struct buf b;

    (void)oai_fail(&e, 500, "InternalServerError", "internal", NULL, "broken");
    buf_init(&b, 1u << 16);
    for (int chat = 0; chat < 2; chat++) {
        const char *end = c.finish_reason;

        buf_reset(&b);
        c.finish_reason = NULL;
        if (chat)
            oai_chat_chunk(&b, &meta, &c, true, NULL);
        for (int i = 0; i < 3; i++) {
            c.finish_reason = i == 2 ? end : NULL;
            if (chat)
                oai_chat_chunk(&b, &meta, &c, false, i == 1 ? u : NULL);
            else
                oai_completion_chunk(&b, &meta, &c, i == 1 ? u : NULL);
        }
        if (chat)
            oai_chat_chunk(&b, &meta, NULL, false, u);
        else
            oai_completion_chunk(&b, &meta, NULL, u);
        oai_sse_error(&b, &e);
        oai_sse_done(&b);
        put_line(f, chat ? "chat_stream" : "completion_stream", &b);
    }
    buf_fini(&b);
}

/* Set LLMD_TEST_PYTHON to an interpreter that has the openai package. */
static void an_unmodified_client_takes_them(void **state)
{
    static const uint32_t ids[] = { 1, 2 };
    static const struct str models[] = { { "a", 1 }, { "b/c", 3 } };
    const char *python = getenv("LLMD_TEST_PYTHON");
    struct oai_choice two[2] = {
        { .text = STR("a\\\"\n\xc3\xa9"),
          .finish_reason = "stop",
          .stop_reason = STR("END"),
          .want_logprobs = true,
          .logprobs = logprobs,
          .logprob_count = 2,
          .token_ids = ids,
          .token_id_count = 2,
          .prompt_ids = ids,
          .prompt_id_count = 2,
          .prompt_logprobs = STR("[null]") },
        { .index = 1, .finish_reason = "length", .text = STR("\xff\x01"), .stop_reason_id = -1 },
    };
    char command[1024];
    struct buf b;
    FILE *f;

    (void)state;
    if (python == NULL) {
        print_message("LLMD_TEST_PYTHON is not set: the openai package was not asked\n");
        skip();
    }
    (void)snprintf(command, sizeof(command), "'%s' '%s/tests/golden/openai_replies.py'", python,
                   SOURCE_ROOT);
    f = popen(command, "w");
    assert_non_null(f);
    buf_init(&b, 1u << 16);
    oai_chat_reply(&b, &meta, two, 2, &usage);
    put_line(f, "chat", &b);
    buf_reset(&b);
    oai_completion_reply(&b, &meta, two, 2, &cached);
    put_line(f, "completion", &b);
    buf_reset(&b);
    oai_models_reply(&b, models, 2, 1760000000, 8192);
    put_line(f, "models", &b);
    put_streams(f, two[0], &usage);
    put_streams(f, two[1], &cached);
    buf_fini(&b);
    assert_int_equal(pclose(f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_reply_has_every_member),
        cmocka_unit_test(a_chat_stream_leaves_out_what_is_not_set),
        cmocka_unit_test(logprobs_are_short_and_never_infinite),
        cmocka_unit_test(an_error_has_status_as_code_and_a_reason),
        cmocka_unit_test(an_unmodified_client_takes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
