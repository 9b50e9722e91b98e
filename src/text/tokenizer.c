/* Tokenizer: reads the vocabulary of a GGUF file and puts the parts together.
 *
 *   text -> special.c: cuts at control and user-defined tokens
 *        -> bpe.c (repair, pretok.c, merges) or spm.c (escape, merges) for what lies between
 *        -> ids
 *
 * What a file leaves open (which tokens end generation, whether BOS is added) follows llama.cpp,
 * so that prefix hits and answers agree with other servers of the same file. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "text/rules.h"
#include <stdio.h>

#define TOKENS_MAX (1u << 24)
#define LIST_MAX   ((size_t)4 << 20)

/* ---- lists ---- */

void token_list_fini(struct token_list *l)
{
    mem_free(l->id);
    *l = (struct token_list) { .max = l->max };
}

static size_t list_max(const struct token_list *l)
{
    return l->max != 0 ? l->max : LIST_MAX;
}

int token_list_error(const struct token_list *l)
{
    return l->count >= list_max(l) ? ERR_LIMIT : ERR_NOMEM;
}

bool token_list_room(struct token_list *l)
{
    size_t max = list_max(l), cap;
    uint32_t *p;

    if (l->count < l->cap)
        return true;
    if (l->count >= max)
        return false;
    cap = MIN(max, l->cap * 2 + 64);
    p = mem_try_realloc(l->id, cap * sizeof(*p));
    if (p == NULL)
        return false;
    l->id = p;
    l->cap = cap;
    return true;
}

bool token_list_add(struct token_list *l, uint32_t id)
{
    return token_list_push(l, id);
}

bool token_list_append(struct token_list *l, const uint32_t *id, size_t count)
{
    size_t max = list_max(l), cap;
    uint32_t *p;

    if (count > max - MIN(max, l->count))
        return false;
    if (l->count + count > l->cap) {
        cap = MIN(max, MAX(l->cap * 2, l->count + count));
        p = mem_try_realloc(l->id, cap * sizeof(*p));
        if (p == NULL)
            return false;
        l->id = p;
        l->cap = cap;
    }
    if (count > 0)
        memcpy(l->id + l->count, id, count * sizeof(*id));
    l->count += count;
    return true;
}

bool enc_tmp(struct enc *e, size_t n)
{
    uint8_t *p;

    if (n <= e->tmp_cap)
        return true;
    p = mem_try_realloc(e->tmp, n);
    if (p == NULL)
        return false;
    e->tmp = p;
    e->tmp_cap = n;
    return true;
}

/* ---- reading the file ---- */

static const struct gguf_value *array_of(const struct gguf *g, const char *key, uint64_t count)
{
    const struct gguf_value *v = gguf_get(g, key);

    return v != NULL && v->type == GGUF_ARRAY && v->count >= count ? v : NULL;
}

static int load_kind(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct pretok_name *pre;
    struct str model, name;

    if (!gguf_str(g, "tokenizer.ggml.model", &model))
        return err_set(e, ERR_PARSE, "no tokenizer in this file (tokenizer.ggml.model is missing)");
    t->add_space_prefix = false;
    t->bos = t->eos = t->unk = TOK_NONE;
    if (str_eqz(model, "llama")) {
        t->kind = TOK_KIND_SPM;
        t->add_bos = true;
        t->add_space_prefix = true;
        t->bos = 1;
        t->eos = 2;
        t->unk = 0;
    } else if (str_eqz(model, "gpt2")) {
        t->kind = TOK_KIND_BPE;
        if (!gguf_str(g, "tokenizer.ggml.pre", &name)) {
            LOG_WARN("tokenizer.ggml.pre is missing, using default: ids may differ from the "
                     "model's own");
            name = STR("default");
        }
        pre = pretok_find(name);
        if (pre == NULL)
            return err_set(e, ERR_UNSUPPORTED,
                           "pre-tokenizer \"%.*s\" is not supported; known: "
                           "smollm, gpt-2, llama-bpe, qwen2, qwen35, falcon, default and their kin",
                           STR_ARG(str_sub(name, 0, 64)));
        t->pre = pre->kind;
        t->ignore_merges = pre->ignore_merges;
        t->add_bos = pre->add_bos;
    } else {
        return err_set(e, ERR_UNSUPPORTED,
                       "tokenizer model \"%.*s\" is not supported; known: gpt2 (BPE), llama (SPM)",
                       STR_ARG(str_sub(model, 0, 64)));
    }
    (void)gguf_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix);
    (void)gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
    (void)gguf_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos);
    return 0;
}

