/* UTF-8: well-formed sequences of RFC 3629, cuts, and replacement as Python does it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/check.h"
#include "codec/utf8.h"
#include <string.h>

#define LIT(z)                                                                                     \
    {                                                                                              \
        (z), sizeof(z) - 1                                                                         \
    }

static void every_code_point_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char c[4];
        size_t n = utf8_put(c, cp), len;
        uint32_t want = cp >= 0xd800 && cp <= 0xdfff ? 0xfffd : cp;

        if (utf8_next((struct str) { c, n }, &len) != want || len != n)
            fail_msg("U+%04X", cp);
    }
}

/* Expected texts are what Python's bytes.decode("utf-8", "replace") gave. */
static void bad_bytes_are_replaced_as_python_does(void **state)
{
    static const struct {
        struct str in;
        const char *out;
    } cases[] = {
        { LIT(""), "" },
        { LIT("plain"), "plain" },
        { LIT("a\x80z"), "a\xef\xbf\xbdz" },
        { LIT("\xff\xfe"), "\xef\xbf\xbd\xef\xbf\xbd" },
        { LIT("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd" },
        { LIT("\xe2\x82"), "\xef\xbf\xbd" },
        { LIT("\xe2\x82\x41"), "\xef\xbf\xbd\x41" },
        { LIT("\xf0\x9f\x98x"), "\xef\xbf\xbdx" },
        { LIT("\xe0\x80\xaf"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { LIT("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { LIT("\xf4\x90\x80\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { LIT("0123456789\xc3\xa9 0123456789\xc3"), "0123456789\xc3\xa9 0123456789\xef\xbf\xbd" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;

        buf_init(&b, 256);
        assert_true(utf8_lossy(&b, cases[i].in));
        if (!str_eqz(buf_view(&b), cases[i].out))
            fail_msg("case %zu: %.*s", i, STR_ARG(buf_view(&b)));
        assert_true(utf8_valid(buf_view(&b)));
        assert_true(utf8_valid(cases[i].in) == str_eqz(cases[i].in, cases[i].out));
        buf_fini(&b);
    }
}

static void complete_holds_back_only_a_character_that_may_still_come(void **state)
{
    static const struct {
        struct str in;
        size_t n;
    } cases[] = {
        { LIT(""), 0 },
        { LIT("ab"), 2 },
        { LIT("a\xc3"), 1 },
        { LIT("a\xc3\xa9"), 3 },
        { LIT("a\xe2\x82"), 1 },
        { LIT("a\xe2"), 1 },
        { LIT("\xf0\x9f\x98"), 0 },
        { LIT("\xf0\x9f\x98\x80"), 4 },
        { LIT("a\x80"), 2 },
        { LIT("\xed\xa0"), 2 },
        { LIT("\xe0\x80"), 2 },
        { LIT("\xff"), 1 },
        { LIT("\x80\x80\x80\x80"), 4 },
        { LIT("\xc3\xa9\xa9"), 3 },
        { LIT("\xf4\x90"), 2 },
        { LIT("\xc1"), 1 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        if (utf8_complete(cases[i].in) != cases[i].n)
            fail_msg("case %zu: %zu", i, utf8_complete(cases[i].in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_survives_a_round_trip),
        cmocka_unit_test(bad_bytes_are_replaced_as_python_does),
        cmocka_unit_test(complete_holds_back_only_a_character_that_may_still_come),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
