/* SPM: merges by score over the whole of a text, spaces written as U+2581.
 *
 * Any two neighbours whose bytes together are a token may merge; the highest score goes first,
 * then the leftmost.  Merges never cross a place that no token spans, so the text is cut before
 * each U+2581 whose preceding byte stands before U+2581 in no token (tokenizer.glued); in the
 * vocabularies of Llama and Gemma that is every word.  A word is then looked up whole, with the
 * verdict remembered as in bpe.c.  Characters outside the vocabulary become their byte tokens. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "text/merge.h"
#include <stdatomic.h>

#define SPACE "\xe2\x96\x81"

static inline bool find_concat(const struct tokenizer *t, const uint8_t *text,
                               const struct merge_sym *l, const struct merge_sym *r, uint32_t *rank,
                               uint32_t *id)
{
    *id = vocab_find(&t->vocab, text + l->at, (size_t)l->len + r->len);
    if (*id == TOK_NONE)
        return false;
    *rank = t->rank[*id];
    return true;
}

/* Length of the character as its first byte announces it, right or wrong. */
static inline size_t char_len(const uint8_t *p, size_t n)
{
    size_t len = p[0] < 0xc0 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    return len < n ? len : n;
}

static inline struct merge_sym symbol_at(const struct tokenizer *t, const uint8_t *p, size_t at,
                                         size_t n)
{
    size_t len = char_len(p + at, n - at);
    uint32_t id =
        len == 1 && p[at] < 0x80 ? t->ascii_id[p[at]] : vocab_find(&t->vocab, p + at, len);

    return (struct merge_sym) { id, (uint32_t)at, (uint32_t)len };
}

static bool put(struct enc *e, const uint8_t *text, const struct merge_sym *s)
{
    if (s->id != TOK_NONE)
        return token_list_push(e->out, s->id);
    for (uint32_t i = s->at; i < s->at + s->len; i++) {
        uint32_t id = e->t->byte_id[text[i]];

        if (id == TOK_NONE)
            id = e->t->unk;
        if (id != TOK_NONE && !token_list_push(e->out, id))
            return false;
    }
    return true;
}

static int merge_long(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    uint32_t count = 0;
    int rc;

    if (!merge_room(e, n))
        return ERR_NOMEM;
    for (size_t at = 0; at < n; at += e->node[count++].sym.len)
        e->node[count].sym = symbol_at(e->t, p, at, n);
    rc = merge_large(e, p, count, find_concat);
    if (rc != 0)
        return rc;
    *is_whole = e->node[0].next == TOK_NONE;
    for (uint32_t i = 0; i != TOK_NONE; i = e->node[i].next)
        if (!put(e, p, &e->node[i].sym))
            return token_list_error(e->out);
    return 0;
}

static int merge_word(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    struct merge_sym sym[MERGE_SMALL];
    uint32_t count = 0;

    for (size_t at = 0; at < n; at += sym[count++].len) {
        if (count == MERGE_SMALL)
            return merge_long(e, p, n, is_whole);
        sym[count] = symbol_at(e->t, p, at, n);
    }
    count = merge_small(e->t, p, sym, count, find_concat);
    *is_whole = count == 1;
    for (uint32_t i = 0; i < count; i++)
        if (!put(e, p, &sym[i]))
            return token_list_error(e->out);
    return 0;
}

static int encode_word(struct enc *e, const uint8_t *p, size_t n)
{
    uint32_t id = vocab_find(&e->t->vocab, p, n);
    bool is_whole = false;
    int rc;

    if (id != TOK_NONE && atomic_load_explicit(&e->t->whole[id], memory_order_relaxed) == 1)
        return token_list_push(e->out, id) ? 0 : token_list_error(e->out);
    rc = merge_word(e, p, n, &is_whole);
    if (id != TOK_NONE && rc == 0)
        atomic_store_explicit(&e->t->whole[id], is_whole ? 1 : 2, memory_order_relaxed);
    return rc;
}

/* Writes text with its spaces replaced; returns the bytes written, at most 3 * (text.n + 1). */
static size_t escape(struct str text, bool space_before, uint8_t *out)
{
    uint8_t *o = out;

    if (space_before) {
        memcpy(o, SPACE, 3);
        o += 3;
    }
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == ' ') {
            memcpy(o, SPACE, 3);
            o += 3;
        } else {
            *o++ = (uint8_t)text.p[i];
        }
    }
    return (size_t)(o - out);
}

int spm_encode(struct enc *e, struct str text, bool space_before)
{
    size_t n, from = 0, at, len;
    const uint8_t *p;
    int rc;

    if (!enc_tmp(e, (text.n + 1) * 3))
        return ERR_NOMEM;
    n = escape(text, space_before, e->tmp);
    p = e->tmp;
    for (at = 0; at < n; at += len) {
        len = char_len(p + at, n - at);
        if (len == 3 && at > from && memcmp(p + at, SPACE, 3) == 0 && !e->t->glued[p[at - 1]]) {
            rc = encode_word(e, p + from, at - from);
            if (rc != 0)
                return rc;
            from = at;
        }
    }
    return from < n ? encode_word(e, p + from, n - from) : 0;
}
