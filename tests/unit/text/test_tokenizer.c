/* Tokenizers over vocabularies small enough to reason about, against plain re-tellings of the
 * rules: merges one at a time over the whole text, special texts longest first. */
// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "base/rng.h"
#include "model/gguf.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "tiny_vocab.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct fixture {
    struct tiny v;
    struct buf file;
    struct gguf *g;
    struct tokenizer *t;
};

static int try_open(struct fixture *f, struct err *e)
{
    int rc;

    buf_init(&f->file, (size_t)1 << 20);
    tiny_write(&f->v, &f->file);
    f->t = NULL;
    rc = gguf_open_bytes(&f->g, buf_view(&f->file), e);
    return rc != 0 ? rc : tokenizer_new(&f->t, f->g, e);
}

static void open_vocab(struct fixture *f)
{
    struct err e = { 0 };
    int rc = try_open(f, &e);

    if (rc != 0)
        fail_msg("%s", e.msg);
}

static void close_vocab(struct fixture *f)
{
    tokenizer_free(f->t);
    gguf_close(f->g);
    buf_fini(&f->file);
}

/* Encodes and writes the token texts between bars: readable in a failure. */
static void shown(const struct fixture *f, struct str text, unsigned flags, struct buf *out)
{
    struct token_list l = { 0 };

    assert_int_equal(tokenizer_encode(f->t, text, flags, &l), 0);
    for (size_t i = 0; i < l.count; i++) {
        buf_c(out, '|');
        buf_str(out, tokenizer_text(f->t, l.id[i]));
    }
    buf_c(out, '\0');
    token_list_fini(&l);
}

static void expect(const struct fixture *f, const char *text, unsigned flags, const char *want)
{
    struct buf b;

    buf_init(&b, (size_t)1 << 20);
    shown(f, str_of(text), flags, &b);
    assert_string_equal(b.p, want);
    buf_fini(&b);
}

struct line {
    const char *text;
    unsigned flags;
    const char *want;
};

#define BOTH (TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL)

static void bpe_merges_by_rank_within_pieces(void **state)
{
    static const struct line lines[] = {
        { "", 0, "" },
        { "hello", 0, "|hello" },
        { " world", 0, "|Ġworld" },
        { "wor", 0, "|w|or" }, /* a token's text is not yet that token */
        { "hell oh", 0, "|hell|Ġ|o|h" },
        { "    x", 0, "|ĠĠ|Ġ|Ġ|x" }, /* the last blank belongs to the next piece */
        { "123", 0, "|1|2|3" },      /* smollm: digits alone */
        { "\n\n", 0, "|ĊĊ" },
        { "xyz", 0, "|xyz" },
        { "xy", 0, "|x|y" }, /* merged, but no token: falls apart */
        { "axya", 0, "|a|x|y|a" },
        { "\xc3\xa9", 0, "|Ã©" },
        { "\xff", 0, "|ï|¿|½" }, /* U+FFFD */
        { "it's", 0, "|i|t|'s" },
        { "~<|im_start|>", 0, "|~|<|||i|m|_|s|t|a|r|t|||>" },
    };
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "smollm");
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(lines); i++)
        expect(&f, lines[i].text, lines[i].flags, lines[i].want);
    close_vocab(&f);
}

static void llama_bpe_takes_whole_pieces_and_adds_bos(void **state)
{
    static const struct line lines[] = {
        { "wor", 0, "|wor" },
        { "123", 0, "|123" },
        { "wor", TOKENIZE_ADD_SPECIAL, "|<|im_start|>|wor" },
        { "", TOKENIZE_ADD_SPECIAL, "|<|im_start|>" },
    };
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "llama-bpe");
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(lines); i++)
        expect(&f, lines[i].text, lines[i].flags, lines[i].want);
    assert_true(tokenizer_adds_bos(f.t));
    close_vocab(&f);
    tiny_bpe(&f.v, "llama-bpe");
    f.v.add_bos = 0; /* the file's word wins */
    f.v.add_eos = 1;
    open_vocab(&f);
    expect(&f, "wor", TOKENIZE_ADD_SPECIAL, "|wor|<|im_end|>");
    assert_false(tokenizer_adds_bos(f.t));
    close_vocab(&f);
}

