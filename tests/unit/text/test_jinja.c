/* The template language against jinja2, and what a template cannot do: run for long, grow, crash.
 */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "text/chat.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NOW 1772690828.0 /* 2026-03-05 06:07:08 UTC */

static int run(struct str source, const struct json *context, struct buf *out, struct err *e)
{
    struct chat_render_opts o = { .kwargs = context, .now_s = NOW };
    struct chat_template *t = NULL;
    int rc = chat_template_new(&t, source, e);

    if (rc == 0)
        rc = chat_render(t, &o, out, e);
    chat_template_free(t);
    return rc;
}

/* Each line: [template, text or null where jinja2 raises]. */
static void the_language_is_jinja2_s(void **state)
{
    const struct json *head, *context, *j;
    struct buf text, out;
    unsigned wrong = 0, count = 0;
    struct arena a;
    struct str rest;
    struct err e;

    (void)state;
    buf_init(&text, 4u << 20);
    buf_init(&out, 4u << 20);
    arena_init(&a, 64u << 20);
    if (file_read(GOLDEN "/language.jsonl", &text, &e) != 0)
        fail_msg("%s", e.msg);
    rest = buf_view(&text);
    assert_int_equal(json_parse(&a, str_cut(&rest, '\n'), NULL, &head, &e), 0);
    context = json_get(head, "context");
    for (struct str line; (line = str_cut(&rest, '\n')).n > 0; count++) {
        struct str source = STR_NONE, want = STR_NONE;
        int rc;

        assert_int_equal(json_parse(&a, line, NULL, &j, &e), 0);
        (void)json_str(j->first, &source);
        (void)json_str(j->first->next, &want);
        buf_reset(&out);
        e.msg[0] = 0;
        rc = run(source, context, &out, &e);
        if (want.p == NULL ? rc == 0 : rc != 0 || !str_eq(buf_view(&out), want)) {
            wrong++;
            print_error("%.*s\n  got  %.*s%s\n  want %.*s\n", STR_ARG(source),
                        STR_ARG(buf_view(&out)), e.msg, STR_ARG(want));
        }
    }
    arena_fini(&a);
    buf_fini(&out);
    buf_fini(&text);
    print_message("%u templates, %u differ\n", count, wrong);
    assert_true(count > 150);
    assert_int_equal(wrong, 0);
}

/* Where we go further than the immutable sandbox: lists and dicts of the template's own. */
static void a_template_may_change_what_it_made(void **state)
{
    static const struct {
        const char *source, *want;
    } cases[] = {
        { "{% set l = [] %}{% for i in range(3) %}{% set _ = l.append(i) %}{% endfor %}{{ l }}",
          "[0, 1, 2]" },
        { "{% set l = [1] %}{{ l.extend([2, 3]) }}{{ l.pop() }}{{ l.pop(0) }}{{ l.insert(0, 9) "
          "}}{{ l }}",
          "None31None[9, 2]" },
        { "{% set d = {'a': 1} %}{{ d.update({'b': 2}, c=3) }}{{ d.pop('a') }}{{ d.pop('x', 0) "
          "}}{{ d }}",
          "None10{'b': 2, 'c': 3}" },
        { "{% set d = {} %}{{ d.setdefault('a', 1) }}{{ d.setdefault('a', 2) }}{{ d }}",
          "11{'a': 1}" },
        { "{{ theirs.append(1) }}", NULL },
        { "{{ their.update({}) }}", NULL },
    };
    const struct json *context;
    struct arena a;
    struct buf out;
    struct err e;

    (void)state;
    arena_init(&a, 1u << 20);
    buf_init(&out, 1u << 20);
    assert_int_equal(
        json_parse(&a, STR("{\"theirs\": [1], \"their\": {\"a\": 1}}"), NULL, &context, &e), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        int rc;

        buf_reset(&out);
        rc = run(str_of(cases[i].source), context, &out, &e);
        assert_int_equal(rc == 0, cases[i].want != NULL);
        if (cases[i].want != NULL && !str_eqz(buf_view(&out), cases[i].want))
            fail_msg("%s gave %.*s", cases[i].source, STR_ARG(buf_view(&out)));
    }
    buf_fini(&out);
    arena_fini(&a);
}

