/* Byte-pair training in its plainest form: words as sequences of symbols, the
 * most frequent neighbouring pair becomes a symbol, again and again.  The page
 * is small, so counting anew for each merge is fast enough. */
// SPDX-License-Identifier: Apache-2.0
#include "vocab_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/utf8.h"
#include <stdio.h>
#include <string.h>

static const char page[] =
    "a scheduler sends each request to a worker that already holds most of the prompt in its cache "
    "when the worker is busy the scheduler looks for another one and the request waits for a short "
    "time the prompt is cut into blocks of tokens and each block has a key that depends on all the "
    "blocks before it so two requests that begin with the same words share the same keys a worker "
    "that prefills the prompt hands the blocks over to a worker that decodes and the first token "
    "comes with the last block the user sees the answer one token after the other the cache "
    "manager "
    "listens to what the workers say about their blocks and tells the scheduler where they are "
    "hello world this is a test of the tiny model what is the capital of france the capital of "
    "france is paris once upon a time there was a little machine that could think in numbers and "
    "speak in words the user asks and the assistant answers you are a helpful assistant please "
    "write a short story about the sea and the ship that sailed there and came back again";

#define PAGE_SYMBOLS_MAX (2 * sizeof(page))
#define BREAK            UINT16_MAX /* between words */

struct trainer {
    uint16_t symbol[PAGE_SYMBOLS_MAX];
    size_t count;
    uint16_t pair[VOCAB_TOKENS_MAX][VOCAB_TOKENS_MAX];
};

static uint32_t add(struct vocab *v, const char *text, int32_t type, float score)
{
    struct vocab_token *t = &v->token[v->count];

    ASSERT(v->count < VOCAB_TOKENS_MAX && strlen(text) < sizeof(t->text));
    snprintf(t->text, sizeof(t->text), "%s", text);
    t->type = type;
    t->score = score;
    return v->count++;
}

/* Two merges may spell one word ("th" "e", "t" "he"): that is still one token. */
static uint32_t find_or_add(struct vocab *v, const char *text, float score)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (v->token[i].type == TOKEN_NORMAL && strcmp(v->token[i].text, text) == 0)
            return i;
    return add(v, text, TOKEN_NORMAL, score);
}

/* The most frequent pair (the first of equals), or a count below 2. */
static uint32_t best_pair(struct trainer *t, uint16_t *left, uint16_t *right)
{
    uint32_t best = 0;

    for (size_t i = 1; i < t->count; i++)
        if (t->symbol[i - 1] != BREAK && t->symbol[i] != BREAK)
            t->pair[t->symbol[i - 1]][t->symbol[i]] = 0;
    for (size_t i = 1; i < t->count; i++)
        if (t->symbol[i - 1] != BREAK && t->symbol[i] != BREAK)
            t->pair[t->symbol[i - 1]][t->symbol[i]]++;
    for (size_t i = 1; i < t->count; i++) {
        uint16_t a = t->symbol[i - 1], b = t->symbol[i];

        if (a != BREAK && b != BREAK && t->pair[a][b] > best) {
            best = t->pair[a][b];
            *left = a;
            *right = b;
        }
    }
    return best;
}

static void train(struct trainer *t, struct vocab *v, uint32_t merges_max)
{
    for (uint32_t rank = 0; rank < merges_max; rank++) {
        char left[VOCAB_TOKEN_BYTES_MAX], right[VOCAB_TOKEN_BYTES_MAX];
        char text[2 * VOCAB_TOKEN_BYTES_MAX];
        uint16_t a = 0, b = 0;
        size_t at = 0;
        uint32_t made;

        if (best_pair(t, &a, &b) < 2)
            return;
        memcpy(left, v->token[a].text, sizeof(left));
        memcpy(right, v->token[b].text, sizeof(right));
        snprintf(v->merge[v->merge_count++], sizeof(v->merge[0]), "%s %s", left, right);
        snprintf(text, sizeof(text), "%s%s", left, right);
        made = find_or_add(v, text, -(float)rank);
        for (size_t i = 0; i < t->count; i++) {
            bool is_pair = t->symbol[i] == a && i + 1 < t->count && t->symbol[i + 1] == b;

            t->symbol[at++] = is_pair ? (uint16_t)made : t->symbol[i];
            i += is_pair;
        }
        t->count = at;
    }
}

/* The page as symbols; a word keeps the space before it.  id: a character's token. */
static struct trainer *read_page(const uint16_t id[256])
{
    struct trainer *t = mem_zalloc(sizeof(*t));

    for (const char *p = page; *p != 0; p++) {
        if (*p == ' ')
            t->symbol[t->count++] = BREAK;
        t->symbol[t->count++] = id[(uint8_t)*p];
    }
    return t;
}

/* The printable stand-in of a byte in byte-level vocabularies: Latin-1's own graphic characters,
 * the others counted up from U+0100. */
static uint32_t stand_in(int byte)
{
    uint32_t next = 256;

    for (int b = 0; b <= byte; b++) {
        bool is_graphic = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;

        if (b == byte)
            return is_graphic ? (uint32_t)b : next;
        next += !is_graphic;
    }
    return 0;
}

void vocab_bpe(struct vocab *v, uint32_t merges_max)
{
    uint16_t id[256];
    struct trainer *t;

    *v = (struct vocab) { 0 };
    v->unknown = v->pad = add(v, "<|endoftext|>", TOKEN_CONTROL, 0);
    v->bos = add(v, "<|im_start|>", TOKEN_CONTROL, 0);
    v->eos = add(v, "<|im_end|>", TOKEN_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        char text[5] = { 0 };

        (void)utf8_put(text, stand_in(b));
        id[b] = (uint16_t)add(v, text, TOKEN_NORMAL, 0);
    }
    t = read_page(id);
    train(t, v, merges_max);
    mem_free(t);
}

void vocab_spm(struct vocab *v, uint32_t merges_max)
{
    uint16_t id[256];
    struct trainer *t;

    *v = (struct vocab) { 0 };
    v->pad = add(v, "<pad>", TOKEN_CONTROL, 0);
    v->eos = add(v, "<|im_end|>", TOKEN_CONTROL, 0);
    v->bos = add(v, "<bos>", TOKEN_CONTROL, 0);
    v->unknown = add(v, "<unk>", TOKEN_UNKNOWN, 0);
    (void)add(v, "<|im_start|>", TOKEN_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        char text[8];

        snprintf(text, sizeof(text), "<0x%02X>", b);
        (void)add(v, text, TOKEN_BYTE, 0);
    }
    memset(id, 0, sizeof(id));
    /* Characters that are tokens of their own; every other one falls back to its bytes. */
    for (int b = ' '; b <= '~'; b++) {
        char text[2] = { (char)b, 0 };

        id[b] = (uint16_t)add(v, b == ' ' ? "\xe2\x96\x81" : text, TOKEN_NORMAL, -1000 - (float)b);
    }
    t = read_page(id);
    train(t, v, merges_max);
    v->merge_count = 0; /* SPM files have scores instead */
    mem_free(t);
}
