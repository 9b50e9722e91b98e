/* The texts of the tokenizer goldens, made by rule: the same in the program that asked the
 * reference (oracle.c) and in the test.  Changing anything here means making the goldens anew. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_TOKENIZER_CASES_H
#define TESTS_TOKENIZER_CASES_H
#include <stdint.h>
#include <string.h>

#define CASE_BYTES_MAX ((size_t)512 << 10)

static const char *const case_phrases[] = {
    "Hello, world! It's 2024's best-case; don't WON'T I'll I'LL we've WE'VE they're 'twas",
    "The quick brown fox jumps over the lazy dog. Once upon a time, in a land far away, a king "
    "lived.",
    "Привет, мир! Как дела? 123 456 Достопримечательности",
    "你好，世界。这是一个测试：１２３ 一二三，机器学习模型",
    "こんにちは世界、テスト123ですよー。カタカナとひらがな",
    "안녕하세요 세계! 테스트 42개 입니다",
    "مرحبا بالعالم ١٢٣ كيف الحال؟",
    "שלום עולם אֶרֶץ",
    "नमस्ते दुनिया १२३ क्षत्रिय",
    "สวัสดีชาวโลก ๑๒๓",
    "Xin chào thế giới ằẳẵ",
    "Γειά σου Κόσμε ὦ ἄνδρες",
    "e\xcc\x81"
    "a\xcc\x80 combining Z̷̧a̵͝l̶g̴o̸ marks",
    "😀👨‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽 emoji 🤖",
    "int main(void) {\n\tfor (size_t i = 0; i < n; i++)\r\n\t\tx[i] += 0x1F3;\n}\n\n\n",
    "def f(x):\n    return {'a': [1,2,3], \"b\": x**2}  # comment\n",
    "SELECT * FROM t WHERE a='it''s' AND b>=1e-10;",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|eot_id|><bos><eos><start_of_turn>user\n</s><s>",
    "<unk><tool_call>{\"name\": \"f\"}</tool_call><|user|>  x<|end|> \n y<|file_sep|><repo_name>",
    "<h1>title</h1><table><tr><td>x</td></tr></table><p>para</p><br><ul><li>item</li></ul>",
    "a\xc2\xa0"
    "b\xe2\x80\x83"
    "c\xe3\x80\x80"
    "d\xe2\x80\xa8"
    "e\xc2\x85"
    "f\xe1\x9a\x80"
    "g\xe1\xa0\x8eh\xe2\x80\x8bi",
    "\x01\x02\x7f\x1b[31mred\x1b[0m",
    "½ ⅓ Ⅷ ² ³ ¼ ٠١٢ ㊿ 𝟘𝟙 𝒜𝓑",
    "𠀀𠀁 \xf0\xae\xaf\xb0\xf0\xae\xb9\x9d ꯍ 𓀀𓂀",
    "$+<=>^~|`!@#%&*()-_[]{}\\/?.,:;\"'",
    "▁▁a▁ ▁b <0x0A> ▁",
    "https://example.com/path?q=1&r=%20#frag user@host.org",
    "   leading and trailing   ",
    "\n\n\n   \n \t \r\n\r\n x",
    "ſ 'ſ 'S 'Ť K'K 'RE're 'Ll 'vE 'D 's't'm'd",
    "...!!! --- ==> <-- /* */ // #define X",
    "1 12 123 1234 12345 123456 1,000,000.00 1e5 0xff",
    "Ｆｕｌｌ　ｗｉｄｔｈ １２３ ！？",
    "“quotes” ‘single’ — dash – en … ellipsis • ©®™",
    "{\"role\": \"user\", \"content\": \"What is the capital of France?\"}\n",
    "| col a | col b |\n|---|---|\n| 1 | 2 |\n\n```c\nreturn 0;\n```\n",
    "Donaudampfschifffahrtsgesellschaftskapitän Straße ÄÖÜ",
    "L'été où l'œuvre naïve à Noël coûte 5 €",
    "¿Qué pasa, señor? ¡Mañana!",
    "thethethethe ofofof antidisestablishmentarianism xylophonequartz",
};

