/* What is read of foreign bytes without parsing them whole, and the small pure parts. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "gateway/answer.h"
#include "gateway/budget.h"
#include "gateway/engine.h"
#include "gateway/gateway_priv.h"
#include "gateway/prom_text.h"
#include <stdio.h>
#include <string.h>

/* ---- Prometheus text ---- */

struct sum {
    double v[3];
    uint32_t n[3];
    struct str labels;
};

static void add(void *ctx, size_t which, struct str labels, double value)
{
    struct sum *s = ctx;

    s->v[which] += value;
    s->n[which]++;
    s->labels = labels;
}

static const struct str wanted[] = { { "vllm:num_requests_running", 25 },
                                     { "a", 1 },
                                     { "a_b", 3 } };

static void samples_are_found_by_their_whole_name(void **state)
{
    static const struct {
        const char *text;
        double v[3];
        size_t broken;
    } cases[] = {
        { "", { 0, 0, 0 }, 0 },
        { "a 1\na_b 2\nab 4\n", { 0, 1, 2 }, 0 },
        { "a 1", { 0, 1, 0 }, 0 },                 /* no last line end */
        { "a 1 1700000000000\n", { 0, 1, 0 }, 0 }, /* a timestamp */
        { "a\t1\r\n", { 0, 1, 0 }, 0 },
        { "# a 7\n# TYPE a gauge\na 1\n", { 0, 1, 0 }, 0 },
        { "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n"
          "vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0\n",
          { 7, 0, 0 },
          0 },
        { "vllm:num_requests_running_total 9\n", { 0, 0, 0 }, 0 },
        { "a{x=\"}\"} 5\n", { 0, 5, 0 }, 0 },       /* a brace inside of quotes */
        { "a{x=\"\\\"} 9\"} 5\n", { 0, 5, 0 }, 0 }, /* an escaped quote */
        { "a{x=\"y\" 5\n", { 0, 0, 0 }, 1 },
        { "a{x=\"y} 5\na 1\n", { 0, 1, 0 }, 1 }, /* a quote does not reach the next line */
        { "a one\n", { 0, 0, 0 }, 1 },
        { "a NaN\n", { 0, 0, 0 }, 1 },
        { "a 1e3\na_b -2.5\n", { 0, 1000, -2.5 }, 0 },
        { "a {x=\"1\"} 2\n", { 0, 2, 0 }, 0 },
        { "a \n", { 0, 0, 0 }, 1 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct sum s = { { 0 }, { 0 }, { NULL, 0 } };
        size_t broken = prom_scan(str_of(cases[i].text), wanted, COUNT(wanted), add, &s);

        if (broken != cases[i].broken || memcmp(s.v, cases[i].v, sizeof(s.v)) != 0)
            fail_msg("%s: %g %g %g, %zu broken", cases[i].text, s.v[0], s.v[1], s.v[2], broken);
    }
}

static void labels_are_found_by_name(void **state)
{
    static const struct {
        const char *labels, *name, *value;
    } cases[] = {
        { "block_size=\"16\"", "block_size", "16" },
        { "a=\"x\",b=\"y,z=1\",c=\"\"", "b", "y,z=1" },
        { "a=\"x\",b=\"y\",c=\"\"", "c", "" },
        { "a=\"x\", b = \"y\",", "b", "y" },
        { "a=\"\\\"b=\\\"\",b=\"2\"", "b", "2" },
        { "a=\"x\"", "b", NULL },
        { "a=x", "a", NULL },
        { "a=\"x", "a", NULL },
        { "a=\"x\"b=\"y\"", "b", NULL },
        { "", "a", NULL },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct str v = STR_NONE;
        bool found = prom_label(str_of(cases[i].labels), cases[i].name, &v);

        assert_int_equal(found, cases[i].value != NULL);
        if (found)
            assert_true(str_eqz(v, cases[i].value));
    }
}

/* ---- answers ---- */

static void only_whole_events_go_on(void **state)
{
    static const struct {
        const char *in;
        size_t n;
    } cases[] = {
        { "", 0 },
        { "data: a", 0 },
        { "data: a\n", 0 },
        { "data: a\n\n", 9 },
        { "data: a\n\ndata: b\n", 9 },
        { "data: a\n\ndata: b\n\n", 18 },
        { "data: a\r\n\r\n", 11 },
        { "data: a\r\n\r\ndata: b\r\n", 11 },
        { ": c\n\n", 5 },
        { "\n\n\n", 3 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(answer_whole_events(str_of(cases[i].in)), cases[i].n);
}

static void the_end_mark_and_errors_are_seen(void **state)
{
    static const struct {
        const char *in;
        uint32_t events;
        bool done, error;
    } cases[] = {
        { "data: {\"a\":1}\n\n", 1, false, false },
        { "data: {\"a\":1}\n\ndata: [DONE]\n\n", 1, true, false },
        { "data:[DONE]\r\n\r\n", 0, true, false },
        { "data: {\"error\":{\"message\":\"x\"}}\n\n", 1, false, true },
        /* content that talks about them is content */
        { "data: {\"t\":\"data: [DONE]\\n\\n\"}\n\n", 1, false, false },
        { "data: {\"t\":\"{\\\"error\\\":1}\"}\n\n", 1, false, false },
        { ": data: [DONE]\n\n", 0, false, false },
        { "event: x\ndata: 1\n\n: keep\n\ndata: 2\n\n", 2, false, false },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct answer_seen s = { 0 };
        struct answer_usage u = { 0 };

        answer_inspect(str_of(cases[i].in), &s, &u);
        assert_int_equal(s.events, cases[i].events);
        assert_int_equal(s.done, cases[i].done);
        assert_int_equal(s.error, cases[i].error);
    }
}

static void usage_is_read_and_cannot_be_forged(void **state)
{
    static const struct {
        const char *in;
        bool known, cached;
        uint32_t p, c, k;
    } cases[] = {
        { "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10,"
          "\"prompt_tokens_details\":{\"cached_tokens\":4}}}",
          true, true, 7, 3, 4 },
        { "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"prompt_tokens_details\":null}"
          "}",
          true, false, 7, 3, 0 },
        { "{\"usage\" : {\"input_tokens\":5,\"output_tokens\":2,\"input_tokens_details\":"
          "{\"cached_tokens\":1}}}",
          true, true, 5, 2, 1 },
        { "{\"usage\":null}", false, false, 0, 0, 0 },
        { "{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":99}\"}", false, false, 0, 0, 0 },
        { "{\"usage\":{\"prompt_tokens\":1},\"x\":{\"usage\":{\"prompt_tokens\":2,"
          "\"completion_tokens\":1}}}",
          true, false, 2, 1, 0 },
        { "{\"usage\":{\"prompt_tokens\":7", false, false, 0, 0, 0 },
        { "{\"usage\":{\"prompt_tokens\":-7}}", false, false, 0, 0, 0 },
        { "\"usage\"", false, false, 0, 0, 0 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct answer_usage u = { 0 };

        answer_find_usage(str_of(cases[i].in), &u);
        if (u.known != cases[i].known || u.cached_known != cases[i].cached ||
            u.prompt_tokens != cases[i].p || u.completion_tokens != cases[i].c ||
            u.cached_tokens != cases[i].k)
            fail_msg("%s", cases[i].in);
    }
}

/* ---- headers ---- */

static void steering_and_connection_headers_stay_here(void **state)
{
    static const struct http_header in[] = {
        { { "Content-Type", 12 }, { "application/json", 16 } },
        { { "X-Prefiller-Host-Port", 21 }, { "6.6.6.6:1", 9 } },
        { { "x-gateway-destination-endpoint-subset", 37 }, { "1.1.1.1", 7 } },
        { { "X-LLM-D-Inference-Objective", 27 }, { "high", 4 } },
        { { "x-forwarded-for", 15 }, { "1.1.1.1", 7 } },
        { { "Connection", 10 }, { "keep-alive, X-Mine", 18 } },
        { { "x-mine", 6 }, { "1", 1 } },
        { { "Transfer-Encoding", 17 }, { "chunked", 7 } },
        { { "Host", 4 }, { "h", 1 } },
        { { "content-length", 14 }, { "3", 1 } },
        { { "traceparent", 11 }, { "00-1-2-01", 9 } },
        { { "Authorization", 13 }, { "Bearer x", 8 } },
        { { "x-request-id", 12 }, { "abc", 3 } },
        { { "Accept-Encoding", 15 }, { "gzip", 4 } },
    };
    struct http_headers h = { in, COUNT(in) };
    struct http_header out[COUNT(in)];
    uint32_t stripped;
    size_t n = forward_headers(&h, false, out, COUNT(in), &stripped);

    (void)state;
    assert_int_equal(stripped, 4);
    assert_int_equal(n, 2); /* the trace goes on, too, but not as it came: the proxy writes it */
    assert_true(str_eqz(out[0].name, "Content-Type"));
    assert_true(str_eqz(out[1].name, "Authorization"));
    assert_int_equal(forward_headers(&h, true, out, COUNT(in), &stripped), 1);
    assert_int_equal(forward_headers(&h, false, out, 1, &stripped), 1);
}

static void request_ids_are_plain_words(void **state)
{
    char longest[REQUEST_ID_MAX + 1];

    (void)state;
    memset(longest, 'a', sizeof(longest));
    assert_true(forward_id_is_good(STR("chatcmpl-1_2.3:4")));
    assert_true(forward_id_is_good((struct str) { longest, REQUEST_ID_MAX }));
    assert_false(forward_id_is_good((struct str) { longest, REQUEST_ID_MAX + 1 }));
    assert_false(forward_id_is_good(STR("")));
    assert_false(forward_id_is_good(STR("a b")));
    assert_false(forward_id_is_good(STR("a/../b")));
    assert_false(forward_id_is_good(STR("a\"b")));
}

/* ---- the retry budget ---- */

static uint32_t taken(struct retry_budget *b, uint64_t now_ms)
{
    uint32_t n = 0;

    while (n < 100000 && retry_budget_take(b, now_ms))
        n++;
    return n;
}

static void retries_are_a_tenth_but_three_a_second(void **state)
{
    struct retry_budget b = { { 0 }, { 0 }, { 0 } };

    (void)state;
    assert_int_equal(taken(&b, 50000), 30); /* no requests: the floor of ten seconds */
    assert_int_equal(taken(&b, 59000), 0);
    assert_int_equal(taken(&b, 60000), 30); /* the second of the first ones is over */
    for (int i = 0; i < 5000; i++)
        retry_budget_request(&b, 100000 + (uint64_t)i);
    assert_int_equal(taken(&b, 105000), 500);
    assert_int_equal(taken(&b, 140000), 30);
}

static void the_last_thousand_receipts_are_kept(void **state)
{
    struct receipts *rs = receipts_new();
    struct routing x = { .path = "/x" };
    struct buf text;
    struct gateway g = { .endpoint_count = 0 };

    (void)state;
    x.g = &g;
    buf_init(&text, 1 << 20);
    for (uint32_t i = 0; i < 2500; i++) {
        snprintf(x.id, sizeof(x.id), "id-%u", i % 1700); /* some come again */
        receipts_keep(rs, &x);
    }
    for (uint32_t i = 1500; i < 2500; i++) {
        char id[32], quoted[40];

        snprintf(id, sizeof(id), "id-%u", i % 1700);
        snprintf(quoted, sizeof(quoted), "\"%s\"", id);
        buf_reset(&text);
        assert_true(receipts_get(rs, str_of(id), &text));
        assert_true(str_find(buf_view(&text), str_of(quoted)) != SIZE_MAX);
    }
    assert_false(receipts_get(rs, STR("id-1000"), &text));
    buf_fini(&text);
    receipts_free(rs);
}

/* ---- pages by configured names ---- */

static const char ENGINES[] =
    "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
    "- type: core-metrics-extractor\n"
    "  parameters:\n"
    "    engineLabelKey: engine\n"
    "    engineConfigs:\n"
    "    - name: mine\n"
    "      queuedRequestsSpec: 'reqs{state=waiting}'\n"
    "      runningRequestsSpec: 'reqs{state=running, kind=\"a\"}'\n"
    "      kvUsageSpec: cache\n"
    "      loraSpec: adapters\n"
    "      cacheInfoSpec: info\n"
    "      cacheBlockSizeLabelName: size\n"
    "      cacheNumBlocksLabelName: blocks\n"
    "      customMetrics:\n"
    "      - {attributeKey: heat, metricSpec: 'temp{at=core}'}\n"
    "      - {attributeKey: cold, metricSpec: temp}\n"
    "      - {attributeKey: gone, metricSpec: nowhere}\n"
    "    - {name: vllm, queuedRequestsSpec: 'q'}\n";

static const struct metric_engine *engine_by(const struct sched_config *c, const char *key,
                                             const char *value)
{
    struct sched_label label = { str_of(key), str_of(value) };

    return engine_of(c, &label, key[0] != 0);
}

static void an_engine_is_found_by_label_and_configuration(void **state)
{
    static const char built_in[] =
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
        "- type: core-metrics-extractor\n  parameters: {defaultEngine: triton-tensorrt-llm}\n";
    struct sched_config *c, *plain, *other;
    struct err e;

    (void)state;
    assert_int_equal(sched_config_load(&c, str_of(ENGINES), NULL, &e), 0);
    assert_int_equal(sched_config_load(&other, str_of(built_in), NULL, &e), 0);
    assert_int_equal(sched_config_load(&plain, STR(""), NULL, &e), 0);
    assert_true(str_eqz(engine_by(c, "engine", "mine")->name, "mine"));
    assert_true(str_eqz(engine_by(c, "engine", "sglang")->name, "sglang"));
    assert_true(
        str_eqz(engine_by(c, "inference.networking.k8s.io/engine-type", "mine")->name, "mine"));
    /* the default engine is a configured one: of everybody who says nothing that is known */
    assert_true(str_eqz(engine_by(c, "engine", "other")->waiting.name, "q"));
    assert_true(str_eqz(engine_by(c, "", "")->waiting.name, "q"));
    /* nothing says: the page tells by itself */
    assert_null(engine_by(plain, "", ""));
    assert_null(engine_by(plain, "llm-d.ai/engine-type", "other"));
    assert_true(str_eqz(engine_by(plain, "llm-d.ai/engine-type", "triton-tensorrt-llm")->name,
                        "triton-tensorrt-llm"));
    /* a default engine other than vllm is meant, built in or not */
    assert_true(str_eqz(engine_by(other, "", "")->name, "triton-tensorrt-llm"));
    assert_true(
        str_eqz(engine_by(other, "llm-d.ai/engine-type", "x")->name, "triton-tensorrt-llm"));
    assert_true(str_eqz(engine_by(other, "llm-d.ai/engine-type", "vllm")->name, "vllm"));
    assert_null(engine_by(NULL, "llm-d.ai/engine-type", "vllm"));
    sched_config_free(c);
    sched_config_free(plain);
    sched_config_free(other);
}

static void a_page_is_read_by_configured_names(void **state)
{
    static const char page[] = "reqs{state=\"waiting\",kind=\"a\"} 3\nreqs{state=\"waiting\"} 4\n"
                               "reqs{state=\"running\",kind=\"a\"} 5\nreqs{state=\"running\"} 9\n"
                               "reqs 100\nvllm:num_requests_waiting 50\n"
                               "cache{gpu=\"0\"} 0.25\ncache{gpu=\"1\"} 0.5\n"
                               "adapters{running_lora_adapters=\"old\",max_lora=\"2\"} 7\n"
                               "adapters{running_lora_adapters=\"new\",max_lora=\"4\"} 8\n"
                               "info{size=\"64\",blocks=\"1000\"} 1\n"
                               "temp{at=\"edge\"} 30\ntemp{at=\"core\"} 80\ntemp{at=\"core\"} 90\n";
    struct engine_page out;
    struct sched_config *c;
    struct err e;

    (void)state;
    assert_int_equal(sched_config_load(&c, str_of(ENGINES), NULL, &e), 0);
    engine_read(engine_by(c, "engine", "mine"), str_of(page), &out);
    assert_true(out.waiting == 7 && out.running == 5 && out.kv_usage == 0.5);
    assert_true(out.has_lora && str_eqz(out.lora_running, "new") && str_eqz(out.lora_max, "4"));
    assert_true(out.block_tokens == 64 && out.blocks == 1000);
    assert_true(out.has_custom[0] && out.custom[0] == 80);
    assert_true(out.has_custom[1] && out.custom[1] == 30); /* the first sample */
    assert_false(out.has_custom[2]);
    assert_int_equal(out.missing, 1);
    engine_read(engine_by(c, "", ""), STR("q 2\nvllm:num_requests_running 9\n"), &out);
    assert_true(out.waiting == 2 && out.running == 0 && !out.has_lora && out.missing == 0);
    engine_read(metric_engine_find(STR("triton-tensorrt-llm")),
                STR("nv_trt_llm_request_metrics{request_type=\"waiting\"} 3\n"
                    "nv_trt_llm_request_metrics{request_type=\"scheduled\"} 4\n"
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.75\n"
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\"} 32\n"
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 512\n"),
                &out);
    assert_true(out.waiting == 3 && out.running == 4 && out.kv_usage == 0.75);
    assert_true(out.block_tokens == 32 && out.blocks == 512);
    sched_config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_engine_is_found_by_label_and_configuration),
        cmocka_unit_test(a_page_is_read_by_configured_names),
        cmocka_unit_test(the_last_thousand_receipts_are_kept),
        cmocka_unit_test(samples_are_found_by_their_whole_name),
        cmocka_unit_test(labels_are_found_by_name),
        cmocka_unit_test(only_whole_events_go_on),
        cmocka_unit_test(the_end_mark_and_errors_are_seen),
        cmocka_unit_test(usage_is_read_and_cannot_be_forged),
        cmocka_unit_test(steering_and_connection_headers_stay_here),
        cmocka_unit_test(request_ids_are_plain_words),
        cmocka_unit_test(retries_are_a_tenth_but_three_a_second),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
