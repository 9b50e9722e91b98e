/* Requests: what is taken, what is refused, and which field the refusal names. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/openai.h"
#include "base/check.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct fixture {
    struct arena a;
    struct oai_request r;
    struct oai_error e;
};

static int setup(void **state)
{
    static struct fixture f;

    f = (struct fixture) { 0 };
    arena_init(&f.a, 16u << 20);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    arena_fini(&((struct fixture *)*state)->a);
    return 0;
}

static int chat(struct fixture *f, const char *body)
{
    return oai_parse_chat(&f->a, str_of(body), &f->r, &f->e);
}

static int completion(struct fixture *f, const char *body)
{
    return oai_parse_completion(&f->a, str_of(body), &f->r, &f->e);
}

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* param NULL = the error names no field. */
struct bad {
    const char *body, *param, *code;
};

static const struct bad bad_chat[] = {
    { "", NULL, "json_syntax" },
    { "[1", NULL, "json_syntax" },
    { "[]", NULL, "type" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}", NULL, "json_syntax" },
    { "{" M ",\"x\":NaN}", NULL, "json_syntax" },
    { "{}", "messages", "missing" },
    { "{\"messages\":null}", "messages", "missing" },
    { "{\"messages\":[]}", "messages", "value" },
    { "{\"messages\":{}}", "messages", "type" },
    { "{\"messages\":[1]}", "messages[0]", "type" },
    { "{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "missing" },
    { "{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", "messages[0].role", "type" },
    { "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "missing" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content", "missing" },
    { "{\"messages\":[{\"role\":\"assistant\",\"content\":5}]}", "messages[0].content", "type" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
      "\"url\":\"x\"}}]}]}",
      "messages[0].content[0].type", "unsupported" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
      "messages[0].content[0].text", "type" },
    { "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{"
      "\"name\":\"f\","
      "\"arguments\":\"{oops\"}}]}]}",
      "messages[0].tool_calls[0].function.arguments", "value" },
    { "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]}",
      "messages[0].tool_calls[0].function.name", "type" },
    { "{" M ",\"model\":7}", "model", "type" },
    { "{" M ",\"stream\":1}", "stream", "type" },
    { "{" M ",\"stream\":\"true\"}", "stream", "type" },
    { "{" M ",\"n\":0}", "n", "range" },
    { "{" M ",\"n\":17}", "n", "range" },
    { "{" M ",\"n\":1.5}", "n", "range" },
    { "{" M ",\"n\":2,\"temperature\":0}", "n", "combination" },
    { "{" M ",\"temperature\":-0.1}", "temperature", "range" },
    { "{" M ",\"temperature\":2.1}", "temperature", "range" },
    { "{" M ",\"temperature\":\"hot\"}", "temperature", "type" },
    { "{" M ",\"top_p\":0}", "top_p", "range" },
    { "{" M ",\"top_p\":1.01}", "top_p", "range" },
    { "{" M ",\"min_p\":-1}", "min_p", "range" },
    { "{" M ",\"top_k\":-2}", "top_k", "range" },
    { "{" M ",\"presence_penalty\":2.5}", "presence_penalty", "range" },
    { "{" M ",\"frequency_penalty\":-2.5}", "frequency_penalty", "range" },
    { "{" M ",\"repetition_penalty\":0}", "repetition_penalty", "range" },
    { "{" M ",\"max_tokens\":0}", "max_tokens", "range" },
    { "{" M ",\"max_tokens\":-1}", "max_tokens", "range" },
    { "{" M ",\"max_tokens\":1e300}", "max_tokens", "range" },
    { "{" M ",\"max_completion_tokens\":\"9\"}", "max_completion_tokens", "type" },
    { "{" M ",\"max_tokens\":4,\"min_tokens\":5}", "min_tokens", "combination" },
    { "{" M ",\"seed\":1.5}", "seed", "range" },
    { "{" M ",\"stop\":\"\"}", "stop", "value" },
    { "{" M ",\"stop\":[\"a\",null]}", "stop", "type" },
    { "{" M ",\"stop\":5}", "stop", "type" },
    { "{" M ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\","
      "\"d\",\"e\","
      "\"f\",\"g\",\"h\"]}",
      "stop", "limit" },
    { "{" M ",\"stop_token_ids\":[-1]}", "stop_token_ids", "range" },
    { "{" M ",\"stop_token_ids\":7}", "stop_token_ids", "type" },
    { "{" M ",\"logit_bias\":[]}", "logit_bias", "type" },
    { "{" M ",\"logit_bias\":{\"a\":1}}", "logit_bias", "value" },
    { "{" M ",\"logit_bias\":{\"5\":\"x\"}}", "logit_bias", "type" },
    { "{" M ",\"logprobs\":5}", "logprobs", "type" },
    { "{" M ",\"top_logprobs\":5}", "top_logprobs", "combination" },
    { "{" M ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "range" },
    { "{" M ",\"prompt_logprobs\":1,\"stream\":true}", "prompt_logprobs", "combination" },
    { "{" M ",\"stream_options\":{}}", "stream_options", "combination" },
    { "{" M ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
      "stream_options.include_usage", "type" },
    { "{" M ",\"response_format\":{\"type\":\"json_object\"}}", "response_format", "unsupported" },
    { "{" M ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
      "response_format", "unsupported" },
    { "{" M ",\"response_format\":\"text\"}", "response_format", "type" },
    { "{" M ",\"structured_outputs\":{\"regex\":\"a\"}}", "structured_outputs", "unsupported" },
    { "{" M ",\"guided_json\":{}}", "guided_json", "unsupported" },
    { "{" M ",\"guided_choice\":[\"a\"]}", "guided_choice", "unsupported" },
    { "{" M ",\"guided_regex\":\"a+\"}", "guided_regex", "unsupported" },
    { "{" M ",\"functions\":[{\"name\":\"f\"}]}", "functions", "unsupported" },
    { "{" M ",\"function_call\":{\"name\":\"f\"}}", "function_call", "unsupported" },
    { "{" M ",\"bad_words\":[\"x\"]}", "bad_words", "unsupported" },
    { "{" M ",\"best_of\":3}", "best_of", "unsupported" },
    { "{" M ",\"use_beam_search\":true}", "use_beam_search", "unsupported" },
    { "{" M ",\"modalities\":[\"text\",\"audio\"]}", "modalities", "unsupported" },
    { "{" M ",\"tools\":[]}", "tools", "value" },
    { "{" M ",\"tools\":{}}", "tools", "type" },
    { "{" M ",\"tools\":[{\"type\":\"web_search\"}]}", "tools[0].type", "unsupported" },
    { "{" M ",\"tools\":[{\"type\":\"function\",\"function\":{}}]}", "tools[0].function.name",
      "value" },
    { "{" M ",\"tool_choice\":\"auto\"}", "tool_choice", "combination" },
    { "{" M ",\"tool_choice\":\"required\"}", "tool_choice", "unsupported" },
    { "{" M ",\"tool_choice\":\"sometimes\"}", "tool_choice", "value" },
    { "{" M ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}",
      "tool_choice", "unsupported" },
    { "{" M ",\"cache_salt\":\"\"}", "cache_salt", "value" },
    { "{" M ",\"cache_salt\":\"a/b\"}", "cache_salt", "value" },
    { "{" M ",\"cache_salt\":\"a\\u0000b\"}", "cache_salt", "value" },
    { "{" M ",\"request_id\":\"a\\r\\nb\"}", "request_id", "value" },
    { "{" M ",\"kv_transfer_params\":[]}", "kv_transfer_params", "type" },
    { "{" M ",\"chat_template_kwargs\":5}", "chat_template_kwargs", "type" },
    { "{" M ",\"continue_final_message\":true,\"add_generation_prompt\":true}",
      "continue_final_message", "combination" },
    { "{" M ",\"reasoning_effort\":\"heroic\"}", "reasoning_effort", "value" },
    { "{" M ",\"priority\":2147483648}", "priority", "range" },
};

