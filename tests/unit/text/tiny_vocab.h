/* Vocabularies for tests, small enough to read: GGUF metadata without tensors, built in memory. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_TINY_VOCAB_H
#define TESTS_TINY_VOCAB_H
#include "base/buf.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <stdio.h>
#include <string.h>

#define TINY_TOKENS_MAX 512

enum { TINY_NORMAL = 1, TINY_UNKNOWN, TINY_CONTROL, TINY_USER, TINY_UNUSED, TINY_BYTE };

struct tiny_token {
    char text[32];
    int type;
    float score;
};

struct tiny {
    const char *model, *pre, *name; /* NULL = no such key */
    struct tiny_token token[TINY_TOKENS_MAX];
    uint32_t count;
    const char *const *merge;
    uint32_t merge_count;
    int bos, eos, eot;                      /* -1 = no such key */
    int add_bos, add_eos, add_space_prefix; /* -1 = no such key */
};

static inline void tiny_add(struct tiny *v, const char *text, int type, float score)
{
    ASSERT(v->count < TINY_TOKENS_MAX && strlen(text) < sizeof(v->token[0].text));
    snprintf(v->token[v->count].text, sizeof(v->token[0].text), "%s", text);
    v->token[v->count].type = type;
    v->token[v->count++].score = score;
}

static inline uint32_t tiny_id(const struct tiny *v, const char *text)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (strcmp(v->token[i].text, text) == 0)
            return i;
    return UINT32_MAX;
}

/* The merges of the BPE vocabulary, in the byte alphabet.  "xy" is in no vocabulary entry. */
static const char *const tiny_merges[] = {
    "h e",   "l l",  "he ll", "hell o", "Ġ w", "o r",   "Ġw or",     "l d", "Ġwor ld", "Ġ Ġ",
    "ĠĠ ĠĠ", "i n",  "in g",  "Ċ Ċ",    "t h", "th e",  "Ġ the",     "1 2", "12 3",    "' s",
    "x y",   "xy z", "Ã ©",   "Ġ Ã©",   "a a", "aa aa", "aaaa aaaa", "e l", "hel lo",  "Ġ a",
    "h el",  "b c",  "a b",   "! !",    "- -", "-- --", "Ġ --",
};

/* Byte-level BPE: ids 0..255 are the bytes in order. */
static inline void tiny_bpe(struct tiny *v, const char *pre)
{
    *v = (struct tiny) { .model = "gpt2",
                         .pre = pre,
                         .merge = tiny_merges,
                         .merge_count = COUNT(tiny_merges),
                         .bos = -1,
                         .eos = -1,
                         .eot = -1,
                         .add_bos = -1,
                         .add_eos = -1,
                         .add_space_prefix = -1 };
    for (uint32_t b = 0, n = 0; b < 256; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char text[5] = { 0 };

        utf8_put(text, plain ? b : 256 + n++);
        tiny_add(v, text, TINY_NORMAL, 0);
    }
    for (uint32_t i = 0; i < v->merge_count; i++) {
        char text[32];
        const char *gap = strchr(tiny_merges[i], ' ');

        snprintf(text, sizeof(text), "%.*s%s", (int)(gap - tiny_merges[i]), tiny_merges[i],
                 gap + 1);
        if (tiny_id(v, text) == UINT32_MAX && strcmp(text, "xy") != 0)
            tiny_add(v, text, TINY_NORMAL, 0);
    }
    tiny_add(v, "wor", TINY_NORMAL, 0); /* no merges lead there */
    tiny_add(v, "<|im_start|>", TINY_CONTROL, 0);
    tiny_add(v, "<|im_end|>", TINY_CONTROL, 0);
    tiny_add(v, "<|endoftext|>", TINY_NORMAL, 0); /* its text makes it a control token */
    tiny_add(v, "<|x|>", TINY_CONTROL, 0);
    tiny_add(v, "<tool>", TINY_USER, 0);
    tiny_add(v, "<ab", TINY_USER, 0);
    tiny_add(v, "abcd", TINY_USER, 0); /* longer than <ab and starts inside it */
    tiny_add(v, "\n\n\n", TINY_USER, 0);
    tiny_add(v, "\n\n\n\n", TINY_USER, 0);
    tiny_add(v, "~", TINY_UNUSED, 0);
    v->token[v->count - 1].text[0] = '\0'; /* a hole */
    v->bos = (int)tiny_id(v, "<|im_start|>");
    v->eos = (int)tiny_id(v, "<|im_end|>");
}