static void special_texts_are_cut_longest_first(void **state)
{
    static const struct line lines[] = {
        { "<|im_start|>hello<|im_end|>", BOTH, "|<|im_start|>|hello|<|im_end|>" },
        { "<|endoftext|>", TOKENIZE_PARSE_SPECIAL, "|<|endoftext|>" },
        { "a<tool>", 0, "|a|<tool>" }, /* user-defined: always */
        { "<abcd", 0, "|<|abcd" },     /* not <ab, though it begins earlier */
        { "<abc", 0, "|<ab|c" },
        { "abcdabcd", 0, "|abcd|abcd" },
        { "\n\n\n\n\n", 0, "|\n\n\n\n|Ċ" },
        { "\n\n\n\n\n\n\n", 0, "|\n\n\n\n|\n\n\n" },
        { "<|im_start<|x|>|>", BOTH, "|<|||i|m|_|s|t|a|r|t|<|x|>|||>" },
        { "<<|x|>>", TOKENIZE_PARSE_SPECIAL, "|<|<|x|>|>" },
    };
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(lines); i++)
        expect(&f, lines[i].text, lines[i].flags, lines[i].want);
    close_vocab(&f);
}

static void spm_merges_by_score_and_falls_back_to_bytes(void **state)
{
    static const struct line lines[] = {
        { "", 0, "" },
        { "", TOKENIZE_ADD_SPECIAL, "|<s>" },
        { "the", 0, "|▁the" },
        { "the the", TOKENIZE_ADD_SPECIAL, "|<s>|▁the|▁the" },
        { "in the world", 0, "|▁in|▁the|▁world" },
        { "a  b", 0, "|▁a|▁▁|b" },
        { "\xc3\xa9", 0, "|▁é" },
        { "Z", 0, "|▁|<0x5A>" },
        { "\xf0\x9f\x98\x80", 0, "|▁|<0xF0>|<0x9F>|<0x98>|<0x80>" },
        { "\xff", 0, "|▁|<0xFF>" },
        { "<turn>a", TOKENIZE_PARSE_SPECIAL, "|<turn>|▁a" },
        { "a<turn>", 0, "|▁a|<|t|u|r|n|>" },
        { "a\n\nb", 0, "|▁a|\n\n|▁|b" }, /* a space after each special token */
        { "> <", 0, "|▁|>▁<" },          /* a token across a blank */
        { "日本", 0, "|▁|日本" },
    };
    struct fixture f;

    (void)state;
    tiny_spm(&f.v);
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(lines); i++)
        expect(&f, lines[i].text, lines[i].flags, lines[i].want);
    close_vocab(&f);
    tiny_spm(&f.v);
    f.v.add_space_prefix = 0;
    f.v.add_bos = 0;
    open_vocab(&f);
    expect(&f, "the the", TOKENIZE_ADD_SPECIAL, "|t|he|▁the");
    close_vocab(&f);
}

/* ---- plain re-tellings ---- */

static size_t alphabet_len(const char *p)
{
    return (uint8_t)p[0] < 0x80 ? 1 : 2;
}