static const struct bad bad_completion[] = {
    { "{}", "prompt", "missing" },
    { "{\"prompt\":{}}", "prompt", "type" },
    { "{\"prompt\":[]}", "prompt", "value" },
    { "{\"prompt\":[[]]}", "prompt", "value" },
    { "{\"prompt\":[1,-2]}", "prompt", "range" },
    { "{\"prompt\":[1,\"a\"]}", "prompt", "type" },
    { "{\"prompt\":[\"a\",1]}", "prompt[1]", "type" },
    { "{\"prompt\":[[1],\"a\"]}", "prompt[1]", "type" },
    { "{\"prompt\":\"a\",\"logprobs\":true}", "logprobs", "type" },
    { "{\"prompt\":\"a\",\"logprobs\":21}", "logprobs", "range" },
    { "{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens", "range" },
    { "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix", "unsupported" },
    { "{\"prompt\":\"a\",\"best_of\":2}", "best_of", "unsupported" },
    { "{\"prompt\":\"a\",\"prompt_embeds\":\"AAAA\"}", "prompt_embeds", "unsupported" },
    { "{\"prompt\":\"a\",\"truncate_prompt_tokens\":5}", "truncate_prompt_tokens", "unsupported" },
};

static void each_is_refused(struct fixture *f, const struct bad *bad, size_t count,
                            int (*parse)(struct fixture *, const char *))
{
    for (size_t i = 0; i < count; i++) {
        f->e = (struct oai_error) { 0 };
        if (parse(f, bad[i].body) != ERR_INVAL || f->e.status != 400 ||
            strcmp(f->e.type, "BadRequestError") != 0 || strcmp(f->e.code, bad[i].code) != 0 ||
            (f->e.param == NULL) != (bad[i].param == NULL) ||
            (bad[i].param != NULL && strcmp(f->e.param, bad[i].param) != 0))
            fail_msg("%s\n gave status %d code %s param %s: %s", bad[i].body, f->e.status,
                     f->e.code != NULL ? f->e.code : "-", f->e.param != NULL ? f->e.param : "-",
                     f->e.message);
        if (bad[i].param != NULL && strchr(bad[i].param, '[') == NULL)
            assert_non_null(strstr(f->e.message, bad[i].param));
    }
}