/* Each of these would run, grow or nest without end. */
static void work_is_bounded(void **state)
{
    static const char *const cases[] = {
        "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor "
        "%}{% endfor %}{% endfor %}",
        "{{ range(100001) | list }}",
        "{{ range(0, 9223372036854775807) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(70) }}",
        "{% set ns = namespace(s='0123456789') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s "
        "%}{% endfor %}",
        "{% set ns = namespace(s='0123456789') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s "
        "%}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 100000000 }}",
        "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set l = [] %}{{ l.append(l) }}{{ l }}",
        "{% set l = [] %}{{ l.append(l) }}{{ l | tojson }}",
        "{% set l = [] %}{{ l.append(l) }}{% set m = [l] %}{{ m.append(m) }}{{ l == m }}{{ l < [l] "
        "}}{{ l | tojson }}",
        "{% set ns = namespace(t=()) %}{% for i in range(20000) %}{% set ns.t = (ns.t,) %}{% "
        "endfor %}{{ ns.t }}",
        "{% set ns = namespace(t=()) %}{% for i in range(20000) %}{% set ns.t = (ns.t,) %}{% "
        "endfor %}{{ {ns.t: 1} }}",
        "{% set ns = namespace(t=[]) %}{% for i in range(20000) %}{% set ns.t = [ns.t] %}{% endfor "
        "%}{{ ns.t == ns.t }}",
        "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
        "{% set l = ['a' * 1000] %}{% for i in range(100000) %}{% set _ = l.append(l | join) %}{% "
        "endfor %}",
        "{{ '%4097d' % 1 }}",
        "{{ '{:99999}'.format(1) }}",
        "{{ '%.65f' % 1 }}",
        "{{ '1'.zfill(100000) }}",
        "{{ 'a' | center(1000000) }}",
        "{{ 'a\nb' | indent(100) }}",
        "{{ [1] | tojson(indent=100) }}",
        "{{ [1] | batch(100000000, 1) | list }}",
        "{{ [1] | slice(100000000) | list }}",
        "{% set l = range(50000) | list %}{% for i in l %}{{ l | sort | first }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ 'b' in s }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s | upper | first }}{% endfor "
        "%}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s | length }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{{ s.split('a') | map('length') | sum }}{% for i in "
        "range(1000) %}{{ s.split('a') | length }}{% endfor %}",
        "{% set d = dict() %}{% for i in range(100000) %}{% set _ = d.update({i: [i]}) %}{{ "
        "d.keys() | list | length }}{% endfor %}",
    };
    struct buf out;

    (void)state;
    buf_init(&out, 64u << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = { 0 };
        int rc;

        buf_reset(&out);
        rc = run(str_of(cases[i]), NULL, &out, &e);
        if (rc != ERR_LIMIT)
            fail_msg("%s\n gave %d %s (%zu bytes)", cases[i], rc, e.msg, out.len);
    }
    buf_fini(&out);
}

static void a_deep_template_is_refused_when_loaded(void **state)
{
    static const struct {
        const char *open, *inner, *close;
        int rc;
    } cases[] = {
        { "{{ ", "(", "1", ERR_LIMIT },
        { "{{ ", "[", "1", ERR_LIMIT },
        { "{{ ", "-", "1 }}", ERR_LIMIT },
        { "{{ ", "not ", "1 }}", ERR_LIMIT },
        { "", "{% if 1 %}", "", ERR_LIMIT },
        { "", "{% for i in x %}", "", ERR_LIMIT },
        { "{{ x", ".a", "}}", ERR_PARSE },
        { "{{ x", "|list", "}}", ERR_PARSE },
        { "{{ 1", "+1", "}}", ERR_PARSE },
        { "{{ 1", " or 1", "}}", ERR_PARSE },
        { "{{ 1", " if 1 else 1", "}}", ERR_LIMIT },
        { "{{ ", "{1:", "", ERR_LIMIT },
        { "{{ x", "[x", "", ERR_LIMIT },
        { "{{ x", "(x", "", ERR_LIMIT },
        { "{{ ", "1 is eq ", "1 }}", ERR_PARSE },
        { "{{ x", "()", "}}", ERR_PARSE },
    };
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct chat_template *t;
        struct err e;
        int rc;

        buf_reset(&b);
        buf_z(&b, cases[i].open);
        for (int k = 0; k < 5000; k++)
            buf_z(&b, cases[i].inner);
        buf_z(&b, cases[i].close);
        rc = chat_template_new(&t, buf_view(&b), &e);
        if (rc != cases[i].rc)
            fail_msg("%s gave %d %s", cases[i].inner, rc, rc != 0 ? e.msg : "");
        chat_template_free(t);
    }
    buf_reset(&b);
    for (size_t i = 0; i < (256u << 10) + 1; i++)
        buf_c(&b, 'x');
    {
        struct chat_template *t;

        assert_int_equal(chat_template_new(&t, buf_view(&b), NULL), ERR_LIMIT);
        assert_null(t);
    }
    buf_fini(&b);
}