/* One piece: characters of the alphabet as strings, the merge of least index applied, again. */
static void plain_bpe_piece(const struct fixture *f, struct str piece, struct token_list *out)
{
    static char sym[512][128];
    size_t n = 0;

    assert_true(piece.n <= 512);
    for (size_t i = 0; i < piece.n; i++)
        snprintf(sym[n++], sizeof(sym[0]), "%s", f->v.token[(uint8_t)piece.p[i]].text);
    for (;;) {
        size_t best = SIZE_MAX;
        uint32_t best_rank = UINT32_MAX;

        for (size_t i = 0; i + 1 < n; i++) {
            char pair[257];

            snprintf(pair, sizeof(pair), "%s %s", sym[i], sym[i + 1]);
            for (uint32_t m = 0; m < f->v.merge_count && m < best_rank; m++)
                if (strcmp(f->v.merge[m], pair) == 0) {
                    best = i;
                    best_rank = m;
                }
        }
        if (best == SIZE_MAX)
            break;
        assert_true(strlen(sym[best]) + strlen(sym[best + 1]) < sizeof(sym[0]));
        memcpy(sym[best] + strlen(sym[best]), sym[best + 1], strlen(sym[best + 1]) + 1);
        memmove(sym[best + 1], sym[best + 2], (n - best - 2) * sizeof(sym[0]));
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t id = tiny_id(&f->v, sym[i]);

        if (id != UINT32_MAX) {
            token_list_add(out, id);
            continue;
        }
        for (const char *p = sym[i]; *p != '\0'; p += alphabet_len(p))
            if (alphabet_len(p) == 1)
                token_list_add(out, tiny_id(&f->v, (char[2]) { *p, 0 }));
    }
}

static void plain_bpe(const struct fixture *f, enum pretok_kind kind, struct str text,
                      struct token_list *out)
{
    struct pretok s;
    struct str piece;

    pretok_init(&s, kind, text);
    while (pretok_next(&s, &piece))
        plain_bpe_piece(f, piece, out);
}

/* The whole text at once, no cutting at words. */
static void plain_spm(const struct fixture *f, struct str text, struct token_list *out)
{
    static char sym[1024][64];
    size_t n = 0;

    for (size_t i = 0, len; i < text.n; i += len) {
        (void)utf8_next(str_sub(text, i, text.n), &len);
        assert_true(n < 1024);
        if (text.p[i] == ' ')
            snprintf(sym[n++], sizeof(sym[0]), "▁");
        else
            snprintf(sym[n++], sizeof(sym[0]), "%.*s", (int)len, text.p + i);
    }
    for (;;) {
        size_t best = SIZE_MAX;
        float best_score = 0;

        for (size_t i = 0; i + 1 < n; i++) {
            char both[129];
            uint32_t id;

            snprintf(both, sizeof(both), "%s%s", sym[i], sym[i + 1]);
            id = tiny_id(&f->v, both);
            if (id != UINT32_MAX && (best == SIZE_MAX || f->v.token[id].score > best_score)) {
                best = i;
                best_score = f->v.token[id].score;
            }
        }
        if (best == SIZE_MAX)
            break;
        memcpy(sym[best] + strlen(sym[best]), sym[best + 1], strlen(sym[best + 1]) + 1);
        memmove(sym[best + 1], sym[best + 2], (n - best - 2) * sizeof(sym[0]));
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t id = tiny_id(&f->v, sym[i]);

        if (id != UINT32_MAX) {
            token_list_add(out, id);
            continue;
        }
        for (const char *p = sym[i]; *p != '\0'; p++)
            token_list_add(out, 3u + (uint8_t)*p);
    }
}

/* Every special text, the longest first, cut out of what is still text, from the left. */
struct fragment {
    size_t at, n;
    uint32_t id; /* UINT32_MAX = text */
};

static size_t plain_cuts(const struct fixture *f, struct str text, bool control,
                         struct fragment *frag)
{
    size_t n = 0;

    if (text.n > 0)
        frag[n++] = (struct fragment) { 0, text.n, UINT32_MAX };
    for (size_t len = 31; len > 0; len--)
        for (uint32_t id = 0; id < f->v.count; id++) {
            struct str s = str_of(f->v.token[id].text);
            int type = f->v.token[id].type;

            if (s.n != len || type == TINY_NORMAL || type == TINY_BYTE || type == TINY_UNUSED)
                continue;
            if (type != TINY_USER && !control)
                continue;
            for (size_t i = 0; i < n; i++) {
                size_t at = frag[i].id == UINT32_MAX
                                ? str_find(str_sub(text, frag[i].at, frag[i].n), s)
                                : SIZE_MAX;
                struct fragment whole = frag[i];

                if (at == SIZE_MAX)
                    continue;
                memmove(frag + i + 3, frag + i + 1, (n - i - 1) * sizeof(*frag));
                n += 2;
                frag[i] = (struct fragment) { whole.at, at, UINT32_MAX };
                frag[i + 1] = (struct fragment) { whole.at + at, len, id };
                frag[i + 2] =
                    (struct fragment) { whole.at + at + len, whole.n - at - len, UINT32_MAX };
            }
        }
    return n;
}

