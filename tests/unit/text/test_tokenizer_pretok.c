/* The hand-written scanners against the regular expressions that define them, run by PCRE2: the
 * same cuts on every text. */
// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/check.h"
#include "base/rng.h"
#include "codec/utf8.h"
#include "text/pretok.h"
#include <pcre2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include <cmocka.h>

#define PASSES_MAX 4
#define PIECES_MAX 4096

#define GPT2        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define BLANKS      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Each expression splits the pieces of the one before into matches and what is between. */
static const struct {
    enum pretok_kind kind;
    const char *name, *regex[PASSES_MAX + 1];
} kinds[] = {
    { PRETOK_GPT2, "gpt-2", { GPT2 } },
    { PRETOK_SMOLLM, "smollm", { "\\p{N}", GPT2 } },
    { PRETOK_LLAMA3,
      "llama-bpe",
      { CONTRACTION
        "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BLANKS } },
    { PRETOK_QWEN2,
      "qwen2",
      { CONTRACTION
        "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BLANKS } },
    { PRETOK_QWEN35,
      "qwen35",
      { CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                    "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" BLANKS } },
    { PRETOK_FALCON, "falcon", { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" } },
    { PRETOK_DEFAULT, "default", { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
};

static pcre2_code *compiled[COUNT(kinds)][PASSES_MAX];

static int compile_all(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; kinds[k].regex[i] != NULL; i++) {
            int code;
            PCRE2_SIZE at;

            compiled[k][i] = pcre2_compile((PCRE2_SPTR)kinds[k].regex[i], PCRE2_ZERO_TERMINATED,
                                           PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
            assert_non_null(compiled[k][i]);
        }
    return 0;
}

static int free_all(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < PASSES_MAX; i++)
            pcre2_code_free(compiled[k][i]);
    return 0;
}

struct pieces {
    struct str piece[PIECES_MAX];
    size_t count;
};

static void put(struct pieces *p, const char *at, size_t n)
{
    if (n == 0)
        return;
    assert_true(p->count < PIECES_MAX);
    p->piece[p->count++] = (struct str) { at, n };
}

/* One expression over one piece: "not followed by a non-blank" looks no further than its end. */
static void split(pcre2_code *re, struct str s, struct pieces *out)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    size_t from = 0, gap = 0;

    while (from < s.n && pcre2_match(re, (PCRE2_SPTR)s.p, s.n, from, 0, m, NULL) > 0) {
        PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);

        put(out, s.p + gap, at[0] - gap);
        put(out, s.p + at[0], at[1] - at[0]);
        from = gap = at[1];
    }
    put(out, s.p + gap, s.n - gap);
    pcre2_match_data_free(m);
}

static void by_regex(size_t kind, struct str text, struct pieces *out)
{
    static struct pieces before;

    out->count = 0;
    put(out, text.p, text.n);
    for (size_t i = 0; kinds[kind].regex[i] != NULL; i++) {
        before = *out;
        out->count = 0;
        for (size_t j = 0; j < before.count; j++)
            split(compiled[kind][i], before.piece[j], out);
    }
}

static void check(size_t kind, struct str text)
{
    static struct pieces want;
    struct pretok s;
    struct str piece;
    size_t n = 0;

    by_regex(kind, text, &want);
    pretok_init(&s, kinds[kind].kind, text);
    while (pretok_next(&s, &piece)) {
        if (n >= want.count || !str_eq(piece, want.piece[n]))
            fail_msg("%s cuts \"%.*s\" of \"%.*s\" where the expression does not", kinds[kind].name,
                     STR_ARG(piece), STR_ARG(text));
        n++;
    }
    assert_int_equal(n, want.count);
}

static const char *const texts[] = {
    "",
    " ",
    "  ",
    "a",
    " a",
    "  a",
    "a  b   c",
    "Hello, world! It's 2024's best-case; don't WON'T I'll I'LL we've WE'VE they're 'twas 'S 'x",
    "x=1234567890; y = 12 345 6",
    "\n\n  \n\t x\r\n\r\n",
    "a \n b\n\n",
    "...!!!\n\n???\r\n --\n",
    " \u00a0\u3000a\u2028b \xc2\x85 c",
    "'s's''s '",
    ("\u0661\u0662\u0663 \u2167 \u00bd\u00b2 12\u0663\u0664"
     "56"),
    "e\u0301a\u0300 \u0905\u0928\u0941\u0938\u094d \u05d0\u05b6\u05e8",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002123\uff11\uff12",
    "\U0001f600\U0001f468\u200d\U0001f469 ok",
    "$+<=>^~|` #@%&*",
    "1 2  3   4",
    "\x01\x02 \x7f\x1b[0m",
    "tab\tsep \t end\t",
};

static void fixed_texts_are_cut_as_the_expressions_cut_them(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < COUNT(texts); i++)
            check(k, str_of(texts[i]));
}

/* Code points of every class.  U+180E is left out: PCRE2 takes it for a blank, Unicode does not. */
static const uint32_t points[] = {
    0,      9,      10,     11,     12,      13,      27,      ' ',     ' ',     ' ',
    '\'',   '\'',   's',    't',    'r',     'e',     'l',     'L',     'd',     'M',
    'a',    'Z',    '0',    '1',    '9',     '.',     ',',     '$',     '+',     '<',
    '^',    '`',    '|',    '~',    '-',     '\n',    '\r',    ' ',     0x7f,    0x85,
    0xa0,   0xa7,   0xaa,   0xad,   0xb2,    0xb5,    0xbc,    0xd7,    0xe9,    0x17f,
    0x1c5,  0x2c6,  0x300,  0x378,  0x431,   0x5b0,   0x5d0,   0x660,   0x6dd,   0x903,
    0x966,  0x1680, 0x2003, 0x200b, 0x200d,  0x2014,  0x2028,  0x202f,  0x2070,  0x20ac,
    0x2160, 0x212a, 0x2581, 0x3000, 0x3007,  0x3042,  0x4e00,  0xac00,  0xe000,  0xfb01,
    0xfe0f, 0xff11, 0xff0c, 0xfffd, 0x10000, 0x1d7d8, 0x1f600, 0x20000, 0xe0001,
};

static void random_texts_are_cut_as_the_expressions_cut_them(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, 20240607);
    for (int i = 0; i < 4000; i++) {
        char text[512];
        size_t n = 0, len = 1 + rng_below(&r, 40);

        for (size_t j = 0; j < len; j++)
            n += utf8_put(text + n, points[rng_below(&r, COUNT(points))]);
        for (size_t k = 0; k < COUNT(kinds); k++)
            check(k, (struct str) { text, n });
    }
}

/* Known to the Unicode versions of both libraries. */
static bool is_assigned(pcre2_code *assigned, uint32_t cp)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    char c[4];
    size_t n = utf8_put(c, cp);
    int found = pcre2_match(assigned, (PCRE2_SPTR)c, n, 0, 0, m, NULL);

    pcre2_match_data_free(m);
    return found > 0 && utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CN;
}

static void every_code_point_has_the_class_that_the_expressions_give_it(void **state)
{
    int code;
    PCRE2_SIZE where;
    pcre2_code *assigned = pcre2_compile((PCRE2_SPTR) "\\P{Cn}", PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);

    (void)state;
    for (uint32_t cp = 0; cp < 0x32000; cp += cp >= 0x3400 && cp < 0xa000 ? 61 : 1) {
        char text[16] = "a";
        size_t n = 1;

        if (cp == 0x180e || (cp >= 0xd800 && cp < 0xe000) || !is_assigned(assigned, cp))
            continue;
        n += utf8_put(text + n, cp);
        text[n++] = '1';
        for (size_t k = 0; k < COUNT(kinds); k++)
            check(k, (struct str) { text, n });
    }
    pcre2_code_free(assigned);
}

static void long_runs_are_one_piece_and_linear(void **state)
{
    static char text[1 << 20];
    static const struct {
        char c;
        enum pretok_kind kind;
        size_t pieces;
    } cases[] = {
        { 'a', PRETOK_GPT2, 1 },
        { ' ', PRETOK_LLAMA3, 1 },
        { '\n', PRETOK_QWEN2, 1 },
        { '7', PRETOK_SMOLLM, sizeof(text) },
        { '7', PRETOK_LLAMA3, sizeof(text) / 3 + 1 },
        { '7', PRETOK_DEFAULT, sizeof(text) / 3 + 1 },
        { '!', PRETOK_DEFAULT, 1 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct pretok s;
        struct str piece;
        size_t n = 0;

        memset(text, cases[i].c, sizeof(text));
        pretok_init(&s, cases[i].kind, (struct str) { text, sizeof(text) });
        while (pretok_next(&s, &piece))
            n++;
        assert_int_equal(n, cases[i].pieces);
    }
}

static void bad_utf8_is_repaired_as_llama_cpp_reads_it(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "abc \xc3\xa9", "abc \xc3\xa9" },
        { "\x80", "\xef\xbf\xbd" },
        { "a\xff\xfe", "a\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xc3", "\xef\xbf\xbd" },
        { "\xc3(", "\xef\xbf\xbd(" },
        { "\xe2\x96", "\xef\xbf\xbd\xef\xbf\xbd" }, /* one for each byte, not for each subpart */
        { "\xc1\xbf", "\x7f" },                     /* overlong forms count as what they mean */
        { "\xe0\x82\xa2", "\xc2\xa2" },
        { "\xed\xa0\x80", "\xed\xa0\x80" }, /* surrogates stay */
        { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf5\x80\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint8_t out[64];
        struct str in = str_of(cases[i].in);
        size_t n = pretok_repair(in, out);

        assert_int_equal(n, strlen(cases[i].out));
        assert_memory_equal(out, cases[i].out, n);
    }
}

static void names_of_pretokenizers_are_known_or_refused(void **state)
{
    (void)state;
    assert_int_equal(pretok_find(STR("smollm"))->kind, PRETOK_SMOLLM);
    assert_int_equal(pretok_find(STR("starcoder"))->kind, PRETOK_SMOLLM);
    assert_int_equal(pretok_find(STR("deepseek-r1-qwen"))->kind, PRETOK_QWEN2);
    assert_true(pretok_find(STR("llama-bpe"))->ignore_merges);
    assert_true(pretok_find(STR("llama-bpe"))->add_bos);
    assert_false(pretok_find(STR("dbrx"))->ignore_merges);
    assert_null(pretok_find(STR("no-such")));
    assert_null(pretok_find(STR("")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixed_texts_are_cut_as_the_expressions_cut_them),
        cmocka_unit_test(random_texts_are_cut_as_the_expressions_cut_them),
        cmocka_unit_test(every_code_point_has_the_class_that_the_expressions_give_it),
        cmocka_unit_test(long_runs_are_one_piece_and_linear),
        cmocka_unit_test(bad_utf8_is_repaired_as_llama_cpp_reads_it),
        cmocka_unit_test(names_of_pretokenizers_are_known_or_refused),
    };

    return cmocka_run_group_tests(tests, compile_all, free_all);
}
