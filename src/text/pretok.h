/* text/pretok.h - pre-tokenizers: where byte-level BPE may not merge across.
 *
 * Each kind is a hand-written scanner that cuts exactly where llama.cpp's regular
 * expressions of that name cut.  The text must be UTF-8 in shape: every lead
 * byte with its continuation bytes (pretok_repair sees to it).
 * Threads: pure functions of their arguments. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_PRETOK_H
#define TEXT_PRETOK_H
#include "base/str.h"

enum pretok_kind {
    PRETOK_DEFAULT,
    PRETOK_GPT2,
    PRETOK_SMOLLM,
    PRETOK_LLAMA3,
    PRETOK_QWEN2,
    PRETOK_QWEN35,
    PRETOK_FALCON,
    /* as tokenizer.json writes them: "(?i:'s" is also the long s */
    PRETOK_LLAMA3_FOLD,
    PRETOK_QWEN2_FOLD,
    PRETOK_O200K_FOLD
};

struct pretok_name {
    const char *name; /* tokenizer.ggml.pre */
    enum pretok_kind kind;
    bool ignore_merges; /* a whole piece found in the vocabulary is that token */
    bool add_bos;       /* when the file does not say */
};

const struct pretok_name *pretok_find(struct str name); /* NULL = unknown */
const struct pretok_name *pretok_at(size_t i);          /* NULL past the end */

struct pretok {
    const uint8_t *p;
    enum pretok_kind kind;
    size_t pos, end;
    size_t cut[3]; /* ends of the enclosing pieces, for kinds made of several passes */
};

void pretok_init(struct pretok *s, enum pretok_kind kind, struct str text);
/* The next piece, never empty; false at the end. */
bool pretok_next(struct pretok *s, struct str *piece);

/* Bytes as llama.cpp reads them: each bad byte becomes U+FFFD, overlong forms their shortest,
 * surrogates stay.  out has room for 3 * text.n; returns the bytes written. */
size_t pretok_repair(struct str text, uint8_t *out);
#endif
