/* text/tokenizer_priv.h - what the tokenizer's files share: vocabulary, merges, special texts.
 *
 * vocab.c    byte strings to ids and back, the byte alphabet of byte-level BPE
 * special.c  where control and user-defined tokens cut a text
 * pretok.c   where a pre-tokenizer cuts a text
 * bpe.c spm.c charbpe.c  pieces to ids, over the merge loop of merge.h
 * rules.c normalize.c    what a tokenizer.json prescribes around the model; tokjson.c reads it
 * tokenizer.c  reading the file, putting the parts together; detok.c  the way back */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_TOKENIZER_PRIV_H
#define TEXT_TOKENIZER_PRIV_H
#include "base/arena.h"
#include "base/map.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include <string.h>

#define TOK_NONE           UINT32_MAX
#define TOKENIZER_TEXT_MAX ((size_t)16 << 20) /* four times the default ceiling of tokens */

enum tok_attr { /* bits */
                TOK_NORMAL = 1,
                TOK_UNKNOWN = 2,
                TOK_CONTROL = 4,
                TOK_USER = 8,    /* user-defined: always matched, always shown */
                TOK_BYTE = 16,   /* <0xHH> */
                TOK_EOG = 32,    /* ends generation */
                TOK_RSTRIP = 64, /* eats the blanks after it */
                TOK_SPECIAL = TOK_UNKNOWN | TOK_CONTROL
};

/* ---- vocab.c: a set of byte strings numbered from 0 ---- */

struct vocab_slot {
    uint32_t tag, id; /* high half of the hash; TOK_NONE = empty */
};

struct vocab {
    uint8_t *bytes; /* all strings, one after the other */
    size_t bytes_len, bytes_cap;
    uint32_t *at; /* string i is bytes[at[i] .. at[i + 1]) */
    uint32_t count, cap;
    struct vocab_slot *slot;
    uint32_t mask; /* slots - 1 */
    uint64_t seed;
};

int vocab_init(struct vocab *v, uint32_t expected) MUST_CHECK; /* ERR_NOMEM, ERR_LIMIT */
void vocab_fini(struct vocab *v);
/* Numbers s with the next id.  A text seen before goes to the new id; a hidden one is never
 * found.  ERR_NOMEM, ERR_LIMIT. */
int vocab_add(struct vocab *v, struct str s, bool hidden) MUST_CHECK;
uint32_t vocab_find(const struct vocab *v, const uint8_t *p, size_t n); /* TOK_NONE */
struct str vocab_get(const struct vocab *v, uint32_t id);

/* The byte alphabet: a printable character for each byte, so that vocabularies are text. */
uint32_t alphabet_char(uint8_t byte);
int alphabet_byte(uint32_t cp); /* -1 = not of the alphabet */
/* Writes the bytes that s spells (at most s.n) and their count; false when a character of s is
 * not of the alphabet. */
bool alphabet_decode(struct str s, uint8_t *out, size_t *n);

/* ---- special.c ---- */

struct special_node {
    uint32_t child, sibling; /* 0 = none */
    uint32_t rank;           /* of the text that ends here, TOK_NONE = none */
    uint8_t byte;
    bool user; /* matched even when control tokens are not */
};

struct special_set {
    struct special_node *node; /* [0] unused, so that 0 means none */
    uint32_t node_count, node_cap;
    uint32_t root[256];
    uint32_t *id;  /* by rank: longest text first */
    uint32_t *len; /* of the text, by rank */
    uint32_t count;
    uint64_t second[256][4]; /* second bytes that may follow a first byte */
    bool single[256];        /* texts of one byte */
};

struct special_cut {
    size_t at, end; /* of the token's text */
    size_t resume;  /* where text goes on: after stripped blanks */
    uint32_t id;
};

struct special_cuts {
    struct special_cut *cut; /* by position; mem_free */
    size_t count, cap;
};

struct special_text {
    struct str text; /* not empty */
    uint32_t id;
    bool user;
};

int special_build(struct special_set *s, const struct tokenizer *t) MUST_CHECK;
/* Sorts list.  On failure s is to be special_fini'ed all the same. */
int special_build_from(struct special_set *s, struct special_text *list, size_t n) MUST_CHECK;
void special_fini(struct special_set *s);
/* Longest texts first over the whole of `text`, each from the left, as llama.cpp does.
 * ERR_NOMEM. */
int special_find(const struct tokenizer *t, struct str text, bool control, const uint8_t *mark,
                 struct special_cuts *out) MUST_CHECK;

/* The rank of the longest text at `at` of at most n bytes, or TOK_NONE.  Texts that are not the
 * user's are found only with control, and where no byte is marked (mark may be NULL). */