static void expect_same(struct str text, const struct token_list *a, const struct token_list *b)
{
    if (a->count != b->count || memcmp(a->id, b->id, a->count * sizeof(*a->id)) != 0)
        fail_msg("ids differ for \"%.*s\": %zu and %zu tokens", STR_ARG(text), a->count, b->count);
}

static const char *const parts[] = {
    "hello",
    " world",
    "the",
    " the",
    "wor",
    "in",
    "ing",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n",
    "123",
    "1",
    "'s",
    "xy",
    "xyz",
    "xyxyz",
    "aaaa",
    "aaaaaaaaa",
    "\xc3\xa9",
    " \xc3\xa9",
    "\xe6\x97\xa5",
    "\xe6\x9c\xac",
    "\xf0\x9f\x98\x80",
    "<",
    "<ab",
    "abcd",
    "<abcd",
    "<tool>",
    "<tool",
    "tool>",
    "> <",
    ">",
    "!!",
    "----",
    "--",
    "<|x|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im",
    "|>",
    "<turn>",
    "<b>",
    "<s>",
    "</s>",
    "hel",
    "lo",
    "ell",
    "Z",
    "~",
    "\xe2\x96\x81",
    "bc",
    "ab",
};

static struct str random_text(struct rng *r, char *out, size_t parts_max)
{
    size_t n = 0, count = 1 + rng_below(r, parts_max);

    for (size_t i = 0; i < count; i++) {
        const char *p = parts[rng_below(r, COUNT(parts))];

        memcpy(out + n, p, strlen(p));
        n += strlen(p);
    }
    return (struct str) { out, n };
}

static void bpe_equals_the_plain_rules(void **state)
{
    static const struct {
        const char *pre;
        enum pretok_kind kind;
    } kinds[] = {
        { "gpt-2", PRETOK_GPT2 },
        { "smollm", PRETOK_SMOLLM },
        { "qwen2", PRETOK_QWEN2 },
        { "default", PRETOK_DEFAULT },
    };
    struct rng r;

    (void)state;
    rng_seed(&r, 11);
    for (size_t k = 0; k < COUNT(kinds); k++) {
        struct fixture f;

        tiny_bpe(&f.v, kinds[k].pre);
        open_vocab(&f);
        for (int i = 0; i < 600; i++) {
            char text[1024];
            struct fragment frag[256];
            unsigned flags = rng_below(&r, 2) != 0 ? TOKENIZE_PARSE_SPECIAL : 0;
            struct str s = random_text(&r, text, 16);
            struct token_list got = { 0 }, want = { 0 };
            size_t n;

            f.v.token[tiny_id(&f.v, "<|endoftext|>")].type = TINY_CONTROL; /* as it was read */
            n = plain_cuts(&f, s, flags != 0, frag);
            for (size_t j = 0; j < n; j++)
                if (frag[j].id != UINT32_MAX)
                    token_list_add(&want, frag[j].id);
                else
                    plain_bpe(&f, kinds[k].kind, str_sub(s, frag[j].at, frag[j].n), &want);
            assert_int_equal(tokenizer_encode(f.t, s, flags, &got), 0);
            expect_same(s, &got, &want);
            token_list_fini(&got);
            token_list_fini(&want);
        }
        close_vocab(&f);
    }
}

