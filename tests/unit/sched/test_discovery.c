/* Endpoint files and metric names: what is taken, what is left out and why. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "sched/discovery.h"
#include "sched/metric_spec.h"
#include <stdio.h>
#include <string.h>

struct file {
    struct arena a;
    struct discovery_list list;
};

static struct file *parse(const char *text)
{
    struct file *f = mem_zalloc(sizeof(*f));
    struct err e;

    arena_init(&f->a, 8 << 20);
    if (discovery_parse(&f->a, str_of(text), "e.yaml", &f->list, &e) != 0)
        fail_msg("%s", e.msg);
    return f;
}

static void done(struct file *f)
{
    arena_fini(&f->a);
    mem_free(f);
}

static void entries_are_taken_whole(void **state)
{
    struct file *f =
        parse("endpoints:\n"
              "- {name: d0, namespace: prod, address: 10.0.0.5, port: \"8000\",\n"
              "   labels: {llm-d.ai/role: decode, rank: \"3\"}}\n"
              "- name: p0\n  address: 10.0.0.6\n  port: \"8001\"\n  metricsHost: 10.0.0.6:9400\n");
    const struct discovery_endpoint *d = &f->list.endpoint[0], *p = &f->list.endpoint[1];

    (void)state;
    assert_int_equal(f->list.count, 2);
    assert_int_equal(f->list.bad_count, 0);
    assert_true(str_eqz(d->name, "d0") && str_eqz(d->namespace, "prod"));
    assert_true(str_eqz(d->address, "10.0.0.5") && d->port == 8000 && d->is_ipv4);
    assert_true(str_eqz(d->metrics_address, "10.0.0.5") && d->metrics_port == 8000);
    assert_int_equal(d->label_count, 2);
    assert_true(str_eqz(d->label[0].key, "llm-d.ai/role") && str_eqz(d->label[0].value, "decode"));
    assert_int_equal(d->line, 2);
    assert_true(str_eqz(p->namespace, "default"));
    assert_true(str_eqz(p->metrics_address, "10.0.0.6") && p->metrics_port == 9400);
    done(f);
}

static void json_is_taken_as_well(void **state)
{
    struct file *f = parse("{\"endpoints\": [{\"name\": \"a\", \"address\": \"127.0.0.1\", "
                           "\"port\": \"80\"}]}");

    (void)state;
    assert_int_equal(f->list.count, 1);
    done(f);
}

static void addresses(void **state)
{
    static const struct {
        const char *address;
        bool ok;
        const char *plain;
    } cases[] = {
        { "127.0.0.1", true, "127.0.0.1" },
        { "\"::1\"", true, "::1" },
        { "\"[fd00::7]\"", true, "fd00::7" },
        { "worker-0.pool.svc", true, "worker-0.pool.svc" },
        { "localhost", true, "localhost" },
        { "10.0.0.256", false, NULL },
        { "10.0.0", false, NULL },
        { "\"10.0.0.1 \"", false, NULL },
        { "-a.b", false, NULL },
        { "a..b", false, NULL },
        { "a_b", false, NULL },
        { "\"http://a\"", false, NULL },
        { "\"a:80\"", false, NULL },
        { "\"[10.0.0.1]\"", false, NULL },
        { "\"[]\"", false, NULL },
        { "\"10.0.0.1\\tx\"", false, NULL },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[200];
        struct file *f;

        snprintf(text, sizeof(text), "endpoints: [{name: a, port: 1, address: %s}]",
                 cases[i].address);
        f = parse(text);
        if (f->list.count != cases[i].ok || f->list.bad_count != !cases[i].ok)
            fail_msg("%s", cases[i].address);
        if (cases[i].ok)
            assert_true(str_eqz(f->list.endpoint[0].address, cases[i].plain));
        done(f);
    }
}

static void bad_entries_are_left_out_with_a_reason(void **state)
{
    static const struct {
        const char *entry, *says;
    } cases[] = {
        { "7", "e.yaml:2:3: endpoints[0].must be a map" },
        { "{address: 10.0.0.1, port: \"1\"}", "e.yaml:2:3: endpoints[0].name: missing" },
        { "{name: x, port: \"1\"}", "e.yaml:2:3: endpoints[0].address: missing" },
        { "{name: x, address: 10.0.0.1}", "e.yaml:2:3: endpoints[0].port: missing" },
        { "{name: x, address: nope!, port: \"1\"}",
          "e.yaml:2:22: endpoints[0].address: \"nope!\" is no IP address or name" },
        { "{name: x, address: 10.0.0.1, port: \"0\"}",
          "e.yaml:2:38: endpoints[0].port: \"0\" is not 1..65535" },
        { "{name: x, address: 10.0.0.1, port: \"65536\"}",
          "e.yaml:2:38: endpoints[0].port: \"65536\" is not 1..65535" },
        { "{name: x, address: 10.0.0.1, port: http}",
          "e.yaml:2:38: endpoints[0].port: \"http\" is not 1..65535" },
        { "{name: x, address: 10.0.0.1, port: \"1\", labels: [a]}",
          "e.yaml:2:51: endpoints[0].labels: must be a map" },
        { "{name: x, address: 10.0.0.1, port: \"1\", labels: {a: [b]}}",
          "e.yaml:2:55: endpoints[0].labels.a: must be text" },
        { "{name: x, address: 10.0.0.1, port: \"1\", metricsHost: here}",
          "e.yaml:2:56: endpoints[0].metricsHost: \"here\" is no host:port" },
        { "{name: x, address: 10.0.0.1, port: \"1\", labels: {metricsPort: x}}",
          "e.yaml:2:3: endpoints[0].labels.metricsPort: must be 1..65535" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[300];
        struct file *f;

        snprintf(text, sizeof(text),
                 "endpoints:\n- %s\n- {name: good, address: 10.0.0.9, port: \"9\"}\n",
                 cases[i].entry);
        f = parse(text);
        assert_int_equal(f->list.count, 1); /* the good one stays */
        assert_true(str_eqz(f->list.endpoint[0].name, "good"));
        assert_int_equal(f->list.bad_count, 1);
        assert_int_equal(f->list.reason_count, 1);
        if (strncmp(f->list.reason[0].p, cases[i].says, strlen(cases[i].says)) != 0)
            fail_msg("%s\nnot: %s", f->list.reason[0].p, cases[i].says);
        done(f);
    }
}

