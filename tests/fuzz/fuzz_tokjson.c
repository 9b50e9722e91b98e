/* Any bytes as a tokenizer.json: read, or refused with a reason; what was read tokenizes within
 * its own range, and the same with its ids cached. */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/check.h"
#include "text/token_cache.h"
#include "text/tokenizer.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare(struct token_cache *c, const struct tokenizer *t, struct str text)
{
    struct token_list anew = { .max = 65536 }, cached = { .max = 65536 };
    int rc = tokenizer_encode(t, text, TOKENIZE_PARSE_SPECIAL, &anew);

    for (int i = 0; i < 2; i++) {
        cached.count = 0;
        if (token_cache_encode(c, text, NULL, &cached) != 0 || rc != 0)
            continue;
        ASSERT(cached.count == anew.count);
        for (size_t k = 0; k < anew.count; k++)
            ASSERT(cached.id[k] == anew.id[k] && anew.id[k] < tokenizer_count(t));
    }
    token_list_fini(&anew);
    token_list_fini(&cached);
}

static void use(const struct tokenizer *t)
{
    static const char plain[] = "Hello  w\xc3\xb6rld e\xcc\x81 123\n\n \xe6\x97\xa5\xff aaaa it's ";
    struct token_cache *c = token_cache_new(t, 65536);
    struct token_list l = { .max = 4096 };
    struct buf text;

    ASSERT(c != NULL);
    buf_init(&text, 1 << 16);
    for (uint32_t i = 0; i < 64; i++) { /* its own tokens between words, longer than a segment */
        uint32_t id = tokenizer_count(t) - 1 - i % tokenizer_count(t);

        buf_str(&text, (struct str) { plain, sizeof(plain) - 1 });
        buf_str(&text, str_sub(tokenizer_text(t, id), 0, 200));
        (void)tokenizer_find(t, tokenizer_text(t, id));
    }
    compare(c, t, buf_view(&text));
    buf_str(&text, (struct str) { plain, sizeof(plain) - 1 });
    compare(c, t, buf_view(&text));
    buf_reset(&text);
    if (tokenizer_encode(t, (struct str) { plain, sizeof(plain) - 1 }, 3, &l) == 0)
        for (size_t i = 0; i < l.count; i++)
            (void)tokenizer_piece(t, l.id[i], true, &text);
    buf_fini(&text);
    token_list_fini(&l);
    token_cache_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    struct err e = { 0 };

    if (tokenizer_new_json(&t, (struct str) { (const char *)data, size }, NULL, &e) == 0)
        use(t);
    else
        ASSERT(t == NULL && e.msg[0] != '\0');
    tokenizer_free(t);
    return 0;
}
