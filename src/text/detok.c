/* Ids to text.  A token's bytes need not be whole characters: the streaming side keeps an
 * unfinished tail (at most three bytes) until the next token completes or spoils it. */
// SPDX-License-Identifier: Apache-2.0
#include "codec/utf8.h"
#include "text/tokenizer_priv.h"

#define DETOK_PENDING_MAX ((size_t)1 << 20) /* one token's text and a tail */

/* Characters of the alphabet become their bytes; others, as in added tokens, stay. */
static bool put_spelled(struct str text, struct buf *out)
{
    while (text.n > 0) {
        size_t len;
        uint32_t cp = utf8_next(text, &len);
        int b = cp == UTF8_BAD ? -1 : alphabet_byte(cp);

        if (!(b >= 0 ? buf_c(out, (char)b) : buf_add(out, text.p, len)))
            return false;
        text = str_sub(text, len, text.n - len);
    }
    return true;
}

static bool put_unescaped(struct str text, struct buf *out)
{
    while (text.n > 0) {
        size_t at = str_find(text, STR("\xe2\x96\x81"));

        if (at == SIZE_MAX)
            return buf_str(out, text);
        if (!buf_add(out, text.p, at) || !buf_c(out, ' '))
            return false;
        text = str_sub(text, at + 3, text.n);
    }
    return true;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static bool put_byte(struct str text, struct buf *out)
{
    int hi, lo;

    if (text.n != 6 || memcmp(text.p, "<0x", 3) != 0)
        return text.n == 1 ? buf_str(out, text) : true;
    hi = hex_digit(text.p[3]);
    lo = hex_digit(text.p[4]);
    return hi < 0 || lo < 0 ? true : buf_c(out, (char)(hi << 4 | lo));
}

bool tokenizer_piece(const struct tokenizer *t, uint32_t id, bool special, struct buf *out)
{
    struct str text;
    unsigned attr;

    if (id >= t->count)
        return true;
    attr = t->attr[id];
    text = t->text[id];
    if ((attr & TOK_SPECIAL) != 0)
        return special ? buf_str(out, text) : true;
    if ((attr & TOK_USER) != 0)
        return buf_str(out, text);
    if ((attr & TOK_BYTE) != 0)
        return put_byte(text, out);
    if ((attr & TOK_NORMAL) == 0)
        return true;
    if (t->kind != TOK_KIND_BPE)
        return put_unescaped(text, out);
    if (t->vocab.at[id + 1] > t->vocab.at[id])
        return buf_str(out, vocab_get(&t->vocab, id));
    return put_spelled(text, out);
}

void detok_init(struct detok *d, const struct tokenizer *t, bool special)
{
    *d = (struct detok) { .t = t, .special = special, .first = true };
    buf_init(&d->pending, DETOK_PENDING_MAX);
}

void detok_fini(struct detok *d)
{
    buf_fini(&d->pending);
}

bool detok_add(struct detok *d, uint32_t id, struct buf *out)
{
    size_t before = d->pending.len, whole;

    if (!tokenizer_piece(d->t, id, d->special, &d->pending))
        return false;
    if (d->first && d->pending.len > before) {
        d->first = false; /* SPM put a space before the text: it is not part of it */
        if (d->t->add_space_prefix && d->t->kind == TOK_KIND_SPM && d->pending.p[0] == ' ')
            buf_drop(&d->pending, 1);
    }
    whole = utf8_complete(buf_view(&d->pending));
    if (whole == 0)
        return true;
    if (!utf8_lossy(out, (struct str) { d->pending.p, whole }))
        return false;
    buf_drop(&d->pending, whole);
    return true;
}

bool detok_flush(struct detok *d, struct buf *out)
{
    bool ok = utf8_lossy(out, buf_view(&d->pending));

    buf_reset(&d->pending);
    return ok;
}