static inline void tiny_spm(struct tiny *v)
{
    static const char *const pieces[] = {
        /* best first */
        "▁t", "he",   "in",     "▁a",    "▁the", "▁in",  "er",   "▁w",   "or",
        "ld", "▁wor", "▁world", "hello", "▁▁",   "▁▁▁▁", "ll",   "hell", "▁hello",
        "aa", "aaaa", ">▁<",    "▁<",    "é",    "▁é",   "日本",
    };
    char text[8];

    *v = (struct tiny) { .model = "llama",
                         .pre = "default",
                         .bos = 1,
                         .eos = 2,
                         .eot = -1,
                         .add_bos = -1,
                         .add_eos = -1,
                         .add_space_prefix = -1 };
    tiny_add(v, "<unk>", TINY_UNKNOWN, 0);
    tiny_add(v, "<s>", TINY_CONTROL, 0);
    tiny_add(v, "</s>", TINY_CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(text, sizeof(text), "<0x%02X>", b);
        tiny_add(v, text, TINY_BYTE, 0);
    }
    for (uint32_t i = 0; i < COUNT(pieces); i++)
        tiny_add(v, pieces[i], TINY_NORMAL, -(float)(i / 2)); /* pairs of equal scores */
    tiny_add(v, "▁", TINY_NORMAL, -1000);
    for (char c = 'a'; c <= 'z'; c++)
        tiny_add(v, (char[2]) { c, 0 }, TINY_NORMAL, -1001 - (float)(c - 'a'));
    tiny_add(v, "日", TINY_NORMAL, -1100);
    tiny_add(v, "本", TINY_NORMAL, -1101);
    tiny_add(v, "<", TINY_NORMAL, -1102);
    tiny_add(v, ">", TINY_NORMAL, -1103);
    tiny_add(v, "<turn>", TINY_CONTROL, 0);
    tiny_add(v, "\n\n", TINY_USER, 0);
    tiny_add(v, "<b>", TINY_USER, 0);
}

/* ---- GGUF ---- */

static inline void tiny_u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, 4);
}

static inline void tiny_u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, 8);
}

static inline void tiny_z(struct buf *b, const char *z)
{
    tiny_u64(b, strlen(z));
    buf_z(b, z);
}

static inline void tiny_key(struct buf *b, uint64_t *n, const char *key, uint32_t type)
{
    tiny_z(b, key);
    tiny_u32(b, type);
    (*n)++;
}

static inline void tiny_array(struct buf *b, uint64_t *n, const char *key, uint32_t elem,
                              uint64_t count)
{
    tiny_key(b, n, key, 9);
    tiny_u32(b, elem);
    tiny_u64(b, count);
}

static inline void tiny_flag(struct buf *b, uint64_t *n, const char *key, int v)
{
    if (v < 0)
        return;
    tiny_key(b, n, key, 7);
    buf_c(b, (char)v);
}

static inline void tiny_number(struct buf *b, uint64_t *n, const char *key, int v)
{
    if (v < 0)
        return;
    tiny_key(b, n, key, 4);
    tiny_u32(b, (uint32_t)v);
}

static inline void tiny_text(struct buf *b, uint64_t *n, const char *key, const char *z)
{
    if (z == NULL)
        return;
    tiny_key(b, n, key, 8);
    tiny_z(b, z);
}

/* Appends the file to b, which the caller made with room. */
static inline void tiny_write(const struct tiny *v, struct buf *b)
{
    size_t head = b->len;
    uint64_t n = 0;

    buf_add(b, "GGUF", 4);
    tiny_u32(b, 3);
    tiny_u64(b, 0);
    tiny_u64(b, 0); /* patched below */
    tiny_text(b, &n, "general.name", v->name);
    tiny_text(b, &n, "tokenizer.ggml.model", v->model);
    tiny_text(b, &n, "tokenizer.ggml.pre", v->pre);
    tiny_array(b, &n, "tokenizer.ggml.tokens", 8, v->count);
    for (uint32_t i = 0; i < v->count; i++)
        tiny_z(b, v->token[i].text);
    tiny_array(b, &n, "tokenizer.ggml.token_type", 5, v->count);
    for (uint32_t i = 0; i < v->count; i++)
        tiny_u32(b, (uint32_t)v->token[i].type);
    tiny_array(b, &n, "tokenizer.ggml.scores", 6, v->count);
    for (uint32_t i = 0; i < v->count; i++)
        buf_add(b, &v->token[i].score, 4);
    if (v->merge != NULL) {
        tiny_array(b, &n, "tokenizer.ggml.merges", 8, v->merge_count);
        for (uint32_t i = 0; i < v->merge_count; i++)
            tiny_z(b, v->merge[i]);
    }
    tiny_number(b, &n, "tokenizer.ggml.bos_token_id", v->bos);
    tiny_number(b, &n, "tokenizer.ggml.eos_token_id", v->eos);
    tiny_number(b, &n, "tokenizer.ggml.eot_token_id", v->eot);
    tiny_flag(b, &n, "tokenizer.ggml.add_bos_token", v->add_bos);
    tiny_flag(b, &n, "tokenizer.ggml.add_eos_token", v->add_eos);
    tiny_flag(b, &n, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    memcpy(b->p + head + 16, &n, 8);
}
#endif