/* A text that grows in a loop costs what it is long, not its square. */
static void appending_in_a_loop_is_linear(void **state)
{
    static const char source[] = "{% set ns = namespace(s='', t='') %}{% for i in range(50000) "
                                 "%}{% set ns.s = ns.s + '0123456789' %}"
                                 "{% set ns.t = ns.t ~ x ~ i %}{% endfor %}{{ ns.s | length }} {{ "
                                 "ns.t | length }} {{ ns.t[:12] }}";
    const struct json *context;
    struct arena a;
    struct buf out;
    struct err e;

    (void)state;
    arena_init(&a, 1u << 20);
    buf_init(&out, 1u << 20);
    assert_int_equal(json_parse(&a, STR("{\"x\": \"#\"}"), NULL, &context, &e), 0);
    if (run(str_of(source), context, &out, &e) != 0)
        fail_msg("%s", e.msg);
    assert_true(str_eqz(buf_view(&out), "500000 288890 #0#1#2#3#4#5"));
    buf_fini(&out);
    arena_fini(&a);
}

static void an_older_text_does_not_see_what_was_appended(void **state)
{
    static const struct {
        const char *source, *want;
    } cases[] = {
        { "{% set a = 'x' + y %}{% set b = a + '1' %}{% set c = a + '2' %}{% set d = b + '3' %}{{ "
          "a }} {{ b }} {{ c }} {{ d }}",
          "x# x#1 x#2 x#13" },
        { "{% set a %}q{{ y }}{% endset %}{% set b = a + '1' %}{% set c = a + y %}{{ a }} {{ b }} "
          "{{ c }} {{ a[1:] + 'z' }} {{ a }}",
          "q# q#1 q## #z q#" },
        { "{% set a = y + 'x' %}{% set t = a[1:] %}{% set u = t + 'u' %}{% set v = a + 'v' %}{{ t "
          "}} {{ u }} {{ v }} {{ a }}",
          "x xu #xv #x" },
    };
    const struct json *context;
    struct arena a;
    struct buf out;
    struct err e;

    (void)state;
    arena_init(&a, 1u << 20);
    buf_init(&out, 1u << 20);
    assert_int_equal(json_parse(&a, STR("{\"y\": \"#\"}"), NULL, &context, &e), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        buf_reset(&out);
        assert_int_equal(run(str_of(cases[i].source), context, &out, &e), 0);
        if (!str_eqz(buf_view(&out), cases[i].want))
            fail_msg("%s gave %.*s", cases[i].source, STR_ARG(buf_view(&out)));
    }
    buf_fini(&out);
    arena_fini(&a);
}

static void an_exception_keeps_its_words(void **state)
{
    struct buf out;
    struct err e;

    (void)state;
    buf_init(&out, 1u << 20);
    assert_int_equal(run(STR("{{ raise_exception('Roles must alternate!') }}"), NULL, &out, &e),
                     ERR_INVAL);
    assert_string_equal(e.msg, "Roles must alternate!");
    assert_int_equal(run(STR("\n\n{{ nothing.here }}"), NULL, &out, &e), ERR_INVAL);
    assert_non_null(strstr(e.msg, "line 3"));
    assert_int_equal(run(STR("\n{{ 1 +"), NULL, &out, &e), ERR_PARSE);
    assert_non_null(strstr(e.msg, "line 2"));
    assert_int_equal(out.len, 0);
    buf_fini(&out);
}

static void memory_that_is_refused_is_an_error(void **state)
{
    static const char source[] =
        "{% set ns = namespace(s='') %}{% for m in l %}{% set ns.s = ns.s + (m | upper) %}"
        "{% endfor %}{{ ns.s }}{{ l | sort | join(', ') }}{{ l | tojson }}{{ '%s' % ns.s }}";
    const struct json *context;
    struct arena a;
    struct err e;
    bool done = false;

    (void)state;
    arena_init(&a, 1u << 20);
    assert_int_equal(json_parse(&a, STR("{\"l\": [\"b\", \"a\", \"c\"]}"), NULL, &context, &e), 0);
    for (uint64_t n = 1; n < 200 && !done; n++) {
        struct buf out;
        int rc;

        buf_init(&out, 1u << 20);
        mem_fail_at(n);
        rc = run(str_of(source), context, &out, &e);
        mem_fail_at(0);
        done = rc == 0;
        assert_true(rc == 0 || rc == ERR_NOMEM || rc == ERR_LIMIT);
        buf_fini(&out);
    }
    assert_true(done);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_language_is_jinja2_s),
        cmocka_unit_test(a_template_may_change_what_it_made),
        cmocka_unit_test(work_is_bounded),
        cmocka_unit_test(a_deep_template_is_refused_when_loaded),
        cmocka_unit_test(appending_in_a_loop_is_linear),
        cmocka_unit_test(an_older_text_does_not_see_what_was_appended),
        cmocka_unit_test(an_exception_keeps_its_words),
        cmocka_unit_test(memory_that_is_refused_is_an_error),
    };

    (void)setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