static void a_bad_request_names_its_field(void **state)
{
    each_is_refused(*state, bad_chat, COUNT(bad_chat), chat);
    each_is_refused(*state, bad_completion, COUNT(bad_completion), completion);
}

static void what_asks_for_nothing_is_taken(void **state)
{
    static const char *const good[] = {
        "{" M ",\"response_format\":{\"type\":\"text\"},\"best_of\":1,\"bad_words\":[],"
        "\"functions\":null}",
        "{" M ",\"structured_outputs\":null,\"guided_json\":null,\"use_beam_search\":false}",
        "{" M ",\"tool_choice\":\"none\",\"stop\":[],\"stop_token_ids\":null,\"logit_bias\":{}}",
        "{" M ",\"top_logprobs\":0,\"thinking_token_budget\":-1,\"modalities\":[\"text\"]}",
        "{" M ",\"store\":true,\"metadata\":{\"a\":\"b\"},\"no_such_field\":[1,{\"x\":2}]}",
        "{" M ",\"n\":16,\"temperature\":2,\"top_p\":1e-300,\"top_k\":-1,\"max_tokens\":5.0}",
        "{" M ",\"min_tokens\":1,\"max_tokens\":1,\"ignore_eos\":true,\"stop\":\"x\"}",
    };

    for (size_t i = 0; i < COUNT(good); i++)
        if (chat(*state, good[i]) != 0)
            fail_msg("%s: %s", good[i], ((struct fixture *)*state)->e.message);
}

