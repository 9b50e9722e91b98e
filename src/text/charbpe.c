/* BPE over characters, as in tokenizer.json files that were converted from SentencePiece.
 *
 * The merges are listed pairs, first come first; otherwise as spm.c: the text is cut before each
 * U+2581 that no token joins with the byte before it, words are looked up whole with the verdict
 * remembered, and characters outside the vocabulary become their bytes, or the unknown token. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "text/merge.h"
#include <stdatomic.h>

#define SPACE "\xe2\x96\x81"

static inline size_t char_len(const uint8_t *p, size_t n)
{
    size_t len = p[0] < 0xc0 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    return MIN(len, n);
}

/* Writes the symbols of the character at p, at most 4; *unknown: the last one stands for an
 * unknown character, to which the next can be fused. */
static inline uint32_t symbols_at(const struct tokenizer *t, const uint8_t *p, size_t len,
                                  struct merge_sym *out, bool *unknown)
{
    uint32_t id = len == 1 ? t->ascii_id[p[0] & 0x7f] : vocab_find(&t->vocab, p, len), count = 0;
    bool was_unknown = *unknown;

    *unknown = false;
    if (id != TOK_NONE) {
        out[0] = (struct merge_sym) { id, 0, (uint32_t)len };
        return 1;
    }
    for (size_t i = 0; i < len && t->byte_fallback; i++)
        count += t->byte_id[p[i]] != TOK_NONE;
    if (count == len) {
        for (size_t i = 0; i < len; i++)
            out[i] = (struct merge_sym) { t->byte_id[p[i]], 0, 1 };
        return count;
    }
    if (t->unk == TOK_NONE)
        return 0;
    *unknown = true;
    if (was_unknown && t->fuse_unk)
        return 0;
    out[0] = (struct merge_sym) { t->unk, 0, (uint32_t)len };
    return 1;
}

static int merge_long(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    uint32_t count = 0;
    bool unknown = false;
    int rc;

    if (!merge_room(e, n))
        return ERR_NOMEM;
    for (size_t at = 0, len; at < n; at += len) {
        struct merge_sym sym[4];
        uint32_t k;

        len = char_len(p + at, n - at);
        k = symbols_at(e->t, p + at, len, sym, &unknown);
        for (uint32_t i = 0; i < k; i++)
            e->node[count++].sym = sym[i];
    }
    if (count == 0)
        return 0;
    rc = merge_large(e, p, count, find_pair);
    if (rc != 0)
        return rc;
    *is_whole = e->node[0].next == TOK_NONE;
    for (uint32_t i = 0; i != TOK_NONE; i = e->node[i].next)
        if (!token_list_push(e->out, e->node[i].sym.id))
            return token_list_error(e->out);
    return 0;
}

static int merge_word(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    struct merge_sym sym[MERGE_SMALL + 4];
    uint32_t count = 0;
    bool unknown = false;

    for (size_t at = 0, len; at < n; at += len) {
        len = char_len(p + at, n - at);
        count += symbols_at(e->t, p + at, len, sym + count, &unknown);
        if (count > MERGE_SMALL)
            return merge_long(e, p, n, is_whole);
    }
    count = merge_small(e->t, p, sym, count, find_pair);
    *is_whole = count == 1;
    for (uint32_t i = 0; i < count; i++)
        if (!token_list_push(e->out, sym[i].id))
            return token_list_error(e->out);
    return 0;
}

static int encode_word(struct enc *e, const uint8_t *p, size_t n)
{
    const struct tokenizer *t = e->t;
    uint32_t id = vocab_find(&t->vocab, p, n);
    bool is_whole = false;
    int rc;

    if (id != TOK_NONE && atomic_load_explicit(&t->whole[id], memory_order_relaxed) == 1)
        return token_list_push(e->out, id) ? 0 : token_list_error(e->out);
    rc = merge_word(e, p, n, &is_whole);
    if (id != TOK_NONE && rc == 0)
        atomic_store_explicit(&t->whole[id], is_whole ? 1 : 2, memory_order_relaxed);
    return rc;
}

/* Where the next word begins at the earliest after `from`: before a U+2581 that nothing joins
 * with what precedes it. */
static size_t next_word(const struct tokenizer *t, struct str s, size_t from)
{
    const char *p = s.p + from + 1, *end = s.p + s.n;

    while (end - p >= 3) {
        p = memchr(p, SPACE[0], (size_t)(end - p) - 2);
        if (p == NULL)
            break;
        if (memcmp(p, SPACE, 3) == 0 && !t->glued[(uint8_t)p[-1]])
            return (size_t)(p - s.p);
        p++;
    }
    return s.n;
}

int char_encode(struct enc *e, struct str text)
{
    const struct tokenizer *t = e->t;
    const uint8_t *p = (const uint8_t *)text.p;
    uint32_t id;
    int rc = 0;

    if (t->ignore_merges) {
        id = vocab_find(&t->vocab, p, text.n);
        if (id != TOK_NONE)
            return token_list_push(e->out, id) ? 0 : token_list_error(e->out);
    }
    for (size_t from = 0, end; from < text.n && rc == 0; from = end) {
        end = next_word(t, text, from);
        rc = encode_word(e, p + from, end - from);
    }
    return rc;
}