static void spm_equals_the_plain_rules(void **state)
{
    struct fixture f;
    struct rng r;

    (void)state;
    rng_seed(&r, 12);
    tiny_spm(&f.v);
    f.v.add_space_prefix = 0;
    f.v.add_bos = 0;
    open_vocab(&f);
    for (int i = 0; i < 1500; i++) {
        char text[2048];
        struct fragment frag[256];
        unsigned flags = rng_below(&r, 2) != 0 ? TOKENIZE_PARSE_SPECIAL : 0;
        struct str s = random_text(&r, text, i % 10 == 0 ? 60 : 16);
        struct token_list got = { 0 }, want = { 0 };
        size_t n = plain_cuts(&f, s, flags != 0, frag);

        for (size_t j = 0; j < n; j++)
            if (frag[j].id != UINT32_MAX)
                token_list_add(&want, frag[j].id);
            else
                plain_spm(&f, str_sub(s, frag[j].at, frag[j].n), &want);
        assert_int_equal(tokenizer_encode(f.t, s, flags, &got), 0);
        expect_same(s, &got, &want);
        token_list_fini(&got);
        token_list_fini(&want);
    }
    close_vocab(&f);
}

/* ---- the way back ---- */

static void stream(const struct fixture *f, const struct token_list *l, bool special,
                   struct buf *out)
{
    struct detok d;

    detok_init(&d, f->t, special);
    for (size_t i = 0; i < l->count; i++) {
        size_t before = out->len;

        assert_true(detok_add(&d, l->id[i], out));
        assert_true(utf8_valid(str_sub(buf_view(out), before, SIZE_MAX)));
    }
    assert_true(detok_flush(&d, out));
    detok_fini(&d);
}

static void text_survives_the_round_trip(void **state)
{
    struct rng r;

    (void)state;
    rng_seed(&r, 13);
    for (int kind = 0; kind < 3; kind++) {
        struct fixture f;

        if (kind == 0)
            tiny_bpe(&f.v, "qwen2");
        else
            tiny_spm(&f.v);
        f.v.add_space_prefix = kind == 1;
        open_vocab(&f);
        for (int i = 0; i < 500; i++) {
            char text[1024];
            struct str s = random_text(&r, text, 20);
            struct token_list l = { 0 };
            struct buf out;

            if (str_find(s, STR("\xe2\x96\x81")) != SIZE_MAX ||
                (kind == 0 && str_find(s, STR("xy")) != SIZE_MAX))
                continue; /* U+2581 reads as a space; xy is tested above */
            if (kind == 1 &&
                (str_find(s, STR("\n\n")) != SIZE_MAX || str_find(s, STR("<b>")) != SIZE_MAX))
                continue; /* the space after a special token stays, as in llama.cpp */
            buf_init(&out, 1 << 16);
            assert_int_equal(tokenizer_encode(f.t, s, 0, &l), 0);
            stream(&f, &l, false, &out);
            if (!str_eq(buf_view(&out), s))
                fail_msg("\"%.*s\" came back as \"%.*s\"", STR_ARG(s), STR_ARG(buf_view(&out)));
            buf_fini(&out);
            token_list_fini(&l);
        }
        close_vocab(&f);
    }
}

static void streams_never_give_half_a_character(void **state)
{
    static const struct {
        const char *ids, *out[8];
    } cases[] = {
        { "\xf0\x9f\x98\x80!", { "", "", "", "\xf0\x9f\x98\x80", "!" } },
        { "\xe2\x82"
          "a",
          { "", "",
            "\xef\xbf\xbd"
            "a" } }, /* spoiled: one for both bytes */
        { "\x80"
          "a",
          { "\xef\xbf\xbd", "a" } }, /* can never become one */
        { "\xc3\xc3\xa9", { "", "\xef\xbf\xbd", "\xc3\xa9" } },
        { "\xf0\x9f", { "", "" } }, /* flush tells of it */
    };
    static const char *const flushed[] = { "", "", "", "", "\xef\xbf\xbd" };
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct detok d;
        struct buf out;

        buf_init(&out, 1024);
        detok_init(&d, f.t, false);
        for (size_t j = 0; cases[i].ids[j] != '\0'; j++) {
            buf_reset(&out);
            assert_true(detok_add(&d, (uint8_t)cases[i].ids[j], &out)); /* ids 0..255 are bytes */
            assert_true(str_eqz(buf_view(&out), cases[i].out[j]));
        }
        buf_reset(&out);
        assert_true(detok_flush(&d, &out));
        assert_true(str_eqz(buf_view(&out), flushed[i]));
        detok_fini(&d);
        buf_fini(&out);
    }
    close_vocab(&f);
}

