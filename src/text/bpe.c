/* Byte-level BPE: pieces of the pre-tokenizer to ids.
 *
 * The byte alphabet of the vocabulary is undone once at load, so that encoding works on raw
 * bytes: a piece is looked up whole first, and only what is no token goes through the merges.
 * A piece that spells a token is not always that token: the merges may arrive elsewhere.  So
 * each token's verdict is computed when first met and remembered (tokenizer.whole).
 * Merges are pairs of ids: texts that occur only in merges get ids beyond the vocabulary and, as
 * in llama.cpp, fall apart into bytes when they remain at the end. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/utf8.h"
#include "text/merge.h"
#include <stdatomic.h>

/* ---- loading ---- */

int bpe_pairs(struct tokenizer *t, uint64_t count)
{
    uint64_t slots = 64;

    while (slots < count * 2)
        slots *= 2;
    t->pair = mem_try(slots * sizeof(*t->pair));
    if (t->pair == NULL)
        return ERR_NOMEM;
    memset(t->pair, 0xff, slots * sizeof(*t->pair));
    t->pair_mask = slots - 1;
    return 0;
}

void bpe_pair_set(struct tokenizer *t, uint32_t left, uint32_t right, uint32_t rank,
                  uint32_t merged)
{
    uint64_t pair = (uint64_t)left << 32 | right;

    *pair_probe(t, pair) = (struct pair_slot) { pair, rank, merged };
}

static int intern(struct vocab *v, const uint8_t *p, size_t n, uint32_t *id)
{
    int rc;

    *id = vocab_find(v, p, n);
    if (*id != TOK_NONE)
        return 0;
    rc = vocab_add(v, (struct str) { (const char *)p, n }, false);
    *id = v->count - 1;
    return rc;
}

static int load_merge(struct tokenizer *t, struct str s, uint32_t rank, uint8_t *tmp)
{
    size_t cut = s.n < 2 ? SIZE_MAX : str_chr(str_sub(s, 1, s.n), ' '), nl, nr;
    uint32_t l, r, merged;
    struct pair_slot *slot;
    int rc;

    if (cut == SIZE_MAX)
        return 0;
    cut++;
    if (!alphabet_decode(str_sub(s, 0, cut), tmp, &nl) ||
        !alphabet_decode(str_sub(s, cut + 1, s.n), tmp + nl, &nr) || nl == 0 || nr == 0)
        return 0; /* no text of bytes can ever contain it */
    rc = intern(&t->vocab, tmp, nl, &l);
    if (rc == 0)
        rc = intern(&t->vocab, tmp + nl, nr, &r);
    if (rc == 0)
        rc = intern(&t->vocab, tmp, nl + nr, &merged);
    if (rc != 0)
        return rc;
    slot = pair_probe(t, (uint64_t)l << 32 | r);
    if (slot->pair == UINT64_MAX) /* of two equal merges the first counts */
        *slot = (struct pair_slot) { (uint64_t)l << 32 | r, rank, merged };
    return 0;
}

int bpe_byte_ids(struct tokenizer *t)
{
    int rc = 0;

    for (uint32_t b = 0; b < 256 && rc == 0; b++)
        rc = intern(&t->vocab, &(uint8_t) { (uint8_t)b }, 1, &t->byte_id[b]);
    return rc;
}

int bpe_load_merges(struct tokenizer *t, const struct str *merge, uint64_t count, struct err *e)
{
    size_t longest = 0;
    uint8_t *tmp = NULL;
    int rc;

    if (count > UINT32_MAX / 8)
        return err_set(e, ERR_LIMIT, "tokenizer.ggml.merges: %llu are too many",
                       (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++)
        longest = merge[i].n > longest ? merge[i].n : longest;
    tmp = mem_try(longest + 1);
    rc = tmp == NULL ? ERR_NOMEM : bpe_pairs(t, count);
    if (rc == 0)
        rc = bpe_byte_ids(t);
    for (uint64_t i = 0; i < count && rc == 0; i++)
        rc = load_merge(t, merge[i], (uint32_t)i, tmp);
    mem_free(tmp);
    return rc == 0 ? 0 : err_set(e, rc, "no memory for %llu merges", (unsigned long long)count);
}

/* ---- encoding ---- */

/* A symbol as output: its id, or what is left of a text outside the vocabulary: those of its
 * bytes that the alphabet writes as themselves and that are tokens. */
static bool put(struct enc *e, uint32_t id)
{
    const struct tokenizer *t = e->t;
    struct str s;

    if (id < t->count)
        return token_list_push(e->out, id);
    s = vocab_get(&t->vocab, id);
    for (size_t i = 0; i < s.n; i++) {
        uint8_t b = (uint8_t)s.p[i];

        if (b >= 33 && b <= 126 && t->byte_id[b] < t->count &&
            !token_list_push(e->out, t->byte_id[b]))
            return false;
    }
    return true;
}

static bool merge_word(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    struct merge_sym sym[MERGE_SMALL];
    uint32_t left;

    for (size_t i = 0; i < n; i++)
        sym[i] = (struct merge_sym) { e->t->byte_id[p[i]], 0, 0 };
    left = merge_small(e->t, p, sym, (uint32_t)n, find_pair);
    *is_whole = left == 1;
    for (uint32_t i = 0; i < left; i++)
        if (!put(e, sym[i].id))
            return false;
    return true;
}

static int merge_long(struct enc *e, const uint8_t *p, size_t n, bool *is_whole)
{
    int rc;

    if (!merge_room(e, n))
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        e->node[i].sym = (struct merge_sym) { e->t->byte_id[p[i]], 0, 0 };
    rc = merge_large(e, p, (uint32_t)n, find_pair);
    if (rc != 0)
        return rc;
    *is_whole = e->node[0].next == TOK_NONE;
    for (uint32_t i = 0; i != TOK_NONE; i = e->node[i].next)
        if (!put(e, e->node[i].sym.id))
            return token_list_error(e->out);
    return 0;
}

int bpe_encode_piece(struct enc *e, const uint8_t *p, size_t n)
{
    const struct tokenizer *t = e->t;
    bool is_whole = false;
    uint32_t id;
    int rc = 0;

    if (n == 1)
        return put(e, t->byte_id[p[0]]) ? 0 : token_list_error(e->out);
    id = vocab_find(&t->vocab, p, n);
    if (id < t->count &&
        (t->ignore_merges || atomic_load_explicit(&t->whole[id], memory_order_relaxed) == 1))
        return token_list_push(e->out, id) ? 0 : token_list_error(e->out);
    if (n <= MERGE_SMALL)
        rc = merge_word(e, p, n, &is_whole) ? 0 : token_list_error(e->out);
    else
        rc = merge_long(e, p, n, &is_whole);
    if (id < t->count && rc == 0)
        atomic_store_explicit(&t->whole[id], is_whole ? 1 : 2, memory_order_relaxed);
    return rc;
}

int bpe_encode(struct enc *e, struct str text)
{
    struct pretok s;
    struct str piece;
    int rc;

    if (!utf8_valid(text)) {
        if (!enc_tmp(e, text.n * 3))
            return ERR_NOMEM;
        text = (struct str) { (const char *)e->tmp, pretok_repair(text, e->tmp) };
    }
    pretok_init(&s, e->t->pre, text);
    while (pretok_next(&s, &piece)) {
        rc = bpe_encode_piece(e, (const uint8_t *)piece.p, piece.n);
        if (rc != 0)
            return rc;
    }
    return 0;
}
