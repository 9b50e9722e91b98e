/* The vocabulary of a made-up model: trained by byte-pair merging on a page of text of our own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef MKMODEL_VOCAB_PRIV_H
#define MKMODEL_VOCAB_PRIV_H
#include "mkmodel.h"

#define VOCAB_TOKENS_MAX      2048
#define VOCAB_TOKEN_BYTES_MAX 64

enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_BYTE = 6 };

struct vocab_token {
    char text[VOCAB_TOKEN_BYTES_MAX]; /* NUL-ended UTF-8 */
    int32_t type;
    float score;
};

struct vocab {
    struct vocab_token token[VOCAB_TOKENS_MAX];
    uint32_t count;
    char merge[VOCAB_TOKENS_MAX][2 * VOCAB_TOKEN_BYTES_MAX + 1]; /* BPE: "left right" */
    uint32_t merge_count;
    uint32_t bos, eos, unknown, pad;
};

void vocab_bpe(struct vocab *v, uint32_t merges_max); /* byte-level, as GPT-2's */
void vocab_spm(struct vocab *v, uint32_t merges_max); /* SentencePiece with byte fallback */
#endif
