/* Files that change under a watch, in the ways that editors and mounted volumes change them. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/check.h"
#include "base/file.h"
#include "net/resolve.h"
#include "net/watch.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct seen {
    struct loop *loop;
    uint32_t told;
    bool timed_out;
};

static void told(void *ctx)
{
    struct seen *s = ctx;

    s->told++;
    loop_stop(s->loop);
}

static void too_late(void *ctx)
{
    struct seen *s = ctx;

    s->timed_out = true;
    loop_stop(s->loop);
}

static void put(const char *path, const char *text)
{
    struct err e;

    assert_int_equal(file_write(path, str_of(text), &e), 0);
}

/* Waits until the watch tells; false after ms without a word. */
static bool wait_told(struct seen *s, uint64_t ms)
{
    struct loop_timer *t = loop_timer_new(s->loop, too_late, s);
    uint32_t before = s->told;

    s->timed_out = false;
    loop_timer_arm(t, ms, 0);
    loop_run(s->loop);
    loop_timer_free(t);
    return s->told == before + 1;
}

static void changes_are_told_once_each(void **state)
{
    char dir[] = "watch-XXXXXX", a[64], b[64], link[64], next[64];
    struct seen s = { 0 };
    const char *const watched[] = { link };
    struct watch *w;
    struct err e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(a, sizeof(a), "%s/a", dir);
    snprintf(b, sizeof(b), "%s/b", dir);
    snprintf(link, sizeof(link), "%s/link", dir);
    snprintf(next, sizeof(next), "%s/next", dir);
    put(a, "one");
    put(b, "two, of another size");
    assert_int_equal(symlink("a", link), 0);
    assert_int_equal(loop_new(&s.loop, &e), 0);
    w = watch_new(s.loop, watched, 1, told, &s);

    assert_false(wait_told(&s, 800)); /* nothing changed */
    put(a, "three");                  /* renamed over */
    assert_true(wait_told(&s, 5000));
    assert_int_equal(symlink("b", next), 0);
    assert_int_equal(rename(next, link), 0); /* the link points elsewhere */
    assert_true(wait_told(&s, 5000));
    assert_int_equal(unlink(b), 0); /* may be told: its reader then keeps what it has */
    (void)wait_told(&s, 3000);
    put(b, "four"); /* its return is */
    assert_true(wait_told(&s, 5000));

    watch_free(w);
    loop_free(s.loop);
    (void)unlink(a);
    (void)unlink(b);
    (void)unlink(link);
    (void)rmdir(dir);
}

static void addresses(void *ctx, int rc, const char (*address)[RESOLVE_ADDRESS_BYTES],
                      uint32_t count)
{
    struct seen *s = ctx;

    assert_int_equal(rc, 0);
    assert_int_equal(count, 1);
    assert_string_equal(address[0], "127.0.0.1");
    s->told++;
    loop_stop(s->loop);
}

static void a_literal_resolves_to_itself_and_a_cancelled_one_to_nothing(void **state)
{
    struct seen s = { 0 };
    struct err e;

    (void)state;
    assert_int_equal(loop_new(&s.loop, &e), 0);
    resolve_cancel(resolve_start(s.loop, "127.0.0.2", addresses, &s));
    assert_non_null(resolve_start(s.loop, "127.0.0.1", addresses, &s));
    loop_run(s.loop);
    assert_int_equal(s.told, 1);
    loop_free(s.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_are_told_once_each),
        cmocka_unit_test(a_literal_resolves_to_itself_and_a_cancelled_one_to_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