static void defaults_are_openai_s(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(chat(f, "{" M "}"), 0);
    assert_true(f->r.is_chat && f->r.add_generation_prompt && f->r.skip_special_tokens);
    assert_false(f->r.stream || f->r.add_special_tokens || f->r.has_temperature || f->r.has_seed);
    assert_int_equal(f->r.n, 1);
    assert_int_equal(f->r.max_tokens, -1);
    assert_int_equal(f->r.logprobs, -1);
    assert_true(f->r.temperature == 1 && f->r.top_p == 1 && f->r.repetition_penalty == 1);
    assert_int_equal(completion(f, "{\"prompt\":\"x\"}"), 0);
    assert_true(!f->r.is_chat && f->r.add_special_tokens);
    assert_int_equal(f->r.max_tokens, 16);
}

static void each_field_lands_in_its_place(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(
        chat(
            f,
            "{" M ",\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true,"
            "\"continuous_usage_stats\":true},\"n\":3,\"max_tokens\":7,\"max_completion_tokens\":9,"
            "\"min_tokens\":2,\"temperature\":0.5,\"top_p\":0.25,\"min_p\":0.125,\"top_k\":40,"
            "\"presence_penalty\":-1,\"frequency_penalty\":1.5,\"repetition_penalty\":1.25,"
            "\"seed\":18446744073709551615,\"stop\":[\"a\",\"bc\"],\"stop_token_ids\":[5,6],"
            "\"logit_bias\":{\"50256\":-100,\"7\":1e9},\"logprobs\":true,\"top_logprobs\":5,"
            "\"user\":\"u\","
            "\"cache_salt\":\"s\",\"request_id\":\"r-1\",\"priority\":-3,\"return_token_ids\":true,"
            "\"kv_transfer_params\":{\"do_remote_decode\":true},\"chat_template_kwargs\":{\"a\":1}"
            "}"),
        0);
    assert_true(str_eqz(f->r.model, "m") && f->r.stream && f->r.include_usage &&
                f->r.continuous_usage);
    assert_int_equal(f->r.n, 3);
    assert_int_equal(f->r.max_tokens, 9); /* max_completion_tokens wins */
    assert_int_equal(f->r.min_tokens, 2);
    assert_true(f->r.temperature == 0.5f && f->r.has_temperature && f->r.top_p == 0.25f);
    assert_true(f->r.min_p == 0.125f && f->r.top_k == 40 && f->r.presence_penalty == -1);
    assert_true(f->r.frequency_penalty == 1.5f && f->r.repetition_penalty == 1.25f);
    assert_true(f->r.has_seed && f->r.seed == UINT64_MAX);
    assert_int_equal(f->r.stop_count, 2);
    assert_true(str_eqz(f->r.stop[1], "bc"));
    assert_int_equal(f->r.stop_id_count, 2);
    assert_int_equal(f->r.stop_ids[1], 6);
    assert_int_equal(f->r.bias_count, 2);
    assert_true(f->r.bias[0].id == 50256 && f->r.bias[0].bias == -100);
    assert_true(f->r.bias[1].id == 7 && f->r.bias[1].bias == 100);
    assert_int_equal(f->r.logprobs, 5);
    assert_true(str_eqz(f->r.cache_salt, "s") && str_eqz(f->r.request_id, "r-1"));
    assert_int_equal(f->r.priority, -3);
    assert_true(f->r.return_token_ids);
    assert_true(str_eqz(f->r.kv_transfer_params->span, "{\"do_remote_decode\":true}"));
    assert_non_null(json_get(f->r.chat_template_kwargs, "a"));
}

static void minus_one_is_no_seed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(chat(f, "{" M ",\"seed\":-1}"), 0);
    assert_false(f->r.has_seed);
    assert_int_equal(chat(f, "{" M ",\"seed\":-2}"), 0);
    assert_true(f->r.has_seed && f->r.seed == (uint64_t)-2);
    assert_int_equal(chat(f, "{" M ",\"seed\":0}"), 0);
    assert_true(f->r.has_seed && f->r.seed == 0);
}