uint32_t special_longest(const struct special_set *s, struct str text, size_t at, size_t n,
                         bool control, const uint8_t *mark);

/* Whether a text can begin at p, n > 0 bytes before the end: says no to nearly all places. */
static inline bool special_may_begin(const struct special_set *s, const uint8_t *p, size_t n)
{
    return s->root[p[0]] != 0 &&
           (s->single[p[0]] || (n > 1 && (s->second[p[0]][p[1] >> 6] >> (p[1] & 63) & 1) != 0));
}

/* ---- the tokenizer ---- */

enum tok_kind {
    TOK_KIND_BPE, /* of bytes, written in the alphabet */
    TOK_KIND_SPM, /* of characters: any two neighbours that are a token, by score */
    TOK_KIND_CHAR /* BPE of characters: the listed pairs, by their order */
};

struct rules; /* rules.h */

struct pair_slot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX = empty */
    uint32_t rank, merged;
};

struct tokenizer {
    enum tok_kind kind;
    enum pretok_kind pre;
    bool ignore_merges, add_bos, add_eos, add_space_prefix;
    uint32_t count;
    uint32_t bos, eos, unk;
    const struct str *text; /* as in the file, which outlives us */
    uint8_t *attr;          /* enum tok_attr */
    /* What is matched: raw bytes (BPE: the alphabet undone) of ids below count, then of texts
     * that only merges know. */
    struct vocab vocab;
    struct map odd; /* BPE: texts outside the alphabet, to find them by name */
    /* Is a piece that equals a token's bytes that token?  0 not yet known, 1 yes, 2 no.
     * Computed when first met from data that never change, so any order of threads gives the
     * same value and relaxed access is enough. */
    _Atomic uint8_t *whole;
    struct special_set special;
    uint32_t byte_id[256];
    /* BPE */
    struct pair_slot *pair;
    uint64_t pair_mask;
    /* SPM */
    uint32_t *rank;         /* by id: smaller merges first, equal scores have equal ranks */
    uint32_t ascii_id[128]; /* tokens of one ASCII character: saves half of the look-ups */
    bool glued[256];        /* a token has U+2581 after this byte: no cut there (CHAR too) */
    /* tokenizer.json only */
    struct rules *rules; /* NULL: of a GGUF file */
    struct arena own;    /* the texts */
    bool byte_fallback, fuse_unk;
};

/* Scratch of one tokenizer_encode. */
struct enc {
    const struct tokenizer *t;
    struct token_list *out;
    struct merge_node *node;
    size_t node_cap;
    struct merge_item *heap;
    size_t heap_cap;
    uint8_t *tmp; /* text after escaping or repair */
    size_t tmp_cap;
};

bool enc_tmp(struct enc *e, size_t n);      /* room for n bytes in e->tmp */
bool token_list_room(struct token_list *l); /* grows; false = ceiling or memory */

static inline bool token_list_push(struct token_list *l, uint32_t id)
{
    if (l->count == l->cap && !token_list_room(l))
        return false;
    l->id[l->count++] = id;
    return true;
}

/* All or nothing. */
bool token_list_append(struct token_list *l, const uint32_t *id, size_t count);

/* As TOKENIZE_PARSE_SPECIAL, with marks unless mark is NULL; text follows `at` bytes that end in a
 * control token. */
int tokenizer_encode_part(const struct tokenizer *t, struct str text, size_t at,
                          const uint8_t *mark, struct token_list *out) MUST_CHECK;

/* Why a push was refused. */
int token_list_error(const struct token_list *l);

/* Text between special tokens to ids.  0, ERR_NOMEM, ERR_LIMIT. */
int bpe_encode(struct enc *e, struct str text) MUST_CHECK;
int spm_encode(struct enc *e, struct str text, bool space_before) MUST_CHECK;
void tokenizer_mark_ends(struct tokenizer *t); /* the customary texts that end generation */
/* What a pre-tokenizer has cut out, not empty. */
int bpe_encode_piece(struct enc *e, const uint8_t *p, size_t n) MUST_CHECK;
int char_encode(struct enc *e, struct str text) MUST_CHECK;
/* Room for count merges; then one by one, of equal pairs the last counts. */
int bpe_pairs(struct tokenizer *t, uint64_t count) MUST_CHECK;
void bpe_pair_set(struct tokenizer *t, uint32_t left, uint32_t right, uint32_t rank,
                  uint32_t merged);
int bpe_byte_ids(struct tokenizer *t) MUST_CHECK;
int bpe_load_merges(struct tokenizer *t, const struct str *merge, uint64_t count,
                    struct err *e) MUST_CHECK;
#endif