static void control_tokens_are_shown_only_when_asked_for(void **state)
{
    static const struct {
        const char *text;
        bool special;
        const char *piece;
    } cases[] = {
        { "<|im_start|>", false, "" },  { "<|im_start|>", true, "<|im_start|>" },
        { "<|endoftext|>", false, "" }, /* typed normal, but its text says otherwise */
        { "<tool>", false, "<tool>" },  { "\n\n\n", false, "\n\n\n" },
        { "Ġworld", false, " world" },  { "ĊĊ", false, "\n\n" },
    };
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    open_vocab(&f);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;
        uint32_t id = tokenizer_find(f.t, str_of(cases[i].text));

        assert_int_equal(id, tiny_id(&f.v, cases[i].text));
        buf_init(&b, 1024);
        assert_true(tokenizer_piece(f.t, id, cases[i].special, &b));
        assert_true(str_eqz(buf_view(&b), cases[i].piece));
        buf_fini(&b);
    }
    close_vocab(&f);
}

static void a_leading_space_of_spm_is_dropped_once(void **state)
{
    struct fixture f;
    struct token_list l = { 0 };
    struct detok d;
    struct buf out;

    (void)state;
    tiny_spm(&f.v);
    open_vocab(&f);
    assert_int_equal(tokenizer_encode(f.t, STR(" the the"), BOTH, &l), 0); /* BOS shows nothing */
    buf_init(&out, 1024);
    stream(&f, &l, false, &out);
    assert_true(str_eqz(buf_view(&out), " the the"));
    buf_reset(&out);
    detok_init(&d, f.t, false);
    d.first = false; /* what follows a prompt keeps its space */
    assert_true(detok_add(&d, tiny_id(&f.v, "▁the"), &out));
    assert_true(str_eqz(buf_view(&out), " the"));
    detok_fini(&d);
    buf_fini(&out);
    token_list_fini(&l);
    close_vocab(&f);
}

/* ---- which tokens mean what ---- */

