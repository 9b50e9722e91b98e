/* text/rules.h - what a tokenizer.json prescribes around its model.
 *
 *   text -> added tokens that are looked for in the text as it is
 *        -> normalizer, a row of steps
 *        -> added tokens that are looked for in the normalized text
 *        -> pre-tokenizer, a row of steps: each cuts, and may change, what the one before gave
 *        -> bpe.c or charbpe.c for each piece
 *
 * Threads: immutable once read; every run has its own buffers. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_RULES_H
#define TEXT_RULES_H
#include "base/buf.h"
#include "base/err.h"
#include "text/tokenizer_priv.h"

#define RULE_STEPS_MAX   16
#define RULE_FRAME_MAX   8
#define RULE_TEXT_MAX    ((size_t)96 << 20) /* of one step's result */
#define RULE_LITERAL_MAX ((size_t)1 << 16)

enum norm_kind {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWERCASE,
    NORM_PREPEND,
    NORM_REPLACE,
    NORM_STRIP,
    NORM_STRIP_ACCENTS
};

struct pattern {
    struct str literal; /* p == NULL: code */
    void *code;         /* pcre2_code, owned */
};

struct norm_step {
    enum norm_kind kind;
    struct pattern pattern; /* replace */
    struct str text;        /* prepend, replace */
    bool left, right;       /* strip */
    uint8_t *stable;        /* NF*: a bit for each character that nothing happens to; owned */
};

enum pre_kind {
    PRE_SCAN, /* a scanner of pretok.c */
    PRE_SPLIT,
    PRE_PREFIX_SPACE,
    PRE_DIGITS,
    PRE_PUNCTUATION,
    PRE_SPACES, /* removed, what is between them stays */
    PRE_METASPACE
};

enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_WITH_PREVIOUS,
    SPLIT_WITH_NEXT,
    SPLIT_CONTIGUOUS
};

enum metaspace_prepend { METASPACE_NEVER, METASPACE_FIRST, METASPACE_ALWAYS };

struct pre_step {
    enum pre_kind kind;
    enum pretok_kind scan;
    enum split_behavior behavior;
    bool invert;
    struct pattern pattern;
    struct str mark; /* metaspace: what stands for a space */
    enum metaspace_prepend prepend;
    bool split;
};

enum { /* of added tokens */
       ADDED_LSTRIP = 1,
       ADDED_RSTRIP = 2,
       ADDED_SINGLE_WORD = 4
};

struct rules {
    struct norm_step norm[RULE_STEPS_MAX];
    struct pre_step pre[RULE_STEPS_MAX];
    unsigned norm_count, pre_count;
    struct special_set raw, normalized;
    uint8_t *added; /* by id */
    bool has_single_word;
    uint32_t head[RULE_FRAME_MAX], tail[RULE_FRAME_MAX]; /* around a text, when asked for */
    unsigned head_count, tail_count;
};

void rules_free(struct rules *r);

/* Compiles regex as Hugging Face's engine reads it.  ERR_UNSUPPORTED, ERR_NOMEM. */
int pattern_compile(struct pattern *p, struct str regex, struct err *e) MUST_CHECK;
void pattern_free(struct pattern *p);

struct pattern_run {
    void *data, *context; /* pcre2_match_data, pcre2_match_context */
};
void pattern_run_fini(struct pattern_run *r);
/* The next match at or after from.  1, 0 = none, ERR_LIMIT, ERR_NOMEM. */
int pattern_next(const struct pattern *p, struct pattern_run *r, struct str text, size_t from,
                 size_t *at, size_t *end) MUST_CHECK;

/* ---- normalize.c ---- */

/* Prepares a step of kind NF*. */
int normalize_prepare(struct norm_step *s) MUST_CHECK;
/* All steps.  The result is `text` itself or lies in one of the two buffers.  ERR_LIMIT,
 * ERR_NOMEM. */
int normalize(const struct rules *r, struct str text, struct pattern_run *run, struct buf tmp[2],
              struct str *out) MUST_CHECK;

/* ---- rules.c ---- */

/* at: bytes of the whole text before this one. */
int rules_encode(struct enc *e, struct str text, size_t at, bool control,
                 const uint8_t *mark) MUST_CHECK;
#endif