static void a_name_counts_once_per_namespace(void **state)
{
    struct file *f = parse("endpoints:\n"
                           "- {name: a, address: 10.0.0.1, port: \"1\"}\n"
                           "- {name: a, address: 10.0.0.2, port: \"1\", namespace: other}\n"
                           "- {name: a, address: 10.0.0.3, port: \"1\", namespace: default}\n");

    (void)state;
    assert_int_equal(f->list.count, 2);
    assert_true(str_eqz(f->list.reason[0],
                        "e.yaml:4:3: endpoints[2].name: default/a is in line 2 already"));
    done(f);
}

static void all_bad_entries_are_counted_and_few_explained(void **state)
{
    struct file *f;
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 16);
    buf_z(&b, "endpoints:\n");
    for (int i = 0; i < 40; i++)
        buf_z(&b, "- {name: x}\n");
    buf_c(&b, 0);
    f = parse(b.p);
    assert_int_equal(f->list.bad_count, 40);
    assert_int_equal(f->list.reason_count, DISCOVERY_REASONS_MAX);
    done(f);
    buf_fini(&b);
}

static void shapes_of_no_endpoint_file(void **state)
{
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        { "", 0 },           { "endpoints:\n", 0 },         { "other: 1\n", 0 },
        { "[]", ERR_PARSE }, { "endpoints: x", ERR_PARSE }, { "a: [", ERR_PARSE },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct discovery_list list;
        struct arena a;
        struct err e;

        arena_init(&a, 1 << 20);
        assert_int_equal(discovery_parse(&a, str_of(cases[i].text), "e.yaml", &list, &e),
                         cases[i].rc);
        assert_int_equal(list.count, 0);
        arena_fini(&a);
    }
}

static void metric_names(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        const char *as; /* name|label=value|... */
    } cases[] = {
        { "vllm:num_requests_waiting", true, "vllm:num_requests_waiting" },
        { " m { a = b , c=\"d,e\" } ", true, "m|a=b|c=d,e" },
        { "m{}", true, "m" },
        { "m{a=}", true, "m|a=" },
        { "m{a=\"b\",}", true, "m|a=b" },
        { "", true, "" },
        { "m{a=b", false, NULL },
        { "m{a}", false, NULL },
        { "m{=b}", false, NULL },
        { "m{a=\"b}", false, NULL },
        { "m{a=\"b\"c}", false, NULL },
        { "{a=b}", false, NULL },
        { "1m", false, NULL },
        { "m-n", false, NULL },
        { "m{a:b=c}", false, NULL },
        { "m}", false, NULL },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct metric_spec spec;
        struct arena a;
        struct err e;
        char as[200];
        size_t len;
        int rc;

        arena_init(&a, 1 << 16);
        rc = metric_spec_parse(&spec, str_of(cases[i].text), &a, &e);
        if ((rc == 0) != cases[i].ok)
            fail_msg("%s", cases[i].text);
        if (rc == 0) {
            len = (size_t)snprintf(as, sizeof(as), "%.*s", STR_ARG(spec.name));
            for (uint32_t k = 0; k < spec.label_count; k++)
                len += (size_t)snprintf(as + len, sizeof(as) - len, "|%.*s=%.*s",
                                        STR_ARG(spec.label[k].name), STR_ARG(spec.label[k].value));
            assert_string_equal(as, cases[i].as);
        }
        arena_fini(&a);
    }
}

/* Names that the engines print: taken from their documentation, not from our table. */
static void built_in_engines(void **state)
{
    const struct metric_engine *t = metric_engine_find(STR("triton-tensorrt-llm"));

    (void)state;
    assert_null(metric_engine_built_in(5));
    assert_null(metric_engine_find(STR("default")));
    assert_true(str_eqz(metric_engine_built_in(0)->name, "vllm"));
    assert_true(str_eqz(metric_engine_built_in(0)->lora.name, "vllm:lora_requests_info"));
    assert_true(str_eqz(metric_engine_find(STR("sglang"))->cache_blocks_label, "num_pages"));
    assert_true(str_eqz(t->running.label[0].name, "request_type"));
    assert_true(str_eqz(t->running.label[0].value, "scheduled"));
    assert_true(str_eqz(t->cache_block_size.label[0].value, "tokens_per"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_taken_whole),
        cmocka_unit_test(json_is_taken_as_well),
        cmocka_unit_test(addresses),
        cmocka_unit_test(bad_entries_are_left_out_with_a_reason),
        cmocka_unit_test(a_name_counts_once_per_namespace),
        cmocka_unit_test(all_bad_entries_are_counted_and_few_explained),
        cmocka_unit_test(shapes_of_no_endpoint_file),
        cmocka_unit_test(metric_names),
        cmocka_unit_test(built_in_engines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
