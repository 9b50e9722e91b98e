/* Reading tokenizer.json, the file of Hugging Face's tokenizers.
 *
 *   model           vocab and merges -> the same tables as of a GGUF file
 *   added_tokens    two sets of texts: found before, or after, normalizing
 *   normalizer, pre_tokenizer, post_processor -> rules.h
 *
 * Pre-tokenizers that are one of pretok.c's scanners in other words become that scanner; any
 * other regular expression runs in PCRE2.  What changes ids and is not known here is refused by
 * its name: a tokenizer that is nearly right would spoil every prefix hit unseen. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "codec/json.h"
#include "text/rules.h"

#define TOKENS_MAX  (1u << 24)
#define MERGES_MAX  (1u << 24)
#define TREE_MAX    ((size_t)2 << 30)
#define TEXTS_MAX   ((size_t)512 << 20)
#define NESTING_MAX 4
#define ADVICE      "; use the model's GGUF file, or name no model file to route by estimates"
#define SPACE       "\xe2\x96\x81"

struct loader {
    struct tokenizer *t;
    const struct json *root, *model;
    bool byte_level;
    struct err *e;
};

static int refuse(struct loader *l, const char *part, const struct json *what)
{
    struct str name = STR("(no type)");

    (void)json_str(what, &name);
    return err_set(l->e, ERR_UNSUPPORTED, "tokenizer.json: %s \"%.*s\" is not supported" ADVICE,
                   part, STR_ARG(str_sub(name, 0, 64)));
}

static int bad(struct loader *l, const char *what)
{
    return err_set(l->e, ERR_PARSE, "tokenizer.json: %s", what);
}

static int no_memory(struct loader *l)
{
    return err_set(l->e, ERR_NOMEM, "tokenizer.json: no memory");
}

static bool is_type(const struct json *j, const char *name)
{
    struct str type;

    return json_str(json_get(j, "type"), &type) && str_eqz(type, name);
}

static bool flag(const struct json *j, const char *key, bool otherwise)
{
    (void)json_bool(json_get(j, key), &otherwise);
    return otherwise;
}

static bool is_null(const struct json *j)
{
    return j == NULL || j->type == JSON_NULL;
}

static int keep_text(struct loader *l, struct str s, struct str *out)
{
    *out = arena_str(&l->t->own, s);
    return out->p == NULL ? no_memory(l) : 0;
}

/* ---- normalizer ---- */

static int read_pattern(struct loader *l, const struct json *j, struct pattern *out)
{
    struct str s;

    if (json_str(j, &s) || json_str(json_get(j, "String"), &s))
        return keep_text(l, s, &out->literal);
    if (json_str(json_get(j, "Regex"), &s))
        return pattern_compile(out, s, l->e);
    return bad(l, "a pattern is neither String nor Regex");
}

static int read_norm_step(struct loader *l, const struct json *j, struct norm_step *s)
{
    static const struct {
        const char *name;
        enum norm_kind kind;
    } kinds[] = { { "NFC", NORM_NFC },
                  { "NFD", NORM_NFD },
                  { "NFKC", NORM_NFKC },
                  { "NFKD", NORM_NFKD },
                  { "Lowercase", NORM_LOWERCASE },
                  { "Prepend", NORM_PREPEND },
                  { "Replace", NORM_REPLACE },
                  { "Strip", NORM_STRIP },
                  { "StripAccents", NORM_STRIP_ACCENTS } };
    struct str text = STR_NONE;
    size_t i = 0;
    int rc;

    while (i < COUNT(kinds) && !is_type(j, kinds[i].name))
        i++;
    if (i == COUNT(kinds))
        return refuse(l, "normalizer", json_get(j, "type"));
    s->kind = kinds[i].kind;
    if (s->kind <= NORM_NFKD)
        return normalize_prepare(s) == 0 ? 0 : no_memory(l);
    s->left = flag(j, "strip_left", false);
    s->right = flag(j, "strip_right", false);
    if (s->kind != NORM_PREPEND && s->kind != NORM_REPLACE)
        return 0;
    if (!json_str(json_get(j, s->kind == NORM_PREPEND ? "prepend" : "content"), &text))
        return bad(l, "a normalizer has no text to put in");
    rc = keep_text(l, text, &s->text);
    return rc == 0 && s->kind == NORM_REPLACE ? read_pattern(l, json_get(j, "pattern"), &s->pattern)
                                              : rc;
}