/* Code points of every class and length. */
static const uint32_t case_points[] = {
    9,       10,      11,      12,      13,       28,      31,      32,      33,      36,
    39,      43,      48,      57,      60,       65,      90,      94,      95,      96,
    97,      122,     124,     126,     127,      0x80,    0x85,    0xa0,    0xa7,    0xaa,
    0xad,    0xb2,    0xb5,    0xbc,    0xd7,     0xdf,    0x130,   0x131,   0x17f,   0x1c5,
    0x2c6,   0x300,   0x301,   0x345,   0x378,    0x3c9,   0x431,   0x5d0,   0x5b0,   0x600,
    0x660,   0x6dd,   0x903,   0x93e,   0x966,    0x1680,  0x180e,  0x2003,  0x200b,  0x200d,
    0x2028,  0x2029,  0x202f,  0x205f,  0x2160,   0x2070,  0x20ac,  0x212a,  0x2581,  0x2603,
    0x2ffc,  0x3000,  0x3007,  0x3042,  0x31ef,   0x4e00,  0xac00,  0xe000,  0xfb01,  0xfe0f,
    0xfeff,  0xff11,  0xfffd,  0xfffe,  0x10000,  0x1d7d8, 0x1f600, 0x1f3fd, 0x20000, 0x2ebf0,
    0x2ee5d, 0x2ee5e, 0x30000, 0xe0001, 0x10fffd, 0,
};

static const char *const case_bad[] = {
    "\xed\xa0\x80",
    "\xe0\x80\x80",
    "\xf0\x80\x80\x80",
    "\xc1\xbf x",
    ("\xed\xbf\xbf"
     "a"),
    "a\xe2\x96",
    "\xe2\x96\x81\xe2",
    "\xf0\x9f\x98",
    "\xff\xfe",
    "\x80\x80",
    "\xf8\xf9",
    "\xc3\xc3\xa9",
};

static const struct {
    const char *unit;
    uint32_t bytes;
} case_long[] = {
    { "a", 100000 },
    { " ", 100000 },
    { "\n", 100000 },
    { "ab", 100000 },
    { "<", 20000 },
    { "0123456789", 100000 },
    { "\xe6\x98\xaf", 99999 },
    { "\xc3\xa9", 100000 },
    { " \n", 80000 },
    { "\xf0\x9f\x91\xa8\xe2\x80\x8d", 70000 },
    { "the ", 100000 },
    { "\xff", 30000 },
};

enum {
    CASE_PHRASES = sizeof(case_phrases) / sizeof(case_phrases[0]),
    CASE_POINTS = sizeof(case_points) / sizeof(case_points[0]),
    CASE_BAD = sizeof(case_bad) / sizeof(case_bad[0]),
    CASE_LONG = sizeof(case_long) / sizeof(case_long[0]),
    CASE_SPLICES = 1300, /* pieces of phrases */
    CASE_MIXES = 900,    /* code points of the list */
    CASE_BLANKS = 300,   /* mostly blanks */
    CASE_BYTES = 400,    /* any bytes */
    CASE_SPOILED = 400,  /* phrases with bytes overwritten */
    CASE_SWEEPS = 1280,  /* 128 neighbouring code points each */
    CASE_PAIRS = CASE_POINTS * 4,
    CASE_TEXTS = 3, /* 100 KB of phrases, of code points, of bytes */
    CASE_COUNT = CASE_PHRASES + CASE_BAD + CASE_SPLICES + CASE_MIXES + CASE_BLANKS + CASE_BYTES +
                 CASE_SPOILED + CASE_SWEEPS + CASE_PAIRS + CASE_LONG + CASE_TEXTS
};