/* BPE: the raw bytes that a token's text spells. */
static int add_spelled(struct tokenizer *t, struct str text, uint8_t *tmp)
{
    size_t n;

    if (alphabet_decode(text, tmp, &n))
        return vocab_add(&t->vocab, (struct str) { (const char *)tmp, n }, n == 0);
    if (!map_puts(&t->odd, text, t->vocab.count))
        return ERR_NOMEM;
    return vocab_add(&t->vocab, STR_NONE, true);
}

static int load_texts(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_value *v = array_of(g, "tokenizer.ggml.tokens", 1);
    size_t longest = 0;
    uint8_t *tmp;
    int rc;

    if (v == NULL || v->elem != GGUF_STRING)
        return err_set(e, ERR_PARSE, "tokenizer.ggml.tokens is missing or not an array of strings");
    if (v->count > TOKENS_MAX)
        return err_set(e, ERR_LIMIT, "tokenizer.ggml.tokens: more than %u", TOKENS_MAX);
    t->count = (uint32_t)v->count;
    t->text = v->strings;
    for (uint32_t i = 0; i < t->count; i++)
        longest = MAX(longest, t->text[i].n);
    tmp = mem_try(longest + 1);
    rc = tmp == NULL ? ERR_NOMEM : vocab_init(&t->vocab, t->count);
    for (uint32_t i = 0; i < t->count && rc == 0; i++)
        rc = t->kind == TOK_KIND_BPE ? add_spelled(t, t->text[i], tmp)
                                     : vocab_add(&t->vocab, t->text[i], t->text[i].n == 0);
    mem_free(tmp);
    if (rc != 0)
        return err_set(e, rc, "no memory for %u tokens", t->count);
    return 0;
}

static uint8_t attr_of_type(uint64_t type)
{
    switch (type) {
    case 1: return TOK_NORMAL;
    case 2: return TOK_UNKNOWN;
    case 3: return TOK_CONTROL;
    case 4: return TOK_USER;
    case 6: return TOK_BYTE;
    default: return 0; /* unused, or of a kind that we do not know: never shown */
    }
}

