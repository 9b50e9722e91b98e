/* text/tokenizer.h - text to token ids and back, from GGUF metadata or a tokenizer.json.
 *
 * GGUF: byte-level BPE (pre-tokenizers smollm, gpt-2, llama-bpe, qwen2) and SPM, with special
 * tokens and byte fallback; ids equal llama.cpp's for the same file.
 * tokenizer.json: BPE of bytes or of characters, with the file's own normalizer, pre-tokenizer
 * and added tokens; ids equal those of Hugging Face's tokenizers.
 * A tokenizer is immutable after tokenizer_new: any thread may use it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H
#include "base/buf.h"
#include "base/err.h"

struct gguf;
struct tokenizer;

/* g is borrowed and must outlive the tokenizer (token texts point into it). */
int tokenizer_new(struct tokenizer **out, const struct gguf *g, struct err *e) MUST_CHECK;
/* What tokenizer_config.json adds to a tokenizer.json. */
struct tokenizer_json_opts {
    bool is_configured;  /* bos and eos are all there is: do not look for customary ones */
    struct str bos, eos; /* texts; p == NULL: none */
    bool replace_frame;  /* add_bos and add_eos count, not the file's post_processor */
    bool add_bos, add_eos;
};

/* Reads the text of a tokenizer.json, which is not needed afterwards; o may be NULL.
 * ERR_PARSE, ERR_UNSUPPORTED (e names the part and says what to do), ERR_LIMIT, ERR_NOMEM. */
int tokenizer_new_json(struct tokenizer **out, struct str json, const struct tokenizer_json_opts *o,
                       struct err *e) MUST_CHECK;
void tokenizer_free(struct tokenizer *t);

struct token_list {
    uint32_t *id;           /* mem_free */
    size_t count, cap, max; /* max: ceiling, 0 = 4 Mi tokens */
};
void token_list_fini(struct token_list *l);
bool token_list_add(struct token_list *l, uint32_t id); /* false = ceiling or memory */

enum {
    TOKENIZE_ADD_SPECIAL = 1,  /* BOS/EOS as the file says */
    TOKENIZE_PARSE_SPECIAL = 2 /* control tokens in the text become their ids */
};

/* Appends to out; on failure out is as before.  Invalid UTF-8 is taken as llama.cpp takes it, and
 * as there a text that begins with BOS gets a second one when special tokens are added. ERR_LIMIT
 * (more than 16 MiB of text, or the list's ceiling), ERR_NOMEM. */
int tokenizer_encode(const struct tokenizer *t, struct str text, unsigned flags,
                     struct token_list *out) MUST_CHECK;

/* As with TOKENIZE_PARSE_SPECIAL, but a control token is found only where none of its bytes is
 * marked (mark: a byte for each of text, 0 = free).  User-defined tokens are found everywhere. */
int tokenizer_encode_marked(const struct tokenizer *t, struct str text, const uint8_t *mark,
                            struct token_list *out) MUST_CHECK;

uint32_t tokenizer_count(const struct tokenizer *t);
/* The bytes a token stands for in output; empty for control tokens unless special. */
bool tokenizer_piece(const struct tokenizer *t, uint32_t id, bool special, struct buf *out);
struct str tokenizer_text(const struct tokenizer *t, uint32_t id); /* as in the file */
bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id);     /* ends generation */
bool tokenizer_is_control(const struct tokenizer *t, uint32_t id);
/* UINT32_MAX when the model has none. */
uint32_t tokenizer_bos(const struct tokenizer *t);
uint32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
uint32_t tokenizer_find(const struct tokenizer *t, struct str text); /* UINT32_MAX = none */

/* Streaming detokenizer: never gives half a UTF-8 character.  Bytes that can no longer
 * become one are given as U+FFFD. */
struct detok {
    const struct tokenizer *t;
    struct buf pending;
    bool special;
    bool first; /* no text yet: SPM's space before the text is dropped.  Set it to false after
                   detok_init when the tokens continue a prompt: there the space is text. */
};
void detok_init(struct detok *d, const struct tokenizer *t, bool special);
void detok_fini(struct detok *d);
bool detok_add(struct detok *d, uint32_t id, struct buf *out);
bool detok_flush(struct detok *d, struct buf *out); /* the end: an unfinished tail becomes U+FFFD */
#endif
