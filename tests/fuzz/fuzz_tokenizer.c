/* Any bytes as text: byte 0 chooses vocabulary and flags, the rest is tokenized.  Ids are in
 * range, the pieces spell the text again (where the text can be spelled), and the stream of
 * detok is valid UTF-8 and equals the pieces as a whole. */
// SPDX-License-Identifier: Apache-2.0
#include "../unit/text/tiny_vocab.h"
#include "base/check.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pres[] = { "gpt-2",  "smollm", "llama-bpe", "qwen2",
                                    "qwen35", "falcon", "default",   NULL };

#define VOCABS COUNT(pres)

static struct tokenizer *tokenizers[VOCABS];

static struct tokenizer *get(size_t i)
{
    static struct buf files[VOCABS];
    static struct gguf *ggufs[VOCABS];
    struct tiny v;
    struct err e;

    if (tokenizers[i] != NULL)
        return tokenizers[i];
    if (pres[i] != NULL)
        tiny_bpe(&v, pres[i]);
    else
        tiny_spm(&v);
    buf_init(&files[i], (size_t)1 << 20);
    tiny_write(&v, &files[i]);
    if (gguf_open_bytes(&ggufs[i], buf_view(&files[i]), &e) != 0 ||
        tokenizer_new(&tokenizers[i], ggufs[i], &e) != 0)
        check_failed(__FILE__, __LINE__, e.msg);
    return tokenizers[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct token_list l = { .max = 1 << 16 };
    const struct tokenizer *t;
    struct buf stream, whole, lossy;
    struct detok d;
    struct str text;
    unsigned flags;

    if (size == 0)
        return 0;
    t = get(data[0] % VOCABS);
    flags = data[0] / VOCABS % 4;
    text = (struct str) { (const char *)data + 1, size - 1 };
    if (tokenizer_encode(t, text, flags, &l) != 0) {
        ASSERT(l.count == 0);
        token_list_fini(&l);
        return 0;
    }
    buf_init(&stream, (size_t)1 << 22);
    buf_init(&whole, (size_t)1 << 22);
    buf_init(&lossy, (size_t)1 << 22);
    detok_init(&d, t, true);
    d.first = false;
    for (size_t i = 0; i < l.count; i++) {
        size_t before = stream.len;

        ASSERT(l.id[i] < tokenizer_count(t));
        ASSERT(detok_add(&d, l.id[i], &stream));
        ASSERT(utf8_valid(str_sub(buf_view(&stream), before, SIZE_MAX)));
        ASSERT(tokenizer_piece(t, l.id[i], true, &whole));
    }
    ASSERT(detok_flush(&d, &stream));
    ASSERT(utf8_lossy(&lossy, buf_view(&whole)));
    ASSERT(str_eq(buf_view(&lossy), buf_view(&stream)));
    /* "xy" merges into no token and leaves only its letters: that spells it all the same. */
    if (pres[data[0] % VOCABS] != NULL && flags == 0 && utf8_valid(text))
        ASSERT(str_eq(buf_view(&whole), text));
    detok_fini(&d);
    buf_fini(&stream);
    buf_fini(&whole);
    buf_fini(&lossy);
    token_list_fini(&l);
    return 0;
}