/* splitmix64 */
static inline uint64_t case_rand(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline size_t case_below(uint64_t *s, size_t n)
{
    return (size_t)(case_rand(s) % n);
}

static inline size_t case_put(char *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

/* Lead bytes past U+10FFFF are left out: the reference gives up on them. */
static inline char case_byte(uint64_t *s)
{
    return (char)case_below(s, 0xf4);
}

static inline size_t case_splice(uint64_t *s, char *out, size_t want)
{
    size_t n = 0;

    while (n < want) {
        const char *p = case_phrases[case_below(s, CASE_PHRASES)];
        size_t len = strlen(p), from = case_below(s, len), take = 1 + case_below(s, 18);

        while (from > 0 && ((uint8_t)p[from] & 0xc0) == 0x80)
            from--;
        take = take < len - from ? take : len - from;
        while (from + take < len && ((uint8_t)p[from + take] & 0xc0) == 0x80)
            take++;
        memcpy(out + n, p + from, take);
        n += take;
    }
    return n;
}

static inline size_t case_mix(uint64_t *s, char *out, size_t count)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++)
        n += case_put(out + n, case_points[case_below(s, CASE_POINTS)]);
    return n;
}

static inline size_t case_sweep(size_t block, char *out)
{
    size_t n = 0;

    for (uint32_t i = 0; i < 128; i++) {
        uint32_t cp = (uint32_t)block * 128 + i;

        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        n += case_put(out + n, cp);
        if (cp % 3 == 0)
            out[n++] = ' ';
    }
    return n;
}

/* Writes case i, 0 <= i < CASE_COUNT, into out (CASE_BYTES_MAX); returns its bytes. */
static inline size_t case_make(size_t i, char *out)
{
    static const char blanks[] = " \n\t\r'aA1. s";
    static const size_t sizes[] = { 3, 8, 30, 120 };
    uint64_t s = i * 1000003 + 17;
    size_t n = 0;

#define CASE_IS(count) (i < (size_t)(count) || (i -= (size_t)(count), 0))
    if (CASE_IS(CASE_PHRASES)) {
        memcpy(out, case_phrases[i], n = strlen(case_phrases[i]));
    } else if (CASE_IS(CASE_BAD)) {
        memcpy(out, case_bad[i], n = strlen(case_bad[i]));
    } else if (CASE_IS(CASE_SPLICES)) {
        n = case_splice(&s, out, sizes[case_below(&s, 4)]);
    } else if (CASE_IS(CASE_MIXES)) {
        n = case_mix(&s, out, sizes[case_below(&s, 4)] / 2);
    } else if (CASE_IS(CASE_BLANKS)) {
        for (size_t j = 1 + case_below(&s, 40); j > 0; j--)
            out[n++] = blanks[case_below(&s, sizeof(blanks) - 1)];
    } else if (CASE_IS(CASE_BYTES)) {
        for (size_t j = 1 + case_below(&s, 40); j > 0; j--)
            out[n++] = case_byte(&s);
    } else if (CASE_IS(CASE_SPOILED)) {
        const char *p = case_phrases[case_below(&s, CASE_PHRASES)];

        memcpy(out, p, n = strlen(p));
        for (size_t j = 1 + case_below(&s, 4); j > 0; j--) {
            size_t at = case_below(&s, n); /* drawn first, whatever the compiler */

            out[at] = case_byte(&s);
        }
    } else if (CASE_IS(CASE_SWEEPS)) {
        n = case_sweep(i, out);
    } else if (CASE_IS(CASE_PAIRS)) {
        out[n++] = 'a';
        n += case_put(out + n, case_points[i / 4]);
        n += case_put(out + n, case_points[case_below(&s, CASE_POINTS)]);
        out[n++] = 'b';
    } else if (CASE_IS(CASE_LONG)) {
        size_t len = strlen(case_long[i].unit);

        while (n + len <= case_long[i].bytes) {
            memcpy(out + n, case_long[i].unit, len);
            n += len;
        }
    } else if (i == 0) {
        n = case_splice(&s, out, 100000);
    } else if (i == 1) {
        n = case_mix(&s, out, 40000);
    } else {
        while (n < 100000)
            out[n++] = case_byte(&s);
    }
#undef CASE_IS
    return n;
}

/* FNV-1a over the ids of a case, as 32-bit little-endian numbers. */
#define CASE_HASH_INIT 0xcbf29ce484222325u

static inline uint64_t case_hash(uint64_t h, uint32_t id)
{
    for (int i = 0; i < 4; i++, id >>= 8)
        h = (h ^ (id & 0xff)) * 0x100000001b3u;
    return h;
}
#endif