static int read_normalizer(struct loader *l, const struct json *j, unsigned depth)
{
    struct rules *r = l->t->rules;
    int rc = 0;

    if (is_null(j))
        return 0;
    if (is_type(j, "Sequence")) {
        const struct json *list = json_get(j, "normalizers");

        if (depth == NESTING_MAX)
            return bad(l, "normalizers are nested too deeply");
        for (j = list != NULL ? list->first : NULL; j != NULL && rc == 0; j = j->next)
            rc = read_normalizer(l, j, depth + 1);
        return rc;
    }
    if (r->norm_count == RULE_STEPS_MAX)
        return bad(l, "too many normalizers");
    return read_norm_step(l, j, &r->norm[r->norm_count++]);
}

/* ---- pre-tokenizer ---- */

/* Regular expressions that pretok.c has a scanner for. */
static const struct {
    enum pretok_kind scan;
    const char *regex;
} known_regex[] = {
    { PRETOK_LLAMA3_FOLD, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
    { PRETOK_QWEN2_FOLD, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
    { PRETOK_O200K_FOLD, "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
                         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
                         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
                         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}|"
                         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
    { PRETOK_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                   "\\s+(?!\\S)|\\s+" },
};

static int read_behavior(struct loader *l, const struct json *j, enum split_behavior *out)
{
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    struct str s;

    if (!json_str(j, &s))
        return bad(l, "a pre-tokenizer has no behavior");
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eqz(s, names[i])) {
            *out = (enum split_behavior)i;
            return 0;
        }
    return refuse(l, "behavior", j);
}

static int read_split(struct loader *l, const struct json *j, struct pre_step *s)
{
    const struct json *pattern = json_get(j, "pattern");
    struct str regex;
    int rc = read_behavior(l, json_get(j, "behavior"), &s->behavior);

    s->kind = PRE_SPLIT;
    s->invert = flag(j, "invert", false);
    if (rc != 0)
        return rc;
    /* These expressions match everything, so that removing what is between changes nothing. */
    if (json_str(json_get(pattern, "Regex"), &regex) &&
        (s->behavior == SPLIT_ISOLATED || (s->behavior == SPLIT_REMOVED && s->invert)))
        for (size_t i = 0; i < COUNT(known_regex); i++)
            if (str_eqz(regex, known_regex[i].regex)) {
                s->kind = PRE_SCAN;
                s->scan = known_regex[i].scan;
                return 0;
            }
    return read_pattern(l, pattern, &s->pattern);
}

static int read_metaspace(struct loader *l, const struct json *j, struct pre_step *s)
{
    struct str mark = STR(SPACE), scheme;

    s->kind = PRE_METASPACE;
    (void)json_str(json_get(j, "replacement"), &mark);
    s->prepend = flag(j, "add_prefix_space", true) ? METASPACE_ALWAYS : METASPACE_NEVER;
    if (json_str(json_get(j, "prepend_scheme"), &scheme))
        s->prepend = str_eqz(scheme, "never")   ? METASPACE_NEVER
                     : str_eqz(scheme, "first") ? METASPACE_FIRST
                                                : METASPACE_ALWAYS;
    s->split = flag(j, "split", true);
    if (mark.n == 0)
        return bad(l, "Metaspace replaces spaces by nothing");
    return keep_text(l, mark, &s->mark);
}

static struct pre_step *next_step(struct loader *l)
{
    struct rules *r = l->t->rules;

    return r->pre_count < RULE_STEPS_MAX ? &r->pre[r->pre_count++] : NULL;
}

static int read_byte_level(struct loader *l, const struct json *j)
{
    bool prefix = flag(j, "add_prefix_space", true), regex = flag(j, "use_regex", true);
    struct pre_step *s;

    l->byte_level = true;
    if (prefix) {
        if ((s = next_step(l)) == NULL)
            return bad(l, "too many pre-tokenizers");
        s->kind = PRE_PREFIX_SPACE;
    }
    if (regex) {
        if ((s = next_step(l)) == NULL)
            return bad(l, "too many pre-tokenizers");
        *s = (struct pre_step) { .kind = PRE_SCAN, .scan = PRETOK_GPT2 };
    }
    return 0;
}

static int read_pre_step(struct loader *l, const struct json *j)
{
    struct pre_step *s;

    if (l->byte_level) /* it has made bytes of the text: what follows would see its alphabet */
        return refuse(l, "a pre-tokenizer after ByteLevel,", json_get(j, "type"));
    if (is_type(j, "ByteLevel"))
        return read_byte_level(l, j);
    if ((s = next_step(l)) == NULL)
        return bad(l, "too many pre-tokenizers");
    if (is_type(j, "Split"))
        return read_split(l, j, s);
    if (is_type(j, "Metaspace"))
        return read_metaspace(l, j, s);
    if (is_type(j, "Digits")) {
        s->kind = PRE_DIGITS;
        s->behavior = flag(j, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return 0;
    }
    if (is_type(j, "Punctuation")) {
        s->kind = PRE_PUNCTUATION;
        s->behavior = SPLIT_ISOLATED;
        return is_null(json_get(j, "behavior"))
                   ? 0
                   : read_behavior(l, json_get(j, "behavior"), &s->behavior);
    }
    if (is_type(j, "WhitespaceSplit")) {
        s->kind = PRE_SPACES;
        s->behavior = SPLIT_REMOVED;
        return 0;
    }
    return refuse(l, "pre-tokenizer", json_get(j, "type"));
}

static int read_pre_tokenizer(struct loader *l, const struct json *j, unsigned depth)
{
    int rc = 0;

    if (is_null(j))
        return 0;
    if (!is_type(j, "Sequence"))
        return read_pre_step(l, j);
    if (depth == NESTING_MAX)
        return bad(l, "pre-tokenizers are nested too deeply");
    j = json_get(j, "pretokenizers");
    for (j = j != NULL ? j->first : NULL; j != NULL && rc == 0; j = j->next)
        rc = read_pre_tokenizer(l, j, depth + 1);
    return rc;
}

/* Digits one by one and then GPT-2's cuts are a scanner of their own. */
static void join_steps(struct rules *r)
{
    struct pre_step *a = &r->pre[0], *b = &r->pre[1];

    if (r->pre_count == 2 && a->kind == PRE_DIGITS && a->behavior == SPLIT_ISOLATED &&
        b->kind == PRE_SCAN && b->scan == PRETOK_GPT2) {
        *a = (struct pre_step) { .kind = PRE_SCAN, .scan = PRETOK_SMOLLM };
        r->pre_count = 1;
    }
}

/* ---- vocabulary ---- */

/* The number of ids: one more than the largest, of the vocabulary or added. */
static int count_ids(struct loader *l, const struct json *vocab, const struct json *added)
{
    uint64_t id, max = 0, entries = (uint64_t)vocab->count + (added != NULL ? added->count : 0);

    for (const struct json *j = vocab->first; j != NULL; j = j->next) {
        if (!json_u64(j, &id))
            return bad(l, "an id of model.vocab is not a number");
        max = MAX(max, id);
    }
    for (const struct json *j = added != NULL ? added->first : NULL; j != NULL; j = j->next) {
        if (!json_u64(json_get(j, "id"), &id))
            return bad(l, "an added token has no id");
        max = MAX(max, id);
    }
    if (entries == 0)
        return bad(l, "model.vocab is empty");
    if (max >= TOKENS_MAX || max >= entries * 4 + 65536)
        return err_set(l->e, ERR_LIMIT, "tokenizer.json: ids reach %llu with only %llu tokens",
                       (unsigned long long)max, (unsigned long long)entries);
    l->t->count = (uint32_t)max + 1;
    return 0;
}

static int copy_texts(struct loader *l, const struct json *vocab, struct str *text)
{
    uint64_t id;
    int rc = 0;

    for (const struct json *j = vocab->first; j != NULL && rc == 0; j = j->next) {
        if (!json_u64(j, &id))
            return bad(l, "an id of model.vocab is not a number");
        if (text[id].p != NULL)
            return err_set(l->e, ERR_PARSE, "tokenizer.json: two tokens have the id %llu",
                           (unsigned long long)id);
        rc = keep_text(l, j->key, &text[id]);
        l->t->attr[id] = TOK_NORMAL;
    }
    return rc;
}

/* What merges and look-ups see.  Texts outside the alphabet can only be added tokens. */
static int index_text(struct tokenizer *t, uint32_t id, uint8_t *tmp)
{
    struct str s = t->text[id];
    size_t n = 0;

    if (s.n == 0)
        return vocab_add(&t->vocab, STR_NONE, true);
    if (t->kind != TOK_KIND_BPE)
        return vocab_add(&t->vocab, s, false);
    if (alphabet_decode(s, tmp, &n))
        return vocab_add(&t->vocab, (struct str) { (const char *)tmp, n }, n == 0);
    if (!map_puts(&t->odd, s, id))
        return ERR_NOMEM;
    return vocab_add(&t->vocab, STR_NONE, true);
}

static void learn_characters(struct tokenizer *t)
{
    static const char hex[] = "0123456789ABCDEF";

    for (uint32_t id = 0; id < t->count; id++)
        for (size_t at = 1; at + 3 <= t->text[id].n; at++)
            if (memcmp(t->text[id].p + at, SPACE, 3) == 0)
                t->glued[(uint8_t)t->text[id].p[at - 1]] = true;
    for (uint32_t b = 0; b < 128; b++)
        t->ascii_id[b] = vocab_find(&t->vocab, &(uint8_t) { (uint8_t)b }, 1);
    for (uint32_t b = 0; b < 256; b++) {
        uint8_t name[6] = { '<', '0', 'x', (uint8_t)hex[b >> 4], (uint8_t)hex[b & 15], '>' };

        t->byte_id[b] = vocab_find(&t->vocab, name, sizeof(name));
        if (t->byte_fallback && t->byte_id[b] < t->count)
            t->attr[t->byte_id[b]] = TOK_BYTE;
    }
}

static int load_vocab(struct loader *l)
{
    const struct json *vocab = json_get(l->model, "vocab"),
                      *added = json_get(l->root, "added_tokens");
    struct tokenizer *t = l->t;
    struct str *text, unk;
    size_t longest = 0;
    uint8_t *tmp;
    int rc;

    if (!json_is(vocab, JSON_OBJECT))
        return bad(l, "model.vocab is missing");
    rc = count_ids(l, vocab, added);
    if (rc != 0)
        return rc;
    text = arena_try_zero(&t->own, t->count, sizeof(*text));
    t->attr = mem_try_zero(t->count, 1);
    t->whole = mem_try_zero(t->count, sizeof(*t->whole));
    t->rules->added = mem_try_zero(t->count, 1);
    if (text == NULL || t->attr == NULL || t->whole == NULL || t->rules->added == NULL)
        return no_memory(l);
    t->text = text;
    rc = copy_texts(l, vocab, text);
    if (rc != 0)
        return rc;
    for (uint32_t id = 0; id < t->count; id++)
        longest = MAX(longest, text[id].n);
    tmp = mem_try(longest + 1);
    rc = tmp == NULL ? ERR_NOMEM : vocab_init(&t->vocab, t->count);
    for (uint32_t id = 0; id < t->count && rc == 0; id++)
        rc = index_text(t, id, tmp);
    mem_free(tmp);
    if (rc != 0)
        return no_memory(l);
    if (json_str(json_get(l->model, "unk_token"), &unk))
        t->unk = tokenizer_find(t, unk);
    if (t->kind == TOK_KIND_CHAR)
        learn_characters(t);
    else if (bpe_byte_ids(t) != 0)
        return no_memory(l);
    return 0;
}

/* ---- merges ---- */

struct merge_text {
    struct str left, right;
};

static bool read_merge(const struct json *j, struct merge_text *m)
{
    struct str s;
    size_t cut;

    if (json_is(j, JSON_ARRAY))
        return j->count == 2 && json_str(j->first, &m->left) && json_str(j->first->next, &m->right);
    if (!json_str(j, &s))
        return false;
    cut = str_chr(s, ' ');
    if (cut == SIZE_MAX)
        return false;
    m->left = str_sub(s, 0, cut);
    m->right = str_sub(s, cut + 1, s.n);
    return str_chr(m->right, ' ') == SIZE_MAX;
}

/* The three ids of a merge; false when one is no token. */
static bool find_merge(struct tokenizer *t, const struct merge_text *m, uint8_t *tmp,
                       uint32_t id[3])
{
    size_t nl = m->left.n, nr = m->right.n;

    if (t->kind != TOK_KIND_BPE) {
        memcpy(tmp, m->left.p, nl);
        memcpy(tmp + nl, m->right.p, nr);
    } else if (!alphabet_decode(m->left, tmp, &nl) || !alphabet_decode(m->right, tmp + nl, &nr)) {
        return false;
    }
    if (nl == 0 || nr == 0)
        return false;
    id[0] = vocab_find(&t->vocab, tmp, nl);
    id[1] = vocab_find(&t->vocab, tmp + nl, nr);
    id[2] = vocab_find(&t->vocab, tmp, nl + nr);
    return id[0] < t->count && id[1] < t->count && id[2] < t->count;
}

static int load_merges(struct loader *l)
{
    const struct json *merges = json_get(l->model, "merges");
    struct merge_text m;
    size_t longest = 0;
    uint32_t rank = 0, id[3];
    uint8_t *tmp;

    if (!json_is(merges, JSON_ARRAY) || merges->count > MERGES_MAX)
        return bad(l, "model.merges is missing or too long");
    for (const struct json *j = merges->first; j != NULL; j = j->next) {
        if (!read_merge(j, &m) || m.left.n == 0 || m.right.n == 0)
            return err_set(l->e, ERR_PARSE,
                           "tokenizer.json: entry %u of model.merges is no pair of texts", rank);
        longest = MAX(longest, m.left.n + m.right.n);
        rank++;
    }
    tmp = mem_try(longest + 1);
    if (tmp == NULL || bpe_pairs(l->t, merges->count) != 0) {
        mem_free(tmp);
        return no_memory(l);
    }
    rank = 0;
    for (const struct json *j = merges->first; j != NULL; j = j->next, rank++) {
        if (!read_merge(j, &m) || !find_merge(l->t, &m, tmp, id)) {
            mem_free(tmp);
            return err_set(l->e, ERR_PARSE,
                           "tokenizer.json: entry %u of model.merges joins texts that are not in "
                           "model.vocab",
                           rank);
        }
        bpe_pair_set(l->t, id[0], id[1], rank, id[2]);
    }
    mem_free(tmp);
    return 0;
}

static int load_model(struct loader *l)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    struct tokenizer *t = l->t;
    struct str s;
    int rc;

    if (!json_is(l->model, JSON_OBJECT))
        return bad(l, "there is no model");
    /* files from before the type was written have merges all the same */
    if (!is_type(l->model, "BPE") &&
        !(is_null(json_get(l->model, "type")) && json_get(l->model, "merges") != NULL))
        return refuse(l, "model", json_get(l->model, "type"));
    for (size_t i = 0; i < COUNT(affixes); i++)
        if (json_str(json_get(l->model, affixes[i]), &s) && s.n > 0)
            return refuse(l, affixes[i], json_get(l->model, affixes[i]));
    t->kind = l->byte_level ? TOK_KIND_BPE : TOK_KIND_CHAR;
    t->ignore_merges = flag(l->model, "ignore_merges", false);
    t->byte_fallback = flag(l->model, "byte_fallback", false);
    t->fuse_unk = flag(l->model, "fuse_unk", false);
    rc = load_vocab(l);
    return rc == 0 ? load_merges(l) : rc;
}

/* ---- added tokens ---- */

static int read_added(struct loader *l, const struct json *j)
{
    struct tokenizer *t = l->t;
    struct str content, *text = (struct str *)(uintptr_t)t->text;
    uint64_t at;
    uint32_t id;
    int rc;

    if (!json_str(json_get(j, "content"), &content) || !json_u64(json_get(j, "id"), &at) ||
        at >= t->count)
        return bad(l, "an added token has no content or id");
    if (content.n == 0)
        return 0;
    id = tokenizer_find(t, content); /* the vocabulary's id comes before the one written here */
    if (id == TOK_NONE) {
        id = (uint32_t)at;
        if (text[id].p != NULL)
            return err_set(l->e, ERR_PARSE,
                           "tokenizer.json: added token \"%.*s\" has the id of another token",
                           STR_ARG(str_sub(content, 0, 64)));
        rc = keep_text(l, content, &text[id]);
        if (rc != 0)
            return rc;
        if (!map_puts(&t->odd, text[id], id))
            return no_memory(l);
    }
    t->attr[id] = flag(j, "special", false) ? TOK_CONTROL : TOK_USER;
    t->rules->added[id] = (uint8_t)((flag(j, "lstrip", false) ? ADDED_LSTRIP : 0) |
                                    (flag(j, "rstrip", false) ? ADDED_RSTRIP : 0) |
                                    (flag(j, "single_word", false) ? ADDED_SINGLE_WORD : 0));
    t->rules->has_single_word |= flag(j, "single_word", false);
    return 0;
}

/* The text of a token that is looked for after normalizing is normalized too. */
static int added_text(struct loader *l, struct str content, struct str *out)
{
    struct pattern_run run = { 0 };
    struct buf tmp[2];
    int rc;

    buf_init(&tmp[0], RULE_LITERAL_MAX);
    buf_init(&tmp[1], RULE_LITERAL_MAX);
    rc = normalize(l->t->rules, content, &run, tmp, out);
    rc = rc == 0 ? keep_text(l, *out, out) : no_memory(l);
    buf_fini(&tmp[0]);
    buf_fini(&tmp[1]);
    pattern_run_fini(&run);
    return rc;
}

static int build_sets(struct loader *l, const struct json *added, struct special_text *raw,
                      struct special_text *normalized)
{
    size_t raw_count = 0, normalized_count = 0;
    struct tokenizer *t = l->t;
    int rc = 0;

    for (const struct json *j = added->first; j != NULL && rc == 0; j = j->next) {
        struct special_text s = { 0 };

        (void)json_str(json_get(j, "content"), &s.text);
        s.id = tokenizer_find(t, s.text);
        if (s.id == TOK_NONE)
            continue;
        s.user = t->attr[s.id] == TOK_USER;
        if (!flag(j, "normalized", !flag(j, "special", false)) || t->rules->norm_count == 0) {
            raw[raw_count++] = s;
            continue;
        }
        rc = added_text(l, s.text, &s.text);
        if (rc == 0 && s.text.n > 0)
            normalized[normalized_count++] = s;
    }
    if (rc == 0 && (special_build_from(&t->rules->raw, raw, raw_count) != 0 ||
                    special_build_from(&t->rules->normalized, normalized, normalized_count) != 0))
        rc = no_memory(l);
    return rc;
}

static int load_added(struct loader *l)
{
    const struct json *added = json_get(l->root, "added_tokens");
    struct special_text *list;
    int rc = 0;

    if (is_null(added))
        return 0;
    if (!json_is(added, JSON_ARRAY))
        return bad(l, "added_tokens is not a list");
    for (const struct json *j = added->first; j != NULL && rc == 0; j = j->next)
        rc = read_added(l, j);
    if (rc != 0)
        return rc;
    list = mem_try_zero((size_t)added->count * 2 + 1, sizeof(*list));
    if (list == NULL)
        return no_memory(l);
    rc = build_sets(l, added, list, list + added->count);
    mem_free(list);
    return rc;
}

/* ---- what is put around a text ---- */

static int read_template(struct loader *l, const struct json *j)
{
    const struct json *special = json_get(j, "special_tokens"), *single = json_get(j, "single");
    struct rules *r = l->t->rules;
    bool after = false;

    if (!json_is(single, JSON_ARRAY))
        return bad(l, "TemplateProcessing has no \"single\"");
    for (const struct json *k = single->first; k != NULL; k = k->next) {
        const struct json *entry = json_get(special, "");
        struct str name;

        if (json_get(k, "Sequence") != NULL) {
            after = true;
            continue;
        }
        if (!json_str(json_get(json_get(k, "SpecialToken"), "id"), &name))
            return bad(l, "TemplateProcessing has an entry that is neither text nor token");
        for (entry = special != NULL ? special->first : NULL; entry != NULL; entry = entry->next)
            if (str_eq(entry->key, name))
                break;
        entry = json_get(entry, "ids");
        for (entry = entry != NULL ? entry->first : NULL; entry != NULL; entry = entry->next) {
            unsigned *count = after ? &r->tail_count : &r->head_count;
            uint64_t id;

            if (!json_u64(entry, &id) || id >= l->t->count || *count == RULE_FRAME_MAX)
                return bad(l, "TemplateProcessing names an id that does not exist, or too many");
            (after ? r->tail : r->head)[(*count)++] = (uint32_t)id;
        }
    }
    return 0;
}

static int read_post_processor(struct loader *l, const struct json *j, unsigned depth)
{
    int rc = 0;

    if (is_null(j) || is_type(j, "ByteLevel")) /* the latter only moves offsets */
        return 0;
    if (is_type(j, "TemplateProcessing"))
        return read_template(l, j);
    if (!is_type(j, "Sequence"))
        return refuse(l, "post-processor", json_get(j, "type"));
    if (depth == NESTING_MAX)
        return bad(l, "post-processors are nested too deeply");
    j = json_get(j, "processors");
    for (j = j != NULL ? j->first : NULL; j != NULL && rc == 0; j = j->next)
        rc = read_post_processor(l, j, depth + 1);
    return rc;
}

static uint32_t find_first(const struct tokenizer *t, const char *const *names, size_t count)
{
    uint32_t id = TOK_NONE;

    for (size_t i = 0; i < count && id == TOK_NONE; i++)
        id = tokenizer_find(t, str_of(names[i]));
    return id;
}

static void load_ends(struct loader *l, const struct tokenizer_json_opts *o)
{
    static const char *const bos[] = { "<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>",
                                       "<｜begin▁of▁sentence｜>" };
    static const char *const eos[] = { "<|im_end|>",      "<|eot_id|>",
                                       "<|end_of_text|>", "<|return|>",
                                       "<eos>",           "</s>",
                                       "<|endoftext|>",   "<｜end▁of▁sentence｜>" };
    struct tokenizer *t = l->t;
    struct rules *r = t->rules;

    t->bos = o->bos.n > 0         ? tokenizer_find(t, o->bos)
             : o->is_configured   ? TOK_NONE
             : r->head_count == 1 ? r->head[0]
                                  : find_first(t, bos, COUNT(bos));
    t->eos = o->eos.n > 0         ? tokenizer_find(t, o->eos)
             : o->is_configured   ? TOK_NONE
             : r->tail_count == 1 ? r->tail[0]
                                  : find_first(t, eos, COUNT(eos));
    if (o->replace_frame) { /* the configuration replaces the file's own post-processor */
        r->head_count = r->tail_count = 0;
        if (o->add_bos && t->bos != TOK_NONE)
            r->head[r->head_count++] = t->bos;
        if (o->add_eos && t->eos != TOK_NONE)
            r->tail[r->tail_count++] = t->eos;
    }
    t->add_bos = r->head_count > 0 && r->head[0] == t->bos;
    t->add_eos = r->tail_count > 0 && r->tail[r->tail_count - 1] == t->eos;
    tokenizer_mark_ends(t);
}

/* ---- the whole ---- */

static int load(struct loader *l, const struct tokenizer_json_opts *o)
{
    struct tokenizer *t = l->t;
    int rc;

    l->model = json_get(l->root, "model");
    rc = read_normalizer(l, json_get(l->root, "normalizer"), 0);
    if (rc == 0)
        rc = read_pre_tokenizer(l, json_get(l->root, "pre_tokenizer"), 0);
    if (rc != 0)
        return rc;
    join_steps(t->rules);
    rc = load_model(l);
    if (rc == 0)
        rc = load_added(l);
    if (rc == 0)
        rc = read_post_processor(l, json_get(l->root, "post_processor"), 0);
    if (rc == 0)
        load_ends(l, o);
    return rc;
}

int tokenizer_new_json(struct tokenizer **out, struct str json,
                       const struct tokenizer_json_opts *opts, struct err *e)
{
    static const struct tokenizer_json_opts none = { 0 };
    struct json_limits limits = { .values_max = TOKENS_MAX, .members_max = TOKENS_MAX };
    struct loader l = { .e = e };
    struct arena tree;
    int rc;

    *out = NULL;
    l.t = mem_zalloc(sizeof(*l.t));
    l.t->rules = mem_zalloc(sizeof(*l.t->rules));
    l.t->bos = l.t->eos = l.t->unk = TOK_NONE;
    arena_init(&l.t->own, TEXTS_MAX);
    arena_init(&tree, TREE_MAX);
    rc = json_parse(&tree, json, &limits, &l.root, e);
    if (rc == 0)
        rc = json_is(l.root, JSON_OBJECT) ? load(&l, opts != NULL ? opts : &none)
                                          : bad(&l, "not an object");
    arena_fini(&tree);
    if (rc != 0) {
        tokenizer_free(l.t);
        return rc;
    }
    *out = l.t;
    return 0;
}
