/* text/token_cache.h - ids of texts that begin as an earlier text did.
 *
 * A chat grows at its end: what was tokenized for the last turn is found here, only the new part
 * is tokenized.  The ids are exactly those of tokenizer_encode_marked: text is cut only behind
 * control tokens that no neighbouring text can change, see token_cache.c.
 * Bounded: the ceiling covers ids and bookkeeping, the longest unused go first.
 * Threads: any; the lock is held for look-ups and copies, not while text is hashed or tokenized. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_TOKEN_CACHE_H
#define TEXT_TOKEN_CACHE_H
#include "text/tokenizer.h"

struct token_cache;

struct token_cache_stats {
    uint64_t texts, tokens, cached_tokens; /* asked for; of them found here */
    size_t bytes;                          /* held now */
    uint32_t segments;
};

/* t is borrowed.  NULL: no memory. */
struct token_cache *token_cache_new(const struct tokenizer *t, size_t bytes_max);
void token_cache_free(struct token_cache *c);

/* mark == NULL: as tokenizer_encode with TOKENIZE_PARSE_SPECIAL, else as tokenizer_encode_marked.
 */
int token_cache_encode(struct token_cache *c, struct str text, const uint8_t *mark,
                       struct token_list *out) MUST_CHECK;
void token_cache_stats(struct token_cache *c, struct token_cache_stats *out);
#endif