static int load_types(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_value *v = array_of(g, "tokenizer.ggml.token_type", t->count);
    uint64_t type;

    t->attr = mem_try(t->count);
    t->whole = mem_try_zero(t->count, sizeof(*t->whole));
    if (t->attr == NULL || t->whole == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %u tokens", t->count);
    memset(t->attr, TOK_NORMAL, t->count);
    if (v == NULL)
        return gguf_get(g, "tokenizer.ggml.token_type") == NULL
                   ? 0
                   : err_set(e, ERR_PARSE, "tokenizer.ggml.token_type is shorter than the tokens");
    for (uint32_t i = 0; i < t->count; i++)
        t->attr[i] = gguf_value_u64(v, i, &type) ? attr_of_type(type) : 0;
    return 0;
}

/* Higher scores first, and equal scores equal, as an integer that sorts upwards. */
static uint32_t rank_of_score(double score)
{
    float f = (float)score + 0.0f; /* -0 becomes 0 */
    uint32_t bits;

    if (f != f)
        return TOK_NONE - 1;
    memcpy(&bits, &f, sizeof(bits));
    return ~((bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u);
}

static int load_scores(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_value *v = array_of(g, "tokenizer.ggml.scores", t->count);
    static const char hex[] = "0123456789ABCDEF";
    double score;

    t->rank = mem_try_zero(t->count, sizeof(*t->rank));
    if (t->rank == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %u scores", t->count);
    if (v == NULL)
        return err_set(e, ERR_PARSE, "tokenizer.ggml.scores is missing or shorter than the tokens");
    for (uint32_t i = 0; i < t->count; i++) {
        struct str s = t->text[i];

        t->rank[i] = rank_of_score(gguf_value_f64(v, i, &score) ? score : 0);
        for (size_t at = 1; at + 3 <= s.n; at++)
            if (memcmp(s.p + at, "\xe2\x96\x81", 3) == 0)
                t->glued[(uint8_t)s.p[at - 1]] = true;
    }
    for (uint32_t b = 0; b < 128; b++)
        t->ascii_id[b] = vocab_find(&t->vocab, &(uint8_t) { (uint8_t)b }, 1);
    for (uint32_t b = 0; b < 256; b++) {
        uint8_t name[6] = { '<', '0', 'x', (uint8_t)hex[b >> 4], (uint8_t)hex[b & 15], '>' };

        t->byte_id[b] = vocab_find(&t->vocab, name, sizeof(name));
        if (t->byte_id[b] == TOK_NONE)
            t->byte_id[b] = vocab_find(&t->vocab, &(uint8_t) { (uint8_t)b }, 1);
    }
    return 0;
}

/* ---- special ids ---- */

static void load_id(const struct tokenizer *t, const struct gguf *g, const char *key, uint32_t *id)
{
    uint64_t v;

    if (gguf_u64(g, key, &v) && v < t->count)
        *id = (uint32_t)v;
    if (*id >= t->count)
        *id = TOK_NONE;
}

static void mark(struct tokenizer *t, uint32_t id, unsigned attr)
{
    if (id < t->count)
        t->attr[id] |= (uint8_t)attr;
}

/* Tokens that files name by key, or are known by their texts: the first that is there counts. */
struct known {
    const char *key;
    bool ends;
    const char *text[9];
};

static const struct known known[] = {
    { "eot", true, { NULL } }, /* their texts are among ends[] */
    { "eom", true, { NULL } },
    { "fim_pre",
      false,
      { "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
        "<|code_prefix|>", "<|prefix|>", NULL } },
    { "fim_suf",
      false,
      { "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
        "<|code_suffix|>", "<|suffix|>", NULL } },
    { "fim_mid",
      false,
      { "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
        "<|code_middle|>", "<|middle|>", NULL } },
    { "fim_pad", true, { "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", NULL } },
    { "fim_rep",
      true,
      { "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", NULL } },
    { "fim_sep", true, { "<|file_sep|>", NULL } },
};

/* Texts that end generation in every vocabulary that has them. */
static const char *const ends[] = { "<|eot_id|>",
                                    "<|im_end|>",
                                    "<|end|>",
                                    "<|return|>",
                                    "<|call|>",
                                    "<|flush|>",
                                    "<|calls|>",
                                    "<end_of_turn>",
                                    "<|endoftext|>",
                                    "</s>",
                                    "<|eom_id|>",
                                    "<EOT>",
                                    "_<EOT>",
                                    "[EOT]",
                                    "[EOS]",
                                    "<eos>",
                                    "<turn|>",
                                    "<|end_of_text|>",
                                    "<end_of_utterance>",
                                    "<|tool_response>",
                                    "[e~[",
                                    "<｜end▁of▁sentence｜>" };

static uint32_t find_z(const struct tokenizer *t, const char *z)
{
    return tokenizer_find(t, str_of(z));
}

static bool is_end(const struct tokenizer *t, const char *z)
{
    return tokenizer_is_eog(t, find_z(t, z));
}

static void load_known(struct tokenizer *t, const struct gguf *g)
{
    for (size_t i = 0; i < COUNT(known); i++) {
        const struct known *k = &known[i];
        uint32_t id = TOK_NONE;
        char key[64];

        snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", k->key);
        load_id(t, g, key, &id);
        for (size_t j = 0; id == TOK_NONE && k->text[j] != NULL; j++) {
            id = find_z(t, k->text[j]);
            mark(t, id, TOK_CONTROL);
        }
        if (k->ends)
            mark(t, id, TOK_EOG);
    }
    for (size_t i = 0; i < COUNT(ends); i++)
        mark(t, find_z(t, ends[i]), TOK_EOG | TOK_CONTROL);
}

void tokenizer_mark_ends(struct tokenizer *t)
{
    mark(t, t->eos, TOK_EOG);
    for (size_t i = 0; i < COUNT(ends); i++) {
        uint32_t id = find_z(t, ends[i]);

        if (id < t->count && (t->attr[id] & (TOK_CONTROL | TOK_USER)) != 0)
            mark(t, id, TOK_EOG);
    }
}

/* Families whose texts mean something else than elsewhere. */
static void load_exceptions(struct tokenizer *t)
{
    static const char *const shown[] = { "<|channel|>", "<|message|>", "<|start|>",
                                         "<|constrain|>" };
    uint32_t id;

    for (size_t i = 0; i < COUNT(shown); i++) {
        id = find_z(t, shown[i]);
        if (id < t->count)
            t->attr[id] = (uint8_t)((t->attr[id] & TOK_EOG) | TOK_USER);
    }
    mark(t, t->eos, TOK_EOG);
    /* gpt-oss and Solar end with another token: <|end|> only closes a message. */
    id = find_z(t, "<|end|>");
    if (id < t->count && tokenizer_is_eog(t, id) &&
        (is_end(t, "<|call|>") || is_end(t, "<|calls|>")) &&
        (is_end(t, "<|return|>") || is_end(t, "<|flush|>")))
        t->attr[id] = TOK_USER;
    id = find_z(t, "</s>");
    if (id < t->count && is_end(t, "<|tool_response>"))
        t->attr[id] = TOK_NORMAL;
}

/* Phi-3's added tokens eat the blanks after them; files do not say so. */
static void load_rstrip(struct tokenizer *t, const struct gguf *g)
{
    static const char *const not [] = { "<unk>", "<s>", "<|endoftext|>" };
    struct str name;
    bool is_phi3 = false;

    if (!gguf_str(g, "general.name", &name))
        return;
    for (size_t i = 0; i < name.n && !is_phi3; i++)
        is_phi3 =
            str_ieq(str_sub(name, i, 4), STR("phi3")) || str_ieq(str_sub(name, i, 5), STR("phi-3"));
    if (!is_phi3)
        return;
    for (uint32_t i = 0; i < t->count; i++)
        if ((t->attr[i] & (TOK_SPECIAL | TOK_USER)) != 0)
            t->attr[i] |= TOK_RSTRIP;
    for (size_t i = 0; i < COUNT(not ); i++)
        if (find_z(t, not [i]) != TOK_NONE)
            t->attr[find_z(t, not [i])] &= (uint8_t)~TOK_RSTRIP;
}

static int load_merges(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_value *v = array_of(g, "tokenizer.ggml.merges", 0);

    if (v == NULL || v->elem != GGUF_STRING)
        return err_set(e, ERR_PARSE, "tokenizer.ggml.merges is missing or not an array of strings");
    return bpe_load_merges(t, v->strings, v->count, e);
}

int tokenizer_new(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct tokenizer *t = mem_zalloc(sizeof(*t));
    int rc;

    *out = NULL;
    rc = load_kind(t, g, e);
    if (rc == 0)
        rc = load_texts(t, g, e);
    if (rc == 0)
        rc = load_types(t, g, e);
    if (rc == 0)
        rc = t->kind == TOK_KIND_BPE ? load_merges(t, g, e) : load_scores(t, g, e);
    if (rc != 0)
        goto out;
    load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos);
    load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos);
    load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk);
    load_known(t, g);
    load_exceptions(t);
    load_rstrip(t, g);
    rc = special_build(&t->special, t);
    if (rc != 0) {
        err_set(e, rc, "no memory for the special tokens");
        goto out;
    }
    *out = t;
    t = NULL;
out:
    tokenizer_free(t);
    return rc;
}