static void messages_reach_the_template_in_one_shape(void **state)
{
    struct fixture *f = *state;
    const struct json *m, *args, *calls;

    assert_int_equal(chat(f, "{\"messages\":["
                             "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\n\"}"
                             ",{\"type\":\"text\",\"text\":\"b\"}],"
                             "\"name\":\"bob\"},"
                             "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":"
                             "\"hm\",\"tool_calls\":[{\"id\":\"1\","
                             "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{"
                             "\\\"x\\\": [1, 2]}\"}},"
                             "{\"function\":{\"arguments\":\"\",\"name\":\"g\"},\"id\":\"2\"}]},"
                             "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":[]},"
                             "{\"role\":\"critic\"}]}"),
                     0);
    m = f->r.messages;
    assert_int_equal(m->count, 4);
    assert_true(str_eqz(json_get(json_at(m, 0), "content")->text, "a\n\nb"));
    assert_true(str_eqz(json_get(json_at(m, 0), "name")->text, "bob"));
    assert_true(json_is(json_get(json_at(m, 1), "content"), JSON_NULL));
    assert_true(str_eqz(json_get(json_at(m, 1), "reasoning")->text, "hm"));
    calls = json_get(json_at(m, 1), "tool_calls");
    assert_int_equal(calls->count, 2);
    args = json_get(json_get(json_at(calls, 0), "function"), "arguments");
    assert_true(json_is(args, JSON_OBJECT));
    assert_int_equal(json_get(args, "x")->count, 2);
    args = json_get(json_get(json_at(calls, 1), "function"), "arguments");
    assert_true(json_is(args, JSON_OBJECT) && args->count == 0);
    assert_true(str_eqz(json_get(json_get(json_at(calls, 1), "function"), "name")->text, "g"));
    assert_true(str_eqz(json_get(json_at(calls, 1), "id")->text, "2"));
    assert_true(json_get(json_at(m, 2), "content")->text.n == 0);
}

static void template_arguments_are_gathered(void **state)
{
    struct fixture *f = *state;
    const struct json *k;

    assert_int_equal(chat(f,
                          "{" M ",\"reasoning_effort\":\"none\",\"documents\":[{\"text\":\"d\"}],"
                          "\"chat_template_kwargs\":{\"x\":1}}"),
                     0);
    k = f->r.chat_template_kwargs;
    assert_true(json_is(json_get(k, "enable_thinking"), JSON_FALSE));
    assert_true(str_eqz(json_get(k, "reasoning_effort")->text, "none"));
    assert_int_equal(json_get(k, "documents")->count, 1);
    assert_true(str_eqz(json_get(k, "x")->text, "1"));
    assert_int_equal(chat(f, "{" M ",\"reasoning_effort\":\"high\",\"chat_template_kwargs\":"
                             "{\"enable_thinking\":false}}"),
                     0);
    assert_true(json_is(json_get(f->r.chat_template_kwargs, "enable_thinking"), JSON_FALSE));
}

static void a_continued_message_has_no_generation_prompt(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(chat(f, "{" M ",\"continue_final_message\":true}"), 0);
    assert_true(f->r.continue_final_message && !f->r.add_generation_prompt);
}

static void prompts_come_as_text_or_ids(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(
        completion(f, "{\"prompt\":[\"a\",\"b\"],\"logprobs\":0,\"echo\":true,\"max_tokens\":0}"),
        0);
    assert_int_equal(f->r.prompt_count, 2);
    assert_true(str_eqz(f->r.prompts[1].text, "b"));
    assert_int_equal(f->r.logprobs, 0);
    assert_int_equal(f->r.max_tokens, 0);
    assert_int_equal(completion(f, "{\"prompt\":[3,4,5]}"), 0);
    assert_int_equal(f->r.prompt_count, 1);
    assert_null(f->r.prompts[0].text.p);
    assert_int_equal(f->r.prompts[0].id_count, 3);
    assert_int_equal(f->r.prompts[0].ids[2], 5);
    assert_int_equal(completion(f, "{\"prompt\":[[3],[4,5]]}"), 0);
    assert_int_equal(f->r.prompt_count, 2);
    assert_int_equal(f->r.prompts[1].ids[1], 5);
    assert_int_equal(completion(f, "{\"prompt\":\"\"}"), 0); /* a BOS may make it one token */
    assert_non_null(f->r.prompts[0].text.p);
}