static void ends_of_generation_are_found_by_key_and_by_text(void **state)
{
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    tiny_add(&f.v, "<|fim_pad|>", TINY_NORMAL, 0);
    tiny_add(&f.v, "<|fim_middle|>", TINY_NORMAL, 0);
    tiny_add(&f.v, "<my_end>", TINY_NORMAL, 0);
    f.v.eot = (int)tiny_id(&f.v, "<my_end>");
    open_vocab(&f);
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|im_end|>")));
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|endoftext|>")));
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|fim_pad|>")));
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<my_end>")));
    assert_false(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|fim_middle|>")));
    assert_true(tokenizer_is_control(f.t, tiny_id(&f.v, "<|fim_middle|>")));
    assert_false(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|im_start|>")));
    assert_false(tokenizer_is_eog(f.t, 0));
    assert_false(tokenizer_is_eog(f.t, UINT32_MAX));
    assert_int_equal(tokenizer_bos(f.t), tiny_id(&f.v, "<|im_start|>"));
    assert_int_equal(tokenizer_eos(f.t), tiny_id(&f.v, "<|im_end|>"));
    assert_int_equal(tokenizer_find(f.t, STR("no such token")), UINT32_MAX);
    assert_int_equal(tokenizer_find(f.t, STR("xy")), UINT32_MAX); /* only merges know it */
    assert_int_equal(tokenizer_find(f.t, STR("")), UINT32_MAX);
    assert_int_equal(tokenizer_count(f.t), f.v.count);
    close_vocab(&f);
}

static void harmony_ends_with_return_and_call_not_with_end(void **state)
{
    struct fixture f;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    tiny_add(&f.v, "<|end|>", TINY_CONTROL, 0);
    tiny_add(&f.v, "<|return|>", TINY_CONTROL, 0);
    tiny_add(&f.v, "<|call|>", TINY_CONTROL, 0);
    tiny_add(&f.v, "<|channel|>", TINY_CONTROL, 0);
    open_vocab(&f);
    assert_false(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|end|>")));
    assert_false(tokenizer_is_control(f.t, tiny_id(&f.v, "<|end|>")));
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|return|>")));
    assert_true(tokenizer_is_eog(f.t, tiny_id(&f.v, "<|call|>")));
    assert_false(tokenizer_is_control(f.t, tiny_id(&f.v, "<|channel|>")));
    close_vocab(&f);
}

static void phi3_strips_blanks_after_special_tokens(void **state)
{
    struct fixture f;

    (void)state;
    tiny_spm(&f.v);
    f.v.name = "Phi-3-mini";
    open_vocab(&f);
    expect(&f, "<turn> \n the<s> the", TOKENIZE_PARSE_SPECIAL, "|<turn>|▁the|<s>|▁|▁the");
    close_vocab(&f);
}

struct sharer {
    const struct tokenizer *t;
    uint64_t sum;
};

static void *encode_all(void *arg)
{
    struct sharer *s = arg;
    struct rng r;

    rng_seed(&r, 14);
    for (int i = 0; i < 300; i++) {
        char text[1024];
        struct token_list l = { 0 };

        if (tokenizer_encode(s->t, random_text(&r, text, 20), BOTH, &l) != 0)
            return s;
        for (size_t j = 0; j < l.count; j++)
            s->sum = s->sum * 31 + l.id[j];
        token_list_fini(&l);
    }
    return NULL;
}

static void threads_may_share_a_tokenizer(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct sharer s[4];
        pthread_t thread[COUNT(s)];
        struct fixture f;
        void *failed;

        if (kind == 0)
            tiny_bpe(&f.v, "smollm");
        else
            tiny_spm(&f.v);
        open_vocab(&f);
        for (size_t i = 0; i < COUNT(s); i++) {
            s[i] = (struct sharer) { f.t, 0 };
            assert_int_equal(pthread_create(&thread[i], NULL, encode_all, &s[i]), 0);
        }
        for (size_t i = 0; i < COUNT(s); i++) {
            assert_int_equal(pthread_join(thread[i], &failed), 0);
            assert_null(failed);
            assert_true(s[i].sum == s[0].sum);
        }
        close_vocab(&f);
    }
}

/* ---- what can go wrong ---- */

static void ceilings_hold_and_leave_the_list_as_it_was(void **state)
{
    struct fixture f;
    struct token_list l = { .max = 4 };
    struct str huge;
    char *p;

    (void)state;
    tiny_bpe(&f.v, "gpt-2");
    open_vocab(&f);
    assert_true(token_list_add(&l, 7));
    assert_int_equal(tokenizer_encode(f.t, STR("a?b?c"), 0, &l), ERR_LIMIT);
    assert_int_equal(l.count, 1);
    assert_int_equal(tokenizer_encode(f.t, STR("a?b"), 0, &l), 0);
    assert_int_equal(l.count, 4);
    assert_false(token_list_add(&l, 7));
    p = mem_zalloc(((size_t)16 << 20) + 1);
    huge = (struct str) { p, ((size_t)16 << 20) + 1 };
    assert_int_equal(tokenizer_encode(f.t, huge, 0, &l), ERR_LIMIT);
    mem_free(p);
    token_list_fini(&l);
    close_vocab(&f);
}

static void every_refused_allocation_is_reported(void **state)
{
    struct fixture f;
    static char text[4096];
    struct str s = { text, sizeof(text) };

    (void)state;
    memset(text, 'a', sizeof(text));
    memcpy(text, "\xff<|x|>", 6);
    for (int kind = 0; kind < 2; kind++) {
        struct tokenizer *t = NULL;
        uint64_t nth;
        struct err e;

        if (kind == 0)
            tiny_bpe(&f.v, "gpt-2");
        else
            tiny_spm(&f.v);
        open_vocab(&f);
        for (nth = 1; nth < 10000 && t == NULL; nth++) {
            int rc;

            mem_fail_at(nth);
            rc = tokenizer_new(&t, f.g, &e);
            mem_fail_at(0);
            assert_true(rc == 0 || rc == ERR_NOMEM);
        }
        assert_non_null(t);
        tokenizer_free(t);
        assert_true(nth > 5);
        for (nth = 1; nth < 10000; nth++) {
            struct token_list l = { 0 };
            int rc;

            mem_fail_at(nth);
            rc = tokenizer_encode(f.t, s, BOTH, &l);
            mem_fail_at(0);
            token_list_fini(&l);
            if (rc == 0)
                break;
            assert_int_equal(l.count, 0);
        }
        assert_true(nth > 3 && nth < 10000);
        close_vocab(&f);
    }
}

static void bad_files_are_refused_with_a_reason(void **state)
{
    static const char *const no_merges[] = { "bad", "", " ", "a", "\xff\xff x", "日 本" };
    struct fixture f;
    struct err e;

    (void)state;
    tiny_bpe(&f.v, "no-such-pre");
    assert_int_equal(try_open(&f, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "no-such-pre"));
    close_vocab(&f);

    tiny_bpe(&f.v, "gpt-2");
    f.v.model = "bert";
    assert_int_equal(try_open(&f, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "bert"));
    close_vocab(&f);

    tiny_bpe(&f.v, "gpt-2");
    f.v.model = NULL;
    assert_int_equal(try_open(&f, &e), ERR_PARSE);
    close_vocab(&f);

    tiny_bpe(&f.v, "gpt-2");
    f.v.merge = NULL;
    assert_int_equal(try_open(&f, &e), ERR_PARSE);
    assert_non_null(strstr(e.msg, "merges"));
    close_vocab(&f);

    tiny_bpe(&f.v, "gpt-2"); /* merges that mean nothing are passed over */
    f.v.merge = no_merges;
    f.v.merge_count = COUNT(no_merges);
    open_vocab(&f);
    expect(&f, "hello", 0, "|h|e|l|l|o");
    close_vocab(&f);

    tiny_spm(&f.v); /* ids past the vocabulary are no ids */
    f.v.bos = 100000;
    f.v.eos = 100000;
    open_vocab(&f);
    assert_int_equal(tokenizer_bos(f.t), 1); /* SPM's own */
    close_vocab(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_merges_by_rank_within_pieces),
        cmocka_unit_test(llama_bpe_takes_whole_pieces_and_adds_bos),
        cmocka_unit_test(special_texts_are_cut_longest_first),
        cmocka_unit_test(spm_merges_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(bpe_equals_the_plain_rules),
        cmocka_unit_test(spm_equals_the_plain_rules),
        cmocka_unit_test(text_survives_the_round_trip),
        cmocka_unit_test(streams_never_give_half_a_character),
        cmocka_unit_test(control_tokens_are_shown_only_when_asked_for),
        cmocka_unit_test(a_leading_space_of_spm_is_dropped_once),
        cmocka_unit_test(ends_of_generation_are_found_by_key_and_by_text),
        cmocka_unit_test(harmony_ends_with_return_and_call_not_with_end),
        cmocka_unit_test(phi3_strips_blanks_after_special_tokens),
        cmocka_unit_test(threads_may_share_a_tokenizer),
        cmocka_unit_test(ceilings_hold_and_leave_the_list_as_it_was),
        cmocka_unit_test(every_refused_allocation_is_reported),
        cmocka_unit_test(bad_files_are_refused_with_a_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
