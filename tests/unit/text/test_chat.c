/* Chat templates against jinja2 set up as Hugging Face does, and the tokens they become. */
// SPDX-License-Identifier: Apache-2.0
#include "text/chat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/gguf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct golden {
    struct buf text;
    struct arena a;
    struct str rest;
    const struct json *conversations;
    double now;
};

static const struct json *next_line(struct golden *g)
{
    const struct json *j = NULL;
    struct str line = str_cut(&g->rest, '\n');
    struct err e;

    if (line.n == 0)
        return NULL;
    if (json_parse(&g->a, line, NULL, &j, &e) != 0)
        fail_msg("%s", e.msg);
    return j;
}

static void golden_open(struct golden *g, const char *path)
{
    const struct json *head;
    struct err e;

    buf_init(&g->text, 64u << 20);
    arena_init(&g->a, 512u << 20);
    if (file_read(path, &g->text, &e) != 0)
        fail_msg("%s", e.msg);
    g->rest = buf_view(&g->text);
    head = next_line(g);
    g->conversations = json_get(head, "conversations");
    assert_true(json_is(g->conversations, JSON_ARRAY));
    assert_true(json_f64(json_get(head, "now"), &g->now));
}

static void golden_close(struct golden *g)
{
    arena_fini(&g->a);
    buf_fini(&g->text);
}

static struct str text_of(const struct json *j, const char *key)
{
    struct str s = STR_NONE;

    (void)json_str(json_get(j, key), &s);
    return s;
}

static struct chat_render_opts options(const struct golden *g, const struct json *c, const struct json *t)
{
    struct chat_render_opts o = { .messages = json_get(c, "messages"), .tools = json_get(c, "tools"),
                                  .kwargs = json_get(c, "kwargs"), .bos_token = text_of(t, "bos"),
                                  .eos_token = text_of(t, "eos"), .now_s = g->now };

    (void)json_bool(json_get(c, "add_generation_prompt"), &o.add_generation_prompt);
    if (json_is(o.tools, JSON_NULL))
        o.tools = NULL;
    return o;
}

static void show_difference(struct str name, struct str conversation, struct str got, struct str want)
{
    size_t at = 0;

    while (at < got.n && at < want.n && got.p[at] == want.p[at])
        at++;
    at = at > 60 ? at - 60 : 0;
    print_error("%.*s, %.*s:\n  got  %.*s\n  want %.*s\n", STR_ARG(name), STR_ARG(conversation),
                STR_ARG(str_sub(got, at, 160)), STR_ARG(str_sub(want, at, 160)));
}

/* Renders every conversation of one template; gives how many differ. */
static unsigned compare(const struct golden *g, const struct json *t, unsigned *done)
{
    const struct json *c = g->conversations->first, *want = json_get(t, "out")->first;
    struct chat_template *template = NULL;
    unsigned wrong = 0;
    struct buf out;
    struct err e;

    if (chat_template_new(&template, text_of(t, "template"), &e) != 0) {
        print_error("%.*s: %s\n", STR_ARG(text_of(t, "name")), e.msg);
        return 1;
    }
    buf_init(&out, 16u << 20);
    for (; c != NULL; c = c->next, want = want->next) {
        struct chat_render_opts o = options(g, c, t);
        struct str expected = STR_NONE;
        int rc;

        buf_reset(&out);
        e.msg[0] = 0;
        rc = chat_render(template, &o, &out, &e);
        (*done)++;
        (void)json_str(want, &expected);
        if (expected.p == NULL ? rc == 0 : rc != 0 || !str_eq(buf_view(&out), expected)) {
            wrong++;
            if (rc != 0)
                print_error("%.*s, %.*s: %s\n", STR_ARG(text_of(t, "name")), STR_ARG(text_of(c, "name")), e.msg);
            else if (expected.p == NULL)
                print_error("%.*s, %.*s: jinja2 raises\n", STR_ARG(text_of(t, "name")), STR_ARG(text_of(c, "name")));
            else
                show_difference(text_of(t, "name"), text_of(c, "name"), buf_view(&out), expected);
        }
    }
    buf_fini(&out);
    chat_template_free(template);
    return wrong;
}

static void compare_file(const char *path, unsigned allowed)
{
    unsigned wrong = 0, done = 0, templates = 0;
    const struct json *t;
    struct golden g;

    golden_open(&g, path);
    for (; (t = next_line(&g)) != NULL; templates++)
        wrong += compare(&g, t, &done);
    golden_close(&g);
    print_message("%u templates, %u renderings, %u differ\n", templates, done, wrong);
    assert_true(templates > 0);
    assert_true(wrong <= allowed);
}

static void templates_of_our_models_render_as_in_jinja2(void **state)
{
    (void)state;
    compare_file(GOLDEN "/chat.jsonl", 0);
}

/* LLMD_TEST_TEMPLATES: what generate.py writes for a folder of templates. */
static void a_folder_of_templates_renders_as_in_jinja2(void **state)
{
    const char *path = getenv("LLMD_TEST_TEMPLATES");

    (void)state;
    if (path == NULL) {
        print_message("LLMD_TEST_TEMPLATES is not set: only our models' templates were compared\n");
        skip();
    }
    compare_file(path, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_of_our_models_render_as_in_jinja2),
        cmocka_unit_test(a_folder_of_templates_renders_as_in_jinja2),
    };

    (void)setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
