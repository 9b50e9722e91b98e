/* Any bytes as a model file: a vocabulary is read or refused with a reason, and what was read
 * tokenizes within its own range. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "model/gguf.h"
#include "text/tokenizer.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t)
{
    static const char text[] = "hello world<|im_start|> 123\n\n  \xe6\x97\xa5\xff aaaa the<s>";
    struct token_list l = { .max = 4096 };
    struct buf b;

    buf_init(&b, (size_t)1 << 24);
    if (tokenizer_encode(t, (struct str) { text, sizeof(text) - 1 }, 3, &l) == 0)
        for (size_t i = 0; i < l.count; i++) {
            ASSERT(l.id[i] < tokenizer_count(t));
            (void)tokenizer_piece(t, l.id[i], true, &b);
        }
    for (uint32_t id = 0; id < tokenizer_count(t) && id < 4096; id++) {
        struct str s = tokenizer_text(t, id);
        uint32_t same = tokenizer_find(t, s);

        /* of equal texts the last counts */
        ASSERT(same == UINT32_MAX ? s.n == 0 : str_eq(tokenizer_text(t, same), s));
        (void)tokenizer_piece(t, id, false, &b);
    }
    buf_fini(&b);
    token_list_fini(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    struct gguf *g = NULL;
    struct err e = { 0 };

    if (gguf_open_bytes(&g, (struct str) { (const char *)data, size }, &e) != 0)
        return 0;
    if (tokenizer_new(&t, g, &e) == 0)
        use(t);
    else
        ASSERT(t == NULL && e.msg[0] != '\0');
    tokenizer_free(t);
    gguf_close(g);
    return 0;
}