void tokenizer_free(struct tokenizer *t)
{
    if (t == NULL)
        return;
    vocab_fini(&t->vocab);
    map_fini(&t->odd);
    special_fini(&t->special);
    mem_free((void *)t->whole);
    mem_free(t->attr);
    mem_free(t->pair);
    mem_free(t->rank);
    rules_free(t->rules);
    arena_fini(&t->own);
    mem_free(t);
}

/* ---- encoding ---- */

static int encode_text(struct enc *e, struct str text, bool after_special)
{
    if (text.n == 0)
        return 0;
    if (e->t->kind == TOK_KIND_BPE)
        return bpe_encode(e, text);
    return spm_encode(e, text, after_special && e->t->add_space_prefix);
}

static int encode_cut(struct enc *e, struct str text, const struct special_cuts *cuts)
{
    size_t from = 0;
    int rc;

    for (size_t i = 0; i < cuts->count; i++) {
        const struct special_cut *c = &cuts->cut[i];

        rc = encode_text(e, str_sub(text, from, c->at - from), true);
        if (rc != 0)
            return rc;
        if (!token_list_push(e->out, c->id))
            return token_list_error(e->out);
        from = c->resume;
    }
    return encode_text(e, str_sub(text, from, text.n - from), true);
}

/* What the file wants before (or after) a text. */
static int put_frame(const struct tokenizer *t, bool before, struct token_list *out)
{
    const struct rules *r = t->rules;
    uint32_t id = before ? t->bos : t->eos;
    bool ok = true;

    if (r == NULL)
        ok = !(before ? t->add_bos : t->add_eos) || id == TOK_NONE || token_list_push(out, id);
    for (unsigned i = 0; r != NULL && i < (before ? r->head_count : r->tail_count); i++)
        ok = ok && token_list_push(out, (before ? r->head : r->tail)[i]);
    return ok ? 0 : token_list_error(out);
}

