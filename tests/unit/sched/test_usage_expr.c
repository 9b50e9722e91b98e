/* Expressions over usage: what is refused, where, and with which advice; the values themselves are
 * golden rows (request-attribute-reporter). */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/check.h"
#include "sched/usage_expr.h"
#include <string.h>

static int parse(const char *text, size_t n, enum usage_type want, struct arena *a,
                 const struct usage_expr **out, struct err *e)
{
    return usage_expr_parse(out, (struct str) { text, n }, want, a, e);
}

static void each_refusal_names_its_character(void **state)
{
    static const struct {
        const char *text, *at, *says;
        enum usage_type want;
    } cases[] = {
        { "", "character 1:", "missing at the end", USAGE_NUMBER },
        { "  // only a comment", "character 20:", "missing at the end", USAGE_NUMBER },
        { "usage.prompt_tokens +", "character 22:", "missing at the end", USAGE_NUMBER },
        { "usage.prompt_token", "character 1:", "no such field; known are usage.prompt_tokens",
          USAGE_NUMBER },
        { "1 + usage", "character 5:", "no such field", USAGE_NUMBER },
        { "usage.prompt_tokens_details", "character 1:", "no such field", USAGE_NUMBER },
        { "request.size", "character 1:", "unknown name; known are has()", USAGE_NUMBER },
        { "int(usage.total_tokens)", "character 1:", "unknown name", USAGE_NUMBER },
        { "1 + \"a\"", "character 5:", "text, lists and maps are not taken", USAGE_NUMBER },
        { "usage['prompt_tokens']", "character 1:", "no such field", USAGE_NUMBER },
        { "7 % 2", "character 3:", "% is for whole numbers", USAGE_NUMBER },
        { "1 = 2", "character 3:", "write == to compare", USAGE_BOOL },
        { "1 2", "character 3:", "must be an operator", USAGE_NUMBER },
        { "1)", "character 2:", "must be an operator", USAGE_NUMBER },
        { "(1", "character 3:", ") is missing at the end", USAGE_NUMBER },
        { "(1 2)", "character 4:", "must be )", USAGE_NUMBER },
        { "has(1)", "character 5:", "has() takes a field of usage", USAGE_BOOL },
        { "has usage.total_tokens", "character 5:", "must be (", USAGE_BOOL },
        { "1.2.3", "character 1:", "is no number", USAGE_NUMBER },
        { "0x10", "character 1:", "is no number", USAGE_NUMBER },
        { "2u", "character 1:", "is no number", USAGE_NUMBER },
        { "1e999", "character 1:", "is no number", USAGE_NUMBER },
        { "true", "character 1:", "must be a number, and is a condition", USAGE_NUMBER },
        { "1 + 1", "character 1:", "must be a condition, and is a number", USAGE_BOOL },
        { "1 && true", "character 1:", "must be a condition", USAGE_BOOL },
        { "true == 1", "character 8:", "must be a condition", USAGE_BOOL },
        { "1 < 2 < 3", "character 1:", "must be a number", USAGE_BOOL },
        { "!1", "character 2:", "must be a condition", USAGE_BOOL },
        { "-true", "character 2:", "must be a number", USAGE_NUMBER },
        { "1 ? 2 : 3", "character 1:", "must be a condition", USAGE_NUMBER },
        { "true ? 2 : false",
          "character 11:", "must be a number, as the other branch at character 7", USAGE_NUMBER },
        { "true ? 2", "character 9:", ": is missing at the end", USAGE_NUMBER },
        { "\xff", "character 1:", "must be a number, a field", USAGE_NUMBER },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct usage_expr *x;
        struct arena a;
        struct err e;

        arena_init(&a, 1 << 20);
        if (parse(cases[i].text, strlen(cases[i].text), cases[i].want, &a, &x, &e) != ERR_PARSE ||
            x != NULL || strncmp(e.msg, cases[i].at, strlen(cases[i].at)) != 0 ||
            strstr(e.msg, cases[i].says) == NULL)
            fail_msg("%s: %s", cases[i].text, e.msg);
        arena_fini(&a);
    }
}

static void length_and_nesting_have_ends(void **state)
{
    static const struct {
        const char *begin, *again, *end;
        int fits, rc;
    } cases[] = {
        { "1", "+1", "", 100, ERR_LIMIT },         { "", "(", "1", 20, ERR_LIMIT },
        { "", "-", "1", 20, ERR_LIMIT },           { "", "!", "true", 20, ERR_LIMIT },
        { "", "true ? 1 : ", "1", 20, ERR_LIMIT },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int many = 0; many < 2; many++) {
            int times = many ? 100000 : cases[i].fits;
            const struct usage_expr *x;
            struct arena a;
            struct buf b;
            struct err e;
            int rc;

            buf_init(&b, 4 << 20);
            buf_z(&b, cases[i].begin);
            for (int k = 0; k < times; k++)
                buf_z(&b, cases[i].again);
            buf_z(&b, cases[i].end);
            for (int k = 0; k < times && cases[i].again[0] == '('; k++)
                buf_c(&b, ')');
            arena_init(&a, 1 << 20);
            rc =
                parse(b.p, b.len, cases[i].again[0] == '!' ? USAGE_BOOL : USAGE_NUMBER, &a, &x, &e);
            if (rc != (many ? cases[i].rc : 0))
                fail_msg("%s x %d: %d", cases[i].again, times, rc);
            arena_fini(&a);
            buf_fini(&b);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_refusal_names_its_character),
        cmocka_unit_test(length_and_nesting_have_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