static void counts_have_ceilings(void **state)
{
    static const struct {
        const char *before, *item, *after;
        unsigned count;
        const char *param;
    } cases[] = {
        { "{\"messages\":[", "{\"role\":\"user\",\"content\":\"x\"}", "]}", 4097, "messages" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[", "{\"type\":\"text\",\"text\":\"x\"}",
          "]}]}", 4097, "messages[0].content" },
        { "{" M ",\"tools\":[", "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "]}", 257,
          "tools" },
        { "{" M ",\"stop_token_ids\":[", "1", "]}", 33, "stop_token_ids" },
    };
    struct fixture *f = *state;
    struct buf b;

    buf_init(&b, 1u << 20);
    for (size_t i = 0; i < COUNT(cases); i++)
        for (unsigned less = 0; less < 2; less++) { /* one fewer is taken */
            buf_reset(&b);
            buf_z(&b, cases[i].before);
            for (unsigned k = 0; k < cases[i].count - less; k++)
                buf_f(&b, "%s%s", k > 0 ? "," : "", cases[i].item);
            buf_z(&b, cases[i].after);
            assert_false(b.failed);
            assert_int_equal(oai_parse_chat(&f->a, buf_view(&b), &f->r, &f->e),
                             less ? 0 : ERR_INVAL);
            if (!less) {
                assert_string_equal(f->e.code, "limit");
                assert_string_equal(f->e.param, cases[i].param);
            }
        }
    buf_fini(&b);
}

static void deep_bodies_and_deep_tools_are_refused(void **state)
{
    struct fixture *f = *state;
    struct buf b;

    buf_init(&b, 1u << 20);
    for (unsigned depth = 20; depth <= 90;
         depth += 35) { /* 20: taken; 55: a tool too deep; 90: a body */
        buf_reset(&b);
        buf_z(&b,
              "{" M
              ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":");
        for (unsigned i = 0; i < depth; i++)
            buf_z(&b, "{\"a\":");
        buf_z(&b, "1");
        for (unsigned i = 0; i < depth; i++)
            buf_z(&b, "}");
        buf_z(&b, "}}]}");
        assert_int_equal(oai_parse_chat(&f->a, buf_view(&b), &f->r, &f->e),
                         depth == 20 ? 0 : ERR_INVAL);
        if (depth == 55)
            assert_string_equal(f->e.code, "limit");
        if (depth == 90)
            assert_string_equal(f->e.code, "json_too_deep");
    }
    buf_fini(&b);
}

static void a_small_arena_is_an_error_not_a_crash(void **state)
{
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},"
        "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}"
        "\"}}]}],"
        "\"logit_bias\":{\"1\":1},\"reasoning_effort\":\"low\"}";

    (void)state;
    for (size_t max = 0; max < 64 * 1024; max += 997) {
        struct oai_request r;
        struct oai_error e = { 0 };
        struct arena a;
        int rc;

        arena_init(&a, max);
        rc = oai_parse_chat(&a, str_of(body), &r, &e);
        assert_true(rc == 0 || (rc == ERR_INVAL && (e.status == 413 || e.status == 400)));
        arena_fini(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_bad_request_names_its_field, setup, teardown),
        cmocka_unit_test_setup_teardown(what_asks_for_nothing_is_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(defaults_are_openai_s, setup, teardown),
        cmocka_unit_test_setup_teardown(each_field_lands_in_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(minus_one_is_no_seed, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_reach_the_template_in_one_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(template_arguments_are_gathered, setup, teardown),
        cmocka_unit_test_setup_teardown(a_continued_message_has_no_generation_prompt, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(prompts_come_as_text_or_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(counts_have_ceilings, setup, teardown),
        cmocka_unit_test_setup_teardown(deep_bodies_and_deep_tools_are_refused, setup, teardown),
        cmocka_unit_test(a_small_arena_is_an_error_not_a_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