static int encode(const struct tokenizer *t, struct str text, size_t at, unsigned flags,
                  const uint8_t *mark, struct token_list *out)
{
    bool control = (flags & TOKENIZE_PARSE_SPECIAL) != 0,
         frame = (flags & TOKENIZE_ADD_SPECIAL) != 0;
    struct enc e = { .t = t, .out = out };
    struct special_cuts cuts = { 0 };
    size_t count = out->count;
    int rc;

    if (text.n > TOKENIZER_TEXT_MAX)
        return ERR_LIMIT;
    rc = frame ? put_frame(t, true, out) : 0;
    if (rc == 0 && t->rules != NULL) {
        rc = rules_encode(&e, text, at, control, mark);
    } else if (rc == 0) {
        rc = special_find(t, text, control, mark, &cuts);
        if (rc == 0)
            rc = encode_cut(&e, text, &cuts);
    }
    if (rc == 0 && frame)
        rc = put_frame(t, false, out);
    if (rc != 0)
        out->count = count;
    mem_free(cuts.cut);
    mem_free(e.node);
    mem_free(e.heap);
    mem_free(e.tmp);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, struct str text, unsigned flags,
                     struct token_list *out)
{
    return encode(t, text, 0, flags, NULL, out);
}

int tokenizer_encode_marked(const struct tokenizer *t, struct str text, const uint8_t *mark,
                            struct token_list *out)
{
    return encode(t, text, 0, TOKENIZE_PARSE_SPECIAL, mark, out);
}

int tokenizer_encode_part(const struct tokenizer *t, struct str text, size_t at,
                          const uint8_t *mark, struct token_list *out)
{
    return encode(t, text, at, TOKENIZE_PARSE_SPECIAL, mark, out);
}

/* ---- questions ---- */

uint32_t tokenizer_count(const struct tokenizer *t)
{
    return t->count;
}

struct str tokenizer_text(const struct tokenizer *t, uint32_t id)
{
    return id < t->count ? t->text[id] : STR_NONE;
}

bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id)
{
    return id < t->count && (t->attr[id] & TOK_EOG) != 0;
}

bool tokenizer_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < t->count && (t->attr[id] & TOK_CONTROL) != 0;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos && t->bos != TOK_NONE;
}

uint32_t tokenizer_find(const struct tokenizer *t, struct str text)
{
    uint8_t stack[256], *tmp = stack;
    uint64_t odd;
    uint32_t id = TOK_NONE;
    size_t n;

    if (text.n == 0)
        return TOK_NONE;
    if (t->kind == TOK_KIND_CHAR && map_gets(&t->odd, text, &odd))
        return (uint32_t)odd;
    if (t->kind != TOK_KIND_BPE)
        return vocab_find(&t->vocab, (const uint8_t *)text.p, text.n);
    if (text.n > sizeof(stack) && (tmp = mem_try(text.n)) == NULL)
        return TOK_NONE;
    if (map_gets(&t->odd, text, &odd))
        id = (uint32_t)odd;
    else if (alphabet_decode(text, tmp, &n))
        id = vocab_find(&t->vocab, tmp, n);
    if (tmp != stack)
        mem_free(tmp);
    return id < t->count ? id : TOK_NONE;
}
